"""What a run, an attempt and a sweep are, and which changes of state are legal; pure.

Rows of the database become these frozen records in `rows.py`; plans come from `expand.py`. The
states and what leads from one to the other are in docs/architecture.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple


class RunState(StrEnum):
    """Where a run stands; `END_STATES` have nothing left to do."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    CANCELLED = "cancelled"


END_STATES = frozenset({RunState.COMPLETED, RunState.PRUNED, RunState.FAILED, RunState.CANCELLED})

_QUEUED, _RUNNING, _PAUSED = RunState.QUEUED, RunState.RUNNING, RunState.PAUSED
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({_RUNNING, _PAUSED, RunState.CANCELLED}),
    RunState.RUNNING: END_STATES | {_QUEUED, _PAUSED},
    RunState.PAUSED: frozenset({_QUEUED, RunState.CANCELLED, RunState.PRUNED}),
    RunState.FAILED: frozenset({_QUEUED}),
    RunState.COMPLETED: frozenset(),
    RunState.PRUNED: frozenset(),
    RunState.CANCELLED: frozenset({_QUEUED}),
}


class Verdict(StrEnum):
    """How an attempt ended. The first five are no failures.

    `held` waits at a rung of halving, `pruned` was ended by a stop rule, `cancelled` by the user.
    """

    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    HELD = "held"
    PRUNED = "pruned"
    CANCELLED = "cancelled"
    OOM = "oom"
    GPU_WATCHDOG = "gpu_watchdog"
    GPU_HANG = "gpu_hang"
    GPU_RESET = "gpu_reset"
    GPU_FAULT = "gpu_fault"
    DIVERGED = "diverged"
    CONFIG = "config"
    DATA = "data"
    DISK_FULL = "disk_full"
    HUB_AWAY = "hub_away"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    CRASH = "crash"
    LOST = "lost"


class StopRequest(StrEnum):
    """What the worker asked of the trainer that it stopped."""

    STOP = "stop"
    CANCEL = "cancel"
    PAUSE = "pause"
    TIMEOUT = "timeout"
    STALL = "stall"
    RUNG = "rung"
    PRUNE = "prune"
    FAIL = "fail"


class StopCode(StrEnum):
    """Which stop rule ended a run; the reason beside it is a sentence for people."""

    NOT_FINITE = "not_finite"
    HEALTH = "health"
    MEDIAN = "median"
    HALVING = "halving"


class HoldCode(StrEnum):
    """What holds a sweep or halts the queue; the reason beside it is a sentence for people."""

    USER = "user"
    WALL = "wall"
    DISK = "disk"
    FAILURES = "failures"
    CHANGED = "changed"
    SEARCH = "search"
    GPU_HANG = "gpu_hang"


# What `retry.on` may name: the same command may well succeed the next time.
RETRYABLE = (
    *(Verdict.CRASH, Verdict.LOST, Verdict.STALLED),
    *(Verdict.GPU_WATCHDOG, Verdict.GPU_RESET, Verdict.GPU_FAULT, Verdict.HUB_AWAY),
)


@dataclass(frozen=True)
class Outcome:
    """The verdict over one attempt, with what proves it.

    `evidence` is the line (of the log, of result.json, or of the system) that the verdict rests
    on; `exit_code` is None when nobody could collect it, or a signal ended the process; `stop_code`
    is the stop rule that ended it, if one did.
    """

    verdict: Verdict
    reason: str
    evidence: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    stop_code: StopCode | None = None


