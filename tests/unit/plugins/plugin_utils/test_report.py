# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import report

PLAN = {
    "source": "2.1.4", "target": "2.8.5", "strategy": "blue_green", "names": {"blue": ["b1"], "green": ["g1"]}, "left": [],
    "stands": {"percent": 0.0, "green_running": [], "phase": "expand"},
}  # fmt: skip
NO_BACKUP = {"dump": "", "external": "", "export": ""}


def step(began, *, percent=0.0, phases=(), gates=(), failure=None, **more):
    """The artifact of one step of a workflow."""
    plan = dict(PLAN, stands=dict(PLAN["stands"], percent=percent), left=list(phases))
    seen = {
        "plan": plan, "began": began, "ended": began + 10, "backup": NO_BACKUP, "owner": {"run_id": "w1"}, "gates": list(gates),
        "events": [{"phase": name, "at": began + 1 + n, "text": name, "failed": bool(failure)} for n, name in enumerate(phases)],
        "failures": [failure] if failure else [], **more,
    }  # fmt: skip
    return report.build(seen)["artifact"]


def whole(*steps, percent=100.0, **more):
    """The report of a workflow that had these steps."""
    plan = dict(PLAN, stands=dict(PLAN["stands"], percent=percent))
    seen = {"plan": plan, "began": 900.0, "ended": 960.0, "backup": NO_BACKUP, "owner": {"run_id": "w1"}, "looks": "report"}
    return report.build({**seen, "earlier": list(steps), **more})


def gate(percent, is_open=True):
    return {"percent": percent, "at": 110.0, "open": is_open, "verdict": "passed", "message": "%d %%: fine" % percent}


def test_the_report_of_a_workflow_has_all_its_steps():
    backup = {"dump": "/b/kong.pgc", "external": "", "export": ""}
    found = whole(
        step(100.0), step(200.0, phases=["stage", "backup"], backup=backup), step(300.0, phases=["shift"], gates=[gate(50), gate(100)])
    )
    assert [phase["phase"] for phase in found["phases"]] == ["stage", "backup", "shift"]
    assert [entry["percent"] for entry in found["gates"]] == [50, 100]
    assert found["seconds"] == 860.0
    assert found["backup"] == backup
    assert [str(point["percent"]) for point in found["shift"]] == ["0", "50", "100", "100"]
    assert found["stopped"] == [] and found["failure"] is None
    assert len(found["checked"]) == 4


def test_it_says_what_failed_on_the_way():
    failure = {"task": "Shift | Stop", "host": "lb1", "message": "The gate stayed shut"}
    found = whole(step(100.0), step(200.0, phases=["shift"], failure=failure), step(300.0, phases=["rollback"]), percent=0.0)
    assert found["result"] == "failed"
    assert found["failures"] == [failure]
    assert found["stopped"] == ["Kong 2.1.4 to 2.8.5: stopped in phase shift. The gate stayed shut."]
    assert found["artifact"]["percent_green"] == "0"


def test_a_host_that_has_the_trouble_itself_is_in_the_headline():
    failure = {"task": "Start", "host": "green2", "on_host": True, "message": "kong start failed: nginx: [emerg] bind()"}
    assert whole(step(200.0, phases=["start"], failure=failure))["stopped"] == [
        "Kong 2.1.4 to 2.8.5: stopped in phase start on green2. kong start failed: nginx: [emerg] bind()."
    ]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"outage": "", "partly": False}, "stopped in phase window on g1 and 1 more. It broke."),  # nothing, with ansible-core 2.16
        ({"outage": "3.04", "partly": False}, "stopped in phase window on g1 and 1 more. It broke."),
        ({"outage": "3.04", "partly": True}, "It broke. The rest of green answers; nobody was answered for 3.0 s."),
    ],
)
def test_what_a_failed_run_says_of_an_outage(more, told):
    failures = [{"task": "Start", "host": host, "on_host": True, "message": "It broke"} for host in ("g1", "g2")]
    plan = dict(PLAN, left=["window"])
    seen = {"plan": plan, "began": 1.0, "ended": 2.0, "backup": NO_BACKUP, "owner": {"run_id": "r"}, "failures": failures, **more}
    assert report.build(seen)["headline"].endswith(told)


HOLDER = {"run_id": "w1", "step": "retire", "began": 300.0, "controller": "pod-7"}


@pytest.mark.parametrize(
    ("steps", "more", "words"),
    [
        # it has the lock, and did not say that it ended
        (["plan", "backup", "start", "shift"], {"holders": [HOLDER]}, "Step retire began at "),
        (["plan", "backup", "start", "shift"], {"holders": [dict(HOLDER, step="shift", ended=310.0)], "awx": True}, None),
        (["plan"], {"holders": [dict(HOLDER, run_id="w2")]}, None),
        # no lock was taken: the job did not even start
        ([], {"awx": True}, "No step of this workflow"),
        (["plan"], {"awx": True}, "No step after plan"),
        (["plan", "backup"], {"awx": True}, "No step after backup"),
        # a person said no, or it is over
        (["plan", "backup", "start", "shift"], {"awx": True}, None),
        (["plan", "backup", "start", "shift", "retire", "finish"], {"awx": True}, None),
        # elsewhere nobody may hand artifacts on
        ([], {}, None),
    ],
)
def test_a_step_that_died_is_told(steps, more, words):
    found = whole(*(step(100.0 * n, step=name) for n, name in enumerate(steps, 1)), **more)
    assert (found["result"] == "failed") is bool(words)
    assert [words in text for text in found["stopped"]] == ([True] if words else [])
    assert (found["failure"] or {}).get("message") == (found["stopped"][0] if words else None)


