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


def credentials(names=("alice", "bob", "mallory")):
    """Random ones, a new set for each bed: {consumer: {key, password}}."""
    return {name: {"key": secrets.token_urlsafe(24), "password": secrets.token_urlsafe(18)} for name in names}


def seed(admin, origin, people):
    """Make service, routes, plugins and consumers.

    Route /open is open to the load balancers' addresses, /key wants the key of a member of staff, /basic a password;
    mallory is no member of staff. On 0.x, /basic is an api.
    """
    admin.post("/services", {"name": "origin", "url": origin})
    if admin.call("GET", "/")[1]["version"].startswith("0."):
        _seed_old(admin, origin)
    else:
        _seed_routes(admin)
    for name, secret in people.items():
        admin.post("/consumers", {"username": name})
        admin.post(f"/consumers/{name}/key-auth", {"key": secret["key"]})
        admin.post(f"/consumers/{name}/basic-auth", {"username": name, "password": secret["password"]})
        if name != "mallory":
            admin.post(f"/consumers/{name}/acls", {"group": "staff"})


def seed_more(admin, origin, suspended, certificate):
    """Make what seed() does not: a plugin on every level, an upstream with targets, a certificate with SNIs, and tags.

    :param origin: address and port of the application
    :param suspended: consumer that is refused whatever it is allowed
    :param certificate: (certificate, key), PEM
    """
    _list_plugin(admin, "/plugins", "bot-detection", ["badbot"], ("deny", "blacklist"))
    admin.post(f"/consumers/{suspended}/plugins", {"name": "request-termination", "config": {"status_code": 451, "message": "suspended"}})
    admin.post("/upstreams", {"name": "pool", "tags": ["pooled"]})
    for target, weight in ((origin, 100), ("127.0.0.1:1", 0)):
        admin.post("/upstreams/pool/targets", {"target": target, "weight": weight})
    admin.post("/services", {"name": "pooled", "host": "pool", "tags": ["pooled", "second"]})
    _list_plugin(admin, "/services/pooled/plugins", "ip-restriction", NETWORKS)
    admin.post("/services/pooled/routes", {"name": "pooled", "paths": ["/pooled"], "tags": ["pooled"]})
    made = admin.post("/certificates", {"cert": certificate[0], "key": certificate[1], "tags": ["tls"]})
    for name in ("one.example", "two.example"):
        admin.post("/snis", {"name": name, "certificate": {"id": made["id"]}})


def more_requests(people, suspended):
    """What the load sends besides, once seed_more() has run; as requests()."""
    return [
        {"name": "upstream", "path": "/pooled", "share": 2, "status": [200]},
        {"name": "global plugin", "path": "/open", "share": 1, "status": [403], "headers": {"User-Agent": "badbot"}},
        {"name": "consumer's plugin", "path": "/key", "share": 1, "status": [451], "headers": {"apikey": people[suspended]["key"]}},
    ]


def _seed_routes(admin):
    for name in ("open", "key", "basic"):
        admin.post("/services/origin/routes", {"name": name, "paths": [f"/{name}"]})
    admin.post("/routes/key/plugins", {"name": "key-auth"})
    admin.post("/routes/basic/plugins", {"name": "basic-auth"})
    _list_plugin(admin, "/routes/key/plugins", "acl", ["staff"])
    _list_plugin(admin, "/routes/open/plugins", "ip-restriction", NETWORKS)


def _seed_old(admin, origin):
    # Routes of 0.x have no name, and their plugins are told the id of the route.
    routes = {name: admin.post("/services/origin/routes", {"paths": [f"/{name}"]})["id"] for name in ("open", "key")}
    for plugin in ({"name": "key-auth", "route_id": routes["key"]},
                   {"name": "acl", "route_id": routes["key"], "config": {"whitelist": ["staff"]}},
                   {"name": "ip-restriction", "route_id": routes["open"], "config": {"whitelist": NETWORKS}}):
        admin.post("/plugins", plugin)
    admin.post("/apis", {"name": "basic", "uris": ["/basic"], "upstream_url": origin})
    admin.post("/apis/basic/plugins", {"name": "basic-auth"})


def _list_plugin(admin, path, name, values, fields=("allow", "whitelist")):
    # The former is the name from 2.1 on, the latter the one before.
    status, answer = admin.call("POST", path, {"name": name, "config": {fields[0]: values}})
    if status == 400:
        admin.post(path, {"name": name, "config": {fields[1]: values}})
    elif status != 201:
        raise BedError(f"POST {path}: {status} {answer}")


def requests(people, oldest="1.3"):
    """What the load sends: see load.Load. oldest: version of the oldest node that answers."""
    wrong = {"apikey": "not-a-key"}
    refusals = [401] if _number(oldest) >= (1, 3) else [401, 403]  # 403 before 1.3
    fast = [{"name": "open", "path": "/open", "share": 3, "status": [200]}]
    for name in ("alice", "bob"):
        secret = people[name]
        fast.append({"name": "key-auth", "path": "/key", "share": 2, "status": [200], "consumer": name,
                     "headers": {"apikey": secret["key"]}})
        fast.append({"name": "basic-auth", "path": "/basic", "share": 2, "status": [200], "consumer": name,
                     "headers": {"Authorization": basic(name, secret["password"])}})
    fast.append({"name": "wrong key", "path": "/key", "share": 1, "status": refusals, "headers": wrong})
    fast.append({"name": "not staff", "path": "/key", "share": 1, "status": [403],
                 "headers": {"apikey": people["mallory"]["key"]}})
    return fast


def _number(version):
    return tuple(int(part) for part in version.split("."))


def wait_served(address, port, kinds, timeout=20):
    """Wait until a node answers every kind of request as expected (other nodes see new entities a little later).

    :param kinds: as from requests()
    """
    def served():
        return all(_status(f"http://{address}:{port}{r['path']}", r.get("headers", {})) in r["status"] for r in kinds)

    wait_for(served, timeout, f"{address}:{port} serves what was seeded", interval=0.1)


def _status(url, headers):
    try:
        # bot-detection takes Python's own name for a bot's
        request = urllib.request.Request(url, headers={"User-Agent": "bed", **headers})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
