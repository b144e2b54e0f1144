# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several hops in one run (kong_upgrade_hops): which of them are behind, and what stands in the way of those to come. Pure.

Green of one hop is blue of the next. Only nodes are looked at here; each hop has a plan of its own, made when it begins.
"""

from __future__ import annotations

import difflib

from ansible_collections.bluegreen.kong.plugins.plugin_utils import findings, path, weights

# What a hop may have of its own, by the variable of the role that it stands for.
OWN = ("batches", "steps", "soak", "accepted_hazards")
# What each hop has of its own, always.
THE_HOPS = ("target_version", "blue_group", "green_group")


def shape(hops) -> list[dict]:
    """The blockers where kong_upgrade_hops is no list of hops with what a play chooses its hosts by; [] where it is one."""
    found = findings.Findings()
    if not isinstance(hops, list) or not all(isinstance(hop, dict) for hop in hops):
        found.block(
            "kong_upgrade_hops", "is no list of hops", "give a list in which each has a target_version and a green_group (docs/hops.md)"
        )
        return found.blockers
    for number, hop in enumerate(hops, 1):
        lacking = [key for key in ("target_version", "green_group") if not hop.get(key)]
        if lacking:
            found.block(
                "kong_upgrade_hops, hop %d" % number,
                "has no %s, but %s" % (" and no ".join(lacking), ", ".join(sorted(hop)) or "nothing"),
                "name the version that its new nodes run and the inventory group of them",
            )
    return found.blockers


def way(hops: list[dict], defaults: dict, groups: dict, nodes: dict, play_hosts: list[str], fixed: dict) -> dict:
    """{"hops": those that are not behind, in order, "problems": [{where, what, do, later}], "of": how many there are in all}.

    hops: the variable kong_upgrade_hops. defaults: blue_group of the first hop, gone (hosts), and OWN but for batches. groups: Ansible's
    groups. nodes: {host: kong_gateway as kong_version_facts tells it, None where it did not}. play_hosts: hosts of this play.
    fixed: what the command line says of each of THE_HOPS, which no hop can change; empty texts where it says nothing.
    A hop has number, last, target_version, blue_group, green_group and OWN. Never raises for bad input: it is in `problems`.
    """
    whole, blue = [], defaults["blue_group"]
    for number, hop in enumerate(hops, 1):
        blue = str(hop.get("blue_group") or blue)
        given = {key: hop[key] for key in OWN if hop.get(key) is not None}
        whole.append(
            {
                **{key: defaults.get(key) for key in OWN},
                "batches": [],
                **given,
                "number": number,
                "last": number == len(hops),
                "target_version": str(hop.get("target_version") or ""),
                "blue_group": blue,
                "green_group": str(hop.get("green_group") or ""),
            }
        )
        blue = whole[-1]["green_group"]
    members = {
        name: [host for host in groups.get(name, []) if host not in defaults["gone"]]
        for hop in whole
        for name in (hop["blue_group"], hop["green_group"])
    }
    current = next((i for i, hop in enumerate(whole) if not behind(hop, whole[i + 1 :], members, nodes)), len(whole) - 1)
    left = whole[current:]
    problems = check_fixed(left, fixed) + check_groups(whole, left, members, groups, play_hosts)
    problems += check_versions(whole, left, members, nodes)
    return {"hops": left, "of": len(whole), "problems": problems}


def behind(hop, later, members, nodes) -> bool:
    """Whether a hop is finished: a later one has begun, or blue is fenced and green runs with its Admin API open."""

    def node(host):
        return nodes.get(host) or {}

    if any(node(host).get("running") for other in later for host in members[other["green_group"]]):
        return True
    blue, green = members[hop["blue_group"]], members[hop["green_group"]]
    fenced = all(node(host).get("fenced") and not node(host).get("running") for host in blue)
    return bool(green) and fenced and all((node(host).get("node") or {}).get("admin_open") for host in green)


def check_fixed(left, fixed) -> list[dict]:
    """Variables of the command line, which win over what a hop says: told before the first one begins, not when the second one would."""
    problems = []
    for key in THE_HOPS:
        hop = next((hop for hop in left if fixed[key] and str(fixed[key]) != hop[key]), None)
        if hop:
            what = "is %s on the command line, which wins over %s of hop %d in kong_upgrade_hops" % (fixed[key], hop[key], hop["number"])
            do = "leave it out%s" % ("; the old nodes are named by blue_group of hop 1" if key == "blue_group" else "")
            problems.append({"where": "kong_upgrade_%s" % key, "what": what, "do": do, "later": False})
    return problems


def check_groups(whole, left, members, groups, play_hosts) -> list[dict]:
    """Groups that are there, each of one hop alone, and in this play."""
    problems = []
    names = [whole[0]["blue_group"]] + [hop["green_group"] for hop in whole]
    for hop in whole[1:]:
        if hop["blue_group"] != whole[hop["number"] - 2]["green_group"]:
            problems.append(problem(hop, "its blue_group is %s" % hop["blue_group"], "leave it out: it is green of the hop before"))
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(problem(None, "group %s stands in it twice" % name, "give each hop new nodes, in a group of their own"))
    mistyped = {}
    for hop in left:
        name, others = hop["green_group"], sorted(set(groups) - set(names))
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.8) if name not in groups else []
        if near:
            mistyped[name] = problem(
                hop, "its green_group %s is no inventory group" % name, "name %s, if that is meant, or make the group" % near[0]
            )
    problems += mistyped.values()
    for hop in left[1:]:  # the plan of the first one looks at its own
        hosts = members[hop["green_group"]]
        if not hosts and hop["green_group"] not in mistyped:
            name = hop["green_group"] or "without a name"
            problems.append(problem(hop, "group %s is empty or missing" % name, "put its hosts into it", later=True))
        if not weights.are_steps(hop["steps"]):
            problems.append(problem(hop, "steps is %s" % (hop["steps"],), "percentages from 1 to 100, ascending, the last one 100"))
        for host in sorted(set(hosts) - set(play_hosts)):
            problems.append(problem(hop, "%s is not in this run" % host, "run without --limit"))
    return problems


def check_versions(whole, left, members, nodes) -> list[dict]:
    """Hops that are each one step of the way, and commands of those to come that are the right ones."""
    problems = []
    for before, hop in zip(whole, whole[1:]):
        if path.find([before["target_version"]], before["target_version"])["problems"]:
            continue  # no version at all, which is told of the hop before
        found = path.find([before["target_version"]], hop["target_version"])
        problems += [problem(hop, each["what"], each["do"]) for each in found["problems"]]
        if len(found["hops"]) > 1:
            stops = ", ".join(each["to"] for each in found["hops"][:-1])
            what = "%s to %s takes more than one hop" % (before["target_version"], hop["target_version"])
            problems.append(problem(hop, what, "put %s before it" % stops))
    for hop in left[1:]:
        for host in members[hop["green_group"]]:
            version = (nodes.get(host) or {}).get("version")
            if version and version != hop["target_version"]:
                what = "kong of %s is %s, not %s" % (host, version, hop["target_version"])
                problems.append(problem(hop, what, "install the right one, or correct the target_version"))
            elif nodes.get(host) is None:
                problems.append(problem(hop, "%s did not answer" % host, "make it answer"))
    return problems


def problem(hop, what, do, later=False):
    """One problem. hop: None for the way as a whole. later: whether a mere look does not mind."""
    return {"where": "kong_upgrade_hops" + (", hop %d" % hop["number"] if hop else ""), "what": what, "do": do, "later": later}


def target_of(options) -> str:
    """How messages call the variable that names the target version."""
    hop = options.get("hop")
    return "kong_upgrade_hops, target_version of hop %d" % hop["number"] if hop else "kong_upgrade_target_version"


def check(options, found):
    """In the plan of one hop: problems of the way, or that kong_upgrade_hops was read too late for there to be one."""
    hop = options.get("hop")
    if options.get("hops") and not hop and not {"bootstrap", "restore"} & set(options["phases"]):  # which know no hops
        found.block(
            "kong_upgrade_hops",
            "is set in the inventory, which a play reads after it has chosen its hosts",
            "put it into a file of its own, and give that: -e @hops.yml",
        )
    if not hop:
        return
    if options.get("strategy") == "rolling":
        found.block("kong_upgrade_strategy", "is rolling, and hops need old and new nodes beside each other", "leave it out")
    for each in options["way"]["problems"]:
        (found.later if each["later"] else found.block)(each["where"], each["what"], each["do"])


def told(options) -> list[str]:
    """The line of the summary that tells the whole way; [] where there is one hop."""
    hop = options.get("hop")
    if not hop:
        return []
    later = ["%s (%s)" % (each["target_version"], each["green_group"]) for each in options["way"]["hops"] if each["number"] > hop["number"]]
    then = "; then, each when the one before is finished: " + ", ".join(later) if later else ""
    return ["Hop %d of %d%s." % (hop["number"], options["way"]["of"], then)]
