# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migration state: what `kong migrations list` or the table schema_meta say, as one structure. Pure functions.

Behaviour of the command, of every version from 0.14 to 2.8: exit code 0 current, 2 older than 0.14 (1.2 ... 1.5), 3 to
be bootstrapped, 4 pending (hides 5), 5 new. The words of 1.0 and 1.1 are lower case and other sentences. The code
alone is not believed: it must agree with the sections that were printed.

An id is known by its subsystem and its name: {"core": ["000_base", ...], "acl": [...]}.
"""

import hashlib
import json
import re

from ansible_collections.bluegreen.kong.plugins.module_utils._cli import clean, first_line
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import CommandError, DatabaseError

UP_TO_DATE = "up_to_date"
PENDING = "pending"
NEW = "new"
PENDING_AND_NEW = "pending_and_new"
NEEDS_BOOTSTRAP = "needs_bootstrap"
LEGACY = "legacy"
UNKNOWN = "unknown"

_SECTIONS = (
    ("executed", re.compile(r"^executed migrations(?P<old> for .*)?:$", re.I)),
    ("pending", re.compile(r"^(?:database has )?pending migrations:$", re.I)),
    ("new", re.compile(r"^(?:database has )?new migrations available:$", re.I)),
    # printed on stderr by 1.0 and 1.1, and never run: see table schema_meta, "missing"
    ("missing", re.compile(r"^database is missing some migrations:$", re.I)),
)
_LINE = re.compile(r"^\s*(?P<subsystem>[\w.-]+): (?P<names>[\w.-]+(?:, [\w.-]+)*)$")
_NEVER_RUN = re.compile(r"^no migrations have been run yet for ", re.I)

# Printed with exit code 0 by a command that did nothing because somebody else held the lock.
_ABORTED = re.compile(r"aborted: another node is performing database changes", re.I)
# The whole error of an `up` that waited for the lock for --lock-timeout seconds.
_LOCK_TIMEOUT = re.compile(r"^(?:\[\w+ error\] )?timeout$", re.I)


# Words in an error message, and what to do about it; the first that fits counts.
_ADVICE = (
    (("password authentication failed", "authentication exchange"), "Check pg_user and pg_password."),
    (("how to auth: 10",), "The role's password is kept as SCRAM, which Kong can use only after 2.1.4."),
    (("connection refused", "no route to host"), "Check pg_host and pg_port, and that PostgreSQL runs."),
    (("host or service not", "failed to resolve", "name does not resolve"), "Check pg_host."),
    (('database "',), "Check pg_database."),
    (("must be owner",), "The role in pg_user must own Kong's tables."),
    (("permission denied",), "The role in pg_user may not do this: check its rights on the database and schema."),
    (("lock timeout", "receive_message", "timeout"), "The database did not answer in time."),
    (("could not find config", "no file at"), "Check 'conf'."),
)
_CASSANDRA_ADVICE = (
    (("credentials", "authentication required"), "Check cassandra_username and cassandra_password."),
    (("could not resolve",), "Check cassandra_contact_points."),
    (("does not exist",), "Check cassandra_keyspace."),
    (("connection refused", "no route to host"), "Check cassandra_contact_points and cassandra_port, and that Cassandra runs."),
    (("unauthorized",), "The role in cassandra_username may not do this: check its permissions on the keyspace."),
    (("certificate", "handshake"), "Check cassandra_ssl, cassandra_ssl_verify and lua_ssl_trusted_certificate."),
    (("unavailable",), "Too few replicas are up for the consistency that is asked for: look at nodetool status."),
    (("consensus",), "The nodes have different versions of the schema: look at nodetool describecluster."),
    (("timeout", "closed"), "The database did not answer in time."),
)


def make(source, executed, pending, new, needs_bootstrap=False, legacy=False, lock=None, lock_known=False):
    """The structure that modules return as `migrations`.

    :param source: "cli" or "database".
    :param executed: dict subsystem -> list of names; pending likewise; new too, or None when it cannot be known.
    :param needs_bootstrap: bool, there is no table schema_meta (also true of a 0.14 database).
    :param legacy: True, False, or None when it cannot be told (2.x takes a 0.14 database for an empty one).
    :param lock: None or dict owner (str), expires_in (seconds, float).
    """
    executed, pending = _tidy(executed), _tidy(pending)
    new = None if new is None else _tidy(new)
    if legacy:
        state = LEGACY
    elif needs_bootstrap:
        state = NEEDS_BOOTSTRAP
    elif pending and new:
        state = PENDING_AND_NEW
    elif pending:
        state = PENDING
    elif new:
        state = NEW
    elif new is None:
        state = UNKNOWN
    else:
        state = UP_TO_DATE
    return {
        "source": source,
        "state": state,
        "executed": executed,
        "pending": pending,
        "new": new,
        "needs_bootstrap": needs_bootstrap,
        "legacy": legacy,
        "lock": lock,
        "lock_known": lock_known,
        "fingerprint": fingerprint(executed, pending),
    }


def _tidy(ids):
    """Without empty subsystems and without names that stand twice (a forced run records them again)."""
    tidy = {}
    for subsystem in sorted(ids or {}, key=lambda name: (name != "core", name)):
        names = []
        for name in ids[subsystem] or ():
            if name not in names:
                names.append(name)
        if names:
            tidy[subsystem] = names
    return tidy


def fingerprint(executed, pending):
    """sha256 (hex) of what is executed and what is pending, whatever the order in which it was recorded."""
    text = json.dumps(
        [
            sorted([subsystem, name] for subsystem in ids for name in ids[subsystem])
            for ids in (executed or {}, pending or {})
        ],
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def parse_list(result, command="kong migrations list"):
    """Reads the answer of `kong migrations list`.

    :param result: Result (rc, out, err).
    :param command: str, how messages name the command.
    :returns: dict as from make(), source cli.
    :raises CommandError: the command failed, or its exit code and its words contradict each other.
    """
    sections, old = _sections(result.out)
    # 1.0 and 1.1 write one of the sections, with its ids, to stderr
    executed, pending, new = (sections.get(name) for name in ("executed", "pending", "new"))
    agrees = {
        0: bool((executed or old) and not pending and not new),
        2: not executed and not pending and not new,
        3: not executed and not pending and not new,
        4: bool(pending),
        5: bool(new and not pending),
    }
    if result.rc not in agrees:
        said = first_line(result.err) or first_line(result.out) or "nothing"
        raise CommandError(
            "%s ended with %s: %s%s" % (command, result.rc, said, advice(said)),
            rc=result.rc,
            stdout=clean(result.out),
            stderr=clean(result.err),
        )
    if not agrees[result.rc]:
        raise CommandError(
            "%s ended with %d, but printed what does not go with it (executed: %s, pending: %s, new: %s). Its answer "
            "is not believed." % ((command, result.rc) + tuple(_count(ids) for ids in (executed, pending, new))),
            rc=result.rc,
            stdout=clean(result.out),
            stderr=clean(result.err),
        )
    if old:
        return make("cli", executed, {}, {}, needs_bootstrap=True, legacy=bool(executed))
    if result.rc == 2:
        return make("cli", {}, {}, {}, needs_bootstrap=True, legacy=True)
    if result.rc == 3:
        return make("cli", {}, {}, {}, needs_bootstrap=True, legacy=None)
    # 1.2 ... 1.5 on a 0.14 database: nothing executed, the whole way new
    legacy = bool(not executed and not pending and "001_14_to_15" in (new or {}).get("core", ()))
    return make("cli", executed, pending, new or {}, needs_bootstrap=legacy, legacy=legacy)


def _sections(text):
    """({section: {subsystem: [names]}}, whether the words are those of 0.14)."""
    found, current, old = {}, None, False
    for line in clean(text).splitlines():
        line = line.rstrip()
        heading = None
        for name, pattern in _SECTIONS:
            match = pattern.match(line.strip())
            if match:
                heading = name
                old = old or bool(name == "executed" and match.group("old"))
        if heading:
            current = found.setdefault(heading, {})
            continue
        if _NEVER_RUN.match(line):
            old = True
        match = _LINE.match(line)
        if current is not None and match:
            current.setdefault(match.group("subsystem"), []).extend(match.group("names").split(", "))
        else:
            current = None
    return found, old


def _count(ids):
    return sum(len(names) for names in (ids or {}).values())


def advice(said):
    """What to do about an error message of Kong's about its database; a sentence with a leading blank, or nothing."""
    lower = said.lower()
    for words, text in _CASSANDRA_ADVICE if "cassandra" in lower else _ADVICE:
        if any(word in lower for word in words):
            return (("" if said.endswith(".") else ".") + " " + text).rstrip()
    return "" if said.endswith(".") else "."


