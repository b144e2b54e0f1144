# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The datastore on Cassandra: of the commands, and of a node."""

import json
import re
import time
import uuid

from . import cql_schema
from .cql import QUORUM, SERIAL, AsyncConnection, Connection, CqlError, Uuid, identifier, literal, no_host, resolve
from .datastore import CHANNEL, Datastore, DatastoreError, Rows
from .entities import ENTITIES, Entity, all_entities

LOCK_KEY = "migrations"
LOCK_SECONDS = 60
# A column that an interrupted run has left, or that has gone: told, and passed over.
PASSED_OVER = re.compile(r"Invalid column name \S+ because it conflicts with an existing column"
                         r"|Undefined column name|Column \S+ was not found in table")


def connect(settings, timeout, use=False):
    """A blocking connection, to the keyspace if ``use``; errors are told as the command tells them."""
    try:
        connection = Connection(settings, timeout)
    except CqlError as error:
        raise DatastoreError("[Cassandra error] %s" % error, error.code)
    if use:
        try:
            connection.use(settings["keyspace"])
        except CqlError as error:
            raise DatastoreError("[Cassandra error] %s" % no_host([(connection.address, error)]), error.code)
    return connection


class Cassandra(Datastore):
    kind, title, container = "cassandra", "Cassandra", "keyspace"

    def __init__(self, version, settings, timeout, complain):
        self.version, self.settings = version, resolve(settings.cassandra(), complain)
        self.name = self.settings["keyspace"]
        self.connection = connect(self.settings, timeout)

    def query(self, cql, *consistency):
        return self.connection.query(cql, *consistency)

    def state_rows(self):
        tables = {row["table_name"] for row in self.query(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s" % literal(self.name))}
        if tables:
            self.connection.use(self.name)
        rows = None
        if "schema_meta" in tables:
            rows = self.query("SELECT subsystem, last_executed, executed, pending FROM schema_meta "
                              "WHERE key = 'schema_meta'")
        return rows, "schema_migrations" in tables

    def create_tables(self):
        replication = {"class": self.settings["repl_strategy"]}
        if replication["class"] == "SimpleStrategy":
            replication["replication_factor"] = self.settings["repl_factor"]
        else:
            replication.update(self.settings["data_centers"])
        if not (self.version.has("uses_keyspace_first") and self._has_keyspace()):
            self.query("CREATE KEYSPACE IF NOT EXISTS %s WITH REPLICATION = %s" % (
                identifier(self.name), literal(replication)))
        self.connection.use(self.name)
        for statement in cql_schema.STATE_TABLES:
            self.query(statement.replace("%d", str(LOCK_SECONDS)))
        self.agree()

    def agree(self):
        deadline = time.monotonic() + self.connection.timeout
        while len({row["schema_version"] for table in ("local", "peers")
                   for row in self.query("SELECT schema_version FROM system.%s" % table)}) > 1:
            if time.monotonic() >= deadline:
                raise DatastoreError("failed to wait for schema consensus: timeout")
            time.sleep(0.02)

    def _has_keyspace(self):
        return bool(self.query("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s" % literal(self.name)))

    def take_lock(self, owner, seconds):
        return self.query("INSERT INTO locks (key, owner) VALUES (%s, %s) IF NOT EXISTS USING TTL %d" % (
            literal(LOCK_KEY), literal(owner), seconds), QUORUM)[0]["[applied]"]

    def lock_held(self):
        return bool(self.query("SELECT owner FROM locks WHERE key = %s" % literal(LOCK_KEY), SERIAL))

    def release_lock(self, owner):
        try:
            self.query("DELETE FROM locks WHERE key = %s IF owner = %s" % (literal(LOCK_KEY), literal(owner)), QUORUM)
        except CqlError as error:
            if error.code:
                raise
            # the server has gone, which the command says already; the row goes by itself

    def up(self, subsystem, name, warn):
        for statement in cql_schema.up(self.version, subsystem, name):
            try:
                self.query(statement)
            except CqlError as error:
                if not PASSED_OVER.search(str(error)):
                    raise
                warn("warn", "ignored error while running '%s' migration: %s (%s)" % (name, error, statement))

    def teardown(self, subsystem, name):
        cql_schema.teardown(subsystem, name)(self.connection)

    def record(self, subsystem, name, what):
        ids, name = "{%s}" % literal(name), literal(name)
        change = {
            "pending": "pending = pending + %s" % ids,
            "executed": "last_executed = %s, executed = executed + %s" % (name, ids),
            "teardown": "last_executed = %s, executed = executed + %s, pending = pending - %s" % (name, ids, ids),
        }[what]
        self.query("UPDATE schema_meta SET %s WHERE key = 'schema_meta' AND subsystem = %s" % (
            change, literal(subsystem)))

    def reset(self, say):
        self.query("DROP KEYSPACE IF EXISTS %s" % identifier(self.name))
        say("dropped '%s' keyspace" % self.name)

    def close(self):
        self.connection.close()


class CqlEntity(Entity):
    """An entity on Cassandra: arrays are sets but for these, what PostgreSQL has as jsonb is a text."""

    LISTS = ("hosts", "paths")
    MAPS = ("headers",)

    def columns(self):
        lives = "value" if self.name == "ratelimiting_metrics" else "created_at"  # a column beside the key
        names = ["TTL(%s) AS ttl" % lives if spec["kind"] == "ttl" else identifier(self.column(spec)) for spec in self.fields]
        return ", ".join(names + (["ws_id"] if self.in_workspace else []))

    def _unique(self):
        """The fields that from 2.1 on are stored as ``<workspace>:<value>``."""
        return cql_schema.UNIQUE.get(self.name, ()) if self.in_workspace else ()

    def _conditions(self, where, workspace):
        specs = {self.column(spec): spec for spec in self.fields}
        conditions = ["partition = %s" % literal(self.name)] if self.name in cql_schema.PARTITIONED else []
        for name, value in where.items():
            conditions.append("%s = %s" % (identifier(name), self._stored(specs[name], value, workspace)))
        return conditions

    def select(self, workspace, where=None, after=None, limit=None):
        conditions = self._conditions(where or {}, workspace)
        if self.in_workspace:
            conditions.append("ws_id = %s" % literal(Uuid(workspace)))
        return "SELECT %s FROM %s%s ALLOW FILTERING" % (
            self.columns(), self.name, " WHERE " + " AND ".join(conditions) if conditions else "")

    def cut(self, rows, after=None, limit=None):
        """Rows come in the order of their tokens, in one piece."""
        rows = sorted(rows, key=lambda row: str(row.get(self.key or "id")))
        return [row for row in rows if not after or row["id"] > after][:limit]

    def unique_fields(self, values):
        names = cql_schema.UNIQUE.get(self.name, ()) or ((self.unique,) if self.unique else ())
        return [{name: values[name]} for name in names if values.get(name)]

    def entity(self, row):
        row = dict(row)
        for spec in self.fields:
            name = self.column(spec)
            value = row.setdefault(name, None)
            kind = spec["kind"]
            if name in self._unique() and value and value.startswith("%s:" % row.get("ws_id")):
                row[name] = value[len(row["ws_id"]) + 1:]
            elif kind == "time" and value is not None:
                row[name] = int(value)
            elif kind == "json" and value is not None and name not in self.MAPS:
                row[name] = json.loads(value)
            elif kind == "jsons" and value is not None:
                row[name] = [json.loads(text) for text in value]
        return super().entity(row)

    def literal(self, spec, value):
        kind = spec["kind"]
        if value is None:
            return "NULL"
        if kind in ENTITIES:
            return literal(Uuid(value["id"] if isinstance(value, dict) else value))
        if kind == "uuid":
            return literal(Uuid(value))
        if kind == "array":
            return literal(value if spec["name"] in self.LISTS else set(value))
        if kind == "uuids":
            return literal({Uuid(item) for item in value})
        if kind == "json":
            return literal({k: set(v) for k, v in value.items()} if spec["name"] in self.MAPS else json.dumps(value))
        if kind == "jsons":
            return literal({json.dumps(item) for item in value})
        if kind == "time":
            return literal(int(value * 1000))
        return literal(value)

    def _stored(self, spec, value, workspace):
        if spec["name"] in self._unique() and value is not None:
            value = "%s:%s" % (workspace, value)
        return self.literal(spec, value)

    def insert(self, values, workspace, upsert=False):
        if self.name == "ratelimiting_metrics":  # what has counters cannot be inserted, nor a counter be set
            stored = [(spec["name"], self.literal(spec, values.get(spec["name"]))) for spec in self.fields if spec["kind"] != "ttl"]
            return "UPDATE %s SET %s WHERE %s" % (
                self.name, ", ".join("%s = %s" % pair for pair in stored if pair[0] == "value"),
                " AND ".join("%s = %s" % pair for pair in stored if pair[0] != "value"))
        columns = {"partition": literal(self.name)} if self.name in cql_schema.PARTITIONED else {}
        lifetime = ""
        for spec in self.fields:
            if spec["kind"] == "ttl":  # of the row, not in a column
                if values.get(spec["name"]):
                    lifetime = " USING TTL %d" % values[spec["name"]]
            elif spec["name"] == "cache_key":
                columns["cache_key"] = literal(self.cache_key(values, workspace))
            else:
                columns[identifier(self.column(spec))] = self._stored(spec, values.get(spec["name"]), workspace)
        if self.in_workspace:
            columns["ws_id"] = literal(Uuid(workspace))
        return "INSERT INTO %s (%s) VALUES (%s)%s" % (
            self.name, ", ".join(columns), ", ".join(columns.values()), lifetime)

    def update(self, key, values, workspace):
        sets = ["%s = %s" % (identifier(self.column(spec)), self._stored(spec, values[spec["name"]], workspace))
                for spec in self.fields if spec["name"] in values and spec["name"] != "id" and spec["kind"] != "ttl"]
        if any(spec["name"] == "updated_at" for spec in self.fields):
            sets.append("updated_at = %d" % (time.time() * 1000))
        return "UPDATE %s SET %s WHERE %s" % (self.name, ", ".join(sets), cql_schema.where(self.name, key))

    def delete(self, key):
        return "DELETE FROM %s WHERE %s" % (self.name, cql_schema.where(self.name, key))


class CassandraRows(Rows):
    prefix, alive = "[cassandra] ", "SELECT key FROM system.local"
    words_of_page, words_of_select = "could not execute page query: ", "could not execute selection query: "
    words_of_update = "could not execute update query: "
    limit = 32

    def __init__(self, version, settings):
        super().__init__(version, settings)
        self.target = resolve(settings.cassandra(), lambda level, text: None)

    def all_entities(self):
        return all_entities(self.version, self.settings.plugins(), CqlEntity)

    def connection(self):
        return AsyncConnection(self.target)

    def blocking(self):
        return connect(self.target, None, use=True)

    def now(self):
        return "SELECT toTimestamp(now()) AS now FROM system.local"

    def announce(self, node, keys):
        return ["INSERT INTO cluster_events (channel, at, node_id, id, data) VALUES (%s, toTimestamp(now()), %s, %s, %s)"
                % (literal(CHANNEL), Uuid(node), uuid.uuid4(), literal(key)) for key in keys]

    def announced(self, since):
        return "SELECT node_id, data, at FROM cluster_events WHERE channel = %s AND at > %d" % (
            literal(CHANNEL), since * 1000)
