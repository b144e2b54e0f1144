# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a row of Cassandra means to Kong."""

import datetime
import uuid

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _entities_cassandra

ID, OTHER, WORKSPACE = (uuid.UUID("2fa1c1ac-1f5b-4b0a-9a4f-3cf3f2c0b00%d" % n) for n in (1, 2, 3))
MADE = datetime.datetime(2026, 11, 27, 12, 0, 0, 250000)
EPOCH = 1795780800
TYPES = {
    "id": "uuid", "created_at": "timestamp", "ws_id": "uuid", "consumer_id": "uuid", "custom_id": "text", "username": "text",
    "tags": "set<text>", "config": "text", "cache_key": "text", "sources": "set<text>", "paths": "list<text>",
    "headers": "map<text, frozen<set<text>>>", "key": "text", "weight": "int", "partition": "text", "left": "int",
}  # fmt: skip


class Database:
    """A keyspace with one table of these columns."""

    store = {"keyspace": "kong"}

    def __init__(self, rows):
        self.has, self.asked = rows, []

    def table(self, name):
        return "kong." + name

    def query(self, cql, values=None):
        if "system_schema" in cql:
            return [{"column_name": name, "type": TYPES[name]} for name in self.has[0] if name != "ttl"]
        self.asked.append((cql, values))
        return self.has

    def each(self, cql, many):
        self.asked.append((cql, many))
        return self.has

    def rows(self, cql, values=None):
        self.asked.append((cql, values))
        return iter(self.has)


@pytest.mark.parametrize("table, row, entity", [
    ("consumers", {"created_at": MADE, "username": "%s:alice" % WORKSPACE, "custom_id": None, "ws_id": WORKSPACE, "tags": {"b", "a"}},
     {"created_at": EPOCH, "username": "alice", "custom_id": None, "tags": ["a", "b"]}),
    ("consumers", {"username": "%s:alice" % WORKSPACE, "ws_id": None}, {"username": "%s:alice" % WORKSPACE}),
    ("targets", {"created_at": MADE, "weight": 100}, {"created_at": EPOCH + 0.25, "weight": 100}),
    ("plugins", {"consumer_id": OTHER, "config": '{"a": [1]}', "cache_key": "x"}, {"consumer": str(OTHER), "config": {"a": [1]}}),
    ("plugins", {"consumer_id": None, "config": None}, {"consumer": None, "config": None}),
    ("routes", {"partition": "routes", "sources": {'{"ip": "10.0.0.1"}'}, "paths": ["/b", "/a"], "headers": {"x": {"2", "1"}}},
     {"sources": [{"ip": "10.0.0.1"}], "paths": ["/b", "/a"], "headers": {"x": ["1", "2"]}}),
    ("keyauth_credentials", {"key": "k", "ttl": 99}, {"key": "k", "ttl": 99}),
])
def test_an_entity(table, row, entity):
    rows = _entities_cassandra.Rows(Database([{"id": ID, **row}]))
    assert list(rows.every(table)) == [{"id": str(ID), **entity}]
    assert rows.some(table, [str(ID)]) == {str(ID): {"id": str(ID), **entity}}


def test_what_has_a_time_to_live_is_not_counted():
    rows = _entities_cassandra.Rows(Database([{"id": ID, "key": "k", "left": 9}, {"id": OTHER, "key": "l", "left": None}]))
    assert rows.count("keyauth_credentials") == 1


def test_ids_are_asked_for_in_batches_and_one_by_one_in_a_partition():
    database = Database([{"id": ID, "username": "a"}])
    rows = _entities_cassandra.Rows(database)
    many = [str(uuid.uuid4()) for dummy in range(_entities_cassandra.BATCH + 1)]
    rows.present("consumers", many)
    assert [len(values) for dummy, values in database.asked] == [_entities_cassandra.BATCH, 1]
    database = Database([{"id": ID, "partition": "services"}])
    _entities_cassandra.Rows(database).present("services", many[:2])
    assert database.asked[0][1] == [("services", uuid.UUID(identity)) for identity in many[:2]]
