#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: haproxy_server_info
short_description: Backends, servers, weights, states and counters of one or many HAProxies
version_added: "0.1.0"
description:
  - Reads one or many HAProxies through their runtime sockets, in parallel, and changes nothing.
  - Needs HAProxy 2.2 or newer. Addresses, balance algorithms and cookies are told only by a socket of level C(operator)
    or C(admin).
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.attributes.info
options:
  sockets:
    description:
      - The runtime sockets, one for each HAProxy process. Each is an absolute path, C(host:port) or C([IPv6]:port).
    type: list
    elements: str
    required: true
  backends:
    description: Return only these backends. By default all.
    type: list
    elements: str
    default: []
  servers:
    description: Return only servers of these names (or C(backend/name)), and their backends. By default all.
    type: list
    elements: str
    default: []
  conf_file:
    description:
      - The C(haproxy.cfg) files in which M(bluegreen.kong.haproxy_server) is to make weights permanent.
      - RV(conf_files) tells whether it could.
    type: list
    elements: str
    default: []
  sessions:
    description: Return also each session that these servers have now. This needs level C(operator).
    type: bool
    default: false
  on_error:
    description:
      - V(fail) fails when a socket cannot be read. V(report) returns what the others say, and lists RV(problems).
    type: str
    choices: [fail, report]
    default: fail
  timeout:
    description: The longest time for a connection and for each answer on a socket, in seconds.
    type: int
    default: 10
seealso:
  - module: bluegreen.kong.haproxy_server
"""

EXAMPLES = r"""
- name: Where does the traffic go?
  bluegreen.kong.haproxy_server_info:
    sockets: [/run/haproxy/admin.sock]
  register: found

- name: Name every server that takes traffic
  ansible.builtin.debug:
    msg: "{{ item.backend }}/{{ item.name }} {{ item.weight }} {{ item.sessions }}"
  loop: "{{ found.haproxy[0].servers | selectattr('running') | selectattr('admin_state', 'eq', 'ready') }}"
"""

RETURN = r"""
haproxy:
  description:
    - What each HAProxy says, one item for each socket that answered, with the same keys as in
      M(bluegreen.kong.haproxy_server).
  returned: success
  type: list
  elements: dict
  sample:
    - socket: /run/haproxy/admin.sock
      version: 2.8.25
      pid: 4711
      uptime: 86400
      level: admin
      state_file: /var/lib/haproxy/server-state
      backends:
        kong: {algo: roundrobin, weights: dynamic, cookie: null, stick: null, status: UP}
      servers:
        - {backend: kong, name: blue1, weight: 100, initial_weight: 100, admin_state: ready, status: UP, sessions: 3}
problems:
  description: Sockets that could not be read, and why.
  returned: always
  type: list
  elements: str
conf_files:
  description: With O(conf_file), one item for each file.
  returned: when asked for
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
    error:
      description: Why it could not be read, or its folder not be written to; null if nothing is in the way.
      type: str
    read:
      description: Whether it could be read.
      type: bool
    servers:
      description: Servers of the runtime sockets, as C(backend/name), that it names.
      type: list
      elements: str
    problems:
      description: Which of them it names twice, or in a C(server-template) line, and so cannot be given a weight.
      type: list
      elements: str
sessions:
  description: With O(sessions), one item for each session.
  returned: when asked for
  type: list
  elements: dict
  contains:
    socket:
      description: As in O(sockets).
      type: str
    backend:
      description: The backend.
      type: str
    server:
      description: The server.
      type: str
    source:
      description: The client's address and port.
      type: str
    frontend:
      description: The frontend.
      type: str
    age:
      description: How long it has lasted.
      type: str
elapsed:
  description: Seconds that the module took.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError
from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy_server import gather


def main():
    module = AnsibleModule(
        argument_spec={
            "sockets": {"type": "list", "elements": "str", "required": True},
            "backends": {"type": "list", "elements": "str", "default": []},
            "servers": {"type": "list", "elements": "str", "default": []},
            "conf_file": {"type": "list", "elements": "str", "default": []},
            "sessions": {"type": "bool", "default": False},
            "on_error": {"type": "str", "choices": ["fail", "report"], "default": "fail"},
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    try:
        result = gather(module.params)
    except KongError as error:
        module.fail_json(**error.result())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
