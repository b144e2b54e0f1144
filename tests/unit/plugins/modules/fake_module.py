# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands where a module expects AnsibleModule: checks parameters by the module's own specification, keeps the result."""

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator


class Exit(Exception):
    """What exit_json or fail_json was given."""

    def __init__(self, failed, result):
        super().__init__(result.get("msg"))
        self.failed, self.result = failed, result


def run(module, monkeypatch, params, run_command, check_mode=False, diff=False):
    """Runs main() of a module.

    :param module: the imported module.
    :param params: dict, as a task gives them.
    :returns: Exit; its result has the warnings as `warnings`.
    """
    warnings = []

    class FakeModule:
        _diff = diff

        def __init__(self, argument_spec, supports_check_mode, required_if=None):
            assert supports_check_mode
            checked = ArgumentSpecValidator(argument_spec, required_if=required_if).validate(params)
            assert not checked.error_messages, checked.error_messages
            self.params, self.check_mode, self.run_command = checked.validated_parameters, check_mode, run_command

        def warn(self, text):
            warnings.append(text)

        def exit_json(self, **result):
            raise Exit(False, result)

        def fail_json(self, **result):
            raise Exit(True, result)

    monkeypatch.setattr(module, "AnsibleModule", FakeModule)
    try:
        module.main()
    except Exit as end:
        end.result["warnings"] = warnings
        return end
    raise AssertionError("main() came back without a result")
