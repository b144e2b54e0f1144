# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Collects what the plan looks at from the variables of all hosts, and checks those variables against their spec."""

from __future__ import annotations

import datetime
import difflib
import functools
import pathlib

from ansible.errors import AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.yaml import yaml_load
from jinja2.exceptions import UndefinedError

SPECS = pathlib.Path(__file__).resolve().parents[2] / "roles" / "kong_upgrade" / "meta" / "argument_specs.yml"
# Variables that may differ from host to host. All others speak of the run as a whole.
OF_A_HOST = frozenset(
    "kong_upgrade_" + name
    for name in (
        "admin_listen backup_dir cassandra_address command_timeout commands conf driver executable haproxy_conf_file haproxy_executable "
        "haproxy_sockets haproxy_state_file install install_tasks nginx_command nginx_conf nginx_file nginx_log nginx_pid_file "
        "nginx_reload nodetool old_package package pg_bin_dir prefix probe reinstall_tasks secret_settings server_name serves settings "
        "start_timeout state_dir unit"
    ).split()
)
# Files of tasks on the controller, by the variables that name them.
TASK_FILES = ("kong_upgrade_install_tasks", "kong_upgrade_reinstall_tasks")
# What the drivers' modules call their answer: haproxy_server a list, nginx_upstream and lb_command one dictionary.
ANSWERS = ("haproxy", "load_balancer")


def collect(hostvars, groups: dict, options: dict, play_hosts: list[str] | None) -> dict:
    """The survey that `plan.build` takes, from registered results and host variables.

    hostvars: Ansible's hostvars. groups: Ansible's groups. options: the role's options, defaults filled in.
    play_hosts: hosts of this play, None where that is not to be checked.
    """
    options = typed(options)
    gone = set(options["gone"])
    of = {
        colour: [h for h in groups.get(options[colour + "_group"], []) if h not in gone]
        for colour in ("blue", "green", "lb")
    }
    batches = {name: list(groups[name]) for name in options["batches"] if name in groups}
    hosts, lbs, invalid, given = {}, {}, {}, {}
    everyone = list(dict.fromkeys(of["blue"] + of["green"] + of["lb"]))
    for host in everyone:
        given[host], undefined = told(hostvars[host])
        problems = undefined + invalid_variables(given[host])
        if problems:
            invalid[host] = problems
    for host in dict.fromkeys(of["blue"] + of["green"]):
        results, own = registered(hostvars, host), given[host]
        result = plain(results.get("__kong_upgrade_gateway"))
        run = plain(results.get("__kong_upgrade_run")) or {}  # only a bootstrap has it there
        hosts[host] = {
            "name": str(own.get("kong_upgrade_server_name", host)),
            "gateway": _gateway(result),
            "error": failure(result),
            "unreached": unreached(plain(results.get("__kong_upgrade_reached"))),
            "settings": own.get("kong_upgrade_settings") or {},
            "secret_settings": sorted(own.get("kong_upgrade_secret_settings") or {}),
            "probed": bool(own.get("kong_upgrade_probe")),
            "install": str(own.get("kong_upgrade_install", options["install"])),
            "package": str(own.get("kong_upgrade_package", options["package"])),
            "nginx_conf": str(own.get("kong_upgrade_nginx_conf") or ""),
            "install_tasks": bool(own.get("kong_upgrade_install_tasks")),
            "reinstall_tasks": bool(own.get("kong_upgrade_reinstall_tasks")),
            "not_there": {name: own[name] for name in TASK_FILES if not is_there(own.get(name))},
            "old_package": str(own.get("kong_upgrade_old_package") or ""),
            "admin_listen": own.get("kong_upgrade_admin_listen"),
            "locked": locked(run),
            "record": run.get("record") or {},
        }
    for host in of["lb"]:
        results = registered(hostvars, host)
        result, run = plain(results.get("__kong_upgrade_lb")), plain(results.get("__kong_upgrade_run")) or {}
        record = run.get("record") or {}
        lbs[host] = {
            "balancers": balancers(result),
            "base": ("restore" in options["phases"] and record.get("weights_before")) or record.get("base_weights") or {},
            "conf_file": str(given[host].get("kong_upgrade_haproxy_conf_file") or ""),
            "conf_files": (result or {}).get("conf_files") or [],
            "serves": {
                str(name): list(groups.get(name, [])) for name in typed({"serves": given[host].get("kong_upgrade_serves") or []})["serves"]
            },
            "admin_listen": record.get("admin_listen") or {},
            "source": record.get("source"),
            "locked": locked(run),
            "at_work": at_work(run),
            "holder": run.get("holder"),
            # Weights are remembered when an upgrade begins, and that its last step was watched to the end when it was.
            "unwatched": "base_weights" in record and not record.get("watched"),
            "no_driver": no_driver(given[host].get("kong_upgrade_driver")),
            "error": failure(result, *ANSWERS)
            or "; ".join((result or {}).get("problems") or [])
            or (failure(run) if run else None),
        }
    return {
        "options": options,
        "groups": {**of, "batches": batches},
        "play_hosts": plain(play_hosts),
        "hosts": hosts,
        "lbs": lbs,
        "invalid": invalid,
        "uneven": uneven(given),
    }


