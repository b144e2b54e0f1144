# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan of strategy new_keyspace says of green's keyspace, and of blue's Admin API."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import test_plan_cassandra
from ansible_collections.bluegreen.kong.plugins.plugin_utils import new_keyspace, plan
from ansible_collections.bluegreen.kong.plugins.plugin_utils.findings import Findings

fixture_survey, fixture_cluster = test_plan_cassandra.fixture_survey, test_plan_cassandra.fixture_cluster
PHASES = ["stage", "backup", "transfer", "start", "shift", "retire"]


@pytest.fixture(name="moving")
def fixture_moving(cluster):
    """moving(version of blue, state of green's keyspace) -> a sound survey of a cluster that moves into kong_2_8."""

    def make(version="2.0.5", state="needs_bootstrap", **options):
        made = cluster(version, **{"strategy": "new_keyspace", "phases": PHASES, **options})
        made["new_database"] = {"kind": "cassandra", "keyspace": "kong_2_8", "migrations": {"state": state, "new": {}, "pending": {}}}
        for host in ("g1", "g2"):
            made["hosts"][host]["settings"]["cassandra_keyspace"] = "kong_2_8"
        return made

    return make


def test_a_plan(moving):
    result = plan.build(moving())
    assert result["blockers"] == [] and result["todo"] == PHASES
    settings = result["settings"]["g1"]
    assert (settings["cassandra_keyspace"], settings["cassandra_data_centers"]) == ("kong_2_8", "dc1:3")
    assert "Schema: none; `bootstrap` will make it, in green's own keyspace or database." in result["summary"]
    assert any(line.startswith("Green's data will be in keyspace kong_2_8: an export of keyspace kong") for line in result["summary"])


def test_a_plan_that_leads_out_of_cassandra(moving):
    survey = moving()
    survey["new_database"] = EMPTY
    for host in ("g1", "g2"):
        survey["hosts"][host]["settings"].update(POSTGRES)
    result = plan.build(survey)
    assert result["blockers"] == [] and result["todo"] == PHASES and "cassandra_data_centers" not in result["settings"]["g1"]
    assert any("in schema public of database gate at db:5432, out of Cassandra" in line for line in result["summary"])


def test_what_is_done_is_not_done_again(moving):
    survey = moving(state="up_to_date")
    assert plan.build(survey)["todo"] == PHASES, "that the keyspace is there does not mean that all of it is in it"
    for host in ("g1", "g2"):
        survey["hosts"][host]["gateway"]["running"] = True
    assert "transfer" not in plan.build(survey)["todo"]


def test_a_rollback_opens_what_was_closed(moving):
    survey = moving(state="up_to_date", phases=["rollback"])
    assert plan.build(survey)["todo"] == []
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"]["node"]["settings"]["admin_listen"] = "off"
    survey["lbs"]["lb1"]["admin_listen"] = {"b1": "0.0.0.0:8001", "b2": "0.0.0.0:8001"}
    result = plan.build(survey)
    assert result["todo"] == ["rollback"] and result["blockers"] == []
    assert result["stands"]["blue_shut"] == {"b1": "0.0.0.0:8001", "b2": "0.0.0.0:8001"}


def test_a_rollback_after_finish_tells_that_the_old_keyspace_is_whole(moving):
    for phase in ("rollback", "restore"):
        survey = moving(state="up_to_date", phases=[phase])
        for host in ("g1", "g2"):
            survey["hosts"][host]["gateway"].update(running=True, node={"admin_open": True})
        told = [problem["do"] for problem in plan.build(survey)["blockers"] if problem["where"] == phase]
        assert [do.partition(":")[0] for do in told] == ["blue's keyspace kong is whole, and lacks what was written through green since"]


