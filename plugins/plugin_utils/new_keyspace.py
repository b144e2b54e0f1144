# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Strategy `new_keyspace`, as far as its plan differs from that of `blue_green`: green has a keyspace of its own, or a PostgreSQL. Pure.

The survey is that of plan.py, Findings those of findings.py. Its `new_database` is kong_datastore_info's answer about green's keyspace or
database.
"""

from __future__ import annotations

import re

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _datastore
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import vacancy
from ansible_collections.bluegreen.kong.plugins.plugin_utils.settings import MASK

STRATEGY = "new_keyspace"
KEYSPACE = re.compile(r"[A-Za-z0-9_]{1,48}\Z")
# Tables that nodes write for their clients, who come back with it.
RUNTIME = ("oauth2_tokens", "sessions")
# What `kong migrations bootstrap` makes a keyspace with.
REPLICATION = ("cassandra_repl_strategy", "cassandra_repl_factor", "cassandra_data_centers")


def chosen(options):
    """Whether the upgrade goes by this strategy."""
    return options["strategy"] == STRATEGY


def datastore(gateway, overrides):
    """Where green's data will be, before its kong.conf is written: as a blue node has it, with the operator's settings on top.

    gateway: the fact of that node. Returns what _conf.datastore tells; {} where the settings cannot be understood.
    """
    running = (gateway.get("node") or {}).get("settings") or {}
    like_blue = {key: value for key, value in {**(gateway.get("settings") or {}), **running}.items() if str(value) != MASK}
    try:
        return _conf.datastore(_conf.plain({**like_blue, **(overrides or {})}))
    except ConfError:
        return {}


def place(store):
    """How messages name a datastore of green's."""
    if store["kind"] == "cassandra":
        return "keyspace %(keyspace)s" % store
    return "schema %(schema)s of database %(database)s at %(host)s:%(port)s" % store if store["kind"] == "postgres" else store["kind"]


def replicate(survey, settings):
    """Has green's keyspace made with the replication of blue's, unless the operator tells another."""
    kept = survey["database"].get("replication")
    if not kept:
        return
    if kept["class"] == "SimpleStrategy":
        like_blue = {"cassandra_repl_strategy": kept["class"], "cassandra_repl_factor": kept["factors"]["*"]}
    else:
        factors = ["%s:%d" % pair for pair in sorted(kept["factors"].items())]
        like_blue = {"cassandra_repl_strategy": kept["class"], "cassandra_data_centers": ",".join(factors)}
    for host, values in settings.items():
        if values.get("database") == "cassandra" and not set(REPLICATION) & set(survey["hosts"][host].get("settings") or {}):
            values.update(like_blue)


def explained(leads_to, old):
    """One line about the way, for the plan's summary."""
    return (
        "Green's data will be in %s%s: an export of keyspace %s, compared entity by entity; tokens, sessions and what acme stores follow "
        "with the time that they have left, counters of rate limits begin anew. Keyspace %s is only read."
        % (leads_to, "" if leads_to.startswith("keyspace") else ", out of Cassandra", old, old)
    )


