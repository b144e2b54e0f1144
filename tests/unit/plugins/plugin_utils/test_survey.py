# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import survey


@pytest.mark.parametrize(
    "variables, found",
    [
        ({"a": {"kong_upgrade_soak": 3}, "b": {"kong_upgrade_soak": 3}}, {}),
        ({"a": {}, "b": {"kong_upgrade_until": "finish"}}, {"kong_upgrade_until": ["b"]}),
        ({"a": {"kong_upgrade_soak": 3}, "b": {"kong_upgrade_soak": 4}, "c": {}}, {"kong_upgrade_soak": ["b", "c"]}),
        ({"a": {}, "b": {"kong_upgrade_install": "package", "other": 1}}, {}),
    ],
)
def test_what_speaks_of_the_whole_run_is_the_same_everywhere(variables, found):
    assert survey.uneven(variables) == found


def test_variables_of_a_host_are_variables():
    assert set(survey.option_specs()) >= survey.OF_A_HOST


def test_a_mistyped_variable_is_told_with_the_one_that_was_meant():
    (problem,) = survey.invalid_variables({"kong_upgrade_sock": 3, "other": 1})
    assert problem == "kong_upgrade_sock: no such variable; did you mean kong_upgrade_soak?"
    assert survey.invalid_variables({"kong_upgrade_qwertz": 3}) == ["kong_upgrade_qwertz: no such variable"]
