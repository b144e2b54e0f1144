# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is known about Kong's versions: releases, migrations, properties of kong.conf, and which way leads where.

The data is in the YAML files beside this; each is read once in a process, when it is first asked for. Versions are
strings as `kong version` prints them ("2.8.5"), minors are strings too ("2.8"). Everything returned is the caller's
own. Whatever is asked about a version that is not known raises KnowledgeError, whose message can be shown as it is.
"""

from __future__ import annotations

import copy
import difflib
import functools
import os
import re

import yaml

DATASTORES = ("postgres", "cassandra")


class KnowledgeError(ValueError):
    """A version, datastore or way that the collection does not know; the message says what is known.

    what is wrong and, where there is something, what to do about it: the message is both.
    """

    def __init__(self, what, do=None):
        super().__init__("%s: %s" % (what, do) if do else what)
        self.what, self.do = what, do


# --- reading ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def _table(name):
    """The content of one data file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with open(os.path.join(os.path.dirname(__file__), name + ".yml"), encoding="utf-8") as stream:
        return yaml.load(stream, Loader=loader)


def _number(version):
    """ "2.8.5" -> (2, 8, 5); the caller knows that it is a version."""
    return tuple(int(part) for part in version.split("."))


def _known(version):
    """The version as text, if it is a released one."""
    text = str(version).strip()
    releases = _table("versions")["versions"]
    if text in releases:
        return text
    if edition(text) == "enterprise":
        raise KnowledgeError("%s is Kong Enterprise; known is Kong Gateway OSS" % text)
    if not re.match(r"\d+\.\d+\.\d+$", text):
        raise KnowledgeError("%r is no version of Kong, which look like %s" % (text, newest_target()))
    near = [v for v in releases if minor(v) == minor(text)]
    if near:
        raise KnowledgeError("Kong %s is not known; known of %s: %s" % (text, minor(text), ", ".join(near)))
    span = (min(releases, key=_number), max(releases, key=_number))
    raise KnowledgeError("Kong %s is not known; known are %s to %s" % (text, span[0], span[1]))


# --- versions ---------------------------------------------------------------------------------------------------------


def edition(version):
    """ "oss" or "enterprise", by the form of a version: Kong Enterprise has a fourth number or says its name."""
    text = str(version).strip()
    return "enterprise" if any(re.search(p, text) for p in _table("versions")["enterprise"]) else "oss"


def minor(version):
    """ "2.8.5" -> "2.8"."""
    return ".".join(str(version).strip().split(".")[:2])


def versions():
    """version -> {date, openresty, nginx, target} of all known releases, oldest first.

    openresty (what the release is built with) and nginx (list of what a start accepts) are None for releases newer
    than the collection's targets; target says whether an upgrade may lead there.
    """
    table = _table("versions")
    return {
        version: {
            "date": entry["date"],
            "openresty": entry.get("openresty"),
            "nginx": list(entry["nginx"]) if "nginx" in entry else None,
            "target": minor(version) in _table("paths")["targets"] or version in _table("paths")["stops"],
        }
        for version, entry in table["versions"].items()
    }


def legacy_targets():
    """Versions that take over the database of a 0.14.1, whose migrations are in the table schema_migrations."""
    return list(_table("paths")["takes_over_legacy"])


def takes_over_legacy(version):
    """Whether this is one of legacy_targets()."""
    return str(version).strip() in legacy_targets()


def legacy_migrations():
    """part (core, or a plugin) -> the last migration of it that a database must have to be taken over."""
    return dict(_table("paths")["legacy_migrations"])


def newest(of_minor):
    """The newest known release of a minor: "2.8" -> "2.8.5"."""
    found = [v for v in _table("versions")["versions"] if minor(v) == str(of_minor).strip()]
    if not found:
        raise KnowledgeError("no release of Kong %s is known" % of_minor)
    return max(found, key=_number)


def targets():
    """What an upgrade may lead to, for a sentence: minor versions at the end of the way, and versions between."""
    return " or ".join(["%s.x" % line for line in _table("paths")["targets"]] + sorted(_table("paths")["stops"]))


def newest_target():
    """The newest release that an upgrade may lead to."""
    return newest(_table("paths")["targets"][-1])


def compare(left, right):
    """-1, 0 or 1: whether version left is older than, the same as, or newer than right. Both need not be known."""
    a, b = (tuple(int(n) for n in re.findall(r"\d+", str(v))[:3]) for v in (left, right))
    return (a > b) - (a < b)


def same_openresty(left, right):
    """Whether both releases are built with the same OpenResty: only then can one take over from the other by reload."""
    releases = _table("versions")["versions"]
    build, other = (releases[_known(version)].get("openresty") for version in (left, right))
    return build is not None and build == other


