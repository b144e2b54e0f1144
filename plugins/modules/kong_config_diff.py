#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_config_diff
short_description: Compares the configuration in two databases of Kong, entity by entity
version_added: "0.1.0"
description:
  - Tells whether the database that O(conf) names holds what another one, of an older Kong, holds. It is for after an import with
    M(bluegreen.kong.kong_config_dump), and shows also what somebody has written into the old one since the export.
  - Every entity is compared by its id and its contents. What Kong 2.8 calls otherwise (C(whitelist) is C(allow)) counts as the same, and
    so does a field that the older version did not have.
  - Left out are C(updated_at), which an import sets anew, counters, whatever has a time to live, and what the data plane writes while it
    serves (OAuth 2.0 tokens and codes, sessions, ACME), which M(bluegreen.kong.kong_runtime_data) copies.
  - Nothing is changed. No value is returned, since it may be a secret.
seealso:
  - module: bluegreen.kong.kong_config_dump
  - module: bluegreen.kong.kong_backup_info
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.attributes.info
  - bluegreen.kong.cli.conf
  - bluegreen.kong.postgres
  - bluegreen.kong.cassandra
options:
  conf:
    description:
      - Configuration file of a node of the new cluster. The new database is the one that it names.
      - The login options below say where the old database is. What they leave out is as in this file, so for another keyspace of the same
        Cassandra O(cassandra_keyspace) alone is enough.
  limit:
    description: How many differences are told one by one. All are counted.
    type: int
    default: 100
"""

EXAMPLES = r"""
- name: Compare the keyspace that new.conf names with the old one
  bluegreen.kong.kong_config_diff:
    conf: /etc/kong/new.conf
    cassandra_keyspace: kong
  register: compared
  failed_when: compared.number > 0
"""

RETURN = r"""
old:
  description: The old database.
  returned: success
  type: str
  sample: keyspace kong at 10.0.0.5 (port 9042) as kong
new:
  description: The new database.
  returned: success
  type: str
counts:
  description: The number of rows of each kind.
  returned: success
  type: dict
  sample: {"consumers": {"old": 120, "new": 120}}
number:
  description: The number of differences.
  returned: success
  type: int
differences:
  description: The first of them.
  returned: success
  type: list
  elements: dict
  contains:
    entity:
      description: Its kind.
      type: str
      sample: services
    id:
      description: Its id.
      type: str
    name:
      description: Its name, or null.
      type: str
    what:
      description: Whether the new database lacks it (V(missing)), has it otherwise (V(different)), or has it alone (V(extra)).
      type: str
    fields:
      description: The fields that differ.
      type: list
      elements: str
told:
  description: The same differences, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["services billing (2fa1c1ac-1f5b-4b0a-9a4f-3cf3f2c0b001) is different in host"]
not_compared:
  description: Tables of others that hold something and have no ids.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _dump, _dump_diff, _migrate
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            _migrate.database_options(), conf={"type": "path"}, limit={"type": "int", "default": 100},
        ),
        supports_check_mode=True,
    )  # fmt: skip
    try:
        settings = _conf.load(module.params["conf"])[0]
        with _dump.entities(settings, module.params) as old, _dump.entities(settings) as new:
            result = _dump_diff.compare(old, new, module.params["limit"])
            result.update(old=old.place, new=new.place, told=_dump_diff.told(result))
    except KongError as error:
        module.fail_json(**error.result())
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
