"""Runs in Weights & Biases: project, group (the sweep), name, config, tags, state.

With WANDB_MODE=offline all is kept in files for `wandb sync`. A run has the same id in every
export, and is resumed by it; what was sent is noted in wandb/grpo-sweep/.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from orchestrator.run import RunState
from orchestrator.system.files import make_folder
from orchestrator.trackers.markers import read_marker, write_marker
from orchestrator.trackers.tracked import Known, Point, Tracked

_STEP = "train/global_step"


class WeightsAndBiases:
    """A project, as `PROJECT` or `ENTITY/PROJECT`."""

    def __init__(self, project: str) -> None:
        entity, _, self._project = project.rpartition("/")
        self._entity = entity or None
        self._folder = Path(os.environ.get("WANDB_DIR") or ".").absolute()
        make_folder(self._folder, parents=True)
        self.where = f"W&B project {project}; files in {self._folder / 'wandb'}"

    def _marker(self, run: Tracked) -> Path:
        # Two teams may have a project of one name.
        name = "-".join(filter(None, (self._entity, self._project, run.key)))
        return self._folder / "wandb" / "grpo-sweep" / f"{name}.json"

    def known(self, run: Tracked) -> Known | None:
        """By the note of what was sent from this folder."""
        return read_marker(self._marker(run))

    def start(self, run: Tracked) -> "WandbRun":
        """Begin the run, or resume it by its id."""
        opened = wandb.init(
            entity=self._entity,
            project=self._project,
            id=run.key,
            name=run.run.name,
            group=run.sweep.name,
            job_type="train",
            tags=[tag[:64] for tag in run.tags],
            config=run.config(),
            dir=str(self._folder),
            resume="allow",
            # Several runs may be open at a time.
            reinit="create_new",
            # It is not this process that trains: its machine load, output and code say nothing.
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        opened.define_metric(_STEP)
        opened.define_metric("*", step_metric=_STEP)
        return WandbRun(opened, self._marker(run), self.known(run))


class WandbRun:
    """An open run."""

    def __init__(self, opened: Any, marker: Path, known: Known | None) -> None:
        self._run = opened
        self._marker = marker
        self._last = known.update if known else -1
        # What another machine sent is not sent again.
        self._has = opened.step - 1 if opened.resumed else -1

    def metrics(self, points: Sequence[Point]) -> None:
        """Log the points at their own steps and times."""
        for point in points:
            if point.update > self._has:
                values = {**point.values, _STEP: point.update, "_timestamp": point.at}
                self._run.log(values, step=point.update)
            self._last = point.update
        self._note(RunState.RUNNING)

    def finish(self, run: Tracked) -> None:
        """Close it: finished, failed, or preempted where it goes on later."""
        self._run.summary.update(run.summary())
        if not run.ended:
            self._run.mark_preempting()
        good = run.run.state in (RunState.COMPLETED, RunState.PRUNED)
        self._run.finish(exit_code=0 if good else 1)
        self._note(run.run.state)

    def _note(self, state: RunState) -> None:
        write_marker(self._marker, Known(self._last, str(state)))
