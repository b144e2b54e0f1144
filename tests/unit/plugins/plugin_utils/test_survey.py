# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible.errors import AnsibleUndefinedVariable
from ansible_collections.bluegreen.kong.plugins.plugin_utils import survey
from jinja2.exceptions import UndefinedError


@pytest.mark.parametrize(
    "variables, found",
    [
        ({"a": {"kong_upgrade_soak": 3}, "b": {"kong_upgrade_soak": 3}}, {}),
        ({"a": {}, "b": {"kong_upgrade_until": "finish"}}, {"kong_upgrade_until": ["b"]}),
        ({"a": {"kong_upgrade_soak": 3}, "b": {"kong_upgrade_soak": 4}, "c": {}}, {"kong_upgrade_soak": ["b", "c"]}),
        ({"a": {}, "b": {"kong_upgrade_install": "package", "other": 1}}, {}),
    ],
)
def test_what_speaks_of_the_whole_run_is_the_same_everywhere(variables, found):
    assert survey.uneven(variables) == found


@pytest.mark.parametrize(
    "value, problems",
    [
        (0, []),
        ("-3", ["kong_upgrade_soak: is -3, and must not be negative"]),
        ("x", 1),
    ],
)
def test_no_time_is_negative(value, problems):
    found = survey.invalid_variables({"kong_upgrade_soak": value})
    assert found == problems or len(found) == problems


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"kong_upgrade_hops": [{"target_version": "2.8.5", "green_group": "new", "soak": -3}]}, "kong_upgrade_hops, soak: is -3"),
        ({"kong_upgrade_hops": [{"green_group": "new", "batchs": ["a"]}]}, "kong_upgrade_hops.batchs: no such part; did you mean batches?"),
        ({"kong_upgrade_commands": {"setweight": "a", "counter": "b"}}, "no such part; did you mean counters and set_weight?"),
        ({"kong_upgrade_commands": {"setweight": "a", "other": "b"}}, "no such part; there are apply, counters, drain"),
        # read in the middle of a run only
        ({"kong_upgrade_probe": [{"path": "/", "headres": {"apikey": "s3cret"}}]}, "headres"),
        ({"kong_upgrade_probe": [{"path": "/", "expect": ["ok"]}]}, "kong_upgrade_probe"),
        ({"kong_upgrade_known_sessions": [{"application": "*"}]}, "application"),
    ],
)  # fmt: skip
def test_what_is_wrong_inside_of_a_variable_is_told_before_the_first_change(variables, words):
    (problem,) = survey.invalid_variables(variables)
    assert words in problem and "s3cret" not in problem


def test_secrets_are_marked_in_the_specification():
    names = {name for name, spec in survey.option_specs().items() if survey.holds_secret(spec)}
    assert names == {
        "kong_upgrade_secret_settings", "kong_upgrade_vault_password", "kong_upgrade_database_admin_password", "kong_upgrade_probe",
    }  # fmt: skip


def test_a_file_of_tasks_is_looked_for_where_its_place_is_known(tmp_path):
    (tmp_path / "install.yml").write_text("[]")
    assert [survey.is_there(path) for path in (None, "", "tasks/install.yml", str(tmp_path / "install.yml"))] == [True] * 4
    assert not survey.is_there(str(tmp_path / "instal.yml"))


@pytest.mark.parametrize("given, missing", [("f5", "f5"), ("command", None), (None, None)])
def test_drivers_that_there_are(given, missing):
    assert survey.no_driver(given) == missing


def test_variables_of_a_host_are_variables():
    assert set(survey.option_specs()) >= survey.OF_A_HOST


def test_a_mistyped_variable_is_told_with_the_one_that_was_meant():
    (problem,) = survey.invalid_variables({"kong_upgrade_sock": 3, "other": 1})
    assert problem == "kong_upgrade_sock: no such variable; did you mean kong_upgrade_soak?"
    assert survey.invalid_variables({"kong_upgrade_qwertz": 3}) == ["kong_upgrade_qwertz: no such variable"]


@pytest.mark.parametrize("error", [AnsibleUndefinedVariable, UndefinedError])  # of ansible-core before and since 2.19
def test_a_variable_that_uses_an_undefined_one_is_a_problem_like_others(error):
    class Lazy(dict):
        def __getitem__(self, key):
            if key == "kong_upgrade_secret_settings":
                raise error("'vault_pg_password' is undefined")
            return super().__getitem__(key)

    host = Lazy(kong_upgrade_secret_settings="{{ vault_pg_password }}", kong_upgrade_soak=3)
    defaults = {key[len("kong_upgrade_"):]: spec.get("default") for key, spec in survey.option_specs().items()}
    found = survey.collect({"new1": host}, {"kong_green": ["new1"]}, {**defaults, "phases": []}, None)
    assert found["invalid"] == {"new1": ["kong_upgrade_secret_settings: 'vault_pg_password' is undefined"]}
    assert found["hosts"]["new1"]["secret_settings"] == []


@pytest.mark.parametrize(
    ("record", "unwatched"),
    [({}, False), ({"base_weights": {"kong": {}}}, True), ({"base_weights": {"kong": {}}, "watched": True}, False)],
)
def test_whether_a_run_has_watched_the_last_step(record, unwatched):
    """A load balancer without a record has seen no upgrade begin: who shifted by hand is not asked to do it again."""
    defaults = {key[len("kong_upgrade_"):]: spec.get("default") for key, spec in survey.option_specs().items()}
    hostvars = {"lb1": {"__kong_upgrade_run": {"record": record}}}
    found = survey.collect(hostvars, {"kong_lb": ["lb1"]}, {**defaults, "phases": []}, None)
    assert found["lbs"]["lb1"]["unwatched"] is unwatched


@pytest.mark.parametrize("given, found", [("", []), ("A-1, B-2", ["A-1", "B-2"]), (["A-1"], ["A-1"])])
def test_a_list_may_be_one_text_as_in_a_survey_of_awx(given, found):
    assert survey.typed({"accepted_hazards": given})["accepted_hazards"] == found
