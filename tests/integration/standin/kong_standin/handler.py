# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy: a request is routed, passes the plugins that the stand-in has, and goes to an upstream."""

import base64
import functools
import json
import time
from urllib.parse import parse_qs, unquote

from .conf import split
from .datastore import DatastoreError
from .entities import hash_password
from .proxy import UpstreamError, upstream_path

MESSAGES = {
    500: "An unexpected error occurred",
    502: "An invalid response was received from the upstream server",
    503: "failure to get a peer from the ring-balancer",
    504: "The upstream server is timing out",
}
IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE")
SKIP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
        b"content-length", b"host", b"expect", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-proto",
        b"x-forwarded-host", b"x-forwarded-port", b"x-consumer-id", b"x-consumer-custom-id", b"x-consumer-username",
        b"x-credential-username", b"x-credential-identifier", b"x-anonymous-consumer"}


class Refused(Exception):
    def __init__(self, status, message, headers=()):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, list(headers)


def shows(node, *words):
    """Whether the setting ``headers`` asks for one of these."""
    wanted = {w.lower() for w in split(node.settings.get("headers"))}
    return any(w.lower() in wanted for w in words)


def answer(node, connection, request, status, value, headers=()):
    """An answer that Kong itself makes."""
    out = [("Content-Type", "application/json; charset=utf-8")] + list(headers)
    if shows(node, "server_tokens", "Server"):
        out.append(("Server", "kong/%s" % node.version))
    if shows(node, "latency_tokens", "X-Kong-Response-Latency"):
        out.append(("X-Kong-Response-Latency", str(int((time.monotonic() - request.began) * 1000))))
    connection.respond(status, out, json.dumps(value, separators=(",", ":")).encode("utf-8"))


async def serve(node, connection, request):
    path = request.path
    if path.startswith(("http://", "https://")):
        path = "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/"
    match = node.store.router.match(request.method, request.header(b"host"), unquote(path), request.headers)
    if match is None and node.version.has("apis"):
        match = node.store.api_router.match(request.method, request.header(b"host"), unquote(path), request.headers)
    if match is None:
        nothing = "no route and no API found" if node.version.has("apis") else "no Route matched"
        answer(node, connection, request, 404, {"message": nothing + " with those values"})
        return
    route, service, matched = match
    try:
        extra = await plugins(node, request, route, service)
    except Refused as refused:
        answer(node, connection, request, refused.status, {"message": refused.message}, refused.headers)
        return
    except DatastoreError as error:
        node.log("error", "%s" % error)
        answer(node, connection, request, 500, {"message": MESSAGES[500]})
        return
    if service is None:
        answer(node, connection, request, 503, {"message": "no Service found with those values"})
        return
    await forward(node, connection, request, route, service, path, matched, extra)


async def plugins(node, request, route, service):
    """Run the plugins the stand-in knows; returns header fields for the upstream. Raises Refused."""
    store = node.store
    api = route["id"] if route.get("api") else None
    ids = (None, None) if api else (route["id"], (service or {}).get("id"))
    await store.look_up(*ids, api)
    extra, consumer = [], None

    plugin = store.plugin("bot-detection", *ids, api=api)
    if plugin:
        bot_detection(plugin["config"], request)
    plugin = store.plugin("ip-restriction", *ids, api=api)
    if plugin:
        ip_restriction(node, plugin["config"], request)
    for name, run in (("key-auth", key_auth), ("basic-auth", basic_auth)):
        plugin = store.plugin(name, *ids, api=api)
        if plugin:
            credential = await run(store, plugin["config"], request)
            consumer = await store.consumer(credential["consumer"]["id"])
            if consumer is None:
                raise Refused(500, MESSAGES[500])
            extra += [b"X-Consumer-ID: " + consumer["id"].encode()]
            if consumer.get("username"):
                extra.append(b"X-Consumer-Username: " + consumer["username"].encode())
    plugin = store.plugin("acl", *ids, (consumer or {}).get("id"), api)
    if plugin:
        await acl(store, plugin["config"], consumer)
    plugin = store.plugin("request-termination", *ids, (consumer or {}).get("id"), api)
    if plugin:
        config = plugin["config"]
        raise Refused(config.get("status_code") or 503, config.get("message") or "Service unavailable")
    return extra


async def key_auth(store, config, request):
    names = config.get("key_names") or ["apikey"]
    key = None
    query = parse_qs(request.query) if request.query else {}
    for name in names:
        value = request.headers.get(name.lower().encode())
        if value is not None:
            key = value.decode("latin-1")
        elif name in query:
            key = query[name][0]
        if key:
            break
    if not key:
        raise Refused(401, "No API key found in request", [("WWW-Authenticate", 'Key realm="kong"')])
    credential = await store.credential("keyauth_credentials", "key", key)
    if credential is None:
        raise Refused(401 if store.version.has("wrong_key_is_401") else 403, "Invalid authentication credentials")
    return credential


async def basic_auth(store, config, request):
    header = request.headers.get(b"authorization", b"")
    realm = [("WWW-Authenticate", 'Basic realm="kong"')]
    if not header.lower().startswith(b"basic "):
        raise Refused(401, "Unauthorized", realm)
    try:
        name, _colon, password = base64.b64decode(header[6:]).decode("utf-8").partition(":")
    except ValueError:
        raise Refused(401, "Invalid authentication credentials", realm)
    credential = await store.credential("basicauth_credentials", "username", name)
    if credential is None or credential["password"] != hash_password(password, credential["consumer"]["id"]):
        raise Refused(401 if store.version.has("wrong_key_is_401") else 403, "Invalid authentication credentials")
    return credential


