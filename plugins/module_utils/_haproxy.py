# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy through its runtime sockets: the protocol, and a snapshot of all that one tells.

Where behaviour is said to be HAProxy's, it was read off 2.2, 2.6, 2.8 and 3.5 themselves. Times are seconds.
"""

import csv
import errno
import re
import socket
import threading
import time

from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError, Problems

#: srv_admin_state of `show servers state` is a set of bits. "forced" is what was asked for on the socket or in the
#: file; the others follow from a tracked server, DNS or the agent.
FORCED_MAINT, INHERITED_MAINT, FORCED_DRAIN, INHERITED_DRAIN, DNS_MAINT, NAME_MAINT = 1, 2, 8, 16, 32, 64
ANY_MAINT = FORCED_MAINT | INHERITED_MAINT | DNS_MAINT | NAME_MAINT
ANY_DRAIN = FORCED_DRAIN | INHERITED_DRAIN
#: srv_check_state bits.
CHECK_CONFIGURED, CHECK_ENABLED, CHECK_PAUSED = 2, 4, 8

#: Counters that only grow while a process lives, of a server and of a backend.
COUNTERS = (
    "stot", "lbtot", "req_tot", "bin", "bout", "hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx",
    "hrsp_other", "dreq", "dresp", "ereq", "econ", "eresp", "wretr", "wredis", "cli_abrt", "srv_abrt", "hanafail",
    "chkfail", "chkdown", "connect", "reuse",
)
#: Averages over the last 1024 requests, in milliseconds, and their maxima.
TIMES = ("qtime", "ctime", "rtime", "ttime", "qtime_max", "ctime_max", "rtime_max", "ttime_max")

#: What a runtime weight does under a balance algorithm. dynamic: shares traffic at once. static: only 0 and the
#: initial weight are accepted. ignored: accepted, but only 0 has an effect. `show stat` calls random "unknown".
WEIGHTS = {"roundrobin": "dynamic", "leastconn": "dynamic", "random": "dynamic", "unknown": "dynamic",
           "static-rr": "static", "first": "ignored"}

MAXIMUM_WEIGHT = 256
POLL = 0.05
STATES = ("ready", "drain", "maint")


class HaproxyError(Problems):
    """Something about HAProxy that ends the module."""


class SocketError(HaproxyError):
    """A runtime socket cannot be reached, or broke off."""


def parallel(function, items):
    """Runs function(item) for every item, each in a thread of its own.

    :returns: list of (result, None) or (None, KongError), in the order of `items`. Any other exception is raised here.
    """
    answers = [(None, None)] * len(items)  # type: list[tuple]

    def work(index, item):
        try:
            answers[index] = (function(item), None)
        except Exception as error:  # noqa: BLE001 - handed to the caller below
            answers[index] = (None, error)

    if len(items) == 1:
        work(0, items[0])
    else:
        threads = [threading.Thread(target=work, args=pair) for pair in enumerate(items)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for result, error in answers:
        if error is not None and not isinstance(error, KongError):
            raise error
    return answers


class Runtime(object):
    """One runtime socket.

    :param address: str, a path, `unix@<path>`, `<host>:<port>` or `[<IPv6>]:<port>`.
    :param timeout: seconds for connecting, and for each wait for an answer.
    """

    def __init__(self, address, timeout=10):
        self.name = address
        self.timeout = timeout
        plain = re.sub(r"\A(unix@|ipv4@|ipv6@|tcp4@|tcp6@|tcp@)", "", address)
        if plain.startswith("/"):
            self.path, self.host, self.port = plain, None, None
        else:
            host, colon, port = plain.rpartition(":")
            if not colon or not port.isdigit() or not 0 < int(port) < 65536:
                raise HaproxyError(
                    "sockets: %s is neither an absolute path nor host:port. Give the address of the line "
                    "'stats socket ... level admin' in haproxy.cfg." % address
                )
            self.path, self.host, self.port = None, host.strip("[]") or "127.0.0.1", int(port)

    def _connect(self):
        # While HAProxy restarts, nobody listens for a moment: that is not yet an error.
        end = time.monotonic() + min(1, self.timeout)
        while True:
            try:
                if self.path is None:
                    return socket.create_connection((self.host, self.port), self.timeout)
                channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                channel.settimeout(self.timeout)
                try:
                    channel.connect(self.path)
                except Exception:  # whatever it was: the socket is not left open, and it is raised again
                    channel.close()
                    raise
                return channel
            except (OSError, ValueError) as error:
                code = getattr(error, "errno", None)
                if code in (errno.ECONNREFUSED, errno.EAGAIN) and time.monotonic() < end:
                    time.sleep(POLL)  # between two tries of a socket that a reload of HAProxy renews
                    continue
                if code == errno.EACCES:
                    hint = "Use become, or give the socket another user, group or mode."
                elif code == errno.ENOENT:
                    hint = "Does the line 'stats socket' in haproxy.cfg name this path?"
                else:
                    hint = "Does HAProxy run, with a line 'stats socket' for this address?"
                raise SocketError("%s: cannot connect: %s. %s" % (
                    self.name, getattr(error, "strerror", None) or error, hint))

    def ask(self, commands):
        """Sends commands (list of str) over one connection and returns their replies (list of str, in order).

        The interactive mode is used because its prompt marks the end of each reply.

        :raises SocketError: also when fewer replies come than commands were sent.
        """
        if not commands:
            return []
        channel = self._connect()
        data = b""
        try:
            # A line each: from 3.x on, the prompt holds only from the next line on.
            channel.sendall("".join("%s\n" % line for line in ["prompt"] + commands).encode("utf-8"))
            ends = 0
            while ends < len(commands) + 1:
                part = channel.recv(65536)
                if not part:
                    break
                seen = max(0, len(data) - 2)
                data += part
                ends += data.count(b"\n> ", seen)
                if b"\nmaster> " in data[max(0, seen - 10):]:
                    raise SocketError(
                        "%s: this is the socket of HAProxy's master process (-S), which knows no server. Give a worker's, "
                        "from a line 'stats socket ... level admin'." % self.name)
        except OSError as error:
            raise SocketError("%s: broke off while it answered: %s. Nothing is known about the last commands." % (
                self.name, error.strerror or error))
        finally:
            channel.close()
        replies = data.decode("utf-8", "replace").split("\n> ")[1:-1]
        if len(replies) < len(commands):
            raise SocketError("%s: closed the connection after %d of %d replies. Is this HAProxy's runtime socket?" % (
                self.name, len(replies), len(commands)))
        return [reply.strip("\n") for reply in replies]


def parse_info(text):
    """`show info`: {key: value}, both str."""
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def parse_stat(text):
    """`show stat` in CSV: list of dict, column name to str."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("# pxname"):
        raise HaproxyError("'show stat' was answered with: %s" % (text[:200] or "nothing"))
    columns = lines[0][2:].split(",")
    return [dict(zip(columns, row)) for row in csv.reader(lines[1:]) if row]


