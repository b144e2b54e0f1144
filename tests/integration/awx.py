# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of AWX that the tests need: its API, as awx.awx speaks to it, and how it runs jobs and workflows.

AWX itself is a set of containers. What is here follows its source (24.6): awx/api/serializers.py and views for what is accepted,
main/models/credential.py for injectors, main/models/workflow.py for what a node's job gets, main/scheduler/dag_workflow.py for which
node runs next, main/tasks/jobs.py for the private data directory. It accepts no field that it does not know.
"""

import contextlib
import http.server
import json
import os
import pathlib
import re
import shutil
import threading
import urllib.parse

import jinja2.sandbox
import yaml
from bed.bed import REPOSITORY

TOKEN = "token-of-the-tests"
HIDDEN = "$encrypted$"
ASK = {f"ask_{what}_on_launch": False for what in (
    "inventory", "job_slice_count", "limit", "skip_tags", "tags", "variables")}
# kind -> {field: default}; a default that is a kind in <> is a reference to one of it.
FIELDS = {
    "organizations": {"name": None},
    "notification_templates": {"name": None, "organization": "<organizations>"},
    "execution_environments": {"name": None, "organization": "<organizations>", "image": None, "pull": ""},
    "projects": {
        "name": None, "organization": "<organizations>", "scm_type": "", "scm_url": "", "scm_branch": "", "scm_revision": "abc",
        "credential": "<credentials>", "scm_update_on_launch": False},
    "inventories": {"name": None, "organization": "<organizations>", "kind": "", "host_filter": None},
    "inventory_sources": {
        "name": None, "organization": "<organizations>", "inventory": "<inventories>", "source": "", "source_path": "",
        "source_project": "<projects>", "overwrite": False, "overwrite_vars": False, "update_on_launch": False},
    "credential_types": {"name": None, "description": "", "kind": None, "managed": False, "inputs": {}, "injectors": {}},
    "credentials": {"name": None, "organization": "<organizations>", "credential_type": "<credential_types>", "inputs": {}},
    "job_templates": {
        "name": None, "description": "", "organization": "<organizations>", "inventory": "<inventories>", "project": "<projects>",
        "playbook": "", "execution_environment": "<execution_environments>", "extra_vars": "", "survey_enabled": False,
        "allow_simultaneous": False, "job_slice_count": 1, "limit": "", "job_tags": "", "skip_tags": "", **ASK},
    "workflow_job_templates": {
        "name": None, "description": "", "organization": "<organizations>", "survey_enabled": False, "allow_simultaneous": False,
        **{key: value for key, value in ASK.items() if key != "ask_job_slice_count_on_launch"}},
    "workflow_job_template_nodes": {
        "identifier": None, "type": "", "workflow_job_template": "<workflow_job_templates>",
        "unified_job_template": "<unified_job_templates>", "extra_data": {}},
    "workflow_approval_templates": {"name": None, "timeout": 0},
}
UNIFIED = ("job_templates", "projects", "workflow_approval_templates")
LINKS = ("success_nodes", "failure_nodes", "always_nodes")
LISTS = {
    "job_templates": ("credentials",),
    "workflow_job_templates": tuple(f"notification_templates_{when}" for when in ("approvals", "success", "error")),
    "workflow_job_template_nodes": LINKS,
}
SURVEY_TYPES = {"text": str, "multiplechoice": str, "integer": int}


class Refused(Exception):
    """A request that AWX answers with an error: status and text."""


class Awx:
    """What AWX knows. `with Awx() as awx:` serves it at `awx.url` meanwhile."""

    def __init__(self):
        self.items, self.lists, self.surveys, self.secrets = {}, {}, {}, {}
        self.writes = []  # (method, path) of all requests that were not a GET
        self.url = None

    def __enter__(self):
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"awx": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    # ---- what there is -----------------------------------------------------------------------------------------

    def all(self, kind):
        """The items of a kind, in the order in which they were made."""
        kinds = UNIFIED if kind == "unified_job_templates" else (kind,)
        return [item for (of, dummy), item in self.items.items() if of in kinds]

    def named(self, kind, name):
        """The one item of this name."""
        (item,) = [item for item in self.all(kind) if item["name"] == name]
        return item

    def listed(self, kind, item, name):
        """The ids in one of an item's lists."""
        return self.lists.get((kind, item["id"], name), [])

    def secrets_of(self, credential):
        """The inputs of a credential, which no request reads."""
        return self.secrets[credential["id"]]

    # ---- requests ----------------------------------------------------------------------------------------------

    def request(self, method, path, query, data):
        """(status, answer) of one request; Refused."""
        if method != "GET":
            self.writes.append((method, path))
        kind, *rest = path.removeprefix("/api/v2/").strip("/").split("/")
        if kind == "project_updates":
            return 200, {"id": 1, "status": "successful", "scm_revision": "abc"}
        if kind != "unified_job_templates" and kind not in FIELDS:
            raise Refused(404, f"no {kind}")
        if not rest:
            return (200, self._found(kind, query)) if method == "GET" else (201, self._make(kind, data))
        key = (kind, int(rest[0]))
        if key not in self.items:
            raise Refused(404, f"no {kind} {rest[0]}")
        return self._sub(method, key, rest[1], data) if rest[1:] else self._item(method, key, data)

    def _found(self, kind, query):
        results = []
        for item in self.all(kind):
            if all(str(item.get(name)) == value for name, value in query.items()):
                results.append(item)
        return {"count": len(results), "next": None, "previous": None, "results": results}

    def _item(self, method, key, data):
        if method == "DELETE":
            del self.items[key]
            for ids in self.lists.values():
                ids[:] = [an_id for an_id in ids if (key[0], an_id) != key or key[0] != "workflow_job_template_nodes"]
            return 204, None
        if method == "PATCH":
            self.items[key].update(self._checked(key[0], dict(self.items[key], **data), data, key[1]))
        return 200, self.items[key]

    def _make(self, kind, data):
        number = 1 + max([an_id for dummy, an_id in self.items], default=0)
        fields = self._checked(kind, data, data, number)
        missing = [name for name, default in FIELDS[kind].items() if default is None and name not in fields and name != "host_filter"]
        if missing:
            raise Refused(400, f"{kind} needs {missing}")
        blank = {name: None if str(default).startswith("<") else default for name, default in FIELDS[kind].items()}
        url = f"/api/v2/{kind}/{number}/"
        self.items[kind, number] = item = {
            **blank, **fields, "id": number, "url": url, "type": kind.removesuffix("s"), "summary_fields": {},
            "related": {"survey_spec": url + "survey_spec/", "update": url + "update/"}}
        if kind == "projects":
            item["summary_fields"] = {"current_update": {"id": 1}}
        return item

    def _sub(self, method, key, name, data):
        kind, number = key
        if name == "survey_spec" and kind in ("job_templates", "workflow_job_templates"):
            if method == "GET":
                return 200, self.surveys.get(key, {})
            self.surveys[key] = {} if method == "DELETE" else checked_survey(data)
            return 200, {}
        if name == "create_approval_template" and method == "POST":
            if "timeout" in data:
                data = dict(data, timeout=int(data["timeout"]))
            item = self._make("workflow_approval_templates", data)
            node = self.items[key]
            node["unified_job_template"] = item["id"]
            node["related"]["unified_job_template"] = item["url"]
            return 201, item
        if name not in LISTS.get(kind, ()):
            raise Refused(404, f"{kind} has no {name}")
        ids = self.lists.setdefault((kind, number, name), [])
        of = kind if name in LINKS else "notification_templates" if name.startswith("notification") else name
        if method == "GET":
            return 200, {"count": len(ids), "next": None, "results": [self.items[of, an_id] for an_id in ids]}
        if data.get("disassociate"):
            ids.remove(data["id"])
        elif (of, data["id"]) not in self.items:
            raise Refused(400, f"no {of} {data['id']}")
        else:
            ids.append(data["id"])
        return 204, None

    def _checked(self, kind, whole, data, number):
        """The fields of a request as they are kept. whole: with those that the item has already."""
        unknown = sorted(set(data) - set(FIELDS[kind]))
        if unknown:
            raise Refused(400, f"{kind} has no {unknown}")
        for name, value in data.items():
            reference = re.fullmatch("<(.*)>", str(FIELDS[kind][name]))
            if reference and value not in [item["id"] for item in self.all(reference[1])]:
                raise Refused(400, f"{kind}: {name} {value} is not there")
        if kind == "job_templates" and not (REPOSITORY / whole["playbook"]).is_file():
            raise Refused(400, f"Playbook not found for project: {whole['playbook']}")
        if kind == "credential_types":
            checked_injectors(whole)
        if kind == "credentials" and "inputs" in data:
            fields = {field["id"]: field for field in self.items["credential_types", whole["credential_type"]]["inputs"]["fields"]}
            if set(data["inputs"]) - set(fields):
                raise Refused(400, "credentials: an input that its type does not have")
            self.secrets[number] = {**self.secrets.get(number, {}), **{k: v for k, v in data["inputs"].items() if v != HIDDEN}}
            data = dict(data, inputs={k: HIDDEN if fields[k].get("secret") else v for k, v in data["inputs"].items()})
        return data


