# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver `nginx` over SSH, on hosts with Debian's nginx as a unit of their own systemd, everything where Debian has it."""

import pathlib

import pytest
from bed import machines
from bed.hosts import PROXY
from bed.lab import Lab
from bed.nginx import Nginx
from bed.process import wait_for
from scenes import KONGS, Scene, connects

pytestmark = [pytest.mark.root, pytest.mark.skipif(machines.why_not() is not None, reason=str(machines.why_not()))]
LOG = "/var/log/nginx/kong_upgrade.log"


class LabNginx(Nginx):
    """nginx of Debian on a machine."""

    machine, process = None, None

    def __init__(self, machine, lb, servers):
        super().__init__(lb.name, lb.directory, lb.address, servers, lb.env)
        self.machine, self.requests = machine, pathlib.PurePosixPath(LOG)

    def write(self):
        self.machine.write("/etc/nginx/conf.d/kong.conf", self.upstream_text())
        self.machine.write("/etc/nginx/conf.d/gateway.conf", self.gateway_text())
        self.machine.enable("nginx.service")

    def start(self):
        wait_for(lambda: connects(self.address, self.port), 20, f"nginx on {self.name} listens")

    def text(self):
        return self.machine.run(["cat", "/etc/nginx/conf.d/kong.conf"]).stdout


class NginxLab(Scene, Lab):
    """A scene whose hosts are machines, with nginx on the load balancers."""

    def _make_objects(self):
        super()._make_objects()
        servers = [(host.name, host.address, PROXY, 100 if host.colour == "blue" else 0) for host in self.hosts]
        self.lbs = [LabNginx(self.machines[lb.name], lb, servers) for lb in self.lbs]

    def _lb_vars(self, lb):
        return {"ansible_host": lb.address, "kong_upgrade_driver": "nginx", "kong_upgrade_nginx_log": LOG,
                "kong_upgrade_nginx_reload": ["systemctl", "reload", "nginx"]}

    def _host_vars(self, host):
        return {**super()._host_vars(host), "kong_upgrade_server_name": "{{ ansible_host }}"}


@pytest.fixture
def lab():
    with NginxLab(nodes=2, batches=2, lbs=2, **KONGS) as standing:
        yield standing


def test_whole_upgrade(lab):
    with lab.traffic(rate=40):
        outcome = lab.done("upgrade.yml", kong_upgrade_until="finish")
    assert lab.unfinished() == []
    for lb in lab.lbs:
        assert lb.weights() == {"blue1": 0, "blue2": 0, "green1": 100, "green2": 100}
        listed = lb.machine.run(["ls", "-A", "/etc/nginx/conf.d"]).stdout.split()
        assert listed == ["gateway.conf", "kong.conf"], "nothing is left beside it"
        owner = lb.machine.run(["stat", "-c", "%U:%G %a", "/etc/nginx/conf.d/kong.conf"]).stdout
        assert owner == "root:root 644\n"
        assert lb.machine.run(["systemctl", "is-active", "nginx"]).stdout == "active\n"
    assert all(gate["verdict"] == "passed" and gate["green"]["requests"] > 4 for gate in outcome.report["gates"])
    again = lab.done("upgrade.yml", kong_upgrade_until="finish")
    assert not any(again.changed.values()), again.tail
