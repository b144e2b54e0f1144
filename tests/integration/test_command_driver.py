# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver `command` with the very script that docs/load_balancers.md gives for a load balancer of a cloud.

Its API is the tests' own, in front of the bed's HAProxy.
"""

import datetime
import json
import re
import subprocess
import sys

import pytest
import yaml
from bed.bed import REPOSITORY
from bed.process import run, wait_for
from octavia import POOL, TOKEN, Octavia
from scenes import KONGS, Scene

GUIDE = (REPOSITORY / "docs" / "load_balancers.md").read_text(encoding="utf-8")
(SCRIPT,) = [block for block in re.findall(r"^```\w*\n(.*?)^```$", GUIDE, re.M | re.S) if block.startswith("#!/usr/bin/env python3")]
BEGUN = {"blue1": 100, "blue2": 100, "green1": 0, "green2": 0}
SHIFTED = {"blue1": 0, "blue2": 0, "green1": 100, "green2": 100}
PROBE = [{"path": "/open/health", "expect": [200]}]
# Slow requests take 5 seconds.
LONGEST = 6


class CloudScene(Scene):
    """A scene whose load balancer is led through an API. The HAProxy behind it is nobody's business."""

    def up(self):
        super().up()
        self.api = Octavia(self.lbs[0], self._address(9))
        self.script, self.token = self.directory / "kong-lb", self.directory / "token"
        self.script.write_text(SCRIPT, encoding="utf-8")
        self.token.write_text(TOKEN + "\n", encoding="utf-8")
        self.write_inventory(self.inventory)

    def down(self):
        if hasattr(self, "api"):
            self.api.shutdown()
            self.api.server_close()
        super().down()

    def commands(self):
        """kong_upgrade_commands."""
        variables = {"KONG_LB_API": self.api.url, "KONG_LB_POOL": POOL, "KONG_LB_TOKEN_FILE": self.token, "KONG_LB_LONGEST": LONGEST}
        line = ["/usr/bin/env", *(f"{key}={value}" for key, value in variables.items()), sys.executable, str(self.script)]
        return {name: [*line, name] for name in ("weights", "set_weight", "sessions", "up")}

    def _lb_vars(self, lb):
        commands = self.commands() if hasattr(self, "api") else {}
        return {"kong_upgrade_driver": "command", "kong_upgrade_commands": commands, "kong_upgrade_state_dir": str(lb.directory / "state")}

    def ask(self, name, check=True, **variables):
        """What a command of the driver does."""
        environment = {**self.env, **{f"KONG_UPGRADE_{key.upper()}": str(value) for key, value in variables.items()}}
        return run(self.commands()[name], environment, check=check)

    def weights(self):
        """{server: weight} as the HAProxy behind has them."""
        self.api.settle()
        return {name: int(row["weight"]) for name, row in self.lbs[0].stat().items()}

    def written(self):
        """Everything that a run has written for people."""
        files = [path for path in self.report.rglob("*") if path.is_file()]
        return "".join(path.read_text(encoding="utf-8") for path in files)


@pytest.fixture
def scene(tmp_path):
    """2 blue and 2 green nodes behind one load balancer of a cloud."""
    with CloudScene(tmp_path / "bed", nodes=2, batches=2, lbs=1, **KONGS) as standing:
        yield standing


def test_the_scripts_commands(scene):
    assert json.loads(scene.ask("weights").stdout) == BEGUN == scene.weights()
    assert scene.ask("sessions", server="blue1").stdout == "1\n", "it gets requests"
    # Two at a time: the second has to wait until the first is in force, which it is once the second was refused.
    usual, scene.api.delay = scene.api.delay, 60
    both = [
        subprocess.Popen(scene.commands()["set_weight"], env={
            **scene.env, "KONG_UPGRADE_SERVER": name, "KONG_UPGRADE_WEIGHT": weight})
        for name, weight in (("blue1", "0"), ("green1", "30"))]
    wait_for(lambda: any(status == 409 for dummy, dummy_path, status in scene.api.log), 20, "one of them was refused")
    scene.api.delay, scene.api.busy_until = usual, 0.0
    assert [process.wait(20) for process in both] == [0, 0]
    assert scene.weights() == {**BEGUN, "blue1": 0, "green1": 30}
    begun = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    wait_for(lambda: scene.ask("sessions", server="blue1").stdout == "0\n", 2 * LONGEST, "the longest request has ended")
    changed = datetime.datetime.fromisoformat(scene.api.updated["blue1"] + "+00:00")
    assert (datetime.datetime.now(datetime.timezone.utc) - changed).total_seconds() > LONGEST and changed <= begun
    assert scene.ask("up", server="blue2").returncode == 0
    assert scene.ask("up", check=False, server="green2").returncode == 1, "green does not run yet"


