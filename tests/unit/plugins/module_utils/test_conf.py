# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong.conf in and out, and which values are secrets."""

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _conf


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# pg_host = x\n\n  # y = z\n; a = b\n", {}),
        ("pg_host = db\n", {"pg_host": "db"}),
        ("pg_host=db", {"pg_host": "db"}),
        ("pg_host = db   # the database", {"pg_host": "db"}),
        ("pg_password = a\\#b#c", {"pg_password": "a#b"}),
        ("pg_password = p=q==", {"pg_password": "p=q=="}),
        ("a = 1\nb = 2\na = 3", {"b": "2", "a": "3"}),
        ("plugins = bundled,\\\n   mine\nx = 1", {"plugins": "bundled,mine", "x": "1"}),
        ("empty =\n", {"empty": ""}),
        ("no separator\n[section]\n", {}),
        ("proxy_listen = 0.0.0.0:8000, [::]:8000\r\nx = y\r\n", {"proxy_listen": "0.0.0.0:8000, [::]:8000", "x": "y"}),
    ],
)
def test_parse(text, expected):
    assert _conf.parse(text) == expected


def test_load_overlays_the_environment(tmp_path):
    conf = tmp_path / "kong.conf"
    conf.write_text("pg_host = file\npg_port = 1\n")
    environ = {"KONG_PG_HOST": "env", "KONG_LUA_PATH_OVERRIDE": "x", "PATH": "/", "KONG_": "x", "KONG_lower": "x"}
    assert _conf.load(str(conf), environ) == ({"pg_host": "env", "pg_port": "1"}, str(conf))


def test_load_names_the_missing_file(tmp_path):
    with pytest.raises(_conf.ConfError, match="nosuch.conf: No such file"):
        _conf.load(str(tmp_path / "nosuch.conf"), {})


def test_load_without_any_file(monkeypatch):
    monkeypatch.setattr(_conf, "DEFAULT_PATHS", ("/nonexistent/a", "/nonexistent/b"))
    assert _conf.load(environ={"KONG_DATABASE": "off"}) == ({"database": "off"}, None)


PEM = "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("key", "value", "secret"),
    [
        ("pg_password", "x", True),
        ("pg_ro_password", "x", True),
        ("cassandra_password", "x", True),
        ("smtp_password", None, True),
        ("session_rotating_secret", "x", True),
        ("portal_session_conf", "{}", True),
        ("pg_pasword", "x", True),
        ("pg_psswrd", "x", True),
        ("jwt_tokn", "x", True),
        ("my_api_key", "x", True),
        ("pg_port", "5432", False),
        ("pg_hots", "db", False),
        ("nginx_proxy_proxy_pass_header", "Server", False),
        ("vault_env_prefix", "x", False),
        ("vault_hcv_token", "x", True),
        ("cluster_telemetry_token", "x", True),
        ("PG_PASSWORD", "x", True),
        ("ssl_cert_key", "/etc/kong/key.pem", False),
        ("ssl_cert_key", "/etc/kong/a.pem, /etc/kong/b.pem", False),
        ("ssl_cert_key", PEM, True),
        ("admin_ssl_cert_key", "A" * 400, True),
        ("anything", PEM, True),
        ("ssl_cert", "/etc/kong/cert.pem", False),
        ("pg_user", "kong", False),
        ("headers", "server_tokens, latency_tokens", False),
        ("nginx_http_server_tokens", "off", False),
        ("nginx_proxy_proxy_set_header", "Authorization Basic abc", True),
        ("nginx_main_env", "API_TOKEN=abc", True),
        ("nginx_http_client_body_buffer_size", "8k", False),
        ("proxy_server", "http://user:pass@proxy:3128", True),
        ("proxy_server", "http://proxy:3128", False),
        ("cassandra_repl_factor", "1", False),
        ("declarative_config_string", "{}", True),
        ("declarative_config", "/etc/kong/kong.yml", False),
    ],
)
def test_is_secret(key, value, secret):
    assert _conf.is_secret(key, value) is secret


def test_mask_and_scrub():
    settings = {"pg_password": "s3cr3t", "pg_host": "db", "pg_ro_password": "", "cassandra_password": "abc"}
    assert _conf.mask(settings) == {
        "pg_password": "******",
        "pg_host": "db",
        "pg_ro_password": "",
        "cassandra_password": "******",
    }
    assert _conf.mask(_conf.from_environ({"KONG_PG_PASWORD": "x", "KONG_PG_HOTS": "y"})) == {"pg_pasword": "******", "pg_hots": "y"}
    secrets = _conf.secret_values(settings)
    text = "s3cr3ts3cr3t abc abcd " + PEM + " postgres://kong:pw@db/kong"
    assert _conf.scrub(text, secrets) == "************ ****** abcd ****** postgres://kong:******@db/kong"


