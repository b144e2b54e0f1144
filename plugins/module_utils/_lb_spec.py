# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of all load balancers take alike."""

#: The part of a module's argument_spec that a Job works through.
SPEC = {
    "servers": {
        "type": "list", "elements": "dict", "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "backend": {"type": "str"},
            "weight": {"type": "int"},
            "state": {"type": "str", "choices": ["ready", "drain", "maint"]},
        },
    },
    "wait": {
        "type": "dict",
        "options": {
            "up": {"type": "list", "elements": "str", "default": []},
            "sessions_zero": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 60},
            "on_timeout": {"type": "str", "choices": ["fail", "cut"], "default": "fail"},
        },
    },
    "observe": {"type": "float", "default": 0},
    "observe_stop": {
        "type": "dict",
        "options": {
            "watch": {"type": "list", "elements": "str", "required": True},
            "against": {"type": "list", "elements": "str", "default": []},
            "budget": {"type": "float", "default": 0},
            "minimum": {"type": "int", "default": 20},
        },
    },
}
