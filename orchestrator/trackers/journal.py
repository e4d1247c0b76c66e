"""A sweep as an Optuna study in a journal file, which `optuna-dashboard` opens.

A run is a trial, its seed a user attribute; parameters have the distributions of the spec, widened
where an explicit run lies outside. A journal is only added to: what it holds already is found by
the run's id, so that a dashboard may have it open meanwhile. An ended trial cannot be changed in
Optuna; a run that goes on after its end becomes another trial, and the last one counts.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError, UsageError
from orchestrator.plan.draw import Sampler
from orchestrator.plan.next_runs import spec_of
from orchestrator.results.objective import differing_keys
from orchestrator.results.training_log import read_curve
from orchestrator.run import Run, RunState, Sweep
from orchestrator.search.tpe import load_optuna
from orchestrator.space.distributions import (
    Choice,
    Domain,
    LogInt,
    LogUniform,
    Stepped,
    is_number,
)
from orchestrator.trackers.tracked import Tracked

_RUN, _KEY = "run", "grpo_sweep.key"


def write_journal(path: Path, sweep: Sweep, runs: Sequence[Run]) -> int:
    """Add to the journal what it does not hold yet; how many trials were made or changed.

    Raises UsageError where the file is no journal, cannot be written, or holds a study of that
    name that is not this sweep.
    """
    optuna = load_optuna()
    storage = _storage(optuna, path)
    study_id = _study(optuna, storage, sweep, path)
    params = _Params.of(optuna, sweep, runs)
    latest = {
        trial.user_attrs.get(_RUN): trial
        for trial in storage.get_all_trials(study_id, deepcopy=False)
    }
    writer = _Writer(optuna, storage, study_id, params, sweep)
    return sum(writer.write(run, latest.get(run.id)) for run in runs)


def _storage(optuna: Any, path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            first = file.readline()
    except FileNotFoundError:
        first = b""
    if first and not _is_record(first):
        raise UsageError(f"{path}: is no journal of Optuna; name another file")
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


def _study(optuna: Any, storage: Any, sweep: Sweep, path: Path) -> int:
    """The study of the sweep, made where there is none."""
    key = f"{sweep.created} {sweep.id}"
    name = sweep.name
    for study in storage.get_all_studies():
        if study.study_name == name:
            if study.user_attrs.get(_KEY) != key:
                raise UsageError(f"{path}: its study {name} is not this sweep; name another file")
            return int(study._study_id)
    direction = optuna.study.StudyDirection
    goal = direction.MAXIMIZE if sweep.objective.goal == "max" else direction.MINIMIZE
    study_id = int(storage.create_new_study([goal], name))
    storage.set_study_user_attr(study_id, _KEY, key)
    storage.set_study_user_attr(study_id, "spec", sweep.spec_text)
    # The dashboard's name for the objective.
    storage.set_study_system_attr(study_id, "study:metric_names", [sweep.objective.metric])
    return study_id


# --- parameters


@dataclass(frozen=True)
class _Params:
    """The parameters of each run, and the distribution of each parameter."""

    of_run: Mapping[int, Mapping[str, Any]]
    distributions: Mapping[str, Any]

    @classmethod
    def of(cls, optuna: Any, sweep: Sweep, runs: Sequence[Run]) -> "_Params":
        """Those that the spec moves, and what differs between the runs besides."""
        domains, settings = _by_spec(sweep, runs)
        others = [k for k in differing_keys(run.overrides for run in runs) if k not in domains]
        found: dict[int, dict[str, Any]] = {}
        for run in runs:
            more = {key: run.overrides[key] for key in others if key in run.overrides}
            found[run.id] = {k: _plain(v) for k, v in {**settings[run.id], **more}.items()}
        seen = {key: [p[key] for p in found.values() if key in p] for key in (*domains, *others)}
        return cls(
            found,
            {key: _distribution(optuna, domains.get(key), seen[key]) for key in seen if seen[key]},
        )


def _by_spec(
    sweep: Sweep, runs: Sequence[Run]
) -> tuple[dict[str, Domain], dict[int, dict[str, Any]]]:
    """The domain of each field that the spec moves, and what it is in each run."""
    try:
        sampler = Sampler.of(spec_of(sweep)) if sweep.spec_text else None
    except SpecError:
        # An earlier version took it, this one does not: the values are there all the same.
        sampler = None
    if sampler is None:
        return {}, {run.id: {} for run in runs}
    domains: dict[str, Domain] = {}
    for parameter in sampler.space.parameters:
        domains |= dict(_single(parameter.names, parameter.domain))
    settings: dict[int, dict[str, Any]] = {}
    for run in runs:
        seed = {} if sampler.spec.seeds else {"seed": run.seed}
        setting = {**run.overrides, **seed}
        env = sampler.rules.env(setting)
        counting = [p for p in sampler.space.parameters if _counts(p, env)]
        settings[run.id] = {name: env[name] for p in counting for name in p.names if name in env}
    return domains, settings


def _counts(parameter: Any, env: Mapping[str, Any]) -> bool:
    try:
        return bool(parameter.counts(env))
    except SpecError:
        return False


def _single(names: Sequence[str], domain: Domain) -> Iterator[tuple[str, Domain]]:
    """Fields that move together, as a choice each."""
    if len(names) == 1:
        yield names[0], domain
        return
    assert isinstance(domain, Choice)
    for index, name in enumerate(names):
        yield name, Choice.of(tuple(value[index] for value in domain.values))


def _plain(value: Any) -> Any:
    """A value as Optuna takes it: a list is its JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _distribution(optuna: Any, domain: Domain | None, seen: Sequence[Any]) -> Any:
    """The domain as Optuna's distribution, wide enough for what was seen."""
    kinds = optuna.distributions
    if domain is None or isinstance(domain, Choice) or not all(map(is_number, seen)):
        declared = domain.values if isinstance(domain, Choice) else ()
        return kinds.CategoricalDistribution(_distinct([*map(_plain, declared), *seen]))
    low, high = min(domain.pick(0.0), *seen), max(domain.pick(1.0), *seen)
    whole = isinstance(domain, Stepped | LogInt) and domain.whole
    log = isinstance(domain, LogUniform | LogInt) and low > 0
    inside = all(domain.place(value) is not None for value in seen)
    step = domain.step if isinstance(domain, Stepped) and inside else None
    if whole and all(isinstance(value, int) for value in seen):
        return kinds.IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return kinds.FloatDistribution(float(low), float(high), log=log, step=step)


