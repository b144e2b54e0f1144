# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look into Kong's keyspace on Cassandra 3.0 or newer, through cassandra-driver. Only write() changes anything."""

import logging
import re
import ssl
import sys
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf
from ansible_collections.bluegreen.kong.plugins.module_utils._database import Database
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError

CONNECT_TIMEOUT = 10  # seconds
STATEMENT_TIMEOUT = 30  # seconds
# A read that a node did not answer in time is tried again, at most so often in all, after a pause of seconds.
TRIES = 3
PAUSE = 0.5
PAGE = 1000  # rows
AGREEMENT_POLL = 0.2  # seconds; Cassandra tells no client when its nodes agree
CONSISTENCIES = ("ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_ONE", "LOCAL_QUORUM", "EACH_QUORUM")
# The newest version of the protocol that every Cassandra from 2.2 on speaks.
PROTOCOL = 4


def options():
    """The login options for an argument_spec, as in the fragment bluegreen.kong.cassandra."""
    return {
        "cassandra_contact_points": {"type": "list", "elements": "str"},
        "cassandra_port": {"type": "int"},
        "cassandra_keyspace": {"type": "str", "no_log": False},
        "cassandra_username": {"type": "str"},
        "cassandra_password": {"type": "str", "no_log": True},
        "cassandra_ssl": {"type": "bool"},
        "cassandra_ssl_verify": {"type": "bool"},
        "cassandra_consistency": {"type": "str", "choices": list(CONSISTENCIES)},
        "cassandra_local_datacenter": {"type": "str"},
    }


def target(params, settings):
    """Where to log in, from the module's login options and, for what they leave open, Kong's settings.

    :param params: dict with the options of options() and ca_cert; missing and None count as not given.
    :param settings: dict of Kong's explicit settings (_conf.load).
    :returns: dict: kind (always cassandra), contact_points (list), port, keyspace, user (None: no login), ssl, ssl_verify,
        ca_cert (None: the system's), consistency, local_datacenter (None: any), agreement_timeout (seconds); and the
        password (str or None).
    :raises ConfError: the settings cannot be understood.
    """
    store = _conf.datastore(dict(settings, database="cassandra"))

    def pick(option, value):
        return value if params.get(option) is None else params[option]

    user = pick("cassandra_username", store["user"])
    password = params.get("cassandra_password")
    if password is None and user == store["user"]:
        # as Kong's own, it is for Kong's own role
        password = settings.get("cassandra_password") or None
    datacenter = pick("cassandra_local_datacenter", store["local_datacenter"])
    verify = pick("cassandra_ssl_verify", store["ssl_verify"])
    return (
        {
            "kind": "cassandra",
            "contact_points": params.get("cassandra_contact_points") or store["contact_points"],
            "port": pick("cassandra_port", store["port"]),
            "keyspace": pick("cassandra_keyspace", store["keyspace"]),
            # Kong logs in only with both; its user has a default
            "user": user if password is not None else None,
            "ssl": pick("cassandra_ssl", store["ssl"]),
            "ssl_verify": verify,
            "ca_cert": pick("ca_cert", store["ca_cert"]) if verify else None,
            "consistency": pick("cassandra_consistency", "LOCAL_QUORUM" if datacenter else "QUORUM"),
            "local_datacenter": datacenter,
            "agreement_timeout": store["consensus_timeout"] / 1000.0,
        },
        password,
    )


def where(store):
    """How messages name a keyspace: keyspace kong at 10.0.0.1, 10.0.0.2 (port 9042) as kong."""
    text = "keyspace %s at %s (port %s)" % (store["keyspace"], ", ".join(store["contact_points"]), store["port"])
    return text + (" as %s" % store["user"] if store["user"] else "")


def connect(store, password):
    """Opens a connection.

    :param store: dict as from target().
    :param password: str or None.
    :returns: Keyspace.
    :raises DatabaseError: no driver, no connection, login refused. The message never holds the password.
    """
    return Keyspace(store, password)


