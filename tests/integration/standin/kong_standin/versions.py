# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between versions of Kong, as data."""

import json
import os

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "versions.json")

NGX_LUA = {"1013006": "10013", "1015008": "10015", "1017008": "10017", "1019003": "10019", "1019009": "10020"}

# feature: (first version that has it, first version that has it no more or None)
FEATURES = {
    "schema_meta": ((0, 15), None),         # before it: legacy.py
    "apis": ((0, 0), (1, 0)),
    "lazy_plugins": ((0, 0), (1, 0)),       # looked up when a request first needs them, and kept
    "wrong_key_is_401": ((1, 3), None),     # 403 before
    "capitals": ((1, 2), None),             # messages start upper case, list shows sections
    "aligned": ((1, 2), None),
    "start_checks_schema": ((1, 2), None),
    "quit_wait": ((1, 1), None),
    "config": ((1, 1), None),
    "db_export": ((1, 3), None),
    "status_listen": ((1, 4), None),
    "legacy": ((1, 0), (2, 0)),             # knows the 0.14 schema
    "migrate_apis": ((1, 5), (2, 0)),
    "hybrid": ((2, 0), None),
    "role_in_root": ((2, 0), None),
    "uses_keyspace_first": ((2, 0), None),  # where it is there, the right to make one is not needed
    "absolute_paths": ((2, 0), None),       # kong config resolves its file argument
    "config_file_argument": ((2, 0), None),
    "workspaces": ((2, 1), None),
    "allow_deny": ((2, 1), None),
    "bootstrap_force_resets": ((2, 1), None),
    "export_basicauth": ((2, 1), None),
    "export_transform": ((2, 1), None),
    "export_counters": ((2, 1), (2, 2)),
    "pending_before_lock": ((2, 2), None),
    "request_buffering": ((2, 2), None),
    "clustering_table": ((2, 2), None),
    "parameters": ((2, 3), None),
    "checks_data_planes": ((2, 3), None),   # and a data plane tells its version
    "serves_older_data_planes": ((2, 4), None),
    "reload_reads_file": ((2, 3), None),
    "start_writes_first": ((2, 3), None),
    "migrations_write_conf": ((2, 3), (2, 4)),
    "migrations_prefix_flag": ((2, 3, 2), None),
    "migrations_make_prefix": ((2, 3), None),
    "root_pids": ((2, 3, 3), None),
    "cassandra_deprecated": ((2, 7), None),
    "service_enabled": ((2, 7), None),
    "vault": ((2, 8), None),
    "vaults_beta": ((2, 8), None),
}


class UnknownVersion(Exception):
    pass


def number(version):
    return tuple(int(part) for part in version.split("."))


class Version:
    """One version: ``has(feature)``, its migrations and its kong.conf keys."""

    _data = None

    def __init__(self, name):
        if Version._data is None:
            with open(DATA, encoding="utf-8") as handle:
                Version._data = json.load(handle)
        if name not in self._data["versions"]:
            raise UnknownVersion("the stand-in knows no Kong %s; it knows %s" % (
                name, ", ".join(sorted(self._data["versions"], key=number))))
        self.name = name
        self.number = number(name)
        self.minor = "%d.%d" % self.number[:2]
        entry = self._data["versions"][name]
        self.openresty = entry["openresty"]
        while "same_as" in entry:
            entry = self._data["versions"][entry["same_as"]]
        self._teardown = {"postgres": frozenset(entry["teardown"])}
        self._teardown["cassandra"] = self._teardown["postgres"].symmetric_difference(
            name for name, since in self._data["other_teardown_on_cassandra"].items() if number(since) <= self.number)
        self.migrations = self._ordered(dict(entry["plugins"], core=entry["core"]))

    def __str__(self):
        return self.name

    def legacy_migrations(self):
        """[(part, [ids])] of 0.14.1, in the order in which its `up` runs them."""
        return list(self._data["legacy"].items())

    def legacy_list_order(self):
        """The order of its `list`."""
        return self._data["legacy_list_order"]

    def _ordered(self, table):
        order = self._data["order"].get(self.minor) or ["core"] + sorted(x for x in table if x != "core")
        out = {name: table[name] for name in order if name in table}
        out.update((name, table[name]) for name in sorted(table) if name not in out)
        return out

    def two_phases(self, kind, subsystem, name):
        """Whether a migration has something left for ``finish`` on that kind of datastore."""
        return "%s/%s" % (subsystem, name) in self._teardown[kind]

    def has(self, feature):
        first, end = FEATURES[feature]
        return self.number >= first and (end is None or self.number < end)

    @property
    def scram(self):
        """Whether this version can log in with a SCRAM role. 2.2 ... 2.7 try, and miss a module they need."""
        if self.number >= (2, 8):
            return "yes"
        return "broken" if self.number >= (2, 2) else "no"

    @property
    def nginx(self):
        parts = self.openresty.split(".")
        return "%d%03d%03d" % tuple(int(x) for x in parts[:3])

    @property
    def ngx_lua(self):
        return NGX_LUA.get(self.nginx, "10020")

    def _minor_number(self):
        return self.number[:2]

    def keys(self):
        """kong.conf keys of this version with their defaults (text)."""
        out = {}
        mine = self._minor_number()
        for key, changes in self._data["conf"].items():
            value = None
            for minor, default in changes:
                if number(minor) <= mine:
                    value = default
            if value is not None:
                out[key] = value
        return out

    def bundled_plugins(self):
        out = set()
        for minor, entry in self._data["plugins"].items():
            if number(minor) <= self._minor_number():
                out.update(entry.get("all", ()))
                out.update(entry.get("added", ()))
                out.difference_update(entry.get("removed", ()))
        return sorted(out)
