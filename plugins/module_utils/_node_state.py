# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings one Kong node into a state: checked, started, reloaded, refreshed or stopped. Success is what is read back.

`kong start`, `quit` and `reload` exit 0 also when the database is down, when the node was killed, and when nothing was
reloaded; so nothing here is believed for its exit code.
"""

import hashlib
import os
import pwd
import signal
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _cli,
    _conf,
    _fence,
    _files,
    _host,
    _probe,
    _process,
    _supervisor,
)
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError, KongError

# Settings that Kong keeps as they are written, so that another value in .kong_env means that something overrode it.
COMPARED = (
    "admin_listen", "proxy_listen", "status_listen", "stream_listen", "database", "pg_host", "pg_port", "pg_database",
    "pg_user", "pg_password", "pg_schema", "pg_ssl", "pg_ssl_verify", "cassandra_keyspace", "cassandra_port",
    "db_update_frequency", "log_level", "role",
)
# From this version on `kong reload` reads the file given with -c.
RELOAD_READS_FILE = (2, 3)
# What systemd calls a unit that it starts at boot, and one that it does not.
ENABLED, DISABLED = ("enabled", "enabled-runtime"), ("disabled",)
# Seconds a killed node may take to be gone.
KILL_GRACE = 10.0
POLL = 0.05


class NodeError(KongError):
    """The node is not in the state that was asked for; the message lists what is missing."""


class NodeState(object):
    """One node and what is wanted of it.

    :param gateway: _node.Gateway.
    :param options: dict, the options of the module kong_node.
    :param check_mode: bool, change nothing.
    """

    def __init__(self, gateway, options, check_mode=False):
        self.gateway, self.options, self.check_mode = gateway, options, check_mode
        self.changed = False
        self.actions, self.warnings, self.diff = [], [], []
        self.changed_settings, self.unknown_settings = [], []
        self.backup_file = None
        self.forced = False
        self.old_workers = []
        self.log_offset = gateway.log_size()
        self.admin_ports = self._admin_listeners()

    # --- the door ----------------------------------------------------------------------------------------------------

    def ensure(self):
        """Do it. Returns the module's result. Raises KongError; its details hold what was done before."""
        began = time.monotonic()
        try:
            getattr(self, "_" + self.options["state"])()
        except KongError as error:
            error.message = _conf.scrub(error.message, self._secrets())
            error.details.update(actions=self.actions, warnings=self.warnings, changed=self.changed)
            raise
        return self._result(began)

    def _result(self, began):
        facts = self.gateway.facts(self.options["timeout"], build=False)
        return {
            "changed": self.changed,
            "diff": self.diff,
            "conf": self._conf_path(),
            "conf_sha256": _sha256(self._conf_path()),
            "backup_file": self.backup_file,
            "changed_settings": self.changed_settings,
            "unknown_settings": self.unknown_settings,
            "actions": self.actions,
            "forced": self.forced,
            "fenced": facts["fenced"],
            "fence_how": facts["fence_how"],
            "kong": facts,
            "elapsed": round(time.monotonic() - began, 3),
            "warnings": self.warnings,
        }

    # --- states ------------------------------------------------------------------------------------------------------

    def _checked(self):
        self._require_command_version()
        self._configure(always_check=True)

    def _started(self):
        gateway = self.gateway
        self._require_supervision()
        self._unfence()
        running = gateway.master is not None
        if not running:
            self._require_command_version()
            self._require_template()
        self._enable()
        # An unchanged file needs no check of its own: `kong start` makes the same one, and starts nothing if it fails.
        self._configure()
        if not running:
            self._changed("started", "stopped", "running")
            if self.check_mode:
                return
            self._start()
        elif self.check_mode and self.changed:
            return
        self._wait_ready()

    def _reloaded(self):
        gateway = self.gateway
        self._require_supervision()
        if gateway.master is None:
            raise NodeError("no Kong node runs in {0}: there is nothing to reload; use state=started".format(gateway.prefix))
        self._require_owner()
        self._configure()
        if not self._reload_needed():
            self._wait_ready()
            return
        self._require_template()
        self._changed("reloaded")
        if self.check_mode:
            return
        self._require_same_version()
        self._reload()
        self._wait_ready()

    def _refreshed(self):
        """New workers, with the configuration that the node runs with: they read all entities from the database."""
        gateway = self.gateway
        if gateway.master is None:
            raise NodeError("no Kong node runs in {0}: there is nothing to refresh; use state=started".format(gateway.prefix))
        self._require_owner()
        self._changed("refreshed")
        if self.check_mode:
            return
        self.log_offset = gateway.log_size()
        self.old_workers = _process.workers(gateway.master)
        _send(gateway.master, signal.SIGHUP)
        self._wait_ready()

    def _stopped(self):
        gateway = self.gateway
        self._require_supervision()
        if gateway.master is not None:
            self._require_owner()
        if self.options["fenced"]:
            self._put_up_fence()
        self._enable()
        if gateway.master is None:
            return
        self._changed("stopped", "running", "stopped")
        if self.check_mode:
            return
        self._stop()

    # --- conditions before ------------------------------------------------------------------------------------------

    def _require_supervision(self):
        for error in self.gateway.blocking:
            raise NodeError(str(error))

    def _require_owner(self):
        user = self.gateway.master.uid
        if os.geteuid() not in (0, user):
            raise NodeError(
                "the node in {0} runs as user {1}, and this as {2}, who may not signal it: use become".format(
                    self.gateway.prefix, self.gateway.master.user, _process.user_name(os.geteuid())
                )
            )

    def _require_command_version(self):
        wanted = self.options["require_version"]
        if not self.gateway.executable:
            self.gateway.kong()
        version = self.gateway.version()
        if not version:
            raise NodeError("{0} does not tell its version: {1}".format(self.gateway.executable, "; ".join(self.gateway.errors)))
        if wanted and version != wanted:
            raise NodeError(
                "{0} is Kong {1}, not {2}: install {2} there, or name another command with 'executable'".format(
                    self.gateway.executable, version, wanted
                )
            )

    def _runs_version(self):
        """The version of the running node, None where it does not tell."""
        return _probe.identity(self.gateway.listeners(), self.options["timeout"])["version"]

    def _require_same_version(self):
        if self.options["upgrade"]:
            self._require_command_version()
            return
        runs = self._runs_version()
        if runs and self.gateway.version() and runs != self.gateway.version():
            raise NodeError(
                "the node runs Kong {0}, but {1} is {2}: a reload keeps the old nginx, so name the command of {0} with "
                "'executable', or stop and start the node".format(runs, self.gateway.executable, self.gateway.version())
            )

    def _template(self):
        """The words that hand an nginx template of the user's own to Kong."""
        return ["--nginx-conf", self.gateway.nginx_conf] if self.gateway.nginx_conf else []

    def _require_template(self):
        """Kong makes nginx.conf anew whenever it starts or reloads, from its own template unless it is told another."""
        unnamed = self.gateway.unnamed_template()
        if unnamed:
            raise NodeError(
                "{0} is not what Kong's own template gives, and would be replaced by that: name its template in nginx_conf, or "
                "remove {0} if Kong's own is meant".format(unnamed)
            )
        supervisor = self.gateway.supervisor
        if supervisor["kind"] == _supervisor.SYSTEMD and self.gateway.nginx_conf != _host.named_template(self.gateway.exec_start):
            raise NodeError(
                "the unit {0} does not start Kong with --nginx-conf {1}: put that into its ExecStart".format(
                    supervisor["unit"], self.gateway.nginx_conf
                )
            )

    # --- configuration -----------------------------------------------------------------------------------------------

    def _given(self):
        given = dict(self.options["settings"] or {})
        given.update(self.options["secret_settings"] or {})
        return given

    def _secrets(self):
        secrets = set(self.gateway.secrets(_conf.plain(self._given())))
        secrets.update(str(value) for value in (self.options["secret_settings"] or {}).values() if value)
        return sorted(secrets, key=len, reverse=True)

    def _conf_path(self):
        return self.gateway.conf or (_conf.DEFAULT_PATHS[0] if self._given() else None)

    def _configure(self, always_check=False):
        """Write the settings where they differ; the new text is checked by Kong before it takes the file's place."""
        given = self._given()
        path = self._conf_path()
        exists = bool(path) and os.path.exists(path)
        if self.check_mode and path and not exists and not given:
            self.warnings.append("{0} is not there yet, so nothing is told about it".format(path))
            return
        before = _conf.read_text(path) if exists or (path and not given) else ""
        after = _conf.update(before, given, self.options["purge_settings"]) if given else before
        self._refuse_overridden(given)
        if before != after:
            old, new = _conf.parse(before), _conf.parse(after)
            self.changed_settings = sorted(key for key in set(old) | set(new) if old.get(key) != new.get(key))
        if before != after or always_check:
            self._check(path, after, path if before == after else None)
        if before == after:
            return
        self.changed = True
        self.actions.append("configured")
        self.diff.append(
            {"before_header": path, "after_header": path, "before": _conf.mask_text(before), "after": _conf.mask_text(after)}
        )
        if not self.check_mode:
            if exists and self.options["backup"]:
                self.backup_file = _files.backup(path)
            write_conf(path, after, self.gateway.supervisor.get("user"))
            self.gateway.conf = path
        self.gateway.file_settings = _conf.parse(after)

    def _refuse_overridden(self, given):
        """A KONG_ variable of the service wins over the file: then what is given here would have no effect."""
        variables = _conf.from_environ(self.gateway.service_environ)
        wrong = sorted(
            key for key, value in _conf.plain(given).items()
            if key in variables and (value is None or not _conf.same_value(key, value, variables[key]))
        )
        if wrong:
            raise NodeError(
                "{0} of {1} would win over the file, so that these settings would have no effect: take {2} out there".format(
                    ", ".join(_variable(key) for key in wrong), self._where_environ(), "them" if len(wrong) > 1 else "it"
                )
            )

    def _where_environ(self):
        supervisor = self.gateway.supervisor
        if supervisor["kind"] == _supervisor.SYSTEMD:
            return "the systemd unit {0}".format(supervisor["unit"])
        return "this session's environment"

    def _check(self, path, text, real_path):
        """`kong check`, then `kong prepare` in a scratch prefix, which tests the nginx configuration. No database.

        Preparing includes the check, so that the check alone is only made where it was asked for.
        """
        with _cli.scratch_prefix() as scratch:
            file = real_path
            if file is None:
                file = os.path.join(scratch, "kong.conf")
                with open(file, "w", encoding="utf-8", errors="surrogateescape") as stream:
                    os.fchmod(stream.fileno(), 0o600)
                    stream.write(text)
            kong = self.gateway.kong()
            prefix = os.path.join(scratch, "prefix")
            os.mkdir(prefix, 0o700)
            calls = [("kong prepare", lambda: kong.call("prepare", *self._template(), conf=file, prefix=prefix))]
            if self.options["state"] == "checked":
                calls.insert(0, ("kong check", lambda: kong.call("check", file, conf=False)))
                declared = self._declared(text, scratch)
                if declared:
                    calls.append(("kong config parse " + declared, lambda: self._parse(declared, file, scratch)))
                elif self._names_plugins(text):
                    calls.append(("kong config parse", lambda: self._load_plugins(file, scratch)))
            for command, call in calls:
                answer = call()
                if answer.rc != 0:
                    said = (answer.err or answer.out).replace(file, path or file).replace(prefix, self.gateway.prefix)
                    raise ConfError(
                        "{0} refuses {1}: {2}".format(command, path or "the configuration", _brief(said)), rc=answer.rc
                    )
            effective = _conf.read_kong_env(prefix)
        if effective:
            self.unknown_settings = sorted(key for key, value in _conf.parse(text).items() if value and key not in effective)
            if self.unknown_settings:
                self.warnings.append(
                    "Kong {0} does not know these settings and drops them: {1}".format(
                        self.gateway.version(), ", ".join(self.unknown_settings)
                    )
                )

    def _would_get(self, text):
        """Explicit settings that a node would get from the text of a kong.conf: the KONG_ variables of its service win."""
        settings = dict(_conf.parse(text))
        settings.update(_conf.from_environ(self.gateway.service_environ))
        return settings

    def _declared(self, text, scratch):
        """Path of the declarative configuration that a DB-less node would load; None where it has a database, or gets none."""
        settings = self._would_get(text)
        if settings.get("database") != "off" or settings.get("role") == "data_plane":
            return None
        words = settings.get("declarative_config_string")
        if settings.get("declarative_config") or not words:
            return settings.get("declarative_config")
        path = os.path.join(scratch, "declarative.yml")
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(words)
        return path

    def _names_plugins(self, text):
        """Whether the configuration names plugins, which may be missing on this host, and not just the bundled ones."""
        settings = self._would_get(text)
        names = [name.strip() for name in "{0},{1}".format(settings.get("plugins", ""), settings.get("custom_plugins", "")).split(",")]
        return bool(set(names) - set(["", "bundled", "off"]))

    def _load_plugins(self, conf, scratch):
        """Lets Kong load every plugin, by reading an empty declarative configuration without a database.

        `kong check` and `kong prepare` do not look at plugins, and `kong start` would only find one missing after the
        schema was migrated (seen on 2.8.5). Needs Kong 1.1 or newer.
        """
        empty = os.path.join(scratch, "empty.yml")
        with open(empty, "w") as stream:
            stream.write('_format_version: "1.1"\n')
        return self._parse(empty, conf, scratch)

    def _parse(self, declared, conf, scratch):
        """`kong config parse` without a database, in a prefix of its own: the .kong_env of another one would win over the file.

        A control plane of hybrid mode may not be without a database, so the role is left out.
        """
        prefix = os.path.join(scratch, "parse")
        os.mkdir(prefix, 0o700)
        kong = self.gateway.kong()
        kong.environ.update(KONG_DATABASE="off", KONG_ROLE="traditional", KONG_PREFIX=prefix)
        return kong.call("config", "parse", declared, conf=conf, prefix=prefix)

    def _admin_listeners(self):
        """Every listener that was the Admin API's, by the file, by .kong_env or by the settings given now."""
        found = []
        sources = [self.gateway.file_settings, self.gateway.settings, self.gateway.running_settings or {}, self._given()]
        if os.path.exists(_conf.kong_env_path(self.gateway.prefix)) and not self.gateway.running_settings:
            try:
                sources.append(_conf.read_kong_env(self.gateway.prefix))
            except ConfError as error:
                self.warnings.append(str(error))
        for settings in sources:
            for listener in _conf.listeners(_conf.plain(settings).get("admin_listen")):
                if listener not in found:
                    found.append(listener)
        return found

    # --- start, reload, stop -----------------------------------------------------------------------------------------

    def _changed(self, action, before=None, after=None):
        self.changed = True
        self.actions.append(action)
        if before != after:
            header = "node in {0}".format(self.gateway.prefix)
            self.diff.append({"before_header": header, "after_header": header, "before": before + "\n", "after": after + "\n"})

    def _start(self):
        gateway = self.gateway
        if gateway.supervisor["kind"] == _supervisor.OTHER:
            raise NodeError("the node cannot be started: {0}".format(gateway.supervisor["problem"]))
        stale = _process.stale_pid_file(gateway.prefix)
        if stale:
            os.unlink(stale)
            self.actions.append("removed the pid file of a node that has ended")
        self.log_offset = gateway.log_size()
        if gateway.supervisor["kind"] == _supervisor.SYSTEMD:
            unit = gateway.supervisor["unit"]
            try:
                _supervisor.systemctl(gateway.run, "start", unit)
            except _supervisor.SupervisorError as error:
                raise NodeError("{0}{1}".format(error, self._log()))
        else:
            result = gateway.kong().call("start", *self._template(), prefix=True)
            if result.rc != 0:
                raise NodeError("kong start failed: {0}{1}".format(_brief(result.err or result.out), self._log()), rc=result.rc)
        gateway.look()

    def _reload_needed(self):
        """Whether the node runs with something else than its configuration says, or its Admin API is not as wanted."""
        if self.changed or self._differing(COMPARED) or self._differing(self._given()):
            return True
        if self.options["upgrade"] and self._runs_version() != self.gateway.version():
            return True
        if self.options["admin_listen_open"]:
            return not _probe.identity(self.gateway.listeners(), self.options["timeout"], False)["admin_open"]
        return False

    def _differing(self, keys):
        """Which of these keys the node runs with another value of than a start would give it now."""
        runs = self.gateway.running_settings
        if runs is None:
            return []
        wanted = self.gateway.settings
        return sorted(
            key for key in keys if key in wanted and key in runs and not _conf.same_value(key, wanted[key], runs[key])
        )

    def _reload(self):
        gateway = self.gateway
        self.log_offset = gateway.log_size()
        removed = [key for key in self.changed_settings if key not in gateway.settings]
        if removed:
            self.warnings.append(
                "a reload does not take these settings back to Kong's defaults, a restart does: {0}".format(", ".join(removed))
            )
        variables = {}
        if _cli.version_tuple(gateway.version() or "0") < RELOAD_READS_FILE:
            # This version takes .kong_env for the file, but looks at the environment.
            variables = dict((_variable(key), value) for key, value in gateway.settings.items() if self._news(key, value))
        kong = gateway.kong()
        kong.run = as_user(gateway.run, _conf.kong_env_path(gateway.prefix))
        result = kong.call("reload", *self._template(), prefix=True, environ=variables)
        if result.rc != 0:
            raise NodeError("kong reload failed: {0}{1}".format(_brief(result.err or result.out), self._log()), rc=result.rc)
        gateway.look()

    def _news(self, key, value):
        runs = self.gateway.running_settings or {}
        return key != "prefix" and (key not in runs or not _conf.same_value(key, value, runs[key]))

    def _stop(self):
        gateway = self.gateway
        master, timeout = gateway.master, self.options["quit_timeout"]
        tree = _process.tree(master)
        began = time.monotonic()
        with _fence.held(gateway.run, gateway.supervisor):
            if gateway.supervisor["kind"] == _supervisor.SYSTEMD or not gateway.executable:
                self._quit_by_signal(master, timeout)
            else:
                self._quit_by_command(master, timeout)
            left = _process.wait_gone(tree, KILL_GRACE)
            if gateway.supervisor["kind"] == _supervisor.SYSTEMD:
                self._settle_unit()
        if self.forced:
            self.warnings.append(
                "the node had not ended {0:.0f} s after SIGQUIT and was killed: requests that it was serving were cut".format(
                    time.monotonic() - began
                )
            )
        self._refuse_leftovers(master, left)
        gateway.look()
        if gateway.master is not None:
            raise NodeError("a node runs in {0} again (pid {1}): something started it".format(gateway.prefix, gateway.master.pid))

    def _quit_by_command(self, master, timeout):
        began = time.monotonic()
        result = self.gateway.kong().call("quit", "-t", int(timeout), conf=False, prefix=True)
        if result.rc != 0 and _process.same(master):
            raise NodeError("kong quit failed: {0}{1}".format(_brief(result.err or result.out), self._log()), rc=result.rc)
        words = (result.out + result.err).lower()
        self.forced = "forcefully" in words or ("gracefully" not in words and time.monotonic() - began >= timeout)

    def _quit_by_signal(self, master, timeout):
        _send(master, signal.SIGQUIT)
        if _process.wait_gone([master], timeout):
            self.forced = True
            _send(master, signal.SIGTERM)

    def _settle_unit(self):
        """The node has ended: let systemd see it that way, so that the unit neither waits, fails nor starts again."""
        unit = self.gateway.supervisor["unit"]
        for words in (("stop", unit), ("reset-failed", unit)):
            try:
                _supervisor.systemctl(self.gateway.run, *words)
            except _supervisor.SupervisorError as error:
                if "not loaded" not in str(error):
                    self.warnings.append(str(error))

    def _refuse_leftovers(self, master, left):
        left = [process for process in left if _process.same(process)]
        if any(process.pid == master.pid for process in left):
            raise NodeError(
                "the node in {0} still runs (pid {1}), after SIGQUIT and SIGTERM".format(self.gateway.prefix, master.pid)
            )
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            rows = list(_process.socket_table(left[0].pid))
            mine = _process.socket_inodes(left)
            if any(row[3] in mine for row in rows):
                raise NodeError("the node's master has ended, but processes of it still hold its connections: {0}".format(pids))
            self.warnings.append("the node has ended; processes that it had started still run: {0}".format(pids))

    def _enable(self):
        """Whether systemd starts the node at boot, as asked; a unit that is always or never started is left alone."""
        wanted, gateway = self.options["enabled"], self.gateway
        if wanted is None or gateway.supervisor["kind"] != _supervisor.SYSTEMD or gateway.fence():
            return
        now = gateway.supervisor["enabled"]
        if now not in ENABLED + DISABLED or (now in ENABLED) == wanted:
            return
        words = ("not started at boot", "started at boot") if wanted else ("started at boot", "not started at boot")
        self._changed("enabled" if wanted else "disabled", *words)
        if not self.check_mode:
            _supervisor.systemctl(gateway.run, "enable" if wanted else "disable", gateway.supervisor["unit"])
            gateway.look()

    # --- fence -------------------------------------------------------------------------------------------------------

    def _put_up_fence(self):
        gateway = self.gateway
        if gateway.fence():
            return
        why_not = _fence.problem(gateway.supervisor, gateway.executable)
        if why_not:
            raise NodeError("the node in {0} cannot be fenced, so it is not stopped either: {1}".format(gateway.prefix, why_not))
        self._changed("fenced", "not fenced", "fenced")
        if not self.check_mode:
            _fence.put_up(gateway.run, gateway.supervisor, gateway.prefix, gateway.executable, gateway.conf)
            gateway.look()

    def _unfence(self):
        gateway = self.gateway
        how = gateway.fence()
        if not how:
            return
        if self.options["fenced"] is not False:
            raise NodeError(
                "the node in {0} is fenced ({1}): it was retired; state=started with fenced=false lifts that".format(
                    gateway.prefix, how
                )
            )
        self._changed("unfenced", "fenced", "not fenced")
        self.warnings.extend(
            "nothing tells whether {0} was started at boot before it was fenced, so it is not: see to that with systemctl "
            "enable".format(unit) for unit in _fence.forgotten(gateway.supervisor, gateway.prefix)
        )
        if not self.check_mode:
            _fence.take_down(gateway.run, gateway.supervisor, gateway.prefix, gateway.executable)
            gateway.look()

    # --- readiness ---------------------------------------------------------------------------------------------------

    def _wait_ready(self):
        deadline = time.monotonic() + self.options["wait_timeout"]
        pause = POLL
        while True:
            missing = self._missing()
            if not missing:
                self._refuse_failed_reload()
                return
            if time.monotonic() >= deadline:
                raise NodeError(
                    "the node in {0} is not ready after {1} s: {2}{3}".format(
                        self.gateway.prefix, self.options["wait_timeout"], "; ".join(missing), self._log()
                    ),
                    missing=missing,
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)
            self.gateway.look()

    def _refuse_failed_reload(self):
        """nginx goes on with its old configuration when it cannot use the new one, and says so in its log alone."""
        taken = set(self.actions) & {"reloaded", "refreshed"}
        lines = self.gateway.log_since(self.log_offset, 1000) if taken else []
        emergencies = [line for line in lines if "[emerg]" in line]
        if emergencies:
            raise NodeError("nginx did not take the new configuration: {0}".format("; ".join(emergencies[:3])))

    def _missing(self):
        """What is missing until the node is ready, one phrase each. Raises NodeError for what waiting does not cure."""
        gateway, options = self.gateway, self.options
        if gateway.master is None:
            if gateway.supervisor["kind"] != _supervisor.SYSTEMD:
                raise NodeError("the node in {0} has ended again{1}".format(gateway.prefix, self._log()))
            return ["no process"]
        if gateway.running_settings is None:
            raise NodeError("; ".join(gateway.errors) or "{0} is missing".format(_conf.kong_env_path(gateway.prefix)))
        self._refuse_other_settings()
        if self.old_workers and {w.pid for w in _process.workers(gateway.master)} <= {w.pid for w in self.old_workers}:
            return ["its workers are the old ones"]
        listeners = gateway.listeners()
        said = _probe.identity(listeners, options["timeout"])
        missing = self._missing_database(said)
        if listeners["proxy"]:
            for probe in options["probe"] or [{}]:
                problem = _probe.check(probe, listeners, options["timeout"])
                if problem:
                    missing.append(problem)
        missing.extend(self._missing_version(said))
        missing.extend(self._missing_admin(said, listeners))
        return missing

    def _missing_database(self, said):
        kind = _conf.datastore(self.gateway.running_settings)["kind"]
        if kind == "off" or said["database_reachable"]:
            return []
        if said["database_reachable"] is False:
            return ["it does not reach its database"]
        if said["errors"]:
            return said["errors"]
        # Neither Admin nor Status API (before 1.4 there is no Status API): its connections have to tell.
        if _process.sockets_to(self.gateway.master, self.gateway.database_ports()):
            return []
        return ["it has neither status_listen nor admin_listen, and no connection to its database: it cannot be told to be ready"]

    def _missing_version(self, said):
        wanted = self.options["require_version"]
        version = said["version"] or self.gateway.version()
        if wanted and version != wanted:
            return ["it runs Kong {0}, not {1}".format(version or "of unknown version", wanted)]
        return []

    def _missing_admin(self, said, listeners):
        missing = []
        if self.options["admin_listen_open"]:
            wanted = self.options["require_version"] or self.gateway.version()
            if not listeners["admin"]:
                missing.append("admin_listen is off")
            elif said["version_source"] != "admin":
                missing.append("the Admin API does not answer")
            elif wanted and said["version"] != wanted:
                missing.append("the Admin API says Kong {0}, not {1}".format(said["version"], wanted))
        if self.options["admin_listen_closed"]:
            if listeners["admin"] and not self._is_local_control_plane(listeners["admin"]):
                raise NodeError(
                    "the Admin API is to be shut, but the node runs with admin_listen = {0}{1}".format(
                        self.gateway.running_settings.get("admin_listen"), self._overridden("admin_listen")
                    )
                )
            missing.extend(self._open_admin_ports(listeners["admin"]))
        return missing

    def _is_local_control_plane(self, listeners):
        """Whether the node is a control plane, which Kong does not start without an Admin API, and has it on loopback alone."""
        local = all(item["address"] == "::1" or item["address"].startswith("127.") for item in listeners)
        return local and self.gateway.running_settings.get("role") == "control_plane"

    def _open_admin_ports(self, present):
        """Former Admin API listeners at which this node's processes still accept connections. present: those of now."""
        still = []
        for listener in self.admin_ports:
            if listener not in present and not _probe.refuses(listener):
                mine = _process.listening(self.gateway.master)
                places = [item for item in mine if item[1] == listener["port"]]
                if places:
                    still.append("its processes still listen at {0}:{1}, where the Admin API was".format(*places[0]))
        return still

    def _refuse_other_settings(self):
        wrong = self._differing(COMPARED)
        if not wrong or self.options["state"] in ("reloaded", "refreshed"):
            return
        wanted, runs = _conf.mask(self.gateway.settings), _conf.mask(self.gateway.running_settings)
        raise NodeError(
            "the node runs with other settings than {0} says: {1}. {2}".format(
                self.gateway.conf or "its environment",
                "; ".join("{0} = {1}, not {2}{3}".format(key, runs[key], wanted[key], self._overridden(key)) for key in wrong),
                "Something in its environment wins over the file" if "started" in self.actions
                else "It was started before they changed: use state=reloaded, or stop and start it",
            )
        )

    def _overridden(self, key):
        if key in _conf.from_environ(self.gateway.service_environ):
            return " (by {0} of {1})".format(_variable(key), self._where_environ())
        return ""

    def _log(self):
        lines = self.gateway.log_since(self.log_offset)
        return "\n{0} says:\n{1}".format(self.gateway.log_path(), "\n".join(lines)) if lines else ""


