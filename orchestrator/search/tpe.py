"""TPE by replay: our rows become an Optuna study in memory, which is asked and forgotten.

Optuna (https://arxiv.org/abs/1907.10902, TPE: https://arxiv.org/abs/2304.11127) is imported only
here and in `importance.py`, inside the functions: it takes a third of a second. Optuna sees shares
in (0, 1) and numbers of choices, never values, so that our domains decide what each means.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.errors import SpecError, SweepError
from orchestrator.run import RunState
from orchestrator.search.trials import Trial
from orchestrator.space.constraints import Rules, Setting
from orchestrator.space.distributions import Choice, Domain, Stepped
from orchestrator.space.space import Parameter, Space

# Proposals that the rules refuse before the caller falls back to plain draws.
MAX_PROPOSALS = 25


def proposals(
    space: Space, rules: Rules, trials: Sequence[Trial], seed: int, goal: str
) -> Iterator[Setting]:
    """Settings from TPE, the best first; ask for the next where one cannot be used.

    A refused proposal stays in the study as a running trial, which the constant liar counts as
    bad, so the next one lies elsewhere. `trials` are one a setting, in their order.
    """
    optuna = load_optuna()
    sampler = optuna.samplers.TPESampler(
        seed=_sampler_seed(seed, len(trials)),
        n_startup_trials=0,
        # Each parameter by itself. The joint estimate, Optuna's default, stayed with the loss type
        # that was lucky first in 4 of 20 searches of 50 settings over nine parameters.
        multivariate=False,
        constant_liar=True,
    )
    study = replayed(optuna, space, rules, trials, goal, sampler)
    for _ in range(MAX_PROPOSALS):
        yield _ask(study.ask(), space, rules)


def replayed(
    optuna: Any,
    space: Space,
    rules: Rules,
    trials: Sequence[Trial],
    goal: str,
    sampler: Any = None,
) -> Any:
    """A study in memory that holds the trials that lie in the space, each as what it is."""
    direction = "maximize" if goal == "max" else "minimize"
    study = optuna.create_study(direction=direction, sampler=sampler)
    for trial in trials:
        encoded = _encoded(space, rules, trial.setting)
        if encoded is not None:
            study.add_trial(_frozen(optuna, trial, encoded))
    return study


def load_optuna() -> Any:
    """The optuna module, silenced; SweepError where it cannot be imported."""
    try:
        # Not at the top: it takes a second to load, and only this method of search needs it.
        import optuna
    except ImportError as e:
        raise SweepError(
            f"search needs Optuna, which cannot be imported ({e}); pip install optuna"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler_seed(seed: int, count: int) -> int:
    """A seed for each number of rows, so that not every ask draws the same candidates."""
    return int.from_bytes(hashlib.sha256(f"tpe\0{seed}\0{count}".encode()).digest()[:4])


# --- settings as Optuna sees them


def _ordered(domain: Domain) -> bool:
    """Whether Optuna counts the values instead of measuring a share."""
    return isinstance(domain, Stepped) or (isinstance(domain, Choice) and domain.ordered)


def _distribution(optuna: Any, domain: Domain) -> Any:
    if isinstance(domain, Choice) and not domain.ordered:
        return optuna.distributions.CategoricalDistribution(range(domain.size))
    if isinstance(domain, Choice | Stepped):
        return optuna.distributions.IntDistribution(0, domain.size - 1)
    return optuna.distributions.FloatDistribution(0.0, 1.0)


def _encode(domain: Domain, value: Any) -> float | None:
    return domain.index(value) if isinstance(domain, Choice | Stepped) else domain.place(value)


def _encoded(
    space: Space, rules: Rules, setting: Mapping[str, Any]
) -> list[tuple[Parameter, float]] | None:
    """Each parameter that counts in a setting, encoded; None where a value is not of its domain.

    An explicit run may lie anywhere; one outside of the space says nothing about it.
    """
    env = rules.env(setting)
    encoded = []
    for parameter in space.parameters:
        try:
            if not parameter.counts(env):
                continue
        except SpecError:
            return None
        place = _encode(parameter.domain, parameter.value_in(env))
        if place is None:
            return None
        encoded.append((parameter, place))
    return encoded


def _frozen(optuna: Any, trial: Trial, encoded: Sequence[tuple[Parameter, float]]) -> Any:
    states = optuna.trial.TrialState
    state = {
        RunState.COMPLETED: states.COMPLETE,
        RunState.PRUNED: states.PRUNED,
        RunState.RUNNING: states.RUNNING,
    }.get(trial.state, states.FAIL)
    return optuna.trial.create_trial(
        state=state,
        value=trial.value if state == states.COMPLETE else None,
        params={p.key: place for p, place in encoded},
        distributions={p.key: _distribution(optuna, p.domain) for p, _ in encoded},
        intermediate_values=dict(trial.curve),
    )


def _ask(trial: Any, space: Space, rules: Rules) -> Setting:
    """Define by run: a parameter is asked only where it counts, in the space's order."""

    def pick(parameter: Parameter) -> Any:
        domain, key = parameter.domain, parameter.key
        if isinstance(domain, Choice) and not domain.ordered:
            return domain.at(trial.suggest_categorical(key, range(domain.size)))
        if isinstance(domain, Choice | Stepped):
            return domain.at(trial.suggest_int(key, 0, domain.size - 1))
        return domain.pick(trial.suggest_float(key, 0.0, 1.0))

    return space.setting(rules.base, pick)
