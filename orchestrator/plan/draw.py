"""A spec that samples -> its space and rules, and the settings that are drawn from them; pure.

The space is everything that `[params]` and `[[zip]]` move, lists and distributions alike. Which
draw comes next is decided in `search/suggest.py`, when a sweep asks for one in `next_runs.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.plan.runs import PlannedSetting
from orchestrator.run import RunState
from orchestrator.search.suggest import STARTUP, Suggested, suggest
from orchestrator.search.trials import Trial
from orchestrator.space.constraints import Rules
from orchestrator.space.space import Space
from orchestrator.spec.spec import Spec


@dataclass(frozen=True)
class Sampler:
    """What a spec draws from, under which rules."""

    spec: Spec
    space: Space
    rules: Rules

    @classmethod
    def of(cls, spec: Spec) -> "Sampler":
        """The sampler of a spec without faults; SpecError where conditions or formulas circle."""
        space = Space.of(spec.parameters, spec.derive)
        base = {**vars(spec.base.config), **spec.fixed}
        return cls(spec, space, Rules.of(base, spec.derive, spec.checks))

    @property
    def at_submit(self) -> int:
        """How many settings are drawn before anything runs: of TPE what it needs to begin."""
        runs = self.spec.search.runs or 0
        return min(runs, STARTUP) if self.spec.search.method == "tpe" else runs

    def draw(self, trials: Sequence[Trial], n: int) -> Suggested:
        """The next `n` settings after these trials; SpecError where no draw passes the rules."""
        search = self.spec.search
        goal = self.spec.objective.goal
        return suggest(
            self.space, self.rules, trials, n, seed=search.seed, method=search.method, goal=goal
        )

    def setting(self, drawn: dict[str, object]) -> PlannedSetting:
        """A suggestion as a setting of the sweep."""
        overrides = {**self.spec.fixed, **drawn}
        return PlannedSetting(overrides, _seed(overrides), (), ("params",))


def trial_of(setting: PlannedSetting, state: RunState = RunState.QUEUED) -> Trial:
    """A setting that was tried, or will be, without a result."""
    seed = {} if setting.seed is None else {"seed": setting.seed}
    return Trial({**setting.overrides, **seed}, state)


def _seed(overrides: dict[str, object]) -> int | None:
    seed = overrides.pop("seed", None)
    assert seed is None or isinstance(seed, int)
    return seed
