#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_migrations
short_description: Runs Kong's database migrations and proves that they ran
version_added: "0.1.0"
description:
  - Brings the migrations of a Kong database to a state, and only if they are not there yet.
  - The state is read before and after. RV(ignore:changed), what ran and whether it was enough come from the difference
    of the two, never from the exit code or the words of C(kong migrations), which exits 0 without having done anything
    when another runner holds the lock, or was killed while it did.
  - The command runs in a process group of its own. While it runs, the database is watched; when sessions of others wait
    behind it for longer than O(block_timeout), its statements are cancelled in the server and its processes ended, so
    that the running nodes go on to answer.
  - On Cassandra, whose nodes each keep the schema for themselves, they must agree about it before the command begins and
    after it has ended; both is waited for, as long as C(cassandra_schema_consensus_timeout) of Kong's configuration says.
  - C(kong migrations reset) and the option C(--force) cannot be reached with this module, and a bootstrap only on a
    schema or keyspace that holds nothing.
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.cli
  - bluegreen.kong.postgres
  - bluegreen.kong.cassandra
attributes:
  check_mode:
    support: full
    details:
      - Tells in RV(commands) what would run, and warns of what would be in its way now.
  diff_mode:
    support: full
options:
  state:
    description:
      - V(up) runs C(kong migrations up) if there are new migrations. They are executed or pending afterwards; nodes of
        the older version go on to work.
      - V(finished) runs C(kong migrations finish) if there are pending migrations. After it
        nodes of the older version must not run any more, and there is no way back but a restore.
      - V(bootstrapped) runs C(kong migrations bootstrap) on a schema or keyspace that holds nothing, and is content with
        one that has been bootstrapped. It is refused when there is anything without C(schema_meta).
      - V(apis_migrated) runs C(kong migrations migrate-apis) of 1.5 on the database of a 0.14.1 that has rows in C(apis), before
        V(up). Kong exits with 0 whatever it left, so the rows are counted before and after, and an api that is left is an error.
    type: str
    choices: [apis_migrated, bootstrapped, up, finished]
    required: true
  db_timeout:
    description:
      - Seconds that a single statement of a migration may take, Kong's C(--db-timeout).
    type: int
    default: 600
  lock_timeout:
    description:
      - Seconds for which the migration lock is taken, Kong's C(--lock-timeout). Another runner can join a migration
        that takes longer, so the command is ended when this time is over.
      - It is also how long the lock stays when the command is killed.
    type: int
    default: 600
  foreign_lock:
    description:
      - What to do when another runner holds the migration lock. The lock is never deleted.
      - V(wait) waits until it is released or runs out, reads the state again, and does what is then left to do.
      - V(fail) fails, with its owner and the seconds that are left.
    type: str
    choices: [wait, fail]
    default: wait
  foreign_lock_timeout:
    description:
      - Seconds that O(foreign_lock=wait) waits at most.
    type: int
    default: 660
  pending_and_new:
    description:
      - What to do when an earlier up has left pending migrations, and there are new ones too. Kong runs no up then.
      - V(fail) fails and lists both.
      - V(finish) runs C(kong migrations finish) for the pending ones, and after that, with O(state=up), up. Nodes of
        the older version must not run any more.
    type: str
    choices: [fail, finish]
    default: fail
  interrupted:
    description:
      - What to do, with O(state=bootstrapped), when only a part of the migrations has run. A bootstrap that was killed
        leaves that behind, and Kong's own C(bootstrap) does nothing then. An older version leaves the same.
      - V(fail) fails and lists what has not run.
      - V(complete) runs what is missing with C(finish), C(up) and C(finish), but only while no table holds
        configuration. Use it only where you know that a bootstrap was begun.
    type: str
    choices: [fail, complete]
    default: fail
  block_timeout:
    description:
      - Seconds that sessions of others may wait behind the command before it is ended. V(0) lets them wait as long as
        it takes.
      - On Cassandra nobody waits for a migration, and this has no effect.
    type: float
    default: 2
  max_transaction_age:
    description:
      - Nothing is begun while another session has held a lock on one of Kong's tables in a transaction for longer than
        this many seconds. V(0) begins all the same.
      - On Cassandra there are no such locks, and this has no effect.
    type: float
    default: 10
notes:
  - Run it on one host only, with the configuration of a node of the version that the database is to be made for.
  - Only with a look into the database can it be told who holds the lock and whether nodes are blocked. Where neither
    psycopg, psycopg2 nor C(psql) is there, O(block_timeout) and O(max_transaction_age) must both be set to V(0). On
    Cassandra the command is run without cassandra-driver as well, but then nobody sees whether the nodes agree.
  - On Cassandra a migration is a series of statements and no transaction. When an C(up) was interrupted, its lock stays
    until it runs out, which is waited for; what it had begun is pending or new, and O(pending_and_new) says how to go on.
    Columns that are there already are passed over by Kong with a warning on standard error.
  - The sessions of the command in the server are recognised by the addresses of its sockets. Behind a pooler or an
    address translation the one session of the same role that holds or awaits an exclusive lock on Kong's tables, in a
    transaction that began after the command, is taken for it; where there are several, only the processes are ended.
seealso:
  - module: bluegreen.kong.kong_migrations_info
