"""Spec -> the ordered runs of a sweep; pure: the same spec gives the same runs anywhere.

Explicit runs come first, then zip rows, then axes with the last one fastest; what the rules refuse
is dropped, equal runs are merged; seeds are outermost, so that every setting runs once before any
gets its second seed (design, section 4). Reads no files: `spec.py` has read the spec and its base.
"""

import itertools
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo_core.config import (
    FIELDS,
    MLXGRPOConfig,
    config_hash,
    format_override,
    format_value,
    validate,
)
from grpo_core.errors import ConfigError
from orchestrator.document import Faults
from orchestrator.errors import SpecError
from orchestrator.locate import KeyPath
from orchestrator.naming import default_names, fill, folded, name_fault, template_faults
from orchestrator.rules import Rule, Rules
from orchestrator.run import Plan, PlannedRun
from orchestrator.spec import Spec

# More is a mistake in a grid for one GPU: at a minute a run this is a week.
MAX_RUNS = 10_000
# Looking at a combination that a rule drops is quick, but not free.
MAX_COMBINATIONS = 100_000


@dataclass(frozen=True)
class Setting:
    """One point of the grid: `overrides` in the order in which they are passed, without the seed.

    `seed` is the setting's own, where the spec gives one outside of `seeds`.
    """

    overrides: dict[str, Any]
    seed: int | None
    tags: tuple[str, ...]
    origin: KeyPath


@dataclass(frozen=True)
class Expansion:
    """The settings of a sweep; `merged` counts the equal ones of which one was kept.

    `dropped` counts for each rule, as `exclude[0]: TEXT`, the settings that it refused.
    `differing` are the keys whose values are not the same in all runs, `seed` among them.
    """

    spec: Spec
    settings: tuple[Setting, ...]
    merged: int
    dropped: dict[str, int]
    differing: tuple[str, ...]

    def plan(self, name: str, cwd: str) -> Plan:
        """The plan under a given name, to run in the folder `cwd`.

        Raises SpecError where the names of runs or folders clash.
        """
        spec = self.spec
        faults = Faults(spec.source, spec.faults.positions)
        runs = tuple(_planned_runs(self, name, faults))
        if faults.found:
            raise SpecError(*faults.lines())
        return Plan(
            name=name,
            config_text=spec.base.text,
            config_source=spec.base.source,
            spec_text=spec.text,
            cwd=cwd,
            objective=spec.objective,
            limits=spec.limits,
            retry=spec.retry,
            runs=runs,
        )


def expand(spec: Spec) -> Expansion:
    """The settings of a spec, in order.

    Raises SpecError with the spec's own faults and those that only show in whole runs.
    """
    faults = spec.faults.copy()
    _check_templates(spec, faults)
    size = _size(spec)
    if size > MAX_COMBINATIONS:
        faults.add(("params",), f"makes {size:,} combinations; a sweep can have {MAX_RUNS:,} runs")
    base = spec.base.config
    if base is None or size > MAX_COMBINATIONS:
        raise SpecError(*faults.lines())
    kept, dropped = _ruled(spec, base, list(_settings(spec)), faults)
    settings, merged = _merged(base, kept)
    count = len(settings) * max(1, len(spec.seeds))
    if count > MAX_RUNS:
        faults.add(("params",), f"makes {count:,} runs; a sweep can have {MAX_RUNS:,}")
    _check_settings(spec, base, settings, faults)
    if faults.found:
        raise SpecError(*faults.lines())
    differing = _differing(spec, base, settings)
    expansion = Expansion(spec, settings, merged, dropped, differing)
    expansion.plan(spec.name, cwd="")  # Clashes of names are faults of the spec too.
    return expansion


# --- the grid


def _size(spec: Spec) -> int:
    grid = math.prod(len(values) for values in spec.axes.values())
    grid *= math.prod(len(next(iter(columns.values()))) for columns in spec.zips)
    return len(spec.explicit) + (grid if _has_grid(spec) else 0)


def _has_grid(spec: Spec) -> bool:
    """A spec of explicit runs alone has no other; one without any has the base as its only run."""
    return bool(spec.axes or spec.zips or not spec.explicit)


def _settings(spec: Spec) -> Iterator[Setting]:
    for run in spec.explicit:
        yield _setting(spec.fixed, run.overrides, run.tags, ("run", run.index))
    if _has_grid(spec):
        for parts in itertools.product(*_rows(spec)):
            point = {name: value for part in parts for name, value in part.items()}
            yield _setting(spec.fixed, point, (), ("params",))


