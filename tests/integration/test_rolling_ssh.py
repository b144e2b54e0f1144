# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strategy rolling on machines: Kong is a package from an apt repository and a unit of systemd, reached by SSH. On the stand-in."""

import pytest
from bed import machines
from bed.hosts import ADMIN
from bed.lab import Lab
from scenes import Scene

pytestmark = [pytest.mark.root, pytest.mark.skipif(machines.why_not() is not None, reason=str(machines.why_not()))]


class LabScene(Scene, Lab):
    """A scene whose hosts are machines."""


def rolling(data):
    """The inventory without green: its hosts are there for nothing."""
    data["all"]["children"].pop("kong_green")
    data["all"]["vars"].update(kong_upgrade_strategy="rolling", kong_upgrade_install="package", kong_upgrade_unit="kong")


def package_of(host):
    """Version and state of the package kong, as dpkg has it."""
    return host.machine.run(["dpkg-query", "-W", "-f", "${Version} ${Status}", "kong"]).stdout


def active(host):
    """Whether systemd has the unit running."""
    return host.machine.run(["systemctl", "is-active", "kong"], check=False).stdout.strip()


def test_packages_are_upgraded_and_put_back_where_they_fail():
    with LabScene(nodes=(3, 1), batches=2, lbs=1, offered=True, broken=["blue3"]) as lab:
        inventory = lab.inventory_with("rolling", edit=rolling)
        group_vars = inventory.with_name("group_vars")
        group_vars.joinpath("kong_green.yml").rename(group_vars / "kong_blue.yml")
        old, new = "2.1.4", "2.8.5"
        elsewhere = lab.refused("upgrade.yml", inventory=inventory, kong_upgrade_target_version="2.8.4")
        (blocker,) = elsewhere.report["blockers"]
        assert (blocker["where"], blocker["what"]) == (
            "blue1, blue2, blue3", f"the package manager has no package kong 2.8.4, but {new}, {old}"), elsewhere.tail
        files = {"kong_upgrade_package": f"/srv/kong-{new}.deb", "kong_upgrade_old_package": f"/srv/kong-{old}.deb"}
        nowhere = lab.refused("upgrade.yml", inventory=inventory, **files)
        assert [(row["where"], row["what"].partition(",")[0]) for row in nowhere.report["blockers"]] == [
            ("blue1, blue2, blue3", f"{name} is {path}") for name, path in files.items()], nowhere.tail
        with lab.traffic():
            outcome = lab.refused("upgrade.yml", inventory=inventory)
            assert f"Kong {old} is back and serves on blue3" in outcome.words, outcome.tail
            assert [package_of(host) for host in lab.blue] == [f"{v} install ok installed" for v in (new, new, old)]
            assert [active(host) for host in lab.blue] == ["active"] * 3
            lab.blue[2].machine.run(["rm", "/srv/full"])  # the administrator mends it
            outcome = lab.done("upgrade.yml", inventory=inventory, kong_upgrade_until="finish")
        assert [package_of(host) for host in lab.blue] == [f"{new} install ok installed"] * 3
        assert [active(host) for host in lab.blue] == ["active"] * 3
        assert all(host.listens(ADMIN) for host in lab.blue)
        again = lab.done("upgrade.yml", inventory=inventory, kong_upgrade_until="finish")
        assert not any(again.changed.values()), again.tail
