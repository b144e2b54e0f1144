# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What haproxy_server and haproxy_server_info do, from their parameters to their result."""

import os
import tempfile
import time

from ansible_collections.bluegreen.kong.plugins.module_utils import (
    _files,
    _haproxy_conf,
    _haproxy_fleet,
    _haproxy_local,
    _haproxy_wait,
)
from ansible_collections.bluegreen.kong.plugins.module_utils import _haproxy as haproxy
from ansible_collections.bluegreen.kong.plugins.module_utils._haproxy import HaproxyError

#: After sessions were cut, HAProxy needs a moment to take them off its books.
AFTER_CUT = 5


def open_sockets(addresses, timeout):
    """Runtime objects for addresses, without doubles: (list, list of problems)."""
    runtimes, problems, seen = [], [], set()
    for address in addresses:
        if address in seen:
            continue
        seen.add(address)
        try:
            runtimes.append(haproxy.Runtime(address, timeout))
        except HaproxyError as error:
            problems.extend(error.problems)
    if not addresses:
        problems.append("sockets: the list is empty.")
    return runtimes, problems


def gather(params):
    """haproxy_server_info: its result (dict).

    :raises HaproxyError: with on_error `fail`, when a socket cannot be read.
    """
    started = time.monotonic()
    runtimes, problems = open_sockets(params["sockets"], params["timeout"])
    views, unread = haproxy.read_all(runtimes) if runtimes else ([], [])
    problems += unread
    for view, runtime in zip(views, runtimes):
        if view is not None:
            _haproxy_local.learn(view, runtime)
    if problems and params["on_error"] == "fail":
        raise HaproxyError(problems)
    answer = [haproxy.select(view, params["backends"] or None, params["servers"] or None)
              for view in views if view is not None]
    result = {"changed": False, "haproxy": answer, "problems": problems}
    if params["conf_file"]:
        known = {(server["backend"], server["name"]) for view in answer for server in view["servers"]}
        result["conf_files"] = [conf_file(path, known) for path in params["conf_file"]]
    if params["sessions"]:
        fleet = _haproxy_fleet.Fleet(runtimes, views, [])
        keys = {(index, server["backend"], server["name"]) for index, view in enumerate(views) if view is not None
                for server in haproxy.select(view, params["backends"] or None, params["servers"] or None)["servers"]}
        result["sessions"] = _haproxy_wait.sessions_of(fleet, keys)
    result["elapsed"] = round(time.monotonic() - started, 3)
    return result


def conf_file(path, servers):
    """Whether a haproxy.cfg could be kept up to date, as haproxy_server_info returns it (dict); servers: {(backend, name)}."""
    found = {"path": path, "read": False, "servers": [], "problems": []}
    try:
        text = _files.read_text(path)
    except OSError as error:
        return dict(found, error="%s cannot be read: %s" % (path, error.strerror))
    unchanged = {key: {"weight": None, "disabled": None} for key in servers}
    _text, _changes, here, problems = _haproxy_conf.edit(text, path, unchanged)
    found.update(read=True, servers=sorted("/".join(key) for key in here), problems=problems)
    if os.access(os.path.dirname(os.path.realpath(path)), os.W_OK):
        return dict(found, error=None)
    return dict(found, error="the folder of %s is not writable for this user. Use become." % path)


