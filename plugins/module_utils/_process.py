# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes and sockets of a running node, as /proc tells them.

Nothing here decides by the name of a process. A node is the process its pid file names, as long as that process is
alive, is no zombie, and is not another one that got the same number later.
"""

import os
import pwd
import socket
import struct
import time

from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError

# A process that began this many seconds after its pid file was written is another one (the clock ticks in 10 ms).
SLACK = 1.0
ESTABLISHED, CLOSE_WAIT, LISTEN = "01", "08", "0A"
# Seconds between two looks at the socket table.
SAMPLE_EVERY = 0.05


class ProcessError(KongError):
    """A process or its sockets could not be looked at, or did not end."""


class Process(object):
    """One process: pid, ppid, state (letter), ticks (start, clock ticks since boot), uid."""

    def __init__(self, pid, ppid, state, ticks, uid):
        self.pid, self.ppid, self.state, self.ticks, self.uid = pid, ppid, state, ticks, uid

    @property
    def alive(self):
        """A zombie has ended: nobody has collected it yet, that is all."""
        return self.state not in "ZX"

    @property
    def since(self):
        """When it began, seconds since 1970 by this host's clock."""
        return time.time() - uptime() + self.ticks / float(os.sysconf("SC_CLK_TCK"))

    @property
    def user(self):
        """Name of its user, or the number where there is no name."""
        return user_name(self.uid)


def user_name(uid):
    """Name of a user id, or its number as text."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def uptime():
    """Seconds since the boot, on the clock that process start times use."""
    with open("/proc/uptime") as stream:
        return float(stream.read().split()[0])


def read_process(pid):
    """The Process of a pid, or None when there is none."""
    try:
        with open("/proc/{0}/stat".format(pid), "rb") as stream:
            text = stream.read().decode("utf-8", "replace")
        uid = os.stat("/proc/{0}".format(pid)).st_uid
    except (IOError, OSError):
        return None
    # The second field is the name in parentheses, with anything in it.
    fields = text[text.rindex(")") + 2:].split()
    return Process(int(pid), int(fields[1]), fields[0], int(fields[19]), uid)


def same(process):
    """The process as it is now, or None when it has ended (also when its number belongs to another by now)."""
    now = read_process(process.pid)
    if now and now.alive and now.ticks == process.ticks:
        return now
    return None


def pid_file(prefix):
    """Where a node in this prefix keeps its master's pid."""
    return os.path.join(prefix, "pids", "nginx.pid")


def find_master(prefix):
    """The master process of the node that runs in this prefix, or None.

    Raises ProcessError when the pid file cannot be read.
    """
    path = pid_file(prefix)
    try:
        with open(path) as stream:
            text = stream.read().strip()
        written = os.stat(path).st_mtime
    except (IOError, OSError) as error:
        if os.path.lexists(path) or getattr(error, "errno", 0) == 13:
            raise ProcessError(
                "cannot read {0}: {1}; run this as the user that Kong runs as, or with become".format(path, error.strerror)
            )
        return None
    if not text.isdigit():
        return None
    process = read_process(int(text))
    if process is None or not process.alive:
        return None
    # The clock may have been set since: then what the process has open tells whether it is the node.
    if process.since > written + SLACK and not _uses(process.pid, prefix):
        return None
    return process


def stale_pid_file(prefix):
    """Path of a pid file that names no running node, or None. `kong start` takes a zombie's for a running one."""
    path = pid_file(prefix)
    return path if os.path.exists(path) and find_master(prefix) is None else None


def _uses(pid, prefix):
    """Whether a process has files of this prefix open, or names the prefix among its arguments."""
    root = os.path.realpath(prefix)
    try:
        with open("/proc/{0}/cmdline".format(pid), "rb") as stream:
            words = stream.read().decode("utf-8", "replace").replace("\0", " ").split()
        if prefix in words or root in words:
            return True
        names = os.listdir("/proc/{0}/fd".format(pid))
    except (IOError, OSError):
        return False
    for name in names:
        try:
            if os.readlink("/proc/{0}/fd/{1}".format(pid, name)).startswith(root.rstrip("/") + "/"):
                return True
        except OSError:
            continue
    return False


