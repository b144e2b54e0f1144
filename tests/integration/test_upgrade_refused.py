# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade refuses, and where it stops: wrong input, a living blue node, locks, a gate that stays shut, drains.

With BLUE_KONG and GREEN_KONG in the environment they run on those kong commands, else on the stand-in.
"""

import contextlib
import http.client
import http.server
import json
import re
import threading
import time
import urllib.request

import pytest
from bed import seed
from bed.process import wait_for
from handbook import unexplained
from scenes import ADMIN, KONGS, Watch, connects, open_admin

SEEDED = "6f1d1f5e-2d7c-4a55-9a0e-6a1d3b7c0001"  # a plugin
SLIP = "s3cr3t-of-a-slip"  # under a name that is nearly that of a secret
ON_STANDIN = pytest.mark.skipif(any(KONGS.values()), reason="needs the stand-in of another version")


# ---- what must not get past --------------------------------------------------------------------------------------


def test_living_blue_node_outside_the_inventory(stage):
    bed = stage(nodes=(3, 2))
    hidden = bed.blue[2]
    inventory = bed.inventory_with(
        "hidden", without=[hidden.name], edit=lambda data: data["all"]["vars"].update(kong_upgrade_batches=["kong_blue_a"]))
    with bed.traffic():
        outcome = bed.refused("upgrade.yml", inventory=inventory, kong_upgrade_until="finish")
        assert "unaccounted" in outcome.report["failure"]["message"]
        assert all(json.loads((lb.directory / "state" / "run.json").read_text("utf-8"))["owner"] is None for lb in bed.lbs)
        ours = {f"{address}:{port}" for address, port in bed.sql(
            "SELECT host(client_addr), client_port FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()")}
        told = set(re.findall(r"from (\d+\.\d+\.\d+\.\d+:\d+)", outcome.words))
        assert told
        assert told & ours, (told, ours)
        assert bed.schema()["core"][1], "something is pending"
        assert bed.green_migrated() == 4
        assert open_admin(bed.green) == []
        # Found and put into the inventory, it is retired like the others.
        outcome = bed.done("upgrade.yml", kong_upgrade_until="finish")
    assert bed.unfinished() == []


def conf_for_migrations(bed):
    """Give the first green host what `kong migrations` needs, and return the host."""
    host = bed.green[0]
    host.write_conf({**host.listeners(), **bed.database_settings(), "pg_password": bed.postgres.password})
    return host


def test_stale_migration_lock(stage):
    bed = stage(nodes=1, batches=1, lbs=1)
    owner = bed.kill_up(conf_for_migrations(bed), lock_timeout=300)[0]
    new = bed.green_migrated()
    assert new == 5
    with bed.traffic():
        outcome = bed.refused("upgrade.yml", kong_upgrade_lock_timeout=3)
        assert owner in outcome.words
        assert "lock" in outcome.report["headline"]
        assert outcome.report["result"] == "failed"
        assert bed.green_migrated() == 5
        assert bed.migration_lock()[0] == owner

        run = bed.start("upgrade.yml", kong_upgrade_lock_timeout=30)
        run.wait_for(owner)
        bed.sql("UPDATE locks SET ttl = current_timestamp AT TIME ZONE 'UTC' + interval '6 seconds' WHERE key = 'migrations'")
        outcome = run.end()
    assert outcome.rc == 0, outcome.tail
    assert bed.green_migrated() in (0, 4)
    assert bed.migration_lock() is None


def test_transaction_that_blocks_up(stage):
    bed = stage(nodes=1, batches=1, lbs=1)
    before = bed.schema()

    def read_routes():
        begun = time.monotonic()
        with urllib.request.urlopen(f"http://{bed.blue[0].address}:{ADMIN}/routes", timeout=60) as answer:
            json.load(answer)
        return time.monotonic() - begun

    with bed.traffic() as load:
        with bed.idle_transaction() as session:
            with Watch(read_routes) as reads:
                load.mark()
                outcome = bed.refused("upgrade.yml", kong_upgrade_block_timeout=2, kong_upgrade_max_transaction_age=600)
                load.mark()
            pid = session.info.backend_pid
            assert re.search(rf"\b{pid}\b", outcome.report["headline"]), outcome.report["headline"]
            assert max(reads.found) > 1, "blue's reads did wait"
            assert max(reads.found) < 4
            assert bed.schema() == before
            assert bed.migration_lock() is None
            # An old transaction is seen before `up` begins, and nobody waits at all.
            with Watch(read_routes) as reads:
                outcome = bed.refused("upgrade.yml", kong_upgrade_max_transaction_age=1)
            assert re.search(rf"\b{pid}\b", outcome.report["headline"]), outcome.report["headline"]
            assert max(reads.found) < 2
            assert bed.schema() == before
        wait_for(lambda: load.figures()["sections"][1:], 10, "the load shows its sections")
        assert max(part["max_ms"] or 0 for part in load.figures()["sections"]) < 4000
        bed.done("upgrade.yml", kong_upgrade_until="shift")
    assert bed.green_migrated() in (0, 4)


def test_second_run_at_the_same_time(stage):
    bed = stage(nodes=1, batches=1)
    other = bed.inventory_with("other")
    with bed.traffic():
        run = bed.start("upgrade.yml", kong_upgrade_until="shift")
        run.wait_for("Traffic to green, then watch, 50 %")
        with run.halted():
            before = bed.schema()
            watcher = bed.start("status.yml", inventory=other, kong_upgrade_report_dir=str(bed.directory / "watcher"),
                                env={"ANSIBLE_STDOUT_CALLBACK": "bluegreen.kong.progress"})
            outcome = bed.refused("upgrade.yml", inventory=other, kong_upgrade_report_dir=str(bed.directory / "other"))
            problems = json.loads((bed.directory / "other" / "plan.json").read_text("utf-8"))["blockers"]
            assert all("run.json" in row["do"] for row in problems)
            for lb in bed.lbs:
                holder = json.loads((lb.directory / "state" / "run.json").read_text("utf-8"))["owner"]
                (told,) = [row["what"] for row in problems if lb.name in row["where"].split(", ") and "another upgrade run" in row["what"]]
                assert told in outcome.words
                assert holder["run_id"] in told
                assert holder["controller"] in told
                assert f"pid {run.play.process.pid}" in told
                assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", told)
            watched = watcher.end()
            assert watched.rc == 0, watched.tail
            assert f"At work now: run {holder['run_id']} of {holder['controller']}" in watched.output
            assert "TASK [" not in watched.output
            assert len(watched.output.splitlines()) < 12, watched.output
            assert bed.schema() == before
        assert run.end().rc == 0
        assert bed.serves("green")
        bed.done("upgrade.yml", inventory=other)  # the lock was given back


# ---- wrong input -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(module_stage):
    """A bed on which nothing may change; the load balancers have found out that green is down."""
    bed = module_stage(nodes=3)
    wait_for(lambda: all(status == "DOWN" for found in bed.weights() for name, (dummy, status) in found.items()
                         if name.startswith("green")), 20, "green is down for the load balancers")
    return bed


@contextlib.contextmanager
def unchanged(bed):
    """Nothing changes inside, and nobody is left with the lock."""
    before = bed.snapshot()
    yield
    assert bed.snapshot() == before
    for lb in bed.lbs:
        path = lb.directory / "state" / "run.json"
        assert not path.exists() or json.loads(path.read_text("utf-8")) == {"owner": None, "record": {}}


def hosts_of(data, colour):
    """{name: variables} of an inventory's colour."""
    group = data["all"]["children"][f"kong_{colour}"]
    found = dict(group.get("hosts") or {})
    for child in (group.get("children") or {}).values():
        found.update(child["hosts"])
    return found


