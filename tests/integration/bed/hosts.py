# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kong hosts of a bed: each an address of its own in 127.0.0.0/8 and a folder of its own."""

import dataclasses
import os
import pathlib
import re
import urllib.error
import urllib.request

from .process import BedError, alive, environment, run, wait_for

PROXY, ADMIN, STATUS = 8000, 8001, 8100


@dataclasses.dataclass
class Host:
    """One Kong host. `colour` is blue or green."""

    name: str
    colour: str
    address: str
    directory: pathlib.Path
    bed: pathlib.Path

    @property
    def executable(self):
        """Its own kong command."""
        return self.directory / "bin" / "kong"

    @property
    def conf(self):
        """Its kong.conf."""
        return self.directory / "kong.conf"

    @property
    def prefix(self):
        """Its prefix."""
        return self.directory / "prefix"

    def make(self, command):
        """Make the folder, with a `kong` command that hands over to `command`."""
        self.executable.parent.mkdir(parents=True, exist_ok=True)
        self.executable.write_text(f'#!/bin/sh\nexec "{command}" "$@"\n', encoding="utf-8")
        self.executable.chmod(0o755)

    def listeners(self):
        """The settings of kong.conf that hold this host's address."""
        return {
            "prefix": str(self.prefix),
            "proxy_listen": f"{self.address}:{PROXY}",
            "admin_listen": f"{self.address}:{ADMIN}",
            "status_listen": f"{self.address}:{STATUS}",
        }

    def write_conf(self, settings):
        """Write kong.conf, which holds a password."""
        text = "".join(f"{key} = {value}\n" for key, value in settings.items())
        with open(os.open(self.conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)

    def kong(self, *arguments, conf=True, check=True, timeout=120, env=None):
        """Run this host's kong command; see process.run."""
        tail = ["-c", self.conf] if conf else []
        return run([self.executable, *arguments, *tail], environment(self.bed, env), timeout=timeout, check=check)

    def start(self):
        """Start the node; returns when its status says that it reaches the database."""
        self.kong("start")
        wait_for(self.database_reachable, 20, f"{self.name} reaches its database")

    def database_reachable(self):
        """What the status listener says, else the Admin API (1.0 ... 1.3 have no other); False when neither answers."""
        for port in (STATUS, ADMIN):
            try:
                with urllib.request.urlopen(f"http://{self.address}:{port}/status", timeout=5) as answer:
                    return b'"reachable":true' in answer.read().replace(b" ", b"")
            except OSError:
                continue
        return False

    def pid(self):
        """The pid of the running master, or None."""
        try:
            pid = int((self.prefix / "pids" / "nginx.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return pid if alive(pid) else None

    def listens(self, port=PROXY):
        """True when something answers HTTP on that port of this host, whatever the status."""
        try:
            with urllib.request.urlopen(f"http://{self.address}:{port}/", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def version(self):
        """What `kong version` says."""
        out = self.kong("version", conf=False).stdout
        if not (match := re.search(r"\d+\.\d+\.\d+", out)):
            raise BedError(f"{self.executable} version says {out!r}")
        return match[0]
