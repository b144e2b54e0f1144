# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import findings, hops

GROUPS = {"kong_blue": ["b1", "b2"], "kong_middle": ["m1"], "kong_green": ["g1"]}
WANTED = [
    {"target_version": "1.5.1", "green_group": "kong_middle", "batches": ["zone_a"], "steps": [50, 100]},
    {"target_version": "2.8.5", "green_group": "kong_green"},
]
DEFAULTS = {"blue_group": "kong_blue", "gone": [], "steps": [10, 100], "soak": 30, "accepted_hazards": ["KONG-1"]}


def node(version, running=False, fenced=False, admin_open=False):
    return {"version": version, "running": running, "fenced": fenced, "node": {"admin_open": admin_open} if running else None}


def nodes(**changes):
    found = {"b1": node("0.14.1", True, False, True), "b2": node("0.14.1", True, False, True), "m1": node("1.5.1"), "g1": node("2.8.5")}
    return {**found, **changes}


FENCED = {"b1": node("0.14.1", fenced=True), "b2": node("0.14.1", fenced=True)}
OPEN = node("1.5.1", True, False, True)


def way(seen=None, wanted=None, groups=None, defaults=None, play_hosts=("b1", "b2", "m1", "g1"), fixed=None):
    fixed = {**dict.fromkeys(hops.THE_HOPS, ""), **(fixed or {})}
    seen = nodes() if seen is None else seen
    return hops.way(wanted or WANTED, {**DEFAULTS, **(defaults or {})}, groups or GROUPS, seen, play_hosts, fixed)


def problems(**changes):
    return ["%(where)s: %(what)s | %(do)s" % each for each in way(**changes)["problems"]]


def test_a_hop_has_what_it_says_and_else_what_the_role_has():
    first, second = way()["hops"]
    assert (first["blue_group"], first["green_group"], first["batches"], first["steps"]) == (
        "kong_blue", "kong_middle", ["zone_a"], [50, 100])
    assert (second["blue_group"], second["green_group"], second["batches"], second["steps"]) == (
        "kong_middle", "kong_green", [], [10, 100])
    assert [hop["accepted_hazards"] for hop in (first, second)] == [["KONG-1"]] * 2
    assert [(hop["number"], hop["last"]) for hop in (first, second)] == [(1, False), (2, True)]
    assert way()["problems"] == []


@pytest.mark.parametrize(
    ("name", "changes", "next_one"),
    [
        ("nothing has begun", {}, 1),
        ("blue is fenced, the new Admin API is shut: finish is left", {**FENCED, "m1": node("1.5.1", True)}, 1),
        ("the first one is finished", {**FENCED, "m1": OPEN}, 2),
        ("fenced, but not stopped", {"b1": node("0.14.1", True, True), "b2": FENCED["b2"], "m1": OPEN}, 1),
        ("one blue node was never fenced", {"b1": FENCED["b1"], "b2": node("0.14.1"), "m1": OPEN}, 1),
        ("the second one has begun", {**FENCED, "m1": OPEN, "g1": node("2.8.5", True)}, 2),
        ("the second one retires its blue", {**FENCED, "m1": node("1.5.1", fenced=True), "g1": node("2.8.5", True)}, 2),
        ("both are finished", {**FENCED, "m1": node("1.5.1", fenced=True), "g1": node("2.8.5", True, False, True)}, 2),
        ("a blue host did not answer", {**FENCED, "b2": None, "m1": OPEN}, 1),
    ],
)
def test_which_hop_is_next(name, changes, next_one):
    assert way(seen=nodes(**changes))["hops"][0]["number"] == next_one, name


