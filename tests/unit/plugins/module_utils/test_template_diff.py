# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""With the real git and patch: what they say and take is what the module promises."""

import os
import random
import shutil
import subprocess

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _template_diff
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import CommandError, KongError

BELOW = "kong/templates"
NGINX = "return [[\npid p;\nevents {\n    worker_connections 4;\n}\n\nhttp {\n    include 'nginx-kong.conf';\n}\n]]\n"
HTTP = (
    "return [[\ncharset UTF-8;\n\n> if a then\nlua_shared_dict kong 5m;\n> end\n\nserver {\n"
    + "".join("    set $x%d '';\n" % n for n in range(8))
    + "    location / {\n        proxy_pass http://a;\n    }\n}\n]]\n"
)
# name -> (source, target) of one file; None: it is not there.
PAIRS = {
    "same": (HTTP, HTTP),
    "one line": (HTTP, HTTP.replace("$x3", "$y")),
    "first and last line": ("a\nb\nc\n", "A\nb\nC\n"),
    "only white space": (HTTP, HTTP.replace("    ", "\t")),
    "line and white space": (HTTP, HTTP.replace("    ", "  ").replace("$x3", "$y")),
    "reindented and moved": (HTTP, HTTP.replace("server {\n", "server {\n> if b then\n").replace("    set", "\tset")),
    "blank lines": ("a\n\n\nb\nc\n", "a\nb\n\n\nc\nd\n"),
    "no newline at the end": ("a\nb", "a\nb\nc"),
    "newline at the end alone": ("a\nb", "a\nb\n"),
    "loses its last newline": ("a\nb\nc\n", "a\nx\nc"),
    "carriage returns": ("a\r\nb\r\nc\r\n", "a\nx\nc\n"),
    "form feed and no UTF-8": ("a\fb\n\udcff\nc\n", "a\fb\n\udcff\nd\n"),
    "lines like headers": ("--- a\n+++ b\n@@ -1 +1 @@\nx\n", "--- a\n@@ -1 +1 @@\ny\n"),
    "emptied": ("a\nb\n", ""),
    "new": (None, "a\nb\n"),
    "gone": ("a\nb\n", None),
}


