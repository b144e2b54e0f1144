# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first command of the README, and the bed from the command line, as somebody types them."""

import json
import os
import shlex
import subprocess

from bed.bed import REPOSITORY


def run(*words, code=0, **environ):
    """The output of a command in the folder of the repository."""
    done = subprocess.run(
        [str(word) for word in words], cwd=REPOSITORY, env=dict(os.environ, **environ), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == code, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_demo_and_a_bed_of_ones_own(tmp_path):
    told = run("make", "-n", "demo", "NODES=1", "BATCHES=1", "KEEP=1").splitlines()[-1]
    assert "-m bed demo" in told
    directory = tmp_path / "bed"
    try:
        # What make would run, in a folder of this test instead of .demo, and with short soaks.
        shown = run("sh", "-c", f"{told} --dir {shlex.quote(str(directory))} --soak 1")
        figures = json.loads(shown.splitlines()[-1])
        assert figures["failed"] == 0 and figures["requests"] > 500
        assert "blue1 " in shown and "does not run" in shown and "take down" in shown
        again = run(".venv/bin/python", "-m", "bed", "play", "--dir", directory, "status.yml", PYTHONPATH="tests/integration")
        assert "Kong 2.1.4 to 2.8.5: finished." in again
        assert "green1" in run(".venv/bin/python", "-m", "bed", "show", "--dir", directory, PYTHONPATH="tests/integration")
    finally:
        ended = run(".venv/bin/python", "-m", "bed", "down", "--dir", directory, PYTHONPATH="tests/integration")
    assert "has ended" in ended
    # What is left is a folder in which the next bed can stand.
    try:
        standing = run(".venv/bin/python", "-m", "bed", "up", "--dir", directory, "--nodes", 1, PYTHONPATH="tests/integration")
    finally:
        run(".venv/bin/python", "-m", "bed", "down", "--dir", directory, PYTHONPATH="tests/integration")
    assert "green1" in standing
