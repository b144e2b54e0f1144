# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the Cassandra behind Kong: its nodes, the keyspace and how it is kept, what our role may do. Reads only.

Who is connected is asked of no Cassandra: 3.x has no words for it. The module cassandra_node_info looks on each node's host.
"""

import contextlib
import re
import socket

from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra, _conf, _datastore
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError

ANSWER_TIMEOUT = 3  # seconds in which a node has to take a connection
# Words of Cassandra 3.0 ... 5.0 where everybody may do everything, or where nobody has to log in.
OPEN_TO_ALL = ("AllowAllAuthorizer", "not anonymous")


def look(params, dummy_run):
    """What the module kong_datastore_info returns as `datastore` of a Kong on Cassandra.

    :param params: the module's parameters; of gather, what there is no section for is left out.
    :returns: (dict, list of warnings).
    :raises KongError: Cassandra cannot be reached or read.
    """
    store, password = _cassandra.target(params, _conf.load(params.get("conf"))[0])
    with contextlib.closing(_cassandra.connect(store, password)) as database:
        found = {
            "kind": "cassandra",
            "driver": database.driver,
            "contact_points": store["contact_points"],
            "port": store["port"],
            "keyspace": store["keyspace"],
            "login_role": store["user"],
        }
        return found, _datastore.gather(found, database, dict(_datastore.COMMON, **SECTIONS), params)


def server(database):
    """Version and clock of the cluster, its nodes, and the keyspace: who has it, how many times, with which schema."""
    nodes = database.nodes()
    for node in nodes:
        node["answers"] = _answers(node["address"], database.store["port"])
    row = database.query(
        "select cluster_name, toUnixTimestamp(now()) as epoch, cql_version from system.local where key = 'local'"
    )[0]
    kept = database.query(
        "select replication from system_schema.keyspaces where keyspace_name = %s", [database.store["keyspace"]]
    )
    made = database.query(
        "select id from system_schema.tables where keyspace_name = %s and table_name = 'schema_meta'",
        [database.store["keyspace"]],
    )
    versions = sorted(set(node["version"] for node in nodes if node["version"]), key=_number)
    return {
        "cluster_name": row["cluster_name"],
        "server_version": versions[0] if versions else None,
        "nodes": nodes,
        "replication": _replication(dict(kept[0]["replication"])) if kept else None,
        "schema_agreed": len(set(node["schema_version"] for node in nodes)) == 1,
        "identity": str(made[0]["id"]) if made else None,
        "epoch": row["epoch"] / 1000.0,
    }


def _number(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def _answers(address, port):
    """Whether a node takes connections of clients, from here. Cassandra 3 tells nobody which of its nodes are up."""
    try:
        socket.create_connection((address, port), ANSWER_TIMEOUT).close()
    except (OSError, IOError):
        return False
    return True


def _replication(options):
    """{"class": ..., "factors": {datacenter: copies}}; SimpleStrategy knows no datacenters, its one key is "*"."""
    kind = options.pop("class").rpartition(".")[2]
    if "replication_factor" in options:
        options = {"*": options["replication_factor"]}
    # 4.0 may keep transient copies, as in "3/1"
    return {"class": kind, "factors": dict((name, int(str(n).partition("/")[0])) for name, n in options.items())}


def role(database):
    """What our role may do to the keyspace: list of permissions; None for whoever may everything (no authorizer, a superuser).

    Where it cannot be read it is None, too, with a warning.
    """
    user = database.store["user"]
    if user is None:
        return {"superuser": None, "permissions": None}
    try:
        superuser = any(row["super"] for row in database.query("list roles of %s" % _cassandra.identifier(user)))
        rows = database.query("list all permissions of %s" % _cassandra.identifier(user))
    except DatabaseError as error:
        unknown = {"superuser": None, "permissions": None}
        if any(words in str(error) for words in OPEN_TO_ALL):
            return unknown
        return dict(unknown, warnings=["what role %s may do is not known, and not judged: %s" % (user, error)])
    places = ("<all keyspaces>", "<keyspace %s>" % database.store["keyspace"])
    return {
        "superuser": superuser,
        "permissions": None if superuser else sorted(set(row["permission"] for row in rows if row["resource"] in places)),
    }


def tables(database):
    """Kong's tables, largest first, with their size and rows as one node estimates its share of them, times the nodes; and their bytes."""
    nodes = len(database.nodes())
    rows = database.query(
        "select table_name, mean_partition_size, partitions_count from system.size_estimates where keyspace_name = %s",
        [database.store["keyspace"]],
    )
    found = dict((name, {"name": name, "bytes": 0, "rows_estimate": 0}) for name in database.tables())
    for row in rows:
        table = found.get(row["table_name"])
        if table:
            table["bytes"] += row["mean_partition_size"] * row["partitions_count"] * nodes
            table["rows_estimate"] += row["partitions_count"] * nodes
    return {
        "tables": sorted(found.values(), key=lambda table: (-table["bytes"], table["name"])),
        "bytes": sum(table["bytes"] for table in found.values()),
    }


def counts(database):
    """Rows per table, exact, of every table that holds configuration; None for one that our role may not read or that is too big."""
    found = {}
    for name in database.tables():
        if name not in _datastore.VOLATILE:
            found[name] = count(database, name)
    return found


def count(database, name):
    """Rows of one table, None where they cannot be counted. One that is listed and not known has none: the node was killed while it made
    it."""
    try:
        return database.query("select count(*) as n from %s" % database.table(name))[0]["n"]
    except DatabaseError as error:
        return 0 if error.details.get("missing") else None


def answers(database, queries):
    """What the queries find that have words for Cassandra: name -> {found, more} or None, as _datastore.answers() has it.

    :param queries: dict: name -> {cql, needs}. The statement has {keyspace} in it and returns one column, `found`; as CQL has no
        distinct of such a column, what is found twice is told once.
    """
    present = set(database.tables())
    told = {}
    for name, query in sorted(queries.items()):
        told[name] = None
        if "cql" in query and present.issuperset(need.split(".")[0] for need in query.get("needs") or []):
            rows = database.query(query["cql"].format(keyspace=_cassandra.identifier(database.store["keyspace"])))
            found = sorted(set(str(row["found"]) for row in rows if row["found"] is not None))
            told[name] = {"found": found[:_datastore.ANSWERS], "more": len(found) > _datastore.ANSWERS}
    return told


# Of gather, what is asked of Cassandra.
SECTIONS = {
    "server": lambda database, params: server(database),
    "role": lambda database, params: role(database),
    "tables": lambda database, params: tables(database),
    "counts": lambda database, params: {"counts": counts(database)},
    "answers": lambda database, params: {"answers": answers(database, params["queries"] or {})},
}
