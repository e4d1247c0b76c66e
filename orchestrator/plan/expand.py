"""Spec -> the settings of a sweep, in order; pure: the same spec gives the same runs anywhere.

Explicit runs come first; then zip rows and axes with the last one fastest, or what a search draws;
what the rules refuse is dropped, equal settings are merged (docs/specs.md). Reads no files:
`spec.py` has read the spec and its base, `runs.py` makes runs of the settings.
"""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from grpo_core.config import FIELDS, MLXGRPOConfig, format_value, validate
from grpo_core.errors import ConfigError
from orchestrator.errors import SpecError
from orchestrator.plan.draw import Sampler, trial_of
from orchestrator.plan.effects import add_contradiction, check_effects
from orchestrator.plan.logged import check_logged
from orchestrator.plan.runs import PlannedSetting, check_templates, planned_runs, setting_config
from orchestrator.run import Plan, PlannedRun, Submitted
from orchestrator.space.constraints import Rule, Rules
from orchestrator.spec.document import Faults
from orchestrator.spec.fields import MAX_RUNS, too_many
from orchestrator.spec.positions import KeyPath
from orchestrator.spec.spec import Spec

# Looking at a combination that a rule drops is quick, but not free.
MAX_COMBINATIONS = 100_000


@dataclass(frozen=True)
class Expansion:
    """The settings of a sweep, and its runs under the name that the spec gives it.

    `merged` counts the equal settings of which one was kept.
    `dropped` counts for each rule, as `exclude[0]: TEXT`, the settings that it refused.
    `differing` are the keys whose values are not the same in all runs, `seed` among them.
    `to_ask` counts the settings that are chosen while the sweep runs; `shortfall` says why there
    are fewer than `search.runs` asks for; `size` counts the combinations of a capped grid.
    """

    spec: Spec
    settings: tuple[PlannedSetting, ...]
    runs: tuple[PlannedRun, ...]
    merged: int
    dropped: dict[str, int]
    differing: tuple[str, ...]
    to_ask: int = 0
    shortfall: str = ""
    size: int | None = None

    def plan(self, name: str, cwd: str) -> Plan:
        """The plan under a given name, to run in the folder `cwd`.

        Raises SpecError where the names of runs or folders clash.
        """
        spec = self.spec
        own = name == spec.name
        runs = self.runs if own else _runs(spec, self.settings, self.differing, name)
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
            search=spec.search,
            to_ask=self.to_ask,
            stop=asdict(spec.stop),
            submitted=Submitted(spec.source, spec.overrides),
        )


def expand(spec: Spec) -> Expansion:
    """The settings of a spec, in order.

    Raises SpecError with the spec's own faults and those that only show in whole runs.
    """
    faults = spec.faults.copy()
    check_templates(spec, faults)
    size = _size(spec)
    if size > MAX_COMBINATIONS and spec.search.runs is None:
        faults.add(("params",), _too_many(size))
    base = spec.base.config
    if base is None or (size > MAX_COMBINATIONS and spec.search.runs is None):
        raise SpecError(*faults.lines())
    found = _gone_through(spec, faults)
    # What is to be drawn is counted before: a billion settings take hours.
    drawn = (spec.search.runs or 0) if spec.search.method != "grid" else 0
    if fault := too_many((len(found.settings) + drawn) * max(1, len(spec.seeds))):
        faults.add(("search" if spec.search.runs else "params",), fault)
    if spec.search.method != "grid" and not faults.found:
        found = _with_drawn(spec, found, faults)
    _check_settings(spec, base, found.settings, faults)
    if not faults.found:
        check_logged(spec, found.settings, faults)
    if faults.found:
        raise SpecError(*faults.lines())
    differing = differing_names(spec, found.settings)
    check_effects(spec, found.settings, differing, found.to_ask, faults)
    if faults.found:
        raise SpecError(*faults.lines())
    return Expansion(
        spec,
        found.settings,
        # Clashes of names are faults of the spec too.
        _runs(spec, found.settings, differing, spec.name),
        found.merged,
        found.dropped,
        differing,
        found.to_ask,
        found.shortfall,
        size if size > (spec.search.runs or size) + len(spec.explicit) else None,
    )


