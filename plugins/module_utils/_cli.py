# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `kong` command: where it is, how it is called, what its version is.

The function that runs a command is handed in (AnsibleModule.run_command or a test's own), so nothing here needs
Ansible.
"""

import collections
import contextlib
import errno
import mmap
import os
import re
import shutil
import tempfile

from ansible_collections.bluegreen.kong.plugins.module_utils._errors import CommandError, KongNotFound

Result = collections.namedtuple("Result", ["rc", "out", "err"])

# Where packages put the command, after $PATH has been searched.
PLACES = ("/usr/local/bin/kong", "/usr/bin/kong", "/usr/local/openresty/bin/kong", "/opt/kong/bin/kong")

# The command is a script for OpenResty's `resty`, which a login without a full PATH (sudo, ssh) may not find.
EXTRA_PATH = ("/usr/local/bin", "/usr/local/openresty/bin", "/usr/local/openresty/nginx/sbin")

# Where Kong looks for OpenResty's nginx before $PATH (0.14.1 ... 2.8.5); one that is not OpenResty's it passes over.
NGINX_PLACES = ("/usr/local/openresty/nginx/sbin", "/opt/openresty/nginx/sbin")
# A module that is built in leaves its own name, one that can be loaded the name of its folder.
KONG_MODULE = re.compile(b"ngx_http_lua_kong_module|lua-kong-nginx-module")

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_VERSION = re.compile(r"(?m)^(?:Kong(?P<ee> Enterprise)?: ?)?(?P<version>\d+(?:\.\d+){1,4}[0-9A-Za-z.+-]*)\s*$")


def find_executable(given=None, environ=None):
    """Path of the `kong` command.

    :param given: str, a path, or None to look in $PATH and then in PLACES.
    :param environ: dict, the environment whose PATH counts; None is this process's own.
    :returns: str, a path to a file that may be executed.
    :raises KongNotFound: names every place that was looked at.
    """
    if given:
        path = os.path.expanduser(given)
        if os.path.sep not in path:
            return _search(path, environ)
        if not os.path.exists(path):
            raise KongNotFound("There is no kong command at %s: correct 'executable'." % path)
        if os.path.isdir(path) or not os.access(path, os.X_OK):
            raise KongNotFound("%s is not a command that may be executed: correct 'executable'." % path)
        return path
    return _search("kong", environ)


def _search(name, environ):
    path = (os.environ if environ is None else environ).get("PATH", os.defpath)
    found = shutil.which(name, path=path)
    if found:
        return found
    for place in PLACES:
        if os.path.basename(place) == name and os.access(place, os.X_OK) and not os.path.isdir(place):
            return place
    raise KongNotFound(
        "No %s command in PATH (%s) nor at %s: install Kong, or name the command with 'executable'."
        % (name, path, ", ".join(PLACES))
    )


def openresty(environ=None, places=NGINX_PLACES):
    """The nginx that Kong would start, told by reading the file.

    :param environ: dict, the environment whose PATH counts; None is this process's own.
    :returns: dict: path (str), kong_module (bool, whether lua-kong-nginx-module is built in; 1.3.0 and newer need it); None where
        no nginx of OpenResty is found that may be read.
    """
    path = (os.environ if environ is None else environ).get("PATH", os.defpath)
    for place in list(places) + path.split(os.pathsep):
        nginx = os.path.join(place, "nginx")
        try:
            with open(nginx, "rb") as stream, contextlib.closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) as content:
                if content.find(b"openresty/") >= 0:
                    return {"path": nginx, "kong_module": KONG_MODULE.search(content) is not None}
        except (OSError, ValueError):  # not there, not to be read, empty
            continue
    return None


@contextlib.contextmanager
def scratch_prefix(parent=None):
    """A folder of our own, mode 0700, to be used as prefix; removed with all it holds, whatever happens.

    `kong config` and, from 2.3, `kong migrations` write to their prefix (`.kong_env` holds the password) or prefer what
    they find there over `-c`: facts of Kong's commands in every version.

    :param parent: str, the folder to make it in; None is the system's folder for temporary files.
    """
    path = tempfile.mkdtemp(prefix="kong-scratch-", dir=parent)
    try:
        yield path
    finally:
        _remove(path)


def _remove(path):
    """Removes a folder, also while a child that was killed is still leaving files behind or taking them away."""
    for dummy in range(5):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            # something in it, or the folder itself, went between listing and removing
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        if not os.path.lexists(path):
            return
    shutil.rmtree(path)


def clean(text):
    """`text` without terminal colours and with plain line ends; None becomes an empty string."""
    return _ANSI.sub("", text or "").replace("\r\n", "\n")


class Kong(object):
    """One `kong` command with the configuration it is to use.

    :param run: callable with the signature of AnsibleModule.run_command: (argv, environ_update=...) -> (rc, out, err).
    :param executable: str, path of the command.
    :param conf: str, path of kong.conf, or None: Kong's own default.
    :param prefix: str, the prefix, or None: what the configuration says.
    :param environ: dict of variables to add for every call (KONG_...).
    """

    def __init__(self, run, executable, conf=None, prefix=None, environ=None):
        self.run = run
        self.executable = executable
        self.conf = conf
        self.prefix = prefix
        self.environ = dict(environ or {})
        self._version = None

    def argv(self, *args, **which):
        """The argument list of a call: args, then -c and -p.

        :param conf: True: `-c` with self.conf when there is one; False: none; str: that file.
        :param prefix: False (default): no `-p`; True: self.prefix when there is one; str: that folder.
        """
        conf = which.pop("conf", True)
        prefix = which.pop("prefix", False)
        if which:
            raise TypeError("unknown: %s" % ", ".join(sorted(which)))
        argv = [self.executable] + [str(arg) for arg in args]
        conf = self.conf if conf is True else conf
        prefix = self.prefix if prefix is True else prefix
        if conf:
            argv += ["-c", conf]
        if prefix:
            argv += ["-p", prefix]
        return argv

    def environment(self, extra=None):
        """The variables to set for a call: PATH with OpenResty's folders at its end, ours, then `extra`."""
        path = self.environ.get("PATH", os.environ.get("PATH", os.defpath))
        have = path.split(os.pathsep)
        environ = {"PATH": os.pathsep.join(have + [place for place in EXTRA_PATH if place not in have])}
        environ.update((key, value) for key, value in self.environ.items() if key != "PATH")
        environ.update(extra or {})
        return environ

    def call(self, *args, **which):
        """Runs the command.

        :param conf: as in argv().
        :param prefix: as in argv().
        :param environ: dict of variables for this call only.
        :returns: Result; never raises because of the exit code. Both texts are free of terminal colours.
        """
        extra = which.pop("environ", None)
        argv = self.argv(*args, **which)
        rc, out, err = self.run(argv, environ_update=self.environment(extra))[:3]
        return Result(rc, clean(out), clean(err))

    def version(self):
        """The version as the command says it, str such as 2.8.5; asked once.

        :raises CommandError: it ended with an error, or printed no version.
        """
        if self._version is None:
            result = self.call("version", conf=False)
            found = _VERSION.search(result.out)
            if result.rc != 0 or not found:
                raise CommandError(
                    "%s version ended with %s and printed no version: %s"
                    % (self.executable, result.rc, first_line(result.err or result.out) or "nothing at all"),
                    rc=result.rc,
                )
            self._version = found.group("version")
        return self._version

    def version_all(self):
        """What `kong version -a` says.

        :returns: dict: version (str), edition (oss or enterprise), nginx (str such as 1.19.9, None if not told),
            ngx_lua (str such as 0.10.20), lua (str), raw (dict of the lines as printed).
        :raises CommandError: as version().
        """
        result = self.call("version", "-a", conf=False)
        raw = {}
        for line in result.out.splitlines():
            key, colon, value = line.partition(":")
            if colon and re.match(r"^[A-Za-z_ ]+$", key):
                raw[key.strip()] = value.strip()
        enterprise = "Kong Enterprise" in raw
        version = raw.get("Kong Enterprise") or raw.get("Kong")
        if result.rc != 0 or not version:
            raise CommandError(
                "%s version -a ended with %s and printed no version: %s"
                % (self.executable, result.rc, first_line(result.err or result.out) or "nothing at all"),
                rc=result.rc,
            )
        self._version = version
        return {
            "version": version,
            "edition": "enterprise" if enterprise else "oss",
            "nginx": _dotted(raw.get("nginx")),
            "ngx_lua": _dotted(raw.get("ngx_lua")),
            "lua": raw.get("Lua"),
            "raw": raw,
        }


def _dotted(number):
    """nginx prints its version as one number, three digits for each part: 1019009 is 1.19.9."""
    if not number or not number.isdigit():
        return None
    number = int(number)
    return "%d.%d.%d" % (number // 1000000, number // 1000 % 1000, number % 1000)


def version_tuple(text):
    """'2.8.5' -> (2, 8, 5), for comparing; what follows the numbers is dropped."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[^0-9.]", text)[0]))


_TRACE = re.compile(r"^(?:\S*\.lua:\d+: )+")
# A declarative configuration has a credential twice: Kong tells which.
_VALUE = re.compile(r"set to '[^']*'")
_NOISE = re.compile(r"^(?:nginx: \[(?:warn|alert)\]|\S+ \S+ \[(?:warn|alert|notice)\])")


def first_line(text):
    """The line of Kong's error output that says what is wrong, without its prefix and the places in its source."""
    lines = [line.strip() for line in clean(text).splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if line.startswith("Error:"):
            line = line[len("Error:"):].strip() or (lines[index + 1] if index + 1 < len(lines) else "")
            # Kong wraps the cause: "[PostgreSQL error] cluster_mutex callback threw an error: <place>: <cause>"
            head, mark, cause = line.partition("callback threw an error: ")
            if line.endswith(":"):  # "Failed parsing:", and below it, entry by entry, what is wrong
                head = _VALUE.sub("set to '******'", " ".join([line] + lines[index + 1:]))
            return _TRACE.sub("", cause if mark else head)
    for line in lines:
        if not _NOISE.match(line):
            return line
    return lines[0] if lines else ""
