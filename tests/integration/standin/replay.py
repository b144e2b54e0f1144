# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs what transcripts of real Kong recorded, and compares: exit code, stdout, stderr, schema_meta, HTTP answers.

A transcript is a list of entries in the order in which they were recorded, each with the rows of ``schema_meta`` before
and after it. Before each entry the database is brought to the recorded state (by cloning a database that the stand-in
of the right version bootstrapped, or else by setting the rows), so one deviation does not spoil what follows.

What is not compared, and why, is in README.md.
"""

import ast
import contextlib
import difflib
import json
import os
import pathlib
import pty
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg
import yaml

from .launcher import make_launcher

TEMPLATES = ("1.0.3", "1.5.1", "2.0.5", "2.1.4", "2.7.2", "2.8.5")
RECORDED_IN = pwd.getpwuid(0).pw_dir  # the recordings were made by the superuser, at home
LEGACY = re.compile(r"from-0\.14\.1")
UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")

BAD_CONF = {
    "check-bad-database": {"database": "mysql"}, "check-bad-log-level": {"log_level": "loud"},
    "check-unknown-property": {"no_such_key": "1"}, "check-bad-port": {"pg_port": "99999"},
    "start-bad-conf": {"log_level": "loud"}, "reload-bad-conf": {"log_level": "loud"},
}
GOOD = """_format_version: "1.1"
services:
- name: svc1
  url: http://127.0.0.1:18190
  routes:
  - name: r1
    paths: [/one]
