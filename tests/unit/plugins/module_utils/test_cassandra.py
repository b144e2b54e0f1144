# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where to log in, and how. With a real server: tests/integration/test_cassandra.py."""

import sys

import pytest
import yaml
from ansible_collections.bluegreen.kong.plugins.doc_fragments.cassandra import ModuleDocFragment
from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra, _migrate, _postgres
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError

KONG = {
    "database": "cassandra", "cassandra_contact_points": "10.0.0.1, 10.0.0.2", "cassandra_port": "9142",
    "cassandra_keyspace": "gateway", "cassandra_username": "gate", "cassandra_password": "hunter2",
}


def test_target_from_kongs_settings():
    store, password = _cassandra.target({}, KONG)
    assert store == {
        "kind": "cassandra", "contact_points": ["10.0.0.1", "10.0.0.2"], "port": 9142, "keyspace": "gateway",
        "user": "gate", "ssl": False, "ssl_verify": False, "ca_cert": None, "consistency": "QUORUM",
        "local_datacenter": None, "agreement_timeout": 10.0,
    }
    assert password == "hunter2"
    store, password = _cassandra.target({}, {"database": "cassandra"})
    assert (store["contact_points"], store["port"], store["keyspace"], store["user"], password) == (
        ["127.0.0.1"], 9042, "kong", None, None)


def test_target_options_win_and_kongs_password_is_for_kongs_role_only():
    store, password = _cassandra.target({"cassandra_contact_points": ["c1"], "cassandra_keyspace": "k", "cassandra_port": 1}, KONG)
    assert (store["contact_points"], store["keyspace"], store["port"], password) == (["c1"], "k", 1, "hunter2")
    assert _cassandra.target({"cassandra_username": "monitor"}, KONG)[1] is None
    store, password = _cassandra.target({"cassandra_username": "monitor", "cassandra_password": "m"}, KONG)
    assert (store["user"], password) == ("monitor", "m")
    store = _cassandra.target({"cassandra_ssl": False}, dict(KONG, cassandra_ssl="on"))[0]
    assert store["ssl"] is False


@pytest.mark.parametrize(
    "settings, datacenter, consistency",
    [
        ({}, None, "QUORUM"),
        ({"cassandra_local_datacenter": "dc1"}, None, "QUORUM"),
        ({"cassandra_local_datacenter": "dc1", "cassandra_lb_policy": "RequestDCAwareRoundRobin"}, "dc1", "LOCAL_QUORUM"),
        ({"cassandra_local_datacenter": "dc1", "cassandra_lb_policy": "RoundRobin"}, None, "QUORUM"),
    ],
)
def test_target_datacenter(settings, datacenter, consistency):
    store = _cassandra.target({}, dict(KONG, **settings))[0]
    assert (store["local_datacenter"], store["consistency"]) == (datacenter, consistency)
    assert _cassandra.target({"cassandra_consistency": "ONE"}, dict(KONG, **settings))[0]["consistency"] == "ONE"


@pytest.mark.parametrize(
    "params, settings, verify, ca_cert",
    [
        ({}, {"cassandra_ssl": "on"}, False, None),
        ({}, {"cassandra_ssl": "on", "cassandra_ssl_verify": "on", "lua_ssl_trusted_certificate": "/ca.pem,/b"}, True, "/ca.pem"),
        ({"ca_cert": "/own.pem"}, {"cassandra_ssl_verify": "on", "lua_ssl_trusted_certificate": "/ca.pem"}, True, "/own.pem"),
        ({"cassandra_ssl_verify": True}, {}, True, None),
    ],
)
def test_target_tls(params, settings, verify, ca_cert):
    store = _cassandra.target(params, dict(KONG, **settings))[0]
    assert (store["ssl_verify"], store["ca_cert"]) == (verify, ca_cert)


@pytest.mark.parametrize(
    "params, database, module",
    [
        ({}, None, _postgres), ({}, "postgres", _postgres), ({}, "cassandra", _cassandra),
        ({"cassandra_contact_points": ["c"]}, "postgres", _cassandra), ({"login_host": "h"}, "cassandra", _postgres),
        ({"cassandra_contact_points": []}, "postgres", _postgres),
    ],
)
def test_which_kind_of_database_is_meant(params, database, module):
    assert _migrate.driver(params, {"database": database}) is module


def test_options_are_those_of_the_fragment():
    documented = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    options = _cassandra.options()
    assert set(documented) == set(options)
    assert documented["cassandra_consistency"]["choices"] == options["cassandra_consistency"]["choices"]
    assert {name: entry["type"] for name, entry in documented.items()} == {
        name: entry["type"] for name, entry in options.items()}


def test_no_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "cassandra", None)
    with pytest.raises(DatabaseError, match="cassandra-driver"):
        _cassandra.connect(*_cassandra.target({}, KONG))


class Refused(Exception):
    """As NoHostAvailable."""

    errors = {"10.0.0.2": OSError("Connection refused"), "10.0.0.1": OSError("Connection refused")}


@pytest.mark.parametrize(
    "error, words",
    [
        (Refused(), "10.0.0.1: Connection refused; 10.0.0.2: Connection refused. Check cassandra_contact_points"),
        (OSError("Bad credentials: hunter2"), "cassandra_password"),
        (OSError("certificate verify failed"), "ca_cert"),
        (OSError("Name or service not known"), "Check cassandra_contact_points."),
    ],
)
def test_explain(error, words):
    message = _cassandra.explain(_cassandra.target({}, KONG)[0], error, "hunter2").message
    assert words in message and "hunter2" not in message
    assert "keyspace gateway at 10.0.0.1, 10.0.0.2 (port 9142) as gate" in message


def test_identifier():
    assert _cassandra.identifier('my "keyspace"') == '"my ""keyspace"""'


def test_a_table_that_is_listed_and_not_known():
    keyspace = object.__new__(_cassandra.Keyspace)
    keyspace.store, keyspace._password = _cassandra.target({}, KONG)
    keyspace.schema_versions = lambda: {"v1": ["10.0.0.1"]}
    keyspace.tables = lambda: ["routes", "targets"]

    def query(cql):
        if "targets" in cql:
            raise keyspace._failed("unconfigured table targets")
        return []

    keyspace.query = query
    keyspace.settle()  # a migration that makes it again may begin
    with pytest.raises(DatabaseError, match="killed while targets was made"):
        keyspace.settle(made=True)
    keyspace.tables = lambda: ["routes"]
    keyspace.settle(made=True)
