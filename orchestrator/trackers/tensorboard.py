"""Runs as TensorBoard's event files, by tensorboardX: FOLDER/SWEEP/RUN, a file a session.

With the HPARAMS tab: what the sweep sets, beside the objective. Nothing runs in the background:
an event is on the disk when `metrics` returns.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams, text

from orchestrator.names import safe_name
from orchestrator.system.files import make_folder
from orchestrator.trackers.markers import read_marker, write_marker
from orchestrator.trackers.tracked import Known, Point, Tracked, metric_names

MARKER = "grpo-sweep.json"


class TensorBoard:
    """A folder of event files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        make_folder(self._folder, parents=True)
        self.where = f"tensorboard --logdir {folder}"

    def _of(self, run: Tracked) -> Path:
        return self._folder / safe_name(run.sweep.name) / safe_name(run.run.name)

    def known(self, run: Tracked) -> Known | None:
        """By the marker beside the event files."""
        return read_marker(self._of(run) / MARKER)

    def start(self, run: Tracked) -> "EventFile":
        """A further event file in the run's folder."""
        return EventFile(self._of(run), run, self.known(run))


class EventFile:
    """The events of one session of a run."""

    def __init__(self, folder: Path, run: Tracked, known: Known | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._marker = folder / MARKER
        self._last = known.update if known else -1
        self._state = str(run.run.state)
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{self._last + 1}")
        # What an earlier session wrote and could not note any more is void.
        begun = SessionLog(status=SessionLog.START)
        self._write(Event(session_log=begun), self._last + 1, run.began)
        if known is None:
            self._describe(run)

    def _write(self, event: Any, update: int, at: float) -> None:
        event.step, event.wall_time = update, at
        self._writer.write_event(event)

    def _describe(self, run: Tracked) -> None:
        """The row of the HPARAMS tab, and the whole configuration as text."""
        metric = next(iter(metric_names({run.sweep.objective.metric: 0.0, "split": "test"})))
        swept = {key: _plain(value) for key, value in run.run.overrides.items()}
        seed = {} if run.run.seed is None else {"seed": run.run.seed}
        experiment, begun, _ = hparams({**swept, **seed}, {metric: None})
        config = text("config", f"```json\n{json.dumps(run.config(), indent=2)}\n```")
        for summary in (experiment, begun, config):
            self._write(Event(summary=summary), 0, run.began)

    def metrics(self, points: Sequence[Point]) -> None:
        """Write the points; they are on the disk when this returns."""
        for point in points:
            # One event for all: what a record costs is its checksum.
            values = [Summary.Value(tag=k, simple_value=v) for k, v in point.values.items()]
            self._write(Event(summary=Summary(value=values)), point.update, point.at)
            self._last = point.update
        self._writer.flush()
        self._note()

    def finish(self, run: Tracked) -> None:
        """Write how the run stands, as text, and close the file."""
        self._state = str(run.run.state)
        words = _table(run.summary())
        self._write(Event(summary=text("state", words)), max(0, self._last), run.began)
        self._writer.close()
        self._note()

    def _note(self) -> None:
        write_marker(self._marker, Known(self._last, self._state))


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _table(found: Mapping[str, Any]) -> str:
    return "\n".join(("| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in found.items())))
