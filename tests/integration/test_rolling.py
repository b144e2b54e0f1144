# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenarios of strategy rolling on the bed: one cluster, whose hosts are taken over batch by batch under load.

With BLUE_KONG and GREEN_KONG in the environment they run on those kong commands, else on the stand-in.
"""

import json
import re
import signal
import urllib.error
import urllib.request

import pytest
from bed import seed
from bed.hosts import ADMIN, PROXY
from bed.process import wait_for
from scenes import KONGS, Watch, open_admin

ON_STANDIN = pytest.mark.skipif(any(KONGS.values()), reason="needs the stand-in of another version")
COMMAND = re.compile(r"ansible-playbook \S.*?restore(?:\.yml)? -e kong_upgrade_confirm_restore=([0-9a-f]{12})")
PUT = """\
- name: Put another command in the place of the present one
  ansible.builtin.copy:
    src: "%s"
    dest: "{{ kong_upgrade_executable }}"
    mode: "0755"
"""


def status_of(url):
    """The HTTP status that a URL is answered with."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def open_early(hosts, run):
    """Names of the hosts whose Admin API is open though the run has not yet told that it opens it."""
    names = open_admin(hosts)  # first: it may tell, and open it, while we look
    return [] if "Finish | Open" in run.output() else names


class Rolling:
    """A bed that has no green hosts; the one that it comes with lends its kong command, as the version to install."""

    def __init__(self, bed):
        self.bed = bed
        self.hosts = bed.blue
        self.old = bed.directory / "old-kong"
        self.old.write_bytes(self.hosts[0].executable.read_bytes())
        self.tasks = {name: bed.directory / f"{name}.yml" for name in ("install", "reinstall")}
        self.tasks["install"].write_text(PUT % bed.green[0].executable, encoding="utf-8")
        self.tasks["reinstall"].write_text(PUT % self.old, encoding="utf-8")
        self.inventory = bed.inventory_with("rolling", edit=self.edit)
        self.inventory.with_name("group_vars").joinpath("kong_green.yml").rename(
            self.inventory.with_name("group_vars").joinpath("kong_blue.yml"))

    def edit(self, data):
        data["all"]["children"].pop("kong_green")
        data["all"]["vars"].update(
            kong_upgrade_strategy="rolling", kong_upgrade_install="tasks",
            kong_upgrade_install_tasks=str(self.tasks["install"]), kong_upgrade_reinstall_tasks=str(self.tasks["reinstall"]))

    def versions(self):
        """The version of every host's command, and whether its node runs."""
        return [host.version() for host in self.hosts], [bool(host.pid()) for host in self.hosts]

    def start(self, name, **more):
        return self.bed.start(name, inventory=self.inventory, **more)

    def play(self, name, **more):
        return self.bed.play(name, inventory=self.inventory, **more)

    def done(self, name, **more):
        return self.bed.done(name, inventory=self.inventory, **more)

    def refused(self, name, **more):
        return self.bed.refused(name, inventory=self.inventory, **more)

    def all_ready(self):
        return all(state[1].startswith("UP") for lb in self.bed.weights() for name, state in lb.items() if name.startswith("blue"))


@pytest.fixture
def rolling(stage):
    return Rolling(stage(nodes=(4, 1), batches=2))


