# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of strategy `rolling`: the hosts of the cluster are taken over one batch after the other, a canary alone first. Pure.

There is no second group: a host whose node runs the target counts as green, every other one as blue, so that the checks of a
blue/green upgrade hold for it too. The survey is that of plan.py, Findings those of findings.py.
"""

from __future__ import annotations

import re

from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import (
    balancers,
    conf_review,
    db,
    findings,
    green_conf,
    hazards,
    inventory,
    knowledge,
    path,
    plan,
    releases,
    restore,
    room,
    state,
    templates,
)
from ansible_collections.bluegreen.kong.plugins.plugin_utils.settings import MASK, effective

# A package that is one version alone: a file, or a name with its version.
PINNED = re.compile(r"[=/]|-[0-9]|[.](?:deb|rpm)$")
# What the database of nodes that have none would answer.
NOTHING_TO_MIGRATE = {"state": "up_to_date", "new": {}, "pending": {}, "executed": {}}


def build(survey: dict) -> dict:
    """The plan of one rolling upgrade; see plan.build. Never raises for bad input: it is all in `blockers`."""
    options = survey["options"]
    back, restores = "rollback" in options["phases"], "restore" in options["phases"]
    found = findings.Findings(options["looks"])
    cluster = survey["groups"]["blue"]
    shape = inventory.check_groups(dict(survey["groups"], green=[]), options, found, needed=("blue", "lb"))
    target = options["target_version"]
    survey = dict(survey, groups=divide(survey["groups"], survey["hosts"], target))
    groups = survey["groups"]
    inventory.check_hosts(survey, found)
    inventory.check_clocks(survey, found)
    releases.check_commands(survey, found)
    source = source_of(survey, found)
    way = path.find([source], target, state.kind_of_datastore(survey)) if source else None
    # On the way back nobody asks any more whether the target is in place.
    target = releases.check_target(dict(survey, groups=dict(groups, green=[])) if back else survey, way, found)
    running = source if knowledge.versions().get(source, {}).get("openresty") else None
    check_choices(survey, target, found)
    check_hybrid(survey, target, found)
    survey["unbalanced"] = [host for host in cluster if role_of(survey, host) == "control_plane"]
    releases.check_templates(survey, found)
    inventory.check_prefixes(survey, found)
    servers = balancers.servers_of(survey, found)
    balancers.check_everyone_served(servers, survey, found)
    dbless = is_dbless(survey)
    migrations = NOTHING_TO_MIGRATE if dbless else (survey["database"].get("migrations") or {}) if target else {}
    db.check(survey, {}, found)
    check_declarative(survey, found)
    # That the schema is up to date may be the work of an earlier run of this upgrade.
    migrates = not dbless and state.reached(knowledge.new_in_up, running, target)
    reload = not migrates and by_reload(running, target, migrations)
    # Without a migration, and on nodes without a database, there is nothing that a write could be lost in.
    with_database = [] if reload else [host for host in cluster if datastore_of(survey, host) != "off"]
    names = {host: inventory.name_of(survey, host) for host in cluster}
    left = [host for host in cluster if host not in groups["green"] or not serves(servers, names[host])]
    open_rolled = [host for host in groups["green"] if host in with_database and admin_open(survey, host)]
    opened = all(admin_open(survey, host) for host in with_database)
    stands = where_it_stands(state.where_it_stands(survey, servers, migrations, running, target), left, cluster, opened)
    stands["restored"] = bool((survey.get("backup") or {}).get("restored"))
    away = [h for h in cluster if h not in stands["blue_running"] or not serves(servers, names[h])]
    if back and not restores and not source and groups["green"] and not stands["finished"]:
        found.block(
            "kong_upgrade_source_version",
            "is empty, and neither a node nor a record on %s tells which version the hosts had" % ", ".join(groups["lb"]),
            "set it to that version; kong.conf as it was is kept beside it with that version at the end of its name",
        )
    todo = phases_to_run(options, stands, with_database, away, found)
    db.check_server(survey, todo, found)
    balancers.check_conf_files(survey, servers, todo, found)
    state.check_age_of_backup(survey, running, target, stands, found)
    # A restore has stopped all of them.
    at_rest = [h for h in groups["blue"] if h in stands["blue_running"] or not (restores or out_of_service(servers, names[h]))]
    state.check_state(
        dict(survey, groups=dict(groups, blue=at_rest)), running, target, dict(stands, green_open=[]), found
    )
    if "roll" in todo and migrations.get("new"):
        room.look(survey["database"], float(options["max_transaction_age"]), found)
    stands_open = dict(stands, green_open=open_rolled)
    state.check_way_back(survey, running, target, stands_open, migrations, found)
    if restores:
        check_restore(survey, running, target, stands_open, migrations, found)
    if "roll" in todo:
        releases.check_packages(survey, left, target, found)
    check_old_version(survey, away if back else left, source, found)
    ahead = {"hazards": [], "checklist": []} if back else hazards.check(survey, running, target, stands, found)
    green_conf.check_conf_files(survey, left, running, found)
    settings = {host: settings_of(host, survey, running, target, host in with_database, found) for host in left}
    shape = control_planes_first(survey, shape)
    turns = batches(shape, options["runner"]) if options["runner"] in cluster else shape
    if restores:
        turns = all_at_once(cluster, with_database)
    for number, batch in enumerate(turns, 1):
        batch["percent"] = round(100 * sum(len(b["hosts"]) for b in turns[:number]) / len(cluster))
    # After a restore nobody serves, whatever ran there before it.
    turns_left = [batch for batch in turns if set(batch["hosts"]) & set(away)] if restores else remaining(turns, away if back else left)
    turns_left = turns_left[::-1] if back and not restores else turns_left
    balanced = balancers.names_of(servers)
    for before, batch in zip([None] + turns_left, turns_left):
        members = batch["names"] = [names[host] for host in batch["hosts"] if names[host] in balanced]
        batch["servers"] = {lb: balancers.places_of(places, members, options) for lb, places in servers.items()}
        batch["after"] = before["hosts"] if before else []
    if "roll" in todo and not reload:
        check_others_serve(survey, servers, turns_left, found)
    later = {host: admin_listen_later(host, survey) or green_conf.LOOPBACK_ADMIN for host in cluster}
    frequencies = [inventory.frequency_of(seen.get("gateway")) for seen in survey["hosts"].values()]
    command = ((survey["hosts"].get(options["runner"]) or {}).get("gateway") or {}).get("version")
    result = {
        "source": source,
        "target": options["target_version"],
        "strategy": "rolling",
        "back": back,
        "reload": reload,
        "with_database": with_database,
        "admin_local": [host for host in with_database if role_of(survey, host) == "control_plane"],
        "datastore": survey.get("datastore") or {},
        "hosts": {"blue": left, "green": [h for h in cluster if h not in left]},
        "names": {"blue": [names[h] for h in left], "green": [names[h] for h in cluster if h not in left]},
        "at": {
            lb: {"blue": [], "green": balancers.places_of(p, [name for name in names.values() if name in balanced], options)}
            for lb, p in servers.items()
        },
        "batches": turns,
        "batches_left": turns_left,
        "settings": settings,
        "admin_listen": later,
        "servers": servers,
        "steps": [],
        "stands": stands,
        "left": todo,
        "todo": [] if options["looks"] else todo,
        # the command may be the target's already: it cannot export from a database that is not migrated
        "can_export": bool(source) and command == source and knowledge.compare(source, plan.DB_EXPORT_SINCE) >= 0,
        "proof_seconds": 2 * max(frequencies or [5.0]),
        "migrations": {
            key: migrations.get(key) for key in ("state", "new", "pending", "executed", "lock", "fingerprint")
        },
        "nodes": survey["database"].get("nodes"),
        "ahead": state.migrations_ahead(migrations, running, target),
        "restore": survey.get("backup") or None,
        "path": way,
        "templates": templates.ahead(survey, running, target),
        "conf": None,
        "hazards": ahead["hazards"],
        "checklist": ahead["checklist"],
        "blockers": found.blockers,
        "warnings": found.warnings,
        "missing": found.missing,
    }
    return plan.completed(result, survey, cluster + groups["lb"])


def source_of(survey, found):
    """The version of the hosts which are not rolled: what they run, else what the run's record tells, the operator, or the name of the
    dump that a restore brings back; None where nothing does."""
    running = [host for host in survey["groups"]["blue"] if version_of(survey["hosts"].get(host))]
    if running:
        return releases.version_of_blue(dict(survey, groups=dict(survey["groups"], blue=running)), found)
    recorded = next((lb["source"] for lb in survey["lbs"].values() if lb.get("source")), None)
    return recorded or survey["options"].get("source_version") or restore.version_of(survey.get("backup"))


def check_others_serve(survey, servers, turns, found):
    """Batches that are all that a backend has: while they are out of service nobody would answer."""
    for batch in turns:
        alone = {}
        for lb, places in servers.items():
            for place in places.values():
                inside = set(batch["names"]) & set(place["state"])
                others = [
                    server
                    for process in survey["lbs"][lb].get("balancers") or []
                    for server in process["servers"]
                    if server["backend"] == place["backend"]
                    and server["name"] not in inside
                    and (server["name"] in place["state"] or (server["weight"] and server["admin_state"] == "ready"))
                ]
                if inside and not others:
                    alone.setdefault(place["backend"], []).append(lb)
        for backend, lbs in alone.items():
            found.block(
                "kong_upgrade_batches",
                "%s has every server of backend %s on %s" % (batch["name"], backend, ", ".join(lbs)),
                "divide it into batches, of which one serves while another is replaced; a host alone needs a second one beside it",
            )


def check_choices(survey, target, found):
    """Variables that strategy rolling needs, and commands that have to be there already."""
    options, cluster = survey["options"], survey["groups"]["cluster"]
    back = "rollback" in options["phases"]
    if cluster and options["runner"] not in cluster:
        found.block(
            "kong_upgrade_runner",
            "is %s, which is no host of %s" % (options["runner"] or "empty", options["blue_group"]),
            "it is the canary of strategy rolling: name one of its hosts, or leave it out",
        )
    for host in cluster:
        seen = survey["hosts"].get(host) or {}
        version = (seen.get("gateway") or {}).get("version")
        if back:
            continue  # see check_old_version
        if seen.get("install") == "preinstalled" and target and version and version != target:
            found.later(
                host,
                "the kong command is %s, not the target %s" % (version, target),
                "choose kong_upgrade_install, by which strategy rolling puts the target in its place",
            )
        if seen.get("install") == "tasks" and not seen["install_tasks"]:
            found.block(host, "kong_upgrade_install is tasks, but there is no kong_upgrade_install_tasks", "set it")


def datastore_of(survey, host):
    """postgres, cassandra or off, as the facts of a host have it; None where they do not tell."""
    gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
    return (gateway.get("datastore") or {}).get("kind")


def role_of(survey, host):
    """The part of a host in hybrid mode, its own settings first: control_plane, data_plane, or traditional."""
    seen = survey["hosts"].get(host) or {}
    gateway = seen.get("gateway") or {}
    sources = (seen.get("settings"), gateway.get("settings"), (gateway.get("node") or {}).get("settings"))
    return next((settings["role"] for settings in sources if (settings or {}).get("role")), "traditional")


def is_dbless(survey):
    """Whether the cluster has no database (`database = off` on every host that tells)."""
    return {datastore_of(survey, host) for host in survey["groups"]["cluster"]} - {None} == {"off"}


def check_hybrid(survey, target, found):
    """Hybrid mode: the canary is a control plane, and no data plane is of a version that a control plane refuses, now or later."""
    options, cluster = survey["options"], survey["groups"]["cluster"]
    roles = {role: [host for host in cluster if role_of(survey, host) == role] for role in ("control_plane", "data_plane")}
    if not roles["data_plane"]:
        return
    if roles["control_plane"]:
        found.warn(
            ", ".join(roles["control_plane"]),
            "Kong starts no control plane without an Admin API, so until finish it listens at %s, on its own host alone"
            % green_conf.LOCAL_ADMIN,
            "let nobody write through it there: what is written before finish can be lost",
        )
    else:
        found.warn(
            ", ".join(roles["data_plane"]),
            "are data planes, and their control planes are not in %s" % options["blue_group"],
            "make sure that those run %s already" % options["target_version"],
        )
    if roles["control_plane"] and options["runner"] in roles["data_plane"]:
        found.block(
            "kong_upgrade_runner",
            "is %s, which is a data plane" % options["runner"],
            "control planes go first, and the canary runs the migrations: name one of %s" % ", ".join(roles["control_plane"]),
        )
    controls = {version_of(survey["hosts"].get(host)) for host in roles["control_plane"]} | {target}
    for host in roles["data_plane"]:
        version = version_of(survey["hosts"].get(host))
        for control in sorted(filter(None, controls)) if version else ():
            why = knowledge.skew(control, version)
            if why:
                found.block(
                    host,
                    "a control plane %s sends nothing to a data plane %s: %s" % (control, version, why),
                    "bring it to a version that both its control planes of now and of then serve",
                )
    told = knowledge.version_told()
    versions = {host: version_of(survey["hosts"].get(host)) for host in roles["data_plane"]}
    deaf = [host for host, version in versions.items() if version and knowledge.compare(version, told) < 0]
    if deaf and target:
        found.warn(
            ", ".join(deaf),
            "data planes before %s do not tell their version, so a control plane %s refuses them: they serve what they have until "
            "they are rolled" % (told, target),
            "change no entity and restart none of them until then",
        )


def check_declarative(survey, found):
    """DB-less nodes that would start empty: what was only sent to their Admin API is gone with the process."""
    for host in survey["groups"]["cluster"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
        settings = {**(gateway.get("settings") or {}), **((survey["hosts"].get(host) or {}).get("settings") or {})}
        named = settings.get("declarative_config") or settings.get("declarative_config_string")
        if datastore_of(survey, host) == "off" and role_of(survey, host) != "data_plane" and not named:
            found.block(
                host,
                "is DB-less and names no declarative_config: what it serves was sent to its Admin API, and ends with the process",
                "save that as a file on the host, and name it as declarative_config in its kong.conf or kong_upgrade_settings",
            )


def check_old_version(survey, hosts, source, found):
    """Whether the old version could be put back, where a host fails or all are rolled back."""
    back, restores = ("rollback" in survey["options"]["phases"], "restore" in survey["options"]["phases"])
    seen = {host: survey["hosts"][host] for host in hosts if host in survey["hosts"]}
    # Where the old command is there still, nothing is installed on the way back.
    absent = {h: s for h, s in seen.items() if not (back and source and (s["gateway"] or {}).get("version") == source)}
    pinned = [h for h, s in absent.items() if s["install"] == "package" and PINNED.search(s["package"]) and not s["old_package"]]
    tasks = [h for h, s in seen.items() if s["install"] == "tasks" and not s["reinstall_tasks"]]
    what = "nothing puts the old version back, if the target fails there"
    if pinned:
        found.later(", ".join(pinned), what, "name its file or package in kong_upgrade_old_package")
    for host, its in absent.items():
        if releases.lacks(its, its["old_package"]):
            found.later(
                host,
                "kong_upgrade_old_package is %s, which is not on that host, and nothing else puts the old version back"
                % its["old_package"],
                "copy it there, or name a file or package that it has",
            )
    unoffered = [h for h, s in absent.items() if source and not s["old_package"] and h not in pinned and not releases.offers(s, source)]
    if unoffered:
        found.later(
            ", ".join(unoffered),
            "the package manager has no package kong %s, and nothing else puts the old version back, if the target fails" % source,
            "name its file or package in kong_upgrade_old_package",
        )
    if tasks and back:
        found.block(", ".join(tasks), "nothing puts the old version back", "set kong_upgrade_reinstall_tasks")
    elif tasks:
        found.warn(", ".join(tasks), what, "set kong_upgrade_reinstall_tasks")
    # A restore that changes nothing starts the target again, so that its command has to stay till the data are back.
    there = [h for h, s in seen.items() if s["install"] == "preinstalled" and (restores or (s["gateway"] or {}).get("version") != source)]
    if there and back and source:
        found.block(
            ", ".join(there),
            "nothing puts Kong %s back" % source,
            "set kong_upgrade_install: tasks and kong_upgrade_reinstall_tasks, a task file that does"
            + ("" if restores else ", or put its command there yourself"),
        )


def phases_to_run(options, stands, with_database, away, found):
    """Phases of this run that have something to do, in order. with_database: hosts for which there may be something to finish."""
    wanted = options["phases"]
    for phase in wanted:
        if phase not in ("backup", "roll", "finish", "rollback", "restore"):
            found.block("phase %s" % phase, "is no phase of strategy rolling", "run playbooks/upgrade.yml")
    if wanted == ["finish"] and not stands["retired"]:
        found.block("phase finish", "comes after roll, which is not done", "run playbooks/upgrade.yml first")
    # Where nothing is migrated there is no point of no return: the Admin API stays open all the time.
    done = {
        "backup": stands["expanded"],
        "roll": stands["retired"],
        "finish": stands["finished"] or not with_database,
        "restore": stands["restored"],
        "rollback": not away,
    }
    return [phase for phase in wanted if not done.get(phase, True)]


def check_restore(survey, source, target, stands, migrations, found):
    """Whether the data of the backup may come back, and the version that ran on them."""
    backup = survey.get("backup") or {}
    if is_dbless(survey):
        found.block("restore", "there is no database, and so no backup of it", "playbooks/rollback.yml puts the old version back")
        return
    restore.check(survey, source, target, stands, migrations, found)
    if not source and backup.get("path"):
        found.block(
            survey["options"]["database_host"],
            "the name of %s does not tell which version ran on its data" % backup["path"],
            "name the dump and its checksum as the role does: DATABASE-VERSION-ANYTHING.pgc",
        )


def all_at_once(cluster, with_database):
    """The batches of a restore: nobody serves meanwhile, so all hosts at once; data planes of hybrid mode after what they listen to."""
    planes = [host for host in cluster if host not in with_database]
    groups = {"all hosts": [host for host in cluster if host in with_database], "data planes": planes}
    return [{"name": name, "hosts": hosts} for name, hosts in groups.items() if hosts]


def admin_open(survey, host):
    """Whether the Admin API of a host answers, but for a control plane's until finish."""
    node = ((survey["hosts"].get(host) or {}).get("gateway") or {}).get("node") or {}
    return bool(node.get("admin_open")) and (node.get("settings") or {}).get("admin_listen") != green_conf.LOCAL_ADMIN


