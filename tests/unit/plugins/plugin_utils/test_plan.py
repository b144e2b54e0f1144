# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import green_conf, knowledge, plan
from ansible_collections.bluegreen.kong.plugins.plugin_utils.survey import at_work, locked
from handbook import unexplained

DATASTORE = {"kind": "postgres", "host": "db", "port": 5432, "database": "kong", "user": "kong", "schema": "public"}
HELD = {"refused": True, "expires_in": 60, "holder": {"run_id": "r1", "controller": "here", "pid": 7, "since": 0}}


def gateway(name, version, address, running=True, **more):
    settings = {
        "proxy_listen": "0.0.0.0:8000",
        "pg_host": "db",
        "pg_password": "******",
        "admin_listen": "0.0.0.0:8001",
        "db_update_frequency": "2",
    }
    node = {
        "version": version,
        "settings": dict(settings, log_level="debug", pg_timeout="60000"),
        "listeners": {"admin": [{"port": 8001}]},
        "admin_open": True,
        "database_reachable": True,
    }
    found = {
        "version": version,
        "edition": "oss",
        "executable": "/usr/local/bin/kong",
        "conf": "/etc/kong/kong.conf",
        "prefix": "/usr/local/kong",
        "machine": name,
        "nodename": name + ".example.com",
        "own_addresses": [address],
        "datastore": dict(DATASTORE),
        "settings": settings,
        "running": running,
        "node": node if running else None,
        "fenced": False,
        "fence_possible": True,
        "errors": [],
    }
    return dict(found, **more)


def server(name, weight, **more):
    return dict(
        {"backend": "kong", "name": name, "weight": weight, "admin_state": "ready", "status": "UP", "check_port": None},
        **more,
    )


@pytest.fixture(name="survey")
def fixture_survey():
    hosts = {}
    for number in (1, 2):
        hosts["b%d" % number] = {"gateway": gateway("b%d" % number, "2.1.4", "10.0.0.%d" % number)}
        green = gateway("g%d" % number, "2.8.5", "10.0.1.%d" % number, running=False, settings={})
        hosts["g%d" % number] = {"gateway": green}
    for name, host in hosts.items():
        host.update(
            name=name,
            error=None,
            install="preinstalled",
            nginx_conf="",
            package="kong",
            install_tasks=False,
            settings={},
            secret_settings=["pg_password"] if name.startswith("g") else [],
        )
    servers = [server("b1", 100), server("b2", 50), server("g1", 0), server("g2", 0)]
    process = {
        "socket": "/run/haproxy.sock",
        "level": "admin",
        "state_file": "/var/lib/haproxy/state",
        "backends": {
            "kong": {"algo": "roundrobin", "weights": "dynamic", "cookie": None, "stick": None, "load_state": "global"}
        },
        "servers": servers,
    }
    return {
        "options": {
            "blue_group": "kong_blue",
            "green_group": "kong_green",
            "lb_group": "kong_lb",
            "batches": [],
            "gone": [],
            "target_version": "2.8.5",
            "strategy": "blue_green",
            "measured_way": False,
            "phases": ["stage", "backup", "expand", "start", "shift", "retire"],
            "steps": [25, 100],
            "finish_leftovers": False,
            "install": "preinstalled",
            "looks": "",
            "backup": "dump",
            "backup_dir": "/var/lib/kong_upgrade/backup",
            "backup_command_given": False,
            "password_given": True,
            "database_host": "g1",
            "runner": "g1",
            "backends": [],
            "accepted_hazards": [],
            "max_transaction_age": 10,
            "base_weights": {},
        },
        "groups": {"blue": ["b1", "b2"], "green": ["g1", "g2"], "lb": ["lb1"], "batches": {}},
        "play_hosts": ["b1", "b2", "g1", "g2", "lb1"],
        "hosts": hosts,
        "lbs": {"lb1": {"balancers": [process], "base": {}, "error": None, "locked": None}},
        "invalid": {},
        "uneven": {},
        "database": {
            "host": "db",
            "port": 5432,
            "server_version_num": 150018,
            "in_recovery": False,
            "clients": {
                "pg_dump": {"path": "/usr/bin/pg_dump", "major": 15},
                "pg_restore": {"path": "/usr/bin/pg_restore", "major": 17},
            },
            "migrations": {
                "state": "new",
                "new": {"core": ["015_270_to_280"]},
                "pending": {},
                "executed": {},
                "lock": None,
                "fingerprint": "f",
            },
        },
    }


def blockers(survey):
    return ["%(where)s: %(what)s | %(do)s" % item for item in plan.build(survey)["blockers"]]


def test_a_sound_cluster_has_no_blocker_and_all_phases_to_do(survey):
    result = plan.build(survey)
    assert result["blockers"] == [] and result["source"] == "2.1.4"
    assert result["todo"] == survey["options"]["phases"]
    (place,) = result["servers"]["lb1"].values()
    assert (place["blue"], place["green"]) == ({"b1": 100, "b2": 50}, {"g1": 75, "g2": 75})
    assert [batch["after"] for batch in result["batches_left"]] == [[], ["b1"]]
    assert result["proof_seconds"] == 4


@pytest.mark.parametrize(
    ("source", "way", "do"),
    [
        ("0.14.1", "0.14.1 -> 1.5.1 -> 2.8.5", "name them in kong_upgrade_hops, or upgrade to 1.5.1 first"),
        ("0.13.1", "0.13.1 -> 0.14.1 -> 1.5.1 -> 2.8.5", "upgrade to 0.14.1 first, which is done by hand: 1.5 reads"),
    ],
)
def test_several_hops(survey, source, way, do):
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"] = gateway(host, source, "10.0.0.%s" % host[1])
    (problem,) = [line for line in blockers(survey) if "several hops" in line]
    assert "it takes several hops: %s | %s" % (way, do) in problem


