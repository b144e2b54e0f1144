# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command in a process group of its own, and watches in the database that it does not block others for long.

Why: a migration takes ACCESS EXCLUSIVE on the tables that running nodes read. One idle transaction that has read such a
table makes it wait, and every later read waits behind it. SIGTERM does not end a blocked `up`, and its statement goes
on in the server after the process is gone (seen with real Kong 2.8.5): so the statement is cancelled in the server too.

Which sessions are the command's: those whose client socket (address and port) is held open by a process of the group,
by /proc. Where a pooler or an address translation stands between, no socket matches; then it is the one session of the
same role that holds or awaits ACCESS EXCLUSIVE on Kong's tables in a transaction that began after the command. If
there are several of these, none is touched.
"""

import errno
import os
import re
import signal
import subprocess
import tempfile
import threading
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _process
from ansible_collections.bluegreen.kong.plugins.module_utils._cli import Result, clean
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError

GRACE = 1.0  # seconds that a command is given to end by itself after its statement was cancelled
KILL_AFTER = 1.0  # seconds between SIGTERM and SIGKILL
GONE_WITHIN = 10.0  # seconds in which the server must have ended our sessions
STOP_WITHIN = 5  # seconds that the last look at the database may take before it is given up


class Outcome(object):
    """How a command ended.

    result: Result. blocked: None, or list of dict: the sessions that stood in the command's way when it was ended.
    victims: list of dict, the sessions that waited behind it. timed_out: bool, ended after `timeout`.
    left: list of dict, sessions of the command that could not be ended. warnings: list of str. seconds: float.
    """

    def __init__(self):
        self.result = None
        self.blocked = None
        self.victims = []
        self.timed_out = False
        self.left = []
        self.warnings = []
        self.seconds = 0.0


def run(argv, environ, timeout, database=None, block_timeout=0, user=None):
    """Runs `argv` to its end, or until it must be ended; nothing of it is left when this returns or raises.

    :param environ: dict of variables to add to this process's.
    :param timeout: seconds after which the command is ended.
    :param database: Database for the watcher (and, after that, for ending our sessions), or None: not watched.
    :param block_timeout: seconds that a session of others may wait behind the command; 0: as long as it takes.
    :param user: str, the role that the command logs in as.
    :returns: Outcome.
    """
    outcome = Outcome()
    begun = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        watcher = Watcher(database, block_timeout, user) if database is not None else None
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=dict(os.environ, **environ),
            start_new_session=True,
        )
        try:
            if watcher:
                watcher.begin(process.pid)
            _wait(process, begun + timeout, watcher, outcome)
        finally:
            # also when a signal ended the module: nobody would watch the command any more
            try:
                if watcher:
                    watcher.stop()
            finally:
                killed = _end_group(process)
            if watcher:
                watcher.finish(outcome, killed)
        outcome.result = Result(process.returncode, _text(out), _text(err))
    outcome.seconds = round(time.monotonic() - begun, 2)
    return outcome


def _text(stream):
    stream.seek(0)
    return clean(stream.read().decode("utf-8", "replace"))


def _wait(process, deadline, watcher, outcome):
    tripped = None
    while process.poll() is None:
        now = time.monotonic()
        if watcher:
            watcher.check()
        if tripped is None and watcher and watcher.tripped.is_set():
            tripped = now
        if tripped is not None and now - tripped > GRACE:
            return
        if now > deadline:
            outcome.timed_out = True
            return
        try:
            process.wait(0.05 if tripped is not None else 0.1)
        except subprocess.TimeoutExpired:
            continue


def _end_group(process):
    """Ends what is left of the group: SIGTERM, then SIGKILL. The leader is reaped. False when nothing was left."""
    if process.poll() is not None and not members(process.pid):
        return False
    for number, patience in ((signal.SIGTERM, KILL_AFTER), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.EPERM):
                raise
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if process.poll() is not None and not members(process.pid):
                return True
            time.sleep(0.02)
    return True


def members(leader):
    """Pids of the living processes in the group or the session that `leader` (pid) made; zombies do not count."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % name, "rb") as stream:
                fields = stream.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if fields and fields[0] not in (b"Z", b"X") and leader in (int(fields[2]), int(fields[3])):
            found.append(int(name))
    return found


