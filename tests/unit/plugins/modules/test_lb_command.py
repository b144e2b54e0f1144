# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""lb_command with a load balancer that is a folder: one file for each server holds its weight."""

import json
import pathlib
import sys
import time

import pytest
from ansible_collections.bluegreen.kong.plugins.modules import lb_command

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import fake_module

# What a command does: $1 is its name, $2 the folder. `broken` lists commands that fail, `stuck` servers whose weight
# cannot be changed, `log` collects what was run.
PROGRAM = r"""
name=$1 folder=$2 server=$KONG_UPGRADE_SERVER weight=$KONG_UPGRADE_WEIGHT pool=$2/$KONG_UPGRADE_BACKEND
number() { found=; read -r found < "$1" || [ "$found" ]; }
contains() { [ -f "$folder/$1" ] && grep -qxF -e "$2" -e "$3" "$folder/$1"; }
set -- $name $KONG_UPGRADE_BACKEND $server $weight $KONG_UPGRADE_STATE
echo "$*" >> "$folder/log"
if contains broken "$name" "$name:$server"; then echo no way >&2; exit 1; fi
case $name in
weights)
    sep={
    for file in "$pool"/*; do number "$file"; printf '%s"%s": %s' "$sep" "${file##*/}" "$found"; sep=', '; done
    echo } ;;
set_weight | drain) contains stuck "$server" "$server" || printf %s "$weight" > "$pool/$server" ;;
sessions)
    found=0; [ ! -f "$folder/sessions.$server" ] || number "$folder/sessions.$server"
    echo "$found"; [ "$found" -eq 0 ] || echo $((found - 1)) > "$folder/sessions.$server" ;;
counters) head -n 1 "$folder/counters"; [ "$(wc -l < "$folder/counters")" -lt 2 ] || sed -i 1d "$folder/counters" ;;
up)
    [ -f "$folder/down.$server" ] || exit 0
    number "$folder/down.$server"
    if [ "$found" -gt 1 ]; then echo $((found - 1)) > "$folder/down.$server"; else rm "$folder/down.$server"; fi
    exit 1 ;;
esac
"""
ALWAYS = ("weights", "set_weight", "sessions")


