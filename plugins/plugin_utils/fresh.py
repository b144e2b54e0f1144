# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of a bootstrap: a cluster on a datastore that holds nothing yet. There is a green, and no blue. Pure.

Load balancers have no part in it: a gateway without a route may well fail their health check.

The survey is that of plan.py, Findings those of findings.py. Besides, hosts[host]["record"] is what an earlier bootstrap has left on the
runner, and database may have `server`, what the administrator's login found of role and database before they are made. On Cassandra
`administrator` is what they would make of role and keyspace, or {"error": why nobody can tell}; {} if nobody asked.
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _datastore
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import (
    db,
    findings,
    green_conf,
    inventory,
    plan,
    releases,
    ring,
    state,
    vacancy,
)
from ansible_collections.bluegreen.kong.plugins.plugin_utils.settings import MASK, OF_ONE_NODE


def settings_of(gateway, overrides) -> dict:
    """What a green host's kong.conf will have besides its secrets: what is there already, and the operator's on top."""
    own = {key: value for key, value in ((gateway or {}).get("settings") or {}).items() if str(value) != MASK}
    return {**own, **(overrides or {})}


def datastore(gateway, overrides) -> dict:
    """The datastore that this host will use, as _conf.datastore tells it; {} where the settings cannot be understood."""
    try:
        return _conf.datastore(_conf.plain(settings_of(gateway, overrides)))
    except ConfError:
        return {}


def build(survey: dict) -> dict:
    """The plan of one bootstrap. Never raises for bad input: it is all in `blockers`."""
    found = findings.Findings()
    options, groups, hosts = survey["options"], survey["groups"], survey["hosts"]
    if not groups["green"]:
        found.block("inventory", "group %s is empty or missing" % options["green_group"], inventory.GROUP_HELP % ("new", "green"))
    inventory.check_hosts(survey, found)
    inventory.check_clocks(survey, found)
    target = releases.check_target(survey, None, found)
    releases.check_packages(survey, survey["groups"]["green"], target, found)
    inventory.check_prefixes(survey, found)
    inventory.check_what_choices_need(survey, found)
    settings = {host: settings_of_node(host, survey, target, found) for host in groups["green"] if host in hosts}
    check_stores(survey, found)
    migrations = survey["database"].get("migrations") or {}
    stands = where_it_stands(survey, settings, migrations, target)
    check_database(survey, stands, found)
    make = check_making(survey, found)
    done = {
        "stage": stands["started"] or set(stands["staged"]) == set(groups["green"]),
        "bootstrap": stands["expanded"],
        "start": stands["started"],
    }
    todo = [phase for phase in options["phases"] if not done[phase]]
    names = {"blue": [], "green": [inventory.name_of(survey, host) for host in groups["green"]]}
    result = {
        "source": None,
        "target": options["target_version"],
        "strategy": "bootstrap",
        "datastore": survey["datastore"],
        "hosts": {"blue": [], "green": list(groups["green"])},
        "names": names,
        "settings": settings,
        "make": make,
        "record": record_of(survey),
        "interrupted": stands["interrupted"],
        "stands": stands,
        "left": todo,
        "todo": todo,
        "migrations": {key: migrations.get(key) for key in ("state", "new", "pending", "executed", "lock", "fingerprint")},
        "ahead": [],
        "blockers": found.blockers,
        "warnings": found.warnings,
        "missing": found.missing,
    }
    cut = inventory.check_limit(groups["green"], survey)
    if cut:
        result.update(cut=True, blockers=cut, warnings=[], todo=[], left=[], summary=[], refusal=findings.refusal(cut))
        return result
    result["summary"] = summary(result)
    result["refusal"] = findings.refusal(found.blockers)
    return result


def settings_of_node(host, survey, target, found):
    """kong.conf of one node. The Admin API is open: there is no blue that could be disturbed."""
    seen = survey["hosts"][host]
    own = settings_of(seen.get("gateway"), {})
    nobody = {"values": {key: {value: [host]} for key, value in own.items() if key not in OF_ONE_NODE}, "places": {}, "secrets": set()}
    result = green_conf.settings_of_green(host, survey, nobody, target, found)
    result["admin_listen"] = (
        seen.get("admin_listen") or seen["settings"].get("admin_listen") or own.get("admin_listen") or green_conf.LOOPBACK_ADMIN
    )
    return result


def opens(settings) -> bool:
    """Whether the Admin API of a node with these settings is to answer."""
    return str(settings["admin_listen"]).strip() != "off"


def record_of(survey) -> dict:
    """What the runner remembers of a bootstrap from its begin to its end: which datastore it is about."""
    return {"bootstrap": db.address(survey["datastore"] or {})}


