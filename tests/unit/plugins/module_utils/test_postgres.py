# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where to log in, and how; and what an SQL literal is. With a real server: tests/integration/test_migrations.py."""

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _postgres
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError

KONG = {"pg_host": "db", "pg_port": "5433", "pg_user": "gate", "pg_password": "hunter2", "pg_database": "gateway"}


def pick(params, settings):
    store, password = _postgres.target(params, settings)
    return store, password


def test_target_from_kongs_settings():
    store, password = pick({}, dict(KONG, pg_schema="own"))
    assert store == {
        "kind": "postgres", "host": "db", "port": 5433, "database": "gateway", "user": "gate", "kong_user": "gate",
        "schema": "own", "sslmode": "disable", "sslrootcert": None}
    assert password == "hunter2"
    store, password = pick({}, {})
    assert (store["host"], store["port"], store["user"], store["database"], store["schema"], password) == (
        "127.0.0.1", 5432, "kong", "kong", None, None)


def test_target_options_win_and_kongs_password_is_for_kongs_role_only():
    store, password = pick({"login_host": "other", "login_port": 1, "login_db": "d", "schema": "s"}, KONG)
    assert (store["host"], store["port"], store["database"], store["schema"], password) == ("other", 1, "d", "s", "hunter2")
    store, password = pick({"login_user": "monitor"}, KONG)
    assert (store["user"], store["kong_user"], password) == ("monitor", "gate", None)
    assert pick({"login_user": "monitor", "login_password": "m"}, KONG)[1] == "m"


@pytest.mark.parametrize(
    "params, settings, mode, ca_cert",
    [
        ({}, {}, "disable", None),
        ({}, {"pg_ssl": "on"}, "require", None),
        ({}, {"pg_ssl": "on", "lua_ssl_trusted_certificate": "/ca.pem"}, "require", None),
        ({}, {"pg_ssl": "on", "pg_ssl_verify": "on", "lua_ssl_trusted_certificate": "/ca.pem,/b.pem"}, "verify-ca", "/ca.pem"),
        ({}, {"pg_ssl_verify": "on"}, "disable", None),
        ({"ssl_mode": "verify-full", "ca_cert": "/own.pem"}, {"pg_ssl": "on"}, "verify-full", "/own.pem"),
        ({"ssl_mode": "prefer"}, {"pg_ssl": "on"}, "prefer", None),
    ],
)
def test_target_tls(params, settings, mode, ca_cert):
    store = pick(params, settings)[0]
    assert (store["sslmode"], store["sslrootcert"]) == (mode, ca_cert)


def test_target_of_another_datastore():
    with pytest.raises(DatabaseError, match="database = cassandra"):
        pick({}, {"database": "cassandra"})
    store = pick({"login_host": "pg"}, {"database": "cassandra", "pg_password": "x"})[0]
    assert (store["host"], store["user"]) == ("pg", "kong")


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "null"), (True, "true"), (7, "7"), (1.5, "1.5"), ("it's", "'it''s'"), ("a\\b", "'a\\b'"),
        (["a", "o'b"], "array['a', 'o''b']::text[]"), ([1, 2], "array[1, 2]"), ([], "array[]::text[]"),
        ("'; drop table x; --", "'''; drop table x; --'"),
    ],
)
def test_literal(value, text):
    assert _postgres.literal(value) == text


def test_identifier_and_nul():
    assert _postgres.identifier('my "schema"') == '"my ""schema"""'
    for function in (_postgres.literal, _postgres.identifier):
        with pytest.raises(ValueError):
            function("a\0b")


@pytest.mark.parametrize(
    "message, words",
    [
        ('connection to server at "db", port 5433 failed: FATAL:  password authentication failed for user "gate"', "pg_password"),
        ('psql: error: FATAL:  database "gateway" does not exist', "pg_database"),
        ("connection failed: Connection refused", "can be reached"),
        ("FATAL:  no pg_hba.conf entry for host", "pg_hba.conf"),
        ("SSL error: certificate verify failed", "ca_cert"),
        ("FATAL:  sorry, too many clients already", "in use"),
        ("", "no reason given"),
    ],
)
def test_explain(message, words):
    error = _postgres.explain(pick({}, KONG)[0], message + " hunter2", "hunter2")
    assert words in error.message or not message
    assert "gateway at db:5433 as gate" in error.message
    assert "hunter2" not in error.message


def test_no_driver(monkeypatch):
    monkeypatch.setattr(_postgres, "DRIVERS", ())
    with pytest.raises(DatabaseError, match="neither psycopg2"):
        _postgres.connect({}, None)


@pytest.mark.parametrize("name, argument", [("kong", "kong"), ("a=b", "dbname='a=b'"), ("x://'y", "dbname='x://\\'y'")])
def test_a_database_name_is_never_a_connection_string(name, argument):
    assert _postgres._conninfo(name) == argument


def test_options_are_those_of_the_fragment():
    import yaml
    from ansible_collections.bluegreen.kong.plugins.doc_fragments.postgres import ModuleDocFragment

    documented = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    assert set(documented) == set(_postgres.options())
    assert documented["ssl_mode"]["choices"] == _postgres.options()["ssl_mode"]["choices"]
    assert _postgres.options()["login_password"]["no_log"]
