# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for servers of many HAProxies, and watching them. Times are seconds.

Where behaviour is said to be HAProxy's, it was read off 2.2, 2.6, 2.8 and 3.5 themselves.
"""

import time

from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy import (
    POLL,
    HaproxyError,
    counters_of,
    failures,
    find,
    integer,
    label,
    parallel,
    parse_info,
    parse_sessions,
    parse_stat,
)
from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy_local import older_processes
from ansible_collections.bluegreen.kong.plugins.module_utils._process import connections_to


def _poll(fleet, indexes, query, done, timeout):
    """Asks sockets again and again until done(answers) is true or the time is over.

    :param query: function(Runtime) -> answer.
    :param done: function({socket index: answer}) -> bool.
    :returns: (the last answers, whether done). A socket that does not answer is asked again until the time is over.
    :raises HaproxyError: at the end, when a socket did not answer the last time.
    """
    end = time.monotonic() + timeout
    pause = POLL
    while True:
        answers = parallel(lambda index: query(fleet.runtimes[index]), indexes)
        errors = [str(error) for _unused, error in answers if error is not None]
        found = {index: answer for index, (answer, error) in zip(indexes, answers) if error is None}
        if not errors and done(found):
            return found, True
        if time.monotonic() >= end:
            if errors:
                raise HaproxyError(errors)
            return found, False
        time.sleep(min(pause, max(0, end - time.monotonic())))  # between two questions; HAProxy tells nothing by itself
        pause = min(pause * 1.2, 0.25)


def _servers_now(runtime):
    """{(backend, name): row of show stat}."""
    rows = parse_stat(runtime.ask(["show stat -1 4 -1"])[0])
    return {(row["pxname"], row["svname"]): row for row in rows}


def leader(view, key):
    """The key of the server whose health this one follows (`track`), or the key itself."""
    seen = set()
    while key not in seen:
        seen.add(key)
        server = find(view, key[1], key[2])
        if server is None or not server["tracked"]:
            break
        key = (key[0],) + tuple(server["tracked"].split("/", 1))
    return key


def is_up(row):
    """Whether a row of `show stat` is up by a check that has really been made since it was last made ready.

    HAProxy takes a server for up as soon as it is made ready (status "UP 1/3"), and after its own start (check_status
    INI); a check that passes makes the health whole (rise + fall - 1).
    """
    status = row.get("status", "")
    if not status.startswith(("UP", "DRAIN")) or row.get("check_status", "").replace("* ", "") in ("", "INI"):
        return False
    rise, fall, health = (integer(row.get(name)) for name in ("check_rise", "check_fall", "check_health"))
    if None in (rise, fall, health):
        return "/" not in status
    return health >= rise + fall - 1


def wait_up(fleet, keys, timeout):
    """Waits until every server is up by its own health check; returns sentences about those that are not."""
    indexes = sorted({key[0] for key in keys})

    def missing(found):
        return [key for key in sorted(keys) if not is_up(found.get(key[0], {}).get(key[1:], {}))]

    found, done = _poll(fleet, indexes, _servers_now, lambda answers: not missing(answers), timeout)
    if done:
        return []
    problems = []
    for key in missing(found):
        row = found.get(key[0], {}).get(key[1:], {})
        problems.append("%s: %s/%s%s is not UP after %s s: %s, last check %s%s." % (
            fleet.runtimes[key[0]].name, key[1], key[2], " at %s" % row["addr"] if row.get("addr") else "",
            timeout, row.get("status", "gone"), row.get("check_status", "").replace("* ", "") or "none",
            " (%s)" % row["last_chk"] if row.get("last_chk") else ""))
    return problems


def _busy(row):
    return (integer(row.get("scur")) or 0) + (integer(row.get("qcur")) or 0)


def unfinished(fleet, keys):
    """What processes from before a reload still have with servers: {key: sentence}.

    Only processes on this host can be seen. Where their connections cannot, they count as having some.
    """
    found = {}
    for index in sorted({key[0] for key in keys}):
        runtime = fleet.runtimes[index]
        if not runtime.path:
            continue
        info = parse_info(runtime.ask(["show info"])[0])
        for pid in older_processes(integer(info.get("Pid"))):
            servers = {}
            for key in keys:
                server = find(fleet.views[index], key[1], key[2]) if key[0] == index else None
                if server:
                    servers[server["address"], server["port"]] = key
            connections = connections_to(pid, set(servers))
            for address, key in servers.items():
                if connections is None or address in connections:
                    found[key] = "%s: process %d, from before a reload, still has %s to %s/%s." % (
                        runtime.name, pid,
                        "connections that cannot be seen (use become), maybe" if connections is None else
                        "%d connections" % connections[address], key[1], key[2])
    return found


def wait_sessions_zero(fleet, keys, timeout):
    """Waits until the servers have no session.

    Twice zero in a row, because a request is counted a moment after its server is chosen. What processes from before a
    reload have is waited for too, since no socket tells about it.

    :returns: ({key: sessions} of those that still have some, sentences about processes from before a reload).
    """
    indexes = sorted({key[0] for key in keys})
    end = time.monotonic() + timeout
    in_a_row = [0]

    def left(found):
        busy = ((key, _busy(found.get(key[0], {}).get(key[1:], {}))) for key in sorted(keys))
        return {key: number for key, number in busy if number}

    def done(found):
        in_a_row[0] = 0 if left(found) else in_a_row[0] + 1
        return in_a_row[0] > 1

    found, finished = _poll(fleet, indexes, _servers_now, done, timeout)
    if not finished:
        return left(found), sorted(unfinished(fleet, keys).values())
    while True:
        older = sorted(unfinished(fleet, keys).values())
        if not older or time.monotonic() >= end:
            return {}, older
        time.sleep(POLL)  # between two looks at processes that are not our children


def sessions_of(fleet, keys):
    """The sessions that servers still have: list of dict (socket, backend, server, source, frontend, age)."""
    found = []
    for index in sorted({key[0] for key in keys}):
        text = fleet.runtimes[index].ask(["show sess"])[0]
        for session in parse_sessions(text):
            if (index, session["backend"], session["server"]) in keys:
                found.append(dict(session, socket=fleet.runtimes[index].name))
    return found


def cut_sessions(fleet, keys):
    """Ends the sessions of servers (`shutdown sessions server`)."""
    for index in sorted({key[0] for key in keys}):
        mine = sorted(key for key in keys if key[0] == index)
        replies = fleet.runtimes[index].ask(["shutdown sessions server %s/%s" % key[1:] for key in mine])
        for key, reply in zip(mine, replies):
            if reply.strip():
                raise HaproxyError("%s: sessions of %s/%s could not be ended: %s" % (
                    fleet.runtimes[index].name, key[1], key[2], reply.strip()))


class Meter(object):
    """Counter increments over a time, safe against HAProxy starting anew or counters being cleared in between."""

    def __init__(self, backends):
        self.backends = backends
        self.last = {}
        self.total = {}
        self.resets = set()
        self.process = {}

    def add(self, name, info, rows):
        """Takes one reading: socket name, parsed `show info` and `show stat`."""
        process = (info.get("Pid"), info.get("Start_time_sec"))
        old = self.process.get(name)
        restarted = old is not None and (old[0] != process or int(info.get("Uptime_sec", 0)) < old[1])
        self.process[name] = (process, int(info.get("Uptime_sec", 0)))
        for row in rows:
            if row["pxname"] not in self.backends:
                continue
            key = (name, row["pxname"], row["svname"])
            counters = counters_of(row)
            last = self.last.get(key)
            self.last[key] = counters
            if last is None:
                self.total[key] = dict.fromkeys(counters, 0)
                if not restarted:
                    continue
                last = {}
            if restarted or any(value < last.get(counter, 0) for counter, value in counters.items()):
                self.resets.add(key)
                last = {}
            for counter, value in counters.items():
                self.total[key][counter] = self.total[key].get(counter, 0) + value - last.get(counter, 0)

    def result(self):
        """Lists of {socket, backend, name, reset, counters}: (of servers, of backends)."""
        servers, backends = [], []
        for key in sorted(self.total):
            entry = {"socket": key[0], "backend": key[1], "reset": key in self.resets, "counters": self.total[key]}
            if key[2] == "BACKEND":
                backends.append(entry)
            else:
                servers.append(dict(entry, name=key[2]))
        return servers, backends


def breach(servers, stop):
    """Whether watched servers fail more than the others: a sentence, or None.

    :param servers: as in `window`.
    :param stop: dict of watch, against (lists of names), budget (share of requests, 0 to 1) and minimum (requests).
    """
    sums = {}
    for role in ("watch", "against"):
        mine = [server["counters"] for server in servers
                if server["name"] in stop[role] or label(server) in stop[role]]
        total = sum(counters.get("stot", 0) for counters in mine)
        failed = sum(failures(counters) for counters in mine)
        total = max(total, failed)
        sums[role] = (total, failed, failed / float(total) if total else 0.0)
    down = sorted({label(server) for server in servers if server["counters"].get("chkdown")
                   and (server["name"] in stop["watch"] or label(server) in stop["watch"])})
    if down:
        return "The health check took %s down." % " and ".join(down)
    total, failed, share = sums["watch"]
    if total < stop["minimum"] or share <= sums["against"][2] + stop["budget"]:
        return None
    return "%d of %d requests failed at %s, against %d of %d at %s; the budget is %g %%." % (
        failed, total, ", ".join(stop["watch"]), sums["against"][1], sums["against"][0],
        ", ".join(stop["against"]) or "nothing", 100 * stop["budget"])


def observe(fleet, backends, seconds, stop=None, step=1.0):
    """Watches counters for a time.

    :param backends: set of str, whose servers are watched.
    :param stop: None, or what ends it early, as for `breach`.
    :returns: the `window` that the module returns.
    """
    meter = Meter(backends)
    misses = []
    begin = time.time()

    def read(runtime):
        info, stat = runtime.ask(["show info", "show stat -1 6 -1"])
        return parse_info(info), parse_stat(stat)

    def take():
        answers = parallel(read, fleet.runtimes)
        for runtime, (answer, error) in zip(fleet.runtimes, answers):
            if error is None:
                meter.add(runtime.name, answer[0], answer[1])
        return [str(error) for _unused, error in answers if error is not None]

    errors = take()
    start = time.monotonic()
    end = start + seconds
    stopped = None
    while not errors and not stopped and time.monotonic() < end:
        time.sleep(max(0, min(step, end - time.monotonic())))  # the time over which the counters grow is what is asked for
        errors = take()
        if stop is not None:
            stopped = breach(meter.result()[0], stop)
        if errors and time.monotonic() < end:
            misses += errors
            errors = []  # the last reading decides; one missed in between only makes the steps longer
    if errors:
        raise HaproxyError(errors)
    servers, of_backends = meter.result()
    return {
        "begin": round(begin, 3), "end": round(time.time(), 3), "seconds": round(time.monotonic() - start, 3),
        "servers": servers, "backends": of_backends, "missed": misses, "stopped": stopped,
    }
