# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy.cfg: what it says about a backend, and weights and `disabled` put into its server lines.

Text is cut into words the way HAProxy does it (section 2.2 of its configuration manual: blanks, both kinds of quotes,
backslash, comment), each word with its place in the line, so that a change replaces exactly one word and leaves every
other byte alone. No file is opened here.
"""

import re
from collections import namedtuple

#: value: str without quotes; start, end: where the word stands in its line, quotes included.
Word = namedtuple("Word", "value start end")
#: number: counted from 1; text: str with its line end; words: list of Word.
Line = namedtuple("Line", "number text words")
#: kind: "backend", "listen", "global", ...; parent: name of the `defaults` section it takes over (or None).
Section = namedtuple("Section", "kind name parent lines")

SECTIONS = frozenset("""
    acme backend cache crt-store defaults fcgi-app frontend global http-errors listen log-forward log-profile mailers
    peers program resolvers ring traces userlist
""".split())

#: Server keywords that are followed by a value. Such a value could be the word "weight" or "disabled" itself.
#: From the list of server options in HAProxy's configuration manual, 2.2 to 3.4.
WITH_VALUE = frozenset("""
    addr agent-addr agent-inter agent-port agent-send alpn ca-file check-alpn check-pool-conn-name check-proto
    check-sni ciphers ciphersuites client-sigalgs cookie crl-file crt curves downinter error-limit fall fastinter guid
    hash-key id idle-ping init-addr init-state inter interface log-bufsize log-proto max-reuse maxconn maxqueue minconn
    namespace npn observe on-error on-marked-down on-marked-up pool-conn-name pool-low-conn pool-max-conn
    pool-purge-delay port proto proxy-v2-options redir resolve-net resolve-opts resolve-prefer resolvers rise shard
    sigalgs slowstart sni socks4 source ssl-max-ver ssl-min-ver strict-maxconn-queue tcp-ut track usesrc verify
    verifyhost weight ws
""".split())

_NUMBER = re.compile(r"[0-9]+\Z")
#: One line with its line end. (str.splitlines would also cut at form feeds and the like.)
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


def words(text):
    """Cuts one line (str) into its words. An unclosed quote ends with the line, as HAProxy would refuse it anyway."""
    found = []
    value, start, quote, index = None, 0, "", 0
    length = len(text.rstrip("\r\n"))
    while index < length:
        letter = text[index]
        if not quote and letter in " \t":
            if value is not None:
                found.append(Word(value, start, index))
                value = None
            index += 1
            continue
        if not quote and letter == "#":
            break
        if value is None:
            value, start = "", index
        if letter == "\\" and quote != "'" and index + 1 < length:
            following = text[index + 1]
            if quote and following not in '\\"$':
                value += letter
            value += following
            index += 2
            continue
        if quote and letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
        else:
            value += letter
        index += 1
    if value is not None:
        found.append(Word(value, start, min(index, length)))
    return found


def parse(text):
    """Cuts a configuration (str) into sections, in order. What stands before the first one is a section of kind ""."""
    sections = [Section("", "", None, [])]
    latest_defaults = None
    for number, line in enumerate(_LINE.findall(text), 1):
        cut = words(line)
        if cut and cut[0].value in SECTIONS:
            kind = cut[0].value
            values = [word.value for word in cut[1:]]
            name = values[0] if values and values[0] != "from" else ""
            parent = latest_defaults
            if "from" in values and values.index("from") + 1 < len(values):
                parent = ("named", values[values.index("from") + 1])
            if kind == "defaults":
                if "from" not in values:
                    parent = None
                latest_defaults = ("line", number)
            sections.append(Section(kind, name, parent, [Line(number, line, cut)]))
        else:
            sections[-1].lines.append(Line(number, line, cut))
    return sections


def lineage(sections, section):
    """The section and the `defaults` sections it takes over, nearest first: list of Section."""
    found = [section]
    while found[-1].parent is not None and len(found) < 100:
        how, which = found[-1].parent
        for candidate in sections:
            if candidate.kind != "defaults":
                continue
            if (candidate.name if how == "named" else candidate.lines[0].number) == which:
                found.append(candidate)
                break
        else:
            break
    return found


def first_setting(chain, *keywords):
    """The words after `keywords` on the last such line of the nearest section that has one (list of str), or None."""
    for section in chain:
        for line in reversed(section.lines):
            values = [word.value for word in line.words]
            if tuple(values[:len(keywords)]) == keywords:
                return values[len(keywords):]
    return None


def global_settings(texts):
    """What `global` sections say: dict of server_state_file and server_state_base (str or None)."""
    answer = {"server_state_file": None, "server_state_base": None}
    for text in texts:
        for section in parse(text):
            if section.kind != "global":
                continue
            for key in answer:
                values = first_setting([section], key.replace("_", "-"))
                if values:
                    answer[key] = values[0]
    return answer


def backend_settings(texts):
    """What the files say about each backend: {name: {hash_type (str or None), load_state (str or None), cuts_when_down}}.

    cuts_when_down: whether a server has `on-marked-down shutdown-sessions`, so that maintenance cuts what is under way.
    """
    answer = {}
    for text in texts:
        sections = parse(text)
        for section in sections:
            if section.kind in ("backend", "listen") and section.name:
                chain = lineage(sections, section)
                hash_type = first_setting(chain, "hash-type") or [None]
                load_state = first_setting(chain, "load-server-state-from-file") or [None]
                answer[section.name] = {
                    "hash_type": hash_type[0],
                    "load_state": load_state[0],
                    "cuts_when_down": any(
                        line.words and line.words[0].value in ("server", "server-template", "default-server")
                        and "shutdown-sessions" in [word.value for word in line.words]
                        for ancestor in chain for line in ancestor.lines),
                }
    return answer


def _options(cut, first):
    """Weight words, and `disabled`/`enabled` words, among the options that begin at word `first` of a line."""
    weights, flags = [], []
    index = first
    while index < len(cut):
        value = cut[index].value
        if value == "weight" and index + 1 < len(cut):
            weights.append(cut[index + 1])
        elif value in ("disabled", "enabled"):
            flags.append(cut[index])
        index += 2 if value in WITH_VALUE else 1
    return weights, flags


def _inherited(lines, weight, disabled):
    """Weight and `disabled` that servers after the `default-server` lines of `lines` start from."""
    for line in lines:
        if line.words and line.words[0].value == "default-server":
            weights, flags = _options(line.words, 1)
            if weights:
                weight = weights[-1].value
            if flags:
                disabled = flags[-1].value == "disabled"
    return weight, disabled


def _change(line, first, wanted, weight, disabled):
    """The line's text with what is wanted, given what the server takes over. Right to left, so that places hold."""
    weights, flags = _options(line.words, first)
    edits = []
    behind = ""
    if wanted.get("weight") is not None:
        now = weights[-1].value if weights else weight
        if not _NUMBER.match(now) or int(now) != wanted["weight"]:
            if weights:
                edits.append((weights[-1].start, weights[-1].end, str(wanted["weight"])))
            else:
                behind += " weight %d" % wanted["weight"]
    if wanted.get("disabled") is not None:
        now = flags[-1].value == "disabled" if flags else disabled
        if now != wanted["disabled"]:
            for flag in flags:
                start = flag.start
                while line.text[start - 1] in " \t":
                    start -= 1
                edits.append((start, flag.end, ""))
            if wanted["disabled"] != disabled:
                behind += " disabled" if wanted["disabled"] else " enabled"
    text = line.text
    if behind:
        end = line.words[-1].end
        edits.append((end, end, behind))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _template_names(cut):
    """The server names that a server-template line makes: set of str (`prefix 3`, `prefix 2-5`)."""
    if len(cut) < 3:
        return set()
    limits = cut[2].value.split("-")
    if not all(_NUMBER.match(limit) for limit in limits) or len(limits) > 2:
        return set()
    first = int(limits[0]) if len(limits) == 2 else 1
    return {"%s%d" % (cut[1].value, number) for number in range(first, int(limits[-1]) + 1)}


