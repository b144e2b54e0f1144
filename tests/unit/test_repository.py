# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds for every file of the repository."""

import functools
import os
import pathlib
import re
import subprocess
import sys

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
    required = yaml.safe_load((ROOT / "collections" / "requirements.yml").read_text())
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


@pytest.mark.parametrize("path", sorted((ROOT / "plugins" / "modules").glob("*.py")), ids=lambda path: path.stem)
def test_a_module_says_where_to_go_on(path):
    told = yaml.safe_load(re.search(r'^DOCUMENTATION = r"""(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1])
    assert told["version_added"] and told["seealso"]
    assert "attributes" in told or "bluegreen.kong.attributes" in told["extends_documentation_fragment"]


def test_every_playbook_ends_as_failed_without_hosts():
    """Ansible skips a play that has no hosts, and ends with 0."""
    plays = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "playbooks").glob("*.yml")}
    assert len(plays) > 12
    first = {name: [play.get("ansible.builtin.import_playbook") for play in found][0] for name, found in plays.items()}
    assert {name for name, imported in first.items() if imported != "groups.yml"} == {"groups", "awx_configure"}
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("ansible-playbook"), "-i", "examples/zones.yml", "playbooks/status.yml",
         "-e", "kong_upgrade_blue_group=a", "-e", "kong_upgrade_green_group=b", "-e", "kong_upgrade_lb_group=c"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "No host is in any of the groups a, b, c" in done.stdout


@pytest.mark.parametrize("option", ["--tags=shift", "--skip-tags=backup"])
def test_a_run_of_some_tags_is_refused(option):
    """No task of ours has one: Ansible would do nothing, and end with 0."""
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("ansible-playbook"), "-i", "examples/zones.yml", "playbooks/shift.yml", option],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "Refuse --tags and --skip-tags" in done.stdout and "Run without them" in done.stdout


def keys_of(node):
    """All keys of a YAML document, however deep."""
    if isinstance(node, dict):
        return set(node).union(*map(keys_of, node.values()))
    return set().union(*map(keys_of, node)) if isinstance(node, list) else set()


def test_nothing_waits_for_a_person():
    """AWX, cron and CI have no terminal."""
    asking = {"vars_prompt", "pause", "ansible.builtin.pause"}
    tasks = {name: text for name, text in files().items() if re.match(r"(playbooks|roles/\w+/(tasks|handlers))/.*\.yml$", name)}
    assert len(tasks) > 50
    found = {name: keys_of(yaml.safe_load(text)) & asking for name, text in tasks.items()}
    assert {name for name, keys in found.items() if keys} == set()


@pytest.mark.parametrize("name", ["demo", "test", "floor", "newest"])
def test_requirements_are_pinned(name):
    wanted = re.findall(
        r"^([A-Za-z][\w-]*)(?:\[\w+\])?==(\S+)", (ROOT / "requirements" / (name + ".in")).read_text(), re.MULTILINE
    )
    compiled = (ROOT / "requirements" / (name + ".txt")).read_text()
    pins = set(re.findall(r"^([\w.-]+)==(\S+)", compiled, re.MULTILINE))
    assert {(n.lower(), v) for n, v in wanted} <= pins
    assert re.findall(r"^(?!#)(?![\w.-]+==\S)\S.*$", compiled, re.MULTILINE) == []


def test_the_workflow_calls_what_make_test_is_made_of():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    (everything,) = re.findall(r"^test:.*\n\t@\S+ -B tools/run_tests\.py packages (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    job = workflow["jobs"]["make"]
    assert job["strategy"]["matrix"]["target"] == everything.split()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make ${{ matrix.target }}"]
