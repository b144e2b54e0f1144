# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection to Kong's PostgreSQL through psycopg2, the psql command or psycopg 3, whichever is there.

All three give the same: Database.query(sql, params) -> list of dict. So that their answers do not differ, statements
here select only text, integers, float8, booleans and arrays or json of these; times are epoch seconds as float8.
"""

import abc
import errno
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _database
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError

# Seen in pg_stat_activity; also how a module knows its own sessions.
APPLICATION = "bluegreen.kong"
CONNECT_TIMEOUT = 10  # seconds
STATEMENT_TIMEOUT = 30  # seconds
# The cheapest first. CPU seconds of one module run for import or start, login and a query, as measured here: psycopg2
# 0.035, psql 0.01 (0.035 through Debian's wrapper), psycopg 3 0.24 ... 0.32.
DRIVERS = ("psycopg2", "psql", "psycopg")
# Variables that psql would heed although they were not meant for it.
FOREIGN = re.compile(r"^PG(?!PASSFILE$|SSL|KRB|GSS|SYSCONFDIR$|SERVICEFILE$)")


def options(required=()):
    """The login options for an argument_spec, as in the fragment bluegreen.kong.postgres."""
    return {
        "login_host": {"type": "str"},
        "login_port": {"type": "int"},
        "login_user": {"type": "str"},
        "login_password": {"type": "str", "no_log": True},
        "login_db": {"type": "str"},
        "schema": {"type": "str"},
        "ssl_mode": {
            "type": "str",
            "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        },
        "ca_cert": {"type": "path"},
    }


def target(params, settings):
    """Where to log in, from the module's login options and, for what they leave open, Kong's settings.

    :param params: dict with the options of options(); missing and None count as not given.
    :param settings: dict of Kong's explicit settings (_conf.load).
    :returns: dict: kind (always postgres), host, port, database, user, kong_user (the role that Kong itself uses),
        schema (None: the search path decides), sslmode, sslrootcert (None: libpq's default); and the password (str or None).
    :raises DatabaseError: the settings name another kind of datastore.
    :raises ConfError: the settings cannot be understood.
    """
    store = _conf.datastore(settings)
    if store["kind"] != "postgres" and not params.get("login_host"):
        raise DatabaseError(
            "Kong's configuration says database = %s, but this can look at PostgreSQL only. Give login_host for the "
            "PostgreSQL you mean, or use source: cli." % store["kind"]
        )
    own = store["kind"] == "postgres"
    user = params.get("login_user") or (store["user"] if own else "kong")
    password = params.get("login_password")
    if password is None and own and user == store["user"]:
        password = settings.get("pg_password") or None
    mode = params.get("ssl_mode")
    if not mode:
        mode = "disable"
        if own and store.get("ssl"):
            # Kong checks the chain and not the host name, which libpq calls verify-ca.
            mode = "verify-ca" if store.get("ssl_verify") else "require"
    ca_cert = params.get("ca_cert")
    if not ca_cert and mode.startswith("verify"):
        ca_cert = _conf.trusted(settings)
    return (
        {
            "kind": "postgres",
            "host": params.get("login_host") or store["host"],
            "port": params.get("login_port") or (store["port"] if own else 5432),
            "database": params.get("login_db") or (store["database"] if own else "kong"),
            "user": user,
            "kong_user": store["user"] if own else user,
            "schema": params.get("schema") or (settings.get("pg_schema") if own else None) or None,
            "sslmode": mode,
            "sslrootcert": ca_cert or None,
        },
        password,
    )


def where(store):
    """How messages name a database: database at host:port as user."""
    return "%s at %s:%s as %s" % (store["database"], store["host"], store["port"], store["user"])


def connect(store, password, driver=None, statement_timeout=STATEMENT_TIMEOUT, connect_timeout=CONNECT_TIMEOUT):
    """Opens a connection in which each statement is its own transaction.

    :param store: dict as from target(): host, port, database, user, sslmode, sslrootcert.
    :param password: str or None.
    :param driver: one of DRIVERS to use that one only.
    :param statement_timeout: seconds, for every statement, in the server.
    :param connect_timeout: seconds.
    :returns: Database.
    :raises DatabaseError: no driver, no connection, login refused. The message never holds the password.
    """
    known = {"psycopg": _Psycopg, "psycopg2": _Psycopg2, "psql": _Psql}
    for name in [driver] if driver else DRIVERS:
        kind = known[name]
        if kind.available():
            database = kind(store, password, connect_timeout)
            break
    else:
        raise DatabaseError(
            "There is no way to talk to PostgreSQL from here: neither psycopg2, the psql command nor psycopg (3) was "
            "found. Install one of them (packages python3-psycopg2 or postgresql-client)."
        )
    try:
        database.setup(statement_timeout)
    except Exception:
        database.close()
        raise
    return database


def explain(store, message, password=None):
    """A DatabaseError for a connection that could not be made: what the server said, and what to do about it."""
    lines = [line.strip() for line in str(message).replace("\r", "").splitlines() if line.strip()]
    text = next((line for line in lines if "FATAL" in line or "error" in line.lower()), lines[0] if lines else "")
    text = re.sub(r"^psql: (?:error: )?", "", text)
    text = re.sub(r"^connection failed: ", "", text)
    if password and password not in (store["user"], store["database"]):
        text = text.replace(password, _conf.MASK)
    lower = str(message).lower()
    if "password authentication failed" in lower or "no password supplied" in lower:
        hint = (
            "Check the user and the password (pg_user and pg_password, which the role takes out of kong_upgrade_secret_settings or "
            "kong.conf; of a module login_user and login_password)."
        )
    elif "no pg_hba.conf entry" in lower:
        hint = "The server's pg_hba.conf does not let this host, user or encryption in."
    elif "does not exist" in lower:
        hint = "Check the names of the database and the user (pg_database and pg_user, or login_db and login_user)."
    elif "certificate" in lower or "ssl" in lower:
        hint = "Check ssl_mode and ca_cert (pg_ssl, pg_ssl_verify and lua_ssl_trusted_certificate)."
    elif "too many" in lower or "remaining connection slots" in lower:
        hint = "All of the server's connections are in use."
    else:
        hint = "Check that PostgreSQL runs there and can be reached from this host."
    return DatabaseError(
        "Cannot log in to the PostgreSQL database %s: %s %s" % (where(store), _stop(text or "no reason given"), hint),
        database=where(store),
    )


def _stop(text):
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."


def psql_environment(store, password, connect_timeout=CONNECT_TIMEOUT):
    """The environment of a psql for this database; the password is in it, and so never among the arguments."""
    environ = dict((key, value) for key, value in os.environ.items() if not FOREIGN.match(key))
    environ.update(
        PGCONNECT_TIMEOUT=str(max(2, int(connect_timeout))),
        PGSSLMODE=store.get("sslmode") or "prefer",
        PGAPPNAME=APPLICATION,
        PGCLIENTENCODING="UTF8",
        LC_ALL="C",
        PSQLRC=os.devnull,
    )
    if password is not None:
        environ["PGPASSWORD"] = password
    if store.get("sslrootcert"):
        environ["PGSSLROOTCERT"] = store["sslrootcert"]
    return environ


def psql_argv(store, psql, *options):
    """The command line of a psql (path) that reads statements from its input."""
    login = ["-h", str(store["host"]), "-p", str(store["port"]), "-U", store["user"], "-d", _conninfo(store["database"])]
    return [psql, "-X", "-q", "-w"] + list(options) + login


def literal(value):
    """`value` as an SQL literal: None, bool, int, float, str, and lists of str. For psql, which has no parameters.

    Right while standard_conforming_strings is on, which setup() sees to.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, int) for item in value) and value:
            return "array[%s]" % ", ".join(repr(item) for item in value)
        return "array[%s]::text[]" % ", ".join(literal(str(item)) for item in value)
    text = str(value)
    if "\0" in text:
        raise ValueError("a text with a NUL character is no SQL literal")
    return "'%s'" % text.replace("'", "''")