def _driver():
    """The modules of cassandra-driver that are needed.

    :raises DatabaseError: it is not here, or has no event loop to run on.
    """
    try:
        import cassandra
    except ImportError:
        raise DatabaseError(
            "There is no way to talk to Cassandra from here: the Python that runs the modules (%s) has no package "
            "cassandra-driver. Install it for that one." % sys.executable
        )
    try:
        import cassandra.auth
        import cassandra.cluster
        import cassandra.concurrent
        import cassandra.policies
        import cassandra.query
    except getattr(cassandra, "DependencyException", ImportError) as error:
        raise DatabaseError(
            "cassandra-driver is there, but has nothing to wait for answers with (%s). Install it from a wheel, or with the "
            "headers of libev at hand." % _words(error)
        )
    logging.getLogger("cassandra").addHandler(logging.NullHandler())
    logging.getLogger("cassandra").propagate = False
    return cassandra


def explain(store, error, password=None):
    """A DatabaseError for a connection that could not be made: what the nodes said, and what to do about it."""
    errors = getattr(error, "errors", None)
    said = "; ".join(
        "%s: %s" % (getattr(host, "endpoint", host), " ".join(str(why).split()))
        for host, why in sorted(errors.items() if isinstance(errors, dict) else (), key=str)  # a list where no session could be made
    ) or _words(error)
    if password and password not in (store["user"], store["keyspace"]):
        said = said.replace(password, _conf.MASK)
    lower = said.lower()
    if "credentials" in lower or "authentication" in lower or "username" in lower:
        hint = "Check cassandra_username and cassandra_password."
    elif "certificate" in lower or "ssl" in lower or "tls" in lower:
        hint = "Check cassandra_ssl, cassandra_ssl_verify and ca_cert (lua_ssl_trusted_certificate)."
    elif "resolve" in lower or "name or service" in lower:
        hint = "Check cassandra_contact_points."
    else:
        hint = (
            "Check cassandra_contact_points, cassandra_port and cassandra_local_datacenter, and that Cassandra can be reached "
            "from this host; one that wants TLS (cassandra_ssl) closes other connections."
        )
    return DatabaseError(
        "Cannot connect to the Cassandra %s: %s. %s" % (where(store), said.rstrip("."), hint), database=where(store)
    )


def identifier(name):
    """A name as a quoted CQL identifier."""
    return '"%s"' % name.replace('"', '""')


