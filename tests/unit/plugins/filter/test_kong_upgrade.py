# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import subprocess
import sys

import pytest
from ansible_collections.bluegreen.kong.plugins.filter import kong_upgrade
from ansible_collections.bluegreen.kong.plugins.filter.kong_upgrade import (
    kong_upgrade_controller,
    kong_upgrade_failures,
    kong_upgrade_hops_refusal,
    kong_upgrade_is_dead,
    kong_upgrade_proof,
    kong_upgrade_weights_record,
    was_interrupted,
)


@pytest.fixture
def ended():
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("other, dead", [
    ({}, True),
    ({"namespace": "pid:[1]"}, False),  # another container of this machine: its pid says nothing here
    ({"namespace": "pid:[1]", "boot": "of yesterday"}, True),
    ({"controller": "elsewhere"}, False),
    # another machine of that name, which is at work
    ({"boot": "of another", "machine": "another"}, False),
    ({"boot": "of another", "machine": ""}, False),
])  # fmt: skip
def test_whose_end_is_known(ended, other, dead):
    assert kong_upgrade_is_dead({**kong_upgrade_controller(), "pid": ended, **other}) is dead


def test_a_machine_without_an_id_is_no_known_one(ended, monkeypatch):
    monkeypatch.setattr(kong_upgrade, "MACHINE_ID", "/nonexistent")
    assert not kong_upgrade_is_dead({**kong_upgrade_controller(), "boot": "of another"})
    assert kong_upgrade_is_dead({**kong_upgrade_controller(), "pid": ended})


def test_who_is_at_work_is_not_dead():
    assert not kong_upgrade_is_dead(kong_upgrade_controller())


def test_a_run_may_have_a_name():
    assert kong_upgrade_controller("awx-workflow-7")["run_id"] == "awx-workflow-7"


@pytest.mark.parametrize("versions, source", [
    (["2.0.5", "2.0.5"], {"source": "2.0.5"}),
    (["2.0.5", None], {"source": "2.0.5"}),  # one that does not run
    (["2.0.5", "2.1.4"], {}),
    ([None, None], {}),
])  # fmt: skip
def test_the_record_has_the_version_of_blue(versions, source):
    def host(version):
        return {"__kong_upgrade_gateway": {"ansible_facts": {"kong_gateway": {"node": version and {"version": version}}}}}

    hostvars = {"b1": host(versions[0]), "b2": host(versions[1]), "g1": {}}
    found = {"haproxy": [{"servers": [{"backend": "kong", "name": name, "weight": weight} for name, weight in (("b1", 9), ("g1", 0))]}]}
    record = kong_upgrade_weights_record(found, hostvars, ["g1"], blue=["b1", "b2"])
    begins = versions != [None, None]  # else nobody serves: a window is open, and what the run before remembered of it stays
    assert record == {"remember": {"base_weights": {"kong": {"b1": 9, "g1": 0}}, **source}, "forget": begins}


@pytest.mark.parametrize("named, at_work, alive, interrupted", [
    (False, "run r1", False, True),
    (False, None, True, True),  # the lock has expired
    (False, "run r1", True, False),
    (True, "run w1", False, False),  # a workflow keeps its lock from step to step
    (True, None, False, False),
])  # fmt: skip
def test_a_run_that_ended_before_its_time(ended, named, at_work, alive, interrupted):
    me = kong_upgrade_controller()
    pid = me["pid"] if alive else ended
    name = "w1" if named else "%s-%s-%s" % (me["controller"], pid, me["started"])
    assert was_interrupted({"holder": {**me, "pid": pid, "run_id": name}, "at_work": at_work}) is interrupted


