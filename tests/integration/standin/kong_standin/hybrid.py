# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hybrid mode: a control plane gives its data planes all entities, by TLS with the certificate that they share.

As in the real one, a control plane has no proxy and a data plane no Admin API; a data plane keeps what it got last in its
prefix, serves it from its start on, also without a control plane, and has no route before it got something. Other than the
real one, it asks every half second (there a WebSocket pushes), and only certificates that are shared are known (no PKI).
"""

import asyncio
import gzip
import json
import os
import ssl
import subprocess
import urllib.parse

from .versions import number

SERVER_NAME = "kong_clustering"
PATH = "/v1/outlet"
POLL = 0.5
TIMEOUT = 5


def context(settings, purpose):
    """TLS in which both sides show the shared certificate."""
    found = ssl.SSLContext(purpose)
    found.check_hostname = False
    found.verify_mode = ssl.CERT_REQUIRED
    found.load_verify_locations(settings.get("cluster_cert"))
    found.load_cert_chain(settings.get("cluster_cert"), settings.get("cluster_cert_key"))
    return found


# --- control plane --------------------------------------------------------------------------------------------------------


def refusal(version, told):
    """Why a control plane gives nothing to a data plane of the version that this one told (text, empty for none); None if it does."""
    if not version.has("checks_data_planes"):
        return None
    if not told:
        return "data plane version is missing"
    mine, theirs = version.number[:2], number(told)[:2]
    if mine[0] != theirs[0] or theirs > mine or (theirs < mine and not version.has("serves_older_data_planes")):
        return "data plane %s is incompatible with control plane %s" % (told, version)
    return None


class Outlet:
    """What a control plane gives: read again only when something has changed, one query after the other."""

    def __init__(self, store):
        self.store, self.lock = store, asyncio.Lock()
        self.revision, self.body = None, b""

    async def read(self):
        async with self.lock:
            if self.revision != self.store.revision:
                revision = self.store.revision
                found = {name: await self.store.all(name) for name in self.store.entities}
                self.revision, self.body = revision, json.dumps(found).encode("utf-8")
            return self.body


async def serve(node, connection, request):
    """One question of a data plane."""
    told = urllib.parse.parse_qs(request.query).get("node_version", [""])[0]
    why = refusal(node.version, told)
    if request.path != PATH:
        status, body = 404, b""
    elif why:
        status, body = 400, why.encode("utf-8")
    else:
        status, body = 200, await node.store.outlet.read()
    connection.respond(status, [("Content-Type", "application/json")], body, keepalive=False)


# --- data plane -----------------------------------------------------------------------------------------------------------


def cache_path(settings):
    return os.path.join(settings.prefix, "config.cache.json.gz")


def kept(settings, entities):
    """{entity: rows} that the control plane sent last, as this version shows them; nothing where it never did."""
    found = {}
    if os.path.exists(cache_path(settings)):
        with gzip.open(cache_path(settings), "rt", encoding="utf-8") as stream:
            found = json.load(stream)
    return {name: [entity.shown(row) for row in found.get(name, ())] for name, entity in entities.items()}


async def follow(node):
    """Ask the control plane again and again, and take over what it has."""
    last, trouble = None, None
    while True:
        try:
            answer = await asyncio.wait_for(ask(node), TIMEOUT)
            if answer != last:
                last = answer
                write(node.settings, answer)
                await node.store.reopen()
            trouble = None
        except (OSError, asyncio.TimeoutError, ValueError) as error:
            if str(error) != trouble:
                trouble = str(error)
                node.log("error", "[clustering] no configuration from %s: %s" % (node.settings.get("cluster_control_plane"), trouble))
        await asyncio.sleep(POLL)


async def ask(node):
    """The control plane's answer, JSON as bytes. Raises OSError, ValueError."""
    host, _colon, port = node.settings.get("cluster_control_plane").rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=context(node.settings, ssl.PROTOCOL_TLS_CLIENT), server_hostname=SERVER_NAME)
    try:
        version = "&node_version=%s" % node.version if node.version.has("checks_data_planes") else ""
        request = "GET %s?node_id=%s%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (PATH, node.id, version, host)
        writer.write(request.encode("latin-1"))
        head, _blank, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    if head.split(b" ")[1:2] != [b"200"]:
        raise ValueError(body.decode("utf-8", "replace") or "no answer")
    return body


def write(settings, body):
    path = cache_path(settings)
    with open(path + ".new", "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        stream.write(gzip.compress(body))
    os.replace(path + ".new", path)


# --- command --------------------------------------------------------------------------------------------------------------


def gen_cert(certificate, key, days):
    """`kong hybrid gen_cert`, by openssl. Raises FileExistsError with what the command says."""
    for path in (certificate, key):
        if os.path.exists(path):
            raise FileExistsError("%s already exists.\nWill not overwrite it." % path)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes",
                    "-subj", "/CN=" + SERVER_NAME, "-days", str(days), "-out", certificate, "-keyout", key],
                   check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.chmod(certificate, 0o644)
    os.chmod(key, 0o600)
