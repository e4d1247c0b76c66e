"""When things happened: the best result by hours of training, and the attempts on a clock."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import plotly.graph_objects as go

from orchestrator.report.colours import ACCENT, BAD, GOOD, MUTED, PRUNED, WAIT, rgba
from orchestrator.report.draw import bare_figure, literal, rounded, run_hover, value_axis
from orchestrator.report.gather import Facts, RunFacts
from orchestrator.results.leaderboard import best_over_time, by_end
from orchestrator.run import Attempt
from orchestrator.text import duration

# How an attempt ended -> (word in the legend, colour, pattern); any other end is a failure. The
# patterns are for whom green and red are alike, and for paper.
_ENDINGS = {
    "completed": ("completed", GOOD, ""),
    "pruned": ("pruned by the stop rule", PRUNED, "."),
    "held": ("held at a rung", WAIT, "-"),
    "interrupted": ("interrupted, went on later", WAIT, "/"),
    "cancelled": ("cancelled", MUTED, "+"),
    None: ("running", ACCENT, "|"),
}
_FAILED = ("failed", BAD, "x")

_NAMES_UP_TO = 60
_NAME_CHARS = 28


# --- best so far


def time_unit(seconds: float) -> tuple[float, str]:
    """In what to measure a time of this length: seconds in a unit, and its name."""
    if seconds < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 2 * 3600 else (3600.0, "hours")


def best_so_far_figure(facts: Facts) -> go.Figure | None:
    """The best objective reached by every hour of training; None before the first result.

    Runs without a value (failed ones) take their time all the same.
    """
    values = {score.run.id: score.value for score in facts.scores}
    if not values:
        return None
    unit, _ = time_unit(facts.wall_s)
    ended = by_end(f.run for f in facts.runs)
    spent = itertools.accumulate(run.wall_s / unit for run in ended)
    dots = [(x, run) for x, run in zip(spent, ended, strict=True) if run.id in values]
    best = best_over_time(ended, facts.scores, facts.objective)
    traces = [
        go.Scatter(
            x=rounded(x / unit for x, _ in best),
            y=rounded(y for _, y in best),
            mode="lines",
            line={"color": ACCENT, "width": 2.5, "shape": "hv"},
            hoverinfo="skip",
        ),
        go.Scatter(
            x=rounded(x for x, _ in dots),
            y=rounded(values[run.id] for _, run in dots),
            mode="markers",
            marker={"color": rgba(MUTED, 0.75), "size": 7},
            hovertext=[run_hover(run.name, facts.objective, values[run.id]) for _, run in dots],
            hoverinfo="text",
        ),
    ]
    figure = bare_figure(traces, 280)
    figure.update_xaxes(rangemode="tozero", nticks=10)
    figure.update_yaxes(**value_axis(facts.objective.metric))
    return figure


# --- attempts


@dataclass(frozen=True)
class _Bar:
    run_id: str
    begin: str
    length_ms: float
    hover: str


def timeline_figure(facts: Facts, now: datetime) -> go.Figure | None:
    """A bar for each attempt, coloured by how it ended; None before the first one.

    A row holds a run, or, where there are many, all attempts that ended alike: one GPU trains one
    run at a time, so that they never overlap. Times are on the clock of whoever writes the report:
    plotly knows no zones.
    """
    started = [run for run in facts.runs if run.attempts]
    if not started:
        return None
    bars: dict[tuple[str, str, str], list[_Bar]] = {}
    for run in started:
        for attempt in run.attempts:
            kind = _ENDINGS.get(attempt.outcome, _FAILED)
            bars.setdefault(kind, []).append(_bar(run, attempt, now))
    few = len(started) <= _NAMES_UP_TO
    rows = {str(run.run.id): _clipped(run.run.name) for run in started}
    rows = rows if few else {name: name for name, _, _ in bars}
    figure = bare_figure(
        [_bar_trace(kind, found, few) for kind, found in bars.items()],
        (24 if few else 40) * len(rows) + 80,
        barmode="overlay",
        bargap=0.25,
        showlegend=few,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"},
    )
    _name_rows(figure, rows)
    # Never turned: on a phone four times stand beside each other.
    figure.update_xaxes(type="date", nticks=4, tickangle=0)
    return figure


def _bar(run: RunFacts, attempt: Attempt, now: datetime) -> _Bar:
    begin = datetime.fromisoformat(attempt.started)
    end = datetime.fromisoformat(attempt.ended) if attempt.ended else now
    words = [run.run.name, f"attempt {attempt.n}: {attempt.outcome or 'running'}"]
    words.append(duration((end - begin).total_seconds()))
    if attempt.reason and attempt.outcome != "completed":
        words.append(attempt.reason)
    return _Bar(
        str(run.run.id),
        begin.astimezone().replace(tzinfo=None).isoformat(timespec="milliseconds"),
        max(1.0, (end - begin) / timedelta(milliseconds=1)),
        "<br>".join(map(literal, words)),
    )


def _bar_trace(kind: tuple[str, str, str], bars: Sequence[_Bar], by_run: bool) -> Any:
    name, colour, pattern = kind
    return go.Bar(
        name=name,
        orientation="h",
        y=[bar.run_id if by_run else name for bar in bars],
        base=[bar.begin for bar in bars],
        x=[bar.length_ms for bar in bars],
        marker={"color": colour, "pattern": _pattern(pattern)},
        hovertext=[bar.hover for bar in bars],
        hoverinfo="text",
    )


def _pattern(shape: str) -> dict[str, Any]:
    return {"shape": shape, "size": 6, "solidity": 0.3, "fillmode": "overlay", "fgcolor": "#ffffff"}


def _name_rows(figure: go.Figure, rows: Mapping[str, str]) -> None:
    """Names for the rows, the first one on top."""
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=list(rows)[::-1],
        range=[-0.6, len(rows) - 0.4],
        showgrid=False,
        tickmode="array",
        tickvals=list(rows),
        ticktext=[literal(name) for name in rows.values()],
        ticksuffix="  ",
    )


def _clipped(text: str) -> str:
    return text if len(text) <= _NAME_CHARS else text[: _NAME_CHARS - 1] + "…"


def zone(now: datetime) -> str:
    """`UTC+2`: the clock that the time line shows."""
    minutes = round((now.astimezone().utcoffset() or timedelta()) / timedelta(minutes=1))
    hours, rest = divmod(abs(minutes), 60)
    sign = "+" if minutes > 0 else "−"
    return "UTC" if minutes == 0 else f"UTC{sign}{hours}" + (f":{rest:02d}" if rest else "")
