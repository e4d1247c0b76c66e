"""How the objective depends on the parameters: together, one at a time, and by weight.

Parallel coordinates are drawn as lines, not by plotly's own trace for them: that one needs WebGL,
which virtual machines and printers lack, and cannot be reached by keyboard.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from orchestrator.report.axes import Axis, axis_of, objective_axis, tick_text
from orchestrator.report.colours import ACCENT, MUTED, RISING, STRONG, rgba
from orchestrator.report.draw import bare_figure, literal, rounded, run_hover, value_axis
from orchestrator.report.gather import Facts
from orchestrator.results.leaderboard import RankedSetting
from orchestrator.results.objective import Score, setting_key
from orchestrator.results.stats import mean
from orchestrator.text import metric

LINES_SHOWN = 150
AXES_SHOWN = 10
# Points of an S-curve from one axis to the next: few enough to be light, enough to look round.
_STEPS = 20
_SLICE_TICKS = 6


# --- parallel coordinates


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: the figure, and for each of its lines the values that it goes through.

    `values` are the words of each key, in the order of its axis.
    """

    figure: go.Figure
    lines: tuple[Mapping[str, str], ...]
    values: Mapping[str, tuple[str, ...]]


def parallel_figure(facts: Facts) -> Parallel | None:
    """A line for each ranked setting through its values to its objective, the best on top.

    Of very many settings those in front; a picture of more of them is a grey surface.

    Settings that were pruned are dotted, and end at what they had reached by then.
    """
    pruned = _pruned_settings(facts)
    if not facts.keys or len(facts.rows) + len(pruned) < 2:
        return None
    rows, keys = facts.rows[:LINES_SHOWN][::-1], facts.keys[:AXES_SHOWN]
    params = [*(score.run.overrides for score in pruned), *(row.params for row in rows)]
    axes = [axis_of(key, [p.get(key) for p in params], facts.scales.get(key)) for key in keys]
    reached = [*(score.value for score in pruned), *(row.mean for row in rows)]
    goal = objective_axis(facts.objective.metric, reached)
    lines = [
        *(_pruned_line(score, axes, goal, facts) for score in pruned),
        *(
            _line(row, axes, goal, facts, 0.04 * (i / max(1, len(rows) - 1) - 0.5))
            for i, row in enumerate(rows)
        ),
    ]
    figure = bare_figure(lines, 400)
    _draw_axes(figure, [*axes, goal])
    words = tuple({key: tick_text(p.get(key)) for key in keys} for p in params)
    values = {axis.name: tuple(text for _, text in axis.ticks) for axis in axes if axis.apart}
    return Parallel(figure, words, values)


def _pruned_settings(facts: Facts) -> list[Score]:
    """A pruned run of each setting that is not in the ranking, the one that came furthest."""
    ranked = {setting_key(row.params) for row in facts.rows}
    found: dict[str, Score] = {}
    for score in sorted(facts.pruned, key=lambda score: score.run.update or 0):
        found[setting_key(score.run.overrides)] = score
    return [score for key, score in found.items() if key not in ranked]


def _pruned_line(score: Score, axes: Sequence[Axis], goal: Axis, facts: Facts) -> Any:
    params = score.run.overrides
    nodes = [*(axis.place(params.get(axis.name)) for axis in axes), goal.place(score.value)]
    return go.Scatter(
        x=[i / _STEPS for i in range(_STEPS * (len(nodes) - 1) + 1)],
        y=rounded(_through(nodes)),
        mode="lines",
        line={"color": MUTED, "width": 1.2, "dash": "dot"},
        hovertext="<br>".join(map(literal, [_pruned_text(score, facts), facts.label(params)])),
        hoverinfo="text",
    )


def _pruned_text(score: Score, facts: Facts) -> str:
    value = metric(facts.objective.metric, score.value)
    return f"pruned at update {score.run.update or 0}, {value}"


def _line(row: RankedSetting, axes: Sequence[Axis], goal: Axis, facts: Facts, shift: float) -> Any:
    """`shift` keeps lines through the same values a little apart, in the order of their result."""
    end = goal.place(row.mean)
    nodes = [axis.place(row.params.get(axis.name)) + shift for axis in axes] + [end]
    better = end if facts.objective.goal == "max" else 1 - end
    best = row.rank == 1
    hover = [f"#{row.rank}  {metric(facts.objective.metric, row.mean)}"]
    hover += [f"{key} {facts.value(key, row.params)}" for key in facts.keys]
    return go.Scatter(
        x=[i / _STEPS for i in range(_STEPS * (len(nodes) - 1) + 1)],
        y=rounded(_through(nodes)),
        mode="lines",
        line={
            "color": ACCENT if best else RISING[round(better * (len(RISING) - 1))],
            "width": 3.5 if best else 1.6,
        },
        opacity=1.0 if best else 0.75,
        hovertext="<br>".join(map(literal, hover)),
        hoverinfo="text",
    )


