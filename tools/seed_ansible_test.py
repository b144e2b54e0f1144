# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets ansible-test make its environments with nothing but a package registry.

ansible-test puts pip into each environment with a script that it fetches from a site of its own, unless it lies in
~/.ansible/test/cache already. This puts one there for each version of pip that the ansible-test beside this Python
asks for: it starts the pip that comes with the interpreter and has it install that version.
"""

import pathlib
import re

import ansible_test

SCRIPT = """\
import ensurepip, glob, os, runpy, sys
bundled = glob.glob(os.path.join(os.path.dirname(ensurepip.__file__), "_bundled", "pip-*.whl"))
sys.path.insert(0, sorted(bundled)[-1])
unknown = ("--no-setuptools", "--no-wheel")
sys.argv = ["pip", "install", "--upgrade"] + [word for word in sys.argv[1:] if word not in unknown]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def main():
    """Writes the scripts that are not there yet."""
    source = pathlib.Path(ansible_test.__file__).parent / "_internal" / "python_requirements.py"
    versions = sorted(set(re.findall(r"pip='([0-9.]+)'", source.read_text(encoding="utf-8"))))
    if not versions:
        raise SystemExit("%s names no version of pip: look how ansible-test makes its environments now" % source)
    cache = pathlib.Path.home() / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in versions:
        path = cache / ("get_pip_%s.py" % version.replace(".", "_"))
        if not path.exists():
            path.write_text(SCRIPT, encoding="utf-8")


if __name__ == "__main__":
    main()
