"""Where the trainers of a slot run: on this machine, or on a node; what differs between the two.

How a run is chosen, watched, judged and recorded is the same for both.
"""

import socket
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from grpo_core.errors import ConfigError, ExitCode
from grpo_core.run import protocol
from grpo_core.run.atomic import read_json
from grpo_core.run.device_choice import CPU
from orchestrator.errors import QueueBusy
from orchestrator.queue.claims import Before, LeftOut
from orchestrator.queue.store import Store
from orchestrator.run import Attempt, Run, Sweep, Verdict
from orchestrator.system import load, processes
from orchestrator.system.crashpoints import crashpoint
from orchestrator.system.paths import RunPaths
from orchestrator.text import size
from orchestrator.worker.attempt_log import PASSING
from orchestrator.worker.crew import Crew, How
from orchestrator.worker.fleet import Fleet
from orchestrator.worker.launcher import (
    Adopted,
    Launched,
    LaunchError,
    Trainer,
    freeze_config,
    launch,
    traces,
)
from orchestrator.worker.mirror import Mirror
from orchestrator.worker.monitor import Sight
from orchestrator.worker.nodes import NodeFacts
from orchestrator.worker.order import CannotTravel, prepare
from orchestrator.worker.patience import TRY_S, Patience
from orchestrator.worker.remote import Reach, RemoteTrainer
from orchestrator.worker.silence import file_signs
from orchestrator.worker.slots import Slot
from orchestrator.worker.standby import Standby, StandbySlot

Look = Callable[[Run], Before]
Claimed = tuple[Run, Attempt]


class TrainingPlace(Protocol):
    """The machine on which a slot's trainers run."""

    @property
    def boot_id(self) -> str:
        """That of the machine now; empty while it is away."""

    @property
    def open(self) -> bool:
        """Whether a run may begin there."""

    def claim(self, before: Look, rather_not: Collection[int]) -> Claimed | None:
        """Take the next run that it can train."""

    def launch(self, run: Run, attempt: Attempt, sweep: Sweep) -> tuple[Trainer, Attempt]:
        """Start the trainer of an attempt, which then knows its process; LaunchError, QueueBusy."""

    def adopt(self, run: Run, attempt: Attempt) -> Trainer:
        """The trainer that a worker before has left there."""

    def sight(self, run: Run, attempt: Attempt, trainer: Trainer) -> Sight:
        """What is seen of a trainer there."""

    def where(self, trainer: Trainer) -> str:
        """The place of a trainer as people read it."""

    def low_memory(self) -> str | None:
        """Who holds the memory there, where little is left, as far as that is known."""

    def ended(self, run: Run, trainer: Trainer) -> None:
        """A trainer there has ended."""


class Here:
    """This machine."""

    open = True

    def __init__(
        self, how: How, store: Store, slot: Slot, patience: Patience, standby: StandbySlot
    ) -> None:
        self._home = how.home
        self._command = how.trainer
        self._store = store
        self._slot = slot
        self._patience = patience
        self._standby = standby
        self.boot_id = processes.boot_id()

    def claim(self, before: Look, rather_not: Collection[int]) -> Claimed | None:
        """See TrainingPlace."""
        return self._store.claims.claim(
            *(socket.gethostname(), self.boot_id, before, self._slot.name, rather_not)
        )

    def launch(self, run: Run, attempt: Attempt, sweep: Sweep) -> tuple[Trainer, Attempt]:
        """See TrainingPlace: lets the standby go, else starts one."""
        standby = self._standby.take(run, attempt, sweep)
        if standby is not None:
            # Before it goes: so there is no instant in which an unknown process trains.
            attempt = self._record_standby(attempt, standby)
            crashpoint("worker.standby")
            trainer = standby.go(attempt)
            if trainer is not None:
                return trainer, attempt
            # Or a next worker would look for it instead of the one that takes its place.
            attempt = self._store.claims.started(attempt, None, None)
        freeze_config(run, sweep, self._home)
        earlier = self._store.queries.attempts(run.id)[:-1]
        trainer = launch(run, attempt, self._home, self._command, earlier, self._slot.env)
        started = processes.start_time(trainer.pid)
        # Recorded later where it cannot be now: until then it is found by its environment.
        with self._patience.skip(TRY_S):
            self._store.claims.started(attempt, trainer.pid, started)
        return trainer, replace(attempt, pid=trainer.pid, pid_started=started)

    def _record_standby(self, attempt: Attempt, standby: Standby) -> Attempt:
        started = processes.start_time(standby.pid)
        try:
            return self._store.claims.started(attempt, standby.pid, started)
        except QueueBusy:
            standby.dismiss()
            raise

    def adopt(self, run: Run, attempt: Attempt) -> Trainer:
        """See TrainingPlace."""
        return Adopted(traces(attempt, self._home))

    def sight(self, run: Run, attempt: Attempt, trainer: Trainer) -> Sight:
        """See TrainingPlace."""
        return SightHere(run, attempt, isinstance(trainer, Launched))

    def where(self, trainer: Trainer) -> str:
        """See TrainingPlace."""
        return f"pid {trainer.pid}"

    def low_memory(self) -> str | None:
        """See TrainingPlace."""
        return processes.low_memory()

    def ended(self, run: Run, trainer: Trainer) -> None:
        """See TrainingPlace."""


