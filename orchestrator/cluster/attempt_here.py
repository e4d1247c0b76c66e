"""An attempt on its node: its folder, its tree of files, its trainer, and how it stands.

What the folder holds is enough for the next agent to go on where this one dies: the order, which
process was started, how it ended. What a node is asked is in `agent.py`.
"""

import os
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_core.config import ENV_FILES_ROOT
from grpo_core.run import protocol
from grpo_core.run.atomic import read_json, remove, write_json
from grpo_core.run.locks import is_waiting
from orchestrator.cluster.codec import plain
from orchestrator.cluster.contents import Contents
from orchestrator.cluster.files import AttemptFiles, FileLister
from orchestrator.system import processes
from orchestrator.system.crashpoints import crashpoint
from orchestrator.system.locks import try_lock
from orchestrator.worker.attempt_log import HEADER, read_tail
from orchestrator.worker.launcher import (
    ENV_ATTEMPT,
    Adopted,
    Launched,
    Traces,
    Trainer,
    environment,
    spawn,
)
from orchestrator.worker.nodes import AttemptReport, Held, NodeRefused, Order, Wish

# How long a trainer that was killed may take to be gone.
_KILL_S = 5.0
# How often it is looked at how much memory is left.
_MEMORY_S = 1.0


@dataclass(frozen=True)
class Place:
    """The names in an attempt's folder on its node."""

    folder: Path

    @property
    def order(self) -> Path:
        """What was ordered; written before anything is started."""
        return self.folder / "order.json"

    @property
    def process(self) -> Path:
        """Which process was started, and when."""
        return self.folder / "process.json"

    @property
    def ended(self) -> Path:
        """How it ended, once that is known."""
        return self.folder / "ended.json"

    @property
    def lock(self) -> Path:
        """Held (flock) by the trainer until its death."""
        return self.folder / "run.lock"

    @property
    def log(self) -> Path:
        """Stdout and stderr."""
        return self.folder / "attempt.log"

    @property
    def config(self) -> Path:
        """The base config as the order has it."""
        return self.folder / "config.toml"

    @property
    def tree(self) -> Path:
        """Below it lie the run's files as they lie on the head."""
        return self.folder / "files"

    def working_folder(self, order: Order) -> Path:
        """Where the trainer is started: what relative names are seen from."""
        return self._below(order.cwd)

    def input(self, order: Order, name: str) -> Path:
        """Where a name of the configuration leads; never out of the tree."""
        return self._below(os.path.join(order.cwd, os.path.expanduser(name)))

    def output(self, order: Order) -> Path:
        """The output folder."""
        return self.input(order, order.output_dir)

    def _below(self, path: str) -> Path:
        return self.tree / os.path.normpath(f"/{path}").lstrip("/")


