# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the parts of `make test` one after another and adds up what they found.

Usage: run_tests.py PART... [-- PYTEST_ARGUMENT...]
Parts: packages, lint, docs, sanity, targets, unit, floor, newest, integration. A part goes on when one before it failed.

Each linter and each sanity test counts as one check, each pytest test as one. What was skipped is named, with the
reason. The last line is `N passed, N failed[, N skipped]`, and the exit code is 0 if nothing failed.
"""

from __future__ import annotations

import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
BIN = ROOT / ".venv" / "bin"
FLOOR = ROOT / ".venv-floor"
NEWEST = ROOT / ".venv-newest"
COPY = CACHE / "ansible_collections" / "bluegreen" / "kong"
# What the scenarios on hosts with a systemd and an sshd of their own need from Debian.
PACKAGES = (
    "iproute2", "mmdebstrap", "nginx-light", "openssh-client", "openssh-server", "procps", "rsync", "systemd-container", "tini",
)  # fmt: skip
# What a Cassandra of the bed runs on and is fetched with. Not every Debian has this Java.
CASSANDRA = ("maven", "openjdk-17-jre-headless")
NO_FLOOR = "no environment with the oldest ansible-core, which needs Python 3.11 or 3.12"
UNIT, INTEGRATION = "tests/unit", "tests/integration"


class Tally:
    """What was found so far."""

    def __init__(self):
        self.passed = 0
        self.failed = []
        self.skipped = []

    def add(self, name, good, detail=""):
        """One check, which passed or failed."""
        if good:
            self.passed += 1
        else:
            self.failed.append(name)
        print("%s %s%s" % ("ok  " if good else "FAIL", name, " (%s)" % detail if detail else ""), flush=True)

    def skip(self, name, reason):
        """One part or test that did not run."""
        self.skipped.append((name, reason))
        print("skip %s: %s" % (name, reason), flush=True)


def title(text):
    """A line above a part."""
    print("\n==== %s" % text, flush=True)


def run(command, **options):
    """The exit code of a command whose output goes where ours goes."""
    options.setdefault("cwd", ROOT)
    return subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, check=False, **options).returncode


def quiet(tally, name, command, **options):
    """A command as one check: its output is shown only if it fails."""
    begun = time.monotonic()
    options.setdefault("cwd", ROOT)
    result = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        **options,
    )
    if result.returncode:
        print(result.stdout.rstrip(), flush=True)
    tally.add(name, result.returncode == 0, "%.0f s" % (time.monotonic() - begun))
    return result


# --- packages ---------------------------------------------------------------------------------------------------------


def packages(tally, _arguments):
    """Debian packages for the scenarios that need root, and for those on Cassandra."""
    fetch(PACKAGES)
    if not (shutil.which("mvn") and shutil.which("java")):
        fetch(CASSANDRA)


def fetch(names):
    """Installs those of the Debian packages that are missing, or tells why not."""
    missing = [name for name in names if not installed(name)]
    if not missing:
        return
    if os.geteuid() != 0:
        print("not root: %s not installed; scenarios that need them are skipped below" % ", ".join(missing))
        return
    if not shutil.which("apt-get"):
        print(
            "no apt-get here: install what gives you %s; scenarios that need them are skipped below"
            % ", ".join(missing)
        )
        return
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    # A service that a package brings is for the hosts of the lab, not for this machine.
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    own_policy = not policy.exists()
    if own_policy:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        with open(log("packages"), "w", encoding="utf-8") as out:
            for command in (["apt-get", "update", "-q"], install):
                if run(command, env=environment, stdout=out, stderr=out):
                    print(
                        "could not install %s (%s); scenarios that need them are skipped below"
                        % (", ".join(missing), log("packages").relative_to(ROOT))
                    )
                    return
    finally:
        if own_policy:
            policy.unlink()
    print("installed %s" % ", ".join(missing))


def installed(name):
    """Whether dpkg has the package, or there is no dpkg to ask."""
    if not shutil.which("dpkg-query"):
        return False
    query = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}", name], capture_output=True, text=True, check=False
    )
    return query.stdout == "installed"


def log(name):
    """The file that the full output of a part goes to."""
    CACHE.mkdir(exist_ok=True)
    return CACHE / (name + ".log")


# --- lint and sanity --------------------------------------------------------------------------------------------------


def copy_tree():
    """A real copy of the tree where Ansible's tools look for a collection; they refuse the link in .collections."""
    COPY.mkdir(parents=True, exist_ok=True)
    listing = (
        subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        if (ROOT / ".git").exists() and shutil.which("git")
        else None
    )
    if listing is not None and listing.returncode == 0:
        names = {pathlib.Path(os.fsdecode(name)) for name in listing.stdout.split(b"\0") if name}
    else:
        left_out = {".git", ".cache", ".demo", "__pycache__", "build", "kong-upgrade-report"}
        names = set()
        for folder, folders, files in os.walk(ROOT):
            folders[:] = [
                f for f in folders if f not in left_out and not f.startswith(".venv") and not f.endswith("_cache")
            ]
            names |= {pathlib.Path(folder, f).relative_to(ROOT) for f in files}
    names = {name for name in names if name.parts[0] != ".collections" and (ROOT / name).is_file()}
    for folder, folders, files in os.walk(COPY, topdown=False):
        if ".git" in pathlib.Path(folder).relative_to(COPY).parts:
            continue
        for name in files:
            path = pathlib.Path(folder, name)
            if path.relative_to(COPY) not in names:
                path.unlink()
        if folder != str(COPY) and not any(pathlib.Path(folder).iterdir()):
            pathlib.Path(folder).rmdir()
    for name in names:
        source, target = ROOT / name, COPY / name
        if (
            target.is_file()
            and target.stat().st_mtime == source.stat().st_mtime
            and target.stat().st_size == source.stat().st_size
        ):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    if listing is not None and not (COPY / ".git").exists():
        # Inside another repository, ansible-test would see only what that one does not ignore: nothing.
        subprocess.run(["git", "init", "-q"], cwd=COPY, check=True, env=clean_environment())
    return COPY