def survey(**more):
    return {
        "options": {"strategy": "new_keyspace", "database_host": "g1", "steps": [50, 100]}, "groups": {"blue": ["b1", "b2"]},
        "datastore": {"kind": "cassandra", "keyspace": "kong"}, "new_database": {}, "database": {}, "lbs": {},
        "hosts": {"g1": {"settings": {}}, "g2": {"settings": {}}}, **more}


@pytest.mark.parametrize("names, new, words", [
    (["kong_2_8", "kong_2_8"], {"kind": "cassandra", "migrations": {"state": "needs_bootstrap"}}, None),
    (["kong_2_8", "kong_2_8"], {"migrations": {"state": "up_to_date"}}, None),
    (["kong", "kong"], {}, "cassandra_keyspace in kong_upgrade_settings of green, such as kong_2_8"),
    (["kong-2.8", "kong-2.8"], {}, "cassandra_keyspace kong-2.8 is no name that Cassandra takes letters, digits and _"),
    (["k" * 49, "k" * 49], {}, "is no name that Cassandra takes"),
    (["kong_a", "kong_b"], {}, "several databases: keyspace kong_a, keyspace kong_b"),
    (["kong_2_8", "kong_2_8"], {"error": "refused"}, "refused"),
    (["kong_2_8", "kong_2_8"], {"permissions": ["SELECT"], "replication": None, "login_role": "kong"}, "may not make keyspace kong_2_8"),
    (["kong_2_8", "kong_2_8"], {"permissions": ["SELECT"], "replication": {"class": "SimpleStrategy"}}, None),
])
def test_green_has_a_keyspace_of_its_own(names, new, words):
    found = Findings()
    settings = {host: {"database": "cassandra", "cassandra_keyspace": name} for host, name in zip(("g1", "g2"), names)}
    new_keyspace.check(survey(new_database=new), settings, found)
    told = ["%(where)s %(what)s %(do)s" % blocker for blocker in found.blockers]
    assert len(told) == (words is not None) and (words or "") in "".join(told)


@pytest.mark.parametrize("settings, told", [
    ({"g1": {"database": "cassandra", "cassandra_keyspace": "kong_2_8"}}, 1),
    ({"g1": {"database": "cassandra", "cassandra_keyspace": "kong"}}, 0),
    ({}, 0),  # no host in green's group
])
def test_a_bootstrap_that_was_interrupted_is_told_of_a_keyspace_of_greens_own(settings, told):
    found = Findings()
    new_keyspace.check(survey(new_database={"migrations": {"state": "new"}}), settings, found)
    assert len([row for row in found.warnings if "as after a bootstrap that was interrupted" in row["what"]]) == told


def test_what_nodes_write_while_they_serve_is_told(moving):
    survey = moving()
    survey["database"]["answers"] = {"sessions": {"found": ["1"], "more": False}, "oauth2_tokens": {"found": [], "more": False}}
    (told,) = [warning for warning in plan.build(survey)["warnings"] if "unknown to blue" in warning["what"]]
    assert told["what"].startswith("sessions are in use") and "kong_upgrade_steps: [100]" in told["do"]
    survey["options"]["steps"] = [100]
    assert not [warning for warning in plan.build(survey)["warnings"] if "unknown to blue" in warning["what"]]


@pytest.mark.parametrize("kept, made", [
    ({"class": "SimpleStrategy", "factors": {"*": 3}}, {"cassandra_repl_strategy": "SimpleStrategy", "cassandra_repl_factor": 3}),
    ({"class": "NetworkTopologyStrategy", "factors": {"east": 3, "west": 2}},
     {"cassandra_repl_strategy": "NetworkTopologyStrategy", "cassandra_data_centers": "east:3,west:2"}),
    (None, {}),
])
def test_the_new_keyspace_is_kept_as_the_old_one(kept, made):
    settings = {
        "g1": {"database": "cassandra"}, "g2": {"database": "cassandra", "cassandra_repl_factor": 5}, "g3": {"database": "postgres"}}
    told = {"g1": {"settings": {}}, "g2": {"settings": {"cassandra_repl_factor": 5}}}
    new_keyspace.replicate(survey(database={"replication": kept}, hosts=told), settings)
    assert [set(values.items()) - {("database", "cassandra")} for values in settings.values()] == [
        set(made.items()), {("cassandra_repl_factor", 5)}, {("database", "postgres")}]