def named(outcome, *rows):
    """Every row (words, in one problem, in any order) is in the one list of problems, which the output and the guide have too."""
    assert outcome.rc == 2
    assert outcome.report is not None, outcome.tail
    assert outcome.report["result"] == "blocked", outcome.tail
    assert unexplained(blocker["what"] for blocker in outcome.report["blockers"]) == []
    for row in rows:
        assert any(all(word in problem for word in row) for problem in outcome.blockers), (row, outcome.blockers)
        assert all(word in outcome.words for word in row)
    assert f"{len(outcome.blockers)} problem" in outcome.words


def test_plan_does_with_blue_alone(fresh):
    def edit(data):
        for group in ("kong_green", "kong_lb"):
            del data["all"]["children"][group]

    with unchanged(fresh):
        outcome = fresh.done("plan.yml", inventory=fresh.inventory_with("blue", edit))
    assert outcome.report["result"] == "looked"
    assert outcome.report["path"][0]["strategy"] == "blue_green"
    assert outcome.report["left"][0] == "stage"
    assert "kong_green is empty" in outcome.words


def test_plan_finds_what_is_seeded(fresh):
    workspaces = fresh.sql("SELECT id::text FROM workspaces WHERE name = 'default'") if fresh.versions()["blue"] >= "2.1" else []
    column, value = (", ws_id", ", %s") if workspaces else ("", "")
    config = json.dumps({"functions": ["local socket = require 'socket'"]})
    fresh.sql(
        f"INSERT INTO plugins (id, name, enabled, cache_key, config{column}) VALUES (%s, 'pre-function', false, 'x', %s{value})",
        SEEDED, config, *(workspaces[0] if workspaces else []))
    confs = {host.conf: host.conf.read_text(encoding="utf-8") for host in fresh.blue}
    for conf, text in confs.items():
        conf.write_text(text + f"client_body_buffer_size = 16k\nloglevel = debug\npg_pasword = {SLIP}\n", encoding="utf-8")
    try:
        with unchanged(fresh):
            outcome = fresh.refused("plan.yml", options=["-v"])
            assert "pg_pasword" in outcome.words and SLIP not in outcome.words
            named(outcome, ("KONG-222-SERVERLESS-SANDBOX", SEEDED, "set untrusted_lua"))
            review = outcome.report["conf"]
            assert [row["key"] for row in review["unknown"]] == ["loglevel", "pg_pasword"]
            assert "client_body_buffer_size" in [row["key"] for row in review["deprecated"]]
            assert "+nginx_http_client_body_buffer_size = " in review["diff"]
            accepted = fresh.done("plan.yml", kong_upgrade_accepted_hazards=["KONG-222-SERVERLESS-SANDBOX"])
        assert [row["accepted"] for row in accepted.report["hazards"] if row["severity"] == "block"] == [True]
    finally:
        for conf, text in confs.items():
            conf.write_text(text, encoding="utf-8")
        fresh.sql("DELETE FROM plugins WHERE id = %s", SEEDED)