class SightHere:
    """What is seen of a trainer on this machine."""

    def __init__(self, run: Run, attempt: Attempt, from_start: bool) -> None:
        self.from_start = from_start
        self._pid = attempt.pid
        self._memory = processes.MemoryWitness(attempt.pid)
        self._signs = file_signs(Path(attempt.log), RunPaths(run.folder).log)

    def waits(self) -> bool:
        """See Sight: what it waits for, it says itself."""
        return False

    def signs(self) -> object:
        """See Sight."""
        return self._signs()

    def is_stopped(self) -> bool:
        """See Sight."""
        return self._pid is not None and processes.is_stopped(self._pid)

    def look(self) -> None:
        """See Sight."""
        self._memory.look()

    def evidence(self) -> str | None:
        """See Sight."""
        return self._memory.evidence()

    def others(self, ours: Collection[int]) -> str:
        """See Sight."""
        return load.busy_others(ours)

    def low_memory(self) -> str | None:
        """See Sight."""
        return processes.low_memory()


class OnNode:
    """A node of the cluster."""

    def __init__(
        self, store: Store, slot: Slot, crew: Crew, fleet: Fleet, patience: Patience, name: str
    ) -> None:
        self.node = name
        self._store = store
        self._slot = slot
        self._crew = crew
        self._fleet = fleet
        self._patience = patience
        self._queue = patience.insist(store.queries.queue_name)
        self._needs: dict[tuple[int, str], int | None] = {}

    @property
    def boot_id(self) -> str:
        """See TrainingPlace."""
        facts = self._fleet.facts(self.node)
        return "" if facts is None else facts.boot_id

    @property
    def open(self) -> bool:
        """See TrainingPlace."""
        return self._fleet.takes(self._slot.name)

    def claim(self, before: Look, rather_not: Collection[int]) -> Claimed | None:
        """See TrainingPlace: not where it needs more memory, or began on another kind of device."""
        facts = self._fleet.facts(self.node)
        if facts is None or not self.open:
            return None
        left_out = LeftOut(sweeps=self._fleet.refused(self.node))

        def fits(run: Run) -> bool:
            return self._has_memory(run, facts, left_out) and self._goes_on(run, facts, left_out)

        return self._store.claims.claim(
            *(facts.host, facts.boot_id, before, self._slot.name, rather_not),
            *(self.node, left_out, fits),
        )

    def _has_memory(self, run: Run, facts: NodeFacts, left_out: LeftOut) -> bool:
        """Whether a slot there has what runs of this kind took; else it takes none of them."""
        key = (run.sweep_id, run.kind)
        if self._needs.get(key) is None:
            self._needs[key] = self._store.queries.peak_bytes(*key)
        needs = self._needs[key]
        if needs is None or needs <= facts.memory_bytes:
            return True
        left_out.kinds.add(run.kind)
        words = f"such runs took {size(needs)}, and a slot there has {size(facts.memory_bytes)}"
        self._say_of(run, f"gets no run like {run.id} ({run.name}): {words}", key)
        return False

    def _goes_on(self, run: Run, facts: NodeFacts, left_out: LeftOut) -> bool:
        """Whether a run may go on there from its checkpoint, which another device has made."""
        began = _began_on(run) if run.attempt else None
        if began in (None, facts.backend):
            return True
        where = f"run {run.id} ({run.name}), which began on {began}, on {facts.backend}"
        if CPU not in (began, facts.backend) and self._fleet.cluster.other_gpu:
            self._say_of(run, f"goes on with {where}: bits differ", run.id)
            return True
        left_out.runs.add(run.id)
        self._say_of(run, f"does not go on with {where}", run.id)
        return False

    def _say_of(self, run: Run, words: str, about: object) -> None:
        self._fleet.say_once(self.node, f"node {self.node} {words}", about)

    def launch(self, run: Run, attempt: Attempt, sweep: Sweep) -> tuple[Trainer, Attempt]:
        """See TrainingPlace: the files that it lacks go there while the trainer is followed."""
        earlier = self._store.queries.attempts(run.id)[:-1]
        try:
            outgoing = prepare(run, attempt, sweep, self._queue, earlier)
        except CannotTravel as e:
            # A slot of this machine may still train it.
            self._fleet.note_refusal(self.node, run.sweep_id)
            here = any(slot.node is None and not slot.leaving for slot in self._crew.slots)
            verdict = Verdict.INTERRUPTED if here else Verdict.CONFIG
            raise LaunchError(str(e), verdict) from None
        except ConfigError as e:
            raise LaunchError(str(e), Verdict.CONFIG) from None
        except OSError as e:
            words = f"{e.filename or run.cwd}: {e.strerror}"
            if e.errno in PASSING:
                raise QueueBusy(words) from None
            raise LaunchError(words, Verdict.DATA) from None
        sent = [file.path for file in outgoing.order.files]
        mirror = Mirror(run.folder, Path(attempt.log), sent)
        reach = self._reach(run, attempt)
        return RemoteTrainer(reach, attempt.token, mirror, outgoing, begun=False), attempt

    def adopt(self, run: Run, attempt: Attempt) -> Trainer:
        """See TrainingPlace."""
        mirror = Mirror(run.folder, Path(attempt.log))
        begun = attempt.pid is not None
        return RemoteTrainer(self._reach(run, attempt), attempt.token, mirror, None, begun=begun)

    def _reach(self, run: Run, attempt: Attempt) -> Reach:
        name = self.node

        def started(pid: int) -> bool:
            recorded = False
            with self._patience.skip():
                self._store.claims.started(attempt, pid, None)
                recorded = True
            return recorded

        return Reach(
            name=f"node {name}",
            node=lambda: self._fleet.node(name),
            away_s=self._fleet.cluster.away_s,
            tell=lambda text: self._crew.say_waits(text, run),
            forget=lambda token: self._fleet.forget(name, token),
            started=started,
        )

    def sight(self, run: Run, attempt: Attempt, trainer: Trainer) -> Sight:
        """See TrainingPlace."""
        assert isinstance(trainer, RemoteTrainer)
        return trainer

    def where(self, trainer: Trainer) -> str:
        """See TrainingPlace."""
        return f"on {self._slot.name}"

    def low_memory(self) -> str | None:
        """See TrainingPlace."""
        return None

    def ended(self, run: Run, trainer: Trainer) -> None:
        """See TrainingPlace."""
        assert isinstance(trainer, RemoteTrainer)
        if trainer.exit_code == ExitCode.INTERRUPTED:
            self._fleet.doubt(self.node)
        if trainer.refused:
            self._fleet.note_refusal(self.node, run.sweep_id)
        elif trainer.pid is not None:
            self._fleet.note_success(self.node, run.sweep_id)


def _began_on(run: Run) -> str | None:
    """The backend on which the newest checkpoint of a run was made, as `NodeFacts` names it."""
    newest = RunPaths(run.folder).checkpoints()[:1]
    state = read_json(newest[0][1] / protocol.TRAINER_STATE) if newest else None
    versions = (state or {}).get("versions")
    if not isinstance(versions, dict) or "device" not in versions:
        return None
    if str(versions["device"]).split()[0] == CPU:
        return CPU
    return "metal" if str(versions.get("platform", "")).startswith("macOS") else "cuda"
