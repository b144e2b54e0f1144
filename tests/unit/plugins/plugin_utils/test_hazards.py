# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import hazards, knowledge

TARGET = "2.8.5"
DEBIAN = {"id": "debian", "version_id": "11", "like": [], "pretty": "Debian GNU/Linux 11 (bullseye)"}


def node(settings=None, kind="postgres", host=None):
    """A blue node as kong_version_facts tells it; host: what differs from a package on Debian 11."""
    facts = {
        "os": DEBIAN,
        "package": {"name": "kong", "version": "1", "manager": "dpkg"},
        "repositories": [
            {"path": "/etc/apt/sources.list.d/kong.list", "text": "deb https://download.konghq.com/ default"}
        ],
        "files": {"prefix": {"path": "/usr/local/kong", "exists": True, "owner": "root"}},
        "units": ["/lib/systemd/system/kong.service"],
        "templates": {"nginx_conf": None, "includes": []},
        "rocks": {},
        "plugins": {},
        "memory_bytes": 8 << 30,
    }
    return {"settings": settings or {}, "datastore": {"kind": kind}, "node": None, "host": {**facts, **(host or {})}}


def on(settings=None, kind="postgres", host=None, answers=None, green=None, **database):
    return {"node": node(settings, kind, host), "answers": answers or {}, "green": green or {}, "database": database}


def rows(name, number=0, found=("one (id-1)",)):
    return {"%s/%d" % (name, number): {"found": list(found), "more": False}}


