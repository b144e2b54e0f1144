# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a Cassandra and of one of its nodes. With real ones: tests/integration/test_cassandra_role.py."""

import socket
import threading

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra_node, _ring
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import CommandError, DatabaseError


@pytest.mark.parametrize(
    "options, told",
    [
        ({"class": "org.apache.cassandra.locator.SimpleStrategy", "replication_factor": "3"}, ("SimpleStrategy", {"*": 3})),
        ({"class": "NetworkTopologyStrategy", "dc1": "3", "dc2": "3/1"}, ("NetworkTopologyStrategy", {"dc1": 3, "dc2": 3})),
    ],
)
def test_replication(options, told):
    found = _ring._replication(options)
    assert (found["class"], found["factors"]) == told


class Answers:
    """A keyspace that answers from a dict: a part of the statement -> rows, or an error."""

    def __init__(self, answers, tables=()):
        self.answers, self.names = answers, tables
        self.store = {"keyspace": "kong", "user": "kong", "port": 9042}

    def tables(self, names=None):
        return list(self.names)

    def table(self, name):
        return '"kong"."%s"' % name

    def query(self, cql, values=None):
        rows = next(rows for part, rows in self.answers.items() if part in cql)
        if isinstance(rows, Exception):
            raise rows
        return rows


def test_what_a_role_may_do():
    rows = [
        {"resource": "<keyspace kong>", "permission": "SELECT"}, {"resource": "<all keyspaces>", "permission": "ALTER"},
        {"resource": "<keyspace other>", "permission": "DROP"},
    ]
    asked = {"list roles": [{"super": False}], "list all": rows}
    assert _ring.role(Answers(asked)) == {"superuser": False, "permissions": ["ALTER", "SELECT"]}
    assert _ring.role(Answers({**asked, "list roles": [{"super": True}]}))["permissions"] is None
    for words in ("LIST PERMISSIONS operation is not supported by AllowAllAuthorizer", "You have to be logged in and not anonymous"):
        assert _ring.role(Answers({**asked, "list all": DatabaseError(words)})) == {"superuser": None, "permissions": None}
    (told,) = _ring.role(Answers({**asked, "list all": DatabaseError("timed out")}))["warnings"]
    assert told == "what role kong may do is not known, and not judged: timed out"


def test_queries_without_words_for_cassandra_or_a_table_are_not_asked():
    at = Answers({'"kong".plugins': [{"found": "acl"}, {"found": "cors"}, {"found": "acl"}, {"found": None}]}, ["plugins"])
    queries = {
        "plugins": {"cql": "select name as found from {keyspace}.plugins", "sql": "x", "needs": ["plugins.name"]},
        "sql": {"sql": "select 1", "needs": ["plugins.name"]},
        "missing": {"cql": "select 1", "needs": ["apis.id"]},
    }
    assert _ring.answers(at, queries) == {"plugins": {"found": ["acl", "cors"], "more": False}, "sql": None, "missing": None}


def test_rows_of_a_table():
    at = Answers({
        '"acls"': [{"n": 2}], '"keys"': DatabaseError("timed out"),
        '"targets"': DatabaseError("unconfigured table targets", missing=True),  # a killed node lists it and does not know it
    }, ["acls", "keys", "targets", "locks"])
    assert _ring.counts(at) == {"acls": 2, "keys": None, "targets": 0}


def nodetool(rc, out, err=""):
    return lambda argv: (rc, out, err)


def test_the_id_of_a_node():
    assert _cassandra_node.host_id(["nodetool", "-p", "1"], nodetool(0, "ID                     : ab-1\nGossip active : true\n")) == "ab-1"
    for answer in (nodetool(1, "", "nodetool: Failed to connect to '127.0.0.1:7199'\n"), nodetool(0, "something else\n")):
        with pytest.raises(CommandError, match="nodetool info ended with"):
            _cassandra_node.host_id(["nodetool"], answer)


def test_a_client_that_comes_and_goes_is_seen():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def come_and_go():
            with socket.create_connection(("127.0.0.1", port)) as client:
                came.append(client.getsockname())
                gone.wait(10)

        came, gone = [], threading.Event()
        assert _cassandra_node.watch(port, None, 0)["clients"] == []
        thread = threading.Thread(target=come_and_go)
        timer = threading.Timer(0.5, gone.set)
        thread.start()
        timer.start()
        seen = _cassandra_node.watch(port, "127.0.0.1", 3)
        thread.join()
        assert [(client["client_addr"], client["client_port"]) for client in seen["clients"]] == came
        assert 1 <= seen["clients"][0]["samples"] < seen["samples"] and seen["sampled"] >= 3
        assert _cassandra_node.watch(port, "127.0.0.9", 0)["clients"] == []
