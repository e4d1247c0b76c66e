"""Runs in trackio: a project, the sweep as group, SWEEP/RUN as the run's name.

Local by default (TRACKIO_DIR); TRACKIO_SPACE_ID or TRACKIO_SERVER_URL send it elsewhere. A run is
resumed by its name, and trackio itself says which step it has last.
"""

import contextlib
import contextvars
import io
from collections.abc import Sequence
from typing import Any

import trackio
from trackio.sqlite_storage import SQLiteStorage

from orchestrator.trackers.tracked import Known, Point, Tracked


class Trackio:
    """A project."""

    def __init__(self, project: str) -> None:
        self._project = project
        self.where = f"trackio show --project {project}"

    def known(self, run: Tracked) -> Known | None:
        """By the local database; a remote project is asked when the run is opened."""
        step = SQLiteStorage.get_max_step_for_run(self._project, _name(run))
        # How it stood is not kept: with its last step came its end.
        return None if step is None else Known(step, str(run.run.state))

    def start(self, run: Tracked) -> "TrackioRun":
        """Begin the run, or resume it by its name."""
        # It prints lines for a notebook. In a context of its own it ends no other open run.
        with contextlib.redirect_stdout(io.StringIO()):
            opened = contextvars.copy_context().run(
                trackio.init,
                self._project,
                name=_name(run),
                group=run.sweep.name,
                config={**run.config(), "tags": run.tags},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return TrackioRun(opened)


def _name(run: Tracked) -> str:
    return f"{run.sweep.name}/{run.run.name}"


class TrackioRun:
    """An open run."""

    def __init__(self, opened: Any) -> None:
        self._run = opened
        # Where the project is remote, only now it is known what it has.
        self._last = opened._next_step - 1

    def metrics(self, points: Sequence[Point]) -> None:
        """Log the points; a thread of trackio's writes them twice a second."""
        for point in points:
            if point.update > self._last:
                self._run.log(dict(point.values), step=point.update)
                self._last = point.update

    def finish(self, run: Tracked) -> None:
        """Log how it stands beside the last step, and wait until all is written."""
        if run.ended:
            self._run.log(run.summary(), step=max(0, self._last))
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