def test_wrong_input_is_one_list(fresh):
    def edit(data):
        blue, green, lbs = (hosts_of(data, colour) for colour in ("blue", "green", "lb"))
        green["green1"]["kong_upgrade_settings"] |= {"pg_database": "elsewhere"}
        green["green2"] |= {"kong_upgrade_prefix": blue["blue1"]["kong_upgrade_prefix"]}
        green["green3"]["kong_upgrade_executable"] = blue["blue1"]["kong_upgrade_executable"]
        lbs["lb1"]["kong_upgrade_haproxy_conf_file"] = f"{fresh.directory}/nowhere.cfg"
        lbs["lb2"]["kong_upgrade_haproxy_sockets"] = [f"{fresh.directory}/nowhere.sock"]
        blue["blue3"]["kong_upgrade_executable"] = green["green1"]["kong_upgrade_executable"]
        blue["blue2"] |= {"ansible_connection": "ssh", "ansible_host": fresh.lbs[0].address, "ansible_port": 9}
        data["all"]["vars"] |= {
            "kong_upgrade_batches": ["kong_blue_a", "kong_blue_z"], "kong_upgrade_sock": 3,
            "kong_upgrade_drain_timeout": "long", "kong_upgrade_retries": {"a": 1}}

    blue_version = fresh.versions()["blue"]
    with unchanged(fresh):
        outcome = fresh.refused("upgrade.yml", inventory=fresh.inventory_with("wrong", edit))
        named(
            outcome,
            ("green1", "another database", "elsewhere"),
            ("green2", "prefix", str(fresh.blue[0].prefix), "blue1"),
            ("green3", blue_version, fresh.versions()["green"]),
            ("lb1", "kong_upgrade_haproxy_conf_file", "nowhere.cfg cannot be read"),
            ("lb2", "nowhere.sock"),
            ("blue2", "unreachable"),
            ("blue3", "in no batch"),
            ("blue3", "its kong command", fresh.versions()["green"], f"its node runs {blue_version}", "kong_upgrade_executable"),
            ("kong_blue_z",),
            ("kong_upgrade_sock",),
            ("kong_upgrade_retries",),
            ("kong_upgrade_drain_timeout", "long"),
        )


def test_wrong_choices_are_one_list(fresh):
    with unchanged(fresh):
        outcome = fresh.refused(
            "upgrade.yml", kong_upgrade_until="finsh", kong_upgrade_driver="f5", kong_upgrade_steps=[50, "half"],
            kong_upgrade_gone="blue1, blue2", kong_upgrade_backup="yes", kong_upgrade_soak="short")
        named(outcome, ("kong_upgrade_until", "finsh"), ("kong_upgrade_driver", "f5"), ("kong_upgrade_steps", "half"),
              ("kong_upgrade_backup",), ("kong_upgrade_soak", "short"))


