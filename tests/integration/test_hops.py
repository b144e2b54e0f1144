# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From 0.14.1 over 1.5.1 to 2.8.5: several hops in one run, and what must not begin.

With BLUE_KONG, MIDDLE_KONG and GREEN_KONG in the environment they run on those kong commands, else on the stand-in.
"""

import json
import os
import types
import urllib.error
import urllib.request

import pytest
from bed import seed
from bed.hosts import PROXY
from bed.process import wait_for
from scenes import ADMIN, KONGS

SHAPE = {"lbs": 1, "blue_version": "0.14.1", "middle_version": "1.5.1", "middle_kong": os.environ.get("MIDDLE_KONG") or None}
HOPS = [
    {"target_version": "1.5.1", "green_group": "kong_middle", "batches": ["kong_blue_a", "kong_blue_b"]},
    {"target_version": "2.8.5", "green_group": "kong_green"},
]
pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        any(KONGS.values()) and not SHAPE["middle_kong"], reason="needs a kong command of each of the three versions"),
]


def status(address, port, path, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{address}:{port}{path}", headers=headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def rows(bed):
    """Entities that must be there after every hop, by what names them."""
    return {table: bed.sql(f"SELECT {column} FROM {table} ORDER BY 1") for table, column in (
        ("consumers", "username"), ("keyauth_credentials", "key"), ("basicauth_credentials", "username"), ("acls", '"group"'))}


def weights(bed):
    """colour -> the weights of its servers on every load balancer."""
    return {colour: [state[0] for lb in bed.weights() for name, state in lb.items() if name.startswith(colour)]
            for colour in ("blue", "middle", "green")}


@pytest.fixture(scope="module")
def climbed(module_stage):
    """A bed after both hops. The first run was killed in the second one, which was rolled back, and the same command went on."""
    bed = module_stage(**SHAPE)
    admin = seed.Admin(bed.blue[0].address, ADMIN)
    admin.post("/apis", {"name": "quiet", "uris": ["/quiet"], "upstream_url": f"http://{bed.blue[0].address}:1"})
    admin.post("/apis/quiet/plugins", {"name": "key-auth"})
    admin.post("/apis", {"name": "marker", "uris": ["/marker"], "upstream_url": f"http://{bed.blue[0].address}:1"})
    for host in bed.blue:  # has heard of both; that the first asks for a key it looks up when somebody first requests it
        wait_for(lambda host=host: status(host.address, PROXY, "/marker") != 404, 10, f"{host.name} knows the apis")
    before = rows(bed)
    load = bed.load(rate=60, slow=3)
    first = bed.start("upgrade.yml", kong_upgrade_hops=HOPS, kong_upgrade_until="finish")
    first.wait_for("Start green and wait until it is ready")
    quiet = [status(host.address, PROXY, "/quiet") for host in bed.blue]
    first.wait_for("Hop 2 of 2, to 2.8.5", timeout=300)
    wait_for(lambda: any(weights(bed)["green"]), 240, "the second hop has moved traffic")
    first.kill()
    report = json.loads((bed.report / "report-1.5.1.json").read_text(encoding="utf-8"))
    back = bed.done("rollback.yml", kong_upgrade_hops=HOPS)
    went_back = (back.report["headline"], weights(bed), [bool(host.pid()) for host in bed.blue + bed.green])
    outcome = bed.play("upgrade.yml", timeout=500, kong_upgrade_hops=HOPS, kong_upgrade_until="finish")
    return types.SimpleNamespace(
        bed=bed, first=first.output(), report=report, outcome=outcome, load=load.stop(), quiet=quiet, before=before,
        went_back=went_back)


def test_two_hops_lose_no_request(climbed):
    assert climbed.outcome.rc == 0, climbed.outcome.tail
    assert climbed.load["failures"] == []
    assert set(climbed.load["versions"]) == {"blue", "middle", "green"}
    assert climbed.bed.unfinished() == []
    assert climbed.bed.green_migrated() == 0
    assert "finished" in climbed.outcome.report["headline"]


def test_the_second_run_began_with_the_second_hop(climbed):
    assert "Hop 1 of 2, to 1.5.1" in climbed.first
    assert "Hop 1 of 2" not in climbed.outcome.output
    assert "Hop 2 of 2, to 2.8.5" in climbed.outcome.output


def test_rollback_in_the_second_hop_goes_back_to_where_that_one_began(climbed):
    headline, shares, running = climbed.went_back
    assert headline == "Kong 1.5.1 to 2.8.5: rolled back, all traffic is on blue."
    assert all(shares["middle"]) and not any(shares["green"] + shares["blue"])
    assert not any(running), "0.14.1 stays fenced, and 2.8.5 is stopped"


def test_no_api_is_open_while_blue_still_serves(climbed):
    assert climbed.quiet == [401] * len(climbed.quiet)


def test_every_api_consumer_and_credential_goes_on(climbed):
    bed = climbed.bed
    assert rows(bed) == climbed.before
    assert bed.sql("SELECT count(*) FROM apis") == [(0,)]
    key = bed.people["alice"]["key"]
    for host in bed.green:
        assert status(host.address, PROXY, "/quiet") == 401
        assert status(host.address, PROXY, "/quiet", apikey=key) in (502, 503)  # let through, to where nobody is
        with urllib.request.urlopen(f"http://{host.address}:{ADMIN}/services", timeout=5) as answer:
            assert {"basic", "marker", "origin", "quiet"} == {service["name"] for service in json.load(answer)["data"]}


def test_each_hop_has_a_report(climbed):
    first, second = climbed.report, climbed.outcome.report
    assert (first["source"], first["target"], first["result"]) == ("0.14.1", "1.5.1", "done")
    assert [phase["phase"] for phase in first["phases"]][-1] == "finish"
    assert first["apis"]["before"]["apis"] == 3
    assert first["apis"]["after"]["apis"] == 0
    assert sorted(first["apis"]["migrated"]) == ["basic", "marker", "quiet"]
    assert any("3 apis became services and routes" in phase["text"] for phase in first["phases"])
    assert "basic, marker, quiet" in (climbed.bed.report / "report-1.5.1.md").read_text(encoding="utf-8")
    assert (second["source"], second["target"], second["result"]) == ("1.5.1", "2.8.5", "done")
    assert "finished" in (climbed.bed.report / "report-2.8.5.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("playbook", ["upgrade", "status"])
def test_again_changes_nothing(climbed, playbook):
    before = climbed.bed.snapshot()
    outcome = climbed.bed.done(f"{playbook}.yml", kong_upgrade_hops=HOPS, kong_upgrade_until="finish")
    assert not any(outcome.changed.values()), outcome.tail
    assert climbed.bed.snapshot() == before
    assert "finished" in outcome.report["headline"]


# ---- what must not begin -----------------------------------------------------------------------------------------


def test_wrong_hops_are_told_before_the_first_change(stage):
    bed = stage(nodes=1, batches=1, **SHAPE)
    admin = seed.Admin(bed.blue[0].address, ADMIN)
    admin.post("/services", {"name": "basic", "url": "http://127.0.0.1:1"})  # as an api is called
    before = (rows(bed), bed.sql("SELECT name FROM apis"), bed.weights())
    wrong = [dict(HOPS[0], batches=[]), {"target_version": "2.8.4", "green_group": "kong_green"},
             {"target_version": "2.8.5", "green_group": "nowhere"}]
    outcome = bed.refused("upgrade.yml", kong_upgrade_hops=wrong)
    problems = "\n".join(outcome.blockers)
    assert "hop 2: kong of green1 is 2.8.5, not 2.8.4" in problems
    assert "hop 3: group nowhere is empty or missing" in problems
    assert "api basic: there is a service of that name already" in problems
    assert len(outcome.blockers) == 3
    outcome = bed.refused("upgrade.yml")  # the target is 2.8.5, as in the inventory
    assert "it takes several hops: 0.14.1 -> 1.5.1 -> 2.8.5" in "\n".join(outcome.blockers)
    assert (rows(bed), bed.sql("SELECT name FROM apis"), bed.weights()) == before
    assert bed.sql("SELECT to_regclass('schema_meta')") == [(None,)]


@pytest.mark.skipif(any(KONGS.values()), reason="writes what a version of its own has left")
def test_leftovers_of_the_hop_before_stop_the_next_one(stage):
    bed = stage(nodes=1, batches=1, lbs=1, blue_version="1.5.1")
    bed.sql("UPDATE schema_meta SET pending = '{001_14_to_15}', executed = array_remove(executed, '001_14_to_15')"
            " WHERE subsystem = 'core'")
    before = bed.snapshot()
    outcome = bed.refused("upgrade.yml", kong_upgrade_finish_leftovers=True,
                          kong_upgrade_accepted_hazards=["KONG-200-PENDING-15"])
    (problem,) = outcome.blockers
    assert "Kong 2.8.5 does not know its pending migrations any more (core: 001_14_to_15)" in problem
    assert "`kong migrations finish` with Kong 1.5.1" in problem
    assert bed.snapshot() == before