@dataclass(frozen=True)
class Progress:
    """How far a run has come, read from its output folder; what is unknown is None.

    `metrics` holds the last value of every key in the log, with `em` the last of `split: test`.
    """

    update: int | None = None
    updates_total: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    s_per_update: float | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds that the run will still take at the pace of its last updates."""
        if self.s_per_update is None or self.updates_total is None or self.update is None:
            return None
        return self.s_per_update * max(0, self.updates_total - self.update)


# --- plans: what a submit puts into the queue


@dataclass(frozen=True)
class Objective:
    """What a sweep is ranked by; `reduce` is last, best or last:N."""

    metric: str = "em"
    goal: str = "max"
    reduce: str = "last"


@dataclass(frozen=True)
class Limits:
    """Limits of a sweep; None is no limit. `max_failures` in a row of one verdict pause it.

    `stall_s` is the least silence that ends a trainer (`worker/silence.py`).
    """

    max_failures: int = 3
    wall_s: float | None = None
    run_wall_s: float | None = None
    disk_bytes: int | None = None
    stall_s: float = 900.0


@dataclass(frozen=True)
class Retry:
    """`max` deaths in a row without a newer checkpoint end a run; `on` names what is repeated."""

    max: int = 2
    on: tuple[str, ...] = RETRYABLE


@dataclass(frozen=True)
class Search:
    """How a sweep finds its settings: the full grid, or `runs` of them that a method chooses.

    Of a grid `runs` keeps the first ones; explicit runs come on top of it.
    """

    method: str = "grid"
    runs: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class PlannedRun:
    """One run as expanded: `set` is every `k=v` that is passed, in order.

    `overrides` is what the spec varies or sets, without output_dir, run_name and seed. Runs of one
    `identity` would train the same.
    """

    name: str
    seed: int | None
    overrides: dict[str, Any]
    set: tuple[str, ...]
    output_dir: str
    tags: tuple[str, ...] = ()
    hash: str | None = None
    identity: str | None = None


@dataclass(frozen=True)
class Submitted:
    """How a sweep came: the path of its spec, as typed, and each `--set` of the command line."""

    source: str = ""
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A sweep as expanded, its base config frozen; `cwd` is the folder of the submit.

    `to_ask` settings are left to be chosen while it runs; `stop` is the `[stop]` table as read.
    `provenance` is what it was submitted with (`plan/provenance.py`), `frozen` whether a change of
    that holds the sweep.
    """

    name: str
    config_text: str
    config_source: str
    spec_text: str
    cwd: str
    runs: tuple[PlannedRun, ...]
    objective: Objective = field(default_factory=Objective)
    limits: Limits = field(default_factory=Limits)
    retry: Retry = field(default_factory=Retry)
    search: Search = field(default_factory=Search)
    to_ask: int = 0
    stop: Mapping[str, Any] = field(default_factory=dict)
    submitted: Submitted = field(default_factory=Submitted)
    provenance: Mapping[str, Any] | None = None
    frozen: bool = False


@dataclass(frozen=True)
class Extension:
    """The runs that a changed spec adds to a sweep, and the plan whose rules it has from then."""

    runs: tuple[PlannedRun, ...]
    plan: Plan


# --- records: what the queue holds


FIRST_SLOT = "0"
"""The slot of a worker that trains one run at a time."""


ASKED = "asked for"
"""Why a slot is paused where a user has done so."""


def slot_order(name: str) -> tuple[int, str]:
    """Orders the names of slots: numbers as such, then what has a longer name."""
    return (len(name), name)


@dataclass(frozen=True)
class Run:
    """A row of `runs`. Times are ISO 8601 in UTC; what is unknown is None.

    `request` is what a user asked of a running run and the worker has not done yet (cancel or
    pause); `attempt` is the number of the latest attempt, 0 before the first; `update`,
    `updates_total`, `metrics` and `value` (the sweep's objective) are what the worker read when
    the last attempt ended. `rung` is the update at which halving holds it, if it does, and
    `stop_code` the stop rule that ended it.
    """

    id: int
    sweep_id: int
    sweep: str
    name: str
    position: int
    priority: int
    state: RunState
    reason: str | None
    request: StopRequest | None
    seed: int | None
    overrides: dict[str, Any]
    set: tuple[str, ...]
    output_dir: str
    cwd: str
    tags: tuple[str, ...]
    hash: str | None
    attempt: int
    deaths: int
    not_before: str | None
    update: int | None
    updates_total: int | None
    metrics: dict[str, Any]
    wall_s: float
    exit_code: int | None
    created: str
    started: str | None
    ended: str | None
    value: float | None = None
    rung: int | None = None
    stop_code: StopCode | None = None
    kind: str = ""
    same_as: int | None = None
    slot: str | None = None
    """The slot that trains it, while it runs."""
    damaged: tuple[str, ...] = ()
    """Columns that cannot be read: their values are empty, and nothing may be trained by them."""

    @property
    def folder(self) -> Path:
        """The absolute output folder: `output_dir` as seen from the folder of the submit."""
        return Path(self.cwd, self.output_dir)


