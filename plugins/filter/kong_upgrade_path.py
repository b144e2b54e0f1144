# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter kong_upgrade_path; what it does is in plugin_utils/path.py."""

from __future__ import annotations

from ansible_collections.bluegreen.kong.plugins.plugin_utils import path


class FilterModule:
    """Documented beside this file."""

    def filters(self):
        """name -> function"""
        return {"kong_upgrade_path": path.find}
