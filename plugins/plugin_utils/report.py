# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the report shows, from what the run left in the variables of its hosts. Pure."""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils.green_conf import LOCAL_ADMIN
from ansible_collections.bluegreen.kong.plugins.plugin_utils.plan import SCHEMA
from ansible_collections.bluegreen.kong.plugins.plugin_utils.proof import clock

CHECKED = {
    "stage": "kong check and kong prepare accept green's kong.conf; its settings are blue's, with your overrides.",
    "backup": "The backup was there before the schema changed; a dump was read back with pg_restore.",
    "expand": "The migration state was read before and after `up`; nothing new is left.",
    "transfer": "Every entity of blue's keyspace was found in what green uses, with the same contents.",
    "bootstrap": "The schema held nothing before, and `kong migrations list` has nothing left to run.",
    "start": "Every green node answers through its proxy, reaches the database and refuses its Admin API.",
    "shift": "Green was UP everywhere and failed no more than the budget allows.",
    "retire": "Every blue node had no session left, has ended and cannot be started.",
    "window": "Nobody but blue used the database before; every blue node has ended and cannot be started; nothing is pending; green is UP.",
    "roll": "Every host was idle before it was stopped, and answered as the target before it got traffic.",
    "finish": "Every database session was accounted for, nothing is pending, green's Admin API answers.",
    "restore": "The dump had the checksum that it was made with, and every table has the rows that are in it.",
    "rollback": "Blue was UP on every load balancer before it got the traffic.",
}
# What a bootstrap, which has no blue, makes sure of instead.
CHECKED_FRESH = {
    "stage": "kong check and kong prepare accept kong.conf.",
    "start": "Every node answers through its proxy, reaches the database, and its Admin API is as configured.",
}
# With strategy rolling, which stops no host for good.
CHECKED_ROLLING = {
    "rollback": "Every host that was rolled runs the old version, and is UP on every load balancer.",
}
# With strategy downtime_window, after whatever is before the window.
NEXT_WINDOW = "Blue serves on, and what can be done before the window is done. Take the window with: %(command)s"
# Where a run was killed in it, before finish or after.
NEXT_WINDOW_OPEN = "The window goes on where it was with: %(command)s"
# With strategy new_keyspace, whose green has all that was in blue's keyspace when its Admin API was closed.
NEXT_MOVED = "Blue is warm, and its Admin API is closed. Go on with: %(command)s"
SHUT = "Blue's Admin API is closed since the begin of transfer, and stays so; playbooks/rollback.yml opens it again."
# Of which nothing is said but that: it may be about to be stopped.
NEXT_INTERRUPTED = "Go on with: %(command)s"
NO_ADMIN_API = "No Admin API answers %(where)s until the upgrade is finished. Finish it with: %(command)s"
NEXT = {
    "backup": ("upgrade", "Nothing that serves was touched. Go on with: %(command)s"),
    "start": ("upgrade", "Green is warm, without traffic. Go on with: %(command)s"),
    "shift": ("upgrade", "Blue is warm and has its Admin API. Go on with: %(command)s"),
    "retire": ("finish", NO_ADMIN_API),
    "roll": ("finish", NO_ADMIN_API),
}
# Steps of a workflow after which nothing has to follow: a person is asked, or it is over.
LAST_STEPS = ("shift", "retire", "finish", "rollback")
# After the upgrade; see docs/load_balancers.md.
REMOVE_STATE_FILE = (
    "Once haproxy.cfg has the weights of today, remove the server state file (%s) on %s: else it brings the state of today back at "
    "every later reload."
)


