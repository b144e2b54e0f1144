# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an old database has and a new one has not, or has otherwise: entity by entity, field by field.

Both are read by a connection of our own, so what an export left out, an import lost, or somebody wrote after the export shows. A value
is never told, since it may be a secret; the entity is, by id and name.
"""

from ansible_collections.bluegreen.kong.plugins.module_utils import _dump_database, _dump_repair

BATCH = 500
# Written by the data plane while it serves: copied by kong_runtime_data, not by an export.
RUNTIME = ("oauth2_authorization_codes", "oauth2_tokens", "sessions", "acme_storage")
# Kong's own notes from 2.1 on.
NOTES = _dump_database.PASSING | frozenset(["clustering_data_planes", "parameters", "schema_migrations", "workspaces"])
# Kong sets these when it writes, so they are not as they were. An older version may have left them out where 2.8 has a default; Kong
# lets nobody take one away again.
FILLED_IN = {
    "services": ("connect_timeout", "enabled", "port", "protocol", "read_timeout", "retries", "updated_at", "write_timeout"),
    "routes": (
        "https_redirect_status_code", "path_handling", "preserve_host", "protocols", "regex_priority", "request_buffering",
        "response_buffering", "strip_path", "updated_at",
    ),
    "upstreams": ("algorithm", "hash_fallback", "hash_on", "hash_on_cookie_path", "healthchecks", "slots"),
    "targets": ("weight",),
    "plugins": ("enabled", "protocols"),
    "jwt_secrets": ("algorithm",),
    "oauth2_credentials": ("client_type", "hash_secret"),
    "ca_certificates": ("cert_digest",),
    "vaults_beta": ("updated_at",),
}  # fmt: skip
# What an entity may be called by; all else may be a secret.
NAMES = {
    "services": "name", "routes": "name", "consumers": "username", "plugins": "name", "upstreams": "name", "targets": "target",
    "snis": "name",
}  # fmt: skip


def compare(old, new, limit):
    """Compares two databases.

    :param old, new: _entities.Entities.
    :param limit: int, how many differences are told one by one.
    :returns: dict: counts (entity -> dict old, new), differences (list of dict entity, id, name, what, fields), number (of them all),
        not_compared (list of str: tables of others that hold something).
    """
    found = {"counts": {}, "differences": [], "number": 0, "not_compared": []}  # type: dict

    def tell(table, entity, what, fields=()):
        found["number"] += 1
        if len(found["differences"]) < limit:
            name = entity.get(NAMES.get(table))
            found["differences"].append({"entity": table, "id": entity["id"], "name": name, "what": what, "fields": list(fields)})

    there = new.tables()
    for table in sorted(set(old.tables()) - NOTES - frozenset(RUNTIME)):
        if not old.identified(table):
            if old.holds(table):
                found["not_compared"].append(table)
            continue
        seen = shared = 0
        older = _older(old) if table == "targets" else ()
        for batch in _batches(entity for entity in old.every(table) if entity.get("ttl") is None and entity["id"] not in older):
            others = new.some(table, [entity["id"] for entity in batch]) if table in there else {}
            seen, shared = seen + len(batch), shared + len(others)
            for entity in batch:
                other = others.get(entity["id"])
                fields = [] if other is None else differing(table, entity, other)
                if other is None:
                    tell(table, entity, "missing")
                elif fields:
                    tell(table, entity, "different", fields)
        count = new.count(table) if table in there else 0
        if seen or count:
            found["counts"][table] = {"old": seen, "new": count}
        if count > shared:
            for batch in _batches(entity for entity in new.every(table) if entity.get("ttl") is None):
                known = old.some(table, [entity["id"] for entity in batch])
                for entity in batch:
                    if entity["id"] not in known:
                        tell(table, entity, "extra")
    return found


def _older(old):
    return _dump_repair.Superseded(
        (entity["id"], entity["upstream"], entity["target"], entity["created_at"] or 0) for entity in old.every("targets")
    )


def told(result):
    """The differences that compare() found, one sentence each (list of str), and how many more there are."""
    lines = []
    for each in result["differences"]:
        name = "%s %s" % (each["entity"], "%s (%s)" % (each["name"], each["id"]) if each["name"] else each["id"])
        lines.append("%s is %s%s" % (name, each["what"], " in " + ", ".join(each["fields"]) if each["fields"] else ""))
    more = result["number"] - len(lines)
    return lines + (["%d more" % more] if more else [])


def differing(table, old, new):
    """Names of the fields in which the new entity is not what the old one means in 2.8."""
    gone = _dump_repair.REMOVED.get(table, {})
    renamed = _dump_repair.RENAMED.get(old.get("name"), {}) if table == "plugins" else {}
    fields = []
    for name, value in old.items():
        if name in gone or name == "ttl" or (name == "updated_at" and name in FILLED_IN.get(table, ())):
            continue
        if name == "config" and value:
            # of both names, the old one counts where it has a value, as in an import
            said = dict((renamed[key], each) for key, each in value.items() if key in renamed and each is not None)
            value = dict(((renamed.get(key, key), each) for key, each in value.items()), **said)
        if value is None and name in FILLED_IN.get(table, ()):
            continue
        if not covers(value, new.get(name), name != "config"):
            fields.append(name)
    return fields


def covers(old, new, strict=False):
    """Whether a new value says what the old one did; in records there may be fields that the old version did not have.

    strict: whether nothing has to stay nothing. In a record it may have become the default of 2.8: exports before 2.0 have no nulls.
    """
    if old is None:
        return new is None or not strict
    if isinstance(old, dict) and isinstance(new, dict):
        return all(covers(value, new.get(key)) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(covers(one, other) for one, other in zip(old, new))
    if old in ([], {}) and new is None:
        return True  # Cassandra has no empty set
    return old == new


def _batches(entities):
    batch = []
    for entity in entities:
        batch.append(entity)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
