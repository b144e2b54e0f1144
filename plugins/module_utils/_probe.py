# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP requests to the listeners of a node on this host: is it alive, which version is it, what does it answer."""

import http.client
import json
import re
import socket
import ssl

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf

VERSION_HEADER = re.compile(r"\bkong(?:-enterprise-edition)?/(\d[\w.+-]*)", re.I)
# No answer of a node is read beyond this many bytes.
MAX_BODY = 4 * 1024 * 1024


class Answer(object):
    """What a listener answered: status (int), headers (dict, lower-case names), body (bytes)."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def made_by_kong(self):
        """Version of the Kong that made this answer itself (Server), or None."""
        return _version(self.headers.get("server"))

    @property
    def proxied_by_kong(self):
        """Version of the Kong that passed on a backend's answer (Via), or None."""
        return _version(self.headers.get("via"))

    @property
    def version(self):
        """Version of Kong in the answer's headers, or None."""
        return self.made_by_kong or self.proxied_by_kong

    def json(self):
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body.decode("utf-8"))
        except ValueError:
            return None


def _version(header):
    match = VERSION_HEADER.search(header or "")
    return match.group(1) if match else None


def reachable(listener):
    """The address to connect to for a listener: wildcards become loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(listener["address"], listener["address"])


def usable(listener):
    """Whether plain HTTP/1.1 can be spoken: a listener with http2 and no TLS takes HTTP/2 alone."""
    return listener["ssl"] or not listener["http2"]


def choose(listeners):
    """The listener that is asked most simply: plain before TLS, without PROXY protocol before with; None if none."""
    ranked = sorted((item for item in listeners if usable(item)), key=lambda item: (item["ssl"], item["proxy_protocol"]))
    return ranked[0] if ranked else None


def connect(listener, timeout):
    """An open socket to a listener (TLS not begun). Raises OSError."""
    if listener["port"] is None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(listener["address"][len("unix:"):])
        except OSError:
            sock.close()
            raise
        return sock
    return socket.create_connection((reachable(listener), listener["port"]), timeout)


def refuses(listener, timeout=2.0):
    """Whether nobody accepts connections there."""
    try:
        connect(listener, timeout).close()
    except OSError:
        return True
    return False


class _Connection(http.client.HTTPConnection):
    """HTTP/1.1 over a listener: TLS without verification (it is our own host), PROXY header where it wants one."""

    def __init__(self, listener, server_name, timeout):
        http.client.HTTPConnection.__init__(self, reachable(listener), listener["port"] or 80, timeout=timeout)
        self.listener, self.server_name = listener, server_name

    def connect(self):
        """Connect; called by the base class."""
        self.sock = connect(self.listener, self.timeout)
        if self.listener["proxy_protocol"]:
            self.sock.sendall(_proxy_line(self.sock))
        if self.listener["ssl"]:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock, server_hostname=self.server_name)


def _proxy_line(sock):
    if sock.family == socket.AF_UNIX:
        return b"PROXY UNKNOWN\r\n"
    family = "TCP6" if sock.family == socket.AF_INET6 else "TCP4"
    here, there = sock.getsockname(), sock.getpeername()
    return "PROXY {0} {1} {2} {3} {4}\r\n".format(family, here[0], there[0], here[1], there[1]).encode("ascii")


def request(listener, path="/", host=None, headers=None, timeout=5.0, method="GET"):
    """Send one request to a listener. Returns an Answer; raises OSError (also for what is no HTTP answer).

    ``host`` is the Host header (and the TLS server name); default: the address and port of the listener.
    """
    connection = _Connection(listener, (host or "").partition(":")[0] or None, timeout)
    sent = {"User-Agent": "bluegreen.kong", "Connection": "close", "Accept": "*/*"}
    if host:
        sent["Host"] = host
    elif listener["port"] is None:
        sent["Host"] = "localhost"
    sent.update(headers or {})
    try:
        connection.request(method, path, headers=sent)
        response = connection.getresponse()
        body = response.read(MAX_BODY)
        return Answer(response.status, dict((name.lower(), value) for name, value in response.getheaders()), body)
    except http.client.HTTPException as error:
        raise OSError("no HTTP answer ({0}: {1})".format(type(error).__name__, error))
    finally:
        connection.close()


def problem(error):
    """An OSError in few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def node_listeners(settings):
    """The listeners of a node from its settings, Kong's defaults filled in: {"proxy": [...], "admin", "status", "stream"}.

    Raises ConfError.
    """
    return {
        "proxy": _conf.listeners(settings.get("proxy_listen") or "0.0.0.0:8000, 0.0.0.0:8443 ssl"),
        "admin": _conf.listeners(settings.get("admin_listen") or "127.0.0.1:8001, 127.0.0.1:8444 ssl"),
        "status": _conf.listeners(settings.get("status_listen")),
        "stream": _conf.listeners(settings.get("stream_listen")),
    }


