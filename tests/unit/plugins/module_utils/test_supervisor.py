# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What owns a node, told from cgroups and units; and the fence under systemd, with a systemctl that only remembers."""

import os

import pytest
from ansible_collections.bluegreen.kong.plugins.module_utils import _fence, _process, _supervisor

V1 = "12:pids:/x\n9:name=systemd:{0}\n1:cpu:/\n0::/payload\n"


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/kong.service\n", "kong.service"),
        ("0::/\n", None),
        ("", None),
        ("0::/system.slice/system-kong.slice/kong@blue.service\n", "kong@blue.service"),
        ("0::/system.slice/kong.service/workers\n", "kong.service"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/kong.service\n", "user@1000.service"),
        (V1.format("/payload/system.slice/kong.service"), "kong.service"),
        (V1.format("/system.slice/ssh.service"), "ssh.service"),
        (V1.format("/"), None),
    ],
)
def test_unit_of_cgroup(text, unit):
    assert _supervisor.unit_of_cgroup(text) == unit


SHOWN = """Id=kong.service
LoadState=loaded
MainPID=42
FragmentPath=/lib/systemd/system/kong.service
UnitFileState=enabled
Restart=always
ExecStart={ path=/usr/local/bin/kong ; argv[]=/usr/local/bin/kong start -p /usr/local/kong ; ignore_errors=no ; pid=0 }
ExecStop={ path=/usr/local/bin/kong ; argv[]=/usr/local/bin/kong quit -p /usr/local/kong ; ignore_errors=no ; pid=0 }
TimeoutStopUSec=1min 30s
Environment=KONG_LOG_LEVEL=debug "KONG_PLUGINS=bundled, mine"
EnvironmentFiles=%s (ignore_errors=yes)
EnvironmentFiles=/nonexistent (ignore_errors=yes)
"""


def test_show_describe_and_environment(tmp_path):
    file = tmp_path / "kong.env"
    file.write_text("# no\nKONG_LOG_LEVEL='info'\nKONG_PG_HOST=db\\\n1\n\nKONG_PG_PASSWORD=\"a b\"\n")
    properties = _supervisor.show(lambda argv: (0, SHOWN % file, ""), "kong.service")
    unit = _supervisor.describe(properties)
    assert (unit["kind"], unit["unit"], unit["enabled"], unit["restart"]) == ("systemd", "kong.service", "enabled", "always")
    assert unit["exec_stop"] == "/usr/local/bin/kong quit -p /usr/local/kong"
    assert _supervisor.environment(properties) == {
        "KONG_LOG_LEVEL": "info", "KONG_PLUGINS": "bundled, mine", "KONG_PG_HOST": "db1", "KONG_PG_PASSWORD": "a b",
    }  # fmt: skip


def test_show_fails():
    with pytest.raises(_supervisor.SupervisorError, match="no bus"):
        _supervisor.show(lambda argv: (1, "", "no bus"), "kong.service")


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("ExecStart=/opt/kong/bin/kong start -p /usr/local/kong", True),
        ("ExecStart=/usr/local/openresty/nginx/sbin/nginx -p /usr/local/kong -c nginx.conf", True),
        ("ExecStart=/bin/run\nPIDFile=/usr/local/kong/pids/nginx.pid", True),
        ('Environment="KONG_PREFIX=/usr/local/kong"\nExecStart=/bin/run', True),
        ("ExecStart=/bin/kong start", True),
        ("ExecStart=/bin/kong start \\\n  -c /etc/kong/kong.conf", True),
        ("ExecStart=/bin/kong start -c /etc/kong/other.conf", False),
        ("ExecStart=/bin/kong start -p /usr/local/kong2", False),
        ("ExecStart=/usr/bin/nginx -p /usr/local/kong2", False),
        ("Description=/usr/local/kong", False),
        ("ExecStop=/bin/kong quit -p /usr/local/kong", False),
    ],
)
def test_units_that_start_the_node(text, about):
    assert _supervisor.starts(text, "/usr/local/kong/", "/bin/kong", "/etc/kong/kong.conf") is about


class Systemctl:
    """Stands for `run`: a systemd with one unit, whose state lives in folders."""

    def __init__(self, tmp_path, fragment):
        self.etc, self.fragment, self.enabled, self.calls = tmp_path, str(fragment), "enabled", []
        self.environment = ""

    def __call__(self, argv, **more):
        words = [word for word in argv[1:] if not word.startswith("--")]
        masked = (self.etc / "kong.service").is_symlink()
        if words[0] == "show":
            drop_ins = [str(path) for path in self.etc.glob("kong.service.d/*.conf")]
            return 0, "Id=kong.service\nLoadState={0}\nUnitFileState={1}\nFragmentPath={2}\nDropInPaths={3}\nRestart=always\n".format(
                "masked" if masked else "loaded", "masked" if masked else self.enabled, self.fragment, " ".join(drop_ins)), ""
        self.calls.append(" ".join(words))
        if words[0] == "mask":
            (self.etc / "kong.service").symlink_to("/dev/null")
        elif words[0] == "unmask" and masked:
            (self.etc / "kong.service").unlink()
        elif words[0] in ("enable", "disable"):
            self.enabled = words[0] + "d"
        return 0, "", ""