def test_killed_between_batches_and_run_again(rolling):
    old, new = rolling.bed.versions().values()
    listens = {host.name: host.listens(ADMIN) for host in rolling.hosts}
    with rolling.bed.traffic():
        run = rolling.start("upgrade.yml", kong_upgrade_until="finish")
        run.wait_for("Roll | Take over kong_blue_a")
        run.kill()
        assert rolling.hosts[0].version() == new, "the canary was first"
        assert rolling.hosts[2].version() == old
        assert rolling.bed.schema()["core"][1], "up has run, finish has not"

        run = rolling.start("upgrade.yml", kong_upgrade_until="finish")
        with Watch(lambda: open_early(rolling.hosts[:1], run)) as early:
            outcome = run.end()
        assert outcome.rc == 0, outcome.tail
        assert early.found == [], "the Admin API of a rolled node stays shut until finish"
    assert rolling.versions() == ([new] * 4, [True] * 4)
    assert {host.name: host.listens(ADMIN) for host in rolling.hosts} == listens
    assert rolling.hosts[0].kong("migrations", "list", check=False).returncode == 0
    assert rolling.all_ready()
    assert "finished" in outcome.report["headline"]
    again = rolling.done("upgrade.yml", kong_upgrade_until="finish")
    assert not any(again.changed.values()), again.tail
    late = rolling.refused("rollback.yml")
    assert "the point of no return is behind" in late.words
    assert "playbooks/restore.yml" in late.words


@pytest.mark.timeout(600)
def test_after_finish_the_data_of_the_backup_and_the_old_version_come_back(stage):
    """Told first, refused where it could not end, killed with the data back and nobody serving, stuck on a host, and run again."""
    rolling = Rolling(stage(nodes=(3, 1), batches=2, lbs=1))
    bed, (old, new) = rolling.bed, rolling.bed.versions().values()
    schema, before = bed.schema(), {host.name: host.conf.read_text(encoding="utf-8") for host in rolling.hosts}
    rolling.done("upgrade.yml", kong_upgrade_until="finish")
    seed.Admin(rolling.hosts[0].address, ADMIN).post("/consumers", {"username": "late"})
    (problem,) = rolling.refused("restore.yml").blockers
    assert "consumers (3 then, 4 now): 1 added, 0 removed" in problem
    assert "from the stop of the nodes until the old version is UP no request is answered" in problem
    word = {"kong_upgrade_confirm_restore": COMMAND.search(problem)[1]}

    with bed.postgres.admin() as db:
        db.execute("CREATE SCHEMA theirs")
        db.execute("CREATE VIEW theirs.people AS SELECT username FROM public.consumers")
    outcome = rolling.refused("restore.yml", **word)
    assert f"Kong {new} serves again, with the data that it had" in outcome.words
    assert rolling.versions() == ([new] * 3, [True] * 3)
    with bed.postgres.admin() as db:
        db.execute("DROP SCHEMA theirs CASCADE")

    run = rolling.start("restore.yml", **word)
    run.wait_for("The old version on all hosts")
    run.kill()
    tasks = rolling.tasks["reinstall"].read_text(encoding="utf-8")
    rolling.tasks["reinstall"].write_text(tasks.replace(str(rolling.old), "/nowhere"), encoding="utf-8")
    assert "stopped in phase rollback" in rolling.refused("restore.yml", **word).report["headline"]
    rolling.tasks["reinstall"].write_text(tasks, encoding="utf-8")
    done = rolling.done("restore.yml", **word)
    assert re.search(rf"restored to .*, Kong {old} serves on every host. No request was answered for [0-9.]+ s", done.report["headline"])
    assert rolling.versions() == ([old] * 3, [True] * 3)
    assert bed.schema() == schema
    assert bed.sql("SELECT username FROM consumers WHERE username = 'late'") == []
    assert {host.name: host.conf.read_text(encoding="utf-8") for host in rolling.hosts} == before
    assert all(host.listens(ADMIN) for host in rolling.hosts)
    assert rolling.all_ready()
    with bed.traffic(slow_seconds=1) as load:
        wait_for(lambda: load.figures()["requests"] > 100, 30, "everybody is answered again")
    again = rolling.done("restore.yml", **word)
    assert not any(again.changed.values()), again.tail