def everyone():
    """All processes that are alive, as a list of Process."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process and process.alive]


def tree(master):
    """The master and all its descendants that are alive, as a list of Process."""
    below, found, queue = {}, [], [master.pid]
    for process in everyone():
        below.setdefault(process.ppid, []).append(process)
        if process.pid == master.pid:
            found.append(process)
    while queue:
        some = below.get(queue.pop(), [])
        found += some
        queue += [process.pid for process in some]
    return found


def children(pid):
    """The children of a process that are alive, as a list of Process."""
    return [process for process in everyone() if process.ppid == pid]


def workers(master):
    """The children of a master that are alive, as a list of Process; [] of a node that is one process."""
    return children(master.pid)


def ancestors(pid):
    """Pids of the parents of a process, nearest first, up to and without 0."""
    found = []
    process = read_process(pid)
    while process and process.ppid and process.ppid not in found:
        found.append(process.ppid)
        process = read_process(process.ppid)
    return found


def wait_gone(processes, timeout):
    """Wait until all these processes have ended. Returns those that have not after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    left = list(processes)
    while True:
        left = [process for process in left if same(process)]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.05)


def socket_table(pid):
    """TCP sockets in the network namespace of a process: yields (state, (address, port), (address, port), inode)."""
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            with open("/proc/{0}/net/{1}".format(pid, name)) as stream:
                lines = stream.read().splitlines()[1:]
        except (IOError, OSError):
            continue
        for line in lines:
            fields = line.split(None, 10)
            yield fields[3], (fields[1], family), (fields[2], family), fields[9]


def connections(pid, ports):
    """Established TCP connections to remote ports, in the network namespace of a process: [((address, port), inode)].

    The kernel is asked for just these (sock_diag): a busy gateway has tens of thousands of sockets, and its table in /proc
    takes too long to be read twenty times a second. Where it cannot be asked, that table has to do.
    """
    try:
        if os.readlink("/proc/{0}/ns/net".format(pid)) == os.readlink("/proc/self/ns/net"):
            return [item for family in (socket.AF_INET, socket.AF_INET6) for port in ports for item in _ask_kernel(family, port)]
    except (OSError, AttributeError):
        pass
    return [
        (_address(local), inode)
        for state, local, remote, inode in socket_table(pid)
        if state == ESTABLISHED and _port(remote) in ports
    ]


def established(pid):
    """Established TCP connections in the network namespace of a process: yields both ends, ((address, port), (address, port))."""
    for state, local, remote, unused in socket_table(pid):
        if state == ESTABLISHED:
            yield _address(local), _address(remote)


def connections_to(pid, addresses):
    """How many TCP connections a process has to some addresses.

    :param addresses: set of (IP address as str, port).
    :returns: {address: number}, or None when this user may not look into the process.
    """
    process = read_process(pid)
    try:
        mine = socket_inodes([process]) if process else set()
    except ProcessError:
        return None
    found = {}
    for state, unused, remote, inode in socket_table(pid):
        if state in (ESTABLISHED, CLOSE_WAIT) and inode in mine and _address(remote) in addresses:
            found[_address(remote)] = found.get(_address(remote), 0) + 1
    return found


def _ask_kernel(family, port):
    """Established connections to one remote port, by NETLINK_SOCK_DIAG: yields ((address, port), inode). Raises OSError."""
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 1 << int(ESTABLISHED, 16))
    request += struct.pack(">HH", 0, port) + b"\0" * 44
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as kernel:
        kernel.settimeout(5)
        kernel.send(struct.pack("=IHHII", 16 + len(request), 20, 0x301, 1, 0) + request)
        while True:
            data, position = kernel.recv(1 << 16), 0
            while position + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, position)
                if kind == 3:
                    return
                if kind != 20 or length < 88:
                    raise OSError("sock_diag answers with message {0}".format(kind))
                family_, = struct.unpack_from("=B", data, position + 16)
                local, = struct.unpack_from(">H", data, position + 20)
                address = data[position + 24:position + (28 if family_ == socket.AF_INET else 40)]
                inode, = struct.unpack_from("=I", data, position + 84)
                yield (_text(family_, address), local), str(inode)
                position += (length + 3) & ~3