def parse_state(text):
    """`show servers state`, version 1: list of dict, column name to str."""
    lines = text.splitlines()
    if len(lines) < 2 or lines[0] != "1" or not lines[1].startswith("# "):
        raise HaproxyError("'show servers state' was answered with: %s" % (text[:200] or "nothing"))
    columns = lines[1][2:].split()
    return [dict(zip(columns, line.split(" "))) for line in lines[2:] if line and not line.startswith("#")]


def parse_tables(text):
    """`show table`: {name: {type, size, used}}."""
    tables = {}
    for line in text.splitlines():
        match = re.match(r"# table: (\S+), type: (\S+), size: ?(\d+), used: ?(\d+)", line)
        if match:
            tables[match.group(1)] = {
                "type": match.group(2), "size": int(match.group(3)), "used": int(match.group(4))}
    return tables


def parse_sessions(text):
    """`show sess`: list of {backend, server, source, frontend, age}, for those that have a server."""
    sessions = []
    for line in text.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if fields.get("srv") and fields["srv"] != "<none>":
            sessions.append({
                "backend": fields.get("be"), "server": fields["srv"], "source": fields.get("src"),
                "frontend": fields.get("fe"), "age": fields.get("age"),
            })
    return sessions


def integer(value):
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def counters_of(row):
    found = ((name, integer(row.get(name))) for name in COUNTERS)
    return {name: value for name, value in found if value is not None}


