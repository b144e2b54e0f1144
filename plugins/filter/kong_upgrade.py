# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters of the role kong_upgrade; what they do is in plugin_utils."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time

from ansible_collections.bluegreen.kong.plugins.plugin_utils import gate, plan, proof, report, survey, weights


def kong_upgrade_plan(hostvars, groups, options, play_hosts=None, database=None, datastore=None, began=None):
    """hostvars | kong_upgrade_plan(groups, options, ...) -> the plan."""
    found = survey.collect(hostvars, groups, survey.plain(options), play_hosts)
    found["database"] = answer(database, "datastore")
    found.update(began=float(began) if began else None, now=time.time())
    found["datastore"] = survey.plain(datastore)
    return plan.build(found)


def answer(result, key):
    """What an info module found, or {"error": why not}; {} if it was not asked."""
    if result is None:
        return {}
    result = survey.plain(result)
    error = survey.failure(result, key)
    return {"error": error} if error else result[key]


def kong_upgrade_weights(places, percent):
    """places of one load balancer | kong_upgrade_weights(25) -> servers for haproxy_server."""
    servers = []
    for place in places.values():
        for name, weight in weights.for_share(place["blue"], place["green"], percent).items():
            servers.append({"name": name, "backend": place["backend"], "weight": weight})
    return servers


def kong_upgrade_record(result, hostvars, green):
    """What a driver found on one load balancer | kong_upgrade_record(hostvars, green hosts) -> remember and forget for the record."""
    names = {str(hostvars[host].get("kong_upgrade_server_name", host)) for host in green}
    servers = [server for process in survey.balancers(survey.plain(result)) or [] for server in process["servers"]]
    weights_now = {}
    for server in servers:
        weights_now.setdefault(server["backend"], {})[server["name"]] = server["weight"]
    serves = any(server["weight"] for server in servers if server["name"] in names)
    return {"remember": {"base_weights": weights_now} if servers else {}, "forget": bool(servers) and not serves}


def kong_upgrade_states(names, state):
    """["a", "backend/b"] | kong_upgrade_states('drain') -> servers for haproxy_server."""
    servers = []
    for name in names:
        backend, slash, server = name.rpartition("/")
        servers.append({"name": server, "state": state, **({"backend": backend} if slash else {})})
    return servers


def unanswered(probe):
    """What is wrong with a green node that was asked to prove itself again, in check mode; None if nothing is."""
    problem = survey.failure(probe, "kong") or ("Kong does not run" if probe.get("changed") else None)
    return problem and "%s: %s" % (probe.get("item", "?"), problem)


def kong_upgrade_gate(results, names, percent, budget, min_requests, too_little, probed=None, backends=None):
    """Results of one step on all load balancers | kong_upgrade_gate(...) -> the verdict, and whether the gate opens.

    probed: registered result of the probes of green, a loop over its nodes; they are sent where there are no counters.
    backends: kong_upgrade_backends, the backends that count; all of them if it is empty.
    """
    results, probes = survey.plain(results), (survey.plain(probed) or {}).get("results") or []
    errors = [error for error in (survey.failure(result, *survey.ANSWERS) for result in results) if error]
    if errors:
        verdict = {"verdict": "failed", "message": "a load balancer failed: %s" % "; ".join(errors)}
    else:
        windows = [result.get("window") or {} for result in results]
        answers = [unanswered(probe) for probe in probes if not probe.get("skipped")]
        verdict = gate.judge(
            windows, set(names["blue"]), set(names["green"]), float(budget), int(min_requests), answers, survey.plain(backends)
        )
    opens = verdict["verdict"] == "passed" or (verdict["verdict"] == "too_little" and too_little == "continue")
    return dict(
        verdict, percent=percent, open=opens, at=time.time(), message="%s %%: %s" % (percent, verdict["message"])
    )