def checked_injectors(kind):
    """Refuses injectors that AWX would refuse: other than strings in names that Ansible allows, or of fields that are not there."""
    namespace = {field["id"]: "x" for field in kind["inputs"]["fields"]}

    def check(node):
        for name, value in node.items():
            if not re.fullmatch(r"[a-zA-Z_{}]+[a-zA-Z0-9_{}]*", name):
                raise Refused(400, f"injectors: {name}")
            if isinstance(value, dict):
                check(value)
            elif "x" not in injected(value, namespace):
                raise Refused(400, f"injectors: {name} is not filled in by a field")

    if set(kind["injectors"]) != {"extra_vars"}:
        raise Refused(400, "injectors")
    check(kind["injectors"]["extra_vars"])


def injected(node, namespace):
    """Injectors with the fields of a credential filled in."""
    if isinstance(node, dict):
        return {name: injected(value, namespace) for name, value in node.items()}
    return jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(node).render(**namespace)


def checked_survey(survey):
    """A survey that AWX would take; Refused."""
    if not isinstance(survey.get("name"), str) or not isinstance(survey.get("description"), str) or not survey.get("spec"):
        raise Refused(400, "survey: name, description and spec")
    names = [question["variable"] for question in survey["spec"]]
    if len(set(names)) != len(names):
        raise Refused(400, "survey: a variable twice")
    for question in survey["spec"]:
        fits = isinstance(question["required"], bool) and isinstance(question["question_name"], str)
        default = question.get("default", "")
        fits = fits and (
            default == "" or (isinstance(default, SURVEY_TYPES[question["type"]]) and not isinstance(default, bool)))
        if question["type"] == "multiplechoice":
            fits = fits and default in question["choices"] and all(isinstance(choice, str) for choice in question["choices"])
        if not fits or any(not isinstance(question.get(limit, 0), int) for limit in ("min", "max")):
            raise Refused(400, f"survey: {question}")
    return survey