def failures(counters):
    """Requests that failed at a server (int), from its counters: answers of 500 and above, no answer, redispatched.

    HAProxy's own 502 to 504 for a server that failed are among its hrsp_5xx, where econ and eresp count them too.
    """
    return max(counters.get("hrsp_5xx", 0), counters.get("econ", 0) + counters.get("eresp", 0)) + counters.get("wredis", 0)


def answered(counters):
    """Requests that were answered or failed at a server (int), from its counters; of mode http alone."""
    answers = sum(counters.get(name, 0) for name in COUNTERS if name.startswith("hrsp_"))
    return answers - counters.get("hrsp_5xx", 0) + failures(counters)


def forced_state(bits):
    """What was asked for on the socket (or in the file), from srv_admin_state (int): ready, drain or maint."""
    return "maint" if bits & FORCED_MAINT else "drain" if bits & FORCED_DRAIN else "ready"


def effective_state(bits):
    """What holds, including what a tracked server or DNS imposes, from srv_admin_state (int)."""
    return "maint" if bits & ANY_MAINT else "drain" if bits & ANY_DRAIN else "ready"


def _server(state, stat):
    """One entry of `servers`, from a row of each listing (`stat` may be empty)."""
    bits = int(state["srv_admin_state"])
    check = int(state["srv_check_state"])
    checked = bool(check & CHECK_CONFIGURED)
    address = state.get("srv_addr")
    port = integer(state.get("srv_port"))
    check_addr = check_port = None
    if checked and "srv_check_port" in state:  # the columns came with 2.4
        check_addr = state["srv_check_addr"] if state.get("srv_check_addr", "-") != "-" else address
        check_port = integer(state["srv_check_port"]) or port
    rise, fall, health = (integer(stat.get(name)) for name in ("check_rise", "check_fall", "check_health"))
    return {
        "backend": state["be_name"],
        "name": state["srv_name"],
        "address": address,
        "port": port,
        "fqdn": None if state.get("srv_fqdn", "-") == "-" else state["srv_fqdn"],
        "weight": int(state["srv_uweight"]),
        "initial_weight": int(state["srv_iweight"]),
        "effective_weight": integer(stat.get("weight")),
        "slowstart": integer(stat.get("throttle")),
        "admin_state": effective_state(bits),
        "forced_state": forced_state(bits),
        "running": int(state["srv_op_state"]) > 0,
        "status": stat.get("status") or None,
        "lastchg": integer(stat.get("lastchg")),
        "checked": checked,
        "check_status": (stat.get("check_status") or "").replace("* ", "") or None,
        "check_failure": stat.get("last_chk") or None,
        # After `ready` a server counts as up at once and is looked at later. Only a passed check makes it whole again.
        "check_passed": None if None in (rise, fall, health) else bool(
            health >= rise + fall - 1 and (stat.get("check_status") or "INI").replace("* ", "") != "INI"),
        "check_addr": check_addr,
        "check_port": check_port,
        "agent": bool(stat.get("agent_status")),
        "backup": stat.get("bck") == "1",
        "tracked": stat.get("tracked") or None,
        "cookie": stat.get("cookie") or None,
        "sessions": integer(stat.get("scur")),
        "queue": integer(stat.get("qcur")),
        "idle": integer(stat.get("idle_conn_cur", stat.get("srv_icur"))),
        "counters": counters_of(stat),
        "times": {name: integer(stat.get(name)) for name in TIMES if integer(stat.get(name)) is not None},
    }


