# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what the survey found to a plan: what is wrong, where the upgrade stands, what each phase will do.

Pure functions: they get plain dictionaries and return plain dictionaries. `build()` is the door.

The survey, as `survey.py` collects it:
  options    role variables that are the same for all hosts, defaults filled in
  groups     {"blue": [host], "green": [host], "lb": [host], "batches": {group: [host]}}
  hosts      {host: {"name": name on the load balancer, "gateway": fact of kong_version_facts or None,
                     "error": why there is none, "settings": overrides, "secret_settings": [keys],
                     "probed": whether kong_upgrade_probe is set, "unreached": why its kong does not reach the database}}
  lbs        {host: {"balancers": [...], "base": {server: weight}, "error": ..., "no_driver": a driver that does not exist, else None}}
  began, now seconds since the epoch by the controller's clock, before the first look and after the last
  database   kong_datastore_info's answer with server, migrations and clients, or {"error": why there is none}; {} if not asked
  new_database  the same of the keyspace or database that green is to use, with strategy new_keyspace; else {}
  backup     kong_backup_info's answer, or {"error": ...}; {} but for a restore
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils import (
    balancers,
    db,
    findings,
    green_conf,
    hazards,
    hops,
    inventory,
    knowledge,
    legacy,
    new_keyspace,
    path,
    releases,
    restore,
    ring,
    room,
    state,
    templates,
    weights,
    window,
)

# How the summary calls the run that it speaks of, by the entry point that only looks.
RUNS = {"": "This run", "plan": "upgrade.yml will do", "status": "Left to do", "report": "Left to do"}
FINISH_LEFT = "nothing but finish, which has a playbook of its own"
WINDOW_LEFT = "window, which playbooks/finish.yml takes"
# How the summary calls the state of the migrations, as seen by the target version.
SCHEMA = {
    "up_to_date": "up to date",
    "new": "not migrated yet",
    "pending": "migrated, not finished",
    "pending_and_new": "an earlier upgrade is not finished, and this one is not migrated yet",
    "needs_bootstrap": "none",
    "legacy": "of Kong 0.x",
}
DB_EXPORT_SINCE = "1.3.0"  # `kong config db_export` does not exist before


