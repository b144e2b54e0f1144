# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong_version_facts and kong_node against nodes that run, on a real PostgreSQL.

With BLUE_KONG and GREEN_KONG in the environment they stand on those kong commands, else on the stand-in.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import psycopg
import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _errors, _fence, _node, _node_state, _process
from bed.bed import Bed
from bed.hosts import ADMIN, PROXY, STATUS
from bed.process import wait_for

KONGS = {"blue_kong": os.environ.get("BLUE_KONG") or None, "green_kong": os.environ.get("GREEN_KONG") or None}
ROOT = pathlib.Path(__file__).resolve().parents[2]
DEFAULTS = {
    "settings": {}, "secret_settings": {}, "purge_settings": False, "backup": False, "wait_timeout": 15, "probe": [],
    "require_version": None, "admin_listen_closed": False, "admin_listen_open": False, "quit_timeout": 20, "fenced": None, "enabled": None,
    "upgrade": False, "timeout": 5.0, "executable": None,
}


@pytest.fixture(scope="module")
def bed():
    with Bed(nodes=(3, 1), batches=1, **KONGS) as standing:
        yield standing


def run(argv, environ_update=None):
    """Stands for AnsibleModule.run_command."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("KONG_")}
    done = subprocess.run(argv, env={**env, **(environ_update or {})}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def gateway(host, environ=None, **more):  # more: unit, nginx_conf
    environ = environ or {"PATH": os.environ["PATH"]}
    return _node.Gateway(run, str(host.executable), str(host.conf), str(host.prefix), environ=environ, **more)


def node(host, state, check_mode=False, environ=None, template=None, **options):
    return _node_state.NodeState(gateway(host, environ, nginx_conf=template), {**DEFAULTS, **options, "state": state}, check_mode).ensure()


def settings_of_green(bed, admin="off"):
    host = bed.green[0]
    return {
        **bed.database_settings(), "prefix": host.prefix, "proxy_listen": f"{host.address}:{PROXY}", "admin_listen": admin,
        "status_listen": f"{host.address}:{STATUS}", "nginx_worker_processes": 1, "db_update_frequency": 1,
        "anonymous_reports": False,
    }


def sessions(bed):
    """Client address and port of every session of the role kong in Kong's database."""
    with psycopg.connect(host=bed.postgres.address, port=bed.postgres.port, user="kong", dbname="kong",
                         password=bed.postgres.password) as connection:
        rows = connection.execute(
            "select host(client_addr), client_port from pg_stat_activity where datname = 'kong' and usename = 'kong' "
            "and pid <> pg_backend_pid() and backend_type = 'client backend'").fetchall()
    return {f"{address}:{port}" for address, port in rows}


# --- facts -----------------------------------------------------------------------------------------------------------


def test_facts_of_a_running_node(bed):
    host = bed.blue[0]
    facts = gateway(host).facts(sockets=True)
    assert facts["errors"] == []
    assert facts["running"] and facts["node"]["pid"] == host.pid()
    assert facts["node"]["version"] == facts["version"] == bed.versions()["blue"]
    assert (facts["node"]["version_source"], facts["node"]["admin_open"], facts["node"]["database_reachable"]) == ("admin", True, True)
    assert facts["supervisor"]["kind"] == "cli" and facts["fence_possible"]
    assert facts["datastore"]["host"] == bed.postgres.address
    assert facts["node"]["settings"]["admin_listen"] == f"{host.address}:{ADMIN}"
    assert facts["own_addresses"] == [host.address]
    assert bed.postgres.password not in json.dumps(facts)


def test_every_session_belongs_to_a_node(bed):
    early = sessions(bed)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sampling = [pool.submit(gateway(host).facts, sample=2.5) for host in bed.blue]
        found = [set(each.result()["node"]["database_sockets"]) for each in sampling]
    lasting = early & sessions(bed)
    assert all(found) and lasting
    assert lasting <= set.union(*found), "every session that lasts is some node's"
    assert sum(map(len, found)) == len(set.union(*found)), "and no node claims another's"


