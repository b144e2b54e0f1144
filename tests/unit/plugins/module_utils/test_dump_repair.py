# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An export of an older Kong as 2.8 can import it."""

import itertools
import os
import pathlib

import pytest
import yaml
from ansible_collections.bluegreen.kong.plugins.module_utils import _dump_repair
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DumpError

OLD = """\
_format_version: '1.1'
services:
- name: s1
  id: a1
  path: ~
  description: |
    whitelist: a text

    run_on: first
ratelimiting_metrics:
- value: 1
  identifier: x
plugins:
- run_on: first
  id: p1
  name: acl
  config:
    blacklist: ~
    whitelist:
    - admins
    - whitelist
- id: p2
  name: pre-function
  run_on: first
  config:
    whitelist: of another plugin
    functions:
    - |
      run_on: first
      blacklist: x
- name: ip-restriction
  config:
    whitelist:
    - 127.0.0.0/8
  id: p3
response_ratelimiting_metrics: {}
snis: []
"""


def repaired(text):
    done = {}
    return "".join(_dump_repair.repair(text.splitlines(True), done)), done


def test_an_old_export():
    text, done = repaired(OLD)
    assert yaml.safe_load(text) == {
        "_format_version": "1.1",
        "_transform": False,
        "services": [{"name": "s1", "id": "a1", "path": None, "description": "whitelist: a text\n\nrun_on: first\n"}],
        "plugins": [
            {"id": "p1", "name": "acl", "config": {"deny": None, "allow": ["admins", "whitelist"]}},
            {"id": "p2", "name": "pre-function",
             "config": {"whitelist": "of another plugin", "functions": ["run_on: first\nblacklist: x\n"]}},
            {"id": "p3", "name": "ip-restriction", "config": {"allow": ["127.0.0.0/8"]}},
        ],
        "snis": [],
    }
    assert done == {
        "_transform: false": 1, "ratelimiting_metrics left out": 1, "plugins: run_on removed": 2,
        "acl: blacklist is deny": 1, "acl: whitelist is allow": 1, "ip-restriction: whitelist is allow": 1,
    }
    assert repaired(text) == (text, {}), "nothing is left to repair"


def test_indented_items():
    text, done = repaired("_transform: true\nplugins:\n  - run_on: first\n    id: p1\n    name: acl\n    config:\n      whitelist: ~\n")
    assert yaml.safe_load(text) == {"_transform": True, "plugins": [{"id": "p1", "name": "acl", "config": {"allow": None}}]}


@pytest.mark.parametrize("text, words", [
    ("plugins:\n- id: p7\n  run_on: all\n", "plugins p7 has run_on: all"),
])
def test_what_has_no_counterpart(text, words):
    with pytest.raises(DumpError, match=words):
        repaired(text)


def test_of_several_targets_the_youngest_counts():
    lines = ["targets:\n"]
    rows = [
        ("t1", "u", "a:80", 1.5), ("t2", "u", "a:80", 3), ("t3", "u", "a:80", 2), ("t4", "v", "a:80", 1), ("t5", "u", "b:80", 1),
        ("t6", "u", "b:80", 1)]
    for identity, upstream, target, made in rows:
        lines += [f"- id: {identity}\n", f"  upstream: {upstream}\n", f"  target: {target}\n", f"  created_at: {made}\n"]
    older = _dump_repair.Superseded(_dump_repair.targets(lines))
    assert [row[0] for row in rows if row[0] in older] == ["t1", "t3", "t6"]
    done = {}
    kept = yaml.safe_load("".join(_dump_repair.repair(lines, done, older)))["targets"]
    assert [target["id"] for target in kept] == ["t2", "t4", "t5"]
    assert done["targets that a younger one has replaced left out"] == 3


def test_many_targets_are_not_kept_in_memory():
    """Told by the system: Python does not know what SQLite takes."""
    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    count = 200_000
    begun = resident()
    older = _dump_repair.Superseded((f"{n:036}", f"{n % 7:036}", f"host-{n // 14}.example.com:{n % 7}", n) for n in range(count))
    grown = resident() - begun
    assert f"{0:036}" in older and f"{count - 1:036}" not in older
    assert grown < count * 60, "a half of what the rows alone would take"


def test_what_has_a_time_to_live():
    """An import forgets that it has one."""
    text, done = repaired("_transform: false\nkeyauth_credentials:\n- id: k1\n  ttl: 3599\n  key: a\n- id: k2\n  ttl: ~\n  key: b\n")
    assert yaml.safe_load(text)["keyauth_credentials"] == [{"id": "k2", "ttl": None, "key": "b"}]
    assert done == {"keyauth_credentials with a time to live left out": 1}


@pytest.mark.parametrize("old, new, counts", [
    ("\n    - a", " ~", ["a"]),
    ("\n    - a\n    - b", "\n    - c\n    - d", ["a", "b"]),
    (" []", "\n    - c", []),
    (" ~", "\n    - c\n    - d", ["c", "d"]),
    ("", " ~", None),
])
def test_of_an_old_and_a_new_name_the_old_one_counts_where_it_says_something(old, new, counts):
    """As Kong's own `finish`, import and reading have it; but for an old one without a value, for which finish forgets the new."""
    pair = [f"    whitelist:{old}\n", f"    allow:{new}\n"]
    for fields in (pair, pair[::-1]):
        text, done = repaired("plugins:\n- id: p7\n  name: acl\n  config:\n%s    hide: false\n  enabled: true\n" % "".join(fields))
        (plugin,) = yaml.safe_load(text)["plugins"]
        assert plugin == {"id": "p7", "name": "acl", "config": {"allow": counts, "hide": False}, "enabled": True}
        assert done["acl: of whitelist and allow, the one that counts"] == 1


def test_ids():
    assert list(_dump_repair.ids(OLD.splitlines(True))) == [
        ("services", "a1"), ("ratelimiting_metrics", None), ("plugins", "p1"), ("plugins", "p2"), ("plugins", "p3")]


def test_one_entity_at_a_time():
    """An export without an end is repaired as it comes."""
    endless = itertools.chain(["consumers:\n"], itertools.cycle(["- id: c1\n", "  username: u\n"]))
    assert len(list(itertools.islice(_dump_repair.repair(endless, {}), 10001))) == 10001
