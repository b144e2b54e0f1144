# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in for the kong command: its own rows, its traps, its data plane, and recordings of real Kong."""

import asyncio
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest
import yaml
from ansible_collections.bluegreen.kong.plugins.module_utils import _process
from bed.postgres import Postgres
from bed.process import wait_for
from standin import replay, replay_place

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TRANSCRIPTS = pathlib.Path(os.environ.get("KONG_TRANSCRIPTS") or ROOT.parent / "shared" / "transcripts")
ROWS = yaml.safe_load((HERE / "standin" / "rows.yaml").read_text(encoding="utf-8"))
NOT_HERE = re.compile(r"cassandra")


@pytest.fixture(scope="module")
def place():
    """A PostgreSQL, folders and ports; everything is gone afterwards."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="standin-"))
    root.chmod(0o755)  # the server's user has to pass
    (root / "pg").mkdir()
    (root / "place").mkdir()
    postgres = Postgres(root / "pg", "127.0.0.1", replay_place.free_ports(1)[0], dict(os.environ), password="kong")
    there = None
    try:
        postgres.start()
        there = replay_place.Place(root / "place", postgres)
        yield there
    finally:
        if there is not None:
            there.close()
        if postgres.process is not None:
            postgres.process.send_signal(signal.SIGINT)
            postgres.process.wait(20)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def clean(place):
    """The place with an empty database and no prefix."""
    for name in place.ports:
        place.stop(name)
        shutil.rmtree(place.prefix(name), ignore_errors=True)
    place.forwarder.up()
    place.recreate()
    place.write_conf("kong")
    place.write_conf("kong-green")
    yield place
    for name in place.ports:
        place.stop(name)


class Kong:
    """The command of one version with one configuration."""

    def __init__(self, place, version, name="kong"):
        self.place, self.version, self.name = place, version, name
        self.conf = place.etc / (name + ".conf")

    def __call__(self, *argv, check=0):
        done = subprocess.run([self.place.kong(self.version), *map(str, argv)], cwd=self.place.cwd, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=60)
        if check is not None:
            assert done.returncode == check, (argv, done)
        return done

    def migrate(self, what, *more, **check):
        return self("migrations", what, "-c", self.conf, *more, **check)

    def start(self, **check):
        return self("start", "-c", self.conf, **check)

    def quit(self, *more):
        return self("quit", "-p", self.place.prefix(self.name), *more)

    def env(self):
        text = (self.place.prefix(self.name) / ".kong_env").read_text(encoding="utf-8")
        return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)

    def ask(self, kind, path, body=None, method=None, **headers):
        """(status, value) of an HTTP request to this node."""
        url = "http://127.0.0.1:%d%s" % (self.place.ports[self.name][kind], path)
        data = None if body is None else json.dumps(body).encode()
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        if data:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content.decode()

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
        self.admin("/consumers/alice/basic-auth", {"username": "alice", "password": "pw"})


# its own rows

@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_row(place, row):
    for name in place.ports:
        place.stop(name)
    shutil.rmtree(place.prefix(), ignore_errors=True)
    for path in place.cwd.glob("*"):
        path.unlink()
    at = row["at"]
    if at == "empty":
        place.recreate()
    elif at is not None:
        words = str(at).split()
        kept = place.template(words[0]) if len(words) == 1 else place.template_up(words[0], words[2])
        place.recreate(kept[0])
    place.write_conf("kong", row.get("conf"))
    names = {"CONF": place.etc / "kong.conf", "FILE": place.cwd / "x.yml", "PREFIX": place.prefix()}
    argv = [str(names.get(word, word)) for word in row["argv"]]
    if argv[0] in ("start", "migrations", "config") and "--nosuch" not in argv and "-p" not in argv \
            and "--help" not in argv:
        argv += ["-c", str(place.etc / "kong.conf")]
        place.prefix().mkdir(exist_ok=True)
    done = Kong(place, str(row["version"]))(*argv, check=None)
    assert done.returncode == row["rc"], done
    for key, text in (("out", done.stdout), ("err", done.stderr)):
        wanted = row.get(key)
        if wanted == "":
            assert text == ""
        elif wanted is not None:
            for part in wanted if isinstance(wanted, list) else [wanted]:
                assert part in text
    assert row.get("not") is None or row["not"] not in done.stdout
    if row["argv"][0] == "version":
        assert done.stdout == row["out"]


# recordings of real Kong

def recordings():
    """(file, block) of what there is to replay."""
    out = []
    for path in sorted(TRANSCRIPTS.glob("*.yaml")) if TRANSCRIPTS.is_dir() else ():
        if NOT_HERE.search(path.name):
            continue
        scenarios = re.findall(r"(?m)^- (?:\S+: .*\n  )*?scenario: (\S+)", path.read_text(encoding="utf-8"))
        blocks = dict.fromkeys(map(replay.block_of, scenarios)) if path.name.startswith("kong-") else ["all"]
        out += [(path.name, block) for block in blocks]
    return out


@pytest.fixture(scope="module")
def files(place):
    """Each recording is read once."""
    read = {}

    def get(name):
        if name not in read:
            read[name] = replay.Replay(place, TRANSCRIPTS / name)
        return read[name]

    yield get
    for name, one in read.items():
        print("\n%s: %d entries replayed, %d left out" % (name, one.replayed, sum(map(len, one.skipped.values()))))


@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="no recordings of real Kong: %s is missing (KONG_TRANSCRIPTS "
                    "names the folder)" % TRANSCRIPTS)
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "block"), recordings() or [(None, None)])
def test_recording(files, name, block):
    one = files(name)
    before = len(one.problems)
    one.run(dict(one.blocks())[block])
    assert not one.problems[before:], "\n\n".join(one.problems[before:])


# traps

def test_every_version_bootstraps_and_is_brought_to_2_8_5(clean):
    for version in ("1.0.4", "1.1.3", "1.2.3", "1.3.1", "1.4.3", "2.0.0", "2.1.0", "2.2.2", "2.3.4", "2.4.2", "2.5.2",
                    "2.6.1"):
        clean.recreate()
        old, new = Kong(clean, version), Kong(clean, "2.8.5", "kong-green")
        old.migrate("bootstrap")
        old.migrate("list")
        assert new.migrate("list", check=5)
        new.migrate("up")
        assert new.migrate("list", check=None).returncode == (4 if replay_number(version) < (2, 2) else 0)
        new.migrate("finish")
        new.migrate("list")
        assert old.migrate("up").stdout.strip().lower() == "database is already up-to-date"


def replay_number(version):
    return tuple(int(part) for part in version.split("."))


def test_a_2_0_node_writes_what_2_8_cannot_see_after_finish(clean):
    old, new = Kong(clean, "2.0.5"), Kong(clean, "2.8.5", "kong-green")
    old.migrate("bootstrap")
    old.start()
    old.seed()
    new.migrate("up")
    new.start()
    old.admin("/consumers", {"username": "between"})
    new.migrate("finish")
    old.admin("/consumers", {"username": "after"})
    old.admin("/consumers/after/key-auth", {"key": "after"})
    names = [row["username"] for row in new.admin("/consumers")["data"]]
    assert sorted(names) == ["alice", "between"]
    assert old.ask("proxy", "/api", apikey="after")[0] == 200
    assert new.ask("proxy", "/api", apikey="after")[0] == 401
    assert new.ask("proxy", "/api", apikey="s3cret") == (200, "hello from upstream\n")


def test_finish_rewrites_lists(clean):
    old, new = Kong(clean, "2.0.5"), Kong(clean, "2.8.5", "kong-green")
    old.migrate("bootstrap")
    old.start()
    old.seed()
    made_by_old = old.admin("/plugins", {"name": "ip-restriction", "config": {"blacklist": ["10.9.0.0/16"]}})
    new.migrate("up")
    new.start()
    made_by_new = new.admin("/services/svc/plugins", {"name": "ip-restriction", "config": {"deny": ["127.0.0.1"]}})
    assert new.ask("proxy", "/api", apikey="s3cret")[0] == 403
    new.migrate("finish")
    new("reload", "-c", new.conf)
    assert new.admin("/plugins/" + made_by_old["id"])["config"]["deny"] == ["10.9.0.0/16"]
    assert "deny" not in new.admin("/plugins/" + made_by_new["id"])["config"]
    assert replay_place.wait(lambda: new.ask("proxy", "/api", apikey="s3cret")[0] == 200, 5)


def test_up_blocks_readers_behind_an_old_transaction(clean):
    kong, new = Kong(clean, "2.0.5"), Kong(clean, "2.8.5", "kong-green")
    kong.migrate("bootstrap")
    with clean.postgres.connect(autocommit=False) as old_transaction:
        old_transaction.execute("SELECT count(*) FROM consumers")
        up = subprocess.Popen([clean.kong("2.8.5"), "migrations", "up", "-c", new.conf], stdout=subprocess.PIPE)
        with clean.postgres.admin("kong") as db:
            def waiting():
                return db.execute("SELECT mode FROM pg_locks WHERE NOT granted").fetchall()
            assert replay_place.wait(waiting, 10)
            assert waiting() == [("AccessExclusiveLock",)]
            with clean.postgres.connect() as reader:
                reader.execute("SET statement_timeout = '300ms'")
                with pytest.raises(Exception, match="statement timeout"):
                    reader.execute("SELECT count(*) FROM consumers")
        old_transaction.rollback()
    assert up.wait(20) == 0
    up.stdout.close()


def test_config_prefers_the_settings_of_the_node(clean):
    kong = Kong(clean, "2.8.5")
    kong.migrate("bootstrap")
    kong.start()
    kong.seed()
    clean.drop_other("kong_other")
    clean.write_conf("kong-other", {"pg_database": "kong_other"})
    kong("config", "db_export", "a.yml", "-c", clean.etc / "kong-other.conf")
    exported = yaml.safe_load((clean.cwd / "a.yml").read_text(encoding="utf-8"))
    assert [c["username"] for c in exported["consumers"]] == ["alice"]
    scratch = clean.root / "scratch"
    done = kong("config", "db_export", "b.yml", "-c", clean.etc / "kong-other.conf", "-p", scratch, check=1)
    assert "does not exist" in done.stderr
    assert kong("config", "db_export", "b.yml", "-c", kong.conf, check=1).stderr.startswith("Error: ")  # the leftover
    for name in ("a.yml", "b.yml"):
        (clean.cwd / name).unlink()


def test_exports_and_passwords(clean):
    old, new = Kong(clean, "2.0.5"), Kong(clean, "2.8.5")
    old.migrate("bootstrap")
    old.start()
    old.seed()
    old("config", "db_export", "old.yml", "-c", old.conf)
    text = (clean.cwd / "old.yml").read_text(encoding="utf-8")
    assert "basicauth_credentials" not in text
    assert "_transform" not in text
    old.quit()
    new.migrate("up")
    new.migrate("finish")
    new("config", "db_export", "new.yml", "-c", new.conf)
    exported = yaml.safe_load((clean.cwd / "new.yml").read_text(encoding="utf-8"))
    stored = exported["basicauth_credentials"][0]["password"]
    assert exported["_transform"] is False
    for change, same in ((False, True), (None, False)):
        again = dict(exported)
        again.pop("_transform")
        if change is not None:
            again["_transform"] = change
        (clean.cwd / "again.yml").write_text(yaml.safe_dump(again), encoding="utf-8")
        new("config", "db_import", "again.yml", "-c", new.conf)
        with clean.postgres.admin("kong") as db:
            now = db.execute("SELECT password FROM basicauth_credentials").fetchall()
        assert (now == [(stored,)]) is same
    for path in clean.cwd.glob("*.yml"):
        path.unlink()


@pytest.mark.parametrize(("version", "written"), [("2.2.2", False), ("2.3.4", True), ("2.8.5", True)])
def test_a_refused_start_and_the_prefix(clean, version, written):
    kong = Kong(clean, version)
    kong.migrate("bootstrap")
    kong.start()
    assert kong.env()["pg_timeout"] == "60000"
    assert kong.env()["pg_password"] == "kong"
    clean.write_conf("kong", {"log_level": "warn"})
    assert "already running" in kong.start(check=1).stderr
    assert (kong.env()["log_level"] == "warn") is written


@pytest.mark.parametrize(("version", "admin"), [("2.2.2", False), ("2.3.4", True)])
def test_reload_and_the_file(clean, version, admin):
    clean.write_conf("kong", {"admin_listen": "off", "log_level": "info"})
    kong = Kong(clean, version)
    kong.migrate("bootstrap")
    kong.start()
    clean.write_conf("kong")  # with an Admin API, without log_level
    kong("reload", "-c", kong.conf)
    assert kong.env()["log_level"] == "info"
    assert (kong.env()["admin_listen"] != "off") is admin

    def answers():
        try:
            return kong.ask("admin", "/status")[0] == 200
        except OSError:
            return False
    assert replay_place.wait(answers, 2 if admin else 0.5) is admin
    assert kong.ask("status", "/status")[1]["database"] == {"reachable": True}


def test_sessions_and_cache(clean):
    clean.write_conf("kong", {"db_update_frequency": "1"})
    clean.write_conf("kong-green", {"db_update_frequency": "1"})
    one, two = Kong(clean, "2.8.5"), Kong(clean, "2.8.5", "kong-green")
    one.migrate("bootstrap")
    one.start()
    two.start()
    one.seed()
    with clean.postgres.admin("kong") as db:
        sessions = db.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'kong' AND usename = 'kong'")
        assert sessions.fetchone() == (4,)
    assert replay_place.wait(lambda: two.ask("proxy", "/api", apikey="s3cret")[0] == 200, 5)
    assert two.ask("proxy", "/api", apikey="later")[0] == 401
    one.admin("/consumers/alice/key-auth", {"key": "later"})
    assert replay_place.wait(lambda: two.ask("proxy", "/api", apikey="later")[0] == 200, 5)
    clean.forwarder.down()
    assert two.ask("proxy", "/api", apikey="s3cret")[0] == 200
    assert two.ask("proxy", "/api", apikey="never seen")[0] == 500
    assert two.ask("status", "/status")[1]["database"] == {"reachable": False}
    clean.forwarder.up()
    assert replay_place.wait(lambda: two.ask("proxy", "/api", apikey="never seen")[0] == 401, 5)


def test_nginx_of_the_launcher(clean):
    kong = Kong(clean, "2.8.5")
    kong.migrate("bootstrap")
    clean.write_conf("kong", {"nginx_daemon": "off"})
    kong("prepare", "-c", kong.conf)
    nginx = pathlib.Path(clean.kong("2.8.5")).parent.parent / "openresty" / "nginx" / "sbin" / "nginx"
    process = subprocess.Popen([nginx, "-p", clean.prefix(), "-c", "nginx.conf"])
    assert replay_place.wait(clean.running, 5)
    assert clean.pid() == process.pid
    assert kong.ask("proxy", "/")[0] == 404
    process.send_signal(signal.SIGQUIT)
    assert process.wait(10) == 0
    assert not (clean.prefix() / "pids" / "nginx.pid").exists()


# the data plane under load

class Load:
    """Clients that keep their connections; a request is lost when a connection took it and gave no answer."""

    def __init__(self, port, clients=12):
        self.port, self.clients = port, clients
        self.answered = self.lost = self.wrong = 0
        self.stopped = False

    async def client(self):
        reader = writer = None
        while not self.stopped:
            if writer is None:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
            try:
                writer.write(b"GET /api HTTP/1.1\r\nHost: x\r\napikey: s3cret\r\n\r\n")
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                self.answered += 1
                self.wrong += b" 200 " not in head.split(b"\r\n")[0]
                if b"connection: close" in head:
                    writer.close()
                    writer = None
            except (asyncio.IncompleteReadError, OSError):
                self.lost += 1
                writer.close()
                writer = None
            await asyncio.sleep(0.03)
        if writer is not None:
            writer.close()

    async def during(self, *steps):
        tasks = [asyncio.create_task(self.client()) for unused in range(self.clients)]
        for step in steps:
            await asyncio.sleep(0.4)
            await asyncio.to_thread(step)
        await asyncio.sleep(0.4)
        self.stopped = True
        await asyncio.gather(*tasks)


def test_no_request_is_lost_by_reload_and_quit(clean):
    kong = Kong(clean, "2.8.5")
    kong.migrate("bootstrap")
    kong.start()
    kong.seed()
    load = Load(clean.ports["kong"]["proxy"])
    reload = [lambda: kong("reload", "-c", kong.conf)] * 3
    asyncio.run(load.during(*reload, *[kong.quit, kong.start] * 3))
    assert load.answered > 200
    assert (load.lost, load.wrong) == (0, 0)


def test_quit_waits_and_then_does_not(clean):
    kong = Kong(clean, "2.1.4")
    kong.migrate("bootstrap")
    kong.start()
    kong.admin("/services", {"name": "slow", "url": "http://127.0.0.1:%d/slow" % clean.origin.server_port})
    kong.admin("/services/slow/routes", {"paths": ["/slow"]})
    for options, words, served in (((), "Kong stopped (gracefully)", True),
                                   (("-t", "1"), "Timeout, Kong stopped forcefully", False)):
        if not clean.running():
            kong.start()
        result = []

        async def both(options, into):
            asking = asyncio.create_task(asyncio.to_thread(ask, into))
            await asyncio.to_thread(wait_for, under_way, 10, "the request reaches the upstream")
            done = await asyncio.to_thread(kong.quit, *options)
            await asking
            return done

        def ask(result):
            try:
                result.append(kong.ask("proxy", "/slow")[0])
            except OSError as error:
                result.append(type(error).__name__)

        def under_way():
            return _process.sockets_to(_process.read_process(clean.pid()), {clean.origin.server_port})

        began = time.monotonic()
        assert asyncio.run(both(options, result)).stdout.strip() == words
        assert (result == [200]) is served
        assert (time.monotonic() - began > 5) is served