def test_what_the_script_says_when_it_cannot(scene):
    unknown = scene.ask("up", check=False, server="nobody")
    assert unknown.returncode == 1 and "the pool has no member nobody" in unknown.stderr
    scene.api.broken.add("blue1")
    broken = scene.ask("set_weight", check=False, server="blue1", weight=1)
    assert broken.returncode == 1 and "provisioning_status ERROR" in broken.stderr
    scene.token.write_text("old", encoding="utf-8")
    refused = scene.ask("weights", check=False)
    assert refused.returncode == 1 and "401" in refused.stderr and "requires authentication" in refused.stderr


def test_whole_upgrade_loses_no_request(scene):
    with scene.traffic(rate=40, slow=2):
        outcome = scene.done("upgrade.yml", kong_upgrade_until="finish", kong_upgrade_probe=PROBE, timeout=240)
    assert scene.unfinished() == []
    assert scene.weights() == SHIFTED
    gates = outcome.report["gates"]
    assert [(gate["percent"], gate["verdict"]) for gate in gates] == [(50, "passed"), (100, "passed")]
    assert "judged by probes alone, which all 2 green nodes answered" in gates[0]["message"]
    again = scene.done("upgrade.yml", kong_upgrade_until="finish", kong_upgrade_probe=PROBE)
    assert not any(again.changed.values()), again.tail
    assert TOKEN not in outcome.output + again.output + scene.written()


def test_without_counters_probes_are_needed_and_the_way_back(scene):
    refused = scene.refused("plan.yml")
    assert [line for line in refused.blockers if line.startswith("lb1: has no counters")] == refused.blockers != []
    mistyped = {**scene.commands(), "counter": "true", "set_weight": ["/nowhere/drv"]}
    told = "\n".join(scene.refused("plan.yml", kong_upgrade_commands=mistyped).blockers)
    assert "kong_upgrade_commands.counter: no such part; did you mean counters?" in told
    assert "commands.set_weight: /nowhere/drv cannot be run" in told
    with scene.traffic(rate=30, slow=1):
        scene.done("upgrade.yml", kong_upgrade_until="shift", kong_upgrade_probe=PROBE)
        assert scene.weights() == SHIFTED
        scene.done("rollback.yml", kong_upgrade_probe=PROBE)
        assert scene.weights() == BEGUN
    assert [host.name for host in scene.green if host.pid()] == []


def phases(scene, *names):
    """A playbook of one's own that runs these phases, each by its entry point of the role: its path."""
    path = scene.directory / "phases.yml"
    tasks = [{"name": f"Phase {name}", "ansible.builtin.import_role": {"name": "bluegreen.kong.kong_upgrade", "tasks_from": name}}
             for name in names]
    play = {"name": "Phases", "hosts": "kong_blue:kong_green:kong_lb", "gather_facts": False, "tasks": tasks}
    path.write_text(yaml.safe_dump([play], sort_keys=False), encoding="utf-8")
    return path


def test_a_probe_that_fails_shuts_the_gate(scene):
    with scene.traffic(rate=30, slow=1):
        scene.done(phases(scene, "stage", "backup", "expand", "start"), kong_upgrade_probe=PROBE)
        outcome = scene.refused("shift.yml", kong_upgrade_probe=[{"path": "/open/health", "expect": [418]}])
    assert "green does not answer as it should" in outcome.words, outcome.tail
    assert scene.weights() == BEGUN


def test_commands_that_do_not_work_are_found_by_the_plan(scene):
    def edit(data):
        data["all"]["children"]["kong_lb"]["hosts"]["lb1"]["kong_upgrade_commands"]["sessions"] = "echo none"

    refused = scene.refused("upgrade.yml", inventory=scene.inventory_with("broken", edit))
    assert len([line for line in refused.blockers if "commands.sessions for default/blue1: printed 'none'" in line]) == 1
    assert scene.weights() == BEGUN and scene.green_migrated() != 0
    scene.token.write_text("old", encoding="utf-8")
    refused = scene.refused("upgrade.yml")
    assert len([line for line in refused.blockers if "401" in line and "requires authentication" in line]) == 1