def record(gateways: dict, target: str) -> dict:
    """What the run has to remember of the cluster before it is rolled: {"source": version, "admin_listen": {host: value}}.

    gateways: {host: fact of kong_version_facts or None}. {} once a host is rolled: then the record has it.
    """
    nodes = {host: (gateway or {}).get("node") or {} for host, gateway in gateways.items()}
    versions = {node["version"] for node in nodes.values() if node.get("version")}
    if len(versions) != 1 or target in versions:
        return {}
    listens = {host: ((gateway or {}).get("settings") or {}).get("admin_listen") for host, gateway in gateways.items()}
    listens = {
        host: value or (nodes[host].get("settings") or {}).get("admin_listen") for host, value in listens.items()
    }
    return {"source": versions.pop(), "admin_listen": {host: value for host, value in listens.items() if value}}


def out_of_service(servers, name):
    """Whether no load balancer sends anything to a server."""
    states = [
        place["state"].get(name) for places in servers.values() for place in places.values() if name in place["state"]
    ]
    return all(state in ("maint", "drain") for state in states)


def divide(groups: dict, hosts: dict, target: str) -> dict:
    """The groups of a survey, with the cluster's hosts told apart by what their node runs; `cluster` has them all."""
    cluster = groups["blue"]
    rolled = [host for host in cluster if version_of(hosts.get(host)) == target]
    return {**groups, "blue": [h for h in cluster if h not in rolled], "green": rolled, "cluster": cluster}


