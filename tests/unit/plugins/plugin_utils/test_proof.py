# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import proof


def session(address="10.0.0.5", port=40000, **more):
    return dict({"pid": 7, "user": "kong", "application_name": "", "client_addr": address, "client_port": port}, **more)


def gateway(**more):
    node = {"version": "2.8.5", "database_reachable": True, "database_sockets": ["10.0.0.5:40000"]}
    return dict({"running": True, "fenced": False, "node": node, "error": None}, **more)


BLUE_GONE = gateway(running=False, fenced=True, node=None)


def judge(blue=None, green=None, sessions=None, known=()):
    seen = [session()] if sessions is None else sessions
    return proof.judge({"b": blue or BLUE_GONE, "g": green or gateway()}, ["b"], ["g"], "2.8.5", seen, {}, list(known))


def test_a_session_of_a_green_socket_is_accounted_for():
    assert judge()["problems"] == []


ROWS = [
    ("a living blue node outside the inventory", session(port=40001), "no green node has the socket 10.0.0.5:40001"),
    ("an address hidden by missing rights", session(hidden=True), "hidden from our role"),
    ("a UNIX socket", session(address=None, port=-1), "UNIX socket"),
]


@pytest.mark.parametrize("left, reason", [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_unaccounted(left, reason):
    result = judge(sessions=[session(), left])
    assert len(result["unaccounted"]) == 1 and reason in result["problems"][0]
    assert result["only_sessions"] and "kong_upgrade_known_sessions" in result["refusal"][-1]


def test_a_socket_of_an_earlier_round_counts():
    gateways = {"b": BLUE_GONE, "g": gateway()}
    earlier = {"sockets": ["10.0.0.5:41000"], "rounds": 1}
    result = proof.judge(gateways, ["b"], ["g"], "2.8.5", [session(), session(port=41000)], earlier, [])
    assert result["rounds"] == 2
    assert result["problems"] == [] and not result["open"] and result["sockets"] == ["10.0.0.5:40000", "10.0.0.5:41000"]


def test_sessions_that_the_operator_vouches_for():
    assert judge(sessions=[session(), session(port=1, user="monitor")], known=[{"user": "mon*"}])["problems"] == []


@pytest.mark.parametrize("pattern", [{}, {"application": "*"}, {"user": "kong", "adress": ""}])
def test_a_pattern_that_is_empty_or_names_no_field_vouches_for_nothing(pattern):
    assert judge(sessions=[session(port=1)], known=[pattern])["problems"]


@pytest.mark.parametrize(
    "blue, words",
    [
        (gateway(running=True, fenced=True), "running there again"),
        (gateway(running=False, fenced=False), "not fenced"),
        ({"error": "unreachable"}, "did not answer"),
    ],
)
def test_blue_must_be_gone(blue, words):
    result = judge(blue=blue)
    assert words in result["problems"][0] and not result["only_sessions"]


@pytest.mark.parametrize(
    "green, words",
    [
        (gateway(running=False), "no Kong is running"),
        (gateway(node={"version": "2.1.4", "database_sockets": ["10.0.0.5:40000"]}), "runs 2.1.4"),
        (gateway(node={"version": "2.8.5", "database_sockets": []}), "none of the database's sessions is its own"),
    ],
)
def test_green_must_be_well(green, words):
    assert words in judge(green=green)["problems"][0]
