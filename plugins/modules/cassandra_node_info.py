#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: cassandra_node_info
short_description: Tells which node of Cassandra runs on a host, and who is connected to it
version_added: "0.1.0"
description:
  - Runs on the host of a node of Cassandra. The node's id comes from C(nodetool info), its clients from the kernel's table of
    connections, since Cassandra 3 tells nobody who its clients are.
  - Clients can be watched over a time, so that one that comes and goes is seen.
  - Nothing is changed.
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.attributes.info
options:
  nodetool:
    description:
      - The C(nodetool) command of the node, a program and its arguments, such as C(-p), or C(-pwf) with a file of the password.
    type: list
    elements: str
    default: [nodetool]
  port:
    description:
      - Port on which the node listens for CQL clients.
    type: int
    default: 9042
  address:
    description:
      - Address on which it does. Needed only where several nodes share a host.
    type: str
  duration:
    description:
      - Seconds over which the clients are watched, ten looks in each. V(0) is one look.
    type: float
    default: 0
seealso:
  - module: bluegreen.kong.kong_datastore_info
notes:
  - The connections are those of the network namespace in which the module runs; a node in a container shows its clients in there.
"""

EXAMPLES = r"""
- name: Who is connected within ten seconds?
  bluegreen.kong.cassandra_node_info:
    nodetool: [nodetool, -u, monitor, -pwf, /etc/cassandra/jmx.password]
    duration: 10
  register: node
"""

RETURN = r"""
cassandra_node:
  description: What was found.
  returned: success
  type: dict
  contains:
    host_id:
      description: Id of the node, as C(system.local) and C(system.peers) have it.
      type: str
    clients:
      description: Connections of clients, also of the node's own tools.
      type: list
      elements: dict
      contains:
        client_addr:
          description: Address of the client.
          type: str
        client_port:
          description: Its port.
          type: int
        samples:
          description: In how many looks it was there.
          type: int
        first_seen:
          description: Time of the first of them, in seconds by the host's clock.
          type: float
        last_seen:
          description: Time of the last of them.
          type: float
    samples:
      description: How many looks there were.
      type: int
    sampled:
      description: Seconds between the first and the last.
      type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra_node
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "nodetool": {"type": "list", "elements": "str", "default": ["nodetool"]},
            "port": {"type": "int", "default": 9042},
            "address": {"type": "str"},
            "duration": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    try:
        found = _cassandra_node.look(module.params, module.run_command)
    except KongError as error:
        module.fail_json(**error.result())
    module.exit_json(changed=False, cassandra_node=found)


if __name__ == "__main__":
    main()
