# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What changed in Kong's nginx templates between two versions, and what that means for a custom template.

Every comparison is git's, so that "white space ignored" is what `git diff -w` means by it. A diff with -w does not apply
to the old file, since its context has the white space of the new one. So the new file is first given the white space of
the old one wherever they differ in nothing else (`in_form_of`); from then on ordinary diffs do. The same makes a custom
template, which is often indented in another way, comparable with Kong's.
"""

import collections
import os
import re
import shutil
import tempfile

from ansible_collections.bluegreen.kong.plugins.module_utils import _conf
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import CommandError, KongError
from ansible_collections.bluegreen.kong.plugins.module_utils._files import replace

# A diff must not depend on what a user or the machine has set for git.
ENVIRONMENT = {"LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "HOME": "/nonexistent"}
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", re.M)
# How custom templates are put together from Kong's files: the first, with the named includes replaced by the others.
INCLUDES = {"nginx_kong.lua": "nginx-kong.conf", "nginx_kong_stream.lua": "nginx-kong-stream.conf"}
SHAPES = (
    ("nginx.lua",),
    ("nginx.lua", "nginx_kong.lua"),
    ("nginx.lua", "nginx_kong.lua", "nginx_kong_stream.lua"),
    ("nginx.lua", "nginx_kong_stream.lua"),
    ("nginx_kong.lua",),
    ("nginx_kong_stream.lua",),
)

Tree = collections.namedtuple("Tree", "label prefix files")
Side = collections.namedtuple("Side", "first last text")


def compare(params, run_command, check_mode):
    """The whole of the module: dict for exit_json, with `diff` for diff mode.

    :param params: dict, the options of the module.
    :param run_command: callable, as AnsibleModule.run_command.
    :raises KongError: something cannot be read or written, or git is missing or fails.
    """
    if not shutil.which("git"):
        raise KongError("There is no git command on this host, which compares the templates: install it.")
    if params["merged"] and not params["custom"]:
        raise KongError("merged: there is no custom template to merge; set custom.")
    if params["merged"] and os.path.realpath(params["merged"]) == os.path.realpath(params["custom"]):
        raise KongError("merged: it is the custom template itself; name another file.")
    source, target = (read_tree(params, params[end], run_command) for end in ("source", "target"))
    with tempfile.TemporaryDirectory() as scratch:
        git = Git(run_command, scratch)
        result = {
            "files": [compare_file(name, source, target, git) for name in sorted(set(source.files) | set(target.files))],
            "only_in_source": sorted(set(source.files) - set(target.files)),
            "only_in_target": sorted(set(target.files) - set(source.files)),
        }  # type: dict[str, object]
        wanted = []
        if params["patch"]:
            wanted.append(("patch", params["patch"], patch_for(source, target, git), 0o644, str))
        if params["custom"]:
            result["custom"], merged, veil = compare_custom(params["custom"], source, target, git)
            if params["merged"]:
                mode = os.stat(params["custom"]).st_mode & 0o777
                wanted.append(("merged", params["merged"], merged, mode, veil))
    written = [write(option, path, text, mode, params["mode"], check_mode) for option, path, text, mode, veil in wanted]
    result["changed"] = any(changed for changed, before in written)
    result["diff"] = [
        {"before_header": path, "after_header": path, "before": veil(before), "after": veil(text)}
        for (unused_option, path, text, unused_mode, veil), (changed, before) in zip(wanted, written)
        if changed
    ]
    return result


# --- reading ----------------------------------------------------------------------------------------------------------


def read_tree(params, name, run_command):
    """The templates of one version: Tree; prefix is where they are below the folder that a patch is applied in."""
    path = params["path"].strip("/")
    if not re.match(r"[\w.-]+(/[\w.-]+)*$", path) or ".." in path.split("/"):
        raise KongError("path: %r is not a plain relative path such as kong/templates." % params["path"])
    if params["repository"]:
        files, prefix, where = read_tag(params["repository"], name, path, run_command), path, "%s of tag %s" % (path, name)
    else:
        name = os.path.expanduser(name)
        inside = os.path.join(name, *path.split("/"))
        folder, prefix = (inside, path) if os.path.isdir(inside) else (name, "")
        files, where = read_folder(folder), folder
    if not files:
        raise KongError("There is no template (*.lua) in %s: name a folder that holds them or has %s below." % (where, path))
    return Tree(name, prefix, files)


def read_folder(folder):
    """name -> text of the templates in a folder."""
    try:
        names = sorted(name for name in os.listdir(folder) if is_template(name))
    except OSError as error:
        raise KongError("%s cannot be read: %s. Name a folder that holds Kong's templates." % (folder, error.strerror))
    return dict((name, read_text(os.path.join(folder, name))) for name in names)


def read_text(path):
    """The text of a file, byte for byte."""
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise KongError("%s cannot be read: %s." % (path, error.strerror))


def read_tag(repository, tag, path, run_command):
    """name -> text of the templates at a tag of a clone; nothing is checked out."""
    command = ["git", "-C", repository]
    if not re.match(r"[\w.][\w./-]*$", tag):
        raise KongError("%r is not the name of a tag." % tag)
    full = "refs/tags/" + tag
    rc, unused_out, err = run_command(command + ["rev-parse", "--verify", "--quiet", full + "^{tree}"])
    if rc:
        reason = "%s." % err.strip() if err.strip() else "There is no such tag: get it there with git fetch --tags."
        raise KongError("Tag %s cannot be read from %s. %s" % (tag, repository, reason))
    rc, listing, unused_err = run_command(command + ["ls-tree", "-z", "%s:%s" % (full, path)])
    if rc:
        raise KongError("There is no %s in tag %s of %s: set path." % (path, tag, repository))
    files = {}
    for entry in filter(None, listing.split("\0")):
        about, name = entry.split("\t", 1)
        kind, blob = about.split()[1:3]
        if kind == "blob" and is_template(name):
            rc, files[name], err = run_command(command + ["cat-file", "blob", blob])
            if rc:
                raise CommandError("git cat-file of %s at tag %s failed: %s" % (name, tag, err.strip()), rc=rc)
    return files


def is_template(name):
    """Whether a file of this name is one of Kong's templates, and may stand in a patch as it is."""
    return bool(re.match(r"[\w-][\w.-]*\.lua$", name))


