# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A dump of Kong's database (pg_dump, custom format): what is in it, what has come since, and the way back to it.

The way back is one transaction of one psql: it drops what is in Kong's schema, runs what pg_restore makes of the dump, counts
the rows, and commits only if all is there. Whatever goes wrong before leaves the present data as it is. It takes no right but
that of the owner of Kong's tables, and nothing outside of the schema is touched: what hangs on a table of Kong's from elsewhere
ends it.
"""

import contextlib
import fnmatch
import os
import re
import subprocess
import tempfile

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _datastore, _dump, _migrations, _postgres
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import BackupError, DatabaseError

PROGRAMS = ("pg_restore", "psql")
_COPY = re.compile(rb"^COPY (?:\S+\.)?(\S+) \((.*)\) FROM stdin;\n$")
# What pg_restore writes for psql or for a newer server than this one may be, and what the rest does not need.
_LEFT_OUT = (b"\\restrict ", b"\\unrestrict ", b"SET transaction_timeout ")
# So that nothing is dropped that something else stands on.
_DROP_ORDER = ("view", "materialized view", "foreign table", "table", "sequence", "function", "type")
LOCK_TIMEOUT = 10  # seconds until a session that holds a lock on a table of Kong's ends the restore


def programs(run, folder):
    """The paths of PROGRAMS: list of str.

    :param folder: where they are looked for first, or None.
    :raises BackupError: one is not there.
    """
    paths = []
    for name in PROGRAMS:
        path = _datastore.client(run, name, folder)["path"]
        if not path:
            raise BackupError("%s is not installed here: install PostgreSQL's client programs, or set pg_bin_dir." % name)
        paths.append(path)
    return paths


def find(path, pattern):
    """The dump at `path`; where that is a folder, the newest of its files that begin with `pattern` (shell style) and have a checksum.

    :raises BackupError: there is none.
    """
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise BackupError("There is no dump %s." % path)
        return path
    names = fnmatch.filter(os.listdir(path), pattern + "*.pgc")
    names = [os.path.join(path, name) for name in names if os.path.exists(os.path.join(path, name + ".sha256"))]
    if not names:
        raise BackupError("There is no dump %s*.pgc with a checksum (.sha256) in %s." % (pattern, path))
    return max(names, key=os.path.getmtime)


def checksum(path):
    """The SHA-256 of the dump (hex), which must be the one in the file beside it.

    :raises BackupError: it is another, or there is none.
    """
    try:
        with open(path + ".sha256") as stream:
            expected = stream.read().split()[0]
    except (OSError, IndexError):
        raise BackupError("The dump %s has no checksum beside it (%s.sha256), so nothing tells whether it is whole." % (path, path))
    found = _dump.checksum(path)
    if found != expected:
        raise BackupError(
            "The dump %s is not the one that was made: its SHA-256 is %s, and %s.sha256 says %s. Bring the right one back from "
            "where you keep copies." % (path, found, path, expected)
        )
    return found


@contextlib.contextmanager
def script(pg_restore, path, schema, *options):
    """While inside: the SQL that pg_restore makes of the dump, Kong's schema alone, as an iterator of lines (bytes).

    :raises BackupError: at the end of the lines, where pg_restore failed.
    """
    argv = [pg_restore, "--schema", schema, "--no-owner", "--file", "-"] + list(options) + [path]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)

        def lines():
            yield from process.stdout
            if process.wait() != 0:
                errors.seek(0)
                said = errors.read().decode("utf-8", "replace").strip().splitlines() or ["nothing"]
                raise BackupError("pg_restore cannot read %s: %s" % (path, said[0]))

        try:
            yield lines()
        finally:
            process.stdout.close()
            if process.poll() is None:
                process.kill()
                process.wait()


def tables_of(lines):
    """What the data part of a dump holds: {table: {"rows": int, "ids": set of bytes or None}}, and the rows of schema_meta.

    ids: None for a table without a column `id`, and for those that come and go by themselves.
    """
    found = {}  # type: dict[str, dict]
    meta = []
    table = columns = None
    for line in lines:
        if table is None:
            match = _COPY.match(line)
            if match:
                table = match.group(1).decode("utf-8").strip('"')
                columns = [name.strip().strip('"') for name in match.group(2).decode("utf-8").split(",")]
                keyed = "id" in columns and table not in _datastore.VOLATILE
                found[table] = {"rows": 0, "ids": set() if keyed else None}
        elif line == b"\\.\n":
            table = None
        else:
            found[table]["rows"] += 1
            values = line.rstrip(b"\n").split(b"\t")
            if found[table]["ids"] is not None:
                found[table]["ids"].add(values[columns.index("id")])
            if table == "schema_meta":
                meta.append(dict(zip(columns, [value.decode("utf-8") for value in values])))
    return found, meta


def migrations_of(meta):
    """The migration state in rows of schema_meta as COPY writes them; as _migrations.make()."""
    def ids(text):
        return [] if text in ("\\N", "{}") else text.strip("{}").replace('"', "").split(",")

    executed, pending = ({row["subsystem"]: ids(row[name]) for row in meta} for name in ("executed", "pending"))
    return _migrations.make("backup", executed, pending, None)


def read(pg_restore, path, schema):
    """All that the dump holds: (tables as tables_of(), migration state). Reads every row of it.

    :raises BackupError: it cannot be read, or is no dump of a Kong.
    """
    with script(pg_restore, path, schema, "--data-only") as lines:
        tables, meta = tables_of(lines)
    if not meta:
        raise BackupError("The dump %s holds no Kong in schema %s: there is nothing in its table schema_meta." % (path, schema))
    return tables, migrations_of(meta)


def differences(database, tables):
    """How the database differs from the dump, table by table: list of dict with table, backup, now, added, removed.

    added: rows that have come since and a restore loses; removed: rows that it brings back. Told by the id of a row, and where
    there is none by the number of rows. Only tables with a difference, and no row that migrations make.
    """
    result = []
    for name, now in sorted(_datastore.counts(database).items()):
        if name not in tables and not _datastore.configuration({name: now}):
            continue
        backup = tables.get(name, {"rows": 0, "ids": set()})
        row = {"table": name, "backup": backup["rows"], "now": now, "added": None, "removed": None}
        if now is not None:
            ids = _ids(database, name) if backup["ids"] is not None else None
            row["added"] = max(0, now - backup["rows"]) if ids is None else len(ids - backup["ids"])
            row["removed"] = max(0, backup["rows"] - now) if ids is None else len(backup["ids"] - ids)
        if row["added"] != 0 or row["removed"] != 0:
            result.append(row)
    return result


def _ids(database, table):
    """The ids of a table's rows, or None where it has none."""
    place = "%s.%s" % (_postgres.identifier(database.schema()), _postgres.identifier(table))
    has = database.query(
        "select count(*) as n from pg_catalog.pg_attribute where attrelid = %s::regclass and attname = 'id' and not attisdropped", [place]
    )
    if not has[0]["n"]:
        return None
    return set(row["id"].encode("utf-8") for row in database.query("select id::text as id from %s" % place))