def where_it_stands(survey, settings, migrations, target):
    """What is already done, from the nodes and the database; the record tells only whose an unfinished bootstrap is."""
    gateways = {host: (survey["hosts"].get(host) or {}).get("gateway") or {} for host in survey["groups"]["green"]}
    nodes = {host: gateway.get("node") or {} for host, gateway in gateways.items() if gateway.get("running")}
    ready = [
        host
        for host, node in nodes.items()
        if node.get("database_reachable") is not False and (node.get("admin_open") or not opens(settings[host]))
    ]
    recorded = any(seen.get("record") == record_of(survey) for seen in survey["hosts"].values())
    begun = migrations.get("state") not in (None, "needs_bootstrap", "legacy")
    return {
        "percent": 0.0,
        "percent_most": 0.0,
        "expanded": migrations.get("state") == "up_to_date",
        "ours": recorded or bool(nodes),
        "interrupted": recorded and begun and migrations.get("state") != "up_to_date",
        "green_running": list(nodes),
        "staged": [h for h, node in nodes.items() if (node.get("version") or gateways[h].get("version")) == target],
        "started": bool(gateways) and len(ready) == len(gateways),
    }


def check_stores(survey, found):
    """All nodes have one datastore, of a kind that can be bootstrapped."""
    stores = {}
    for host in survey["groups"]["green"]:
        seen = survey["hosts"].get(host) or {}
        try:
            store = _conf.datastore(_conf.plain(settings_of(seen.get("gateway"), seen.get("settings"))))
        except ConfError as error:
            found.block(host, str(error), "correct kong_upgrade_settings or its kong.conf")
            continue
        stores.setdefault(db.address(store), []).append(host)
        runs = (seen.get("gateway") or {}).get("datastore")
        if seen["gateway"] and seen["gateway"].get("running") and runs and db.address(runs) != db.address(store):
            found.block(host, "a node runs there on %s" % db.address(runs), "stop it, or take the host out of the group")
    if len(stores) > 1:
        told = "; ".join("%s on %s" % (store, ", ".join(hosts)) for store, hosts in sorted(stores.items()))
        found.block(survey["options"]["green_group"], "the nodes name several datastores: %s" % told, "one cluster has one")
    for store, hosts in stores.items():
        if not store.startswith(("postgres ", "cassandra ")):
            found.block(
                ", ".join(hosts), "the datastore is %s" % store.strip(), "there is nothing to bootstrap: set database, or leave this out"
            )


def check_database(survey, stands, found):
    """Nothing but an empty schema is bootstrapped: anything in it is named. An own, unfinished bootstrap goes on."""
    database, host = survey["database"], survey["options"]["database_host"]
    if database.get("error"):
        do = "the database must be readable from kong_upgrade_database_host"
        if not survey["options"]["create_database"]:
            do += "; a role and a database that are missing are made with kong_upgrade_create_database: true"
        found.block(host, database["error"], do)
    vacancy.check_primary(database, found)
    on_cassandra = database.get("kind") == "cassandra"
    if on_cassandra:
        # What the administrator makes, Kong's role may do everything with.
        ring.check(dict(survey, database=dict(database, permissions=None)) if survey.get("administrator") else survey, found)
    migrations = database.get("migrations")
    if not migrations:
        return
    where = vacancy.where(database)
    other = "another keyspace in cassandra_keyspace" if on_cassandra else "an empty database or schema in pg_database or pg_schema"
    used = _datastore.configuration(database.get("counts") or {})
    rows = vacancy.told(["%s: %s" % (name, "?" if count is None else count) for name, count in sorted(used.items())]) or "no configuration"
    if migrations["state"] in ("needs_bootstrap", "legacy"):
        vacancy.check(database, other, found)
        if on_cassandra and not database.get("objects"):
            check_keyspace(survey, found)
    elif migrations["state"] == "up_to_date":
        if not stands["ours"]:
            found.block(
                where,
                "holds a Kong already (%s), and none of its nodes runs here" % rows,
                "name %s; if that Kong is the one you mean, start its nodes with `kong start`" % other,
            )
    elif used or not stands["interrupted"]:
        found.block(
            where,
            "holds a Kong of which not everything has run (%s); %s" % (missing(migrations), rows),
            "if it is in use, it belongs to an older version: playbooks/upgrade.yml; if a bootstrap was interrupted, make the "
            "database or keyspace anew, or run `kong migrations finish`, `up` and `finish` until `kong migrations list` ends with 0",
        )


def lacks_keyspace(database) -> bool:
    """Whether this is a Cassandra that has no such keyspace."""
    return database.get("kind") == "cassandra" and bool(database.get("nodes")) and database.get("replication") is None


