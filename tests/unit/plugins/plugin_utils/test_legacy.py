# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import findings, knowledge, legacy

COMPLETE = {part: [last] for part, last in knowledge.legacy_migrations().items()}


@pytest.fixture(name="found")
def fixture_found():
    return findings.Findings()


def survey(executed=None, **answers):
    found = {name: {"found": rows, "more": False} for name, rows in answers.items()}
    return {
        "database": {
            "migrations": {"state": "legacy", "executed": COMPLETE if executed is None else executed},
            "answers": found,
        }
    }


def test_apis_are_told_and_what_is_open_meanwhile(found):
    seen = survey(apis=["a", "b"], apis_count=["2"], apis_skipped=[], apis_clashing=[])
    assert legacy.check(seen, "1.5.1", found) == {"count": 2, "names": ["a", "b"]}
    assert found.blockers == []
    assert ["without its plugins" in warning["what"] for warning in found.warnings] == [True]


def test_without_apis_there_is_nothing_to_see_to(found):
    assert legacy.check(survey(apis=[], apis_count=["0"]), "1.5.1", found) is None
    assert found.blockers == found.warnings == []


def test_a_run_that_stopped_after_migrate_apis_refreshes_blue_all_the_same(found):
    assert legacy.check(survey(executed={}, apis=[], apis_count=["0"]), "1.5.1", found) == {"count": 0, "names": []}
    assert found.blockers == []


def test_apis_that_kong_would_leave_are_named_before(found):
    seen = survey(apis=["a", "b"], apis_count=["2"], apis_skipped=["a (our-auth)"], apis_clashing=["b"])
    legacy.check(seen, "1.5.1", found)
    assert [problem["where"] for problem in found.blockers] == ["api a (our-auth)", "api b"]


@pytest.mark.parametrize("target", ["2.8.5", None])
def test_a_target_that_cannot_read_it(found, target):
    assert legacy.check(survey(), target, found) is None
    (problem,) = found.blockers
    assert "upgrade to 1.5.1 first" in problem["do"]


def test_a_database_that_lacks_migrations_of_0_14_1(found):
    legacy.check(survey(executed={**COMPLETE, "acl": [], "core": ["2015-01-12-175310_skeleton"]}), "1.5.1", found)
    (problem,) = found.blockers
    assert "(acl, core)" in problem["what"] and "plugins = bundled" in problem["do"]


def test_no_other_database_is_looked_at(found):
    assert legacy.check({"database": {"migrations": {"state": "new"}}}, "1.5.1", found) is None
    assert legacy.check({"database": {}}, "2.8.5", found) is None
    assert legacy.queries("2.8.5") == {}


@pytest.mark.parametrize(
    ("pending", "target", "named"),
    [
        ({"core": ["001_14_to_15", "005_120_to_130"]}, "2.8.5", "core: 001_14_to_15)"),
        ({"core": ["001_14_to_15"]}, "1.5.1", None),
        ({"core": ["008_150_to_200"]}, "2.8.5", None),
        ({"our-auth": ["001_ours"]}, "2.8.5", None),
        ({}, "2.8.5", None),
        ({"core": ["001_14_to_15"]}, None, None),
    ],
)
def test_leftovers_that_the_target_does_not_know_any_more(found, pending, target, named):
    assert legacy.check_leftovers({"pending": pending}, "1.5.1", target, found) is bool(named)
    if named:
        assert named in found.blockers[0]["what"] and "finish` with Kong 1.5.1" in found.blockers[0]["do"]
    else:
        assert found.blockers == []
