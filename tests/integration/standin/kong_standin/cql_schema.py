# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kong's tables on Cassandra and what each migration does to them, in our own CQL.

``up(version, subsystem, name)`` is a list of statements that run one after the other: there are no transactions, and a column
that is there already is told and passed over. ``teardown`` is a function that gets a blocking connection. Where the
real one keeps a table in one partition (services, routes, ...), this one does so as well, and from 2.1 on a unique
field holds ``<workspace>:<value>``: that is why nodes of 2.0 find nothing any more after ``finish``.
"""

import json
import time
import uuid

from .cql import QUORUM, SERIAL, Uuid, literal

# Rows of these have a column `partition` that holds the table's name, and a primary key of both.
PARTITIONED = ("services", "routes", "snis", "certificates", "ca_certificates")
STATE_TABLES = (
    "CREATE TABLE IF NOT EXISTS schema_meta (key text, subsystem text, last_executed text, executed set<text>, "
    "pending set<text>, PRIMARY KEY (key, subsystem))",
    "CREATE TABLE IF NOT EXISTS locks (key text PRIMARY KEY, owner text) WITH default_time_to_live = %d",
)
EVENT_SECONDS = 86400


def table(name, columns, key="id", options=""):
    """Statements for a table with a uuid `id` and a creation time."""
    partition, primary = ("partition text, ", "(partition, id)") if name in PARTITIONED else ("", "(%s)" % key)
    return ["CREATE TABLE IF NOT EXISTS %s (%sid uuid, created_at timestamp, %s, PRIMARY KEY %s)%s" % (
        name, partition, columns, primary, options)]


def index(name, *columns):
    return ["CREATE INDEX IF NOT EXISTS %s_%s_idx ON %s (%s)" % (name, column, name, column) for column in columns]


def add(name, *columns):
    return ["ALTER TABLE %s ADD %s" % (name, column) for column in columns]


def workspaced(*names):
    """A column for the workspace, and an index for it; it stays empty until ``finish``."""
    return [statement for name in names for statement in add(name, "ws_id uuid") + index(name, "ws_id")]


def credential(name, columns, *indexed):
    return table(name, "consumer_id uuid, " + columns) + index(name, "consumer_id", *indexed)


def counters(name):
    return ["CREATE TABLE IF NOT EXISTS %s (route_id uuid, service_id uuid, period_date timestamp, period text, "
            "identifier text, value counter, PRIMARY KEY ((route_id, service_id, identifier, period_date, period)))"
            % name]


BASE = (
    ["CREATE TABLE IF NOT EXISTS cluster_events (channel text, at timestamp, node_id uuid, id uuid, data text, "
     "nbf timestamp, PRIMARY KEY (channel, at, node_id, id)) WITH default_time_to_live = %d" % EVENT_SECONDS]
    + table("services", "updated_at timestamp, name text, host text, path text, port int, protocol text, "
                        "connect_timeout int, read_timeout int, write_timeout int, retries int")
    + index("services", "name")
    + table("routes", "updated_at timestamp, name text, hosts list<text>, paths list<text>, methods set<text>, "
                      "protocols set<text>, snis set<text>, sources set<text>, destinations set<text>, "
                      "preserve_host boolean, strip_path boolean, service_id uuid, regex_priority int")
    + index("routes", "service_id", "name")
    + table("snis", "name text, certificate_id uuid") + index("snis", "name", "certificate_id")
    + table("certificates", "cert text, key text")
    + table("consumers", "username text, custom_id text") + index("consumers", "username", "custom_id")
    + table("plugins", "route_id uuid, service_id uuid, consumer_id uuid, name text, config text, enabled boolean, "
                       "cache_key text, run_on text")
    + index("plugins", "name", "route_id", "service_id", "consumer_id", "cache_key", "run_on")
    + table("upstreams", "hash_fallback text, hash_fallback_header text, hash_on text, hash_on_cookie text, "
                         "hash_on_cookie_path text, hash_on_header text, healthchecks text, name text, slots int")
    + index("upstreams", "name")
    + table("targets", "target text, upstream_id uuid, weight int") + index("targets", "upstream_id", "target")
    + ["CREATE TABLE IF NOT EXISTS cluster_ca (pk boolean PRIMARY KEY, key text, cert text)"]
)
# The order in which the real one goes through them.
WORKSPACE_TABLES = ("upstreams", "targets", "consumers", "certificates", "snis", "services", "routes", "plugins")
UNIQUE = {
    "upstreams": ("name",), "consumers": ("username", "custom_id"), "services": ("name",), "routes": ("name",),
    "basicauth_credentials": ("username",), "hmacauth_credentials": ("username",), "jwt_secrets": ("key",),
    "keyauth_credentials": ("key",), "oauth2_credentials": ("client_id",), "oauth2_authorization_codes": ("code",),
    "oauth2_tokens": ("access_token", "refresh_token"),
}
OAUTH2 = ("oauth2_credentials", "oauth2_authorization_codes", "oauth2_tokens")

UP = {
    "core/000_base": BASE,
    "core/003_100_to_110":
        add("plugins", "protocols set<text>")
        + [s for name in ("services", "routes", "certificates", "snis", "consumers", "plugins", "upstreams", "targets")
           for s in add(name, "tags set<text>")]
        + ["CREATE TABLE IF NOT EXISTS tags (tag text, entity_name text, entity_id text, other_tags set<text>, "
           "PRIMARY KEY ((tag), entity_name, entity_id))"],
    "core/004_110_to_120": add("routes", "https_redirect_status_code int"),
    "core/005_120_to_130":
        add("upstreams", "algorithm text")
        + table("ca_certificates", "cert text, tags set<text>") + index("ca_certificates", "cert")
        + add("routes", "headers map<text,frozen<set<text>>>") + add("services", "client_certificate_id uuid")
        + index("services", "client_certificate_id"),
    "core/006_130_to_140": add("upstreams", "host_header text"),
    "core/007_140_to_150": add("routes", "path_handling text"),
    "core/009_200_to_210":
        add("ca_certificates", "cert_digest text") + ["DROP INDEX IF EXISTS ca_certificates_cert_idx"]
        + index("ca_certificates", "cert_digest")
        + add("services", "tls_verify boolean", "tls_verify_depth int", "ca_certificates set<uuid>")
        + add("upstreams", "client_certificate_id uuid") + index("upstreams", "client_certificate_id")
        + table("workspaces", "name text, comment text, meta text, config text") + index("workspaces", "name")
        + workspaced(*WORKSPACE_TABLES),
    "core/012_213_to_220":
        ["CREATE TABLE IF NOT EXISTS clustering_data_planes (id uuid PRIMARY KEY, hostname text, ip text, "
         "last_seen timestamp, config_hash text) WITH default_time_to_live = 1209600"]
        + add("routes", "request_buffering boolean", "response_buffering boolean"),
    "core/013_220_to_230":
        ["CREATE TABLE IF NOT EXISTS parameters (key text PRIMARY KEY, value text, created_at timestamp)"]
        + add("certificates", "cert_alt text", "key_alt text")
        + add("clustering_data_planes", "version text", "sync_status text"),
    "core/014_230_to_270": add("services", "enabled boolean"),
    "core/015_270_to_280":
        table("vaults_beta", "ws_id uuid, prefix text, name text, description text, config text, "
                             "updated_at timestamp, tags set<text>") + index("vaults_beta", "prefix", "ws_id"),
    "acl/000_base_acl": credential("acls", "group text, cache_key text", "group", "cache_key"),
    "acl/002_130_to_140": add("acls", "tags set<text>"),
    "acl/003_200_to_210": workspaced("acls"),
    "acme/000_base_acme": table("acme_storage", "key text, value text") + index("acme_storage", "key"),
    "basic-auth/000_base_basic_auth": credential("basicauth_credentials", "username text, password text", "username"),
    "basic-auth/002_130_to_140": add("basicauth_credentials", "tags set<text>"),
    "basic-auth/003_200_to_210": workspaced("basicauth_credentials"),
    "hmac-auth/000_base_hmac_auth": credential("hmacauth_credentials", "username text, secret text", "username"),
    "hmac-auth/002_130_to_140": add("hmacauth_credentials", "tags set<text>"),
    "hmac-auth/003_200_to_210": workspaced("hmacauth_credentials"),
    "jwt/000_base_jwt": credential("jwt_secrets", "algorithm text, rsa_public_key text, key text, secret text",
                                   "key", "secret"),
    "jwt/002_130_to_140": add("jwt_secrets", "tags set<text>"),
    "jwt/003_200_to_210": workspaced("jwt_secrets"),
    "key-auth/000_base_key_auth": credential("keyauth_credentials", "key text", "key"),
    "key-auth/002_130_to_140": add("keyauth_credentials", "tags set<text>"),
    "key-auth/003_200_to_210": workspaced("keyauth_credentials"),
    "oauth2/000_base_oauth2":
        credential("oauth2_credentials", "client_id text, client_secret text, name text, redirect_uris set<text>",
                   "client_id", "client_secret")
        + table("oauth2_authorization_codes", "service_id uuid, credential_id uuid, authenticated_userid text, "
                "code text, scope text", options=" WITH default_time_to_live = 300")
        + index("oauth2_authorization_codes", "code", "service_id", "credential_id", "authenticated_userid")
        + table("oauth2_tokens", "service_id uuid, credential_id uuid, access_token text, authenticated_userid text, "
                                 "refresh_token text, scope text, token_type text, expires_in int")
        + index("oauth2_tokens", "service_id", "access_token", "refresh_token", "credential_id",
                "authenticated_userid"),
    "oauth2/003_130_to_140": add("oauth2_credentials", "tags set<text>"),
    "oauth2/004_200_to_210":
        add("oauth2_authorization_codes", "challenge text", "challenge_method text")
        + add("oauth2_credentials", "client_type text", "hash_secret boolean") + workspaced(*OAUTH2),
    "rate-limiting/000_base_rate_limiting": counters("ratelimiting_metrics"),
    "response-ratelimiting/000_base_response_rate_limiting": counters("response_ratelimiting_metrics"),
    "session/000_base_session": table("sessions", "session_id text, expires int, data text")
        + index("sessions", "session_id", "expires"),
}


# 1.x has these columns before the migration that adds them, which passes over them: since when, and where.
BEFOREHAND = {
    "core/000_base": {(1, 4): add("upstreams", "host_header text")},
    "core/001_14_to_15": {(1, 1): add("plugins", "protocols set<text>", "tags set<text>"), (1, 5): add("routes", "path_handling text")},
}


def where(name, key):
    """The condition for one row."""
    partition = "partition = '%s' AND " % name if name in PARTITIONED else ""
    return "%sid = %s" % (partition, literal(Uuid(key)))


def update(connection, name, key, values):
    connection.query("UPDATE %s SET %s WHERE %s" % (
        name, ", ".join("%s = %s" % (column, literal(value)) for column, value in values.items()), where(name, key)))


def default_workspace(connection):
    rows = connection.query("SELECT id FROM workspaces WHERE name = 'default'", SERIAL)
    return Uuid(rows[0]["id"]) if rows else None


def finish_workspaces(*names):
    """Rows without a workspace get the default one, which is made when it is not there."""
    def run(connection):
        workspace = default_workspace(connection)
        if workspace is None:
            connection.query("INSERT INTO workspaces (id, name, created_at) VALUES (%s, 'default', %d)" % (
                uuid.uuid4(), time.time() * 1000), QUORUM)
            workspace = default_workspace(connection)
        for name in names:
            for row in connection.query("SELECT * FROM %s" % name):
                values = {}
                if row["ws_id"] is None:
                    values = {key: "%s:%s" % (workspace, row[key]) for key in UNIQUE.get(name, ()) if row[key]}
                    values["ws_id"] = workspace
                if (row.get("cache_key") or "").endswith(":"):
                    values["cache_key"] = "%s:%s" % (row["cache_key"], workspace)
                if values:
                    update(connection, name, row["id"], values)
    return run


def finish_lists(plugin):
    """allow := whitelist, deny := blacklist, whatever allow and deny held. That is what the real one does."""
    def run(connection):
        for row in connection.query("SELECT id, name, config FROM plugins"):
            if row["name"] == plugin:
                config = json.loads(row["config"])
                for new, old in (("allow", "whitelist"), ("deny", "blacklist")):
                    config.pop(new, None)
                    if config.get(old) is not None:
                        config[new] = config[old]
                    config.pop(old, None)
                update(connection, "plugins", row["id"], {"config": json.dumps(config)})
    return run


def finish_acl(connection):
    finish_workspaces("acls")(connection)
    finish_lists("acl")(connection)


def finish_005(connection):
    for row in connection.query("SELECT id, algorithm, hash_on FROM upstreams"):
        if not row["algorithm"]:
            algorithm = "round-robin" if row["hash_on"] == "none" else "consistent-hashing"
            update(connection, "upstreams", row["id"], {"algorithm": algorithm})


def finish_007(connection):
    for row in connection.query("SELECT id, path_handling FROM routes"):
        if row["path_handling"] not in ("v0", "v1"):
            update(connection, "routes", row["id"], {"path_handling": "v1"})


def finish_008(connection):
    connection.query("DROP INDEX IF EXISTS plugins_run_on_idx")
    connection.query("DROP TABLE IF EXISTS cluster_ca")


def finish_012(connection):
    """Of several targets of an upstream with the same name, the youngest stays."""
    youngest = {}
    for row in connection.query("SELECT id, upstream_id, target, created_at FROM targets"):
        youngest.setdefault((row["upstream_id"], row["target"]), []).append((row["created_at"] or 0, row["id"]))
    for found in youngest.values():
        for _created, key in sorted(found)[:-1]:
            connection.query("DELETE FROM targets WHERE " + where("targets", key))


def finish_013(connection):
    connection.query("INSERT INTO parameters (key, value) VALUES ('cluster_id', '%s')" % uuid.uuid4())


def finish_nothing(connection):
    pass


TEARDOWN = {
    "core/001_14_to_15": lambda connection: connection.query("DROP TABLE IF EXISTS schema_migrations"),
    "core/005_120_to_130": finish_005,
    "core/007_140_to_150": finish_007,
    "core/008_150_to_200": finish_008,
    "core/009_200_to_210": finish_workspaces(*WORKSPACE_TABLES),
    "core/012_213_to_220": finish_012,
    "core/013_220_to_230": finish_013,
    "acl/003_200_to_210": finish_acl,
    "acl/004_212_to_213": finish_workspaces("acls"),
    "basic-auth/003_200_to_210": finish_workspaces("basicauth_credentials"),
    "bot-detection/001_200_to_210": finish_lists("bot-detection"),
    "hmac-auth/003_200_to_210": finish_workspaces("hmacauth_credentials"),
    "ip-restriction/001_200_to_210": finish_lists("ip-restriction"),
    "jwt/003_200_to_210": finish_workspaces("jwt_secrets"),
    "key-auth/003_200_to_210": finish_workspaces("keyauth_credentials"),
    "oauth2/004_200_to_210": finish_workspaces(*OAUTH2),
}


def up(version, subsystem, name):
    """The statements of one migration's first phase."""
    migration = subsystem + "/" + name
    early = BEFOREHAND.get(migration, {}) if version.number < (2, 0) else {}
    return UP.get(migration, []) + [each for since, statements in early.items() if version.number >= since for each in statements]


def teardown(subsystem, name):
    """The second phase of a migration, a function of a connection."""
    return TEARDOWN.get(subsystem + "/" + name, finish_nothing)
