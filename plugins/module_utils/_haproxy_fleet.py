# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many servers on many HAProxies in one go: what is asked for, and how to get there and back."""

from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy import (
    MAXIMUM_WEIGHT,
    HaproxyError,
    forced_state,
    label,
    parallel,
    parse_state,
)


class Target(object):
    """One server on one socket, and what it shall become.

    `before` is its entry in the first snapshot; `weight` (int) and `state` (str) may be None: leave as it is.
    """

    def __init__(self, socket_index, before):
        self.socket = socket_index
        self.before = before
        self.weight = None
        self.state = None

    @property
    def key(self):
        """(backend, name)."""
        return self.before["backend"], self.before["name"]

    def end_weight(self):
        """The weight at the end, int."""
        return self.before["weight"] if self.weight is None else self.weight

    def end_state(self):
        """The forced state at the end."""
        return self.state or self.before["forced_state"]

    def differs(self):
        """Whether anything is to be done."""
        return self.end_weight() != self.before["weight"] or self.end_state() != self.before["forced_state"]


def _matches(view, name, backend=None):
    """Servers of a snapshot that a request means. `name` may also be backend/name."""
    if backend is None and "/" in name:
        backend, name = name.split("/", 1)
    return [server for server in view["servers"]
            if server["name"] == name and (backend is None or server["backend"] == backend)]


def _unknown(view, name, backend=None):
    """The sentence about a request that means nothing on this HAProxy."""
    if backend is None and "/" in name:
        backend, name = name.split("/", 1)
    if backend is not None and backend not in view["backends"]:
        return "%s: there is no backend '%s'. Backends are: %s." % (
            view["socket"], backend, ", ".join(sorted(view["backends"])))
    names = {server["name"] for server in view["servers"] if backend in (None, server["backend"])}
    return "%s: there is no server '%s' in %s. Servers are: %s." % (
        view["socket"], name, "backend '%s'" % backend if backend else "any backend", ", ".join(sorted(names)) or "none")


def resolve(views, requests):
    """Turns requests into targets on every socket: (list of Target, list of problems).

    :param requests: list of dict: name, backend (or None), weight (or None), state (or None).
    """
    targets, problems = {}, []
    for request in requests:
        name = request["name"]
        weight, state = request.get("weight"), request.get("state")
        if weight is not None and not 0 <= weight <= MAXIMUM_WEIGHT:
            problems.append("servers: %s: weight %d is not between 0 and %d." % (name, weight, MAXIMUM_WEIGHT))
        for index, view in enumerate(views):
            if view is None:
                continue
            matches = _matches(view, name, request.get("backend"))
            if not matches:
                problems.append(_unknown(view, name, request.get("backend")))
            for server in matches:
                target = targets.setdefault((index, server["backend"], server["name"]), Target(index, server))
                for attribute, value in (("weight", weight), ("state", state)):
                    if value is None:
                        continue
                    if getattr(target, attribute) not in (None, value):
                        problems.append("servers: %s is given two values for %s: %s and %s." % (
                            label(server), attribute, getattr(target, attribute), value))
                    setattr(target, attribute, value)
                kind = view["backends"][server["backend"]]
                if (weight is not None and kind["weights"] == "static"
                        and weight not in (0, server["initial_weight"], server["weight"])):
                    problems.append(
                        "%s: %s: balance %s%s takes no weight but 0 and the initial %d at run time. Use roundrobin, "
                        "leastconn, random or 'hash-type consistent', or steps of 0 and 100 percent."
                        % (view["socket"], label(server), kind["algo"],
                           " (hash-type map-based)" if kind["algo"] != "static-rr" else "", server["initial_weight"])
                    )
    return [targets[key] for key in sorted(targets)], problems


def resolve_names(views, names, option):
    """Names of `wait`: (set of (socket index, backend, name), list of problems)."""
    found, problems = set(), []
    for name in names:
        for index, view in enumerate(views):
            if view is None:
                continue
            matches = _matches(view, name)
            if not matches:
                problems.append("%s: %s" % (option, _unknown(view, name)))
            found.update((index, server["backend"], server["name"]) for server in matches)
    return found, problems


