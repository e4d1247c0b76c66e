"""What every setting of a sweep goes through: `[derive]`, then `[[exclude]]` and `[[require]]`.

Pure, and the same for a grid point, a sample and an explicit run (docs/specs.md). What formulas
mean is decided in `expressions.py`; settings come from `expand.py` and `suggest.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.config import FIELDS, MLXGRPOConfig, check_value, validate
from grpo_core.errors import ConfigError
from orchestrator.errors import SpecError
from orchestrator.space.expressions import Expression
from orchestrator.space.order import in_order

Setting = dict[str, Any]
Identity = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Rule:
    """An `[[exclude]]` (settings for which it holds go) or a `[[require]]` (the others go)."""

    label: str
    """As in `exclude[0]`: which rule it is, for messages and counts."""
    condition: Expression
    excludes: bool

    def allows(self, env: Mapping[str, Any]) -> bool:
        """Whether a setting may stay; SpecError where the condition has no value."""
        try:
            return self.condition.holds(env) is not self.excludes
        except SpecError as e:
            raise SpecError(*(f"{self.label}: {fault}" for fault in e.faults)) from None

    def __str__(self) -> str:
        return f"{self.label}: {self.condition.text}"


@dataclass(frozen=True)
class Refusal:
    """Why a setting cannot run; `rule` is the same for all settings that the same thing refuses."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Rules:
    """The rules of a sweep over its base: every field's value with `[set]` applied."""

    base: Mapping[str, Any]
    derive: Mapping[str, Expression]
    """In the order in which they are computed; `Rules.of` finds it."""
    checks: tuple[Rule, ...] = ()

    @classmethod
    def of(
        cls,
        base: Mapping[str, Any],
        derive: Mapping[str, Expression] | None = None,
        checks: tuple[Rule, ...] = (),
    ) -> "Rules":
        """Rules whose formulas stand in the order of what they need.

        Raises SpecError that names the circle where formulas need each other.
        """
        formulas = derive or {}
        try:
            order = in_order({name: formula.names for name, formula in formulas.items()})
        except SpecError as e:
            raise SpecError(*(f"derive: {fault}" for fault in e.faults)) from None
        return cls(base, {name: formulas[name] for name in order}, checks)

    def env(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """Every field's value in a setting."""
        return {**self.base, **setting}

    def complete(self, setting: Mapping[str, Any]) -> Setting:
        """The setting with what is derived from it.

        Raises SpecError where a formula has no value, or one that the field cannot take.
        """
        env = self.env(setting)
        derived = {}
        for name, formula in self.derive.items():
            try:
                derived[name] = env[name] = _fitted(name, formula.evaluate(env))
            except SpecError as e:
                raise SpecError(*(f"derive.{name}: {fault}" for fault in e.faults)) from None
        return {**setting, **derived}

    def derived(self, setting: Mapping[str, Any]) -> Setting | Refusal:
        """As `complete`; a formula without a value refuses the setting."""
        try:
            return self.complete(setting)
        except SpecError as e:
            return _refused(e)

    def refusal(self, setting: Mapping[str, Any]) -> Refusal | None:
        """Why a setting as `complete` gives it cannot run; None where it can."""
        env = self.env(setting)
        try:
            for rule in self.checks:
                if not rule.allows(env):
                    return Refusal(rule.label, str(rule))
        except SpecError as e:
            return _refused(e)
        try:
            validate(_config(env))
        except ConfigError as e:
            return Refusal(_field_of(e.faults[0]), e.faults[0])
        return None

    def admit(self, setting: Mapping[str, Any]) -> Setting | Refusal:
        """The whole setting, or why it cannot run."""
        whole = self.derived(setting)
        return whole if isinstance(whole, Refusal) else self.refusal(whole) or whole

    def identity(self, setting: Mapping[str, Any]) -> Identity:
        """What two settings share exactly when they make the same run: all that is not the base."""
        changed = ((k, v) for k, v in setting.items() if k not in self.base or v != self.base[k])
        return tuple(sorted((name, repr(value)) for name, value in changed))


def _fitted(name: str, value: Any) -> Any:
    try:
        return check_value(name, value)
    except ConfigError as e:
        text = e.faults[0].removeprefix(f"{name} = ")
        hint = "; // divides to a whole number, int(x) cuts to one"
        wants_whole = FIELDS[name].type == "int" and isinstance(value, float)
        raise SpecError(f"gives {text}{hint if wants_whole else ''}") from None


def _refused(e: SpecError) -> Refusal:
    return Refusal(e.faults[0].partition(": ")[0], e.faults[0])


def _config(env: Mapping[str, Any]) -> MLXGRPOConfig:
    return MLXGRPOConfig(**{name: value for name, value in env.items() if name in FIELDS})


def _field_of(fault: str) -> str:
    return fault.partition(" ")[0].rstrip(":")
