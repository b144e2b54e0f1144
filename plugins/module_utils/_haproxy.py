# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy through its runtime sockets: read, change, wait, watch; many servers on many HAProxies in one go.

Where behaviour is said to be HAProxy's, it was read off 2.2, 2.6, 2.8 and 3.5 themselves. Times are seconds.
"""

import csv
import errno
import os
import re
import shutil
import socket
import struct
import tempfile
import threading
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy_conf
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError

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


class HaproxyError(KongError):
    """Something about HAProxy that ends the module. `problems` in the details is the list the message was made of."""

    def __init__(self, problems, **details):
        if not isinstance(problems, list):
            problems = [problems]
        message = problems[0] if len(problems) == 1 else "%d problems: %s" % (
            len(problems), " ".join("(%d) %s" % item for item in enumerate(problems, 1)))
        super(HaproxyError, self).__init__(message, problems=problems, **details)
        self.problems = problems


class SocketError(HaproxyError):
    """A runtime socket cannot be reached, or broke off."""


def parallel(function, items):
    """Runs function(item) for every item, each in a thread of its own.

    :returns: list of (result, None) or (None, KongError), in the order of `items`. Any other exception is raised here.
    """
    answers = [None] * len(items)

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


def _int(value):
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _counters(row):
    found = ((name, _int(row.get(name))) for name in COUNTERS)
    return {name: value for name, value in found if value is not None}


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
    port = _int(state.get("srv_port"))
    check_addr = check_port = None
    if checked and "srv_check_port" in state:  # the columns came with 2.4
        check_addr = state["srv_check_addr"] if state.get("srv_check_addr", "-") != "-" else address
        check_port = _int(state["srv_check_port"]) or port
    rise, fall, health = (_int(stat.get(name)) for name in ("check_rise", "check_fall", "check_health"))
    return {
        "backend": state["be_name"],
        "name": state["srv_name"],
        "address": address,
        "port": port,
        "fqdn": None if state.get("srv_fqdn", "-") == "-" else state["srv_fqdn"],
        "weight": int(state["srv_uweight"]),
        "initial_weight": int(state["srv_iweight"]),
        "effective_weight": _int(stat.get("weight")),
        "slowstart": _int(stat.get("throttle")),
        "admin_state": effective_state(bits),
        "forced_state": forced_state(bits),
        "running": int(state["srv_op_state"]) > 0,
        "status": stat.get("status") or None,
        "lastchg": _int(stat.get("lastchg")),
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
        "sessions": _int(stat.get("scur")),
        "queue": _int(stat.get("qcur")),
        "idle": _int(stat.get("idle_conn_cur", stat.get("srv_icur"))),
        "counters": _counters(stat),
        "times": {name: _int(stat.get(name)) for name in TIMES if _int(stat.get(name)) is not None},
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
            "sessions": _int(row.get("scur")),
            "queue": _int(row.get("qcur")),
            "counters": _counters(row),
        }
    if not backends:
        raise HaproxyError(
            "%s: this HAProxy process has no backend. Is it the one that is in front of Kong?" % runtime.name
        )
    uptime = _int(info.get("Uptime_sec")) or 0
    return {
        "socket": runtime.name,
        "node": info.get("node"),
        "version": info.get("Version"),
        "pid": _int(info.get("Pid")),
        "uptime": uptime,
        "started": _int(info.get("Start_time_sec")),
        "processes": _int(info.get("Nbproc")),
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


# What runs on this host: only for sockets that are paths.

def command_line(pid):
    """The words that a local HAProxy was started with (list of str); [] when there is no such process to be seen here."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as source:
            argv = source.read().decode("utf-8", "replace").split("\0")[:-1]
    except (OSError, TypeError):
        return []
    return argv if argv and "haproxy" in os.path.basename(argv[0]) else []


