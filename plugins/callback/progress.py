# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: stdout
short_description: An upgrade of Kong Gateway, one line for each thing that happens
version_added: "0.1.0"
description:
  - Shows a run of the playbooks of this collection in some thirty lines instead of some hundreds.
  - Each line has the time, the phase, and what was done or begins. After a step of the traffic that is the share of green, how many
    requests failed on green and on blue, and how long the rest of the steps will take. Before a batch it is how long those after it
    will take, after a phase which phases are left.
  - What is left is foretold by how long the steps and batches before have taken in this run.
  - On a terminal the last line shows the task at work. With C(-v) every task and its results are shown, as Ansible's own
    callback C(default) does.
extends_documentation_fragment:
  - ansible.builtin.default_callback
  - ansible.builtin.result_format_callback
requirements:
  - Set as the callback for stdout, with the environment variable E(ANSIBLE_STDOUT_CALLBACK) or in ansible.cfg.
author: The bluegreen.kong authors (@bluegreen)
"""

EXAMPLES = r"""
- name: Set it in ansible.cfg, or as ANSIBLE_STDOUT_CALLBACK=bluegreen.kong.progress in the environment
  community.general.ini_file:
    path: ansible.cfg
    section: defaults
    option: stdout_callback
    value: bluegreen.kong.progress
    mode: "0644"
