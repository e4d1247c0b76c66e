"""What a run wrote while it trained: the completions in its samples.jsonl, with their rewards.

Reads only; a torn line, or one of another program, is left out.
"""

import json
import os
from collections.abc import Mapping, Sequence
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
    early, late = first_samples(folder), latest_samples(folder)
    if early and late and early[0].update == late[0].update:
        late = ()
    return Samples(_different(early, most), _different(late, most))


def first_samples(folder: Path) -> tuple[Sample, ...]:
    """The completions of the first logged update."""
    found: list[Sample] = []
    try:
        with open(RunPaths(folder).samples, encoding="utf-8", errors="replace") as file:
            for sample in filter(None, map(_sample, file)):
                if found and sample.update != found[0].update:
                    break
                found.append(sample)
    except OSError:
        return ()
    return tuple(found)


def latest_samples(folder: Path, limit: int = 256 * 1024) -> tuple[Sample, ...]:
    """The completions of the last logged update, as far as the end of the file holds them."""
    try:
        with open(RunPaths(folder).samples, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    found = [sample for raw in text.split("\n")[:-1] if (sample := _sample(raw)) is not None]
    return tuple(sample for sample in found if sample.update == found[-1].update)


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
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None  # A torn last line, or one of another program.


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _different(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    unique = {(sample.prompt, sample.completion): sample for sample in samples}
    return tuple(unique.values())[:most]
