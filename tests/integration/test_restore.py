# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After finish, back to the data of the backup and to blue, under load: told first, measured, killed and run again.

With BLUE_KONG and GREEN_KONG in the environment they run on those kong commands, else on the stand-in.
"""

import hashlib
import json
import re
import shlex
import subprocess
import time

import pytest
from bed import seed
from bed.bed import REPOSITORY
from bed.process import wait_for
from scenes import ADMIN, open_admin

COMMAND = re.compile(r"(ansible-playbook \S.*?restore(?:\.yml)? -e kong_upgrade_confirm_restore=[0-9a-f]{12})")


def finish(bed):
    """Upgrade to the end; then somebody makes a consumer."""
    bed.before = bed.schema(), people(bed)
    bed.done("upgrade.yml", kong_upgrade_until="finish")
    seed.Admin(bed.green[0].address, ADMIN).post("/consumers", {"username": "late"})
    return bed


@pytest.fixture(scope="module")
def finished(module_stage):
    """A bed after finish, on which nobody goes back."""
    return finish(module_stage())


def people(bed):
    return sorted(row[0] for row in bed.sql("SELECT username FROM consumers"))


def dump_of(bed):
    (path,) = [path for path in (bed.directory / "backup").glob("*.pgc") if "before-restore" not in path.name]
    return path


def word_of(bed):
    return hashlib.sha256(dump_of(bed).read_bytes()).hexdigest()[:12]


def is_back(bed, begun_anew=()):
    """Blue has its data and all of the traffic, green has ended, and nothing is left over: begun_anew, names in the record that may be."""
    assert (bed.schema(), people(bed)) == bed.before
    assert bed.serves("blue")
    assert all(found[host.name] == (100, "UP") for found in bed.weights() for host in bed.blue)
    assert not any(host.pid() for host in bed.green)
    assert open_admin(bed.hosts) == [host.name for host in bed.blue]
    for lb in bed.lbs:
        state = json.loads((lb.directory / "state" / "run.json").read_text("utf-8"))
        assert state["owner"] is None and set(state["record"]) <= set(begun_anew), state


def told(outcome):
    """The one problem of a restore without the word, and the command that it names."""
    (problem,) = outcome.blockers
    return problem, COMMAND.search(problem)[1]


def everybody_is_answered(bed):
    with bed.traffic(slow_seconds=1) as load:
        wait_for(lambda: load.figures()["requests"] > 100, 30, "requests")


def test_without_the_word_it_only_tells(finished):
    bed = finished
    before = bed.snapshot()
    with bed.traffic():
        problem, command = told(bed.refused("restore.yml"))
        assert "consumers (3 then, 4 now): 1 added, 0 removed" in problem
        assert str(dump_of(bed)) in problem
        assert "no request is answered" in problem
        assert command.endswith(word_of(bed))
        bed.refused("restore.yml", kong_upgrade_confirm_restore="0123456789ab")
        check = bed.done("restore.yml", options=["--check"], kong_upgrade_confirm_restore=word_of(bed))
        assert check.report["result"] == "predicted"
        assert bed.snapshot() == before
        assert "late" in people(bed)


def test_back_to_the_backup_and_again(stage):
    bed = finish(stage())
    command = told(bed.refused("restore.yml"))[1]
    load = bed.load(rate=60, slow=0)
    begun = time.time()
    done = subprocess.run(
        shlex.split(command), env=bed.play_environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    report = json.loads((bed.report / "report.json").read_text(encoding="utf-8"))
    is_back(bed)
    after = load.figures()["requests"]
    wait_for(lambda: load.figures()["requests"] > after + 120, 30, "requests after it")
    result = load.stop()
    outage = report["restore"]["outage"]
    assert 0 < outage < time.time() - begun
    failed = [row["t"] for row in result["failures"]]
    assert failed, "nobody was answered for a while"
    assert failed[-1] - failed[0] <= outage + 1, "no request failed before or after it"
    assert f"No request was answered for {outage:.1f} s" in report["headline"]
    assert "consumers" in (bed.report / "report.md").read_text(encoding="utf-8")
    assert str(dump_of(bed)) in (bed.report / "report.html").read_text(encoding="utf-8")

    # What was replaced is kept, with its checksum, and has the consumer in it.
    kept = bed.directory / "backup" / report["restore"]["replaced"].rpartition("/")[2]
    assert hashlib.sha256(kept.read_bytes()).hexdigest() in kept.with_name(kept.name + ".sha256").read_text()
    rows = subprocess.run(
        [bed.postgres.bin / "pg_restore", "--data-only", "--table=consumers", "--file=-", kept], capture_output=True, text=True, check=True)
    assert "late" in rows.stdout

    before = bed.snapshot()
    again = bed.done("restore.yml", kong_upgrade_confirm_restore=word_of(bed))
    assert not any(again.changed.values()), again.tail
    assert bed.snapshot() == before
    bed.done("upgrade.yml", kong_upgrade_until="shift")
    assert bed.serves("green")
    assert people(bed) == bed.before[1]


KILLS = [
    ("Restore | Quit green", 1, True),
    ("Restore | Keep the present data", 1, False),
    ("Restore | Put the backup in their place", 0.3, True),
    ("Rollback | Bring fenced blue nodes back", 0.5, True),
    ("Rollback | Blue UP on every load balancer", 0.5, False),
]


def test_killed_again_and_again(stage):
    bed = finish(stage())
    words = {"kong_upgrade_confirm_restore": word_of(bed)}
    for text, seconds, everything in KILLS:
        run = bed.start("restore.yml", **words)
        try:
            run.wait_for(text)
        except AssertionError:
            # A module outlives the run that was killed: what it was doing is done, so that this run has no such task.
            assert run.play.process.poll() == 0, run.output()[-4000:]
            continue
        time.sleep(seconds)
        run.kill(everything)
    bed.done("restore.yml", **words)
    # Where the last kill came with everything done, this run has begun anew.
    is_back(bed, begun_anew=("base_weights", "source"))
    everybody_is_answered(bed)


def test_a_dump_that_is_refused(finished):
    bed = finished
    path, word = dump_of(bed), word_of(bed)
    whole, sum_file = path.read_bytes(), path.with_name(path.name + ".sha256")
    try:
        path.write_bytes(whole[:-1] + b"x")
        before = bed.snapshot()
        (problem,) = bed.refused("restore.yml", kong_upgrade_confirm_restore=word).blockers
        assert "is not the one that was made" in problem
        assert bed.snapshot() == before
    finally:
        path.write_bytes(whole)
    kept = sum_file.read_bytes()
    sum_file.unlink()
    try:
        (problem,) = bed.refused("restore.yml", kong_upgrade_confirm_restore=word).blockers
        assert "no dump" in problem
        assert "kong_upgrade_restore_dump" in problem
    finally:
        sum_file.write_bytes(kept)


def test_data_that_cannot_be_replaced_stay_and_green_serves_again(finished):
    bed = finished
    with bed.postgres.admin() as db:
        db.execute("CREATE SCHEMA theirs")
        db.execute("CREATE VIEW theirs.people AS SELECT username FROM public.consumers")
    schema = bed.schema()
    outcome = bed.refused("restore.yml", kong_upgrade_confirm_restore=word_of(bed))
    assert "depend" in outcome.report["headline"]
    assert "Green serves again" in outcome.report["headline"]
    assert bed.schema() == schema
    assert "late" in people(bed)
    for lb in bed.lbs:
        lb.wait_up([host.name for host in bed.green])
    assert bed.serves("green")
    everybody_is_answered(bed)
    assert open_admin(bed.hosts) == [host.name for host in bed.green]
    assert not any(host.pid() for host in bed.blue)
    with bed.postgres.admin() as db:
        db.execute("DROP SCHEMA theirs CASCADE")


def test_somebody_else_in_the_database_is_not_robbed(finished):
    bed = finished
    before = bed.snapshot()
    with bed.traffic(), bed.postgres.connect() as session:
        session.execute("SELECT 1")
        outcome = bed.refused("restore.yml", kong_upgrade_confirm_restore=word_of(bed))
        assert "unaccounted" in outcome.report["failure"]["message"]
        assert "Nothing was changed" in outcome.report["headline"]
        assert bed.snapshot() == before


def test_before_finish_there_is_a_better_way(stage):
    bed = stage(nodes=1, batches=1, lbs=1)
    bed.done("upgrade.yml")
    before = bed.snapshot()
    outcome = bed.refused("restore.yml", kong_upgrade_confirm_restore=word_of(bed))
    (problem,) = outcome.blockers
    assert "rollback.yml" in problem
    assert bed.snapshot() == before
