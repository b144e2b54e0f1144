# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import pytest
from ansible_collections.bluegreen.kong.plugins.plugin_utils import knowledge, templates

HTTP, STREAM = "nginx_kong.lua", "nginx_kong_stream.lua"


def written(names):
    """A template that has these directives."""
    return "".join("%s {\n}\n" % n if n.startswith("location") else "%s 1;\n" % n for n in names)


def custom(version, without=(), stream=True, http=True):
    """A custom template of a version in one file, as an operator may have it; the inside of http and stream if asked."""
    has = knowledge.template_directives(version)
    text = "pid p;\nerror_log e;\nevents {\n    worker_connections 4;\n}\n"
    for block, file, wanted in (("http", HTTP, http), ("stream", STREAM, stream)):
        inside = written(name for name in has[file] if name not in without)
        include = "include '%s';\n" % {HTTP: "nginx-kong.conf", STREAM: "nginx-kong-stream.conf"}[file]
        if file != STREAM or stream is not None:
            text += "%s {\n%s}\n" % (block, inside if wanted else include)
    return text


def names(text, target="2.8.5"):
    return ["%(file)s: %(directive)s" % entry for entry in templates.missing_in_template(text, target)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a;", [(None, "a")]),
        ("a b c; d {\n e f;\n g { h; } }", [(None, "a"), (None, "d"), ("d", "e"), ("d", "g"), ("d", "h")]),
        ("a; # b;\n# c;\nd;", [(None, "a"), (None, "d")]),
        ("> for _, e in ipairs(x) do\nlisten $(e.listener);\n> end\n$(e.name) $(e.value);", [(None, "listen")]),
        ("${{SYSLOG}}\nlog_format basic '$a; {'\n  \"b }\";", [(None, "log_format")]),
        ("lua_shared_dict ${{X}} 5m;", [(None, "lua_shared_dict ${{X}}")]),
        ("set $a b; set $c '';", [(None, "set $a"), (None, "set $c")]),
        ("location = /x {\n}\nlocation @grpc {\n}", [(None, "location = /x"), (None, "location @grpc")]),
        ("proxy_set_header TE $te;\nproxy_pass http://${x};", [(None, "proxy_set_header TE"), (None, "proxy_pass")]),
        ("init_by_lua_block {\n local a = { b = '}' } -- {\n c() ; }\nd;", [(None, "init_by_lua_block"), (None, "d")]),
        ("return [[\na;\n]]\n", [(None, "a")]),
        ("return [==[\na;\n]==]\n", [(None, "a")]),
        ("it's; a;", [(None, "it"), (None, "a")]),
        ("a_by_lua_block { never closed", [(None, "a_by_lua_block")]),
        ("}}}; a;", [(None, "a")]),
        ("", []),
    ],
)
def test_directives(text, found):
    assert templates.directives(text) == found


@pytest.mark.parametrize("version", ["2.8.0", "2.8.5", "2.1.4"])
def test_nothing_is_missing_in_a_template_of_the_same_version(version):
    assert names(custom(version), version) == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (custom("2.8.5", without=["lua_shared_dict kong_locks"]), ["%s: lua_shared_dict kong_locks" % HTTP]),
        (custom("2.8.5", without=["set $tls_sni_name"]), ["%s: set $tls_sni_name" % STREAM]),
        (custom("2.8.5", stream=False, http=False), []),
        (custom("2.8.5", without=["listen"], stream=False), ["%s: listen" % HTTP]),
        (custom("2.8.5", stream=None, http=False), ["nginx.lua: stream"]),
        (custom("2.7.2", http=False), ["%s: proxy_ssl_name" % STREAM, "%s: set $tls_sni_name" % STREAM]),
        (written(knowledge.template_directives("2.7.2")[STREAM]),
         ["%s: proxy_ssl_name" % STREAM, "%s: set $tls_sni_name" % STREAM]),
        (written(knowledge.template_directives("2.5.2")[HTTP]), ["%s: lua_kong_load_var_index" % HTTP]),
    ],
)  # fmt: skip
def test_missing(text, missing):
    assert names(text) == missing


def test_what_stops_the_start_comes_first():
    found = templates.missing_in_template(custom("1.5.1", stream=None), "2.8.5")
    needed = [entry["directive"] for entry in found if entry["dictionary"] and not entry["when"]]
    assert needed == ["lua_shared_dict kong_core_db_cache", "lua_shared_dict kong_core_db_cache_miss"]
    assert [entry["directive"] for entry in found[:2]] == needed
    assert found[2] == {
        "file": HTTP,
        "directive": "lua_shared_dict kong_core_db_cache_2",
        "dictionary": True,
        "when": "database = off",
    }
    assert not any(entry["dictionary"] for entry in found[6:]) and len(found) > 20


def test_a_template_of_an_unknown_version():
    with pytest.raises(knowledge.KnowledgeError, match=r"2\.9\.9 is not known"):
        templates.missing_in_template("a;", "2.9.9")


# --- what is known of the templates of each version ------------------------------------------------------------------


def test_the_data_has_its_shape():
    table = knowledge._table("templates")
    assert table["schema"] == 1
    minors = [tuple(map(int, name.split("."))) for name in table["minors"]]
    assert minors == sorted(minors) and minors[0] == (0, 14) and minors[-1] == (2, 8)
    for changes in table["minors"].values():
        for both, change in changes.items():
            file, kind = both.split()
            assert file in ("nginx.lua", HTTP, STREAM) and kind in ("directives", "placeholders")
            assert set(change) <= {"added", "removed"} and all(change.values())
    everything = sum(knowledge.template_directives("2.8.5").values(), [])
    assert set(table["when"]) <= set(everything)


@pytest.mark.parametrize(
    ("source", "target", "changes"),
    [
        ("2.8.0", "2.8.5", {}),
        ("2.7.2", "2.8.5", {STREAM: {"added": ["proxy_ssl_name", "set $tls_sni_name"]}}),
        ("2.8.5", "2.7.2", {STREAM: {"removed": ["proxy_ssl_name", "set $tls_sni_name"]}}),
        ("2.5.2", "2.6.1", {HTTP: {"added": ["lua_kong_load_var_index"]}}),
    ],
)
def test_changes(source, target, changes):
    assert knowledge.template_changes(source, target) == changes


def test_changes_of_a_file_that_was_not_there():
    changes = knowledge.template_changes("0.14.1", "2.8.5")
    assert len(changes[STREAM]["added"]) == 53 and "removed" not in changes[STREAM]
    assert "UPSTREAM_KEEPALIVE" in changes[HTTP]["placeholders_removed"]
    assert "lua_shared_dict kong_core_db_cache" in changes[HTTP]["added"]


def test_every_release_has_its_templates():
    for version, entry in knowledge.versions().items():
        if entry["openresty"]:
            has = knowledge.template_directives(version)
            assert {"lua_shared_dict kong", "lua_shared_dict kong_db_cache"} <= set(has[HTTP]), version
            assert bool(has.get(STREAM)) == (not version.startswith("0.14")), version
