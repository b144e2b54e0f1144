# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A steady load on the load balancers that notices every failed request.

    python -m bed.load SPEC.json RESULT.json

Fast requests leave at a fixed rate, whether earlier ones are answered or not, on kept connections and on fresh ones;
beside them some slow requests are always in flight. An answer counts only if status, body and the consumer that the
origin saw are the expected ones. Nothing is ever tried twice. SIGTERM or SIGINT: no new requests, wait for those in
flight, write the result, exit. SIGUSR1: begin a new section of the latency figures. While it runs, RESULT.json holds
the figures so far.

Result: requests, failed, failures [{t, kind, reason, target, server}] (t: seconds since `started`), p50_ms, p99_ms,
max_ms (fast requests), sections [{t, requests, p50_ms, p99_ms, max_ms}], seconds [[second, {colour: answers},
failed]], versions {colour: {Kong version: answers}}, kinds {name: {requests, failed}}, late (requests not sent in
time because too many were unanswered), started, done.
"""

import asyncio
import base64
import collections
import contextlib
import json
import os
import re
import signal
import sys
import time

MAX_REQUESTS = 2_000_000
MAX_FAILURES = 500  # listed; all are counted
MAX_IN_FLIGHT = 400
IDLE = 5.0  # s: a kept connection that was idle longer is not used again


class Failed(Exception):
    """A request that a client would call failed; the message is the reason."""


class Latencies:
    """A histogram of 0.1 ms classes, so that its size is bounded."""

    def __init__(self):
        self.classes = collections.Counter()
        self.requests = 0

    def add(self, seconds):
        """Count one request."""
        self.classes[min(int(seconds * 10_000), 600_000)] += 1
        self.requests += 1

    def at(self, share):
        """The latency in ms that `share` (0..1) of the requests did not exceed; None without requests."""
        left = share * self.requests
        for key in sorted(self.classes):
            left -= self.classes[key]
            if left <= 0:
                return key / 10
        return None

    def figures(self):
        """As in the result."""
        return {"requests": self.requests, "p50_ms": self.at(0.5), "p99_ms": self.at(0.99), "max_ms": self.at(1.0)}


class Connection:
    """One HTTP/1.1 client connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.used = time.monotonic()

    @classmethod
    async def open(cls, target):
        """Connect to (address, port)."""
        return cls(*await asyncio.open_connection(*target))

    def usable(self):
        """False when the peer has closed it or it was idle for long: then a client would open another one."""
        return not self.reader.at_eof() and time.monotonic() - self.used < IDLE

    async def get(self, path, headers, close):
        """Send one GET. Returns (status, headers, body)."""
        lines = [f"GET {path} HTTP/1.1", "Host: gateway.bed", f"Connection: {'close' if close else 'keep-alive'}"]
        lines += [f"{k}: {v}" for k, v in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        answer = {k.strip().lower(): v.strip() for k, dummy, v in (line.partition(":") for line in head[1:] if line)}
        if answer.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int((await self.reader.readline()).split(b";")[0], 16):
                body += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
        else:
            body = await self.reader.readexactly(int(answer.get("content-length", 0)))
        self.used = time.monotonic()
        return status, answer, body

    def close(self):
        """Close without waiting."""
        self.writer.close()


class Load:
    """See the module's description. `spec`: targets, rate (1/s), slow (in flight), slow_seconds, duration (s),
    colours {server name: colour}, requests [{name, path, share, status (list), headers, consumer}]."""

    def __init__(self, spec, result):
        self.spec, self.result = spec, result
        self.targets = [tuple(t) for t in spec["targets"]]
        self.mix = [r for r in spec["requests"] for dummy in range(r.get("share", 1))]
        self.idle = {t: collections.deque() for t in self.targets}
        self.started = time.time()
        self.clock = time.monotonic()
        self.total, self.sections = Latencies(), [(0.0, Latencies())]
        self.seconds = collections.defaultdict(lambda: [collections.Counter(), 0])
        self.versions = collections.defaultdict(collections.Counter)
        self.kinds = collections.defaultdict(lambda: {"requests": 0, "failed": 0})
        self.failures, self.failed, self.requests, self.late = [], 0, 0, 0
        self.in_flight = set()
        self.stopping = asyncio.Event()

    def since(self):
        """Seconds since the start."""
        return time.monotonic() - self.clock

    async def request(self, kind, target, path, fresh, patience, measured):
        """One request, counted whatever becomes of it."""
        begun = time.monotonic()
        server, connection = "", None
        self.requests += 1
        number = self.requests
        try:
            async with asyncio.timeout(patience):
                while not fresh and self.idle[target]:
                    connection = self.idle[target].popleft()
                    if connection.usable():
                        break
                    connection.close()
                    connection = None
                if connection is None:
                    connection = await Connection.open(target)
                mark = f"{os.getpid()}-{number}"
                path = f"{path}{'&' if '?' in path else '?'}id={mark}"
                status, headers, body = await connection.get(path, kind.get("headers", {}), fresh)
            server = headers.get("x-bed-server", "")
            self._check(kind, mark, status, body)
            self._answered(kind["name"], server, headers)
            if measured:
                latency = time.monotonic() - begun
                self.total.add(latency)
                self.sections[-1][1].add(latency)
            if fresh or headers.get("connection", "").lower() == "close":
                connection.close()
            else:
                self.idle[target].append(connection)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, a client did not get its answer
            if connection:
                connection.close()
            self._failed(kind["name"], target, server, error)

    @staticmethod
    def _check(kind, mark, status, body):
        if status not in kind["status"]:
            raise Failed(f"status {status} instead of {' or '.join(map(str, kind['status']))}: {body[:120].decode('latin-1')}")
        if status == 200:
            got = json.loads(body)
            if (got.get("id"), got.get("consumer")) != (mark, kind.get("consumer", "")):
                raise Failed(f"not the answer to this request: {body[:120].decode('latin-1')}")

    def _answered(self, name, server, headers):
        colour = self.spec["colours"].get(server, "other")
        self.seconds[int(self.since())][0][colour] += 1
        self.kinds[name]["requests"] += 1
        if match := re.search(r"kong/([\w.-]+)", headers.get("via", headers.get("server", "")).lower()):
            self.versions[colour][match[1]] += 1

    def _failed(self, name, target, server, error):
        self.failed += 1
        self.kinds[name]["requests"] += 1
        self.kinds[name]["failed"] += 1
        self.seconds[int(self.since())][1] += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append({
                "t": round(self.since(), 3), "kind": name, "target": "%s:%s" % target, "server": server,
                "reason": str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}",
            })

    def _launch(self, *arguments):
        task = asyncio.create_task(self.request(*arguments))
        self.in_flight.add(task)
        task.add_done_callback(self.in_flight.discard)
        return task

    async def fast(self):
        """Send fast requests at the given rate."""
        sent = 0
        while not self.stopping.is_set():
            due = int(self.since() * self.spec["rate"])
            while sent < due:
                sent += 1
                if len(self.in_flight) >= MAX_IN_FLIGHT:
                    self.late += 1
                    continue
                kind = self.mix[sent % len(self.mix)]
                target = self.targets[(sent // len(self.mix)) % len(self.targets)]
                fresh = (sent // 2) % 3 == 0
                self._launch(kind, target, kind["path"], fresh, 10, True)
            await asyncio.sleep(max(0.0, (sent + 1) / self.spec["rate"] - self.since()))

    async def slow(self, number):
        """Always one slow request in flight."""
        seconds = self.spec["slow_seconds"]
        usual = [r for r in self.spec["requests"] if 200 in r["status"]]
        kind = {**usual[number % len(usual)], "name": "slow"}
        await asyncio.sleep(seconds * number / self.spec["slow"])
        turn = 0
        while not self.stopping.is_set():
            path = kind["path"] + f"/slow?s={seconds}"
            target = self.targets[(number + turn) % len(self.targets)]
            await self._launch(kind, target, path, turn % 2 == 0, seconds + 15, False)
            turn += 1

    def write(self, done):
        """Write the result, whole or not at all."""
        figures = self.total.figures()
        rows = [[second, dict(counter), failed] for second, (counter, failed) in sorted(self.seconds.items())]
        answer = {
            **figures, "requests": sum(k["requests"] for k in self.kinds.values()), "failed": self.failed,
            "failures": self.failures, "sections": [{"t": round(t, 3), **part.figures()} for t, part in self.sections],
            "seconds": rows, "versions": {k: dict(v) for k, v in self.versions.items()}, "kinds": dict(self.kinds),
            "late": self.late, "started": self.started, "lasted": round(self.since(), 3), "done": done,
        }
        with open(self.result + ".new", "w", encoding="utf-8") as file:
            json.dump(answer, file)
        os.replace(self.result + ".new", self.result)

    async def run(self):
        """Until the duration is over or a signal comes."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        loop.add_signal_handler(signal.SIGUSR1, lambda: self.sections.append((self.since(), Latencies())))
        senders = [asyncio.create_task(self.fast())]
        senders += [asyncio.create_task(self.slow(n)) for n in range(self.spec["slow"])]
        while not self.stopping.is_set() and self.since() < self.spec["duration"] and self.requests < MAX_REQUESTS:
            self.write(done=False)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), 1)
        self.stopping.set()
        senders[0].cancel()
        if self.in_flight:
            await asyncio.wait(set(self.in_flight))
        for task in senders:
            task.cancel()
        self.write(done=True)


def basic(user, password):
    """Value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as _file:
        _spec = json.load(_file)

    async def _main():
        await Load(_spec, sys.argv[2]).run()

    asyncio.run(_main())
