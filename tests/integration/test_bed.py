# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bed itself: what it brings up serves, what fails is noticed, and nothing is left behind.

With BLUE_KONG and GREEN_KONG in the environment it stands on those kong commands, else on the stand-in.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from bed import process
from bed.bed import Bed, _sizes, take_down
from bed.process import BedError, wait_for

KONGS = {"blue_kong": os.environ.get("BLUE_KONG") or None, "green_kong": os.environ.get("GREEN_KONG") or None}


@pytest.fixture(scope="module")
def bed():
    with Bed(nodes=2, batches=2, lbs=2, **KONGS) as standing:
        yield standing
    assert not process.members(standing.directory)
    assert not standing.directory.exists()
    assert not standing.runtime.exists()


def test_serves_under_load_and_through_a_reload_of_haproxy(bed):
    load = bed.load()
    time.sleep(1.5)
    bed.lbs[0].reload()
    time.sleep(1.5)
    result = load.stop()
    assert result["failures"] == []
    assert result["requests"] > 300
    kinds = {"open", "key-auth", "basic-auth", "wrong key", "not staff", "slow"}
    assert {name for name, kind in result["kinds"].items() if kind["requests"]} == kinds
    assert result["versions"] == {"blue": {bed.versions()["blue"]: result["requests"]}}
    assert 0 < result["p50_ms"] <= result["p99_ms"] < 5000, "slow requests, which take 5 s, are not among them"


def test_load_notices_what_fails(bed):
    load = bed.load(slow=0)
    time.sleep(0.5)
    bed.lbs[1].ask("set server kong/blue1 state maint; set server kong/blue2 state maint")
    time.sleep(1)
    bed.lbs[1].ask("set server kong/blue1 state ready; set server kong/blue2 state ready")
    bed.lbs[1].wait_up(["blue1", "blue2"])
    result = load.stop()
    assert result["failed"] > 20
    assert {failure["target"] for failure in result["failures"]} == {f"{bed.lbs[1].address}:{bed.lbs[1].port}"}
    assert "status 503" in result["failures"][0]["reason"]
    assert result["failed"] == sum(row[2] for row in result["seconds"])


def test_killed_up_leaves_a_stale_lock(bed):
    green = bed.green[0]
    green.write_conf({**green.listeners(), **bed.database_settings(), "pg_password": bed.postgres.password})
    owner, seconds = bed.kill_up(green)
    assert owner
    assert 30 < seconds <= 60


def test_killed_node_is_dead(bed):
    bed.kill_node(bed.blue[1])
    assert not bed.blue[1].listens()
    assert bed.blue[0].listens()


def begun(folder):
    """A `bed up` that has begun and not ended."""
    options = [word for key, value in KONGS.items() if value for word in (f"--{key.replace('_', '-')}", value)]
    maker = subprocess.Popen(
        [sys.executable, "-m", "bed", "up", "--dir", folder, "--nodes", "1", "--batches", "1", *options],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent)})
    wait_for(lambda: len(process.members(folder)) > 2, 20, "it has begun")
    return maker


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_maker_leaves_nothing(tmp_path, number):
    maker = begun(tmp_path)
    runtime = pathlib.Path(json.loads((tmp_path / "bed.json").read_text(encoding="utf-8"))["runtime"])
    maker.send_signal(number)
    assert maker.wait(30) == 130
    assert not process.members(tmp_path)
    assert not runtime.exists()


def test_a_bed_whose_maker_was_killed_can_be_taken_down(tmp_path):
    maker = begun(tmp_path)
    maker.kill()
    maker.wait()
    assert process.members(tmp_path)
    take_down(tmp_path)
    assert not process.members(tmp_path)
    assert not (tmp_path / "bed.json").exists()


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "precious").write_text("mine", encoding="ascii")
    with pytest.raises(BedError, match="not made by a bed"), Bed(tmp_path):
        pass
    assert (tmp_path / "precious").read_text(encoding="ascii") == "mine"


@pytest.mark.parametrize(("nodes", "batches", "sizes"), [
    (3, 2, [2, 1]), (5, 3, [2, 2, 1]), (4, 1, [4]), (3, [1, 2], [1, 2]),
])
def test_sizes_of_batches(nodes, batches, sizes):
    assert _sizes(nodes, batches) == sizes


@pytest.mark.parametrize(("nodes", "batches"), [(2, 3), (3, 0), (3, [1, 1]), (3, [3, 0]), (2, -1)])
def test_impossible_batches(nodes, batches):
    with pytest.raises(BedError):
        _sizes(nodes, batches)
