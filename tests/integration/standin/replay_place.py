# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where recordings of real Kong are replayed: the text of both sides, folders, nodes and databases."""

import contextlib
import os
import pathlib
import pwd
import re
import signal
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

from .launcher import make_launcher

TEMPLATES = ("0.14.1", "1.0.3", "1.5.1", "2.0.5", "2.1.4", "2.7.2", "2.8.5")
RECORDED_IN = pwd.getpwuid(0).pw_dir  # the recordings were made by the superuser, at home
UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


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
    text = re.sub(r"(`api` entities in your database\.\n)(?s:.*?)(\n  Run with|\Z)", r"\1\2", text)
    text = re.sub(r"(module 'openssl\.rand' not found:\n)(?s:.*?)(\n  Run with|\Z)", r"\1\2", text)
    text = re.sub(r"(?m)(^ *in '.*': .*\n)+", lambda m: "".join(sorted(m.group(0).splitlines(True))), text)
    text = re.sub(r"<TIME> \[debug\] .*\n", "", text)
    return text.rstrip("\n")


def rows_of(value):
    """Recorded rows as {subsystem: row}, those of 0.14.1 as {part: ids}; None for a database without the tables."""
    if not isinstance(value, list):
        return None
    if any("table" in row for row in value):
        return {row["id"]: row["migrations"] for row in value}
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
        """As rows_of()."""
        with self.postgres.admin("kong") as db:
            if db.execute("SELECT to_regclass('schema_meta')").fetchone()[0] is None:
                if db.execute("SELECT to_regclass('schema_migrations')").fetchone()[0] is None:
                    return None
                return dict(db.execute("SELECT id, migrations FROM schema_migrations").fetchall()) or None
            found = db.execute("SELECT subsystem, last_executed, executed, pending FROM schema_meta").fetchall()
        return {r[0]: {"last_executed": r[1], "executed": r[2], "pending": r[3]} for r in found}

    def template(self, version):
        """A database as ``version`` bootstraps it; made once."""
        if version not in self.templates:
            self.recreate()
            self.migrate(version, "up" if version == "0.14.1" else "bootstrap")
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
                if old < version and not (old == "0.14.1" and version >= "2"):
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
