# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kong 0.14.1: its tables, its own migration engine (no lock, one phase), and how 1.5 moves its apis."""

import json
import sys
import uuid
from urllib.parse import urlsplit

from . import schema
from .migrations import BUSY, MigrationError
from .pg import Connection, PgError, array, quote

FIRST_CORE = "2015-01-12-175310_skeleton"
STATE_TABLE = "CREATE TABLE IF NOT EXISTS schema_migrations (id TEXT PRIMARY KEY, migrations VARCHAR(100)[]);"
NEXT = ("the current database schema does not match this version of Kong. Please run `kong migrations up` to "
        "update/initialize the database schema. Be aware that Kong migrations should only run from a single node, and that "
        "nodes running migrations concurrently will conflict with each other and might corrupt your database schema!")

API_COLUMNS = (
    "name TEXT UNIQUE", "upstream_url TEXT", "preserve_host BOOLEAN", "retries SMALLINT DEFAULT 5", "https_only BOOLEAN",
    "http_if_terminated BOOLEAN", "hosts TEXT", "uris TEXT", "methods TEXT", "strip_uri BOOLEAN",
    "upstream_connect_timeout INTEGER", "upstream_send_timeout INTEGER", "upstream_read_timeout INTEGER")


def core(version):
    """The tables as 0.14.1 has them: where 1.0 adds columns, in its old shape, and else in that of 1.0."""
    return "".join((
        schema.table("services", "id UUID PRIMARY KEY", schema.CREATED,
                     "updated_at TIMESTAMP WITH TIME ZONE DEFAULT " + schema.NOW, "name TEXT UNIQUE", "retries BIGINT",
                     "protocol TEXT", "host TEXT", "port BIGINT", "path TEXT", "connect_timeout BIGINT",
                     "write_timeout BIGINT", "read_timeout BIGINT"),
        schema.table("routes", "id UUID PRIMARY KEY", schema.CREATED,
                     "updated_at TIMESTAMP WITH TIME ZONE DEFAULT " + schema.NOW,
                     "service_id UUID REFERENCES services (id)", "protocols TEXT[]", "methods TEXT[]", "hosts TEXT[]",
                     "paths TEXT[]", "regex_priority BIGINT", "strip_path BOOLEAN", "preserve_host BOOLEAN"),
        schema.table("apis", "id UUID PRIMARY KEY", schema.CREATED, *API_COLUMNS),
        schema.table("consumers", "id UUID PRIMARY KEY", schema.CREATED, "username TEXT UNIQUE", "custom_id TEXT UNIQUE"),
        schema.table("plugins", "id UUID PRIMARY KEY", schema.CREATED, "name TEXT NOT NULL",
                     "api_id UUID REFERENCES apis (id) ON DELETE CASCADE",
                     "consumer_id UUID REFERENCES consumers (id) ON DELETE CASCADE",
                     "service_id UUID REFERENCES services (id) ON DELETE CASCADE",
                     "route_id UUID REFERENCES routes (id) ON DELETE CASCADE", "config JSONB NOT NULL",
                     "enabled BOOLEAN NOT NULL"),
        schema.base(version),
    ))


def acl(version):
    return schema.credential("acls", '"group" TEXT')


# The first migration of a part makes its tables; the others only stand in the list.
TABLES = {
    "core": core, "acl": acl, "basic-auth": schema.UP["basic-auth/000_base_basic_auth"],
    "hmac-auth": schema.UP["hmac-auth/000_base_hmac_auth"], "jwt": schema.UP["jwt/000_base_jwt"],
    "key-auth": schema.UP["key-auth/000_base_key_auth"], "oauth2": schema.UP["oauth2/000_base_oauth2"],
    "rate-limiting": schema.UP["rate-limiting/000_base_rate_limiting"],
    "response-ratelimiting": schema.UP["response-ratelimiting/000_base_response_rate_limiting"],
}


