# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence: what makes a retired node unable to come back, by hand, by boot or by a supervisor.

Old Kong nodes do start on a finished schema and lose rows there; only the fence keeps them away. Under systemd the
unit is disabled and masked (a unit file in /etc cannot be masked: a drop-in makes its start fail). Without a
supervisor the kong command refuses ``start`` and ``restart`` for the fenced prefixes and passes on everything else; units
that would start the node too, at the next boot, are fenced with it.
kong.conf is never moved: without it Kong would start with its defaults.

What was there before is kept in ``<prefix>/.kong_fence``, so that lifting the fence restores it.
"""

import contextlib
import errno
import fcntl
import getpass
import json
import os
import shlex
import shutil
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _files, _supervisor
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError

MARK = "# fence of bluegreen.kong"
DROP_IN = "zz-bluegreen-kong-fence.conf"
HOLD = "zz-bluegreen-kong-hold.conf"
ETC = "/etc/systemd/system"
RUN = "/run/systemd/system"
# Unit files whose link `systemctl disable` would remove altogether.
LINKED = ("linked", "linked-runtime", "transient", "static", "indirect", "generated")

WRAPPER = r"""#!/bin/sh
{mark}: {real} is the kong command itself. Nodes whose prefix or
# configuration file stands in {list} are retired: start and restart are
# refused for them, everything else is passed on.
real={real_quoted}
list={list_quoted}
command= conf= prefix= take=
for word in "$@"; do
  case $take in
    conf) conf=$word; take=; continue ;;
    prefix) prefix=$word; take=; continue ;;
  esac
  case $word in
    -c|--conf) take=conf ;;
    --conf=*) conf=${{word#--conf=}} ;;
    -c?*) conf=${{word#-c}} ;;
    -p|--prefix) take=prefix ;;
    --prefix=*) prefix=${{word#--prefix=}} ;;
    -p?*) prefix=${{word#-p}} ;;
    -*) ;;
    *) [ -n "$command" ] || command=$word ;;
  esac
done
case $command in start|restart)
  if [ -z "$prefix" ]; then prefix=${{KONG_PREFIX:-}}; fi
  if [ -z "$conf" ]; then
    for file in /etc/kong/kong.conf /etc/kong.conf; do
      if [ -z "$conf" ] && [ -e "$file" ]; then conf=$file; fi
    done
  fi
  if [ -z "$prefix" ] && [ -r "$conf" ]; then
    prefix=$(PATH=$PATH:/usr/bin:/bin; sed -n 's/^[[:space:]]*prefix[[:space:]]*=[[:space:]]*//p' "$conf" |
      sed -n -e 's/[[:space:]]*#.*$//' -e 's/[[:space:]]*$//' -e '$p')
  fi
  [ -n "$prefix" ] || prefix=/usr/local/kong
  while [ "$prefix" != / ] && [ "$prefix" != "${{prefix%/}}" ]; do prefix=${{prefix%/}}; done
  place=$(cd -P -- "$prefix" 2>/dev/null && pwd -P) || place=$prefix
  [ -z "$conf" ] || conf=$(PATH=$PATH:/usr/bin:/bin; readlink -f -- "$conf") || conf=
  if [ -r "$list" ]; then
    while IFS='	' read -r fenced file when who; do
      if [ "$fenced" = "$place" ] || [ "$fenced" = "$prefix" ] || [ "$file" = "${{conf:-none}}" ]; then
        echo "Error: this Kong node is retired: $fenced ($file) was fenced $when by $who." >&2
        echo "Its database has been or is about to be migrated to a newer version, where this one would lose data." >&2
        echo "To lift the fence: the module bluegreen.kong.kong_node with state=started and fenced=false, or take the" >&2
        echo "line of this prefix out of $list." >&2
        exit 1
      fi
    done < "$list"
  fi ;;
esac
exec "$real" "$@"
"""

ASSERTION = """{mark}, made {when} by {who}.
# This Kong node is retired: its database has been or is about to be migrated to a newer version, where this one would
# lose data. To lift the fence: the module bluegreen.kong.kong_node with state=started and fenced=false, or remove this
# file and run systemctl daemon-reload.
[Unit]
AssertPathExists=/nonexistent/this-kong-node-is-retired--see-systemctl-cat
[Service]
Restart=no
"""


class FenceError(KongError):
    """The fence could not be put up, taken down or proven."""


def problem(supervisor, executable):
    """Why this node could not be fenced from here, or None when it could."""
    if supervisor["kind"] == _supervisor.OTHER:
        return supervisor["problem"]
    units = _units(supervisor)
    if units and os.geteuid() != 0:
        return "disabling and masking {0} takes root: use become".format(", ".join(units))
    if units and not os.access(ETC, os.W_OK):
        return "{0} is not writable".format(ETC)
    if supervisor["kind"] == _supervisor.SYSTEMD:
        return None
    if not executable:
        return "no kong command to fence"
    folder = os.path.dirname(os.path.realpath(executable))
    if not os.access(folder, os.W_OK | os.X_OK):
        return "{0} is not writable for {1}: the kong command in it cannot be fenced; use become".format(folder, _user())
    return None


def _units(supervisor):
    """Every unit that has to be fenced for this node."""
    return [supervisor["unit"]] if supervisor["kind"] == _supervisor.SYSTEMD else list(supervisor["also"])


def state(run, supervisor, prefix, executable):
    """How this node is fenced: "mask of kong.service", "drop-in of kong.service", "command /usr/bin/kong", or None.

    Read from the world, never from what was noted.
    """
    found = [_unit_state(_supervisor.show(run, unit)) for unit in _units(supervisor)]
    if supervisor["kind"] != _supervisor.SYSTEMD:
        fenced = executable and prefix_id(prefix) in fenced_prefixes(executable)
        found.insert(0, "command {0}".format(os.path.realpath(executable)) if fenced else None)
    return ", ".join(found) if all(found) else None


def _unit_state(properties):
    unit = properties.get("Id")
    if properties.get("LoadState") == "masked" and properties.get("UnitFileState") in ("masked", ""):
        return "mask of {0}".format(unit)
    for path in properties.get("DropInPaths", "").split():
        if os.path.basename(path) == DROP_IN and path.startswith(ETC + "/"):
            return "drop-in of {0}".format(unit)
    return None


def prefix_id(prefix):
    """The name of a prefix in the list of the fenced."""
    return os.path.realpath(prefix).rstrip("/") or "/"


def is_wrapper(path):
    """Whether a file is our stand-in for the kong command."""
    try:
        with open(path, "rb") as stream:
            return MARK.encode("ascii") in stream.read(120)
    except (IOError, OSError):
        return False


def fenced_prefixes(executable):
    """Prefixes that the kong command refuses to start, as a list; empty when it is not fenced."""
    path = os.path.realpath(executable)
    return [line.split("\t")[0] for line in _read_list(path)] if is_wrapper(path) else []


def _read_list(path):
    try:
        with open(path + ".fenced") as stream:
            return [line for line in stream.read().splitlines() if line.strip()]
    except (IOError, OSError) as error:
        if error.errno != errno.ENOENT:
            raise FenceError("cannot read {0}.fenced: {1}".format(path, error.strerror))
        return []


def put_up(run, supervisor, prefix, executable, conf=None):
    """Fence the node. Returns how, as `state` tells it; doing it again changes nothing. Raises FenceError.

    ``conf``: its configuration file, with which the kong command then starts no node in another prefix either.
    """
    why_not = problem(supervisor, executable)
    if why_not:
        raise FenceError("this node cannot be fenced: {0}".format(why_not))
    now = state(run, supervisor, prefix, executable)
    if now:
        return now
    units = [_supervisor.describe(_supervisor.show(run, unit)) for unit in _units(supervisor)]
    note = {"when": time.strftime("%Y-%m-%d %H:%M:%S %Z"), "who": _user(), "unit": supervisor["unit"]}
    note["enabled"] = dict((unit["unit"], unit["enabled"]) for unit in units)
    note["enabled"].update(read_note(prefix).get("enabled", {}))
    _write_note(prefix, note)
    for unit in units:
        _fence_unit(run, unit, note)
    if supervisor["kind"] != _supervisor.SYSTEMD:
        with _locked(executable) as path:
            _fence_command(path, prefix_id(prefix), conf, note)
    now = state(run, supervisor, prefix, executable)
    if not now:
        raise FenceError("the fence of {0} was put up, but is not there when read back".format(supervisor["unit"] or executable))
    return now


def take_down(run, supervisor, prefix, executable):
    """Lift the fence and restore what was before. Returns whether there was one. Raises FenceError."""
    note = read_note(prefix)
    if not state(run, supervisor, prefix, executable):
        _remove_note(prefix)
        return False
    why_not = problem(supervisor, executable)
    if why_not:
        raise FenceError("the fence of this node cannot be lifted: {0}".format(why_not))
    for unit in _units(supervisor):
        _unfence_unit(run, unit, note.get("enabled", {}).get(unit))
    if supervisor["kind"] != _supervisor.SYSTEMD:
        with _locked(executable) as path:
            _unfence_command(path, prefix_id(prefix))
    if state(run, supervisor, prefix, executable):
        raise FenceError("the fence of {0} was lifted, but is still there when read back".format(supervisor["unit"] or executable))
    _remove_note(prefix)
    return True


# --- the kong command ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(executable):
    """Holds a lock on the folder of the kong command, so that two nodes of one host do not fence at the same moment."""
    path = os.path.realpath(executable)
    handle = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(handle)


def _fence_command(path, prefix, conf, note):
    lines = [line for line in _read_list(path) if line.split("\t")[0] != prefix] if is_wrapper(path) else []
    lines.append("\t".join([prefix, os.path.realpath(conf) if conf else "-", note["when"], note["who"]]))
    _files.replace(path + ".fenced", "".join(line + "\n" for line in lines))
    if is_wrapper(path):
        return
    _keep(path, path + ".real")
    text = WRAPPER.format(
        mark=MARK, real=path + ".real", list=path + ".fenced",
        real_quoted=shlex.quote(path + ".real"), list_quoted=shlex.quote(path + ".fenced"),
    )
    _files.replace(path, text)


def _unfence_command(path, prefix):
    lines = [line for line in _read_list(path) if line.split("\t")[0] != prefix]
    if lines:
        _files.replace(path + ".fenced", "".join(line + "\n" for line in lines))
        return
    os.rename(path + ".real", path)
    os.unlink(path + ".fenced")


def _keep(path, kept):
    """Give a file a second name: the first is never missing in between."""
    temporary = "{0}.{1}".format(kept, os.getpid())
    try:
        os.link(path, temporary)
    except OSError:
        # No hard links here: a copy with the same owner, mode and times.
        shutil.copy2(path, temporary)
        status = os.stat(path)
        os.chown(temporary, status.st_uid, status.st_gid)
    os.rename(temporary, kept)


# --- systemd ---------------------------------------------------------------------------------------------------------


def _fence_unit(run, supervisor, note):
    unit = supervisor["unit"]
    if supervisor["enabled"] not in LINKED:
        _supervisor.systemctl(run, "disable", unit)
    fragment = supervisor["fragment"] or ""
    if os.path.lexists(os.path.join(ETC, unit)) or fragment.startswith((ETC + "/", RUN + "/")):
        write_drop_in(ETC, unit, DROP_IN, ASSERTION.format(mark=MARK, **note))
    else:
        _supervisor.systemctl(run, "mask", unit)
    _supervisor.systemctl(run, "daemon-reload")


def _unfence_unit(run, unit, enabled):
    remove_drop_in(ETC, unit, DROP_IN)
    _supervisor.systemctl(run, "unmask", unit)
    _supervisor.systemctl(run, "daemon-reload")
    if enabled in ("enabled", "enabled-runtime"):
        _supervisor.systemctl(run, "enable", unit)


def write_drop_in(root, unit, name, text):
    """Write a drop-in of a unit below ``root``."""
    folder = os.path.join(root, unit + ".d")
    if not os.path.isdir(folder):
        os.makedirs(folder, 0o755)
    _files.replace(os.path.join(folder, name), text)


def remove_drop_in(root, unit, name):
    """Remove a drop-in, and its folder when nothing else is in it. Returns whether there was one."""
    folder = os.path.join(root, unit + ".d")
    try:
        os.unlink(os.path.join(folder, name))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise FenceError("cannot remove {0}/{1}: {2}".format(folder, name, error.strerror))
        return False
    if not os.listdir(folder):
        os.rmdir(folder)
    return True


@contextlib.contextmanager
def held(run, supervisor):
    """While a unit's node is being stopped: keep Restart= from bringing it back. Nothing on disk is left of it."""
    if supervisor["kind"] != _supervisor.SYSTEMD or supervisor["restart"] not in _supervisor.RESTARTS:
        yield
        return
    write_drop_in(RUN, supervisor["unit"], HOLD, "[Service]\nRestart=no\n")
    _supervisor.systemctl(run, "daemon-reload")
    try:
        yield
    finally:
        remove_drop_in(RUN, supervisor["unit"], HOLD)
        _supervisor.systemctl(run, "daemon-reload")


# --- what was before -------------------------------------------------------------------------------------------------


def _note_path(prefix):
    return os.path.join(prefix, ".kong_fence")


def read_note(prefix):
    """What was noted when the node was fenced: dict with when, who, unit, enabled (by unit); empty without one."""
    try:
        with open(_note_path(prefix)) as stream:
            return json.load(stream)
    except (IOError, OSError, ValueError):
        return {}


def forgotten(supervisor, prefix):
    """Units of which no note tells whether they were started at boot, so that lifting the fence cannot restore that."""
    enabled = read_note(prefix).get("enabled", {})
    return [unit for unit in _units(supervisor) if unit not in enabled]


def _write_note(prefix, note):
    if os.path.isdir(prefix) and os.access(prefix, os.W_OK):
        _files.replace(_note_path(prefix), json.dumps(note, sort_keys=True) + "\n", 0o600)


def _remove_note(prefix):
    try:
        os.unlink(_note_path(prefix))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            raise


def _user():
    return os.environ.get("SUDO_USER") or getpass.getuser()
