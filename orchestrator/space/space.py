"""The space that a sweep samples: parameters, conditions under which they count, and draws; pure.

A draw is keyed by (seed, number, parameter), never taken from a running generator: the same file
and seed give the same settings on any machine and in any process, and a parameter more leaves the
draws of the others as they were. Which draws become runs is `search.py`'s business.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_core.config import FIELDS
from orchestrator.errors import SpecError
from orchestrator.search.sobol import MAX_DIMENSIONS, sobol
from orchestrator.space.constraints import Rules, Setting
from orchestrator.space.distributions import Choice, Domain, LogInt, Stepped
from orchestrator.space.expressions import Expression, in_order, parse
from orchestrator.spec.distributions import Fault, read_domain


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


def read_parameter(name: str, table: Mapping[str, Any], fault: Fault) -> Parameter | None:
    """The parameter that a table such as `{ dist = "uniform", min = 0, max = 1 }` describes.

    None after telling `fault` the path below the table and the reason, for each that there is.
    """
    domain = read_domain(name, table, fault)
    if "when" not in table:
        return Parameter((name,), domain) if domain else None
    text = table["when"]
    if not isinstance(text, str):
        fault(("when",), f"{text!r}: must be text, such as \"loss_type == 'dapo'\"")
        return None
    try:
        condition = parse(text, FIELDS)
    except SpecError as e:
        for reason in e.faults:
            fault(("when",), reason)
        return None
    return Parameter((name,), domain, condition) if domain else None


def axis(name: str, values: Sequence[Any]) -> Parameter:
    """A list of values as a parameter that takes each alike."""
    return Parameter((name,), Choice.of(tuple(values)))


def zipped(columns: Mapping[str, Sequence[Any]]) -> Parameter:
    """A `[[zip]]` as a parameter that takes each of its rows alike; columns of one length."""
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
    def conditional(self) -> bool:
        """Whether some parameters count only in some settings."""
        return any(p.when for p in self.parameters)

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


# --- draws


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
