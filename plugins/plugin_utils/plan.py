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
  lbs        {host: {"balancers": [...], "base": {server: weight}, "error": ...}}
  began, now seconds since the epoch by the controller's clock, before the first look and after the last
  database   kong_datastore_info's answer with server, migrations and clients, or {"error": why there is none}; {} if not asked
"""

from __future__ import annotations

import difflib

from ansible_collections.bluegreen.kong.plugins.plugin_utils import (
    balancers,
    green_conf,
    hazards,
    knowledge,
    path,
    room,
    state,
)

CLOCKS_APART = 2.0  # seconds by which two clocks may differ
LOOPBACK_ADMIN = "127.0.0.1:8001, 127.0.0.1:8444 ssl"
GROUP_HELP = "put the %s hosts into it, or name their group in kong_upgrade_%s_group"
# How the summary calls the run that it speaks of, by the entry point that only looks.
RUNS = {"": "This run", "plan": "upgrade.yml will do", "status": "Left to do"}
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


class Findings:
    """Collects blockers and warnings, each with the place and the way out."""

    def __init__(self, looks=""):
        self.looks = looks
        self.blockers = []
        self.warnings = []
        self.missing = 0  # what an upgrade needs and is not there yet

    def block(self, where, what, do):
        self.blockers.append({"where": where, "what": what, "do": do})

    def later(self, where, what, do):
        """What stands in the way of an upgrade, and not of a look before everything for it is there."""
        if self.looks:
            self.missing += 1
            self.warn(where, what, do + ", before upgrade.yml")
        else:
            self.block(where, what, do)

    def warn(self, where, what, do, section=None):
        """section: the one of the report that tells it already."""
        self.warnings.append({"where": where, "what": what, "do": do, "section": section})


def build(survey: dict) -> dict:
    """The plan of one blue/green upgrade. Never raises for bad input: it is all in `blockers`."""
    found = Findings(survey["options"]["looks"])
    options, groups = survey["options"], survey["groups"]
    batches = check_groups(groups, options, found)
    check_hosts(survey, found)
    check_clocks(survey, found)
    source = version_of_blue(survey, found)
    way = path.find([source], options["target_version"], kind_of_datastore(survey)) if source else None
    target = check_target(survey, way, found)
    # Of other versions nothing is known but that they were released.
    running = source if knowledge.versions().get(source, {}).get("openresty") else None
    of_blue = green_conf.settings_of_blue(survey, running, target, found)
    green_conf.check_agreement(survey, of_blue, found)
    settings = {
        host: green_conf.settings_of_green(host, survey, of_blue, target, found)
        for host in groups["green"]
        if host in survey["hosts"]
    }
    check_packages(survey, target, found)
    check_prefixes(survey, found)
    steps = options["steps"]
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[-1] != 100:
        found.block("kong_upgrade_steps", "is %s" % (steps,), "percentages from 1 to 100, ascending, the last one 100")
    check_what_choices_need(survey, found)
    servers = balancers.servers_of(survey, found)
    # What is new can only be told against a target that is known.
    migrations = (survey["database"].get("migrations") or {}) if target else {}
    check_database(survey, settings, found)
    stands = state.where_it_stands(survey, servers, migrations, target)
    check_blue_is_there(groups, options, stands, found)
    todo = phases_to_run(options, stands, found)
    check_server(survey, todo, found)
    state.check_state(survey, running, target, stands, found)
    balancers.check_counters(survey, todo, stands, found)
    if "expand" in todo:
        room.look(survey["database"], float(options["max_transaction_age"]), found)
    ahead = check_hazards(survey, running, target, stands, found)
    if state.check_way_back(options, running, target, stands, migrations, found):
        balancers.check_base_weights(servers, todo, found)
    names = {colour: [name_of(survey, host) for host in groups[colour]] for colour in ("blue", "green")}
    for batch in batches:
        members = [name_of(survey, host) for host in batch["hosts"]]
        batch["servers"] = {lb: balancers.places_of(places, members, options) for lb, places in servers.items()}
    at = {
        lb: {colour: balancers.places_of(places, names[colour], options) for colour in ("blue", "green")}
        for lb, places in servers.items()
    }
    left = [batch for batch in batches if set(batch["hosts"]) & set(stands["blue_left"])]
    for before, batch in zip([None] + left, left):
        batch["after"] = before["hosts"] if before else []  # these must be gone before the batch begins
    frequency = max(
        [frequency_of(seen.get("gateway")) for seen in survey["hosts"].values()]
        + [float(values.get("db_update_frequency") or 5) for values in settings.values()]
        or [5.0]
    )
    plan = {
        "source": source,
        "target": options["target_version"],
        "strategy": "blue_green",
        "datastore": survey.get("datastore") or {},
        "names": names,
        "at": at,
        "batches": batches,
        "batches_left": left,
        "settings": settings,
        "admin_listen": {host: admin_listen_later(host, survey) for host in groups["green"]},
        "servers": servers,
        "steps": [
            step
            for step in options["steps"]
            if step > stands["percent"] + 0.5 or (step == 100 and not stands["shifted"])
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
        "ahead": state.migrations_ahead(migrations, running, target),
        "path": way,
        "conf": green_conf.conf_ahead(survey, of_blue, settings, running, target, found),
        "hazards": ahead["hazards"],
        "checklist": ahead["checklist"],
        "blockers": found.blockers,
        "warnings": found.warnings,
        "missing": found.missing,
    }
    cut = check_limit(groups, survey.get("play_hosts"))
    if cut:  # everything else would be a conclusion from hosts that were not looked at
        plan.update(blockers=cut, warnings=[], todo=[], left=[], summary=[], refusal=refusal(cut))
        return plan
    plan["summary"] = summary(plan, options)
    plan["refusal"] = refusal(found.blockers)
    return plan


def check_what_choices_need(survey, found):
    """Variables that the value of another one makes necessary, and hosts that have to be of a group."""
    options = survey["options"]
    if survey["groups"]["green"] and options["runner"] not in survey["groups"]["green"]:
        found.block(
            "kong_upgrade_runner",
            "is %s, which is no host of %s" % (options["runner"] or "empty", options["green_group"]),
            "migrations run with green's command: name one of its hosts, or leave it out",
        )
    if options["backup"] == "external" and not options["backup_command_given"]:
        found.block("kong_upgrade_backup", "is external, but there is no kong_upgrade_backup_command", "set it")
    for host in survey["groups"]["green"]:
        seen = survey["hosts"].get(host, {})
        if seen.get("install") == "tasks" and not seen["install_tasks"]:
            found.block(host, "kong_upgrade_install is tasks, but there is no kong_upgrade_install_tasks", "set it")


def phases_to_run(options, stands, found):
    """Phases of this run that have something to do, in order; blockers where one comes too early."""
    wanted = options["phases"]
    done = {
        "stage": stands["started"] or (stands["green"] and set(stands["staged"]) == set(stands["green"])),
        "backup": stands["expanded"],
        "expand": stands["expanded"],
        "start": stands["started"] and stands["green_up"],
        "shift": stands["shifted"],
        "retire": stands["retired"],
        "finish": stands["finished"],
        "rollback": stands["percent_most"] == 0 and not stands["green_running"] and not stands["blue_fenced"],
    }
    needs = {"start": "expand", "shift": "start", "retire": "shift", "finish": "retire"}
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
    if wanted != ["rollback"] and stands["finished"]:
        return []
    return [phase for phase in wanted if not done[phase]]


def frequency_of(gateway):
    """Seconds between two looks of a blue or green node into its database; 0 where there is no node."""
    gateway = gateway or {}
    settings = {**(gateway.get("settings") or {}), **((gateway.get("node") or {}).get("settings") or {})}
    return float(settings.get("db_update_frequency") or (5 if settings else 0))


def name_of(survey, host):
    """Name of a host on the load balancers."""
    return (survey["hosts"].get(host) or {}).get("name", host)


def admin_listen_later(host, survey):
    """What green's Admin API listens on after finish: what green's or blue's configuration had, else loopback."""
    for name in [host] + survey["groups"]["blue"]:
        seen = survey["hosts"].get(name) or {}
        gateway = seen.get("gateway") or {}
        value = (seen.get("settings") or {}).get("admin_listen") if name == host else None
        value = (
            value
            or (gateway.get("settings") or {}).get("admin_listen")
            or ((gateway.get("node") or {}).get("settings") or {}).get("admin_listen")
        )
        own = green_conf.own_words(name, gateway) if name != host else set()
        if value and str(value).strip() != "off" and not any(word in str(value) for word in own):
            return value
    return LOOPBACK_ADMIN