def identifier(name):
    """A name as a quoted SQL identifier."""
    if "\0" in name:
        raise ValueError("a name with a NUL character is no SQL identifier")
    return '"%s"' % name.replace('"', '""')


_OBJECTS = """
with s as (select oid, nspname as schema from pg_catalog.pg_namespace where nspname::text = %s)
select o.kind, o.name, o.identity from (
  select 'pg_class'::regclass as catalog, c.oid, c.relname::text as name, format('%%I.%%I', s.schema, c.relname) as identity,
    case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' when 'f' then 'foreign table'
    else 'table' end as kind
  from pg_catalog.pg_class c join s on c.relnamespace = s.oid where c.relkind in ('r', 'p', 'f', 'v', 'm', 'S')
  union all
  select 'pg_proc'::regclass, p.oid, p.proname::text,
    format('%%I.%%I(%%s)', s.schema, p.proname, pg_get_function_identity_arguments(p.oid)), 'function'
  from pg_catalog.pg_proc p join s on p.pronamespace = s.oid
  union all
  select 'pg_type'::regclass, t.oid, t.typname::text, format('%%I.%%I', s.schema, t.typname), 'type'
  from pg_catalog.pg_type t join s on t.typnamespace = s.oid
  where t.typtype in ('d', 'e', 'r') or t.typtype = 'c' and (select relkind from pg_catalog.pg_class where oid = t.typrelid) = 'c'
) o where not exists (
  select 1 from pg_catalog.pg_depend d where d.classid = o.catalog and d.objid = o.oid and d.deptype in ('e', 'a', 'i')
  and (d.deptype <> 'a' or o.kind = 'sequence')
) order by 1, 2
"""


