# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenarios of an upgrade on a real Cassandra that wants a password: both colours on one keyspace, and a window.

With BLUE_KONG and GREEN_KONG in the environment they run on those kong commands, else on the stand-in; those of one keyspace
are for a blue from 2.1 on, those of a window for an older one.
"""

import contextlib
import os
import re
import socket
import subprocess

import pytest
from bed import cassandra, seed
from bed.bed import REPOSITORY
from bed.cassandra_bed import CassandraBed
from bed.hosts import ADMIN, PROXY
from bed.process import wait_for
from scenes import KONGS, Scene, open_admin

pytestmark = [
    pytest.mark.skipif(cassandra.missing() is not None, reason=str(cassandra.missing())),
    pytest.mark.timeout(900),  # a run has many phases, and Cassandra is started again in its middle
]
OVERLAP = {"kong_upgrade_lock_timeout": 20, "kong_upgrade_measured_way": True}  # the latter for a real blue of 2.1
WINDOW = {"kong_upgrade_strategy": "downtime_window", "kong_upgrade_window_limit": 120}


class CassandraScene(CassandraBed, Scene):
    """A scene whose Kong lives on Cassandra."""

    def schema(self):
        rows = self.cassandra.execute("SELECT subsystem, executed, pending FROM kong.schema_meta")
        return {row["subsystem"]: (sorted(row["executed"] or ()), sorted(row["pending"] or ())) for row in rows}

    def snapshots(self):
        """Names of the snapshots of the keyspace, of each node."""
        return [{path.name for path in node.home.glob("data/kong/*/snapshots/*")} for node in self.ring]

    def forget(self):
        """Close the test's own connections, which nobody accounts for."""
        for node in self.ring:
            node.forget()


def taken(host):
    """While inside, another program listens where this node is to."""
    return socket.create_server((host.address, PROXY))


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """stage(blue_version, ...) -> a CassandraScene; all that were made are taken down with the module."""
    with contextlib.ExitStack() as scenes:
        def make(blue_version, **shape):
            shape = {"nodes": 1, "batches": 1, "lbs": 1, "blue_version": blue_version, **KONGS, **shape}
            return scenes.enter_context(CassandraScene(tmp_path_factory.mktemp("bed") / "bed", **shape))

        yield make


# ---- both colours on one keyspace --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overlapping(stage):
    bed = stage("2.2.2", restarts=True)
    if bed.versions()["blue"] < "2.1":
        pytest.skip("this blue cannot share a keyspace")
    return bed


def test_cassandra_dies_in_the_middle_of_up_and_the_same_command_goes_on(overlapping):
    bed = overlapping
    source = bed.versions()["blue"]
    run = bed.start("upgrade.yml", **OVERLAP)
    assert bed.pending() == []
    run.wait_until(bed.pending, "`up` has recorded a migration", timeout=200)
    bed.cassandra.kill()
    broken = run.end()
    assert "replication 1, the schema is agreed on" in broken.words
    assert "KONG-270-CASSANDRA" in broken.words and "up` will run core: " in broken.words
    assert broken.rc != 0 and "stopped in phase expand" in broken.report["headline"]
    bed.cassandra.start()
    bed.forget()
    with bed.traffic():
        bed.done("upgrade.yml", **OVERLAP)
    assert bed.serves("green") and open_admin(bed.hosts) == []
    assert all(any(name.startswith(f"kong-{source}-") for name in names) for names in bed.snapshots())


def test_a_client_that_no_green_node_accounts_for_stands_in_the_way_of_finish(overlapping):
    bed = overlapping
    assert bed.schema()["core"], "the test itself is connected"
    outcome = bed.refused("finish.yml", **OVERLAP)
    assert "no green node has the socket 127.0.0.1:" in outcome.words and "at cassandra1" in outcome.words
    bed.forget()
    outcome = bed.done("finish.yml", **OVERLAP)
    assert "finished" in outcome.report["headline"] and bed.unfinished() == []
    again = bed.done("upgrade.yml", kong_upgrade_until="finish", **OVERLAP)
    assert not any(again.changed.values()), again.tail


