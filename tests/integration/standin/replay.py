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
import difflib
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import psycopg

from .replay_place import TEMPLATES, NotReplayed, load, normal, rows_of, wait
from .replay_special import SPECIAL

BAD_CONF = {
    "check-bad-database": {"database": "mysql"}, "check-bad-log-level": {"log_level": "loud"},
    "check-unknown-property": {"no_such_key": "1"}, "check-bad-port": {"pg_port": "99999"},
    "start-bad-conf": {"log_level": "loud"}, "reload-bad-conf": {"log_level": "loud"},
}
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
        if "http" in entry:
            self.http(entry)
            return
        special = SPECIAL.get(scenario)
        if special:
            special(self, entry)
            return
        self.command(entry)

    def binary(self, entry):
        found = re.search(r"binary: (?:OLD |NEW )?kong ([\d.]+\d)", str(entry.get("env_notes"))) \
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
        if url.endswith("/apis"):
            # the route that was made of it has a method, which this answer does not show
            return {"methods": ["GET"] if "hosts" in answer else None, **answer}
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
            if key in SKIPPED_FIELDS or str(value).startswith("<") or "not currently accepting" in str(value):
                continue  # the last one: the database is down in another way here
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

    def level_rows(self):
        """Recorded rows of the time when an ``up`` was under way."""
        for other in self.entries:
            if other["scenario"] == "lock-list-while-up-running":
                return other["db_before"]
        return None

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