class OldEngine:
    """`kong migrations` of 0.14.1. ``say`` prints a line; errors are MigrationError."""

    def __init__(self, version, settings, say):
        self.version, self.settings, self.say = version, settings, say
        self.name = settings.database()["database"]
        self.parts = [(part, ids) for part, ids in version.legacy_migrations()
                      if part == "core" or part in settings.plugins()]
        self.connection = None

    def query(self, sql, doing=""):
        try:
            if self.connection is None:
                self.connection = Connection(self.settings.database(), 60, self.version.scram)
            return self.connection.query(sql)
        except PgError as error:
            text = str(error)
            if text.startswith("don't know"):
                raise MigrationError(text)
            raise MigrationError("[postgres error] %s%s" % (doing, text))

    def executed(self, doing=""):
        """{part: [ids]}"""
        if not self.query("SELECT to_regclass('schema_migrations') IS NOT NULL AS there", doing)[0]["there"]:
            return {}
        return {row["id"]: row["migrations"] for row in self.query("SELECT id, migrations FROM schema_migrations")}

    def list(self):
        done = self.executed()
        if not done:
            self.say("No migrations have been run yet for database '%s'" % self.name)
            return 0
        self.say("Executed migrations for database '%s':" % self.name)
        for part in self.version.legacy_list_order():
            if part in done:
                self.say("%s: %s" % (part, ", ".join(done[part])))
        return 0

    def up(self):
        done = self.executed("could not retrieve current migrations: [postgres error] ")
        self.query(STATE_TABLE)
        ran = 0
        for part, ids in self.parts:
            left = [name for name in ids if name not in done.get(part, ())]
            if left:
                self.say("migrating %s for database %s" % (part, self.name))
            for name in left:
                if name == ids[0] and part in TABLES:
                    self.query("BEGIN;" + TABLES[part](self.version) + "COMMIT;")
                self.query("INSERT INTO schema_migrations (id, migrations) VALUES (%s, ARRAY[%s]) ON CONFLICT (id) DO UPDATE SET "
                           "migrations = array_append(schema_migrations.migrations, %s)" % (quote(part), quote(name), quote(name)))
                self.say("%s migrated up to: %s" % (part, name))
                ran += 1
        if ran:
            self.say("%d migrations ran" % ran)
        return 0

    def reset(self, confirmed):
        if not confirmed:
            self.say("Canceled")
            return 0
        try:
            self.query("DO $reset$ DECLARE thing record; BEGIN FOR thing IN SELECT tablename FROM pg_tables WHERE schemaname = "
                       "current_schema() LOOP EXECUTE format('DROP TABLE IF EXISTS %I CASCADE', thing.tablename); END LOOP; END $reset$")
        except MigrationError:
            pass  # the real one says the same with the database down
        self.say("Schema successfully reset")
        return 0

    def missing(self):
        """(part, id) of the first migration that has not run, or None."""
        done = self.executed("could not retrieve server_version: ")
        for part, ids in self.parts[1:] + self.parts[:1]:
            for name in ids:
                if name not in done.get(part, ()):
                    return part, name
        return None


def check_start(engine, complain):
    """What `kong start` of 0.14.1 looks at."""
    missing = engine.missing()
    if missing:
        complain("warn", "postgres database '%s' is missing migration: (%s) %s" % ((engine.name,) + missing))
        raise MigrationError("/usr/local/share/lua/5.1/kong/cmd/start.lua:37: [postgres error] " + NEXT)


def confirmed(yes):
    """Three questions; anything but an answer is asked again."""
    if yes:
        return True
    for _unused in range(3):
        sys.stdout.write("> Are you sure? This operation is irreversible. [Y/n] ")
        sys.stdout.flush()
        answer = sys.stdin.readline().strip().lower()
        if answer in ("y", "yes", "n", "no"):
            return answer[0] == "y"
    return False


# --- what 1.x makes of it ---------------------------------------------------------------------------------------------

def has_apis(migrator):
    there = migrator.datastore.query("SELECT to_regclass('apis') IS NOT NULL AS there")[0]["there"]
    return bool(there and migrator.datastore.query("SELECT 1 AS found FROM apis LIMIT 1"))


def migrate_apis(migrator, state, force):
    """`kong migrations migrate-apis` of 1.5: the exit code is 0 whatever was left."""
    if not state.legacy:
        raise MigrationError("APIs can only be migrated on Kong 0.14.1 postgres database, but the current database seems to be "
                             "more recent.")
    if not has_apis(migrator):
        migrator.say("No APIs found for migration")
        return 0
    if state.needs_bootstrap:
        migrator.say("Upgrading from 0.14.1, bootstrapping database...")
        migrator.create_tables()
    if not migrator.locked(lambda: _move(migrator, force), wait=True):
        migrator.say(BUSY)
    return 0


