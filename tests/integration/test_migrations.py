# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The migration modules on a real PostgreSQL: stale locks, blocked readers, races, wrong logins.

With BLUE_KONG and GREEN_KONG in the environment they run those kong commands (2.0 and 2.8), else the stand-in.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import psycopg
import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _conf,
    _datastore,
    _migrate,
    _migrations,
    _postgres,
    _watch,
)
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import (
    Blocked,
    CommandError,
    DatabaseError,
    LockHeld,
    MigrationError,
)
from ansible_collections.bluegreen.kong.plugins.plugin_utils import hazards
from bed.process import wait_for
from migrating import DEFAULTS, PASSWORD, ansible, at_the_third_look, free_port, run_command, scratch_folders
from standin.launcher import make_launcher

pytestmark = pytest.mark.usefixtures("tidy")


class Readers:
    """Reads a table all the time, as the nodes of the older version do; knows how long a read took at most."""

    def __init__(self, at, table="plugins"):
        self.at, self.table = at, table
        self.longest, self.count, self.failed = 0.0, 0, []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._read, daemon=True) for dummy in range(3)]

    def _read(self):
        with self.at.session() as session:
            while not self._end.is_set():
                begun = time.monotonic()
                try:
                    session.execute(f"select count(*) from {self.table}")
                except psycopg.Error as error:
                    self.failed.append(str(error))
                self.longest = max(self.longest, time.monotonic() - begun)
                self.count += 1
                time.sleep(0.02)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self.count > 5, 10, "readers read")
        return self

    def __exit__(self, *dummy):
        self._end.set()
        for thread in self._threads:
            thread.join(30)


def test_the_whole_way(cluster, driver):
    before = scratch_folders()
    at = cluster.fresh(template="template0")
    predicted = at.migrate("bootstrapped", cluster.old, check_mode=True)
    assert predicted["changed"] and predicted["commands"][0][1:3] == ["migrations", "bootstrap"]
    first = at.migrate("bootstrapped", cluster.old)
    assert first["changed"] and first["after"]["state"] == "up_to_date"
    assert not at.migrate("bootstrapped", cluster.old)["changed"]

    predicted = at.migrate("up", check_mode=True)
    assert predicted["changed"] and predicted["ran"] == {} and len(predicted["commands"]) == 1
    up = at.migrate("up")
    assert up["changed"] and up["ran"] == predicted["before"]["new"] and up["waited"] == 0
    assert up["after"]["state"] == "pending" and up["after"]["lock_known"] and not up["warnings"]
    again = at.migrate("up")
    assert (again["changed"], again["commands"], again["ran"]) == (False, [], {})

    with at.session() as session:
        rows = session.execute("select subsystem, pending from schema_meta where pending <> '{}'").fetchall()
    assert dict(rows) == up["after"]["pending"]

    assert at.migrate("finished", check_mode=True)["changed"]
    done = at.migrate("finished")
    assert done["changed"] and done["ran"] == up["after"]["pending"] and done["after"]["state"] == "up_to_date"
    assert not at.migrate("finished")["changed"] and not at.migrate("up")["changed"]
    assert not at.sessions() and scratch_folders() == before

    state, dummy = _migrate.info({"source": "database", "conf": at.conf, "known": done["after"]["executed"]}, None)
    assert state["state"] == "up_to_date" and state["fingerprint"] == done["after"]["fingerprint"]


@pytest.mark.skipif("BLUE_KONG" in os.environ, reason="only the stand-in is there in every version")
@pytest.mark.parametrize("version", ["1.0.3", "1.1.2", "1.3.0", "1.5.1", "2.1.4", "2.3.3", "2.7.2"])
def test_from_every_version(cluster, version):
    at = cluster.fresh(template="template0")
    old = make_launcher(cluster.directory / "kongs", version)
    assert at.migrate("bootstrapped", old)["after"]["state"] == "up_to_date"
    assert _migrate.info({"source": "cli", "executable": old, "conf": at.conf}, run_command)[0]["state"] == "up_to_date"
    up = at.migrate("up")
    # from 2.2 on there is nothing to finish
    assert up["changed"] and up["after"]["state"] == ("up_to_date" if version > "2.2" else "pending")
    done = at.migrate("finished")
    assert done["changed"] is (version < "2.2") and done["after"]["state"] == "up_to_date"


