# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong config db_export: what it answers and leaves, and what is made of it."""

import hashlib
import os
import pathlib
import stat

import pytest
import yaml
from ansible_collections.bluegreen.kong.plugins.module_utils import _dump
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DumpError

ROWS = yaml.safe_load(
    (pathlib.Path(__file__).resolve().parent / "rows" / "config_db_export.yml").read_text(encoding="utf-8"))


class Kong:
    """A kong command that answers db_export and parse as a row says."""

    def __init__(self, row):
        self.row, self.exports, self.scratch = row, 0, set()

    def run(self, argv, environ_update=None):
        assert argv[1] == "config" and argv[4:6] == ["-c", self.row["conf"]] and argv[6] == "-p"
        assert stat.S_IMODE(os.stat(argv[7]).st_mode) == 0o700 and not os.listdir(argv[7])
        self.scratch.add(argv[7])
        if argv[2] == "parse":
            return self.row.get("parse", 0), "", "an entity with its secret"
        assert argv[2] == "db_export"
        self.exports += 1
        assert stat.S_IMODE(os.stat(os.path.dirname(argv[3])).st_mode) == 0o700
        if self.row["file"] is not None:
            with open(argv[3], "w", encoding="utf-8") as stream:
                stream.write(self.row["file"])
        return self.row.get("rc", 0), self.row.get("out", ""), self.row.get("err", "")


@pytest.fixture
def setup(tmp_path):
    folder = tmp_path / "backup"
    folder.mkdir()
    conf = tmp_path / "kong.conf"
    conf.write_text("pg_password = hunter2-and-more\n")
    executable = tmp_path / "kong"
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)

    def make(row, **more):
        kong = Kong(dict(row, conf=str(conf)))
        params = {"dest": str(folder / "x.yml"), "force": False, "parse": True, "conf": str(conf)}
        params.update(more, executable=str(executable))
        return kong, params, folder

    return make


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_row(row, setup):
    kong, params, folder = setup(row)
    if "fails" in row:
        with pytest.raises(DumpError) as caught:
            _dump.export(params, kong.run)
        for words in row["fails"]:
            assert words in caught.value.message
        assert "hunter2" not in caught.value.message + str(caught.value.details)
        assert not list(folder.iterdir()), "nothing is left behind"
    else:
        result = _dump.export(params, kong.run)
        for key, value in row["expect"].items():
            assert (len(result[key]) if key == "warnings" else result[key]) == value, key
        assert "secret" not in str(result)
        dest = folder / "x.yml"
        assert stat.S_IMODE(dest.stat().st_mode) == 0o600
        assert result["sha256"] == hashlib.sha256(dest.read_bytes()).hexdigest()
        assert (folder / "x.yml.sha256").read_text() == "%s  x.yml\n" % result["sha256"]
        assert stat.S_IMODE((folder / "x.yml.sha256").stat().st_mode) == 0o600
        assert len(list(folder.iterdir())) == 2
    assert not [path for path in kong.scratch if os.path.exists(path)]


GOOD = ROWS[0]


def test_kept_or_replaced(setup):
    kong, params, folder = setup(GOOD)
    first = _dump.export(params, kong.run)
    again = _dump.export(params, kong.run)
    assert kong.exports == 1 and again["changed"] is False
    for key in ("sha256", "counts", "size", "format_version"):
        assert again[key] == first[key]
    assert _dump.export(dict(params, force=True), kong.run)["changed"] and kong.exports == 2
    (folder / "x.yml").write_text("_format_version: '2.1'\n")
    with pytest.raises(DumpError, match="has changed"):
        _dump.export(params, kong.run)
    (folder / "x.yml.sha256").unlink()
    with pytest.raises(DumpError, match="not made by this module"):
        _dump.export(params, kong.run)
    assert _dump.export(dict(params, force=True), kong.run)["sha256"] == first["sha256"]


def test_a_failed_replacement_leaves_the_old_one(setup):
    kong, params, folder = setup(GOOD)
    _dump.export(params, kong.run)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    kong.row["rc"] = 1
    with pytest.raises(DumpError):
        _dump.export(dict(params, force=True), kong.run)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_check_mode_runs_nothing(setup):
    kong, params, folder = setup(GOOD)
    assert _dump.export(params, kong.run, check_mode=True) == {"changed": True, "dest": params["dest"], "warnings": []}
    assert not kong.exports and not list(folder.iterdir())


def test_parse_can_be_left_out(setup):
    kong, params, dummy = setup(dict(GOOD, parse=1), parse=False)
    assert "importable" not in _dump.export(params, kong.run)


def test_a_bad_dest_is_told_before_anything_runs(setup):
    kong, params, folder = setup(GOOD)
    with pytest.raises(DumpError, match="is a folder"):
        _dump.export(dict(params, dest=str(folder)), kong.run)
    assert not kong.exports


def test_a_node_without_a_database(setup, tmp_path):
    kong, params, dummy = setup(GOOD)
    (tmp_path / "off.conf").write_text("database = off\n")
    with pytest.raises(DumpError, match="database = off"):
        _dump.export(dict(params, conf=str(tmp_path / "off.conf")), kong.run)
