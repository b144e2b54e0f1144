# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP/1.1: the connection of a client, the connection to an upstream, and the router."""

import asyncio
import re
import socket
import time

MAX_HEAD = 65536
KEEPALIVE_REQUESTS = 100
KEEPALIVE_SECONDS = 75
REASONS = {
    100: "Continue", 101: "Switching Protocols", 200: "OK", 201: "Created", 204: "No Content", 400: "Bad Request",
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Not Allowed", 409: "Conflict", 413: "Too Large",
    429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Time-out",
}
HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"}


class BadMessage(Exception):
    pass


class ChunkedEnd:
    """Finds the end of a chunked body in a stream of bytes, and can collect what is inside."""

    def __init__(self, collect=False):
        self.buffer = b""
        self.left = 0           # bytes of the current chunk, with its CRLF
        self.trailer = False
        self.done = False
        self.body = [] if collect else None

    def feed(self, data):
        """Take bytes; returns how many of them belong to this body."""
        taken, size = 0, len(data)
        while taken < size and not self.done:
            if self.left:
                step = min(self.left, size - taken)
                if self.body is not None:
                    inner = min(step, max(0, self.left - 2))
                    self.body.append(data[taken:taken + inner])
                self.left -= step
                taken += step
                continue
            end = data.find(b"\n", taken)
            if end < 0:
                self.buffer += data[taken:]
                return size
            line = (self.buffer + data[taken:end]).strip()
            self.buffer = b""
            taken = end + 1
            if self.trailer:
                self.done = not line
            else:
                try:
                    length = int(line.split(b";")[0], 16)
                except ValueError:
                    raise BadMessage("chunk size")
                if length:
                    self.left = length + 2
                else:
                    self.trailer = True
        return taken


class Head:
    """Start line and header fields of a message."""

    __slots__ = ("start", "fields", "first")

    def __init__(self, data):
        lines = data.split(b"\r\n")
        self.start = lines[0].split(b" ", 2)
        self.fields = []
        self.first = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon:
                if line:
                    raise BadMessage("header field")
                continue
            low = name.strip().lower()
            value = value.strip()
            self.fields.append((name, low, value))
            self.first.setdefault(low, value)


