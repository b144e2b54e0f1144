# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import re
import time

import pytest
import yaml
from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge

DATA = {name: knowledge._table(name) for name in ("versions", "paths", "migrations", "conf_keys")}
VERSION = re.compile(r"\d+\.\d+\.\d+$")
ID = re.compile(r"\d{3}_\w+$")


def number(version):
    return tuple(int(part) for part in version.split("."))


# --- the shape of the data -------------------------------------------------------------------------------------------


def test_versions_have_their_shape():
    table = DATA["versions"]
    assert table["schema"] == 1
    assert list(table["versions"]) == sorted(table["versions"], key=number)
    for version, entry in table["versions"].items():
        assert VERSION.match(version)
        assert re.match(r"20\d\d-\d\d-\d\d$", entry["date"]), version
        assert set(entry) in ({"date"}, {"date", "openresty", "nginx"}), version
        assert set(entry) == {"date"} or number(version) < (3,)


def test_paths_have_their_shape():
    table, known = DATA["paths"], DATA["versions"]["versions"]
    assert table["schema"] == 1
    assert set(table["never_a_stop"]) <= set(known)
    for row in table["hops"]:
        assert set(row) - {"datastore", "allows", "measured"} == {"from", "below", "to", "strategy", "why", "docs"}
        assert number(row["from"]) < number(row["below"])
        assert row["to"] in (set(known) - set(table["never_a_stop"])) | set(table["targets"])
        assert row["strategy"] in ("blue_green", "rolling", "new_keyspace", "downtime_window")
        assert row.get("datastore", "postgres") in knowledge.DATASTORES


def test_migrations_have_their_shape():
    table = DATA["migrations"]
    assert table["schema"] == 1
    for subsystem, rows in table["subsystems"].items():
        ids = [row["id"] for row in rows]
        assert len(ids) == len(set(ids)), subsystem
        for row in rows:
            assert set(row) <= {"id", "since", "until", "rock_until", "finish", "destructive"}, row
            assert ID.match(row["id"])
            for key in {"since", "until", "rock_until"} & set(row):
                assert row[key] in DATA["versions"]["versions"], row
            assert set(row.get("finish", {})) <= set(knowledge.DATASTORES)
            assert set(row.get("destructive", [])) <= set(row.get("finish", {})), row


def test_properties_have_their_shape():
    table = DATA["conf_keys"]
    assert table["schema"] == 1
    minors = list(table["minors"])
    assert minors == sorted(minors, key=number)
    assert minors[0] == "0.14" and minors[-1] == "2.8"
    for name, change in table["minors"].items():
        assert set(change) <= {"set", "removed"}, name
        assert all(isinstance(value, str) for value in change["set"].values()), name
        assert all(re.match(r"[a-z0-9_]+$", key) for key in change["set"]), name
    for entry in table["deprecated"].values():
        assert set(entry) <= {"since", "by"}


def test_reading_is_fast_and_happens_once():
    knowledge._table.cache_clear()
    knowledge._defaults.cache_clear()
    begun = time.process_time()
    knowledge.hops("2.1.4", "2.8.5"), knowledge.migrations_of("2.8.5"), knowledge.conf_defaults("2.8.5")
    if hasattr(yaml, "CSafeLoader"):
        assert time.process_time() - begun < 0.25  # 0.01 s on an idle machine
    for _again in range(3):
        knowledge.conf_defaults("2.8.5")
    assert knowledge._table.cache_info().misses == 4


def test_what_is_returned_is_the_callers_own():
    knowledge.migrations_of("2.8.5")["core"].clear()
    knowledge.conf_defaults("2.8.5").clear()
    knowledge.conf_prefixes("2.8.5").clear()
    knowledge.versions()["2.8.5"]["nginx"].clear()
    assert knowledge.migrations_of("2.8.5")["core"] and knowledge.conf_defaults("2.8.5")
    assert knowledge.conf_prefixes("2.8.5") and knowledge.versions()["2.8.5"]["nginx"]


