# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the collection from a clean copy of the tree, looks into the tarball, installs it, checks its playbooks, and
imports it as Galaxy does.

Usage: check_build.py FOLDER   (the copy; its name ends in ansible_collections/bluegreen/kong)
"""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

# What users get. Everything else in the tree serves those who work on the collection.
WANTED = re.compile(
    r"(LICENSE|README\.md|CHANGELOG\.md|MANIFEST\.json|FILES\.json|requirements\.(txt|yml)|bindep\.txt|execution-environment\.yml"
    r"|(changelogs|docs|examples|meta|playbooks|plugins|roles)(/.*)?)$"
)
NEEDED = (
    "LICENSE", "README.md", "CHANGELOG.md", "meta/runtime.yml", "meta/execution-environment.yml", "execution-environment.yml",
    "playbooks/upgrade.yml", "requirements.txt", "bindep.txt", "examples/awx/variables.yml",
)  # fmt: skip
JUNK = re.compile(r"(^|/)(\.[^/]*|__pycache__|[^/]*\.py[co]|[^/]*~)(/|$)")


def tool(name, *arguments, **options):
    """The output of an Ansible command from beside this Python; ends with that output where it fails."""
    command = [pathlib.Path(sys.executable).parent / name, *arguments]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    if done.returncode:
        raise SystemExit("%s %s:\n%s" % (name, " ".join(arguments), done.stdout))
    return done.stdout


def main():
    """Exit code 0 if all is right."""
    with tempfile.TemporaryDirectory() as out:
        tool("ansible-galaxy", "collection", "build", "--output-path", out, cwd=sys.argv[1])
        (path,) = pathlib.Path(out).glob("*.tar.gz")
        with tarfile.open(path) as tar:
            names = sorted(member.name for member in tar.getmembers())
        problems = ["should not be in it: %s" % name for name in names if not WANTED.match(name) or JUNK.search(name)]
        problems += ["missing: %s" % name for name in NEEDED if name not in names]
        print("%d files" % len(names))
        # Dependencies come from the environment: nothing is asked of Galaxy.
        environment = dict(os.environ, ANSIBLE_COLLECTIONS_PATH=out)
        tool("ansible-galaxy", "collection", "install", "--no-deps", "-p", out, str(path), cwd=out, env=environment)
        playbooks = [name for name in names if re.match(r"playbooks/[^/]+\.yml$", name)]
        for name in playbooks:
            full = "bluegreen.kong." + pathlib.Path(name).stem
            tool("ansible-playbook", "--syntax-check", "-i", "localhost,", full, cwd=out, env=environment)
        print("%d playbooks from the installed collection" % len(playbooks))
        # What Galaxy does with an upload, but for ansible-lint, which is a check of its own with a stricter profile.
        environment.update(GALAXY_IMPORTER_RUN_ANSIBLE_LINT="false", GALAXY_IMPORTER_CHECK_CHANGELOG="true")
        environment["PATH"] = "%s:%s" % (pathlib.Path(sys.executable).parent, environment.get("PATH", os.defpath))
        told = tool("python", "-m", "galaxy_importer.main", str(path), cwd=out, env=environment)
        problems += [line for line in told.splitlines() if line.startswith(("WARNING", "ERROR"))]
        if "Importer processing completed successfully" not in told:
            problems.append("galaxy-importer did not come to its end:\n" + told)
    return "\n".join(problems) or 0


if __name__ == "__main__":
    sys.exit(main())
