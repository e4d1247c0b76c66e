"""The worker's side of live reporting: starts a process for a tool, and tells it of runs.

A listener for the worker's events. Whatever happens to the other process, the worker says it once
and trains on.
"""

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from orchestrator.errors import UsageError
from orchestrator.system import paths
from orchestrator.system.paths import Home
from orchestrator.trackers.targets import Target, parse_targets
from orchestrator.worker.events import Event, EventKind

# The tools, for workers that nobody names any: in the background, or by `submit --start`; and the
# folder that their files belong into.
ENV, ENV_FOLDER = "GRPO_SWEEP_REPORT_TO", "GRPO_SWEEP_REPORT_FROM"
# At the end of a worker: after so long it says what it waits for, and so long it waits.
_PATIENCE_S, _TIMEOUT_S = 1.0, 60.0
_NEWS = frozenset({EventKind.STARTED, EventKind.ADOPTED, EventKind.ENDED})


def targets_of_environment(environ: Mapping[str, str] = os.environ) -> list[Target]:
    """What GRPO_SWEEP_REPORT_TO says; UsageError."""
    text = environ.get(ENV, "").strip()
    return parse_targets(shlex.split(text)) if text else []


def leave_in_environment(targets: Sequence[Target]) -> None:
    """Let this worker, or one in the background, find them; their files come to this folder."""
    os.environ[ENV] = shlex.join(map(str, targets))
    os.environ[ENV_FOLDER] = os.getcwd()


def check(targets: Sequence[Target]) -> None:
    """Raise UsageError where a library is missing, or the folder: now, not in the night."""
    for target in targets:
        target.check()
    folder = _folder_of_environment()
    if targets and folder is not None and not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder; {ENV_FOLDER} names where reports go")


def _folder_of_environment() -> str | None:
    """Where the tools' files belong: where the command was given; None is here."""
    return os.environ.get(ENV_FOLDER) or None


class LiveReports:
    """Follows the runs of a worker for one tool; use it as a context manager."""

    def __init__(
        self,
        home: Home,
        target: Target,
        say: Callable[[str], None],
        command: Sequence[str] = (sys.executable, "-P", "-m", "orchestrator.trackers.following"),
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._words = [*command, str(target)]
        self._tool = target.tool
        self._home = home
        self._say = say
        self._timeout_s = timeout_s
        self._told = False
        self._over = False

    def __enter__(self) -> Self:
        with open(self._home.make().reports_log, "ab") as log:
            self._process = subprocess.Popen(
                self._words,
                cwd=_folder_of_environment(),
                env={**os.environ, paths.ENV_HOME: str(self._home.root)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C is meant for the worker: the last points are still to be sent.
                start_new_session=True,
            )
        assert self._process.stdin is not None
        # A process that hangs must not hold the worker.
        os.set_blocking(self._process.stdin.fileno(), False)
        self._reader = threading.Thread(target=self._read, name="reports", daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        """Say what the other process says."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode(errors="replace").strip()
            self._say(f"{text}; the training goes on (see {self._home.reports_log})")
        code = self._process.wait()
        if code and not self._over:
            self._fail(f"has ended with exit code {code}")

    def __call__(self, event: Event) -> None:
        """Take one event of the worker."""
        if event.kind not in _NEWS or event.run is None:
            return
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), b"%d\n" % event.run.id)
        except BlockingIOError:
            self._fail("does not take what it is told")
        except BrokenPipeError:
            self._fail("has ended")

    def _fail(self, words: str) -> None:
        if not self._told:
            self._told = True
            self._say(
                f"what reports to {self._tool} {words}; the training goes on "
                f"(see {self._home.reports_log}); afterwards: grpo-sweep export"
            )

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._over = True
        self._process.stdin.close()
        if not self._ends(_PATIENCE_S):
            self._say(f"waiting until {self._tool} has everything; Ctrl-C does not wait")
            if not self._ends(self._timeout_s):
                self._process.kill()
                self._fail("does not come to its end, and was ended")
        self._process.wait()
        self._reader.join(_PATIENCE_S)

    def _ends(self, timeout_s: float) -> bool:
        try:
            return self._process.wait(timeout_s) is not None
        except subprocess.TimeoutExpired:
            return False
        except KeyboardInterrupt:
            self._process.kill()
            raise
