# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parser of `kong migrations list` and the arithmetic on migration states."""

import os
import pathlib

import pytest
import yaml
from ansible_collections.bluegreen.kong.plugins.module_utils import _database, _migrations
from ansible_collections.bluegreen.kong.plugins.module_utils._cli import Result
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import CommandError, DatabaseError

HERE = pathlib.Path(__file__).resolve().parent
ROWS = yaml.safe_load((HERE / "rows" / "migrations_list.yml").read_text(encoding="utf-8"))


def transcripts():
    """The folder with transcripts of real Kong, or None."""
    for place in (os.environ.get("KONG_TRANSCRIPTS"), HERE.parents[4] / "shared" / "transcripts"):
        if place and pathlib.Path(place).is_dir():
            return pathlib.Path(place)
    return None


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_row(row):
    result = Result(row["rc"], row.get("out", ""), row.get("err", ""))
    if "error" in row:
        with pytest.raises(CommandError) as caught:
            _migrations.parse_list(result)
        assert row["error"] in caught.value.message
        assert caught.value.details["rc"] == row["rc"]
        return
    state = _migrations.parse_list(result)
    for key in ("state", "executed", "pending", "new", "legacy"):
        if key in row:
            assert state[key] == row[key], key
    assert state["source"] == "cli"
    assert (state["lock"], state["lock_known"]) == (None, False)


def entries():
    folder = transcripts()
    if folder is None:
        return []
    found = []
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in sorted(folder.glob("*.yaml")):
        with open(path, encoding="utf-8") as stream:
            document = yaml.load(stream, loader)
        for entry in document.get("entries", []):
            if (entry.get("argv") or [])[1:2] == ["migrations"] and isinstance(entry.get("exit_code"), int):
                found.append((path.name, entry))
    return found


def test_transcripts():
    """Every list in the transcripts is read, and agrees with the rows of schema_meta that were there."""
    found = [(name, entry) for name, entry in entries() if entry["argv"][2:3] == ["list"]]
    if not found:
        pytest.skip("no transcripts of real Kong: neither KONG_TRANSCRIPTS nor ../shared/transcripts")
    wrong, states = [], set()
    for name, entry in found:
        result = Result(entry["exit_code"], entry["stdout"], entry["stderr"])
        try:
            state = _migrations.parse_list(result)
        except CommandError:
            if entry["exit_code"] != 1:
                wrong.append((name, entry["scenario"], "not read"))
            continue
        states.add(state["state"])
        rows = entry.get("db_before")
        if not isinstance(rows, list) or not rows or "subsystem" not in rows[0]:
            if not state["needs_bootstrap"]:
                wrong.append((name, entry["scenario"], state["state"], rows))
            continue
        for key in ("executed", "pending"):
            have = dict((row["subsystem"], row[key] or []) for row in rows)
            strange = _migrations.subtract(state[key], have)
            # what the binary knows and the database has must have been printed
            lost = _migrations.subtract(have, state[key])
            known = _migrations.merge(_migrations.merge(state["executed"], state["pending"]), state["new"])
            lost = _migrations.subtract(lost, _migrations.subtract(lost, known))
            if strange or lost:
                wrong.append((name, entry["scenario"], key, strange, lost))
    assert not wrong
    assert states == {"up_to_date", "new", "pending", "pending_and_new", "needs_bootstrap", "legacy"}


def test_transcripts_lost_race():
    """The words of a lost race are found where the command exited without having done anything, and nowhere else."""
    found = [(name, entry) for name, entry in entries() if entry["argv"][2:3] in (["up"], ["finish"])]
    if not found:
        pytest.skip("no transcripts of real Kong: neither KONG_TRANSCRIPTS nor ../shared/transcripts")
    races = [
        entry for dummy, entry in found
        if _migrations.lost_race(Result(entry["exit_code"], entry["stdout"], entry["stderr"]))
    ]
    assert races
    for entry in races:
        assert "processed" not in entry["stdout"]


class Tables(_database.Database):
    """A database with these tables, each a list of rows or an error."""

    def __init__(self, **tables):
        super().__init__({"kind": "postgres"}, None)
        self._tables = tables

    def _rows(self, name):
        if isinstance(self._tables[name], Exception):
            raise self._tables[name]
        return self._tables[name]

    def place(self):
        return "here"

    def tables(self, names=None):
        return [name for name in self._tables if names is None or name in names]

    def objects(self):
        return [{"kind": "table", "name": name, "identity": name} for name in self._tables]

    def schema_meta(self):
        return self._rows("schema_meta")

    def schema_migrations(self):
        return self._rows("schema_migrations")

    def lock_row(self):
        return next(iter(self._rows("locks")), None)

    def settle(self):
        pass

    def close(self):
        pass


META = [
    {"subsystem": "core", "executed": ["000_base", "003_100_to_110", "003_100_to_110"], "pending": []},
    {"subsystem": "bot-detection", "executed": None, "pending": ["001_200_to_210"]},
    {"subsystem": "acl", "executed": ["000_base_acl"], "pending": None},
]


