"""What the report's figures share: texts that plotly shows as they are, and a bare figure.

Figures carry no background, font colour or grid colour: the page's style sheet gives them, so that
light, dark and print follow the reader.
"""

import html
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

from orchestrator.run import Objective
from orchestrator.text import metric

# As in page.css: plotly measures texts with the font that it believes it uses.
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def literal(text: Any) -> str:
    """A text that plotly shows as it is: it reads a little HTML, so no tag, no link."""
    return html.escape(str(text), quote=False)


def rounded(values: Iterable[float]) -> list[float]:
    """To four significant digits: a screen shows no more, and the file is half as long."""
    return [float(f"{value:.4g}") for value in values]


def bare_figure(traces: Iterable[Any], height: int, **layout: Any) -> go.Figure:
    """A figure of ours: no frame, no background, thin grid, room for its labels."""
    figure = go.Figure(list(traces), go.Layout(template="none"))
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        font={"size": 12, "family": FONT},
        hoverlabel={
            "bgcolor": "#20242b",
            "bordercolor": "#4a5260",
            "font": {"color": "#ffffff", "size": 12},
            "align": "left",
        },
    )
    figure.update_xaxes(automargin=True, zeroline=False, ticks="", nticks=6)
    figure.update_yaxes(automargin=True, zeroline=False, ticks="", nticks=5)
    figure.update_layout(**layout)
    return figure


def value_axis(metric_name: str) -> dict[str, Any]:
    """How an axis writes a metric: exact match in percent."""
    return {"tickformat": ".0%"} if metric_name == "em" else {}


def run_hover(name: str, objective: Objective, value: float) -> str:
    """What a dot that stands for a run says."""
    return f"{literal(name)}<br>{literal(objective.metric)} {metric(objective.metric, value)}"