def info(params, run):
    """What the module kong_backup_info returns as `backup`. Raises KongError."""
    pg_restore = programs(run, params.get("pg_bin_dir"))[0]
    store, password = _postgres.target(params, _conf.load(params.get("conf"))[0])
    path = find(params["path"], params["pattern"])
    found = {"path": path, "sha256": checksum(path), "made": os.path.getmtime(path)}
    with contextlib.closing(_postgres.connect(store, password)) as database:
        tables, found["migrations"] = read(pg_restore, path, database.schema())
        found["rows"] = dict((name, table["rows"]) for name, table in tables.items())
        now = _migrations.read_database(database)[0]
        found["restored"] = now["fingerprint"] == found["migrations"]["fingerprint"]
        found["differences"] = differences(database, tables)
    return found


def restore(params, run, check_mode=False):
    """Does what the module kong_backup_restore is documented to do; returns its result. Raises KongError."""
    pg_restore, psql = programs(run, params.get("pg_bin_dir"))
    store, password = _postgres.target(params, _conf.load(params.get("conf"))[0])
    path = params["path"]
    digest = checksum(path)
    if params.get("sha256") and params["sha256"] != digest:
        raise BackupError(
            "The SHA-256 of %s is %s, and not %s: it is another dump than the one you mean." % (path, digest, params["sha256"])
        )
    with contextlib.closing(_postgres.connect(store, password)) as database:
        tables, wanted = read(pg_restore, path, database.schema())
        before = _migrations.read_database(database)[0]
        result = {"changed": before["fingerprint"] != wanted["fingerprint"], "sha256": digest, "before": before, "after": before}
        if result["changed"] and not check_mode:
            drops, checks = drop_statements(database), count_statements(database.schema(), tables)
            said = _run(psql, pg_restore, store, password, path, drops, checks)
            result["after"] = _after(store, password, path, said) if said else _migrations.read_database(database)[0]
            if result["after"]["fingerprint"] != wanted["fingerprint"]:
                if said and result["after"]["fingerprint"] == before["fingerprint"]:
                    raise BackupError(
                        "The dump %s was not restored, and the data are as they were before. PostgreSQL said: %s" % (path, said)
                    )
                raise BackupError("The dump %s was restored, but the migration state read back is not the one in it." % path)
    return result


