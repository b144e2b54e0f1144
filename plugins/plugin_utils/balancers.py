# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The servers of blue and green on every load balancer, their weights, and whether it lets itself be led. Pure.

The survey is that of plan.py, Findings those of findings.py.
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _probe
from ansible_collections.bluegreen.kong.plugins.plugin_utils import weights

SHOWN = 8  # names of servers in one message
SET_NO_WEIGHT = {"stage", "backup", "expand", "finish"}  # phases that leave the load balancers as they are


def servers_of(survey, found):
    """{lb: {"socket backend": {"socket", "backend", "blue": {server: base}, "green": {...}, "now": {server: weight}}}}.

    Base weights come from the run record, else from what the load balancer has now, as long as blue carries traffic.
    """
    groups, options = survey["groups"], survey["options"]
    given = given_weights(survey, found)
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
            backends = {place["backend"] for place in result[lb].values()}
            check_backends(lb, process, backends, bool(seen.get("conf_file")), found)
            check_nginx(lb, process, backends, set(colour), found)
        for place in result[lb].values():
            base_weights(place, seen, given)
            check_both_colours(lb, place, survey, found)
        check_processes(lb, result[lb], found)
        serves = hosts_of(lb, seen, found)
        for name, (which, host) in colour.items():
            if host in survey.get("unbalanced", ()) or (serves is not None and host not in serves):
                continue
            if not any(name in place[which] for place in result[lb].values()):
                found.block(
                    lb,
                    "server %s of %s host %s is in no backend" % (name, which, host),
                    "add it there (green with weight 0), or set kong_upgrade_server_name of %s%s"
                    % (host, strangers(seen, colour)),
                )
    if survey["lbs"] and not any(seen.get("error") for seen in survey["lbs"].values()):
        check_given(given, survey, found)
    return result


def check_conf_files(survey, servers, todo, found):
    """A haproxy.cfg that is to be kept up to date can be read and written, and has one line for each server."""
    ahead = set(todo) - SET_NO_WEIGHT or (todo and survey["options"]["strategy"] == "downtime_window")
    for lb, seen in survey["lbs"].items() if ahead else ():
        files = seen.get("conf_files") or []
        wanted = {"%s/%s" % (place["backend"], name) for place in servers[lb].values() for name in place["state"]}
        for file in files:
            if file["error"]:
                found.block(
                    lb,
                    "kong_upgrade_haproxy_conf_file: %s" % file["error"],
                    "name the haproxy.cfg of this load balancer, as a user that may write it, or leave the variable out",
                )
            for problem in file["problems"]:
                if any(" %s " % server in problem for server in wanted):
                    found.block(lb, "kong_upgrade_haproxy_conf_file: %s" % problem, "give each server one line, or leave the variable out")
        lacking = sorted(wanted.difference(*(file["servers"] for file in files)))
        if files and lacking and all(file["read"] for file in files):
            found.block(
                lb,
                "kong_upgrade_haproxy_conf_file: %s has no server line of %s"
                % (" and ".join(file["path"] for file in files), ", ".join(lacking[:SHOWN])),
                "name the file that has them, or leave the variable out: what was added at run time cannot be made permanent",
            )


def hosts_of(lb, seen, found):
    """The hosts whose servers a load balancer must have, by kong_upgrade_serves; None for all of them."""
    groups = seen.get("serves")
    if not groups:
        return None
    for name, hosts in groups.items():
        if not hosts:
            found.block(lb, "kong_upgrade_serves: no inventory group is called %s" % name, "name groups of nodes")
    return {host for hosts in groups.values() for host in hosts}


def check_processes(lb, places, found):
    """Several HAProxies of one host are told the same: each must have every server in the same backend."""
    has = {}
    for place in places.values():
        has.setdefault(place["socket"], set()).update((place["backend"], name) for name in place["state"])
    for socket, servers in has.items():
        missing = sorted("/".join(pair) for pair in set().union(*has.values()) - servers)
        if missing:
            found.block(
                lb,
                "the HAProxy of %s has no %s, which another one of this host has" % (socket, ", ".join(missing[:SHOWN])),
                "make each HAProxy an inventory host of its own, with a kong_upgrade_state_dir of its own",
            )


