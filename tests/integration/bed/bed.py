# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bed as a whole."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time

import yaml

from . import machines, process, seed
from .haproxy import BACKEND, HAProxy
from .hosts import ADMIN, PROXY, Host
from .postgres import DATABASE, ROLE, Postgres
from .process import BedError, environment, spawn, wait_for

INTEGRATION = pathlib.Path(__file__).resolve().parent.parent
REPOSITORY = INTEGRATION.parent.parent
POSTGRES_PORT, ORIGIN_PORT = 5432, 9000
MAX_NODES = 49


@dataclasses.dataclass
class Played:
    """How a playbook ended: exit code, seconds, and the file that holds what it printed."""

    rc: int
    seconds: float
    log: pathlib.Path

    @property
    def output(self):
        """All that it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")


class Play:
    """A playbook that runs."""

    def __init__(self, argv, env, log):
        self.log = pathlib.Path(log)
        self.begun = time.monotonic()
        self.process = spawn(argv, self.log, env, cwd=REPOSITORY)

    def wait(self, timeout=600):
        """Wait for its end. After `timeout` seconds it is killed and BedError raised."""
        try:
            rc = self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise BedError(f"the playbook has not ended after {timeout} s, see {self.log}") from error
        return Played(rc, time.monotonic() - self.begun, self.log)

    def kill(self, everything=False):
        """SIGKILL ansible-playbook itself, or with `everything` also the workers it has forked."""
        with contextlib.suppress(ProcessLookupError):
            if everything:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()


class LoadRun:
    """A load that runs on the bed's load balancers; see load.py for the result."""

    def __init__(self, bed, name, rate, slow, slow_seconds, duration):
        self.spec, self.file = bed.directory / f"{name}.spec.json", bed.directory / f"{name}.json"
        self.file.unlink(missing_ok=True)
        spec = {
            "targets": [[lb.address, lb.port] for lb in bed.lbs], "rate": rate, "slow": slow,
            "slow_seconds": slow_seconds, "duration": duration, "requests": bed.requests(),
            "colours": {host.name: host.colour for host in bed.hosts},
        }
        with open(os.open(self.spec, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(spec, file)
        env = environment(bed.directory, {"PYTHONPATH": str(INTEGRATION)})
        self.log = bed.directory / f"{name}.log"
        self.process = spawn([sys.executable, "-m", "bed.load", self.spec, self.file], self.log, env)
        wait_for(self.file.exists, 10, f"the load begins (see {self.log})")
        self.spec.unlink()  # it has been read, and holds credentials

    def figures(self):
        """The result so far."""
        return json.loads(self.file.read_text(encoding="utf-8"))

    def mark(self):
        """Begin a new section of the latency figures."""
        self.process.send_signal(signal.SIGUSR1)

    def stop(self):
        """No new requests; wait for those in flight; return the result."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            raise BedError("the load does not end") from error
        result = self.figures()
        if not result["done"]:
            raise BedError(f"the load ended early:\n{self.log.read_text(encoding='utf-8')}")
        return result


class Bed:
    """A whole bed.

        with Bed(nodes=5, batches=3) as bed:
            load = bed.load()
            played = bed.playbook("upgrade.yml", kong_upgrade_until="finish")
            result = load.stop()

    :param directory: its folder, made anew; a temporary one when not given
    :param nodes: number of nodes of each colour, or (blue, green)
    :param batches: number of batches of blue, or their sizes; two (of one node: one) when not given
    :param lbs: number of load balancers
    :param blue_kong: path of the kong command of blue; the stand-in of `blue_version` when not given. Likewise green.
    :param middle_version: version of a third cluster, group kong_middle, that an upgrade of two hops goes through; none
        when neither this nor `middle_kong` is given. It has as many nodes as green.
    :param auth: how the role kong logs in: md5 | scram-sha-256
    :param secrets_in: where green's database password comes from: `vars` (kong_upgrade_secret_settings in a file of
        mode 0600 beside the inventory) or `conf` (a kong.conf with nothing else is on the host already)
    :param blue_settings: settings for blue's kong.conf beside the bed's own
    :param fresh: no blue node is started, and the database is empty
    :param keep: leave everything standing at the end of the `with` block
    """

    def __init__(self, directory=None, *, nodes=3, batches=None, lbs=1, blue_kong=None, green_kong=None,
                 blue_version="2.1.4", green_version="2.8.5", middle_kong=None, middle_version=None, auth="md5",
                 secrets_in="vars", blue_settings=None, fresh=False, keep=False):
        blue, green = (nodes, nodes) if isinstance(nodes, int) else nodes
        if not (1 <= blue <= MAX_NODES and 1 <= green <= MAX_NODES):
            raise BedError(f"1 to {MAX_NODES} nodes of each colour, not {blue} and {green}")
        self.sizes = _sizes(blue, batches or min(2, blue))
        self._temporary = directory is None
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix="kong-bed-")).resolve()
        self.kong = {"blue": blue_kong, "middle": middle_kong, "green": green_kong}
        self.standin_version = {"blue": blue_version, "middle": middle_version, "green": green_version}
        self.colours = ["blue", *(["middle"] if middle_kong or middle_version else []), "green"]
        self.secrets_in, self.blue_settings, self.keep = secrets_in, dict(blue_settings or {}), keep
        self.fresh = fresh
        self.auth, self.shape = auth, {"nodes": [blue, green], "batches": self.sizes, "lbs": lbs}
        self.env = environment(self.directory)
        self.runtime = None  # folder of a short name that every user may pass through: sockets, database
        self.postgres = None
        self.people = seed.credentials()
        self.net = None
        self.hosts, self.lbs, self._children, self._loads = [], [], [], 0

    # ---- going up and down -------------------------------------------------------------------------------------

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_):
        if not self.keep:
            self.down()

    @property
    def blue(self):
        """The blue hosts."""
        return [h for h in self.hosts if h.colour == "blue"]

    @property
    def green(self):
        """The green hosts."""
        return [h for h in self.hosts if h.colour == "green"]

    @property
    def middle(self):
        """The hosts of the version in between; [] for an upgrade of one hop."""
        return [h for h in self.hosts if h.colour == "middle"]

    @property
    def database(self):
        """Where the database is, in words."""
        return f"PostgreSQL at {self.postgres.address}:{self.postgres.port}, user and database {DATABASE}"

    @property
    def batches(self):
        """[(name of the inventory group, its hosts)] of blue."""
        rest, found = self.blue, []
        for number, size in enumerate(self.sizes):
            found.append((f"kong_blue_{string.ascii_lowercase[number]}", rest[:size]))
            rest = rest[size:]
        return found

    @property
    def inventory(self):
        """The inventory of the whole bed."""
        return self.directory / "inventory" / "hosts.yml"

    @property
    def report(self):
        """Where an upgrade on this bed writes its report."""
        return self.directory / "report"

    def up(self):
        """Bring up everything but green."""
        self._clear()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)  # nginx's workers may run as another user
        self.runtime = pathlib.Path(tempfile.mkdtemp(prefix="bed-", dir=_short_temp()))
        self.runtime.chmod(0o711)
        self._choose_addresses()
        self._save()
        self._make_hosts()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            database = pool.submit(self._start_database)
            python = {**self.env, "PYTHONPATH": str(INTEGRATION)}
            self._children.append(spawn(
                [sys.executable, "-m", "bed.origin", self._address(3), str(ORIGIN_PORT)],
                self.directory / "origin.log", python))
            database.result()
            self._save()
            self._write_confs()
            if self.fresh:
                list(pool.map(lambda lb: lb.start(), self.lbs))
            else:
                self._start_blue(pool)
        self.write_inventory(self.inventory)
        self._save()

    def _start_blue(self, pool):
        first, *others = self.blue
        # 0.x knows no `bootstrap`
        first.kong("migrations", "up" if first.version().startswith("0.") else "bootstrap")
        first.start()
        seeded = pool.submit(self.seed, first)
        list(pool.map(lambda host: host.start(), others))
        seeded.result()
        list(pool.map(lambda lb: lb.start(), self.lbs))
        list(pool.map(lambda host: seed.wait_served(host.address, PROXY, self.requests()), self.blue))
        for lb in self.lbs:
            lb.wait_up([host.name for host in self.blue])

    def seed(self, host):
        """Make what the load asks for through the Admin API of this host."""
        seed.seed(seed.Admin(host.address, ADMIN), f"http://{self._address(3)}:{ORIGIN_PORT}", self.people)

    def down(self):
        """End every process of the bed and remove what no reader needs; logs and reports stay unless the folder is a
        temporary one."""
        if self.postgres and self.postgres.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.postgres.process.pid, signal.SIGINT)  # fast shutdown: does not wait for clients
        process.end(lambda: process.members(self.directory))
        for child in [*self._children, *(lb.process for lb in self.lbs), self.postgres and self.postgres.process]:
            if child:
                child.wait()
        if self.runtime:
            _remove_runtime(self.directory, self.runtime)
        (self.directory / "bed.json").unlink(missing_ok=True)
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _clear(self):
        """Make way in the folder: an earlier bed there is ended and removed, anything else is not touched."""
        if not self.directory.exists() or not any(self.directory.iterdir()):
            return
        marker = self.directory / ".bed"
        if not marker.exists():
            raise BedError(f"{self.directory} is not empty and was not made by a bed: name another folder")
        take_down(self.directory)
        for entry in self.directory.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _save(self):
        """Remember what `down` and `attach` of another process need. Holds secrets."""
        (self.directory / ".bed").touch()
        state = {
            "runtime": str(self.runtime), "net": self.net, "people": self.people, "shape": self.shape,
            "kong": self.kong, "versions": self.standin_version, "secrets_in": self.secrets_in, "auth": self.auth,
            **self._database_state(),
        }
        new = self.directory / "bed.json.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
        os.replace(new, self.directory / "bed.json")  # whole or not at all, whenever this process is killed

    def _database_state(self):
        """What of the database must be remembered."""
        return {
            "password": self.postgres.password if self.postgres else None,
            "superuser_password": self.postgres.superuser_password if self.postgres else None,
        }

    @classmethod
    def attach(cls, directory):
        """The bed that stands in this folder."""
        try:
            state = json.loads((pathlib.Path(directory) / "bed.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise BedError(f"no bed stands in {directory}") from error
        bed = cls(
            directory, **state["shape"], auth=state["auth"], secrets_in=state["secrets_in"], keep=True,
            blue_kong=state["kong"]["blue"], green_kong=state["kong"]["green"],
            blue_version=state["versions"]["blue"], green_version=state["versions"]["green"],
            middle_kong=state["kong"]["middle"], middle_version=state["versions"]["middle"])
        bed._attached(state)
        return bed

    def _attached(self, state):
        self.runtime, self.net, self.people = pathlib.Path(state["runtime"]), state["net"], state["people"]
        self._make_objects()
        self._attach_database(state)

    def _attach_database(self, state):
        self.postgres = Postgres(self.runtime, self._address(2), POSTGRES_PORT, self.env, state["password"], self.auth)
        self.postgres.superuser_password = state["superuser_password"]

    # ---- its parts ---------------------------------------------------------------------------------------------

    def _address(self, number):
        return f"127.{self.net[0]}.{self.net[1]}.{number}"

    def _choose_addresses(self):
        """Find a /24 of 127.0.0.0/8 that no other bed uses."""
        seed_text = str(self.directory)
        for attempt in range(50):
            digest = hashlib.sha256(f"{seed_text}{attempt}".encode()).digest()
            self.net = [16 + digest[0] % 200, digest[1]]
            with socket.socket() as probe, socket.socket() as second:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self._address(2), POSTGRES_PORT))
                    second.bind((self._address(3), ORIGIN_PORT))
                except OSError:
                    continue
                return
        raise BedError("no free network in 127.0.0.0/8")

    def _make_objects(self):
        def folder(name):
            return self.directory / "hosts" / name

        self.hosts = []
        blue, green = self.shape["nodes"]
        places = {"blue": (101, blue), "middle": (201, green), "green": (151, green)}
        for colour in self.colours:
            first, count = places[colour]
            self.hosts += [
                Host(f"{colour}{n + 1}", colour, self._address(first + n), folder(f"{colour}{n + 1}"), self.directory)
                for n in range(count)]
        servers = [(h.name, h.address, PROXY, 100 if h.colour == "blue" else 0) for h in self.hosts]
        self.lbs = [
            HAProxy(f"lb{n + 1}", folder(f"lb{n + 1}"), self.runtime, self._address(11 + n), servers, "/open/health",
                    self.env)
            for n in range(self.shape["lbs"])]

    def _make_hosts(self):
        self._make_objects()
        for colour in self.colours:
            command = self.kong[colour]
            if command is None:
                from standin.launcher import make_launcher  # only needed without a kong command
                version = self.standin_version[colour]
                command = make_launcher(self.directory, version, sys.executable)
            elif not os.access(command, os.X_OK):
                raise BedError(f"{command} is no executable file")
            for host in self.hosts:
                if host.colour == colour:
                    host.make(pathlib.Path(command).absolute())
        for lb in self.lbs:
            lb.write()

    def _start_database(self):
        self.postgres = Postgres(self.runtime, self._address(2), POSTGRES_PORT, self.env, auth=self.auth)
        self.postgres.start()

    def database_settings(self):
        """The settings of kong.conf that name the database, without the password."""
        return {
            "database": "postgres", "pg_host": self._address(2), "pg_port": str(POSTGRES_PORT), "pg_user": ROLE,
            "pg_database": DATABASE,
        }

    def secret_settings(self):
        """The settings of kong.conf that are the database's password."""
        return {"pg_password": self.postgres.password}

    def green_secret_settings(self):
        """The same for green."""
        return self.secret_settings()

    def _write_confs(self):
        common = {"nginx_worker_processes": "1", "db_update_frequency": "1", "anonymous_reports": "off",
                  **self.database_settings(), **self.secret_settings(), **self.blue_settings}
        for host in self.blue:
            host.write_conf({**self.blue_conf(host), **common})
        if self.secrets_in == "conf":
            for host in self.middle + self.green:
                host.write_conf(self.green_secret_settings())

    def blue_conf(self, host):
        """The settings of a blue host's kong.conf that are its own."""
        return host.listeners()

    def versions(self):
        """{"blue": what its kong command says, "green": likewise}, and "middle" where there is one."""
        return {c: next(h for h in self.hosts if h.colour == c).version() for c in self.colours}

    # ---- inventories -------------------------------------------------------------------------------------------

    def write_inventory(self, path, without=(), edit=None):
        """Write an inventory (YAML) with its group_vars beside it.

        :param path: file, in a folder of its own
        :param without: names of hosts to leave out
        :param edit: function that may change the inventory, a dict, before it is written
        """
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        hosts = {h.name: self._host_vars(h) for h in self.hosts if h.name not in without}
        batches = {
            name: {"hosts": {h.name: hosts[h.name] for h in members if h.name in hosts}}
            for name, members in self.batches}
        data = {"all": {
            "vars": {
                **self._common_vars(),
                "kong_upgrade_target_version": self.versions()["green"],
                "kong_upgrade_batches": list(batches),
                "kong_upgrade_install": "preinstalled",
                "kong_upgrade_report_dir": str(self.report),
            },
            "children": {
                "kong_blue": {"children": batches},
                **{f"kong_{colour}": {"hosts": {h.name: hosts[h.name] for h in self.hosts
                                                if h.colour == colour and h.name in hosts}}
                   for colour in self.colours[1:]},
                "kong_lb": {"hosts": {lb.name: self._lb_vars(lb) for lb in self.lbs if lb.name not in without}},
            },
        }}
        if edit:
            edit(data)
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        for colour in self.colours[1:] if self.secrets_in == "vars" else ():
            secret = path.parent / "group_vars" / f"kong_{colour}.yml"
            secret.parent.mkdir(exist_ok=True)
            with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                yaml.safe_dump({"kong_upgrade_secret_settings": self.green_secret_settings()}, file)
        return path

    def _common_vars(self):
        return {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "kong_upgrade_backup_dir": str(self.directory / "backup"),
            **self._database_vars(),
        }

    def _database_vars(self):
        return {"kong_upgrade_pg_bin_dir": str(self.postgres.bin)}

    def _lb_vars(self, lb):
        return {
            "kong_upgrade_haproxy_sockets": [str(lb.socket)],
            "kong_upgrade_haproxy_conf_file": str(lb.conf),
            "kong_upgrade_haproxy_state_file": str(lb.state_file),
            "kong_upgrade_state_dir": str(lb.directory / "state"),
        }

    def _host_vars(self, host):
        found = {
            "kong_upgrade_executable": str(host.executable),
            "kong_upgrade_conf": str(host.conf),
            "kong_upgrade_prefix": str(host.prefix),
            "kong_upgrade_state_dir": str(host.directory / "state"),
        }
        if host.colour != "blue":
            settings = host.listeners()
            found["kong_upgrade_admin_listen"] = settings.pop("admin_listen")
            found["kong_upgrade_settings"] = settings
        return found

    # ---- what scenarios do with it -----------------------------------------------------------------------------

    def play_environment(self, extra=None):
        """The environment of a playbook on this bed."""
        programs = pathlib.Path(sys.executable).parent
        path = os.pathsep.join([str(programs), *(str(lb.executable.parent) for lb in self.lbs[:1]),
                                os.environ.get("PATH", os.defpath)])
        return environment(self.directory, {"PATH": path, "ANSIBLE_NOCOWS": "1", "PYTHONUNBUFFERED": "1",
                                            **(extra or {})})

    def play_command(self, name, inventory=None, options=(), **variables):
        """The argv that runs a playbook of the collection, or any by its path."""
        path = pathlib.Path(name) if os.sep in str(name) else REPOSITORY / "playbooks" / name
        argv = [pathlib.Path(sys.executable).parent / "ansible-playbook", "-i", inventory or self.inventory, path]
        return [str(a) for a in (*argv, *options, *(("-e", json.dumps(variables)) if variables else ()))]

    def start_playbook(self, name, inventory=None, options=(), env=None, log=None, **variables):
        """Start a playbook and return the Play, which is ended at the latest with the bed."""
        log = log or self.directory / f"{pathlib.Path(name).stem}-{secrets.token_hex(3)}.log"
        play = Play(self.play_command(name, inventory, options, **variables), self.play_environment(env), log)
        self._children.append(play.process)
        return play

    def playbook(self, name, inventory=None, options=(), env=None, timeout=600, **variables):
        """Run a playbook to its end.

        :param name: file in playbooks/, or a path
        :param options: more command line words
        :param variables: extra variables
        :returns: Played
        """
        return self.start_playbook(name, inventory, options, env, **variables).wait(timeout)

    def unfinished(self):
        """What is missing to a finished upgrade, as found by looking and not by asking what ran; [] when it is done."""
        found = [f"{h.name} still runs" for h in self.blue + self.middle if h.pid()]
        found += [f"{h.name} does not run" for h in self.green if not h.pid()]
        found += [f"the Admin API of {h.name} does not answer" for h in self.green if h.pid() and not h.listens(ADMIN)]
        return found + [f"migrations of {subsystem} are pending" for subsystem in self.pending()]

    def pending(self):
        """The subsystems of which migrations are pending."""
        rows = self.sql("SELECT subsystem FROM schema_meta WHERE coalesce(array_length(pending, 1), 0) > 0")
        return [row[0] for row in rows]

    def migrations(self):
        """{subsystem: (executed, pending)} straight from the database."""
        rows = self.sql("SELECT subsystem, executed, pending FROM schema_meta ORDER BY subsystem")
        return {name: (list(executed or []), list(pending or [])) for name, executed, pending in rows}

    def requests(self):
        """What the load sends; see load.Load."""
        return seed.requests(self.people, self.versions()["blue"])

    def load(self, rate=120, slow=4, slow_seconds=5, duration=600):
        """Start a load on all load balancers; see load.py."""
        self._loads += 1
        run = LoadRun(self, f"load{self._loads}", rate, slow, slow_seconds, duration)
        self._children.append(run.process)
        return run

    def sql(self, query, *parameters):
        """Rows of a query as the role kong ([] for a statement without)."""
        with self.postgres.connect() as db:
            cursor = db.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def idle_transaction(self, statement="SELECT 1 FROM routes LIMIT 1"):
        """While inside: a session of the role kong idle in a transaction, holding the locks of `statement`."""
        with self.postgres.connect(autocommit=False) as db:
            db.execute(statement)
            try:
                yield db
            finally:
                db.rollback()

    def migration_lock(self):
        """(owner, seconds to live) of Kong's migration lock, or None."""
        rows = self.sql(
            "SELECT owner, extract(epoch FROM ttl - current_timestamp AT TIME ZONE 'UTC') FROM locks"
            " WHERE key = 'migrations'")
        return rows[0] if rows else None

    def kill_up(self, host, statement="LOCK TABLE routes IN ACCESS SHARE MODE", lock_timeout=60):
        """Leave a stale migration lock: start `kong migrations up` on `host`, SIGKILL it in the middle, and its
        session in the server too."""
        with self.idle_transaction(statement):
            up = subprocess.Popen(
                [str(host.executable), "migrations", "up", "-c", str(host.conf), "--lock-timeout", str(lock_timeout)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.env,
                start_new_session=True)
            wait_for(self._blocked, 20, "`up` waits for a lock in the database")
            os.killpg(up.pid, signal.SIGKILL)
            up.wait()
            with self.postgres.admin() as db:
                db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return self.migration_lock()

    def _blocked(self):
        with self.postgres.admin() as db:
            return db.execute("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchall()

    def kill_node(self, host):
        """SIGKILL a node, master and workers."""
        pid = host.pid()
        if pid is None:
            raise BedError(f"{host.name} runs no node")
        victims = {pid}
        while True:
            more = {p for p in process.members(self.directory) if process.parent(p) in victims} - victims
            if not more:
                break
            victims |= more
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        wait_for(lambda: host.pid() is None, 5, f"{host.name} is dead")


def take_down(directory):
    """End whatever is left of the bed in `directory`, also of one whose maker was killed."""
    directory = pathlib.Path(directory).resolve()
    process.end(lambda: process.members(directory))
    state = directory / "bed.json"
    if state.exists():
        runtime = pathlib.Path(json.loads(state.read_text(encoding="utf-8"))["runtime"])
        _remove_runtime(directory, runtime)
        state.unlink()


def _remove_runtime(directory, runtime):
    disks = runtime / "disks"
    if disks.exists():
        machines.remove(directory, disks)
    shutil.rmtree(runtime, ignore_errors=True)


def _sizes(nodes, batches):
    """The sizes of the batches: a number of batches is spread evenly."""
    if isinstance(batches, int):
        if not 1 <= batches <= min(nodes, 26):
            raise BedError(f"{batches} batches of {nodes} nodes: not possible")
        return [nodes // batches + (n < nodes % batches) for n in range(batches)]
    if sum(batches) != nodes or min(batches) < 1 or len(batches) > 26:
        raise BedError(f"batches {batches} do not make {nodes} nodes")
    return list(batches)


def _short_temp():
    """The usual temporary folder, unless its name is too long for the path of a socket."""
    usual = tempfile.gettempdir()
    return usual if len(usual) < 40 else "/tmp"


__all__ = ["BACKEND", "Bed", "BedError", "LoadRun", "Play", "Played", "take_down"]
