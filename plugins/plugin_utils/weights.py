# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Weights of the servers of both colours for a share of the traffic. Pure functions."""

from __future__ import annotations

MAXIMUM = 256  # HAProxy, "set server <backend>/<server> weight": 0 to 256


def for_share(blue: dict[str, int], green: dict[str, int], percent: float) -> dict[str, int]:
    """Weights that give `percent` of a backend's traffic to green.

    blue, green: server name -> base weight (1 to 256), which fixes the proportions inside a colour.
    percent: 0 to 100, of the total traffic of the backend.
    At 0 and at 100 the colour that serves has exactly its base weights. In between, weights are as large as the
    load balancer allows, so that rounding moves no server's share by more than half of 1/256 of the largest.
    Raises ValueError for a percentage out of range or a colour without weight.
    """
    if not 0 <= percent <= 100:
        raise ValueError("a share of the traffic is 0 to 100 percent, not %s" % percent)
    if percent == 0:
        return {**blue, **dict.fromkeys(green, 0)}
    if percent == 100:
        return {**dict.fromkeys(blue, 0), **green}
    shares = {}
    for servers, part in ((blue, 100 - percent), (green, percent)):
        total = sum(servers.values())
        if not total:
            raise ValueError("no server with a weight above 0 among %s" % (", ".join(sorted(servers)) or "(none)"))
        shares.update({name: part * weight / total for name, weight in servers.items()})
    largest = max(shares.values())
    return {name: max(1, round(MAXIMUM * share / largest)) if share else 0 for name, share in shares.items()}


def share_of_green(weights: dict[str, int], green: set[str]) -> float | None:
    """Percentage of the traffic that green's servers get by these weights; None if no server has weight."""
    total = sum(weights.values())
    if not total:
        return None
    return 100.0 * sum(weight for name, weight in weights.items() if name in green) / total


def are_steps(steps) -> bool:
    """Whether these are percentages that a shift can go through: from 1 on, ascending, the last one 100."""
    return bool(steps) and list(steps) == sorted(set(steps)) and steps[0] >= 1 and steps[-1] == 100
