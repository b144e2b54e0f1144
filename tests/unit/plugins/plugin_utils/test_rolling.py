# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import copy

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import findings, report, rolling


def node(version, admin="127.0.0.1:8001", **more):
    """What kong_version_facts tells of a host; version None: nothing runs there."""
    running = version is not None
    gateway = {
        "version": version or "2.1.4",
        "edition": "oss",
        "prefix": "/usr/local/kong",
        "running": running,
        "settings": {"pg_host": "db", "pg_password": "******", "admin_listen": admin},
        "datastore": {"kind": "postgres", "host": "db", "port": 5432, "database": "kong", "schema": "public", "user": "kong"},
        "node": {"version": version, "admin_open": admin != "off", "settings": {}, "database_reachable": True} if running else None,
        "fenced": False,
        "fence_possible": True,
        "host": {},
    }
    gateway.update(more)
    return gateway


def survey_of(gateways, states=None, migrations=None, **options):
    """A survey of one cluster, behind one load balancer."""
    hosts = list(gateways)
    options = {
        "strategy": "rolling",
        "blue_group": "kong_blue",
        "green_group": "kong_green",
        "lb_group": "kong_lb",
        "batches": [],
        "gone": [],
        "target_version": "2.8.5",
        "phases": ["backup", "roll", "finish"],
        "looks": "",
        "steps": [100],
        "max_transaction_age": 10,
        "accepted_hazards": [],
        "finish_leftovers": False,
        "backup": "none",
        "backup_dir": "/backup",
        "database_host": hosts[0],
        "runner": hosts[0],
        "backends": [],
        "base_weights": {},
        "password_given": True,
        **options,
    }
    servers = [
        {
            "name": host,
            "backend": "kong",
            "weight": 100,
            "admin_state": (states or {}).get(host, "ready"),
            "status": "UP",
            "check_port": 0,
        }
        for host in hosts
    ]
    return {
        "options": options,
        "groups": {"blue": hosts, "green": [], "lb": ["lb1"], "batches": {}},
        "hosts": {
            host: {
                "name": host,
                "gateway": dict(copy.deepcopy(gateway), machine=host),
                "error": None,
                "unreached": None,
                "settings": {},
                "secret_settings": [],
                "probed": False,
                "install": "package",
                "package": "kong",
                "old_package": "",
                "install_tasks": False,
                "reinstall_tasks": False,
                "nginx_conf": "",
            }
            for host, gateway in gateways.items()
        },
        "lbs": {"lb1": {"balancers": [{"socket": "/s", "servers": servers}], "base": {}, "admin_listen": {}, "error": None}},
        "invalid": {},
        "uneven": {},
        "play_hosts": hosts + ["lb1"],
        "database": {"migrations": {"state": "new", "new": {"core": ["015_270_to_280"]}, "pending": {}, **(migrations or {})}},
        "datastore": {},
    }


def test_a_canary_then_the_batches():
    survey = survey_of(dict.fromkeys("abcd", node("2.1.4")), batches=["one", "two"], runner="c")
    survey["groups"]["batches"] = {"one": ["a", "b"], "two": ["c", "d"]}
    found = rolling.build(survey)
    assert found["blockers"] == []
    assert [batch["hosts"] for batch in found["batches_left"]] == [["c"], ["a", "b"], ["d"]]
    assert [batch["after"] for batch in found["batches_left"]] == [[], ["c"], ["a", "b"]]
    assert [batch["percent"] for batch in found["batches_left"]] == [25, 75, 100]
    assert found["todo"] == ["backup", "roll", "finish"]


def test_a_look_tells_which_hosts_an_interrupted_run_has_left_out_of_service():
    survey = survey_of({"a": node("2.8.5", admin="off"), "b": node("2.1.4")}, {"b": "drain"}, looks="status")
    survey["lbs"]["lb1"]["interrupted"] = "run r1 of here, pid 7, since noon"
    assert rolling.build(survey)["interrupted"] == [
        "Interrupted: run r1 of here, pid 7, since noon; the same command goes on from there.",
        "Out of service on the load balancers: b.",
    ]


