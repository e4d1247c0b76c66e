"""What tests of the commands share: running one in this process."""

import pytest

from orchestrator.cli import main


@pytest.fixture
def say(capfd, folder):
    """Run a command in this process, in the module's own `folder`: (exit code, stdout, stderr)."""

    def run(*args):
        capfd.readouterr()
        code = main(list(args))
        out = capfd.readouterr()
        assert "Traceback" not in out.err
        assert "\x1b" not in out.out + out.err  # No colour in a pipe.
        return code, out.out, out.err

    return run
