"""Single draws from a space: independent ones and points of a Sobol sequence; pure.

A draw is keyed by (seed, number, parameter), never taken from a running generator: the same file
and seed give the same settings on any machine and in any process, and a parameter more leaves the
independent draws of the others as they were. `suggest.py` decides which draws become runs.
"""

import hashlib

from orchestrator.errors import SpecError
from orchestrator.search.sobol import MAX_DIMENSIONS, sobol
from orchestrator.space.constraints import Rules, Setting
from orchestrator.space.space import Space


def keyed_uniform(*key: object) -> float:
    """A number in (0, 1) with 53 bits, the same for the same key wherever it is asked."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "surrogatepass")).digest()
    return ((int.from_bytes(digest[:8]) >> 11) + 0.5) / float(1 << 53)


def random_draw(space: Space, rules: Rules, seed: int, number: int) -> Setting:
    """The independent draw with this number; conditions are looked up in the rules' base."""
    return space.setting(
        rules.base, lambda p: p.domain.pick(keyed_uniform("draw", seed, number, p.key))
    )


def sobol_draw(space: Space, rules: Rules, seed: int, number: int) -> Setting:
    """The point with this number of a scrambled Sobol sequence, an axis for each parameter."""
    dimensions = {p.key: i for i, p in enumerate(space.parameters)}
    return space.setting(
        rules.base, lambda p: p.domain.pick(sobol(number, dimensions[p.key], seed))
    )


def check_dimensions(space: Space) -> None:
    """SpecError where a space has more parameters than our Sobol numbers reach."""
    if len(space.parameters) > MAX_DIMENSIONS:
        raise SpecError(
            f"search.method = 'sobol': reaches {MAX_DIMENSIONS} parameters, and this spec samples "
            f"{len(space.parameters)}; use random or tpe"
        )
