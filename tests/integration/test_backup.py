# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A dump of a real PostgreSQL: what it holds, what came since, and the way back in one transaction.

With BLUE_KONG and GREEN_KONG in the environment it is made by those kong commands (2.0 and 2.8), else by the stand-in.
"""

import hashlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

import psycopg
import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _backup
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import BackupError
from bed import process
from bed.postgres import DATABASE, ROLE, Postgres
from standin.launcher import make_launcher

PASSWORD = "correct-horse-42"
ALICE, BOB = ("6f1d1f5e-2d7c-4a55-9a0e-6a1d3b7c000%d" % n for n in (1, 2))


def run_command(argv, environ_update=None):
    """As AnsibleModule.run_command."""
    done = subprocess.run(
        argv, env=dict(os.environ, **(environ_update or {})), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        check=False)
    return done.returncode, done.stdout, done.stderr


class Place:
    """A database at 2.0.5 with a consumer, its dump, and then the way to 2.8.5 with another consumer."""

    def __init__(self, directory):
        self.directory, self.env = directory, process.environment(directory)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.server = Postgres(directory, "127.0.0.1", port, self.env, password=PASSWORD)
        self.conf, self.dump = directory / "kong.conf", directory / "kong-2.0.5-abc.pgc"

    def start(self):
        self.server.start()
        self.conf.write_text(
            f"pg_host = 127.0.0.1\npg_port = {self.server.port}\npg_password = {PASSWORD}\nprefix = {self.directory}/prefix\n")

    def make(self):
        """From the beginning: the old database, its dump, the new one."""
        with self.server.admin("postgres") as admin:
            admin.execute(f"drop database {DATABASE} with (force)")
            admin.execute(f"create database {DATABASE} owner {ROLE}")
        self.kong("2.0.5", "bootstrap")
        self.sql("insert into consumers (id, username) values (%s, 'alice')", ALICE)
        libpq = {"PGHOST": "127.0.0.1", "PGPORT": str(self.server.port), "PGUSER": ROLE, "PGPASSWORD": PASSWORD}
        process.run([self.server.bin / "pg_dump", "-Fc", "-f", self.dump, DATABASE], {**self.env, **libpq})
        self.sign()
        self.old = self.content()
        self.kong("2.8.5", "up")
        self.kong("2.8.5", "finish")
        self.sql("insert into consumers (id, username) values (%s, 'bob')", BOB)

    def kong(self, version, command):
        given = os.environ.get("BLUE_KONG" if version == "2.0.5" else "GREEN_KONG")
        process.run([given or make_launcher(self.directory / "kongs", version), "migrations", command, "-c", self.conf], self.env)

    def sign(self):
        digest = hashlib.sha256(self.dump.read_bytes()).hexdigest()
        self.dump.with_name(self.dump.name + ".sha256").write_text(f"{digest}  {self.dump.name}\n")

    def sql(self, query, *parameters):
        with self.server.connect() as db:
            cursor = db.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def content(self):
        """Every table with its columns and rows."""
        names = self.sql("select relname::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1")
        return {name: sorted(map(repr, self.sql(f"select to_json(t)::text from {name} t"))) for (name,) in names}

    def params(self, **more):
        return {"path": str(self.dump), "pattern": "", "conf": str(self.conf), "pg_bin_dir": str(self.server.bin), **more}

    def restore(self, check_mode=False, **more):
        return _backup.restore(self.params(**more), run_command, check_mode)

    def info(self, **more):
        return _backup.info(self.params(**more), run_command)


@pytest.fixture(scope="module")
def server():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="kong-backup-"))
    directory.chmod(0o711)  # PostgreSQL runs as another user
    place = Place(directory)
    try:
        place.start()
        yield place
    finally:
        if place.server.process:
            place.server.process.terminate()
            place.server.process.wait()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def place(server):
    server.make()
    return server


def test_there_and_back(place):
    found = place.info(path=str(place.directory), pattern="kong-2.0.5-")
    assert found["path"] == str(place.dump)
    assert not found["restored"]
    assert found["rows"]["consumers"] == 1
    assert {"table": "consumers", "backup": 1, "now": 2, "added": 1, "removed": 0} in found["differences"]
    assert [row["table"] for row in found["differences"]] == ["consumers"]
    place.sql("delete from consumers where id = %s", ALICE)
    assert place.info()["differences"] == [{"table": "consumers", "backup": 1, "now": 1, "added": 1, "removed": 1}]

    new = place.content()
    assert place.restore(check_mode=True)["changed"]
    assert place.content() == new
    done = place.restore(sha256=found["sha256"])
    assert done["changed"]
    assert done["after"]["fingerprint"] == found["migrations"]["fingerprint"]
    assert place.content() == place.old
    assert place.info()["restored"]
    assert not place.restore()["changed"]
    # It is a database of Kong's again, with which the old version goes on, and which can be upgraded.
    place.kong("2.0.5", "list")
    place.kong("2.8.5", "up")
    place.kong("2.8.5", "finish")
    assert place.sql("select username from consumers") == [("alice",)]


def spoil(place):
    """Another dump than the one that was signed."""
    place.dump.write_bytes(place.dump.read_bytes()[:-1] + b"x")


def cut(place):
    """Half of a dump, with the checksum of that half."""
    place.dump.write_bytes(place.dump.read_bytes()[: place.dump.stat().st_size // 2])
    place.sign()


def unsign(place):
    place.dump.with_name(place.dump.name + ".sha256").unlink()


def text(place):
    place.dump.write_text("select 1;\n")
    place.sign()


@pytest.mark.parametrize("do, words", [
    (spoil, "is not the one that was made"), (cut, "cannot read"), (unsign, "no checksum"), (text, "cannot read")])
def test_a_dump_that_is_refused(place, do, words):
    do(place)
    before = place.content()
    for call in (place.info, place.restore):
        with pytest.raises(BackupError, match=words):
            call()
    assert place.content() == before


def test_another_dump_than_the_one_that_is_meant(place):
    with pytest.raises(BackupError, match="another dump"):
        place.restore(sha256="0" * 64)


def test_what_stands_on_a_table_from_elsewhere_ends_it(place):
    with place.server.admin() as admin:
        admin.execute("create schema theirs")
        admin.execute("create view theirs.people as select username from public.consumers")
    before = place.content()
    with pytest.raises(BackupError, match="the data are as they were before.*depend"):
        place.restore()
    assert place.content() == before


def test_a_session_that_holds_a_table_ends_it(place, monkeypatch):
    monkeypatch.setattr(_backup, "LOCK_TIMEOUT", 1)
    before = place.content()
    with place.server.connect(autocommit=False) as session:
        session.execute("select 1 from consumers")
        with pytest.raises(BackupError, match="lock timeout"):
            place.restore()
    assert place.content() == before


def test_rows_that_are_not_all_there_end_it(place, monkeypatch):
    """One row less than the dump has, on the way to psql."""
    fit = _backup._fit
    monkeypatch.setattr(_backup, "_fit", lambda lines: (line for line in fit(lines) if ALICE.encode() not in line))
    before = place.content()
    with pytest.raises(BackupError, match="table consumers has not the 1 rows"):
        place.restore()
    assert place.content() == before


def test_a_stream_that_ends_early_changes_nothing(place, monkeypatch):
    def broken(lines):
        for number, line in enumerate(lines):
            if number > 200:
                raise RuntimeError("the power is gone")
            yield line

    monkeypatch.setattr(_backup, "_fit", broken)
    before = place.content()
    with pytest.raises(RuntimeError):
        place.restore()
    process.wait_for(
        lambda: place.sql("select count(*) from pg_stat_activity where application_name = 'bluegreen.kong'") == [(0,)], 10, "psql is gone")
    assert place.content() == before


def test_a_role_that_does_not_own_the_tables(place):
    with place.server.admin() as admin:
        admin.execute(f"alter database {DATABASE} owner to postgres")  # the owner of the schema may drop what is in it
        admin.execute("alter table consumers owner to postgres")
        admin.execute(f"grant all on consumers to {ROLE}")
    before = place.content()
    with pytest.raises(BackupError, match="must be owner"):
        place.restore()
    assert place.content() == before


def test_no_dump(place):
    with pytest.raises(BackupError, match="no dump"):
        place.info(path=str(place.directory / "nowhere.pgc"))
    with pytest.raises(BackupError, match="no dump kong-1"):
        place.info(path=str(place.directory), pattern="kong-1")


def test_wrong_password(place):
    place.conf.write_text(place.conf.read_text().replace(PASSWORD, "wrong"))
    try:
        with pytest.raises(Exception, match="password") as caught:
            place.info()
        assert not isinstance(caught.value, psycopg.Error)
    finally:
        place.conf.write_text(place.conf.read_text().replace("= wrong", f"= {PASSWORD}"))
