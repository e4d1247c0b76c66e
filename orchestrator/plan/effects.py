"""Whether what a sweep varies makes a difference: a void field trains the same run several times.

Which fields are void, and when, is in `grpo_core.config.void_fields`. Pure.
"""

import json
import re
from collections.abc import Sequence

from grpo_core.config import void_fields
from orchestrator.plan.runs import PlannedSetting, setting_config
from orchestrator.spec.document import Faults
from orchestrator.spec.spec import Spec


def check_effects(
    spec: Spec,
    settings: Sequence[PlannedSetting],
    differing: Sequence[str],
    to_ask: int,
    faults: Faults,
) -> None:
    """Note each field that the sweep varies for nothing, and settings that are the same run."""
    if len(settings) + to_ask < 2:
        return
    configs = [setting_config(spec, setting) for setting in settings]
    voids = [void_fields(config) for config in configs]
    for name in differing:
        if all(name in void for void in voids):
            text = (
                f"{name} has no effect, as {voids[0][name]}; varied, it would train the same run "
                "again and again"
            )
            setter = next((s for s in settings if name in s.overrides), settings[0])
            add_contradiction(spec, setter, text, "", faults)
    if not faults.found:
        _check_same(spec, settings, voids, faults)


def _check_same(
    spec: Spec,
    settings: Sequence[PlannedSetting],
    voids: Sequence[dict[str, str]],
    faults: Faults,
) -> None:
    """Two settings that differ in fields that are void for both: one run under two names."""
    first: dict[str, int] = {}
    for i, setting in enumerate(settings):
        values = vars(setting_config(spec, setting))
        effective = {name: values[name] for name in values if name not in voids[i]}
        twin = first.setdefault(json.dumps(effective, sort_keys=True), i)
        if twin == i:
            continue
        other = vars(setting_config(spec, settings[twin]))
        name = next(name for name in values if values[name] != other[name])
        drawn = spec.search.method != "grid" and any(name in p.names for p in spec.parameters)
        hint = 'say `when = "..."` on it' if drawn else "drop one of them with [[exclude]]"
        text = (
            f"{name} differs between settings {twin + 1} and {i + 1} without effect, as "
            f"{voids[i][name]}: they would be the same run; {hint}"
        )
        add_contradiction(spec, setting, text, "", faults)
        return


def add_contradiction(
    spec: Spec, setting: PlannedSetting, text: str, share: str, faults: Faults
) -> None:
    """Note a fault whose text begins with the name of a field, where that field is set."""
    name = text[: re.match(r"\w*", text).end()]  # type: ignore[union-attr]
    zips = [("zip", index, name) for index in range(len(spec.zips))]
    for path in ((*setting.origin, name), *zips, ("set", name)):
        if path in faults.positions:
            faults.add(path, text + share)
            return
    place = "--set" if name in spec.fixed else spec.base.source
    faults.add_elsewhere(f"{place}: {text}{share}")