def running_files(pid):
    """The configuration files a local HAProxy was started with, from its command line: list of absolute paths.

    Empty when the process is not to be seen (another host or container), or takes no file.
    """
    argv = command_line(pid)
    try:
        folder = os.readlink("/proc/%d/cwd" % pid) if argv else None
    except OSError:
        return []
    given, index = [], 1
    while index < len(argv):
        if argv[index] == "--":
            given.extend(argv[index + 1:])
            break
        if argv[index] in ("-f", "-C") and index + 1 < len(argv):
            if argv[index] == "-C":
                folder = os.path.join(folder, argv[index + 1])
            else:
                given.append(argv[index + 1])
            index += 1
        index += 1
    files = []
    for path in given:
        path = os.path.join(folder, path)
        if os.path.isdir(path):
            files.extend(os.path.join(path, name) for name in sorted(os.listdir(path))
                         if name.endswith(".cfg") and not name.startswith("."))
        else:
            files.append(path)
    return files


def _parent(pid):
    """(state letter, parent's pid) of a process, (None, None) when it has gone."""
    try:
        with open("/proc/%d/stat" % pid) as source:
            state, parent = source.read().rpartition(")")[2].split()[:2]
            return state, int(parent)
    except (OSError, ValueError):
        return None, None


def older_processes(pid):
    """Local HAProxy processes that a reload has left to finish what they have: sorted list of pids.

    Their sessions are on no runtime socket any more. They are the other children of a master process, and the pids
    after -sf (or -st) in the command line.
    """
    argv = command_line(pid)
    if not argv:
        return []
    found = set()
    for flag in ("-sf", "-st"):
        if flag in argv:
            for word in argv[argv.index(flag) + 1:]:
                if not word.isdigit():
                    break
                found.add(int(word))
    master = _parent(pid)[1]
    if master and master > 1 and command_line(master):
        found.update(int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(int(name))[1] == master)
    return sorted(other for other in found - {pid, master}
                  if command_line(other) and _parent(other)[0] not in (None, "Z", "X"))


def connections_to(pid, addresses):
    """How many TCP connections a process has to some addresses.

    :param addresses: set of (IP address as str, port).
    :returns: {address: number}, or None when this user may not look into the process.
    """
    try:
        folder = "/proc/%d/fd" % pid
        inodes = set()
        for name in os.listdir(folder):
            try:
                inodes.add(os.readlink(os.path.join(folder, name)))
            except OSError:
                continue  # closed meanwhile
        lines = []
        for table in ("tcp", "tcp6"):
            with open("/proc/%d/net/%s" % (pid, table)) as source:
                lines.extend(source.readlines()[1:])
    except OSError as error:
        return {} if error.errno in (errno.ENOENT, errno.ESRCH) else None
    found = {}
    for line in lines:
        fields = line.split()
        if fields[3] in ("01", "08") and "socket:[%s]" % fields[9] in inodes:  # ESTABLISHED, CLOSE_WAIT
            remote = _address(fields[2])
            if remote in addresses:
                found[remote] = found.get(remote, 0) + 1
    return found


def _address(text):
    """(IP address, port) from the notation of /proc/net/tcp: 32-bit words in the machine's byte order."""
    digits, port = text.split(":")
    packed = b"".join(struct.pack("=I", int(digits[index:index + 8], 16)) for index in range(0, len(digits), 8))
    if len(packed) == 16 and packed.startswith(b"\0" * 10 + b"\xff\xff"):
        packed = packed[12:]
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed), int(port, 16)


def read_text(path):
    """A file as str that gives back the same bytes when encoded the same way."""
    with open(path, "rb") as source:
        return source.read().decode("utf-8", "surrogateescape")