def lost_race(result):
    """Whether `up` or `finish` says that it did nothing because of another holder of the lock.

    Only a reason to look again and to try again; what was done is read back from the database.
    """
    return bool(_ABORTED.search(clean(result.out)) or _LOCK_TIMEOUT.match(first_line(result.err)))


def lock_from_row(row):
    """What to return for the row of the table `locks`, or None; a row whose time has passed holds nobody up."""
    if not row or row["expires_in"] is None or row["expires_in"] <= 0:
        return None
    return {"owner": row["owner"], "expires_in": round(row["expires_in"], 1)}


def read_database(database, known=None):
    """The state as the tables have it, through Database; no kong binary is needed.

    :param database: Database.
    :param known: dict subsystem -> list of the ids that the target version has, to tell which are new; None: not told.
    :returns: (dict as from make(), list of warnings).
    :raises DatabaseError: also when the tables are there but may not be read.
    """
    tables = database.tables(["schema_meta", "schema_migrations", "locks"])
    warnings = []
    if "schema_meta" not in tables:
        legacy = "schema_migrations" in tables
        executed = {}
        if legacy:
            executed = dict((row["id"], row["names"]) for row in database.schema_migrations())
        return make("database", executed, {}, known, True, legacy, None, True), warnings
    rows = database.schema_meta()
    executed = dict((row["subsystem"], row["executed"] or []) for row in rows)
    pending = dict((row["subsystem"], row["pending"] or []) for row in rows)
    new = None
    if known is not None:
        new = {}
        for subsystem, names in known.items():
            have = list(executed.get(subsystem, ())) + list(pending.get(subsystem, ()))
            new[subsystem] = [name for name in names if name not in have]
    lock = read_lock(database) if "locks" in tables else None
    if "schema_migrations" in tables and not any(executed.values()) and not any(pending.values()):
        # migrate-apis of 1.5 has made the tables of 1.x; nothing of the schema has changed yet
        return make("database", executed, pending, new, True, True, lock, True), warnings
    if "schema_migrations" in tables:
        warnings.append(
            "The table schema_migrations of 0.14 is still there: the finish of 1.x has not been run. Run it with the "
            "1.x binary, 2.x does not know these ids any more."
        )
    return make("database", executed, pending, new, False, False, lock, True), warnings


