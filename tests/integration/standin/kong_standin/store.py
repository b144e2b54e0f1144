# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node knows of its database: connections, router, cache, and the events that keep the cache right."""

import asyncio
import uuid

from .entities import all_entities, cache_key
from .pg import AsyncConnection, PgError, quote
from .proxy import Pool, Router

CHANNEL = "invalidations"
KEPT = 1             # idle connections kept besides the one that follows events
EVENT_SECONDS = 3600


class Store:
    def __init__(self, node):
        self.node = node
        self.version = node.version
        self.entities = all_entities(self.version, node.settings.plugins())
        self.idle = []
        self.in_use = 0
        self.room = None
        self.events = None
        self.seen = 0.0
        self.cache = {}
        self.workspace = None
        self.router = Router([], {})
        self.plugins = []
        self.upstreams = {}
        self.turn = {}
        self.pool = None
        self.tables_ok = False

    @property
    def settings(self):
        return self.node.settings.database()

    @property
    def uses_database(self):
        return self.node.settings.get("database") == "postgres"

    async def open(self):
        """Connect and load what is loaded at start. Raises PgError."""
        self.pool = Pool(self.node.loop, int(self.node.settings.number("upstream_keepalive_pool_size", 60)))
        self.room = asyncio.Semaphore(self.settings["max"] or 32)
        if self.uses_database:
            self.events = AsyncConnection(self.settings, self.version.scram)
            rows = await self.events.query("SELECT extract(epoch FROM CURRENT_TIMESTAMP)::float8 AS now")
            self.seen = rows[0]["now"]
            await self.load()

    async def reopen(self):
        """After SIGHUP: other settings, an empty cache. Fails quietly: the old routes stay, as with the real one."""
        old = [self.events] + self.idle
        self.idle = []
        self.cache.clear()
        self.events = AsyncConnection(self.settings, self.version.scram)
        for connection in old:
            if connection is not None:
                connection.close()
        await self.load_quietly()

    async def query(self, sql):
        """Run a statement on a connection of its own; a broken idle connection is replaced once."""
        async with self.room:
            connection, fresh = (self.idle.pop(), False) if self.idle else (
                AsyncConnection(self.settings, self.version.scram), True)
            if not connection.open:
                fresh = True
            try:
                result = await connection.query(sql)
            except PgError as error:
                if fresh or error.code:
                    if connection.open:
                        self.give(connection)
                    raise
                connection = AsyncConnection(self.settings, self.version.scram)
                result = await connection.query(sql)
            self.give(connection)
            return result

    def give(self, connection):
        if len(self.idle) < KEPT and connection.open:
            self.idle.append(connection)
        else:
            connection.close()

    async def load_quietly(self):
        try:
            await self.load()
        except PgError as error:
            self.tables_ok = False
            self.node.log("crit", "could not load the configuration: %s" % error)

    async def load(self):
        """Routes, services, plugins, upstreams: everything but what is looked up per credential."""
        if self.version.has("workspaces"):
            rows = await self.query("SELECT id FROM workspaces WHERE name = 'default'")
            self.workspace = rows[0]["id"] if rows else None
        plugins = [self._plugin(p) for p in await self.all("plugins")]
        enabled = self.node.settings.plugins()
        for plugin in plugins:
            if plugin["name"] not in enabled:
                raise PgError("%s plugin is in use but not enabled" % plugin["name"])
        self.plugins = plugins
        services = {s["id"]: s for s in await self.all("services")}
        routes = await self.all("routes")
        upstreams = await self.all("upstreams")
        targets = await self.all("targets")
        self.upstreams = {u["name"]: [t for t in targets if t["upstream"]["id"] == u["id"] and t["weight"]]
                          for u in upstreams}
        self.router = Router(routes, services)
        self.by_scope = {}
        for plugin in self.plugins:
            if plugin["enabled"]:
                scope = tuple((plugin.get(k) or {}).get("id") for k in ("route", "service", "consumer"))
                self.by_scope.setdefault(plugin["name"], {})[scope] = plugin
        self.tables_ok = True

    def _plugin(self, plugin):
        """From 2.1 on a node reads the old names of two lists as the new ones; before, it knows only the old."""
        config = dict(plugin["config"] or {})
        if plugin["name"] in ("acl", "ip-restriction", "bot-detection"):
            if self.version.has("allow_deny"):
                for new, old in (("allow", "whitelist"), ("deny", "blacklist")):
                    if config.get(new) is None and config.get(old) is not None:
                        config[new] = config[old]
            else:
                config["allow"], config["deny"] = config.get("whitelist"), config.get("blacklist")
        return dict(plugin, config=config)

    async def all(self, name, where=None, **more):
        entity = self.entities[name]
        return [entity.entity(row) for row in await self.query(entity.select(self.workspace, where, **more))]

    async def one(self, name, where):
        rows = await self.all(name, where, limit=1)
        return rows[0] if rows else None

    async def cached(self, key, load):
        if key in self.cache:
            return self.cache[key]
        value = await load()
        self.cache[key] = value
        return value

    def key(self, name, *parts):
        return cache_key(name, parts, self.workspace if self.version.has("workspaces") else None)

    async def credential(self, name, field, value):
        return await self.cached(self.key(name, value),
                                 lambda: self.one(name, "%s = %s" % (field, quote(value))))

    async def consumer(self, key):
        return await self.cached(self.key("consumers", key), lambda: self.one("consumers", "id = %s" % quote(key)))

    async def groups(self, consumer):
        rows = await self.cached(self.key("acls", consumer),
                                 lambda: self.all("acls", "consumer_id = %s" % quote(consumer)))
        return {row["group"] for row in rows}

    def plugin(self, name, route, service, consumer=None):
        """The most specific configuration of a plugin for a request, or None."""
        scopes = self.by_scope.get(name) if self.tables_ok or self.plugins else None
        if not scopes:
            return None
        for scope in ((route, service, consumer), (route, None, consumer), (None, service, consumer),
                      (None, None, consumer), (route, service, None), (route, None, None), (None, service, None),
                      (None, None, None)):
            if scope in scopes:
                return scopes[scope]
        return None

    # events

    async def changed(self, name, values, before=None):
        """After a write: forget here, and tell the others."""
        keys = self.keys_of(name, values) | (self.keys_of(name, before) if before else set())
        await self.forget(keys)
        rows = ", ".join("(%s, %s, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP + interval '%d seconds', %s, %s)" % (
            quote(str(uuid.uuid4())), quote(self.node.id), EVENT_SECONDS, quote(CHANNEL), quote(key))
            for key in sorted(keys))
        await self.query("INSERT INTO cluster_events (id, node_id, at, expire_at, channel, data) VALUES " + rows)

    def keys_of(self, name, values):
        entity = self.entities[name]
        if name in ("routes", "services"):
            return {"router:version"}
        if name in ("plugins", "upstreams", "targets", "certificates", "snis", "ca_certificates"):
            return {"plugins_iterator:version" if name == "plugins" else name + ":version"}
        if name == "consumers":
            return {self.key("consumers", values["id"])}
        if name == "acls":
            return {self.key("acls", values["consumer"]["id"])}
        if entity.unique and values.get(entity.unique):
            return {self.key(name, values[entity.unique])}
        return {name + ":version"}

    async def forget(self, keys):
        reload = False
        for key in keys:
            if key.endswith(":version"):
                reload = True
            else:
                self.cache.pop(key, None)
        if reload:
            await self.load_quietly()

    async def follow(self):
        """Poll cluster_events every ``db_update_frequency`` seconds."""
        while True:
            await asyncio.sleep(max(0.1, float(self.node.settings.number("db_update_frequency", 5))))
            if not self.uses_database:
                continue
            try:
                await self._poll()
                if not self.tables_ok:
                    await self.load_quietly()
            except PgError as error:
                self.node.log("error", "[cluster_events] poll failed: %s" % error)

    async def _poll(self):
        connection = self.events
        rows = await connection.query(
            "SELECT node_id, data, extract(epoch FROM at)::float8 AS at FROM cluster_events WHERE channel = %s AND "
            "at > to_timestamp(%r) AND at <= CURRENT_TIMESTAMP ORDER BY at" % (quote(CHANNEL), self.seen))
        keys = {row["data"] for row in rows if row["node_id"] != self.node.id}
        for row in rows:
            self.seen = max(self.seen, row["at"])
        if not self.idle and self.in_use == 0:
            await self.query("SELECT 1 AS alive")
        if keys:
            await self.forget(keys)

    async def reachable(self):
        if not self.uses_database:
            return True
        try:
            await self.query("SELECT 1 AS alive")
        except PgError:
            return False
        return True

    def balance(self, service):
        """(host, port, given name) for a service: itself, or a target of the upstream with its name."""
        targets = self.upstreams.get(service["host"])
        if targets is None:
            return service["host"], service["port"]
        if not targets:
            return None
        turn = self.turn[service["host"]] = self.turn.get(service["host"], -1) + 1
        total = sum(t["weight"] for t in targets)
        at = turn % total
        for target in targets:
            at -= target["weight"]
            if at < 0:
                host, _colon, port = target["target"].rpartition(":")
                return (host, int(port)) if host else (target["target"], 8000)
        return None