def _after(store, password, path, said):
    """The migration state after psql has failed: the connection may have broken off while it waited for the answer to COMMIT."""
    try:
        with contextlib.closing(_postgres.connect(store, password)) as database:
            return _migrations.read_database(database)[0]
    except DatabaseError as error:
        raise BackupError(
            "Whether the dump %s was restored is not known. PostgreSQL said: %s. It cannot be looked at: %s Run this again once it "
            "answers: it goes on from what is there." % (path, said.rstrip("."), error.message)
        )


def drop_statements(database):
    """What empties Kong's schema, without CASCADE: what stands on a table from elsewhere is not ours to drop."""
    found = database.objects()
    names = dict((kind, [row["identity"] for row in found if row["kind"] == kind]) for kind in _DROP_ORDER)
    return ["DROP %s %s" % (kind.upper(), ", ".join(names[kind])) for kind in _DROP_ORDER if names[kind]]


def count_statements(schema, tables):
    """What ends the transaction unless each table has the rows that it has in the dump."""
    statements = []
    for name, table in sorted(tables.items()):
        place = "%s.%s" % (_postgres.identifier(schema), _postgres.identifier(name))
        problem = _postgres.literal("table %s has not the %d rows of the dump" % (name.replace("%", "%%"), table["rows"]))
        statements.append(
            "DO $$ BEGIN IF (SELECT count(*) FROM %s) <> %d THEN RAISE EXCEPTION %s; END IF; END $$" % (place, table["rows"], problem)
        )
    return statements


def _run(psql, pg_restore, store, password, path, drops, checks):
    """The one transaction. COMMIT is sent only after pg_restore has ended well: a stream that ends early changes nothing.

    :returns: what PostgreSQL said where psql failed, else None.
    """
    argv = _postgres.psql_argv(store, psql, "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse")
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=_postgres.psql_environment(store, password),
            start_new_session=True,
        )
        try:
            with script(pg_restore, path, store["schema"]) as lines:
                for part in (_begin(drops), _fit(lines), _statements(checks + ["COMMIT"])):
                    for line in part:
                        process.stdin.write(line)
            process.stdin.close()
        except BrokenPipeError:
            pass  # psql has ended early, and says why
        except BaseException:
            process.kill()  # without COMMIT, which is the last that is sent
            process.wait()
            raise
        code = process.wait()
        if code == 0:
            return None
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")
    first = next((line for line in said.splitlines() if "ERROR" in line or "FATAL" in line), said.strip() or "nothing")
    return re.sub(r': ".*"', ": " + _conf.MASK, re.sub(r"^psql:\S+ ", "", first))


def _statements(statements):
    return [("%s;\n" % statement).encode("utf-8") for statement in statements]


def _begin(drops):
    return _statements(["BEGIN", "SET LOCAL lock_timeout = '%ds'" % LOCK_TIMEOUT] + drops)


def _fit(lines):
    """The lines without those that only some psql or server understands; rows are let through as they are."""
    rows = False
    for line in lines:
        if rows:
            rows = line != b"\\.\n"
        elif line.startswith(_LEFT_OUT):
            continue
        else:
            rows = bool(_COPY.match(line))
        yield line
