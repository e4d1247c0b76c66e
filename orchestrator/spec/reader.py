"""A sweep's TOML file -> a validated Spec; every fault found at once, each with its place.

Reads the grammar of docs/specs.md. `plan/expand.py` crosses the axes, names the runs, and checks
what only shows in a whole run (fields that contradict each other).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_core.config import (
    FIELDS,
    MLXGRPOConfig,
    did_you_mean,
    must_be_file,
    parse_toml,
    set_field,
)
from grpo_core.errors import ConfigError
from orchestrator.errors import SpecError
from orchestrator.names import MAX_NAME_BYTES, cut, safe_name, sweep_name_fault
from orchestrator.run import Search
from orchestrator.space.constraints import Rule
from orchestrator.space.expressions import Expression, parse
from orchestrator.space.space import Parameter, axis, zipped
from orchestrator.spec.base_config import FrozenBase, nearest_message, read_base
from orchestrator.spec.document import MISSING, Document, Faults
from orchestrator.spec.fields import SEED_IN_EXPRESSION, TABLES, TOP_KEYS, FieldValues, too_many
from orchestrator.spec.mistaken import EXAMPLE, no_spec, take_for_params, unknown_top
from orchestrator.spec.positions import KeyPath, find_positions, key_text
from orchestrator.spec.spec import ExplicitRun, Spec
from orchestrator.spec.tables import (
    read_keep,
    read_limits,
    read_objective,
    read_retry,
    read_search,
    read_stop,
)

DEFAULT_OUTPUT = "outputs/{sweep}/{run}"
_NEEDS_SEARCH = (
    'a distribution cannot be gone through as a grid; say method = "random" and runs under [search]'
)


def read_spec(path: Path, overrides: Sequence[str] = ()) -> Spec:
    """The spec in a file, with every fault that shows in it.

    Raises SpecError where nothing more can be read: no file, no UTF-8, no TOML.
    """
    return parse_spec(_read_text(path), path, overrides)


def parse_spec(
    text: str, path: Path, overrides: Sequence[str] = (), frozen: FrozenBase | None = None
) -> Spec:
    """As `read_spec` for a text that lay at `path`, over a base that was frozen before."""
    source = str(path)
    try:
        values = parse_toml(text, source)
    except ConfigError as e:
        yaml = path.suffix in (".yaml", ".yml")
        raise SpecError(f"{source}: YAML; {EXAMPLE}" if yaml else "\n".join(e.faults)) from None
    except RecursionError:
        raise SpecError(f"{source}: nested too deeply") from None
    except ValueError:
        raise SpecError(f"{source}: a number has more digits than can be read") from None
    if fault := no_spec(path, values):
        raise SpecError(fault)
    faults = Faults(source, find_positions(text))
    if "parameters" in values and "params" not in values:
        take_for_params(values, faults)
    return _Reader(path, text, Document(values, faults)).spec(overrides, frozen)


def _read_text(path: Path) -> str:
    try:
        must_be_file(path)
        return path.read_text(encoding="utf-8-sig")
    except ConfigError as e:
        raise SpecError(*e.faults) from None
    except FileNotFoundError:
        raise SpecError(f"{path}: no such sweep file{nearest_message(path)}") from None
    except UnicodeDecodeError as e:
        raise SpecError(f"{path}: not UTF-8 text (byte {e.start}); save it as UTF-8") from None
    except (OSError, ValueError) as e:
        words = e.strerror if isinstance(e, OSError) else str(e)
        raise SpecError(f"{str(path)!r}: cannot be read: {words}") from None


def _name_from_file(path: Path) -> str:
    name = cut(safe_name(path.stem).lstrip(".-") or "sweep", MAX_NAME_BYTES)
    return cut(f"sweep-{name}", MAX_NAME_BYTES) if sweep_name_fault(name) else name


class _Reader:
    """Takes the spec apart; each method reads one part of the grammar and notes its faults."""

    def __init__(self, path: Path, text: str, document: Document) -> None:
        self.path = path
        self.text = text
        self.document = document
        self.values = FieldValues(document.faults)
        self._fault = document.faults.add

    def spec(self, overrides: Sequence[str], frozen: FrozenBase | None = None) -> Spec:
        """Everything that the document says."""
        document = self.document
        document.refuse_huge_numbers()
        self._top_level()
        moved = self._moved_names()
        base = read_base(document, self.path.parent, frozen)
        fixed = self._keep(self._set(overrides, moved, base.config), moved)
        explicit = self._runs()
        search = read_search(document)
        axes, drawn = self._params(search)
        zips = self._zips()
        base = read_base(document, self.path.parent, frozen)
        return Spec(
            source=str(self.path),
            text=self.text,
            overrides=tuple(overrides),
            name=self._name(),
            base=base,
            output=document.text("output", DEFAULT_OUTPUT),
            run_name=document.text("run_name", "") or None,
            seeds=self._seeds(moved, fixed, explicit),
            search=search,
            fixed=fixed,
            axes=axes,
            zips=zips,
            parameters=(*map(zipped, zips), *drawn),
            explicit=explicit,
            derive=self._derive(moved, explicit),
            checks=(
                *self._rules("exclude", "when", excludes=True),
                *self._rules("require", "that", excludes=False),
            ),
            objective=read_objective(document, base.held_out_score(fixed)),
            stop=read_stop(document, search),
            limits=read_limits(document),
            retry=read_retry(document),
            faults=document.faults,
        )

    # --- top level

    def _top_level(self) -> None:
        for key in self.document.values:
            if key not in TOP_KEYS and key not in TABLES:
                self._fault((key,), unknown_top(key))

    def _name(self) -> str:
        default = _name_from_file(self.path)
        name = self.document.text("name", default)
        fault = sweep_name_fault(name)
        if fault:
            self._fault(("name",), f"{name!r}: {fault}", " = ")
            return default
        return name

    # --- [params], [set], [[run]], seeds

    def _params(self, search: Search) -> tuple[dict[str, tuple[Any, ...]], list[Parameter]]:
        """The lists, and lists and distributions as parameters to draw."""
        axes, drawn = {}, []
        for name, given in self.document.table("params").items():
            path: KeyPath = ("params", name)
            if isinstance(given, dict):
                # { values = [...] } alone is W&B's way to write a list.
                if search.method == "grid" and set(given) != {"values"}:
                    self._fault(path, _NEEDS_SEARCH)
                seeds = "seeds" in self.document.values
                parameter = self.values.parameter(path, name, given, seeds)
                drawn += [parameter] if parameter else []
            elif values := self.values.axis(path, name, given):
                axes[name] = values
                drawn.append(axis(name, values))
        anything = self.document.table("params") or self.document.tables("zip")
        if search.method != "grid" and not anything:
            self._fault(("search",), "there is nothing to search; give [params]")
        return axes, drawn

    def _keep(self, fixed: dict[str, Any], moved: Mapping[str, KeyPath]) -> dict[str, Any]:
        """The fixed values with what `[keep]` sets."""
        kept = read_keep(self.document)
        for name in kept:
            if name in fixed or name in moved:
                self._fault(("keep", "checkpoints"), f"{name} is given too; keep one of them")
        return {**fixed, **kept}

    def _set(
        self,
        overrides: Sequence[str],
        moved: Mapping[str, KeyPath],
        base: MLXGRPOConfig | None,
    ) -> dict[str, Any]:
        fixed: dict[str, Any] = {}
        for name, value in self.document.table("set").items():
            path: KeyPath = ("set", name)
            if name in moved:
                other = "[params]" if moved[name][0] == "params" else "[[zip]]"
                self._fault(path, f"stands under {other} too; keep one of them")
            fitted = self.values.value(path, name, value)
            if fitted is not MISSING:
                fixed[name] = fitted
        for item in overrides:
            self._set_from_command_line(item, fixed, moved, base)
        return fixed

    def _set_from_command_line(
        self,
        item: str,
        fixed: dict[str, Any],
        moved: Mapping[str, KeyPath],
        base: MLXGRPOConfig | None,
    ) -> None:
        sign = "=" in item
        name = set_field(item)
        path: KeyPath = ("--set", name)
        if not sign:
            self._fault(("--set", item), "not an override; write key=value")
        elif name in moved:
            self._fault(path, "is an axis of the spec; change it there")
        elif self.values.known_field(path, name):
            config = replace(base or MLXGRPOConfig(), **fixed)
            fitted = self.values.from_text(path, name, item, config)
            if fitted is not MISSING:
                fixed[name] = fitted

    def _zips(self) -> tuple[dict[str, tuple[Any, ...]], ...]:
        found = (self._zip(index, table) for index, table in enumerate(self.document.tables("zip")))
        return tuple(columns for columns in found if columns)

    def _zip(self, index: int, table: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
        """The columns of a `[[zip]]`, one value a row; empty where they cannot be put together."""
        if not table:
            self._fault(("zip", index), "is empty; give it columns or drop it")
        sizes = {name: len(v) for name, v in table.items() if isinstance(v, list) and v}
        if len(set(sizes.values())) > 1:
            words = ", ".join(f"{name} has {size}" for name, size in sizes.items())
            self._fault(("zip", index), f"the columns differ in length: {words}")
        columns = {
            name: self.values.axis(("zip", index, name), name, v) for name, v in table.items()
        }
        whole = all(len(column) == sizes.get(name) for name, column in columns.items())
        return columns if whole and len(set(sizes.values())) == 1 else {}

    def _moved_names(self) -> dict[str, KeyPath]:
        """Every field that differs between grid points, with the place that says so."""
        moved: dict[str, KeyPath] = {
            name: ("params", name) for name in self.document.table("params")
        }
        for index, table in enumerate(self.document.tables("zip")):
            for name in table:
                path: KeyPath = ("zip", index, name)
                if name in moved:
                    self._fault(path, f"stands under {key_text(moved[name])} too; keep one")
                moved.setdefault(name, path)
        return moved

    def _runs(self) -> tuple[ExplicitRun, ...]:
        tables = self.document.tables("run")
        if fault := too_many(len(tables)):
            self._fault(("run",), fault)
            return ()
        return tuple(self._explicit(index, table) for index, table in enumerate(tables))

    def _explicit(self, index: int, table: dict[str, Any]) -> ExplicitRun:
        overrides = {}
        for name, value in table.items():
            if name == "tags":
                continue
            fitted = self.values.value(("run", index, name), name, value)
            if fitted is not MISSING:
                overrides[name] = fitted
        tags = table.get("tags", [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            self._fault(
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
        if "seeds" not in self.document.values:
            return ()
        given = self.document.values["seeds"]
        if not isinstance(given, list):
            self._fault(("seeds",), f"{given!r}: must be a list, such as [0, 1, 2]", " = ")
            return ()
        if not given:
            self._fault(("seeds",), "is empty; give it seeds or drop it")
        if fault := too_many(len(given)):
            self._fault(("seeds",), fault)
            return ()
        self._seed_twice(moved, fixed, explicit)
        seeds = [self.values.value(("seeds", i), "seed", seed) for i, seed in enumerate(given)]
        for i, seed in enumerate(seeds):
            if seed is not MISSING and seed in seeds[:i]:
                self._fault(("seeds", i), f"{seed!r}: stands twice", " = ")
        return tuple(seed for seed in seeds if seed is not MISSING)

    def _seed_twice(
        self,
        moved: Mapping[str, KeyPath],
        fixed: Mapping[str, Any],
        explicit: Sequence[ExplicitRun],
    ) -> None:
        both = "the top of the spec has `seeds` too; keep one of them"
        if "seed" in moved:
            self._fault(moved["seed"], both)
        if "seed" in fixed:
            origin = "set" if "seed" in self.document.table("set") else "--set"
            self._fault((origin, "seed"), both)
        for run in explicit:
            if "seed" in run.overrides:
                self._fault(("run", run.index, "seed"), both)

    # --- [derive], [[exclude]], [[require]]

    def _derive(
        self, moved: Mapping[str, KeyPath], explicit: Sequence[ExplicitRun]
    ) -> dict[str, Expression]:
        formulas = {}
        for name, text in self.document.table("derive").items():
            path: KeyPath = ("derive", name)
            if not self.values.known_field(path, name):
                continue
            given = name in moved or any(name in run.overrides for run in explicit)
            if given or name == "seed":
                self._fault(path, "cannot be both given and computed; keep one of them")
            formula = self._expression(path, text, "32 / lora_rank")
            if formula is not None:
                formulas[name] = formula
        return formulas

    def _rules(self, key: str, word: str, excludes: bool) -> list[Rule]:
        found = []
        for index, table in enumerate(self.document.tables(key)):
            path: KeyPath = (key, index)
            for name in table:
                if name != word:
                    hint = did_you_mean(name, (word,))
                    self._fault((*path, name), f"unknown key; [[{key}]] has `{word}`{hint}")
            if word not in table:
                if not table:
                    self._fault(path, f"must say `{word}`, a condition")
                continue
            condition = self._expression((*path, word), table[word], "learning_rate > 5e-6")
            if condition is not None:
                found.append(Rule(key_text(path), condition, excludes))
        return found

    def _expression(self, path: KeyPath, text: Any, example: str) -> Expression | None:
        if not isinstance(text, str):
            self._fault(path, f'{text!r}: must be text, such as "{example}"', " = ")
            return None
        try:
            expression = parse(text, FIELDS)
        except SpecError as e:
            for fault in e.faults:
                self._fault(path, fault)
            return None
        if "seed" in expression.names and "seeds" in self.document.values:
            self._fault(path, SEED_IN_EXPRESSION)
        return expression