def test_hops_that_are_read_too_late(survey):
    survey["options"]["hops"] = [{"target_version": "2.8.5", "green_group": "kong_green"}]
    assert blockers(survey) == [
        "kong_upgrade_hops: is set in the inventory, which a play reads after it has chosen its hosts"
        " | put it into a file of its own, and give that: -e @hops.yml"
    ]
    survey["options"]["phases"] = ["restore", "rollback"]
    assert not any("kong_upgrade_hops" in line for line in blockers(survey))
    survey["options"].update(phases=["stage"], hop={"number": 1}, way={"problems": [], "hops": [], "of": 1})
    assert not blockers(survey)


def test_the_target_of_a_hop_is_told_as_that(survey):
    survey["options"].update(hop={"number": 1}, way={"problems": [], "hops": [], "of": 2}, target_version="1.4.0")
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"] = gateway(host, "0.14.1", "10.0.0.%s" % host[1])
    (told,) = [line for line in blockers(survey) if "1.4.0" in line]
    assert told == (
        "kong_upgrade_hops, target_version of hop 1: 1.4.0 is not a version that this collection upgrades to | choose 1.5.1")
    survey["options"]["target_version"] = "1.5.1"
    (told,) = [line for line in blockers(survey) if "not the target" in line]
    assert told.endswith("install 1.5.1 there, or correct kong_upgrade_hops, target_version of hop 1")


def test_the_first_hop_from_0_14_moves_apis_before_up(survey):
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"] = gateway(host, "0.14.1", "10.0.0.%s" % host[1])
    for host in ("g1", "g2"):
        survey["hosts"][host]["gateway"]["version"] = "1.5.1"
    survey["options"]["target_version"] = "1.5.1"
    legacy = {part: [last] for part, last in knowledge.legacy_migrations().items()}
    survey["database"]["migrations"].update(state="legacy", executed=legacy, new=knowledge.migrations_of("1.5.1"))
    survey["database"]["answers"] = {
        name: {"found": found, "more": False} for name, found in (("apis", ["old"]), ("apis_count", ["1"]))}
    result = plan.build(survey)
    assert result["blockers"] == []
    assert result["apis"] == {"count": 1, "names": ["old"]}
    assert "Before `up`, `migrate-apis` makes a service and a route of each of 1 apis: old." in result["summary"]
    assert {row["subsystem"]: row["finish"] for row in result["ahead"]}["core"] == ["001_14_to_15", "002_15_to_1", "005_120_to_130"]
    survey["options"]["target_version"] = "2.8.5"
    assert any("holds the schema of Kong 0.x, which 2.8.5 cannot read" in line for line in blockers(survey))
    (hazard,) = [line for line in blockers(survey) if "KONG-200-MIN-SOURCE" in line]
    assert "kong_upgrade_accepted_hazards" not in hazard


def test_green_gets_blues_settings_without_what_belongs_to_one_node(survey):
    survey["hosts"]["g1"]["settings"] = {"nginx_worker_processes": "2"}
    settings = plan.build(survey)["settings"]["g1"]
    assert settings["log_level"] == "debug"  # the environment of the running node, not in kong.conf
    assert settings["nginx_worker_processes"] == "2"
    assert settings["admin_listen"] == "off" and settings["status_listen"] == green_conf.LOCAL_STATUS
    assert "pg_password" not in settings and "pg_timeout" not in settings


def put(path, value):
    """A mutation: survey[path...] = value."""

    def mutate(survey):
        place = survey
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return mutate


def on_blue(key, value):
    def mutate(survey):
        for host in ("b1", "b2"):
            survey["hosts"][host]["gateway"][key] = value

    return mutate


def node_of(host, key, value):
    return put(("hosts", host, "gateway", "node", key), value)


def to_install(versions):
    """A package that green's package manager is to install; the versions that it offers."""

    def mutate(survey):
        survey["hosts"]["g1"]["install"] = "package"
        survey["hosts"]["g1"]["gateway"].update(version=None, host={"candidates": {"manager": "apt", "versions": versions}})

    return mutate


def setting(host, key, value):
    """A property of kong.conf that the running node uses."""

    def mutate(survey):
        found = survey["hosts"][host]["gateway"]
        found["settings"][key] = found["node"]["settings"][key] = value

    return mutate


def lb_server(number, **values):
    def mutate(survey):
        survey["lbs"]["lb1"]["balancers"][0]["servers"][number].update(values)

    return mutate


def zones(survey):
    """A second load balancer; each has the servers of one zone, in a backend of its own name."""
    groups = {"zone_1": ["b1", "g1"], "zone_2": ["b2", "g2"]}
    (process,) = survey["lbs"]["lb1"]["balancers"]
    for number, (zone, hosts) in enumerate(groups.items(), 1):
        backend = "kong_%d" % number
        survey["lbs"]["lb%d" % number] = {
            "balancers": [
                dict(
                    process,
                    backends={backend: process["backends"]["kong"]},
                    servers=[dict(s, backend=backend) for s in process["servers"] if s["name"] in hosts],
                )
            ],
            "base": {},
            "error": None,
            "locked": None,
            "serves": {zone: hosts},
        }
    survey["groups"]["lb"] = ["lb1", "lb2"]
    survey["play_hosts"].append("lb2")


def two_processes(survey):
    """A second HAProxy on the same host, whose backend has another name."""
    (process,) = survey["lbs"]["lb1"]["balancers"]
    other = dict(process, socket="/run/other.sock", backends={"apis": process["backends"]["kong"]})
    other["servers"] = [dict(s, backend="apis") for s in process["servers"]]
    survey["lbs"]["lb1"]["balancers"].append(other)