class Request:
    __slots__ = ("method", "target", "path", "query", "fields", "headers", "body", "one_one", "keepalive", "began",
                 "peer", "upgrade", "local")

    def header(self, name):
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class ClientConnection(asyncio.Protocol):
    """A connection that a client opened. ``server`` gives ``handle(connection, request)``, a coroutine."""

    def __init__(self, server):
        self.server = server
        self.transport = None
        self.buffer = b""
        self.request = None
        self.task = None
        self.chunked = None
        self.need = 0
        self.served = 0
        self.closing = False
        self.upstream = None
        self.tunnel = None
        self.timer = None
        self.secure = False

    # asyncio calls these

    def connection_made(self, transport):
        self.transport = transport
        self.server.opened(self)
        self._idle()

    def connection_lost(self, exc):
        self.closing = True
        self._no_timer()
        if self.task is not None:
            self.task.cancel()
        if self.upstream is not None:
            self.upstream.abort()
        self.server.closed(self)

    def data_received(self, data):
        if self.tunnel is not None:
            self.tunnel.write(data)
            return
        self.buffer += data
        if self.task is None:
            self._advance()

    def eof_received(self):
        return self.task is not None

    def pause_writing(self):
        if self.upstream is not None:
            self.upstream.pause()

    def resume_writing(self):
        if self.upstream is not None:
            self.upstream.resume()

    # requests

    @property
    def idle(self):
        return (self.transport is not None and self.task is None and self.request is None and not self.buffer
                and self.tunnel is None)

    def _idle(self):
        self._no_timer()
        self.timer = self.server.loop.call_later(KEEPALIVE_SECONDS, self.close)

    def _no_timer(self):
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def close(self):
        self._no_timer()
        if self.transport is not None and not self.transport.is_closing():
            self.closing = True
            self.transport.close()

    def _advance(self):
        try:
            if self.request is None and not self._head():
                return
            if not self._body():
                return
        except (BadMessage, ValueError, IndexError):
            self.request = None
            self.closing = True
            self.respond(400, [("Content-Type", "text/plain")], b"Bad request\n", keepalive=False)
            return
        self._no_timer()
        self.served += 1
        self.server.counters["total_requests"] += 1
        self.task = self.server.loop.create_task(self._serve(self.request))

    def _head(self):
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEAD:
                raise BadMessage("header too large")
            return False
        head = Head(self.buffer[:end].lstrip(b"\r\n"))
        self.buffer = self.buffer[end + 4:]
        request = Request()
        request.method = head.start[0].decode("ascii")
        request.target = head.start[1].decode("latin-1")
        request.one_one = head.start[2] == b"HTTP/1.1"
        request.path, _mark, request.query = request.target.partition("?")
        request.fields, request.headers = head.fields, head.first
        request.began = time.monotonic()
        request.body = b""
        request.upgrade = None
        peer = self.transport.get_extra_info("peername")
        local = self.transport.get_extra_info("sockname")
        request.peer, request.local = (peer or ("", 0))[:2], (local or ("", 0))[:2]
        connection = head.first.get(b"connection", b"").lower()
        request.keepalive = (b"close" not in connection) if request.one_one else (b"keep-alive" in connection)
        if b"upgrade" in connection:
            request.upgrade = head.first.get(b"upgrade")
        if head.first.get(b"transfer-encoding", b"").lower() == b"chunked":
            self.chunked = ChunkedEnd(collect=True)
        else:
            self.need = int(head.first.get(b"content-length", b"0"))
        if head.first.get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.request = request
        return True

    def _body(self):
        if self.chunked is not None:
            taken = self.chunked.feed(self.buffer)
            self.buffer = self.buffer[taken:]
            if not self.chunked.done:
                return False
            self.request.body = b"".join(self.chunked.body)
            self.chunked = None
            return True
        if self.need:
            if len(self.buffer) < self.need:
                return False
            self.request.body, self.buffer = self.buffer[:self.need], self.buffer[self.need:]
            self.need = 0
        return True

    async def _serve(self, request):
        try:
            await self.server.handle(self, request)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001  whatever it was, the client gets an answer
            self.server.log_exception()
            if not self.closing:
                self.server.fail(self, request, 500, "An unexpected error occurred")
        self.task = None
        self.request = None
        if self.tunnel is not None:
            return
        if self.closing or self.transport.is_closing():
            self.close()
        elif self.buffer:
            self._advance()
        else:
            self._idle()

    def keeps(self, request):
        """Whether the connection is kept after this request; decided when the answer's header is written."""
        return (request is not None and request.keepalive and not self.server.quitting and not self.closing
                and self.served < KEEPALIVE_REQUESTS)

    def respond(self, status, headers, body, keepalive=None):
        """Send a whole answer."""
        request = self.request
        keep = self.keeps(request) if keepalive is None else keepalive
        lines = ["HTTP/1.1 %d %s" % (status, REASONS.get(status, "Status")),
                 "Date: " + self.server.date(), "Connection: " + ("keep-alive" if keep else "close")]
        lines += ["%s: %s" % pair for pair in headers]
        if status != 204:
            lines.append("Content-Length: %d" % len(body))
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if request is not None and request.method == "HEAD":
            body = b""
        self.transport.write(head + body)
        if not keep:
            self.closing = True
        if request is not None:
            self.server.log_access(request, status, len(body))
        if self.task is None and self.closing:
            self.transport.close()


class UpstreamError(Exception):
    """``status`` is what the client gets; ``retry`` says that nothing of an answer was seen, ``told`` that the client gets
    the text as well."""

    def __init__(self, status, text, retry=False, told=False):
        super().__init__(text)
        self.status, self.retry, self.told = status, retry, told


