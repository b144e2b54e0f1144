# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of Octavia's API that docs/load_balancers.md uses, in front of a HAProxy of the bed.

As with the real one, a change takes a while (PENDING_UPDATE), and until then every other is refused (409).
"""

import datetime
import http.server
import json
import re
import threading
import time

TOKEN = "gAAAAABl-not-to-be-seen"
POOL = "8ad1a3c0-60d7-4b83-a2c8-9b4f2ad1f0a6"
PATH = re.compile(rf"/v2/lbaas/pools/{POOL}/members(?:/(id-\w+))?$")
STATUS = {"UP": "ONLINE", "DRAIN": "DRAINING", "no check": "NO_MONITOR"}


class Octavia(http.server.ThreadingHTTPServer):
    """One load balancer with one pool; `url` is where its API is, `log` what was asked: (method, path, status).

    :param haproxy: bed.haproxy.HAProxy, whose servers are the members
    :param delay: seconds that a change takes
    """

    daemon_threads = True

    def __init__(self, haproxy, address, delay=0.3):
        super().__init__((address, 0), Handler)
        self.haproxy, self.delay = haproxy, delay
        self.url = "http://%s:%d" % self.server_address
        self.log, self.lock = [], threading.Lock()
        self.busy_until, self.pending, self.updated, self.broken = 0.0, {}, {}, set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def settle(self):
        """Bring into force what has taken long enough."""
        if self.pending and time.monotonic() >= self.busy_until:
            for name, weight in self.pending.items():
                self.haproxy.ask(f"set server kong/{name} weight {weight}")
            self.pending = {}

    def members(self):
        """As the API shows them."""
        self.settle()
        found = []
        for name, row in self.haproxy.stat().items():
            state = "ERROR" if name in self.broken else "PENDING_UPDATE" if name in self.pending else "ACTIVE"
            found.append({
                "id": f"id-{name}", "name": name, "weight": self.pending.get(name, int(row["weight"])), "provisioning_status": state,
                "operating_status": STATUS.get(row["status"].split(" ")[0] if row["status"] != "no check" else "no check", "ERROR"),
                "updated_at": self.updated.get(name, "2026-01-01T00:00:00"), "backup": False, "admin_state_up": True,
            })
        return found

    def change(self, name, weight):
        """202 or 409."""
        self.settle()
        if self.pending:
            return 409
        self.pending, self.busy_until = {name: weight}, time.monotonic() + self.delay
        self.updated[name] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        return 202


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    def answer(self, status, body):
        """Send it."""
        self.server.log.append((self.command, self.path, status))
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_one(self):
        """GET of all members, PUT of one."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        match = PATH.match(self.path)
        if self.headers.get("X-Auth-Token") != TOKEN:
            return self.answer(401, {"faultcode": "Client", "faultstring": "The request you have made requires authentication."})
        with self.server.lock:
            members = {member["id"]: member for member in self.server.members()}
            if match and self.command == "GET" and not match[1]:
                return self.answer(200, {"members": list(members.values()), "members_links": []})
            if match and self.command == "PUT" and match[1] in members:
                status = self.server.change(members[match[1]]["name"], body["member"]["weight"])
                immutable = {"faultcode": "Client", "faultstring": f"Load Balancer {POOL} is immutable and cannot be updated."}
                return self.answer(status, immutable if status == 409 else {"member": members[match[1]]})
        return self.answer(404, {"faultstring": "not found"})

    do_GET = do_PUT = handle_one

    def log_message(self, *_):
        """Nothing on the terminal."""
