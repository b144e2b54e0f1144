# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines of the lab: each has its own network namespace, file system, systemd as PID 1 and sshd. Needs root.

A machine's file system is an overlay of one Debian tree, made once; what it changes lives in a tmpfs of the lab. All
machines hang on a bridge in a namespace of its own, the hub, so no packet is ever seen outside it.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess

from . import process
from .process import BedError, environment, run, spawn, wait_for

NET = "192.0.2"
SUITE = "bookworm"
# psycopg2 is what community.postgresql needs where the database is dumped; the last line is what a real Kong needs.
DEBIAN = ("python3", "python3-psycopg2", "openssh-server", "iproute2", "procps", "systemd-sysv", "dbus", "haproxy",
          "nginx-light", "postgresql", "ca-certificates", "python3-apt",
          "libpcre3", "libyaml-0-2", "perl", "zlib1g-dev")
PROGRAMS = {"ip": "iproute2", "mmdebstrap": "mmdebstrap", "ssh-keygen": "openssh-client", "unshare": "util-linux",
            "nsenter": "util-linux", "systemd-nspawn": "systemd-container"}
_UNUSED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
           "getty@tty1.service", "console-getty.service", "systemd-networkd.service", "logrotate.timer")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CLONE_NEWNET = 0x40000000


def why_not():
    """Why no lab can stand here, or None."""
    if os.geteuid() != 0:
        return "hosts with systemd and sshd need root"
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing:
        return f"not installed: {', '.join(missing)}"
    return None


def tree(cache, env):
    """The Debian tree below the folder `cache`; made when it is not there (a minute)."""
    name = hashlib.sha256(repr((SUITE, DEBIAN, _UNUSED)).encode()).hexdigest()[:12]
    root = pathlib.Path(cache) / f"debian-{name}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.with_suffix(".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the tests may be making it
        if not (root / ".made").exists():
            _make_tree(root, env)
    return root


def _make_tree(root, env):
    shutil.rmtree(root, ignore_errors=True)
    run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(DEBIAN)}", SUITE, root], env, timeout=600)
    for key in (root / "etc" / "ssh").glob("ssh_host_*"):
        key.unlink()
    for package in (root / "var" / "cache" / "apt" / "archives").glob("*.deb"):
        package.unlink()
    units = root / "etc" / "systemd" / "system"
    for unit in _UNUSED:
        link(units / unit, "/dev/null")
    for unit in ("haproxy.service", "nginx.service", "postgresql.service"):
        (units / "multi-user.target.wants" / unit).unlink(missing_ok=True)
    (root / ".made").touch()


def link(path, target):
    """Make a symbolic link in place of whatever is there."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


class Hub:
    """The network that the machines hang on, and the keys to them.

    :param directory: existing folder
    :param disks: existing folder, a tmpfs is mounted on it
    """

    def __init__(self, directory, disks, root):
        self.directory, self.disks, self.root = pathlib.Path(directory), pathlib.Path(disks), root
        self.id = name_of(directory)
        self.space = f"{self.id}-hub"
        self.key, self.known_hosts = self.directory / "key", self.directory / "known_hosts"
        self.host_key = self.directory / "host_key"
        self.env = environment(directory)
        self._outside = None

    def make(self, addresses):
        """Make bridge, disks and keys; the hub itself has these addresses."""
        run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=0755", "lab", self.disks], self.env)
        for key in (self.key, self.host_key):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.id, "-f", key], self.env)
        kind, public = self.host_key.with_suffix(".pub").read_text(encoding="ascii").split()[:2]
        self.known_hosts.write_text(f"{NET}.* {kind} {public}\n", encoding="ascii")
        run(["ip", "netns", "add", self.space], self.env)
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "br0", "type", "bridge")
        for address in addresses:
            self.ip("addr", "add", f"{address}/24", "dev", "br0")
        self.ip("link", "set", "br0", "up")

    def ip(self, *words):
        """Run `ip` in the hub."""
        run(["ip", "-n", self.space, *words], self.env)

    def enter(self):
        """Move this thread, and what it starts from now on, into the hub's network."""
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        with open(f"/run/netns/{self.space}", "rb") as inside:
            _set_network(inside.fileno())

    def leave(self):
        """Undo enter()."""
        if self._outside is not None:
            _set_network(self._outside)
            os.close(self._outside)
            self._outside = None


def _set_network(number):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(number, _CLONE_NEWNET):
        raise BedError(f"setns: {os.strerror(ctypes.get_errno())}")


def name_of(directory):
    """What network namespaces and control groups of the lab in this folder are called."""
    return "lab" + hashlib.sha256(str(pathlib.Path(directory).resolve()).encode()).hexdigest()[:6]


