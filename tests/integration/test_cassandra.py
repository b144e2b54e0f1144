# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The migration modules on a real Cassandra.

With BLUE_KONG and GREEN_KONG in the environment they run those kong commands (2.0 and 2.8), else the stand-in.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra, _cassandra_role, _migrate
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import (
    CommandError,
    DatabaseError,
    LockHeld,
    MigrationError,
)
from bed import cassandra, process
from bed.cassandra import Cassandra
from bed.process import wait_for
from migrating import ansible, at_the_third_look, run_command
from ring import Ring
from standin.launcher import make_launcher
from standin.replay_place import free_ports

SCHEMA_META = (
    "create table {}.schema_meta (key text, subsystem text, last_executed text, executed set<text>, pending set<text>,"
    " primary key (key, subsystem))"
)
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(cassandra.missing() is not None, reason=str(cassandra.missing()))


@pytest.fixture(autouse=True)
def tidy(ring):
    yield
    ring.tidy()


@pytest.fixture
def at(ring):
    """A keyspace at the older version."""
    at = ring.at()
    at.migrate("bootstrapped", ring.old)
    return at


def test_the_whole_way(ring):
    at = ring.at()
    state, warnings = at.info()
    assert (state["state"], warnings) == ("needs_bootstrap", [])
    assert at.info("cli")[0]["state"] == "needs_bootstrap"
    predicted = at.migrate("bootstrapped", ring.old, check_mode=True)
    assert predicted["changed"] and predicted["commands"][0][1:3] == ["migrations", "bootstrap"]
    first = at.migrate("bootstrapped", ring.old)
    assert first["changed"] and first["after"]["state"] == "up_to_date" and first["after"]["lock_known"]
    assert not at.migrate("bootstrapped", ring.old)["changed"]

    up = at.migrate("up")
    assert up["changed"] and up["ran"] == up["before"]["new"] and not up["warnings"]
    assert up["after"]["state"] == "pending" and up["after"]["new"] == {}
    assert at.migrate("up")["commands"] == []
    rows = at.execute("select subsystem, pending from {}.schema_meta")
    assert {row["subsystem"]: sorted(row["pending"]) for row in rows if row["pending"]} == up["after"]["pending"]

    done = at.migrate("finished")
    assert done["changed"] and done["ran"] == up["after"]["pending"] and done["after"]["state"] == "up_to_date"
    assert not at.migrate("finished")["changed"] and not at.migrate("up")["changed"]

    state, warnings = at.info(known=done["after"]["executed"])
    assert state["state"] == "up_to_date" and state["fingerprint"] == done["after"]["fingerprint"] and not warnings
    assert state["lock"] is None and state["lock_known"]


@pytest.mark.skipif("BLUE_KONG" in os.environ, reason="only the stand-in is there in every version")
@pytest.mark.parametrize("version", ["1.5.1", "2.1.4", "2.2.2", "2.7.2"])
def test_from_every_version(ring, version):
    at = ring.at()
    old = make_launcher(ring.directory / "kongs", version)
    assert at.migrate("bootstrapped", old)["after"]["state"] == "up_to_date"
    up = at.migrate("up")
    # from 2.3 on there is nothing to finish
    assert up["changed"] and up["after"]["state"] == ("up_to_date" if version > "2.3" else "pending")
    done = at.migrate("finished")
    assert done["changed"] is (version < "2.3") and done["after"]["state"] == "up_to_date"