class Handler(http.server.BaseHTTPRequestHandler):
    """Speaks HTTP for an Awx."""

    awx = None
    lock = threading.Lock()

    def answer(self):
        """Answers a request of any method."""
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "who are you?")
            with self.lock:
                status, answer = self.awx.request(
                    self.command, url.path, dict(urllib.parse.parse_qsl(url.query)), json.loads(body or "{}"))
        except Refused as refused:
            status, answer = refused.args[0], {"__all__": [refused.args[1]], "error": refused.args[1]}
        self.send_response(status)
        self.send_header("X-API-Product-Name", "AWX")
        self.send_header("X-API-Product-Version", "24.6.1")
        self.end_headers()
        if answer is not None:
            self.wfile.write(json.dumps(answer).encode())

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, *_):
        """Says nothing."""


# ---- jobs --------------------------------------------------------------------------------------------------------


class Unsafe(str):
    """A text in which a job may not find a template, which is every one that is not of the job template itself."""


class Dumper(yaml.SafeDumper):
    """YAML with the tag !unsafe."""

    def ignore_aliases(self, data):
        return True


Dumper.add_representer(Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))


def unsafe(value):
    """A value with all its texts as Unsafe."""
    if isinstance(value, dict):
        return {unsafe(key): unsafe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unsafe(item) for item in value]
    return Unsafe(value) if isinstance(value, str) else value


