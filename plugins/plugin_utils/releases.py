# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which version of Kong each host runs, has or can get, and whether the way from blue's leads to the target. Pure.

The survey is that of plan.py, Findings those of findings.py.
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils import hops, knowledge

# What the strategies that a hop on Cassandra may ask for mean, for a sentence.
STRATEGIES = {
    "blue_green": "both versions on one keyspace",
    "new_keyspace": "a second cluster on a keyspace of its own or on PostgreSQL, which an export fills; no request is lost",
    "downtime_window": "everything but finish is done before; then the old nodes stop, and for seconds nobody answers",
}


def version_of_blue(survey, found):
    """The one version that all of blue runs, or ran before it was retired; None when it cannot be told.

    What runs tells it; where nothing does, what the run's record remembers, and for want of that the commands.
    """
    versions = {}
    gateways = {host: (survey["hosts"].get(host) or {}).get("gateway") for host in survey["groups"]["blue"]}
    running = {host for host, gateway in gateways.items() if ((gateway or {}).get("node") or {}).get("version")}
    recorded = next((lb["source"] for lb in survey["lbs"].values() if lb.get("source")), None)
    for host, gateway in gateways.items():
        if not gateway:
            continue
        node = gateway.get("node") or {}
        version = node.get("version") or gateway.get("version")
        if not version:
            found.block(
                host,
                "no Kong found: %s" % "; ".join(error.rstrip(".") for error in gateway.get("errors") or ["unknown version"]),
                "set kong_upgrade_executable, kong_upgrade_conf or kong_upgrade_prefix of this host",
            )
            continue
        if gateway.get("edition") == "enterprise":
            found.block(host, "runs Kong Enterprise (%s)" % version, "this collection upgrades Kong Gateway OSS")
        if host in running or not (running or recorded):
            versions.setdefault(version, []).append(host)
    if not running and recorded:
        versions = {recorded: list(gateways)}
    if len(versions) > 1 and not running:
        found.block(
            ", ".join(survey["groups"]["blue"]),
            "no Kong is running there, and their kong commands are of several versions: %s"
            % "; ".join("%s on %s" % (v, ", ".join(h)) for v, h in sorted(versions.items())),
            "name the command of the version that blue ran in kong_upgrade_executable of each host, or install its package there again",
        )
        return None
    if len(versions) > 1:
        found.block(
            ", ".join(survey["groups"]["blue"]),
            "blue runs several versions: %s"
            % "; ".join("%s on %s" % (v, ", ".join(h)) for v, h in sorted(versions.items())),
            "bring blue to one version first",
        )
        return None
    version = next(iter(versions), None)
    if version:
        check_commands_at_rest(survey, version, found)
    return version


def check_commands(survey, found):
    """A kong command that is not of the version that its node runs: the fence would be put on another command than blue's own.

    A node that tells no version is taken to run its command's. With strategy rolling the target's command may be in place already.
    """
    options = survey["options"]
    tell = found.warn if options["phases"] == ["rollback"] else found.block
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
        runs, command = (gateway.get("node") or {}).get("version"), gateway.get("version")
        if not runs or not command or command == runs:
            continue
        if options["strategy"] == "rolling" and command == options["target_version"]:
            continue
        tell(
            host,
            "its kong command %s is %s, while its node runs %s: to fence that command would not keep the node from starting, and it "
            "could not start the node again" % (gateway.get("executable") or "", command, runs),
            "name the command of Kong %s in kong_upgrade_executable of this host, or, where an update was left half done, install the "
            "package of %s there again" % (runs, runs),
        )


def check_commands_at_rest(survey, version, found):
    """The kong command with which the way back starts a blue node that does not run must be of the version that blue had."""
    if not {"rollback", "restore"} & set(survey["options"]["phases"]):
        return
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
        command = gateway.get("version")
        if not gateway.get("running") and command and command != version:
            found.block(
                host,
                "no Kong is running there, and its kong command %s is %s, while blue ran %s"
                % (gateway.get("executable") or "", command, version),
                "name the command of Kong %s in kong_upgrade_executable of this host, or install the package of %s there again; a host "
                "that is to stay out of it goes into kong_upgrade_gone" % (version, version),
            )