def test_a_host_that_fails_gets_its_old_version_back_and_rollback_does_it_for_all(rolling):
    old, new = rolling.bed.versions().values()
    canary = {"kong_upgrade_runner": "blue2"}
    for host in rolling.hosts:
        host.conf.chmod(0o640)  # as where Kong runs as a user of its own
    before = {host.name: (host.conf.stat().st_mode, host.conf.read_text(encoding="utf-8")) for host in rolling.hosts}
    bad = rolling.bed.directory / "bad.yml"
    bad.write_text(rolling.tasks["install"].read_text(encoding="utf-8") + """
- name: No room
  ansible.builtin.fail:
    msg: no space left on device
  when: inventory_hostname == 'blue3'
""", encoding="utf-8")
    with rolling.bed.traffic():
        outcome = rolling.refused("upgrade.yml", kong_upgrade_install_tasks=str(bad), **canary)
        assert "no space left on device" in outcome.report["headline"]
        assert f"Kong {old} is back and serves on blue3" in outcome.words
        assert rolling.versions() == ([new, new, old, new], [True] * 4)
        assert rolling.all_ready()
        status = rolling.done("status.yml", **canary)
        assert "3 of 4 hosts are rolled" in status.report["headline"]
        rolling.refused("upgrade.yml", kong_upgrade_haproxy_sockets=["/nowhere.sock"], **canary)
        records = [json.loads((lb.directory / "state" / "run.json").read_text("utf-8"))["record"] for lb in rolling.bed.lbs]
        assert {record["source"] for record in records} == {old}, "a run that sees no weights forgets nothing"
        back = rolling.done("rollback.yml", **canary)
        assert "rolled back" in back.report["headline"]
    assert rolling.versions() == ([old] * 4, [True] * 4)
    assert {host.name: (host.conf.stat().st_mode, host.conf.read_text(encoding="utf-8")) for host in rolling.hosts} == before
    assert all(json.loads((lb.directory / "state" / "run.json").read_text("utf-8"))["record"] == {} for lb in rolling.bed.lbs)
    assert all(host.listens(ADMIN) for host in rolling.hosts)
    assert rolling.all_ready()
    again = rolling.done("rollback.yml", **canary)
    assert not any(again.changed.values()), again.tail
    assert "not begun; there was nothing to take back" in again.report["headline"]


def test_bad_input_is_answered_before_the_first_change(rolling):
    before = rolling.bed.snapshot()
    outcome = rolling.refused("upgrade.yml", kong_upgrade_install="preinstalled", kong_upgrade_runner="lb1")
    assert [row["where"] for row in outcome.report["blockers"]] == ["kong_upgrade_runner", "blue1, blue2, blue3, blue4"]
    assert rolling.bed.snapshot() == before
    predicted = rolling.done("upgrade.yml", options=["--check"], kong_upgrade_until="finish")
    assert "Would drain, stop, install over and start: blue1; blue2; blue3, blue4." in predicted.words
    assert rolling.bed.snapshot() == before


@ON_STANDIN
def test_nothing_to_migrate_on_the_same_openresty_is_a_reload(stage):
    """Also where a host fails before its command is replaced: it serves on, and the same command takes over nothing but that."""
    rolling = Rolling(stage(nodes=(4, 1), batches=2, blue_version="2.8.0"))
    pids = [host.pid() for host in rolling.hosts]
    bad = rolling.bed.directory / "bad.yml"
    bad.write_text("""\
- name: No room
  ansible.builtin.fail:
    msg: no space left on device
  when: inventory_hostname == 'blue3'
""" + rolling.tasks["install"].read_text(encoding="utf-8"), encoding="utf-8")
    rolling.old.unlink()  # nothing could put back what is there
    with rolling.bed.traffic(slow_seconds=30):
        outcome = rolling.refused("upgrade.yml", kong_upgrade_install_tasks=str(bad))
        assert "Kong 2.8.0 is back and serves on blue3" in outcome.words
        assert rolling.versions()[0] == ["2.8.5", "2.8.5", "2.8.0", "2.8.5"]
        outcome = rolling.done("upgrade.yml", kong_upgrade_until="finish")
    assert [host.pid() for host in rolling.hosts] == pids, "no node was stopped"
    assert rolling.versions() == (["2.8.5"] * 4, [True] * 4)
    for host in rolling.hosts:
        with urllib.request.urlopen(f"http://{host.address}:{ADMIN}/", timeout=5) as answer:
            assert json.loads(answer.read())["version"] == "2.8.5", "what runs is the target"
    assert "finished" in outcome.report["headline"]
    again = rolling.done("upgrade.yml", kong_upgrade_until="finish")
    assert not any(again.changed.values()), again.tail


