# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import json

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _conf
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import conf_review, knowledge


def review(settings, source="1.5.1", target="2.8.5"):
    return conf_review.review(settings, source, target)


def keys(entries):
    return [entry["key"] for entry in entries]


ROWS = [
    # settings, source, list that names the first key, words of what to do, proposed
    ("a key that stays", {"pg_host": "db"}, "1.5.1", None, None, {"pg_host": "db"}),
    ("a free directive", {"nginx_http_gzip": "on"}, "1.5.1", None, None, {"nginx_http_gzip": "on"}),
    ("upper case", {"PG_HOST": "db"}, "1.5.1", None, None, {"pg_host": "db"}),
    ("a list and a boolean", {"headers": ["a", "b"], "kic": True}, "2.0.5", None, None, {"headers": "a, b", "kic": "on"}),
    ("no value", {"pg_host": None}, "1.5.1", None, None, {}),
    ("mesh", {"origins": "a"}, "1.5.1", "removed", "ignores it without a word", {}),
    ("mesh is off", {"service_mesh": "off"}, "1.4.0", "removed", "ignores it without a word", {}),
    ("cluster_v2", {"cluster_v2": "on"}, "2.6.1", "removed", "ignores it", {}),
    ("a slip", {"pg_hots": "db"}, "1.5.1", "unknown", "check its spelling: neither Kong 1.5.1 nor 2.8.5", {}),
    ("custom_plugins of 1.x was never read", {"custom_plugins": "a"}, "1.0.0", "unknown", "check its spelling", {}),
    ("custom_plugins", {"custom_plugins": "a,b"}, "0.14.1", "renamed", "add its names to plugins", {"plugins": "bundled, a, b"}),
    ("custom_plugins and plugins", {"custom_plugins": "b, a", "plugins": "key-auth, a"}, "0.14.1", "renamed",
     "add its names to plugins", {"plugins": "key-auth, a, b"}),
    ("custom_plugins and none", {"plugins": "off", "custom_plugins": "a"}, "0.14.1", "renamed", "add", {"plugins": "a"}),
    ("no custom_plugins and none", {"plugins": "off", "custom_plugins": ""}, "0.14.1", "renamed", "add", {"plugins": "off"}),
    ("upstream directives", {"nginx_http_upstream_zone": "z 1m"}, "1.5.1", "renamed", "call it nginx_upstream_zone",
     {"nginx_upstream_zone": "z 1m"}),
    ("status directives", {"nginx_http_status_deny": "all"}, "1.4.0", "renamed", "call it nginx_status_deny",
     {"nginx_status_deny": "all"}),
    ("no status directives before 1.4", {"nginx_http_status_deny": "all"}, "1.3.0", None, None,
     {"nginx_http_status_deny": "all"}),
    ("a directive that begins alike", {"nginx_http_upstream_zone": "z"}, "2.0.5", None, None,
     {"nginx_http_upstream_zone": "z"}),
    ("both names of a prefix", {"nginx_http_upstream_zone": "a", "nginx_upstream_zone": "b"}, "1.5.1", "renamed newly_read",
     "nginx_upstream_zone is set and wins", {"nginx_upstream_zone": "b"}),
    ("keepalive of 1.0", {"upstream_keepalive": 120}, "1.0.0", "deprecated", "call it upstream_keepalive_pool_size",
     {"upstream_keepalive_pool_size": "120"}),
    ("keepalive of 1.3", {"nginx_http_upstream_keepalive": "NONE"}, "1.3.0", "deprecated", "call it",
     {"upstream_keepalive_pool_size": "0"}),
    ("the later name wins", {"upstream_keepalive": "1", "nginx_http_upstream_keepalive": "2"}, "1.5.1", "deprecated",
     "call it", {"upstream_keepalive_pool_size": "2"}),
    ("the later name wins, wherever it stands", {"nginx_upstream_keepalive": "3", "upstream_keepalive": "1"}, "2.0.5",
     "deprecated", "call it", {"upstream_keepalive_pool_size": "3"}),
    ("the new name wins", {"upstream_keepalive": "1", "upstream_keepalive_pool_size": "9"}, "2.1.4", "deprecated",
     "upstream_keepalive_pool_size is set and wins", {"upstream_keepalive_pool_size": "9"}),
    ("a time", {"nginx_upstream_keepalive_timeout": "1m 30s"}, "2.0.5", "deprecated", "call it",
     {"upstream_keepalive_idle_timeout": "90"}),
    ("no time", {"nginx_upstream_keepalive_timeout": "soon"}, "2.0.5", "deprecated",
     "set upstream_keepalive_idle_timeout by hand", {"nginx_upstream_keepalive_timeout": "soon"}),
    ("no time, and the new name", {"nginx_upstream_keepalive_timeout": "?", "upstream_keepalive_idle_timeout": "5"},
     "2.1.4", "deprecated", "is set and wins", {"upstream_keepalive_idle_timeout": "5"}),
    ("two keys for one", {"cassandra_consistency": "QUORUM"}, "2.0.5", "deprecated",
     "cassandra_write_consistency and cassandra_read_consistency",
     {"cassandra_write_consistency": "QUORUM", "cassandra_read_consistency": "QUORUM"}),
    ("two keys for one, one is set", {"cassandra_read_consistency": "ONE", "cassandra_consistency": "ALL"}, "2.1.4",
     "deprecated", "call it", {"cassandra_read_consistency": "ONE", "cassandra_write_consistency": "ALL"}),
    ("router_consistency", {"router_consistency": "eventual"}, "2.0.5", "deprecated", "call it worker_consistency",
     {"worker_consistency": "eventual"}),
    ("body size", {"client_max_body_size": "8m"}, "1.5.1", "deprecated", "call it nginx_http_client_max_body_size",
     {"nginx_http_client_max_body_size": "8m"}),
    ("no replacement", {"nginx_optimizations": "on"}, "1.5.1", "deprecated", "has no effect", {}),
    ("an alias is no old name", {"nginx_user": "www"}, "1.5.1", None, None, {"nginx_user": "www"}),
    ("a key of the future", {"pg_ro_host": "ro"}, "1.5.1", "newly_read", "1.5.1 ignores it and 2.8.5 will not",
     {"pg_ro_host": "ro"}),
]  # fmt: skip
LISTS = ("removed", "renamed", "deprecated", "newly_read", "unknown")


