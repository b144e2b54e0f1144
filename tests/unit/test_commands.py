# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every command that README and guides show can be given as it stands there, and is run by a test.

A command is read by the parser of its own program. What runs it goes into the report of the tests (the property `run_by`).
"""

import ast
import contextlib
import functools
import importlib.util
import io
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap

import pytest
import yaml
from ansible.cli.adhoc import AdHocCLI
from ansible.cli.doc import DocCLI
from ansible.cli.galaxy import GalaxyCLI
from ansible.cli.playbook import PlaybookCLI
from ansible.cli.vault import VaultCLI
from ansible.parsing.splitter import parse_kv
from ansible_collections.bluegreen.kong.plugins.plugin_utils import survey

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "roles").glob("*/README.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# What stands between commands, and words of the shell that open or close one.
BETWEEN = {"&&", "||", ";", "|"}
SHELL = {"until", "while", "do", "done", "if", "then", "fi"}


# ---- the commands ----------------------------------------------------------------------------------------------------


def blocks(path):
    """(language, text) of every block of a page."""
    return [(language, textwrap.dedent(code)) for language, code in FENCE.findall(path.read_text(encoding="utf-8"))]


def split(text):
    """The commands of a piece of shell, each as its words, without what it sets for itself alone."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if word not in BETWEEN:
                words.append(word)
                continue
            while words and (words[0] in SHELL or re.match(r"[A-Z_]+=", words[0])):
                words.pop(0)
            if words[:2] == ["watch", "-n"]:
                words = words[3:]
            if words:
                found.append(tuple(words))
            words = []
    return found


def inline(path):
    """The commands inside the sentences of a page: spans of code that begin with one of the programs and go on."""
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", path.read_text(encoding="utf-8")))
    return [words for span in spans if span.split()[0] in PROGRAMS and " " in span for words in split(span)]


def commands():
    """command -> the pages that show it."""
    found = {}
    for path in PAGES:
        shown = [words for language, text in blocks(path) if language == "sh" for words in split(text)]
        for words in [*shown, *inline(path)]:
            found.setdefault(words, []).append(str(path.relative_to(ROOT)))
    return found


