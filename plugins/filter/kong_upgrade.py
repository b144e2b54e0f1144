# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters of the role kong_upgrade; what they do is in plugin_utils."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pathlib
import platform
import time

from ansible import context
from ansible_collections.bluegreen.kong.plugins.plugin_utils import (
    command_line,
    findings,
    fresh,
    gate,
    hops,
    new_keyspace,
    plan,
    proof,
    report,
    ring,
    rolling,
    survey,
    weights,
)

MACHINE_ID = "/etc/machine-id"
GUARD = "Roll | Stop where a batch is not rolled"  # of tasks/phases/roll.yml


def kong_upgrade_plan(
    hostvars, groups, options, play_hosts=None, database=None, datastore=None, began=None, server=None, backup=None, cassandra=None,
    new_database=None,
):
    """hostvars | kong_upgrade_plan(groups, options, ...) -> the plan.

    cassandra: results of looking at the hosts of Cassandra, a loop over them.
    new_database: result of looking at green's keyspace or database, with strategy new_keyspace.
    backup: result of looking at the dump that a restore would bring back.
    server: result of asking, as its administrator, whether role and database, or keyspace, of a bootstrap are there; None if nobody asked.
    """
    found = survey.collect(hostvars, groups, survey.plain(options), play_hosts)
    for lb in found["lbs"].values():
        if lb["holder"] and was_interrupted(lb):
            lb.update(at_work=None, interrupted=survey.named(lb["holder"]))
    found["database"] = answer(database, "datastore")
    found["new_database"] = answer(new_database, "datastore")
    found.update(began=float(began) if began else None, now=time.time())
    found["datastore"] = survey.plain(datastore)
    found["backup"] = answer(backup, "backup")
    found["cassandra_hosts"] = {result["item"]: answer(result, "cassandra_node") for result in results_of(cassandra)}
    if "bootstrap" not in found["options"]["phases"]:
        strategy = rolling if found["options"]["strategy"] == "rolling" else plan
        return strategy.build(found)
    if (found["datastore"] or {}).get("kind") == "cassandra":
        found["administrator"] = answer(server, "made")
        # Ansible masks a password wherever it stands in an answer, and that of the administrator is at first `cassandra`.
        if "keyspace" in found["database"]:
            found["database"]["kind"] = "cassandra"
        return fresh.build(found)
    asked = answer(server, "query_result")
    if "error" in asked:
        found["database"]["error"] = asked["error"]
    elif asked:
        found["database"]["server"] = asked[0]
    return fresh.build(found)


def kong_upgrade_first_node(hostvars, hosts):
    """hostvars | kong_upgrade_first_node(hosts) -> the fact of the first node with a database, else of the first with a datastore; {}."""
    found = {}
    for host in hosts:
        datastore = survey.datastore_of(hostvars[host])
        if datastore and (not found or datastore["kind"] != "off"):
            found = survey.gateway_of(hostvars[host])
            if datastore["kind"] != "off":
                break
    return found


def kong_upgrade_datastore(hostvars, host, blue=None):
    """hostvars | kong_upgrade_datastore(host) -> the datastore that this green host is to use, before its kong.conf is written.

    blue: fact of the blue node whose settings it gets, unless it is of a fresh cluster.
    """
    overrides = survey.plain(hostvars[host].get("kong_upgrade_settings")) if host else {}
    if blue is not None:
        return new_keyspace.datastore(survey.plain(blue), overrides)
    return fresh.datastore(survey.gateway_of(hostvars[host]), overrides)


def answer(result, key):
    """What an info module found, or {"error": why not}; {} if it was not asked."""
    result = survey.plain(result) or {}
    if not result or result.get("skipped"):
        return {}
    error = survey.failure(result, key)
    return {"error": error} if error else result[key]


def results_of(looped):
    """The results of a task that loops; [] of one that was skipped."""
    return [result for result in (survey.plain(looped) or {}).get("results") or [] if not result.get("skipped")]


def kong_upgrade_way(hostvars, hops_wanted, defaults, groups, play_hosts, fixed):
    """hostvars | kong_upgrade_way(kong_upgrade_hops, ...) -> the hops that are left, and their problems.

    play_hosts: hosts of the play. fixed: what the command line says of what each hop has, and no hop can change.
    """
    nodes = {}
    for host in hostvars:
        result = survey.plain(hostvars[host].get("__kong_upgrade_hop_gateway"))
        nodes[host] = ((result or {}).get("ansible_facts") or {}).get("kong_gateway")
    return hops.way(survey.plain(hops_wanted), survey.plain(defaults), groups, nodes, play_hosts, survey.plain(fixed))


def kong_upgrade_hops_refusal(hops_wanted):
    """kong_upgrade_hops | kong_upgrade_hops_refusal -> what is wrong with its form, as lines; [] if nothing is."""
    blockers = hops.shape(survey.plain(hops_wanted))
    return findings.refusal(blockers) if blockers else []


def kong_upgrade_weights(places, percent):
    """places of one load balancer | kong_upgrade_weights(25) -> servers for haproxy_server."""
    servers = []
    for place in places.values():
        for name, weight in weights.for_share(place["blue"], place["green"], percent).items():
            servers.append({"name": name, "backend": place["backend"], "weight": weight})
    return servers


