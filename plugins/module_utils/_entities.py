# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of Kong's tables as the entities that an export has, whichever kind of database they are in.

An entity is a dict: its id first, the id of another entity under its name (consumer, not consumer_id), times in seconds since the
epoch, sets in order, what is stored as JSON as what it says. Where a row has a time to live, `ttl` tells the seconds left.
"""

import abc
import collections

from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError

# Columns that Kong derives from others, or that say where a row belongs.
DERIVED = frozenset(["cache_key", "ws_id", "partition"])
# Their schema counts in fractions of a second, all others in seconds.
PRECISE = frozenset(["targets"])
# Of a row that may have a time to live: when it was written (Cassandra's time stamp) and when it ends (seconds since the epoch, or None).
Moment = collections.namedtuple("Moment", "written ends")


class Entities(abc.ABC):
    """What is read of one database. Any method may raise DatabaseError."""

    DEFAULT_WORKSPACE = None  # a statement that finds it, with %s for the table

    def __init__(self, database):
        self.database = database
        self._workspace = None

    @property
    def place(self):
        """How messages name it."""
        return self.database.place()

    @property
    def lag(self):
        """Seconds within which what Kong has written may still be unseen."""
        return self.database.lag

    def settle(self):
        """Waits until all servers have the same schema."""
        self.database.settle()

    def tables(self, names=None):
        """Names (list) of the tables there; of all, or of those in `names` (list)."""
        return self.database.tables(names)

    def default_workspace(self):
        """Id of the workspace that all of an older version belongs to, from 2.1 on."""
        if self._workspace is None:
            rows = self.database.query(self.DEFAULT_WORKSPACE % self.named("workspaces"))
            if not rows:
                raise DatabaseError("%s has no default workspace: run kong migrations bootstrap first." % self.place)
            self._workspace = rows[0]["id"]
        return self._workspace

    @abc.abstractmethod
    def named(self, table):
        """A table, as a statement calls it."""

    @abc.abstractmethod
    def identified(self, table):
        """Whether the rows of a table have an id, as those of entities do."""

    @abc.abstractmethod
    def holds(self, table):
        """Whether there is a row in a table."""

    @abc.abstractmethod
    def count(self, table):
        """The number of rows of a table, without those that have a time to live."""

    @abc.abstractmethod
    def present(self, table, identities):
        """How many of `identities` (list of str, uuids) a table has."""

    @abc.abstractmethod
    def every(self, table):
        """Iterator of the entities of a table, a page of them in memory at a time."""

    @abc.abstractmethod
    def some(self, table, identities):
        """The entities with these ids: dict id -> entity."""

    @abc.abstractmethod
    def take(self, table, row, moment):
        """Writes a row that another database has, to end when it ends there, unless this one has made something younger of it.

        :param row: dict column -> value of the driver's, as _entities_cassandra.Rows.stamped() has it. :param moment: Moment.
        :returns: bool, whether it was written.
        """

    @abc.abstractmethod
    def drop(self, table, identity, moment):
        """Removes a row that the other database had and has no more, unless this one has made something younger of it.

        :param moment: Moment, as the row was last seen there. :returns: bool, whether a row may have gone.
        """
