"""A sweep's spec as submitted, read again over its runs: what to try next, and what mattered.

Pure functions of the sweep's row and its runs, so that a worker that dies in between changes
nothing. The transaction is handled in `queue/`, the worker decides when to ask.
"""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import SpecError, UsageError
from orchestrator.plan.draw import Sampler
from orchestrator.plan.expand import differing_names
from orchestrator.plan.provenance import identified
from orchestrator.plan.runs import Taken, planned_runs
from orchestrator.run import PlannedRun, Run, RunState, Sweep
from orchestrator.search.importance import Importance, importance
from orchestrator.search.tpe import load_optuna
from orchestrator.search.trials import Trial
from orchestrator.spec.base_config import FrozenBase
from orchestrator.spec.document import Faults
from orchestrator.spec.reader import parse_spec
from orchestrator.spec.spec import Spec


def prepare() -> None:
    """Load what takes time, before a transaction is opened."""
    load_optuna()


def spec_of(sweep: Sweep) -> Spec:
    """The spec of a sweep as it was submitted, over its frozen base; SpecError."""
    path, overrides = Path(sweep.submitted.source), sweep.submitted.overrides
    spec = parse_spec(sweep.spec_text, path, overrides, FrozenBase.of(sweep))
    if spec.faults.found:
        raise SpecError(*spec.faults.lines())
    return spec


def next_runs(sweep: Sweep, runs: Sequence[Run]) -> list[PlannedRun]:
    """The runs of the next setting, one a seed; none where all has been tried. SpecError."""
    spec = spec_of(sweep)
    sampler = Sampler.of(spec)
    drawn = sampler.draw([trial(run, spec) for run in runs], 1)
    settings = [sampler.setting(dict(setting)) for setting in drawn.settings]
    faults = Faults(spec.source)
    taken = Taken(frozenset(run.name for run in runs), frozenset(run.output_dir for run in runs))
    names = differing_names(spec, settings)
    planned = list(planned_runs(spec, settings, names, sweep.name, faults, taken))
    if faults.found:
        raise SpecError(*faults.lines())
    return identified(planned, sweep, sweep.provenance)


def trial(run: Run, spec: Spec) -> Trial:
    """A run as a search sees it: its setting, how it ended, and its objective."""
    seed = {} if spec.seeds else {"seed": run.seed}
    pruned = run.state is RunState.PRUNED and run.value is not None
    return Trial(
        {**run.overrides, **seed},
        run.state,
        run.value,
        {run.update or 0: run.value} if pruned and run.value is not None else {},
    )


def importance_of(sweep: Sweep, runs: Sequence[Run]) -> Importance:
    """The importance of each parameter that a sweep's spec moves, for its objective.

    Raises SpecError where the spec can no longer be read, UsageError where it moves nothing.
    """
    spec = spec_of(sweep) if sweep.spec_text else None
    if spec is None or not spec.parameters:
        raise UsageError(f"sweep {sweep.name}: its spec moves no parameter")
    sampler = Sampler.of(spec)
    trials = [trial(run, spec) for run in runs]
    return importance(sampler.space, sampler.rules, trials, sweep.objective.goal)