def _move(migrator, force):
    apis = migrator.datastore.query("SELECT * FROM apis ORDER BY created_at, name, id")
    plugins = migrator.datastore.query("SELECT id, name, api_id FROM plugins WHERE api_id IS NOT NULL")
    migrator.datastore.query("ALTER TABLE IF EXISTS ONLY routes ADD COLUMN IF NOT EXISTS path_handling TEXT DEFAULT 'v0'")
    counts = {"succeeded": 0, "skipped": 0, "failed": 0}
    for api in apis:
        name = api["name"] or api["id"]
        mine = [plugin for plugin in plugins if plugin["api_id"] == api["id"]]
        migrator.say("migrating api '%s' ..." % name)
        if not force and any(plugin["name"] not in migrator.version.bundled_plugins() for plugin in mine):
            migrator.say("migrating api '%s' skipped (use -f to migrate apis with custom plugins" % name)
            counts["skipped"] += 1
            continue
        try:
            migrator.datastore.query("BEGIN;%sCOMMIT;" % _statements(api, mine))
        except PgError as error:
            # Nobody ends the transaction: all that follows fails in it, and so does giving the lock back.
            migrator.say("migrating api '%s' failed (%s)" % (name, error))
            counts["failed"] += 1
            migrator.owner = "lost"
            continue
        migrator.say("migrating api '%s' done" % name)
        counts["succeeded"] += 1
    for what, count in counts.items():
        if count:
            # The real one prints the number of the skipped ones beside the failed ones.
            migrator.say("%d/%d migrations %s" % (counts["skipped"] if what == "failed" else count, len(apis), what))


def _statements(api, plugins):
    service, route = str(uuid.uuid4()), str(uuid.uuid4())
    url = urlsplit(api["upstream_url"])
    port = url.port or (443 if url.scheme == "https" else 80)
    lists = {key: array(json.loads(api[key])) if api[key] else "NULL" for key in ("methods", "hosts", "uris")}
    values = (service, api["name"], api["retries"], url.scheme, url.hostname, port, url.path or None,
              api["upstream_connect_timeout"], api["upstream_send_timeout"], api["upstream_read_timeout"])
    return "".join([
        "INSERT INTO services (id, name, retries, protocol, host, port, path, connect_timeout, write_timeout, read_timeout) "
        "VALUES (%s);" % ", ".join(quote(value) for value in values),
        "INSERT INTO routes (id, service_id, protocols, methods, hosts, paths, regex_priority, strip_path, preserve_host, "
        "path_handling) VALUES (%s, %s, %s, %s, %s, %s, 0, %s, %s, 'v0');" % (
            quote(route), quote(service), array(["https"] if api["https_only"] else ["http", "https"]), lists["methods"],
            lists["hosts"], lists["uris"], quote(api["strip_uri"]), quote(api["preserve_host"])),
        *("UPDATE plugins SET route_id = %s, api_id = NULL WHERE id = %s;" % (quote(route), quote(plugin["id"]))
          for plugin in plugins),
        "DELETE FROM apis WHERE id = %s;" % quote(api["id"]),
    ])


# --- data plane -------------------------------------------------------------------------------------------------------

def as_route(api):
    """(route, service) that a router can match: an api is both."""
    url = urlsplit(api["upstream_url"])
    service = {"id": api["id"], "protocol": url.scheme, "host": url.hostname, "path": url.path or None,
               "port": url.port or (443 if url.scheme == "https" else 80), "retries": api["retries"],
               "connect_timeout": api["upstream_connect_timeout"], "write_timeout": api["upstream_send_timeout"],
               "read_timeout": api["upstream_read_timeout"]}
    route = {"id": api["id"], "api": True, "service": {"id": api["id"]}, "protocols": ["http", "https"],
             "methods": api["methods"], "hosts": api["hosts"], "paths": api["uris"], "strip_path": api["strip_uri"],
             "preserve_host": api["preserve_host"], "created_at": api["created_at"]}
    return route, service
