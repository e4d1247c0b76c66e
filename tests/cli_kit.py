"""What the tests of the commands share: a spec, and commands in processes of their own."""

import subprocess
import sys

from tests.queue_kit import FAKE

SPEC = """
config = "base.toml"
[params]
learning_rate = [1e-5, 1e-4]
num_generations = [4, 8]
"""


def start(*args, trainer=FAKE, **more):
    """A command in a process of its own, with the fake trainer."""
    code = (
        "import functools, sys\nimport orchestrator.worker.worker as w\n"
        f"w.work = functools.partial(w.work, trainer={tuple(trainer)!r})\n"
        "from orchestrator.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, **{**pipes, **more})


def slow(*sets):
    """The fake trainer with settings of its own."""
    return (*FAKE, *(word for item in sets for word in ("--set", item)))