def put_zones(*path, value):
    def mutate(survey):
        zones(survey)
        put(path, value)(survey)

    return mutate


def own_template(survey):
    survey["options"]["looks"] = "plan"  # green is there: it counts as it will in a run
    survey["hosts"]["b1"]["gateway"]["host"] = {"templates": {"nginx_conf": "/usr/local/kong/nginx.conf"}}


ROWS = [
    ("empty group", put(("groups", "green"), []), "group kong_green is empty"),
    ("host in both groups", put(("groups", "green"), ["g1", "b1"]), "b1: is in both kong_blue and kong_green"),
    ("a limit", put(("play_hosts",), ["b1"]), "--limit cuts the groups"),
    ("unreachable host", put(("hosts", "b2", "error"), "unreachable: no route"), "b2: unreachable"),
    ("unreachable load balancer", put(("lbs", "lb1", "error"), "sockets: the list is empty."), "lb1: sockets"),
    ("a second run", put(("lbs", "lb1", "locked"), locked(HELD)), "lb1: another upgrade run holds the lock: run r1 of here, pid 7"),
    ("socket without rights", put(("lbs", "lb1", "balancers", 0, "level"), "operator"), "level admin"),
    (
        "static balancing",
        put(("lbs", "lb1", "balancers", 0, "backends", "kong", "weights"), "ignored"),
        "does not follow weights",
    ),
    ("health check at the Admin API", lb_server(0, check_port=8001), "the Admin API of b1"),
    ("server not on the load balancer", lb_server(2, name="other"), "server g1 of green host g1 is in no backend"),
    (
        "two load balancers that do not say which servers they have",
        put_zones("lbs", "lb2", "serves", value={}),
        "lb2: server b1 of blue host b1 is in no backend",
    ),
    (
        "a group of servers that is none",
        put_zones("lbs", "lb2", "serves", value={"zone_2": ["b2", "g2"], "zone_3": []}),
        "lb2: kong_upgrade_serves: no inventory group is called zone_3",
    ),
    (
        "a host that no load balancer serves",
        put_zones("hosts", "b2", "name", value="old-2"),
        "b2: its server old-2 is on no load balancer",
    ),
    (
        "a zone without new servers",
        put_zones("lbs", "lb2", "balancers", 0, "servers", value=[server("b2", 100, backend="kong_2")]),
        "lb2: backend kong_2 has servers of blue (b2) and none of green",
    ),
    (
        "a backend of new servers alone",
        put_zones("lbs", "lb2", "balancers", 0, "servers", value=[server("g2", 100, backend="kong_2")]),
        "lb2: backend kong_2 has servers of green (g2) and none of blue",
    ),
    (
        "two HAProxies of one host with different backends",
        two_processes,
        "lb1: the HAProxy of /run/haproxy.sock has no apis/b1, apis/b2, apis/g1, apis/g2, which another one of this host has",
    ),
    (
        "a kong.conf that is not there",
        put(("hosts", "b2", "gateway"), gateway("b2", "2.1.4", "10.0.0.2", conf="/etc/kng.conf", conf_mode=None, settings={})),
        "b2: Kong runs there with db_update_frequency, log_level, pg_host, proxy_listen set by neither /etc/kng.conf, which is not",
    ),
    (
        "another kong.conf than that of the node",
        put(("hosts", "b2", "gateway"), gateway("b2", "2.1.4", "10.0.0.2", conf_mode="0640", settings={"log_level": "debug"})),
        "b2: Kong runs there with pg_host set by neither /etc/kong/kong.conf nor an environment that can be seen | set kong_upgrade_conf",
    ),
    ("mixed blue", node_of("b2", "version", "2.0.5"), "several versions"),
    (
        "the command of another version than what runs",
        put(("hosts", "b2", "gateway", "version"), "2.8.5"),
        "b2: its kong command /usr/local/bin/kong is 2.8.5, while its node runs 2.1.4",
    ),
    ("a template that nobody names", own_template, "made from an nginx template of its own"),
    ("Enterprise", on_blue("edition", "enterprise"), "Kong Enterprise"),
    ("source below 1.0", node_of("b1", "version", "0.14.1"), "several versions"),
    (
        "green is not the target",
        put(("hosts", "g2", "gateway", "version"), "2.7.2"),
        "g2: kong is 2.7.2, not the target 2.8.5",
    ),
    ("no kong on green", put(("hosts", "g2", "gateway", "version"), None), "g2: no kong command found"),
    ("another database", put(("hosts", "g1", "settings"), {"pg_database": "other"}), "another database than blue"),
    ("no password", put(("hosts", "g1", "secret_settings"), []), "no pg_password for green"),
    ("a dump without password", put(("options", "password_given"), False), "pg_dump has no password"),
    ("no pg_dump", put(("database", "clients", "pg_dump", "major"), None), "g1: pg_dump is not installed"),
    ("an old pg_dump", put(("database", "clients", "pg_dump", "major"), 13), "older than the server's 15"),
    ("a standby", put(("database", "in_recovery"), True), "db:5432 is a standby"),
    ("no command for the backup", put(("options", "backup"), "external"), "no kong_upgrade_backup_command"),
    ("no tasks that install", put(("hosts", "g1", "install"), "tasks"), "no kong_upgrade_install_tasks"),
    (
        "a variable for some hosts",
        put(("uneven",), {"kong_upgrade_until": ["g1", "g2"]}),
        "kong_upgrade_until: is another on g1, g2",
    ),
    ("no blue", put(("groups", "blue"), []), "group kong_blue is empty"),
    ("another schema", put(("hosts", "g1", "settings"), {"pg_schema": "other"}), "another database than blue"),
    ("a secret of blue", setting("b1", "pg_ro_password", "******"), "no pg_ro_password for green"),
    (
        "a secret in the open",
        put(("hosts", "g1", "settings"), {"pg_password": "x"}),
        "pg_password in kong_upgrade_settings",
    ),
    ("a runner that is blue", put(("options", "runner"), "b1"), "kong_upgrade_runner: is b1"),
    ("blue nodes differ", setting("b2", "db_update_frequency", "9"), "blue nodes differ in db_update_frequency"),
    ("database unreadable", put(("database",), {"error": "Cannot read the certificates in /etc: no"}), "read the certificates"),
    ("no schema", put(("database", "migrations", "state"), "needs_bootstrap"), "needs bootstrap"),
    ("leftovers", put(("database", "migrations", "state"), "pending_and_new"), "never finished"),
    (
        "a template that nobody names",
        put(("hosts", "b1", "gateway", "host"), {"templates": {"nginx_conf": "/usr/local/kong/nginx.conf", "directives": []}}),
        "b1: /usr/local/kong/nginx.conf was made from an nginx template of its own",
    ),
    (
        "green built with another OpenResty",
        put(("hosts", "g1", "gateway", "openresty"), {"nginx": "1.17.8"}),
        "g1: its kong 2.8.5 is built with nginx 1.17.8 and would not start | build it with OpenResty 1.19.9.1",
    ),
    (
        "green built without Kong's nginx module",
        put(("hosts", "g1", "gateway", "nginx"), {"path": "/opt/openresty/nginx/sbin/nginx", "kong_module": False}),
        "g1: /opt/openresty/nginx/sbin/nginx is built without lua-kong-nginx-module",
    ),
    (
        "green does not reach the database",
        put(("hosts", "g1", "unreached"), "no pg_hba.conf entry."),
        "g1: `kong migrations list` does not work there: no pg_hba.conf entry | look at",
    ),
    (
        "no such package",
        to_install(["2.8.1", "2.7.2"]),
        "g1: the package manager has no package kong 2.8.5, but 2.8.1, 2.7.2",
    ),
    (
        "no package at all",
        to_install([]),
        "g1: the package manager has no package kong 2.8.5, but none at all",
    ),
    (
        "PostgreSQL is too old",
        put(("database", "server_version"), "9.4.24"),
        "KONG-220-DBVERSION",
    ),
    (
        "an unknown target",
        put(("options", "target_version"), "2.9.9"),
        "kong_upgrade_target_version: Kong 2.9.9 is not known",
    ),
    ("invalid variable", put(("invalid", "g1"), ["kong_upgrade_sock: no such variable"]), "g1: kong_upgrade_sock"),
    ("blue is down", put(("hosts", "b1", "gateway", "running"), False), "b1: no Kong is running there"),
    ("blue cannot be fenced", put(("hosts", "b1", "gateway", "fence_possible"), False), "cannot be fenced"),
    (
        "blue's kong command is not where the variable says",
        lambda survey: survey["hosts"]["b1"]["gateway"].update(
            version=None, fence_possible=False, fence_problem="no kong command to fence", errors=["/opt/nowhere/kong: no such file"]
        ),
        "no kong command to fence; /opt/nowhere/kong: no such file | name its kong command in kong_upgrade_executable",
    ),
    (
        "a file of tasks that is not there",
        lambda survey: survey["hosts"]["g1"].update(
            install="tasks", install_tasks=True, not_there={"kong_upgrade_install_tasks": "/x.yml"}
        ),
        "g1: kong_upgrade_install_tasks is /x.yml, and the controller has no such file",
    ),
    ("unknown batch", put(("options", "batches"), ["zone_x"]), "no inventory group is called zone_x"),
]