def summary(plan, options):
    """Lines that tell an operator where the upgrade stands and what this run does."""
    stands = plan["stands"]
    finish = {row["subsystem"]: row["finish"] for row in plan["ahead"] if row["finish"]}
    lines = [
        "Kong %s -> %s, %s; green serves %g %% of the traffic."
        % (plan["source"] or "?", plan["target"], plan["strategy"], stands["percent"]),
        "blue: %d of %d running, %d fenced; green: %d of %d running."
        % (
            len(stands["blue_running"]),
            len(plan["names"]["blue"]),
            len(stands["blue_fenced"]),
            len(stands["green_running"]),
            len(plan["names"]["green"]),
        ),
        "Schema: %s%s%s."
        % (
            SCHEMA.get(plan["migrations"]["state"], "not read"),
            "; `up` will run %s" % state.brief({row["subsystem"]: row["up"] for row in plan["ahead"] if row["up"]})
            if plan["migrations"]["new"]
            else "",
            "; `finish` will run %s" % state.brief(finish) if finish else "",
        ),
        "%s: %s." % (RUNS[options["looks"]], ", ".join(plan["left"]) or "nothing to do"),
    ]
    return lines + ["Warning: %(where)s: %(what)s; %(do)s." % warning for warning in plan["warnings"]]