def registered(hostvars, host):
    """The variables of a host, for results and facts alone, which hold no templates.

    To look for some in all that a thousand hosts have told takes seconds.
    """
    return getattr(hostvars, "raw_get", hostvars.__getitem__)(host)


def is_there(path) -> bool:
    """Whether a file that a variable names is on the controller. Where Ansible would look for a relative path, only it knows."""
    return not path or not pathlib.Path(str(path)).is_absolute() or pathlib.Path(str(path)).is_file()


def gateway_of(variables) -> dict | None:
    """What kong_version_facts found on a host; None where it did not look, or did not get there."""
    return plain(_gateway(variables.get("__kong_upgrade_gateway")))


def datastore_of(variables) -> dict | None:
    """Its datastore. Of a thousand hosts all that they tell takes seconds to read."""
    return plain((_gateway(variables.get("__kong_upgrade_gateway")) or {}).get("datastore"))


def version_of(variables) -> str | None:
    """The version that its node runs, None without a node."""
    return plain(((_gateway(variables.get("__kong_upgrade_gateway")) or {}).get("node") or {}).get("version"))


def _gateway(result):
    """The fact in a result of kong_version_facts, None where there is none."""
    return ((result or {}).get("ansible_facts") or {}).get("kong_gateway")


def unreached(result) -> str | None:
    """Why `kong migrations list` of a green host does not reach the database; None if it does, or was not asked."""
    return failure(result, "migrations") if result and not result.get("skipped") else None


def uneven(variables: dict) -> dict[str, list[str]]:
    """Variables that speak of the run as a whole and are not the same on all hosts: name -> hosts that say otherwise than the first.

    The role reads such a variable on one host, so a value that only a group of hosts has would go unheard.
    """
    hosts = list(variables)
    names = {key for host in hosts for key in variables[host] if key in option_specs()} - OF_A_HOST
    found = {}
    for name in sorted(names):
        first = plain(variables[hosts[0]].get(name))
        others = [host for host in hosts if plain(variables[host].get(name)) != first]
        if others:
            found[name] = others
    return found


def no_driver(name) -> str | None:
    """The name of a driver that there is none of; None where it is one, or is not given."""
    return str(name) if name and name not in option_specs()["kong_upgrade_driver"]["choices"] else None


def locked(run: dict) -> tuple[str, str] | None:
    """What is wrong and what to do when another run holds the lock of a load balancer host; None if it does not."""
    if not run.get("refused"):
        return None
    return (
        "another upgrade run holds the lock: %s; it ends by itself in %s s unless it is renewed" % (at_work(run), run["expires_in"]),
        "wait for it; if that run is certainly dead, remove run.json in kong_upgrade_state_dir of this host; if this is a "
        "later step of the same workflow, pass kong_upgrade_run_id=%s" % run["holder"]["run_id"],
    )


def at_work(run: dict) -> str | None:
    """Whose run it is that has the lock of a load balancer host, and since when; None where it is free, or has expired."""
    return named(run["holder"]) if run.get("holder") and run.get("expires_in") else None


def named(holder: dict) -> str:
    """A run, as whose its lock is."""
    since = datetime.datetime.fromtimestamp(holder["since"]).astimezone().isoformat(sep=" ", timespec="seconds")
    return "run %s of %s, pid %s, since %s" % (holder["run_id"], holder.get("controller", "?"), holder.get("pid", "?"), since)


def balancers(result) -> list[dict] | None:
    """What a driver's module says of the load balancers of its host, one dictionary each; None if it says nothing."""
    for key in ANSWERS:
        if key in (result or {}):
            return result[key] if isinstance(result[key], list) else [result[key]]
    return None


def failure(result, *keys: str) -> str | None:
    """Why a registered result tells nothing; None if it tells.

    keys: return values of which only a success has one. A task whose failures are judged later (failed_when) is not marked as
    failed, so that is what tells.
    """
    if not result:
        return "was not looked at"
    if result.get("unreachable"):
        return "unreachable: %s" % result.get("msg", "")
    if result.get("failed"):
        return str(result.get("msg") or result.get("module_stderr") or "failed")
    if keys and not result.get("skipped") and not any(key in result for key in keys):
        return str(result.get("msg") or result.get("module_stderr") or "failed")
    return None


