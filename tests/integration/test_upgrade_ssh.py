# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same upgrade over real SSH: every host has its own systemd, sshd, file system and network cable.

With BLUE_KONG and GREEN_KONG in the environment the nodes stand on those kong commands, else on the stand-in.
"""

import pytest
from bed import machines
from bed.hosts import PROXY
from bed.lab import Lab
from bed.process import wait_for
from scenes import KONGS, Scene, open_admin

pytestmark = [pytest.mark.root, pytest.mark.skipif(machines.why_not() is not None, reason=str(machines.why_not()))]


class LabScene(Scene, Lab):
    """A scene whose hosts are machines."""


@pytest.fixture
def lab():
    with LabScene(nodes=3, batches=2, lbs=2, packed=not any(KONGS.values()), **KONGS) as standing:
        yield standing


def unit_of(host):
    """(whether systemd would start it at boot, whether it loads at all, whether it runs)."""
    said = host.machine.run(["systemctl", "show", "-p", "UnitFileState,LoadState,ActiveState", "kong"]).stdout
    return dict(line.split("=") for line in said.split())


def test_whole_upgrade(lab):
    with lab.traffic():
        outcome = lab.done("upgrade.yml", kong_upgrade_until="finish")
    assert lab.unfinished() == []
    assert lab.serves("green")
    assert {host.version() for host in lab.green} == {lab.versions()["green"]}
    for host in lab.blue:
        assert unit_of(host) == {"UnitFileState": "masked", "LoadState": "masked", "ActiveState": "inactive"}
        assert host.machine.run(["systemctl", "start", "kong"], check=False).returncode != 0
    for host in lab.green:
        assert unit_of(host) == {"UnitFileState": "enabled", "LoadState": "loaded", "ActiveState": "active"}
        # What is running now is what comes back after a power cut.
    lab.machines["blue1"].power_off()
    lab.machines["green1"].power_off()
    for name in ("blue1", "green1"):
        lab.power_on(name)
    wait_for(lambda: lab.green[0].listens(PROXY), 20, "green1 has come back")
    assert lab.blue[0].pid() is None
    assert [phase["phase"] for phase in outcome.report["phases"]] == [
        "stage", "backup", "expand", "start", "shift", "retire", "finish"]
    again = lab.done("upgrade.yml", kong_upgrade_until="finish")
    assert not any(again.changed.values()), again.tail


def test_cut_cables_and_power_cuts(lab):
    with lab.traffic():
        lab.done("upgrade.yml", kong_upgrade_until="shift")
        # A host that is cut off ends the run before its first change.
        lab.machines["blue3"].unplug()
        outcome = lab.refused("upgrade.yml")
        assert [line.split(":")[0] for line in outcome.blockers] == ["blue3"], outcome.blockers
        assert "unreachable" in outcome.blockers[0]
        assert all(unit_of(host)["ActiveState"] == "active" for host in lab.blue)
        assert lab.serves("green")
        lab.machines["blue3"].plug()
        lab.machines["blue3"].wait()

        # One that is cut off in the middle ends it too, and the same command goes on from there.
        run = lab.start("upgrade.yml", kong_upgrade_until="finish")
        run.wait_for("Retire | Drain kong_blue_b")
        lab.machines["blue3"].unplug()
        outcome = run.end()
        assert outcome.rc != 0, outcome.tail
        assert outcome.report["result"] == "failed", outcome.tail
        assert "blue3" in outcome.report["headline"]
        assert lab.serves("green")
        assert lab.schema()["core"][1], "nothing was finished while a blue node was out of sight"
        assert open_admin(lab.green) == []

        # Dead for good: named as gone, it no longer stands in the way.
        lab.machines["blue3"].plug()
        lab.machines["blue3"].wait()
        lab.machines["blue3"].power_off()
        lab.done("upgrade.yml", kong_upgrade_until="finish", kong_upgrade_gone=["blue3"])
    assert [line for line in lab.unfinished() if not line.startswith("blue3")] == []
