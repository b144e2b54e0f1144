# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process is the node, what its listeners say, and what is missing until it is ready."""

import http.server
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _conf,
    _errors,
    _fence,
    _files,
    _node,
    _node_state,
    _probe,
    _process,
)

# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def prefix(tmp_path):
    (tmp_path / "pids").mkdir()
    (tmp_path / "logs").mkdir()
    return tmp_path


@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def write_pid(prefix, pid, written=None):
    path = prefix / "pids" / "nginx.pid"
    path.write_text(f"{pid}\n")
    if written:
        os.utime(path, (written, written))


def test_master_is_what_the_pid_file_names(prefix, child):
    assert _process.find_master(str(prefix)) is None
    write_pid(prefix, child.pid)
    master = _process.find_master(str(prefix))
    assert (master.pid, master.ppid, master.uid) == (child.pid, os.getpid(), os.getuid())
    assert abs(master.since - time.time()) < 5
    assert _process.stale_pid_file(str(prefix)) is None


@pytest.mark.parametrize("text", ["", "abc", "999999999"])
def test_a_pid_file_that_names_nothing(prefix, text):
    write_pid(prefix, text)
    assert _process.find_master(str(prefix)) is None
    assert _process.stale_pid_file(str(prefix)) == str(prefix / "pids" / "nginx.pid")


def test_a_zombie_does_not_run(prefix):
    process = subprocess.Popen(["true"])
    while _process.read_process(process.pid).state != "Z":
        time.sleep(0.01)
    write_pid(prefix, process.pid)
    assert _process.find_master(str(prefix)) is None
    process.wait()


def test_a_process_that_began_after_the_pid_file_is_another_one(prefix, child):
    write_pid(prefix, child.pid, time.time() - 3600)
    assert _process.find_master(str(prefix)) is None


def test_but_not_where_the_clock_was_set_and_it_holds_files_of_the_prefix(prefix):
    with open(prefix / "logs" / "error.log", "w") as log:
        process = subprocess.Popen(["sleep", "60"], stdout=log)
    write_pid(prefix, process.pid, time.time() - 3600)
    assert _process.find_master(str(prefix)).pid == process.pid
    process.kill()
    process.wait()


def test_tree_and_wait_gone():
    process = subprocess.Popen(["sh", "-c", "sleep 60 & wait"])
    while len(_process.tree(_process.read_process(process.pid))) < 2:
        time.sleep(0.01)
    tree = _process.tree(_process.read_process(process.pid))
    assert _process.wait_gone(tree, 0.1) == tree
    process.kill()
    process.wait()
    left = _process.wait_gone(tree, 0.1)
    assert [p.pid for p in left] == [tree[1].pid], "the child of a killed master lives on"
    os.kill(left[0].pid, 9)
    assert _process.wait_gone(tree, 5) == []


