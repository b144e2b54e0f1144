# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pathlib
import re
from types import SimpleNamespace

import pytest
from ansible_collections.bluegreen.kong.plugins.callback import progress

GATE = {
    "open": True, "message": "25 %: green 1 of 89 requests failed, blue 0 of 274, in 30.0 s: within the budget of 0.5 percentage points",
    "green": {"ratio": 1.124}, "blue": {"ratio": 0.0},
}  # fmt: skip


class Screen:
    verbosity, columns = 0, 100

    def __init__(self):
        self.lines = []

    def display(self, text, color=None, **dummy):
        self.lines.append(text[10:])  # without the time


@pytest.fixture(name="told")
def fixture_told(monkeypatch):
    """A callback and what it puts on the screen; its clock stands still until it is set."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    callback = progress.CallbackModule()
    callback._display = Screen()
    callback.live = False

    def task(name, seconds=0, action="set_fact", included=0, **result):
        callback.v2_playbook_on_task_start(SimpleNamespace(get_name=lambda: "bluegreen.kong.kong_upgrade : " + name), False)
        for dummy in range(included):
            callback.v2_playbook_on_include(None)
        clock.now += seconds
        if result:
            callback.v2_runner_on_ok(SimpleNamespace(_result=result, _task=SimpleNamespace(action=action), _host=None))
        found, callback._display.lines = callback._display.lines, []
        return found

    task.callback = callback
    task("Plan | Put together", ansible_facts={"__kong_upgrade_plan": {"steps": [10, 25, 100], "batches_left": ["a", "b"]}})
    task("Plan | What this run does", ansible_facts={"__kong_upgrade_todo": ["stage", "shift", "retire"]})
    return task


def test_a_step_tells_failures_and_what_is_left(told):
    begins = "Traffic to green, then watch, 10 % for 30 s"
    assert told("Shift | " + begins, included=2) == ["shift     " + begins]
    assert told("Shift | Judge green against blue", 33, ansible_facts={"__kong_upgrade_gates": [GATE]}) == [
        "shift     " + GATE["message"] + " (green 1.12 %, blue 0.00 %); 2 steps left, about 66 s"
    ]
    assert told("Shift | Gate", action="ansible.builtin.debug", msg=GATE["message"]) == [], "it is told already"
    (line,) = told("Shift | Judge green against blue", 40, ansible_facts={"__kong_upgrade_gates": [GATE] * 2})
    assert line.endswith("1 step left, about 36 s")
    assert "left" not in told("Shift | Judge green against blue", 1, ansible_facts={"__kong_upgrade_gates": [GATE] * 3})[0]


def test_a_step_that_is_skipped_is_not_told(told):
    """Else a run that has stopped at 10 % would speak of 100 % of the traffic."""
    assert told("Shift | Traffic to green, then watch, 100 % for 30 s") == []
    assert told("Shift | Stop, with the numbers", included=1) == []


def test_a_gate_that_is_shut_foretells_nothing(told):
    assert "left" not in told("Shift | Judge green against blue", 3, ansible_facts={"__kong_upgrade_gates": [{**GATE, "open": False}]})[0]


def test_a_phase_tells_its_time_and_the_phases_left(told):
    events = [{"phase": "stage", "failed": False, "text": "checked"}]
    assert told("Guard after phase stage", 12, ansible_facts={"__kong_upgrade_events": events}) == [
        "stage     checked (12 s; left: shift, retire)"
    ]
    events.append({"phase": "shift", "failed": True, "text": "stopped"})
    assert told("Guard after phase shift", 5, ansible_facts={"__kong_upgrade_events": events}) == ["shift     stopped (5 s)"]


def test_batches_tell_how_many_are_left(told):
    assert told("Retire | Drain a (one, two)", 200, included=1) == ["retire    Drain a (one, two)"]
    assert told("Retire | Drain b (three)", included=1) == ["retire    Drain b (three); 1 batch left, about 3 min"]


def test_messages_are_shown_and_other_tasks_are_not(told):
    assert told("Stage | Render", changed=True) == []
    assert told("Plan | Tell what will happen", action="debug", msg=["Kong 2.1.4", "two\nlines"]) == [
        "plan      Kong 2.1.4", "plan      two", "plan      lines"
    ]


def test_failures_name_the_host(told):
    told("Start | Start green")
    host = SimpleNamespace(get_name=lambda: "green1")
    told.callback.v2_runner_on_failed(SimpleNamespace(_result={"msg": "it does not start"}, _task=None, _host=host))
    told.callback.v2_runner_on_unreachable(SimpleNamespace(_result={"msg": "no route"}, _task=None, _host=host))
    assert told.callback._display.lines == ["start     green1: it does not start", "start     green1 does not answer: no route"]
    told("End as failed if something stood in the way")
    told.callback.v2_runner_on_failed(SimpleNamespace(_result={"msg": "1 problem\nold1: unreachable"}, _task=None, _host=host))
    assert [line.strip() for line in told.callback._display.lines] == ["1 problem", "old1: unreachable"]


def test_the_role_has_what_is_listened_to():
    root = pathlib.Path(progress.__file__).resolve().parents[2]
    tasks = "\n".join(path.read_text(encoding="utf-8") for path in (root / "roles" / "kong_upgrade" / "tasks").rglob("*.yml"))
    facts = set(re.findall(r'"(__kong_upgrade_\w+)"', pathlib.Path(progress.__file__).read_text(encoding="utf-8")))
    assert len(facts) == 4
    assert [fact for fact in facts if not re.search(r"^ +%s:" % fact, tasks, re.MULTILINE)] == []
    names = re.findall(r"- name: (.+)", tasks)
    assert {name.partition(" | ")[0] for name in names if progress.LONG.match(name)} == {"Shift", "Retire", "Roll", "Rollback"}
    assert {name for name in names if progress.GATE.match(name)} == {"Shift | Gate", "Roll | Gate"}
    assert [name for name in names if name.startswith("Guard after phase {{")] != []