def read_lock(database):
    """Who holds the migration lock, or None; see lock_from_row(). The table `locks` must be there.

    :raises DatabaseError: it is not, or may not be read.
    """
    return lock_from_row(database.lock_row())


def lock_or_none(database):
    """read_lock(), where the table may not be there yet."""
    try:
        return read_lock(database)
    except DatabaseError as error:
        if error.details.get("missing"):
            return None
        raise


def missing(wanted, state):
    """Those of the ids in `wanted` (dict) that are neither executed nor pending in `state`."""
    return subtract(wanted, merge(state["executed"], state["pending"]))


def merge(one, other):
    """The ids that are in either."""
    both = dict((subsystem, list(names)) for subsystem, names in one.items())
    for subsystem, names in other.items():
        both.setdefault(subsystem, [])
        both[subsystem] += [name for name in names if name not in both[subsystem]]
    return both


def subtract(ids, other):
    """The ids in `ids` that are not in `other`."""
    left = {}
    for subsystem, names in ids.items():
        have = other.get(subsystem, ())
        rest = [name for name in names if name not in have]
        if rest:
            left[subsystem] = rest
    return left


def moved(before, after):
    """The ids that are executed or pending in `after` and were not so in `before`: what ran."""
    ran = merge(subtract(after["executed"], before["executed"]), subtract(after["pending"], before["pending"]))
    # names begin with their number
    return _tidy(dict((subsystem, sorted(names)) for subsystem, names in ran.items()))


def spell(ids):
    """Ids for a message: core 009_200_to_210, 010_210_to_211; acl 003_200_to_210."""
    return "; ".join("%s %s" % (subsystem, ", ".join(ids[subsystem])) for subsystem in _tidy(ids)) or "none"


def render(state):
    """The state as text with one id per line, for a diff."""
    lines = ["state: %s" % state["state"]]
    for section in ("executed", "pending", "new"):
        for subsystem, names in (state[section] or {}).items():
            lines += ["%s %s/%s" % (section, subsystem, name) for name in names]
    return "\n".join(lines) + "\n"
