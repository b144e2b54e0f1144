# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The run's own lock (a lease that expires) and its small record, in one JSON file."""

import contextlib
import errno
import fcntl
import json
import os
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _files


class LeaseError(Exception):
    """The file cannot be read or written. The message names it and the way out."""


@contextlib.contextmanager
def locked(path):
    """Holds an exclusive flock beside `path` (str), so that two modules never write at once."""
    directory = os.path.dirname(path)
    try:
        if not os.path.isdir(directory):
            os.makedirs(directory, 0o700)
        handle = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LeaseError(
            "%s cannot be written: %s. Set kong_upgrade_state_dir to a folder of your own, or use become."
            % (path, error.strerror)
        )
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read(path):
    """The stored state: {"owner": dict or None, "record": dict}. An absent file is an empty state; LeaseError."""
    try:
        with open(path) as source:
            state = json.load(source)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOENT, errno.ENOTDIR):
            return {"owner": None, "record": {}}
        raise LeaseError("%s cannot be read: %s. If no upgrade runs, remove it by hand." % (path, error))
    return {"owner": state.get("owner"), "record": state.get("record") or {}}


def write(path, state):
    """Replaces the file in one step; a new one is readable by its owner alone."""
    try:
        _files.replace(path, json.dumps(state, indent=1, sort_keys=True), 0o600)
    except OSError as error:
        raise LeaseError("%s cannot be written: %s" % (path, error.strerror))


def decide(state, wanted, owner, ttl, take_over, remember, now):
    """What becomes of the stored state. Pure.

    state: as `read` returns it. wanted: held | released | read. owner: dict with run_id. ttl: seconds.
    take_over: run_id of a holder that is known to be dead, or None. remember: dict; a key that the record has stays.
    now: seconds since the epoch. Returns (new state, refused: bool).
    """
    holder, record = state["owner"], dict(state["record"])
    mine = bool(holder) and holder["run_id"] == owner.get("run_id")
    alive = bool(holder) and not mine and holder["expires"] > now and holder["run_id"] != take_over
    if wanted == "read":
        return state, False
    if alive and wanted == "held":
        return state, True
    for key, value in (remember or {}).items() if wanted == "held" or mine else ():
        record.setdefault(key, value)
    if wanted == "released":
        return {"owner": holder if holder and not mine else None, "record": record}, False
    since = holder["since"] if mine else now
    return {"owner": dict(owner, since=since, renewed=now, expires=now + ttl), "record": record}, False


def apply(path, wanted, owner, ttl, take_over, remember, forget, check_mode):
    """Reads, decides and writes under the flock. Returns the module's answer as a dict; raises LeaseError."""
    if wanted == "read":
        return dict(answer(read(path), False), remembered=False)
    with locked(path):
        before = read(path)
        known = dict(before, record={}) if forget else before
        after, refused = decide(known, wanted, owner, ttl, take_over, remember, time.time())
        if refused:
            after = before
        elif not check_mode and before != after:
            write(path, after)
    return dict(answer(before if check_mode else after, refused), remembered=before["record"] != after["record"])


def answer(state, refused):
    """The module's return values from a state. That somebody is at work is no change of the host."""
    holder = state["owner"]
    return {
        "changed": False,
        "refused": refused,
        "holder": holder,
        "expires_in": round(max(0, holder["expires"] - time.time())) if holder else None,
        "record": state["record"],
    }