@pytest.mark.parametrize("steps", [[100, 50], [50], [0, 100], [50, 120]])
def test_steps_that_do_not_lead_to_green(fresh, steps):
    with unchanged(fresh):
        named(fresh.refused("plan.yml", kong_upgrade_steps=steps), ("kong_upgrade_steps",))


def test_host_in_both_groups(fresh):
    def edit(data):
        hosts_of(data, "green")
        data["all"]["children"]["kong_green"]["hosts"]["blue1"] = {}

    with unchanged(fresh):
        outcome = fresh.refused("upgrade.yml", inventory=fresh.inventory_with("both", edit))
        named(outcome, ("blue1", "kong_blue", "kong_green"))
        assert len(outcome.blockers) == 1, outcome.blockers


@pytest.mark.parametrize("group", ["kong_green", "kong_lb", "kong_blue"])
def test_empty_group(fresh, group):
    def edit(data):
        data["all"]["children"][group] = {"hosts": {}}
        data["all"]["vars"]["kong_upgrade_batches"] = []

    with unchanged(fresh):
        named(fresh.refused("upgrade.yml", inventory=fresh.inventory_with(f"no-{group}", edit)), (group, "empty"))


def test_limit_that_cuts_the_groups(fresh):
    with unchanged(fresh):
        outcome = fresh.refused("upgrade.yml", options=["--limit", "kong_green:kong_lb"])
        named(outcome, ("blue1", "blue2", "blue3", "--limit"))


def test_source_below_1_0(fresh):
    old = fresh.directory / "old-kong"
    old.write_text("#!/bin/sh\necho 0.36-2\n", encoding="ascii")
    old.chmod(0o755)

    def edit(data):
        for name, variables in hosts_of(data, "blue").items():
            variables |= {"kong_upgrade_executable": str(old), "kong_upgrade_prefix": f"{fresh.directory}/old-{name}"}

    with unchanged(fresh):
        named(fresh.refused("upgrade.yml", inventory=fresh.inventory_with("old", edit)), ("0.36",))


@pytest.mark.parametrize("options", [["--check"], ["--check", "--diff"]])
def test_check_mode_predicts_and_changes_nothing(fresh, options):
    with unchanged(fresh):
        outcome = fresh.done("upgrade.yml", options=options, kong_upgrade_until="finish")
    assert "This run: stage, backup, expand, start, shift, retire, finish" in outcome.words
    assert outcome.report["result"] == "predicted"
    assert "nothing was changed" in outcome.report["headline"]
    assert set(outcome.changed) == {"localhost"} | {host.name for host in fresh.hosts} | {lb.name for lb in fresh.lbs}
    # Each host is told what would change there.
    assert all(changed for host, changed in outcome.changed.items() if host != "localhost"), outcome.changed
    for secret in (fresh.postgres.password, *(word for person in fresh.people.values() for word in person.values())):
        assert secret not in outcome.output


# ---- gate and drain ----------------------------------------------------------------------------------------------


