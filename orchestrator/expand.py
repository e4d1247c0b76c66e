"""Spec -> the ordered runs of a sweep; pure: the same spec gives the same runs anywhere.

Explicit runs come first, then the axes with the last one fastest; equal runs are merged; seeds are
outermost, so that every setting runs once before any gets its second seed (design, section 4).
Reads no files: what the spec and its base say was read by `spec.py`.
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
from orchestrator.errors import SpecError
from orchestrator.locate import KeyPath
from orchestrator.naming import default_names, fill, folded, name_fault, template_faults
from orchestrator.run import Plan, PlannedRun
from orchestrator.spec import Faults, Spec

# More is a mistake in a grid for one GPU: at a minute a run this is a week.
MAX_RUNS = 10_000


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
    """The settings of a sweep; `merged` counts the equal ones that were dropped.

    `differing` are the keys whose values are not the same in all runs, `seed` among them.
    """

    spec: Spec
    settings: tuple[Setting, ...]
    merged: int
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
            config_text=spec.config_text,
            config_source=spec.config_source,
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
    count = _count(spec)
    if count > MAX_RUNS:
        faults.add(("params",), f"makes {count:,} runs; a sweep can have {MAX_RUNS:,}")
    if spec.base is None or count > MAX_RUNS:
        raise SpecError(*faults.lines())
    settings, merged = _merged(spec.base, list(_settings(spec)))
    _check_settings(spec, spec.base, settings, faults)
    if faults.found:
        raise SpecError(*faults.lines())
    expansion = Expansion(spec, settings, merged, _differing(spec, spec.base, settings))
    expansion.plan(spec.name, cwd="")  # Clashes of names are faults of the spec too.
    return expansion


# --- the grid


def _count(spec: Spec) -> int:
    grid = math.prod(len(values) for values in spec.axes.values())
    points = len(spec.explicit) + (grid if spec.axes or not spec.explicit else 0)
    return points * max(1, len(spec.seeds))


def _settings(spec: Spec) -> Iterator[Setting]:
    for run in spec.explicit:
        yield _setting(spec.fixed, run.overrides, run.tags, ("run", run.index))
    if spec.axes or not spec.explicit:
        for values in itertools.product(*spec.axes.values()):
            point = dict(zip(spec.axes, values, strict=True))
            yield _setting(spec.fixed, point, (), ("params",))


def _setting(
    fixed: Mapping[str, Any], own: Mapping[str, Any], tags: tuple[str, ...], origin: KeyPath
) -> Setting:
    overrides = {**fixed, **own}
    return Setting(overrides, overrides.pop("seed", None), tags, origin)


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
    asked = [*spec.axes, *(key for run in spec.explicit for key in run.overrides)]
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
                f"{spec.config_source}: {key} = {format_value(getattr(base, key))}: "
                "cannot be used in a sweep, which reads the training log of every run"
            )


def _add_contradiction(spec: Spec, setting: Setting, text: str, share: str, faults: Faults) -> None:
    name = text[: re.match(r"\w*", text).end()]  # type: ignore[union-attr]
    for path in ((*setting.origin, name), ("set", name)):
        if path in faults.positions:
            faults.add(path, text + share)
            return
    place = "--set" if name in spec.fixed else spec.config_source
    faults.add_elsewhere(f"{place}: {text}{share}")


# --- names


def _planned_runs(expansion: Expansion, name: str, faults: Faults) -> Iterator[PlannedRun]:
    spec, base = expansion.spec, expansion.spec.base
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