@pytest.mark.parametrize("told", ["", "2.1.4"])
def test_the_way_back_needs_the_old_version(told):
    hosts = dict.fromkeys("ab", node("2.8.5", admin="off"))
    migrations = {"state": "pending", "new": {}, "pending": {"core": ["012_213_to_220"]}}
    survey = survey_of(hosts, migrations=migrations, phases=["rollback"], source_version=told)
    found = rolling.build(survey)
    assert found["source"] == (told or None)
    assert [row["where"] for row in found["blockers"]] == ([] if told else ["kong_upgrade_source_version"])
    survey["lbs"]["lb1"]["source"] = "2.2.2"
    assert rolling.build(survey)["source"] == "2.2.2", "the record comes first"


def test_a_batch_leaves_somebody_who_serves():
    survey = survey_of({"a": node("2.1.4"), "b": node("2.1.4")}, batches=["all"], runner="c")
    survey["groups"]["batches"] = {"all": ["a", "b"]}
    words = "all has every server of backend kong on lb1"
    assert words in [row["what"] for row in rolling.build(survey)["blockers"]]
    stranger = dict(survey["lbs"]["lb1"]["balancers"][0]["servers"][0], name="stranger")
    survey["lbs"]["lb1"]["balancers"][0]["servers"].append(stranger)
    assert words not in [row["what"] for row in rolling.build(survey)["blockers"]]


def test_a_node_must_be_able_to_start_again():
    other = node("2.1.4", conf="/etc/kng.conf", conf_mode=None, settings={})
    other["node"]["settings"] = {"pg_host": "db"}
    survey = survey_of({"a": node("2.1.4"), "b": other})
    assert [row["where"] for row in rolling.build(survey)["blockers"]] == ["b"]
    survey["options"]["phases"] = ["rollback"]
    assert rolling.build(survey)["blockers"] == [], "what runs may stay"


def test_what_no_load_balancer_tells_is_not_taken_for_nothing():
    survey = survey_of({"a": node("2.8.5", admin="off"), "b": node("2.1.4")})
    survey["lbs"]["lb1"].update(balancers=[], error="nobody listens at /s")
    found = rolling.build(survey)
    assert found["stands"]["unread"] == ["lb1"]
    assert "how far it is cannot be told without lb1; " in report.headline("blocked", found, [], [], [], "")


@pytest.mark.parametrize(
    ("versions", "migrations", "warned"),
    [
        (["2.1.4", "2.1.4"], {"state": "pending", "new": {}, "pending": {"core": ["012_213_to_220"]}}, True),
        (["2.7.2", "2.7.2"], {"state": "up_to_date", "new": {}}, True),
        (["2.8.5", "2.7.2"], {"state": "up_to_date", "new": {}}, False),  # the upgrade that made the dump is at work
        (["2.7.2", "2.7.2"], {}, False),  # not migrated yet
        (["2.8.4", "2.8.4"], {"state": "up_to_date", "new": {}}, False),  # nothing is ever migrated
    ],
)
def test_after_a_rollback_the_dump_is_that_of_before_it(versions, migrations, warned):
    survey = survey_of(dict(zip("ab", map(node, versions))), migrations=migrations, backup="dump")
    told = [row["what"] for row in rolling.build(survey)["warnings"] if row["where"] == "backup"]
    assert [line.startswith("an earlier run has migrated the schema") for line in told] == [True] * warned


def test_batches_of_hosts_that_are_in_no_group_of_the_upgrade_are_a_problem_and_no_failure():
    survey = survey_of(dict.fromkeys("ab", node("2.1.4")), batches=["one"], blue_group="mistyped")
    survey["groups"].update(blue=[], batches={"one": ["a", "b"]})
    survey["hosts"] = {}
    told = {row["where"]: row["what"] for row in rolling.build(survey)["blockers"]}
    assert told["a, b"] == "is in batch one but not in mistyped"
    assert told["inventory"] == "group mistyped is empty or missing"