class Broken(http.server.BaseHTTPRequestHandler):
    """A node that is well by its health check and answers everything else with 500."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answer."""
        well = self.path.startswith("/open/health")
        self.send_response(200 if well else 500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


def test_gate_puts_all_weight_back(stage):
    bed = stage()
    bad = bed.green[0]
    node = http.server.ThreadingHTTPServer((bad.address, 8888), Broken)
    threading.Thread(target=node.serve_forever, daemon=True).start()
    for lb in bed.lbs:
        lb.ask(f"set server kong/{bad.name} addr {bad.address} port 8888")
    load = bed.load(rate=60, slow=0)
    outcome = bed.refused("upgrade.yml", kong_upgrade_until="finish", kong_upgrade_soak=2)
    assert bed.serves("blue")
    assert all(found[host.name] == (100, "UP") for found in bed.weights() for host in bed.blue)
    result = load.stop()
    (gate,) = outcome.report["gates"]
    assert (gate["percent"], gate["verdict"]) == (50, "breached")
    failed, asked = gate["green"]["failures"], gate["green"]["requests"]
    assert 0 < failed < asked
    assert f"green {failed} of {asked} requests failed" in outcome.report["headline"]
    assert "stopped in phase shift. " in outcome.report["headline"], "no host has the trouble alone"
    assert outcome.report["result"] == "failed"
    assert result["failed"] >= failed
    assert {(row["server"], row["reason"][:30]) for row in result["failures"]} == {
        (bad.name, "status 500 instead of 200: "[:30])} or {row["server"] for row in result["failures"]} == {bad.name}
    last = result["failures"][-1]["t"] - result["failures"][0]["t"]
    assert last < 2 + 4, "back at once"
    assert all(host.pid() for host in bed.blue)
    for lb in bed.lbs:
        lb.ask(f"set server kong/{bad.name} addr {bad.address} port 8000")
        lb.wait_up([bad.name])
    node.shutdown()
    node.server_close()
    with bed.traffic():
        bed.done("upgrade.yml", kong_upgrade_until="shift")
    assert bed.serves("green")


class LongRequest(threading.Thread):
    """A request that takes until release(), on one server of one load balancer."""

    def __init__(self, bed, server):
        super().__init__(daemon=True)
        self.lb, self.until, self.answer = bed.lbs[0], bed.directory / f"release-{server}", None
        others = [host.name for host in bed.hosts if host.name != server]
        before = {name: row["weight"] for name, row in self.lb.stat().items()}
        for name in others:
            self.lb.ask(f"set server kong/{name} weight 0")
        self.lb.ask(f"set server kong/{server} weight 100")
        self.start()
        wait_for(lambda: self.lb.stat()[server]["scur"] == "1", 10, f"{server} has the long request")
        for name in [*others, server]:
            self.lb.ask(f"set server kong/{name} weight {before[name]}")

    def release(self):
        """Let it be answered, and wait for that."""
        self.until.touch()
        self.join()

    def run(self):
        connection = http.client.HTTPConnection(self.lb.address, self.lb.port, timeout=600)
        try:
            connection.request("GET", f"/open/slow?until={self.until}")
            self.answer = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            self.answer = error
        finally:
            self.until.touch()  # nobody asks any more


def test_drain_has_an_end(stage):
    bed = stage()
    status, dummy = seed.Admin(bed.blue[0].address, ADMIN).call("PATCH", "/services/origin", {"read_timeout": 600_000})
    assert status == 200
    bed.done("upgrade.yml", kong_upgrade_until="shift")
    request = LongRequest(bed, "blue1")
    with bed.traffic(slow_seconds=2):
        outcome = bed.refused("upgrade.yml", kong_upgrade_drain_timeout=2)
        assert "blue1" in outcome.report["headline"]
        assert re.search(r"from 127\.0\.0\.1:\d+|127\.0\.0\.1:\d+", outcome.words), outcome.tail
        assert request.is_alive()
        assert all(host.pid() for host in bed.blue)
        assert bed.serves("green")
        request.release()
        assert request.answer == 200

        bed.lbs[0].ask("set server kong/blue2 state ready")
        request = LongRequest(bed, "blue2")
        outcome = bed.refused("retire.yml", kong_upgrade_drain_timeout=2)
        assert "blue2" in outcome.report["headline"]
        assert [host.name for host in bed.blue if host.pid()] == ["blue2"]
        assert request.is_alive()
        outcome = bed.done("upgrade.yml", kong_upgrade_drain_timeout=2, kong_upgrade_drain_on_timeout="cut")
        assert not any(host.pid() for host in bed.blue)
        request.release()
        assert request.answer == 502, "HAProxy's word for a session that was shut down"


def test_request_longer_than_the_usual_quit(stage):
    """A direct connection past the load balancer is waited for as well: `kong quit` gets the time it needs."""
    bed = stage(nodes=1, batches=1, lbs=1)
    outcome = bed.done("upgrade.yml", kong_upgrade_until="shift", kong_upgrade_backup="external",
                       kong_upgrade_backup_command="echo snapshot-7 of $(hostname)")
    assert outcome.report["backup"]["external"].startswith("snapshot-7 of ")
    assert outcome.report["backup"]["dump"] == ""
    answers = []

    def ask():
        with urllib.request.urlopen(f"http://{bed.blue[0].address}:8000/open/slow?s=20", timeout=60) as answer:
            answers.append(answer.status)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    wait_for(lambda: connects(bed.blue[0].address, 8000), 5, "blue answers")
    bed.done("upgrade.yml")
    asking.join()
    assert answers == [200]
    assert bed.blue[0].pid() is None
