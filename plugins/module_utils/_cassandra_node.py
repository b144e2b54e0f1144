# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One node of Cassandra, looked at on its own host: which one it is, and who is connected to it. Reads only.

Cassandra 3 tells no client who the others are, so the kernel is asked for the connections to its port.
"""

import re
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import _cli, _process
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import CommandError

SAMPLE_EVERY = 0.1  # seconds between two looks at the connections


def look(params, run):
    """What the module cassandra_node_info returns as `cassandra_node`.

    :param params: the module's parameters: nodetool (list), port, address (None: any of this host), duration (seconds).
    :param run: as AnsibleModule.run_command.
    :raises CommandError: nodetool does not reach the node.
    """
    found = {"host_id": host_id(params["nodetool"], run)}
    found.update(watch(params["port"], params.get("address"), params["duration"]))
    return found


def host_id(nodetool, run):
    """The id of the node in its cluster, as nodetool tells it."""
    argv = list(nodetool) + ["info"]
    rc, out, err = run(argv)
    told = re.search(r"^ID\s*:\s*(\S+)", out, re.M)
    if rc != 0 or not told:
        raise CommandError(
            "%s ended with %d: %s. Name the command that speaks to the node of this host, with its port and password file if it has "
            "them (nodetool)." % (" ".join(argv), rc, _cli.first_line(err) or _cli.first_line(out) or "nothing"),
            rc=rc,
        )
    return told.group(1)


def watch(port, address, duration):
    """Who was connected to the port, over `duration` seconds: dict clients (list of dict), samples (looks), sampled (seconds)."""
    seen, looks = {}, 0
    begun = time.monotonic()
    while True:
        looks += 1
        now = time.time()
        for client in connected(port, address):
            entry = seen.setdefault(client, {"client_addr": client[0], "client_port": client[1], "samples": 0, "first_seen": now})
            entry.update(samples=entry["samples"] + 1, last_seen=now)
        left = begun + duration - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(SAMPLE_EVERY, left))  # a sample is taken at intervals; there is nothing to wait for
    return {
        "clients": [seen[client] for client in sorted(seen)],
        "samples": looks,
        "sampled": round(time.monotonic() - begun, 2),
    }


def connected(port, address):
    """The clients' ends, [(address, port)], of the connections to a port of this host."""
    return [
        remote
        for local, remote in _process.established("self")
        if local[1] == port and address in (None, local[0])
    ]