def check_target(survey, way, found):
    """The target version, None for one that is not known; blockers where the way or a green host does not lead there.

    way: as path.find tells it; None where no version of blue is known.
    """
    hops.check(survey["options"], found)
    target, variable = survey["options"]["target_version"], hops.target_of(survey["options"])
    problems, steps = (way["problems"], way["hops"]) if way else ([], [])
    known = knowledge.versions().get(target, {}).get("target")
    if not known and not problems:
        what = "%s is no version that this collection upgrades to, or brings up on an empty database" % (target or "empty")
        problems = [{"what": what, "do": "choose %s, such as %s" % (knowledge.targets(), knowledge.newest_target())}]
    for problem in problems:
        found.block(variable, problem["what"], problem["do"])
    if not known:
        return None
    if len(steps) > 1:
        here = "name them in kong_upgrade_hops, or " if steps[0]["strategy"] == "blue_green" else ""
        found.block(
            variable,
            "it takes several hops: %s" % " -> ".join([steps[0]["from"]] + [step["to"] for step in steps]),
            "%supgrade to %s first%s" % (here, steps[0]["to"], "" if here else ", which is done by hand: %s" % steps[0]["why"]),
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
                "install %s there, or correct %s" % (target, variable),
            )
        elif built_right(survey, host, target) is False:
            releases = knowledge.versions()[target]
            found.block(
                host,
                "its kong %s is built with nginx %s and would not start" % (target, gateway["openresty"]["nginx"]),
                "build it with OpenResty %s and lua-kong-nginx-module, or install the package" % releases["openresty"],
            )
        elif (gateway.get("nginx") or {}).get("kong_module") is False:
            found.block(
                host,
                "%s is built without lua-kong-nginx-module, and Kong %s would not start" % (gateway["nginx"]["path"], target),
                "build OpenResty %s with it, or install the package" % knowledge.versions()[target]["openresty"],
            )
    return target


def check_strategy(options, way, found):
    """Whether the strategy takes the hop, and whether it is the documented one."""
    hops_ahead, strategy = (way or {}).get("hops") or [], options["strategy"]
    if len(hops_ahead) != 1 or "allows" not in hops_ahead[0] or strategy in hops_ahead[0]["allows"] or options["phases"] == ["rollback"]:
        return
    hop = hops_ahead[0]
    measured = strategy in hop["measured"]
    if measured and options["measured_way"]:
        found.warn("kong_upgrade_strategy", "%s is not the documented way: %s" % (strategy, hop["why"]), "try it on a copy first")
        return
    ways = ["%s (%s)" % (name, STRATEGIES[name]) for name in hop["allows"]]
    if measured:
        ways.append("set kong_upgrade_measured_way: true, to go by what was seen instead of by the documentation")
    found.block(
        "kong_upgrade_strategy",
        "Kong %s to %s on Cassandra is not done by %s: %s" % (hop["from"], hop["to"], strategy, hop["why"]),
        "choose %s" % "; or ".join(ways) if ways else "go by the guide, by hand: %s" % hop["docs"],
    )


def built_right(survey, host, target):
    """Whether the kong command of a green host is made of what its version starts with; None where that is not known."""
    gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
    nginx = (gateway.get("openresty") or {}).get("nginx")
    if not nginx or gateway.get("version") != target:
        return None
    # nginx tells three of OpenResty's four numbers
    return any(known.startswith(nginx) for known in knowledge.versions()[target]["nginx"])


def check_templates(survey, found):
    """A blue node whose own nginx template nobody names: a rollback after retire would start it with Kong's."""
    complete = survey["groups"]["green"] or survey["options"]["strategy"] == "rolling"
    tell = found.block if complete else found.later
    for host in survey["groups"]["blue"]:
        seen = survey["hosts"].get(host) or {}
        gateway = seen.get("gateway") or {}
        made = ((gateway.get("host") or {}).get("templates") or {}).get("nginx_conf")
        if made and made == "%s/nginx.conf" % gateway["prefix"] and not seen["nginx_conf"]:
            tell(
                host,
                "%s was made from an nginx template of its own, which is not known" % made,
                "name the template in kong_upgrade_nginx_conf of this host, so that a rollback starts it with that",
            )


def check_packages(survey, hosts, target, found):
    """Whether the package manager of each host has the target, where it is to install it by name, or the file of it."""
    for host in hosts:
        seen = survey["hosts"].get(host) or {}
        if not target or (seen.get("gateway") or {}).get("version") == target:
            continue
        if lacks(seen, seen.get("package")):
            found.later(
                host,
                "kong_upgrade_package is %s, which is not on that host" % seen["package"],
                "copy it there, or name a file or package that it has",
            )
        if not offers(seen, target):
            found.later(
                host,
                "the package manager has no package kong %s, but %s"
                % (target, ", ".join(offered(seen)[:3]) or "none at all"),
                "add Kong's repository for its distribution and renew the lists, or set kong_upgrade_package to a file",
            )


def lacks(seen, package):
    """Whether a package is a file that a host has not; False where nobody can tell, as of a URL."""
    host = (seen.get("gateway") or {}).get("host") or {}
    return seen.get("install") == "package" and (host.get("package_files") or {}).get(package) is False


def by_name(seen):
    """Whether the package manager of a green host is to install Kong's own package by its name."""
    return seen.get("install") == "package" and seen["package"].split("=")[0] == "kong"


def offered(seen):
    """Versions of package kong that the package manager of a host has; None where it installs no such package, or does not tell."""
    host = (seen.get("gateway") or {}).get("host") or {}
    return (host.get("candidates") or {}).get("versions") if by_name(seen) else None


def offers(seen, version):
    """Whether the package manager of a host has package kong in a version of Kong; True where nobody can tell."""
    versions = offered(seen)
    return versions is None or any(has == version or has.startswith((version + "-", version + "+")) for has in versions)
