# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: the whole upgrade against the naive playbook, on the same bed in the same run.

A fresh bed for each, the same shape, load and steps; the order alternates. The ratio is ours divided by theirs.
"""

import json
import os
import pathlib
import resource
import shlex
import shutil
import statistics
import sys

import yaml

from .bed import BACKEND, REPOSITORY, Bed
from .process import BedError

STEPS = [25, 50, 100]
OWN_PEER = pathlib.Path(__file__).parent / "naive.yml"

# stdio <-> unix socket, for machines without socat: all that the naive playbook asks of it.
_SOCAT = """\
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[2])
    s.sendall(sys.stdin.buffer.read())
    s.shutdown(socket.SHUT_WR)
    while data := s.recv(65536):
        sys.stdout.buffer.write(data)
"""


def add_arguments(parser):
    """Options of `python -m bed bench`."""
    parser.add_argument("--nodes", default="3,10", help="nodes of each colour, one size or several (default 3,10)")
    parser.add_argument("--batches", type=int, help="batches of blue (default 2)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, the median counts (default 1)")
    parser.add_argument("--rate", type=float, default=120, help="requests a second (default 120)")
    parser.add_argument("--blue-kong", help="the kong command of blue (default: the stand-in)")
    parser.add_argument("--green-kong", help="the kong command of green (default: the stand-in)")
    parser.add_argument("--peer", default=os.environ.get("KONG_PEER"),
                        help="the playbook to compare with (default: $KONG_PEER, else the documented steps)")


def main(args):
    """Returns the exit code."""
    peer = find_peer(args.peer)
    print(f"Comparing with {peer}", flush=True)
    if not shutil.which("socat"):
        print("No socat on this machine: the naive playbook gets a stand-in for it", flush=True)
    answer, turn, failed = {}, 0, 0
    for size in [int(s) for s in args.nodes.split(",")]:
        seconds = {"ours": [], "naive": []}
        for dummy in range(args.rounds):
            order = [("naive", peer), ("ours", None)]
            turn += 1
            for name, playbook in order if turn % 2 else reversed(order):
                result = once(args, size, playbook)
                seconds[name].append(result["seconds"])
                failed += result["failed"] if name == "ours" else 0
                print(f"{size}+{size}  {name:<6} {result['seconds']:6.1f} s  (cpu {result['cpu']:.1f} s)   {result['requests']} requests, "
                      f"{result['failed']} failed, p99 {result['p99_ms']} ms", flush=True)
        ours, theirs = statistics.median(seconds["ours"]), statistics.median(seconds["naive"])
        answer[f"{size}+{size}"] = {
            "seconds": round(ours, 1), "naive_seconds": round(theirs, 1), "ratio": round(ours / theirs, 2)}
    answer["failed"] = failed
    print(json.dumps(answer), flush=True)
    return 1 if failed else 0


def find_peer(given):
    """The playbook to compare with: the one given, one kept beside the repository, or ours of the same tasks."""
    if given:
        path = pathlib.Path(given).absolute()
        if not path.is_file():
            raise BedError(f"{given}: no such playbook")
        return path
    beside = REPOSITORY.parent / "shared" / "peer" / "naive.yml"
    return beside if beside.is_file() else OWN_PEER


def once(args, size, peer):
    """One upgrade on a fresh bed: the figures of the load, with `seconds` and `cpu` seconds of the playbook."""
    with Bed(nodes=size, batches=args.batches, blue_kong=args.blue_kong, green_kong=args.green_kong) as bed:
        if peer:
            prepare_peer(bed)
        load = bed.load(rate=args.rate)
        before = _cpu()
        if peer:
            path = f"{bed.directory / 'bin'}{os.pathsep}{bed.play_environment()['PATH']}"
            played = bed.playbook(peer, inventory=bed.directory / "peer" / "hosts.yml", env={"PATH": path})
        else:
            played = bed.playbook("upgrade.yml", kong_upgrade_until="finish", kong_upgrade_soak=0,
                                  kong_upgrade_steps=STEPS)
        cpu = _cpu() - before
        figures = load.stop()
        if played.rc:
            raise BedError(f"the playbook failed:\n{played.output[-4000:]}")
        if missing := bed.unfinished():  # both playbooks must arrive at the same place
            raise BedError(f"not upgraded: {', '.join(missing)}")
        for failure in figures["failures"][:5]:
            print(f"  ! {failure}", flush=True)
        return {**figures, "seconds": played.seconds, "cpu": cpu}


def _cpu():
    """Seconds of CPU that ended children have used: says more than the clock where a machine is shared."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def prepare_peer(bed):
    """What the naive playbook finds on the machine: green's kong.conf, its inventory, socat."""
    common = {"nginx_worker_processes": "1", "db_update_frequency": "1", "anonymous_reports": "off",
              **bed.database_settings(), "pg_password": bed.postgres.password}
    for host in bed.green:
        host.write_conf({**host.listeners(), **common})

    def hosts(those):
        return {"hosts": {h.name: {"kong": str(h.executable), "conf": str(h.conf), "prefix": str(h.prefix)}
                          for h in those}}

    inventory = {"all": {
        "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
        "children": {
            "blue": hosts(bed.blue), "green": hosts(bed.green),
            "lb": {"hosts": {lb.name: {"socket": str(lb.socket), "backend": BACKEND} for lb in bed.lbs}},
        },
    }}
    path = bed.directory / "peer" / "hosts.yml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(inventory, sort_keys=False), encoding="utf-8")
    programs = bed.directory / "bin"
    programs.mkdir()
    if not shutil.which("socat"):
        shim = programs / "socat"
        shim.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(_SOCAT)} \"$@\"\n",
                        encoding="utf-8")
        shim.chmod(0o755)
