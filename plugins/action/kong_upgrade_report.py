# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes the report on the controller, in this process: three files and not one module run."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.bluegreen.kong.plugins.plugin_utils.survey import plain

ARGUMENTS = {
    "dest": {"type": "path", "required": True},
    "name": {"type": "str", "default": "report"},
    "report": {"type": "dict", "required": True},
    "html": {"type": "str", "required": True},
    "markdown": {"type": "str", "required": True},
}


class ActionModule(ActionBase):
    """Documented in plugins/modules/kong_upgrade_report.py."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(ARGUMENTS)
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Writes the files and returns their paths. They are written in check mode too: they say what was predicted."""
        result = super().run(tmp, task_vars)
        given = self.validate_argument_spec(ARGUMENTS)[1]
        folder, name = pathlib.Path(given["dest"]).absolute(), given["name"]
        texts = {
            name + ".json": json.dumps(plain(given["report"]), indent=2, sort_keys=True, default=str) + "\n",
            name + ".html": given["html"],
            name + ".md": given["markdown"],
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                replace(folder / name, text)
        except OSError as error:
            raise AnsibleActionFail(
                "the report cannot be written to %s: %s; set kong_upgrade_report_dir" % (folder, error.strerror)
            ) from error
        # A report about no change is no change.
        return {**result, "changed": False, "files": [str(folder / name) for name in sorted(texts)]}


def replace(path, text):
    """Writes a file in one step, readable by all who may read the folder."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
