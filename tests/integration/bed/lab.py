# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: the same bed, but every host is a machine of its own, reached by SSH, with Debian's systemd, PostgreSQL and
HAProxy, and Kong (the stand-in) as the systemd unit that Kong's own package brings."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import signal

import psycopg

from . import machines
from .bed import INTEGRATION, REPOSITORY, Bed
from .cassandra_bed import CassandraBed
from .haproxy import HAProxy
from .hosts import ADMIN, PROXY, Host
from .machines import Hub, Machine
from .postgres import DATABASE, ROLE, Postgres
from .process import BedError, run, wait_for

PACKAGE = "root/kong.deb"  # on a machine that is to install it
REPOSITORY_OF_KONG = "srv/kong"
# As the package of Kong 2.x has it, in so far as it matters here: systemd owns nginx, and brings it back.
_UNIT = """\
[Unit]
Description=Kong
After=network.target

[Service]
{start}
ExecStop=/bin/kill -s QUIT $MAINPID
PrivateTmp=true
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""
_NGINX = """\
Environment=KONG_NGINX_DAEMON=off
ExecStartPre=/usr/local/bin/kong prepare -p /usr/local/kong
ExecStart=/usr/local/openresty/nginx/sbin/nginx -p /usr/local/kong -c nginx.conf
ExecReload=/usr/local/bin/kong prepare -p /usr/local/kong
ExecReload=/usr/local/openresty/nginx/sbin/nginx -p /usr/local/kong -c nginx.conf -s reload"""
# For a kong command whose nginx is who knows where.
_FORKING = """\
Type=forking
PIDFile=/usr/local/kong/pids/nginx.pid
ExecStart=/usr/local/bin/kong start -c /etc/kong/kong.conf
ExecReload=/usr/local/bin/kong reload -c /etc/kong/kong.conf"""


def _write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


class LabHost(Host):
    """A Kong host that is a machine."""

    machine = None
    executable = pathlib.PurePosixPath("/usr/local/bin/kong")
    conf = pathlib.PurePosixPath("/etc/kong/kong.conf")
    prefix = pathlib.PurePosixPath("/usr/local/kong")

    def install(self, version, root=None):
        """Put the stand-in where Kong's package puts Kong, on the machine's disk or in another tree."""
        from standin.launcher import make_launcher
        root = root or self.machine.disk / "upper"
        there = "opt/kong-standin"
        shutil.copytree(INTEGRATION / "standin", root / there, ignore=shutil.ignore_patterns("__pycache__"))
        made = pathlib.Path(make_launcher(self.directory, version, "/usr/bin/python3")).parent.parent
        for file, path in (("bin/kong", "usr/local/bin/kong"),
                           ("openresty/nginx/sbin/nginx", "usr/local/openresty/nginx/sbin/nginx")):
            text = (made / file).read_text(encoding="utf-8").replace(str(INTEGRATION / "standin"), f"/{there}")
            _write(root / path, text, 0o755)
        _write(root / "usr/lib/systemd/system/kong.service", _UNIT.format(start=_NGINX))

    def pack(self, version, path=PACKAGE):
        """Put the stand-in on the machine as a package of Debian, not installed; it cannot be configured where /srv/full names its version.

        Returns its control file.
        """
        root = self.directory / f"package-{version}"
        self.install(version, root)
        control = (f"Package: kong\nVersion: {version}\nArchitecture: all\nDepends: python3\n"
                   "Maintainer: nobody <nobody@example.com>\nDescription: the stand-in for Kong\n")
        _write(root / "DEBIAN/control", control)
        _write(root / "DEBIAN/postinst", f"#!/bin/sh\ntest \"$(cat /srv/full 2>/dev/null)\" != {version}\n", 0o755)
        file = self.machine.disk / "upper" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        run(["dpkg-deb", "--build", "--root-owner-group", root, file], self.machine.hub.env)
        return control

    def offer(self, versions):
        """An apt repository on the machine, with the stand-in as package kong in these versions."""
        index = ""
        for version in versions:
            path = f"{REPOSITORY_OF_KONG}/kong_{version}.deb"
            control = self.pack(version, path)
            content = (self.machine.disk / "upper" / path).read_bytes()
            index += (f"{control}Filename: ./kong_{version}.deb\nSize: {len(content)}\n"
                      f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n")
        self.machine.write(f"/{REPOSITORY_OF_KONG}/Packages", index)
        self.machine.write("/etc/apt/sources.list.d/kong.list", f"deb [trusted=yes] file:/{REPOSITORY_OF_KONG} ./\n")

    def install_offered(self, version):
        """What an administrator did long ago: this host's Kong comes from the repository."""
        only = ["-o", "Dir::Etc::sourcelist=sources.list.d/kong.list", "-o", "Dir::Etc::sourceparts=-"]
        self.machine.run(["apt-get", "-qq", *only, "update"])
        self.machine.run(["apt-get", "-qq", *only, "install", "-y", f"kong={version}"])

    def borrow(self, command):
        """Give the machine the kong command of this one: the folder above its bin/ is mounted at the same place."""
        command = pathlib.Path(command).absolute()
        self.machine.mounts.append(command.parent.parent)
        self.machine.write("/usr/local/bin/kong", f'#!/bin/sh\nexec {command} "$@"\n', 0o755)
        self.machine.write("/usr/lib/systemd/system/kong.service", _UNIT.format(start=_FORKING))

    def write_conf(self, settings):
        text = "".join(f"{key} = {value}\n" for key, value in settings.items())
        self.machine.run(["sh", "-c", f"umask 077; mkdir -p {self.conf.parent}; cat > {self.conf}"], text=text)

    def kong(self, *arguments, conf=True, check=True, timeout=120, env=None):
        words = [f"{key}={value}" for key, value in (env or {}).items()]
        return self.machine.run(["env", *words, self.executable, *arguments, *(["-c", self.conf] if conf else [])],
                                check=check, timeout=timeout)

    def start(self):
        self.machine.run(["systemctl", "enable", "--now", "--quiet", "kong"])
        wait_for(lambda: self.listens(PROXY), 20, f"{self.name} listens")

    def pid(self):
        script = f"p=$(cat {self.prefix}/pids/nginx.pid) && kill -0 $p && echo $p"
        out = self.machine.run(["sh", "-c", script], check=False).stdout.strip()
        return int(out) if out else None


