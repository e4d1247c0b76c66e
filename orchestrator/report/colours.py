"""The colours of the report, of middle lightness so that they read on light and on dark; pure."""

import math
from collections.abc import Sequence

ACCENT = "#3574d4"
STRONG = "#6c7686"
MUTED = "#8b93a1"
GOOD, WAIT, BAD = "#2f9e6e", "#d9982b", "#d5485a"
PRUNED = "#a368c9"
# For people who are colour-blind as well: neighbours differ in lightness too.
CATEGORIES = (ACCENT, "#e0803a", "#2f9e6e", "#a368c9", "#d5485a", "#1f9fb5")
# Beside the colours, for whom these are alike: plotly's name of a mark -> the character for it.
SHAPES = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "x": "✖",
    "cross": "✚",
}
# For values that have an order, from low to high.
ORDERED = ("#5a55c2", "#3574d4", "#1f9fb5", "#2f9e6e", "#94ac35", "#d9982b", "#e0803a", "#d5485a")
# From the worst result to the best: grey into the accent.
RISING = ("#a9afb9", "#99a6bb", "#889dbe", "#7894c1", "#688bc5", "#5783ca", "#467bcf", ACCENT)


def rgba(colour: str, alpha: float) -> str:
    """`#3574d4` with a transparency."""
    return f"rgba({','.join(map(str, _channels(colour)))},{alpha:g})"


def spread_over(colours: Sequence[str], n: int) -> list[str]:
    """`n` colours, evenly over an ordered palette, mixed from neighbours where it is too short."""
    places = (i * (len(colours) - 1) / max(1, n - 1) for i in range(n))
    return [_mixed(colours[int(at)], colours[math.ceil(at)], at % 1) for at in places]


def _mixed(one: str, other: str, share: float) -> str:
    pairs = zip(_channels(one), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