consumers:
- username: alice
"""
FILES = {
    "good.yml": GOOD, "x.yml": GOOD,
    "badyaml.yml": "services:\n- name: [ }\n",
    "badschema.yml": '_format_version: "1.1"\nservices:\n- name: s\n  host: 5\n  nosuch: 1\n',
    "nover.yml": "services: []\n",
    "badplugin.yml": '_format_version: "1.1"\nplugins:\n- name: no-such-plugin\n',
    "empty.yml": "",
}


class NotReplayed(Exception):
    """The entry is left out; the text says why."""


def load(path):
    text = pathlib.Path(path).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def normal(text):
    """What both sides are reduced to before they are compared."""
    text = re.sub(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", "<TIME>", text)
    text = re.sub(r"\] \d+#0:", "] <PID>#0:", text)
    text = UUID.sub("<UUID>", text)
    text = re.sub(r"stack traceback:\n(?:.+\n)*\n*", "", text)
    text = re.sub(r"(lua/5\.1/kong/\S+?\.lua|init\.lua):\d+", r"\1:<N>", text)
    text = re.sub(r"init\.lua:\d+", "init.lua:<N>", text)
    text = re.sub(r"init\.lua:<N>:<N>", "init.lua:<N>", text)
    text = re.sub(r"(ERROR: .*?) \(\d+\)", r"\1 (<N>)", text)
    text = re.sub(r"nginx: \[warn\] .*\n", "", text)
    text = re.sub(r"(kong/cmd/start\.lua:<N>: )(?=nginx)", "", text)
    text = re.sub(r"(Usage: kong.*)\n(?s:.*)", r"\1\n", text)
    text = re.sub(r"(older than Kong 1\.0\.\n)(?s:.*?)(\n  Run with|\Z)", r"\1\2", text)
    text = re.sub(r"(module 'openssl\.rand' not found:\n)(?s:.*?)(\n  Run with|\Z)", r"\1\2", text)
    text = re.sub(r"(?m)(^ *in '.*': .*\n)+", lambda m: "".join(sorted(m.group(0).splitlines(True))), text)
    text = re.sub(r"<TIME> \[debug\] .*\n", "", text)
    return text.rstrip("\n")


def rows_of(value):
    """Recorded rows as {subsystem: row}; None for a database without the table."""
    if not isinstance(value, list):
        return None
    return {row["subsystem"]: {k: row[k] for k in ("last_executed", "executed", "pending")} for row in value}


class Forwarder:
    """A TCP port in front of PostgreSQL that can be cut, which is how a database goes down here."""

    def __init__(self, target):
        self.target = target
        self.listener = None
        self.pairs = []
        self.port = None
        self.up()

    def up(self):
        if self.listener is not None:
            return
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port or 0))
        self.port = self.listener.getsockname()[1]
        self.listener.listen(64)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def down(self):
        if self.listener is None:
            return
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.listener = None
        for sock in self.pairs:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.pairs = []

    def _accept(self, listener):
        while True:
            try:
                client, _peer = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.target)
            except OSError:
                client.close()
                continue
            self.pairs += [client, server]
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    @staticmethod
    def _pump(source, sink):
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    break
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


class Origin(BaseHTTPRequestHandler):
    """The upstream: answers at once, or after six seconds below /slow."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/slow"):
            time.sleep(6)
        body = b"hello from upstream\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # a proxy that was stopped in the middle is part of the plan
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def free_ports(count):
    socks = [socket.socket() for _unused in range(count)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


class Place:
    """Folders, ports, launchers, databases."""

    def __init__(self, root, postgres):
        """``postgres``: address, port, password of the role kong, and ``admin(database)`` as superuser."""
        self.root, self.postgres = pathlib.Path(root), postgres
        self.etc, self.cwd = self.root / "etc", self.root / "cwd"
        self.etc.mkdir()
        self.cwd.mkdir()
        self.forwarder = Forwarder((postgres.address, postgres.port))
        self.origin = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        self.origin.daemon_threads = True
        threading.Thread(target=self.origin.serve_forever, daemon=True).start()
        ports = free_ports(8)
        self.ports = {"kong": dict(zip(("proxy", "admin", "status"), ports)),
                      "kong-green": dict(zip(("proxy", "admin", "status"), ports[3:]))}
        self.dead_port = ports[6]
        self.templates = {}
        with postgres.admin("postgres") as db:
            # The recorded server asked unknown roles for SCRAM. One that exists with another password is asked the
            # same way and refused with the same message.
            if not db.execute("SELECT 1 FROM pg_roles WHERE rolname = 'nosuchrole'").fetchone():
                db.execute("SET password_encryption = 'scram-sha-256'")
                db.execute("CREATE ROLE nosuchrole LOGIN PASSWORD 'another'")

    def kong(self, version):
        return make_launcher(self.root / "opt", version)

    def prefix(self, name="kong"):
        return self.root / name

    def close(self):
        for name in self.ports:
            self.stop(name)
        self.forwarder.down()
        self.origin.shutdown()

    # nodes

    def pid(self, name="kong"):
        try:
            pid = int((self.prefix(name) / "pids" / "nginx.pid").read_text())
            os.kill(pid, 0)
            return pid
        except (OSError, ValueError):
            return None

    def stop(self, name="kong"):
        pid = self.pid(name)
        if pid:
            os.kill(pid, signal.SIGTERM)
            wait(lambda: self.pid(name) is None, 5)

    def kill(self, name="kong"):
        """Without a chance to clean up; returns when the process is reaped, for a zombie counts as running."""
        pid = self.pid(name)
        if pid:
            os.kill(pid, signal.SIGKILL)
            wait(lambda: self.pid(name) is None, 5)

    def running(self, name="kong"):
        return self.pid(name) is not None

    # configuration

    def write_conf(self, name, changes=None):
        base = "kong-green" if name == "kong-green" else "kong"
        ports = self.ports[base]
        values = {
            "prefix": self.prefix(base), "database": "postgres", "pg_host": "127.0.0.1",
            "pg_port": self.forwarder.port, "pg_user": "kong", "pg_password": self.postgres.password,
            "pg_database": "kong", "proxy_listen": "127.0.0.1:%d" % ports["proxy"],
            "admin_listen": "127.0.0.1:%d" % ports["admin"], "status_listen": "127.0.0.1:%d" % ports["status"],
            "anonymous_reports": "off",
        }
        values.update(changes or {})
        path = self.etc / (name + ".conf")
        path.write_text("".join("%s = %s\n" % pair for pair in values.items()), encoding="utf-8")

    # databases

    def recreate(self, template=None):
        with self.postgres.admin("postgres") as db:
            db.execute("DROP DATABASE IF EXISTS kong WITH (FORCE)")
            db.execute("CREATE DATABASE kong OWNER kong" + (" TEMPLATE %s" % template if template else ""))

    def drop_other(self, name):
        with self.postgres.admin("postgres") as db:
            db.execute("DROP DATABASE IF EXISTS %s WITH (FORCE)" % name)
            db.execute("CREATE DATABASE %s OWNER kong" % name)

    def rows(self):
        """{subsystem: row}, None without the table."""
        with self.postgres.admin("kong") as db:
            if db.execute("SELECT to_regclass('schema_meta')").fetchone()[0] is None:
                return None
            found = db.execute("SELECT subsystem, last_executed, executed, pending FROM schema_meta").fetchall()
        return {r[0]: {"last_executed": r[1], "executed": r[2], "pending": r[3]} for r in found}

    def template(self, version):
        """A database as ``version`` bootstraps it; made once."""
        if version not in self.templates:
            self.recreate()
            self.migrate(version, "bootstrap")
            self.templates[version] = self.keep(version)
        return self.templates[version]

    def template_up(self, old, new):
        """The same after ``up`` by ``new``: its last phase is pending."""
        if (old, new) not in self.templates:
            self.recreate(self.template(old)[0])
            self.migrate(new, "up")
            self.templates[old, new] = self.keep(old + "_up_" + new)
        return self.templates[old, new]

    def migrate(self, version, what):
        self.write_conf("kong")
        subprocess.run([self.kong(version), "migrations", what, "-c", self.etc / "kong.conf"], check=True,
                       stdout=subprocess.DEVNULL)

    def keep(self, label):
        name = "t_" + label.replace(".", "_")
        rows = self.rows()
        with self.postgres.admin("postgres") as db:
            db.execute("DROP DATABASE IF EXISTS %s" % name)
            db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'kong'")
            db.execute("CREATE DATABASE %s TEMPLATE kong OWNER kong" % name)
        return name, rows

    def bring_to(self, wanted, level, version):
        """Make schema_meta hold ``wanted`` (None: no table). Returns how: kept, empty, cloned, set."""
        now = self.rows()
        if now == wanted:
            return "kept"
        if wanted is None:
            self.recreate()
            return "empty"
        for other in TEMPLATES:
            name, rows = self.template(other)
            if rows == wanted:
                self.recreate(name)
                return "cloned"
        if any(row["pending"] for row in wanted.values()):
            for old in TEMPLATES:
                if old < version:
                    name, rows = self.template_up(old, version)
                    if rows == wanted:
                        self.recreate(name)
                        return "cloned"
        if now is None or set(now) - set(wanted):
            self.recreate(self.template(level)[0])
        with self.postgres.admin("kong") as db:
            db.execute("DELETE FROM schema_meta")
            for subsystem, row in wanted.items():
                db.execute("INSERT INTO schema_meta VALUES ('schema_meta', %s, %s, %s, %s)",
                           (subsystem, row["last_executed"], row["executed"], row["pending"]))
        return "set"

    # text

    def words(self, argv):
        """Recorded arguments with this place's paths."""
        out = []
        for word in argv:
            word = word.replace("/usr/local/kong", str(self.root / "kong")).replace("/etc/kong", str(self.etc))
            word = word.replace("/root-not-used.yml", str(self.cwd / "root-not-used.yml"))
            if word == RECORDED_IN or word.startswith(RECORDED_IN + "/"):
                word = str(self.cwd) + word[len(RECORDED_IN):]
            out.append(word)
        return out

    def recorded(self, text):
        """Our output with the recorded paths."""
        text = text.replace(str(self.cwd / "root-not-used.yml"), "/root-not-used.yml")
        text = text.replace(str(self.cwd), RECORDED_IN).replace(str(self.etc), "/etc/kong")
        text = text.replace(str(self.root / "kong"), "/usr/local/kong")
        for kind, port in (("proxy", 18100), ("admin", 18101), ("status", 18107)):
            text = text.replace("127.0.0.1:%d" % self.ports["kong"][kind], "127.0.0.1:%d" % port)
        return text


def wait(condition, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


class Replay:
    """One transcript file."""

    def __init__(self, place, path):
        self.place = place
        self.path = pathlib.Path(path)
        document = load(path)
        self.entries = document["entries"]
        self.version = str(document.get("kong_version") or "2.8.5")
        self.old, self.new = document.get("old"), document.get("new")
        self.problems = []
        self.skipped = {}
        self.replayed = 0
        self.states = {}
        self.background = {}
        self.holder = None

    def blocks(self):
        """Entries in groups: (name, entries)."""
        out = []
        for entry in self.entries:
            name = block_of(entry["scenario"]) if self.path.name.startswith("kong-") else "all"
            if not out or out[-1][0] != name:
                out.append((name, []))
            out[-1][1].append(entry)
        merged = {}
        for name, entries in out:
            merged.setdefault(name, []).extend(entries)
        return list(merged.items())

    def run(self, entries):
        self.place.recreate()
        for entry in entries:
            try:
                self.entry(entry)
                self.replayed += 1
            except NotReplayed as reason:
                self.skipped.setdefault(str(reason), []).append(entry["scenario"])
        self.end()

    def end(self):
        self.release()
        for name in self.place.ports:
            self.place.stop(name)
        self.place.forwarder.up()

    # one entry

    def entry(self, entry):
        scenario = entry["scenario"]
        if LEGACY.search(scenario) or "0.14.1" in str(entry.get("env_notes")):
            raise NotReplayed("0.14.1 has an engine of its own, which the stand-in does not have")
        if "http" in entry:
            self.http(entry)
            return
        special = SPECIAL.get(scenario)
        if special:
            special(self, entry)
            return
        self.command(entry)

    def binary(self, entry):
        found = re.search(r"binary: (?:OLD |NEW )?kong ([\d.]+)", str(entry.get("env_notes"))) \
            or re.match(r"kong ([\d.]+);", str(entry.get("env_notes")))
        return entry.get("binary") or (found.group(1) if found else self.version)

    def prepare(self, entry):
        """Database, configuration files and nodes as they were before the entry."""
        place, scenario, argv = self.place, entry["scenario"], entry["argv"] + [""]
        down = "db-down" in scenario and scenario != "config-parse-db-down"
        if down:
            place.forwarder.down()
        else:
            place.forwarder.up()
            before = entry.get("db_before")
            if not str(before).startswith("psql"):
                how = place.bring_to(rows_of(before), self.level(entry), self.version)
                self.states[how] = self.states.get(how, 0) + 1
        place.write_conf("kong")
        place.write_conf("kong-green")
        for word in argv:
            found = re.fullmatch(r"/etc/kong/(kong-[a-z]+)\.conf", word)
            if found and found.group(1) != "kong-green":
                place.write_conf(found.group(1), self.changes(entry))
        name = "kong-green" if any("green" in word for word in argv) else "kong"
        prefix = place.prefix(name)
        if "start" in argv and scenario not in ("start-again", "start-after-kill9") and place.running(name):
            place.stop(name)
        if "prefix directory does not exist yet" in str(entry.get("env_notes")) or "never-started" in scenario:
            place.stop(name)
            shutil.rmtree(prefix, ignore_errors=True)
        if ("prefix-exists" in scenario or argv[1] == "migrations" or scenario.startswith(("start", "empty", "from"))) \
                and not prefix.exists() and "prefix directory" not in str(entry.get("env_notes")):
            prefix.mkdir()
        if argv[1] == "start":
            prefix.mkdir(exist_ok=True)
        if "config" in argv and "conf variant" in str(entry.get("env_notes")):
            (prefix / ".kong_env").unlink(missing_ok=True)

    def level(self, entry):
        notes = str(entry.get("env_notes")) + entry["scenario"]
        found = re.search(r"from-([\d.]+\d)", notes)
        return found.group(1) if found and found.group(1) in TEMPLATES else self.version

    def changes(self, entry):
        scenario = entry["scenario"]
        if scenario in BAD_CONF:
            return BAD_CONF[scenario]
        found = re.search(r"conf variant (\{.*?\})", str(entry.get("env_notes")))
        changes = ast.literal_eval(found.group(1)) if found else {}
        if changes.get("pg_port") == "54331" or "dbdown" in str(entry["argv"]):
            changes["pg_port"] = self.place.dead_port
        if "badpw" in str(entry["argv"]):
            changes["pg_password"] = "wrong"
        return changes

    def environment(self, entry):
        env = {"PATH": os.environ["PATH"], "HOME": str(self.place.cwd)}
        found = re.search(r"env: ((?:KONG_\w+=\S+ ?)+)", str(entry.get("env_notes")))
        if found:
            for pair in found.group(1).split():
                name, value = pair.split("=", 1)
                value = {"KONG_PG_PORT": str(self.place.forwarder.port),
                         "KONG_PG_PASSWORD": self.place.postgres.password,
                         "KONG_PREFIX": str(self.place.prefix())}.get(name, value)
                env[name] = value
        return env

    def popen(self, entry, argv=None, **more):
        argv = argv or entry["argv"]
        return subprocess.Popen([self.place.kong(self.binary(entry))] + self.place.words(argv[1:]),
                                cwd=self.place.cwd, env=self.environment(entry), stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)

    def command(self, entry):
        self.prepare(entry)
        stdin = entry.get("stdin")
        process = self.popen(entry)
        out, err = process.communicate("" if stdin in (None, "/dev/null") else stdin, timeout=120)
        self.compare(entry, process.returncode, out, err)

    def compare(self, entry, code, out, err, rows=True):
        scenario = entry["scenario"]
        self.expect(scenario, "exit code", entry["exit_code"], code)
        self.expect(scenario, "stdout", normal(entry["stdout"] or ""), normal(self.place.recorded(out)))
        self.expect(scenario, "stderr", normal(entry["stderr"] or ""), normal(self.place.recorded(err)))
        after = entry.get("db_after")
        if rows and after is not None and not str(after).startswith("psql"):
            self.expect(scenario, "schema_meta", rows_of(after), self.place.rows())

    def expect(self, scenario, what, wanted, got):
        if wanted == got:
            return
        if isinstance(wanted, str) and isinstance(got, str):
            lines = difflib.unified_diff(wanted.split("\n"), got.split("\n"), "recorded", "stand-in", lineterm="", n=1)
            text = "\n".join(list(lines)[2:20])
        else:
            text = "recorded: %s\nstand-in: %s" % (json.dumps(wanted)[:800], json.dumps(got)[:800])
        self.problems.append("%s %s: %s\n%s" % (self.path.name, scenario, what, text))

    # HTTP

    def http(self, entry):
        scenario = entry["scenario"]
        method, url = entry["http"].split(" ", 1)
        name = "kong-green" if scenario.startswith("new-") else "kong"
        if "db-down" in scenario:
            self.place.forwarder.down()
        elif "db-back" in scenario:
            self.place.forwarder.up()
        if not self.place.running(name):
            raise NotReplayed("the recording has no entry that starts the node this request goes to")
        for kind, port in (("proxy", 8000), ("admin", 8001), ("status", 8100)):
            url = url.replace("127.0.0.1:%d" % port, "127.0.0.1:%d" % self.place.ports[name][kind])
        headers, body = {}, None
        if method == "POST":
            body = json.dumps(self.posted(entry)).encode()
            headers["Content-Type"] = "application/json"
        key = KEYS.get(next((word for word in KEYS if "-%s" % word in scenario), None))
        if key:
            headers["apikey"] = key
        request = urllib.request.Request(url, data=body, headers=headers, method=method)
        deadline = time.monotonic() + (7 if entry["status"] == 200 and key else 0)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=15) as answer:
                    status, got, content = answer.status, answer.headers, answer.read()
            except urllib.error.HTTPError as error:
                status, got, content = error.code, error.headers, error.read()
            if status == entry["status"] or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        self.expect(scenario, "status", entry["status"], status)
        self.same_headers(scenario, entry.get("headers") or {}, got)
        self.same_body(scenario, entry, content)

    def posted(self, entry):
        """The recording has only answers, so the request is made from the answer."""
        answer, url = entry["body"], entry["http"]
        if url.endswith("/consumers"):
            return {"username": answer["username"]}
        if url.endswith("/services"):
            return {"name": answer["name"], "url": "http://127.0.0.1:%d" % self.place.origin.server_port}
        if url.endswith("/routes"):
            return {"name": answer.get("name", "r-slow"), "paths": answer.get("paths") or ["/api"],
                    "strip_path": not answer.get("paths")}
        if url.endswith("/plugins"):
            return {"name": answer["name"]}
        return {"key": answer["key"]}

    def same_headers(self, scenario, wanted, got):
        for name, value in wanted.items():
            mine = got.get(name)
            if value.startswith("BaseHTTP"):
                value = mine if (mine or "").startswith("BaseHTTP") else value
            if value == "<N>":
                value = mine if (mine or "").isdigit() else value
            self.expect(scenario, "header " + name, value.lower(), (mine or "").lower())

    def same_body(self, scenario, entry, content):
        wanted = entry.get("body")
        if isinstance(wanted, str):
            text = content.decode()
            if wanted.startswith("# HELP"):
                self.expect(scenario, "metrics", True, "kong_datastore_reachable" in text)
            else:
                self.expect(scenario, "body", wanted, text)
            return
        got = json.loads(content)
        if isinstance(wanted, list):
            self.expect(scenario, "usernames", wanted, sorted(row["username"] for row in got["data"]))
            return
        if "top_level_keys" in wanted or "top_level_keys" in entry:
            keys = wanted.get("top_level_keys") or entry["top_level_keys"]
            self.expect(scenario, "keys", sorted(keys), sorted(got))
        self.same_fields(scenario, wanted, got)

    def same_fields(self, scenario, wanted, got):
        for key, value in (wanted or {}).items():
            if key in SKIPPED_FIELDS or str(value).startswith("<"):
                continue
            if key == "data":
                names = [[row.get("username") for row in rows] for rows in (value, got[key])]
                self.expect(scenario, "names", *names)
            elif key == "loaded_plugins":
                self.expect(scenario, key, sorted(value), sorted(got[key]))
            elif isinstance(value, dict):
                self.same_fields(scenario, value, got.get(key) or {})
            elif key in ("proxy_listen", "admin_listen", "status_listen"):
                self.expect(scenario, key, value, json.loads(self.place.recorded(json.dumps(got.get(key)))))
            elif isinstance(value, str) and value.startswith("/usr/local"):
                self.expect(scenario, key, value, self.place.recorded(got.get(key) or ""))
            else:
                self.expect(scenario, key, value, got.get(key))

    # locks and faults

    def hold(self, table="routes"):
        """Keep a lock on a table that ``up`` has to alter."""
        self.holder = psycopg.connect(host="127.0.0.1", port=self.place.postgres.port, user="kong",
                                      password=self.place.postgres.password, dbname="kong")
        self.holder.execute("LOCK TABLE %s IN ACCESS EXCLUSIVE MODE" % table)

    def release(self):
        if self.holder is not None:
            self.holder.close()
            self.holder = None

    def locks(self):
        with self.place.postgres.admin("kong") as db:
            return db.execute("SELECT count(*) FROM locks WHERE ttl > now()").fetchone()[0]

    def blocked(self):
        with self.place.postgres.admin("kong") as db:
            return db.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0]

    def terminate(self):
        """End what a killed client left in the server."""
        with self.place.postgres.admin("kong") as db:
            db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'kong' AND "
                       "pid <> pg_backend_pid() AND state <> 'idle in transaction'")
        wait(lambda: not self.blocked(), 5)

    def clear_locks(self):
        with self.place.postgres.admin("kong") as db:
            if db.execute("SELECT to_regclass('locks')").fetchone()[0]:
                db.execute("DELETE FROM locks")