class Judged(NamedTuple):
    """What a pivot needs of a run: where it stands, what it sets and what it reached."""

    id: int
    state: RunState
    seed: int | None
    overrides: Mapping[str, Any]
    value: float | None


@dataclass(frozen=True)
class Share:
    """How many runs of a sweep stand in one state and take about as long (`kind`).

    `timed` of these `n` have trained, for `wall_s` together.
    """

    state: RunState
    kind: str
    n: int
    timed: int
    wall_s: float


@dataclass(frozen=True)
class Attempt:
    """One launch of a run. `pid_started` is in seconds, as `processes.start_time` counts them.

    `checkpoint` is the newest one when the attempt began (-1: none) and `result_before` the
    identity of the result.json that lay there, so that an old one is never taken for new.
    """

    id: int
    run_id: int
    n: int
    host: str
    boot_id: str
    pid: int | None
    pid_started: float | None
    checkpoint: int
    result_before: str | None
    started: str
    ended: str | None
    wall_s: float
    exit_code: int | None
    signal: str | None
    outcome: str | None
    reason: str | None
    evidence: str | None
    log: str
    changed: tuple[str, ...] = ()
    slot: str = FIRST_SLOT
    token: str = ""
    """Drawn when the run was claimed: a report of the attempt counts only with it."""
    node: str | None = None
    """The machine of a cluster that carries it out; None: this one."""


@dataclass(frozen=True)
class Sweep:
    """A row of `sweeps` with the number of its runs in each state (states without runs left out).

    `paused`: it is held, by what `hold_code` says and `reason` explains. `to_ask` settings are left
    for the search to choose.
    """

    id: int
    name: str
    priority: int
    paused: bool
    reason: str | None
    config_text: str
    config_source: str
    spec_text: str
    cwd: str
    objective: Objective
    limits: Limits
    retry: Retry
    created: str
    counts: dict[RunState, int]
    search: Search = field(default_factory=Search)
    to_ask: int = 0
    stop: Mapping[str, Any] = field(default_factory=dict)
    submitted: Submitted = field(default_factory=Submitted)
    provenance: Mapping[str, Any] | None = None
    frozen: bool = False
    hold_code: HoldCode | None = None
    damaged: tuple[str, ...] = ()
    """As that of a run."""

    @property
    def state(self) -> str:
        """queued, running, paused, completed (nothing left to do), failed (all did), cancelled."""
        return sweep_state(self.counts, self.paused, self.to_ask)


def sweep_state(counts: Mapping[RunState, int], paused: bool, to_ask: int = 0) -> str:
    """The state of a sweep whose runs stand as `counts` says; `to_ask` settings are to come."""
    if counts.get(RunState.RUNNING):
        return "running"
    waiting = counts.get(RunState.QUEUED, 0) + to_ask
    if waiting and not paused:
        return "queued"
    if waiting or counts.get(RunState.PAUSED):
        return "paused"
    ended = {state for state, n in counts.items() if n}
    if ended == {RunState.CANCELLED}:
        return "cancelled"
    nothing_came = RunState.FAILED in ended and ended <= {RunState.FAILED, RunState.CANCELLED}
    return "failed" if nothing_came else "completed"


def stamp(now: datetime, plus_s: float = 0.0) -> str:
    """ISO 8601 in UTC with milliseconds; sorts as text like the times themselves."""
    at = (now + timedelta(seconds=plus_s)).astimezone(UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
