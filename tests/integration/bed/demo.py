# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: a whole upgrade under load, and what happened, told so that a person wants to read it."""

import collections
import json
import sys
import time

from .bed import REPOSITORY, Bed
from .new_keyspace_bed import NewKeyspaceBed
from .process import BedError

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 96  # columns of the picture


def add_arguments(parser, shape):
    """Options of `python -m bed demo`."""
    shape(parser)
    parser.add_argument("--cassandra", action="store_true", help="Kong on Cassandra, which moves into a new keyspace")
    parser.add_argument("--dir", default=REPOSITORY / ".demo", help="folder of the bed (default .demo)")
    parser.add_argument("--keep", action="store_true", help="leave everything standing")
    parser.add_argument("--soak", type=int, default=3, help="seconds at each weight (default 3)")


def main(args):
    """Bring up a bed, upgrade it under load, tell, and take it down. Returns the exit code."""
    begun = time.monotonic()
    kind = NewKeyspaceBed if args.cassandra else Bed
    bed = kind(
        args.dir, nodes=args.nodes, batches=args.batches, lbs=args.lbs, blue_kong=args.blue_kong, green_kong=args.green_kong,
        blue_version=args.blue_version, green_version=args.green_version, keep=args.keep)
    _say(f"Starting {'Cassandra' if args.cassandra else 'PostgreSQL'}, HAProxy, an application, {args.nodes} blue nodes and a load ...")
    with bed:
        _say(f"... stands after {time.monotonic() - begun:.1f} s in {bed.directory}")
        told = upgrade(bed, args.soak)
        if args.keep:
            from .__main__ import describe
            print("\nLeft standing:\n" + describe(bed))
    print(json.dumps(told["line"]), flush=True)
    return 0 if told["good"] else 1


def upgrade(bed, soak):
    """Run playbooks/upgrade.yml to the end under load and print the story. Returns {"line": ..., "good": bool}."""
    versions = bed.versions()
    before = bed.migrations()
    load = bed.load()
    time.sleep(4)  # a picture of the time before, to compare with
    load.mark()
    play_began = load.figures()["lasted"]
    look = {"ANSIBLE_STDOUT_CALLBACK": "bluegreen.kong.progress", **({"ANSIBLE_FORCE_COLOR": "1"} if sys.stdout.isatty() else {})}
    play = bed.start_playbook("upgrade.yml", env=look, log=bed.directory / "upgrade.log",
                              kong_upgrade_until="finish", kong_upgrade_soak=soak)
    played = follow(play)
    load.mark()
    time.sleep(2)
    result = load.stop()
    report = bed.report / "report.html"
    line = {
        "requests": result["requests"], "failed": result["failed"], "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"], "seconds": round(played.seconds, 1), "report": str(report),
    }
    missing = bed.unfinished()
    tell(bed, versions, before, result, played, play_began, missing)
    return {"line": line, "good": played.rc == 0 and result["failed"] == 0 and not missing}


def follow(play, timeout=900):
    """Show what a playbook prints while it runs; returns the Played."""
    end = time.monotonic() + timeout
    with open(play.log, encoding="utf-8", errors="replace") as file:
        while True:
            ended = play.process.poll() is not None
            if text := file.read():
                sys.stdout.write(text)
                sys.stdout.flush()
            if ended:
                return play.wait()
            if time.monotonic() > end:
                play.kill(everything=True)
                raise BedError(f"the playbook has not ended after {timeout} s")
            time.sleep(0.1)


def tell(bed, versions, before, result, played, play_began, missing):
    """Print the story."""
    print(f"\n== {'Upgrade' if played.rc == 0 else 'FAILED upgrade'} {versions['blue']} -> {versions['green']}, "
          f"{len(bed.blue)} + {len(bed.green)} nodes, {len(bed.batches)} batches, {played.seconds:.1f} s ==")
    rows = phases(bed)
    if rows:
        print("\nPhases")
        widest = max(seconds for dummy, seconds in rows) or 1
        for name, seconds in rows:
            print(f"  {name:<10} {seconds:6.1f} s  {'▇' * max(1, round(30 * seconds / widest))}")
    print("\nAnswers by colour over time")
    picture(result, versions, play_began, played.seconds)
    print(f"\nRequests   {result['requests']} sent, {result['failed']} failed"
          + (f", {result['late']} not sent in time" if result["late"] else ""))
    for name, kind in sorted(result["kinds"].items()):
        print(f"  {name:<17} {kind['requests']:7}  {kind['failed']} failed")
    for failure in result["failures"][:20]:
        print(f"  ! {failure['t']:7.2f} s  {failure['kind']}: {failure['reason']} ({failure['server'] or 'no server'})")
    print("\nLatency of fast requests    p50      p99      max")
    for name, part in zip(("before", "during", "after"), result["sections"]):
        if part["requests"]:
            print(f"  {name:<22} {part['p50_ms']:6.1f} ms {part['p99_ms']:6.1f} ms {part['max_ms']:6.1f} ms")
    print("\nAnswered by")
    for colour in ("blue", "green"):
        seen = result["versions"].get(colour, {})
        print(f"  {colour:<6} " + (", ".join(f"{n} x Kong {v}" for v, n in sorted(seen.items())) or "nothing"))
    _tell_migrations(before, bed.migrations())
    print("\nAt the end "
          + (", ".join(missing) if missing else "blue runs nowhere, all of green runs, its Admin API answers, nothing is pending"))
    print(f"Report     {bed.report}/report.html (.md, .json)\n")


def picture(result, versions, play_began, play_seconds):
    """One column of a few seconds each, a row for each colour, and one for failures if there are any."""
    last = int(play_began + play_seconds) + 2  # behind that are only the last slow requests
    step = 1 + last // WIDTH
    columns = collections.defaultdict(collections.Counter)
    for second, answers, failed in result["seconds"]:
        second = min(second, last) if failed else second
        columns[second // step].update(answers)
        columns[second // step]["failed"] += failed
    count = last // step + 1
    full = max((sum(c.values()) - c["failed"] for c in columns.values()), default=0) or 1
    for colour in ("blue", "green"):
        bars = ""
        for n in range(count):
            share = columns[n][colour] / full
            bars += BARS[0] if not share else BARS[max(1, min(8, round(share * 8)))]
        print(f"  {colour:<5} {versions[colour]:<7} {bars}")
    if result["failed"]:
        print(f"  {'failed':<13} " + "".join("x" if columns[n]["failed"] else " " for n in range(count)))
    begin, end = int(play_began / step), int((play_began + play_seconds) / step)
    print(f"  {'':<13} {'.' * begin}{'upgrade'.center(max(7, end - begin), '-')}{'.' * max(0, count - end - 1)}"
          f"  1 column = {step} s")


def phases(bed):
    """[(name, seconds)] of the run, as its report has them; [] without a report."""
    file = bed.report / "report.json"
    if not file.exists():
        return []
    found = collections.Counter()
    for item in json.loads(file.read_text(encoding="utf-8"))["phases"]:
        found[item["phase"]] += float(item["seconds"])
    return list(found.items())


def _tell_migrations(before, after):
    def count(state, part):
        return sum(len(both[part]) for both in state.values())

    print(f"\nMigrations {count(before, 0)} executed, {count(before, 1)} pending before; "
          f"{count(after, 0)} executed, {count(after, 1)} pending after")
    for name, (executed, dummy) in sorted(after.items()):
        new = [m for m in executed if m not in before.get(name, ([], []))[0]]
        if new:
            print(f"  {name:<10} {', '.join(new)}")


def _say(text):
    print(text, flush=True)
