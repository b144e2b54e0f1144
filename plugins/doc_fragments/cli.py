# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that run the `kong` command."""

from __future__ import annotations


class ModuleDocFragment:
    """executable, conf and prefix; `bluegreen.kong.cli.conf` has conf alone."""

    DOCUMENTATION = r"""
options:
  executable:
    description:
      - The C(kong) command to run.
      - Without it, E(PATH) is searched, then C(/usr/local/bin/kong) and C(/usr/bin/kong).
    type: path
  conf:
    description:
      - Configuration file of the node. Environment variables that begin with C(KONG_) win over it, as they do for Kong.
      - Without it, Kong's own defaults C(/etc/kong/kong.conf) and C(/etc/kong.conf) are looked for.
    type: path
  prefix:
    description:
      - Prefix directory of the node.
      - C(kong migrations) and C(kong config) never run in it. They get a scratch prefix of mode 0700 that is removed
        afterwards, because they can overwrite the configuration of the running node (2.3), or read the connection
        settings from it instead of from O(conf).
    type: path
"""

    CONF = r"""
options:
  conf:
    description:
      - Configuration file of a Kong node, from which the connection is taken where O(login_host) and its sisters do not
        say otherwise. Environment variables that begin with C(KONG_) win over it, as they do for Kong.
      - Without it, Kong's own defaults C(/etc/kong/kong.conf) and C(/etc/kong.conf) are looked for.
    type: path
"""
