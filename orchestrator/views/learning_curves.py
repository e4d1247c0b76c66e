"""What the training log of a run says to a person: its reward, its score, and what ails it.

Read anew only where a log has changed; drawn by `now.py`, `tables.py` and the pages.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo_core.run.protocol import INTERVALS
from orchestrator.results.illnesses import Illness, find_illnesses
from orchestrator.results.slowdown import Slowdown, find_slowdown
from orchestrator.results.training_log import curves_of, held_out_metric, log_time, read_log
from orchestrator.run import Run, RunState
from orchestrator.system.paths import RunPaths
from orchestrator.text import metric, sparkline

SPARK_WIDTH = 24
# Bytes of training logs that are read for marks in a table: a twentieth of a second.
_READ_MOST = 4_000_000


@dataclass(frozen=True)
class LearningCurves:
    """The reward of a run, update by update, and what its held-out rows score: `name`.

    By its last updates, `illnesses` are what ails it, `slowdown` how much slower it is than usual.
    """

    rewards: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    name: str = "em"
    illnesses: tuple[Illness, ...] = ()
    slowdown: Slowdown | None = None

    @property
    def warnings(self) -> list[Slowdown | Illness]:
        """What a user should know of the run, each a line as text."""
        return [*([] if self.slowdown is None else [self.slowdown]), *self.illnesses]

    def warnings_of(self, run: Run) -> Sequence[Slowdown | Illness]:
        """Those that matter now; of a run that has ended, how fast it was is no news."""
        return self.warnings if run.state is RunState.RUNNING else self.illnesses

    def score_text(self) -> str:
        """`em 31.2% → 45.5%`: at first and now; empty without any."""
        ends = self.scores if len(self.scores) < 2 else (self.scores[0], self.scores[-1])
        shown = " → ".join(metric(self.name, score) for score in ends)
        return f"{self.name} {shown}" if shown else ""

    def spark(self, width: int = SPARK_WIDTH) -> str:
        """The reward as a small picture on its own scale."""
        if not self.rewards:
            return ""
        return sparkline(self.rewards, width, min(self.rewards), max(self.rewards))


class CurveCache:
    """The learning curves of runs; a log is read again only when it has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], LearningCurves]] = {}

    def of(self, run: Run) -> LearningCurves:
        """The learning curves of a run as its log is now."""
        try:
            stat = os.stat(RunPaths(run.folder).log)
        except OSError:
            return LearningCurves()
        stamp = (stat.st_size, stat.st_mtime_ns)
        known = self._known.get(run.folder)
        if known is None or known[0] != stamp:
            known = self._known[run.folder] = (stamp, read_learning_curves(run.folder))
        return known[1]

    def illnesses(self, runs: Sequence[Run]) -> dict[int, tuple[Illness, ...]]:
        """What ails those of the runs that have begun, by id; only of those that are ill.

        Long logs are read first come, first served, up to what a status has time for.
        """
        found, left = {}, _READ_MOST
        for run in runs:
            left -= _log_bytes(run) if run.attempt else 0
            if run.attempt and left >= 0 and (ill := self.of(run).illnesses):
                found[run.id] = ill
        return found


def _log_bytes(run: Run) -> int:
    try:
        return os.stat(RunPaths(run.folder).log).st_size
    except OSError:
        return 0


def read_learning_curves(folder: Path) -> LearningCurves:
    """The learning curves of the run in a folder, read anew."""
    written = log_time(folder)
    lines = read_log(folder)
    curves = curves_of(lines, ("reward_mean", *INTERVALS))
    name = held_out_metric([name for name, curve in curves.items() if curve])
    rewards, scores = ([value for _, value in curves[key]] for key in ("reward_mean", name))
    ill, slow = tuple(find_illnesses(lines)), find_slowdown(lines, written)
    return LearningCurves(tuple(rewards), tuple(scores), name, ill, slow)