class Dbless(Rolling):
    """The same without a database: every node serves what the database held, from a file. PostgreSQL is ended."""

    def __init__(self, bed):
        super().__init__(bed)
        self.declared = bed.directory / "declared.yml"
        self.hosts[0].kong("config", "db_export", self.declared, "-p", self.hosts[0].prefix)
        for host in self.hosts:
            host.kong("quit", "-p", host.prefix, conf=False)
            host.write_conf({**host.listeners(), "nginx_worker_processes": "1", "anonymous_reports": "off",
                             "database": "off", "declarative_config": str(self.declared)})
            host.start()
        wait_for(self.all_ready, 30, "the load balancers see every node again")
        bed.postgres.process.send_signal(signal.SIGINT)
        bed.postgres.process.wait(30)
        bed.postgres.process = None


def test_dbless_is_replaced_without_migrations_and_put_back_with_its_admin_api_as_it_is(stage):
    rolling = Dbless(stage(nodes=(3, 1), batches=2))
    old, new = rolling.bed.versions().values()
    before = {host.name: host.conf.read_text(encoding="utf-8") for host in rolling.hosts}
    with rolling.bed.traffic():
        done = rolling.done("upgrade.yml", kong_upgrade_until="finish")
        assert rolling.versions() == ([new] * 3, [True] * 3)
        assert [event["phase"] for event in done.report["phases"]] == ["roll"]
        assert "finished" in done.report["headline"]
        assert "Schema: none, DB-less." in done.words
        assert all(host.listens(ADMIN) for host in rolling.hosts)
        again = rolling.done("upgrade.yml", kong_upgrade_until="finish")
        assert not any(again.changed.values()), again.tail
        rolling.done("rollback.yml")
    assert rolling.versions() == ([old] * 3, [True] * 3)
    assert {host.name: host.conf.read_text(encoding="utf-8") for host in rolling.hosts} == before
    assert rolling.all_ready()


def test_dbless_what_no_node_could_start_with_is_told_before_one_is_quit_and_a_mended_conf_is_what_comes_back(stage):
    rolling = Dbless(stage(nodes=(2, 1), batches=2))
    old = rolling.bed.versions()["blue"]
    pids, declared = [host.pid() for host in rolling.hosts], rolling.declared.read_text(encoding="utf-8")
    rolling.declared.write_text(declared + "nonsense: []\n", encoding="utf-8")
    outcome = rolling.refused("upgrade.yml")
    assert f"kong config parse {rolling.declared} refuses" in outcome.report["headline"]
    assert f"Kong {old} is back and serves on blue1" in outcome.report["headline"]
    assert "in 'nonsense': unknown field" in outcome.words
    assert [event["phase"] for event in outcome.report["phases"]] == ["roll"]
    assert [host.pid() for host in rolling.hosts] == pids and rolling.all_ready()

    rolling.declared.write_text(declared, encoding="utf-8")
    spoils = rolling.bed.directory / "spoils.yml"
    spoils.write_text(rolling.tasks["install"].read_text(encoding="utf-8") + f"""
- name: Spoil what is declared
  ansible.builtin.lineinfile: {{path: "{rolling.declared}", line: "nonsense: []"}}
""", encoding="utf-8")
    outcome = rolling.refused("upgrade.yml", kong_upgrade_install_tasks=str(spoils))
    assert f"And Kong {old} could not be put back" in outcome.report["headline"], "it does not read that file either"
    assert rolling.hosts[1].version() == old and rolling.hosts[1].pid() == pids[1], "the second host was not touched"

    mended = rolling.bed.directory / "mended.yml"
    mended.write_text(declared, encoding="utf-8")
    for host in rolling.hosts:
        host.conf.write_text(host.conf.read_text(encoding="utf-8").replace(str(rolling.declared), str(mended)), encoding="utf-8")
    rolling.hosts[1].kong("reload", "-p", rolling.hosts[1].prefix)
    confs = [host.conf.read_text(encoding="utf-8") for host in rolling.hosts]
    rolling.done("upgrade.yml")
    rolling.done("rollback.yml")
    assert [host.conf.read_text(encoding="utf-8") for host in rolling.hosts] == confs
    assert rolling.versions() == ([old] * 2, [True] * 2) and rolling.all_ready()


