# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kong's entities on Cassandra.

Some tables (services, routes, ...) have all their rows in one partition, others one row in each. What Kong's schema calls a record is
a text with JSON in it. From 2.1 on a unique value has the id of its workspace before it.
"""

import collections.abc
import datetime
import json
import math
import time
import uuid

from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra, _entities

# Ids in one question: each may be on another node.
BATCH = 100
# Columns that hold JSON, and sets whose members do.
RECORDS = {
    "plugins": ("config",), "upstreams": ("healthchecks",), "routes": ("sources", "destinations"), "vaults_beta": ("config",),
}  # fmt: skip
# Tables whose rows can have a time to live, with a column that always has it.
MORTAL = {
    "keyauth_credentials": "key", "oauth2_tokens": "access_token", "oauth2_authorization_codes": "code", "sessions": "session_id",
    "acme_storage": "key",
}  # fmt: skip
# Of these, columns that from 2.1 on hold the id of the workspace before the value.
UNIQUE = {
    "keyauth_credentials": ("key",), "oauth2_tokens": ("access_token", "refresh_token"), "oauth2_authorization_codes": ("code",),
}  # fmt: skip


class Rows(_entities.Entities):
    """Of the keyspace that the connection was opened for."""

    DEFAULT_WORKSPACE = "select id from %s where name = 'default'"

    def __init__(self, database):
        super(Rows, self).__init__(database)
        self._columns = {}

    def named(self, table):
        return self.database.table(table)

    def columns(self, table):
        """dict: name of a column -> its type, as CQL writes it."""
        if table not in self._columns:
            rows = self.database.query(
                "select column_name, type from system_schema.columns where keyspace_name = %s and table_name = %s",
                [self.database.store["keyspace"], table],
            )
            self._columns[table] = dict((row["column_name"], row["type"]) for row in rows)
        return self._columns[table]

    def identified(self, table):
        return "id" in self.columns(table)

    def holds(self, table):
        return bool(self.database.query("select * from %s limit 1" % self.database.table(table)))

    def count(self, table):
        # not count(*), for which Cassandra would read the whole table within one time-out
        left = "ttl(%s)" % _cassandra.identifier(MORTAL[table]) if table in MORTAL else "id"
        rows = self.database.rows("select id, %s as left from %s" % (left, self.database.table(table)))
        return sum(1 for row in rows if table not in MORTAL or row["left"] is None)

    def present(self, table, identities):
        return sum(len(self._these(table, "id", batch)) for batch in _batches(identities))

    def every(self, table):
        for row in self.database.rows("select %s from %s" % (self._selected(table), self.database.table(table))):
            yield self._entity(table, row)

    def some(self, table, identities):
        found = {}
        for batch in _batches(identities):
            for row in self._these(table, self._selected(table), batch):
                found[str(row["id"])] = self._entity(table, row)
        return found

    def stamped(self, table):
        """Iterator of the rows of a table whose rows can have a time to live: (dict column -> value of the driver's, without workspace;
        Moment)."""
        column = _cassandra.identifier(MORTAL[table])
        names = ", ".join(map(_cassandra.identifier, sorted(self.columns(table))))
        rows = self.database.rows(
            "select %s, writetime(%s) as written, ttl(%s) as seconds_left from %s" % (names, column, column, self.database.table(table))
        )
        for row in rows:
            written, left, workspace = row.pop("written"), row.pop("seconds_left"), row.pop("ws_id", None)
            for name in UNIQUE.get(table, ()):
                row[name] = without_workspace(row[name], workspace)
            yield row, _entities.Moment(written, None if left is None else time.time() + left)

    def take(self, table, row, moment):
        there = self.columns(table)
        values = dict((name, value) for name, value in row.items() if name in there and value is not None)
        if "ws_id" in there:
            values["ws_id"] = self.default_workspace()
            for name in UNIQUE.get(table, ()):
                if values.get(name):
                    values[name] = "%s:%s" % (values["ws_id"], values[name])
        lifetime = "" if moment.ends is None else " and ttl %d" % max(1, moment.ends - time.time())
        names = sorted(values)
        # of what has a time stamp each, Cassandra keeps what is younger
        self.database.write(
            "insert into %s (%s) values (%s) using timestamp %d%s" % (
                self.database.table(table), ", ".join(map(_cassandra.identifier, names)), ", ".join(["%s"] * len(names)),
                moment.written, lifetime,
            ),
            [values[name] for name in names],
        )  # fmt: skip
        return True

    def drop(self, table, identity, moment):
        self.database.write(
            "delete from %s using timestamp %d where id = %%s" % (self.database.table(table), moment.written), [identity])
        return True

    def _these(self, table, columns, identities):
        start = "select %s from %s where " % (columns, self.database.table(table))
        values = [uuid.UUID(identity) for identity in identities]
        if "partition" in self.columns(table):  # where Cassandra takes one id at a time, if sets are asked for
            return self.database.each(start + "partition = %s and id = %s", [(table, value) for value in values])
        return self.database.query(start + "id in (%s)" % ", ".join(["%s"] * len(values)), values)

    def _selected(self, table):
        names = [_cassandra.identifier(name) for name in sorted(self.columns(table), key=lambda name: (name != "id", name))]
        if table in MORTAL:
            names.append("ttl(%s) as ttl" % _cassandra.identifier(MORTAL[table]))
        return ", ".join(names)

    def _entity(self, table, row):
        entity = {}
        for name, value in row.items():
            if name in _entities.DERIVED or name == "api_id":
                continue
            kind = self.columns(table).get(name, "int")  # the seconds left are no column
            if name in RECORDS.get(table, ()):
                value = _record(value)
            elif kind == "timestamp" and value is not None:
                value = value.replace(tzinfo=datetime.timezone.utc).timestamp()
                value = value if table in _entities.PRECISE else math.floor(value)
            elif kind == "text":
                value = without_workspace(value, row.get("ws_id"))
            else:
                value = _plain(value)
            if kind == "uuid" and name.endswith("_id"):
                name = name[:-len("_id")]
            entity[name] = value
        return entity


def _batches(identities):
    return [identities[start:start + BATCH] for start in range(0, len(identities), BATCH)]


def _record(value):
    if value is None or isinstance(value, str):
        return None if value is None else json.loads(value)
    return [json.loads(each) for each in sorted(value)]


def without_workspace(value, workspace):
    """What a node sees of a text: the workspace before a unique value is not for it."""
    mark = "%s:" % workspace
    return value[len(mark):] if workspace and value is not None and value.startswith(mark) else value


def _plain(value):
    """A value of the driver's as JSON has it."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, collections.abc.Mapping):
        return dict((key, _plain(each)) for key, each in value.items())
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return sorted(_plain(each) for each in value)  # a set, which with the driver is a class of its own
