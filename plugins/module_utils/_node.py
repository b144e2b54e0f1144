# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One place where Kong is, or will be: the command, the configuration, the prefix, and the node that runs there."""

import hashlib
import os
import threading
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _cli,
    _conf,
    _fence,
    _host,
    _probe,
    _process,
    _supervisor,
)
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError

WILDCARDS = ("0.0.0.0", "::", "*", "localhost", "127.0.0.1", "::1")


class Gateway(object):
    """Kong on this host, as far as it can be found; what cannot be found is in ``errors``, one sentence each.

    What keeps one from telling whether a node runs, and whose it is, is in ``blocking`` too, a list of KongError.

    :param run: callable with the signature of AnsibleModule.run_command.
    :param executable: str, the kong command, or None to look for it.
    :param conf: str, kong.conf, or None for Kong's default paths.
    :param prefix: str, or None: what the settings say, else Kong's default.
    :param unit: str, the systemd unit of the node, or None: found from the process.
    :param nginx_conf: str, the nginx template of the user's own, or None: what the unit's command names.
    :param environ: dict, the environment that counts for a node started by command; None is this process's own.
    """

    def __init__(self, run, executable=None, conf=None, prefix=None, unit=None, environ=None, nginx_conf=None):
        self.run = run
        self.environ = dict(os.environ if environ is None else environ)
        self.errors, self.blocking = [], []
        self.given_executable = executable
        self.executable = self._try(None, _cli.find_executable, executable, self.environ)
        self.build = {}
        self._built = False
        self.given_conf = conf
        self.conf = _conf.find(conf)
        self.file_settings = {}
        if self.conf and (os.path.exists(self.conf) or conf):
            self.file_settings = self._try({}, _read_settings, self.conf)
        kong_variables = _conf.from_environ(self.environ)
        self.prefix = os.path.abspath(
            prefix or kong_variables.get("prefix") or self.file_settings.get("prefix") or _conf.DEFAULT_PREFIX
        )
        self.unit = unit
        self.given_nginx_conf = nginx_conf
        self.master = None
        self.supervisor = None
        self.service_environ = {}
        self.exec_start = None
        self.running_settings = None
        self.look()

    def look(self):
        """Look again at what may have changed: process, supervisor, the settings the node runs with."""
        self.master = self._try(None, _process.find_master, self.prefix)
        note = _fence.read_note(self.prefix)
        unit = self.unit or (note.get("unit") if _supervisor.booted() else None)
        nothing = {"kind": _supervisor.OTHER, "unit": None, "enabled": None, "restart": None, "fragment": None,
                   "problem": "what owns the node is unknown", "user": None, "also": []}
        self.supervisor = self._try(nothing, _supervisor.find, self.run, self.master, self.prefix, self.executable, unit, self.conf)
        if self.master is None and not self.unit and "when" in note and not note.get("unit"):
            # Fenced when it had been started by command: a unit that is installed does not make it systemd's.
            self.supervisor = _supervisor.command(sorted(note.get("enabled", {})))
        self.service_environ = self.environ
        if self.supervisor["kind"] == _supervisor.SYSTEMD:
            properties = _supervisor.show(self.run, self.supervisor["unit"])
            self.service_environ = self._try({}, _supervisor.environment, properties)
            self.exec_start = _supervisor.command_of(properties.get("ExecStart"))
        self.running_settings = self._try(None, _conf.read_kong_env, self.prefix) if self.master else None

    def _try(self, otherwise, function, *arguments):
        try:
            return function(*arguments)
        except KongError as error:
            if str(error) not in self.errors:
                self.errors.append(str(error))
            if isinstance(error, (_process.ProcessError, _supervisor.SupervisorError)) and error not in self.blocking:
                self.blocking.append(error)
            return otherwise

    @property
    def settings(self):
        """Explicit settings a node started here would get: the file, and over it the KONG_ variables of its service."""
        settings = dict(self.file_settings)
        settings.update(_conf.from_environ(self.service_environ))
        return settings

    @property
    def effective(self):
        """What the running node runs with, else what a start would give it."""
        return self.running_settings or self.settings

    @property
    def nginx_conf(self):
        """The nginx template of the user's own, as far as it is known; None where Kong's is used, or its name is not known."""
        return self.given_nginx_conf or _host.named_template(self.exec_start)

    def unnamed_template(self):
        """Path of an nginx.conf that was made from a template of the user's own, whose name is not known; None where there is none."""
        if self.nginx_conf:
            return None
        return _host.templates(self.prefix, {})["nginx_conf"]

    def secrets(self, *more):
        """Every secret value known here, for scrubbing text of others."""
        return _conf.secret_values(self.file_settings, self.settings, self.running_settings, *more)

    def kong(self, conf=True):
        """The kong command for this place. Raises KongNotFound."""
        if not self.executable:
            _cli.find_executable(self.given_executable, self.environ)
        variables = dict((name, value) for name, value in self.service_environ.items() if name.startswith(_conf.ENV_PREFIX))
        return _cli.Kong(self.run, self.executable, self.conf if conf else None, self.prefix, variables)

    def version(self):
        """Version of the kong command, or None; asked once."""
        return self.built().get("version")

    def built(self):
        """What `kong version -a` says, empty when it says nothing."""
        if not self._built and self.executable:
            self.build = self._try({}, self.kong().version_all)
            self._built = True
        return self.build

    def listeners(self):
        """Listeners of the running node; without one those a start would give."""
        return self._try({"proxy": [], "admin": [], "status": [], "stream": []}, _probe.node_listeners, self.effective)

    def database_ports(self):
        """Remote ports by which a connection to the datastore is known."""
        store = self._try({"kind": "off"}, _conf.datastore, self.effective)
        ports = set([store["port"]]) if "port" in store else set()
        read_only = self.effective.get("pg_ro_port")
        if store["kind"] == "postgres" and read_only and read_only.isdigit():
            ports.add(int(read_only))
        return ports

    def facts(
        self, timeout=5.0, sockets=False, sample=0.0, build=True, ask_status=True, host=False, candidates=False, package_files=()
    ):
        """Everything, as the module kong_version_facts returns it. Secrets are masked.

        :param timeout: float, seconds for each HTTP request.
        :param sockets: bool, whether to look for the node's connections to the datastore.
        :param sample: float, seconds over which to collect them.
        :param ask_status: bool, whether to ask the Admin and Status API.
        :param host: bool, whether to look at the host too (_host.py).
        :param candidates: bool, whether its package manager is asked what it offers.
        :param package_files: list of str, package files that are looked for there.
        :param build: bool, whether to ask the kong command for its version where that is not known yet.
        """
        sampling = _Sampling(self.master, self.database_ports(), sample) if self.master and (sockets or sample) else None
        build = self.built() if build else self.build
        listeners = self.listeners()
        addresses = _process.host_addresses()
        facts = {
            "executable": self.executable,
            "version": build.get("version"),
            "edition": build.get("edition"),
            "openresty": {"nginx": build.get("nginx"), "ngx_lua": build.get("ngx_lua"), "lua": build.get("lua")},
            "nginx": None if self.master or not self.executable else _cli.openresty(self.service_environ),
            "conf": self.conf,
            "settings": _conf.mask(self.settings),
            "prefix": self.prefix,
            "datastore": self._try(None, _conf.datastore, self.effective),
            "listeners": listeners,
            "admin_listeners": listeners["admin"],
            "running": self.master is not None,
            "supervisor": self.supervisor,
            "node": None,
            "addresses": addresses,
            "own_addresses": own_addresses(addresses, listeners),
            "machine": machine(),
            "nodename": os.uname()[1],
        }
        facts.update(self._files())
        facts.update(self._fence())
        if self.master:
            facts["node"] = self._node(listeners, timeout, sampling, ask_status)
        if host:
            unit = self.supervisor["unit"]
            facts["host"] = _host.facts(
                self.run, self.executable, self.prefix, self.effective, unit, self.exec_start, candidates, package_files
            )
        facts["epoch"] = time.time()
        facts["errors"] = [_conf.scrub(error, self.secrets()) for error in self.errors]
        return facts

    def _node(self, listeners, timeout, sampling, ask_status):
        said = _probe.identity(listeners, timeout, ask_status=ask_status)
        self.errors.extend(said.pop("errors"))
        if not said["version"] and self.version():
            said.update(version=self.version(), version_source="executable")
        settings = None
        if self.running_settings is not None:
            settings = _conf.mask(dict((key, _conf.normal(value)) for key, value in self.running_settings.items()))
        node = {
            "pid": self.master.pid,
            "since": self.master.since,
            "user": self.master.user,
            "supervisor": self.supervisor,
            "settings": settings,
            "listeners": listeners,
            "database_sockets": None,
            "unix_sockets": None,
        }
        node.update(said)
        if sampling:
            node["database_sockets"] = self._try(None, sampling.result)
            node["unix_sockets"] = self._try(None, unix_sockets, self.master) if self._database_is_local() else 0
        return node

    def _database_is_local(self):
        return (self.effective.get("pg_host") or "").startswith(("/", "unix:"))

    def _files(self):
        return {
            "conf_mode": _mode(self.conf),
            "conf_owner": _owner(self.conf),
            "conf_writable": bool(self.conf) and _writable(self.conf),
            "prefix_mode": _mode(self.prefix),
            "prefix_owner": _owner(self.prefix),
            "prefix_writable": _writable(self.prefix),
        }

    def _fence(self):
        how = self.fence()
        problem = _fence.problem(self.supervisor, self.executable)
        return {"fenced": how is not None, "fence_how": how, "fence_possible": problem is None, "fence_problem": problem}

    def fence(self):
        """How the node is fenced, or None."""
        return self._try(None, _fence.state, self.run, self.supervisor, self.prefix, self.executable)

    def log_path(self):
        """The node's error log."""
        return os.path.join(self.prefix, self.effective.get("proxy_error_log") or "logs/error.log")

    def log_size(self):
        """Bytes in the error log now."""
        try:
            return os.stat(self.log_path()).st_size
        except OSError:
            return 0

    def log_since(self, offset, lines=15):
        """The last lines that the error log got since it had ``offset`` bytes, secrets masked; list of str."""
        try:
            with open(self.log_path(), "rb") as stream:
                stream.seek(0, os.SEEK_END)
                end = stream.tell()
                start = offset if offset <= end else 0
                stream.seek(max(start, end - 65536))
                text = stream.read().decode("utf-8", "replace")
        except (IOError, OSError):
            return []
        return [_conf.scrub(line, self.secrets()) for line in text.splitlines()[-lines:]]