"""

import re
import sys
import time

from ansible import constants
from ansible.plugins.callback.default import CallbackModule as Default

# What begins here takes long enough to be told before it is done: includes, told only where they are not skipped.
LONG = re.compile(r"(?:Shift|Retire|Roll|Rollback) \| (?:Traffic to|Drain) ")
GATE = re.compile(r"\w+ \| Gate$")  # its message is told with the numbers, from the fact
PHASE = re.compile(r"(?:Guard after phase|Phase) (\w+)$")


class CallbackModule(Default):
    """Prints what the role's facts and messages tell."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "bluegreen.kong.progress"

    def __init__(self):
        super().__init__()
        self.task, self.long = "", False  # long: it begins something long that is not told yet
        self.began = self.phase_began = time.monotonic()
        self.plan, self.todo = {}, []
        self.events = self.gates = self.drained = 0  # how many were told, of the phase for the last two
        self.live = sys.stdout.isatty()
        self.shown = False  # whether the last line of the terminal is that of the task at work

    # ---- what happens ----------------------------------------------------------------------------------------------

    def v2_playbook_on_play_start(self, play):
        if self._display.verbosity:
            super().v2_playbook_on_play_start(play)
        else:
            self.say("", play.get_name().strip())

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.task = task.get_name().rpartition(" : ")[2].strip()
        self.long = bool(LONG.match(self.task))
        if self._display.verbosity:
            super().v2_playbook_on_task_start(task, is_conditional)
        elif self.live:
            self.show(self.task)

    def v2_playbook_on_handler_task_start(self, task):
        self.v2_playbook_on_task_start(task, False)

    def v2_runner_on_ok(self, result):
        if self._display.verbosity:
            super().v2_runner_on_ok(result)
            return
        told = result._result
        self._handle_warnings(told)
        facts = told.get("ansible_facts") or {}
        if "__kong_upgrade_plan" in facts:
            self.plan = facts["__kong_upgrade_plan"]
        if "__kong_upgrade_todo" in facts:
            self.todo, self.events = list(facts["__kong_upgrade_todo"]), 0
            self.phase_begins()
        for gate in facts.get("__kong_upgrade_gates", [])[self.gates :]:
            self.tell_gate(gate)
        for event in facts.get("__kong_upgrade_events", [])[self.events :]:
            self.tell_event(event)
        if result._task.action in ("debug", "ansible.builtin.debug") and not GATE.match(self.task):
            for line in lines(told.get("msg")):
                self.say(self.phase(), line)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        # ignore_errors is the name that Ansible gives this argument. No task of ours has it; one of a user's own may.
        if self._display.verbosity or ignore_errors:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        told = result._result
        # The end of a run speaks of all hosts, wherever it is said.
        host = result._host.get_name() + ": " if self.phase() else ""
        for line in lines(told.get("msg") or told.get("module_stderr") or told.get("censored") or "failed"):
            self.say(self.phase(), host + line, constants.COLOR_ERROR)

    def v2_runner_on_unreachable(self, result):
        if self._display.verbosity:
            super().v2_runner_on_unreachable(result)
            return
        for line in lines(result._result.get("msg") or "unreachable"):
            self.say(self.phase(), "%s does not answer: %s" % (result._host.get_name(), line), constants.COLOR_UNREACHABLE)

    def v2_playbook_on_stats(self, stats):
        if self._display.verbosity:
            super().v2_playbook_on_stats(stats)
            return
        lost = sorted(host for host in stats.processed if stats.summarize(host)["unreachable"])
        failed = any(stats.summarize(host)["failures"] for host in stats.processed)
        color = constants.COLOR_ERROR if failed or lost else constants.COLOR_OK
        self.say("", "%s after %s" % ("Failed" if failed or lost else "Done", span(time.monotonic() - self.began)), color)

    # ---- what is told of it ----------------------------------------------------------------------------------------

    def tell_gate(self, gate):
        """A step of the traffic, with the share of failures on both sides and the steps that are left."""
        self.gates += 1
        steps = self.plan.get("steps") or []
        text = gate["message"]
        ratios = [(gate.get(side) or {}).get("ratio") for side in ("green", "blue")]
        if any(ratio is not None for ratio in ratios):
            text += " (%s)" % ", ".join(
                "%s %.2f %%" % (side, ratio) for side, ratio in zip(("green", "blue"), ratios) if ratio is not None)
        if gate["open"] and self.phase() == "shift":
            text += self.left(len(steps), self.gates, "step")
        self.say(self.phase(), text, None if gate["open"] else constants.COLOR_ERROR)

    def tell_event(self, event):
        """A phase that is over, and those that are left."""
        self.events += 1
        if event["phase"] in self.todo:
            self.todo.remove(event["phase"])
        left = "; left: %s" % ", ".join(self.todo) if self.todo and not event["failed"] else ""
        text = " ".join(lines(event["text"]))
        color = constants.COLOR_ERROR if event["failed"] else constants.COLOR_OK
        self.say(event["phase"], "%s (%s%s)" % (text, span(time.monotonic() - self.phase_began), left), color)
        self.phase_begins()

    def phase_begins(self):
        """Nothing of the phase before counts any more."""
        self.phase_began = time.monotonic()
        self.gates = self.drained = 0

    def batches_left(self):
        """The batches after the one that is drained now, and how long they will take by those before."""
        batches = self.plan.get("batches_left") or []
        if " | Drain " not in self.task or not batches:
            return ""
        text = self.left(len(batches), self.drained, "batch")
        self.drained += 1
        return text

    def left(self, all_of_them, done, what):
        """How many are left, and for how long by those that are done."""
        rest = all_of_them - done
        if rest <= 0 or not done:
            return ""
        each = (time.monotonic() - self.phase_began) / done
        return "; %d %s%s left, about %s" % (rest, what, "" if rest == 1 else "es" if what.endswith("ch") else "s", span(each * rest))

    # ---- the screen ------------------------------------------------------------------------------------------------

    def phase(self):
        """The phase of the task at work, by its name."""
        match = PHASE.match(self.task)
        return match.group(1) if match else self.task.partition(" | ")[0].lower() if " | " in self.task else ""

    def say(self, phase, text, color=None):
        """One line that stays."""
        self.show("")
        self._display.display("%s  %-9s %s" % (time.strftime("%H:%M:%S"), phase, text), color=color)

    def show(self, text):
        """The line of a terminal that tells the task at work; an empty text takes it away."""
        if self.live and (text or self.shown):
            sys.stdout.write("\r\x1b[K" + text[: self._display.columns])
            sys.stdout.flush()
        self.shown = bool(text)

    # What the default callback tells of tasks that say nothing here.
    def v2_runner_on_skipped(self, result):
        if self._display.verbosity:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_ok(self, result):
        if self._display.verbosity:
            super().v2_runner_item_on_ok(result)

    def v2_runner_item_on_skipped(self, result):
        if self._display.verbosity:
            super().v2_runner_item_on_skipped(result)

    def v2_playbook_on_include(self, included_file):
        if self._display.verbosity:
            super().v2_playbook_on_include(included_file)
        elif self.long:
            self.long = False  # hosts with another driver include another file
            self.say(self.phase(), self.task.partition(" | ")[2] + self.batches_left())


def lines(message):
    """The lines of a message, which is a text or a list of texts."""
    return [line for part in (message if isinstance(message, list) else [message]) for line in str(part).splitlines()]


def span(seconds):
    """A time that people read at a glance."""
    return "%d s" % round(seconds) if seconds < 100 else "%d min" % round(seconds / 60)