READ = ["show info", "show cli level", "show servers state", "show stat -1 6 -1", "show table"]


def snapshot(runtime):
    """Everything about one HAProxy: the structure that the modules return, and `raw`, the servers' state as text.

    :raises HaproxyError: the socket cannot be reached, may not read, or is no worker's socket.
    """
    info_text, level, state_text, stat_text, table_text = runtime.ask(READ)
    info = parse_info(info_text)
    for command, reply in zip(READ, (info_text, level, state_text, stat_text)):
        if reply.startswith(("Permission denied", "Unknown command")):
            raise HaproxyError(
                "%s: '%s' was answered with '%s'. HAProxy 2.2 or newer is needed, and a line 'stats socket ... level "
                "admin' in its haproxy.cfg." % (runtime.name, command, reply.splitlines()[0])
            )
    version = tuple(int(part) for part in re.findall(r"\d+", info.get("Version", ""))[:2])
    if version < (2, 2):
        raise HaproxyError("%s: HAProxy %s is too old, 2.2 is the least." % (runtime.name, info.get("Version")))
    try:
        states = parse_state(state_text)
        stats = parse_stat(stat_text)
    except HaproxyError as error:
        raise HaproxyError("%s: %s" % (runtime.name, error))
    tables = parse_tables(table_text)
    backends, rows = {}, {}
    for row in stats:
        if row["svname"] != "BACKEND":
            rows[row["pxname"], row["svname"]] = row
            continue
        algorithm = row.get("algo") or None
        backends[row["pxname"]] = {
            "mode": row.get("mode") or None,
            "algo": algorithm,
            "weights": WEIGHTS.get(algorithm, "unknown"),
            "cookie": row.get("cookie") or None,
            "stick": tables.get(row["pxname"]),
            "status": row.get("status") or None,
            "sessions": integer(row.get("scur")),
            "queue": integer(row.get("qcur")),
            "counters": counters_of(row),
        }
    if not backends:
        raise HaproxyError(
            "%s: this HAProxy process has no backend. Is it the one that is in front of Kong?" % runtime.name
        )
    uptime = integer(info.get("Uptime_sec")) or 0
    return {
        "socket": runtime.name,
        "node": info.get("node"),
        "version": info.get("Version"),
        "pid": integer(info.get("Pid")),
        "uptime": uptime,
        "started": integer(info.get("Start_time_sec")),
        "processes": integer(info.get("Nbproc")),
        "level": level.strip() or None,
        "state_file": None,
        "backends": backends,
        "servers": [_server(state, rows.get((state["be_name"], state["srv_name"]), {})) for state in states],
        "raw": state_text + "\n",
    }


def read_all(runtimes):
    """Snapshots of all sockets in parallel: (list of snapshot or None, list of problems)."""
    answers = parallel(snapshot, runtimes)
    problems = []
    for _unused, error in answers:
        if error is not None:
            problems.extend(error.details.get("problems", [str(error)]))
    return [found for found, _unused in answers], problems


def find(view, backend, name):
    """The server of a snapshot, or None."""
    for server in view["servers"]:
        if server["backend"] == backend and server["name"] == name:
            return server
    return None


def label(server):
    """How messages name a server: backend/name."""
    return "%s/%s" % (server["backend"], server["name"])


def select(view, backends=None, servers=None):
    """A snapshot without `raw`, cut down to some backends or server names (collections of str; None: all)."""
    chosen = [server for server in view["servers"]
              if (backends is None or server["backend"] in backends)
              and (servers is None or server["name"] in servers or label(server) in servers)]
    kept = {server["backend"] for server in chosen} if servers is not None else backends
    answer = {key: value for key, value in view.items() if key != "raw"}
    answer["servers"] = chosen
    answer["backends"] = {name: value for name, value in view["backends"].items() if kept is None or name in kept}
    return answer
