"""Learning curves as figures: a line and a band for each group of runs."""

import itertools
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from orchestrator.report.colours import MUTED, rgba
from orchestrator.report.draw import bare_figure, literal, rounded, value_axis
from orchestrator.report.groups import Grouping, RunGroup
from orchestrator.results.curves import Band, Thinned, band
from orchestrator.text import metric

HEIGHT_PX = 250
# So many points of a curve have its shape, by which it is known without its colour.
_DOTS_UP_TO = 8
# A band is so dense where up to three groups are drawn; more of them are lighter, each alike.
_DENSITY, _DENSE_UP_TO = 0.16, 3


def curve_figure(grouping: Grouping, name: str, of: Thinned) -> go.Figure:
    """A metric over updates: a line and a band for each group, the others behind them."""
    grey = [band(of, members) for members in grouping.others]
    traces = [_grey_trace(grey)] if grey else []
    density = _DENSITY * min(1.0, _DENSE_UP_TO / max(1, len(grouping.groups)))
    for number, group in enumerate(grouping.groups):
        traces += _band_traces(band(of, group.members), group, number, name, density)
    figure = bare_figure(traces, HEIGHT_PX, hovermode="closest")
    figure.update_yaxes(**value_axis(name))
    figure.update_xaxes(rangemode="tozero")
    return figure


def _grey_trace(bands: Sequence[Band]) -> Any:
    """All the others as one line with gaps: hundreds of them cost a browser no more than one."""
    gap = [None]
    xs = itertools.chain.from_iterable([*each.updates, *gap] for each in bands)
    ys = itertools.chain.from_iterable([*rounded(each.mean), *gap] for each in bands)
    line = {"color": rgba(MUTED, 0.3), "width": 1}
    return go.Scatter(x=list(xs), y=list(ys), mode="lines", line=line, hoverinfo="skip")


def _band_traces(of: Band, group: RunGroup, number: int, name: str, density: float) -> list[Any]:
    """The mean, and behind it the band as one closed shape; dotted where runs have ended before."""
    mark, end = f"g{number}", of.whole
    line = go.Scatter(
        x=of.updates[:end],
        y=rounded(of.mean[:end]),
        mode="lines+markers",
        line={"color": group.colour, "width": 2},
        marker={"size": 6, "symbol": group.shape, "maxdisplayed": _DOTS_UP_TO},
        hovertext=[_point_hover(of, i, group.label, name) for i in range(end)],
        hoverinfo="text",
        legendgroup=mark,
    )
    lines = [line, _rest_trace(of, group, mark, name)] if end < len(of.n) else [line]
    if not of.is_wide:
        return lines
    shape = go.Scatter(
        x=[*of.updates[:end], *reversed(of.updates[:end])],
        y=[*rounded(of.high[:end]), *reversed(rounded(of.low[:end]))],
        fill="toself",
        fillcolor=rgba(group.colour, density),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        legendgroup=mark,
    )
    return [shape, *lines]


def _rest_trace(of: Band, group: RunGroup, mark: str, name: str) -> Any:
    """The mean of those runs that go on, dotted, with a gap wherever one fewer is left."""
    points: list[int | None] = []
    for i in range(of.whole, len(of.n)):
        points += [None, i] if of.n[i] != of.n[i - 1] else [i]
    mean = rounded(of.mean)
    return go.Scatter(
        x=[None if i is None else of.updates[i] for i in points],
        y=[None if i is None else mean[i] for i in points],
        mode="lines+markers",
        line={"color": group.colour, "width": 1.5, "dash": "dot"},
        # One evaluation that is left is no line.
        marker={"size": 5, "symbol": f"{group.shape}-open", "maxdisplayed": _DOTS_UP_TO},
        hovertext=["" if i is None else _point_hover(of, i, group.label, name) for i in points],
        hoverinfo="text",
        legendgroup=mark,
    )


def _point_hover(of: Band, i: int, label: str, name: str) -> str:
    words = f"{metric(name, of.mean[i])} at update {of.updates[i]:g}"
    runs = f"{of.n[i]} of {max(of.n)} runs" if of.n[i] < max(of.n) else f"{of.n[i]} runs"
    if max(of.n) > 1:
        words += f"<br>{runs}: {metric(name, of.low[i])} … {metric(name, of.high[i])}"
    return f"{words}<br>{literal(label)}"
