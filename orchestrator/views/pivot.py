"""The objective by one or two parameters, as a table and as JSON."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.results.pivot import Bin, Cell, order
from orchestrator.run import Objective
from orchestrator.text import UNKNOWN, counts, metric, setting_value
from orchestrator.views.json_shapes import interval_shape
from orchestrator.views.tables import plain_table


def pivot_shape(objective: Objective, keys: Sequence[str], cells: Sequence[Cell]) -> dict[str, Any]:
    """`status --by KEY --json`."""
    return {
        "objective": objective.metric,
        "goal": objective.goal,
        "by": list(keys),
        "rows": [
            {
                "values": dict(zip(keys, cell.values, strict=True)),
                "n": cell.n,
                "mean": cell.mean,
                "ci95": interval_shape(cell.ci95),
                "best": cell.best,
                "runs": [run.id for run in cell.runs],
                "others": {str(state): n for state, n in cell.others.items()},
            }
            for cell in cells
        ],
    }


def pivot_table(objective: Objective, keys: Sequence[str], cells: Sequence[Cell]) -> Table:
    """A row for each value of the first key; a column for each of the second, if there is one."""
    if len(keys) == 1:
        return _one(objective, keys[0], cells)
    rows = list(dict.fromkeys(_word(cell.values[0]) for cell in cells))
    columns = list(dict.fromkeys(_word(cell.values[1]) for cell in _by_second(cells)))
    heads = [f"{keys[1]} {columns[0]}", *columns[1:]]
    table = plain_table(keys[0], *heads, right=(keys[0],))
    at = {(_word(c.values[0]), _word(c.values[1])): c for c in cells}
    for row in rows:
        found = [at.get((row, column)) for column in columns]
        table.add_row(row, *(_cell_text(cell, objective) for cell in found))
    return table


def _by_second(cells: Sequence[Cell]) -> list[Cell]:
    """In the order of the second key's values, as the rows are in that of the first."""
    return sorted(cells, key=lambda cell: order(cell.values[1]))


def _one(objective: Objective, key: str, cells: Sequence[Cell]) -> Table:
    table = plain_table(key, objective.metric, "n", "without a result", right=(key, "n"))
    for cell in cells:
        table.add_row(
            _word(cell.values[0]),
            _mean_text(cell, objective),
            str(cell.n),
            Text(counts(dict(cell.others)), style="dim"),
        )
    return table


def _cell_text(cell: Cell | None, objective: Objective) -> Text:
    if cell is None:
        return Text("")
    if cell.mean is None:
        return Text(counts(dict(cell.others)), style="dim")
    return _mean_text(cell, objective).append(f"  n={cell.n}", style="dim")


def _mean_text(cell: Cell, objective: Objective) -> Text:
    """`45.5% ± 1.2% *`."""
    if cell.mean is None:
        return Text(UNKNOWN)
    words = metric(objective.metric, cell.mean)
    if cell.ci95 is not None:
        low, high = cell.ci95
        # The wider half: one is cut where exact match ends.
        words += f" ± {metric(objective.metric, max(cell.mean - low, high - cell.mean))}"
    return Text(f"{words} *", style="bold green") if cell.best else Text(words)


def _word(value: Any) -> str:
    if isinstance(value, Bin):
        return str(value)
    return UNKNOWN if value is None else setting_value(value)
