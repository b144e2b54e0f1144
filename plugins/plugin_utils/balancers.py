# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The servers of blue and green on every load balancer, their weights, and whether it lets itself be led. Pure.

The survey and Findings are those of plan.py.
"""

from __future__ import annotations


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
