# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong_datastore_info on a database that answers from a list; with a real one: tests/integration/test_migrations.py."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import fake_module
from ansible_collections.bluegreen.kong.plugins.module_utils import _datastore, _postgres
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError
from ansible_collections.bluegreen.kong.plugins.modules import kong_datastore_info


class Looks:
    """A database whose sessions change from look to look."""

    driver, version_num = "psycopg", 170000

    def __init__(self, looks):
        self.looks = looks

    def schema(self):
        return "public"

    def close(self):
        pass

    def query(self, sql, params=None):
        return [dict(row) for row in (self.looks.pop(0) if len(self.looks) > 1 else self.looks[0])]


def session(pid, now, start=1.0, kind="client backend", user="kong", hidden=False):
    return {
        "pid": pid, "user": user, "application_name": "", "client_addr": "10.0.0.1", "client_port": 5, "state": "idle",
        "backend_start": start, "hidden": hidden, "now": now, "backend_type": kind}


@pytest.fixture
def conf(tmp_path):
    path = tmp_path / "kong.conf"
    path.write_text("pg_host = db\npg_user = gate\n")
    return str(path)


def test_sessions_are_put_together_over_the_looks(monkeypatch, conf):
    looks = [
        [session(1, 10), session(2, 10), session(9, 10, kind="autovacuum worker"), session(8, 10, user=None, kind=None)],
        # 2 has gone, and its number belongs to another
        [session(1, 11), session(2, 11, start=10.5), session(3, 11, kind=None, hidden=True, start=None)],
        [session(1, 12), session(4, 12, kind="walsender")],
    ]
    monkeypatch.setattr(_postgres, "connect", lambda store, password: Looks(looks))
    monkeypatch.setattr(_datastore, "SAMPLE_EVERY", 0.01)
    params = {"conf": conf, "gather": ["sessions"], "duration": 0.2}
    end = fake_module.run(kong_datastore_info, monkeypatch, params, None)
    assert not end.failed and end.result["changed"] is False
    found = end.result["datastore"]
    rows = [(row["pid"], row["first_seen"], row["hidden"]) for row in found["sessions"]]
    assert rows == [(1, 10, False), (2, 10, False), (2, 11, False), (3, 11, True), (4, 12, False)]
    assert found["samples"] > 3 and found["sessions"][0]["samples"] == found["samples"]
    assert "now" not in found["sessions"][0]
    assert (found["role"], found["login_role"], found["host"]) == ("gate", "gate", "db")
    assert "server_version" not in found and "counts" not in found


def test_one_look_without_a_duration(monkeypatch, conf):
    monkeypatch.setattr(_postgres, "connect", lambda store, password: Looks([[session(1, 10)]]))
    end = fake_module.run(kong_datastore_info, monkeypatch, {"conf": conf, "gather": ["sessions"]}, None)
    assert end.result["datastore"]["samples"] == 1


def test_a_database_that_cannot_be_reached(monkeypatch, conf):
    def refuse(store, password):
        raise DatabaseError("no way", database="x")

    monkeypatch.setattr(_postgres, "connect", refuse)
    end = fake_module.run(kong_datastore_info, monkeypatch, {"conf": conf}, None)
    assert end.failed and end.result["msg"] == "no way"
