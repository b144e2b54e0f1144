# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an upgrade stands, from the world alone: migrations, nodes, weights; and states that no phase can mend. Pure.

The survey is that of plan.py, Findings those of findings.py.
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge, legacy, new_keyspace, weights


def kind_of_datastore(survey):
    """postgres or cassandra, as the first blue node that tells has it, else what the role found; postgres where nothing tells."""
    for host in survey["groups"]["blue"]:
        datastore = ((survey["hosts"].get(host) or {}).get("gateway") or {}).get("datastore") or {}
        if datastore.get("kind") in knowledge.DATASTORES:
            return datastore["kind"]
    kind = (survey.get("datastore") or {}).get("kind")
    return kind if kind in knowledge.DATASTORES else "postgres"


def where_it_stands(survey, servers, migrations, source, target):
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
    windowed = survey["options"].get("strategy") == "downtime_window"
    # An `up` that was interrupted: what waits for finish is of this hop.
    interrupted = migrations.get("state") == "pending_and_new" and overlap(pending, reached(knowledge.new_in_up, source, target))
    stands = {
        "percent": round(min(shares), 1) if shares else 0.0,
        "percent_most": round(max(shares), 1) if shares else 0.0,
        "interrupted": interrupted,
        # once blue is stopped, the window does what is left of it
        "expanded": migrations.get("state") in ("up_to_date", "pending") or (windowed and interrupted),
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
    # Blue is quit, and green has no traffic yet, as every load balancer says: nobody is answered until the window goes on or back.
    stands["unread"] = [name for name, lb in survey["lbs"].items() if lb.get("error")]
    told = bool(servers) and not stands["unread"]
    stands["window_open"] = windowed and told and bool(fenced) and not blue_running and stands["percent_most"] == 0
    stands["green"] = list(groups["green"])
    stands["green_up"] = bool(statuses) and all(str(s).upper().startswith(("UP", "NO CHECK")) for s in statuses)
    stands["started"] = bool(groups["green"]) and set(green_running) == set(groups["green"])
    stands["shifted"] = stands["percent"] >= 100
    stands["unwatched"] = stands["shifted"] and untouched(survey, stands) and any(lb.get("unwatched") for lb in survey["lbs"].values())
    stands["retired"] = stands["shifted"] and not stands["blue_left"]
    stands["finished"] = (
        stands["retired"] and stands["expanded"] and not stands["pending"] and set(green_open) == set(groups["green"])
    )
    stands["phase"] = next(
        (
            name
            for name, done in (
                ("expand", stands["expanded"]),
                ("window", stands["finished"] or not windowed),
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


def untouched(survey, stands):
    """Whether retire has not begun: all of blue serves, and no load balancer has taken one of it out."""
    names = {survey["hosts"][host]["name"] for host in survey["groups"]["blue"] if host in survey["hosts"]}
    blue = survey["groups"]["blue"]
    return bool(blue) and stands["blue_running"] == blue == stands["blue_left"] and not names & taken_out(survey)


def taken_out(survey):
    """Names of the servers that a load balancer drains, or has in maintenance."""
    servers = [s for lb in survey["lbs"].values() for process in lb.get("balancers") or [] for s in process["servers"]]
    return {server["name"] for server in servers if (server.get("admin_state") or "ready") != "ready"}


def half_rolled(survey):
    """With strategy rolling, hosts of a batch that a run has taken out of service and not back, as sentences."""
    names = taken_out(survey)
    out = [host for host in survey["groups"]["cluster"] if survey["hosts"][host]["name"] in names]
    return ["Out of service on the load balancers: %s." % ", ".join(out)] if out else []


def half_done(survey, batches, stands):
    """Batches that a run has begun to retire and has not ended, as sentences."""
    out, found = taken_out(survey), []
    for batch in batches if stands["shifted"] else []:
        left = [host for host in batch["hosts"] if host in stands["blue_left"]]
        drained = [host for host in left if survey["hosts"][host]["name"] in out]
        gone = [host for host in batch["hosts"] if host not in left]
        if left and (drained or gone):
            parts = [("taken out of service", drained), ("stopped and fenced", gone)]
            told = ["%s: %s" % (what, ", ".join(hosts)) for what, hosts in parts if hosts]
            found.append("Batch %s is begun (%s)." % (batch["name"], "; ".join(told)))
    return found


def check_state(survey, source, target, stands, found):
    """Half-way states that no phase can mend by itself."""
    migrations = survey["database"].get("migrations") or {}
    state = migrations.get("state")
    if state == "needs_bootstrap":
        found.block("database", "holds no Kong schema (needs bootstrap)", "check that blue's database is meant")
    elif state == "legacy" and survey["options"].get("strategy") == "rolling":
        found.block(
            "database",
            "holds the schema of Kong 0.x, which old and new nodes share only in a blue/green hop",
            "set kong_upgrade_strategy: blue_green",
        )
    elif legacy.check_leftovers(migrations, source, target, found):
        pass  # whatever else the state is, that comes first
    elif stands["interrupted"] and kind_of_datastore(survey) == "cassandra":
        found.warn(
            "database",
            "`kong migrations up` was interrupted: %s wait for finish, %s did not run"
            % (brief(migrations.get("pending")), brief(migrations.get("new"))),
            "the run finishes the former, then runs the latter%s"
            % (", in the window" if survey["options"]["strategy"] == "downtime_window" else ", which nodes from 2.1 on bear"),
        )
    elif stands["interrupted"]:
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
    crossed = survey["options"].get("strategy") == "downtime_window" and state == "up_to_date"
    if stands["green_open"] and not stands["finished"] and not stands["retired"] and not crossed:
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
            found.block(
                host,
                "Kong runs there but does not reach its database",
                "mend that first; a Cassandra that was down is tried again within a minute"
                if kind_of_datastore(survey) == "cassandra"
                else "mend that first",
            )
        if gateway.get("fence_possible") is False:
            why = [] if gateway.get("version") else list(gateway.get("errors") or [])
            found.block(
                host,
                "cannot be fenced: %s" % "; ".join([str(gateway.get("fence_problem")), *why]),
                "name its kong command in kong_upgrade_executable" if why else "see kong_node, option fenced",
            )


def check_age_of_backup(survey, source, target, stands, found):
    """Where the schema is migrated and no node of the target runs, as after a rollback, no dump is made again: it would be one of the
    schema of the target. So what blue has written since is in none."""
    options = survey["options"]
    dumps = "backup" in options["phases"] and options["backup"] == "dump" and kind_of_datastore(survey) == "postgres"
    migrated = stands["expanded"] and reached(knowledge.new_in_up, source, target)
    if dumps and migrated and stands["blue_running"] and not stands["green_running"]:
        found.warn(
            "backup",
            "an earlier run has migrated the schema, and its dump in %s on %s stays the one that a restore brings back: what was written "
            "since is not in it" % (options["backup_dir"], options["database_host"]),
            "if that was long ago, make a dump of your own besides",
        )


def check_way_back(survey, source, target, stands, migrations, found):
    """Rollback ends at the point of no return: a begun finish, or green's Admin API open. Whether traffic may move."""
    options, kind = survey["options"], kind_of_datastore(survey)
    crossed = point_of_no_return(source, target, stands, migrations, kind)
    if options["phases"] != ["rollback"] or not crossed:
        return True
    found.block(
        "rollback",
        crossed + ": the point of no return is behind",
        "nobody is answered, and a window goes on where it was: run playbooks/finish.yml again, which starts green"
        if stands["window_open"]
        else by_hand(survey)
        if kind == "cassandra"
        else "what is left is playbooks/restore.yml: a restore of the dump in %s on %s, which loses what was written since, and tells it "
        "first" % (options["backup_dir"], options["database_host"]),
    )
    return False


def by_hand(survey) -> str:
    """What leads back on Cassandra once the point of no return is behind."""
    if new_keyspace.chosen(survey["options"]):
        return (
            "blue's keyspace %s is whole, and lacks what was written through green since: stop green, then playbooks/rollback.yml leads "
            "back to it: docs/cassandra.md, Back to the old keyspace" % (survey.get("datastore") or {}).get("keyspace")
        )
    return "what is left is to put the snapshots back by hand, which loses what was written since: docs/cassandra.md, Back to the snapshot"


def point_of_no_return(source, target, stands, migrations, kind="postgres") -> str:
    """What tells that it is behind; empty where it is not. A finish that drops and rewrites nothing leaves the way back open."""
    if overlap(migrations.get("executed"), reached(knowledge.destructive_in_finish, source, target, kind)):
        return "`kong migrations finish` has run"
    if stands["green_open"]:
        return "green's Admin API is open (%s)" % ", ".join(stands["green_open"])
    return ""


def migrations_ahead(migrations, source, target, kind="postgres"):
    """What `up` will run and `finish` will do, by subsystem: [{subsystem, up, finish, rewrites}]; rewrites are those ids of finish that
    drop or rewrite data. Plugins that are not on take no part: `new` is what the database lacks of those that are."""
    new, pending = migrations.get("new") or {}, migrations.get("pending") or {}
    later = reached(knowledge.pending_after_up, source, target, kind)
    rewrites = reached(knowledge.destructive_in_finish, source, target, kind)
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


def reached(table, source, target, *kind):
    """What a table of migrations says of this hop; {} where the versions are not known, which check_target tells."""
    try:
        return table(source, target, *kind) if source else {}
    except knowledge.KnowledgeError:
        return {}


def overlap(some, others):
    """Whether two tables of migrations, subsystem -> ids, have one in common."""
    return any(set(ids) & set((others or {}).get(name, [])) for name, ids in (some or {}).items())


def brief(ids):
    """`core: 012_213_to_220; acl: ...`, for a sentence."""
    return "; ".join("%s: %s" % (name, ", ".join(values)) for name, values in sorted((ids or {}).items()))
