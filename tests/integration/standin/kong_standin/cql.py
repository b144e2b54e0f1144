# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cassandra's native protocol (version 4, plain queries), just enough for the stand-in.

Why not cassandra-driver: its import takes longer than a whole ``kong migrations list``, and the messages of the real
command (``all hosts tried for query failed``, ``[Invalid] ...``) are those of a client that speaks the protocol itself.
"""

import socket
import struct
import uuid

from .datastore import DatastoreError
from .pg import reason

QUORUM, ONE, SERIAL = 0x0004, 0x0001, 0x0008
REQUESTS = {"startup": 0x01, "query": 0x07, "auth": 0x0F}
ERROR, READY, AUTHENTICATE, RESULT, AUTH_SUCCESS = 0x00, 0x02, 0x03, 0x08, 0x10
ROWS, SET_KEYSPACE = 0x0002, 0x0003
NAMES = {
    0x0000: "Server error", 0x000A: "Protocol error", 0x0100: "Bad credentials", 0x1000: "Unavailable exception",
    0x1001: "Overloaded", 0x1002: "Is bootstrapping", 0x1100: "Write timeout", 0x1200: "Read timeout",
    0x2000: "Syntax error", 0x2100: "Unauthorized", 0x2200: "Invalid", 0x2300: "Config error",
    0x2400: "Already exists",
}
LIST, MAP, SET = 0x0020, 0x0021, 0x0022


class CqlError(DatastoreError):
    """``code`` is the protocol's, a number."""


class Uuid(str):
    """A text that is a uuid: its literal has no quotes."""


def literal(value):
    """A Python value as a CQL literal. A list is a list, a set or frozenset a set, a dict a map."""
    if value is None:
        return "NULL"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, (int, float, Uuid)):
        return str(value)
    if isinstance(value, list):
        return "[%s]" % ", ".join(map(literal, value))
    if isinstance(value, (set, frozenset)):
        return "{%s}" % ", ".join(map(literal, sorted(value)))
    if isinstance(value, dict):
        return "{%s}" % ", ".join("%s: %s" % (literal(k), literal(value[k])) for k in sorted(value))
    return "'%s'" % str(value).replace("'", "''")


def identifier(name):
    return '"' + name.replace('"', '""') + '"'


