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

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import conf_review, hazards, knowledge, path, room, weights
from ansible_collections.bluegreen.kong.plugins.plugin_utils.settings import MASK, effective

CLOCKS_APART = 2.0  # seconds by which two clocks may differ
LOCAL_STATUS = "127.0.0.1:8100"
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

    def block(self, where, what, do):
        self.blockers.append({"where": where, "what": what, "do": do})

    def later(self, where, what, do):
        """What stands in the way of an upgrade, and not of a look before everything for it is there."""
        if self.looks == "plan":
            self.warn(where, what, do + ", before upgrade.yml")
        else:
            self.block(where, what, do)

    def warn(self, where, what, do, hazard=None):
        self.warnings.append({"where": where, "what": what, "do": do, **({"hazard": hazard} if hazard else {})})


def build(survey: dict) -> dict:
    """The plan of one blue/green upgrade. Never raises for bad input: it is all in `blockers`."""
    found = Findings(survey["options"]["looks"])
    options, groups = survey["options"], survey["groups"]
    batches = check_groups(groups, options, found)
    check_hosts(survey, found)
    check_clocks(survey, found)
    source = version_of_blue(survey, found)
    target = check_target(survey, source, found)
    # Of other versions nothing is known but that they were released.
    running = source if knowledge.versions().get(source, {}).get("openresty") else None
    of_blue = settings_of_blue(survey, running, target, found)
    settings = {
        host: settings_of_green(host, survey, of_blue, target, found)
        for host in groups["green"]
        if host in survey["hosts"]
    }
    check_packages(survey, target, found)
    check_prefixes(survey, found)
    steps = options["steps"]
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[-1] != 100:
        found.block("kong_upgrade_steps", "is %s" % (steps,), "percentages from 1 to 100, ascending, the last one 100")
    check_what_choices_need(survey, found)
    servers = servers_of(survey, found)
    migrations = survey["database"].get("migrations") or {}
    check_database(survey, settings, found)
    stands = where_it_stands(survey, servers, migrations, target)
    check_blue_is_there(groups, options, stands, found)
    todo = phases_to_run(options, stands, found)
    check_server(survey, todo, found)
    check_state(survey, running, target, stands, found)
    check_counters(survey, todo, stands, found)
    if "expand" in todo:
        room.look(survey["database"], float(options["max_transaction_age"]), found)
    if not groups["green"]:
        for key in sorted(key for key, values in of_blue["values"].items() if len(values) > 1):
            found.later(
                ", ".join(of_blue["hosts"]),
                "blue nodes differ in %s" % key,
                "say which is right in kong_upgrade_settings of green",
            )
    ahead = check_hazards(survey, running, target, stands, found)
    if check_way_back(options, running, target, stands, migrations, found):
        check_base_weights(servers, todo, found)
    names = {colour: [name_of(survey, host) for host in groups[colour]] for colour in ("blue", "green")}
    for batch in batches:
        members = [name_of(survey, host) for host in batch["hosts"]]
        batch["servers"] = {lb: places_of(places, members, options) for lb, places in servers.items()}
    at = {
        lb: {colour: places_of(places, names[colour], options) for colour in ("blue", "green")}
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
        "ahead": migrations_ahead(migrations, running, target),
        "path": path.find([source], options["target_version"], kind_of_datastore(survey)) if source else None,
        "conf": conf_ahead(survey, of_blue, settings, running, target, found),
        "hazards": ahead["hazards"],
        "checklist": ahead["checklist"],
        "blockers": found.blockers,
        "warnings": found.warnings,
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
        own = own_words(name, gateway) if name != host else set()
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
            "; `up` will run %s" % brief({row["subsystem"]: row["up"] for row in plan["ahead"] if row["up"]})
            if plan["migrations"]["new"]
            else "",
            "; `finish` will run %s" % brief(finish) if finish else "",
        ),
        "%s: %s." % (RUNS[options["looks"]], ", ".join(plan["left"]) or "nothing to do"),
    ]
    return lines + ["Warning: %(where)s: %(what)s; %(do)s." % warning for warning in plan["warnings"]]


def refusal(blockers):
    """All blockers in one list."""
    lines = ["%d problem%s before the first change:" % (len(blockers), "" if len(blockers) == 1 else "s")]
    return lines + [
        "%(where)s: %(what)s. %(do)s." % dict(blocker, do=blocker["do"][:1].upper() + blocker["do"][1:])
        for blocker in blockers
    ]


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
                "its clock is at least %d s %s the controller's" % (max(behind, ahead), "behind" if behind > ahead else "ahead of"),
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


