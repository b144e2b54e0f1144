# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong_template_diff as a task sees it; what it does is in module_utils/test_template_diff.py."""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import fake_module
import pytest
from ansible_collections.bluegreen.kong.plugins.modules import kong_template_diff


def run_command(argv, cwd=None, environ_update=None):
    done = subprocess.run(
        argv, cwd=cwd, env=dict(os.environ, **(environ_update or {})), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def run(tmp_path, monkeypatch, **more):
    for side, text in (("old", "a;\n"), ("new", "b;\n")):
        (tmp_path / side).mkdir(exist_ok=True)
        (tmp_path / side / "nginx_kong.lua").write_text(text)
    options = {key: more.pop(key) for key in ("check_mode", "diff") if key in more}
    params = {"source": str(tmp_path / "old"), "target": str(tmp_path / "new"), **more}
    return fake_module.run(kong_template_diff, monkeypatch, params, run_command, **options)


def test_looking_changes_nothing(tmp_path, monkeypatch):
    end = run(tmp_path, monkeypatch)
    assert not end.failed and end.result["changed"] is False and "diff" not in end.result
    (entry,) = end.result["files"]
    assert (entry["name"], entry["added"], entry["removed"]) == ("nginx_kong.lua", 1, 1)
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_patch(tmp_path, monkeypatch, check_mode):
    patch = tmp_path / "a.patch"
    end = run(tmp_path, monkeypatch, patch=str(patch), check_mode=check_mode, diff=True)
    assert not end.failed and end.result["changed"] and patch.exists() != check_mode
    (diff,) = end.result["diff"]
    assert diff["after"].endswith("-a;\n+b;\n") and diff["after_header"] == str(patch)


def test_an_error_ends_the_task(tmp_path, monkeypatch):
    end = run(tmp_path, monkeypatch, custom=str(tmp_path / "none"))
    assert end.failed and "none cannot be read" in end.result["msg"]
