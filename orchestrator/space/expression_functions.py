"""The functions of expressions, with the same results on every machine."""

import math
from collections.abc import Callable
from decimal import Context, Decimal

# Decimal arithmetic is software: its results are the same on every machine, where those of the
# C library's log, exp and pow may differ in the last bit.
DECIMAL = Context(prec=34, Emax=1_000_000, Emin=-1_000_000)


def _logarithm(value: float, base: int = 0) -> float:
    if value <= 0:
        raise ValueError
    if base == 10:
        return float(Decimal(value).log10(DECIMAL))
    natural = Decimal(value).ln(DECIMAL)
    return float(DECIMAL.divide(natural, Decimal(base).ln(DECIMAL)) if base else natural)


def _exponential(value: float) -> float:
    if value > 710:
        raise OverflowError
    return 0.0 if value < -750 else float(Decimal(value).exp(DECIMAL))


def _rounded(value: float, digits: float = 0) -> float:
    if not isinstance(digits, int) or abs(digits) > 20:
        raise ValueError
    return round(value, digits) if digits else round(value)


# name: fewest and most arguments, what it does. `min` and `max` take lists too.
FUNCTIONS: dict[str, tuple[int, int, Callable[..., float]]] = {
    "min": (1, 100, lambda *values: min(values)),
    "max": (1, 100, lambda *values: max(values)),
    "abs": (1, 1, abs),
    "round": (1, 2, _rounded),
    "floor": (1, 1, math.floor),
    "ceil": (1, 1, math.ceil),
    "int": (1, 1, int),
    "float": (1, 1, float),
    "sqrt": (1, 1, math.sqrt),
    "exp": (1, 1, _exponential),
    "log": (1, 1, _logarithm),
    "log2": (1, 1, lambda value: _logarithm(value, 2)),
    "log10": (1, 1, lambda value: _logarithm(value, 10)),
    "len": (1, 1, len),
}


def fits_64_bits(value: int) -> bool:
    """Whether a whole number can be stored as one."""
    return -(2**63) <= value < 2**63
