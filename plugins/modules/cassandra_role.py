#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: cassandra_role
short_description: Makes a role of Cassandra and the keyspace that is its own
version_added: "0.1.0"
description:
  - Makes, of a role that can log in and a keyspace, what is missing. When it has made one of them, the role gets all permissions on
    the keyspace.
  - What is there is not touched, neither the password of a role nor the replication of a keyspace.
  - It logs in as an administrator, with O(cassandra_username) and O(cassandra_password).
  - The collection community.cassandra has a module of the same name that does more. It grants nothing on a keyspace that it does not
    find, and knows neither a local datacenter nor TLS as Kong uses it.
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.cassandra
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
options:
  name:
    description:
      - The role.
    type: str
    required: true
  password:
    description:
      - Its password, which is needed where it has to be made.
    type: str
  replication:
    description:
      - Replication of the keyspace where it has to be made, as C(CREATE KEYSPACE) takes it.
    type: dict
    default: {class: SimpleStrategy, replication_factor: 1}
  ca_cert:
    description:
      - File with the certificates that those of the nodes are checked against.
    type: path
notes:
  - Where Cassandra asks nobody for a login (C(AllowAllAuthenticator)) it has no roles, and the module fails. Where it asks for one and
    lets everybody do everything (C(AllowAllAuthorizer)), nothing is granted.
seealso:
  - module: bluegreen.kong.kong_migrations
"""

EXAMPLES = r"""
- name: Kong's role and keyspace
  bluegreen.kong.cassandra_role:
    name: kong
    password: "{{ vault_cassandra_password }}"
    cassandra_keyspace: kong
    replication: {class: NetworkTopologyStrategy, madrid: 3, lisbon: 3}
    cassandra_contact_points: [10.0.2.1, 10.0.2.2]
    cassandra_username: cassandra
    cassandra_password: "{{ vault_cassandra_admin_password }}"
"""

RETURN = r"""
made:
  description: What was made, or would be in check mode. V(role), V(keyspace) or both; empty where both were there.
  returned: success
  type: list
  elements: str
  sample: [role, keyspace]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra, _cassandra_role
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    spec = {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "no_log": True},
        "replication": {"type": "dict", "default": {"class": "SimpleStrategy", "replication_factor": 1}},
        "ca_cert": {"type": "path"},
    }
    spec.update(_cassandra.options())
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        made = _cassandra_role.make(module.params, module.check_mode)
    except KongError as error:
        module.fail_json(**error.result())
    module.exit_json(changed=bool(made), made=made)


if __name__ == "__main__":
    main()
