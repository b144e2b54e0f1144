# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migration state, the cluster lock, and the commands that change the schema."""

import time
import uuid

from . import schema
from .pg import Connection, PgError, quote

LOCK_KEY = "migrations"
BUSY = "aborted: another node is performing database changes"


class MigrationError(Exception):
    """The command ends with exit code 1; the text follows ``Error: ``."""


class State:
    """What of this version's migrations is executed, pending or new, in this version's order."""

    def __init__(self, version, rows, plugins, legacy=False):
        self.version = version
        self.needs_bootstrap = rows is None
        self.legacy = legacy
        self.executed, self.pending, self.new = {}, {}, {}
        known = {row["subsystem"]: row for row in rows or ()}
        for subsystem, names in version.migrations.items():
            if subsystem != "core" and subsystem not in plugins:
                continue  # a plugin that kong.conf does not load takes no part
            row = known.get(subsystem, {})
            executed, pending = row.get("executed") or (), row.get("pending") or ()
            for name in names:
                if name in executed:
                    self.executed.setdefault(subsystem, []).append(name)
                elif name in pending:
                    self.pending.setdefault(subsystem, []).append(name)
                else:
                    self.new.setdefault(subsystem, []).append(name)


def lines(table, aligned):
    """``subsystem: name, name`` per subsystem, right-aligned from 1.2 on."""
    width = max(map(len, table)) if aligned and table else 0
    return ["%s: %s" % (subsystem.rjust(width), ", ".join(names)) for subsystem, names in table.items()]


