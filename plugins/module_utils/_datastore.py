# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the PostgreSQL behind Kong: the server, the role, who is connected, old transactions, tables. Reads only."""

import contextlib
import os
import re
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _host, _migrations, _postgres, _watch
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError

GATHER = ("server", "role", "sessions", "transactions", "tables", "objects", "counts", "migrations", "clients", "answers")
CLIENTS = ("pg_dump", "pg_restore")
ANSWERS = 20  # rows that are kept of a query
SAMPLE_EVERY = 0.1  # seconds between two looks at the sessions

# Tables whose rows come and go by themselves: a count of them tells nothing about what must not be lost.
VOLATILE = frozenset(
    [
        "cluster_events",
        "clustering_data_planes",
        "locks",
        "oauth2_authorization_codes",
        "oauth2_tokens",
        "parameters",
        "ratelimiting_metrics",
        "response_ratelimiting_metrics",
        "schema_meta",
        "schema_migrations",
        "sessions",
        "tags",
        "ttls",
    ]
)


def look(params, run):
    """What the module kong_datastore_info returns as `datastore` of a Kong on PostgreSQL.

    :param params: the module's parameters: gather (list of GATHER), duration (seconds), known, queries, pg_bin_dir, conf and
        the login options.
    :param run: as AnsibleModule.run_command.
    :returns: (dict, list of warnings).
    :raises KongError: the database cannot be reached or read.
    """
    store, password = _postgres.target(params, _conf.load(params.get("conf"))[0])
    with contextlib.closing(_postgres.connect(store, password)) as database:
        found = {
            "kind": "postgres",
            "driver": database.driver,
            "host": store["host"],
            "port": store["port"],
            "database": store["database"],
            "schema": database.schema(),
            "login_role": store["user"],
            "role": store["kong_user"],
        }
        warnings = gather(found, database, dict(COMMON, **SECTIONS), params)
    if "clients" in params["gather"]:
        found["free_bytes"] = _host.free(params["dump_dir"]) if params.get("dump_dir") else None
        found["clients"] = dict((name, client(run, name, params["pg_bin_dir"])) for name in CLIENTS)
    return found, warnings


def gather(found, database, sections, params):
    """Adds to `found` (dict) what the sections tell that are asked for.

    :param sections: dict: one of GATHER -> function of the database and the module's parameters, which returns what is to be added, and
        `warnings` (list of str) where there are any.
    :returns: list of warnings.
    """
    warnings = []
    for name in params["gather"]:
        if name in sections:
            answer = sections[name](database, params)
            warnings += answer.pop("warnings", [])
            found.update(answer)
    return warnings


def _migration_state(database, params):
    migrations, warnings = _migrations.read_database(database, params["known"])
    return {"migrations": migrations, "schema_state": migrations["fingerprint"], "warnings": warnings}


