#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_runtime_data
short_description: Copies what Kong's nodes write while they serve out of a keyspace of Cassandra
version_added: "0.1.0"
description:
  - OAuth 2.0 tokens and authorization codes, sessions, what the plugin acme stores, and key-auth credentials that have a time to live
    are in no useful way part of an export, since an import forgets when they end. They are copied row by row, each with the time that it
    has left.
  - The copy can be repeated while both clusters serve. What the old cluster has ended between two rounds (a session that was logged out, a
    code that was used) is removed. What a node of the new cluster has made of a row since stays.
  - Into another keyspace, a row keeps its time stamp, and the younger one counts. PostgreSQL has no time stamps; there the one that ends
    later counts, one that is there and has no end stays, and a token or credential whose client or consumer is not there is left out.
  - The old keyspace is only read. Rows of the new keyspace or database that the old one never had are left alone.
seealso:
  - module: bluegreen.kong.kong_config_dump
  - module: bluegreen.kong.kong_config_diff
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.cli.conf
  - bluegreen.kong.cassandra
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - These are secrets, of which nothing is shown.
options:
  conf:
    description:
      - Configuration file of a node of the new cluster. What it names, a keyspace or a database of PostgreSQL, is written to.
      - The login options below say where the old keyspace is. What they leave out is as in this file, so for another keyspace of the same
        Cassandra O(cassandra_keyspace) alone is enough.
  ca_cert:
    description:
      - File with the certificates by which those of the old Cassandra are checked.
      - Defaults to what C(lua_ssl_trusted_certificate) names.
    type: path
  duration:
    description: Seconds for which to go on copying what is new. V(0) means one round.
    type: int
    default: 0
  marker:
    description: A file. Once it is gone, a last round is made, and the module ends before O(duration) is over.
    type: path
  interval:
    description: Seconds between two rounds, at least. A round that takes longer is followed by as long a pause.
    type: float
    default: 0.5
"""

EXAMPLES = r"""
- name: Copy tokens and sessions once
  bluegreen.kong.kong_runtime_data:
    conf: /etc/kong/new.conf
    cassandra_keyspace: kong

- name: Go on copying while traffic is shifted
  bluegreen.kong.kong_runtime_data:
    conf: /etc/kong/new.conf
    cassandra_keyspace: kong
    duration: 3600
    marker: /run/kong/copying
  async: 3700
  poll: 0
"""

RETURN = r"""
copied:
  description: The number of rows that were written, by table. Into PostgreSQL, what is there already is not.
  returned: success
  type: dict
  sample: {"oauth2_tokens": 12}
removed:
  description: The number of rows that the old keyspace had in one round and no longer in the next, by table.
  returned: success
  type: dict
rounds:
  description: The number of rounds.
  returned: success
  type: int
old:
  description: The old keyspace.
  returned: success
  type: str
  sample: keyspace kong at 10.0.0.5 (port 9042) as kong
new:
  description: The new keyspace or database.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra, _conf, _dump, _runtime_data
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            _cassandra.options(),
            ca_cert={"type": "path"},
            conf={"type": "path"},
            duration={"type": "int", "default": 0},
            marker={"type": "path"},
            interval={"type": "float", "default": 0.5},
        ),
        supports_check_mode=True,
    )
    try:
        settings = _conf.load(module.params["conf"])[0]
        of_old = dict(settings, database="cassandra")
        with _dump.entities(of_old, module.params) as old, _dump.entities(settings) as new:
            result = _runtime_data.copy(old, new, module.params, module.check_mode)
    except KongError as error:
        module.fail_json(**error.result())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