@pytest.mark.parametrize(
    ("gateways", "states", "left"),
    [
        ({"a": node("2.8.5"), "b": node("2.1.4")}, {}, ["b"]),
        ({"a": node("2.8.5"), "b": node("2.1.4")}, {"a": "maint"}, ["a", "b"]),
        ({"a": node(None), "b": node("2.1.4")}, {"a": "maint"}, ["a", "b"]),
        ({"a": node("2.8.5"), "b": node("2.8.5")}, {}, []),
    ],
)
def test_what_is_rolled_is_told_from_the_world(gateways, states, left):
    survey = survey_of(gateways, states, {"state": "pending", "new": {}, "pending": {"core": ["012_213_to_220"]}})
    survey["lbs"]["lb1"]["source"] = "2.1.4"
    found = rolling.build(survey)
    assert found["source"] == "2.1.4" and found["blockers"] == []
    assert [host for batch in found["batches_left"] for host in batch["hosts"]] == left
    assert found["todo"] == (["roll", "finish"] if left else ["finish"])


@pytest.mark.parametrize(
    ("version", "phases", "left"),
    [("2.1.4", ["backup", "roll", "finish"], "d"), ("2.8.0", ["roll"], "d"), ("2.1.4", ["rollback"], "c")],
)
def test_of_a_batch_in_which_a_host_failed_only_that_is_left(version, phases, left):
    """The one beside it serves: neither a reload nor a drain is for it, nor on the way back the one that has its old version."""
    new = node("2.8.5", admin="off" if version == "2.1.4" else "127.0.0.1:8001")
    gateways = {"a": node(version) if "rollback" in phases else new, "c": new, "d": node(version)}
    survey = survey_of(gateways, migrations={"state": "up_to_date", "new": {}}, phases=phases, batches=["one", "two"])
    survey["groups"]["batches"] = {"one": ["a"], "two": ["c", "d"]}
    survey["lbs"]["lb1"].update(source=version, admin_listen={"c": "127.0.0.1:8001"})
    found = rolling.build(survey)
    assert found["blockers"] == [] and found["reload"] == (version == "2.8.0")
    (batch,) = found["batches_left"]
    assert (batch["hosts"], batch["names"], batch["after"], batch["percent"]) == ([left], [left], [], 100)
    assert batch["servers"] == {"lb1": [left]}
    assert "rollback" in phases or list(found["settings"]) == [left]


def test_a_host_that_is_down_and_still_in_service_is_a_blocker():
    found = rolling.build(survey_of({"a": node("2.1.4"), "b": node(None)}))
    assert [(row["where"], row["what"]) for row in found["blockers"]] == [("b", "no Kong is running there")]


def test_the_proof_asks_for_the_nodes_of_the_database():
    assert "nodes" in rolling.build(survey_of({"a": node("2.1.4"), "b": node("2.1.4")}))


@pytest.mark.parametrize("command, stops", [("2.8.5", False), ("2.0.5", True)])
def test_the_command_of_a_host_that_is_not_rolled_is_its_nodes_or_already_the_targets(command, stops):
    survey = survey_of({"a": node("2.1.4"), "b": node("2.1.4"), "c": dict(node("2.1.4"), version=command)})
    found = [row["where"] for row in rolling.build(survey)["blockers"] if "while its node runs 2.1.4" in row["what"]]
    assert found == ["c"] * stops


@pytest.mark.parametrize(
    ("source", "state", "reload"),
    [("2.8.0", "up_to_date", True), ("2.8.0", "new", False), ("2.5.2", "up_to_date", False), (None, "up_to_date", False)],
)
def test_a_reload_is_enough_where_nothing_is_migrated_on_the_same_openresty(source, state, reload):
    assert rolling.by_reload(source, "2.8.5", {"state": state}) is reload


def test_what_an_earlier_run_has_migrated_does_not_make_the_rest_a_reload():
    survey = survey_of({"a": node("2.8.5", admin="off"), "b": node("2.7.2")}, migrations={"state": "up_to_date", "new": {}})
    found = rolling.build(survey)
    assert not found["reload"] and found["with_database"] == ["a", "b"] and found["todo"] == ["roll", "finish"]