def version_of(seen) -> str | None:
    """What the node of a host runs; None where none does."""
    node = ((seen or {}).get("gateway") or {}).get("node") or {}
    return node.get("version")


def control_planes_first(survey, given):
    """The batches, those of hybrid mode's data planes last: a batch of both is made two."""
    planes = {host for batch in given for host in batch["hosts"] if role_of(survey, host) == "data_plane"}
    first = [dict(batch, hosts=[host for host in batch["hosts"] if host not in planes]) for batch in given]
    last = [dict(batch, hosts=[host for host in batch["hosts"] if host in planes]) for batch in given]
    return [batch for batch in first + last if batch["hosts"]]


def batches(given: list[dict], runner: str) -> list[dict]:
    """The batches, the canary before them: it runs the migrations, and is a batch of its own."""
    rest = [dict(batch, hosts=[host for host in batch["hosts"] if host != runner]) for batch in given]
    return [{"name": "canary", "hosts": [runner]}] + [batch for batch in rest if batch["hosts"]]


def remaining(turns: list[dict], hosts: list[str]) -> list[dict]:
    """The batches with those hosts alone: what is done already, beside one that has failed say, is neither drained nor touched."""
    cut = [dict(batch, hosts=[host for host in batch["hosts"] if host in hosts]) for batch in turns]
    return [batch for batch in cut if batch["hosts"]]