def refusal(blockers):
    """All blockers in one list."""
    lines = ["%d problem%s before the first change:" % (len(blockers), "" if len(blockers) == 1 else "s")]
    return lines + [
        "%s: %s %s" % (blocker["where"], ended(blocker["what"]), ended(blocker["do"][:1].upper() + blocker["do"][1:]))
        for blocker in blockers
    ]


def ended(text):
    """A sentence with one sign at its end."""
    text = text.rstrip(". ")
    return text if text.endswith(("?", "!")) else text + "."


# --- groups and hosts ------------------------------------------------------------------------------------------------


def check_limit(groups, play_hosts):
    """The one blocker of a run that has not all of the hosts, in a list; [] for one that has."""
    everyone = groups["blue"] + groups["green"] + groups["lb"]
    cut = [host for host in everyone if play_hosts is not None and host not in play_hosts]
    found = Findings()
    if cut:
        found.block(
            ", ".join(cut),
            "not in this run: --limit cuts the groups",
            "run without --limit; a host that is dead for good goes into kong_upgrade_gone",
        )
    return found.blockers


def check_groups(groups, options, found):
    """Groups that exist and do not overlap. Returns the batches, a list of {name, hosts}."""
    names = {colour: options["%s_group" % colour] for colour in ("blue", "green", "lb")}
    for colour, group in names.items():
        if not groups[colour] and colour != "blue":
            found.later(
                "inventory",
                "group %s is empty or missing" % group,
                GROUP_HELP % ({"lb": "load balancer"}.get(colour, colour), colour),
            )
    for host in sorted(set(groups["blue"]) & set(groups["green"])):
        found.block(
            host,
            "is in both %s and %s" % (names["blue"], names["green"]),
            "a host is either old or new: take it out of one",
        )
    if options["batches"]:
        return check_batches(groups, options, found)
    return [{"name": host, "hosts": [host]} for host in groups["blue"]]


def check_blue_is_there(groups, options, stands, found):
    """Only once it is retired may blue be empty: finish then proves by the database's sessions that nobody is left."""
    if groups["blue"] or (stands["retired"] and (options["looks"] or options["phases"] == ["finish"])):
        return
    found.block(
        "inventory",
        "group %s is empty or missing" % options["blue_group"],
        GROUP_HELP % ("blue", "blue") + "; once blue is retired, playbooks/finish.yml does without it",
    )


