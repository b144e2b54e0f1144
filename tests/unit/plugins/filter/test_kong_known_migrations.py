# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.bluegreen.kong.plugins.filter.kong_known_migrations import FilterModule
from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge

known = FilterModule().filters()["kong_known_migrations"]


def test_a_version():
    assert known("2.8.5") == knowledge.migrations_of("2.8.5")


@pytest.mark.parametrize("plugins", ["key-auth, mine", ["key-auth"]])
def test_only_plugins_that_are_on_have_migrations(plugins):
    assert set(known("2.8.5", plugins)) == {"core", "key-auth"}


@pytest.mark.parametrize(
    ("version", "words"), [("0.14.1", "are not known"), ("2.8.1.1", "Kong Enterprise"), (None, "no version")]
)
def test_no_version(version, words):
    with pytest.raises(AnsibleFilterError, match="kong_known_migrations: .*" + words):
        known(version)