def _runs(
    spec: Spec, settings: Sequence[PlannedSetting], differing: Sequence[str], name: str
) -> tuple[PlannedRun, ...]:
    faults = Faults(spec.source, spec.faults.positions)
    runs = tuple(planned_runs(spec, settings, differing, name, faults))
    if faults.found:
        raise SpecError(*faults.lines())
    return runs


def _too_many(size: int) -> str:
    return (
        f"makes {size:,} combinations; a sweep can have {MAX_RUNS:,} runs: say runs under "
        '[search], with method = "sobol" for an even choice'
    )


@dataclass(frozen=True)
class _Found:
    """The settings so far, with what became of the others."""

    settings: tuple[PlannedSetting, ...]
    merged: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    to_ask: int = 0
    shortfall: str = ""


# --- the grid


def _size(spec: Spec) -> int:
    if spec.search.method != "grid":
        return len(spec.explicit)
    grid = math.prod(len(values) for values in spec.axes.values())
    grid *= math.prod(len(next(iter(columns.values()))) for columns in spec.zips)
    return len(spec.explicit) + (grid if _has_grid(spec) else 0)


def _has_grid(spec: Spec) -> bool:
    """A spec of explicit runs alone has no other; one without any has the base as its only run."""
    if spec.search.method != "grid":
        return False
    return bool(spec.axes or spec.zips or not spec.explicit)


def _settings(spec: Spec) -> Iterator[PlannedSetting]:
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
) -> PlannedSetting:
    overrides = {**fixed, **own}
    return PlannedSetting(overrides, overrides.pop("seed", None), tags, origin)


def _gone_through(spec: Spec, faults: Faults) -> _Found:
    """Explicit runs and the grid with what is derived, without what a rule refuses or repeats."""
    rules = _rules(spec, faults)
    most = None if spec.search.runs is None else spec.search.runs + len(spec.explicit)
    kept: dict[str, PlannedSetting] = {}
    dropped: Counter[str] = Counter()
    looked = 0
    for setting in itertools.islice(_settings(spec), MAX_COMBINATIONS):
        if most is not None and len(kept) >= most:
            break
        looked += 1
        whole = _ruled(rules, setting, dropped, faults)
        if whole is not None:
            _merge(spec, kept, whole)
    if looked and not kept and not faults.found:
        words = "; ".join(f"{rule} drops {n}" for rule, n in dropped.items())
        faults.add_elsewhere(f"{spec.source}: no run is left of {looked}: {words}")
    merged = looked - len(kept) - sum(dropped.values())
    return _Found(tuple(kept.values()), merged, dict(dropped))


def _rules(spec: Spec, faults: Faults) -> Rules | None:
    """The rules; None where there are none, or where faults make them mean nothing."""
    if faults.found or not (spec.derive or spec.checks):
        return None
    try:
        return Rules.of(vars(spec.base.config), spec.derive, spec.checks)
    except SpecError as e:
        _add_labelled(e, faults)
        return None


def _ruled(
    rules: Rules | None, setting: PlannedSetting, dropped: Counter[str], faults: Faults
) -> PlannedSetting | None:
    """The setting with what is derived; None where a rule refuses it, which is counted."""
    if rules is None:
        return setting
    try:
        whole, refusing = _judged(rules, setting)
    except SpecError as e:
        _add_labelled(e, faults)
        return None
    if refusing is not None:
        dropped[str(refusing)] += 1
        return None
    return replace(setting, overrides=whole)