def test_back_to_the_snapshot_as_the_guide_has_it(overlapping):
    bed = overlapping
    old = bed.versions()["blue"]
    seed.Admin(bed.green[0].address, ADMIN).post("/consumers", {"username": "late"})
    for name in ("restore.yml", "rollback.yml"):
        assert any("docs/cassandra.md, Back to the snapshot" in problem for problem in bed.refused(name, **OVERLAP).blockers)
    (names,) = bed.snapshots()  # the first one is from before the `up` that was interrupted
    snapshot = min((name for name in names if name.startswith(f"kong-{old}-")), key=lambda name: int(name.rpartition("-")[2]))
    for host in bed.green:
        host.kong("quit", "-p", host.prefix, conf=False)
    data = bed.cassandra.home / "data"
    made = "".join(path.read_text(encoding="utf-8") for path in sorted(data.glob(f"kong/*/snapshots/{snapshot}/schema.cql")))
    for row in bed.cassandra.execute("SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'kong'"):
        bed.cassandra.execute(f"DROP TABLE kong.{row['table_name']}")
    for statement in made.split(";"):
        if statement.strip():
            bed.cassandra.execute(statement)
    guide = (REPOSITORY / "docs" / "cassandra.md").read_text(encoding="utf-8")
    (rows,) = re.findall(r"^   ```bash\n(   name=[^\n]*\n   for folder .*?)^   ```$", guide, re.M | re.S)
    script = re.sub(r"name=\S+", f"name={snapshot}", rows.replace("/var/lib/cassandra/data", str(data)), count=1)
    for node in bed.ring:
        path = f"{node.nodetool.parent}:{os.environ['PATH']}"
        subprocess.run(["sh", "-eu", "-c", script], env={**node.env, "PATH": path}, check=True, capture_output=True, timeout=120)
    bed.forget()
    bed.done("rollback.yml", kong_upgrade_base_weights={host.name: 100 for host in bed.blue}, **OVERLAP)
    assert bed.serves("blue") and open_admin(bed.hosts) == ["blue1"]
    # In a keyspace of 2.1 and later the id of the workspace goes before.
    people = {row["username"].rpartition(":")[2] for row in bed.cassandra.execute("SELECT username FROM kong.consumers")}
    assert people == set(bed.people), "without the one that came late"
    with bed.traffic() as load:
        wait_for(lambda: load.figures()["requests"] > 100, 30, "everybody is answered as before")
    bed.forget()


def test_a_window_in_which_green_cannot_start_goes_back_where_finish_rewrote_nothing(overlapping):
    bed = overlapping
    bed.forget()
    with taken(bed.green[0]):
        outcome = bed.refused("upgrade.yml", kong_upgrade_until="finish", kong_upgrade_lock_timeout=20, **WINDOW)
    assert "rolled back: no green node could be started" in outcome.report["headline"]
    assert "of green answers" not in outcome.report["headline"]
    assert bed.serves("blue") and open_admin(bed.hosts) == ["blue1"] and not bed.green[0].pid()


# ---- a window ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def windowed(stage):
    bed = stage("2.0.5", ring=3, nodes=2)
    if bed.versions()["blue"] >= "2.1":
        pytest.skip("this blue needs no window")
    return bed


def test_a_hop_that_one_keyspace_cannot_take_is_refused_with_the_ways_out(windowed):
    outcome = windowed.refused("plan.yml")
    assert len(outcome.blockers) == 1, outcome.blockers
    assert "is not done by blue_green" in outcome.blockers[0]
    assert "new_keyspace (" in outcome.blockers[0] and "downtime_window (" in outcome.blockers[0]


def test_all_that_can_be_done_is_done_before_the_window(windowed):
    bed = windowed
    with bed.traffic(slow=1):
        outcome = bed.done("upgrade.yml", **WINDOW)
    assert "Take the window with" in outcome.report["headline"]
    assert "3 nodes, replication 3, the schema is agreed on" in outcome.words
    assert [len(names) for names in bed.snapshots()] == [1, 1, 1]
    assert bed.pending() and bed.serves("blue") and open_admin(bed.hosts) == ["blue1", "blue2"] and not bed.green[0].pid()
    bed.forget()


def test_a_window_that_takes_too_long_is_rolled_back(windowed):
    bed = windowed
    outcome = bed.refused("finish.yml", **{**WINDOW, "kong_upgrade_window_limit": 1})
    assert "rolled back" in outcome.report["headline"] and bed.serves("blue") and open_admin(bed.hosts) == ["blue1", "blue2"]
    assert bed.pending() and not bed.green[0].pid()
    bed.forget()


def test_the_window(windowed):
    bed = windowed
    load = bed.load(rate=40, slow=0)
    with taken(bed.green[1]):
        partly = bed.refused("finish.yml", **WINDOW)
    assert "stopped in phase window on green2. kong start failed: nginx: [emerg] bind()" in partly.report["headline"]
    assert partly.report["headline"].count("Address already in use") == 1 and bed.serves("green")
    bed.forget()
    bed.done("finish.yml", **WINDOW)
    result = load.stop()
    told = float(re.search(r"The rest of green answers; nobody was answered for ([\d.]+) s", partly.report["headline"])[1])
    failing = [second for second, dummy, failed in result["seconds"] if failed]
    assert 0 <= failing[-1] - failing[0] <= told + 2, "a part of green answers alone, and goes on doing so"
    assert set(result["versions"]) == {"blue", "green"}
    seed.wait_served(bed.green[0].address, PROXY, bed.requests())
    assert bed.unfinished() == [] and bed.serves("green")
    bed.forget()
    again = bed.done("finish.yml", **WINDOW)
    assert not any(again.changed.values()), again.tail


