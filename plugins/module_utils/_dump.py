# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`kong config db_export` into a file that is whole, private, and known by its checksum.

What the command does by itself: into a folder that it may not write it exits 0 and writes nothing; it never
overwrites; a failed export leaves a part of the file behind; the file is readable by everybody; and where
`<prefix>/.kong_env` exists it exports the database of the node that runs there, whatever `-c` says. So it writes into
a private folder, with a scratch prefix, and the result is looked at before it gets its name.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile

from ansible_collections.bluegreen.kong.plugins.module_utils import _cli, _conf, _migrate, _migrations
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DumpError, KongError

_KEY = re.compile(r"^(['\"]?)(?P<key>[A-Za-z_][\w-]*)\1:(?:\s+(?P<value>\S.*?))?\s*$")
_ITEM = re.compile(r"^(?P<indent> *)-(?:\s|$)")
_EMPTY = frozenset(["[]", "{}", "~", "null"])


def summarise(lines):
    """What an export holds, read line by line: entities are never kept in memory.

    Kong writes block style: a key at the margin, its entities as list items below it, everything else indented more.

    :param lines: iterable of str.
    :returns: dict: counts (dict entity -> int), format_version (str or None), transform (bool or None: not given).
    :raises DumpError: it is not what Kong writes, or ends in the middle of a line.
    """
    counts, scalars = {}, {}
    entity = indent = None
    line, number = "\n", 0
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if not text.strip() or text.startswith("#") or text in ("---", "..."):
            continue
        item = _ITEM.match(text)
        if item and entity is not None:
            if indent is None:
                indent = len(item.group("indent"))
            if len(item.group("indent")) == indent:
                counts[entity] += 1
                continue
        if text[0] == " " and entity is not None:
            continue
        key = _KEY.match(text)
        if not key:
            raise DumpError("Line %d is not what an export of Kong's holds." % number)
        entity = indent = None
        if key.group("value") is None:
            entity = key.group("key")
            counts[entity] = 0
        elif key.group("value") in _EMPTY:
            counts[key.group("key")] = 0
        else:
            scalars[key.group("key")] = key.group("value").strip("'\"")
    if not line.endswith("\n"):
        raise DumpError("The file ends in the middle of line %d." % number)
    transform = scalars.get("_transform")
    return {
        "counts": counts,
        "format_version": scalars.get("_format_version"),
        "transform": None if transform is None else transform.lower() == "true",
    }


def checksum(path):
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sidecar(path):
    """Where the checksum of an export is kept, in the format of sha256sum."""
    return path + ".sha256"


def recorded(path):
    """The checksum in the sidecar of `path`, or None."""
    try:
        with open(sidecar(path)) as stream:
            words = stream.read(256).split()
    except (IOError, OSError) as error:
        if error.errno == errno.ENOENT:
            return None
        raise DumpError("%s cannot be read: %s." % (sidecar(path), error.strerror))
    return words[0] if words else None


def export(params, run_command, check_mode=False):
    """Does what the module kong_config_dump is documented to do.

    :param params: dict, the module's parameters: dest, force, parse, executable, conf.
    :returns: dict, the module's result; `warnings` (list of str) among it.
    :raises KongError: no export was made; what was at dest before is still there.
    """
    dest = os.path.abspath(params["dest"])
    folder = os.path.dirname(dest)
    result = {"changed": False, "dest": dest, "warnings": []}
    if os.path.isdir(dest):
        raise DumpError("%s is a folder: 'dest' must name a file." % dest)
    if os.path.lexists(dest) and not params["force"]:
        result.update(_kept(dest))
        return result
    executable = _cli.find_executable(params.get("executable"))
    settings = _conf.load(params.get("conf"))[0]
    if _conf.datastore(settings)["kind"] == "off":
        raise DumpError("The configuration says database = off: such a node has no database to export.")
    result["changed"] = True
    if check_mode:
        return result
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o700)
        private = tempfile.mkdtemp(prefix=".%s." % os.path.basename(dest), dir=folder)
    except (IOError, OSError) as error:
        raise DumpError("The folder %s cannot be written: %s." % (folder, error.strerror))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, private)
        scratch = stack.enter_context(_cli.scratch_prefix())
        kong = _cli.Kong(run_command, executable, conf=params.get("conf"), prefix=scratch)
        path = os.path.join(private, "export.yml")
        _run(kong, path, settings)
        result.update(_look(path, result["warnings"]))
        if params["parse"]:
            result["importable"] = _parse(kong, path, dest, result["warnings"])
        _publish(path, private, dest, result["sha256"])
    return result


