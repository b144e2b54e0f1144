# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The database of a 0.14.1: whether the target takes it over, what becomes of its apis, and what is left of such a hop. Pure.

The survey is that of plan.py, Findings those of findings.py.
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge


def queries(target) -> dict:
    """name -> {sql, needs} of the questions about apis, {} where the target moves none; see kong_datastore_info, option queries."""
    if not knowledge.takes_over_legacy(target):
        return {}
    bundled = ", ".join("'%s'" % name for name in sorted(knowledge.bundled_plugins(target)))
    name = "coalesce(a.name, a.id::text)"
    return {
        "apis": {"sql": "SELECT %s AS found FROM apis a ORDER BY 1" % name, "needs": ["apis.id", "apis.name"]},
        "apis_count": {"sql": "SELECT count(*) AS found FROM apis", "needs": ["apis.id"]},
        "apis_skipped": {
            "sql": "SELECT %s || ' (' || string_agg(p.name, ', ') || ')' AS found FROM apis a JOIN plugins p ON p.api_id = a.id "
            "WHERE p.name NOT IN (%s) GROUP BY a.name, a.id" % (name, bundled),
            "needs": ["apis.id", "apis.name", "plugins.api_id", "plugins.name"],
        },
        "apis_clashing": {
            "sql": "SELECT a.name AS found FROM apis a JOIN services s ON s.name = a.name",
            "needs": ["apis.name", "services.name"],
        },
    }


def check(survey, target, found) -> dict | None:
    """{"count", "names"} of the apis that the expand phase moves, None where it has nothing to see to; blockers where it cannot."""
    migrations = survey["database"].get("migrations") or {}
    if migrations.get("state") != "legacy":
        return None
    if not target or not knowledge.takes_over_legacy(target):
        stops = " or ".join(knowledge.legacy_targets())
        found.block("database", "holds the schema of Kong 0.x, which %s cannot read" % (target or "2.x"), "upgrade to %s first" % stops)
        return None
    check_complete(migrations, found)
    answers = survey["database"].get("answers") or {}
    rows = {name: (answers.get(name) or {}).get("found", []) for name in queries(target)}
    more = ["and more"] if (answers.get("apis") or {}).get("more") else []
    for api in rows["apis_skipped"]:
        found.block(
            "api %s" % api,
            "has plugins that are not Kong's own, and migrate-apis skips it",
            "make a service and a route of it by hand, with these plugins, and delete it",
        )
    for api in rows["apis_clashing"]:
        found.block("api %s" % api, "there is a service of that name already, and migrate-apis fails", "rename one of them")
    count = int((rows["apis_count"] or ["0"])[0])
    if not count and migrations.get("executed"):
        return None  # else migrate-apis has run already, and whether blue was refreshed cannot be told
    if count:
        found.warn(
            "%d api%s" % (count, "" if count == 1 else "s"),
            "until a blue node has been refreshed, within seconds of migrate-apis, it answers requests to an api that it has not served "
            "before without its plugins, authentication among them",
            "request each api on each blue node once before, without credentials, or choose a quiet moment",
        )
    return {"count": count, "names": rows["apis"] + more}


def check_complete(migrations, found):
    """A database that 1.x would call older than 0.14.1: of an older version, or one whose plugins were not all loaded."""
    executed = migrations.get("executed") or {}
    last = knowledge.legacy_migrations()
    missing = sorted(name for name, ids in last.items() if executed and ids not in executed.get(name, []))
    if missing:
        found.block(
            "database",
            "migrations of 0.14.1 are missing (%s): 1.x refuses it as older than 0.14.1" % ", ".join(missing),
            "run `kong migrations up` of 0.14.1 with plugins = bundled",
        )


def check_leftovers(migrations, source, target, found):
    """Pending migrations that the target does not know any more: its finish leaves them, and nothing can run them later."""
    known = knowledge.migrations_of(target) if target else None
    left = {
        name: [i for i in ids if i in knowledge.every_migration().get(name, []) and i not in known.get(name, [])]
        for name, ids in (migrations.get("pending") or {}).items()
        if known is not None
    }
    names = "; ".join("%s: %s" % (name, ", ".join(ids)) for name, ids in sorted(left.items()) if ids)
    if names:
        found.block(
            "database",
            "an earlier upgrade was never finished, and Kong %s does not know its pending migrations any more (%s)" % (target, names),
            "run `kong migrations finish` with Kong %s, when no older node is left" % (source or "1.5.1"),
        )
    return bool(names)
