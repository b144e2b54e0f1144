# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that look at Kong's keyspace on Cassandra."""

from __future__ import annotations


class ModuleDocFragment:
    """Login options, named as kong.conf names them; every default comes from the node's own configuration."""

    DOCUMENTATION = r"""
options:
  cassandra_contact_points:
    description:
      - Host names or addresses of nodes of the Cassandra cluster. Where they are given, Cassandra is looked at whatever
        C(database) of Kong's configuration says.
      - Defaults to C(cassandra_contact_points) of Kong's configuration.
    type: list
    elements: str
  cassandra_port:
    description:
      - Port on which the nodes listen for CQL clients.
      - Defaults to C(cassandra_port) of Kong's configuration.
    type: int
  cassandra_keyspace:
    description:
      - Keyspace that holds Kong's tables.
      - Defaults to C(cassandra_keyspace) of Kong's configuration.
    type: str
  cassandra_username:
    description:
      - Role to log in as, if there is a password. The role that Kong uses is enough.
      - Defaults to C(cassandra_username) of Kong's configuration.
    type: str
  cassandra_password:
    description:
      - Password of O(cassandra_username).
      - Defaults to C(cassandra_password) of Kong's configuration, but only if O(cassandra_username) is the role that Kong
        uses. Without a password there is no login, as with Kong itself.
    type: str
  cassandra_ssl:
    description:
      - Whether the connection is protected by TLS.
      - Defaults to C(cassandra_ssl) of Kong's configuration.
    type: bool
  cassandra_ssl_verify:
    description:
      - Whether the nodes' certificates are checked against those in O(ca_cert). Their host names are not, as with Kong.
      - Defaults to C(cassandra_ssl_verify) of Kong's configuration.
    type: bool
  cassandra_consistency:
    description:
      - How many replicas must answer when the state of the migrations is read.
      - Defaults to V(LOCAL_QUORUM) where there is a O(cassandra_local_datacenter), and to V(QUORUM) where not. The migration
        lock is always read with serial consistency, as Kong writes it.
    type: str
    choices: [ONE, TWO, THREE, QUORUM, ALL, LOCAL_ONE, LOCAL_QUORUM, EACH_QUORUM]
  cassandra_local_datacenter:
    description:
      - The datacenter whose nodes are asked.
      - Defaults to C(cassandra_local_datacenter) of Kong's configuration, if its C(cassandra_lb_policy) heeds it. Without,
        the contact points are asked.
    type: str
requirements:
  - cassandra-driver >= 3.25 with libev, for Cassandra 3.0 or newer, on the host that runs the module
"""