def test_a_step_that_told_of_its_failure_died_of_that():
    failure = {"task": "Stage | Install", "host": "g1", "message": "no package"}
    found = whole(step(100.0, step="plan"), step(200.0, step="backup", phases=["stage"], failure=failure), awx=True)
    assert found["failures"] == [failure] and len(found["stopped"]) == 1


@pytest.mark.parametrize("result", ["blocked", "failed"])
def test_a_step_that_could_not_even_plan_counts(result):
    found = whole({"result": result, "headline": "no plan", "run": "w1", "began": 100.0}, percent=0.0)
    assert found["stopped"] == ["no plan"]
    assert found["phases"] == []


def test_a_way_back_that_had_nothing_to_do_speaks_of_no_upgrade():
    found = {"source": "2.1.4", "target": "2.8.5", "strategy": "blue_green", "back": True, "stands": {}}
    assert report.headline("done", found, None, [], [], "play") == "Kong 2.1.4 to 2.8.5: not begun; there was nothing to take back."


def test_once_no_host_tells_the_old_version_only_the_new_one_is_named():
    found = {"source": None, "target": "2.8.5", "strategy": "rolling", "stands": {"finished": True}}
    assert report.headline("done", found, None, [], [], "play") == "Kong 2.8.5: finished. There was nothing to do."


def test_the_headline_of_a_look_tells_that_there_are_warnings():
    look = {"began": 1.0, "ended": 2.0, "backup": NO_BACKUP, "owner": {"run_id": "w1"}, "looks": "plan"}
    warning = {"where": "b1", "what": "w", "do": "d", "section": None}
    for warnings, missing, words in (
        (0, 0, "the plan has no objection"),
        (1, 0, "nothing stands in the way; 1 warning to read"),
        (2, 2, "nothing stands in the way so far; 2 things to do before upgrade.yml."),
        (3, 1, "nothing stands in the way so far; 1 thing to do before upgrade.yml and 2 warnings to read"),
    ):
        assert words in report.build({**look, "plan": dict(PLAN, warnings=[warning] * warnings, missing=missing)})["headline"]


def test_a_transfer_that_failed_leaves_blues_admin_api_closed():
    plan = dict(PLAN, strategy="new_keyspace", left=["transfer", "start", "shift"])
    seen = {"plan": plan, "began": 100.0, "ended": 110.0, "backup": NO_BACKUP, "owner": {}, "events": []}
    failures = [{"task": "Transfer", "host": "new1", "message": "no"}]

    def told(**more):
        return any("Admin API is closed" in line for line in report.build({**seen, "failures": failures, **more})["remains"])

    assert not told(shut=[])
    assert told(shut=["old1"])
    assert told(plan=dict(plan, stands=dict(plan.get("stands") or {}, blue_shut={"old1": "0.0.0.0:8001"})))


def finish(**more):
    """The report of finish.yml after an upgrade that stopped at retire."""
    conf = {"diff": "+admin_listen = off\n", "diff_finished": "+admin_listen = 127.0.0.1:8001\n"}
    plan = dict(
        PLAN, left=["finish"], conf=conf, hosts={"blue": ["old1"], "green": ["new1"]},
        stands={"percent": 100.0, "green_running": ["new1"], "phase": "finish", "shifted": True, "retired": True},
    )  # fmt: skip
    event = {"phase": "finish", "at": 101.0, "text": "finish", "failed": bool(more.get("failures"))}
    seen = {"plan": plan, "began": 100.0, "ended": 110.0, "backup": NO_BACKUP, "owner": {"run_id": "r2"}, "events": [event], **more}
    return report.build(seen)


def test_a_refusal_is_a_heading_and_then_its_reasons():
    lines = ["Finish is refused, for blue may be alive. Nothing was changed.", "b1: Kong is running there again", "Stop it."]
    found = finish(failures=[{"task": "Finish | Refuse", "host": "new1", "message": lines}])
    assert found["headline"].endswith("stopped in phase finish. Finish is refused, for blue may be alive. Nothing was changed.")
    assert found["details"] == lines[1:]
    assert found["failure"]["message"] == " ".join([lines[0], lines[1] + ".", lines[2]])
    assert found["conf"]["diff"] == "+admin_listen = off\n"
    assert found["remains"] == ["Phases not done: finish. The same command goes on from there."]


