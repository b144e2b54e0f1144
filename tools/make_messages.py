# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes every message with which the product refuses or fails into docs/troubleshooting.md, below its last heading.

Usage: make_messages.py [--check]   (--check: exit code 1 if the page is not what would be written)

The messages are read from the source: what the plan blocks on or warns of, what modules raise, what roles fail with, and
what the breaking changes ask for. What a message fills in is shown as an ellipsis.
"""

import ast
import itertools
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
MARK = "<!-- Below: made by tools/make_messages.py -->\n"
GAP = "…"
# Errors of the product are called …Error, or as below. Others are raised to be caught nearby.
ALSO_ERRORS = {"Blocked", "KongNotFound", "LockHeld", "Unreadable"}
INTERNAL = {"OSError", "RuntimeError", "SystemExit", "TypeError", "ValueError"}
# Lists that collect sentences before they are raised together.
LISTS = {"errors", "missing", "problems", "refusals"}
# Where a message comes from, by how the file's name begins; a file that is not named here is a chapter of its own.
CHAPTERS = {
    "Nodes": "_cli _conf _fence _host _node _packages _probe _process _supervisor",
    "Migrations and the database": "_apis _cassandra _database _datastore _migrat _postgres _watch",
    "Backup, export and restore": "_backup _dump",
    "Load balancers": "_haproxy _lb _nginx",
    "Templates": "_template",
    "The run's lock": "_lease kong_upgrade_run",
}


def chapter(stem):
    """The chapter of a file."""
    return next((title for title, names in CHAPTERS.items() if stem.startswith(tuple(names.split()))), stem)


class Reader:
    """The messages of one Python file."""

    def __init__(self, path):
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.constants = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.constants.setdefault(node.targets[0].id, []).append(node.value)
        self.functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}
        self.seen = set()
        self.passed_on = []  # what holds no words of its own: the message of something else, as it is

    def texts(self, node):
        """Every text that an expression may give, what is not known before as an ellipsis."""
        if isinstance(node, ast.Constant):
            return [node.value if isinstance(node.value, str) else GAP]
        if isinstance(node, ast.JoinedStr):
            return ["".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            return self.filled(self.texts(node.left), [node.right])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return ["".join(pair) for pair in itertools.product(self.texts(node.left), self.texts(node.right))]
        if isinstance(node, ast.IfExp):
            return self.texts(node.body) + self.texts(node.orelse)
        if isinstance(node, ast.Name) and node.id in self.constants and node.id not in self.seen:
            self.seen.add(node.id)  # a name may be made of itself
            found = [text for value in self.constants[node.id] for text in self.texts(value)]
            self.seen.discard(node.id)
            return list(filter(None, found)) or found  # an empty text is what a name begins with
        if isinstance(node, (ast.List, ast.Tuple)):
            return [text for each in node.elts for text in self.texts(each)] or [GAP]
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            return self.texts(node.elt)
        if isinstance(node, ast.BoolOp):
            return [text for value in node.values for text in self.texts(value)]
        if isinstance(node, ast.Call):
            return self.returned(node)
        return [GAP]

    def filled(self, texts, arguments):
        """Texts that are filled in, or where they have no words of their own, what they are filled with."""
        return texts if readable(texts) else [text for each in arguments for text in self.texts(each)]

    def returned(self, call):
        """Every text that a call may give: of a method of str, or of a function of this file."""
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if isinstance(call.func, ast.Attribute) and name in ("format", "rstrip", "strip"):
            return self.filled(self.texts(call.func.value), call.args)
        if isinstance(call.func, ast.Attribute) and name == "join":
            return self.texts(call.args[0])
        if name not in self.functions or name in self.seen:
            return [GAP]
        self.seen.add(name)  # a function may call itself
        values = [each.value for each in ast.walk(self.functions[name]) if isinstance(each, ast.Return) and each.value]
        found = [text for value in values for text in self.texts(value)]
        self.seen.discard(name)
        return found or [GAP]

    def findings(self):
        """(what, do) of everything that the plan blocks on or warns of."""
        for node in ast.walk(self.tree):
            pair = found_by(node)
            if pair:
                what, do = (readable(self.texts(each)) for each in pair)
                if not what:
                    self.passed_on.append(ast.unparse(pair[0]))
                for text in what:
                    yield text, " / ".join(do)

    def raised(self):
        """Every sentence that is raised, or handed to fail_json."""
        for node in ast.walk(self.tree):
            for argument in self.told(node):
                texts = readable(self.texts(argument))
                if not texts:
                    self.passed_on.append(ast.unparse(argument))
                yield from texts

    def told(self, node):
        """The expressions of a statement or call that become a message."""
        error = node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Return) else None
        if isinstance(error, ast.Call) and error.args:
            name = getattr(error.func, "id", getattr(error.func, "attr", ""))
            if (name.endswith("Error") or name in ALSO_ERRORS) and name not in INTERNAL and not found_by(error):
                return error.args[:1]
        if isinstance(node, ast.Dict):
            return [value for key, value in zip(node.keys, node.values) if getattr(key, "value", None) == "error"]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "fail_json":
                return [word.value for word in node.keywords if word.arg == "msg"]
            if node.func.attr in ("append", "extend") and listed(node.func.value) and not found_by(node.args[0]):
                return node.args
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if listed(target) and isinstance(node.value, (ast.List, ast.ListComp)):
                return [each for each in getattr(node.value, "elts", [node.value]) if not found_by(each)]
        return []


def found_by(node):
    """The expressions (what, do) of a finding of the plan, however it is written; None for anything else."""
    if isinstance(node, ast.Dict):
        entries = {getattr(key, "value", None): value for key, value in zip(node.keys, node.values)}
        return (entries["what"], entries["do"]) if {"what", "do"} <= set(entries) else None
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
        return tuple(node.value.elts) if all(map(sentence, node.value.elts)) else None
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name == "KnowledgeError" and len(node.args) == 2:
            return tuple(node.args)
        method = name in ("block", "later", "warn") and getattr(node.func.value, "id", "") == "found"
        if len(node.args) >= 3 and (method or name in ("problem", "tell")):
            return tuple(node.args[1:3])
    return None


def sentence(node):
    """Whether an expression is written as a sentence, filled in or not."""
    node = node.left if isinstance(node, ast.BinOp) else node
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value


def listed(node):
    """Whether a name or an attribute is one of the lists that collect sentences."""
    return getattr(node, "id", getattr(node, "attr", "")) in LISTS


def readable(texts):
    """The texts that say something by themselves, each once, with their gaps."""
    found = []
    for text in texts:
        text = re.sub(r"%(?:\(\w+\))?[-.\d]*[sdrfg]|\{[\w.!:]*\}", GAP, text).replace("%%", "%")
        text = re.sub(r"…(?:\s*…)+", GAP, " ".join(text.split()))
        if re.search(r"[A-Za-z]{2,}", text) and text not in found:
            found.append(text)
    return found


def of_roles():
    """What the role's tasks fail with."""
    for path in sorted((ROOT / "roles").rglob("tasks/**/*.yml")):
        for task in tasks_of(yaml.safe_load(path.read_text(encoding="utf-8")) or []):
            message = (task.get("ansible.builtin.fail") or {}).get("msg")
            if message:
                # The texts of an expression, or the sentence around it.
                message = re.sub(r"'\s*~[^']*~\s*'", GAP, message)
                quoted = [text for text in re.findall(r"'((?:[^'\\]|\\.)+)'", message) if " " in text]
                plain = re.sub(r"\{\{.*?\}\}", GAP, message, flags=re.DOTALL)
                yield from readable([plain, *(text.replace("\\'", "'") for text in quoted)])


