# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built tarball, installed offline into an empty folder: its playbooks by name, and what an execution environment gets of it.

What is in the tarball: tools/check_build.py.
"""

import json
import pathlib
import re
import subprocess
import sys

import pytest
import yaml
from bed.bed import REPOSITORY
from scenes import QUICK

BIN = pathlib.Path(sys.executable).parent


def run(*argv, **options):
    """The output of a command; an AssertionError with it if it fails."""
    done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the collection was installed into."""
    built, folder = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("installed")
    run(BIN / "ansible-galaxy", "collection", "build", "--output-path", built, REPOSITORY)
    (tarball,) = built.glob("*.tar.gz")
    run(BIN / "ansible-galaxy", "collection", "install", "--offline", "-p", folder, tarball, cwd=built)
    return folder


def test_playbooks_by_name(stage, installed, tmp_path):
    bed = stage(nodes=1, batches=1, lbs=1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def play(name, **variables):
        return run(
            BIN / "ansible-playbook", "-i", bed.inventory, f"bluegreen.kong.{name}", "-e", json.dumps({**QUICK, **variables}),
            env=bed.play_environment({"ANSIBLE_COLLECTIONS_PATH": str(installed)}), cwd=elsewhere, timeout=280)

    play("stage_and_backup")
    assert not any(host.pid() for host in bed.green)
    assert bed.green_migrated() == 5  # new migrations wait
    assert list((bed.directory / "backup").glob("*.pgc"))

    with bed.traffic():
        told = play("upgrade", kong_upgrade_until="shift")
    assert bed.serves("green")
    playbooks = installed / "ansible_collections" / "bluegreen" / "kong" / "playbooks"
    assert re.search(rf"Go on with: ansible-playbook -i {bed.inventory} -e .*{playbooks}/upgrade\.yml", told), told
    assert (bed.report / "report.html").exists()
    assert list(elsewhere.iterdir()) == []


def test_execution_environment(installed, tmp_path):
    found = yaml.safe_load(run(BIN / "ansible-builder", "introspect", installed))
    wanted = {line.split("#")[0].strip() for line in (REPOSITORY / "requirements.txt").read_text("utf-8").splitlines()} - {""}
    assert {line.split("#")[0].strip() for line in found["python"]} == wanted
    assert any(line.startswith("openssh-clients") for line in found["system"])

    definition = installed / "ansible_collections" / "bluegreen" / "kong" / "execution-environment.yml"
    run(BIN / "ansible-builder", "create", "--file", definition, "--context", tmp_path / "context")
    (recipe,) = [path for path in (tmp_path / "context").iterdir() if path.name in ("Containerfile", "Dockerfile")]
    assert "postgresql:16" in recipe.read_text("utf-8")
    asked = yaml.safe_load((tmp_path / "context" / "_build" / "requirements.yml").read_text("utf-8"))["collections"]
    own = yaml.safe_load((REPOSITORY / "collections" / "requirements.yml").read_text("utf-8"))["collections"]
    assert asked == [{"name": "bluegreen.kong"}, *own]
