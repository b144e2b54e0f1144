# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab itself: machines that are each their own, and what a bed does on them."""

import pytest
from bed import machines, process
from bed.lab import Lab
from bed.process import wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(machines.why_not() is not None, reason=f"no lab: {machines.why_not()}"),
]


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=1, batches=1, lbs=1) as standing:
        yield standing
    assert not process.members(standing.directory)
    assert not standing.runtime.exists()


def test_serves(lab):
    load = lab.load(slow_seconds=1)
    wait_for(lambda: load.figures()["requests"] > 200, 20, "some load")
    lab.lbs[0].reload()
    wait_for(lambda: load.figures()["requests"] > 400, 20, "some load after the reload")
    result = load.stop()
    assert result["failures"] == []
    assert result["versions"] == {"blue": {"2.1.4": result["requests"]}}


def test_systemd_owns_kong_and_brings_it_back(lab):
    machine, host = lab.machines["blue1"], lab.blue[0]
    first = host.pid()
    shown = machine.run(["systemctl", "show", "-p", "MainPID,ControlGroup", "kong"]).stdout.split()
    assert sorted(shown) == ["ControlGroup=/system.slice/kong.service", f"MainPID={first}"]
    machine.run(["kill", "-9", str(first)])
    wait_for(lambda: host.pid() not in (None, first), 10, "systemd has started Kong again")


def test_machines_do_not_see_each_other(lab):
    units = lab.machines["green1"].run(["systemctl", "list-units", "--state=active", "--plain", "kong*"]).stdout
    assert "kong.service" not in units
    groups = lab.machines["lb1"].run(["find", "/sys/fs/cgroup", "-name", "kong.service"]).stdout
    assert groups == ""
    assert lab.machines["green1"].run(["pgrep", "-f", "postgres|haproxy"], check=False).stdout == ""


def test_disk_outlives_a_power_cut(lab):
    machine = lab.machines["green1"]
    machine.run(["sh", "-c", "echo kept > ~/note; echo gone > /run/note"])
    machine.power_off()
    lab.power_on("green1")
    assert machine.run(["sh", "-c", "cat ~/note"]).stdout == "kept\n"
    assert machine.run(["cat", "/run/note"], check=False).returncode


def test_an_unplugged_machine_cannot_be_reached(lab):
    machine = lab.machines["green1"]
    machine.unplug()
    assert not machine.reachable()
    machine.plug()
    machine.wait()