def tasks_of(tasks):
    """Every task of a file, those in blocks too."""
    for task in tasks:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks_of(task.get(part) or [])


def collect():
    """{"plan": [(what, do)], "chapters": {title: [message]}}, in the order of the source."""
    plan, chapters = {}, {title: {} for title in CHAPTERS}
    chapters["Phases of the role"] = dict.fromkeys(of_roles())
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        reader = Reader(path)
        if not {"modules", "module_utils"} & set(path.parts):
            for what, do in reader.findings():
                plan.setdefault(what, do)
            for text in reader.raised():
                plan.setdefault(text, "")
        else:
            messages = dict.fromkeys(reader.raised())
            if messages:
                chapters.setdefault(chapter(path.stem), {}).update(messages)
    return {"plan": list(plan.items()), "chapters": {title: list(found) for title, found in chapters.items()}}


def cell(text):
    """A text in Markdown, as it is."""
    return re.sub(r"([|*<>\[\]]|\b_|_\b)", r"\\\1", text)


def page(found):
    """The made part of the page."""
    hazards = yaml.safe_load((ROOT / "plugins/plugin_utils/knowledge/hazards.yml").read_text(encoding="utf-8"))["hazards"]
    lines = ["### What the plan finds", "", "| what | what to do |", "|---|---|"]
    lines += ["| %s | %s |" % (cell(what), cell(do)) for what, do in sorted(found["plan"], key=lambda row: row[0].lower())]
    for title, messages in found["chapters"].items():
        lines += ["", "### " + title, ""] + ["- " + cell(text) for text in sorted(messages, key=str.lower)]
    lines += ["", "### Breaking changes", "", "By the id that the plan tells, and that `kong_upgrade_accepted_hazards` takes.", ""]
    lines += ["| id | what | what to do |", "|---|---|---|"]
    for key, hazard in sorted(hazards.items()):
        lines.append("| `%s` | %s | %s |" % (key, cell(hazard["summary"]), cell(hazard.get("action") or "")))
    return "\n".join(lines) + "\n"


def main():
    """Exit code 0 if the page is, or was made, what it has to be."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = text[: text.index(MARK) + len(MARK)] + "\n" + page(collect())
    if "--check" in sys.argv[1:]:
        return 0 if text == wanted else "docs/troubleshooting.md misses what the source says: run `make messages`"
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