def learn_from_files(view, paths):
    """Adds to a snapshot what only the configuration files tell: state_file, and per backend hash_type, load_state.

    What cannot be read stays None: the sockets alone are enough for everything else.
    """
    texts = []
    for path in paths:
        try:
            texts.append(read_text(path))
        except OSError:
            continue  # learning is a bonus; a file that is to be changed is opened elsewhere, and complained about there
    settings = _haproxy_conf.global_settings(texts)
    if settings["server_state_file"]:
        view["state_file"] = os.path.join(settings["server_state_base"] or "", settings["server_state_file"])
        if not os.path.isabs(view["state_file"]):
            view["state_file"] = None
    told = _haproxy_conf.backend_settings(texts)
    for name, backend in view["backends"].items():
        backend["hash_type"] = told.get(name, {}).get("hash_type")
        backend["load_state"] = told.get(name, {}).get("load_state") or ("none" if name in told else None)
        backend["cuts_when_down"] = told.get(name, {}).get("cuts_when_down")
        # All other algorithms hash something: dynamic with `hash-type consistent`, static with map-based, the default.
        if backend["weights"] == "unknown" and name in told and backend["algo"]:
            consistent = (backend["hash_type"] or "map-based") == "consistent"
            backend["weights"] = "dynamic" if consistent else "static"


def learn(view, runtime, paths=()):
    """learn_from_files with `paths`, or with what the running process was started with."""
    learn_from_files(view, list(paths) or (running_files(view["pid"]) if runtime.path else []))


# What is asked for.

class Target(object):
    """One server on one socket, and what it shall become.

    `before` is its entry in the first snapshot; `weight` (int) and `state` (str) may be None: leave as it is.
    """

    def __init__(self, socket_index, before):
        self.socket = socket_index
        self.before = before
        self.weight = None
        self.state = None

    @property
    def key(self):
        """(backend, name)."""
        return self.before["backend"], self.before["name"]

    def end_weight(self):
        """The weight at the end, int."""
        return self.before["weight"] if self.weight is None else self.weight

    def end_state(self):
        """The forced state at the end."""
        return self.state or self.before["forced_state"]

    def differs(self):
        """Whether anything is to be done."""
        return self.end_weight() != self.before["weight"] or self.end_state() != self.before["forced_state"]


def _matches(view, name, backend=None):
    """Servers of a snapshot that a request means. `name` may also be backend/name."""
    if backend is None and "/" in name:
        backend, name = name.split("/", 1)
    return [server for server in view["servers"]
            if server["name"] == name and (backend is None or server["backend"] == backend)]


def _unknown(view, name, backend=None):
    """The sentence about a request that means nothing on this HAProxy."""
    if backend is None and "/" in name:
        backend, name = name.split("/", 1)
    if backend is not None and backend not in view["backends"]:
        return "%s: there is no backend '%s'. Backends are: %s." % (
            view["socket"], backend, ", ".join(sorted(view["backends"])))
    names = {server["name"] for server in view["servers"] if backend in (None, server["backend"])}
    return "%s: there is no server '%s' in %s. Servers are: %s." % (
        view["socket"], name, "backend '%s'" % backend if backend else "any backend", ", ".join(sorted(names)) or "none")


def resolve(views, requests):
    """Turns requests into targets on every socket: (list of Target, list of problems).

    :param requests: list of dict: name, backend (or None), weight (or None), state (or None).
    """
    targets, problems = {}, []
    for request in requests:
        name = request["name"]
        weight, state = request.get("weight"), request.get("state")
        if weight is not None and not 0 <= weight <= MAXIMUM_WEIGHT:
            problems.append("servers: %s: weight %d is not between 0 and %d." % (name, weight, MAXIMUM_WEIGHT))
        for index, view in enumerate(views):
            if view is None:
                continue
            matches = _matches(view, name, request.get("backend"))
            if not matches:
                problems.append(_unknown(view, name, request.get("backend")))
            for server in matches:
                target = targets.setdefault((index, server["backend"], server["name"]), Target(index, server))
                for attribute, value in (("weight", weight), ("state", state)):
                    if value is None:
                        continue
                    if getattr(target, attribute) not in (None, value):
                        problems.append("servers: %s is given two values for %s: %s and %s." % (
                            label(server), attribute, getattr(target, attribute), value))
                    setattr(target, attribute, value)
                kind = view["backends"][server["backend"]]
                if (weight is not None and kind["weights"] == "static"
                        and weight not in (0, server["initial_weight"], server["weight"])):
                    problems.append(
                        "%s: %s: balance %s%s takes no weight but 0 and the initial %d at run time. Use roundrobin, "
                        "leastconn, random or 'hash-type consistent', or steps of 0 and 100 percent."
                        % (view["socket"], label(server), kind["algo"],
                           " (hash-type map-based)" if kind["algo"] != "static-rr" else "", server["initial_weight"])
                    )
    return [targets[key] for key in sorted(targets)], problems