def test_version_from_the_status_listener(bed):
    host = bed.blue[0]
    place = gateway(host)
    place.running_settings["admin_listen"] = "off"
    node_facts = place.facts()["node"]
    assert (node_facts["version"], node_facts["version_source"]) == (bed.versions()["blue"], "status")
    assert node_facts["admin_open"] is False and node_facts["database_reachable"] is True
    place.running_settings["status_listen"] = "off"
    node_facts = place.facts()["node"]
    assert (node_facts["version"], node_facts["version_source"]) == (bed.versions()["blue"], "header")
    assert node_facts["database_reachable"] is None


def test_facts_without_kong(tmp_path):
    facts = _node.Gateway(run, str(tmp_path / "kong"), str(tmp_path / "kong.conf"), str(tmp_path), environ={}).facts()
    assert (facts["running"], facts["node"], facts["version"], facts["fenced"]) == (False, None, None, False)
    assert len(facts["errors"]) == 2
    assert str(tmp_path / "kong") in facts["errors"][0] and "kong.conf" in facts["errors"][1]


# --- checked, started, reloaded --------------------------------------------------------------------------------------


def test_checked_refuses_what_kong_refuses_and_keeps_the_file(bed):
    host = bed.green[0]
    host.conf.write_text("log_level = notice\n")
    with pytest.raises(_errors.ConfError, match=r"kong check refuses .*green1/kong.conf: .*loud"):
        node(host, "checked", settings={"log_level": "loud"})
    assert host.conf.read_text() == "log_level = notice\n"
    host.conf.unlink()


@pytest.mark.parametrize("key", ["declarative_config", "declarative_config_string"])
def test_checked_has_the_declarative_configuration_parsed_without_a_database(bed, key):
    host = bed.green[0]
    declared = host.conf.with_name("declared.yml")
    for text, good in (('{_format_version: "1.1", services: []}', True), ('{_format_version: "1.1", nonsense: []}', False)):
        declared.write_text(text)
        host.conf.write_text(f"database = off\n{key} = {declared if key == 'declarative_config' else text}\n")
        if good:
            assert not node(host, "checked")["changed"]
        else:
            with pytest.raises(_errors.ConfError, match="kong config parse .* refuses .*'nonsense': unknown field"):
                node(host, "checked")
    host.conf.unlink()
    declared.unlink()


def test_checked_wants_the_version(bed):
    with pytest.raises(_errors.KongError, match="not 9.9.9: install 9.9.9 there"):
        node(bed.green[0], "checked", require_version="9.9.9")


def test_checked_writes_once(bed):
    host, given = bed.green[0], settings_of_green(bed)
    secret = {"pg_password": bed.postgres.password}
    options = {"settings": {**given, "nosuchkey": 1}, "secret_settings": secret, "require_version": bed.versions()["green"]}
    predicted = node(host, "checked", check_mode=True, **options)
    assert predicted["changed"] and not host.conf.exists()
    assert "pg_password = ******" in predicted["diff"][0]["after"]
    done = node(host, "checked", **options)
    assert done["changed"] and done["diff"] == predicted["diff"]
    assert done["unknown_settings"] == ["nosuchkey"] and "nosuchkey" in done["warnings"][0]
    assert bed.postgres.password not in json.dumps(done)
    assert _conf.parse(host.conf.read_text())["pg_password"] == bed.postgres.password
    assert host.conf.stat().st_mode & 0o777 == 0o640
    again = node(host, "checked", **options)
    assert not again["changed"] and again["conf_sha256"] == done["conf_sha256"]
    purged = node(host, "checked", settings=given, purge_settings=True, backup=True)
    assert purged["changed_settings"] == ["nosuchkey"] and pathlib.Path(purged["backup_file"]).exists()
    assert "pg_password" in host.conf.read_text(), "a secret stays in the file unless it is given"
    assert not host.prefix.exists(), "nothing but a scratch prefix is touched"


def test_started_says_why_kong_does_not_start(bed):
    if bed.versions()["blue"] == bed.versions()["green"]:
        pytest.skip("blue and green are the same version: nothing stands in the way of a start")
    with pytest.raises(_node_state.NodeError, match="kong start failed: New migrations available"):
        node(bed.green[0], "started")


