# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migration state, the cluster lock, and the commands that change the schema."""

import time
import uuid

from .datastore import DatastoreError, connect

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
    """The commands that change the schema of one version. ``say`` prints a line of the command, ``verbose`` one that
    only --v shows, ``complain`` one with a level on stderr. Times are in seconds."""

    def __init__(self, version, settings, say, verbose, complain, db_timeout=60, lock_timeout=60):
        self.version, self.settings = version, settings
        self.say, self.verbose, self.complain = say, verbose, complain
        self.lock_timeout = lock_timeout
        self.owner = str(uuid.uuid4())
        try:
            self.datastore = connect(version, settings, complain, db_timeout)
        except DatastoreError as error:
            raise MigrationError(str(error))

    def error(self, text):
        return MigrationError("[%s error] %s" % (self.datastore.title, text))

    # state

    def state(self):
        self.verbose("retrieving %s schema state..." % self.datastore.container)
        try:
            rows, legacy = self.datastore.state_rows()
        except DatastoreError as error:
            raise self.error(error)
        self.verbose("schema state retrieved")
        return State(self.version, rows, self.settings.plugins(), legacy)

    def create_tables(self):
        try:
            self.datastore.create_tables()
        except DatastoreError as error:
            raise self.error("failed to bootstrap database: %s" % error)

    # the lock

    def locked(self, action, wait):
        """Run ``action`` as the only one. False if somebody else had the lock: waited for it to go (``wait``), or not
        at all. What the other one did is not looked at, as in the real command."""
        if self.datastore.take_lock(self.owner, self.lock_timeout):
            try:
                action()
            finally:
                self.datastore.release_lock(self.owner)
            return True
        if not wait:
            return False
        deadline, step = time.monotonic() + self.lock_timeout, 0.05
        while self.datastore.lock_held():
            if time.monotonic() >= deadline:
                raise self.error("timeout")
            time.sleep(min(step, 2, max(0.01, deadline - time.monotonic())))
            step *= 2
        return False

    # running

    def run(self, table, up, finish):
        """Run phases of the migrations in ``table``; each is one transaction and then a record of its own."""
        total = executed = pending = 0
        for subsystem, names in table.items():
            self.say("migrating %s on %s '%s'..." % (subsystem, self.datastore.container, self.datastore.name))
            for name in names:
                two = self.version.two_phases(self.datastore.kind, subsystem, name)
                if up:
                    self._phase(name, "up", self.datastore.up, subsystem, name, self.complain)
                    self.datastore.record(subsystem, name, "pending" if two else "executed")
                if two and finish:
                    if up:
                        self._agree()
                    self._phase(name, "teardown", self.datastore.teardown, subsystem, name)
                    self.datastore.record(subsystem, name, "teardown")
                    if not up:
                        self._agree()
                done = finish or not two
                total += 1
                executed += done
                pending += not done
                self.say("%s migrated up to: %s (%s)" % (subsystem, name, "executed" if done else "pending"))
        if total:
            if up:
                self._agree()
            self.say("%d migration%s processed" % (total, "" if total == 1 else "s"))
            if executed:
                self.say("%d executed" % executed)
            if pending:
                self.say("%d pending" % pending)

    def _agree(self):
        try:
            self.datastore.agree()
        except DatastoreError as error:
            raise self.error(error)

    def _phase(self, name, phase, run, *arguments):
        try:
            run(*arguments)
        except DatastoreError as error:
            raise self.error("failed to run migration '%s' %s: %s" % (name, phase, error))

    # commands: each returns its exit code

    def word(self, text):
        return text if self.version.has("capitals") else text[:1].lower() + text[1:]

    def mutex_error(self, error, raised_by):
        """An error inside the lock: the real one wraps it and adds a traceback, of which we keep the first line."""
        return self.error(
            "cluster_mutex callback threw an error: /usr/local/share/lua/5.1/kong/cmd/utils/migrations.lua:104: %s\n"
            "stack traceback:\n\t[C]: in function '%s'" % (error, raised_by))

    def in_lock(self, action, wait):
        """Like ``locked``, with an error inside it told the way the real one tells it."""
        try:
            if self.locked(action, wait):
                return True
        except DatastoreError as error:
            raise self.error(error)
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
            try:
                self.run(self.state().new, up=True, finish=True)
            except MigrationError as error:
                raise self.mutex_error(error, "assert")
            self.say(self.word("Database is up-to-date"))
        self.in_lock(action, wait=False)
        return 0

    def up(self, state, force):
        if state.needs_bootstrap:
            self._take_over(state)
        if state.pending and not force and self.version.has("pending_before_lock"):
            raise MigrationError("Database has pending migrations; run 'kong migrations finish'")

        def action():
            now = self.state()
            if now.pending and not force:
                raise self.mutex_error("Database has pending migrations; run 'kong migrations finish'", "error")
            try:
                if force:
                    self.run(now.executed, up=True, finish=self.version.has("capitals"))
                if now.new:
                    self.run(now.new, up=True, finish=False)
                elif not force:
                    self.say(self.word("Database is already up-to-date"))
                    return
            except MigrationError as error:
                raise self.mutex_error(error, "assert")
            if self.version.has("capitals") and (now.new or now.pending) and self.state().pending:
                self.say("")
                self.say("Database has pending migrations; run 'kong migrations finish' when ready")
        self.in_lock(action, wait=True)
        return 0

    def _take_over(self, state):
        """The tables of 1.x beside those of a 0.14.1."""
        from .legacy import has_apis

        if not (state.legacy and self.version.has("legacy") and self.datastore.kind == "postgres"):
            raise MigrationError(self.cannot_run())
        if has_apis(self):
            raise MigrationError("Cannot run migrations: you have `api` entities in your database.\nMake services and routes of "
                                 "them first.")
        self.say("Upgrading from 0.14.1, bootstrapping database..." if self.version.has("capitals")
                 else "upgrading from 0.14, bootstrapping database...")
        self.create_tables()

    def finish(self, state, force):
        if state.needs_bootstrap:
            if not self.version.has("capitals"):
                self.say("cannot run migrations: " + ("database not bootstrapped" if state.legacy else
                                                      "database needs bootstrapping; run 'kong migrations bootstrap'"))
                return 0
            if state.legacy and self.version.has("legacy"):
                raise MigrationError("Cannot run migrations on a legacy database; run 'kong migrations up' to proceed")
            raise MigrationError(self.cannot_finish())

        def action():
            now = self.state()
            try:
                if force and self.version.has("capitals"):
                    self.run(now.executed, up=True, finish=True)
                if now.pending:
                    self.run(now.pending, up=False, finish=True)
            except MigrationError as error:
                raise self.mutex_error(error, "assert")
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
        if not self.datastore.take_lock(self.owner, self.lock_timeout):
            self.say(BUSY)
            return 1
        self.say(self.word("Resetting database..."))
        self.datastore.reset(self.say)
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


def needs_bootstrap(version):
    """What is said of an empty database. The first line is what programs look for; the advice below it is ours."""
    if version.number < (2, 0):
        text = "Database needs bootstrapping; run 'kong migrations bootstrap'"
        return text if version.has("capitals") else text[:1].lower() + text[1:]
    return ("Database needs bootstrapping or is older than Kong 1.0.\n\n"
            "An empty database is filled by 'kong migrations bootstrap'.\n\n"
            "One of a version before 1.0 has to be brought to Kong 1.5 by that version's own commands.\n\n")