class Keyspace(Database):
    """A connection to the cluster; the keyspace need not be there."""

    driver = "cassandra-driver"
    # Kong writes to one replica (cassandra_write_consistency) and reads from one; the others get it a moment later.
    lag = 5.0

    def __init__(self, store, password):
        super(Keyspace, self).__init__(store, password)
        self._cassandra = _driver()
        self._cluster = None
        levels = self._cassandra.ConsistencyLevel
        self._level = getattr(levels, store["consistency"])
        # Kong takes its lock with a light-weight transaction: of the local datacenter where it has been told of one
        self._serial = levels.LOCAL_SERIAL if store["local_datacenter"] else levels.SERIAL
        try:
            self._cluster = self._make_cluster()
            self._session = self._cluster.connect()
        except (self._cassandra.DriverException, self._cassandra.cluster.NoHostAvailable, OSError, ValueError) as error:
            self.close()
            raise explain(store, error, password)

    def _make_cluster(self):
        store, policies = self.store, self._cassandra.policies
        if store["local_datacenter"]:
            balancing = policies.DCAwareRoundRobinPolicy(store["local_datacenter"])
        else:
            # the nodes that Kong was told of will do; no connection is made to the others
            balancing = policies.WhiteListRoundRobinPolicy(store["contact_points"])
        profile = self._cassandra.cluster.ExecutionProfile(
            balancing,
            consistency_level=self._level,
            row_factory=self._cassandra.query.dict_factory,
            request_timeout=STATEMENT_TIMEOUT,
        )
        auth = None
        if self._password is not None:
            auth = self._cassandra.auth.PlainTextAuthProvider(store["user"], self._password)
        return self._cassandra.cluster.Cluster(
            store["contact_points"],
            port=store["port"],
            auth_provider=auth,
            ssl_context=self._context() if store["ssl"] else None,
            protocol_version=PROTOCOL,
            connect_timeout=CONNECT_TIMEOUT,
            control_connection_timeout=CONNECT_TIMEOUT,
            execution_profiles={self._cassandra.cluster.EXEC_PROFILE_DEFAULT: profile},
            schema_metadata_enabled=False,
            token_metadata_enabled=False,
        )

    def _context(self):
        """TLS as Kong does it: the chain is checked where that is asked for, the host name never."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED if self.store["ssl_verify"] else ssl.CERT_NONE
        if self.store["ssl_verify"]:
            try:
                context.load_verify_locations(self.store["ca_cert"]) if self.store["ca_cert"] else context.load_default_certs()
            except (OSError, ssl.SSLError) as error:
                raise DatabaseError("Cannot read the certificates in %s: %s" % (self.store["ca_cert"], error))
        return context

    def query(self, cql, values=None, level=None, host=None):
        """Runs one statement that reads; one that was not answered in time is run again.

        :param cql: str; with values, %s stands for each of them.
        :param values: list or None.
        :param level: consistency level of the driver; that of the connection if None.
        :param host: the node (of the driver) that is to answer, or None.
        :returns: list of dict, one per row.
        :raises DatabaseError: Cassandra's message.
        """
        statement = self._cassandra.query.SimpleStatement(cql, consistency_level=self._level if level is None else level)
        late = (
            self._cassandra.OperationTimedOut,
            self._cassandra.ReadTimeout,
            self._cassandra.Unavailable,
            self._cassandra.cluster.NoHostAvailable,
        )
        for number in range(TRIES):
            try:
                return list(self._session.execute(statement, values, host=host))
            except late as error:
                if number == TRIES - 1:
                    raise self._failed("%s (tried %d times)" % (_words(error), TRIES))
                time.sleep(PAUSE * (number + 1))  # between two tries; a node that is late does not say when it is back
            except self._cassandra.DriverException as error:
                raise self._failed(_words(error))

    def rows(self, cql, values=None):
        """Runs one statement that reads any number of rows, a page of them in memory at a time.

        :returns: iterator of dict. :raises DatabaseError: Cassandra's message; what was read by then has been given out.
        """
        statement = self._cassandra.query.SimpleStatement(cql, consistency_level=self._level, fetch_size=PAGE)
        try:
            yield from self._session.execute(statement, values)
        except (self._cassandra.DriverException, self._cassandra.cluster.NoHostAvailable) as error:
            raise self._failed(_words(error))

    def each(self, cql, many):
        """Runs one statement that reads once for each list of values in `many`, several at a time.

        :returns: list of dict, one per row of them all. :raises DatabaseError: Cassandra's message.
        """
        statement = self._cassandra.query.SimpleStatement(cql, consistency_level=self._level)
        try:
            answers = self._cassandra.concurrent.execute_concurrent_with_args(self._session, statement, many)
        except (self._cassandra.DriverException, self._cassandra.cluster.NoHostAvailable) as error:
            raise self._failed(_words(error))
        return [row for answer in answers for row in answer.result_or_exc]

    def write(self, cql, values):
        """Runs one statement that writes, and that may be run twice. :raises DatabaseError: Cassandra's message."""
        statement = self._cassandra.query.SimpleStatement(cql, consistency_level=self._level, is_idempotent=True)
        try:
            self._session.execute(statement, values)
        except (self._cassandra.DriverException, self._cassandra.cluster.NoHostAvailable) as error:
            raise self._failed(_words(error))

    def _failed(self, text):
        if self._password and self._password not in (self.store["user"], self.store["keyspace"]):
            text = text.replace(self._password, _conf.MASK)
        missing = bool(re.search(r"unconfigured table|[Kk]eyspace '?\S+ does not exist", text))
        return DatabaseError("Cassandra %s: %s" % (where(self.store), text), missing=missing, database=where(self.store))

    def table(self, name):
        """A table of the keyspace, as a statement calls it."""
        return "%s.%s" % (identifier(self.store["keyspace"]), identifier(name))

    def place(self):
        return where(self.store)

    def tables(self, names=None):
        rows = self.query(
            "select table_name from system_schema.tables where keyspace_name = %s", [self.store["keyspace"]],
            self._cassandra.ConsistencyLevel.ONE,  # every node has this for itself
        )
        found = sorted(row["table_name"] for row in rows)
        return found if names is None else [name for name in found if name in names]

    def objects(self):
        return [{"kind": "table", "name": name, "identity": self.table(name)} for name in self.tables()]

    def schema_meta(self):
        rows = self.query(
            "select subsystem, executed, pending from %s where key = 'schema_meta'" % self.table("schema_meta")
        )
        # a set has no order; the names begin with their number
        return [
            {"subsystem": row["subsystem"], "executed": sorted(row["executed"] or ()), "pending": sorted(row["pending"] or ())}
            for row in rows
        ]

    def schema_migrations(self):
        rows = self.query("select id, migrations from %s" % self.table("schema_migrations"))
        return [{"id": row["id"], "names": list(row["migrations"] or ())} for row in rows]

    def lock_row(self):
        rows = self.query(
            "select owner, ttl(owner) as expires_in from %s where key = 'migrations'" % self.table("locks"),
            level=self._serial,
        )
        return rows[0] if rows else None

    def nodes(self):
        """The nodes of the cluster, as one of them knows them, that one first: list of dict address, datacenter, rack, version,
        host_id, schema_version."""
        host = next(iter(self._session.hosts))
        columns = "data_center as datacenter, rack, release_version as version, host_id, schema_version"
        one = self._cassandra.ConsistencyLevel.ONE
        local = self.query("select %s from system.local where key = 'local'" % columns, level=one, host=host)
        peers = self.query("select rpc_address as address, peer, %s from system.peers" % columns, level=one, host=host)
        found = [dict(local[0], address=host.address)] + peers
        for node in found:
            node["address"] = str(node["address"] or node["peer"])  # a node that has not told yet where its clients find it
            node.pop("peer", None)
            for key in ("host_id", "schema_version"):
                node[key] = str(node[key])
        return found

    def schema_versions(self):
        """Which node has which version of the schema, as one of them knows: dict version (str) -> list of addresses."""
        found = {}
        for node in self.nodes():
            found.setdefault(node["schema_version"], []).append(node["address"])
        return found

    def settle(self, made=False):
        """Waits until all nodes have the same schema, for as long as Kong itself does. A node that is down counts with what it had, as it
        does for Kong."""
        end = time.monotonic() + self.store["agreement_timeout"]
        while True:
            versions = self.schema_versions()
            if len(versions) == 1:
                return self._refuse_halves() if made else None
            if time.monotonic() >= end:
                break
            time.sleep(AGREEMENT_POLL)  # between two looks; nodes do not tell when they agree
        told = "; ".join("%s at %s" % (version, ", ".join(sorted(nodes))) for version, nodes in sorted(versions.items()))
        raise self._failed(
            "the nodes have different versions of the schema, and had not agreed after %g s "
            "(cassandra_schema_consensus_timeout): %s. Look for nodes that are down or cut off (nodetool describecluster), and "
            "bring them back or remove them" % (self.store["agreement_timeout"], told)
        )

    def _refuse_halves(self):
        """A node that was killed while it made a table reads it from its log after it has read its schema: it lists the table then and
        does not know it. The migration, which is not recorded then, makes it again; but not where another node of the ring knows it."""
        halves = []
        for name in self.tables():
            try:
                self.query("select * from %s limit 1" % self.table(name))
            except DatabaseError as error:
                if error.details.get("missing"):
                    halves.append(name)
        if halves:
            raise self._failed(
                "a node was killed while %s was made, and does not know that table yet. Restart that node of Cassandra once more, "
                "then run this again" % ", ".join(halves)
            )

    def close(self):
        if self._cluster is not None:
            self._cluster.shutdown()


def _words(error):
    """What an error of the driver says, on one line."""
    return " ".join(str(getattr(error, "message", None) or (error.args or [error])[0]).split())
