# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of the known hazards (knowledge/hazards.yml) a cluster really has, where, and what is left to ask a person.

Pure functions. What is not known (a host fact, a query that did not run) leads to no conclusion.
"""

from __future__ import annotations

import difflib
import re

from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge, legacy, new_keyspace, releases, state
from ansible_collections.bluegreen.kong.plugins.plugin_utils.settings import effective, words
from ansible_collections.bluegreen.kong.plugins.plugin_utils.templates import missing_in_template

SEVERITIES = ("block", "warn", "info")
# What is of interest where Kong is going to run: asked of green, and of blue, as mere information, where there is no green yet.
OF_GREEN = ("os", "os_not_in", "repository", "unit_file", "rocks", "by_hand")
SHOWN = 5  # places that are named of one hazard


def queries(source, target) -> dict:
    """name -> {sql, needs}, with cql where Cassandra can be asked too, of the detectors' questions; see kong_datastore_info, queries."""
    names = "SELECT string_agg(DISTINCT name, ',') AS found FROM plugins"
    cql = "SELECT name AS found FROM {keyspace}.plugins"
    found = {"plugins": {"sql": names, "cql": cql, "needs": ["plugins.name"]}, **legacy.queries(target)}
    for name, entry in knowledge.hazards(source, target).items():
        for number, detector in enumerate(entry.get("detect", [])):
            if "sql" in detector:
                found["%s/%d" % (name, number)] = {"sql": detector["sql"], "needs": detector["needs"]}
    return found


def find(nodes, database, source, target, green, green_nodes=None) -> dict:
    """{"hazards": [...], "checklist": [...]}, the gravest first.

    nodes: {host: kong_gateway} of blue, as kong_version_facts tells it. database: answer of kong_datastore_info, with
    `answers` to queries(). green: {property: value} that the operator sets for green, by which a hazard can be settled.
    green_nodes: {host: kong_gateway} of the green hosts on which Kong is still to be installed; None where there is no green.
    A hazard is {id, severity, where, what, do, lasting, source, until}; a question {id, ask, source, until}. until: the migration
    command up to which it matters, up or finish.
    """
    cluster = Cluster(nodes, database, source, target, green, green_nodes)
    hazards, checklist = [], []
    for name, entry in knowledge.hazards(source, target).items():
        if any(key in green for key in entry.get("unless", [])):
            continue
        if "ask" in entry:
            if "if" not in entry or cluster.places(name, 0, entry["if"]):
                checklist.append(asked(name, entry, entry["ask"].strip()))
            continue
        places = {}
        for number, detector in enumerate(entry["detect"]):
            for what, hosts in cluster.places(name, number, detector).items():
                places.setdefault(what, []).extend(hosts)
        if places:
            only_blue = green_nodes is None and any(set(OF_GREEN) & set(detector) for detector in entry["detect"])
            hazards.append(told(name, dict(entry, severity="info") if only_blue else entry, places))
        elif cluster.kind == "cassandra" and any("sql" in detector for detector in entry["detect"]):
            ask = "cannot be looked for on Cassandra: %s; if so: %s" % (entry["summary"].strip(), entry["action"].strip())
            checklist.append(asked(name, entry, ask))
    hazards.sort(key=lambda hazard: SEVERITIES.index(hazard["severity"]))
    return {"hazards": hazards, "checklist": checklist}


def asked(name, entry, ask) -> dict:
    """One question to a person."""
    return {"id": name, "ask": ask, "source": entry["source"], "until": entry.get("until", "up")}


def told(name, entry, places) -> dict:
    """One hazard as the report shows it. places: what was found -> hosts, [] where it is in the database."""
    hosts = sorted({host for some in places.values() for host in some})
    shown = list(places)[:SHOWN] + (["%d more" % (len(places) - SHOWN)] if len(places) > SHOWN else [])
    return {
        "id": name,
        "severity": entry["severity"],
        "where": ", ".join(hosts) or "database",
        "what": "%s (found: %s)" % (entry["summary"].strip(), "; ".join(shown)),
        "do": entry["action"].strip(),
        # What lies in the version alone is gone once another one runs, and what green's settings end once they do: nothing to accept.
        "lasting": not all("source_below" in detector for detector in entry["detect"]) and "unless" not in entry,
        "source": entry["source"],
        "until": entry.get("until", "up"),
    }


