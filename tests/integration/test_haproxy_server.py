# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_server and haproxy_server_info against real HAProxies.

KONG_TEST_HAPROXY may name further haproxy binaries, separated by colons; every test then runs with these too.
"""

import http.client
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy as haproxy
from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy_fleet, _haproxy_local, _haproxy_wait
from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy import HaproxyError
from haproxy_rig import ROOT, HAProxy, Load, Origin, Relay, change, find_haproxy, info, until

KINDS = ["wheel", "debian", *filter(None, os.environ.get("KONG_TEST_HAPROXY", "").split(":"))]


# What has nothing to do with HAProxy's version is tried with one.
ONCE = {
    "test_check_mode_changes_nothing_and_predicts", "test_two_load_balancers_in_one_call",
    "test_all_problems_in_one_list_before_the_first_change", "test_two_sockets_of_one_process_are_refused",
    "test_the_last_usable_server_is_kept", "test_waits_that_cannot_end_are_refused",
    "test_one_load_balancer_that_fails_is_undone_on_all", "test_a_value_that_does_not_stick_is_found",
    "test_window", "test_observation_ends_when_green_does_badly", "test_without_it_a_reload_is_noticed",
    "test_conf_file_check_mode_and_problems", "test_info_tells_whether_a_file_could_be_kept_up_to_date",
    "test_a_file_that_cannot_be_written_undoes_the_change", "test_modules",
}


def pytest_generate_tests(metafunc):
    """Each test with each HAProxy."""
    if "kind" in metafunc.fixturenames:
        kinds = KINDS[:1] if metafunc.function.__name__ in ONCE else KINDS
        metafunc.parametrize("kind", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kind(request):
    """Which HAProxy."""
    argv, reason = find_haproxy(request.param)
    if argv is None:
        pytest.skip(f"HAProxy {request.param}: {reason}")
    return request.param


@pytest.fixture
def folder():
    """A folder with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="hap") as path:
        yield path


@pytest.fixture(scope="session")
def all_origins(tmp_path_factory):
    """Three origins for all tests."""
    folder = tmp_path_factory.mktemp("origins")
    found = {name: Origin(folder).start() for name in ("blue1", "blue2", "green1")}
    yield found
    for origin in found.values():
        origin.stop()


@pytest.fixture
def origins(all_origins):
    """The origins blue1, blue2 and green1. Those that a test stops are started again."""
    yield all_origins
    for origin in all_origins.values():
        if not origin.answers():
            origin.start()


@pytest.fixture
def make(folder, kind, origins):
    """Starts HAProxies."""
    made = []

    def start(name="a", **options):
        lines = options.pop("servers", None) or [
            f"server blue1 127.0.0.1:{origins['blue1'].port} weight 100 check",
            f"server blue2 127.0.0.1:{origins['blue2'].port} weight 100 check # the second",
            f"server green1 127.0.0.1:{origins['green1'].port} weight 0 check",
        ]
        lines = [line.format(**{key: origin.port for key, origin in origins.items()}) for line in lines]
        more = options.pop("more", "").format(**{key: origin.port for key, origin in origins.items()})
        made.append(HAProxy(f"{folder}/{name}", kind, lines, more=more, **options).start())
        return made[-1]

    yield start
    for each in made:
        each.stop()


@pytest.fixture
def lb(make):
    """One HAProxy with blue1, blue2 at 100 and green1 at 0, all up."""
    one = make()
    change([one.socket], wait={"up": ["blue1", "blue2", "green1"]})
    return one


def fails(*arguments, **options):
    """The HaproxyError that a change ends with."""
    with pytest.raises(HaproxyError) as caught:
        change(*arguments, **options)
    return caught.value


