# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Everything here needs Linux, make, Python >= 3.11 and a package registry; no root (the hosts of the lab excepted).
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PY := .venv/bin/python
# Handed to the bed (demo, bench), where given.
BED_OPTIONS := $(if $(BLUE_KONG),--blue-kong "$(BLUE_KONG)") $(if $(GREEN_KONG),--green-kong "$(GREEN_KONG)") \
  $(if $(NODES),--nodes "$(NODES)") $(if $(BATCHES),--batches "$(BATCHES)") $(if $(filter-out 0 no false,$(KEEP)),--keep)
BED := PYTHONPATH=tests/integration $(PY) -B -m bed
# More arguments for pytest: make unit ARGS='-k conf -x'
ARGS ?=

.PHONY: help
help: ## list of targets
	@sed -n 's/^\([a-z.-]*\):[^#]*## /\1\t/p' Makefile | sort | while IFS="$$(printf '\t')" read -r t h; do printf '  make %-13s %s\n' "$$t" "$$h"; done

.PHONY: .venv
.venv: .venv/.demo ## the environment of the demo, in .venv
.venv/.demo: requirements/demo.txt tools/venv
	@tools/venv .venv requirements/demo.txt
	@touch $@
.venv/.test: requirements/test.txt .venv/.demo
	@tools/venv .venv requirements/test.txt
	@touch $@
# ansible-core 2.16 runs on Python 3.10 to 3.12; the tests themselves need 3.11.
.venv-floor/.test: requirements/floor.txt tools/venv
	@tools/venv .venv-floor requirements/floor.txt 3.11 3.12
	@touch $@
.venv-newest/.test: requirements/newest.txt tools/venv
	@tools/venv .venv-newest requirements/newest.txt 3.12
	@touch $@

.PHONY: demo demo-cassandra bench
demo: .venv/.demo ## upgrade a small cluster under load and show it [BLUE_KONG= GREEN_KONG= NODES= BATCHES= KEEP=1]
	@$(BED) demo $(BED_OPTIONS)
demo-cassandra: .venv/.test ## the same from 2.0.5 on Cassandra into a new keyspace; needs Java 17 and, once, Maven
	@$(BED) demo --cassandra --blue-version 2.0.5 $(BED_OPTIONS)
bench: .venv/.demo ## time the upgrade against the documented steps, 3+3 and 10+10 nodes [BLUE_KONG= GREEN_KONG=]
	@$(BED) bench $(BED_OPTIONS)

.PHONY: test lint docs sanity targets unit floor newest integration
test: .venv/.test ## everything: lint, docs, sanity, targets, unit, floor, newest, integration; installs Debian packages as root
	@$(PY) -B tools/run_tests.py packages lint docs sanity targets unit floor newest integration
lint: .venv/.test ## ruff, yamllint, ansible-lint, mypy, changelog, documentation, and what Galaxy checks
	@$(PY) -B tools/run_tests.py lint
docs: .venv/.test ## the documentation site, in .cache/site/html
	@$(PY) -B tools/run_tests.py docs
sanity: .venv/.test ## ansible-test sanity on a copy of the tree
	@$(PY) -B tools/run_tests.py sanity
targets: .venv/.test ## ansible-test units and integration (tests/integration/targets) on a copy of the tree
	@$(PY) -B tools/run_tests.py targets
unit: .venv/.test ## unit tests [ARGS=]
	@$(PY) -B tools/run_tests.py unit -- $(ARGS)
floor: .venv/.test ## unit tests and one upgrade with the oldest ansible-core that is supported
	@$(PY) -B tools/run_tests.py floor
newest: .venv/.test ## the same with the newest ansible-core, where a Python >= 3.12 is found
	@$(PY) -B tools/run_tests.py newest
integration: .venv/.test ## scenarios on the bed; those over SSH to hosts with systemd only as root [ARGS=]
	@$(PY) -B tools/run_tests.py packages integration -- $(ARGS)

.PHONY: build requirements messages changelog clean
build: .venv/.demo ## the collection as a tarball in build/
	@mkdir -p build && .venv/bin/ansible-galaxy collection build --force --output-path build .
requirements: .venv/.demo ## compile requirements/*.txt from *.in
	@for name in demo test floor newest; do \
	  { echo "# Made by 'make requirements' from $$name.in; edit that one."; \
	    .venv/bin/uv pip compile --universal --python-version $$(case $$name in newest) echo 3.12;; *) echo 3.11;; esac) --quiet --no-header --no-annotate --no-emit-index-url \
	      requirements/$$name.in | grep -v "^[a-z].* sys_platform == 'win32'$$"; } > requirements/$$name.txt || exit; done
messages: .venv/.demo ## write the messages of the source into docs/troubleshooting.md
	@$(PY) -B tools/make_messages.py
changelog: .venv/.test ## check the fragments in changelogs/
	@.venv/bin/antsibull-changelog lint
clean: ## remove what the other targets made
	@rm -rf .venv .venv-floor .venv-newest .cache .demo build kong-upgrade-report tests/output .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
