# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an upgrade stands, from the world alone: migrations, nodes, weights; and states that no phase can mend. Pure.

The survey and Findings are those of plan.py.
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge, weights


def where_it_stands(survey, servers, migrations, target):
    """What is already done, from the world alone."""
    hosts, groups = survey["hosts"], survey["groups"]

    def gateway(host):
        return (hosts.get(host) or {}).get("gateway") or {}

    shares = []
    for places in servers.values():
        for place in places.values():
            share = weights.share_of_green(place["now"], set(place["green"]))
            if share is not None:
                shares.append(share)
    blue_running = [h for h in groups["blue"] if gateway(h).get("running")]
    fenced = [h for h in groups["blue"] if gateway(h).get("fenced")]
    green_running = [h for h in groups["green"] if gateway(h).get("running")]
    green_open = [h for h in groups["green"] if (gateway(h).get("node") or {}).get("admin_open")]
    new, pending = migrations.get("new") or {}, migrations.get("pending") or {}
    stands = {
        "percent": round(min(shares), 1) if shares else 0.0,
        "percent_most": round(max(shares), 1) if shares else 0.0,
        "expanded": migrations.get("state") in ("up_to_date", "pending"),
        "new": sum(len(ids) for ids in new.values()),
        "pending": sum(len(ids) for ids in pending.values()),
        "blue_running": blue_running,
        "blue_fenced": fenced,
        "blue_left": [h for h in groups["blue"] if h not in fenced or gateway(h).get("running")],
        "green_running": green_running,
        "green_open": green_open,
        "staged": [
            h
            for h in groups["green"]
            if gateway(h).get("running")
            and ((gateway(h).get("node") or {}).get("version") or gateway(h).get("version")) == target
        ],
    }
    statuses = [
        place["status"].get(n, "") for places in servers.values() for place in places.values() for n in place["green"]
    ]
    stands["green"] = list(groups["green"])
    stands["green_up"] = bool(statuses) and all(str(s).upper().startswith(("UP", "NO CHECK")) for s in statuses)
    stands["started"] = bool(groups["green"]) and set(green_running) == set(groups["green"])
    stands["shifted"] = stands["percent"] >= 100
    stands["retired"] = stands["shifted"] and not stands["blue_left"]
    stands["finished"] = (
        stands["retired"] and stands["expanded"] and not stands["pending"] and set(green_open) == set(groups["green"])
    )
    stands["phase"] = next(
        (
            name
            for name, done in (
                ("expand", stands["expanded"]),
                ("start", stands["started"]),
                ("shift", stands["shifted"]),
                ("retire", stands["retired"]),
                ("finish", stands["finished"]),
            )
            if not done
        ),
        "done",
    )
    return stands


def check_state(survey, source, target, stands, found):
    """Half-way states that no phase can mend by itself."""
    migrations = survey["database"].get("migrations") or {}
    state = migrations.get("state")
    interrupted = overlap(migrations.get("pending"), reached(knowledge.new_in_up, source, target))
    if state == "needs_bootstrap":
        found.block("database", "holds no Kong schema (needs bootstrap)", "check that blue's database is meant")
    elif state == "legacy":
        found.block("database", "holds the schema of Kong 0.x", "upgrade to 1.5.1 first")
    elif state == "pending_and_new" and interrupted:
        found.block(
            "database",
            "`kong migrations up` of this upgrade was interrupted: %s wait for finish, %s did not run"
            % (brief(migrations.get("pending")), brief(migrations.get("new"))),
            "Kong cannot go on from there while blue serves: restore the dump in %s, or stop blue and run `kong migrations "
            "finish` and `up` by hand" % survey["options"]["backup_dir"],
        )
    elif state == "pending_and_new" and not survey["options"]["finish_leftovers"]:
        found.block(
            "database",
            "an earlier upgrade was never finished (%s) and new migrations wait" % brief(migrations.get("pending")),
            "run `kong migrations finish` with the version that blue runs, or set kong_upgrade_finish_leftovers: true",
        )
    if stands["green_open"] and not stands["finished"] and not stands["retired"]:
        found.block(
            ", ".join(stands["green_open"]),
            "green's Admin API is open before finish: what is written there can be lost",
            "stop these nodes: the start phase starts them with admin_listen = off",
        )
    down = [
        h
        for h in survey["groups"]["blue"]
        if h in survey["hosts"]
        and not survey["hosts"][h].get("error")
        and h not in stands["blue_running"]
        and h not in stands["blue_fenced"]
    ]
    if down and not stands["shifted"]:
        found.block(
            ", ".join(down),
            "no Kong is running there",
            "start it, or name it in kong_upgrade_gone if it is dead for good",
        )
    for host in stands["blue_running"]:
        gateway = survey["hosts"][host]["gateway"]
        if (gateway.get("node") or {}).get("database_reachable") is False:
            found.block(host, "Kong runs there but does not reach its database", "mend that first")
        if gateway.get("fence_possible") is False:
            found.block(host, "cannot be fenced: %s" % gateway.get("fence_problem"), "see kong_node, option fenced")


def check_way_back(options, source, target, stands, migrations, found):
    """Rollback ends at the point of no return: a begun finish, or green's Admin API open. Whether traffic may move."""
    if options["phases"] != ["rollback"]:
        return True
    if overlap(migrations.get("executed"), reached(knowledge.pending_after_up, source, target)):
        crossed = "`kong migrations finish` has run"
    elif stands["green_open"]:
        crossed = "green's Admin API is open (%s)" % ", ".join(stands["green_open"])
    else:
        return True
    found.block(
        "rollback",
        crossed + ": the point of no return is behind",
        "what is left is a restore of the dump in %s on %s, which loses what was written since"
        % (options["backup_dir"], options["database_host"]),
    )
    return False


def migrations_ahead(migrations, source, target):
    """What `up` will run and `finish` will do, by subsystem: [{subsystem, up, finish, rewrites}]; rewrites are those ids of finish that
    drop or rewrite data. Plugins that are not on take no part: `new` is what the database lacks of those that are."""
    new, pending = migrations.get("new") or {}, migrations.get("pending") or {}
    later = reached(knowledge.pending_after_up, source, target)
    rewrites = reached(knowledge.destructive_in_finish, source, target)
    found = []
    for name in sorted(set(new) | set(pending), key=lambda name: (name != "core", name)):
        finish = list(pending.get(name, [])) + [i for i in later.get(name, []) if i in new.get(name, [])]
        found.append(
            {
                "subsystem": name,
                "up": list(new.get(name, [])),
                "finish": finish,
                "rewrites": [i for i in finish if i in rewrites.get(name, [])],
            }
        )
    return found


def reached(table, source, target):
    """What a table of migrations says of this hop; {} where the versions are not known, which check_target tells."""
    try:
        return table(source, target) if source else {}
    except knowledge.KnowledgeError:
        return {}


def overlap(some, others):
    """Whether two tables of migrations, subsystem -> ids, have one in common."""
    return any(set(ids) & set((others or {}).get(name, [])) for name, ids in (some or {}).items())


def brief(ids):
    """`core: 012_213_to_220; acl: ...`, for a sentence."""
    return "; ".join("%s: %s" % (name, ", ".join(values)) for name, values in sorted((ids or {}).items()))
