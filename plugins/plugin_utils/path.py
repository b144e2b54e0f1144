# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The hops that lead from what runs to a target, or what stands in the way. Pure."""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge


def find(versions, target=None, datastore="postgres"):
    """ "2.1.4" -> {"hops": [{from, to, strategy, kind, why, docs}], "problems": [{what, do}]}; never raises."""
    versions = versions if isinstance(versions, (list, tuple, set)) else [versions]
    sources = sorted({str(version).strip() for version in versions})
    target = knowledge.newest_target() if target is None else target
    problems, hops = [], []
    for source in sources:
        try:
            hops = knowledge.hops(source, target, datastore)
        except knowledge.KnowledgeError as error:
            problem = {"what": error.what, "do": error.do or "name a release of Kong Gateway OSS, or leave this one out"}
            if problem not in problems:
                problems.append(problem)
    if not sources:
        problems.append({"what": "there is no version to start from", "do": "name the version that runs"})
    if len(sources) > 1:
        problems.append({"what": "several versions run: %s" % ", ".join(sources), "do": "bring them to one first"})
    return {"hops": [] if problems else [{**hop, "kind": kind(hop)} for hop in hops], "problems": problems}


def kind(hop):
    """Which number of the version changes first: major, minor or patch."""
    before, after = (hop[end].split(".") for end in ("from", "to"))
    return "major" if before[0] != after[0] else "minor" if before[1] != after[1] else "patch"
