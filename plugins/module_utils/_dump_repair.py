# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An export of Kong 1.3 ... 2.8 as Kong 2.8 can import it, entity by entity: one of them is in memory at a time.

Without a YAML parser, which a host need not have: Kong writes block style, so an entity is the lines from one list item to
the next, its fields stand two columns right of the dash, and the fields of its config two more. Whatever a text holds
is indented deeper than the field that it belongs to.
"""

import itertools
import re
import sqlite3

from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DumpError

# Counters, of windows that are over when they are imported. On Cassandra the import of their tables fails.
COUNTERS = frozenset(["ratelimiting_metrics", "response_ratelimiting_metrics"])
# Fields that 2.0 removed, with the only value that meant what 2.8 does.
REMOVED = {"plugins": {"run_on": "first"}}
# Fields of a plugin's config that 2.1 renamed.
RENAMED = dict.fromkeys(("acl", "bot-detection", "ip-restriction"), {"whitelist": "allow", "blacklist": "deny"})

_TOP = re.compile(r"^(['\"]?)(?P<key>[A-Za-z_][\w-]*)\1:(?P<value>.*)$")
_FIELD = re.compile(r"^(?P<indent>[ -]*)(?P<key>[A-Za-z_][\w-]*):(?: +(?P<value>\S.*?))?\s*$")
_ITEM = re.compile(r"^(?P<indent> *)-(?:\s|$)")


def blocks(lines):
    """Cuts an export into pieces.

    :param lines: iterable of str, with their line ends.
    :returns: iterator of (entity, lines): for an entity its kind (str) and its lines; for all else None and one line.
    """
    kind = None  # type: str | None
    indent = None
    block = []
    for line in lines:
        if block and indent == 0 and line[0] == " ":  # nearly every line
            block.append(line)
            continue
        item = _ITEM.match(line) if kind else None
        starts = bool(item) and indent in (None, len(item.group("indent")))
        inside = bool(block) and (line[0] == " " or not line.strip())
        if inside and not starts:
            block.append(line)
            continue
        if block:
            yield kind, block
            block = []
        if starts:
            indent = len(item.group("indent"))
            block = [line]
            continue
        top = _TOP.match(line)
        if top:
            kind, indent = top.group("key"), None
        yield None, [line]
    if block:
        yield kind, block


def field(block, name):
    """The value of a field of an entity (list of lines), str as written but for quotes, or None."""
    column, start = _column(block), name + ":"
    for line in block:
        if line.startswith(start, column):
            found = _FIELD.match(line)
            if found and len(found.group("indent")) == column:
                return (found.group("value") or "").strip("'\"")
    return None


def ids(lines):
    """Iterator of (entity, id or None where it has none) of an export."""
    for kind, block in blocks(lines):
        if kind:
            yield kind, field(block, "id")


def targets(lines):
    """Iterator of what Superseded wants to know of the targets of an export."""
    for kind, block in blocks(lines):
        if kind == "targets":
            yield field(block, "id"), field(block, "upstream"), field(block, "target"), float(field(block, "created_at") or 0)


class Superseded:
    """Of several targets of one name in an upstream, all but the youngest: up to 2.1 each change made a new one, and 2.8 imports the
    last alone. Has the ids, kept on disk: there may be a million targets, in any order.

    :param found: iterable of (id, id of the upstream, target, created_at), in the order in which they are imported.
    """

    def __init__(self, found):
        self._disk = sqlite3.connect("")  # a file without a name, gone when it is closed
        self._disk.execute("create table targets (number integer primary key, id text, upstream text, target text, made real)")
        self._disk.execute("create table older (id text primary key)")
        self._disk.executemany("insert into targets (id, upstream, target, made) values (?, ?, ?, ?)", found)
        self._disk.executemany("insert into older values (?)", self._behind_another())

    def _behind_another(self):
        youngest_first = self._disk.execute("select upstream, target, id from targets order by upstream, target, made desc, number")
        for dummy, group in itertools.groupby(youngest_first, lambda row: row[:2]):
            for dummy, dummy, identity in itertools.islice(group, 1, None):
                yield (identity,)

    def __contains__(self, identity):
        return self._disk.execute("select 1 from older where id = ?", [identity]).fetchone() is not None


def repair(lines, done, older=frozenset()):
    """An export's lines as 2.8 can import them.

    :param lines: iterable of str.
    :param done: dict, filled with what was changed: str -> int, how often.
    :param older: ids of targets, as Superseded has them.
    :returns: iterator of str.
    :raises DumpError: something in it has no counterpart in 2.8.
    """
    skipping = transform = False
    for kind, block in blocks(lines):
        if kind is None:
            top = _TOP.match(block[0])
            if top:
                skipping = top.group("key") in COUNTERS
                transform = transform or top.group("key") == "_transform"
            if not skipping:
                yield block[0]
        elif kind in COUNTERS:
            _count(done, "%s left out" % kind)
        elif kind == "targets" and field(block, "id") in older:
            _count(done, "targets that a younger one has replaced left out")
        elif (field(block, "ttl") or "").isdigit():
            # an import would make it last for ever
            _count(done, "%s with a time to live left out" % kind)
        else:
            yield from _renamed(_without(kind, block, done), kind, done)
    if not transform:
        # what is stored has been hashed: an import would hash it once more
        _count(done, "_transform: false")
        yield "_transform: false\n"


def _count(done, what):
    done[what] = done.get(what, 0) + 1


def _column(block):
    """The column at which the fields of an entity begin."""
    return block[0].index("-") + 2


def _without(kind, block, done):
    for name, harmless in REMOVED.get(kind, {}).items():
        value = field(block, name)
        if value is None:
            continue
        if value not in (harmless, "~", "null"):
            raise DumpError(
                "%s %s has %s: %s, which Kong 2.0 and newer cannot do. Change it with the old version and export again."
                % (kind, field(block, "id"), name, value)
            )
        block = _drop(block, name)
        _count(done, "%s: %s removed" % (kind, name))
    return block


def _drop(block, name):
    """Without the one line of a field; the dash goes to the field behind it."""
    column = _column(block)
    for index, line in enumerate(block):
        found = _FIELD.match(line)
        if found and found.group("key") == name and len(found.group("indent")) == column:
            rest = block[:index] + block[index + 1:]
            if index == 0:
                rest[0] = line[:column] + rest[0][column:]
            return rest
    return block


def _renamed(block, kind, done):
    names = RENAMED.get(field(block, "name"), {}) if kind == "plugins" else {}
    if not names:
        return block
    pieces = _pieces(block)
    values = dict((key, lines) for key, lines in pieces if key)
    for old, new in names.items():
        if old in values and new in values:
            # An import of Kong 2.8 lets the old name win, as `kong migrations finish` does.
            loser = new if _says_something(values[old]) else old
            pieces = [piece for piece in pieces if piece[0] != loser]
            _count(done, "%s: of %s and %s, the one that counts" % (field(block, "name"), old, new))
    answer = []
    for key, lines in pieces:
        if key in names:
            _count(done, "%s: %s is %s" % (field(block, "name"), key, names[key]))
            lines = [lines[0].replace(key, names[key], 1)] + lines[1:]
        answer.extend(lines)
    return answer


def _pieces(block):
    """An entity's lines in pieces: (name, lines) of each field of its config, (None, lines) for what is before and behind."""
    column, inside = _column(block), False
    pieces = [(None, [])]  # type: list[tuple[str | None, list]]
    for line in block:
        found = _FIELD.match(line)
        depth = len(found.group("indent")) if found else None
        if depth == column:
            inside = found.group("key") == "config"
            pieces.append((None, []))
        elif depth == column + 2 and inside:
            pieces.append((found.group("key"), []))
        pieces[-1][1].append(line)
    return pieces


def _says_something(lines):
    """Whether a field has a value: one behind its name, or in the lines below."""
    return len(lines) > 1 or (_FIELD.match(lines[0]).group("value") or "~") not in ("~", "null")
