# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""AWX: what awx_configure.yml makes there, every way through the workflow, and the workflow itself, run as AWX runs it, on the bed."""

import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import types

import awx as rig
import pytest
from bed.bed import REPOSITORY

pytestmark = pytest.mark.timeout(900)  # the fixtures run many playbooks
NAME = "Kong upgrade"
SECRETS = {"pg_password": "not-the-real-one"}
VARIABLES = {
    "kong_awx_secret_settings": SECRETS,
    "kong_awx_extra_vars": {"kong_upgrade_steps": [50, 100], "kong_upgrade_soak": 1, "kong_upgrade_gate_min_requests": 5}}


def configure(awx, *options, **variables):
    """Run awx_configure.yml with the variables of the example and these: how many tasks changed something."""
    env = {**os.environ, **rig.login(awx), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        [pathlib.Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", REPOSITORY / "playbooks" / "awx_configure.yml",
         "-e", f"@{REPOSITORY / 'examples' / 'awx' / 'variables.yml'}", *options,
         "-e", json.dumps({"ansible_python_interpreter": sys.executable, **variables})],
        cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS.values())
    return int(re.search(r"localhost +: ok=\d+ +changed=(\d+)", done.stdout)[1])


@pytest.fixture(scope="module")
def configured():
    """An AWX after awx_configure.yml with the example's variables."""
    with rig.served() as awx:
        awx.request("POST", "/api/v2/credential_types/", {}, {
            "name": "Machine", "kind": "ssh", "inputs": {"fields": []}, "injectors": {"extra_vars": {}}})
        awx.request("POST", "/api/v2/credentials/", {}, {
            "name": "Gateway hosts", "credential_type": awx.named("credential_types", "Machine")["id"], "inputs": {}})
        assert configure(awx, **VARIABLES) > 5
        yield awx


@pytest.fixture(scope="module")
def nodes(configured):
    """{identifier: node} of the workflow."""
    return {node["identifier"]: node for node in configured.all("workflow_job_template_nodes")}


def test_a_second_run_changes_nothing(configured):
    configured.writes.clear()
    assert configure(configured, **VARIABLES, kong_awx_credentials="Gateway hosts") == 0  # a list of one may be given as text
    assert configured.writes == []


def test_nothing_can_cut_a_run(configured):
    templates = configured.all("job_templates") + configured.all("workflow_job_templates")
    assert len(templates) == 12
    for template in templates:
        assert not [key for key, value in template.items() if key.startswith("ask_") and value], template["name"]
        assert template["allow_simultaneous"] is False
        assert template.get("job_slice_count", 1) == 1
        assert not template.get("limit") and not template.get("job_tags") and not template.get("skip_tags")


def test_secrets_are_in_the_credential_alone(configured):
    (credential,) = [c for c in configured.all("credentials") if configured.secrets_of(c)]
    assert configured.secrets_of(credential) == SECRETS
    readable = json.dumps(list(configured.items.values())) + json.dumps(list(configured.surveys.values()))
    assert SECRETS["pg_password"] not in readable
    for template in configured.all("job_templates"):
        assert credential["id"] in configured.listed("job_templates", template, "credentials")


def test_answers_and_artifacts_have_names_of_their_own(configured):
    asked = {question["variable"] for survey in configured.surveys.values() for question in survey.get("spec", ())}
    assert asked and all(name.startswith("kong_upgrade_") for name in asked)
    handed_on = (REPOSITORY / "roles" / "kong_upgrade" / "tasks" / "phases" / "report.yml").read_text("utf-8")
    assert "kong_report" in handed_on
    assert not any(name.startswith("kong_report") for name in asked)


# ---- every way through the workflow ------------------------------------------------------------------------------


def walk(awx, bad):
    """The way through the workflow when these nodes fail or are denied: [(identifier, whether it went well)], Workflow."""
    run = rig.Workflow(awx, awx.named("workflow_job_templates", NAME))
    while (node := run.next()) is not None:
        run.ended[node["id"]] = node["identifier"] not in bad
    return run.way, run


def test_the_way_to_the_end(configured, nodes):
    way, run = walk(configured, {"approve_rollback"})
    assert [name for name, good in way] == [
        "plan", "stage_and_backup", "expand_and_start", "shift", "approve_retire", "retire", "approve_finish", "finish", "report"]
    assert all(good for dummy, good in way)
    assert not run.failed


def test_every_other_way(configured, nodes):
    names = [name for name in nodes if name != "report"]
    ways = 0
    for count in range(len(names) + 1):
        for bad in itertools.combinations(names, count):
            way, run = walk(configured, set(bad))
            ended = [name for name, dummy in way]
            said_yes = {name for name, good in way if good}
            assert ended[-1] == "report", bad
            assert ended.count("report") == 1
            # Nothing goes back, goes on to what cannot be undone, or touches blue without a yes.
            for name, needs in (("rollback", "approve_rollback"), ("retire", "approve_retire"), ("finish", "approve_finish")):
                assert name not in ended or needs in said_yes, bad
            # Denied or timed out: nothing after it but the offer of the way back, and the report.
            for denied in ("approve_retire", "approve_finish"):
                if (denied, False) in way:
                    assert set(ended[ended.index(denied) + 1:]) <= {"approve_rollback", "rollback", "report"}
            assert not {"rollback", "finish"} <= set(ended)
            ways += 1
    assert ways == 2 ** len(names)


