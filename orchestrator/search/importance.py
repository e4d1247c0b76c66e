"""Which parameters decided how good a setting was: PED-ANOVA over the settings of a sweep.

Watanabe et al., PED-ANOVA (IJCAI 2023), as Optuna implements it, conditional parameters included.
It compares where the best settings lie with where all of them lie, so it also holds for settings
that a search did not draw evenly. It says what mattered, not which way to turn it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.run import RunState
from orchestrator.search.tpe import load_optuna, replayed
from orchestrator.search.trials import Trial, by_setting
from orchestrator.space.constraints import Rules
from orchestrator.space.space import Space

# The estimate needs five settings among the best (Optuna's advice), and those must be few.
TOP_SETTINGS = 5
MIN_SETTINGS = 20


@dataclass(frozen=True)
class Importance:
    """The share of each parameter, largest first, summing to 1; `reason` says why there is none."""

    settings: int
    shares: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


def importance(space: Space, rules: Rules, trials: Sequence[Trial], goal: str) -> Importance:
    """The importance of each parameter of a space for reaching the best settings.

    `trials` are one a run or one a setting; only completed ones inside of the space count. The best
    are the top tenth, and at least five.
    """
    done = [t for t in by_setting(rules, trials) if t.state is RunState.COMPLETED]
    if len(done) < MIN_SETTINGS:
        return _too_few(len(done))
    optuna = load_optuna()
    study = replayed(optuna, space, rules, done, goal)
    values = [trial.value for trial in study.trials]
    if len(values) < MIN_SETTINGS:
        return _too_few(len(values))
    if max(values) == min(values):
        return Importance(len(values), reason="every setting scored the same")
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(
        target_quantile=max(0.1, TOP_SETTINGS / len(values))
    )
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    if not shares or not all(math.isfinite(share) for share in shares.values()):
        return Importance(len(values), reason="no parameter varies over the settings")
    return Importance(len(values), shares)


def _too_few(settings: int) -> Importance:
    reason = f"needs {MIN_SETTINGS} finished settings, there are {settings}"
    return Importance(settings, reason=reason)
