# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL with a database of an older Kong, for the tests of modules that look into it or change it.

With BLUE_KONG and GREEN_KONG in the environment they run those kong commands (2.0 and 2.8), else the stand-in.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import psycopg
from ansible_collections.bluegreen.kong.plugins.module_utils import _migrate, _migrations
from bed import process
from bed.postgres import Postgres
from standin.launcher import make_launcher

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PASSWORD = "correct-horse-42"
DEFAULTS = {
    "db_timeout": 60,
    "lock_timeout": 60,
    "foreign_lock": "wait",
    "foreign_lock_timeout": 60,
    "pending_and_new": "fail",
    "interrupted": "fail",
    "block_timeout": 2.0,
    "max_transaction_age": 10.0,
}


def run_command(argv, environ_update=None):
    """As AnsibleModule.run_command."""
    done = subprocess.run(
        argv, env=dict(os.environ, **(environ_update or {})), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
    )
    return done.returncode, done.stdout, done.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def at_the_third_look(monkeypatch, do):
    """Calls do() once the module has looked at the migration lock three times, and so waits for it."""
    looks, look = [], _migrations.lock_or_none

    def looking(database):
        looks.append(look(database))
        if len(looks) == 3:
            do()
        return looks[-1]

    monkeypatch.setattr(_migrations, "lock_or_none", looking)


class Cluster:
    """A PostgreSQL, two versions of Kong, and a database made by the older one to start from."""

    def __init__(self, directory):
        self.directory = directory
        self.env = process.environment(directory)
        self.server = Postgres(directory, "127.0.0.1", free_port(), self.env, password=PASSWORD)
        self.old = os.environ.get("BLUE_KONG") or make_launcher(directory / "kongs", "2.0.5")
        self.new = os.environ.get("GREEN_KONG") or make_launcher(directory / "kongs", "2.8.5")
        self.number = 0
        self.names = []

    def start(self):
        self.server.start()
        with self.server.admin("postgres") as admin:
            admin.execute("alter role kong createdb")
            admin.execute("create role other login password 'other-word'")
            admin.execute("create role watcher login password 'watcher-word' in role pg_read_all_stats, kong")
        at = At(self, "kong")
        at.migrate("bootstrapped", self.old)

    def fresh(self, template="kong"):
        """A database of its own, at the older version."""
        self.number += 1
        name = f"kong_{self.number}"
        with self.server.admin("postgres") as admin:
            admin.execute(f"create database {name} owner kong" + (f" template {template}" if template else ""))
        self.names.append(name)
        return At(self, name)

    def tidy(self):
        """Removes the databases of the test that has ended."""
        with self.server.admin("postgres") as admin:
            while self.names:
                admin.execute(f"drop database {self.names.pop()} with (force)")


class At:
    """One database, with a kong.conf that names it."""

    def __init__(self, cluster, name, **settings):
        self.cluster, self.name = cluster, name
        self.port = cluster.server.port
        self.conf = self.write("kong.conf", **settings)

    def write(self, name, **settings):
        """A kong.conf; returns its path."""
        settings = {
            "database": "postgres", "pg_host": "127.0.0.1", "pg_port": self.port, "pg_user": "kong",
            "pg_password": PASSWORD, "pg_database": self.name, "prefix": self.cluster.directory / "prefix", **settings,
        }
        path = self.cluster.directory / f"{self.name}-{name}"
        path.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        return str(path)

    def migrate(self, state, kong=None, check_mode=False, **params):
        params = {**DEFAULTS, "state": state, "executable": kong or self.cluster.new, "conf": self.conf, **params}
        return _migrate.migrate(params, run_command, check_mode)

    def session(self, application="test", user="kong", password=PASSWORD, autocommit=True):
        return psycopg.connect(
            host="127.0.0.1", port=self.cluster.server.port, user=user, password=password, dbname=self.name,
            autocommit=autocommit, application_name=application, connect_timeout=5,
        )

    def admin(self):
        return self.cluster.server.admin(self.name)

    def up(self, *options):
        """kong migrations up, by hand, in a session of its own."""
        return subprocess.Popen(
            [self.cluster.new, "migrations", "up", "-c", self.conf, *options], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    def locks(self):
        with self.admin() as admin:
            return admin.execute(
                "select owner, extract(epoch from ttl - now())::float8 from locks where key = 'migrations'"
            ).fetchall()

    def hold_lock(self, seconds):
        """Take the migration lock, as a run of another host would, or give whoever holds it this long from now on."""
        with self.session() as session:
            session.execute(
                "insert into locks (key, owner, ttl) values ('migrations', 'someone', now() + make_interval(secs => %s))"
                " on conflict (key) do update set ttl = excluded.ttl", [seconds])

    def sessions(self, condition="true"):
        """Pids of the client sessions, but for the tests' own."""
        with self.admin() as admin:
            rows = admin.execute(
                "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
                " and backend_type = 'client backend' and application_name not in ('test', 'bed') and " + condition
            ).fetchall()
        return [row[0] for row in rows]

    @contextlib.contextmanager
    def idle_transaction(self, statement="select * from plugins", **session):
        """Somebody who has read a table of Kong's and went to lunch."""
        with self.session(autocommit=False, **session) as other:
            other.execute(statement)
            yield other
            other.rollback()


def scratch_folders():
    return sorted(pathlib.Path(tempfile.gettempdir()).glob("kong-scratch-*"))


def ansible(module, *arguments):
    """One module through ansible; (exit code, result)."""
    done = subprocess.run(
        [
            str(pathlib.Path(sys.executable).with_name("ansible")), "localhost", "-m", f"bluegreen.kong.{module}",
            "-e", f"ansible_python_interpreter={sys.executable}", "-a", json.dumps(dict(arguments)),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
        env=dict(os.environ, ANSIBLE_LOCALHOST_WARNING="False", ANSIBLE_INVENTORY_UNPARSED_WARNING="False",
                 ANSIBLE_CALLBACK_RESULT_FORMAT="json"),
    )
    head, dummy, body = done.stdout.partition("=> ")
    assert head, done.stderr
    return done.returncode, json.loads(body), done.stdout + done.stderr