def told(variables) -> tuple[dict, list[str]]:
    """The kong_upgrade_ variables of a host as plain values, and why others have none: they use a variable that is not there."""
    values, problems = {}, []
    for key in variables:
        if key.startswith("kong_upgrade_"):
            try:
                values[key] = plain(variables[key])
            except (AnsibleUndefinedVariable, UndefinedError) as error:
                problems.append("%s: %s" % (key, str(error).strip().rstrip(".")))
    return values, problems


def invalid_variables(variables) -> list[str]:
    """Problems of a host's kong_upgrade_ variables: wrong type or choice, or a name that no phase reads."""
    options = option_specs()
    given = {key: variables[key] for key in variables if key.startswith("kong_upgrade_")}
    problems = [unknown(key, options) for key in sorted(given) if key not in options]
    for key in sorted(set(given) & set(options)):
        if given[key] is None:
            continue
        check = ArgumentSpecValidator({key: {k: v for k, v in options[key].items() if k != "required"}}).validate(
            {key: plain(given[key])}
        )
        for message in check.error_messages:
            problems.append("%s: has the wrong type" % key if options[key].get("no_log") else readable(message))
        for name, value in negative(key, options[key], check.validated_parameters[key]) if not check.error_messages else ():
            problems.append("%s: is %s, and must not be negative" % (name, value))
    return problems


def readable(message: str) -> str:
    """What Ansible's validator says of an unknown part of a variable, as a sentence; all else as it is."""
    names, unknown_part, there_are = message.partition(". Supported parameters include: ")
    if not unknown_part:
        return message
    parts = [name.rpartition(".")[2] for name in names.split(", ")]
    near = [difflib.get_close_matches(part, there_are.rstrip(".").split(", "), n=1, cutoff=0.8) for part in parts]
    hint = "did you mean %s?" % " and ".join(match[0] for match in near) if all(near) else "there are %s" % there_are
    return "%s: no such part; %s" % (names, hint)


def negative(name, spec, value):
    """Numbers below 0, of which none makes sense, in a variable and its suboptions: pairs of name and number."""
    if spec.get("type") in ("int", "float"):
        return [(name, value)] if value is not None and value < 0 else []
    found = []
    for entry in value if isinstance(value, list) else [value]:
        for inner, sub in spec.get("options", {}).items():
            found += negative("%s, %s" % (name, inner), sub, (entry or {}).get(inner))
    return found


def holds_secret(spec) -> bool:
    """Whether a variable of this specification is, or has in it, what may be in no output."""
    return bool(spec.get("no_log")) or any(holds_secret(sub) for sub in spec.get("options", {}).values())


def shown_secrets(given: dict) -> list:
    """Names of those among the given variables whose value has a secret in it, by the specification of the role."""
    return [name for name, value in given.items() if shows_secret(option_specs().get(name, {}), value)]


def shows_secret(spec, value) -> bool:
    """Whether a value has something in a place where a variable of this specification takes a secret."""
    parts = spec.get("options", {})
    dicts = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
    return bool(spec.get("no_log")) or any(
        shows_secret(parts[name], part) for item in dicts for name, part in item.items() if name in parts
    )


def unknown(name: str, options) -> str:
    """What is said of a variable that no phase reads, with the name that was probably meant."""
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.8)
    return "%s: no such variable%s" % (name, "; did you mean %s?" % near[0] if near else "")


def typed(options: dict) -> dict:
    """The options as their specification has them: "a, b" as a list; the default for one that is refused anyway."""
    result = dict(options)
    for key, value in options.items():
        spec = option_specs().get("kong_upgrade_" + key)
        if spec:
            name = "kong_upgrade_" + key
            checked = ArgumentSpecValidator({name: spec}).validate({name: value})
            result[key] = spec.get("default", value) if checked.error_messages else trimmed(checked.validated_parameters[name])
    return result


def trimmed(value):
    """A list that was given as one text without the blanks around its parts; an empty part, as of an empty text, is none."""
    if not isinstance(value, list):
        return value
    return [part.strip() if isinstance(part, str) else part for part in value if part != ""]


@functools.lru_cache(maxsize=1)
def option_specs() -> dict:
    """name -> specification of every role variable, over all entry points (meta/argument_specs.yml)."""
    merged = {}
    for entry in yaml_load(SPECS.read_text())["argument_specs"].values():
        for name, spec in (entry.get("options") or {}).items():
            merged[name] = to_argument_spec(spec)
    return merged


def to_argument_spec(spec: dict) -> dict:
    """The part of a documented option that the validator knows."""
    known = {key: spec[key] for key in ("type", "elements", "choices", "default", "no_log") if key in spec}
    if "options" in spec:
        known["options"] = {name: to_argument_spec(sub) for name, sub in spec["options"].items()}
    return known


def plain(value):
    """Nested Ansible containers as plain dictionaries and lists."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