@pytest.mark.parametrize(("name", "settings", "source", "where", "do", "proposed"), ROWS, ids=[row[0] for row in ROWS])
def test_settings(name, settings, source, where, do, proposed):
    found = review(settings, source)
    assert found["proposed"] == proposed
    lists = where.split() if where else []
    assert [each for each in LISTS if found[each]] == lists
    for each in lists:
        assert set(keys(found[each])) <= set(settings)
    if lists:
        assert any(do in entry["do"] for entry in found[lists[0]])


def test_an_old_name_stays_where_the_target_does_not_know_the_new_one():
    found = conf_review.review({"upstream_keepalive": "120", "client_max_body_size": "8m"}, "0.14.1", "1.5.1")
    assert found["proposed"] == {"upstream_keepalive": "120", "client_max_body_size": "8m"} and not found["deprecated"]


def test_every_proposal_is_read_by_the_target_and_stays_as_it_is():
    """A review of what was proposed has nothing more to say."""
    for version, entry in knowledge.versions().items():
        if not entry["openresty"]:
            continue
        settings = {key: "1" for key in knowledge.conf_defaults(version)}
        proposed = review(settings, version)["proposed"]
        assert all(knowledge.key_exists("2.8.5", key) for key in proposed), version
        again = review(proposed, "2.8.5")
        assert again["proposed"] == proposed and again["diff"] == "", version
        assert [each for each in (*LISTS, "changed_defaults") if again[each]] == [], version