# --- versions and paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minor", "newest"), [("0.14", "0.14.1"), ("2.0", "2.0.5"), ("2.8", "2.8.5"), ("3.9", "3.9.3")]
)
def test_newest(minor, newest):
    assert knowledge.newest(minor) == newest


def test_newest_of_nothing():
    with pytest.raises(knowledge.KnowledgeError, match=r"no release of Kong 2\.9 is known"):
        knowledge.newest("2.9")


@pytest.mark.parametrize(
    ("version", "edition"),
    [
        ("2.8.5", "oss"),
        ("0.14.1", "oss"),
        ("2.8.1.1", "enterprise"),
        ("2.1.4.6-enterprise-edition", "enterprise"),
        ("0.36-2-enterprise-edition", "enterprise"),
        ("1.5.0.11", "enterprise"),
        ("0.36-2", "enterprise"),
    ],
)
def test_edition(version, edition):
    assert knowledge.edition(version) == edition


@pytest.mark.parametrize(
    "source", ["1.0.0", "1.0.4", "1.1.0", "1.5.1", "2.0.5", "2.1.0", "2.1.4", "2.7.2", "2.8.0", " 2.8.4\n"]
)
def test_one_hop(source):
    assert [hop["to"] for hop in knowledge.hops(source, "2.8.5")] == ["2.8.5"]


def test_no_hop():
    assert knowledge.hops("2.8.5", "2.8.5") == []


@pytest.mark.parametrize("source, stops", [("0.14.1", ["1.5.1", "2.8.5"]), ("0.11.2", ["0.14.1", "1.5.1", "2.8.5"])])
def test_several_hops(source, stops):
    assert [hop["to"] for hop in knowledge.hops(source, "2.8.5")] == stops


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("2.8.5", "2.1.4", "2.1.4 is older than 2.8.5, .*downgrade"),
        ("3.4.2", "2.8.5", "2.8.5 is older than 3.4.2, .*downgrade"),
        ("2.1.4", "3.4.2", "3.4.2 is not a version that this collection upgrades to: choose 2.8.5"),
        ("2.1.4", "2.7.2", "2.7.2 is not a version that this collection upgrades to"),
        ("2.8.1.1", "2.8.5", "source 2.8.1.1 is Kong Enterprise"),
        ("2.1.4", "2.8.4.1", "target 2.8.4.1 is Kong Enterprise"),
        ("2.1.9", "2.8.5", r"2.1.9 is not known; known of 2.1: 2.1.0, .*2.1.4$"),
        ("2.9.0", "2.8.5", "2.9.0 is not known; known are 0.14.1 to 3.9.3"),
        ("2.1.4", "2.8", "'2.8' is no version of Kong, which look like 2.8.5"),
        (None, "2.8.5", "'None' is no version"),
        ("", "2.8.5", "'' is no version"),
    ],
)
def test_no_way(source, target, words):
    with pytest.raises(knowledge.KnowledgeError, match=words):
        knowledge.hops(source, target)


def test_only_targets_are_targets():
    targets = {v for v, entry in knowledge.versions().items() if entry["target"]}
    assert targets == {"1.5.1"} | {"2.8.%d" % n for n in range(6)}


def test_a_stop_is_a_target_only_on_the_way():
    assert [hop["to"] for hop in knowledge.hops("0.14.1", "1.5.1")] == ["1.5.1"]
    assert [hop["to"] for hop in knowledge.hops("0.13.0", "1.5.1")] == ["0.14.1", "1.5.1"]
    with pytest.raises(knowledge.KnowledgeError, match="not a version that this collection upgrades to"):
        knowledge.hops("1.2.0", "1.5.1")


def test_migrations_of_the_first_hop_from_0_14():
    new = knowledge.new_in_up("0.14.1", "1.5.1")
    assert new == knowledge.migrations_of("1.5.1")
    assert knowledge.pending_after_up("0.14.1", "1.5.1")["core"] == ["001_14_to_15", "002_15_to_1", "005_120_to_130"]
    with pytest.raises(knowledge.KnowledgeError, match="migrations of Kong 0.14.1 are not known"):
        knowledge.new_in_up("0.14.1", "2.8.5")


