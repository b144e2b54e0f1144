# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bed from the command line: python -m bed up | down | show | load | play | demo | bench"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys

from . import bench, demo
from .bed import REPOSITORY, Bed, take_down
from .cassandra_bed import CassandraBed
from .lab import Lab, attach
from .process import BedError


def _shape(parser):
    parser.add_argument("--nodes", type=int, default=3, help="nodes of each colour (default 3)")
    parser.add_argument("--batches", type=int, help="batches of blue (default 2)")
    parser.add_argument("--lbs", type=int, default=1, help="load balancers (default 1)")
    parser.add_argument("--blue-kong", help="the kong command of blue (default: the stand-in)")
    parser.add_argument("--green-kong", help="the kong command of green (default: the stand-in)")
    parser.add_argument("--blue-version", default="2.1.4", help="version of blue's stand-in")
    parser.add_argument("--green-version", default="2.8.5", help="version of green's stand-in")


def describe(bed):
    """How to look at a bed that stands, and how to end it."""
    here = f"PYTHONPATH=tests/integration {sys.executable} -m bed"
    lines = [
        f"bed          {bed.directory}",
        *(f"gateway      http://{lb.address}:{lb.port}/open   (runtime commands of HAProxy: {lb.address}:9999)"
          for lb in bed.lbs),
        *(f"{h.name:<12} http://{h.address}:8000  (Admin API :8001)  {'runs' if h.pid() else 'does not run'}"
          for h in bed.hosts),
        f"database     {bed.database}",
        f"credentials  {bed.directory}/bed.json",
        f"inventory    {bed.inventory}",
        f"upgrade      {here} play --dir {bed.directory} upgrade.yml -e kong_upgrade_until=finish",
        f"as it runs   cd {REPOSITORY} && {shlex.join(bed.play_command('upgrade.yml', kong_upgrade_until='finish'))}",
        "look, back   the same with plan.yml, status.yml or rollback.yml",
        f"load         {here} load --dir {bed.directory} --seconds 30",
        f"take down    {here} down --dir {bed.directory}",
    ]
    if isinstance(bed, Lab):
        lines += [f"shell        ip netns exec {bed.hub.space} ssh -i {bed.hub.key} -o UserKnownHostsFile={bed.hub.known_hosts} "
                  f"root@{bed.blue[0].address}"]
    return "\n".join(lines)


def _up(args):
    kind = Lab if args.lab else CassandraBed if args.cassandra else Bed
    bed = kind(
        args.dir, nodes=args.nodes, batches=args.batches, lbs=args.lbs, blue_kong=args.blue_kong,
        green_kong=args.green_kong, blue_version=args.blue_version, green_version=args.green_version,
        middle_kong=args.middle_kong, middle_version=args.middle_version, auth=args.auth, secrets_in=args.secrets_in, keep=True)
    with bed:
        print(describe(bed))


def _down(args):
    take_down(args.dir)
    print(f"everything in {args.dir} has ended")


def _show(args):
    print(describe(attach(args.dir)))


def _load(args):
    bed = attach(args.dir)
    load = bed.load(rate=args.rate, duration=args.seconds)
    try:
        load.process.wait()
    except KeyboardInterrupt:
        pass  # ended early on purpose
    result = load.stop()
    for failure in result["failures"][:20]:
        print(failure)
    print(json.dumps({k: result[k] for k in ("requests", "failed", "p50_ms", "p99_ms", "late")}))
    return 1 if result["failed"] else 0


def _play(args):
    bed = attach(args.dir)
    argv = bed.play_command(args.playbook, options=args.options)
    mine = {key: value for key, value in os.environ.items() if key.startswith("ANSIBLE_")}
    return subprocess.run(argv, env=bed.play_environment(mine), cwd=REPOSITORY, check=False).returncode


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bed", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, text, directory=True):
        sub = commands.add_parser(name, help=text)
        sub.set_defaults(run=function)
        if directory:
            sub.add_argument("--dir", required=True, help="folder of the bed")
        return sub

    up = command("up", _up, "bring up a bed that stays")
    _shape(up)
    up.add_argument("--lab", action="store_true", help="every host a machine with systemd and sshd; needs root")
    up.add_argument("--middle-kong", help="the kong command of a cluster in between, for an upgrade of two hops")
    up.add_argument("--middle-version", help="version of its stand-in")
    up.add_argument("--cassandra", action="store_true", help="Kong on Cassandra instead of PostgreSQL")
    up.add_argument("--auth", choices=["md5", "scram-sha-256"], default="md5")
    up.add_argument("--secrets-in", choices=["vars", "conf"], default="vars", help="where green's password comes from")
    command("down", _down, "end it")
    command("show", _show, "how to look at it")
    load = command("load", _load, "send load to it")
    load.add_argument("--seconds", type=float, default=30)
    load.add_argument("--rate", type=float, default=120)
    play = command("play", _play, "run a playbook on it")
    play.add_argument("playbook", help="file in playbooks/, or a path")
    play.add_argument("options", nargs=argparse.REMAINDER, help="more words for ansible-playbook")
    demo.add_arguments(command("demo", demo.main, "a whole upgrade, shown", directory=False), _shape)
    bench.add_arguments(command("bench", bench.main, "a whole upgrade against the naive playbook", directory=False))

    args = parser.parse_args()
    # These end like Ctrl-C: through every `with` and `finally`, so that nothing is left running.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return args.run(args)
    except BedError as error:
        print(f"bed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bed: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
