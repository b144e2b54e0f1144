# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kong's settings: kong.conf, KONG_ variables, .kong_env, and which of their values are secrets.

The rules are those of Kong 0.14 ... 2.8: one ``key = value`` per line, ``#`` begins a comment unless it is written
``\\#``, a backslash at the end of a line continues it, a KONG_ variable wins over the file, an unknown key is dropped
without a word.
"""

import difflib
import os
import re

from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError

MASK = "******"
DEFAULT_PREFIX = "/usr/local/kong"
DEFAULT_PATHS = ("/etc/kong/kong.conf", "/etc/kong.conf")
ENV_PREFIX = "KONG_"
# KONG_ variables that are not settings: read by the kong command itself.
NOT_SETTINGS = frozenset(["lua_path_override"])
# Where `lua_ssl_trusted_certificate = system` points on the distributions that Kong is packaged for.
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

_SECRET_KEY = re.compile(
    r"(password|passwd|passphrase|secret|token|private_key|license_data|_auth_conf|_session_conf|declarative_config_string)$|^vault_(?!env_prefix$)"
)
_KEY_FILE = re.compile(r"(^|_)(ssl_cert_key|cert_key)$")
# What the name of a secret is made of, for the names that Kong does not know: its own are above.
_SECRET_PART = re.compile(r"pass|pwd|secret|token|credential|(^|_)(api|access|auth|private)?keys?(_|$)")
_SECRET_WORDS = ("password", "passwd", "passphrase", "secret", "token", "credential")
# Below these prefixes stand directives and programs, whose values tell.
_BY_VALUE = re.compile(r"^(nginx|pluginserver)_")
_PEM_SECRET = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_URL_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.I)
# Directives may be injected into nginx under these keys, with anything in them.
_DIRECTIVE_SECRET = re.compile(
    r"(authorization|password|passwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|bearer|[_-]token|\btoken)\b", re.I
)
_COMMENT = re.compile(r"\s*(?<!\\)#.*$", re.S)


def parse(text):
    """Read the text of a kong.conf or .kong_env: dict of str to str, in the order of the file, no defaults.

    The last line of a key wins. A key without ``=`` is ignored, as Kong does.
    """
    settings = {}
    for key, value, unused_first, unused_last in _entries(text):
        settings.pop(key, None)
        settings[key] = value
    return settings


def _entries(text):
    """Yield (key, value, index of the first line, index of the last line) for each setting in the text."""
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        first = index
        line = lines[index]
        if not re.match(r"\s*[#;]", line):
            while line.endswith("\\") and index + 1 < len(lines):
                index += 1
                line = line[:-1] + lines[index].strip()
            key, separator, value = line.partition("=")
            key = key.strip()
            if separator and key and not key.startswith("["):
                yield re.sub(r"\W", "_", key), clean(value), first, index
        index += 1


def clean(value):
    """What Kong makes of a raw value: comment cut off, ``\\#`` turned into ``#``, blanks at both ends removed."""
    return _COMMENT.sub("", value).replace("\\#", "#").strip()


def from_environ(environ):
    """The settings among environment variables: KONG_PG_HOST is pg_host. Returns dict."""
    settings = {}
    for name in sorted(environ):
        key = name[len(ENV_PREFIX):].lower()
        if name.startswith(ENV_PREFIX) and key and key not in NOT_SETTINGS and name == name.upper():
            settings[key] = environ[name].replace("\\#", "#").strip()
    return settings


def find(conf=None):
    """Path of the configuration file Kong would read: ``conf``, else the first default path there is, else None."""
    if conf:
        return conf
    for path in DEFAULT_PATHS:
        if os.path.exists(path):
            return path
    return None


def read_text(path):
    """Text of a configuration file. Raises ConfError that names the file and what to do."""
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "surrogateescape")
    except (IOError, OSError) as error:
        raise ConfError(
            "cannot read the configuration file {0}: {1}; check the path, and that the user who runs this may read "
            "it".format(path, error.strerror or error)
        )


def load(conf=None, environ=None):
    """Settings that are given explicitly: ``(dict, path)``.

    The file (``conf``, else Kong's default paths; path is None when there is no file), overlaid with the KONG_
    variables of ``environ`` (default: this process's environment). Kong's own defaults are not filled in.
    Raises ConfError when ``conf`` is given and cannot be read.
    """
    path = find(conf)
    settings = parse(read_text(path)) if path else {}
    settings.update(from_environ(os.environ if environ is None else environ))
    return settings, path


def is_secret(key, value=None):
    """Whether a setting is a secret: by its key, or, when the value is given, by what it holds.

    The path of a private key is none, a private key itself is; so are credentials inside a URL or inside an
    injected nginx directive. A key that Kong does not know is one if it may be that of a secret with a slip in it.
    """
    key = key.lower()
    if _SECRET_KEY.search(key) or _may_be_secret(key):
        return True
    if value is None or not isinstance(value, str):
        return False
    if _PEM_SECRET.search(value) or _URL_PASSWORD.search(value):
        return True
    if _KEY_FILE.search(key):
        return any(not _looks_like_path(part.strip()) for part in value.split(",") if part.strip())
    if key.startswith("nginx_") or key.startswith("pluginserver_"):
        return bool(_DIRECTIVE_SECRET.search(value))
    return False