def _distinct(values: Iterable[Any]) -> list[Any]:
    """The values without those that are there already: 8 is 8.0, and 1 is no true."""
    found: dict[tuple[bool, Any], Any] = {}
    for value in values:
        found.setdefault((isinstance(value, bool), value), value)
    return list(found.values())


# --- trials


class _Writer:
    """Writes runs as trials of a study."""

    def __init__(
        self, optuna: Any, storage: Any, study_id: int, params: _Params, sweep: Sweep
    ) -> None:
        self._optuna = optuna
        self._storage = storage
        self._study_id = study_id
        self._params = params
        self._sweep = sweep
        states = optuna.trial.TrialState
        self._states = {
            # Optuna knows no way back from running.
            RunState.QUEUED: states.RUNNING,
            RunState.RUNNING: states.RUNNING,
            RunState.PAUSED: states.RUNNING,
            RunState.COMPLETED: states.COMPLETE,
            RunState.PRUNED: states.PRUNED,
        }

    def write(self, run: Run, known: Any | None) -> bool:
        """Make the run's trial, or bring it up to date; False where it is."""
        trial = self._trial(run)
        if known is None or (known.state.is_finished() and known.state != trial.state):
            self._storage.create_new_trial(self._study_id, trial)
            return True
        if known.state.is_finished():
            return False
        return self._update(known, trial)

    def _trial(self, run: Run) -> Any:
        """The run as it stands."""
        states = self._optuna.trial.TrialState
        state = self._states.get(run.state, states.FAIL)
        if state == states.COMPLETE and run.value is None:
            state = states.FAIL
        elif run.state is RunState.QUEUED and not run.attempt:
            state = states.WAITING
        params = self._params.of_run[run.id]
        scored = state.name in ("COMPLETE", "PRUNED")
        trial = self._optuna.trial.create_trial(
            state=states.RUNNING,
            params=params,
            distributions={key: self._params.distributions[key] for key in params},
            user_attrs=_attributes(run, self._sweep),
            intermediate_values=dict(read_curve(run.folder, self._sweep.objective.metric)),
        )
        trial.state = state
        trial.values = [run.value] if scored and run.value is not None else None
        trial.datetime_start = _time(run.started)
        trial.datetime_complete = _time(run.ended or run.started or run.created)
        if not state.is_finished():
            trial.datetime_complete = None
        return trial

    def _update(self, known: Any, trial: Any) -> bool:
        """Bring an open trial up to date."""
        trial_id = known._trial_id
        changed = False
        for step, value in trial.intermediate_values.items():
            if known.intermediate_values.get(step) != value:
                self._storage.set_trial_intermediate_value(trial_id, step, value)
                changed = True
        for key, value in trial.user_attrs.items():
            if known.user_attrs.get(key) != value:
                self._storage.set_trial_user_attr(trial_id, key, value)
                changed = True
        if known.state != trial.state:
            self._storage.set_trial_state_values(trial_id, trial.state, trial.values)
            changed = True
        return changed


def _attributes(run: Run, sweep: Sweep) -> dict[str, Any]:
    """What a trial says besides its parameters; the key is the same as that of other tools."""
    return {
        _RUN: run.id,
        "name": run.name,
        "seed": run.seed,
        "state": str(run.state),
        "reason": run.reason or "",
        "tags": list(run.tags),
        "update": run.update,
        "wall_s": run.wall_s,
        "output_dir": str(run.folder),
        "overrides": run.overrides,
        _KEY: Tracked.of(run, sweep).key,
    }


def _time(text: str | None) -> datetime | None:
    """As Optuna keeps times: local, without a zone."""
    if text is None:
        return None
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)