def client(run, name, folder=None):
    """A command of PostgreSQL on this host: path and major version (int), both None where there is none that runs.

    :param folder: where it is looked for before $PATH and the usual folders, or None.
    """
    places = [folder] if folder else []
    places += os.environ.get("PATH", "").split(os.pathsep) + ["/usr/local/bin", "/usr/bin", "/bin"]
    for place in places:
        path = os.path.join(place, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            code, out = run([path, "--version"])[:2]
            number = re.search(r"\) (\d+)", out)
            if code == 0 and number:
                return {"path": path, "major": int(number.group(1))}
    return {"path": None, "major": None}


def server(database):
    """Version, limits, address and identity of the server."""
    row = database.query(
        "select current_setting('server_version') as server_version,"
        " current_setting('server_version_num')::int as server_version_num, pg_is_in_recovery() as in_recovery,"
        " current_setting('max_connections')::int as max_connections,"
        " current_setting('superuser_reserved_connections')::int as superuser_reserved,"
        # came with 16
        " (select setting::int from pg_catalog.pg_settings where name = 'reserved_connections') as reserved_connections,"
        " current_setting('password_encryption') as password_encryption,"
        " host(inet_server_addr()) as address, inet_server_port() as server_port,"
        " host(inet_client_addr()) as client_addr, inet_client_port() as client_port,"
        " extract(epoch from clock_timestamp())::float8 as epoch,"
        " (select sum(numbackends)::int from pg_catalog.pg_stat_database) as connections,"
        " (select oid::text from pg_catalog.pg_database where datname = current_database()) as oid,"
        " pg_database_size(current_database())::float8 as bytes"
    )[0]
    return {
        "server_version": row["server_version"],
        "server_version_num": row["server_version_num"],
        "in_recovery": row["in_recovery"],
        "max_connections": row["max_connections"],
        "reserved": row["superuser_reserved"] + (row["reserved_connections"] or 0),
        "connections": row["connections"],
        "password_encryption": {"on": "md5", "off": "plain"}.get(row["password_encryption"], row["password_encryption"]),
        "address": row["address"],
        "server_port": row["server_port"],
        "direct": _direct(database, row["client_addr"], row["client_port"]),
        "identity": _identity(database, row["oid"]),
        "epoch": row["epoch"],
        "bytes": int(row["bytes"]),
    }


def _direct(database, address, port):
    """Whether the server sees our own socket as it is: False behind a pooler or an address translation.

    None where it cannot be told (no /proc, a UNIX socket).
    """
    if address is None:
        return None
    ends = _watch.sockets([os.getpid()] + database.processes(), int(database.store["port"]))
    return (address, port) in ends if ends else None


def _identity(database, oid):
    """The same text for the same database, by whatever host name or address it is reached; None for PostgreSQL 9.5."""
    if database.version_num < 90600:
        return None
    if not database.query("select has_function_privilege('pg_control_system()', 'execute') as may")[0]["may"]:
        return None
    row = database.query("select system_identifier::text as id from pg_control_system()")[0]
    return "%s/%s/%s" % (row["id"], oid, database.schema())


def role(database, kong_user):
    """What the role that Kong uses is, and what our own may see."""
    row = database.query(
        "select r.rolsuper as superuser, pg_has_role(current_user, 'pg_read_all_stats', 'usage') as read_all_stats"
        " from pg_catalog.pg_roles r where r.rolname = current_user"
        if database.version_num >= 100000
        else "select rolsuper as superuser, false as read_all_stats from pg_catalog.pg_roles where rolname = current_user"
    )[0]
    encryption = None
    if row["superuser"]:
        secret = database.query(
            "select case when rolpassword like 'md5%%' then 'md5' when rolpassword like 'SCRAM-%%' then 'scram'"
            " when rolpassword is null then 'none' else 'plain' end as kind from pg_catalog.pg_authid"
            " where rolname = %s",
            [kong_user],
        )
        encryption = secret[0]["kind"] if secret else None
    schema = database.query(
        "select has_schema_privilege(n.oid, 'create') as may_create, pg_get_userbyid(n.nspowner)::text as owner"
        " from pg_catalog.pg_namespace n where n.nspname = %s",
        [database.schema()],
    )
    create = database.query("select has_database_privilege(current_database(), 'create') as may")[0]["may"]
    limits = database.query(
        "select 'role ' || r.rolname as of, r.rolconnlimit as limit, (select count(*)::int from pg_catalog.pg_stat_activity a"
        " where a.usesysid = r.oid and a.pid <> pg_backend_pid()) as connections"
        " from pg_catalog.pg_roles r where r.rolname = %s and r.rolconnlimit >= 0 and not r.rolsuper"
        " union all select 'database ' || d.datname, d.datconnlimit, (select count(*)::int from pg_catalog.pg_stat_activity a"
        " where a.datid = d.oid and a.pid <> pg_backend_pid())"
        " from pg_catalog.pg_database d where d.datname = current_database() and d.datconnlimit >= 0 order by 1",
        [kong_user],
    )
    return {
        "superuser": row["superuser"],
        "read_all_stats": row["superuser"] or row["read_all_stats"],
        "role_encryption": encryption,
        "connection_limits": limits,
        "database_create": create,
        "schema_owner": schema[0]["owner"] if schema else None,
        "schema_create": schema[0]["may_create"] if schema else None,
    }


_SESSIONS = """
select a.pid, a.usename::text as "user", a.application_name, host(a.client_addr) as client_addr, a.client_port,
  extract(epoch from a.backend_start)::float8 as backend_start, a.state,
  a.query = '<insufficient privilege>' as hidden, extract(epoch from clock_timestamp())::float8 as now,
  %s as backend_type
from pg_catalog.pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid()
"""


def sample(database, duration):
    """The sessions of the database, seen over `duration` seconds; our own is left out.

    :returns: dict: sessions (list of dict), samples (how many looks), sampled (seconds).
    """
    sql = _SESSIONS % ("a.backend_type" if database.version_num >= 100000 else "null::text")
    seen, looks = {}, 0
    begun = time.monotonic()
    while True:
        looks += 1
        for row in database.query(sql):
            if row["backend_type"] not in (None, "client backend", "walsender"):
                continue
            if row["user"] is None:
                continue  # autovacuum, before PostgreSQL said so
            session = seen.setdefault((row["pid"], row["backend_start"]), {"samples": 0, "first_seen": row["now"]})
            now = row.pop("now")
            session.update(row, samples=session["samples"] + 1, last_seen=now, hidden=bool(row["hidden"]))
        left = begun + duration - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(SAMPLE_EVERY, left))  # a sample is taken at intervals; there is nothing to wait for
    return {
        "sessions": [seen[key] for key in sorted(seen, key=lambda key: key[0])],
        "samples": looks,
        "sampled": round(time.monotonic() - begun, 2),
    }


