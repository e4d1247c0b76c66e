"""Numbers as people write them in names and tables; pure, and imports nothing that takes time."""

from decimal import Decimal


def short_number(value: float) -> str:
    """The shortest text that reads back as the same number: `1e-5`, `0.05`, `3`."""
    plain = repr(value).removesuffix(".0")
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if not isinstance(exponent, int):
        return plain  # nan and inf have no digits.
    first, *rest = (str(digit) for digit in digits)
    mantissa = ("-" if sign else "") + first + ("." + "".join(rest) if rest else "")
    scientific = f"{mantissa}e{exponent + len(rest)}"
    return scientific if len(scientific) < len(plain) else plain