def by_reload(source: str | None, target: str | None, migrations: dict) -> bool:
    """Whether a reload is enough: nothing is to be migrated, and both versions need the same build of OpenResty.

    `kong reload` keeps the old nginx binary (facts of Kong's commands in every version).
    """
    return bool(source and target) and migrations.get("state") == "up_to_date" and knowledge.same_openresty(source, target)


def settings_of(host: str, survey: dict, source: str | None, target: str | None, shut: bool, found) -> dict:
    """What is to be changed in a host's own kong.conf: {property: value, None to take it out}.

    shut: whether the Admin API is out of reach until finish.
    """
    seen = survey["hosts"][host]
    gateway = seen.get("gateway") or {}
    has = {key: value for key, value in (gateway.get("settings") or {}).items() if value != MASK}
    result = {}
    green_conf.check_names(host, survey, target, found)
    if source and target:
        try:
            review = conf_review.review(has, source, target)
        except ConfError as error:
            found.block(host, str(error), "write it in another way in its kong.conf or its KONG_ variable")
            return result
        for entry in review["renamed"] + review["deprecated"]:
            result[entry["key"]] = None
            result.update((new, review["proposed"][new]) for new in entry["by"] if new in review["proposed"])
        for entry in review["removed"]:
            result[entry["key"]] = None
    result.update(seen.get("settings") or {})
    if shut:
        result["admin_listen"] = green_conf.LOCAL_ADMIN if role_of(survey, host) == "control_plane" else "off"
        if str(has.get("status_listen") or "off").strip() == "off" and "status_listen" not in result:
            result["status_listen"] = green_conf.LOCAL_STATUS
    return result


