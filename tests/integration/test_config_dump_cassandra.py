# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong_config_dump on a real Cassandra: an old keyspace into a new one.

With BLUE_KONG and GREEN_KONG in the environment it runs those kong commands (2.0 and 2.8), else the stand-in.
"""

import json
import uuid

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _conf,
    _dump,
    _dump_diff,
    _dump_import,
    _postgres,
    _runtime_data,
)
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DumpError
from bed import cassandra
from migrating import run_command

pytestmark = [
    pytest.mark.skipif(cassandra.missing() is not None, reason=str(cassandra.missing())), pytest.mark.usefixtures("tidy_ring"),
    pytest.mark.timeout(900)]
CONSUMERS = 1500  # more than a page


def number(kind, n):
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{kind}{n}")


@pytest.fixture
def old(ring):
    """A keyspace at the older version that holds something."""
    at = ring.at()
    at.migrate("bootstrapped", ring.old)
    session = ring.server.session()
    for table, columns in (("consumers", "username"), ("basicauth_credentials", "username, consumer_id, password")):
        insert = session.prepare(
            f"insert into {at.keyspace}.{table} (id, created_at, {columns}) values"
            f" (?, toTimestamp(now()), {', '.join('?' * len(columns.split(',')))})")
        for n in range(CONSUMERS):
            values = (f"user-{n}", number("c", n), f"hash-{n}")[:len(columns.split(","))]
            session.execute(insert, (number(table[0], n), *values))
    at.execute(
        "insert into {}.plugins (id, created_at, name, config, enabled, cache_key, protocols) values (%s, toTimestamp(now()), 'acl',"
        """ '{{"whitelist": ["admins"], "hide_groups_header": false}}', true, 'plugins:acl::::', {{'http', 'https'}})""",
        number("p", 1))
    at.execute(
        "insert into {}.services (partition, id, created_at, updated_at, name, host, port, protocol, retries, connect_timeout,"
        " read_timeout, write_timeout, tags) values ('services', %s, toTimestamp(now()), toTimestamp(now()), 'svc', 'h', 80, 'http',"
        " 5, 60000, 60000, 60000, {{'b', 'a'}})", number("s", 1))
    at.execute(
        "insert into {}.upstreams (id, created_at, name, algorithm, hash_on, hash_fallback, hash_on_cookie_path, slots) values"
        " (%s, toTimestamp(now()), 'up', 'round-robin', 'none', 'none', '/', 10000)", number("u", 1))
    for n in range(3):  # a change of a weight makes a new one, up to 2.1
        at.execute(
            "insert into {}.targets (id, created_at, upstream_id, target, weight) values (%s, %s, %s, '127.0.0.1:80', %s)",
            number("t", n), 1600000000000 + 5000 * n, number("u", 1), 100 + n)
    for n, lifetime in enumerate(("", " using ttl 3600")):
        at.execute(
            "insert into {}.keyauth_credentials (id, created_at, consumer_id, key) values (%s, toTimestamp(now()), %s, %s)" + lifetime,
            number("k", n), number("c", n), f"key-{n}")
    return at


@pytest.fixture
def new(ring):
    """A keyspace that the newer version has bootstrapped."""
    at = ring.at()
    at.migrate("bootstrapped")
    return at


@pytest.fixture
def tidy_ring(ring):
    yield
    ring.tidy()


HELD = {
    "services": 1, "consumers": CONSUMERS, "basicauth_credentials": CONSUMERS, "plugins": 1, "keyauth_credentials": 1, "upstreams": 1,
    "targets": 1}
EXPORTED = {**HELD, "keyauth_credentials": 2, "targets": 3}


def dumped(at, path, **params):
    params = {"executable": at.ring.old, "conf": at.conf, "dest": str(path), "force": True, "parse": False, **params}
    return _dump.export(params, run_command)


def into(at, result, check_mode=False):
    new = (at.ring if hasattr(at, "ring") else at.cluster).new
    return _dump_import.load({"src": result["dest"], "conf": at.conf, "executable": new}, run_command, check_mode)


def credentials(at):
    rows = at.execute("select id, consumer_id, username, password from {}.basicauth_credentials")
    return {(row["id"], row["consumer_id"], row["username"].rpartition(":")[2], row["password"]) for row in rows}


def test_a_dump_into_a_new_keyspace(old, new, tmp_path):
    before = {table: old.execute(f"select * from {{}}.{table}") for table in HELD}
    made = dumped(old, tmp_path / "d.yml", add_basic_auth=True)
    read = dumped(old, tmp_path / "e.yml", source="database")
    assert made["transform"] is read["transform"] is False
    assert made["counts"] == read["counts"] == EXPORTED
    assert into(new, made, check_mode=True)["changed"] and not credentials(new)
    done = into(new, made)
    assert done["changed"] and f"keyspace {new.keyspace} at" in done["database"]
    assert {done["before"][name] for name in HELD} == {0} and {name: done["after"][name] for name in HELD} == HELD
    assert done["repairs"]["keyauth_credentials with a time to live left out"] == 1
    assert [row["weight"] for row in new.execute("select weight from {}.targets")] == [102]
    assert credentials(new) == credentials(old), "the same ids, and hashes that were not hashed again"
    assert json.loads(new.execute("select config from {}.plugins")[0]["config"])["allow"] == ["admins"]
    assert set(new.execute("select tags from {}.services")[0]["tags"]) == {"a", "b"}
    assert into(new, read)["changed"] is False
    with _dump.entities(_conf.load(old.conf)[0]) as here, _dump.entities(_conf.load(new.conf)[0]) as there:
        same = _dump_diff.compare(here, there, 10)
        assert (same["number"], same["counts"]) == (0, {name: {"old": count, "new": count} for name, count in HELD.items()})
        old.execute("update {}.services set host = 'elsewhere' where partition = 'services' and id = %s", number("s", 1))
        new.execute("delete from {}.consumers where id = %s", number("c", 7))
        new.execute("insert into {}.consumers (id, username) values (%s, 'stranger')", number("c", -1))
        told = _dump_diff.compare(here, there, 10)["differences"]
    assert [(each["entity"], each["name"], each["what"], each["fields"]) for each in told] == [
        ("consumers", "user-7", "missing", []), ("consumers", "stranger", "extra", []), ("services", "svc", "different", ["host"])]
    old.execute("update {}.services set host = 'h' where partition = 'services' and id = %s", number("s", 1))
    assert before == {table: old.execute(f"select * from {{}}.{table}") for table in HELD}, "nothing is written to the old one"


def write(at, table, n, lifetime, **values):
    """A row of the data plane's in a keyspace."""
    columns = {"id": number(table[0], n), "created_at": 1600000000000, **values}
    at.execute(
        f"insert into {{}}.{table} ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))}) using ttl {lifetime}",
        *columns.values())


