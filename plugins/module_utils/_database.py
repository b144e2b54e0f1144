# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of Kong's database, whichever kind it is, when its migrations are looked at."""

import abc


class Database(abc.ABC):
    """One connection. Not for several threads at once.

    `driver` says through what it goes; `store` is what it was opened with. Every method but close() may raise
    DatabaseError; its detail `missing` is true when a table, or what holds the tables, is not there.
    """

    driver = None
    # Seconds within which what one client has written may still be unseen by another.
    lag = 0.0

    def __init__(self, store, password):
        self.store = store
        self._password = password

    @abc.abstractmethod
    def place(self):
        """How messages name what holds Kong's tables: schema public of database kong at db:5432 as kong."""

    @abc.abstractmethod
    def tables(self, names=None):
        """Names (list) of the tables there; of all, or of those in `names` (list)."""

    @abc.abstractmethod
    def objects(self):
        """Whatever lies where Kong's tables go, but for what an extension or another object brought along: list of dict kind, name,
        identity (how a statement calls it)."""

    @abc.abstractmethod
    def schema_meta(self):
        """The rows of schema_meta: list of dict subsystem, executed, pending (lists of ids or None)."""

    @abc.abstractmethod
    def schema_migrations(self):
        """The rows of a 0.14 database's schema_migrations: list of dict id, names (list)."""

    @abc.abstractmethod
    def lock_row(self):
        """The migration lock: dict owner, expires_in (seconds or None), or None."""

    @abc.abstractmethod
    def settle(self, made=False):
        """Waits until all servers have the same schema.

        :param made: whether migrations have just made tables: then each has to be known to the server that is asked.
        :raises DatabaseError: they do not in time, or a table is not.
        """

    @abc.abstractmethod
    def close(self):
        """Ends the connection; closing twice does no harm."""

    def __enter__(self):
        return self

    def __exit__(self, *dummy):
        self.close()