def test_a_variable_that_wins_is_named(bed):
    host = bed.green[0]
    environ = {"PATH": os.environ["PATH"], "KONG_ADMIN_LISTEN": f"{host.address}:{ADMIN}"}
    with pytest.raises(_node_state.NodeError, match="KONG_ADMIN_LISTEN of this session's environment would win"):
        node(host, "checked", environ=environ, settings={"admin_listen": "off"})


def test_started_until_ready(bed):
    host = bed.green[0]
    host.kong("migrations", "up")
    version = bed.versions()["green"]
    predicted = node(host, "started", check_mode=True)
    assert predicted["changed"] and host.pid() is None
    probe = [{"path": "/open", "expect": [200]}, {"path": "/key", "expect": [401]}]
    done = node(host, "started", require_version=version, admin_listen_closed=True, probe=probe)
    assert done["changed"] and "started" in done["actions"]
    assert done["kong"]["node"]["database_reachable"] is True and not done["kong"]["node"]["admin_open"]
    assert done["kong"]["node"]["version"] == version
    assert not host.listens(ADMIN)
    again = node(host, "started", require_version=version, admin_listen_closed=True, probe=probe)
    assert not again["changed"] and again["kong"]["node"]["pid"] == done["kong"]["node"]["pid"]
    assert not node(host, "started", check_mode=True)["changed"]


def test_a_running_node_lists_what_is_missing(bed):
    with pytest.raises(_node_state.NodeError) as caught:
        node(bed.green[0], "started", wait_timeout=1, admin_listen_open=True, require_version="9.9.9",
             probe=[{"path": "/open", "expect": [418]}])
    missing = caught.value.details["missing"]
    assert missing == [
        "GET /open through the proxy answers 200, expected 418",
        f"it runs Kong {bed.versions()['green']}, not 9.9.9",
        "admin_listen is off",
    ]


def test_a_running_node_with_other_settings_is_no_success(bed):
    host = bed.green[0]
    before = host.conf.read_text()
    with pytest.raises(_node_state.NodeError, match="log_level = notice, not debug.*started before they changed"):
        node(host, "started", settings={"log_level": "debug"})
    host.conf.write_text(before)
    with pytest.raises(_node_state.NodeError, match=r"log_level = notice, not debug \(by KONG_LOG_LEVEL"):
        node(host, "started", environ={"PATH": os.environ["PATH"], "KONG_LOG_LEVEL": "debug"})


def test_reloaded_opens_the_admin_api(bed):
    host = bed.green[0]
    place = f"{host.address}:{ADMIN}"
    options = {"settings": {"admin_listen": place}, "admin_listen_open": True}
    assert node(host, "reloaded", check_mode=True, **options)["actions"] == ["configured", "reloaded"]
    pid = host.pid()
    done = node(host, "reloaded", **options)
    assert done["changed"] and done["kong"]["node"]["admin_open"] and host.pid() == pid
    assert not node(host, "reloaded", **options)["changed"]
    with pytest.raises(_node_state.NodeError, match="the Admin API is to be shut, but the node runs with admin_listen"):
        node(host, "started", admin_listen_closed=True)
    closed = node(host, "reloaded", settings={"admin_listen": "off"}, admin_listen_closed=True)
    assert closed["changed"] and not host.listens(ADMIN)


def test_refreshed_reads_what_the_node_has_not_heard_of(bed):
    host = bed.blue[0]
    before = (host.conf.read_text(), (host.prefix / ".kong_env").read_text(), host.pid())

    def answers():
        return asked(host, "/unheard")

    assert answers() == 404
    bed.sql("UPDATE routes SET paths = paths || '{/unheard}' WHERE name = 'open'")
    assert node(host, "refreshed", check_mode=True)["actions"] == ["refreshed"]
    assert answers() == 404, "check mode has done nothing"
    done = node(host, "refreshed")
    assert done["changed"] and done["actions"] == ["refreshed"]
    wait_for(lambda: answers() == 200, 5, "the node answers by the new route")
    assert (host.conf.read_text(), (host.prefix / ".kong_env").read_text(), host.pid()) == before