def _variable(key):
    return _conf.ENV_PREFIX + key.upper()


def _brief(text):
    """What nginx gives as the reason, else the first line of Kong's error. nginx says it at each of five attempts, Kong once more."""
    lines = ["".join(line.strip().rpartition("nginx: [")[1:]) for line in text.splitlines()]  # without Kong's words before nginx's
    why = [line for line in lines if any(word in line for word in ("[emerg]", "[error]", "[alert]")) and "still could not bind" not in line]
    return "; ".join(list(dict.fromkeys(why))[:3]) or _cli.first_line(text)


def _send(process, number):
    if _process.same(process):
        try:
            os.kill(process.pid, number)
        except OSError as error:
            if _process.same(process):
                raise NodeError("cannot signal the node (pid {0}): {1}".format(process.pid, error.strerror))


def as_user(run, path):
    """The run function, as the owner of a file where that is another user and we are root.

    `kong reload` rewrites the prefix: done by root, a node of another user could not read it afterwards.
    """
    try:
        uid = os.stat(path).st_uid
    except OSError:
        return run
    if os.geteuid() != 0 or uid == 0:
        return run
    name = pwd.getpwuid(uid).pw_name

    def run_as(argv, **more):
        return run(["runuser", "-u", name, "--"] + list(argv), **more)

    return run_as


def write_conf(path, text, user=None):
    """Replace a configuration file in one step, owner and mode kept; a new one is 0640, owned by ``user`` if there is one.

    Raises ConfError.
    """
    path = os.path.realpath(path)
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        _files.replace(path, text, 0o640, user)
    except OSError as error:
        raise ConfError("cannot write {0}: {1}".format(path, error.strerror or error))
    except KeyError:
        raise ConfError("cannot write {0}: there is no user {1}, as whom the systemd unit runs Kong".format(path, user))


def _sha256(path):
    try:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except (IOError, OSError, TypeError):
        return None
