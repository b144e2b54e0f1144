#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_datastore_info
short_description: Looks at the PostgreSQL or Cassandra behind Kong
version_added: "0.1.0"
description:
  - Tells what an upgrade has to know about the database of a Kong cluster. The server and its limits, the role, every
    session, open transactions with their locks on Kong's tables, the tables with their sizes, the number of rows of
    each entity, and the migration state.
  - Sessions can be watched over a time, so that one that comes and goes is seen.
  - Of a Cassandra it tells the nodes, how many copies of the keyspace there are and whether its nodes agree about the schema, the
    tables, counts, migration state, and what the role may do. It has no transactions, and who is connected is asked with
    M(bluegreen.kong.cassandra_node_info).
  - Nothing is changed. No statement of another session is returned, only its kind.
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.attributes.info
  - bluegreen.kong.cli.conf
  - bluegreen.kong.postgres
  - bluegreen.kong.cassandra
options:
  gather:
    description:
      - What to look at. V(objects) is whatever is in Kong's schema, V(counts) reads every row of the entities' tables.
        V(clients) looks for C(pg_dump) and C(pg_restore) on this host. V(answers) are those to O(queries).
      - Of a Cassandra V(server), V(role), V(tables), V(objects), V(counts), V(migrations) and V(answers); others are left out.
    type: list
    elements: str
    choices: [server, role, sessions, transactions, tables, objects, counts, migrations, clients, answers]
    default: [server, role, sessions, transactions, tables, objects, counts, migrations, clients, answers]
  duration:
    description:
      - Seconds over which the sessions are watched, ten looks in each. V(0) is one look.
    type: float
    default: 0
  known:
    description:
      - The migrations that the version in question has, by subsystem, each a list of ids. Those of them that the database
        does not have are returned as new.
    type: dict
  pg_bin_dir:
    description:
      - Folder in which V(clients) are looked for before the usual ones.
    type: path
  dump_dir:
    description:
      - Folder, which need not exist yet, whose free space is told with V(clients).
    type: path
  queries:
    description:
      - Questions of your own, by name, each a dictionary of C(sql), a C(SELECT) with one column called C(found), and C(needs), a
        list of C(table.column) without which it is not asked. They run in transactions that cannot write.
      - A Cassandra is asked those that have a C(cql) as well, in which C({keyspace}) stands for its keyspace.
    type: dict
seealso:
  - module: bluegreen.kong.kong_migrations_info
  - module: bluegreen.kong.cassandra_node_info
"""

EXAMPLES = r"""
- name: Look at everything
  bluegreen.kong.kong_datastore_info:
    conf: /etc/kong/kong.conf
  register: database

- name: Which services have a path?
  bluegreen.kong.kong_datastore_info:
    conf: /etc/kong/kong.conf
    gather: [answers]
    queries:
      paths:
        sql: SELECT name || path AS found FROM services WHERE path IS NOT NULL
        needs: [services.name, services.path]
  register: database

- name: Look at a Cassandra
  bluegreen.kong.kong_datastore_info:
    cassandra_contact_points: [10.0.0.11, 10.0.0.12]
    cassandra_keyspace: kong
    gather: [server, role, migrations]
  register: database

- name: Watch who is connected for 12 seconds
  bluegreen.kong.kong_datastore_info:
    login_host: db.example.com
    login_user: monitor
    login_password: "{{ monitor_password }}"
    login_db: kong
    gather: [role, sessions]
    duration: 12
  register: database
