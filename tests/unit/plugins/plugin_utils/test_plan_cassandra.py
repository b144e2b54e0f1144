# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of a cluster on Cassandra, made out of the one on PostgreSQL of test_plan.py."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import test_plan
from ansible_collections.bluegreen.kong.plugins.plugin_utils import plan, proof, report, ring
from test_plan import gateway

fixture_survey = test_plan.fixture_survey
STORE = {"kind": "cassandra", "contact_points": ["c1"], "port": 9042, "keyspace": "kong", "user": "kong"}
SETTINGS = {
    "database": "cassandra", "cassandra_contact_points": "c1", "cassandra_password": "******", "admin_listen": "0.0.0.0:8001"}
NODES = [
    {"address": "10.0.2.%d" % n, "datacenter": "dc1", "host_id": "id%d" % n, "schema_version": "s", "version": "3.11.19", "answers": True}
    for n in (1, 2, 3)
]


@pytest.fixture(name="cluster")
def fixture_cluster(survey):
    """cluster(version of blue) -> a sound survey."""

    def make(version="2.7.2", **options):
        for number in (1, 2):
            blue = gateway("b%d" % number, version, "10.0.0.%d" % number, datastore=dict(STORE), settings=dict(SETTINGS))
            blue["node"]["settings"] = dict(SETTINGS)
            survey["hosts"]["b%d" % number]["gateway"] = blue
            survey["hosts"]["g%d" % number]["secret_settings"] = ["cassandra_password"]
        survey["options"].update(
            cassandra_group="kong_cassandra", confirm_blue_gone=False, window_limit=0, accepted_hazards=[], **options)
        survey["datastore"] = dict(STORE)
        survey["cassandra_hosts"] = {"c%d" % n: {"host_id": "id%d" % n, "clients": []} for n in (1, 2, 3)}
        survey["database"] = {
            "kind": "cassandra", "keyspace": "kong", "contact_points": ["c1"], "port": 9042, "login_role": "kong", "permissions": None,
            "server_version": "3.11.19", "nodes": [dict(node) for node in NODES], "schema_agreed": True,
            "replication": {"class": "NetworkTopologyStrategy", "factors": {"dc1": 3}},
            "migrations": {"state": "new", "new": {"core": ["015_270_to_280"]}, "pending": {}, "executed": {}, "lock": None},
        }
        return survey

    return make


def blockers(survey):
    return ["%(where)s: %(what)s | %(do)s" % item for item in plan.build(survey)["blockers"]]


def test_a_sound_cluster(cluster):
    result = plan.build(cluster())
    assert result["blockers"] == [] and result["todo"] == ["stage", "backup", "expand", "start", "shift", "retire"]
    assert "Cassandra 3.11.19: keyspace kong, 3 nodes, replication 3 in dc1, the schema is agreed on." in result["summary"]
    assert [item["where"] for item in result["warnings"] if "deprecated" in item["what"]] == ["b1, b2"]


ROWS = [
    ("a node that is down", lambda s: s["database"]["nodes"][1].update(answers=False), "10.0.2.2 of its 3 nodes take no connection"),
    ("two schemas", lambda s: (s["database"].update(schema_agreed=False), s["database"]["nodes"][2].update(schema_version="t")),
     "s at 10.0.2.1; s at 10.0.2.2; t at 10.0.2.3"),
    ("missing rights", lambda s: s["database"].update(permissions=["MODIFY", "SELECT"]), "lacks ALTER, CREATE, DROP on keyspace kong"),
    ("a node without a host", lambda s: s["cassandra_hosts"].pop("c3"), "no host of the inventory is the node of Cassandra at 10.0.2.3"),
    ("a host that cannot be looked at", lambda s: s["cassandra_hosts"].update(c2={"error": "no nodetool"}), "c2: no nodetool"),
    ("green on another keyspace", lambda s: s["hosts"]["g1"]["settings"].update(cassandra_keyspace="other"), "not cassandra keyspace kong"),
    ("a port that is none", lambda s: s["hosts"]["g1"]["settings"].update(cassandra_port="x"), "is not a number"),
    ("a database that cannot be read", lambda s: s.update(database={"error": "no driver"}), "no driver"),
]


