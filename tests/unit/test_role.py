# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds for the tasks and variables of the role, without a run."""

import datetime
import pathlib

import jinja2
import pytest
import yaml
from ansible.plugins.filter.core import FilterModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _lb_command
from ansible_collections.bluegreen.kong.plugins.plugin_utils import report, survey

ROLE = pathlib.Path(__file__).resolve().parents[2] / "roles" / "kong_upgrade"
VARS = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))


def calls(node):
    """The arguments of every module, over nested blocks."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if "." in str(key) and isinstance(value, dict))
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from calls(item)


def tasks_of(tasks):
    """Every task of a file, those in blocks too."""
    for task in tasks:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks_of(task.get(part) or [])


def test_no_variable_has_the_name_of_a_result():
    """What a host has registered, or was set as its fact, wins over variables of tasks and of the role from then on."""
    given, results = set(VARS), set()
    for path in ROLE.glob("tasks/**/*.yml"):
        for task in tasks_of(yaml.safe_load(path.read_text(encoding="utf-8"))):
            given |= set(task.get("vars") or {})
            results |= {task.get("register"), *task.get("ansible.builtin.set_fact", {})}
    assert len(results) > 30
    assert given & results == set()


def render(name, **variables):
    """A variable of the role that needs none but these."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters.update({**FilterModule().filters(), **environment.filters})
    return environment.from_string(VARS[name]).render(variables)


@pytest.mark.parametrize(
    ("strategy", "until", "phases"),
    [
        ("rolling", "finish", ["backup", "roll", "finish"]),
        ("blue_green", "shift", ["stage", "backup", "expand", "start", "shift"]),
        ("blue_green", "mistyped", ["stage", "backup", "expand", "start", "shift"]),
        ("mistyped", "retire", []),  # which the plan tells, with all else that is wrong
    ],
)
def test_what_a_whole_run_is(strategy, until, phases):
    of_all = {"__kong_upgrade_all_phases": VARS["__kong_upgrade_all_phases"]}
    told = render("__kong_upgrade_whole_run", kong_upgrade_strategy=strategy, __kong_upgrade_until=until, **of_all)
    assert yaml.safe_load(told) == phases


def test_the_commands_of_ones_own_are_those_of_the_module():
    names = set(survey.option_specs()["kong_upgrade_commands"]["options"])
    assert set(VARS["__kong_upgrade_command_names"]) == set(_lb_command.OPTIONS) == names


def test_awx_shows_no_variable_that_is_a_secret():
    secret = {name: "x" for name, spec in survey.option_specs().items() if spec.get("no_log")}
    assert {"kong_upgrade_secret_settings", "kong_upgrade_database_admin_password", "kong_upgrade_vault_password"} <= set(secret)
    assert survey.shown_secrets(secret) == list(secret)


def test_awx_shows_no_header_of_a_probe():
    for given, found in (
        ({}, []),
        ({"kong_upgrade_soak": 1, "kong_upgrade_probe": [{"path": "/a"}]}, []),
        ({"kong_upgrade_probe": [{"path": "/a"}, {"headers": {"apikey": "k"}}]}, ["kong_upgrade_probe"]),
        ({"kong_upgrade_vault_password": "v", "kong_upgrade_soak": 1}, ["kong_upgrade_vault_password"]),
        ({"of_their_own": {"headers": 1}, "kong_upgrade_probe": "no list"}, []),
    ):
        assert survey.shown_secrets(given) == found


def test_whoever_logs_in_to_the_database_is_told_how_by_tls():
    """green's kong.conf, which tells it too, may not be there yet."""
    logins = [
        (path.name, call)
        for path in sorted(ROLE.glob("tasks/**/*.yml"))
        for call in calls(yaml.safe_load(path.read_text(encoding="utf-8")))
        if "login_host" in call
    ]
    assert len(logins) > 5
    assert [name for name, call in logins if not {"ssl_mode", "ca_cert"} <= set(call)] == []