class Cluster:
    """What is known of blue, as the detectors ask for it."""

    def __init__(self, nodes, database, source, target, green, green_nodes):
        self.nodes = nodes
        self.database = database
        self.source = source
        self.target = target
        self.green = green
        self.green_nodes = green_nodes
        self.settings = {host: effective(node, source) for host, node in nodes.items()}
        self.kind = next((node["datastore"]["kind"] for node in nodes.values() if node.get("datastore")), None)

    def places(self, name, number, detector) -> dict:
        """What a detector finds -> the hosts that have it, [] where it is in the database. All its conditions must hold."""
        if "database" in detector and self.kind != detector["database"]:
            return {}
        absent = detector.get("absent", [])
        if any(
            key in settings
            for settings in self.settings.values()
            for key in ([absent] if isinstance(absent, str) else absent)
        ):
            return {}
        if "sql" in detector:
            answer = (self.database.get("answers") or {}).get("%s/%d" % (name, number)) or {}
            return {found: [] for found in answer.get("found", []) + ["and more"] * bool(answer.get("more"))}
        if "source_below" in detector:
            below = knowledge.compare(self.source, detector["source_below"]) < 0
            return {"Kong %s" % self.source: list(self.nodes)} if below else {}
        if "running" in detector:
            return {"Kong %s" % self.source: list(self.nodes)} if self.source in detector["running"] else {}
        if "plugin" in detector:
            found = {"plugin %s" % plugin: [] for plugin in detector["plugin"] if plugin in self.in_use()}
            for host, settings in self.settings.items():
                for plugin in set(detector["plugin"]) & set(words(settings.get("plugins"))):
                    found.setdefault("plugin %s" % plugin, []).append(host)
            return found
        if "password_encryption" in detector:
            how = self.database.get("password_encryption")
            return {"password_encryption = %s" % how: []} if how == detector["password_encryption"] else {}
        if "server_too_old" in detector:
            version = self.database.get("server_version")
            kind = self.kind if self.kind in knowledge.DATASTORES else "postgres"
            old = version and knowledge.compare(version, knowledge.datastore_minimum(self.target, kind)) < 0
            return {"%s %s" % ({"postgres": "PostgreSQL", "cassandra": "Cassandra"}[kind], version): []} if old else {}
        if "plugins_not_loaded" in detector:
            missing = self.in_use() - self.loaded_by_green() - knowledge.plugins_told_by_name(self.source, self.target)
            return {"plugin %s" % name: [] for name in sorted(missing)}
        found = {}
        nodes = self.nodes if self.green_nodes is None or not set(OF_GREEN) & set(detector) else self.green_nodes
        for host, node in nodes.items():
            for what in self.on_host(host, node, detector):
                found.setdefault(what, []).append(host)
        return found

    def on_host(self, host, node, detector) -> list[str]:
        """What a detector finds on one host."""
        settings, facts = self.settings.get(host, {}), node.get("host") or {}
        if "key" in detector or "key_regex" in detector:
            pattern = detector.get("key_regex") or "^%s$" % re.escape(detector["key"])
            value = re.compile(detector.get("value", ""))
            return ["%s = %s" % (k, v) for k, v in settings.items() if re.search(pattern, k) and value.search(str(v))]
        if "path_missing" in detector:
            entry = (facts.get("files") or {}).get(detector["path_missing"])
            return [entry["path"]] if entry and entry["exists"] is False else []
        if "files_of" in detector:
            files = sorted((facts.get("files") or {}).items())
            return ["%s = %s" % (key, file["path"]) for key, file in files if file["owner"] == detector["files_of"]]
        if "custom_plugins" in detector:
            return ["plugin %s" % plugin for plugin in self.custom_plugins(settings, facts, detector["custom_plugins"])]
        if "os" in detector or "os_not_in" in detector:
            return self.system(facts.get("os"), detector)
        if "includes" in detector:
            return ["%(key)s = %(file)s" % row for row in (facts.get("templates") or {}).get("includes") or []]
        if "package" in detector:
            package = facts.get("package") or {}
            return ["package %(name)s %(version)s" % package] if package.get("name") == detector["package"] else []
        if "repository" in detector:
            lines = facts.get("repositories") or []
            return ["%(path)s: %(text)s" % line for line in lines if detector["repository"] in line["text"]]
        if "unit_file" in detector:
            return [path for path in facts.get("units") or [] if path == detector["unit_file"]]
        if "by_hand" in detector:
            return ["not installed from a package"] if (facts.get("package") or {"name": "?"})["name"] is None else []
        if "rocks" in detector:
            return ["%s %s" % rock for rock in sorted((facts.get("rocks") or {}).items())]
        if "memory_below_twice" in detector:
            size = size_of(settings.get(detector["memory_below_twice"]))
            low = size and facts.get("memory_bytes") and facts["memory_bytes"] < 2 * size
            return (
                ["%s = %s" % (detector["memory_below_twice"], settings[detector["memory_below_twice"]])] if low else []
            )
        if "custom_template" in detector:
            return self.custom_template(facts.get("templates") or {})
        # nothing but conditions, and they hold
        return [
            "%s is not set" % detector["absent"] if "absent" in detector else "database = %s" % detector["database"]
        ]

    def system(self, system, detector) -> list[str]:
        """An operating system for which there are no packages: one that is named, or, of a known family, one that is not."""
        if not system or not system.get("version_id"):
            return []
        version, families = str(system["version_id"]), [system["id"], *system.get("like", [])]
        table = detector.get("os") or detector["os_not_in"]
        lists = [table[family] for family in families[: None if "os" in detector else 1] if family in table]
        listed = any(not v or version == v or version.startswith(v + ".") for versions in lists for v in versions)
        wrong = listed if "os" in detector else bool(lists) and not listed
        return [system.get("pretty") or "%s %s" % (system["id"], version)] if wrong else []

    def in_use(self) -> set:
        """Names of the plugins that have rows in the database."""
        answer = (self.database.get("answers") or {}).get("plugins") or {}
        return {name for names in answer.get("found", []) for name in words(names)}

    def custom_template(self, seen) -> list[str]:
        """A custom nginx template, with the shared dictionaries that it lacks: without them the target does not start."""
        if not seen.get("nginx_conf"):
            return []
        missing = missing_in_template(
            "http {\n%s;\n}\n" % ";\n".join(seen.get("directives") or ["include 'nginx-kong.conf'"]), self.target
        )
        lacks = sorted(row["directive"].split()[1] for row in missing if row["dictionary"] and not row["when"])
        return [seen["nginx_conf"] + (", which lacks the dictionaries %s" % ", ".join(lacks) if lacks else "")]

    def custom_plugins(self, settings, facts, which) -> list[str]:
        """Names of the plugins of the operator's own. which: any; data (with tables or migrations, as far as known); base_plugin."""
        names = {name for value in self.naming(settings) for name in words(value)}
        names -= {"bundled", "off"} | knowledge.bundled_plugins(self.source) | knowledge.bundled_plugins(self.target)
        seen = facts.get("plugins") or {}
        if which == "data":
            names = {n for n in names if n not in seen or seen[n]["has_daos"] or seen[n]["has_migrations"]}
        elif which == "base_plugin":
            names = {n for n in names if n in seen and seen[n]["base_plugin"]}
        return sorted(names)

    def naming(self, settings) -> list:
        """The values by which a node of blue names its plugins, as far as its version reads them: custom_plugins went with 1.0."""
        old = knowledge.key_exists(self.source, "custom_plugins")
        return [settings.get("plugins") or "bundled"] + [settings.get("custom_plugins")] * old

    def loaded_by_green(self) -> set:
        """Names of the plugins that green loads, by its own property or by blue's."""
        named = [self.green["plugins"]] if "plugins" in self.green else []
        for settings in self.settings.values() if not named else []:
            named += self.naming(settings)
        loaded = {name for value in named for name in words(value)}
        return loaded | (knowledge.bundled_plugins(self.target) if "bundled" in loaded else set())


