# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver `nginx` on a whole bed, with real nginx and the configuration that docs/load_balancers.md gives."""

import pytest
from bed.hosts import PROXY
from bed.nginx import EXECUTABLE, Nginx
from scenes import KONGS, Scene

pytestmark = pytest.mark.skipif(not EXECUTABLE, reason="needs nginx")

BEGUN = {"blue1": 100, "blue2": 100, "green1": 0, "green2": 0}
DONE = {"blue1": 0, "blue2": 0, "green1": 100, "green2": 100}


class NginxScene(Scene):
    """A scene whose load balancers are nginx."""

    def _make_objects(self):
        super()._make_objects()
        servers = [(host.name, host.address, PROXY, 100 if host.colour == "blue" else 0) for host in self.hosts]
        self.lbs = [Nginx(lb.name, lb.directory, lb.address, servers, self.env) for lb in self.lbs]

    def _lb_vars(self, lb):
        return {
            "kong_upgrade_driver": "nginx",
            "kong_upgrade_nginx_file": str(lb.upstream),
            "kong_upgrade_nginx_command": lb.command,
            "kong_upgrade_nginx_pid_file": str(lb.directory / "nginx.pid"),
            "kong_upgrade_nginx_log": str(lb.requests),
            "kong_upgrade_state_dir": str(lb.directory / "state"),
        }

    def _host_vars(self, host):
        return {**super()._host_vars(host), "kong_upgrade_server_name": host.address}

    def weights(self):
        return [lb.weights() for lb in self.lbs]


@pytest.fixture
def scene(tmp_path):
    """2 blue and 2 green nodes behind two nginx."""
    with NginxScene(tmp_path / "bed", nodes=2, batches=2, lbs=2, **KONGS) as standing:
        yield standing
        lbs = standing.lbs
    assert all(lb.process.poll() is not None for lb in lbs)


def test_whole_upgrade_loses_no_request(scene):
    with scene.traffic(rate=40, slow=2):
        outcome = scene.done("upgrade.yml", kong_upgrade_until="finish", timeout=240)
    assert scene.unfinished() == []
    assert scene.weights() == [DONE, DONE]
    gates = outcome.report["gates"]
    assert [gate["percent"] for gate in gates] == [50, 100]
    assert all(gate["verdict"] == "passed" and gate["green"]["requests"] > 4 for gate in gates), gates
    assert gates[0]["blue"]["requests"] > 4
    again = scene.done("upgrade.yml", kong_upgrade_until="finish")
    assert not any(again.changed.values()), again.tail


def test_the_way_back(scene):
    with scene.traffic(rate=40, slow=2):
        scene.done("upgrade.yml", kong_upgrade_until="shift")
        assert scene.weights() == [DONE, DONE]
        scene.done("rollback.yml")
        assert scene.weights() == [BEGUN, BEGUN]
    assert [host.name for host in scene.green if host.pid()] == []


def test_a_step_that_fails_on_one_load_balancer_is_undone_on_both(scene):
    def edit(data):
        data["all"]["children"]["kong_lb"]["hosts"]["lb2"].update(
            kong_upgrade_nginx_reload=["true"], kong_upgrade_command_timeout=2)

    with scene.traffic(rate=40, slow=2):
        outcome = scene.refused("upgrade.yml", inventory=scene.inventory_with("deaf", edit))
        assert scene.weights() == [BEGUN, BEGUN]
        assert "workers from before still take requests" in outcome.words, outcome.tail
        scene.done("upgrade.yml", kong_upgrade_until="shift")
        assert scene.weights() == [DONE, DONE]


def test_the_plan_finds_what_is_wrong(scene):
    def edit(data):
        hosts = data["all"]["children"]["kong_lb"]["hosts"]
        hosts["lb1"]["kong_upgrade_nginx_pid_file"] = "/nowhere/nginx.pid"
        del hosts["lb2"]["kong_upgrade_nginx_log"]
        data["all"]["children"]["kong_green"]["hosts"]["green2"]["kong_upgrade_server_name"] = "green2.example.com"

    before = scene.snapshot()
    (scene.lbs[1].conf.parent / "nginx.conf").touch()
    refused = scene.refused("upgrade.yml", inventory=scene.inventory_with("wrong", edit))
    assert len(refused.blockers) == 3, refused.blockers
    assert [line for line in refused.blockers if line.startswith("lb1: ") and "pid_file: /nowhere/nginx.pid cannot be read" in line]
    assert [line for line in refused.blockers if line.startswith("lb2: server green2.example.com of green host green2 is in no backend")]
    assert [line for line in refused.blockers if line.startswith("lb2: has no counters") and "set kong_upgrade_nginx_log" in line]
    warnings = ["%(where)s: %(what)s" % warning for warning in refused.report["warnings"]]
    assert f"lb2: configuration was changed after nginx has read it: {scene.lbs[1].conf}" in warnings
    assert scene.snapshot() == before
