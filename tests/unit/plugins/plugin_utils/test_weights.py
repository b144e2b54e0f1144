# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import weights
from hypothesis import given
from hypothesis import strategies as st

BASES = st.dictionaries(st.integers(0, 99).map("s{}".format), st.integers(1, 256), min_size=1, max_size=12)


def colours(blue, green):
    return {"b" + name: weight for name, weight in blue.items()}, {"g" + name: weight for name, weight in green.items()}


@given(BASES, BASES)
def test_ends_restore_base_weights(blue, green):
    blue, green = colours(blue, green)
    assert weights.for_share(blue, green, 0) == {**blue, **dict.fromkeys(green, 0)}
    assert weights.for_share(blue, green, 100) == {**green, **dict.fromkeys(blue, 0)}


@given(BASES, BASES, st.integers(1, 99))
def test_every_server_with_a_share_keeps_a_legal_weight(blue, green, percent):
    result = weights.for_share(*colours(blue, green), percent)
    assert all(1 <= weight <= 256 for weight in result.values())


@given(st.integers(1, 10), st.integers(1, 10), st.integers(5, 95))
def test_share_is_what_was_asked_for(blues, greens, percent):
    blue = {"b%d" % n: 100 for n in range(blues)}
    green = {"g%d" % n: 100 for n in range(greens)}
    share = weights.share_of_green(weights.for_share(blue, green, percent), set(green))
    assert abs(share - percent) < 2


def test_proportions_inside_a_colour_stay():
    result = weights.for_share({"b1": 200, "b2": 100}, {"g1": 100}, 50)
    assert result["b1"] == pytest.approx(2 * result["b2"], abs=1)


@pytest.mark.parametrize("percent", [-1, 101])
def test_percentage_out_of_range(percent):
    with pytest.raises(ValueError, match="0 to 100"):
        weights.for_share({"b": 1}, {"g": 1}, percent)


def test_a_colour_without_weight_cannot_share():
    with pytest.raises(ValueError, match="no server with a weight"):
        weights.for_share({"b": 0}, {"g": 1}, 50)
