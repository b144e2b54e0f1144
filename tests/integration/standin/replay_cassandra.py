# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs what transcripts of real Kong on Cassandra recorded, and compares; see replay.py, whose parts it uses.

Keyspaces cannot be copied, so a recording is followed from its beginning to its end, in one keyspace. Cassandra goes down
by a cut connection; where it, or the command, was killed in the middle, this one is stopped at the statement up to which
the recorded one got.
"""

import ast
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from .launcher import make_launcher
from .replay import Replay
from .replay_place import RECORDED_IN, Forwarder, NotReplayed, Origin, Place, free_ports, normal, rows_of

ORIGIN = "127.0.31.9:8080"
# What the stand-in has no rows for, or that changes with each request.
NOT_COUNTED = ("cluster_events", "ratelimiting_metrics", "tags", "parameters")
NOT_LISTED = ("/tags",)
# Recordings that begin with what is not in them: a keyspace of 2.0.5 filled by the requests of SEED, ``up`` run on it, or
# a node of 2.8.5 that serves.
FILLED = ("fault-kill9-during-up-1_0s", "fault-kill9-during-finish-0_15s", "fault-kong-up-killed-1_2s")
UP = ("fault-kill9-during-finish-0_15s",)
SERVED = ("fault-db-down-while-serving",)
SEED = "cassandra-inplace-2.0.5-to-2.8.5.yaml"
# The last statement that the recorded run got done.
STOPPED_AT = {
    "fault-kill9-during-up-1_0s": b"ALTER TABLE snis ADD ws_id",
    "fault-kill9-during-finish-0_15s": b"SELECT * FROM upstreams",
    "fault-kill9-during-bootstrap-2_5s": b"ALTER TABLE routes ADD ws_id",
    "fault-kong-up-killed-1_2s": b"ALTER TABLE routes ADD request_buffering",
}
ROUTE_OF = {"key-auth": "key", "acl": "key", "basic-auth": "basic", "ip-restriction": "ip", "rate-limiting": "open"}


def plain(text):
    """What both sides are reduced to, beyond replay_place.normal()."""
    text = normal(text)
    text = re.sub(r"\(-- .*? (ALTER TABLE [^()]*)\)", r"(\1)", text)
    text = re.sub(r"(dns server error: 3 name error).*", r"\1", text)
    return re.sub(r"127\.0\.0\.\d: ", "<NODE>: ", text)


class Gate(Forwarder):
    """A forwarder that can stop at a statement: the one after ``stop_after`` does not come through any more."""

    def __init__(self, target):
        self.stop_after = None
        self.stopped = threading.Event()
        super().__init__(target)

    def arm(self, statement):
        self.stop_after = statement
        self.stopped.clear()

    def _pump(self, source, sink):
        last = False
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    break
                if last:
                    self.stopped.set()
                    return  # held for ever: both ends stay open until somebody closes them
                sink.sendall(data)
                if self.stop_after and self.stop_after in data:
                    self.stop_after, last = None, True
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


class CassandraPlace(Place):
    """Folders, ports, launchers, and one keyspace at a time. ``server`` is a bed.cassandra.Cassandra."""

    def __init__(self, root, server):
        self.root, self.server = pathlib.Path(root), server
        self.etc, self.cwd = self.root / "etc", self.root / "cwd"
        self.etc.mkdir()
        self.cwd.mkdir()
        self.keyspace = "kong"
        self.forwarder = Gate((server.address, server.port))
        self.origin = self._origin()
        ports = free_ports(9)
        self.ports = {name: dict(zip(("proxy", "admin", "status"), ports[3 * n:]))
                      for n, name in enumerate(("single", "old", "new"))}

    @staticmethod
    def _origin():
        from http.server import ThreadingHTTPServer

        origin = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        origin.daemon_threads = True
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        return origin

    def kong(self, version):
        return make_launcher(self.root / "opt", version)

    def write_conf(self, name, changes=None, node="single"):
        values = {
            "prefix": self.prefix(node), "database": "cassandra", "cassandra_contact_points": "127.0.0.1",
            "cassandra_port": self.forwarder.port, "cassandra_keyspace": self.keyspace, "db_update_frequency": "1",
            "anonymous_reports": "off", **{"%s_listen" % kind: "127.0.0.1:%d" % port
                                           for kind, port in self.ports[node].items()}, **(changes or {})}
        path = self.etc / (name + ".conf")
        path.write_text("".join("%s = %s\n" % pair for pair in values.items()), encoding="utf-8")

    def execute(self, cql, *values):
        """Run one statement, in which {} is the keyspace."""
        return self.server.execute(cql.replace("{}", self.keyspace), *values)

    def tables(self):
        found = self.execute("SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{}'")
        return {row["table_name"] for row in found}

    def drop(self):
        self.execute("DROP KEYSPACE IF EXISTS {}")

    def rows(self):
        """{subsystem: row}, or in the recordings' words what is not there."""
        if not self.execute("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = '{}'"):
            return "no such keyspace"
        if "schema_meta" not in self.tables():
            return "no schema_meta table"
        return {row["subsystem"]: {"last_executed": row["last_executed"], "executed": sorted(row["executed"] or ()) or None,
                                   "pending": sorted(row["pending"] or ()) or None}
                for row in self.execute("SELECT * FROM {}.schema_meta")}

    def locks(self):
        return [row["owner"] for row in self.execute("SELECT owner FROM {}.locks")]

    def set_lock(self, seconds):
        """Make the rest of somebody's lock so long; none, if 0."""
        self.execute("DELETE FROM {}.locks WHERE key = 'migrations' IF EXISTS")
        if seconds:
            self.execute("INSERT INTO {}.locks (key, owner) VALUES ('migrations', 'gone') IF NOT EXISTS USING TTL %d"
                         % seconds)

    def recorded(self, text):
        for name in self.ports:
            text = text.replace(str(self.prefix(name)), "/usr/local/kong")
        return text.replace(str(self.etc), "/etc/kong").replace(str(self.cwd), RECORDED_IN)


