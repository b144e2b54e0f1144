#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_node
short_description: Check, start, reload or stop one Kong node, and prove it
version_added: "0.1.0"
author: The bluegreen.kong authors (@bluegreen)
description:
  - Brings the node of one prefix into a state, and returns only when that state was seen. Exit codes of C(kong) are not
    believed, since C(start), C(reload) and C(quit) exit with 0 also when the database is down, nothing was reloaded, or
    requests were cut.
  - Settings are written into the configuration file first, after C(kong check) and a test of the nginx configuration in a
    scratch prefix have accepted them.
  - What owns the running process decides how it is started and stopped; a systemd unit, or nobody, that is, the C(kong)
    command.
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.cli
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Secrets are masked.
options:
  unit:
    description:
      - The systemd unit of the node.
      - Without it, the unit is found from the control group of the running process; where none runs, from the unit files
        that name its prefix or command.
    type: str
  nginx_conf:
    description:
      - The nginx template of your own that the node is checked, started and reloaded with, C(--nginx-conf).
      - Without it, the one that C(ExecStart=) of the unit names. Where neither does, and the nginx.conf in the prefix is not what
        Kong's own template gives, a start and a reload are refused, since Kong would replace it.
    type: path
  state:
    description:
      - V(checked) writes O(settings) and has Kong check them. Nothing is started, and the database is not touched.
      - With C(database = off), V(checked) also has C(kong config parse) read the declarative configuration that the node would load.
      - V(started) starts the node if it does not run, and waits until it is really ready; its process is there, it
        reaches its database, requests go through its proxy, and the version is right. A node that runs already has to
        prove the same.
      - V(reloaded) makes a running node take its configuration, if it runs with something else. Kong up to 2.2 does not
        read the file on a reload, so there the settings are passed by environment.
      - V(refreshed) makes a running node read its services, routes and plugins from the database anew, by new workers with the
        configuration that it runs with; requests in flight are finished by the old ones. It always does so, and is for a
        change of the database that the node has not heard of. No setting is written.
      - V(stopped) lets the node finish its requests and end. With O(fenced=true) it cannot be started again.
    type: str
    choices: [checked, started, reloaded, refreshed, stopped]
    default: started
  settings:
    description:
      - Settings of Kong to write into O(conf). Lists are joined by commas, booleans become C(on) and C(off), and none
        removes the setting.
      - A C(KONG_) variable of the service wins over the file. Where one contradicts a setting given here, the module
        fails and names it.
    type: dict
    default: {}
  secret_settings:
    description: As O(settings), for values that must not be seen.
    type: dict
    default: {}
  purge_settings:
    description:
      - Whether the file is to hold the settings given here alone. Comments stay, and so do secrets that are in the file
        already and not given here.
      - Only looked at when settings are given.
    type: bool
    default: false
  backup:
    description: Whether to keep a copy of the configuration file before it is changed.
    type: bool
    default: false
  wait_timeout:
    description: Seconds to wait until the node is ready.
    type: int
    default: 60
  probe:
    description:
      - Requests that have to be answered through the node's proxy before it counts as ready.
      - Without any, one C(GET /) is sent, and every answer will do but a 5xx that Kong itself made.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path and query.
        type: str
        default: /
      host:
        description: The C(Host) header; also the name that TLS asks for.
        type: str
      headers:
        description: More headers. They are not shown in any output.
        type: dict
        default: {}
      expect:
        description: HTTP status codes of which one has to be answered.
        type: list
        elements: int
        default: []
  require_version:
    description: The version that the command and the running node have to be.
    type: str
  upgrade:
    description:
      - With O(state=reloaded), whether the command may be of another version than the node, which then runs that version.
      - A reload keeps the old nginx binary, so this is right only where both versions need the same build of OpenResty.
    type: bool
    default: false
  admin_listen_closed:
    description:
      - Whether the Admin API has to be shut. The node must run with C(admin_listen=off), and must not accept connections
        where its configuration had the Admin API before.
      - A control plane of hybrid mode, which Kong does not start with C(admin_listen=off), must have it on loopback alone.
    type: bool
    default: false
  admin_listen_open:
    description: Whether the Admin API has to answer, with the right version.
    type: bool
    default: false
  quit_timeout:
    description:
      - Seconds that requests in flight are given when the node is stopped. Then it is killed, and RV(forced) is true.
        It has to be longer than the longest request.
    type: int
    default: 60
  fenced:
    description:
      - With O(state=stopped), V(true) makes the node unable to be started again. Under systemd its unit is disabled and
        masked, or gets a drop-in that makes its start fail where the unit file is below C(/etc). Else the C(kong) command
        refuses C(start) and C(restart) for this prefix, saying why and how to lift it, and does everything else as before.
      - The fence is put up before the node is stopped.
      - With O(state=started), V(false) lifts the fence, and a fenced node is an error otherwise.
    type: bool
  enabled:
    description:
      - With O(state=started) or O(state=stopped), whether systemd starts the node at boot. Without it, that stays as it is.
      - Nothing is done for a node that systemd does not own, or that is fenced.
    type: bool
  timeout:
    description: Seconds that each HTTP request to the node may take.
    type: float
    default: 5
