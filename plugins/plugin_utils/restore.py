# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way back after finish: whether it is the right one, what it loses, and the word that it takes. Pure.

The survey is that of plan.py, Findings those of findings.py; backup is what kong_backup_info found.
"""

from __future__ import annotations

import re

from ansible_collections.bluegreen.kong.plugins.plugin_utils import state
from ansible_collections.bluegreen.kong.plugins.plugin_utils.proof import clock

WORD = 12  # digits of the checksum that are enough to mean this very dump
# How the role calls a dump: database, version that ran on it, state of its schema.
NAME = re.compile(r"-([0-9]+[.][0-9]+[.][0-9]+)-[^/]*[.]pgc$")


def check(survey, source, target, stands, migrations, found):
    """Blockers of a restore; none once the data of the backup are back, for then only blue is left to bring back."""
    options, backup = survey["options"], survey.get("backup") or {}
    if not backup or backup.get("error"):
        found.block(
            options["database_host"],
            backup.get("error") or "the backup was not looked at",
            "name the dump of before the upgrade in kong_upgrade_restore_dump (a file on this host, with its checksum beside it)",
        )
        return
    if backup["restored"]:
        return
    if stands["blue_running"]:
        found.block(", ".join(stands["blue_running"]), "blue runs there on the data that would be replaced", "stop it first")
    if stands["green_running"] and not state.point_of_no_return(source, target, stands, migrations):
        found.block("restore", "the point of no return is not behind", "playbooks/rollback.yml goes back and loses nothing")
        return
    old, new = ("the old version", "the nodes") if options["strategy"] == "rolling" else ("blue", "green")
    word = str(options["confirm_restore"])
    if len(word) < WORD or not backup["sha256"].startswith(word):
        found.block(
            "restore",
            "%s; from the stop of %s until %s is UP no request is answered%s"
            % (loss(backup), new, old, "; kong_upgrade_confirm_restore is %s, which does not mean this dump" % word if word else ""),
            "if that is what you want: %s -e kong_upgrade_confirm_restore=%s"
            % (options["command"].replace("PLAYBOOK", "restore"), backup["sha256"][:WORD]),
        )


def version_of(backup) -> str | None:
    """The version that ran on the data of a dump, as its name tells; None where it does not."""
    told = NAME.search((backup or {}).get("path") or "")
    return told[1] if told else None


def loss(backup) -> str:
    """What a restore does to the data, as a sentence."""
    rows = [
        "%(table)s, which cannot be read" % row
        if row["now"] is None
        else "%(table)s (%(backup)d then, %(now)d now): %(added)d added, %(removed)d removed" % row
        for row in backup["differences"]
    ]
    since = "what was written since is lost: %s" % "; ".join(rows) if rows else "no row was added or removed since"
    return "the data of %s come back (%s), and %s; changes to rows that were there already are lost too, and are not counted" % (
        clock(backup["made"]),
        backup["path"],
        since,
    )
