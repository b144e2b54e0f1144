# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scenarios of an upgrade ask of the bed.

With BLUE_KONG and GREEN_KONG in the environment they stand on those kong commands, else on the stand-in.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import threading

from bed.bed import Bed
from bed.hosts import ADMIN
from bed.process import wait_for

KONGS = {"blue_kong": os.environ.get("BLUE_KONG") or None, "green_kong": os.environ.get("GREEN_KONG") or None}
# Short steps; everything else as the role has it.
QUICK = {"kong_upgrade_steps": [50, 100], "kong_upgrade_soak": 1, "kong_upgrade_gate_min_requests": 5}
RECAP = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)", re.M)


@dataclasses.dataclass
class Outcome:
    """How a playbook of a scenario ended."""

    rc: int
    output: str = dataclasses.field(repr=False)
    report: dict | None = dataclasses.field(repr=False)

    @property
    def changed(self):
        """{host: number of tasks that changed something}."""
        return {host: int(changed) for host, changed, dummy in RECAP.findall(self.output)}

    @property
    def lost(self):
        """Hosts that were lost in the middle of it."""
        return {host for host, dummy, unreachable in RECAP.findall(self.output) if int(unreachable)}

    @property
    def words(self):
        """The output with every run of white space as one space, since long messages are broken into lines."""
        return " ".join(self.output.split())

    @property
    def tail(self):
        """The end of the output, for the message of an assertion."""
        return self.output[-6000:]

    @property
    def blockers(self):
        """The problems of the report, each as one sentence."""
        return ["%(where)s: %(what)s. %(do)s" % problem for problem in self.report["blockers"]]


class Running:
    """A playbook that runs on a scene."""

    def __init__(self, scene, play):
        self.scene, self.play = scene, play

    def output(self):
        """What it has printed so far."""
        return self.play.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text, timeout=150):
        """Wait until it has printed `text`; an AssertionError if it ended before."""
        self.wait_until(lambda: text in self.output(), f"the playbook prints {text!r}", timeout)

    def wait_until(self, look, what, timeout=150):
        """Wait until `look()` returns something true; an AssertionError, with the end of the output, if it ended before."""
        def seen():
            ended = self.play.process.poll() is not None
            if look():
                return True
            assert not ended, f"ended, and it is not so that {what}:\n{self.output()[-6000:]}"
            return False

        wait_for(seen, timeout, what, interval=0.01)

    def kill(self, everything=True):
        """SIGKILL it: its whole process group, or ansible-playbook alone."""
        self.play.kill(everything)

    @contextlib.contextmanager
    def halted(self):
        """While inside, it does nothing, and has not ended."""
        os.killpg(self.play.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.play.process.pid, signal.SIGCONT)

    def end(self, timeout=280):
        """Wait for its end; see Outcome."""
        rc = self.play.wait(timeout).rc
        path = max(self.scene.report.glob("*.json"), key=lambda file: file.stat().st_mtime, default=None)
        return Outcome(rc, self.output(), json.loads(path.read_text(encoding="utf-8")) if path else None)


class Scene(Bed):
    """A bed with what the scenarios ask of it."""

    def start(self, name, *, inventory=None, options=(), env=None, **variables):
        """Start a playbook with the quick settings; see Running."""
        for earlier in self.report.glob("*.json"):
            earlier.unlink()
        return Running(self, self.start_playbook(name, inventory, options, env, **{**QUICK, **variables}))

    def play(self, name, *, timeout=280, **arguments):
        """Run a playbook to its end; see Outcome."""
        return self.start(name, **arguments).end(timeout)

    def done(self, name, **arguments):
        """Run a playbook that must succeed."""
        outcome = self.play(name, **arguments)
        assert outcome.rc == 0, outcome.tail
        return outcome

    def refused(self, name, **arguments):
        """Run a playbook that must fail as docs/watch.md says: 2, or 4 where a host is lost."""
        outcome = self.play(name, **arguments)
        assert outcome.rc == (4 if outcome.lost else 2), (outcome.rc, outcome.tail)
        return outcome

    @contextlib.contextmanager
    def traffic(self, **figures):
        """While inside: a load of short and 5-second requests, of which none may fail."""
        load = self.load(**{"rate": 60, "slow": 3, **figures})
        yield load
        result = load.stop()
        assert result["failures"] == []
        assert result["requests"] > 50
        assert result["kinds"]["slow"]["requests"] > 0

    def weights(self):
        """[{server: (weight, status)} of each load balancer]."""
        return [{name: (int(row["weight"]), row["status"]) for name, row in lb.stat().items()} for lb in self.lbs]

    def serves(self, colour):
        """Whether every load balancer sends everything to this colour, at the weights the bed began with."""
        return all(
            weight == (100 if name.startswith(colour) else 0) or status.startswith(("MAINT", "DRAIN"))
            for found in self.weights() for name, (weight, status) in found.items())

    def green_migrated(self):
        """What green's own `kong migrations list` says: the exit code, 0 when nothing is new or pending."""
        return self.green[0].kong("migrations", "list", check=False).returncode

    def schema(self):
        """{subsystem: (executed, pending)}, as it stands in the database."""
        rows = self.sql("SELECT subsystem, executed, pending FROM schema_meta ORDER BY subsystem")
        return {name: (sorted(executed or []), sorted(pending or [])) for name, executed, pending in rows}

    def snapshot(self):
        """All that a run may change before it has looked at everything: nothing. The run's lock, which it takes in
        order to look, and logs excepted."""
        tables = self.sql("SELECT relname FROM pg_stat_user_tables ORDER BY relname")
        files = {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((self.directory / "hosts").rglob("*"))
            if path.is_file() and path.suffix not in (".log", ".pid") and "state" not in path.parts
            and "sockets" not in path.parts}
        nodes = {host.name: host.pid() for host in self.hosts}
        return {"schema": self.schema(), "tables": tables, "files": files, "nodes": nodes, "weights": self.weights(),
                "backup": sorted(path.name for path in (self.directory / "backup").glob("*"))}

    def inventory_with(self, name, edit=None, without=()):
        """Another inventory of this bed: its path."""
        return self.write_inventory(self.directory / name / "hosts.yml", without=without, edit=edit)


class Watch(threading.Thread):
    """Calls `look()` again and again until stopped; keeps what it returned, if anything."""

    def __init__(self, look, interval=0.05):
        super().__init__(daemon=True)
        self.look, self.interval = look, interval
        self.found, self.looks = [], 0
        self._over = threading.Event()

    def run(self):
        while not self._over.is_set():
            value = self.look()
            self.looks += 1
            if value:
                self.found.append(value)
            self._over.wait(self.interval)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()
        assert self.looks > 1


def connects(address, port):
    """Whether something listens there."""
    try:
        with socket.create_connection((address, port), 1):
            return True
    except OSError:
        return False


def open_admin(hosts):
    """Names of the hosts whose Admin API port is open."""
    return [host.name for host in hosts if connects(host.address, ADMIN)]


def command_lines():
    """The command lines of all processes of this machine, without those that are gone again."""
    lines = set()
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                lines.add((entry / "cmdline").read_bytes())
    return lines