class _Reader:
    """The body of a frame."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def take(self, form):
        value = struct.unpack_from("!" + form, self.body, self.at)[0]
        self.at += struct.calcsize("!" + form)
        return value

    def raw(self, size):
        value = self.body[self.at:self.at + size]
        self.at += size
        return value

    def text(self):
        return self.raw(self.take("H")).decode("utf-8")

    def value(self):
        size = self.take("i")
        return None if size < 0 else self.raw(size)

    def kind(self):
        code = self.take("H")
        if code == 0:
            return code, self.text()
        if code in (LIST, SET):
            return code, self.kind()
        if code == MAP:
            return code, (self.kind(), self.kind())
        return code, None


def _decode(kind, data):
    code, inner = kind
    if data is None:
        return None
    if code in (0x01, 0x0A, 0x0D):
        return data.decode("utf-8")
    if code in (0x02, 0x05):
        return struct.unpack("!q", data)[0]
    if code == 0x0B:
        return struct.unpack("!q", data)[0] / 1000.0  # seconds since the epoch
    if code == 0x04:
        return data != b"\0"
    if code == 0x09:
        return struct.unpack("!i", data)[0]
    if code in (0x0C, 0x0F):
        return str(uuid.UUID(bytes=data))
    if code == 0x10:
        return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)
    if code in (LIST, SET, MAP):
        reader = _Reader(data)
        count = reader.take("i")
        if code == MAP:
            return {_decode(inner[0], reader.value()): _decode(inner[1], reader.value()) for _unused in range(count)}
        return [_decode(inner, reader.value()) for _unused in range(count)]
    return data


class Session:
    """The protocol without a socket: bytes in, bytes out; see ``pg.Session``, whose shape it has."""

    def __init__(self, user, password):
        self.user, self.password = user, password
        self.buffer = bytearray()
        self.ready = False
        self.error = None
        self.result = None

    def _frame(self, request, body):
        self.ready, self.error, self.result = False, None, None
        return struct.pack("!BBhBi", 0x04, 0, 0, REQUESTS[request], len(body)) + body

    def startup(self):
        words = b"".join(struct.pack("!H", len(word)) + word for word in (b"CQL_VERSION", b"3.0.0"))
        return self._frame("startup", struct.pack("!H", 1) + words)

    def query(self, cql, consistency=ONE):
        text = cql.encode("utf-8")
        # flag 0x10: the serial consistency follows, which only light-weight transactions heed
        return self._frame("query", struct.pack("!i", len(text)) + text + struct.pack("!HBH", consistency, 0x10, SERIAL))

    def feed(self, data):
        self.buffer += data
        out = b""
        while len(self.buffer) >= 9:
            size = struct.unpack_from("!i", self.buffer, 5)[0]
            if len(self.buffer) < 9 + size:
                break
            flags, code, body = self.buffer[1], self.buffer[4], bytes(self.buffer[9:9 + size])
            del self.buffer[:9 + size]
            out += self._handle(code, flags, body)
        return out

    def _handle(self, code, flags, body):
        reader = _Reader(body)
        if flags & 0x08:  # warnings of the server
            for _unused in range(reader.take("H")):
                reader.text()
        if code == AUTHENTICATE:
            if not self.password:
                self.error = CqlError("authentication required")
                self.ready = True
                return b""
            secret = ("\0%s\0%s" % (self.user, self.password)).encode("utf-8")
            return self._frame("auth", struct.pack("!i", len(secret)) + secret)
        if code == ERROR:
            number = reader.take("i")
            self.error = CqlError("[%s] %s" % (NAMES.get(number, "0x%04x" % number), reader.text()), number)
        elif code == RESULT:
            self.result = self._rows(reader) if reader.take("i") == ROWS else None
        self.ready = True
        return b""

    @staticmethod
    def _rows(reader):
        flags, count = reader.take("i"), reader.take("i")
        if flags & 0x0002:
            reader.value()  # there are more pages; none is asked for, since no page size was given
        if flags & 0x0001:
            reader.text(), reader.text()
        columns = []
        for _unused in range(count):
            if not flags & 0x0001:
                reader.text(), reader.text()
            columns.append((reader.text(), reader.kind()))
        rows = []
        for _unused in range(reader.take("i")):
            rows.append({name: _decode(kind, reader.value()) for name, kind in columns})
        return rows


def resolve(settings, complain):
    """Fill in the addresses of the contact points; what has none is complained of and left out."""
    settings["addresses"] = []
    for name in settings["contact_points"]:
        try:
            settings["addresses"].append(socket.gethostbyname(name))
        except OSError:
            complain("error", "[cassandra] DNS resolution failed for contact point '%s': dns server error: 3 name error"
                     % name)
    if not settings["addresses"]:
        raise DatastoreError("could not resolve any of the provided Cassandra contact points "
                             "(cassandra_contact_points = '%s')" % ", ".join(settings["contact_points"]))
    return settings


def unhealthy(error):
    """The words for a host that does not let itself be connected to."""
    return "host seems unhealthy, considering it down (%s)" % reason(error)


def no_host(tried):
    return CqlError("all hosts tried for query failed. " + ". ".join("%s: %s" % pair for pair in tried))


def _context(settings):
    import ssl

    context = ssl.create_default_context(cafile=settings["ca"] or None)
    context.check_hostname = False  # of the certificate, only the chain is looked at
    if not settings["ssl_verify"]:
        context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """A blocking connection to the first contact point that answers. ``settings`` is what ``conf.cassandra`` returns;
    ``timeout`` is in seconds."""

    def __init__(self, settings, timeout=None):
        self.settings = settings
        self.timeout = timeout if timeout is not None else settings["timeout"]
        tried = []
        for address in settings["addresses"]:
            self.session = Session(settings["user"], settings["password"])
            try:
                self.socket = self._open(address)
                self._exchange(self.session.startup())
            except OSError as error:
                tried.append((address, unhealthy(error)))
            except CqlError as error:
                tried.append((address, str(error)))
            else:
                self.address = address
                return
        raise no_host(tried)

    def _open(self, address):
        sock = socket.create_connection((address, self.settings["port"]), self.timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _context(self.settings).wrap_socket(sock, server_hostname=address) if self.settings["ssl"] else sock

    def _exchange(self, data):
        session = self.session
        self.socket.sendall(data)
        while not session.ready:
            received = self.socket.recv(65536)
            if not received:
                raise CqlError("closed")
            answer = session.feed(received)
            if answer:
                self.socket.sendall(answer)
        if session.error:
            raise session.error
        return session.result

    def query(self, cql, consistency=ONE):
        """Run one statement; its rows as a list of dicts, or None."""
        try:
            return self._exchange(self.session.query(cql, consistency))
        except OSError as error:
            words = reason(error)
            raise CqlError("closed" if "reset" in words or "broken pipe" in words else words)

    def use(self, keyspace):
        self.query("USE %s" % identifier(keyspace))

    def close(self):
        self.socket.close()


class AsyncConnection:
    """The same for asyncio: one query at a time, kept open, in the keyspace of the settings."""

    def __init__(self, settings):
        self.settings = settings
        self.reader = self.writer = self.session = None

    @property
    def open(self):
        return self.writer is not None and not self.writer.is_closing() and not self.reader.at_eof()

    async def connect(self):
        import asyncio

        settings, tried = self.settings, []
        for address in settings["addresses"]:
            self.session = Session(settings["user"], settings["password"])
            try:
                self.reader, self.writer = await asyncio.wait_for(asyncio.open_connection(
                    address, settings["port"], ssl=_context(settings) if settings["ssl"] else None), settings["timeout"])
                await self._exchange(self.session.startup())
                await self._exchange(self.session.query("USE %s" % identifier(settings["keyspace"])))
            except (OSError, asyncio.TimeoutError) as error:
                tried.append((address, unhealthy(error)))
            except CqlError as error:
                tried.append((address, str(error)))
            else:
                return
            self.close()
        raise no_host(tried)

    async def query(self, cql, consistency=ONE):
        if not self.open:
            await self.connect()
        return await self._exchange(self.session.query(cql, consistency))

    async def _exchange(self, data):
        import asyncio

        session = self.session
        try:
            self.writer.write(data)
            while not session.ready:
                received = await asyncio.wait_for(self.reader.read(65536), self.settings["timeout"])
                if not received:
                    self.close()
                    raise CqlError("closed")
                answer = session.feed(received)
                if answer:
                    self.writer.write(answer)
        except asyncio.CancelledError:
            self.close()
            raise
        except (OSError, asyncio.TimeoutError) as error:
            self.close()
            raise CqlError(reason(error))
        if session.error:
            raise session.error
        return session.result

    def close(self):
        if self.writer is not None:
            if not self.writer.is_closing():
                self.writer.close()
            self.writer = None
