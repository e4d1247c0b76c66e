"""What a changed spec adds to a sweep that is there already; pure but for reading the spec.

A run is the same when it trains the same: by the hash of its configuration, and by the fields that
the hash leaves out. What the changed spec no longer names stays in the sweep.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_core.config import FIELDS
from orchestrator.errors import NothingAffected, SpecError
from orchestrator.plan.expand import Expansion, expand
from orchestrator.plan.inputs import refuse_missing
from orchestrator.plan.provenance import with_provenance
from orchestrator.plan.runs import Taken, planned_runs
from orchestrator.results.objective import setting_key
from orchestrator.run import Extension, PlannedRun, Run, Sweep
from orchestrator.spec.document import Faults
from orchestrator.spec.reader import read_spec


def extension(
    sweep: Sweep,
    runs: Sequence[Run],
    path: Path,
    overrides: Sequence[str],
    later: bool = False,
) -> Extension:
    """What the spec at `path` adds to a sweep.

    Raises SpecError for its faults and where it cannot be the same sweep, NothingAffected where it
    adds nothing. With `later` the files that it reads may be still to come.
    """
    expansion = expand(read_spec(path, overrides))
    _check_same(sweep, expansion, str(path))
    known = {_identity(run.hash, run.overrides) for run in runs}
    new = _planned(expansion, sweep, runs, known)
    to_ask = _to_ask(expansion, runs)
    if not new and to_ask <= sweep.to_ask:
        raise NothingAffected(f"{path}: adds nothing to sweep {sweep.name}")
    plan = expansion.plan(sweep.name, sweep.cwd)
    plan = replace(plan, to_ask=max(to_ask, 0), runs=tuple(new))
    if not later:
        refuse_missing(expansion, sweep.cwd)
    plan = with_provenance(plan, sweep.provenance)
    return Extension(plan.runs, plan)


def _check_same(sweep: Sweep, expansion: Expansion, source: str) -> None:
    spec = expansion.spec
    if spec.base.text != sweep.config_text:
        raise SpecError(
            f"{source}: config: {spec.base.source} is not the base that sweep {sweep.name} was "
            "submitted with; submit a new sweep"
        )
    if spec.objective != sweep.objective:
        raise SpecError(
            f"{source}: objective: differs from that of sweep {sweep.name}, whose results are "
            "kept by it; submit a new sweep"
        )
    if spec.search.method != sweep.search.method or spec.search.seed != sweep.search.seed:
        raise SpecError(
            f"{source}: search: sweep {sweep.name} searches by {sweep.search.method} with seed "
            f"{sweep.search.seed}; submit a new sweep"
        )


def _planned(
    expansion: Expansion, sweep: Sweep, runs: Sequence[Run], known: set[str]
) -> list[PlannedRun]:
    """The runs of the spec that the sweep does not have, under names that are free."""
    faults = Faults(expansion.spec.source)
    settings = expansion.settings
    if expansion.spec.search.method == "tpe":
        # Of a search that goes by results only the explicit runs are known beforehand.
        settings = tuple(s for s in settings if s.origin[0] == "run")
    taken = Taken(
        frozenset(run.name for run in runs),
        frozenset(run.output_dir for run in runs),
        lambda config_hash, overrides: _identity(config_hash, overrides) in known,
    )
    found = planned_runs(expansion.spec, settings, expansion.differing, sweep.name, faults, taken)
    planned = list(found)
    if faults.found:
        raise SpecError(*faults.lines())
    return planned


def _to_ask(expansion: Expansion, runs: Sequence[Run]) -> int:
    """How many settings are to be chosen still, after those that were."""
    search = expansion.spec.search
    if search.method != "tpe":
        return 0
    explicit = {setting_key(s.overrides) for s in expansion.settings if s.origin[0] == "run"}
    chosen = {setting_key(run.overrides) for run in runs} - explicit
    return (search.runs or 0) - len(chosen)


def _identity(config_hash: str | None, overrides: Mapping[str, Any]) -> str:
    unhashed = {k: v for k, v in sorted(overrides.items()) if not FIELDS[k].hashed}
    return json.dumps([config_hash, unhashed])