def clean_environment(**more):
    """The environment without what a git hook or an outer Ansible may have left in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "ANSIBLE_")) and k != "PYTHONPATH"}
    kept["PATH"] = "%s:%s" % (BIN, kept.get("PATH", os.defpath))
    kept.update(more)
    return kept


def environment_of_linters():
    """Where Ansible's tools find this collection and those it needs: nothing is asked of Galaxy."""
    site = subprocess.check_output(
        [BIN / "python", "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
    ).strip()
    return clean_environment(ANSIBLE_COLLECTIONS_PATH="%s:%s" % (CACHE, site), ANSIBLE_HOME=str(CACHE / "ansible"))


def lint(tally, _arguments):
    """Linters and what Galaxy checks, side by side, the longest first."""
    copy = copy_tree()
    environment = environment_of_linters()
    checks = {
        "ansible-lint": ["ansible-lint", "--offline", "--strict", "--nocolor"],
        "collection builds clean, Galaxy takes it": ["python", "-B", ROOT / "tools" / "check_build.py", copy],
        "antsibull-docs": [
            "antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "self",
            "--disallow-unknown-collection-refs", "--skip-rstcheck", ".",
        ],
        "mypy": ["mypy", "--cache-dir", CACHE / "mypy"],
        "yamllint": ["yamllint", "--strict", "."],
        "antsibull-changelog": ["antsibull-changelog", "lint"],
        "ruff": ["ruff", "check", "--no-cache", "--output-format", "concise", "."],
    }  # fmt: skip
    with concurrent.futures.ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        runs = [
            pool.submit(quiet, tally, name, [BIN / program, *arguments], cwd=copy, env=environment)
            for name, (program, *arguments) in checks.items()
        ]
    for each in runs:
        each.result()  # raises what went wrong with the check itself


def docs(tally, _arguments):
    """The documentation site, in .cache/site/html."""
    build = [BIN / "python", "-B", ROOT / "tools" / "docsite" / "build.py", copy_tree(), CACHE / "site"]
    quiet(tally, "documentation site", build, env=environment_of_linters())


def interpreters():
    """version -> path of each Python from 3.6 on that is installed, runs, and can make environments."""
    found = {}
    places = os.environ.get("PATH", os.defpath).split(":")
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT") or pathlib.Path.home() / ".pyenv")
    places += sorted(str(path) for path in pyenv.glob("versions/3.*/bin"))
    for place in places:
        for path in sorted(pathlib.Path(place or ".").glob("python3.*")):
            version = path.name[len("python") :]
            if not re.fullmatch(r"3\.([6-9]|1\d)", version) or version in found or not os.access(path, os.X_OK):
                continue
            probe = subprocess.run(
                [path, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2], sys.executable)"],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            told, _blank, executable = probe.stdout.strip().partition(" ")
            if probe.returncode == 0 and told == version:
                found[version] = executable
    return dict(sorted(found.items(), key=lambda item: int(item[0].partition(".")[2])))


def sanity_home():
    """A home folder for ansible-test, which keeps its environments there and passes pip nothing of ours but HOME."""
    home = CACHE / "home"
    (home / ".config" / "pip").mkdir(parents=True, exist_ok=True)
    settings = subprocess.run(
        [BIN / "python", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    lines = ["[global]", "disable-pip-version-check = 1"]
    for name in (
        "index-url",
        "extra-index-url",
        "trusted-host",
        "cert",
        "proxy",
        "find-links",
        "timeout",
        "default-timeout",
    ):
        for value in re.findall(r"^(?::env:|global|install)\.%s='(.*)'$" % name, settings, re.MULTILINE)[-1:]:
            lines.append("%s = %s" % (name.replace("default-", ""), value.replace("\\n", "\n    ").strip()))
    conf = home / ".config" / "pip" / "pip.conf"
    conf.touch(mode=0o600)
    conf.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return home


def sanity(tally, _arguments):
    """ansible-test sanity on the copy: all of it, and what concerns old Pythons with the oldest ansible-core too."""
    copy = copy_tree()
    home = sanity_home()
    found = interpreters()
    begun = time.monotonic()
    ansible_test(tally, "sanity", BIN, [], found, copy, home)
    old = {version: path for version, path in found.items() if version in ("3.6", "3.7")}
    if not old:
        tally.skip("sanity for Python 3.6 and 3.7", "no such interpreter here")
    elif not made(FLOOR.name):
        tally.skip("sanity for Python 3.6 and 3.7", NO_FLOOR)
    else:
        own = own_python(FLOOR / "bin")
        tests = ["--test", "compile", "--test", "import", "--test", "validate-modules"]
        ansible_test(tally, "sanity (oldest ansible-core)", FLOOR / "bin", tests, {**old, **own}, copy, home)
    print("%.0f s; Python %s" % (time.monotonic() - begun, ", ".join(found)))


def made(environment):
    """Makes one of the other virtual environments unless it is there; whether it is."""
    return run(["make", "--no-print-directory", "-s", "%s/.test" % environment]) == 0


def own_python(folder):
    """The interpreter behind a virtual environment, as interpreters() tells it."""
    text = subprocess.check_output(
        [folder / "python", "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys._base_executable)"], text=True
    )
    version, _blank, path = text.strip().partition(" ")
    return {version: path}


def targets(tally, _arguments):
    """ansible-test units and integration on the copy, as those who contribute to collections run them: without the bed."""
    copy = copy_tree()
    environment = environment_of_ansible_test("targets", BIN, {}, sanity_home())
    transcripts = ROOT.parent / "shared" / "transcripts"
    if transcripts.is_dir():
        environment.setdefault("KONG_TRANSCRIPTS", str(transcripts))
    for command in ("units", "integration"):
        quiet(
            tally, "ansible-test " + command, [BIN / "ansible-test", command, "--local", "--color", "no"],
            cwd=copy, env=environment,
        )  # fmt: skip


def environment_of_ansible_test(name, folder, pythons, home):
    """The environment in which ansible-test of an environment sees these interpreters (version -> path) and no other.

    Nothing but links to them and the system's tools is on PATH: a version manager may leave names there that do not run.
    """
    links = CACHE / ("pythons-" + re.sub(r"\W+", "-", name))
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    for version, path in {**pythons, **own_python(folder)}.items():
        (links / ("python" + version)).symlink_to(path)
    environment = clean_environment(HOME=str(home), PATH="%s:%s:/usr/local/bin:/usr/bin:/bin" % (folder, links))
    run([folder / "python", "-B", ROOT / "tools" / "seed_ansible_test.py"], env=environment)
    return environment


def ansible_test(tally, name, folder, arguments, pythons, copy, home):
    """One run of `ansible-test sanity` out of an environment; each of its tests is one check."""
    environment = environment_of_ansible_test(name, folder, pythons, home)
    results = copy / "tests" / "output" / "junit"
    shutil.rmtree(results, ignore_errors=True)
    path = log(re.sub(r"\W+", "-", name).strip("-"))
    with open(path, "w", encoding="utf-8") as out:
        code = run(
            [folder / "ansible-test", "sanity", "--local", "--color", "no", "--junit", *arguments],
            cwd=copy, env=environment, stdout=out, stderr=out,
        )  # fmt: skip
    text = path.read_text(encoding="utf-8", errors="replace")
    before = len(tally.failed)
    for report in sorted(results.glob("*.xml")):
        test = report.stem.replace("ansible-test-sanity-", "").replace("-python-", " on Python ")
        root = xml.etree.ElementTree.parse(report).getroot()
        if root.find(".//skipped") is None:
            tally.add("%s: %s" % (name, test), root.find(".//failure") is None and root.find(".//error") is None)
    # What ansible-test has no file for is not skipped; what it could not run is, and it says why.
    for test, python, reason in re.findall(
        r"^WARNING: Skipping (?:sanity )?test [\"'](\S+?)[\"'](?: on Python (\S+))? (.*)$", text, re.MULTILINE
    ):
        if not python or not arguments or python in pythons:
            tally.skip("%s: %s%s" % (name, test, " on Python " + python if python else ""), reason.strip())
    if code:
        print(
            "\n".join(
                line for line in text.splitlines() if line.startswith(("ERROR", "FATAL", ">>>")) or "rror" in line
            )
        )
        if len(tally.failed) == before:
            tally.add(name, False, "exit code %d, see %s" % (code, path.relative_to(ROOT)))


# --- tests ------------------------------------------------------------------------------------------------------------


def pytest(tally, name, python, arguments):
    """One run of pytest."""
    report = log(name).with_suffix(".xml")
    report.unlink(missing_ok=True)
    environment = clean_environment(PATH="%s:%s" % (pathlib.Path(python).parent, os.environ.get("PATH", os.defpath)))
    code = run([python, "-B", "-m", "pytest", "--junitxml", report, *arguments], env=environment)
    if code == 5:
        tally.skip(name, "no test fits %s" % " ".join(arguments))
        return
    before = len(tally.failed)
    if report.exists():
        for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
            test = "%s: %s::%s" % (name, case.get("classname"), case.get("name"))
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                tally.failed.append(test)
            elif skipped is not None and skipped.get("type") != "pytest.xfail":
                tally.skipped.append((test, skipped.get("message", "")))
            else:
                tally.passed += 1
    if code and len(tally.failed) == before:
        tally.add(name, False, "pytest ended with exit code %d" % code)


def unit(tally, arguments):
    """Unit tests."""
    pytest(tally, "unit", BIN / "python", chosen(arguments, UNIT))


def chosen(arguments, folder):
    """The arguments for pytest, with the whole folder where they name no file or test of it."""
    named = any(pathlib.Path(argument.split("::")[0]).exists() for argument in arguments)
    return [*arguments] if named else [*arguments, folder]


def another(tally, name, environment, reason):
    """Unit tests and the scenario marked for it, with another ansible-core."""
    if not made(environment.name):
        tally.skip(name, reason)
        return
    pytest(tally, name + "-unit", environment / "bin" / "python", ["-q", UNIT])
    pytest(tally, name + "-scenario", environment / "bin" / "python", ["-m", "floor", INTEGRATION])


def floor(tally, _arguments):
    """Unit tests and one upgrade with the oldest ansible-core that the collection supports."""
    another(tally, "floor", FLOOR, NO_FLOOR)


def newest(tally, _arguments):
    """Unit tests and one upgrade with the newest ansible-core."""
    another(tally, "newest", NEWEST, "no environment with the newest ansible-core, which needs Python 3.12 or newer")


def integration(tally, arguments):
    """Scenarios on the bed. Two at a time: most of their time is waiting."""
    pytest(tally, "integration", BIN / "python", ["-n", "2", "--dist", "loadfile", "--durations=15", *chosen(arguments, INTEGRATION)])


PARTS = {part.__name__: part for part in (packages, lint, docs, sanity, targets, unit, floor, newest, integration)}


class Beside:
    """lint, docs, sanity and targets in a process of their own: they use one processor, the unit tests another."""

    def __init__(self, parts):
        self.parts = parts
        self.result = CACHE / "beside.json"
        self.log = log("beside")
        made(FLOOR.name)  # both would make it
        with open(self.log, "w", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-B", __file__, *parts],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=dict(os.environ, RUN_TESTS_TALLY=str(self.result)),
            )

    def join(self, tally):
        """Waits, shows what was printed, and adds what was found."""
        self.process.wait()
        print(self.log.read_text(encoding="utf-8", errors="replace").rstrip(), flush=True)
        if self.process.returncode:
            tally.add(" and ".join(self.parts), False, "ended with exit code %d" % self.process.returncode)
            return
        found = json.loads(self.result.read_text(encoding="utf-8"))
        tally.passed += found["passed"]
        tally.failed += found["failed"]
        tally.skipped += [tuple(entry) for entry in found["skipped"]]


def run_parts(words, arguments, tally):
    """Runs the parts in order; lint, docs, sanity and targets beside the unit tests, where both are wanted."""
    parts = [word for word in words if word in ("lint", "docs", "sanity", "targets")] if "unit" in words else []
    beside = None
    for word in words:
        if word in parts:
            beside = beside or Beside(parts)
            continue
        if beside and word not in ("unit", "floor", "newest"):
            beside.join(tally)
            beside = None
        started = time.monotonic()
        title("%s: %s" % (word, PARTS[word].__doc__.splitlines()[0]))
        PARTS[word](tally, arguments)
        print("---- %s took %.0f s" % (word, time.monotonic() - started), flush=True)
    if beside:
        beside.join(tally)


def main(words):
    """Runs the parts and returns the exit code."""
    words, arguments = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    unknown = [word for word in words if word not in PARTS]
    if unknown or not words:
        print("usage: run_tests.py PART... [-- PYTEST_ARGUMENT...]; parts: %s" % ", ".join(PARTS), file=sys.stderr)
        return 2
    os.chdir(ROOT)
    CACHE.mkdir(exist_ok=True)
    tally = Tally()
    begun = time.monotonic()
    run_parts(words, arguments, tally)
    if os.environ.get("RUN_TESTS_TALLY"):
        result = {"passed": tally.passed, "failed": tally.failed, "skipped": tally.skipped}
        pathlib.Path(os.environ["RUN_TESTS_TALLY"]).write_text(json.dumps(result), encoding="utf-8")
        return 0
    print()
    reasons = collections.Counter(reason for _name, reason in tally.skipped)
    for reason, count in reasons.items():
        names = [name for name, why in tally.skipped if why == reason]
        print("skipped (%d): %s: %s" % (count, reason, ", ".join(names[:10]) + (", ..." if count > 10 else "")))
    for name in tally.failed:
        print("failed: %s" % name)
    print("%s in %.0f s" % (", ".join(words), time.monotonic() - begun))
    print(
        "%d passed, %d failed%s"
        % (tally.passed, len(tally.failed), ", %d skipped" % len(tally.skipped) if tally.skipped else "")
    )
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