class LabBalancer(HAProxy):
    """HAProxy of Debian on a machine."""

    machine = None

    def write(self):
        self.machine.write("/etc/haproxy/haproxy.cfg", self.configuration())
        self.machine.enable("haproxy.service")

    def start(self):
        wait_for(self._answers, 20, f"HAProxy on {self.name} answers")

    def reload(self):
        before = self._worker()
        self.machine.run(["systemctl", "reload", "haproxy"])
        wait_for(lambda: self._worker() not in (None, before), 10, f"a new worker of {self.name} answers")


class LabPostgres(Postgres):
    """PostgreSQL of Debian on a machine."""

    def __init__(self, machine, env, **more):
        super().__init__("/var/lib/postgresql", machine.address, 5432, env, **more)
        self.machine = machine
        self.bin = None  # pg_dump is on every machine's PATH

    def write(self):
        """Configure it, before the machine boots."""
        where = next((self.machine.hub.root / "etc" / "postgresql").glob("*/main"))
        inside = "/" + str(where.relative_to(self.machine.hub.root))
        settings = {"listen_addresses": "'*'", "password_encryption": f"'{self.auth}'", "fsync": "off",
                    "max_connections": 200, "port": self.port}
        self.machine.write(f"{inside}/conf.d/lab.conf", "".join(f"{k} = {v}\n" for k, v in settings.items()))
        hba = self.machine.disk / "upper" / inside.lstrip("/") / "pg_hba.conf"
        shutil.copy2(where / "pg_hba.conf", hba)
        own = (where / "pg_hba.conf").stat()
        with open(hba, "a", encoding="utf-8") as file:
            file.write(f"host all all {machines.NET}.0/24 {self.auth}\n")
        for path in [hba, *list(hba.parents)[:4]]:
            lower = self.machine.hub.root / path.relative_to(self.machine.disk / "upper")
            stat = lower.stat() if lower.exists() else own
            os.chown(path, stat.st_uid, stat.st_gid)
            path.chmod(stat.st_mode & 0o7777)
        self.machine.enable("postgresql.service")

    def start(self):
        wait_for(lambda: not self._psql("SELECT 1", check=False).returncode, 30, "PostgreSQL of the lab answers")
        self._psql(f"ALTER ROLE postgres PASSWORD '{self.superuser_password}'")
        self._psql(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.password}'")
        self._psql(f"CREATE DATABASE {DATABASE} OWNER {ROLE} ENCODING 'UTF8' TEMPLATE template0")

    def _psql(self, statement, check=True):
        psql = ["runuser", "-u", "postgres", "--", "psql", "-qX", "-p", str(self.port), "-v", "ON_ERROR_STOP=1"]
        return self.machine.run(psql, check=check, text=statement + ";\n")

    def admin(self, database=DATABASE):
        return psycopg.connect(host=self.address, port=self.port, user="postgres", password=self.superuser_password,
                               dbname=database, autocommit=True, connect_timeout=5, application_name="bed")