class Conf(object):
    """haproxy.cfg files in which weights and `disabled` are made permanent."""

    def __init__(self, paths, run, executable, backup, backup_id, running):
        self.paths = paths
        self.run = run
        self.executable = executable
        self.backup = backup
        self.backup_id = (backup_id or "%d.%s" % (os.getpid(), time.strftime("%Y-%m-%d@%H:%M:%S"))).replace(os.sep, "_")
        self.running = [os.path.realpath(path) for path in running]
        self.texts = {}
        self.backups = {}
        self.first = {}
        self.validated = {}
        self.warnings = []

    def load(self):
        """Reads the files; returns the problems met."""
        problems = []
        for path in self.paths:
            try:
                self.texts[path] = self.first[path] = _files.read_text(path)
            except OSError as error:
                problems.append("conf_file: %s cannot be read: %s." % (path, error.strerror))
        return problems

    def prepare(self, wanted):
        """The files as they shall be, checked by HAProxy itself: ({path: (text, changes)}, problems)."""
        new, found, problems = {}, set(), []
        for path, text in sorted(self.texts.items()):
            edited, changes, here, wrong = _haproxy_conf.edit(text, path, wanted)
            found |= here
            problems += wrong
            if changes:
                new[path] = (edited, changes)
        problems += ["conf_file: the folder of %s is not writable for this user. Use become." % path for path in sorted(new)
                     if not os.access(os.path.dirname(os.path.realpath(path)), os.W_OK)]
        if len(self.texts) == len(self.paths):
            for backend, server in sorted(set(wanted) - found):
                problems.append(
                    "conf_file: %s has no line 'server %s' in 'backend %s'. A server that was added at run time, or "
                    "whose name is made of a variable, cannot be made permanent."
                    % (" and ".join(self.paths), server, backend))
        if not problems and new:
            problems = self.validate({path: text for path, (text, _unused) in new.items()})
        return new, problems

    def find(self):
        """The haproxy command, str or None."""
        if self.executable:
            return self.executable
        for folder in os.environ.get("PATH", "").split(os.pathsep) + ["/usr/local/sbin", "/usr/sbin"]:
            path = os.path.join(folder, "haproxy")
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def validate(self, new):
        """Lets `haproxy -c` read the new texts ({path: text}); returns problems."""
        command = self.find()
        if command is None:
            self.warnings.append("conf_file was not validated: there is no haproxy command here. Set haproxy_executable.")
            return []
        problems = []
        # Files that only make sense together are read together, when the running process tells which they are.
        together = self.running if len(self.running) > 1 else []
        sets = []
        alone = [path for path in new if os.path.realpath(path) not in together]
        if len(alone) < len(new):
            sets.append(together)
        sets.extend([os.path.realpath(path)] for path in alone)
        by_real = {os.path.realpath(path): text for path, text in new.items()}
        for files in sets:
            changed = [path for path in files if path in by_real]
            code, said = self.check(command, files, by_real)
            if code == 0:
                self.validated.update(dict.fromkeys(changed, True))
                continue
            before = self.check(command, files, {})[0]
            if before == 0:
                problems.append("conf_file: haproxy -c refuses %s with the change: %s" % (", ".join(changed), said))
            elif self.executable:
                problems.append("conf_file: %s -c refuses %s as it is now, before any change: %s" % (
                    command, ", ".join(changed), said))
            else:
                self.warnings.append(
                    "conf_file %s was not validated: %s found in the search path cannot read it as it is now either. "
                    "Set haproxy_executable." % (", ".join(changed), command))
        return problems

    def check(self, command, files, texts):
        """Exit code and last words of `haproxy -c` for files, of which some are replaced by texts."""
        argv, temporary = [command, "-c"], []
        try:
            for path in files:
                if path in texts:
                    handle, name = tempfile.mkstemp(prefix="haproxy.", suffix=".cfg")
                    temporary.append((name, path))
                    with os.fdopen(handle, "wb") as target:
                        target.write(texts[path].encode("utf-8", "surrogateescape"))
                argv += ["-f", temporary[-1][0] if path in texts else path]
            code, out, err = self.run(argv)
        finally:
            for name, _unused in temporary:
                os.unlink(name)
        said = " ".join(line.strip() for line in (err + out).splitlines() if "ALERT" in line) or (err + out).strip()
        for name, path in temporary:
            said = said.replace(name, path)
        return code, said[-1000:]

    def commit(self, new):
        """Writes what `prepare` gave. HaproxyError when a file cannot be written."""
        for path, (text, _unused) in sorted(new.items()):
            try:
                if self.backup and path not in self.backups:
                    copy = "%s.%s~" % (path, self.backup_id)
                    if not os.path.exists(copy):
                        _files.copy(path, copy)
                    self.backups[path] = copy
                _files.replace(path, text)
            except OSError as error:
                raise HaproxyError("conf_file: %s cannot be written: %s." % (path, error.strerror))
            self.texts[path] = text

    def revert(self):
        """Gives changed files their first text back."""
        for path, text in sorted(self.texts.items()):
            if text != self.first[path]:
                _files.replace(path, self.first[path])
                self.texts[path] = self.first[path]

    def report(self, new=None):
        """List of dict for the result: path, changed, validated, backup_file. `new` is what check mode would write."""
        answer = []
        for path in self.paths:
            changed = path in (new or {}) or self.texts.get(path) != self.first.get(path)
            answer.append({
                "path": path, "changed": changed, "backup_file": self.backups.get(path),
                "validated": self.validated.get(os.path.realpath(path), False) if changed else None,
            })
        return answer


