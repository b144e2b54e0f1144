#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_upgrade_run
short_description: Lock and record of an upgrade run
version_added: "0.1.0"
seealso:
  - module: bluegreen.kong.kong_upgrade_report
author: The bluegreen.kong authors (@bluegreen)
description:
  - Keeps the lock of an upgrade run on a host, so that a second run at the same time is refused and told who holds it.
    The load balancers are the place for it, since they are what two inventories of one gateway share.
  - The lock is a lease. It ends by itself C(ttl) seconds after it was last renewed, so a lost controller blocks nobody
    for good.
  - Beside the lock it keeps what the world forgets during an upgrade, such as the original weights.
attributes:
  check_mode:
    support: full
    description: Nothing is written; the return values tell what is there now.
  diff_mode:
    support: none
    description: The lock is not configuration.
extends_documentation_fragment:
  - bluegreen.kong.attributes
options:
  path:
    description: The file, a JSON document of mode 0600. Its folder is made if it is missing.
    type: path
    required: true
  state:
    description:
      - V(held) takes the lock or renews it. Where another run holds it, nothing is changed and RV(refused) is true.
      - V(released) gives it back; the lock of another run stays.
      - V(read) only looks.
    type: str
    choices: [held, released, read]
    default: read
  owner:
    description: Who takes the lock. Must have C(run_id); the rest is for the reader (controller, pid, ...).
    type: dict
    default: {}
  ttl:
    description: Seconds until the lock ends if it is not renewed.
    type: int
    default: 900
  take_over:
    description: The C(run_id) of a holder that is known to have ended; its lock is taken at once.
    type: str
  remember:
    description:
      - Values for the record. What the record already has under a key stays as it is.
      - Nothing is remembered for one who does not hold the lock.
    type: dict
    default: {}
  forget:
    description: Empties the record, before O(remember) is put there.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Take the lock
  bluegreen.kong.kong_upgrade_run:
    path: /var/lib/kong_upgrade/run.json
    state: held
    owner:
      run_id: night-of-the-12th
      controller: deploy1
  register: lock

- name: Stop if somebody else is at work
  ansible.builtin.fail:
    msg: "{{ lock.holder.controller }} has been upgrading since {{ lock.holder.since }}"
  when: lock.refused
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
refused:
  description: Whether another run holds the lock.
  returned: success
  type: bool
holder:
  description: Who holds it now, as given in O(owner), with C(since), C(renewed) and C(expires) in seconds since the epoch.
  returned: success
  type: dict
expires_in:
  description: Seconds until the lock ends by itself.
  returned: success
  type: int
remembered:
  description: Whether this call changed the record.
  returned: success
  type: bool
record:
  description: What is remembered.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _lease


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["held", "released", "read"], "default": "read"},
            "owner": {"type": "dict", "default": {}},
            "ttl": {"type": "int", "default": 900},
            "take_over": {"type": "str"},
            "remember": {"type": "dict", "default": {}},
            "forget": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    if given["state"] != "read" and not given["owner"].get("run_id"):
        module.fail_json(msg="owner needs a run_id when state is %s" % given["state"])
    try:
        result = _lease.apply(
            given["path"], given["state"], given["owner"], given["ttl"], given["take_over"],
            given["remember"], given["forget"], module.check_mode,
        )
    except _lease.LeaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(path=given["path"], **result)


if __name__ == "__main__":
    main()