# id -> (source version, a cluster that has it, a cluster of the same version that nearly has it)
ROWS = {
    "KONG-100-APIS": ("0.14.1", on(answers=rows("KONG-100-APIS")), on(answers={"KONG-100-APIS/0": None})),
    "KONG-100-CUSTOM-PLUGINS-KEY": ("0.14.1", on({"custom_plugins": "mine"}), on({"plugins": "bundled"})),
    "KONG-100-PLUGIN-DAO": ("0.14.1", on({"custom_plugins": "mine"}), on({"plugins": "bundled, key-auth"})),
    "KONG-100-GALILEO": (
        "0.14.1",
        on(answers={"plugins": {"found": ["galileo"]}}),
        on(answers={"plugins": {"found": ["acl"]}}),
    ),
    "KONG-100-CASS-LB": ("0.14.1", on(kind="cassandra"), on({"cassandra_lb_policy": "RoundRobin"}, kind="cassandra")),
    "KONG-100-TEMPLATE": ("0.14.1", on(host={"templates": {"nginx_conf": "/etc/kong/my.template"}}), on()),
    "KONG-120-PKGNAME": ("1.1.2", on(host={"package": {"name": "kong-community-edition", "version": "1.1.2"}}), on()),
    "KONG-130-ROUTER": ("1.2.3", on(answers=rows("KONG-130-ROUTER")), on(answers=rows("KONG-130-ROUTER", found=[]))),
    "KONG-150-PATH-HANDLING": ("1.4.3", on(answers=rows("KONG-150-PATH-HANDLING")), on()),
    "KONG-200-MIN-SOURCE": ("0.14.1", on(), None),
    "KONG-200-PENDING-15": (
        "1.5.1",
        on(answers=rows("KONG-200-PENDING-15")),
        on(answers={"KONG-200-PENDING-15/0": None}),
    ),
    "KONG-200-MESH": (
        "1.5.1",
        on({"service_mesh": "on"}),
        on({"service_mesh": "off", "proxy_listen": "0.0.0.0:80 backlog=9"}),
    ),
    "KONG-200-SIDECAR": ("1.5.1", on(answers={"plugins": {"found": ["kubernetes-sidecar-injector"]}}), on()),
    "KONG-200-INJECT-PREFIX": (
        "1.5.1",
        on({"nginx_http_upstream_hash": "x"}),
        on({"nginx_http_upstream_keepalive": "9"}),
    ),
    "KONG-200-OPTIMIZATIONS": ("1.5.1", on({"nginx_optimizations": "off"}), on()),
    "KONG-200-CACHE": ("1.5.1", on({"mem_cache_size": "6g"}), on({"mem_cache_size": "128m"})),
    "KONG-200-TEMPLATE": ("1.5.1", on(host={"templates": {"nginx_conf": "/etc/kong/my.template"}}), on()),
    "KONG-200-TRUSTED-CERT": (
        "1.5.1",
        on(host={"files": {"lua_ssl_trusted_certificate": {"path": "/x.pem", "exists": False, "owner": None}}}),
        on(host={"files": {"lua_ssl_trusted_certificate": {"path": "/x.pem", "exists": True, "owner": "root"}}}),
    ),
    "KONG-200-CIPHERS": ("1.5.1", on({"ssl_cipher_suite": "modern"}), on({"ssl_cipher_suite": "intermediate"})),
    "KONG-200-SYSTEMD": ("1.5.1", on(host={"units": ["/etc/systemd/system/kong.service"]}), on()),
    "KONG-210-WORKSPACES": ("2.0.5", on(kind="cassandra"), on()),
    "KONG-210-BALANCER": ("2.1.0", on(), None),
    "KONG-210-ALLOW-DENY": ("2.0.5", on(answers=rows("KONG-210-ALLOW-DENY")), on()),
    "KONG-210-KEEPALIVE-KEYS": (
        "2.0.5",
        on({"nginx_upstream_keepalive": "9"}),
        on({"upstream_keepalive_pool_size": "9"}),
    ),
    "KONG-210-WORKER-CONSISTENCY": ("2.0.5", on({"router_consistency": "eventual"}), on()),
    "KONG-210-CASS-CONSISTENCY": (
        "2.0.5",
        on({"cassandra_consistency": "QUORUM"}, kind="cassandra"),
        on({"cassandra_consistency": "QUORUM"}),
    ),
    "KONG-210-BODY-KEYS": ("2.0.5", on({"client_max_body_size": "8m"}), on({"nginx_http_client_max_body_size": "8m"})),
    "KONG-210-GOPLUGINSERVER": (
        "2.0.5",
        on({"go_plugins_dir": "/opt/go"}),
        on({"go_plugins_dir": "/opt/go"}, green={"pluginserver_names": "go"}),
    ),
    "KONG-210-CUSTOM-PLUGIN-DB": (
        "2.0.5",
        on({"plugins": "bundled, mine"}),
        on(
            {"plugins": "bundled, mine"},
            host={"plugins": {"mine": {"has_daos": False, "has_migrations": False, "base_plugin": False}}},
        ),
    ),
    "KONG-220-TARGETS": ("2.1.4", on(answers=rows("KONG-220-TARGETS")), on()),
    "KONG-220-DBVERSION": (
        "2.1.4",
        on(server_version="9.4.24"),
        on(server_version="9.5.25"),
    ),
    "KONG-230-NGINX-USER": (
        "2.2.2",
        on(answers=rows("KONG-230-NGINX-USER")),
        on({"nginx_user": "www"}, answers=rows("KONG-230-NGINX-USER")),
    ),
    "KONG-222-SERVERLESS-SANDBOX": (
        "2.2.1",
        on(answers=rows("KONG-222-SERVERLESS-SANDBOX")),
        on(answers=rows("KONG-222-SERVERLESS-SANDBOX"), green={"untrusted_lua": "on"}),
    ),
    "KONG-230-CENTOS6": ("2.2.2", on(host={"os": {"id": "centos", "version_id": "6.10"}}), on()),
    "KONG-230-CPDP": ("2.2.2", on({"role": "control_plane"}), on({"role": "traditional"})),
    "KONG-230-REQ-TRANSFORMER": ("2.2.2", on(answers=rows("KONG-230-REQ-TRANSFORMER")), on()),
    "KONG-230-PLUGINSERVER-KEYS": ("2.2.2", on({"go_pluginserver_exe": "/x"}), on({"go_plugins_dir": "off"})),
    "KONG-241-BINTRAY": (
        "2.4.0",
        on(host={"repositories": [{"path": "/l", "text": "deb https://kong.bintray.com/"}]}),
        on(),
    ),
    "KONG-260-OPENRESTY": ("2.5.2", on(host={"package": {"name": None}}), on()),
    "KONG-270-CASSANDRA": ("2.7.2", on(kind="cassandra"), on()),
    "KONG-270-BASEPLUGIN": (
        "2.6.1",
        on({"plugins": "bundled,mine"}, host={"plugins": {"mine": {"base_plugin": True}}}),
        on({"plugins": "bundled,mine"}),
    ),
    "KONG-270-AMZN1": (
        "2.6.1",
        on(host={"os": {"id": "amzn", "version_id": "2018.03"}}),
        on(host={"os": {"id": "amzn", "version_id": "2"}}),
    ),
    "KONG-280-GOPLUGINSERVER": ("2.7.2", on({"go_plugins_dir": "/opt/go"}), on({"go_plugins_dir": "off"})),
    "CUSTOM-TEMPLATE": ("2.1.4", on(host={"templates": {"nginx_conf": "/etc/kong/my.template"}}), on()),
    "NGINX-INCLUDES": (
        "2.7.2",
        on(host={"templates": {"includes": [{"key": "nginx_http_include", "file": "/x"}]}}),
        on(),
    ),
    "KONG-280-VAULTS": ("2.7.2", on({"log_level": "{vault://env/x}"}), on({"log_level": "vault"})),
    "KONG-280-CORS": ("2.7.2", on(answers=rows("KONG-280-CORS")), on()),
    "KONG-280-AWS-PROXY": ("2.7.2", on(answers=rows("KONG-280-AWS-PROXY")), on()),
    "KONG-283-DISTROS": (
        "2.7.2",
        on(host={"os": {"id": "ubuntu", "version_id": "16.04"}}),
        on(host={"os": {"id": "ubuntu", "version_id": "22.04"}}),
    ),
    "CENTOS-END-OF-LIFE": ("2.7.2", on(host={"os": {"id": "centos", "version_id": "7"}}), on()),
    "LOCAL-RATE-LIMITS": ("2.7.2", on(answers=rows("LOCAL-RATE-LIMITS")), on()),
    "READ-REPLICA": ("2.7.2", on({"pg_ro_host": "replica"}), on()),
    "TWO-DEFAULT-WORKSPACES": ("2.7.2", on(answers=rows("TWO-DEFAULT-WORKSPACES")), on()),
    "SERVER-TOKENS-TWICE": (
        "1.3.1",
        on({"nginx_http_server_tokens": "off"}),
        on({"nginx_http_server_tokens": "off"}, green={"nginx_http_server_tokens": ""}),
    ),
    "PLUGINS-NOT-LOADED": (
        "2.7.2",
        on(answers={"plugins": {"found": ["mine"]}}),
        on({"plugins": "bundled, mine"}, answers={"plugins": {"found": ["mine", "acl"]}}),
    ),
}
# Never found on a cluster of today, whatever it holds: only a person can tell.
ASKED = [name for name, entry in knowledge._table("hazards")["hazards"].items() if "ask" in entry]