def test_database_state():
    database = Tables(schema_meta=META, locks=[{"owner": "abc", "expires_in": 41.239}])
    state, warnings = _migrations.read_database(
        database, known={"core": ["000_base", "009_200_to_210"], "session": ["000_base_session"]}
    )
    assert state["state"] == "pending_and_new"
    assert state["executed"] == {"core": ["000_base", "003_100_to_110"], "acl": ["000_base_acl"]}
    assert state["pending"] == {"bot-detection": ["001_200_to_210"]}
    assert state["new"] == {"core": ["009_200_to_210"], "session": ["000_base_session"]}
    assert state["lock"] == {"owner": "abc", "expires_in": 41.2}
    assert state["lock_known"] and not warnings


@pytest.mark.parametrize("expires_in, held", [(None, False), (-3.0, False), (0.0, False), (12.0, True)])
def test_a_lock_whose_time_has_passed_is_none(expires_in, held):
    database = Tables(schema_meta=META[:1], locks=[{"owner": "abc", "expires_in": expires_in}])
    assert bool(_migrations.read_database(database)[0]["lock"]) is held


def test_what_is_new_is_unknown_without_known():
    state = _migrations.read_database(Tables(schema_meta=META[:1], locks=[]))[0]
    assert (state["state"], state["new"]) == ("unknown", None)
    state = _migrations.read_database(Tables(schema_meta=META, locks=[]))[0]
    assert (state["state"], state["new"]) == ("pending", None)


def test_empty_and_legacy_databases():
    state = _migrations.read_database(Tables())[0]
    assert (state["state"], state["legacy"], state["needs_bootstrap"]) == ("needs_bootstrap", False, True)
    old = Tables(schema_migrations=[{"id": "core", "names": ["2018-05-17-173100_hash_on_cookie"]}])
    state = _migrations.read_database(old)[0]
    assert (state["state"], state["legacy"]) == ("legacy", True)
    half = Tables(schema_meta=META[:1], schema_migrations=[], locks=[])
    state, warnings = _migrations.read_database(half, known={"core": ["000_base"]})
    assert state["state"] == "up_to_date"
    assert "1.x" in warnings[0]


def test_a_missing_lock_table_is_no_lock_and_other_errors_are_errors():
    database = Tables(locks=DatabaseError("relation does not exist", missing=True))
    assert _migrations.lock_or_none(database) is None
    database = Tables(locks=DatabaseError("permission denied for table locks", missing=False))
    with pytest.raises(DatabaseError):
        _migrations.lock_or_none(database)


def test_fingerprint_does_not_know_order_or_doubles():
    one = _migrations.make("cli", {"core": ["b", "a"], "acl": ["x"]}, {}, {})
    other = _migrations.make("database", {"acl": ["x"], "core": ["a", "b", "a"], "cors": []}, {"jwt": []}, None)
    assert one["fingerprint"] == other["fingerprint"]
    pending = _migrations.make("cli", {"core": ["a"], "acl": ["x"]}, {"core": ["b"]}, {})
    assert pending["fingerprint"] != one["fingerprint"]


def test_arithmetic():
    before = _migrations.make("cli", {"core": ["a"]}, {"acl": ["p"]}, {"core": ["b", "c"]})
    after = _migrations.make("cli", {"core": ["a", "c"], "acl": ["p"]}, {"core": ["b"]}, {})
    assert _migrations.moved(before, after) == {"core": ["b", "c"], "acl": ["p"]}
    assert _migrations.missing(before["new"], after) == {}
    assert _migrations.missing({"core": ["d"], "jwt": ["e"]}, after) == {"core": ["d"], "jwt": ["e"]}
    assert _migrations.spell({"acl": ["x"], "core": ["a", "b"]}) == "core a, b; acl x"
    assert _migrations.spell({}) == "none"
    assert "new core/b\n" in _migrations.render(before)


@pytest.mark.parametrize(
    "said, words",
    [
        ("[PostgreSQL error] connection refused", ". Check pg_host and pg_port"),
        ("[PostgreSQL error] something else", "."),
        ("Told already.", ""),
        ("[Cassandra error] all hosts tried for query failed. 10.0.0.1: host seems unhealthy, considering it down "
         "(connection refused)", ". Check cassandra_contact_points and cassandra_port"),
        ("[Cassandra error] all hosts tried for query failed. 10.0.0.1: [Bad credentials] Provided username kong and/or "
         "password are incorrect", ". Check cassandra_username and cassandra_password."),
        ("could not resolve any of the provided Cassandra contact points (cassandra_contact_points = 'x')",
         ". Check cassandra_contact_points."),
        ("[Cassandra error] all hosts tried for query failed. 10.0.0.1: [Invalid] Keyspace 'nowhere' does not exist",
         ". Check cassandra_keyspace."),
        ("[Cassandra error] timeout", ". The database did not answer in time."),
        ("[Cassandra error] something else", "."),
    ],
)
def test_advice(said, words):
    advice = _migrations.advice(said)
    assert advice.startswith(words) and bool(advice) is bool(words)