def test_the_admin_api_stays_as_it_is_where_nothing_is_migrated():
    found = rolling.build(survey_of(dict.fromkeys("ab", node("2.8.0")), migrations={"state": "up_to_date", "new": {}}))
    assert found["reload"] and found["todo"] == ["roll"]
    assert found["settings"] == {"a": {}, "b": {}}


def test_only_what_the_target_calls_otherwise_is_changed_in_a_kong_conf():
    gateway = node("2.0.5", settings={"client_max_body_size": "8m", "log_level": "info", "admin_listen": "10.0.0.1:8001"})
    found = rolling.build(survey_of({"a": gateway}, runner="a"))
    assert found["settings"]["a"] == {
        "client_max_body_size": None,
        "nginx_http_client_max_body_size": "8m",
        "admin_listen": "off",
        "status_listen": "127.0.0.1:8100",
    }
    assert found["admin_listen"]["a"] == "10.0.0.1:8001"


def test_the_admin_listeners_are_remembered_until_finish():
    survey = survey_of({"a": node("2.8.5", admin="off")}, migrations={"state": "up_to_date", "new": {}})
    survey["lbs"]["lb1"].update(admin_listen={"a": "10.0.0.1:8001"}, source="2.1.4")
    found = rolling.build(survey)
    assert found["admin_listen"]["a"] == "10.0.0.1:8001" and found["todo"] == ["finish"]


def test_the_record_is_made_before_the_first_host_is_rolled():
    cluster = {"a": node("2.1.4"), "b": node("2.1.4", admin="10.0.0.2:8001")}
    assert rolling.record(cluster, "2.8.5") == {
        "source": "2.1.4",
        "admin_listen": {"a": "127.0.0.1:8001", "b": "10.0.0.2:8001"},
    }
    assert rolling.record({**cluster, "a": node("2.8.5", admin="off")}, "2.8.5") == {}
    assert rolling.record({"a": None}, "2.8.5") == {}


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"runner": "lb1"}, "kong_upgrade_runner", "is lb1, which is no host of kong_blue"),
        ({"phases": ["shift"]}, "phase shift", "is no phase of strategy rolling"),
        ({"phases": ["finish"]}, "phase finish", "comes after roll, which is not done"),
    ],
)
def test_blockers(change, where, what):
    found = rolling.build(survey_of(dict.fromkeys("ab", node("2.1.4")), **change))
    assert (where, what) in [(row["where"], row["what"]) for row in found["blockers"]]
    assert found["refusal"][0].endswith("before the first change:")


SHA = "3f0c9a51d2be" + 52 * "0"


def restoring(gateways, *, restored=False, states=None, host=None, **backup):
    """A survey for restore.yml, with the word for the dump of 2.1.4."""
    survey = survey_of(
        gateways,
        states,
        {"state": "up_to_date", "new": {}, "executed": {"core": ["009_200_to_210", "012_213_to_220"]}},
        phases=["restore", "rollback"],
        confirm_restore=SHA[:12],
        command="play PLAYBOOK",
    )
    survey["hosts"] = {name: dict(seen, old_package="/kong.deb", **(host or {})) for name, seen in survey["hosts"].items()}
    survey["backup"] = {
        "path": "/b/kong-2.1.4-ecfff684315d.pgc", "sha256": SHA, "made": 0, "restored": restored, "differences": [], **backup
    }  # fmt: skip
    return survey


def test_a_restore_takes_all_hosts_at_once_to_the_version_of_the_dump():
    found = rolling.build(restoring(dict.fromkeys("abc", node("2.8.5")), batches=["one"]))
    assert found["blockers"] == [] and found["source"] == "2.1.4" and found["todo"] == ["restore", "rollback"]
    assert [batch["hosts"] for batch in found["batches_left"]] == [["a", "b", "c"]]
    assert found["hazards"] == [], "which speak of the way to the target"