def build(survey: dict) -> dict:
    """The plan of one blue/green upgrade. Never raises for bad input: it is all in `blockers`."""
    found = findings.Findings(survey["options"]["looks"])
    windowed = survey["options"]["strategy"] == "downtime_window"
    if windowed:
        survey = dict(survey, options=window.options_of(survey["options"], found))
    options, groups = survey["options"], survey["groups"]
    everyone = groups["blue"] + groups["green"] + groups["lb"]
    batches = inventory.check_groups(groups, options, found)
    inventory.check_hosts(survey, found)
    inventory.check_clocks(survey, found)
    inventory.check_what_choices_need(survey, found)
    # What is found on a host that is blue as well is the work of its blue node: nothing is concluded from it about green.
    doubled = set(groups["blue"]) | inventory.check_prefixes(survey, found)
    groups = dict(groups, green=[host for host in groups["green"] if host not in doubled])
    survey = dict(survey, groups=groups)
    releases.check_commands(survey, found)
    source, kind = releases.version_of_blue(survey, found), state.kind_of_datastore(survey)
    way = path.find([source], options["target_version"], kind) if source else None
    target = releases.check_target(survey, way, found)
    releases.check_strategy(options, way, found)
    if windowed:
        window.check(survey, kind, found)
    # Of other versions nothing is known but that they were released.
    running = source if knowledge.versions().get(source, {}).get("openresty") else None
    green_conf.check_conf_files(survey, groups["blue"], running, found)
    of_blue = green_conf.settings_of_blue(survey, running, target, found)
    green_conf.check_agreement(survey, of_blue, found)
    settings = {
        host: green_conf.settings_of_green(host, survey, of_blue, target, found)
        for host in groups["green"]
        if host in survey["hosts"]
    }
    if windowed:  # green starts after finish: nothing is left that its Admin API could disturb
        for host, values in settings.items():
            values["admin_listen"] = survey["hosts"][host].get("admin_listen") or green_conf.admin_listen_later(host, survey)
    releases.check_templates(survey, found)
    releases.check_packages(survey, groups["green"], target, found)
    if not weights.are_steps(options["steps"]):
        found.block("kong_upgrade_steps", "is %s" % (options["steps"],), "percentages from 1 to 100, ascending, the last one 100")
    servers = balancers.servers_of(survey, found)
    balancers.check_everyone_served(servers, survey, found)
    balancers.check_ports(survey, settings, found)
    # What is new can only be told against a target that is known.
    moves = new_keyspace.chosen(options)
    migrations = (survey["new_database" if moves else "database"].get("migrations") or {}) if target else {}
    db.check(survey, settings, found)
    if moves:
        new_keyspace.replicate(survey, settings)
    leads_to = new_keyspace.check(survey, settings, found) if moves else None
    stands = state.where_it_stands(survey, servers, migrations, running, target)
    inventory.check_blue_is_there(groups, options, stands, found)
    stands["restored"] = bool((survey.get("backup") or {}).get("restored"))
    stands["blue_shut"] = new_keyspace.shut(survey) if moves else {}
    stands["crossed"] = bool(state.point_of_no_return(running, target, stands, {} if moves else migrations, kind))
    todo = phases_to_run(options, stands, found)
    state.check_age_of_backup(survey, running, target, stands, found)
    db.check_server(survey, todo, found)
    # Blue's schema is left as it is by strategy new_keyspace.
    state.check_state(dict(survey, database={}) if moves else survey, running, target, stands, found)
    apis = legacy.check(survey, target, found)
    balancers.check_counters(survey, todo, stands, found)
    balancers.check_conf_files(survey, servers, todo, found)
    if "expand" in todo:
        room.look(survey["database"], float(options["max_transaction_age"]), found)
    back = "rollback" in options["phases"]
    ahead = {"hazards": [], "checklist": []} if back else hazards.check(survey, running, target, stands, found)
    if "restore" in options["phases"] and kind == "cassandra":
        found.block("restore", "brings back a dump of PostgreSQL", state.by_hand(survey))
    elif "restore" in options["phases"]:
        restore.check(survey, running, target, stands, migrations, found)
    if state.check_way_back(survey, running, target, stands, {} if moves else migrations, found):
        balancers.check_base_weights(servers, todo, found)
    names = {colour: [inventory.name_of(survey, host) for host in groups[colour]] for colour in ("blue", "green")}
    for batch in batches:
        members = [inventory.name_of(survey, host) for host in batch["hosts"]]
        batch["servers"] = {lb: balancers.places_of(places, members, options) for lb, places in servers.items()}
    at = {
        lb: {colour: balancers.places_of(places, names[colour], options) for colour in ("blue", "green")}
        for lb, places in servers.items()
    }
    left = [batch for batch in batches if set(batch["hosts"]) & set(stands["blue_left"])]
    for before, batch in zip([None] + left, left):
        batch["after"] = before["hosts"] if before else []  # these must be gone before the batch begins
    frequency = max(
        [inventory.frequency_of(seen.get("gateway")) for seen in survey["hosts"].values()]
        + [float(values.get("db_update_frequency") or 5) for values in settings.values()]
        or [5.0]
    )
    later = {host: green_conf.admin_listen_later(host, survey) for host in groups["green"]}
    plan = {
        "source": source,
        "target": options["target_version"],
        "strategy": options["strategy"],
        "back": back,
        "datastore": survey.get("datastore") or {},
        "leads_to": leads_to,  # with strategy new_keyspace, a name of what green is to use
        "hosts": {colour: list(groups[colour]) for colour in ("blue", "green")},
        "names": names,
        "at": at,
        "batches": batches,
        "batches_left": left,
        "settings": settings,
        "admin_listen": later,
        "servers": servers,
        "steps": [
            step
            for step in options["steps"]
            if step > stands["percent"] + 0.5 or (step == 100 and "shift" in todo)
        ],
        "stands": stands,
        "left": todo,
        "todo": [] if options["looks"] else todo,
        "can_export": bool(source) and knowledge.compare(source, DB_EXPORT_SINCE) >= 0,
        # A node polls its database every db_update_frequency seconds: watched twice as long, none stays unseen.
        "proof_seconds": 2 * frequency,
        "migrations": {
            key: migrations.get(key) for key in ("state", "new", "pending", "executed", "lock", "fingerprint")
        },
        "apis": apis,
        "nodes": survey["database"].get("nodes"),
        "ring": ring.told(survey["database"]),
        "ahead": [] if moves else state.migrations_ahead(migrations, running, target, kind),
        "restore": survey.get("backup") or None,
        "path": way,
        "templates": templates.ahead(survey, running, target),
        "conf": green_conf.conf_ahead(survey, of_blue, settings, later, running, target, found),
        "hazards": ahead["hazards"],
        "checklist": ahead["checklist"],
        "blockers": found.blockers,
        "warnings": found.warnings,
        "missing": found.missing,
    }
    return completed(plan, survey, everyone)


def completed(plan, survey, everyone):
    """The plan with what it says: summary and refusal. everyone: the hosts that have to be in the run."""
    plan.update(blockers=findings.together(plan["blockers"]), warnings=findings.together(plan["warnings"]))
    cut = inventory.check_limit(everyone, survey)
    if cut:  # everything else would be a conclusion from hosts that were not looked at
        plan.update(cut=True, blockers=cut, warnings=[], todo=[], left=[], summary=[], refusal=findings.refusal(cut))
        return plan
    plan["summary"] = summary(plan, survey["options"])
    if survey["options"]["looks"]:  # a run holds the lock itself
        runs = dict.fromkeys(lb["at_work"] for lb in survey["lbs"].values() if lb.get("at_work"))
        plan["summary"] += ["At work now: %s." % run for run in runs]
        plan["interrupted"] = interrupted(plan, survey) if not runs else []
        plan["summary"] += plan["interrupted"]
    plan["refusal"] = findings.refusal(plan["blockers"])
    return plan


