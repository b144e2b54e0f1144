# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of a bed: start them apart from ours, find all of them again, end them without leaving one.

Kong and nginx make daemons, which no process group holds together. So everything that a bed starts carries the bed's
folder in the environment variable BLUEGREEN_BED, which children inherit; nginx overwrites its environment, therefore
its processes are found by the files they hold open.
"""

import os
import pathlib
import signal
import subprocess
import time

MARK = "BLUEGREEN_BED"


class BedError(Exception):
    """The bed cannot do what was asked; the message says why."""


def wait_for(condition, timeout, what, interval=0.05):
    """Poll `condition()` until it returns something true, and return that.

    :param timeout: seconds
    :param what: ends the sentence "... after N s: " of the error
    :raises BedError: when the time is over
    """
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise BedError(f"not so after {timeout} s: {what}")
        time.sleep(interval)


def _stat(pid):
    """(state letter, parent pid) of a process, or None when it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def alive(pid):
    """True when the process exists and is not a zombie."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def parent(pid):
    """The pid of its parent, or None when it is gone."""
    stat = _stat(pid)
    return stat[1] if stat else None


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _holds_file_below(pid, directory):
    try:
        names = list(pathlib.Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(name).startswith(directory + "/"):
                return True
        except OSError:
            continue
    return False


def members(directory):
    """The pids of all processes of the bed in `directory`, ours and our ancestors excepted."""
    directory = str(directory)
    mark = f"{MARK}={directory}".encode()
    spared, pid = set(), os.getpid()
    while pid > 1:
        spared.add(pid)
        stat = _stat(pid)
        pid = stat[1] if stat else 0
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        pid = int(entry.name)
        if not alive(pid):
            continue
        if mark in _read(entry / "environ").split(b"\0"):
            found.add(pid)
        elif _read(entry / "cmdline").startswith(b"nginx:") and _holds_file_below(pid, directory):
            found.add(pid)
    return found


def end(find, patience=5.0):
    """End all processes that `find()` names: SIGTERM, then SIGKILL to those that are left after `patience` seconds.

    :returns: the pids that had to be killed
    """
    for pid in find():
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while find() and time.monotonic() < deadline:
        time.sleep(0.05)
    killed = set()
    deadline = time.monotonic() + 10
    while left := find():
        for pid in left:
            _signal(pid, signal.SIGKILL)
        killed |= left
        if time.monotonic() > deadline:
            raise BedError(f"processes outlive SIGKILL: {sorted(left)}")
        time.sleep(0.02)
    return killed


def _signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended by itself meanwhile


def environment(directory, extra=None):
    """This process's environment without what would change the programs of the bed, plus the bed's mark."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KONG_", "PG", "ANSIBLE_"))}
    env.pop("LD_LIBRARY_PATH", None)
    env[MARK] = str(directory)
    env.update(extra or {})
    return env


def spawn(argv, log, env, cwd=None, user=None):
    """Start a program in a session of its own, its output appended to the file `log`.

    :param user: pwd entry of the user to run it as, or None
    :returns: subprocess.Popen
    """
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    with open(log, "ab") as out:
        return subprocess.Popen(
            [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd,
            start_new_session=True, **as_user,
        )


def run(argv, env, cwd=None, user=None, timeout=60, check=True, text=""):
    """Run a program to its end.

    :param text: its standard input
    :raises BedError: with the program's output, when it fails and `check` is set, or takes longer than `timeout` s
    :returns: subprocess.CompletedProcess with text output
    """
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    argv = [str(a) for a in argv]
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, env=env, cwd=cwd, timeout=timeout, check=False, **as_user,
        )
    except subprocess.TimeoutExpired as error:
        raise BedError(f"{' '.join(argv)}: no end after {timeout} s") from error
    if check and done.returncode:
        raise BedError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done
