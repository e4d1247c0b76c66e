"""The `[stop]` table of a spec: which rule prunes runs, and what it is given.

`health.py`, `median.py` and `halving.py` are the rules, `replay.py` says what one would have done
to a sweep that is over. The worker acts on their decisions.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.stopping.health import NAN, HealthRule

RULES = ("none", "median", "halving")

# A share of a run as JSON Schema says it: the editor's grammar and `parse_share` are one.
SHARE_NUMBER = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
SHARE_TEXT = {
    "type": "string",
    "pattern": r"^ *(?=[0-9.]*[1-9])[0-9]{1,2}(\.[0-9]{1,6})? *% *$",
}
SHARE_WORDS = 'a share above 0% and below 100%, such as "30%"'


@dataclass(frozen=True)
class StopRule:
    """The `[stop]` table: one of RULES, the share of a run that is left alone, health rules."""

    rule: str = "none"
    warmup: float = 0.3
    health: tuple[HealthRule, ...] = (NAN,)
    eta: int = 2
    """Halving keeps one setting in so many at each rung."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """The shares of a run at which halving compares: 30% and 60% with the defaults."""
        shares, share = [], self.warmup
        while share < 1:
            shares.append(share)
            share *= self.eta
        return tuple(shares)


def parse_share(value: Any) -> float:
    """A share of a run from `"30%"` or 0.3, above 0 and below 1; SpecError otherwise."""
    if isinstance(value, str) and re.fullmatch(SHARE_TEXT["pattern"], value):
        return float(value.rstrip("% ")) / 100
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise SpecError(f"{value!r}: must be {SHARE_WORDS}")


def stop_rule(stored: Mapping[str, Any]) -> StopRule:
    """The rule of a sweep, as its row stores it; the default where it stores none."""
    if not stored:
        return StopRule()
    health = tuple(HealthRule(**rule) for rule in stored["health"])
    return StopRule(stored["rule"], stored["warmup"], health, stored["eta"])
