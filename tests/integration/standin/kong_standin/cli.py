# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``kong`` command: arguments, words, streams and exit codes."""

import os
import signal
import sys
import time

from . import conf
from . import prefix as prefixes
from .datastore import KINDS, DatastoreError
from .versions import UnknownVersion, Version

HINT = "\n  Run with --v (verbose) or --vv (debug) for more details\n"
CONF = ("c", "conf", "text", None, "configuration file")
PREFIX = ("p", "prefix", "text", None, "prefix directory")
TEMPLATE = ("", "nginx-conf", "text", None, "template for nginx")
RUN_MIGRATIONS = ("", "run-migrations", "boolean", None, "run 'migrations up' first")
DB_TIMEOUT = ("", "db-timeout", "number", 60, "seconds for one statement")
LOCK_TIMEOUT = ("", "lock-timeout", "number", 60, "seconds to wait for the lock, and for it to live")


class Usage(Exception):
    """Bad arguments: ``text`` and the usage of ``command`` go to stderr, exit code 1."""

    def __init__(self, text, command=None):
        super().__init__(text)
        self.command = command


class Failed(Exception):
    """The command failed: ``Error: text`` on stderr, exit code 1. ``hint`` off leaves only the code."""


def commands(version):
    """name -> (summary, positional words, subcommands, options) of this version."""
    old = not version.has("schema_meta")
    migrations = ["list", "up", "reset"] if old else ["bootstrap", "up", "finish", "list", "reset"]
    if version.has("migrate_apis"):
        migrations.append("migrate-apis")
    switches = [("y", "yes", "switch", False, "answer yes"),
                ("q", "quiet", "switch", False, "accepted, silences nothing"),
                ("f", "force", "switch", False, "run again what is executed")]
    migration_options = switches[:1] + [CONF] if old else switches + [DB_TIMEOUT, LOCK_TIMEOUT, CONF]
    if version.has("migrations_prefix_flag"):
        migration_options.append(PREFIX)
    start = [CONF, PREFIX, TEMPLATE, RUN_MIGRATIONS] + ([] if old else [DB_TIMEOUT, LOCK_TIMEOUT])
    leave = [PREFIX, ("t", "timeout", "number", 10, "seconds until SIGTERM")]
    if version.has("quit_wait"):
        leave.append(("w", "wait", "number", 0, "seconds to wait before SIGQUIT"))
    out = {
        "check": ("validate a configuration file", ["conf"], [], []),
        "health": ("is the node of a prefix running", [], [], [PREFIX]),
        "migrations": ("database schema", [], migrations, migration_options),
        "prepare": ("write the files of a prefix", [], [], [CONF, PREFIX, TEMPLATE]),
        "quit": ("stop when the requests in flight are done", [], [], leave),
        "reload": ("take over settings while running", [], [], [CONF, PREFIX, TEMPLATE]),
        "restart": ("stop and start", [], [], start),
        "roar": ("noise", [], [], []),
        "start": ("start a node", [], [], start),
        "stop": ("stop at once", [], [], [PREFIX]),
        "version": ("version", [], [], [("a", "all", "switch", False, "of the parts too")]),
    }
    if version.has("config"):
        names = ["init", "db_import"] + (["db_export"] if version.has("db_export") else []) + ["parse"]
        out["config"] = ("declarative configuration", ["file"], names, [CONF, PREFIX])
    if version.has("hybrid"):
        out["hybrid"] = ("hybrid mode", ["cert", "key"], ["gen_cert"], [("d", "days", "number", 1095, "validity")])
    if version.has("vault"):
        out["vault"] = ("vaults", ["reference"], ["get"], [])
    return dict(sorted(out.items()))


def usage(version, command=None):
    table = commands(version)
    out = []
    if command is None:
        out += ["Usage: kong COMMAND [OPTIONS]", "", "The available commands are:"]
        out += [" " + name for name in table]
        options = []
    else:
        summary, words, subcommands, options = table[command]
        tail = " COMMAND [OPTIONS]" if subcommands else " [OPTIONS]" if options else ""
        tail += " <conf>" if words == ["conf"] else ""
        out += ["Usage: kong %s%s" % (command, tail), "", "Stand-in: %s." % summary]
        if subcommands:
            out += ["", "The available commands are:"] + ["  " + name for name in subcommands]
    out += ["", "Options:"]
    for short, name, _kind, default, text in options:
        left = "%s--%s" % ("-%s," % short if short else "", name)
        out.append(" %-16s%s%s" % (left, "(default %s) " % default if default else "", text))
    out += [" --v              verbose", " --vv             debug"]
    return "\n".join(out) + "\n"