@pytest.mark.parametrize(
    ("gateways", "todo"),
    [
        ({"a": node(None), "b": node(None)}, ["rollback"]),
        ({"a": node("2.1.4"), "b": node(None)}, ["rollback"]),
        ({"a": node("2.1.4"), "b": node("2.1.4")}, []),
    ],
)
def test_a_restore_goes_on_where_it_stopped(gateways, todo):
    survey = restoring(gateways, restored=True)
    survey["database"]["migrations"].update(state="new", new={"core": ["015_270_to_280"]}, executed={})
    survey["options"]["confirm_restore"] = ""
    found = rolling.build(survey)
    assert found["blockers"] == [] and found["todo"] == todo


@pytest.mark.parametrize(
    ("given", "where", "what"),
    [
        ({"error": "There is no dump", "path": None}, "a", "There is no dump"),
        ({"path": "/b/mine.pgc"}, "a", "the name of /b/mine.pgc does not tell which version ran on its data"),
        ({"sha256": 64 * "0"}, "restore", "the data of"),
        ({"host": {"install": "preinstalled"}}, "a, b", "nothing puts Kong 2.1.4 back"),
        ({"host": {"install": "tasks"}}, "a, b", "nothing puts the old version back"),
    ],
)
def test_what_stands_in_the_way_of_a_restore(given, where, what):
    (problem,) = rolling.build(restoring(dict.fromkeys("ab", node("2.8.5")), **given))["blockers"]
    assert problem["where"] == where and problem["what"].startswith(what)


def test_before_finish_rollback_is_the_better_way():
    survey = restoring(dict.fromkeys("ab", node("2.8.5", admin="off")))
    survey["database"]["migrations"].update(state="pending", pending={"core": ["009_200_to_210"]}, executed={})
    (problem,) = rolling.build(survey)["blockers"]
    assert "rollback.yml" in problem["do"]


def test_without_a_database_there_is_nothing_to_restore():
    survey = restoring(dict.fromkeys("ab", dbless("2.8.5")))
    survey["lbs"]["lb1"]["source"] = "2.1.4"
    assert [row["what"] for row in rolling.build(survey)["blockers"]] == ["there is no database, and so no backup of it"]


@pytest.mark.parametrize(("command", "stops"), [("2.8.5", True), ("2.1.4", False)])
def test_a_rollback_is_refused_where_nothing_puts_the_old_command_back(command, stops):
    shut = dict(node("2.8.5", admin="off"), version=command)
    survey = survey_of({"a": shut}, migrations={"state": "pending", "new": {}}, phases=["rollback"])
    survey["lbs"]["lb1"]["source"] = "2.1.4"
    survey["hosts"]["a"]["install"] = "preinstalled"
    told = [row["what"] for row in rolling.build(survey)["blockers"]]
    assert told == ["nothing puts Kong 2.1.4 back"] * stops


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ({"install": "preinstalled"}, "the kong command is 2.1.4, not the target 2.8.5"),
        ({"install": "tasks"}, "kong_upgrade_install is tasks, but there is no kong_upgrade_install_tasks"),
        ({"package": "/tmp/kong.deb"}, "nothing puts the old version back, if the target fails there"),
        ({"package": "kong=2.8.5"}, "nothing puts the old version back, if the target fails there"),
        ({"package": "kong-2.8.5-1"}, "nothing puts the old version back, if the target fails there"),
    ],
)
def test_how_a_host_is_replaced_and_put_back(host, what):
    survey = survey_of({"a": node("2.1.4")})
    survey["hosts"]["a"].update(host)
    assert what in [row["what"] for row in rolling.build(survey)["blockers"]]


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        (["2.8.5", "2.1.4"], []),
        (["2.8.5-1", "2.8.4", "2.1.4-1"], []),
        (["2.8.4", "2.1.4"], ["the package manager has no package kong 2.8.5, but 2.8.4, 2.1.4"]),
        (["2.8.5"], ["the package manager has no package kong 2.1.4, and nothing else puts the old version back, if the target fails"]),
    ],
)
def test_the_package_manager_has_to_have_both_versions(versions, told):
    host = {"candidates": {"manager": "apt", "versions": versions}}
    survey = survey_of({"a": node("2.1.4"), "b": node("2.1.4", host=host), "c": node("2.8.5", host=host)})
    found = rolling.build(survey)
    assert [(row["where"], row["what"]) for row in found["blockers"]] == [("b", what) for what in told]