class AttemptHere:
    """One attempt that this node holds."""

    def __init__(self, place: Place, order: Order) -> None:
        self.order = order
        self.place = place
        self._trainer: Trainer | None = None
        self._lock = threading.RLock()
        files = AttemptFiles(place.log, place.output(order), place.folder / "kept")
        self._lister = FileLister(files)
        self._began = time.monotonic()
        self._memory: processes.MemoryWitness | None = None
        self._memory_looked = float("-inf")
        self._end: dict[str, Any] | None = None
        self._written = False
        self._gone = False
        self._report = self._look()

    @property
    def running(self) -> bool:
        """Whether its trainer lives, or how it ended is not known yet."""
        return self._report.running

    @property
    def report(self) -> AttemptReport:
        """As it stood at the last look."""
        return self._report

    @property
    def held(self) -> Held:
        """In short."""
        order = self.order
        return Held(order.token, order.run, order.n, order.slot, self.running)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """A piece of a file; NodeRefused."""
        return self._lister.read(path, offset, size)

    # --- its trainer

    def launch(self, trainer: Sequence[str], slot_env: Mapping[str, str]) -> None:
        """Start it; OSError or NodeRefused."""
        order, place = self.order, self.place
        sets = [word for item in order.set for word in ("--set", item)]
        argv = [*trainer, "--config", str(place.config), *sets, "--strict"]
        lock = try_lock(place.lock)
        if lock is None:
            raise NodeRefused(f"{place.lock}: held by another process")
        try:
            own = {**order.env, **slot_env, ENV_ATTEMPT: self._token}
            own[ENV_FILES_ROOT] = str(place.tree)
            env = environment(order.run.rpartition("/")[2], own, order.halvings)
            folders = [str(place.input(order, name)) for name in order.python_path]
            if path := os.pathsep.join(filter(None, (*folders, env.get("PYTHONPATH")))):
                env["PYTHONPATH"] = path
            with open(place.log, "ab") as log:
                title = f"{HEADER}attempt {order.n} of run {order.run}"
                log.write(f"{title}: {shlex.join(argv)}\n".encode())
                log.flush()
                process = spawn(argv, str(place.working_folder(order)), log, lock, env)
        except OSError:
            lock.release()
            raise
        crashpoint("node.spawned")
        with self._lock:
            self._follow(Launched(process, lock, (self._token,)))
        with suppress(OSError):  # Without it the next agent finds the trainer by what it carries.
            write_json(place.process, self._process(process.pid))
        self.tend()

    def adopt(self) -> None:
        """Take over what an agent before has left: a trainer that lives, or how it ended.

        How it stands is known after the next look.
        """
        known = read_json(self.place.process) or {}
        if known.get("boot_id") == processes.boot_id():
            # The clock counts from the start of the machine.
            self._began = known["began"]
        self._end = read_json(self.place.ended)
        if self._end is None:
            of = (known.get("pid"), known.get("pid_started"), known.get("boot_id", ""))
            self._follow(Adopted(Traces(self.place.lock, (self._token,), *of)))
        else:
            self._written = True

    def _follow(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._memory = processes.MemoryWitness(trainer.pid)
        self._report = self._look()

    @property
    def _token(self) -> str:
        """What its processes carry in their environment."""
        return f"{self.place.folder}#{self.order.token}"

    def _process(self, pid: int) -> dict[str, Any]:
        return {
            "pid": pid,
            "pid_started": processes.start_time(pid),
            "boot_id": processes.boot_id(),
            "began": self._began,
        }

    def ask(self, wish: Wish) -> None:
        """End its trainer in that way."""
        if self._trainer is not None and self._end is None:
            getattr(self._trainer, wish)()

    def remove(self) -> None:
        """End what still runs, at once, and delete its files; NodeRefused where it does not end."""
        with self._lock:
            if self._trainer is not None and self._end is None:
                self._trainer.kill()
                if not self._trainer.wait(_KILL_S):
                    words = f"attempt {self.order.n} of run {self.order.run} does not end"
                    raise NodeRefused(f"{words} (pid {self._trainer.pid}); ask again")
            self._gone = True
            self.close()
            remove(self.place.folder)

    def close(self) -> None:
        """Leave it to the next agent."""
        if self._trainer is not None:
            self._trainer.close()

    # --- how it stands

    def tend(self) -> None:
        """Look whether it has ended, and at its files; OSError on a disk that cannot be used."""
        with self._lock:
            if self._gone or (self._written and not self._report.running):
                return
            if self._trainer is not None and self._end is None and self._has_ended(self._trainer):
                crashpoint("node.ended")
                self._end = self._ending(self._trainer)
            self._report = self._look()
            if self._end is not None and not self._written:
                write_json(self.place.ended, self._end)
                self._written = True

    def _has_ended(self, trainer: Trainer) -> bool:
        if trainer.wait(0):
            return True
        trainer.keep()
        now = time.monotonic()
        if self._memory is not None and now - self._memory_looked >= _MEMORY_S:
            self._memory_looked = now
            self._memory.look()
        return False

    def _ending(self, trainer: Trainer) -> dict[str, Any]:
        return {
            "exit_code": trainer.exit_code,
            "signal": trainer.signal,
            "memory": self._memory.evidence() if self._memory is not None else None,
            "age_s": time.monotonic() - self._began,
        }

    def _look(self) -> AttemptReport:
        end = self._end
        return AttemptReport(
            running=end is None,
            pid=None if self._trainer is None else self._trainer.pid,
            exit_code=None if end is None else end["exit_code"],
            signal=None if end is None else end["signal"],
            memory=None if end is None else end["memory"],
            waits=self._waits() if end is None else None,
            age_s=time.monotonic() - self._began if end is None else end["age_s"],
            quiet_s=self._lister.quiet_s,
            files=self._lister.look(ended=end is not None),
        )

    def _waits(self) -> str | None:
        lines = read_tail(self.place.log, 4096).splitlines()
        return lines[-1].removeprefix("[lock] ") if lines and is_waiting(lines[-1]) else None


def make_place(folder: Path, order: Order, contents: Contents) -> None:
    """Fill the folder of an attempt with all that its trainer needs; OSError."""
    place = Place(folder)
    place.folder.mkdir(mode=0o700)
    place.working_folder(order).mkdir(parents=True, exist_ok=True)
    place.output(order).mkdir(parents=True, exist_ok=True)
    (place.folder / "kept").mkdir()
    for file in order.inputs:
        contents.lay(file, place.input(order, file.path), written=False)
    for file in order.files:
        # Its logs go on; a checkpoint is only read, and removed as a whole.
        written = not protocol.is_weights_folder(file.path.partition("/")[0])
        target = place.output(order) / os.path.normpath(f"/{file.path}").lstrip("/")
        contents.lay(file, target, written=written)
    place.config.write_text(order.config_text, encoding="utf-8")
    write_json(place.order, plain(order))
