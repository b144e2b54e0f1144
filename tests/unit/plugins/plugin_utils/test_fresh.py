# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import fresh, green_conf

STORE = {"kind": "postgres", "host": "db", "port": 5432, "database": "kong", "user": "kong", "schema": "public"}
RECORD = {"bootstrap": "postgres db:5432/kong, schema public"}


def gateway(name, **more):
    return {
        "version": "2.8.5", "conf": "/etc/kong/kong.conf", "prefix": "/usr/local/kong", "machine": name, "settings": {},
        "running": False, "node": None, "errors": [], "openresty": {}, "datastore": dict(STORE, host="127.0.0.1"), **more,
    }  # fmt: skip


def running(survey, host, **node):
    found = {"version": "2.8.5", "database_reachable": True, "admin_open": True, **node}
    survey["hosts"][host]["gateway"].update(running=True, node=found, datastore=STORE)


@pytest.fixture(name="survey")
def fixture_survey():
    hosts = {
        name: {
            "name": name, "gateway": gateway(name), "error": None, "install": "preinstalled", "package": "kong", "install_tasks": False,
            "settings": {"pg_host": "db"}, "secret_settings": ["pg_password"], "admin_listen": None, "locked": None, "record": {},
        }
        for name in ("g1", "g2")
    }  # fmt: skip
    return {
        "options": {
            "green_group": "kong_green", "target_version": "2.8.5", "phases": ["stage", "bootstrap", "start"], "looks": "",
            "backup": "dump", "runner": "g1", "database_host": "g1", "create_database": False, "password_given": True,
        },
        "groups": {"blue": [], "green": ["g1", "g2"], "lb": [], "batches": {}},
        "play_hosts": ["g1", "g2"], "hosts": hosts, "lbs": {}, "invalid": {}, "uneven": {}, "datastore": STORE,
        "database": {
            "host": "db", "port": 5432, "database": "kong", "schema": "public", "role": "kong", "in_recovery": False,
            "schema_owner": "pg_database_owner", "schema_create": True, "database_create": True, "objects": [], "counts": {},
            "migrations": {"state": "needs_bootstrap", "new": {"core": ["000_base"]}, "pending": {}, "executed": {}, "lock": None},
        },
    }  # fmt: skip


def blockers(survey):
    return ["%(where)s: %(what)s | %(do)s" % item for item in fresh.build(survey)["blockers"]]


def bootstrapped(survey, state="up_to_date", **counts):
    survey["database"]["migrations"].update(
        state=state, new={} if state == "up_to_date" else {"core": ["015_270_to_280"]}, executed={"core": ["000_base"]}
    )
    survey["database"]["counts"] = {"services": 0, "workspaces": 1, **counts}


def test_a_mistyped_setting_stops_a_bootstrap(survey):
    survey["hosts"]["g1"]["settings"]["proxy_lsten"] = "0.0.0.0:8000"
    assert blockers(survey) == [
        "g1: proxy_lsten in kong_upgrade_settings is no property of Kong 2.8.5, which drops it"
        " | write proxy_listen, if that is meant, or leave it out"]


def test_a_bootstrap_knows_no_hops(survey):
    survey["play_hosts"] = ["g1"]
    (told,) = blockers(survey)
    assert told.startswith("g2: not in this run")
    survey["options"].update(hop={"number": 1}, way={"problems": []})
    (told,) = blockers(survey)
    assert told.startswith("kong_upgrade_hops: is given, and playbooks/bootstrap.yml is about one hop alone")


def test_an_empty_schema_has_everything_to_do(survey):
    result = fresh.build(survey)
    assert result["blockers"] == []
    assert result["todo"] == ["stage", "bootstrap", "start"]
    assert result["record"] == RECORD and not result["interrupted"]
    assert result["settings"]["g1"] == {
        "pg_host": "db", "admin_listen": green_conf.LOOPBACK_ADMIN, "status_listen": "127.0.0.1:8100", "prefix": "/usr/local/kong",
    }  # fmt: skip