def test_a_foreign_lock_is_told_and_waited_out(at, monkeypatch):
    at.hold_lock(400)
    state = at.info()[0]
    assert state["lock"]["owner"] == "someone" and 300 < state["lock"]["expires_in"] <= 400
    assert at.info("cli")[0]["lock_known"] is False
    with pytest.raises(LockHeld, match="owner someone") as caught:
        at.migrate("up", foreign_lock="fail")
    assert 200 < caught.value.details["lock"]["expires_in"] <= 400
    assert caught.value.details["commands"] == [] and caught.value.details["changed"] is False
    predicted = at.migrate("up", check_mode=True)
    assert predicted["changed"] and "someone" in predicted["warnings"][0]
    with pytest.raises(LockHeld, match="foreign_lock_timeout"):
        at.migrate("up", foreign_lock_timeout=1)
    assert at.locks()[0][0] == "someone", "nobody deletes a foreign lock"

    at_the_third_look(monkeypatch, lambda: at.shorten_lock(1))
    result = at.migrate("up")
    assert result["changed"] and result["after"]["state"] == "pending" and result["waited"] > 0.5
    assert result["before"]["lock"]["owner"] == "someone" and not at.locks()

    at.hold_lock(400)
    at_the_third_look(monkeypatch, lambda: at.shorten_lock(1))
    done = at.migrate("finished")
    assert done["after"]["state"] == "up_to_date" and done["waited"] > 0.5


def test_a_lock_that_is_released_early_is_not_waited_out(at, monkeypatch):
    at_the_third_look(monkeypatch, at.release_lock)
    at.hold_lock(300)
    result = at.migrate("up")
    assert result["changed"] and 0.5 < result["waited"] < 100


def test_up_that_was_killed_in_the_middle(at, monkeypatch):
    """Its lock stays until it runs out, and what it has begun waits for finish."""
    at.kill_in_the_middle("up", lambda: ("core", "009_200_to_210") in at.pending())
    owner, left = at.locks()[0]
    assert 200 < left <= 300
    with pytest.raises(MigrationError, match="new ones as well"):
        at.migrate("up")
    at_the_third_look(monkeypatch, lambda: at.shorten_lock(1))
    result = at.migrate("up", pending_and_new="finish")
    assert result["before"]["state"] == "pending_and_new" and result["before"]["lock"]["owner"] == owner
    assert [argv[2] for argv in result["commands"]] == ["finish", "up"] and result["waited"] > 0.5
    assert not result["after"]["new"]
    assert at.migrate("finished")["after"]["state"] == "up_to_date"


def test_a_bootstrap_that_was_killed_in_the_middle(ring, monkeypatch):
    from cassandra import InvalidRequest  # of the driver, without which this module is skipped

    at = ring.at()

    def begun():
        try:
            return at.locks() and len(at.execute("select subsystem from {}.schema_meta")) > 1
        except InvalidRequest:  # no keyspace, or no table yet
            return False

    at.kill_in_the_middle("bootstrap", begun)
    with pytest.raises(MigrationError, match="interrupted: complete"):
        at.migrate("bootstrapped")
    at_the_third_look(monkeypatch, at.release_lock)
    done = at.migrate("bootstrapped", interrupted="complete")
    assert done["changed"] and done["after"]["state"] == "up_to_date" and not at.locks()


