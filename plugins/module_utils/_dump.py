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

from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _cli,
    _conf,
    _dump_database,
    _entities_cassandra,
    _entities_postgres,
    _migrate,
    _migrations,
    _postgres,
)
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DumpError, KongError

# Milliseconds. A node of Cassandra that answers within it is late and not dead; Kong's default of 5 s is for requests of clients.
PATIENCE = {"KONG_CASSANDRA_TIMEOUT": "60000"}

BLOCK = 1 << 20  # bytes

# A line at the margin that is no list item, with the line end before it.
_MARGIN = re.compile(br"\n(?P<line>[^ \r\n-].*|-[^ \r\n].*)")
_KEY = re.compile(br"^(['\"]?)(?P<key>[A-Za-z_][\w-]*)\1:(?:\s+(?P<value>\S.*?))?\s*$")
_ITEM = re.compile(br"\n(?P<indent> *)-(?:[ \r\n]|\Z)")
_AT_ONCE = re.compile(br"\n-")
_INK = re.compile(br"\S")
_EMPTY = frozenset([b"[]", b"{}", b"~", b"null"])


class _Summary:
    """What an export holds, told from block to block: entities are never kept in memory.

    Kong writes block style: a key at the margin, its entities as list items below it, everything else indented more. So only lines at the
    margin are looked at one by one; items are counted as the pattern that they begin with.
    """

    def __init__(self):
        self.counts, self.scalars = {}, {}
        self.lines = 0
        self._entity = self._indent = self._items = None

    def add(self, lines):
        """lines: bytes, whole ones. :raises DumpError: it is not what Kong writes."""
        text, start = b"\n" + lines, 0
        for found in _MARGIN.finditer(text):
            self._below(text, start, found.start())
            self._at_the_margin(text, found)
            start = found.end()
        self._below(text, start, len(text))
        self.lines += lines.count(b"\n")

    def _at_the_margin(self, text, found):
        line = found.group("line")
        if line.startswith((b"#", b"---", b"...")):
            return
        key = _KEY.match(line)
        if not key:
            self._refuse(text, found.start() + 1)
        name, value = key.group("key").decode(), key.group("value")
        self._entity = name if value is None else None
        self._indent = None
        if value is None or value in _EMPTY:
            self.counts[name] = 0
        else:
            self.scalars[name] = value.decode("utf-8", "replace").strip("'\"")

    def _below(self, text, start, end):
        """What is between two lines at the margin."""
        if self._entity is None:
            self._refuse_any(_INK, text, start, end)
            return
        if self._indent is None:
            first = _ITEM.search(text, start, end)
            if not first:
                return
            self._indent = first.group("indent")
            self._items = re.compile(b"\n" + self._indent + br"-(?=[ \r\n]|\Z)")
        self.counts[self._entity] += sum(1 for dummy in self._items.finditer(text, start, end))
        if self._indent:
            self._refuse_any(_AT_ONCE, text, start, end)

    def _refuse_any(self, stray, text, start, end):
        found = stray.search(text, start, end)
        if found:
            self._refuse(text, found.end())

    def _refuse(self, text, place):
        raise DumpError("Line %d is not what an export of Kong's holds." % (self.lines + text.count(b"\n", 0, place)))


def summary_of(path):
    """What an export holds, and its checksum, in one reading of it.

    :returns: dict: counts (dict entity -> int), format_version (str or None), transform (bool or None: not given), sha256 (hex),
        size (bytes).
    :raises DumpError: it is not what Kong writes, ends in the middle of a line, or cannot be read.
    """
    summary, digest, size, rest = _Summary(), hashlib.sha256(), 0, b""
    try:
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(BLOCK), b""):
                digest.update(block)
                size += len(block)
                whole, newline, after = block.rpartition(b"\n")
                if newline:
                    summary.add(rest + whole + newline)
                    rest = after
                else:
                    rest += block
    except (IOError, OSError) as error:
        raise DumpError("%s cannot be read: %s." % (path, error.strerror))
    if rest:
        raise DumpError("The file ends in the middle of line %d." % (summary.lines + 1))
    transform = summary.scalars.get("_transform")
    return {
        "counts": summary.counts,
        "format_version": summary.scalars.get("_format_version"),
        "transform": None if transform is None else transform.lower() == "true",
        "sha256": digest.hexdigest(),
        "size": size,
    }


