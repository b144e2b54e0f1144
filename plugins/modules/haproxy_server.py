#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: haproxy_server
short_description: Weights and states of many servers on one or many HAProxies
version_added: "0.1.0"
description:
  - Sets weights and states of any number of servers on one or many HAProxies through their runtime sockets, in one call
    and in parallel, and can wait until servers are up or have no session left, and watch their counters.
  - Every reply of HAProxy is read, and what was set is read back. When one server on one HAProxy fails, everything that
    this call has set is put back, on all of them.
  - All problems (unknown servers, weights out of range, sockets that cannot be reached or lack the right) come in one
    list, before the first change.
  - A change after which a backend that has a usable server would have none is refused. Usable means ready, with a
    weight above 0, and up or without a health check. The state that is asked for counts, with all servers of the call.
  - What brings traffic is set before what takes it away.
  - Needs HAProxy 2.2 or newer, with a line C(stats socket ... level admin) in C(haproxy.cfg).
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
attributes:
  check_mode:
    support: full
    details:
      - Nothing is waited for. What would be refused as things are now is a warning, and listed in RV(refused), since an
        earlier step may make it right.
  diff_mode:
    support: full
    details:
      - Of O(conf_file) only the lines that change are shown.
options:
  sockets:
    description:
      - The runtime sockets, one for each HAProxy process. Each is an absolute path, C(host:port) or C([IPv6]:port).
    type: list
    elements: str
    required: true
  servers:
    description:
      - The servers, and what becomes of them. Each must exist on every HAProxy in O(sockets).
      - May be left out, to wait or to watch only.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The server's name in C(haproxy.cfg).
        type: str
        required: true
      backend:
        description: The backend. Without it the server is set in every backend that has one of this name.
        type: str
      weight:
        description:
          - The weight, from 0 to 256, absolute.
          - Under C(balance static-rr) and with C(hash-type map-based) HAProxy takes only 0 and the weight in its
            configuration file.
        type: int
      state:
        description:
          - V(ready) takes part in balancing.
          - V(drain) gets no new clients. Those that a cookie or a stick table binds to it still come.
          - V(maint) gets nothing, and is not checked. Requests that are under way are finished.
          - A server that is listed in O(wait.sessions_zero) is drained first, and put into maintenance when it has no
            session left; if a cookie or stick table goes on bringing clients to it, then after half of O(wait.timeout).
            Then its last sessions are waited for once more.
        type: str
        choices: [ready, drain, maint]
  wait:
    description: What to wait for. It is waited for also when nothing had to be changed.
    type: dict
    suboptions:
      up:
        description:
          - Names of servers, or C(backend/name), that must be up on every HAProxy, by a health check that has passed since
            they were made ready. They get no more weight than they had, and no other server loses any, before.
          - Should one not come up in time, what this call has set is put back.
        type: list
        elements: str
        default: []
      sessions_zero:
        description:
          - Names of servers, or C(backend/name), that must have no session left. They have to be drained, in
            maintenance or without weight.
          - After a reload the process from before it finishes what it has, and is on no socket. On this host its
            connections to these servers are waited for too; those of a HAProxy elsewhere cannot be seen.
        type: list
        elements: str
        default: []
      timeout:
        description: The longest time for each of the waits, in seconds.
        type: int
        default: 60
      on_timeout:
        description:
          - What happens to sessions that are left. V(fail) ends the module, with the sessions listed; the servers stay
            drained. V(cut) ends the sessions.
        type: str
        choices: [fail, cut]
        default: fail
  observe:
    description:
      - Watch the counters of these servers' backends for this many seconds after the change, and return by how much they
        grew as RV(window).
    type: float
    default: 0
  observe_stop:
    description:
      - End O(observe) early when some servers fail more requests than others do in the same time, summed over all HAProxies.
        It is looked at once a second. The module does not fail; RV(window) says why it was ended.
      - Failed are answers of 500 and above, and requests without an answer or handed on to another server. A watched
        server that its health check takes down ends it in any case.
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
  state_file:
    description:
      - Where to write the state of all servers after the change, for HAProxy to take over when it is reloaded. Otherwise
        a reload puts weights and states back to those in C(haproxy.cfg).
      - The word V(running) stands for the C(server-state-file) of the HAProxy that runs, which must be on this host.
        Else give one path for each of O(sockets), in the same order.
      - C(haproxy.cfg) needs C(server-state-file) in C(global), and C(load-server-state-from-file global).
    type: list
    elements: str
    default: []
  conf_file:
    description:
      - The C(haproxy.cfg) in which weights and V(maint) (as the word C(disabled)) are made permanent, in the
        servers' own lines. All other text is kept byte for byte. There is no word for V(drain) in it; give
        O(servers[].weight=0) as well if a drained server is to stay away.
      - HAProxy is not reloaded.
      - Several files are searched for the servers' lines one after the other.
    type: list
    elements: str
    default: []
  haproxy_executable:
    description:
      - The C(haproxy) command that checks O(conf_file) before anything is changed. By default the one in the search path
        or in C(/usr/sbin); if there is none, or it cannot read the file as it is, a warning says so.
    type: path
  backup:
    description: Keep a copy of O(conf_file) beside it when it is changed.
    type: bool
    default: true
  backup_id:
    description:
      - Name of the work that a change is part of. Only its first change leaves a copy, C(<conf_file>.<backup_id>~), so that this
        holds what was there before all of them. By default each call that changes the file leaves one, named by process and time.
    type: str
  timeout:
    description: The longest time for a connection and for each answer on a socket, in seconds.
    type: int
    default: 10