def _through(nodes: Sequence[float]) -> list[float]:
    """An S-curve from node to node: level at each, and never beyond the two that it joins."""
    eased = [(1 - math.cos(math.pi * i / _STEPS)) / 2 for i in range(_STEPS)]
    pairs = itertools.pairwise(nodes)
    return [a + (b - a) * share for a, b in pairs for share in eased] + [nodes[-1]]


def _draw_axes(figure: go.Figure, axes: Sequence[Axis]) -> None:
    last = len(axes) - 1
    for x, axis in enumerate(axes):
        line = {"width": 1, "color": MUTED}
        figure.add_shape(type="line", x0=x, x1=x, y0=-0.04, y1=1.04, line=line)
        for place, text in axis.ticks:
            figure.add_annotation(
                x=x,
                y=place,
                text=literal(text),
                showarrow=False,
                xanchor="left" if x == last else "right",
                xshift=6 if x == last else -6,
                font={"size": 11},
            )
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(axes))),
        ticktext=[literal(axis.name) for axis in axes],
        side="top",
        showgrid=False,
        range=[0, last],
        fixedrange=True,
    )
    figure.update_yaxes(visible=False, range=[-0.06, 1.06], fixedrange=True)
    figure.update_layout(margin={"l": 90, "r": 70, "t": 36, "b": 8})


# --- one at a time, and by weight


def slice_figure(facts: Facts, key: str) -> go.Figure:
    """The objective of every ranked run over the values of one key, and the mean of each value.

    Hollow: what a pruned run had reached, so that the bad region shows.
    """
    pruned = facts.pruned
    values = [row.params.get(key) for row in facts.rows]
    values += [score.run.overrides.get(key) for score in pruned]
    axis = axis_of(key, values, facts.scales.get(key))
    dots = [(row.params.get(key), score) for row in facts.rows for score in row.scores]
    at: dict[float, list[float]] = {}
    for value, score in dots:
        at.setdefault(axis.place(value), []).append(score.value)
    traces = [
        go.Scatter(
            x=[axis.place(value) for value, _ in dots],
            y=rounded(score.value for _, score in dots),
            mode="markers",
            marker={"color": rgba(MUTED, 0.6), "size": 6},
            hovertext=[
                f"{run_hover(score.run.name, facts.objective, score.value)}"
                f"<br>{literal(f'{key} {facts.value(key, score.run.overrides)}')}"
                for _, score in dots
            ],
            hoverinfo="text",
        )
    ]
    if pruned:
        traces.append(
            go.Scatter(
                x=[axis.place(score.run.overrides.get(key)) for score in pruned],
                y=rounded(score.value for score in pruned),
                mode="markers",
                marker={"color": STRONG, "size": 7, "symbol": "circle-open"},
                hovertext=[
                    f"{literal(score.run.name)}<br>{literal(_pruned_text(score, facts))}"
                    for score in pruned
                ],
                hoverinfo="text",
            )
        )
    if axis.apart:
        traces.append(
            go.Scatter(
                x=sorted(at),
                y=rounded(mean(at[place]) for place in sorted(at)),
                mode="lines+markers",
                line={"color": ACCENT, "width": 2},
                marker={"size": 9},
                hoverinfo="skip",
            )
        )
    ticks = axis.ticks[:: math.ceil(len(axis.ticks) / _SLICE_TICKS)]
    figure = bare_figure(traces, 220)
    figure.update_xaxes(
        tickmode="array",
        tickvals=[place for place, _ in ticks],
        ticktext=[literal(text) for _, text in ticks],
        range=[-0.12, 1.12],
        showgrid=False,
    )
    figure.update_yaxes(**value_axis(facts.objective.metric))
    return figure


def importance_figure(importances: Mapping[str, float]) -> go.Figure:
    """Each key's share of what decides the objective, the largest on top."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    bars = go.Bar(
        x=rounded(value for _, value in ordered),
        y=[literal(key) for key, _ in ordered],
        orientation="h",
        marker={"color": ACCENT},
        text=[f" {value:.0%}" for _, value in ordered],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure = bare_figure([bars], 34 * len(ordered) + 24, bargap=0.45)
    figure.update_xaxes(visible=False, range=[0, 1.15 * max(importances.values())])
    figure.update_yaxes(type="category", showgrid=False, ticksuffix="  ", nticks=0)
    return figure
