# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of the recordings that need more than a command: what was done beside them, by the name of the entry.

Each function gets the Replay of replay.py and the entry.
"""

import ast
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

from .replay_place import NotReplayed, normal, rows_of, wait

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


def blackhole(self, entry):
    """A server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        self.prepare(entry)
        self.place.write_conf("kong-blackhole", {"pg_port": listener.getsockname()[1]})
        process = self.popen(entry, start_new_session=True)
        if not isinstance(entry["exit_code"], int):  # 0.14.1 waits for ever: whoever recorded it ended it
            self.expect(entry["scenario"], "ended by itself", False, wait(lambda: process.poll() is not None, 3))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return
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
    with self.place.postgres.admin("kong") as db:
        wants = ("SELECT 1 FROM pg_stat_activity WHERE datname = 'kong' AND pid <> pg_backend_pid() AND wait_event_type <> 'Lock'"
                 " AND query LIKE '%FROM locks%'")
        self.expect(entry["scenario"], "the second wants the lock", True, wait(lambda: bool(db.execute(wants).fetchall()), 30))
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
        # The last three are PostgreSQL's, whose CREATE TABLE IF NOT EXISTS may fail on a table that another session makes just then.
        fine = any(word in lost[0][1] + lost[0][2] for word in (
            "aborted: another node", "already bootstrapped", "has pending migrations",
            "already up-to-date", "concurrently", "duplicate key", 'relation "schema_meta" already exists'))
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


def with_apis(self, entry):
    """A database of 0.14.1 with the two apis of the recording."""
    self.prepare(entry)
    with self.place.postgres.admin("kong") as db:
        for name in ("old-api", "second"):
            db.execute("INSERT INTO apis (id, name, upstream_url, uris) VALUES (gen_random_uuid(), %s, 'http://127.0.0.1:1', %s) "
                       "ON CONFLICT DO NOTHING", (name, json.dumps(["/" + name])))
    beside_with_rows(self, entry)


def unwritable_prefix(self, entry):
    self.prepare(entry)
    beside_with_rows(self, entry)


def scram(self, entry):
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


def fresh_legacy(self, entry):
    """The recording begins again with a database of 0.14.1 that nothing has touched."""
    self.place.stop()
    self.place.recreate(self.place.template("0.14.1")[0])
    self.command(entry)


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
    "v2-up": with_apis, "v3-up": with_apis, "v4-2.8.5-skips-1.5: up": with_apis,
    "0.14.1-start": fresh_legacy, "1.0.3-finish-on-0.14.1-db": fresh_legacy,
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
