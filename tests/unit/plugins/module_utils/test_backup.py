# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a dump holds, from the lines that pg_restore writes; with a real PostgreSQL: tests/integration/test_backup.py."""

import contextlib

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _backup, _migrations, _postgres
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import BackupError, DatabaseError

LINES = b"""SET statement_timeout = 0;
SET transaction_timeout = 0;
\\restrict abc
COPY public.consumers (id, "order", username) FROM stdin;
1\t\\N\talice
2\t\\N\tCOPY public.fake (id) FROM stdin;
\\.
COPY kong."locks" (key, owner, ttl) FROM stdin;
\\.
COPY public.oauth2_tokens (id, scope) FROM stdin;
7\tSET transaction_timeout
\\.
COPY public.schema_meta (key, subsystem, last_executed, executed, pending) FROM stdin;
schema_meta\tcore\t009_b\t{000_base,009_b}\t{}
schema_meta\tacl\t\\N\t\\N\t{"003_c"}
\\.
\\unrestrict abc
"""


def lines():
    return LINES.splitlines(keepends=True)


def test_tables_and_their_rows():
    tables, meta = _backup.tables_of(lines())
    assert tables == {
        "consumers": {"rows": 2, "ids": {b"1", b"2"}},
        "locks": {"rows": 0, "ids": None},
        "oauth2_tokens": {"rows": 1, "ids": None},  # tokens come and go
        "schema_meta": {"rows": 2, "ids": None},
    }
    state = _backup.migrations_of(meta)
    assert state["executed"] == {"core": ["000_base", "009_b"]} and state["pending"] == {"acl": ["003_c"]}
    assert state["new"] is None and not state["needs_bootstrap"]


def test_rows_are_let_through_as_they_are():
    kept = list(_backup._fit(lines()))
    gone = [line for line in lines() if line not in kept]
    assert gone == [b"SET transaction_timeout = 0;\n", b"\\restrict abc\n", b"\\unrestrict abc\n"]


def test_a_count_that_differs_raises():
    (statement,) = _backup.count_statements("my schema", {"it's 5%": {"rows": 3}})
    assert '"my schema"."it\'s 5%") <> 3' in statement and "it''s 5%% has not the 3 rows" in statement


BEFORE, WANTED, OTHER = ({"fingerprint": name} for name in ("before", "wanted", "other"))
LOST = "server closed the connection unexpectedly"


@pytest.mark.parametrize(
    ("said", "found", "problem"),
    [
        (None, WANTED, None),
        ("ERROR: lock timeout", BEFORE, "the data are as they were before. PostgreSQL said: ERROR: lock timeout"),
        # COMMIT was sent: only a look tells what became of it
        (LOST, WANTED, None),
        (LOST, BEFORE, "as they were before"),
        (LOST, None, "is not known"),
        (LOST, OTHER, "not the one in it"),
        (None, OTHER, "not the one in it"),
    ],
)
def test_what_became_of_a_restore_is_read_back(monkeypatch, said, found, problem):
    class Connection(contextlib.nullcontext):
        def schema(self):
            return "public"

        def close(self):
            pass

    states = [BEFORE, found]

    def connect(*dummy):
        if len(states) == 1 and found is None:
            raise DatabaseError("Cannot log in.")
        return Connection()

    monkeypatch.setattr(_backup, "programs", lambda run, folder: ["pg_restore", "psql"])
    monkeypatch.setattr(_backup, "checksum", lambda path: "abc")
    monkeypatch.setattr(_backup, "read", lambda *dummy: ({}, WANTED))
    monkeypatch.setattr(_backup, "drop_statements", lambda database: [])
    monkeypatch.setattr(_backup, "_run", lambda *dummy: said)
    monkeypatch.setattr(_postgres, "connect", connect)
    monkeypatch.setattr(_migrations, "read_database", lambda database: (states.pop(0), []))
    with pytest.raises(BackupError, match=problem) if problem else contextlib.nullcontext():
        result = _backup.restore({"path": "/b/kong.pgc"}, None)
        assert (result["changed"], result["after"]) == (True, WANTED)
