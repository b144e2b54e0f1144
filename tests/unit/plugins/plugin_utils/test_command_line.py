# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import shlex

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import command_line


@pytest.mark.parametrize(
    "given, kept",
    [
        (["kong_upgrade_blue_group=old kong_upgrade_lb_group=edge"], ["kong_upgrade_blue_group=old", "kong_upgrade_lb_group=edge"]),
        (["kong_upgrade_green_group=gw_new", "kong_upgrade_until=shift"], ["kong_upgrade_green_group=gw_new"]),
        (['{"kong_upgrade_soak": 5, "kong_upgrade_batches": ["a", "b"]}'], ["{kong_upgrade_soak: 5}", "{kong_upgrade_batches: [a, b]}"]),
        (["kong_upgrade_target_version='2.8.5'"], ["kong_upgrade_target_version=2.8.5"]),
        (['{"kong_upgrade_measured_way": true}'], ["{kong_upgrade_measured_way: true}"]),
        (["kong_upgrade_report_dir='/a b/c'"], ["{kong_upgrade_report_dir: /a b/c}"]),
        (["@secrets.yml", "@/a b.yml"], ["@secrets.yml", "@/a b.yml"]),
        (["kong_upgrade_confirm_blue_gone=true"], []),
        ([], []),
    ],
)  # fmt: skip
def test_the_next_command_has_what_this_one_was_given(given, kept):
    words = shlex.split(command_line.options(["inv", "/x y/hosts"], given))
    assert words == ["-i", "inv", "-i", "/x y/hosts"] + [word for value in kept for word in ("-e", value)]
    assert command_line.left_out(given) == []


def test_the_next_command_finds_its_passwords_where_this_one_did():
    given = {"ask_vault_pass": True, "become_ask_pass": False, "vault_password_files": ["/a b"], "vault_ids": None}
    told = command_line.options(["inv"], ["@more.yml"], given)
    assert told == "-i inv --ask-vault-pass --vault-password-file '/a b' -e @more.yml"


@pytest.mark.parametrize(
    "given, names",
    [
        ("vault_pg_password=hunter2 kong_upgrade_blue_group=old", ["vault_pg_password"]),
        ("kong_upgrade_vault_password=hunter2", ["kong_upgrade_vault_password"]),
        ('{"kong_upgrade_secret_settings": {"pg_password": "hunter2"}}', ["kong_upgrade_secret_settings"]),
        ("kong_upgrade_backup_command='PGPASSWORD=hunter2 snap'", ["kong_upgrade_backup_command"]),
        ("ansible_become_password=hunter2", ["ansible_become_password"]),
        ('{"kong_upgrade_probe": [{"headers": {"apikey": "hunter2"}}]}', ["kong_upgrade_probe"]),
    ],
)
def test_never_a_secret(given, names):
    assert "hunter2" not in command_line.options(["inv"], [given])
    assert command_line.left_out([given]) == names
