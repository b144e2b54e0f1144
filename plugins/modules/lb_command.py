#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: lb_command
short_description: Weights of servers on any load balancer, by commands of your own
version_added: "0.1.0"
description:
  - Does with a load balancer of any kind what M(bluegreen.kong.haproxy_server) does with HAProxy, by commands of your own, for
    example a script that rewrites an upstream and reloads nginx, or one that calls the API of an appliance or a cloud.
  - The commands run on the host of the task. What a command is about is in its environment, never in the command line,
    C(KONG_UPGRADE_BACKEND), C(KONG_UPGRADE_SERVER), C(KONG_UPGRADE_WEIGHT) (a whole number) and C(KONG_UPGRADE_STATE)
    (V(ready), V(drain), V(maint) or empty).
  - A command that changes something is believed only when O(commands.weights) prints it. When one fails or what was set is
    not read back, everything that this call has set is put back.
  - What brings traffic is set before what takes it away, one server after another.
  - A change after which a backend that has a server in use would have none is refused. In use means with a weight above 0,
    and up if O(commands.up) is given.
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
attributes:
  check_mode:
    support: full
    details:
      - Only O(commands.weights) is run; where the task changes nothing anyway, O(commands.up) too. What would be refused as
        things are now is a warning, and listed in RV(refused), since an earlier step may make it right.
  diff_mode:
    support: full
options:
  commands:
    description:
      - The commands. Each is a list (a program and its arguments) or a text that C(/bin/sh) runs.
      - They are run again when a run is repeated, and must bear it. They must not read from the terminal.
      - What they print on the error output is part of the message when they fail. Secrets belong neither there nor in the
        command, but into a file that the command reads.
    type: dict
    required: true
    suboptions:
      weights:
        description:
          - 'Prints the weights that are in force, as a JSON object C({"server": weight, ...}). A server that gets no new
            requests has the weight 0.'
          - Whatever scale the load balancer has, it must print for a server the number that O(commands.set_weight) was given.
        type: raw
        required: true
      set_weight:
        description: Gives a server a weight. 0 means no new requests; those under way are finished.
        type: raw
        required: true
      apply:
        description:
          - Run once after the servers of a backend have been set, for load balancers that have to be told, for example by a
            reload. It ends when the weights are in force.
          - With it O(commands.set_weight) is run for every server of a backend of which one changes, so that nothing is applied
            that an earlier run has left half done.
        type: raw
      drain:
        description: Takes a server out of service, for O(servers[].state=drain) and V(maint). Without it, the weight 0 is set.
        type: raw
      ready:
        description:
          - Takes a server into service, for O(servers[].state=ready), with the weight it has. Without it, nothing is done
            beyond the weight that is asked for.
        type: raw
      sessions:
        description: Prints the number of requests or connections that the load balancer still has with a server.
        type: raw
        required: true
      counters:
        description:
          - 'Prints, as a JSON object, how many requests each server has got, and how many of them have failed,
            C({"server": {"requests": 100, "failures": 0}, ...}). The numbers only grow.'
          - Failed are answers of 500 and above, and requests that got no answer.
        type: raw
      up:
        description: Ends with 0 if the load balancer takes a server for healthy. Without it, O(wait.up) is not waited for.
        type: raw
  backends:
    description:
      - The pools of servers that the commands know. Each command is run for one of them at a time, and finds its name in
        C(KONG_UPGRADE_BACKEND).
    type: list
    elements: str
    default: [default]
  servers:
    description:
      - The servers, and what becomes of them. O(commands.weights) must print each.
      - May be left out, to look, to wait or to watch only. Where nothing is asked for but to look, every command that only
        reads is run.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The server's name, as O(commands.weights) prints it.
        type: str
        required: true
      backend:
        description: The backend. Without it the server is set in every backend that has one of this name.
        type: str
      weight:
        description: The weight, a whole number from 0 on.
        type: int
      state:
        description:
          - V(ready) takes part in balancing, with its weight.
          - V(drain) and V(maint) are the same here, no new requests, and the weight 0.
        type: str
        choices: [ready, drain, maint]
  wait:
    description: What to wait for. It is waited for also when nothing had to be changed.
    type: dict
    suboptions:
      up:
        description:
          - Names of servers, or C(backend/name), for which O(commands.up) must end with 0 before any weight is changed.
        type: list
        elements: str
        default: []
      sessions_zero:
        description: Names of servers, or C(backend/name), for which O(commands.sessions) must print 0. They have to have the
          weight 0.
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
      - Wait for this many seconds after the change, and return by how much O(commands.counters) grew as RV(window).
    type: float
    default: 0
  observe_stop:
    description:
      - End O(observe) early when some servers fail more requests than others do in the same time, by O(commands.counters). A watched
        server that O(commands.up) twice finds not up ends it in any case. It is looked at once a second. The module does not fail;
        RV(window) says why it was ended.
    type: dict
    suboptions:
      watch:
        description: Names of servers, or C(backend/name), that must not do badly.
        type: list
        elements: str
        required: true
      against:
        description: Names of servers, or C(backend/name), to compare them with.
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
  command_timeout:
    description:
      - The longest time for one command, in seconds. A command that takes longer is ended, with what it has started.
      - As long is O(commands.weights) asked again, after a change, until it prints what was set.
    type: int
    default: 30
