#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: nginx_upstream
short_description: Weights of servers in the upstreams of an nginx
version_added: "0.1.0"
description:
  - Sets weights of any number of servers in the file that holds the upstreams of an nginx, in one call and with one reload, and
    can wait until servers are reached or have no session left, and count their requests.
  - Only C(weight=) and C(down) in C(server) lines are changed. All other text of the file is kept byte for byte.
  - nginx tests its whole configuration before and after the file is changed. If it refuses the change, the file is put back
    before anything is reloaded.
  - The module comes back from a reload when new workers take the requests and no worker from before does. Then the file is
    read back. When that fails, everything that this call has set is put back.
  - A file that was changed after nginx has read it is not in force. Then nginx is reloaded even where no weight changes.
  - A change after which an upstream that has a server in use would have none is refused. In use means not C(down), and reached.
  - It is for open source nginx, and runs on its host as a user who may write the file, reload nginx and look into its processes in
    C(/proc).
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
attributes:
  check_mode:
    support: full
    details:
      - Where nothing is asked for but to look, C(nginx -T) is run all the same. What would be refused as things are now is a
        warning, and listed in RV(refused), since an earlier step may make it right.
  diff_mode:
    support: full
options:
  path:
    description:
      - The file that has the C(server) lines, within an C(upstream) block or alone, for an C(upstream) block elsewhere to include.
        Those alone are called by the name of the file, without what follows its last dot.
      - A server's name is its address as it stands there, without the port, for example V(10.0.1.11) or V(kong-a1.example.com).
        Where an upstream has several ports of one address, the port belongs to the name.
    type: path
    required: true
  upstreams:
    description: The upstreams to work on. By default all in O(path).
    type: list
    elements: str
    default: []
  command:
    description:
      - The C(nginx) command, with the arguments that say which nginx is meant, if the one that runs was started with C(-c),
        C(-p) or C(-g).
    type: list
    elements: str
    default: [nginx]
  reload:
    description:
      - The command that makes nginx read its configuration again, for example V([systemctl, reload, nginx]). By default it is
        O(command) with C(-s reload).
    type: list
    elements: str
    default: []
  pid_file:
    description: The file that C(pid) in C(nginx.conf) names.
    type: path
    default: /run/nginx.pid
  log:
    description:
      - An access log in the format C($upstream_addr|$upstream_status), to count requests by; further fields may follow after
        another C(|). It must not be buffered. It may be rotated at any time.
      - Without it there are no counters.
    type: path
  servers:
    description:
      - The servers, and what becomes of them. Each must have a C(server) line.
      - May be left out, to look, to wait or to watch only. Where nothing is asked for but to look, everything is looked at, the
        whole configuration too.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The server's name; see O(path).
        type: str
        required: true
      backend:
        description: The upstream. Without it the server is set in every upstream that has one of this name.
        type: str
      weight:
        description: The weight, a whole number from 0 on. 0 stands as C(down) in the file, beside the C(weight=) from before.
        type: int
      state:
        description:
          - V(ready) takes part in balancing, with its weight.
          - V(drain) and V(maint) are the same here, C(down).
        type: str
        choices: [ready, drain, maint]
  wait:
    description: What to wait for. It is waited for also when nothing had to be changed.
    type: dict
    suboptions:
      up:
        description:
          - Names of servers, or C(upstream/name), to which a connection must be made before any weight is changed.
        type: list
        elements: str
        default: []
      sessions_zero:
        description:
          - Names of servers, or C(upstream/name), that must have no session left. They have to have the weight 0.
          - A session is a TCP connection of nginx to the server, and every worker from before a reload, which may make one as long
            as it has a request, to whichever server. C(worker_shutdown_timeout) limits its life.
        type: list
        elements: str
        default: []
      timeout:
        description: The longest time for each of the waits, in seconds.
        type: int
        default: 60
      on_timeout:
        description:
          - What happens when sessions are left. V(fail) ends the module, with the servers still drained. V(cut) goes on with
            a warning; the sessions end with whatever stops the server next.
        type: str
        choices: [fail, cut]
        default: fail
  observe:
    description:
      - Wait for this many seconds after the change, and return what the servers got in that time, by O(log), as RV(window).
    type: float
    default: 0
  observe_stop:
    description:
      - End O(observe) early when some servers fail more requests than others do in the same time, by O(log). A watched
        server that twice cannot be connected to ends it in any case. It is looked at once a second. The module does not fail;
        RV(window) says why it was ended.
    type: dict
    suboptions:
      watch:
        description: Names of servers, or C(upstream/name), that must not do badly.
        type: list
        elements: str
        required: true
      against:
        description: Names of servers, or C(upstream/name), to compare them with.
        type: list
        elements: str
        default: []
      budget:
        description: By how much the share of failed requests may be higher, from 0 to 1.
        type: float
        default: 0
      minimum:
        description: Number of requests at O(observe_stop.watch) below which nothing is concluded.
        type: int
        default: 20
  timeout:
    description: The longest time for C(nginx -t), for O(reload), and from there until the new configuration is in force, in seconds.
    type: int
    default: 30
seealso:
  - module: bluegreen.kong.haproxy_server
  - module: bluegreen.kong.lb_command