def _may_be_secret(key):
    """Whether a key is none of Kong's, and holds or nearly holds a word by which secrets are called (pg_pasword)."""
    if _BY_VALUE.search(key) or _KEY_FILE.search(key):
        return False
    near = (difflib.get_close_matches(word, _SECRET_WORDS, n=1, cutoff=0.75) for word in key.split("_"))
    return bool(_SECRET_PART.search(key)) or any(near)


def _looks_like_path(value):
    return "-----BEGIN" not in value and (value.startswith(("/", "./", "../", "~")) or len(value) < 128)


def mask(settings):
    """A copy of the settings with every secret value replaced; an empty value stays empty."""
    return dict((key, MASK if value and is_secret(key, value) else value) for key, value in settings.items())


def secret_values(*settings):
    """The secret values in any number of settings, longest first, for `scrub`."""
    values = set()
    for each in settings:
        for key, value in (each or {}).items():
            if value and is_secret(key, value):
                values.add(str(value))
    return sorted(values, key=len, reverse=True)


def scrub(text, secrets):
    """Text of somebody else (a log, a command's output) without the secrets, private keys and URL passwords."""
    for secret in secrets:
        if len(secret) > 3:
            text = text.replace(secret, MASK)
        else:
            # Too short to be replaced anywhere: only where it stands alone.
            text = re.sub(r"(?<!\w){0}(?!\w)".format(re.escape(secret)), MASK, text)
    text = re.sub(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", MASK, text, flags=re.S)
    return re.sub(r"(://[^/\s:@]*:)[^/\s@]+@", r"\1{0}@".format(MASK), text)


def mask_text(text):
    """The text of a kong.conf with every secret masked, commented-out ones included."""
    lines = text.splitlines()
    for key, value, first, last in _entries(text):
        if value and is_secret(key, value):
            lines[first:last + 1] = ["{0} = {1}".format(key, MASK)] + [None] * (last - first)
    masked = []
    for line in lines:
        comment = re.match(r"(\s*[#;]+\s*)(\w+)(\s*=\s*)(\S.*)$", line or "")
        if comment and is_secret(comment.group(2), comment.group(4)) and comment.group(4)[0] not in "#":
            line = "".join(comment.groups()[:3]) + MASK
        if line is not None:
            masked.append(line)
    return "".join(line + "\n" for line in masked)


def same_value(key, one, other):
    """Whether two values of a setting mean the same to Kong (on and true, lists with and without blanks, 5 and 5.0)."""
    if is_secret(key):
        return one == other
    one, other = normal(one), normal(other)
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False


def normal(value):
    """A value in one way of writing it: booleans as on and off, single blanks, ", " between the items of a list."""
    items = [" ".join(item.split()) for item in str(value).split(",")]
    return ", ".join({"true": "on", "false": "off"}.get(item, item) for item in items)


def truth(value):
    """Kong's boolean: on, true (any case) and True are true, all else is false."""
    return str(value).strip().lower() in ("on", "true", "yes", "1")


def datastore(settings):
    """Which datastore the settings name, with Kong's defaults filled in.

    PostgreSQL: kind, host, port, database, user, schema, ssl, ssl_verify, ssl_required, ca_cert (trusted()), timeout (ms).
    Cassandra: kind, contact_points, port, keyspace, user, ssl, ssl_verify, ca_cert, local_datacenter (None: Kong is told
    of none or does not heed it), consensus_timeout (ms). None (``database = off``): kind "off".
    Raises ConfError for another kind or a port that is no number.
    """
    kind = settings.get("database") or "postgres"
    if kind == "off":
        return {"kind": "off"}
    if kind == "cassandra":
        points = settings.get("cassandra_contact_points") or "127.0.0.1"
        return {
            "kind": "cassandra",
            "contact_points": [point.strip() for point in points.split(",") if point.strip()],
            "port": _number(settings, "cassandra_port", 9042),
            "keyspace": settings.get("cassandra_keyspace") or "kong",
            "user": settings.get("cassandra_username") or "kong",
            "ssl": truth(settings.get("cassandra_ssl")),
            "ssl_verify": truth(settings.get("cassandra_ssl_verify")),
            "ca_cert": trusted(settings),
            "local_datacenter": (
                settings.get("cassandra_local_datacenter") if "DCAware" in settings.get("cassandra_lb_policy", "") else None
            )
            or None,
            "consensus_timeout": _number(settings, "cassandra_schema_consensus_timeout", 10000),
        }
    if kind != "postgres":
        raise ConfError("database = {0!r} is unknown: Kong knows postgres, cassandra and off".format(kind))
    return {
        "kind": "postgres",
        "host": settings.get("pg_host") or "127.0.0.1",
        "port": _number(settings, "pg_port", 5432),
        "database": settings.get("pg_database") or "kong",
        "user": settings.get("pg_user") or "kong",
        "schema": settings.get("pg_schema") or "public",
        "ssl": truth(settings.get("pg_ssl")),
        "ssl_verify": truth(settings.get("pg_ssl_verify")),
        "ssl_required": truth(settings.get("pg_ssl_required")),
        "ca_cert": trusted(settings),
        "timeout": _number(settings, "pg_timeout", 5000),
    }


def trusted(settings):
    """The first file in ``lua_ssl_trusted_certificate``, or None; ``system`` is the bundle of the distribution."""
    for item in (settings.get("lua_ssl_trusted_certificate") or "").split(","):
        item = item.strip()
        if item == "system":
            return next((path for path in SYSTEM_BUNDLES if os.path.exists(path)), None)
        if item:
            return item
    return None


def _number(settings, key, default):
    value = settings.get(key)
    if value in (None, ""):
        return default
    try:
        return int(float(value))
    except ValueError:
        raise ConfError("{0} = {1!r} is not a number".format(key, value))


def kong_env_path(prefix):
    """Where a node keeps the settings it was started with."""
    return os.path.join(prefix, ".kong_env")


def read_kong_env(prefix):
    """Every setting a node in this prefix was last started or reloaded with, secrets included, or None without one.

    Raises ConfError when the file is there but cannot be read (it belongs to Kong's user).
    """
    path = kong_env_path(prefix)
    if not os.path.exists(path):
        return None
    return parse(read_text(path))


def listeners(value):
    """The listeners in a proxy_listen, admin_listen or status_listen value.

    Returns a list of dicts: address (str, IPv6 without brackets, or ``unix:<path>``), port (int, None for unix),
    ssl, http2, proxy_protocol (bool), flags (list of str). ``off`` and nothing give an empty list.
    Raises ConfError for what is neither.
    """
    found = []
    for part in (value or "").split(","):
        words = part.split()
        if not words or words == ["off"]:
            continue
        flags = words[1:]
        listener = {
            "ssl": "ssl" in flags,
            "http2": "http2" in flags,
            "proxy_protocol": "proxy_protocol" in flags,
            "flags": flags,
        }
        if words[0].startswith("unix:"):
            listener.update(address=words[0], port=None)
        else:
            match = re.match(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]]+)):(\d+)$", words[0])
            if not match:
                raise ConfError("{0!r} is not a listener: <address>:<port> is expected".format(part.strip()))
            listener.update(address=match.group(1) or match.group(2), port=int(match.group(3)))
        found.append(listener)
    return found