"""

EXAMPLES = r"""
- name: Add what the new version needs; nodes of the old one go on to work
  bluegreen.kong.kong_migrations:
    state: up
    executable: /opt/kong-2.8.5/bin/kong
    conf: /etc/kong/kong.conf
  run_once: true

- name: Make the schema final, after the last old node has gone
  bluegreen.kong.kong_migrations:
    state: finished
    executable: /opt/kong-2.8.5/bin/kong
    conf: /etc/kong/kong.conf
    lock_timeout: 3600
  run_once: true

- name: Make services and routes of the apis of 0.14.1, before up
  bluegreen.kong.kong_migrations:
    state: apis_migrated
    executable: /opt/kong-1.5.1/bin/kong
    conf: /etc/kong/kong.conf
  run_once: true

- name: Give up at once when somebody else migrates the keyspace
  bluegreen.kong.kong_migrations:
    state: up
    conf: /etc/kong/kong.conf
    foreign_lock: fail
    cassandra_contact_points: [10.0.0.11, 10.0.0.12]
    cassandra_keyspace: kong
  run_once: true

- name: Prepare an empty database
  bluegreen.kong.kong_migrations:
    state: bootstrapped
    conf: /etc/kong/kong.conf
  run_once: true
"""

RETURN = r"""
before:
  description: The state before, as the module bluegreen.kong.kong_migrations_info returns it.
  returned: when it could be read
  type: dict
after:
  description: The last state that was read.
  returned: when it could be read
  type: dict
ran:
  description: The migrations that are executed or pending now and were not so before, by subsystem.
  returned: always
  type: dict
  sample: {"core": ["009_200_to_210", "010_210_to_211"]}
apis:
  description: What became of the apis of 0.14.1, by a count of rows before and after.
  returned: with O(state=apis_migrated), when the database could be read
  type: dict
  contains:
    before:
      description: Rows of the tables C(apis), C(services) and C(routes).
      type: dict
      sample: {"apis": 2, "services": 1, "routes": 3}
    after:
      description: The same after it; as before in check mode.
      type: dict
      sample: {"apis": 0, "services": 3, "routes": 5}
    migrated:
      description: Names of the apis that have become services and routes, ids of those without a name.
      type: list
      elements: str
    left:
      description: The apis that are left, each with C(name) and C(why).
      type: list
      elements: dict
waited:
  description: Seconds that were spent on waiting for another holder of the migration lock.
  returned: always
  type: float
commands:
  description: The commands that were run, or would run in check mode, each as a list of arguments.
  returned: always
  type: list
  elements: list
  sample: [["/usr/local/bin/kong", "migrations", "up", "--db-timeout", "600", "--lock-timeout", "600"]]
blocked_by:
  description: The sessions that were in the way of the command, when it was not begun or was ended because of them.
  returned: on failure
  type: list
  elements: dict
  contains:
    pid:
      description: Process id in the database server.
      type: int
    user:
      description: Role of the session.
      type: str
    application_name:
      description: What the session calls itself.
      type: str
    client:
      description: Address and port of the client; null for a local one or one that our role may not see.
      type: str
    state:
      description: For example V(idle in transaction).
      type: str
    transaction_age:
      description: Seconds since its transaction began.
      type: float
    query:
      description: What its last statement does, without its text.
      type: str
      sample: SELECT
    relations:
      description: Kong's tables that it holds locks on.
      type: list
      elements: str
victims:
  description: The sessions that waited behind the command when it was ended because of them, like RV(blocked_by).
  returned: on failure, when the command was ended for blocking
  type: list
  elements: dict
left:
  description: The migrations that should have run and did not, by subsystem.
  returned: on failure, after a command has run
  type: dict
lock:
  description: The migration lock that was in the way.
  returned: on failure, when another runner holds it
  type: dict
  contains:
    owner:
      description: A random id of the run of C(kong migrations) that holds it.
      type: str
    expires_in:
      description: Seconds until it runs out by itself.
      type: float
stdout:
  description: What the commands printed, without secrets.
  returned: always
  type: str
stderr:
  description: What the commands printed on standard error, without secrets.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _migrate
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    spec = {
        "state": {"type": "str", "choices": ["apis_migrated", "bootstrapped", "up", "finished"], "required": True},
        "executable": {"type": "path"},
        "conf": {"type": "path"},
        "prefix": {"type": "path"},
        "db_timeout": {"type": "int", "default": 600},
        "lock_timeout": {"type": "int", "default": 600},
        "foreign_lock": {"type": "str", "choices": ["wait", "fail"], "default": "wait"},
        "foreign_lock_timeout": {"type": "int", "default": 660},
        "interrupted": {"type": "str", "choices": ["fail", "complete"], "default": "fail"},
        "pending_and_new": {"type": "str", "choices": ["fail", "finish"], "default": "fail"},
        "block_timeout": {"type": "float", "default": 2},
        "max_transaction_age": {"type": "float", "default": 10},
    }
    spec.update(_migrate.database_options())
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    _migrate.clean_up_when_told_to_end()
    failed = False
    try:
        result = _migrate.migrate(module.params, module.run_command, module.check_mode)
    except KongError as error:
        result, failed = error.result(), True
    for warning in result.pop("warnings", []):
        module.warn(warning)
    if module._diff:
        result["diff"] = _migrate.diff(result, module.check_mode)
    if failed:
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
