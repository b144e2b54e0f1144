# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong_node over SSH on hosts with a systemd of their own: who owns the node, how it is stopped, what the fence holds.

With BLUE_KONG in the environment the nodes stand on that kong command, else on the stand-in.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from bed import machines
from bed.bed import REPOSITORY
from bed.hosts import PROXY
from bed.lab import Lab

KONGS = {"blue_kong": os.environ.get("BLUE_KONG") or None, "green_kong": os.environ.get("GREEN_KONG") or None}
pytestmark = [pytest.mark.root, pytest.mark.skipif(machines.why_not() is not None, reason=str(machines.why_not()))]


@pytest.fixture(scope="module")
def lab():
    with Lab(nodes=(3, 1), batches=1, **KONGS) as standing:
        yield standing


def ansible(lab, host, module, **options):
    """(succeeded, result) of a module on a host."""
    argv = [os.path.join(os.path.dirname(sys.executable), "ansible"), host.name, "-i", lab.inventory,
            "-m", f"bluegreen.kong.{module}", *(["-a", json.dumps(options)] if options else [])]
    env = lab.play_environment({"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"})
    done = subprocess.run(argv, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    head, arrow, text = done.stdout.partition(" => {")
    assert arrow, done.stdout + done.stderr
    return "FAILED" not in head, json.loads("{" + text)


def node(lab, host, state, **options):
    good, result = ansible(lab, host, "kong_node", state=state, **options)
    assert good, result["msg"]
    return result


def facts(lab, host):
    good, result = ansible(lab, host, "kong_version_facts")
    assert good, result
    return result["ansible_facts"]["kong_gateway"]


def systemctl(host, *words):
    """(exit code, what it printed)."""
    done = host.machine.run(["systemctl", *words], check=False)
    return done.returncode, (done.stdout + (done.stderr or "")).strip()


def drop_in(host, text):
    host.machine.run(["sh", "-c", "mkdir -p /etc/systemd/system/kong.service.d; cat > /etc/systemd/system/kong.service.d/test.conf"],
                     text=text)
    systemctl(host, "daemon-reload")


def ask(host, path, answers):
    def run():
        try:
            with urllib.request.urlopen(f"http://{host.address}:{PROXY}{path}", timeout=30) as answer:
                answers.append(answer.status)
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_unit_that_restarts_always_is_stopped_and_fenced(lab):
    host = lab.blue[0]
    drop_in(host, "[Service]\nRestart=always\nRestartSec=100ms\nTimeoutStopSec=1\n")
    owner = facts(lab, host)["supervisor"]
    assert (owner["kind"], owner["unit"], owner["enabled"], owner["restart"]) == ("systemd", "kong.service", "enabled", "always")
    answers = []
    asking = ask(host, "/open/slow?s=3", answers)
    time.sleep(1)
    stopped = node(lab, host, "stopped", quit_timeout=20)
    asking.join(20)
    assert answers == [200], "TimeoutStopSec=1 would have cut it"
    assert stopped["actions"] == ["stopped"] and not stopped["forced"]
    time.sleep(0.5)
    assert host.pid() is None and systemctl(host, "is-active", "kong") == (3, "inactive")
    started = node(lab, host, "started")
    assert started["changed"] and facts(lab, host)["supervisor"]["restart"] == "always", "nothing is left of the stop"
    pid = host.pid()
    stopped = node(lab, host, "stopped", fenced=True)
    assert stopped["actions"] == ["fenced", "stopped"] and stopped["fence_how"] == "mask of kong.service"
    time.sleep(0.5)
    assert host.pid() is None and pid
    assert "masked" in systemctl(host, "start", "kong")[1]
    assert not node(lab, host, "stopped", fenced=True)["changed"]


def test_the_fence_holds_over_a_power_cut(lab):
    host = lab.blue[0]
    host.machine.power_off()
    host.machine.boot()
    host.machine.wait()
    systemctl(host, "is-system-running", "--wait")
    assert host.pid() is None
    found = facts(lab, host)
    assert (found["running"], found["fenced"], found["supervisor"]["unit"]) == (False, True, "kong.service")
    good, result = ansible(lab, host, "kong_node", state="started")
    assert not good and "fenced=false lifts that" in result["msg"]
    back = node(lab, host, "started", fenced=False)
    assert back["actions"][:2] == ["unfenced", "started"] and not back["fenced"]
    assert systemctl(host, "is-enabled", "kong") == (0, "enabled")
    assert host.listens()


def test_a_node_that_was_killed_after_the_timeout(lab):
    host = lab.blue[0]
    answers = []
    asking = ask(host, "/open/slow?s=15", answers)
    time.sleep(1)
    stopped = node(lab, host, "stopped", quit_timeout=1)
    asking.join(20)
    assert stopped["forced"] and answers != [200]
    assert systemctl(host, "is-active", "kong") == (3, "inactive")
    node(lab, host, "started")


def test_a_unit_file_in_etc_gets_a_drop_in(lab):
    host = lab.blue[1]
    host.machine.run(["cp", "/usr/lib/systemd/system/kong.service", "/etc/systemd/system/kong.service"])
    systemctl(host, "daemon-reload")
    stopped = node(lab, host, "stopped", fenced=True)
    assert stopped["fence_how"] == "drop-in of kong.service"
    code, text = systemctl(host, "start", "kong")
    assert code != 0 and "Assertion failed" in text
    assert "retired" in systemctl(host, "cat", "kong")[1]
    assert systemctl(host, "is-enabled", "kong")[1] == "disabled"
    node(lab, host, "started", fenced=False)
    assert systemctl(host, "is-enabled", "kong") == (0, "enabled")
    assert "fence" not in systemctl(host, "cat", "kong")[1]


def test_a_node_started_by_hand_is_not_the_units(lab):
    """Its process is in the control group of the login, and the installed unit would still start it at the next boot."""
    host = lab.blue[2]
    systemctl(host, "stop", "kong")
    ssh = ["ssh", "-i", lab.hub.key, "-o", f"UserKnownHostsFile={lab.hub.known_hosts}", f"root@{host.address}"]
    subprocess.run([*ssh, "kong", "start", "-c", host.conf], check=True, capture_output=True)
    owner = facts(lab, host)["supervisor"]
    assert (owner["kind"], owner["unit"], owner["also"]) == ("cli", None, ["kong.service"])
    stopped = node(lab, host, "stopped", fenced=True)
    assert stopped["fence_how"] == "command /usr/local/bin/kong, mask of kong.service"
    done = host.kong("start", check=False)
    assert done.returncode == 1 and "retired" in done.stdout + done.stderr
    assert systemctl(host, "is-enabled", "kong")[1] == "masked"
    assert host.pid() is None and host.version() == lab.versions()["blue"]
    node(lab, host, "started", fenced=False)
    assert systemctl(host, "is-enabled", "kong") == (0, "enabled")
    assert host.kong("version", conf=False).stdout and not facts(lab, host)["fenced"]


def test_started_at_boot_as_asked(lab):
    host = lab.blue[1]
    stopped = node(lab, host, "stopped", enabled=False)
    assert stopped["actions"] == ["disabled", "stopped"]
    assert systemctl(host, "is-enabled", "kong")[1] == "disabled"
    assert node(lab, host, "started")["actions"] == ["started"]
    assert node(lab, host, "started", enabled=True)["actions"] == ["enabled"]
    assert systemctl(host, "is-enabled", "kong") == (0, "enabled")
    assert not node(lab, host, "started", enabled=True)["changed"]


def test_a_variable_of_the_unit_that_wins_is_named(lab):
    host = lab.blue[1]
    drop_in(host, "[Service]\nEnvironment=KONG_ADMIN_LISTEN=127.0.0.1:8001\nEnvironmentFile=-/etc/default/kong\n")
    assert facts(lab, host)["settings"]["admin_listen"] == "127.0.0.1:8001"
    good, result = ansible(lab, host, "kong_node", state="checked", settings={"admin_listen": "off"})
    assert not good and "KONG_ADMIN_LISTEN of the systemd unit kong.service would win" in result["msg"]