def check_both_colours(lb, place, survey, found):
    """Traffic moves inside a backend: one without a server of the other colour would be left without any."""
    groups = survey["groups"]
    if survey["options"]["strategy"] == "rolling" or not groups["blue"] or not groups["green"]:
        return
    for colour, other in (("blue", "green"), ("green", "blue")):
        if place[colour] and not place[other]:
            found.block(
                lb,
                "backend %s has servers of %s (%s) and none of %s"
                % (place["backend"], colour, ", ".join(sorted(place[colour])), other),
                "add them there (green with weight 0), or name the backends that are meant in kong_upgrade_backends",
            )


def check_everyone_served(servers, survey, found):
    """A host of the cluster whose server is on no load balancer, where kong_upgrade_serves lets each have some of them."""
    if not any(seen.get("serves") for seen in survey["lbs"].values()) or any(seen.get("error") for seen in survey["lbs"].values()):
        return
    names = names_of(servers)
    for which in ("blue", "green"):
        for host in survey["groups"][which]:
            name = (survey["hosts"].get(host) or {}).get("name", host)
            if host not in survey.get("unbalanced", ()) and name not in names:
                found.block(
                    host,
                    "its server %s is on no load balancer" % name,
                    "add it to a backend, or set its kong_upgrade_server_name; kong_upgrade_serves of a load balancer must name its group",
                )


def names_of(servers):
    """The servers of the cluster that a load balancer has: control planes of hybrid mode may serve no traffic."""
    return {name for places in servers.values() for place in places.values() for name in place["state"]}


def strangers(seen, colour):
    """Words about servers of a load balancer that belong to no host: the name that is looked for is most likely among them."""
    names = {server["name"] for process in seen.get("balancers") or [] for server in process["servers"]} - set(colour)
    shown = sorted(names)[:SHOWN]
    more = len(names) - len(shown)
    return " (servers of no host: %s%s)" % (", ".join(shown), " and %d more" % more if more else "") if names else ""


def places_of(places, names, options):
    """Those of the names that one load balancer has: "backend/server" where kong_upgrade_backends leaves some backends out."""
    names = [name for name in names if name in names_of({"": places})]
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


def check_backends(lb, process, names, kept, found):
    """Balancing that ignores weights set at run time, or clients that stick to a server, and what a reload undoes.

    kept: whether haproxy.cfg is kept up to date, so that a reload undoes nothing.
    """
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
    if names and not kept and (
        states == {"none"} or (process.get("state_file") is None and "global" not in states and "local" not in states)
    ):
        found.warn(
            lb,
            "a reload of HAProxy puts back the weights of its configuration",
            "set kong_upgrade_haproxy_conf_file, or server-state-file and load-server-state-from-file (docs/load_balancers.md)",
        )


def check_nginx(lb, process, backends, ours, found):
    """Upstreams in which a weight means something else, and what a reload of nginx does beside setting weights."""
    for name, upstream in sorted((process.get("upstreams") or {}).items()):
        if name not in backends:
            continue
        method = upstream["method"].split()[0]
        if method.startswith("balancer_by_lua"):
            found.block(
                lb,
                "upstream %s chooses its servers by %s, which need not look at weights" % (name, method),
                "let it choose in turn, by least_conn or random, or use the driver command",
            )
        if method in ("ip_hash", "hash", "sticky"):
            found.warn(
                lb,
                "upstream %s chooses its servers by %s" % (name, upstream["method"]),
                "weights are shares of the clients or keys, not of the requests, and each step sends some clients elsewhere",
            )
        for server in sorted(ours & set(upstream["backup"])):
            found.block(
                lb,
                "%s/%s is a backup server, which gets no share of the traffic" % (name, server),
                "take `backup` from its line in %s" % process["path"],
            )
    if process.get("pending"):
        found.warn(
            lb,
            "%s was changed after nginx has read it: its weights are not those in force" % process["path"],
            "look at it and reload nginx; else the first step brings it into force",
        )
    if process.get("changed_files"):
        found.warn(
            lb,
            "configuration was changed after nginx has read it: %s" % ", ".join(process["changed_files"]),
            "look at it: the first step reloads nginx and brings it into force",
        )
    if process.get("cuts_idle"):
        found.warn(
            lb,
            "a reload of nginx closes idle connections of clients; a request that is just being sent on one is lost",
            "keepalive_timeout 0 during the upgrade, or keepalive_min_timeout (docs/load_balancers.md)",
        )