# --- comparing --------------------------------------------------------------------------------------------------------


class Git(object):
    """git diff on two texts, in a scratch folder."""

    def __init__(self, run_command, scratch):
        self.run_command, self.scratch = run_command, scratch

    def diff(self, old, new, *options):
        """The hunks of a diff as text, "" where there is none."""
        for name, text in (("old", old), ("new", new)):
            with open(os.path.join(self.scratch, name), "wb") as stream:
                stream.write(text.encode("utf-8", "surrogateescape"))
        fixed = ["git", "diff", "--no-index", "--no-color", "--no-ext-diff", "--no-textconv", "--text"]
        environment = dict(ENVIRONMENT, GIT_CEILING_DIRECTORIES=os.path.dirname(self.scratch))
        rc, out, err = self.run_command(
            fixed + list(options) + ["--", "old", "new"], cwd=self.scratch, environ_update=environment
        )
        if rc not in (0, 1):
            raise CommandError("git diff failed: %s" % err.strip(), rc=rc)
        first = HUNK.search(out)
        return out[first.start():] if first else ""

    def hunks(self, old, new, *options):
        """[(first, last, first, last)]: lines of old, counted from 0 and without the last, and those that replace them."""
        found = []
        for match in HUNK.finditer(self.diff(old, new, "-U0", *options)):
            a, b, c, d = (1 if group is None else int(group) for group in match.groups())
            # Where no line is named, git counts from the line before.
            first, other = (a - 1 if b else a), (c - 1 if d else c)
            found.append((first, first + b, other, other + d))
        return found