notes:
  - A server whose C(agent-check) sets its weight may not keep the weight that is set here. The module fails when it reads
    back another one.
seealso:
  - module: bluegreen.kong.haproxy_server_info
  - module: bluegreen.kong.kong_node
"""

EXAMPLES = r"""
- name: Put half of the traffic on green, on both load balancers at once
  bluegreen.kong.haproxy_server:
    sockets: [lb1.example.com:9999, lb2.example.com:9999]
    servers:
      - {name: blue1, weight: 50}
      - {name: blue2, weight: 50}
      - {name: green1, weight: 50}
      - {name: green2, weight: 50}
    observe: 30
  register: step

- name: Give a new server traffic as soon as it is up everywhere
  bluegreen.kong.haproxy_server:
    sockets: [/run/haproxy/admin.sock]
    servers:
      - {name: green1, state: ready, weight: 100}
    wait:
      up: [green1]

- name: Drain a server, wait for its last request, put it into maintenance, and keep it there over a reload
  bluegreen.kong.haproxy_server:
    sockets: [/run/haproxy/admin.sock]
    servers:
      - {name: blue1, state: maint}
    wait:
      sessions_zero: [blue1]
      timeout: 120
    state_file: [running]
    conf_file: [/etc/haproxy/haproxy.cfg]