@pytest.mark.parametrize("change, words", [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_stands_in_the_way(cluster, change, words):
    survey = cluster()
    change(survey)
    (problem,) = blockers(survey)
    assert words in problem


def test_few_copies_are_a_warning(cluster):
    survey = cluster()
    survey["database"]["replication"] = {"class": "SimpleStrategy", "factors": {"*": 1}}
    assert any("has 1 copy of each row on 3 nodes" in item["what"] for item in plan.build(survey)["warnings"])


def test_without_the_hosts_of_cassandra_a_backup_of_your_own_and_a_word_do(cluster):
    survey = cluster(backup="external", backup_command_given=True)
    survey["cassandra_hosts"] = {}
    result = plan.build(survey)
    assert result["blockers"] == []
    assert any("kong_upgrade_confirm_blue_gone" in item["do"] for item in result["warnings"])
    survey["options"]["confirm_blue_gone"] = True
    assert not any("kong_upgrade_confirm_blue_gone" in item["do"] for item in plan.build(survey)["warnings"])


@pytest.mark.parametrize(
    "version, strategy, measured, refused",
    [
        ("1.2.3", "blue_green", True, "there is no kong config db_export before 1.3"),
        ("2.0.5", "blue_green", True, "old and new nodes cannot use one keyspace"),
        ("2.1.4", "blue_green", False, "or set kong_upgrade_measured_way: true"),
        ("2.1.4", "blue_green", True, None),
        ("2.2.2", "blue_green", False, None),
        ("1.2.3", "downtime_window", False, None),
        ("2.0.5", "downtime_window", False, None),
        ("2.7.2", "downtime_window", False, None),
    ],
)
def test_which_strategy_takes_which_hop(cluster, version, strategy, measured, refused):
    survey = cluster(version, strategy=strategy, measured_way=measured)
    survey["options"]["window_limit"] = 60
    if strategy == "downtime_window":
        survey["options"]["phases"] = ["stage", "backup", "expand", "finish"]
    problems = [line for line in blockers(survey) if "hazards" not in line]
    assert [line for line in problems if refused and refused in line] == problems, problems
    if refused:
        assert "downtime_window (" in problems[0] and "new_keyspace (" in problems[0]
    elif measured:
        assert any("not the documented way" in item["what"] for item in plan.build(survey)["warnings"])


def test_the_way_back_ends_where_finish_rewrites(cluster):
    for version, ids, crossed in (("2.1.4", ["012_213_to_220"], True), ("2.2.2", ["013_220_to_230"], False)):
        survey = cluster(version, phases=["rollback"], strategy="blue_green", measured_way=True)
        survey["database"]["migrations"].update(state="pending", executed={"core": ids})
        problems = blockers(survey)
        assert bool(problems) is plan.build(survey)["stands"]["crossed"] is crossed
        assert all("put the snapshots back by hand" in problem for problem in problems)
        assert all("docs/cassandra.md, Back to the snapshot" in problem for problem in problems)


def test_an_up_that_was_interrupted_goes_on(cluster):
    survey = cluster("2.2.2")
    survey["database"]["migrations"].update(
        state="pending_and_new", new={"core": ["014_230_to_270"]}, pending={"core": ["013_220_to_230"]})
    result = plan.build(survey)
    assert result["blockers"] == [] and "expand" in result["todo"] and result["stands"]["interrupted"]
    assert any("was interrupted" in item["what"] for item in result["warnings"])


def test_what_only_rows_can_tell_is_left_to_a_person(cluster):
    asked = {item["id"]: item["ask"] for item in plan.build(cluster("2.2.2"))["checklist"]}
    assert "cannot be looked for on Cassandra: " in asked["KONG-230-REQ-TRANSFORMER"]


def test_a_restore_is_done_by_hand(cluster):
    (problem,) = [line for line in blockers(cluster(phases=["restore"])) if line.startswith("restore:")]
    assert "docs/cassandra.md" in problem


@pytest.fixture(name="windowed")
def fixture_windowed(cluster):
    survey = cluster("2.0.5", strategy="downtime_window", phases=["stage", "backup", "expand", "finish"])
    survey["options"]["window_limit"] = 60
    return survey


def test_a_cassandra_that_is_too_old(windowed):
    windowed["database"]["server_version"] = "2.2.19"
    (problem,) = blockers(windowed)
    assert "KONG-220-DBVERSION" in problem and "Cassandra 2.2.19" in problem


def test_a_keyspace_of_greens_own_wants_its_strategy(windowed):
    windowed["hosts"]["g1"]["settings"] = {"cassandra_keyspace": "kong_2_8"}
    (problem,) = blockers(windowed)
    assert "green would use another database" in problem and "kong_upgrade_strategy: new_keyspace" in problem


def test_the_window_is_the_last_phase(windowed):
    result = plan.build(windowed)
    assert result["blockers"] == [] and result["todo"] == ["stage", "backup", "expand", "window"]
    assert result["strategy"] == "downtime_window"
    # green starts when nothing is left that a write could disturb
    assert [values["admin_listen"] for values in result["settings"].values()] == ["0.0.0.0:8001"] * 2


def test_the_window_has_a_limit_and_no_phases_of_others(windowed):
    windowed["options"].update(window_limit=0, phases=["shift"])
    problems = blockers(windowed)
    assert [line.partition(":")[0] for line in problems] == ["phase shift", "kong_upgrade_window_limit"]
    assert "is not set to a number of seconds above 0" in problems[1], "0 and -5 are set"
    windowed["options"].update(window_limit=60, phases=["finish"])
    (problem,) = blockers(windowed)
    assert "phase window: comes after expand" in problem


def test_an_up_that_was_interrupted_is_completed_in_the_window(windowed):
    windowed["database"]["migrations"].update(
        state="pending_and_new", new={"core": ["010_210_to_211"]}, pending={"core": ["009_200_to_210"]})
    result = plan.build(windowed)
    assert result["blockers"] == [] and result["todo"] == ["stage", "window"]


def test_a_window_that_died_after_finish_goes_on(windowed):
    windowed["database"]["migrations"].update(state="up_to_date", new={}, executed={"core": ["009_200_to_210"]})
    for host in ("b1", "b2"):
        windowed["hosts"][host]["gateway"].update(running=False, node=None, fenced=True)
    green = gateway("g1", "2.8.5", "10.0.1.1", datastore=dict(STORE), settings=dict(SETTINGS))
    windowed["hosts"]["g1"]["gateway"] = green
    result = plan.build(windowed)
    assert result["blockers"] == [] and "window" in result["todo"]
    windowed["options"]["phases"] = ["rollback"]
    (problem,) = [problem for problem in blockers(windowed) if "point of no return" in problem]
    assert "nobody is answered" in problem and "playbooks/finish.yml" in problem and "by hand" not in problem
    refused = report.headline("blocked", plan.build(windowed), [], [], [], "")
    assert "NOBODY IS ANSWERED, the window was begun and has not ended" in refused
    windowed["options"].update(phases=["stage", "backup", "expand"], looks="status")
    looked = plan.build(windowed)
    assert any(line.endswith("window, which playbooks/finish.yml takes.") for line in looked["summary"])
    told = report.headline("looked", looked, [], [], looked["left"], "ansible-playbook PLAYBOOK.yml")
    assert "NOBODY IS ANSWERED" in told and "The window goes on where it was with: ansible-playbook finish.yml" in told
    assert "Blue serves on" not in told


def test_a_window_is_not_for_postgresql(survey):
    survey["options"].update(strategy="downtime_window", window_limit=60, phases=["stage", "backup", "expand", "finish"])
    assert any("set kong_upgrade_strategy: blue_green" in problem for problem in blockers(survey))


def test_what_the_report_says_of_a_window():
    seen = {"source": "2.0.5", "target": "2.8.5", "strategy": "downtime_window", "stands": {"expanded": True}}
    done = report.headline("done", seen, None, ["expand"], [], "ansible-playbook PLAYBOOK.yml")
    assert done == (
        "Kong 2.0.5 to 2.8.5: expand is done. Blue serves on, and what can be done before the window is done. Take the window with: "
        "ansible-playbook finish.yml")
    done = report.headline("done", seen, [], ["window"], [], "", 4.25)
    assert done == "Kong 2.0.5 to 2.8.5: finished. Nobody was answered for 4.2 s."
    # A run that only started the rest of green measured nothing: the run before it told for how long.
    assert report.headline("done", seen, [], ["window"], [], "", 0.0) == "Kong 2.0.5 to 2.8.5: finished."


# ---- the proof that blue is gone ---------------------------------------------------------------------------------


def judge(looks):
    sessions, unseen = ring.clients(looks, NODES[:2])
    green = {"running": True, "node": {"version": "2.8.5", "database_sockets": ["10.0.1.1:5", "10.0.1.1:6"]}, "error": None}
    return proof.judge({"g": green}, [], ["g"], "2.8.5", sessions, {}, [], unseen)


def client(port, address="10.0.1.1"):
    return {"client_addr": address, "client_port": port, "samples": 1, "first_seen": 1.0, "last_seen": 2.0}


def test_every_client_of_every_node_is_accounted_for():
    looks = {"c1": {"host_id": "id1", "clients": [client(5)]}, "c2": {"host_id": "id2", "clients": [client(6)]}}
    assert judge(looks)["problems"] == []
    looks["c2"]["clients"].append(client(7))
    (problem,) = judge(looks)["problems"]
    assert problem.startswith("database session unaccounted for: 10.0.1.1:7 at c2") and "no green node has the socket" in problem
    looks["c2"]["clients"] = []
    assert judge(looks)["problems"] == []
    looks["c1"]["clients"] = []
    assert judge(looks)["problems"] == ["g: none of the database's sessions is its own"]


@pytest.mark.parametrize("looks", [{}, {"c1": {"host_id": "id1", "clients": [client(5)]}}, {"c1": {"error": "unreachable"}}])
def test_what_was_not_looked_at_is_no_proof(looks):
    result = judge(looks)
    assert result["problems"] and result["only_sessions"] and not result["open"]
    assert "10.0.2.2" in " ".join(result["problems"])
    assert "kong_upgrade_cassandra_group" in result["refusal"][-1] and "kong_upgrade_confirm_blue_gone" in result["refusal"][-1]
