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
from .datastore import KINDS, DatastoreError, rows
from .entities import ENTITIES, NotUsable, all_entities
from .migrations import MigrationError

ORDER = ("ca_certificates", "certificates", "snis", "services", "consumers", "parameters", "routes", "plugins",
         "upstreams", "targets", "acls", "basicauth_credentials", "hmacauth_credentials", "jwt_secrets",
         "keyauth_credentials", "oauth2_credentials", "sessions", "acme_storage", "ratelimiting_metrics", "vaults_beta")
# Plugins whose lists 2.1 has renamed.
LISTED, RENAMED = ("acl", "bot-detection", "ip-restriction"), {"whitelist": "allow", "blacklist": "deny"}
# Of a row that is imported, the real one looks for what is there first.
UNREADABLE = re.compile("unconfigured table|Undefined column")
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
    settings = of_a_node(version, env, default.prefix) if os.path.exists(env) else default
    if settings.get("database") == "off" and subcommand != "parse":
        raise ExportError("'kong config %s' only works with a database.\nWhen using database=off, reload your "
                          "declarative configuration\nusing the /config endpoint." % subcommand)
    store = rows(version, settings) if settings.get("database") != "off" else None
    connection = connect(store, settings) if store else None
    for name in settings.missing_plugins():
        raise ExportError("no configuration schema found for plugin: %s" % name)
    if subcommand == "db_export":
        return db_export(version, store, connection, file)
    if file is None:
        raise ExportError("expected a declarative configuration file; see `kong config --help`")
    try:
        found, transform = parse(version, settings, file)
    except ExportError as error:
        raise ExportError("Failed parsing:\n%s" % error)
    if subcommand == "parse":
        command.say("parse successful")
        return 0
    command.say("parse successful, beginning import")
    try:
        db_import(version, store, connection, found, transform)
    except DatastoreError as error:
        words = store.words_of_select if UNREADABLE.search(str(error)) else store.words_of_update
        raise ExportError("Failed importing:\n%s%s%s" % (store.prefix, words, error))
    command.say("import successful")
    return 0


def of_a_node(version, env, prefix):
    """The settings in a ``.kong_env``. From 2.1 on one of 1.x is refused: what it calls client_max_body_size has another name."""
    given = conf.read(env)
    if version.number >= (2, 1) and "client_max_body_size" in given and "nginx_http_client_max_body_size" not in given:
        raise ExportError("nginx_http_client_max_body_size is not a string: '%s'" % given["client_max_body_size"])
    return conf.load(version, env, prefix)


def parse(version, settings, file):
    """(rows per entity as flatten() has them, whether passwords are to be hashed). Raises ExportError."""
    document = read_document(version, file)
    if isinstance(document, str):
        raise ExportError(document)
    found, errors = flatten(version, settings, document)
    if errors:
        raise ExportError(render_errors(errors))
    return found, document.get("_transform", True) is not False


def declared(version, settings):
    """{entity: [as the Admin API shows it]} of the declarative configuration of a node without a database; raises ExportError."""
    entities = all_entities(version, settings.plugins())
    file = settings.get("declarative_config")
    if not file:
        return {name: [] for name in entities}
    try:
        found, transform = parse(version, settings, file)
    except ExportError as error:
        raise ExportError("error parsing declarative config file %s:\n%s" % (file, error))
    return {name: [entity.shown(completed(entity, values, transform)) for values in found.get(name, ())]
            for name, entity in entities.items()}


def with_new_names(plugin, config):
    """Lists by their names of 2.1; of both names, the old one counts where it has a value."""
    if plugin not in LISTED:
        return config
    said = {new: config[old] for old, new in RENAMED.items() if config.get(old) is not None}
    return {**{key: value for key, value in config.items() if key not in RENAMED}, **said}


def completed(entity, values, transform):
    """An entity with its defaults; without ``transform`` a password is a hash already."""
    out = entity.complete(values)
    if entity.name == "plugins" and entity.version.has("allow_deny") and out.get("config"):
        out["config"] = with_new_names(out["name"], out["config"])
    if not transform and values.get("password") is not None:
        out["password"] = values["password"]
    return out


def connect(store, settings):
    if settings.get("database") not in KINDS:
        raise ExportError("the stand-in has no %s" % settings.get("database"))
    try:
        return store.blocking()
    except DatastoreError as error:
        raise MigrationError(str(error))


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


def db_export(version, store, connection, file):
    path = absolute(version, file or "kong.yml")
    if os.path.exists(path):
        raise ExportError("%s already exists. Will not overwrite it." % path)
    try:
        handle = open(path, "w", encoding="utf-8")
    except OSError:
        return 0  # as the real one: no word, no file
    entities = store.entities
    first = FIRST.get(version.number[:2], ())
    names = [n for n in first if n in entities] + [n for n in ORDER if n in entities and n not in first]
    if not version.has("export_basicauth"):
        names = [name for name in names if name != "basicauth_credentials"]
    if not version.has("export_counters"):
        names = [name for name in names if name != "ratelimiting_metrics"]
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
                    workspace = connection.query(store.workspace)[0]["id"]
                sections[name] = [exported_row(version, entity, row)
                                  for row in entity.cut(connection.query(entity.select(workspace)))]
        except DatastoreError as error:
            told = store.prefix + store.words_of_page + str(error)
            if version.number < (2, 0):
                raise ExportError("attempt to index local 'row' (a boolean value)")
            if version.has("workspaces"):
                sys.stderr.write("%s [error] %d#0: *2 [kong] init.lua:443 %s, context: ngx.timer\n" % (
                    time.strftime("%Y/%m/%d %H:%M:%S"), os.getpid(), told))
            raise ExportError(told)
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


def db_import(version, store, connection, found, transform):
    workspace = None
    if version.has("workspaces"):
        workspace = connection.query(store.workspace)[0]["id"]
    for name in ORDER:
        entity = store.entities.get(name)
        for values in found.get(name, ()):
            values = completed(entity, values, transform)
            if name != "targets" or version.number < (2, 2) or only_the_youngest(connection, entity, workspace, values):
                connection.query(entity.insert(values, workspace, upsert=True))


def only_the_youngest(connection, entity, workspace, values):
    """Whether a target is to be imported: from 2.2 on an upstream has one of a name, the youngest; older ones are deleted."""
    for row in connection.query(entity.select(workspace, {"upstream_id": values["upstream"]["id"]})):
        there = entity.entity(row)
        if there["target"] == values["target"] and there["id"] != values["id"]:
            if there["created_at"] >= values["created_at"]:
                return False
            connection.query(entity.delete(there["id"]))
    return True