class Machine:
    """One machine.

    :param number: last part of its address
    """

    def __init__(self, hub, name, number):
        self.hub, self.name, self.number = hub, name, number
        self.address = f"{NET}.{number}"
        self.space = f"{hub.id}-{name}"
        self.disk = hub.disks / name
        self.console = hub.directory / "consoles" / name
        self.mounts = []  # folders of this machine that it sees, read only, at the same place

    def write(self, path, text, mode=0o644):
        """Write a file on its disk; only before it is booted for the first time."""
        file = self.disk / "upper" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as out:
            out.write(text)
        file.chmod(mode)

    def enable(self, unit):
        """Start this unit at boot; only before it is booted for the first time."""
        wants = self.disk / "upper" / "etc" / "systemd" / "system" / "multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        link(wants / unit, f"/lib/systemd/system/{unit}")

    def make(self, names):
        """Cable and disk. `names`: {name: address} of all machines."""
        env, port = self.hub.env, f"v{self.number}"
        self.console.parent.mkdir(exist_ok=True)
        run(["ip", "netns", "add", self.space], env)
        self.hub.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        self.hub.ip("link", "set", port, "master", "br0", "up")
        for words in (["link", "set", "lo", "up"], ["addr", "add", f"{self.address}/24", "dev", "eth0"],
                      ["link", "set", "eth0", "up"]):
            run(["ip", "-n", self.space, *words], env)
        for part in ("upper", "work", "root"):
            (self.disk / part).mkdir(parents=True)
        for folder, mode in (("root", 0o700), ("root/.ssh", 0o700), ("etc", 0o755), ("etc/ssh", 0o755)):
            (self.disk / "upper" / folder).mkdir(mode=mode)
        self.write("root/.ssh/authorized_keys", self.hub.key.with_suffix(".pub").read_text(encoding="ascii"), 0o600)
        self.write("/etc/hostname", self.name + "\n")
        lines = [f"{address} {name}" for name, address in {"localhost": "127.0.0.1", **names}.items()]
        self.write("/etc/hosts", "\n".join(lines) + "\n")
        self.write("/etc/ssh/lab_host_key", self.hub.host_key.read_text(encoding="ascii"), 0o600)
        self.write("/etc/ssh/sshd_config.d/lab.conf", "HostKey /etc/ssh/lab_host_key\nUsePAM no\nMaxStartups 100\n"
                   "PermitRootLogin prohibit-password\nUseDNS no\n")

    def boot(self):
        """Power on; returns at once, see wait()."""
        script = f"""set -e
for group in {' '.join(_control_groups(self.hub.id, self.name))}; do mkdir -p "$group"; echo $$ > "$group/cgroup.procs"; done
mount -t overlay overlay -o "lowerdir={self.hub.root},upperdir={self.disk}/upper,workdir={self.disk}/work" "{self.disk}/root"
exec systemd-nspawn -b -q -D "{self.disk}/root" --machine={self.space} --hostname={self.name} --register=no --keep-unit \\
  --link-journal=no --resolv-conf=off --timezone=off --console=read-only --network-namespace-path=/run/netns/{self.space} \\
  {" ".join(f"--bind-ro={folder}" for folder in self.mounts)}
"""
        env = dict(self.hub.env)
        if not _unified():
            env["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "0"
        spawned = spawn(["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script],
                        self.console, env)
        (self.console.parent / f"{self.name}.pid").write_text(str(spawned.pid), encoding="ascii")
        return spawned

    def wait(self, timeout=30):
        """Wait until its sshd answers."""
        def answers():
            if not process.alive(self._outer()):
                raise BedError(f"{self.name} did not boot:\n{self.console.read_text(errors='replace')}")
            return self.reachable()

        wait_for(answers, timeout, f"sshd of {self.name} answers (see {self.console})")

    def reachable(self):
        """True when its sshd answers."""
        try:
            with socket.create_connection((self.address, 22), 1) as connection:
                connection.settimeout(2)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _outer(self):
        return int((self.console.parent / f"{self.name}.pid").read_text(encoding="ascii"))

    def init(self):
        """The pid, seen from outside, of its PID 1; None when it is off."""
        outer = self._outer()
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and process.parent(entry.name) == outer and process.alive(entry.name):
                return int(entry.name)
        return None

    def run(self, argv, check=True, timeout=60, text=""):
        """Run a program in it; see process.run."""
        inside = ["nsenter", "-t", self.init() or -1, "-m", "-n", "-p", "-u", "-i", "-r", "-w", "env", "-i", "HOME=/root",
                  "LANG=C.UTF-8", f"PATH={_PATH}", *argv]
        return run(inside, self.hub.env, check=check, timeout=timeout, text=text)

    def power_off(self):
        """Pull the plug: every process is gone at once, what was written to the disk stays."""
        outer = self._outer()
        if init := self.init():
            os.kill(init, signal.SIGKILL)
        wait_for(lambda: not process.alive(outer), 10, f"{self.name} is off")

    def unplug(self):
        """Pull its network cable."""
        self.hub.ip("link", "set", f"v{self.number}", "down")

    def plug(self):
        """Plug the network cable in again."""
        self.hub.ip("link", "set", f"v{self.number}", "up")


def _unified():
    return pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _control_groups(*below):
    """Control groups of a machine's own: else all would share one, and systemd of one would see units of another."""
    base = pathlib.Path("/sys/fs/cgroup")
    roots = [base] if _unified() else [base / "systemd", base / "unified"]
    return [str(root.joinpath(*below)) for root in roots if root.is_dir()]


def remove(directory, disks):
    """Remove what a lab in `directory` has left outside its folder, once its processes have ended."""
    name, env = name_of(directory), environment(directory)
    spaces = run(["ip", "netns", "list"], env).stdout.split("\n")
    for space in (line.split()[0] for line in spaces if line.startswith(name + "-")):
        run(["ip", "netns", "del", space], env)
    for group in _control_groups(name):
        for folder, dummy, dummy_files in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # empty once the last process is reaped; a leftover does no harm
    if os.path.ismount(disks):
        wait_for(lambda: not subprocess.call(["umount", str(disks)], stderr=subprocess.DEVNULL), 10, f"umount {disks}",
                 interval=0.2)
