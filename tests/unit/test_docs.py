# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the guides say is what is there."""

import importlib.util
import pathlib
import re
import textwrap

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager
from ansible_collections.bluegreen.kong.plugins.plugin_utils import balancers, findings, inventory, survey
from handbook import entries, unexplained

ROOT = pathlib.Path(__file__).resolve().parents[2]


def tool(name):
    """A module of the folder tools."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / (name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


messages = tool("make_messages")
# What is raised in the words of something else: another error, what was collected before, a line of the knowledge; and lists of names.
PASSED_ON = re.compile(
    r"str\(error\)|\berrors?\b|\bproblems?\b|\brefused\b|\bhazard\[|\bseen\[|\beach\['what'\]|\bsentence\b|\breplies\b|self\.move\("
    r"|self\._open_admin_ports\(|^\{'file': |^entity$|^what$|node\['address'\]"
)


# ---- troubleshooting -------------------------------------------------------------------------------------------------


def test_every_message_is_on_the_page():
    text = messages.PAGE.read_text(encoding="utf-8")
    assert text[text.index(messages.MARK) + len(messages.MARK) :].lstrip("\n") == messages.page(messages.collect()), "run `make messages`"


def test_no_message_is_overlooked():
    overlooked, count = [], 0
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        reader = messages.Reader(path)
        count += len([*reader.findings(), *reader.raised()])
        overlooked += ["%s: %s" % (path.name, text) for text in reader.passed_on if not PASSED_ON.search(text)]
    assert overlooked == []
    assert count > 300


@pytest.mark.parametrize(
    "source, told",
    [
        ('raise KongError("No %s in {0}.".format(x) % y)', ["No … in …."]),
        ('def why():\n    return "no command" if a else "no %s" % b\nraise NodeError("it fails: {0}".format(why()))', ["it fails: …"]),
        ('def why():\n    return "no command" if a else "no %s" % b\nraise NodeError("%s: %s" % (x, why()))', ["no command", "no …"]),
        ('raise LockHeld("held by " + owner)', ["held by …"]),
        ('raise ValueError("for the caller alone")', []),
        ('problems.append(f"{a} is wrong")', ["… is wrong"]),
        ('module.fail_json(msg="it fails")', ["it fails"]),
    ],
)
def test_messages_are_read_from_the_source(tmp_path, source, told):
    path = tmp_path / "some.py"
    path.write_text(source)
    assert list(messages.Reader(path).raised()) == told


def test_findings_are_read_from_the_source(tmp_path):
    path = tmp_path / "some.py"
    path.write_text('found.block(host, "%s is old" % x, "renew it")\nproblems.append({"what": "no " + y, "do": "look"})')
    assert list(messages.Reader(path).findings()) == [("… is old", "renew it"), ("no …", "look")]


def test_a_message_that_is_not_there_is_not_found():
    assert len(entries()) > 300
    assert unexplained(["the flux compensator is not charged"]) == ["the flux compensator is not charged"]
    assert unexplained(["kong is 2.1.4, not the target 2.8.5"]) == []


# ---- examples --------------------------------------------------------------------------------------------------------


EXAMPLES = sorted((ROOT / "examples").glob("*.yml"))


def surveyed(path):
    """What the plan is made of, for an inventory whose hosts were not asked yet: (survey, options)."""
    loader = DataLoader()
    inventory = InventoryManager(loader, sources=[str(path)])
    variables = VariableManager(loader, inventory)
    hostvars = {host.name: variables.get_vars(host=host, include_hostvars=False) for host in inventory.get_hosts()}
    given = next(iter(hostvars.values()))
    options = {key[len("kong_upgrade_") :]: spec.get("default", "") for key, spec in survey.option_specs().items()}
    options.update({key[len("kong_upgrade_") :]: given[key] for key in survey.option_specs() if key in given})
    groups = {name: [host.name for host in group.get_hosts()] for name, group in inventory.groups.items()}
    options.update(phases=["plan"], looks="")
    if options["strategy"] == "rolling":
        options["green_group"] = options["blue_group"]
    options["runner"] = options["runner"] or groups[options["green_group"]][0]
    return survey.collect(hostvars, groups, options, None), options


def problems_of(path):
    """What the plan has to say of an inventory before it asks a host."""
    seen, options = surveyed(path)
    found = findings.Findings()
    if options["strategy"] == "rolling":
        inventory.check_batches(seen["groups"], options, found)
    else:
        inventory.check_groups(seen["groups"], options, found)
        options["backup_command_given"] = bool(options["backup_command"])
        inventory.check_what_choices_need({**seen, "options": options}, found)
    for lb, balancer in seen["lbs"].items():
        balancers.hosts_of(lb, balancer, found)
    return [seen["invalid"], seen["uneven"], *(problem["what"] for problem in found.blockers)]


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_plan_has_nothing_against_an_example(path):
    assert problems_of(path) == [{}, {}]


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("kong_upgrade_soak", "kong_upgrade_soaks", "no such variable"),
        ("[zone_a, zone_b]", "[zone_a, zone_c]", "zone_c"),
        ("[zone_a, zone_b]", "[zone_a]", "is in no batch"),
        ("[zone_b, zone_b_new]", "[zone_b, zone_c_new]", "no inventory group is called zone_c_new"),
        ("kong_upgrade_soak: 120", "kong_upgrade_soak: long", "kong_upgrade_soak"),
        ("kong_lb:", "kong_lbs:", "is empty or missing"),
    ],
)
def test_the_plan_would_have_something_against_it(tmp_path, old, new, words):
    text = (ROOT / "examples" / "zones.yml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "zones.yml"
    path.write_text(text.replace(old, new))
    assert words in str(problems_of(path))


def test_every_example_is_in_the_guide():
    guide = (ROOT / "docs" / "inventory.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+\.yml)` \|", guide, re.MULTILINE)) == [path.name for path in EXAMPLES]


# ---- variables, names --------------------------------------------------------------------------------------


GUIDES = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in
          [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "roles").glob("*/README.md"))]}  # fmt: skip
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"\bkong_upgrade_[a-z_]*[a-z]\b")
# Filters, modules and values of the collection that are called like variables of the role.
NOT_OPTIONS = {path.stem for folder in ("filter", "modules") for path in (ROOT / "plugins" / folder).glob("kong_upgrade_*")}


def fences(*languages):
    """(guide, text) of every block of code in one of the languages."""
    found = ((str(name), *block) for name, text in GUIDES.items() for block in FENCE.findall(text))
    return [(name, textwrap.dedent(code)) for name, language, code in found if language in languages]


@pytest.mark.parametrize("name, text", fences("yaml"))
def test_yaml_of_the_guides_is_yaml(name, text):
    assert list(yaml.safe_load_all(text)) != [None]


def test_variables_of_the_guides_are_variables_of_the_role():
    known = {*survey.option_specs(), *NOT_OPTIONS}
    made = "docs/troubleshooting.md"  # the last part of it, where messages have names with gaps
    texts = {name: text.partition(messages.MARK)[0] if str(name) == made else text for name, text in GUIDES.items()}
    texts.update({path: path.read_text(encoding="utf-8") for path in EXAMPLES})
    used = {(str(name), word) for name, text in texts.items() for word in OPTION.findall(text)}
    assert len({word for dummy, word in used}) > 50
    assert sorted(pair for pair in used if pair[1] not in known) == []


REPOSITORY = yaml.safe_load((ROOT / "galaxy.yml").read_text())["repository"]
# Where the repository shows a file, a folder, and a picture.
SHOWN = re.compile(r"%s/(?:blob|tree)/main/|%s/main/" % (REPOSITORY, REPOSITORY.replace("github.com", "raw.githubusercontent.com")))


def targets(text):
    """Where the links and pictures of a page lead, whose address stands beside the text or at the end of the page."""
    keys, addresses = set(re.findall(r"\]\[([\w-]+)\]", text)), dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", text, re.MULTILINE))
    assert keys == set(addresses)
    return re.findall(r"\]\(([^)\s]+)\)", text) + list(addresses.values())


def test_links_of_the_guides_lead_somewhere():
    broken = []
    for name, text in GUIDES.items():
        for target in targets(text):
            path, dummy, anchor = target.partition("#")
            here = SHOWN.sub("", path)
            if "://" in here:
                continue
            file = ROOT / here if here != path else ROOT / name.parent / path if path else ROOT / name
            if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
                broken.append("%s: %s" % (name, target))
    assert broken == []


def test_galaxy_can_show_the_readme():
    """Galaxy shows README.md alone: a link to a file beside it would lead nowhere, and a picture would not be seen."""
    assert [target for target in targets(GUIDES[pathlib.Path("README.md")]) if "://" not in target] == []


def test_every_guide_is_in_the_index():
    guides = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert set(re.findall(r"^- .*\]\((\w+)\.md\)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)) == guides


def anchors(path):
    """Where a link into a page can go to, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
