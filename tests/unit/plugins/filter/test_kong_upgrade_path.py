# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import re

import pytest
from ansible_collections.bluegreen.kong.plugins.filter.kong_upgrade_path import FilterModule
from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge

path = FilterModule().filters()["kong_upgrade_path"]


def way(source, *more):
    """ "0.14.1 -> 1.5.1 major blue_green" for each hop."""
    found = path(source, *more)
    assert found["problems"] == []
    return ["%(from)s -> %(to)s %(kind)s %(strategy)s" % hop for hop in found["hops"]]


@pytest.mark.parametrize(
    ("source", "datastore", "hops"),
    [
        (
            "0.13.1",
            "postgres",
            [
                "0.13.1 -> 0.14.1 minor downtime_window",
                "0.14.1 -> 1.5.1 major blue_green",
                "1.5.1 -> 2.8.5 major blue_green",
            ],
        ),
        ("0.14.0", "postgres", ["0.14.0 -> 0.14.1 patch downtime_window", "0.14.1 -> 1.5.1 major blue_green",
                                "1.5.1 -> 2.8.5 major blue_green"]),
        ("0.14.1", "postgres", ["0.14.1 -> 1.5.1 major blue_green", "1.5.1 -> 2.8.5 major blue_green"]),
        ("0.14.1", "cassandra", ["0.14.1 -> 1.5.1 major blue_green", "1.5.1 -> 2.8.5 major new_keyspace"]),
        ("0.15.0", "postgres", ["0.15.0 -> 1.5.1 major blue_green", "1.5.1 -> 2.8.5 major blue_green"]),
        ("1.0.0", "postgres", ["1.0.0 -> 2.8.5 major blue_green"]),
        ("1.5.1", "postgres", ["1.5.1 -> 2.8.5 major blue_green"]),
        ("2.0.5", "postgres", ["2.0.5 -> 2.8.5 minor blue_green"]),
        ("2.1.0", "postgres", ["2.1.0 -> 2.8.5 minor blue_green"]),
        ("2.3.0", "postgres", ["2.3.0 -> 2.8.5 minor blue_green"]),
        ("2.7.2", "postgres", ["2.7.2 -> 2.8.5 minor blue_green"]),
        ("2.8.0", "postgres", ["2.8.0 -> 2.8.5 patch rolling"]),
        ("2.8.5", "postgres", []),
        ("1.2.3", "cassandra", ["1.2.3 -> 2.8.5 major downtime_window"]),
        ("1.3.0", "cassandra", ["1.3.0 -> 2.8.5 major new_keyspace"]),
        ("2.0.5", "cassandra", ["2.0.5 -> 2.8.5 minor new_keyspace"]),
        ("2.1.4", "cassandra", ["2.1.4 -> 2.8.5 minor new_keyspace"]),
        ("2.2.0", "cassandra", ["2.2.0 -> 2.8.5 minor blue_green"]),
        ("2.7.2", "cassandra", ["2.7.2 -> 2.8.5 minor blue_green"]),
        ("2.8.4", "cassandra", ["2.8.4 -> 2.8.5 patch rolling"]),
    ],
)  # fmt: skip
def test_documented_paths(source, datastore, hops):
    assert way(source, "2.8.5", datastore) == hops


def test_every_known_version():
    """Nothing that is released before 2.8.5 is without a way, none goes through a bad release, none stands still."""
    bad = set(knowledge._table("paths")["never_a_stop"])
    for source in knowledge.versions():
        for datastore in knowledge.DATASTORES:
            found = path(source, "2.8.5", datastore)
            if knowledge.compare(source, "2.8.5") > 0:
                assert found["hops"] == [] and "downgrade" in found["problems"][0]["what"], source
                continue
            ends = [source] + [hop["to"] for hop in found["hops"]]
            assert found["problems"] == [] and ends[-1] == "2.8.5", source
            assert [hop["from"] for hop in found["hops"]] == ends[:-1], source
            assert not bad & set(ends[1:]), source
            assert len(ends) == (1 if source == "2.8.5" else 3 if source.startswith("0.") else 2), source
            for hop in found["hops"]:
                assert set(hop) - {"reload", "allows", "measured"} == {"from", "to", "strategy", "kind", "why", "docs"}, source
                assert ("reload" in hop) == (hop["strategy"] == "rolling"), source


