# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kong_config_dump on a real PostgreSQL: exports, and imports into a new database.

With BLUE_KONG and GREEN_KONG in the environment it runs those kong commands (2.0 and 2.8), else the stand-in.
"""

import os
import subprocess

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _dump, _dump_import
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import DumpError
from migrating import run_command, scratch_folders

pytestmark = pytest.mark.usefixtures("tidy")


def dump(at, kong, dest, **params):
    params = {"executable": kong, "conf": at.conf, "dest": str(dest), "force": False, "parse": True, **params}
    return _dump.export(params, run_command, params.pop("check_mode", False))


def test_dump(at, tmp_path):
    with at.session() as session:
        session.execute("insert into consumers (id, username) values ('2fa1c1ac-1f5b-4b0a-9a4f-3cf3f2c0b001', 'alice')")
    dest = tmp_path / "backup" / "export.yml"
    before = scratch_folders()
    assert dump(at, at.cluster.old, dest, check_mode=True)["changed"] and not dest.parent.exists()
    made = dump(at, at.cluster.old, dest)
    assert made["changed"] and made["counts"]["consumers"] == 1 and made["importable"]
    assert (dest.stat().st_mode & 0o777, dest.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    check = subprocess.run(["sha256sum", "-c", "export.yml.sha256"], cwd=dest.parent, capture_output=True, check=False)
    assert check.returncode == 0
    again = dump(at, at.cluster.old, dest)
    assert (again["changed"], again["sha256"], again["counts"]) == (False, made["sha256"], made["counts"])
    assert dump(at, at.cluster.old, dest, force=True)["changed"]
    with open(dest, "a", encoding="utf-8") as stream:
        stream.write("# touched\n")
    with pytest.raises(DumpError, match="has changed"):
        dump(at, at.cluster.old, dest)
    assert sorted(path.name for path in dest.parent.iterdir()) == ["export.yml", "export.yml.sha256"]
    assert scratch_folders() == before


def test_dump_with_the_wrong_binary_makes_no_file(at, tmp_path):
    with pytest.raises(DumpError, match="the binary of the version that serves it"):
        dump(at, at.cluster.new, tmp_path / "export.yml")
    assert not list(tmp_path.iterdir())


def seed_dump(at, consumers=1):
    """Consumers with basic-auth credentials, and a plugin with a field that 2.1 renamed."""
    with at.session() as session:
        session.execute(
            "insert into consumers (id, created_at, username) select md5('c' || n)::uuid, now(), 'user-' || n"
            " from generate_series(1, %s) n", [consumers])
        session.execute(
            "insert into basicauth_credentials (id, created_at, consumer_id, username, password)"
            " select md5('b' || n)::uuid, now(), md5('c' || n)::uuid, 'user-' || n, md5('hash' || n) from generate_series(1, %s) n",
            [consumers])
        session.execute(
            "insert into plugins (id, created_at, name, config, enabled, cache_key, protocols) values (md5('p')::uuid, now(), 'acl',"
            """ '{"whitelist": ["admins"], "blacklist": null, "hide_groups_header": false}', true, 'plugins:acl:::::', '{http,https}')""")


def credentials(at):
    with at.session() as session:
        return session.execute("select id, consumer_id, username, password from basicauth_credentials order by id").fetchall()


def dumped(at, tmp_path, **params):
    return dump(at, at.cluster.old, tmp_path / "d.yml", force=True, parse=False, **params)


def into(at, result, check_mode=False):
    return _dump_import.load({"src": result["dest"], "conf": at.conf, "executable": at.cluster.new}, run_command, check_mode)


@pytest.fixture
def fresh_new(cluster):
    """A database that the newer version has bootstrapped."""
    at = cluster.fresh(template="template0")
    at.migrate("bootstrapped")
    return at


@pytest.mark.parametrize("params", [{"add_basic_auth": True}, {"source": "database"}], ids=["kong", "database"])
def test_a_dump_into_a_new_database(at, fresh_new, tmp_path, driver, params):
    seed_dump(at, 1500)  # more than a page
    made = dumped(at, tmp_path, **params)
    assert made["transform"] is False and made["counts"] == {"consumers": 1500, "basicauth_credentials": 1500, "plugins": 1}
    assert into(fresh_new, made, check_mode=True)["changed"] and credentials(fresh_new) == []
    done = into(fresh_new, made)
    assert done["changed"] and f"database {fresh_new.name} at" in done["database"]
    assert {done["before"][name] for name in made["counts"]} == {0}
    assert {name: done["after"][name] for name in made["counts"]} == made["counts"]
    assert credentials(fresh_new) == credentials(at), "the same ids, and hashes that were not hashed again"
    with fresh_new.session() as session:
        config = session.execute("select config from plugins").fetchone()[0]
    assert config["allow"] == ["admins"] and "whitelist" not in config
    assert into(fresh_new, made)["changed"] is False


def test_an_import_that_failed_is_repeated(at, fresh_new, tmp_path):
    seed_dump(at, 3)
    made = dumped(at, tmp_path, add_basic_auth=True)
    with fresh_new.session() as session:
        session.execute(
            "create function no() returns trigger language plpgsql as $$ begin raise exception 'no more'; end $$;"
            "create trigger no before insert on basicauth_credentials for each row execute function no()")
    with pytest.raises(DumpError, match="import the file again") as caught:
        into(fresh_new, made)
    assert caught.value.details["after"]["consumers"] == 3 and caught.value.details["after"]["basicauth_credentials"] == 0
    with fresh_new.session() as session:
        session.execute("drop trigger no on basicauth_credentials")
    assert into(fresh_new, made)["after"]["basicauth_credentials"] == 3
    assert credentials(fresh_new) == credentials(at)


def test_an_import_that_loses_something_is_no_success(at, fresh_new, tmp_path):
    seed_dump(at, 2)
    made = dumped(at, tmp_path, add_basic_auth=True)
    with fresh_new.session() as session:
        session.execute(
            "create function lose() returns trigger language plpgsql as $$ begin return null; end $$;"
            "create trigger lose before insert on basicauth_credentials for each row execute function lose()")
    # a command may see for itself that a row did not arrive; the stand-in does not
    words = "ended with 1: Failed importing" if os.environ.get("GREEN_KONG") else "0 of 2 basicauth_credentials"
    with pytest.raises(DumpError, match=words):
        into(fresh_new, made)


def test_where_a_dump_must_not_go(at, fresh_new, tmp_path):
    seed_dump(at)
    made = dumped(at, tmp_path, add_basic_auth=True)
    with pytest.raises(DumpError, match="migrations list ended with 5"):
        into(at, made)
    with fresh_new.session() as session:
        session.execute(
            "insert into consumers (id, created_at, username, ws_id) select md5('x')::uuid, now(), 'stranger', id from workspaces")
    with pytest.raises(DumpError, match="does not hold: 1 consumers"):
        into(fresh_new, made)
    assert credentials(fresh_new) == []