def kong_upgrade_weights_record(result, hostvars, green, closes=(), blue=()):
    """What a driver found on one load balancer | kong_upgrade_weights_record(hostvars, green hosts) -> what the run's record is to keep.

    closes: hosts of blue whose Admin API this upgrade closes. blue: hosts of blue; the one version that they run is remembered too.
    """
    names = {str(hostvars[host].get("kong_upgrade_server_name", host)) for host in green}
    servers = [server for process in survey.balancers(survey.plain(result)) or [] for server in process["servers"]]
    weights_now = {}
    for server in servers:
        weights_now.setdefault(server["backend"], {})[server["name"]] = server["weight"]
    serves = any(server["weight"] for server in servers if server["name"] in names)
    remember = {"base_weights": weights_now} if servers else {}
    versions = {survey.version_of(hostvars[host]) for host in blue} - {None}
    if servers and len(versions) == 1:
        (remember["source"],) = versions
    closed = {}
    if closes:
        closed = remember["admin_listen"] = new_keyspace.record({host: survey.gateway_of(hostvars[host]) for host in closes})
    # Of a node whose Admin API is closed the record may know what it listened on. Where no blue node runs a window is open, and the record
    # knows since when.
    begins = bool(servers) and not serves and bool(versions)
    return {"remember": remember, "forget": begins and "off" not in closed.values()}


def kong_upgrade_cluster_record(hostvars, hosts, target):
    """hostvars | kong_upgrade_cluster_record(hosts to roll, target version) -> what the run's record is to keep."""
    return {"remember": rolling.record({host: survey.gateway_of(hostvars[host]) for host in hosts}, target), "forget": False}


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


def kong_upgrade_proof(hostvars, blue, green, target, sessions, known, earlier=None, clients=(), nodes=None):
    """hostvars | kong_upgrade_proof(...) -> what speaks against blue being gone; earlier: the round before.

    sessions: of PostgreSQL. clients: on Cassandra, results of loops over the hosts of its nodes: that each began to be watched, and what
    was seen. nodes: all of its nodes, or None.
    """
    gateways = {}
    for host in blue + green:
        looked = survey.plain(hostvars[host].get("__kong_upgrade_looked"))
        if not looked:  # a blue host that this very run has stopped, fenced and read back
            looked = survey.plain(hostvars[host].get("__kong_upgrade_retired"))
            found = (looked or {}).get("kong")
        else:
            found = (looked.get("ansible_facts") or {}).get("kong_gateway")
        gateways[host] = dict(found or {}, error=survey.failure(looked))
    known, earlier, unseen = survey.plain(known), survey.plain(earlier) or {}, []
    if nodes is not None:
        looks = {result["item"]: answer(result, "cassandra_node") for looped in clients for result in results_of(looped)}
        connected, unseen = ring.clients(looks, survey.plain(nodes))
        sessions = survey.plain(sessions) + connected
    return proof.judge(gateways, blue, green, target, survey.plain(sessions), earlier, known, unseen)


def state_file(variables):
    """The server state file that a load balancer host is to write, by its path; several, where `running` means several processes."""
    path = str(variables.get("kong_upgrade_haproxy_state_file") or "")
    found = survey.balancers(survey.plain(variables.get("__kong_upgrade_lb"))) or []
    named = [process["state_file"] for process in found if process.get("state_file")]
    return ", ".join(named) if path == "running" and named else path


def kong_upgrade_report(hostvars, hosts, alive, seen):
    """hostvars | kong_upgrade_report(ansible_play_hosts_all, ansible_play_hosts, what was seen) -> the report as data."""
    seen = survey.plain(seen)
    state_files = {host: state_file(hostvars[host]) for host in seen["load_balancers"]}
    runs = [survey.plain(hostvars[host].get("__kong_upgrade_run")) or {} for host in hosts]
    seen.update(
        ended=time.time(),
        holders=[run["holder"] for run in runs if run.get("holder")],
        failures=kong_upgrade_failures(hostvars, hosts, alive),
        state_files={host: path for host, path in state_files.items() if path},
    )
    return report.build(seen)


def kong_upgrade_all_ok(hostvars, hosts, name, alive, keys=()):
    """hostvars | kong_upgrade_all_ok(hosts, registered variable, ansible_play_hosts, keys) -> whether it went well on all.

    keys: return values of which only a success has one, for a task whose failures are judged later.
    """
    results = [survey.plain(hostvars[host].get(name)) for host in hosts]
    return all(host in alive for host in hosts) and not any(survey.failure(result, *keys) for result in results)


def kong_upgrade_serving(hostvars, hosts, started):
    """hostvars | kong_upgrade_serving(hosts, registered variables) -> names on the load balancers of those that were started at last.

    started: of the tasks that start them, the last one first.
    """
    serving = []
    for host in hosts:
        results = [survey.plain(hostvars[host].get(name)) for name in started]
        last = next((result for result in results if result), None)
        if not survey.failure(last):
            serving.append(str(hostvars[host].get("kong_upgrade_server_name", host)))
    return serving