def text_value(key, value):
    """A value as kong.conf has it. Booleans are on/off, lists are joined by commas.

    Raises ConfError for a value that no line of kong.conf can hold.
    """
    if isinstance(value, bool):
        value = "on" if value else "off"
    elif isinstance(value, (list, tuple)):
        value = ", ".join(text_value(key, item) for item in value)
    else:
        value = str(value)
    if "\n" in value or "\r" in value:
        raise ConfError("{0}: a value in kong.conf cannot hold a line break; name a file instead".format(key))
    if value.endswith("\\"):
        raise ConfError("{0}: a value in kong.conf cannot end with a backslash".format(key))
    return value.strip()


def plain(settings):
    """Settings as text values; keys checked; None (remove the key) stays None. Raises ConfError."""
    result = {}
    for key, value in settings.items():
        if not re.match(r"\w+$", str(key)):
            raise ConfError("{0!r} is not the name of a Kong setting".format(key))
        result[str(key)] = None if value is None else text_value(key, value)
    return result


def render(settings):
    """Text of a kong.conf that holds these settings, in their order; None values are left out. Raises ConfError."""
    return "".join(_line(key, value) + "\n" for key, value in plain(settings).items() if value is not None)


def _line(key, value):
    return "{0} = {1}".format(key, value.replace("#", "\\#")).rstrip()


def update(text, settings, purge=False):
    """The text with these settings in it. Comments and the order of lines stay.

    A key that is there keeps its line, a new one goes to the end, a value of None removes the key. With ``purge``
    the keys that are not named are removed, but for secrets, which stay unless given. A key whose value is right
    already keeps its line byte for byte. Raises ConfError.
    """
    wanted = plain(settings)
    lines = text.splitlines()
    entries = list(_entries(text))
    last = dict((key, first) for key, unused_value, first, unused_last in entries)
    drop, put = set(), {}
    for key, value, first, end in entries:
        span = range(first, end + 1)
        if key in wanted:
            keep = first == last[key] and wanted[key] is not None
            if keep and wanted[key] == value:
                continue
            drop.update(span)
            if keep:
                put[first] = _line(key, wanted[key])
        elif purge and not is_secret(key, value):
            drop.update(span)
    result = []
    for index, line in enumerate(lines):
        if index in put:
            result.append(put[index])
        elif index not in drop:
            result.append(line)
    result.extend(_line(key, value) for key, value in wanted.items() if key not in last and value is not None)
    return text if result == lines else "".join(line + "\n" for line in result)