def checksum(path):
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
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
        kong = _cli.Kong(run_command, executable, conf=params.get("conf"), prefix=scratch, environ=PATIENCE)
        path = os.path.join(private, "export.yml")
        if params.get("source") == "database":
            _read(settings, path, result["warnings"])
            result.update(summary_of(path))
        else:
            _run(kong, path, settings)
            result.update(_look(path))
            if params["parse"]:
                result["importable"] = _parse(kong, path, dest, result["warnings"])
            if result["format_version"].startswith("1."):
                result.update(_complete(params, settings, path, result))
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
    return summary_of(dest)


def opened(path, mode="r"):
    """An export as text, byte for byte; a new one (mode x) is its owner's alone."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600) if mode == "x" else os.open(path, os.O_RDONLY)
    return open(handle, "w" if mode == "x" else "r", encoding="utf-8", errors="surrogateescape", newline="\n")


def _run(kong, path, settings):
    answer = kong.call("config", "db_export", path, prefix=True)
    said = _migrate.cleaner(settings)(_cli.first_line(answer.err) or _cli.first_line(answer.out))
    if answer.rc != 0:
        advice = _migrations.advice(said)
        lower = said.lower()
        if "no such command" in lower or "unknown command" in lower:
            advice = ". This version has no export: db_export came with Kong 1.3."
        elif (
            "does not exist" in lower and ("relation" in lower or "column" in lower)
            or "local 'row'" in lower
            or "undefined column name" in lower
        ):
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


def _look(path):
    os.chmod(path, 0o600)
    try:
        found = summary_of(path)
    except DumpError as error:
        raise DumpError("kong config db_export ended with 0, but what it wrote is no export. %s" % error.message)
    if not found["format_version"]:
        raise DumpError("kong config db_export ended with 0, but what it wrote has no _format_version.")
    return found


@contextlib.contextmanager
def entities(settings, params=None):
    """What is in the database that Kong's settings (_conf.load) name: _entities.Entities.

    :param params: dict, login options of a module that go before the settings; without, the login is Kong's own.
    """
    driver = _migrate.driver(params or {}, settings)
    kind = _entities_postgres.Rows if driver is _postgres else _entities_cassandra.Rows
    with driver.connect(*driver.target(params or {}, settings)) as database:
        yield kind(database)


def _read(settings, path, warnings):
    """An export that no command makes: from the database itself."""
    with entities(settings) as database:
        lines, unknown = _dump_database.export(database)
        with opened(path, "x") as stream:
            stream.writelines(lines)
    if unknown:
        warnings.append("These tables are not of Kong's own plugins, and were left out: %s." % ", ".join(unknown))


def _complete(params, settings, path, result):
    """Adds to an export of 1.3 ... 2.0 the credentials that it lacks, or warns. Returns what is new about the file."""
    if not params.get("add_basic_auth"):
        result["warnings"].append(
            "An export of a Kong before 2.1 has no basic-auth credentials, and an import hashes the passwords in it once "
            "more unless it says _transform: false. It is no backup: make a dump of the database as well."
        )
        return {}
    with entities(settings) as database, open(path, "a", encoding="utf-8") as stream:
        if database.tables([_dump_database.BASIC_AUTH]):
            stream.writelines(_dump_database.entities(database, _dump_database.BASIC_AUTH))
        # what was added is hashed already
        stream.write("_transform: false\n")
    return summary_of(path)


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
