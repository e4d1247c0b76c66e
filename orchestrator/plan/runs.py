"""Settings -> planned runs: names, folders and the exact `--set` lines; pure.

Which settings a sweep has is decided in `expand.py` and, while it runs, in `next_runs.py`. What
may stand in a name is decided in `run_names.py`.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo_core.config import MLXGRPOConfig, config_hash, format_override
from orchestrator.names import folded, free_name, name_fault
from orchestrator.plan.run_names import default_names, fill, template_faults
from orchestrator.run import PlannedRun
from orchestrator.spec.document import Faults
from orchestrator.spec.positions import KeyPath
from orchestrator.spec.spec import Spec
from orchestrator.text import three_digits


@dataclass(frozen=True)
class PlannedSetting:
    """One point that a sweep tries: `overrides` in the order in which they are passed, no seed.

    `seed` is the setting's own, where the spec gives one outside of `seeds`.
    """

    overrides: dict[str, Any]
    seed: int | None
    tags: tuple[str, ...]
    origin: KeyPath


@dataclass(frozen=True)
class Taken:
    """Names and folders of the runs that a sweep has already.

    `known` distinguishes a run that it has from a new one, by the hash of its configuration and its
    overrides; without it all are new.
    """

    names: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    known: Callable[[str, Mapping[str, Any]], bool] = lambda config_hash, overrides: False


def setting_config(spec: Spec, setting: PlannedSetting, seed: int | None = None) -> MLXGRPOConfig:
    """The whole configuration of a setting; without `seed` its own, else the base's counts."""
    base = spec.base.config
    assert base is not None  # expand() refuses a spec without one.
    own = base.seed if setting.seed is None else setting.seed
    return replace(base, **setting.overrides, seed=own if seed is None else seed)


def planned_runs(
    spec: Spec,
    settings: Sequence[PlannedSetting],
    differing: Sequence[str],
    sweep: str,
    faults: Faults,
    taken: Taken | None = None,
) -> Iterator[PlannedRun]:
    """The runs of these settings in the sweep of that name, seeds outermost.

    Two of one name or folder are a fault, unless there are `taken` ones: then the new ones get a
    number behind theirs, and known ones are left out.
    """
    points = [(setting, seed) for seed in spec.seeds or (None,) for setting in settings]
    if taken is not None:
        points = [point for point in points if not _is_known(spec, *point, taken)]
    configs = [setting_config(spec, setting, seed) for setting, seed in points]
    rows = [_named_values(spec, s, c) for (s, _), c in zip(points, configs, strict=True)]
    names = _run_names(spec, differing, sweep, configs, rows, faults, taken)
    folders = [_folder(spec.output, sweep, run, c) for run, c in zip(names, configs, strict=True)]
    if taken is not None:
        folders = _numbered(folders, taken.folders)
    elif _check_unique(names, ("run_name",), "runs are named", faults):
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


def _is_known(spec: Spec, setting: PlannedSetting, seed: int | None, taken: Taken) -> bool:
    return taken.known(config_hash(setting_config(spec, setting, seed)), setting.overrides)


def _named_values(spec: Spec, setting: PlannedSetting, config: MLXGRPOConfig) -> Mapping[str, Any]:
    """What a default name is made of: what the spec moves, and what is not as in all the others.

    An explicit run is named by what makes it differ from the base; a draw to three digits.
    """
    shared = {**vars(spec.base.config), **spec.fixed}
    moved = {name for parameter in spec.parameters for name in parameter.names}
    own = moved if setting.origin[0] == "params" else set()
    values = {k: v for k, v in setting.overrides.items() if k in own or v != shared[k]}
    if spec.search.method != "grid":
        values = {k: three_digits(v) for k, v in values.items()}
    return {**values, "seed": config.seed}


def _run_names(
    spec: Spec,
    differing: Sequence[str],
    sweep: str,
    configs: Sequence[MLXGRPOConfig],
    rows: Sequence[Mapping[str, Any]],
    faults: Faults,
    taken: Taken | None,
) -> list[str]:
    used = taken.names if taken else frozenset()
    if spec.run_name is None:
        return default_names(differing, rows, taken=used)
    names = [fill(spec.run_name, config, sweep=sweep) for config in configs]
    for name in names:
        fault = name_fault(name)
        if fault:
            faults.add(("run_name",), f"{spec.run_name!r} makes the name {name!r}: {fault}", " = ")
            break
    return names if taken is None else _numbered(names, used)


def _numbered(names: Sequence[str], used: frozenset[str]) -> list[str]:
    """Each name, with a number behind it where it is used already."""
    seen = {folded(name) for name in used}
    found = []
    for name in names:
        found.append(free_name(name, seen))
        seen.add(folded(found[-1]))
    return found


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


def _folder(template: str, sweep: str, run: str, config: MLXGRPOConfig) -> str:
    return os.path.normpath(os.path.expanduser(fill(template, config, sweep=sweep, run=run)))


def check_templates(spec: Spec, faults: Faults) -> None:
    """Note what is wrong with `run_name` and `output`."""
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