def check_batches(groups, options, found):
    batches, seen = [], {}
    for name in options["batches"]:
        hosts = [host for host in groups["batches"].get(name, []) if host not in options["gone"]]
        if name not in groups["batches"]:
            found.block("kong_upgrade_batches", "no inventory group is called %s" % name, "name groups that exist")
        elif not groups["batches"][name]:
            found.block("kong_upgrade_batches", "group %s is empty" % name, "take it out of the list")
        for host in hosts:
            if host in seen:
                found.block(host, "is in two batches: %s and %s" % (seen[host], name), "batches must not overlap")
            elif host not in groups["blue"]:
                found.block(
                    host, "is in batch %s but not in %s" % (name, options["blue_group"]), "batches partition blue"
                )
            seen[host] = name
        if hosts:  # else all of them are gone
            batches.append({"name": name, "hosts": hosts})
    for host in groups["blue"]:
        if host not in seen:
            found.block(
                host, "is in no batch of kong_upgrade_batches", "batches must cover all of %s" % options["blue_group"]
            )
    return batches


def check_hosts(survey, found):
    """Hosts that did not answer, and what the facts could not find there."""
    for host, seen in survey["hosts"].items():
        if seen.get("error"):
            found.block(
                host, seen["error"], "make it answer; a blue host that is dead for good goes into kong_upgrade_gone"
            )
        if seen.get("unreached"):
            found.block(
                host,
                "`kong migrations list` does not work there: %s" % seen["unreached"].rstrip("."),
                "look at the firewall, pg_hba.conf, TLS and the password in its kong.conf",
            )
    for host, seen in survey["lbs"].items():
        if seen.get("error"):
            found.block(host, seen["error"], "the load balancer must be under control before anything changes")
        if seen.get("locked"):
            found.block(host, *seen["locked"])
    for name, hosts in survey["uneven"].items():
        found.block(name, "is another on %s than on the first host" % ", ".join(hosts), "set it once, for all hosts")
    problems = {}
    for host, sentences in survey["invalid"].items():
        for sentence in sentences:
            problems.setdefault(sentence, []).append(host)
    for sentence, hosts in problems.items():
        everywhere = len(hosts) > 1 and set(hosts) >= set(survey["hosts"]) | set(survey["lbs"])
        found.block(
            "all hosts" if everywhere else ", ".join(hosts),
            sentence.rstrip("."),
            "`ansible-doc -t role -e main bluegreen.kong.kong_upgrade` tells which there are and what they take",
        )


def check_clocks(survey, found):
    """Clocks of hosts and database that are certainly not the controller's: each was read after the plan began and before now.

    Certificates, tokens, the time to live of locks and the times in logs depend on them.
    """
    told = {host: (seen.get("gateway") or {}).get("epoch") for host, seen in survey["hosts"].items()}
    told["database"] = survey["database"].get("epoch")
    for where, epoch in told.items():
        if epoch is None or survey.get("began") is None:
            continue
        behind, ahead = survey["began"] - epoch, epoch - survey["now"]
        if max(behind, ahead) > CLOCKS_APART:
            found.warn(
                where,
                "its clock is at least %d s %s the controller's"
                % (max(behind, ahead), "behind" if behind > ahead else "ahead of"),
                "let NTP set it, before certificates and locks are judged by it",
            )


def version_of_blue(survey, found):
    """The one version that all of blue runs; None when it cannot be told."""
    versions = {}
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway")
        if not gateway:
            continue
        node = gateway.get("node") or {}
        version = node.get("version") or gateway.get("version")
        if not version:
            found.block(
                host,
                "no Kong found: %s" % "; ".join(gateway.get("errors") or ["unknown version"]),
                "set kong_upgrade_executable, kong_upgrade_conf or kong_upgrade_prefix of this host",
            )
            continue
        if gateway.get("edition") == "enterprise":
            found.block(host, "runs Kong Enterprise (%s)" % version, "this collection upgrades Kong Gateway OSS")
        versions.setdefault(version, []).append(host)
    if len(versions) > 1:
        found.block(
            ", ".join(survey["groups"]["blue"]),
            "blue runs several versions: %s"
            % "; ".join("%s on %s" % (v, ", ".join(h)) for v, h in sorted(versions.items())),
            "bring blue to one version first",
        )
        return None
    return next(iter(versions), None)