def test_a_hazard_that_a_hop_sees_to():
    assert "KONG-100-APIS" not in knowledge.hazards("0.14.1", "1.5.1")
    assert "KONG-100-APIS" in knowledge.hazards("0.14.1", "2.8.5")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [("2.8.0", "2.8.5", True), ("2.1.4", "2.8.5", False), ("2.1.3", "2.1.4", True), ("3.0.0", "3.0.1", False)],
)
def test_same_openresty(left, right, same):
    assert knowledge.same_openresty(left, right) is same


@pytest.mark.parametrize(
    ("left", "right", "sign"), [("2.8.5", "2.10.0", -1), ("2.8.5", "2.8.5", 0), ("1.0.0", "0.14.1", 1)]
)
def test_compare(left, right, sign):
    assert knowledge.compare(left, right) == sign


def test_datastore_minimum():
    assert knowledge.datastore_minimum("2.8.5") == "9.5"
    assert knowledge.datastore_minimum("2.1.4", "cassandra") == "2.2"
    assert knowledge.datastore_minimum("2.8.5", "cassandra") == "3.0"
    with pytest.raises(knowledge.KnowledgeError, match="mysql"):
        knowledge.datastore_minimum("2.8.5", "mysql")


# --- migrations ------------------------------------------------------------------------------------------------------


def test_migrations_of_a_version():
    known = knowledge.migrations_of("2.8.5")
    assert list(known)[0] == "core"
    assert known["core"][0] == "000_base" and known["core"][-1] == "015_270_to_280"
    assert known["acl"] == ["000_base_acl", "002_130_to_140", "003_200_to_210", "004_212_to_213"]
    assert sum(len(ids) for ids in known.values()) == 43
    assert "001_14_to_15" in knowledge.migrations_of("1.5.1")["core"]
    assert "001_14_to_15" not in knowledge.migrations_of("2.0.0")["core"]


@pytest.mark.parametrize(
    ("source", "new", "pending", "destructive"),
    [
        ("2.8.5", {}, {}, {}),
        ("2.7.2", {"core": ["015_270_to_280"]}, {}, {}),
        ("2.2.2", {"core": ["013_220_to_230", "014_230_to_270", "015_270_to_280"]}, {}, {}),
        (
            "2.1.4",
            {
                "core": ["012_213_to_220", "013_220_to_230", "014_230_to_270", "015_270_to_280"],
                "session": ["001_add_ttl_index"],
            },
            {"core": ["012_213_to_220"]},
            {"core": ["012_213_to_220"]},
        ),
    ],
)
def test_what_up_runs_and_leaves_on_postgres(source, new, pending, destructive):
    assert knowledge.new_in_up(source, "2.8.5") == new
    assert knowledge.pending_after_up(source, "2.8.5") == pending
    assert knowledge.destructive_in_finish(source, "2.8.5") == destructive


def test_finish_from_2_0_rewrites_access_lists():
    assert knowledge.destructive_in_finish("2.0.5", "2.8.5") == {
        "core": ["009_200_to_210", "012_213_to_220"],
        "acl": ["003_200_to_210"],
        "bot-detection": ["001_200_to_210"],
        "ip-restriction": ["001_200_to_210"],
    }


def test_a_second_phase_may_come_later_and_on_one_datastore():
    assert knowledge.pending_after_up("2.2.2", "2.3.4", "cassandra") == {}
    assert knowledge.pending_after_up("2.2.2", "2.8.5", "cassandra") == {"core": ["013_220_to_230"]}
    with pytest.raises(knowledge.KnowledgeError, match="mysql"):
        knowledge.pending_after_up("2.2.2", "2.8.5", "mysql")


@pytest.mark.parametrize("version", ["0.14.1", "3.0.0"])
def test_migrations_that_are_not_known(version):
    with pytest.raises(knowledge.KnowledgeError, match="migrations of Kong .* are not known"):
        knowledge.migrations_of(version)


# --- kong.conf -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "count"), [("0.14.1", 72), ("1.5.1", 91), ("2.0.5", 113), ("2.1.4", 145), ("2.8.5", 164)]
)
def test_number_of_properties(version, count):
    assert len(knowledge.conf_defaults(version)) == count


