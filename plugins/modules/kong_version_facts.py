#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_version_facts
short_description: What Kong there is on a host, and what its running node is and does
version_added: "0.1.0"
author: The bluegreen.kong authors (@bluegreen)
description:
  - Finds the C(kong) command, its version and build, its effective settings and datastore, and the node that runs in the
    prefix, with the settings that node really runs with.
  - Whether a node runs is told by its pid file and the process behind it. A process that has ended but was not collected
    yet, and another process that got the same number later, are not taken for it.
  - A host without Kong is no failure. What could not be found stands in RV(ansible_facts.kong_gateway.errors), so that
    a play can gather the problems of all hosts first.
  - Secrets are masked, and so are settings that Kong does not know and whose name is nearly that of a secret, such as C(pg_pasword).
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.attributes.info
  - bluegreen.kong.attributes.facts
  - bluegreen.kong.cli
options:
  unit:
    description:
      - The systemd unit of the node.
      - Without it, the unit is found from the control group of the running process; where none runs, from the unit files
        that name its prefix or command.
    type: str
  timeout:
    description: Seconds that each HTTP request to the node may take.
    type: float
    default: 5
  sockets_to:
    description: Whether to list the node's own ends of its connections to the datastore.
    type: bool
    default: false
  sample_sockets:
    description:
      - Seconds over which those connections are collected, looked at every 50 milliseconds. Implies O(sockets_to).
      - They count from when the node was asked for its status, after which it may renew its connections.
      - Together with the sessions that the database shows over the same time this proves whose they are.
    type: float
    default: 0
  ask_status:
    description:
      - Whether the Admin and the Status API are asked.
      - A node that is asked closes its idle connection to the database and opens a new one when it polls next, which is
        in the way when sockets are compared with sessions (seen on 2.8.5). Without it, the version comes from a header of
        the proxy, and whether the database is reachable is not told.
    type: bool
    default: true
  gather_host:
    description: Whether to look at the host too, for what an upgrade has to know of it.
    type: bool
    default: false
  gather_candidates:
    description:
      - With O(gather_host), whether to ask the package manager too which versions of package kong it offers.
      - apt is asked for what is in its present lists. dnf and yum fetch the metadata of the repositories whose definition names
        Kong, or of all where none does, into a folder that is removed afterwards; nothing else is changed.
    type: bool
    default: false
  package_files:
    description: With O(gather_host), package files of which is told whether they are on the host.
    type: list
    elements: str
    default: []
seealso:
  - module: bluegreen.kong.kong_node
notes:
  - To see the sockets and settings of a node, this must run as root or as the user that Kong runs as.
  - Where the version cannot be had from the Admin or Status API, one C(GET /) is sent through the node's proxy listener.
"""

EXAMPLES = r"""
- name: Look at Kong in its usual places
  bluegreen.kong.kong_version_facts:

- name: Look at a second Kong on this host
  bluegreen.kong.kong_version_facts:
    executable: /opt/kong-2.8/bin/kong
    conf: /etc/kong/green.conf
    prefix: /usr/local/kong-green

- name: Collect every connection to the database that this node has within ten seconds
  bluegreen.kong.kong_version_facts:
    sample_sockets: 10
  register: sampled

- name: Stop where Kong is too old
  ansible.builtin.assert:
    that: kong_gateway.version is version('1.0', '>=')
