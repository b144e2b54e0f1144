# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import findings, restore

SHA = "3f0c9a51d2be" + 52 * "0"
ROW = {"table": "consumers", "backup": 3, "now": 4, "added": 2, "removed": 1}
FINISHED = {"executed": {"core": ["009_200_to_210"]}}


def blockers(*, word="", source="2.0.5", migrations=None, backup=None, differences=(), blue=(), green=("g1",), opened=("g1",)):
    migrations = FINISHED if migrations is None else migrations
    found = findings.Findings()
    seen = {"path": "/b/kong.pgc", "sha256": SHA, "made": 0, "restored": False, "differences": list(differences), **(backup or {})}
    survey = {
        "options": {"strategy": "blue_green", "confirm_restore": word, "command": "ansible-playbook PLAYBOOK.yml", "database_host": "db1"},
        "backup": seen,
    }
    stands = {"blue_running": list(blue), "green_running": list(green), "green_open": list(opened)}
    restore.check(survey, source, "2.8.5", stands, migrations, found)
    return ["%(where)s: %(what)s | %(do)s" % row for row in found.blockers]


def test_without_the_word_what_is_lost_is_told():
    (problem,) = blockers(differences=[ROW, dict(ROW, table="routes", now=None, added=None, removed=None)])
    assert "consumers (3 then, 4 now): 2 added, 1 removed" in problem and "routes, which cannot be read" in problem
    assert problem.endswith("ansible-playbook restore.yml -e kong_upgrade_confirm_restore=3f0c9a51d2be")
    assert "no row was added or removed since" in blockers()[0]


@pytest.mark.parametrize("path, version", [
    ("/b/kong-2.1.4-ecfff684315d.pgc", "2.1.4"), ("/b/kong-9.9.9/my-kong.pgc", None), ("/b/my-gw-1.5.1-x.pgc", "1.5.1"), (None, None)
])  # fmt: skip
def test_the_name_of_a_dump_tells_which_version_ran_on_it(path, version):
    assert restore.version_of({"path": path} if path else {"error": "no dump"}) == version


@pytest.mark.parametrize("word, enough", [
    (SHA, True), (SHA[:12], True), (SHA[:11], False), ("", False), ("true", False), (True, False), ("4" + SHA[1:], False)
])  # fmt: skip
def test_the_word_means_this_very_dump(word, enough):
    told = blockers(word=word)
    assert (told == []) is enough
    assert all(("kong_upgrade_confirm_restore is %s, which does not mean this dump" % word in line) is bool(word) for line in told)


@pytest.mark.parametrize("given, words", [
    ({"backup": {"error": "no dump"}}, "db1: no dump"),
    ({"blue": ["b1"]}, "b1: blue runs there"),
    ({"migrations": {}, "opened": []}, "rollback.yml"),
    ({"migrations": {}, "opened": [], "source": "2.7.2"}, "rollback.yml"),
])  # fmt: skip
def test_what_stands_in_the_way_of_a_restore(given, words):
    (problem,) = blockers(word=SHA, **given)
    assert words in problem


@pytest.mark.parametrize("given", [
    {"migrations": {}, "source": "2.7.2"},  # nothing to finish: the open Admin API is the point of no return
    {"migrations": {}, "opened": [], "green": []},  # an earlier run has stopped green
    {"word": "", "backup": {"restored": True}, "blue": ["b1"], "green": []},  # and one has restored
])  # fmt: skip
def test_nothing_stands_in_the_way(given):
    assert blockers(**{"word": SHA, **given}) == []
