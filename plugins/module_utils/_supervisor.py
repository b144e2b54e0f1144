# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What owns a node's master process: a systemd unit, nothing (started by command), or something this cannot fence.

It is told from the process that runs (its cgroup, its parent, its namespaces), not from what is installed.
"""

import os
import re
import shlex

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _process
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError

SYSTEMD, CLI, OTHER = "systemd", "cli", "other"
PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "MainPID", "PIDFile", "FragmentPath", "DropInPaths", "UnitFileState",
    "Restart", "ExecStart", "ExecStop", "TimeoutStopUSec", "Environment", "EnvironmentFiles", "User", "NeedDaemonReload",
)
UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
                "/lib/systemd/system")
# Units in whose cgroup a command runs that somebody typed or scheduled.
LOGIN_UNITS = re.compile(r"^(ssh|sshd|dropbear|cron|crond|anacron|atd|session|getty|serial-getty|console-getty|rescue|emergency|"
                         r"ansible|awx|systemd-machined)([@.-].*)?\.(service|scope)$")
# Programs that start a child again when it ends. Only the parent of the master is looked at.
MINDERS = frozenset([
    "runsv", "s6-supervise", "supervise", "supervisord", "perpd", "monit", "circusd", "daemontools", "nosh", "dinit",
    "openrc-run", "supervise-daemo", "containerd-shim", "conmon", "docker-containe", "pm2",
])
CONTAINER = re.compile(r"(docker|containerd|kubepods|libpod|crio|cri-o|lxc|garden)")
# Restart= settings that bring back a service which ended by itself without an error, as Kong does after SIGQUIT.
RESTARTS = ("always", "on-success")


class SupervisorError(KongError):
    """systemd refused, or a node belongs to something that cannot be handled here."""


def booted():
    """Whether systemd is this host's init."""
    return os.path.isdir("/run/systemd/system")


def unit_of_cgroup(text):
    """The unit in the text of /proc/<pid>/cgroup: "kong.service", "session-3.scope", "user@1000.service", or None.

    Version 1 has a line for the systemd hierarchy, version 2 a single line that begins with 0::.
    """
    paths = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            paths[parts[1]] = parts[2]
    path = paths.get("name=systemd", paths.get("", ""))
    if path == "/" and paths.get(""):
        path = paths[""]
    words = [word for word in path.split("/") if word]
    if any(word.startswith("user@") for word in words):
        return [word for word in words if word.startswith("user@")][0]
    units = [word for word in words if word.endswith((".service", ".scope"))]
    return units[-1] if units else None


def show(run, unit):
    """Properties of a unit as a dict of str; EnvironmentFiles is a list of paths. Raises SupervisorError."""
    rc, out, err = run(["systemctl", "show", "--no-pager", "-p", ",".join(PROPERTIES), "--", unit])[:3]
    if rc != 0:
        raise SupervisorError("systemctl show {0} failed: {1}".format(unit, (err or out).strip()))
    properties = {"EnvironmentFiles": []}
    for line in out.splitlines():
        key, separator, value = line.partition("=")
        if key == "EnvironmentFiles":
            properties[key].append(re.sub(r" \(ignore_errors=\w+\)$", "", value))
        elif separator:
            properties[key] = value
    return properties


def environment(properties):
    """The environment that a unit sets: Environment= overlaid with the files of EnvironmentFile=. Returns dict.

    Raises SupervisorError for a file that may not be read.
    """
    found = {}
    for word in shlex.split(properties.get("Environment", "")):
        name, separator, value = word.partition("=")
        if separator:
            found[name] = value
    for path in properties["EnvironmentFiles"]:
        if not path or not os.path.exists(path):
            continue
        try:
            with open(path) as stream:
                text = stream.read()
        except (IOError, OSError) as error:
            raise SupervisorError("cannot read the unit's EnvironmentFile {0}: {1}".format(path, error.strerror))
        found.update(environment_file(text))
    return found


def environment_file(text):
    """Variables in the text of an EnvironmentFile."""
    found = {}
    for line in text.replace("\\\n", "").splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith(("#", ";")):
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            found[name.strip()] = value
    return found


