"""A sweep as PNG files for notes and papers: ranking, learning curves, best result by hours.

The same facts as the HTML report, drawn with matplotlib, which is an extra (`grpo-sweep[png]`).
"""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UsageError
from orchestrator.report.colours import ACCENT, MUTED, STRONG
from orchestrator.report.gather import CURVES, Facts, evaluation_interval
from orchestrator.report.groups import Grouping, groupings
from orchestrator.results.curves import align, band
from orchestrator.results.leaderboard import best_over_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 160
_POINTS = 400
_RANKED = 30

# plotly's names of marks -> matplotlib's.
_MARKS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "x": "X",
    "cross": "P",
}


def pictures(facts: Facts) -> Iterator[tuple[str, bytes]]:
    """(file name, PNG) of each picture that there is something to draw for.

    Raises UsageError where matplotlib is missing.
    """
    try:
        # Not at the top, here and below: a package that only PNG needs, and takes long to load.
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise UsageError(
            f"PNG needs matplotlib ({e}); install it with: pip install 'grpo-sweep[png]'"
        ) from None
    if facts.rows:
        yield "ranking.png", _ranking(facts)
        yield "best-so-far.png", _best(facts)
    by_setting = groupings(facts)[0]
    for name in dict.fromkeys((*CURVES, facts.objective.metric)):
        if any(run.curve(name) for run in facts.runs):
            yield f"{name.replace('/', '-')}.png", _curves(facts, by_setting, name)


def _literal(text: str) -> str:
    """A text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def _axes(width: float, height: float) -> tuple[Any, "Axes"]:
    # As above.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e9ebef", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _in_percent(axis: Any, metric: str) -> None:
    """Exact match is read in percent."""
    if metric == "em":
        # As above.
        from matplotlib.ticker import PercentFormatter

        axis.set_major_formatter(PercentFormatter(1.0))


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _ranking(facts: Facts) -> bytes:
    rows = facts.rows[:_RANKED]
    figure, axes = _axes(8, 1.2 + 0.3 * len(rows))
    for y, row in enumerate(rows):
        colour = ACCENT if row.rank == 1 else STRONG
        if interval := row.ci95 or evaluation_interval(row, facts.objective):
            axes.plot(interval, [y, y], color=colour, linewidth=2, alpha=0.6)
        values = [score.value for score in row.scores]
        axes.plot(values, [y] * len(values), "o", color=MUTED, markersize=3.5)
        axes.plot([row.mean], [y], "o", color=colour, markersize=7)
    labels = [f"{row.rank}  {_literal(facts.label(row.params))}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(_literal(facts.objective.metric))
    _in_percent(axes.xaxis, facts.objective.metric)
    axes.set_title(_literal(f"{facts.sweep.name}: mean, 95% interval, runs"), fontsize=10)
    return _png(figure)


def _curves(facts: Facts, by: Grouping, name: str) -> bytes:
    thinned = align([run.curve(name) for run in facts.runs], _POINTS)
    figure, axes = _axes(7, 4.2)
    for members in by.others:
        found = band(thinned, members)
        axes.plot(found.updates, found.mean, color=MUTED, linewidth=0.6, alpha=0.4)
    lines = []
    for group in by.groups:
        found = band(thinned, group.members)
        end = found.whole
        x, mean = found.updates, found.mean
        axes.fill_between(
            x[:end], found.low[:end], found.high[:end], color=group.colour, alpha=0.16
        )
        style: dict[str, Any] = {
            "color": group.colour,
            "marker": _MARKS[group.shape],
            "markevery": 0.15,
        }
        lines += axes.plot(x[:end], mean[:end], linewidth=1.6, markersize=4, **style)
        # Of those that go on where others have ended.
        axes.plot(x[end:], mean[end:], color=group.colour, linewidth=1.2, linestyle=":")
    labels = [_literal(group.label) for group in by.groups]
    figure.legend(lines, labels, loc="outside lower left", fontsize=7, frameon=False)
    axes.set_xlabel("update")
    _in_percent(axes.yaxis, name)
    axes.set_title(_literal(f"{facts.sweep.name}: {name}"), fontsize=10)
    return _png(figure)


def _best(facts: Facts) -> bytes:
    points = best_over_time((f.run for f in facts.runs), facts.scores, facts.objective)
    figure, axes = _axes(7, 3.6)
    axes.step(
        [seconds / 3600 for seconds, _ in points],
        [y for _, y in points],
        where="post",
        color=ACCENT,
        lw=2,
    )
    axes.set_xlim(left=0)
    axes.set_xlabel("hours of training")
    axes.set_ylabel(_literal(facts.objective.metric))
    _in_percent(axes.yaxis, facts.objective.metric)
    axes.set_title(_literal(f"{facts.sweep.name}: best so far"), fontsize=10)
    return _png(figure)