def serves(servers: dict, name: str) -> bool:
    """Whether every load balancer sends requests to a server."""
    states = [
        place["state"][name] for places in servers.values() for place in places.values() if name in place["state"]
    ]
    return all(state == "ready" for state in states)


def where_it_stands(so_far: dict, left: list[str], cluster: list[str], opened: bool) -> dict:
    """Where a rolling upgrade stands, in the words of state.where_it_stands. opened: whether every Admin API answers."""
    done = bool(cluster) and not left
    finished = done and so_far["expanded"] and not so_far["pending"] and opened
    phase = "roll" if left else "done" if finished else "finish"
    return dict(so_far, shifted=done, retired=done, finished=finished, phase=phase, blue_left=left, green=list(cluster))


def admin_listen_later(host: str, survey: dict) -> str | None:
    """What the Admin API of a host listened on before the upgrade: its own settings, the run's record, what it runs with."""
    seen = survey["hosts"].get(host) or {}
    told = [(seen.get("settings") or {}).get("admin_listen")]
    told += [(lb.get("admin_listen") or {}).get(host) for lb in survey["lbs"].values()]
    gateway = seen.get("gateway") or {}
    if gateway:
        told.append(effective(gateway, None).get("admin_listen"))
        told.append(((gateway.get("node") or {}).get("settings") or {}).get("admin_listen"))
        told.append((gateway.get("settings") or {}).get("admin_listen"))
    return next((value for value in told if value and str(value).strip() not in ("off", green_conf.LOCAL_ADMIN)), None)
