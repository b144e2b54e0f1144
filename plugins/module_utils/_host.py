# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host of a node tells about an upgrade: system, package, files, templates, plugins. Reads only.

What cannot be known is None. Every function takes the folder that counts as / (for tests) where it reads below it.
"""

import configparser
import glob
import os
import pwd
import re
import shutil
import tempfile

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf, _supervisor
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import ConfError

REPOSITORIES = ("etc/apt/sources.list", "etc/apt/sources.list.d", "etc/yum.repos.d", "etc/yum.conf", "etc/zypp/repos.d")
ROCKS = ("usr/local/lib/luarocks", "usr/local/kong/lib/luarocks", "usr/lib/luarocks")
LUA_PATHS = ("/usr/local/share/lua/5.1/?.lua", "/usr/local/lib/lua/5.1/?.lua", "/usr/share/lua/5.1/?.lua")
CREDENTIALS = re.compile(r"(://)[^/@\s]+@")
TOKENS = re.compile(r"(?i)((?:token|auth|password|key)=)[^&\s]+")

# What Kong's own template makes of nginx.conf: what stands before http is in the first group.
OWN_NGINX_CONF = re.compile(
    r"(.*?)^http\s*\{\s*include\s+['\"]?[^;'\"]*nginx-kong\.conf['\"]?\s*;\s*\}\s*"
    r"(?:stream\s*\{\s*include\s+['\"]?[^;'\"]*nginx-kong-stream\.conf['\"]?\s*;\s*\}\s*)?\Z",
    re.MULTILINE | re.DOTALL,
)
OWN_DIRECTIVES = frozenset(
    "daemon error_log events multi_accept pid user worker_connections worker_processes worker_rlimit_nofile".split()
)


def facts(run, executable, prefix, settings, unit=None, exec_start=None, asks_candidates=False, package_files=(), root="/"):
    """Everything, as kong_version_facts returns it below `host`.

    :param run: callable with the signature of AnsibleModule.run_command.
    :param executable: str or None, the kong command.
    :param prefix: str. settings: dict, what the node runs with, else what a start would give it.
    :param unit: str or None, name of the node's systemd unit. exec_start: str or None, the command it starts.
    :param asks_candidates: bool, whether to ask the package manager what it offers, which takes its time.
    :param package_files: list of str, package files that are looked for.
    """
    return {
        "os": system(root),
        "package": package(run, executable),
        "candidates": candidates(run, root) if asks_candidates else None,
        "package_files": dict((path, _file(os.path.expanduser(path))["exists"]) for path in package_files),
        "repositories": repositories(root),
        "files": files(prefix, settings),
        "memory_bytes": memory(root),
        "units": units(unit or "kong.service", root),
        "templates": templates(prefix, settings, exec_start),
        "rocks": rocks(root),
        "plugins": plugins(settings),
    }


def system(root="/"):
    """id, version_id, like (list) and pretty of os-release; None where there is none."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        text = _text(os.path.join(root, name))
        if text is None:
            continue
        values = {}
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if equals and not key.startswith("#"):
                values[key.strip()] = value.strip().strip("\"'")
        return {
            "id": values.get("ID", "linux"),
            "version_id": values.get("VERSION_ID"),
            "like": values.get("ID_LIKE", "").split(),
            "pretty": values.get("PRETTY_NAME"),
        }
    return None