def test_after_finish_the_admin_api_is_open_and_the_state_file_has_served():
    found = finish(state_files={"lb1": "/var/lib/haproxy/state"})
    assert found["headline"] == "Kong 2.1.4 to 2.8.5: finished."
    assert found["conf"]["diff"] == "+admin_listen = 127.0.0.1:8001\n"
    assert len(found["remains"]) == 1 and "remove the server state file (/var/lib/haproxy/state) on lb1" in found["remains"][0]
    assert finish()["remains"] == []


def test_hosts_are_called_as_in_the_inventory():
    found = finish()
    assert (found["blue"], found["green"]) == (["old1"], ["new1"])


def test_what_remains_after_retire_is_finish():
    plan = dict(PLAN, left=["retire"], stands=dict(PLAN["stands"], percent=100.0, shifted=True))
    event = {"phase": "retire", "at": 101.0, "text": "retire"}
    seen = {"plan": plan, "began": 100.0, "ended": 110.0, "backup": NO_BACKUP, "owner": {"run_id": "r1"}, "events": [event]}
    found = report.build({**seen, "command": "ansible-playbook -i inv PLAYBOOK.yml"})
    assert found["remains"] == [
        "No Admin API answers anywhere until the upgrade is finished. Finish it with: ansible-playbook -i inv finish.yml"
    ]
    assert found["headline"].endswith(found["remains"][0])


@pytest.mark.parametrize("steps, more", [((), " There was nothing to do."), ((step(100.0, phases=["shift"]),), "")])
def test_a_workflow_that_finished_had_something_to_do(steps, more):
    plan = dict(PLAN, stands=dict(PLAN["stands"], finished=True))
    assert whole(*steps, plan=plan)["headline"] == "Kong 2.1.4 to 2.8.5: finished." + more


BACKUP = {"dump": "/b/kong.pgc", "sha256": "abc", "external": "", "export": "/b/kong.yml", "counts": {"services": 1}}


def first_run(**more):
    """The report.json of upgrade.yml up to retire."""
    plan = dict(PLAN, left=["backup", "shift"], hosts={"blue": ["old1"], "green": ["new1"]})
    events = [{"phase": name, "at": 50.0, "text": name} for name in ("backup", "shift")]
    seen = {"plan": plan, "began": 10.0, "ended": 60.0, "backup": BACKUP, "owner": {"run_id": "r1"}, "events": events, "gates": [gate(100)]}
    return report.build({**seen, **more})


def test_a_run_that_goes_on_tells_what_the_one_before_did():
    found = finish(before=first_run())
    assert found["backup"] == BACKUP
    assert [entry["percent"] for entry in found["gates"]] == [100]
    assert [str(point["percent"]) for point in found["shift"]] == ["0", "100"]
    assert report.CHECKED["shift"] in found["checked"] and report.CHECKED["finish"] in found["checked"]
    assert [(run["run"], run["headline"]) for run in found["runs_before"]] == [("r1", "Kong 2.1.4 to 2.8.5: shift is done.")]
    assert found["artifact"]["gates"] == [] and not found["steps_elsewhere"]


@pytest.mark.parametrize(
    "other",
    [
        {"target": "2.8.3"}, {"source": "2.0.5"}, {"green": ["new9"]}, {"strategy": "rolling"}, {"over": True}, {"run": "r2"},
    ],
)  # fmt: skip
def test_another_upgrade_is_none_of_its_business(other):
    found = finish(before=dict(first_run(), **other))
    assert found["backup"] is None and found["gates"] == found["runs_before"] == []
    assert found["steps_elsewhere"]


def test_an_upgrade_that_begins_takes_nothing_over():
    assert first_run(before=dict(first_run(), run="r0"))["runs_before"] == []
    assert finish()["over"] and not first_run()["over"]


def test_status_after_a_run_that_was_killed():
    plan = dict(
        PLAN, left=["retire"], interrupted=["Interrupted: run r1; the same command goes on from there.", "Batch zone is begun (…)."],
        stands=dict(PLAN["stands"], percent=100.0, shifted=True, phase="retire", green_running=["g1"]),
    )  # fmt: skip
    found = whole(plan=plan, looks="status", command="run PLAYBOOK.yml")
    assert found["headline"] == (
        "Kong 2.1.4 to 2.8.5: shift is done. Interrupted: run r1; the same command goes on from there. Batch zone is begun (…). "
        "Go on with: run upgrade.yml"
    )


@pytest.mark.parametrize(("cut", "words"), [(False, "begun, 3 of 4 hosts are rolled"), (True, "its state is not known")])
def test_of_hosts_that_a_limit_left_out_nothing_is_concluded(cut, words):
    stands = {"phase": "roll", "green": ["a", "b", "c", "d"], "blue_left": ["d"]}
    plan = dict(PLAN, strategy="rolling", stands=stands, blockers=[{"where": "d", "what": "w", "do": "d"}], cut=cut)
    seen = {"plan": plan, "began": 1.0, "ended": 2.0, "backup": NO_BACKUP}
    assert report.build(seen)["headline"] == "Kong 2.1.4 to 2.8.5: %s; 1 problem stands in the way. Nothing was changed." % words