def sockets(pids, port):
    """Local ends, {(address, port)}, of the TCP connections to `port` that are held open by the processes `pids`.

    An address is written as PostgreSQL's host() writes it.
    """
    inodes = set()
    for pid in pids:
        try:
            names = os.listdir("/proc/%d/fd" % pid)
        except OSError:
            continue  # it ended while we looked
        for name in names:
            try:
                match = re.match(r"socket:\[(\d+)\]$", os.readlink("/proc/%d/fd/%s" % (pid, name)))
            except OSError:
                continue  # closed while we looked
            if match:
                inodes.add(match.group(1))
    if not inodes:
        return set()
    # all of one group are in one network
    found = next((ends for ends in (_connections(pid, port) for pid in pids) if ends is not None), [])
    return set(end for end, inode in found if str(inode) in inodes)


def _connections(pid, port):
    """[((address, port), inode)] of the connections to `port` in the network of a process, or None if it has ended."""
    try:
        found = _process.connections(pid, [port])
    except OSError:
        return None
    return [
        ((address[7:] if address.startswith("::ffff:") and "." in address else address, local), inode)
        for (address, local), inode in found
    ]


_KEYWORDS = re.compile(r"^(?:\s|/\*.*?\*/|--[^\n]*(?:\n|$)|;|\()*([A-Za-z]+)(?:\s+([A-Za-z]+))?", re.S)
_WITH_OBJECT = frozenset(["ALTER", "CREATE", "DROP", "LOCK", "REFRESH", "TRUNCATE"])


def query_kind(text):
    """What a statement does, without what it does it with: SELECT, ALTER TABLE; None when it is not shown."""
    match = _KEYWORDS.match(text or "")
    if not match:
        return None
    first, second = match.group(1).upper(), (match.group(2) or "").upper()
    return ("%s %s" % (first, second)).strip() if first in _WITH_OBJECT else first


def describe(row):
    """A session as it is returned and named: no statement, no literal."""
    return {
        "pid": row["pid"],
        "user": row["usename"],
        "application_name": row.get("application_name") or None,
        "client": _client(row),
        "state": row.get("state"),
        "transaction_age": None if row.get("xact_age") is None else round(row["xact_age"], 1),
        "query": query_kind(row.get("query")),
        "relations": row.get("relations") or [],
    }


def _client(row):
    if row.get("client_addr") is None:
        return None
    address = "[%s]" % row["client_addr"] if ":" in row["client_addr"] else row["client_addr"]
    return address if row.get("client_port") is None else "%s:%s" % (address, row["client_port"])


def name(session):
    """One session in a sentence."""
    text = "session %s of role %s" % (session["pid"], session["user"] or "unknown")
    if session["client"]:
        text += " from %s" % session["client"]
    if session["application_name"]:
        text += " (%s)" % session["application_name"]
    if session["state"]:
        text += ", %s" % session["state"]
    if session["transaction_age"] is not None:
        text += ", its transaction %s s old" % session["transaction_age"]
    if session["query"]:
        text += ", last statement %s" % session["query"]
    if session["relations"]:
        text += ", locks on %s" % ", ".join(session["relations"])
    return text


# One look at all client sessions of the database. `blockers` counts those that are ahead in a lock's queue, too.
_SESSIONS = """
with w as (select distinct pid from pg_catalog.pg_locks where not granted and pid is not null)
select a.pid, a.usename::text as usename, a.application_name, host(a.client_addr) as client_addr, a.client_port,
  a.state, left(a.query, 200) as query, extract(epoch from a.backend_start)::float8 as backend_start,
  extract(epoch from a.xact_start)::float8 as xact_start, extract(epoch from a.query_start)::float8 as query_start,
  extract(epoch from clock_timestamp() - a.xact_start)::float8 as xact_age,
  case when w.pid is not null then %(blockers)s end as blockers
from pg_catalog.pg_stat_activity a left join w on w.pid = a.pid
where a.datname = current_database() and a.pid <> pg_backend_pid()
"""
_BLOCKERS = "pg_catalog.pg_blocking_pids(a.pid)"
# 9.5 has no such function: everybody who has, or wants as well, what this one waits for
_BLOCKERS_95 = """array(select distinct o.pid from pg_catalog.pg_locks l join pg_catalog.pg_locks o
  on o.locktype = l.locktype and o.database is not distinct from l.database
  and o.relation is not distinct from l.relation and o.page is not distinct from l.page
  and o.tuple is not distinct from l.tuple and o.virtualxid is not distinct from l.virtualxid
  and o.transactionid is not distinct from l.transactionid and o.pid <> l.pid
  where l.pid = a.pid and not l.granted and (o.granted or o.mode = 'AccessExclusiveLock'))"""

_EXCLUSIVE = """
select distinct l.pid from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = l.relation
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and n.nspname::text = %s and l.pid is not null
"""