"""

RETURN = r"""
datastore:
  description: What was found; keys that were not asked for in O(gather) are missing.
  returned: success
  type: dict
  contains:
    kind:
      description: V(postgres) or V(cassandra).
      type: str
    driver:
      description: What was used to log in, V(psycopg), V(psycopg2), V(psql) or V(cassandra-driver).
      type: str
    contact_points:
      description: Of a Cassandra. The nodes that were asked.
      type: list
      elements: str
    keyspace:
      description: Of a Cassandra. The keyspace that holds Kong's tables.
      type: str
    cluster_name:
      description: Of a Cassandra. Name of the cluster.
      type: str
    nodes:
      description: Of a Cassandra. All nodes of the cluster.
      type: list
      elements: dict
      contains:
        address:
          description: Where its clients find it.
          type: str
        datacenter:
          description: Its datacenter. C(rack) stands beside it.
          type: str
        version:
          description: Version of Cassandra.
          type: str
        host_id:
          description: Its id in the cluster.
          type: str
        schema_version:
          description: Version of the schema that it has; the same on all nodes that agree.
          type: str
        answers:
          description: Whether it takes a connection from the host that asked.
          type: bool
    replication:
      description:
        - Of a Cassandra. C(class), and C(factors), the copies in each datacenter, V(*) with SimpleStrategy; null without the keyspace.
      type: dict
      sample: {"class": "NetworkTopologyStrategy", "factors": {"dc1": 3}}
    schema_agreed:
      description: Of a Cassandra. Whether all nodes have the same version of the schema.
      type: bool
    permissions:
      description: >-
        Of a Cassandra. What the role may do to the keyspace; null for one that may do everything, and, with a warning, where that cannot
        be read.
      type: list
      elements: str
      sample: [ALTER, CREATE, DROP, MODIFY, SELECT]
    host:
      description: The host that was connected to.
      type: str
    port:
      description: The port that was connected to.
      type: int
    database:
      description: Name of the database.
      type: str
    schema:
      description: Schema that holds Kong's tables.
      type: str
    login_role:
      description: The role that was logged in as.
      type: str
    role:
      description: The role that Kong logs in as.
      type: str
    server_version:
      description: Version as the server spells it; of a Cassandra that of its oldest node.
      type: str
      sample: "17.10"
    server_version_num:
      description: Version as a number.
      type: int
      sample: 171000
    in_recovery:
      description: Whether it is a standby, which takes no writes.
      type: bool
    max_connections:
      description: Connections that the server allows.
      type: int
    reserved:
      description: How many of them are reserved for superusers and other special roles.
      type: int
    connections:
      description: How many are in use, in all databases.
      type: int
    password_encryption:
      description: How the server would store a password that is set now.
      type: str
    address:
      description: Address that the server was reached at, as it sees it.
      type: str
    server_port:
      description: Port that the server listens on, as it sees it.
      type: int
    direct:
      description:
        - Whether the server sees our own socket as it is. V(false) behind a pooler or an address translation; null
          when it cannot be told.
      type: bool
    identity:
      description:
        - The same for the same database and schema, or keyspace, by whatever name it is reached; null before PostgreSQL 9.6, and
          for a keyspace without Kong's tables.
      type: str
    epoch:
      description: The server's clock, in seconds.
      type: float
    bytes:
      description: Size of the whole database; of a Cassandra that of one copy of the keyspace, as one node estimates it.
      type: int
    superuser:
      description: Whether the role that was logged in as is a superuser.
      type: bool
    read_all_stats:
      description: Whether it may see the sessions of every other role.
      type: bool
    role_encryption:
      description: How the password of Kong's role is stored, V(md5), V(scram), V(plain) or V(none); null if hidden.
      type: str
    connection_limits:
      description: What has a C(CONNECTION LIMIT) of its own, Kong's role or the database. A superuser has none.
      type: list
      elements: dict
      contains:
        of:
          description: Which of the two, and its name.
          type: str
          sample: role kong
        limit:
          description: How many connections it allows.
          type: int
        connections:
          description: How many are in use, without this module's own.
          type: int
    database_create:
      description: Whether the role that was logged in as may create schemas in the database.
      type: bool
    schema_owner:
      description: Owner of the schema; null if there is no such schema.
      type: str
    schema_create:
      description: Whether the role that was logged in as may create tables in it.
      type: bool
    sessions:
      description: Client sessions of the database, but for this module's own.
      type: list
      elements: dict
      contains:
        pid:
          description: Process id in the server.
          type: int
        user:
          description: Role of the session.
          type: str
        application_name:
          description: What the session calls itself.
          type: str
        client_addr:
          description: Address of the client; null for a local one and when hidden.
          type: str
        client_port:
          description: Port of the client.
          type: int
        backend_start:
          description: When the session began, in seconds by the server's clock.
          type: float
        backend_type:
          description: Kind of the session; null when hidden.
          type: str
        state:
          description: The state at the last look.
          type: str
        samples:
          description: In how many looks it was there.
          type: int
        first_seen:
          description: Time of the first of them, in seconds by the server's clock.
          type: float
        last_seen:
          description: Time of the last of them.
          type: float
        hidden:
          description: Whether our role may not see more than its id and role.
          type: bool
    samples:
      description: How many looks at the sessions were taken.
      type: int
    sampled:
      description: Seconds between the first and the last.
      type: float
    transactions:
      description: Open transactions, oldest first.
      type: list
      elements: dict
      contains:
        pid:
          description: Process id in the server.
          type: int
        user:
          description: Role of the session.
          type: str
        application_name:
          description: What the session calls itself.
          type: str
        client:
          description: Address and port of the client.
          type: str
        age:
          description: Seconds since the transaction began; null when hidden.
          type: float
        state:
          description: For example V(idle in transaction).
          type: str
        query:
          description: What its last statement does, without its text.
          type: str
        locks:
          description: The locks on Kong's tables.
          type: list
          elements: dict
          contains:
            relation:
              description: Name of the table.
              type: str
            mode:
              description: For example V(AccessShareLock).
              type: str
            granted:
              description: Whether it is held; V(false) while it is waited for.
              type: bool
    tables:
      description: Kong's tables, largest first.
      type: list
      elements: dict
      contains:
        name:
          description: Name of the table.
          type: str
        bytes:
          description: Size with its indexes.
          type: int
        rows_estimate:
          description: Rows, as the planner believes.
          type: int
        owner:
          description: Owner of the table.
          type: str
    objects:
      description: Whatever is in the schema, but for what belongs to an extension or to another object. Empty for a fresh one.
      type: list
      elements: dict
      contains:
        kind:
          description: V(table), V(view), V(materialized view), V(foreign table), V(sequence), V(function) or V(type).
          type: str
        name:
          description: Its name.
          type: str
        identity:
          description: How a statement calls it, with its schema.
          type: str
    counts:
      description:
        - Rows of each table that holds configuration, exactly; null for one that may not be read. Tables whose rows
          come and go by themselves are left out.
      type: dict
      sample: {"services": 3, "routes": 7, "consumers": 120}
    migrations:
      description: The migration state, as the module bluegreen.kong.kong_migrations_info returns it.
      type: dict
    free_bytes:
      description: Free space for O(dump_dir); none without it.
      type: int
    answers:
      description: Name of a query in O(queries) to what it found; none where a table or column that it needs is missing.
      type: dict
      contains:
        found:
          description: The first 20 rows.
          type: list
          elements: str
        more:
          description: Whether there are more.
          type: bool
    schema_state:
      description: Its fingerprint.
      type: str
    clients:
      description: C(pg_dump) and C(pg_restore) of this host, by name.
      type: dict
      sample: {"pg_dump": {"path": "/usr/bin/pg_dump", "major": 17}, "pg_restore": {"path": null, "major": null}}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _cassandra, _conf, _datastore, _migrate, _ring
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    spec = {
        "conf": {"type": "path"},
        "gather": {
            "type": "list",
            "elements": "str",
            "choices": list(_datastore.GATHER),
            "default": list(_datastore.GATHER),
        },
        "duration": {"type": "float", "default": 0},
        "known": {"type": "dict"},
        "pg_bin_dir": {"type": "path"},
        "dump_dir": {"type": "path"},
        "queries": {"type": "dict"},
    }
    spec.update(_migrate.database_options())
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        on_cassandra = _migrate.driver(module.params, _conf.load(module.params["conf"])[0]) is _cassandra
        found, warnings = (_ring if on_cassandra else _datastore).look(module.params, module.run_command)
    except KongError as error:
        module.fail_json(**error.result())
    for warning in warnings:
        module.warn(warning)
    module.exit_json(changed=False, datastore=found)


if __name__ == "__main__":
    main()