def test_sockets_to_and_listening():
    me = _process.read_process(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ("127.0.0.1", port) in _process.listening(me)
        assert _process.sockets_to(me, {port}) == []
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert _process.sockets_to(me, {port}) == ["127.0.0.1:%d" % client.getsockname()[1]]


def test_sockets_over_ipv6_are_named_as_ipv4_where_they_are():
    me = _process.read_process(os.getpid())
    try:
        server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError:
        pytest.skip("no IPv6 here")
    port = server.getsockname()[1]
    with server, socket.socket(socket.AF_INET6) as client:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        client.connect(("::ffff:127.0.0.1", port))
        assert _process.sockets_to(me, {port}) == ["127.0.0.1:%d" % client.getsockname()[1]]


def refuse_to_tell(family, port):
    raise OSError("not here")


@pytest.mark.parametrize("without", [(), ("tcp6",)])  # a kernel that was booted without IPv6 has no such table
def test_connections_to_some_addresses(monkeypatch, without):
    names = {"/proc/%d/net/%s" % (os.getpid(), name) for name in without}
    real = open

    def opened(path, *more, **others):
        if path in names:
            raise FileNotFoundError(path)
        return real(path, *more, **others)

    monkeypatch.setattr("builtins.open", opened)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()[:2]
        with socket.create_connection(place), socket.create_connection(place):
            assert _process.connections_to(os.getpid(), {place, ("192.0.2.1", 1)}) == {place: 2}
    assert _process.connections_to(1 << 30, {place}) == {}


@pytest.mark.skipif(sys.byteorder != "little", reason="the rows are from a little-endian machine")
@pytest.mark.parametrize(
    ("text", "family", "place"),
    [
        ("0100007F:46B5", socket.AF_INET, ("127.0.0.1", 18101)),
        ("00000000000000000000000001000000:1F40", socket.AF_INET6, ("::1", 8000)),
        ("0000000000000000FFFF00000100007F:1F40", socket.AF_INET6, ("127.0.0.1", 8000)),
    ],
)
def test_addresses_of_proc_net_tcp(text, family, place):
    assert _process._address((text, family)) == place


def test_the_table_in_proc_tells_the_same(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        port = server.getsockname()[1]
        asked = _process.connections(os.getpid(), {port})
        assert [local for local, inode in asked] == [client.getsockname()]
        assert asked[0][1] == os.readlink(f"/proc/self/fd/{client.fileno()}")[8:-1]
        monkeypatch.setattr(_process, "_ask_kernel", refuse_to_tell)
        assert _process.connections(os.getpid(), {port}) == asked


def test_sampling_collects_connections_that_come_and_go():
    code = ("import socket, sys, time\nfor i in range(40):\n s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
            " print(s.getsockname()[1], flush=True)\n time.sleep(0.2)\n s.close()\n")
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        port = server.getsockname()[1]
        process = subprocess.Popen([sys.executable, "-c", code, str(port)], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        found = _process.sockets_to(_process.read_process(process.pid), {port}, 2.0)
        process.kill()
        process.communicate()
    assert len(found) >= 3


def test_host_addresses():
    assert "127.0.0.1" in _process.host_addresses()


# --- listeners -------------------------------------------------------------------------------------------------------


class Kong(http.server.BaseHTTPRequestHandler):
    """One listener of a node that answers what the test says: {path: (status, headers, body)}."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Host"), self.headers.get("apikey")))
        status, headers, body = self.server.answers.get(self.path, (404, {"Server": "kong/2.8.5"}, b"{}"))
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class ProxyProtocol(Kong):
    """The same behind the PROXY protocol."""

    def handle(self):
        self.server.proxy_lines.append(self.rfile.readline())
        super().handle()


@pytest.fixture
def listen():
    servers = []

    def start(answers=None, handler=Kong):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.answers, server.seen, server.proxy_lines = answers or {}, [], []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def at(server, flags=""):
    return _conf.listeners(f"127.0.0.1:{server.server_address[1]} {flags}")


ROOT = (200, {"Server": "kong/2.8.5"}, b'{"version": "2.8.5", "node_id": "abc"}')


def status(reachable):
    return 200, {"Server": "kong/2.8.4"}, b'{"database": {"reachable": %s}}' % (b"true" if reachable else b"false")


def everything(proxy=(), admin=(), status_=()):
    return {"proxy": list(proxy), "admin": list(admin), "status": list(status_), "stream": []}


def test_identity_by_the_admin_api(listen):
    admin = listen({"/": ROOT, "/status": status(False)})
    said = _probe.identity(everything(admin=at(admin)), 2)
    assert said == {"version": "2.8.5", "version_source": "admin", "database_reachable": False, "node_id": "abc",
                    "admin_open": True, "errors": []}


def test_identity_by_the_status_listener_and_by_a_header(listen):
    said = _probe.identity(everything(status_=at(listen({"/status": status(True)}))), 2)
    assert (said["version"], said["version_source"], said["database_reachable"]) == ("2.8.4", "status", True)
    proxy = listen({"/": (200, {"Via": "kong/1.5.1"}, b"")})
    said = _probe.identity(everything(proxy=at(proxy)), 2)
    assert (said["version"], said["version_source"], said["database_reachable"]) == ("1.5.1", "header", None)
    assert _probe.identity(everything(proxy=at(proxy)), 2, through_proxy=False)["version"] is None


def test_identity_of_a_silent_node(listen):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        listeners = everything(admin=_conf.listeners(f"127.0.0.1:{port}"), status_=_conf.listeners("127.0.0.1:1"))
        said = _probe.identity(listeners, 0.2)
    assert not said["admin_open"]
    assert "the Admin API at 127.0.0.1:%d does not answer /: timed out" % port in said["errors"]
    assert "the status listener at 127.0.0.1:1 does not answer /status: Connection refused" in said["errors"]


def test_no_json_is_no_error(listen):
    admin = listen({"/": (401, {"Server": "kong/2.1.4"}, b"<html>"), "/status": (401, {"Server": "kong/2.1.4"}, b"[]")})
    said = _probe.identity(everything(admin=at(admin)), 2)
    assert (said["version"], said["version_source"], said["database_reachable"]) == ("2.1.4", "status", None)


def test_another_program_at_its_port_is_no_admin_api(listen):
    """Else a finish whose reload could not take the port would count as done."""
    other = at(listen({"/": (200, {"Server": "SimpleHTTP/0.6"}, b"<html>"), "/status": status(True)}))
    said = _probe.identity(everything(admin=other), 2)
    assert (said["admin_open"], said["version"], said["database_reachable"]) == (False, None, None)
    assert said["errors"] == ["what answers at 127.0.0.1:%d is no Admin API of Kong" % other[0]["port"]]
    # Kong 2.2 ... 2.7 without its database, with headers = off: no version anywhere.
    lost = at(listen({"/": (500, {}, b'{"message":"An unexpected error occurred"}'), "/status": status(False)}))
    said = _probe.identity(everything(admin=lost), 2)
    assert (said["admin_open"], said["database_reachable"]) == (True, False)


def test_proxy_protocol(listen):
    proxy = listen({"/": ROOT}, ProxyProtocol)
    answer = _probe.request(at(proxy, "proxy_protocol")[0])
    assert answer.version == "2.8.5"
    assert proxy.proxy_lines[0].startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")


def test_unix_listener(tmp_path, listen):
    path = str(tmp_path / "s")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def answer():
        connection = server.accept()[0]
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nServer: kong/2.0.5\r\nContent-Length: 0\r\n\r\n")
        connection.close()

    threading.Thread(target=answer, daemon=True).start()
    assert _probe.request(_conf.listeners("unix:" + path)[0]).version == "2.0.5"
    server.close()


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        ("0.0.0.0:8443 ssl, 0.0.0.0:8000", 8000),
        ("0.0.0.0:8443 http2 ssl", 8443),
        ("0.0.0.0:1 proxy_protocol, 0.0.0.0:2 ssl", 1),
        ("0.0.0.0:1 proxy_protocol, 0.0.0.0:2", 2),
        ("0.0.0.0:80 http2", None),
        ("off", None),
    ],
)
def test_choose(value, chosen):
    listener = _probe.choose(_conf.listeners(value))
    assert (listener and listener["port"]) == chosen


@pytest.mark.parametrize(("value", "address"), [("0.0.0.0:1", "127.0.0.1"), ("[::]:1", "::1"), ("192.0.2.1:1", "192.0.2.1"), ("h:1", "h")])
def test_reachable(value, address):
    assert _probe.reachable(_conf.listeners(value)[0]) == address


def test_check_of_a_probe(listen):
    proxy = listen({
        "/ok": (200, {}, b""), "/mine": (503, {"Server": "kong/2.8.5"}, b""), "/theirs": (503, {"Via": "kong/2.8.5"}, b""),
    })
    listeners = everything(proxy=at(proxy))
    assert _probe.check({"path": "/ok"}, listeners, 2) is None
    assert _probe.check({}, listeners, 2) is None, "no route: Kong's own 404 shows that it serves"
    assert _probe.check({"path": "/mine"}, listeners, 2) == "GET /mine through the proxy answers 503"
    assert _probe.check({"path": "/theirs"}, listeners, 2) is None, "the backend's own 503 came through the proxy"
    assert "answers 200, expected 401, 403" in _probe.check({"path": "/ok", "expect": [401, 403]}, listeners, 2)
    assert _probe.check({"path": "/x", "host": "api.test:8000", "headers": {"apikey": "k"}, "expect": [404]}, listeners, 2) is None
    assert proxy.seen[-1] == ("/x", "api.test:8000", "k")
    assert "Connection refused" in _probe.check({}, everything(proxy=_conf.listeners("127.0.0.1:1")), 2)
    assert "no proxy listener" in _probe.check({}, everything(), 2)


# --- a place ---------------------------------------------------------------------------------------------------------


def refuse(argv, **more):
    raise AssertionError(f"nothing is to be run here: {argv}")


OPTIONS = {
    "state": "started", "settings": {}, "secret_settings": {}, "purge_settings": False, "backup": False, "wait_timeout": 0,
    "probe": [], "require_version": None, "admin_listen_closed": False, "admin_listen_open": False, "quit_timeout": 5,
    "fenced": None, "enabled": None, "timeout": 2, "executable": None,
}


def running(prefix, child, **kong_env):
    """A Gateway over a process and a .kong_env."""
    write_pid(prefix, child.pid)
    (prefix / ".kong_env").write_text(_conf.render(kong_env))
    (prefix / "kong.conf").write_text("pg_password = s3cret\n")
    return _node.Gateway(refuse, "/bin/true", str(prefix / "kong.conf"), str(prefix), environ={"PATH": "/bin"})


def missing(gateway, **options):
    return _node_state.NodeState(gateway, dict(OPTIONS, **options))._missing()


def test_a_clock_that_is_set_back_makes_no_wait_longer(prefix, child, monkeypatch):
    state = _node_state.NodeState(running(prefix, child), dict(OPTIONS, wait_timeout=0.2))
    monkeypatch.setattr(state, "_missing", lambda: ["no process"])
    clock = itertools.count(time.time(), -60)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    assert _process.wait_gone([_process.read_process(child.pid)], 0.2)
    assert _process.sockets_to(_process.read_process(child.pid), [1], 0.2) == []
    with pytest.raises(_node_state.NodeError, match="not ready after 0.2 s"):
        state._wait_ready()


def test_a_node_whose_database_is_down_is_not_ready(prefix, child, listen):
    """`kong health` says healthy and /status is 200: only database.reachable tells."""
    state = listen({"/status": status(False)})
    proxy = listen()
    gateway = running(prefix, child, proxy_listen=f"127.0.0.1:{proxy.server_address[1]}", admin_listen="off",
                      status_listen=f"127.0.0.1:{state.server_address[1]}")
    assert missing(gateway) == ["it does not reach its database"]
    state.answers["/status"] = status(True)
    assert missing(gateway) == []
    assert missing(gateway, require_version="2.8.5") == ["it runs Kong 2.8.4, not 2.8.5"]


def test_a_node_that_cannot_be_told_to_be_ready(prefix, child, listen):
    proxy = listen()
    gateway = running(prefix, child, proxy_listen=f"127.0.0.1:{proxy.server_address[1]}", admin_listen="off")
    assert "neither status_listen nor admin_listen" in missing(gateway)[0]
    off = running(prefix, child, proxy_listen=f"127.0.0.1:{proxy.server_address[1]}", admin_listen="off", database="off")
    assert missing(off) == []


def test_an_admin_api_that_is_still_open(prefix, child, listen):
    state, proxy = listen({"/status": status(True)}), listen()
    settings = {"proxy_listen": f"127.0.0.1:{proxy.server_address[1]}", "status_listen": f"127.0.0.1:{state.server_address[1]}"}
    gateway = running(prefix, child, admin_listen="127.0.0.1:1", **settings)
    with pytest.raises(_node_state.NodeError, match="runs with admin_listen = 127.0.0.1:1"):
        missing(gateway, admin_listen_closed=True)
    gateway = running(prefix, child, admin_listen="off", **settings)
    assert missing(gateway, admin_listen_closed=True) == []
    # The former Admin API's port is answered by a process of the node.
    write_pid(prefix, os.getpid(), time.time())
    (prefix / "kong.conf").write_text(f"admin_listen = {settings['proxy_listen']}\n")
    gateway = _node.Gateway(refuse, "/bin/true", str(prefix / "kong.conf"), str(prefix), environ={})
    gateway.file_settings["admin_listen"] = "off"
    state_ = _node_state.NodeState(gateway, dict(OPTIONS, admin_listen_closed=True))
    state_.admin_ports = _conf.listeners(settings["proxy_listen"])
    assert "still listen at 127.0.0.1" in state_._missing()[0]


@pytest.mark.parametrize(("listens", "shut"), [("0.0.0.0:1", False), ("127.0.0.1:1, 10.0.0.1:1", False), ("127.0.0.1:1, [::1]:1", True)])
def test_a_control_plane_is_shut_when_its_admin_api_is_on_loopback_alone(prefix, child, listens, shut):
    gateway = running(prefix, child, admin_listen=listens, role="control_plane")
    node = _node_state.NodeState(gateway, dict(OPTIONS, admin_listen_closed=True))
    if shut:
        assert node._missing_admin({}, gateway.listeners()) == []
    else:
        with pytest.raises(_node_state.NodeError, match="the Admin API is to be shut, but the node runs with admin_listen"):
            node._missing_admin({}, gateway.listeners())


def test_a_reload_that_nginx_did_not_take(prefix, child, listen):
    state, proxy = listen({"/status": status(True)}), listen()
    gateway = running(prefix, child, admin_listen="off", status_listen=f"127.0.0.1:{state.server_address[1]}",
                      proxy_listen=f"127.0.0.1:{proxy.server_address[1]}")
    reload_ = _node_state.NodeState(gateway, dict(OPTIONS, state="reloaded"))
    reload_.actions.append("reloaded")
    reload_._wait_ready()
    (prefix / "logs" / "error.log").write_text("1 [notice] signal\n2 [emerg] bind() to 127.0.0.1:80 failed (98)\n")
    with pytest.raises(_node_state.NodeError, match="did not take the new configuration: 2 .emerg. bind"):
        reload_._wait_ready()


def test_a_node_of_another_user(prefix, child, monkeypatch):
    gateway = running(prefix, child, admin_listen="off")
    monkeypatch.setattr(_node_state.os, "geteuid", lambda: 4711)
    with pytest.raises(_node_state.NodeError, match="runs as user .* and this as 4711.*use become"):
        _node_state.NodeState(gateway, dict(OPTIONS, state="stopped")).ensure()


def test_errors_carry_no_secret(prefix, child):
    gateway = running(prefix, child, admin_listen="off")
    gateway.run = lambda argv, **more: (1, "", "Error: role kong, password s3cret")
    gateway.executable = "/bin/true"
    with pytest.raises(_errors.KongError) as caught:
        _node_state.NodeState(gateway, dict(OPTIONS, state="stopped")).ensure()
    assert str(caught.value) == "kong quit failed: role kong, password ******"
    assert child.poll() is None


def test_facts_without_rights(prefix, child, monkeypatch):
    listdir = os.listdir

    def guarded(path):
        if path.endswith("/fd"):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        settings = {"admin_listen": "off", "proxy_listen": "127.0.0.1:1", "pg_password": "s3cret", "pg_port": server.getsockname()[1]}
        gateway = running(prefix, child, **settings)
        monkeypatch.setattr(_process.os, "listdir", guarded)
        gateway.executable = None
        facts = gateway.facts(0.2, sockets=True)
    assert facts["node"]["database_sockets"] is None
    assert any("run this as that user, or with become" in error for error in facts["errors"])
    assert facts["node"]["settings"]["pg_password"] == "******"


def test_own_addresses():
    listeners = everything(proxy=_conf.listeners("0.0.0.0:8000"))
    assert _node.own_addresses(["127.0.0.1", "192.0.2.1", "::1"], listeners) == ["192.0.2.1"]
    listeners = everything(proxy=_conf.listeners("127.0.0.11:8000"))
    assert _node.own_addresses(["127.0.0.1", "192.0.2.1"], listeners) == ["127.0.0.11"]


def test_log_since(prefix, child):
    gateway = running(prefix, child, pg_password="s3cret")
    log = prefix / "logs" / "error.log"
    log.write_text("old\n")
    offset = gateway.log_size()
    log.write_text("old\n[error] password s3cret\n")
    assert gateway.log_since(offset) == ["[error] password ******"]


def test_write_conf_keeps_mode_and_follows_links(tmp_path):
    real, link = tmp_path / "real.conf", tmp_path / "kong.conf"
    real.write_text("a\n")
    real.chmod(0o600)
    link.symlink_to(real)
    _node_state.write_conf(str(link), "b\n")
    assert link.is_symlink() and real.read_text() == "b\n" and real.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["kong.conf", "real.conf"]
    _node_state.write_conf(str(tmp_path / "new" / "kong.conf"), "c\n")
    assert (tmp_path / "new" / "kong.conf").stat().st_mode & 0o777 == 0o640
    with pytest.raises(_errors.ConfError, match="cannot write"):
        _node_state.write_conf("/proc/nosuch/kong.conf", "d\n")


def test_a_new_kong_conf_is_of_the_user_of_the_unit(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: given.append((uid, gid)))
    for user in ("root", "0"):  # systemd takes a number too
        _node_state.write_conf(str(tmp_path / user), "a\n", user)
    assert given == [(0, 0)] * 2
    with pytest.raises(_errors.ConfError, match="no user nobody-of-that-name"):
        _node_state.write_conf(str(tmp_path / "b"), "b\n", "nobody-of-that-name")


def test_a_backup_of_kong_conf_is_never_more_readable_than_it(tmp_path, monkeypatch):
    """It holds passwords; before its mode is copied, it has been there for a moment."""
    conf, seen = tmp_path / "kong.conf", []
    conf.write_text("pg_password = s3cret\n")
    conf.chmod(0o640)
    copystat = shutil.copystat
    monkeypatch.setattr(shutil, "copystat", lambda old, new, **kw: (seen.append(os.stat(new).st_mode & 0o777), copystat(old, new, **kw)))
    kept = _files.backup(str(conf))
    assert seen == [0o600] and os.stat(kept).st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("arguments", "environ", "refused"),
    [
        (["start", "-p", "{prefix}"], {}, True),
        (["restart", "--prefix={prefix}/"], {}, True),
        (["start", "-p{prefix}"], {}, True),
        (["start", "--vv", "--conf", "{prefix}/own.conf"], {}, True),
        (["start", "-c", "{prefix}/fenced.conf", "-p", "/elsewhere"], {}, True),
        (["start"], {"KONG_PREFIX": "{prefix}"}, True),
        (["start", "-p", "/elsewhere", "-c", "{prefix}/own.conf"], {}, False),
        (["start", "-c", "{prefix}/other.conf"], {}, False),
        (["reload", "-p", "{prefix}"], {}, False),
        (["quit", "-p", "{prefix}"], {}, False),
        (["migrations", "list", "-c", "{prefix}/fenced.conf"], {}, False),
        (["start"], {"KONG_PREFIX": "/elsewhere"}, False),
    ],
)
def test_the_fenced_command(tmp_path, arguments, environ, refused):
    prefix, kong = tmp_path / "pre fix", tmp_path / "it's kong"
    prefix.mkdir()
    (prefix / "own.conf").write_text(f"# prefix = /no\nprefix = /first\nprefix = {prefix}/ # that one\n")
    (prefix / "fenced.conf").write_text("log_level = info\n")
    (prefix / "other.conf").write_text(f"prefix = {prefix}2\n")
    kong.write_text('#!/bin/sh\necho "real: $*"\nexit 7\n')
    kong.chmod(0o750)
    owner = {"kind": "cli", "unit": None, "also": []}
    _fence.put_up(refuse, owner, str(prefix), str(kong), str(prefix / "fenced.conf"))
    assert kong.stat().st_mode & 0o777 == 0o750
    words = [argument.format(prefix=prefix) for argument in arguments]
    env = {"PATH": os.environ["PATH"], **{key: value.format(prefix=prefix) for key, value in environ.items()}}
    done = subprocess.run([kong, *words], env=env, capture_output=True, text=True, check=False)
    if refused:
        assert (done.returncode, done.stdout) == (1, "") and "retired" in done.stderr and "fenced=false" in done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (7, f"real: {' '.join(words)}\n", "")
    assert _fence.take_down(refuse, owner, str(prefix), str(kong))
    assert kong.read_text() == '#!/bin/sh\necho "real: $*"\nexit 7\n'
    assert sorted(os.listdir(tmp_path)) == ["it's kong", "pre fix"] and not (prefix / ".kong_fence").exists()


def test_a_package_that_replaces_the_fenced_command_is_noticed(tmp_path):
    kong, owner = tmp_path / "kong", {"kind": "cli", "unit": None, "also": []}
    kong.write_text("#!/bin/sh\n")
    kong.chmod(0o755)
    _fence.put_up(refuse, owner, str(tmp_path), str(kong))
    kong.write_text("#!/bin/sh\n# another version\n")
    assert _fence.state(refuse, owner, str(tmp_path), str(kong)) is None
    _fence.put_up(refuse, owner, str(tmp_path), str(kong))
    assert _fence.take_down(refuse, owner, str(tmp_path), str(kong))
    assert kong.read_text() == "#!/bin/sh\n# another version\n"


@pytest.mark.parametrize(
    "kind, given, exec_start, unnamed, words",
    [
        ("cli", None, None, None, None),
        ("cli", "/own", None, None, None),
        ("cli", None, None, "/p/nginx.conf", "/p/nginx.conf is not what Kong's own template gives"),
        ("systemd", None, "kong start --nginx-conf /own", None, None),
        ("systemd", "/own", "kong start --nginx-conf /own", None, None),
        ("systemd", "/own", "kong start", None, "kong.service does not start Kong with --nginx-conf /own"),
    ],
)
def test_a_template_of_ones_own_is_neither_lost_nor_passed_over(monkeypatch, kind, given, exec_start, unnamed, words):
    gateway = _node.Gateway.__new__(_node.Gateway)
    gateway.given_nginx_conf, gateway.exec_start, gateway.prefix = given, exec_start, "/p"
    gateway.supervisor = {"kind": kind, "unit": "kong.service"}
    monkeypatch.setattr(_node._host, "templates", lambda prefix, settings: {"nginx_conf": unnamed})
    state = _node_state.NodeState.__new__(_node_state.NodeState)
    state.gateway = gateway
    if words:
        with pytest.raises(_node_state.NodeError, match=words):
            state._require_template()
    else:
        state._require_template()


def test_what_nginx_says_again_and_again_is_told_once():
    bind = "nginx: [emerg] bind() to 192.0.2.1:8000 failed (98: Address already in use)"
    text = "Error: /usr/local/share/lua/5.1/kong/cmd/start.lua:64: %s\n%s\nnginx: [emerg] still could not bind()\n" % (bind, bind)
    assert _node_state._brief(text) == bind
    assert _node_state._brief("Error: New migrations available\n") == "New migrations available"
