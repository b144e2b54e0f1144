#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_backup_info
short_description: Tells what is in a dump of Kong's database, and what has come since
version_added: "0.1.0"
description:
  - Checks a dump that C(pg_dump) made in its custom format against the checksum beside it (C(.sha256)), reads every row in it,
    and compares it with the database as it is now.
  - It fails when the checksum is missing or another, or when the dump cannot be read.
  - Nothing is changed.
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.attributes.info
  - bluegreen.kong.cli.conf
  - bluegreen.kong.postgres
options:
  path:
    description:
      - The dump, or a folder, of whose dumps with a checksum the newest is taken.
    type: path
    required: true
  pattern:
    description:
      - How the name of the dump begins, where O(path) is a folder; shell style wildcards are understood.
    type: str
    default: ""
  pg_bin_dir:
    description:
      - Folder in which C(pg_restore) and C(psql) are looked for before the usual ones.
    type: path
seealso:
  - module: bluegreen.kong.kong_backup_restore
"""

EXAMPLES = r"""
- name: What would be lost if we went back?
  bluegreen.kong.kong_backup_info:
    path: /var/lib/kong_upgrade/backup
    pattern: kong-2.1.4-
    conf: /etc/kong/kong.conf
  register: found
"""

RETURN = r"""
backup:
  description: What was found.
  returned: success
  type: dict
  contains:
    path:
      description: The dump.
      type: str
    sha256:
      description: Its checksum, as read and as it should be.
      type: str
    made:
      description: When it was written, in seconds by the host's clock.
      type: float
    migrations:
      description: The migration state in it, as the module bluegreen.kong.kong_migrations_info returns it.
      type: dict
    rows:
      description: Rows of each table in it.
      type: dict
      sample: {"services": 3, "routes": 7}
    restored:
      description: Whether the database has the same migration state, so that nothing was migrated since.
      type: bool
    differences:
      description: Tables of configuration in which the database has other rows now.
      type: list
      elements: dict
      contains:
        table:
          description: Name of the table.
          type: str
        backup:
          description: Rows in the dump.
          type: int
        now:
          description: Rows in the database; null where they may not be read.
          type: int
        added:
          description: Rows that have come since, by their id, and would be lost; null where they may not be read.
          type: int
        removed:
          description: Rows that have gone since and would come back; null where they may not be read.
          type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _backup, _postgres
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    spec = {
        "path": {"type": "path", "required": True},
        "pattern": {"type": "str", "default": ""},
        "conf": {"type": "path"},
        "pg_bin_dir": {"type": "path"},
    }
    spec.update(_postgres.options())
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        found = _backup.info(module.params, module.run_command)
    except KongError as error:
        module.fail_json(**error.result())
    module.exit_json(changed=False, backup=found)


if __name__ == "__main__":
    main()
