# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge
from ansible_collections.bluegreen.kong.plugins.plugin_utils.settings import effective


def running(version, **settings):
    """A node without a kong.conf whose environment nobody sees: .kong_env has what was set, among the defaults."""
    return {"prefix": "/usr/local/kong", "node": {"settings": {**knowledge.conf_defaults(version), **settings}}}


@pytest.mark.parametrize(
    ("version", "name", "value"),
    [
        ("0.14.1", "nginx_http_server_tokens", "off"),
        ("1.5.1", "nginx_http_status_add_header", "X-S 1"),
        ("2.1.4", "nginx_proxy_set_real_ip_from", "10.0.0.0/8"),
        ("2.7.2", "pluginserver_go_start_cmd", "/opt/go"),
        ("2.7.2", "mem_cache_size", "1g"),
    ],
)
def test_what_an_environment_set_that_nobody_sees(version, name, value):
    assert effective(running(version, **{name: value}), version) == {name: value}


@pytest.mark.parametrize(
    ("version", "name", "value"),
    [
        ("0.14.1", "nginx_kong_conf", "/usr/local/kong/nginx-kong.conf"),
        ("0.14.1", "proxy_ssl_enabled", "true"),
        ("2.0.5", "nginx_http_ssl_protocols", "TLSv1.2 TLSv1.3"),
        ("2.7.2", "nginx_http_lua_ssl_protocols", "TLSv1.1 TLSv1.2 TLSv1.3"),
        ("2.7.2", "nginx_stream_lua_ssl_protocols", "TLSv1.1 TLSv1.2 TLSv1.3"),
        ("2.7.2", "nginx_stream_ssl_protocols", "TLSv1.2 TLSv1.3"),
        ("2.7.2", "nginx_http_ssl_session_timeout", "1d"),
        ("2.7.2", "nginx_stream_ssl_session_tickets", "on"),
        ("2.8.5", "ssl_dhparam", "ffdhe2048"),
        ("2.7.2", "nginx_admin_acc_logs", "/srv/kong/logs/admin_access.log"),
    ],
)
def test_what_kong_writes_down_by_itself(version, name, value):
    assert effective(running(version, **{name: value}), version) == {}


def test_a_cipher_suite_of_ones_own():
    custom = {"ssl_cipher_suite": "custom", "ssl_ciphers": "HIGH", "ssl_dhparam": "/etc/kong/dh.pem"}
    assert effective(running("2.8.5", **custom, nginx_http_ssl_dhparam="/etc/kong/dh.pem"), "2.8.5") == custom
