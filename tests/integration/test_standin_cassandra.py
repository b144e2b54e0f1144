# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in for the kong command on a real Cassandra: its traps, its data plane, and recordings of real Kong."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest
import yaml
from bed import cassandra, process
from bed.cassandra import Cassandra
from standin import replay_cassandra, replay_place
from standin.replay_new_keyspace import NewKeyspaceReplay

HERE = pathlib.Path(__file__).resolve().parent
TRANSCRIPTS = pathlib.Path(os.environ.get("KONG_TRANSCRIPTS") or HERE.parents[2] / "shared" / "transcripts")
# Needs 0.14.1, which the stand-in has on PostgreSQL alone.
NOT_HERE = re.compile(r"cassandra-chain-")

pytestmark = pytest.mark.skipif(cassandra.missing() is not None, reason=str(cassandra.missing()))


@pytest.fixture(scope="module")
def place():
    """A Cassandra, folders and ports; everything is gone afterwards."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="standin-"))
    (root / "place").mkdir()
    port, storage_port = replay_place.free_ports(2)
    server = Cassandra(root, "127.0.0.1", process.environment(root), port, storage_port)
    there = None
    try:
        server.start()
        there = replay_cassandra.CassandraPlace(root / "place", server)
        yield there
    finally:
        if there is not None:
            there.close()
        server.stop()
        process.end(lambda: process.members(root))
        shutil.rmtree(root, ignore_errors=True)


def recordings():
    found = sorted(TRANSCRIPTS.glob("cassandra-*.yaml")) if TRANSCRIPTS.is_dir() else []
    return [path for path in found if not NOT_HERE.match(path.name)]


@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="no recordings of real Kong: %s is missing (KONG_TRANSCRIPTS "
                    "names the folder)" % TRANSCRIPTS)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", recordings() or [None], ids=lambda path: path and path.stem)
def test_recording(place, path):
    kind = NewKeyspaceReplay if path.name.startswith("cassandra-newkeyspace-") else replay_cassandra.CassandraReplay
    one = kind(place, path)
    one.run(one.entries)
    print("\n%s: %d entries replayed, %d left out" % (path.name, one.replayed, sum(map(len, one.skipped.values()))))
    assert one.replayed > len(one.entries) / 2
    assert not one.problems, "\n\n".join(one.problems)


class Kong:
    """The command of one version with one configuration."""

    def __init__(self, place, version, node):
        self.place, self.version, self.node = place, version, node
        place.write_conf(node, node=node)

    def __call__(self, *argv, check=0):
        conf = self.place.etc / (self.node + ".conf")
        done = subprocess.run([self.place.kong(self.version), *argv, "-c", conf], cwd=self.place.cwd, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
        assert done.returncode == check, done
        return done

    def ask(self, kind, path, body=None, method=None, **headers):
        """(status, value) of an HTTP request to this node."""
        url = "http://127.0.0.1:%d%s" % (self.place.ports[self.node][kind], path)
        method = method or ("GET" if body is None else "POST")
        status, _headers, content = replay_cassandra.CassandraReplay.ask(method, url, body, headers)
        return status, json.loads(content) if content.startswith((b"{", b"[")) else content.decode()

    def admin(self, path, body=None, method=None):
        status, value = self.ask("admin", path, body, method)
        assert status < 300, (path, status, value)
        return value

    def seed(self):
        """A service with key-auth and one consumer."""
        self.admin("/services", {"name": "svc", "url": "http://127.0.0.1:%d" % self.place.origin.server_port})
        self.admin("/services/svc/routes", {"name": "r", "paths": ["/api"], "strip_path": False})
        self.admin("/services/svc/plugins", {"name": "key-auth"})
        self.admin("/consumers", {"username": "alice"})
        self.admin("/consumers/alice/key-auth", {"key": "s3cret"})


@pytest.fixture
def nodes(place):
    """make(old version) -> (old, new), on an empty keyspace."""
    def make(version):
        place.drop()
        place.forwarder.up()
        for name in place.ports:
            shutil.rmtree(place.prefix(name), ignore_errors=True)
        old, new = Kong(place, version, "old"), Kong(place, "2.8.5", "new")
        old("migrations", "bootstrap")
        old("start")
        old.seed()
        return old, new

    yield make
    for name in place.ports:
        place.stop(name)
    place.drop()


def test_a_2_0_node_finds_nothing_any_more_after_finish(place, nodes):
    old, new = nodes("2.0.5")
    old.admin("/consumers/alice/key-auth", {"key": "not-cached"})
    assert replay_place.wait(lambda: old.ask("proxy", "/api", apikey="s3cret")[0] == 200, 5)
    new("migrations", "up")
    assert "table index is nil" in new("start", check=1).stderr
    old.admin("/consumers", {"username": "between"})
    new("migrations", "finish")
    assert old.ask("proxy", "/api", apikey="s3cret")[0] == 200
    assert old.ask("proxy", "/api", apikey="not-cached")[0] == 401
    new("start")
    for key in ("s3cret", "not-cached"):
        assert new.ask("proxy", "/api", apikey=key) == (200, "hello from upstream\n")
    old.admin("/consumers", {"username": "after"})
    assert sorted(row["username"] for row in new.admin("/consumers")["data"]) == ["alice", "between"]
    workspace = place.execute("SELECT id FROM {}.workspaces")[0]["id"]
    assert {row["username"] for row in place.execute("SELECT username FROM {}.consumers")} == {
        "%s:alice" % workspace, "%s:between" % workspace, "after"}


def test_from_2_1_on_both_serve_all_the_time(place, nodes):
    old, new = nodes("2.1.4")
    for step in ("up", "finish"):
        new("migrations", step)
        new("start")
        old.admin("/consumers", {"username": step})
        old.admin("/consumers/%s/key-auth" % step, {"key": step})
        for node in (old, new):
            for key in ("s3cret", step):
                assert replay_place.wait(lambda: node.ask("proxy", "/api", apikey=key)[0] == 200, 5)  # noqa: B023
        place.stop("new")


@contextlib.contextmanager
def disagreement(place):
    """A member of the cluster that missed the last change of the schema."""
    place.server.execute("INSERT INTO system.peers (peer, schema_version) VALUES ('127.9.9.9', uuid())")
    try:
        yield
    finally:
        place.server.execute("DELETE FROM system.peers WHERE peer = '127.9.9.9'")


def test_schema_agreement_is_awaited_and_a_bootstrap_that_fails_there_looks_done(place, nodes):
    """As measured on real 1.5.1, 2.0.5 and 2.8.5."""
    place.drop()
    kong = Kong(place, "2.0.5", "old")
    with disagreement(place):
        failed = kong("migrations", "bootstrap", "--db-timeout", "1", check=1)
        assert "failed to bootstrap database: failed to wait for schema consensus: timeout" in failed.stderr
        assert kong("migrations", "bootstrap").stdout == "Database already bootstrapped\n"
    assert not place.execute("SELECT * FROM {}.schema_meta")
    dummy, new = nodes("2.0.5")
    with disagreement(place):
        failed = new("migrations", "up", "--db-timeout", "1", check=1)
    assert "[Cassandra error] failed to wait for schema consensus: timeout" in failed.stderr
    assert any(row["pending"] for row in place.execute("SELECT pending FROM {}.schema_meta"))


def test_what_must_be_unique_is_and_what_is_deleted_is_gone(place, nodes):
    old, dummy = nodes("2.7.2")
    assert old.ask("admin", "/services", {"name": "svc", "host": "elsewhere"})[0] == 409
    assert old.ask("admin", "/consumers", {"username": "alice"})[0] == 409
    other = old.admin("/consumers", {"username": "bob", "custom_id": "b", "tags": ["x", "y"]})
    assert old.admin("/consumers/bob", {"custom_id": "c"}, "PATCH")["custom_id"] == "c"
    page = old.admin("/consumers?size=1")
    rest = old.admin(page["next"])
    assert len(page["data"]) == len(rest["data"]) == 1 and rest["next"] is None
    assert {page["data"][0]["username"], rest["data"][0]["username"]} == {"alice", "bob"}
    old.admin("/consumers/%s" % other["id"], method="DELETE")
    assert old.ask("admin", "/consumers/bob")[0] == 404
    assert replay_place.wait(lambda: old.ask("proxy", "/api", apikey="s3cret")[0] == 200, 5)
    key = old.admin("/consumers/alice/key-auth")["data"][0]
    old.admin("/key-auths/%s" % key["id"], method="DELETE")
    assert old.ask("proxy", "/api", apikey="s3cret")[0] == 401
    file = place.cwd / "export.yml"
    old("config", "db_export", str(file))  # from 2.1 on with the counters of rate limits
    file.unlink()


def test_an_export_into_a_new_keyspace(place, nodes):
    """Loses every basic-auth login of a 2.0 cluster, and a prefix with .kong_env wins over -c."""
    old, new = nodes("2.0.5")
    old.admin("/services/svc/routes", {"name": "b", "paths": ["/basic"], "strip_path": False})
    route = old.admin("/routes/r")["id"]
    plugin = next(p for p in old.admin("/plugins")["data"] if p["name"] == "key-auth")
    old.admin("/plugins/%s" % plugin["id"], {"route": {"id": route}, "service": None}, "PATCH")
    old.admin("/routes/b/plugins", {"name": "basic-auth"})
    old.admin("/consumers/alice/basic-auth", {"username": "alice", "password": "pw"})
    file = place.cwd / "export.yml"
    try:
        old("config", "db_export", str(file))
        exported = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert exported["keyauth_credentials"] and "basicauth_credentials" not in exported
        assert "already exists" in old("config", "db_export", str(file), check=1).stderr
        failed = new("config", "db_export", str(place.cwd / "none.yml"), check=1).stderr
        assert "[cassandra] could not execute page query: [Invalid] Undefined column name cert_digest" in failed
        assert "unconfigured table workspaces" in new("config", "db_import", str(file), check=1).stderr
        place.write_conf("new", {"cassandra_keyspace": "kong_fresh"}, node="new")
        assert "Keyspace 'kong_fresh' does not exist" in new("config", "db_import", str(file), check=1).stderr
        new("migrations", "bootstrap")
        assert new("config", "db_import", str(file)).stdout.endswith("import successful\n")
        new("start")
        login = {"Authorization": "Basic YWxpY2U6cHc="}
        assert new.ask("proxy", "/api", apikey="s3cret")[0] == 200
        assert (old.ask("proxy", "/basic", **login)[0], new.ask("proxy", "/basic", **login)[0]) == (200, 401)
        stored = place.execute("SELECT id, username, password, consumer_id FROM {}.basicauth_credentials")[0]
        consumer = str(stored.pop("consumer_id"))
        exported["basicauth_credentials"] = [dict(stored, id=str(stored["id"]), consumer=consumer)]
        for transform, status in ((False, 200), (True, 401)):
            repaired = dict(exported, _format_version="2.1", _transform=transform)
            file.write_text(yaml.safe_dump(repaired), encoding="utf-8")
            place.write_conf("new", {"cassandra_keyspace": "kong_other"}, node="new")  # not heeded: the node has .kong_env
            new("config", "db_import", str(file))
            place.write_conf("new", {"cassandra_keyspace": "kong_fresh"}, node="new")
            place.stop("new")
            new("start")
            assert new.ask("proxy", "/basic", **login)[0] == status
    finally:
        place.stop("new")
        place.execute("DROP KEYSPACE IF EXISTS kong_fresh")
        for path in place.cwd.glob("*.yml"):
            path.unlink()
