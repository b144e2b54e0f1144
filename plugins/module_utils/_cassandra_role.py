# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kong's role and keyspace on Cassandra, made where they are missing, by an administrator."""

import contextlib

from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra, _conf
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError

NO_ROLES = (
    "Cassandra asks nobody for a login (authenticator: AllowAllAuthenticator in cassandra.yaml), so it has no roles. Set "
    "PasswordAuthenticator on every node, or do without a role and its password."
)


def make(params, check_mode):
    """Does what the module cassandra_role is documented to do; returns `made`. Raises KongError."""
    store, login = _cassandra.target(params, {})
    with contextlib.closing(_cassandra.connect(store, login)) as database:
        made = missing(database, params["name"])
        if "role" in made and not params["password"]:
            raise DatabaseError("The role %s is not there, and to make it takes a password." % params["name"])
        if made and not check_mode:
            _make(database, made, params)
    return made


def missing(database, name):
    """Which of role and keyspace are not there: list. :raises DatabaseError: Cassandra has no roles."""
    found = []
    try:
        database.query("list roles of %s" % _cassandra.identifier(name))
    except DatabaseError as error:
        if "not anonymous" in error.message:
            raise DatabaseError(NO_ROLES)
        if "doesn't exist" not in error.message:
            raise
        found.append("role")
    keyspace = database.store["keyspace"]
    if not database.query("select keyspace_name from system_schema.keyspaces where keyspace_name = %s", [keyspace]):
        found.append("keyspace")
    return found


def _make(database, made, params):
    name, keyspace = _cassandra.identifier(params["name"]), _cassandra.identifier(database.store["keyspace"])
    if "keyspace" in made:
        pairs = ", ".join("%s: %s" % (_literal(key), _literal(value)) for key, value in sorted(params["replication"].items()))
        database.write("create keyspace if not exists %s with replication = {%s}" % (keyspace, pairs), None)
        database.settle()
    if "role" in made:
        try:
            statement = "create role if not exists %s with login = true and password = %%s" % name.replace("%", "%%")
            database.write(statement, [params["password"]])
        except DatabaseError as error:
            raise DatabaseError(error.message.replace(params["password"], _conf.MASK))
    try:
        database.write("grant all permissions on keyspace %s to %s" % (keyspace, name), None)
    except DatabaseError as error:
        if "not supported by AllowAllAuthorizer" not in error.message:  # which lets everybody do everything
            raise


def _literal(value):
    """A text of CQL."""
    return "'%s'" % str(value).replace("'", "''")
