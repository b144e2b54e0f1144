# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong.conf, KONG_ variables and ``<prefix>/.kong_env``."""

import os
import re

DEFAULT_PATHS = ("/etc/kong/kong.conf", "/etc/kong.conf")
LOG_LEVELS = ("debug", "info", "notice", "warn", "error", "crit", "alert", "emerg")
DYNAMIC = ("nginx_main_", "nginx_events_", "nginx_http_", "nginx_upstream_", "nginx_proxy_", "nginx_status_",
           "nginx_admin_", "nginx_stream_", "nginx_supstream_", "nginx_sproxy_", "pluginserver_", "vault_")

ENUMS = {
    "log_level": LOG_LEVELS,
    "role": ("data_plane", "control_plane", "traditional"),
    "worker_consistency": ("strict", "eventual"),
    "router_consistency": ("strict", "eventual"),
    "cassandra_lb_policy": ("RoundRobin", "RequestRoundRobin", "DCAwareRoundRobin", "RequestDCAwareRoundRobin"),
    "cassandra_repl_strategy": ("SimpleStrategy", "NetworkTopologyStrategy"),
    "cluster_mtls": ("shared", "pki"),
    "untrusted_lua": ("on", "off", "sandbox"),
}
BOOLEANS = ("pg_ssl", "pg_ssl_verify", "cassandra_ssl", "cassandra_ssl_verify", "anonymous_reports", "client_ssl",
            "dns_no_sync", "nginx_optimizations", "pg_ro_ssl", "pg_ro_ssl_verify")
NUMBERS = ("pg_port", "pg_timeout", "pg_max_concurrent_queries", "pg_semaphore_timeout", "cassandra_port",
           "cassandra_timeout", "cassandra_refresh_frequency", "cassandra_repl_factor", "db_update_frequency",
           "db_update_propagation", "db_cache_ttl", "db_resurrect_ttl", "lua_socket_pool_size", "lua_ssl_verify_depth",
           "upstream_keepalive", "worker_state_update_frequency", "cassandra_schema_consensus_timeout")
FLAGS = ("ssl", "http2", "proxy_protocol", "deferred", "bind", "reuseport", "backlog=%d+")
FLAG = re.compile(r"ssl|http2|proxy_protocol|deferred|bind|reuseport|backlog=\d+|udp")
HEADERS = {"server_tokens", "latency_tokens", "server", "via", "x-kong-proxy-latency", "x-kong-response-latency",
           "x-kong-admin-latency", "x-kong-upstream-latency", "x-kong-upstream-status", "off"}
LISTENERS = ("proxy_listen", "admin_listen", "status_listen", "stream_listen")
LISTS = LISTENERS + ("plugins", "headers", "trusted_ips", "cassandra_contact_points", "cassandra_data_centers",
                     "dns_order", "dns_resolver", "db_cache_warmup_entities", "admin_ssl_cert", "admin_ssl_cert_key",
                     "ssl_cert", "ssl_cert_key", "cluster_listen", "vaults")
SECRETS = ("pg_password", "pg_ro_password", "cassandra_password", "proxy_server", "declarative_config_string")


class ConfError(Exception):
    """The configuration cannot be used; ``errors`` is every reason."""

    def __init__(self, errors):
        super().__init__(errors[0])
        self.errors = errors


def is_dynamic(key):
    return key.startswith(DYNAMIC)


def parse(text):
    """``key = value`` lines; ``#`` starts a comment unless written ``\\#``."""
    out = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#") or "=" not in line:
            continue
        key, value = line.split("=", 1)
        value = value.strip()
        at = 0
        while True:
            at = value.find("#", at)
            if at < 0:
                break
            if at and value[at - 1] == "\\":
                value = value[:at - 1] + value[at:]
                continue
            value = value[:at].rstrip()
            break
        out[key.strip()] = value
    return out


def read(path):
    try:
        with open(path, encoding="utf-8") as handle:
            return parse(handle.read())
    except IsADirectoryError:
        raise ConfError(["could not load config file: %s: Is a directory" % path])
    except PermissionError:
        raise ConfError(["could not load config file: %s: Permission denied" % path])