class Database(_database.Database):
    """A connection whose `driver` is psycopg, psycopg2 or psql."""

    def __init__(self, store, password):
        super(Database, self).__init__(store, password)
        self.version_num = 0

    @classmethod
    @abc.abstractmethod
    def available(cls):
        """Whether this driver can be used on this host."""

    def setup(self, statement_timeout):
        """Sets what every connection needs and reads the server's version."""
        self.query(
            "select set_config('statement_timeout', %s, false) as a,"
            " set_config('standard_conforming_strings', 'on', false) as b",
            [str(int(statement_timeout * 1000))],
        )
        self.version_num = int(self.query("select current_setting('server_version_num') as v")[0]["v"])

    @abc.abstractmethod
    def query(self, sql, params=None):
        """Runs one statement.

        :param sql: str; with params, %s stands for each of them and %% for a percent sign.
        :param params: list or None.
        :returns: list of dict, one per row.
        :raises DatabaseError: the server's message; `sqlstate` in details when known.
        """

    @abc.abstractmethod
    def write(self, sql, params):
        """Runs one statement that writes, and selects one number (int), which is returned. sql, params and errors as for query()."""

    @abc.abstractmethod
    def read_only(self, sql):
        """Runs one statement of somebody else's in a transaction of its own that cannot write; it leaves nothing behind in the session,
        which a pooler may hand to others. Unqualified names are looked for in schema().

        :returns: as query(). :raises DatabaseError: as query().
        """

    def processes(self):
        """Pids of the processes, beside this one, that hold the connection's socket."""
        return []

    def place(self):
        return "schema %s of database %s" % (self.schema(), where(self.store))

    def tables(self, names=None):
        """As the base says; those of extensions are left out."""
        condition = "" if names is None else " and c.relname::text = any(%s)"
        rows = self.query(
            "select c.relname::text as name from pg_catalog.pg_class c"
            " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname::text = %s and c.relkind in ('r', 'p', 'f')" + condition + " and not exists"
            " (select 1 from pg_catalog.pg_depend d where d.objid = c.oid and d.deptype = 'e') order by 1",
            [self.schema()] + ([] if names is None else [list(names)]),
        )
        return [row["name"] for row in rows]

    def objects(self):
        return self.query(_OBJECTS, [self.schema()])

    def schema_meta(self):
        return self.query(
            "select subsystem, executed, pending from %s.schema_meta where key = 'schema_meta'" % identifier(self.schema())
        )

    def schema_migrations(self):
        return self.query(
            "select id::text as id, migrations::text[] as names from %s.schema_migrations" % identifier(self.schema())
        )

    def lock_row(self):
        rows = self.query(
            "select owner, extract(epoch from ttl - clock_timestamp())::float8 as expires_in from %s.locks"
            " where key = 'migrations'" % identifier(self.schema())
        )
        return rows[0] if rows else None

    def settle(self, made=False):
        pass  # there is one server, and what it has done is done

    def _failed(self, message, sqlstate=None):
        text = " ".join(str(message).split())
        if self._password and self._password not in (self.store["user"], self.store["database"]):
            text = text.replace(self._password, _conf.MASK)
        return DatabaseError(
            "PostgreSQL database %s: %s" % (where(self.store), text),
            sqlstate=sqlstate,
            # psql does not tell the code
            missing=sqlstate in ("42P01", "3F000") or (sqlstate is None and "does not exist" in text),
            database=where(self.store),
        )

    def schema(self):
        """The schema that Kong's tables are in: the one that was given, else the first of the search path."""
        if self.store.get("schema"):
            return self.store["schema"]
        found = self.query("select coalesce(current_schema()::text, 'public') as s")[0]["s"]
        self.store["schema"] = found
        return found