def resolve_names(views, names, option):
    """Names of `wait`: (set of (socket index, backend, name), list of problems)."""
    found, problems = set(), []
    for name in names:
        for index, view in enumerate(views):
            if view is None:
                continue
            matches = _matches(view, name)
            if not matches:
                problems.append("%s: %s" % (option, _unknown(view, name)))
            found.update((index, server["backend"], server["name"]) for server in matches)
    return found, problems


def _takes_traffic(server, state, weight, up):
    return state == "ready" and weight > 0 and up


def without_usable(views, targets, awaited):
    """Sentences about backends that would be left without a usable server.

    Usable: ready, weight above 0, and up or not checked. Counted over the requested end; a server that is in `awaited`
    (set of (socket index, backend, name)) counts as up, because nothing is taken away before it is. A server that
    follows another one (`track`) follows it here too.
    """
    problems = []
    wanted = {(target.socket,) + target.key: target for target in targets}
    for index, view in enumerate(views):
        if view is None:
            continue
        touched = {target.before["backend"] for target in targets if target.socket == index and target.differs()}
        ends = {}
        for server in view["servers"]:
            target = wanted.get((index, server["backend"], server["name"]))
            ends[label(server)] = target.end_state() if target else server["forced_state"]
        followers = {label(server): server["tracked"] for server in view["servers"] if server["tracked"]}
        for follower, leader in followers.items():
            if ends.get(leader, "ready") != "ready":
                touched.add(follower.rsplit("/", 1)[0])
        for backend in sorted(touched):
            usable, able, usable_then, able_then = 0, 0, 0, 0
            left = []
            for server in view["servers"]:
                if server["backend"] != backend:
                    continue
                key = (index, backend, server["name"])
                target = wanted.get(key)
                weight = target.end_weight() if target else server["weight"]
                state = server["admin_state"]
                if target or server["tracked"]:
                    state = ends[label(server)]
                    if state == "ready" and server["tracked"]:
                        state = ends.get(server["tracked"], "ready")
                up_now = server["running"]
                up_then = server["running"] or key in awaited or (
                    state == "ready" and server["admin_state"] == "maint" and not server["checked"])
                usable += _takes_traffic(server, server["admin_state"], server["weight"], up_now)
                able += _takes_traffic(server, server["admin_state"], server["weight"], True)
                usable_then += _takes_traffic(server, state, weight, up_then)
                able_then += _takes_traffic(server, state, weight, True)
                left.append("%s (%s, weight %d, %s)" % (server["name"], state, weight, server["status"]))
            if (usable and not usable_then) or (able and not able_then):
                problems.append(
                    "%s: backend '%s' would be left without a usable server: %s. A server is usable when it is ready, "
                    "has a weight above 0 and is up." % (view["socket"], backend, ", ".join(left)))
    return problems


def same_process(views):
    """Sentences about sockets that lead to one and the same process: its counters would be taken twice."""
    seen, problems = {}, []
    for view in views:
        if view is None or not view["pid"] or view["started"] is None:
            continue
        key = (view["node"], view["pid"], view["started"])
        if key in seen:
            problems.append("sockets: %s and %s are the same HAProxy process (pid %d on %s). Give one of them." % (
                seen[key], view["socket"], view["pid"], view["node"]))
        seen[key] = view["socket"]
    return problems


# Changing.

def set_weight(key, weight):
    """The runtime command; key is (backend, name)."""
    return "set server %s/%s weight %d" % (key + (weight,))


def set_state(key, state):
    """The runtime command; key is (backend, name)."""
    return "set server %s/%s state %s" % (key + (state,))


