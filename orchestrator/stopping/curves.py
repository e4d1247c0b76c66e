"""A run's training log as the stop rules read it, and what one of them decides about a run.

Nobody is stopped without evidence: a missing value or a tie keeps a run going.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.results.objective import setting_key
from orchestrator.results.training_log import finite_number, read_log
from orchestrator.run import Objective, Run, RunState, StopCode
from orchestrator.text import percent

LogLine = Mapping[str, Any]

# The length of a run that has logged something, but not yet how many updates it will make.
UNKNOWN_LENGTH = 2**31


@dataclass(frozen=True)
class RunCurve:
    """A run as its rules see it: `lines` of its training log in order, `total` updates planned.

    Runs with the same `setting` differ in their seed only. `wall_s` is what the run took.
    """

    run: int
    setting: str
    lines: Sequence[LogLine]
    total: int
    state: RunState = RunState.RUNNING
    wall_s: float = 0.0

    @property
    def update(self) -> int:
        """The last update that is logged."""
        return max((update_of(line) for line in self.lines), default=0)

    def points(self, metric: str, until: int | None = None) -> list[tuple[int, float]]:
        """(update, value) of a metric after training began; evaluations on held-out rows only."""
        return [
            (update_of(line), value)
            for line in self.lines
            if (value := finite_number(line.get(metric))) is not None
            and line.get("split", "test") == "test"
            and 0 < update_of(line) <= (self.total if until is None else until)
        ]

    def cut(self, update: int) -> "RunCurve":
        """The run as if it had been stopped after an update."""
        return replace(self, lines=[line for line in self.lines if update_of(line) <= update])


@dataclass(frozen=True)
class Decision:
    """A stop: which run, after which update, by which rule, and the logged values it rests on.

    `reason` is the rule's decision as a sentence for people.
    """

    run: int
    update: int
    code: StopCode
    reason: str
    evidence: str


def curve_of(run: Run, lines: Sequence[Mapping[str, Any]] | None = None) -> RunCurve:
    """A run as the rules see it, from its log as it is now."""
    lines = read_log(run.folder) if lines is None else lines
    totals = [line["updates_total"] for line in lines if isinstance(line.get("updates_total"), int)]
    total = totals[-1] if totals else run.updates_total
    setting = setting_key(run.overrides)
    # A run without any line has come nowhere: any length will do.
    length = total or (UNKNOWN_LENGTH if lines else 1)
    return RunCurve(run.id, setting, lines, length, run.state, run.wall_s)


def update_of(line: LogLine) -> int:
    """The update that a line of the log is about; 0 where it names none."""
    update = line.get("update")
    return update if isinstance(update, int) else 0


def worse(value: float, bound: float, objective: Objective) -> bool:
    """Whether a value of the objective is worse than another."""
    return value < bound if objective.goal == "max" else value > bound


def shown(name: str, value: Any) -> str:
    """A logged value in a message: exact match in percent, as everywhere."""
    number = finite_number(value)
    if number is None:
        return "nan"
    return percent(number) if name == "em" else f"{number:.4g}"