def datastore_minimum(version, datastore="postgres"):
    """The oldest server, as text ("9.5"), that a node of this version accepts."""
    table = _table("versions")["datastore_minimum"]
    if datastore not in table:
        raise KnowledgeError("datastore %r is not known; known are %s" % (datastore, ", ".join(DATASTORES)))
    return _latest(table[datastore], _known(version))


def _latest(by_version, version):
    """The value of the newest entry that is not newer than version."""
    fitting = [v for v in by_version if _number(v) <= _number(version)]
    return by_version[max(fitting, key=_number)] if fitting else None


# --- paths ------------------------------------------------------------------------------------------------------------


def _startable(version):
    """The version as text, if a way may begin there: a known release, or any version below the lowest known."""
    text = str(version).strip()
    if re.match(r"\d+\.\d+\.\d+$", text) and _number(text) < min(map(_number, _table("versions")["versions"])):
        return text
    return _known(text)


def _hop(source, target, datastore):
    """The row of paths.yml that leads on from source."""
    rows = [
        row
        for row in _table("paths")["hops"]
        if _number(row["from"]) <= _number(source) < _number(row["below"])
        and row.get("datastore", datastore) == datastore
    ]
    return next((row for row in rows if row["to"] in (target, minor(target))), rows[0])


def _first_stop(source, datastore):
    """The first version on the way from source to the newest target that an upgrade may lead to."""
    last = newest_target()
    ahead = hops(source, last, datastore) if _number(source) < _number(last) else []
    return next((hop["to"] for hop in ahead if hop["to"] in _table("paths")["stops"]), last)


def hops(source, target, datastore="postgres"):
    """The hops that lead from one version to another, [] where they are the same.

    Each is {from, to, strategy, why, docs}; a rolling one has reload besides, whether a reload takes the new version
    over (else the node is quit and started). One that not every strategy takes has allows and measured, lists of those that do by
    the documentation, and by what was seen of real builds. Raises KnowledgeError, with the reason and what to do, for an unknown
    version or datastore, Kong Enterprise, a target that this collection does not upgrade to, and a downgrade.
    """
    table = _table("paths")
    for name, version in (("source", source), ("target", target)):
        if edition(version) == "enterprise":
            raise KnowledgeError(
                "%s %s is Kong Enterprise; this collection upgrades Kong Gateway OSS" % (name, str(version).strip())
            )
    if datastore not in DATASTORES:
        raise KnowledgeError("datastore %r is not known" % (datastore,), "say %s" % " or ".join(DATASTORES))
    target, source = _known(target), _startable(source)
    if source == target:
        return []
    if _number(source) > _number(target):
        raise KnowledgeError(
            "%s is older than %s, which runs already; a downgrade is not possible, migrations have no way back"
            % (target, source),
            "restore a backup instead",
        )
    if target in table["never_a_stop"]:
        raise KnowledgeError(
            "%s must not get traffic: %s" % (target, table["never_a_stop"][target]), "choose %s" % _first_stop(source, datastore)
        )
    on_the_way = any(row["to"] == target and _number(source) < _number(row["below"]) for row in table["hops"])
    if minor(target) not in table["targets"] and not (target in table["stops"] and on_the_way):
        raise KnowledgeError(
            "%s is not a version that this collection upgrades to" % target, "choose %s" % _first_stop(source, datastore)
        )
    found = []
    while source != target:
        row = _hop(source, target, datastore)
        to = target if row["to"] == minor(target) else row["to"]
        hop = {"from": source, "to": to, **{key: row[key] for key in ("strategy", "why", "docs")}}
        if "allows" in row:
            hop.update(allows=list(row["allows"]), measured=list(row.get("measured", [])))
        if hop["strategy"] == "rolling":
            hop["reload"] = same_openresty(source, to)
        found.append(hop)
        source = to
    return found


# --- migrations -------------------------------------------------------------------------------------------------------


def _ids(version):
    """subsystem -> rows of migrations.yml that this version knows, in order."""
    at = _number(version)
    found = {}
    for subsystem, rows in _table("migrations")["subsystems"].items():
        fitting = [r for r in rows if _number(r["since"]) <= at <= _number(r.get("until", version))]
        if fitting:
            found[subsystem] = fitting
    return found


def _covered(version):
    """The version, if migrations.yml says something about it."""
    version = _known(version)
    if not _ids(version) or _table("versions")["versions"][version].get("openresty") is None:
        raise KnowledgeError(
            "the migrations of Kong %s are not known; they are for 0.15.0 to %s"
            % (version, newest_target())
        )
    return version


def migrations_of(version):
    """subsystem -> [ids in order] that a Kong of this version knows, with all bundled plugins on."""
    return {subsystem: [r["id"] for r in rows] for subsystem, rows in _ids(_covered(version)).items()}