class UpstreamConnection(asyncio.Protocol):
    """A connection to an upstream; carries one request at a time and may be kept for the next one."""

    def __init__(self, loop):
        self.loop = loop
        self.transport = None
        self.alive = False
        self.used = 0
        self._reset()

    def _reset(self):
        self.client = None
        self.future = None
        self.buffer = b""
        self.head = False
        self.left = None
        self.chunked = None
        self.until_close = False
        self.decode = False
        self.request = None
        self.extra = None
        self.reusable = False
        self.timeout = None
        self.timer = None
        self.last = 0.0
        self.status = 0
        self.sent = 0
        self.client_keeps = False

    def connection_made(self, transport):
        self.transport = transport
        self.alive = True
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc):
        self.alive = False
        if self.client is not None and self.client.tunnel is self.transport:
            self.client.close()
        if self.future is None or self.future.done():
            return
        if self.head and self.until_close:
            self._finish()
        elif self.head:
            self._fail(UpstreamError(502, "upstream prematurely closed connection"))
        else:
            self._fail(UpstreamError(502, "upstream prematurely closed connection", retry=True))

    def exchange(self, client, request, data, timeout, extra):
        """Send ``data``; the answer goes to ``client`` while it arrives. Returns a future for its end."""
        self._reset()
        self.used += 1
        self.client, self.request, self.extra, self.timeout = client, request, extra, timeout
        self.future = self.loop.create_future()
        self.last = self.loop.time()
        self.timer = self.loop.call_later(timeout, self._late)
        self.transport.write(data)
        return self.future

    def _late(self):
        left = self.last + self.timeout - self.loop.time()
        if left > 0.01:
            self.timer = self.loop.call_later(left, self._late)
            return
        self._fail(UpstreamError(504, "upstream timed out"))

    def _fail(self, error):
        if self.timer is not None:
            self.timer.cancel()
        self.alive = False
        if self.transport is not None:
            self.transport.abort()
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)

    def abort(self):
        """The client has gone."""
        if self.future is not None and not self.future.done():
            self.future.cancel()
        if self.timer is not None:
            self.timer.cancel()
        self.alive = False
        if self.transport is not None:
            self.transport.abort()

    def pause(self):
        if self.alive:
            self.transport.pause_reading()

    def resume(self):
        if self.alive:
            self.transport.resume_reading()

    def data_received(self, data):
        if self.client is None or self.future is None:
            self.alive = False
            self.transport.abort()
            return
        self.last = self.loop.time()
        if self.client.tunnel is not None:
            self.client.transport.write(data)
            return
        if not self.head:
            self.buffer += data
            try:
                data = self._answer_head()
            except (BadMessage, ValueError, IndexError):
                self._fail(UpstreamError(502, "invalid answer"))
                return
            if data is None:
                return
        if data:
            self._answer_body(data)
        elif self.left == 0:
            self._finish()

    def _answer_head(self):
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = Head(self.buffer[:end])
            rest, self.buffer = self.buffer[end + 4:], b""
            self.status = int(head.start[1])
            if self.status == 101:
                self._switch(head, rest)
                return None
            if self.status >= 200:
                break
            self.buffer = rest
        self.head = True
        client, request = self.client, self.request
        connection = head.first.get(b"connection", b"").lower()
        self.reusable = b"close" not in connection and head.start[0] == b"HTTP/1.1"
        framing = []
        if request.method == "HEAD" or self.status in (204, 304):
            self.left = 0
            if b"content-length" in head.first:
                framing.append(b"Content-Length: " + head.first[b"content-length"])
        elif head.first.get(b"transfer-encoding", b"").lower() == b"chunked":
            self.decode = not request.one_one
            self.chunked = ChunkedEnd(collect=self.decode)
            if not self.decode:
                framing.append(b"Transfer-Encoding: chunked")
        elif b"content-length" in head.first:
            self.left = int(head.first[b"content-length"])
            framing.append(b"Content-Length: " + head.first[b"content-length"])
        else:
            self.until_close = True
            self.reusable = False
        keep = client.keeps(request) and not self.until_close and not self.decode
        self.client_keeps = keep
        reason = head.start[2] if len(head.start) > 2 else b""
        out = [b"HTTP/1.1 " + head.start[1] + b" " + reason]
        for name, low, value in head.fields:
            if low not in HOP and low not in (b"content-length", b"transfer-encoding"):
                out.append(name + b": " + value)
        out += framing
        out.append(b"Connection: keep-alive" if keep else b"Connection: close")
        out += self.extra()
        client.transport.write(b"\r\n".join(out) + b"\r\n\r\n")
        if not keep:
            client.closing = True
        return rest

    def _switch(self, head, rest):
        """101: from here on both sides only pass bytes on."""
        out = [b"HTTP/1.1 101 Switching Protocols"]
        out += [name + b": " + value for name, low, value in head.fields]
        self.client.transport.write(b"\r\n".join(out) + b"\r\n\r\n" + rest)
        self.client.tunnel = self.transport
        self.timer.cancel()
        if self.client.buffer:
            self.transport.write(self.client.buffer)
            self.client.buffer = b""
        self.future.set_result(self.status)

    def _answer_body(self, data):
        if self.chunked is not None:
            try:
                taken = self.chunked.feed(data)
            except BadMessage:
                self._fail(UpstreamError(502, "invalid answer"))
                return
            data = data[:taken]
            if self.decode:
                data = b"".join(self.chunked.body)
                self.chunked.body = []
            done = self.chunked.done
        elif self.left is not None:
            data = data[:self.left]
            self.left -= len(data)
            done = self.left == 0
        else:
            done = False
        self.sent += len(data)
        self.client.transport.write(data)
        if done:
            self._finish()

    def _finish(self):
        self.timer.cancel()
        if not self.future.done():
            self.future.set_result(self.status)
        if not self.reusable or self.used >= 100:
            self.alive = False
            self.transport.close()


