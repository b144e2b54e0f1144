# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kong.conf of green out of what blue has set: what is handed on, under which name, and what the operator has to say. Pure.

The survey is that of plan.py, Findings those of findings.py.
"""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import conf_review, knowledge
from ansible_collections.bluegreen.kong.plugins.plugin_utils.settings import MASK, OF_ONE_NODE, effective

LOOPBACK_ADMIN = "127.0.0.1:8001, 127.0.0.1:8444 ssl"
LOCAL_STATUS = "127.0.0.1:8100"
# Where the Admin API of a control plane is until finish: Kong starts none without (conf_loader of every version that has hybrid
# mode), so it is out of reach from elsewhere, and no tool knows the port.
LOCAL_ADMIN = "127.0.0.1:8101"


def settings_of_blue(survey, source, target, found):
    """What blue has set, as the target calls it, looked at once for all of green.

    Returns values {key: {value: [hosts]}}, places {key: [hosts]} of the values that hold the address, name or prefix of a blue host,
    secrets (set of keys), hosts, reviews [(hosts, what conf_review.review says of what they have set)].
    """
    blue = {"values": {}, "places": {}, "secrets": secrets_of_blue(survey), "hosts": [], "reviews": []}
    reviews = {}
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway")
        if not gateway:
            continue
        blue["hosts"].append(host)
        own = own_words(host, gateway)
        settings = effective(gateway, source)
        drifted(host, gateway, found)
        if source and target:
            # A secret stays where it is; but one whose name is wrong is read by nobody.
            for key, value in (gateway.get("settings") or {}).items():
                if value == MASK and not any(knowledge.key_exists(version, key) for version in (source, target)):
                    settings[key] = value
            alike = tuple(settings.items())
            if alike not in reviews:
                try:
                    reviews[alike] = ([], conf_review.review(settings, source, target))
                except ConfError as error:
                    found.block(host, str(error), "write it in another way in its kong.conf or its KONG_ variable")
                    continue
                blue["reviews"].append(reviews[alike])
            reviews[alike][0].append(host)
            settings = reviews[alike][1]["proposed"]
        for key, value in settings.items():
            if any(word in str(value) for word in own):
                blue["places"].setdefault(key, []).append(host)
            else:
                blue["values"].setdefault(key, {}).setdefault(str(value), []).append(host)
    return blue


def drifted(host, gateway, found):
    """Warns of properties that kong.conf or the environment say otherwise than the node runs with: green gets what runs."""
    running = (gateway.get("node") or {}).get("settings") or {}
    for key, value in sorted((gateway.get("settings") or {}).items()):
        if key in running and key not in OF_ONE_NODE and MASK not in (value, running[key]):
            if not _conf.same_value(key, str(value), str(running[key])):
                found.warn(
                    host,
                    "%s is %s in its configuration, and %s in the running node" % (key, value, running[key]),
                    "green gets what runs; set it in kong_upgrade_settings if the other is meant",
                )


def check_conf_files(survey, hosts, source, found):
    """Running nodes that nothing could start again as they are: their kong.conf is not there, or is not the one that they run with.

    Of a file that is there only what leads to the datastore counts. On the way back nothing of this is asked: what runs may stay.
    """
    if {"rollback", "restore"} & set(survey["options"]["phases"]):
        return
    for host in hosts:
        gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
        absent = gateway.get("conf_mode", "") is None
        unsaid = [
            key
            for key in (effective(gateway, source) if gateway.get("running") else {})
            if key not in (gateway.get("settings") or {}) and (absent or key == "database" or key.startswith(("pg_", "cassandra_")))
        ]
        if unsaid:
            found.block(
                host,
                "Kong runs there with %s set by neither %s%s nor an environment that can be seen"
                % (", ".join(unsaid), gateway.get("conf"), ", which is not there," * absent),
                "set kong_upgrade_conf of this host to the file that it was started with, or write them into that one",
            )


def conf_ahead(survey, blue, settings, later, source, target, found):
    """What becomes of blue's kong.conf: the lists of conf_review.review, each entry with the hosts it concerns, and the difference between
    the first blue node's and the first green node's, or, without green, what is proposed for it, until finish and after it. None where
    nothing is known. later: what the Admin API of each green host listens on after finish."""
    if not blue["reviews"]:
        return None
    result = {}
    for name in ("removed", "renamed", "deprecated", "newly_read", "unknown", "changed_defaults"):
        entries = {}
        for hosts, review in blue["reviews"]:
            for entry in review[name]:
                if name == "changed_defaults" and entry["key"] in OF_ONE_NODE:
                    continue  # not handed on: green gets values of its own, which are written down
                same = entries.setdefault((entry["key"], entry["do"]), dict(entry, hosts=[]))
                same["hosts"] += hosts
        result[name] = list(entries.values())
    for name in ("removed", "newly_read", "unknown"):
        for entry in result[name]:
            found.warn(
                ", ".join(entry["hosts"]), "%s in kong.conf or a KONG_ variable" % entry["key"], entry["do"], "conf"
            )
    first, review = blue["reviews"][0][0][0], blue["reviews"][0][1]
    green = next((host for host in survey["groups"]["green"] if host in settings), None)
    try:
        before = conf_review.shown(effective(survey["hosts"][first]["gateway"], source), source, target)
        after = conf_review.shown(settings[green], target) if green else review["proposed"]
    except ConfError as error:
        found.block(green, str(error), "correct kong_upgrade_settings")
        return dict(result, diff="", diff_finished="")
    names = ("what %s runs with, Kong %s" % (first, source), "kong.conf of %s, Kong %s" % (green or "green", target))
    result["diff"] = conf_review.difference(before, after, *names)
    opened = dict(after, admin_listen=later[green]) if green else after
    result["diff_finished"] = conf_review.difference(before, opened, *names)
    return result


def check_agreement(survey, blue, found):
    """Properties in which blue nodes differ, unless the first green host says which is right."""
    first = survey["hosts"].get(next(iter(survey["groups"]["green"]), None)) or {}
    chosen = {*(first.get("settings") or {}), *(first.get("secret_settings") or [])}
    tell = found.block if survey["groups"]["green"] else found.later
    for key, values in sorted(blue["values"].items()):
        if len(values) > 1 and key not in chosen:
            tell(
                ", ".join(blue["hosts"]),
                "blue nodes differ in %s" % key,
                "say which is right in kong_upgrade_settings of green",
            )


def settings_of_green(host, survey, blue, target, found):
    """kong.conf of one green node: blue's settings (settings_of_blue), the operator's on top, and what the upgrade needs."""
    overrides = dict(survey["hosts"][host].get("settings") or {})
    secret = set(survey["hosts"][host].get("secret_settings") or [])
    chosen = set(overrides) | secret
    agreed = {key: next(iter(values)) for key, values in blue["values"].items() if key not in chosen}
    places = {key: hosts for key, hosts in blue["places"].items() if key not in chosen}
    for key, hosts in sorted(places.items()):
        if not target or knowledge.key_exists(target, key):
            found.block(
                host, "%s of %s names a blue host" % (key, hosts[0]), "set it for this host in kong_upgrade_settings"
            )
        agreed.pop(key, None)
    result = dict(sorted({**agreed, **overrides}.items()))
    result["admin_listen"] = "off"
    result.setdefault("status_listen", LOCAL_STATUS)
    if str(result["status_listen"]).strip() == "off":
        result["status_listen"] = LOCAL_STATUS
    prefix = ((survey["hosts"][host].get("gateway") or {}).get("prefix")) or overrides.get("prefix")
    if prefix:
        result["prefix"] = prefix
    check_names(host, survey, target, found)
    for key, value in overrides.items():
        if _conf.is_secret(key, str(value)):
            found.block(
                host, "%s in kong_upgrade_settings is a secret" % key, "put it into kong_upgrade_secret_settings"
            )
    own = (survey["hosts"][host].get("gateway") or {}).get("settings") or {}
    if survey["hosts"][host]["install"] != "tasks":
        for key in sorted(blue["secrets"] - secret - set(overrides) - set(own)):
            if target and knowledge.key_exists(target, key):
                found.block(
                    host,
                    "no %s for green, while blue has one" % key,
                    "set kong_upgrade_secret_settings.%s (a vault), or put it into this host's kong.conf" % key,
                )
    return result


def check_names(host, survey, target, found):
    """Names in kong_upgrade_settings that the target drops without a word: one that is like a property of it is a slip.

    That stands in no way back, which does not write them.
    """
    back = "rollback" in survey["options"]["phases"]
    for key in sorted(survey["hosts"][host].get("settings") or {}) if target else []:
        meant = knowledge.key_meant(target, key)
        tell = found.block if meant and not back else found.warn
        if not knowledge.key_exists(target, key):
            tell(
                host,
                "%s in kong_upgrade_settings is no property of Kong %s, which drops it" % (key, target),
                "write %s, if that is meant, or leave it out" % meant if meant else "check its spelling",
            )


def secrets_of_blue(survey):
    """Names of the properties whose values are secrets on a blue node, so that they cannot be handed on to green."""
    found = set()
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
        for settings in (gateway.get("settings"), (gateway.get("node") or {}).get("settings")):
            found |= {key for key, value in (settings or {}).items() if value == MASK}
    return found


def own_words(host, gateway):
    """Strings that tie a value to one host: its addresses, its names, its prefix."""
    words = {host, gateway.get("nodename"), (gateway.get("prefix") or "").rstrip("/")}
    words.update(a for a in gateway.get("own_addresses") or [] if a not in ("127.0.0.1", "::1"))
    return {word for word in words if word and len(word) > 3}


def admin_listen_later(host, survey):
    """What green's Admin API listens on after finish: what green's or blue's configuration had, else loopback."""
    for name in [host] + survey["groups"]["blue"]:
        seen = survey["hosts"].get(name) or {}
        gateway = seen.get("gateway") or {}
        value = (seen.get("settings") or {}).get("admin_listen") if name == host else None
        value = (
            value
            or (gateway.get("settings") or {}).get("admin_listen")
            or ((gateway.get("node") or {}).get("settings") or {}).get("admin_listen")
        )
        own = own_words(name, gateway) if name != host else set()
        if value and str(value).strip() != "off" and not any(word in str(value) for word in own):
            return value
    return LOOPBACK_ADMIN
