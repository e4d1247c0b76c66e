"""Durations, numbers, curves and values as short texts; pure."""

import itertools
import json
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

UNKNOWN = "–"
_BLOCKS = "▁▂▃▄▅▆▇█"

# What people say for these fields; every other field goes by its whole name.
SHORT_NAMES = {
    "learning_rate": "lr",
    "num_generations": "g",
    "batch_size": "bs",
    "gradient_accumulation_steps": "acc",
    "num_epochs": "ep",
    "temperature": "t",
    "clip_eps": "clip",
    "kl_coeff": "kl",
    "lora_rank": "r",
    "weight_decay": "wd",
    "seed": "s",
}


def duration(seconds: float | None) -> str:
    """`8s`, `3m 05s`, `2h 10m`, `3d 04h`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = max(0, round(seconds))
    for unit, size, small, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part:02d}{small}"
    return f"{whole}s"


def span(low_s: float, high_s: float) -> str:
    """`about 5m 00s`, or `5m – 8m 20s`: a time that is only known within bounds."""
    low, high = duration(_coarse(low_s)), duration(_coarse(high_s))
    return f"about {high}" if low == high else f"{low} – {high}"


def _coarse(seconds: float) -> float:
    """Two digits at most: more would pretend to know."""
    for step, least in ((3600, 36000), (600, 3600), (60, 600), (10, 60)):
        if seconds >= least:
            return round(seconds / step) * step
    return seconds


def between(low_s: float, high_s: float, now: datetime) -> str:
    """`between 18:20 and 19:05`, with the day where it is another one."""
    low, high = (now.astimezone() + timedelta(seconds=s) for s in (low_s, high_s))
    first, last = (time_of_day(when, now.astimezone()) for when in (low, high))
    return f"at {last}" if first == last else f"between {first} and {last}"


def time_of_day(when: datetime, now: datetime) -> str:
    """`18:20`, with the day where it is another one than now; both in one time zone."""
    days = (when.date() - now.date()).days
    if days == 0:
        return when.strftime("%H:%M")
    return when.strftime("%a %H:%M") if days < 7 else when.strftime("%Y-%m-%d")


def number(value: Any) -> str:
    """Four significant digits, as plain as they go; `–` for what is unknown."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or value == 0 or not math.isfinite(value):
        return str(value)
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def three_digits(value: Any) -> Any:
    """A float to three digits; anything else as it is."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def short_number(value: float) -> str:
    """The shortest text that reads back as the same number: `1e-5`, `0.05`, `3`."""
    # Not at the top: a look at the queue seldom shows such a number, and must be quick.
    from decimal import Decimal

    plain = repr(value).removesuffix(".0")
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if not isinstance(exponent, int):
        return plain  # nan and inf have no digits.
    first, *rest = (str(digit) for digit in digits)
    mantissa = ("-" if sign else "") + first + ("." + "".join(rest) if rest else "")
    scientific = f"{mantissa}e{exponent + len(rest)}"
    return scientific if len(scientific) < len(plain) else plain


def percent(value: Any) -> str:
    """0.455 as `45.5%`."""
    return UNKNOWN if not isinstance(value, int | float) else f"{100 * value:.1f}%"


def size(value: Any) -> str:
    """Bytes as `3.6 MB` or `12.4 GB`, decimal as disks and Macs count them."""
    if not isinstance(value, int | float):
        return UNKNOWN
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def metric(name: str, value: Any) -> str:
    """A metric as people read it: exact match in percent, memory in GB."""
    if name == "em":
        return percent(value)
    return size(value) if name.endswith("_bytes") else number(value)


def setting_value(value: Any) -> str:
    """A config value in a table: `1e-5`, `true`, `dapo`, `["a"]`."""
    if isinstance(value, float):
        return short_number(value)
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def settings(values: dict[str, Any]) -> str:
    """`learning_rate=1e-5 num_generations=8`."""
    return " ".join(f"{key}={setting_value(value)}" for key, value in values.items())


def counts(found: dict[Any, int]) -> str:
    """`2 completed, 1 running, 3 queued`: what there is of each, what is done first."""
    order = ("completed", "pruned", "failed", "cancelled", "running", "queued", "paused")
    return ", ".join(f"{found[state]} {state}" for state in order if found.get(state))


def plural(n: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def clock(iso: str | None) -> str:
    """An ISO time in UTC as the user's own date and time."""
    if iso is None:
        return UNKNOWN
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def sparkline(values: Sequence[float], width: int, low: float, high: float) -> str:
    """A curve in `width` characters or fewer, each the mean of its share of the values."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    cells = min(width, len(finite))
    edges = [round(i * len(finite) / cells) for i in range(cells + 1)]
    # Divided before they are added up: the sum of two large floats may be no float.
    means = [sum(v / (b - a) for v in finite[a:b]) for a, b in itertools.pairwise(edges)]
    span = high - low
    top = len(_BLOCKS) - 1
    heights = [0.5 if span <= 0 else (value - low) / span for value in means]
    return "".join(_BLOCKS[round(top * min(1.0, max(0.0, height)))] for height in heights)


def bar(share: float, width: int) -> str:
    """A progress bar of `width` characters, filled to `share` of it."""
    full = round(width * min(1.0, max(0.0, share)))
    return "━" * full + "─" * (width - full)


def run_ids(ids: Sequence[int]) -> str:
    """`run 3`, or `runs 3-5, 9`, as the commands take them; ids in rising order."""
    spans: list[list[int]] = []
    for number in ids:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    words = [str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans]
    return f"run{'' if len(ids) == 1 else 's'} {', '.join(words)}"