def build(seen: dict) -> dict:
    """The report as data: what the JSON holds and the templates draw.

    seen: plan, events [{phase, at, text}], gates, failures [{task, host, on_host, message}], began and ended (seconds since the epoch),
    command, up, finish, apis (answers of kong_migrations or None), proof, owner, until; state_files {load balancer: its server state file};
    earlier: artifacts of the steps before this one, if it reports on a workflow; holders: who has the lock on each load balancer;
    awx: whether this is a workflow of AWX, whose artifacts are all here; step: the name of this one. before: what report.json holds from
    an earlier run, None if there is none.
    """
    plan = seen["plan"]
    earlier = seen.get("earlier") or []
    failure = next(iter(seen.get("failures") or []), None)
    # Nothing and numbers are texts with ansible-core 2.16.
    seen = dict(seen, outage=None if seen.get("outage") in (None, "") else float(seen["outage"]))
    stands = plan.get("stands") or {}
    events, phases = seen.get("events") or [], handed_on(earlier, "phases")
    before = began = float(seen["began"])  # a text with ansible-core 2.16
    for event in events:
        phases.append(
            {
                "phase": event["phase"],
                "seconds": round(event["at"] - before, 1),
                "text": event["text"],
                "at": clock(event["at"]),
            }
        )
        before = event["at"]
    done = [event["phase"] for event in events if not event.get("failed") and not seen.get("check_mode")]
    left = [phase for phase in plan.get("left") or [] if phase not in done]
    gates = handed_on(earlier, "gates") + [shown_gate(gate) for gate in seen.get("gates") or []]
    first = float(earlier[0]["began"]) if earlier else began
    silent = silent_steps(seen, earlier, plan) if seen.get("looks") == "report" else []
    failures = handed_on(earlier, "failures") + silent + [in_one_text(row) for row in seen.get("failures") or []]
    stopped = [step["headline"] for step in earlier if step["result"] in ("blocked", "failed")] + [row["message"] for row in silent]
    # What fails while the plan is made is among its blockers.
    result = (
        "blocked"
        if plan.get("blockers")
        else "failed"
        if failure
        else "predicted"
        if seen.get("check_mode")
        else "looked"
        if seen.get("looks")
        else "done"
    )
    command = seen.get("command") or "ansible-playbook bluegreen.kong.PLAYBOOK"
    report = {
        "result": "failed" if stopped else result,
        "looks": bool(seen.get("looks")),
        "headline": headline(
            result,
            plan,
            seen.get("failures") or [],
            done,
            left,
            command,
            seen["outage"],
            earlier,
            seen.get("partly"),
        ),
        # What the headline leaves out of why it stopped.
        "details": lines_of(failure["message"])[1:] if failure else [],
        "remains": remains(result, plan, done, left, command, seen),
        "source": plan.get("source"),
        "target": plan.get("target"),
        "strategy": plan.get("strategy"),
        "versions": versions_of(plan),
        "run": seen.get("owner", {}).get("run_id"),
        "controller": seen.get("owner", {}).get("controller"),
        "began": clock(first),
        "ended": clock(seen["ended"]),
        "seconds": round(seen["ended"] - first, 1),
        "phases": phases,
        "left": left,
        "failure": next(iter(failures), None),
        "failures": failures,
        "stopped": stopped,
        "blockers": plan.get("blockers") or [],
        # Hazards have a section of their own.
        "warnings": [row for row in plan.get("warnings") or [] if not row["section"]],
        "path": (plan.get("path") or {}).get("hops") or [],
        "conf": conf_of(plan, done),
        "templates": plan.get("templates"),
        "hazards": plan.get("hazards") or [],
        "checklist": plan.get("checklist") or [],
        "shift": curve(plan, gates, done, earlier),
        "gates": gates,
        "migrations": {
            "before": plan.get("migrations"),
            "schema_was": SCHEMA.get((plan.get("migrations") or {}).get("state"), "not read"),
            "ahead": plan.get("ahead") or [],
            "bootstrap": shown_run(seen.get("bootstrap")),
            "up": shown_run(seen.get("up")),
            "finish": shown_run(seen.get("finish")),
        },
        "apis": (seen.get("apis") or {}).get("apis"),
        "proof": seen.get("proof"),
        "restore": restore_of(plan, seen),
        "checked": list(dict.fromkeys(handed_on(earlier, "checked") + checked(plan, done))),
        "blue": (plan.get("hosts") or {}).get("blue") or [],
        "green": (plan.get("hosts") or {}).get("green") or [],
        "batches": plan.get("batches") or [],
        "found": stands,
        "backup": next((step["backup"] for step in earlier if step.get("backup")), None)
        or (seen["backup"] if any(seen["backup"].get(key) for key in ("dump", "snapshot", "external", "export")) else None),
    }
    over = finished(plan, done) or {"rollback", "restore"} & set(done)
    report.update(artifact=dict(artifact(report), began=first, step=seen.get("step")), over=bool(over), runs_before=[])
    # Percentage up to which the steps were those of a run that is not told of here.
    report["steps_elsewhere"] = 0 if earlier or seen.get("looks") else stands.get("percent") or 0
    before = seen.get("before")
    return continued(report, before) if before and goes_on(report, before, plan, earlier) else report