def _kept(dest):
    """What is returned for an export that is there already; DumpError when it is not the one that was made."""
    known = recorded(dest)
    if known is None:
        raise DumpError(
            "%s is there already, without %s: it was not made by this module, or not to its end. Move it away, name "
            "another 'dest', or replace it with force: true." % (dest, os.path.basename(sidecar(dest)))
        )
    found = checksum(dest)
    if found != known:
        raise DumpError(
            "%s is there already, and has changed since it was made (sha256 %s, recorded %s). Move it away, name another "
            "'dest', or replace it with force: true." % (dest, found, known)
        )
    summary = _summary_of(dest)
    return dict(summary, sha256=found, size=os.path.getsize(dest))


def _summary_of(path):
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return summarise(stream)


def _run(kong, path, settings):
    answer = kong.call("config", "db_export", path, prefix=True)
    said = _migrate.cleaner(settings)(_cli.first_line(answer.err) or _cli.first_line(answer.out))
    if answer.rc != 0:
        advice = _migrations.advice(said)
        lower = said.lower()
        if "no such command" in lower or "unknown command" in lower:
            advice = ". This version has no export: db_export came with Kong 1.3."
        elif "does not exist" in lower and ("relation" in lower or "column" in lower) or "local 'row'" in lower:
            advice = (
                ". The database is not one that this version of Kong made: export with the binary of the version that "
                "serves it."
            )
        raise DumpError(
            "%s config db_export ended with %s: %s%s" % (kong.executable, answer.rc, said or "nothing was said", advice),
            rc=answer.rc,
        )
    if not os.path.isfile(path) or not os.path.getsize(path):
        raise DumpError(
            "%s config db_export ended with 0, but wrote no file%s." % (kong.executable, ": " + said if said else ""),
            rc=answer.rc,
        )


def _look(path, warnings):
    os.chmod(path, 0o600)
    try:
        summary = _summary_of(path)
    except DumpError as error:
        raise DumpError("kong config db_export ended with 0, but what it wrote is no export. %s" % error.message)
    if not summary["format_version"]:
        raise DumpError("kong config db_export ended with 0, but what it wrote has no _format_version.")
    if summary["format_version"].startswith("1."):
        warnings.append(
            "An export of a Kong before 2.1 has no basic-auth credentials, and an import hashes the passwords in it once "
            "more unless it says _transform: false. It is no backup: make a dump of the database as well."
        )
    return dict(summary, sha256=checksum(path), size=os.path.getsize(path))


def _parse(kong, path, dest, warnings):
    """Whether Kong itself can read it. Not its words: they can quote what is in the file."""
    answer = kong.call("config", "parse", path, prefix=True)
    if answer.rc == 0:
        return True
    warnings.append(
        "The same kong command cannot parse the export (exit code %s), so it cannot be imported as it is; counters of "
        "rate limits are a known reason. To see why: %s config parse %s" % (answer.rc, kong.executable, dest)
    )
    return False


def _publish(path, private, dest, digest):
    """Gives the export its name. The checksum comes first: an export without one is taken for another's file."""
    beside = os.path.join(private, "sum")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write("%s  %s\n" % (digest, os.path.basename(dest)))
        stream.flush()
        os.fsync(stream.fileno())
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        os.rename(beside, sidecar(dest))
        os.rename(path, dest)
    except OSError as error:
        raise KongError("The export could not be given the name %s: %s." % (dest, error.strerror))
    handle = os.open(os.path.dirname(dest), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