OLD, NEW = "/srv/kong-2.1.4.deb", "/srv/kong-2.8.5.deb"


@pytest.mark.parametrize(
    ("files", "command", "phases", "told"),
    [
        ({NEW: True, OLD: True}, "2.1.4", ["roll"], []),
        ({NEW: None, OLD: None}, "2.1.4", ["roll"], []),  # behind a folder that may not be looked into
        ({}, "2.1.4", ["roll"], []),  # nobody looked
        ({NEW: False, OLD: False}, "2.1.4", ["roll"], ["kong_upgrade_package is " + NEW, "kong_upgrade_old_package is " + OLD]),
        ({NEW: False, OLD: True}, "2.8.5", ["roll"], []),
        ({NEW: False, OLD: False}, "2.8.5", ["rollback"], ["kong_upgrade_old_package is " + OLD]),
        ({NEW: False, OLD: False}, "2.1.4", ["rollback"], []),
    ],
)
def test_a_package_file_has_to_be_on_its_host(files, command, phases, told):
    """Unless the command that it would bring is there already."""
    stopped = dict(node(None, host={"package_files": files}), version=command)
    half = {"state": "pending", "new": {}}
    survey = survey_of({"a": stopped, "b": node("2.1.4")}, {"a": "maint"}, half, phases=phases, runner="b")
    survey["lbs"]["lb1"]["source"] = "2.1.4"
    survey["hosts"]["a"].update(package=NEW, old_package=OLD)
    found = rolling.build(survey)["blockers"]
    assert [row["what"].partition(",")[0] for row in found] == told
    assert {row["where"] for row in found} <= {"a"}


def test_a_package_of_the_old_version_that_is_named_need_not_be_offered():
    survey = survey_of(dict.fromkeys("ab", node("2.1.4", host={"candidates": {"manager": "apt", "versions": ["2.8.5"]}})))
    for seen in survey["hosts"].values():
        seen["old_package"] = "/srv/kong-2.1.4.deb"
    assert rolling.build(survey)["blockers"] == []


def test_going_back_is_the_last_batch_first_and_ends_at_the_point_of_no_return():
    shut = node("2.8.5", admin="off")
    survey = survey_of({"a": shut, "b": shut, "c": node("2.1.4")}, migrations={"state": "pending", "new": {}}, phases=["rollback"])
    found = rolling.build(survey)
    assert found["blockers"] == [] and found["todo"] == ["rollback"]
    assert [batch["hosts"] for batch in found["batches_left"]] == [["b"], ["a"]]
    opened = survey_of({"a": node("2.8.5"), "c": node("2.1.4")}, migrations={"state": "pending", "new": {}}, phases=["rollback"])
    assert [row["where"] for row in rolling.build(opened)["blockers"]] == ["rollback"]


def test_a_limit_is_refused():
    survey = survey_of(dict.fromkeys("ab", node("2.1.4")))
    survey["play_hosts"] = ["a", "lb1"]
    found = rolling.build(survey)
    assert [row["where"] for row in found["blockers"]] == ["b"] and found["todo"] == []
    assert findings.ended(found["blockers"][0]["what"]) == "not in this run: --limit cuts the groups."


OFF = {"datastore": {"kind": "off"}, "settings": {"database": "off", "declarative_config": "/etc/kong/kong.yml"}}


def dbless(version, **settings):
    """A node without a database."""
    return node(version, datastore={"kind": "off"}, settings={**OFF["settings"], **settings})


