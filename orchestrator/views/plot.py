"""A curve in the terminal: braille dots, or stars where the terminal has none; pure."""

import itertools
import math
from collections.abc import Sequence

from orchestrator.results.curves import Curve, thin
from orchestrator.text import metric

HEIGHT = 10

# The eight dots of a braille character by column and row, as bits (Unicode chapter 21.1).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800


def curve_plot(
    name: str, curve: Curve, width: int, height: int = HEIGHT, *, braille: bool = True
) -> list[str]:
    """The lines of a plot `width` characters wide: a title, `height` lines, the updates below.

    Long curves are thinned to the mean of neighbouring updates. Empty for an empty curve.
    """
    if not curve:
        return []
    thinned = thin([curve], 2 * width)
    bins = sorted(thinned.runs[0])
    xs = [thinned.middle(number) for number in bins]
    ys = [thinned.runs[0][number] for number in bins]
    low, high = min(ys), max(ys)
    labels = [metric(name, high), metric(name, low)] if high > low else [metric(name, low)] * 2
    margin = max(map(len, labels))
    columns = max(8, width - margin - 2)
    rows = _draw(xs, ys, columns, height, braille)
    heads = (
        [labels[0], *[""] * (height - 2), labels[1]] if high > low else _middle(labels[0], height)
    )
    edge = "┤" if braille else "|"
    body = [f"{head:>{margin}} {edge}{row}" for head, row in zip(heads, rows, strict=True)]
    first, last = str(curve[0][0]), f"update {curve[-1][0]}"
    below = f"{first}{last:>{max(len(last) + 1, columns - len(first))}}"
    mean_of = f", the mean of {thinned.width} updates a point" if thinned.width > 1 else ""
    return [f"{name}{mean_of}", *body, f"{'':>{margin}}  {below}"]


def _middle(label: str, height: int) -> list[str]:
    above = (height - 1) // 2
    return [*[""] * above, label, *[""] * (height - 1 - above)]


def _draw(
    xs: Sequence[float], ys: Sequence[float], columns: int, rows: int, braille: bool
) -> list[str]:
    """The polyline through the points on a grid of characters."""
    wide, tall = (2, 4) if braille else (1, 1)
    places = list(zip(_scaled(xs, columns * wide), _scaled(ys, rows * tall), strict=True))
    cells = [[0] * columns for _ in range(rows)]
    for x, y in _line(places):
        row, dot = divmod(rows * tall - 1 - y, tall)
        cells[row][x // wide] |= _DOTS[x % wide][dot]
    return ["".join(_character(cell, braille) for cell in row).rstrip() for row in cells]


def _scaled(values: Sequence[float], size: int) -> list[int]:
    """The values as whole places from 0 to size - 1; in the middle where they are all the same."""
    low, span = min(values), max(values) - min(values)
    if span == 0:
        return [(size - 1) // 2] * len(values)
    return [round((value - low) / span * (size - 1)) for value in values]


def _line(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every place on the straight lines from each to the next."""
    found = [places[0]]
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        found += [
            (x0 + _share(x1 - x0, step, steps), y0 + _share(y1 - y0, step, steps))
            for step in range(1, steps + 1)
        ]
    return found


def _share(distance: int, step: int, steps: int) -> int:
    return math.floor(distance * step / steps + 0.5)


def _character(cell: int, braille: bool) -> str:
    if not cell:
        return " "
    return chr(_BRAILLE + cell) if braille else "*"


def shows_braille(encoding: str | None) -> bool:
    """Whether a stream with this encoding can say a braille dot."""
    try:
        chr(_BRAILLE + 1).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
