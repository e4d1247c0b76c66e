"""Axes of the figures about parameters: where each value of a key stands, and what is written.

Few values stand evenly apart, each with its tick; many numbers stand on a scale with round ticks.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.groups import is_numeric, level_text
from orchestrator.text import metric, setting_value

# More values than these on an axis become a scale.
_VALUES_APART = 12
_TICK_CHARS = 24
# Round steps, as people count.
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)
_TICKS_UP_TO = 6
# Where a scale begins that has "not set" below it.
_FLOOR = 0.12


@dataclass(frozen=True)
class Axis:
    """A key with its place for every value, 0 at the bottom and 1 at the top.

    `apart` says that each value has its own tick.
    """

    name: str
    places: Mapping[str, float]
    ticks: tuple[tuple[float, str], ...]
    apart: bool

    def place(self, value: Any) -> float:
        """Where a value stands."""
        return self.places[json.dumps(value)]


def axis_of(name: str, values: Iterable[Any], logarithmic: bool | None = None) -> Axis:
    """Few values stand evenly apart; many numbers on a scale, and what is not set below it.

    So do the numbers of a range, be they few, on its own scale: `logarithmic` says which. Of many
    words only some have a tick.
    """
    unique = {json.dumps(value): value for value in values}
    numbers = {key: value for key, value in unique.items() if value is not None}
    if is_numeric(numbers.values()):
        if len(numbers) > (_VALUES_APART if logarithmic is None else 1):
            floor = _FLOOR if len(numbers) < len(unique) else 0.0
            scaled = {key: float(value) for key, value in numbers.items()}
            return _scale(name, scaled, floor, logarithmic)
        keys = sorted(numbers, key=lambda key: float(numbers[key]))
        keys = [*(key for key in unique if key not in numbers), *keys]
    else:
        keys = sorted(unique, key=lambda key: (unique[key] is None, key))
    places = {key: i / (len(keys) - 1) if len(keys) > 1 else 0.5 for i, key in enumerate(keys)}
    step = math.ceil(len(keys) / (2 * _VALUES_APART))
    ticks = tuple((places[key], tick_text(unique[key])) for key in keys[::step])
    return Axis(name, places, ticks, apart=len(keys) <= _VALUES_APART + 1)


def objective_axis(name: str, values: Sequence[float]) -> Axis:
    """The scale of the objective, from its worst value to its best."""
    low, high = min(values), max(values)
    if low == high:
        return Axis(name, {json.dumps(low): 0.5}, ((0.5, metric(name, low)),), apart=True)
    places = {json.dumps(value): (value - low) / (high - low) for value in values}
    ticks = (
        ((tick - low) / (high - low), metric(name, tick).replace(".0%", "%"))
        for tick in round_ticks(low, high)
    )
    return Axis(name, places, tuple(ticks), apart=False)


def tick_text(value: Any) -> str:
    """A value at its tick, clipped where it is long."""
    text = level_text(value)
    return text if len(text) <= _TICK_CHARS else text[: _TICK_CHARS - 1] + "…"


def _scale(
    name: str, numbers: Mapping[str, float], floor: float, logarithmic: bool | None = None
) -> Axis:
    """Numbers from `floor` to the top; below a floor stands what is not set."""
    low, high = min(numbers.values()), max(numbers.values())
    # Two decades or more, as learning rates have, are read on a log scale.
    as_log = low > 0 and (high / low >= 100 if logarithmic is None else logarithmic)
    bend: Callable[[float], float] = math.log10 if as_log else float

    def place(value: float) -> float:
        return floor + (1 - floor) * (bend(value) - bend(low)) / (bend(high) - bend(low))

    places = {key: place(value) for key, value in numbers.items()}
    found = decade_ticks(low, high) if as_log else round_ticks(low, high)
    ticks = tuple((place(tick), setting_value(tick)) for tick in found)
    if floor:
        return Axis(name, {"null": 0.0, **places}, ((0.0, "not set"), *ticks), apart=False)
    return Axis(name, places, ticks, apart=False)


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, two to six of them: 0.02, 0.04, 0.06.

    None where floats end: the span is infinite, or too small to be cut.
    """
    aim = (high - low) / _TICKS_UP_TO
    if not sys.float_info.min < aim < math.inf:
        return []
    size = 10.0 ** math.floor(math.log10(aim))
    step = next(size * s for s in _STEPS if (high - low) / (size * s) < _TICKS_UP_TO - 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Twelve digits: a multiple of a tenth is written as people write it.
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def decade_ticks(low: float, high: float) -> list[float]:
    """1 and 3 of each decade from `low` to `high`, the powers of ten of more than three decades."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    firsts = (1, 3) if len(powers) <= 4 else (1,)
    found = [float(f"{first}e{power}") for power in powers for first in firsts]
    found = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
    return found[:: math.ceil(len(found) / _TICKS_UP_TO)]