def _takes_traffic(server, state, weight, up):
    return state == "ready" and weight > 0 and up


def without_usable(views, targets, awaited):
    """Sentences about backends that would be left without a usable server.

    Usable: ready, weight above 0, and up or not checked. Counted over the requested end; a server that is in `awaited`
    (set of (socket index, backend, name)) counts as up, because nothing is taken away before it is. A server that
    follows another one (`track`) follows it here too.
    """
    problems = []
    wanted = {(target.socket,) + target.key: target for target in targets}
    for index, view in enumerate(views):
        if view is None:
            continue
        touched = {target.before["backend"] for target in targets if target.socket == index and target.differs()}
        ends = {}
        for server in view["servers"]:
            target = wanted.get((index, server["backend"], server["name"]))
            ends[label(server)] = target.end_state() if target else server["forced_state"]
        followers = {label(server): server["tracked"] for server in view["servers"] if server["tracked"]}
        for follower, leader in followers.items():
            if ends.get(leader, "ready") != "ready":
                touched.add(follower.rsplit("/", 1)[0])
        for backend in sorted(touched):
            usable, able, usable_then, able_then = 0, 0, 0, 0
            left = []
            for server in view["servers"]:
                if server["backend"] != backend:
                    continue
                key = (index, backend, server["name"])
                target = wanted.get(key)
                weight = target.end_weight() if target else server["weight"]
                state = server["admin_state"]
                if target or server["tracked"]:
                    state = ends[label(server)]
                    if state == "ready" and server["tracked"]:
                        state = ends.get(server["tracked"], "ready")
                up_now = server["running"]
                up_then = server["running"] or key in awaited or (
                    state == "ready" and server["admin_state"] == "maint" and not server["checked"])
                usable += _takes_traffic(server, server["admin_state"], server["weight"], up_now)
                able += _takes_traffic(server, server["admin_state"], server["weight"], True)
                usable_then += _takes_traffic(server, state, weight, up_then)
                able_then += _takes_traffic(server, state, weight, True)
                left.append("%s (%s, weight %d, %s)" % (server["name"], state, weight, server["status"]))
            if (usable and not usable_then) or (able and not able_then):
                problems.append(
                    "%s: backend '%s' would be left without a usable server: %s. A server is usable when it is ready, "
                    "has a weight above 0 and is up." % (view["socket"], backend, ", ".join(left)))
    return problems


def same_process(views):
    """Sentences about sockets that lead to one and the same process: its counters would be taken twice."""
    seen, problems = {}, []
    for view in views:
        if view is None or not view["pid"] or view["started"] is None:
            continue
        key = (view["node"], view["pid"], view["started"])
        if key in seen:
            problems.append("sockets: %s and %s are the same HAProxy process (pid %d on %s). Give one of them." % (
                seen[key], view["socket"], view["pid"], view["node"]))
        seen[key] = view["socket"]
    return problems


def set_weight(key, weight):
    """The runtime command; key is (backend, name)."""
    return "set server %s/%s weight %d" % (key + (weight,))


def set_state(key, state):
    """The runtime command; key is (backend, name)."""
    return "set server %s/%s state %s" % (key + (state,))


def commands(steps):
    """Commands that lead from one (weight, state) to another, what brings traffic first, what takes it away last.

    :param steps: list of (key, weight now, state now, weight then, state then).
    """
    bring, take = [], []
    for key, weight, state, new_weight, new_state in steps:
        if state != "ready" and new_state == "ready":
            # The weight first: a server must not wake up with one that it is not to have.
            if new_weight != weight:
                bring.append(set_weight(key, new_weight))
            bring.append(set_state(key, new_state))
            continue
        if new_weight != weight:
            (bring if new_weight > weight else take).append(set_weight(key, new_weight))
        if new_state != state:
            take.append(set_state(key, new_state))
    return bring + take


