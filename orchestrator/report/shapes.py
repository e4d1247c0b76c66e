"""What the report and the live page say of a run: a row of the table of runs, and all about one.

JSON for their scripts (docs/ui.md): texts as people read them, numbers where it sorts. Pure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grpo_core.terminal import CONTROL
from orchestrator.results.illnesses import Illness
from orchestrator.results.samples import BeforeAfter, Sample, Samples
from orchestrator.results.slowdown import Slowdown
from orchestrator.run import Attempt, Progress, Run
from orchestrator.text import clock, duration, metric, setting_value
from orchestrator.views.json_shapes import attempt_shape
from orchestrator.views.overview import updates_text
from orchestrator.views.run_details import RunDetails, state_text

Shape = dict[str, Any]

# Colours and cursor moves that a trainer or a library prints for terminals.
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)")
# A longer text is cut in its middle: a page is for looking, and the files hold it all.
MOST_CHARS = 6000


# --- a row of the table


def row_shape(
    run: Run,
    keys: Sequence[str],
    name: str,
    value: float | None,
    known: Progress,
    ill: Sequence[Illness] = (),
) -> Shape:
    """A run in the table; `value` is what it reached by the metric of that name."""
    return {
        "id": run.id,
        "name": run.name,
        "state": str(run.state),
        "reason": clean(run.reason or ""),
        "ill": [str(illness) for illness in ill],
        "values": [_cell(run.overrides, key) for key in keys],
        "seed": run.seed,
        "tags": list(run.tags),
        "update": known.update,
        "progress": updates_text(known),
        "value": value,
        "value_text": metric(name, value),
        "wall_s": round(run.wall_s, 1),
        "time": duration(run.wall_s or None),
    }


def _cell(overrides: Mapping[str, Any], key: str) -> Any:
    """A number as it is, so that it sorts; anything else as text; null where it is not set."""
    value = overrides.get(key)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return setting_value(value)


def pairs(settings: Mapping[str, Any]) -> list[list[str]]:
    """Settings as [key, value]."""
    return [[key, setting_value(value)] for key, value in settings.items()]


# --- a run


def run_shape(
    details: RunDetails,
    command: str,
    tail: str,
    samples: Samples,
    held_out: Iterable[BeforeAfter],
    metrics: Sequence[str],
    warnings: Sequence[Slowdown | Illness],
    most_chars: int = MOST_CHARS,
) -> Shape:
    """Everything about one run; its completions are cut to so many characters."""
    run = details.run
    return {
        "id": run.id,
        "name": run.name,
        "sweep": run.sweep,
        "sweep_id": run.sweep_id,
        "state": str(run.state),
        "state_text": clean(state_text(details)),
        "waits_for": list(details.waits_for),
        "warnings": [str(warning) for warning in warnings],
        "seed": run.seed,
        "tags": list(run.tags),
        "settings": [
            [key, setting_value(value), _base_text(details.base, key)]
            for key, value in run.overrides.items()
        ],
        "progress": updates_text(details.progress),
        "trained": duration(run.wall_s or None),
        "objective": details.sweep.objective.metric,
        "metrics": list(metrics),
        "last": [
            [key, metric(key, value)]
            for key, value in details.progress.metrics.items()
            if isinstance(value, int | float) and key not in ("update", "updates_total")
        ],
        "folder": str(run.folder),
        "folder_gone": run.attempt > 0 and not run.folder.is_dir(),
        "command": command,
        "attempts": [_attempt(attempt) for attempt in details.attempts],
        "history": [[clock(e.at), e.kind, clean(e.text)] for e in details.history][-30:],
        "tail": clean(tail),
        "early": [sample_shape(sample, most_chars) for sample in samples.early],
        "late": [sample_shape(sample, most_chars) for sample in samples.late],
        "held_out": [
            {
                "before": sample_shape(pair.before, most_chars),
                "after": sample_shape(pair.after, most_chars),
            }
            for pair in held_out
        ],
    }


def _base_text(base: Mapping[str, Any], key: str) -> str | None:
    return setting_value(base[key]) if key in base else None


def _attempt(attempt: Attempt) -> Shape:
    return {
        **attempt_shape(attempt),
        "reason": clean(attempt.reason or ""),
        "evidence": clean(attempt.evidence or ""),
        "from": clock(attempt.started),
        "to": None if attempt.ended is None else clock(attempt.ended),
        "checkpoint": attempt.checkpoint if attempt.checkpoint > 0 else None,
        "changed": list(attempt.changed),
    }


def sample_shape(sample: Sample, most_chars: int = MOST_CHARS) -> Shape:
    """A completion with its rewards."""
    return {
        "update": sample.update,
        "prompt": cut(sample.prompt, most_chars),
        "completion": cut(sample.completion, most_chars),
        "answer": cut(sample.answer, most_chars),
        "reward": None if sample.reward is None else f"{sample.reward:g}",
        "parts": [[name, f"{value:g}"] for name, value in sample.rewards.items()],
    }


# --- text


def clean(text: str) -> str:
    """A text without what only a terminal understands; line breaks and tabs stay."""
    return CONTROL.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def cut(text: str, most: int = MOST_CHARS) -> str:
    """A long text without its middle."""
    text = clean(text)
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"
