# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what a host has instead of an installed Kong: one small directory per version."""

import os
import pathlib
import shlex
import sys

HERE = pathlib.Path(__file__).resolve().parent


def _script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text("#!/bin/sh\n# Not Kong: starts the stand-in of the tests.\n" + body, encoding="utf-8")
    fresh.chmod(0o755)
    os.replace(fresh, path)


def make_launcher(directory, version, python=None):
    """Write ``<directory>/kong-<version>/bin/kong`` and, for units that start nginx themselves as Kong's do,
    ``<directory>/kong-<version>/openresty/nginx/sbin/nginx``. Returns the path of the first as text.

    ``python`` is the interpreter that will run it (default: this one); it needs the standard library only.
    """
    root = pathlib.Path(directory).absolute() / ("kong-%s" % version)
    command = "KONG_STANDIN_VERSION=%s exec %s -I -S %s" % (
        shlex.quote(str(version)), shlex.quote(str(python or sys.executable)), shlex.quote(str(HERE / "kong")))
    _script(root / "bin" / "kong", command + ' "$@"\n')
    _script(root / "openresty" / "nginx" / "sbin" / "nginx", command + ' --nginx "$@"\n')
    return str(root / "bin" / "kong")
