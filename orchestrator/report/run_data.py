"""The runs of a sweep as data for the report's table, and all about each for when it is opened."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.report.gather import Facts, RunFacts
from orchestrator.report.shapes import MOST_CHARS, row_shape, run_shape
from orchestrator.results.objective import run_value
from orchestrator.results.samples import read_before_after, read_samples
from orchestrator.run import RunState
from orchestrator.worker.attempt_log import read_tail

Shape = dict[str, Any]

# The completions of all runs in one file, early and late and held-out ones; of each run's log end.
_CHARS_IN_ALL = 6_000_000
_CHARS_LEAST = 200
_TEXTS_A_RUN = 16
_TAIL_BYTES = 3000


def table_data(facts: Facts) -> Shape:
    """The table of runs: what is swept in columns, by which it is sorted and filtered."""
    objective = facts.objective
    return {
        "keys": list(facts.keys),
        "metric": objective.metric,
        "goal": objective.goal,
        "tagged": any(run.run.tags for run in facts.runs),
        "runs": [
            row_shape(
                run.run,
                facts.keys,
                objective.metric,
                run_value(run.run, objective),
                run.details.progress,
                run.illnesses,
            )
            for run in facts.runs
        ],
    }


def details_data(facts: Facts) -> Shape:
    """Everything about each run, by its id; of very many runs the completions are cut shorter."""
    room = _CHARS_IN_ALL // max(1, len(facts.runs) * _TEXTS_A_RUN)
    most = min(MOST_CHARS, max(_CHARS_LEAST, room))
    return dict(_details(facts, most))


def _details(facts: Facts, most_chars: int) -> Iterator[tuple[str, Shape]]:
    for run in facts.runs:
        folder = run.run.folder
        yield (
            str(run.run.id),
            run_shape(
                run.details,
                run.command,
                _tail(run),
                read_samples(folder),
                read_before_after(folder),
                list(run.logged.curves),
                run.illnesses,
                most_chars,
            ),
        )


def _tail(run: RunFacts) -> str:
    """The end of the log of what failed; the others' say nothing that is not shown."""
    if run.run.state is not RunState.FAILED or not run.attempts:
        return ""
    return read_tail(Path(run.attempts[-1].log), _TAIL_BYTES)
