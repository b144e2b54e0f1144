# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the database has room for two clusters at once, and for the migration. Pure."""

from __future__ import annotations

BIG = 1 << 30  # bytes of a table that is worth a thought before `up` alters it


def look(database: dict, max_age: float, found) -> None:
    """Blockers and warnings about the database that both clusters will share.

    database: answer of kong_datastore_info with server, role, transactions and tables; what is missing is not judged.
    max_age: kong_upgrade_max_transaction_age, seconds. found: findings.Findings.
    """
    where = "database"
    if database.get("schema_create") is False and database.get("login_role") == database.get("role"):
        found.block(
            where,
            "the role %s may not create tables in the schema %s" % (database["role"], database["schema"]),
            "grant create on schema %s to %s, as its owner %s"
            % (database["schema"], database["role"], database.get("schema_owner")),
        )
    usable = (database.get("max_connections") or 0) - (database.get("reserved") or 0)
    if usable and 2 * (database.get("connections") or 0) > usable:
        found.warn(
            where,
            "%d of %d connections are in use, and green will want as many as blue" % (database["connections"], usable),
            "raise max_connections, or lower nginx_worker_processes or pg_max_concurrent_queries of green",
        )
    for limit in database.get("connection_limits") or []:
        if 2 * limit["connections"] > limit["limit"]:
            found.warn(
                where,
                "%d of the %d connections of the %s are in use, and green will want as many as blue"
                % (limit["connections"], limit["limit"], limit["of"]),
                "raise its CONNECTION LIMIT until blue is gone, or lower nginx_worker_processes or pg_max_concurrent_queries of green",
            )
    if database.get("direct") is False:
        found.warn(
            where,
            "it is reached through a pooler or an address translation, so its sessions do not show whose they are",
            "finish will ask for kong_upgrade_known_sessions or kong_upgrade_confirm_blue_gone; migrations need a session of their own, "
            "not a transaction pool",
        )
    for session in database.get("transactions") or []:
        if (session.get("age") or 0) > max_age:
            found.warn(
                where,
                "a transaction of %s (pid %s, %s) is open since %d s"
                % (
                    session.get("user"),
                    session.get("pid"),
                    session.get("application_name") or "no name",
                    session["age"],
                ),
                "let it end: `up` is not begun beside one older than kong_upgrade_max_transaction_age",
            )
    for table in database.get("tables") or []:
        if table["bytes"] > BIG:
            found.warn(
                where,
                "table %s has %.1f GB (about %d rows)"
                % (table["name"], table["bytes"] / BIG, table.get("rows_estimate") or 0),
                "`up` may take long to alter it: try it on a copy, and raise kong_upgrade_db_timeout and kong_upgrade_lock_timeout to that",
            )
