# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Groups and hosts of an inventory: whether they are there, do not overlap, answer, and have what the variables ask for. Pure.

The survey is that of plan.py, Findings those of findings.py.
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils import findings

CLOCKS_APART = 2.0  # seconds by which two clocks may differ
GROUP_HELP = "put the %s hosts into it, or name their group in kong_upgrade_%s_group"


def check_limit(everyone, survey):
    """The one blocker of a run that has not all of the hosts, in a list; [] for one that has."""
    play_hosts, options = survey.get("play_hosts"), survey["options"]
    there = set(everyone if play_hosts is None else play_hosts)
    cut = [host for host in everyone if host not in there]
    found = findings.Findings()
    of_no_hop = sorted({"bootstrap", "restore"} & set(options["phases"]))
    if cut and options.get("hop") and of_no_hop:  # whose play has the hosts of the groups that the command line names
        found.block(
            "kong_upgrade_hops",
            "is given, and playbooks/%s.yml is about one hop alone" % of_no_hop[0],
            "leave it out, and name that hop: -e kong_upgrade_target_version=… -e kong_upgrade_blue_group=… -e kong_upgrade_green_group=…",
        )
    elif cut:
        found.block(
            ", ".join(cut),
            "not in this run: --limit cuts the groups",
            "run without --limit; a host that is dead for good goes into kong_upgrade_gone",
        )
    return found.blockers


def check_groups(groups, options, found, needed=("green", "lb")):
    """Groups that exist and do not overlap. Returns the batches, a list of {name, hosts}. needed: those that may not be empty."""
    names = {colour: options["%s_group" % colour] for colour in ("blue", "green", "lb")}
    for colour, group in names.items():
        if not groups[colour] and colour in needed:
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
                    host,
                    "is in batch %s but not in %s" % (name, options["blue_group"]),
                    "a batch holds old hosts alone: name a group in kong_upgrade_batches that has no others",
                )
            seen[host] = name
        of_blue = [host for host in hosts if host in groups["blue"]]
        if of_blue:  # else all of them are gone
            batches.append({"name": name, "hosts": of_blue})
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
        if seen.get("locked"):
            found.block(host, *seen["locked"])
        for name, path in (seen.get("not_there") or {}).items() if seen.get("install") == "tasks" else ():
            found.block(host, "%s is %s, and the controller has no such file" % (name, path), "correct the path")
    for host, seen in survey["lbs"].items():
        if seen.get("no_driver"):
            found.block(
                host,
                "there is no driver %s, so its load balancer was not looked at" % seen["no_driver"],
                "any load balancer does with kong_upgrade_driver: command, and commands of your own in kong_upgrade_commands",
            )
        elif seen.get("error"):
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
            "give it a value where the inventory has its variables, a secret in a vault there (--ask-vault-pass)"
            if sentence.endswith("is undefined")
            else "`ansible-doc -t role -e main bluegreen.kong.kong_upgrade` tells which there are and what they take",
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


def check_prefixes(survey, found):
    """blue and green never share a prefix on one machine: `kong start` would overwrite the other's configuration.

    Returns the hosts that share the one of a host before them; blue comes before green.
    """
    seen, sharing = {}, set()
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
                sharing.add(host)
            seen.setdefault(place, host)
    return sharing


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


def name_of(survey, host):
    """Name of a host on the load balancers."""
    return (survey["hosts"].get(host) or {}).get("name", host)


def frequency_of(gateway):
    """Seconds between two looks of a blue or green node into its database; 0 where there is no node."""
    gateway = gateway or {}
    settings = {**(gateway.get("settings") or {}), **((gateway.get("node") or {}).get("settings") or {})}
    return float(settings.get("db_update_frequency") or (5 if settings else 0))
