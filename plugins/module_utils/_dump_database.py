# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `kong config db_export` leaves out or cannot do at all, read from the database and written as an export.

1.3 ... 2.0 leave basic-auth credentials out, 1.0 ... 1.2 have no export. A page of rows is in memory at a time.
"""

import json

from ansible_collections.bluegreen.kong.plugins.module_utils import _dump_repair
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DumpError

BASIC_AUTH = "basicauth_credentials"
# The entities of 1.0 ... 2.0, in the order in which one refers to another.
ENTITIES = (
    "services", "routes", "consumers", "certificates", "ca_certificates", "snis", "upstreams", "targets", "plugins", "acls", BASIC_AUTH,
    "hmacauth_credentials", "jwt_secrets", "keyauth_credentials", "oauth2_credentials", "oauth2_authorization_codes", "oauth2_tokens",
    "sessions", "acme_storage",
)  # fmt: skip
# Kong's own notes, and counters: no export of any version has them.
PASSING = _dump_repair.COUNTERS | frozenset(["apis", "cluster_ca", "cluster_events", "locks", "schema_meta", "tags", "ttls"])


def export(database):
    """A whole export.

    :param database: _entities.Entities of a database of Kong 1.0 ... 2.0.
    :returns: (iterator of lines, list of str: tables that it leaves out although they hold something).
    :raises DumpError: the database is of another version, or holds what 2.8 has no place for.
    """
    tables = database.tables()
    if "workspaces" in tables or "schema_meta" not in tables:
        raise DumpError(
            "%s is not a database of Kong 1.0 to 2.0: leave 'source' at kong for a newer one." % database.place.capitalize()
        )
    if "apis" in tables and database.holds("apis"):
        raise DumpError(
            "There are rows in the table apis of %s, which Kong 1.0 no longer serves and no export can hold: turn them into "
            "services and routes (kong migrations migrate-apis of Kong 1.x), or delete them." % database.place
        )
    unknown = [name for name in tables if name not in PASSING and name not in ENTITIES and database.holds(name)]
    return _whole(database, [name for name in ENTITIES if name in tables]), unknown


def _whole(database, tables):
    yield "_format_version: '1.1'\n"
    yield "_transform: false\n"
    for table in tables:
        yield from entities(database, table)


def entities(database, table):
    """The lines of one section; none where the table is empty."""
    first = True
    for row in database.every(table):
        if first:
            yield "%s:\n" % table
            first = False
        yield from _written(row)


def _written(row):
    """An entity in block style as far as its config, whose fields may have to be renamed; JSON, which is YAML, from there."""
    mark = "- "
    for key, value in row.items():
        if key == "config" and value:
            yield "%sconfig:\n" % mark
            for name, each in value.items():
                yield "    %s: %s\n" % (name, _scalar(each))
        else:
            yield "%s%s: %s\n" % (mark, key, _scalar(value))
        mark = "  "


def _scalar(value):
    return json.dumps(value, ensure_ascii=False)