def ids(cluster, source):
    database = {**cluster["database"], "answers": cluster["answers"]}
    found = hazards.find({"b1": cluster["node"]}, database, source, TARGET, cluster["green"])
    return {hazard["id"]: hazard for hazard in found["hazards"]}


def test_every_hazard_has_a_row():
    assert set(ROWS) | set(ASKED) == set(knowledge.hazard_ids())


@pytest.mark.parametrize("name", ROWS)
def test_found_where_it_is(name):
    source, has, nearly = ROWS[name]
    hazard = ids(has, source)[name]
    assert hazard["where"] in ("b1", "database") and "(found: " in hazard["what"] and hazard["do"] and hazard["source"]
    if nearly:
        assert name not in ids(nearly, source)


@pytest.mark.parametrize("source", ["1.0.4", "1.5.1", "2.0.5", "2.1.4", "2.7.2", "2.8.1", "2.8.5"])
def test_a_default_install_has_none(source):
    assert ids(on(answers={"plugins": {"found": []}}, server_version="13.4 (Debian 13.4-1)"), source) == {}


def test_a_default_install_of_0_14_is_told_that_it_takes_two_hops():
    assert list(ids(on(), "0.14.1")) == ["KONG-200-MIN-SOURCE"]


def test_custom_plugins_counts_where_it_is_read():
    assert "KONG-210-CUSTOM-PLUGIN-DB" in ids(on({"custom_plugins": "mine"}), "0.14.1")
    assert ids(on({"custom_plugins": "mine"}), "1.5.1") == {}


def test_what_is_over_is_not_told():
    _source, has, _nearly = ROWS["KONG-100-CUSTOM-PLUGINS-KEY"]
    assert "KONG-100-CUSTOM-PLUGINS-KEY" not in ids(has, "1.0.0")
    assert "KONG-210-BALANCER" not in ids(on(), "2.1.2")