def kill_in_the_middle(at, lock_timeout):
    """kong migrations up, killed while it holds the lock and has done nothing."""
    with at.idle_transaction("lock table plugins in access exclusive mode"):
        up = at.up("--lock-timeout", str(lock_timeout))
        wait_for(lambda: at.sessions("wait_event_type = 'Lock'"), 20, "up waits for the table")
        os.killpg(up.pid, signal.SIGKILL)
        up.wait()
        up.stdout.close()
        with at.admin() as admin:
            for pid in at.sessions():
                admin.execute("select pg_terminate_backend(%s)", [pid])
        wait_for(lambda: not at.sessions(), 10, "its session is gone")
    assert at.locks()


def test_a_stale_lock_is_waited_out_and_then_the_work_is_done(at, monkeypatch):
    kill_in_the_middle(at, 300)
    before = at.locks()[0][1]
    with pytest.raises(LockHeld) as caught:
        at.migrate("up", foreign_lock="fail")
    owner, left = at.locks()[0]
    assert owner in caught.value.message
    assert left - 0.1 <= caught.value.details["lock"]["expires_in"] <= before + 0.1
    assert caught.value.details["changed"] is False and caught.value.details["commands"] == []

    with pytest.raises(LockHeld) as caught:
        at.migrate("up", foreign_lock_timeout=1)
    assert "foreign_lock_timeout" in caught.value.message
    assert 0.9 < caught.value.details["waited"] < 30
    assert at.locks() and at.locks()[0][0] == owner, "nobody deletes a foreign lock"

    at_the_third_look(monkeypatch, lambda: at.hold_lock(1))
    result = at.migrate("up")
    assert result["changed"] and result["after"]["state"] == "pending" and result["after"]["new"] == {}
    assert result["waited"] > 0.5
    assert result["before"]["lock"]["owner"] == owner


def test_finish_waits_for_a_stale_lock_too(at, monkeypatch):
    at.migrate("up")
    at.hold_lock(300)
    at_the_third_look(monkeypatch, lambda: at.hold_lock(1))
    result = at.migrate("finished")
    assert result["after"]["state"] == "up_to_date" and 1 < result["waited"] < 100


def test_a_lock_that_is_released_early_is_not_waited_out(at, monkeypatch):
    def release():
        with at.session() as session:
            session.execute("delete from locks")

    at_the_third_look(monkeypatch, release)
    at.hold_lock(300)
    result = at.migrate("up")
    assert result["changed"] and 0.5 < result["waited"] < 100


def test_an_idle_transaction_does_not_take_the_readers_down(at, driver):
    margin = 1.0
    with Readers(at) as readers, at.idle_transaction("select 'a-secret-word' from plugins", application="report") as idle:
        with pytest.raises(Blocked) as caught:
            at.migrate("up", block_timeout=1.0)
        assert readers.longest < 1.0 + margin, readers.longest
        error = caught.value
        blocked_by = error.details["blocked_by"]
        assert [session["pid"] for session in blocked_by] == [idle.info.backend_pid]
        session = blocked_by[0]
        assert (session["user"], session["application_name"], session["query"]) == ("kong", "report", "SELECT")
        assert session["state"] == "idle in transaction" and "plugins" in session["relations"]
        assert session["client"].startswith("127.0.0.1:") and session["transaction_age"] > 0.9
        assert str(idle.info.backend_pid) in error.message and "report" in error.message
        assert "secret-word" not in str(error.details) + error.message
        assert error.details["victims"] and error.details["left"]
        count = readers.count
        wait_for(lambda: readers.count > count + 10, 5, "the readers read on")
        others = [idle.info.backend_pid]
        assert not at.sessions(f"pid <> all(array{others}::int[])"), "nothing of ours is left in the server"
    assert not readers.failed
    done = at.migrate("up")
    assert done["after"]["state"] == "pending" and done["after"]["new"] == {}


def test_behind_an_address_translation_the_right_session_is_ended(at):
    """What the server sees as the client's address is not the address of the command's socket."""
    with Relay(at.port) as relay:
        at.port = relay.port
        at.conf = at.write("relayed.conf")
        with Readers(at) as readers, at.idle_transaction() as idle:
            with pytest.raises(Blocked) as caught:
                at.migrate("up", block_timeout=1.0)
            assert [session["pid"] for session in caught.value.details["blocked_by"]] == [idle.info.backend_pid]
            assert readers.longest < 2.5, readers.longest
        assert not readers.failed
        assert at.migrate("up")["after"]["state"] == "pending"


class Relay:
    """Passes connections on to a port: the server sees the relay's address instead of the client's."""

    def __init__(self, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.ends = []

    def _accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return  # closed
            server = socket.create_connection(("127.0.0.1", self.target))
            self.ends += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *dummy):
        self.listener.close()
        for end in self.ends:
            end.close()


