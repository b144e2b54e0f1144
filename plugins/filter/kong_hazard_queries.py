# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter kong_hazard_queries; what it asks is in plugin_utils/knowledge/hazards.yml."""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils import hazards, knowledge


def kong_hazard_queries(source, target):
    """ "2.1.4" | kong_hazard_queries("2.8.5") -> queries for kong_datastore_info; {} where a version is not known."""
    known = knowledge.versions()
    return hazards.queries(source, target) if source in known and target in known else {}


class FilterModule:
    """Documented beside this file."""

    def filters(self):
        """name -> function"""
        return {"kong_hazard_queries": kong_hazard_queries}
