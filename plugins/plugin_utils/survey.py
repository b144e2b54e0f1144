# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Collects what the plan looks at from the variables of all hosts, and checks those variables against their spec."""

from __future__ import annotations

import datetime
import difflib
import functools
import pathlib

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

SPECS = pathlib.Path(__file__).resolve().parents[2] / "roles" / "kong_upgrade" / "meta" / "argument_specs.yml"
# Values that are checked for their type alone and never quoted in a message.
SECRET = ("kong_upgrade_secret_settings",)
# Variables that may differ from host to host. All others speak of the run as a whole.
OF_A_HOST = frozenset(
    "kong_upgrade_" + name
    for name in (
        "admin_listen backup_dir command_timeout commands conf driver executable haproxy_conf_file haproxy_executable haproxy_sockets "
        "haproxy_state_file install install_tasks package pg_bin_dir prefix probe secret_settings server_name settings "
        "start_timeout state_dir unit"
    ).split()
)
# What the drivers' modules call their answer: haproxy_server a list, lb_command one dictionary.
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
    hosts, lbs, invalid = {}, {}, {}
    everyone = list(dict.fromkeys(of["blue"] + of["green"] + of["lb"]))
    for host in everyone:
        problems = invalid_variables(hostvars[host])
        if problems:
            invalid[host] = problems
    for host in dict.fromkeys(of["blue"] + of["green"]):
        variables = hostvars[host]
        result = plain(variables.get("__kong_upgrade_gateway"))
        hosts[host] = {
            "name": str(variables.get("kong_upgrade_server_name", host)),
            "gateway": ((result or {}).get("ansible_facts") or {}).get("kong_gateway"),
            "error": failure(result),
            "unreached": unreached(plain(variables.get("__kong_upgrade_reached"))),
            "settings": plain(variables.get("kong_upgrade_settings")) or {},
            "secret_settings": sorted(variables.get("kong_upgrade_secret_settings") or {}),
            "probed": bool(variables.get("kong_upgrade_probe")),
            "install": str(variables.get("kong_upgrade_install", options["install"])),
            "package": str(variables.get("kong_upgrade_package", options["package"])),
            "install_tasks": bool(variables.get("kong_upgrade_install_tasks")),
        }
    for host in of["lb"]:
        result = plain(hostvars[host].get("__kong_upgrade_lb"))
        run = plain(hostvars[host].get("__kong_upgrade_run")) or {}
        record = run.get("record") or {}
        lbs[host] = {
            "balancers": balancers(result),
            "base": record.get("base_weights") or {},
            "locked": locked(run),
            "error": failure(result, *ANSWERS)
            or "; ".join((result or {}).get("problems") or [])
            or (failure(run) if run else None),
        }
    return {
        "options": options,
        "groups": {**of, "batches": batches},
        "play_hosts": play_hosts,
        "hosts": hosts,
        "lbs": lbs,
        "invalid": invalid,
        "uneven": uneven({host: hostvars[host] for host in everyone}),
    }


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


def locked(run: dict) -> tuple[str, str] | None:
    """What is wrong and what to do when another run holds the lock of a load balancer host; None if it does not."""
    if not run.get("refused"):
        return None
    holder = run["holder"]
    since = datetime.datetime.fromtimestamp(holder["since"]).astimezone().isoformat(sep=" ", timespec="seconds")
    return (
        "another upgrade run holds the lock: run %s of %s, pid %s, since %s; it ends by itself in %s s unless it is renewed"
        % (holder["run_id"], holder.get("controller", "?"), holder.get("pid", "?"), since, run.get("expires_in")),
        "wait for it; if that run is certainly dead, remove run.json in kong_upgrade_state_dir of this host; if this is a "
        "later step of the same workflow, pass kong_upgrade_run_id=%s" % holder["run_id"],
    )


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
            problems.append("%s: has the wrong type" % key if key in SECRET else message)
    return problems


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
            result[key] = spec.get("default", value) if checked.error_messages else checked.validated_parameters[name]
    return result


@functools.lru_cache(maxsize=1)
def option_specs() -> dict:
    """name -> specification of every role variable, over all entry points (meta/argument_specs.yml)."""
    merged = {}
    for entry in yaml.safe_load(SPECS.read_text())["argument_specs"].values():
        for name, spec in (entry.get("options") or {}).items():
            merged[name] = to_argument_spec(spec)
    return merged


def to_argument_spec(spec: dict) -> dict:
    """The part of a documented option that the validator knows."""
    known = {key: spec[key] for key in ("type", "elements", "choices", "default") if key in spec}
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
