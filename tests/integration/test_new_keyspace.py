# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenarios of strategy new_keyspace on the bed: a cluster on Cassandra moves into a keyspace of its own or to PostgreSQL, under load.

With BLUE_KONG and GREEN_KONG in the environment they run on those kong commands, else on the stand-in.
"""

import contextlib

import pytest
from bed import cassandra
from bed.cassandra_bed import KEYSPACE
from bed.new_keyspace_bed import GREEN_KEYSPACE, LeavingBed, NewKeyspaceBed
from bed.process import wait_for
from scenes import KONGS, Scene, open_admin

pytestmark = [pytest.mark.skipif(cassandra.missing() is not None, reason=str(cassandra.missing())), pytest.mark.timeout(1200)]
ENTITIES = (
    "services", "routes", "consumers", "plugins", "acls", "keyauth_credentials", "basicauth_credentials", "upstreams", "targets",
    "certificates", "snis")


class Moving(NewKeyspaceBed, Scene):
    """A scene on Cassandra whose green has a keyspace of its own."""

    def tables(self, keyspace):
        """The number of its tables."""
        return len(self.cassandra.execute("select table_name from system_schema.tables where keyspace_name = %s", keyspace))

    def rows(self, keyspace):
        """{table: its rows, in the order of their ids}."""
        return {
            table: sorted(self.cassandra.execute(f"select * from {keyspace}.{table}"), key=lambda row: str(row["id"]))
            for table in ENTITIES}


class Leaving(LeavingBed, Moving):
    """A scene on Cassandra whose green has a PostgreSQL."""


@pytest.fixture
def stage(tmp_path):
    """stage(...) -> a scene, which is taken down at the end."""
    with contextlib.ExitStack() as scenes:
        def make(kind=Moving, **shape):
            return scenes.enter_context(kind(tmp_path / "bed", **{"nodes": 2, "lbs": 1, "blue_version": "2.0.5", **KONGS, **shape}))

        yield make


def test_all_of_it_and_back(stage):
    bed = stage()
    before = bed.rows(KEYSPACE)
    with bed.traffic():
        shifted = bed.done("upgrade.yml", kong_upgrade_until="shift", kong_upgrade_vault_password="of the test")
        kept = [path.read_text(encoding="utf-8") for path in (bed.directory / "backup").iterdir()]
        assert len(kept) == 2 and all(text.startswith("$ANSIBLE_VAULT;") for text in kept), "the backup's and the transfer's"
        assert "its Admin API is closed" in shifted.report["headline"]
        assert bed.serves("green") and open_admin(bed.hosts) == []
        assert bed.rows(KEYSPACE) == before, "blue's keyspace is as it was"
        new = bed.rows(GREEN_KEYSPACE)
        assert {name: [row["id"] for row in rows] for name, rows in new.items()} == {
            name: [row["id"] for row in rows] for name, rows in before.items()}
        wanted = bed.green[0].directory / "state" / "copying"
        wanted.touch()  # as a run that was killed leaves it, and what goes on copying for as long
        bed.done("rollback.yml")
        assert not wanted.exists()
        assert bed.serves("blue") and open_admin(bed.hosts) == [host.name for host in bed.blue]
        bed.done("upgrade.yml")
        (late,) = (row["id"] for row in before["services"] if row["name"] == "origin")
        bed.cassandra.execute(f"update {KEYSPACE}.services set retries = 7 where partition = 'services' and id = %s", late)
        refused = bed.refused("finish.yml")
        assert f"services origin ({late}) is different in retries" in refused.words and open_admin(bed.hosts) == []
        bed.done("finish.yml", kong_upgrade_accept_differences=True)
    assert bed.unfinished() == [] and bed.green_migrated() == 0
    assert {GREEN_KEYSPACE, KEYSPACE} <= bed.keyspaces()
    (refused,) = bed.refused("rollback.yml").blockers
    assert f"blue's keyspace {KEYSPACE} is whole" in refused and "docs/cassandra.md, Back to the old keyspace" in refused
    for host in bed.green:
        host.kong("quit", "-p", host.prefix, conf=False)
    for host in bed.blue:
        shut, opened = "admin_listen = off\n", f"admin_listen = {host.listeners()['admin_listen']}\n"
        host.conf.write_text(host.conf.read_text(encoding="utf-8").replace(shut, opened), encoding="utf-8")
    bed.done("rollback.yml", kong_upgrade_base_weights={host.name: 100 for host in bed.blue})
    assert bed.serves("blue") and open_admin(bed.hosts) == [host.name for host in bed.blue]


def test_out_of_cassandra_and_back(stage):
    bed = stage(Leaving)

    def issue(session, seconds=3600):
        bed.cassandra.execute(
            f"insert into {KEYSPACE}.sessions (id, created_at, session_id, data) values (uuid(), toTimestamp(now()), %s, 'of blue')"
            f" using ttl {seconds}", session)

    def sessions():
        return dict(bed.sql("select session_id, extract(epoch from ttl - now())::int from sessions"))

    before = bed.rows(KEYSPACE)
    bed.sql("create table of_another (id int)")
    (refused,) = bed.refused("plan.yml").blockers
    assert "is not empty: table of_another" in refused
    bed.sql("drop table of_another")
    issue("before")
    with bed.traffic():
        shifted = bed.done("upgrade.yml", kong_upgrade_until="shift")
        assert "sessions are in use" in shifted.words and "its Admin API is closed" in shifted.report["headline"]
        assert bed.serves("green") and open_admin(bed.hosts) == []
        for table, rows in before.items():
            assert bed.sql(f"select id::text from {table} order by 1") == [(str(row["id"]),) for row in rows], table
        issue("at the shift", 1800)
        bed.done("rollback.yml")
        assert bed.serves("blue") and open_admin(bed.hosts) == [host.name for host in bed.blue]
        again = bed.done("upgrade.yml")
        assert "holds configuration already" in again.words
        left = sessions()
        assert set(left) == {"before", "at the shift"} and 3000 < left["before"] <= 3600 and 1400 < left["at the shift"] <= 1800
        bed.done("finish.yml")
    assert bed.unfinished() == [] and bed.green_migrated() == 0
    assert bed.rows(KEYSPACE) == before and GREEN_KEYSPACE not in bed.keyspaces(), "Cassandra is as it was"


def test_cassandra_dies_in_every_step_and_the_same_command_goes_on(stage):
    bed = stage(nodes=1, batches=1, restarts=True)
    before = bed.rows(KEYSPACE)

    def killed(phase, look, what):
        """Cassandra dies in a run as soon as look() tells something, and is started again when that run has ended."""
        run = bed.start("upgrade.yml", kong_upgrade_lock_timeout=30)
        run.wait_until(look, what, timeout=250)
        bed.cassandra.kill()
        broken = run.end()
        bed.cassandra.start()
        for host in bed.hosts:
            if host.pid():  # a real one looks for a Cassandra that was down ever more seldom, after a minute at last
                wait_for(host.database_reachable, 70, f"{host.name} reaches its database again")
        assert broken.rc == 2 and f"stopped in phase {phase}" in broken.report["headline"], broken.tail
        assert bed.serves("blue"), bed.weights()
        return broken

    load = bed.load(rate=40)
    killed("transfer", lambda: GREEN_KEYSPACE in bed.keyspaces() and bed.tables(GREEN_KEYSPACE) > 10, "the bootstrap has begun")
    killed("transfer", lambda: list(bed.directory.glob("backup/.*transfer*/export.yml")), "the export has begun")
    killed("transfer", lambda: bed.cassandra.execute(f"select id from {GREEN_KEYSPACE}.consumers limit 1"), "the import has begun")
    broken = killed("shift", lambda: bed.weights()[0]["green1"][0] > 0, "traffic is shifted and what blue writes is copied")
    assert "could not be copied any more" in broken.words
    bed.done("upgrade.yml", kong_upgrade_until="finish")
    result = load.stop()
    assert {failure["server"] for failure in result["failures"]} <= {"green1"}, "blue serves from what it remembers, green had just begun"
    assert set(result["versions"]) == {"blue", "green"}
    assert bed.unfinished() == [] and bed.green_migrated() == 0
    assert bed.rows(KEYSPACE) == before, "blue's keyspace is as it was"
