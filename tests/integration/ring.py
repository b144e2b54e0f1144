# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Cassandra node with keyspaces of Kong, for the tests of modules that look into it or change it.

With BLUE_KONG and GREEN_KONG in the environment they run those kong commands (2.0 and 2.8), else the stand-in.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading

from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra, _conf, _migrate
from bed import process
from bed.cassandra import Cassandra
from migrating import DEFAULTS, run_command
from standin.launcher import make_launcher
from standin.replay_place import free_ports


class Ring:
    """One Cassandra node and two versions of Kong."""

    def __init__(self, directory, **server):
        self.directory = directory
        port, storage_port = free_ports(2)
        self.server = Cassandra(directory, "127.0.0.1", process.environment(directory), port, storage_port, **server)
        self.old = os.environ.get("BLUE_KONG") or make_launcher(directory / "kongs", "2.0.5")
        self.new = os.environ.get("GREEN_KONG") or make_launcher(directory / "kongs", "2.8.5")
        self.number, self.keyspaces = 0, []

    def at(self):
        """A keyspace of its own, not yet made."""
        self.number += 1
        self.keyspaces.append(f"kong_{self.number}")
        return At(self, self.keyspaces[-1])

    def tidy(self):
        """Removes the keyspaces of the test that has ended."""
        while self.keyspaces:
            self.server.execute(f"drop keyspace if exists {self.keyspaces.pop()}")


class Brake:
    """A port that passes everything on to the node until stop() returns something true: then nothing any more."""

    def __init__(self, server, stop):
        self.server, self.stop = server, stop
        self.reached, self.ends = threading.Event(), []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def _accept(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                pair = (self.listener.accept()[0], socket.create_connection((self.server.address, self.server.port)))
                self.ends += pair
                threading.Thread(target=self._pass_on, args=(*pair, self.stop), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(*pair[::-1], None), daemon=True).start()

    def _pass_on(self, source, sink, stop):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if stop and (self.reached.is_set() or stop()):
                    self.reached.set()
                    return  # both ends stay open, and whoever has asked waits
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()
        for end in self.ends:
            end.close()


class At:
    """One keyspace, with a kong.conf that names it."""

    def __init__(self, ring, keyspace):
        self.ring, self.keyspace = ring, keyspace
        self.conf = self.write("kong.conf")

    def write(self, name, **settings):
        """A kong.conf; returns its path."""
        settings = {
            "database": "cassandra", "cassandra_contact_points": "127.0.0.1", "cassandra_port": self.ring.server.port,
            "cassandra_keyspace": self.keyspace, "prefix": self.ring.directory / "prefix", **settings,
        }
        path = self.ring.directory / f"{self.keyspace}-{name}"
        path.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        return str(path)

    def migrate(self, state, kong=None, check_mode=False, **params):
        params = {**DEFAULTS, "state": state, "executable": kong or self.ring.new, "conf": self.conf, **params}
        return _migrate.migrate(params, run_command, check_mode)

    def info(self, source="database", **params):
        params = {"source": source, "executable": self.ring.new, "conf": self.conf, **params}
        return _migrate.info(params, run_command)

    def look(self, **params):
        """Our own connection."""
        return _cassandra.connect(*_cassandra.target(params, _conf.load(self.conf)[0]))

    def hold_lock(self, seconds, owner="someone"):
        """Take the migration lock, as a run of another host would."""
        taken = self.execute(
            f"insert into {{}}.locks (key, owner) values ('migrations', %s) if not exists using ttl {seconds}", owner)
        assert taken[0]["[applied]"]

    def release_lock(self):
        """Give the migration lock back, whoever holds it."""
        self.execute("delete from {}.locks where key = 'migrations' if exists")

    def shorten_lock(self, seconds):
        """Give whoever holds the migration lock this long from now on."""
        ((owner, dummy),) = self.locks()
        self.release_lock()
        self.hold_lock(seconds, owner)

    def locks(self):
        """(owner, seconds left) of each."""
        rows = self.execute("select owner, ttl(owner) as seconds from {}.locks")
        return [(row["owner"], row["seconds"]) for row in rows]

    def pending(self):
        return {
            (row["subsystem"], name)
            for row in self.execute("select subsystem, pending from {}.schema_meta")
            for name in row["pending"] or ()
        }

    def kill_in_the_middle(self, command, begun):
        """`kong migrations` of the newer version, killed as soon as begun() tells something: it gets no further."""
        with Brake(self.ring.server, begun) as brake:
            conf = self.write("brake.conf", cassandra_port=brake.port)
            running = subprocess.Popen(
                [self.ring.new, "migrations", command, "-c", conf, "--lock-timeout", "300"], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            assert brake.reached.wait(60)
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()

    def execute(self, cql, *values):
        """Run one statement, in which {} is the keyspace."""
        return self.ring.server.execute(cql.format(self.keyspace), *values)
