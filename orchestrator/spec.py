"""A sweep's TOML file -> a validated Spec; every fault found at once, each with its place.

Reads the grammar of the design's section 4. Crossing the axes, naming the runs and checking what
only shows in a whole run (fields that contradict each other) is `expand.py`'s business.
"""

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpo_core.config import (
    FIELDS,
    MLXGRPOConfig,
    apply_overrides,
    check_value,
    config_path,
    did_you_mean,
    load_toml_config,
    parse_toml,
    update_config_from_dict,
)
from grpo_core.errors import ConfigError
from orchestrator.errors import SpecError
from orchestrator.expressions import Expression, parse
from orchestrator.locate import KeyPath, Position, find_positions, key_text
from orchestrator.naming import MAX_NAME_BYTES, safe_name, sweep_name_fault
from orchestrator.rules import Rule
from orchestrator.run import RETRYABLE, Limits, Objective, Retry

DEFAULT_OUTPUT = "outputs/{sweep}/{run}"

TOP_KEYS = ("name", "config", "output", "run_name", "seeds")
TABLES = (
    *("set", "params", "zip", "run", "derive", "exclude", "require"),
    *("objective", "limits", "retry"),
)
NOT_YET = {
    "search": "search other than the full grid",
    "stop": "early stopping",
    "keep": "rules for checkpoints",
}
NOT_YET_LIMITS = ("wall", "run_wall", "disk")
# What a sweep gives to every run itself, and where to say it instead.
RESERVED = {
    "output_dir": "each run gets its own; say where with `output` at the top of the spec",
    "run_name": "each run gets its own; say how with `run_name` at the top of the spec",
}
# The keys of training_log.jsonl that can rank runs (design, section 3), beside reward/NAME.
METRICS = (
    "em",
    "loss",
    "grad_norm",
    "policy_reward",
    "kl",
    "reward_mean",
    "reward_std",
    "completion_length",
    "truncated_frac",
    "frac_reward_zero_std",
    "entropy",
    "clip_frac",
    "tokens_per_s",
    "rollout_s",
    "update_s",
    "peak_bytes",
)

_MISSING = object()


@dataclass(frozen=True)
class ExplicitRun:
    """A `[[run]]` of the spec: its own overrides, crossed with nothing but the seeds."""

    index: int
    overrides: dict[str, Any]
    tags: tuple[str, ...]


@dataclass
class Faults:
    """The faults of one spec, told in the order of the file."""

    source: str
    positions: Mapping[KeyPath, Position] = field(default_factory=dict)
    found: list[tuple[Position, str]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def add(self, path: KeyPath, text: str, separator: str = ": ") -> None:
        """A fault at a key of the spec (or of `--set`)."""
        self.keys.update(part for part in path if isinstance(part, str))
        if path[:1] == ("--set",):
            self.found.append((_END, f"--set {key_text(path[1:])}{separator}{text}"))
            return
        position = self._nearest(path)
        place = f"{self.source}:{position.line}:{position.column}" if position else self.source
        self.found.append((position or _END, f"{place}: {key_text(path)}{separator}{text}"))

    def copy(self) -> "Faults":
        """The same faults, to which more can be added."""
        return Faults(self.source, self.positions, list(self.found), set(self.keys))

    def add_elsewhere(self, text: str) -> None:
        """A fault in another file, whose place stands in the text."""
        self.found.append((_END, text))

    def lines(self) -> tuple[str, ...]:
        """Each fault once."""
        return tuple(dict.fromkeys(text for _, text in sorted(self.found, key=lambda f: f[0])))

    def _nearest(self, path: KeyPath) -> Position | None:
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path)


_END = Position(2**31, 0)