def own_addresses(addresses, listeners):
    """Addresses that are this node's alone: those it listens at by name, and the interfaces', but for loopback.

    A node that listens at an address of its own in 127.0.0.0/8 shares the interfaces with others: then they do not count.
    """
    named = set(item["address"] for name in listeners for item in listeners[name] if item["address"] not in WILDCARDS)
    if any(address.startswith("127.") for address in named):
        return sorted(named)
    return sorted(named.union(address for address in addresses if not address.startswith("127.") and address != "::1"))


class _Sampling(threading.Thread):
    """Collects the node's connections to its datastore from now on, while other things are looked at.

    A node that is asked for its status may close its idle connection and open another one later, so the time counts
    from when that was done.
    """

    def __init__(self, master, ports, seconds):
        threading.Thread.__init__(self)
        self.daemon = True
        self.master, self.ports, self.seconds = master, ports, seconds
        self.end, self.found, self.error = None, None, None
        self.start()

    def run(self):
        """The thread itself."""
        try:
            self.found = _process.sockets_to(self.master, self.ports, until=lambda: self.end)
        except KongError as error:
            self.error = error

    def result(self):
        """What was found until the seconds have passed, from now: list of "address:port". Raises ProcessError."""
        self.end = time.monotonic() + self.seconds
        self.join()
        if self.error:
            raise self.error
        return self.found


def _read_settings(path):
    return _conf.parse(_conf.read_text(path))


def unix_sockets(master):
    """How many UNIX sockets the node's processes have open. Raises ProcessError."""
    mine = _process.socket_inodes(_process.tree(master))
    with open("/proc/{0}/net/unix".format(master.pid)) as stream:
        next(stream, None)
        return sum(1 for line in stream if line.split()[6] in mine)


def machine():
    """A name for this machine and its file system: equal for two inventory hosts that share both."""
    with open("/proc/sys/kernel/random/boot_id") as stream:
        boot = stream.read().strip()
    return hashlib.sha256("{0}:{1}".format(boot, os.stat("/").st_dev).encode("ascii")).hexdigest()[:16]


def _mode(path):
    try:
        return "{0:04o}".format(os.stat(path).st_mode & 0o7777)
    except (OSError, TypeError):
        return None


def _owner(path):
    try:
        return _process.user_name(os.stat(path).st_uid)
    except (OSError, TypeError):
        return None


def _writable(path):
    """Whether we could write there: the file or folder itself, or, where it does not exist, the nearest folder above."""
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    return os.access(path or "/", os.W_OK)