SKIPPED_FIELDS = {"id", "created_at", "updated_at", "node_id", "hostname", "pids", "top_level_keys", "pg_port",
                  "server", "port", "host", "path", "timers", "lua_version", "paths"}
KEYS = {"proxy-unknownkey": "nope", "proxy-latekey": "latekey", "proxy-newkey": "newkey",
        "proxy-key": "s3cret", "restarted-proxy-key": "s3cret"}


def block_of(scenario):
    found = re.match(r"(from-[\d.]+\d)-", scenario)
    if found:
        return found.group(1)
    if scenario == "config-db_export-conf-ignored-when-kong_env-exists":
        return "node"
    for prefix in ("lock", "race", "config", "newer-sim", "db-"):
        if scenario.startswith(prefix):
            return prefix.rstrip("-") if prefix != "config" or scenario != "config-no-subcommand" else "words"
    if scenario.startswith(("empty", "bootstrap", "uptodate", "after-reset")):
        return "schema"
    if scenario.startswith(("version", "no-command", "unknown", "migrations-no", "migrations-u", "migrations-help",
                            "check")):
        return "words"
    return "node"


# entries that need more than a command

def blackhole(self, entry):
    """A server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        self.prepare(entry)
        self.place.write_conf("kong-blackhole", {"pg_port": listener.getsockname()[1]})
        process = self.popen(entry)
        out, err = process.communicate("", timeout=30)
        self.compare(entry, process.returncode, out, err)


def no_default_conf(self, entry):
    if os.path.exists("/etc/kong/kong.conf") or os.path.exists("/etc/kong.conf"):
        raise NotReplayed("this machine has a kong.conf of its own")
    self.command(entry)


def only_shape(self, entry):
    """--vv: level, stream and exit code; the lines are one per setting."""
    self.prepare(entry)
    process = self.popen(entry)
    out, err = process.communicate("", timeout=30)
    self.expect(entry["scenario"], "exit code", entry["exit_code"], process.returncode)
    self.expect(entry["scenario"], "first line", normal(entry["stdout"]).split("\n")[0],
                normal(self.place.recorded(out)).split("\n")[0])
    self.expect(entry["scenario"], "stderr", "connection refused" in entry["stderr"], "connection refused" in err)


def consumer_row(self, entry):
    """bootstrap -f: what happens to data."""
    self.prepare(entry)
    with self.place.postgres.admin("kong") as db:
        db.execute("INSERT INTO consumers (id, username) VALUES (gen_random_uuid(), 'keepme')")
    process = self.popen(entry)
    out, err = process.communicate("", timeout=60)
    self.compare(entry, process.returncode, out, err)
    left = re.search(r"consumers left after: (\d+)", entry["env_notes"])
    with self.place.postgres.admin("kong") as db:
        self.expect(entry["scenario"], "consumers left", int(left.group(1)),
                    db.execute("SELECT count(*) FROM consumers").fetchone()[0])


def first_up_blocked(self, entry):
    """Start an ``up`` that holds the lock and waits for a table; then the entry."""
    self.prepare(entry)
    self.clear_locks()
    self.hold()
    self.background["first"] = self.popen(entry, ["kong", "migrations", "up", "-c", "/etc/kong/kong.conf"])
    self.expect(entry["scenario"], "lock taken", True, wait(lambda: self.locks() and self.blocked(), 10))
    beside(self, entry)


def beside(self, entry):
    process = self.popen(entry)
    out, err = process.communicate("", timeout=60)
    self.compare(entry, process.returncode, out, err, rows=False)


def first_up_ends(self, entry):
    self.background["second"] = self.popen(entry, ["kong", "migrations", "up", "-c", "/etc/kong/kong.conf"])
    time.sleep(0.5)
    self.release()
    process = self.background.pop("first")
    out, err = process.communicate("", timeout=60)
    self.compare(entry, process.returncode, out, err)


def second_up_ends(self, entry):
    process = self.background.pop("second")
    out, err = process.communicate("", timeout=60)
    self.compare(entry, process.returncode, out, err)


def killed_up(self, entry):
    """An ``up`` is killed with its group while it holds the lock; then the entry."""
    self.prepare(dict(entry, db_before=self.level_rows()))
    self.clear_locks()
    self.hold("cluster_events" if self.version == "1.5.1" else "routes")  # where the recorded one was stopped
    process = self.popen(entry, ["kong", "migrations", "up", "-c", "/etc/kong/kong.conf"], start_new_session=True)
    self.expect(entry["scenario"], "lock taken", True, wait(lambda: self.locks() and self.blocked(), 10))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    self.terminate()
    self.release()
    self.place.bring_to(rows_of(entry["db_before"]), self.level(entry), self.version)
    with self.place.postgres.admin("kong") as db:
        if not db.execute("SELECT count(*) FROM locks").fetchone()[0]:
            db.execute("INSERT INTO locks VALUES ('migrations', 'gone', now() + interval '57 seconds')")
    beside(self, entry)


def level_rows_of(self):
    for other in self.entries:
        if other["scenario"] == "lock-list-while-up-running":
            return other["db_before"]
    return None


Replay.level_rows = level_rows_of


def wait_for_stale_lock(self, entry):
    """The recorded run waited for the rest of 60 seconds; here the row has 2 left."""
    with self.place.postgres.admin("kong") as db:
        db.execute("UPDATE locks SET ttl = now() + interval '2 seconds'")
    beside(self, entry)


def race(first, second):
    """Two at once: which one wins is chance, so the pair of outcomes is compared as a set."""
    def start(self, entry):
        self.prepare(entry)
        self.clear_locks()
        pair = [self.popen(entry), self.popen(entry)]
        results = []
        for process in pair:
            out, err = process.communicate("", timeout=60)
            results.append((process.returncode, normal(out), normal(err)))
        self.background["race"] = (entry, results)

    def compare(self, entry):
        before, results = self.background.pop("race")
        worked = [r for r in results if "processed" in r[1]]
        self.expect(entry["scenario"], "one worked", 1, len(worked))
        recorded = [(e["exit_code"], normal(e["stdout"] or ""), normal(e["stderr"] or "")) for e in (before, entry)]
        self.expect(entry["scenario"], "the one that worked", [r for r in recorded if "processed" in r[1]], worked)
        lost = [r for r in results if "processed" not in r[1]]
        fine = any(word in lost[0][1] + lost[0][2] for word in (
            "aborted: another node", "already bootstrapped", "has pending migrations",
            "already up-to-date", "concurrently", "duplicate key"))
        self.expect(entry["scenario"], "the one that lost: %s" % (lost,), True, fine)
        if rows_of(entry["db_after"]):  # else the other one was still at work when this was recorded
            self.expect(entry["scenario"], "schema_meta", rows_of(entry["db_after"]), self.place.rows())
    return start, compare


def unavailable_port(self, entry):
    self.prepare(entry)
    self.place.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", self.place.ports["kong"]["proxy"]))
        other.listen(1)
        process = self.popen(entry)
        out, err = process.communicate("", timeout=30)
        self.compare(entry, process.returncode, out, err)


def files(self, entry):
    """kong config: the files it reads and those that must not, or must, be there."""
    self.prepare(entry)
    for name, text in FILES.items():
        (self.place.cwd / name).write_text(text, encoding="utf-8")
    if not entry["scenario"].startswith("db-error"):
        (self.place.prefix() / ".kong_env").unlink(missing_ok=True)
    process = self.popen(entry)
    out, err = process.communicate("", timeout=60)
    self.compare(entry, process.returncode, out, err)


def fresh_files(self, entry):
    for path in self.place.cwd.glob("*"):
        path.unlink()
    files(self, entry)


def no_default_export(self, entry):
    (self.place.cwd / "kong.yml").unlink(missing_ok=True)
    files(self, entry)


def ignored_conf(self, entry):
    """The export of a prefix with .kong_env comes from the database named there."""
    self.place.drop_other("kong_other")
    self.place.write_conf("kong-other", {"pg_database": "kong_other"})
    process = self.popen(entry)
    out, err = process.communicate("", timeout=30)
    self.compare(entry, process.returncode, out, err)
    self.expect(entry["scenario"], "exported", True, (self.place.cwd / "other.yml").exists())
    (self.place.cwd / "other.yml").unlink(missing_ok=True)


def dash(self, entry):
    files(self, entry)
    self.expect(entry["scenario"], "a file named -", True, (self.place.cwd / "-").exists())
    (self.place.cwd / "-").unlink(missing_ok=True)


def after_kill(self, entry):
    """A node that was killed, its pid file left. Only where the recorded zombie did not spoil it."""
    if "ARTEFACT" in entry["env_notes"]:
        raise NotReplayed("recorded with a zombie that counted as running; the reaped case is in extra-2.8.5")
    if entry["scenario"].startswith("health"):
        self.place.kill()
    self.command(entry)


def reaped(self, entry):
    self.place.kill()
    self.command(entry)


def after_artefact(self, entry):
    if self.version == "2.8.5":
        raise NotReplayed("follows an entry that was recorded with a zombie")
    self.command(entry)


def with_node(self, entry):
    """Entries whose node was started by a step that is not in the recording."""
    self.place.forwarder.up()
    if not self.place.running():
        self.prepare(entry)
        subprocess.run([self.place.kong(self.binary(entry)), "start", "-c", self.place.etc / "kong.conf"], check=True,
                       stdout=subprocess.DEVNULL)
    self.command(entry)


def without_node(self, entry):
    self.place.stop()
    self.place.prefix().mkdir(exist_ok=True)
    (self.place.prefix() / ".kong_env").unlink(missing_ok=True)
    self.command(entry)


def in_flight(self, entry):
    """A request that takes six seconds is under way."""
    with_node_running(self, entry)
    time.sleep(0.2)
    result = []
    port = self.place.ports["kong"]["proxy"]

    def ask():
        try:
            with urllib.request.urlopen("http://127.0.0.1:%d/slow" % port, timeout=20) as answer:
                result.append(answer.status)
        except OSError as error:
            result.append(type(error).__name__)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(1)
    process = self.popen(entry)
    began = time.monotonic()
    out, err = process.communicate("", timeout=30)
    took = time.monotonic() - began
    thread.join(15)
    self.compare(entry, process.returncode, out, err)
    served = "got: [200]" in entry["env_notes"]
    self.expect(entry["scenario"], "request served", served, result == [200])
    self.expect(entry["scenario"], "seconds", True, abs(took - entry["duration_s"]) < 1.5)


def with_node_running(self, entry):
    if not self.place.running():
        self.prepare(entry)
        subprocess.run([self.place.kong(self.binary(entry)), "start", "-c", self.place.etc / "kong.conf"], check=True,
                       stdout=subprocess.DEVNULL)


def signalled(number):
    def run(self, entry):
        self.prepare(entry)
        self.clear_locks()
        self.hold()
        process = self.popen(entry, start_new_session=True)
        self.expect(entry["scenario"], "blocked", True, wait(lambda: self.locks() and self.blocked(), 10))
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], stdout=subprocess.PIPE, text=True,
                                  check=False).stdout.split()
        process.send_signal(number)
        time.sleep(1)
        recorded = entry["exit_code"]
        got = process.poll() if isinstance(recorded, int) else process.poll() is None
        self.expect(entry["scenario"], "exit code", recorded if isinstance(recorded, int) else True, got)
        alive = [pid for pid in children if os.path.exists("/proc/%s" % pid)]
        self.expect(entry["scenario"], "children alive", 1, len(alive))
        self.expect(entry["scenario"], "locks rows", 1, self.locks())
        self.background["group"] = process.pid
    return run


def after_signal(self, entry):
    beside(self, entry)
    if "--lock-timeout" in entry["argv"]:
        os.killpg(self.background.pop("group"), signal.SIGKILL)
        self.terminate()
        self.release()
        self.clear_locks()


def typed(self, entry):
    """On a terminal, with answers typed."""
    self.prepare(entry)
    answers = ast.literal_eval(entry["stdin"])
    master, slave = pty.openpty()
    process = subprocess.Popen([self.place.kong(self.binary(entry))] + self.place.words(entry["argv"][1:]),
                               cwd=self.place.cwd, env=self.environment(entry), stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    out = b""
    answered = 0
    while True:
        ready, _w, _x = select.select([master], [], [], 10)
        if not ready:
            break
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        if not data:
            break
        out += data
        if out.count(b"[Y/n] ") > answered < len(answers):
            os.write(master, answers[answered].encode() + b"\n")
            answered += 1
    code = process.wait(10)
    os.close(master)
    self.compare(entry, code, out.decode().replace("\r\n", "\n"), "")


def no_create(self, entry):
    """A role that may not create in schema public."""
    self.place.forwarder.up()
    with self.place.postgres.admin("postgres") as db:
        db.execute("DROP DATABASE IF EXISTS kong WITH (FORCE)")
        db.execute("CREATE DATABASE kong OWNER postgres")
    with self.place.postgres.admin("kong") as db:
        db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    self.command(entry)


def fault_table(self, entry):
    self.prepare(entry)
    with self.place.postgres.admin("kong") as db:
        db.execute("CREATE TABLE IF NOT EXISTS workspaces (x int); GRANT ALL ON workspaces TO kong")
    beside_with_rows(self, entry)


def beside_with_rows(self, entry):
    process = self.popen(entry)
    out, err = process.communicate("", timeout=60)
    self.compare(entry, process.returncode, out, err)


def fault_table_gone(self, entry):
    with self.place.postgres.admin("kong") as db:
        db.execute("DROP TABLE workspaces")
    beside_with_rows(self, entry)


def fault_owner(self, entry):
    self.prepare(entry)
    with self.place.postgres.admin("kong") as db:
        db.execute("ALTER TABLE oauth2_credentials OWNER TO postgres; GRANT ALL ON oauth2_credentials TO kong")
    beside_with_rows(self, entry)


def fault_owner_gone(self, entry):
    with self.place.postgres.admin("kong") as db:
        db.execute("ALTER TABLE oauth2_credentials OWNER TO kong")
    beside_with_rows(self, entry)


def server_lock_timeout(self, entry):
    self.prepare(entry)
    self.hold("plugins")
    with self.place.postgres.admin("kong") as db:
        db.execute("ALTER ROLE kong SET lock_timeout = '2s'")
    try:
        beside_with_rows(self, entry)
    finally:
        with self.place.postgres.admin("kong") as db:
            db.execute("ALTER ROLE kong RESET lock_timeout")
        self.release()


def statement_timeout(self, entry):
    self.prepare(entry)
    self.hold("plugins")
    beside_with_rows(self, entry)


def statement_timeout_ends(self, entry):
    self.terminate()
    self.release()
    beside_with_rows(self, entry)


def unwritable_prefix(self, entry):
    self.prepare(entry)
    beside_with_rows(self, entry)


def scram(self, entry):
    if entry["scenario"].startswith("scram-0.14"):
        raise NotReplayed("0.14.1 has an engine of its own, which the stand-in does not have")
    self.place.forwarder.up()
    with self.place.postgres.admin("postgres") as db:
        db.execute("SET password_encryption = 'scram-sha-256'")
        if not db.execute("SELECT 1 FROM pg_roles WHERE rolname = 'kongscram'").fetchone():
            db.execute("CREATE ROLE kongscram LOGIN PASSWORD 'kong'")
        db.execute("DROP DATABASE IF EXISTS kong WITH (FORCE)")
        db.execute("CREATE DATABASE kong OWNER kong")
    with self.place.postgres.admin("kong") as db:
        db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    self.place.write_conf("kong-scram", {"pg_user": "kongscram", "pg_password": "kong"})
    self.place.prefix().mkdir(exist_ok=True)
    beside_with_rows(self, entry)


UP_RACE = race("race-up-a", "race-up-b")
BOOTSTRAP_RACE = race("race-bootstrap-a", "race-bootstrap-b")
SPECIAL = {
    "db-blackhole-db-timeout-3": blackhole,
    "check-no-arg-no-default-conf": no_default_conf,
    "db-error-dbdown-migrations-list-vv": only_shape,
    "bootstrap-force-DESTROYS-DATA": consumer_row,
    "lock-list-while-up-running": first_up_blocked,
    "lock-second-up-lock-timeout-3": beside, "lock-finish-while-up-running": beside,
    "lock-reset-yes-while-up-running": beside, "lock-bootstrap-while-up-running": beside,
    "lock-first-up": first_up_ends, "lock-second-up-waits-first-succeeds": second_up_ends,
    "lock-stale-after-kill9-finish": killed_up, "lock-stale-after-kill9-up-lock-timeout-3": beside,
    "lock-stale-after-kill9-list": beside, "lock-stale-after-kill9-up-default": wait_for_stale_lock,
    "race-up-a": UP_RACE[0], "race-up-b": UP_RACE[1],
    "race-bootstrap-a": BOOTSTRAP_RACE[0], "race-bootstrap-b": BOOTSTRAP_RACE[1],
    "start-port-in-use": unavailable_port,
    "empty-config-db_export": fresh_files, "empty-config-db_import": files,
    "config-db_export-conf-ignored-when-kong_env-exists": ignored_conf,
    "config-db_export-dash": dash, "config-db_export-default-2": no_default_export,
    "health-after-kill9": after_kill, "start-after-kill9": after_kill, "stop-last": after_artefact,
    "health-after-kill9-reaped": reaped,
    "inflight-quit": in_flight, "inflight-quit-t-2": in_flight, "inflight-stop": in_flight,
    "inflight-reload": in_flight, "inflight-restart": in_flight,
    "up-SIGTERM": signalled(signal.SIGTERM), "list-after-SIGTERM": after_signal,
    "up-lock-timeout-3-after-SIGTERM": after_signal,
    "up-SIGINT": signalled(signal.SIGINT), "list-after-SIGINT": after_signal,
    "up-lock-timeout-3-after-SIGINT": after_signal,
    "tty-reset-n": typed, "tty-reset-y": typed, "tty-reset-Y_upper": typed, "tty-reset-empty_then_garbage": typed,
    "tty-reset-empty-db": typed,
    "bootstrap-role-without-create-on-public": no_create, "list-role-without-create-on-public": no_create,
    "bootstrap-role-without-create-on-public-again": no_create,
    "up-fails-midway": fault_table, "up-after-failed-up-fault-still-there": beside_with_rows,
    "list-after-failed-up": beside_with_rows, "finish-after-failed-up": beside_with_rows,
    "up-after-fault-removed": fault_table_gone, "up-fails-after-core-done": fault_owner,
    "list-after-failed-up-partial": beside_with_rows, "up-again-partial": beside_with_rows,
    "up-force-partial": beside_with_rows, "finish-partial": beside_with_rows, "list-partial-2": beside_with_rows,
    "up-partial-fault-removed": fault_owner_gone,
    "up-pg-lock_timeout": server_lock_timeout, "up-blocked-db-timeout-3": statement_timeout,
    "list-after-db-timeout": beside_with_rows, "list-after-db-timeout-released": statement_timeout_ends,
    "prefix-not-writable": unwritable_prefix,
    "health-prefix-exists-never-started": without_node, "stop-prefix-exists-never-started": without_node,
    "reload-prefix-exists-never-started": without_node,
}
for _name in ("config-init-file", "config-init-existing", "config-init-default", "config-parse-good",
              "config-parse-badyaml", "config-parse-badschema", "config-parse-nover", "config-parse-badplugin",
              "config-parse-empty", "config-parse-nosuchfile", "config-parse-no-arg", "config-parse-db-down",
              "config-db_export-empty-db", "config-db_import-nosuchfile", "config-db_import-badyaml",
              "config-db_import-badschema", "config-db_import-badplugin", "config-db_import-no-arg",
              "config-db_import-good", "config-db_import-good-again", "config-db_export-file",
              "config-db_export-existing-file", "config-db_export-default", "config-db_export-dev-stdout",
              "config-db_export-unwritable", "config-parse-exported", "config-db_import-exported",
              "config-db_export-on-older-db", "config-db_export-on-older-db-2", "config-db_export-on-pending-db"):
    SPECIAL.setdefault(_name, files)
SPECIAL["config-init-file"] = fresh_files
for _version in ("0.14.1", "1.0.3", "1.5.1", "2.0.5", "2.1.4", "2.7.2", "2.8.5"):
    for _word in ("list", "bootstrap", "up"):
        SPECIAL["scram-%s-migrations-%s" % (_version, _word)] = scram