# ---- who runs them ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def scenarios():
    """(test file, function, first argument) of every call of a scenario: what it plays is among them."""
    found = []
    for path in sorted((ROOT / "tests" / "integration").glob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
                for call in ast.walk(function):
                    if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
                        found.append((path.name, function.name, call.args[0].value))
    return found


def played(name, variables=()):
    """The scenarios that play a playbook, in files that give these variables to a play or to the inventory of its bed."""
    plays = [(file, test) for file, test, first in scenarios() if first in (name + ".yml", name)]
    return ["%s::%s" % play for play in plays if all(word in text_of("tests", "integration", play[0]) for word in variables)]


def text_of(*parts):
    """A file of the repository."""
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


# ---- the programs ----------------------------------------------------------------------------------------------------


def parsed(kind, words):
    """What the parser of an Ansible program makes of a command; argparse ends the process for one that it does not understand."""
    cli = kind(list(words))
    cli.init_parser()
    return cli.parser.parse_args(list(words[1:]))


def path_of(playbook):
    """The file of a playbook, by its path in a clone or by its full name."""
    name = re.fullmatch(r"playbooks/(\w+)\.yml|bluegreen\.kong\.(\w+)", playbook)
    assert name, "%s: neither a path in a clone nor a full name" % playbook
    return ROOT / "playbooks" / ((name[1] or name[2]) + ".yml")


def ansible_playbook(words, pages):
    """The playbook is there, the variables are the role's and of their type, and a scenario plays it so."""
    if words[1:] == ("--version",):
        return ["ansible-core's own"]
    told, given = parsed(PlaybookCLI, words), {}
    for text in told.extra_vars:
        if text.startswith("@"):
            name = pathlib.Path(text[1:]).name
            assert any(name in text_of(page) for page in pages) or (ROOT / "examples" / "awx" / name).is_file()
        else:
            given.update(json.loads(text) if text.startswith("{") else parse_kv(text))
    (playbook,) = told.args
    path = path_of(playbook)
    assert path.is_file()
    if path.stem == "awx_configure":
        return played_by_path("test_awx.py", "awx_configure.yml")
    assert told.inventory == ["inventory"]
    assert survey.invalid_variables(given) == []
    return played(path.stem, set(given) - GROUPS)


# What a play chooses its hosts by, the same in all playbooks: one scenario gives the groups other names, whatever it plays.
GROUPS = {"kong_upgrade_blue_group", "kong_upgrade_green_group", "kong_upgrade_lb_group"}


def played_by_path(file, words):
    """A test file, where it has the words."""
    return [file] if words in text_of("tests", "integration", file) else []


def ansible(words, _pages):
    """The module is there and has the options, and scenarios run it, by themselves or in the role."""
    told = parsed(AdHocCLI, words)
    name = told.module_name.removeprefix("bluegreen.kong.")
    words = told.module_args or ""
    given = json.loads(words) if words.startswith("{") else parse_kv(words)
    assert told.inventory == ["inventory"] and told.args.split("[")[0] in ("kong_blue", "kong_green", "kong_lb")
    assert set(given) <= options_of(ROOT / "plugins" / "modules" / (name + ".py"))
    places = [*(ROOT / "tests" / "integration").glob("test_*.py"), *(ROOT / "roles" / "kong_upgrade" / "tasks").rglob("*.yml")]
    return [str(path.relative_to(ROOT)) for path in places if re.search(r"\b%s\b" % name, path.read_text(encoding="utf-8"))]


def options_of(path):
    """Names of the options of a module, with those that it shares."""
    told = yaml.safe_load(re.search(r'DOCUMENTATION = r"""(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL)[1])
    shared = [ROOT / "plugins" / "doc_fragments" / (name.split(".")[2] + ".py") for name in told.get("extends_documentation_fragment", [])]
    return set(told.get("options") or {}).union(*map(options_of, shared))


def ansible_doc(words, _pages):
    """It is run here: it needs nothing but the collection."""
    parsed(DocCLI, words)
    done = subprocess.run([BIN / "ansible-doc", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and words[-1].lower() in done.stdout.lower(), done.stderr  # 2.16 writes it in capitals
    return ["here"]


def ansible_galaxy(words, _pages):
    """Galaxy is out of reach of the tests, which install the built tarball."""
    told = parsed(GalaxyCLI, words)
    assert set(told.args) <= {"bluegreen.kong", "awx.awx"} and told.func.__name__ == "execute_install"
    return played_by_path("test_installed.py", '"collection", "install", "--offline"')


def ansible_vault(words, _pages):
    """A vault where Ansible finds it beside an inventory; a person writes into it."""
    told = parsed(VaultCLI, words)
    assert told.func.__name__ in ("execute_create", "execute_view")
    assert words[1] == "view" or words[2:] == ("inventory/group_vars/all/vault.yml",)
    return ["ansible-core's own; the scenarios encrypt nothing that a person types"]


def ansible_builder(words, _pages):
    """`build` is `create` and a container engine, which the tests do without."""
    with contextlib.redirect_stderr(io.StringIO()):
        told = pytest.importorskip("ansible_builder.cli", reason="no ansible-builder beside this ansible-core").parse_args(list(words[1:]))
    assert (ROOT / told.filename).is_file()
    return played_by_path("test_installed.py", '"create", "--file"')


def make(words, _pages):
    """The target is there, and takes what is given to it."""
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in words[1:]:
        assert "=" not in word or word.partition("=")[2] in done.stdout.replace("\\", ""), "%s changes nothing" % word
    return MADE_BY.get(words[1]) or ["run_tests.py"] * (words[1] in PARTS)


PARTS = re.search(r"^PARTS = .*? in \((.*)\)\}$", text_of("tools", "run_tests.py"), re.MULTILINE)[1].split(", ")
# What else runs a target of make.
MADE_BY = {
    "test": [".ci/run"],
    "demo": ["test_bed_command.py"],
    "demo-cassandra": ["test_new_keyspace.py plays what it plays; Maven and Java are not everywhere"],
    "bench": ["by hand: a measurement, whose upgrade is the demo's"],
    "messages": ["test_docs.py"],
    "requirements": ["by hand: it asks the package registry; test_repository.py compares what it wrote"],
}


def bed(words, _pages):
    """The bed from the command line."""
    assert words[1:3] == ("-m", "bed")
    done = subprocess.run(
        [sys.executable, *words[1:4], "--help"],
        env=dict(os.environ, PYTHONPATH="tests/integration"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words if word.startswith("--"))
    return played_by_path("test_bed_command.py", '"%s"' % words[3])


def pip(words, _pages):
    """What the collection needs, as it says so itself."""
    assert words[1] == "install" and set(words[2:]) <= set(re.findall(r"^([^\s#]+)", text_of("requirements.txt"), re.MULTILINE))
    return ["test_installed.py"]


def git(words, _pages):
    """The repository that the collection names."""
    assert words[1:] == ("clone", yaml.safe_load(text_of("galaxy.yml"))["repository"])
    return ["by hand: the tests run in a clone"]


def grep(words, _pages):
    """A report of status.yml is searched for what is left to do."""
    assert words[-1] == "kong-upgrade-report/status.json"
    report = json.dumps({"left": []}, indent=2)
    assert subprocess.run([*words[:-1]], input=report, text=True, check=False).returncode == 0
    return ["here"]


def of_the_shell(_words, _pages):
    """Nothing of ours."""
    return ["bash -n"]


PROGRAMS = {
    "ansible-playbook": ansible_playbook,
    "ansible": ansible,
    "ansible-doc": ansible_doc,
    "ansible-galaxy": ansible_galaxy,
    "ansible-vault": ansible_vault,
    "ansible-builder": ansible_builder,
    "make": make,
    ".venv/bin/python": bed,
    "pip": pip,
    "git": git,
    "grep": grep,
    "cd": of_the_shell,
    "export": of_the_shell,
    "sleep": of_the_shell,
}


# ---- the tests -------------------------------------------------------------------------------------------------------


COMMANDS = commands()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_can_be_given_and_is_run_by_a_test(words, record_property):
    assert words[0] in PROGRAMS, "say in PROGRAMS how it is checked"
    run_by = PROGRAMS[words[0]](words, COMMANDS[words])
    assert run_by, "no test runs it"
    for name in run_by:
        record_property("run_by", name)


def test_the_commands_are_found():
    assert len(COMMANDS) > 40 and {words[0] for words in COMMANDS} == set(PROGRAMS)


SCRIPTS = {(path.name, code.splitlines()[-2].strip()) for path in PAGES for language, code in blocks(path) if language == "bash"}
# Scripts that no scenario takes out of the page, by their last line but one, and why.
NOT_TAKEN = {("cassandra.md", "done"): "cqlsh is in no package that the tests have; the scenario sends the same statements by the driver"}


@pytest.mark.parametrize("page, line", sorted(SCRIPTS - set(NOT_TAKEN)))
def test_a_script_is_run_as_it_stands_in_the_guide(page, line):
    """Several lines that belong together: a scenario takes them out of the page."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "integration").glob("test_*.py")]
    assert [text for text in texts if '"docs" / "%s"' % page in text and "```bash" in text], line


def test_only_scripts_that_are_there_are_left_out():
    assert set(NOT_TAKEN) <= SCRIPTS


def test_every_block_says_what_it_is():
    """A block without a language may hold a command that nobody looks at; `bash` is a script that a scenario takes from its page."""
    languages = {(path.name, language) for path in PAGES for language, dummy in blocks(path)}
    assert {block for block in languages if block[1] not in ("sh", "bash", "yaml", "text", "nginx", "ini", "python")} == set()


def test_the_shell_can_read_the_blocks():
    text = "\n".join(code for path in PAGES for language, code in blocks(path) if language in ("sh", "bash"))
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ansible_can_read_the_playbooks():
    """All that are shown, by path and by full name, in one go."""
    plays = [words for words in COMMANDS if words[0] == "ansible-playbook"]
    shown = sorted({word for words in plays for word in words if re.match(r"playbooks/|bluegreen", word)})
    assert len(shown) > 8
    if importlib.util.find_spec("ansible_collections.awx") is None:  # beside the newest ansible-core
        shown = [name for name in shown if "awx_configure" not in name]
    command = [BIN / "ansible-playbook", "--syntax-check", "-i", "examples/haproxy.yml", *shown]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "ansible-playbook -i inventory playbooks/nosuch.yml",
        "ansible-playbook -i inventory playbooks/plan.yml -e kong_upgrade_no_such=1",
        "ansible-playbook -i inventory playbooks/plan.yml -e kong_upgrade_soak=long",
        "ansible-playbook -i inventory playbooks/plan.yml -e kong_upgrade_confirm_restore=1",  # no scenario looks with it
        "ansible-playbook -i inventory playbooks/plan.yml -e @nosuch.yml",
        "ansible-playbook -i inventory playbooks/plan.yml --no-such-option",
        "ansible -i inventory kong_lb -m bluegreen.kong.haproxy_server_info -a nosuch=1",
        "ansible -i inventory lb -m bluegreen.kong.haproxy_server_info",
        "ansible-doc bluegreen.kong.nosuch",
        "ansible-galaxy collection instal bluegreen.kong",
        "make nosuch",
        "make demo NOSUCH=some_value",
        ".venv/bin/python -m bed up --nosuch",
        "pip install nosuch",
    ],
)
def test_a_wrong_command_is_found(command, capsys):
    (words,) = split(command)
    with pytest.raises((AssertionError, SystemExit)):
        assert PROGRAMS[words[0]](words, ["README.md"])