class Settings:
    """The effective settings: ``get(key)`` text, ``number(key)``, ``flag(key)``, ``listeners(key)``."""

    def __init__(self, values, path, version):
        self.values = values
        self.path = path
        self.version = version

    def get(self, key):
        return self.values.get(key, "")

    def number(self, key, default=0):
        text = self.get(key)
        try:
            return float(text) if "." in text else int(text)
        except ValueError:
            return default  # what is no number counts as not set, without a word

    def flag(self, key):
        return self.get(key).lower() in ("on", "true")

    @property
    def prefix(self):
        return os.path.abspath(self.get("prefix") or "/usr/local/kong")

    @property
    def daemon(self):
        value = self.values.get("nginx_main_daemon", "on")
        plain = self.get("nginx_daemon")
        return (plain if plain != "on" and plain else value) != "off"

    def listeners(self, key):
        return parse_listeners(self.get(key)) or []

    @property
    def is_data_plane(self):
        return self.get("role") == "data_plane"

    def listener_kinds(self):
        """What a node of this role listens for."""
        of_role = {"control_plane": ("admin", "status", "cluster"), "data_plane": ("proxy", "status")}
        return of_role.get(self.get("role"), ("proxy", "admin", "status"))

    def plugins(self):
        out = []
        for name in split(self.get("plugins")):
            if name == "bundled":
                out.extend(self.version.bundled_plugins())
            elif name != "off":
                out.append(name)
        return sorted(set(out))

    def missing_plugins(self):
        """Plugins that are asked for, do not come with this version, and are on no path of ``lua_package_path``."""
        templates = self.get("lua_package_path").split(";") + ["/usr/local/share/lua/5.1/?.lua"]
        return [name for name in self.plugins() if name not in self.version.bundled_plugins() and not any(
            os.path.exists(template.replace("?", "kong/plugins/%s/handler" % name)) for template in templates
            if "?" in template)]

    def database(self):
        return {
            "host": self.get("pg_host"), "port": int(self.number("pg_port", 5432)), "user": self.get("pg_user"),
            "password": self.get("pg_password"), "database": self.get("pg_database"),
            "schema": self.get("pg_schema"), "timeout": self.number("pg_timeout", 5000) / 1000.0,
            "ssl": self.flag("pg_ssl"), "ssl_verify": self.flag("pg_ssl_verify"),
            "max": int(self.number("pg_max_concurrent_queries", 0)),
        }

    def cassandra(self):
        centers = (entry.partition(":") for entry in split(self.get("cassandra_data_centers")))
        return {
            "contact_points": split(self.get("cassandra_contact_points")),
            "port": int(self.number("cassandra_port", 9042)), "keyspace": self.get("cassandra_keyspace"),
            "user": self.get("cassandra_username"), "password": self.get("cassandra_password"),
            "timeout": self.number("cassandra_timeout", 5000) / 1000.0, "ssl": self.flag("cassandra_ssl"),
            "ssl_verify": self.flag("cassandra_ssl_verify"), "ca": self.get("lua_ssl_trusted_certificate"),
            "repl_strategy": self.get("cassandra_repl_strategy"),
            "repl_factor": int(self.number("cassandra_repl_factor", 1)),
            "data_centers": {name: int(number or 0) for name, _colon, number in centers},
        }


def split(text):
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_listeners(text):
    """``ip:port flags, ...`` as a list of dicts; [] for off, None if it is not of that form."""
    if text.strip() == "off" or not text.strip():
        return []
    out = []
    for entry in split(text):
        words = entry.split()
        address, colon, port = words[0].rpartition(":")
        if not colon or not port.isdigit() or not is_address(address) or int(port) > 65535:
            return None
        if not all(FLAG.fullmatch(word) for word in words[1:]):
            return None
        out.append({"address": address.strip("[]"), "port": int(port), "flags": words[1:], "ssl": "ssl" in words[1:],
                    "text": entry})
    return out


def is_address(text):
    import ipaddress

    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def find(path):
    """The file that is read: the given one must exist, otherwise the first default one, or None."""
    if path:
        if not os.path.exists(path):
            raise ConfError(["no file at: %s" % path])
        return path
    for candidate in DEFAULT_PATHS:
        if os.path.exists(candidate):
            return candidate
    return None


def check(settings):
    errors = []
    values, version = settings.values, settings.version
    databases = ("postgres", "cassandra", "off") if version.number >= (1, 1) else ("postgres", "cassandra")
    if values.get("database") not in databases:
        errors.append("database has an invalid value: '%s' (%s)" % (values.get("database") or "nil",
                                                                    ", ".join(databases)))
    for key, allowed in ENUMS.items():
        if values.get(key) and values[key] not in allowed:
            errors.append("%s has an invalid value: '%s' (%s)" % (key, values[key], ", ".join(allowed)))
    for key in LISTENERS:
        if key in values and parse_listeners(values[key]) is None:
            flags = FLAGS if key in ("proxy_listen", "admin_listen") else FLAGS[:1]
            errors.append("%s must be of form: [off] | <ip>:<port> %s, [... next entry ...]" % (
                key, " ".join("[%s]" % flag for flag in flags)))
    for word in split(values.get("headers", "")):
        if word.lower() not in HEADERS and values["headers"] != "off":
            errors.append("headers: invalid entry '%s'" % word)
    for word in split(values.get("dns_order", "")):
        if word.upper() not in ("LAST", "SRV", "A", "AAAA", "CNAME"):
            errors.append("dns_order: invalid entry '%s'" % word)
    for kind in ("proxy", "admin", "status"):
        prefix = "" if kind == "proxy" else kind + "_"
        if any(entry["ssl"] for entry in parse_listeners(values.get(kind + "_listen", "")) or ()):
            errors += check_certificate(values, prefix)
    errors += check_role(values)
    if errors:
        raise ConfError(errors)