"""

EXAMPLES = r"""
- name: Where does the traffic go?
  bluegreen.kong.nginx_upstream:
    path: /etc/nginx/conf.d/kong.conf
  register: found

- name: Put half of the traffic on green
  bluegreen.kong.nginx_upstream:
    path: /etc/nginx/conf.d/kong.conf
    log: /var/log/nginx/kong.log
    reload: [systemctl, reload, nginx]
    servers:
      - {name: 10.0.1.11, weight: 100}
      - {name: 10.0.2.11, weight: 100}
    wait:
      up: [10.0.2.11]
    observe: 30
  register: step

- name: Drain a server and wait for its last request
  bluegreen.kong.nginx_upstream:
    path: /etc/nginx/conf.d/kong.conf
    servers:
      - {name: 10.0.1.11, state: drain}
    wait:
      sessions_zero: [10.0.1.11]
      timeout: 120
"""

RETURN = r"""
load_balancer:
  description: What the file and nginx say at the end. In check mode, what they would say.
  returned: success
  type: dict
  contains:
    path:
      description: As O(path).
      type: str
    pid:
      description: The master process.
      type: int
    pending:
      description: Whether the file was changed after nginx has read it.
      type: bool
    upstreams:
      description: The upstreams in question, by name, each with the C(method) that chooses its servers, and its C(backup) servers.
      type: dict
      sample: {kong: {method: least_conn, backup: []}}
    changed_files:
      description: Other files of the configuration that were changed after nginx has read them; a reload brings them into force.
      returned: when nothing was asked for but to look
      type: list
      elements: str
    cuts_idle:
      description:
        - Whether a reload closes idle connections of clients at once, so that a request sent at that moment is lost. It is not so
          with C(keepalive_timeout 0) or a C(keepalive_min_timeout).
      returned: when nothing was asked for but to look
      type: bool
    counted:
      description: Whether there are counters.
      type: bool
    servers:
      description: The servers of the upstreams.
      type: list
      elements: dict
      contains:
        backend:
          description: Its upstream.
          type: str
        name:
          description: Its name.
          type: str
        weight:
          description: The weight, 0 if it is C(down). It is in force unless RV(load_balancer.pending).
          type: int
        admin_state:
          description: V(ready) with a weight above 0, else V(drain).
          type: str
        status:
          description: V(UP) if a connection could be made, else V(DOWN); null if it was not tried.
          type: str
        sessions:
          description: The sessions last seen; null if they were not looked at. See O(wait.sessions_zero).
          type: int
        counters:
          description: What was counted since the module began; null if nothing was.
          type: dict
          sample: {requests: 0, failures: 0}
window:
  description: With O(observe), by how much counters grew; else null.
  returned: success
  type: dict
  contains:
    begin:
      description: Seconds since 1970.
      type: float
    end:
      description: Seconds since 1970.
      type: float
    seconds:
      description: Its length.
      type: float
    counted:
      description: Whether there are counters. If not, C(servers) is empty.
      type: bool
    stopped:
      description: Why it ended early, by O(observe_stop); else null.
      type: str
    servers:
      description: The servers.
      type: list
      elements: dict
      contains:
        backend:
          description: Its upstream.
          type: str
        name:
          description: Its name.
          type: str
        reset:
          description: Whether the log was cut short meanwhile.
          type: bool
        counters:
          description: The increments.
          type: dict
          sample: {requests: 512, failures: 0}
sessions_left:
  description: What O(wait.sessions_zero) still waited for when its time was over.
  returned: success, and when it was not reached
  type: list
  elements: dict
  contains:
    backend:
      description: The upstream.
      type: str
    server:
      description: The server.
      type: str
    sessions:
      description: How many.
      type: int
refused:
  description: In check mode, what would be refused as things are now.
  returned: success
  type: list
  elements: str
problems:
  description: What is wrong, one sentence or two each. C(msg) holds them all.
  returned: failure
  type: list
  elements: str
put_back:
  description: Whether everything that had been set could be put back.
  returned: when a change failed
  type: bool
elapsed:
  description: Seconds that the module took.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError
from ansible_collections.bluegreen.kong.plugins.module_utils._lb import Job
from ansible_collections.bluegreen.kong.plugins.module_utils._lb_spec import SPEC
from ansible_collections.bluegreen.kong.plugins.module_utils._nginx import Nginx


def main():
    module = AnsibleModule(
        argument_spec=dict(
            SPEC,
            path={"type": "path", "required": True},
            upstreams={"type": "list", "elements": "str", "default": []},
            command={"type": "list", "elements": "str", "default": ["nginx"]},
            reload={"type": "list", "elements": "str", "default": []},
            pid_file={"type": "path", "default": "/run/nginx.pid"},
            log={"type": "path"},
            timeout={"type": "int", "default": 30},
        ),
        supports_check_mode=True,
    )
    params = module.params
    names = ("path", "upstreams", "command", "reload", "pid_file", "log", "timeout")
    job = Job(params, Nginx(**{name: params[name] for name in names}), module.check_mode)
    try:
        result = job.result()
    except KongError as error:
        module.fail_json(**error.result())
    for warning in job.warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