def goes_on(report, before, plan, earlier) -> bool:
    """Whether a run went on with the upgrade that an earlier report tells of: the backup was behind, and all else is the same.

    earlier: steps of this workflow, which tell all of it themselves.
    """
    same = all(before.get(key) == report[key] for key in ("target", "strategy", "green"))
    known = not report["source"] or before.get("source") == report["source"]  # without blue, nothing tells the source
    fresh = plan.get("strategy") == "bootstrap" or "backup" in (plan.get("left") or [])
    return same and known and not fresh and not before.get("over", True) and not earlier and before["run"] != report["run"]


def continued(report, before) -> dict:
    """The report of a run with what that of the runs before it has. The artifact stays the run's own."""
    run = {key: before[key] for key in ("run", "began", "ended")}
    # What was to be done next is done by now; for how long nobody was answered stays true.
    first, *others = before["headline"].split(". ")
    run["headline"] = sentence([first, *(text for text in others if "was answered for" in text)])
    return dict(
        report,
        runs_before=before["runs_before"] + [run],
        steps_elsewhere=before["steps_elsewhere"],
        backup=before["backup"] or report["backup"],
        gates=before["gates"] + report["gates"],
        shift=before["shift"] + report["shift"][1:],
        checked=list(dict.fromkeys(before["checked"] + report["checked"])),
    )


def silent_steps(seen, earlier, plan) -> list:
    """Steps of a workflow that have begun, or must have been begun, and told nothing: their jobs died. [{task, host, message}]."""
    run = seen["owner"]["run_id"]
    for holder in seen.get("holders") or []:
        if holder["run_id"] == run and holder.get("step") and not holder.get("ended"):
            what = "Step %s began at %s and never came to its end" % (holder["step"], clock(holder["began"]))
            return [silent(holder["step"], holder.get("controller"), what)]
    told = any(step["result"] in ("blocked", "failed") for step in earlier)
    if not seen.get("awx") or told or finished(plan, ()):
        return []
    last = earlier[-1].get("step") if earlier else None
    if last in LAST_STEPS:
        return []
    what = "No step after %s has told how it ended" % last if last else "No step of this workflow has told how it ended"
    return [silent("after %s" % last if last else "all", None, what)]


def silent(step, host, what) -> dict:
    """A step that died, as a failure."""
    message = "%s: its job was killed or could not start. Its output in AWX, or wherever it ran, tells more" % what
    return {"task": "step %s" % step, "host": host or "the controller", "message": message}


def handed_on(earlier, key) -> list:
    """What the artifacts of earlier steps have in a list, as one list."""
    return [entry for step in earlier for entry in step.get(key) or []]


def artifact(report) -> dict:
    """What the next step of a workflow, its last one, or a person who is asked to approve it, wants to know."""
    kept = ("result", "headline", "source", "target", "run", "left", "seconds", "phases", "gates", "failures", "checked", "backup")
    return {
        **{key: report[key] for key in kept},
        "percent_green": report["shift"][-1]["percent"],
        "blockers": ["%(where)s: %(what)s" % row for row in report["blockers"]],
        "warnings": len(report["warnings"]) + sum(row["severity"] == "warn" for row in report["hazards"]),
    }


