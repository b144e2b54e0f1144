# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a suggested command takes over from the command line of this run: inventories, extra variables, whence its passwords come. Pure."""

from __future__ import annotations

import shlex

import yaml
from ansible.parsing.splitter import parse_kv
from ansible_collections.bluegreen.kong.plugins.plugin_utils.survey import holds_secret, option_specs

# How far this run goes, and words that are good for this run alone.
OF_THIS_RUN = ("kong_upgrade_until", "kong_upgrade_confirm_blue_gone", "kong_upgrade_confirm_restore")
# Types of a variable whose value is no secret by accident, as a command or free settings may be.
SHOWN = ("str", "path", "bool", "int", "float", "list")


# Options that say whence passwords come: a person, or a file. By their name in Ansible's parsed command line.
ASKED = {"ask_vault_pass": "--ask-vault-pass", "ask_pass": "--ask-pass", "become_ask_pass": "--ask-become-pass"}
READ = {"vault_password_files": "--vault-password-file", "vault_ids": "--vault-id"}


def options(inventories, extra_vars, given_too=None) -> str:
    """Options for `ansible-playbook`: -i of each inventory, whence passwords come, -e of what is no secret.

    extra_vars: the texts that -e was given: "@file", "key=value ...", or a mapping as JSON or YAML.
    given_too: Ansible's parsed command line.
    """
    given_too = given_too or {}
    words = ["-i %s" % shlex.quote(str(path)) for path in inventories]
    words += [word for name, word in ASKED.items() if given_too.get(name)]
    words += ["%s %s" % (word, shlex.quote(str(value))) for name, word in READ.items() for value in given_too.get(name) or ()]
    for given in extra_vars:
        if given.startswith("@"):
            words.append("-e %s" % shlex.quote(given))
            continue
        for name, value in parsed(given).items():
            if shown(name):
                words.append("-e %s" % shlex.quote(written(name, value)))
    return " ".join(words)


def left_out(extra_vars) -> list:
    """Names of the extra variables whose values are not shown, and without which the next command may be another one."""
    names = [name for given in extra_vars if not given.startswith("@") for name in parsed(given)]
    return sorted({name for name in names if not shown(name)} - set(OF_THIS_RUN))


def parsed(given) -> dict:
    """The variables of one -e, as Ansible reads it."""
    return (yaml.safe_load(given) if given[:1] in "[{" else parse_kv(given)) or {}


def shown(name) -> bool:
    """Whether the value may be part of a text. Of a variable that is not the role's nobody knows what it holds."""
    spec = option_specs().get(name)
    return bool(spec) and spec.get("type", "str") in SHOWN and not holds_secret(spec) and name not in OF_THIS_RUN


def written(name, value) -> str:
    """One variable as -e takes it; a text stays a text."""
    if isinstance(value, str) and not set(value) & set(" '\"\\{["):
        return "%s=%s" % (name, value)
    return yaml.safe_dump({name: value}, default_flow_style=True, width=float("inf")).strip()