@dataclass(frozen=True)
class Spec:
    """A sweep spec as read. Only without `faults` is it whole.

    `fixed` is the `[set]` table with the command line's `--set` over it; `base` is None where the
    base config cannot be used.
    """

    source: str
    text: str
    name: str
    config_source: str
    config_text: str
    base: MLXGRPOConfig | None
    output: str
    run_name: str | None
    seeds: tuple[int, ...]
    fixed: dict[str, Any]
    axes: dict[str, tuple[Any, ...]]
    zips: tuple[dict[str, tuple[Any, ...]], ...]
    explicit: tuple[ExplicitRun, ...]
    derive: dict[str, Expression]
    checks: tuple[Rule, ...]
    objective: Objective
    limits: Limits
    retry: Retry
    faults: Faults


def read_spec(path: Path, overrides: Sequence[str] = ()) -> Spec:
    """The spec in a file, with every fault that shows in it.

    Raises SpecError where nothing more can be read: no file, no UTF-8, no TOML.
    """
    source = str(path)
    text = _read_text(path)
    try:
        document = parse_toml(text, source)
    except ConfigError as e:
        raise SpecError(*e.faults) from None
    except RecursionError:
        raise SpecError(f"{source}: nested too deeply") from None
    except ValueError:
        raise SpecError(f"{source}: a number has more digits than can be read") from None
    return _Reader(path, text, document, Faults(source, find_positions(text))).spec(overrides)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such sweep file{nearest_file(path)}") from None
    except UnicodeDecodeError as e:
        raise SpecError(f"{path}: not UTF-8 text (byte {e.start}); save it as UTF-8") from None
    except (OSError, ValueError) as e:
        words = e.strerror if isinstance(e, OSError) else str(e)
        raise SpecError(f"{str(path)!r}: cannot be read: {words}") from None


def nearest_file(path: Path) -> str:
    """`; the nearest is X` for a missing TOML file, or nothing."""
    folders = dict.fromkeys((path.parent, Path("sweeps"), Path("configs"), Path()))
    try:
        names = [p for folder in folders for p in sorted(folder.glob("*.toml"))]
    except (OSError, ValueError):  # A folder that cannot be listed, or no path at all.
        return ""
    near = [p for p in names if p.name != "pyproject.toml"]
    if not near:
        return ""
    best = max(near, key=lambda p: difflib.SequenceMatcher(None, p.name, path.name).ratio())
    return f"; the nearest is {best}"


def _name_from_file(path: Path) -> str:
    name = safe_name(path.stem).lstrip(".-")[:MAX_NAME_BYTES] or "sweep"
    return name if not sweep_name_fault(name) else f"sweep-{name}"


# --- the reader