@pytest.mark.parametrize(
    ("source", "settings", "changed"),
    [
        ("0.14.1", {}, ["proxy_listen", "admin_listen", "nginx_main_user", "ssl_cipher_suite"]),
        ("0.14.1", {"database": "cassandra", "proxy_listen": "a", "admin_listen": "a", "ssl_cipher_suite": "old"},
         ["nginx_main_user", "cassandra_lb_policy"]),
        ("1.5.1", {"proxy_listen": "a", "admin_listen": "a", "ssl_cipher_suite": "old"},
         ["nginx_main_user", "db_cache_warmup_entities", "worker_state_update_frequency"]),
        ("2.0.5", {"nginx_user": "www"}, ["db_cache_warmup_entities", "worker_state_update_frequency"]),
        ("2.0.5", {"nginx_main_user": "www", "router_update_frequency": "2"}, ["db_cache_warmup_entities"]),
        ("2.0.5", {"nginx_user": "www", "worker_state_update_frequency": "2"}, ["db_cache_warmup_entities"]),
        ("2.2.2", {}, ["db_cache_warmup_entities", "nginx_main_user"]),
        ("2.3.4", {}, []),
        ("2.8.0", {}, []),
    ],
)  # fmt: skip
def test_changed_defaults(source, settings, changed):
    assert keys(review(settings, source)["changed_defaults"]) == changed


def test_a_changed_default_says_from_what_to_what():
    (user,) = [e for e in review({}, "2.2.2")["changed_defaults"] if e["key"] == "nginx_main_user"]
    assert user == {
        "key": "nginx_main_user",
        "from": "nobody nobody",
        "to": "kong kong",
        "do": "set it to nobody nobody if it has to stay as it was",
    }
    (suite,) = [e for e in review({}, "1.5.1")["changed_defaults"] if e["key"] == "ssl_cipher_suite"]
    assert "mean something else since Kong 2.0" in suite["do"]


def test_the_difference_is_one_of_kong_conf():
    assert review({"pg_host": "db", "router_consistency": "strict", "log_level": "info"}, "2.0.5")["diff"] == (
        "--- kong.conf of 2.0.5\n+++ kong.conf of 2.8.5\n@@ -1,3 +1,3 @@\n pg_host = db\n"
        "-router_consistency = strict\n+worker_consistency = strict\n log_level = info\n"
    )
    assert review({"pg_host": "db"})["diff"] == ""


def test_no_secret_is_told():
    found = review(
        {
            "pg_password": "hunter2",
            "pg_pasword": "hunter2",
            "cassandra_password": "hunter2",
            "nginx_http_upstream_zone": "proxy_set_header Authorization hunter2",
            "vault_env_x": "hunter2",
            "ssl_cert_key": "-----BEGIN PRIVATE KEY-----hunter2",
        }
    )
    assert "hunter2" not in json.dumps(found)
    assert found["proposed"]["pg_password"] == found["proposed"]["nginx_upstream_zone"] == _conf.MASK
    assert "-pg_pasword = %s\n" % _conf.MASK in found["diff"]


def test_the_settings_are_left_alone():
    settings = {"custom_plugins": "a", "pg_hots": "b"}
    review(settings, "0.14.1")
    assert settings == {"custom_plugins": "a", "pg_hots": "b"}


@pytest.mark.parametrize(
    ("settings", "source", "target", "error", "words"),
    [
        ({}, "3.0.0", "2.8.5", knowledge.KnowledgeError, "properties of Kong 3.0.0 are not known"),
        ({}, "2.1.9", "2.8.5", knowledge.KnowledgeError, "2.1.9 is not known"),
        ({}, "2.1.4", "2.8.1.1", knowledge.KnowledgeError, "Enterprise"),
        ({"a b": "c"}, "2.1.4", "2.8.5", ConfError, "not the name of a Kong setting"),
        ({"pg_host": "a\nb"}, "2.1.4", "2.8.5", ConfError, "line break"),
    ],
)
def test_bad_input(settings, source, target, error, words):
    with pytest.raises(error, match=words):
        review(settings, source, target)