@pytest.fixture
def etc(tmp_path, monkeypatch):
    folder = tmp_path / "etc"
    folder.mkdir()
    monkeypatch.setattr(_fence, "ETC", str(folder))
    monkeypatch.setattr(_fence.os, "geteuid", lambda: 0)
    return folder


def unit(run):
    return _supervisor.describe(_supervisor.show(run, "kong.service"))


def test_fence_masks_a_unit_of_a_package(etc, tmp_path):
    run, prefix = Systemctl(etc, "/lib/systemd/system/kong.service"), str(tmp_path)
    assert _fence.state(run, unit(run), prefix, None) is None
    assert _fence.put_up(run, unit(run), prefix, None) == "mask of kong.service"
    assert run.calls == ["disable kong.service", "mask kong.service", "daemon-reload"]
    assert _fence.put_up(run, unit(run), prefix, None) == "mask of kong.service" and len(run.calls) == 3
    assert _fence.forgotten(unit(run), prefix) == []
    assert _fence.take_down(run, unit(run), prefix, None) is True
    assert _fence.forgotten(unit(run), prefix) == ["kong.service"]  # as where the prefix was made anew
    assert run.calls[3:] == ["unmask kong.service", "daemon-reload", "enable kong.service"]
    assert os.listdir(str(etc)) == [] and not (tmp_path / ".kong_fence").exists()
    assert _fence.take_down(run, unit(run), prefix, None) is False


def test_fence_of_a_unit_in_etc_is_a_drop_in(etc, tmp_path):
    run, prefix = Systemctl(etc, etc / "kong.service"), str(tmp_path)
    (etc / "kong.service").write_text("[Service]\n")
    run.enabled = "disabled"
    assert _fence.put_up(run, unit(run), prefix, None) == "drop-in of kong.service"
    text = (etc / "kong.service.d" / _fence.DROP_IN).read_text()
    assert "AssertPathExists=/nonexistent/" in text and "fenced=false" in text
    assert _fence.take_down(run, unit(run), prefix, None)
    assert "enable kong.service" not in run.calls, "it was not enabled before"
    assert sorted(os.listdir(str(etc))) == ["kong.service"]


def test_a_mask_that_does_not_hold_is_an_error(etc, tmp_path):
    run = Systemctl(etc, "/lib/systemd/system/kong.service")

    def lazy(argv, **more):
        return (0, "", "") if "mask" in argv else run(argv)

    with pytest.raises(_fence.FenceError, match="not there when read back"):
        _fence.put_up(lazy, unit(run), str(tmp_path), None)


def test_fence_of_a_command_takes_its_units_with_it(etc, tmp_path):
    run = Systemctl(etc, "/lib/systemd/system/kong.service")
    kong = tmp_path / "kong"
    kong.write_text("#!/bin/sh\necho started\n")
    kong.chmod(0o755)
    owner = _supervisor.command(["kong.service"])
    assert _fence.put_up(run, owner, str(tmp_path), str(kong)) == f"command {kong}, mask of kong.service"
    assert _fence.take_down(run, owner, str(tmp_path), str(kong))
    assert kong.read_text() == "#!/bin/sh\necho started\n" and run.enabled == "enabled"


def test_why_not_to_fence(monkeypatch, tmp_path):
    monkeypatch.setattr(_fence.os, "geteuid", lambda: 1000)
    run = Systemctl(tmp_path, "/lib/systemd/system/kong.service")
    assert "takes root" in _fence.problem(unit(run), None)
    assert "takes root" in _fence.problem(_supervisor.command(["kong.service"]), "/bin/sh")
    assert _fence.problem(_supervisor.command(), None) == "no kong command to fence"
    other = dict(_supervisor.command(), kind="other", problem="runsv minds it")
    assert _fence.problem(other, "/bin/sh") == "runsv minds it"


@pytest.mark.parametrize("restart", ["always", "on-success", "on-failure"])
def test_restart_is_held_while_a_node_is_stopped(monkeypatch, tmp_path, restart):
    monkeypatch.setattr(_fence, "RUN", str(tmp_path))
    run = Systemctl(tmp_path, "/lib/systemd/system/kong.service")
    supervisor = dict(unit(run), restart=restart)
    with _fence.held(run, supervisor):
        held = list(tmp_path.glob("kong.service.d/*"))
        assert [path.read_text() for path in held] == ([] if restart == "on-failure" else ["[Service]\nRestart=no\n"])
    assert list(tmp_path.iterdir()) == []


