# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the ``kong`` command, for tests and the demo. It is not Kong; README.md beside it says what it is.

Rooms:

* ``versions``   what differs between versions, read from ``data/versions.json``
* ``conf``       kong.conf, KONG_ environment, ``.kong_env``
* ``datastore``  what the commands and a node ask of a datastore, whichever it is
* ``postgres``   the answers on PostgreSQL; ``pg`` its protocol, ``schema`` the tables and what each migration does to them
* ``cassandra``  the answers on Cassandra; ``cql`` its protocol, ``cql_schema`` the tables and the migrations
* ``migrations`` the state in schema_meta, the lock, up / finish / bootstrap / reset
* ``entities``   rows as the Admin API and an export show them
* ``export``     ``kong config``
* ``prefix``     the working directory of a node: files, pid, signals
* ``node``       the running node: listeners, cache, cluster events
* ``hybrid``     control planes and data planes
* ``proxy``      HTTP/1.1 of the proxy and the router
* ``admin``      Admin API and status listener
* ``cli``        arguments, words and exit codes

Only the standard library is used, and the command is started with ``-I -S``: it has to start as fast as the real one.
"""
