# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver `command` with a real nginx, by the very configuration and script that docs/load_balancers.md gives."""

import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess

import pytest
import yaml
from bed.bed import REPOSITORY
from bed.hosts import PROXY
from bed.process import run, spawn, wait_for
from scenes import KONGS, Scene

PROGRAMS = ("nginx", "curl", "ss", "pgrep", "awk")
SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")

GUIDE = REPOSITORY / "docs" / "load_balancers.md"
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
# What stands around the part that the guide has: a folder of its own, and which server answered, for the load to count.
CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
{user}
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    map $upstream_addr $bed_server {{
{names}
    }}
    add_header X-Bed-Server $bed_server always;
{guide}
}}
"""


def block(text):
    """The one block of the guide that holds this text."""
    (found,) = [block for block in BLOCKS if text in block]
    return found


class Nginx:
    """A load balancer as bed.haproxy.HAProxy is one, as far as the bed asks."""

    port = 8080

    def __init__(self, name, directory, address, servers, env):
        self.name, self.directory, self.address, self.servers, self.env = name, directory, address, servers, env
        self.conf, self.upstream = directory / "nginx.conf", directory / "kong" / "upstream.conf"
        self.script, self.log = directory / "kong-lb", directory / "nginx.log"
        self.executable = pathlib.Path(shutil.which("nginx", path=SEARCH))
        self.process = None

    @property
    def nginx(self):
        """The nginx command of this load balancer."""
        return [str(self.executable), "-p", str(self.directory), "-c", str(self.conf)]

    @property
    def commands(self):
        """kong_upgrade_commands."""
        variables = {
            "KONG_LB_CONF": self.upstream, "KONG_LB_LOG": self.directory / "kong.log", "KONG_LB_PID": self.directory / "nginx.pid",
            "KONG_LB_NGINX": " ".join(self.nginx), "KONG_LB_HEALTH": "/open/health",
        }
        line = ["/usr/bin/env", *(f"{key}={value}" for key, value in variables.items()), str(self.script)]
        names = ("weights", "set_weight", "apply", "sessions", "counters", "up")
        return {name: [*line, name] for name in names}

    def write(self):
        """Write what the guide says, in a folder of its own."""
        self.upstream.parent.mkdir(parents=True)
        self.upstream.write_text("".join(
            f"server {address}:{port} {f'weight={weight}' if weight else 'down'}; # {name}\n"
            for name, address, port, weight in self.servers), encoding="utf-8")
        guide = block("log_format kong")
        for theirs, ours in (
            ("/etc/nginx/kong/upstream.conf", str(self.upstream)), ("/var/log/nginx/kong.log", f"{self.directory}/kong.log"),
            ("listen 80;", f"listen {self.address}:{self.port};"),
        ):
            assert guide.count(theirs) == 1
            guide = guide.replace(theirs, ours)
        user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        names = "\n".join(f"        ~{re.escape(f'{address}:{port}')}$ {name};" for name, address, port, dummy in self.servers)
        self.conf.write_text(
            CONFIGURATION.format(directory=self.directory, user=user, names=names, guide=guide), encoding="utf-8")
        self.script.write_text(block("#!/bin/sh"), encoding="utf-8")
        self.script.chmod(0o755)
        run([*self.nginx, "-t", "-q"], self.env)

    def start(self):
        """Start it; returns when it has its pid file and answers."""
        self.process = spawn(self.nginx, self.log, self.env)
        wait_for((self.directory / "nginx.pid").exists, 10, f"nginx runs (see {self.log})")

    def ask(self, name, server=""):
        """What a command of the driver prints."""
        return run(self.commands[name], {**self.env, "KONG_UPGRADE_SERVER": server}).stdout

    def weights(self):
        """{server: weight} in force."""
        return json.loads(self.ask("weights"))

    def wait_up(self, names, timeout=20):
        """Wait until the driver's command finds these servers up."""
        def up():
            return all(run(self.commands["up"], {**self.env, "KONG_UPGRADE_SERVER": name}, check=False).returncode == 0
                       for name in names)

        wait_for(up, timeout, f"{', '.join(names)} up for {self.name}", interval=0.2)


class NginxScene(Scene):
    """A scene whose load balancers are nginx, led by the driver `command`."""

    def _make_objects(self):
        super()._make_objects()
        servers = [(host.name, host.address, PROXY, 100 if host.colour == "blue" else 0) for host in self.hosts]
        self.lbs = [Nginx(lb.name, lb.directory, lb.address, servers, self.env) for lb in self.lbs]

    def _lb_vars(self, lb):
        return {"kong_upgrade_driver": "command", "kong_upgrade_commands": lb.commands,
                "kong_upgrade_state_dir": str(lb.directory / "state")}

    def without_counters(self):
        """An inventory whose load balancers do not count."""
        def edit(data):
            for variables in data["all"]["children"]["kong_lb"]["hosts"].values():
                variables["kong_upgrade_commands"] = {
                    name: command for name, command in variables["kong_upgrade_commands"].items() if name != "counters"}

        return self.inventory_with("uncounted", edit)


