# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import findings, room

SOUND = {
    "max_connections": 100,
    "reserved": 3,
    "connections": 20,
    "schema_create": True,
    "login_role": "kong",
    "role": "kong",
    "schema": "public",
    "schema_owner": "postgres",
    "direct": True,
    "transactions": [{"pid": 7, "user": "report", "application_name": "psql", "age": 3.0}],
    "tables": [{"name": "routes", "bytes": 8192, "rows_estimate": 10}],
}
ROWS = [
    ({"connections": 60}, "warnings", "60 of 97 connections are in use"),
    (
        {"connection_limits": [{"of": "role kong", "limit": 10, "connections": 6}, {"of": "database kong", "limit": 99, "connections": 6}]},
        "warnings",
        "6 of the 10 connections of the role kong are in use",
    ),
    ({"schema_create": False}, "blockers", "the role kong may not create tables in the schema public"),
    ({"direct": False}, "warnings", "a pooler or an address translation"),
    (
        {"transactions": [{"pid": 7, "user": "report", "application_name": None, "age": 99.7}]},
        "warnings",
        "pid 7, no name) is open since 99 s",
    ),
    (
        {"tables": [{"name": "oauth2_tokens", "bytes": 3 << 30, "rows_estimate": 9000000}]},
        "warnings",
        "oauth2_tokens has 3.0 GB (about 9000000",
    ),
]


def look(database):
    found = findings.Findings()
    room.look(database, 10.0, found)
    return {"blockers": found.blockers, "warnings": found.warnings}


@pytest.mark.parametrize(
    "database",
    [
        SOUND,
        {},
        {**SOUND, "direct": None, "schema_create": None},
        {**SOUND, "login_role": "watcher", "schema_create": False},
    ],
)
def test_nothing_to_say(database):
    assert look(database) == {"blockers": [], "warnings": []}


@pytest.mark.parametrize("change, kind, words", ROWS, ids=[words for _change, _kind, words in ROWS])
def test_told(change, kind, words):
    found = look({**SOUND, **change})
    (row,) = found["blockers"] + found["warnings"]
    assert row in found[kind] and words in row["what"] and row["do"]