def test_blockers_on_a_server_without_pg_blocking_pids(at):
    with at.idle_transaction() as idle, at.session() as waiting, at.session() as reader:
        lock = "do $$ begin lock table plugins in access exclusive mode; end $$"
        locking = threading.Thread(target=lambda: waiting.execute(lock))
        reading = threading.Thread(target=lambda: reader.execute("select * from plugins"))
        locking.start()
        wait_for(lambda: len(waiters(at)) == 1, 10, "the lock waits for the transaction")
        reading.start()
        wait_for(lambda: len(waiters(at)) == 2, 10, "the reader waits for the lock")
        with _postgres.connect(*_postgres.target({}, dict(_conf.load(at.conf)[0]))) as database:
            watcher = _watch.Watcher(database, 1, "kong")
            modern = {row["pid"]: row["blockers"] for row in database.query(watcher._sql)}
            database.version_num = 90500
            watcher = _watch.Watcher(database, 1, "kong")
            old = {row["pid"]: row["blockers"] for row in database.query(watcher._sql)}
        assert modern[reader.info.backend_pid] == [waiting.info.backend_pid]
        assert waiting.info.backend_pid in old[reader.info.backend_pid]
        assert old[waiting.info.backend_pid] == modern[waiting.info.backend_pid] == [idle.info.backend_pid]
        idle.rollback()
        for thread in (locking, reading):
            thread.join(10)


def waiters(at):
    with at.admin() as admin:
        return admin.execute("select pid from pg_locks where not granted and locktype = 'relation'").fetchall()


def test_nothing_begins_behind_an_old_transaction(at, driver):
    with at.idle_transaction(application="lunch") as idle:
        time.sleep(0.6)
        with pytest.raises(Blocked) as caught:
            at.migrate("up", max_transaction_age=0.5)
        assert caught.value.details["commands"] == [] and caught.value.details["changed"] is False
        assert caught.value.details["blocked_by"][0]["pid"] == idle.info.backend_pid
        assert "lunch" in caught.value.message
        predicted = at.migrate("up", check_mode=True, max_transaction_age=0.5)
        assert predicted["changed"] and "lunch" in predicted["warnings"][0]
    assert at.migrate("up", max_transaction_age=0.5)["changed"]


def test_a_transaction_of_a_role_that_is_hidden_from_ours(at):
    with at.admin() as admin:
        admin.execute("grant select on plugins to other")
    with at.idle_transaction(user="other", password="other-word") as idle:
        begun = time.monotonic()
        with pytest.raises(Blocked) as caught:
            at.migrate("up", max_transaction_age=1)
        assert time.monotonic() - begun < 8
        session = caught.value.details["blocked_by"][0]
        assert (session["pid"], session["user"], session["relations"]) == (idle.info.backend_pid, "other", ["plugins"])
    with Readers(at) as readers, at.idle_transaction(user="other", password="other-word") as idle:
        with pytest.raises(Blocked) as caught:
            at.migrate("up", max_transaction_age=0, block_timeout=1.0)
        assert caught.value.details["blocked_by"][0]["pid"] == idle.info.backend_pid
        assert "did not end" not in caught.value.message
        assert readers.longest < 2.5
    assert not readers.failed


def test_a_short_transaction_of_a_hidden_role_is_let_pass(at):
    with at.admin() as admin:
        admin.execute("grant select on plugins to other")
    with at.session(user="other", password="other-word", autocommit=False) as other:
        other.execute("select * from plugins")
        threading.Timer(1, other.rollback).start()
        assert at.migrate("up", max_transaction_age=5)["changed"]


def test_two_at_the_same_time(at):
    results, errors = [], []

    def migrate():
        try:
            results.append(at.migrate("up"))
        except MigrationError as error:
            errors.append(error)

    with at.idle_transaction():
        threads = [threading.Thread(target=migrate) for dummy in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: at.sessions("wait_event_type = 'Lock'"), 20, "one of them waits for the table")
        time.sleep(1)
    for thread in threads:
        thread.join(60)
    assert not errors, errors[0].message
    assert [result["after"]["state"] for result in results] == ["pending", "pending"]
    assert not any(result["after"]["new"] for result in results)
    assert not at.locks()