def write(path, text, mode=0o600):
    """A file of a private data directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


class Controller:
    """Runs the job templates of an Awx on an inventory, one at a time, in private data directories in `directory`."""

    def __init__(self, awx, directory, hosts, environment):
        """hosts: the inventory as `ansible-inventory --list` shows it. environment: of all jobs."""
        self.awx, self.directory, self.hosts, self.environment = awx, pathlib.Path(directory), hosts, environment
        self.jobs = []
        # What AWX has of the project: what is in the repository, and not what was made in it.
        self.project = self.directory / "project"
        left_out = shutil.ignore_patterns(".git", ".venv*", ".cache", ".demo", "__pycache__", "tests", "build", "kong-upgrade-report")
        shutil.copytree(REPOSITORY, self.project, symlinks=True, ignore=left_out)

    def run(self, template, variables=None, meta=None):
        """Runs a job template: a Job. variables: answers and artifacts. meta: variables that AWX adds."""
        number = len(self.jobs) + 1
        private = self.directory / f"job{number}"
        own = json.loads(template["extra_vars"] or "{}")
        extra = {**own, **unsafe(answers(self.awx, "job_templates", template)), **unsafe(variables or {})}
        extra.update({"awx_job_id": number, **(meta or {})})
        write(private / "env" / "extravars", yaml.dump(extra, Dumper=Dumper))
        listing = "#!/usr/bin/env python3\nprint(%r)\n" % json.dumps(self.hosts)
        write(private / "inventory" / "hosts", listing, 0o700)
        (private / "project").symlink_to(self.project)
        words = []
        for an_id in self.awx.listed("job_templates", template, "credentials"):
            credential = self.awx.items["credentials", an_id]
            kind = self.awx.items["credential_types", credential["credential_type"]]
            filled = injected(kind["injectors"]["extra_vars"], self.awx.secrets_of(credential))
            path = write(private / "env" / f"credential{an_id}", yaml.dump(unsafe(filled), Dumper=Dumper), 0o400)
            words += ["-e", f"@{path}"]
        environment = {
            **self.environment, "JOB_ID": str(number), "AWX_HOST": "https://awx.example.com", "ANSIBLE_RETRY_FILES_ENABLED": "False",
            "ANSIBLE_COLLECTIONS_PATH": f"{private}/requirements_collections:.collections:~/.ansible/collections",
        }
        environment.pop("PWD", None)  # a container has none
        import ansible_runner  # the environments of floor and newest collect this file, and have none

        ran = ansible_runner.interface.run(
            private_data_dir=str(private), playbook=template["playbook"], cmdline=" ".join(words), envvars=environment,
            settings={"idle_timeout": 120, "job_timeout": 300, "suppress_env_files": True}, ident="1", quiet=True)
        job = Job(template["name"], ran, private)
        self.jobs.append(job)
        return job

    def workflow(self, template, decide):
        """Runs a workflow to its end, with what its survey proposes: a Workflow. decide(identifier): the answer to an approval."""
        number = 1000 + len(self.jobs)
        meta = {"awx_workflow_job_id": number, "awx_workflow_job_name": template["name"]}
        said = answers(self.awx, "workflow_job_templates", template)
        run = Workflow(self.awx, template)
        while (node := run.next()) is not None:
            job = self.awx.items.get(("job_templates", node["unified_job_template"]))
            ancestors = run.artifacts_of(node)
            if job is None:
                run.ended[node["id"]], run.artifacts[node["id"]] = decide(node["identifier"]), ancestors
                continue
            done = self.run(job, {**ancestors, **said}, meta)
            run.jobs[node["identifier"]] = done
            run.ended[node["id"]] = done.ok
            run.artifacts[node["id"]] = {**ancestors, **done.artifacts}
        return run


def answers(awx, kind, template):
    """The defaults of a survey."""
    survey = awx.surveys.get((kind, template["id"])) or {} if template["survey_enabled"] else {}
    return {question["variable"]: question["default"] for question in survey.get("spec", ())}


class Job:
    """How a job ended, as AWX knows it: from the events and artifacts that ansible-runner left."""

    def __init__(self, name, ran, private):
        self.name, self.status, self.private = name, ran.status, private
        self.ok = ran.status == "successful"
        self.events = list(ran.events)
        self.output = ran.stdout.read()
        stats = [event["event_data"] for event in self.events if event["event"] == "playbook_on_stats"]
        self.artifacts = stats[-1].get("artifact_data", {}) if stats else {}
        self.changed = sum(stats[-1]["changed"].values()) if stats else None


class Workflow:
    """A workflow that runs: which node is next, and how it ended."""

    def __init__(self, awx, template):
        self.nodes = [n for n in awx.all("workflow_job_template_nodes") if n["workflow_job_template"] == template["id"]]
        self.children = {
            (node["id"], link): awx.listed("workflow_job_template_nodes", node, link) for node in self.nodes for link in LINKS}
        self.ended = {}  # node id -> whether it went well; None for one that is never run
        self.jobs, self.artifacts = {}, {}  # Job by identifier; artifacts by node id

    def parents(self, node):
        """The ids of the nodes that link to this one."""
        return sorted({of for (of, dummy), ids in self.children.items() if node["id"] in ids})

    def reached(self, parent, node):
        """Whether a parent that has ended has a link to this node for the way it ended."""
        ended = self.ended[parent]
        links = ["always_nodes", "success_nodes" if ended else "failure_nodes"] if ended is not None else []
        return any(node["id"] in self.children[parent, link] for link in links)

    def next(self):
        """The node to run now; None at the end."""
        again = True
        while again:
            again = False
            for node in self.nodes:
                parents = self.parents(node)
                if node["id"] in self.ended or not all(parent in self.ended for parent in parents):
                    continue
                if not parents or any(self.reached(parent, node) for parent in parents):
                    return node
                self.ended[node["id"]], again = None, True
        assert len(self.ended) == len(self.nodes), "nodes that wait for each other"
        return None

    def artifacts_of(self, node):
        """What a node's job gets from its ancestors, in whatever order AWX reads its parents: here the latest comes first."""
        return {k: v for parent in reversed(self.parents(node)) for k, v in self.artifacts.get(parent, {}).items()}

    @property
    def way(self):
        """[(identifier, whether it went well)] of the nodes that ran, in the order in which they ended."""
        names = {node["id"]: node["identifier"] for node in self.nodes}
        return [(names[an_id], good) for an_id, good in self.ended.items() if good is not None]

    @property
    def failed(self):
        """Whether AWX calls the workflow failed: a node failed, and no link leads on from that."""
        return any(
            good is False and not self.children[an_id, "failure_nodes"] and not self.children[an_id, "always_nodes"]
            for an_id, good in self.ended.items())


@contextlib.contextmanager
def served():
    """An Awx that serves, with what is there before anything is configured."""
    with Awx() as awx:
        awx.request("POST", "/api/v2/organizations/", {}, {"name": "Default"})
        awx.writes.clear()
        yield awx


def login(awx):
    """The environment that leads awx.awx to it."""
    return {"CONTROLLER_HOST": awx.url, "CONTROLLER_OAUTH_TOKEN": TOKEN, "CONTROLLER_VERIFY_SSL": "false",
            "HOME": os.environ.get("HOME", "/")}