async def acl(store, config, consumer):
    if consumer is None:
        raise Refused(401, "Unauthorized")
    groups = await store.groups(consumer["id"])
    allow, deny = config.get("allow"), config.get("deny")
    if deny and groups & set(deny) or allow and not groups & set(allow):
        raise Refused(403, "You cannot consume this service")


def ip_restriction(node, config, request):
    import ipaddress

    address = ipaddress.ip_address(client_address(node, request))

    def inside(ranges):
        return any(address in ipaddress.ip_network(text, strict=False) for text in ranges)

    allow, deny = config.get("allow"), config.get("deny")
    if deny and inside(deny) or allow and not inside(allow):
        raise Refused(403, "Your IP address is not allowed")


def bot_detection(config, request):
    import re

    agent = request.headers.get(b"user-agent", b"").decode("latin-1")
    if any(re.search(rule, agent) for rule in config.get("allow") or ()):
        return
    if any(re.search(rule, agent) for rule in config.get("deny") or ()):
        raise Refused(403, "Forbidden")


def client_address(node, request):
    """The peer, or what a trusted peer says of its client."""
    import ipaddress

    trusted = split(node.settings.get("trusted_ips"))
    header = node.settings.get("real_ip_header") or "X-Real-IP"
    value = request.headers.get(header.lower().encode())
    if trusted and value:
        peer = ipaddress.ip_address(request.peer[0])
        if any(peer in ipaddress.ip_network(text, strict=False) for text in trusted):
            return value.decode("latin-1").split(",")[-1].strip()
    return request.peer[0]


def upstream_head(request, target, host, extra, body, secure):
    out = [("%s %s HTTP/1.1" % (request.method, target)).encode("latin-1"), b"Host: " + host]
    upgrade = request.upgrade
    out.append(b"Connection: upgrade" if upgrade else b"Connection: keep-alive")
    if upgrade:
        out.append(b"Upgrade: " + upgrade)
    before = request.headers.get(b"x-forwarded-for")
    peer = request.peer[0].encode()
    out += [b"X-Forwarded-For: " + (before + b", " + peer if before else peer),
            b"X-Forwarded-Proto: " + (b"https" if secure else b"http"),
            b"X-Forwarded-Host: " + request.headers.get(b"host", b"").split(b":")[0],
            b"X-Forwarded-Port: " + str(request.local[1]).encode(), b"X-Real-IP: " + peer]
    out += extra
    for name, low, value in request.fields:
        if low not in SKIP:
            out.append(name + b": " + value)
    if body or request.method in ("POST", "PUT", "PATCH"):
        out.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(out) + b"\r\n\r\n" + body


def latencies(node, request, sent):
    """Header fields that are added to what an upstream answered."""
    out = []
    if shows(node, "latency_tokens", "X-Kong-Upstream-Latency"):
        out.append(b"X-Kong-Upstream-Latency: %d" % int((time.monotonic() - sent) * 1000))
    if shows(node, "latency_tokens", "X-Kong-Proxy-Latency"):
        out.append(b"X-Kong-Proxy-Latency: %d" % int((sent - request.began) * 1000))
    if shows(node, "server_tokens", "Via"):
        out.append(b"Via: kong/" + str(node.version).encode())
    return out


async def forward(node, connection, request, route, service, path, matched, extra):
    store = node.store
    target = upstream_path(route, service, path, matched)
    if request.query:
        target += "?" + request.query
    secure = service["protocol"] == "https"
    last = UpstreamError(503, MESSAGES[503])
    for _attempt in range(1 + (service.get("retries") or 0)):
        address = store.balance(service)
        if address is None:
            break
        if route.get("preserve_host"):
            host = request.headers.get(b"host", b"")
        else:
            port = "" if address[1] == (443 if secure else 80) else ":%d" % address[1]
            host = (service["host"] + port).encode()
        try:
            upstream, reused = await store.pool.take(address, service["connect_timeout"] / 1000.0, secure)
        except UpstreamError as error:
            last = error
            continue
        if connection.transport.is_closing():
            store.pool.give(address, upstream, secure)
            return
        sent = time.monotonic()
        connection.upstream = upstream
        try:
            status = await upstream.exchange(
                connection, request, upstream_head(request, target, host, extra, request.body, connection.secure),
                service["read_timeout"] / 1000.0, functools.partial(latencies, node, request, sent))
        except UpstreamError as error:
            last = error
            if upstream.head:
                connection.closing = True  # part of an answer is out: all that is left is to cut it
                connection.transport.abort()
                return
            if error.retry and (reused or request.method in IDEMPOTENT):
                continue
            break
        finally:
            connection.upstream = None
        if connection.tunnel is None:
            store.pool.give(address, upstream, secure)
        connection.server.log_access(request, status, upstream.sent)
        return
    node.log("error", "upstream: %s" % last)
    answer(node, connection, request, last.status, {
        "message": str(last) if last.told else MESSAGES.get(last.status, MESSAGES[502])})