def package(run, executable):
    """name, version and manager of the package that owns the command; name is None where none does.

    None where there is no command, or no package manager that is known.
    """
    if not executable:
        return None
    path = os.path.realpath(executable)
    code, out = _call(run, ["dpkg-query", "-S", path])[:2]
    asked = code is not None
    if code == 0 and ":" in out:
        name = out.split(":", 1)[0].split(",")[0].strip()
        version = _call(run, ["dpkg-query", "-W", "-f", "${Version}", name])[1].strip()
        return {"name": name, "version": version, "manager": "dpkg"}
    code, out = _call(run, ["rpm", "-qf", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\n", path])[:2]
    words = out.split()
    if code == 0 and len(words) >= 2:
        return {"name": words[0], "version": words[1], "manager": "rpm"}
    return {"name": None, "version": None, "manager": None} if asked or code is not None else None


def candidates(run, root="/"):
    """manager, and versions of the package kong that it offers; None where that cannot be told. Nothing is written.

    apt tells from its present lists; dnf and yum fetch what they need into a folder that does not stay.
    """
    nothing_written = ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
    code, out = _call(run, ["apt-cache"] + nothing_written + ["madison", "kong"])[:2]
    if code == 0:
        versions = [line.split("|")[1].strip() for line in out.splitlines() if line.count("|") >= 2]
        return {"manager": "apt", "versions": list(dict.fromkeys(versions))}
    manager = next((name for name in ("dnf", "yum") if _is_there(name)), None)
    if not manager:
        return None
    scratch = tempfile.mkdtemp(prefix="kong_upgrade_")
    try:
        code, out, err = _call(run, [manager] + _rpm_options(scratch, root) + ["list", "available", "--showduplicates", "kong"])
    finally:
        shutil.rmtree(scratch)
    words = out.split()  # name, version and repository, in lines that are broken where they are long
    versions = [after.rpartition(":")[2] for word, after in zip(words, words[1:]) if re.match(r"kong\.\w+$", word)]
    if not versions and "No matching Packages" not in err:
        return None
    return {"manager": manager, "versions": list(dict.fromkeys(versions))}


def _rpm_options(scratch, root):
    """Options with which dnf 4 and yum 3 write nothing but there, do not wait long, and look at no more than they must."""
    options = ["-q", "--noplugins", "--setopt=timeout=10", "--setopt=retries=1", "--setopt=*.skip_if_unavailable=0"]
    options += ["--setopt={0}={1}".format(name, scratch) for name in ("cachedir", "persistdir", "logdir")]
    named = _rpm_repositories(root)
    return options + (["--disablerepo=*"] + ["--enablerepo=" + name for name in named] if named else [])


def _rpm_repositories(root):
    """Ids of the repositories whose definition names Kong, but for those that are disabled."""
    named = []
    for path in sorted(glob.glob(os.path.join(root, "etc/yum.repos.d/*.repo"))):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(_text(path) or "")
        except configparser.Error:
            continue  # which the package manager would not read either
        for name in parser.sections():
            values = dict(parser.items(name))
            words = " ".join([name, values.get("name", ""), values.get("baseurl", ""), values.get("mirrorlist", "")])
            if re.search("kong|bintray", words, re.IGNORECASE) and values.get("enabled", "1").lower() not in ("0", "no", "false"):
                named.append(name)
    return named


def repositories(root="/"):
    """Lines of the repositories' files that name Kong's packages: list of path and text, without credentials."""
    found = []
    for name in REPOSITORIES:
        place = os.path.join(root, name)
        paths = [os.path.join(place, item) for item in sorted(_listdir(place))] if os.path.isdir(place) else [place]
        for path in paths:
            for line in (_text(path) or "").splitlines():
                line = line.strip()
                if re.search("kong|bintray", line, re.IGNORECASE) and not line.startswith(("#", "[")):
                    text = TOKENS.sub(r"\1" + _conf.MASK, CREDENTIALS.sub(r"\1" + _conf.MASK + "@", line))
                    found.append({"path": "/" + os.path.relpath(path, root), "text": text})
    return found


def files(prefix, settings):
    """Every setting that names a file: its path, owner, and whether it exists, None behind a folder that may not be looked into."""
    wanted = []
    for key, value in sorted(settings.items()):
        paths = [part.strip() for part in str(value).split(",") if part.strip().startswith("/")]
        paths = [path for path in paths if not path.startswith(prefix.rstrip("/") + "/")]  # Kong's own
        if paths and key not in ("prefix", "pg_host", "lua_package_path", "lua_package_cpath") and not _conf.is_secret(key, value):
            wanted += [(key if not number else "%s[%d]" % (key, number), path) for number, path in enumerate(paths)]
    return dict((name, _file(path.split(" ")[0])) for name, path in wanted)


def _file(path):
    exists = True if os.path.exists(path) else False if _visible(path) else None
    return {"path": path, "exists": exists, "owner": _owner(path) if exists else None}


def _owner(path):
    """Name of a file's user, or its number where no name is known."""
    number = os.stat(path).st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _visible(path):
    parent = os.path.dirname(path) or "/"
    while parent != "/" and not os.path.exists(parent) and os.access(os.path.dirname(parent), os.X_OK):
        parent = os.path.dirname(parent)
    return os.access(parent, os.X_OK)


def memory(root="/"):
    """Bytes of memory."""
    found = re.search(r"^MemTotal:\s*(\d+) kB", _text(os.path.join(root, "proc/meminfo")) or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def free(path):
    """Free bytes of the file system that holds the path, or will; None where it cannot be told."""
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    try:
        found = os.statvfs(path or "/")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def units(name, root="/"):
    """Unit files of that name, the one in force first (systemd.unit(5))."""
    seen, found = set(), []
    for place in _supervisor.UNIT_FOLDERS:
        path = os.path.join(root, place.lstrip("/"), name)
        real = os.path.realpath(path)  # /lib may be a link to /usr/lib
        if os.path.isfile(path) and real not in seen:
            seen.add(real)
            found.append(os.path.join(place, name))
    return found


def templates(prefix, settings, exec_start=None):
    """nginx_conf (a custom template, None if none shows), how it was found, and includes of the user's own.

    A custom template leaves no trace but the nginx.conf made from it.
    """
    includes = [
        {"file": str(value), "key": key} for key, value in sorted(settings.items()) if re.match(r"nginx_\w+_include$", key)
    ]
    named = named_template(exec_start)
    if named:
        return {
            "nginx_conf": named,
            "how": "--nginx-conf of the unit",
            "includes": includes,
            "directives": directives(_text(named) or ""),
        }
    path = os.path.join(prefix, "nginx.conf")
    text = re.sub(r"#.*", "", _text(path) or "")
    if re.search(r"^http\s*\{", text, re.MULTILINE) and not made_by_kong(text, prefix):
        return {
            "nginx_conf": path,
            "how": "nginx.conf of the prefix is not what Kong's own template gives",
            "includes": includes,
            "directives": directives(text),
        }
    return {"nginx_conf": None, "how": None, "includes": includes, "directives": []}


def made_by_kong(text, prefix):
    """Whether an nginx.conf without comments has only what Kong's own template gives (0.14.1 ... 2.8.5)."""
    own = OWN_NGINX_CONF.match(text)
    if not own:
        return False
    try:
        settings = _conf.read_kong_env(prefix)  # written together with nginx.conf
    except ConfError:
        settings = None
    if settings is None:
        return True  # nobody knows what nginx_main_* and nginx_events_* put there: no conclusion
    injected = set(key.split("_", 2)[2] for key in settings if re.match(r"nginx_(main|events)_\w", key))
    return set(re.findall(r"(?:^|[;{}])\s*(\w+)", own.group(1))) <= OWN_DIRECTIVES | injected


def named_template(command):
    """The template that a command starts Kong with; None where it names none. command: str or None."""
    named = re.search(r"--nginx-conf[= ]\s*(\S+)", command or "")
    return named.group(1) if named else None


def directives(text):
    """The shared dictionaries and includes in a template: list of str, such as "lua_shared_dict kong"."""
    return re.findall(r"^\s*(lua_shared_dict\s+\w+|include\s+[^;]+)", re.sub(r"#.*", "", text), re.MULTILINE)


def rocks(root="/"):
    """Plugins that were installed as LuaRocks packages of their own: name to version."""
    found = {}
    for place in ROCKS:
        for tree in sorted(_listdir(os.path.join(root, place))):
            if tree.startswith("rocks"):
                folder = os.path.join(root, place, tree)
                for name in sorted(_listdir(folder)):
                    if name.startswith("kong-plugin-") or re.match(r"kong-\w[\w-]*-plugin$", name):
                        versions = sorted(_listdir(os.path.join(folder, name)))
                        found[name] = versions[-1] if versions else None
    return found


def plugins(settings):
    """Plugins named in the settings whose folder is found on the Lua path: path, has_daos, has_migrations, base_plugin."""
    names = set()
    for key in ("plugins", "custom_plugins"):
        names.update(part.strip() for part in (settings.get(key) or "").split(","))
    found = {}
    patterns = [part for part in (settings.get("lua_package_path") or "").split(";") if "?" in part] + list(LUA_PATHS)
    for name in sorted(names - set(["", "bundled", "off"])):
        if not re.match(r"[\w.-]+$", name):
            continue
        for pattern in patterns:
            folder = os.path.dirname(pattern.replace("?", "kong/plugins/%s/handler" % name))
            if os.path.isabs(folder) and os.path.isdir(folder):
                texts = [_text(os.path.join(folder, item)) or "" for item in _listdir(folder) if item.endswith(".lua")]
                found[name] = {
                    "path": folder,
                    "has_daos": os.path.exists(os.path.join(folder, "daos.lua")),
                    "has_migrations": os.path.isdir(os.path.join(folder, "migrations")),
                    "base_plugin": any("kong.plugins.base_plugin" in text for text in texts),
                }
                break
    return found


def _is_there(command):
    return any(os.access(os.path.join(place, command), os.X_OK) for place in ("/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"))


def _call(run, argv):
    """Return code, output and messages of a command; (None, "", "") where it is not there."""
    return run(argv, environ_update={"LC_ALL": "C"}) if _is_there(argv[0]) else (None, "", "")


def _text(path):
    try:
        with open(path, "rb") as stream:
            return stream.read(1 << 20).decode("utf-8", "replace")
    except (IOError, OSError):
        return None


def _listdir(path):
    try:
        return os.listdir(path)
    except OSError:
        return []
