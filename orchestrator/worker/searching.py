"""Between two runs: a search suggests its next setting, halving promotes or prunes at a rung."""

from orchestrator.errors import SpecError
from orchestrator.queue.store import Store
from orchestrator.run import HoldCode, RunState
from orchestrator.stopping.halving import halving_steps
from orchestrator.worker.events import Event, EventKind, Listener


def suggest_next(store: Store, listen: Listener) -> bool:
    """Let each search of which nothing waits choose its next setting; whether one did."""
    suggested = False
    for sweep in store.queries.awaiting_suggestion():
        # Takes time to load, and only a search needs it.
        from orchestrator.plan.next_runs import next_runs, prepare

        prepare()
        try:
            chosen = store.submissions.suggest(sweep.id, next_runs)
        except SpecError as e:
            store.holds.hold_sweep(sweep.id, HoldCode.SEARCH, f"search: {e}")
            continue
        suggested |= bool(chosen)
        what = chosen[0].name if chosen else "nothing is left to try"
        text = f"sweep {sweep.name}: {sweep.search.method} tries {what}"
        listen(Event(EventKind.SUGGESTED, text))
    return suggested


def promote_from_rungs(store: Store, listen: Listener) -> None:
    """Where all runs of a sweep wait at a rung, let the best go on and prune the others."""
    for sweep in store.queries.at_rung():
        runs = store.queries.runs(sweep.id)
        steps = halving_steps(sweep, runs)
        for run in runs:
            if run.rung is not None and run.id in steps:
                changed = store.claims.leave_rung(run.id, steps[run.id].decision)
                if changed is not None and changed.state is RunState.PRUNED:
                    listen(Event(EventKind.ENDED, f"pruned: {changed.reason}", changed))
