# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs what transcripts of real Kong recorded of an export out of one keyspace and its imports into others, and compares.

Between two entries the recorded runs did what is no entry: they made files of the first export, and keyspaces anew. The notes of the
entry that follows tell it, and it is done here as well.
"""

import json
import re
import shutil

import yaml

from .replay_cassandra import CassandraReplay
from .replay_place import UUID

KEYSPACES = ("kong_old", "kong_new", "kong_trap", "kong_trap2")
# The keyspace that a configuration of another name has.
TARGETS = {"kong-target": "kong_trap2", "kong-nosuch": "kong_nosuch"}
# What is here not in rows (tags), changes with time, or is counted by a plugin that has no effect.
NOT_COUNTED = ("cluster_events", "ratelimiting_metrics", "tags")
MADE_BY_BOOTSTRAP = ("parameters", "schema_meta", "workspaces")
RENAMED = {"whitelist": "allow", "blacklist": "deny"}
# A row that the plugin rate-limiting would have left.
COUNTED = (
    "UPDATE {}.ratelimiting_metrics SET value = value + 1 WHERE route_id = 00000000-0000-0000-0000-000000000000"
    " AND service_id = 00000000-0000-0000-0000-000000000000 AND period_date = 0 AND period = 'minute' AND identifier = '127.0.0.1'")


def numbered(value):
    """JSON in which ids and hashes are numbers, by their first appearance: what was equal stays so."""
    found = {}
    return re.sub(r"<UUID:\d+>|%s|\b[0-9a-f]{40}\b" % UUID.pattern, lambda match: "#%d" % found.setdefault(match.group(0), len(found)),
                  json.dumps(value))


def sections(text):
    """What an export holds: the number of entities of each kind, and what it says of itself."""
    document = yaml.safe_load(re.sub(r"<UUID:(\d+)>", r"uuid-\1", text))
    return {name: len(value) if isinstance(value, list) else value for name, value in document.items()}


class NewKeyspaceReplay(CassandraReplay):
    """One transcript file."""

    def run(self, entries):
        super().run(entries)
        self.drop(*KEYSPACES)
        for path in self.place.cwd.glob("*.yml"):
            path.unlink()

    def drop(self, *keyspaces):
        for keyspace in keyspaces:
            self.place.keyspace = keyspace
            self.place.drop()

    def bootstrapped(self, *keyspaces):
        """Keyspaces of 2.8 without an entity."""
        for keyspace in keyspaces:
            self.place.keyspace = keyspace
            if not self.place.tables():
                self.kong("2.8.5", "new", "migrations", "bootstrap")
            for table, number in self.rows_in(keyspace).items():
                if number and table not in MADE_BY_BOOTSTRAP:
                    self.place.execute("TRUNCATE {}." + table)

    # what was done before an entry

    def argv_entry(self, entry):
        place, scenario, notes = self.place, entry["scenario"], entry["env_notes"]
        if "freshly bootstrapped keyspace" in notes:
            place.stop("new")
            self.bootstrapped("kong_new")
        elif scenario == "samehost-bootstrap":
            place.stop("new")
            place.stop("old")
            self.drop("kong_new")
            env = (place.prefix("old") / ".kong_env").read_text(encoding="utf-8")
            (place.prefix("new") / ".kong_env").write_text(env, encoding="utf-8")
        elif scenario == "samehost-import-after-rm-kong_env":
            (place.prefix("new") / ".kong_env").unlink()
        elif scenario.startswith(("trap-start", "trap-import")):
            self.bootstrapped("kong_trap", "kong_trap2")
        place.keyspace = entry["keyspace"]
        for word in entry["argv"]:
            if word.endswith(".yml"):
                self.make(word)
        super().argv_entry(entry)

    def make(self, name):
        """A file that the recorded run made of its export."""
        path, export = self.place.cwd / name, self.place.cwd / "export.yml"
        if name.startswith("export"):
            return
        document = yaml.safe_load(export.read_text(encoding="utf-8"))
        if name != "t-false.yml":
            document.pop("ratelimiting_metrics", None)
            document["_format_version"] = "1.1" if name == "rep11.yml" else "2.1"
            for plugin in document["plugins"]:
                plugin.pop("run_on", None)
                plugin["config"] = {RENAMED.get(key, key): value for key, value in plugin["config"].items()}
        if name != "rep11.yml":
            document["_transform"] = name == "rep21t.yml"
        if name in ("rep21b.yml", "rep21t.yml") and "basicauth_credentials" not in document:
            rows = self.place.server.execute("SELECT id, consumer_id, username, password FROM kong_old.basicauth_credentials")
            document["basicauth_credentials"] = [
                {"id": str(row["id"]), "consumer": str(row["consumer_id"]), "username": row["username"], "password": row["password"]}
                for row in rows]
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def changes(self, word, found):
        keyspace = TARGETS.get(word.rpartition("/")[2].partition(".")[0])
        return {**super().changes(word, found), **({"cassandra_keyspace": keyspace} if keyspace else {})}

    def popen(self, entry, argv=None, **more):
        found = re.search(r"env: (\w+)=(\w+)", entry["env_notes"])
        return super().popen(entry, argv, environ=dict([found.groups()]) if found else {}, **more)

    def http(self, entry):
        super().http(entry)
        if entry["scenario"] == "old-open":
            self.place.keyspace = "kong_old"
            self.place.execute(COUNTED)

    # what is neither a command nor a request

    def look(self, entry):
        scenario, place = entry["scenario"], self.place
        if scenario == "old-db_export-file":
            self.expect(scenario, "mode", entry["mode"], oct((place.cwd / entry["file"]).stat().st_mode & 0o777))
        if "content" in entry:
            name = entry.get("file") or {"repaired-file-2.1": "rep21.yml", "new-db_export-file": "export-new.yml"}[scenario]
            self.expect(scenario, "content", sections(entry["content"]), sections((place.cwd / name).read_text(encoding="utf-8")))
        elif "rows_per_table" in entry:
            for keyspace, rows in entry["rows_per_table"].items():
                self.count(scenario, keyspace, rows)
        elif "credentials" in entry:
            self.expect(scenario, "credentials", numbered(entry["credentials"]), numbered(self.same_columns(entry["credentials"])))
        elif scenario == "trap-env":
            env = (place.prefix("new") / ".kong_env").read_text(encoding="utf-8").split("\n")
            self.expect(scenario, ".kong_env", entry["kong_env"], [line for line in env if line.startswith("cassandra_keyspace")])
        elif scenario == "trap-node-stopped":
            place.stop("new")
            self.expect(scenario, ".kong_env", entry["kong_env_still_there"], (place.prefix("new") / ".kong_env").exists())
        elif scenario == "trap-fresh-prefix-created":
            self.expect(scenario, "prefix", entry["exists"], place.prefix("new").with_name("new-fresh").exists())
        else:
            super().look(entry)

    def rows_in(self, keyspace):
        """Table -> how many there are."""
        self.place.keyspace = keyspace
        return {name: self.place.execute("SELECT count(*) FROM {}.%s" % name)[0]["count"] for name in self.place.tables()}

    def count(self, scenario, keyspace, wanted):
        got = self.rows_in(keyspace)
        for name in sorted(set(wanted) | {name for name, number in got.items() if number}):
            if name not in NOT_COUNTED:
                self.expect(scenario, "rows in %s.%s" % (keyspace, name), wanted.get(name, 0), got.get(name, 0))

    def same_columns(self, recorded):
        """The same columns of the same tables as were recorded."""
        out = {}
        for table, keyspaces in recorded.items():
            columns = next(list(rows[0]) for rows in keyspaces.values() if rows)
            for keyspace in keyspaces:
                rows = self.place.server.execute("SELECT * FROM %s.%s" % (keyspace, table))
                out.setdefault(table, {})[keyspace] = [
                    {column: row[column] if row[column] is None else str(row[column]) for column in columns} for row in rows]
        return out

    def end(self):
        super().end()
        shutil.rmtree(self.place.prefix("new"), ignore_errors=True)
