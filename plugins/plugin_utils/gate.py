# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate after a step of the shift: green against blue in the same window. Pure functions."""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy


def tally(windows: list[dict], names: set[str], backends: list[str]) -> dict:
    """Sums the counters of the named servers over the windows of all load balancers.

    windows: one per load balancer host, {"seconds": s, "servers": [{"backend", "name", "counters": {...}, "reset": bool}]}.
    backends: those of the upgrade, [] for all: another one may have servers of the same names.
    The counters are HAProxy's, or {"requests", "failures"} where commands of the user's own count.
    Returns requests, failures, ratio (percent, None without requests) and whether a counter was reset meanwhile.
    """
    requests = failures = 0
    reset = False
    for window in windows:
        for server in window.get("servers", []):
            if server["name"] not in names or (backends and server["backend"] not in backends):
                continue
            counters = server["counters"]
            reset = reset or bool(server.get("reset"))
            if "requests" in counters:
                requests += int(counters["requests"])
                failures += int(counters["failures"])
                continue
            requests += _haproxy.answered(counters)
            failures += _haproxy.failures(counters)
    return {
        "requests": requests,
        "failures": failures,
        "ratio": round(100.0 * failures / requests, 3) if requests else None,
        "reset": reset,
    }


def judge(
    windows: list[dict],
    blue: set[str],
    green: set[str],
    budget: float,
    min_requests: int,
    probed: list[str | None] | None = None,
    backends: list[str] | None = None,
) -> dict:
    """Compares green with blue in the same window.

    An upstream's own 5xx answers are on both sides, so what counts is the difference of the failure ratios, in
    percentage points, against `budget`. Blue without traffic (the last step) counts as a ratio of 0.
    A window that was `stopped` before its time is a breach, with the reason that it gives.
    Where a load balancer has no counters (`counted` is false), `probed` tells what became of our own requests to each green
    node: None if it answered, else what was wrong.
    backends: the backends that the upgrade is about, none or [] for all.
    Returns verdict: passed | breached | too_little, with the numbers and a sentence.
    """
    of_blue, of_green = (tally(windows, names, backends or []) for names in (blue, green))
    seconds = max([window.get("seconds") or 0 for window in windows] or [0])
    excess = (of_green["ratio"] or 0.0) - (of_blue["ratio"] or 0.0)
    stopped = [str(window["stopped"]) for window in windows if window.get("stopped")]
    unanswered = [problem for problem in probed or [] if problem]
    uncounted = any(window.get("counted") is False for window in windows)
    if stopped:
        verdict, what = "breached", "the soak was cut short: %s" % "; ".join(stopped)
    elif unanswered:
        verdict, what = "breached", "green does not answer as it should (%s)" % "; ".join(unanswered)
    elif of_green["failures"] and excess > budget:
        verdict, what = "breached", "over the budget of %g percentage points" % budget
    elif of_green["reset"] or of_blue["reset"]:
        verdict, what = "too_little", "counters were reset in this window (a reload?): not judged"
    elif uncounted and probed:
        verdict, what = "passed", "no counters, judged by probes alone, which all %d green nodes answered" % len(probed)
    elif uncounted:
        verdict, what = "too_little", "a load balancer has no counters and there are no probes, nothing was measured"
    elif of_green["requests"] < min_requests:
        verdict, what = "too_little", "too little traffic to judge: fewer than %d requests on green" % min_requests
    else:
        verdict, what = "passed", "within the budget of %g percentage points" % budget
    return {
        "verdict": verdict,
        "blue": of_blue,
        "green": of_green,
        "seconds": round(seconds, 1),
        "message": "green %d of %d requests failed, blue %d of %d, in %.1f s: %s"
        % (of_green["failures"], of_green["requests"], of_blue["failures"], of_blue["requests"], seconds, what),
    }
