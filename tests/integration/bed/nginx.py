# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nginx of this machine as a load balancer, by the very configuration that docs/load_balancers.md gives."""

import os
import pathlib
import pwd
import re
import shutil

from .process import BedError, alive, parent, run, spawn, wait_for

SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
EXECUTABLE = shutil.which("nginx", path=SEARCH)
UPSTREAM = "kong"
GUIDE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "load_balancers.md"

# What stands around the part that the guide has: a folder of its own.
_CONFIGURATION = """\
daemon off;
worker_processes {workers};
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
    include {upstream};
{gateway}
}}
"""
# And which server answered, for the load to count.
_GATEWAY = """\
map $upstream_addr $bed_server {{
{names}
}}
add_header X-Bed-Server $bed_server always;
{guide}
"""


def guide():
    """The part of nginx.conf that the guide gives."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    (found,) = [block for block in blocks if "log_format kong_upgrade" in block]
    return found


class Nginx:
    """A load balancer, as far as the bed asks the same as bed.haproxy.HAProxy.

    :param directory: its folder
    :param servers: list of (name, address, port, weight)
    :param workers: number of worker processes
    """

    def __init__(self, name, directory, address, servers, env, workers=1, port=8080):
        self.name, self.directory, self.address, self.servers = name, pathlib.Path(directory), address, servers
        self.env, self.workers, self.port = env, workers, port
        self.conf, self.upstream = self.directory / "nginx.conf", self.directory / "conf.d" / "kong.conf"
        self.log, self.requests = self.directory / "nginx.log", self.directory / "kong_upgrade.log"
        self.executable = pathlib.Path(EXECUTABLE or "/usr/sbin/nginx")
        self.process = None

    @property
    def command(self):
        """The nginx command with the arguments that say which nginx is meant."""
        return [str(self.executable), "-p", str(self.directory), "-c", str(self.conf)]

    def write(self):
        """Write its configuration, and let it be tested."""
        self.upstream.parent.mkdir(parents=True)
        self.upstream.write_text(self.upstream_text(), encoding="utf-8")
        user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        self.conf.write_text(_CONFIGURATION.format(
            directory=self.directory, user=user, upstream=self.upstream, gateway=self.gateway_text(), workers=self.workers),
            encoding="utf-8")
        run([*self.command, "-t", "-q"], self.env)

    def upstream_text(self):
        """The file that the driver changes."""
        lines = "".join(
            f"    server {address}:{port} weight=100{'' if weight else ' down'}; # {name}\n"
            for name, address, port, weight in self.servers)
        return f"upstream {UPSTREAM} {{\n{lines}}}\n"

    def gateway_text(self):
        """What the guide says, for this address and log."""
        text = guide()
        for theirs, ours in (("/var/log/nginx/kong_upgrade.log", str(self.requests)),
                             ("listen 80;", f"listen {self.address}:{self.port};")):
            if text.count(theirs) != 1:
                raise BedError(f"the guide has {theirs} {text.count(theirs)} times")
            text = text.replace(theirs, ours)
        names = "\n".join(f"    ~{re.escape(f'{address}:{port}')}$ {name};" for name, address, port, dummy in self.servers)
        return _GATEWAY.format(names=names, guide=text)

    def start(self):
        """Start it; returns when it has its pid file, and workers."""
        self.process = spawn(self.command, self.log, self.env)
        wait_for(self.takes, 10, f"nginx runs (see {self.log})")

    def pid(self):
        """The master's pid, None when there is none."""
        path = self.directory / "nginx.pid"
        text = path.read_text(encoding="ascii").strip() if path.exists() else ""
        return int(text) if text else None

    def workers_left(self):
        """{pid: whether it takes requests} of its workers."""
        master, found = self.pid(), {}
        for entry in pathlib.Path("/proc").iterdir():
            if master and entry.name.isdigit() and parent(entry.name) == master and alive(entry.name):
                try:
                    title = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                found[int(entry.name)] = b"shutting down" not in title
        return found

    def takes(self):
        """The workers that take requests."""
        return {pid for pid, takes in self.workers_left().items() if takes}

    def weights(self):
        """{name: weight} in its file."""
        found = {}
        for line in self.text().splitlines():
            match = re.match(r"\s*server \S+ weight=(\d+)( down)?; # (\w+)$", line)
            if match:
                found[match[3]] = 0 if match[2] else int(match[1])
        return found

    def text(self):
        """The file that the driver changes, as it is."""
        return self.upstream.read_text(encoding="utf-8")

    def wait_up(self, names, timeout=20):
        """Nothing: nginx finds out by itself with the first request."""
