#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_config_dump
short_description: Exports Kong's configuration from its database to a file, or imports it
version_added: "0.1.0"
description:
  - Makes a declarative export of a Kong database with C(kong config db_export) (Kong 1.3 and later).
  - The command is not believed by its exit code, which is 0 as well when it could write nothing. The file is looked at,
    its entities are counted, and only then it gets its name, in one step, readable by its owner alone.
  - The command gets a scratch prefix, because it would export the database of whatever node runs in the prefix it is
    given, instead of the one that O(conf) names.
  - An import is proved by the database that O(conf) names, which is looked into before and after, with Kong's own login. Every
    entity of the file must be there by its id.
seealso:
  - module: bluegreen.kong.kong_config_diff
  - module: bluegreen.kong.kong_migrations
author:
  - The bluegreen.kong authors (@bluegreen)
extends_documentation_fragment:
  - bluegreen.kong.attributes
  - bluegreen.kong.cli
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - An export holds credentials, so nothing of it is shown.
options:
  state:
    description:
      - V(exported) makes the file O(dest), unless it is there already.
      - V(imported) writes what the file O(src) holds into the database or keyspace, unless all of it is there. It must have
        been bootstrapped by this very C(kong) command, and must hold nothing but what the file holds and what has a time to live; so an
        import that failed half way can be repeated.
      - V(valid) has the C(kong) command parse O(src). It changes nothing, but Kong wants its database to answer.
      - For V(imported) and V(valid) a copy of the file is repaired for Kong 2.8. C(_transform=false) is added where it
        is missing, so that stored passwords are not hashed again; C(run_on) of plugins is removed, C(whitelist) and C(blacklist) become
        C(allow) and C(deny) (of both names, the old one counts where it has a value, as it does for Kong). Counters of rate limits are left
        out, and so is what has a time to live, because an import would make it last for ever. Of several targets of one name, which Kong up
        to 2.1 keeps, the youngest is imported. O(src) itself stays as it is.
    type: str
    choices: [exported, imported, valid]
    default: exported
  dest:
    description:
      - The file to make, with mode 0600. Its folder is made, with mode 0700, if it does not exist.
      - Beside it a file of the same name with C(.sha256) at its end keeps the checksum, in the format of C(sha256sum).
      - A file that is there and matches its checksum is kept. One that does not, or has none, is an error.
      - Required for O(state=exported).
    type: path
  src:
    description:
      - The export to import or to parse. If it has a checksum beside it, it must match.
      - Required for O(state=imported) and O(state=valid).
    type: path
  source:
    description:
      - V(kong) exports with C(kong config db_export), which came with Kong 1.3.
      - V(database) reads the tables itself, which is the only way before 1.3, and works up to 2.0. The Admin API should be
        left alone meanwhile, since the tables are read one after another.
    type: str
    choices: [kong, database]
    default: kong
  add_basic_auth:
    description:
      - Add to an export of Kong 1.3 to 2.0 the basic-auth credentials, which these versions leave out. They are read from
        the database, with Kong's own login, as hashes; so C(_transform=false) is added as well.
    type: bool
    default: false
  force:
    description:
      - For V(exported), make a new export even if O(dest) is there, and replace it.
      - For V(imported), import also when every entity of the file is there by its id, because what is in one may have changed.
    type: bool
    default: false
  parse:
    description:
      - Have the same C(kong) command parse the export, and warn if it cannot. That takes longer than the export itself, and all of the
        file in its memory. O(state=valid) asks the command of the version that is to import it.
    type: bool
    default: false
notes:
  - An export is no full backup. Exports of Kong 1.3 to 2.0 have no basic-auth credentials unless O(add_basic_auth=true), and
    no version exports counters. Make a dump of the database as well.
  - O(state=imported), O(source=database) and O(add_basic_auth=true) look into the database themselves. On the host that runs the
    module they need psycopg2, psycopg (3) or the C(psql) command for PostgreSQL, and cassandra-driver for Cassandra.
  - The module keeps some entities at a time in its memory, however many there are. The repaired copy for V(imported) and V(valid), as large
    as O(src), and up to 300 bytes for each target are on disk meanwhile, in the folders for temporary files. Kong's own C(db_import) and
    C(parse) take the whole file into their memory.
  - An export must be made with the binary of the version that serves the database. A newer one fails on an older schema.
"""

EXAMPLES = r"""
- name: Keep what the old version has
  bluegreen.kong.kong_config_dump:
    executable: /opt/kong-2.1.4/bin/kong
    conf: /etc/kong/kong.conf
    dest: /var/backups/kong/before-up.yml

- name: Take all of a Kong 2.0 along
  bluegreen.kong.kong_config_dump:
    executable: /opt/kong-2.0.5/bin/kong
    conf: /etc/kong/kong.conf
    dest: /var/backups/kong/whole.yml
    add_basic_auth: true

- name: Into a database that kong migrations bootstrap of 2.8 has made
  bluegreen.kong.kong_config_dump:
    state: imported
    executable: /opt/kong-2.8.5/bin/kong
    conf: /etc/kong/new.conf
    src: /var/backups/kong/whole.yml
"""

RETURN = r"""
dest:
  description: The file.
  returned: when exported
  type: str
src:
  description: The file that was read.
  returned: when imported or valid
  type: str
sha256:
  description: Its checksum.
  returned: when exported, except in check mode when it would be made
  type: str
size:
  description: Its size in bytes.
  returned: when exported, except in check mode when it would be made
  type: int
counts:
  description: The number of entities of each kind in the file; for an import, once it was repaired.
  returned: success, except in check mode when it would be made
  type: dict
  sample: {"services": 3, "routes": 7, "consumers": 120}
format_version:
  description: What the file says of its format.
  returned: when exported, except in check mode when it would be made
  type: str
  sample: "2.1"
transform:
  description: Whether an import would hash secrets, as far as the file says; null if it does not.
  returned: when exported, except in check mode when it would be made
  type: bool
importable:
  description: Whether the same C(kong) command can parse it.
  returned: when it was made by V(kong), and O(parse=true); when valid
  type: bool
repairs:
  description: What had to be changed for Kong 2.8, and how often.
  returned: when imported or valid
  type: dict
  sample: {"_transform: false": 1, "plugins: run_on removed": 7}
database:
  description: The database or keyspace that was looked into before and after.
  returned: when imported
  type: str
  sample: schema public of database kong_new at 10.0.0.5:5432 as kong
before:
  description: The number of rows of each kind before the import.
  returned: when imported, and when an import failed after it had begun
  type: dict
after:
  description: The number of rows of each kind after the import.
  returned: when imported, except in check mode when it would be; when an import failed after it had begun
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _dump, _dump_import
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["exported", "imported", "valid"], "default": "exported"},
            "executable": {"type": "path"},
            "conf": {"type": "path"},
            "prefix": {"type": "path"},
            "dest": {"type": "path"},
            "src": {"type": "path"},
            "source": {"type": "str", "choices": ["kong", "database"], "default": "kong"},
            "add_basic_auth": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "parse": {"type": "bool", "default": False},
        },
        required_if=[("state", "exported", ["dest"]), ("state", "imported", ["src"]), ("state", "valid", ["src"])],
        supports_check_mode=True,
    )
    try:
        if module.params["state"] == "exported":
            result = _dump.export(module.params, module.run_command, module.check_mode)
        elif module.params["state"] == "imported":
            result = _dump_import.load(module.params, module.run_command, module.check_mode)
        else:
            result = _dump_import.valid(module.params, module.run_command)
    except KongError as error:
        module.fail_json(**error.result())
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
