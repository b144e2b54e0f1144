# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator has set on a node, told apart from what Kong fills in by itself. Pure."""

from __future__ import annotations

import re

from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge

# Settings that belong to one node and so never travel from blue to green.
OF_ONE_NODE = ("prefix", "admin_listen", "nginx_daemon", "cluster_listen", "kong_env")
# What `kong start` itself writes into .kong_env, whoever asked for it: its --db-timeout option over the time-outs of the
# database, the log of the Admin API, and lua_ssl_protocols (2.7.2 and 2.8.5).
COMPUTED = (
    "pg_timeout",
    "cassandra_timeout",
    "cassandra_schema_consensus_timeout",
    "nginx_admin_acc_logs",
    "nginx_http_lua_ssl_protocols",
    "nginx_stream_lua_ssl_protocols",
    "client_ssl_cert_default",
)
# What ssl_cipher_suite stands for (seen on 2.0.5, 2.1.4, 2.7.2 and 2.8.5), unless it is custom.
OF_CIPHER_SUITE = (
    "ssl_ciphers",
    "ssl_dhparam",
    "nginx_http_ssl_protocols",
    "nginx_http_ssl_prefer_server_ciphers",
    "nginx_stream_ssl_protocols",
    "nginx_stream_ssl_prefer_server_ciphers",
)
MASK = "******"


def effective(gateway, version) -> dict:
    """What an operator has set on a node, without the defaults of its version and without what belongs to one node.

    gateway: as kong_version_facts tells it. kong.conf and the environment of the service tell which properties were set. A running
    node's .kong_env tells their real values, and what an environment that we cannot see has set besides.
    """
    running = (gateway.get("node") or {}).get("settings") or {}
    explicit = gateway.get("settings") or {}
    defaults = knowledge.conf_defaults(version) if version else {}
    directives = tuple(knowledge.conf_prefixes(version)) if version else ()
    chosen = {key: running.get(key, value) for key, value in explicit.items()}
    prefix = (gateway.get("prefix") or "/nowhere").rstrip("/") + "/"
    computed = COMPUTED + (OF_CIPHER_SUITE if running.get("ssl_cipher_suite") != "custom" else ())
    doubles = {knowledge.key_alias(key) for key in running}  # Kong writes down both names of one thing
    for key, value in running.items():
        of_directive = re.sub(r"^nginx_(http|stream)_(?=ssl_)", "", key)  # and the directives that ssl_session_timeout stands for
        doubled = key in doubles or (of_directive != key and same(running.get(of_directive)) == same(value))
        # Certificates that Kong makes for itself live in the prefix and are made anew by green.
        made_by_kong = key in computed or doubled or str(value).startswith(prefix)
        # Of names that no version lists, only a directive of nginx (nginx_http_...) or a plugin server can be the operator's.
        set_by_hand = same(value) != same(defaults[key]) if key in defaults else key.startswith(directives)
        if key not in explicit and not made_by_kong and set_by_hand:
            chosen[key] = value
    return {key: value for key, value in sorted(chosen.items()) if key not in OF_ONE_NODE and str(value) != MASK}


def same(value) -> str:
    """A property's value in one way of writing, for comparison."""
    text = ",".join(words(value))
    return "" if text in ("off", "None", "nil", "NONE") else text


def words(value) -> list[str]:
    """A list in kong.conf: "a, b" -> [a, b]."""
    return [part.strip() for part in str(value or "").split(",") if part.strip()]
