# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kong's tables and what each migration does to them, in our own SQL.

``up(subsystem, name, version)`` is the text that one transaction runs; ``teardown`` is a function that gets a blocking
connection. Where the real migration alters a table, this one does as well, so that the same locks are taken: core
009_200_to_210 holds ACCESS EXCLUSIVE on every entity table until it commits. Everything can be run again, which is
what ``--force`` does.
"""

import uuid

from .pg import quote

STATE_TABLES = """
CREATE TABLE IF NOT EXISTS schema_meta (
  key TEXT, subsystem TEXT, last_executed TEXT, executed TEXT[], pending TEXT[], PRIMARY KEY (key, subsystem));
CREATE TABLE IF NOT EXISTS locks (key TEXT PRIMARY KEY, owner TEXT, ttl TIMESTAMP WITH TIME ZONE);
CREATE INDEX IF NOT EXISTS locks_ttl_idx ON locks (ttl);
"""

NOW = "CURRENT_TIMESTAMP(0)"
CREATED = "created_at TIMESTAMP WITH TIME ZONE DEFAULT " + NOW
WORKSPACE_TABLES = ("upstreams", "targets", "consumers", "certificates", "snis", "services", "routes", "plugins")


def guarded(statement):
    """A statement that may find its object already there."""
    return ("DO $guard$ BEGIN %s; EXCEPTION WHEN duplicate_object OR duplicate_table OR undefined_object THEN NULL; "
            "END $guard$;" % statement.strip().rstrip(";"))


def table(name, *columns):
    return "CREATE TABLE IF NOT EXISTS %s (%s);" % (name, ", ".join(columns))


def index(name, on, *columns):
    return "CREATE INDEX IF NOT EXISTS %s ON %s (%s);" % (name, on, ", ".join(columns))


def add(name, *columns):
    return "ALTER TABLE IF EXISTS ONLY %s %s;" % (name, ", ".join("ADD COLUMN IF NOT EXISTS " + c for c in columns))


def tag_trigger(name):
    return ("DROP TRIGGER IF EXISTS %(t)s_sync_tags ON %(t)s; CREATE TRIGGER %(t)s_sync_tags AFTER INSERT OR UPDATE "
            "OF tags OR DELETE ON %(t)s FOR EACH ROW EXECUTE PROCEDURE sync_tags();" % {"t": name})


def tagged(name):
    return (add(name, "tags TEXT[]") + "CREATE INDEX IF NOT EXISTS %(t)s_tags_idx ON %(t)s USING GIN (tags);"
            % {"t": name} + tag_trigger(name))


SYNC_TAGS = """
CREATE OR REPLACE FUNCTION sync_tags() RETURNS trigger LANGUAGE plpgsql AS $tags$
BEGIN
  IF TG_OP = 'DELETE' THEN
    DELETE FROM tags WHERE entity_id = OLD.id;
    RETURN OLD;
  END IF;
  IF NEW.tags IS NULL THEN
    DELETE FROM tags WHERE entity_id = NEW.id;
  ELSE
    INSERT INTO tags (entity_id, entity_name, tags) VALUES (NEW.id, TG_TABLE_NAME, NEW.tags)
    ON CONFLICT (entity_id) DO UPDATE SET tags = EXCLUDED.tags;
  END IF;
  RETURN NEW;