@pytest.mark.parametrize("driver", ["psycopg", "psql"])
def test_out_of_cassandra(old, cluster, tmp_path, monkeypatch, driver):
    monkeypatch.setattr(_postgres, "DRIVERS", (driver,))
    old.execute(
        "insert into {}.oauth2_credentials (id, created_at, name, client_id, client_secret, consumer_id) values"
        " (%s, toTimestamp(now()), 'app', 'app', 'hash', %s)", number("o", 1), number("c", 1))
    made = dumped(old, tmp_path / "d.yml", add_basic_auth=True)
    held = {**HELD, "oauth2_credentials": 1}
    on_postgres = cluster.fresh(template="template0")

    def rows(sql):
        with on_postgres.session() as session:
            cursor = session.execute(sql)
            return cursor.fetchall() if cursor.description else []

    try:
        on_postgres.migrate("bootstrapped")
        done = into(on_postgres, made)
        assert done["changed"] and f"database {on_postgres.name} at" in done["database"]
        with _dump.entities(_conf.load(old.conf)[0]) as here, _dump.entities(_conf.load(on_postgres.conf)[0]) as there:
            assert there.database.driver == driver
            assert _dump_diff.compare(here, there, 10) == {
                "counts": {name: {"old": count, "new": count} for name, count in held.items()}, "differences": [], "number": 0,
                "not_compared": []}
            for n in range(3):
                write(old, "oauth2_tokens", n, 1000 + n, access_token=f"token-{n}", expires_in=7200, credential_id=number("o", 1))
                write(old, "sessions", n, 600, session_id=f"it's {n}", data="old")
            write(old, "oauth2_tokens", 8, 0, access_token="token-8", refresh_token="for ever", credential_id=number("o", 1))
            write(old, "oauth2_tokens", 9, 1000, access_token="token-9", credential_id=number("o", 9))
            job = _runtime_data.Copy(here, there)
            job.round()
            assert job.copied == {"oauth2_tokens": 4, "sessions": 3, "keyauth_credentials": 1}, "of a client that is no more there is none"
            left = dict(rows("select access_token, extract(epoch from ttl - now())::int from oauth2_tokens"))
            assert left.pop("token-8") is None and set(left) == {"token-0", "token-1", "token-2"} and 900 < left["token-2"] <= 1002
            ((key, made_at, consumer, workspace),) = rows(
                "select k.key, extract(epoch from k.created_at)::int, consumer_id, w.id from keyauth_credentials k join workspaces w"
                " on k.ws_id = w.id where ttl is not null")
            assert (key, consumer) == ("key-1", number("c", 1)) and made_at > 1600000000 and workspace
            rows("update sessions set data = 'new', ttl = ttl + interval '60 seconds' where session_id in ('it''s 0', 'it''s 2')")
            write(old, "sessions", 1, 900, session_id="it's 1", data="old, later")
            old.execute("delete from {}.sessions where id = %s", number("s", 2))
            old.execute("delete from {}.oauth2_tokens where id = %s", number("o", 0))
            job.round()
            assert dict(rows("select session_id, data from sessions")) == {"it's 0": "new", "it's 1": "old, later", "it's 2": "new"}
            assert job.removed == {"oauth2_tokens": 1}
            again = _runtime_data.Copy(here, there)
            again.round()
            assert again.copied == {}
    finally:
        cluster.tidy()


