# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The apis of 0.x, which `kong migrations migrate-apis` moves to services and routes: counted, and what it says of each.

The command exits 0 with apis left that it skipped or failed to move, and the number that it prints of the failed ones is
that of the skipped ones (seen with real Kong 1.5.1). So the rows of the table `apis` are what counts.
"""

import re

from ansible_collections.bluegreen.kong.plugins.module_utils._postgres import identifier

TABLES = ("apis", "services", "routes")
_SKIPPED = re.compile(r"^migrating api '(?P<name>.+?)' skipped", re.M)
# what the server says of it may take several lines
_FAILED = re.compile(r"^migrating api '(?P<name>[^\n]+?)' failed \((?P<why>.*?)\)$", re.M | re.S)


def read(database):
    """What there is now: {"names": apis by name, or id where one has none; "counts": {apis, services, routes: int}}.

    A table that is not there counts as 0, as `apis` is in a database that 2.x has bootstrapped.

    :param database: Database of PostgreSQL.
    :raises DatabaseError: a table may not be read.
    """
    schema, there = identifier(database.schema()), database.tables(list(TABLES))
    names = []
    if "apis" in there:
        rows = database.query("select coalesce(name, id::text) as name from %s.apis order by 1" % schema)
        names = [row["name"] for row in rows]
    counts = {"apis": len(names)}
    for table in TABLES[1:]:
        rows = database.query("select count(*) as rows from %s.%s" % (schema, table)) if table in there else []
        counts[table] = int(rows[0]["rows"]) if rows else 0
    return {"names": names, "counts": counts}


def reasons(text):
    """Why apis were left, by what the command printed: {name: sentence}."""
    found = dict((match.group("name"), "skipped, for it has custom plugins") for match in _SKIPPED.finditer(text))
    for match in _FAILED.finditer(text):
        found[match.group("name")] = "failed: %s" % "; ".join(match.group("why").splitlines())
    return found


def told(before, after, text):
    """What a module returns of a run that read `before` and `after` (as from read()) and printed `text`.

    :returns: dict before, after (counts), migrated (names), left (list of {name, why}).
    """
    why = reasons(text)
    return {
        "before": before["counts"],
        "after": after["counts"],
        "migrated": [name for name in before["names"] if name not in after["names"]],
        "left": [{"name": name, "why": why.get(name, "not tried")} for name in after["names"]],
    }