class Lab(Bed):
    """A bed of machines; use it like one. The thread that enters it is in the lab's network until it leaves.

    Beside what a Bed has: `machines` {name: Machine} of blue, green, lb and db hosts.

    :param packed: green hosts have Kong (the stand-in) as a package that is not installed
    :param offered: blue hosts have Kong (the stand-in) from an apt repository that has green's version too
    :param broken: names of blue hosts on which that version cannot be installed
    """

    def __init__(self, directory=None, *, packed=False, offered=False, broken=(), **more):
        if reason := machines.why_not():
            raise BedError(reason)
        super().__init__(directory, **more)
        self.packed, self.offered, self.broken = packed, offered, broken
        self.machines, self.hub = {}, None

    def _address(self, number):
        return f"{machines.NET}.{number}"

    def _choose_addresses(self):
        pass  # always the same: the network is nobody else's

    def _make_objects(self):
        disks = self.runtime / "disks"
        self.hub = Hub(self.directory, disks, machines.tree(REPOSITORY / ".cache", self.env))
        super()._make_objects()
        self.machines = {"db1": Machine(self.hub, "db1", 4)}
        for number, lb in enumerate(self.lbs):
            self.machines[lb.name] = Machine(self.hub, lb.name, 11 + number)
            balancer = LabBalancer(lb.name, lb.directory, self.runtime, lb.address, lb.servers, lb.check, lb.env)
            balancer.machine = self.machines[lb.name]
            balancer.socket = pathlib.PurePosixPath("/run/haproxy/admin.sock")
            balancer.state_file = pathlib.PurePosixPath("/var/lib/haproxy/server-state")
            self.lbs[number] = balancer
        for number, host in enumerate(self.hosts):
            machine = Machine(self.hub, host.name, int(host.address.rpartition(".")[2]))
            self.machines[host.name] = machine
            self.hosts[number] = LabHost(host.name, host.colour, host.address, host.directory, host.bed)
            self.hosts[number].machine = machine

    def _make_hosts(self):
        self._make_objects()
        self.hub.disks.mkdir()
        self.hub.make([self._address(1), self._address(3)])
        self.hub.enter()
        self.postgres = LabPostgres(self.machines["db1"], self.env, auth=self.auth)
        names = {name: machine.address for name, machine in self.machines.items()}
        for machine in self.machines.values():
            machine.make(names)
        for host in self.hosts:
            if command := self.kong[host.colour]:
                host.borrow(command)
            elif self.packed and host.colour == "green":
                host.pack(self.standin_version["green"])
            elif self.offered and host.colour == "blue":
                new = self.standin_version["green"]
                host.offer([self.standin_version["blue"], new])
                if host.name in self.broken:
                    host.machine.write("/srv/full", new)
            else:
                host.install(self.standin_version[host.colour])
        for part in (*self.lbs, self.postgres):
            part.write()
        self._children += [machine.boot() for machine in self.machines.values()]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda machine: machine.wait(), self.machines.values()))
            if self.offered:
                list(pool.map(lambda host: host.install_offered(self.standin_version["blue"]), self.blue))

    def _start_database(self):
        self.postgres.start()

    def power_on(self, name):
        """Boot a machine again; returns when its sshd answers."""
        self._children.append(self.machines[name].boot())
        self.machines[name].wait()

    def _attached(self, state):
        super()._attached(state)
        self.postgres = LabPostgres(self.machines["db1"], self.env, password=state["password"], auth=self.auth)
        self.postgres.superuser_password = state["superuser_password"]
        self.hub.enter()

    def down(self):
        for machine in self.machines.values():
            with contextlib.suppress(FileNotFoundError):  # not booted yet
                if init := machine.init():
                    os.kill(init, signal.SIGKILL)
        try:
            super().down()
        finally:
            if self.hub:
                self.hub.leave()

    def database_settings(self):
        return {**super().database_settings(), "pg_host": self.machines["db1"].address}

    def blue_conf(self, host):
        # As on a host of its own: no address of the host in it, no status listener.
        return {"admin_listen": f"0.0.0.0:{ADMIN}"}

    # ---- inventory ---------------------------------------------------------------------------------------------

    def _common_vars(self):
        options = [f"UserKnownHostsFile={self.hub.known_hosts}", "GlobalKnownHostsFile=/dev/null",
                   "ServerAliveInterval=2", "ServerAliveCountMax=3"]
        return {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.hub.key),
            "ansible_ssh_common_args": " ".join(f"-o {option}" for option in options),
            "ansible_python_interpreter": "/usr/bin/python3",
        }

    def _lb_vars(self, lb):
        return {"ansible_host": lb.address, "kong_upgrade_haproxy_conf_file": "/etc/haproxy/haproxy.cfg",
                "kong_upgrade_haproxy_state_file": str(lb.state_file)}

    def _host_vars(self, host):
        found = {"ansible_host": host.address}
        if host.colour == "green":
            found["kong_upgrade_unit"] = "kong"
            if self.packed:
                found.update(kong_upgrade_install="package", kong_upgrade_package=f"/{PACKAGE}")
        return found

    def versions(self):
        return {"blue": self.blue[0].version(), "green": self.standin_version["green"]} if self.packed else super().versions()

    def play_environment(self, extra=None):
        # Connections that Ansible keeps open lead into this lab's network: not to be found by another's.
        return super().play_environment({"ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.runtime / "ssh"), **(extra or {})})


def attach(directory):
    """The bed or lab that stands in this folder."""
    directory = pathlib.Path(directory)
    kind = Lab if (directory / "host_key").exists() else CassandraBed if (directory / "on_cassandra").exists() else Bed
    return kind.attach(directory)