def test_every_node_of_cassandra_is_watched_to_its_end():
    begun = {"results": [
        {"item": "c1", "ansible_job_id": "1", "started": 1}, {"item": "c2", "ansible_job_id": "2", "started": 1},
        {"item": "c3", "unreachable": True, "msg": "no route"}]}
    seen = {"client_addr": "10.0.1.1", "client_port": 4711, "samples": 3, "first_seen": 1.0, "last_seen": 2.0}
    ended = {"results": [
        {"item": "c1", "finished": 1, "cassandra_node": {"host_id": "h1", "clients": [seen]}},
        {"item": "c2", "finished": 1, "failed": True, "msg": "nodetool ended with 1"}, {"item": "c3", "skipped": True}]}
    nodes = [{"host_id": "h1", "address": "10.0.2.1"}]
    problems = kong_upgrade_proof({}, [], [], "2.8.5", [], [], clients=[begun, ended], nodes=nodes)["problems"]
    assert [line for line in problems if "c1" not in line] == [
        "who is connected to the database is not seen: c2: nodetool ended with 1",
        "who is connected to the database is not seen: c3: unreachable: no route"]
    assert "10.0.1.1:4711 at c1" in problems[-1]


def failed(host, task="Shift | Judge green against blue", message="no attribute"):
    return {"__kong_upgrade_failure": {"host": host, "task": task, "message": message}}


@pytest.mark.parametrize(
    ("hostvars", "alive", "told"),
    [
        ({"a": failed("a"), "b": {}, "c": {}}, ["a", "b", "c"], ["a"]),
        # lost, and another failed for it
        ({"a": failed("a"), "b": {}, "c": {}}, ["a", "c"], ["b became unreachable", "a"]),
        ({"a": {}, "b": {}}, ["a"], ["b became unreachable"]),
        # A task that runs once takes all others out of the play when it fails: those of its block are rescued without a task of their own,
        ({"a": failed("a"), "b": failed("b", "", "failed"), "c": {}}, ["a"], ["a"]),
        # and those that are not in the phase say nothing.
        ({"a": failed("a"), "b": {}, "c": {}}, ["a"], ["a"]),
        # it was lost while it did what was to be done once
        ({"a": {}, "b": failed("b", "", "failed")}, [], ["a became unreachable"]),
    ],
)  # fmt: skip
def test_what_failed_and_who_was_lost(hostvars, alive, told):
    found = kong_upgrade_failures(hostvars, list(hostvars), alive)
    lost = ["%s became unreachable" % failure["host"] for failure in found if failure["task"] == "connection"]
    assert lost + [failure["host"] for failure in found[len(lost):]] == told
    assert all("or a host on which it had something to do" in failure["message"] for failure in found[: len(lost)])


@pytest.mark.parametrize(
    ("given", "found", "path"),
    [
        ("running", [{"state_file": "/var/lib/haproxy/state", "servers": []}], "/var/lib/haproxy/state"),
        ("running", [], "running"),  # its configuration could not be read
        ("/srv/state", [{"state_file": "/var/lib/haproxy/state", "servers": []}], "/srv/state"),
        (None, [{"state_file": "/var/lib/haproxy/state", "servers": []}], ""),
    ],
)
def test_a_state_file_is_told_by_its_path(given, found, path):
    assert kong_upgrade.state_file({"kong_upgrade_haproxy_state_file": given, "__kong_upgrade_lb": {"haproxy": found}}) == path


OFF, POSTGRES = {"kind": "off"}, {"kind": "postgres", "host": "db"}


@pytest.mark.parametrize(
    ("told", "first"),
    [([OFF, POSTGRES, POSTGRES], 1), ([None, OFF, OFF], 1), ([None, None], None), ([], None), ([POSTGRES, OFF], 0)],
)
def test_the_first_node_with_a_database_counts(told, first):
    hostvars = {"skipped": {"__kong_upgrade_gateway": {"skipped": True}}, "new": {}}
    for number, datastore in enumerate(told):
        fact = {"conf": "/etc/%d" % number, "datastore": datastore}
        hostvars["host%d" % number] = {"__kong_upgrade_gateway": {"ansible_facts": {"kong_gateway": fact}}}
    found = kong_upgrade.kong_upgrade_first_node(hostvars, list(hostvars))
    assert found.get("conf") == (None if first is None else "/etc/%d" % first)


def test_hops_that_are_none_are_told_in_the_words_of_the_plan():
    assert kong_upgrade_hops_refusal([{"target_version": "2.8.5", "green_group": "kong_green"}]) == []
    first, second = kong_upgrade_hops_refusal("1.5.1,2.8.5")
    assert first == "1 problem before the first change:" and second.startswith("kong_upgrade_hops: is no list of hops. Give a list")
