# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tasks of the role kong_awx against the argument specs of the modules that they call."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

pytest.importorskip("ansible_collections.awx.awx", reason="no awx.awx beside this ansible-core")
ROOT = pathlib.Path(__file__).resolve().parents[2]
TASKS = yaml.safe_load((ROOT / "roles" / "kong_awx" / "tasks" / "main.yml").read_text())
CALLS = [task for task in TASKS if any(key.startswith("awx.awx.") for key in task)]


class Stop(Exception):
    """Carries what a module hands to the class that it is made of."""


def spec_of(module, monkeypatch):
    """(argument_spec, mutually_exclusive, required_if) of a module of awx.awx."""
    code = importlib.import_module("ansible_collections.awx.awx.plugins.modules.%s" % module)

    def stop(argument_spec, mutually_exclusive=(), required_if=(), **_):
        raise Stop(argument_spec, mutually_exclusive, required_if)

    monkeypatch.setattr(code, "ControllerAPIModule", stop)
    with pytest.raises(Stop) as stopped:
        code.main()
    return stopped.value.args


@pytest.mark.parametrize("task", CALLS, ids=lambda task: task["name"])
def test_a_task_fits_its_module(task, monkeypatch):
    (module,) = [key for key in task if key.startswith("awx.awx.")]
    spec, exclusive, required_if = spec_of(module.rpartition(".")[2], monkeypatch)
    given = task[module]
    assert set(given) <= set(spec)
    # A template may be anything: only what is written out is looked at.
    readable = {key: {"type": "raw"} if "{{" in str(given.get(key)) else option for key, option in spec.items()}
    omitted = {key for key, value in given.items() if "omit" in str(value)}
    assert ArgumentSpecValidator(readable, required_if=list(required_if)).validate(dict(given)).error_messages == []
    for group in exclusive:
        assert len(set(group) & set(given) - omitted) <= 1


def test_a_variable_that_is_misspelt_is_refused():
    """Before anything is asked of AWX, whose address nobody listens at."""
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "playbooks/awx_configure.yml",
         "-e", "kong_awx_nam=x"],
        cwd=ROOT, env={**os.environ, "CONTROLLER_HOST": "http://127.0.0.1:9"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "kong_awx_nam: no such variable" in done.stdout, done.stdout