def test_the_window_in_which_cassandra_dies(stage):
    bed = stage("2.0.5", restarts=True)
    if bed.versions()["blue"] >= "2.1":
        pytest.skip("this blue needs no window")
    bed.done("upgrade.yml", **WINDOW)
    bed.forget()
    load = bed.load(rate=40, slow=0)
    run = bed.start("finish.yml", **WINDOW)
    run.wait_for("Window | kong migrations finish")  # not before: nobody accounts for a session of ours
    run.wait_until(lambda: "009_200_to_210" in bed.migrations()["core"][0], "`finish` has begun")
    bed.cassandra.kill()
    broken = run.end()
    assert broken.rc != 0 and "stopped in phase window" in broken.report["headline"], broken.tail
    bed.cassandra.start()
    bed.forget()
    with taken(bed.green[0]):
        outcome = bed.refused("finish.yml", **WINDOW)
    assert "there is no way back: no green node could be started" in outcome.report["headline"]
    outcome = bed.done("finish.yml", **{**WINDOW, "kong_upgrade_window_limit": 1})  # nothing goes back once finish has begun
    result = load.stop()
    told = float(re.search(r"Nobody was answered for ([\d.]+) s", outcome.report["headline"])[1])
    failing = [second for second, dummy, failed in result["seconds"] if failed]
    lasted = failing[-1] - failing[0]
    assert lasted - 2 <= told <= lasted + 15, (failing[0], failing[-1], told, "from the first quit on, of whichever run")
    assert bed.unfinished() == [] and bed.serves("green")


# ---- a new cluster -----------------------------------------------------------------------------------------------


def test_bootstrap(stage):
    bed = stage("2.7.2", fresh=True)
    inventory = bed.inventory_with("fresh", lambda data: data["all"]["children"]["kong_green"]["hosts"]["green1"][
        "kong_upgrade_settings"].update(bed.database_settings(), db_update_frequency=1))
    outcome = bed.refused("bootstrap.yml", inventory=inventory)
    assert len(outcome.blockers) == 1 and "is not there" in outcome.blockers[0]
    outcome = bed.done("bootstrap.yml", inventory=inventory, kong_upgrade_create_database=True)
    assert "To be made: keyspace" in outcome.words and open_admin(bed.hosts) == ["green1"]
    assert bed.schema()["core"][0] and bed.pending() == []
    bed.kill_node(bed.green[0])
    outcome = bed.refused("bootstrap.yml", inventory=inventory)
    assert len(outcome.blockers) == 1 and "holds a Kong already" in outcome.blockers[0]

    # Another keyspace, and a role that has rights on that one alone: an administrator makes both.
    own = {"cassandra_username": "gateway", "cassandra_keyspace": "gateway", "db_update_frequency": 1}
    inventory = bed.inventory_with("own", lambda data: data["all"]["children"]["kong_green"]["hosts"]["green1"][
        "kong_upgrade_settings"].update({**bed.database_settings(), **own}))
    more = {"kong_upgrade_create_database": True, "kong_upgrade_secret_settings": {"cassandra_password": "it's 100% ours"}}
    outcome = bed.refused("bootstrap.yml", inventory=inventory, kong_upgrade_database_admin_password="not-the-one", **more)
    assert any("kong_upgrade_database_admin_user: Cannot connect" in problem for problem in outcome.blockers)
    more["kong_upgrade_database_admin_password"] = cassandra.SUPERUSER
    assert not any(bed.done("bootstrap.yml", inventory=inventory, options=["--check"], **more).report["failures"])
    outcome = bed.done("bootstrap.yml", inventory=inventory, **more)
    assert "To be made: role and keyspace" in outcome.words and open_admin(bed.hosts) == ["green1"]
    assert "100% ours" not in outcome.output
    resources = {row["resource"] for row in bed.cassandra.execute("LIST ALL PERMISSIONS OF gateway")}
    assert "<keyspace gateway>" in resources and "<all keyspaces>" not in resources
    again = bed.done("bootstrap.yml", inventory=inventory, **more)
    assert not any(again.changed.values()), again.tail
