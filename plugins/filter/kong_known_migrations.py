# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter kong_known_migrations; what it knows is in plugin_utils/knowledge."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge


def kong_known_migrations(version, plugins="bundled", unknown=None):
    """ "2.8.5" -> {"core": ["000_base", ...], ...}; plugins: as in kong.conf, a list or a text; unknown: see the documentation."""
    names = plugins if isinstance(plugins, (list, tuple)) else str(plugins).split(",")
    names = {str(name).strip() for name in names}
    try:
        known = knowledge.migrations_of(version)
        return {name: ids for name, ids in known.items() if name == "core" or names & {name, "bundled"}}
    except knowledge.KnowledgeError as error:
        if unknown is not None:
            return unknown
        raise AnsibleFilterError("kong_known_migrations: %s" % error) from error


class FilterModule:
    """Documented beside this file."""

    def filters(self):
        """name -> function"""
        return {"kong_known_migrations": kong_known_migrations}
