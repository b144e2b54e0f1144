# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether both colours mean one database, and whether it can be read, migrated and dumped from here. Pure.

The survey is that of plan.py, Findings those of findings.py.
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import green_conf, new_keyspace, ring


def check(survey, settings, found):
    """Blue uses one database, which the strategy upgrades, green would use the same, and it can be read. settings: kong.conf of green."""
    blues = {}
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway")
        if gateway and gateway.get("datastore"):
            blues.setdefault(address(gateway["datastore"]), []).append(host)
    if survey["options"].get("strategy") == "rolling" and len(blues) > 1:
        blues.pop("off ", None)  # data planes of hybrid mode
    if len(blues) > 1:
        found.block(
            survey["options"]["blue_group"],
            "blue nodes use several databases: %s"
            % "; ".join("%s on %s" % (a, ", ".join(h)) for a, h in sorted(blues.items())),
            "one cluster has one database",
        )
    if not blues:
        return
    blue = next(iter(blues))
    rolling = survey["options"].get("strategy") == "rolling"
    if blue.startswith("off ") and rolling:
        return  # DB-less: there is nothing to look at
    if blue.startswith("off "):
        found.block(
            survey["options"]["blue_group"],
            "blue is DB-less (database = off), which strategy blue_green does not upgrade",
            "set kong_upgrade_strategy: rolling, which needs no green hosts",
        )
        return
    on_cassandra = blue.startswith("cassandra ")
    if on_cassandra and rolling:
        found.block(
            survey["options"]["blue_group"],
            "its datastore is Cassandra, where strategy rolling was never tried",
            "set kong_upgrade_strategy: blue_green, with new hosts",
        )
        return
    for host, values in settings.items():
        gateway = survey["hosts"][host].get("gateway") or {}
        try:
            green = address(_conf.datastore(_conf.plain(values)))
        except ConfError as error:
            found.block(host, str(error), "correct kong_upgrade_settings")
            continue
        if new_keyspace.chosen(survey["options"]):
            continue  # which looks at it by itself
        if green != blue:
            found.block(
                host,
                "green would use another database than blue: %s, not %s" % (green, blue),
                "set kong_upgrade_strategy: new_keyspace if it is to have one of its own, else correct kong_upgrade_settings"
                if on_cassandra
                else "correct kong_upgrade_settings",
            )
        elif (
            gateway.get("conf")
            and ("cassandra_keyspace" if on_cassandra else "pg_database") in (gateway.get("settings") or {})
            and gateway.get("datastore")
            and address(gateway["datastore"]) != blue
        ):
            found.block(
                host,
                "its %s names another database than blue: %s, not %s"
                % (gateway["conf"], address(gateway["datastore"]), blue),
                "correct the file, or remove it: it is rendered from blue's settings",
            )
    if (
        survey["options"]["backup"] == "dump"
        and not on_cassandra
        and not survey["options"]["password_given"]
        and "pg_password" in green_conf.secrets_of_blue(survey)
    ):
        found.later(
            survey["options"]["database_host"],
            "pg_dump has no password",
            "set kong_upgrade_secret_settings.pg_password, or make the backup yourself and set kong_upgrade_backup: none",
        )
    error = survey["database"].get("error")
    if error:
        found.block(
            survey["options"]["database_host"], error, "the database must be readable from kong_upgrade_database_host"
        )
    elif on_cassandra:
        ring.check(survey, found)
        ring.check_hosts(survey, found)


def check_server(survey, todo, found):
    """Whether the database can be migrated and dumped from here."""
    database, options = survey["database"], survey["options"]
    if database.get("in_recovery"):
        found.block(
            "database",
            "%s:%s is a standby, which takes no writes" % (database["host"], database["port"]),
            "point pg_host at the primary",
        )
    dumps = "restore" in todo or ("backup" in todo and options["backup"] == "dump")
    if not dumps or not database.get("server_version_num"):
        return
    free = database.get("free_bytes")
    if free is not None and database.get("bytes") and free < database["bytes"]:
        found.warn(
            options["database_host"],
            "%s has %.1f GB left, and the database has %.1f GB"
            % (options["backup_dir"], free / 2**30, database["bytes"] / 2**30),
            "a dump is smaller, but make sure that there is room for it, or set kong_upgrade_backup_dir",
        )
    server = database["server_version_num"] // 10000
    for name, client in sorted((database.get("clients") or {}).items()):
        if client["major"] is None:
            problem = "%s is not installed" % name
        elif client["major"] < server:
            problem = "%s is of PostgreSQL %s, older than the server's %s" % (client["path"], client["major"], server)
        else:
            continue
        found.later(
            options["database_host"],
            problem,
            "install the client programs of PostgreSQL %s there, name their folder in kong_upgrade_pg_bin_dir, or choose "
            "another kong_upgrade_backup" % server,
        )


def address(datastore):
    if datastore.get("kind") == "postgres":
        names = ("host", "port", "database", "schema")
        return "postgres %s:%s/%s, schema %s" % tuple(datastore.get(name) for name in names)
    if datastore.get("kind") == "cassandra":
        # each node may name other contact points of one cluster
        return "cassandra keyspace %s, port %s" % (datastore.get("keyspace"), datastore.get("port"))
    return "%s " % datastore.get("kind")
