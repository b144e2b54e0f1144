#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_backup_restore
short_description: Puts a dump in the place of Kong's data, in one transaction
version_added: "0.1.0"
description:
  - Replaces everything in Kong's schema by what a dump holds that C(pg_dump) made in its custom format. What was written since is
    lost; M(bluegreen.kong.kong_backup_info) tells how much.
  - All of it is one transaction. Kong's schema is emptied, the dump is restored, the rows of each table are counted, and only then
    it is committed. When anything fails, or the module is killed, the data are as they were before.
  - It is content when the database has the migration state that is in the dump, for then nothing was migrated since.
  - Nothing outside of Kong's schema is touched. An object elsewhere that depends on a table of Kong's ends it.
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.cli.conf
  - bluegreen.kong.postgres
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
options:
  path:
    description:
      - The dump. A file with its SHA-256, as C(sha256sum) writes it, must be beside it (C(.sha256)).
    type: path
    required: true
  sha256:
    description:
      - The checksum that the dump must have, so that it is the one you mean.
    type: str
  pg_bin_dir:
    description:
      - Folder in which C(pg_restore) and C(psql) are looked for before the usual ones.
    type: path
notes:
  - No node of Kong may run on the database meanwhile.
  - It takes a login that owns Kong's tables, such as Kong's own role.
seealso:
  - module: bluegreen.kong.kong_backup_info
"""

EXAMPLES = r"""
- name: Back to the data before the upgrade
  bluegreen.kong.kong_backup_restore:
    path: "{{ found.backup.path }}"
    sha256: "{{ found.backup.sha256 }}"
    conf: /etc/kong/kong.conf
"""

RETURN = r"""
sha256:
  description: The checksum of the dump.
  returned: success
  type: str
before:
  description: The migration state before, as the module bluegreen.kong.kong_migrations_info returns it.
  returned: success
  type: dict
after:
  description: The migration state afterwards.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _backup, _postgres
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    spec = {
        "path": {"type": "path", "required": True},
        "sha256": {"type": "str"},
        "conf": {"type": "path"},
        "pg_bin_dir": {"type": "path"},
    }
    spec.update(_postgres.options())
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        result = _backup.restore(module.params, module.run_command, module.check_mode)
    except KongError as error:
        module.fail_json(**error.result())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
