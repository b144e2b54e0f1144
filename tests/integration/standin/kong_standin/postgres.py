# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The datastore on PostgreSQL: of the commands, and of a node."""

import contextlib
import uuid

from . import schema
from .datastore import CHANNEL, Datastore, DatastoreError, Rows
from .entities import all_entities
from .pg import AsyncConnection, Connection, PgError, quote

LOCK_KEY = "migrations"
EVENT_SECONDS = 3600


def connect(version, settings, timeout):
    """A blocking connection; errors are told as the command tells them."""
    try:
        return Connection(settings, timeout, version.scram)
    except PgError as error:
        text = str(error)
        if text.startswith(("don't know", "module ")):
            raise
        raise DatastoreError("[PostgreSQL error] failed to retrieve PostgreSQL server_version_num: " + text, error.code)


class Postgres(Datastore):
    kind, title, container = "postgres", "PostgreSQL", "database"

    def __init__(self, version, settings, timeout):
        self.version, self.settings, self.timeout = version, settings.database(), timeout
        self.name = self.settings["database"]
        self.connection = connect(version, self.settings, timeout)

    def query(self, sql):
        return self.connection.query(sql)

    def state_rows(self):
        try:
            there = self.query("SELECT to_regclass('schema_meta') IS NOT NULL AS meta, "
                               "to_regclass('schema_migrations') IS NOT NULL AS legacy")[0]
            rows = None
            if there["meta"]:
                rows = self.query("SELECT subsystem, last_executed, executed, pending FROM schema_meta "
                                  "WHERE key = 'schema_meta' ORDER BY subsystem")
        except PgError as error:
            raise DatastoreError("failed to check schema state: %s" % error, error.code)
        return rows, there["legacy"]

    def create_tables(self):
        try:
            self.query("BEGIN;" + schema.STATE_TABLES + "COMMIT;")
        except PgError:
            self.query("ROLLBACK")
            raise

    def agree(self):
        """There is one."""

    def take_lock(self, owner, seconds):
        return bool(self.query(
            "BEGIN; DELETE FROM locks WHERE ttl < CURRENT_TIMESTAMP;"
            "INSERT INTO locks (key, owner, ttl) VALUES (%s, %s, CURRENT_TIMESTAMP + interval '%d seconds') "
            "ON CONFLICT (key) DO NOTHING; COMMIT;"
            "SELECT 1 AS mine FROM locks WHERE key = %s AND owner = %s"
            % (quote(LOCK_KEY), quote(owner), seconds, quote(LOCK_KEY), quote(owner))))

    def lock_held(self):
        return bool(self.query("SELECT 1 AS held FROM locks WHERE key = %s AND ttl >= CURRENT_TIMESTAMP"
                               % quote(LOCK_KEY)))

    def release_lock(self, owner):
        sql = "DELETE FROM locks WHERE key = %s AND owner = %s" % (quote(LOCK_KEY), quote(owner))
        try:
            self.query(sql)
        except PgError:
            self.connection = connect(self.version, self.settings, self.timeout)
            self.query(sql)

    def up(self, subsystem, name, warn):
        sql = schema.up(subsystem, name, self.version)
        if sql:
            with self._rolled_back():
                self.query("BEGIN;\n" + sql + "\nCOMMIT;")

    def teardown(self, subsystem, name):
        with self._rolled_back():
            schema.teardown(subsystem, name)(self.connection, self.version)

    @contextlib.contextmanager
    def _rolled_back(self):
        try:
            yield
        except PgError:
            try:
                self.query("ROLLBACK")
            except PgError:
                pass  # the connection hangs or is gone, which the first error says already
            raise

    def record(self, subsystem, name, what):
        key, name = "'schema_meta', " + quote(subsystem), quote(name)
        if what == "pending":
            sql = ("INSERT INTO schema_meta (key, subsystem, pending) VALUES (%s, ARRAY[%s]) ON CONFLICT (key, "
                   "subsystem) DO UPDATE SET pending = array_append(schema_meta.pending, %s)" % (key, name, name))
        elif what == "executed":
            sql = ("INSERT INTO schema_meta (key, subsystem, last_executed, executed) VALUES (%s, %s, ARRAY[%s]) "
                   "ON CONFLICT (key, subsystem) DO UPDATE SET last_executed = EXCLUDED.last_executed, "
                   "executed = array_append(schema_meta.executed, %s)" % (key, name, name, name))
        else:
            sql = ("UPDATE schema_meta SET last_executed = %s, executed = array_append(executed, %s), "
                   "pending = array_remove(pending, %s) WHERE key = 'schema_meta' AND subsystem = %s"
                   % (name, name, name, quote(subsystem)))
        self.query(sql)

    def reset(self, say):
        self.query(
            "DO $reset$ DECLARE thing record; BEGIN FOR thing IN SELECT format('%I.%I', schemaname, tablename) AS name "
            "FROM pg_tables WHERE schemaname = current_schema() AND tableowner = current_user LOOP "
            "EXECUTE 'DROP TABLE IF EXISTS ' || thing.name || ' CASCADE'; END LOOP; "
            "FOR thing IN SELECT p.oid::regprocedure AS name FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner "
            "WHERE p.pronamespace = current_schema()::regnamespace AND r.rolname = current_user LOOP "
            "EXECUTE 'DROP FUNCTION IF EXISTS ' || thing.name || ' CASCADE'; END LOOP; END $reset$")

    def close(self):
        self.connection.close()


class PostgresRows(Rows):
    prefix, alive = "[postgres] ", "SELECT 1 AS alive"

    def all_entities(self):
        return all_entities(self.version, self.settings.plugins())

    def connection(self):
        return AsyncConnection(self.settings.database(), self.version.scram)

    def blocking(self):
        return connect(self.version, self.settings.database(), None)

    @property
    def limit(self):
        return self.settings.database()["max"] or 32

    def now(self):
        return "SELECT extract(epoch FROM CURRENT_TIMESTAMP)::float8 AS now"

    def announce(self, node, keys):
        rows = ", ".join("(%s, %s, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP + interval '%d seconds', %s, %s)" % (
            quote(str(uuid.uuid4())), quote(node), EVENT_SECONDS, quote(CHANNEL), quote(key)) for key in keys)
        return ["INSERT INTO cluster_events (id, node_id, at, expire_at, channel, data) VALUES " + rows]

    def announced(self, since):
        return ("SELECT node_id, data, extract(epoch FROM at)::float8 AS at FROM cluster_events WHERE channel = %s AND "
                "at > to_timestamp(%r) AND at <= CURRENT_TIMESTAMP ORDER BY at" % (quote(CHANNEL), since))
