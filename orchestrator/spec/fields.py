"""Values that a spec gives to config fields: checked as the trainer would, faults placed."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from grpo_core.config import FIELDS, MLXGRPOConfig, apply_overrides, check_value, did_you_mean
from grpo_core.errors import ConfigError
from orchestrator.space.distributions import Choice
from orchestrator.space.space import Parameter
from orchestrator.spec.distributions import read_parameter
from orchestrator.spec.document import MISSING, Faults
from orchestrator.spec.positions import KeyPath

# Keys of the spec itself, which are easily put into the wrong table.
TOP_KEYS = ("name", "config", "output", "run_name", "seeds")
TABLES = (
    *("set", "params", "zip", "run", "derive", "exclude", "require"),
    *("search", "objective", "stop", "limits", "retry", "keep"),
)
SEED_IN_EXPRESSION = "seeds are given to a setting when it is whole; leave seed out"
# What a sweep gives to every run itself, and where to say it instead.
RESERVED = {
    "output_dir": "each run gets its own; say where with `output` at the top of the spec",
    "run_name": "each run gets its own; say how with `run_name` at the top of the spec",
}
# What a sweep cannot give to a run, and why.
FORBIDDEN = {
    "log_jsonl": (False, "a sweep reads its results from the training log; leave log_jsonl on"),
    "dry_run": (True, "a dry run trains nothing; use `grpo-sweep submit --dry-run`"),
}


# More is a mistake in a sweep for one GPU: at a minute a run this is a week.
MAX_RUNS = 10_000


@dataclass
class FieldValues:
    """Takes values for fields out of a spec."""

    faults: Faults

    def value(self, path: KeyPath, name: str, value: Any) -> Any:
        """The value as the field's type, or MISSING after noting why it cannot be."""
        if not self.known_field(path, name):
            return MISSING
        try:
            fitted = check_value(name, value)
        except ConfigError as e:
            text = e.faults[0].removeprefix(f"{name} = ")
            self.faults.add(path, text + _list_hint(path, name, value), " = ")
            return MISSING
        fault = _sweep_fault(name, fitted)
        if fault:
            self.faults.add(path, fault)
            return MISSING
        return fitted

    def known_field(self, path: KeyPath, name: str) -> bool:
        """Whether a spec may give this field a value; else the fault is noted."""
        if name in RESERVED:
            self.faults.add(path, RESERVED[name])
        elif name in FIELDS:  # First: `stop` is a field, and a table of the spec.
            return True
        elif name in (*TOP_KEYS, *TABLES):
            self.faults.add(path, f"unknown field; {name} belongs to the top of the spec")
        else:
            self.faults.add(path, f"unknown field{did_you_mean(name, FIELDS)}")
        return False

    def axis(self, path: KeyPath, name: str, values: Any) -> tuple[Any, ...]:
        """The values of a list, without those that cannot stand."""
        if not self.known_field(path, name):
            return ()
        if not isinstance(values, list):
            self.faults.add(
                path,
                f"{values!r}: an axis is a list; write [{_toml_like(values)}], "
                "or put one value for all runs under [set]",
                " = ",
            )
            return ()
        if not values:
            self.faults.add(path, "an empty axis has no runs; give it values or drop it")
        if fault := too_many(len(values)):
            self.faults.add(path, fault)
            return ()
        found = [self.value((*path, i), name, value) for i, value in enumerate(values)]
        return tuple(value for value in found if value is not MISSING)

    def parameter(
        self, path: KeyPath, name: str, table: Mapping[str, Any], seeds: bool
    ) -> Parameter | None:
        """What a distribution describes; None after noting why it cannot be.

        With `seeds` a setting is whole before it gets its seed, which no condition may name.
        """
        if not self.known_field(path, name):
            return None
        before = len(self.faults.found)
        parameter = read_parameter(
            name, table, lambda below, text: self.faults.add((*path, *below), text)
        )
        if parameter is None:
            return None
        if isinstance(parameter.domain, Choice):
            for value in parameter.domain.values:
                if fault := _sweep_fault(name, value):
                    self.faults.add((*path, "values"), fault)
        if seeds and parameter.when is not None and "seed" in parameter.when.names:
            self.faults.add((*path, "when"), SEED_IN_EXPRESSION)
        return parameter if len(self.faults.found) == before else None

    def from_text(self, path: KeyPath, name: str, item: str, config: MLXGRPOConfig) -> Any:
        """The value of a `--set` item, read over `config` as the trainer does; MISSING as above."""
        try:
            value = getattr(apply_overrides(deepcopy(config), [item], strict=True), name)
        except ConfigError:
            value = item.partition("=")[2].strip()
        return self.value(path, name, value)


def too_many(count: int) -> str:
    """What is wrong with so many values, rows or seeds, each a run at least; else empty.

    Said before they are looked at: a number has a few characters, and a billion runs take hours.
    """
    return f"makes {count:,} runs; a sweep can have {MAX_RUNS:,}" if count > MAX_RUNS else ""


def _list_hint(path: KeyPath, name: str, value: Any) -> str:
    if isinstance(value, list) and not FIELDS[name].type.startswith("list["):
        return "" if path[0] == "params" else "; a list of values to try belongs under [params]"
    if path[0] == "params" and FIELDS[name].type.startswith("list["):
        return f"; {name} is a list itself, so its axis is a list of lists"
    if path[0] == "--set" and isinstance(value, str) and "," in value:
        return f"; several values are an axis: {name} = [{value}] under [params]"
    return ""


def _sweep_fault(name: str, value: Any) -> str:
    if name in FORBIDDEN and value is FORBIDDEN[name][0]:
        return FORBIDDEN[name][1]
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and "\0" in text for text in texts):
        return "holds a NUL character, which cannot be passed to a process"
    return ""


def _toml_like(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