def commands(steps):
    """Commands that lead from one (weight, state) to another, what brings traffic first, what takes it away last.

    :param steps: list of (key, weight now, state now, weight then, state then).
    """
    bring, take = [], []
    for key, weight, state, new_weight, new_state in steps:
        if state != "ready" and new_state == "ready":
            # The weight first: a server must not wake up with one that it is not to have.
            if new_weight != weight:
                bring.append(set_weight(key, new_weight))
            bring.append(set_state(key, new_state))
            continue
        if new_weight != weight:
            (bring if new_weight > weight else take).append(set_weight(key, new_weight))
        if new_state != state:
            take.append(set_state(key, new_state))
    return bring + take


class Fleet(object):
    """All sockets of one call: what was found, what is to be, what was done."""

    def __init__(self, runtimes, views, targets):
        self.runtimes = runtimes
        self.views = views
        self.targets = targets
        #: (weight, forced state) of every target as it is now, to the best of our knowledge.
        self.now = {self._id(target): (target.before["weight"], target.before["forced_state"]) for target in targets}

    @staticmethod
    def _id(target):
        return (target.socket,) + target.key

    def move(self, goals):
        """Sets every target to its goal, reads every reply and then reads the values back.

        :param goals: {(socket index, backend, name): (weight, state)}; those left out stay.
        :returns: (number of commands sent, list of problems); with problems, some may have been set and others not.
        """
        plans = []
        for index, runtime in enumerate(self.runtimes):
            mine = {key: goal for key, goal in goals.items() if key[0] == index}
            steps = [(key[1:],) + self.now[key] + goal for key, goal in sorted(mine.items())]
            sent = commands(steps)
            if sent:
                plans.append((runtime, index, sent, mine))

        def send(plan):
            runtime, _index, sent, mine = plan
            replies = runtime.ask(sent + ["show servers state"])
            problems = ["%s: '%s' was answered with '%s'." % (runtime.name, command, reply.splitlines()[0].strip())
                        for command, reply in zip(sent, replies) if reply.strip()]
            if replies[-1].startswith("Permission denied"):
                raise HaproxyError("%s: %s" % (runtime.name, replies[-1]))
            return problems, read_back(parse_state(replies[-1]), mine)

        problems = []
        for plan, (result, error) in zip(plans, parallel(send, plans)):
            if error is not None:
                problems.extend(error.details.get("problems", [str(error)]))
                continue
            refused, found = result
            problems.extend(refused)
            for key, value in found.items():
                self.now[key] = value
            if not refused:
                problems.extend(differences(plan[0].name, plan[3], found, self.agents(key[0] for key in plan[3])))
        return sum(len(plan[2]) for plan in plans), problems

    def agents(self, indexes):
        """Keys of servers whose weight an agent also sets, on these sockets."""
        return {(index, server["backend"], server["name"]) for index in set(indexes)
                for server in self.views[index]["servers"] if server["agent"]}

    def refresh(self):
        """Reads what is set now into `now`; returns problems of sockets that do not answer."""
        touched = sorted({target.socket for target in self.targets})
        answers = parallel(lambda index: parse_state(self.runtimes[index].ask(["show servers state"])[0]), touched)
        problems = []
        for index, (rows, error) in zip(touched, answers):
            if error is not None:
                problems.append(str(error))
            else:
                keys = [self._id(target) for target in self.targets if target.socket == index]
                self.now.update(read_back(rows, keys))
        return problems

    def put_back(self):
        """Sets everything to what it was before the first change; returns the problems met on the way."""
        problems = self.refresh()
        before = {self._id(target): (target.before["weight"], target.before["forced_state"])
                  for target in self.targets}
        problems.extend(self.move({key: goal for key, goal in before.items() if self.now[key] != goal})[1])
        return problems

    def fail_and_put_back(self, problems, **details):
        """Puts back and raises HaproxyError with everything that went wrong."""
        left = self.put_back()
        if left:
            problems = problems + ["Not everything could be put back to what it was: %s" % " ".join(left)]
        else:
            problems = problems + ["Everything that had been set was put back to what it was."]
        raise HaproxyError(problems, put_back=not left, changed=bool(left), **details)