def test_which_admin_apis_the_upgrade_has_closed():
    def node(**settings):
        return {"gateway": {"settings": {"admin_listen": "127.0.0.1:8001"}, "node": {"settings": settings} if settings else None}}

    hosts = {"b1": node(admin_listen="off"), "b2": node(admin_listen="off")}
    assert new_keyspace.shut(survey(hosts=hosts)) == {}, "it was closed before, as far as anybody knows"
    remembered = {"lb1": {"admin_listen": {"b1": "10.0.0.1:8001", "b2": "off"}}}
    assert new_keyspace.shut(survey(hosts=hosts, lbs=remembered)) == {"b1": "10.0.0.1:8001"}
    assert new_keyspace.shut(survey(hosts={"b1": node(admin_listen="10.0.0.1:8001")}, lbs=remembered)) == {}
    assert new_keyspace.record({"b1": node(admin_listen="off")["gateway"], "b2": node()["gateway"], "b3": None}) == {
        "b1": "off", "b2": "127.0.0.1:8001"}


POSTGRES = {"database": "postgres", "pg_host": "db", "pg_database": "gate"}
EMPTY = {
    "kind": "postgres", "host": "db", "port": 5432, "database": "gate", "schema": "public", "role": "kong", "objects": [], "counts": {},
    "schema_owner": "kong", "schema_create": True, "in_recovery": False, "migrations": {"state": "needs_bootstrap"}}
DONE = {**EMPTY, "migrations": {"state": "up_to_date"}, "counts": {"workspaces": 1, "services": 2}}


@pytest.mark.parametrize("new, blocked, warned", [
    (EMPTY, None, None),
    ({**EMPTY, "objects": [{"kind": "table", "name": "orders"}]}, "is not empty: table orders", None),
    ({**EMPTY, "schema_create": False}, "role kong may not create tables in it", None),
    ({**EMPTY, "in_recovery": True}, "db:5432 is a standby", None),
    (DONE, None, "holds configuration already (services: 2)"),
    ({**DONE, "migrations": {"state": "pending"}, "counts": {}}, None, "not all of its migrations have run"),
])
def test_green_has_a_postgresql(new, blocked, warned):
    found = Findings()
    new_keyspace.check(survey(new_database=new), {"g1": POSTGRES, "g2": POSTGRES}, found)
    for told, words in ((found.blockers, blocked), (found.warnings, warned)):
        assert len(told) == bool(words) and all(words in each["what"] for each in told)


def test_where_green_s_data_will_be():
    blue = {"settings": {"database": "cassandra", "cassandra_keyspace": "kong", "cassandra_port": "9043", "cassandra_password": "******"}}
    assert new_keyspace.datastore(blue, {"cassandra_keyspace": "kong_2_8"})["keyspace"] == "kong_2_8"
    assert new_keyspace.datastore(blue, {"cassandra_keyspace": "kong_2_8"})["port"] == 9043
    there = new_keyspace.datastore(dict(blue, node={"settings": {"pg_port": "6432"}}), POSTGRES)
    assert (there["kind"], there["host"], there["port"], there["database"]) == ("postgres", "db", 6432, "gate")
    assert new_keyspace.datastore(blue, {"database": "mysql"}) == {}


def test_a_blue_on_postgresql_has_no_keyspace_to_leave():
    found = Findings()
    new_keyspace.check(survey(datastore={"kind": "postgres", "database": "kong"}), {"g1": POSTGRES}, found)
    assert [each["where"] for each in found.blockers] == ["kong_upgrade_strategy"]
