# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter kong_known_migrations; what it knows is in plugin_utils/knowledge."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge


def kong_known_migrations(version):
    """ "2.8.5" -> {"core": ["000_base", ...], ...}"""
    try:
        return knowledge.migrations_of(version)
    except knowledge.KnowledgeError as error:
        raise AnsibleFilterError("kong_known_migrations: %s" % error) from error


class FilterModule:
    """Documented beside this file."""

    def filters(self):
        """name -> function"""
        return {"kong_known_migrations": kong_known_migrations}
