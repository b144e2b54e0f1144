# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _nginx_conf as conf

FILE = """\
# The gateway; not this: server 10.9.9.9:1;
upstream kong {
    least_conn;
    server 10.0.1.11:8000 weight=100 max_fails=3; # a1, do not touch
    server\t"10.0.1.12:8000"  down   fail_timeout=5s weight=50 ;
    server kong-b1.example.com:8000
        max_conns=20
        down; keepalive 16;
}
upstream tls { server 10.0.1.11:8443; server [2001:db8::11]:8443 backup; }
server { listen 80; location / { proxy_pass http://kong$request_uri; set $x "a;b}{"; } }
"""


def found(text=FILE):
    """{upstream: {name: (weight, down, backup)}}."""
    return {upstream.name: {server.name: (server.weight, server.down, server.backup) for server in upstream.servers}
            for upstream in conf.upstreams(text, "bare")}


def change(text, **wanted):
    """The text with weights of the servers of upstream kong; "_" stands for dots and dashes of a name."""
    (upstream,) = [upstream for upstream in conf.upstreams(text, "bare") if upstream.name in ("kong", "bare")]
    names = {server.name.replace(".", "_").replace("-", "_").replace(":", "_"): server for server in upstream.servers}
    return conf.edit(text, [(names[name.lstrip("_")], weight) for name, weight in wanted.items()])


def test_upstreams():
    assert found() == {
        "kong": {"10.0.1.11": (100, False, False), "10.0.1.12": (50, True, False), "kong-b1.example.com": (1, True, False)},
        "tls": {"10.0.1.11": (1, False, False), "[2001:db8::11]": (1, False, True)},
    }
    kong, tls = conf.upstreams(FILE, "bare")
    assert (kong.method, tls.method) == (["least_conn"], ["round_robin"])
    assert kong.servers[2].address == "kong-b1.example.com:8000"


def test_lines_alone_are_called_by_the_file():
    assert found("server 10.0.1.11:8000;\nserver unix:/run/kong.sock down;") == {
        "bare": {"10.0.1.11": (1, False, False), "unix:/run/kong.sock": (1, True, False)}}


def test_the_port_belongs_to_the_name_where_an_address_has_several():
    text = "upstream kong { server 10.0.1.11:8000; server 10.0.1.11:9000 down; server 10.0.1.12; }"
    assert list(found(text)["kong"]) == ["10.0.1.11:8000", "10.0.1.11:9000", "10.0.1.12"]


@pytest.mark.parametrize("method", ["ip_hash;", "hash $remote_addr consistent;", "random two least_conn;"])
def test_methods(method):
    (upstream,) = conf.upstreams("upstream kong { %s server a; }" % method, "bare")
    assert " ".join(upstream.method) + ";" == method


def test_lua_is_passed_over():
    text = "upstream kong { server 0.0.0.1; balancer_by_lua_block { local t = {a = '1;'} -- don't } }"
    (upstream,) = conf.upstreams(text + " upstream b { server b; }", "bare")[:1]
    assert upstream.method == ["balancer_by_lua_block"] and list(found(text + " upstream b { server b; }")) == ["kong", "b"]


@pytest.mark.parametrize("text, words", [
    ("upstream kong { server a;", "ends within a block"),
    ("server a", "ends within a directive"),
    ("}", "line 1: '}' where no block ends"),
    ("a;\n;", "line 2: ';' without a directive"),
    ('a "b;', "line 1: a quote that does not end"),
    ("a_by_lua_block { x = {} ", "a block of Lua that does not end"),
])
def test_what_is_no_configuration(text, words):
    with pytest.raises(conf.Unreadable, match=words):
        conf.parse(text)


@pytest.mark.parametrize("before, weight, after", [
    ("server a weight=100;", 0, "server a weight=100 down;"),
    ("server a weight=100 down;", 50, "server a weight=50;"),
    ("server a  down  max_fails=3 ; # down", 50, "server a weight=50  max_fails=3 ; # down"),
    ("server a;", 7, "server a weight=7;"),
    ("server a max_fails=3;", 7, "server a weight=7 max_fails=3;"),
    ("server a down;", 1, "server a;"),
    ("server a weight=5;", 1, "server a weight=1;"),
    ("server a weight=5;", 5, "server a weight=5;"),
    ("server a weight=5 down;", 0, "server a weight=5 down;"),
    ("server a # weight=3\n  down # now\n;", 3, "server a weight=3 # weight=3\n # now\n;"),
    ('server "a" "weight=5";', 9, 'server "a" weight=9;'),
    ("server down.example.com;", 0, "server down.example.com down;"),
])
def test_edit(before, weight, after):
    (upstream,) = conf.upstreams(before, "bare")
    assert conf.edit(before, [(upstream.servers[0], weight)]) == after
    (again,) = conf.upstreams(after, "bare")
    assert conf.edit(after, [(again.servers[0], weight)]) == after, "a second time changes nothing"


def test_only_the_words_of_these_servers_change():
    after = change(FILE, _10_0_1_11=0, _10_0_1_12=256, kong_b1_example_com=30)
    assert after == FILE.replace("max_fails=3;", "max_fails=3 down;").replace(
        '"10.0.1.12:8000"  down   fail_timeout=5s weight=50 ;', '"10.0.1.12:8000"   fail_timeout=5s weight=256 ;').replace(
        "kong-b1.example.com:8000\n", "kong-b1.example.com:8000 weight=30\n").replace("        down; keepalive", "; keepalive")
    assert found(after)["tls"] == found()["tls"]


def test_line_ends_and_other_bytes_are_kept():
    text = "upstream kong {\r\n  server a; # caf\udce9\r\n}\r\n"
    assert change(text, a=0) == "upstream kong {\r\n  server a down; # caf\udce9\r\n}\r\n"