class CassandraReplay(Replay):
    """One transcript file."""

    def __init__(self, place, path):
        super().__init__(place, path)
        self.name = self.path.stem.partition("-")[2]
        self.addresses = {}
        self.here = None

    def run(self, entries):
        place = self.place
        place.keyspace = next(entry["keyspace"] for entry in entries if entry.get("keyspace"))
        place.drop()
        place.forwarder.up()
        for name in place.ports:
            shutil.rmtree(place.prefix(name), ignore_errors=True)
        if self.name in FILLED:
            self.fill()
        if self.name in UP:
            self.kong("2.8.5", "new", "migrations", "up")
        if self.name in SERVED:
            self.kong("2.8.5", "new", "migrations", "bootstrap")
            self.kong("2.8.5", "new", "start")
        for entry in entries:
            try:
                self.entry(entry)
                self.replayed += 1
            except NotReplayed as reason:
                self.skipped.setdefault(str(reason), []).append(entry["scenario"])
        self.end()
        place.drop()

    def kong(self, version, node, *words):
        """A command that is not in the recording."""
        self.place.write_conf("kong", node=node)
        subprocess.run([self.place.kong(version), *words, "-c", self.place.etc / "kong.conf"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fill(self):
        self.kong("2.0.5", "old", "migrations", "bootstrap")
        self.kong("2.0.5", "old", "start")
        seed = CassandraReplay(self.place, self.path.with_name(SEED))
        for entry in seed.entries:
            if re.fullmatch(r"seed-(?!key-2)(?!.*never-seen).*", entry["scenario"]):
                with contextlib.suppress(NotReplayed):
                    seed.entry(entry)
        self.problems += seed.problems
        self.place.stop("old")

    # one entry

    def entry(self, entry):
        scenario = entry["scenario"]
        if "argv" in entry:
            self.argv_entry(entry)
        elif entry.get("result", "").startswith("not probed") if isinstance(entry.get("result"), str) else False:
            self.expect(scenario, "running", False, self.place.running(entry["node"]))
        elif str(entry.get("http")).startswith("GET <admin>"):
            self.lists(entry)
        elif "http" in entry:
            self.http(entry)
        else:
            self.look(entry)

    def argv_entry(self, entry):
        scenario, place = entry["scenario"], self.place
        notes, argv = str(entry.get("env_notes")), entry["argv"]
        if scenario.startswith("auth-"):
            raise NotReplayed("needs a node with passwords, which test_cassandra.py has")
        node = entry.get("node") or "single"
        place.forwarder.down() if "db-down" in scenario else place.forwarder.up()
        self.bring_to(entry)
        place.write_conf("kong", node=node)
        found = re.search(r"conf variant (\{.*?\})", notes)
        for word in argv:
            if word.startswith("/etc/kong/kong-"):
                place.write_conf(pathlib.Path(word).stem, self.changes(word, found), node)
        if "start" in argv and scenario != "start-again" and place.running(node):
            place.stop(node)
        if "trying to create it" in str(entry.get("stdout")):
            shutil.rmtree(place.prefix(node), ignore_errors=True)
        else:
            place.prefix(node).mkdir(exist_ok=True)
        self.here = node
        if scenario.startswith("killed-"):
            self.cut_in_the_middle(entry)
        elif "blackhole" in scenario:
            with socket.socket() as listener:
                listener.bind(("127.0.31.78", place.forwarder.port))
                listener.listen(8)
                self.run_command(entry)
        else:
            self.run_command(entry)

    def changes(self, word, found):
        changes = ast.literal_eval(found.group(1)) if found else {}
        port = str(self.place.forwarder.port)
        return {**changes, **{"badpolicy": {"cassandra_lb_policy": "Nope"},
                              "badport": {"cassandra_port": str(free_ports(1)[0])},
                              "blackhole": {"cassandra_contact_points": "127.0.31.78"},
                              "twocp": {"cassandra_contact_points": "127.0.31.77,127.0.0.1", "cassandra_port": port},
                              }.get(pathlib.Path(word).stem.partition("-")[2], {})}

    def bring_to(self, entry):
        """The keyspace must be where the recording has it; only that it is absent, or empty, can be made so."""
        before, place = entry.get("db_before"), self.place
        if before is None or "db-down" in entry["scenario"]:
            return
        if before == "no such keyspace":
            place.drop()
        elif before == "no schema_meta table":
            place.drop()
            place.execute("CREATE KEYSPACE {} WITH REPLICATION = {'class': 'SimpleStrategy', 'replication_factor': 1}")
        else:
            self.expect(entry["scenario"], "schema_meta before", rows_of(before), place.rows())
        if entry["scenario"] == "locked-up-uptodate-lock-expires-meanwhile" or float(entry["duration_s"]) > 50:
            place.set_lock(2)

    def run_command(self, entry):
        process = self.popen(entry)
        out, err = process.communicate("", timeout=120)
        self.compare(entry, process.returncode, out, err)

    def words_of(self, argv):
        out = []
        for word in argv:
            word = word.replace("/usr/local/kong", str(self.place.prefix(self.here)))
            out.append(word.replace("/etc/kong", str(self.place.etc)))
        return out

    def popen(self, entry, argv=None, environ=(), **more):
        return subprocess.Popen(
            [self.place.kong(entry["binary"])] + self.words_of((argv or entry["argv"])[1:]), cwd=self.place.cwd,
            env={"PATH": os.environ["PATH"], "HOME": str(self.place.cwd), **dict(environ)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, **more)

    def cut_in_the_middle(self, entry):
        """Cassandra goes while a command is at work."""
        gate = self.place.forwarder
        gate.arm(STOPPED_AT[self.name])
        process = self.popen(entry)
        self.expect(entry["scenario"], "got that far", True, gate.stopped.wait(60))
        gate.down()
        out, err = process.communicate("", timeout=60)
        self.compare(entry, process.returncode, out, err)
        gate.up()

    def compare(self, entry, code, out, err, rows=True):
        scenario = entry["scenario"]
        self.expect(scenario, "exit code", entry["exit_code"], code)
        for what, wanted, got in (("stdout", entry["stdout"], out), ("stderr", entry["stderr"], err)):
            self.expect(scenario, what, plain(wanted or ""), plain(self.place.recorded(got)))
        after = entry.get("db_after")
        if after is not None and not str(after).startswith("not readable"):
            self.expect(scenario, "schema_meta", rows_of(after) or after, self.place.rows())
        if "locks_after" in entry and isinstance(entry["locks_after"], list):
            self.expect(scenario, "locks", len(entry["locks_after"]), len(self.place.locks()))

    # what is neither a command nor a request

    def look(self, entry):
        scenario, place = entry["scenario"], self.place
        if "cql" in entry:
            place.set_lock(int(re.search(r"ttl (\d+)", entry["cql"]).group(1)))
        elif scenario == "killed-up":
            self.kill_in_the_middle(entry)
        elif scenario == "state-after-restart":
            if not entry["locks"]:
                place.set_lock(0)  # whether the recorded run got rid of it was chance
            self.expect(scenario, "schema_meta", rows_of(entry["schema_meta"]), place.rows())
            self.expect(scenario, "locks", len(entry["locks"]), len(place.locks()))
        elif scenario.endswith("waited-for-lock-ttl"):
            place.set_lock(0)
        elif "rows_per_table" in entry:
            self.counts(entry)
        elif "count" in entry:
            self.expect(scenario, "consumers", entry["count"], place.execute("SELECT count(*) FROM {}.consumers")[0]["count"])
        elif "tables" in entry:
            self.expect(scenario, "tables", sorted(entry["tables"]), sorted(place.tables()))
        elif scenario.startswith("new-plugin-configs"):
            plugins = self.admin("new", "/plugins")["data"]
            got = {p["name"]: {key: p["config"].get(key) for key in ("allow", "deny")} for p in plugins}
            self.expect(scenario, "lists", entry["result"], {name: got.get(name) for name in entry["result"]})
        elif scenario.startswith("new-routes"):
            routes = [{key: route[key] for key in entry["result"][0]}
                      for route in self.admin("new", "/routes")["data"]]
            self.expect(scenario, "routes", entry["result"], sorted(routes, key=lambda route: route["name"]))
        else:
            raise NotReplayed("nothing that the stand-in has: TLS by SNI, logs, seconds, the configuration at /")

    def kill_in_the_middle(self, entry):
        """The command is killed while it is at work."""
        place = self.place
        place.write_conf("kong", node="new")
        self.here = "new"
        gate = place.forwarder
        gate.arm(STOPPED_AT[self.name])
        process = self.popen({"binary": "2.8.5"}, ["kong", "migrations", "up", "-c", "/etc/kong/kong.conf"],
                             start_new_session=True)
        self.expect(entry["scenario"], "got that far", True, gate.stopped.wait(60))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
        self.expect(entry["scenario"], "schema_meta", rows_of(entry["schema_meta"]), place.rows())
        self.expect(entry["scenario"], "locks", len(entry["locks"]), len(place.locks()))

    def counts(self, entry):
        place = self.place
        got = {name: place.execute("SELECT count(*) FROM {}.%s" % name)[0]["count"] for name in place.tables()}
        for name, number in entry["rows_per_table"].items():
            if name not in NOT_COUNTED:
                self.expect(entry["scenario"], "rows in " + name, number, got.get(name))

    def lists(self, entry):
        for path, wanted in entry["result"].items():
            if path not in NOT_LISTED:
                got = len(self.admin(entry["node"], path)["data"])
                self.expect(entry["scenario"], path, wanted, "200, %d items" % got)

    def admin(self, node, path):
        import urllib.request

        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (self.place.ports[node]["admin"], path), timeout=15) as answer:
            return json.load(answer)

    # requests

    def http(self, entry):
        method, url = entry["http"].split(" ", 1)
        scenario, place = entry["scenario"], self.place
        address = re.match(r"http://([\d.]+):(\d+)", url)
        node = entry.get("node") or self.addresses.get(address.group(1), "single")
        self.addresses[address.group(1)] = node
        kind = {"8000": "proxy", "8001": "admin", "8007": "status"}[address.group(2)]
        if "db-down" in scenario:
            place.forwarder.down()
        if not place.running(node):
            raise NotReplayed("the recording has no entry that starts the node this request goes to")
        path = url[address.end():]
        body = entry.get("request_body")
        if body:
            body = json.loads(json.dumps(body).replace(ORIGIN, "127.0.0.1:%d" % place.origin.server_port))
            path = re.sub(r"/routes/[0-9a-f-]{36}/", "/routes/%s/" % ROUTE_OF.get(body.get("name")), path)
        request_url = "http://127.0.0.1:%d%s" % (place.ports[node][kind], path)
        # caches and routers learn of changes within db_update_frequency
        deadline = time.monotonic() + (4 if method == "GET" else 0)
        while True:
            status, got, content = self.ask(method, request_url, body, entry.get("request_headers") or {})
            if status == entry["status"] or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        self.expect(scenario, "status", entry["status"], status)
        self.same_headers(scenario, entry.get("headers") or {}, got)
        if status == entry["status"] and entry.get("body") is not None:
            self.same_body(scenario, dict(entry, body=self.comparable(entry["body"])), content)

    @staticmethod
    def comparable(body):
        """Of an answer, what the stand-in has; the real one gives a set in the order in which it was sent."""
        if not isinstance(body, dict):
            return body
        return {key: sorted(value) if key == "tags" and value else value for key, value in body.items()
                if key not in ("config", "snis")}

    @staticmethod
    def ask(method, url, body, headers):
        import urllib.error
        import urllib.request

        data = None if body is None else json.dumps(body).encode()
        if data:
            headers = {**headers, "Content-Type": "application/json"}
        try:
            request = urllib.request.Request(url, data=data, headers=headers, method=method)
            with urllib.request.urlopen(request, timeout=15) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def end(self):
        for name in self.place.ports:
            self.place.stop(name)
        self.place.forwarder.up()
