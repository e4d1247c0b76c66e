"""What a sweep's TOML file says, as records; `reader.py` makes them."""

from dataclasses import dataclass
from typing import Any

from orchestrator.run import Limits, Objective, Retry, Search
from orchestrator.space.constraints import Rule
from orchestrator.space.expressions import Expression
from orchestrator.space.space import Parameter
from orchestrator.spec.base_config import Base
from orchestrator.spec.document import Faults
from orchestrator.stopping.rules import StopRule


@dataclass(frozen=True)
class ExplicitRun:
    """A `[[run]]` of the spec: its own overrides, crossed with nothing but the seeds."""

    index: int
    overrides: dict[str, Any]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Spec:
    """A sweep spec as read. Only without `faults` is it whole.

    `fixed` is the `[set]` table with the command line's `--set` over it, and what `[keep]` means.
    A grid turns `zips` and `axes`, the lists; any other search draws from `parameters`, which
    holds these and the distributions, in the order of the file.
    """

    source: str
    text: str
    overrides: tuple[str, ...]
    name: str
    base: Base
    output: str
    run_name: str | None
    seeds: tuple[int, ...]
    search: Search
    fixed: dict[str, Any]
    axes: dict[str, tuple[Any, ...]]
    zips: tuple[dict[str, tuple[Any, ...]], ...]
    parameters: tuple[Parameter, ...]
    explicit: tuple[ExplicitRun, ...]
    derive: dict[str, Expression]
    checks: tuple[Rule, ...]
    objective: Objective
    stop: StopRule
    limits: Limits
    retry: Retry
    faults: Faults
