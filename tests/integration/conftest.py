# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the scenarios; what they can do is in scenes.py."""

import contextlib
import os
import shutil
import tempfile
import time

import pytest
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
