# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stands in the way of a run, and what its operator should know: collected, and told in one list. Pure."""

from __future__ import annotations


class Findings:
    """Collects blockers and warnings, each with the place and the way out."""

    def __init__(self, looks=""):
        self.looks = looks
        self.blockers = []
        self.warnings = []
        self.missing = 0  # what an upgrade needs and is not there yet

    def block(self, where, what, do):
        self.blockers.append({"where": where, "what": what, "do": do})

    def later(self, where, what, do):
        """What stands in the way of an upgrade, and not of a look before everything for it is there."""
        if self.looks:
            self.missing += 1
            self.warn(where, what, do + ", before upgrade.yml")
        else:
            self.block(where, what, do)

    def warn(self, where, what, do, section=None):
        """section: the one of the report that tells it already."""
        self.warnings.append({"where": where, "what": what, "do": do, "section": section})


def together(all_found):
    """What is wrong in the same words in several places is told once."""
    places = {}
    for found in all_found:
        places.setdefault(tuple(sorted((key, str(value)) for key, value in found.items() if key != "where")), []).append(found)
    return [dict(alike[0], where=", ".join(dict.fromkeys(found["where"] for found in alike))) for alike in places.values()]


def refusal(blockers):
    """All blockers in one list."""
    lines = ["%d problem%s before the first change:" % (len(blockers), "" if len(blockers) == 1 else "s")]
    return lines + [
        "%s: %s %s" % (blocker["where"], ended(blocker["what"]), ended(blocker["do"][:1].upper() + blocker["do"][1:]))
        for blocker in blockers
    ]


def ended(text):
    """A sentence with one sign at its end."""
    text = text.rstrip(". ")
    return text if text.endswith(("?", "!")) else text + "."