@pytest.mark.parametrize("mutate, words", [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_blockers(survey, mutate, words):
    mutate(survey)
    assert any(words in line for line in blockers(survey)), blockers(survey)
    found = plan.build(survey)
    assert unexplained(item["what"] for item in found["blockers"] + found["warnings"]) == []


def test_a_look_tells_of_the_run_at_work(survey):
    survey["lbs"]["lb1"]["at_work"] = at_work(HELD)
    assert not any("At work" in line for line in plan.build(survey)["summary"]), "it would be the run itself"
    survey["options"]["looks"] = "status"
    assert plan.build(survey)["summary"][-1].startswith("At work now: run r1 of here, pid 7, since ")
    assert at_work({**HELD, "expires_in": 0}) is None
    assert at_work({"holder": None, "expires_in": None}) is None


def test_all_problems_come_at_once(survey):
    for mutate in (
        put(("groups", "lb"), []),
        put(("hosts", "b2", "error"), "unreachable"),
        put(("database",), {"error": "no"}),
    ):
        mutate(survey)
    assert len(blockers(survey)) >= 3


@pytest.mark.parametrize(
    "version, words",
    [("0.36-2", "Enterprise"), ("0.13.1", "several hops"), ("1.9.0", "1.9.0 is not known"), ("2.1.4.6", "Enterprise")],
)
def test_sources_of_which_nothing_is_known(survey, version, words):
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"]["node"]["version"] = version
    assert words in " ".join(blockers(survey))


@pytest.mark.parametrize("target", ["3.0.0", "2.7.2", "", "2.9.9"])
def test_targets_that_no_upgrade_leads_to(survey, target):
    survey["options"]["target_version"] = target
    for host in ("g1", "g2"):
        survey["hosts"][host]["gateway"]["version"] = target
    assert any(line.startswith("kong_upgrade_target_version: ") for line in blockers(survey))
    result = plan.build(survey)
    assert result["migrations"]["state"] is None and result["summary"][2] == "Schema: not read."


def test_configuration_that_is_not_what_runs(survey):
    survey["hosts"]["b1"]["gateway"]["settings"]["db_update_frequency"] = "9"
    survey["hosts"]["b1"]["gateway"]["settings"]["proxy_listen"] = " 0.0.0.0:8000"
    (warning,) = plan.build(survey)["warnings"]
    assert warning["what"] == "db_update_frequency is 9 in its configuration, and 2 in the running node"


def test_a_changed_default_does_not_concern_what_green_gets_of_its_own(survey):
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"] = gateway(host, "1.5.1", "10.0.0.%s" % host[1])
    changed = [row["key"] for row in plan.build(survey)["conf"]["changed_defaults"]]
    assert "admin_listen" not in changed and "nginx_main_user" in changed


def test_without_a_known_target_no_secret_is_asked_for(survey):
    """Which of blue's secrets the target reads, such as the key that Kong made for itself, nobody knows then."""
    survey["options"]["target_version"] = "2.9.9"
    survey["hosts"]["b1"]["gateway"]["settings"]["ssl_cert_key_default"] = "******"
    told = [blocker["what"] for blocker in plan.build(survey)["blockers"]]
    assert any("2.9.9 is not known" in what for what in told) and not any("ssl_cert_key_default" in what for what in told)


def test_a_mistyped_secret_is_named(survey):
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"]["settings"]["sesion_secret"] = "******"
    told = [row["what"] for row in plan.build(survey)["warnings"]]
    assert "sesion_secret in kong.conf or a KONG_ variable" in told


@pytest.mark.parametrize(
    ("key", "kind", "do"),
    [
        ("prox_listen", "blockers", "write proxy_listen, if that is meant, or leave it out"),
        ("of_their_own", "warnings", "check its spelling"),
        ("custom_plugins", "warnings", "check its spelling"),  # of 0.14
        ("proxy_listen", None, ""),
        ("nginx_http_proxy_liste", None, ""),
    ],
)
def test_a_mistyped_setting_of_green_stops_the_run(survey, key, kind, do):
    survey["hosts"]["g1"]["settings"] = {key: "x"}
    result = plan.build(survey)
    told = {kind: row for kind in ("blockers", "warnings") for row in result[kind] if "is no property of Kong" in row["what"]}
    assert list(told) == [kind] * bool(kind)
    for row in told.values():
        assert row["what"] == "%s in kong_upgrade_settings is no property of Kong 2.8.5, which drops it" % key and row["do"] == do
    survey["options"]["phases"] = ["rollback"]
    assert not any("is no property of Kong" in line for line in blockers(survey))


@pytest.mark.parametrize("package, blocked", [("kong", True), ("kong=2.8.5", True), ("/srv/kong.deb", False)])
def test_the_system_matters_where_kongs_own_package_is_to_be_installed(survey, package, blocked):
    to_install(["2.8.5"])(survey)
    survey["hosts"]["g1"]["package"] = package
    survey["hosts"]["g1"]["gateway"]["host"]["os"] = {"id": "debian", "version_id": "12", "like": [], "pretty": "Debian 12"}
    assert any("KONG-283-DISTROS" in line for line in blockers(survey)) == blocked


def test_a_near_miss_of_a_hazard(survey):
    survey["options"]["accepted_hazards"] = ["kong-283-distro"]
    assert "did you mean KONG-283-DISTROS?" in " ".join(plan.build(survey)["refusal"])


def test_no_secret_in_the_difference(survey):
    setting("b1", "pg_pasword", "hunter2")(survey)
    setting("b2", "pg_pasword", "hunter2")(survey)
    survey["hosts"]["g1"]["settings"] = {"pg_password": "hunter3"}
    result = plan.build(survey)
    assert "pg_pasword = ******" in result["conf"]["diff"]
    assert "hunter" not in str({key: value for key, value in result.items() if key != "settings"})


def test_settings_that_no_kong_conf_can_hold(survey):
    setting("b1", "log_level", "two\nlines")(survey)
    survey["hosts"]["g1"]["settings"] = {"nginx-daemon": "x"}
    found = blockers(survey)
    assert any(line.startswith("b1: ") for line in found) and any(line.startswith("g1: ") for line in found), found


def test_blue_alone_tells_where_its_nodes_differ(survey):
    setting("b1", "log_level", "warn")(survey)
    survey["options"].update(looks="plan", runner="", database_host="b1")
    survey["groups"].update(green=[])
    survey["play_hosts"] = ["b1", "b2", "lb1"]
    assert "blue nodes differ in log_level" in [row["what"] for row in plan.build(survey)["warnings"]]


@pytest.mark.parametrize(
    "epoch, words",
    [(1003, None), (998.5, None), (990, "at least 10 s behind the controller's"), (1025, "at least 20 s ahead of the controller's")],
)
def test_clocks(survey, epoch, words):
    survey.update(began=1000.0, now=1005.0)
    survey["hosts"]["b1"]["gateway"]["epoch"] = survey["database"]["epoch"] = epoch
    told = [row["where"] for row in plan.build(survey)["warnings"] if words and words in row["what"]]
    assert told == (["b1, database"] if words else [])


def test_what_an_undefined_variable_takes_is_a_value(survey):
    survey["invalid"] = {"g1": ["kong_upgrade_secret_settings: 'vault_pg_password' is undefined"]}
    (blocker,) = plan.build(survey)["blockers"]
    assert blocker["where"] == "g1" and "--ask-vault-pass" in blocker["do"]


def test_what_is_wrong_on_several_hosts_is_told_once(survey):
    for host in ("g1", "g2"):
        survey["hosts"][host]["error"] = "no route to host"
    (blocker,) = [row for row in plan.build(survey)["blockers"] if row["what"] == "no route to host"]
    assert blocker["where"] == "g1, g2"


def test_a_limit_is_told_alone(survey):
    survey["play_hosts"] = ["g1", "g2"]
    survey["hosts"]["b2"]["error"] = "was not looked at"
    assert [line.split(":")[0] for line in blockers(survey)] == ["b1, b2, lb1"]
    assert plan.build(survey)["cut"]


def test_a_restore_with_several_hops_is_told_of_them_and_not_of_a_limit(survey):
    """Its play has the hosts of kong_blue and kong_green alone."""
    survey["play_hosts"] = ["lb1"]
    survey["options"].update(phases=["restore", "rollback"], hop={"number": 1}, way={"problems": [], "hops": [], "of": 2})
    (told,) = blockers(survey)
    assert told.startswith("kong_upgrade_hops: is given, and playbooks/restore.yml is about one hop alone | leave it out")


def in_both(survey):
    survey["groups"]["green"] = ["g1", "g2", "b1"]
    return "b1: is in both"


def of_one_prefix(survey):
    """g2's facts are those of b2's node."""
    survey["hosts"]["g2"]["gateway"] = gateway("b2", "2.1.4", "10.0.0.2")
    return "g2: shares the prefix"


@pytest.mark.parametrize("mistake", [in_both, of_one_prefix])
def test_nothing_is_concluded_about_green_from_a_blue_node(survey, mistake):
    words = mistake(survey)
    (problem,) = blockers(survey)
    assert problem.startswith(words)
    assert plan.build(survey)["warnings"] == []


@pytest.mark.parametrize("phases, told", [(["rollback"], "warnings"), (["retire"], "blockers")])
def test_the_way_back_is_open_beside_a_wrong_command_of_a_running_node(survey, phases, told):
    shifted(survey)
    survey["hosts"]["b2"]["gateway"]["version"] = "2.8.5"
    survey["options"]["phases"] = phases
    (problem,) = plan.build(survey)[told]
    assert (problem["where"], "kong_upgrade_executable" in problem["do"]) == ("b2", True)
    assert "its node runs 2.1.4" in problem["what"]


def test_the_way_back_names_the_command_that_is_not_blues(survey):
    retired(survey)
    survey["options"]["phases"] = ["rollback"]
    assert blockers(survey) == []
    survey["hosts"]["b2"]["gateway"]["version"] = "2.8.5"
    (problem,) = blockers(survey)
    assert problem.startswith("b1, b2: no Kong is running there, and their kong commands are of several versions: 2.1.4 on b1; 2.8.5 on b2")
    survey["lbs"]["lb1"]["source"] = "2.1.4"  # the run's record
    (problem,) = blockers(survey)
    assert problem.startswith("b2: no Kong is running there, and its kong command /usr/local/bin/kong is 2.8.5, while blue ran 2.1.4")
    survey["options"]["phases"] = ["finish"]
    assert blockers(survey) == [] and plan.build(survey)["source"] == "2.1.4"


def test_a_shared_prefix_counts_on_one_machine_only(survey):
    assert not any("shares the prefix" in line for line in blockers(survey))
    survey["hosts"]["g1"]["gateway"]["machine"] = "b1"
    assert any("g1: shares the prefix" in line for line in blockers(survey))


def test_a_value_with_blues_address_needs_an_override(survey):
    for host in ("b1", "b2"):
        found = survey["hosts"][host]["gateway"]
        for settings in (found["settings"], found["node"]["settings"]):
            settings["proxy_listen"] = "%s:8000" % found["own_addresses"][0]
    assert any("proxy_listen of b1 names a blue host" in line for line in blockers(survey))
    for host in ("g1", "g2"):
        survey["hosts"][host]["settings"] = {"proxy_listen": "10.0.1.9:8000"}
    assert blockers(survey) == []


@pytest.mark.parametrize(
    "batches, words",
    [
        ({"a": ["b1"]}, "b2: is in no batch"),
        ({"a": ["b1", "b2"], "b": ["b2"]}, "b2: is in two batches"),
        ({"a": ["b1", "b2", "x"]}, "x: is in batch a but not in kong_blue"),
    ],
)
def test_batches_partition_blue(survey, batches, words):
    survey["groups"]["batches"], survey["options"]["batches"] = batches, list(batches)
    assert any(words in line for line in blockers(survey))


def shifted(survey):
    """The survey after all traffic went to green."""
    survey["database"]["migrations"].update(state="pending", new={}, pending={"core": ["012_213_to_220"]})
    for host in ("g1", "g2"):
        survey["hosts"][host]["gateway"] = gateway(host, "2.8.5", "10.0.1.1")
        survey["hosts"][host]["gateway"]["node"]["admin_open"] = False
    for entry, weight in zip(survey["lbs"]["lb1"]["balancers"][0]["servers"], (0, 0, 75, 75)):
        entry["weight"] = weight
    survey["lbs"]["lb1"]["base"] = {"kong": {"b1": 100, "b2": 50, "g1": 75, "g2": 75}}


def retired(survey):
    """And after blue was fenced."""
    shifted(survey)
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"].update(running=False, node=None, fenced=True)


def test_a_run_goes_on_where_the_world_is(survey):
    shifted(survey)
    result = plan.build(survey)
    assert (result["todo"], result["blockers"]) == (["retire"], [])
    retired(survey)
    survey["options"]["phases"] = ["retire", "finish"]
    assert plan.build(survey)["todo"] == ["finish"]


def test_plan_looks_at_what_a_run_would_do(survey):
    survey["options"]["looks"] = "plan"
    result = plan.build(survey)
    assert result["todo"] == [] and result["left"] == survey["options"]["phases"]
    assert "upgrade.yml will do: stage, backup, expand, start, shift, retire." in result["summary"]


def test_plan_does_with_blue_alone(survey):
    survey["options"].update(looks="plan", runner="", database_host="b1", password_given=False)
    survey["groups"].update(green=[], lb=[])
    survey["lbs"], survey["play_hosts"] = {}, ["b1", "b2"]
    result = plan.build(survey)
    assert result["blockers"] == []
    assert result["left"] == survey["options"]["phases"] and result["todo"] == []
    assert {row["where"] for row in result["warnings"]} == {"inventory", "b1"}
    survey["options"]["looks"] = ""
    assert len(plan.build(survey)["blockers"]) == 3


def test_little_room_for_the_dump_is_a_warning(survey):
    survey["database"].update(bytes=5 << 30, free_bytes=6 << 30)
    assert plan.build(survey)["warnings"] == []
    survey["database"]["free_bytes"] = 1 << 30
    (warning,) = plan.build(survey)["warnings"]
    assert warning["what"] == "/var/lib/kong_upgrade/backup has 1.0 GB left, and the database has 5.0 GB"


def test_plan_does_without_greens_command(survey):
    survey["hosts"]["g1"]["gateway"].update(version=None, errors=["no kong command"])
    survey["options"]["looks"] = "plan"
    result = plan.build(survey)
    assert result["blockers"] == [] and "no kong command found" in result["warnings"][0]["what"]


def test_a_hazard_stands_in_the_way_until_it_is_accepted(survey):
    setting("b1", "go_plugins_dir", "/go")(survey)
    setting("b2", "go_plugins_dir", "/go")(survey)
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"]["version"] = survey["hosts"][host]["gateway"]["node"]["version"] = "2.0.5"
    (blocker,) = plan.build(survey)["blockers"]
    assert blocker["where"] == "b1, b2" and "KONG-210-GOPLUGINSERVER" in blocker["what"]
    survey["options"]["accepted_hazards"] = ["KONG-210-GOPLUGINSERVER"]
    result = plan.build(survey)
    assert result["blockers"] == [] and result["hazards"][0]["accepted"]
    survey["options"]["accepted_hazards"] = ["KONG-210"]
    assert "KONG-210 is no hazard that is known" in " ".join(blockers(survey))


def test_hazards_are_over_once_the_schema_serves_both(survey):
    setting("b1", "client_max_body_size", "8m")(survey)
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"]["node"]["version"] = "2.0.5"
    assert plan.build(survey)["hazards"]
    survey["database"]["migrations"].update(state="up_to_date", new={})
    assert plan.build(survey)["hazards"] == []


def test_a_look_tells_what_a_run_has_left_half_done(survey):
    shifted(survey)
    survey["options"].update(looks="status", batches=["zone"])
    survey["groups"]["batches"] = {"zone": ["b1", "b2"]}
    survey["hosts"]["b1"]["name"] = "old1"
    assert plan.build(survey)["interrupted"] == []
    servers = survey["lbs"]["lb1"]["balancers"][0]["servers"]
    servers[0].update(name="old1", admin_state="drain")
    survey["lbs"]["lb1"]["interrupted"] = "run r1 of here, pid 7, since noon"
    result = plan.build(survey)
    assert result["interrupted"] == [
        "Interrupted: run r1 of here, pid 7, since noon; the same command goes on from there.",
        "Batch zone is begun (taken out of service: b1).",
    ]
    assert result["summary"][-2:] == result["interrupted"]
    survey["hosts"]["b1"]["gateway"].update(running=False, node=None, fenced=True)
    assert plan.build(survey)["interrupted"][1] == "Batch zone is begun (stopped and fenced: b1)."
    survey["hosts"]["b2"]["gateway"].update(running=False, node=None, fenced=True)
    survey["lbs"]["lb1"]["interrupted"] = None
    assert plan.build(survey)["interrupted"] == []
    survey["lbs"]["lb1"].update(interrupted="run r1", at_work="run r2")
    assert plan.build(survey)["interrupted"] == []


def test_the_last_soak_is_done_again_where_no_run_has_seen_its_end(survey):
    """Else Ctrl-C in it, and the same command, would retire blue without the last gate."""
    shifted(survey)
    assert plan.build(survey)["todo"] == ["retire"]
    survey["lbs"]["lb1"]["unwatched"] = True
    result = plan.build(survey)
    assert (result["todo"], result["steps"], result["blockers"]) == (["shift", "retire"], [100], [])
    assert any("100 % is watched once more" in line for line in result["summary"])
    survey["options"]["phases"] = ["retire"]  # retire.yml alone, by the operator's word
    result = plan.build(survey)
    assert (result["todo"], result["steps"], result["blockers"]) == (["retire"], [], [])
    survey["groups"]["blue"] = []
    assert not plan.build(survey)["stands"]["unwatched"]


def test_the_last_soak_is_over_once_retire_has_begun(survey):
    shifted(survey)
    survey["lbs"]["lb1"].update(unwatched=True)
    survey["hosts"]["b1"]["name"] = survey["lbs"]["lb1"]["balancers"][0]["servers"][0]["name"] = "old1"
    assert plan.build(survey)["todo"] == ["shift", "retire"]
    survey["lbs"]["lb1"]["balancers"][0]["servers"][0]["admin_state"] = "drain"
    assert plan.build(survey)["todo"] == ["retire"]


@pytest.mark.parametrize(("port", "settings", "told"), [
    (8000, {}, []),
    (8000, {"proxy_listen": "0.0.0.0:80, 0.0.0.0:443 ssl"}, ["server kong/g1 is at port 8000, and green will listen on 80, 443 there"]),
    (9080, {"proxy_listen": "0.0.0.0:9080"}, []),
    (5432, {"stream_listen": "0.0.0.0:5432"}, []),
    (None, {"proxy_listen": "0.0.0.0:9080"}, []),
])  # fmt: skip
def test_a_server_at_a_port_that_green_will_not_have(survey, port, settings, told):
    """Else it is found out at the first step of the traffic, with the schema migrated."""
    survey["hosts"]["g1"]["settings"] = settings
    survey["lbs"]["lb1"]["balancers"][0]["servers"][2]["port"] = port
    assert [item["what"] for item in plan.build(survey)["warnings"] if "at port" in item["what"]] == told


def test_ports_that_say_nothing_of_greens_proxy(survey):
    survey["lbs"]["lb1"]["balancers"][0]["servers"][2]["port"] = 8001
    survey["hosts"]["b1"]["gateway"]["listeners"] = {"admin": [{"address": "10.0.0.1", "port": 8001}]}
    assert not [item for item in plan.build(survey)["warnings"] if "at port" in item["what"]]
    survey["lbs"]["lb1"]["balancers"][0]["servers"][2]["port"] = 80
    assert [item for item in plan.build(survey)["warnings"] if "at port" in item["what"]]
    for host, address in (("b1", "10.0.0.1"), ("b2", "10.0.0.2")):  # of its own address, and so not for green
        gateway = survey["hosts"][host]["gateway"]
        gateway["settings"]["proxy_listen"] = gateway["node"]["settings"]["proxy_listen"] = "%s:80" % address
    assert not [item for item in plan.build(survey)["warnings"] if "at port" in item["what"]]


def test_what_is_to_be_left_alone_until_finish_is_told_until_then(survey):
    for host in ("b1", "b2"):
        survey["hosts"][host]["gateway"]["version"] = survey["hosts"][host]["gateway"]["node"]["version"] = "2.0.5"
    survey["database"]["answers"] = {"KONG-210-ALLOW-DENY/0": {"found": ["acl (1)"], "more": False}}
    survey["database"]["migrations"].update(state="pending", new={}, pending={"acl": ["004"]})
    retired(survey)
    survey["options"]["looks"] = "status"
    result = plan.build(survey)
    assert [hazard["id"] for hazard in result["hazards"]] == ["KONG-210-ALLOW-DENY"]
    assert [question["id"] for question in result["checklist"]] == ["UPSERT-WHILE-BOTH-SERVE"]
    assert any("KONG-210-ALLOW-DENY" in line for line in result["summary"])
    survey["database"]["migrations"].update(state="up_to_date", pending={})
    for host in ("g1", "g2"):
        survey["hosts"][host]["gateway"]["node"]["admin_open"] = True
    result = plan.build(survey)
    assert result["stands"]["finished"] and result["hazards"] == result["checklist"] == []


def test_blue_may_be_empty_once_it_is_retired(survey):
    retired(survey)
    survey["groups"]["blue"] = []
    assert any("kong_blue is empty" in line for line in blockers(survey))
    survey["options"]["phases"] = ["finish"]
    result = plan.build(survey)
    assert (result["todo"], result["blockers"]) == (["finish"], [])


def test_a_look_after_retire_names_finish(survey):
    retired(survey)
    survey["options"].update(looks="status")
    result = plan.build(survey)
    assert result["left"] == [] and "Left to do: nothing but finish, which has a playbook of its own." in result["summary"]


def test_finished_means_nothing_to_do(survey):
    retired(survey)
    survey["database"]["migrations"].update(state="up_to_date", pending={})
    for host in ("g1", "g2"):
        survey["hosts"][host]["gateway"]["node"]["admin_open"] = True
    result = plan.build(survey)
    assert result["stands"]["finished"] and result["todo"] == [] and result["blockers"] == []


def test_rollback_ends_at_the_point_of_no_return(survey):
    retired(survey)
    survey["options"]["phases"] = ["rollback"]
    assert blockers(survey) == []
    # One migration of a finish that was killed in the middle is enough.
    survey["database"]["migrations"]["executed"] = {"core": ["012_213_to_220"]}
    assert any("point of no return" in line for line in blockers(survey))


def test_an_up_that_was_interrupted_is_no_leftover(survey):
    survey["options"]["finish_leftovers"] = True
    survey["database"]["migrations"].update(
        state="pending_and_new", pending={"core": ["012_213_to_220"]}, new={"core": ["015_270_to_280"]}
    )
    assert any("was interrupted" in line for line in blockers(survey))
    survey["database"]["migrations"]["pending"] = {"core": ["009_200_to_210"]}
    assert blockers(survey) == []


def test_the_window_of_the_proof_is_that_of_the_slowest_node(survey):
    survey["hosts"]["b1"]["gateway"]["node"]["settings"]["db_update_frequency"] = "60"
    assert plan.build(survey)["proof_seconds"] == 120


def test_retire_alone_needs_green(survey):
    shifted(survey)
    survey["options"]["phases"] = ["retire"]
    assert blockers(survey) == []
    survey["hosts"]["g2"]["gateway"].update(running=False, node=None)
    assert any("needs every green node" in line for line in blockers(survey))


def test_greens_admin_api_must_be_shut_before_finish(survey):
    shifted(survey)
    survey["hosts"]["g1"]["gateway"]["node"]["admin_open"] = True
    assert any("Admin API is open before finish" in line for line in blockers(survey))


def test_a_phase_that_comes_too_early(survey):
    survey["options"]["phases"] = ["finish"]
    assert any("phase finish: comes after retire" in line for line in blockers(survey))


def test_dbless_goes_by_strategy_rolling(survey):
    for host in survey["groups"]["blue"]:
        survey["hosts"][host]["gateway"].update(datastore={"kind": "off"}, settings={"database": "off"})
    survey["database"] = {}
    found = [row for row in plan.build(survey)["blockers"] if "DB-less" in row["what"]]
    assert [row["where"] for row in found] == ["kong_blue"]
    assert "kong_upgrade_strategy: rolling" in found[0]["do"]
