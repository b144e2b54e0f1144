# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an HAProxy on this host tells beside its sockets: its processes, its configuration files, its state file.

Only for sockets that are paths. Where behaviour is said to be HAProxy's, it was read off 2.2, 2.6, 2.8 and 3.5 themselves.
"""

import errno
import os

from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy_conf, _process
from ansible_collections.bluegreen.kong.plugins.module_utils._files import read_text, replace
from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy import HaproxyError, parse_state


def command_line(pid):
    """The words that a local HAProxy was started with (list of str); [] when there is no such process to be seen here."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as source:
            argv = source.read().decode("utf-8", "replace").split("\0")[:-1]
    except (OSError, TypeError):
        return []
    return argv if argv and "haproxy" in os.path.basename(argv[0]) else []


def running_files(pid):
    """The configuration files a local HAProxy was started with, from its command line: list of absolute paths.

    Empty when the process is not to be seen (another host or container), or takes no file.
    """
    argv = command_line(pid)
    try:
        folder = os.readlink("/proc/%d/cwd" % pid) if argv else None
    except OSError:
        return []
    given, index = [], 1
    while index < len(argv):
        if argv[index] == "--":
            given.extend(argv[index + 1:])
            break
        if argv[index] in ("-f", "-C") and index + 1 < len(argv):
            if argv[index] == "-C":
                folder = os.path.join(folder, argv[index + 1])
            else:
                given.append(argv[index + 1])
            index += 1
        index += 1
    files = []
    for path in given:
        path = os.path.join(folder, path)
        if os.path.isdir(path):
            files.extend(os.path.join(path, name) for name in sorted(os.listdir(path))
                         if name.endswith(".cfg") and not name.startswith("."))
        else:
            files.append(path)
    return files


def older_processes(pid):
    """Local HAProxy processes that a reload has left to finish what they have: sorted list of pids.

    Their sessions are on no runtime socket any more. They are the other children of a master process, and the pids
    after -sf (or -st) in the command line.
    """
    argv = command_line(pid)
    if not argv:
        return []
    found = set()
    for flag in ("-sf", "-st"):
        if flag in argv:
            for word in argv[argv.index(flag) + 1:]:
                if not word.isdigit():
                    break
                found.add(int(word))
    haproxy = _process.read_process(pid)
    master = haproxy.ppid if haproxy else 0
    if master > 1 and command_line(master):
        found.update(child.pid for child in _process.children(master))
    return sorted(other for other in found - {pid, master} if command_line(other) and alive(other))


def alive(pid):
    """Whether there is a process of this pid that has not ended."""
    process = _process.read_process(pid)
    return bool(process) and process.alive


def learn_from_files(view, paths):
    """Adds to a snapshot what only the configuration files tell: state_file, and per backend hash_type, load_state.

    What cannot be read stays None: the sockets alone are enough for everything else.
    """
    texts = []
    for path in paths:
        try:
            texts.append(read_text(path))
        except OSError:
            continue  # learning is a bonus; a file that is to be changed is opened elsewhere, and complained about there
    settings = _haproxy_conf.global_settings(texts)
    if settings["server_state_file"]:
        view["state_file"] = os.path.join(settings["server_state_base"] or "", settings["server_state_file"])
        if not os.path.isabs(view["state_file"]):
            view["state_file"] = None
    told = _haproxy_conf.backend_settings(texts)
    for name, backend in view["backends"].items():
        backend["hash_type"] = told.get(name, {}).get("hash_type")
        backend["load_state"] = told.get(name, {}).get("load_state") or ("none" if name in told else None)
        backend["cuts_when_down"] = told.get(name, {}).get("cuts_when_down")
        # All other algorithms hash something: dynamic with `hash-type consistent`, static with map-based, the default.
        if backend["weights"] == "unknown" and name in told and backend["algo"]:
            consistent = (backend["hash_type"] or "map-based") == "consistent"
            backend["weights"] = "dynamic" if consistent else "static"


def learn(view, runtime, paths=()):
    """learn_from_files with `paths`, or with what the running process was started with."""
    learn_from_files(view, list(paths) or (running_files(view["pid"]) if runtime.path else []))


def gist(text):
    """What matters in a state file: {(backend, server): (admin state, weight, initial weight, runs)}; {} if unreadable."""
    try:
        rows = parse_state(text)
        return {(row["be_name"], row["srv_name"]): (
            row["srv_admin_state"], row["srv_uweight"], row["srv_iweight"], row["srv_op_state"] != "0") for row in rows}
    except (HaproxyError, KeyError):
        return {}


def write_state(path, text):
    """Puts `show servers state` into a file unless it says the same already. Returns whether it wrote."""
    try:
        if gist(read_text(path)) == gist(text):
            return False
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise HaproxyError("state_file: %s cannot be read: %s." % (path, error.strerror))
    try:
        replace(path, text)
    except OSError as error:
        raise HaproxyError("state_file: %s cannot be written: %s." % (path, error.strerror))
    return True
