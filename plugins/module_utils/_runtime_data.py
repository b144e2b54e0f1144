# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies what Kong's data plane writes while it serves out of a keyspace into another database, and keeps it up with the keyspace.

Each row is written with the time that it has left to live. A copy can be repeated, and never wins over what a node of the new cluster has
made of the row since: how that is told is the new database's matter (Entities.take).
"""

import os
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _dump_diff, _entities_cassandra


class Copy(object):
    """A copy that goes on.

    :param old: _entities_cassandra.Rows. :param new: _entities.Entities; written to is this alone.
    """

    def __init__(self, old, new):
        self.old, self.new = old, new
        self.copied, self.removed = {}, {}
        self._seen = {}  # table -> {id: Moment} of the round before

    def round(self, check_mode=False):
        """Brings the new database up to date, once."""
        for table in sorted(set(self.old.tables(list(_entities_cassandra.MORTAL))) & set(self.new.tables())):
            before, now = self._seen.get(table, {}), {}
            for row, moment in self.old.stamped(table):
                if moment.ends is None and table not in _dump_diff.RUNTIME:
                    continue  # it is configuration, which the export has
                now[row["id"]] = moment
                if row["id"] in before and before[row["id"]].written == moment.written:
                    continue
                if check_mode or self.new.take(table, row, moment):
                    _count(self.copied, table)
            for identity in set(before) - set(now):  # ended, or used up by blue: no longer good for anything
                if check_mode or self.new.drop(table, identity, before[identity]):
                    _count(self.removed, table)
            self._seen[table] = now


def _count(counts, table):
    counts[table] = counts.get(table, 0) + 1


def copy(old, new, params, check_mode=False):
    """Does what the module kong_runtime_data is documented to do; returns its result."""
    job, rounds = Copy(old, new), 0
    end = time.monotonic() + params["duration"]
    while True:
        last = check_mode or time.monotonic() >= end or bool(params["marker"]) and not os.path.exists(params["marker"])
        begun = time.monotonic()
        job.round(check_mode)
        rounds += 1
        if last:
            return {
                "changed": bool(job.copied or job.removed), "copied": job.copied, "removed": job.removed, "rounds": rounds,
                "old": old.place, "new": new.place,
            }  # fmt: skip
        # between two rounds, as long as one takes: Cassandra tells nobody what was written
        time.sleep(max(params["interval"], time.monotonic() - begun))
