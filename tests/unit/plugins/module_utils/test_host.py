# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host tells, on small trees that stand for /."""

import os
import pwd

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _host


def tree(root, **files):
    """Writes files; __ in a name is /, in keys of **files."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.4 LTS"\n',
            ("ubuntu", "22.04", ["debian"], "Ubuntu 22.04.4 LTS"),
        ),
        ("ID='centos'\nID_LIKE='rhel fedora'\nVERSION_ID=7\n", ("centos", "7", ["rhel", "fedora"], None)),
        ("# nothing\nNAME=It's odd\n", ("linux", None, [], None)),
    ],
)
def test_system(tmp_path, text, expected):
    found = _host.system(tree(tmp_path, **{"etc__os-release": text}))
    assert (found["id"], found["version_id"], found["like"], found["pretty"]) == expected


def test_system_that_does_not_tell(tmp_path):
    assert _host.system(str(tmp_path)) is None


class Commands:
    """Answers for run_command, by the first words; everything else is not found by the manager."""

    def __init__(self, answers):
        self.answers = answers

    def __call__(self, argv, **dummy):
        for words, answer in self.answers.items():
            if " ".join(argv).startswith(words):
                return 0, answer, ""
        return 1, "", "no"


@pytest.fixture
def managers(monkeypatch):
    """Every package manager is there."""
    monkeypatch.setattr(_host.os, "access", lambda path, mode: True)


def test_package_of_debian(managers, tmp_path):
    run = Commands({"dpkg-query -S " + str(tmp_path): "kong: /usr/local/bin/kong\n", "dpkg-query -W": "2.1.4"})
    assert _host.package(run, str(tmp_path / "kong")) == {"name": "kong", "version": "2.1.4", "manager": "dpkg"}


def test_package_of_red_hat(managers, tmp_path):
    run = Commands({"rpm -qf": "kong-community-edition 1.1.2-1\n"})
    assert _host.package(run, str(tmp_path / "kong")) == {
        "name": "kong-community-edition",
        "version": "1.1.2-1",
        "manager": "rpm",
    }


def test_package_of_nobody(managers, tmp_path):
    assert _host.package(Commands({}), str(tmp_path / "kong"))["name"] is None
    assert _host.package(Commands({}), None) is None


def test_package_without_a_manager(monkeypatch, tmp_path):
    monkeypatch.setattr(_host.os, "access", lambda path, mode: False)
    assert _host.package(Commands({}), str(tmp_path / "kong")) is None


def test_package_files(tmp_path):
    there, gone = tmp_path / "kong.deb", tmp_path / "none.deb"
    there.touch()
    told = _host.facts(Commands({}), None, str(tmp_path), {}, package_files=[str(there), str(gone)])["package_files"]
    assert told == {str(there): True, str(gone): False}


def test_candidates(managers):
    apt = "      kong | 2.8.5 | https://x stable/main\n      kong | 2.8.4 | https://x stable/main\n"
    assert _host.candidates(Commands({"apt-cache -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= madison kong": apt})) == {
        "manager": "apt",
        "versions": ["2.8.5", "2.8.4"],
    }


class Rpm:
    """run_command on a host whose package managers are these; keeps what was asked, and whether the scratch folder was there."""

    def __init__(self, monkeypatch, managers, answer):
        monkeypatch.setattr(_host.os, "access", lambda path, mode: os.path.basename(path) in managers)
        self.answer, self.asked, self.scratch = answer, [], None

    def __call__(self, argv, **dummy):
        self.asked.append(argv)
        self.scratch = next(word for word in argv if "cachedir=" in word).partition("cachedir=")[2]
        assert os.path.isdir(self.scratch)
        return self.answer


# dnf 4.14 on two packages that createrepo_c made known; yum 3.4 prints the same, with an epoch where there is one.
LISTED = """\
Available Packages
kong.noarch                             2.8.4-1                             kong
kong.noarch                             2.8.5-1                             kong
"""
# Where a column is full, yum goes on in the next line.
WRAPPED = "Available Packages\nkong.x86_64\n      2:2.8.5-1.el7\n               a-repository-with-a-long-name\n"


@pytest.mark.parametrize(
    ("managers", "answer", "expected"),
    [
        (["dnf", "yum"], (0, LISTED, ""), {"manager": "dnf", "versions": ["2.8.4-1", "2.8.5-1"]}),
        (["yum"], (0, WRAPPED, ""), {"manager": "yum", "versions": ["2.8.5-1.el7"]}),
        (["yum"], (1, "", "Error: No matching Packages to list\n"), {"manager": "yum", "versions": []}),
        (["dnf"], (1, "", "Error: Failed to download metadata for repo 'kong': Cannot download repomd.xml\n"), None),
        (["dnf"], (0, "", ""), None),
    ],
)
def test_candidates_of_dnf_and_yum(monkeypatch, tmp_path, managers, answer, expected):
    tree(
        tmp_path,
        **{
            "etc__yum.repos.d__base.repo": "[base]\nname=Base\nbaseurl=https://x/base\n",
            "etc__yum.repos.d__kong.repo": "[gateway]\nname=K\nbaseurl=https://x/kong/%$releasever\n[kong-old]\nname=K\nenabled = 0\n",
        },
    )
    run = Rpm(monkeypatch, managers, answer)
    assert _host.candidates(run, str(tmp_path)) == expected
    (asked,) = run.asked
    assert asked[0] == managers[0] and asked[-4:] == ["list", "available", "--showduplicates", "kong"]
    assert "--disablerepo=*" in asked and "--enablerepo=gateway" in asked and "--enablerepo=kong-old" not in asked
    assert not os.path.exists(run.scratch)


def test_candidates_of_all_repositories_where_none_is_named_like_kong(monkeypatch, tmp_path):
    run = Rpm(monkeypatch, ["dnf"], (0, LISTED, ""))
    assert _host.candidates(run, str(tmp_path))["versions"] == ["2.8.4-1", "2.8.5-1"]
    assert not any("repo=" in word for word in run.asked[0])


def test_no_package_manager(monkeypatch):
    monkeypatch.setattr(_host.os, "access", lambda path, mode: False)
    assert _host.candidates(Commands({"apt": "x"})) is None


def test_repositories_without_their_credentials(tmp_path):
    root = tree(
        tmp_path,
        **{
            "etc__apt__sources.list": "deb https://deb.debian.org/debian bookworm main\n",
            "etc__apt__sources.list.d__kong.list": "# kong\ndeb https://me:secret@kong.bintray.com/kong-deb stable main\n",
            "etc__yum.repos.d__kong.repo": "[kong]\nbaseurl=https://x/kong?token=geheim&a=1\n",
        },
    )
    assert _host.repositories(root) == [
        {
            "path": "/etc/apt/sources.list.d/kong.list",
            "text": "deb https://******@kong.bintray.com/kong-deb stable main",
        },
        {"path": "/etc/yum.repos.d/kong.repo", "text": "baseurl=https://x/kong?token=******&a=1"},
    ]


def test_files(tmp_path):
    here = tmp_path / "cert.pem"
    here.write_text("")
    settings = {
        "ssl_cert": "%s, %s/other.pem" % (here, tmp_path),
        "log_level": "notice",
        "lua_ssl_trusted_certificate": "system",
        "nginx_conf": "%s/prefix/nginx.conf" % tmp_path,
        "pg_host": "/var/run/postgresql",
    }
    found = _host.files(str(tmp_path / "prefix"), settings)
    me = pwd.getpwuid(os.getuid()).pw_name
    assert found == {
        "ssl_cert": {"path": str(here), "exists": True, "owner": me},
        "ssl_cert[1]": {"path": "%s/other.pem" % tmp_path, "exists": False, "owner": None},
    }


def test_memory_and_room(tmp_path):
    root = tree(tmp_path, proc__meminfo="MemTotal:       2048 kB\n")
    assert _host.memory(root) == 2048 * 1024 and _host.memory(str(tmp_path / "no")) is None
    assert _host.free(str(tmp_path / "not" / "there")) > 0


def test_units_by_precedence(tmp_path):
    root = tree(tmp_path, **{"usr__lib__systemd__system__kong.service": "", "etc__systemd__system__kong.service": ""})
    os.symlink("usr/lib", os.path.join(root, "lib"))
    assert _host.units("kong.service", root) == [
        "/etc/systemd/system/kong.service",
        "/usr/lib/systemd/system/kong.service",
    ]
    assert _host.units("other.service", root) == []


OWN = "pid pids/nginx.pid;\nevents {}\nhttp {\n    include 'nginx-kong.conf';\n}\n"


@pytest.mark.parametrize(
    "conf, exec_start, expected",
    [
        (None, None, None),
        (OWN, None, None),
        (
            OWN,
            "/usr/local/bin/kong start -c /etc/kong/kong.conf --nginx-conf /etc/kong/my.template",
            "/etc/kong/my.template",
        ),
        ("http {\n    server {\n    }\n}\n", None, "nginx.conf"),
        (OWN.replace("}\n", "    server {\n    }\n}\n"), None, "nginx.conf"),
        (OWN.replace("    include", "    # include"), None, "nginx.conf"),
        (OWN.replace("    include", "    lua_shared_dict mine 1m;\n    include"), None, "nginx.conf"),
        (OWN + "stream {\n    include 'nginx-kong-stream.conf';\n}\n", None, None),
        (OWN + "stream {\n    server {\n    }\n}\n", None, "nginx.conf"),
        (OWN + "mail {\n}\n", None, "nginx.conf"),
        ("load_module mine.so;\n" + OWN, None, "nginx.conf"),
        ("env MINE;\n" + OWN, None, None),  # nginx_main_env
        (OWN.replace("events {}", "events {\n    use poll;\n}"), None, "nginx.conf"),
        (OWN.replace("events {}", "events {\n    # injected\n    multi_accept on;\n    worker_connections 16384;\n}"), None, None),
    ],
)
def test_a_custom_template(tmp_path, conf, exec_start, expected):
    if conf is not None:
        (tmp_path / "nginx.conf").write_text(conf)
    (tmp_path / ".kong_env").write_text("nginx_main_env = MINE\n")
    found = _host.templates(str(tmp_path), {"nginx_http_include": "/etc/kong/more.conf"}, exec_start)
    assert found["includes"] == [{"file": "/etc/kong/more.conf", "key": "nginx_http_include"}]
    assert (found["nginx_conf"] or "").endswith(expected or "") and bool(found["nginx_conf"]) == bool(expected) == bool(
        found["how"]
    )


def test_outside_of_http_nothing_is_concluded_without_kong_env(tmp_path):
    (tmp_path / "nginx.conf").write_text("env MINE;\n" + OWN)
    assert _host.templates(str(tmp_path), {})["nginx_conf"] is None


def test_rocks(tmp_path):
    root = tree(
        tmp_path,
        **{
            "usr__local__lib__luarocks__rocks-5.1__kong-plugin-acme__0.2.2-1__x": "",
            "usr__local__lib__luarocks__rocks-5.1__lua-cjson__2__x": "",
        },
    )
    assert _host.rocks(root) == {"kong-plugin-acme": "0.2.2-1"}


def test_plugins(tmp_path):
    tree(
        tmp_path,
        **{
            "kong__plugins__mine__handler.lua": "local Base = require 'kong.plugins.base_plugin'",
            "kong__plugins__mine__migrations__init.lua": "",
            "kong__plugins__plain__handler.lua": "",
            "kong__plugins__plain__daos.lua": "",
        },
    )
    settings = {"plugins": "bundled, mine,plain, ../etc, absent", "lua_package_path": "./?.lua;%s/?.lua;;" % tmp_path}
    assert _host.plugins(settings) == {
        "mine": {
            "path": "%s/kong/plugins/mine" % tmp_path,
            "has_daos": False,
            "has_migrations": True,
            "base_plugin": True,
        },
        "plain": {
            "path": "%s/kong/plugins/plain" % tmp_path,
            "has_daos": True,
            "has_migrations": False,
            "base_plugin": False,
        },
    }


def test_directives():
    text = "http {\n  lua_shared_dict kong 5m;\n  # lua_shared_dict no 1m;\n  include 'nginx-kong.conf';\n}\n"
    assert _host.directives(text) == ["lua_shared_dict kong", "include 'nginx-kong.conf'"]