_HOLDERS = """
select a.pid, a.usename::text as usename, a.application_name, host(a.client_addr) as client_addr, a.client_port,
  a.state, left(a.query, 200) as query, l.virtualtransaction,
  extract(epoch from clock_timestamp() - a.xact_start)::float8 as xact_age,
  array_agg(distinct c.relname::text) as relations
from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = l.relation
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_stat_activity a on a.pid = l.pid
where l.locktype = 'relation' and l.granted and n.nspname::text = %s and a.pid <> pg_backend_pid()
  and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
  and c.relkind in ('r', 'p') and (a.usename is not null or a.query like '%%to prevent wraparound%%')
group by 1, 2, 3, 4, 5, 6, 7, 8, 9
"""

_PREPARED = """
select 0 as pid, p.owner::text as usename, 'prepared transaction' as application_name, null::text as client_addr,
  null::int as client_port, 'prepared' as state, null::text as query,
  extract(epoch from clock_timestamp() - p.prepared)::float8 as xact_age, '{}'::text[] as relations
from pg_catalog.pg_prepared_xacts p where p.database = current_database()
"""


def old_transactions(database, age):
    """The sessions that have held a lock on Kong's tables for longer than `age` seconds, and prepared transactions.

    Of a session that our role may not see into, only the lock is known: it counts when it keeps its lock, in the same
    transaction, while we watch for `age` seconds.

    :returns: list of dict as from describe().
    """
    schema = [database.schema()]
    rows = database.query(_HOLDERS, schema)
    old = [row for row in rows if row["xact_age"] is not None and row["xact_age"] > age]
    if not old:
        hidden = dict(((row["pid"], row["virtualtransaction"]), row) for row in rows if row["xact_age"] is None)
        end = time.monotonic() + age
        while hidden and time.monotonic() < end:
            time.sleep(0.2)
            rows = database.query(_HOLDERS, schema)
            still = set((row["pid"], row["virtualtransaction"]) for row in rows)
            hidden = dict((key, row) for key, row in hidden.items() if key in still)
        old = [dict(row, xact_age=age) for row in hidden.values()]
    if any(row["n"] for row in database.query("select count(*)::int as n from pg_catalog.pg_prepared_xacts")):
        old += [row for row in database.query(_PREPARED) if row["xact_age"] > age]
    return [describe(row) for row in sorted(old, key=lambda row: -row["xact_age"])]


