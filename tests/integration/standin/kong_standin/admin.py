# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Admin API and status listener."""

import json
import os
import socket
from urllib.parse import parse_qsl, unquote

from . import conf, handler
from .datastore import DatastoreError, NotUnique, Unknown
from .entities import NotUsable

# first path word -> entity; from the words below a parent: (parent, word) -> entity
TOP = {"services": "services", "routes": "routes", "consumers": "consumers", "plugins": "plugins",
       "upstreams": "upstreams", "certificates": "certificates", "ca_certificates": "ca_certificates", "snis": "snis",
       "key-auths": "keyauth_credentials", "basic-auths": "basicauth_credentials", "acls": "acls",
       "hmac-auths": "hmacauth_credentials", "jwts": "jwt_secrets", "workspaces": "workspaces",
       "vaults-beta": "vaults_beta", "apis": "apis"}
BELOW = {"key-auth": "keyauth_credentials", "basic-auth": "basicauth_credentials", "acls": "acls",
         "hmac-auth": "hmacauth_credentials", "jwt": "jwt_secrets", "oauth2": "oauth2_credentials", "plugins": "plugins",
         "routes": "routes",
         "targets": "targets", "snis": "snis"}
PARENT = {"services": "service", "routes": "route", "consumers": "consumer", "upstreams": "upstream",
          "certificates": "certificate", "apis": "api"}


class Answer(Exception):
    def __init__(self, status, value):
        super().__init__(status)
        self.status, self.value = status, value


def not_found():
    return Answer(404, {"message": "Not found"})


def reply(node, connection, status, value):
    out = [("Content-Type", "application/json; charset=utf-8"), ("Access-Control-Allow-Origin", "*")]
    if not node.version.number >= (2, 2) or handler.shows(node, "server_tokens", "Server"):
        out.append(("Server", "kong/%s" % node.version))
    body = b"" if value is None else json.dumps(value, separators=(",", ":")).encode("utf-8")
    connection.respond(status, out, body)


async def serve(node, connection, request):
    try:
        status, value = await answer(node, connection, request)
    except Answer as given:
        status, value = given.status, given.value
    except NotUsable as error:
        status, value = 400, {"code": 2, "name": "schema violation", "message": str(error), "fields": error.fields}
    except DatastoreError as error:
        node.log("error", "%s" % error)
        if isinstance(error, NotUnique):
            status, value = 409, {"code": 5, "name": "unique constraint violation", "message": "UNIQUE violation"}
        elif isinstance(error, Unknown):
            status, value = 400, {"code": 4, "name": "foreign key violation", "message": str(error)}
        elif error.code == "22P02":
            status, value = 404, {"message": "Not found"}
        elif node.version.has("apis"):
            status, value = 400, {"message": str(error)}
        else:
            status, value = 500, {"message": "An unexpected error occurred"}
    reply(node, connection, status, value)


async def serve_status(node, connection, request):
    path = request.path.rstrip("/") or "/"
    if path == "/status":
        reply(node, connection, 200, await status_body(node))
    elif path == "/metrics" and "prometheus" in node.settings.plugins():
        reachable = await node.store.reachable()
        body = ("# HELP kong_datastore_reachable 0 is unreachable\n# TYPE kong_datastore_reachable gauge\n"
                "kong_datastore_reachable %d\n" % reachable)
        server = "kong/%s" % node.version if node.version.number >= (2, 2) else "openresty"
        connection.respond(200, [("Content-Type", "text/plain; charset=UTF-8"), ("Server", server)],
                           body.encode("ascii"))
    else:
        reply(node, connection, 404, {"message": "Not found"})


async def status_body(node):
    counters = node.counters
    active = len(node.connections)
    idle = sum(1 for c in node.connections if c.idle)
    out = {
        "database": {"reachable": await node.store.reachable()},
        "server": {
            "connections_accepted": counters["connections_accepted"],
            "connections_handled": counters["connections_accepted"],
            "connections_active": active, "connections_reading": 0, "connections_waiting": idle,
            "connections_writing": max(1, active - idle), "total_requests": counters["total_requests"]}}
    if node.version.number >= (1, 2):
        out["memory"] = {"lua_shared_dicts": {}, "workers_lua_vms": []}
    return out


