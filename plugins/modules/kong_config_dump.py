#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_config_dump
short_description: Exports Kong's configuration from its database to a file
version_added: "0.1.0"
description:
  - Makes a declarative export of a Kong database with C(kong config db_export) (Kong 1.3 and later).
  - The command is not believed by its exit code, which is 0 as well when it could write nothing. The file is looked at,
    its entities are counted, and only then it gets its name, in one step, readable by its owner alone.
  - The command gets a scratch prefix, because it would export the database of whatever node runs in the prefix it is
    given, instead of the one that O(conf) names.
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.cli
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - An export holds credentials, so nothing of it is shown.
options:
  state:
    description:
      - V(exported) makes the file O(dest), unless it is there already.
    type: str
    choices: [exported]
    default: exported
  dest:
    description:
      - The file to make, with mode 0600. Its folder is made, with mode 0700, if it does not exist.
      - Beside it a file of the same name with C(.sha256) at its end keeps the checksum, in the format of C(sha256sum).
      - A file that is there and matches its checksum is kept. One that does not, or has none, is an error.
    type: path
    required: true
  force:
    description:
      - Make a new export even if O(dest) is there, and replace it.
    type: bool
    default: false
  parse:
    description:
      - Have the same C(kong) command parse the export, and warn if it cannot.
    type: bool
    default: true
notes:
  - An export is no full backup. Exports of Kong 1.3 to 2.0 have no basic-auth credentials, and no version exports
    tokens or counters. Make a dump of the database as well.
  - It must be made with the binary of the version that serves the database. A newer one fails on an older schema.
"""

EXAMPLES = r"""
- name: Keep what the old version has
  bluegreen.kong.kong_config_dump:
    executable: /opt/kong-2.1.4/bin/kong
    conf: /etc/kong/kong.conf
    dest: /var/backups/kong/before-up.yml
"""

RETURN = r"""
dest:
  description: The file.
  returned: success
  type: str
sha256:
  description: Its checksum.
  returned: success, except in check mode when it would be made
  type: str
size:
  description: Its size in bytes.
  returned: success, except in check mode when it would be made
  type: int
counts:
  description: The number of entities of each kind.
  returned: success, except in check mode when it would be made
  type: dict
  sample: {"services": 3, "routes": 7, "consumers": 120}
format_version:
  description: What the file says of its format.
  returned: success, except in check mode when it would be made
  type: str
  sample: "2.1"
transform:
  description: Whether an import would hash secrets, as far as the file says; null if it does not.
  returned: success, except in check mode when it would be made
  type: bool
importable:
  description: Whether the same C(kong) command can parse it.
  returned: when it was made, and O(parse=true)
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _dump
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["exported"], "default": "exported"},
            "executable": {"type": "path"},
            "conf": {"type": "path"},
            "prefix": {"type": "path"},
            "dest": {"type": "path", "required": True},
            "force": {"type": "bool", "default": False},
            "parse": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        result = _dump.export(module.params, module.run_command, module.check_mode)
    except KongError as error:
        module.fail_json(**error.result())
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