class _DBAPI(Database):
    """What psycopg 3 and psycopg2 have in common."""

    def __init__(self, store, password, connect_timeout):
        super(_DBAPI, self).__init__(store, password)
        options = {
            "host": store["host"],
            "port": store["port"],
            "dbname": store["database"],
            "user": store["user"],
            "connect_timeout": max(2, int(connect_timeout)),
            "sslmode": store.get("sslmode") or "prefer",
            "application_name": APPLICATION,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 5,
        }
        if password is not None:
            options["password"] = password
        if store.get("sslrootcert"):
            options["sslrootcert"] = store["sslrootcert"]
        self._driver = self._module()
        self._connection = None
        try:
            self._connection = self._open(options)
        except self._driver.Error as error:
            raise explain(store, error, password)

    @classmethod
    def available(cls):
        try:
            cls._module()
        except ImportError:
            return False
        return True

    def query(self, sql, params=None):
        try:
            cursor = self._connection.cursor()
            try:
                cursor.execute(sql, params)
                names = [column[0] for column in cursor.description or ()]
                return [dict(zip(names, row)) for row in cursor.fetchall()] if names else []
            finally:
                cursor.close()
        except self._driver.Error as error:
            raise self._failed(error, getattr(error, "sqlstate", None) or getattr(error, "pgcode", None))

    def write(self, sql, params):
        return next(iter(self.query(sql, params)[0].values()))

    def read_only(self, sql):
        begin = "set local search_path to %s" % identifier(self.schema())
        self.query("begin read only")
        try:
            self.query(begin)
            return self.query(sql)
        finally:
            self.query("rollback")

    def close(self):
        if self._connection is not None:
            self._connection.close()


class _Psycopg(_DBAPI):
    driver = "psycopg"

    @staticmethod
    def _module():
        import psycopg

        return psycopg

    def _open(self, options):
        # no prepared statements: they do not survive a pooler
        return self._driver.connect(autocommit=True, prepare_threshold=None, **options)


class _Psycopg2(_DBAPI):
    driver = "psycopg2"

    @staticmethod
    def _module():
        import psycopg2

        return psycopg2

    def _open(self, options):
        connection = self._driver.connect(**options)
        connection.autocommit = True
        return connection