seealso:
  - module: bluegreen.kong.kong_version_facts
notes:
  - Run it as the user that Kong runs as, or as root.
"""

EXAMPLES = r"""
- name: Write and check a configuration
  bluegreen.kong.kong_node:
    conf: /etc/kong/kong.conf
    state: checked
    settings:
      pg_host: db.example.com
      admin_listen: "off"
      status_listen: 127.0.0.1:8100
    secret_settings:
      pg_password: "{{ vault_pg_password }}"
    require_version: 2.8.5

- name: Start it with the Admin API shut, and wait until it serves
  bluegreen.kong.kong_node:
    state: started
    require_version: 2.8.5
    admin_listen_closed: true
    probe:
      - path: /health
        host: api.example.com
        expect: [200]

- name: Open the Admin API
  bluegreen.kong.kong_node:
    state: reloaded
    settings:
      admin_listen: 127.0.0.1:8001
    admin_listen_open: true

- name: Retire the node; requests in flight may take two minutes
  bluegreen.kong.kong_node:
    state: stopped
    quit_timeout: 120
    fenced: true
"""

RETURN = r"""
conf:
  description: The configuration file.
  returned: success
  type: str
conf_sha256:
  description: SHA-256 of that file.
  returned: success
  type: str
backup_file:
  description: Copy of the file as it was before.
  returned: success
  type: str
changed_settings:
  description: Names of the settings whose value in the file changed.
  returned: success
  type: list
  elements: str
unknown_settings:
  description: Names of the settings that this version of Kong does not know and silently drops.
  returned: success
  type: list
  elements: str
actions:
  description: What was done, or would be in check mode.
  returned: always
  type: list
  elements: str
  sample: [configured, started]
forced:
  description: Whether the node had to be killed because requests were still running after O(quit_timeout).
  returned: success
  type: bool
fenced:
  description: Whether the node is fenced. C(fence_how) says how.
  returned: success
  type: bool
kong:
  description: Kong on this host afterwards, as C(kong_gateway) of M(bluegreen.kong.kong_version_facts).
  returned: success
  type: dict
missing:
  description: What was missing until the node would have been ready.
  returned: when the node did not get ready in time
  type: list
  elements: str
elapsed:
  description: Seconds that it took.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _conf
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError
from ansible_collections.bluegreen.kong.plugins.module_utils._node import Gateway
from ansible_collections.bluegreen.kong.plugins.module_utils._node_state import NodeState


def main():
    """Read the options, bring the node into the state, exit."""
    module = AnsibleModule(
        argument_spec=dict(
            executable=dict(type="path"),
            conf=dict(type="path"),
            prefix=dict(type="path"),
            unit=dict(type="str"),
            nginx_conf=dict(type="path"),
            state=dict(type="str", choices=["checked", "started", "reloaded", "refreshed", "stopped"], default="started"),
            settings=dict(type="dict", default={}),
            secret_settings=dict(type="dict", default={}, no_log=True),
            purge_settings=dict(type="bool", default=False),
            backup=dict(type="bool", default=False),
            wait_timeout=dict(type="int", default=60),
            probe=dict(
                type="list",
                elements="dict",
                default=[],
                options=dict(
                    path=dict(type="str", default="/"),
                    host=dict(type="str"),
                    headers=dict(type="dict", default={}, no_log=True),
                    expect=dict(type="list", elements="int", default=[]),
                ),
            ),
            require_version=dict(type="str"),
            upgrade=dict(type="bool", default=False),
            admin_listen_closed=dict(type="bool", default=False),
            admin_listen_open=dict(type="bool", default=False),
            quit_timeout=dict(type="int", default=60),
            fenced=dict(type="bool"),
            enabled=dict(type="bool"),
            timeout=dict(type="float", default=5),
        ),
        supports_check_mode=True,
    )
    options = module.params
    # A secret that was put among the plain settings is none the less one.
    module.no_log_values.update(_conf.secret_values(options["settings"]))
    try:
        places = [options[name] for name in ("executable", "conf", "prefix", "unit")]
        gateway = Gateway(module.run_command, *places, nginx_conf=options["nginx_conf"])
        result = NodeState(gateway, options, module.check_mode).ensure()
    except KongError as error:
        result = dict(error.result(), failed=True)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