def place_state_files(given, views):
    """The state file of each socket: (list of path or None, problems)."""
    if not given:
        return [None] * len(views), []
    problems = []
    if given == ["running"]:
        paths = [view and view["state_file"] for view in views]
        problems += [
            "state_file: running, but %s: its configuration cannot be read here or has no absolute server-state-file in "
            "'global'. Add one, or give the path." % view["socket"]
            for view in views if view and not view["state_file"]]
    elif len(given) != len(views):
        return [None] * len(views), ["state_file: %d paths for %d sockets. Give one for each socket, in the same order." % (
            len(given), len(views))]
    else:
        paths = list(given)
    for path in paths:
        if path is None:
            continue
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isabs(path):
            problems.append("state_file: %s is not an absolute path." % path)
        elif not os.path.isdir(folder):
            problems.append("state_file: the folder of %s does not exist." % path)
        elif not os.access(folder, os.W_OK):
            problems.append("state_file: the folder of %s is not writable for this user. Use become." % path)
    return paths, problems


class Job(object):
    """One run of haproxy_server.

    :param params: the module's parameters.
    :param run: AnsibleModule.run_command, for `haproxy -c`.
    :param check: bool, check mode.
    """

    def __init__(self, params, run, check):
        self.params = params
        self.check = check
        self.run = run
        self.begun = time.monotonic()
        self.wait = params["wait"] or {"up": [], "sessions_zero": [], "timeout": 60, "on_timeout": "fail"}
        self.changed = False
        self.warnings = []
        self.window = None
        self.state_written = set()
        self.sessions_cut = []

    def plan(self):
        """Reads everything and finds every problem before the first change. HaproxyError with all of them."""
        params = self.params
        runtimes, problems = open_sockets(params["sockets"], params["timeout"])
        views, unread = haproxy.read_all(runtimes) if runtimes else ([], [])
        problems += unread
        running = []
        for view, runtime in zip(views, runtimes):
            if view is not None:
                running.append(_haproxy_local.running_files(view["pid"]) if runtime.path else [])
                _haproxy_local.learn_from_files(view, params["conf_file"] or running[-1])
                if view["level"] not in (None, "admin") and (params["servers"] or self.wait["sessions_zero"]):
                    problems.append("%s: this socket has level %s. Nothing can be set without 'level admin' on its "
                                    "line 'stats socket' in haproxy.cfg." % (view["socket"], view["level"]))
        problems += _haproxy_fleet.same_process(views)
        targets, wrong = _haproxy_fleet.resolve(views, params["servers"])
        problems += wrong
        self.up, wrong = _haproxy_fleet.resolve_names(views, self.wait["up"], "wait.up")
        problems += wrong
        self.zero, wrong = _haproxy_fleet.resolve_names(views, self.wait["sessions_zero"], "wait.sessions_zero")
        problems += wrong
        stop = params["observe_stop"] or {"watch": [], "against": []}
        for role in ("watch", "against"):
            problems += _haproxy_fleet.resolve_names(views, stop[role], "observe_stop.%s" % role)[1]
        self.state_files, wrong = place_state_files(params["state_file"], views)
        problems += wrong
        self.conf = Conf(params["conf_file"], self.run, params["haproxy_executable"], params["backup"], params["backup_id"],
                         running[0] if len(running) == 1 else [])
        problems += self.conf.load()
        self.new_conf, wrong = self.conf.prepare(self.permanent(targets))
        problems += wrong

        self.fleet = _haproxy_fleet.Fleet(runtimes, views, targets)
        self.before = views
        # What an earlier phase would have brought about cannot be asked for in check mode: these are told, not failed.
        refusals = _haproxy_fleet.without_usable(views, targets, self.up) + self.futile_waits()
        if not self.check:
            problems += refusals
        else:
            self.warnings += ["This would be refused as things are now: " + refusal for refusal in refusals]
        self.refused = refusals if self.check else []
        if problems:
            raise HaproxyError(problems, changed=False)
        self.warnings += self.conf.warnings
        for target in targets:
            backend = views[target.socket]["backends"][target.before["backend"]]
            if (target.state == "maint" and target.differs() and backend.get("cuts_when_down")
                    and (target.socket,) + target.key not in self.zero):
                self.warnings.append(
                    "%s: backend '%s' has 'on-marked-down shutdown-sessions': maintenance cuts what is under way at %s. "
                    "List it in wait.sessions_zero." % (views[target.socket]["socket"], target.before["backend"], label(target)))
        for view in views:
            for backend in sorted({target.before["backend"] for target in targets if target.weight is not None}):
                kind = view["backends"].get(backend)
                if kind and kind["weights"] == "ignored" and backend in {
                        target.before["backend"] for target in targets if target.differs()}:
                    self.warnings.append("%s: backend '%s' has balance %s, where a weight above 0 says nothing about "
                                         "how much traffic a server gets." % (view["socket"], backend, kind["algo"]))

    def end_of(self, key):
        """(weight, forced state) that a server shall have at the end; key is (socket index, backend, name)."""
        for target in self.fleet.targets:
            if (target.socket,) + target.key == key:
                return target.end_weight(), target.end_state()
        server = haproxy.find(self.fleet.views[key[0]], key[1], key[2])
        return server["weight"], server["forced_state"]

    def futile_waits(self):
        """Sentences about waits that can never end, or end by chance."""
        problems = []
        for key in sorted(self.up):
            view = self.fleet.views[key[0]]
            server = haproxy.find(view, *_haproxy_wait.leader(view, key)[1:])
            if server is None or not server["checked"]:
                problems.append("wait.up: %s: %s/%s has no health check of its own, so nobody knows when it is up. Add "
                                "'check' to its line in haproxy.cfg." % (view["socket"], key[1], key[2]))
            elif self.end_of(key)[1] == "maint":
                problems.append("wait.up: %s: %s/%s is in maintenance, where it is not checked." % (
                    view["socket"], key[1], key[2]))
        for key in sorted(self.zero):
            weight, state = self.end_of(key)
            if state == "ready" and weight > 0:
                problems.append("wait.sessions_zero: %s: %s/%s goes on getting new sessions (ready, weight %d). Set its "
                                "state to drain or maint." % (self.fleet.views[key[0]]["socket"], key[1], key[2], weight))
        return problems

    def permanent(self, targets, held=()):
        """What conf_file shall say: {(backend, server): {weight, disabled}}. A held server is not yet disabled."""
        if not self.params["conf_file"]:
            return {}
        wanted = {}
        for target in targets:
            disabled = None if target.state is None else target.state == "maint"
            if disabled and (target.socket,) + target.key in held:
                disabled = None
            wanted[target.key] = {"weight": target.weight, "disabled": disabled}
        return wanted

    def goals(self):
        """Goals of the two steps before the waits for sessions, and of the one after: three dicts for Fleet.move."""
        first, second, third = {}, {}, {}
        for target in self.fleet.targets:
            key = (target.socket,) + target.key
            weight, state = target.end_weight(), target.end_state()
            if key in self.up and state == "ready" and target.before["forced_state"] != "ready":
                first[key] = (0, "ready")  # looked at by the health check, but without traffic until it has passed
            if state == "maint" and key in self.zero and target.before["forced_state"] != "maint":
                second[key] = (weight, "drain")
                third[key] = (weight, "maint")
            else:
                second[key] = (weight, state)
        return first, second, third

    def move(self, goals):
        """Sets goals; on any problem everything is put back, and HaproxyError raised."""
        sent, problems = self.fleet.move(goals)
        if problems:
            self.fleet.fail_and_put_back(problems)
        self.changed = self.changed or sent > 0

    def bound(self, keys):
        """Those of the keys whose clients come back by a cookie or a stick table, unless maintenance would cut them."""
        found = set()
        for key in keys:
            backend = self.fleet.views[key[0]]["backends"][key[1]]
            if stickiness(backend) and not backend.get("cuts_when_down"):
                found.add(key)
        return found

    def save_states(self):
        """Writes the state files, each from its own HAProxy."""
        wanted = [(index, path) for index, path in enumerate(self.state_files) if path]
        answers = haproxy.parallel(
            lambda item: self.fleet.runtimes[item[0]].ask(["show servers state"])[0] + "\n", wanted)
        for (_index, path), (text, error) in zip(wanted, answers):
            if error is not None:
                raise error
            if _haproxy_local.write_state(path, text):
                self.state_written.add(path)
                self.changed = True

    def save_conf(self, wanted):
        """Writes conf_file."""
        new, problems = self.conf.prepare(wanted)
        if problems:
            raise HaproxyError(problems)
        self.conf.commit(new)
        self.changed = self.changed or bool(new)

    def drain(self, until, bound=()):
        """Waits for the sessions of wait.sessions_zero; HaproxyError when some are left.

        :param until: time.monotonic() when patience ends.
        :param bound: keys of servers that go into maintenance next, and whose clients a cookie or a stick table brings
            back until then. They get half of the time; then maintenance sends their clients elsewhere.
        """
        patience = max(0, until - time.monotonic())
        left, older = _haproxy_wait.wait_sessions_zero(self.fleet, self.zero, patience / 2.0 if bound else patience)
        if left and bound and not set(left) <= set(bound):
            left, older = _haproxy_wait.wait_sessions_zero(self.fleet, self.zero, max(0, until - time.monotonic()))
        if left and set(left) <= set(bound):
            return
        if (left or older) and self.wait["on_timeout"] == "cut":
            if left:
                self.sessions_cut += _haproxy_wait.sessions_of(self.fleet, set(left))
                _haproxy_wait.cut_sessions(self.fleet, set(left))
                self.changed = True
                self.warnings.append("After %s s the sessions left were cut: %s." % (self.wait["timeout"], tell(left)))
                left = _haproxy_wait.wait_sessions_zero(self.fleet, set(left), AFTER_CUT)[0]
            self.warnings += [sentence + " They are left to themselves." for sentence in older]
            older = []
        if left or older:
            self.fail_with_sessions(left, older)

    def fail_with_sessions(self, left, older):
        """Raises the HaproxyError that lists the sessions of servers ({key: number}, sentences)."""
        sessions = _haproxy_wait.sessions_of(self.fleet, set(left))
        shown = ["%(backend)s/%(server)s from %(source)s for %(age)s" % session for session in sessions[:20]]
        if len(sessions) > len(shown):
            shown.append("and %d more" % (len(sessions) - len(shown)))
        bound = sorted({"Clients are bound to servers of '%s' by %s." % (backend, " and ".join(how))
                        for how, backend in ((stickiness(self.fleet.views[index]["backends"].get(backend, {})), backend)
                                             for index, backend, _unused in left) if how})
        raise HaproxyError(" ".join(
            (["Sessions are left after %s s: %s." % (self.wait["timeout"], tell(left))] if left else
             ["Not everything has ended after %s s." % self.wait["timeout"]])
            + (["They are: %s." % "; ".join(shown)] if shown else []) + older + bound
            + ["The servers stay as they are, without new clients: run again to wait on, or use on_timeout: cut."]),
            changed=self.changed, sessions_left=sessions)

    def act(self):
        """Changes, waits and watches."""
        first, second, third = self.goals()
        self.move(first)
        if self.up:
            try:
                leaders = {_haproxy_wait.leader(self.fleet.views[key[0]], key) for key in self.up}
                problems = _haproxy_wait.wait_up(self.fleet, leaders, self.wait["timeout"])
            except HaproxyError as error:
                problems = error.problems
            if problems and first:
                self.fleet.fail_and_put_back(problems)
            if problems:
                raise HaproxyError(problems, changed=False)
        self.move(second)
        try:
            self.save_states()
            self.save_conf(self.permanent(self.fleet.targets, third))
        except HaproxyError as error:
            self.conf.revert()
            self.fleet.fail_and_put_back(error.problems)
        if self.zero:
            until = time.monotonic() + self.wait["timeout"]
            self.drain(until, self.bound(third))
            if third:
                sent, problems = self.fleet.move(third)
                self.changed = self.changed or sent > 0
                if problems:
                    raise HaproxyError(problems + ["These servers stay drained."], changed=self.changed)
                self.drain(max(until, time.monotonic() + 1))  # for those who came by their cookie until now
                self.save_conf(self.permanent(self.fleet.targets))
        if self.params["observe"]:
            self.window = _haproxy_wait.observe(
                self.fleet, self.touched(), self.params["observe"], self.params["observe_stop"])
        if self.up or self.zero or self.params["observe"]:
            self.save_states()

    def verify(self):
        """The last reading; HaproxyError when it no longer says what was set (HAProxy was reloaded meanwhile)."""
        views, problems = haproxy.read_all(self.fleet.runtimes)
        if problems:
            raise HaproxyError(problems, changed=self.changed)
        for index, view in enumerate(views):
            old = self.before[index]
            for target in self.fleet.targets:
                if target.socket != index:
                    continue
                server = haproxy.find(view, *target.key)
                if server is None or (server["weight"], server["forced_state"]) != (
                        target.end_weight(), target.end_state()):
                    problems.append(
                        "%s: %s/%s no longer has what was set: weight %s, %s instead of weight %d, %s.%s" % (
                            view["socket"], target.key[0], target.key[1],
                            server and server["weight"], server and server["forced_state"],
                            target.end_weight(), target.end_state(),
                            " HAProxy was reloaded meanwhile, and took over neither server-state-file nor conf_file."
                            if old["pid"] != view["pid"] else " Somebody else changes it too."))
            view["state_file"] = old["state_file"]
            for name, backend in view["backends"].items():
                for key in ("weights", "hash_type", "load_state", "cuts_when_down"):
                    backend[key] = old["backends"].get(name, {}).get(key)
        if problems:
            raise HaproxyError(problems, changed=self.changed, window=self.window)
        return views

    def touched(self):
        """Backends that this call is about (set of str); all, when it names no server."""
        named = {target.before["backend"] for target in self.fleet.targets}
        named |= {key[1] for key in self.up | self.zero}
        return named or {name for view in self.fleet.views for name in view["backends"]}

    def predict(self):
        """What the sockets would say after the change."""
        for target in self.fleet.targets:
            self.changed = self.changed or target.differs()
            target.before = dict(target.before)
        views = [dict(view, servers=[dict(server) for server in view["servers"]]) for view in self.fleet.views]
        for target in self.fleet.targets:
            server = haproxy.find(views[target.socket], *target.key)
            server["weight"] = target.end_weight()
            server["forced_state"] = target.end_state()
            if target.end_state() != target.before["forced_state"]:
                server["admin_state"] = target.end_state()
        self.changed = self.changed or bool(self.new_conf)
        for index, path in enumerate(self.state_files):
            if path and not self.changed:
                try:
                    self.changed = _haproxy_local.gist(_files.read_text(path)) != _haproxy_local.gist(views[index]["raw"])
                except OSError:
                    self.changed = True
        return views

    def diff(self):
        """For diff mode: what changes on the sockets, then the lines that change in files."""
        parts = []
        before, after = [], []
        for target in self.fleet.targets:
            if target.differs():
                line = "%s %s: weight %d, %s\n"
                name = (self.fleet.runtimes[target.socket].name, label(target))
                before.append(line % (name + (target.before["weight"], target.before["forced_state"])))
                after.append(line % (name + (target.end_weight(), target.end_state())))
        if before:
            parts.append({"before_header": "HAProxy", "after_header": "HAProxy",
                          "before": "".join(before), "after": "".join(after)})
        for path, (_unused, changes) in sorted(self.new_conf.items()):
            # Only these lines: others may hold passwords.
            parts.append({
                "before_header": path, "after_header": path,
                "before": "".join("line %d: %s\n" % (number, old.strip()) for number, old, _new in changes),
                "after": "".join("line %d: %s\n" % (number, new.strip()) for number, _old, new in changes),
            })
        return parts

    def result(self):
        """The whole run: the module's result (dict). HaproxyError, with `changed` in its details."""
        try:
            self.plan()
            if self.check:
                views = self.predict()
            else:
                self.act()
                views = self.verify()
        except HaproxyError as error:
            error.details.setdefault("changed", self.changed)
            raise
        chosen = self.touched()
        return {
            "changed": self.changed,
            "haproxy": [haproxy.select(view, chosen) for view in views],
            "window": self.window,
            "state_files": [{"path": path, "changed": path in self.state_written}
                            for path in self.state_files if path],
            "conf_files": self.conf.report(self.new_conf if self.check else None),
            "sessions_cut": self.sessions_cut,
            "refused": self.refused,
            "diff": self.diff(),
            "elapsed": round(time.monotonic() - self.begun, 3),
        }


def label(target):
    """backend/name of a target."""
    return "%s/%s" % target.key


def tell(left):
    """{(socket index, backend, name): sessions} as words."""
    return ", ".join("%s/%s %d" % (key[1], key[2], left[key]) for key in sorted(left))


def stickiness(backend):
    """How a backend keeps clients at a server: list of str."""
    how = []
    if backend.get("cookie"):
        how.append("cookie %s" % backend["cookie"])
    if backend.get("stick"):
        how.append("stick table")
    return how
