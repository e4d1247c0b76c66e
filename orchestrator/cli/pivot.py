"""`status --by`: the objective of a sweep by the values of the parameters that were swept."""

from collections.abc import Sequence

from grpo_core.config import did_you_mean
from orchestrator.cli.output import console, print_json, say
from orchestrator.errors import UsageError
from orchestrator.queue.store import Store
from orchestrator.results.objective import by_metric
from orchestrator.results.pivot import binned, cells
from orchestrator.run import Judged, Run, Sweep
from orchestrator.spec.base_config import base_values
from orchestrator.views.pivot import pivot_shape, pivot_table
from orchestrator.views.results import no_result_words


def print_pivot(ref: str, keys: Sequence[str], metric: str | None, as_json: bool) -> None:
    """Print the objective of a sweep by one or two parameters, as a table or as JSON."""
    with Store.open(readonly=True) as store:
        sweep = store.queries.sweep(ref)
        judged: Sequence[Judged | Run] = store.queries.judged(sweep.id)
        _check(sweep, keys, judged)
        if metric is not None:
            sweep, judged = by_metric(sweep, store.queries.runs(sweep.id), metric)
        missing = [key for key in keys if any(key not in run.overrides for run in judged)]
        base = base_values(sweep, missing)
        shown = judged if as_json else binned(judged, keys, base)
        found = cells(shown, keys, base, sweep.objective)
        empty = all(cell.mean is None for cell in found)
        why = no_result_words(sweep, store.queries.runs(sweep.id)) if empty else ""
    if as_json:
        print_json(pivot_shape(sweep.objective, keys, found))
        return
    console().print(pivot_table(sweep.objective, keys, found))
    say(why or "* the best mean; ± half of the 95% interval; n runs, over all other parameters")


def _check(sweep: Sweep, keys: Sequence[str], runs: Sequence[Judged | Run]) -> None:
    """UsageError unless one or two parameters are named, each of them set by a run."""
    if len(keys) > 2 or len(set(keys)) < len(keys):
        raise UsageError(f"--by {' --by '.join(keys)}: name one or two parameters, each once")
    swept = dict.fromkeys(name for run in runs for name in run.overrides)
    if any(run.seed is not None for run in runs):
        swept["seed"] = None
    for key in keys:
        if key not in swept:
            near = did_you_mean(key, swept) or f"; it sets: {', '.join(swept) or 'nothing'}"
            raise UsageError(f"--by {key}: no run of sweep {sweep.name} sets it{near}")