def test_two_at_the_same_time(at):
    results, errors = [], []

    def migrate():
        try:
            results.append(at.migrate("up"))
        except MigrationError as error:
            errors.append(error)

    threads = [threading.Thread(target=migrate) for dummy in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not errors, errors[0].message
    assert [result["after"]["state"] for result in results] == ["pending", "pending"]
    assert not any(result["after"]["new"] for result in results) and not at.locks()


def test_bootstrap_runs_over_no_table(ring):
    at = ring.at()
    replication = "{{'class': 'SimpleStrategy', 'replication_factor': 1}}"
    at.execute("create keyspace {} with replication = " + replication)
    assert at.info()[0]["state"] == "needs_bootstrap"
    at.execute("create table {}.schema_migrations (id text primary key, migrations list<text>)")
    at.execute("insert into {}.schema_migrations (id, migrations) values ('core', ['2015-01-12-175310_skeleton'])")
    state = at.info()[0]
    assert (state["state"], state["executed"]) == ("legacy", {"core": ["2015-01-12-175310_skeleton"]})
    for state in ("bootstrapped", "up", "finished"):
        with pytest.raises(MigrationError, match=r"before 1\.0"):
            at.migrate(state)
    at.execute("drop table {}.schema_migrations")
    at.execute("create table {}.somebody_elses (x int primary key)")
    with pytest.raises(MigrationError, match="somebody_elses"):
        at.migrate("bootstrapped")
    with pytest.raises(MigrationError, match="state: bootstrapped"):
        at.migrate("up")


@contextlib.contextmanager
def stale_node(ring):
    """A member of the cluster that is down and missed the last change of the schema."""
    version = uuid.uuid4()
    ring.server.execute(
        "insert into system.peers (peer, rpc_address, data_center, rack, release_version, host_id, tokens, schema_version)"
        " values ('127.9.9.9', '127.9.9.9', 'datacenter1', 'rack1', '3.11.19', %s, {'1'}, %s)", uuid.uuid4(), version)
    try:
        yield str(version)
    finally:
        ring.server.execute("delete from system.peers where peer = '127.9.9.9'")


def test_nothing_begins_while_the_nodes_disagree_about_the_schema(at):
    conf = at.write("impatient.conf", cassandra_schema_consensus_timeout=1000)
    with stale_node(at.ring) as version:
        with at.look() as database:
            assert database.schema_versions()[version] == ["127.9.9.9"]
        begun = time.monotonic()
        with pytest.raises(DatabaseError, match="nodetool describecluster") as caught:
            at.migrate("up", conf=conf)
        assert 1 <= time.monotonic() - begun < 15
        assert version in caught.value.message and "127.9.9.9" in caught.value.message
        assert caught.value.details["changed"] is False and caught.value.details["commands"] == []
        predicted = at.migrate("up", conf=conf, check_mode=True)
        assert predicted["changed"] and "127.9.9.9" in predicted["warnings"][0]
        timer = threading.Timer(2, at.execute, ["delete from system.peers where peer = '127.9.9.9'"])
        timer.start()
        assert at.migrate("up")["after"]["state"] == "pending"
        timer.join()


def test_a_login_to_another_keyspace_than_kongs_is_noticed(at, monkeypatch):
    other = at.ring.at()
    other.execute("create keyspace {} with replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}")
    other.execute(SCHEMA_META)
    monkeypatch.setattr(_cassandra.Keyspace, "lag", 1.0)
    with pytest.raises(MigrationError, match="another database, schema or keyspace"):
        at.migrate("up", cassandra_keyspace=other.keyspace)


def test_what_we_do_not_see_yet_is_looked_for_again(at, monkeypatch):
    """A replica that has it has answered the command, another one answers us."""
    answers = []
    schema_meta = _cassandra.Keyspace.schema_meta

    def late(database):
        answers.append([row for row in schema_meta(database) if len(answers) > 2 or row["subsystem"] != "acl"])
        return answers[-1]

    monkeypatch.setattr(_cassandra.Keyspace, "schema_meta", late)
    assert at.migrate("up")["after"]["state"] == "pending"
    assert len(answers[0]) < len(answers[-1])


def test_what_the_command_does_not_see_yet_is_looked_for_again(at, tmp_path):
    """The first `list` after `up` answers as the one before it."""
    before, stale = tmp_path / "before", tmp_path / "stale"
    kong = tmp_path / "kong"
    kong.write_text(
        f'#!/bin/sh\nif [ "$2" = up ]; then {at.ring.new} migrations list -c {at.conf} > {before}; touch {stale}; fi\n'
        f'if [ "$2" = list ] && [ -e {stale} ]; then rm {stale}; cat {before}; exit 5; fi\n'
        f'exec {at.ring.new} "$@"\n')
    kong.chmod(0o755)
    result = at.migrate("up", str(kong))
    assert result["after"]["state"] == "pending" and not result["after"]["new"]
    assert before.exists() and not stale.exists(), "the stale answer was given"
    assert [argv[2] for argv in result["commands"]] == ["up"]


def test_a_node_that_does_not_answer_is_asked_again_but_not_for_ever(at, monkeypatch):
    monkeypatch.setattr(_cassandra, "STATEMENT_TIMEOUT", 0.5)
    server = at.ring.server.process
    with at.look() as database:
        server.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(DatabaseError, match="tried 3 times"):
                database.lock_row()
            assert 1.5 <= time.monotonic() - begun < 10
            timer = threading.Timer(0.8, server.send_signal, [signal.SIGCONT])
            timer.start()
            assert database.lock_row() is None
            timer.join()
        finally:
            server.send_signal(signal.SIGCONT)


def test_without_the_driver(at, monkeypatch):
    monkeypatch.setitem(sys.modules, "cassandra", None)
    with pytest.raises(DatabaseError, match="cassandra-driver"):
        at.info()
    up = at.migrate("up")
    assert up["changed"] and up["after"]["state"] == "pending" and up["after"]["lock_known"] is False


def test_wrong_addresses(at, monkeypatch):
    monkeypatch.setattr(_cassandra, "CONNECT_TIMEOUT", 2)
    port = free_ports(1)[0]
    for settings, words in (
        ({"cassandra_port": port}, ["refused", str(port), "cassandra_port"]),
        ({"cassandra_contact_points": "no-such-host.invalid"}, ["no-such-host.invalid", "cassandra_contact_points"]),
    ):
        conf = at.write("wrong.conf", **settings)
        with pytest.raises(DatabaseError) as caught:
            at.info(conf=conf)
        for word in words:
            assert word in caught.value.message
        with pytest.raises(CommandError) as second:
            at.migrate("up", conf=conf)
        assert second.value.details["changed"] is False and second.value.details["rc"] == 1
    first_dead = at.write("two.conf", cassandra_contact_points="127.9.9.9, 127.0.0.1")
    assert at.info(conf=first_dead)[0]["state"] == at.info("cli", conf=first_dead)[0]["state"].replace("new", "unknown")


def test_the_modules_through_ansible(at):
    base = (("executable", at.ring.new), ("conf", at.conf))
    rc, result, dummy = ansible("kong_migrations_info", *base, ("source", "database"))
    assert rc == 0 and result["migrations"]["source"] == "database" and result["migrations"]["executed"]["core"]
    rc, result, dummy = ansible("kong_migrations", *base, ("state", "up"))
    assert rc == 0 and result["changed"] and result["after"]["state"] == "pending"


@pytest.fixture(scope="module")
def guarded():
    """A node that wants a password and TLS, with a certificate of its own authority."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="kong-cassandra-"))
    key, certificate, store = (str(directory / name) for name in ("key.pem", "cert.pem", "store.p12"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=cassandra", "-keyout", key,
         "-out", certificate], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "pkcs12", "-export", "-inkey", key, "-in", certificate, "-out", store, "-passout", "pass:storepass"],
        check=True, capture_output=True)
    port, storage_port = free_ports(2)
    server = Cassandra(
        directory, "127.0.0.1", process.environment(directory), port, storage_port, auth=True, tls=(store, "storepass"))
    try:
        server.start()
        yield server, certificate, directory
    finally:
        server.stop()
        process.end(lambda: process.members(directory))
        shutil.rmtree(directory)


def test_password_and_tls(guarded):
    server, certificate, directory = guarded
    server.execute("create role kong with login = true and password = 'right-secret-word'")
    server.execute("grant all on all keyspaces to kong")
    base = {
        "database": "cassandra", "cassandra_contact_points": "127.0.0.1", "cassandra_port": server.port,
        "cassandra_password": "right-secret-word", "cassandra_ssl": "on", "cassandra_ssl_verify": "on",
        "lua_ssl_trusted_certificate": certificate, "prefix": directory / "prefix",
    }
    conf = directory / "kong.conf"

    def info(source="database", **changes):
        conf.write_text("".join(f"{key} = {value}\n" for key, value in {**base, **changes}.items()))
        kong = make_launcher(directory / "kongs", "2.8.5")
        return _migrate.info({"source": source, "executable": kong, "conf": str(conf)}, run_command)[0]

    assert info()["state"] == "needs_bootstrap" and info("cli")["state"] == "needs_bootstrap"
    other = directory / "other.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=other", "-keyout",
         str(directory / "other.key"), "-out", str(other)], check=True, capture_output=True)
    for changes, words in (
        ({"cassandra_password": "wrong-secret-word"}, "cassandra_password"),
        ({"cassandra_password": ""}, "cassandra_password"),
        ({"lua_ssl_trusted_certificate": other}, "ca_cert"),
        ({"lua_ssl_trusted_certificate": directory / "none.pem"}, "none.pem"),
        ({"cassandra_ssl": "off"}, "cassandra_ssl"),
    ):
        with pytest.raises(DatabaseError, match=words) as caught:
            info(**changes)
        assert "secret-word" not in caught.value.message + str(caught.value.details)
    assert info(cassandra_ssl_verify="off", lua_ssl_trusted_certificate="")["state"] == "needs_bootstrap"
    with pytest.raises(CommandError, match="cassandra_password") as caught:
        info("cli", cassandra_password="wrong-secret-word")
    assert "secret-word" not in caught.value.message + str(caught.value.details)


def test_role_and_keyspace_are_made_and_not_touched_again(guarded, ring):
    server, certificate, dummy_directory = guarded
    wanted = {
        "name": "gate%way", "password": "it's 100% ours", "replication": {"class": "SimpleStrategy", "replication_factor": 1},
        "cassandra_contact_points": ["127.0.0.1"], "cassandra_port": server.port, "cassandra_keyspace": "Gateway",
        "cassandra_username": "cassandra", "cassandra_password": "cassandra", "cassandra_ssl": True, "ca_cert": certificate,
    }
    for check_mode in (True, False):
        assert _cassandra_role.make(wanted, check_mode) == ["role", "keyspace"]
    assert _cassandra_role.make({**wanted, "password": "another"}, False) == []
    login = {**wanted, "cassandra_username": wanted["name"], "cassandra_password": wanted["password"]}
    store, password = _cassandra.target(login, {})
    with contextlib.closing(_cassandra.connect(store, password)) as database:
        database.write('create table "Gateway".things (id int primary key)', None)
        with pytest.raises(DatabaseError, match="permission"):
            database.write("create keyspace other with replication = {'class': 'SimpleStrategy', 'replication_factor': 1}", None)
        with pytest.raises(DatabaseError, match="privileges"):
            _cassandra_role.make({**login, "name": "third"}, False)
    with pytest.raises(DatabaseError, match="takes a password"):
        _cassandra_role.make({**wanted, "name": "third", "password": None}, False)
    open_to_all = {**wanted, "cassandra_port": ring.server.port, "cassandra_ssl": False, "ca_cert": None}
    with pytest.raises(DatabaseError, match="AllowAllAuthenticator"):
        _cassandra_role.make(open_to_all, False)


@pytest.fixture
def mortal():
    """A node that can be killed and started again."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="kong-cassandra-"))
    standing = Ring(directory, restarts=True)
    try:
        standing.server.start()
        yield standing
    finally:
        standing.server.stop()
        process.end(lambda: process.members(directory))
        shutil.rmtree(directory)


def test_cassandra_dies_in_the_middle_of_up(mortal):
    """The module ends with what it knows; when the server is back, the same call does the rest."""
    at = mortal.at()
    at.migrate("bootstrapped", mortal.old)
    errors = []

    def migrate():
        try:
            at.migrate("up", lock_timeout=15)
        except (CommandError, DatabaseError) as error:
            errors.append(error)

    thread = threading.Thread(target=migrate)
    thread.start()
    wait_for(at.locks, 30, "up holds the lock", interval=0.01)
    mortal.server.kill()
    thread.join(60)
    assert errors and "Check cassandra_contact_points" in errors[0].message
    assert errors[0].details["before"]["state"] == "new" and errors[0].details["commands"]
    mortal.server.start()
    assert at.info(known=errors[0].details["before"]["executed"])[0]["executed"]["core"]
    result = at.migrate("up", pending_and_new="finish")
    assert not result["after"]["new"]
    assert at.migrate("finished")["after"]["state"] == "up_to_date" and not at.locks()
