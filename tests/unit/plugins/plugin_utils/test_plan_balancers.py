# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan finds at load balancers, of each driver, in front of the cluster of test_plan.py."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import test_plan
from ansible_collections.bluegreen.kong.plugins.plugin_utils import plan
from test_plan import blockers, shifted, zones

fixture_survey = test_plan.fixture_survey


def test_each_load_balancer_is_told_its_own_servers(survey):
    zones(survey)
    found = plan.build(survey)
    assert found["blockers"] == []
    assert found["at"] == {"lb1": {"blue": ["b1"], "green": ["g1"]}, "lb2": {"blue": ["b2"], "green": ["g2"]}}
    assert [batch["servers"] for batch in found["batches"]] == [{"lb1": ["b1"], "lb2": []}, {"lb1": [], "lb2": ["b2"]}]


@pytest.mark.parametrize("conf_file, warned", [("", True), ("/etc/haproxy/haproxy.cfg", False)])
def test_what_a_reload_undoes_is_told_where_haproxy_cfg_is_not_kept_up_to_date(survey, conf_file, warned):
    lb = survey["lbs"]["lb1"]
    lb["conf_file"] = conf_file
    lb["balancers"][0]["backends"]["kong"]["load_state"] = "none"
    told = [row["what"] for row in plan.build(survey)["warnings"]]
    assert ("a reload of HAProxy puts back the weights of its configuration" in told) is warned


def test_another_load_balancer_needs_commands(survey):
    survey["lbs"]["lb1"].update(balancers=None, error="was not looked at", no_driver="f5")
    (told,) = [line for line in blockers(survey) if line.startswith("lb1: ")]
    assert "there is no driver f5" in told and "kong_upgrade_driver: command" in told


def test_the_original_weights_must_be_known_before_traffic_moves(survey):
    shifted(survey)
    survey["lbs"]["lb1"]["base"] = {}
    assert not any("original weights" in line for line in blockers(survey))
    survey["options"]["phases"] = ["rollback"]
    assert any("kong_upgrade_base_weights" in line for line in blockers(survey))


@pytest.mark.parametrize(
    ("given", "problem"),
    [("70", None), (70, None), (0, None), ("many", "is 'many'"), (-1, "is -1"), (True, "is True"), (1.5, "is 1.5"), (300, "is 300")],
)
def test_given_weights_are_weights(survey, given, problem):
    survey["options"]["base_weights"] = {"b1": given}
    told = [line for line in blockers(survey) if "kong_upgrade_base_weights" in line]
    assert ["of b1 %s" % problem in line for line in told] == [True] * bool(problem)
    if not problem:
        (place,) = plan.build(survey)["servers"]["lb1"].values()
        assert place["blue"] == {"b1": int(given), "b2": 50}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "blockers"),
        ({"phases": ["rollback"]}, "blockers"),
        ({"phases": ["finish"]}, "warnings"),  # blue may have left the load balancers since
        ({"hop": {"number": 1, "last": False}}, "warnings"),
        ({"hop": {"number": 2, "last": True}}, "blockers"),
    ],
)
def test_a_given_weight_of_a_server_that_there_is_not(survey, options, kind):
    survey["options"].update(base_weights={"b1": 70, "blue2": 30}, way={"problems": [], "hops": [], "of": 2}, **options)
    told = plan.build(survey)
    (line,) = ["%(where)s: %(what)s" % row for row in told[kind] if "blue2" in row["what"]]
    assert line == "kong_upgrade_base_weights: no load balancer has a server blue2"
    survey["lbs"]["lb1"].update(balancers=None, error="does not answer")
    told = plan.build(survey)
    assert not any("blue2" in row["what"] for row in told["blockers"] + told["warnings"])


def test_servers_are_named_with_their_backend_where_others_are_left_out(survey):
    assert plan.build(survey)["at"]["lb1"]["blue"] == ["b1", "b2"]
    survey["options"]["backends"] = ["kong"]
    result = plan.build(survey)
    assert result["at"]["lb1"] == {"blue": ["kong/b1", "kong/b2"], "green": ["kong/g1", "kong/g2"]}
    assert result["batches"][0]["servers"] == {"lb1": ["kong/b1"]}


@pytest.fixture(name="commands")
def fixture_commands(survey):
    """The same cluster behind a load balancer that is led by commands of the user's own, without counters."""
    servers = [dict(entry, status="no check") for entry in survey["lbs"]["lb1"]["balancers"][0]["servers"]]
    survey["lbs"]["lb1"]["balancers"] = [{"counted": False, "servers": servers}]
    return survey


def test_without_counters_and_probes_shared_traffic_is_refused(commands):
    assert [line for line in blockers(commands) if "lb1: has no counters" in line] == blockers(commands) != []


