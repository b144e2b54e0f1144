# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a custom nginx template lacks of what the template of a version of Kong has.

Pure functions on what plugin_utils/knowledge says; no template of Kong is needed.
"""

from __future__ import annotations

import re

from ansible_collections.bluegreen.kong.plugins.module_utils._template_diff import unwrapped
from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge

# What a template consists of: control lines and comments, then the pieces of words, then what ends a directive.
TOKEN = re.compile(
    r"""(?P<skip>^[ \t]*>.*$ | \#.*$ | \s+)
      | (?P<word>(?: \$\{\{.*?\}\} | \$\{\w+\} | \$\([^)\n]*\) | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [^\s;{}"'\#] )+)
      | (?P<end>[;{}])""",
    re.X | re.M,
)
# Directives that stand many times, told apart by what follows: the first word, or all.
BY_FIRST = ("lua_shared_dict", "set", "server_name", "upstream", "grpc_set_header", "proxy_set_header")
BY_ALL = ("location",)
INCLUDED = {"nginx-kong.conf": "nginx_kong.lua", "nginx-kong-stream.conf": "nginx_kong_stream.lua"}
BLOCKS = {"http": "nginx_kong.lua", "stream": "nginx_kong_stream.lua"}


def directives(text: str) -> list:
    """[(block at the top or None, name)] of all directives; names as templates.yml has them: "set $upstream_te"."""
    text = unwrapped(text)[1]
    found, words, blocks, place = [], [], [], 0
    while place < len(text):
        token = TOKEN.match(text, place)
        if not token:  # a quote that is never closed
            place += 1
            continue
        place = token.end()
        if token.group("word"):
            words.append(token.group("word"))
        elif token.group("end"):
            while words and words[0].startswith("$"):  # a placeholder that stands for whole directives
                del words[0]
            if token.group("end") == "}":
                del blocks[-1:]
            elif words:
                found.append((blocks[0] if blocks else None, name_of(words)))
            if token.group("end") == "{":
                if words and words[0].endswith("_by_lua_block"):
                    place = end_of_lua(text, place)
                else:
                    blocks.append(words[0] if words else "")
            words = []
    return found


def name_of(words):
    """The name of a directive, with what tells it apart from others of its kind."""
    if words[0] in BY_ALL:
        return " ".join(words)
    return " ".join(words[:2]) if words[0] in BY_FIRST else words[0]


def end_of_lua(text, place):
    """Where the block of Lua that begins at place ends, behind its brace."""
    depth = 1
    for token in re.finditer(r"""--[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}]""", text[place:]):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return place + token.end()
    return len(text)


def missing_in_template(text: str, target: str) -> list:
    """What the templates of the target have and this custom one has not, what stops the start first.

    :param text: a file for --nginx-conf (nginx.lua, with or without what it includes), or one that stands in for
        nginx_kong.lua or nginx_kong_stream.lua alone.
    :returns: [{"file", "directive", "dictionary": bool, "when": condition or None}]. What is included from Kong's own
        nginx-kong.conf is not missing, a part that is not there at all is one entry ("stream" of nginx.lua).
    """
    has = knowledge.template_directives(target)
    when = knowledge.template_conditions()
    missing = []
    for file, names in parts(text).items():
        for name in has[file]:
            if name not in names and name != "include":  # its content may stand there instead
                missing.append(
                    {
                        "file": file,
                        "directive": name,
                        "dictionary": name.startswith("lua_shared_dict "),
                        "when": when.get(name),
                    }
                )
    return sorted(missing, key=lambda entry: (not entry["dictionary"], entry["when"] is not None))


def parts(text: str) -> dict:
    """file of Kong's -> set of the names of directives that stand in for it in the text."""
    found = directives(text)
    if not any(block is None and name in ("http", "stream", "events") for block, name in found):
        names = {name for unused_block, name in found}
        stream = any(name.startswith("lua_shared_dict stream_") for name in names)
        return {"nginx_kong_stream.lua" if stream else "nginx_kong.lua": names}
    own = {"nginx.lua": {name for block, name in found if block not in BLOCKS or name == "include"}}
    for block, file in BLOCKS.items():
        inside = {name for where, name in found if where == block}
        if inside and not included(text, file):
            own[file] = inside
    return own


def included(text, file):
    """Whether the text takes this part from Kong by an include."""
    names = re.findall(r"^\s*include\s+['\"]?([^'\";\s]+)['\"]?\s*;", text, re.M)
    return any(INCLUDED.get(name.rpartition("/")[2]) == file for name in names)


def ahead(survey, source, target):
    """What Kong changed in its templates, for who has a template or an include of their own: {"hosts", "changes"}, else None."""
    hosts = []
    for host in survey["groups"]["blue"]:
        gateway = (survey["hosts"].get(host) or {}).get("gateway") or {}
        templates = (gateway.get("host") or {}).get("templates") or {}
        if templates.get("nginx_conf") or templates.get("includes"):
            hosts.append(host)
    if not hosts or not source or not target:
        return None
    return {"hosts": hosts, "changes": knowledge.template_changes(source, target)}