class Balancer:
    """The folder, and runs of the module on it."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        (folder / "program").write_text(PROGRAM)
        self.pool("default", b1=100, b2=100, g1=0, g2=0)

    def pool(self, backend, **weights):
        (self.folder / backend).mkdir(exist_ok=True)
        for server, weight in weights.items():
            (self.folder / backend / server).write_text(str(weight))

    def weights(self, backend="default"):
        return {path.name: int(path.read_text()) for path in (self.folder / backend).iterdir()}

    def put(self, name, text):
        """A file of this text, or of one line of JSON for each item of a list."""
        lines = [text] if isinstance(text, str) else map(json.dumps, text)
        (self.folder / name).write_text("".join(line + "\n" for line in lines))

    def log(self):
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def changes(self):
        return [line for line in self.log() if line.split()[0] in ("set_weight", "drain", "ready", "apply")]

    def run(self, *names, check=False, diff=False, commands=None, **params):
        given = {name: ["/bin/sh", str(self.folder / "program"), name, str(self.folder)] for name in ALWAYS + names}
        given.update(commands or {})
        params = {"commands": given, "command_timeout": 5, **params}
        return fake_module.run(lb_command, self.monkeypatch, params, None, check, diff)


@pytest.fixture(name="balancer")
def fixture_balancer(tmp_path, monkeypatch):
    monkeypatch.setattr("ansible_collections.bluegreen.kong.plugins.module_utils._lb.POLL", 0.01)
    monkeypatch.setattr("ansible_collections.bluegreen.kong.plugins.module_utils._lb.STEP", 0.05)
    return Balancer(tmp_path, monkeypatch)


def weights(**numbers):
    return [{"name": name, "weight": weight} for name, weight in numbers.items()]


def test_looking_runs_every_command_that_reads(balancer):
    balancer.put("counters", [{"b1": {"requests": 7, "failures": 1}}])
    balancer.put("down.g1", "9")
    end = balancer.run("up", "counters")
    assert not end.failed and not end.result["changed"] and balancer.changes() == []
    found = {server["name"]: server for server in end.result["load_balancer"]["servers"]}
    assert end.result["load_balancer"]["counted"]
    assert found["b1"] == {
        "backend": "default", "name": "b1", "weight": 100, "admin_state": "ready", "status": "UP", "sessions": 0,
        "counters": {"requests": 7, "failures": 1},
    }
    assert (found["g1"]["status"], found["g1"]["admin_state"], found["g1"]["counters"]) == ("DOWN", "drain", None)


@pytest.mark.parametrize("name", ["weights", "sessions", "counters"])
def test_looking_tells_of_a_command_that_does_not_work(balancer, name):
    balancer.put("broken", name)
    balancer.put("counters", [{}])
    end = balancer.run("counters")
    assert end.failed and f"commands.{name}" in end.result["msg"] and "no way" in end.result["msg"]


def test_without_up_and_counters(balancer):
    answer = balancer.run().result["load_balancer"]
    assert not answer["counted"] and {server["status"] for server in answer["servers"]} == {"no check"}


def test_increases_come_first_and_it_is_read_back(balancer):
    end = balancer.run(servers=weights(b1=0, b2=50, g1=50, g2=100), diff=True)
    assert not end.failed and end.result["changed"]
    assert balancer.weights() == {"b1": 0, "b2": 50, "g1": 50, "g2": 100}
    assert balancer.changes() == [
        "set_weight default g1 50", "set_weight default g2 100", "set_weight default b1 0", "set_weight default b2 50"]
    assert end.result["diff"][0]["before"].splitlines()[0] == "default/b1: weight 100"
    assert end.result["diff"][0]["after"].splitlines()[0] == "default/b1: weight 0"


def test_again_changes_nothing(balancer):
    end = balancer.run(servers=weights(b1=100, b2=100, g1=0))
    assert not end.failed and not end.result["changed"] and balancer.changes() == []


def test_check_mode_only_reads_weights(balancer):
    end = balancer.run("up", "counters", check=True, servers=weights(g1=10), wait={"up": ["g1"]}, observe=5)
    assert end.result["changed"] and {line.split()[0] for line in balancer.log()} == {"weights"}
    assert {s["name"]: s["weight"] for s in end.result["load_balancer"]["servers"]}["g1"] == 10


def test_apply_sets_every_server_and_runs_once(balancer):
    assert not balancer.run("apply", servers=weights(b1=90, g1=50)).failed
    assert balancer.changes() == [
        "set_weight default g1 50", "set_weight default b2 100", "set_weight default g2 0", "set_weight default b1 90",
        "apply default"]


def test_the_shell_and_the_environment(balancer):
    balancer.pool("default", **{"a b;$x": 5})
    text = f'printf %s "$KONG_UPGRADE_WEIGHT" > "{balancer.folder}/default/$KONG_UPGRADE_SERVER"'
    end = balancer.run(servers=[{"name": "a b;$x", "weight": 7}], commands={"set_weight": text})
    assert not end.failed, end.result
    assert balancer.weights()["a b;$x"] == 7


def test_no_server_left_is_refused_before_any_change(balancer):
    end = balancer.run(servers=weights(b1=0, b2=0))
    assert end.failed and "no server would be left" in end.result["msg"] and balancer.changes() == []
    end = balancer.run(servers=weights(b1=0, b2=0), check=True)
    assert not end.failed and "no server would be left" in end.result["refused"][0]
    assert "This would be refused" in end.result["warnings"][0]


def test_servers_that_are_down_do_not_count(balancer):
    balancer.put("down.g1", "99")
    end = balancer.run("up", servers=weights(b1=0, b2=0, g1=100))
    assert end.failed and "is up: default/g1" in end.result["msg"] and balancer.changes() == []


@pytest.mark.parametrize("params, words", [
    ({"servers": weights(nobody=1)}, "prints no server nobody"),
    ({"servers": weights(b1=-1)}, "weight of b1 is -1"),
    ({"servers": weights(b1=1) + weights(b1=2)}, "named twice"),
    ({"servers": [{"name": "b1", "weight": 3, "state": "drain"}]}, "cannot have the weight 3"),
    ({"wait": {"up": ["nobody"]}}, "wait.up: commands.weights prints no server"),
    ({"wait": {"sessions_zero": ["b1"]}}, "goes on getting new requests"),
    ({"observe_stop": {"watch": ["nobody"]}}, "observe_stop.watch"),
    ({"backends": []}, "backends: the list is empty"),
    ({"commands": {"up": []}}, "commands.up: give a text"),
    ({"commands": {"weights": "echo hello"}}, "printed no JSON"),
    ({"commands": {"weights": "echo '[]'"}}, "no JSON object"),
    ({"commands": {"weights": """echo '{"b1": -1}'"""}}, "not a whole number"),
    ({"commands": {"weights": """echo '{"b1": Infinity}'"""}}, "not a whole number"),
    ({"commands": {"weights": ["/nowhere/at/all"]}}, "commands.weights: /nowhere/at/all cannot be run"),
    ({"commands": {"apply": ["no-such-program-", 1]}}, "commands.apply: no-such-program- cannot be run"),
    ({"commands": {"sessions": "echo many"}}, "printed 'many', not a number"),
    ({"commands": {"counters": """echo '{"b1": 5}'"""}}, "expected {"),
])
def test_bad_input(balancer, params, words):
    end = balancer.run(**params)
    assert end.failed and words in end.result["msg"] and not end.result["changed"], end.result
    assert balancer.changes() == []


def test_a_program_that_only_changes_is_looked_for_too(balancer):
    end = balancer.run(commands={"set_weight": ["/nowhere/drv", "set_weight"], "drain": [str(balancer.folder)]})
    assert end.failed and balancer.log() == []
    assert [problem.split(" cannot")[0] for problem in end.result["problems"]] == [
        "commands.set_weight: /nowhere/drv", "commands.drain: %s" % balancer.folder]


def test_all_problems_in_one_list(balancer):
    end = balancer.run(servers=weights(nobody=1, b1=-1), wait={"up": ["g9"]})
    assert len(end.result["problems"]) == 3 and end.result["msg"].startswith("3 problems: (1)")


def test_a_failure_puts_everything_back(balancer):
    balancer.put("broken", "set_weight:b2")
    end = balancer.run(servers=weights(g1=50, b1=10, b2=10))
    assert end.failed and end.result["put_back"] and not end.result["changed"]
    assert end.result["problems"] == [
        "commands.set_weight for default/b2: ended with exit code 1: no way. What this call had set was put back."]
    assert balancer.weights() == {"b1": 100, "b2": 100, "g1": 0, "g2": 0}


def test_what_is_not_read_back_fails_and_is_put_back(balancer):
    balancer.put("stuck", "g1")
    end = balancer.run(servers=weights(g1=50, b1=10), command_timeout=1)
    assert end.failed and "prints 0 after it was set to 50" in end.result["msg"] and end.result["put_back"]
    assert balancer.weights() == {"b1": 100, "b2": 100, "g1": 0, "g2": 0}


def test_a_failing_apply_is_put_back(balancer):
    balancer.put("broken", "apply")
    end = balancer.run("apply", servers=weights(g1=50))
    assert end.failed and not end.result["put_back"]
    first, second = end.result["problems"]  # what went wrong, and why it could not be put back
    assert first.endswith("no way. What this call had set could not all be put back.") and second.startswith("commands.apply")
    assert balancer.weights()["g1"] == 0


def test_a_command_that_hangs_is_ended_with_its_children(balancer):
    begun = time.monotonic()
    mark = balancer.folder / "outlived"
    text = f"(sleep 4; touch {mark}) & sleep 30"
    end = balancer.run(servers=weights(g1=1), commands={"set_weight": text}, command_timeout=1)
    assert end.failed and "has not ended after 1 s" in end.result["msg"] and time.monotonic() - begun < 4
    time.sleep(max(0, begun + 4.5 - time.monotonic()))
    assert not mark.exists()


def test_a_daemon_that_a_command_leaves_is_not_waited_for(balancer):
    begun = time.monotonic()
    text = f'sleep 3 & printf %s 1 > "{balancer.folder}/default/$KONG_UPGRADE_SERVER"'
    assert not balancer.run(servers=weights(g1=1), commands={"set_weight": text}).failed
    assert time.monotonic() - begun < 2.5


def test_up_is_waited_for_before_any_weight(balancer):
    balancer.put("down.g1", "2")
    end = balancer.run("up", servers=weights(g1=50), wait={"up": ["g1"]})
    assert not end.failed, end.result
    names = [line.split()[0] for line in balancer.log() if "g1" in line]
    assert names == ["up", "up", "up", "set_weight"]


def test_one_that_does_not_come_up_gets_nothing(balancer):
    balancer.put("down.g1", "9999")
    end = balancer.run("up", servers=weights(g1=50), wait={"up": ["g1"], "timeout": 0})
    assert end.failed and "Not up after 0 s" in end.result["msg"] and balancer.changes() == []


def test_drain_and_ready(balancer):
    end = balancer.run("drain", "ready", servers=[{"name": "b1", "state": "maint"}], wait={"sessions_zero": ["b1"]})
    assert not end.failed and balancer.changes() == ["drain default b1 0 maint"] and balancer.weights()["b1"] == 0
    end = balancer.run("drain", "ready", servers=[{"name": "b1", "state": "drain"}])
    assert not end.failed and not end.result["changed"] and balancer.changes()[-1] == "drain default b1 0 drain"
    end = balancer.run("drain", "ready", servers=[{"name": "b1", "state": "ready", "weight": 100}])
    assert balancer.changes()[-2:] == ["ready default b1 0 ready", "set_weight default b1 100 ready"] and end.result["changed"]


def test_without_drain_the_weight_does(balancer):
    balancer.run(servers=[{"name": "b1", "state": "drain"}])
    assert balancer.changes() == ["set_weight default b1 0 drain"]


def test_a_failure_undoes_ready_and_drain(balancer):
    balancer.put("broken", "set_weight:b2")
    servers = [{"name": "b1", "state": "drain"}, {"name": "g1", "state": "ready", "weight": 50}, {"name": "b2", "weight": 5}]
    end = balancer.run("drain", "ready", servers=servers)
    assert end.failed and end.result["put_back"]
    assert balancer.weights() == {"b1": 100, "b2": 100, "g1": 0, "g2": 0}
    assert "ready default b1 100 ready" in balancer.changes() and "drain default g1 0 drain" in balancer.changes()


def test_sessions_are_waited_for(balancer):
    balancer.put("sessions.b1", "3")
    end = balancer.run(servers=weights(b1=0), wait={"sessions_zero": ["b1"]})
    assert not end.failed and balancer.log().count("sessions default b1") == 4 and end.result["sessions_left"] == []


@pytest.mark.parametrize("on_timeout", ["fail", "cut"])
def test_sessions_left(balancer, on_timeout):
    balancer.put("sessions.b1", "999")
    wait = {"sessions_zero": ["b1"], "timeout": 0, "on_timeout": on_timeout}
    end = balancer.run(servers=weights(b1=0), wait=wait)
    assert end.failed == (on_timeout == "fail") and end.result["changed"]
    assert end.result["sessions_left"] == [{"backend": "default", "server": "b1", "sessions": 999}]
    assert "default/b1 999" in (end.result["msg"] if end.failed else end.result["warnings"][0])
    assert balancer.weights()["b1"] == 0


def test_window(balancer):
    balancer.put("counters", [
        {"b1": {"requests": 100, "failures": 1}, "g1": {"requests": 50, "failures": 5}},
        {"b1": {"requests": 160, "failures": 2}, "g1": {"requests": 4, "failures": 0}, "g2": {"requests": 3, "failures": 0}},
    ])
    window = balancer.run("counters", servers=weights(g1=50), observe=0.05).result["window"]
    assert window["counted"] and window["stopped"] is None and window["seconds"] >= 0.05
    assert [(s["name"], s["reset"], s["counters"]["requests"], s["counters"]["failures"]) for s in window["servers"]] == [
        ("b1", False, 60, 1), ("g1", True, 4, 0), ("g2", False, 3, 0)]


def test_a_window_without_counters_says_so(balancer):
    window = balancer.run(servers=weights(g1=50), observe=0.05).result["window"]
    assert window["counted"] is False and window["servers"] == []


def test_a_soak_that_goes_badly_is_cut_short(balancer):
    rows = [{"b1": {"requests": 100 * n, "failures": n}, "g1": {"requests": 20 * n, "failures": 5 * n}} for n in range(1, 9)]
    balancer.put("counters", rows)
    begun = time.monotonic()
    stop = {"watch": ["g1"], "against": ["b1", "b2"], "budget": 0.01, "minimum": 30}
    window = balancer.run("counters", servers=weights(g1=50), observe=20, observe_stop=stop).result["window"]
    assert window["stopped"].startswith("10 of 40 requests failed at g1") and time.monotonic() - begun < 10


@pytest.mark.parametrize("times, ends", [("1", False), ("99", True)])
def test_a_server_that_goes_down_ends_the_soak(balancer, times, ends):
    text = f'[ -f "{balancer.folder}/begun" ] || printf {times} > "{balancer.folder}/down.g1"; touch "{balancer.folder}/begun"; echo "{{}}"'
    stop = {"watch": ["g1", "g2"], "against": ["b1"]}
    window = balancer.run("up", servers=weights(g1=50), observe=0.3, observe_stop=stop, commands={"counters": text}).result["window"]
    assert window["stopped"] == ("No longer up, says commands.up: default/g1" if ends else None)


def test_somebody_else_changes_it_meanwhile(balancer):
    text = f"echo 77 > {balancer.folder}/default/g1; echo '{{}}'"
    end = balancer.run(servers=weights(g1=50), observe=0.01, commands={"counters": text})
    assert end.failed and "no longer has the weight" in end.result["msg"]


def test_several_backends(balancer):
    balancer.pool("tcp", b1=1, g1=0)
    end = balancer.run(backends=["default", "tcp"], servers=[{"name": "g1", "weight": 9}, {"name": "b1", "backend": "tcp", "weight": 0}])
    assert not end.failed, end.result
    assert balancer.weights("tcp") == {"b1": 0, "g1": 9} and balancer.weights()["g1"] == 9 and balancer.weights()["b1"] == 100
