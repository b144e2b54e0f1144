# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import os
import stat

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _lease

EMPTY = {"owner": None, "record": {}}


def held(run_id, expires=100.0, **record):
    return {"owner": {"run_id": run_id, "since": 1.0, "renewed": 1.0, "expires": expires}, "record": record}


ROWS = [
    # what, stored, wanted, take over, expected (holder, refused)
    ("free", EMPTY, "held", None, ("me", False)),
    ("renewed", held("me"), "held", None, ("me", False)),
    ("another run is at work", held("other"), "held", None, ("other", True)),
    ("its lease has ended", held("other", expires=49.0), "held", None, ("me", False)),
    ("its process is known to be dead", held("other"), "held", "other", ("me", False)),
    ("somebody else took over meanwhile", held("third"), "held", "other", ("third", True)),
    ("given back", held("me"), "released", None, (None, False)),
    ("the lock of another run stays", held("other"), "released", None, ("other", False)),
    ("only looked at", held("other"), "read", None, ("other", False)),
]


@pytest.mark.parametrize("stored, wanted, take_over, expected", [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_decide(stored, wanted, take_over, expected):
    state, refused = _lease.decide(stored, wanted, {"run_id": "me"}, 60, take_over, {}, now=50.0)
    assert ((state["owner"] or {}).get("run_id"), refused) == expected


def test_renewing_keeps_the_beginning():
    state = _lease.decide(held("me"), "held", {"run_id": "me"}, 60, None, {}, now=50.0)[0]
    assert (state["owner"]["since"], state["owner"]["expires"]) == (1.0, 110.0)


def test_what_is_remembered_once_stays():
    state = _lease.decide(held("me", weights=1), "held", {"run_id": "me"}, 60, None, {"weights": 2, "dump": "x"}, now=50.0)[0]
    assert state["record"] == {"weights": 1, "dump": "x"}


def test_who_gives_back_may_leave_something_behind():
    mine, others = (
        _lease.decide(held(who), "released", {"run_id": "me"}, 60, None, {"weights_before": 2}, now=50.0)[0] for who in ("me", "other")
    )
    assert mine == {"owner": None, "record": {"weights_before": 2}}
    assert others == held("other")


def test_file_is_private_and_round_trips(tmp_path):
    path = str(tmp_path / "state" / "run.json")
    owner = {"run_id": "me"}
    first = _lease.apply(path, "held", owner, 60, None, {"a": 1}, False, False)
    assert not first["changed"] and first["remembered"] and first["record"] == {"a": 1} and 58 <= first["expires_in"] <= 60
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert _lease.apply(path, "held", owner, 60, None, {"a": 2}, False, False)["record"] == {"a": 1}
    assert _lease.apply(path, "held", owner, 60, None, {"a": 3}, True, False)["record"] == {"a": 3}
    other = _lease.apply(path, "held", {"run_id": "other"}, 60, None, {"a": 4}, True, False)
    assert other["refused"] and not other["remembered"] and other["record"] == {"a": 3} == _lease.read(path)["record"]
    last = _lease.apply(path, "released", owner, 60, None, {}, True, False)
    assert last["holder"] is None and last["record"] == {}


def test_check_mode_writes_nothing(tmp_path):
    path = str(tmp_path / "run.json")
    result = _lease.apply(path, "held", {"run_id": "me"}, 60, None, {}, False, True)
    assert not result["refused"] and not os.path.exists(path)


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("{")
    with pytest.raises(_lease.LeaseError, match="run.json"):
        _lease.read(str(path))
