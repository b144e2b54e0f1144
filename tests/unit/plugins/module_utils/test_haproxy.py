# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy's words, as HAProxy 2.2, 2.6, 2.8 and 3.5-dev5 printed them (rows/haproxy.json), and what is made of them."""

import json
import pathlib
import socket
import threading
import types

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _files,
    _haproxy_fleet,
    _haproxy_local,
    _haproxy_wait,
)
from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy as haproxy
from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy_conf as conf
from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy_server as server_module
from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy import HaproxyError
from hypothesis import given
from hypothesis import strategies as st

ROWS = json.loads((pathlib.Path(__file__).parent / "rows" / "haproxy.json").read_text())
VERSIONS = sorted(ROWS)


class Printed:
    """A runtime socket that answers what a HAProxy once printed."""

    path = None
    name = "lb"

    def __init__(self, version, **replies):
        self.replies = {**ROWS[version], **{key.replace("_", " "): value for key, value in replies.items()}}

    def ask(self, commands):
        return [self.replies[command].strip("\n") for command in commands]


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


def view_of(version="2.8"):
    return haproxy.snapshot(Printed(version))


def servers_of(view):
    return {entry["name"]: entry for entry in view["servers"]}


# What HAProxy prints

@pytest.mark.parametrize("name, expected", [
    ("up", {"admin_state": "ready", "running": True, "status": "UP", "check_passed": True, "weight": 100,
            "initial_weight": 100, "effective_weight": 100, "sessions": 2, "checked": True, "backup": False,
            "address": "127.0.0.1", "port": 18101, "cookie": "c1"}),
    ("down", {"admin_state": "ready", "running": False, "status": "DOWN", "check_passed": False}),
    ("drained", {"admin_state": "drain", "forced_state": "drain", "running": True, "status": "DRAIN",
                 "check_passed": True}),
    ("maint", {"admin_state": "maint", "forced_state": "maint", "running": False, "status": "MAINT"}),
    # Made ready 0.3 s ago: HAProxy takes it for up, no check has passed.
    ("woken", {"admin_state": "ready", "forced_state": "ready", "running": True, "check_passed": False}),
    ("plain", {"status": "no check", "checked": False, "running": True, "weight": 50, "check_port": None}),
    ("spare", {"backup": True, "running": True, "weight": 1}),
    ("slow", {"admin_state": "ready", "running": True, "weight": 100}),
    ("agent", {"agent": True}),
    ("follower", {"backend": "api", "tracked": "kong/maint", "admin_state": "maint", "forced_state": "ready",
                  "checked": False}),
])
def test_servers(version, name, expected):
    found = servers_of(view_of(version))[name]
    assert {key: found[key] for key in expected} == expected


def test_the_rest_of_a_snapshot(version):
    view = view_of(version)
    assert (view["socket"], view["node"], view["level"], view["processes"]) == ("lb", "lb1", "admin", 1)
    assert view["version"].startswith(version.split("-")[0]) and view["pid"] > 1
    assert (view["started"] is None) == (version == "2.2")
    kong, api = view["backends"]["kong"], view["backends"]["api"]
    assert (kong["algo"], kong["weights"], kong["cookie"], kong["stick"]) == ("roundrobin", "dynamic", "SRV", None)
    assert (api["algo"], api["weights"], api["cookie"]) == ("source", "unknown", None)
    assert api["stick"] == {"type": "ip", "size": 1024, "used": 0}
    counters = servers_of(view)["up"]["counters"]
    assert counters["hrsp_2xx"] == 5 and counters["stot"] == 7 and counters["econ"] == 0
    assert "dreq" not in counters  # empty for servers
    assert servers_of(view)["slow"]["effective_weight"] < 100 and servers_of(view)["slow"]["slowstart"] < 100


def test_check_port_is_known_from_2_4_on(version):
    spare = servers_of(view_of(version))["spare"]
    assert (spare["check_addr"], spare["check_port"]) == (
        (None, None) if version == "2.2" else ("127.0.0.1", 18102))


