"""What is true now about runs and sweeps: progress from their folders, time that is left.

Reads the store's records and the training logs; writes nothing. How it looks is decided in
`tables.py`, `now.py` and `live.py`, what programs get in `json_shapes.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.queue.eta import NOTHING, Span, Work, left
from orchestrator.queue.store import Store
from orchestrator.results.training_log import ProgressReader, read_progress
from orchestrator.run import Attempt, Progress, Run, RunState, Sweep
from orchestrator.system.processes import boot_id, is_process, is_stopped
from orchestrator.text import UNKNOWN

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
class Overview:
    """Sweeps with runs to show, how far those are, and how long everything will take.

    `left` is the time until a sweep is done, with those before it; None where it is unknown, or
    where it is held or over. `whole` is the time until the queue is done; held sweeps left out.
    `suspended` is the pid of the running run's trainer where that is stopped, as by Ctrl-Z.
    """

    sweeps: tuple[Sweep, ...]
    runs: Mapping[int, tuple[Run, ...]]
    progress: Mapping[int, Progress]
    left: Mapping[int, Span | None]
    whole: Span | None = None
    waits_for: Mapping[int, str | None] = field(default_factory=dict)
    best: Mapping[int, Run | None] = field(default_factory=dict)
    swept: Mapping[int, Sequence[str]] = field(default_factory=dict)
    running: Run | None = None
    next_runs: tuple[Run, ...] = ()
    halted: str | None = None
    suspended: int | None = None


def read_overview(
    store: Store,
    sweeps: Sequence[Sweep],
    most: int | None = 0,
    rows: Mapping[int, int | None] | None = None,
    read: Callable[[Run], Progress] = progress_of,
) -> Overview:
    """An overview with at most `most` runs of each sweep (None: all): what runs or failed first.

    `rows` says so for single sweeps; `read` gives the progress of a run. Reads no more runs than it
    shows, and those that have begun: a queue may hold very many.
    """
    boot = boot_id()
    statuses = [_status_of(store, sweep, (rows or {}).get(sweep.id, most)) for sweep in sweeps]
    shown = {sweep.id for sweep in sweeps}
    others = [_status_of(store, s, 0) for s in store.queries.sweeps(latest=0) if s.id not in shown]
    running = store.queries.running()
    return overview(
        statuses,
        others,
        running,
        store.status.next_runs(boot, _NEXT_SHOWN),
        store.queries.halted(boot),
        read,
        None if running is None else _suspended(store.queries.attempts(running.id)),
    )


def _suspended(attempts: Sequence[Attempt]) -> int | None:
    """The pid of the trainer of the latest attempt, if it lives and is stopped."""
    if not attempts or (pid := attempts[-1].pid) is None:
        return None
    lives = is_process(pid, attempts[-1].pid_started, attempts[-1].boot_id)
    return pid if lives and is_stopped(pid) else None


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
    running: Run | None = None,
    next_runs: Sequence[Run] = (),
    halted: str | None = None,
    read: Callable[[Run], Progress] = progress_of,
    suspended: int | None = None,
) -> Overview:
    """Everything that a status shows about some sweeps; the `others` only take their time."""
    every = (*statuses, *others)
    known = {run.id: run for of in every for run in (*of.runs, *of.work.begun)}
    if running is not None:
        known[running.id] = running
    progress = {run_id: read(run) for run_id, run in known.items()}
    until, whole = _until(every, progress, halted=halted is not None)
    return Overview(
        sweeps=tuple(of.sweep for of in statuses),
        runs={of.sweep.id: tuple(of.runs) for of in statuses},
        progress=progress,
        left=until,
        whole=whole,
        waits_for={of.sweep.id: of.waits_for for of in statuses},
        best={of.sweep.id: of.best for of in statuses},
        swept={of.sweep.id: of.swept for of in statuses},
        running=running,
        next_runs=tuple(next_runs),
        halted=halted,
        suspended=suspended,
    )


def _until(
    statuses: Sequence[SweepStatus], progress: Mapping[int, Progress], *, halted: bool
) -> tuple[dict[int, Span | None], Span | None]:
    """The time until each sweep is done, one after the other, and until all of them are.

    Nobody knows when a queue that stands still goes on.
    """
    if halted:
        return {of.sweep.id: None for of in statuses}, None
    ahead: Span | None = NOTHING
    until: dict[int, Span | None] = {of.sweep.id: None for of in statuses}
    for of in sorted(statuses, key=lambda of: (-of.sweep.priority, of.sweep.id)):
        if of.sweep.state in ("queued", "running") and not of.sweep.paused:
            own = left(of.work, progress)
            ahead = None if ahead is None or own is None else ahead + own
            until[of.sweep.id] = ahead
    return until, ahead
