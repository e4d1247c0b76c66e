"""Puts runs into the queue: a sweep as expanded, or a single run; nothing of it, or all.

What the runs are is decided in `plan/`, how they are stored in `queue/submitting.py`. Here stands
what lies between: no folder with another run in it is taken, and what was trained before is known.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from grpo_core.config import (
    MLXGRPOConfig,
    config_hash,
    format_override,
    named_path,
    set_field,
)
from grpo_core.run.protocol import COMPLETED, learnt_nothing
from grpo_core.run.surroundings import folder_fault
from orchestrator.errors import SpecError
from orchestrator.names import folded, free_name, safe_name, sweep_name_fault
from orchestrator.plan.expand import Expansion
from orchestrator.plan.forecast import Forecast, forecast
from orchestrator.plan.inputs import LATER, missing, refuse_missing
from orchestrator.plan.provenance import with_provenance
from orchestrator.queue.store import Store
from orchestrator.results.training_log import read_result
from orchestrator.run import END_STATES, Plan, PlannedRun, Run, RunState, Sweep
from orchestrator.system.output_folders import RunFolders
from orchestrator.system.paths import RunPaths

# Past runs that are looked at: the latest sweeps show how fast the machine is now.
_SWEEPS = 20
_RUNS = 200


# --- a sweep


def queue_sweep(
    store: Store,
    expansion: Expansion,
    name: str | None = None,
    *,
    priority: int = 0,
    after: int | None = None,
    cwd: str | None = None,
    again: bool = False,
    frozen: bool = False,
    later: bool = False,
) -> tuple[Sweep, list[Run]]:
    """The sweep as queued, under its name or the next free one, all of it or nothing.

    With `later` the files that it reads may be still to come.
    """
    folder = cwd or os.getcwd()
    if not later:
        refuse_missing(expansion, folder)
    wanted = name or expansion.spec.name
    # Files are read and runs are named before the transaction: both take time.
    first = with_provenance(expansion.plan(wanted, folder))

    def make(name: str) -> Plan:
        plan = first
        if name != first.name:  # In use: the folders of its runs are others.
            plan = with_provenance(expansion.plan(name, folder), first.provenance)
        refuse_taken_folders(plan, expansion.spec.source, again)
        refuse_nested_folders(store, plan, expansion.spec.source)
        return replace(plan, frozen=frozen)

    sweep = store.submissions.add_sweep(wanted, make, priority=priority, after=after, again=again)
    return sweep, store.queries.runs(sweep.id)


def previewed_plan(store: Store, expansion: Expansion, later: bool = False) -> Plan:
    """The plan that a submit would queue now; SpecError as then."""
    if not later:
        refuse_missing(expansion, os.getcwd())
    taken = {folded(sweep.name) for sweep in store.queries.sweeps(all=True)}
    plan = expansion.plan(free_name(expansion.spec.name, taken), os.getcwd())
    refuse_taken_folders(plan, expansion.spec.source)
    refuse_nested_folders(store, plan, expansion.spec.source)
    return plan


def unfinished_sweep(store: Store, spec_text: str) -> Sweep | None:
    """The latest sweep of just this text that was submitted in this folder and is not finished."""
    here = [
        sweep
        for sweep in store.queries.sweeps(all=True)
        if sweep.spec_text == spec_text
        and sweep.cwd == os.getcwd()
        and any(sweep.counts.get(state) for state in set(RunState) - END_STATES)
    ]
    return here[-1] if here else None


def finished_sweep(store: Store, spec_text: str) -> Sweep | None:
    """The latest sweep of just this text that was submitted in this folder, all of it completed.

    And whose results are still there.
    """
    for sweep in reversed(store.queries.sweeps(all=True)):
        if sweep.spec_text == spec_text and sweep.cwd == os.getcwd():
            runs = store.queries.runs(sweep.id)
            if all(run.state is RunState.COMPLETED and is_done(run.folder) for run in runs):
                return sweep
    return None


def forecast_of(store: Store, plan: Plan) -> Forecast:
    """Time and disk of a plan, from the latest completed runs of the queue."""
    return forecast(plan, _past(store))


def _past(store: Store) -> Iterator[tuple[Run, Sweep]]:
    for sweep in reversed(store.queries.sweeps(latest=_SWEEPS)):
        for run in store.queries.runs(sweep.id, [RunState.COMPLETED], limit=_RUNS):
            yield run, sweep


def recognised(store: Store, runs: Sequence[Run]) -> dict[str, int]:
    """How many runs are those of an earlier sweep, by how these stand, and how many are new.

    Empty where all are new.
    """
    owners = [store.queries.run(run.same_as).state for run in runs if run.same_as is not None]
    found = Counter("done" if state is RunState.COMPLETED else str(state) for state in owners)
    if not found:
        return {}
    known = {word: found[word] for word in ("done", "running", "paused", "queued") if found[word]}
    return {**known, "new": len(runs) - len(owners)}


# --- a single run


def queue_run(
    store: Store,
    config: MLXGRPOConfig,
    source: str,
    overrides: Sequence[str],
    again: bool = False,
    later: bool = False,
) -> Run:
    """A run of a config that was resolved from a file and overrides, queued as a sweep of one.

    A folder in use becomes DIR-2. Raises SpecError where a file that it reads is not there, unless
    it may come `later`.
    """
    absent = [] if later else missing(vars(config), os.getcwd())
    if faults := [f"{source}: {key} = {fault}{LATER}" for key, fault in absent]:
        raise SpecError(*faults)
    wanted = _sweep_name(config)
    # Files are read before the transaction: they may be large.
    plan = _plan(store, wanted, source, overrides, config, again)
    found = with_provenance(plan).provenance

    def make(name: str) -> Plan:
        return with_provenance(_plan(store, name, source, overrides, config, again), found)

    sweep = store.submissions.add_sweep(wanted, make, again=again)
    return store.queries.runs(sweep.id)[0]


def _sweep_name(config: MLXGRPOConfig) -> str:
    name = safe_name(config.run_name).lstrip(".-")
    return name if not sweep_name_fault(name) else "run"


def _plan(
    store: Store,
    name: str,
    source: str,
    overrides: Sequence[str],
    config: MLXGRPOConfig,
    again: bool,
) -> Plan:
    folder = _free_folder(store, config, again)
    own = {"output_dir": folder, "run_name": config.run_name}
    keys = dict.fromkeys(map(set_field, overrides))
    values = {key: getattr(config, key) for key in keys if key not in own}
    passed = {**values, **own}
    planned = PlannedRun(
        name=name,
        seed=config.seed,
        overrides={key: value for key, value in values.items() if key != "seed"},
        set=tuple(format_override(key, value) for key, value in passed.items()),
        output_dir=folder,
        hash=config_hash(config),
    )
    text = Path(source).read_text(encoding="utf-8-sig")
    return Plan(
        name=name,
        config_text=text,
        config_source=source,
        spec_text="",
        cwd=os.getcwd(),
        runs=(planned,),
    )


def _free_folder(store: Store, config: MLXGRPOConfig, again: bool) -> str:
    """DIR, DIR-2, ...: the first that neither the queue nor another configuration uses.

    With `again` it holds no completed run either: the trainer would leave that as it is.
    Raises SpecError where no number behind the name would help.
    """
    in_use = store.queries.folders_in_use()
    waiting, folders = set(map(folded, in_use)), RunFolders(in_use)
    first = os.path.normpath(named_path(config.output_dir))
    if fault := folders.outer_clash(os.path.join(os.getcwd(), first)) or folder_fault(Path(first)):
        raise SpecError(f"output_dir: {fault}; choose another folder")
    names = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
    for name in names:
        folder = Path(os.getcwd(), name)
        taken = folded(str(folder)) in waiting or holds_another(folder, config_hash(config))
        taken = taken or folders.clash(str(folder)) is not None
        if not taken and not (again and is_done(folder)):
            return name
    raise AssertionError("there is always a free folder")


# --- folders


def refuse_taken_folders(plan: Plan, source: str, again: bool = False) -> None:
    """SpecError where a run's folder holds what another configuration has left there.

    With `again` also where the same run is completed: the trainer would leave it as it is.
    """
    taken = [run for run in plan.runs if holds_another(Path(plan.cwd, run.output_dir), run.hash)]
    if taken:
        more = f" (and {len(taken) - 1} more like it)" if len(taken) > 1 else ""
        raise SpecError(
            f"{source}: output: {taken[0].output_dir}{more} holds a run with another "
            "configuration; give the sweep another `output` or `name`, or move the folder away"
        )
    done = [run for run in plan.runs if again and is_done(Path(plan.cwd, run.output_dir))]
    if done:
        raise SpecError(
            f"{source}: output: {done[0].output_dir} holds the same run, completed; to train it "
            "--again, put {sweep} into `output`, or move the folder away"
        )


def refuse_nested_folders(store: Store, plan: Plan, source: str) -> None:
    """SpecError where a run's folder lies in another run's, another's in it, or can be none."""
    planned = [os.path.normpath(os.path.join(plan.cwd, run.output_dir)) for run in plan.runs]
    if fault := next(filter(None, (folder_fault(Path(folder)) for folder in planned)), None):
        raise SpecError(f"{source}: output: {fault}")
    folders = RunFolders((*store.queries.folders_in_use(), *planned))
    if fault := next(filter(None, map(folders.clash, planned)), None):
        raise SpecError(f"{source}: output: {fault}; give the sweep another `output`")


def holds_another(folder: Path, wanted_hash: str | None) -> bool:
    """Whether a run with another configuration has left something in `folder`."""
    paths = RunPaths(folder)
    try:
        config = json.loads(paths.resolved_config.read_text(encoding="utf-8"))
        return bool(config["hash"] != wanted_hash) and not learnt_nothing(folder)
    except (FileNotFoundError, NotADirectoryError):
        traces = (paths.log, paths.result, paths.final)
        return any(trace.exists() for trace in traces) or bool(paths.checkpoints())
    except (OSError, ValueError, KeyError, TypeError):
        return True  # Something lies there that may well be another run's.


def is_done(folder: Path) -> bool:
    """Whether a run is completed in `folder`: the trainer trains nothing there again."""
    return (read_result(folder) or {}).get("status") == COMPLETED