"""

RETURN = r"""
haproxy:
  description:
    - What each HAProxy says at the end, one item for each of O(sockets), with the backends of the servers in question
      (all backends if no server is named). In check mode, what it would say.
  returned: success
  type: list
  elements: dict
  contains: &haproxy
    socket:
      description: As in O(sockets).
      type: str
      sample: /run/haproxy/admin.sock
    node:
      description: The name that HAProxy gives itself, by default the host's.
      type: str
    version:
      description: HAProxy's version.
      type: str
      sample: 2.8.25
    pid:
      description: The process that answered.
      type: int
    uptime:
      description: Seconds since it was started or reloaded.
      type: int
    started:
      description: When that was, in seconds since 1970; null if HAProxy does not tell.
      type: int
    processes:
      description: Number of worker processes (C(nbproc)). Above 1 each has a socket of its own.
      type: int
    level:
      description: The right of the socket. Changes need V(admin).
      type: str
      sample: admin
    state_file:
      description:
        - The C(server-state-file) of its configuration; null if there is none or the configuration cannot be read here.
      type: str
    backends:
      description: By name.
      type: dict
      contains:
        mode:
          description: C(http) or C(tcp).
          type: str
        algo:
          description: The balance algorithm. HAProxy calls C(random) unknown.
          type: str
          sample: roundrobin
        weights:
          description:
            - What a weight set at run time does. V(dynamic) shares traffic at once; V(static) is refused unless it is 0 or
              the initial weight; V(ignored) matters only when it is 0; V(unknown) depends on C(hash-type), which
              HAProxy does not tell and whose configuration cannot be read here.
          type: str
          sample: dynamic
        hash_type:
          description: From the configuration file; null if it is not set or cannot be read.
          type: str
        cuts_when_down:
          description:
            - Whether a server of it has C(on-marked-down shutdown-sessions), so that maintenance cuts what is under way;
              null if the configuration file cannot be read.
          type: bool
        load_state:
          description: C(load-server-state-from-file), from the configuration file; null if that cannot be read.
          type: str
        cookie:
          description: Name of the cookie that binds clients to a server, or null.
          type: str
        stick:
          description: The stick table of this name (C(type), C(size), C(used)), or null.
          type: dict
        status:
          description: C(UP) or C(DOWN).
          type: str
        sessions:
          description: Sessions now.
          type: int
        queue:
          description: Requests waiting for a server.
          type: int
        counters:
          description: As for servers.
          type: dict
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
        address:
          description: Its IP address.
          type: str
        port:
          description: Its port.
          type: int
        fqdn:
          description: Its host name, if HAProxy resolves it at run time.
          type: str
        weight:
          description: The weight as it is set now.
          type: int
        initial_weight:
          description: The weight in the configuration file.
          type: int
        effective_weight:
          description: What counts now; less than C(weight) during C(slowstart).
          type: int
        slowstart:
          description: Percentage reached while C(slowstart) is under way, else null.
          type: int
        admin_state:
          description: V(ready), V(drain) or V(maint), as it holds.
          type: str
        forced_state:
          description: The same, as it was set; differs when a tracked server or DNS imposes another.
          type: str
        running:
          description: Whether HAProxy takes it for up.
          type: bool
        status:
          description: As in HAProxy's statistics, for example C(UP), C(DOWN), C(no check), C(DRAIN), C(MAINT).
          type: str
        lastchg:
          description: Seconds since the status changed.
          type: int
        checked:
          description: Whether it has a health check.
          type: bool
        check_status:
          description: Result of the last check, for example C(L7OK).
          type: str
        check_failure:
          description: What the last check that failed met.
          type: str
        check_passed:
          description: Whether a check has passed since the server was made ready; null without a check.
          type: bool
        check_addr:
          description: Where the check connects to; null without one, before HAProxy 2.4, or if it cannot be told.
          type: str
        check_port:
          description: The port it connects to. A C(http-check connect port) in the configuration is not seen here.
          type: int
        agent:
          description: Whether an agent check is on, which may set the weight too.
          type: bool
        backup:
          description: Whether it is a backup server.
          type: bool
        tracked:
          description: The server whose health it follows (C(backend/name)), or null.
          type: str
        cookie:
          description: Its value in the backend's cookie.
          type: str
        sessions:
          description: Sessions (requests under way) now.
          type: int
        queue:
          description: Requests that wait for this server.
          type: int
        idle:
          description: Idle connections to it.
          type: int
        counters:
          description: Counters since HAProxy's start, by the names of C(show stat), without those it does not have.
          type: dict
          sample: {stot: 4711, hrsp_2xx: 4700, hrsp_5xx: 0, econ: 0, eresp: 0, wretr: 0, wredis: 0, cli_abrt: 0, srv_abrt: 0}
        times:
          description: Averages over the last 1024 requests and maxima, in milliseconds, by the names of C(show stat).
          type: dict
          sample: {qtime: 0, ctime: 0, rtime: 3, ttime: 4}
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
    servers:
      description: One item for each server on each HAProxy.
      type: list
      elements: dict
      contains:
        socket:
          description: As in O(sockets).
          type: str
        backend:
          description: Its backend.
          type: str
        name:
          description: Its name.
          type: str
        reset:
          description:
            - Whether its counters began anew within the window, because HAProxy was reloaded or somebody cleared them. What
              was counted between the last reading and that moment is missing.
          type: bool
        counters:
          description: Increments, by the names of C(show stat).
          type: dict
          sample: {stot: 512, hrsp_2xx: 512, hrsp_5xx: 0}
    backends:
      description: The same for backends, without C(name).
      type: list
      elements: dict
    missed:
      description: Readings that failed in between.
      type: list
      elements: str
    stopped:
      description: Why it ended early, by O(observe_stop); else null.
      type: str
state_files:
  description: The files of O(state_file).
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Its path.
      type: str
    changed:
      description: Whether it was written.
      type: bool
conf_files:
  description: The files of O(conf_file).
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Its path.
      type: str
    changed:
      description: Whether it was, or in check mode would be, written.
      type: bool
    validated:
      description: Whether HAProxy itself checked it before; null if it did not change.
      type: bool
    backup_file:
      description: Where the former text is, with O(backup_id) that before the first change; or null.
      type: str
sessions_cut:
  description: Sessions that were ended because of O(wait.on_timeout=cut).
  returned: success
  type: list
  elements: dict
  contains: &session
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
      sample: 4m21s
sessions_left:
  description: Sessions that outlasted O(wait.timeout).
  returned: when O(wait.sessions_zero) was not reached
  type: list
  elements: dict
  contains: *session
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
from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy_server import Job
from ansible_collections.bluegreen.kong.plugins.module_utils._lb_spec import SPEC


def main():
    module = AnsibleModule(
        argument_spec=dict(
            SPEC,
            sockets={"type": "list", "elements": "str", "required": True},
            state_file={"type": "list", "elements": "str", "default": []},
            conf_file={"type": "list", "elements": "str", "default": []},
            haproxy_executable={"type": "path"},
            backup={"type": "bool", "default": True},
            backup_id={"type": "str"},
            timeout={"type": "int", "default": 10},
        ),
        supports_check_mode=True,
    )
    job = Job(module.params, module.run_command, module.check_mode)
    try:
        result = job.result()
    except KongError as error:
        module.fail_json(**error.result())
    for warning in job.warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