def request(port, path="/a", timeout=20, headers=None):
    """One GET: (status, server)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("X-Bed-Server")
    finally:
        connection.close()


class Slow(threading.Thread):
    """One slow request in flight; `status` is None when it was cut.

    :param asked: how long it takes: s=SECONDS, or until=FILE
    """

    def __init__(self, port, asked):
        super().__init__(daemon=True)
        self.port, self.asked, self.status = port, asked, None
        self.start()

    def run(self):
        try:
            self.status = request(self.port, f"/slow?{self.asked}")[0]
        except (OSError, http.client.HTTPException):
            self.status = None


@pytest.fixture
def release(folder):
    """The file that ends a request with until=FILE."""
    path = pathlib.Path(folder, "release")
    yield path
    path.touch()


def after_the_first_reading(monkeypatch, do):
    """An observation calls do() once, between its first and its second reading."""
    add = _haproxy_wait.Meter.add

    def adding(meter, *reading):
        first = not meter.process
        add(meter, *reading)
        if first:
            do()

    monkeypatch.setattr(_haproxy_wait.Meter, "add", adding)


# Setting

def test_weights_and_states_are_set_and_read_back(lb):
    result = change([lb.socket], {"name": "green1", "weight": 50}, {"name": "blue2", "state": "drain"})
    assert result["changed"]
    assert lb.weights() == {"blue1": (100, 0), "blue2": (100, 8), "green1": (50, 0)}
    servers = {server["name"]: server for server in result["haproxy"][0]["servers"]}
    assert servers["green1"]["weight"] == 50 and servers["green1"]["initial_weight"] == 0
    assert servers["blue2"]["admin_state"] == "drain" and servers["blue2"]["status"].startswith("DRAIN")
    assert servers["blue1"]["check_passed"] and servers["blue1"]["address"] == "127.0.0.1"
    assert "-%s kong/green1: weight 0, ready" % lb.socket in "-" + result["diff"][0]["before"].splitlines()[1]

    again = change([lb.socket], {"name": "green1", "weight": 50}, {"name": "blue2", "state": "drain"})
    assert not again["changed"] and again["diff"] == []
    assert change([lb.tcp], {"name": "blue2", "state": "ready"})["changed"]
    assert change([lb.tcp], {"name": "blue2", "state": "maint"})["changed"]
    assert lb.weights()["blue2"] == (100, 1)


def test_check_mode_changes_nothing_and_predicts(lb):
    before = lb.weights()
    result = change([lb.socket], {"name": "green1", "weight": 256}, {"name": "blue1", "state": "maint"}, check=True,
                    wait={"sessions_zero": ["blue1"]}, observe=100)
    assert result["changed"] and lb.weights() == before
    servers = {server["name"]: server for server in result["haproxy"][0]["servers"]}
    assert servers["green1"]["weight"] == 256 and servers["blue1"]["admin_state"] == "maint"
    assert result["elapsed"] < 2


def test_every_backend_with_the_name_or_just_one(make):
    one = make(more="backend api\n    server blue1 127.0.0.1:{blue1} weight 10\n    server x 127.0.0.1:{blue2}")
    change([one.socket], {"name": "blue1", "weight": 5})
    assert one.weights()["blue1"][0] == 5 and one.weights("api")["blue1"][0] == 5
    change([one.socket], {"name": "blue1", "backend": "api", "weight": 7})
    assert one.weights()["blue1"][0] == 5 and one.weights("api")["blue1"][0] == 7


def test_two_load_balancers_in_one_call(make):
    one, two = make("a"), make("b")
    result = change([one.socket, two.tcp], {"name": "green1", "weight": 50}, wait={"up": ["green1"]})
    assert one.weights()["green1"] == two.weights()["green1"] == (50, 0)
    assert [view["socket"] for view in result["haproxy"]] == [one.socket, two.tcp]


# Refusing

def test_all_problems_in_one_list_before_the_first_change(lb):
    before = lb.weights()
    error = fails(
        [lb.socket, "/nonexistent/admin.sock", "127.0.0.1:1", "what"],
        {"name": "green1", "weight": 50}, {"name": "nobody", "state": "drain"}, {"name": "blue1", "backend": "nowhere"},
        {"name": "blue2", "weight": 257}, wait={"up": ["ghost"]}, conf_file=["/nonexistent/haproxy.cfg"])
    for words in ("/nonexistent/admin.sock", "127.0.0.1:1", "what is neither", "'nobody'", "'nowhere'",
                  "257 is not between 0 and 256", "wait.up", "/nonexistent/haproxy.cfg"):
        assert any(words in problem for problem in error.problems), words
    assert lb.weights() == before


def test_a_socket_without_the_right_is_refused(lb):
    error = fails([f"{lb.folder}/user.sock"], {"name": "green1", "weight": 50})
    assert "level user" in str(error) and "level admin" in str(error)


def test_the_socket_of_the_master_is_refused(make):
    one = make(master=True)
    error = fails([f"{one.folder}/m"], {"name": "green1", "weight": 50})
    assert "master process" in str(error)


def test_two_sockets_of_one_process_are_refused(lb):
    if lb.ask("show info").count("Start_time_sec") == 0:
        pytest.skip("this HAProxy does not tell when it was started")
    assert "same HAProxy process" in str(fails([lb.socket, lb.tcp], {"name": "green1", "weight": 50}))


def test_the_last_usable_server_is_kept(lb, origins):
    before = lb.weights()
    for servers in (
        [{"name": "blue1", "state": "maint"}, {"name": "blue2", "state": "drain"}],
        [{"name": "blue1", "weight": 0}, {"name": "blue2", "weight": 0}],
        [{"name": "blue1", "weight": 0}, {"name": "blue2", "weight": 0}, {"name": "green1", "weight": 9, "state": "maint"}],
    ):
        assert "without a usable server" in str(fails([lb.socket], *servers))
        predicted = change([lb.socket], *servers, check=True)
        assert "without a usable server" in predicted["refused"][0] and predicted["warnings"]
    assert lb.weights() == before
    # Down counts as not usable, whatever its weight.
    origins["green1"].stop()
    until(lambda: not info(lb.socket, servers=["green1"])["haproxy"][0]["servers"][0]["running"])
    assert "without a usable server" in str(fails(
        [lb.socket], {"name": "blue1", "weight": 0}, {"name": "blue2", "weight": 0}, {"name": "green1", "weight": 100}))
    assert lb.weights() == before


def test_a_server_that_another_one_follows(make):
    one = make(more="backend api\n    server blue1x 127.0.0.1:{blue1} track kong/blue1")
    assert "backend 'api'" in str(fails([one.socket], {"name": "blue1", "state": "maint"}))
    change([one.socket], wait={"up": ["api/blue1x"]})


def test_waits_that_cannot_end_are_refused(make):
    one = make(more="backend api\n    server plain 127.0.0.1:{blue1}\n    server other 127.0.0.1:{blue2}")
    assert "no health check" in str(fails([one.socket], wait={"up": ["plain"]}))
    assert "in maintenance" in str(fails([one.socket], {"name": "blue1", "state": "maint"}, wait={"up": ["blue1"]}))
    assert "new sessions" in str(fails([one.socket], wait={"sessions_zero": ["blue1"]}))


def test_static_weights(make, kind):
    one = make(more="""
