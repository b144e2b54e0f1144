# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong_config_dump as a task sees it; what the command does is in module_utils/test_dump.py."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import fake_module
from ansible_collections.bluegreen.kong.plugins.modules import kong_config_dump


def kong(tmp_path, text="_format_version: '1.1'\nservices:\n- name: one\n"):
    executable = tmp_path / "kong"
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)

    def run_command(argv, environ_update=None):
        if argv[2] == "db_export" and text is not None:
            pathlib.Path(argv[3]).write_text(text, encoding="utf-8")
        return 0, "", ""

    (tmp_path / "kong.conf").write_text("")
    params = {"executable": str(executable), "conf": str(tmp_path / "kong.conf"), "dest": str(tmp_path / "x.yml")}
    return params, run_command


def test_made_then_kept(tmp_path, monkeypatch):
    params, run_command = kong(tmp_path)
    made = fake_module.run(kong_config_dump, monkeypatch, params, run_command)
    assert not made.failed and made.result["changed"] and made.result["counts"] == {"services": 1}
    assert len(made.result["warnings"]) == 1
    kept = fake_module.run(kong_config_dump, monkeypatch, params, run_command)
    assert not kept.failed and kept.result["changed"] is False


def test_check_mode_makes_nothing(tmp_path, monkeypatch):
    params, run_command = kong(tmp_path)
    end = fake_module.run(kong_config_dump, monkeypatch, params, run_command, check_mode=True)
    assert not end.failed and end.result["changed"] and not os.path.exists(params["dest"])


def test_nothing_written_is_a_failure(tmp_path, monkeypatch):
    params, run_command = kong(tmp_path, text=None)
    end = fake_module.run(kong_config_dump, monkeypatch, params, run_command)
    assert end.failed and "wrote no file" in end.result["msg"] and not os.path.exists(params["dest"])
