# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenarios of a bootstrap on the bed: a cluster on a datastore that holds nothing, and datastores that are refused.

With BLUE_KONG and GREEN_KONG in the environment they run on those kong commands, else on the stand-in.
"""

import contextlib
import json
import os
import signal
import urllib.request

import pytest
from bed.postgres import DATABASE, ROLE
from bed.process import members, wait_for
from scenes import ADMIN, connects, open_admin

ADMIN_LOGIN = {"kong_upgrade_create_database": True, "kong_upgrade_database_admin_user": "dba"}


@pytest.fixture
def fresh(stage):
    """A bed with an empty database and no node."""
    bed = stage(fresh=True)
    return bed


def inventory(bed, name="fresh", **variables):
    """An inventory without blue: what names the database is in the variables of green, as nobody else tells it."""
    def edit(data):
        children = data["all"]["children"]
        del children["kong_blue"], children["kong_lb"]
        data["all"]["vars"].pop("kong_upgrade_batches")
        for host in children["kong_green"]["hosts"].values():
            host["kong_upgrade_settings"] |= {**bed.database_settings(), "db_update_frequency": "1"}
        data["all"]["vars"] |= variables

    return bed.inventory_with(name, edit)


def tables(bed):
    return [row[0] for row in bed.sql("SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")]


def nothing_was_done(bed, outcome):
    """Refused before the first change: no node, no configuration, no lock."""
    assert outcome.report["result"] == "blocked", outcome.tail
    assert not any(host.pid() for host in bed.green)
    assert not any(host.conf.exists() for host in bed.green)
    run = bed.green[0].directory / "state" / "run.json"
    assert json.loads(run.read_text("utf-8")) == {"owner": None, "record": {}}


def test_fresh_cluster_serves_and_again_changes_nothing(fresh):
    hosts = inventory(fresh)
    outcome = fresh.done("bootstrap.yml", inventory=hosts)
    assert [phase["phase"] for phase in outcome.report["phases"]] == ["stage", "bootstrap", "start"]
    assert outcome.report["headline"] == f"Kong {fresh.versions()['green']} on a fresh datastore: every node is up."
    assert outcome.report["migrations"]["bootstrap"]["after"]["state"] == "up_to_date"
    assert "up to date" not in (fresh.report / "report.md").read_text(encoding="utf-8").partition("Migrations")[0]
    assert fresh.green_migrated() == 0
    assert open_admin(fresh.hosts) == [host.name for host in fresh.green]
    fresh.seed(fresh.green[0])
    for lb in fresh.lbs:
        lb.wait_up([host.name for host in fresh.green])
        for host in fresh.green:
            lb.ask(f"set server kong/{host.name} weight 100")
        with urllib.request.urlopen(f"http://{lb.address}:{lb.port}/open/health", timeout=10) as answer:
            assert answer.status == 200
    before = fresh.snapshot()
    again = fresh.done("bootstrap.yml", inventory=hosts)
    assert not any(again.changed.values()), again.tail
    assert "nothing to do" in again.report["headline"]
    assert fresh.snapshot() == before

    # A node that is down is brought up again; the database stays as it is.
    fresh.kill_node(fresh.green[1])
    outcome = fresh.done("bootstrap.yml", inventory=hosts)
    assert [phase["phase"] for phase in outcome.report["phases"]] == ["stage", "start"]
    assert fresh.snapshot()["schema"] == before["schema"]
    assert fresh.green[1].pid()
    # None runs any more: that the database is ours is nothing that it tells.
    for host in fresh.green:
        fresh.kill_node(host)
    outcome = fresh.refused("bootstrap.yml", inventory=hosts)
    (problem,) = outcome.blockers
    assert "services: 1" in problem
    assert "consumers: 3" in problem
    assert fresh.snapshot()["schema"] == before["schema"]


def test_admin_api_is_on_loopback_unless_told_otherwise(stage):
    bed = stage(nodes=1, batches=1, lbs=1, fresh=True)
    hosts = inventory(bed)
    text = hosts.read_text(encoding="utf-8")
    told = f"kong_upgrade_admin_listen: {bed.green[0].address}:{ADMIN}"
    assert told in text
    hosts.write_text(text.replace(told, "kong_upgrade_start_timeout: 30"), encoding="utf-8")
    check = bed.done("bootstrap.yml", inventory=hosts, options=["--check", "--diff"])
    assert check.report["result"] == "predicted"
    assert all(changed for host, changed in check.changed.items() if host != "localhost")
    assert tables(bed) == []
    assert not bed.green[0].conf.exists()
    assert bed.postgres.password not in check.output
    bed.done("bootstrap.yml", inventory=hosts)
    assert connects("127.0.0.1", ADMIN)
    assert not connects(bed.green[0].address, ADMIN)


@pytest.mark.parametrize("superuser", [True, False])
def test_role_and_database_are_made(fresh, superuser):
    with fresh.postgres.admin("postgres") as db:
        db.execute(f"DROP DATABASE {DATABASE}")
        db.execute(f"DROP ROLE {ROLE}")
        db.execute(f"CREATE ROLE dba LOGIN PASSWORD 'word of the dba' {'SUPERUSER' if superuser else 'CREATEDB CREATEROLE'}")
    hosts = inventory(fresh)
    outcome = fresh.refused("bootstrap.yml", inventory=hosts)
    assert "password authentication failed" in outcome.blockers[0]  # PostgreSQL does not tell that the role is missing
    outcome = fresh.refused("bootstrap.yml", inventory=hosts, **ADMIN_LOGIN, kong_upgrade_database_admin_password="wrong word")
    assert "dba" in outcome.blockers[0]
    nothing_was_done(fresh, outcome)
    word = {"kong_upgrade_database_admin_password": "word of the dba"}
    fresh.done("bootstrap.yml", inventory=hosts, options=["--check"], **ADMIN_LOGIN, **word)
    with fresh.postgres.admin("postgres") as db:
        assert db.execute(f"SELECT FROM pg_roles WHERE rolname = '{ROLE}'").fetchall() == []
    outcome = fresh.done("bootstrap.yml", inventory=hosts, options=["-vvv"], **ADMIN_LOGIN, **word)
    assert "role and database" in outcome.words
    for secret in (fresh.postgres.password, "word of the dba"):
        assert secret not in outcome.output.replace('"kong_upgrade_database_admin_password": "word of the dba"', "")
    with fresh.postgres.admin("postgres") as db:
        owner = f"SELECT pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text FROM pg_database WHERE datname = '{DATABASE}'"
        assert db.execute(owner).fetchall() == [(ROLE, "UTF8")]
    assert fresh.green_migrated() == 0
    again = fresh.done("bootstrap.yml", inventory=hosts, **ADMIN_LOGIN, **word)
    assert not any(again.changed.values()), again.tail


def test_administrator_who_may_not(fresh):
    with fresh.postgres.admin("postgres") as db:
        db.execute(f"DROP DATABASE {DATABASE}")
        db.execute("CREATE ROLE dba LOGIN PASSWORD 'word of the dba'")
    outcome = fresh.refused(
        "bootstrap.yml", inventory=inventory(fresh), **ADMIN_LOGIN, kong_upgrade_database_admin_password="word of the dba")
    (problem,) = outcome.blockers
    assert "CREATEDB" in problem
    nothing_was_done(fresh, outcome)


@pytest.mark.parametrize("statement, words", [
    ("CREATE TABLE theirs (x int)", ["not empty", "table theirs"]),
    ("CREATE VIEW theirs AS SELECT 1 AS x", ["not empty", "view theirs"]),
    ("CREATE TABLE schema_migrations (id text PRIMARY KEY, migrations varchar(100)[])", ["before 1.0", "schema_migrations"]),
    (f"ALTER DATABASE {DATABASE} OWNER TO postgres", ["may not create tables", f"GRANT CREATE ON SCHEMA public TO {ROLE}"]),
])
def test_datastore_that_is_refused(fresh, statement, words):
    with fresh.postgres.admin() as db:
        db.execute(statement)
        db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}")
    before = tables(fresh)
    outcome = fresh.refused("bootstrap.yml", inventory=inventory(fresh))
    (problem,) = outcome.blockers
    assert all(word in problem for word in words), problem
    nothing_was_done(fresh, outcome)
    assert tables(fresh) == before


def test_wrong_input_is_one_list(fresh):
    hosts = inventory(fresh, kong_upgrade_target_version="2.8.99", kong_upgrade_create_databse=True)
    text = hosts.read_text(encoding="utf-8").replace(f"pg_database: {DATABASE}", "pg_database: elsewhere", 1)
    hosts.write_text(text, encoding="utf-8")
    outcome = fresh.refused("bootstrap.yml", inventory=hosts)
    for words in (["2.8.99"], ["kong_upgrade_create_databse", "kong_upgrade_create_database"], ["elsewhere", DATABASE, "green1", "green2"]):
        assert any(all(word in problem for word in words) for problem in outcome.blockers), (words, outcome.blockers)
    nothing_was_done(fresh, outcome)


def test_wrong_password(fresh):
    with fresh.postgres.admin("postgres") as db:
        db.execute(f"ALTER ROLE {ROLE} PASSWORD 'another one'")
    outcome = fresh.refused("bootstrap.yml", inventory=inventory(fresh))
    assert any("password authentication failed" in problem for problem in outcome.blockers)
    nothing_was_done(fresh, outcome)


def test_cluster_of_another_version_is_refused(stage):
    bed = stage(nodes=1, batches=1, lbs=1)
    before = bed.snapshot()
    outcome = bed.refused("bootstrap.yml", inventory=inventory(bed))
    (problem,) = outcome.blockers
    assert "services: 1" in problem
    assert "upgrade.yml" in problem
    nothing_was_done(bed, outcome)
    assert bed.snapshot() == before


@contextlib.contextmanager
def held_in_the_middle(bed, executed):
    """While inside, a bootstrap stops before its next statement once so many migrations of core are recorded."""
    with bed.postgres.admin() as db:
        db.execute("CREATE SCHEMA bed")
        db.execute(f"GRANT USAGE ON SCHEMA bed TO {ROLE}")
        db.execute(
            "CREATE FUNCTION bed.hold() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF to_regclass('public.locks') IS NULL THEN RETURN; END IF;"
            " IF EXISTS (SELECT FROM public.locks) AND coalesce((SELECT cardinality(executed) FROM public.schema_meta"
            f" WHERE subsystem = 'core'), 0) >= {executed} THEN PERFORM pg_advisory_xact_lock(1); END IF; END $$")
        db.execute("CREATE EVENT TRIGGER hold ON ddl_command_start EXECUTE FUNCTION bed.hold()")
        db.execute("SELECT pg_advisory_lock(1)")
        try:
            yield lambda: db.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchall()
        finally:
            db.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            db.execute("DROP EVENT TRIGGER hold")
            db.execute("DROP SCHEMA bed CASCADE")


def power_cut(bed, run):
    """End the playbook and whatever runs on the hosts for it."""
    run.kill()
    victims = [pid for pid in members(bed.directory) if b"migrations" in cmdline(pid) or b"AnsiballZ" in cmdline(pid)]
    assert victims
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cmdline(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
    return b""


def test_killed_in_the_middle_goes_on(fresh):
    hosts, variables = inventory(fresh), {"kong_upgrade_lock_timeout": 8}
    with held_in_the_middle(fresh, 4) as waiting:
        run = fresh.start("bootstrap.yml", inventory=hosts, **variables)
        wait_for(waiting, 60, "the bootstrap is in its middle")
        power_cut(fresh, run)
    half = fresh.schema()
    assert half["core"][0]
    assert fresh.green_migrated() == 5
    # Kong itself takes that for bootstrapped.
    said = fresh.green[0].kong("migrations", "bootstrap").stdout
    assert "already bootstrapped" in said.lower()
    # Whoever did not begin it is told what it is and what to do.
    record = fresh.green[0].directory / "state" / "run.json"
    kept = record.read_bytes()
    record.unlink()
    outcome = fresh.refused("bootstrap.yml", inventory=hosts, **variables)
    (problem,) = outcome.blockers
    assert "not everything has run" in problem
    assert "no configuration" in problem
    assert "interrupted" in problem
    record.write_bytes(kept)
    assert fresh.schema() == half

    outcome = fresh.done("bootstrap.yml", inventory=hosts, **variables)
    assert [phase["phase"] for phase in outcome.report["phases"]] == ["stage", "bootstrap", "start"]
    assert fresh.green_migrated() == 0
    assert fresh.migration_lock() is None
    assert all(host.pid() for host in fresh.green)
    assert json.loads(record.read_text("utf-8")) == {"owner": None, "record": {}}
    fresh.seed(fresh.green[0])
    again = fresh.done("bootstrap.yml", inventory=hosts)
    assert not any(again.changed.values()), again.tail


def test_second_run_at_the_same_time_is_refused(fresh):
    hosts = inventory(fresh)
    with held_in_the_middle(fresh, 4) as waiting:
        run = fresh.start("bootstrap.yml", inventory=hosts)
        wait_for(waiting, 60, "the bootstrap is in its middle")
        other = fresh.play(
            "bootstrap.yml", inventory=hosts, kong_upgrade_report_dir=str(fresh.directory / "other"))
        assert other.rc != 0
        assert "another upgrade run holds the lock" in other.words
        run.kill()
