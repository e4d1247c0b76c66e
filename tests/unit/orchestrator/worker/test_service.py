"""The service files, read by what reads them, and the commands that bring them to the system."""

import plistlib
import shutil
import subprocess

import pytest

from orchestrator.errors import SweepError, UsageError
from orchestrator.system.paths import Home
from orchestrator.worker import service as services
from orchestrator.worker.service import Service, describe

WORDS = ["/bin/echo", "-P", "work", "--between", "22:00-08:00", 'it\'s 100% $HOME "now" \\']


@pytest.fixture
def queue(tmp_path):
    """A queue in a folder that is hard to write down."""
    return Home(tmp_path / "my 100% queue").make()


def test_launch_agent_is_a_property_list(queue):
    """The command as it is, a start at login and after a crash, and no end for the trainer."""
    environ = {"PATH": "/opt/bin:/bin", "HF_TOKEN": "secret", "HF_HOME": "/models", "EDITOR": "vi"}
    found = describe(WORDS, queue, environ, platform="darwin")
    assert found.path.name == "org.grpo-sweep.worker.plist"
    assert found.path.parent.parts[-2:] == ("Library", "LaunchAgents")
    read = plistlib.loads(found.text.encode())
    assert read["Label"] == "org.grpo-sweep.worker"
    assert read["ProgramArguments"] == WORDS
    assert read["RunAtLoad"] is True
    assert read["KeepAlive"] == {"SuccessfulExit": False}
    assert read["AbandonProcessGroup"] is True
    assert read["StandardOutPath"] == read["StandardErrorPath"] == str(queue.worker_log)
    assert read["EnvironmentVariables"] == {
        "PATH": "/opt/bin:/bin",
        "HF_HOME": "/models",
        "GRPO_SWEEP_HOME": str(queue.root),
        "GRPO_SWEEP_SERVICE": "1",
    }


def test_launch_agent_is_taken_up_by_launchctl(queue):
    """In the domain of the user who is logged in at the screen."""
    found = describe(WORDS, queue, {}, platform="darwin")
    assert [words[:2] for words in found.install] == [("launchctl", "bootstrap")]
    assert found.install[0][2].startswith("gui/")
    assert found.install[0][3] == str(found.path)
    assert found.remove == (("launchctl", "bootout", f"{found.install[0][2]}/{services.LABEL}"),)


def test_unit_says_what_systemd_needs(queue, monkeypatch, tmp_path):
    """Signals go to the worker alone; the trainer is left to checkpoint."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HF_TOKEN": "secret"}
    found = describe(WORDS, queue, environ, platform="linux")
    assert found.path == tmp_path / "config/systemd/user/grpo-sweep.service"
    lines = found.text.splitlines()
    for line in ("KillMode=process", "Restart=on-failure", "WantedBy=default.target",
                 'Environment="GRPO_SWEEP_SERVICE=1"'):  # fmt: skip
        assert line in lines
    assert "secret" not in found.text
    assert found.text.count("100%%") == found.text.count("100%")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_unit_is_one_for_systemd(queue, tmp_path):
    """As its own checker sees it; a broken line is found by it."""
    found = describe(WORDS, queue, {"PATH": "/usr/bin:/bin"}, platform="linux")
    verdicts = {}
    for name, text in (("good", found.text), ("bad", found.text.replace("ExecStart=", "Exec="))):
        unit = tmp_path / name / "grpo-sweep.service"
        unit.parent.mkdir()
        unit.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--user", "--man=no", "--recursive-errors=no", str(unit)],
            capture_output=True,
            text=True,
            env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )
        verdicts[name] = (done.returncode, "grpo-sweep.service" in done.stderr)
    assert verdicts == {"good": (0, False), "bad": (1, True)}


def test_other_systems_are_refused(queue):
    """With what there is."""
    with pytest.raises(UsageError, match="macOS and for Linux with systemd, not for win32"):
        describe(WORDS, queue, {}, platform="win32")


def test_file_is_written_and_taken_up_then_gone(tmp_path):
    """What the system answers is passed on; a second removal has nothing to do."""
    path = tmp_path / "deep" / "x.service"
    mark = tmp_path / "mark"
    good = Service(
        path, "text\n", (("touch", str(mark)),), (("rm", str(mark)),), ("test", "-f", str(mark))
    )
    assert not services.is_taken_up(good)
    services.install(good)
    assert (path.read_text(), services.is_taken_up(good)) == ("text\n", True)
    assert services.remove(good)
    assert (path.exists(), services.is_taken_up(good)) == (False, False)
    assert not services.remove(good)


def test_what_the_system_answers_is_told(tmp_path):
    """A file that nobody takes up is no service."""
    path = tmp_path / "x.service"
    for words, said in (
        (("ls", "/no/such/place"), "No such file"),
        (("no-such-launchctl",), "there is no no-such-launchctl here"),
    ):
        with pytest.raises(SweepError, match=f"does not take it up: {words[0]}.*{said}"):
            services.install(Service(path, "", (words,), (), ()))