def check_keyspace(survey, found):
    """A keyspace that is not there is made by `kong migrations bootstrap`, as kong.conf says and only where that is wanted."""
    database = survey["database"]
    if not lacks_keyspace(database):
        return
    if not survey["options"]["create_database"]:
        found.block(
            vacancy.where(database),
            "is not there",
            "make it, with the replication that you want, or set kong_upgrade_create_database: true; then Kong makes it as "
            "cassandra_repl_strategy and cassandra_repl_factor of kong.conf say (SimpleStrategy, 1)",
        )
        return
    wanted = replication(survey)
    if wanted["class"] == "SimpleStrategy":
        ring.check_copies({"*": wanted["replication_factor"]}, database["nodes"], database["keyspace"], found)


def replication(survey) -> dict:
    """What the settings of the first node want of a keyspace that is to be made, as CREATE KEYSPACE takes it."""
    seen = next((survey["hosts"][host] for host in survey["groups"]["green"] if host in survey["hosts"]), {})
    settings = _conf.plain(settings_of(seen.get("gateway"), seen.get("settings")))
    if (settings.get("cassandra_repl_strategy") or "SimpleStrategy") == "SimpleStrategy":
        return {"class": "SimpleStrategy", "replication_factor": int(settings.get("cassandra_repl_factor") or 1)}
    centers = settings.get("cassandra_data_centers") or "dc1:2,dc2:3"  # Kong's own default
    pairs = [center.strip().rsplit(":", 1) for center in centers.split(",")]
    return {"class": settings["cassandra_repl_strategy"], **{name: int(copies) for name, copies in pairs}}


def missing(migrations):
    """The migrations that did not run to their end."""
    parts = [(name, migrations.get(name)) for name in ("pending", "new")]
    return "; ".join("%s %s" % (name, state.brief(ids)) for name, ids in parts if ids) or "new ones"


def check_making(survey, found):
    """Which of role and database, or keyspace, have to be made: {"role", "database", "keyspace"}; and the replication of the keyspace where
    the administrator makes something on Cassandra, else None."""
    options, server = survey["options"], survey["database"].get("server")
    kongs_own = options["create_database"] and lacks_keyspace(survey["database"])
    nothing = {"role": False, "database": False, "keyspace": kongs_own, "replication": None}
    if survey.get("administrator"):
        return check_making_on_cassandra(survey, nothing, found)
    if not options["create_database"] or not server:
        return nothing
    make = {"role": not server["role"], "database": not server["database"], "keyspace": False, "replication": None}
    store = survey["datastore"]
    if make["role"] and server["database"]:
        found.block(
            "database",
            "database %(database)s is there, but not the role %(user)s" % store,
            "make the role and let it own the database, or remove the empty database: then both are made",
        )
        return nothing
    for what, right in (("role", "createrole"), ("database", "createdb")):
        if make[what] and not server[right]:
            found.block(
                "kong_upgrade_database_admin_user",
                "%s may not make a %s (no %s)" % (server["login"], what, right.upper()),
                "name a role that may, or make %s yourself" % ("role and database" if make["role"] else "the database"),
            )
    if make["role"] and not options["password_given"]:
        found.block(
            options["database_host"],
            "there is no password for the role %(user)s that is to be made" % store,
            "set kong_upgrade_secret_settings.pg_password",
        )
    return make


def check_making_on_cassandra(survey, nothing, found):
    """As check_making, of what the administrator would make."""
    lacks = survey["administrator"]
    if "error" in lacks:
        found.block(
            "kong_upgrade_database_admin_user",
            lacks["error"],
            "correct that, or leave out kong_upgrade_database_admin_password: then role and right are yours to make",
        )
        return nothing
    return {**nothing, "role": "role" in lacks, "keyspace": "keyspace" in lacks, "replication": replication(survey)}


def summary(result):
    """Lines that tell what there is and what this run does."""
    made = [name for name in ("role", "database", "keyspace") if result["make"][name]]
    lines = [
        "Kong %s on a fresh datastore, %s." % (result["target"], db.address(result["datastore"] or {})),
        "Nodes: %d of %d running." % (len(result["stands"]["green_running"]), len(result["names"]["green"])),
        "Schema: %s." % plan.SCHEMA.get(result["migrations"]["state"], "not read"),
        "This run: %s." % (", ".join(result["left"]) or "nothing to do"),
    ]
    if made:
        lines.insert(3, "To be made: %s." % " and ".join(made))
    return lines + ["Warning: %(where)s: %(what)s; %(do)s." % warning for warning in result["warnings"]]