# ---- on the bed, as AWX runs it ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upgraded(configured, module_stage, tmp_path_factory):
    """A bed after a whole workflow under load, every job run by ansible-runner; and jobs of single templates before and after."""
    awx = configured
    bed = module_stage(nodes=1, batches=1, lbs=1)
    inventory = bed.write_inventory(bed.directory / "awx" / "hosts.yml")
    shutil.rmtree(inventory.parent / "group_vars")  # the password comes from a credential of AWX
    programs = pathlib.Path(sys.executable).parent
    hosts = json.loads(subprocess.check_output([programs / "ansible-inventory", "-i", inventory, "--list"], env=bed.play_environment()))
    hosts["all"].setdefault("vars", {})
    (credential,) = [c for c in awx.all("credentials") if awx.secrets_of(c)]
    awx.secrets[credential["id"]] = bed.secret_settings()
    controller = rig.Controller(awx, tmp_path_factory.mktemp("awx"), hosts, bed.play_environment())

    holders = []

    def decide(approval):
        holders.append(holder(bed))
        return approval != "approve_rollback"

    def job(name):
        return controller.run(awx.named("job_templates", f"{NAME} - {name}"))

    before = bed.snapshot()
    alone = {name: job(name) for name in ("status", "rollback", "expand and start")}
    untouched = bed.snapshot() == before
    died = {"run_id": "awx.example.com-workflow-7", "step": "retire", "began": 1.0, "since": 1.0, "expires": time.time() + 600}
    lock = bed.lbs[0].directory / "state" / "run.json"
    lock.write_text(json.dumps({"owner": died, "record": {}}), encoding="utf-8")
    alone["report"] = controller.run(
        awx.named("job_templates", f"{NAME} - report"), meta={"awx_workflow_job_id": 7, "awx_workflow_job_name": NAME})
    with bed.traffic():
        run = controller.workflow(awx.named("workflow_job_templates", NAME), decide)
    alone["restore"] = job("restore")
    return types.SimpleNamespace(bed=bed, run=run, alone=alone, untouched=untouched, controller=controller, holders=holders)


def holder(bed):
    """The run that holds the lock of an upgrade, or None."""
    owner = json.loads((bed.lbs[0].directory / "state" / "run.json").read_text("utf-8"))["owner"]
    return owner and owner["run_id"]


def test_workflow_upgrades(upgraded):
    run = upgraded.run
    assert [name for name, good in run.way if good] == [
        "plan", "stage_and_backup", "expand_and_start", "shift", "approve_retire", "retire", "approve_finish", "finish", "report"
    ], {name: job.output[-3000:] for name, job in run.jobs.items() if not job.ok}
    assert not run.failed
    assert upgraded.bed.unfinished() == []
    assert upgraded.bed.green_migrated() == 0


def test_report_of_all_steps(upgraded):
    artifacts = {name: job.artifacts for name, job in upgraded.run.jobs.items()}
    whole = artifacts["report"]["kong_report"]
    assert "finished" in whole["headline"]
    assert [phase["phase"] for phase in whole["phases"]] == ["stage", "backup", "expand", "start", "shift", "retire", "finish"]
    assert [gate["percent"] for gate in whole["gates"]] == [50, 100]
    assert whole["percent_green"] == "100"
    assert whole["backup"]["dump"].endswith(".pgc")
    assert artifacts["shift"]["kong_report_shift"]["result"] == "done"
    assert len({step["kong_report"]["run"] for step in artifacts.values()}) == 1
    assert whole["run"].startswith("awx.example.com-workflow-")
    for shown in ("## Timeline", "**shift**", "50 %: ", "SHA-256"):
        assert shown in upgraded.run.jobs["report"].output


def test_events_are_read_back(upgraded):
    for job in upgraded.controller.jobs:
        kinds = [event["event"] for event in job.events]
        assert kinds[0] == "playbook_on_start"
        assert "playbook_on_stats" in kinds
        assert not [event for event in job.events if event["event"] == "playbook_on_vars_prompt"]


def test_lock_is_held_from_step_to_step_and_given_back(upgraded):
    run_id = upgraded.run.jobs["report"].artifacts["kong_report"]["run"]
    assert upgraded.holders == [run_id, run_id]  # while a person is asked
    assert holder(upgraded.bed) is None


def test_a_job_that_died_makes_the_report_fail(upgraded):
    report = upgraded.alone["report"]
    assert report.status == "failed"
    assert "Step retire began at" in " ".join(report.output.split())
    assert report.artifacts["kong_report"]["result"] == "failed"


def test_single_job_templates(upgraded):
    assert upgraded.untouched
    assert upgraded.alone["status"].ok, upgraded.alone["status"].output[-3000:]
    assert upgraded.alone["rollback"].ok, upgraded.alone["rollback"].output[-3000:]
    expand = upgraded.alone["expand and start"]
    assert expand.status == "failed"
    assert "stage_and_backup.yml first" in " ".join(expand.output.split())
    restore = upgraded.alone["restore"]
    assert restore.status == "failed"
    assert "kong_upgrade_confirm_restore=" in " ".join(restore.output.split())


def test_no_job_tells_the_password(upgraded):
    password = upgraded.bed.postgres.password
    found = {
        str(path.relative_to(upgraded.controller.directory)) for path in upgraded.controller.directory.rglob("*")
        if path.is_file() and not path.is_symlink() and password.encode() in path.read_bytes()}
    assert found, "it was in the files of the credential"
    assert {path for path in found if not re.fullmatch(r"job\d+/env/credential\d+", path)} == set()


# ---- what may be left out ----------------------------------------------------------------------------------------


def test_without_the_second_approval(configured, nodes):
    """Last of all, for it changes the workflow."""
    configure(configured, "--start-at-task", "Nodes of the workflow", **VARIABLES, kong_awx_finish_approval=False)
    way, dummy = walk(configured, set())
    assert [name for name, dummy in way][-4:] == ["approve_retire", "retire", "finish", "report"]