def check_target(survey, way, found):
    """The target version, None for one that is not known; blockers where the way or a green host does not lead there.

    way: as path.find tells it; None where no version of blue is known.
    """
    target = survey["options"]["target_version"]
    problems, hops = (way["problems"], way["hops"]) if way else ([], [])
    known = knowledge.versions().get(target, {}).get("target")
    if not known and not problems:
        what = "%s is no release of Kong Gateway OSS that this collection upgrades to" % (target or "empty")
        problems = [{"what": what, "do": "choose one, such as %s" % knowledge.newest_target()}]
    for problem in problems:
        found.block("kong_upgrade_target_version", problem["what"], problem["do"])
    if not known:
        return None
    if len(hops) > 1:
        found.block(
            "kong_upgrade_target_version",
            "it takes several hops: %s" % " -> ".join([hops[0]["from"]] + [hop["to"] for hop in hops]),
            "upgrade to %s first; this version of the collection does one hop a run" % hops[0]["to"],
        )
    for host in survey["groups"]["green"]:
        seen = survey["hosts"].get(host) or {}
        gateway = seen.get("gateway")
        if not gateway or seen["install"] != "preinstalled":
            continue
        version = gateway.get("version")
        if not version:
            found.later(
                host,
                "no kong command found: %s" % "; ".join(gateway.get("errors") or []),
                "install Kong %s there, set kong_upgrade_executable, or choose kong_upgrade_install" % target,
            )
        elif version != target:
            found.block(
                host,
                "kong is %s, not the target %s" % (version, target),
                "install %s there, or set kong_upgrade_target_version" % target,
            )
        elif built_right(survey, host, target) is False:
            releases = knowledge.versions()[target]
            found.block(
                host,
                "its kong %s is built with nginx %s and would not start" % (target, gateway["openresty"]["nginx"]),
                "build it with OpenResty %s and lua-kong-nginx-module, or install the package" % releases["openresty"],
            )
    return target


def kind_of_datastore(survey):
    """postgres or cassandra, as the first blue node that tells has it; postgres where none does."""
    for host in survey["groups"]["blue"]:
        datastore = ((survey["hosts"].get(host) or {}).get("gateway") or {}).get("datastore") or {}
        if datastore.get("kind") in knowledge.DATASTORES:
            return datastore["kind"]
    return "postgres"


def built_right(survey, host, target):
    """Whether the kong command of a green host is made of what its version starts with; None where that is not known."""
    gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
    nginx = (gateway.get("openresty") or {}).get("nginx")
    if not nginx or gateway.get("version") != target:
        return None
    # nginx tells three of OpenResty's four numbers
    return any(known.startswith(nginx) for known in knowledge.versions()[target]["nginx"])


def by_name(seen):
    """Whether the package manager of a green host is to install Kong's own package by its name."""
    return seen.get("install") == "package" and seen["package"].split("=")[0] == "kong"


def check_packages(survey, target, found):
    """Whether the package manager of a green host offers the target, where it is to install it by name."""
    for host in survey["groups"]["green"]:
        seen = survey["hosts"].get(host) or {}
        offered = (((seen.get("gateway") or {}).get("host") or {}).get("candidates") or {}).get("versions")
        if not by_name(seen) or offered is None or not target or (seen["gateway"] or {}).get("version") == target:
            continue
        if not any(
            version == target or version.startswith(target + "-") or version.startswith(target + "+")
            for version in offered
        ):
            found.later(
                host,
                "the package manager has no package kong %s, but %s"
                % (target, ", ".join(offered[:3]) or "none at all"),
                "add Kong's repository for its distribution and renew the lists, or set kong_upgrade_package to a file",
            )


def check_prefixes(survey, found):
    """blue and green never share a prefix on one machine: `kong start` would overwrite the other's configuration."""
    seen = {}
    for colour in ("blue", "green"):
        for host in survey["groups"][colour]:
            gateway = (survey["hosts"].get(host) or {}).get("gateway")
            if not gateway:
                continue
            place = (gateway.get("machine"), gateway.get("prefix"))
            other = seen.get(place)
            if other and other != host:
                found.block(
                    host,
                    "shares the prefix %s with %s" % (gateway["prefix"], other),
                    "give each node its own kong_upgrade_prefix",
                )
            seen.setdefault(place, host)


