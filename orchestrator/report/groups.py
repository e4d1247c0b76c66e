"""Which runs share a curve: those of a setting, or all with one value of a key; pure."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.colours import CATEGORIES, ORDERED, SHAPES, spread_over
from orchestrator.report.gather import Facts
from orchestrator.results.objective import setting_key
from orchestrator.text import setting_value

# More values of a key than these cannot be distinguished by colour.
_GROUPS_UP_TO = 12


@dataclass(frozen=True)
class RunGroup:
    """Runs that share a curve; `members` are their positions in the facts.

    `shape` is what plotly calls the mark of its points.
    """

    label: str
    colour: str
    members: tuple[int, ...]
    shape: str = "circle"


@dataclass(frozen=True)
class Grouping:
    """A way to put runs together; `others` are drawn in grey, each by itself, without a legend."""

    name: str
    groups: tuple[RunGroup, ...]
    others: tuple[tuple[int, ...], ...] = ()


def groupings(facts: Facts) -> list[Grouping]:
    """By setting, then by each key that puts settings together into few enough groups."""
    started = [i for i, run in enumerate(facts.runs) if run.logged.curves]
    by_setting = _by_setting(facts, started)
    settings = len(by_setting.groups) + len(by_setting.others)
    by_key = [_by_key(facts, key, started) for key in facts.keys]
    useful = [g for g in by_key if 1 < len(g.groups) <= _GROUPS_UP_TO and len(g.groups) < settings]
    return [by_setting, *useful]


def _by_setting(facts: Facts, started: Sequence[int]) -> Grouping:
    """The best settings in colour; what is not ranked comes last, in the order of the sweep."""
    by_setting: dict[str, list[int]] = {setting_key(row.params): [] for row in facts.rows}
    for i in started:
        by_setting.setdefault(setting_key(facts.runs[i].run.overrides), []).append(i)
    settings = [tuple(members) for members in by_setting.values() if members]
    groups = tuple(
        RunGroup(facts.label(facts.runs[members[0]].run.overrides), colour, members, shape)
        for members, colour, shape in zip(settings, CATEGORIES, SHAPES, strict=False)
    )
    return Grouping("setting", groups, tuple(settings[len(groups) :]))


def _by_key(facts: Facts, key: str, started: Sequence[int]) -> Grouping:
    members: dict[str, list[int]] = {}
    for i in started:
        value = json.dumps(facts.runs[i].run.overrides.get(key))
        members.setdefault(value, []).append(i)
    values = [json.loads(text) for text in members]
    ordered = is_numeric(values)
    by_order = sorted(members, key=json.loads if ordered else str)
    few = len(members) <= len(CATEGORIES) and not ordered
    colours = CATEGORIES if few else spread_over(ORDERED, len(members))
    groups = (
        RunGroup(level_text(json.loads(text)), colour, tuple(members[text]), shape)
        for text, colour, shape in zip(by_order, colours, itertools.cycle(SHAPES), strict=False)
    )
    return Grouping(key, tuple(groups))


def level_text(value: Any) -> str:
    """A value of a key as the figures write it."""
    return "not set" if value is None else setting_value(value)


def is_numeric(values: Iterable[Any]) -> bool:
    """Whether all are numbers, so that they have an order."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
