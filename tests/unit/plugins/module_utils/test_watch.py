# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watcher makes of processes, sockets and sessions. With a real database: tests/integration/test_migrations.py."""

import os
import socket
import subprocess
import time

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _watch


@pytest.mark.parametrize(
    "text, kind",
    [
        (None, None),
        ("", None),
        ("<insufficient privilege>", None),
        ("select * from plugins where password = 'x'", "SELECT"),
        ("  /* app: secret */ -- more\n SELECT 1", "SELECT"),
        ("ALTER TABLE plugins ADD COLUMN x int", "ALTER TABLE"),
        ("begin;\nselect 1", "BEGIN"),
        ("; lock table plugins", "LOCK TABLE"),
        ("(select 1) union (select 2)", "SELECT"),
        ("COPY consumers TO '/tmp/x'", "COPY"),
    ],
)
def test_query_kind_shows_no_literal(text, kind):
    assert _watch.query_kind(text) == kind


@pytest.mark.parametrize("family, address", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_sockets_are_those_of_the_processes_to_the_port(family, address):
    if family == socket.AF_INET6 and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this machine has no IPv6")
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((address, port)) as client:
            assert _watch.sockets([os.getpid()], port) == {client.getsockname()[:2]}
            assert _watch.sockets([os.getpid()], port + 1 if port < 65535 else port - 1) == set()
            assert _watch.sockets([2 ** 22 + 1], port) == set()


def session(pid, blockers=None, user="kong", **more):
    return dict({"pid": pid, "usename": user, "blockers": blockers}, **more)


def test_behind_goes_by_way_of_others():
    rows = {row["pid"]: row for row in (
        session(1), session(2, [1]), session(3, [2]), session(4, [3, 9]), session(5, [9]), session(6, [2], user=None))}
    assert _watch._behind({2}, rows) == {3, 4}
    assert _watch._behind({1}, rows) == {2, 3, 4}
    assert _watch._behind({5}, rows) == set()
    assert _watch._behind(set(), rows) == set()


def test_a_session_is_named_without_its_statement():
    row = session(
        7, client_addr="2001:db8::1", client_port=5000, application_name="report", state="idle in transaction",
        xact_age=12.34, query="select 'secret'", relations=["plugins"])
    found = _watch.describe(row)
    assert found == {
        "pid": 7, "user": "kong", "application_name": "report", "client": "[2001:db8::1]:5000",
        "state": "idle in transaction", "transaction_age": 12.3, "query": "SELECT", "relations": ["plugins"]}
    text = _watch.name(found)
    for word in ("7", "kong", "[2001:db8::1]:5000", "report", "idle in transaction", "12.3 s", "SELECT", "plugins"):
        assert word in text
    assert _watch.name(_watch.describe(session(8, user=None))) == "session 8 of role unknown"


def shell(script):
    return ["/bin/sh", "-c", script]


def test_run_returns_what_was_printed():
    outcome = _watch.run(shell("echo out; echo \"$WORD\" >&2; exit 3"), {"WORD": "err"}, 20)
    assert outcome.result == (3, "out\n", "err\n")
    assert outcome.blocked is None and not outcome.timed_out and outcome.seconds < 20


def test_run_ends_the_whole_group_when_the_time_is_over(tmp_path):
    """The leader and its child both ignore SIGTERM, as a blocked kong does."""
    pids = tmp_path / "pids"
    script = "trap '' TERM; (trap '' TERM; sleep 60 & echo $! >> %s; wait) & echo $! >> %s; wait" % (pids, pids)
    begun = time.monotonic()
    outcome = _watch.run(shell(script), {}, 0.5)
    assert outcome.timed_out and outcome.result.rc < 0
    assert time.monotonic() - begun < 10
    for pid in pids.read_text().split():
        assert not running(int(pid))


def test_run_ends_what_a_leader_left_behind(tmp_path):
    pids = tmp_path / "pids"
    outcome = _watch.run(shell("sleep 60 & echo $! > %s" % pids), {}, 20)
    assert outcome.result.rc == 0 and outcome.seconds < 10
    assert not running(int(pids.read_text()))


def running(pid):
    try:
        with open("/proc/%d/stat" % pid, "rb") as stream:
            return stream.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def test_members_are_the_living_of_group_and_session():
    process = subprocess.Popen(shell("sleep 60 & sleep 60"), start_new_session=True)
    try:
        end = time.monotonic() + 5
        while len(_watch.members(process.pid)) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        assert process.pid in _watch.members(process.pid) and len(_watch.members(process.pid)) == 3
    finally:
        assert _watch._end_group(process) is True
    assert _watch.members(process.pid) == []
    assert _watch._end_group(process) is False


class Crashing:
    """A database whose answers make no sense."""

    version_num = 170000
    store = {"port": 5432}

    def __init__(self):
        self.asked = 0

    def query(self, sql, params=None):
        self.asked += 1
        return [{"t": 0.0}] if self.asked == 1 else [{"unexpected": 1}]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watcher_that_crashes_ends_the_command(tmp_path):
    with pytest.raises((RuntimeError, KeyError)):
        _watch.run(shell("sleep 60 & echo $! > %s; wait" % (tmp_path / "pid")), {}, 30, Crashing(), 1, "kong")
    pid = tmp_path / "pid"
    assert not pid.exists() or not running(int(pid.read_text()))