def test_a_host_that_is_gone_is_not_waited_for():
    seen = nodes(**{**FENCED, "b2": None, "m1": OPEN})
    assert way(seen=seen, defaults={"gone": ["b2"]})["hops"][0]["number"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": {**GROUPS, "kong_green": []}}, "hop 2: group kong_green is empty or missing"),
        ({"seen": nodes(g1=node("2.8.4"))}, "hop 2: kong of g1 is 2.8.4, not 2.8.5"),
        ({"seen": nodes(g1=None)}, "hop 2: g1 did not answer"),
        ({"play_hosts": ("b1", "b2", "m1")}, "hop 2: g1 is not in this run | run without --limit"),
        ({"wanted": [WANTED[0], {**WANTED[1], "blue_group": "kong_blue"}]}, "hop 2: its blue_group is kong_blue"),
        ({"wanted": [WANTED[0], {**WANTED[1], "green_group": "kong_middle"}]}, "group kong_middle stands in it twice"),
        ({"wanted": [WANTED[0], {**WANTED[1], "steps": [50, 10]}]}, "hop 2: steps is [50, 10] | percentages from 1 to 100"),
        ({"wanted": [WANTED[1], {**WANTED[0]}]}, "hop 2: 1.5.1 is older than 2.8.5"),
        ({"wanted": [WANTED[0], {**WANTED[1], "target_version": "2.0.5"}]}, "hop 2: 2.0.5 is not a version that this collection"),
        ({"wanted": [WANTED[0], {**WANTED[1], "green_group": "kong_gren"}]},
         "hop 2: its green_group kong_gren is no inventory group | name kong_green, if that is meant"),
        ({"wanted": [{**WANTED[0], "green_group": "kong_midle"}, WANTED[1]]},
         "hop 1: its green_group kong_midle is no inventory group | name kong_middle, if that is meant"),
    ],
)
def test_what_stands_in_the_way_of_a_later_hop(changes, words):
    assert any(words in each for each in problems(**changes)), problems(**changes)


def test_a_mistyped_group_is_no_group_that_is_made_later():
    wanted = [WANTED[0], {**WANTED[1], "green_group": "kong_gren"}]
    assert [each["later"] for each in way(wanted=wanted)["problems"]] == [False]
    # kong_middle is like it, and of another hop: this one is not there yet
    wanted = [WANTED[0], {**WANTED[1], "green_group": "kong_middle2"}]
    assert [each["later"] for each in way(wanted=wanted)["problems"]] == [True]


def test_what_is_no_version_is_told_of_its_own_hop_alone():
    assert problems(wanted=[{**WANTED[0], "target_version": "1.5"}, WANTED[1]]) == []  # the plan of hop 1 tells it


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ([], []),
        (WANTED, []),
        ("1.5.1,2.8.5", ["kong_upgrade_hops: is no list of hops"]),
        ({"target_version": "1.5.1"}, ["kong_upgrade_hops: is no list of hops"]),
        (["1.5.1"], ["kong_upgrade_hops: is no list of hops"]),
        ([{"green_group": "kong_middle"}, WANTED[1]], ["kong_upgrade_hops, hop 1: has no target_version, but green_group"]),
        ([WANTED[0], {"target": "2.8.5"}], ["kong_upgrade_hops, hop 2: has no target_version and no green_group, but target"]),
        ([{}, WANTED[1]], ["kong_upgrade_hops, hop 1: has no target_version and no green_group, but nothing"]),
    ],
)
def test_what_is_no_list_of_hops(wanted, told):
    assert ["%(where)s: %(what)s" % each for each in hops.shape(wanted)] == told


def test_a_command_that_is_not_there_yet_is_installed_by_then():
    assert problems(seen=nodes(g1=node(None))) == []


def options(**changes):
    found = way()
    return {
        "hop": found["hops"][0], "way": found, "strategy": "blue_green", "target_version": "1.5.1", "blue_group": "kong_blue",
        "green_group": "kong_middle", **changes}


def test_the_plan_tells_the_whole_way():
    (line,) = hops.told(options())
    assert line == "Hop 1 of 2; then, each when the one before is finished: 2.8.5 (kong_green)."
    assert hops.told({"hop": {}}) == hops.told({}) == []


def test_the_plan_takes_the_problems_of_the_whole_way():
    found = findings.Findings()
    hops.check(options(way=way(groups={**GROUPS, "kong_green": []})), found)
    assert ["hop 2" in problem["where"] for problem in found.blockers] == [True]
    found = findings.Findings("plan")  # a look does not mind what is not there yet
    hops.check(options(way=way(groups={**GROUPS, "kong_green": []})), found)
    assert found.blockers == [] and found.missing == 1


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"target_version": "2.8.5"}, "kong_upgrade_target_version"),
        ({"green_group": "kong_green"}, "kong_upgrade_green_group"),
        # right for the first hop, and told before it begins: the second one could not be taken
        ({"blue_group": "kong_blue"}, "kong_upgrade_blue_group"),
    ],
)
def test_a_variable_of_the_command_line_that_wins_over_a_hop_is_refused(given, where):
    assert [problem["where"] for problem in way(fixed=given)["problems"]] == [where]


def test_hops_are_not_rolling():
    found = findings.Findings()
    hops.check(options(strategy="rolling"), found)
    assert [problem["where"] for problem in found.blockers] == ["kong_upgrade_strategy"]
