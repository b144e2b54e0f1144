# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What strategy downtime_window asks for besides: both versions cannot use one keyspace, so for a moment nobody uses it. Pure.

Everything up to `up` is done while blue serves. The window is one phase, and the point of no return is in its middle.
The survey is that of plan.py, Findings those of findings.py.
"""

from __future__ import annotations

PHASES = ("stage", "backup", "expand", "window", "rollback")


def options_of(options, found):
    """The options, in which the entry point of phase finish means the window; blockers for phases that there are not."""
    phases = ["window" if phase == "finish" else phase for phase in options["phases"]]
    for phase in phases:
        if phase not in PHASES:
            found.block(
                "phase %s" % phase,
                "is none of strategy downtime_window",
                "playbooks/upgrade.yml does what can be done before the window, playbooks/finish.yml takes it",
            )
    return dict(options, phases=[phase for phase in phases if phase in PHASES])


def check(survey, kind, found):
    """What has to be said before: where it is allowed, and how long it may take."""
    options = survey["options"]
    if kind != "cassandra":
        found.block(
            "kong_upgrade_strategy",
            "is downtime_window, in which requests are lost, and on PostgreSQL none need be",
            "set kong_upgrade_strategy: blue_green",
        )
    if "rollback" not in options["phases"] and options["window_limit"] < 1:
        found.block(
            "kong_upgrade_window_limit",
            "is not set to a number of seconds above 0",
            "say for how many seconds at most nobody may be answered: a window that has used up half of them before finish is rolled back",
        )
