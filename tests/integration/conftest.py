# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the scenarios; what they can do is in scenes.py."""

import contextlib
import time

import pytest
from scenes import KONGS, Scene


def pytest_collection_modifyitems(items):
    """Tests that share something which takes long to stand go to one process of pytest-xdist, see tools/run_tests.py."""
    for item in items:
        found = {name: definitions[-1] for name, definitions in item._fixtureinfo.name2fixturedefs.items()}
        shared = sorted(name for name, fixture in found.items()  # baseid: pytest's own have none
                        if fixture.scope != "function" and fixture.baseid and name != "module_stage")
        if shared:
            item.add_marker(pytest.mark.xdist_group(f"{item.module.__name__}.{shared[0]}"))


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
