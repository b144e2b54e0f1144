# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights of servers on a load balancer of any kind: what is set, waited for, watched and put back.

Nothing about a load balancer is known here. A Balancer, of which each driver's module has its own, knows how to read and
to set; what it did is believed only when it reads it back. Times are seconds.
"""

import abc
import json
import os
import signal
import subprocess
import tempfile
import threading
import time

from ansible_collections.bluegreen.kong.plugins.module_utils._errors import Problems

#: Seconds between two looks at something that is waited for.
POLL = 0.5
#: Seconds between two readings of counters that may end a soak.
STEP = 1.0
#: Questions to the load balancer at the same time.
AT_ONCE = 8
#: Seconds that a command gets to end by itself after its time is over.
GRACE = 2


class LbError(Problems):
    """Something about a load balancer that ends the module."""


def call(argv, timeout, where, environment=None):
    """Runs a command to its end.

    :param argv: list of str. timeout: seconds. environment: dict, None for our own.
    :param where: str, how messages call it.
    :returns: (exit code, standard output, error output).
    :raises LbError: when it cannot be started or takes too long; it is ended then, with its children.
    """
    # Files, not pipes: a daemon that the command leaves behind would hold a pipe open for ever.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        try:
            process = subprocess.Popen(argv, stdin=nothing, stdout=out, stderr=err, env=environment, start_new_session=True)
        except OSError as error:
            raise LbError("%s: %s cannot be run: %s." % (where, argv[0], error.strerror))
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            end_of_patience(process)
            raise LbError("%s: has not ended after %s s, and was ended. Mend it, or give it more time." % (where, timeout))
        return code, text_of(out), text_of(err)


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
            except LbError as error:
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


class Balancer(abc.ABC):
    """What a driver's module gives a Job to work with. Every method may raise LbError.

    timeout: seconds within which what was set must be read back.
    told, told_up: how messages call the source of weights and of health, each with its verb.
    """

    told, told_up = "it tells", "it says"
    timeout = 30

    def problems(self):
        """What keeps it from being used at all: list of sentences."""
        return []

    @abc.abstractmethod
    def backends(self):
        """The pools of servers in question: list of str."""

    @abc.abstractmethod
    def has(self, name):
        """Whether there is one of: apply, drain, ready, counters, up."""

    @abc.abstractmethod
    def weights(self, backend):
        """What is in force: {server: weight}."""

    @abc.abstractmethod
    def run(self, name, backend, server="", weight="", state=""):
        """Does one of: set_weight, apply, drain, ready."""

    @abc.abstractmethod
    def sessions(self, backend, server):
        """How many requests or connections it still has with a server."""

    @abc.abstractmethod
    def up(self, backend, server):
        """Whether it takes a server for healthy."""

    @abc.abstractmethod
    def counters(self, backend):
        """{server: {"requests": n, "failures": n}}; the numbers only grow."""

    def pending(self):
        """Whether what `weights` tells has to be applied before it is in force."""
        return False

    def refusals(self, wanted):
        """Why these weights, {(backend, server): weight}, cannot be set as things are: list of sentences."""
        return []

    def facts(self, looks):
        """What else the answer tells (dict). `looks`: whether nothing was asked for but to look."""
        return {}

    def about_sessions(self):
        """What there is to be said about sessions that are left: a sentence, or nothing."""
        return ""


class Job(object):
    """One run of a module.

    :param params: dict with the parameters of _lb_spec.SPEC.
    :param balancer: Balancer.
    :param check: bool, check mode.
    """

    def __init__(self, params, balancer, check):
        self.params = params
        self.check = check
        self.begun = time.monotonic()
        self.balancer = balancer
        self.wait = params["wait"] or {"up": [], "sessions_zero": [], "timeout": 60, "on_timeout": "fail"}
        self.changed = False
        self.warnings, self.refused = [], []
        self.sessions_left = {}
        self.window = None

    def result(self):
        """The whole run: the module's result (dict). LbError, with `changed` in its details."""
        try:
            self.plan()
            now = self.end
            if not self.check:
                self.act()
                now = self.verify()
            answer = self.describe(now)
        except LbError as error:
            error.details.setdefault("changed", self.changed)
            raise
        if self.check:
            self.changed = self.will_change()
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
        """Reads the weights and finds every problem before the first change. LbError with all of them."""
        problems = self.balancer.problems()
        if problems:
            raise LbError(problems)
        self.before, self.pending = self.read(), self.balancer.pending()
        self.names = set(self.before)
        self.targets, wrong = self.resolve_servers()
        problems += wrong
        self.up, wrong = self.resolve(self.wait["up"], "wait.up")
        problems += wrong
        self.zero, wrong = self.resolve(self.wait["sessions_zero"], "wait.sessions_zero")
        problems += wrong
        stop = self.params["observe_stop"] or {"watch": [], "against": []}
        self.watched, wrong = self.resolve(stop["watch"], "observe_stop.watch")
        problems += wrong + self.resolve(stop["against"], "observe_stop.against")[1]
        self.end = dict(self.before)
        for key, target in self.targets.items():
            if target["weight"] is not None:
                self.end[key] = target["weight"]
        refusals = ["wait.sessions_zero: %s goes on getting new requests (weight %d). Give it the state drain or the weight 0."
                    % (label(key), self.end[key]) for key in sorted(self.zero) if self.end[key]]
        if not problems:
            refusals += self.balancer.refusals({key: self.end[key] for key in self.targets}) + self.without_usable()
        if self.check:
            # What an earlier phase would have brought about cannot be asked for in check mode: these are told, not failed.
            self.refused = refusals
            self.warnings += ["This would be refused as things are now: " + refusal for refusal in refusals]
        else:
            problems += refusals
        if problems:
            raise LbError(problems)

    def read(self):
        """What is in force: {(backend, server): weight}. LbError with what every backend met."""
        found, problems = {}, []
        for backend in self.balancer.backends():
            try:
                for server, weight in self.balancer.weights(backend).items():
                    found[(backend, server)] = weight
            except LbError as error:
                problems += error.problems
        if problems:
            raise LbError(problems)
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
                problems.append("%s: %s no server %s. There are: %s." % (
                    option, self.balancer.told, name, ", ".join(sorted(label(key) for key in self.names)) or "none at all"))
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
            elif before != after and self.balancer.has("up") and not self.check:
                asked = (before | after) - self.up
                answers, wrong = parallel(lambda key: self.balancer.up(*key), asked)
                problems += wrong
                healthy = {key for key in asked if answers.get(key)} | self.up
                if not wrong and before & healthy and not after & healthy:
                    problems.append("%s: none of the servers that would be left with a weight above 0 is up: %s." % (
                        backend, ", ".join(label(key) for key in sorted(after))))
        return problems

    # ---- change, wait, watch -----------------------------------------------------------------------------------

    def will_change(self):
        """Whether anything is to be done."""
        return self.end != self.before or (self.pending and bool(self.targets))

    def act(self):
        """Changes, waits and watches."""
        done = []
        try:
            self.make_ready(done)
            self.wait_up()
            self.move(done)
        except LbError as error:
            self.put_back(done, error)
        self.changed = self.will_change()
        self.drain()
        if self.params["observe"]:
            self.observe()

    def make_ready(self, done):
        """Makes servers ready, for which a health check may have to wait. Weights come later."""
        for key in sorted(self.targets):
            if self.targets[key]["state"] == "ready" and self.balancer.has("ready"):
                done.append(("ready", key))
                self.balancer.run("ready", key[0], key[1], self.before[key], "ready")
        if done and self.balancer.has("apply"):
            self.set_weights(self.before, set(), {key[0] for unused, key in done}, done)

    def move(self, done):
        """What brings traffic first, then what takes it away; then the reading has to say so."""
        # `drain` runs also for a server that has no weight already: what else it does is not seen in weights.
        drained = {key for key, target in self.targets.items()
                   if target["state"] in ("drain", "maint") and self.balancer.has("drain")}
        moving = drained | {key for key in self.targets if self.end[key] != self.before[key] or self.pending}
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
        if self.balancer.has("apply"):
            keys = {key for key in self.before if key[0] in backends}
        other = self.end if wanted is self.before else self.before
        problems = []
        for key in sorted(keys, key=lambda key: ((wanted[key] < other[key]) - (wanted[key] > other[key]), key)):
            state = self.targets[key]["state"] if key in self.targets else None
            name = "drain" if key in drained else "set_weight"
            done.append((name, key))
            try:
                self.balancer.run(name, key[0], key[1], wanted[key], state or "")
            except LbError as error:
                if stop:
                    raise
                problems += error.problems
        for backend in sorted(backends) if self.balancer.has("apply") else []:
            self.balancer.run("apply", backend)
        return problems

    def read_back(self, wanted):
        """Waits until the weights are what was set; LbError when it does not in time."""
        until = time.monotonic() + self.balancer.timeout
        while True:
            now = self.read()
            wrong = {key: now.get(key) for key in self.targets if now.get(key) != wanted[key]}
            if not wrong:
                return
            if time.monotonic() >= until:
                raise LbError([
                    "%s: %s %s after it was set to %d." % (label(key), self.balancer.told, json.dumps(wrong[key]), wanted[key])
                    for key in sorted(wrong)])
            time.sleep(POLL)  # between two questions; a load balancer tells nothing by itself

    def put_back(self, done, error):
        """Gives every server that was touched its first weight and state, and raises what went wrong."""
        if not done:
            raise error
        failed, wrong = [], []
        for key in sorted({key for unused, key in done}):
            try:
                if self.before[key] and ("drain", key) in done and self.balancer.has("ready"):
                    self.balancer.run("ready", key[0], key[1], self.before[key], "ready")
                if not self.before[key] and ("ready", key) in done and self.balancer.has("drain"):
                    self.balancer.run("drain", key[0], key[1], 0, "drain")
            except LbError as another:
                failed += another.problems
        try:
            touched = {key for name, key in done if name != "ready"}
            wrong = self.set_weights(self.before, touched, {key[0] for unused, key in done}, [], stop=False)
            self.read_back(self.before)
        except LbError as another:
            failed += wrong + another.problems
        told = "What this call had set could not all be put back." if failed else "What this call had set was put back."
        self.changed = bool(failed)
        last = "%s. %s" % (error.problems[-1].rstrip(". "), told)
        raise LbError(error.problems[:-1] + [last] + failed, changed=self.changed, put_back=not failed)

    def wait_up(self):
        """Waits until each server of wait.up is up. Without health nobody can say so."""
        if not self.balancer.has("up"):
            return
        left = set(self.up)
        until = time.monotonic() + self.wait["timeout"]
        while left:
            answers, problems = parallel(lambda key: self.balancer.up(*key), left)
            if problems:
                raise LbError(problems)
            left = {key for key in left if not answers[key]}
            if left and time.monotonic() >= until:
                raise LbError("Not up after %s s, %s: %s." % (
                    self.wait["timeout"], self.balancer.told_up, ", ".join(label(key) for key in sorted(left))))
            if left:
                time.sleep(POLL)  # between two questions; a load balancer tells nothing by itself

    def drain(self):
        """Waits until the servers of wait.sessions_zero have no session left."""
        left = {key: None for key in self.zero}
        until = time.monotonic() + self.wait["timeout"]
        while left:
            answers, problems = parallel(lambda key: self.balancer.sessions(*key), left)
            if problems:
                raise LbError(problems, changed=self.changed)
            left = {key: number for key, number in answers.items() if number}
            if not left:
                return
            if time.monotonic() >= until:
                break
            time.sleep(POLL)  # between two questions; a load balancer tells nothing by itself
        self.sessions_left = left
        if not left:
            return
        words = " ".join(["Sessions are left after %s s: %s." % (self.wait["timeout"], tell(left)), self.balancer.about_sessions()]).strip()
        if self.wait["on_timeout"] == "cut":
            self.warnings.append(words + " They are left to whoever stops the server.")
            return
        raise LbError(
            words + " The servers stay as they are, without new requests: run again to wait on, or use on_timeout: cut.",
            changed=self.changed,
            sessions_left=[{"backend": key[0], "server": key[1], "sessions": left[key]} for key in sorted(left)])

    def observe(self):
        """By how much the counters grow in the time; without counters only the time is kept."""
        backends = sorted({key[0] for key in self.targets} or set(self.balancer.backends()))
        stop, counted = self.params["observe_stop"], self.balancer.has("counters")
        early = stop and (counted or self.balancer.has("up"))
        meter, stopped, down = Meter(self.count(backends)), None, set()
        begin, start = time.time(), time.monotonic()
        until = start + self.params["observe"]
        while not stopped and time.monotonic() < until:
            left = until - time.monotonic()
            time.sleep(max(0, min(STEP, left) if early else left))  # the time over which the counters grow is what is asked for
            meter.add(self.count(backends))
            if early:
                before, down = down, self.watched_down()
                stopped = meter.breach(stop) or ("No longer up, %s: %s" % (
                    self.balancer.told_up, ", ".join(label(key) for key in sorted(down & before))) if down & before else None)
        self.window = {
            "begin": round(begin, 3), "end": round(time.time(), 3), "seconds": round(time.monotonic() - start, 3),
            "counted": counted, "stopped": stopped,
            "servers": [{"backend": key[0], "name": key[1], "reset": key in meter.reset, "counters": meter.grown[key]}
                        for key in sorted(meter.grown)],
        }

    def watched_down(self):
        """Which of the watched servers are in use and not up; empty where nothing tells."""
        if not self.balancer.has("up"):
            return set()
        watched = {key for key in self.watched if self.end[key]}
        answers, problems = parallel(lambda key: self.balancer.up(*key), watched)
        if problems:
            raise LbError(problems, changed=self.changed)
        return {key for key in watched if not answers[key]}

    def count(self, backends):
        """{(backend, server): counters}; {} where nothing counts."""
        found = {}
        for backend in backends if self.balancer.has("counters") else []:
            try:
                for server, counts in self.balancer.counters(backend).items():
                    found[(backend, server)] = counts
            except LbError as error:
                raise LbError(error.problems, changed=self.changed)
        return found

    # ---- afterwards --------------------------------------------------------------------------------------------

    def verify(self):
        """The last reading: {key: weight}; LbError when it no longer says what was set."""
        now = self.read()
        problems = ["%s no longer has the weight that was set: %s instead of %d. Somebody else changes it too." % (
            label(key), json.dumps(now.get(key)), self.end[key]) for key in sorted(self.targets) if now.get(key) != self.end[key]]
        if problems:
            raise LbError(problems, changed=self.changed, window=self.window)
        return now

    def describe(self, weights):
        """What the load balancer says, in the shape of haproxy_server's answer.

        When nothing was asked for but to look, everything that can be read is: so what is wrong with it is known before
        the first change.
        """
        looks = not (self.params["servers"] or self.up or self.zero or self.params["observe"])
        chosen = {key[0] for key in self.targets} | {key[0] for key in self.up | self.zero} or set(self.balancer.backends())
        keys = sorted(key for key in weights if key[0] in chosen)
        health, sessions, counters, problems = {}, {}, {}, []
        if self.balancer.has("up") and looks:
            health, wrong = parallel(lambda key: self.balancer.up(*key), keys)
            problems += wrong
        if looks and not self.check:
            sessions, wrong = parallel(lambda key: self.balancer.sessions(*key), keys)
            problems += wrong
            try:
                counters = self.count(sorted(chosen))
            except LbError as error:
                problems += error.problems
        if problems:
            raise LbError(problems)
        answer = self.balancer.facts(looks)
        answer.update({
            "counted": self.balancer.has("counters"),
            "servers": [{
                "backend": key[0], "name": key[1], "weight": weights[key],
                "admin_state": "ready" if weights[key] else "drain",
                "status": ("UP" if health[key] else "DOWN") if key in health else "no check" if not self.balancer.has("up") else None,
                "sessions": sessions.get(key, self.sessions_left.get(key, 0 if key in self.zero and not self.check else None)),
                "counters": counters.get(key),
            } for key in keys],
        })
        return answer

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
