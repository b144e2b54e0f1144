# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds for every file of the repository."""

import functools
import os
import pathlib
import re
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Made of parts, so that this file does not hold what it looks for.
PLACES = re.compile(r"(?<![\w.$}/])/(?:wor[k]|roo[t]/\.(?:pyenv|cache)|home/\w+|tmp/(?:plan|pkg))(?:/|\b)")
REGISTRIES = re.compile(
    r"(?i)(pyp[i]\.org|pythonhoste[d]\.org|--(?:extra-)?index-url|artifactor[y]|devp[i]|registry\.np[m]js)"
)
HEADER = (
    "# Copyright (c) 2026 The bluegreen.kong authors",
    "# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)",
    "# SPDX-License-Identifier: GPL-3.0-or-later",
)


@functools.lru_cache(maxsize=None)
def files():
    """path -> text of every text file that belongs to the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git does not tell which files belong to the repository")
    found = {}
    for name in sorted(filter(None, map(os.fsdecode, listing.split(b"\0")))):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return found


def lines_with(pattern, texts):
    """file:line of what the pattern finds."""
    return [
        "%s:%d: %s" % (name, number, line.strip()[:120])
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_place_of_its_author():
    assert lines_with(PLACES, files()) == []


def test_no_file_names_a_registry():
    assert lines_with(REGISTRIES, files()) == []
    assert [name for name in files() if name.endswith("uv.lock")] == []


def test_every_python_file_has_the_header():
    missing = []
    for name, text in files().items():
        if name.endswith(".py") and text.strip():
            head = text.splitlines()[:4]
            head = tuple(head[1:4] if head[0].startswith("#!") else head[:3])
            if head != HEADER:
                missing.append(name)
    assert missing == []


def test_nothing_is_ignored_by_sanity():
    assert not list((ROOT / "tests" / "sanity").glob("ignore*"))


def test_dependencies_are_told_once():
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    required = yaml.safe_load((ROOT / "requirements.yml").read_text())
    assert {c["name"]: c["version"] for c in required["collections"]} == galaxy["dependencies"]


def test_the_floor_that_is_tested_is_the_one_that_is_promised():
    floor = (ROOT / "requirements" / "floor.in").read_text()
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
    (version,) = re.findall(r"^ansible-core==(\S+)$", floor, re.MULTILINE)
    assert runtime["requires_ansible"] == ">=%s" % version


def test_every_module_is_in_the_action_group():
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
    modules = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py") if path.stem != "__init__")
    assert sorted(runtime["action_groups"]["kong"]) == modules


@pytest.mark.parametrize("name", ["demo", "test", "floor", "newest"])
def test_requirements_are_pinned(name):
    wanted = re.findall(
        r"^([A-Za-z][\w-]*)(?:\[\w+\])?==(\S+)", (ROOT / "requirements" / (name + ".in")).read_text(), re.MULTILINE
    )
    compiled = (ROOT / "requirements" / (name + ".txt")).read_text()
    pins = set(re.findall(r"^([\w.-]+)==(\S+)", compiled, re.MULTILINE))
    assert {(n.lower(), v) for n, v in wanted} <= pins
    assert re.findall(r"^(?!#)(?![\w.-]+==\S)\S.*$", compiled, re.MULTILINE) == []