class Fleet(object):
    """All sockets of one call: what was found, what is to be, what was done."""

    def __init__(self, runtimes, views, targets):
        self.runtimes = runtimes
        self.views = views
        self.targets = targets
        #: (weight, forced state) of every target as it is now, to the best of our knowledge.
        self.now = {self._id(target): (target.before["weight"], target.before["forced_state"]) for target in targets}

    @staticmethod
    def _id(target):
        return (target.socket,) + target.key

    def move(self, goals):
        """Sets every target to its goal, reads every reply and then reads the values back.

        :param goals: {(socket index, backend, name): (weight, state)}; those left out stay.
        :returns: (number of commands sent, list of problems); with problems, some may have been set and others not.
        """
        plans = []
        for index, runtime in enumerate(self.runtimes):
            mine = {key: goal for key, goal in goals.items() if key[0] == index}
            steps = [(key[1:],) + self.now[key] + goal for key, goal in sorted(mine.items())]
            sent = commands(steps)
            if sent:
                plans.append((runtime, index, sent, mine))

        def send(plan):
            runtime, _index, sent, mine = plan
            replies = runtime.ask(sent + ["show servers state"])
            problems = ["%s: '%s' was answered with '%s'." % (runtime.name, command, reply.splitlines()[0].strip())
                        for command, reply in zip(sent, replies) if reply.strip()]
            if replies[-1].startswith("Permission denied"):
                raise HaproxyError("%s: %s" % (runtime.name, replies[-1]))
            return problems, read_back(parse_state(replies[-1]), mine)

        problems = []
        for plan, (result, error) in zip(plans, parallel(send, plans)):
            if error is not None:
                problems.extend(error.details.get("problems", [str(error)]))
                continue
            refused, found = result
            problems.extend(refused)
            for key, value in found.items():
                self.now[key] = value
            if not refused:
                problems.extend(differences(plan[0].name, plan[3], found, self.agents(key[0] for key in plan[3])))
        return sum(len(plan[2]) for plan in plans), problems

    def agents(self, indexes):
        """Keys of servers whose weight an agent also sets, on these sockets."""
        return {(index, server["backend"], server["name"]) for index in set(indexes)
                for server in self.views[index]["servers"] if server["agent"]}

    def refresh(self):
        """Reads what is set now into `now`; returns problems of sockets that do not answer."""
        touched = sorted({target.socket for target in self.targets})
        answers = parallel(lambda index: parse_state(self.runtimes[index].ask(["show servers state"])[0]), touched)
        problems = []
        for index, (rows, error) in zip(touched, answers):
            if error is not None:
                problems.append(str(error))
            else:
                keys = [self._id(target) for target in self.targets if target.socket == index]
                self.now.update(read_back(rows, keys))
        return problems

    def put_back(self):
        """Sets everything to what it was before the first change; returns the problems met on the way."""
        problems = self.refresh()
        before = {self._id(target): (target.before["weight"], target.before["forced_state"])
                  for target in self.targets}
        problems.extend(self.move({key: goal for key, goal in before.items() if self.now[key] != goal})[1])
        return problems

    def fail_and_put_back(self, problems, **details):
        """Puts back and raises HaproxyError with everything that went wrong."""
        left = self.put_back()
        if left:
            problems = problems + ["Not everything could be put back to what it was: %s" % " ".join(left)]
        else:
            problems = problems + ["Everything that had been set was put back to what it was."]
        raise HaproxyError(problems, put_back=not left, changed=bool(left), **details)


def read_back(rows, keys):
    """(weight, forced state) of servers in a parsed `show servers state`: {(socket index, backend, name): ...}."""
    by_name = {(row["be_name"], row["srv_name"]): row for row in rows}
    found = {}
    for key in keys:
        row = by_name.get(tuple(key[1:]))
        if row is not None:
            found[key] = (int(row["srv_uweight"]), forced_state(int(row["srv_admin_state"])))
    return found


def differences(name, goals, found, agents=()):
    """Sentences about servers that are not what they were set to."""
    problems = []
    for key, goal in sorted(goals.items()):
        if key not in found:
            problems.append("%s: %s/%s has gone while it was being set." % ((name,) + tuple(key[1:])))
        elif found[key] != goal:
            problems.append("%s: %s/%s was set to weight %d, %s, but reads back as weight %d, %s.%s" % (
                (name,) + tuple(key[1:]) + goal + found[key] + (
                    " An agent check also sets this server's weight." if key in agents else "",)))
    return problems
