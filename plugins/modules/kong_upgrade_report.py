#!/usr/bin/python
# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kong_upgrade_report
short_description: Write the report of an upgrade run
version_added: "0.1.0"
seealso:
  - module: bluegreen.kong.kong_upgrade_run
author: The bluegreen.kong authors (@bluegreen)
description:
  - Writes a report as HTML, Markdown and JSON into a folder on the controller, each in one step.
  - Runs on the controller, whatever host the task is for. Made for the role kong_upgrade.
extends_documentation_fragment:
  - bluegreen.kong.attributes
attributes:
  check_mode:
    support: full
    description: The report is written in check mode too; it then holds what was predicted.
  diff_mode:
    support: none
  action:
    support: full
    description: Indicates this has a corresponding action plugin so some parts of the options can be executed on the
      controller.
options:
  dest:
    description: Folder on the controller. It is made if it is missing.
    type: path
    required: true
  name:
    description: Name of the files, without the ending.
    type: str
    default: report
  report:
    description: The report as data.
    type: dict
    required: true
  html:
    description: The report as a page.
    type: str
    required: true
  markdown:
    description: The report as Markdown.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Write the report
  bluegreen.kong.kong_upgrade_report:
    dest: ./kong-upgrade-report
    report: "{{ report }}"
    html: "{{ lookup('ansible.builtin.template', 'report.html.j2') }}"
    markdown: "{{ lookup('ansible.builtin.template', 'report.md.j2') }}"
"""

RETURN = r"""
files:
  description: Paths of the files on the controller.
  returned: success
  type: list
  elements: str
"""
