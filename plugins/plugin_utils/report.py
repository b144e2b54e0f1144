# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the report shows, from what the run left in the variables of its hosts. Pure."""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils.proof import clock

PHASES = ("stage", "backup", "expand", "start", "shift", "retire", "finish", "rollback")
CHECKED = {
    "stage": "kong check and kong prepare accept green's kong.conf; its settings are blue's, with your overrides.",
    "backup": "The backup was there before the schema changed; a dump was read back with pg_restore.",
    "expand": "The migration state was read before and after `up`; nothing new is left.",
    "start": "Every green node answers through its proxy, reaches the database and refuses its Admin API.",
    "shift": "Green was UP everywhere and failed no more than the budget allows.",
    "retire": "Every blue node had no session left, has ended and cannot be started.",
    "finish": "Every database session was accounted for, nothing is pending, green's Admin API answers.",
    "rollback": "Blue was UP on every load balancer before it got the traffic.",
}
NEXT = {
    "shift": ("upgrade", "Blue is warm and has its Admin API. Go on with: %s"),
    "retire": ("finish", "No Admin API answers anywhere until the upgrade is finished. Finish it with: %s"),
}


def build(seen: dict) -> dict:
    """The report as data: what the JSON holds and the templates draw.

    seen: plan, events [{phase, at, text}], gates, failures [{task, host, message}], began and ended (seconds since the epoch), command,
    up, finish (answers of kong_migrations or None), proof, owner, until, inventory.
    """
    plan = seen["plan"]
    failure = next(iter(seen.get("failures") or []), None)
    stands = plan.get("stands") or {}
    events, phases = seen.get("events") or [], []
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
    gates = [shown_gate(gate) for gate in seen.get("gates") or []]
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
    report = {
        "result": result,
        "looks": bool(seen.get("looks")),
        "headline": headline(
            result, plan, failure, done, left, seen.get("command") or "ansible-playbook bluegreen.kong.PLAYBOOK"
        ),
        "source": plan.get("source"),
        "target": plan.get("target"),
        "strategy": plan.get("strategy"),
        "run": seen.get("owner", {}).get("run_id"),
        "controller": seen.get("owner", {}).get("controller"),
        "began": clock(began),
        "ended": clock(seen["ended"]),
        "seconds": round(seen["ended"] - began, 1),
        "phases": phases,
        "left": left,
        "failure": failure,
        "failures": seen.get("failures") or [],
        "blockers": plan.get("blockers") or [],
        # Hazards have a section of their own.
        "warnings": [row for row in plan.get("warnings") or [] if not row["section"]],
        "path": (plan.get("path") or {}).get("hops") or [],
        "conf": plan.get("conf"),
        "hazards": plan.get("hazards") or [],
        "checklist": plan.get("checklist") or [],
        "shift": curve(plan, gates, done),
        "gates": gates,
        "migrations": {
            "before": plan.get("migrations"),
            "ahead": plan.get("ahead") or [],
            "up": shown_run(seen.get("up")),
            "finish": shown_run(seen.get("finish")),
        },
        "proof": seen.get("proof"),
        "checked": checked(plan, done),
        "blue": (plan.get("names") or {}).get("blue") or [],
        "green": (plan.get("names") or {}).get("green") or [],
        "batches": plan.get("batches") or [],
        "found": stands,
        "backup": seen["backup"] if any(seen["backup"].get(key) for key in ("dump", "external", "export")) else None,
    }
    return dict(report, artifact=artifact(report))


def artifact(report) -> dict:
    """What the next step of a workflow, or a person who is asked to approve it, wants to know."""
    kept = ("result", "headline", "source", "target", "run", "left", "seconds")
    return {
        **{key: report[key] for key in kept},
        "percent_green": report["shift"][-1]["percent"],
        "blockers": ["%(where)s: %(what)s" % row for row in report["blockers"]],
        "warnings": len(report["warnings"]) + sum(row["severity"] == "warn" for row in report["hazards"]),
    }


def headline(result, plan, failure, done, left, command) -> str:
    """The one sentence an operator reads first. command: how to run a playbook, its name written as PLAYBOOK."""
    versions = "Kong %s to %s" % (plan.get("source") or "?", plan.get("target"))
    stands = plan.get("stands") or {}
    if result == "blocked":
        count = len(plan["blockers"])
        problems = "1 problem stands" if count == 1 else "%d problems stand" % count
        return "%s: %s; %s in the way. Nothing was changed." % (
            versions,
            begun(stands) if plan.get("source") else "its state is not known",
            problems,
        )
    if result == "predicted":
        return "%s: check mode, nothing was changed. A run would do: %s." % (versions, ", ".join(left) or "nothing")
    if result == "failed":
        return "%s: stopped in phase %s. %s" % (versions, left[0] if left else "report", sentence(failure["message"]))
    if "rollback" in done:
        return "%s: rolled back, all traffic is on blue." % versions
    if stands.get("finished") or "finish" in done:
        return "%s: finished." % versions + (" There was nothing to do." if not done else "")
    last = done[-1] if done else ("retire" if stands.get("retired") else "shift" if stands.get("shifted") else None)
    playbook, advice = NEXT.get(last, ("", ""))
    missing = plan.get("missing")
    plain = "the plan has no objection"
    if missing:
        plain = "no objection so far; %d thing%s to do before upgrade.yml" % (missing, "" if missing == 1 else "s")
    text = "%s: %s" % (versions, "%s is done." % last if last else "%s; %s." % (begun(stands), plain))
    return text + (" " + advice % command.replace("PLAYBOOK", playbook) if advice else "")


def begun(stands) -> str:
    """How far an upgrade is that has not moved all traffic yet."""
    if stands.get("phase") == "done":
        return "finished"
    if not stands.get("green_running"):
        return "the schema serves both versions, green is not started" if stands.get("expanded") else "not begun"
    return "begun, phase %s is next, green serves %g %%" % (stands.get("phase"), stands.get("percent") or 0)


def checked(plan, done) -> list:
    """What this run has made sure of, as sentences. done: phases."""
    if plan.get("blockers") or plan.get("missing"):
        return []
    lines = ["Every host answered; versions, database, prefixes, weights and health checks fit together."]
    lines += [CHECKED[phase] for phase in done if phase in CHECKED]
    return lines


def curve(plan, gates, done) -> list:
    """Share of the traffic on green over the run: [{percent, at}], for the picture."""
    stands = plan.get("stands") or {}
    points = [{"percent": "%g" % stands.get("percent", 0.0), "at": None}]
    for gate in gates:
        points.append({"percent": gate["percent"], "at": gate["at"], "verdict": gate["verdict"]})
        if not gate["open"]:
            points.append({"percent": 0, "at": gate["at"], "verdict": "back on blue"})
    if "rollback" in done:
        points.append({"percent": 0, "at": None, "verdict": "rolled back"})
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


def sentence(message) -> str:
    """A message that may be a list of lines, as one text."""
    lines = message if isinstance(message, list) else [message]
    return " ".join(str(line).rstrip(". ") + "." for line in lines)
