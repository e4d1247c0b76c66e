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
# Shorter curves show where their points are.
_DOTS_UP_TO = 12
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
    """The mean, and behind it the band as one closed shape."""
    mark = f"g{number}"
    line = go.Scatter(
        x=of.updates,
        y=rounded(of.mean),
        mode="lines+markers" if len(of.updates) <= _DOTS_UP_TO else "lines",
        line={"color": group.colour, "width": 2},
        marker={"size": 5},
        hovertext=[_point_hover(of, i, group.label, name) for i in range(len(of.updates))],
        hoverinfo="text",
        legendgroup=mark,
    )
    if not of.is_wide:
        return [line]
    shape = go.Scatter(
        x=[*of.updates, *reversed(of.updates)],
        y=[*rounded(of.high), *reversed(rounded(of.low))],
        fill="toself",
        fillcolor=rgba(group.colour, density),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        legendgroup=mark,
    )
    return [shape, line]


def _point_hover(of: Band, i: int, label: str, name: str) -> str:
    words = f"{metric(name, of.mean[i])} at update {of.updates[i]:g}"
    if of.n[i] > 1:
        words += f"<br>{of.n[i]} runs: {metric(name, of.low[i])} … {metric(name, of.high[i])}"
    return f"{words}<br>{literal(label)}"
