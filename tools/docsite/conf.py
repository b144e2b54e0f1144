# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx makes the documentation site: see build.py beside this file."""

project = "bluegreen.kong"
copyright = "The bluegreen.kong authors"
title = html_title = html_short_title = "bluegreen.kong"

extensions = ["myst_parser", "sphinx_antsibull_ext"]
myst_heading_anchors = 3
default_role = "any"
nitpicky = True
# Pages of modules refer to chapters and environment variables of Ansible's own documentation, which is not looked up: the
# site is built offline. References of the guides, and from page to page, are of other kinds and stay errors.
suppress_warnings = ["ref.envvar", "ref.ref"]

html_theme = "sphinx_ansible_theme"
pygments_style = "ansible"
highlight_language = "text"  # of what names none
html_show_sphinx = False
html_use_index = False
html_copy_source = False
