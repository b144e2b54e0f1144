# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pathlib

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.bluegreen.kong.plugins.filter import kong_conf_review as plugin

review = plugin.FilterModule().filters()["kong_conf_review"]


def test_the_sample_of_the_documentation():
    text = pathlib.Path(plugin.__file__).with_suffix(".yml").read_text(encoding="utf-8")
    sample = yaml.safe_load(text)["RETURN"]["_value"]["sample"]
    found = review({"router_consistency": "eventual"}, "2.0.5", "2.8.5")
    assert set(found) == set(sample)
    assert all(entry in found["changed_defaults"] for entry in sample.pop("changed_defaults"))
    assert {key: found[key] for key in sample} == sample


@pytest.mark.parametrize(
    ("settings", "source", "words"),
    [
        ("pg_host = a", "2.0.5", "settings are a dictionary, not str"),
        ({}, "2.0.9", "2.0.9 is not known"),
        ({"pg_host": "a\nb"}, "2.0.5", "pg_host: a value in kong.conf cannot hold a line break"),
    ],
)
def test_bad_input(settings, source, words):
    with pytest.raises(AnsibleFilterError, match="kong_conf_review: .*" + words):
        review(settings, source, "2.8.5")