seealso:
  - module: bluegreen.kong.haproxy_server
"""

EXAMPLES = r"""
- name: Put half of the traffic on green
  bluegreen.kong.lb_command:
    commands: &commands
      weights: [/usr/local/sbin/kong-lb, weights]
      set_weight: [/usr/local/sbin/kong-lb, set_weight]
      apply: [/usr/local/sbin/kong-lb, apply]
      sessions: [/usr/local/sbin/kong-lb, sessions]
      counters: [/usr/local/sbin/kong-lb, counters]
      up: curl -fsS -o /dev/null -m 2 "http://$KONG_UPGRADE_SERVER:8000/gateway-health"
    servers:
      - {name: blue1, weight: 100}
      - {name: green1, weight: 100}
    wait:
      up: [green1]
    observe: 30
  register: step

- name: Drain a server and wait for its last request
  bluegreen.kong.lb_command:
    commands: *commands
    servers:
      - {name: blue1, state: drain}
    wait:
      sessions_zero: [blue1]
      timeout: 120
"""

RETURN = r"""
load_balancer:
  description: What the commands say at the end. In check mode, what they would say.
  returned: success
  type: dict
  contains:
    counted:
      description: Whether there are counters.
      type: bool
    servers:
      description: The servers of the backends in question.
      type: list
      elements: dict
      contains:
        backend:
          description: Its backend.
          type: str
        name:
          description: Its name.
          type: str
        weight:
          description: The weight in force.
          type: int
        admin_state:
          description: V(ready) with a weight above 0, else V(drain).
          type: str
        status:
          description: V(UP) or V(DOWN), V(no check) without O(commands.up), null if it was not asked.
          type: str
        sessions:
          description: What O(commands.sessions) printed last; null if it was not asked.
          type: int
        counters:
          description: What O(commands.counters) printed; null if it was not asked.
          type: dict
          sample: {requests: 4711, failures: 0}
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
          description: Its backend.
          type: str
        name:
          description: Its name.
          type: str
        reset:
          description: Whether a counter was lower than in the reading before.
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
      description: The backend.
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
from ansible_collections.bluegreen.kong.plugins.module_utils._lb_command import Commands
from ansible_collections.bluegreen.kong.plugins.module_utils._lb_spec import SPEC


def main():
    module = AnsibleModule(
        argument_spec=dict(
            SPEC,
            commands={
                "type": "dict", "required": True,
                "options": {
                    "weights": {"type": "raw", "required": True},
                    "set_weight": {"type": "raw", "required": True},
                    "apply": {"type": "raw"},
                    "drain": {"type": "raw"},
                    "ready": {"type": "raw"},
                    "sessions": {"type": "raw", "required": True},
                    "counters": {"type": "raw"},
                    "up": {"type": "raw"},
                },
            },
            backends={"type": "list", "elements": "str", "default": ["default"]},
            command_timeout={"type": "int", "default": 30},
        ),
        supports_check_mode=True,
    )
    params = module.params
    job = Job(params, Commands(params["commands"], params["backends"], params["command_timeout"]), module.check_mode)
    try:
        result = job.result()
    except KongError as error:
        module.fail_json(**error.result())
    for warning in job.warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