def edit(text, path, wanted):
    """Puts weights and `disabled` into server lines.

    :param text: str, the whole file; line ends stay as they are.
    :param path: str, for messages.
    :param wanted: {(backend, server): {"weight": int or None, "disabled": bool or None}}; None leaves it alone.
    :returns: (new text, changes, found, problems): changes is a list of (line number, before, after), found the keys
        that this file has a line for, problems a list of str.
    """
    sections = parse(text)
    lines = _LINE.findall(text)
    backends = {backend for backend, server in wanted}
    changes, found, problems = [], {}, []
    for section in sections:
        if section.kind not in ("backend", "listen") or section.name not in backends:
            continue
        weight, disabled = "1", False
        for ancestor in reversed(lineage(sections, section)[1:]):
            weight, disabled = _inherited(ancestor.lines, weight, disabled)
        for line in section.lines:
            weight, disabled = _inherited([line], weight, disabled)
            keyword = line.words[0].value if line.words else ""
            if keyword == "server-template":
                for name in sorted(_template_names(line.words)):
                    if (section.name, name) in wanted:
                        found[section.name, name] = line.number
                        problems.append(
                            "%s line %d: %s/%s comes from a server-template line, which has one weight for all its "
                            "servers. Write server lines of their own, or do without conf_file."
                            % (path, line.number, section.name, name)
                        )
            if keyword != "server" or len(line.words) < 3:
                continue
            key = (section.name, line.words[1].value)
            if key not in wanted:
                continue
            if key in found:
                problems.append(
                    "%s: %s/%s has two server lines, %d and %d. Which one counts cannot be told from the file."
                    % (path, key[0], key[1], found[key], line.number)
                )
                continue
            found[key] = line.number
            new = _change(line, 3, wanted[key], weight, disabled)
            if new != line.text:
                changes.append((line.number, line.text.rstrip("\r\n"), new.rstrip("\r\n")))
                lines[line.number - 1] = new
    return "".join(lines), changes, set(found), problems