def test_defaults():
    assert knowledge.conf_defaults("2.1.4")["nginx_main_user"] == "nobody nobody"
    assert knowledge.conf_defaults("2.8.5")["nginx_main_user"] == "kong kong"
    assert knowledge.conf_defaults("2.8.5")["pg_port"] == "5432"
    assert knowledge.conf_defaults("0.15.0") == knowledge.conf_defaults("1.0.4")
    with pytest.raises(knowledge.KnowledgeError, match="properties of Kong 3.0.0"):
        knowledge.conf_defaults("3.0.0")


@pytest.mark.parametrize(
    ("version", "key", "there"),
    [
        ("2.8.5", "pg_host", True),
        ("2.8.5", "PG_HOST", True),
        ("2.8.5", "custom_plugins", False),
        ("0.14.1", "custom_plugins", True),
        ("2.0.5", "ssl_protocols", False),
        ("2.8.5", "ssl_protocols", True),
        ("2.8.5", "nginx_http_lua_shared_dict", True),
        ("2.8.5", "nginx_http_", False),
        ("2.8.5", "vault_env_prefix", True),
        ("2.7.2", "vault_env_prefix", False),
        ("2.8.5", "router_consistency", True),
        ("2.8.5", "origins", False),
    ],
)
def test_whether_a_version_reads_a_property(version, key, there):
    assert knowledge.key_exists(version, key) is there


def test_deprecated_properties():
    assert knowledge.key_deprecated("2.8.5", "client_max_body_size") == ["nginx_http_client_max_body_size"]
    assert knowledge.key_deprecated("2.0.5", "client_max_body_size") is None
    assert knowledge.key_deprecated("2.8.5", "nginx_optimizations") == []
    assert knowledge.key_deprecated("2.8.5", "pg_host") is None
    assert knowledge.key_deprecated("1.5.1", "upstream_keepalive") is None, "its successor came with 2.1"
    assert knowledge.key_deprecated("2.1.4", "upstream_keepalive") == ["upstream_keepalive_pool_size"]
    assert knowledge.key_alias("nginx_user") == "nginx_main_user"
    assert knowledge.key_alias("pg_host") is None


def test_changes_of_properties():
    changes = knowledge.conf_changes("2.7.2", "2.8.5")
    assert changes == {"added": ["vaults", "cluster_max_payload"], "removed": [], "changed": {}}
    assert knowledge.conf_changes("2.6.1", "2.8.5")["removed"] == ["cluster_v2"]
    assert knowledge.conf_changes("2.3.4", "2.8.5")["changed"] == {}
    assert knowledge.conf_changes("2.1.4", "2.8.5")["changed"]["nginx_user"] == ["nobody nobody", "kong kong"]


@pytest.mark.parametrize(
    ("control", "data", "serves"),
    [
        ("2.2.2", "2.0.5", True),
        ("2.2.2", "2.8.5", True),
        ("2.3.3", "2.3.0", True),
        ("2.3.3", "2.2.2", False),
        ("2.4.1", "2.3.3", True),
        ("2.8.0", "2.8.5", True),
        ("2.7.2", "2.8.0", False),
        ("2.8.5", "1.5.1", False),
        ("1.5.1", "1.5.1", False),
    ],
)
def test_which_data_planes_a_control_plane_serves(control, data, serves):
    assert (knowledge.skew(control, data) is None) is serves


@pytest.mark.parametrize(
    ("version", "key", "meant"),
    [
        ("2.8.5", "proxy_lsten", "proxy_listen"),
        ("2.8.5", "Worker_Processes", "nginx_worker_processes"),
        ("2.8.5", "proxy_listen", None),
        ("2.8.5", "anything", None),
        ("1.5.1", "pg_ro_host", None),  # like pg_host, and of a later version
        ("2.8.5", "cassandra_read_consistencY", None),
    ],
)
def test_which_property_was_meant(version, key, meant):
    assert knowledge.key_meant(version, key) == meant