@pytest.mark.parametrize("way", ["counters", "probes", "one step"])
def test_ways_to_do_without_counters(commands, way):
    if way == "counters":
        commands["lbs"]["lb1"]["balancers"][0]["counted"] = True
    elif way == "probes":
        for host in ("g1", "g2"):
            commands["hosts"][host]["probed"] = True
    else:
        commands["options"]["steps"] = [100]
    result = plan.build(commands)
    assert result["blockers"] == [] and result["warnings"] == []
    (place,) = result["servers"]["lb1"].values()
    assert (place["blue"], place["green"]) == ({"b1": 100, "b2": 50}, {"g1": 75, "g2": 75})


@pytest.fixture(name="nginx")
def fixture_nginx(survey):
    """The same cluster behind an nginx."""
    servers = survey["lbs"]["lb1"]["balancers"][0]["servers"]
    upstreams = {"kong": {"method": "round_robin", "backup": []}, "other": {"method": "ip_hash", "backup": ["b1"]}}
    survey["lbs"]["lb1"]["balancers"] = [{
        "counted": True, "path": "/etc/nginx/kong.conf", "pending": False, "changed_files": [], "cuts_idle": False,
        "upstreams": upstreams, "servers": servers,
    }]
    return survey


def test_a_sound_nginx(nginx):
    result = plan.build(nginx)
    assert result["blockers"] == [] and result["warnings"] == []


@pytest.mark.parametrize("change, words", [
    ({"pending": True}, "/etc/nginx/kong.conf was changed after nginx has read it"),
    ({"changed_files": ["/etc/nginx/a.conf"]}, "was changed after nginx has read it: /etc/nginx/a.conf"),
    ({"cuts_idle": True}, "keepalive_timeout 0 during the upgrade"),
    ({"upstreams": {"kong": {"method": "hash $uri consistent", "backup": []}}}, "by hash $uri consistent: weights are shares"),
])
def test_what_is_told_about_an_nginx(nginx, change, words):
    nginx["lbs"]["lb1"]["balancers"][0].update(change)
    result = plan.build(nginx)
    (warning,) = ["%(where)s: %(what)s: %(do)s" % item for item in result["warnings"]]
    assert warning.startswith("lb1: ") and words in warning and result["blockers"] == []


@pytest.mark.parametrize("change, words", [
    ({"upstreams": {"kong": {"method": "balancer_by_lua_block", "backup": []}}}, "chooses its servers by balancer_by_lua_block"),
    ({"upstreams": {"kong": {"method": "round_robin", "backup": ["g1", "x"]}}}, "kong/g1 is a backup server"),
    ({"counted": False}, "set kong_upgrade_nginx_log, set kong_upgrade_probe"),
])
def test_what_stands_in_the_way_of_an_nginx(nginx, change, words):
    nginx["lbs"]["lb1"]["balancers"][0].update(change)
    (blocker,) = blockers(nginx)
    assert blocker.startswith("lb1: ") and words in blocker


def test_a_server_that_is_missing_is_told_with_those_of_no_host(nginx):
    nginx["hosts"]["g1"]["name"] = "10.0.1.1"
    (blocker,) = blockers(nginx)
    assert "server 10.0.1.1 of green host g1 is in no backend" in blocker and "(servers of no host: g1)" in blocker


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ({}, None),
        ({"error": "/etc/h.cfg cannot be read: No such file or directory", "read": False, "servers": []}, "cannot be read"),
        ({"error": "the folder of /etc/h.cfg is not writable for this user. Use become."}, "not writable"),
        ({"servers": ["kong/b1", "kong/b2", "kong/g1", "other/g2"]}, "/etc/h.cfg has no server line of kong/g2"),
        ({"problems": ["/etc/h.cfg: kong/g2 has two server lines, 4 and 5."]}, "two server lines"),
        ({"problems": ["/etc/h.cfg: kong/g20 has two server lines, 4 and 5."]}, None),
    ],
)
def test_a_haproxy_cfg_that_cannot_be_kept_up_to_date_is_told_before_the_first_change(survey, file, problem):
    good = {"path": "/etc/h.cfg", "error": None, "read": True, "servers": ["kong/b1", "kong/b2", "kong/g1", "kong/g2"], "problems": []}
    survey["lbs"]["lb1"]["conf_files"] = [dict(good, **file)]
    told = [line for line in blockers(survey) if "kong_upgrade_haproxy_conf_file" in line]
    assert [problem in line for line in told] == [True] * bool(problem)
    survey["lbs"]["lb1"].update(balancers=None, error="no socket")
    assert any("kong_upgrade_haproxy_conf_file" in line for line in blockers(survey)) is ("error" in file)
    survey["options"]["phases"] = ["stage", "backup"]
    assert not any("kong_upgrade_haproxy_conf_file" in line for line in blockers(survey))
