# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lb_command does: weights of servers on any load balancer, by commands of the user's own.

Nothing about a load balancer is known here. What a command is about is handed to it in environment variables. Times are
seconds.
"""

import json
import os
import shutil

from ansible_collections.bluegreen.kong.plugins.module_utils._lb import Balancer, LbError, call

#: What is quoted of a command's error output.
QUOTED = 500
OPTIONS = ("weights", "set_weight", "apply", "drain", "ready", "sessions", "counters", "up")


class Commands(Balancer):
    """The user's commands.

    :param given: dict of the names in OPTIONS to a list (program and arguments), a text for /bin/sh, or None.
    :param backends: list of str.
    :param timeout: seconds that each run may take.
    """

    told, told_up = "commands.weights prints", "says commands.up"

    def __init__(self, given, backends, timeout):
        self.timeout, self.pools = timeout, backends
        self.argv, problems = {}, []
        for name in OPTIONS:
            command = given.get(name)
            if command is None:
                continue
            if isinstance(command, list) and command and all(isinstance(word, (str, int, float)) for word in command):
                self.argv[name] = [str(word) for word in command]
            elif not isinstance(command, list) and isinstance(command, str) and command.strip():
                self.argv[name] = ["/bin/sh", "-c", command]
            else:
                problems.append("commands.%s: give a text for the shell, or a list of a program and its arguments." % name)
        # What changes something is not run by a look, and would be missed only when traffic moves.
        problems += [
            "commands.%s: %s cannot be run: it is not there, or may not be executed. Correct its path." % (name, argv[0])
            for name, argv in self.argv.items() if shutil.which(argv[0]) is None]
        self.wrong = problems

    def problems(self):
        """What is wrong with what was given."""
        return self.wrong + ([] if self.pools else ["backends: the list is empty."])

    def backends(self):
        """As they were given."""
        return self.pools

    def has(self, name):
        """Whether the user gave this command."""
        return name in self.argv

    def run(self, name, backend, server="", weight="", state="", any_code=False):
        """Runs one command to its end.

        :param any_code: bool, whether exit codes other than 0 are an answer too.
        :returns: (exit code, standard output).
        :raises LbError: when it cannot be started, fails, or takes too long; it is ended then, with its children.
        """
        where = "commands.%s%s" % (name, " for %s/%s" % (backend, server) if server else "")
        environment = dict(os.environ)
        environment.update({
            "KONG_UPGRADE_BACKEND": backend, "KONG_UPGRADE_SERVER": server,
            "KONG_UPGRADE_WEIGHT": str(weight), "KONG_UPGRADE_STATE": state,
        })
        code, output, errors = call(self.argv[name], self.timeout, where, environment)
        if code and not any_code:
            raise LbError("%s: ended with exit code %d: %s" % (
                where, code, (errors or output).strip()[-QUOTED:] or "it printed nothing."))
        return code, output

    def weights(self, backend):
        """What `weights` prints: {server: weight}."""
        found = self.json("weights", backend)
        for server, weight in found.items():
            if not is_count(weight):
                raise LbError("commands.weights for %s: the weight of %s is %s, not a whole number from 0 on." % (
                    backend, server, json.dumps(weight)))
            found[server] = int(weight)
        return found

    def counters(self, backend):
        """What `counters` prints: {server: {"requests": n, "failures": n}}."""
        found = self.json("counters", backend)
        for server, counts in found.items():
            if not isinstance(counts, dict) or not all(is_count(counts.get(key)) for key in ("requests", "failures")):
                raise LbError(
                    'commands.counters for %s: expected {"requests": number, "failures": number} for %s, not %s.' % (
                        backend, server, json.dumps(counts)[:QUOTED]))
            found[server] = {key: int(counts[key]) for key in ("requests", "failures")}
        return found

    def sessions(self, backend, server):
        """The number that `sessions` prints."""
        output = self.run("sessions", backend, server)[1].strip()
        if not output.isdigit():
            raise LbError("commands.sessions for %s/%s: printed '%s', not a number." % (backend, server, output[:QUOTED]))
        return int(output)

    def up(self, backend, server):
        """Whether `up` ends with 0."""
        return self.run("up", backend, server, any_code=True)[0] == 0

    def json(self, name, backend):
        """The JSON object that a command prints."""
        output = self.run(name, backend)[1]
        try:
            found = json.loads(output)
        except ValueError as error:
            raise LbError("commands.%s for %s: printed no JSON (%s): %s" % (name, backend, error, output.strip()[:QUOTED]))
        if not isinstance(found, dict):
            raise LbError("commands.%s for %s: printed no JSON object: %s" % (name, backend, output.strip()[:QUOTED]))
        return found


def is_count(value):
    """Whether this is a whole number from 0 on."""
    if isinstance(value, float):
        return value.is_integer() and value >= 0
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