def test_what_is_in_kong_conf_stays_and_the_variables_win(survey):
    own = {"log_level": "debug", "pg_host": "old", "pg_password": "******", "admin_listen": "10.0.0.1:8001"}
    survey["hosts"]["g1"]["gateway"]["settings"] = own
    survey["hosts"]["g2"]["admin_listen"] = "off"
    settings = fresh.build(survey)["settings"]
    assert settings["g1"]["log_level"] == "debug" and settings["g1"]["pg_host"] == "db"
    assert settings["g1"]["admin_listen"] == "10.0.0.1:8001" and settings["g2"]["admin_listen"] == "off"
    assert "pg_password" not in settings["g1"]


@pytest.mark.parametrize("changes, words", [
    ({"objects": [{"kind": "view", "name": "theirs"}]}, "is not empty: view theirs"),
    ({"objects": [{"kind": "table", "name": "t%d" % n} for n in range(20)]}, "and 8 more"),
    ({"schema_create": False}, "GRANT CREATE ON SCHEMA public TO kong"),
    ({"schema_owner": None, "database_create": False}, "GRANT CREATE ON DATABASE kong TO kong"),
    ({"in_recovery": True}, "standby"),
    ({"error": "no way"}, "kong_upgrade_create_database: true"),
])  # fmt: skip
def test_a_database_that_is_refused(survey, changes, words):
    survey["database"].update(changes)
    (problem,) = blockers(survey)
    assert words in problem


def test_a_kong_that_is_there_is_refused_unless_its_nodes_run_here(survey):
    bootstrapped(survey, services=3, routes=None)
    (problem,) = blockers(survey)
    assert "services: 3" in problem and "routes: ?" in problem and "workspaces" not in problem
    running(survey, "g1")
    result = fresh.build(survey)
    assert result["blockers"] == [] and result["todo"] == ["stage", "start"]
    running(survey, "g2")
    assert fresh.build(survey)["todo"] == []
    running(survey, "g2", admin_open=False)
    assert fresh.build(survey)["todo"] == ["start"]


def test_only_an_own_bootstrap_that_was_interrupted_goes_on_and_only_without_configuration(survey):
    bootstrapped(survey, "new")
    (problem,) = blockers(survey)
    assert "core: 015_270_to_280" in problem and "no configuration" in problem
    survey["hosts"]["g1"]["record"] = {"bootstrap": "postgres db:5432/other, schema public"}
    assert len(blockers(survey)) == 1
    survey["hosts"]["g1"]["record"] = RECORD
    result = fresh.build(survey)
    assert result["blockers"] == [] and result["interrupted"] and "bootstrap" in result["todo"]
    survey["database"]["counts"]["consumers"] = 1
    assert "consumers: 1" in blockers(survey)[0]


def test_one_datastore_of_a_kind_that_can_be_bootstrapped(survey):
    survey["hosts"]["g2"]["settings"]["pg_database"] = "other"
    assert any("several datastores" in problem for problem in blockers(survey))
    survey["hosts"]["g2"]["settings"] = {"database": "off"}
    assert any("the datastore is off" in problem for problem in blockers(survey))
    survey["hosts"]["g2"]["settings"] = {"pg_port": "many"}
    assert any("g2: " in problem and "pg_port" in problem for problem in blockers(survey))
    running(survey, "g1")
    survey["hosts"]["g1"]["gateway"]["datastore"] = dict(STORE, database="used")
    assert any("runs there on postgres db:5432/used" in problem for problem in blockers(survey))


SERVER = {"login": "dba", "superuser": False, "createdb": True, "createrole": True, "role": False, "database": False}


@pytest.mark.parametrize("server, given, made, words", [
    ({}, True, {"role": True, "database": True}, None),
    ({"role": True}, False, {"role": False, "database": True}, None),
    ({"role": True, "database": True}, True, {"role": False, "database": False}, None),
    ({"database": True}, True, {"role": False, "database": False}, "not the role kong"),
    ({}, False, {"role": True, "database": True}, "no password for the role kong"),
    ({"createrole": False}, True, {"role": True, "database": True}, "no CREATEROLE"),
    ({"createdb": False}, True, {"role": True, "database": True}, "no CREATEDB"),
])  # fmt: skip
def test_role_and_database_are_made_where_they_are_missing(survey, server, given, made, words):
    survey["options"].update(create_database=True, password_given=given)
    survey["database"] = {"server": {**SERVER, **server}}
    result = fresh.build(survey)
    assert result["make"] == dict(made, keyspace=False, replication=None)
    assert [words in problem["what"] for problem in result["blockers"]] == ([True] if words else [])


