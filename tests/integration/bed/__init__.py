# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bed: PostgreSQL, HAProxy, an application, a blue and a green Kong cluster and a load on one Linux machine,
without root and without a system package. Real ones, but for Kong, which is the stand-in unless a command is given.

    python -m bed --help          (with tests/integration on PYTHONPATH)
"""
