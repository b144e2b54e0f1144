# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The working directory of a node: its files, its pid, its signals."""

import os
import re
import signal
import time

from . import conf


class PrefixError(Exception):
    """Exit code 1, the text follows ``Error: ``."""


def pid_path(prefix):
    return os.path.join(prefix, "pids", "nginx.pid")


def env_path(prefix):
    return os.path.join(prefix, ".kong_env")


def pid(prefix):
    try:
        with open(pid_path(prefix), encoding="ascii") as handle:
            return int(handle.read().strip())
    except (OSError, ValueError):
        return None


def running(prefix):
    """Whether the process of the pid file exists. A zombie does, and so does a stranger with that number."""
    number = pid(prefix)
    if number is None:
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def ensure(prefix, say):
    """Make the directory and what is always in it."""
    if not os.path.isdir(prefix):
        say("prefix directory %s not found, trying to create it" % prefix)
        try:
            os.makedirs(prefix)
        except OSError as error:
            raise PrefixError("mkdir failed for '%s': %s (code %d)" % (prefix, os.strerror(error.errno), error.errno))
    for name in ("logs", "pids"):
        try:
            os.makedirs(os.path.join(prefix, name), exist_ok=True)
        except OSError as error:
            raise PrefixError("mkdir failed for '%s': %s (code %d)" % (
                os.path.join(prefix, name), os.strerror(error.errno), error.errno))
    for name in ("error.log", "access.log", "admin_access.log", "status_error.log"):
        path = os.path.join(prefix, "logs", name)
        if not os.path.exists(path):
            with open(path, "a", encoding="utf-8"):
                pass


def write(path, text, mode):
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)


def write_conf(settings, template=None):
    """``.kong_env`` and files in the place of nginx's configuration: a template of the user's own as it is, not compiled."""
    prefix = settings.prefix
    note = "# The stand-in for kong %s has no nginx; this file only marks the place.\n" % settings.version
    main = "pid pids/nginx.pid;\ndaemon %s;\nhttp {\n    include 'nginx-kong.conf';\n}\n" % ("on" if settings.daemon else "off")
    if template:
        if not os.path.exists(template):
            raise PrefixError("no such file: %s" % template)
        with open(template, encoding="utf-8") as stream:
            main = stream.read()
    write(os.path.join(prefix, "nginx.conf"), note + main, 0o644)
    listen = "".join("# %s = %s\n" % (key, settings.get(key)) for key in conf.LISTENERS if settings.get(key))
    write(os.path.join(prefix, "nginx-kong.conf"), note + listen, 0o644)
    write(env_path(prefix), conf.render_env(settings), 0o640)
    if not os.path.exists(pid_path(prefix)):
        write(pid_path(prefix), "", 0o644)  # the real command tests nginx's configuration, and that leaves this


def written_by(prefix):
    """The version of the command that wrote the files of the prefix last, or None."""
    try:
        with open(os.path.join(prefix, "nginx.conf"), encoding="utf-8") as stream:
            found = re.match(r"# The stand-in for kong (\S+) ", stream.readline())
    except OSError:
        return None
    return found.group(1) if found else None


def node_settings(version, prefix=None):
    """The settings of the node of a prefix, for stop, quit and health: (settings, prefix)."""
    default = conf.load(version, None, prefix)
    path = default.prefix
    if not os.path.exists(path):
        raise PrefixError("no such prefix: %s" % path)
    return path


def need_env(prefix):
    if not os.path.exists(env_path(prefix)):
        raise PrefixError("no file at: %s" % env_path(prefix))


def send(prefix, number):
    if not running(prefix):
        raise PrefixError("nginx not running in prefix: %s" % prefix)
    try:
        os.kill(pid(prefix), number)
    except (ProcessLookupError, PermissionError) as error:
        raise PrefixError("could not signal the process in %s: %s" % (prefix, error.strerror))


def quit_node(prefix, wait, timeout):
    """SIGQUIT; True if the node ended in ``timeout`` seconds, otherwise SIGTERM and False."""
    if not running(prefix):
        raise PrefixError("nginx not running in prefix: %s" % prefix)
    if wait:
        time.sleep(wait)
    send(prefix, signal.SIGQUIT)
    deadline = time.monotonic() + timeout
    while running(prefix):
        if time.monotonic() >= deadline:
            send(prefix, signal.SIGTERM)
            return False
        time.sleep(0.05)
    return True
