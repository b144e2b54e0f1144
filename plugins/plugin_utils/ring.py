# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Cassandra behind Kong, as the plan judges it: whether all of it is there, agrees, keeps enough copies, and may be changed. Pure.

The survey is that of plan.py, Findings those of findings.py; its `database` is kong_datastore_info's answer.
"""

from __future__ import annotations

# What `kong migrations up` and `finish` need on the keyspace.
NEEDED = {"ALTER", "CREATE", "DROP", "MODIFY", "SELECT"}


def check(survey, found):
    """Blockers and warnings about the cluster of Cassandra."""
    database, keyspace = survey["database"], survey["database"]["keyspace"]
    nodes = database.get("nodes") or []
    silent = [node["address"] for node in nodes if not node["answers"]]
    if silent:
        found.block(
            "Cassandra",
            "%s of its %d nodes take no connection on port %s" % (", ".join(silent), len(nodes), database["port"]),
            "bring them back (nodetool status), or remove dead ones (nodetool removenode): a change of the schema needs every node; if "
            "only kong_upgrade_database_host cannot reach them, name another one",
        )
    if database.get("schema_agreed") is False:
        versions = sorted({"%(schema_version)s at %(address)s" % node for node in nodes})
        found.block(
            "Cassandra",
            "its nodes have different versions of the schema: %s" % "; ".join(versions),
            "wait, or restart the node that differs, until nodetool describecluster shows one version",
        )
    missing = sorted(NEEDED - set(database["permissions"])) if database.get("permissions") is not None else []
    if missing:
        found.block(
            "Cassandra",
            "the role %s lacks %s on keyspace %s" % (database["login_role"], ", ".join(missing), keyspace),
            "GRANT ALL PERMISSIONS ON KEYSPACE %s TO %s" % (keyspace, database["login_role"]),
        )
    check_copies((database.get("replication") or {}).get("factors") or {}, nodes, keyspace, found)


def check_copies(factors, nodes, keyspace, found):
    """Whether each row is there often enough to be read and written while a node is away. factors: {datacenter or "*": copies}."""
    for datacenter, copies in sorted(factors.items()):
        of_it = [node for node in nodes if datacenter in ("*", node["datacenter"])]
        if copies < min(3, len(of_it)):
            found.warn(
                "Cassandra",
                "keyspace %s has %d cop%s of each row%s on %d nodes: without one of them Kong and its migrations cannot read every row"
                % (keyspace, copies, "y" if copies == 1 else "ies", "" if datacenter == "*" else " in %s" % datacenter, len(of_it)),
                "raise its replication, and run nodetool repair, before the upgrade",
            )


def check_hosts(survey, found):
    """Whether snapshots can be taken, and clients be seen, on the host of every node."""
    options = survey["options"]
    blind = unseen(survey["cassandra_hosts"], survey["database"].get("nodes") or [])
    if not blind:
        return
    group = "put the host of every node into the group %s, with its kong_upgrade_nodetool" % options["cassandra_group"]
    if options["backup"] == "dump":
        found.later(
            "Cassandra", "no snapshot can be taken of all of it: %s" % "; ".join(blind), group + ", or choose another kong_upgrade_backup"
        )
    if not options["confirm_blue_gone"]:
        found.warn(
            "Cassandra",
            "it tells nobody who is connected to it, and not every node can be looked at on its host: %s" % "; ".join(blind),
            group + ", or finish will ask for kong_upgrade_confirm_blue_gone",
        )


def unseen(looks, nodes):
    """Why not every node is looked at on its own host: sentences, [] where all are. looks: {host: answer of cassandra_node_info}."""
    errors = ["%s: %s" % (host, look["error"]) for host, look in sorted(looks.items()) if "error" in look]
    seen = {look.get("host_id") for look in looks.values()}
    missing = [node["address"] for node in nodes if node["host_id"] not in seen]
    return errors + (["no host of the inventory is the node of Cassandra at %s" % ", ".join(missing)] if missing else [])


def clients(looks, nodes):
    """Who is connected to Cassandra, as sessions for proof.judge, and unseen()."""
    sessions = [
        dict(client, node=host) for host, look in sorted(looks.items()) for client in look.get("clients") or []
    ]
    return sessions, unseen(looks, nodes)


def told(database):
    """One line about the cluster, for the plan's summary; None for another datastore."""
    if database.get("kind") != "cassandra":
        return None
    factors = (database.get("replication") or {}).get("factors") or {}
    copies = ", ".join(str(n) if name == "*" else "%s in %s" % (n, name) for name, n in sorted(factors.items()))
    return "Cassandra %s: keyspace %s, %d node%s, replication %s, %s." % (
        database.get("server_version"),
        database.get("keyspace"),
        len(database.get("nodes") or []),
        "" if len(database.get("nodes") or []) == 1 else "s",
        copies or "unknown",
        "the schema is agreed on" if database.get("schema_agreed") else "the schema is NOT agreed on",
    )
