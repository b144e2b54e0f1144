# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kong command: finding it, calling it, reading its version and its errors."""

import os
import stat

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _cli
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import CommandError, KongError, KongNotFound


def command(path, mode=0o755):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_find_executable(tmp_path, monkeypatch):
    monkeypatch.setattr(_cli, "PLACES", (str(tmp_path / "fallback" / "kong"),))
    given = command(tmp_path / "given" / "kong-2.8.5")
    assert _cli.find_executable(given) == given
    with pytest.raises(KongNotFound, match="no kong command at .*/nosuch"):
        _cli.find_executable(str(tmp_path / "nosuch"))
    with pytest.raises(KongNotFound, match="may be executed"):
        _cli.find_executable(command(tmp_path / "plain", 0o644))
    with pytest.raises(KongNotFound, match="may be executed"):
        _cli.find_executable(str(tmp_path))
    with pytest.raises(KongNotFound, match="fallback"):
        _cli.find_executable(environ={"PATH": str(tmp_path / "bin")})
    fallback = command(tmp_path / "fallback" / "kong")
    assert _cli.find_executable(environ={"PATH": str(tmp_path / "bin")}) == fallback
    first = command(tmp_path / "bin" / "kong")
    assert _cli.find_executable(environ={"PATH": str(tmp_path / "bin")}) == first
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert _cli.find_executable() == first
    assert _cli.find_executable("kong") == first


class Answers:
    """A run_command that remembers how it was called."""

    def __init__(self, rc=0, out="", err=""):
        self.answer, self.calls = (rc, out, err), []

    def __call__(self, argv, environ_update=None):
        self.calls.append((argv, environ_update))
        return self.answer


@pytest.mark.parametrize(
    "which, argv",
    [
        ({}, ["/k", "migrations", "list", "-c", "/etc/k.conf"]),
        ({"conf": False}, ["/k", "migrations", "list"]),
        ({"conf": "/x.conf", "prefix": True}, ["/k", "migrations", "list", "-c", "/x.conf", "-p", "/prefix"]),
        ({"prefix": "/scratch"}, ["/k", "migrations", "list", "-c", "/etc/k.conf", "-p", "/scratch"]),
    ],
)
def test_argv(which, argv):
    run = Answers(3, "\x1b[31mred\x1b[0m\r\n", None)
    kong = _cli.Kong(run, "/k", conf="/etc/k.conf", prefix="/prefix", environ={"KONG_PG_HOST": "db"})
    assert kong.call("migrations", "list", **which) == (3, "red\n", "")
    assert run.calls[0][0] == argv
    assert run.calls[0][1]["KONG_PG_HOST"] == "db"