def headline(result, plan, failures, done, left, command, outage=None, earlier=(), partly=False) -> str:
    """The one sentence an operator reads first.

    command: how to run a playbook, its name written as PLAYBOOK. outage: seconds for which nobody was answered, in a restore or a window.
    earlier: artifacts of the steps before this one, if it reports on a workflow. partly: whether a window ended with a part of green.
    """
    versions = versions_of(plan)
    stands = plan.get("stands") or {}
    fresh = plan.get("strategy") == "bootstrap"
    if result == "blocked":
        count = len(plan["blockers"])
        problems = "1 problem stands" if count == 1 else "%d problems stand" % count
        known = plan.get("source") and not plan.get("cut")  # of hosts that were left out nobody knows how far they are
        state = "not begun" if fresh else begun(stands) if known else "its state is not known"
        return "%s: %s; %s in the way. Nothing was changed." % (versions, state, problems)
    if result == "predicted":
        return "%s: check mode, nothing was changed. A run would do: %s." % (versions, ", ".join(left) or "nothing")
    if result == "failed":
        on_host = [row["host"] for row in failures if row.get("on_host")] if failures[0].get("on_host") else []
        return "%s: stopped in phase %s%s. %s%s" % (
            versions,
            left[0] if left else "report",
            (" on " + on_host[0] + (" and %d more" % (len(on_host) - 1) if on_host[1:] else "")) if on_host else "",
            sentence(lines_of(failures[0]["message"])[:1]),
            " The rest of green answers; nobody was answered for %.1f s." % outage if partly else "",
        )
    if fresh:
        return "%s: %s." % (versions, "every node is up" + ("" if done else "; there was nothing to do"))
    if plan.get("restore") and done:
        return "%s: restored to the data of %s, %s.%s" % (
            versions,
            clock(plan["restore"]["made"]),
            back_on(plan),
            "" if outage is None else " No request was answered for %.1f s." % outage,
        )
    if "rollback" in done:
        return "%s: rolled back, %s." % (versions, back_on(plan))
    if plan.get("back") and not done:
        return "%s: %s; there was nothing to take back." % (versions, begun(stands))
    if "window" in done:
        return "%s: finished.%s" % (versions, " Nobody was answered for %.1f s." % outage if outage else "")
    if finished(plan, done):
        return "%s: finished." % versions + ("" if done or earlier else " There was nothing to do.")
    last, advice = next_step(plan, done, command)
    missing = plan.get("missing") or 0
    warnings = len(plan.get("warnings") or []) - missing  # what is missing is told among them
    told = ["%d thing%s to do before upgrade.yml" % (missing, "" if missing == 1 else "s")] * bool(missing)
    told += ["%d warning%s to read" % (warnings, "" if warnings == 1 else "s")] * bool(warnings)
    plain = "the plan has no objection"
    if told:
        plain = "nothing stands in the way%s; %s" % (" so far" if missing else "", " and ".join(told))
    text = "%s: %s" % (versions, "%s is done." % last if last else "%s; %s." % (begun(stands), plain))
    return " ".join([text, *(plan.get("interrupted") or []), advice]).rstrip()


def back_on(plan) -> str:
    """What has the traffic after a rollback."""
    return "Kong %s serves on every host" % plan["source"] if plan.get("strategy") == "rolling" else "all traffic is on blue"


def finished(plan, done) -> bool:
    """Whether nothing is left of the upgrade. done: phases of this run."""
    stands = plan.get("stands") or {}
    return bool({"finish", "window"} & set(done)) or bool(stands.get("finished")) or (plan.get("with_database") == [] and "roll" in done)


def next_step(plan, done, command) -> tuple:
    """The last phase that is done, None if there is none, and what to do next, a sentence with the command; empty where nothing is."""
    stands = plan.get("stands") or {}
    retired = "roll" if plan.get("strategy") == "rolling" else "retire"
    shifted = stands.get("shifted") and not stands.get("unwatched")
    last = done[-1] if done else (retired if stands.get("retired") else "shift" if shifted else None)
    playbook, advice = NEXT.get(last, ("", ""))
    if last == "shift" and plan.get("strategy") == "new_keyspace":
        advice = NEXT_MOVED
    if last == "shift" and plan.get("interrupted"):
        advice = NEXT_INTERRUPTED
    if plan.get("strategy") == "downtime_window" and ("expand" in done or stands.get("expanded")) and "rollback" not in done:
        last, playbook, advice = "expand", "finish", NEXT_WINDOW
        if stands.get("window_open"):
            last, advice = None, NEXT_WINDOW_OPEN
    local = plan.get("admin_local")
    where = "but at %s of %s" % (LOCAL_ADMIN, ", ".join(local)) if local else "anywhere"
    return last, advice % {"where": where, "command": command.replace("PLAYBOOK", playbook)} if advice else ""


def remains(result, plan, done, left, command, seen) -> list:
    """What is still to be done, as sentences; [] if nothing is."""
    if left:
        return [
            "upgrade.yml will do: %s." % ", ".join(left)
            if seen.get("looks")
            else "Phases not done: %s. The same command goes on from there." % ", ".join(left),
            *([SHUT] if result == "failed" and (seen.get("shut") or (plan.get("stands") or {}).get("blue_shut")) else []),
        ]
    if result not in ("done", "looked") or plan.get("strategy") == "bootstrap" or plan.get("restore"):
        return []
    if finished(plan, done) or "rollback" in done:
        return [REMOVE_STATE_FILE % (path, host) for host, path in sorted((seen.get("state_files") or {}).items())]
    advice = next_step(plan, done, command)[1]
    return [advice] if advice else []


