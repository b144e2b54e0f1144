# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _nginx as nginx


@pytest.mark.parametrize("line, parts", [
    ("10.0.1.11:8000|200", [("10.0.1.11:8000", "200")]),
    ("10.0.1.11:8000|200|more|", [("10.0.1.11:8000", "200")]),
    ("10.0.1.11:8000, [2001:db8::1]:8000|502, 200\n", [("10.0.1.11:8000", "502"), ("[2001:db8::1]:8000", "200")]),
    ("10.0.1.11:8000 : 10.0.1.12:8000|404 : 200", [("10.0.1.11:8000", "404"), ("10.0.1.12:8000", "200")]),
    ("10.0.1.11:8000|-", [("10.0.1.11:8000", "-")]),
    ("-|-", [("-", "-")]),
    ("kong|502", [("kong", "502")]),
    ("10.0.1.11:8000|200, 200", None),
    ("10.0.1.11 - - [25/Nov/2026:10:00:00 +0000] \"GET /a|b HTTP/1.1\" 200", None),
    ("", None),
])
def test_lines_of_the_log(line, parts):
    assert nginx.parse_line(line) == parts


class Log:
    """A log that grows, and its Tail."""

    def __init__(self, path):
        self.path = path
        self.write("10.0.1.11:8000|500\n")
        self.tail = nginx.Tail(str(path))

    def write(self, text, mode="a"):
        with open(self.path, mode, encoding="utf-8") as stream:
            stream.write(text)

    def counts(self):
        self.tail.read()
        return self.tail.requests, self.tail.failures


@pytest.fixture(name="log")
def fixture_log(tmp_path):
    return Log(tmp_path / "kong.log")


def test_only_what_comes_after_the_beginning_counts(log):
    assert log.counts() == ({}, {})
    log.write("a|200\na|404\nb|502\nb, a|504, 200\na|-\n")
    assert log.counts() == ({"a": 4, "b": 2}, {"b": 2})
    assert log.counts() == ({"a": 4, "b": 2}, {"b": 2})


def test_half_a_line_counts_when_it_is_whole(log):
    log.write("a|50")
    assert log.counts() == ({}, {})
    log.write("3\n")
    assert log.counts() == ({"a": 1}, {"a": 1})


def test_a_rotated_log(log):
    log.write("a|200\n")
    assert log.counts()[0] == {"a": 1}
    log.path.rename(log.path.with_suffix(".1"))
    assert log.counts()[0] == {"a": 1}, "between the two steps of a rotation"
    log.write("a|200\na|500\n")
    assert log.counts() == ({"a": 3}, {"a": 1})
    with open(log.path.with_suffix(".1"), "a", encoding="utf-8") as old:
        old.write("a|200\n")  # by a worker that has not been told yet
    assert log.counts()[0] == {"a": 4}


def test_a_log_that_is_cut_short_begins_anew(log):
    log.write("a|200\na|200\na|200\n")
    assert log.counts()[0] == {"a": 3}
    log.write("a|200\n", "w")
    assert log.counts()[0] == {"a": 1}


@pytest.mark.parametrize("text, cuts", [
    ("http { server { listen 80; } }", True),
    ("http { keepalive_timeout 65s; }", True),
    ("http { server { keepalive_timeout 0; } }", False),
    ("http { keepalive_timeout 0s 0; }", False),
    ("http { keepalive_min_timeout 5s; }", False),
    ("http { keepalive_min_timeout 0; }", True),
])
def test_whether_a_reload_cuts_idle_connections(text, cuts):
    assert nginx.cuts_idle(["not { readable", text]) is cuts


def test_files_of_nginx_T():
    text = "# configuration file /etc/nginx/nginx.conf:\nhttp {\n# a\n}\n\n# configuration file /etc/nginx/a b.conf:\nserver a;\n\n"
    assert nginx.dumped(text) == {"/etc/nginx/nginx.conf": "http {\n# a\n}\n\n", "/etc/nginx/a b.conf": "server a;\n\n"}


@pytest.mark.parametrize("address, places", [
    ("127.0.0.1:8000", [("127.0.0.1", 8000)]),
    ("127.0.0.1", [("127.0.0.1", 80)]),
    ("[::1]:8000", [("::1", 8000)]),
    ("unix:/run/kong.sock", ["/run/kong.sock"]),
])
def test_addresses(address, places):
    assert nginx.resolve(address) == places
    assert [nginx.text_of(place) for place in places][0].startswith(address)