def identity(listeners, timeout, through_proxy=True, ask_status=True):
    """What a running node says about itself through its listeners.

    Returns a dict: version, version_source (admin | status | header | None), database_reachable (True, False, None:
    cannot be told), node_id, admin_open, errors (list of str). A listener that is slow or silent is an error in the
    list. ``through_proxy``: also ask the proxy when the version is not known otherwise. ``ask_status``: ask the Admin and
    Status API; see the option of that name.
    """
    found = {
        "version": None, "version_source": None, "database_reachable": None, "node_id": None, "admin_open": False, "errors": [],
    }
    admin, status, proxy = (choose(listeners[name]) for name in ("admin", "status", "proxy"))
    if not ask_status:
        admin = status = None
    root = _ask(admin, "/", timeout, "Admin API", found)
    if root:
        data = root.json()
        if isinstance(data, dict) and data.get("version"):
            found.update(version=data["version"], version_source="admin", node_id=data.get("node_id"), admin_open=True)
        elif root.version or (isinstance(data, dict) and "message" in data):  # as without its database, with headers = off
            found["admin_open"] = True
        else:  # another program has the port: Kong could not take it
            found["errors"] = ["what answers at {0} is no Admin API of Kong".format(_where(admin))]
            root = None
    answer = _ask(status, "/status", timeout, "status listener", found) or (
        _ask(admin, "/status", timeout, "Admin API", found) if root else None
    )
    if answer:
        data = answer.json()
        database = data.get("database") if isinstance(data, dict) else None
        if isinstance(database, dict):
            found["database_reachable"] = bool(database.get("reachable"))
        if not found["version"] and answer.version:
            found.update(version=answer.version, version_source="status")
    if not found["version"] and through_proxy:
        answer = _ask(proxy, "/", timeout, "proxy", found)
        if answer and answer.version:
            found.update(version=answer.version, version_source="header")
    return found


def _ask(listener, path, timeout, name, found):
    if listener is None:
        return None
    try:
        return request(listener, path, timeout=timeout)
    except OSError as error:
        found["errors"].append("the {0} at {1} does not answer {2}: {3}".format(name, _where(listener), path, problem(error)))
        return None


def _where(listener):
    return listener["address"] if listener["port"] is None else "{0}:{1}".format(reachable(listener), listener["port"])


def check(probe, listeners, timeout):
    """One probe through the proxy. Returns None when it is as expected, else a sentence that says what is not.

    ``probe``: dict with path, host, headers, expect (list of int). Without ``expect`` any answer will do but a 5xx that
    Kong made itself: one that a backend made was proxied, which is what is to be shown.
    """
    listener = choose(listeners["proxy"])
    if listener is None:
        return "no proxy listener that speaks HTTP/1.1"
    path = probe.get("path") or "/"
    try:
        answer = request(listener, path, probe.get("host"), probe.get("headers"), timeout)
    except OSError as error:
        return "GET {0} through the proxy: {1}".format(path, problem(error))
    expect = probe.get("expect")
    if expect:
        if answer.status not in expect:
            return "GET {0} through the proxy answers {1}, expected {2}".format(path, answer.status, ", ".join(map(str, expect)))
    elif answer.status >= 500 and not answer.proxied_by_kong:
        return "GET {0} through the proxy answers {1}".format(path, answer.status)
    return None