def to_number(text, command):
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise Usage("kong: unable to convert to number: %s" % text, command)


def arguments(version, argv):
    """(command, subcommand, words, options). Raises Usage."""
    table = commands(version)
    level, rest = 0, []
    for word in argv:
        if word in ("--v", "--vv"):
            level = max(level, len(word) - 2)
        else:
            rest.append(word)
    if not rest:
        raise Usage("")
    command = rest.pop(0)
    if command not in table:
        raise Usage("No such command: %s" % command)
    _summary, names, subcommands, known = table[command]
    options = {name.replace("-", "_"): default for _short, name, _kind, default, _text in known}
    options["level"] = level
    words, at = [], 0
    while at < len(rest):
        word = rest[at]
        at += 1
        if word in ("--help", "-h"):
            raise Usage("", command)
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        value = None
        if word.startswith("--"):
            name = word[2:]
            if "=" in name:
                name, value = name.split("=", 1)
            match = [o for o in known if o[1] == name]
        else:
            name = word[1:]
            match = [o for o in known if o[0] and o[0] == name[:1]]
            if match and len(name) > 1:
                value = name[1:]
        if not match:
            raise Usage("kong: unrecognized parameter: %s" % name, command)
        _short, name, kind, _default, _text = match[0]
        if kind == "switch":
            value = True
        elif kind == "boolean":
            if value is None and at < len(rest) and rest[at] in ("true", "false"):
                value = rest[at]
                at += 1
            value = value != "false"
        else:
            if value is None:
                if at >= len(rest):
                    raise Usage("kong: %s was expecting a value" % name, command)
                value = rest[at]
                at += 1
            if kind == "number":
                value = to_number(value, command)
        options[name.replace("-", "_")] = value
    subcommand = None
    if subcommands:
        if not words:
            raise Usage("", command)
        subcommand = words.pop(0)
        if subcommand not in subcommands:
            raise Usage("No such command for %s: %s" % (command, subcommand), command)
    return command, subcommand, words[:len(names)], options