END $tags$;
"""


def credential(name, *columns):
    return table(name, "id UUID PRIMARY KEY", CREATED,
                 "consumer_id UUID REFERENCES consumers (id) ON DELETE CASCADE", *columns) + index(
                     name + "_consumer_id_idx", name, "consumer_id")


def base(version):
    old = version.number < (2, 0)
    parts = [
        table("cluster_events", "id UUID PRIMARY KEY", "node_id UUID NOT NULL",
              "at TIMESTAMP WITH TIME ZONE NOT NULL", "nbf TIMESTAMP WITH TIME ZONE",
              "expire_at TIMESTAMP WITH TIME ZONE NOT NULL", "channel TEXT", "data TEXT"),
        index("cluster_events_at_idx", "cluster_events", "at"),
        index("cluster_events_channel_idx", "cluster_events", "channel"),
        table("services", "id UUID PRIMARY KEY", CREATED, "updated_at TIMESTAMP WITH TIME ZONE DEFAULT " + NOW,
              "name TEXT UNIQUE", "retries BIGINT", "protocol TEXT", "host TEXT", "port BIGINT", "path TEXT",
              "connect_timeout BIGINT", "write_timeout BIGINT", "read_timeout BIGINT"),
        table("routes", "id UUID PRIMARY KEY", CREATED, "updated_at TIMESTAMP WITH TIME ZONE DEFAULT " + NOW,
              "name TEXT UNIQUE", "service_id UUID REFERENCES services (id)", "protocols TEXT[]", "methods TEXT[]",
              "hosts TEXT[]", "paths TEXT[]", "snis TEXT[]", "sources JSONB[]", "destinations JSONB[]",
              "regex_priority BIGINT", "strip_path BOOLEAN", "preserve_host BOOLEAN"),
        index("routes_service_id_idx", "routes", "service_id"),
        table("certificates", "id UUID PRIMARY KEY", CREATED, "cert TEXT", "key TEXT"),
        table("snis", "id UUID PRIMARY KEY", CREATED, "name TEXT NOT NULL UNIQUE",
              "certificate_id UUID REFERENCES certificates (id)"),
        index("snis_certificate_id_idx", "snis", "certificate_id"),
        table("consumers", "id UUID PRIMARY KEY", CREATED, "username TEXT UNIQUE", "custom_id TEXT UNIQUE"),
        table("plugins", "id UUID PRIMARY KEY", CREATED, "name TEXT NOT NULL",
              "consumer_id UUID REFERENCES consumers (id) ON DELETE CASCADE",
              "service_id UUID REFERENCES services (id) ON DELETE CASCADE",
              "route_id UUID REFERENCES routes (id) ON DELETE CASCADE", "config JSONB NOT NULL",
              "enabled BOOLEAN NOT NULL", "cache_key TEXT UNIQUE", *(["run_on TEXT"] if old else [])),
        index("plugins_name_idx", "plugins", "name"),
        table("upstreams", "id UUID PRIMARY KEY", CREATED, "name TEXT UNIQUE", "hash_on TEXT", "hash_fallback TEXT",
              "hash_on_header TEXT", "hash_fallback_header TEXT", "hash_on_cookie TEXT", "hash_on_cookie_path TEXT",
              "slots INTEGER NOT NULL", "healthchecks JSONB"),
        table("targets", "id UUID PRIMARY KEY",
              "created_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP(3)",
              "upstream_id UUID REFERENCES upstreams (id) ON DELETE CASCADE", "target TEXT NOT NULL",
              "weight INTEGER NOT NULL"),
        index("targets_upstream_id_idx", "targets", "upstream_id"),
        table("cluster_ca", "pk BOOLEAN PRIMARY KEY CHECK (pk)", "key TEXT NOT NULL", "cert TEXT NOT NULL"),
        table("ttls", "primary_key_value TEXT NOT NULL", "primary_uuid_value UUID", "table_name TEXT NOT NULL",
              "primary_key_name TEXT NOT NULL", "expire_at TIMESTAMP WITHOUT TIME ZONE NOT NULL",
              "PRIMARY KEY (primary_key_value, table_name)"),
        index("ttls_primary_uuid_value_idx", "ttls", "primary_uuid_value"),
    ]
    return "".join(parts)


def tags_100(version):
    names = ("services", "routes", "certificates", "snis", "consumers", "plugins", "upstreams", "targets")
    return (table("tags", "entity_id UUID PRIMARY KEY", "entity_name TEXT", "tags TEXT[]")
            + index("tags_entity_name_idx", "tags", "entity_name") + SYNC_TAGS
            + "".join(tagged(n) for n in names) + add("plugins", "protocols TEXT[]"))


def workspace_column(name, workspace):
    return add(name, "ws_id UUID REFERENCES workspaces (id) DEFAULT %s::uuid" % workspace)


def workspaced(name, workspace, unique=(), references=(), entity=True):
    """ws_id for one table: unique fields become unique in a workspace, references stay inside one."""
    parts = [workspace_column(name, workspace)]
    if entity:
        parts.append(guarded("ALTER TABLE %s ADD CONSTRAINT %s_id_ws_id_unique UNIQUE (id, ws_id)" % (name, name)))
    for field in unique:
        parts.append("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s_%s_key;" % (name, name, field))
        parts.append(guarded("ALTER TABLE %s ADD CONSTRAINT %s_ws_id_%s_unique UNIQUE (ws_id, %s)"
                             % (name, name, field, field)))
    for field, other, action in references:
        parts.append("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s_%s_fkey;" % (name, name, field))
        parts.append(guarded("ALTER TABLE %s ADD CONSTRAINT %s_%s_fkey FOREIGN KEY (%s, ws_id) REFERENCES "
                             "%s (id, ws_id) %s" % (name, name, field, field, other, action)))
    return "".join(parts)


def workspaces_210(version):
    workspace = quote(str(uuid.uuid4()))
    cascade = "ON DELETE CASCADE"
    return "".join((
        table("workspaces", "id UUID PRIMARY KEY", "name TEXT UNIQUE", "comment TEXT", CREATED, "meta JSONB",
              "config JSONB"),
        "INSERT INTO workspaces (id, name) VALUES (%s, 'default') ON CONFLICT DO NOTHING;" % workspace,
        add("ca_certificates", "cert_digest TEXT UNIQUE"),
        add("services", "tls_verify BOOLEAN", "tls_verify_depth SMALLINT", "ca_certificates UUID[]"),
        add("upstreams", "client_certificate_id UUID REFERENCES certificates (id)"),
        workspaced("upstreams", workspace, ("name",)),
        workspaced("targets", workspace, (), (("upstream_id", "upstreams", cascade),)),
        workspaced("consumers", workspace, ("username", "custom_id")),
        workspaced("certificates", workspace),
        workspaced("snis", workspace, (), (("certificate_id", "certificates", ""),)),
        workspaced("services", workspace, ("name",), (("client_certificate_id", "certificates", ""),)),
        workspaced("routes", workspace, ("name",), (("service_id", "services", ""),)),
        workspaced("plugins", workspace, (), (("service_id", "services", cascade), ("route_id", "routes", cascade),
                                              ("consumer_id", "consumers", cascade))),
    ))


DEFAULT_WORKSPACE = "(SELECT id FROM workspaces WHERE name = 'default')"


def credential_210(name, unique, references=(("consumer_id", "consumers", "ON DELETE CASCADE"),)):
    """The plugin tables get the id of the default workspace as a constant default, so it is read first."""
    def text(version):
        parts = [
            "DO $ws$ BEGIN EXECUTE 'ALTER TABLE ONLY %s ADD COLUMN IF NOT EXISTS ws_id UUID REFERENCES workspaces (id) "
            "DEFAULT ' || quote_literal(%s) || '::uuid'; END $ws$;" % (name, DEFAULT_WORKSPACE)]
        rest = workspaced(name, "NULL", unique, references)
        parts.append(rest.replace(workspace_column(name, "NULL"), ""))
        return "".join(parts)
    return text


def oauth2_210(version):
    return (
        credential_210("oauth2_credentials", ("client_id",))(version)
        + credential_210("oauth2_authorization_codes", ("code",), (
            ("service_id", "services", "ON DELETE CASCADE"),
            ("credential_id", "oauth2_credentials", "ON DELETE CASCADE")))(version)
        + credential_210("oauth2_tokens", ("access_token", "refresh_token"), (
            ("service_id", "services", "ON DELETE CASCADE"),
            ("credential_id", "oauth2_credentials", "ON DELETE CASCADE")))(version)
        + add("oauth2_credentials", "client_type TEXT", "hash_secret BOOLEAN")
        + add("oauth2_authorization_codes", "challenge TEXT", "challenge_method TEXT"))


def text(sql):
    return lambda version: sql


def drop_workspace_default(connection, names):
    for name in names:
        connection.query("ALTER TABLE IF EXISTS %s ALTER ws_id SET DEFAULT NULL" % name)


def finish_005(connection, version):
    connection.query("UPDATE upstreams SET algorithm = CASE WHEN hash_on = 'none' THEN 'round-robin' "
                     "ELSE 'consistent-hashing' END WHERE algorithm IS NULL")


def finish_008(connection, version):
    connection.query("DROP INDEX IF EXISTS plugins_run_on_idx; ALTER TABLE IF EXISTS plugins DROP COLUMN IF EXISTS "
                     "run_on; DROP TABLE IF EXISTS cluster_ca")


def finish_009(connection, version):
    connection.query("UPDATE plugins SET cache_key = cache_key || ':' || %s WHERE cache_key IS NOT NULL AND "
                     "cache_key LIKE '%%:'" % DEFAULT_WORKSPACE)
    connection.query("UPDATE ca_certificates SET cert_digest = encode(sha256(convert_to(cert, 'UTF8')), 'hex') "
                     "WHERE cert_digest IS NULL; ALTER TABLE ca_certificates ALTER cert_digest SET NOT NULL")
    drop_workspace_default(connection, WORKSPACE_TABLES)


def finish_012(connection, version):
    connection.query("DELETE FROM targets old USING targets new WHERE old.upstream_id = new.upstream_id AND "
                     "old.target = new.target AND (old.created_at, old.id) < (new.created_at, new.id)")


def finish_lists(plugin):
    """allow := whitelist, deny := blacklist, whatever allow and deny held. That is what the real one does."""
    def run(connection, version):
        connection.query(
            "UPDATE plugins SET config = (config - 'allow' - 'deny' - 'whitelist' - 'blacklist') || jsonb_strip_nulls("
            "jsonb_build_object('allow', config->'whitelist', 'deny', config->'blacklist')) WHERE name = %s"
            % quote(plugin))
    return run


def finish_acl(connection, version):
    finish_lists("acl")(connection, version)
    drop_workspace_default(connection, ("acls",))


def finish_acl_keys(connection, version):
    connection.query("UPDATE acls SET cache_key = cache_key || coalesce(ws_id, %s) WHERE cache_key LIKE '%%:'"
                     % DEFAULT_WORKSPACE)


def finish_credentials(*names):
    return lambda connection, version: drop_workspace_default(connection, names)


def finish_001(connection, version):
    connection.query("UPDATE plugins SET cache_key = 'plugins:' || name || ':' || coalesce(route_id::text, '') || ':' || "
                     "coalesce(service_id::text, '') || ':' || coalesce(consumer_id::text, '') || ':' WHERE cache_key IS NULL")
    connection.query("ALTER TABLE plugins DROP COLUMN IF EXISTS api_id; DROP TABLE IF EXISTS schema_migrations")


def finish_acl_001(connection, version):
    connection.query("UPDATE acls SET cache_key = 'acls:' || consumer_id || ':' || \"group\" || ':::' WHERE cache_key IS NULL")


def finish_nothing(connection, version):
    pass


def metrics(name):
    return table(name, "identifier TEXT", "period TEXT", "period_date TIMESTAMP WITH TIME ZONE",
                 "service_id UUID DEFAULT '00000000-0000-0000-0000-000000000000'",
                 "route_id UUID DEFAULT '00000000-0000-0000-0000-000000000000'", "value INTEGER",
                 "PRIMARY KEY (identifier, period, period_date, service_id, route_id)")


def base_oauth2(version):
    ttl = "ttl TIMESTAMP WITH TIME ZONE"
    return "".join((
        credential("oauth2_credentials", "name TEXT", "client_id TEXT UNIQUE", "client_secret TEXT",
                   "redirect_uris TEXT[]"),
        index("oauth2_credentials_secret_idx", "oauth2_credentials", "client_secret"),
        table("oauth2_authorization_codes", "id UUID PRIMARY KEY", CREATED,
              "credential_id UUID REFERENCES oauth2_credentials (id) ON DELETE CASCADE",
              "service_id UUID REFERENCES services (id) ON DELETE CASCADE", "code TEXT UNIQUE",
              "authenticated_userid TEXT", "scope TEXT", ttl),
        table("oauth2_tokens", "id UUID PRIMARY KEY", CREATED,
              "credential_id UUID REFERENCES oauth2_credentials (id) ON DELETE CASCADE",
              "service_id UUID REFERENCES services (id) ON DELETE CASCADE", "access_token TEXT UNIQUE",
              "refresh_token TEXT UNIQUE", "token_type TEXT", "expires_in INTEGER", "authenticated_userid TEXT",
              "scope TEXT", ttl)))


UP = {
    "core/000_base": base,
    "core/001_14_to_15": text(
        table("apis", "id UUID PRIMARY KEY", CREATED, "name TEXT UNIQUE", "upstream_url TEXT", "preserve_host BOOLEAN",
              "retries SMALLINT DEFAULT 5", "uris TEXT", "hosts TEXT", "methods TEXT", "strip_uri BOOLEAN",
              "https_only BOOLEAN")
        # what a database of 0.14.1 lacks
        + add("routes", "name TEXT", "snis TEXT[]", "sources JSONB[]", "destinations JSONB[]")
        + guarded("ALTER TABLE routes ADD CONSTRAINT routes_name_key UNIQUE (name)")
        + add("plugins", "cache_key TEXT", "run_on TEXT")
        + guarded("ALTER TABLE plugins ADD CONSTRAINT plugins_cache_key_key UNIQUE (cache_key)")),
    "acl/001_14_to_15": text(add("acls", "cache_key TEXT")
                             + guarded("ALTER TABLE acls ADD CONSTRAINT acls_cache_key_key UNIQUE (cache_key)")),
    "core/003_100_to_110": tags_100,
    "core/004_110_to_120": text(add("routes", "https_redirect_status_code INTEGER")
                                + index("cluster_events_expire_at_idx", "cluster_events", "expire_at")),
    "core/005_120_to_130": text(
        table("ca_certificates", "id UUID PRIMARY KEY", CREATED, "cert TEXT NOT NULL UNIQUE", "tags TEXT[]")
        + tag_trigger("ca_certificates") + add("routes", "headers JSONB")
        + add("services", "client_certificate_id UUID REFERENCES certificates (id)")
        + add("upstreams", "algorithm TEXT")),
    "core/006_130_to_140": text(add("upstreams", "host_header TEXT")),
    "core/007_140_to_150": text(add("routes", "path_handling TEXT DEFAULT 'v0'")),
    "core/008_150_to_200": text("ALTER TABLE IF EXISTS ONLY routes ALTER COLUMN path_handling SET DEFAULT 'v0';"),
    "core/009_200_to_210": workspaces_210,
    "core/011_212_to_213": text("DROP INDEX IF EXISTS plugins_run_on_idx;"),
    "core/012_213_to_220": text(
        table("clustering_data_planes", "id UUID PRIMARY KEY", "hostname TEXT NOT NULL", "ip TEXT NOT NULL",
              "last_seen TIMESTAMP WITH TIME ZONE DEFAULT " + NOW, "config_hash TEXT NOT NULL",
              "ttl TIMESTAMP WITH TIME ZONE")
        + index("clustering_data_planes_ttl_idx", "clustering_data_planes", "ttl")
        + add("routes", "request_buffering BOOLEAN", "response_buffering BOOLEAN")),
    "core/013_220_to_230": lambda version: (
        table("parameters", "key TEXT PRIMARY KEY", "value TEXT NOT NULL", "created_at TIMESTAMP WITH TIME ZONE")
        + "INSERT INTO parameters (key, value) VALUES ('cluster_id', %s) ON CONFLICT DO NOTHING;" % quote(
            str(uuid.uuid4()))
        + add("certificates", "cert_alt TEXT", "key_alt TEXT")
        + add("clustering_data_planes", "version TEXT", "sync_status TEXT NOT NULL DEFAULT 'unknown'")),
    "core/014_230_to_270": text(add("services", "enabled BOOLEAN DEFAULT true")),
    "core/015_270_to_280": text(
        table("vaults_beta", "id UUID PRIMARY KEY", "ws_id UUID REFERENCES workspaces (id)", "prefix TEXT UNIQUE",
              "name TEXT NOT NULL", "description TEXT", "config JSONB NOT NULL", CREATED,
              "updated_at TIMESTAMP WITH TIME ZONE DEFAULT " + NOW, "tags TEXT[]", "UNIQUE (id, ws_id)")
        + "CREATE INDEX IF NOT EXISTS vaults_beta_tags_idx ON vaults_beta USING GIN (tags);"
        + tag_trigger("vaults_beta")),
    "acl/000_base_acl": text(credential("acls", '"group" TEXT', "cache_key TEXT UNIQUE")
                             + index("acls_group_idx", "acls", '"group"')),
    "acl/002_130_to_140": text(tagged("acls")),
    "acl/003_200_to_210": credential_210("acls", ()),
    "acme/000_base_acme": text(table("acme_storage", "id UUID PRIMARY KEY", "key TEXT UNIQUE", "value TEXT",
                                     CREATED, "ttl TIMESTAMP WITH TIME ZONE")),
    "basic-auth/000_base_basic_auth": text(credential("basicauth_credentials", "username TEXT UNIQUE",
                                                      "password TEXT")),
    "basic-auth/002_130_to_140": text(tagged("basicauth_credentials")),
    "basic-auth/003_200_to_210": credential_210("basicauth_credentials", ("username",)),
    "hmac-auth/000_base_hmac_auth": text(credential("hmacauth_credentials", "username TEXT UNIQUE", "secret TEXT")),
    "hmac-auth/002_130_to_140": text(tagged("hmacauth_credentials")),
    "hmac-auth/003_200_to_210": credential_210("hmacauth_credentials", ("username",)),
    "jwt/000_base_jwt": text(credential("jwt_secrets", "key TEXT UNIQUE", "secret TEXT", "algorithm TEXT",
                                        "rsa_public_key TEXT") + index("jwt_secrets_secret_idx", "jwt_secrets",
                                                                       "secret")),
    "jwt/002_130_to_140": text(tagged("jwt_secrets")),
    "jwt/003_200_to_210": credential_210("jwt_secrets", ("key",)),
    "key-auth/000_base_key_auth": text(credential("keyauth_credentials", "key TEXT UNIQUE")),
    "key-auth/002_130_to_140": text(tagged("keyauth_credentials")
                                    + add("keyauth_credentials", "ttl TIMESTAMP WITH TIME ZONE")
                                    + index("keyauth_credentials_ttl_idx", "keyauth_credentials", "ttl")),
    "key-auth/003_200_to_210": credential_210("keyauth_credentials", ("key",)),
    "oauth2/000_base_oauth2": base_oauth2,
    "oauth2/003_130_to_140": text(tagged("oauth2_credentials")
                                  + index("oauth2_authorization_codes_ttl_idx", "oauth2_authorization_codes", "ttl")
                                  + index("oauth2_tokens_ttl_idx", "oauth2_tokens", "ttl")),
    "oauth2/004_200_to_210": oauth2_210,
    "rate-limiting/000_base_rate_limiting": text(metrics("ratelimiting_metrics")),
    "rate-limiting/003_10_to_112": text(index("ratelimiting_metrics_idx", "ratelimiting_metrics", "service_id",
                                              "route_id", "period_date", "period")),
    "rate-limiting/004_200_to_210": text(add("ratelimiting_metrics", "ttl TIMESTAMP WITH TIME ZONE")
                                         + index("ratelimiting_metrics_ttl_idx", "ratelimiting_metrics", "ttl")),
    "response-ratelimiting/000_base_response_rate_limiting": text(metrics("response_ratelimiting_metrics")),
    "session/000_base_session": text(table("sessions", "id UUID PRIMARY KEY", "session_id TEXT UNIQUE",
                                           "expires INTEGER", "data TEXT", "created_at TIMESTAMP WITH TIME ZONE",
                                           "ttl TIMESTAMP WITH TIME ZONE")
                                     + index("session_sessions_expires_idx", "sessions", "expires")),
    "session/001_add_ttl_index": text(index("sessions_ttl_idx", "sessions", "ttl")),
}

TEARDOWN = {
    "core/001_14_to_15": finish_001,
    "acl/001_14_to_15": finish_acl_001,
    "core/005_120_to_130": finish_005,
    "core/008_150_to_200": finish_008,
    "core/009_200_to_210": finish_009,
    "core/012_213_to_220": finish_012,
    "acl/003_200_to_210": finish_acl,
    "acl/004_212_to_213": finish_acl_keys,
    "basic-auth/003_200_to_210": finish_credentials("basicauth_credentials"),
    "bot-detection/001_200_to_210": finish_lists("bot-detection"),
    "hmac-auth/003_200_to_210": finish_credentials("hmacauth_credentials"),
    "ip-restriction/001_200_to_210": finish_lists("ip-restriction"),
    "jwt/003_200_to_210": finish_credentials("jwt_secrets"),
    "key-auth/003_200_to_210": finish_credentials("keyauth_credentials"),
    "oauth2/004_200_to_210": finish_credentials("oauth2_credentials", "oauth2_authorization_codes", "oauth2_tokens"),
}


def up(subsystem, name, version):
    """The statements of one migration's first phase; an empty text where it has none."""
    make = UP.get(subsystem + "/" + name)
    return make(version) if make else ""


def teardown(subsystem, name):
    """The second phase of a migration, a function of (connection, version)."""
    return TEARDOWN.get(subsystem + "/" + name, finish_nothing)