def transactions(database):
    """Open transactions in the database, oldest first, with the locks on Kong's tables that they hold or await."""
    rows = database.query(
        "select a.pid, a.usename::text as usename, a.application_name, host(a.client_addr) as client_addr, a.client_port,"
        " a.state, left(a.query, 200) as query, extract(epoch from clock_timestamp() - a.xact_start)::float8 as xact_age"
        " from pg_catalog.pg_stat_activity a where a.datname = current_database() and a.pid <> pg_backend_pid()"
        " and (a.xact_start is not null or exists (select 1 from pg_catalog.pg_locks l"
        " where l.pid = a.pid and l.locktype = 'relation')) order by a.xact_start"
    )
    locks = database.query(
        "select l.pid, c.relname::text as relation, l.mode, l.granted from pg_catalog.pg_locks l"
        " join pg_catalog.pg_class c on c.oid = l.relation join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where l.locktype = 'relation' and n.nspname::text = %s and c.relkind in ('r', 'p') and l.pid is not null"
        " and l.database = (select oid from pg_catalog.pg_database where datname = current_database()) order by 1, 2, 3",
        [database.schema()],
    )
    found = []
    for row in rows:
        session = _watch.describe(row)
        del session["relations"]
        session["age"] = session.pop("transaction_age")
        session["locks"] = [
            {"relation": lock["relation"], "mode": lock["mode"], "granted": lock["granted"]}
            for lock in locks
            if lock["pid"] == row["pid"]
        ]
        found.append(session)
    return found


def tables(database):
    """Kong's tables with their size on disk (indexes included) and the planner's idea of their rows."""
    return database.query(
        "select c.relname::text as name, pg_total_relation_size(c.oid)as bytes,"
        " greatest(c.reltuples, 0)::bigint as rows_estimate, pg_get_userbyid(c.relowner)::text as owner"
        " from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname::text = %s and c.relkind in ('r', 'p') order by 2 desc, 1",
        [database.schema()],
    )


def counts(database):
    """Rows per table, exact, of every table that holds configuration; None for one that our role may not read."""
    schema = database.schema()
    rows = database.query(
        "select c.relname::text as name, has_table_privilege(c.oid, 'select') as may from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname::text = %s and c.relkind in ('r', 'p')",
        [schema],
    )
    found = dict((row["name"], None) for row in rows if row["name"] not in VOLATILE)
    readable = sorted(row["name"] for row in rows if row["may"] and row["name"] in found)
    if readable:
        sql = " union all ".join(
            "select %s as name, count(*) as n from %s.%s"
            % (_postgres.literal(name), _postgres.identifier(schema), _postgres.identifier(name))
            for name in readable
        )
        found.update((row["name"], row["n"]) for row in database.query(sql))
    return found


def configuration(found):
    """Those of the counts() that tell of somebody's configuration: a table with rows, or one that may not be read (None).

    Migrations themselves make one row, the default workspace.
    """
    own = {"workspaces": 1}
    return dict((name, n) for name, n in found.items() if n is None or n > own.get(name, 0))


def answers(database, queries):
    """What the user's own queries find.

    :param queries: dict: name -> {sql, needs}. The statement returns one text column, `found`; needs: list of "table.column".
    :returns: dict: answers (dict: name -> {found: list of str, at most ANSWERS, more: bool}, or None where a table or column is missing,
        or the query failed), warnings (list) that tell the latter.
    :raises DatabaseError: the connection is lost.
    """
    rows = database.query(
        "select c.relname::text as name, a.attname::text as attribute from pg_catalog.pg_attribute a"
        " join pg_catalog.pg_class c on c.oid = a.attrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname::text = %s and c.relkind in ('r', 'p', 'v') and a.attnum > 0 and not a.attisdropped",
        [database.schema()],
    )
    present = set("%s.%s" % (row["name"], row["attribute"]) for row in rows)
    found, warnings = {}, []
    for name, query in sorted(queries.items()):
        found[name] = None
        if not present.issuperset(query.get("needs") or []):
            continue
        try:
            lines = database.read_only("select found::text from (%s) as q where found is not null limit %d" % (query["sql"], ANSWERS + 1))
        except DatabaseError as error:
            if error.details.get("sqlstate") == "closed":
                raise
            warnings.append("The query %s was not answered: %s" % (name, error.message))
            continue
        found[name] = {"found": [line["found"] for line in lines[:ANSWERS]], "more": len(lines) > ANSWERS}
    return {"answers": found, "warnings": warnings}


# Of gather, what is asked alike of every kind of database, and what is of PostgreSQL.
COMMON = {
    "objects": lambda database, params: {"objects": database.objects()},
    "migrations": _migration_state,
}
SECTIONS = {
    "server": lambda database, params: server(database),
    "role": lambda database, params: role(database, database.store["kong_user"]),
    "transactions": lambda database, params: {"transactions": transactions(database)},
    "tables": lambda database, params: {"tables": tables(database)},
    "counts": lambda database, params: {"counts": counts(database)},
    "answers": lambda database, params: answers(database, params["queries"] or {}),
    "sessions": lambda database, params: sample(database, params["duration"]),
}
