"""What tests of the commands share: a folder to stand in, and running one in this process."""

import functools

import pytest

from orchestrator.cli import main
from orchestrator.worker import worker
from tests.cli_kit import SPEC
from tests.queue_kit import FAKE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a base config and a spec of four runs, in which the process stands."""
    (tmp_path / "base.toml").write_text('model_name = "builtin/tiny"\n')
    (tmp_path / "lr.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    # Workers of this process train with the fake trainer.
    monkeypatch.setattr(worker, "work", functools.partial(worker.work, trainer=FAKE))
    return tmp_path


@pytest.fixture
def say(capfd, folder):
    """Run a command in this process, in `folder`: (exit code, stdout, stderr)."""

    def run(*args):
        capfd.readouterr()
        code = main(list(args))
        out = capfd.readouterr()
        assert "Traceback" not in out.err
        assert "\x1b" not in out.out + out.err  # No colour in a pipe.
        return code, out.out, out.err

    return run
