"""Which settings to try next: random, Sobol or TPE, as a pure function of the rows that there are.

No state but the queue's own rows: the same space, rules, rows and seed give the same suggestion, so
a crash before a commit changes nothing. No setting that a rule forbids and none twice ever comes
out. The estimator itself (Optuna's, asked by replay) is in `tpe.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.errors import SpecError
from orchestrator.run import RunState
from orchestrator.search.draws import check_dimensions, keyed_uniform, random_draw, sobol_draw
from orchestrator.search.sobol import MAX_DIMENSIONS
from orchestrator.search.tpe import proposals
from orchestrator.search.trials import Trial, by_setting
from orchestrator.space.constraints import Identity, Refusal, Rules, Setting
from orchestrator.space.space import Space

METHODS = ("random", "sobol", "tpe")
# Draws in a row without a new setting after which a sampler gives up.
MAX_TRIES = 1000
# Up to so many settings a finite space is gone through when draws find nothing new.
MAX_LISTED = 10_000
# Optuna's own number of random trials before its estimator has something to go by.
STARTUP = 10
# Every fifth setting is an even draw, so that no early luck of one choice lasts: BOHB keeps such a
# share too (Falkner et al. 2018). In benchmarks/search.py it takes the mean regret after 60
# settings from 0.030 to 0.025.
EVEN_EVERY = 5

Draw = Callable[[Space, Rules, int, int], Setting]


@dataclass(frozen=True)
class Suggested:
    """New settings, in order; `shortfall` says why there are fewer than asked, else it is empty.

    `refused` counts the draws that each rule turned away, `reasons` holds an example of each.
    """

    settings: tuple[Setting, ...]
    refused: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    repeated: int = 0
    shortfall: str = ""


def suggest(
    space: Space,
    rules: Rules,
    trials: Sequence[Trial],
    n: int,
    *,
    seed: int,
    method: str,
    goal: str = "max",
    startup: int = STARTUP,
) -> Suggested:
    """The next `n` settings, derived values included.

    `trials` are the rows so far in their order, one a run or one a setting: equal settings are
    taken together. Asking for n at once gives what asking n times gives with each suggestion
    added as a running trial. Raises SpecError, which counts what each rule refused, where no draw
    passes the rules.
    """
    if method == "sobol":
        check_dimensions(space)
    known = [*trials]
    source = _Source(space, rules, seed, method)
    source.know(trial.setting for trial in trials)
    found: list[Setting] = []
    while len(found) < n:
        setting = source.estimated(known, goal, startup) if method == "tpe" else None
        if setting is None:
            setting = source.drawn()
        if setting is None:
            break
        found.append(setting)
        known.append(Trial(setting, RunState.RUNNING))
    if n and not found and not (source.exhausted and source.known):
        raise SpecError(f"params: {source.shortfall()}")
    return Suggested(
        tuple(found),
        dict(source.refused),
        source.reasons,
        source.repeated,
        source.shortfall() if len(found) < n else "",
    )


@dataclass
class _Source:
    """Draws and asks that keep the rules and never repeat a setting."""

    space: Space
    rules: Rules
    seed: int
    method: str
    number: int = 0
    known: set[Identity] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    exhausted: bool = False

    def know(self, settings: Iterable[Mapping[str, object]]) -> None:
        self.known.update(self.rules.identity(setting) for setting in settings)

    def admit(self, setting: Setting) -> Setting | None:
        """The whole setting, noted as known; None where it is refused or repeated."""
        whole = self.rules.derived(setting)
        if not isinstance(whole, Refusal):
            # Before the rules: most draws of a long search are known, and checking takes longer.
            if self.rules.identity(whole) in self.known:
                self.repeated += 1
                return None
            whole = self.rules.refusal(whole) or whole
        if isinstance(whole, Refusal):
            self.refused[whole.rule] += 1
            self.reasons.setdefault(whole.rule, whole.reason)
            return None
        self.known.add(self.rules.identity(whole))
        return whole

    def drawn(self) -> Setting | None:
        """The next new setting of the sequence, or any that is left; None where there is none."""
        draw = self._draw()
        for _ in range(MAX_TRIES):
            setting = self.admit(draw(self.space, self.rules, self.seed, self.number))
            self.number += 1
            if setting is not None:
                return setting
        return self._left_over()

    def _draw(self) -> Draw:
        # Sobol points cover the space better than independent ones while TPE has nothing to go by.
        even = self.method == "tpe" and len(self.space.parameters) <= MAX_DIMENSIONS
        return sobol_draw if even or self.method == "sobol" else random_draw

    def _left_over(self) -> Setting | None:
        """A setting of a small space that no draw has found, by a keyed order."""
        if self.space.size is None or self.space.size > MAX_LISTED:
            return None
        left: dict[Identity, Setting] = {}
        for setting in self.space.every_setting(self.rules.base):
            whole = self.rules.admit(setting)
            if not isinstance(whole, Refusal) and self.rules.identity(whole) not in self.known:
                left.setdefault(self.rules.identity(whole), whole)
        if not left:
            self.exhausted = True
            return None
        chosen = min(left, key=lambda identity: keyed_uniform("left", self.seed, identity))
        self.known.add(chosen)
        return left[chosen]

    def estimated(self, trials: Sequence[Trial], goal: str, startup: int) -> Setting | None:
        """What TPE proposes; None where it is a draw's turn, or all proposals are refused."""
        tried = by_setting(self.rules, trials)
        enough = sum(trial.observed for trial in tried) >= startup
        if not enough or len(tried) % EVEN_EVERY == EVEN_EVERY - 1:
            return None
        proposed = proposals(self.space, self.rules, tried, self.seed, goal)
        admitted = (self.admit(setting) for setting in proposed)
        return next((setting for setting in admitted if setting is not None), None)

    def shortfall(self) -> str:
        """Why there is no further setting, with what each rule refused."""
        refusals = "; ".join(
            f"{count:,} refused by {self.reasons[rule]}"
            for rule, count in self.refused.most_common()
        )
        if self.exhausted and not self.known:
            return f"no setting of the space passes the rules: of all draws {refusals}"
        if self.exhausted:
            return f"all {len(self.known):,} settings that there are have been tried"
        share = sum(self.refused.values()) / max(1, sum(self.refused.values()) + self.repeated)
        return (
            f"{MAX_TRIES:,} draws in a row gave no new setting; of all draws {share:.1%} were "
            f"refused: {refusals or 'none'}"
        )