def lines(text):
    """The lines of a text as git counts them, each with its end."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def joined(pieces):
    """Lines as text; one that had no end, and is not the last any more, gets one."""
    return "".join(
        piece if piece.endswith("\n") or index == len(pieces) - 1 else piece + "\n" for index, piece in enumerate(pieces)
    )


def squeezed(text):
    """A text without any white space."""
    return "".join(text.split())


def in_form_of(old, new, git):
    """The new text, with the white space of the old one in all lines that differ in nothing else."""
    before, after, result, place = lines(old), lines(new), [], 0
    for first, last, other, end in git.hunks(old, new, "-w"):
        result += before[place:first] + after[other:end]
        place = last
    return joined(result + before[place:])


def counted(hunks):
    """(number of added lines, of removed lines) in the text of hunks."""
    starts = [line[:1] for line in hunks.split("\n")]
    return starts.count("+"), starts.count("-")


def headed(name, there, hunks):
    """Hunks with the header that patch and git apply want. there: whether source and target have the file."""
    kinds = {(False, True): "new file mode 100644\n", (True, False): "deleted file mode 100644\n"}
    old, new = ("%s/%s" % (side, name) if has else os.devnull for side, has in zip("ab", there))
    return "diff --git a/{0} b/{0}\n{1}--- {2}\n+++ {3}\n{4}".format(name, kinds.get(there, ""), old, new, hunks)


def compare_file(name, source, target, git):
    """One entry of `files`."""
    there = (name in source.files, name in target.files)
    hunks = git.diff(source.files.get(name, ""), target.files.get(name, ""), "-w")
    added, removed = counted(hunks)
    return {
        "name": name,
        "added": added,
        "removed": removed,
        "diff": headed(below(source, name), there, hunks) if hunks else "",
    }


def below(tree, name):
    """The path of a template below the folder that a patch is applied in."""
    return "%s/%s" % (tree.prefix, name) if tree.prefix else name


def patch_for(source, target, git):
    """A patch that makes of source what target is, but for white space. It applies to source with no fuzz."""
    text = ""
    for name in sorted(set(source.files) | set(target.files)):
        there = (name in source.files, name in target.files)
        old, new = source.files.get(name, ""), target.files.get(name, "")
        hunks = git.diff(old, in_form_of(old, new, git) if all(there) else new)
        if hunks:
            text += headed(below(source, name), there, hunks)
    return text


# --- a custom template ------------------------------------------------------------------------------------------------


def unwrapped(text):
    """(before, template, behind) of a file; the template is what stands in `return [[ ... ]]`, or the whole."""
    match = re.match(r"(.*?\breturn\s*\[(=*)\[\n?)(.*)(\]\2\].*)$", text, re.S)
    before, template, behind = (match.group(1), match.group(3), match.group(4)) if match else ("", text, "")
    return before, template if template.endswith("\n") or not template else template + "\n", behind


def assembled(shape, files, indented):
    """The template that a shape makes of Kong's files, or None where one of them or its include is missing.

    :param indented: whether what stands in for an include is indented as that is.
    """
    if not set(shape) <= set(files):
        return None
    text = unwrapped(files[shape[0]])[1]
    for name in shape[1:]:
        include = re.search(r"^([ \t]*)include\s+['\"]?%s['\"]?;.*\n" % re.escape(INCLUDES[name]), text, re.M)
        if not include:
            return None
        body = lines(unwrapped(files[name])[1])
        if indented:  # all but control lines, which begin with ">" at the margin
            body = [line if line[0] in ">\n" else include.group(1) + line for line in body]
        text = text[:include.start()] + "".join(body) + text[include.end():]
    return text


def likeness(one, other, form):
    """How much two texts have in common, from 1 for all to 0 for no line. form: what of a line counts."""
    a, b = (collections.Counter(filter(None, map(form, lines(text)))) for text in (one, other))
    return 2.0 * sum((a & b).values()) / (sum(a.values()) + sum(b.values()) or 1)


def best_shape(custom, source, target):
    """(shape, likeness, base, kong): what of Kong's the custom template was made from, in source and in target."""
    found = []  # type: list[tuple]
    for shape in SHAPES:
        for indented in (False, True):
            base, kong = (assembled(shape, tree.files, indented) for tree in (source, target))
            if base is not None and kong is not None:
                like = likeness(custom, base, squeezed), likeness(custom, base, str)
                found.append((like, shape, base, kong))
    (like, unused_exact), shape, base, kong = max(found, key=lambda each: each[0], default=((0, 0), "", "", ""))
    if not like:
        raise KongError(
            "custom has no line in common with the templates of %s: check that it is an nginx template of Kong, and that "
            "source is the version it was made for." % source.label
        )
    return shape, round(like, 3), base, kong


def compare_custom(path, source, target, git):
    """(`custom` of the result, the merged text, function that hides the secrets of the custom template in a text)."""
    before, custom, behind = unwrapped(read_text(path))
    shape, like, base, kong = best_shape(custom, source, target)
    veil = veil_for(custom, base + kong)
    base = in_form_of(custom, base, git)
    kong = in_form_of(base, kong, git)
    text, conflicts = merge(custom, base, kong, (source.label, target.label), git)
    offset = before.count("\n")
    result = {"base": list(shape), "likeness": like}
    for name, old, new, labels in (
        ("changed", base, custom, (source.label, path)),
        ("kong_changed", base, kong, (source.label, target.label)),
    ):
        hunks = git.diff(old, new)
        added, removed = counted(hunks)
        head = "--- %s\n+++ %s\n" % labels if hunks else ""
        result[name] = {"added": added, "removed": removed, "diff": veil(head + hunks)}
    result["conflicts"] = [
        {
            "line": mine.first + 1 + offset,
            "last_line": max(mine.last, mine.first + 1) + offset,
            "custom": veil(mine.text),
            "source": old.text,
            "target": new.text,
        }
        for mine, old, new in conflicts
    ]
    return result, before + text + behind, veil