def test_the_certificate_of_the_datastore_is_a_file(tmp_path, monkeypatch):
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("")
    monkeypatch.setattr(_conf, "SYSTEM_BUNDLES", [str(bundle)])
    for told, file in (("system", str(bundle)), ("/a.pem, /b.pem", "/a.pem"), ("", None)):
        assert _conf.datastore({"lua_ssl_trusted_certificate": told})["ca_cert"] == file


def test_datastore_defaults():
    assert _conf.datastore({}) == {
        "kind": "postgres",
        "host": "127.0.0.1",
        "port": 5432,
        "database": "kong",
        "user": "kong",
        "schema": "public",
        "ssl": False,
        "ssl_verify": False,
        "ssl_required": False,
        "ca_cert": None,
        "timeout": 5000,
    }
    assert _conf.datastore({"database": "off"}) == {"kind": "off"}
    cassandra = _conf.datastore({"database": "cassandra", "cassandra_contact_points": "a, b"})
    assert (cassandra["contact_points"], cassandra["port"], cassandra["keyspace"]) == (["a", "b"], 9042, "kong")
    with pytest.raises(_conf.ConfError, match="mysql"):
        _conf.datastore({"database": "mysql"})
    with pytest.raises(_conf.ConfError, match="pg_port"):
        _conf.datastore({"pg_port": "five"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, []),
        ("off", []),
        ("", []),
        ("127.0.0.1:8001", [("127.0.0.1", 8001, False, False, False)]),
        (
            "0.0.0.0:8000 reuseport backlog=16384, [::1]:8443 http2 ssl proxy_protocol",
            [("0.0.0.0", 8000, False, False, False), ("::1", 8443, True, True, True)],
        ),
        ("unix:/tmp/a.sock", [("unix:/tmp/a.sock", None, False, False, False)]),
        ("localhost:1,host.example:2 ssl", [("localhost", 1, False, False, False), ("host.example", 2, True, False, False)]),
    ],
)
def test_listeners(value, expected):
    found = _conf.listeners(value)
    assert [(o["address"], o["port"], o["ssl"], o["http2"], o["proxy_protocol"]) for o in found] == expected


def test_listeners_refuses_nonsense():
    with pytest.raises(_conf.ConfError, match="8001x"):
        _conf.listeners("8001x")


def test_render_is_read_back():
    settings = {"pg_password": "a#b", "pg_ssl": True, "plugins": ["bundled", "mine"], "pg_port": 5432, "gone": None}
    assert _conf.parse(_conf.render(settings)) == {
        "pg_password": "a#b",
        "pg_ssl": "on",
        "plugins": "bundled, mine",
        "pg_port": "5432",
    }


@pytest.mark.parametrize("value", ["two\nlines", "end\\"])
def test_values_no_line_can_hold(value):
    with pytest.raises(_conf.ConfError):
        _conf.render({"key": value})


def test_bad_key():
    with pytest.raises(_conf.ConfError, match="not the name"):
        _conf.render({"a b": 1})


TEXT = "# head\npg_host = a\npg_password = pw # why\n\nlog_level = debug\nplugins = x,\\\n  y\npg_host = b"


def test_update_keeps_what_is_right():
    assert _conf.update(TEXT, {"pg_host": "b", "log_level": "debug", "plugins": "x,y"}).splitlines() == [
        "# head", "pg_password = pw # why", "", "log_level = debug", "plugins = x,\\", "  y", "pg_host = b",
    ]  # fmt: skip
    unchanged = "# c\npg_host  =  b\nx = 1"
    assert _conf.update(unchanged, {"pg_host": "b"}) == unchanged


def test_update_changes_adds_and_removes():
    new = _conf.update(TEXT, {"pg_host": "c", "plugins": "z", "log_level": None, "admin_listen": "off"})
    assert new == "# head\npg_password = pw # why\n\nplugins = z\npg_host = c\nadmin_listen = off\n"
    assert _conf.update(new, {"pg_host": "c", "admin_listen": "off", "log_level": None}) == new


def test_update_purge_keeps_secrets():
    new = _conf.update(TEXT, {"admin_listen": "off"}, purge=True)
    assert _conf.parse(new) == {"pg_password": "pw", "admin_listen": "off"}
    assert _conf.parse(_conf.update(TEXT, {"pg_password": "new"}, purge=True)) == {"pg_password": "new"}


def test_read_kong_env(tmp_path):
    assert _conf.read_kong_env(str(tmp_path)) is None
    (tmp_path / ".kong_env").write_text("# c\nadmin_listen = off\npg_ssl = false\n")
    assert _conf.read_kong_env(str(tmp_path)) == {"admin_listen": "off", "pg_ssl": "false"}


def test_trusted_certificates(tmp_path, monkeypatch):
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("")
    monkeypatch.setattr(_conf, "SYSTEM_BUNDLES", ("/nosuch", str(bundle)))
    assert _conf.trusted({"lua_ssl_trusted_certificate": "system,/x"}) == str(bundle)
    assert _conf.trusted({"lua_ssl_trusted_certificate": " /x , /y"}) == "/x"
    assert _conf.trusted({}) is None
