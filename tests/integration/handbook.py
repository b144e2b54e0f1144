# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/troubleshooting.md as somebody uses it who searches it for a message."""

import functools
import pathlib
import re

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
WORDS = 8  # letters of its own that an entry needs to be found within a longer message


@functools.lru_cache(maxsize=None)
def entries():
    """The messages of the page, each as a pattern: (whole, text)."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) >= 4 and not set(cells[1]) <= set("-"):
            # A breaking change is told as "id: what".
            text = "%s: %s" % (cells[1].strip("`"), cells[2]) if re.fullmatch(r"`[A-Z0-9-]+`", cells[1]) else cells[1]
        elif line.startswith("- "):
            text = line[2:]
        else:
            continue
        text = re.sub(r"\\([|*_<>\[\]])", r"\1", text).rstrip(".")
        pattern = ".*".join(re.escape(part.strip()) for part in text.split("…")) + r"\.?"
        found.append((len(re.findall("[A-Za-z]", text)) < WORDS, re.compile(pattern, re.DOTALL)))
    return found


def unexplained(messages):
    """Those of the messages that the page does not have."""
    left = []
    for message in messages:
        message = " ".join(str(message).split())
        if not any(pattern.fullmatch(message) if whole else pattern.search(message) for whole, pattern in entries()):
            left.append(message)
    return left