def every_migration():
    """subsystem -> [ids] that any version knows or knew."""
    return {subsystem: [r["id"] for r in rows] for subsystem, rows in _table("migrations")["subsystems"].items()}


def _new(source, target):
    """subsystem -> rows of the target that the source does not know."""
    before = {} if takes_over_legacy(target) and not _ids(_known(source)) else migrations_of(source)
    found = {}
    for subsystem, rows in _ids(_covered(target)).items():
        rows = [r for r in rows if r["id"] not in before.get(subsystem, [])]
        if rows:
            found[subsystem] = rows
    return found


def new_in_up(source, target):
    """subsystem -> [ids] that `kong migrations up` of the target runs on a finished database of the source."""
    return {subsystem: [r["id"] for r in rows] for subsystem, rows in _new(source, target).items()}


def _second_phase(row, target, datastore):
    """Whether the row leaves something for finish, in a target of this version."""
    since = row.get("finish", {}).get(datastore)
    return since is not None and (since == "since" or _number(since) <= _number(target))


def _pending(source, target, datastore):
    """subsystem -> rows that are pending after up."""
    if datastore not in DATASTORES:
        raise KnowledgeError("datastore %r is not known; known are %s" % (datastore, ", ".join(DATASTORES)))
    found = {}
    for subsystem, rows in _new(source, target).items():
        rows = [r for r in rows if _second_phase(r, str(target).strip(), datastore)]
        if rows:
            found[subsystem] = rows
    return found


def pending_after_up(source, target, datastore="postgres"):
    """subsystem -> [ids] that wait for finish once up has run; {} where finish has nothing to do."""
    return {subsystem: [r["id"] for r in rows] for subsystem, rows in _pending(source, target, datastore).items()}


def destructive_in_finish(source, target, datastore="postgres"):
    """subsystem -> [ids] whose second phase drops or rewrites data."""
    found = {}
    for subsystem, rows in _pending(source, target, datastore).items():
        ids = [r["id"] for r in rows if datastore in r.get("destructive", [])]
        if ids:
            found[subsystem] = ids
    return found


# --- kong.conf --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def _defaults(of_minor):
    """key -> default of a minor, as the final patch of it has them."""
    keys = {}
    for name, change in _table("conf_keys")["minors"].items():
        if _number(name) > _number(of_minor):
            break
        for key in change.get("removed", []):
            del keys[key]
        keys.update(change["set"])
    return keys


def _described(version):
    """The minor of the version, if conf_keys.yml says something about it."""
    name = minor(_known(version))
    if name == "0.15":
        name = "1.0"  # 0.15.0 is 1.0.0 under another name
    if name not in _table("conf_keys")["minors"]:
        raise KnowledgeError(
            "the properties of Kong %s are not known; they are for 0.14.1 to %s"
            % (version, newest_target())
        )
    return name


def conf_defaults(version):
    """key -> default (text) of every property that kong.conf may hold in this version."""
    return dict(_defaults(_described(version)))


def conf_prefixes(version):
    """Beginnings of names that stand for any directive of nginx in this version: ["nginx_http_", ...]."""
    return list(_latest(_table("conf_keys")["dynamic_prefixes"], _described(version)))


def key_exists(version, key):
    """Whether this version reads the property: by name, deprecated name or free beginning. Case does not matter."""
    key = str(key).lower()
    return (
        key in _defaults(_described(version))
        or key_deprecated(version, key) is not None
        or any(key.startswith(p) and key != p for p in conf_prefixes(version))
    )


def key_meant(version, key):
    """The property of this version that a mistyped name was meant to be; None for one that is like none, or that some version reads."""
    key, table = str(key).lower(), _table("conf_keys")
    if key_exists(version, key) or key in table["deprecated"] or any(key in _defaults(name) for name in table["minors"]):
        return None
    return next(iter(difflib.get_close_matches(key, sorted(_defaults(_described(version))), n=1, cutoff=0.8)), None)


def key_deprecated(version, key):
    """None, or [names to use instead] ([] if there is none) where the property still works but is deprecated.

    None, too, where this version knows none of these names yet: 1.5 deprecates upstream_keepalive, and its successor came with 2.1.
    """
    entry = _table("conf_keys")["deprecated"].get(str(key).lower())
    if not entry or _number(entry["since"]) > _number(_described(version)):
        return None
    by = list(entry.get("by", []))
    return by if not by or any(key_exists(version, new) for new in by) else None


def key_deprecated_since(key):
    """The minor since which a property is deprecated, or None. Of two old names for one thing the later one wins."""
    return _table("conf_keys")["deprecated"].get(str(key).lower(), {}).get("since")


