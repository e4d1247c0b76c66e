"""What is asked of macOS, tried on another system with its name and its program given."""

import os

import pytest

from grpo_core.errors import ConfigError
from grpo_core.run.macos import relax_watchdog, stay_awake
from tests.queue_kit import eventually, is_alive

DRIVER = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"


def test_display_watchdog_is_asked_to_wait_and_it_is_said():
    """The driver reads it when MLX opens the device."""
    environ = {}
    line = relax_watchdog(environ, platform="darwin")
    assert environ == {DRIVER: "1"}
    assert DRIVER in line
    assert "mlx #3267" in line
    assert "GRPO_RELAX_WATCHDOG=0" in line


@pytest.mark.parametrize(
    ("environ", "platform"),
    [
        ({}, "linux"),
        ({"GRPO_RELAX_WATCHDOG": "0"}, "darwin"),
        # Whatever the user set stands: nobody knows which values the driver takes for off.
        ({DRIVER: "0"}, "darwin"),
    ],
)
def test_watchdog_is_left_alone(environ, platform):
    """On another system, switched off, or set by the user."""
    before = dict(environ)
    assert relax_watchdog(environ, platform) is None
    assert environ == before


def test_switch_is_checked():
    """A word that is neither 0 nor 1 is no silent yes."""
    with pytest.raises(ConfigError, match="GRPO_RELAX_WATCHDOG=no: must be 0 or 1"):
        relax_watchdog({"GRPO_RELAX_WATCHDOG": "no"}, "linux")


def test_only_macos_needs_to_be_kept_awake():
    """Elsewhere no process is made."""
    assert stay_awake(os.getpid(), platform="linux") is None


def test_caffeinate_watches_the_process_that_must_not_sleep(tmp_path):
    """Against idle sleep, until that process ends; it can be ended before."""
    program = tmp_path / "caffeinate"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/.said\n'
        f"mv {tmp_path}/.said {tmp_path}/said\nexec sleep 60\n"
    )
    program.chmod(0o755)
    with stay_awake(77, platform="darwin", program=str(program)) as process:
        said = tmp_path / "said"
        eventually(said.exists)
        assert said.read_text().split() == ["-i", "-w", "77"]
        # A signal to the trainer's group, or Ctrl-C at the terminal, does not end it.
        assert os.getsid(process.pid) == process.pid
        process.terminate()
    assert not is_alive(process.pid)


def test_missing_program_is_reported():
    """Whoever asked says that the Mac may sleep."""
    with pytest.raises(FileNotFoundError):
        stay_awake(1, platform="darwin", program="/no/such/caffeinate")