class Migrator:
    """One connection to the datastore of one version. ``say`` prints a line of the command, ``verbose`` one that only
    --v shows. Times are in seconds."""

    def __init__(self, version, settings, say, verbose, db_timeout=60, lock_timeout=60):
        self.version, self.settings = version, settings
        self.database = settings.database()
        self.say, self.verbose = say, verbose
        self.db_timeout, self.lock_timeout = db_timeout, lock_timeout
        self.owner = str(uuid.uuid4())
        self.connection = None
        self.connect()

    def connect(self):
        try:
            self.connection = Connection(self.database, self.db_timeout, self.version.scram)
        except PgError as error:
            text = str(error)
            if text.startswith(("don't know", "module ")):
                raise MigrationError(text)
            raise MigrationError("[PostgreSQL error] failed to retrieve PostgreSQL server_version_num: " + text)

    def query(self, sql):
        return self.connection.query(sql)

    # state

    def state(self):
        self.verbose("retrieving database schema state...")
        try:
            there = self.query("SELECT to_regclass('schema_meta') IS NOT NULL AS meta, "
                               "to_regclass('schema_migrations') IS NOT NULL AS legacy")[0]
            rows = None
            if there["meta"]:
                rows = self.query("SELECT subsystem, last_executed, executed, pending FROM schema_meta "
                                  "WHERE key = 'schema_meta' ORDER BY subsystem")
        except PgError as error:
            raise MigrationError("[PostgreSQL error] failed to check schema state: %s" % error)
        self.verbose("schema state retrieved")
        return State(self.version, rows, self.settings.plugins(), there["legacy"])

    def create_tables(self):
        try:
            self.query("BEGIN;" + schema.STATE_TABLES + "COMMIT;")
        except PgError as error:
            self.query("ROLLBACK")
            raise MigrationError("[PostgreSQL error] failed to bootstrap database: %s" % error)

    # the lock

    def take_lock(self):
        taken = self.query(
            "BEGIN; DELETE FROM locks WHERE ttl < CURRENT_TIMESTAMP;"
            "INSERT INTO locks (key, owner, ttl) VALUES (%s, %s, CURRENT_TIMESTAMP + interval '%d seconds') "
            "ON CONFLICT (key) DO NOTHING; COMMIT;"
            "SELECT 1 AS mine FROM locks WHERE key = %s AND owner = %s"
            % (quote(LOCK_KEY), quote(self.owner), self.lock_timeout, quote(LOCK_KEY), quote(self.owner)))
        return bool(taken)

    def lock_held(self):
        return bool(self.query("SELECT 1 AS held FROM locks WHERE key = %s AND ttl >= CURRENT_TIMESTAMP"
                               % quote(LOCK_KEY)))

    def release_lock(self):
        sql = "DELETE FROM locks WHERE key = %s AND owner = %s" % (quote(LOCK_KEY), quote(self.owner))
        try:
            self.query(sql)
        except PgError:
            self.connect()
            self.query(sql)

    def locked(self, action, wait):
        """Run ``action`` as the only one. False if somebody else had the lock: waited for it to go (``wait``), or not
        at all. What the other one did is not looked at, as in the real command."""
        if self.take_lock():
            try:
                action()
            finally:
                self.release_lock()
            return True
        if not wait:
            return False
        deadline, step = time.monotonic() + self.lock_timeout, 0.05
        while self.lock_held():
            if time.monotonic() >= deadline:
                raise MigrationError("[PostgreSQL error] timeout")
            time.sleep(min(step, 2, max(0.01, deadline - time.monotonic())))
            step *= 2
        return False

    # running

    def run(self, table, up, finish):
        """Run phases of the migrations in ``table``; each is one transaction and then a record of its own."""
        total = executed = pending = 0
        for subsystem, names in table.items():
            self.say("migrating %s on database '%s'..." % (subsystem, self.database["database"]))
            for name in names:
                two = "%s/%s" % (subsystem, name) in self.version.teardown
                if up:
                    self._up(subsystem, name)
                    self._record(subsystem, name, "pending" if two else "executed")
                if two and finish:
                    self._teardown(subsystem, name)
                    self._record(subsystem, name, "teardown")
                done = finish or not two
                total += 1
                executed += done
                pending += not done
                self.say("%s migrated up to: %s (%s)" % (subsystem, name, "executed" if done else "pending"))
        if total:
            self.say("%d migration%s processed" % (total, "" if total == 1 else "s"))
            if executed:
                self.say("%d executed" % executed)
            if pending:
                self.say("%d pending" % pending)

    def _failed(self, name, phase, error):
        try:
            self.query("ROLLBACK")
        except PgError:
            pass  # the connection hangs or is gone, which the first error says already
        raise MigrationError("[PostgreSQL error] failed to run migration '%s' %s: %s" % (name, phase, error))

    def _up(self, subsystem, name):
        sql = schema.up(subsystem, name, self.version)
        if not sql:
            return
        try:
            self.query("BEGIN;\n" + sql + "\nCOMMIT;")
        except PgError as error:
            self._failed(name, "up", error)

    def _teardown(self, subsystem, name):
        try:
            schema.teardown(subsystem, name)(self.connection, self.version)
        except PgError as error:
            self._failed(name, "teardown", error)

    def _record(self, subsystem, name, what):
        key, name = "'schema_meta', " + quote(subsystem), quote(name)
        if what == "pending":
            sql = ("INSERT INTO schema_meta (key, subsystem, pending) VALUES (%s, ARRAY[%s]) ON CONFLICT (key, "
                   "subsystem) DO UPDATE SET pending = array_append(schema_meta.pending, %s)" % (key, name, name))
        elif what == "executed":
            sql = ("INSERT INTO schema_meta (key, subsystem, last_executed, executed) VALUES (%s, %s, ARRAY[%s]) "
                   "ON CONFLICT (key, subsystem) DO UPDATE SET last_executed = EXCLUDED.last_executed, "
                   "executed = array_append(schema_meta.executed, %s)" % (key, name, name, name))
        else:
            sql = ("UPDATE schema_meta SET last_executed = %s, executed = array_append(executed, %s), "
                   "pending = array_remove(pending, %s) WHERE key = 'schema_meta' AND subsystem = %s"
                   % (name, name, name, quote(subsystem)))
        self.query(sql)

    # commands: each returns its exit code

    def word(self, text):
        return text if self.version.has("capitals") else text[:1].lower() + text[1:]

    def in_lock(self, action, wait):
        """Like ``locked``, with an error inside it told the way the real one tells it."""
        def inside():
            try:
                action()
            except PgError as error:
                raise MigrationError("[PostgreSQL error] %s" % error)
        if self.locked(inside, wait):
            return True
        self.say(BUSY)
        return False

    def bootstrap(self, state, force):
        if force and self.version.has("bootstrap_force_resets") and not state.needs_bootstrap:
            if self.reset(state) != 0:
                return 1
            state = self.state()
        if not state.needs_bootstrap:
            self.say(self.word("Database already bootstrapped"))
            return 0
        if state.legacy and self.version.has("legacy"):
            raise MigrationError("Cannot bootstrap a non-empty database, run 'kong migrations up' instead")
        self.say(self.word("Bootstrapping database..."))
        self.create_tables()

        def action():
            self.run(self.state().new, up=True, finish=True)
            self.say(self.word("Database is up-to-date"))
        self.in_lock(action, wait=False)
        return 0

    def up(self, state, force):
        if state.needs_bootstrap:
            raise MigrationError(self.cannot_run())
        if state.pending and not force and self.version.has("pending_before_lock"):
            raise MigrationError("Database has pending migrations; run 'kong migrations finish'")

        def action():
            now = self.state()
            if now.pending and not force:
                raise MutexError("Database has pending migrations; run 'kong migrations finish'", "error")
            try:
                if force:
                    self.run(now.executed, up=True, finish=self.version.has("capitals"))
                if now.new:
                    self.run(now.new, up=True, finish=False)
                elif not force:
                    self.say(self.word("Database is already up-to-date"))
                    return
            except MigrationError as error:
                raise MutexError(str(error), "assert")
            if self.version.has("capitals") and (now.new or now.pending) and self.state().pending:
                self.say("")
                self.say("Database has pending migrations; run 'kong migrations finish' when ready")
        self.in_lock(action, wait=True)
        return 0

    def finish(self, state, force):
        if state.needs_bootstrap:
            if not self.version.has("capitals"):
                self.say("cannot run migrations: database needs bootstrapping; run 'kong migrations bootstrap'")
                return 0
            raise MigrationError(self.cannot_finish())

        def action():
            now = self.state()
            try:
                if force and self.version.has("capitals"):
                    self.run(now.executed, up=True, finish=True)
                if now.pending:
                    self.run(now.pending, up=False, finish=True)
            except MigrationError as error:
                raise MutexError(str(error), "assert")
            if now.pending and not self.version.has("capitals"):
                return
            if now.new:
                self.say("")
                self.say(self.word("New migrations available; run 'kong migrations up' to proceed"))
                return
            if not force:
                self.say(self.word("No pending migrations to finish"))
        self.in_lock(action, wait=False)
        return 0

    def reset(self, state):
        if state.needs_bootstrap:
            self.say(self.word("Database not bootstrapped, nothing to reset"))
            return 1
        if not self.take_lock():
            self.say(BUSY)
            return 1
        self.say(self.word("Resetting database..."))
        self.query(
            "DO $reset$ DECLARE thing record; BEGIN FOR thing IN SELECT format('%I.%I', schemaname, tablename) AS name "
            "FROM pg_tables WHERE schemaname = current_schema() AND tableowner = current_user LOOP "
            "EXECUTE 'DROP TABLE IF EXISTS ' || thing.name || ' CASCADE'; END LOOP; "
            "FOR thing IN SELECT p.oid::regprocedure AS name FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner "
            "WHERE p.pronamespace = current_schema()::regnamespace AND r.rolname = current_user LOOP "
            "EXECUTE 'DROP FUNCTION IF EXISTS ' || thing.name || ' CASCADE'; END LOOP; END $reset$")
        self.say(self.word("Database successfully reset"))
        return 0

    def cannot_run(self):
        if self.version.number >= (2, 0):
            return "Cannot run migrations: " + needs_bootstrap(self.version)
        return "Cannot run migrations: database needs bootstrapping; run 'kong migrations bootstrap'"

    def cannot_finish(self):
        if self.version.number >= (2, 0):
            return "Cannot run migrations: " + needs_bootstrap(self.version)
        return "Cannot run migrations; run 'kong migrations bootstrap' instead"


class MutexError(MigrationError):
    """An error inside the lock: the real one wraps it and adds a traceback, of which we keep the first line."""

    def __init__(self, text, raised_by):
        super().__init__(
            "[PostgreSQL error] cluster_mutex callback threw an error: "
            "/usr/local/share/lua/5.1/kong/cmd/utils/migrations.lua:104: %s\nstack traceback:\n\t[C]: in function '%s'"
            % (text, raised_by))


def needs_bootstrap(version):
    """What is said of an empty database. The first line is what programs look for; the advice below it is ours."""
    if version.number < (2, 0):
        text = "Database needs bootstrapping; run 'kong migrations bootstrap'"
        return text if version.has("capitals") else text[:1].lower() + text[1:]
    return ("Database needs bootstrapping or is older than Kong 1.0.\n\n"
            "An empty database is filled by 'kong migrations bootstrap'.\n\n"
            "One of a version before 1.0 has to be brought to Kong 1.5 by that version's own commands.\n\n")
