# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lb_command does: weights of servers on any load balancer, by commands of the user's own.

Nothing about a load balancer is known here. What a command is about is handed to it in environment variables, and what
it did is believed only when `weights` prints it. Times are seconds.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time

from ansible_collections.bluegreen.kong.plugins.module_utils._errors import KongError

#: Seconds between two looks at something that is waited for.
POLL = 0.5
#: Seconds between two readings of counters that may end a soak.
STEP = 1.0
#: Commands that run at the same time; only those that read.
AT_ONCE = 8
#: Seconds that a command gets to end by itself after its time is over.
GRACE = 2
#: What is quoted of a command's error output.
QUOTED = 500
OPTIONS = ("weights", "set_weight", "apply", "drain", "ready", "sessions", "counters", "up")


class LbCommandError(KongError):
    """Something that ends the module. `problems` in the details is the list that the message was made of."""

    def __init__(self, problems, **details):
        problems = problems if isinstance(problems, list) else [problems]
        message = problems[0] if len(problems) == 1 else "%d problems: %s" % (
            len(problems), " ".join("(%d) %s" % item for item in enumerate(problems, 1)))
        super(LbCommandError, self).__init__(message, problems=problems, **details)
        self.problems = problems


class Commands(object):
    """The user's commands.

    :param given: dict of the names in OPTIONS to a list (program and arguments), a text for /bin/sh, or None.
    :param timeout: seconds that each run may take.
    """

    def __init__(self, given, timeout):
        self.timeout = timeout
        self.argv, self.problems = {}, []
        for name in OPTIONS:
            command = given.get(name)
            if command is None:
                continue
            if isinstance(command, list) and command and all(isinstance(word, (str, int, float)) for word in command):
                self.argv[name] = [str(word) for word in command]
            elif not isinstance(command, list) and isinstance(command, str) and command.strip():
                self.argv[name] = ["/bin/sh", "-c", command]
            else:
                self.problems.append("commands.%s: give a text for the shell, or a list of a program and its arguments." % name)

    def has(self, name):
        """Whether the user gave this command."""
        return name in self.argv

    def run(self, name, backend, server="", weight="", state="", any_code=False):
        """Runs one command to its end.

        :param any_code: bool, whether exit codes other than 0 are an answer too.
        :returns: (exit code, standard output).
        :raises LbCommandError: when it cannot be started, fails, or takes too long; it is ended then, with its children.
        """
        where = "commands.%s%s" % (name, " for %s/%s" % (backend, server) if server else "")
        environment = dict(os.environ)
        environment.update({
            "KONG_UPGRADE_BACKEND": backend, "KONG_UPGRADE_SERVER": server,
            "KONG_UPGRADE_WEIGHT": str(weight), "KONG_UPGRADE_STATE": state,
        })
        # Files, not pipes: a daemon that the command leaves behind would hold a pipe open for ever.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
            try:
                process = subprocess.Popen(
                    self.argv[name], stdin=nothing, stdout=out, stderr=err, env=environment, start_new_session=True)
            except OSError as error:
                raise LbCommandError("%s: %s cannot be run: %s." % (where, self.argv[name][0], error.strerror))
            try:
                code = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                end_of_patience(process)
                raise LbCommandError("%s: has not ended after %s s, and was ended. Mend it, or raise command_timeout." % (
                    where, self.timeout))
            output, errors = text_of(out), text_of(err)
        if code and not any_code:
            raise LbCommandError("%s: ended with exit code %d: %s" % (
                where, code, (errors or output).strip()[-QUOTED:] or "it printed nothing."))
        return code, output

    def weights(self, backend):
        """What `weights` prints: {server: weight}."""
        found = self.json("weights", backend)
        for server, weight in found.items():
            if not is_count(weight):
                raise LbCommandError("commands.weights for %s: the weight of %s is %s, not a whole number from 0 on." % (
                    backend, server, json.dumps(weight)))
            found[server] = int(weight)
        return found

    def counters(self, backend):
        """What `counters` prints: {server: {"requests": n, "failures": n}}."""
        found = self.json("counters", backend)
        for server, counts in found.items():
            if not isinstance(counts, dict) or not all(is_count(counts.get(key)) for key in ("requests", "failures")):
                raise LbCommandError(
                    'commands.counters for %s: expected {"requests": number, "failures": number} for %s, not %s.' % (
                        backend, server, json.dumps(counts)[:QUOTED]))
            found[server] = {key: int(counts[key]) for key in ("requests", "failures")}
        return found

    def sessions(self, backend, server):
        """The number that `sessions` prints."""
        output = self.run("sessions", backend, server)[1].strip()
        if not output.isdigit():
            raise LbCommandError("commands.sessions for %s/%s: printed '%s', not a number." % (backend, server, output[:QUOTED]))
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
            raise LbCommandError("commands.%s for %s: printed no JSON (%s): %s" % (name, backend, error, output.strip()[:QUOTED]))
        if not isinstance(found, dict):
            raise LbCommandError("commands.%s for %s: printed no JSON object: %s" % (name, backend, output.strip()[:QUOTED]))
        return found


