# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that blue is gone: every session in Kong's database belongs to someone we know. Pure functions."""

from __future__ import annotations

import datetime
import fnmatch

# By which of a session an operator may vouch for it, in kong_upgrade_known_sessions.
FIELDS = ("user", "application_name", "client_addr")


def judge(gateways, blue, green, target, sessions, earlier, known, unseen=()) -> dict:
    """Everything that speaks against blue being gone.

    gateways: host -> fact of kong_version_facts, with `error` where there is none. earlier: what the round before
    returned, or {}. sessions, known: see `unaccounted`. unseen: why some
    sessions may not be seen at all, sentences. Returns open (whether another round may help), rounds (how many
    there were), sockets (all that green's nodes were seen to have), problems (sentences), only_sessions (whether sessions
    are the only problem), sessions (number seen), unaccounted, refusal (lines for the operator).
    """
    problems = []
    for host in blue:
        gateway = gateways[host]
        if gateway.get("error"):
            problems.append("%s did not answer: %s" % (host, gateway["error"]))
        elif gateway.get("running"):
            problems.append("%s: Kong is running there again" % host)
        elif not gateway.get("fenced"):
            problems.append("%s: is not fenced, it could come back" % host)
    for host in green:
        gateway = gateways[host]
        node = gateway.get("node") or {}
        if gateway.get("error"):
            problems.append("%s did not answer: %s" % (host, gateway["error"]))
        elif not gateway.get("running"):
            problems.append("%s: no Kong is running there" % host)
        elif (node.get("version") or gateway.get("version")) != target:
            problems.append("%s runs %s, not %s" % (host, node.get("version") or gateway.get("version"), target))
    only_sessions = not problems
    sockets = set(earlier.get("sockets", [])) | {
        socket for host in green for socket in (gateways[host].get("node") or {}).get("database_sockets") or []
    }
    left = unaccounted(sessions, sockets, known)
    seen = {"%s:%s" % (session.get("client_addr"), session.get("client_port")) for session in sessions}
    # That a green node reaches this very database shows in a session of its own.
    silent = [
        host for host in green if not unseen and not seen & set((gateways[host].get("node") or {}).get("database_sockets") or [])
    ]
    problems += ["who is connected to the database is not seen: %s" % reason for reason in unseen]
    problems += ["%s: none of the database's sessions is its own" % host for host in silent]
    problems += ["database session unaccounted for: %s" % describe(session) for session in left]
    return {
        "problems": problems,
        "sockets": sorted(sockets),
        "only_sessions": only_sessions,
        "sessions": len(sessions),
        "unaccounted": left,
        "open": bool(left or silent),
        "rounds": earlier.get("rounds", 0) + 1,
        "refusal": (["Finish is refused, for blue may be alive. Nothing was changed."] if problems else [])
        + problems
        + (
            [
                "Stop what holds these sessions, or describe it in kong_upgrade_known_sessions (user, application_name, "
                "client_addr); if you are certain by other means, set kong_upgrade_confirm_blue_gone: true."
            ]
            if left
            else [
                "Put every host of the database into kong_upgrade_cassandra_group; or, if you are certain by other means that nobody "
                "but green uses it, set kong_upgrade_confirm_blue_gone: true."
            ]
            if unseen
            else []
        ),
    }


def unaccounted(sessions: list[dict], sockets: set[str], known: list[dict]) -> list[dict]:
    """Sessions of Kong's database that no green node's socket explains.

    sessions: from kong_datastore_info, sampled over a window: pid, user, application_name, client_addr, client_port,
        hidden, samples.
    sockets: "address:port" of the sockets that green nodes report as their own. They are looked at before the window;
        a node that opened a new connection since is found in the next round, see tasks/phases/proof.yml.
    known: patterns (user, application_name, client_addr; shell style) of sessions that the operator vouches for.
    Returns the sessions left over, each with a `reason`.
    """
    left = []
    for session in sessions:
        if any(_matches(session, pattern) for pattern in known):
            continue
        address, port = session.get("client_addr"), session.get("client_port")
        if session.get("hidden"):
            reason = "its address is hidden from our role (pg_read_all_stats would show it)"
        elif not address or port in (None, -1):
            reason = "it came over a UNIX socket, which no green node's address can explain"
        elif "%s:%s" % (address, port) in sockets:
            continue
        else:
            reason = "no green node has the socket %s:%s" % (address, port)
        left.append(dict(session, reason=reason))
    return left


def describe(session: dict) -> str:
    """One line about a session, for an operator."""
    if session.get("node"):
        return "%s:%s at %s, last seen %s: %s" % (
            session["client_addr"], session["client_port"], session["node"], clock(session["last_seen"]), session["reason"]
        )
    return "pid %s, role %s, application %s, from %s:%s, connected since %s: %s" % (
        session.get("pid"),
        session.get("user") or "?",
        session.get("application_name") or "(none)",
        session.get("client_addr") or "local",
        session.get("client_port") or "-",
        clock(session["backend_start"]) if session.get("backend_start") else "?",
        session["reason"],
    )


def clock(moment) -> str:
    """Local time of the controller, to the second."""
    return datetime.datetime.fromtimestamp(float(moment)).astimezone().isoformat(sep=" ", timespec="seconds")


def _matches(session: dict, pattern: dict) -> bool:
    """Whether all fields of the pattern match; one that is empty, or names a field that there is not, matches nothing."""
    given = {key: value for key, value in pattern.items() if value is not None}
    return bool(given) and set(given) <= set(FIELDS) and all(
        fnmatch.fnmatchcase(str(session.get(key) or ""), str(value)) for key, value in given.items()
    )