def kong_upgrade_result(hostvars, hosts, name):
    """hostvars | kong_upgrade_result(hosts, registered variable) -> the first result of a host that did not skip it; {} if none."""
    results = [survey.plain(hostvars[host].get(name)) for host in hosts]
    return next((result for result in results if result and not result.get("skipped")), {})


def kong_upgrade_failures(hostvars, hosts, alive):
    """hostvars | kong_upgrade_failures(ansible_play_hosts_all, ansible_play_hosts) -> [{task, host, on_host, message}].

    Hosts that were lost come first: what failed on others is most likely their doing. What only guards against going on comes last.
    """
    failures = [failure for failure in (survey.plain(hostvars[host].get("__kong_upgrade_failure")) for host in hosts) if failure]
    own = [failure for failure in failures if failure["task"]]
    # Where a task that runs once fails, Ansible takes all other hosts out of the play, and those in its block are rescued from nothing.
    once = own and (len(own) < len(failures) or set(alive) <= {failure["host"] for failure in own})
    gone = set(hosts) - set(alive) - {failure["host"] for failure in failures} if not once else ()
    # Ansible counts a host as lost, too, when one was that it had delegated a task to.
    text = "%s became unreachable, or a host on which it had something to do: see UNREACHABLE above"
    lost = [{"task": "connection", "host": host, "message": text % host} for host in hosts if host in gone]
    return lost + sorted(own or ([] if lost else failures), key=lambda failure: failure["task"] == GUARD)


def kong_upgrade_command_line(inventories):
    """ansible_inventory_sources | kong_upgrade_command_line -> what the command of the next playbook takes over from that of this one."""
    given = context.CLIARGS.get("extra_vars") or ()
    return {"options": command_line.options(inventories or [], given, context.CLIARGS), "left_out": command_line.left_out(given)}


def kong_upgrade_shown_secrets(given):
    """variables | kong_upgrade_shown_secrets -> names of those that have a secret in them, which nobody is to see."""
    return survey.shown_secrets(survey.plain(given))


def kong_upgrade_controller(run_id=""):
    """Who runs this: the owner that the run's lock names. In a container, a pid means something inside its namespace alone."""
    parent = multiprocessing.parent_process()
    pid = parent.pid if parent else os.getpid()
    with open("/proc/%d/stat" % pid) as stat:
        started = int(stat.read().rpartition(")")[2].split()[19])
    with open("/proc/sys/kernel/random/boot_id") as boot:
        boot_id = boot.read().strip()
    name = platform.node()
    return {
        "controller": name,
        "machine": machine(),
        "boot": boot_id,
        "namespace": os.readlink("/proc/self/ns/pid"),
        "pid": pid,
        "started": started,
        "run_id": run_id or "%s-%d-%d" % (name, pid, started),
    }


def machine() -> str:
    """This machine, the same after a reboot; empty where it has no id, as in a container. (machine-id(5) wants it hashed.)"""
    path = pathlib.Path(MACHINE_ID)
    text = path.read_text().strip() if path.is_file() else ""
    return hashlib.sha256(("bluegreen.kong " + text).encode()).hexdigest()[:16] if text else ""


def kong_upgrade_is_dead(owner):
    """Whether the run that holds the lock was a process of this controller and has ended. Another one may have the same name."""
    me = kong_upgrade_controller()
    if owner.get("controller") != me["controller"]:
        return False
    if owner.get("boot") != me["boot"]:  # this one was started anew since, if it is this one
        return bool(me["machine"]) and owner.get("machine") == me["machine"]
    if owner.get("namespace", me["namespace"]) != me["namespace"]:
        return False
    try:
        with open("/proc/%d/stat" % int(owner["pid"])) as stat:
            fields = stat.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return True
    return fields[0] == "Z" or int(fields[19]) != int(owner["started"])


def was_interrupted(lb):
    """Whether the run that has the lock of this load balancer has ended without giving it back.

    One with a name of its own is a workflow, which keeps its lock from step to step.
    """
    holder = lb["holder"]
    own_name = "%s-%s-%s" % (holder.get("controller"), holder.get("pid"), holder.get("started"))
    return holder["run_id"] == own_name and (not lb["at_work"] or kong_upgrade_is_dead(holder))


class FilterModule:
    """Filters of the role; each is documented beside this file."""

    def filters(self):
        """name -> function"""
        return {
            function.__name__: function
            for function in (
                kong_upgrade_plan,
                kong_upgrade_way,
                kong_upgrade_hops_refusal,
                kong_upgrade_first_node,
                kong_upgrade_datastore,
                kong_upgrade_weights,
                kong_upgrade_weights_record,
                kong_upgrade_cluster_record,
                kong_upgrade_states,
                kong_upgrade_gate,
                kong_upgrade_proof,
                kong_upgrade_report,
                kong_upgrade_all_ok,
                kong_upgrade_failures,
                kong_upgrade_result,
                kong_upgrade_serving,
                kong_upgrade_command_line,
                kong_upgrade_shown_secrets,
                kong_upgrade_controller,
                kong_upgrade_is_dead,
            )
        }
