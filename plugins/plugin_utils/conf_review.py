# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of a kong.conf in another version: names that go, names that change, defaults that differ.

Pure functions on what plugin_utils/knowledge says. `review()` is the door.
"""

from __future__ import annotations

import difflib
import functools
import re

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf
from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge

# Beginnings of properties that only one kind of database reads.
ONLY_WITH = {"pg_": "postgres", "cassandra_": "cassandra"}
# Units of nginx's times, in seconds.
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "M": 2592000, "y": 31536000}


# It is asked for each property; knowledge gives everybody a copy of their own.
renames = functools.lru_cache(maxsize=1)(knowledge.conf_renames)


def review(settings: dict, source: str, target: str) -> dict:
    """What the target makes of the settings of a node of the source. Secrets in the result are masked.

    Raises KnowledgeError for a version whose properties are not known, ConfError for what no kong.conf can hold.
    """
    given = _conf.plain(settings)
    given = _conf.mask({key.lower(): value for key, value in given.items() if value is not None})
    found = {name: [] for name in ("removed", "renamed", "deprecated", "newly_read", "unknown")}
    proposed, successors = {}, {}
    for key, value in list(given.items()):
        by = renamed(key, source, target)
        old = knowledge.key_deprecated(target, key)
        reads = [knowledge.key_exists(version, key) for version in (source, target)]
        if by or old is not None:
            by = by or old
            values = {new: carried(new, value, given) for new in by}
            found["renamed" if old is None else "deprecated"].append(
                {
                    "key": key,
                    "by": by,
                    "value": value,
                    "done": None not in values.values(),
                    "do": what_to_do(key, values, given, target),
                }
            )
            if None in values.values() and not set(by) & set(given):
                proposed[key] = value
            for new in by:
                successors.setdefault(new, []).append((rank(key), key, values[new]))
                proposed.setdefault(new, None)  # holds the place in the file
        elif reads[1]:
            proposed[key] = value
        elif reads[0]:
            do = "take it out: Kong %s ignores it without a word; see in the changes what stands in for it" % target
            found["removed"].append({"key": key, "value": value, "do": do})
        else:
            do = "check its spelling: neither Kong %s nor %s reads it, so it is left out" % (source, target)
            found["unknown"].append({"key": key, "do": do})
            if value:
                given[key] = _conf.MASK  # it may be a secret under a name with a slip in it
        if reads == [False, True]:
            do = "look whether it is meant: Kong %s ignores it and %s will not" % (source, target)
            found["newly_read"].append({"key": key, "value": value, "do": do})
    for new, olds in successors.items():
        proposed[new] = given[new] if new in given and not merges(olds) else max(olds)[2]
    proposed = {key: value for key, value in proposed.items() if value is not None}
    found["changed_defaults"] = changed_defaults(given, source, target)
    found["proposed"] = proposed
    found["diff"] = difference(given, proposed, "kong.conf of %s" % source, "kong.conf of %s" % target)
    return found


def shown(settings, *versions):
    """Settings as a report may show them: secrets masked, and what none of the versions knows, which may be a mistyped one."""
    masked = _conf.mask(_conf.plain(settings))
    return {
        k: v if any(knowledge.key_exists(version, k) for version in versions) or not v else _conf.MASK
        for k, v in masked.items()
    }


def difference(before, after, before_name, after_name):
    """The unified difference between two settings, each written as a kong.conf, with every line; empty where they are the same."""
    texts = [_conf.render(settings).splitlines(True) for settings in (before, after)]
    return "".join(difflib.unified_diff(*texts, before_name, after_name, n=max(map(len, texts))))


def renamed(key, source, target):
    """[new names] of a property that the source reads and the target would drop or take for something else, or []."""
    table = renames()
    if key in table["merged"] and knowledge.key_exists(source, key) and not knowledge.key_exists(target, key):
        return [table["merged"][key]]
    if knowledge.key_deprecated(target, key) is not None:
        return []
    for old, new in table["prefixes"].items():
        known = [old in knowledge.conf_prefixes(version) for version in (source, target)]
        if key.startswith(old) and key != old and known == [True, False]:
            return [new + key[len(old) :]]
    return []


def rank(key):
    """Which of several old names for one thing wins: the one that was deprecated last."""
    return tuple(int(part) for part in (knowledge.key_deprecated_since(key) or "0").split("."))


def merges(olds):
    """Whether the old values are part of the new one, instead of standing behind it."""
    return any(key in renames()["merged"] for unused_rank, key, unused_value in olds)


def carried(new, value, given):
    """The value of an old property in the form that the new one wants, or None where there is none."""
    table = renames()
    if new in table["merged"].values():
        return joined(given.get(new, "bundled"), value)
    form = table["forms"].get(new)
    if form == "number":
        value = "0" if value == "NONE" else value
        return value if re.match(r"\d+$", value) else None
    return seconds(value) if form == "seconds" else value


def joined(one, other):
    """Two lists of plugins as one, each name once; `off` would switch off what stands beside it."""
    names = [name.strip() for name in "{0},{1}".format(one, other).split(",")]
    return ", ".join(name for name in dict.fromkeys(names) if name not in ("", "off")) or one


def seconds(value):
    """A time of nginx, such as 1m 30s, as a number of seconds, or None where it is none."""
    parts = re.findall(r"(\d+)([smhdwMy]?)\s*", value)
    if not parts or not re.match(r"(\d+[smhdwMy]?\s*)+$", value):
        return None
    return str(sum(int(number) * UNITS[unit] for number, unit in parts))


def what_to_do(key, values, given, target):
    """One sentence about an old name; values: new name -> value, None where it cannot be carried over."""
    if not values:
        return "take it out: it has no effect in Kong %s" % target
    names = " and ".join(values)
    there = [new for new in values if new in given and new not in renames()["merged"].values()]
    if there == list(values):
        return "take it out: %s is set and wins" % names
    if None in values.values():
        return "set %s by hand: the value has no form that Kong %s would take there" % (names, target)
    if key in renames()["merged"]:
        return "take it out and add its names to %s" % names
    return "call it %s" % names


def changed_defaults(given, source, target):
    """[{key, from, to, do}] of properties that nobody has set and that mean something else in the target."""
    table = renames()
    before, after = knowledge.conf_defaults(source), knowledge.conf_defaults(target)
    database = given.get("database", after["database"])
    said = set()
    for key in given:
        said |= {key, *names_now(key, target)}
    found = {}
    for key, old in before.items():
        for new in names_now(key, target):
            moved = new != key
            value = carried(new, old, {}) if moved else old
            kind = next((kind for prefix, kind in ONLY_WITH.items() if new.startswith(prefix)), database)
            if (
                new not in after
                or (moved and new in before)
                or key in said | set(table["computed"])
                or new in said
                or kind != database
                or _conf.same_value(new, value, after[new])
            ):
                continue
            do = "set it to %s if it has to stay as it was" % (value or "an empty value")
            if new in table["redefined"]:
                do = (
                    "look which clients there are: its values mean something else since Kong %s"
                    % table["redefined"][new]
                )
            found[new] = {"key": new, "from": value, "to": after[new], "do": do}
    return list(found.values())


def names_now(key, target):
    """Names under which the target looks for the value of a property, [] where it looks for it no more."""
    deprecated = knowledge.key_deprecated(target, key)
    if deprecated is not None:
        return deprecated
    other = knowledge.key_alias(key) or renames()["moved"].get(key)
    return [other if other and knowledge.key_exists(target, other) else key]
