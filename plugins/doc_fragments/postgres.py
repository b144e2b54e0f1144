# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that look at Kong's PostgreSQL."""

from __future__ import annotations


class ModuleDocFragment:
    """Login options; every default comes from the node's own configuration."""

    DOCUMENTATION = r"""
options:
  login_host:
    description:
      - Host name or address of the PostgreSQL server, or the folder of its UNIX socket.
      - Defaults to C(pg_host) of Kong's configuration.
    type: str
  login_port:
    description:
      - Port of the PostgreSQL server.
      - Defaults to C(pg_port) of Kong's configuration.
    type: int
  login_user:
    description:
      - Role to log in as. The role that Kong uses is enough. Sessions of other roles are seen in full only by a
        superuser or a member of C(pg_read_all_stats).
      - Defaults to C(pg_user) of Kong's configuration.
    type: str
  login_password:
    description:
      - Password of O(login_user).
      - Defaults to C(pg_password) of Kong's configuration, but only if O(login_user) is the role that Kong uses.
        Another role without a password here is logged in as libpq can, for example by C(~/.pgpass).
    type: str
  login_db:
    description:
      - Database that holds Kong's tables.
      - Defaults to C(pg_database) of Kong's configuration.
    type: str
  schema:
    description:
      - Schema that holds Kong's tables.
      - Defaults to C(pg_schema) of Kong's configuration, and without that to the first schema of the search path.
    type: str
  ssl_mode:
    description:
      - Whether and how the connection is protected by TLS, in the words of libpq.
      - Defaults to what C(pg_ssl) and C(pg_ssl_verify) of Kong's configuration mean, V(disable), V(require) or
        V(verify-ca).
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  ca_cert:
    description:
      - File with the certificates of the authorities that the server's certificate is checked against.
      - Defaults to C(lua_ssl_trusted_certificate) of Kong's configuration.
    type: path
requirements:
  - psycopg2 >= 2.8, or the C(psql) command, or psycopg >= 3.0, on the host that runs the module
notes:
  - The first of psycopg2, C(psql) and psycopg 3 that is there is used, which is the order of what they cost. A password
    never appears among a process's arguments.
"""