def test_on_the_way_from_0_14_to_1_5():
    """What concerns every way is told there as well, and routes keep their path handling, which 2.x has, too."""
    seen = {"nginx_conf": "/etc/kong/my.template", "includes": [{"key": "nginx_http_include", "file": "/x"}]}
    answers = {"plugins": {"found": ["galileo,mine"]}, **rows("KONG-150-PATH-HANDLING"), **rows("LOCAL-RATE-LIMITS")}
    found = hazards.find({"b1": node(host={"templates": seen})}, {"answers": answers}, "0.14.1", "1.5.1", {})["hazards"]
    assert {hazard["id"]: hazard["severity"] for hazard in found} == {
        "KONG-100-GALILEO": "block",
        "KONG-100-TEMPLATE": "block",
        "PLUGINS-NOT-LOADED": "block",
        "LOCAL-RATE-LIMITS": "info",
        "NGINX-INCLUDES": "info",
    }


def test_a_plugin_with_a_hazard_of_its_own_is_told_once():
    answers = {"plugins": {"found": ["kubernetes-sidecar-injector,mine"]}}
    found = ids(on(answers=answers), "1.5.1")
    assert "KONG-200-SIDECAR" in found and found["PLUGINS-NOT-LOADED"]["what"].endswith("(found: plugin mine)")


def test_path_handling_is_told_to_1_5_as_well():
    assert "KONG-150-PATH-HANDLING" in ids(on(answers=rows("KONG-150-PATH-HANDLING")), "1.5.1")
    assert "KONG-150-PATH-HANDLING" not in ids(on(answers=rows("KONG-150-PATH-HANDLING")), "2.0.5")


def test_nothing_is_concluded_from_what_is_not_known():
    blank = dict(on(), node={"settings": {}, "datastore": None, "node": None})
    assert ids(blank, "2.1.4") == {}


def test_one_hazard_on_several_hosts_is_one_entry():
    nodes = {"b2": node({"client_max_body_size": "8m"}), "b1": node({"client_max_body_size": "9m"})}
    (hazard,) = hazards.find(nodes, {}, "2.0.5", TARGET, {})["hazards"]
    assert hazard["where"] == "b1, b2" and "8m" in hazard["what"] and "9m" in hazard["what"]


def test_a_custom_template_is_told_with_the_dictionaries_that_it_lacks():
    directives = ["lua_shared_dict kong", "lua_shared_dict kong_db_cache", "lua_shared_dict kong_core_db_cache"]
    seen = {"nginx_conf": "/etc/kong/my.template", "directives": directives}
    what = ids(on(host={"templates": seen}), "1.5.1")["KONG-200-TEMPLATE"]["what"]
    assert (
        "my.template, which lacks the dictionaries " in what
        and "kong_core_db_cache_miss" in what
        and "kong_core_db_cache," not in what
    )
    seen["directives"] = ["include 'nginx-kong.conf'"]
    assert "lacks" not in ids(on(host={"templates": seen}), "1.5.1")["KONG-200-TEMPLATE"]["what"]


def test_what_concerns_the_new_hosts_is_looked_for_there():
    old = node(
        host={"os": {"id": "debian", "version_id": "9", "pretty": "Debian 9"}, "rocks": {"kong-plugin-acme": "0.2"}}
    )
    new = node()

    def found(blue, green):
        rows = hazards.find({"b1": blue}, {}, "2.1.4", TARGET, {}, green)["hazards"]
        return {(row["id"], row["severity"], row["where"]) for row in rows}

    assert found(old, {"g1": new}) == found(old, {}) == set()
    assert found(new, {"g1": old}) == {("KONG-283-DISTROS", "block", "g1"), ("KONG-260-OPENRESTY", "warn", "g1")}
    assert found(old, None) == {("KONG-283-DISTROS", "info", "b1"), ("KONG-260-OPENRESTY", "info", "b1")}


@pytest.mark.parametrize(
    "system, told",
    [
        ({"id": "debian", "version_id": "12", "like": []}, True),
        ({"id": "debian", "version_id": "11", "like": []}, False),
        ({"id": "rhel", "version_id": "8.6", "like": ["fedora"]}, False),
        ({"id": "rocky", "version_id": "9.1", "like": ["rhel", "centos"]}, False),  # nobody said anything of it
        ({"id": "alpine", "version_id": "3.15", "like": []}, False),
        ({"id": "debian", "version_id": None, "like": []}, False),
    ],
)
def test_distributions(system, told):
    assert ("KONG-283-DISTROS" in ids(on(host={"os": system}), "2.7.2")) == told


