# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application behind the gateway: answers with what it was asked, `/slow?s=5` after that many seconds, `/slow?until=FILE` when that
file is there.

    python -m bed.origin ADDRESS PORT
"""

import asyncio
import json
import os
import sys
from urllib.parse import parse_qs, urlsplit


async def _serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            target = first.split(" ")[1]
            headers = {k.strip().lower(): v.strip() for k, dummy, v in (line.partition(":") for line in lines if line)}
            if length := int(headers.get("content-length", 0)):
                await reader.readexactly(length)
            url = urlsplit(target)
            query = parse_qs(url.query)
            if "until" in query:
                while not os.path.exists(query["until"][0]):
                    await asyncio.sleep(0.02)
            elif url.path.endswith("/slow"):
                await asyncio.sleep(min(60.0, float(query.get("s", ["5"])[0])))
            body = json.dumps({
                "path": url.path, "id": query.get("id", [""])[0], "consumer": headers.get("x-consumer-username", ""),
            }).encode()
            keep = headers.get("connection", "").lower() != "close"
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"
                % (len(body), b"keep-alive" if keep else b"close") + body
            )
            await writer.drain()
            if not keep:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the gateway closed its connection, as it may at any time
    finally:
        writer.close()


async def main(address, port):
    """Serve until killed."""
    server = await asyncio.start_server(_serve, address, int(port), backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
