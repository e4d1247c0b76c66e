"""Several sweeps as one: their runs in one table and one ranking, with the sweep as a parameter.

What a sweep sets is beside its own base: of two sweeps a setting is the same where both come to the
same values, so each run gets the values of all that any of them sets, or whose bases differ.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.report.gather import Facts, RunFacts
from orchestrator.results.leaderboard import ranking
from orchestrator.results.objective import completed_scores, differing_keys, value_by
from orchestrator.run import Objective, RunState, Sweep
from orchestrator.search.importance import Importance
from orchestrator.spec.base_config import base_settings


def together(facts: Sequence[Facts]) -> Facts:
    """The facts of some sweeps as those of one, ranked by the objective of the first.

    Raises ConfigError where the base of one cannot be read any more.
    """
    sweeps = [each.sweep for each in facts]
    objective = sweeps[0].objective
    bases = [base_settings(sweep) for sweep in sweeps]
    keys = _settings(facts, bases)
    runs = [
        _joined(run, base, keys, objective)
        for each, base in zip(facts, bases, strict=True)
        for run in each.runs
    ]
    found = [run.run for run in runs]
    scales = {key: scale for each in facts for key, scale in each.scales.items()}
    return Facts(
        sweep=_one_sweep(sweeps, objective),
        runs=tuple(runs),
        keys=tuple(differing_keys(run.overrides for run in found)),
        rows=tuple(ranking(completed_scores(found, objective), objective)),
        importance=Importance(0, reason="of several sweeps; the report of each one has its own"),
        scales=scales,
        sweeps=tuple(sweeps),
    )


def _settings(facts: Iterable[Facts], bases: Sequence[Mapping[str, Any]]) -> list[str]:
    """What any run sets, and what the bases say differently."""
    keys = dict.fromkeys(key for each in facts for run in each.runs for key in run.run.overrides)
    differing = [key for key in bases[0] if any(base[key] != bases[0][key] for base in bases)]
    return [key for key in (*keys, *differing) if key != "seed"]


def _joined(
    facts: RunFacts, base: Mapping[str, Any], keys: Iterable[str], objective: Objective
) -> RunFacts:
    run = facts.run
    own = {key: run.overrides.get(key, base.get(key)) for key in keys}
    joined = replace(run, overrides={"sweep": run.sweep, **own})
    if facts.details.sweep.objective != objective and run.state is not RunState.RUNNING:
        joined = replace(joined, value=value_by(run, objective))
    return replace(facts, shown=joined)


def _one_sweep(sweeps: Sequence[Sweep], objective: Objective) -> Sweep:
    counts: Counter[RunState] = Counter()
    for sweep in sweeps:
        counts.update(sweep.counts)
    return replace(
        sweeps[0],
        name=" + ".join(sweep.name for sweep in sweeps),
        counts=dict(counts),
        to_ask=sum(sweep.to_ask for sweep in sweeps),
        # Held is one sweep, not all of them.
        paused=all(sweep.paused for sweep in sweeps),
        reason="; ".join(f"{s.name}: {s.reason}" for s in sweeps if s.paused and s.reason) or None,
        objective=objective,
    )


def other_objectives(facts: Sequence[Facts]) -> list[Sweep]:
    """The sweeps that go by another objective than the first, by which they are ranked here."""
    return [each.sweep for each in facts if each.sweep.objective != facts[0].sweep.objective]
