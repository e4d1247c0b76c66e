"""Runs in MLflow: an experiment, a parent run a sweep, and the runs as its children.

Where it is kept MLFLOW_TRACKING_URI says, by default mlflow.db here. What a run has is a tag of
the run itself, written together with the metrics.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag

from orchestrator.run import RunState
from orchestrator.trackers.tracked import Known, Point, Tracked

_KEY, _UPDATE, _STATE = "grpo_sweep.key", "grpo_sweep.update", "grpo_sweep.state"
# The most that one call may hold, and the longest value of a parameter.
_METRICS, _PARAMS, _TEXT = 1000, 100, 6000
_STATUS = {
    RunState.COMPLETED: "FINISHED",
    RunState.FAILED: "FAILED",
    RunState.PRUNED: "KILLED",
    RunState.CANCELLED: "KILLED",
    RunState.RUNNING: "RUNNING",
}


class MLflow:
    """An experiment of the tracking server or store that the environment names."""

    def __init__(self, experiment: str) -> None:
        self._client = mlflow.MlflowClient()
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            self._experiment = self._client.create_experiment(experiment)
        else:
            self._experiment = found.experiment_id
        uri = mlflow.get_tracking_uri()
        self._parents: dict[str, str] = {}
        self.where = f"mlflow ui --backend-store-uri {uri}" if "://" in uri else uri

    def _find(self, key: str) -> Any | None:
        runs = self._client.search_runs([self._experiment], f"tags.`{_KEY}` = '{key}'")
        return runs[0] if runs else None

    def known(self, run: Tracked) -> Known | None:
        """By the tags of the run."""
        found = self._find(run.key)
        if found is None:
            return None
        tags = found.data.tags
        return Known(int(tags.get(_UPDATE, -1)), tags.get(_STATE, ""))

    def start(self, run: Tracked) -> "MLflowRun":
        """Begin the run below its sweep's, or go on with it."""
        found = self._find(run.key)
        tags = {"mlflow.parentRunId": self._parent(run)}
        run_id = found.info.run_id if found else self._create(run.run.name, run.key, run, tags)
        self._client.update_run(run_id, "RUNNING")
        opened = MLflowRun(self._client, run_id)
        if found is None:
            opened.describe(run)
        return opened

    def _parent(self, run: Tracked) -> str:
        """The run that stands for the sweep."""
        name = run.sweep.name
        if name not in self._parents:
            key = f"sweep {run.sweep.created} {name}".replace("'", "")
            found = self._find(key)
            self._parents[name] = found.info.run_id if found else self._create(name, key, run, {})
            self._client.update_run(self._parents[name], "FINISHED")
        return self._parents[name]

    def _create(self, name: str, key: str, run: Tracked, tags: Mapping[str, str]) -> str:
        own = {_KEY: key, "sweep": run.sweep.name}
        began = round(run.began * 1000)
        created = self._client.create_run(self._experiment, began, {**own, **tags}, name)
        return str(created.info.run_id)


class MLflowRun:
    """An open run."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._at: float | None = None

    def describe(self, run: Tracked) -> None:
        """The configuration as parameters, and the tags."""
        params = [
            Param(key, text[:_TEXT])
            for key, value in run.config().items()
            if (text := value if isinstance(value, str) else json.dumps(value))
        ]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + _PARAMS])
        tags = [RunTag(f"tag.{tag}"[:250], "true") for tag in run.run.tags]
        self._client.log_batch(self._run_id, tags=tags)

    def metrics(self, points: Sequence[Point]) -> None:
        """Log the points, and with them how far it has come."""
        for part in _parts(points):
            metrics = [
                Metric(name, value, round(point.at * 1000), point.update)
                for point in part
                for name, value in point.values.items()
            ]
            tag = RunTag(_UPDATE, str(part[-1].update))
            self._client.log_batch(self._run_id, metrics=metrics, tags=[tag])
            self._at = part[-1].at

    def finish(self, run: Tracked) -> None:
        """Set its status, and its state as a tag."""
        found = {"state": str(run.run.state), "reason": run.run.reason or ""}
        found[_STATE] = found["state"]
        tags = [RunTag(name, text[:_TEXT]) for name, text in found.items()]
        value = run.run.value
        metrics = [] if value is None else [self._objective(value, run)]
        self._client.log_batch(self._run_id, metrics=metrics, tags=tags)
        status = _STATUS.get(run.run.state, "SCHEDULED")
        if run.ended:
            at = round((self._at or run.began) * 1000)
            self._client.set_terminated(self._run_id, status, at)
        else:
            self._client.update_run(self._run_id, status)

    def _objective(self, value: float, run: Tracked) -> Any:
        update = run.run.update or 0
        return Metric("objective", value, round(run.began * 1000), update)


def _parts(points: Sequence[Point]) -> Iterator[list[Point]]:
    """The points in parts of as many measures as one call may hold."""
    part: list[Point] = []
    for point in points:
        if part and sum(len(p.values) for p in part) + len(point.values) > _METRICS - 1:
            yield part
            part = []
        part.append(point)
    if part:
        yield part
