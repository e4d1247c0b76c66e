"""Sweeps that come from another one's runs: finalists on fresh seeds, forks of a run; pure.

Each is a spec of explicit runs over the frozen base of the first sweep, so that it is read, checked
and kept like any other.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_core.config import format_value
from orchestrator.run import Objective, Run, Sweep
from orchestrator.spec.base_config import FrozenBase
from orchestrator.spec.spec import Spec, parse_spec


def confirm_spec(
    sweep: Sweep, settings: Sequence[Mapping[str, Any]], seeds: Sequence[int], ranks: Sequence[int]
) -> Spec:
    """The finalists of a sweep on fresh seeds, scored on rows that no selection has seen."""
    runs = [
        _table("[[run]]", {**setting, "eval_part": "confirm", "tags": [f"rank {rank}"]})
        for setting, rank in zip(settings, ranks, strict=True)
    ]
    return _spec(sweep, f"{sweep.name}-confirm", [f"seeds = {list(seeds)}"], sweep.objective, runs)


def fork_spec(
    run: Run, sweep: Sweep, update: int, start: Mapping[str, Any], changed: Mapping[str, Any]
) -> Spec:
    """One run that starts from the checkpoint of another, with some values changed."""
    tags = [f"fork of run {run.id} at {update}"]
    values = {**run.overrides, "seed": run.seed, **start, **changed, "tags": tags}
    text = _table("[[run]]", values)
    return _spec(sweep, f"{run.name}-at{update}", [], sweep.objective, [text])


def _spec(
    sweep: Sweep, name: str, top: Iterable[str], objective: Objective, runs: Iterable[str]
) -> Spec:
    judged = {"metric": objective.metric, "goal": objective.goal, "reduce": objective.reduce}
    parts = [f"name = {_value(name)}", *top, "", *runs, _table("[objective]", judged)]
    return parse_spec("\n".join(parts), Path(f"{name}.toml"), (), FrozenBase.of(sweep))


def _table(head: str, values: Mapping[str, Any]) -> str:
    lines = (f"{key} = {_value(value)}" for key, value in values.items())
    return "\n".join([head, *lines, ""])


def _value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, str):
        # JSON's escapes are TOML's, but that TOML escapes DEL too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return format_value(value)
