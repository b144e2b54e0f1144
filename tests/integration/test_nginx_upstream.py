# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx_upstream against a real nginx, with origins and a load; no Kong, no database."""

import http.client
import os
import signal
import threading
import time

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _nginx
from ansible_collections.bluegreen.kong.plugins.module_utils._lb import Job, LbError
from bed.nginx import EXECUTABLE, Nginx
from bed.process import end, environment, members, wait_for
from haproxy_rig import Load, Origin, free_port

pytestmark = pytest.mark.skipif(not EXECUTABLE, reason="needs nginx")
NAMES = ("blue1", "blue2", "green1")


class Rig(Nginx):
    """An nginx in front of three origins, and runs of the module's code on it."""

    def __init__(self, folder, origins):
        self.origins = origins
        servers = [(name, "127.0.0.1", origins[name].port, 0 if name == "green1" else 100) for name in NAMES]
        super().__init__("lb1", folder / "lb1", "127.0.0.1", servers, environment(folder / "lb1"), workers=2, port=free_port())
        self.write()
        self.start()

    def named(self, name):
        """What the module calls an origin."""
        return f"127.0.0.1:{self.origins[name].port}"

    def change(self, check=False, wait=None, observe=0, observe_stop=None, states=None, **weights):
        """One run of the module: its result, with the servers under the names of the origins."""
        servers = [{"name": self.named(name), "weight": weight, "state": None, "backend": None} for name, weight in weights.items()]
        servers += [{"name": self.named(name), "weight": None, "state": state, "backend": None} for name, state in (states or {}).items()]
        if wait is not None:
            wait = {"up": [], "sessions_zero": [], "timeout": 10, "on_timeout": "fail", **wait}
            wait.update({key: [self.named(name) for name in wait[key]] for key in ("up", "sessions_zero")})
        if observe_stop:
            observe_stop = {"budget": 0, "minimum": 5, **observe_stop}
            observe_stop.update({key: [self.named(name) for name in observe_stop[key]] for key in ("watch", "against")})
        params = {"servers": servers, "wait": wait, "observe": observe, "observe_stop": observe_stop}
        job = Job(params, _nginx.Nginx(**self.options()), check)
        result = {**job.result(), "warnings": job.warnings}
        names = {self.named(name): name for name in NAMES}
        result["servers"] = {names[server["name"]]: server for server in result["load_balancer"]["servers"]}
        result["counted"] = {names[server["name"]]: server["counters"] for server in (result["window"] or {"servers": []})["servers"]}
        return result

    def options(self, **more):
        """The module's options; those of `also` go over them."""
        options = {"path": str(self.upstream), "upstreams": [], "command": self.command, "reload": [], "log": str(self.requests),
                   "pid_file": str(self.directory / "nginx.pid"), "timeout": 10}
        return {**options, **self.also, **more}

    also = {}

    def ask(self, path="/a", timeout=10):
        """One request: which origin answered."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            return answer.getheader("X-Bed-Server")
        finally:
            connection.close()

    def reload(self):
        """By the signal, past the code under test."""
        before = self.takes()
        os.kill(self.pid(), signal.SIGHUP)
        wait_for(lambda: self.takes() and not self.takes() & before, 10, "new workers take the requests")

    def stop(self):
        """End it, also workers that a reload left."""
        end(lambda: members(self.directory), patience=0)
        self.process.wait()


@pytest.fixture(scope="module")
def origins(tmp_path_factory):
    """Three origins for all tests."""
    folder = tmp_path_factory.mktemp("origins")
    found = {name: Origin(folder).start() for name in NAMES}
    yield found
    for origin in found.values():
        origin.stop()


@pytest.fixture
def rig(tmp_path, origins):
    """An nginx; origins that a test stops are started again."""
    tmp_path.chmod(0o755)
    nginx = Rig(tmp_path, origins)

    def later():
        (tmp_path / "changed").touch()
        return _nginx.Nginx(**nginx.options()).pending(str(tmp_path / "changed"))

    wait_for(later, 5, "what is changed from now on was changed after the workers began, as the clock of processes tells it")
    yield nginx
    nginx.stop()
    for origin in origins.values():
        if not origin.answers():
            origin.start()


@pytest.fixture
def release(tmp_path):
    """The file that ends slow requests."""
    path = tmp_path / "release"
    yield path
    path.touch()


@pytest.fixture
def slow(rig, release):
    """slow() -> an open connection on which a request is under way until `release` is there."""
    connections = []

    def begin():
        connection = http.client.HTTPConnection(rig.address, rig.port, timeout=30)
        connection.request("GET", f"/slow?until={release}")
        connections.append(connection)
        return connection

    yield begin
    for connection in connections:
        connection.close()


def refusal(call):
    """The message and details of what is refused."""
    with pytest.raises(LbError) as caught:
        call()
    return caught.value


def test_weights_move_the_traffic_and_nothing_else_of_the_file(rig):
    before = rig.text()
    result = rig.change(blue1=0, blue2=0, green1=50)
    assert result["changed"] and rig.weights() == {"blue1": 0, "blue2": 0, "green1": 50}
    assert {rig.ask() for dummy in range(20)} == {"green1"}
    back = rig.text().replace(" weight=100 down;", " weight=100;").replace(" weight=50;", " weight=100 down;")
    assert back == before
    assert [rig.upstream.name] == [path.name for path in rig.upstream.parent.iterdir()], "nothing is left beside it"
    assert result["servers"]["green1"]["weight"] == 50 and not result["load_balancer"]["pending"]


def test_a_second_time_changes_and_reloads_nothing(rig):
    rig.change(blue1=10, green1=20)
    before = rig.takes()
    result = rig.change(blue1=10, green1=20)
    assert not result["changed"] and result["diff"] == [] and rig.takes() == before


def test_one_reload_for_several_upstreams(rig):
    rig.upstream.write_text(rig.text() + rig.text().replace("upstream kong", "upstream tls"), encoding="utf-8")
    rig.reload()
    before = rig.takes()
    rig.change(blue1=5)
    assert rig.text().count(" weight=5;") == 2
    log = (rig.directory / "error.log").read_text(encoding="utf-8")
    assert log.count("(SIGHUP) received") == 2 and not rig.takes() & before, "ours, and that of this test"


def test_check_mode_changes_nothing_and_predicts(rig):
    before, workers = rig.text(), rig.takes()
    result = rig.change(check=True, blue1=0, green1=30)
    assert result["changed"] and rig.text() == before and rig.takes() == workers
    assert (result["servers"]["blue1"]["weight"], result["servers"]["green1"]["weight"]) == (0, 30)
    assert f"kong/{rig.named('green1')}: weight 30" in result["diff"][0]["after"]


def test_looking(rig, slow):
    slow()
    wait_for(lambda: any(server["sessions"] for server in rig.change()["servers"].values()), 10, "a session is seen")
    rig.origins["green1"].stop()
    result = rig.change()
    assert not result["changed"]
    assert {name: (server["weight"], server["status"], server["admin_state"]) for name, server in result["servers"].items()} == {
        "blue1": (100, "UP", "ready"), "blue2": (100, "UP", "ready"), "green1": (0, "DOWN", "drain")}
    answer = result["load_balancer"]
    assert answer["pid"] == rig.pid() and answer["upstreams"] == {"kong": {"method": "round_robin", "backup": []}}
    assert (answer["pending"], answer["changed_files"], answer["cuts_idle"], answer["counted"]) == (False, [], False, True)


def test_the_last_server_is_kept(rig):
    before = rig.text()
    assert "no server would be left" in refusal(lambda: rig.change(blue1=0, blue2=0)).message
    rig.origins["green1"].stop()
    assert "none of the servers that would be left" in refusal(lambda: rig.change(blue1=0, blue2=0, green1=1)).message
    assert rig.text() == before
    result = rig.change(check=True, states={"blue1": "maint", "blue2": "maint"})
    assert "no server would be left" in result["refused"][0] and "would be refused" in result["warnings"][0]


def test_a_server_that_cannot_be_reached_gets_nothing(rig):
    rig.origins["green1"].stop()
    before = rig.text()
    error = refusal(lambda: rig.change(green1=50, wait={"up": ["green1"], "timeout": 0}))
    assert "Not up after 0 s, no connection can be made: kong/127.0.0.1" in error.message and rig.text() == before


def test_a_backup_server_is_refused(rig):
    rig.upstream.write_text(rig.text().replace(" down;", " down backup;"), encoding="utf-8")
    assert "is a backup server" in refusal(lambda: rig.change(green1=50)).message


def test_a_configuration_that_is_broken_already(rig):
    before, conf, workers = rig.text(), rig.conf.read_text(encoding="utf-8"), rig.takes()
    rig.conf.write_text(conf.replace("keepalive_timeout 0", "keepalive_timeout none"), encoding="utf-8")
    error = refusal(lambda: rig.change(green1=50))
    assert "refuses its configuration as it is, before any change" in error.message and "keepalive_timeout" in error.message
    assert rig.text() == before and rig.takes() == workers and error.details["put_back"]


def test_a_change_that_nginx_refuses_is_put_back(rig):
    before = rig.text()
    error = refusal(lambda: rig.change(green1=10 ** 30))
    assert "refuses its configuration with the change" in error.message and "weight=1000" in error.message
    assert rig.text() == before and error.details["put_back"] and not error.details["changed"]
    assert not rig.change()["load_balancer"]["pending"]


@pytest.mark.parametrize("command, words", [
    (["true"], "has not taken over its configuration 1 s after true: workers from before still take requests"),
    (["false"], "false: exit code 1"),
    (["/nowhere/nginx"], "/nowhere/nginx cannot be run"),
])
def test_a_reload_that_does_not_happen(rig, command, words):
    before, workers = rig.text(), rig.takes()
    rig.also = {"reload": command, "timeout": 1}
    error = refusal(lambda: rig.change(green1=50))
    assert words in error.message and rig.text() == before and rig.takes() == workers
    rig.also = {}
    assert rig.change(green1=50)["changed"] and {rig.ask() for dummy in range(30)} == set(NAMES)


def test_a_file_that_nginx_has_not_read_is_brought_into_force(rig):
    rig.upstream.write_text(rig.text().replace("weight=100 down", "weight=100"), encoding="utf-8")
    assert rig.change()["load_balancer"]["pending"] and "green1" not in {rig.ask() for dummy in range(20)}
    assert rig.change(check=True, green1=100)["changed"]
    result = rig.change(green1=100)
    assert result["changed"] and not result["load_balancer"]["pending"] and "green1" in {rig.ask() for dummy in range(20)}


def test_what_others_have_changed_is_told(rig):
    os.utime(rig.conf)
    assert rig.change()["load_balancer"]["changed_files"] == [str(rig.conf)]
    rig.reload()
    assert rig.change()["load_balancer"]["changed_files"] == []


def test_no_request_is_lost_over_many_reloads_and_a_drain(rig, tmp_path):
    load = Load(tmp_path, [rig], rate=150)
    for step in range(1, 6):
        rig.change(blue1=100 - step, green1=step * 20)
    rig.change(blue1=0, blue2=0, green1=100)
    rig.change(states={"blue1": "maint", "blue2": "maint"}, wait={"sessions_zero": ["blue1", "blue2"], "timeout": 20})
    for name in ("blue1", "blue2"):
        rig.origins[name].stop()
    answered = load.figures()["requests"]
    wait_for(lambda: load.figures()["requests"] > answered + 100, 10, "green answers")
    result = load.finish()
    assert result["failures"] == [] and result["kinds"]["slow"]["requests"] > 0


def test_a_drain_waits_for_the_last_request(rig, slow, release):
    rig.change(blue2=0)
    connection = slow()
    wait_for(lambda: rig.change()["servers"]["blue1"]["sessions"], 5, "it is under way at blue1")

    def answer_late():
        wait_for(lambda: rig.weights()["blue1"] == 0, 10, "blue1 has no weight any more")
        time.sleep(0.7)
        release.touch()

    answering = threading.Thread(target=answer_late)
    answering.start()
    result = rig.change(blue1=0, green1=100, wait={"sessions_zero": ["blue1"]})
    answering.join()
    assert result["servers"]["blue1"]["sessions"] == 0 and result["sessions_left"] == [] and result["elapsed"] > 0.5
    rig.origins["blue1"].stop()
    assert connection.getresponse().status == 200


@pytest.mark.parametrize("on_timeout", ["fail", "cut"])
def test_a_worker_that_may_still_choose_the_server_counts(rig, slow, on_timeout):
    rig.change(blue1=0, blue2=0, green1=100)
    slow()  # at green1; its worker knows nothing of what comes
    wait_for(lambda: rig.change()["servers"]["green1"]["sessions"], 5, "it is under way at green1")
    rig.change(blue1=100)
    wait = {"sessions_zero": ["blue1"], "timeout": 1, "on_timeout": on_timeout}
    if on_timeout == "cut":
        result = rig.change(blue1=0, wait=wait)
        assert result["sessions_left"] and "left to whoever stops the server" in result["warnings"][0]
        return
    error = refusal(lambda: rig.change(blue1=0, wait=wait))
    left = [pid for pid, takes in rig.workers_left().items() if not takes]
    assert f"pid {left[0]}" in error.message and "worker_shutdown_timeout" in error.message and rig.weights()["blue1"] == 0


def test_requests_are_counted_over_a_rotation(rig, tmp_path):
    load = Load(tmp_path, [rig], rate=60, slow=0)
    first = rig.change(green1=100, observe=1)["counted"]
    assert all(first[name]["requests"] > 3 and first[name]["failures"] == 0 for name in NAMES), first
    before = load.figures()["requests"]
    rig.requests.rename(rig.requests.with_suffix(".1"))
    os.kill(rig.pid(), signal.SIGUSR1)
    wait_for(rig.requests.exists, 5, "nginx has a new log")
    counted = rig.change(observe=1)["counted"]
    assert sum(row["requests"] for row in counted.values()) > 20 and load.figures()["requests"] > before
    assert load.finish()["failures"] == []


def test_a_server_that_goes_down_ends_the_soak(rig, tmp_path):
    rig.change(green1=100)
    load = Load(tmp_path, [rig], rate=60, slow=0)
    rig.origins["green1"].stop()
    result = rig.change(observe=20, observe_stop={"watch": ["green1"], "against": ["blue1", "blue2"]})
    # nginx asks a server that does not answer only now and then: there are too few failures to judge by.
    assert result["window"]["stopped"] == f"No longer up, no connection can be made: kong/{rig.named('green1')}"
    assert result["window"]["seconds"] < 15 and not result["counted"]["blue1"]["failures"]
    assert load.finish()["failures"] == []


def test_a_failure_with_no_server_left_counts_for_all_in_use(rig):
    rig.change(blue1=0, blue2=0, green1=100)
    rig.origins["green1"].stop()
    nginx = _nginx.Nginx(**rig.options())
    nginx.counters("kong")
    connection = http.client.HTTPConnection(rig.address, rig.port, timeout=5)
    for dummy in range(3):
        connection.request("GET", "/a")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 502
    # nginx writes its log after the answer.
    wait_for(lambda: nginx.counters("kong")[rig.named("green1")]["requests"] == 3, 5, "nginx has logged all three")
    counted = nginx.counters("kong")
    assert counted[rig.named("green1")] == {"requests": 3, "failures": 3} and not counted[rig.named("blue1")]["requests"]


@pytest.mark.parametrize("options, words", [
    ({"path": "/nowhere/kong.conf"}, "/nowhere/kong.conf cannot be read: No such file"),
    ({"upstreams": ["kng"]}, "no upstream kng. There are: kong."),
    ({"pid_file": "/nowhere/nginx.pid"}, "pid_file: /nowhere/nginx.pid cannot be read"),
    ({"log": "/nowhere/kong.log"}, "log: /nowhere/kong.log cannot be read"),
    ({"log": "/etc/passwd"}, "log: nginx does not write /etc/passwd"),
    ({"command": ["/nowhere/nginx"]}, "/nowhere/nginx cannot be run"),
])
def test_bad_input(rig, options, words):
    rig.also = options
    assert words in refusal(rig.change).message


def test_all_problems_in_one_list(rig):
    rig.also = {"upstreams": ["kng"], "pid_file": "/nowhere/nginx.pid"}
    assert len(refusal(rig.change).problems) == 2


def test_files_that_are_not_what_they_should_be(rig):
    good = rig.text()
    for text, words in (
        ("upstream kong { server a;", "is no nginx configuration: it ends within a block"),
        ("upstream kong { include servers.conf; }", "has no upstream with"),
        (good.replace("blue1", "x").replace("}", "    server " + rig.named("blue1") + ";\n}"), "more than once"),
    ):
        rig.upstream.write_text(text, encoding="utf-8")
        assert words in refusal(rig.change).message
    rig.upstream.write_text(good, encoding="utf-8")
    other = rig.directory / "other.conf"
    other.write_text(good, encoding="utf-8")
    rig.also = {"path": str(other)}
    assert "is not part of nginx's configuration" in refusal(rig.change).message


def test_an_nginx_that_does_not_run(rig):
    rig.stop()
    pid_file = rig.directory / "nginx.pid"
    pid_file.unlink(missing_ok=True)  # nginx removes it where it has the time to
    assert "nginx.pid cannot be read" in refusal(rig.change).message
    pid_file.write_text(str(rig.process.pid), encoding="utf-8")
    assert "names no running master process" in refusal(rig.change).message


def test_a_log_of_another_format(rig):
    conf = rig.conf.read_text(encoding="utf-8")
    rig.conf.write_text(conf.replace("'$upstream_addr|$upstream_status'", "'$request_uri'"), encoding="utf-8")
    rig.reload()
    rig.ask()
    wait_for(lambda: rig.requests.stat().st_size, 5, "a line is in the log")
    assert "is not of the format" in refusal(rig.change).message