def conf_renames():
    """How old properties go on under new names, see conf_renames.yml."""
    return copy.deepcopy(_table("conf_renames"))


def key_alias(key):
    """The other name of a property that has two, or None: nginx_user -> nginx_main_user."""
    return _table("conf_keys")["aliases"].get(str(key).lower())


def conf_changes(source, target):
    """What differs in kong.conf between two versions: {added: [keys], removed: [keys], changed: {key: [old, new]}}.

    removed are those that the target drops without a word; deprecated ones are not among them.
    """
    before, after = conf_defaults(source), conf_defaults(target)
    return {
        "added": [k for k in after if k not in before],
        "removed": [k for k in before if not key_exists(target, k)],
        "changed": {k: [before[k], after[k]] for k in before if k in after and before[k] != after[k]},
    }


# --- plugins and hazards ----------------------------------------------------------------------------------------------


def bundled_plugins(version):
    """Names of the plugins that `plugins = bundled` loads in this version, as the final patch of its minor has them."""
    found = set()
    for name, change in _table("plugins")["minors"].items():
        if _number(name) > _number(_described(version)):
            break
        found = (found | set(change.get("added", []))) - set(change.get("removed", []))
    return found


def hazard_ids():
    """The ids of all hazards that are known."""
    return list(_table("hazards")["hazards"])


def hazards(source, target):
    """id -> entry of hazards.yml that may concern this way: source < version <= target, no version, or what one release is known for.

    Without those that are seen to in a hop to this target (handled_by).
    """
    return {
        name: entry
        for name, entry in _table("hazards")["hazards"].items()
        if str(target).strip() not in entry.get("handled_by", [])
        and compare(entry.get("from", "0"), source) <= 0
        and ("version" not in entry or compare(source, entry["version"]) < 0 <= compare(target, entry["version"]))
        or any(str(source).strip() in detector.get("running", []) for detector in entry.get("detect", []))
    }


def plugins_told_by_name(source, target):
    """Names of the plugins that have a hazard of their own on this way: set of str."""
    detectors = [detector for entry in hazards(source, target).values() for detector in entry.get("detect", [])]
    return {plugin for detector in detectors for plugin in detector.get("plugin", [])}


# --- templates --------------------------------------------------------------------------------------------------------


def _in_templates(version, kind):
    """file -> names of "directives" or "placeholders" that its template has in this version."""
    at, found = _number(_described(version)), {}
    for name, changes in _table("templates")["minors"].items():
        for both, change in changes.items() if _number(name) <= at else ():
            file, of_kind = both.split()
            if of_kind == kind:
                names = found.setdefault(file, [])
                names += change.get("added", [])
                found[file] = [each for each in names if each not in change.get("removed", [])]
    return found


def template_directives(version):
    """file of kong/templates -> names of the directives that it has: "lua_shared_dict kong", "location /", "listen"."""
    return _in_templates(version, "directives")


def template_conditions():
    """name of a directive -> condition ("database = off") under which the template has it, for those that have one."""
    return dict(_table("templates")["when"])


def template_changes(source, target):
    """file of kong/templates -> {added, removed, placeholders_added, placeholders_removed}, each a list of names.

    Only files and lists that are not empty. A directive whose value alone changed is not told.
    """
    found = {}
    for kind, prefix in (("directives", ""), ("placeholders", "placeholders_")):
        before, after = _in_templates(source, kind), _in_templates(target, kind)
        for file in after:
            for word, one, other in (("added", after, before), ("removed", before, after)):
                names = [each for each in one.get(file, []) if each not in other.get(file, [])]
                if names:
                    found.setdefault(file, {})[prefix + word] = names
    return found


# --- hybrid mode ------------------------------------------------------------------------------------------------------


def skew(control, data):
    """Why a control plane of one version serves no data plane of another, in words; None where it does.

    control, data: versions, as nodes tell them. That a data plane may be too old to tell its own is version_told().
    """
    (major, minor), (major_of_data, minor_of_data) = (_number(version)[:2] for version in (control, data))
    rules = [row["serves"] for row in _table("hybrid")["control_planes"] if compare(row["since"], control) <= 0]
    if not rules:
        return "hybrid mode came with %s" % _table("hybrid")["control_planes"][0]["since"]
    if major != major_of_data:
        return "both have to be of the same major version"
    if rules[-1] == "same_minor" and minor != minor_of_data:
        return "both have to be of the same minor version"
    if rules[-1] == "no_newer_minor" and minor_of_data > minor:
        return "a data plane may not be of a newer minor version"
    return None


def version_told():
    """The first version whose data planes tell it to their control plane; later control planes refuse one that does not."""
    return _table("hybrid")["version_told"]
