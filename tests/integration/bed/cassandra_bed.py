# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bed whose Kong lives on Cassandra."""

import os
import secrets
import signal
import socket
import subprocess

from . import cassandra, seed
from .bed import ORIGIN_PORT, Bed
from .cassandra import CQL_PORT, Cassandra
from .hosts import ADMIN
from .process import BedError, run, wait_for

KEYSPACE = ROLE = "kong"


def free_port():
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


SUSPENDED = "carol"


class CassandraBed(Bed):
    """A bed with a ring of Cassandra, which wants a password, where another bed has PostgreSQL. Kong holds entities of more
    kinds than there, since a dump has to carry each.

    :param ring: number of its nodes; each has every row
    :param restarts: whether nodes will be ended and started again
    """

    def __init__(self, directory=None, ring=1, restarts=False, **more):
        if reason := cassandra.missing():
            raise BedError(reason)
        super().__init__(directory, **more)
        self.shape |= {"ring": ring, "restarts": restarts}
        self.ring, self.password = [], None
        self.people |= seed.credentials([SUSPENDED])

    @property
    def cassandra(self):
        """The node that is asked."""
        return self.ring[0] if self.ring else None

    @property
    def database(self):
        return f"Cassandra at {self._contact_points()}, port {CQL_PORT}, role and keyspace {KEYSPACE}"

    def _contact_points(self):
        return ", ".join(node.address for node in self.ring)

    def _make_ring(self, jmx_ports):
        first = self._address(2)
        self.ring = [
            Cassandra(self.runtime / f"node{number}", self._address(address), self.env, auth=True, restarts=self.shape["restarts"],
                      jmx_port=jmx_port, seed=first)
            for number, (address, jmx_port) in enumerate(zip((2, 4, 5, 6, 7), jmx_ports), 1)]

    def _start_database(self):
        self._make_ring([free_port() for dummy in range(self.shape["ring"])])
        self.password = secrets.token_urlsafe(18)
        for node in self.ring:
            node.home.mkdir(parents=True)
            node.start()
        wait_for(self._whole, 30, "each node of the ring knows each other one")
        self.cassandra.execute(f"CREATE ROLE {ROLE} WITH LOGIN = true AND PASSWORD = '{self.password}'")
        self.cassandra.execute(f"GRANT ALL ON ALL KEYSPACES TO {ROLE}")

    def _whole(self):
        return all(len(node.execute("SELECT peer FROM system.peers")) == len(self.ring) - 1 for node in self.ring)

    def _database_state(self):
        (self.directory / "on_cassandra").touch()  # tells attach()
        return {"password": self.password, "jmx_ports": [node.jmx_port for node in self.ring]}

    def _attach_database(self, state):
        self.password = state["password"]
        self._make_ring(state["jmx_ports"])

    def write_inventory(self, path, without=(), edit=None):
        def with_cassandra(data):
            data["all"]["children"]["kong_cassandra"] = {"hosts": {
                f"cassandra{number}": {"kong_upgrade_nodetool": [str(node.nodetool)], "kong_upgrade_cassandra_address": node.address}
                for number, node in enumerate(self.ring, 1)}}
            if edit:
                edit(data)

        return super().write_inventory(path, without, with_cassandra)

    def database_settings(self):
        return {
            "database": "cassandra", "cassandra_contact_points": self._contact_points(), "cassandra_port": str(CQL_PORT),
            "cassandra_username": ROLE, "cassandra_keyspace": KEYSPACE, "cassandra_repl_factor": str(len(self.ring)),
        }

    def secret_settings(self):
        return {"cassandra_password": self.password}

    def _database_vars(self):
        return {}

    def seed(self, host):
        super().seed(host)
        origin = f"{self._address(3)}:{ORIGIN_PORT}"
        seed.seed_more(seed.Admin(host.address, ADMIN), origin, SUSPENDED, self._certificate())

    def _certificate(self):
        key, certificate = self.directory / "sni.key", self.directory / "sni.pem"
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=one.example",
             "-keyout", key, "-out", certificate], self.env)
        return certificate.read_text(encoding="ascii"), key.read_text(encoding="ascii")

    def requests(self):
        return super().requests() + seed.more_requests(self.people, SUSPENDED)

    @property
    def keyspace(self):
        """The keyspace whose migrations are looked at."""
        return KEYSPACE

    def migrations(self):
        rows = self.cassandra.execute(f"SELECT subsystem, executed, pending FROM {self.keyspace}.schema_meta")
        return {row["subsystem"]: (sorted(row["executed"] or ()), sorted(row["pending"] or ())) for row in rows}

    def pending(self):
        return [name for name, (dummy, pending) in self.migrations().items() if pending]

    def migration_lock(self):
        rows = self.cassandra.execute(f"SELECT owner, ttl(owner) AS left FROM {KEYSPACE}.locks")
        return (rows[0]["owner"], rows[0]["left"]) if rows else None

    def kill_up(self, host, lock_timeout=60):
        """Leave a stale migration lock and a part of the migrations: `kong migrations up` is killed on `host` when it has
        recorded something."""
        before = self.pending()
        up = subprocess.Popen(
            [str(host.executable), "migrations", "up", "-c", str(host.conf), "--lock-timeout", str(lock_timeout)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.env,
            start_new_session=True)
        wait_for(lambda: self.pending() != before, 60, "`up` has recorded a migration", interval=0.01)
        os.killpg(up.pid, signal.SIGKILL)
        up.wait()
        return self.migration_lock()

    def down(self):
        for node in self.ring:
            node.forget()
        super().down()
        for node in self.ring:
            if node.process:
                node.process.wait()
