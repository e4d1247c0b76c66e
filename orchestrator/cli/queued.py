"""What the commands say that have queued a sweep."""

from collections.abc import Mapping, Sequence

from orchestrator.cli.output import print_json, say
from orchestrator.plan.expand import Expansion
from orchestrator.run import Run, Sweep
from orchestrator.views.json_shapes import submit_shape
from orchestrator.views.plan import expansion_text, recognised_text


def _rewards(run: Run, expansion: Expansion) -> Sequence[str]:
    base = expansion.spec.base.config
    found: Sequence[str] = run.overrides.get("rewards") or (base.rewards if base else [])
    return found


def print_queued(
    expansion: Expansion,
    sweep: Sweep,
    runs: Sequence[Run],
    as_json: bool,
    known: Mapping[str, int],
) -> None:
    """What was queued: the sweep and its runs as data, the rest as messages."""
    if as_json:
        print_json(submit_shape(sweep.name, sweep.id, [(r.id, r.name, r.set) for r in runs]))
    else:
        ids = str(runs[0].id) if len(runs) == 1 else f"{runs[0].id}-{runs[-1].id}"
        print(f"queued sweep {sweep.name} (runs {ids}): {expansion_text(expansion)}")
    if known:
        words = recognised_text(known)
        say(f"{words}; what is done is shown and not trained again (--again would)")
        # What decides on a result and cannot be compared is said, where it may have changed.
        if "done" in known and any(
            ":" in item for run in runs for item in _rewards(run, expansion)
        ):
            say("what a reward of yours reads or imports only while it runs was not compared")
    if sweep.name != expansion.spec.name:
        say(f"the name {expansion.spec.name} is in use, so this one is {sweep.name}")
