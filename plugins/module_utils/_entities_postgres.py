# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kong's entities on PostgreSQL."""

import collections.abc
import datetime
import json
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _entities, _postgres

PAGE = 1000
# Which table a column refers to, of those whose rows can have a time to live.
REFERENCES = {
    "consumer_id": "consumers", "credential_id": "oauth2_credentials", "plugin_id": "plugins", "service_id": "services",
}  # fmt: skip
# Seconds by which an end has to be later to count as later: Cassandra tells whole ones.
BLUR = 2


class Rows(_entities.Entities):
    """Of the schema that the connection has."""

    DEFAULT_WORKSPACE = "select id::text as id from %s where name = 'default'"

    def __init__(self, database):
        super(Rows, self).__init__(database)
        self._described = {}

    def named(self, table):
        return "%s.%s" % (_postgres.identifier(self.database.schema()), _postgres.identifier(table))

    def identified(self, table):
        return "id" in [name for name, dummy in self._fields(table)]

    def holds(self, table):
        return self.database.query("select exists (select 1 from %s) as e" % self.named(table))[0]["e"]

    def count(self, table):
        lasting = " where ttl is null" if "ttl" in [name for name, dummy in self._fields(table)] else ""
        return self.database.query("select count(*)::int as n from %s%s" % (self.named(table), lasting))[0]["n"]

    def present(self, table, identities):
        sql = "select count(*)::int as n from %s where id = any(%%s::text[]::uuid[])" % self.named(table)
        return self.database.query(sql, [identities])[0]["n"]

    def every(self, table):
        sql = self._select(table) + " where id > %s::uuid order by id limit %s"
        last = "00000000-0000-0000-0000-000000000000"
        while True:
            page = self.database.query(sql, [last, PAGE])
            for row in page:
                entity = json.loads(row["entity"])
                if entity.get("ttl") is None or entity["ttl"] > 0:  # Kong deletes what has run out when it comes to it
                    yield entity
            if len(page) < PAGE:
                return
            last = page[-1]["id"]

    def some(self, table, identities):
        rows = self.database.query(self._select(table) + " where id = any(%s::text[]::uuid[])", [identities])
        return dict((row["id"], json.loads(row["entity"])) for row in rows)

    def take(self, table, row, moment):
        """PostgreSQL keeps no time stamps: of two that were written, the one that ends later is the younger one. A row whose entity is not
        here, which Kong would remove, and one whose token or key is here under another id are not written."""
        there = [name for name, dummy in self._columns(table)]
        values = dict((name, value) for name, value in row.items() if name in there)
        values["ttl"] = None if moment.ends is None else datetime.datetime.fromtimestamp(moment.ends, datetime.timezone.utc)
        if "ws_id" in there:
            values["ws_id"] = self.default_workspace()
        names = [_postgres.identifier(name) for name in sorted(values)]
        here = ["true"] + [
            "(n.%s is null or n.%s in (select id from %s))" % (name, name, self.named(other))
            for name, other in sorted(REFERENCES.items()) if name in values
        ]
        return bool(self.database.write(
            "with new as (select n.* from json_populate_record(null::%(table)s, %%s::json) n where %(here)s),"
            " later as (update %(table)s t set %(set)s from new where t.id = new.id and t.ttl < new.ttl - interval '%(blur)d seconds'"
            " returning 1),"
            " made as (insert into %(table)s (%(names)s) select %(names)s from new on conflict do nothing returning 1)"
            " select ((select count(*) from later) + (select count(*) from made))::int as n"
            % {
                "table": self.named(table), "here": " and ".join(here), "names": ", ".join(names), "blur": BLUR,
                "set": ", ".join("%s = new.%s" % (name, name) for name in names),
            },
            [json.dumps(values, default=_text)],
        ))

    def drop(self, table, identity, moment):
        left = None if moment.ends is None else moment.ends - time.time() + BLUR
        return bool(self.database.write(
            "with gone as (delete from %s where id = %%s::uuid"
            " and (ttl is null or ttl <= current_timestamp + %%s::float8 * interval '1 second') returning 1)"
            " select count(*)::int as n from gone" % self.named(table),
            [str(identity), left],
        ))

    def _select(self, table):
        pairs = ", ".join("%s, %s" % (_postgres.literal(name), expression) for name, expression in self._fields(table))
        return "select id::text as id, json_build_object(%s)::text as entity from %s" % (
            pairs.replace("%", "%%"), self.named(table),
        )  # fmt: skip

    def _fields(self, table):
        """Name and SQL expression of each field of an entity, id first: list of (str, str)."""
        fields = []
        for name, kind in self._columns(table):
            expression = _postgres.identifier(name)
            if name in _entities.DERIVED or name == "api_id":
                continue
            if name == "ttl":
                expression = "ceil(extract(epoch from ttl - current_timestamp))::bigint"
            elif kind == "uuid" and name.endswith("_id"):
                name = name[:-len("_id")]
            elif kind.startswith("timestamp"):
                expression = "extract(epoch from %s)" % expression
                precise = table in _entities.PRECISE
                expression = "%s::float8" % expression if precise else "floor(%s)::bigint" % expression
            fields.append((name, expression))
        return fields

    def _columns(self, table):
        """Name and type of each column, id first: list of (str, str)."""
        if table not in self._described:
            rows = self.database.query(
                "select column_name::text as name, data_type::text as type from information_schema.columns"
                " where table_schema = %s and table_name = %s order by column_name <> 'id', ordinal_position",
                [self.database.schema(), table],
            )
            self._described[table] = [(row["name"], row["type"]) for row in rows]
        return self._described[table]


def _text(value):
    """What JSON has no word for, of a row of Cassandra's, as PostgreSQL reads it."""
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)).isoformat()
    return sorted(value) if isinstance(value, collections.abc.Set) else str(value)