def test_environment_keeps_path_and_adds_openresty(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/usr/local/bin")
    environ = _cli.Kong(None, "/k").environment({"A": "b"})
    assert environ["PATH"].startswith("/usr/bin:/usr/local/bin:") and environ["A"] == "b"
    assert environ["PATH"].count("/usr/local/bin") == 1 and "/usr/local/openresty/bin" in environ["PATH"]


@pytest.mark.parametrize(
    "rc, out, version",
    [
        (0, "2.8.5\n", "2.8.5"),
        (0, "nginx: [warn] something\n0.14.1\n", "0.14.1"),
        (0, "Kong: 2.1.4\n", "2.1.4"),
        (0, "2.8.1.0-enterprise-edition\n", "2.8.1.0-enterprise-edition"),
        (0, "", None),
        (1, "2.8.5\n", None),
    ],
)
def test_version(rc, out, version):
    run = Answers(rc, out, "some error")
    kong = _cli.Kong(run, "/k", conf="/c")
    if version is None:
        with pytest.raises(CommandError, match="some error"):
            kong.version()
        return
    assert kong.version() == kong.version() == version
    assert [call[0] for call in run.calls] == [["/k", "version"]]


def test_version_all():
    found = _cli.Kong(Answers(0, "Kong: 2.8.5\nngx_lua: 10020\nnginx: 1019009\nLua: LuaJIT 2.1.0-beta3\n"), "/k").version_all()
    assert (found["version"], found["edition"]) == ("2.8.5", "oss")
    assert (found["nginx"], found["ngx_lua"], found["lua"]) == ("1.19.9", "0.10.20", "LuaJIT 2.1.0-beta3")
    assert _cli.Kong(Answers(0, "Kong Enterprise: 2.8.1.1\n"), "/k").version_all()["edition"] == "enterprise"
    with pytest.raises(CommandError, match="nothing at all"):
        _cli.Kong(Answers(127), "/k").version_all()


def test_version_tuple():
    assert _cli.version_tuple("2.8.5") == (2, 8, 5)
    assert _cli.version_tuple("0.14.1rc1") == (0, 14, 1)
    assert _cli.version_tuple("1.10.0") > _cli.version_tuple("1.9.9")


@pytest.mark.parametrize(
    "text, line",
    [
        ("", ""),
        ("Error: not running in /usr/local/kong\n\n  Run with --v (verbose)\n", "not running in /usr/local/kong"),
        ("Error: \n/usr/share/lua/kong/cmd/x.lua:102: [PostgreSQL error] refused\nstack traceback:\n", "[PostgreSQL error] refused"),
        ("Error: /a/b.lua:20: New migrations available\n", "New migrations available"),
        (
            "Error: [PostgreSQL error] cluster_mutex callback threw an error: /a/b.lua:67: Database has pending migrations\n",
            "Database has pending migrations",
        ),
        ("nginx: [warn] load balancing\n2026/01/01 00:00:00 [warn] deprecated\nall is lost\n", "all is lost"),
        ("nginx: [warn] only this\n", "nginx: [warn] only this"),
        (
            "Error: Failed parsing:\nin 'routes':\n  - in entry 1 of 'routes':\n    in 'x': unknown field\n",
            "Failed parsing: in 'routes': - in entry 1 of 'routes': in 'x': unknown field",
        ),
        (
            "Error: Failed parsing:\nuniqueness violation: 'keyauth_credentials' entity with key set to 's3cret' already declared\n",
            "Failed parsing: uniqueness violation: 'keyauth_credentials' entity with key set to '******' already declared",
        ),
    ],
)
def test_first_line(text, line):
    assert _cli.first_line(text) == line


@pytest.mark.parametrize(
    "files, path, kong_module",
    [
        ({}, None, None),
        ({"b/nginx": b"nginx/1.22.1"}, None, None),
        ({"a/nginx": b"", "b/nginx": b"openresty/1.19.9.1 ngx_http_lua_module"}, "b/nginx", False),
        ({"a/nginx": b"openresty/1.19.9.1 ngx_http_lua_kong_module", "b/nginx": b"openresty/1.15.8.3"}, "a/nginx", True),
        ({"b/nginx": b"openresty/1.19.9.1 --add-dynamic-module=../lua-kong-nginx-module-0.2.1"}, "b/nginx", True),
    ],
)
def test_the_nginx_that_kong_would_start(tmp_path, files, path, kong_module):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = _cli.openresty({"PATH": str(tmp_path / "b")}, places=[str(tmp_path / "a")])
    assert found == (path and {"path": str(tmp_path / path), "kong_module": kong_module})


def test_scratch_prefix_is_private_and_goes_whatever_happens(tmp_path):
    with pytest.raises(KeyError):
        with _cli.scratch_prefix(str(tmp_path)) as path:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
            os.mkdir(os.path.join(path, "logs"))
            with open(os.path.join(path, ".kong_env"), "w", encoding="utf-8") as stream:
                stream.write("pg_password = x\n")
            raise KeyError
    assert not list(tmp_path.iterdir())
    with _cli.scratch_prefix(str(tmp_path)) as path:
        os.rmdir(path)
    assert not list(tmp_path.iterdir())


def test_errors_carry_details_and_can_be_cleaned():
    error = KongError("it says hunter2", rc=1, said="hunter2!", lines=["hunter2"])
    assert str(error) == "it says hunter2"
    assert error.result() == {"msg": "it says hunter2", "rc": 1, "said": "hunter2!", "lines": ["hunter2"]}
    assert error.cleaned(lambda text: text.replace("hunter2", "***")) is error
    assert (error.message, error.details["rc"], error.details["said"]) == ("it says ***", 1, "***!")
