# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx as a load balancer: its servers are in a file, which it reads when it is reloaded.

Open source nginx tells nothing about its servers at run time. Which workers have which configuration, and what
connections they have, is read from /proc; requests are counted in an access log. Where behaviour is said to be nginx's,
it was seen with 1.22. Times are seconds.
"""

import os
import re
import socket
import stat
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _nginx_conf, _process
from ansible_collections.bluegreen.kong.plugins.module_utils._files import read_text, replace
from ansible_collections.bluegreen.kong.plugins.module_utils._lb import Balancer, LbError, call, label

#: Seconds between two looks at nginx's workers.
POLL = 0.05
#: Seconds that a server may take to accept a connection.
CONNECT = 2
#: Seconds by which the start of a process can be told wrongly: its clock ticks in hundredths, and so does the uptime.
TICKS = 0.03
#: What is quoted of nginx's words.
QUOTED = 1000
#: Bytes at the end of the log in which its format is looked for.
SAMPLE = 4096
WORKER, ENDING = "nginx: worker process", "nginx: worker process is shutting down"


class Nginx(Balancer):
    """One nginx on this host.

    :param path: str, the file with the upstreams.
    :param upstreams: list of str, those in question; empty for all in the file.
    :param command: list of str, the nginx command with the arguments that say which nginx is meant (-p, -c).
    :param reload: list of str, the command that makes it read its configuration again.
    :param pid_file: str. log: str or None, an access log of '$upstream_addr|$upstream_status'.
    :param timeout: seconds for each command, and for a reload to be in force.
    """

    told_up = "no connection can be made"

    def __init__(self, path, upstreams, command, reload, pid_file, log, timeout):
        self.path, self.chosen, self.command, self.pid_file, self.log, self.timeout = path, upstreams, command, pid_file, log, timeout
        self.reload = reload or command + ["-s", "reload"]
        self.told = "%s has" % path
        self.goal = {}
        self.tail = None

    # ---- what it is --------------------------------------------------------------------------------------------

    def problems(self):
        """What keeps this nginx from being led; everything that can be known at once."""
        problems = []
        for look in (self._problems_of_file, self._problems_of_process):
            try:
                problems += look()
            except LbError as error:
                problems += error.problems
        return problems

    def _problems_of_file(self):
        """Sentences about the upstreams of the file."""
        found = self.read()
        names = [upstream.name for upstream in found]
        problems = ["upstreams: %s no upstream %s. There are: %s." % (self.told, name, ", ".join(names) or "none at all")
                    for name in self.chosen if name not in names]
        if not self.chosen and not self.select(found):
            problems.append("%s no upstream with `server` lines of its own. Name the file that has them." % self.told)
        for upstream in self.select(found):
            where = "%s: upstream %s" % (self.path, upstream.name)
            if not upstream.servers:
                problems.append("%s has no `server` line of its own. Name the file that has them." % where)
            seen = [server.name for server in upstream.servers]
            problems += ["%s has the server %s more than once." % (where, name) for name in sorted(set(seen)) if seen.count(name) > 1]
        if not os.access(os.path.dirname(os.path.realpath(self.path)), os.W_OK):
            problems.append("%s: its folder is not writable for this user. Use become." % self.path)
        return problems

    def _problems_of_process(self):
        """Sentences about the process and the access log that it writes. LbError when it does not run."""
        self.master()
        if not self.log:
            return []
        try:
            with open(self.log, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                stream.seek(max(0, size - SAMPLE))
                lines = stream.read().decode("utf-8", "replace").splitlines()
        except (IOError, OSError) as error:
            return ["log: %s cannot be read: %s. nginx makes it when it is reloaded with an access_log there." % (
                self.log, error.strerror)]
        if not self._opens(self.log):
            return ["log: nginx does not write %s. Give it an access_log of the format '$upstream_addr|$upstream_status' there, and "
                    "reload it." % self.log]
        if lines and parse_line(lines[-1]) is None:
            return ["log: the last line of %s is not of the format '$upstream_addr|$upstream_status': %s" % (
                self.log, lines[-1][:100])]
        return []

    def _opens(self, path):
        """Whether the master has a file open, as it has each of its logs."""
        folder = "/proc/%d/fd" % self.master().pid
        try:
            return os.path.realpath(path) in {os.path.realpath(os.path.join(folder, name)) for name in os.listdir(folder)}
        except (IOError, OSError):
            raise LbError("The files that nginx has open cannot be seen. Use become.")

    def read(self):
        """The upstreams of the file as it is: list of Upstream."""
        try:
            text = read_text(self.path)
            return _nginx_conf.upstreams(text, os.path.splitext(os.path.basename(self.path))[0])
        except (IOError, OSError) as error:
            raise LbError("%s cannot be read: %s." % (self.path, error.strerror))
        except _nginx_conf.Unreadable as error:
            raise LbError("%s is no nginx configuration: %s." % (self.path, error))

    def select(self, found):
        """Those of the upstreams that are in question, of those that have servers if none is named."""
        return [upstream for upstream in found if upstream.name in self.chosen or not self.chosen and upstream.servers]

    def backends(self):
        """Names of the upstreams in question."""
        return [upstream.name for upstream in self.select(self.read())]

    def servers(self, backend):
        """{name: Server} of an upstream."""
        for upstream in self.read():
            if upstream.name == backend:
                return {server.name: server for server in upstream.servers}
        raise LbError("%s no upstream %s any more." % (self.told, backend))

    def has(self, name):
        """Health is a connection; requests are counted where there is a log."""
        return name in ("apply", "up") or (name == "counters" and bool(self.log))

    def weights(self, backend):
        """What the file says: {server: weight}, 0 for `down`. Whether that is in force is for `pending`."""
        return {name: 0 if server.down else server.weight for name, server in self.servers(backend).items()}

    def refusals(self, wanted):
        """A backup server gets traffic only when all others fail."""
        return ["servers: %s is a backup server, which gets no share of the traffic. Take `backup` from its line in %s." % (
            label(key), self.path) for key, weight in sorted(wanted.items()) if weight and self.servers(key[0])[key[1]].backup]

    def facts(self, looks):
        """Path, pid, upstreams and, where it is asked to look, what `nginx -T` tells."""
        answer = {
            "path": self.path,
            "pid": self.master().pid,
            "pending": self.pending(),
            "upstreams": {upstream.name: {
                "method": " ".join(upstream.method), "backup": [server.name for server in upstream.servers if server.backup],
            } for upstream in self.select(self.read())},
        }
        if looks:
            answer.update(self._configuration())
        return answer

    # ---- change ------------------------------------------------------------------------------------------------

    def run(self, name, backend, server="", weight="", state=""):
        """set_weight keeps in mind what apply then writes, so that there is one reload for all."""
        if name == "apply":
            self.apply()
        else:
            self.goal[(backend, server)] = weight

    def apply(self):
        """Writes what is to be, lets nginx test it, and reloads; the file is put back when nginx refuses."""
        goal, self.goal = self.goal, {}
        before = read_text(self.path)
        found = [(upstream.name, server) for upstream in self.read() for server in upstream.servers]
        after = _nginx_conf.edit(before, [(server, goal[(name, server.name)]) for name, server in found if (name, server.name) in goal])
        if after == before and not self.pending():
            return
        self.test(" as it is, before any change")
        if after == before:
            self.reload_and_wait()
            return
        self.write(after)
        try:
            self.test(" with the change")
            self.reload_and_wait()
        except LbError:
            self.write(before)
            raise

    def write(self, text):
        """Replaces the file in one step."""
        try:
            replace(self.path, text)
        except (IOError, OSError) as error:
            raise LbError("%s cannot be written: %s." % (self.path, error.strerror))

    def nginx(self, words, what):
        """Runs the nginx command: what it says on its standard output. LbError with its words when it fails."""
        code, out, err = call(self.command + words, self.timeout, "nginx")
        if code:
            raise LbError("nginx refuses its configuration%s: %s" % (what, err.strip()[-QUOTED:] or "exit code %d." % code))
        return out

    def test(self, what):
        """Lets nginx test its whole configuration; LbError with what it says."""
        self.nginx(["-t", "-q"], what)

    def reload_and_wait(self):
        """Reloads; returns when new workers take the requests and no other does."""
        master, before = self.master(), {worker.pid for worker in self.workers() if not ending(worker)}
        code, out, err = call(self.reload, self.timeout, "reload")
        if code:
            raise LbError("%s: exit code %d: %s" % (" ".join(self.reload), code, (err or out).strip()[-QUOTED:]))
        until = time.monotonic() + self.timeout
        while True:
            if self.master().pid != master.pid:
                raise LbError("nginx has another master process than before the reload: did %s restart it?" % " ".join(self.reload))
            taking = {worker.pid for worker in self.workers() if not ending(worker)}
            if taking and not taking & before:
                return
            if time.monotonic() >= until:
                raise LbError("nginx has not taken over its configuration %s s after %s: %s. Its error log tells why." % (
                    self.timeout, " ".join(self.reload),
                    "workers from before still take requests" if taking else "no worker takes requests"))
            time.sleep(POLL)  # between two looks at processes that are not our children

    # ---- processes ---------------------------------------------------------------------------------------------

    def master(self):
        """The master process: Process. LbError when there is none."""
        try:
            with open(self.pid_file) as stream:
                text = stream.read().strip()
        except (IOError, OSError) as error:
            raise LbError("pid_file: %s cannot be read: %s. Does nginx run? Give the path that `pid` in nginx.conf names." % (
                self.pid_file, error.strerror))
        process = _process.read_process(int(text)) if text.isdigit() else None
        if not process or not process.alive or not title(process).startswith("nginx: master process"):
            raise LbError("pid_file: %s names no running master process of nginx: %s." % (self.pid_file, text[:20] or "it is empty"))
        return process

    def workers(self):
        """All worker processes, also those that a reload has left to finish what they have: list of Process."""
        return [process for process in _process.workers(self.master()) if title(process).startswith(WORKER)]

    def pending(self, path=None):
        """Whether the file, or another one, was changed after the workers that take requests have begun."""
        return any(not ending(worker) for worker in self.outdated(path or self.path))

    def outdated(self, path):
        """The workers that have begun before a file was last changed."""
        changed = os.stat(path).st_ctime
        return [worker for worker in self.workers() if worker.since < changed - TICKS]

    def leaving(self):
        """The workers that may still send a request to a server that is `down` by now."""
        found = {worker.pid: worker for worker in self.outdated(self.path)}
        found.update((worker.pid, worker) for worker in self.workers() if ending(worker))
        return sorted(found)

    def sessions(self, backend, server):
        """Connections of all workers to a server, and workers that do not know yet that it gets no more."""
        addresses, number = set(resolve(self.servers(backend)[server].address)), 0
        for worker in self.workers():
            found = _process.connections_to(worker.pid, addresses)
            if found is None:
                raise LbError("The connections of nginx's worker %d cannot be seen. Use become." % worker.pid)
            number += sum(found.values())
        return number + len(self.leaving())

    def about_sessions(self):
        """Which workers from before a reload are left."""
        left = self.leaving()
        if not left:
            return ""
        return "Workers from before a reload still finish requests, to whichever server: pid %s; worker_shutdown_timeout ends them." % (
            ", ".join(str(pid) for pid in left))

    def up(self, backend, server):
        """Whether a connection to every address of a server can be made from here."""
        address = self.servers(backend)[server].address
        try:
            for place in resolve(address):
                connect(place)
        except (IOError, OSError):
            return False
        return True

    # ---- counters ----------------------------------------------------------------------------------------------

    def counters(self, backend):
        """Requests and failures since the first call: {server: {"requests": n, "failures": n}}."""
        try:
            self.tail = self.tail or Tail(self.log)
            self.tail.read()
        except (IOError, OSError) as error:
            raise LbError("log: %s cannot be read: %s." % (self.log, error.strerror))
        servers, counts = self.servers(backend), {}
        for name, server in servers.items():
            addresses = {text_of(place) for place in resolve(server.address)}
            if not server.down:
                addresses.add(backend)  # nginx names the upstream where it found no server that it could ask
            counts[name] = {
                "requests": sum(self.tail.requests.get(address, 0) for address in addresses),
                "failures": sum(self.tail.failures.get(address, 0) for address in addresses),
            }
        return counts

    # ---- nginx -T ----------------------------------------------------------------------------------------------

    def _configuration(self):
        """What its whole configuration tells. LbError when nginx refuses it, or does not have the file in it."""
        files = dumped(self.nginx(["-T"], " as it is"))
        mine = os.path.realpath(self.path)
        if mine not in {os.path.realpath(path) for path in files}:
            raise LbError("%s is not part of nginx's configuration. Include it there, or name the file that is." % self.path)
        return {
            "changed_files": [path for path in sorted(files) if os.path.realpath(path) != mine and self.pending(path)],
            "cuts_idle": cuts_idle(files.values()),
        }


def title(process):
    """What a process calls itself: nginx tells its role there."""
    try:
        with open("/proc/%d/cmdline" % process.pid, "rb") as stream:
            return stream.read().decode("utf-8", "replace").replace("\0", " ").strip()
    except (IOError, OSError):
        return ""


def ending(process):
    """Whether a worker takes no more requests, or has just gone."""
    return title(process) in ("", ENDING)


def resolve(address):
    """Where connections to a server of an upstream go: list of (IP address, port), or of paths of UNIX sockets."""
    if address.startswith("unix:"):
        return [address[5:]]
    host = _nginx_conf.host_of(address)
    port = int(address[len(host) + 1:] or 80)
    flags = 0 if re.match(r"\[|[0-9.]+\Z", host) else socket.AI_ADDRCONFIG  # as nginx does for a name
    try:
        return sorted({item[4][:2] for item in socket.getaddrinfo(host.strip("[]"), port, 0, socket.SOCK_STREAM, 0, flags)})
    except socket.gaierror as error:
        raise LbError("The address of the server %s is not known here: %s." % (address, error.strerror))


def text_of(place):
    """A place of `resolve` as $upstream_addr tells it."""
    if not isinstance(place, tuple):
        return "unix:%s" % place
    return "%s:%d" % ("[%s]" % place[0] if ":" in place[0] else place[0], place[1])


def connect(place):
    """Makes a connection to a place of `resolve` and closes it. Raises OSError."""
    if isinstance(place, tuple):
        socket.create_connection(place, CONNECT).close()
        return
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.settimeout(CONNECT)
        channel.connect(place)
    finally:
        channel.close()


def parse_line(line):
    """Whom a request was sent to: list of (address, status); None if the line is not of the format.

    A request that one server did not answer and another got has two; `-` is one that nginx answered itself.
    """
    fields = line.rstrip("\r\n").split("|")
    if len(fields) < 2:
        return None
    addresses, statuses = (re.split(r", | : ", field) for field in fields[:2])
    if len(addresses) != len(statuses) or not all(re.match(r"(-|[0-9]{3})\Z", status) for status in statuses):
        return None
    return list(zip(addresses, statuses))


class Tail(object):
    """What is written to a log from now on, also over its rotation."""

    def __init__(self, path):
        self.path = path
        self.requests, self.failures = {}, {}
        self.streams = [open(path, "rb")]
        self.streams[0].seek(0, os.SEEK_END)

    def read(self):
        """Counts the lines that have come since. A log that was cut short is counted anew, with lower numbers."""
        try:
            now = os.stat(self.path)
        except OSError:
            now = None  # between the two steps of a rotation
        last = os.fstat(self.streams[-1].fileno())
        if now and (now.st_dev, now.st_ino) != (last.st_dev, last.st_ino):
            self.streams.append(open(self.path, "rb"))
        elif stat.S_ISREG(last.st_mode) and last.st_size < self.streams[-1].tell():
            self.requests, self.failures = {}, {}
            self.streams[-1].seek(0)
        for stream in self.streams:  # the old one too: workers write to it until they are told
            for line in lines_of(stream):
                self.count(line)

    def count(self, line):
        """Counts one line."""
        for address, status in parse_line(line) or []:
            self.requests[address] = self.requests.get(address, 0) + 1
            if status.isdigit() and int(status) >= 500:
                self.failures[address] = self.failures.get(address, 0) + 1


def lines_of(stream):
    """Whole lines that a stream has more, as text; what comes after the last of them is left for the next time."""
    while True:
        place = stream.tell()
        line = stream.readline()
        if not line.endswith(b"\n"):
            stream.seek(place)
            return
        yield line.decode("utf-8", "replace")


def dumped(text):
    """The files of `nginx -T`: {path: text}."""
    parts = re.split(r"^# configuration file (.*):$\n", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def cuts_idle(texts):
    """Whether a reload closes idle connections at once, on which a client may just be sending a request.

    It does not where connections are never idle (`keepalive_timeout 0`), or are kept for a while (`keepalive_min_timeout`).
    """
    for text in texts:
        try:
            directives = [[word.value for word in directive.words] for directive in _nginx_conf.walk(_nginx_conf.parse(text))]
        except _nginx_conf.Unreadable:
            continue  # nginx has just read it: it is the language of a module, which is not about this
        for words in directives:
            zero = re.match(r"0+[a-z]*\Z", words[1]) if len(words) > 1 else None
            if (words[0] == "keepalive_timeout" and zero) or (words[0] == "keepalive_min_timeout" and not zero):
                return False
    return True