def without_database(gateways, **options):
    """A survey of DB-less nodes, of whose database nobody asked."""
    return dict(survey_of(gateways, **options), database={}, datastore={"kind": "off"})


def test_dbless_there_is_nothing_to_back_up_to_migrate_to_shut_or_to_finish():
    found = rolling.build(without_database(dict.fromkeys("ab", dbless("2.1.4")), backup="dump"))
    assert found["blockers"] == [] and found["todo"] == ["roll"]
    assert found["stands"]["expanded"] and found["with_database"] == [] and not found["reload"]
    assert all("admin_listen" not in settings for settings in found["settings"].values())
    assert "Schema: none, DB-less." in found["summary"]
    assert rolling.build(without_database(dict.fromkeys("ab", dbless("2.8.0"))))["reload"]


def test_dbless_is_over_when_all_are_rolled_and_can_go_back_with_its_admin_api_open():
    survey = without_database(dict.fromkeys("ab", dbless("2.8.5")))
    survey["lbs"]["lb1"]["source"] = "2.1.4"
    assert rolling.build(survey)["stands"]["phase"] == "done"
    survey["options"]["phases"] = ["rollback"]
    for seen in survey["hosts"].values():
        seen["old_package"] = "/kong.deb"
    found = rolling.build(survey)
    assert found["blockers"] == [] and found["todo"] == ["rollback"]


@pytest.mark.parametrize("key", ["declarative_config", "declarative_config_string"])
def test_dbless_what_only_the_admin_api_was_told_would_be_lost(key):
    survey = without_database({"a": dbless("2.1.4", declarative_config=""), "b": dbless("2.1.4")})
    assert [(row["where"], row["what"]) for row in rolling.build(survey)["blockers"]] == [
        (
            "a",
            "is DB-less and names no declarative_config: what it serves was sent to its Admin API, and ends with the process",
        )
    ]
    survey["hosts"]["a"]["settings"] = {key: "something"}
    assert rolling.build(survey)["blockers"] == []


def hybrid(version="2.7.2", data="2.7.2", **options):
    """A survey of two data planes, named first, and two control planes that no load balancer knows."""
    plane = dbless(data, declarative_config="", role="data_plane")
    control = node(version, settings={"role": "control_plane", "admin_listen": "127.0.0.1:8001", "pg_host": "db"})
    survey = survey_of({"d1": plane, "d2": plane, "c1": control, "c2": control}, **{"runner": "c1", **options})
    servers = survey["lbs"]["lb1"]["balancers"][0]["servers"]
    servers[:] = [server for server in servers if server["name"].startswith("d")]
    return survey


def test_hybrid_control_planes_go_first_and_have_what_belongs_to_a_database():
    survey = hybrid(batches=["one", "two"])
    survey["groups"]["batches"] = {"one": ["d1", "c1"], "two": ["c2", "d2"]}
    found = rolling.build(survey)
    assert found["blockers"] == [] and found["todo"] == ["backup", "roll", "finish"]
    assert [batch["hosts"] for batch in found["batches_left"]] == [["c1"], ["c2"], ["d1"], ["d2"]]
    assert [batch["names"] for batch in found["batches_left"]] == [[], [], ["d1"], ["d2"]]
    assert found["at"]["lb1"]["green"] == ["d1", "d2"]
    assert found["with_database"] == ["c1", "c2"]
    assert found["admin_local"] == ["c1", "c2"]
    assert found["settings"]["c1"] == {"admin_listen": "127.0.0.1:8101", "status_listen": "127.0.0.1:8100"}
    assert found["settings"]["d1"] == {}
    assert [row["where"] for row in found["warnings"] if "without an Admin API" in row["what"]] == ["c1, c2"]


