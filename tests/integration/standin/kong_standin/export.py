# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``kong config``: init, parse, db_import, db_export.

The traps of the real one: ``<prefix>/.kong_env`` wins over ``-c``; an export to a place that cannot be written exits 0;
the file is there before the data is read, so a failed export leaves one that blocks the next; exports up to 2.0 have no
basic-auth credentials; an import without ``_transform: false`` hashes passwords, also those that are hashes already.
"""

import json
import os
import re
import sys
import time
import uuid

from . import conf
from . import prefix as prefixes
from .entities import ENTITIES, NotUsable, all_entities
from .migrations import MigrationError
from .pg import Connection, PgError, quote

ORDER = ("ca_certificates", "certificates", "snis", "services", "consumers", "parameters", "routes", "plugins",
         "upstreams", "targets", "acls", "basicauth_credentials", "hmacauth_credentials", "jwt_secrets",
         "keyauth_credentials", "oauth2_credentials", "sessions", "acme_storage", "ratelimiting_metrics", "vaults_beta")
# what the real one happens to read first; it decides the error on a database of another version
FIRST = {(2, 0): ("sessions", "acme_storage"), (2, 1): ("ratelimiting_metrics",)}
NESTED = {"services": {"routes": "service", "plugins": "service"}, "routes": {"plugins": "route"},
          "consumers": {"plugins": "consumer", "acls": "consumer", "basicauth_credentials": "consumer",
                        "hmacauth_credentials": "consumer", "jwt_secrets": "consumer",
                        "keyauth_credentials": "consumer", "oauth2_credentials": "consumer"},
          "upstreams": {"targets": "upstream"}, "certificates": {"snis": "certificate"}}
PLAIN = re.compile(r"^[A-Za-z_/.][A-Za-z0-9_./@+-]*( [A-Za-z0-9_./@+-]+)*$")
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ".", ".inf", ".nan", "-.inf"}
NAMESPACE = uuid.UUID("7c0d7ab4-0bd0-4a0b-8a2a-2b3e0a1b6a11")
SAMPLE = """# A file for 'kong config db_import', written by the stand-in.
# _format_version: "%s"
# services:
# - name: example
#   url: http://127.0.0.1:8080/
#   routes:
#   - paths: [/example]
"""


class ExportError(Exception):
    """Exit code 1, the text follows ``Error: ``."""


def run(command, subcommand, file):
    version = command.version
    if subcommand == "init":
        return init(version, file)
    default = command.load(command.options["conf"])
    env = prefixes.env_path(default.prefix)
    settings = conf.load(version, env, default.prefix) if os.path.exists(env) else default
    if settings.get("database") == "off" and subcommand != "parse":
        raise ExportError("'kong config %s' only works with a database.\nWhen using database=off, reload your "
                          "declarative configuration\nusing the /config endpoint." % subcommand)
    connection = connect(version, settings)
    for name in settings.missing_plugins():
        raise ExportError("no configuration schema found for plugin: %s" % name)
    if subcommand == "db_export":
        return db_export(version, settings, connection, file)
    if file is None:
        raise ExportError("expected a declarative configuration file; see `kong config --help`")
    document, failure = read_document(version, file), None
    if isinstance(document, str):
        failure = document
    else:
        rows, errors = flatten(version, settings, document)
        if errors:
            failure = render_errors(errors)
    if failure:
        raise ExportError("Failed parsing:\n" + failure)
    if subcommand == "parse":
        command.say("parse successful")
        return 0
    command.say("parse successful, beginning import")
    try:
        db_import(version, settings, connection, rows, document.get("_transform", True) is not False)
    except PgError as error:
        raise ExportError("Failed importing:\n[postgres] %s" % error)
    command.say("import successful")
    return 0


def connect(version, settings):
    if settings.get("database") != "postgres":
        raise ExportError("the stand-in has no %s" % settings.get("database"))
    try:
        return Connection(settings.database(), None, version.scram)
    except PgError as error:
        text = str(error)
        if text.startswith(("don't know", "module ")):
            raise MigrationError(text)
        raise MigrationError("[PostgreSQL error] failed to retrieve PostgreSQL server_version_num: " + text)


def absolute(version, file):
    return os.path.abspath(file) if version.has("absolute_paths") else file


def init(version, file):
    if not version.has("config_file_argument"):
        if os.path.exists("kong.yml"):
            raise ExportError("kong.yml already exists in the current directory.\nWill not overwrite it.")
        path = "kong.yml"
    else:
        path = os.path.abspath(file or "kong.yml")
        if os.path.exists(path):
            raise ExportError("%s already exists.\nWill not overwrite it." % path)
    with open(path, "w", encoding="utf-8") as handle:
        handle.write(SAMPLE % ("2.1" if version.has("export_transform") else "1.1"))
    return 0


# export

def scalar(value):
    if value is None:
        return "~"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if PLAIN.match(value) and value.lower() not in WORDS or re.match(r"^[0-9a-f]{8}-[0-9a-f-]{27}$", value):
        return value
    if value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value)


def emit(value, indent, out):
    """Lines of a map or list below a key."""
    pad = "  " * indent
    if isinstance(value, dict):
        for key, item in value.items():
            emit_pair(pad, scalar(str(key)), item, indent, out)
    else:
        for item in value:
            if isinstance(item, (dict, list)) and item:
                inner = []
                emit(item, indent + 1, inner)
                inner[0] = pad + "- " + inner[0].lstrip(" ")
                out.extend(inner)
            else:
                out.append("%s- %s" % (pad, empty(item)))


def empty(item):
    return "{}" if item == {} else "[]" if item == [] else scalar(item)


def emit_pair(pad, key, item, indent, out):
    if isinstance(item, dict) and item:
        out.append("%s%s:" % (pad, key))
        emit(item, indent + 1, out)
    elif isinstance(item, list) and item:
        out.append("%s%s:" % (pad, key))
        emit(item, indent, out)
    else:
        out.append("%s%s: %s" % (pad, key, empty(item)))


def exported_row(version, entity, row):
    out = entity.entity(row)
    for spec in entity.fields:
        name = spec["name"]
        if spec["kind"] in ENTITIES and out.get(name):
            out[name] = out[name]["id"]
    if version.number < (2, 0):
        out = {key: value for key, value in out.items() if value is not None}
    return out


def db_export(version, settings, connection, file):
    path = absolute(version, file or "kong.yml")
    if os.path.exists(path):
        raise ExportError("%s already exists. Will not overwrite it." % path)
    try:
        handle = open(path, "w", encoding="utf-8")
    except OSError:
        return 0  # as the real one: no word, no file
    entities = all_entities(version, settings.plugins())
    first = FIRST.get(version.number[:2], ())
    names = [n for n in first if n in entities] + [n for n in ORDER if n in entities and n not in first]
    if not version.has("export_basicauth"):
        names = [name for name in names if name != "basicauth_credentials"]
    sections = {}
    with handle:
        handle.write("_format_version: '%s'\n" % ("2.1" if version.has("export_transform") else "1.1"))
        if version.has("export_transform"):
            handle.write("_transform: false\n")
        try:
            workspace = None
            for name in names:
                entity = entities[name]
                if entity.in_workspace and workspace is None:
                    workspace = connection.query("SELECT id FROM workspaces WHERE name = 'default'")[0]["id"]
                sections[name] = [exported_row(version, entity, row)
                                  for row in connection.query(entity.select(workspace))]
        except PgError as error:
            if version.number < (2, 0):
                raise ExportError("attempt to index local 'row' (a boolean value)")
            if version.has("workspaces"):
                sys.stderr.write("%s [error] %d#0: *2 [kong] init.lua:443 [postgres] %s, context: ngx.timer\n" % (
                    time.strftime("%Y/%m/%d %H:%M:%S"), os.getpid(), error))
            raise ExportError("[postgres] %s" % error)
        for name in ORDER:
            if sections.get(name):
                lines = []
                emit({name: sections[name]}, 0, lines)
                handle.write("\n".join(lines) + "\n")
    return 0


# import

def load_yaml(text):
    """The document, or words for what is wrong with it."""
    try:
        import yaml
    except ImportError:
        here = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
        sys.path.append(os.path.join(here, "lib", "python%d.%d" % sys.version_info[:2], "site-packages"))
        try:
            import yaml
        except ImportError:
            return json.loads(text)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        return "%d:%d: %s" % (mark.line + 1, mark.column + 1, error.problem)


def read_document(version, file):
    """The parsed file, or words for what is wrong with it."""
    path = absolute(version, file)
    try:
        with open(path, encoding="utf-8") as handle:
            text = handle.read()
    except OSError as error:
        return "%s: %s" % (path, error.strerror)
    what = "failed parsing declarative configuration" + ("" if version.number >= (2, 5) else " file %s" % path)
    document = load_yaml(text)
    if isinstance(document, dict):
        return document
    if isinstance(document, str):
        return "%s: %s" % (what, document)
    return what + (": expected an object" if version.number >= (2, 5) else "")


def render_errors(errors, indent=0):
    pad = "  " * indent
    out = []
    for name, value in errors.items():
        if isinstance(name, int):
            out.append("%s- in entry %d of '%s':" % (pad, name, value[0]))
            out.append(render_errors(value[1], indent + 1))
        elif isinstance(value, dict):
            out.append("%sin '%s':" % (pad, name))
            out.append(render_errors(value, indent + 1))
        else:
            out.append("%sin '%s': %s" % (pad, name, value))
    return "\n".join(out)


def flatten(version, settings, document):
    """(rows per entity with ids and references filled in, errors)."""
    entities = all_entities(version, settings.plugins())
    rows = {name: [] for name in ORDER if name in entities}
    errors = {}
    formats = ("1.1", "2.1") if version.has("export_transform") else ("1.1",)
    given = document.get("_format_version")
    if given is None:
        errors["_format_version"] = "required field missing"
    elif str(given) not in formats:
        errors["_format_version"] = "expected one of: " + ", ".join(formats)
    for name, items in document.items():
        if name in ("_format_version", "_transform", "_comment", "_ignore"):
            if name == "_transform" and not version.has("export_transform"):
                errors[name] = "unknown field"
            continue
        if name not in rows:
            errors[name] = "unknown field"
            continue
        wrong = {}
        for number, item in enumerate(items or (), 1):
            problem = take(entities, settings, rows, name, item, {})
            if problem:
                wrong[number] = (name, problem)
        if wrong:
            errors[name] = wrong
    if not errors:
        resolve(entities, rows)
    return rows, errors


def take(entities, settings, rows, name, item, parent):
    """Add one item and what is nested in it; returns errors."""
    if not isinstance(item, dict):
        return {"@entity": "expected a record"}
    entity = entities[name]
    item = dict(item)
    nested = {k: item.pop(k) for k in list(item) if k in NESTED.get(name, ()) and isinstance(item[k], list)}
    if name == "services":
        from .admin import service_url

        service_url(item)
    errors = {}
    try:
        values = entity.accept(item)
    except NotUsable as error:
        errors.update(error.fields)
        values = {}
    if name == "plugins" and item.get("name") not in settings.plugins():
        errors["name"] = ("plugin '%s' not enabled; add it to the 'plugins' configuration property"
                          % item.get("name"))
    if errors:
        return errors
    values.update(parent)
    label = values.get(entity.unique) if entity.unique else None
    if label is None:
        label = json.dumps([values.get(k) for k in ("name", "service", "route", "consumer", "upstream", "target",
                                                    "group", "key", "username")], sort_keys=True)
    if entity.key == "id":
        values.setdefault("id", str(uuid.uuid5(NAMESPACE, name + ":" + str(label))))
    rows[name].append(values)
    for inner, items in nested.items():
        wrong = {}
        for number, below in enumerate(items, 1):
            problem = take(entities, settings, rows, inner, below, {NESTED[name][inner]: {"id": values["id"]}})
            if problem:
                wrong[number] = (inner, problem)
        if wrong:
            errors[inner] = wrong
    return errors


def resolve(entities, rows):
    """References by name become references by id."""
    names = {}
    for name, items in rows.items():
        unique = entities[name].unique
        for values in items:
            if unique and values.get(unique):
                names[name, values[unique]] = values["id"] if "id" in values else values[unique]
    for name, items in rows.items():
        for spec in entities[name].fields:
            if spec["kind"] in ENTITIES:
                for values in items:
                    reference = values.get(spec["name"])
                    if reference and (spec["kind"], reference["id"]) in names:
                        reference["id"] = names[spec["kind"], reference["id"]]


def db_import(version, settings, connection, rows, transform):
    entities = all_entities(version, settings.plugins())
    workspace = None
    if version.has("workspaces"):
        workspace = connection.query("SELECT id FROM workspaces WHERE name = %s" % quote("default"))[0]["id"]
    for name in ORDER:
        entity = entities.get(name)
        for values in rows.get(name, ()):
            stored = values.get("password")
            values = entity.complete(values)
            if not transform and stored is not None:
                values["password"] = stored
            connection.query(entity.insert(values, workspace, upsert=True))