def interrupted(plan, survey):
    """What a run that ended before its time has left half-done, as sentences."""
    runs = dict.fromkeys(lb["interrupted"] for lb in survey["lbs"].values() if lb.get("interrupted"))
    lines = ["Interrupted: %s; the same command goes on from there." % run for run in runs]
    rolling = plan["strategy"] == "rolling"
    return lines + (state.half_rolled(survey) if rolling else state.half_done(survey, plan["batches"], plan["stands"]))


def phases_to_run(options, stands, found):
    """Phases of this run that have something to do, in order; blockers where one comes too early."""
    wanted = options["phases"]
    moves = new_keyspace.chosen(options)
    # Green is started on its own keyspace only when all of blue's configuration is in it.
    expanded = bool(stands["green_running"]) if moves else stands["expanded"]
    done = {
        "stage": stands["started"] or (stands["green"] and set(stands["staged"]) == set(stands["green"])),
        "backup": expanded,
        "expand": expanded,
        "transfer": expanded,
        "start": stands["started"] and stands["green_up"],
        # A run that was interrupted in its last soak has not seen its gate.
        "shift": stands["shifted"] and not (stands["unwatched"] and "shift" in wanted),
        "retire": stands["retired"],
        "window": stands["finished"],
        "finish": stands["finished"],
        "restore": stands["restored"],
        "rollback": stands["percent_most"] == 0
        and not (stands["green_running"] or stands["blue_fenced"] or stands["blue_shut"]),
    }
    needs = {"start": "transfer" if moves else "expand", "shift": "start", "retire": "shift", "finish": "retire", "window": "expand"}
    if "retire" in wanted and "start" not in wanted and not done["retire"] and not done["start"]:
        found.block(
            "phase retire",
            "needs every green node running and UP on every load balancer",
            "run playbooks/upgrade.yml, which starts them",
        )
    for phase in wanted:
        before = needs.get(phase)
        if before and before not in wanted and not done[before]:
            found.block(
                "phase %s" % phase,
                "comes after %s, which is not done" % before,
                "run playbooks/upgrade.yml, or that phase, first",
            )
    if "rollback" not in wanted and stands["finished"]:
        return []
    return [phase for phase in wanted if not done[phase]]


def summary(plan, options):
    """Lines that tell an operator where the upgrade stands and what this run does."""
    stands = plan["stands"]
    up, finish = ({row["subsystem"]: row[phase] for row in plan["ahead"] if row[phase]} for phase in ("up", "finish"))
    only_finish = options["looks"] and stands["retired"] and not stands["finished"]
    window_left = options["looks"] in ("status", "report") and plan["strategy"] == "downtime_window" and not stands["finished"]
    left = [*plan["left"], *([WINDOW_LEFT] if window_left and "window" not in plan["left"] else [])]
    bootstraps = new_keyspace.chosen(options) and plan["migrations"]["state"] == "needs_bootstrap"
    old, new = ("old", "rolled") if plan["strategy"] == "rolling" else ("blue", "green")
    lines = [
        "Kong %s -> %s, %s; %s serves %g %% of the traffic."
        % (plan["source"] or "?", plan["target"], plan["strategy"], new, stands["percent"]),
        "%s: %d of %d running, %d fenced; %s: %d of %d running."
        % (
            old,
            len(stands["blue_running"]),
            len(plan["names"]["blue"]),
            len(stands["blue_fenced"]),
            new,
            len(stands["green_running"]),
            len(plan["names"]["green"]),
        ),
        "Schema: %s%s%s%s."
        % (
            "none, DB-less" if plan["datastore"].get("kind") == "off" else SCHEMA.get(plan["migrations"]["state"], "not read"),
            "; `bootstrap` will make it, in green's own keyspace or database" if bootstraps else "",
            "; `up` will run %s" % state.brief(up) if up else "",
            "; `finish` will run %s" % state.brief(finish) if finish else "",
        ),
        "%s: %s." % (RUNS[options["looks"]], ", ".join(left) or (FINISH_LEFT if only_finish else "nothing to do")),
    ]
    if stands["unwatched"] and "shift" in left:
        lines.append("100 % is watched once more before blue is retired, for no run has watched it to the end.")
    if plan.get("ring"):
        lines.insert(2, plan["ring"])
    lines += hops.told(options)
    if plan.get("leads_to"):
        lines.append(new_keyspace.explained(plan["leads_to"], plan["datastore"]["keyspace"]))
    if (plan.get("apis") or {}).get("count"):
        moved = (plan["apis"]["count"], ", ".join(plan["apis"]["names"]))
        lines.append("Before `up`, `migrate-apis` makes a service and a route of each of %d apis: %s." % moved)
    return lines + ["Warning: %(where)s: %(what)s; %(do)s." % warning for warning in plan["warnings"]]
