#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_migrations_info
short_description: Reads the state of Kong's database migrations
version_added: "0.1.0"
description:
  - Tells which migrations of a Kong database are executed, pending (they wait for finish) and new (up would run them).
  - The state comes from C(kong migrations list), whose exit code and words must agree, or straight from the tables
    C(schema_meta) and C(locks), for which no C(kong) command is needed.
  - Nothing is changed.
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.attributes.info
  - bluegreen.kong.cli
  - bluegreen.kong.postgres
  - bluegreen.kong.cassandra
options:
  source:
    description:
      - V(cli) asks the C(kong) command, which knows the migrations of its own version, and therefore what is new. Ids
        that a newer version has recorded are not shown by it.
      - V(database) reads the tables. It shows every recorded id and who holds the migration lock, but what is new only
        against O(known).
    type: str
    choices: [cli, database]
    default: cli
  known:
    description:
      - The migrations that the version in question has, by subsystem, each a list of ids. With O(source=database) those
        of them that the database does not have are returned as new.
    type: dict
seealso:
  - module: bluegreen.kong.kong_migrations
"""

EXAMPLES = r"""
- name: Ask the new version what it would do to the database
  bluegreen.kong.kong_migrations_info:
    executable: /opt/kong-2.8.5/bin/kong
    conf: /etc/kong/kong.conf
  register: before

- name: Look at the tables, and at who holds the migration lock
  bluegreen.kong.kong_migrations_info:
    source: database
    conf: /etc/kong/kong.conf
  register: state

- name: Wait for another runner
  bluegreen.kong.kong_migrations_info:
    source: database
    login_host: db.example.com
    login_db: kong
    login_user: kong
    login_password: "{{ kong_pg_password }}"
  register: state
  until: not state.migrations.lock
  retries: 60
  delay: 2

- name: The same on Cassandra
  bluegreen.kong.kong_migrations_info:
    source: database
    cassandra_contact_points: [10.0.0.11, 10.0.0.12]
    cassandra_keyspace: kong
    cassandra_username: kong
    cassandra_password: "{{ kong_cassandra_password }}"
  register: state
  until: not state.migrations.lock
  retries: 60
  delay: 2
"""

RETURN = r"""
migrations:
  description: The state.
  returned: success
  type: dict
  contains:
    source:
      description: V(cli) or V(database).
      type: str
    state:
      description:
        - One of V(up_to_date), V(new), V(pending), V(pending_and_new), V(needs_bootstrap), V(legacy) (the tables of a
          Kong before 1.0) and V(unknown) (nothing is pending, and what is new cannot be told).
      type: str
    executed:
      description: The executed migrations by subsystem.
      type: dict
      sample: {"core": ["000_base", "003_100_to_110"], "acl": ["000_base_acl"]}
    pending:
      description: Those that up has begun and finish has to end.
      type: dict
    new:
      description: Those that up would run; null when it cannot be told.
      type: dict
    needs_bootstrap:
      description: Whether there is no table C(schema_meta).
      type: bool
    legacy:
      description: Whether the tables are those of a Kong before 1.0; null when the command cannot tell.
      type: bool
    lock:
      description:
        - Who holds the migration lock, and for how many seconds at most; null when nobody does or it is unknown.
      type: dict
      contains:
        owner:
          description: A random id of the run of C(kong migrations) that holds it.
          type: str
        expires_in:
          description: Seconds until it runs out by itself.
          type: float
    lock_known:
      description: Whether the lock has been looked at.
      type: bool
    fingerprint:
      description: SHA-256 of what is executed and what is pending.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _migrate
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    spec = {
        "source": {"type": "str", "choices": ["cli", "database"], "default": "cli"},
        "executable": {"type": "path"},
        "conf": {"type": "path"},
        "prefix": {"type": "path"},
        "known": {"type": "dict"},
    }
    spec.update(_migrate.database_options())
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        state, warnings = _migrate.info(module.params, module.run_command)
    except KongError as error:
        module.fail_json(**error.result())
    for warning in warnings:
        module.warn(warning)
    module.exit_json(changed=False, migrations=state)


if __name__ == "__main__":
    main()
