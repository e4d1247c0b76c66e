"""Starts a trainer, stops it, and collects how it ended; knows nothing of the queue's rules.

A trainer runs in a session of its own, so that a signal to its group takes its children along and
Ctrl-C at the terminal reaches the worker alone. It inherits the descriptor of its run's lock: the
lock is held until the last process of the run is gone, whatever becomes of the worker.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from grpo_core.run.protocol import ENV_HALVINGS
from orchestrator.errors import QueueBusy, QueueError, SweepError
from orchestrator.run import Attempt, Run, Sweep, Verdict
from orchestrator.system import processes
from orchestrator.system.crashpoints import ENV as ENV_CRASH
from orchestrator.system.crashpoints import crashpoint
from orchestrator.system.files import freeze
from orchestrator.system.locks import FileLock, try_lock
from orchestrator.system.paths import Home
from orchestrator.worker.attempt_log import PASSING, header

# -P: a folder `datasets/` of the user's must not shadow the package of that name.
TRAINER = (sys.executable, "-P", "-m", "grpo_core")

# In the environment of a trainer, so that one whose pid was never recorded can be found.
ENV_ATTEMPT = "GRPO_SWEEP_ATTEMPT"
ENV_RUN = "GRPO_SWEEP_RUN"

_LEFTOVERS_S = 5.0


class LaunchError(SweepError):
    """No process could be made; the message says why, `verdict` whether trying again may help."""

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


class Trainer(Protocol):
    """A trainer that may still live."""

    exit_code: int | None
    signal: int | None
    excuse: str | None
    """Why it ended through no fault of its run's, where that is so."""
    lost: str | None
    """Why nobody knows how it ended, where there is more to say than that."""

    @property
    def pid(self) -> int | None:
        """Its process; None where that is not known."""

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, after waiting at most so long."""

    def interrupt(self) -> None:
        """Ask it to checkpoint and end (SIGTERM to the trainer alone)."""

    def terminate(self) -> None:
        """Ask it and its children to end (SIGTERM to the group)."""

    def kill(self) -> None:
        """End it and its children at once (SIGKILL to the group)."""

    def keep(self) -> None:
        """Let others find the run's lock held though its file was removed; QueueError."""

    def close(self) -> None:
        """After its end: let the run's lock go."""


def command(run: Run, home: Home, trainer: Sequence[str] = TRAINER) -> list[str]:
    """The exact command that trains a run."""
    overrides = [word for item in run.set for word in ("--set", item)]
    frozen = str(home.frozen_config(run.sweep_id))
    return [*trainer, "--config", frozen, *overrides, "--strict"]


def attempt_token(attempt: Attempt, home: Home) -> str:
    """What a trainer carries in its environment: this attempt of this queue, no other."""
    return f"{home.root}#{attempt.id}"


def standby_token(run_id: int, n: int, home: Home) -> str:
    """What the standby of the n-th attempt of a run carries instead: the attempt is still to be."""
    return f"{home.root}#standby-{run_id}-{n}"


@dataclass(frozen=True)
class Traces:
    """By what a trainer is found again: the lock that it holds, and what its environment carries.

    `tokens` are the values of ENV_ATTEMPT that its processes may carry, its own first. `pid`,
    `pid_started` and `boot_id` say which process it is, where that was recorded.
    """

    lock: Path
    tokens: tuple[str, ...]
    pid: int | None = None
    pid_started: float | None = None
    boot_id: str = ""


def traces(attempt: Attempt, home: Home) -> Traces:
    """Those of an attempt of this queue."""
    tokens = (attempt_token(attempt, home), standby_token(attempt.run_id, attempt.n, home))
    known = (attempt.pid, attempt.pid_started, attempt.boot_id)
    return Traces(home.run_lock(attempt.run_id), tokens, *known)


def _end_children(tokens: Sequence[str]) -> None:
    """End what a trainer has started and left behind: its group is dead already.

    A child of a reward that has left the group would go on for ever after a cancel.
    """
    processes.kill_carriers(ENV_ATTEMPT, tokens)


class Launched:
    """A trainer that this process started."""

    excuse: str | None = None
    lost: str | None = None

    def __init__(
        self, process: "subprocess.Popen[bytes]", lock: FileLock, tokens: Sequence[str]
    ) -> None:
        """`tokens` are those of its `Traces`."""
        self._process = process
        self._tokens = tokens
        self._lock = lock
        self.pid = process.pid
        self.exit_code: int | None = None
        self.signal: int | None = None

    def wait(self, timeout_s: float) -> bool:
        """See Trainer."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        if code < 0:
            self.signal = -code
        else:
            self.exit_code = code
        # Children that outlive it would hold the GPU and the lock.
        processes.signal_group(self._process.pid, signal.SIGKILL)
        _end_children(self._tokens)
        return True

    def interrupt(self) -> None:
        """See Trainer."""
        self._process.send_signal(signal.SIGTERM)

    def terminate(self) -> None:
        """See Trainer."""
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """See Trainer."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        # Once it is reaped its pid may belong to somebody else.
        if self._process.returncode is None:
            processes.signal_group(self._process.pid, number)

    def keep(self) -> None:
        """See Trainer."""
        self._lock.keep()

    def close(self) -> None:
        """See Trainer."""
        self._lock.release()