def veil_for(custom, kong):
    """A function that hides secrets of a custom template: lines that are not Kong's and look like holding one."""
    known = set(map(squeezed, lines(kong)))
    hidden = set()
    for line in lines(custom):
        if squeezed(line) not in known and _conf.is_secret("nginx_http_", line):
            hidden.add(line.strip())
    longest_first = sorted(hidden, key=len, reverse=True)

    def veil(text):
        for line in longest_first:
            text = text.replace(line, "%s %s" % (line.split()[0], _conf.MASK))
        return _conf.scrub(text, [])

    return veil


def merge(custom, base, kong, labels, git):
    """(text, [(Side of custom, of base, of kong)]): both changes in one text, and where they meet.

    They meet where both changed the same lines of the base, or lines that touch, to something else. `git merge-file` gives the same
    text, with which the tests compare it; but it does not tell which lines of the custom template are the ones that meet.
    """
    sides = [lines(custom), lines(base), lines(kong)]
    ours, theirs = git.hunks(base, custom), git.hunks(base, kong)
    result, conflicts, place = [], [], 0
    shift = [0, 0]  # how far custom and kong are ahead of the base
    while ours or theirs:
        first, last, of_ours, of_theirs = next_group(ours, theirs)
        at = (first + shift[0], first, first + shift[1])
        shift[0] += sum((d - c) - (b - a) for a, b, c, d in of_ours)
        shift[1] += sum((d - c) - (b - a) for a, b, c, d in of_theirs)
        ends = (last + shift[0], last, last + shift[1])
        mine, old, new = [Side(a, b, side[a:b]) for a, b, side in zip(at, ends, sides)]
        result += sides[1][place:first]
        place = last
        if not of_theirs or squeezed("".join(mine.text)) == squeezed("".join(new.text)):
            result += mine.text
        elif not of_ours:
            result += new.text
        else:
            head, tail = common(mine.text, new.text)
            result += mine.text[:head]
            inner = (
                Side(mine.first + head, mine.last - tail, "".join(mine.text[head:len(mine.text) - tail])),
                Side(old.first, old.last, "".join(old.text)),
                Side(new.first + head, new.last - tail, "".join(new.text[head:len(new.text) - tail])),
            )
            conflicts.append(inner)
            result += ["<<<<<<< custom\n", inner[0].text, "||||||| Kong %s\n" % labels[0], inner[1].text]
            result += ["=======\n", inner[2].text, ">>>>>>> Kong %s\n" % labels[1]]
            result += mine.text[len(mine.text) - tail:]
    return "".join(result + sides[1][place:]), conflicts


def next_group(ours, theirs):
    """(first, last, hunks of ours, of theirs): the next hunks that touch each other in the base, taken off the lists."""
    first = min(hunks[0][0] for hunks in (ours, theirs) if hunks)
    last, taken = first, ([], [])
    grown = True
    while grown:
        grown = False
        for hunks, group in zip((ours, theirs), taken):
            while hunks and hunks[0][0] <= last:
                group.append(hunks.pop(0))
                last = max(last, group[-1][1])
                grown = True
    return first, last, taken[0], taken[1]


def common(one, other):
    """(number of lines that two lists begin with alike, that they end with alike beyond those)."""
    head = tail = 0
    while head < min(len(one), len(other)) and squeezed(one[head]) == squeezed(other[head]):
        head += 1
    while tail < min(len(one), len(other)) - head and squeezed(one[-1 - tail]) == squeezed(other[-1 - tail]):
        tail += 1
    return head, tail


# --- writing ----------------------------------------------------------------------------------------------------------


def mode_of(mode):
    """A file mode from an option: octal as text, or a number. None stays None."""
    if isinstance(mode, str) and re.match(r"0?[0-7]{3,4}$", mode):
        return int(mode, 8)
    if mode is None or (isinstance(mode, int) and not isinstance(mode, bool) and 0 <= mode <= 0o7777):
        return mode
    raise KongError("mode: %r is no mode of a file: write it in quotes, like '0644'." % (mode,))


def write(option, path, text, default, mode, check_mode):
    """Makes the file what it has to be, in one step: (whether something changes, the text before).

    :param default: mode of a new file where none is asked for; one that is there keeps its own.
    """
    mode = mode_of(mode)
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise KongError("%s: %s is a folder, or the folder it would be in does not exist." % (option, path))
    there = os.path.exists(path)
    before = read_text(path) if there else ""
    wrong = there and mode is not None and os.stat(path).st_mode & 0o7777 != mode
    differs = not there or before != text
    if not check_mode:
        try:
            if differs:
                replace(path, text, default if mode is None else mode)
            if wrong:
                os.chmod(path, mode)
        except OSError as error:
            raise KongError("%s: %s cannot be written: %s." % (option, path, error.strerror))
    return differs or wrong, before