backend rr
    balance static-rr
    server s1 127.0.0.1:{blue1} weight 100
    server s2 127.0.0.1:{blue2} weight 100
backend src
    balance source
    hash-type map-based
    server m1 127.0.0.1:{blue1} weight 100
    server m2 127.0.0.1:{blue2} weight 100
backend src2
    balance uri
    hash-type consistent
    server c1 127.0.0.1:{blue1} weight 100
backend one
    balance first
    server f1 127.0.0.1:{blue1} weight 100
    server f2 127.0.0.1:{blue2} weight 100
""")
    views = info(one.socket)["haproxy"][0]["backends"]
    assert {name: views[name]["weights"] for name in ("kong", "rr", "src", "src2", "one")} == {
        "kong": "dynamic", "rr": "static", "src": "static", "src2": "dynamic", "one": "ignored"}
    assert info(one.tcp)["haproxy"][0]["backends"]["src"]["weights"] == "unknown"
    assert "takes no weight but 0" in str(fails([one.socket], {"name": "s1", "weight": 50}))
    # Where nobody can know it before, HAProxy says it, and what was set by then is put back.
    error = fails([one.tcp], {"name": "blue1", "weight": 7}, {"name": "m1", "weight": 50})
    assert "static LB algorithm" in str(error) and error.details["put_back"]
    assert one.weights()["blue1"] == (100, 0) and one.weights("src")["m1"] == (100, 0)
    change([one.socket], {"name": "s1", "weight": 0}, {"name": "m1", "weight": 0})
    assert any("balance first" in warning for warning in change([one.socket], {"name": "f1", "weight": 5})["warnings"])


# All or nothing

@pytest.mark.parametrize("times", [1, 99])
def test_one_load_balancer_that_fails_is_undone_on_all(make, times):
    one, two = make("a"), make("b")
    relay = Relay(two.socket, r"set server kong/green1", times)
    try:
        before = one.weights(), two.weights()
        error = fails([one.socket, relay.address], {"name": "blue1", "weight": 128}, {"name": "green1", "weight": 50})
    finally:
        relay.close()
    assert relay.address in str(error)
    assert any("set server kong/blue1 weight 128" in text for text in relay.seen)
    assert one.weights() == before[0]
    if times == 1:
        assert error.details["put_back"] and two.weights() == before[1], str(error)


def test_a_value_that_does_not_stick_is_found(lb):
    """Somebody else sets it back between the command and the reading."""
    relay = Relay(lb.socket, r"never", 0)
    original = _haproxy_fleet.read_back
    try:
        _haproxy_fleet.read_back = lambda rows, keys: {key: (99, state) for key, (_w, state) in original(rows, keys).items()}
        error = fails([relay.address], {"name": "green1", "weight": 50})
    finally:
        _haproxy_fleet.read_back = original
        relay.close()
    assert "reads back as weight 99" in str(error)


# Waiting

def test_up_waits_for_a_check_that_was_really_made(lb, origins):
    change([lb.socket], {"name": "green1", "state": "maint"})
    origins["green1"].stop()
    # HAProxy takes a server for up the moment it is made ready; nobody may be sent there on its word.
    error = fails([lb.socket], {"name": "green1", "state": "ready", "weight": 100}, {"name": "blue1", "weight": 0},
                  wait={"up": ["green1"], "timeout": 2})
    assert "not UP" in str(error) and error.details["put_back"]
    assert lb.weights() == {"blue1": (100, 0), "blue2": (100, 0), "green1": (0, 1)}
    assert request(lb.port)[0] == 200

    def start_late():
        until(lambda: lb.weights()["green1"][1] == 0)
        time.sleep(0.7)
        origins["green1"].start()

    starting = threading.Thread(target=start_late)
    starting.start()
    result = change([lb.socket], {"name": "green1", "state": "ready", "weight": 100}, {"name": "blue1", "weight": 0},
                    wait={"up": ["green1"], "timeout": 10})
    starting.join()
    assert result["elapsed"] > 0.6
    assert lb.weights() == {"blue1": (0, 0), "blue2": (100, 0), "green1": (100, 0)}
    assert not change([lb.socket], wait={"up": ["kong/green1", "blue2"]})["changed"]


def test_maintenance_follows_the_last_session(lb, release):
    change([lb.socket], {"name": "blue2", "state": "maint"})
    slow = Slow(lb.port, f"until={release}")
    until(lambda: info(lb.socket, servers=["blue1"])["haproxy"][0]["servers"][0]["sessions"])
    states = []
    change([lb.socket], {"name": "green1", "weight": 100})

    def watch():
        until(lambda: lb.weights()["blue1"][1] != 0)
        for _unused in range(20):
            states.append(lb.weights()["blue1"][1])
            time.sleep(0.05)
        release.touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = change([lb.socket], {"name": "blue1", "state": "maint"}, wait={"sessions_zero": ["blue1"]})
    slow.join()
    watcher.join()
    assert slow.status == 200 and result["elapsed"] > 1
    assert states == [8] * 20 and lb.weights()["blue1"][1] == 1
    assert not change([lb.socket], {"name": "blue1", "state": "maint"}, wait={"sessions_zero": ["blue1"]})["changed"]


def test_sessions_left_are_listed_or_cut(lb):
    change([lb.socket], {"name": "blue2", "state": "maint"})
    slow = Slow(lb.port, "s=8")
    until(lambda: info(lb.socket, servers=["blue1"])["haproxy"][0]["servers"][0]["sessions"])
    change([lb.socket], {"name": "green1", "weight": 100})
    error = fails([lb.socket], {"name": "blue1", "state": "maint"}, wait={"sessions_zero": ["blue1"], "timeout": 1})
    left = error.details["sessions_left"]
    assert len(left) == 1 and left[0]["server"] == "blue1" and left[0]["source"].startswith("127.0.0.1:")
    assert "kong/blue1 1" in str(error) and left[0]["source"] in str(error)
    assert lb.weights()["blue1"] == (100, 8)
    assert slow.status is None and slow.is_alive()
    result = change([lb.socket], {"name": "blue1", "state": "maint"},
                    wait={"sessions_zero": ["blue1"], "timeout": 1, "on_timeout": "cut"})
    assert result["sessions_cut"][0]["server"] == "blue1" and lb.weights()["blue1"] == (100, 1)
    slow.join(5)
    assert slow.status != 200


@pytest.mark.parametrize("master", [False, True])
def test_what_a_process_from_before_a_reload_has_is_waited_for(make, release, master):
    one = make(master=master)
    change([one.socket], {"name": "green1", "weight": 100}, {"name": "blue2", "weight": 0}, {"name": "blue1", "weight": 0},
           wait={"up": ["green1"]}, state_file=["running"])
    slow = Slow(one.port, f"until={release}")
    until(lambda: info(one.socket, servers=["green1"])["haproxy"][0]["servers"][0]["sessions"])
    change([one.socket], {"name": "green1", "state": "drain"}, {"name": "blue1", "weight": 100}, state_file=["running"])
    one.reload()
    assert info(one.socket, servers=["green1"])["haproxy"][0]["servers"][0]["sessions"] == 0
    error = fails([one.socket], {"name": "green1", "state": "maint"}, wait={"sessions_zero": ["green1"], "timeout": 1})
    assert "from before a reload, still has" in str(error) and "connections to kong/green1" in str(error)
    release.touch()
    change([one.socket], {"name": "green1", "state": "maint"}, wait={"sessions_zero": ["green1"]})
    slow.join()
    assert slow.status == 200


def test_clients_with_a_cookie_are_sent_elsewhere_by_maintenance(make):
    one = make(servers=[
        "cookie SRV insert indirect nocache",
        "server blue1 127.0.0.1:{blue1} weight 100 check cookie b1",
        "server green1 127.0.0.1:{green1} weight 100 check cookie g1",
    ])
    assert info(one.socket)["haproxy"][0]["backends"]["kong"]["cookie"] == "SRV"
    stop, seen = threading.Event(), []

    def client():
        while not stop.is_set():
            try:
                seen.append(request(one.port, "/slow?s=0.2", headers={"Cookie": "SRV=b1"}))
            except (OSError, http.client.HTTPException) as error:
                seen.append((0, str(error)))

    clients = [threading.Thread(target=client) for _unused in range(4)]
    for each in clients:
        each.start()
    try:
        until(lambda: len(seen) > 10)
        result = change([one.socket], {"name": "blue1", "state": "maint"},
                        wait={"sessions_zero": ["blue1"], "timeout": 4})
        time.sleep(0.5)
    finally:
        stop.set()
        for each in clients:
            each.join()
    assert result["haproxy"][0]["servers"][0]["sessions"] == 0
    assert {status for status, _unused in seen} == {200}
    assert seen[0][1] == "blue1" and seen[-1][1] == "green1"


# Watching

def test_window(lb, monkeypatch):
    after_the_first_reading(monkeypatch, lambda: [request(lb.port) for _unused in range(30)])
    begun = time.monotonic()
    result = change([lb.socket], {"name": "green1", "weight": 100}, observe=1.5)
    window = {entry["name"]: entry for entry in result["window"]["servers"]}
    assert 1.5 <= result["window"]["seconds"] < time.monotonic() - begun
    assert sum(entry["counters"]["hrsp_2xx"] for entry in window.values()) >= 20
    assert window["green1"]["counters"]["stot"] > 3 and not window["green1"]["reset"]
    assert result["window"]["backends"][0]["counters"]["hrsp_2xx"] >= 20


def test_window_notices_a_reload_and_cleared_counters(lb, monkeypatch):
    after_the_first_reading(monkeypatch, lb.reload)
    result = change([lb.socket], {"name": "green1", "weight": 0}, observe=1)
    assert all(entry["reset"] for entry in result["window"]["servers"])
    monkeypatch.undo()
    for _unused in range(10):
        request(lb.port)
    after_the_first_reading(monkeypatch, lambda: lb.ask("clear counters all"))
    result = change([lb.socket], observe=1)
    assert any(entry["reset"] for entry in result["window"]["servers"])
    assert all(value >= 0 for entry in result["window"]["servers"] for value in entry["counters"].values())


def test_observation_ends_when_green_does_badly(lb, origins):
    change([lb.socket], {"name": "green1", "weight": 100})
    origins["green1"].stop()
    stop = threading.Event()

    def client():
        while not stop.is_set():
            request(lb.port)
            time.sleep(0.005)

    one = threading.Thread(target=client)
    one.start()
    try:
        result = change([lb.socket], observe=20, observe_stop={
            "watch": ["green1"], "against": ["blue1", "blue2"], "budget": 0.01, "minimum": 1})
    finally:
        stop.set()
        one.join()
    assert result["window"]["seconds"] < 10 and "green1" in result["window"]["stopped"]


# Over a reload

def test_state_file_keeps_what_was_set_over_a_reload(lb):
    result = change([lb.socket], {"name": "green1", "weight": 70}, {"name": "blue1", "state": "maint"},
                    {"name": "blue2", "state": "drain"}, state_file=["running"])
    assert result["state_files"] == [{"path": str(lb.state), "changed": True}]
    assert stat.S_IMODE(lb.state.stat().st_mode) == 0o644
    lb.reload()
    assert {name: (weight, haproxy.forced_state(bits)) for name, (weight, bits) in lb.weights().items()} == {
        "blue1": (100, "maint"), "blue2": (100, "drain"), "green1": (70, "ready")}
    again = change([lb.socket], {"name": "green1", "weight": 70}, {"name": "blue1", "state": "maint"},
                   state_file=[str(lb.state)])
    assert not again["changed"] and again["state_files"][0]["changed"] is False


def test_a_server_that_the_file_disables_stays_ready_over_a_reload(make):
    """What docs/load_balancers.md tells to do with green: in the file from the start, with weight 0 and disabled."""
    one = make(servers=["server blue1 127.0.0.1:{blue1} weight 100 check",
                        "server green1 127.0.0.1:{green1} weight 0 check disabled"])
    change([one.socket], {"name": "green1", "state": "ready", "weight": 30}, wait={"up": ["green1"]},
           state_file=["running"])
    for _unused in range(2):
        one.reload()
        weight, bits = one.weights()["green1"]
        assert (weight, haproxy.effective_state(bits)) == (30, "ready")
    change([one.socket], {"name": "green1", "state": "drain"}, state_file=["running"])
    one.reload()
    assert haproxy.effective_state(one.weights()["green1"][1]) == "drain"


def test_without_it_a_reload_is_noticed(lb, monkeypatch):
    after_the_first_reading(monkeypatch, lb.reload)
    error = fails([lb.socket], {"name": "green1", "weight": 70}, observe=1)
    assert "was reloaded" in str(error) and error.details["window"]["servers"]


def test_conf_file_outlives_a_restart(lb):
    text = lb.conf.read_bytes()
    lb.conf.chmod(0o640)
    result = change([lb.socket], {"name": "green1", "weight": 70}, {"name": "blue2", "state": "maint", "weight": 3},
                    conf_file=[str(lb.conf)], haproxy_executable=str(lb.command))
    conf = result["conf_files"][0]
    assert conf["changed"] and conf["validated"] and open(conf["backup_file"], "rb").read() == text
    assert stat.S_IMODE(lb.conf.stat().st_mode) == stat.S_IMODE(os.stat(conf["backup_file"]).st_mode) == 0o640
    expected = text.replace(b" weight 0 check", b" weight 70 check").replace(
        b" weight 100 check # the second", b" weight 3 check disabled # the second")
    assert lb.conf.read_bytes() == expected
    assert "secretword" not in json.dumps(result["diff"]) and "weight 70" in json.dumps(result["diff"])
    lb.reload()
    assert lb.weights()["green1"][0] == 70
    again = change([lb.socket], {"name": "green1", "weight": 70}, {"name": "blue2", "state": "maint"},
                   conf_file=[str(lb.conf)])
    assert not again["changed"] and again["conf_files"][0]["backup_file"] is None
    change([lb.socket], {"name": "green1", "weight": 0}, {"name": "blue2", "state": "ready", "weight": 100},
           conf_file=[str(lb.conf)], backup=False)
    assert lb.conf.read_bytes() == text


def test_conf_file_check_mode_and_problems(lb):
    text = lb.conf.read_bytes()
    result = change([lb.socket], {"name": "green1", "weight": 70}, conf_file=[str(lb.conf)], check=True,
                    haproxy_executable=str(lb.command))
    assert result["conf_files"][0]["changed"] and result["conf_files"][0]["validated"]
    assert lb.conf.read_bytes() == text and lb.weights()["green1"][0] == 0
    lb.conf.write_bytes(text + b"\nnonsense here\n")
    error = fails([lb.socket], {"name": "green1", "weight": 70}, conf_file=[str(lb.conf)],
                  haproxy_executable=str(lb.command))
    assert "as it is now" in str(error) and lb.weights()["green1"][0] == 0
    lb.conf.write_bytes(text.replace(b"server green1", b"server-template green 1"))
    error = fails([lb.socket], {"name": "green1", "weight": 70}, conf_file=[str(lb.conf)])
    assert "server-template" in str(error)
    lb.conf.write_bytes(text.replace(b"server green1", b"server green2"))
    assert "no line 'server green1'" in str(fails([lb.socket], {"name": "green1", "weight": 70},
                                                  conf_file=[str(lb.conf)]))


def test_info_tells_whether_a_file_could_be_kept_up_to_date(lb):
    (good,) = info(lb.socket, conf_file=[str(lb.conf)])["conf_files"]
    assert (good["error"], good["problems"]) == (None, []) and {"kong/blue1", "kong/green1"} <= set(good["servers"])
    lb.conf.write_bytes(lb.conf.read_bytes().replace(b"server green1", b"server-template green 1"))
    lost = "/nonexistent/haproxy.cfg"
    template, missing = info(lb.socket, conf_file=[str(lb.conf), lost])["conf_files"]
    assert "server-template" in template["problems"][0] and missing["error"] == lost + " cannot be read: No such file or directory"
    assert not missing["read"] and missing["servers"] == []


def test_a_file_that_cannot_be_written_undoes_the_change(lb, monkeypatch):
    def refuse(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_haproxy_local, "replace", refuse)
    error = fails([lb.socket], {"name": "green1", "weight": 70}, state_file=[str(lb.state)])
    assert "No space left" in str(error) and error.details["put_back"] and lb.weights()["green1"][0] == 0


# Reading

def test_info(lb, make):
    two = make("b", more="backend api\n    stick-table type ip size 1k expire 5m\n    stick on src\n"
                         "    server blue1 127.0.0.1:{blue1} slowstart 30s check port {blue2}")
    result = info(lb.socket, two.tcp)
    assert [view["level"] for view in result["haproxy"]] == ["admin", "admin"]
    assert result["haproxy"][0]["state_file"] == str(lb.state) and result["haproxy"][1]["state_file"] is None
    assert result["haproxy"][0]["pid"] == lb.process.pid
    assert result["haproxy"][0]["backends"]["kong"]["load_state"] == "global"
    assert result["haproxy"][1]["backends"]["api"]["stick"] == {"type": "ip", "size": 1024, "used": 0}
    server = info(two.socket, servers=["api/blue1"])["haproxy"][0]["servers"]
    assert len(server) == 1 and server[0]["checked"]
    assert server[0]["check_port"] in (int(two.conf.read_text().split("check port ")[1].split()[0]), None)
    with pytest.raises(HaproxyError):
        info(lb.socket, "/nonexistent")
    report = info("/nonexistent", lb.socket, on_error="report", sessions=True)
    assert len(report["problems"]) == 1 and len(report["haproxy"]) == 1 and report["sessions"] == []
    # A socket that may only look is enough to look.
    assert info(f"{lb.folder}/user.sock")["haproxy"][0]["servers"][0]["weight"] == 100


def test_slowstart_is_no_difference(make):
    one = make(servers=["server blue1 127.0.0.1:{blue1} weight 100 check",
                        "server green1 127.0.0.1:{green1} weight 100 check slowstart 60s disabled"])
    result = change([one.socket], {"name": "green1", "state": "ready", "weight": 200}, wait={"up": ["green1"]})
    server = [entry for entry in result["haproxy"][0]["servers"] if entry["name"] == "green1"][0]
    assert server["weight"] == 200 and server["effective_weight"] < 200 and server["slowstart"] < 100
    assert not change([one.socket], {"name": "green1", "weight": 200})["changed"]


# Nobody notices

def test_no_request_is_lost_on_the_way_from_blue_to_green(make, origins):
    """Two load balancers, weights, a reload of each, drain, maintenance, and the origins killed after it."""
    one, two = make("a"), make("b")
    sockets = [one.socket, two.socket]
    load = Load(one.folder, [one, two])
    blue = ["blue1", "blue2"]
    state = {"state_file": ["running"]}
    change(sockets, {"name": "green1", "state": "ready", "weight": 0}, wait={"up": ["green1"]}, **state)
    for percent in (10, 50, 100):
        change(sockets, *({"name": name, "weight": 100 - percent} for name in blue),
               {"name": "green1", "weight": percent}, observe=1, **state)
        for each in (one, two):
            each.reload()
        assert one.weights()["green1"][0] == two.weights()["green1"][0] == percent
    for name in blue:
        result = change(sockets, {"name": name, "state": "maint"}, wait={"sessions_zero": [name], "timeout": 20}, **state)
        assert result["changed"]
        origins[name].stop()
    for each in (one, two):
        each.reload()
    time.sleep(1)
    change(sockets, {"name": "green1", "weight": 256}, **state)
    figures = load.finish()
    assert figures["failed"] == 0, "\n".join(str(failure) for failure in figures["failures"][:5])
    assert figures["requests"] > 500
    assert one.weights()["blue1"] == (0, 1)


# As modules

def module(name, arguments, check=False):
    """Run a module the way Ansible's own test tools do."""
    arguments = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    code = (
        "import sys, runpy\n"
        "from ansible.module_utils import basic\n"
        "basic._ANSIBLE_ARGS = sys.stdin.buffer.read()\n"
        "basic._ANSIBLE_PROFILE = 'legacy'\n"
        f"runpy.run_module('ansible_collections.bluegreen.kong.plugins.modules.{name}', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), capture_output=True,
        text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")}, timeout=60)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_modules(lb):
    arguments = {"sockets": lb.socket, "servers": [{"name": "green1", "weight": 5}], "conf_file": str(lb.conf),
                 "haproxy_executable": str(lb.command), "observe": 0.1,
                 "observe_stop": {"watch": ["green1"], "against": ["blue1"]}}
    result = module("haproxy_server", arguments, check=True)
    assert result["changed"] and lb.weights()["green1"][0] == 0
    result = module("haproxy_server", arguments)
    assert result["changed"] and lb.weights()["green1"][0] == 5 and result["window"]["stopped"] is None
    assert "green1: weight 5" in result["diff"][0]["after"]
    assert not module("haproxy_server", arguments)["changed"]
    failed = module("haproxy_server", {"sockets": lb.socket, "servers": [{"name": "green", "weight": 500}]})
    assert failed["failed"] and len(failed["problems"]) == 2 and failed["changed"] is False
    found = module("haproxy_server_info", {"sockets": lb.socket, "servers": "green1"})
    assert found["haproxy"][0]["servers"][0]["weight"] == 5 and not found["changed"]
