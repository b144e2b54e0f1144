# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx configuration files: what an upstream says, and weights and `down` put into its server lines.

Text is cut into words the way nginx does it (blanks, both kinds of quotes, backslash, comments, `${`), each with its place
in the text, so that a change replaces exactly one word and leaves every other byte alone. No file is opened here.
"""

import re
from collections import namedtuple

#: value: str without quotes; start, end: where the word stands in the text, quotes included.
Word = namedtuple("Word", "value start end")
#: words: list of Word, the name of the directive first; block: list of Directive, None without one.
Directive = namedtuple("Directive", "words block")
#: name; address: as it is written; weight, down, backup: its parameters; words: list of Word.
Server = namedtuple("Server", "name address weight down backup words")
#: name; method: list of str, ["round_robin"] by default; servers: list of Server.
Upstream = namedtuple("Upstream", "name method servers")

#: Directives that choose a server otherwise than in turn, in nginx and in modules that many builds have.
METHODS = ("hash", "ip_hash", "least_conn", "least_time", "random", "sticky", "fair", "balancer_by_lua_block", "balancer_by_lua_file")

_BLANK = re.compile(r"(?:\s+|#[^\n]*)+")
_PLAIN = re.compile(r"(?:\\.|\$\{|[^\s;{}\\])(?:\\.|\$\{|[^\s;{\\])*", re.S)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', re.S)
_PORT = re.compile(r":[0-9]+\Z")


class Unreadable(ValueError):
    """The text is no nginx configuration; the message says why, with the line."""


def line_of(text, place):
    """The number of the line at a place of a text, from 1 on."""
    return text.count("\n", 0, place) + 1


def parse(text):
    """Directives of a configuration: list of Directive. Raises Unreadable."""
    directives, stack, words, place = [], [], [], 0
    while True:
        blank = _BLANK.match(text, place)
        place = blank.end() if blank else place
        if place == len(text):
            break
        letter = text[place]
        if letter in ";{":
            if not words:
                raise Unreadable("line %d: '%s' without a directive before it" % (line_of(text, place), letter))
            inside = [] if letter == "{" else None
            directives.append(Directive(words, inside))
            if inside is not None and words[0].value.endswith("_by_lua_block"):
                place = _end_of_lua(text, place)
            elif inside is not None:
                stack.append(directives)
                directives = inside
            words, place = [], place + 1
            continue
        if letter == "}":
            if words or not stack:
                raise Unreadable("line %d: '}' where no block ends" % line_of(text, place))
            directives, place = stack.pop(), place + 1
            continue
        word = (_QUOTED if letter in "\"'" else _PLAIN).match(text, place)
        if not word:
            raise Unreadable("line %d: a quote that does not end" % line_of(text, place))
        value = word.group()[1:-1] if letter in "\"'" else word.group()
        words.append(Word(re.sub(r"\\([\"'\\])", r"\1", value), place, word.end()))
        place = word.end()
    if stack or words:
        raise Unreadable("it ends within a %s" % ("block" if stack else "directive"))
    return directives


def _end_of_lua(text, place):
    """Where the block of Lua ends that begins at a place: of its closing brace."""
    depth = 0
    for brace in re.finditer(r"[{}]", text[place:]):
        depth += 1 if brace.group() == "{" else -1
        if not depth:
            return place + brace.start()
    raise Unreadable("line %d: a block of Lua that does not end" % line_of(text, place))


def walk(directives):
    """Every directive, also those in blocks."""
    for directive in directives:
        yield directive
        yield from walk(directive.block or [])


def upstreams(text, name):
    """The upstreams of a file: list of Upstream. Raises Unreadable.

    :param name: str, what `server` lines outside of any block are called together: those of a file that an upstream includes.
    """
    directives = parse(text)
    found = [_upstream(directive.words[1].value, directive.block) for directive in walk(directives)
             if directive.words[0].value == "upstream" and directive.block is not None and len(directive.words) > 1]
    bare = _upstream(name, directives)
    return found + ([bare] if bare.servers else [])


def _upstream(name, directives):
    lines = [directive for directive in directives
             if directive.words[0].value == "server" and directive.block is None and len(directive.words) > 1]
    hosts = [host_of(line.words[1].value) for line in lines]
    servers = []
    for line, host in zip(lines, hosts):
        address, values = line.words[1].value, [word.value for word in line.words[2:]]
        weights = [value[7:] for value in values if value.startswith("weight=")]
        servers.append(Server(
            host if hosts.count(host) == 1 else address, address, int(weights[-1]) if weights and weights[-1].isdigit() else 1,
            "down" in values, "backup" in values, line.words))
    method = [[word.value for word in directive.words] for directive in directives if directive.words[0].value in METHODS]
    return Upstream(name, method[-1] if method else ["round_robin"], servers)


def host_of(address):
    """An address without its port: "10.0.1.11" of "10.0.1.11:8000"."""
    return address if address.startswith("unix:") else _PORT.sub("", address)


def edit(text, wanted):
    """Puts weights into server lines.

    :param text: str, the whole file.
    :param wanted: list of (Server of that text, weight): 0 becomes `down`, with its `weight=` kept.
    :returns: str.
    """
    edits = []
    for server, weight in wanted:
        last = server.words[-1].end
        if not weight:
            edits += [] if server.down else [(last, last, " down")]
            continue
        for word in server.words[2:]:
            if word.value == "down":
                edits.append((len(text[:word.start].rstrip(" \t")), word.end, ""))
        if weight != server.weight:
            old = [word for word in server.words[2:] if word.value.startswith("weight=")]
            place = server.words[1].end
            edits.append((old[-1].start, old[-1].end, "weight=%d" % weight) if old else (place, place, " weight=%d" % weight))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text