class Command:
    """One run of the command."""

    def __init__(self, version, options):
        self.version, self.options = version, options

    # output

    def say(self, text):
        stamp = time.strftime("%Y/%m/%d %H:%M:%S [info] ") if self.options["level"] else ""
        sys.stdout.write(stamp + text + "\n")
        sys.stdout.flush()

    def verbose(self, text):
        if self.options["level"]:
            sys.stdout.write(time.strftime("%Y/%m/%d %H:%M:%S [verbose] ") + text + "\n")
            sys.stdout.flush()

    def debug(self, text):
        if self.options["level"] > 1:
            sys.stdout.write(time.strftime("%Y/%m/%d %H:%M:%S [debug] ") + text + "\n")

    @staticmethod
    def complain(level, text):
        sys.stderr.write(time.strftime("%Y/%m/%d %H:%M:%S ") + "[%s] %s\n" % (level, text))

    def banner(self):
        self.verbose("Kong: %s" % self.version)
        self.debug("ngx_lua: %s" % self.version.ngx_lua)
        self.debug("nginx: %s" % self.version.nginx)
        self.debug("Lua: LuaJIT 2.1.0-beta3")

    def load(self, path, **more):
        settings = conf.load(self.version, path, self.options.get("prefix"), **more)
        if settings.path:
            self.verbose("reading config file at %s" % settings.path)
        if self.options["level"] > 1:
            self.debug("reading environment variables")
            for key in sorted(settings.values):
                value = settings.values[key]
                if value != "":
                    self.debug("%s = %s" % (key, '"******"' if key in conf.SECRETS else '"%s"' % value))
        self.verbose("prefix in use: %s" % settings.prefix)
        return settings

    def migrator(self, settings):
        from .migrations import Migrator

        return Migrator(self.version, settings, self.say, self.verbose, self.complain,
                        positive(self.options.get("db_timeout")), positive(self.options.get("lock_timeout")) or 60)

    # commands without a database

    def cmd_version(self, _subcommand, _words):
        if not self.options["all"]:
            self.say(str(self.version))
            return 0
        self.say("Kong: %s\nngx_lua: %s\nnginx: %s\nLua: LuaJIT 2.1.0-beta3"
                 % (self.version, self.version.ngx_lua, self.version.nginx))
        return 0

    def cmd_roar(self, _subcommand, _words):
        self.say("(the stand-in has no voice)")
        return 0

    def cmd_check(self, _subcommand, words):
        path = words[0] if words else conf.DEFAULT_PATHS[0]
        try:
            self.load(path)
        except conf.ConfError as error:
            if any("%d" in text for text in error.errors):
                raise Failed("bad argument #2 to 'format' (no value)")  # the real one stumbles over its own message
            for text in error.errors:
                self.complain("error", text)
            return 1
        self.say("configuration at %s is valid" % path)
        return 0

    def cmd_prepare(self, _subcommand, _words):
        settings = self.load(self.options["conf"])
        try:
            self.prepare(settings)
        except prefixes.PrefixError as error:
            raise Failed("could not prepare Kong prefix at %s: %s" % (settings.prefix, error))
        return 0

    def prepare(self, settings):
        self.verbose("preparing nginx prefix directory at %s" % settings.prefix)
        prefixes.ensure(settings.prefix, self.say)
        prefixes.write_conf(settings, self.options.get("nginx_conf"))

    def cmd_health(self, _subcommand, _words):
        path = prefixes.node_settings(self.version, self.options["prefix"])
        if os.path.exists(prefixes.env_path(path)):
            alive = prefixes.running(path)
            self.say("nginx.......%s\n" % ("running" if alive else "not running"))
            if alive:
                self.say("Kong is healthy at %s" % path)
                return 0
        raise Failed("Kong is not running at %s" % path)

    def cmd_stop(self, _subcommand, _words):
        path = prefixes.node_settings(self.version, self.options["prefix"])
        prefixes.need_env(path)
        prefixes.send(path, signal.SIGTERM)
        self.say("Kong stopped")
        return 0

    def cmd_quit(self, _subcommand, _words):
        path = prefixes.node_settings(self.version, self.options["prefix"])
        prefixes.need_env(path)
        if prefixes.quit_node(path, self.options.get("wait") or 0, max(1, self.options["timeout"])):
            self.say("Kong stopped (gracefully)")
        else:
            self.say("Timeout, Kong stopped forcefully")
        return 0

    def cmd_reload(self, _subcommand, _words):
        default = self.load(self.options["conf"])
        path = default.prefix
        if not os.path.exists(path):
            raise Failed("no such prefix: %s" % path)
        env = prefixes.env_path(path)
        if self.version.has("reload_reads_file"):
            inherited = conf.read(env) if os.path.exists(env) else {}
            settings = conf.load(self.version, self.options["conf"], path, inherited=inherited,
                                 search=bool(self.options["conf"]))
            if not prefixes.running(path):
                raise Failed("nginx not running in prefix: %s" % path)
        else:
            settings = conf.load(self.version, env, path)
            if not prefixes.running(path):
                raise Failed("nginx not running in prefix: %s" % path)
        self.prepare(settings)
        prefixes.send(path, signal.SIGHUP)
        self.say("Kong reloaded")
        return 0

    # start and what belongs to it

    def cmd_restart(self, subcommand, words):
        settings = self.load(self.options["conf"])
        if prefixes.running(settings.prefix):
            prefixes.send(settings.prefix, signal.SIGTERM)
            self.say("Kong stopped")
            deadline = time.monotonic() + 5
            while prefixes.running(settings.prefix) and time.monotonic() < deadline:
                time.sleep(0.02)
        elif not self.version.has("schema_meta"):
            self.say = lambda text: None  # nothing to stop is no news, and neither is what follows
        return self.cmd_start(subcommand, words)

    def cmd_start(self, _subcommand, _words):
        from .migrations import lines

        settings = self.load(self.options["conf"])
        self.warn_of_cassandra(settings)
        path = settings.prefix
        timeout = str(int((self.options.get("db_timeout") or 60) * 1000))
        for key in ("pg_timeout", "cassandra_timeout", "cassandra_schema_consensus_timeout"):
            if self.version.has("schema_meta"):
                settings.values[key] = timeout  # of the command, and from .kong_env on also of the node
        first = self.version.has("start_writes_first")
        if first:
            self.prepare(settings)
        if prefixes.running(path):
            raise Failed("Kong is already running in %s" % path)
        uses_database, state = settings.get("database") in KINDS, None
        if uses_database and self.version.has("schema_meta"):
            migrator = self.migrator(settings)
            state = migrator.state()
        if not first:
            self.prepare(settings)
        if uses_database and self.version.has("schema_meta"):
            self.check_schema(migrator, state)
        elif uses_database:
            self.check_legacy(settings)
        from . import node

        try:
            node.start(settings)
        except node.StartError as error:
            pending = ""
            if state and state.pending:
                pending = "\n".join(["nginx: [warn] [lua] init.lua:515: init(): database has pending migrations:"]
                                    + lines(state.pending, True)) + "\n"
            raise Failed("/usr/local/share/lua/5.1/kong/cmd/start.lua:64: %s%s" % (pending, error))
        self.say("Kong started")
        return 0

    def check_legacy(self, settings):
        from . import legacy

        engine = legacy.OldEngine(self.version, settings, self.say)
        if self.options["run_migrations"]:
            engine.up()
        legacy.check_start(engine, self.complain)

    def warn_of_cassandra(self, settings):
        if settings.get("database") != "cassandra":
            return
        if self.version.has("cassandra_deprecated"):
            self.complain("warn", "Support for Cassandra is deprecated. Please refer to https://konghq.com/blog/"
                          "cassandra-support-deprecated (deprecated after 2.7, scheduled for removal in 4.0)")
        if settings.number("db_update_propagation", 0) == 0:
            self.complain("warn", "You are using Cassandra but your 'db_update_propagation' setting is set to '0' "
                          "(default). Due to the distributed nature of Cassandra, you should increase this value.")

    def check_schema(self, migrator, state):
        from .migrations import MigrationError, lines, needs_bootstrap

        lua = "/usr/local/share/lua/5.1/kong/cmd/utils/migrations.lua:"
        if self.options["run_migrations"] and (state.needs_bootstrap or state.new):
            try:
                migrator.up(state, False)
            except MigrationError as error:
                text = str(error)
                raise Failed(lua + "60: " + text if text.startswith("Cannot run") else text)
            state = migrator.state()
        migrator.datastore.close()
        if not self.version.has("start_checks_schema"):
            return
        if state.needs_bootstrap and not (state.legacy and self.version.has("legacy")):
            raise Failed(lua + "16: " + needs_bootstrap(self.version))
        if state.new:
            raise Failed(lua + "20: New migrations available; run 'kong migrations up' to proceed")
        if state.pending:
            self.say("\n".join(["Database has pending migrations:"] + lines(state.pending, True)))

    # migrations

    def cmd_migrations(self, subcommand, _words):
        from .migrations import MigrationError

        settings = self.load(self.options["conf"])
        if self.version.has("migrations_make_prefix"):
            self.verbose("preparing nginx prefix directory at %s" % settings.prefix)
            prefixes.ensure(settings.prefix, self.say)
            if self.version.has("migrations_write_conf"):
                prefixes.write_conf(settings)
        if not self.version.has("schema_meta"):
            return self.legacy_migrations(subcommand, settings)
        migrator = self.migrator(settings)
        state = migrator.state()
        force = self.options["force"]
        try:
            if subcommand == "list":
                return self.list(state, migrator.datastore)
            if subcommand == "migrate-apis":
                from .legacy import migrate_apis

                return migrate_apis(migrator, state, force)
            if subcommand == "bootstrap":
                return migrator.bootstrap(state, force)
            if subcommand == "up":
                return migrator.up(state, force)
            if subcommand == "finish":
                return migrator.finish(state, force)
            return self.reset(migrator, state)
        except MigrationError as error:
            raise Failed(str(error))

    def legacy_migrations(self, subcommand, settings):
        """Kong 0.14."""
        from . import legacy

        engine = legacy.OldEngine(self.version, settings, self.say)
        if subcommand == "reset":
            return engine.reset(legacy.confirmed(self.options["yes"]))
        return engine.list() if subcommand == "list" else engine.up()

    def list(self, state, datastore):
        from .migrations import lines, needs_bootstrap

        if not self.version.has("capitals"):
            return self.list_old(state)
        if state.needs_bootstrap and not (state.legacy and self.version.has("legacy")):
            self.say(needs_bootstrap(self.version))
            return 3
        parts = []
        if state.executed:
            parts.append("\n".join(["Executed migrations:"] + lines(state.executed, True)))
        if state.pending:
            parts.append("\n".join(["Pending migrations:"] + lines(state.pending, True)))
        if state.new:
            parts.append("\n".join(["New migrations available:"] + lines(state.new, True)))
        if parts:
            self.say("\n\n".join(parts))
        if state.pending and state.new:
            self.say("")
            self.complain("warn", "Database has pending migrations from a previous upgrade, and new migrations from "
                          "this upgrade (version %s)" % self.version)
            self.say("\nRun 'kong migrations finish' when ready to complete pending migrations (%s %s will be "
                     "incompatible with the previous Kong version)" % (datastore.kind, datastore.container))
            return 4
        if state.pending:
            self.say("\nRun 'kong migrations finish' when ready")
            return 4
        if state.new:
            self.say("\nRun 'kong migrations up' to proceed")
            return 5
        return 0

    def list_old(self, state):
        """Kong 1.0 and 1.1."""
        from .migrations import lines, needs_bootstrap

        if state.needs_bootstrap:
            self.say(needs_bootstrap(self.version))
            return 3
        if state.executed:
            self.say("\n".join(["executed migrations:"] + lines(state.executed, False)))
        if state.pending:
            self.say("\n".join(["pending migrations:"] + lines(state.pending, False)))
        if state.new:
            self.say("\n".join(["new migrations available:"] + lines(state.new, False)))
        if state.pending:
            self.say("run 'kong migrations finish' when ready")
            return 4
        if state.new:
            self.say("run 'kong migrations up' to proceed")
            return 5
        self.say("database is up-to-date")
        return 0

    def reset(self, migrator, state):
        if not self.options["yes"]:
            if not sys.stdin.isatty():
                raise Failed("not a tty: invoke 'reset' non-interactively with the --yes flag")
            if not state.needs_bootstrap and not self.confirmed():
                self.say("cancelled")
                return 0
        return migrator.reset(state)

    @staticmethod
    def confirmed():
        for _unused in range(3):
            sys.stdout.write("> Are you sure? This operation is irreversible. [Y/n] ")
            sys.stdout.flush()
            answer = sys.stdin.readline().strip().lower()
            if answer in ("y", "yes"):
                return True
            if answer in ("n", "no"):
                return False
        return False

    # config

    def cmd_config(self, subcommand, words):
        from . import export
        from .migrations import MigrationError
        try:
            return export.run(self, subcommand, words[0] if words else None)
        except export.ExportError as error:
            raise Failed(str(error))
        except (MigrationError, DatastoreError) as error:
            raise Failed(str(error))

    def cmd_hybrid(self, _subcommand, words):
        from . import hybrid
        if len(words) == 1:
            raise Failed("both cert and key path needs to be provided")
        pair = [os.path.abspath(word) for word in words or ("./cluster.crt", "./cluster.key")]
        try:
            hybrid.gen_cert(*pair, self.options["days"])
        except FileExistsError as error:
            raise Failed(str(error))
        self.say("Successfully generated certificate/key pairs, they have been written to: '%s' and '%s'." % tuple(pair))
        return 0

    def cmd_vault(self, _subcommand, _words):
        raise Failed("the stand-in has no vaults")