def conf_of(plan, done):
    """What becomes of kong.conf, with the difference to green's as this run leaves it: its Admin API is shut until finish."""
    conf = plan.get("conf")
    if conf and conf.get("diff_finished") and finished(plan, done):
        return dict(conf, diff=conf["diff_finished"])
    return conf


def restore_of(plan, seen):
    """What a restore brings back and loses: the backup's answer with the time of it, what was replaced, and the outage; or None."""
    backup = plan.get("restore")
    if not backup or backup.get("error"):
        return None
    return dict(backup, made=clock(backup["made"]), replaced=seen.get("replaced") or "", outage=seen.get("outage"))


def versions_of(plan) -> str:
    """What the run is about."""
    if plan.get("strategy") == "bootstrap":
        return "Kong %s on a fresh datastore" % plan.get("target")
    if not plan.get("source") and (plan.get("stands") or {}).get("finished"):  # strategy rolling: nothing tells the old version any more
        return "Kong %s" % plan.get("target")
    return "Kong %s to %s" % (plan.get("source") or "?", plan.get("target"))


def begun(stands) -> str:
    """How far an upgrade is that has not moved all traffic yet."""
    if stands.get("phase") == "done":
        return "finished"
    if stands.get("unread") and (stands.get("phase") == "roll" or stands.get("green_running")):
        return "how far it is cannot be told without %s" % ", ".join(stands["unread"])
    if stands.get("phase") == "roll":
        rolled, hosts = len(stands["green"]) - len(stands["blue_left"]), len(stands["green"])
        return "begun, %d of %d hosts are rolled" % (rolled, hosts) if rolled else "not begun"
    if stands.get("window_open"):
        return "NOBODY IS ANSWERED, the window was begun and has not ended"
    if not stands.get("green_running"):
        if stands.get("blue_shut"):
            return "blue's Admin API is closed, green is not started"
        return "the schema serves both versions, green is not started" if stands.get("expanded") else "not begun"
    return "begun, phase %s is next, green serves %g %%" % (stands.get("phase"), stands.get("percent") or 0)


def checked(plan, done) -> list:
    """What this run has made sure of, as sentences. done: phases."""
    if plan.get("blockers") or plan.get("missing"):
        return []
    told = CHECKED
    if plan.get("strategy") == "bootstrap":
        told = {**CHECKED, **CHECKED_FRESH}
    if plan.get("strategy") == "rolling":
        told = {**CHECKED, **CHECKED_ROLLING}
    lines = ["Every host answered; versions, database, prefixes, weights and health checks fit together."]
    lines += [told[phase] for phase in done if phase in told]
    return lines


def curve(plan, gates, done, earlier=()) -> list:
    """Share of the traffic on green over the run, or over the whole of a workflow: [{percent, at}], for the picture."""
    now = "%g" % (plan.get("stands") or {}).get("percent", 0.0)
    points = [{"percent": earlier[0].get("percent_green", now) if earlier else now, "at": None}]
    for gate in gates:
        points.append({"percent": gate["percent"], "at": gate["at"], "verdict": gate["verdict"]})
        if not gate["open"]:
            points.append({"percent": 0, "at": gate["at"], "verdict": "back on blue"})
    if "rollback" in done:
        points.append({"percent": 0, "at": None, "verdict": "rolled back"})
    if earlier:
        points.append({"percent": now, "at": None, "verdict": "at the end"})
    return points


def shown_gate(gate):
    """A verdict with a readable time."""
    reason = gate["message"].rsplit(": ", 1)[-1]
    return dict(gate, at=clock(gate["at"]), reason=reason)


def shown_run(result):
    """What a migration command changed, by its own readings."""
    if not result or result.get("skipped"):
        return None
    keys = ("changed", "ran", "waited", "before", "after")
    return {key: result.get(key) for key in keys}


def lines_of(message) -> list:
    """The lines of a message, which may be a list of them."""
    return message if isinstance(message, list) else [message]


def in_one_text(failure) -> dict:
    """A failure whose message is one text."""
    message = failure["message"]
    return dict(failure, message=sentence(message) if isinstance(message, list) else message)


def sentence(message) -> str:
    """A message that may be a list of lines, as one text."""
    return " ".join(str(line).rstrip(". ") + "." for line in lines_of(message))