@pytest.mark.parametrize(("listens", "todo"), [("127.0.0.1:8101", ["finish"]), ("0.0.0.0:8001", [])])
def test_hybrid_a_control_plane_that_answers_at_the_local_address_alone_is_not_open(listens, todo):
    survey = hybrid("2.8.5", "2.8.5", migrations={"state": "up_to_date", "new": {}})
    survey["lbs"]["lb1"].update(source="2.7.2", admin_listen={"c1": "0.0.0.0:8001"})
    for host in ("c1", "c2"):
        survey["hosts"][host]["gateway"]["settings"]["admin_listen"] = listens
        survey["hosts"][host]["gateway"]["node"]["settings"]["admin_listen"] = listens
    found = rolling.build(survey)
    assert found["todo"] == todo and found["blockers"] == []
    assert found["admin_listen"]["c1"] == "0.0.0.0:8001"
    survey["options"]["phases"] = ["rollback"]
    told = report.headline("done", found, None, ["roll"], ["finish"], "play PLAYBOOK")
    advice = "No Admin API answers but at 127.0.0.1:8101 of c1, c2 until the upgrade is finished. Finish it with: play finish"
    assert not todo or told.endswith(advice)
    crossed = [row["what"] for row in rolling.build(survey)["blockers"] if row["where"] == "rollback"]
    assert len(crossed) == (not todo)


def test_hybrid_goes_on_and_back_in_the_order_that_the_versions_allow():
    survey = hybrid("2.8.5", migrations={"state": "up_to_date", "new": {}})
    survey["lbs"]["lb1"]["source"] = "2.7.2"
    for host in ("c1", "c2"):
        survey["hosts"][host]["gateway"]["node"]["admin_open"] = False
    found = rolling.build(survey)
    assert [batch["hosts"] for batch in found["batches_left"]] == [["d1"], ["d2"]]
    assert found["todo"] == ["roll", "finish"] and found["blockers"] == [] and not found["reload"]
    for host in ("d1", "d2"):
        survey["hosts"][host]["gateway"]["node"]["version"] = "2.8.5"
    survey["options"]["phases"] = ["rollback"]
    survey["hosts"] = {host: dict(seen, old_package="/kong.deb") for host, seen in survey["hosts"].items()}
    found = rolling.build(survey)
    assert found["blockers"] == []
    assert [batch["hosts"] for batch in found["batches_left"]] == [["d2"], ["d1"], ["c2"], ["c1"]]


def test_hybrid_a_data_plane_is_no_canary():
    found = rolling.build(hybrid(runner="d1"))
    assert [(row["where"], row["what"]) for row in found["blockers"]] == [("kong_upgrade_runner", "is d1, which is a data plane")]
    assert "name one of c1, c2" in found["blockers"][0]["do"]


def test_hybrid_a_data_plane_that_is_newer_than_its_control_plane_is_a_blocker():
    found = rolling.build(hybrid("2.7.2", "2.8.5"))
    told = "a control plane 2.7.2 sends nothing to a data plane 2.8.5: a data plane may not be of a newer minor version"
    assert [(row["where"], row["what"]) for row in found["blockers"]] == [("d1, d2", told)]


def test_hybrid_what_a_new_control_plane_does_not_serve_any_more_is_a_warning():
    found = rolling.build(hybrid("2.1.4", "2.1.4"))
    assert found["blockers"] == []
    assert [row["where"] for row in found["warnings"] if "do not tell their version" in row["what"]] == ["d1, d2"]


def test_hybrid_control_planes_elsewhere_are_for_the_operator_to_know():
    plane = dbless("2.7.2", declarative_config="", role="data_plane")
    found = rolling.build(without_database(dict.fromkeys("ab", plane)))
    assert found["blockers"] == [] and found["todo"] == ["roll"]
    assert [row["where"] for row in found["warnings"] if "their control planes are not in" in row["what"]] == ["a, b"]


def test_a_mistyped_setting_stops_the_run():
    survey = survey_of({"a": node("2.1.4"), "b": node("2.1.4")})
    assert rolling.build(survey)["blockers"] == []
    survey["hosts"]["a"]["settings"] = {"proxy_lsten": "0.0.0.0:8000"}
    (told,) = rolling.build(survey)["blockers"]
    assert (told["where"], told["what"][:12], told["do"]) == ("a", "proxy_lsten ", "write proxy_listen, if that is meant, or leave it out")