@pytest.fixture
def scene(tmp_path):
    """2 blue and 2 green nodes behind one nginx."""
    with NginxScene(tmp_path / "bed", nodes=2, batches=2, lbs=1, **KONGS) as standing:
        yield standing
        (nginx,) = standing.lbs
    assert nginx.process.poll() is not None


def test_the_scripts_commands(scene):
    (nginx,) = scene.lbs
    with scene.traffic(rate=40, slow=1, slow_seconds=3):
        assert nginx.weights() == {"blue1": 100, "blue2": 100, "green1": 0, "green2": 0}
        wait_for(lambda: int(nginx.ask("sessions", "blue1")) + int(nginx.ask("sessions", "blue2")), 5, "a session is seen")
        wait_for(lambda: json.loads(nginx.ask("counters"))["blue1"]["requests"] > 10, 10, "requests are counted")
        run(nginx.commands["set_weight"], {**nginx.env, "KONG_UPGRADE_SERVER": "blue1", "KONG_UPGRADE_WEIGHT": "0"})
        assert nginx.weights()["blue1"] == 100, "it is not in force before apply"
        nginx.ask("apply")
        assert nginx.weights()["blue1"] == 0
        wait_for(lambda: nginx.ask("sessions", "blue1") == "0\n", 10, "the last request of blue1 has ended")
        before = json.loads(nginx.ask("counters"))
        wait_for(lambda: json.loads(nginx.ask("counters"))["blue2"]["requests"] > before["blue2"]["requests"] + 10, 10, "traffic")
        assert json.loads(nginx.ask("counters"))["blue1"] == before["blue1"]
    assert all(row["failures"] == 0 for row in json.loads(nginx.ask("counters")).values())
    assert subprocess.run(nginx.commands["up"], env={**nginx.env, "KONG_UPGRADE_SERVER": "green1"}, check=False).returncode


def test_whole_upgrade_loses_no_request(scene):
    (nginx,) = scene.lbs
    with scene.traffic(rate=40, slow=2):
        outcome = scene.done("upgrade.yml", kong_upgrade_until="finish", timeout=240)
    assert scene.unfinished() == []
    weights = nginx.weights()
    assert weights == {"blue1": 0, "blue2": 0, "green1": 100, "green2": 100}
    gates = outcome.report["gates"]
    assert [gate["percent"] for gate in gates] == [50, 100]
    assert all(gate["verdict"] == "passed" and gate["green"]["requests"] > 4 for gate in gates), gates
    assert gates[0]["blue"]["requests"] > 4
    again = scene.done("upgrade.yml", kong_upgrade_until="finish")
    assert not any(again.changed.values()), again.tail


def test_without_counters_probes_judge_and_the_way_back(scene):
    (nginx,) = scene.lbs
    inventory = scene.without_counters()
    refused = scene.refused("plan.yml", inventory=inventory)
    assert [line for line in refused.blockers if line.startswith("lb1: has no counters")] == refused.blockers
    probe = [{"path": "/open/health", "expect": [200]}]
    with scene.traffic(rate=30, slow=1):
        outcome = scene.done("upgrade.yml", inventory=inventory, kong_upgrade_until="shift", kong_upgrade_probe=probe)
        assert [gate["verdict"] for gate in outcome.report["gates"]] == ["passed", "passed"]
        assert "judged by probes alone, which all 2 green nodes answered" in outcome.report["gates"][0]["message"]
        assert nginx.weights() == {"blue1": 0, "blue2": 0, "green1": 100, "green2": 100}
        scene.done("rollback.yml", inventory=inventory)
        assert nginx.weights() == {"blue1": 100, "blue2": 100, "green1": 0, "green2": 0}
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
    (nginx,) = scene.lbs
    inventory = scene.without_counters()
    probe = [{"path": "/open/health", "expect": [200]}]
    with scene.traffic(rate=30, slow=1):
        scene.done(phases(scene, "stage", "backup", "expand", "start"), inventory=inventory, kong_upgrade_probe=probe)
        outcome = scene.refused("shift.yml", inventory=inventory, kong_upgrade_probe=[{"path": "/open/health", "expect": [418]}])
    assert "green does not answer as it should" in outcome.words, outcome.tail
    assert nginx.weights() == {"blue1": 100, "blue2": 100, "green1": 0, "green2": 0}


def test_commands_that_do_not_work_are_found_by_the_plan(scene):
    def edit(data):
        data["all"]["children"]["kong_lb"]["hosts"]["lb1"]["kong_upgrade_commands"]["sessions"] = "echo none"

    before = scene.lbs[0].weights()
    refused = scene.refused("upgrade.yml", inventory=scene.inventory_with("broken", edit))
    assert len([line for line in refused.blockers if "commands.sessions for default/blue1: printed 'none'" in line]) == 1
    assert scene.lbs[0].weights() == before and scene.green_migrated() != 0