def test_sigterm_to_the_module_ends_the_command_and_its_session(at):
    params = {**DEFAULTS, "state": "up", "executable": at.cluster.new, "conf": at.conf}
    script = (
        "import json, sys; sys.path[:0] = json.loads(sys.argv[1])\n"
        "from ansible_collections.bluegreen.kong.plugins.module_utils import _migrate\n"
        "import test_migrations\n"
        "_migrate.clean_up_when_told_to_end()\n"
        "_migrate.migrate(json.loads(sys.argv[2]), test_migrations.run_command)\n"
    )
    with at.idle_transaction() as idle:
        module = subprocess.Popen([sys.executable, "-c", script, json.dumps(sys.path), json.dumps(params)])
        wait_for(lambda: at.sessions("wait_event_type = 'Lock'"), 20, "up waits for the table")
        module.send_signal(signal.SIGTERM)
        assert module.wait(20) == 128 + signal.SIGTERM
        assert not at.sessions(f"pid <> {idle.info.backend_pid}")
        assert not [line for line in command_lines() if "migrations\0up" in line and at.conf in line]


def command_lines():
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text(encoding="utf-8", errors="replace")


def test_bootstrap_runs_over_no_table(cluster):
    at = cluster.fresh(template="template0")
    with at.session() as session:
        session.execute("create table schema_migrations (id text primary key, migrations varchar(100)[])")
    for state in ("bootstrapped", "apis_migrated", "up", "finished"):
        with pytest.raises(MigrationError, match=r"before 1\.0"):
            at.migrate(state)
    with at.session() as session:
        session.execute("drop table schema_migrations; create table somebody_elses (x int)")
    with pytest.raises(MigrationError, match="somebody_elses"):
        at.migrate("bootstrapped")
    with pytest.raises(MigrationError, match="state: bootstrapped"):
        at.migrate("up")


@pytest.mark.parametrize("made, told", [
    ("view theirs as select 1 as x", "view theirs"),
    ("sequence theirs", "sequence theirs"),
    ("type theirs as enum ('a')", "type theirs"),
    ("function theirs() returns int language sql as 'select 1'", "function theirs"),
    ("table theirs (id serial primary key)", "table theirs"),
])
def test_bootstrap_wants_an_empty_schema(cluster, driver, made, told):
    at = cluster.fresh(template="template0")
    with at.admin() as admin:
        admin.execute("create extension pgcrypto")  # which brings functions, and is nobody's data
        assert look(at, gather=["objects"])["objects"] == []
        admin.execute(f"create {made}")
    kind, name = told.split()
    assert [(row["kind"], row["name"]) for row in look(at, gather=["objects"])["objects"]] == [(kind, name)]
    with pytest.raises(MigrationError, match=f"not empty .{told}"):
        at.migrate("bootstrapped")


