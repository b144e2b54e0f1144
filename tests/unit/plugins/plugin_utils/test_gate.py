# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import gate


def server(name, answers=0, bad=0, reset=False, econ=0):
    return {"name": name, "reset": reset, "counters": {"hrsp_2xx": answers, "hrsp_5xx": bad, "econ": econ, "eresp": 0}}


def counted(name, requests, failures):
    return {"name": name, "reset": False, "counters": {"requests": requests, "failures": failures}}


def window(*servers):
    return {"seconds": 10, "servers": list(servers)}


ROWS = [
    # windows of the load balancers, expected verdict
    ("all is well", [window(server("b", 100), server("g", 50))], "passed"),
    ("an upstream's own errors are on both sides", [window(server("b", 90, 10), server("g", 45, 5))], "passed"),
    ("green fails more than blue", [window(server("b", 100), server("g", 45, 5))], "breached"),
    ("green refuses connections", [window(server("b", 100), server("g", 0, econ=30))], "breached"),
    ("within the budget", [window(server("b", 1000), server("g", 999, 1))], "passed"),
    ("blue has no traffic any more", [window(server("b"), server("g", 100, 10))], "breached"),
    ("too little traffic", [window(server("b", 100), server("g", 3))], "too_little"),
    ("few requests, but they fail", [window(server("b", 100), server("g", 1, 2))], "breached"),
    ("a counter was reset", [window(server("b", 100), server("g", 50, reset=True))], "too_little"),
    ("the load balancer ended the soak", [dict(window(server("g", 100)), stopped="g1 is DOWN")], "breached"),
    ("summed over load balancers", [window(server("g", 15), server("b", 9)), window(server("g", 15))], "passed"),
    ("counted by commands", [window(counted("b", 100, 1), counted("g", 100, 1))], "passed"),
    ("counted by commands, and green fails", [window(counted("b", 100, 1), counted("g", 100, 9))], "breached"),
    ("no counters at all", [{"seconds": 10, "counted": False, "servers": []}], "too_little"),
    ("no counters on one load balancer", [window(server("g", 100)), {"counted": False, "servers": []}], "too_little"),
    ("one load balancer's failures count", [window(server("g", 100)), window(server("g", 80, 20))], "breached"),
]


@pytest.mark.parametrize("windows, verdict", [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_verdict(windows, verdict):
    result = gate.judge(windows, {"b"}, {"g"}, budget=0.5, min_requests=20)
    assert result["verdict"] == verdict, result["message"]


def test_servers_of_another_backend_do_not_count():
    here = [dict(server("b", 100), backend="kong"), dict(server("g", 100), backend="kong")]
    elsewhere = [dict(server("g", 0, 50), backend="stats")]
    result = gate.judge([window(*here, *elsewhere)], {"b"}, {"g"}, 0.5, 20, backends=["kong"])
    assert result["verdict"] == "passed" and result["green"]["requests"] == 100
    assert gate.judge([window(*here, *elsewhere)], {"b"}, {"g"}, 0.5, 20, backends=[])["verdict"] == "breached"


@pytest.mark.parametrize(
    "probed, verdict, words",
    [
        ([], "too_little", "nothing was measured"),
        ([None, None], "passed", "judged by probes alone, which all 2 green nodes answered"),
        ([None, "g2: it answers 500"], "breached", "g2: it answers 500"),
    ],
)
def test_probes_judge_where_nothing_counts(probed, verdict, words):
    result = gate.judge([{"seconds": 10, "counted": False, "servers": []}], {"b"}, {"g"}, 0.5, 20, probed)
    assert result["verdict"] == verdict and words in result["message"]


@pytest.mark.parametrize(
    ("counters", "requests", "failures"),
    [
        # HAProxy's own 503 for a connection that was refused is one request that failed, and not two
        ({"hrsp_2xx": 90, "hrsp_5xx": 10, "econ": 10}, 100, 10),
        ({"hrsp_2xx": 90, "hrsp_5xx": 4, "eresp": 10}, 100, 10),
        # another server had to answer them
        ({"hrsp_2xx": 95, "wredis": 5}, 100, 5),
    ],
)
def test_a_request_fails_once(counters, requests, failures):
    found = gate.tally([window({"name": "g", "counters": counters})], {"g"}, [])
    assert (found["requests"], found["failures"]) == (requests, failures)


def test_the_message_has_the_numbers():
    message = gate.judge([window(server("b", 100), server("g", 45, 5))], {"b"}, {"g"}, 0.5, 20)["message"]
    assert "5 of 50" in message and "0 of 100" in message