def read_back(rows, keys):
    """(weight, forced state) of servers in a parsed `show servers state`: {(socket index, backend, name): ...}."""
    by_name = {(row["be_name"], row["srv_name"]): row for row in rows}
    found = {}
    for key in keys:
        row = by_name.get(tuple(key[1:]))
        if row is not None:
            found[key] = (int(row["srv_uweight"]), forced_state(int(row["srv_admin_state"])))
    return found


def differences(name, goals, found, agents=()):
    """Sentences about servers that are not what they were set to."""
    problems = []
    for key, goal in sorted(goals.items()):
        if key not in found:
            problems.append("%s: %s/%s has gone while it was being set." % ((name,) + tuple(key[1:])))
        elif found[key] != goal:
            problems.append("%s: %s/%s was set to weight %d, %s, but reads back as weight %d, %s.%s" % (
                (name,) + tuple(key[1:]) + goal + found[key] + (
                    " An agent check also sets this server's weight." if key in agents else "",)))
    return problems


# Waiting and watching.

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
    rise, fall, health = (_int(row.get(name)) for name in ("check_rise", "check_fall", "check_health"))
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
        problems.append("%s: %s/%s is not UP after %s s: %s, last check %s%s." % (
            fleet.runtimes[key[0]].name, key[1], key[2], timeout, row.get("status", "gone"),
            row.get("check_status", "").replace("* ", "") or "none",
            " (%s)" % row["last_chk"] if row.get("last_chk") else ""))
    return problems


def _busy(row):
    return (_int(row.get("scur")) or 0) + (_int(row.get("qcur")) or 0)


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
        for pid in older_processes(_int(info.get("Pid"))):
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
            counters = _counters(row)
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


def failures(counters):
    """Requests that failed at a server (int), from its counters: answers of 500 and above, no answer, redispatched.

    HAProxy's own 502 to 504 for a server that failed are among its hrsp_5xx, where econ and eresp count them too.
    """
    return max(counters.get("hrsp_5xx", 0), counters.get("econ", 0) + counters.get("eresp", 0)) + counters.get("wredis", 0)


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


# Files.

def replace(path, text, mode=None):
    """Replaces a file in one step; mode, owner and extended attributes of the old one stay. Follows a symbolic link."""
    path = os.path.realpath(path)
    handle, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as target:
            target.write(text.encode("utf-8", "surrogateescape"))
            target.flush()
            os.fsync(target.fileno())
        if os.path.exists(path):
            status = os.stat(path)
            shutil.copystat(path, temporary)
            os.utime(temporary)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(temporary, status.st_uid, status.st_gid)
        else:
            os.chmod(temporary, 0o644 if mode is None else mode)
        os.rename(temporary, path)
    except Exception:  # whatever it was: no half file stays, and it is raised again
        os.unlink(temporary)
        raise


def copy(path, destination):
    """A copy with the same mode, owner and times, never more readable than the original in between."""
    handle = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as target, open(path, "rb") as source:
        shutil.copyfileobj(source, target)
    status = os.stat(path)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(destination, status.st_uid, status.st_gid)
    shutil.copystat(path, destination)


def gist(text):
    """What matters in a state file: {(backend, server): (admin state, weight, initial weight, runs)}; {} if unreadable."""
    try:
        rows = parse_state(text)
        return {(row["be_name"], row["srv_name"]): (
            row["srv_admin_state"], row["srv_uweight"], row["srv_iweight"], row["srv_op_state"] != "0") for row in rows}
    except (HaproxyError, KeyError):
        return {}


def write_state(path, text):
    """Puts `show servers state` into a file unless it says the same already. Returns whether it wrote."""
    try:
        if gist(read_text(path)) == gist(text):
            return False
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise HaproxyError("state_file: %s cannot be read: %s." % (path, error.strerror))
    try:
        replace(path, text)
    except OSError as error:
        raise HaproxyError("state_file: %s cannot be written: %s." % (path, error.strerror))
    return True