def _judged(rules: Rules, setting: PlannedSetting) -> tuple[dict[str, Any], Rule | None]:
    """The whole overrides of a setting, and the first rule that refuses it."""
    seed = {} if setting.seed is None else {"seed": setting.seed}
    whole = rules.complete({**setting.overrides, **seed})
    env = rules.env(whole)
    refusing = next((rule for rule in rules.checks if not rule.allows(env)), None)
    return {name: value for name, value in whole.items() if name != "seed"}, refusing


_LABEL = re.compile(r"(derive|params)(?:\.([\w+]+))?: |(exclude|require)\[(\d+)\]: ")


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


def _merge(spec: Spec, kept: dict[str, PlannedSetting], setting: PlannedSetting) -> None:
    """Equal settings once, with the tags of all; equal is what resolves to the same values."""
    base = vars(spec.base.config)
    changed = {key: v for key, v in setting.overrides.items() if v != base[key]}
    identity = json.dumps([changed, setting.seed], sort_keys=True)
    first = kept.setdefault(identity, setting)
    tags = tuple(dict.fromkeys(first.tags + setting.tags))
    kept[identity] = replace(first, tags=tags)


# --- a search


def _with_drawn(spec: Spec, explicit: _Found, faults: Faults) -> _Found:
    """The explicit runs and the settings that are drawn at submit."""
    try:
        sampler = Sampler.of(spec)
        drawn = sampler.draw([trial_of(s) for s in explicit.settings], sampler.at_submit)
    except SpecError as e:
        _add_labelled(e, faults)
        return explicit
    dropped = Counter(explicit.dropped)
    for rule, count in drawn.refused.items():
        dropped[drawn.reasons[rule]] += count
    return _Found(
        (*explicit.settings, *(sampler.setting(dict(s)) for s in drawn.settings)),
        explicit.merged,
        dict(dropped),
        0 if drawn.shortfall else (spec.search.runs or 0) - len(drawn.settings),
        drawn.shortfall,
    )


def differing_names(spec: Spec, settings: Sequence[PlannedSetting]) -> tuple[str, ...]:
    """The keys in which the runs differ; in a sweep of one run, those that it was asked for."""
    asked = [
        *(name for parameter in spec.parameters for name in parameter.names),
        *(key for run in spec.explicit for key in run.overrides),
    ]
    keys = [key for key in dict.fromkeys(asked) if key != "seed"]
    seeds = {setting_config(spec, setting).seed for setting in settings} | set(spec.seeds)
    if len(settings) > 1 and spec.search.method == "grid":
        base = vars(spec.base.config)
        rows = [{**base, **setting.overrides} for setting in settings]
        keys = [key for key in keys if len({json.dumps(row[key]) for row in rows}) > 1]
    if len(spec.seeds) > 1 or (len(seeds) > 1 and not spec.seeds):
        keys.append("seed")
    return tuple(keys)


# --- whole runs


def _check_settings(
    spec: Spec, base: MLXGRPOConfig, settings: Sequence[PlannedSetting], faults: Faults
) -> None:
    """Faults that show when the base and the overrides come together, each said once."""
    found: dict[str, list[PlannedSetting]] = {}
    for setting in settings:
        try:
            validate(setting_config(spec, setting))
        except ConfigError as e:
            for text in e.faults:
                found.setdefault(text, []).append(setting)
    broken = {key for key in faults.keys if key in FIELDS}
    for text, hit in found.items():
        named = set(re.findall(r"\w+", text))
        if named & broken:
            continue  # A consequence of a fault that is reported already.
        share = "" if len(hit) == len(settings) else f" (in {len(hit)} of {len(settings)} settings)"
        add_contradiction(spec, hit[0], text, share, faults)
    for key, fault in (("log_jsonl", not base.log_jsonl), ("dry_run", base.dry_run)):
        if fault and key not in spec.fixed:
            faults.add_elsewhere(
                f"{spec.base.source}: {key} = {format_value(getattr(base, key))}: "
                "cannot be used in a sweep, which reads the training log of every run"
            )