def is_count(value):
    """Whether this is a whole number from 0 on."""
    if isinstance(value, float):
        return value.is_integer() and value >= 0
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def text_of(stream):
    """All that was written to a temporary file."""
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")


def end_of_patience(process):
    """Ends a command and what it has started, which share a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass  # it has just ended by itself
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue


def parallel(function, items):
    """Runs function(item) for every item, AT_ONCE at a time: ({item: result}, list of problems)."""
    waiting, answers, problems, errors = list(items), {}, [], []

    def work():
        while True:
            try:
                item = waiting.pop(0)
            except IndexError:
                return
            try:
                answers[item] = function(item)
            except LbCommandError as error:
                problems.extend(error.problems)
            except Exception as error:  # noqa: BLE001 - raised by the caller below
                errors.append(error)

    threads = [threading.Thread(target=work) for unused in range(min(AT_ONCE, len(waiting)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return answers, sorted(problems)


class Meter(object):
    """By how much counters have grown since the first reading.

    :param first: {(backend, server): {"requests": n, "failures": n}}, as later readings are.
    """

    def __init__(self, first):
        self.last = first
        self.grown = {key: {"requests": 0, "failures": 0} for key in first}
        self.reset = set()

    def add(self, reading):
        """Takes one more reading. A server that counts less than before has begun anew."""
        for key, counts in reading.items():
            old = self.last.get(key, {"requests": 0, "failures": 0})
            grown = self.grown.setdefault(key, {"requests": 0, "failures": 0})
            if any(counts[name] < old[name] for name in old):
                self.reset.add(key)
                old = {"requests": 0, "failures": 0}
            for name in old:
                grown[name] += counts[name] - old[name]
        self.last = reading

    def breach(self, stop):
        """A sentence when servers of stop["watch"] do worse than those of stop["against"] by more than stop["budget"]."""
        shares = {}
        for role in ("watch", "against"):
            chosen = [grown for key, grown in self.grown.items() if key[1] in stop[role] or label(key) in stop[role]]
            shares[role] = tuple(sum(grown[name] for grown in chosen) for name in ("failures", "requests"))
        (bad, requests), (others_bad, others) = shares["watch"], shares["against"]
        excess = (float(bad) / requests if requests else 0) - (float(others_bad) / others if others else 0)
        if not bad or requests < stop["minimum"] or excess <= stop["budget"]:
            return None
        return "%d of %d requests failed at %s, %d of %d at the others" % (
            bad, requests, ", ".join(sorted(stop["watch"])), others_bad, others)


def label(key):
    """backend/server."""
    return "%s/%s" % key


def tell(weights):
    """{(backend, server): weight} as words."""
    return ", ".join("%s %d" % (label(key), weights[key]) for key in sorted(weights))


class Job(object):
    """One run of lb_command.

    :param params: the module's parameters.
    :param check: bool, check mode.
    """

    def __init__(self, params, check):
        self.params = params
        self.check = check
        self.begun = time.monotonic()
        self.commands = Commands(params["commands"], params["command_timeout"])
        self.wait = params["wait"] or {"up": [], "sessions_zero": [], "timeout": 60, "on_timeout": "fail"}
        self.changed = False
        self.warnings, self.refused = [], []
        self.sessions_left = {}
        self.window = None

    def result(self):
        """The whole run: the module's result (dict). LbCommandError, with `changed` in its details."""
        try:
            self.plan()
            now = self.end
            if not self.check:
                self.act()
                now = self.verify()
            answer = self.describe(now)
        except LbCommandError as error:
            error.details.setdefault("changed", self.changed)
            raise
        if self.check:
            self.changed = self.end != self.before
        return {
            "changed": self.changed,
            "load_balancer": answer,
            "window": self.window,
            "sessions_left": [{"backend": key[0], "server": key[1], "sessions": number}
                              for key, number in sorted(self.sessions_left.items())],
            "refused": self.refused,
            "diff": self.diff(),
            "elapsed": round(time.monotonic() - self.begun, 3),
        }

    # ---- before the first change -------------------------------------------------------------------------------

    def plan(self):
        """Reads the weights and finds every problem before the first change. LbCommandError with all of them."""
        problems = list(self.commands.problems)
        backends = self.params["backends"]
        if not backends:
            problems.append("backends: the list is empty.")
        if problems:
            raise LbCommandError(problems)
        self.before = self.read()
        self.names = set(self.before)
        self.targets, wrong = self.resolve_servers()
        problems += wrong
        self.up, wrong = self.resolve(self.wait["up"], "wait.up")
        problems += wrong
        self.zero, wrong = self.resolve(self.wait["sessions_zero"], "wait.sessions_zero")
        problems += wrong
        stop = self.params["observe_stop"] or {"watch": [], "against": []}
        for role in ("watch", "against"):
            problems += self.resolve(stop[role], "observe_stop.%s" % role)[1]
        self.end = dict(self.before)
        for key, target in self.targets.items():
            if target["weight"] is not None:
                self.end[key] = target["weight"]
        refusals = ["wait.sessions_zero: %s goes on getting new requests (weight %d). Give it the state drain or the weight 0."
                    % (label(key), self.end[key]) for key in sorted(self.zero) if self.end[key]]
        if not problems:
            refusals += self.without_usable()
        if self.check:
            # What an earlier phase would have brought about cannot be asked for in check mode: these are told, not failed.
            self.refused = refusals
            self.warnings += ["This would be refused as things are now: " + refusal for refusal in refusals]
        else:
            problems += refusals
        if problems:
            raise LbCommandError(problems)

    def read(self):
        """What is in force: {(backend, server): weight}. LbCommandError with what every backend met."""
        found, problems = {}, []
        for backend in self.params["backends"]:
            try:
                for server, weight in self.commands.weights(backend).items():
                    found[(backend, server)] = weight
            except LbCommandError as error:
                problems += error.problems
        if problems:
            raise LbCommandError(problems)
        return found

    def resolve_servers(self):
        """What becomes of each server: ({key: {"weight": number or None, "state": word or None}}, problems)."""
        targets, problems = {}, []
        for server in self.params["servers"]:
            weight, state = server.get("weight"), server.get("state")
            name = "%s/%s" % (server["backend"], server["name"]) if server.get("backend") else server["name"]
            keys, wrong = self.resolve([name], "servers")
            problems += wrong
            if weight is not None and weight < 0:
                problems.append("servers: the weight of %s is %d; it is a whole number from 0 on." % (name, weight))
            if weight and state in ("drain", "maint"):
                problems.append("servers: %s cannot have the weight %d and the state %s." % (name, weight, state))
            if state in ("drain", "maint"):
                weight = 0
            for key in keys:
                if key in targets:
                    problems.append("servers: %s is named twice." % label(key))
                targets[key] = {"weight": weight, "state": state}
        return targets, problems

    def resolve(self, names, option):
        """Keys of names ("server" or "backend/server"): (set, problems)."""
        found, problems = set(), []
        for name in names:
            keys = {key for key in self.names if name in (key[1], label(key))}
            if not keys:
                problems.append("%s: commands.weights prints no server %s; it prints %s." % (
                    option, name, ", ".join(sorted(label(key) for key in self.names)) or "none at all"))
            found |= keys
        return found, problems

    def without_usable(self):
        """Sentences about backends that have a server in use now and would have none. In check mode health is not asked."""
        problems = []
        for backend in sorted({key[0] for key in self.targets}):
            before = {key for key, weight in self.before.items() if key[0] == backend and weight}
            after = {key for key, weight in self.end.items() if key[0] == backend and weight}
            if before and not after:
                problems.append("%s: no server would be left with a weight above 0." % backend)
            elif before != after and self.commands.has("up") and not self.check:
                asked = (before | after) - self.up
                answers, wrong = parallel(lambda key: self.commands.up(*key), asked)
                problems += wrong
                healthy = {key for key in asked if answers.get(key)} | self.up
                if not wrong and before & healthy and not after & healthy:
                    problems.append("%s: none of the servers that would be left with a weight above 0 is up: %s." % (
                        backend, ", ".join(label(key) for key in sorted(after))))
        return problems

    # ---- change, wait, watch -----------------------------------------------------------------------------------

    def act(self):
        """Changes, waits and watches."""
        done = []
        try:
            self.make_ready(done)
            self.wait_up()
            self.move(done)
        except LbCommandError as error:
            self.put_back(done, error)
        self.changed = self.end != self.before
        self.drain()
        if self.params["observe"]:
            self.observe()

    def make_ready(self, done):
        """Runs `ready`, for which a health check may have to wait. Weights come later."""
        for key in sorted(self.targets):
            if self.targets[key]["state"] == "ready" and self.commands.has("ready"):
                done.append(("ready", key))
                self.commands.run("ready", key[0], key[1], self.before[key], "ready")
        if done and self.commands.has("apply"):
            self.set_weights(self.before, set(), {key[0] for unused, key in done}, done)

    def move(self, done):
        """What brings traffic first, then what takes it away; then the reading has to say so."""
        # `drain` runs also for a server that has no weight already: what else it does is not seen in weights.
        drained = {key for key, target in self.targets.items()
                   if target["state"] in ("drain", "maint") and self.commands.has("drain")}
        moving = drained | {key for key in self.targets if self.end[key] != self.before[key]}
        if moving:
            self.set_weights(self.end, moving, {key[0] for key in moving}, done, drained)
        if done:
            self.read_back(self.end)

    def set_weights(self, wanted, keys, backends, done, drained=(), stop=True):
        """Sets the weights of servers, and applies them.

        With `apply` each server of these backends is set: so what a call that was cut short has prepared and never applied
        is overwritten.

        :param wanted: self.end, or self.before to go back.
        :param done: list to which (command, key) is added for what is run.
        :param stop: bool, whether the first problem ends it. Else the problems are returned, and the rest is set.
        """
        if self.commands.has("apply"):
            keys = {key for key in self.before if key[0] in backends}
        other = self.end if wanted is self.before else self.before
        problems = []
        for key in sorted(keys, key=lambda key: ((wanted[key] < other[key]) - (wanted[key] > other[key]), key)):
            state = self.targets[key]["state"] if key in self.targets else None
            name = "drain" if key in drained else "set_weight"
            done.append((name, key))
            try:
                self.commands.run(name, key[0], key[1], wanted[key], state or "")
            except LbCommandError as error:
                if stop:
                    raise
                problems += error.problems
        for backend in sorted(backends) if self.commands.has("apply") else []:
            self.commands.run("apply", backend)
        return problems

    def read_back(self, wanted):
        """Waits until `weights` prints what was set; LbCommandError when it does not within command_timeout."""
        until = time.monotonic() + self.params["command_timeout"]
        while True:
            now = self.read()
            wrong = {key: now.get(key) for key in self.targets if now.get(key) != wanted[key]}
            if not wrong:
                return
            if time.monotonic() >= until:
                raise LbCommandError([
                    "%s: commands.weights prints %s after it was set to %d." % (label(key), json.dumps(wrong[key]), wanted[key])
                    for key in sorted(wrong)])
            time.sleep(POLL)  # between two questions to the user's command

    def put_back(self, done, error):
        """Gives every server that was touched its first weight and state, and raises what went wrong."""
        if not done:
            raise error
        failed, wrong = [], []
        for key in sorted({key for unused, key in done}):
            try:
                if self.before[key] and ("drain", key) in done and self.commands.has("ready"):
                    self.commands.run("ready", key[0], key[1], self.before[key], "ready")
                if not self.before[key] and ("ready", key) in done and self.commands.has("drain"):
                    self.commands.run("drain", key[0], key[1], 0, "drain")
            except LbCommandError as another:
                failed += another.problems
        try:
            touched = {key for name, key in done if name != "ready"}
            wrong = self.set_weights(self.before, touched, {key[0] for unused, key in done}, [], stop=False)
            self.read_back(self.before)
        except LbCommandError as another:
            failed += wrong + another.problems
        told = "What this call had set could not all be put back." if failed else "What this call had set was put back."
        self.changed = bool(failed)
        raise LbCommandError(error.problems + [told] + failed, changed=self.changed, put_back=not failed)

    def wait_up(self):
        """Waits until `up` ends with 0 for each server of wait.up. Without that command nobody can say so."""
        if not self.commands.has("up"):
            return
        left = set(self.up)
        until = time.monotonic() + self.wait["timeout"]
        while left:
            answers, problems = parallel(lambda key: self.commands.up(*key), left)
            if problems:
                raise LbCommandError(problems)
            left = {key for key in left if not answers[key]}
            if left and time.monotonic() >= until:
                raise LbCommandError("Not up after %s s, says commands.up: %s." % (
                    self.wait["timeout"], ", ".join(label(key) for key in sorted(left))))
            if left:
                time.sleep(POLL)  # between two questions to the user's command

    def drain(self):
        """Waits until the servers of wait.sessions_zero have no session left."""
        left = {key: None for key in self.zero}
        until = time.monotonic() + self.wait["timeout"]
        while left:
            answers, problems = parallel(lambda key: self.commands.sessions(*key), left)
            if problems:
                raise LbCommandError(problems, changed=self.changed)
            left = {key: number for key, number in answers.items() if number}
            if not left:
                return
            if time.monotonic() >= until:
                break
            time.sleep(POLL)  # between two questions to the user's command
        self.sessions_left = left
        if not left:
            return
        words = "Sessions are left after %s s: %s." % (self.wait["timeout"], tell(left))
        if self.wait["on_timeout"] == "cut":
            self.warnings.append(words + " They are left to whoever stops the server.")
            return
        raise LbCommandError(
            words + " The servers stay as they are, without new requests: run again to wait on, or use on_timeout: cut.",
            changed=self.changed,
            sessions_left=[{"backend": key[0], "server": key[1], "sessions": left[key]} for key in sorted(left)])

    def observe(self):
        """By how much the counters grow in the time; without `counters` only the time is kept."""
        backends = sorted({key[0] for key in self.targets} or set(self.params["backends"]))
        stop, counted = self.params["observe_stop"], self.commands.has("counters")
        meter, stopped = Meter(self.count(backends)), None
        begin, start = time.time(), time.monotonic()
        until = start + self.params["observe"]
        while not stopped and time.monotonic() < until:
            left = until - time.monotonic()
            # the time over which the counters grow is what is asked for
            time.sleep(max(0, min(STEP, left) if stop and counted else left))
            meter.add(self.count(backends))
            stopped = meter.breach(stop) if stop and counted else None
        self.window = {
            "begin": round(begin, 3), "end": round(time.time(), 3), "seconds": round(time.monotonic() - start, 3),
            "counted": counted, "stopped": stopped,
            "servers": [{"backend": key[0], "name": key[1], "reset": key in meter.reset, "counters": meter.grown[key]}
                        for key in sorted(meter.grown)],
        }

    def count(self, backends):
        """{(backend, server): counters}; {} without the command."""
        found = {}
        for backend in backends if self.commands.has("counters") else []:
            try:
                for server, counts in self.commands.counters(backend).items():
                    found[(backend, server)] = counts
            except LbCommandError as error:
                raise LbCommandError(error.problems, changed=self.changed)
        return found

    # ---- afterwards --------------------------------------------------------------------------------------------

    def verify(self):
        """The last reading: {key: weight}; LbCommandError when it no longer says what was set."""
        now = self.read()
        problems = ["%s no longer has the weight that was set: %s instead of %d. Somebody else changes it too." % (
            label(key), json.dumps(now.get(key)), self.end[key]) for key in sorted(self.targets) if now.get(key) != self.end[key]]
        if problems:
            raise LbCommandError(problems, changed=self.changed, window=self.window)
        return now

    def describe(self, weights):
        """What the load balancer says, in the shape of haproxy_server's answer.

        When nothing was asked for but to look, every command that reads is run: so what is wrong with one is known before
        the first change.
        """
        looks = not (self.params["servers"] or self.up or self.zero or self.params["observe"])
        chosen = {key[0] for key in self.targets} | {key[0] for key in self.up | self.zero} or set(self.params["backends"])
        keys = sorted(key for key in weights if key[0] in chosen)
        health, sessions, counters, problems = {}, {}, {}, []
        if self.commands.has("up") and looks:
            health, wrong = parallel(lambda key: self.commands.up(*key), keys)
            problems += wrong
        if looks and not self.check:
            sessions, wrong = parallel(lambda key: self.commands.sessions(*key), keys)
            problems += wrong
            try:
                counters = self.count(sorted(chosen))
            except LbCommandError as error:
                problems += error.problems
        if problems:
            raise LbCommandError(problems)
        return {
            "counted": self.commands.has("counters"),
            "servers": [{
                "backend": key[0], "name": key[1], "weight": weights[key],
                "admin_state": "ready" if weights[key] else "drain",
                "status": ("UP" if health[key] else "DOWN") if key in health else "no check" if not self.commands.has("up") else None,
                "sessions": sessions.get(key, self.sessions_left.get(key, 0 if key in self.zero and not self.check else None)),
                "counters": counters.get(key),
            } for key in keys],
        }

    def diff(self):
        """For diff mode: the weights that change."""
        differing = sorted(key for key in self.targets if self.before[key] != self.end[key])
        if not differing:
            return []
        return [{
            "before_header": "load balancer", "after_header": "load balancer",
            "before": "".join("%s: weight %d\n" % (label(key), self.before[key]) for key in differing),
            "after": "".join("%s: weight %d\n" % (label(key), self.end[key]) for key in differing),
        }]
