# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's wire protocol (version 3, simple queries), just enough for the stand-in.

Why not psycopg: its import alone costs more time than a whole ``kong migrations list`` takes, and the messages of the
real command (``ERROR: ... (position)``, ``receive_message: failed to get type: timeout``, ``don't know how to auth``)
are those of a client that speaks the protocol itself. Simple queries also behave as Kong's do in the one way that
matters here: the server goes on with a statement after its client has gone.
"""

import socket
import struct

from .datastore import DatastoreError, NotUnique, Unknown

SCRAM_YES = "yes"
SCRAM_NO = "no"
SCRAM_BROKEN = "broken"


class PgError(DatastoreError):
    """``code`` is the SQLSTATE."""


class PgNotUnique(PgError, NotUnique):
    """A unique constraint was violated."""


class PgUnknown(PgError, Unknown):
    """A foreign key was violated."""


KINDS = {"23505": PgNotUnique, "23503": PgUnknown}


def quote(value):
    """A Python value as an SQL literal."""
    if value is None:
        return "NULL"
    if value is True:
        return "TRUE"
    if value is False:
        return "FALSE"
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    prefix = ""
    if "\\" in text:
        text = text.replace("\\", "\\\\")
        prefix = " E"
    return prefix + "'" + text.replace("'", "''") + "'"


def array(values, kind="text"):
    """A list as an SQL array literal of the type ``kind``."""
    return "ARRAY[" + ", ".join(quote(v) for v in values) + "]::" + kind + "[]"


def identifier(name):
    return '"' + name.replace('"', '""') + '"'


def _split_array(text):
    """The elements of a one-dimensional array in its text form (``{a,"b c",NULL}``)."""
    out, item, quoted, inside, i = [], [], False, False, 1
    while i < len(text):
        char = text[i]
        if inside:
            if char == "\\":
                i += 1
                item.append(text[i])
            elif char == '"':
                inside = False
            else:
                item.append(char)
        elif char == '"':
            inside = quoted = True
        elif char in ",}":
            word = "".join(item)
            if item or quoted:
                out.append(None if word == "NULL" and not quoted else word)
            item, quoted = [], False
            if char == "}":
                break
        else:
            item.append(char)
        i += 1
    return out


def _json(text):
    import json

    return json.loads(text)


_CONVERT = {
    16: lambda t: t == "t",
    20: int, 21: int, 23: int,
    700: float, 701: float, 1700: float,
    114: _json, 3802: _json,
    1009: _split_array, 1015: _split_array, 2951: _split_array,
    1005: lambda t: [int(x) for x in _split_array(t)],
    1007: lambda t: [int(x) for x in _split_array(t)],
    1016: lambda t: [int(x) for x in _split_array(t)],
}


def _message(kind, body=b""):
    return kind + struct.pack("!i", len(body) + 4) + body


def _cstring(text):
    return text.encode("utf-8") + b"\0"


class Session:
    """The protocol without a socket: bytes in, bytes out.

    ``feed`` takes what was received and returns what has to be sent; ``ready`` is true when the server waits for a
    query; ``result`` is then the rows of the last statement, or None, and ``error`` a PgError, or None.
    """

    def __init__(self, user, password, database, scram=SCRAM_YES, application=None):
        self.user, self.password, self.database = user, password, database
        self.scram_support = scram
        self.application = application
        self.buffer = bytearray()
        self.ready = False
        self.broken = None
        self.error = None
        self.result = None
        self.backend = None
        self._fields = None
        self._scram = None

    def startup(self):
        body = struct.pack("!i", 196608) + _cstring("user") + _cstring(self.user)
        body += _cstring("database") + _cstring(self.database)
        if self.application:
            body += _cstring("application_name") + _cstring(self.application)
        body += b"\0"
        return struct.pack("!i", len(body) + 4) + body

    def query(self, sql):
        self.ready, self.error, self.result, self._fields = False, None, None, None
        return _message(b"Q", _cstring(sql))

    def feed(self, data):
        self.buffer += data
        out = b""
        while len(self.buffer) >= 5:
            size = struct.unpack_from("!i", self.buffer, 1)[0]
            if len(self.buffer) < size + 1:
                break
            kind, body = bytes(self.buffer[:1]), bytes(self.buffer[5:size + 1])
            del self.buffer[:size + 1]
            out += self._handle(kind, body) or b""
        return out

    def _handle(self, kind, body):
        if kind == b"R":
            return self._authenticate(struct.unpack_from("!i", body)[0], body[4:])
        if kind == b"K":
            self.backend = struct.unpack("!ii", body[:8])
        elif kind == b"Z":
            self.ready = True
        elif kind == b"T":
            self._fields = self._columns(body)
            self.result = []
        elif kind == b"D":
            self.result.append(self._row(body))
        elif kind == b"C":
            if self._fields is None:
                self.result = None
            self._fields = None
        elif kind == b"E":
            self.error = self._error(body)
            if self._scram is not None:
                self.error = PgError("authentication exchange unsuccessful", self.error.code)
        return b""

    def _authenticate(self, method, body):
        if method == 0:
            self._scram = None
            return b""
        if method == 3:
            return _message(b"p", _cstring(self.password))
        if method == 5:
            from hashlib import md5

            inner = md5((self.password + self.user).encode("utf-8")).hexdigest()
            return _message(b"p", _cstring("md5" + md5(inner.encode("ascii") + body[:4]).hexdigest()))
        if method in (10, 11, 12) and self.scram_support == SCRAM_YES:
            return self._sasl(method, body)
        if self.scram_support == SCRAM_BROKEN:
            self.broken = PgError("module 'openssl.rand' not found:")
        else:
            self.broken = PgError("don't know how to auth: %d" % method)
        return b""

    def _sasl(self, method, body):
        import base64
        import hashlib
        import hmac
        import os

        if method == 10:
            nonce = base64.b64encode(os.urandom(18)).decode("ascii")
            first = "n=,r=" + nonce
            self._scram = {"first": first}
            text = ("n,," + first).encode("ascii")
            return _message(b"p", _cstring("SCRAM-SHA-256") + struct.pack("!i", len(text)) + text)
        if method == 11:
            server = body.decode("ascii")
            parts = dict(x.split("=", 1) for x in server.split(","))
            salted = hashlib.pbkdf2_hmac(
                "sha256", self.password.encode("utf-8"), base64.b64decode(parts["s"]), int(parts["i"]))
            key = hmac.new(salted, b"Client Key", "sha256").digest()
            final = "c=biws,r=" + parts["r"]
            signed = ",".join((self._scram["first"], server, final)).encode("ascii")
            proof = hmac.new(hashlib.sha256(key).digest(), signed, "sha256").digest()
            proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, proof))).decode("ascii")
            return _message(b"p", (final + ",p=" + proof).encode("ascii"))
        return b""

    @staticmethod
    def _columns(body):
        fields, at = [], 2
        for _unused in range(struct.unpack_from("!h", body)[0]):
            end = body.index(b"\0", at)
            name = body[at:end].decode("utf-8")
            oid = struct.unpack_from("!ihihih", body, end + 1)[2]
            fields.append((name, _CONVERT.get(oid)))
            at = end + 19
        return fields

    def _row(self, body):
        row, at = {}, 2
        for name, convert in self._fields:
            size = struct.unpack_from("!i", body, at)[0]
            at += 4
            if size < 0:
                row[name] = None
                continue
            text = body[at:at + size].decode("utf-8")
            at += size
            row[name] = convert(text) if convert else text
        return row

    @staticmethod
    def _error(body):
        fields = {}
        for part in body.split(b"\0"):
            if part:
                fields[chr(part[0])] = part[1:].decode("utf-8", "replace")
        text = "%s: %s" % (fields.get("S", "ERROR"), fields.get("M", ""))
        if "P" in fields:
            text += " (%s)" % fields["P"]
        if fields.get("D") and "M" in fields:
            text += "\n" + fields["D"]
        return KINDS.get(fields.get("C"), PgError)(text, fields.get("C", ""))


def reason(error):
    """The words of an operating system error, as Kong's client says them."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "timeout"
    if isinstance(error, socket.gaierror):
        return "host or service not provided, or not known"
    return (error.strerror or str(error)).lower()


def _tls(context_verify, host, raw):
    import ssl

    context = ssl.create_default_context()
    if not context_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(raw, server_hostname=host)


class Connection:
    """A blocking connection. ``settings`` is what ``conf.database`` returns; ``timeout`` is in seconds."""

    def __init__(self, settings, timeout=None, scram=SCRAM_YES):
        self.timeout = timeout if timeout is not None else settings["timeout"]
        self.session = Session(settings["user"], settings["password"], settings["database"], scram)
        try:
            self.socket = socket.create_connection((settings["host"], settings["port"]), self.timeout)
        except OSError as error:
            raise PgError(reason(error))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if settings["ssl"]:
            self.socket.sendall(struct.pack("!ii", 8, 80877103))
            if self.socket.recv(1) != b"S":
                raise PgError("the server does not support SSL connections")
            self.socket = _tls(settings["ssl_verify"], settings["host"], self.socket)
        self._exchange(self.session.startup())
        self._prepare(settings["schema"])

    def _prepare(self, schema):
        if schema:
            self.query("SET SCHEMA %s" % quote(schema))
        self.query("SET TIME ZONE 'UTC'")

    def _exchange(self, data):
        session = self.session
        try:
            self.socket.sendall(data)
            while not session.ready:
                received = self.socket.recv(65536)
                if not received:
                    if session.error:
                        raise session.error
                    raise PgError("receive_message: failed to get type: closed")
                answer = session.feed(received)
                if session.broken:
                    raise session.broken
                if session.error and not session.backend:
                    raise session.error
                if answer:
                    self.socket.sendall(answer)
        except OSError as error:
            raise PgError("receive_message: failed to get type: " + reason(error))
        if session.error:
            raise session.error
        return session.result

    def query(self, sql):
        """Run one or several statements; the rows of the last one as a list of dicts, or None."""
        return self._exchange(self.session.query(sql))

    def close(self):
        try:
            self.socket.sendall(_message(b"X"))
        except OSError:
            pass  # the other side was faster
        self.socket.close()


class AsyncConnection:
    """The same for asyncio: one query at a time, kept open."""

    def __init__(self, settings, scram=SCRAM_YES):
        self.settings, self.scram = settings, scram
        self.reader = self.writer = self.session = None

    @property
    def open(self):
        return self.writer is not None and not self.writer.is_closing() and not self.reader.at_eof()

    async def connect(self):
        import asyncio

        settings = self.settings
        self.session = Session(settings["user"], settings["password"], settings["database"], self.scram)
        try:
            self.reader, self.writer = await asyncio.wait_for(
                asyncio.open_connection(settings["host"], settings["port"]), settings["timeout"])
            if settings["ssl"]:
                import ssl

                self.writer.write(struct.pack("!ii", 8, 80877103))
                if await self.reader.readexactly(1) != b"S":
                    raise PgError("the server does not support SSL connections")
                context = ssl.create_default_context()
                if not settings["ssl_verify"]:
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                await self.writer.start_tls(context, server_hostname=settings["host"])
        except (OSError, asyncio.TimeoutError) as error:
            self.close()
            raise PgError(reason(error) if isinstance(error, OSError) else "timeout")
        await self._exchange(self.session.startup())
        if settings["schema"]:
            await self._exchange(self.session.query("SET SCHEMA %s" % quote(settings["schema"])))
        await self._exchange(self.session.query("SET TIME ZONE 'UTC'"))

    async def query(self, sql):
        if not self.open:
            await self.connect()
        return await self._exchange(self.session.query(sql))

    async def _exchange(self, data):
        import asyncio

        session = self.session
        try:
            self.writer.write(data)
            while not session.ready:
                received = await asyncio.wait_for(self.reader.read(65536), self.settings["timeout"])
                if not received:
                    raise session.error or PgError("receive_message: failed to get type: closed")
                answer = session.feed(received)
                if session.broken:
                    raise session.broken
                if session.error and not session.backend:
                    raise session.error
                if answer:
                    self.writer.write(answer)
        except asyncio.CancelledError:
            self.close()
            raise
        except (OSError, asyncio.TimeoutError) as error:
            self.close()
            raise PgError("receive_message: failed to get type: "
                          + (reason(error) if isinstance(error, OSError) else "timeout"))
        except PgError:
            self.close()
            raise
        if session.error:
            raise session.error
        return session.result

    def close(self):
        if self.writer is not None:
            if not self.writer.is_closing():
                self.writer.close()
            self.writer = None