async def root_body(node):
    plugins = {p["name"] for p in await node.store.all("plugins")}
    version = node.version
    out = {
        "tagline": "Welcome to kong", "version": str(version), "hostname": socket.gethostname(), "node_id": node.id,
        "timers": {"running": 0, "pending": 5}, "lua_version": "LuaJIT 2.1.0-beta3",
        "plugins": {"available_on_server": {name: True for name in node.settings.plugins()},
                    "enabled_in_cluster": sorted(plugins)},
        "configuration": conf.masked(node.settings)}
    if version.has("root_pids"):
        out["pids"] = {"master": os.getpid(), "workers": [os.getpid()]}
    else:
        out["prng_seeds"] = {"pid: %d" % os.getpid(): 0}
    return out


def values_of(request):
    """The body as a dict: JSON, or a form with ``a.b`` and ``a[]`` names."""
    kind = request.header(b"content-type") or ""
    if not request.body:
        return {}
    if "json" in kind or request.body.lstrip()[:1] == b"{":
        try:
            value = json.loads(request.body)
        except ValueError:
            raise Answer(400, {"message": "Cannot parse JSON body"})
        if not isinstance(value, dict):
            raise Answer(400, {"message": "Cannot parse JSON body"})
        return value
    out = {}
    for name, value in parse_qsl(request.body.decode("utf-8"), keep_blank_values=True):
        at = out
        parts = name.split(".")
        for part in parts[:-1]:
            at = at.setdefault(part, {})
        last = parts[-1]
        if last.endswith("]"):
            at.setdefault(last[:last.index("[")], []).append(value)
        elif value in ("true", "false"):
            at[last] = value == "true"
        elif last in at:
            at[last] = (at[last] if isinstance(at[last], list) else [at[last]]) + [value]
        else:
            at[last] = value
    return out


async def find(node, name, key):
    """One entity by id, or by the field that names it."""
    entity = node.store.entities.get(name)
    if entity is None:
        raise not_found()
    if len(key) == 36 and key.count("-") == 4:
        found = await node.store.one(name, {"id": key})
        if found or not entity.unique:
            return found
    if not entity.unique:
        return None
    return await node.store.one(name, {entity.unique: key})


def service_url(values):
    url = values.pop("url", None)
    if url:
        from urllib.parse import urlsplit

        parts = urlsplit(url)
        values.update(protocol=parts.scheme, host=parts.hostname,
                      port=parts.port or (443 if parts.scheme == "https" else 80), path=parts.path or None)


async def answer(node, connection, request):
    words = [unquote(w) for w in request.path.strip("/").split("/") if w]
    method = "GET" if request.method == "HEAD" else request.method
    if not words:
        return 200, await root_body(node)
    if words == ["status"]:
        return 200, await status_body(node)
    if words[0] not in TOP or TOP[words[0]] not in node.store.entities:
        raise not_found()
    name, fixed = TOP[words[0]], {}
    rest = words[1:]
    if method != "GET" and not node.store.uses_database:
        raise Answer(405, {"code": 12, "name": "operation unsupported",
                           "message": "cannot write '%s' entities when not using a database" % name})
    if len(rest) >= 2 and rest[1] in BELOW and words[0] in PARENT:
        parent = await find(node, name, rest[0])
        if parent is None:
            raise not_found()
        name, fixed = BELOW[rest[1]], {PARENT[words[0]]: {"id": parent["id"]}}
        rest = rest[2:]
    if len(rest) > 1 or name not in node.store.entities:
        raise not_found()
    if rest:
        return await single(node, method, name, rest[0], fixed, request)
    return await collection(node, method, name, fixed, request)