def test_sessions(version):
    found = haproxy.parse_sessions(ROWS[version]["show sess"])
    assert [(entry["backend"], entry["server"], entry["frontend"]) for entry in found] == [("kong", "up", "gateway")] * 2
    assert all(entry["source"].startswith("127.0.0.1:") and entry["age"] for entry in found)


def test_only_an_empty_reply_is_a_success(version):
    rows = ROWS[version]
    assert rows["set server kong/up weight 90"] == ""
    for command in ("set server kong/nobody weight 1", "set server nowhere/up weight 1", "set server kong/up weight 257",
                    "set server api/follower weight 7"):
        assert rows[command].strip()


@pytest.mark.parametrize("replies, words", [
    ({"show_stat -1_6 -1": "Permission denied"}, None),
    ({"show_info": "Name: HAProxy\nVersion: 1.8.30\n"}, "too old"),
    ({"show_servers_state": "Permission denied\n"}, "level admin"),
    ({"show_servers_state": "Unknown command.\n"}, "2.2 or newer"),
    ({"show_servers_state": "2\n# what\n"}, "was answered with"),
])
def test_a_socket_that_does_not_do(replies, words):
    with pytest.raises(HaproxyError) as caught:
        haproxy.snapshot(Printed("2.8", **{key if words else "show stat -1 6 -1": value
                                           for key, value in replies.items()}))
    assert "lb: " in str(caught.value) and (words or "level admin") in str(caught.value)


def test_a_process_without_backends():
    head = ROWS["2.8"]["show stat -1 6 -1"].splitlines()[0]
    with pytest.raises(HaproxyError, match="no backend"):
        haproxy.snapshot(Printed("2.8", **{"show stat -1 6 -1": head + "\n"}))


@pytest.mark.parametrize("bits, forced, effective", [
    (0, "ready", "ready"), (1, "maint", "maint"), (2, "ready", "maint"), (4, "ready", "ready"), (5, "maint", "maint"),
    (8, "drain", "drain"), (9, "maint", "maint"), (16, "ready", "drain"), (32, "ready", "maint"), (64, "ready", "maint"),
    (12, "drain", "drain"),
])
def test_admin_states(bits, forced, effective):
    assert (haproxy.forced_state(bits), haproxy.effective_state(bits)) == (forced, effective)


@pytest.mark.parametrize("status, check, health, up", [
    ("UP", "L7OK", 4, True), ("UP", "* L7OK", 4, True), ("UP 2/3", "L7OK", 2, False), ("UP", "INI", 4, False),
    ("UP", "", 4, False), ("DOWN", "L4CON", 0, False), ("DOWN 1/2", "L7OK", 1, False), ("MAINT", "", 0, False),
    ("DRAIN", "L7OK", 4, True), ("no check", "", 0, False), ("NOLB", "L7STS", 4, False), ("UP", "L4OK", 4, True),
])
def test_is_up(status, check, health, up):
    row = {"status": status, "check_status": check, "check_rise": "2", "check_fall": "3", "check_health": str(health)}
    assert _haproxy_wait.is_up(row) is up


# Sockets

@pytest.mark.parametrize("address, path, host, port", [
    ("/run/haproxy/admin.sock", "/run/haproxy/admin.sock", None, None),
    ("unix@/run/x", "/run/x", None, None),
    ("10.0.0.1:9999", None, "10.0.0.1", 9999),
    ("ipv4@10.0.0.1:9999", None, "10.0.0.1", 9999),
    ("[::1]:9999", None, "::1", 9999),
    ("lb1.example.com:1", None, "lb1.example.com", 1),
])
def test_addresses(address, path, host, port):
    runtime = haproxy.Runtime(address)
    assert (runtime.path, runtime.host, runtime.port) == (path, host, port)


@pytest.mark.parametrize("address", ["", "relative/path", "host", "host:", "host:0", "host:65536", "host:http"])
def test_addresses_that_are_none(address):
    with pytest.raises(HaproxyError, match="neither an absolute path nor host:port"):
        haproxy.Runtime(address)