def describe(properties):
    """A unit for facts: kind, unit, fragment, enabled, restart, exec_stop, timeout_stop, user, active, problem, also."""
    return {
        "kind": SYSTEMD,
        "unit": properties.get("Id"),
        "fragment": properties.get("FragmentPath") or None,
        "enabled": properties.get("UnitFileState") or None,
        "restart": properties.get("Restart") or None,
        "exec_stop": command_of(properties.get("ExecStop")),
        "timeout_stop": properties.get("TimeoutStopUSec") or None,
        "user": properties.get("User") or None,
        "active": properties.get("ActiveState") or None,
        "problem": None,
        "also": [],
    }


def command_of(value):
    """The command line in a value of ExecStart or ExecStop; None without one."""
    match = re.search(r"argv\[\]=(.*?) ; ", value or "")
    return match.group(1) if match else None


def _plain(kind, problem=None):
    return {"kind": kind, "unit": None, "fragment": None, "enabled": None, "restart": None, "exec_stop": None,
            "timeout_stop": None, "user": None, "active": None, "problem": problem, "also": []}


def find(run, master, prefix, executable=None, unit=None, conf=None):
    """What owns the node: the dict of `describe`, with kind systemd, cli or other (then `problem` says what it is).

    ``master``: the Process that runs, or None. ``unit``: the unit as given by the user, which counts unless the process is
    not its own.
    ``also``: units that do not own the process that runs, but would start this node too, at boot or by hand.
    Raises SupervisorError for a unit that does not exist.
    """
    if unit:
        if not booted():
            raise SupervisorError("unit {0} was given, but systemd is not the init of this host".format(unit))
        properties = show(run, unit)
        if properties.get("LoadState") == "not-found":
            raise SupervisorError("there is no systemd unit {0} on this host: correct 'unit'".format(unit))
        if master is not None and _started_by_hand(master, properties):
            return command([properties["Id"]])
        return describe(properties)
    if master is None:
        return _stopped(run, prefix, executable, conf)
    problem = _container(master)
    if problem:
        return _plain(OTHER, problem)
    if booted():
        found = _by_cgroup(run, master, prefix, executable)
        if found:
            return found
    parent = _process.read_process(master.ppid)
    name = _name(master.ppid) if parent and master.ppid != 1 else ""
    if name in MINDERS:
        return _plain(OTHER, "{0} (pid {1}) minds the node and would start it again".format(name, master.ppid))
    return command(units_about(prefix, executable, conf) if booted() else [])


def _started_by_hand(master, properties):
    """Whether the process that runs is not this unit's: somebody started it by hand."""
    if int(properties.get("MainPID") or 0) == master.pid:
        return False
    return _cgroup(master) != properties.get("Id")


def _cgroup(master):
    """The unit in whose control group the master is, or None."""
    try:
        with open("/proc/{0}/cgroup".format(master.pid)) as stream:
            return unit_of_cgroup(stream.read())
    except (IOError, OSError):
        return None


def _by_cgroup(run, master, prefix, executable):
    """The supervisor by the master's cgroup, or None when it is not a unit's own."""
    unit = _cgroup(master)
    if not unit or unit.endswith(".scope"):
        return None
    if unit.startswith("user@"):
        return _plain(OTHER, "the node runs under a user's own systemd ({0}), which this cannot fence".format(unit))
    properties = show(run, unit)
    if _is_kongs(properties, master, prefix, executable):
        return describe(properties)
    if LOGIN_UNITS.match(unit):
        return None
    main = int(properties.get("MainPID") or 0)
    if main and main in _process.ancestors(master.pid):
        return describe(properties)
    return _plain(
        OTHER, "the node runs in the cgroup of {0}, which does not look like Kong's unit; name the unit with 'unit'".format(unit)
    )


def _is_kongs(properties, master, prefix, executable):
    """Whether a unit is about this node, by its own words."""
    if int(properties.get("MainPID") or 0) == master.pid or properties.get("PIDFile") == _process.pid_file(prefix):
        return True
    return mentions(properties.get("ExecStart") or "", prefix, executable)


