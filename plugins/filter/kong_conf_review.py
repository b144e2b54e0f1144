# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter kong_conf_review; the work is in plugin_utils/conf_review.py."""

from __future__ import annotations

from collections.abc import Mapping

from ansible.errors import AnsibleFilterError
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError
from ansible_collections.bluegreen.kong.plugins.plugin_utils import conf_review, knowledge


def kong_conf_review(settings, source, target):
    """{"router_consistency": "strict"} -> what another version makes of it, see the documentation."""
    if not isinstance(settings, Mapping):
        raise AnsibleFilterError("kong_conf_review: settings are a dictionary, not %s" % type(settings).__name__)
    try:
        return conf_review.review(dict(settings), source, target)
    except (knowledge.KnowledgeError, ConfError) as error:
        raise AnsibleFilterError("kong_conf_review: %s" % error) from error


class FilterModule:
    """Documented beside this file."""

    def filters(self):
        """name -> function"""
        return {"kong_conf_review": kong_conf_review}