class _Psql(Database):
    """One psql process that is fed statements and answers each with one line of marks around one JSON value."""

    driver = "psql"

    def __init__(self, store, password, connect_timeout):
        super(_Psql, self).__init__(store, password)
        self._errors = tempfile.TemporaryFile()
        self._number = 0
        self._buffer = b""
        self._limit = CONNECT_TIMEOUT
        self._process = subprocess.Popen(
            psql_argv(store, _which_psql(), "-A", "-t", "-v", "ON_ERROR_STOP=0"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=psql_environment(store, password, connect_timeout),
            # a signal for the module's own group (Ctrl-C) must not end the connection that cleans up
            start_new_session=True,
        )
        try:
            self._ask("select 1", max(2, connect_timeout) + 2)
        except DatabaseError as error:
            self.close()
            if error.details.get("sqlstate") == "closed" or "starting up" in error.message:
                raise explain(store, error.details.get("said") or error.message, password)
            raise

    @classmethod
    def available(cls):
        return bool(_which_psql())

    def setup(self, statement_timeout):
        super(_Psql, self).setup(statement_timeout)
        # the server ends a statement that takes too long; this is for a server that no longer answers at all
        self._limit = statement_timeout + CONNECT_TIMEOUT

    def query(self, sql, params=None):
        # json_agg makes one value of any number of rows, whatever they hold
        answer = self._ask("select coalesce(json_agg(q), '[]'::json)::text from (%s) q" % _filled_in(sql, params), self._limit)
        return json.loads(answer)

    def write(self, sql, params):
        return int(self._ask(_filled_in(sql, params), self._limit))

    def read_only(self, sql):
        begin = "begin read only;\nset local search_path to %s" % identifier(self.schema())
        select = "select coalesce(json_agg(q), '[]'::json)::text from (%s) q" % sql
        return json.loads(self._ask("%s;\n%s;\nrollback" % (begin, select), self._limit))

    def _ask(self, sql, limit):
        self._number += 1
        mark = "bluegreen-kong-%d-end" % self._number
        try:
            self._process.stdin.write(("%s;\n\\echo %s\n" % (sql, mark)).encode("utf-8"))
            self._process.stdin.flush()
        except (BrokenPipeError, OSError) as error:
            if error.errno not in (errno.EPIPE, errno.EINVAL):
                raise
        end = time.monotonic() + limit
        line = ("%s\n" % mark).encode("ascii")
        while not (self._buffer == line or self._buffer.endswith(b"\n" + line)):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                self.close()
                raise self._lost("no answer within %d s" % limit)
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                self.close()
                raise self._lost(self._said() or "psql ended")
            self._buffer += piece
        answer = self._buffer[: -len(line)].decode("utf-8").strip()
        self._buffer = b""
        said = self._said()
        if not answer:
            if "server closed the connection" in said or "connection to server was lost" in said:
                self.close()
                raise self._lost(said)
            raise self._failed(re.sub(r"^(?:psql:[^ ]*: )?ERROR: *", "", said) or "an empty answer")
        return answer

    def processes(self):
        return [self._process.pid]

    def _said(self):
        """What psql wrote to its standard error since it was asked for last, beginning with why it cannot log in."""
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip()
        self._errors.seek(0)
        self._errors.truncate()
        return said

    def _lost(self, said):
        error = self._failed(said)
        error.details.update(sqlstate="closed", said=said)
        return error

    def close(self):
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()


def _filled_in(sql, params):
    """A statement with its parameters as literals."""
    if params is None:
        return sql
    values = iter(params)
    parts = re.split(r"(%s|%%)", sql)
    return "".join(literal(next(values)) if part == "%s" else "%" if part == "%%" else part for part in parts)


def _which_psql():
    """psql in PATH, else the newest that Debian's or PostgreSQL's own packages have put elsewhere.

    What Debian has in PATH is a script that looks for the newest, too, and takes longer than psql itself.
    """
    found = shutil.which("psql")
    if found and os.path.basename(os.path.realpath(found)) != "pg_wrapper":
        return found
    for base in ("/usr/lib/postgresql", "/usr/pgsql"):
        folder, name = os.path.split(base)
        if base == "/usr/pgsql":
            places = [os.path.join(folder, item) for item in _listdir(folder) if item.startswith(name + "-")]
        else:
            places = [os.path.join(base, item) for item in _listdir(base)]
        for place in sorted(places, key=lambda path: [int(n) for n in re.findall(r"\d+", path)], reverse=True):
            path = os.path.join(place, "bin", "psql")
            if os.access(path, os.X_OK):
                return path
    return found


def _listdir(path):
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _conninfo(database):
    """psql reads a name with = or :// in it as a whole connection string: such a name is passed inside one."""
    if "=" in database or "://" in database:
        return "dbname='%s'" % database.replace("\\", "\\\\").replace("'", "\\'")
    return database
