"""What a run wrote while it trained: the completions in its samples.jsonl, with their rewards.

Reads only; a torn line, or one of another program, is left out.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.system.paths import RunPaths


@dataclass(frozen=True)
class Sample:
    """A completion that a run drew at an update, and what it was worth."""

    update: int
    prompt: str
    completion: str
    answer: str
    reward: float | None
    rewards: Mapping[str, float]


@dataclass(frozen=True)
class Samples:
    """Completions of a run from its first and its last logged update."""

    early: tuple[Sample, ...]
    late: tuple[Sample, ...]


def read_samples(folder: Path, most: int = 2) -> Samples:
    """At most `most` different completions of the first and of the last logged update."""
    head: list[Sample] = []
    tail: deque[Sample] = deque(maxlen=16)
    for sample in _samples(RunPaths(folder).samples):
        if not head or sample.update == head[0].update:
            head.append(sample)
        tail.append(sample)
    last = tail[-1].update if tail else 0
    late = [sample for sample in tail if sample.update == last]
    early = _different(head, most)
    return Samples(early, () if head and last == head[0].update else _different(late, most))


def _samples(path: Path) -> Iterable[Sample]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            yield from (sample for raw in file if (sample := _sample(raw)) is not None)
    except OSError:
        return


def _sample(raw: str) -> Sample | None:
    try:
        line = json.loads(raw)
        rewards = line.get("rewards") or {}
        return Sample(
            update=int(line["update"]),
            prompt=str(line.get("prompt", "")),
            completion=str(line["completion"]),
            answer=str(line.get("answer", "")),
            reward=_number(line.get("reward")),
            rewards={str(key): float(value) for key, value in rewards.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # A torn last line, or one of another program.


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _different(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    unique = {(sample.prompt, sample.completion): sample for sample in samples}
    return tuple(unique.values())[:most]
