"""The space that a sweep samples: parameters and the conditions under which they count; pure.

`spec/distributions.py` reads a parameter from a spec, `search/draws.py` draws settings.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.space.constraints import Setting
from orchestrator.space.distributions import Choice, Domain, LogInt, Stepped
from orchestrator.space.expressions import Expression
from orchestrator.space.order import in_order


@dataclass(frozen=True)
class Parameter:
    """A field that is sampled, or several that move together (a `[[zip]]`).

    With several `names` the domain is a Choice among tuples, one value a name. Where `when` does
    not hold the parameter is left out, and the base's value counts.
    """

    names: tuple[str, ...]
    domain: Domain
    when: Expression | None = None

    @property
    def key(self) -> str:
        """The name under which draws are keyed."""
        return "+".join(self.names)

    def counts(self, env: Mapping[str, Any]) -> bool:
        """Whether the parameter is part of a setting; `env` holds what stands before it."""
        try:
            return self.when is None or self.when.holds(env)
        except SpecError as e:
            raise SpecError(*(f"params.{self.key}.when: {fault}" for fault in e.faults)) from None

    def assign(self, picked: Any) -> Setting:
        """What a value of the domain sets."""
        return dict(zip(self.names, picked if len(self.names) > 1 else (picked,), strict=True))

    def value_in(self, env: Mapping[str, Any]) -> Any:
        """The value of the domain that a setting holds."""
        values = tuple(env[name] for name in self.names)
        return values if len(self.names) > 1 else values[0]


def axis(name: str, values: Sequence[Any]) -> Parameter:
    """A list of values as a parameter that takes each with equal probability."""
    return Parameter((name,), Choice.of(tuple(values)))


def zipped(columns: Mapping[str, Sequence[Any]]) -> Parameter:
    """A `[[zip]]` as a parameter that takes each row with equal probability."""
    if len(columns) == 1:
        return axis(*next(iter(columns.items())))
    return Parameter(tuple(columns), Choice.of(tuple(zip(*columns.values(), strict=True))))


@dataclass(frozen=True)
class Space:
    """Parameters in the order in which they are drawn; `Space.of` finds it."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, parameters: Iterable[Parameter], derived: Iterable[str] = ()) -> "Space":
        """The parameters, each after those that its condition names, else in the given order.

        Raises SpecError for a name that stands twice, conditions on derived fields, and circles.
        """
        given = tuple(parameters)
        faults = [*_doubled(given, derived), *_on_derived(given, tuple(derived))]
        if faults:
            raise SpecError(*faults)
        owner = {name: p.key for p in given for name in p.names}
        needs = {
            p.key: [owner[n] for n in (p.when.names if p.when else ()) if n in owner] for p in given
        }
        try:
            order = in_order(needs)
        except SpecError as e:
            raise SpecError(*(f"params: when: {fault}" for fault in e.faults)) from None
        by_key = {p.key: p for p in given}
        return cls(tuple(by_key[key] for key in order))

    @property
    def names(self) -> tuple[str, ...]:
        """Every field that is sampled."""
        return tuple(name for p in self.parameters for name in p.names)

    @property
    def size(self) -> int | None:
        """How many settings there are at most; None for a continuum."""
        sizes = [p.domain.size for p in self.parameters]
        return None if None in sizes else math.prod(s for s in sizes if s is not None)

    def setting(self, base: Mapping[str, Any], pick: Callable[[Parameter], Any]) -> Setting:
        """A setting with a value from `pick` for each parameter that counts."""
        setting: Setting = {}
        for parameter in self.parameters:
            if parameter.counts({**base, **setting}):
                setting.update(parameter.assign(pick(parameter)))
        return setting

    def every_setting(self, base: Mapping[str, Any]) -> Iterator[Setting]:
        """All settings of a finite space, the last parameter fastest."""
        return self._every(base, {}, 0)

    def _every(self, base: Mapping[str, Any], chosen: Setting, depth: int) -> Iterator[Setting]:
        if depth == len(self.parameters):
            yield chosen
            return
        parameter = self.parameters[depth]
        if not parameter.counts({**base, **chosen}):
            yield from self._every(base, chosen, depth + 1)
            return
        for value in _values(parameter.domain):
            yield from self._every(base, {**chosen, **parameter.assign(value)}, depth + 1)


def _doubled(parameters: Sequence[Parameter], derived: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in (name for p in parameters for name in p.names):
        if name in seen:
            yield f"params.{name}: is sampled twice; keep one of them"
        elif name in derived:
            yield f"params.{name}: stands under [derive] too; keep one of them"
        seen.add(name)


def _on_derived(parameters: Sequence[Parameter], derived: Sequence[str]) -> Iterator[str]:
    for p in parameters:
        for name in p.when.names if p.when else ():
            if name in derived:
                yield f"params.{p.key}.when: {name} is derived, which comes after the parameters"


def _values(domain: Domain) -> Iterator[Any]:
    assert isinstance(domain, Stepped | LogInt | Choice)  # A continuum has no list of values.
    return (domain.at(index) for index in range(domain.size))
