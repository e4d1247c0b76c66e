"""The standby: the next trainer, prepared while one trains, so that the GPU need not wait.

A standby has done what needs neither the GPU nor its output folder, and waits on its stdin for its
turn (`--prewarm`). It is a head start and nothing more. It is dismissed when another run comes
first; where it has died, or anything of its sweep has changed, its run is launched as any other.
It dies with the worker: its stdin ends. Its run's lock it holds from the beginning.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

from grpo_core.run.protocol import GO, PREWARM
from orchestrator.errors import QueueError
from orchestrator.plan.provenance import stamps
from orchestrator.run import Attempt, Run, Sweep
from orchestrator.system import processes
from orchestrator.system.files import freeze
from orchestrator.system.locks import FileLock, try_lock
from orchestrator.system.paths import Home, RunPaths
from orchestrator.worker.attempt_log import header
from orchestrator.worker.launcher import (
    ENV_ATTEMPT,
    Launched,
    command,
    environment,
    halvings,
    spawn,
    standby_token,
    traces,
)
from orchestrator.worker.slots import Slot

# Sixteen, less what firmware and kernel keep of it.
_ENOUGH_BYTES = 15.5 * 2**30


def affordable(slots: int = 1) -> bool:
    """Whether this machine has memory for as many more trainers' libraries and data."""
    return bool(psutil.virtual_memory().total >= _ENOUGH_BYTES * slots)


class Standby:
    """A prepared trainer of one run's next attempt."""

    def __init__(
        self,
        run: Run,
        argv: Sequence[str],
        read: object,
        log: Path,
        lock: FileLock,
        process: "subprocess.Popen[bytes]",
        home: Home,
    ) -> None:
        self._home = home
        # What it has read is that, or newer.
        self.read = read
        self.run_id = run.id
        self._key = _key(run.id, run.attempt + 1, argv)
        self._log = log
        self._lock = lock
        self._process = process
        self.pid = process.pid

    def serves(self, run: Run, n: int, argv: Sequence[str]) -> bool:
        """Whether it is the trainer of the n-th attempt of `run`."""
        return self._key == _key(run.id, n, argv)

    def lives(self) -> bool:
        """Whether its process still waits; a dead one stays to be reaped, so its pid is its own."""
        return processes.start_time(self.pid) is not None

    def go(self, attempt: Attempt) -> Launched | None:
        """Let it train, its log as the attempt's; None (and it is gone) where it cannot."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            self._log = self._log.rename(attempt.log)
            os.write(stdin.fileno(), GO)
            return Launched(self._process, self._lock, traces(attempt, self._home).tokens)
        self.dismiss()
        return None

    def dismiss(self) -> None:
        """End it and its children at once: it has nothing to save."""
        processes.signal_group(self.pid, signal.SIGKILL)
        # It closes our end of its stdin as well.
        self._process.communicate()
        self._lock.release()
        self._log.unlink(missing_ok=True)


def _key(run_id: int, n: int, argv: Sequence[str]) -> tuple[int, int, tuple[str, ...]]:
    return run_id, n, tuple(argv)


class StandbySlot:
    """Room for one standby of a slot; another slot may dismiss it, once it has claimed its run."""

    def __init__(self, home: Home, trainer: Sequence[str], slot: Slot | None = None) -> None:
        self._home = home
        self._trainer = trainer
        self._slot = slot or Slot()
        self._standby: Standby | None = None
        self._lock = threading.RLock()

    @property
    def run_id(self) -> int | None:
        """The run whose trainer waits here."""
        standby = self._standby
        return None if standby is None else standby.run_id

    def holds(self, run: Run | None) -> bool:
        """Whether the standby, dead or alive, is that of `run`; with None: whether there is none.

        A dead one stays until its run's turn, so that what kills it is not started again and again.
        """
        standby = self._standby
        if standby is None or run is None:
            return standby is None and run is None
        return standby.serves(run, run.attempt + 1, self._command(run))

    def put(self, run: Run, sweep: Sweep, earlier: Sequence[Attempt] = ()) -> int | None:
        """Prepare the trainer of `run` that comes after earlier attempts, not any other; its pid.

        None where it cannot be started: its launch will say why.
        """
        self.clear()
        argv, log = self._command(run), self._home.standby_log(self._slot.name)
        read = stamps(sweep.provenance, sweep.cwd)
        try:
            lock = try_lock(self._home.run_lock(run.id))
        except QueueError:
            return None
        if lock is None:
            return None
        try:
            freeze(self._home.frozen_config(run.sweep_id), sweep.config_text)
            log.unlink(missing_ok=True)
            with open(log, "ab") as out:
                out.write(header(run, run.attempt + 1, argv))
                out.flush()
                halved = halvings(earlier, RunPaths(run.folder).newest_checkpoint())
                token = standby_token(run.id, run.attempt + 1, self._home)
                env = environment(run.id, {**self._slot.env, ENV_ATTEMPT: token}, halved)
                process = spawn([*argv, PREWARM], run.cwd, out, lock, env, subprocess.PIPE)
        except OSError:
            lock.release()
            return None
        self._standby = Standby(run, argv, read, log, lock, process, self._home)
        return process.pid

    def take(self, run: Run, attempt: Attempt, sweep: Sweep) -> Standby | None:
        """The standby if it lives and is that of this attempt; any other is dismissed.

        So is one that may have read what is not there any more.
        """
        with self._lock:
            standby, self._standby = self._standby, None
        if standby is None:
            return None
        fits = standby.serves(run, attempt.n, self._command(run)) and standby.lives()
        # The log is there already where it lists what has changed since the submit.
        logged = Path(attempt.log).exists()
        if not fits or logged or standby.read != stamps(sweep.provenance, sweep.cwd):
            standby.dismiss()
            return None
        return standby

    def clear(self) -> None:
        """Dismiss whatever is there."""
        with self._lock:
            standby, self._standby = self._standby, None
        if standby is not None:
            standby.dismiss()

    def _command(self, run: Run) -> list[str]:
        return command(run, self._home, self._trainer)
