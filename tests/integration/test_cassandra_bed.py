# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bed whose Kong lives on Cassandra: it serves, and migrations under load lose no request where versions allow it."""

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _migrate
from bed import cassandra, seed
from bed.cassandra_bed import CassandraBed
from bed.hosts import PROXY
from bed.lab import attach
from migrating import DEFAULTS, at_the_third_look, run_command
from scenes import KONGS

pytestmark = pytest.mark.skipif(cassandra.missing() is not None, reason=str(cassandra.missing()))


@pytest.fixture
def bed(tmp_path):
    with CassandraBed(tmp_path / "bed", nodes=2, blue_version="2.1.4", **KONGS) as bed:
        yield bed


def migrate(bed, state, **more):
    where = {"executable": str(bed.green[0].executable), "conf": str(bed.green[0].conf)}
    return _migrate.migrate({**DEFAULTS, **where, "state": state, **more}, run_command)


def configure_green(bed):
    for host in bed.green:
        host.write_conf({
            **host.listeners(), **bed.database_settings(), **bed.secret_settings(), "db_update_frequency": "1",
            "anonymous_reports": "off", "nginx_worker_processes": "1",
        })


def test_migrations_under_load(bed, monkeypatch):
    configure_green(bed)
    assert bed.pending() == [] and bed.migration_lock() is None
    load = bed.load(rate=60)
    owner, left = bed.kill_up(bed.green[0], lock_timeout=300)
    assert 200 < left <= 300
    at_the_third_look(
        monkeypatch, lambda: bed.cassandra.execute(f"DELETE FROM {bed.keyspace}.locks WHERE key = 'migrations' IF EXISTS"))
    result = migrate(bed, "up", pending_and_new="finish")
    assert result["before"]["lock"]["owner"] == owner and result["waited"] > 0
    assert not result["after"]["new"] and bed.migration_lock() is None
    for host in bed.green:
        host.start()
        seed.wait_served(host.address, PROXY, bed.requests())
    assert migrate(bed, "finished")["after"]["state"] == "up_to_date" and bed.pending() == []
    for host in (*bed.blue, *bed.green):
        seed.wait_served(host.address, PROXY, bed.requests())
    figures = load.stop()
    assert figures["requests"] > 200 and figures["failures"] == []


def test_another_process_can_look_at_it(bed):
    other = attach(bed.directory)
    assert isinstance(other, CassandraBed) and other.pending() == [] and other.migration_lock() is None
    other.cassandra.forget()