def _rows(spec: Spec) -> Iterator[list[dict[str, Any]]]:
    """What each `[[zip]]` and each axis can set, in the order in which they turn."""
    for columns in spec.zips:
        rows = zip(*columns.values(), strict=True)
        yield [dict(zip(columns, row, strict=True)) for row in rows]
    for name, values in spec.axes.items():
        yield [{name: value} for value in values]


def _setting(
    fixed: Mapping[str, Any], own: Mapping[str, Any], tags: tuple[str, ...], origin: KeyPath
) -> Setting:
    overrides = {**fixed, **own}
    return Setting(overrides, overrides.pop("seed", None), tags, origin)


def _ruled(
    spec: Spec, base: MLXGRPOConfig, settings: Sequence[Setting], faults: Faults
) -> tuple[list[Setting], dict[str, int]]:
    """The settings with what is derived, without those that a rule refuses; counts by rule."""
    if faults.found or not (spec.derive or spec.checks):
        return list(settings), {}
    kept: list[Setting] = []
    dropped: Counter[str] = Counter()
    try:
        rules = Rules.of(vars(base), spec.derive, spec.checks)
    except SpecError as e:
        _add_labelled(e, faults)
        return kept, {}
    for setting in settings:
        try:
            whole, refusing = _judged(rules, setting)
        except SpecError as e:
            _add_labelled(e, faults)
            continue
        if refusing is None:
            kept.append(replace(setting, overrides=whole))
        else:
            dropped[str(refusing)] += 1
    if not kept and not faults.found:
        words = "; ".join(f"{rule} drops {n}" for rule, n in dropped.items())
        faults.add_elsewhere(f"{spec.source}: no run is left of {len(settings)}: {words}")
    return kept, dict(dropped)


def _judged(rules: Rules, setting: Setting) -> tuple[dict[str, Any], Rule | None]:
    """The whole overrides of a setting, and the first rule that refuses it."""
    seed = {} if setting.seed is None else {"seed": setting.seed}
    whole = rules.complete({**setting.overrides, **seed})
    env = rules.env(whole)
    refusing = next((rule for rule in rules.checks if not rule.allows(env)), None)
    return {name: value for name, value in whole.items() if name != "seed"}, refusing


_LABEL = re.compile(r"(derive)(?:\.(\w+))?: |(exclude|require)\[(\d+)\]: ")


def _add_labelled(error: SpecError, faults: Faults) -> None:
    """A fault whose text begins with the rule or the formula that it is about."""
    for text in error.faults:
        found = _LABEL.match(text)
        if found is None:
            faults.add_elsewhere(f"{faults.source}: {text}")
            continue
        table, name, rule, index = found.groups()
        path: KeyPath = (rule, int(index)) if rule else (table, name) if name else (table,)
        faults.add(path, text[found.end() :])


def _merged(base: MLXGRPOConfig, settings: Sequence[Setting]) -> tuple[tuple[Setting, ...], int]:
    """Equal settings once, with the tags of all; equal is what resolves to the same values."""
    keys = sorted({key for setting in settings for key in setting.overrides})
    kept: dict[str, Setting] = {}
    for setting in settings:
        values = [_value(base, setting, key) for key in keys]
        identity = json.dumps([values, setting.seed])
        first = kept.get(identity)
        if first is None:
            kept[identity] = setting
        else:
            tags = tuple(dict.fromkeys(first.tags + setting.tags))
            kept[identity] = replace(first, tags=tags)
    return tuple(kept.values()), len(settings) - len(kept)


def _value(base: MLXGRPOConfig, setting: Setting, key: str) -> Any:
    return setting.overrides.get(key, getattr(base, key))


def _differing(spec: Spec, base: MLXGRPOConfig, settings: Sequence[Setting]) -> tuple[str, ...]:
    """The keys that tell the runs apart; in a sweep of one run, those that it was asked for."""
    asked = [
        *(key for columns in spec.zips for key in columns),
        *spec.axes,
        *(key for run in spec.explicit for key in run.overrides),
    ]
    keys = [key for key in dict.fromkeys(asked) if key != "seed"]
    seeds = {_seed(base, setting) for setting in settings} | set(spec.seeds)
    if len(settings) > 1:
        keys = [
            key
            for key in keys
            if len({json.dumps(_value(base, setting, key)) for setting in settings}) > 1
        ]
    if len(spec.seeds) > 1 or (len(seeds) > 1 and not spec.seeds):
        keys.append("seed")
    return tuple(keys)


def _seed(base: MLXGRPOConfig, setting: Setting) -> int:
    return base.seed if setting.seed is None else setting.seed


# --- whole runs


def _config(base: MLXGRPOConfig, setting: Setting, seed: int) -> MLXGRPOConfig:
    return replace(base, **setting.overrides, seed=seed)


