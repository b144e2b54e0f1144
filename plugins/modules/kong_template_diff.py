#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_template_diff
short_description: What changed in Kong's nginx templates, and what that means for a custom one
version_added: "0.1.0"
author: The bluegreen.kong authors (@bluegreen)
description:
  - Compares the nginx templates of two versions of Kong as C(git diff -w) does, that is, without regard to white space.
  - Writes the difference as a patch that really applies. What C(git diff -w) prints does not always, since its context
    has the white space of the new version.
  - Compares a custom template with both versions, names what was changed in it, what Kong changed, and where the two
    meet, and writes a proposal in which both are put together.
extends_documentation_fragment:
  - bluegreen.kong.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Lines of a custom template that look like holding a secret are masked.
options:
  source:
    description:
      - The old version. A folder that holds its templates (C(*.lua)) or has O(path) below it, such as an installation or
        a checkout.
      - With O(repository), a tag, such as V(2.1.4).
    type: str
    required: true
  target:
    description: The new version, as O(source).
    type: str
    required: true
  repository:
    description:
      - A local clone, bare or not, of Kong's git repository. Nothing is checked out in it, and nothing is fetched.
    type: path
  path:
    description: Where the templates are below a folder or in the repository.
    type: str
    default: kong/templates
  patch:
    description:
      - A file to write the difference to. Both C(patch -p1) and C(git apply) take it, in the folder O(source) or in a
        checkout of it.
      - It makes of O(source) what O(target) is, but for white space; changes of white space alone are left out.
    type: path
  custom:
    description:
      - A custom template, that is, what C(--nginx-conf) names, or a file that stands in for one of Kong's.
      - It is an nginx template, the form in which one stands in C(return [[ ... ]]) of Kong's files; with that around it,
        it is taken as well.
    type: path
  merged:
    description:
      - A file to write the proposal to, which has the changes of the custom template and those of Kong. Where they meet,
        conflict markers show all three texts.
      - Needs O(custom), and has to be another file.
    type: path
  mode:
    description:
      - The mode of the files that are written. In quotes, such as V('0644').
      - Without it, files that are there keep theirs. A new patch gets V('0644'), a new proposal the mode of O(custom).
    type: raw
seealso:
  - plugin: bluegreen.kong.kong_conf_review
    plugin_type: filter
notes:
  - Needs C(git) on the host where it runs, which may be the controller (C(delegate_to)). The folders are read there.
  - Before a proposal is used, have the new version render it into a scratch prefix (C(kong prepare --nginx-conf)) and
    test that with C(nginx -t).
"""

EXAMPLES = r"""
- name: What changed, as a patch
  bluegreen.kong.kong_template_diff:
    repository: "{{ playbook_dir }}/kong.git"
    source: 2.1.4
    target: 2.8.5
    patch: "{{ playbook_dir }}/kong_templates.patch"
  delegate_to: localhost
  run_once: true

- name: What becomes of our own template
  bluegreen.kong.kong_template_diff:
    source: /opt/kong-2.1.4/share/lua/5.1
    target: /opt/kong-2.8.5/share/lua/5.1
    custom: /etc/kong/custom_nginx.template
    merged: /etc/kong/custom_nginx.template.new
  register: templates

- name: Stop where someone has to decide
  ansible.builtin.assert:
    that: not templates.custom.conflicts
"""

RETURN = r"""
files:
  description: Each template that one of the versions has.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: nginx_kong.lua
    added:
      description: Number of lines that were added, as C(git diff -w --numstat) counts.
      type: int
    removed:
      description: Number of lines that were removed.
      type: int
    diff:
      description: The difference to read, without white space; empty if there is none.
      type: str
only_in_source:
  description: Templates that the new version has no more.
  returned: success
  type: list
  elements: str
only_in_target:
  description: Templates that the old version has not.
  returned: success
  type: list
  elements: str
custom:
  description: The custom template between the two versions. White space does not count.
  returned: when O(custom) is given
  type: dict
  contains:
    base:
      description: Kong's files that it was made from, by likeness. With several, the others stand where the first includes them.
      type: list
      elements: str
      sample: [nginx.lua, nginx_kong.lua]
    likeness:
      description: How much it has in common with them in the old version, from 0 to 1.
      type: float
    changed:
      description: What was changed in it against the old version (C(added), C(removed), C(diff)).
      type: dict
    kong_changed:
      description: What Kong changed there from the old version to the new one (C(added), C(removed), C(diff)).
      type: dict
    conflicts:
      description: Places where both changed the same lines in different ways.
      type: list
      elements: dict
      contains:
        line:
          description: First line in the custom file. Where it has none of the text, the line that it would stand before.
          type: int
        last_line:
          description: Last line in the custom file.
          type: int
        custom:
          description: What the custom template has.
          type: str
        source:
          description: What the old version has.
          type: str
        target:
          description: What the new version has.
          type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bluegreen.kong.plugins.module_utils import _template_diff
from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "required": True},
            "target": {"type": "str", "required": True},
            "repository": {"type": "path"},
            "path": {"type": "str", "default": "kong/templates"},
            "patch": {"type": "path"},
            "custom": {"type": "path"},
            "merged": {"type": "path"},
            "mode": {"type": "raw"},
        },
        supports_check_mode=True,
    )
    try:
        result = _template_diff.compare(module.params, module.run_command, module.check_mode)
    except KongError as error:
        module.fail_json(**error.result())
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
