# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes plugins/plugin_utils/knowledge/*.yml, what the collection knows about Kong's versions.

Usage: make_knowledge.py FACTS_FOLDER [OUT_FOLDER]

FACTS_FOLDER holds versions.yml, migrations.yml, conf_keys.yml, plugins.yml, breaking_changes.yml, upgrade_paths.yml,
templates.yml and cli.yml: tables made from Kong's public source at its tags. This takes the part that the collection's code asks for,
in a form where each fact stands once, reads the result back through plugin_utils/knowledge, and compares it with the
facts: what it writes is complete.
"""

import importlib.util
import pathlib
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAST = (2, 8, 99)  # up to here with everything; newer releases only as known
DATASTORES = ("postgres", "cassandra")
HEAD = """\
---
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Made by tools/make_knowledge.py: edit that, not this. __init__.py reads it.
"""


def number(version):
    """ "2.8.5" -> (2, 8, 5)"""
    return tuple(int(part) for part in version.split("."))


def minor(version):
    """ "2.8.5" -> "2.8" """
    return version.rpartition(".")[0]


def quoted(value):
    """A YAML scalar: versions and anything that YAML could read as something else in double quotes."""
    text = str(value)
    plain = text.replace("_", "a").replace("-", "a").isalnum() and not text[0].isdigit() and not text.startswith("-")
    if plain and text.lower() not in ("on", "off", "yes", "no", "true", "false", "null", "none", "y", "n"):
        return text
    return '"%s"' % text.replace("\\", "\\\\").replace('"', '\\"')


def flow(value):
    """A value in YAML's flow style, on one line."""
    if isinstance(value, dict):
        return "{%s}" % ", ".join("%s: %s" % (quoted(k), flow(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return "[%s]" % ", ".join(flow(v) for v in value)
    return quoted(value)


def rows(mapping, indent="  "):
    """A mapping, one entry a line; lines that get long are broken into one line per member."""
    out = []
    for key, value in mapping.items():
        line = "%s%s: %s" % (indent, quoted(key), flow(value))
        if len(line) > 120 and isinstance(value, dict):
            line = "%s%s:\n%s" % (indent, quoted(key), rows(value, indent + "  ").rstrip("\n"))
        elif len(line) > 120 and isinstance(value, (list, tuple)):
            line = "%s%s:\n%s" % (indent, quoted(key), "\n".join("%s  - %s" % (indent, flow(v)) for v in value))
        elif len(line) > 120:
            line = "%s%s: >-\n%s  %s" % (indent, quoted(key), indent, value)
        out.append(line)
    return "\n".join(out) + "\n"


# --- versions ---------------------------------------------------------------------------------------------------------


def versions(facts):
    """The text of versions.yml."""
    tags = facts["versions"]["tags"]
    out = {}
    for tag in sorted(tags, key=number):
        entry = {"date": tags[tag].get("changelog_date") or tags[tag]["tag_commit_date"]}
        if number(tag) <= LAST:
            entry["openresty"] = tags[tag]["build"]["openresty"]
            entry["nginx"] = list(map(str, tags[tag]["nginx_accepted"]))
        out[tag] = entry
    text = HEAD + "\n".join(
        [
            "#",
            "# Released versions of Kong Gateway OSS. openresty: what the release's packages are built with; two versions",
            "# can take over from each other by a reload only where it is the same. nginx: what a start accepts.",
            "schema: 1",
            "",
            "# A version that one of these finds is Kong Enterprise: a fourth number, or its name.",
            "enterprise: ['^\\d+\\.\\d+\\.\\d+\\.\\d+', '^0\\.\\d+-\\d', '(?i)enterprise']",
            "",
            "# The oldest server that a node of this version or newer starts with.",
            "datastore_minimum:",
            '  postgres: {"0.14.1": "9.5"}',
            '  cassandra: {"0.14.1": "2.2", "2.2.0": "3.0"}',
            "",
            "versions:",
            rows(out),
        ]
    )
    return text.rstrip("\n") + "\n"


# --- migrations -------------------------------------------------------------------------------------------------------


def lists(facts, version):
    """subsystem -> ids in order, and datastore -> ids ("subsystem/id") that leave a second phase, of one version."""
    table = facts["migrations"]["by_version"]
    entry = table[version]
    while "same_as" in entry:
        entry = table[entry["same_as"]]
    found = {"core": entry["core"]}
    found.update(entry["plugins"])
    found.update(entry.get("external") or {})
    return found, {d: entry.get("teardown_" + d) or [] for d in DATASTORES}, entry.get("external") or {}


def migrations(facts):
    """The text of migrations.yml."""
    known = [v for v in sorted(facts["migrations"]["by_version"], key=number) if number(v) <= LAST]
    order, entries = [], {}
    for version in known:
        found, second, external = lists(facts, version)
        for subsystem, ids in found.items():
            if subsystem not in order:
                order.append(subsystem)
            for name in ids:
                full = "%s/%s" % (subsystem, name)
                entry = entries.setdefault(full, {"versions": [], "finish": {}, "rock": []})
                entry["versions"].append(version)
                if name in external.get(subsystem, []):
                    entry["rock"].append(version)
                for datastore in DATASTORES:
                    if full in second[datastore]:
                        entry["finish"].setdefault(datastore, version)
    out = {}
    for subsystem in ["core"] + sorted(set(order) - {"core"}):
        ids = [full for full in entries if full.startswith(subsystem + "/")]
        out[subsystem] = []
        for full in sorted(ids, key=lambda full: full.partition("/")[2]):
            entry = entries[full]
            row = {"id": full.partition("/")[2], "since": entry["versions"][0]}
            if entry["versions"][-1] != known[-1]:
                row["until"] = entry["versions"][-1]
            if entry["rock"]:
                row["rock_until"] = entry["rock"][-1]
            destructive = facts["migrations"]["catalogue"][full].get("teardown_destructive")
            if entry["finish"]:
                row["finish"] = {d: v if v != row["since"] else "since" for d, v in entry["finish"].items()}
            if destructive:
                row["destructive"] = [d for d in DATASTORES if destructive is True or destructive == d]
            out[subsystem].append(row)
    text = HEAD + "\n".join(
        [
            "#",
            "# Migrations by subsystem (core, or the plugin that owns them), in the order in which they run.",
            "# since, until: first and last version that knows the id (until: where it was taken out later).",
            "# finish: where the id has a second phase: after `up` it is pending until `finish`, per datastore, from that",
            "#   version on (since: from the first). destructive: the second phase drops or rewrites data there.",
            "# rock_until: up to that version the plugin came as a package of its own, whose version decides.",
            "# Versions below 0.15 keep their state in another way (table schema_migrations) and have no ids here.",
            "schema: 1",
            "subsystems:",
        ]
    )
    for subsystem, ids in out.items():
        text += "\n  %s:" % subsystem
        for row in ids:
            text += "\n    - %s" % flow(row)
    return text + "\n"


# --- kong.conf --------------------------------------------------------------------------------------------------------


def conf_keys(facts):
    """The text of conf_keys.yml."""
    minors = {m: e["keys"] for m, e in facts["conf_keys"]["minors"].items() if number(m) <= LAST[:2]}
    changes, before = {}, {}
    for name in sorted(minors, key=number):
        keys = minors[name]
        change = {"set": {k: v for k, v in keys.items() if before.get(k) != v}}
        gone = sorted(set(before) - set(keys))
        if gone:
            change["removed"] = gone
        changes[name] = change
        before = keys
    prefixes = {m: p for m, p in facts["conf_keys"]["dynamic_prefixes"].items() if number(m) <= LAST[:2]}
    deprecated = {}
    for key, entry in facts["conf_keys"]["deprecated_in_loader"].items():
        deprecated[key] = {"since": entry["deprecated_since"]}
        if entry["replacement"]:
            deprecated[key]["by"] = entry["replacement"].split(" / ")
    text = HEAD + "\n".join(
        [
            "#",
            "# Properties of kong.conf with their defaults, by minor version: what a minor sets (new, or with another default)",
            "# and removes against the one before. A property that a version does not know is dropped without a word.",
            "schema: 1",
            "",
            "# Beginnings of names that take any directive of nginx, from this minor on (replaces the list before).",
            "dynamic_prefixes:",
            rows(prefixes).rstrip("\n"),
            "",
            "# Old names that still work in 2.8, unless the new one is set too, and since when they are deprecated.",
            "deprecated:",
            rows(deprecated).rstrip("\n"),
            "",
            "# Two names for one thing, neither deprecated; the second wins.",
            "aliases:",
            rows(facts["conf_keys"]["aliases_2_8_5"]).rstrip("\n"),
            "",
            "minors:",
        ]
    )
    for name, change in changes.items():
        text += '\n  "%s":' % name
        text += "\n    set:\n" + rows(change["set"], "      ").rstrip("\n") if change["set"] else "\n    set: {}"
        if "removed" in change:
            text += "\n" + rows({"removed": change["removed"]}, "    ").rstrip("\n")
    return text + "\n"


# --- plugins ----------------------------------------------------------------------------------------------------------


def plugins(facts):
    """The text of plugins.yml."""
    out, before = {}, []
    for name, entry in sorted(facts["plugins"]["minors"].items(), key=lambda item: number(item[0])):
        if number(name) > LAST[:2]:
            break
        bundled = bundled_of(entry, before)
        added, removed = [p for p in bundled if p not in before], [p for p in before if p not in bundled]
        out[name] = {**({"added": sorted(added)} if added else {}), **({"removed": sorted(removed)} if removed else {})}
        before = bundled
    text = HEAD + "\n".join(
        [
            "#",
            "# Plugins that `plugins = bundled` loads, by minor version: what it adds and removes against the one before.",
            "schema: 1",
            "minors:",
            rows(out),
        ]
    )
    return text.rstrip("\n") + "\n"


def bundled_of(entry, before):
    """The bundled plugins of a minor, given those of the one before."""
    if "all" in entry:
        return list(entry["all"])
    return [name for name in before if name not in entry["removed"]] + list(entry["added"])


# --- hazards ----------------------------------------------------------------------------------------------------------


class Indented(yaml.SafeDumper):
    """Lists are indented, as yamllint wants them."""

    def increase_indent(self, flow=False, indentless=False):
        """See yaml.emitter."""
        return super().increase_indent(flow, False)


def hazards(facts):
    """The text of hazards.yml: the breaking changes of the facts, each with its rule of tools/hazard_rules.yml."""
    table = yaml.safe_load((ROOT / "tools" / "hazard_rules.yml").read_text(encoding="utf-8"))
    rules, items = table["rules"], {item["id"]: item for item in facts["breaking_changes"]["items"]}
    if set(rules) != set(items):
        sys.exit("tools/hazard_rules.yml and breaking_changes.yml differ in %s" % ", ".join(sorted(set(rules) ^ set(items))))
    out = {}
    for name, item in list(items.items()) + list(table["extra"].items()):
        # Their own `detect` is in words, for the writer of the rule.
        row = {**{key: value for key, value in item.items() if key not in ("id", "detect")}, **rules[name]} if name in items else item
        if "version" in row and number(row["version"]) > LAST:
            continue
        if "part_of" in row:
            # The other one must be told wherever this one would be.
            assert number(items[row["part_of"]]["version"]) >= number(row["version"]), name
            continue
        if "action" not in row and "detect" in row:
            sys.exit("%s says nothing of what to do" % name)
        if ".yml" in row["summary"] + row.get("action", ""):
            sys.exit("%s points at a file of the facts: say it in other words in tools/hazard_rules.yml" % name)
        out[name] = row
    text = HEAD + "\n".join(
        [
            "#",
            "# What an operator must look at. It applies where source < version <= target, or always without a version, and a detector",
            "# finds something (plugin_utils/hazards.py knows the kinds), or is asked of a person.",
            "schema: 1",
            "hazards:",
        ]
    )
    for name, row in out.items():
        body = yaml.dump(row, Dumper=Indented, sort_keys=False, width=120, allow_unicode=True)
        text += "\n  %s:\n" % name + "\n".join("    " + line for line in body.rstrip("\n").splitlines())
    return text + "\n"


# --- names in kong.conf -----------------------------------------------------------------------------------------------


def conf_renames(facts):
    """The text of conf_renames.yml: what the loaders of kong.conf do with old names beyond conf_keys.yml."""
    for old, new in (("nginx_http_upstream_", "nginx_upstream_"), ("nginx_http_status_", "nginx_status_")):
        before, after = (facts["conf_keys"]["dynamic_prefixes"][minor_] for minor_ in ("1.4", "2.0"))
        assert old in before and old not in after and new in after, old
    return HEAD + "\n".join(
        [
            "#",
            "# How old properties of kong.conf go on under new names, where conf_keys.yml does not say it.",
            "schema: 1",
            "",
            "# Beginnings of names that take any directive of nginx and became others.",
            "prefixes: {nginx_http_upstream_: nginx_upstream_, nginx_http_status_: nginx_status_}",
            "",
            "# Lists that became part of another one.",
            "merged: {custom_plugins: plugins}",
            "",
            "# New properties that want the old value in another form: a time of nginx in seconds, NONE as 0.",
            "forms:",
            "  upstream_keepalive_idle_timeout: seconds",
            "  upstream_keepalive_pool_size: number",
            "  upstream_keepalive_max_requests: number",
            "",
            "# Properties whose default moved to another one, while the name still works.",
            "moved:",
            "  nginx_http_ssl_protocols: ssl_protocols",
            "  nginx_http_ssl_prefer_server_ciphers: ssl_prefer_server_ciphers",
            "  nginx_http_ssl_session_tickets: ssl_session_tickets",
            "  nginx_http_ssl_session_timeout: ssl_session_timeout",
            "",
            "# Properties whose default says nothing, since ssl_cipher_suite decides.",
            "computed: [ssl_ciphers]",
            "",
            "# Properties whose values mean something else from this minor on.",
            'redefined: {ssl_cipher_suite: "2.0"}',
        ]
    ) + "\n"


# --- hybrid -----------------------------------------------------------------------------------------------------------


# Which data planes a control plane serves, by the control plane's version: any, of the same minor, of no newer minor.
CONTROL_PLANES = (("2.0.0", "any"), ("2.3.0", "same_minor"), ("2.4.0", "no_newer_minor"))


def hybrid(facts):
    """The text of hybrid.yml; CONTROL_PLANES is checked against the facts, which are sentences."""
    rules = facts["upgrade_paths"]["hybrid_mode"]["rules_by_control_plane_version"]
    told = {key.split(" ..")[0] + ".0": text for key, text in rules.items()}
    words = {"any": "no version check", "same_minor": "the same major.minor", "no_newer_minor": "minor <= control plane minor"}
    assert set(told) == {since for since, dummy in CONTROL_PLANES}, told
    assert all(words[serves] in told[since] for since, serves in CONTROL_PLANES), told
    text = HEAD + "#\n# Hybrid mode: which data planes a control plane serves. The last row that its version reaches counts.\nschema: 1\n"
    text += "control_planes:\n"
    text += "".join("  - {since: %s, serves: %s}\n" % (quoted(since), serves) for since, serves in CONTROL_PLANES)
    text += "\n# From this version on a data plane tells its version, and a control plane refuses one that does not.\n"
    return text + 'version_told: "2.3.0"\n'


# --- paths ------------------------------------------------------------------------------------------------------------


UPGRADE_2_8 = "UPGRADE.md of Kong 2.8, Upgrade from 1.0.x - 2.2.x to 2.8.x"
# In order: of the rows that a source falls into, one that leads to the target goes before the others. A new release of
# a minor that is there needs no row.
# `allows`: the strategies that take the hop, where not every one does. `measured`: strategies that the documentation rules out, and
# that real builds were seen to bear; they are taken only where the operator says so.
HOPS = (
    {
        "from": "0.0.0",
        "below": "0.14.1",
        "to": "0.14.1",
        "strategy": "downtime_window",
        "why": "1.5 reads the database of no version below 0.14.1; once it is migrated, older nodes live off their cache",
        "docs": "UPGRADE.md of Kong 0.14.1, Suggested Upgrade Path",
    },
    {
        "from": "0.14.1",
        "below": "1.0.0",
        "to": "1.5.1",
        "datastore": "cassandra",
        "strategy": "blue_green",
        "allows": [],
        "why": "1.5.1 moves apis to services and routes (migrate-apis), which this collection counts on PostgreSQL alone",
        "docs": "UPGRADE.md of Kong 1.5, Upgrade from 0.x to 1.5.0",
    },
    {
        "from": "0.14.1",
        "below": "1.0.0",
        "to": "1.5.1",
        "strategy": "blue_green",
        "why": "2.x cannot read what 0.x keeps of its migrations, and 1.5.1 moves apis to services and routes (migrate-apis)",
        "docs": "UPGRADE.md of Kong 1.5, Upgrade from 0.x to 1.5.0",
    },
    {
        "from": "1.0.0",
        "below": "1.3.0",
        "to": "2.8",
        "datastore": "cassandra",
        "strategy": "downtime_window",
        "allows": ["downtime_window", "new_keyspace"],
        "why": "old and new nodes cannot use one keyspace, and there is no kong config db_export before 1.3 to fill another",
        "docs": UPGRADE_2_8 + ", Cassandra",
    },
    {
        "from": "1.3.0",
        "below": "2.1.0",
        "to": "2.8",
        "datastore": "cassandra",
        "strategy": "new_keyspace",
        "allows": ["new_keyspace", "downtime_window"],
        "why": (
            "old and new nodes cannot use one keyspace; an export of 1.3 to 2.0 lacks basic-auth credentials, "
            "and one of 1.3 to 1.5 has run_on, which 2.x rejects"
        ),
        "docs": UPGRADE_2_8 + ", Cassandra",
    },
    {
        "from": "2.1.0",
        "below": "2.2.0",
        "to": "2.8",
        "datastore": "cassandra",
        "strategy": "new_keyspace",
        "allows": ["new_keyspace", "downtime_window"],
        "measured": ["blue_green"],
        "why": (
            "the documentation calls 2.1 incompatible with 2.8 in one keyspace; the code does not bear it out, "
            "and 2.1.4 was seen to serve beside 2.8.5"
        ),
        "docs": UPGRADE_2_8 + ", Cassandra",
    },
    {
        "from": "2.2.0",
        "below": "2.8.0",
        "to": "2.8",
        "datastore": "cassandra",
        "strategy": "blue_green",
        "allows": ["blue_green", "new_keyspace", "downtime_window"],
        "why": "one hop: after kong migrations up, old and new nodes work on one keyspace until kong migrations finish",
        "docs": UPGRADE_2_8 + ", Cassandra",
    },
    {
        "from": "1.0.0",
        "below": "2.8.0",
        "to": "2.8",
        "strategy": "blue_green",
        "why": "one hop: after kong migrations up, old and new nodes work on one database until kong migrations finish",
        "docs": UPGRADE_2_8,
    },
    {
        "from": "2.8.0",
        "below": "2.9.0",
        "to": "2.8",
        "strategy": "rolling",
        "why": "no migrations between releases of one minor",
        "docs": "UPGRADE.md of Kong 2.8, Suggested upgrade path",
    },
)


# Of each part of 0.14.1 that 1.x asks for, the last migration (recorded of a 0.14.1 with plugins = bundled).
LEGACY = {
    "core": "2018-05-17-173100_hash_on_cookie",
    "acl": "2015-08-25-841841_init_acl",
    "basic-auth": "2017-01-25-180400_unique_username",
    "cors": "2017-03-14_multiple_orgins",
    "datadog": "2017-06-09-160000_datadog_schema_changes",
    "hmac-auth": "2017-06-21-132400_init_hmacauth",
    "ip-restriction": "2016-05-24-remove-cache",
    "jwt": "2018-03-15-150000_jwt_maximum_expiration",
    "key-auth": "2017-07-31-120200_key-auth_preflight_default",
    "ldap-auth": "2017-10-23-150900_header_type_default",
    "oauth2": "2018-01-09-oauth2_pg_add_service_id",
    "rate-limiting": "2017-11-30-120000_add_route_and_service_id",
    "request-transformer": "2016-05-04-160000_req_trans_schema_changes",
    "response-ratelimiting": "2017-12-19-120000_add_route_and_service_id_to_response_ratelimiting",
    "response-transformer": "2016-05-04-160000_resp_trans_schema_changes",
    "statsd": "2017-06-09-160000_statsd_schema_changes",
    "tcp-log": "2017-12-13-120000_tcp-log_tls",
}


def paths(facts):
    """The text of paths.yml; HOPS is checked against the facts here, since most of them are sentences."""
    table = facts["upgrade_paths"]
    chains = {key: ends[:-1] for key, ends in table["chain_to_2_8_5"].items() if key != "notes"}
    stops = {hop["below"]: hop["to"] for hop in HOPS if hop["to"] != "2.8"}
    assert chains == {
        "below_0_14_1": [stops["0.14.1"], stops["1.0.0"]],
        "0.14.1": [stops["1.0.0"]],
        "1.0 .. 1.5": [],
        "2.0 .. 2.7": [],
    }, chains
    assert facts["cli"]["migrate_apis"]["use"].startswith("1.5.1 ")
    assert table["path_cassandra_to_2_8"]["documented_boundary"]["2.3 .. 2.8 docs"] == "from 2.1.x or lower"
    assert table["path_cassandra_to_2_8"]["code_boundary"] == "<= 2.0.x"
    text = HEAD + "\n".join(
        [
            "#",
            "# Which way leads where. Versions that an upgrade may lead to:",
            "schema: 1",
            'targets: ["2.8"]',
            "",
            "# Releases that an upgrade may lead to besides, where a row of hops below leads there.",
            'stops: ["1.5.1"]',
            "",
            "# Versions that take over the database of a 0.14.1 (table schema_migrations), and move its apis by migrate-apis.",
            'takes_over_legacy: ["1.5.1"]',
            "",
            "# The last migration of each part of such a database; one that lacks any is refused as older than 0.14.1.",
            "legacy_migrations:",
            rows(LEGACY).rstrip("\n"),
            "",
            "# Never a stop with traffic, and why.",
            "never_a_stop:",
            '  "1.1.0": a 0.14 cluster on Cassandra gets corrupt data on this path, mended in 1.1.1',
            '  "1.5.0": migrate-apis works in one order of steps only, mended in 1.5.1',
            '  "2.1.0": a balancer retry may reach an unrelated upstream, mended in 2.1.2',
            '  "2.1.1": a balancer retry may reach an unrelated upstream, mended in 2.1.2',
            "",
            "# Hops: from a source that is `from` or newer and below `below`, on any datastore if none is named. `to` is a",
            "# release to stop at, or the minor of the target. The first row that fits counts; one that leads to the target",
            "# goes before others.",
            "hops:",
        ]
    )
    for hop in HOPS:
        text += "\n  - " + rows(hop, "    ").strip()
    return text + "\n"


# --- templates --------------------------------------------------------------------------------------------------------


# Directives that the template has in every version; the facts only name those that differ.
EVERY = {
    "nginx.lua": "error_log; events; http; include; pid",
    "nginx_kong.lua": """
        access_by_lua_block; access_log; balancer_by_lua_block; body_filter_by_lua_block; charset;
        content_by_lua_block; default_type; error_log; error_page; header_filter_by_lua_block;
        init_by_lua_block; init_worker_by_lua_block; internal; listen; location /; location /nginx_status;
        location /robots.txt; location = /kong_error_handler; log_by_lua_block; lua_max_pending_timers;
        lua_max_running_timers; lua_package_cpath; lua_package_path; lua_shared_dict kong;
        lua_shared_dict kong_cassandra; lua_shared_dict kong_cluster_events; lua_shared_dict kong_db_cache;
        lua_shared_dict kong_db_cache_miss; lua_shared_dict kong_healthchecks; lua_shared_dict kong_locks;
        lua_shared_dict kong_process_events; lua_shared_dict kong_rate_limiting_counters; lua_socket_log_errors;
        lua_socket_pool_size; lua_ssl_trusted_certificate; lua_ssl_verify_depth; proxy_http_version; proxy_pass;
        proxy_pass_header; proxy_set_header Connection; proxy_set_header Host; proxy_set_header Upgrade;
        proxy_set_header X-Forwarded-For; proxy_set_header X-Forwarded-Host; proxy_set_header X-Forwarded-Port;
        proxy_set_header X-Forwarded-Proto; proxy_set_header X-Real-IP; proxy_ssl_certificate;
        proxy_ssl_certificate_key; proxy_ssl_name; proxy_ssl_server_name; return; rewrite_by_lua_block; server;
        server_name kong; server_name kong_admin; set $ctx_ref; set $upstream_connection; set $upstream_host;
        set $upstream_scheme; set $upstream_upgrade; set $upstream_uri; set $upstream_x_forwarded_for;
        set $upstream_x_forwarded_host; set $upstream_x_forwarded_port; set $upstream_x_forwarded_proto;
        set_real_ip_from; ssl_certificate; ssl_certificate_by_lua_block; ssl_certificate_key; ssl_ciphers;
        ssl_session_cache; stub_status; underscores_in_headers; uninitialized_variable_warn;
        upstream kong_upstream
    """,
    "nginx_kong_stream.lua": "",
}
# Directives of 2.8 that only stand there under a condition of kong.conf.
WHEN = {
    "database = off": ("lua_shared_dict kong_%s_2", "lua_shared_dict stream_kong_%s_2"),
    "database = cassandra": ("lua_shared_dict kong_cassandra", "lua_shared_dict stream_kong_cassandra"),
    "stream_listen is set": ("stream",),
    "status_listen is set": ("server_name kong_status",),
    "role = control_plane": (
        "server_name kong_cluster_listener",
        "location = /v1/outlet",
        "ssl_client_certificate",
        "ssl_verify_client",
        "ssl_verify_depth",
    ),
    "lua_ssl_trusted_certificate is set": ("lua_ssl_trusted_certificate",),
    "client_ssl = on": (
        "proxy_ssl_certificate",
        "proxy_ssl_certificate_key",
        "grpc_ssl_certificate",
        "grpc_ssl_certificate_key",
    ),
}
CACHES = ("core_db_cache", "core_db_cache_miss", "db_cache", "db_cache_miss")


def templates(facts):
    """The text of templates.yml."""
    table = facts["templates"]["to_2_8_5"]
    text = HEAD + "\n".join(
        [
            "#",
            "# Directives in the files of kong/templates, by minor version (its final patch): what a minor adds and removes",
            "# against the one before. A name is that of the directive, with what tells it apart where there are many.",
            "# placeholders: names of ${{...}}, only those that differ anywhere.",
            "schema: 1",
            "",
            "# Directives that the template has under a condition only.",
            "when:",
        ]
    )
    for condition, names in WHEN.items():
        for name in names:
            for full in [name % cache for cache in CACHES] if "%s" in name else [name]:
                text += "\n  %s: %s" % (quoted(full), quoted(condition))
    text += "\n\nminors:"
    before = {}
    for minor_ in [*sorted(table, key=number), "2.8"]:
        now = template_names(table, minor_)
        text += '\n  "%s":' % minor_
        for (file, kind), names in now.items():
            old = before.get((file, kind), [])
            change = {
                "added": [name for name in names if name not in old],
                "removed": [name for name in old if name not in names],
            }
            change = {key: each for key, each in change.items() if each}
            if change:
                text += "\n    %s %s:\n%s" % (file, kind, rows(change, "      ").rstrip("\n"))
        before = now
        text += " {}" if text.endswith(":") else ""
    return text + "\n"


def template_names(table, minor_):
    """(file, "directives" or "placeholders") -> names that a minor has; table: to_2_8_5 of the facts."""
    found = {}
    for file, every in EVERY.items():
        for kind, prefix in (("directives", ""), ("placeholders", "placeholders_")):
            changes = {m: entry.get(file, {}) for m, entry in table.items()}
            last = {" ".join(name.split()) for name in every.split(";") if kind == "directives" and name.strip()}
            last |= {name for entry in changes.values() for name in entry.get(prefix + "added", [])}
            change = changes.get(minor_, {})
            names = last - set(change.get(prefix + "added", [])) | set(change.get(prefix + "removed", []))
            found[file, kind] = sorted(names)
    return found


# --- check ------------------------------------------------------------------------------------------------------------


def check(facts):
    """Compares what knowledge.py says, reading the files just written, with the facts."""
    source = ROOT / "plugins" / "plugin_utils" / "knowledge" / "__init__.py"
    spec = importlib.util.spec_from_file_location("knowledge", source)
    knowledge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(knowledge)
    assert set(knowledge.versions()) == set(facts["versions"]["tags"])
    for version in facts["migrations"]["by_version"]:
        if number(version) > LAST:
            continue
        found = lists(facts, version)[0]
        said = knowledge.migrations_of(version)
        assert said == found, (version, said, found)
    for name, entry in facts["migrations"]["upgrade_to_2_8_5"].items():
        for datastore in DATASTORES:
            pending = {
                "%s/%s" % (s, i)
                for s, ids in knowledge.pending_after_up(entry["source_tag"], "2.8.5", datastore).items()
                for i in ids
            }
            assert pending == set(entry[datastore]["up_then_pending"]), (name, datastore, pending)
            destructive = {
                "%s/%s" % (s, i)
                for s, ids in knowledge.destructive_in_finish(entry["source_tag"], "2.8.5", datastore).items()
                for i in ids
            }
            assert destructive == set(entry[datastore]["destructive_in_finish"]), (name, datastore, destructive)
            new = [i for ids in knowledge.new_in_up(entry["source_tag"], "2.8.5").values() for i in ids]
            assert len(new) == entry[datastore]["new_count"], (name, datastore, new)
    for name, entry in facts["versions"]["final_patch"].items():
        assert knowledge.newest(name) == entry, name
    for name, entry in facts["conf_keys"]["minors"].items():
        if number(name) > LAST[:2]:
            continue
        assert knowledge.conf_defaults(entry["tag"]) == entry["keys"], name
    for name, entry in facts["templates"]["to_2_8_5"].items():
        changes = knowledge.template_changes(entry["source_tag"], "2.8.5")
        for file in EVERY:
            said = {key: names for key, names in changes.get(file, {}).items() if names}
            expected = {key: names for key, names in entry.get(file, {}).items() if names}
            assert {k: set(v) for k, v in said.items()} == {k: set(v) for k, v in expected.items()}, (name, file)
    for name, entry in facts["conf_keys"]["diff_to_2_8_5"].items():
        diff = knowledge.conf_changes(facts["conf_keys"]["minors"][name]["tag"], "2.8.5")
        assert set(diff["removed"]) == set(entry["removed_silently_ignored"]), (name, diff["removed"])
        assert set(diff["added"]) == set(entry["added"]), (name, set(diff["added"]) ^ set(entry["added"]))
        assert {k: {"old": o, "new": n} for k, (o, n) in diff["changed"].items()} == entry["default_changed"], name


def main():
    """Writes the files and checks them."""
    folder = pathlib.Path(sys.argv[1])
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "plugins" / "plugin_utils" / "knowledge"
    names = ("versions", "migrations", "conf_keys", "plugins", "breaking_changes", "upgrade_paths", "templates", "cli")
    facts = {name: yaml.safe_load((folder / (name + ".yml")).read_text()) for name in names}
    for make in (versions, migrations, conf_keys, conf_renames, plugins, hazards, hybrid, paths, templates):
        name = make.__name__
        path = out / (name + ".yml")
        path.write_text(make(facts))
        print("%s: %d bytes" % (path, path.stat().st_size))
    check(facts)


if __name__ == "__main__":
    main()