"""

RETURN = r"""
ansible_facts:
  description: The facts, all below C(kong_gateway).
  returned: always
  type: dict
  contains:
    kong_gateway:
      description: Kong on this host.
      returned: always
      type: dict
      contains:
        executable:
          description: Path of the C(kong) command; none if there is none.
          returned: always
          type: str
        version:
          description: Version of that command.
          returned: always
          type: str
          sample: 2.8.5
        edition:
          description: V(oss) or V(enterprise).
          returned: always
          type: str
        openresty:
          description: C(nginx), C(ngx_lua) and C(lua) that the command was built with.
          returned: always
          type: dict
          sample: {nginx: 1.19.9, ngx_lua: 0.10.20, lua: LuaJIT 2.1.0-beta3}
        nginx:
          description:
            - The nginx that a start would find where Kong looks for it, C(path), and C(kong_module), whether
              lua-kong-nginx-module is built into it. None where a node runs, and where none is found, as with a C(kong) command
              that brings a search path of its own.
          returned: always
          type: dict
          sample: {path: /usr/local/openresty/nginx/sbin/nginx, kong_module: true}
        conf:
          description: Configuration file; none if there is none.
          returned: always
          type: str
        conf_mode:
          description: Its permissions, octal. C(conf_owner) and C(conf_writable) stand beside it.
          returned: always
          type: str
          sample: "0640"
        prefix:
          description: Prefix directory. C(prefix_mode), C(prefix_owner) and C(prefix_writable) stand beside it.
          returned: always
          type: str
        settings:
          description:
            - Settings given explicitly, by the file and over it by the C(KONG_) variables of the service or of this
              session; secrets masked. Defaults of Kong are not among them.
          returned: always
          type: dict
          sample: {admin_listen: "off", pg_host: db.example.com, pg_password: "******"}
        datastore:
          description: Kind, address and name of the datastore, with defaults filled in; of the running node if there is one.
          returned: always
          type: dict
          sample: {kind: postgres, host: db.example.com, port: 5432, database: kong, user: kong, schema: public, ssl: false}
        listeners:
          description:
            - C(proxy), C(admin), C(status) and C(stream), each a list of listeners with C(address), C(port), C(ssl),
              C(http2), C(proxy_protocol) and C(flags). Of the running node if there is one.
          returned: always
          type: dict
        running:
          description: Whether a node runs in the prefix.
          returned: always
          type: bool
        supervisor:
          description:
            - What owns the node. C(kind) is V(systemd), V(cli) (started by command) or V(other), whose C(problem) says what
              it is. With systemd also C(unit), C(fragment), C(enabled), C(restart), C(exec_stop), C(timeout_stop).
          returned: always
          type: dict
        node:
          description: The running node; none if none runs.
          returned: always
          type: dict
          contains:
            pid:
              description: Process number of its master.
              returned: always
              type: int
            since:
              description: When it began, seconds since 1970 by this host's clock.
              returned: always
              type: float
            user:
              description: Its user.
              returned: always
              type: str
            version:
              description: The version that runs.
              returned: always
              type: str
            version_source:
              description: Where that is from, V(admin), V(status), V(header) or, for want of better, V(executable).
              returned: always
              type: str
            settings:
              description: All settings it runs with, defaults included; secrets masked. None where they cannot be read.
              returned: always
              type: dict
            listeners:
              description: As RV(ansible_facts.kong_gateway.listeners).
              returned: always
              type: dict
            admin_open:
              description: Whether its Admin API answers.
              returned: always
              type: bool
            database_reachable:
              description: Whether it reaches its database; none where neither Admin nor Status API tells.
              returned: always
              type: bool
            node_id:
              description: Its id, new with each start; none where the Admin API is off.
              returned: always
              type: str
            database_sockets:
              description: Its own ends of its connections to the datastore; none if not asked for or not to be seen.
              returned: always
              type: list
              elements: str
              sample: ["192.0.2.11:51734"]
            unix_sockets:
              description: Number of its UNIX sockets, where the database is reached by one.
              returned: always
              type: int
        fenced:
          description: Whether the node is fenced, so that it cannot be started. C(fence_how) says how.
          returned: always
          type: bool
        fence_possible:
          description: Whether it could be fenced from here. C(fence_problem) says why not.
          returned: always
          type: bool
        host:
          description: The host around Kong; each is none where it cannot be known.
          returned: with O(gather_host)
          type: dict
          contains:
            os:
              description: C(id), C(version_id), C(like) and C(pretty) of os-release.
              type: dict
            package:
              description: >-
                C(name), C(version) and C(manager) of the package that owns the command, each none if no package does; none as a whole
                without a command or a package manager that is known.
              type: dict
              sample: {name: kong, version: 2.1.4, manager: dpkg}
            candidates:
              description: >-
                C(versions) of the package kong that the package manager (C(manager)) V(apt), V(dnf) or V(yum) offers; none where it
                cannot tell. With O(gather_candidates).
              type: dict
            package_files:
              description: Whether each of O(package_files) is there; none where it cannot be seen.
              type: dict
              sample: {/srv/kong-2.8.5.deb: true}
            repositories:
              description: Lines of the repositories' files that name Kong's packages, C(path) and C(text), without credentials.
              type: list
              elements: dict
            files:
              description: Every setting that names a file, with C(path), C(owner) and C(exists), which is none where it cannot be seen.
              type: dict
            memory_bytes:
              description: Memory of the host.
              type: int
            units:
              description: Unit files with the name of the node's unit, else of kong.service, the one in force first.
              type: list
              elements: str
            templates:
              description: >-
                C(nginx_conf), a custom template (or the nginx.conf made from one), and C(how) it shows; C(includes), the files that
                C(nginx_*_include) properties name.
              type: dict
            rocks:
              description: Plugins of Kong that were installed as LuaRocks packages of their own, name to version.
              type: dict
            plugins:
              description: >-
                Plugins named in the settings and found on the Lua path, with C(path), C(has_daos), C(has_migrations), and
                C(base_plugin), whether they inherit from BasePlugin.
              type: dict
        addresses:
          description: IP addresses of this host's interfaces.
          returned: always
          type: list
          elements: str
        own_addresses:
          description: Those that are this node's alone, without loopback unless it listens there by name.
          returned: always
          type: list
          elements: str
        machine:
          description: Equal for two inventory hosts that are the same machine with the same file system.
          returned: always
          type: str
        nodename:
          description: Name of this host, as the kernel has it.
          returned: always
          type: str
        epoch:
          description: This host's clock, seconds since 1970.
          returned: always
          type: float
        errors:
          description: What could not be found, read or asked, one sentence each.
          returned: always
          type: list
          elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError
from ansible_collections.bluegreen.kong.plugins.module_utils._node import Gateway


def main():
    """Read the options, gather, exit."""
    module = AnsibleModule(
        argument_spec=dict(
            executable=dict(type="path"),
            conf=dict(type="path"),
            prefix=dict(type="path"),
            unit=dict(type="str"),
            timeout=dict(type="float", default=5),
            sockets_to=dict(type="bool", default=False),
            sample_sockets=dict(type="float", default=0),
            ask_status=dict(type="bool", default=True),
            gather_host=dict(type="bool", default=False),
            gather_candidates=dict(type="bool", default=False),
            package_files=dict(type="list", elements="str", default=[]),
        ),
        supports_check_mode=True,
    )
    options = module.params
    try:
        gateway = Gateway(module.run_command, options["executable"], options["conf"], options["prefix"], options["unit"])
        facts = gateway.facts(
            options["timeout"],
            options["sockets_to"],
            options["sample_sockets"],
            ask_status=options["ask_status"],
            host=options["gather_host"],
            candidates=options["gather_candidates"],
            package_files=options["package_files"],
        )
    except KongError as error:
        module.fail_json(**error.result())
    module.exit_json(changed=False, ansible_facts={"kong_gateway": facts})


if __name__ == "__main__":
    main()