class Pool:
    """Idle connections to upstreams."""

    def __init__(self, loop, size=60):
        self.loop, self.size = loop, size
        self.idle = {}

    async def take(self, address, timeout, secure=False):
        """(connection, whether it was used before)."""
        idle = self.idle.get((address, secure))
        while idle:
            connection = idle.pop()
            if connection.alive and not connection.transport.is_closing():
                return connection, True
        context = None
        if secure:
            import ssl

            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            _transport, connection = await asyncio.wait_for(self.loop.create_connection(
                lambda: UpstreamConnection(self.loop), address[0], address[1], ssl=context), timeout)
        except asyncio.TimeoutError:
            raise UpstreamError(504, "upstream timed out", retry=True)
        except socket.gaierror:
            raise UpstreamError(503, "name resolution failed", told=True)
        except OSError as error:
            raise UpstreamError(502, str(error), retry=True)
        return connection, False

    def give(self, address, connection, secure=False):
        if not connection.alive:
            return
        idle = self.idle.setdefault((address, secure), [])
        connection.client = connection.future = None
        idle.append(connection)
        if len(idle) > self.size:
            idle.pop(0).transport.close()

    def close(self):
        for idle in self.idle.values():
            for connection in idle:
                connection.alive = False
                connection.transport.close()
        self.idle.clear()


class Router:
    """Routes in the order in which they are tried."""

    REGEX = re.compile(r"[^A-Za-z0-9._~/%-]")

    def __init__(self, routes, services):
        self.entries = []
        for route in routes:
            service = services.get((route.get("service") or {}).get("id"))
            if service is not None and service.get("enabled") is False:
                continue
            if not set(route.get("protocols") or ()) & {"http", "https"}:
                continue
            for path in route.get("paths") or [None]:
                self.entries.append(self._entry(route, service, path))
        self.entries.sort(key=lambda e: e["order"])
        self.by_path, self.other = {}, []
        for entry in self.entries:
            if entry["path"] is None or entry["regex"] is not None:
                self.other.append(entry)
            else:
                self.by_path.setdefault(entry["path"], []).append(entry)

    def _entry(self, route, service, path):
        hosts = [h.lower() for h in route.get("hosts") or ()]
        regex = None
        if path is not None and self.REGEX.search(path):
            try:
                regex = re.compile(path)
            except re.error:
                regex = re.compile(re.escape(path))
        headers = {k.lower(): [v.lower() for v in values] for k, values in (route.get("headers") or {}).items()}
        methods = set(route.get("methods") or ())
        plain = [h for h in hosts if "*" not in h]
        kinds = bool(hosts) + bool(methods) + (path is not None) + bool(headers)
        order = (-kinds, 0 if plain or not hosts else 1, -len(headers), 0 if regex else 1,
                 -(route.get("regex_priority") or 0), -len(path or ""), route.get("created_at") or 0, route["id"])
        return {"route": route, "service": service, "path": path, "regex": regex, "hosts": hosts, "methods": methods,
                "headers": headers, "order": order}

    @staticmethod
    def _host(host, patterns):
        for pattern in patterns:
            if pattern == host or pattern.startswith("*.") and host.endswith(pattern[1:]) \
                    or pattern.endswith(".*") and host.startswith(pattern[:-1]):
                return True
        return False

    def match(self, method, host, path, headers):
        """(route, service, matched part of the path), or None."""
        host = host.rsplit(":", 1)[0].lower() if host else ""
        candidates = list(self.other)
        for end in range(1, len(path) + 1):
            candidates += self.by_path.get(path[:end], ())
        if len(candidates) > 1:
            candidates.sort(key=lambda e: e["order"])
        for entry in candidates:
            if entry["methods"] and method not in entry["methods"]:
                continue
            if entry["hosts"] and not self._host(host, entry["hosts"]):
                continue
            matched = ""
            if entry["regex"] is not None:
                found = entry["regex"].match(path)
                if not found:
                    continue
                matched = found.group(0)
            elif entry["path"] is not None:
                if not path.startswith(entry["path"]):
                    continue
                matched = entry["path"]
            if entry["headers"] and not all((headers.get(k.encode()) or b"").decode("latin-1").lower() in values
                                            for k, values in entry["headers"].items()):
                continue
            return entry["route"], entry["service"], matched
        return None


def upstream_path(route, service, path, matched):
    """The path that the upstream sees."""
    rest = path[len(matched):] if route.get("strip_path") else path
    base = service.get("path") or "/"
    if not rest:
        return base
    if base.endswith("/") and rest.startswith("/"):
        return base + rest[1:]
    if not base.endswith("/") and not rest.startswith("/"):
        return base + "/" + rest if route.get("path_handling") != "v1" else base + rest
    return base + rest
