"""Learning curves as data: the pages' script draws them, alone or in groups with a band (parts.js).

A metric of many runs stands on common bins of updates, so that a group's mean is over like with
like. The report holds every metric of every run, so its points are counted out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.colours import SHAPES
from orchestrator.report.draw import rounded
from orchestrator.report.gather import CURVES, Facts
from orchestrator.report.groups import Grouping, groupings
from orchestrator.results.curves import Bins, align, only_value
from orchestrator.results.series import Clock
from orchestrator.run import Run
from orchestrator.text import metric as metric_text
from orchestrator.text import plural

Shape = dict[str, Any]

# A screen shows no more points of a curve.
POINTS = 256
# The points of all curves in one file: 1,000 runs of 18 metrics get 30 each, which is some 7 MB.
_POINTS_IN_ALL = 550_000
_POINTS_LEAST = 24

# Metric -> (title, what it is).
TITLES = {
    "reward_mean": ("Reward", "mean of the completions"),
    "em": ("Exact match", "held-out rows"),
    "eval_reward": ("Held-out reward", "mean of the answers to held-out rows"),
    "kl": ("KL", "to the reference, nats a token"),
    "completion_length": ("Completion length", "tokens"),
    "entropy": ("Entropy", "nats a token"),
}


@dataclass(frozen=True)
class CurveOf:
    """A metric of one run, and its clock."""

    run: Run
    bins: Bins
    clock: Clock


def metric_shape(name: str, curves: Sequence[CurveOf], points: int) -> Shape:
    """A metric of some runs on common bins: `x` updates, `y`, and `t` the seconds trained there."""
    about, placed = _placed(name, curves, points)
    runs = [
        {"id": curve.run.id, "name": curve.run.name, "x": xs, "y": ys, "t": _times(curve, xs)}
        for curve, (xs, ys) in zip(curves, placed, strict=True)
    ]
    return {**about, "runs": runs}


def _times(curve: CurveOf, xs: Iterable[float]) -> list[float]:
    return [curve.clock.at(x) for x in xs]


def _placed(
    name: str, curves: Sequence[CurveOf], points: int
) -> tuple[Shape, list[tuple[list[float], list[float]]]]:
    """What a metric is, and for every run its updates and values."""
    thinned = align([curve.bins for curve in curves], points)
    numbers = set[int]().union(*thinned.runs)
    middle = {number: thinned.middle(number) for number in numbers}
    placed = []
    for bins in thinned.runs:
        order = sorted(bins)
        placed.append(
            ([middle[number] for number in order], rounded(bins[number] for number in order))
        )
    return _about(name, [curve.bins for curve in curves], thinned.width), placed


def _about(name: str, curves: Iterable[Bins], width: int) -> Shape:
    """What a metric is, and the words for it; `flat` where words are all that there is to show."""
    title, unit = TITLES.get(name, (name, ""))
    logged = [bins for bins in curves if bins]
    ends = [end for bins in logged if (end := bins.end) is not None]
    note, summary = "", ""
    if not ends:
        note = "not logged"
    elif (value := only_value(logged)) is not None:
        note = f"{metric_text(name, value).removesuffix('.0')} in every run, at every update"
        if name == "kl" and value == 0:
            note += "; with kl_coeff = 0 there is no reference"
    else:
        low, high = metric_text(name, min(ends)), metric_text(name, max(ends))
        summary = f"{title} over updates of {plural(len(ends), 'run')}: {low} to {high} at the end."
        note = f"each point is the mean of {width} updates" if width > 1 else ""
    return {
        "metric": name,
        "title": title,
        "unit": unit,
        "note": note,
        "summary": summary,
        "flat": not summary,
    }


# --- the whole of a sweep, for a file


def curve_data(facts: Facts) -> Shape:
    """Every metric of every run: `of` has [number of its grid, values] by the run's id.

    `grids` are the updates on which curves stand, `times` by run and grid the seconds there.
    """
    names = metric_names(facts)
    room = _POINTS_IN_ALL // max(1, len(facts.runs) * len(names))
    points = min(POINTS, max(_POINTS_LEAST, room))
    grids: dict[tuple[float, ...], int] = {}
    times: dict[int, dict[int, list[float]]] = {facts_.run.id: {} for facts_ in facts.runs}
    metrics = {}
    for name in names:
        curves = [CurveOf(run.run, run.curve(name), run.logged.clock) for run in facts.runs]
        about, placed = _placed(name, curves, points)
        of = {}
        for curve, (xs, ys) in zip(curves, placed, strict=True):
            if not xs:
                continue
            grid = grids.setdefault(tuple(xs), len(grids))
            at = times[curve.run.id]
            if grid not in at:
                at[grid] = _times(curve, xs)
            of[curve.run.id] = [grid, ys]
        metrics[name] = {**about, "of": of}
    return {
        "grids": list(grids),
        "times": times,
        "metrics": metrics,
        **curve_panels(facts),
    }


def metric_names(facts: Facts) -> list[str]:
    """Every metric that a run has logged: those that people look at first, then in logged order."""
    logged = dict.fromkeys(name for run in facts.runs for name in run.logged.curves)
    first = (*CURVES, facts.objective.metric)
    return list(dict.fromkeys((*(name for name in first if name in logged), *logged)))


def curve_panels(facts: Facts) -> Shape:
    """Which metrics are shown at first, and how runs can be put together."""
    logged = {name for run in facts.runs for name in run.logged.curves}
    first = [name for name in CURVES if name in logged]
    return {
        "panels": list(dict.fromkeys((*first, facts.objective.metric))),
        "groupings": [_grouping(grouping, facts) for grouping in groupings(facts)],
    }


def _grouping(grouping: Grouping, facts: Facts) -> Shape:
    def ids(members: Iterable[int]) -> list[int]:
        return [facts.runs[member].run.id for member in members]

    return {
        "name": grouping.name,
        "groups": [
            {
                "label": group.label,
                "colour": group.colour,
                "symbol": group.shape,
                "mark": SHAPES[group.shape],
                "runs": ids(group.members),
            }
            for group in grouping.groups
        ],
        "others": [ids(members) for members in grouping.others],
    }