def test_every_package_manager_puts_an_older_version_back():
    tasks = yaml.safe_load((ROLE / "tasks" / "phases" / "install.yml").read_text(encoding="utf-8"))
    installs = [call for task in tasks for call in calls(task) if {"name", "deb"} & set(call)]
    assert len(installs) == 3
    assert [call for call in installs if "allow_downgrade" not in call] == []


@pytest.mark.parametrize(
    ("settings", "mode", "ca_cert"),
    [
        ({}, "", ""),
        ({"ssl": False, "ssl_verify": True, "ca_cert": "/ca.pem"}, "", ""),
        # libpq would verify by a certificate of which it is told, and Kong does not
        ({"ssl": True, "ssl_verify": False, "ca_cert": "/ca.pem"}, "require", ""),
        ({"ssl": True, "ssl_verify": True, "ca_cert": "/ca.pem"}, "verify-ca", "/ca.pem"),
        ({"ssl": True, "ssl_verify": True, "ca_cert": None}, "verify-ca", ""),
    ],
)
def test_tls_as_kong_has_it(settings, mode, ca_cert):
    found = render("__kong_upgrade_ssl_mode", __kong_upgrade_datastore=settings)
    assert found == mode
    assert render("__kong_upgrade_ca_cert", __kong_upgrade_datastore=settings, __kong_upgrade_ssl_mode=found) == ca_cert


@pytest.mark.parametrize(
    ("phases", "proof", "proven", "name"),
    [
        (["finish"], {"problems": ["b1: Kong is running there again"]}, False, "plan"),
        (["finish"], {"problems": []}, True, "report"),
        (["finish"], None, False, "report"),  # stopped before or in the proof
        (["shift", "retire", "finish"], {"problems": ["b1: Kong is running there again"]}, False, "report"),
        ([], None, False, "plan"),
    ],
)
def test_what_was_refused_leaves_the_report_alone(phases, proof, proven, name):
    seen = {
        "__kong_upgrade_events": [{"phase": phase, "failed": phase == "finish" and not proven} for phase in phases],
        "__kong_upgrade_proof": proof, "__kong_upgrade_proven": proven, "__kong_upgrade_looks": "", "__kong_upgrade_tells": False,
        "__kong_upgrade_earlier": [], "ansible_check_mode": False,
    }  # fmt: skip
    refused = render("__kong_upgrade_only_refused", **seen) == "True"
    assert render("__kong_upgrade_report_name", __kong_upgrade_only_refused=refused, **seen) == name


DONE, HALF = {"state": "up_to_date"}, {"state": "pending"}
FINISH, UP = ["kong", "migrations", "finish"], ["kong", "migrations", "up"]


@pytest.mark.parametrize(
    ("problem", "crossed", "completed", "finish", "finished", "goes_back"),
    [
        ("", False, {}, {"after": DONE, "commands": [FINISH]}, True, False),
        # judged failed, and all is done: green can serve, and nobody else
        ("", False, {}, {"after": DONE, "commands": [FINISH], "msg": "the nodes had not agreed"}, True, False),
        ("", False, {"commands": [FINISH, UP], "msg": "the nodes had not agreed"}, {"after": DONE, "commands": [FINISH]}, True, False),
        ("", False, {}, {"after": HALF, "commands": [FINISH], "msg": "Cassandra died"}, False, False),
        ("", False, {}, {"msg": "unreachable"}, False, False),
        ("", False, {}, {"after": None, "commands": [], "msg": "no connection"}, False, True),
        ("", False, {"commands": [FINISH, UP]}, {"after": HALF, "commands": [], "msg": "no connection"}, False, False),
        # a run before has begun finish
        ("", True, {}, {"after": None, "commands": [], "msg": "no connection"}, False, False),
        ("it took too long", False, {}, {}, False, True),
        ("a node could not be stopped", True, {}, {}, False, False),
    ],
)
def test_how_a_window_is_judged(problem, crossed, completed, finish, finished, goes_back):
    given = {
        "__kong_upgrade_window_problem": problem, "__kong_upgrade_plan": {"stands": {"crossed": crossed}},
        "__kong_upgrade_completed_result": completed, "__kong_upgrade_finish_result": finish, "__kong_upgrade_window_finished": finished,
    }
    given |= {"__kong_upgrade_window_serving": []}
    given["__kong_upgrade_plan"]["ahead"] = [{"rewrites": []}, {"rewrites": ["003_200_to_210"]}]
    assert render("__kong_upgrade_window_finished", **given) == str(finished)
    assert render("__kong_upgrade_window_goes_back", **given) == str(goes_back)


