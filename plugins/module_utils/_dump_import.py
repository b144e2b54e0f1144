# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`kong config db_import` of a repaired export, proved by looking into the database.

What the command does by itself: it exits 0 whatever it lost, and whichever database it wrote to; it writes entity by
entity without a transaction, never deletes, and replaces what has the same id. So the database that the configuration
names is looked into before and after, by a connection of its own: which of the file's ids are there.
"""

import contextlib
import itertools
import os
import re
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _cli,
    _conf,
    _dump,
    _dump_repair,
    _migrate,
    _migrations,
)
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DumpError

# Milliseconds. In the kong command pg_timeout (5 s where nothing is set) is not for one answer but for all that an import asks,
# so one that takes longer ends with "receive_message: failed to get type: timeout".
PG_TIMEOUT = 24 * 3600 * 1000
# Ids in one question to the database.
BATCH = 1000
LOOK_AGAIN = 0.5  # seconds
# Looked at also where the file has none of them: no import takes away what is there.
CORE = ("ca_certificates", "certificates", "consumers", "plugins", "routes", "services", "snis", "targets", "upstreams")

_UUID = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
_VAULT = b"$ANSIBLE_VAULT;"
_PLACE = re.compile(r"^(?:- )?in (?:entry \d+ of )?'[\w.-]+':")
# Words of Kong's that never quote a value.
_PLAIN = re.compile(r"^(?: (?:unknown field|required field missing))?$")


def valid(params, run_command):
    """Whether the command can import the file, once repaired.

    :param params: dict, the module's parameters: src, executable, conf.
    :returns: dict, the module's result.
    :raises KongError: it cannot, or there is no such file.
    """
    with contextlib.ExitStack() as stack:
        job = _Job(params, run_command, stack)
        job.call("parse")
        return dict(job.result, changed=False, importable=True)


def load(params, run_command, check_mode=False):
    """Imports the file, unless all it holds is there.

    :param params: as of valid(), and force.
    :returns: dict, the module's result.
    :raises KongError: it was not imported, or not whole; a repeat goes on from what is there.
    """
    with contextlib.ExitStack() as stack:
        job = _Job(params, run_command, stack)
        database = stack.enter_context(_dump.entities(job.settings))
        database.settle()
        before = compare(database, job.path)
        place = database.place
        job.check_schema(place)
        _refuse_strangers(before, place)
        job.result.update(database=place, before=_rows(before), changed=bool(_lost(before) or params.get("force")))
        if not job.result["changed"]:
            return dict(job.result, after=_rows(before))
        job.call("parse")
        if check_mode:
            return job.result
        try:
            job.call("db_import")
        except DumpError as error:
            error.message += " What had been written by then is still in %s; import the file again when the reason is gone." % place
            error.details.update(before=_rows(before), after=_rows(compare(database, job.path)))
            raise
        after = _read_back(database, job.path)
        if _lost(after):
            raise DumpError(
                "%s config db_import ended with 0, but in %s there is not all that the file holds: %s."
                % (job.kong.executable, place, ", ".join(_lost(after))),
                before=_rows(before), after=_rows(after),
            )  # fmt: skip
        return dict(job.result, after=_rows(after))


def compare(database, path):
    """What an export and a database have in common.

    :param database: _entities.Entities.
    :param path: str, the export.
    :returns: dict entity -> dict: file (entities in it), rows (in the table), shared (rows whose id the file has).
    :raises DumpError: the database has no such table. :raises DatabaseError: it does not answer.
    """
    found = dict((name, {"file": 0, "rows": database.count(name), "shared": 0}) for name in database.tables(CORE))
    with _dump.opened(path) as stream:
        for kind, group in itertools.groupby(_dump_repair.ids(stream), lambda pair: pair[0]):
            if kind == "parameters":  # of 2.3 and newer: has no ids, and what is there (cluster_id) is the cluster's own
                continue
            if kind not in found:
                if not database.tables([kind]):
                    raise DumpError(
                        "There is no table %s in %s, which the file has entities of. Is it the database of a Kong of the new "
                        "version, with its migrations run (kong migrations bootstrap)?" % (kind, database.place)
                    )
                found[kind] = {"file": 0, "rows": database.count(kind), "shared": 0}
            batch = [identity for dummy, identity in itertools.islice(group, BATCH)]
            while batch:
                found[kind]["file"] += len(batch)
                found[kind]["shared"] += _shared(database, kind, batch)
                batch = [identity for dummy, identity in itertools.islice(group, BATCH)]
    return found


def _shared(database, table, identities):
    for identity in identities:
        if not identity or not _UUID.match(identity):
            raise DumpError("One of the %s in the file has no id: it is not an export of Kong's." % table)
    return database.present(table, identities)


def _read_back(database, path):
    """As compare(). On Cassandra a replica may get to know a moment later what the command has written to another."""
    end = time.monotonic() + database.lag
    while True:
        found = compare(database, path)
        if not _lost(found) or time.monotonic() >= end:
            return found
        time.sleep(LOOK_AGAIN)  # between two looks; a replica does not tell when it has caught up


def _rows(found):
    return dict((kind, each["rows"]) for kind, each in found.items() if each["rows"] or each["file"])


def _lost(found):
    """What of the file is not in the database: list of str for a message."""
    return [
        "%d of %d %s" % (each["shared"], each["file"], kind)
        for kind, each in sorted(found.items())
        if each["shared"] < each["file"]
    ]


def _refuse_strangers(found, place):
    others = ["%d %s" % (each["rows"] - each["shared"], kind) for kind, each in sorted(found.items()) if each["rows"] > each["shared"]]
    if others:
        raise DumpError(
            "In %s there is what the file does not hold: %s. An import would leave it beside what it adds. Check 'conf', and "
            "import into a database that kong migrations bootstrap has just made." % (place, ", ".join(others))
        )


class _Job:
    """One export, repaired into a scratch folder, and the command that is to read it."""

    def __init__(self, params, run_command, stack):
        source = os.path.abspath(params["src"])
        _check(source)
        executable = _cli.find_executable(params.get("executable"))
        self.settings = _conf.load(params.get("conf"))[0]
        if _conf.datastore(self.settings)["kind"] == "off":
            raise DumpError("The configuration says database = off: such a node has no database to import into.")
        # the folder for the file is not the prefix: Kong may write to that
        folder = stack.enter_context(_cli.scratch_prefix())
        scratch = stack.enter_context(_cli.scratch_prefix())
        patience = dict(_dump.PATIENCE, KONG_PG_TIMEOUT=str(PG_TIMEOUT))
        self.kong = _cli.Kong(run_command, executable, conf=params.get("conf"), prefix=scratch, environ=patience)
        self.path = os.path.join(folder, "import.yml")
        self.source = source
        repairs = {}
        with _dump.opened(source) as lines:
            older = _dump_repair.Superseded(_dump_repair.targets(lines))
        with _dump.opened(source) as lines, _dump.opened(self.path, "x") as stream:
            stream.writelines(_dump_repair.repair(lines, repairs, older))
        self.result = {"src": source, "counts": _dump.summary_of(self.path)["counts"], "repairs": repairs}

    def check_schema(self, place):
        """The database is of this very version: in the old one all that the file holds is there, too."""
        answer = self.kong.call("migrations", "list", prefix=True)
        if answer.rc != 0:
            said = _migrate.cleaner(self.settings)(_cli.first_line(answer.err))
            raise DumpError(
                "%s migrations list ended with %s%s: %s is not a database that this version can import into. Check 'conf', and "
                "run kong migrations bootstrap on a new one."
                % (self.kong.executable, answer.rc, " (%s)" % said if said else "", place),
                rc=answer.rc,
            )  # fmt: skip

    def call(self, command):
        answer = self.kong.call("config", command, self.path, prefix=True)
        if answer.rc == 0:
            return
        said = _migrate.cleaner(self.settings)(_cli.first_line(answer.err) or _cli.first_line(answer.out))
        raise DumpError(
            "%s config %s of %s ended with %s: %s%s"
            % (self.kong.executable, command, self.source, answer.rc, reason(answer.err, said), _migrations.advice(said)),
            rc=answer.rc, repairs=self.result["repairs"],
        )  # fmt: skip


def reason(text, said):
    """Why Kong refuses a file, without the values that it quotes.

    :param text: str, what it wrote to stderr. :param said: str, its first line, without secrets of the configuration.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [match for match in (_PLACE.match(line) for line in lines) if match]
    places = [
        each.string if _PLAIN.match(each.string[each.end():]) else each.group(0) + " (what is wrong quotes values: not shown)"
        for each in found
    ]
    if places:
        return " ".join(places[:20])
    if said.startswith("Failed "):
        return "%s: what follows can hold secrets, and is not shown" % said.rstrip(":")
    return said or "nothing was said"


def _check(source):
    """The file is there, whole, and what its checksum says where it has one."""
    if not os.path.isfile(source):
        raise DumpError("There is no file %s: correct 'src'." % source)
    known = _dump.recorded(source)
    try:
        with open(source, "rb") as stream:
            sealed = stream.read(len(_VAULT)) == _VAULT
    except (IOError, OSError) as error:
        raise DumpError("%s cannot be read: %s." % (source, error.strerror))
    if sealed:
        raise DumpError("%s is encrypted by ansible-vault: name a decrypted copy of it (ansible-vault decrypt --output) in 'src'." % source)
    try:
        found = _dump.summary_of(source)
    except DumpError as error:
        raise DumpError("%s is no whole export of Kong's. %s Export it again, or copy it from where it is whole." % (source, error.message))
    if known not in (None, found["sha256"]):
        raise DumpError("%s is not the file that %s was made for." % (source, _dump.sidecar(source)))
    if not found["format_version"]:
        raise DumpError("%s has no _format_version: it is no export of Kong's." % source)
