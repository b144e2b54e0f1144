# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenarios of an upgrade on the bed: real PostgreSQL and HAProxy, real playbooks, requests that must not fail.

With BLUE_KONG and GREEN_KONG in the environment they run on those kong commands, else on the stand-in.
"""

import base64
import json
import re
import shlex
import socket
import subprocess
import time
import types
import urllib.request

import pytest
from bed.bed import REPOSITORY
from bed.hosts import PROXY
from scenes import ADMIN, KONGS, QUICK, Watch, command_lines, open_admin

ON_STANDIN = pytest.mark.skipif(any(KONGS.values()), reason="needs the stand-in of another version")


# ---- the whole way -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(module_stage):
    """A bed after upgrade.yml to the end at -vvv, and what was seen meanwhile."""
    bed = module_stage(nodes=3)
    scratch = bed.directory / "tmp"
    scratch.mkdir()
    inside = {name: str(scratch) for name in ("TMPDIR", "ANSIBLE_REMOTE_TMP", "ANSIBLE_LOCAL_TEMP")}
    before = bed.schema()
    lines = set()
    load = bed.load(rate=60, slow=3)
    run = bed.start("upgrade.yml", options=["-vvv"], env=inside, kong_upgrade_until="finish")

    def admin():
        names = open_admin(bed.green)
        return (names, "Open the Admin API" in run.output()) if names else None

    with Watch(admin) as early, Watch(lambda: lines.update(command_lines())):
        outcome = run.end()
    result = load.stop()
    return types.SimpleNamespace(
        bed=bed, outcome=outcome, load=result, admin=early.found, lines=lines, before=before, scratch=scratch)


def test_whole_run_loses_no_request(finished):
    assert finished.outcome.rc == 0, finished.outcome.tail
    assert finished.load["failures"] == []
    assert finished.load["kinds"]["slow"]["requests"] > 5
    assert set(finished.load["versions"]) == {"blue", "green"}
    assert finished.bed.unfinished() == []
    assert finished.bed.green_migrated() == 0


def test_report_says_what_happened(finished):
    report = finished.outcome.report
    assert report["result"] == "done"
    assert "finished" in report["headline"]
    assert [phase["phase"] for phase in report["phases"]] == [
        "stage", "backup", "expand", "start", "shift", "retire", "finish"]
    assert [gate["percent"] for gate in report["gates"]] == [50, 100]
    assert report["gates"][0]["blue"]["requests"] > 0
    assert report["gates"][0]["green"]["requests"] > 0
    assert report["left"] == []
    text = (finished.bed.report / "report.html").read_text(encoding="utf-8")
    assert "<svg" in text
    assert "finished" in (finished.bed.report / "report.md").read_text(encoding="utf-8")


def test_admin_api_of_green_is_shut_until_finish(finished):
    assert finished.admin, "the Admin API was seen open at the end"
    assert [names for names, told in finished.admin if not told] == []
    for host in finished.bed.green:
        with urllib.request.urlopen(f"http://{host.address}:{ADMIN}/consumers", timeout=5) as answer:
            assert {person["username"] for person in json.load(answer)["data"]} == set(finished.bed.people)


def test_fenced_blue_cannot_be_started(finished):
    for host in finished.bed.blue:
        for command in ("start", "restart"):
            done = host.kong(command, check=False)
            assert done.returncode != 0
            assert "retired" in done.stderr
            assert "kong_node" in done.stderr
            assert host.pid() is None
    assert "2." in finished.bed.blue[0].kong("version", conf=False).stdout


@pytest.mark.parametrize("playbook", ["upgrade", "plan", "shift", "retire", "finish", "status"])
def test_again_changes_nothing(finished, playbook):
    before = finished.bed.snapshot()
    outcome = finished.bed.done(f"{playbook}.yml", kong_upgrade_until="finish")
    assert set(outcome.changed) == {"localhost"} | {host.name for host in finished.bed.hosts} | {lb.name for lb in finished.bed.lbs}
    assert not any(outcome.changed.values()), outcome.tail
    assert finished.bed.snapshot() == before
    assert "finished" in outcome.report["headline"]


def test_rollback_after_finish_is_refused(finished):
    before = finished.bed.snapshot()
    outcome = finished.bed.refused("rollback.yml")
    assert len(outcome.blockers) == 1
    assert "point of no return" in outcome.blockers[0]
    assert "restore" in outcome.blockers[0]
    assert str(finished.bed.directory / "backup") in outcome.blockers[0]
    assert finished.bed.snapshot() == before


def test_secrets_stay_where_they_belong(finished):
    bed = finished.bed
    secrets = {bed.postgres.password, bed.postgres.superuser_password}
    for name, person in bed.people.items():
        secrets |= {person["key"], person["password"],
                    base64.b64encode(f"{name}:{person['password']}".encode()).decode()}
    found = [(secret, "a command line") for secret in secrets
             if any(secret.encode() in line for line in finished.lines)]
    allowed = re.compile(
        r"hosts/\w+/kong\.conf$|hosts/\w+/prefix/\.kong_env$|backup/[^/]+\.(pgc|yml)$|inventory/group_vars/kong_green\.yml$"
        r"|bed\.json$|load\d+\.spec\.json$")
    seen = set()
    for path in bed.directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            hit = [secret for secret in secrets if secret.encode() in data]
            where = str(path.relative_to(bed.directory))
            if hit and allowed.search(where):
                seen.add(where.partition("/")[0])
                # Kong's own .kong_env is 0640, and so is its kong.conf; everything else is its owner's alone.
                theirs = 0o027 if where.startswith("hosts/") else 0o077
                assert path.stat().st_mode & theirs == 0, f"others may use {where}"
            else:
                found += [(secret, where) for secret in hit]
    assert found == []
    assert {"hosts", "backup"} <= seen
    assert any(path.name.startswith("upgrade-") for path in bed.directory.glob("*.log"))
    left = [str(path) for path in finished.scratch.rglob("*") if path.is_file()]
    assert left == []


@ON_STANDIN
@pytest.mark.parametrize("version", ["2.0.5", pytest.param("2.7.2", marks=pytest.mark.floor)])
def test_other_sources(stage, version):
    bed = stage(nodes=1, batches=1, lbs=1, blue_version=version)
    with bed.traffic():
        with socket.create_server((bed.green[0].address, PROXY)):
            outcome = bed.refused("upgrade.yml", kong_upgrade_until="finish")
        assert "stopped in phase start on green1. kong start failed: nginx: [emerg] bind()" in outcome.report["headline"]
        bed.done("upgrade.yml", kong_upgrade_until="finish")
    assert bed.unfinished() == []
    outcome = bed.done("upgrade.yml", kong_upgrade_until="finish")
    assert not any(outcome.changed.values()), outcome.tail
    outcome = bed.refused("rollback.yml")
    assert "point of no return" in outcome.blockers[0]


# ---- how far a run goes, and back --------------------------------------------------------------------------------


def test_shift_then_back_then_all_the_way(stage):
    bed = stage()
    server_lines = [server_lines_of(lb) for lb in bed.lbs]
    with bed.traffic():
        outcome = bed.done("upgrade.yml", kong_upgrade_until="shift")
        assert bed.serves("green")
        assert all(host.pid() for host in bed.blue)
        assert open_admin(bed.hosts) == ["blue1", "blue2"]
        weights = bed.weights()
        for lb in bed.lbs:
            lb.reload()
            lb.wait_up([host.name for host in bed.hosts])
        assert bed.weights() == weights

        refused = bed.refused("retire.yml", kong_upgrade_haproxy_sockets=["/nowhere.sock"])
        assert "how far it is cannot be told without lb1, lb2; " in refused.report["headline"]
        outcome = bed.done("rollback.yml")  # and to the weights that were, which a run that sees none has not forgotten
        assert "rolled back" in outcome.report["headline"]
        assert bed.serves("blue")
        assert all(found[host.name][0] == 100 for found in bed.weights() for host in bed.blue)
        assert not any(host.pid() for host in bed.green)
        assert [server_lines_of(lb) for lb in bed.lbs] == server_lines
        outcome = bed.done("rollback.yml")
        assert not any(outcome.changed.values()), outcome.tail

        outcome = bed.done("upgrade.yml")
        assert bed.serves("green")
        assert not any(host.pid() for host in bed.blue)
        assert open_admin(bed.hosts) == []
        again = bed.done("upgrade.yml")
        assert not any(again.changed.values()), again.tail
        for told in (outcome, again):
            assert "No Admin API answers" in told.report["headline"]
            command = re.search(r"(ansible-playbook .*?)(?: \(|$)", told.report["headline"])[1]
        done = subprocess.run(
            shlex.split(command), env=bed.play_environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
            check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert bed.unfinished() == []


def server_lines_of(lb):
    """The server lines of haproxy.cfg."""
    return [line.split() for line in lb.conf.read_text(encoding="utf-8").splitlines() if line.strip().startswith("server ")]


def test_back_after_retire(stage):
    bed = stage()
    commands = [host.executable.read_bytes() for host in bed.blue]
    with bed.traffic():
        bed.done("upgrade.yml")
        assert not any(host.pid() for host in bed.blue)
        outcome = bed.done("rollback.yml")
        assert "rolled back" in outcome.report["headline"]
        assert bed.serves("blue")
        assert all(found[host.name] == (100, "UP") for found in bed.weights() for host in bed.blue)
        assert open_admin(bed.hosts) == ["blue1", "blue2"]
        assert not any(host.pid() for host in bed.green)
    assert [host.executable.read_bytes() for host in bed.blue] == commands  # no fence is left
    with bed.traffic():
        bed.done("upgrade.yml")
        bed.done("finish.yml")
    assert bed.unfinished() == []


def test_back_from_every_phase(stage):
    bed = stage()
    with bed.traffic():
        for text in ("Guard after phase stage", "Guard after phase expand", "Guard after phase start",
                     "Traffic to green, then watch, 50 %", "Retire | Drain kong_blue_b"):
            run = bed.start("upgrade.yml")
            run.wait_for(text)
            run.kill()
            bed.done("rollback.yml")
            assert bed.serves("blue"), text
            assert all(found[host.name] == (100, "UP") for found in bed.weights() for host in bed.blue), text
            assert open_admin(bed.hosts) == ["blue1", "blue2"], text
            assert not any(host.pid() for host in bed.green), text


def test_what_one_run_tells_of_another(stage):
    """Killed in a drain, looked at, gone on with, refused at finish, finished."""
    bed = stage(nodes=2, batches=1, lbs=1)
    given = {"kong_upgrade_blue_group": "kong_blue", "vault_of_ours": "hunter2"}
    with bed.traffic(slow_seconds=8):
        run = bed.start("upgrade.yml")
        run.wait_for("Retire | Drain kong_blue_a")
        forced = re.compile(r"^\d+ kong \d+ blue1 \S+ \d+ (8|9) ", re.M)  # admin state: drain, or maint after it
        while not forced.search(bed.lbs[0].ask("show servers state kong")) and run.play.process.poll() is None:
            time.sleep(0.1)
        run.kill()
        status = bed.done("status.yml").report["headline"]
        assert "shift is done. Interrupted: run " in status and "Batch kong_blue_a is begun (taken out of service: blue" in status, status

        words = [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
        retired = bed.done("upgrade.yml", options=words).report
        assert retired["backup"]["dump"].startswith(str(bed.directory / "backup")) and len(retired["backup"]["sha256"]) == 64
        assert "hunter2" not in retired["headline"] and "-e kong_upgrade_blue_group=kong_blue" in retired["headline"]
        assert "vault_of_ours" in retired["headline"] and retired["remains"][0] in retired["headline"]
        assert retired["steps_elsewhere"] == 100 and not retired["gates"]
        pages = {path: path.read_bytes() for path in bed.report.glob("report.*")}
        assert len(pages) == 3

        with bed.postgres.connect() as session:
            session.execute("SELECT 1")
            refused = bed.start("finish.yml")
            for path, page in pages.items():  # a Scene removes what is there before a run
                path.write_bytes(page)
            assert refused.end().rc == 2
            assert {path: path.read_bytes() for path in pages} == pages
            plan = json.loads((bed.report / "plan.json").read_text(encoding="utf-8"))
            assert plan["failure"]["message"].startswith("Finish is refused") and "unaccounted" not in plan["headline"]
            assert "unaccounted for" in refused.output()

        run = bed.start("finish.yml")
        for path, page in pages.items():
            path.write_bytes(page)
        report = run.end().report
    assert bed.unfinished() == []
    assert report["backup"] == retired["backup"] and [row["run"] for row in report["runs_before"]] == [retired["run"]]
    assert "+admin_listen = off" not in report["conf"]["diff"]
    assert all("state file" in line for line in report["remains"])
    assert len(list(bed.lbs[0].directory.glob("haproxy.cfg.*~"))) <= 2, "one copy a run"


def test_each_load_balancer_has_the_servers_of_its_zone_alone(stage):
    """And the groups have other names, which are given on the command line."""
    bed = stage()
    for number, lb in enumerate(bed.lbs, 1):
        mine = (f"server blue{number} ", f"server green{number} ")
        lines = lb.conf.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not line.strip().startswith("server ") or line.strip().startswith(mine)]
        lb.conf.write_text("".join(kept), encoding="utf-8")
        lb.reload()

    def zones(data):
        groups = data["all"]["children"]
        data["all"]["children"] = {
            "gateway_old": {"children": {"kong_blue": groups["kong_blue"]}},
            "gateway_new": {"children": {"kong_green": {"children": {
                f"zone_{host.name}": {"hosts": {host.name: groups["kong_green"]["hosts"][host.name]}} for host in bed.green}}}},
            "balancers": {"hosts": {
                lb.name: {**groups["kong_lb"]["hosts"][lb.name], "kong_upgrade_serves": [batch, f"zone_{host.name}"]}
                for lb, (batch, dummy), host in zip(bed.lbs, bed.batches, bed.green)}},
        }

    names = {"kong_upgrade_blue_group": "gateway_old", "kong_upgrade_green_group": "gateway_new", "kong_upgrade_lb_group": "balancers"}
    with bed.traffic():
        report = bed.done("upgrade.yml", inventory=bed.inventory_with("zones", zones), kong_upgrade_until="finish", **names).report
    assert bed.unfinished() == []
    assert [gate["percent"] for gate in report["gates"]] == QUICK["kong_upgrade_steps"]
    assert [sorted(found) for found in bed.weights()] == [["blue1", "green1"], ["blue2", "green2"]]
    assert bed.serves("green")


# ---- killed and run again ----------------------------------------------------------------------------------------

# Text that is waited for (the title of a task that includes others is shown before they run), seconds after it, and whether
# the workers are killed too. A module that runs on a host outlives them, and ends what it was doing.
KILLS = [
    ("Guard after phase stage", 0, True),
    ("Phase expand", 0.3, True),
    ("Phase start", 0.3, False),
    ("Traffic to green, then watch, 50 %", 0.5, True),
    ("Traffic to green, then watch, 100 %", 0.5, False),
    ("Retire | Drain kong_blue_a", 0.5, True),
    ("Retire | Drain kong_blue_b", 0.5, False),
    ("Finish | Prove that blue is gone", 1, True),
    ("Finish | Open the Admin API of the first", 0, False),
]


def test_killed_again_and_again(stage):
    bed = stage()
    variables = {"kong_upgrade_until": "finish", "kong_upgrade_lock_timeout": 20}
    with bed.traffic():
        for text, seconds, everything in KILLS:
            run = bed.start("upgrade.yml", **variables)
            run.wait_for(text)
            time.sleep(seconds)
            run.kill(everything)
        outcome = bed.done("upgrade.yml", **variables)
    assert bed.unfinished() == []
    assert bed.green_migrated() == 0
    assert "finished" in outcome.report["headline"]
    assert outcome.report["backup"]["sha256"], "the backup is that of the first run"
    assert all(json.loads((lb.directory / "state" / "run.json").read_text("utf-8"))["owner"] is None for lb in bed.lbs)