def check_role(values):
    """What is wrong with the settings of a control plane or a data plane."""
    role, errors = values.get("role"), []
    needs = {"control_plane": ("admin_listen", "cluster_listen"), "data_plane": ("proxy_listen",)}.get(role, ())
    errors += ['%s must be specified when role = "%s"' % (key, role) for key in needs if values.get(key, "").strip() in ("", "off")]
    if role == "control_plane" and values.get("database") == "off":
        errors.append('in-memory storage can not be used when role = "control_plane"')
    if role == "data_plane" and values.get("database") != "off":
        errors.append('only in-memory storage can be used when role = "data_plane"\nHint: set database = off in your kong.conf')
    pair = ("cluster_cert", "cluster_cert_key") if needs else ()
    if not all(values.get(key) for key in pair):
        return errors + ["cluster certificate and key must be provided to use Hybrid mode"]
    return errors + ["%s: no such file at %s" % (key, values[key]) for key in pair if not os.path.exists(values[key])]


def check_certificate(values, prefix):
    pair = [(prefix + name, values.get(prefix + name)) for name in ("ssl_cert", "ssl_cert_key")]
    if not any(path for _name, path in pair):
        return []
    errors = ["%s must be specified" % name for name, path in pair if not path]
    return errors + ["%s: no such file at %s" % (name, path) for name, path in pair
                     if path and not os.path.exists(path)]


def load(version, path=None, prefix=None, environ=None, inherited=None, search=True):
    """Defaults, then ``inherited`` (the text pairs of a ``.kong_env``), then the file, then KONG_ variables, then
    ``prefix``. Raises ConfError."""
    environ = os.environ if environ is None else environ
    values = version.keys()
    found = find(path) if path or search else None
    given = dict(inherited or {})
    if found:
        given.update(read(found))
    for name, value in environ.items():
        if name.startswith("KONG_"):
            given[name[5:].lower()] = value
    for key, value in given.items():
        if key in values or is_dynamic(key):
            values[key] = value
    if prefix:
        values["prefix"] = prefix
    settings = Settings(values, found, version)
    check(settings)
    values["prefix"] = settings.prefix
    return settings


def render_env(settings):
    """The text of ``.kong_env``: everything that is in force, the password too, as Kong writes it."""
    lines = ["# Written by the stand-in for kong %s. It holds the settings of the node that was started here," %
             settings.version, "# the database password among them.", ""]
    values = dict(settings.values)
    for key in BOOLEANS + ("kic",):
        if values.get(key):
            values[key] = "true" if settings.flag(key) else "false"
    for key in ("nginx_user", "nginx_main_user"):
        if values.get(key) == "kong kong":
            values[key] = ""  # as the real one where there is no such user
    prefix = settings.prefix
    values.update({
        "nginx_pid": prefix + "/pids/nginx.pid", "kong_env": prefix + "/.kong_env",
        "nginx_conf": prefix + "/nginx.conf", "nginx_kong_conf": prefix + "/nginx-kong.conf",
        "nginx_err_logs": prefix + "/logs/error.log",
        "nginx_acc_logs": prefix + "/logs/access.log", "admin_acc_logs": prefix + "/logs/admin_access.log"})
    for key in ("proxy", "admin", "status"):
        if key + "_listen" in values:
            values[key + "_ssl_enabled"] = str(any(e["ssl"] for e in settings.listeners(key + "_listen"))).lower()
    for key in sorted(values):
        value = values[key]
        if value != "":
            lines.append("%s = %s" % (key, ",".join(split(value)).replace("#", "\\#") if key in LISTS
                                      else value.replace("#", "\\#")))
    return "\n".join(lines) + "\n"


def masked(settings):
    """Settings as the Admin API shows them at its root."""
    out = {}
    for key, value in settings.values.items():
        if value == "":
            continue
        if key in SECRETS:
            out[key] = "******"
        elif key in LISTS:
            out[key] = [] if value == "off" else split(value)
        elif key in BOOLEANS:
            out[key] = value.lower() in ("on", "true")
        elif key in NUMBERS:
            number = settings.number(key, None)
            if number is not None:
                out[key] = int(number) if number == int(number) else number
        else:
            out[key] = value
    prefix = settings.prefix
    out.update({
        "prefix": prefix, "nginx_pid": prefix + "/pids/nginx.pid", "kong_env": prefix + "/.kong_env",
        "nginx_conf": prefix + "/nginx.conf", "nginx_kong_conf": prefix + "/nginx-kong.conf",
        "loaded_plugins": {name: True for name in settings.plugins()},
    })
    if not settings.version.has("role_in_root"):
        out.pop("role", None)
    return out
