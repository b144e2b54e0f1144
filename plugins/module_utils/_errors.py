# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that helpers raise, and the one place that turns them into the arguments of fail_json."""


class KongError(Exception):
    """Something that ends a module: the message says what is wrong, where, and what to do.

    :param message: str, whole sentences for a person, free of secrets.
    :param details: values that a module returns beside the message, such as `rc` or `blocked_by`.
    """

    def __init__(self, message, **details):
        super(KongError, self).__init__(message)
        self.message = message
        self.details = details

    def __str__(self):
        return self.message

    def result(self):
        """What fail_json is given: dict with `msg` and the details."""
        answer = dict(self.details)
        answer["msg"] = self.message
        return answer

    def cleaned(self, clean):
        """The same error, its message and its texts passed through `clean` (callable, str -> str): without secrets."""
        self.message = clean(self.message)
        for key, value in self.details.items():
            if isinstance(value, str):
                self.details[key] = clean(value)
        return self


class KongNotFound(KongError):
    """There is no `kong` command where it was looked for."""


class CommandError(KongError):
    """A command ended otherwise than it may, or printed what cannot be read."""


class ConfError(KongError):
    """A configuration file is missing, unreadable or not understood."""


class DatabaseError(KongError):
    """The database cannot be reached, refuses the login, or answered a query with an error."""


class MigrationError(KongError):
    """The migration state forbids what was asked, or is not what a command should have made of it."""


class LockHeld(MigrationError):
    """Another runner holds the migration lock."""


class Blocked(MigrationError):
    """A migration was not begun, or was ended, because of locks between it and other sessions."""


class DumpError(KongError):
    """An export was not made, or is not what it should be."""


class BackupError(KongError):
    """A dump of the database is missing, is not the one that was made, or could not be restored."""


class Problems(KongError):
    """Several things at once that end a module. `problems` in the details is the list that the message was made of."""

    def __init__(self, problems, **details):
        problems = problems if isinstance(problems, list) else [problems]
        message = problems[0] if len(problems) == 1 else "%d problems: %s" % (
            len(problems), " ".join("(%d) %s" % item for item in enumerate(problems, 1)))
        super(Problems, self).__init__(message, problems=problems, **details)
        self.problems = problems
