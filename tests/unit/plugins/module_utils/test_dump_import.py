# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of Kong's reasons to refuse a file; the import itself is tried on a database."""

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _dump_import, _errors


@pytest.mark.parametrize("text, said, words", [
    ("Error: Failed parsing:\nin 'plugins':\n  - in entry 1 of 'plugins':\n    in 'run_on': unknown field\n", "Failed parsing:",
     "in 'plugins': - in entry 1 of 'plugins': in 'run_on': unknown field"),
    ("in 'password': invalid value: hunter2\n", "Failed parsing:", "in 'password': (what is wrong quotes values: not shown)"),
    ("in 'key': hunter2 is an unknown field\n", "Failed parsing:", "in 'key': (what is wrong quotes values: not shown)"),
    ("Error: Failed importing:\nUNIQUE violation on '{key=\"hunter2\"}'\n", "Failed importing:",
     "Failed importing: what follows can hold secrets, and is not shown"),
    ("", "", "nothing was said"),
])
def test_reason(text, said, words):
    assert _dump_import.reason(text, said) == words


class Holding:
    """A database with these ids in each table."""

    place = "here"

    def __init__(self, **tables):
        self.has = tables

    def tables(self, names):
        return [name for name in names if name in self.has]

    def count(self, table):
        return len(self.has[table])

    def present(self, table, identities):
        return len(set(self.has[table]) & set(identities))


ID = "2fa1c1ac-1f5b-4b0a-9a4f-3cf3f2c0b00%d"


def test_what_a_file_and_a_database_have_in_common(tmp_path):
    file = tmp_path / "d.yml"
    file.write_text(
        "_format_version: '2.1'\nconsumers:\n- id: %s\n  username: a\n- id: %s\n  username: b\n"
        "parameters:\n- created_at: 1\n  key: cluster_id\n  value: x\n" % (ID % 1, ID % 2)
    )
    found = _dump_import.compare(Holding(consumers=[ID % 1, ID % 3], plugins=[]), str(file))
    assert found == {"consumers": {"file": 2, "rows": 2, "shared": 1}, "plugins": {"file": 0, "rows": 0, "shared": 0}}


def test_an_entity_without_id_is_no_export_of_kongs(tmp_path):
    file = tmp_path / "d.yml"
    file.write_text("_format_version: '2.1'\nconsumers:\n- username: a\n")
    with pytest.raises(_errors.DumpError, match="One of the consumers in the file has no id"):
        _dump_import.compare(Holding(consumers=[]), str(file))


@pytest.mark.parametrize("text, words", [
    ("_format_version: '1.1'\nconsumers:\n- id: x\n  user",
     r"d.yml is no whole export of Kong's. The file ends in the middle of line 4. Export it again"),
    ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", r"d.yml is encrypted by ansible-vault: name a decrypted copy"),
])
def test_a_file_that_is_not_whole_is_named(tmp_path, text, words):
    file = tmp_path / "d.yml"
    file.write_text(text)
    with pytest.raises(_errors.DumpError, match=words):
        _dump_import._check(str(file))