def test_what_the_data_plane_writes(old, new):
    for n in range(3):
        write(old, "oauth2_tokens", n, 1000 + n, access_token=f"token-{n}", expires_in=7200, credential_id=number("c", n))
        write(old, "sessions", n, 600, session_id=f"session-{n}", data="old")
    write(old, "oauth2_tokens", 9, 0, access_token="token-9", refresh_token="for ever")
    with _dump.entities(_conf.load(old.conf)[0]) as here, _dump.entities(_conf.load(new.conf)[0]) as there:
        job = _runtime_data.Copy(here, there)
        job.round(check_mode=True)
        assert not new.execute("select * from {}.sessions")
        job = _runtime_data.Copy(here, there)
        job.round()
        assert job.copied == {"oauth2_tokens": 4, "sessions": 3, "keyauth_credentials": 1}
        workspace = new.execute("select id from {}.workspaces")[0]["id"]
        rows = new.execute(
            "select access_token, refresh_token, ws_id, credential_id, expires_in, ttl(access_token) as left from {}.oauth2_tokens")
        found = {row["access_token"]: row for row in rows}
        first = found[f"{workspace}:token-1"]
        assert (first["ws_id"], first["credential_id"]) == (workspace, number("c", 1))
        assert 900 < found[f"{workspace}:token-2"]["left"] <= 1002
        assert found[f"{workspace}:token-9"]["left"] is None and found[f"{workspace}:token-9"]["refresh_token"] == f"{workspace}:for ever"
        assert new.execute("select key from {}.keyauth_credentials")[0]["key"] == f"{workspace}:key-1"

        write(new, "sessions", 0, 600, session_id="session-0", data="new")
        write(old, "sessions", 1, 600, session_id="session-1", data="old, later")
        old.execute("delete from {}.sessions where id = %s", number("s", 2))
        job.round()
        assert {row["session_id"]: row["data"] for row in new.execute("select * from {}.sessions")} == {
            "session-0": "new", "session-1": "old, later"}, "what green has made of it stays, what blue has ended is gone"
        assert job.removed == {"sessions": 1}
        assert _dump_diff.compare(here, there, 10)["number"] > 0, "the configuration is not of this"


def test_where_a_dump_must_not_go(old, new, tmp_path):
    made = dumped(old, tmp_path / "d.yml", add_basic_auth=True)
    with pytest.raises(DumpError, match="migrations list ended with 5"):
        into(old, made)
    new.execute("insert into {}.consumers (id, username) values (%s, 'stranger')", uuid.uuid4())
    with pytest.raises(DumpError, match="does not hold: 1 consumers"):
        into(new, made)
    assert not credentials(new)
