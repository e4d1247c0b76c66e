"""The ranking as a plot that stands beside its table, row by row."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from orchestrator.report.colours import ACCENT, MUTED, STRONG, rgba
from orchestrator.report.draw import bare_figure, literal, rounded, run_hover, value_axis
from orchestrator.report.gather import evaluation_interval
from orchestrator.results.leaderboard import RankedSetting
from orchestrator.run import Objective
from orchestrator.text import metric

# As page.css sets the height of a row.
ROW_PX = 34


def ranking_figure(
    rows: Sequence[RankedSetting], objective: Objective, before: float | None
) -> go.Figure:
    """One line for each row: the mean, its interval, and each run; dotted: before training."""
    figure = bare_figure(
        [_runs(rows, objective), _means(rows, objective)], ROW_PX * (len(rows) + 1)
    )
    figure.update_layout(margin={"l": 12, "r": 12, "t": 0, "b": ROW_PX, "autoexpand": False})
    figure.update_xaxes(automargin=False, **value_axis(objective.metric))
    # Half a row above the first and below the last, so that lines and rows stand side by side.
    figure.update_yaxes(visible=False, range=[len(rows) - 0.5, -0.5], automargin=False)
    if before is not None:
        figure.add_vline(x=before, line={"dash": "dot", "width": 1.5, "color": MUTED})
    return figure


def _runs(rows: Sequence[RankedSetting], objective: Objective) -> Any:
    dots = [(y, score) for y, row in enumerate(rows) if row.n > 1 for score in row.scores]
    return go.Scatter(
        x=rounded(score.value for _, score in dots),
        y=[y for y, _ in dots],
        mode="markers",
        marker={"color": rgba(MUTED, 0.55), "size": 6},
        hovertext=[run_hover(score.run.name, objective, score.value) for _, score in dots],
        hoverinfo="text",
    )


def _means(rows: Sequence[RankedSetting], objective: Objective) -> Any:
    intervals = [
        row.ci95 or evaluation_interval(row, objective) or (row.mean, row.mean) for row in rows
    ]
    bars = [
        (row.mean - low, high - row.mean) for row, (low, high) in zip(rows, intervals, strict=True)
    ]
    return go.Scatter(
        x=rounded(row.mean for row in rows),
        y=list(range(len(rows))),
        mode="markers",
        marker={"color": [ACCENT if row.rank == 1 else STRONG for row in rows], "size": 10},
        error_x={
            "type": "data",
            "symmetric": False,
            "arrayminus": rounded(below for below, _ in bars),
            "array": rounded(above for _, above in bars),
            "thickness": 2,
            "width": 0,
            "color": rgba(STRONG, 0.7),
        },
        hovertext=[_row_hover(row, objective) for row in rows],
        hoverinfo="text",
    )


def _row_hover(row: RankedSetting, objective: Objective) -> str:
    words = f"#{row.rank}: {metric(objective.metric, row.mean)}"
    if (found := row.ci95 or evaluation_interval(row, objective)) is None:
        return words
    low, high = (metric(objective.metric, value) for value in found)
    what = f"95% interval over its {row.n} runs" if row.ci95 else "95% interval of this evaluation"
    return f"{words}<br>{literal(what)}: {low} … {high}"
