# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two modules end as modules do: what they hand to exit_json and fail_json, and what they keep to themselves."""

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _errors
from ansible_collections.bluegreen.kong.plugins.modules import kong_node, kong_version_facts


class Ended(Exception):
    """exit_json or fail_json was called."""


class Module:
    """Stands for AnsibleModule."""

    check_mode = False
    given = {}

    def __init__(self, argument_spec, supports_check_mode):
        assert supports_check_mode
        self.params = {name: spec.get("default") for name, spec in argument_spec.items()}
        self.params.update(self.given)
        self.no_log_values, self.warnings, self.ended = set(), [], None
        self.spec = argument_spec
        type(self).last = self

    def run_command(self, argv, **more):
        return 1, "", "refused"

    def warn(self, text):
        self.warnings.append(text)

    def exit_json(self, **result):
        self.ended = ("exit", result)
        raise Ended

    def fail_json(self, **result):
        self.ended = ("fail", result)
        raise Ended


def call(monkeypatch, module, **given):
    monkeypatch.setattr(module, "AnsibleModule", Module)
    monkeypatch.setattr(Module, "given", given)
    with pytest.raises(Ended):
        module.main()
    return Module.last


def test_facts_of_an_empty_host(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = call(monkeypatch, kong_version_facts, prefix=str(tmp_path), conf=str(tmp_path / "kong.conf")).ended
    assert ended[0] == "exit" and ended[1]["changed"] is False
    facts = ended[1]["ansible_facts"]["kong_gateway"]
    assert facts["running"] is False and len(facts["errors"]) == 2


def test_node_fails_with_what_it_did(monkeypatch, tmp_path):
    module = call(monkeypatch, kong_node, prefix=str(tmp_path), executable="/bin/true", settings={"pg_password": "s3cret", "a": 1})
    kind, result = module.ended
    assert kind == "fail" and "/bin/true does not tell its version" in result["msg"]
    assert result["actions"] == [] and result["changed"] is False and "warnings" not in result
    assert module.no_log_values == {"s3cret"}, "a secret among the plain settings is one too"


def test_node_warns(monkeypatch, tmp_path):
    monkeypatch.setattr(kong_node.NodeState, "ensure", lambda self: {"changed": True, "warnings": ["look"]})
    module = call(monkeypatch, kong_node, prefix=str(tmp_path), executable="/bin/true")
    assert module.ended == ("exit", {"changed": True}) and module.warnings == ["look"]

    def fail(self):
        raise _errors.KongError("no", warnings=["why"], rc=3)

    monkeypatch.setattr(kong_node.NodeState, "ensure", fail)
    module = call(monkeypatch, kong_node, prefix=str(tmp_path), executable="/bin/true")
    assert module.ended == ("fail", {"msg": "no", "rc": 3}) and module.warnings == ["why"]


def test_secrets_are_not_logged(monkeypatch, tmp_path):
    module = call(monkeypatch, kong_node, prefix=str(tmp_path), executable="/bin/true")
    assert module.spec["secret_settings"]["no_log"] and module.spec["probe"]["options"]["headers"]["no_log"]
