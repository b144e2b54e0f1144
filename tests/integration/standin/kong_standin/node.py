# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A running node: one process that is master and worker at once.

SIGQUIT: no new connections, what waits in the accept queue is still served, requests in flight end, then exit.
SIGTERM and SIGINT: exit at once. SIGHUP: read ``.kong_env`` again, open and close listeners, forget the cache;
connections stay. SIGUSR1: open the log files again.
"""

import errno
import os
import signal
import socket
import struct
import sys
import time
import traceback
import uuid

from . import conf
from . import prefix as prefixes
from .datastore import DatastoreError
from .versions import Version

BIND_TRIES = 5
BIND_PAUSE = 0.5
LINGER = 0.25        # how long idle connections are kept open for one more request after SIGQUIT
EVENT_TTL = 3600


INIT_ERROR = ("nginx: [error] init_by_lua error: /usr/local/share/lua/5.1/kong/init.lua:443: %s\n"
              "stack traceback:\n\t[C]: in function 'assert'\n")
WORKSPACE_ERROR = ("nginx: [error] init_by_lua error: /usr/local/share/lua/5.1/kong/runloop/plugins_iterator.lua:438: %s\n"
                   "stack traceback:\n\t[C]: in function 'assert'\n")


class StartError(Exception):
    """nginx would not start; the text is what it says."""


def start(settings):
    """Start a node for these settings: in the background unless ``nginx_daemon`` is off. Returns when it listens."""
    if not settings.daemon:
        sockets = bind(settings)
        sys.stdout.flush()
        _become_node()
        run(settings, sockets, None)
        os._exit(0)
    reading, writing = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(reading)
        os.setsid()
        if os.fork():
            os._exit(0)
        _become_node()
        try:
            sockets = bind(settings)
            run(settings, sockets, writing)
        except StartError as error:
            os.write(writing, b"E" + str(error).encode("utf-8"))
        finally:
            if sys.exc_info()[0]:
                os.write(writing, b"E" + traceback.format_exc().encode("utf-8"))
            os._exit(1)
    os.close(writing)
    os.waitpid(middle, 0)
    answer = b""
    while True:
        data = os.read(reading, 65536)
        if not data:
            break
        answer += data
    os.close(reading)
    if answer != b"OK":
        raise StartError(answer[1:].decode("utf-8") or "nginx: [emerg] ended without a word")


def _become_node():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def bind(settings, keep=None):
    """Sockets for every listener: {(kind, address, port): socket}; those in ``keep`` are used again."""
    wanted = []
    for kind in settings.listener_kinds():
        if kind == "status" and not settings.version.has("status_listen"):
            continue
        for listener in settings.listeners(kind + "_listen"):
            if kind == "cluster":
                listener = dict(listener, ssl=True)
            elif listener["ssl"] and not (settings.get("ssl_cert") and settings.get("ssl_cert_key")):
                continue  # no certificate is made up: README, "What it does not do"
            wanted.append((kind, listener))
    sockets, complaints = {}, []
    for attempt in range(BIND_TRIES):
        failed = False
        for kind, listener in wanted:
            key = (kind, listener["address"], listener["port"], listener["ssl"])
            if key in sockets:
                continue
            if keep and key in keep:
                sockets[key] = keep[key]
                continue
            family = socket.AF_INET6 if ":" in listener["address"] else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((listener["address"], listener["port"]))
                sock.listen(4096)
            except OSError as error:
                sock.close()
                failed = True
                text = os.strerror(error.errno)
                if settings.version.number < (2, 3) and error.errno == errno.EADDRINUSE:
                    text = "Unknown error"
                complaints.append("nginx: [emerg] bind() to %s:%d failed (%d: %s)" % (
                    listener["address"], listener["port"], error.errno, text))
                if error.errno != errno.EADDRINUSE:
                    attempt = BIND_TRIES
                continue
            sock.setblocking(False)
            sockets[key] = sock
        if not failed:
            return sockets
        if attempt >= BIND_TRIES - 1:
            break
        time.sleep(BIND_PAUSE)
    for key, sock in sockets.items():
        if not keep or key not in keep:
            sock.close()
    if complaints and "Address already in use" in complaints[-1] or "98:" in complaints[-1]:
        complaints.append("nginx: [emerg] still could not bind()")
    raise StartError("\n".join(complaints) + "\n")


def run(settings, sockets, report):
    """The life of a node. ``report`` is the pipe on which ``kong start`` waits."""
    import asyncio

    node = Node(settings, sockets, report)
    asyncio.run(node.main())


def nginx_main(version, argv):
    """The ``nginx`` of a launcher: ``-p prefix [-c conf] [-s quit|stop|reload] [-t] [-v]``; in the foreground."""
    path, send, test, at = "/usr/local/kong", None, False, 0
    while at < len(argv):
        word = argv[at]
        if word in ("-v", "-V"):
            sys.stderr.write("nginx version: openresty/%s\n" % version.openresty)
            return 0
        if word == "-t":
            test = True
        elif word in ("-p", "-c", "-s", "-g"):
            at += 1
            if word == "-p":
                path = os.path.abspath(argv[at])
            elif word == "-s":
                send = argv[at]
        at += 1
    try:
        settings = conf.load(version, prefixes.env_path(path), path, search=False)
        if send:
            prefixes.send(path, {"quit": signal.SIGQUIT, "stop": signal.SIGTERM, "reload": signal.SIGHUP,
                                 "reopen": signal.SIGUSR1}[send])
            return 0
        if test:
            sys.stderr.write("nginx: configuration file %s/nginx.conf test is successful\n" % path)
            return 0
        start(settings)
        return 0
    except (conf.ConfError, prefixes.PrefixError) as error:
        sys.stderr.write("nginx: [emerg] %s\n" % error)
        return 1
    except StartError as error:
        sys.stderr.write("%s\n" % error)
        return 1


class Node:
    """Everything a running node has."""

    def __init__(self, settings, sockets, report):
        self.settings, self.sockets, self.report = settings, sockets, report
        self.version = settings.version
        self.id = str(uuid.uuid4())
        self.workspace = None
        self.quitting = False
        self.servers = []       # open listeners, see Listener
        self.connections = set()
        self.counters = {"connections_accepted": 0, "total_requests": 0}
        self.cache = {}
        self.loop = self.stopped = None
        self.error_log = self.access_log = None
        self._date = (0, "")

    # files

    def open_logs(self):
        folder = os.path.join(self.settings.prefix, "logs")
        os.makedirs(folder, exist_ok=True)
        for stream in (self.error_log, self.access_log):
            if stream is not None:
                stream.close()
        self.error_log = open(os.path.join(folder, "error.log"), "a", encoding="utf-8", buffering=1)
        name = self.settings.get("proxy_access_log").split(" ")[0] or "off"
        self.access_log = None
        if name != "off":
            path = name if name.startswith("/") else os.path.join(self.settings.prefix, name)
            self.access_log = open(path, "a", encoding="utf-8", buffering=65536)

    def log(self, level, text):
        self.error_log.write("%s [%s] %d#0: %s\n" % (time.strftime("%Y/%m/%d %H:%M:%S"), level, os.getpid(), text))

    def log_exception(self):
        self.log("error", traceback.format_exc())

    def date(self):
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)))
        return self._date[1]

    def write_pid(self):
        path = prefixes.pid_path(self.settings.prefix)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        prefixes.write(path, "%d\n" % os.getpid(), 0o644)

    # life

    async def main(self):
        import asyncio

        from . import hybrid
        from .store import NoWorkspace, Store

        self.loop = asyncio.get_running_loop()
        self.stopped = self.loop.create_future()
        self.open_logs()
        for name in self.settings.missing_plugins():
            raise StartError(INIT_ERROR % ("error loading plugin schemas: on plugin '%s': %s plugin is enabled but not "
                                           "installed;\nno plugin found" % (name, name)))
        try:
            self.store = Store(self)
            await self.store.open()
        except NoWorkspace as error:
            raise StartError(WORKSPACE_ERROR % error)
        except DatastoreError as error:
            kind = self.store.rows.prefix if error.code else ""
            raise StartError(INIT_ERROR % (kind + str(error)))
        self.loop.add_signal_handler(signal.SIGQUIT, self.quit)
        self.loop.add_signal_handler(signal.SIGTERM, self.stop)
        self.loop.add_signal_handler(signal.SIGINT, self.stop)
        self.loop.add_signal_handler(signal.SIGHUP, self.reload)
        self.loop.add_signal_handler(signal.SIGUSR1, self.open_logs)
        for key, sock in self.sockets.items():
            self.servers.append(Listener(self, key, sock))
        self.write_pid()
        if self.report is not None:
            self._detach()
        poller = self.loop.create_task(hybrid.follow(self) if self.settings.is_data_plane else self.store.follow())
        flusher = self.loop.create_task(self._flush())
        await self.stopped
        poller.cancel()
        flusher.cancel()
        try:
            os.unlink(prefixes.pid_path(self.settings.prefix))
        except OSError:
            pass  # somebody else cleaned up
        if self.access_log is not None:
            self.access_log.flush()
        os._exit(0)

    def _detach(self):
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        os.dup2(self.error_log.fileno(), 2)
        os.close(null)
        os.write(self.report, b"OK")
        os.close(self.report)

    async def _flush(self):
        import asyncio

        while True:
            await asyncio.sleep(1)
            if self.access_log is not None:
                self.access_log.flush()

    def stop(self):
        if not self.stopped.done():
            self.stopped.set_result(None)

    def quit(self):
        if self.quitting:
            return
        self.log("notice", "gracefully shutting down")
        self.quitting = True
        for server in self.servers:
            server.close()
        self.loop.call_later(LINGER if self.connections else 0, self._close_idle)

    def _close_idle(self):
        for connection in list(self.connections):
            if connection.idle and not has_data(connection.transport):
                connection.close()
        if self.connections:
            self.loop.call_later(0.05, self._close_idle)
        else:
            self.stop()

    def reload(self):
        # The workers load the Lua code that the command has put there since, on the nginx that runs on: see prefix.written_by.
        version = Version(prefixes.written_by(self.settings.prefix) or self.version.name)
        if version.openresty != self.version.openresty:
            self.log("alert", "Kong %s does not run on OpenResty %s" % (version, self.version.openresty))
            version = self.version
        try:
            settings = conf.load(version, prefixes.env_path(self.settings.prefix),
                                 self.settings.prefix, environ={}, search=False)
        except conf.ConfError as error:
            self.log("error", "reload: %s" % error)
            return
        keep = {server.key: server.socket for server in self.servers}
        try:
            sockets = bind(settings, keep)
        except StartError as error:
            self.log("emerg", str(error))
            return
        self.settings, self.version = settings, version
        for server in list(self.servers):
            if server.key not in sockets:
                server.close()
                self.servers.remove(server)
        for key, sock in sockets.items():
            if key not in keep:
                self.servers.append(Listener(self, key, sock))
        self.open_logs()
        self.loop.create_task(self.store.reopen())
        self.log("notice", "reconfigured")


def has_data(transport):
    """Whether bytes have arrived that the loop has not read yet."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    try:
        with socket.socket(fileno=os.dup(sock.fileno())) as twin:
            return bool(twin.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (BlockingIOError, OSError):
        return False


def refuse_new(sock):
    """Drop packets for a listening socket, so that between the last accept and close nothing enters its queue: a
    client then sees no answer to its SYN, and a refusal when it tries again, but never a connection that is reset."""
    import ctypes

    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # one instruction: return 0
    option = struct.pack("HL", 1, ctypes.addressof(program))
    try:
        sock.setsockopt(socket.SOL_SOCKET, 26, option)  # SO_ATTACH_FILTER
    except OSError:
        pass  # not Linux: the window is a few microseconds


class Listener:
    """One listening socket and what is served on it."""

    def __init__(self, node, key, sock):
        from . import admin, handler, hybrid

        self.node, self.key, self.socket = node, key, sock
        self.loop, self.counters = node.loop, node.counters
        self.kind = key[0]
        self.context = None
        if self.kind == "cluster":
            import ssl

            self.context = hybrid.context(node.settings, ssl.PROTOCOL_TLS_SERVER)
        elif key[3]:
            import ssl

            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(node.settings.get("ssl_cert"), node.settings.get("ssl_cert_key"))
        self.serve = {"proxy": handler.serve, "admin": admin.serve, "status": admin.serve_status, "cluster": hybrid.serve}[self.kind]
        self.closed_for_good = False
        self.loop.add_reader(sock.fileno(), self._accept)

    @property
    def quitting(self):
        return self.node.quitting or self.closed_for_good

    def _accept(self, limit=64):
        from .proxy import ClientConnection

        for _unused in range(limit):
            try:
                sock, _peer = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self.node.log_exception()
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.counters["connections_accepted"] += 1
            connection = ClientConnection(self)
            connection.secure = self.context is not None
            self.node.connections.add(connection)
            self.loop.create_task(self._connect(connection, sock))

    async def _connect(self, connection, sock):
        try:
            await self.loop.connect_accepted_socket(lambda: connection, sock, ssl=self.context)
        except (OSError, ConnectionError):
            self.node.connections.discard(connection)

    def close(self):
        """Stop accepting; what is in the queue already is served."""
        self.closed_for_good = True
        self.loop.remove_reader(self.socket.fileno())
        refuse_new(self.socket)
        self._accept(100000)
        self.socket.close()

    # what ClientConnection needs

    def opened(self, connection):
        self.node.connections.add(connection)

    def closed(self, connection):
        self.node.connections.discard(connection)

    def date(self):
        return self.node.date()

    def log_exception(self):
        self.node.log_exception()

    def log_access(self, request, status, size):
        if self.kind == "proxy" and self.node.access_log is not None:
            self.node.access_log.write('%s - - [%s] "%s %s HTTP/1.%d" %d %d "-" "%s"\n' % (
                request.peer[0], self.node.date(), request.method, request.target, request.one_one, status, size,
                (request.headers.get(b"user-agent") or b"-").decode("latin-1")))

    async def handle(self, connection, request):
        await self.serve(self.node, connection, request)

    def fail(self, connection, request, status, text):
        from . import handler

        handler.answer(self.node, connection, request, status, {"message": text})