class Watcher(object):
    """Looks at the database while a command runs; cancels the command's statements when others wait too long.

    Uses the Database that it is given from its own thread, until finish() has been called.
    """

    def __init__(self, database, block_timeout, user):
        self._thread = threading.Thread(target=self._run, name="watcher")
        self._thread.daemon = True
        self._ended_well = False
        self.database = database
        self.block_timeout = block_timeout
        self.user = user
        self.tripped = threading.Event()
        self._stop_asked = threading.Event()
        self._leader = None
        self._ours = {}  # pid in the server -> backend_start
        self._guessed = False
        self._since = {}  # (pid, query_start) -> when it was first seen to wait behind us, monotonic
        self._blocked = []
        self._victims = []
        self._error = None
        blockers = _BLOCKERS if database.version_num >= 90600 else _BLOCKERS_95
        self._sql = _SESSIONS.replace("%(blockers)s", blockers)
        self._began = database.query("select extract(epoch from clock_timestamp())::float8 as t")[0]["t"]
        self._interval = min(0.25, max(0.05, block_timeout / 8.0)) if block_timeout else 0.25

    def begin(self, leader):
        """Starts watching the command whose process group is `leader`."""
        self._leader = leader
        self._thread.start()

    def check(self):
        """Raises when the thread has ended as it must not: nobody watches any more, for a reason nobody thought of."""
        if not self._thread.is_alive() and not self._ended_well:
            raise RuntimeError("the thread that watches the database has crashed")

    def _run(self):
        try:
            while not self._stop_asked.is_set():
                if self._look():
                    break
                self._stop_asked.wait(self._interval)
        except DatabaseError as error:
            self._error = error
        self._ended_well = True

    def _look(self):
        """One look; True when the command has been cancelled."""
        rows = dict((row["pid"], row) for row in self.database.query(self._sql))
        self._recognise(rows)
        ours = set(pid for pid in self._ours if pid in rows)
        if not self.block_timeout:
            return False
        waiting = _behind(ours, rows)
        now = time.monotonic()
        since = {}
        for pid in waiting:
            key = (pid, rows[pid]["query_start"])
            since[key] = self._since.get(key, now)
        self._since = since
        if not since or now - min(since.values()) < self.block_timeout:
            return False
        ahead = set(blocker for pid in ours for blocker in rows[pid]["blockers"] or ()) - ours
        self._blocked = self._describe(rows, ahead)
        self._victims = [describe(rows[pid]) for pid in sorted(waiting)]
        # before the signal, which our role may not be allowed to send: the processes are ended in any case
        self.tripped.set()
        self._signal("pg_cancel_backend")
        return True

    def _recognise(self, rows):
        """Adds the sessions that belong to the command to self._ours."""
        ends = sockets(members(self._leader), int(self.database.store["port"]))
        for row in rows.values():
            if row["backend_start"] is None or row["backend_start"] < self._began - 0.001:
                continue
            if (row["client_addr"], row["client_port"]) in ends:
                if self._guessed:
                    self._ours, self._guessed = {}, False
                self._ours[row["pid"]] = row["backend_start"]
        if self._ours and not self._guessed:
            return
        self._ours, self._guessed = {}, True
        if not any(row["blockers"] for row in rows.values()):
            return
        exclusive = set(row["pid"] for row in self.database.query(_EXCLUSIVE, [self.database.schema()]))
        since = self._began - 0.001
        candidates = [
            row
            for row in rows.values()
            if row["pid"] in exclusive and row["usename"] == self.user and (row["xact_start"] or 0) >= since
        ]
        if len(candidates) == 1:
            self._ours = {candidates[0]["pid"]: candidates[0]["backend_start"]}

    def _describe(self, rows, pids):
        """The sessions `pids` with the tables that they hold locks on."""
        found = self.database.query(
            "select l.pid, array_agg(distinct l.relation::regclass::text) as relations from pg_catalog.pg_locks l"
            " where l.granted and l.locktype = 'relation' and l.pid = any(%s) and l.relation in"
            " (select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname::text = %s and c.relkind in ('r', 'p')) group by l.pid",
            [sorted(pids) or [0], self.database.schema()],
        )
        relations = dict((row["pid"], row["relations"]) for row in found)
        named = []
        for pid in sorted(pids):
            row = rows.get(pid) or {"pid": pid, "usename": None, "client_addr": None, "state": "not in this database"}
            named.append(describe(dict(row, relations=relations.get(pid))))
        return named

    def _signal(self, function):
        """Cancels or terminates our sessions, each only while it is still the one that was recognised."""
        for pid, started in self._ours.items():
            self.database.query(
                "select pg_catalog.%s(a.pid) as done from pg_catalog.pg_stat_activity a where a.pid = %%s"
                " and abs(extract(epoch from a.backend_start) - %%s::float8) < 0.001" % function,
                [pid, repr(started)],
            )

    def stop(self):
        """Ends the thread; the last look finds sessions that the command opened since the one before."""
        self._stop_asked.set()
        if self._leader is None:
            return
        self._thread.join(STOP_WITHIN)
        if self._thread.is_alive():
            self._error = self._error or DatabaseError("it did not answer within %d s" % STOP_WITHIN)
        if self._error is None:
            try:
                self._recognise(dict((row["pid"], row) for row in self.database.query(self._sql)))
            except DatabaseError as error:
                self._error = error

    def finish(self, outcome, killed):
        """After the command's processes are gone: ends our sessions that are left in the server, and tells."""
        if self._error is None:
            try:
                self._finish(outcome, killed)
            except DatabaseError as error:
                self._error = error
        if self._error is not None:
            outcome.warnings.append(
                "The database could not be watched to the end of the command: %s" % self._error.message
            )
        if self.tripped.is_set():
            outcome.blocked, outcome.victims = self._blocked, self._victims

    def _finish(self, outcome, killed):
        # A server notices only after its statement that the client has gone: ours are ended, not waited for. Where the
        # command ended by itself its session is most likely about to go.
        now = time.monotonic()
        ask, end, asked = now if killed else now + 0.5, now + GONE_WITHIN, False
        while True:
            rows = self.database.query(self._sql)
            left = [row for row in rows if (row["pid"], row["backend_start"]) in self._ours.items()]
            if self._guessed:
                # the pooler's session lives on, what counts is that its transaction has ended
                left = [row for row in left if row["xact_start"] is not None and row["blockers"]]
            if not left:
                return
            if time.monotonic() > end:
                outcome.left = [describe(row) for row in left]
                return
            if not asked and time.monotonic() >= ask:
                self._signal("pg_cancel_backend" if self._guessed else "pg_terminate_backend")
                asked = True
            time.sleep(0.05)


def _behind(ours, rows):
    """Pids of the sessions that wait for one of `ours`, also by way of others; ours are not among them."""
    found, grown = set(ours), True
    while grown:
        grown = False
        for pid, row in rows.items():
            if pid not in found and row["usename"] is not None and found.intersection(row["blockers"] or ()):
                found.add(pid)
                grown = True
    return found - set(ours)
