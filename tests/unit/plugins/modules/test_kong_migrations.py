# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong_migrations against commands that lie: argv in, transcript out, result expected."""

import pathlib
import sys

import pytest
import yaml
from ansible_collections.bluegreen.kong.plugins.module_utils import _migrate, _watch
from ansible_collections.bluegreen.kong.plugins.module_utils._cli import Result
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DatabaseError
from ansible_collections.bluegreen.kong.plugins.modules import kong_migrations, kong_migrations_info

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import fake_module  # noqa: E402

ROWS = yaml.safe_load((HERE / "rows" / "kong_migrations.yml").read_text(encoding="utf-8"))


def listing(**sections):
    headings = (("executed", "Executed migrations:"), ("pending", "Pending migrations:"), ("new", "New migrations available:"))
    return "\n".join(
        "%s\ncore: %s\n" % (heading, sections[name]) for name, heading in headings if name in sections
    )


STATES = {
    "current": (0, listing(executed="000_base, 009_b, 010_c")),
    "new": (5, listing(executed="000_base", new="009_b, 010_c")),
    "pending": (4, listing(executed="000_base", pending="009_b, 010_c")),
    "pending_and_new": (4, listing(executed="000_base", pending="009_b", new="010_c")),
    "half": (5, listing(executed="000_base, 009_b", new="010_c")),
    "empty": (3, "Database needs bootstrapping\n"),
    "legacy": (5, listing(new="000_base, 001_14_to_15")),
}


class Kong:
    """Answers the commands of a row, in their order."""

    def __init__(self, commands):
        self.commands = list(commands)

    def answer(self, argv, environ):
        assert argv[0] == "/opt/kong/bin/kong"
        assert argv[-2:] == ["-c", self.conf]
        assert environ["KONG_PREFIX"].rpartition("/")[2].startswith("kong-scratch-")
        assert self.commands, "one more command than expected: %s" % argv
        expected = self.commands.pop(0)
        assert argv[1:3] == expected["argv"]
        if argv[2] != "list":
            assert argv[3:-2] == ["--db-timeout", "600", "--lock-timeout", "600"]
        if "state" in expected:
            return Result(STATES[expected["state"]][0], STATES[expected["state"]][1], "")
        return Result(expected["rc"], expected.get("out", ""), expected.get("err", ""))

    def run_command(self, argv, environ_update=None):
        return tuple(self.answer(argv, environ_update))

    def watched(self, argv, environ, timeout, database=None, block_timeout=0, user=None):
        assert timeout == 600 + _migrate.MARGIN
        outcome = _watch.Outcome()
        outcome.result = self.answer(argv, environ)
        return outcome


@pytest.fixture
def kong(monkeypatch, tmp_path):
    """A Kong whose database this host has no way to look into."""

    def no_way(store, password):
        raise DatabaseError("There is no way to talk to Cassandra from here.")

    def make(commands):
        kong = Kong(commands)
        conf = tmp_path / "kong.conf"
        conf.write_text("database = cassandra\npg_password = hunter2-and-more\n")
        kong.conf = str(conf)
        monkeypatch.setattr(_migrate._cli, "find_executable", lambda given, environ=None: given)
        monkeypatch.setattr(_watch, "run", kong.watched)
        monkeypatch.setattr(_migrate._cassandra, "connect", no_way)
        monkeypatch.setattr(_migrate, "LOOK_AGAIN", 0)
        monkeypatch.setattr(_migrate, "clean_up_when_told_to_end", lambda: None)
        return kong

    return make


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_row(row, kong, monkeypatch):
    fake = kong(row["commands"])
    params = dict(row["params"], executable="/opt/kong/bin/kong", conf=fake.conf)
    end = fake_module.run(kong_migrations, monkeypatch, params, fake.run_command, row.get("check_mode", False), diff=True)
    assert not fake.commands, "not called: %s" % fake.commands
    assert "hunter2" not in str(end.result)
    if "fails" in row:
        assert end.failed, end.result
        for words in row["fails"]:
            assert words in end.result["msg"]
        for key, value in row.get("details", {}).items():
            assert end.result[key] == value, key
        return
    assert not end.failed, end.result["msg"]
    for key, value in row["expect"].items():
        if key in ("commands", "warnings"):
            assert len(end.result[key]) == value, end.result[key]
        else:
            assert end.result[key] == value, key
    assert (end.result["diff"]["before"] != end.result["diff"]["after"]) is row["expect"]["changed"]


def test_nothing_that_destroys_can_be_reached():
    """Neither reset nor --force is in the code that builds command lines, and no option leads there."""
    folder = pathlib.Path(_migrate.__file__).parent
    for name in ("_migrate.py", "_migrations.py", "_cli.py", "_watch.py", "_dump.py", "_apis.py"):
        text = (folder / name).read_text(encoding="utf-8")
        for word in ('"reset"', "'reset'", "--force", '"-f"', "--yes"):
            assert word not in text, "%s in %s" % (word, name)


def test_info_reads_the_command(kong, monkeypatch):
    fake = kong([{"argv": ["migrations", "list"], "state": "pending_and_new"}])
    params = {"executable": "/opt/kong/bin/kong", "conf": fake.conf}
    end = fake_module.run(kong_migrations_info, monkeypatch, params, fake.run_command, check_mode=True)
    assert not end.failed and end.result["changed"] is False
    assert end.result["migrations"]["state"] == "pending_and_new"


def test_info_from_a_database_it_cannot_look_into(kong, monkeypatch):
    fake = kong([])
    params = {"source": "database", "conf": fake.conf}
    end = fake_module.run(kong_migrations_info, monkeypatch, params, fake.run_command)
    assert end.failed and "no way" in end.result["msg"]


def test_info_does_not_print_the_password(kong, monkeypatch):
    fake = kong([{"argv": ["migrations", "list"], "rc": 1, "err": "Error: hunter2-and-more is wrong\n"}])
    params = {"executable": "/opt/kong/bin/kong", "conf": fake.conf}
    end = fake_module.run(kong_migrations_info, monkeypatch, params, fake.run_command)
    assert end.failed and end.result["rc"] == 1
    assert "hunter2" not in str(end.result)
