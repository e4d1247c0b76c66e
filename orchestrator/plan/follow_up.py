"""Sweeps that come from another one's runs: finalists on fresh seeds, forks of a run.

Each is a spec of explicit runs over the frozen base of the first sweep, so that it is read, checked
and kept like any other. Nothing is queued here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo_core.config import (
    MLXGRPOConfig,
    apply_overrides,
    set_field,
    toml_value,
    void_fields,
)
from orchestrator.errors import NothingAffected, UsageError
from orchestrator.plan.run_names import default_names
from orchestrator.results.leaderboard import ranking
from orchestrator.results.objective import completed_scores, setting_key
from orchestrator.results.training_log import read_result
from orchestrator.run import Objective, Run, Sweep
from orchestrator.spec.base_config import FrozenBase, resolved_base
from orchestrator.spec.reader import parse_spec
from orchestrator.spec.spec import Spec
from orchestrator.system.paths import RunPaths

# --- confirm


@dataclass(frozen=True)
class Finalist:
    """One of the best settings; it has several ranks where a search tried the same run twice."""

    params: dict[str, Any]
    ranks: tuple[int, ...]


def finalists(sweep: Sweep, runs: Sequence[Run], top: int) -> list[Finalist]:
    """The best settings of a sweep, at most `top`; NothingAffected where it has no result yet.

    What has no effect in a setting is left out, and those that are equal without it are one.
    """
    rows = ranking(completed_scores(runs, sweep.objective), sweep.objective)
    if not rows:
        metric = sweep.objective.metric
        raise NothingAffected(f"sweep {sweep.name} has no completed run with {metric} yet")
    base = resolved_base(sweep)
    found: dict[str, Finalist] = {}
    for row in rows:
        params = _plain(base, row.params, [row.params for row in rows])
        same = found.get(key := setting_key(params))
        if same is not None:
            found[key] = replace(same, ranks=(*same.ranks, row.rank))
        elif len(found) < top:
            found[key] = Finalist(params, (row.rank,))
    return list(found.values())


def _plain(
    base: MLXGRPOConfig, params: dict[str, Any], all_params: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A setting without its void fields; one that must stay void gets the same value in all.

    Of two lengths the larger is void, but without it the base's might be the smaller one.
    """
    effect = _effect(base, params)
    for name in params.keys() & void_fields(replace(base, **params)).keys():
        rest = {key: value for key, value in params.items() if key != name}
        values = (other[name] for other in all_params if name in other)
        tried = (rest, *({**params, name: value} for value in values))
        params = next(changed for changed in tried if _effect(base, changed) == effect)
    return params


def _effect(base: MLXGRPOConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    config = replace(base, **params)
    voids = void_fields(config)
    return {name: value for name, value in vars(config).items() if name not in voids}


def confirm_spec(
    sweep: Sweep, runs: Iterable[Run], best: Iterable[Finalist], seeds: Sequence[int]
) -> Spec:
    """The best settings on fresh seeds, scored on rows that no selection has seen.

    UsageError where one of the sweep's `runs` has used one of the seeds.
    """
    used = sorted({run.seed for run in runs if run.seed is not None} & set(seeds))
    if used:
        raise UsageError(
            f"--seeds: {', '.join(map(str, used))} stands in sweep {sweep.name} already; "
            "fresh seeds say more than those that the settings were chosen by"
        )
    tables = [
        _table("[[run]]", {**one.params, "eval_part": "confirm", "tags": _ranks(one)})
        for one in best
    ]
    seeds_line = f"seeds = {list(seeds)}"
    return _spec(sweep, f"{sweep.name}-confirm", [seeds_line], sweep.objective, tables)


def _ranks(finalist: Finalist) -> list[str]:
    return [f"rank {rank}" for rank in finalist.ranks]


# --- fork


def fork_spec(run: Run, sweep: Sweep, update: int | None, overrides: Sequence[str]) -> Spec:
    """One run that starts from weights that another has saved, with some values changed.

    Without an `update` from the newest: the final ones of a completed run. NothingAffected where
    there are none, UsageError where the overrides change what kind of weights is trained.
    """
    at, folder = _checkpoint(run, update)
    given = apply_overrides(resolved_base(sweep), run.set, strict=True)
    was_full = given.train_type == "full"
    config = apply_overrides(given, overrides, strict=True)
    if (config.train_type == "full") is not was_full:
        raise UsageError("--set train_type: a fork trains the same kind of weights as its parent")
    start = "model_name" if was_full else "adapter_path"
    changed = {key: getattr(config, key) for key in map(set_field, overrides)}
    values = {**run.overrides, "seed": run.seed, start: str(folder), **changed}
    values["tags"] = [f"fork of run {run.id} at {at}"]
    text = _table("[[run]]", values)
    # By what differs from its parent: by all that it sets, nobody would know it apart.
    name = "-".join([f"at{at}", *(default_names(list(changed), [changed]) if changed else [])])
    top = [f"run_name = {toml_value(name)}"]
    return _spec(sweep, f"{run.name}-at{at}", top, sweep.objective, [text])


def _checkpoint(run: Run, update: int | None) -> tuple[int, Path]:
    """The update and the folder of the checkpoint to start from."""
    if run.state == "running":
        raise NothingAffected(
            f"run {run.id} is running, and its checkpoints come and go; pause it first"
        )
    there = _weights(run)
    at = max(there, default=None) if update is None else update
    if at is None or at not in there:
        found = ", ".join(map(str, there)) or "none"
        asked = "" if at is None else f" {at}"
        raise NothingAffected(f"run {run.id} has no checkpoint{asked}; there are: {found}")
    return at, there[at].resolve()


def _weights(run: Run) -> dict[int, Path]:
    """The folders with weights that a run has saved, by update; the final ones are the last."""
    paths = RunPaths(run.folder)
    last = (read_result(run.folder) or {}).get("updates")
    final = {last: paths.final} if isinstance(last, int) and paths.final.is_dir() else {}
    return {**final, **dict(paths.checkpoints())}


# --- both


def _spec(
    sweep: Sweep, name: str, top: Iterable[str], objective: Objective, runs: Iterable[str]
) -> Spec:
    # A metric that is named must be logged, also by runs that evaluate nothing.
    default = vars(Objective(resolved_base(sweep).held_out_score))
    judged = {key: value for key, value in vars(objective).items() if value != default[key]}
    parts = [f"name = {toml_value(name)}", *top, "", *runs, _table("[objective]", judged)]
    return parse_spec("\n".join(parts), Path(f"{name}.toml"), (), FrozenBase.of(sweep))


def _table(head: str, values: Mapping[str, Any]) -> str:
    lines = (f"{key} = {toml_value(value)}" for key, value in values.items())
    return "\n".join([head, *lines, ""])