def asked(host, path):
    """HTTP status of a request through the proxy."""
    try:
        with urllib.request.urlopen(f"http://{host.address}:{PROXY}{path}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_template_of_ones_own_outlives_reload_and_start(bed):
    host = bed.green[0]
    kongs = (host.prefix / "nginx.conf").read_text()
    own = "map $host $of_my_own { default 1; }"
    template = host.conf.with_name("my.template")
    template.write_text(kongs.replace("include 'nginx-kong.conf';", "include 'nginx-kong.conf'; " + own))
    node(host, "stopped")
    done = node(host, "started", template=str(template))
    assert done["changed"] and own in (host.prefix / "nginx.conf").read_text()
    with pytest.raises(_node_state.NodeError, match=f"{host.prefix}/nginx.conf is not what Kong's own template gives.*nginx_conf"):
        node(host, "reloaded", settings={"log_level": "warn"})
    node(host, "reloaded", settings={"log_level": "warn"}, template=str(template))
    assert own in (host.prefix / "nginx.conf").read_text()
    node(host, "stopped")
    with pytest.raises(_node_state.NodeError, match="nginx_conf"):
        node(host, "started")
    with pytest.raises(_errors.ConfError, match="no such file: /nowhere"):
        node(host, "checked", template="/nowhere")
    template.write_text(kongs)
    node(host, "started", template=str(template))
    assert not node(host, "reloaded")["changed"]


def test_reload_of_a_version_that_ignores_the_file(bed):
    host = bed.blue[2]
    done = node(host, "reloaded", settings={"log_level": "info"})
    assert done["changed"]
    assert done["kong"]["node"]["settings"]["log_level"] == "info"
    assert not node(host, "reloaded", settings={"log_level": "info"})["changed"]


def test_reload_with_the_command_of_another_version_is_refused(bed):
    if bed.versions()["blue"] == bed.versions()["green"]:
        pytest.skip("blue and green are the same version")
    host = bed.blue[2]
    other = _node.Gateway(run, str(bed.green[0].executable), str(host.conf), str(host.prefix), environ={"PATH": os.environ["PATH"]})
    with pytest.raises(_node_state.NodeError, match="a reload keeps the old nginx"):
        _node_state.NodeState(other, {**DEFAULTS, "state": "reloaded", "settings": {"log_level": "warn"}}).ensure()
    host.conf.write_text(host.conf.read_text().replace("log_level = warn", "log_level = info"))


# --- stopped and fenced ----------------------------------------------------------------------------------------------


class Asking(threading.Thread):
    """A request that takes some seconds."""

    def __init__(self, host, seconds):
        super().__init__(daemon=True)
        self.url, self.status = f"http://{host.address}:{PROXY}/open/slow?s={seconds}", None
        self.start()
        origin = (_process.read_process(host.pid()), 9000)
        wait_for(lambda: _process.sockets_to(origin[0], {origin[1]}), 5, "the request reaches the origin")

    def run(self):
        try:
            with urllib.request.urlopen(self.url, timeout=30) as answer:
                self.status = answer.status
        except OSError as error:
            self.status = str(error)

    def result(self):
        self.join(30)
        return self.status


def test_stopped_finishes_requests_in_flight(bed):
    host = bed.blue[0]
    asking = Asking(host, 2)
    assert node(host, "stopped", check_mode=True)["changed"] and host.pid()
    done = node(host, "stopped", quit_timeout=20)
    assert done["changed"] and not done["forced"] and not done["kong"]["running"]
    assert asking.result() == 200
    assert host.pid() is None and not host.listens()
    assert not node(host, "stopped")["changed"]
    assert done["fenced"] is False


def test_stopped_says_that_it_cut_requests(bed):
    host = bed.blue[1]
    asking = Asking(host, 8)
    done = node(host, "stopped", quit_timeout=1)
    assert done["forced"] and "killed" in done["warnings"][0]
    assert asking.result() != 200
    assert host.pid() is None


def test_fence_of_two_nodes_with_one_command(bed):
    first, second = bed.blue[0], bed.blue[1]
    command = first.executable
    before = (command.read_bytes(), command.stat())
    second.executable.unlink()
    second.executable.symlink_to(command)
    for host in (first, second):
        assert node(host, "stopped", check_mode=True, fenced=True)["actions"] == ["fenced"]
        done = node(host, "stopped", fenced=True)
        assert done["changed"] and done["fenced"] and done["fence_how"] == f"command {command}"
        assert not node(host, "stopped", fenced=True)["changed"]
    for host in (first, second):
        for arguments in (["start", "-c", host.conf], ["start", "-p", f"{host.prefix}/"], ["restart", f"--conf={host.conf}"],
                          ["start", "-c", host.conf, "-p", bed.directory / "elsewhere"], ["--v", "start", f"-p{host.prefix}"]):
            done = subprocess.run([host.executable, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 1 and done.stdout == "", arguments
            assert "retired" in done.stderr and str(host.prefix) in done.stderr and f"{command}.fenced" in done.stderr
        assert host.version() == bed.versions()["blue"]
        health = subprocess.run([host.executable, "health", "-p", host.prefix], capture_output=True, text=True, check=False)
        assert "not running" in health.stdout
        with pytest.raises(_node_state.NodeError, match="is fenced .* fenced=false lifts that"):
            node(host, "started")
    # another node with the same command is not concerned
    other = bed.blue[2]
    done = subprocess.run([command, "start", "-c", other.conf], capture_output=True, text=True, check=False)
    assert "already running" in done.stderr.lower()
    assert gateway(first).facts()["fenced"] and not gateway(other).facts()["fenced"]
    done = node(first, "started", fenced=False)
    assert done["actions"][0] == "unfenced" and first.pid() and not done["fenced"]
    assert gateway(second).facts()["fenced"], "the other one stays fenced"
    node(second, "started", fenced=False)
    after = (command.read_bytes(), command.stat())
    assert after[0] == before[0] and after[1].st_ino == before[1].st_ino and after[1].st_mode == before[1].st_mode
    assert sorted(path.name for path in command.parent.iterdir()) == ["kong"]


def test_a_fence_that_cannot_be_put_up_stops_nothing(bed, monkeypatch):
    host = bed.blue[2]
    monkeypatch.setattr(_fence.os, "access", lambda path, mode: False)
    with pytest.raises(_node_state.NodeError, match="cannot be fenced, so it is not stopped"):
        node(host, "stopped", fenced=True)
    assert host.pid()


def test_a_stale_pid_file_is_in_nobodys_way(bed):
    host = bed.blue[0]
    node(host, "stopped")
    sleeper = subprocess.Popen(["sleep", "60"])
    pid_file = host.prefix / "pids" / "nginx.pid"
    pid_file.write_text(f"{sleeper.pid}\n")
    os.utime(pid_file, (1, 1))
    try:
        assert not gateway(host).facts()["running"]
        done = node(host, "started")
        assert done["kong"]["node"]["pid"] != sleeper.pid
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


# --- the modules themselves ------------------------------------------------------------------------------------------


def ansible(module, **options):
    """Run a module for real, at -vvv."""
    command = pathlib.Path(sys.executable).parent / "ansible"
    argv = [command, "localhost", "-vvv", "--diff", "-m", f"bluegreen.kong.{module}", "-a", json.dumps(options)]
    env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_no_secret_at_vvv(bed):
    host = bed.green[0]
    common = {"executable": str(host.executable), "conf": str(host.conf), "prefix": str(host.prefix)}
    secret = bed.postgres.password
    probe = {"path": "/key", "headers": {"apikey": "a-key-that-is-secret"}, "expect": [401, 403]}
    for module, more in (
        ("kong_version_facts", {"sockets_to": True}),
        ("kong_node", {"state": "started", "probe": [probe]}),
        ("kong_node", {"state": "checked", "settings": {"log_level": "warn"}, "secret_settings": {"pg_password": secret}}),
        ("kong_node", {"state": "checked", "settings": {"pg_password": secret, "log_level": "loud"}}),
    ):
        done = ansible(module, **common, **more)
        text = done.stdout + done.stderr
        assert ("FAILED" in text) == ("loud" in json.dumps(more)), text
        assert secret not in text and "a-key-that-is-secret" not in text
