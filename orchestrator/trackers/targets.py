"""Which tool, and where in it: `wandb`, `wandb=my-project`, `tensorboard=runs`.

The libraries are optional; a missing one is reported with the command that installs it.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo_core.config import did_you_mean
from orchestrator.errors import UsageError
from orchestrator.trackers.tracked import Tracker

_PROJECT = "grpo-sweep"


def _tensorboard(place: str) -> Tracker:
    # Not at the top: its library is optional.
    from orchestrator.trackers.tensorboard import TensorBoard

    return TensorBoard(Path(place))


def _wandb(place: str) -> Tracker:
    # Not at the top: its library is optional.
    from orchestrator.trackers.wandb import WeightsAndBiases

    return WeightsAndBiases(place)


def _mlflow(place: str) -> Tracker:
    # Not at the top: its library is optional.
    from orchestrator.trackers.mlflow import MLflow

    return MLflow(place)


def _trackio(place: str) -> Tracker:
    # Not at the top: its library is optional.
    from orchestrator.trackers.trackio import Trackio

    return Trackio(place)


@dataclass(frozen=True)
class _Tool:
    """How a tool is opened; `variable` of the environment says where in it, else `default`."""

    open: Callable[[str], Tracker]
    library: str
    variable: str
    default: str


_TOOLS = {
    "tensorboard": _Tool(_tensorboard, "tensorboardX", "TENSORBOARD_LOGGING_DIR", "runs"),
    "wandb": _Tool(_wandb, "wandb", "WANDB_PROJECT", _PROJECT),
    "mlflow": _Tool(_mlflow, "mlflow", "MLFLOW_EXPERIMENT_NAME", _PROJECT),
    "trackio": _Tool(_trackio, "trackio", "TRACKIO_PROJECT", _PROJECT),
}
NAMES = tuple(_TOOLS)


@dataclass(frozen=True)
class Target:
    """A tool and a place in it: a project, an experiment or a folder."""

    tool: str
    place: str

    def __str__(self) -> str:
        return f"{self.tool}={self.place}"

    def check(self) -> None:
        """Raise UsageError where the tool's library is not there; it is not loaded for that."""
        library = _TOOLS[self.tool].library
        if importlib.util.find_spec(library) is None:
            raise UsageError(self._missing(f"there is no {library} here"))

    def open(self) -> Tracker:
        """The tool, ready to take runs; UsageError where its library cannot be used."""
        self.check()
        try:
            return _TOOLS[self.tool].open(self.place)
        except ImportError as e:
            raise UsageError(self._missing(str(e))) from None

    def _missing(self, why: str) -> str:
        install = f"pip install 'grpo-sweep[{self.tool}]'"
        return f"{self.tool}: its library cannot be used: {why}; get it with: {install}"


def target(tool: str, place: str = "") -> Target:
    """The tool at a place; without one where the tool's own variable says, else ours."""
    known = _TOOLS[tool]
    return Target(tool, place or os.environ.get(known.variable) or known.default)


def parse_targets(words: Sequence[str]) -> list[Target]:
    """`TOOL` or `TOOL=PLACE` each, several also with commas between them; UsageError."""
    found: dict[str, Target] = {}
    for word in (part.strip() for text in words for part in text.split(",")):
        tool, _, place = word.partition("=")
        if tool not in _TOOLS:
            near = did_you_mean(tool, _TOOLS) or f"; known are {', '.join(_TOOLS)}"
            raise UsageError(f"--report-to {word}: no such tool{near}")
        if tool in found:
            raise UsageError(f"--report-to {word}: {tool} is named twice")
        found[tool] = target(tool, place)
    return list(found.values())