def shape(at):
    """All that the migrations have made, but for the order in which they are recorded."""
    dump = subprocess.run(
        [at.cluster.server.bin / "pg_dump", "--schema-only", "--dbname", at.name], capture_output=True, text=True, check=True,
        env={**at.cluster.env, "PGHOST": "127.0.0.1", "PGPORT": str(at.port), "PGUSER": "kong", "PGPASSWORD": PASSWORD}).stdout
    with at.session() as session:
        rows = session.execute("select subsystem, executed, coalesce(pending, '{}') from schema_meta").fetchall()
    lines = [line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
    return lines, sorted((name, sorted(executed), pending) for name, executed, pending in rows)


def killed_bootstrap(at, executed):
    """Kill a bootstrap and its session in the server once so many migrations of core are recorded."""
    with at.admin() as admin:
        admin.execute("create schema bed")
        admin.execute("grant usage on schema bed to kong")
        admin.execute(
            "create function bed.hold() returns event_trigger language plpgsql as $$ begin"
            " if to_regclass('public.locks') is null then return; end if;"
            " if exists (select from public.locks) and coalesce((select cardinality(executed) from public.schema_meta"
            f" where subsystem = 'core'), 0) >= {executed} then perform pg_advisory_xact_lock(1); end if; end $$")
        admin.execute("create event trigger hold on ddl_command_start execute function bed.hold()")
        admin.execute("select pg_advisory_lock(1)")
        run = subprocess.Popen(
            [at.cluster.new, "migrations", "bootstrap", "-c", at.conf, "--lock-timeout", "2"], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        waiting = "select pid from pg_locks where locktype = 'advisory' and not granted"
        wait_for(lambda: admin.execute(waiting).fetchall(), 20, "the bootstrap is in its middle")
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        admin.execute(f"select pg_terminate_backend(pid) from ({waiting}) w")
        wait_for(lambda: not admin.execute(waiting).fetchall(), 20, "its session has ended")
        admin.execute("drop event trigger hold")
        admin.execute("drop schema bed cascade")


@pytest.mark.parametrize("executed", [0, 1, 6])
def test_bootstrap_that_was_killed_is_completed(cluster, driver, executed):
    clean, at = (cluster.fresh(template="template0") for dummy in range(2))
    clean.migrate("bootstrapped")
    killed_bootstrap(at, executed)
    with pytest.raises(MigrationError, match="interrupted: complete"):
        at.migrate("bootstrapped")
    predicted = at.migrate("bootstrapped", check_mode=True, interrupted="complete")
    assert predicted["changed"] and predicted["before"]["state"] == "new"
    done = at.migrate("bootstrapped", interrupted="complete")
    assert done["changed"] and done["after"]["state"] == "up_to_date"
    assert "bootstrap" not in [argv[2] for argv in done["commands"]]
    assert shape(at) == shape(clean)
    assert not at.migrate("bootstrapped", interrupted="complete")["changed"]


def test_a_database_in_use_is_no_interrupted_bootstrap(at):
    """One of an older version, or one that somebody works with meanwhile."""
    assert at.migrate("bootstrapped", interrupted="complete", check_mode=True)["changed"]  # empty, of the older version
    with at.session() as session:
        session.execute("insert into consumers (id, username) values ('6f1d1f5e-2d7c-4a55-9a0e-6a1d3b7c0002', 'alice')")
    before = at.migrate("up", check_mode=True)["before"]
    with pytest.raises(MigrationError, match="consumers: 1"):
        at.migrate("bootstrapped", interrupted="complete")
    with at.admin() as admin:
        admin.execute("alter table consumers owner to postgres")
    with pytest.raises(MigrationError, match="consumers: [?]"):
        at.migrate("bootstrapped", interrupted="complete")
    assert at.migrate("up", check_mode=True)["before"] == before


def test_a_bootstrap_that_made_one_table_only(cluster):
    at = cluster.fresh(template="template0")
    with at.session() as session:
        session.execute("create table schema_meta (key text, subsystem text, last_executed text, executed text[], pending text[],"
                        " primary key (key, subsystem))")
    with pytest.raises(MigrationError, match="DROP TABLE"):
        at.migrate("bootstrapped", interrupted="complete")


API = ("insert into apis (id, created_at, name, upstream_url, uris) values"
       " (gen_random_uuid(), clock_timestamp(), %s, 'http://127.0.0.1:9', %s) returning id")


@pytest.fixture
def legacy(cluster):
    """A database of 0.14.1 with two apis, and the command of 1.5.1."""
    at = cluster.fresh(template="template0")
    old = make_launcher(cluster.directory / "kongs", "0.14.1")
    assert run_command([str(old), "migrations", "up", "-c", at.conf])[0] == 0
    with at.session() as session:
        for name in ("one", "two"):
            session.execute(API, (name, json.dumps(["/" + name])))
    return at, make_launcher(cluster.directory / "kongs", "1.5.1")


@pytest.mark.parametrize("driver", ["psycopg", "psql"], indirect=True)
def test_from_0_14_1(legacy, driver):
    at, kong = legacy
    with pytest.raises(MigrationError, match=r"apis \(one, two\), which up would lose"):
        at.migrate("up", kong)
    predicted = at.migrate("apis_migrated", kong, check_mode=True)
    assert predicted["changed"] and predicted["apis"]["before"] == predicted["apis"]["after"]
    assert predicted["commands"][0][1:3] == ["migrations", "migrate-apis"]
    assert any("would be refused now" in warning for warning in at.migrate("up", kong, check_mode=True)["warnings"])
    done = at.migrate("apis_migrated", kong)
    assert done["changed"]
    assert done["apis"] == {
        "before": {"apis": 2, "services": 0, "routes": 0}, "after": {"apis": 0, "services": 2, "routes": 2},
        "migrated": ["one", "two"], "left": []}
    assert (done["before"]["state"], done["after"]["state"]) == ("legacy", "legacy")
    again = at.migrate("apis_migrated", kong)
    assert not again["changed"] and again["commands"] == []
    with pytest.raises(MigrationError, match="up has not run yet"):
        at.migrate("finished", kong)
    assert at.migrate("up", kong)["after"]["state"] == "pending"
    assert at.migrate("finished", kong)["after"]["state"] == "up_to_date"
    assert at.migrate("up")["after"]["state"] == "pending"
    assert at.migrate("finished")["after"]["state"] == "up_to_date"


def test_apis_that_kong_leaves_are_named_though_it_exits_0(legacy):
    at, kong = legacy
    with at.session() as session:
        session.execute("insert into services (id, name) values (gen_random_uuid(), 'two')")
        (own,) = session.execute(API, ("own", json.dumps(["/own"]))).fetchone()
        session.execute(API, ("three", json.dumps(["/three"])))
        session.execute("insert into plugins (id, name, api_id, config, enabled) values (gen_random_uuid(), 'our-auth', %s, '{}', true)",
                        (own,))
    with pytest.raises(MigrationError) as caught:
        at.migrate("apis_migrated", kong)
    assert "ended with 0, but not done" in caught.value.message
    assert "own (skipped, for it has custom plugins)" in caught.value.message
    assert "two (failed: ERROR: duplicate key value" in caught.value.message
    assert "three (failed: ERROR: current transaction is aborted" in caught.value.message
    assert "lock" in caught.value.message  # Kong leaves it there
    assert caught.value.details["changed"] is True
    assert caught.value.details["apis"]["migrated"] == ["one"]
    # Kong's own guard is gone now, and `up` would run; ours is not.
    with pytest.raises(MigrationError, match=r"apis \(own, three, two\), which up would lose"):
        at.migrate("up", kong)


def test_queries_about_apis(legacy):
    at, dummy = legacy
    with at.session() as session:
        (own,) = session.execute(API, ("own", json.dumps(["/own"]))).fetchone()
        session.execute("insert into services (id, name) values (gen_random_uuid(), 'two')")
        for plugin in ("our-auth", "key-auth"):
            session.execute("insert into plugins (id, name, api_id, config, enabled) values (gen_random_uuid(), %s, %s, '{}', true)",
                            (plugin, own))
    answers = look(at, gather=["answers"], queries=hazards.queries("0.14.1", "1.5.1"))["answers"]
    found = {name: answer["found"] for name, answer in answers.items() if name.startswith("apis")}
    assert found == {"apis": ["one", "own", "two"], "apis_count": ["3"], "apis_skipped": ["own (our-auth)"], "apis_clashing": ["two"]}


def test_apis_that_nobody_can_move_any_more(legacy):
    at, kong = legacy
    with at.session() as session:
        apis = session.execute("delete from apis returning id, name, upstream_url, uris").fetchall()
    at.migrate("up", kong)
    with at.session() as session:
        for api in apis:
            session.execute("insert into apis (id, name, upstream_url, uris) values (%s, %s, %s, %s)", api)
    with pytest.raises(MigrationError, match="cannot move them any more"):
        at.migrate("apis_migrated", kong)


def test_a_leftover_pending_with_new_ones(at):
    at.migrate("up")
    with at.session() as session:
        session.execute("delete from schema_meta where subsystem = 'session'")
    with pytest.raises(MigrationError, match="new ones as well"):
        at.migrate("up")
    result = at.migrate("up", pending_and_new="finish")
    assert result["after"]["state"] == "up_to_date"
    assert [argv[2] for argv in result["commands"]] == ["finish", "up"]


def test_a_failing_migration_tells_what_is_left(at):
    with at.admin() as admin:
        admin.execute("alter table oauth2_credentials owner to postgres")
    with pytest.raises(MigrationError) as caught:
        at.migrate("up")
    assert "oauth2" in caught.value.details["left"] and "must be owner" in caught.value.message
    assert caught.value.details["changed"] and caught.value.details["after"]["state"] == "pending_and_new"
    with at.admin() as admin:
        admin.execute("alter table oauth2_credentials owner to kong")
    done = at.migrate("up", pending_and_new="finish")
    assert not done["after"]["new"]


def test_database_down_and_wrong_logins(at, driver):
    port = free_port()
    for settings, words in (
        ({"pg_port": port}, ["refused", str(port)]),
        ({"pg_password": "wrong-secret-word"}, ["password"]),
        ({"pg_database": "no_such_database"}, ["no_such_database"]),
    ):
        conf = at.write("wrong.conf", **settings)
        with pytest.raises(DatabaseError) as caught:
            _migrate.info({"source": "database", "conf": conf}, None)
        with pytest.raises(CommandError) as second:
            at.migrate("up", conf=conf)
        for error in (caught.value, second.value):
            assert "wrong-secret-word" not in error.message + str(error.details)
        for word in words:
            assert word in caught.value.message
        assert second.value.details["changed"] is False and second.value.details["rc"] == 1


def test_psql_that_ends_before_it_is_asked_says_why(at, monkeypatch):
    monkeypatch.setattr(_postgres, "DRIVERS", ("psql",))
    ask = _postgres._Psql._ask

    def ask_late(session, sql, limit):
        session._process.wait(10)
        return ask(session, sql, limit)

    monkeypatch.setattr(_postgres._Psql, "_ask", ask_late)
    with pytest.raises(DatabaseError, match="refused"):
        _migrate.info({"source": "database", "conf": at.write("wrong.conf", pg_port=free_port())}, None)


def test_a_login_to_another_database_than_kongs_is_noticed(at):
    with at.cluster.server.admin("postgres") as admin:
        admin.execute(f"create database {at.name}_other owner kong")
    at.cluster.names.append(f"{at.name}_other")
    with pytest.raises(MigrationError, match="another database, schema or keyspace"):
        at.migrate("up", login_db=f"{at.name}_other")


def test_without_a_look_into_the_database(at, monkeypatch):
    monkeypatch.setattr(_postgres, "DRIVERS", ())
    with pytest.raises(Blocked, match="block_timeout: 0 and max_transaction_age: 0"):
        at.migrate("up")
    result = at.migrate("up", block_timeout=0, max_transaction_age=0)
    assert result["after"]["state"] == "pending" and result["after"]["lock_known"] is False


def test_a_schema_of_its_own(cluster):
    at = cluster.fresh(template="template0")
    with at.session() as session:
        session.execute("create table public.somebody_elses (x int); create schema gateway")
    at.conf = at.write("schema.conf", pg_schema="gateway")
    assert at.migrate("bootstrapped", cluster.old)["changed"]
    assert at.migrate("up")["after"]["state"] == "pending"
    state, dummy = _migrate.info({"source": "database", "conf": at.conf}, None)
    assert state["state"] == "pending"


def look(at, **params):
    params = {"gather": list(_datastore.GATHER), "duration": 0, "known": None, "queries": None, "pg_bin_dir": None,
              "conf": at.conf, **params}
    return _datastore.look(params, run_command)[0]


def test_datastore(at, driver):
    with at.session() as session:
        session.execute("insert into consumers (id, username) values ('2fa1c1ac-1f5b-4b0a-9a4f-3cf3f2c0b001', 'alice')")
        found = look(at)
        assert found["driver"] == driver and found["direct"] is True
        assert found["server_version_num"] // 10000 >= 15 and found["in_recovery"] is False
        assert found["max_connections"] == 200 and found["reserved"] >= 3 and found["address"] == "127.0.0.1"
        assert (found["role"], found["superuser"], found["read_all_stats"]) == ("kong", False, False)
        assert found["role_encryption"] is None and found["schema_create"] is True
        assert found["counts"]["consumers"] == 1 and "cluster_events" not in found["counts"]
        assert "plugins" in [table["name"] for table in found["tables"]]
        assert [row["pid"] for row in found["sessions"]] == [session.info.backend_pid]
        address = session.execute("select inet_client_addr()::text, inet_client_port()").fetchone()
        row = found["sessions"][0]
        assert (row["client_addr"] + "/32", row["client_port"]) == address and row["hidden"] is False
        programs = str(at.cluster.server.bin)
        clients = look(at, gather=["clients"], pg_bin_dir=programs)["clients"]
        major = found["server_version_num"] // 10000
        assert clients == {name: {"path": f"{programs}/{name}", "major": major} for name in ("pg_dump", "pg_restore")}
        assert found["schema_state"] == _migrate.info({"source": "database", "conf": at.conf}, None)[0]["fingerprint"]
    assert found["connection_limits"] == []
    with at.admin() as admin:
        admin.execute("alter role kong connection limit 9")
        database = admin.execute("select current_database()").fetchone()[0]
        admin.execute(f'alter database "{database}" connection limit 50')
        try:
            with at.session():
                limits = look(at, gather=["role"])["connection_limits"]
            own = {"of": "role kong", "limit": 9, "connections": 1}
            assert own in limits
            (whole,) = [limit for limit in limits if limit != own]
            assert (whole["of"], whole["limit"]) == (f"database {database}", 50) and whole["connections"] >= 2
        finally:
            admin.execute("alter role kong connection limit -1")
    with at.idle_transaction("lock table plugins in share mode", application="lunch") as idle:
        transactions = look(at, gather=["transactions"])["transactions"]
        assert [row["pid"] for row in transactions] == [idle.info.backend_pid]
        assert {"relation": "plugins", "mode": "ShareLock", "granted": True} in transactions[0]["locks"]
        assert transactions[0]["query"] == "LOCK TABLE"


def test_queries_of_the_hazards(at, driver):
    with at.admin() as admin:
        admin.execute("create table apis (id uuid, name text); grant all on apis to kong")
        admin.execute("insert into apis values (gen_random_uuid(), 'old')")
    queries = hazards.queries("0.14.1", "2.8.5")
    found = look(at, gather=["answers"], queries=queries)["answers"]
    assert set(found) == set(queries)
    assert found["KONG-100-APIS/0"]["found"][0].startswith("old (") and not found["KONG-100-APIS/0"]["more"]
    writes = {"mine": {"sql": "select nextval('counter') as found", "needs": []}}
    with at.admin() as admin:
        admin.execute("create sequence counter; grant all on counter to kong")
    params = {"gather": ["answers"], "queries": {**queries, **writes}, "conf": at.conf}
    answered, (warning,) = _datastore.look(params, run_command)
    assert answered["answers"] == {**found, "mine": None}
    assert "query mine" in warning and "read-only transaction" in warning
    assert look(at, gather=["answers"], queries=queries)["answers"] == found
    missing = {"none": {"sql": "select x as found from y", "needs": ["y.x"]}}
    assert look(at, gather=["answers"], queries=missing)["answers"] == {"none": None}


def test_datastore_sees_what_comes_and_goes_and_says_what_is_hidden(at, monkeypatch):
    pauses, visitors = [], []

    def pause(seconds):
        """A visitor comes after the second look, and goes after the fifth."""
        pauses.append(seconds)
        if len(pauses) == 2:
            visitors.append(at.session(application="visitor"))
        elif len(pauses) == 5:
            visitors.pop().close()
            wait_for(lambda: not at.sessions("application_name = 'visitor'"), 10, "the visitor has gone")

    monkeypatch.setattr(_datastore, "time", types.SimpleNamespace(sleep=pause, monotonic=lambda: sum(pauses)))
    with at.session(user="other", password="other-word"):
        found = look(at, gather=["sessions"], duration=1.5)
        visitor = [row for row in found["sessions"] if row["application_name"] == "visitor"]
        assert [row["samples"] for row in visitor] == [3] and found["samples"] >= 15
        hidden = [row for row in found["sessions"] if row["user"] == "other"]
        assert hidden[0]["hidden"] is True and hidden[0]["client_addr"] is None
        assert hidden[0]["samples"] == found["samples"]
        seen = look(at, gather=["sessions", "role"], login_user="watcher", login_password="watcher-word")
        assert seen["read_all_stats"] is True
        assert not [row for row in seen["sessions"] if row["hidden"]]


def test_datastore_behind_an_address_translation(at):
    with Relay(at.port) as relay:
        at.port = relay.port
        at.conf = at.write("relayed.conf")
        assert look(at, gather=["server"])["direct"] is False


def test_identity_is_that_of_the_database(cluster):
    one, other = cluster.fresh(), cluster.fresh()
    here = look(one, gather=["server"])["identity"]
    assert here and here == look(one, gather=["server"], login_host="localhost")["identity"]
    assert here != look(other, gather=["server"])["identity"]


def test_the_modules_through_ansible(at, tmp_path):
    base = (("executable", at.cluster.new), ("conf", at.conf))
    rc, result, dummy = ansible("kong_migrations_info", *base)
    assert rc == 0 and result["migrations"]["state"] == "new" and not result["changed"]
    rc, result, dummy = ansible("kong_migrations", *base, ("state", "up"))
    assert rc == 0 and result["changed"] and result["after"]["state"] == "pending"
    rc, result, dummy = ansible("kong_datastore_info", ("conf", at.conf), ("duration", 0.3))
    assert rc == 0 and result["datastore"]["migrations"]["pending"]
    rc, result, dummy = ansible("kong_config_dump", *base, ("dest", str(tmp_path / "x.yml")))
    assert rc == 0 and result["changed"] and result["format_version"]
    conf = at.write("wrong.conf", pg_password="wrong-secret-word")
    rc, result, text = ansible("kong_migrations", ("executable", at.cluster.new), ("conf", conf), ("state", "up"))
    assert rc != 0 and "password" in result["msg"] and "wrong-secret-word" not in text


def test_known_ids_come_from_readings(at):
    """A database of the newer version, as the older binary and as the tables have it."""
    at.migrate("up")
    old = _migrate.info({"source": "cli", "executable": at.cluster.old, "conf": at.conf}, run_command)[0]
    assert old["state"] == "up_to_date", "the older binary ignores what it does not know"
    tables = _migrate.info({"source": "database", "conf": at.conf, "known": old["executed"]}, None)[0]
    assert tables["state"] == "pending" and tables["new"] == {}
    assert not _migrations.subtract(old["executed"], tables["executed"])
