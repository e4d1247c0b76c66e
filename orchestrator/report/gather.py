"""Everything that a report says about a sweep, read from the queue and the runs' folders.

Reads only; what is missing or torn is left out. How it looks is decided in `sections.py`
and `page.py`.
"""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_core.errors import GRPOError
from grpo_core.run.protocol import INTERVALS
from orchestrator.errors import SweepError
from orchestrator.plan.next_runs import importance_of, spec_of
from orchestrator.queue.store import Store
from orchestrator.results.curves import Bins
from orchestrator.results.illnesses import Illness, find_illnesses
from orchestrator.results.leaderboard import RankedSetting, ranking
from orchestrator.results.objective import Score, completed_scores, differing_keys
from orchestrator.results.series import Clock, RunSeries
from orchestrator.results.stats import mean
from orchestrator.results.training_log import interval_of, read_log
from orchestrator.run import Attempt, Objective, Run, RunState, Sweep
from orchestrator.search.importance import Importance
from orchestrator.space.distributions import Choice, LogInt, LogUniform
from orchestrator.system.paths import Home
from orchestrator.text import UNKNOWN, setting_value, three_digits
from orchestrator.views.run_details import RunDetails, read_details
from orchestrator.worker.launcher import command

# What GRPO people look at; the metric of the objective joins them.
CURVES = ("reward_mean", "em", "eval_reward", "kl", "completion_length", "entropy")


@dataclass(frozen=True)
class Logged:
    """What a run has logged: every metric, how long it had trained at an update, what ails it."""

    curves: Mapping[str, Bins]
    clock: Clock
    illnesses: tuple[Illness, ...]


@dataclass(frozen=True)
class RunFacts:
    """A run with all that the queue knows of it, and what it logged."""

    details: RunDetails
    logged: Logged
    command: str
    """As a shell takes it, from anywhere."""
    shown: Run | None = None
    """The run with other settings and another value, where it is compared with other sweeps'."""

    @property
    def run(self) -> Run:
        """The run itself."""
        return self.shown or self.details.run

    @property
    def attempts(self) -> Sequence[Attempt]:
        """Its attempts, the first one first."""
        return self.details.attempts

    @property
    def illnesses(self) -> tuple[Illness, ...]:
        """What ails it by its log."""
        return self.logged.illnesses

    def curve(self, metric: str) -> Bins:
        """A metric as it was logged; empty where it was not."""
        return self.logged.curves.get(metric, _EMPTY)


_EMPTY = Bins()


@dataclass(frozen=True)
class Facts:
    """A sweep as a report shows it. `keys` are the overrides that differ between its settings.

    `scales` has those that were drawn from a range: whether that is a logarithmic one. `sweeps` are
    those that are shown as one, where there are several.
    """

    sweep: Sweep
    runs: tuple[RunFacts, ...]
    keys: tuple[str, ...]
    rows: tuple[RankedSetting, ...]
    importance: Importance
    scales: Mapping[str, bool] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()

    @property
    def members(self) -> tuple[Sweep, ...]:
        """The sweeps whose runs these are."""
        return self.sweeps or (self.sweep,)

    @property
    def pruned(self) -> tuple[Score, ...]:
        """The runs that a stop rule ended, with what they had reached by then."""
        runs = (facts.run for facts in self.runs if facts.run.state is RunState.PRUNED)
        return tuple(Score(run, run.value) for run in runs if run.value is not None)

    @property
    def objective(self) -> Objective:
        """What the sweep is ranked by."""
        return self.sweep.objective

    @property
    def scores(self) -> tuple[Score, ...]:
        """The ranked runs, best first."""
        sign = -1.0 if self.objective.goal == "max" else 1.0
        found = (score for row in self.rows for score in row.scores)
        return tuple(sorted(found, key=lambda score: sign * score.value))

    @property
    def wall_s(self) -> float:
        """Seconds that all attempts have trained."""
        return math.fsum(facts.run.wall_s for facts in self.runs)

    @property
    def lost_s(self) -> float:
        """Seconds of it that went into runs that failed."""
        failed = (f.run.wall_s for f in self.runs if f.run.state is RunState.FAILED)
        return math.fsum(failed)

    @property
    def before(self) -> float | None:
        """The objective's metric before training, the mean over the runs that measured it."""
        first = (f.curve(self.objective.metric).before for f in self.runs)
        values = [value for value in first if value is not None]
        return mean(values) if values else None

    def label(self, overrides: Mapping[str, Any]) -> str:
        """A setting in words: `learning_rate 1e-5 · num_generations 8`."""
        words = [f"{key} {self.value(key, overrides)}" for key in self.keys if key in overrides]
        return " · ".join(words) or "the base config"

    def value(self, key: str, overrides: Mapping[str, Any]) -> str:
        """The value of a key: three digits of what was drawn, `–` where it is not set."""
        if key not in overrides:
            return UNKNOWN
        value = overrides[key]
        return setting_value(three_digits(value) if key in self.scales else value)


def read_logged(run: Run) -> Logged:
    """What the log of a run says, read anew."""
    lines, series = read_log(run.folder), RunSeries(run.folder)
    series.take(lines)
    return Logged(series.curves, series.clock, tuple(find_illnesses(lines)))


def gather(
    store: Store,
    sweep: Sweep,
    home: Home,
    on_run: Callable[[], None] = lambda: None,
    read: Callable[[Run], Logged] = read_logged,
) -> Facts:
    """Read everything about a sweep; `on_run` is called after each run. Raises QueueError."""
    found = []
    runs = store.queries.runs(sweep.id)
    for run in runs:
        details = read_details(store, run, home)
        found.append(RunFacts(details, read(run), by_hand(run, home)))
        on_run()
    keys = differing_keys(run.overrides for run in runs)
    rows = ranking(completed_scores(runs, sweep.objective), sweep.objective)
    importance = _importance(sweep, found)
    return Facts(sweep, tuple(found), tuple(keys), tuple(rows), importance, _scales(sweep))


def _scales(sweep: Sweep) -> dict[str, bool]:
    """The parameters that the spec draws from a range; none where it cannot be read any more."""
    try:
        parameters = spec_of(sweep).parameters if sweep.spec_text else ()
    except (SweepError, GRPOError):
        return {}
    return {
        parameter.names[0]: isinstance(parameter.domain, LogUniform | LogInt)
        for parameter in parameters
        if not isinstance(parameter.domain, Choice)
    }


def _importance(sweep: Sweep, found: Iterable[RunFacts]) -> Importance:
    """Why there is none, where it cannot be had: the rest of the report stands without it."""
    try:
        return importance_of(sweep, [facts.run for facts in found])
    except (SweepError, GRPOError) as e:
        return Importance(0, reason=str(e).partition("\n")[0])


def by_hand(run: Run, home: Home) -> str:
    """The command that repeats a run, from anywhere."""
    return f"cd {shlex.quote(run.cwd)} && {shlex.join(command(run, home))}"


def evaluation_interval(row: RankedSetting, objective: Objective) -> tuple[float, float] | None:
    """For a setting with one run: the interval of its last evaluation, as the trainer logged it."""
    metrics = row.scores[0].run.metrics if row.n == 1 else {}
    # The interval is that of the last evaluation.
    if metrics.get(objective.metric) != row.mean:
        return None
    return interval_of(metrics.get(INTERVALS.get(objective.metric, "")))