def size_of(text):
    """ "128m" -> bytes; None where it is no size."""
    found = re.match(r"(\d+)([kKmMgG]?)$", str(text or "").strip())
    return (
        int(found.group(1)) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[found.group(2).lower()]
        if found
        else None
    )


def check(survey, source, target, stands, found):
    """What the way from source to target brings along on this cluster: {"hazards", "checklist"}; the grave ones are blockers.

    Once the schema serves both versions, the operator has been told; but for what they are to do, or not to do, until finish.
    """
    accepted = survey["options"]["accepted_hazards"]
    for name in sorted(set(accepted) - set(knowledge.hazard_ids())):
        near = difflib.get_close_matches(name.upper(), knowledge.hazard_ids(), n=1, cutoff=0.7)
        hint = "; did you mean %s?" % near[0] if near else ""
        found.block(
            "kong_upgrade_accepted_hazards",
            "%s is no hazard that is known%s" % (name, hint),
            "correct it, or take it out",
        )
    gateways = {
        colour: {
            h: survey["hosts"][h]["gateway"]
            for h in survey["groups"][colour]
            if survey["hosts"].get(h, {}).get("gateway")
        }
        for colour in ("blue", "green")
    }
    over = stands["green_running"] or (stands["expanded"] and state.reached(knowledge.new_in_up, source, target))
    apart = over and new_keyspace.chosen(survey["options"])  # each version has a keyspace of its own
    if not source or not target or stands["finished"] or apart or knowledge.compare(source, target) > 0:
        return {"hazards": [], "checklist": []}
    green = {}
    for host in survey["groups"]["green"]:
        green.update(survey["hosts"].get(host, {}).get("settings") or {})
    # Where the operator brings Kong along, as a file or by other means, it is for them to know that it fits the system.
    to_install = {
        host: gateway
        for host, gateway in gateways["green"].items()
        if releases.by_name(survey["hosts"][host]) and not releases.built_right(survey, host, target)
    }
    ahead = find(
        gateways["blue"], survey["database"], source, target, green, to_install if survey["groups"]["green"] else None
    )
    if over:
        ahead = {kind: [row for row in rows if row["until"] == "finish"] for kind, rows in ahead.items()}
    for hazard in ahead["hazards"]:
        hazard["accepted"] = hazard["id"] in accepted
        if hazard["severity"] == "block" and not hazard["accepted"]:
            found.block(
                hazard["where"],
                "%s: %s" % (hazard["id"], hazard["what"]),
                hazard["do"] + "; if it is still told then, name it in kong_upgrade_accepted_hazards" * hazard["lasting"],
            )
        elif hazard["severity"] == "warn" and not hazard["accepted"]:
            found.warn(hazard["where"], "%s: %s" % (hazard["id"], hazard["what"]), hazard["do"], "hazards")
    return ahead