@pytest.mark.parametrize("chunks, replies", [
    ([b"\n> ", b"one\n\n> \n> "], ["one", ""]),
    ([b"\n> one\n\n", b"> \n>", b" "], ["one", ""]),
    ([b"\n> one\n\n> "], None),
    ([b"HTTP/1.1 400 Bad request\r\n\r\n"], None),
])
def test_replies_come_in_pieces_or_not_at_all(chunks, replies):
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        channel = listener.accept()[0]
        with channel:
            channel.recv(1000)
            for chunk in chunks:
                channel.sendall(chunk)
                channel.settimeout(0.02)
                try:
                    channel.recv(1)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    runtime = haproxy.Runtime("127.0.0.1:%d" % listener.getsockname()[1], 2)
    try:
        if replies is None:
            with pytest.raises(haproxy.SocketError):
                runtime.ask(["a", "b"])
        else:
            assert runtime.ask(["a", "b"]) == replies
    finally:
        thread.join()
        listener.close()


def test_parallel_keeps_the_order_and_passes_defects_on():
    def work(item):
        if item == 2:
            raise HaproxyError("two")
        return item * 10

    answers = haproxy.parallel(work, [1, 2, 3])
    assert [answer for answer, _error in answers] == [10, None, 30] and str(answers[1][1]) == "two"
    with pytest.raises(ZeroDivisionError):
        haproxy.parallel(lambda item: 1 // item, [1, 0])


@pytest.mark.parametrize("problems, message", [
    ("one.", "one."), (["one."], "one."), (["one.", "two."], "2 problems: (1) one. (2) two."),
])
def test_error(problems, message):
    assert HaproxyError(problems).result()["msg"] == message


# What is asked for

def request(name, weight=None, state=None, backend=None):
    return {"name": name, "weight": weight, "state": state, "backend": backend}


def test_resolve():
    targets, problems = _haproxy_fleet.resolve([view_of(), view_of("2.2")], [
        request("up", weight=0), request("down", state="drain", backend="kong"), request("up", state="ready")])
    assert problems == []
    assert [(target.socket, target.key, target.end_weight(), target.end_state(), target.differs())
            for target in targets] == [
        (0, ("kong", "down"), 100, "drain", True), (0, ("kong", "up"), 0, "ready", True),
        (1, ("kong", "down"), 100, "drain", True), (1, ("kong", "up"), 0, "ready", True)]


@pytest.mark.parametrize("requests, words", [
    ([request("nobody", weight=1)], "no server 'nobody' in any backend"),
    ([request("up", weight=1, backend="api")], "no server 'up' in backend 'api'. Servers are: follower"),
    ([request("up", weight=1, backend="nowhere")], "no backend 'nowhere'. Backends are: api, kong"),
    ([request("up", weight=257)], "257 is not between"),
    ([request("up", weight=-1)], "-1 is not between"),
    ([request("up", weight=1), request("up", weight=2)], "two values for weight: 1 and 2"),
    ([request("up", state="maint"), request("up", state="ready", backend="kong")], "two values for state"),
])
def test_resolve_problems(requests, words):
    problems = _haproxy_fleet.resolve([view_of()], requests)[1]
    assert len(problems) == 1 and words in problems[0]


@pytest.mark.parametrize("steps, expected", [
    ([("b", 100, "ready", 0, "ready"), ("g", 0, "ready", 100, "ready")], ["g weight 100", "b weight 0"]),
    ([("b", 100, "ready", 100, "drain"), ("g", 0, "maint", 100, "ready")],
     ["g weight 100", "g state ready", "b state drain"]),
    # It wakes up without the weight that it is not to have.
    ([("g", 100, "maint", 0, "ready")], ["g weight 0", "g state ready"]),
    ([("b", 100, "drain", 100, "maint")], ["b state maint"]),
    ([("b", 5, "ready", 5, "ready")], []),
])
def test_commands(steps, expected):
    sent = _haproxy_fleet.commands([(("k", name), *rest) for name, *rest in steps])
    assert sent == ["set server k/" + command for command in expected]


@pytest.mark.parametrize("requests, awaited, refused", [
    ([request("up", weight=0)], [], []),
    ([request("up", weight=0), request("plain", state="drain"), request("woken", weight=0), request("slow", weight=0),
      request("agent", weight=0)], [], []),  # the backup server is left
    ([request(name, state="drain") for name in ("up", "plain", "woken", "spare", "slow", "agent")], [], ["kong"]),
    ([request(name, weight=0) for name in ("up", "plain", "woken", "spare", "slow", "agent")], [], ["kong"]),
    # `down` keeps its weight, but is down, unless it is waited for. `maint` would be up on HAProxy's word alone.
    ([request(name, weight=0) for name in ("up", "plain", "woken", "spare", "slow", "agent")], ["down"], []),
    ([request("maint", state="ready")] + [request(name, weight=0) for name in (
        "up", "plain", "woken", "spare", "slow", "agent")], [], ["kong"]),
    ([request("maint", state="ready")] + [request(name, weight=0) for name in (
        "up", "plain", "woken", "spare", "slow", "agent")], ["maint"], []),
])
def test_no_backend_without_a_usable_server(requests, awaited, refused):
    view = view_of()
    targets, problems = _haproxy_fleet.resolve([view], requests)
    assert problems == []
    found = _haproxy_fleet.without_usable([view], targets, {(0, "kong", name) for name in awaited})
    assert len(found) == len(refused) and all("backend '%s'" % name in found[0] for name in refused)


def test_a_backend_that_follows_is_counted_too():
    view = view_of()
    follower = servers_of(view)["follower"]
    follower.update(tracked="kong/up", admin_state="ready", running=True)
    targets = _haproxy_fleet.resolve([view], [request("up", state="maint")])[0]
    assert "backend 'api'" in _haproxy_fleet.without_usable([view], targets, set())[0]


def test_a_backend_that_has_none_already_may_be_changed():
    view = view_of()
    targets = _haproxy_fleet.resolve([view], [request("follower", weight=0)])[0]
    assert _haproxy_fleet.without_usable([view], targets, set()) == []


def test_a_server_that_does_not_come_up_is_told_with_its_address():
    listing = "# pxname,svname,status,check_status,last_chk,addr\nkong,new1,DOWN,L4CON,Connection refused,10.0.2.11:8000\n"
    fleet = types.SimpleNamespace(runtimes=[types.SimpleNamespace(name="/s", ask=lambda commands: [listing])])
    (problem,) = _haproxy_wait.wait_up(fleet, [(0, "kong", "new1")], 0)
    assert problem == "/s: kong/new1 at 10.0.2.11:8000 is not UP after 0 s: DOWN, last check L4CON (Connection refused)."


def test_leader():
    view = view_of()
    assert _haproxy_wait.leader(view, (0, "api", "follower")) == (0, "kong", "maint")
    assert _haproxy_wait.leader(view, (0, "kong", "up")) == (0, "kong", "up")
    servers_of(view)["maint"]["tracked"] = "api/follower"
    _haproxy_wait.leader(view, (0, "api", "follower"))  # ends, though they follow each other


def test_same_process():
    one, two = view_of("2.8"), view_of("2.8")
    assert len(_haproxy_fleet.same_process([one, None, two])) == 1
    two["started"] += 1
    assert _haproxy_fleet.same_process([one, two]) == []
    assert _haproxy_fleet.same_process([view_of("2.2"), view_of("2.2")]) == []


def test_select():
    view = view_of()
    cut = haproxy.select(view, servers=["kong/up", "follower"])
    assert sorted(servers_of(cut)) == ["follower", "up"] and sorted(cut["backends"]) == ["api", "kong"]
    cut = haproxy.select(view, backends={"api"})
    assert sorted(servers_of(cut)) == ["follower"] and sorted(cut["backends"]) == ["api"] and "raw" not in cut
    assert len(haproxy.select(view)["servers"]) == len(view["servers"])


# Counters

def reading(pid, uptime, **counters):
    row = {"pxname": "kong", "svname": "up"}
    row.update({key: str(value) for key, value in counters.items()})
    return {"Pid": str(pid), "Uptime_sec": str(uptime), "Start_time_sec": "5"}, [row]


@pytest.mark.parametrize("readings, total, reset", [
    ([reading(1, 10, stot=5), reading(1, 11, stot=7), reading(1, 12, stot=9)], 4, False),
    ([reading(1, 10, stot=5), reading(1, 10, stot=5)], 0, False),
    # A reload: what the new process has counted is added.
    ([reading(1, 10, stot=5), reading(1, 11, stot=7), reading(2, 0, stot=3), reading(2, 1, stot=4)], 6, True),
    ([reading(2, 10, stot=5), reading(2, 0, stot=8)], 8, True),
    # Somebody cleared the counters.
    ([reading(1, 10, stot=500), reading(1, 11, stot=3)], 3, True),
    ([reading(1, 10, stot=5, econ=1), reading(1, 11, stot=6, econ=0)], 6, True),
])
def test_meter(readings, total, reset):
    meter = _haproxy_wait.Meter({"kong"})
    for one, rows in readings:
        meter.add("lb", one, rows)
    servers = meter.result()[0]
    assert (servers[0]["counters"]["stot"], servers[0]["reset"]) == (total, reset)


@pytest.mark.parametrize("green, blue, budget, minimum, stopped", [
    ({"stot": 100, "hrsp_5xx": 5}, {"stot": 100, "hrsp_5xx": 5}, 0, 20, False),  # the application's own
    ({"stot": 100, "hrsp_5xx": 6}, {"stot": 100, "hrsp_5xx": 5}, 0, 20, True),
    ({"stot": 100, "hrsp_5xx": 6}, {"stot": 100, "hrsp_5xx": 5}, 0.02, 20, False),
    ({"stot": 19, "hrsp_5xx": 19}, {"stot": 100}, 0, 20, False),
    ({"stot": 0, "econ": 30}, {"stot": 100}, 0, 20, True),
    ({"stot": 0, "wredis": 30}, {"stot": 100}, 0, 20, True),
    ({"stot": 0}, {"stot": 0}, 0, 0, False),
    ({"stot": 1, "chkdown": 1}, {"stot": 100}, 1, 20, True),
    ({"stot": 1}, {"stot": 100, "chkdown": 1}, 1, 20, False),
    ({"stot": 50, "eresp": 2, "hrsp_5xx": 2}, {"stot": 100, "hrsp_5xx": 3}, 0.01, 20, False),
])
def test_breach(green, blue, budget, minimum, stopped):
    servers = [{"backend": "kong", "name": "green", "counters": green}, {"backend": "kong", "name": "blue", "counters": blue}]
    stop = {"watch": ["green"], "against": ["kong/blue"], "budget": budget, "minimum": minimum}
    assert bool(_haproxy_wait.breach(servers, stop)) is stopped


# Processes

def test_processes_that_are_not_haproxy():
    assert _haproxy_local.running_files(1 << 30) == [] and _haproxy_local.older_processes(None) == []


# Files

def test_state_file(tmp_path):
    path = str(tmp_path / "state")
    text = ROWS["2.8"]["show servers state"]
    assert _haproxy_local.write_state(path, text) is True and pathlib.Path(path).read_text() == text
    # Times and check results change all the time; they are no reason to write.
    assert _haproxy_local.write_state(path, text.replace("100 100 2 15 3", "100 100 9 15 3")) is False
    assert _haproxy_local.write_state(path, text.replace("kong 1 up 127.0.0.1 2 0 100", "kong 1 up 127.0.0.1 2 0 50")) is True
    pathlib.Path(path).write_text("what is this")
    pathlib.Path(path).chmod(0o600)
    assert _haproxy_local.write_state(path, text) is True and pathlib.Path(path).stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    with pytest.raises(HaproxyError, match="cannot be written"):
        _haproxy_local.write_state(str(tmp_path / "no" / "state"), text)


def test_replace_follows_links_and_keeps_bytes(tmp_path):
    (tmp_path / "real").write_bytes(b"\xff old")
    (tmp_path / "link").symlink_to("real")
    text = _files.read_text(str(tmp_path / "link")).replace("old", "new")
    _files.replace(str(tmp_path / "link"), text)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"\xff new"


@pytest.mark.parametrize("given_, state_files, paths, words", [
    ([], [None], [None], None),
    (["running"], ["/tmp/x"], ["/tmp/x"], None),
    (["running"], [None], [None], "server-state-file"),
    (["/tmp/x"], [None], ["/tmp/x"], None),
    (["/tmp/x"], [None, None], [None, None], "1 paths for 2 sockets"),
    (["relative"], [None], ["relative"], "not an absolute path"),
    (["/nonexistent/x"], [None], ["/nonexistent/x"], "does not exist"),
])
def test_places_of_state_files(given_, state_files, paths, words):
    views = [{"socket": "lb", "state_file": path} for path in state_files]
    found, problems = server_module.place_state_files(given_, views)
    assert found == paths and len(problems) == (words is not None) and (words is None or words in problems[0])


# haproxy.cfg

@pytest.mark.parametrize("line, values", [
    ("  server a 10.0.0.1:80  weight\t5 # x", ["server", "a", "10.0.0.1:80", "weight", "5"]),
    ("server 'a b' \"c d\"", ["server", "a b", "c d"]),
    (r"server a\ b c\#d \"e", ["server", "a b", "c#d", '"e']),
    ("server a b#c", ["server", "a", "b"]),
    (r'''server "a\"b" '\' ''', ["server", 'a"b', "\\"]),
    ("", []), ("# all", []), ("\t\n", []),
])
def test_words(line, values):
    cut = conf.words(line)
    assert [word.value for word in cut] == values
    assert all(line[word.start:word.end].strip() == line[word.start:word.end] for word in cut)


HEAD = "defaults\n  mode http\n\nbackend kong\n"


@pytest.mark.parametrize("before, wanted, after", [
    ("  server b 1.1.1.1:80 weight 100 check\n", {"weight": 0}, "  server b 1.1.1.1:80 weight 0 check\n"),
    ("  server b 1.1.1.1:80 weight 100 check\n", {"weight": 100}, None),
    ("  server b 1.1.1.1:80 check\n", {"weight": 7}, "  server b 1.1.1.1:80 check weight 7\n"),
    ("  server b 1.1.1.1:80 check\n", {"weight": 1}, None),
    ("\tserver b 1.1.1.1:80\tcheck   # weight 3\r\n", {"weight": 7}, "\tserver b 1.1.1.1:80\tcheck weight 7   # weight 3\r\n"),
    ("  server b 1.1.1.1:80", {"weight": 7}, "  server b 1.1.1.1:80 weight 7"),
    ("  server b 1.1.1.1:80 weight 5 weight 6\n", {"weight": 7}, "  server b 1.1.1.1:80 weight 5 weight 7\n"),
    ('  server b 1.1.1.1:80 weight "$W" check\n', {"weight": 7}, "  server b 1.1.1.1:80 weight 7 check\n"),
    ("  server b 1.1.1.1:80 cookie weight check\n", {"weight": 7}, "  server b 1.1.1.1:80 cookie weight check weight 7\n"),
    ("  server b 1.1.1.1:80 cookie disabled\n", {"disabled": True}, "  server b 1.1.1.1:80 cookie disabled disabled\n"),
    ("  server b 1.1.1.1:80 check\n", {"disabled": True}, "  server b 1.1.1.1:80 check disabled\n"),
    ("  server b 1.1.1.1:80 disabled check\n", {"disabled": False}, "  server b 1.1.1.1:80 check\n"),
    ("  server b 1.1.1.1:80 check disabled # x\n", {"disabled": False}, "  server b 1.1.1.1:80 check # x\n"),
    ("  server b 1.1.1.1:80 disabled enabled\n", {"disabled": True}, "  server b 1.1.1.1:80 disabled\n"),
    ("  server b 1.1.1.1:80 disabled\n", {"disabled": True}, None),
    ("  server b 1.1.1.1:80 check disabled\n", {"disabled": False, "weight": 9}, "  server b 1.1.1.1:80 check weight 9\n"),
    ("  server b 1.1.1.1:80 weight 3 disabled\n", {"disabled": False, "weight": 9}, "  server b 1.1.1.1:80 weight 9\n"),
    # What default-server lines give is taken into account, in order.
    ("  default-server weight 7\n  server b 1.1.1.1:80\n", {"weight": 7}, None),
    ("  default-server weight 7\n  server b 1.1.1.1:80\n", {"weight": 1},
     "  default-server weight 7\n  server b 1.1.1.1:80 weight 1\n"),
    ("  server b 1.1.1.1:80\n  default-server weight 7\n", {"weight": 1}, None),
    ("  default-server disabled\n  server b 1.1.1.1:80\n", {"disabled": True}, None),
    ("  default-server disabled\n  server b 1.1.1.1:80\n", {"disabled": False},
     "  default-server disabled\n  server b 1.1.1.1:80 enabled\n"),
    ("  default-server disabled\n  server b 1.1.1.1:80 enabled\n", {"disabled": True},
     "  default-server disabled\n  server b 1.1.1.1:80\n"),
    ("  server 'b' 1.1.1.1:80 weight 1\n", {"weight": 2}, "  server 'b' 1.1.1.1:80 weight 2\n"),
    ("  server bb 1.1.1.1:80 weight 1\n  server b 1.1.1.1:80 weight 1\n", {"weight": 2},
     "  server bb 1.1.1.1:80 weight 1\n  server b 1.1.1.1:80 weight 2\n"),
])
def test_edit(before, wanted, after):
    text, changes, found, problems = conf.edit(
        HEAD + before, "f", {("kong", "b"): {"weight": None, "disabled": None, **wanted}})
    assert text == HEAD + (before if after is None else after)
    assert (len(changes), found, problems) == (after is not None, {("kong", "b")}, [])
    again = conf.edit(text, "f", {("kong", "b"): {"weight": None, "disabled": None, **wanted}})
    assert again[0] == text and again[1] == []


@pytest.mark.parametrize("text, found, words", [
    ("backend other\n server b 1.1.1.1:80\n", 0, None),
    ("peers kong\n server b 1.1.1.1:80\n", 0, None),
    ("frontend kong\n bind :80\nbackend x\n server b 1.1.1.1:80\n", 0, None),
    ("listen kong\n server b 1.1.1.1:80\n", 1, None),
    ("backend kong from base\n server b 1.1.1.1:80\n", 1, None),
    ("backend kong\n server-template b 3 1.1.1.1:80\n", 0, None),
    ("backend kong\n server b 1.1.1.1:80\n server b 1.1.1.1:81\n", 1, "two server lines, 2 and 3"),
    ("backend kong\n server-template '' b 1.1.1.1:80\n", 0, None),
])
def test_edit_finds(text, found, words):
    answer = conf.edit(text, "f", {("kong", "b"): {"weight": 2, "disabled": None}})
    assert len(answer[2]) == found and len(answer[3]) == (words is not None) and (words is None or words in answer[3][0])


@pytest.mark.parametrize("numbers, name, made", [
    ("3", "b3", True), ("3", "b4", False), ("2-4", "b4", True), ("2-4", "b1", False), ("x", "b1", False)])
def test_server_template_is_explained(numbers, name, made):
    text = "backend kong\n server-template b %s 1.1.1.1:80\n" % numbers
    new, _changes, found, problems = conf.edit(text, "f", {("kong", name): {"weight": 2, "disabled": None}})
    assert new == text and bool(found) is made and bool(problems) is made
    assert not made or "f line 2: kong/%s comes from a server-template line" % name in problems[0]


def test_defaults_are_taken_over():
    text = ("defaults a\n  default-server weight 5\n  hash-type consistent\n  load-server-state-from-file global\n"
            "defaults b\n  default-server disabled\n"
            "backend one from a\n  balance uri\n  server s 1.1.1.1:80\n"
            "backend two\n  hash-type map-based sdbm\n  server s 1.1.1.1:80 on-marked-down shutdown-sessions\n")
    assert conf.backend_settings([text]) == {
        "one": {"hash_type": "consistent", "load_state": "global", "cuts_when_down": False},
        "two": {"hash_type": "map-based", "load_state": None, "cuts_when_down": True}}
    assert conf.edit(text, "f", {("one", "s"): {"weight": 5, "disabled": False}})[1] == []
    changed = conf.edit(text, "f", {("two", "s"): {"weight": 1, "disabled": False}})[1]
    assert [(number, new.strip()) for number, _old, new in changed] == [
        (12, "server s 1.1.1.1:80 on-marked-down shutdown-sessions enabled")]


def test_what_the_files_tell(tmp_path):
    (tmp_path / "a.cfg").write_text("global\n  server-state-base /var/lib\n  server-state-file \"ha/state\"\n")
    (tmp_path / "b.cfg").write_text("backend api\n  balance source\n  server follower 1.1.1.1:80\n")
    view = view_of()
    _haproxy_local.learn_from_files(view, [str(tmp_path / "a.cfg"), str(tmp_path / "b.cfg"), str(tmp_path / "gone.cfg")])
    assert view["state_file"] == "/var/lib/ha/state"
    assert view["backends"]["api"]["weights"] == "static" and view["backends"]["api"]["load_state"] == "none"
    assert view["backends"]["kong"]["load_state"] is None


LINES = st.lists(st.sampled_from([
    "backend kong", "backend api", "defaults", "  server b 1.1.1.1:80", " server  c 1.1.1.1:80 weight 3 # hm",
    "  server b 1.1.1.1:80 check disabled", "\tdefault-server weight 9 disabled", "  server d x cookie weight\r", "",
    "# server b 1.1.1.1:80", "  http-request set-header a \"x # \\\" y\"", "  server b 1.1.1.1:80 weight 3 disabled \x0c",
]), max_size=12)


@given(LINES, st.integers(0, 256), st.sampled_from([True, False, None]), st.booleans())
def test_edit_leaves_everything_else_alone(lines, weight, disabled, last):
    text = "\n".join(lines) + ("\n" if last else "")
    wanted = {("kong", "b"): {"weight": weight, "disabled": disabled}}
    new, changes, _found, _problems = conf.edit(text, "f", wanted)
    numbers = {number for number, _before, _after in changes}
    before, after = text.split("\n"), new.split("\n")
    assert len(before) == len(after)
    assert all(one == two for number, (one, two) in enumerate(zip(before, after), 1) if number not in numbers)
    assert conf.edit(new, "f", wanted)[0] == new


@pytest.mark.parametrize("backup_id, copies", [("run/1", 1), (None, 3)])
def test_one_copy_of_the_file_for_all_changes_of_one_run(tmp_path, monkeypatch, backup_id, copies):
    path = tmp_path / "haproxy.cfg"
    path.write_text("first", encoding="utf-8")
    for number, text in enumerate(("second", "third", "fourth")):
        monkeypatch.setattr(server_module.os, "getpid", lambda number=number: number)
        files = server_module.Conf([str(path)], None, None, True, backup_id, [])
        assert files.load() == []
        files.commit({str(path): (text, [])})
    kept = sorted(tmp_path.glob("haproxy.cfg.*~"))
    assert len(kept) == copies and kept[0].read_text(encoding="utf-8") == "first"
    assert path.read_text(encoding="utf-8") == "fourth"
    if backup_id:
        assert files.report()[0]["backup_file"] == str(tmp_path / "haproxy.cfg.run_1~")