class Adopted:
    """A trainer that a process before us started: its lock is watched, its exit code is lost.

    A lock that is free says nothing while the trainer lives: then somebody has removed the file.
    """

    excuse: str | None = None
    lost: str | None = None

    def __init__(self, left: Traces) -> None:
        self._tokens = left.tokens
        self._path = left.lock
        self._started = left.pid_started
        self._boot_id = left.boot_id
        self._lock: FileLock | None = None
        self.pid = left.pid
        if self.pid is None:
            # Whoever started it died before that was recorded.
            self.pid = processes.find_session(ENV_ATTEMPT, left.tokens[0])
            self._started = processes.start_time(self.pid) if self.pid else None
            self._boot_id = processes.boot_id()
        self.exit_code: int | None = None
        self.signal: int | None = None

    def wait(self, timeout_s: float) -> bool:
        """See Trainer: it has ended once its run's lock can be had."""
        if self._lock is None:
            with suppress(OSError):  # The lock says it if the folder cannot be made.
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = try_lock(self._path, timeout_s)
        elif self._leads():
            time.sleep(timeout_s)
        if self._leads():
            return False
        if self._lock is not None:
            _end_children(self._tokens)
            return True
        if self.pid is not None:
            # The trainer is dead, and a child of it holds the lock (and the GPU, maybe).
            processes.signal_group(self.pid, signal.SIGKILL)
        return False

    def _leads(self) -> bool:
        return processes.is_process(self.pid, self._started, self._boot_id)

    def interrupt(self) -> None:
        """See Trainer."""
        if self.pid is not None and self._leads():
            processes.signal_process(self.pid, signal.SIGTERM)

    def terminate(self) -> None:
        """See Trainer."""
        if self.pid is not None and self._leads():
            processes.signal_group(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """See Trainer."""
        if self.pid is not None and self._leads():
            processes.signal_group(self.pid, signal.SIGKILL)

    def keep(self) -> None:
        """See Trainer: the look for its end takes the lock of a file that is new."""
        if self._lock is not None:
            self._lock.keep()

    def close(self) -> None:
        """See Trainer."""
        if self._lock is not None:
            self._lock.release()


def halvings(earlier: Sequence[Attempt], checkpoint: int) -> int:
    """How often the next attempt halves the micro-batch that the newest checkpoint says.

    Once for each earlier attempt that a signal ended for memory, since nothing of it was saved. A
    trainer that ended by itself has halved it before.
    """
    left_at = [*(attempt.checkpoint for attempt in earlier), checkpoint][1:]
    return sum(
        attempt.outcome == Verdict.OOM and attempt.signal is not None and at == checkpoint
        for attempt, at in zip(earlier, left_at, strict=True)
    )


def freeze_config(run: Run, sweep: Sweep, home: Home) -> None:
    """Write the base config where the command of a run expects it; as `launch` raises."""
    try:
        freeze(home.frozen_config(run.sweep_id), sweep.config_text)
    except OSError as e:
        raise _launch_error(e, run) from None


def launch(
    run: Run,
    attempt: Attempt,
    home: Home,
    trainer: Sequence[str] = TRAINER,
    earlier: Sequence[Attempt] = (),
    slot_env: Mapping[str, str] | None = None,
) -> Launched:
    """Start the trainer of an attempt after earlier ones; LaunchError if no process can be made.

    `slot_env` is what its slot sets in its environment.

    QueueBusy where the machine has no room for it just now: disk, processes or open files.
    """
    argv = command(run, home, trainer)
    try:
        lock = try_lock(home.make().run_lock(run.id), _LEFTOVERS_S)
    except QueueError as e:
        raise QueueBusy(str(e)) from None
    if lock is None:
        words = f"a process of an earlier attempt still holds {home.run_lock(run.id)}"
        raise LaunchError(words, Verdict.LOST)
    crashpoint("launcher.locked")
    try:
        with open(attempt.log, "ab") as log:
            log.write(header(run, attempt.n, argv))
            log.flush()
            halved = halvings(earlier, attempt.checkpoint)
            own = {**(slot_env or {}), ENV_ATTEMPT: attempt_token(attempt, home)}
            env = environment(run.id, own, halved)
            process = spawn(argv, run.cwd, log, lock, env)
    except OSError as e:
        lock.release()
        raise _launch_error(e, run) from None
    crashpoint("launcher.spawned")
    return Launched(process, lock, traces(attempt, home).tokens)


def spawn(
    argv: Sequence[str],
    cwd: str,
    log: IO[bytes],
    lock: FileLock,
    env: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
) -> "subprocess.Popen[bytes]":
    """A process in a session of its own that says everything to `log` and holds `lock`; OSError."""
    return subprocess.Popen(
        argv,
        cwd=cwd,
        env=env,
        stdin=stdin,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock.fd,),
    )


def environment(run_id: int | str, own: Mapping[str, str], halved: int) -> dict[str, str]:
    """What the trainer of a run finds in its environment, with `own` over it."""
    not_inherited = (ENV_CRASH, ENV_HALVINGS)
    env = {key: value for key, value in os.environ.items() if key not in not_inherited}
    if halved:
        env[ENV_HALVINGS] = str(halved)
    # Unbuffered, so that `logs -f` shows a line when it is written.
    return {**env, ENV_RUN: str(run_id), "PYTHONUNBUFFERED": "1", **own}


def _launch_error(error: OSError, run: Run) -> SweepError:
    if error.errno in PASSING:
        return QueueBusy(f"{error.filename or run.cwd}: {error.strerror}")
    if not Path(run.cwd).is_dir():
        words = f"{run.cwd}: the folder from which the sweep was submitted is gone"
        return LaunchError(words, Verdict.CONFIG)
    return LaunchError(f"{error.filename or run.cwd}: {error.strerror}", Verdict.CRASH)
