"""Where two runs differ: settings, packages, what they logged, and the first completion.

Reads the runs' folders only, both in one pass, and stops at the first difference; what is missing
or torn is left out. How it looks is decided in `run_diff_lines.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from orchestrator.results.samples import Sample, samples_of
from orchestrator.results.training_log import (
    NOT_MEASURED,
    Line,
    finite_number,
    is_held_out,
    read_log,
    read_versions,
)
from orchestrator.run import Run, Sweep
from orchestrator.spec.base_config import base_settings

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class LogDifference:
    """The first update at which two logs differ, and in which metrics; times and memory aside."""

    update: int
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class CompletionDifference:
    """The first completion that the two wrote otherwise.

    To the same prompt, if there is one that both had.
    """

    one: Sample
    other: Sample

    @property
    def same_prompt(self) -> bool:
        """Whether both answer one prompt."""
        return self.one.prompt == self.other.prompt


@dataclass(frozen=True)
class RunDiff:
    """Where two runs differ. `metrics` are the last values of all that both or one has logged."""

    settings: Mapping[str, Pair]
    versions: Mapping[str, Pair]
    metrics: Mapping[str, Pair]
    log: LogDifference | None
    completion: CompletionDifference | None


def diff_runs(one: tuple[Run, Sweep], other: tuple[Run, Sweep]) -> RunDiff:
    """Compare two runs, each given with its sweep; ConfigError where a base is unreadable."""
    first, second = one[0], other[0]
    logs = _by_update(read_log(first.folder)), _by_update(read_log(second.folder))
    return RunDiff(
        settings=_differing(_settings(*one), _settings(*other)),
        versions=_differing(read_versions(first.folder), read_versions(second.folder)),
        metrics=_last_values(*logs),
        log=_log_difference(*logs),
        completion=_completion_difference(first.folder, second.folder),
    )


def _settings(run: Run, sweep: Sweep) -> dict[str, Any]:
    """Every field as the run has it: its base, what the sweep sets, and its seed."""
    seed = {} if run.seed is None else {"seed": run.seed}
    return {**base_settings(sweep), **run.overrides, **seed}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Pair]:
    keys = dict.fromkeys((*one, *other))
    pairs = {key: (one.get(key), other.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


# --- what they logged

_ByUpdate = Mapping[int, Line]


def _by_update(lines: list[Line]) -> _ByUpdate:
    """All measures at each update, those of its evaluations among them."""
    found: dict[int, Line] = {}
    for line in lines:
        update = line.get("update")
        if isinstance(update, int) and is_held_out(line):
            found.setdefault(update, {}).update(line)
    return found


def _is_of_the_machine(name: str) -> bool:
    """Times and memory: no two runs share these."""
    return name.endswith(("_s", "_bytes"))


def _numbers(line: Line) -> Line:
    return {
        key: value
        for key, value in line.items()
        if key not in NOT_MEASURED and finite_number(value) is not None
    }


def _last_values(one: _ByUpdate, other: _ByUpdate) -> dict[str, Pair]:
    last: tuple[Line, Line] = ({}, {})
    for found, log in zip(last, (one, other), strict=True):
        for update in sorted(log):
            found.update(_numbers(log[update]))
    keys = dict.fromkeys((*last[0], *last[1]))
    return {key: (last[0].get(key), last[1].get(key)) for key in keys}


def _log_difference(one: _ByUpdate, other: _ByUpdate) -> LogDifference | None:
    """At an update that both have logged."""
    for update in sorted(one.keys() & other.keys()):
        a, b = one[update], other[update]
        keys = [
            key
            for key in _numbers(a)
            if a[key] != b.get(key, a[key]) and not _is_of_the_machine(key)
        ]
        if keys:
            return LogDifference(update, tuple(keys))
    return None


# --- what they wrote


def _completion_difference(one: Path, other: Path) -> CompletionDifference | None:
    found = None
    for a, b in _side_by_side(one, other):
        by_prompt: dict[tuple[str, bool], list[Sample]] = {}
        for sample in b:
            by_prompt.setdefault((sample.prompt, sample.held_out), []).append(sample)
        for sample in a:
            same = by_prompt.get((sample.prompt, sample.held_out), [])
            against = same.pop(0) if same else None
            if against is not None and against.completion != sample.completion:
                return CompletionDifference(sample, against)
        if found is None and a and b and a[0].prompt != b[0].prompt:
            found = CompletionDifference(a[0], b[0])
    return found


def _side_by_side(one: Path, other: Path) -> Iterator[tuple[list[Sample], list[Sample]]]:
    """The completions of each update that both have kept some of."""
    rows = [groupby(samples_of(folder), key=lambda s: s.update) for folder in (one, other)]
    now = [next(row, None) for row in rows]
    while now[0] is not None and now[1] is not None:
        (a, left), (b, right) = now[0], now[1]
        if a == b:
            yield list(left), list(right)
        for i, ahead in enumerate((a > b, b > a)):
            if not ahead:
                now[i] = next(rows[i], None)
