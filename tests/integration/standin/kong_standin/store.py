# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node knows of its database: connections, router, cache, and the events that keep the cache right."""

import asyncio

from .datastore import KINDS, DatastoreError, NotUnique, rows
from .entities import cache_key
from .legacy import as_route
from .proxy import Pool, Router

KEPT = 1             # idle connections kept besides the one that follows events


class NoWorkspace(DatastoreError):
    """There is no default workspace yet: ``finish`` makes it on Cassandra."""


class Store:
    def __init__(self, node):
        self.node = node
        self.version = node.version
        self.rows = rows(self.version, node.settings)
        self.idle = []
        self.in_use = 0
        self.room = None
        self.events = None
        self.seen = 0.0
        self.cache = {}
        self.looking = {}  # key -> the task that looks it up
        self.workspace = None
        self.router = Router([], {})
        self.api_router = Router([], {})
        self.plugins = []
        self.known_scopes = set()
        self.upstreams = {}
        self.turn = {}
        self.pool = None
        self.revision = 0  # of what there is in the database, as far as this node heard
        self.tables_ok = False
        self.declared = {}  # without a database: entity -> what the declarative configuration has

    @property
    def entities(self):
        return self.rows.entities

    @property
    def uses_database(self):
        return self.node.settings.get("database") in KINDS

    async def open(self):
        """Connect and load what is loaded at start. Raises DatastoreError."""
        self.pool = Pool(self.node.loop, int(self.node.settings.number("upstream_keepalive_pool_size", 60)))
        self.room = asyncio.Semaphore(self.rows.limit)
        if self.node.settings.get("role") == "control_plane":
            from . import hybrid

            self.outlet = hybrid.Outlet(self)
        if self.uses_database:
            self.events = self.rows.connection()
            self.seen = (await self.events.query(self.rows.now()))[0]["now"]
        await self.load()

    async def reopen(self):
        """After SIGHUP: other settings, an empty cache. Fails quietly: what was there stays, as the real one's old workers
        do."""
        old = [self.events] + self.idle
        self.idle = []
        self.rows = rows(self.version, self.node.settings)
        self.events = self.rows.connection() if self.uses_database else None
        for connection in old:
            if connection is not None:
                connection.close()
        self.revision += 1
        if await self.load_quietly():
            self.cache.clear()

    async def query(self, sql):
        """Run a statement on a connection of its own; a broken idle connection is replaced once."""
        async with self.room:
            connection, fresh = (self.idle.pop(), False) if self.idle else (
                self.rows.connection(), True)
            if not connection.open:
                fresh = True
            try:
                result = await connection.query(sql)
            except DatastoreError as error:
                if fresh or error.code:
                    if connection.open:
                        self.give(connection)
                    raise
                connection = self.rows.connection()
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
        except DatastoreError as error:
            self.tables_ok = False
            self.node.log("crit", "could not load the configuration: %s" % error)
        return self.tables_ok

    async def load(self):
        """Routes, services, plugins, upstreams: everything but what is looked up per credential."""
        if not self.uses_database:
            self.declare()
        elif self.version.has("workspaces"):
            found = await self.query(self.rows.workspace)
            if not found:
                raise NoWorkspace("table index is nil")
            self.workspace = found[0]["id"]
        plugins = [self._plugin(p) for p in await self.all("plugins")]
        enabled = self.node.settings.plugins()
        for plugin in plugins:
            if plugin["name"] not in enabled:
                raise DatastoreError("%s plugin is in use but not enabled" % plugin["name"])
        self.plugins = plugins
        services = {s["id"]: s for s in await self.all("services")}
        routes = await self.all("routes")
        upstreams = await self.all("upstreams")
        targets = await self.all("targets")
        self.upstreams = {u["name"]: [t for t in targets if t["upstream"]["id"] == u["id"] and t["weight"]]
                          for u in upstreams}
        self.router = Router(routes, services)
        if self.version.has("apis"):
            apis = [as_route(api) for api in await self.all("apis")]
            self.api_router = Router([route for route, _service in apis], {service["id"]: service for _route, service in apis})
        self.by_scope, self.known_scopes = {}, set()
        if self.version.has("lazy_plugins"):
            self.tables_ok = True
            return
        for plugin in self.plugins:
            if plugin["enabled"]:
                scope = tuple((plugin.get(k) or {}).get("id") for k in ("route", "service", "consumer"))
                self.by_scope.setdefault(plugin["name"], {})[scope] = plugin
        self.tables_ok = True

    def declare(self):
        """Read the declarative configuration, or what the control plane sent; where it is bad, what was there stays. Raises
        DatastoreError."""
        from . import export, hybrid

        if self.node.settings.is_data_plane:
            self.declared = hybrid.kept(self.node.settings, self.entities)
            return
        try:
            self.declared = export.declared(self.version, self.node.settings)
        except export.ExportError as error:
            raise DatastoreError(str(error))

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

    async def look_up(self, route, service, api):
        """Versions that look for plugins when a request needs them, and keep what they found, or did not find."""
        if not self.version.has("lazy_plugins") or (route, service, api) in self.known_scopes:
            return
        for plugin in [self._plugin(row) for row in await self.all("plugins")]:
            scope = tuple((plugin.get(k) or {}).get("id") for k in ("route", "service", "consumer", "api"))
            if plugin["enabled"] and all(mine in (None, asked) for mine, asked in zip(scope, (route, service, scope[2], api))):
                self.by_scope.setdefault(plugin["name"], {})[scope[:3] if scope[3] is None else scope] = plugin
        self.known_scopes.add((route, service, api))

    async def all(self, name, where=None, after=None, limit=None):
        """Entities whose columns have the values in ``where`` (dict), in the order of their keys."""
        entity = self.entities[name]
        if not self.uses_database:
            found = [row for row in self.declared[name] if all(entity.has(row, *pair) for pair in (where or {}).items())]
            found = sorted(found, key=lambda row: row[entity.key]) if entity.key else found
            return [row for row in found if not after or row["id"] > after][:limit]
        found = await self.query(entity.select(self.workspace, where, after, limit))
        return [entity.entity(row) for row in entity.cut(found, after, limit)]

    async def one(self, name, where):
        found = await self.all(name, where, limit=1)
        return found[0] if found else None

    async def insert(self, entity, values):
        for where in entity.unique_fields(values):
            if await self.one(entity.name, where):
                raise NotUnique("UNIQUE violation detected on '%s'" % where)
        await self.query(entity.insert(values, self.workspace))

    async def cached(self, key, load):
        """What is in the cache. As with the real one, all who miss the same thing wait for the first of them to look."""
        if key in self.cache:
            return self.cache[key]
        if key not in self.looking:
            self.looking[key] = self.node.loop.create_task(self._look(key, load))
        return await asyncio.shield(self.looking[key])  # which goes on when this client leaves

    async def _look(self, key, load):
        try:
            self.cache[key] = await load()
            return self.cache[key]
        finally:
            del self.looking[key]

    def key(self, name, *parts):
        return cache_key(name, parts, self.workspace if self.version.has("workspaces") else None)

    async def credential(self, name, field, value):
        return await self.cached(self.key(name, value),
                                 lambda: self.one(name, {field: value}))

    async def consumer(self, key):
        return await self.cached(self.key("consumers", key), lambda: self.one("consumers", {"id": key}))

    async def groups(self, consumer):
        found = await self.cached(self.key("acls", consumer),
                                  lambda: self.all("acls", {"consumer_id": consumer}))
        return {row["group"] for row in found}

    def plugin(self, name, route, service, consumer=None, api=None):
        """The most specific configuration of a plugin for a request, or None."""
        scopes = self.by_scope.get(name) if self.tables_ok or self.plugins else None
        if not scopes:
            return None
        of_api = ((None, None, consumer, api), (None, None, None, api)) if api else ()
        scoped = ((route, service, consumer), (route, None, consumer), (None, service, consumer), (None, None, consumer),
                  (route, service, None), (route, None, None), (None, service, None), (None, None, None))
        for scope in of_api + scoped:
            if scope in scopes:
                return scopes[scope]
        return None

    # events

    async def changed(self, name, values, before=None):
        """After a write: forget here, and tell the others."""
        keys = self.keys_of(name, values) | (self.keys_of(name, before) if before else set())
        await self.forget(keys)
        for statement in self.rows.announce(self.node.id, sorted(keys)):
            await self.query(statement)

    def keys_of(self, name, values):
        entity = self.entities[name]
        if name in ("routes", "services", "apis"):
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
        self.revision += 1
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
            except DatastoreError as error:
                self.node.log("error", "[cluster_events] poll failed: %s" % error)

    async def _poll(self):
        found = await self.events.query(self.rows.announced(self.seen))
        keys = {row["data"] for row in found if row["node_id"] != self.node.id}
        self.seen = max([self.seen] + [row["at"] for row in found])
        if not self.idle and self.in_use == 0:
            await self.query(self.rows.alive)
        if keys:
            await self.forget(keys)

    async def reachable(self):
        if not self.uses_database:
            return True
        try:
            await self.query(self.rows.alive)
        except DatastoreError:
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
