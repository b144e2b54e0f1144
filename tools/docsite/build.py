# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the documentation site: the guides in docs/ and a page for the role and each plugin. A warning is an error.

Usage: build.py COPY SITE   (a copy of the tree as ansible-core finds it, and the folder that gets html/index.html)
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(sys.executable).parent
# A link of docs/index.md to a guide, and through it the guide's place in the table of contents.
LINK = re.compile(r"\]\((\w+)\.md\)")


def contents(index, pages):
    """What the index gets for Sphinx: a table of contents in the order of its links. Every guide must be among them."""
    order = list(dict.fromkeys(LINK.findall(index)))
    left_out = sorted(set(pages) - set(order) - {"index"})
    if left_out:
        raise SystemExit("docs/index.md has no link to %s" % ", ".join(left_out))
    return "\n\n```{toctree}\n:hidden:\n\n%s\nRole and plugins <reference/index>\n```\n" % "\n".join(order)


def main(copy, site):
    """Makes the site anew."""
    copy, site = pathlib.Path(copy).resolve(), pathlib.Path(site).resolve()
    source = site / "source"
    shutil.rmtree(site, ignore_errors=True)
    reference = source / "reference"
    reference.mkdir(parents=True, mode=0o755)  # antsibull-docs wants no other to be able to write there
    environment = dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(copy.parents[2]))
    subprocess.run(
        [BIN / "antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--fail-on-error",
         "--no-add-antsibull-docs-version", "--dest-dir", reference, "bluegreen.kong"],
        env=environment, check=True,
    )  # fmt: skip
    for path in (copy / "docs").glob("*.md"):
        shutil.copy(path, source)
    if (copy / "docs" / "images").is_dir():
        shutil.copytree(copy / "docs" / "images", source / "images")
    index = source / "index.md"
    index.write_text(index.read_text() + contents(index.read_text(), [path.stem for path in source.glob("*.md")]))
    subprocess.run(
        [BIN / "python", "-m", "sphinx", "-b", "html", "-c", HERE, "-q", "-W", "--keep-going", source, site / "html"], check=True
    )
    print("%s/html/index.html" % site)


if __name__ == "__main__":
    main(*sys.argv[1:])