def check_target(survey, source, found):
    """The target version, None for one that is not known; blockers where the path or a green host does not lead there."""
    target = survey["options"]["target_version"]
    if not knowledge.versions().get(target, {}).get("target"):
        found.block(
            "kong_upgrade_target_version",
            "%s is no release of Kong Gateway OSS that this collection upgrades to" % (target or "empty"),
            "choose one, such as %s" % knowledge.newest_target(),
        )
        return None
    way = path.find([source], target, kind_of_datastore(survey)) if source else {"problems": [], "hops": []}
    for problem in way["problems"]:
        found.block("kong_upgrade_target_version", problem["what"], problem["do"])
    if len(way["hops"]) > 1:
        found.block(
            "kong_upgrade_target_version",
            "from %s it takes several hops: %s" % (source, " -> ".join([source] + [hop["to"] for hop in way["hops"]])),
            "upgrade to %s first; this version of the collection does one hop a run" % way["hops"][0]["to"],
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


def check_packages(survey, target, found):
    """Whether the package manager of a green host offers the target, where it is to install it by name."""
    for host in survey["groups"]["green"]:
        seen = survey["hosts"].get(host) or {}
        offered = (((seen.get("gateway") or {}).get("host") or {}).get("candidates") or {}).get("versions")
        named = seen.get("install") == "package" and seen["package"].split("=")[0] == "kong"
        if not named or offered is None or not target or (seen["gateway"] or {}).get("version") == target:
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
        found.block("kong_upgrade_accepted_hazards", "%s is no hazard that is known" % name, "take it out")
    gateways = {
        colour: {
            h: survey["hosts"][h]["gateway"]
            for h in survey["groups"][colour]
            if survey["hosts"].get(h, {}).get("gateway")
        }
        for colour in ("blue", "green")
    }
    over = stands["green_running"] or (stands["expanded"] and reached(knowledge.new_in_up, source, target))
    if not source or not target or over or knowledge.compare(source, target) > 0:
        return {"hazards": [], "checklist": []}
    green = {}
    for host in survey["groups"]["green"]:
        green.update(survey["hosts"].get(host, {}).get("settings") or {})
    # A green host whose command has the target's version, made of the right parts, is past all that.
    to_install = {host: gateway for host, gateway in gateways["green"].items() if not built_right(survey, host, target)}
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
            found.warn(hazard["where"], "%s: %s" % (hazard["id"], hazard["what"]), hazard["do"], hazard["id"])
    return ahead


# --- configuration ---------------------------------------------------------------------------------------------------


def settings_of_blue(survey, source, target, found):
    """What blue has set, as the target calls it, looked at once for all of green.

    Returns values {key: {value: [hosts]}}, places {key: [hosts]} of the values that hold the address, name or prefix of a blue host,
    secrets (set of keys), hosts, reviews [(hosts, what conf_review.review says of what they have set)].
    """
    blue = {"values": {}, "places": {}, "secrets": secrets_of_blue(survey), "hosts": [], "reviews": []}
    reviews = {}
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway")
        if not gateway:
            continue
        blue["hosts"].append(host)
        own = own_words(host, gateway)
        settings = effective(gateway, source)
        if source and target:
            alike = tuple(settings.items())
            if alike not in reviews:
                try:
                    reviews[alike] = ([], conf_review.review(settings, source, target))
                except ConfError as error:
                    found.block(host, str(error), "write it in another way in its kong.conf or its KONG_ variable")
                    continue
                blue["reviews"].append(reviews[alike])
            reviews[alike][0].append(host)
            settings = reviews[alike][1]["proposed"]
        for key, value in settings.items():
            if any(word in str(value) for word in own):
                blue["places"].setdefault(key, []).append(host)
            else:
                blue["values"].setdefault(key, {}).setdefault(str(value), []).append(host)
    return blue


def conf_ahead(survey, blue, settings, source, target, found):
    """What becomes of blue's kong.conf: the lists of conf_review.review, each entry with the hosts it concerns, and the difference between
    the first blue node's and the first green node's, or, without green, what is proposed for it. None where nothing is known."""
    if not blue["reviews"]:
        return None
    result = {}
    for name in ("removed", "renamed", "deprecated", "newly_read", "unknown", "changed_defaults"):
        entries = {}
        for hosts, review in blue["reviews"]:
            for entry in review[name]:
                same = entries.setdefault((entry["key"], entry["do"]), dict(entry, hosts=[]))
                same["hosts"] += hosts
        result[name] = list(entries.values())
    for name in ("removed", "newly_read", "unknown"):
        for entry in result[name]:
            found.warn(", ".join(entry["hosts"]), "%s in kong.conf" % entry["key"], entry["do"])
    first, review = blue["reviews"][0][0][0], blue["reviews"][0][1]
    green = next((host for host in survey["groups"]["green"] if host in settings), None)
    try:
        before = conf_review.shown(effective(survey["hosts"][first]["gateway"], source), source, target)
        after = conf_review.shown(settings[green], target) if green else review["proposed"]
    except ConfError as error:
        found.block(green, str(error), "correct kong_upgrade_settings")
        return dict(result, diff="")
    names = ("kong.conf of %s, Kong %s" % (first, source), "kong.conf of %s, Kong %s" % (green or "green", target))
    result["diff"] = conf_review.difference(before, after, *names)
    return result


def settings_of_green(host, survey, blue, target, found):
    """kong.conf of one green node: blue's settings (settings_of_blue), the operator's on top, and what the upgrade needs."""
    overrides = dict(survey["hosts"][host].get("settings") or {})
    secret = set(survey["hosts"][host].get("secret_settings") or [])
    chosen = set(overrides) | secret
    agreed = {key: next(iter(values)) for key, values in blue["values"].items() if key not in chosen}
    differing = [key for key in agreed if len(blue["values"][key]) > 1]
    places = {key: hosts for key, hosts in blue["places"].items() if key not in chosen}
    first = host == survey["groups"]["green"][0]
    for key, hosts in sorted(places.items()):
        if not target or knowledge.key_exists(target, key):
            found.block(
                host, "%s of %s names a blue host" % (key, hosts[0]), "set it for this host in kong_upgrade_settings"
            )
        agreed.pop(key, None)
    for key in sorted(differing) if first else []:
        found.block(
            ", ".join(blue["hosts"]), "blue nodes differ in %s" % key, "say which is right in kong_upgrade_settings"
        )
    result = dict(sorted({**agreed, **overrides}.items()))
    result["admin_listen"] = "off"
    result.setdefault("status_listen", LOCAL_STATUS)
    if str(result["status_listen"]).strip() == "off":
        result["status_listen"] = LOCAL_STATUS
    prefix = ((survey["hosts"][host].get("gateway") or {}).get("prefix")) or overrides.get("prefix")
    if prefix:
        result["prefix"] = prefix
    for key, value in overrides.items():
        if _conf.is_secret(key, str(value)):
            found.block(
                host, "%s in kong_upgrade_settings is a secret" % key, "put it into kong_upgrade_secret_settings"
            )
    own = (survey["hosts"][host].get("gateway") or {}).get("settings") or {}
    if survey["hosts"][host]["install"] != "tasks":
        for key in sorted(blue["secrets"] - secret - set(overrides) - set(own)):
            if not target or knowledge.key_exists(target, key):
                found.block(
                    host,
                    "no %s for green, while blue has one" % key,
                    "set kong_upgrade_secret_settings.%s (a vault), or put it into this host's kong.conf" % key,
                )
    return result


def secrets_of_blue(survey):
    """Names of the properties whose values are secrets on a blue node, so that they cannot be handed on to green."""
    found = set()
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
        for settings in (gateway.get("settings"), (gateway.get("node") or {}).get("settings")):
            found |= {key for key, value in (settings or {}).items() if value == MASK}
    return found


def own_words(host, gateway):
    """Strings that tie a value to one host: its addresses, its names, its prefix."""
    words = {host, gateway.get("nodename"), (gateway.get("prefix") or "").rstrip("/")}
    words.update(a for a in gateway.get("own_addresses") or [] if a not in ("127.0.0.1", "::1"))
    return {word for word in words if word and len(word) > 3}


# --- load balancers --------------------------------------------------------------------------------------------------


def servers_of(survey, found):
    """{lb: {"socket backend": {"socket", "backend", "blue": {server: base}, "green": {...}, "now": {server: weight}}}}.

    Base weights come from the run record, else from what the load balancer has now, as long as blue carries traffic.
    """
    groups, options = survey["groups"], survey["options"]
    colour = {}
    for which in ("blue", "green"):
        for host in groups[which]:
            colour[survey["hosts"].get(host, {}).get("name", host)] = (which, host)
    result = {}
    for lb, seen in survey["lbs"].items():
        result[lb] = {}
        if seen.get("error"):
            continue
        for process in seen.get("balancers") or []:
            check_process(lb, process, options, found)
            for server in process["servers"]:
                if server["name"] not in colour or (
                    options["backends"] and server["backend"] not in options["backends"]
                ):
                    continue
                key = "%s %s" % (process.get("socket", "command"), server["backend"])
                place = result[lb].setdefault(
                    key,
                    {
                        "socket": process.get("socket"),
                        "backend": server["backend"],
                        "blue": {},
                        "green": {},
                        "now": {},
                        "state": {},
                        "status": {},
                    },
                )
                place[colour[server["name"]][0]][server["name"]] = server["weight"]
                usable = server["admin_state"] == "ready"
                place["now"][server["name"]] = server["weight"] if usable else 0
                place["state"][server["name"]] = server["admin_state"]
                place["status"][server["name"]] = server["status"]
                check_health_check(lb, server, colour[server["name"]], survey, found)
            check_backends(lb, process, {place["backend"] for place in result[lb].values()}, found)
        for place in result[lb].values():
            base_weights(place, seen, options)
        for name, (which, host) in colour.items():
            if not any(name in place[which] for place in result[lb].values()):
                found.block(
                    lb,
                    "server %s of %s host %s is in no backend" % (name, which, host),
                    "add it there (green with weight 0), or set kong_upgrade_server_name of %s" % host,
                )
    return result


def places_of(places, names, options):
    """The names as one load balancer is to be told: "backend/server" where kong_upgrade_backends leaves some backends out."""
    if not options["backends"] or not all(place["socket"] for place in places.values()):
        return names
    return sorted(
        {
            "%s/%s" % (place["backend"], name)
            for place in places.values()
            for name in names
            if name in place["blue"] or name in place["green"]
        }
    )


def check_process(lb, process, options, found):
    """Whether this HAProxy lets itself be led."""
    if process.get("level") not in (None, "admin"):
        found.block(
            lb,
            "the runtime socket %s has level %s" % (process["socket"], process["level"]),
            "`stats socket ... level admin` in haproxy.cfg",
        )


def check_backends(lb, process, names, found):
    """Balancing that ignores weights set at run time, or clients that stick to a server, and what a reload undoes."""
    if "backends" not in process:
        return  # a user's own commands do not tell
    states = set()
    for name in sorted(names):
        backend = (process.get("backends") or {}).get(name) or {}
        if backend.get("weights") in ("static", "ignored"):
            found.block(
                lb,
                "backend %s balances by %s, which does not follow weights set at run time"
                % (name, backend.get("algo")),
                "use roundrobin, leastconn or random there",
            )
        sticky = backend.get("cookie") or (backend.get("stick") or {}).get("type")
        if sticky:
            found.warn(
                lb,
                "backend %s keeps clients on their server (%s)" % (name, sticky),
                "shares will lag behind the weights until those clients leave or blue is drained",
            )
        states.add(backend.get("load_state"))
    if names and (
        states == {"none"} or (process.get("state_file") is None and "global" not in states and "local" not in states)
    ):
        found.warn(
            lb,
            "a reload of HAProxy puts back the weights of its configuration",
            "set kong_upgrade_haproxy_conf_file, or server-state-file and load-server-state-from-file (docs/load_balancers.md)",
        )


def base_weights(place, seen, options):
    """Fills in the base weights of one backend."""
    recorded = {**(seen.get("base") or {}).get(place["backend"], {}), **options["base_weights"]}
    for which in ("blue", "green"):
        for name in place[which]:
            if name in recorded:
                place[which][name] = recorded[name]
    blue, green = place["blue"], place["green"]
    average = round(sum(blue.values()) / len(blue)) if blue else 100
    for name, weight in green.items():
        if not weight:
            green[name] = recorded.get(name) or average or 100


def check_base_weights(servers, todo, found):
    """Phases that move traffic need to know blue's original weights."""
    for lb, places in servers.items():
        for place in places.values():
            if {"shift", "rollback"} & set(todo) and place["blue"] and not any(place["blue"].values()):
                found.block(
                    lb,
                    "backend %s: every blue server has weight 0 and no record tells the original weights"
                    % place["backend"],
                    "set kong_upgrade_base_weights (server name: weight)",
                )


def check_counters(survey, todo, stands, found):
    """A step that shares the traffic has to be judged: by counters, or by requests of our own to green."""
    if "shift" not in todo or all(survey["hosts"].get(host, {}).get("probed") for host in survey["groups"]["green"]):
        return
    if not [step for step in survey["options"]["steps"] if stands["percent"] + 0.5 < step < 100]:
        return
    for lb, seen in survey["lbs"].items():
        if not all(process.get("counted", True) for process in seen.get("balancers") or []):
            found.block(
                lb,
                "has no counters, so nothing would tell how green does while both colours serve",
                "add the command counters to kong_upgrade_commands, set kong_upgrade_probe, or set kong_upgrade_steps to [100]",
            )


def check_health_check(lb, server, who, survey, found):
    """A check that points at the Admin API fails on green, whose Admin API stays shut until finish."""
    which, host = who
    gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
    port = server.get("check_port") or 0
    node = (gateway.get("node") or {}).get("listeners") or {}
    admin = {listener.get("port") for listener in node.get("admin") or gateway.get("admin_listeners") or []}
    if port and port in admin:
        found.block(
            lb,
            "the health check of %s/%s asks port %s, the Admin API of %s"
            % (server["backend"], server["name"], port, host),
            "let the check ask the proxy or the status listener: green's Admin API is shut until finish",
        )


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
        and "pg_password" in secrets_of_blue(survey)
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


# --- state -----------------------------------------------------------------------------------------------------------


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
