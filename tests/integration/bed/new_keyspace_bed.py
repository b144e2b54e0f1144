# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Beds on Cassandra whose inventory asks for strategy new_keyspace."""

from .bed import POSTGRES_PORT, Bed
from .cassandra_bed import KEYSPACE, CassandraBed
from .postgres import DATABASE, ROLE

GREEN_KEYSPACE = "kong_2_8"


class NewKeyspaceBed(CassandraBed):
    """A bed whose green gets a keyspace of its own."""

    def _common_vars(self):
        return {**super()._common_vars(), "kong_upgrade_strategy": "new_keyspace"}

    def _host_vars(self, host):
        found = super()._host_vars(host)
        if host.colour == "green":
            found["kong_upgrade_settings"]["cassandra_keyspace"] = GREEN_KEYSPACE
        return found

    def start_playbook(self, *args, **more):
        self.cassandra.forget()  # a session of ours is one that no green node accounts for
        return super().start_playbook(*args, **more)

    def keyspaces(self):
        """Names of the keyspaces that are there."""
        return {row["keyspace_name"] for row in self.cassandra.execute("SELECT keyspace_name FROM system_schema.keyspaces")}

    @property
    def keyspace(self):
        """Green's, once it is there."""
        return GREEN_KEYSPACE if GREEN_KEYSPACE in self.keyspaces() else KEYSPACE


class LeavingBed(NewKeyspaceBed):
    """A bed whose blue is on Cassandra, and whose green gets a PostgreSQL."""

    def _start_database(self):
        super()._start_database()
        Bed._start_database(self)

    def _database_state(self):
        return {**Bed._database_state(self), **super()._database_state(), "postgres_password": self.postgres and self.postgres.password}

    def _attach_database(self, state):
        super()._attach_database(state)
        Bed._attach_database(self, {**state, "password": state["postgres_password"]})

    def _host_vars(self, host):
        found = CassandraBed._host_vars(self, host)
        if host.colour == "green":
            found["kong_upgrade_settings"].update(
                database="postgres", pg_host=self.postgres.address, pg_port=POSTGRES_PORT, pg_user=ROLE, pg_database=DATABASE)
        return found

    def green_secret_settings(self):
        """Both passwords: the old keyspace is read until the end."""
        return {**self.secret_settings(), "pg_password": self.postgres.password}

    def migrations(self):
        return Bed.migrations(self)