def check(survey, settings, found):
    """Whether green has one keyspace or database of its own, that is empty or of this very upgrade. Returns a name of it, or None."""
    old = (survey.get("datastore") or {}).get("keyspace")
    if not old:
        found.block(
            "kong_upgrade_strategy",
            "new_keyspace leads out of a keyspace of Cassandra, and blue has none",
            "choose blue_green, with which both versions work on one database",
        )
        return None
    places = check_places(settings, old, found)
    own = places not in ("", "keyspace %s" % old)  # else what was looked into is blue's
    written = [name for name in RUNTIME if ((survey["database"].get("answers") or {}).get(name) or {}).get("found")]
    if written and list(survey["options"]["steps"]) != [100]:
        found.warn(
            "keyspace %s" % old,
            "%s are in use: what blue issues is copied to green within seconds, what green issues is unknown to blue"
            % " and ".join(written),
            "shift in one step (kong_upgrade_steps: [100]), or have the load balancers keep a client with one colour",
        )
    database = survey["new_database"]
    if database.get("error"):
        found.block(survey["options"]["database_host"], database["error"], "what green is to use must be readable from there")
    vacancy.check_primary(database, found)
    check_rights(database, places, found)
    state = (database.get("migrations") or {}).get("state")
    if state in ("needs_bootstrap", "legacy"):
        vacancy.check(database, "another one in kong_upgrade_settings of green", found)
    elif own and state not in (None, "up_to_date"):
        found.warn(
            places,
            "not all of its migrations have run, as after a bootstrap that was interrupted; that is completed, if it holds no "
            "configuration",
            "if it is of another version of Kong, name another one in kong_upgrade_settings of green",
        )
    used = _datastore.configuration(database.get("counts") or {})
    if own and used and not any((seen.get("gateway") or {}).get("running") for seen in map(survey["hosts"].get, settings)):
        found.warn(
            places,
            "holds configuration already (%s): what blue has not is refused before anything is imported"
            % vacancy.told("%s: %s" % (name, "?" if count is None else count) for name, count in sorted(used.items())),
            "name another one in kong_upgrade_settings of green, unless it is of an earlier run",
        )
    return places


def check_places(settings, old, found):
    """Whether all of green is to use one keyspace or database, and not blue's. Returns how messages name it."""
    stores = [_conf.datastore(_conf.plain(values)) for values in settings.values() if understood(values)]
    places = sorted({place(store) for store in stores})
    told = ", ".join(places)
    if len(places) > 1:
        found.block(", ".join(settings), "green would use several databases: %s" % told, "name one in kong_upgrade_settings")
    elif places == ["keyspace %s" % old]:
        found.block(
            "kong_upgrade_settings",
            "strategy new_keyspace wants a keyspace for green, and %s is blue's" % old,
            "set cassandra_keyspace in kong_upgrade_settings of green, such as %s_2_8, which is made if it is not there; or database: "
            "postgres, with pg_host and the like" % old,
        )
    for name in sorted({store["keyspace"] for store in stores if store["kind"] == "cassandra"}):
        if not KEYSPACE.match(name):
            found.block(
                "kong_upgrade_settings",
                "cassandra_keyspace %s is no name that Cassandra takes" % name,
                "letters, digits and _, at most 48 of them",
            )
    return told


def understood(values):
    """Whether settings name a datastore; that of those which do not is told by check_database."""
    try:
        _conf.datastore(_conf.plain(values))
    except ConfError:
        return False
    return True


def check_rights(database, places, found):
    """Whether Kong's role may make what green is to use, where it is not there."""
    may = database.get("permissions")
    if may is not None and "CREATE" not in may and "replication" in database and not database["replication"]:
        found.block(
            "Cassandra",
            "the role %s may not make %s" % (database.get("login_role"), places),
            "GRANT CREATE ON ALL KEYSPACES to it, or make the keyspace by hand, empty, and GRANT ALL PERMISSIONS ON it",
        )


def shut(survey):
    """Blue nodes whose Admin API this upgrade has closed: {host: what it listened on before}."""
    remembered = {}
    for lb in survey["lbs"].values():
        remembered.update(lb.get("admin_listen") or {})
    closed = {}
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
        before = remembered.get(host)
        if before and before != "off" and listens(gateway) == "off":
            closed[host] = before
    return closed


def listens(gateway):
    """admin_listen of a node as it runs, or, where none runs, as its configuration has it."""
    running = (gateway.get("node") or {}).get("settings") or {}
    return str(running.get("admin_listen") or (gateway.get("settings") or {}).get("admin_listen") or "").strip()


def record(gateways):
    """What has to be remembered of blue before its Admin API is closed: {host: admin_listen}."""
    return {host: listens(gateway or {}) for host, gateway in gateways.items() if listens(gateway or {})}