def test_the_datastore_is_known_before_kong_conf_is_written():
    store = fresh.datastore({"settings": {"pg_host": "old", "pg_password": "******"}}, {"pg_host": "db", "pg_port": 6432})
    assert (store["host"], store["port"], store["database"]) == ("db", 6432, "kong")
    assert fresh.datastore(None, {"pg_port": "many"}) == {}


# ---- Cassandra ---------------------------------------------------------------------------------------------------


@pytest.fixture(name="empty")
def fixture_empty(survey):
    """The same on a Cassandra without the keyspace."""
    nodes = [{"address": "10.0.2.%d" % n, "datacenter": "dc1", "schema_version": "s", "answers": True} for n in (1, 2, 3)]
    for seen in survey["hosts"].values():
        seen.update(settings={"database": "cassandra", "cassandra_contact_points": "c1"}, secret_settings=["cassandra_password"])
    survey["datastore"] = {"kind": "cassandra", "contact_points": ["c1"], "port": 9042, "keyspace": "kong", "user": "kong"}
    survey["database"] = {
        "kind": "cassandra", "keyspace": "kong", "contact_points": ["c1"], "port": 9042, "login_role": "kong", "permissions": None,
        "server_version": "3.11.19", "nodes": nodes, "schema_agreed": True, "replication": None, "objects": [],
        "counts": {}, "migrations": {"state": "needs_bootstrap", "new": {}, "pending": {}, "executed": {}, "lock": None},
    }
    return survey


def test_a_keyspace_is_made_only_where_that_is_wanted(empty):
    (problem,) = blockers(empty)
    assert problem.startswith("keyspace kong at c1: is not there") and "kong_upgrade_create_database: true" in problem
    empty["options"]["create_database"] = True
    result = fresh.build(empty)
    assert result["blockers"] == [] and result["make"] == {"role": False, "database": False, "keyspace": True, "replication": None}
    assert "To be made: keyspace." in result["summary"]
    assert any("has 1 copy of each row on 3 nodes" in item["what"] for item in result["warnings"])


@pytest.mark.parametrize("settings, replication", [
    ({}, {"class": "SimpleStrategy", "replication_factor": 1}),
    ({"cassandra_repl_factor": 3}, {"class": "SimpleStrategy", "replication_factor": 3}),
    ({"cassandra_repl_strategy": "NetworkTopologyStrategy", "cassandra_data_centers": "east:3, west:2"},
     {"class": "NetworkTopologyStrategy", "east": 3, "west": 2}),
])  # fmt: skip
def test_an_administrator_makes_role_and_keyspace(empty, settings, replication):
    empty["options"]["create_database"] = True
    empty["hosts"]["g1"]["settings"].update(settings)
    empty["database"]["permissions"] = ["CREATE"]  # of the administrator, not of Kong's role
    empty["administrator"] = ["role", "keyspace"]
    result = fresh.build(empty)
    assert result["blockers"] == []
    assert result["make"] == {"role": True, "database": False, "keyspace": True, "replication": replication}
    assert "To be made: role and keyspace." in result["summary"]
    empty["administrator"] = {"error": "Cassandra asks nobody for a login"}
    assert any("kong_upgrade_database_admin_user: Cassandra asks nobody" in line for line in blockers(empty))


def test_a_keyspace_in_use_is_refused(empty):
    empty["database"].update(
        replication={"class": "SimpleStrategy", "factors": {"*": 3}}, objects=[{"kind": "table", "name": "theirs", "identity": "x"}])
    (problem,) = blockers(empty)
    assert "keyspace kong at c1: is not empty: table theirs" in problem and "cassandra_keyspace" in problem
    empty["database"].update(counts={"consumers": 4})
    empty["database"]["migrations"].update(state="up_to_date")
    (problem,) = blockers(empty)
    assert "holds a Kong already (consumers: 4)" in problem