def run_command(argv, cwd=None, environ_update=None):
    environment = dict(os.environ, **(environ_update or {}))
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, check=False)
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode()


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def tree(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        if text is not None:
            put(folder / name, text)
    return folder


def compare(source, target, check_mode=False, **options):
    params = dict.fromkeys(("repository", "patch", "custom", "merged", "mode"))
    params.update(source=str(source), target=str(target), path=BELOW)
    params.update({key: str(value) if key != "mode" else value for key, value in options.items()})
    return _template_diff.compare(params, run_command, check_mode)


def pair(tmp_path, below, name):
    """Two folders that hold a file that both have besides the one of the pair."""
    for side, text in zip(("old", "new"), PAIRS[name]):
        tree(tmp_path / side / below, {"nginx_kong.lua": text, "kong_yml.lua": "x\n"})
    return tmp_path / "old", tmp_path / "new"


def applied(folder, patch, tool):
    """The folder after the patch was applied by a tool, without any fuzz."""
    command = ["git", "apply", patch] if tool == "git" else ["patch", "-p1", "-F0", "--no-backup-if-mismatch", "-i", patch]
    environment = dict(os.environ, GIT_CEILING_DIRECTORIES=str(folder.parent))
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "offset" not in done.stdout and "fuzz" not in done.stdout
    return folder


def words(text):
    """A text as git diff -w sees it: lines without white space; an end without a newline is none."""
    return ["".join(line.split()) for line in text.split("\n")] if text else []


# --- files and patch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_lines_are_counted_as_git_diff_w_does(tmp_path, name):
    old, new = pair(tmp_path, BELOW, name)
    found = {entry["name"]: (entry["added"], entry["removed"]) for entry in compare(old, new)["files"]}
    done = subprocess.run(
        ["git", "diff", "-w", "--no-index", "--numstat", "--text", old, new], capture_output=True, text=True, check=False
    )
    numstat = {"kong_yml.lua": (0, 0), "nginx_kong.lua": (0, 0)}
    for line in done.stdout.splitlines():
        added, removed, path = line.split("\t")
        numstat[os.path.basename(path.rstrip("}").split(" => ")[0] + "/nginx_kong.lua")] = (int(added), int(removed))
    assert found == numstat


@pytest.mark.parametrize("below", [BELOW, ""])
@pytest.mark.parametrize("tool", ["git", "patch"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_patch_applies_and_makes_source_into_target(tmp_path, name, tool, below):
    if not shutil.which(tool):
        pytest.skip("no %s on this machine" % tool)
    old, new = pair(tmp_path, below, name)
    patch = tmp_path / "a.patch"
    result = compare(old, new, patch=patch)
    assert result["changed"]
    text = patch.read_bytes().decode("utf-8", "surrogateescape")
    changed = any(entry["diff"] for entry in result["files"])
    assert bool(text) == changed
    if changed:
        applied(old, patch, tool)
    file, wanted = old / below / "nginx_kong.lua", PAIRS[name][1]
    assert file.exists() == (wanted is not None) or (tool == "patch" and not wanted)
    if wanted:
        assert [w for w in words(file.read_bytes().decode("utf-8", "surrogateescape")) if w] == [w for w in words(wanted) if w]


def test_a_patch_leaves_white_space_of_the_source_alone(tmp_path):
    old, new = pair(tmp_path, "", "line and white space")
    compare(old, new, patch=tmp_path / "a.patch")
    text = (tmp_path / "a.patch").read_text()
    assert "-    set $x3 '';\n+  set $y '';\n" in text
    assert sum(line[:1] in "+-" for line in text.splitlines()) == 4  # with the two of the header


def test_many_random_changes_apply(tmp_path):
    """What no table thinks of: blank and repeated lines, changes of white space inside and beside other changes."""
    chance = random.Random(7)
    for number in range(40):
        old = [chance.choice(["}\n", "\n", "  a;\n", "b c;\n", "> end\n", "x%d\n" % chance.randrange(9)]) for dummy in range(30)]
        new = []
        for line in old:
            kind = chance.random()
            new += [] if kind < 0.1 else ["n;\n", line] if kind < 0.2 else ["\t" + line] if kind < 0.5 else [line]
        folders = [
            tree(tmp_path / str(number) / side, {"a.lua": "".join(text)}) for side, text in (("old", old), ("new", new))
        ]
        patch = tmp_path / ("%d.patch" % number)
        compare(*folders, patch=patch)
        if patch.read_text():
            applied(folders[0], patch, "git")
        done = subprocess.run(
            ["git", "diff", "--no-index", "-w", "--quiet", folders[0] / "a.lua", folders[1] / "a.lua"], check=False
        )
        assert done.returncode == 0, number


def test_files_of_one_side(tmp_path):
    old = tree(tmp_path / "old", {"a.lua": "a\n", "b.lua": "b\n", "readme.md": "x", "b.lua.orig": "x"})
    new = tree(tmp_path / "new", {"b.lua": "b\n", "c.lua": "c\nd\n"})
    result = compare(old, new)
    assert result["only_in_source"] == ["a.lua"] and result["only_in_target"] == ["c.lua"]
    assert [(f["name"], f["added"], f["removed"]) for f in result["files"]] == [
        ("a.lua", 0, 1),
        ("b.lua", 0, 0),
        ("c.lua", 2, 0),
    ]
    assert result["files"][1]["diff"] == ""
    assert result["files"][2]["diff"].startswith("diff --git a/c.lua b/c.lua\nnew file mode 100644\n--- /dev/null\n+++ b/c.lua\n")
    assert result["changed"] is False and result["diff"] == []


def test_what_a_user_set_for_git_does_not_count(tmp_path, monkeypatch):
    (tmp_path / ".gitconfig").write_text("[diff]\n\tnoprefix = true\n\tcontext = 0\n[color]\n\tui = always\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    old, new = pair(tmp_path, "", "one line")
    (entry,) = [e for e in compare(old, new)["files"] if e["diff"]]
    assert "--- a/nginx_kong.lua\n+++ b/nginx_kong.lua\n@@ -9,7 +9,7 @@" in entry["diff"]


def clone(tmp_path, bare):
    """A repository with two tags."""
    work = tmp_path / "work"
    work.mkdir()
    git = ["git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    for tag, text in (("2.1.4", HTTP), ("2.8.5", HTTP.replace("$x3", "$y"))):
        tree(work / BELOW, {"nginx.lua": NGINX, "nginx_kong.lua": text})
        put(work / "kong" / "other.lua", "x\n")
        put(work / BELOW / "sub" / "deep.lua", "x\n")
        subprocess.run(git + ["add", "-A"], check=True)
        subprocess.run(git + ["commit", "-q", "-m", tag], check=True)
        subprocess.run(git + ["tag", tag], check=True)
    if not bare:
        return work
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(tmp_path / "bare")], check=True)
    return tmp_path / "bare"


@pytest.mark.parametrize("bare", [False, True])
def test_tags_of_a_repository(tmp_path, bare):
    repository = clone(tmp_path, bare)
    before = sorted(str(path) for path in repository.rglob("*"))
    result = compare("2.1.4", "2.8.5", repository=repository, patch=tmp_path / "a.patch")
    assert [(f["name"], f["added"], f["removed"]) for f in result["files"]] == [("nginx.lua", 0, 0), ("nginx_kong.lua", 1, 1)]
    assert "--- a/kong/templates/nginx_kong.lua\n" in (tmp_path / "a.patch").read_text()
    assert sorted(str(path) for path in repository.rglob("*")) == before


# --- a custom template ------------------------------------------------------------------------------------------------

STREAM = "return [[\nlog_format basic '$a';\nserver {\n    listen 1;\n}\n]]\n"
OLD = {"nginx.lua": NGINX, "nginx_kong.lua": HTTP}
NEW = {
    "nginx.lua": NGINX.replace("http {", "# main\nhttp {").replace("]]", "\nstream {\n    include 'nginx-kong-stream.conf';\n}\n]]"),
    "nginx_kong.lua": HTTP.replace("$x3", "$y").replace("kong 5m", "kong 9m"),
    "nginx_kong_stream.lua": STREAM,
}


def inner(text):
    return text[len("return [[\n"):-len("]]\n")]


def whole(files):
    """nginx.lua with nginx_kong.lua in it, not indented."""
    return inner(files["nginx.lua"]).replace("    include 'nginx-kong.conf';\n", inner(files["nginx_kong.lua"]))


def three(tmp_path, text, **options):
    old, new = tree(tmp_path / "old", OLD), tree(tmp_path / "new", NEW)
    put(tmp_path / "custom", text)
    return compare(old, new, custom=tmp_path / "custom", **options)["custom"]


@pytest.mark.parametrize(
    ("text", "base", "likeness"),
    [
        (inner(NGINX), ["nginx.lua"], 1),
        (NGINX, ["nginx.lua"], 1),
        (inner(HTTP), ["nginx_kong.lua"], 1),
        (HTTP, ["nginx_kong.lua"], 1),
        (whole(OLD), ["nginx.lua", "nginx_kong.lua"], 1),
        ("\t" + whole(OLD).replace("\n", "\n\t"), ["nginx.lua", "nginx_kong.lua"], 1),
        (inner(NGINX).replace("pid p;\n", "pid p;\nuser me;\nenv X;\n"), ["nginx.lua"], 0.875),
    ],
)
def test_the_base_is_chosen_by_likeness(tmp_path, text, base, likeness):
    found = three(tmp_path, text)
    assert (found["base"], found["likeness"]) == (base, likeness)


def test_a_stream_part_is_known_where_both_versions_have_it(tmp_path):
    tree(tmp_path / "old", {"nginx.lua": NEW["nginx.lua"], "nginx_kong_stream.lua": STREAM})
    text = inner(NEW["nginx.lua"]).replace("    include 'nginx-kong-stream.conf';\n", inner(STREAM))
    assert _template_diff.best_shape(
        text, *(_template_diff.Tree("x", "", files) for files in ({**NEW, "nginx_kong.lua": HTTP}, NEW))
    )[0] == ("nginx.lua", "nginx_kong_stream.lua")


def test_both_changes_come_together(tmp_path):
    mine = whole(OLD).replace("charset UTF-8;\n", "charset UTF-8;\ngzip on;\n").replace("    set", "  set")
    found = three(tmp_path, mine, merged=tmp_path / "merged")
    assert found["conflicts"] == []
    assert (found["changed"]["added"], found["changed"]["removed"]) == (1, 0)
    assert "+gzip on;\n" in found["changed"]["diff"] and "x3" not in found["changed"]["diff"]
    assert (found["kong_changed"]["added"], found["kong_changed"]["removed"]) == (7, 2)
    merged = (tmp_path / "merged").read_text()
    assert words(merged) == words(whole(NEW).replace("charset UTF-8;\n", "charset UTF-8;\ngzip on;\n"))
    assert "  set $x1 '';\n" in merged  # in the form of the custom template


def test_where_they_meet(tmp_path):
    mine = whole(OLD).replace("$x3 '';", "$x3 'mine';").replace("kong 5m", "kong 9m")
    found = three(tmp_path, mine, merged=tmp_path / "merged")
    line = mine.split("\n").index("    set $x3 'mine';") + 1
    assert found["conflicts"] == [
        {
            "line": line,
            "last_line": line,
            "custom": "    set $x3 'mine';\n",
            "source": "    set $x3 '';\n",
            "target": "    set $y '';\n",
        }
    ]
    labels = tmp_path / "old", tmp_path / "new"
    assert (
        "<<<<<<< custom\n    set $x3 'mine';\n||||||| Kong %s\n    set $x3 '';\n=======\n    set $y '';\n>>>>>>> Kong %s\n"
        % labels
        in (tmp_path / "merged").read_text()
    )


def test_what_comes_from_kong_is_indented_as_the_rest(tmp_path):
    indented = _template_diff.assembled(("nginx.lua", "nginx_kong.lua"), OLD, True)
    for mine, line in ((whole(OLD), "    set $y '';\n"), (indented, "        set $y '';\n")):
        three(tmp_path, mine, merged=tmp_path / "merged")
        assert line in (tmp_path / "merged").read_text().splitlines(True)


def test_lines_count_in_the_file_with_its_wrapper(tmp_path):
    mine = HTTP.replace("$x3 '';", "$x3 'mine';")
    found = three(tmp_path, mine, merged=tmp_path / "merged")
    (conflict,) = found["conflicts"]
    assert mine.split("\n")[conflict["line"] - 1] == "    set $x3 'mine';"
    merged = (tmp_path / "merged").read_text()
    assert merged.startswith("return [[\n") and merged.endswith("]]\n")


def test_the_merge_is_that_of_git_merge_file(tmp_path):
    chance = random.Random(11)
    git = _template_diff.Git(run_command, str(tmp_path))
    met = 0
    for number in range(40):
        base = ["%s%d\n" % (chance.choice("ab"), chance.randrange(6)) for dummy in range(40)]
        sides = []
        for word in ("mine", "kong"):
            side = []
            for line in base:
                kind = chance.random()
                side += [] if kind < 0.04 else [word + line] if kind < 0.08 else [line, "new\n"] if kind < 0.12 else [line]
            sides.append("".join(side))
        for name, text in (("c", sides[0]), ("b", "".join(base)), ("k", sides[1])):
            put(tmp_path / name, text)
        text, conflicts = _template_diff.merge(sides[0], "".join(base), sides[1], ("1", "2"), git)
        command = ["git", "merge-file", "-p", "--diff3", "-L", "custom", "-L", "Kong 1", "-L", "Kong 2", "c", "b", "k"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == len(conflicts), number
        assert [line for line in text.split("\n") if line] == [line for line in done.stdout.split("\n") if line], number
        for mine, unused_old, new in conflicts:
            assert "".join(sides[0].splitlines(True)[mine.first : mine.last]) == mine.text
            assert "".join(sides[1].splitlines(True)[new.first : new.last]) == new.text
        met += len(conflicts)
    assert met > 40


def test_secrets_of_a_custom_template_stay_in_it(tmp_path):
    header = '    proxy_set_header Authorization "Basic hunter2";\n'
    mine = inner(HTTP).replace("    set $x3 '';\n", header)
    old, new = tree(tmp_path / "old", OLD), tree(tmp_path / "new", NEW)
    put(tmp_path / "custom", mine)
    os.chmod(tmp_path / "custom", 0o640)
    result = compare(old, new, custom=tmp_path / "custom", merged=tmp_path / "merged")
    assert "hunter2" not in repr(result)
    assert result["custom"]["conflicts"][0]["custom"] == "    proxy_set_header ******\n"
    assert "hunter2" in (tmp_path / "merged").read_text()
    assert os.stat(tmp_path / "merged").st_mode & 0o777 == 0o640


# --- writing and what is wrong ----------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(tmp_path):
    old, new = pair(tmp_path, "", "one line")
    patch = tmp_path / "a.patch"
    foretold = compare(old, new, check_mode=True, patch=patch)
    assert foretold["changed"] and not patch.exists()
    made = compare(old, new, patch=patch)
    assert made == foretold and made["diff"][0]["after"] == patch.read_text() and made["diff"][0]["before"] == ""
    again = compare(old, new, patch=patch)
    assert again["changed"] is False and again["diff"] == []
    put(patch, "something else\n")
    assert compare(old, new, patch=patch)["diff"][0]["before"] == "something else\n"
    assert sorted(os.listdir(tmp_path)) == ["a.patch", "new", "old"]


@pytest.mark.parametrize(("mode", "wanted"), [("0600", 0o600), ("640", 0o640), (0o604, 0o604), (None, 0o644)])
def test_mode(tmp_path, mode, wanted):
    old, new = pair(tmp_path, "", "one line")
    patch = tmp_path / "a.patch"
    compare(old, new, patch=patch, mode=mode)
    assert os.stat(patch).st_mode & 0o777 == wanted
    assert compare(old, new, patch=patch, mode="0444")["changed"]
    assert os.stat(patch).st_mode & 0o777 == 0o444
    assert compare(old, new, patch=patch)["changed"] is False


@pytest.mark.parametrize(
    ("options", "words_"),
    [
        ({"source": "{0}/none"}, "none cannot be read: No such file"),
        ({"source": "{0}"}, r"no template \(\*\.lua\) in .*: name a folder"),
        ({"path": "../x"}, "not a plain relative path"),
        ({"path": "/"}, "not a plain relative path"),
        ({"repository": "{0}/none", "source": "2.1.4"}, "Tag 2.1.4 cannot be read from .*none"),
        ({"repository": "{0}", "source": "--output=x"}, "is not the name of a tag"),
        ({"custom": "{0}/none"}, "none cannot be read"),
        ({"custom": "{0}/strange"}, "no line in common with the templates"),
        ({"merged": "{0}/m"}, "no custom template to merge"),
        ({"merged": "{0}/strange", "custom": "{0}/strange"}, "the custom template itself"),
        ({"patch": "{0}"}, "patch: .* is a folder"),
        ({"patch": "{0}/none/a.patch"}, "patch: .* does not exist"),
        ({"patch": "{0}/a", "mode": "rw"}, "'rw' is no mode of a file"),
        ({"patch": "{0}/a", "mode": True}, "True is no mode of a file"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, options, words_):
    old, new = pair(tmp_path / "t", "", "one line")
    put(tmp_path / "strange", "nothing;\n")
    options = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in options.items()}
    params = {"source": old, "target": new, **options}
    path = params.pop("path", None)
    with pytest.raises(KongError, match=words_):
        if path:
            _template_diff.read_tree({"path": path, "repository": None}, str(old), run_command)
        compare(**params)
    assert not (tmp_path / "a").exists()


def test_a_tag_that_is_not_there(tmp_path):
    repository = clone(tmp_path, bare=False)
    with pytest.raises(KongError, match="Tag 2.1.9 cannot be read .*There is no such tag"):
        compare("2.1.9", "2.8.5", repository=repository)
    with pytest.raises(KongError, match="There is no nothing in tag 2.1.4"):
        _template_diff.read_tree({"path": "nothing", "repository": str(repository)}, "2.1.4", run_command)


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KongError, match="no git command on this host"):
        compare(tmp_path, tmp_path)


def test_git_that_fails(tmp_path):
    git = _template_diff.Git(lambda *unused_argv, **unused_options: (128, "", "fatal: broken\n"), str(tmp_path))
    with pytest.raises(CommandError, match="git diff failed: fatal: broken"):
        git.diff("a\n", "b\n")