def test_centos_6_by_its_family():
    assert "KONG-230-CENTOS6" in ids(on(host={"os": {"id": "ol", "version_id": "6.9", "like": ["rhel"]}}), "2.2.1")


def test_a_plugin_may_stand_in_kong_conf_alone():
    assert "KONG-200-SIDECAR" in ids(on({"plugins": "bundled, kubernetes-sidecar-injector"}), "1.5.1")


def test_a_path_that_may_not_be_looked_at_is_not_missing():
    seen = {"files": {"lua_ssl_trusted_certificate": {"path": "/etc/kong/x.pem", "exists": None, "owner": None}}}
    assert "KONG-200-TRUSTED-CERT" not in ids(on(host=seen), "1.5.1")


def test_files_that_the_new_user_of_the_workers_may_not_touch():
    seen = {"files": {"proxy_access_log": {"path": "/var/log/kong/proxy.log", "exists": True, "owner": "nobody"}}}
    assert "proxy_access_log = /var/log/kong/proxy.log" in ids(on(host=seen), "2.1.4")["KONG-230-NGINX-USER"]["what"]
    assert "KONG-230-NGINX-USER" not in ids(on({"nginx_user": "www"}, host=seen), "2.1.4")


def test_scram_is_asked_where_the_server_would_store_it():
    def asked(how):
        found = hazards.find({"b1": node()}, {"password_encryption": how}, "2.1.4", TARGET, {})
        return "SCRAM-PASSWORDS" in [row["id"] for row in found["checklist"]]

    assert asked("scram-sha-256") and not asked("md5")


def test_many_places_are_counted():
    found = ["row %d" % number for number in range(9)]
    hazard = ids(on(answers=rows("KONG-220-TARGETS", found=found)), "2.1.4")["KONG-220-TARGETS"]
    assert hazard["what"].endswith("row 0; row 1; row 2; row 3; row 4; 4 more)")


def test_the_gravest_come_first():
    settings = {"client_max_body_size": "1m", "go_plugins_dir": "/go", "router_consistency": "strict"}
    severities = [hazard["severity"] for hazard in ids(on(settings), "2.0.5").values()]
    assert severities == sorted(severities, key=hazards.SEVERITIES.index) and severities[0] == "block"


def test_the_checklist_asks_only_what_may_concern_this_cluster():
    def asked(source, settings=None):
        return {row["id"] for row in hazards.find({"b1": node(settings)}, {}, source, TARGET, {})["checklist"]}

    assert asked("2.7.2") == set()
    assert "KONG-100-ADMIN" in asked("0.14.1") and "KONG-100-ADMIN" not in asked("1.0.0")
    assert "KONG-220-CLUSTER-STATUS" not in asked("2.1.4")
    assert "KONG-220-CLUSTER-STATUS" in asked("2.1.4", {"role": "control_plane"})
    assert set(ASKED) >= asked("0.14.1") >= {"KONG-200-REUSEPORT"}


KEYS = {"version", "area", "severity", "summary", "action", "source", "detect", "ask", "if", "unless", "from", "handled_by", "until"}
KINDS = set(
    "absent by_hand custom_plugins custom_template database files_of includes key key_regex memory_below_twice os os_not_in package "
    "password_encryption path_missing plugin plugins_not_loaded repository rocks running server_too_old source_below sql unit_file".split()
)


@pytest.mark.parametrize("name", knowledge._table("hazards")["hazards"])
def test_the_data_is_well_formed(name):
    entry = knowledge._table("hazards")["hazards"][name]
    assert entry.get("until", "finish") == "finish"
    assert set(entry) <= KEYS and {"area", "severity", "summary", "source"} <= set(entry)
    assert entry["severity"] in hazards.SEVERITIES and ("ask" in entry) != ("detect" in entry)
    for detector in entry.get("detect", []) + [entry[key] for key in ("if",) if key in entry]:
        assert KINDS & set(detector) and set(detector) <= KINDS | {"value", "needs"}
        assert ("sql" in detector) == ("needs" in detector)