def kong_upgrade_proof(hostvars, blue, green, target, sessions, known, earlier=None):
    """hostvars | kong_upgrade_proof(...) -> what speaks against blue being gone; earlier: the round before."""
    gateways = {}
    for host in blue + green:
        looked = survey.plain(hostvars[host].get("__kong_upgrade_looked"))
        if not looked:  # a blue host that this very run has stopped, fenced and read back
            looked = survey.plain(hostvars[host].get("__kong_upgrade_retired"))
            found = (looked or {}).get("kong")
        else:
            found = (looked.get("ansible_facts") or {}).get("kong_gateway")
        gateways[host] = dict(found or {}, error=survey.failure(looked))
    known, earlier = survey.plain(known), survey.plain(earlier) or {}
    return proof.judge(gateways, blue, green, target, survey.plain(sessions), earlier, known)


def kong_upgrade_report(hostvars, hosts, alive, seen):
    """hostvars | kong_upgrade_report(ansible_play_hosts_all, ansible_play_hosts, what was seen) -> the report as data."""
    failures = kong_upgrade_failures(hostvars, hosts, alive)
    return report.build(dict(survey.plain(seen), ended=time.time(), failures=failures))


def kong_upgrade_all_ok(hostvars, hosts, name, alive):
    """hostvars | kong_upgrade_all_ok(hosts, registered variable, ansible_play_hosts) -> whether it went well on all."""
    results = [survey.plain(hostvars[host].get(name)) for host in hosts]
    return all(host in alive for host in hosts) and not any(survey.failure(result) for result in results)


def kong_upgrade_result(hostvars, hosts, name):
    """hostvars | kong_upgrade_result(hosts, registered variable) -> the first result of a host that did not skip it; {} if none."""
    results = [survey.plain(hostvars[host].get(name)) for host in hosts]
    return next((result for result in results if result and not result.get("skipped")), {})


def kong_upgrade_failures(hostvars, hosts, alive):
    """hostvars | kong_upgrade_failures(ansible_play_hosts_all, ansible_play_hosts) -> [{task, host, message}].

    Hosts that were lost come first: what failed on others is most likely their doing.
    """
    failures = {host: survey.plain(hostvars[host].get("__kong_upgrade_failure")) for host in hosts}
    lost = [
        {"task": "connection", "host": host, "message": "%s became unreachable" % host}
        for host in hosts
        if not failures[host] and host not in alive
    ]
    return lost + [failure for failure in failures.values() if failure]


def kong_upgrade_controller(run_id=""):
    """Who runs this: the owner that the run's lock names."""
    parent = multiprocessing.parent_process()
    pid = parent.pid if parent else os.getpid()
    with open("/proc/%d/stat" % pid) as stat:
        started = int(stat.read().rpartition(")")[2].split()[19])
    with open("/proc/sys/kernel/random/boot_id") as boot:
        boot_id = boot.read().strip()
    name = platform.node()
    return {
        "controller": name,
        "boot": boot_id,
        "pid": pid,
        "started": started,
        "run_id": run_id or "%s-%d-%d" % (name, pid, started),
    }


def kong_upgrade_is_dead(owner):
    """Whether the run that holds the lock was a process of this controller and has ended."""
    me = kong_upgrade_controller()
    if owner.get("controller") != me["controller"]:
        return False
    if owner.get("boot") != me["boot"]:
        return True
    try:
        with open("/proc/%d/stat" % int(owner["pid"])) as stat:
            fields = stat.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return True
    return fields[0] == "Z" or int(fields[19]) != int(owner["started"])


class FilterModule:
    """Filters of the role; each is documented beside this file."""

    def filters(self):
        """name -> function"""
        return {
            function.__name__: function
            for function in (
                kong_upgrade_plan,
                kong_upgrade_weights,
                kong_upgrade_record,
                kong_upgrade_states,
                kong_upgrade_gate,
                kong_upgrade_proof,
                kong_upgrade_report,
                kong_upgrade_all_ok,
                kong_upgrade_failures,
                kong_upgrade_result,
                kong_upgrade_controller,
                kong_upgrade_is_dead,
            )
        }
