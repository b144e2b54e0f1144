# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the migration state where it should be, with `kong migrations`.

A command is never believed by its exit code or its words: the state is read before and after it, and what counts is the
difference. `up` and `finish` exit 0 and do nothing when another runner holds the lock, also when that runner was killed
and only its row in the table `locks` is left; `finish` prints the same whether it had something to do or not.
"""

import contextlib
import re
import signal
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _apis,
    _cassandra,
    _cli,
    _conf,
    _datastore,
    _migrations,
    _postgres,
    _ring,
    _watch,
)
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import (
    Blocked,
    DatabaseError,
    KongError,
    LockHeld,
    MigrationError,
)

# `kong migrations` makes default certificates (two RSA keys, up to a second) in an empty prefix for listeners with TLS.
# It listens to nothing itself, so it is told of listeners that need none. Roles of 2.x want proxy and admin to be set.
NO_TLS = {
    "KONG_PROXY_LISTEN": "127.0.0.1:8000",
    "KONG_ADMIN_LISTEN": "127.0.0.1:8001",
    "KONG_STATUS_LISTEN": "off",
    "KONG_STREAM_LISTEN": "off",
}
# Without the database there is nothing to poll but `kong migrations list`: seconds between two looks.
LOOK_AGAIN = 2.0
LOCK_POLL = 0.5
LAG_POLL = 0.5
# `up` gives up its wait for the lock only when --lock-timeout has passed, and then ends by itself.
MARGIN = 10


def clean_up_when_told_to_end():
    """Makes SIGTERM and SIGHUP end this process as Ctrl-C does, so that a command that runs is ended with it."""

    def end(number, dummy):
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)


def kong_from(params, run_command, scratch):
    """The Kong that a module's parameters name, so that `kong migrations` does not touch a node's prefix.

    The prefix is set by KONG_PREFIX, which every version from 0.14 obeys, while `-p` came with 2.3.2; those up to 2.2
    do not use it.
    """
    executable = _cli.find_executable(params.get("executable"))
    return _cli.Kong(run_command, executable, conf=params.get("conf"), environ=dict(NO_TLS, KONG_PREFIX=scratch))


def read_cli(kong):
    """The state that `kong migrations list` tells; CommandError."""
    result = kong.call("migrations", "list")
    return _migrations.parse_list(result, " ".join([kong.executable, "migrations", "list"]))


def database_options():
    """The login options of every kind of database, for an argument_spec."""
    return dict(_postgres.options(), **_cassandra.options())


def driver(params, settings):
    """The module that talks to the kind of database that is meant: where a host is given, what is there.

    :param params: dict, the module's parameters.
    :param settings: dict of Kong's explicit settings (_conf.load).
    """
    if params.get("cassandra_contact_points"):
        return _cassandra
    if settings.get("database") == "cassandra" and not params.get("login_host"):
        return _cassandra
    return _postgres


def info(params, run_command):
    """Does what the module kong_migrations_info is documented to do.

    :returns: (dict as from _migrations.make(), list of warnings); KongError.
    """
    settings = _conf.load(params.get("conf"))[0]
    if params["source"] == "database":
        kind = driver(params, settings)
        with contextlib.closing(kind.connect(*kind.target(params, settings))) as database:
            return _migrations.read_database(database, params.get("known"))
    try:
        with _cli.scratch_prefix() as scratch:
            return read_cli(kong_from(params, run_command, scratch)), []
    except KongError as error:
        raise error.cleaned(cleaner(settings))


def cleaner(settings):
    """A function that takes the secrets of these settings out of a text (str -> str).

    A password that is also a name would take every such name out of what a command printed, so those are let stand.
    """
    keys = ("pg_user", "pg_database", "cassandra_username", "cassandra_keyspace")
    names = ["kong", "postgres", "cassandra"] + [settings.get(key) for key in keys]
    secrets = [value for value in _conf.secret_values(settings) if value not in names]
    return lambda text: _conf.scrub(text, secrets)


def diff(result, check_mode=False):
    """The `diff` of a result of migrate(), one line per migration; in check mode, what the commands would make of it."""
    if not result.get("before"):
        return {"before": "", "after": ""}
    before = after = _migrations.render(result["before"])
    if not check_mode:
        after = _migrations.render(result["after"])
    for argv in result["commands"] if check_mode else ():
        for command, old, new in (("up", "new", "executed or pending"), ("finish", "pending", "executed")):
            if argv[2] == command:
                after = re.sub("(?m)^%s " % old, "%s " % new, after)
        if argv[2] == "bootstrap":
            after = "state: %s\n" % _migrations.UP_TO_DATE
    if "apis" in result:
        before += _counts(result["apis"]["before"])
        after += _counts(result["apis"]["after"])
    return {"before": before, "after": after}


def _counts(rows):
    return "".join("%s: %d\n" % item for item in sorted(rows.items()))


def migrate(params, run_command, check_mode=False):
    """Does what the module kong_migrations is documented to do.

    :param params: dict, the module's parameters.
    :param run_command: as AnsibleModule.run_command.
    :returns: dict, the module's result; `warnings` (list of str) among it.
    :raises KongError: with the part of the result that is known (changed, before, after, ran, commands) as details.
    """
    settings = _conf.load(params.get("conf"))[0]
    with _cli.scratch_prefix() as scratch:
        with contextlib.ExitStack() as stack:
            migrator = Migrator(params, kong_from(params, run_command, scratch), settings, check_mode, stack)
            try:
                migrator.reach(params["state"])
            except KongError as error:
                # What was done before it failed is told, too.
                details = migrator.result(failed=True)
                details.update(error.details)
                error.details = details
                raise error.cleaned(migrator.clean)
            return migrator.result()


class Migrator(object):
    """One module run. `before` and `after` are readings; everything else is what happened between them."""

    def __init__(self, params, kong, settings, check_mode, stack):
        self.params = params
        self.kong = kong
        self.settings = settings
        self.check_mode = check_mode
        self.clean = cleaner(settings)
        self.store = None  # stays None where there is no database that can be looked into
        self.database = None
        self.no_database = None
        self.before = None
        self.after = None
        self.apis = None  # what there is of apis, services and routes, before and after; only where it is asked for
        self.commands = []
        self.out = []
        self.err = []
        self.warnings = []
        self.waited = 0.0
        self.would_run = False
        self._lock_deadline = None
        self._connect(stack)

    def _connect(self, stack):
        try:
            kind = driver(self.params, self.settings)
            self.store, password = kind.target(self.params, self.settings)
            self.database = stack.enter_context(contextlib.closing(kind.connect(self.store, password)))
        except DatabaseError as error:
            # The command may reach it all the same, and will tell if not.
            self.no_database = error

    # --- readings

    def read(self):
        """The state now. Where the database can be read as well, both must agree on what they know."""
        state = read_cli(self.kong)
        if self.before is None:
            self.before = state
        if self.database is not None:
            state["lock"] = _migrations.lock_or_none(self.database)
            state["lock_known"] = True
            if not state["needs_bootstrap"]:
                self._compare(state)
        self.after = state
        return state

    def _compare(self, state):
        """The command and our own connection must speak of the same database.

        The state may go on between the two readings (executed from pending), never back: so the older of them, the
        command's, must be contained in the younger.
        """

        def unseen():
            tables = _migrations.read_database(self.database)[0]
            have = _migrations.merge(tables["executed"], tables["pending"])
            return _migrations.subtract(_migrations.merge(state["executed"], state["pending"]), have)

        astray = self._until_nothing(unseen)
        if astray:
            raise MigrationError(
                "kong migrations list tells of migrations that are not in %s (%s): the command uses another database, schema "
                "or keyspace. Check conf, KONG_ variables and the login options."
                % (self.database.place(), _migrations.spell(astray))
            )

    def _until_nothing(self, found):
        """What found() returns, asked again while it is something and the database may lag behind."""
        end = time.monotonic() + (self.database.lag if self.database is not None else 0)
        while True:
            value = found()
            if not value or time.monotonic() >= end:
                return value
            time.sleep(LAG_POLL)  # between two readings; what is written is seen by all nodes a little later

    def result(self, failed=False):
        """The module's result so far."""
        result = {
            "changed": False,
            "before": self.before,
            "after": self.after,
            "ran": {},
            "waited": round(self.waited, 1),
            "commands": self.commands,
            "stdout": self.clean("".join(self.out)),
            "stderr": self.clean("".join(self.err)),
            "warnings": self.warnings,
        }
        if self.before is not None and self.after is not None:
            result["changed"] = _place(self.before) != _place(self.after)
            result["ran"] = _migrations.moved(self.before, self.after)
        if self.apis is not None:
            result["apis"] = _apis.told(self.apis[0], self.apis[1], self.clean("".join(self.out)))
            result["changed"] = result["changed"] or self.apis[0] != self.apis[1]
        if self.check_mode and not failed:
            result["changed"] = self.would_run
        return result

    # --- the states

    def reach(self, state):
        """Brings the database to `state`, or says why not."""
        {
            "apis_migrated": self._migrate_apis,
            "bootstrapped": self._bootstrap,
            "finished": self._finish,
            "up": self._up,
        }[state]()

    def _migrate_apis(self):
        state = self._ready(self.read())
        before = self._look_at_apis()
        self.apis = (before, before)
        if not before["names"]:
            return
        if not state["legacy"]:
            raise MigrationError(
                "There are apis left (%s), and %s cannot move them any more: migrate-apis works with 1.5.1 on the database "
                "of a 0.14.1, before up. Make services and routes of them by hand and delete them, or restore the backup."
                % (_some(before["names"]), self.kong.executable)
            )
        if self.check_mode:
            self._predict("migrate-apis")
            return
        self._act("migrate-apis", self._apis_left, state)

    def _look_at_apis(self):
        """As from _apis.read(). Kong itself cannot be asked: its exit code is 0 whatever it left."""
        if self.database is None:
            raise MigrationError(
                "How many apis there are cannot be told without a look into the database, and up would lose those that are "
                "left. %s" % self.no_database.message
            )
        if not isinstance(self.database, _postgres.Database):
            raise MigrationError("The apis of a 0.14.1 can be counted on PostgreSQL alone: move them by hand, by the guide to 1.5.")
        return _apis.read(self.database)

    def _apis_left(self, dummy_state):
        """left_of for migrate-apis: the apis that are still there, each with why."""
        self.apis = (self.apis[0], self._look_at_apis())
        left = _apis.told(self.apis[0], self.apis[1], self.clean("".join(self.out)))["left"]
        return {"api": ["%(name)s (%(why)s)" % api for api in left]} if left else {}

    def _up(self):
        state = self._ready(self.read())
        apis = self._look_at_apis()["names"] if state["legacy"] else []
        if apis:
            # Kong refuses this only until migrate-apis has run, whatever it left.
            refusal = "There are apis (%s), which up would lose. Run state: apis_migrated first." % _some(apis)
            if not self.check_mode:
                raise MigrationError(refusal)
            self.warnings.append("It would be refused now: %s" % refusal)
        if state["state"] == _migrations.PENDING_AND_NEW:
            self._leftovers(state)
            if self.check_mode:
                self._predict("finish")
            else:
                state = self._act("finish", _still_pending(state["pending"]), state)
        wanted = state["new"]
        if not wanted:
            return
        if self.check_mode:
            self._predict("up")
            return
        self._act("up", lambda now: _migrations.missing(wanted, now), state)

    def _finish(self):
        state = self._ready(self.read())
        if state["new"] and not state["pending"]:
            raise MigrationError(
                "There are migrations that up has not run yet (%s), and nothing that finish could do. Run state: up "
                "first." % _migrations.spell(state["new"])
            )
        if state["state"] == _migrations.PENDING_AND_NEW:
            self._leftovers(state)
            self.warnings.append(
                "Finish does not run what is new: %s. Run state: up and then state: finished again."
                % _migrations.spell(state["new"])
            )
        if not state["pending"]:
            return
        if self.check_mode:
            self._predict("finish")
            return
        self._act("finish", _still_pending(state["pending"]), state)

    def _bootstrap(self):
        state = self.read()
        if not state["needs_bootstrap"]:
            if state["state"] != _migrations.UP_TO_DATE:
                self._complete(state)
            return
        if self.database is None:
            raise MigrationError(
                "A bootstrap is run only on an empty schema, and whether it is empty cannot be told without a look into "
                "the database. %s" % self.no_database.message
            )
        found = self.database.objects()
        if found:
            old = ""
            if "schema_migrations" in [row["name"] for row in found]:
                old = " It is the database of a Kong before 1.0, which must be migrated with 1.5.1 first."
            raise MigrationError(
                "There is no schema_meta in %s, and it is not empty (%s): a bootstrap could run over it, and is refused.%s Name an "
                "empty schema, database or keyspace."
                % (self.database.place(), _some(["%(kind)s %(name)s" % row for row in found]), old),
                objects=found,
            )
        if self.check_mode:
            self._predict("bootstrap")
            return
        self._act("bootstrap", _not_up_to_date, state)

    def _complete(self, state):
        """Finishes what a bootstrap that was ended in its middle has left to do: Kong's own `bootstrap` says that all is done then,
        and does nothing. Only while not a row of configuration is there, so that no database in use is taken for one."""
        left = "pending: %s; new: %s" % (_migrations.spell(state["pending"]), _migrations.spell(state["new"] or {}))
        if self.params["interrupted"] != "complete":
            raise MigrationError(
                "The database has been bootstrapped, but not everything has run (%s): it belongs to another version, or a "
                "bootstrap was interrupted. Where you know that it is the latter, allow it with interrupted: complete; else "
                "run state: up and state: finished." % left
            )
        if self.database is None:
            raise MigrationError(
                "An interrupted bootstrap is completed only in a database without configuration, and whether there is any "
                "cannot be told without a look into it. %s" % self.no_database.message
            )
        if not self.database.tables(["locks"]):
            (made,) = [row["identity"] for row in self.database.objects() if row["name"] == "schema_meta"]
            raise MigrationError(
                "The bootstrap was ended before anything but the table schema_meta was made in %s, and Kong cannot go on from "
                "there. Remove it (DROP TABLE %s) and run this again." % (self.database.place(), made)
            )
        self.database.settle()
        on_postgres = isinstance(self.database, _postgres.Database)
        used = _datastore.configuration(_datastore.counts(self.database) if on_postgres else _ring.counts(self.database))
        if used:
            raise MigrationError(
                "Not everything has run (%s), and there is configuration (%s): this is no interrupted bootstrap, but a "
                "database in use. Run state: up and state: finished."
                % (left, ", ".join("%s: %s" % (name, "?" if n is None else n) for name, n in sorted(used.items())))
            )
        if self.check_mode:
            for command in ("up", "finish"):
                self._predict(command)
            return
        if state["pending"]:
            state = self._act("finish", _still_pending(state["pending"]), state)
        wanted = state["new"]
        if wanted:
            state = self._act("up", lambda now: _migrations.missing(wanted, now), state)
        if state["pending"]:
            self._act("finish", _still_pending(state["pending"]), state)

    # --- the parts

    def _ready(self, state):
        """Refuses a state from which none of migrate-apis, up and finish can start."""
        if state["legacy"] and state["new"]:
            return state  # of 0.14.1, and this command takes it over
        if state["legacy"]:
            raise MigrationError(
                "%s does not take this database over: it is of a Kong before 0.14.1, or migrations of 0.14.1 are missing, as of "
                "bundled plugins that its kong.conf did not load. Run `kong migrations up` of 0.14.1 with plugins = bundled "
                "first, then go on with 1.5.1." % self.kong.executable
            )
        if state["needs_bootstrap"]:
            if self.database is not None and self.database.tables(["schema_migrations"]):
                raise MigrationError(
                    "The database has the tables of a Kong before 1.0 (schema_migrations), which %s does not know. "
                    "Migrate it with Kong 1.5.1 first (migrate-apis, up, finish)." % self.kong.executable
                )
            raise MigrationError(
                "The database has no schema_meta: it has not been bootstrapped, or it is another one than you mean%s. "
                "For a new installation run state: bootstrapped."
                % (" (%s)" % self.database.place() if self.database is not None else "")
            )
        return state

    def _leftovers(self, state):
        if self.params["pending_and_new"] != "finish":
            raise MigrationError(
                "An earlier up has left migrations pending (%s), and there are new ones as well (%s). Kong runs no up "
                "while something is pending, and finish makes the database unusable for nodes of the older version. "
                "When no such node runs any more, allow it with pending_and_new: finish."
                % (_migrations.spell(state["pending"]), _migrations.spell(state["new"]))
            )

    def _predict(self, command):
        self.would_run = True
        self.commands.append(self._argv(command))
        if self.database is None:
            return
        lock = self.after["lock"]
        if lock:
            self.warnings.append(
                "The migration lock is held by %s for another %s s." % (lock["owner"], lock["expires_in"])
            )
        try:
            self.database.settle()
        except DatabaseError as error:
            self.warnings.append("It would be refused now: %s" % error.message)
        old = self._old_transactions()
        if old:
            self.warnings.append("It would be refused now: %s" % _too_old(old, self.params["max_transaction_age"]))

    def _argv(self, command):
        return self.kong.argv(
            "migrations",
            command,
            "--db-timeout",
            self.params["db_timeout"],
            "--lock-timeout",
            self.params["lock_timeout"],
        )

    def _act(self, command, left_of, state):
        """Runs `command` until left_of(state) is empty, or fails.

        :param left_of: callable, state -> dict of the ids that are not yet where they should be.
        :returns: the state after it.
        """
        if self._lock_deadline is None:
            self._lock_deadline = time.monotonic() + self.params["foreign_lock_timeout"]
        while True:
            if self._await_lock(state):
                state = self.read()
                if not left_of(state):
                    return state
                self._ready_again(command, state)
            if self.database is not None:
                self.database.settle()
            self._refuse_old_transactions()
            outcome = self._run(command)
            left = self._read_back(left_of, outcome)
            state = self.after
            if not left:
                self._odd_success(command, outcome, state)
                if self.database is not None:
                    self.database.settle(made=True)
                return state
            self._judge(command, outcome, state, left)

    def _read_back(self, left_of, outcome):
        """What the command has left undone; one that says that it did its work is given the time to be seen."""
        if outcome.result.rc != 0 or _migrations.lost_race(outcome.result):
            return left_of(self.read())
        return self._until_nothing(lambda: left_of(self.read()))

    def _ready_again(self, command, state):
        """After a wait: what another runner has left must still be something to go on from."""
        if command == "up" and state["state"] == _migrations.PENDING_AND_NEW:
            raise MigrationError(
                "While this waited, another runner has run a part of the migrations: pending %s; new %s. Run finish for "
                "the pending ones (pending_and_new: finish, only when no node of the older version runs) and then up."
                % (_migrations.spell(state["pending"]), _migrations.spell(state["new"]))
            )

    def _odd_success(self, command, outcome, state):
        self.warnings += outcome.warnings
        if outcome.result.rc != 0 or outcome.blocked is not None or outcome.timed_out:
            self.warnings.append(
                "kong migrations %s ended with %s (%s), but everything it should do is done."
                % (command, outcome.result.rc, self._said(outcome) or "no message")
            )

    def _judge(self, command, outcome, state, left):
        """Decides after a command that did not do all: returns to go on, or raises."""
        self.warnings += outcome.warnings
        facts = {"rc": outcome.result.rc, "left": left, "blocked_by": outcome.blocked or []}
        tail = self._lock_tail(state)
        still = "not done: %s" % _migrations.spell(left)
        if outcome.left:
            tail += " Sessions of the command that the server did not end within %d s: %s." % (
                _watch.GONE_WITHIN,
                "; ".join(_watch.name(session) for session in outcome.left),
            )
        if outcome.blocked is not None:
            who = "; ".join(_watch.name(session) for session in outcome.blocked)
            raise Blocked(
                "kong migrations %s was ended, because %d session(s) of others had waited behind it for %s s; %s. %s. "
                "The statement that ran was rolled back; %s.%s"
                % (
                    command,
                    len(outcome.victims),
                    self.params["block_timeout"],
                    "in its way: %s" % who if who else "it held the locks itself",
                    "End that session, or let it end, and run this again"
                    if who
                    else "The tables are too big for the load: raise block_timeout, or choose a quiet hour",
                    still,
                    tail,
                ),
                victims=outcome.victims,
                **facts
            )
        if outcome.timed_out:
            raise MigrationError(
                "kong migrations %s was ended after %d s, when its lock had run out (lock_timeout); %s.%s"
                % (command, outcome.seconds, still, tail),
                **facts
            )
        if _migrations.lost_race(outcome.result):
            if self.params["foreign_lock"] == "fail":
                raise LockHeld(
                    "kong migrations %s did nothing, because another runner held the migration lock; %s.%s"
                    % (command, still, tail),
                    **facts
                )
            if time.monotonic() >= self._lock_deadline:
                raise LockHeld(
                    "kong migrations %s has been waiting for another holder of the migration lock for "
                    "foreign_lock_timeout (%s s); %s.%s"
                    % (command, self.params["foreign_lock_timeout"], still, tail),
                    **facts
                )
            self.waited += outcome.seconds
            if self.database is None:
                self._look_again()
            return
        said = self._said(outcome)
        if state["state"] == _migrations.PENDING_AND_NEW:
            tail += (
                " What ran before stays, in part pending: remove the cause, then run state: up with pending_and_new: "
                "finish, but only when no node of the older version is needed any more."
            )
        raise MigrationError(
            "kong migrations %s ended with %s, but %s. It said: %s%s%s"
            % (command, outcome.result.rc, still, said or "nothing", _migrations.advice(said) if said else ".", tail),
            **facts
        )

    def _said(self, outcome):
        return self.clean(_cli.first_line(outcome.result.err) or _cli.first_line(outcome.result.out))

    def _lock_tail(self, state):
        lock = state.get("lock")
        if not lock:
            return ""
        return " The migration lock (owner %s) is still there and runs out in %s s; it is never deleted." % (
            lock["owner"],
            lock["expires_in"],
        )

    def _await_lock(self, state):
        """Waits until nobody else holds the migration lock; True when it had to.

        :raises LockHeld: by option, or when it took longer than foreign_lock_timeout.
        """
        if self.database is None or not state["lock"]:
            return False
        lock = state["lock"]
        begun = time.monotonic()
        try:
            while lock:
                facts = dict(lock, waited=round(time.monotonic() - begun, 1))
                if self.params["foreign_lock"] == "fail":
                    raise LockHeld(
                        "Another runner holds the migration lock: owner %s, for another %s s at most. It is never "
                        "deleted; wait, or use foreign_lock: wait." % (lock["owner"], lock["expires_in"]),
                        lock=lock,
                    )
                if time.monotonic() >= self._lock_deadline:
                    raise LockHeld(
                        "Another runner still holds the migration lock after %s s (foreign_lock_timeout): owner %s, for "
                        "another %s s at most. It is never deleted; raise foreign_lock_timeout, or run this again."
                        % (self.params["foreign_lock_timeout"], lock["owner"], facts["expires_in"]),
                        lock=lock,
                    )
                time.sleep(min(LOCK_POLL, lock["expires_in"] + 0.05))
                lock = _migrations.lock_or_none(self.database)
        finally:
            self.waited += time.monotonic() - begun
        return True

    def _look_again(self):
        """Without the database there is no lock to watch: the next try is made a little later."""
        begun = time.monotonic()
        time.sleep(LOOK_AGAIN)
        self.waited += time.monotonic() - begun

    @property
    def _watched(self):
        """Whether a migration can stand in the way of other sessions; on Cassandra there are no locks but its own."""
        return self.store is not None and self.store["kind"] == "postgres"

    def _old_transactions(self):
        age = self.params["max_transaction_age"]
        return _watch.old_transactions(self.database, age) if age and self._watched else []

    def _refuse_old_transactions(self):
        """Before a command: no old transaction may hold a lock on Kong's tables, and a watcher must be able to look.

        :raises Blocked: somebody does.
        """
        if self.database is None:
            if self._watched and (self.params["block_timeout"] or self.params["max_transaction_age"]):
                raise Blocked(
                    "Whether a migration blocks the running nodes can be watched only with a look into the database. %s "
                    "Or go without, with block_timeout: 0 and max_transaction_age: 0." % self.no_database.message
                )
            return
        old = self._old_transactions()
        if old:
            raise Blocked(_too_old(old, self.params["max_transaction_age"]), blocked_by=old)

    def _run(self, command):
        argv = self._argv(command)
        self.commands.append(argv)
        outcome = _watch.run(
            argv,
            self.kong.environment(),
            self.params["lock_timeout"] + MARGIN,
            self.database if self._watched else None,
            self.params["block_timeout"],
            self.store["kong_user"] if self._watched else None,
        )
        self.out.append(outcome.result.out)
        self.err.append(outcome.result.err)
        return outcome


def _place(state):
    """What makes two readings differ: where each id stands."""
    return (state["needs_bootstrap"], state["executed"], state["pending"])


def _still_pending(wanted):
    """left_of for finish: those of `wanted` that are not executed."""
    return lambda state: _migrations.subtract(wanted, state["executed"])


def _not_up_to_date(state):
    """left_of for bootstrap: everything that is not executed."""
    if state["needs_bootstrap"]:
        return {"core": ["000_base"]}
    return _migrations.merge(state["pending"], state["new"] or {})


def _some(names):
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _too_old(sessions, age):
    return (
        "A migration waits for every transaction that has touched Kong's tables, and every request of the running nodes "
        "waits behind it. Older than max_transaction_age (%s s): %s. End that session, or let it end, and run this again."
        % (age, "; ".join(_watch.name(session) for session in sessions))
    )