@dataclass
class _Reader:
    path: Path
    text: str
    document: dict[str, Any]
    faults: Faults

    def spec(self, overrides: Sequence[str]) -> Spec:
        self._refuse_huge_numbers((), self.document)
        self._top_level()
        base, config_source, config_text = self._base()
        axes = self._params()
        zips = self._zips()
        moved = self._moved_names()
        fixed = self._set(overrides, moved)
        explicit = self._runs()
        seeds = self._seeds(moved, fixed, explicit)
        return Spec(
            source=str(self.path),
            text=self.text,
            name=self._name(),
            config_source=config_source,
            config_text=config_text,
            base=base,
            output=self._text("output", DEFAULT_OUTPUT),
            run_name=self._text("run_name", "") or None,
            seeds=seeds,
            fixed=fixed,
            axes=axes,
            zips=zips,
            explicit=explicit,
            derive=self._derive(moved, explicit),
            checks=(
                *self._rules("exclude", "when", excludes=True),
                *self._rules("require", "that", excludes=False),
            ),
            objective=self._objective(),
            limits=self._limits(),
            retry=self._retry(),
            faults=self.faults,
        )

    # --- top level

    def _refuse_huge_numbers(self, path: KeyPath, value: Any) -> None:
        """TOML promises 64 bits; more has no text that Python would print."""
        if isinstance(value, dict):
            for key in list(value):
                self._refuse_huge_numbers((*path, key), value[key])
                if _huge(value[key]):
                    value[key] = 0
        elif isinstance(value, list):
            for index, item in enumerate(value):
                self._refuse_huge_numbers((*path, index), item)
                if _huge(item):
                    value[index] = 0
        elif _huge(value):
            self.faults.add(path, "the number is too large for 64 bits")

    def _top_level(self) -> None:
        for key in self.document:
            if key in NOT_YET:
                self.faults.add((key,), f"{NOT_YET[key]}: not there yet")
            elif key not in TOP_KEYS and key not in TABLES:
                self.faults.add((key,), _unknown_top(key))

    def _text(self, key: str, default: str) -> str:
        value = self.document.get(key, default)
        if not isinstance(value, str):
            self.faults.add((key,), f"{value!r}: must be text", " = ")
            return default
        if key in self.document and not value.strip():
            self.faults.add((key,), "must not be empty")
            return default
        return value

    def _name(self) -> str:
        default = _name_from_file(self.path)
        name = self._text("name", default)
        fault = sweep_name_fault(name)
        if fault:
            self.faults.add(("name",), f"{name!r}: {fault}", " = ")
            return default
        return name

    def _table(self, key: str) -> dict[str, Any]:
        value = self.document.get(key, {})
        if isinstance(value, dict):
            return value
        self.faults.add((key,), f"must be a table, [{key}]")
        return {}

    # --- the base config

    def _base(self) -> tuple[MLXGRPOConfig | None, str, str]:
        given = self._text("config", "") if "config" in self.document else ""
        file = self.path.parent / os.path.expanduser(given) if given else Path(config_path(None))
        try:
            if not file.exists():
                self._config_missing(file, given)
                return None, str(file), ""
            shown = _shown(file)
            config = MLXGRPOConfig()
            warnings: list[str] = []
            update_config_from_dict(config, load_toml_config(file), warnings.append)
            text = file.read_text(encoding="utf-8-sig")
        except ConfigError as e:
            for fault in e.faults:
                self.faults.add_elsewhere(fault)
            return None, str(file), ""
        except (OSError, ValueError) as e:
            self.faults.add(("config",), f"{given!r}: cannot be read: {e}", " = ")
            return None, str(file), ""
        self._config_warnings(shown, warnings)
        return config, shown, text

    def _config_missing(self, file: Path, given: str) -> None:
        if given:
            self.faults.add(
                ("config",),
                f"{given!r}: no such file: {os.path.normpath(file)}{nearest_file(file)}",
                " = ",
            )
        else:
            self.faults.add(
                ("config",),
                f"none is named, and {file} does not exist{nearest_file(file)}; "
                'write config = "path/to/base.toml" (relative to the spec)',
            )

    def _config_warnings(self, shown: str, warnings: Sequence[str]) -> None:
        """Unknown keys are faults in a sweep; values that do not fit show when runs resolve."""
        lead = "[warn] unknown config key: "
        for line in warnings:
            if line.startswith(lead):
                key = line.removeprefix(lead)
                self.faults.add_elsewhere(
                    f"{shown}: {key}: unknown field{did_you_mean(key, FIELDS)}"
                    + ("" if did_you_mean(key, FIELDS) else "; a tag belongs into [extra]")
                )

    # --- values of fields

    def _value(self, path: KeyPath, name: str, value: Any) -> Any:
        """The value as the field's type, or _MISSING after noting why it cannot stand."""
        if not self._known_field(path, name):
            return _MISSING
        try:
            fitted = check_value(name, value)
        except ConfigError as e:
            text = e.faults[0].removeprefix(f"{name} = ")
            self.faults.add(path, text + _list_hint(path, name, value), " = ")
            return _MISSING
        fault = _sweep_fault(name, fitted)
        if fault:
            self.faults.add(path, fault)
            return _MISSING
        return fitted

    def _known_field(self, path: KeyPath, name: str) -> bool:
        if name in RESERVED:
            self.faults.add(path, RESERVED[name])
        elif name in (*TOP_KEYS, *TABLES):
            self.faults.add(path, f"unknown field; {name} belongs to the top of the spec")
        elif name not in FIELDS:
            self.faults.add(path, f"unknown field{did_you_mean(name, FIELDS)}")
        else:
            return True
        return False

    # --- [params], [set], [[run]], seeds

    def _params(self) -> dict[str, tuple[Any, ...]]:
        axes = {}
        for name, values in self._table("params").items():
            axis = self._axis(("params", name), name, values)
            if axis:
                axes[name] = axis
        return axes

    def _axis(self, path: KeyPath, name: str, values: Any) -> tuple[Any, ...]:
        if not self._known_field(path, name):
            return ()
        if isinstance(values, dict):
            self.faults.add(path, "distributions: not there yet; an axis is a list of values")
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
        found = [self._value((*path, i), name, value) for i, value in enumerate(values)]
        return tuple(value for value in found if value is not _MISSING)

    def _set(self, overrides: Sequence[str], moved: Mapping[str, KeyPath]) -> dict[str, Any]:
        fixed = {}
        for name, value in self._table("set").items():
            path: KeyPath = ("set", name)
            if name in moved:
                other = "[params]" if moved[name][0] == "params" else "[[zip]]"
                self.faults.add(path, f"stands under {other} too; keep one of them")
            fitted = self._value(path, name, value)
            if fitted is not _MISSING:
                fixed[name] = fitted
        for item in overrides:
            self._set_from_command_line(item, fixed, moved)
        return fixed

    def _set_from_command_line(
        self, item: str, fixed: dict[str, Any], moved: Mapping[str, KeyPath]
    ) -> None:
        name, sign, text = (part.strip() for part in item.partition("="))
        path: KeyPath = ("--set", name)
        if not sign:
            self.faults.add(("--set", item), "not an override; write key=value")
        elif not self._known_field(path, name):
            return
        elif name in moved:
            self.faults.add(path, "is an axis of the spec; change it there")
        else:
            config = MLXGRPOConfig()
            try:
                value = getattr(apply_overrides(config, [item], strict=True), name)
            except ConfigError:
                value = text
            fitted = self._value(path, name, value)
            if fitted is not _MISSING:
                fixed[name] = fitted

    def _tables(self, key: str) -> list[dict[str, Any]]:
        tables = self.document.get(key, [])
        if isinstance(tables, list) and all(isinstance(table, dict) for table in tables):
            return tables
        self.faults.add((key,), f"must be a list of tables; write [[{key}]]")
        return []

    def _zips(self) -> tuple[dict[str, tuple[Any, ...]], ...]:
        found = (self._zip(index, table) for index, table in enumerate(self._tables("zip")))
        return tuple(columns for columns in found if columns)

    def _zip(self, index: int, table: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
        """The columns of a `[[zip]]`, one value a row; empty where they cannot be put together."""
        if not table:
            self.faults.add(("zip", index), "is empty; give it columns or drop it")
        sizes = {name: len(v) for name, v in table.items() if isinstance(v, list) and v}
        if len(set(sizes.values())) > 1:
            words = ", ".join(f"{name} has {size}" for name, size in sizes.items())
            self.faults.add(("zip", index), f"the columns differ in length: {words}")
        columns = {name: self._axis(("zip", index, name), name, v) for name, v in table.items()}
        whole = all(len(column) == sizes.get(name) for name, column in columns.items())
        return columns if whole and len(set(sizes.values())) == 1 else {}

    def _moved_names(self) -> dict[str, KeyPath]:
        """Every field that differs between grid points, with the place that says so."""
        moved: dict[str, KeyPath] = {name: ("params", name) for name in self._table("params")}
        for index, table in enumerate(self._tables("zip")):
            for name in table:
                path: KeyPath = ("zip", index, name)
                if name in moved:
                    self.faults.add(path, f"stands under {key_text(moved[name])} too; keep one")
                moved.setdefault(name, path)
        return moved

    def _runs(self) -> tuple[ExplicitRun, ...]:
        tables = self._tables("run")
        return tuple(self._explicit(index, table) for index, table in enumerate(tables))

    def _explicit(self, index: int, table: dict[str, Any]) -> ExplicitRun:
        overrides = {}
        for name, value in table.items():
            if name == "tags":
                continue
            fitted = self._value(("run", index, name), name, value)
            if fitted is not _MISSING:
                overrides[name] = fitted
        tags = table.get("tags", [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            self.faults.add(
                ("run", index, "tags"), f'{tags!r}: must be a list of texts, such as ["a"]', " = "
            )
            tags = []
        return ExplicitRun(index, overrides, tuple(tags))

    def _seeds(
        self,
        moved: Mapping[str, KeyPath],
        fixed: Mapping[str, Any],
        explicit: Sequence[ExplicitRun],
    ) -> tuple[int, ...]:
        if "seeds" not in self.document:
            return ()
        given = self.document["seeds"]
        if not isinstance(given, list):
            self.faults.add(("seeds",), f"{given!r}: must be a list, such as [0, 1, 2]", " = ")
            return ()
        if not given:
            self.faults.add(("seeds",), "is empty; give it seeds or drop it")
        self._seed_twice(moved, fixed, explicit)
        seeds = [self._value(("seeds", i), "seed", seed) for i, seed in enumerate(given)]
        for i, seed in enumerate(seeds):
            if seed is not _MISSING and seed in seeds[:i]:
                self.faults.add(("seeds", i), f"{seed!r}: stands twice", " = ")
        return tuple(seed for seed in seeds if seed is not _MISSING)

    def _seed_twice(
        self,
        moved: Mapping[str, KeyPath],
        fixed: Mapping[str, Any],
        explicit: Sequence[ExplicitRun],
    ) -> None:
        both = "the top of the spec has `seeds` too; keep one of them"
        if "seed" in moved:
            self.faults.add(moved["seed"], both)
        if "seed" in fixed:
            origin = "set" if "seed" in self._table("set") else "--set"
            self.faults.add((origin, "seed"), both)
        for run in explicit:
            if "seed" in run.overrides:
                self.faults.add(("run", run.index, "seed"), both)

    # --- [derive], [[exclude]], [[require]]

    def _derive(
        self, moved: Mapping[str, KeyPath], explicit: Sequence[ExplicitRun]
    ) -> dict[str, Expression]:
        formulas = {}
        for name, text in self._table("derive").items():
            path: KeyPath = ("derive", name)
            if not self._known_field(path, name):
                continue
            given = name in moved or any(name in run.overrides for run in explicit)
            if given or name == "seed":
                self.faults.add(path, "cannot be both given and computed; keep one of them")
            formula = self._expression(path, text, "32 / lora_rank")
            if formula is not None:
                formulas[name] = formula
        return formulas

    def _rules(self, key: str, word: str, excludes: bool) -> list[Rule]:
        found = []
        for index, table in enumerate(self._tables(key)):
            path: KeyPath = (key, index)
            for name in table:
                if name != word:
                    hint = did_you_mean(name, (word,))
                    self.faults.add((*path, name), f"unknown key; [[{key}]] has `{word}`{hint}")
            if word not in table:
                if not table:
                    self.faults.add(path, f"must say `{word}`, a condition")
                continue
            condition = self._expression((*path, word), table[word], "learning_rate > 5e-6")
            if condition is not None:
                found.append(Rule(key_text(path), condition, excludes))
        return found

    def _expression(self, path: KeyPath, text: Any, example: str) -> Expression | None:
        if not isinstance(text, str):
            self.faults.add(path, f'{text!r}: must be text, such as "{example}"', " = ")
            return None
        try:
            expression = parse(text, FIELDS)
        except SpecError as e:
            for fault in e.faults:
                self.faults.add(path, fault)
            return None
        if "seed" in expression.names and "seeds" in self.document:
            self.faults.add(path, "seeds are given to a setting when it is whole; leave seed out")
        return expression

    # --- [objective], [limits], [retry]

    def _known_keys(self, key: str, known: Sequence[str]) -> dict[str, Any]:
        table = self._table(key)
        for name in table:
            if name not in known:
                self.faults.add((key, name), f"unknown key{did_you_mean(name, known)}")
        return {name: value for name, value in table.items() if name in known}

    def _checked(
        self, table: str, values: Mapping[str, Any], name: str, check: Callable[[Any], str]
    ) -> Any:
        """The value of a key, or _MISSING where it is not given or does not pass the check."""
        value = values.get(name, _MISSING)
        if value is _MISSING:
            return _MISSING
        fault = check(value)
        if fault:
            self.faults.add((table, name), f"{value!r}: must be {fault}", " = ")
            return _MISSING
        return value

    def _objective(self) -> Objective:
        values = self._known_keys("objective", ("metric", "goal", "reduce"))
        checks = {"metric": _check_metric, "goal": _check_goal, "reduce": _check_reduce}
        found = {
            name: self._checked("objective", values, name, check) for name, check in checks.items()
        }
        return Objective(**{name: v for name, v in found.items() if v is not _MISSING})

    def _limits(self) -> Limits:
        values = self._known_keys("limits", ("max_failures", *NOT_YET_LIMITS))
        for name in NOT_YET_LIMITS:
            if name in values:
                self.faults.add(("limits", name), "not there yet")
        count = self._checked("limits", values, "max_failures", _check_count)
        return Limits() if count is _MISSING else Limits(max_failures=count)

    def _retry(self) -> Retry:
        values = self._known_keys("retry", ("max", "on"))
        most = self._checked("retry", values, "max", _check_count)
        causes = self._checked("retry", values, "on", _check_causes)
        default = Retry()
        return Retry(
            max=default.max if most is _MISSING else most,
            on=default.on if causes is _MISSING else tuple(causes),
        )


def _huge(value: Any) -> bool:
    return type(value) is int and not -(2**63) <= value < 2**63


def _shown(file: Path) -> str:
    """The path from the working folder where the file lies under it, else the whole path."""
    real = file.resolve()
    try:
        return str(real.relative_to(Path.cwd()))
    except ValueError:
        return str(real)


def _unknown_top(key: str) -> str:
    if key in FIELDS:
        return "a config field; put one value for all runs under [set], a list under [params]"
    return f"unknown key{did_you_mean(key, (*TOP_KEYS, *TABLES))}"


def _list_hint(path: KeyPath, name: str, value: Any) -> str:
    if isinstance(value, list) and not FIELDS[name].type.startswith("list["):
        return "" if path[0] == "params" else "; a list of values to try belongs under [params]"
    if path[0] == "params" and FIELDS[name].type.startswith("list["):
        return f"; {name} is a list itself, so its axis is a list of lists"
    return ""


def _sweep_fault(name: str, value: Any) -> str:
    if name == "log_jsonl" and value is False:
        return "a sweep reads its results from the training log; leave log_jsonl on"
    if name == "dry_run" and value is True:
        return "a dry run trains nothing; use `grpo-sweep submit --dry-run`"
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and "\0" in text for text in texts):
        return "holds a NUL character, which cannot be passed to a process"
    return ""


def _toml_like(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _check_metric(value: Any) -> str:
    if isinstance(value, str) and (value in METRICS or value.startswith("reward/")):
        return ""
    near = did_you_mean(value, METRICS) if isinstance(value, str) else ""
    return f"a key of the training log: {', '.join(METRICS)} or reward/NAME{near}"


def _check_goal(value: Any) -> str:
    return "" if value in ("max", "min") else "max or min"


def _check_reduce(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"last|best|last:[1-9][0-9]{0,5}", value):
        return ""
    return "last, best or last:N (the mean of the last N)"


def _check_count(value: Any) -> str:
    return "" if type(value) is int and value >= 0 else "a whole number, 0 or more"


def _check_causes(value: Any) -> str:
    if isinstance(value, list) and all(item in tuple(RETRYABLE) for item in value):
        return ""
    return f"a list out of {', '.join(RETRYABLE)}"