def mentions(text, prefix, executable):
    """Whether a unit's words name the prefix or the kong command."""
    words = re.split(r"[\s=;'\"]+", text)
    if prefix.rstrip("/") in [word.rstrip("/") for word in words]:
        return True
    names = set(filter(None, [executable, executable and os.path.realpath(executable)]))
    return bool(names & set(words)) or any(os.path.basename(word) == "kong" for word in words if "/" in word)


def command(also=()):
    """What owns a node that is started by the kong command."""
    return dict(_plain(CLI), also=list(also))


def _stopped(run, prefix, executable, conf):
    """The supervisor of a node that does not run: the one unit that would start it with its configuration, else nobody."""
    units = _unit_texts(prefix, executable, conf) if booted() else {}
    default = conf is None or conf in _conf.DEFAULT_PATHS
    names = sorted(name for name, text in units.items() if default or conf in re.split(r"[\s=;'\"]+", text))
    if len(names) == 1:
        return describe(show(run, names[0]))
    if names:
        return _plain(OTHER, "several units could start this node ({0}); name the right one with 'unit'".format(", ".join(names)))
    return command(sorted(units))


def units_about(prefix, executable, conf=None):
    """Names of the installed services whose unit files would start the node of this prefix, as a sorted list.

    They name the prefix; or they name the kong command with this configuration file, or with none where it is the default.
    """
    return sorted(_unit_texts(prefix, executable, conf))


def _unit_texts(prefix, executable, conf):
    found = {}
    for folder in UNIT_FOLDERS:
        if not os.path.isdir(folder):
            continue
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if not name.endswith(".service") or "@." in name or not os.path.isfile(path):
                continue
            try:
                with open(path, "rb") as stream:
                    text = stream.read(65536).decode("utf-8", "replace")
            except (IOError, OSError):
                continue
            if starts(text, prefix, executable, conf):
                found.setdefault(name, text)
    return found


def starts(text, prefix, executable, conf=None):
    """Whether the text of a unit file is about the node of this prefix; see `units_about`."""
    prefix = prefix.rstrip("/")
    for line in text.replace("\\\n", " ").splitlines():
        key, unused, value = line.partition("=")
        if key.strip() not in ("ExecStart", "ExecStartPre", "PIDFile", "Environment"):
            continue
        words = re.split(r"[\s=;'\"]+", value)
        if any(word.rstrip("/") == prefix or word == _process.pid_file(prefix) for word in words):
            return True
        if not executable or not set(words) & set([executable, os.path.realpath(executable)]):
            continue
        if set(words) & set(["-p", "--prefix"]):
            continue
        if set(words) & set(["-c", "--conf"]):
            if conf in words:
                return True
        elif conf is None or conf in _conf.DEFAULT_PATHS:
            return True
    return False


def _container(master):
    """Why the master is somebody else's to restart: a container seen from its host, or a container's first process."""
    if master.pid == 1:
        return "the node is the first process of a container: whatever runs the container would start it again"
    try:
        foreign = os.readlink("/proc/{0}/ns/pid".format(master.pid)) != os.readlink("/proc/self/ns/pid")
        with open("/proc/{0}/cgroup".format(master.pid)) as stream:
            match = CONTAINER.search(stream.read())
        with open("/proc/self/cgroup") as stream:
            ours = CONTAINER.search(stream.read())
    except (IOError, OSError):
        return None
    if foreign or (match and not ours):
        return "the node runs in a container ({0}) seen from its host".format(match.group(1) if match else "another pid namespace")
    return None


def _name(pid):
    try:
        with open("/proc/{0}/comm".format(pid)) as stream:
            return stream.read().strip()
    except (IOError, OSError):
        return ""


def systemctl(run, *words):
    """Run systemctl. Raises SupervisorError with what it said."""
    rc, out, err = run(["systemctl", "--no-pager"] + list(words))[:3]
    if rc != 0:
        raise SupervisorError("systemctl {0} failed: {1}".format(" ".join(words), (err or out).strip()))
    return out