async def collection(node, method, name, fixed, request):
    store, entity = node.store, node.store.entities[name]
    if method == "GET":
        query = dict(parse_qsl(request.query))
        size = min(1000, int(query.get("size", 100)))
        rows = await store.all(name, {k + "_id": v["id"] for k, v in fixed.items()}, query.get("offset"), size + 1)
        following = None
        if len(rows) > size:
            rows = rows[:size]
            following = "%s?offset=%s" % (request.path, rows[-1]["id"])
        if node.version.has("apis") and name not in ("services", "routes"):
            return 200, {"data": rows, "total": len(rows)} if rows else {"total": 0}
        return 200, {"data": rows, "next": following}
    if method != "POST":
        raise Answer(405, {"message": "Method not allowed"})
    values = values_of(request)
    return 201, await create(node, entity, values, fixed)


async def create(node, entity, values, fixed):
    store = node.store
    if entity.name == "services":
        service_url(values)
    if node.version.has("apis"):
        named = [key for key in ("api", "consumer", "route", "service") if values.get(key + "_id")]
        values.update({key: {"id": values.pop(key + "_id")} for key in named})
    names = values.pop("snis", None) or () if entity.name == "certificates" else ()
    values = dict(entity.accept(values), **fixed)
    check(node, entity, values)
    values = entity.complete(values)
    await store.insert(entity, values)
    await store.changed(entity.name, values)
    for name in names:
        await create(node, store.entities["snis"], {"name": name}, {"certificate": {"id": values["id"]}})
    return await store.one(entity.name, {"id": values["id"]})


def check(node, entity, values):
    if entity.name == "plugins":
        if values.get("name") not in node.settings.plugins():
            raise NotUsable({"name": "plugin '%s' not enabled; add it to the 'plugins' configuration property"
                             % values.get("name")})
        config = values.get("config") or {}
        old, new = ("whitelist", "blacklist"), ("allow", "deny")
        if values["name"] in ("acl", "ip-restriction", "bot-detection"):
            wrong = new if not node.version.has("allow_deny") else ()
            for key in wrong:
                if key in config:
                    raise NotUsable({"config": {key: "unknown field"}})
            if node.version.has("allow_deny"):
                for before, after in zip(old, new):
                    if before in config:
                        config[after] = config.pop(before)
        if values["name"] == "key-auth":
            config.setdefault("key_names", ["apikey"])
            config.setdefault("hide_credentials", False)
        if values["name"] == "basic-auth":
            config.setdefault("hide_credentials", False)
        values["config"] = config
    required = {"services": ("host",), "snis": ("name",), "upstreams": ("name",), "targets": ("target",),
                "acls": ("group",), "basicauth_credentials": ("username",)}.get(entity.name, ())
    missing = {key: "required field missing" for key in required if not values.get(key)}
    if missing:
        raise NotUsable(missing)
    if entity.name == "consumers" and not values.get("username") and not values.get("custom_id"):
        raise NotUsable({"@entity": ["at least one of these fields must be non-empty: 'custom_id', 'username'"]})


async def single(node, method, name, key, fixed, request):
    store, entity = node.store, node.store.entities[name]
    found = await find(node, name, key)
    if method == "GET":
        if found is None:
            raise not_found()
        return 200, found
    if method == "DELETE":
        if found is not None:
            await store.query(entity.delete(found["id"]))
            await store.changed(name, found)
        return 204, None
    values = values_of(request)
    if method == "PUT" and found is None:
        is_id = len(key) == 36 and key.count("-") == 4
        values["id" if is_id or not entity.unique else entity.unique] = key
        return 200, await create(node, entity, values, fixed)
    if method not in ("PATCH", "PUT"):
        raise Answer(405, {"message": "Method not allowed"})
    if found is None:
        raise not_found()
    if name == "services":
        service_url(values)
    values = entity.accept(values)
    if name == "plugins" and "config" in values:
        values["config"] = dict(found["config"], **(values["config"] or {}))
        check(node, entity, dict(found, **values))
    if name == "basicauth_credentials" and values.get("password"):
        values["password"] = handler.hash_password(values["password"], found["consumer"]["id"])
    if values:
        await store.query(entity.update(found["id"], values, store.workspace))
    await store.changed(name, dict(found, **values), found)
    return 200, await store.one(name, {"id": found["id"]})