def find(run, monkeypatch, master, unit_name, ancestors=(), **more):
    monkeypatch.setattr(_supervisor, "booted", lambda: True)
    monkeypatch.setattr(_supervisor, "_container", lambda process: None)
    monkeypatch.setattr(_supervisor, "unit_of_cgroup", lambda text: unit_name)
    monkeypatch.setattr(_supervisor, "UNIT_FOLDERS", ())
    monkeypatch.setattr(_process, "ancestors", lambda pid: list(ancestors))
    return _supervisor.find(run, master, "/usr/local/kong", "/usr/local/bin/kong", **more)


def shown(**properties):
    text = "".join("{0}={1}\n".format(*item) for item in dict({"Id": "x.service", "LoadState": "loaded"}, **properties).items())
    return lambda argv: (0, text, "")


def test_find_by_cgroup(monkeypatch):
    master = _process.read_process(os.getpid())
    me = str(os.getpid())
    for properties, ancestors, kind in (
        ({"MainPID": me}, (), "systemd"),
        ({"MainPID": "1", "PIDFile": "/usr/local/kong/pids/nginx.pid"}, (), "systemd"),
        ({"ExecStart": "{ path=x ; argv[]=/usr/bin/x -p /usr/local/kong/ ; }"}, (), "systemd"),
        ({"ExecStart": "{ path=x ; argv[]=/opt/other/kong start ; }"}, (), "systemd"),
        ({"MainPID": "77"}, (77,), "systemd"),
        ({"MainPID": "77"}, (5,), "other"),
    ):
        found = find(shown(**properties), monkeypatch, master, "gateway.service", ancestors)
        assert found["kind"] == kind, properties
    assert "name the unit" in found["problem"]
    # A node that somebody started by hand in a login whose daemon does not open a session.
    assert find(shown(MainPID="77"), monkeypatch, master, "ssh.service", (77,))["kind"] == "cli"
    assert find(shown(), monkeypatch, master, "session-2.scope")["kind"] == "cli"
    assert find(shown(), monkeypatch, master, None)["kind"] == "cli"
    assert "own systemd" in find(shown(), monkeypatch, master, "user@1000.service")["problem"]


def test_find_minder_and_container(monkeypatch):
    assert "container" in _supervisor._container(_process.Process(1, 0, "S", 1, 0))
    master = _process.read_process(os.getpid())
    monkeypatch.setattr(_supervisor, "_name", lambda pid: "runsv")
    found = find(shown(), monkeypatch, master, None)
    assert found["kind"] == "other" and "runsv" in found["problem"]


def test_a_given_unit_counts_most(monkeypatch):
    assert find(shown(), monkeypatch, None, None, unit="x.service")["unit"] == "x.service"
    with pytest.raises(_supervisor.SupervisorError, match="no systemd unit nosuch.service"):
        find(shown(LoadState="not-found"), monkeypatch, None, None, unit="nosuch.service")
    monkeypatch.setattr(_supervisor, "booted", lambda: False)
    with pytest.raises(_supervisor.SupervisorError, match="not the init"):
        _supervisor.find(shown(), None, "/usr/local/kong", unit="x.service")


def test_a_given_unit_that_does_not_own_the_process(monkeypatch):
    master = _process.read_process(os.getpid())
    found = find(shown(MainPID="0"), monkeypatch, master, "ssh.service", unit="x.service")
    assert (found["kind"], found["also"]) == ("cli", ["x.service"])
    assert find(shown(MainPID="0"), monkeypatch, master, "x.service", unit="x.service")["kind"] == "systemd"
    assert find(shown(MainPID=str(os.getpid())), monkeypatch, master, None, unit="x.service")["kind"] == "systemd"


def test_find_of_a_node_that_does_not_run(monkeypatch, tmp_path):
    run = shown()
    for name, text in (("a.service", "ExecStart=/x -p /usr/local/kong"), ("b.service", "ExecStart=/x -p /usr/local/kong")):
        assert find(run, monkeypatch, None, None)["kind"] == "cli"
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(_supervisor, "UNIT_FOLDERS", (str(tmp_path),))
        found = _supervisor.find(run, None, "/usr/local/kong", "/bin/kong", None, "/etc/kong/kong.conf")
        assert found["kind"] == ("systemd" if name == "a.service" else "other")
    assert "a.service, b.service" in found["problem"]
    (tmp_path / "b.service").unlink()
    found = _supervisor.find(run, None, "/usr/local/kong", "/bin/kong", None, "/etc/green.conf")
    assert (found["kind"], found["also"]) == ("cli", ["a.service"]), "that unit would not start it with this configuration"