def _check_settings(
    spec: Spec, base: MLXGRPOConfig, settings: Sequence[Setting], faults: Faults
) -> None:
    """Faults that show when the base and the overrides come together, each said once."""
    found: dict[str, list[Setting]] = {}
    for setting in settings:
        try:
            validate(_config(base, setting, _seed(base, setting)))
        except ConfigError as e:
            for text in e.faults:
                found.setdefault(text, []).append(setting)
    broken = {key for key in faults.keys if key in FIELDS}
    for text, hit in found.items():
        named = set(re.findall(r"\w+", text))
        if named & broken:
            continue  # A consequence of a fault that is told already.
        share = "" if len(hit) == len(settings) else f" (in {len(hit)} of {len(settings)} settings)"
        _add_contradiction(spec, hit[0], text, share, faults)
    for key, fault in (("log_jsonl", not base.log_jsonl), ("dry_run", base.dry_run)):
        if fault and key not in spec.fixed:
            faults.add_elsewhere(
                f"{spec.base.source}: {key} = {format_value(getattr(base, key))}: "
                "cannot be used in a sweep, which reads the training log of every run"
            )


def _add_contradiction(spec: Spec, setting: Setting, text: str, share: str, faults: Faults) -> None:
    name = text[: re.match(r"\w*", text).end()]  # type: ignore[union-attr]
    for path in ((*setting.origin, name), ("set", name)):
        if path in faults.positions:
            faults.add(path, text + share)
            return
    place = "--set" if name in spec.fixed else spec.base.source
    faults.add_elsewhere(f"{place}: {text}{share}")


# --- names


def _planned_runs(expansion: Expansion, name: str, faults: Faults) -> Iterator[PlannedRun]:
    spec, base = expansion.spec, expansion.spec.base.config
    assert base is not None  # expand() refuses a spec without one.
    points = [(s, seed) for seed in spec.seeds or (None,) for s in expansion.settings]
    configs = [
        _config(base, setting, _seed(base, setting) if seed is None else seed)
        for setting, seed in points
    ]
    names = _run_names(expansion, name, configs, faults)
    folders = [_folder(spec.output, name, run, c) for run, c in zip(names, configs, strict=True)]
    if _check_unique(names, ("run_name",), "runs are named", faults):
        _check_unique(folders, ("output",), "runs would share the folder", faults)
    for (setting, seed), config, run, folder in zip(points, configs, names, folders, strict=True):
        own_seed = setting.seed if seed is None else seed
        passed = {
            **setting.overrides,
            **({} if own_seed is None else {"seed": own_seed}),
            "run_name": run,
            "output_dir": folder,
        }
        yield PlannedRun(
            name=run,
            seed=config.seed,
            overrides=dict(setting.overrides),
            set=tuple(format_override(key, value) for key, value in passed.items()),
            output_dir=folder,
            tags=setting.tags,
            hash=config_hash(config),
        )


def _run_names(
    expansion: Expansion, sweep: str, configs: Sequence[MLXGRPOConfig], faults: Faults
) -> list[str]:
    template = expansion.spec.run_name
    if template is None:
        return default_names(expansion.differing, [vars(config) for config in configs])
    names = [fill(template, config, sweep=sweep) for config in configs]
    for name in names:
        fault = name_fault(name)
        if fault:
            faults.add(("run_name",), f"{template!r} makes the name {name!r}: {fault}", " = ")
            break
    return names


def _check_unique(names: Sequence[str], path: KeyPath, words: str, faults: Faults) -> bool:
    counts = Counter(folded(name) for name in names)
    clashing = next((name for name in names if counts[folded(name)] > 1), None)
    if clashing is not None:
        faults.add(
            path,
            f"{counts[folded(clashing)]} {words} {clashing!r}; "
            "put what differs into it, such as {learning_rate} or {seed}",
        )
    return clashing is None


# --- templates


def _check_templates(spec: Spec, faults: Faults) -> None:
    for text in template_faults(spec.run_name or "", ("sweep",)):
        faults.add(("run_name",), text)
    for text in template_faults(spec.output, ("sweep", "run")):
        faults.add(("output",), text)
    if ".." in spec.output.split("/"):
        faults.add(("output",), f"{spec.output!r}: cannot lead out of its folder", " = ")
    if any(unicodedata.category(c) == "Cc" for c in spec.output):
        faults.add(("output",), f"{spec.output!r}: holds a control character", " = ")
    if os.path.normpath(spec.output) in (".", "/"):
        faults.add(("output",), f"{spec.output!r}: runs need a folder of their own", " = ")


def _folder(template: str, sweep: str, run: str, config: MLXGRPOConfig) -> str:
    return os.path.normpath(os.path.expanduser(fill(template, config, sweep=sweep, run=run)))