def given_weights(survey, found):
    """kong_upgrade_base_weights as numbers; blockers for what is no weight of a server."""
    haproxy = any(process.get("socket") for seen in survey["lbs"].values() for process in seen.get("balancers") or [])
    numbers = {}
    for name, weight in survey["options"]["base_weights"].items():
        if str(weight).isdigit() and (int(weight) <= weights.MAXIMUM or not haproxy):
            numbers[name] = int(weight)
            continue
        most = " to %d" % weights.MAXIMUM if haproxy else " on"
        found.block("kong_upgrade_base_weights", "that of %s is %r" % (name, weight), "give a whole number from 0%s" % most)
    return numbers


def check_given(given, survey, found):
    """A weight for a server that no load balancer has is a mistyped name, and the server that was meant would get another weight.

    A warning where no weight is set, and before a later hop, whose servers need not be there yet.
    """
    known = {server["name"] for seen in survey["lbs"].values() for process in seen["balancers"] or [] for server in process["servers"]}
    options = survey["options"]
    harmless = not set(options["phases"]) - SET_NO_WEIGHT or not (options.get("hop") or {}).get("last", True)
    tell = found.warn if harmless else found.block
    for name in sorted(set(given) - known):
        tell(
            "kong_upgrade_base_weights",
            "no load balancer has a server %s" % name,
            "give the names that the load balancers have",
        )


def base_weights(place, seen, given):
    """Fills in the base weights of one backend."""
    recorded = {**(seen.get("base") or {}).get(place["backend"], {}), **given}
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
            nginx = any("upstreams" in process for process in seen["balancers"])
            found.block(
                lb,
                "has no counters, so nothing would tell how green does while both colours serve",
                "%s, set kong_upgrade_probe, or set kong_upgrade_steps to [100]"
                % ("set kong_upgrade_nginx_log" if nginx else "add the command counters to kong_upgrade_commands"),
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


def check_ports(survey, settings, found):
    """A server at a port that green will not listen on never comes UP, which the shift would find out with the schema migrated.

    A warning, since a port may be mapped on its way. Not where blue's proxy_listen waits for green's own, which is told, nor for a
    backend of blue's Admin or Status API.
    """
    hosts, backends = {survey["hosts"][host]["name"]: host for host in settings}, survey["options"]["backends"]
    blue = [((survey["hosts"].get(host) or {}).get("gateway") or {}) for host in survey["groups"]["blue"]]
    listened = any("proxy_listen" in (gateway.get("settings") or {}) for gateway in blue)
    of_blue = [gateway.get("listeners") or {} for gateway in blue]
    apart = {listener["port"] for places in of_blue for name in ("admin", "status") for listener in places.get(name, [])}
    for lb, seen in survey["lbs"].items():
        for server in [server for process in seen.get("balancers") or [] for server in process["servers"]]:
            host = hosts.get(server["name"])
            if not host or server.get("port") in (None, *apart) or (backends and server["backend"] not in backends):
                continue
            if listened and "proxy_listen" not in settings[host]:
                continue
            try:
                listeners = _probe.node_listeners(settings[host])
            except _conf.ConfError:
                return  # `kong check` tells
            ports = sorted({listener["port"] for name in ("proxy", "stream") for listener in listeners[name] if listener["port"]})
            if server["port"] not in ports:
                found.warn(
                    lb,
                    "server %s/%s is at port %s, and green will listen on %s there"
                    % (server["backend"], server["name"], server["port"], ", ".join(map(str, ports)) or "no port"),
                    "correct one of the two (proxy_listen in kong_upgrade_settings of %s), unless the port is mapped" % host,
                )