@pytest.mark.parametrize(
    ("crossed", "rewrites", "serving", "goes_back"),
    [(False, [], [], True), (False, ["003_200_to_210"], [], False), (False, [], ["green1"], False), (True, [], [], False)],
)
def test_a_window_in_which_green_cannot_start_goes_back_where_finish_rewrote_nothing(crossed, rewrites, serving, goes_back):
    given = {
        "__kong_upgrade_window_problem": "", "__kong_upgrade_window_finished": True, "__kong_upgrade_window_serving": serving,
        "__kong_upgrade_plan": {"stands": {"crossed": crossed}, "ahead": [{"rewrites": []}, {"rewrites": rewrites}]},
    }
    assert render("__kong_upgrade_window_goes_back", **given) == str(goes_back)


@pytest.mark.parametrize(
    ("since", "record", "over", "open_"),
    [
        (None, {"outage_since": 1.0}, False, True),  # of a run that was killed; this one, a rollback say, was refused
        (None, {}, False, False),
        (None, {"outage_since": 1.0}, True, False),
        (2.0, {}, False, True),
    ],
)
def test_the_window_of_a_run_before_is_remembered_by_one_that_was_refused(since, record, over, open_):
    given = {"__kong_upgrade_window_since": since, "__kong_upgrade_record": record, "__kong_upgrade_over": over}
    assert render("__kong_upgrade_window_open", **given, __kong_upgrade_window_goes_back=False) == str(open_)


@pytest.fixture(name="pages")
def fixture_pages():
    """The report of a refused finish, as both templates draw it."""
    plan = {
        "source": "2.1.4", "target": "2.8.5", "strategy": "blue_green", "left": ["finish"], "hosts": {"blue": ["old1"], "green": ["new1"]},
        "stands": {"percent": 100.0, "green_running": ["new1"], "phase": "finish", "shifted": True, "retired": True},
        "migrations": {"state": "pending"},
    }  # fmt: skip
    lines = ["Finish is refused, for blue may be alive. Nothing was changed.", "a <session> unaccounted for", "Stop it."]
    data = report.build({
        "plan": plan, "began": 100.0, "ended": 110.0, "owner": {"run_id": "r2", "controller": "here"},
        "events": [{"phase": "finish", "at": 101.0, "text": "stopped", "failed": True}],
        "failures": [{"task": "Finish | Refuse", "host": "new1", "message": lines}],
        "proof": {"sessions": 9, "unaccounted": [{}], "problems": lines[1:2]},
        "backup": {
            "dump": "/b/kong.pgc", "sha256": "abc", "host": "new1", "snapshot": "", "external": "",
            "export": "/b/kong.yml", "export_host": "old1",
            "counts": {"services": 3, "routes": 4},
        },
    })  # fmt: skip
    # What a step of a workflow hands on comes as YAML, which makes a time of it.
    data["phases"][0]["at"] = datetime.datetime(2026, 7, 1, 12, 34, 56, tzinfo=datetime.timezone.utc)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(extract=lambda key, container: container[key])
    return {
        kind: environment.from_string((ROLE / "templates" / ("report.%s.j2" % kind)).read_text("utf-8")).render(__kong_upgrade_report=data)
        for kind in ("html", "md")
    }


@pytest.mark.parametrize("kind", ["html", "md"])
def test_both_pages_tell_the_same(pages, kind):
    told = ("Proof that blue is gone", "9 database sessions were seen; 1 of", "3 services, 4 routes", "old1", "The same command", ":34:56")
    for text in told:
        assert text in pages[kind]
    assert "[&#39;" not in pages[kind] and "['" not in pages[kind]


def test_no_text_is_taken_for_a_tag(pages):
    assert "<session>" not in pages["html"] and "a &lt;session&gt; unaccounted for" in pages["html"]
