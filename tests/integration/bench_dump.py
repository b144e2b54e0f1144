# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What kong_config_dump costs: an export with its checks against the bare `kong config db_export`, and the memory of its own process.

    BLUE_KONG=/path/bin/kong GREEN_KONG=/path/bin/kong .venv/bin/python -B tests/integration/bench_dump.py 1000 100000

Numbers of consumers, with a key each; --cassandra for a Cassandra; --import N for a repaired import of as many at most. BLUE_KONG is of
1.3 to 2.7.

Each round runs both, and begins with the one that the round before ended with. `ratio` is of the medians, `ratios` are those of the rounds.
Whatever else the machine does falls on one of the two; not so in `own`: within one run of the module, its seconds beside its commands'.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

INTEGRATION = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(INTEGRATION), str(INTEGRATION.parents[1] / ".collections")]

HOURS = 3 * 3600


def run_command(argv, environ_update=None):
    """As AnsibleModule.run_command, for commands that take long."""
    done = subprocess.run(argv, env=dict(os.environ, **(environ_update or {})), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=HOURS, check=False)
    return done.returncode, done.stdout, done.stderr


def work(params):
    """In a process of its own, with nothing but what the module needs: one run of its work. Prints the peak of its memory (MB), and the
    seconds that its commands took."""
    from ansible_collections.bluegreen.kong.plugins.module_utils import _dump, _dump_import

    waited = []

    def command(argv, environ_update=None):
        begun = time.monotonic()
        answer = run_command(argv, environ_update)
        waited.append(time.monotonic() - begun)
        return answer

    (_dump_import.load if "src" in params else _dump.export)(params, command)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, sum(waited))


def timed(argv):
    """Runs a command; what it took, with all that it started: (seconds, seconds of the processors, what it printed)."""
    def processors():
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    begun, before = time.monotonic(), processors()
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=HOURS)
    return time.monotonic() - begun, processors() - before, done.stdout


def measured(**params):
    """A run of work(): (seconds, seconds of the processors, MB, seconds beside its commands')."""
    seconds, cpu, out = timed([sys.executable, "-B", __file__, "--work", json.dumps(params)])
    peak, waited = map(float, out.split())
    return seconds, cpu, peak, seconds - waited


def fill_postgres(at, count):
    """So many consumers in all, with a key each."""
    with at.session() as session:
        columns = session.execute("select column_name from information_schema.columns where table_name = 'consumers'").fetchall()
        column, value = (", ws_id", ", (select id from workspaces where name = 'default')") if ("ws_id",) in columns else ("", "")
        there = session.execute("select count(*) from consumers").fetchone()[0]
        session.execute(
            f"with made as (insert into consumers (id, username, custom_id{column}) select gen_random_uuid(), 'user-' || n, 'custom-' || n"
            f"{value} from generate_series({there + 1}, {count}) n returning id)"
            f" insert into keyauth_credentials (id, consumer_id, key{column})"
            f" select gen_random_uuid(), id, gen_random_uuid(){value} from made"
        )


def fill_cassandra(at, count):
    """The same."""
    import cassandra.concurrent

    session = at.ring.server.session()
    workspaces = [row["id"] for row in at.execute("select id from {}.workspaces")] if "workspaces" in at.look().tables() else []
    mark = "".join(f"{workspace}:" for workspace in workspaces)
    column, value = (", ws_id", ", ?") if workspaces else ("", "")
    consumer = session.prepare(
        f"insert into {at.keyspace}.consumers (created_at, id, username, custom_id{column}) values (toTimestamp(now()), ?, ?, ?{value})")
    key = session.prepare(
        f"insert into {at.keyspace}.keyauth_credentials (created_at, id, consumer_id, key{column})"
        f" values (toTimestamp(now()), ?, ?, ?{value})")
    there = getattr(at, "filled", 0)

    def rows():
        for n in range(there, count):
            made = uuid.uuid4()
            yield consumer, (made, f"{mark}user-{n}", f"{mark}custom-{n}", *workspaces)
            yield key, (uuid.uuid4(), made, f"{mark}{uuid.uuid4()}", *workspaces)

    for _done in cassandra.concurrent.execute_concurrent(session, rows(), concurrency=64, results_generator=True):
        pass
    at.filled = count


def main():
    """Prints a line for each number of consumers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("consumers", nargs="*", type=int, default=[1000, 100000])
    parser.add_argument("--cassandra", action="store_true", help="a Cassandra, not a PostgreSQL")
    parser.add_argument("--import", dest="most", type=int, default=0, help="import as many at most, too")
    parser.add_argument("--parse", action="store_true", help="with option parse of the module")
    parser.add_argument("--rounds", type=int, default=5, help="the median counts (default 5)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(json.loads(args.work))
        return
    from bed import process
    from migrating import Cluster
    from ring import Ring

    directory = pathlib.Path(tempfile.mkdtemp(prefix="bench-dump-"))
    directory.chmod(0o755)
    standing = Ring(directory) if args.cassandra else Cluster(directory)
    try:
        bench(args, standing, directory)
    finally:
        if args.cassandra:
            standing.server.stop()
        process.end(lambda: process.members(directory))
        shutil.rmtree(directory)


def bench(args, standing, directory):
    """The numbers, one after the other, in one database that grows."""
    if args.cassandra:
        standing.server.start()
        at, fill = standing.at(), fill_cassandra
    else:
        standing.server.start()
        at, fill = standing.fresh(template="template0"), fill_postgres
    at.migrate("bootstrapped", standing.old)
    for count in args.consumers:
        fill(at, count)
        bare, ours = [], []
        for number in range(args.rounds):
            for each in ("module", "command") if number % 2 else ("command", "module"):
                if each == "command":
                    (directory / "bare.yml").unlink(missing_ok=True)
                    bare.append(timed([standing.old, "config", "db_export", str(directory / "bare.yml"), "-c", at.conf]))
                else:
                    dest = str(directory / "dump.yml")
                    ours.append(measured(executable=standing.old, conf=at.conf, dest=dest, force=True, parse=args.parse))
        line = {"consumers": count, "file_mb": (directory / "dump.yml").stat().st_size / 1e6, "export_mb": max(each[2] for each in ours)}
        for number, unit in enumerate(("s", "cpu_s")):
            ratios = [mine[number] / other[number] for mine, other in zip(ours, bare)]
            other, mine = (statistics.median(each[number] for each in found) for found in (bare, ours))
            line |= {f"bare_{unit}": other, f"export_{unit}": mine, f"ratio_{unit}": mine / other, f"ratios_{unit}": ratios}
        line["own_s"] = [each[3] for each in ours]
        line["ratio_own"] = statistics.median(each[0] / (each[0] - each[3]) for each in ours)
        if count <= args.most:
            new = standing.at() if args.cassandra else standing.fresh(template="template0")
            new.migrate("bootstrapped")
            seconds, cpu, peak, own = measured(executable=standing.new, conf=new.conf, src=str(directory / "dump.yml"), force=True)
            line |= {"import_s": seconds, "import_cpu_s": cpu, "import_mb": peak, "import_own_s": own}
        print(json.dumps(rounded(line)), flush=True)


def rounded(line):
    return {key: [round(each, 3) for each in value] if isinstance(value, list) else round(value, 3) for key, value in line.items()}


if __name__ == "__main__":
    main()