def _port(raw):
    return int(raw[0].rpartition(":")[2], 16)


def _address(raw):
    """'0100007F:1F40' as ('127.0.0.1', 8000)."""
    text, family = raw
    digits = text.partition(":")[0]
    words = [int(digits[i:i + 8], 16) for i in range(0, len(digits), 8)]
    return _text(family, b"".join(struct.pack("=I", word) for word in words)), _port(raw)


def _text(family, packed):
    """An address as text; IPv4 inside IPv6 becomes IPv4."""
    if family == socket.AF_INET6 and packed[:12] == b"\0" * 10 + b"\xff\xff":
        packed, family = packed[12:], socket.AF_INET
    return socket.inet_ntop(family, packed)


def socket_inodes(processes):
    """Inodes of the sockets that these processes have open.

    Raises ProcessError when one may not be looked into; one that has just ended has none.
    """
    inodes = set()
    for process in processes:
        folder = "/proc/{0}/fd".format(process.pid)
        try:
            names = os.listdir(folder)
        except OSError as error:
            if error.errno == 13:
                raise ProcessError(
                    "cannot see the sockets of process {0} of user {1}: run this as that user, or with become".format(
                        process.pid, process.user
                    )
                )
            continue
        for name in names:
            try:
                target = os.readlink(folder + "/" + name)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    return inodes


def sockets_to(master, ports, seconds=0.0, until=None):
    """The node's own ends of its connections to these remote ports: a sorted list of "address:port".

    The union over `seconds`, looked at every 50 ms (less often where one look takes longer than 12 ms). With 0 there is
    one look. ``until``: a function that tells the end instead, by time.monotonic(), or None while that is not known yet.
    Raises ProcessError.
    """
    deadline = time.monotonic() + seconds
    owned, foreign, found = set(), set(), set()
    while True:
        began = time.monotonic()
        end = until() if until else deadline
        candidates = connections(master.pid, ports)
        unknown = set(inode for unused, inode in candidates) - owned - foreign
        if unknown:
            mine = socket_inodes(tree(master))
            owned |= unknown & mine
            foreign |= unknown - mine
        found.update("{0}:{1}".format(*local) for local, inode in candidates if inode in owned)
        if end is not None and began >= end:
            return sorted(found)
        time.sleep(max(SAMPLE_EVERY, 4 * (time.monotonic() - began)))


def listening(master):
    """Where the node's processes listen: list of (address, port). Raises ProcessError."""
    mine = socket_inodes(tree(master))
    return sorted(set(_address(local) for state, local, unused, inode in socket_table(master.pid) if state == LISTEN and inode in mine))


def host_addresses():
    """IP addresses of this host's interfaces, loopback ones included, as a sorted list."""
    found = set()
    try:
        with open("/proc/net/fib_trie") as stream:
            last = ""
            for line in stream:
                line = line.strip()
                if line.startswith("|-- "):
                    last = line[4:]
                elif line.startswith("/32 host LOCAL"):
                    found.add(last)
    except (IOError, OSError):
        # No such table in this kernel: what the name of the host resolves to has to do.
        found.update(item[4][0] for item in _resolve(socket.gethostname()))
    try:
        with open("/proc/net/if_inet6") as stream:
            for line in stream:
                digits = line.split()[0]
                found.add(socket.inet_ntop(socket.AF_INET6, bytes(bytearray.fromhex(digits))))
    except (IOError, OSError):
        pass  # this host has no IPv6
    return sorted(found)


def _resolve(name):
    try:
        return socket.getaddrinfo(name, None, 0, socket.SOCK_STREAM)
    except socket.gaierror:
        return []
