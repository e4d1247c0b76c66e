"""A run, a sweep and what is known of them, for the tests of what is shown."""

import io
import json
from dataclasses import replace

from rich.console import Console

from orchestrator.queue.eta import Work
from orchestrator.run import (
    END_STATES,
    RunState,
    Share,
)
from orchestrator.views.overview import SweepStatus
from tests.records import a_done_run, a_sweep

RUN = a_done_run(name="r", overrides={"learning_rate": 1e-5}, output_dir="o", metrics={"em": 0.5})
SWEEP = a_sweep(counts={RunState.COMPLETED: 1, RunState.QUEUED: 1})


def logged(tmp_path, *lines, torn=""):
    """A run whose folder holds a training log with these lines."""
    text = "".join(json.dumps(line) + "\n" for line in lines) + torn
    (tmp_path / "training_log.jsonl").write_text(text)
    return replace(RUN, cwd=str(tmp_path), output_dir=".")


def status_of(sweep, runs):
    """What a store would tell about a sweep of these runs."""
    runs = [replace(run, kind=json.dumps(run.overrides.get("num_generations"))) for run in runs]
    shares = [Share(r.state, r.kind, 1, int(r.wall_s > 0), r.wall_s) for r in runs]
    begun = [run for run in runs if run.attempt and run.state not in END_STATES]
    return SweepStatus(sweep, runs, Work(shares, begun))


def drawn(renderable, width=200):
    """What a terminal of that width shows."""
    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    return out.getvalue()
