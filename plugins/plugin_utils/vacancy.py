# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether `kong migrations bootstrap` may fill what it is pointed at: an empty place, in which Kong's role may make tables. Pure.

`database` is kong_datastore_info's answer with server, role and objects; Findings are those of plan.py.
"""

from __future__ import annotations

SHOWN = 12  # names that a message lists


def where(database) -> str:
    """How messages name it."""
    if database.get("kind") == "cassandra":
        return "keyspace %s at %s" % (database["keyspace"], ", ".join(database["contact_points"]))
    return "schema %(schema)s of database %(database)s at %(host)s:%(port)s" % database


def check(database, other, found) -> None:
    """Blockers of a place that holds no Kong of 1.0 or newer. other: what to name instead of one that is not empty."""
    things = ["%(kind)s %(name)s" % row for row in database.get("objects") or []]
    if things:
        old = " (of a Kong before 1.0)" if database["migrations"]["state"] == "legacy" else ""
        found.block(where(database), "is not empty%s: %s" % (old, told(things)), "name %s" % other)
    elif database.get("kind") != "cassandra" and not may_create(database):
        found.block(
            where(database),
            "role %(role)s may not create tables in it" % database,
            "GRANT CREATE ON SCHEMA %(schema)s TO %(role)s, or make the role owner of the database" % database
            if database.get("schema_owner")
            else "GRANT CREATE ON DATABASE %(database)s TO %(role)s, or make the schema and give it to the role" % database,
        )


def check_primary(database, found) -> None:
    """A standby of PostgreSQL takes no writes."""
    if database.get("in_recovery"):
        found.block("database", "%(host)s:%(port)s is a standby, which takes no writes" % database, "point pg_host at the primary")


def may_create(database):
    """Whether Kong's role can make its tables, and before them the schema where there is none."""
    return database.get("schema_create") if database.get("schema_owner") else database.get("database_create")


def told(words) -> str:
    """A list for a sentence, cut where it is long."""
    words = list(words)
    return ", ".join(words[:SHOWN]) + (" and %d more" % (len(words) - SHOWN) if len(words) > SHOWN else "")
