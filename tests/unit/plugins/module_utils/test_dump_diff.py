# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as the same entity in an older and a newer Kong."""

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _dump_diff


class Holding:
    """A database with these entities, by table and id."""

    def __init__(self, **has):
        self.has = {table: {entity["id"]: entity for entity in entities} for table, entities in has.items()}

    def tables(self, names=None):
        return sorted(self.has)

    def identified(self, table):
        return table != "others_notes"

    def holds(self, table):
        return bool(self.has[table])

    def count(self, table):
        return sum(entity.get("ttl") is None for entity in self.has[table].values())

    def every(self, table):
        return iter(self.has[table].values())

    def some(self, table, identities):
        return {identity: self.has[table][identity] for identity in identities if identity in self.has[table]}


@pytest.mark.parametrize("table, old, new, fields", [
    ("plugins", {"name": "acl", "run_on": "first", "config": {"whitelist": ["a"], "blacklist": None}},
     {"name": "acl", "config": {"allow": ["a"], "deny": None, "hide_groups_header": False}}, []),
    ("plugins", {"name": "acl", "config": {"whitelist": ["a"]}}, {"name": "acl", "config": {"allow": ["b"]}}, ["config"]),
    ("plugins", {"name": "acl", "config": {"whitelist": ["a"], "allow": ["b"]}}, {"name": "acl", "config": {"allow": ["a"]}}, []),
    ("plugins", {"name": "x", "config": {"whitelist": ["a"]}}, {"name": "x", "config": {"allow": ["a"]}}, ["config"]),
    ("services", {"updated_at": 1, "host": "a", "path": None}, {"updated_at": 2, "host": "a", "path": None, "tls_verify": None}, []),
    ("services", {"path": None}, {"path": "/set"}, ["path"]),
    ("services", {"path": "/set"}, {"path": None}, ["path"]),
    ("routes", {"path_handling": None, "paths": ["/b", "/a"]}, {"path_handling": "v0", "paths": ["/b", "/a"]}, []),
    ("routes", {"paths": ["/b", "/a"]}, {"paths": ["/a", "/b"]}, ["paths"]),
    ("upstreams", {"healthchecks": {"active": {"interval": 0}}}, {"healthchecks": {"active": {"interval": 0, "new": 1}}}, []),
    ("upstreams", {"healthchecks": {"active": {"interval": 0}}}, {"healthchecks": {"active": {"interval": 5}}}, ["healthchecks"]),
    ("consumers", {"tags": []}, {"tags": None}, []),
    ("basicauth_credentials", {"password": "hash"}, {"password": "hash of the hash"}, ["password"]),
])
def test_fields(table, old, new, fields):
    assert _dump_diff.differing(table, {"id": "1", **old}, {"id": "1", **new}) == fields


def test_what_is_told_and_what_is_left_out():
    old = Holding(
        consumers=[{"id": "1", "username": "a"}, {"id": "2", "username": "b"}], sessions=[{"id": "3"}], locks=[],
        keyauth_credentials=[{"id": "4", "key": "secret", "ttl": 9}, {"id": "5", "key": "secret"}], others_notes=[{"id": "6"}])
    new = Holding(consumers=[{"id": "1", "username": "z"}, {"id": "7", "username": "c"}], keyauth_credentials=[])
    found = _dump_diff.compare(old, new, 3)
    assert found["counts"] == {"consumers": {"old": 2, "new": 2}, "keyauth_credentials": {"old": 1, "new": 0}}
    assert found["number"] == 4 and found["not_compared"] == ["others_notes"]
    assert _dump_diff.told(found) == [
        "consumers a (1) is different in username", "consumers b (2) is missing", "consumers c (7) is extra", "1 more"]
    assert "secret" not in str(_dump_diff.compare(old, new, 9))