def test_the_newest_target_is_the_default():
    assert path("2.1.4") == path("2.1.4", knowledge.newest_target())
    assert way(" 2.8.0\n", "2.8.3") == ["2.8.0 -> 2.8.3 patch rolling"]


def test_a_reload_is_enough_only_with_the_same_openresty(monkeypatch):
    assert path("2.8.0", "2.8.5")["hops"][0]["reload"] is True
    monkeypatch.setitem(knowledge._table("versions")["versions"]["2.8.0"], "openresty", "1.19.3.1")
    assert path("2.8.0", "2.8.5")["hops"][0]["reload"] is False


def test_nodes_of_one_version():
    assert path(["2.1.4", "2.1.4 "], "2.8.5") == path("2.1.4", "2.8.5")


@pytest.mark.parametrize(
    ("source", "target", "datastore", "what", "do"),
    [
        (["2.7.2", "2.1.4"], "2.8.5", "postgres", "several versions run: 2.1.4, 2.7.2", "bring them to one"),
        (["2.7.2", "2.8.5"], "2.8.5", "postgres", "several versions run: 2.7.2, 2.8.5", "bring them to one"),
        ([], "2.8.5", "postgres", "no version to start from", "name the version"),
        ("2.8.5", "2.8.1", "postgres", "2.8.1 is older than 2.8.5, .*downgrade", "restore a backup"),
        ("3.4.2", "2.8.5", "postgres", "2.8.5 is older than 3.4.2, .*downgrade", "restore a backup"),
        ("2.8.1.1", "2.8.5", "postgres", "2.8.1.1 is Kong Enterprise", "name a release"),
        ("2.1.4", "2.8.4.1-enterprise-edition", "postgres", "is Kong Enterprise", "name a release"),
        ("2.1.9", "2.8.5", "postgres", "2.1.9 is not known", "name a release"),
        ("0.14.2", "2.8.5", "postgres", "0.14.2 is not known", "name a release"),
        ("2.1.4", "2.9.0", "postgres", "2.9.0 is not known", "name a release"),
        ("2.1.4", "2.7.2", "postgres", "2.7.2 is not a version that this collection upgrades to", "choose 2.8.5"),
        ("2.0.5", "2.1.1", "postgres", "2.1.1 must not get traffic: .*unrelated upstream", "choose 2.8.5"),
        ("0.14.1", "1.4.0", "postgres", "1.4.0 is not a version that this collection upgrades to", "choose 1.5.1"),
        ("0.13.1", "1.5.0", "postgres", "1.5.0 must not get traffic", "choose 1.5.1"),  # 0.14.1 is no target
        ("2.8.5", "3.4.2", "postgres", "3.4.2 is not a version that this collection upgrades to", "choose 2.8.5"),
        ("2.1.4", "3.0.0", "postgres", "3.0.0 is not a version that this collection upgrades to", "choose 2.8.5"),
        ("2.1", "2.8.5", "postgres", "'2.1' is no version", "name a release"),
        ("next", "2.8.5", "postgres", "'next' is no version", "name a release"),
        (None, "2.8.5", "postgres", "'None' is no version", "name a release"),
        ({"a": 1}, "2.8.5", "postgres", "is no version", "name a release"),
        ([["2.1.4"]], "2.8.5", "postgres", "is no version", "name a release"),
        (2.1, "2.8.5", "postgres", "'2.1' is no version", "name a release"),
        ("2.1.4", "", "postgres", "'' is no version", "name a release"),
        ("2.1.4", "2.8.5", "off", "datastore 'off' is not known", "say postgres"),
        ("2.1.4", "2.8.5", ["postgres"], r"datastore \['postgres'\] is not known", "say postgres"),
    ],
)
def test_problems(source, target, datastore, what, do):
    found = path(source, target, datastore)
    assert found["hops"] == []
    (problem,) = found["problems"]
    assert re.search(what, problem["what"]) and do in problem["do"]


def test_every_version_of_several_is_looked_at():
    whats = [problem["what"] for problem in path(["2.1.4", "2.1.9", "3.4.2"], "2.8.5")["problems"]]
    assert len(whats) == 3
    assert "2.1.9 is not known" in whats[0] and "downgrade" in whats[1] and whats[2].startswith("several versions")
