"""What is true now about runs and sweeps: progress from their folders, time that is left.

Reads the store's records and the training logs; writes nothing. How it looks is decided in
`tables.py`, `now.py` and `live.py`, what programs get in `json_shapes.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.queue.eta import NOTHING, Span, Timeline, Work, parts_of
from orchestrator.queue.store import Store
from orchestrator.results.training_log import ProgressReader, read_progress
from orchestrator.run import FIRST_SLOT, Progress, Run, RunState, Sweep, slot_order
from orchestrator.system.processes import boot_id, is_process, is_stopped
from orchestrator.text import UNKNOWN
from orchestrator.worker.serving import ServingWorker

UNFINISHED = ("queued", "running", "paused")

# A status names so many of the runs that come next.
_NEXT_SHOWN = 3
# To find the best of more runs takes longer than a status may.
_BEST_OF = 5000


def progress_of(run: Run) -> Progress:
    """How far a run is: from its log while it runs, else as recorded at its last end."""
    recorded = Progress(run.update, run.updates_total, run.metrics)
    if run.state is not RunState.RUNNING:
        return recorded
    now = read_progress(run.folder)
    return now if now.update is not None else recorded


class ProgressReaders:
    """As `progress_of`, again and again: of a log only what is new is read."""

    def __init__(self) -> None:
        self._readers: dict[Path, ProgressReader] = {}

    def of(self, run: Run) -> Progress:
        """How far a run is."""
        if run.state is not RunState.RUNNING:
            self._readers.pop(run.folder, None)
            return progress_of(run)
        reader = self._readers.setdefault(run.folder, ProgressReader(run.folder))
        now = reader.read()
        return now if now.update is not None else progress_of(run)


def updates_text(now: Progress) -> str:
    """`14/30`, as far as it is known."""
    if now.update is None:
        return UNKNOWN
    return f"{now.update}/{now.updates_total}" if now.updates_total else str(now.update)


# --- an overview


@dataclass(frozen=True)
class SweepStatus:
    """What the queue knows of a sweep: the `runs` to show, and by what its time is estimated.

    `swept` are the parameters that differ between its runs.
    """

    sweep: Sweep
    runs: Sequence[Run]
    work: Work
    waits_for: str | None = None
    best: Run | None = None
    swept: Sequence[str] = ()


@dataclass(frozen=True)
class SlotStatus:
    """A slot of the worker, and the id of the run that trains there."""

    name: str
    paused: bool = False
    run: int | None = None
    speed: float = 1.0
    """Against the mean of all machines."""


@dataclass(frozen=True)
class Overview:
    """Sweeps with runs to show, how far those are, and how long everything will take.

    `left` is the time until a sweep is done, with those before it; None where it is unknown, or
    where it is held or over. `whole` is the time until the queue is done; held sweeps left out.
    `suspended` are the pids of trainers that are stopped, as by Ctrl-Z, by run; `paused` the slots
    and nodes that take no run, with the reason; `speeds` how fast nodes are against the mean.
    """

    sweeps: tuple[Sweep, ...]
    runs: Mapping[int, tuple[Run, ...]]
    progress: Mapping[int, Progress]
    left: Mapping[int, Span | None]
    whole: Span | None = None
    waits_for: Mapping[int, str | None] = field(default_factory=dict)
    best: Mapping[int, Run | None] = field(default_factory=dict)
    swept: Mapping[int, Sequence[str]] = field(default_factory=dict)
    running: tuple[Run, ...] = ()
    next_runs: tuple[Run, ...] = ()
    halted: str | None = None
    suspended: Mapping[int, int] = field(default_factory=dict)
    slots: tuple[SlotStatus, ...] = ()
    paused: Mapping[str, str] = field(default_factory=dict)
    speeds: Mapping[str | None, float] = field(default_factory=dict)

    def slot_of(self, run: Run) -> str | None:
        """The slot that trains a run, where there are several."""
        return run.slot if len(self.slots) > 1 else None


def read_overview(
    store: Store,
    sweeps: Sequence[Sweep],
    most: int | None = 0,
    rows: Mapping[int, int | None] | None = None,
    read: Callable[[Run], Progress] = progress_of,
    worker: ServingWorker | None = None,
) -> Overview:
    """An overview with at most `most` runs of each sweep (None: all): what runs or failed first.

    `rows` says so for single sweeps; `read` gives the progress of a run; `worker` is the one
    that serves the queue. Reads no more runs than it shows, and those that have begun: a queue may
    hold very many.
    """
    boot = boot_id()
    statuses = [_status_of(store, sweep, (rows or {}).get(sweep.id, most)) for sweep in sweeps]
    shown = {sweep.id for sweep in sweeps}
    others = [_status_of(store, s, 0) for s in store.queries.sweeps(latest=0) if s.id not in shown]
    running, paused = store.queries.running(), store.queries.paused_slots()
    speeds = store.status.speeds() if worker is not None and worker.nodes else {}
    seen = overview(
        statuses,
        others,
        running,
        store.status.next_runs(boot, _NEXT_SHOWN),
        store.queries.halted(boot),
        read,
        _suspended(store, running),
        _slots(worker, running, paused, speeds),
    )
    return replace(seen, paused=paused, speeds=speeds)


def _suspended(store: Store, running: Sequence[Run]) -> dict[int, int]:
    """The pids of trainers that live and are stopped, by run."""
    found = {}
    for run in running:
        last = next(iter(store.queries.attempts(run.id)[-1:]), None)
        if last is None or last.pid is None:
            continue
        if is_process(last.pid, last.pid_started, last.boot_id) and is_stopped(last.pid):
            found[run.id] = last.pid
    return found


def _slots(
    worker: ServingWorker | None,
    running: Sequence[Run],
    paused: Collection[str],
    speeds: Mapping[str | None, float],
) -> list[SlotStatus]:
    """The slots of the worker, and any other in which a run trains or which is paused."""
    runs = {run.slot or FIRST_SLOT: run.id for run in running}
    known = worker.slots if worker else ()
    nodes = {node.name for node in worker.nodes} if worker else set()
    found = []
    for name in sorted({*known, *runs, *paused} - nodes, key=slot_order):
        head = name.partition("/")[0]
        node = head if head in nodes else None
        is_paused = name in paused or node in paused
        found.append(SlotStatus(name, is_paused, runs.get(name), speeds.get(node, 1.0)))
    return found


def _status_of(store: Store, sweep: Sweep, most: int | None) -> SweepStatus:
    shown = (
        store.queries.runs(sweep.id) if most is None else store.status.summary_rows(sweep.id, most)
    )
    best = store.status.best_run(sweep) if sum(sweep.counts.values()) <= _BEST_OF else None
    return SweepStatus(
        sweep,
        shown,
        _work(store, sweep),
        store.status.sweep_waits_for(sweep),
        best,
        store.status.swept(sweep.id) if shown else (),
    )


def _work(store: Store, sweep: Sweep) -> Work:
    shares = store.queries.shares(sweep.id)
    if sweep.state not in UNFINISHED:
        return Work(shares, ())
    return Work(
        shares=shares,
        begun=store.queries.begun(sweep.id),
        sample=store.status.sample(sweep.id),
        similar_runs=store.status.similar_runs(sweep),
        waiting_duplicates=store.status.waiting_duplicates(sweep.id),
        to_come=sweep.to_ask * store.status.seeds(sweep.id) if sweep.to_ask else 0,
    )


def overview(
    statuses: Sequence[SweepStatus],
    others: Sequence[SweepStatus] = (),
    running: Sequence[Run] = (),
    next_runs: Sequence[Run] = (),
    halted: str | None = None,
    read: Callable[[Run], Progress] = progress_of,
    suspended: Mapping[int, int] | None = None,
    slots: Sequence[SlotStatus] = (),
) -> Overview:
    """Everything that a status shows about some sweeps; the `others` only take their time."""
    every = (*statuses, *others)
    known = {run.id: run for of in every for run in (*of.runs, *of.work.begun)}
    known |= {run.id: run for run in running}
    progress = {run_id: read(run) for run_id, run in known.items()}
    speeds = [slot.speed for slot in slots if not slot.paused] or [1.0]
    until, whole = _until(every, progress, speeds, halted=halted is not None)
    return Overview(
        sweeps=tuple(of.sweep for of in statuses),
        runs={of.sweep.id: tuple(of.runs) for of in statuses},
        progress=progress,
        left=until,
        whole=whole,
        waits_for={of.sweep.id: of.waits_for for of in statuses},
        best={of.sweep.id: of.best for of in statuses},
        swept={of.sweep.id: of.swept for of in statuses},
        running=tuple(running),
        next_runs=tuple(next_runs),
        halted=halted,
        suspended=suspended or {},
        slots=tuple(slots),
    )


def _until(
    statuses: Sequence[SweepStatus],
    progress: Mapping[int, Progress],
    speeds: Sequence[float],
    *,
    halted: bool,
) -> tuple[dict[int, Span | None], Span | None]:
    """The time until each sweep is done, one after the other, and until all of them are.

    Slots of these `speeds` share the runs.

    Nobody knows when a queue that stands still goes on.
    """
    if halted:
        return {of.sweep.id: None for of in statuses}, None
    line = Timeline(speeds)
    ahead: Span | None = NOTHING
    until: dict[int, Span | None] = {of.sweep.id: None for of in statuses}
    for of in sorted(statuses, key=lambda of: (-of.sweep.priority, of.sweep.id)):
        if of.sweep.state in ("queued", "running") and not of.sweep.paused:
            ahead = until[of.sweep.id] = line.after(parts_of(of.work, progress))
    return until, ahead
