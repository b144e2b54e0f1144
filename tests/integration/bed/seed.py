# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway serves: entities made through blue's Admin API, and the requests that use them."""

import json
import secrets
import urllib.error
import urllib.request

from .load import basic
from .process import BedError, wait_for

NETWORKS = ["127.0.0.0/8", "192.0.2.0/24"]  # of the bed, of the lab


class Admin:
    """Client of a Kong Admin API."""

    def __init__(self, address, port):
        self.base = f"http://{address}:{port}"

    def call(self, method, path, body=None):
        """(status, parsed answer)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data=data, method=method, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, json.loads(text) if text else None

    def post(self, path, body):
        """Create an entity and return it.

        :raises BedError: when the answer is not 201
        """
        status, answer = self.call("POST", path, body)
        if status != 201:
            raise BedError(f"POST {path}: {status} {answer}")
        return answer


def credentials():
    """Random ones, a new set for each bed: {consumer: {key, password}}."""
    return {
        name: {"key": secrets.token_urlsafe(24), "password": secrets.token_urlsafe(18)}
        for name in ("alice", "bob", "mallory")
    }


def seed(admin, origin, people):
    """Make service, routes, plugins and consumers.

    Route /open is open to the load balancers' addresses, /key wants the key of a member of staff, /basic a password;
    mallory is no member of staff.
    """
    admin.post("/services", {"name": "origin", "url": origin})
    for name in ("open", "key", "basic"):
        admin.post("/services/origin/routes", {"name": name, "paths": [f"/{name}"]})
    admin.post("/routes/key/plugins", {"name": "key-auth"})
    admin.post("/routes/basic/plugins", {"name": "basic-auth"})
    _list_plugin(admin, "/routes/key/plugins", "acl", ["staff"])
    _list_plugin(admin, "/routes/open/plugins", "ip-restriction", NETWORKS)
    for name, secret in people.items():
        admin.post("/consumers", {"username": name})
        admin.post(f"/consumers/{name}/key-auth", {"key": secret["key"]})
        admin.post(f"/consumers/{name}/basic-auth", {"username": name, "password": secret["password"]})
        if name != "mallory":
            admin.post(f"/consumers/{name}/acls", {"group": "staff"})


def _list_plugin(admin, path, name, values):
    # `allow` is the name from 2.1 on, `whitelist` the one before.
    status, answer = admin.call("POST", path, {"name": name, "config": {"allow": values}})
    if status == 400:
        admin.post(path, {"name": name, "config": {"whitelist": values}})
    elif status != 201:
        raise BedError(f"POST {path}: {status} {answer}")


def requests(people):
    """What the load sends: see load.Load."""
    wrong = {"apikey": "not-a-key"}
    fast = [{"name": "open", "path": "/open", "share": 3, "status": 200}]
    for name in ("alice", "bob"):
        secret = people[name]
        fast.append({"name": "key-auth", "path": "/key", "share": 2, "status": 200, "consumer": name,
                     "headers": {"apikey": secret["key"]}})
        fast.append({"name": "basic-auth", "path": "/basic", "share": 2, "status": 200, "consumer": name,
                     "headers": {"Authorization": basic(name, secret["password"])}})
    fast.append({"name": "wrong key", "path": "/key", "share": 1, "status": 401, "headers": wrong})
    fast.append({"name": "not staff", "path": "/key", "share": 1, "status": 403,
                 "headers": {"apikey": people["mallory"]["key"]}})
    return fast


def wait_served(address, port, people, timeout=20):
    """Wait until a node answers every kind of request as expected (other nodes see new entities a little later)."""
    def served():
        return all(_status(f"http://{address}:{port}{r['path']}", r.get("headers", {})) == r["status"]
                   for r in requests(people))

    wait_for(served, timeout, f"{address}:{port} serves what was seeded", interval=0.1)


def _status(url, headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
