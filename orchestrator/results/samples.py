"""What a run wrote: the completions in its samples.jsonl, with their rewards.

Of its updates, and of its evaluations: these answer the same held-out rows each time. Reads only;
a torn line, or one of another program, is left out.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    held_out: bool = False


@dataclass(frozen=True)
class BeforeAfter:
    """A held-out prompt with the answer to it at a run's first evaluation and at its last.

    They are one where it was evaluated once.
    """

    before: Sample
    after: Sample


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


def read_before_after(folder: Path) -> tuple[BeforeAfter, ...]:
    """The held-out rows that a run answered at its first evaluation and at its last."""
    after = {sample.prompt: sample for sample in _latest(folder, True)}
    before = _first(folder, True)
    return tuple(BeforeAfter(s, after[s.prompt]) for s in before if s.prompt in after)


def samples_of(folder: Path) -> Iterator[Sample]:
    """Every completion that a run has kept, in its order; none where there is no file."""
    try:
        with open(RunPaths(folder).samples, encoding="utf-8", errors="replace") as file:
            yield from filter(None, map(_sample, file))
    except OSError:
        return


def first_samples(folder: Path) -> tuple[Sample, ...]:
    """The completions of the first logged update."""
    return _first(folder, False)


def latest_samples(folder: Path) -> tuple[Sample, ...]:
    """The completions of the last logged update, as far as the end of the file holds them."""
    return _latest(folder, False)


def _first(folder: Path, held_out: bool) -> tuple[Sample, ...]:
    found: list[Sample] = []
    try:
        with open(RunPaths(folder).samples, encoding="utf-8", errors="replace") as file:
            for sample in _samples(file, held_out):
                if found and sample.update != found[0].update:
                    break
                found.append(sample)
    except OSError:
        return ()
    return tuple(found)


def _latest(folder: Path, held_out: bool, limit: int = 256 * 1024) -> tuple[Sample, ...]:
    try:
        with open(RunPaths(folder).samples, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    found = list(_samples(text.split("\n")[:-1], held_out))
    return tuple(sample for sample in found if sample.update == found[-1].update)


def _samples(lines: Iterable[str], held_out: bool) -> Iterator[Sample]:
    """Those of one kind; of the other most lines are not read closely."""
    for raw in lines:
        if held_out and '"split"' not in raw:
            continue
        sample = _sample(raw)
        if sample is not None and sample.held_out is held_out:
            yield sample


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
            held_out="split" in line,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None  # A torn last line, or one of another program.


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _different(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    unique = {(sample.prompt, sample.completion): sample for sample in samples}
    return tuple(unique.values())[:most]
