# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entities: which columns a version reads and writes, and how a row looks in JSON.

A version names every column it knows in its statements, so on a database of another version it fails, or does not see
what it cannot know, the way the real one does. Above all: from 2.1 on every read asks for the default workspace, and
what a node up to 2.0 writes after ``finish`` belongs to none.
"""

import json
import time
import uuid

from .pg import array, identifier, quote

ALWAYS = (0, 14)


def field(name, kind="text", since=ALWAYS, default=None, until=None):
    return {"name": name, "kind": kind, "since": since, "default": default, "until": until}


ID = field("id", "uuid")
CREATED = field("created_at", "time")
TAGS = field("tags", "array", (1, 1))
TTL = field("ttl", "ttl", (1, 4))
CONSUMER = field("consumer", "consumers")

ENTITIES = {
    "ca_certificates": {"since": (1, 3), "workspace": False, "unique": None, "fields": [
        ID, CREATED, field("cert"), field("cert_digest", since=(2, 1)), TAGS]},
    "certificates": {"fields": [
        ID, CREATED, field("cert"), field("key"), TAGS, field("cert_alt", since=(2, 3)),
        field("key_alt", since=(2, 3))]},
    "snis": {"unique": "name", "fields": [ID, CREATED, field("name"), field("certificate", "certificates"), TAGS]},
    "services": {"unique": "name", "fields": [
        ID, CREATED, field("updated_at", "time"), field("name"), field("protocol", default="http"), field("host"),
        field("port", "int", default=80), field("path"), field("retries", "int", default=5),
        field("connect_timeout", "int", default=60000), field("write_timeout", "int", default=60000),
        field("read_timeout", "int", default=60000), TAGS, field("client_certificate", "certificates", (1, 3)),
        field("tls_verify", "bool", (2, 1)), field("tls_verify_depth", "int", (2, 1)),
        field("ca_certificates", "uuids", (2, 1)), field("enabled", "bool", (2, 7), True)]},
    "routes": {"unique": "name", "fields": [
        ID, CREATED, field("updated_at", "time"), field("name", since=(1, 0)), field("service", "services"),
        field("protocols", "array", default=["http", "https"]), field("methods", "array"), field("hosts", "array"),
        field("paths", "array"), field("snis", "array", (1, 0)), field("sources", "jsons", (1, 0)),
        field("destinations", "jsons", (1, 0)),
        field("regex_priority", "int", default=0), field("strip_path", "bool", default=True),
        field("preserve_host", "bool", default=False), TAGS,
        field("https_redirect_status_code", "int", (1, 2), 426), field("headers", "json", (1, 3)),
        field("path_handling", "text", (1, 5), "v1", (2, 0)), field("path_handling", "text", (2, 0), "v0"),
        field("request_buffering", "bool", (2, 2), True),
        field("response_buffering", "bool", (2, 2), True)]},
    "consumers": {"unique": "username", "fields": [ID, CREATED, field("username"), field("custom_id"), TAGS]},
    "plugins": {"fields": [
        ID, CREATED, field("name"), CONSUMER, field("service", "services"), field("route", "routes"),
        field("api", "apis", until=(1, 0)), field("config", "json", default={}), field("enabled", "bool", default=True),
        field("cache_key", "hidden", (1, 0)), field("run_on", "text", (1, 0), "first", (2, 0)), TAGS,
        field("protocols", "array", (1, 1), ["grpc", "grpcs", "http", "https"])]},
    "upstreams": {"unique": "name", "fields": [
        ID, CREATED, field("name"), field("hash_on", default="none"), field("hash_fallback", default="none"),
        field("hash_on_header"), field("hash_fallback_header"), field("hash_on_cookie"),
        field("hash_on_cookie_path", default="/"), field("slots", "int", default=10000),
        field("healthchecks", "json", default={}), TAGS, field("algorithm", since=(1, 3), default="round-robin"),
        field("host_header", since=(1, 4)), field("client_certificate", "certificates", (2, 1))]},
    "targets": {"fields": [
        ID, CREATED, field("upstream", "upstreams"), field("target"), field("weight", "int", default=100), TAGS]},
    "acls": {"plugin": "acl", "fields": [ID, CREATED, CONSUMER, field("group"), field("cache_key", "hidden", (1, 0)),
                                         field("tags", "array", (1, 4))]},
    "apis": {"until": (1, 0), "unique": "name", "fields": [
        ID, CREATED, field("name"), field("upstream_url"), field("uris", "text_list"), field("hosts", "text_list"),
        field("methods", "text_list"), field("strip_uri", "bool", default=True), field("preserve_host", "bool", default=False),
        field("https_only", "bool", default=False), field("http_if_terminated", "bool", default=False),
        field("retries", "int", default=5), field("upstream_connect_timeout", "int", default=60000),
        field("upstream_send_timeout", "int", default=60000), field("upstream_read_timeout", "int", default=60000)]},
    "basicauth_credentials": {"plugin": "basic-auth", "unique": "username", "fields": [
        ID, CREATED, CONSUMER, field("username"), field("password"), field("tags", "array", (1, 4))]},
    "hmacauth_credentials": {"plugin": "hmac-auth", "unique": "username", "fields": [
        ID, CREATED, CONSUMER, field("username"), field("secret"), field("tags", "array", (1, 4))]},
    "jwt_secrets": {"plugin": "jwt", "unique": "key", "fields": [
        ID, CREATED, CONSUMER, field("key"), field("secret"), field("algorithm", default="HS256"),
        field("rsa_public_key"), field("tags", "array", (1, 4))]},
    "keyauth_credentials": {"plugin": "key-auth", "unique": "key", "fields": [
        ID, CREATED, CONSUMER, field("key"), field("tags", "array", (1, 4)), TTL]},
    "oauth2_credentials": {"plugin": "oauth2", "unique": "client_id", "fields": [
        ID, CREATED, CONSUMER, field("name"), field("client_id"), field("client_secret"),
        field("redirect_uris", "array"), field("tags", "array", (1, 4)), field("client_type", since=(2, 1)),
        field("hash_secret", "bool", (2, 1))]},
    "acme_storage": {"plugin": "acme", "since": (2, 0, 2), "workspace": False, "unique": "key", "fields": [
        ID, CREATED, field("key"), field("value"), field("ttl", "ttl")]},
    "sessions": {"plugin": "session", "since": (1, 3), "workspace": False, "unique": "session_id", "fields": [
        ID, CREATED, field("session_id"), field("expires", "int"), field("data"), field("ttl", "ttl")]},
    "ratelimiting_metrics": {"plugin": "rate-limiting", "since": (2, 1), "workspace": False, "key": None, "fields": [
        field("identifier"), field("period"), field("period_date", "time"), field("service_id", "uuid"),
        field("route_id", "uuid"), field("value", "int"), field("ttl", "ttl")]},
    "parameters": {"since": (2, 3), "workspace": False, "key": "key", "fields": [
        CREATED, field("key"), field("value")]},
    "workspaces": {"since": (2, 1), "workspace": False, "unique": "name", "fields": [
        ID, CREATED, field("name"), field("comment"), field("meta", "json"), field("config", "json")]},
    "vaults_beta": {"since": (2, 8), "unique": "prefix", "fields": [
        ID, CREATED, field("updated_at", "time"), field("prefix"), field("name"), field("description"),
        field("config", "json", default={}), field("tags", "array")]},
}


class NotUsable(Exception):
    """The values given for an entity do not fit it; ``fields`` says why."""

    def __init__(self, fields):
        super().__init__("schema violation (%s)" % "; ".join("%s: %s" % pair for pair in fields.items()))
        self.fields = fields


class Entity:
    """One entity as one version knows it. Statements are text; who runs them is the caller's affair."""

    def __init__(self, name, version):
        entry = ENTITIES[name]
        self.name, self.version = name, version
        self.unique = entry.get("unique")
        self.key = entry.get("key", "id")
        self.plugin = entry.get("plugin")
        self.exists = version.number >= entry.get("since", ALWAYS) and version.number < entry.get("until", (99,))
        self.in_workspace = entry.get("workspace", True) and version.has("workspaces")
        self.fields = [f for f in entry["fields"] if version.number >= f["since"]
                       and (f["until"] is None or version.number < f["until"])]
        if self.unique not in [f["name"] for f in self.fields]:
            self.unique = None  # routes of 0.14 have no name

    @staticmethod
    def column(spec):
        return spec["name"] + "_id" if spec["kind"] in ENTITIES else spec["name"]

    def columns(self):
        out = []
        for spec in self.fields:
            name = identifier(self.column(spec))
            if spec["kind"] == "time":
                out.append("floor(extract(epoch FROM %s))::bigint AS %s" % (name, name))
            elif spec["kind"] == "ttl":
                out.append("ceil(extract(epoch FROM %s - CURRENT_TIMESTAMP))::bigint AS %s" % (name, name))
            elif spec["kind"] == "jsons":
                out.append("to_jsonb(%s) AS %s" % (name, name))
            else:
                out.append(name)
        return ", ".join(out)

    def select(self, workspace, where=None, after=None, limit=None):
        """Rows whose columns have the values in ``where`` (dict); of a key greater than ``after``; at most ``limit``."""
        conditions = ["%s = %s" % (identifier(name), quote(value)) for name, value in (where or {}).items()]
        if after:
            conditions.append("id > %s" % quote(after))
        if self.in_workspace:
            conditions.append("ws_id = %s" % quote(workspace))
        if any(spec["kind"] == "ttl" for spec in self.fields):
            conditions.append("(ttl IS NULL OR ttl >= CURRENT_TIMESTAMP)")
        sql = "SELECT %s FROM %s" % (self.columns(), self.name)
        if conditions:
            sql += " WHERE " + " AND ".join(conditions)
        if self.key:
            sql += " ORDER BY " + self.key
        return sql + (" LIMIT %d" % limit if limit else "")

    def cut(self, rows, after=None, limit=None):
        """What of ``rows`` was asked for: all, where the datastore has seen to it."""
        return rows

    def unique_fields(self, values):
        """Conditions (dict) of which no other row may meet one; none, where the datastore sees to it."""
        return []

    def entity(self, row):
        """A row as the Admin API shows it."""
        out = {}
        for spec in self.fields:
            value = row[self.column(spec)]
            if spec["kind"] == "hidden":
                continue
            if spec["kind"] in ENTITIES:
                value = None if value is None else {"id": value}
            if spec["kind"] == "text_list":
                value = json.loads(value) if value else None
            out[spec["name"]] = value
        return out

    def shown(self, values):
        """Values that were accepted, as the Admin API shows them."""
        return {spec["name"]: values.get(spec["name"]) for spec in self.fields if spec["kind"] != "hidden"}

    def has(self, shown, column, value):
        """Whether an entity, as the Admin API shows it, has a value in a column."""
        spec = next(spec for spec in self.fields if self.column(spec) == column)
        mine = shown[spec["name"]]
        return (mine or {}).get("id") == value if spec["kind"] in ENTITIES else mine == value

    def literal(self, spec, value):
        kind = spec["kind"]
        if value is None:
            return "NULL"
        if kind in ENTITIES:
            return quote(value["id"] if isinstance(value, dict) else value)
        if kind == "array":
            return array(value)
        if kind == "uuids":
            return array(value, "uuid")
        if kind == "text_list":
            return quote(json.dumps(value))
        if kind == "json":
            return quote(json.dumps(value)) + "::jsonb"
        if kind == "jsons":
            return array([json.dumps(v) for v in value], "jsonb")
        if kind == "time":
            return "to_timestamp(%s)" % quote(value)
        if kind == "ttl":
            return "CURRENT_TIMESTAMP + interval '%d seconds'" % int(value)
        return quote(value)

    def accept(self, values):
        """Check and convert what a client sent; unknown fields are an error."""
        known = {spec["name"]: spec for spec in self.fields if spec["kind"] != "hidden"}
        errors = {name: "unknown field" for name in values if name not in known}
        out = {}
        for name, value in values.items():
            spec = known.get(name)
            if spec is None:
                continue
            kind = spec["kind"]
            if value is None or value == "":
                out[name] = None
            elif kind in ("int", "time", "ttl"):
                try:
                    out[name] = int(value)
                except (TypeError, ValueError):
                    errors[name] = "expected an integer"
            elif kind == "bool":
                if value in (True, "true"):
                    out[name] = True
                elif value in (False, "false"):
                    out[name] = False
                else:
                    errors[name] = "expected a boolean"
            elif kind in ("array", "uuids", "jsons", "text_list"):
                out[name] = value if isinstance(value, list) else [value]
            elif kind == "json":
                if isinstance(value, dict):
                    out[name] = value
                else:
                    errors[name] = "expected a record"
            elif kind in ENTITIES:
                out[name] = value if isinstance(value, dict) else {"id": value}
            elif isinstance(value, str):
                out[name] = value
            else:
                errors[name] = "expected a string"
        if errors:
            raise NotUsable(errors)
        return out

    def complete(self, values):
        """Add an id, times and defaults."""
        out = dict(values)
        now = int(time.time())
        for spec in self.fields:
            name = spec["name"]
            if out.get(name) is not None:
                continue
            if name == "id":
                out[name] = str(uuid.uuid4())
            elif name in ("created_at", "updated_at"):
                out[name] = now
            elif spec["default"] is not None and name not in values:
                out[name] = spec["default"]
        if self.name == "keyauth_credentials" and not out.get("key"):
            out["key"] = uuid.uuid4().hex
        if self.name == "basicauth_credentials" and "password" in values and values.get("password"):
            out["password"] = hash_password(values["password"], out["consumer"]["id"])
        if self.name == "services" and out.get("protocol") == "https" and "port" not in values:
            out["port"] = 443
        return out

    def insert(self, values, workspace, upsert=False):
        names, literals = [], []
        for spec in self.fields:
            value = values.get(spec["name"])
            if spec["name"] == "cache_key":
                value = self.cache_key(values, workspace)
            names.append(identifier(self.column(spec)))
            literals.append(self.literal(spec, value))
        if self.in_workspace:
            names.append("ws_id")
            literals.append(quote(workspace))
        sql = "INSERT INTO %s (%s) VALUES (%s)" % (self.name, ", ".join(names), ", ".join(literals))
        if upsert:
            sql += " ON CONFLICT (%s) DO UPDATE SET %s" % (
                self.key or "id", ", ".join("%s = EXCLUDED.%s" % (n, n) for n in names if n != self.key))
        return sql

    def update(self, key, values, workspace):
        sets = []
        for spec in self.fields:
            if spec["name"] in values and spec["name"] != "id":
                sets.append("%s = %s" % (identifier(self.column(spec)), self.literal(spec, values[spec["name"]])))
        if any(spec["name"] == "updated_at" for spec in self.fields):
            sets.append("updated_at = CURRENT_TIMESTAMP(0)")
        where = "%s = %s" % (self.key, quote(key))
        if self.in_workspace:
            where += " AND ws_id = %s" % quote(workspace)
        return "UPDATE %s SET %s WHERE %s" % (self.name, ", ".join(sets), where)

    def delete(self, key):
        return "DELETE FROM %s WHERE id = %s" % (self.name, quote(key))

    def cache_key(self, values, workspace):
        """The unique key of plugins and acls, and the name of an entry in a node's cache."""
        if self.name == "plugins":
            parts = [values.get("name")] + [(values.get(k) or {}).get("id") for k in ("route", "service", "consumer")]
        elif self.name == "acls":
            parts = [(values.get("consumer") or {}).get("id"), values.get("group")]
        else:
            parts = [values.get(self.unique)]
        return cache_key(self.name, parts, workspace if self.version.has("workspaces") else None)


def cache_key(name, parts, workspace):
    """``table:a:b:c::`` up to 2.0, with the workspace's id at its end from 2.1 on. The two do not meet: what a 2.0
    node invalidates is not what a 2.8 node has cached."""
    parts = [part or "" for part in parts] + [""] * (5 - len(parts))
    return ":".join([name] + parts[:5] + ([workspace] if workspace else []))


def hash_password(password, consumer):
    from hashlib import sha1

    return sha1((password + consumer).encode("utf-8")).hexdigest()


def all_entities(version, plugins, kind=Entity):
    """The entities of a version, those of plugins only where the plugin is loaded."""
    found = {name: kind(name, version) for name in ENTITIES}
    return {name: entity for name, entity in found.items()
            if entity.exists and (entity.plugin is None or entity.plugin in plugins)}
