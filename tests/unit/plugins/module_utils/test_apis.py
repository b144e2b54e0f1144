# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from ansible_collections.bluegreen.kong.plugins.module_utils import _apis

SAID = """Upgrading from 0.14.1, bootstrapping database...
migrating api 'plain' ...
migrating api 'plain' done
migrating api 'own' ...
migrating api 'own' skipped (use -f to migrate apis with custom plugins
migrating api 'twice' ...
migrating api 'twice' failed (ERROR: duplicate key value violates unique constraint "services_name_key"
Key (name)=(twice) already exists.)
1/3 migrations succeeded
1/3 migrations skipped
1/3 migrations failed
"""


def reading(*names, services=0, routes=0):
    return {"names": list(names), "counts": {"apis": len(names), "services": services, "routes": routes}}


def test_what_became_of_each_api_comes_from_the_rows_and_why_from_the_words():
    told = _apis.told(reading("own", "plain", "twice"), reading("own", "twice", services=1, routes=1), SAID)
    assert told["before"] == {"apis": 3, "services": 0, "routes": 0}
    assert told["after"] == {"apis": 2, "services": 1, "routes": 1}
    assert told["migrated"] == ["plain"]
    assert told["left"] == [
        {"name": "own", "why": "skipped, for it has custom plugins"},
        {"name": "twice", "why": 'failed: ERROR: duplicate key value violates unique constraint "services_name_key"; '
         "Key (name)=(twice) already exists."},
    ]


def test_words_of_success_do_not_count():
    told = _apis.told(reading("plain"), reading("plain"), "migrating api 'plain' done\n1/1 migrations succeeded\n")
    assert told["migrated"] == [] and told["left"] == [{"name": "plain", "why": "not tried"}]
