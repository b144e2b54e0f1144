# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands ask of a datastore, whichever it is (the state of the schema, the lock, migrations), and what a
running node asks (rows, events)."""

import abc

KINDS = ("postgres", "cassandra")
CHANNEL = "invalidations"


class DatastoreError(Exception):
    """What the datastore, or the way to it, answered. ``code`` is the datastore's own, empty without an answer."""

    def __init__(self, message, code=""):
        super().__init__(message)
        self.code = code


class NotUnique(DatastoreError):
    """A value that must be there only once is there already."""


class Unknown(DatastoreError):
    """A reference to a row that is not there."""


class Datastore(abc.ABC):
    """A connection of one command. Every method may raise DatastoreError."""

    kind = None         # as kong.conf has it
    title = None        # as messages have it: "[<title> error] ..."
    container = None    # what the tables are in
    name = None         # and its name

    @abc.abstractmethod
    def state_rows(self):
        """(rows of schema_meta or None without that table, whether the tables are those of Kong 0.14)."""

    @abc.abstractmethod
    def create_tables(self):
        """Make the tables for state and lock."""

    @abc.abstractmethod
    def agree(self):
        """Wait until every server has the schema that this connection sees."""

    @abc.abstractmethod
    def take_lock(self, owner, seconds):
        """Try to take the migration lock; whether it is ours."""

    @abc.abstractmethod
    def lock_held(self):
        """Whether anybody has it."""

    @abc.abstractmethod
    def release_lock(self, owner):
        """Give it back; it is no error that it has gone."""

    @abc.abstractmethod
    def up(self, subsystem, name, warn):
        """The first phase of a migration. ``warn`` is called with the level and words of what is passed over."""

    @abc.abstractmethod
    def teardown(self, subsystem, name):
        """Its second phase."""

    @abc.abstractmethod
    def record(self, subsystem, name, what):
        """Record it: ``executed``, ``pending``, or ``teardown`` (from pending to executed)."""

    @abc.abstractmethod
    def reset(self, say):
        """Remove everything. ``say`` prints a line."""

    @abc.abstractmethod
    def close(self):
        """End the connection."""


def connect(version, settings, complain, timeout=None):
    """The datastore that the settings name. Raises DatastoreError, its text whole.

    :param complain: called with the level and words of what does not stop it
    :param timeout: seconds for one statement; the settings' own if None
    """
    if settings.get("database") == "cassandra":
        from .cassandra import Cassandra

        return Cassandra(version, settings, timeout, complain)
    from .postgres import Postgres

    return Postgres(version, settings, timeout)


class Rows(abc.ABC):
    """What a running node asks of its datastore, as statements; the connections are ``store.Store``'s affair.

    :param version: Version
    :param settings: Settings
    """

    prefix = None       # of messages that the datastore answered
    alive = None        # a statement that any datastore answers
    workspace = "SELECT id FROM workspaces WHERE name = 'default'"
    words_of_page = words_of_select = words_of_update = ""    # what is put before an error of the datastore

    def __init__(self, version, settings):
        self.version, self.settings = version, settings
        self.entities = self.all_entities()

    @abc.abstractmethod
    def all_entities(self):
        """name -> Entity."""

    @abc.abstractmethod
    def connection(self):
        """A connection for asyncio, not yet open."""

    @abc.abstractmethod
    def blocking(self):
        """A connection for a command. Raises DatastoreError, its text whole."""

    @property
    @abc.abstractmethod
    def limit(self):
        """How many connections there may be at most."""

    @abc.abstractmethod
    def now(self):
        """A statement for the datastore's time, in a column ``now``, seconds."""

    @abc.abstractmethod
    def announce(self, node, keys):
        """Statements that tell other nodes to forget these keys."""

    @abc.abstractmethod
    def announced(self, since):
        """A statement for what was announced after a time (seconds): node_id, data, at."""


def rows(version, settings):
    """The Rows of the datastore that the settings name."""
    if settings.get("database") == "cassandra":
        from .cassandra import CassandraRows

        return CassandraRows(version, settings)
    from .postgres import PostgresRows

    return PostgresRows(version, settings)