class Hybrid(Rolling):
    """The same in hybrid mode: the second host is the control plane, which no load balancer knows, the others data planes."""

    PORT = 8005

    def __init__(self, bed):
        super().__init__(bed)
        self.control = control = self.hosts[1]
        planes = [host for host in self.hosts if host is not control]
        pair = [bed.directory / f"cluster.{end}" for end in ("crt", "key")]
        control.kong("hybrid", "gen_cert", *pair, conf=False)
        common = {"nginx_worker_processes": "1", "anonymous_reports": "off", "cluster_cert": str(pair[0]),
                  "cluster_cert_key": str(pair[1]), "nginx_main_user": "root root"}  # for its workers the folder may be closed
        for lb in bed.lbs:
            lb.servers = [server for server in lb.servers if server[0] != control.name]
            lb.write()
            lb.reload()
        for host in self.hosts:
            host.kong("quit", "-p", host.prefix, conf=False)
        control.write_conf({**control.listeners(), **common, **bed.database_settings(), **bed.secret_settings(), "role": "control_plane",
                            "proxy_listen": "off", "cluster_listen": f"{control.address}:{self.PORT}", "db_update_frequency": "1"})
        control.start()
        for host in planes:
            host.write_conf({**host.listeners(), **common, "admin_listen": "off", "role": "data_plane", "database": "off",
                             "cluster_control_plane": f"{control.address}:{self.PORT}"})
            host.kong("start")
        wait_for(self.all_ready, 30, "the load balancers see every data plane, which has its configuration")


def test_hybrid_the_control_plane_goes_first_and_finish_is_its_own(stage):
    rolling = Hybrid(stage(nodes=(3, 1), batches=2))
    new = rolling.bed.versions()["green"]
    with rolling.bed.traffic():
        run = rolling.start("upgrade.yml", kong_upgrade_until="finish", kong_upgrade_runner=rolling.control.name)
        run.wait_for("Roll | Take over kong_blue_a")
        assert rolling.control.version() == new, "the control plane was first"
        with Watch(lambda: open_early([rolling.control], run)) as early:
            outcome = run.end()
        assert outcome.rc == 0, outcome.tail
        assert early.found == [], "the Admin API of a rolled control plane is out of reach until finish"
    control, plane = rolling.control.address, rolling.hosts[2].address
    new_route = urllib.request.Request(f"http://{control}:{ADMIN}/routes", data=b'{"paths": ["/late"]}', method="POST",
                                       headers={"Content-Type": "application/json"})
    urllib.request.urlopen(new_route, timeout=5).close()
    wait_for(lambda: status_of(f"http://{plane}:{PROXY}/late") == 503, 30, "a data plane hears of a route, which has no service")
    assert rolling.versions() == ([new] * 3, [True] * 3)
    assert [host.listens(ADMIN) for host in rolling.hosts] == [False, True, False]
    assert rolling.control.kong("migrations", "list", check=False).returncode == 0
    assert rolling.all_ready()