def run(version, argv):
    """Everything the child process does; returns the exit code."""
    from .migrations import MigrationError

    try:
        command, subcommand, words, options = arguments(version, argv)
    except Usage as error:
        text = str(error)
        sys.stderr.write((text + "\n\n" if text else "") + usage(version, error.command))
        return 1
    work = Command(version, options)
    try:
        if command != "version":
            work.banner()
        return getattr(work, "cmd_" + command)(subcommand, words)
    except (Failed, MigrationError, prefixes.PrefixError, conf.ConfError) as error:
        sys.stdout.flush()
        if options["level"]:
            sys.stderr.write("Error: \n%s\nstack traceback:\n\t[C]: in function 'assert'\n\n" % error)
        else:
            sys.stderr.write("Error: %s\n%s" % (error, HINT))
        return 1


def main(version_name, argv):
    """The process that was started waits for a child that does the work, as the real command's interpreter does.

    SIGTERM to this process alone ends neither of them; SIGINT ends this one with 130 and leaves the child at work.
    """
    try:
        version = Version(version_name)
    except UnknownVersion as error:
        sys.stderr.write("kong stand-in: %s\n" % error)
        return 1
    if argv[:1] == ["--nginx"]:
        from . import node

        return node.nginx_main(version, argv[1:])
    child = os.fork()
    if child == 0:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        name_process("nginx")
        code = 1
        try:
            code = run(version, argv)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            if sys.exc_info()[0] not in (None, BrokenPipeError):
                sys.excepthook(*sys.exc_info())
            os._exit(code)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    _pid, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    return 128 + os.WTERMSIG(status)


def positive(seconds):
    """A time-out as a socket takes it; None, for ever, if it is not positive."""
    return seconds if seconds and seconds > 0 else None


def name_process(name):
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as handle:
            handle.write(name)
    except OSError:
        pass  # only cosmetic, and only Linux has it