# --- hazards ----------------------------------------------------------------------------------------------------------


def check_hazards(survey, source, target, stands, found):
    """What the way from source to target brings along on this cluster: {"hazards", "checklist"}; the grave ones are blockers.

    Once the schema serves both versions, the operator has been told.
    """
    accepted = survey["options"]["accepted_hazards"]
    for name in sorted(set(accepted) - set(knowledge.hazard_ids())):
        near = difflib.get_close_matches(name.upper(), knowledge.hazard_ids(), n=1, cutoff=0.7)
        hint = "; did you mean %s?" % near[0] if near else ""
        found.block(
            "kong_upgrade_accepted_hazards",
            "%s is no hazard that is known%s" % (name, hint),
            "correct it, or take it out",
        )
    gateways = {
        colour: {
            h: survey["hosts"][h]["gateway"]
            for h in survey["groups"][colour]
            if survey["hosts"].get(h, {}).get("gateway")
        }
        for colour in ("blue", "green")
    }
    over = stands["green_running"] or (stands["expanded"] and state.reached(knowledge.new_in_up, source, target))
    if not source or not target or over or knowledge.compare(source, target) > 0:
        return {"hazards": [], "checklist": []}
    green = {}
    for host in survey["groups"]["green"]:
        green.update(survey["hosts"].get(host, {}).get("settings") or {})
    # Where the operator brings Kong along, as a file or by other means, it is for them to know that it fits the system.
    to_install = {
        host: gateway
        for host, gateway in gateways["green"].items()
        if by_name(survey["hosts"][host]) and not built_right(survey, host, target)
    }
    ahead = hazards.find(
        gateways["blue"], survey["database"], source, target, green, to_install if survey["groups"]["green"] else None
    )
    for hazard in ahead["hazards"]:
        hazard["accepted"] = hazard["id"] in accepted
        if hazard["severity"] == "block" and not hazard["accepted"]:
            found.block(
                hazard["where"],
                "%s: %s" % (hazard["id"], hazard["what"]),
                "%s; once that is done, name it in kong_upgrade_accepted_hazards" % hazard["do"],
            )
        elif hazard["severity"] == "warn" and not hazard["accepted"]:
            found.warn(hazard["where"], "%s: %s" % (hazard["id"], hazard["what"]), hazard["do"], "hazards")
    return ahead


# --- database --------------------------------------------------------------------------------------------------------


def check_database(survey, settings, found):
    blues = {}
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway")
        if gateway and gateway.get("datastore"):
            blues.setdefault(address(gateway["datastore"]), []).append(host)
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
    if not blue.startswith("postgres "):
        found.block(
            survey["options"]["blue_group"],
            "blue's datastore is %s" % blue.split(" ")[0],
            "this version of the collection upgrades on PostgreSQL",
        )
        return
    for host, values in settings.items():
        gateway = survey["hosts"][host].get("gateway") or {}
        theirs = {key: values.get(key) for key in ("pg_host", "pg_port", "pg_database", "pg_schema", "database")}
        green = "%s %s:%s/%s, schema %s" % (
            theirs["database"] or "postgres",
            theirs["pg_host"] or "127.0.0.1",
            theirs["pg_port"] or 5432,
            theirs["pg_database"] or "kong",
            theirs["pg_schema"] or "public",
        )
        if green != blue:
            found.block(
                host,
                "green would use another database than blue: %s, not %s" % (green, blue),
                "correct kong_upgrade_settings",
            )
        elif (
            gateway.get("conf")
            and "pg_database" in (gateway.get("settings") or {})
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


def check_server(survey, todo, found):
    """Whether the database can be migrated and dumped from here."""
    database, options = survey["database"], survey["options"]
    if database.get("in_recovery"):
        found.block(
            "database",
            "%s:%s is a standby, which takes no writes" % (database["host"], database["port"]),
            "point pg_host at the primary",
        )
    if "backup" not in todo or options["backup"] != "dump" or not database.get("server_version_num"):
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
    return "%s %s" % (datastore.get("kind"), datastore.get("keyspace") or "")
