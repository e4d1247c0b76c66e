"""Reads the queue and the runs' folders for the page; changes nothing.

Each look opens the queue anew and reads of a log only what is new, so a look costs milliseconds and
nothing is held between two of them.
"""

import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import psutil

from orchestrator.errors import NothingAffected
from orchestrator.queue.store import Store
from orchestrator.report.curve_data import POINTS, CurveOf, metric_shape
from orchestrator.report.gather import Facts, Logged, by_hand, gather
from orchestrator.report.page import page, sections
from orchestrator.report.shapes import run_shape
from orchestrator.results.illnesses import Illness, find_illnesses
from orchestrator.results.leaderboard import ranking
from orchestrator.results.objective import completed_scores, differing_keys, run_value
from orchestrator.results.samples import latest_samples, read_before_after, read_samples
from orchestrator.results.series import SeriesStore
from orchestrator.results.stats import mean
from orchestrator.results.training_log import read_log, value_before
from orchestrator.run import Progress, Run, RunState, Sweep
from orchestrator.system.paths import Home
from orchestrator.system.processes import is_memory_low
from orchestrator.ui.shapes import (
    Machine,
    Now,
    Shape,
    asked,
    is_news,
    nodes_that_train_nothing,
    queue_shape,
    sweep_shape,
)
from orchestrator.views.learning_curves import CurveCache
from orchestrator.views.now import last_text
from orchestrator.views.overview import ProgressReaders, read_overview
from orchestrator.views.run_details import read_details
from orchestrator.worker.attempt_log import read_tail
from orchestrator.worker.serving import serving_worker

# What the head of the page names; the table holds them all.
_SWEEPS = 8
_FAILURES = 20
# Behind the running one a picture holds no more curves than this.
_CURVES = 200
_TAIL_BYTES = 16 * 1024
_ILL_KEPT = 10_000
# A checkpoint of a small model may still fit; a night does not.
_DISK_LOW = 2 * 2**30
_PATIENCE_S = 2.0


class Reader:
    """The queue of one home, for as many browsers as look."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.series = SeriesStore()
        # What ails a run, and up to where its log was read for that; guarded by `series`.
        self._ill: OrderedDict[Path, tuple[tuple[int, int], tuple[Illness, ...]]] = OrderedDict()
        self._progress = ProgressReaders()
        self._logs = CurveCache()
        self._lock = Lock()

    def _progress_of(self, run: Run) -> Progress:
        with self._lock:
            return self._progress.of(run)

    def _open(self) -> Store:
        return Store.open(self.home.db, readonly=True, timeout_s=_PATIENCE_S)

    # --- the queue

    def queue(self) -> Shape:
        """What the head of the page shows now; QueueError."""
        at = datetime.now(UTC)
        worker = serving_worker(self.home)
        with self._open() as store:
            sweeps = store.queries.sweeps(latest=_SWEEPS)
            view = read_overview(store, sweeps, 0, read=self._progress_of, worker=worker)
            first = next(iter(view.running), None)
            swept = () if first is None else store.status.swept(first.sweep_id)
            failures = [
                run
                for sweep in reversed(sweeps)
                for run in store.queries.runs(sweep.id, [RunState.FAILED], _FAILURES)
                if is_news(run, sweep, at)
            ]
        now = Now() if first is None else self._now(first)
        warnings = [*self._warnings(sweeps), *nodes_that_train_nothing(worker, at)]
        machine = Machine(worker, tuple(warnings))
        failures.sort(key=lambda run: run.ended or "", reverse=True)
        return queue_shape(view, machine, replace(now, swept=swept), failures[:_FAILURES], at)

    def _now(self, run: Run) -> Now:
        with self.series.of(run.folder) as series:
            lines, epoch = series.lines, series.epoch
        note = "" if lines else last_text(self.home, run)
        warnings = tuple(map(str, self._logs.of(run).warnings))
        return Now((), note, lines, epoch, latest_samples(run.folder), warnings)

    def _warnings(self, sweeps: list[Sweep]) -> list[str]:
        """Short memory, and short disk where the queue lies or its latest sweep writes."""
        found = []
        if is_memory_low():
            memory = psutil.virtual_memory()
            free, total = memory.available / 2**30, memory.total / 2**30
            found.append(f"Only {free:.1f} of {total:.1f} GB memory is free.")
        places = {self.home.root, *(Path(sweep.cwd) for sweep in sweeps[-1:])}
        for place in sorted(place for place in places if place.is_dir()):
            free_bytes = shutil.disk_usage(place).free
            if free_bytes < _DISK_LOW:
                found.append(f"Only {free_bytes / 2**30:.1f} GB of disk is free at {place}.")
        return found

    # --- a sweep

    def latest_sweep(self) -> int | None:
        """The sweep of the running run, else the latest one."""
        with self._open() as store:
            for running in store.queries.running():
                return running.sweep_id
            sweeps = store.queries.sweeps(latest=1)
            return sweeps[-1].id if sweeps else None

    def sweep(self, sweep_id: int) -> Shape:
        """A sweep with its best setting and its runs; NothingAffected, QueueError."""
        with self._open() as store:
            sweep = _sweep(store, sweep_id)
            runs = store.queries.runs(sweep_id)
        objective = sweep.objective
        values = {run.id: run_value(run, objective) for run in runs}
        rows = ranking(completed_scores(runs, objective), objective)
        progress = {run.id: self._progress_of(run) for run in runs}
        keys = differing_keys(run.overrides for run in runs)
        before, ill = self._before(sweep, runs), self._logs.illnesses(runs)
        return sweep_shape(sweep, runs, keys, rows, values, progress, before, ill)

    def _before(self, sweep: Sweep, runs: list[Run]) -> float | None:
        """The objective's metric before training, the mean over the runs that measured it."""
        begun = (run for run in runs if run.attempt > 0)
        first = [value_before(run.folder, sweep.objective.metric) for run in begun]
        known = [value for value in first if value is not None]
        return mean(known) if known else None

    def sweep_curves(self, sweep_id: int, metric: str) -> Shape:
        """A metric of every run that has begun (of very many the latest), each thinned."""
        with self._open() as store:
            sweep = _sweep(store, sweep_id)
            runs = [run for run in store.queries.runs(sweep_id) if run.attempt > 0]
        found, names = [], dict[str, None]()
        for run in runs[-_CURVES:]:
            with self.series.of(run.folder) as series:
                names |= dict.fromkeys(series.names)
                found.append(CurveOf(run, *series.copy(metric)))
        return {
            **metric_shape(metric, found, POINTS),
            "sweep": sweep_id,
            "objective": sweep.objective.metric,
            "metrics": list(names),
            "left_out": max(0, len(runs) - _CURVES),
        }

    def report(self, sweep_id: int) -> str:
        """The whole report as one HTML document; NothingAffected, QueueError."""
        return page(self._facts(sweep_id), datetime.now(UTC))

    def sections(self, sweep_id: int) -> Shape:
        """The report's sections as they stand now; NothingAffected, QueueError."""
        return {"id": sweep_id, **sections(self._facts(sweep_id), datetime.now(UTC))}

    def _facts(self, sweep_id: int) -> Facts:
        with self._open() as store:
            return gather(store, _sweep(store, sweep_id), self.home, read=self._logged)

    def _logged(self, run: Run) -> Logged:
        """What a run has logged; of a log only what is new is read, but for what ails it."""
        with self.series.of(run.folder) as series:
            at = (series.epoch, series.lines)
            curves, clock = series.snapshot()
            known = self._ill.pop(run.folder, None)
            if known is None or known[0] != at:
                known = (at, tuple(find_illnesses(read_log(run.folder))))
            self._ill[run.folder] = known
            while len(self._ill) > _ILL_KEPT:
                self._ill.popitem(last=False)
        return Logged(curves, clock, known[1])

    # --- a run

    def run(self, run_id: int) -> Shape:
        """Everything about a run; NothingAffected, QueueError."""
        with self._open() as store:
            run = store.queries.run(run_id)
            details = read_details(store, run, self.home, self._progress_of(run))
        tail = read_tail(Path(details.attempts[-1].log), _TAIL_BYTES) if details.attempts else ""
        samples, held_out = read_samples(run.folder), read_before_after(run.folder)
        with self.series.of(run.folder) as series:
            names = series.names
        words = by_hand(run, self.home)
        warnings = self._logs.of(run).warnings_of(run)
        shape = run_shape(details, words, tail, samples, held_out, names, warnings)
        return {**shape, **asked(run)}

    def run_curves(self, run_id: int, epoch: int | None, since: int) -> Shape:
        """Every metric of a run: thinned, or only the points after line `since` of that epoch."""
        with self._open() as store:
            run = store.queries.run(run_id)
        with self.series.of(run.folder) as series:
            goes_on = epoch == series.epoch and series.has_since(since)
            curves: Mapping[str, Any] = {
                name: (series.since(name, since) if goes_on else series.points(name)).shape()
                for name in series.names
            }
            return {
                "id": run_id,
                "epoch": series.epoch,
                "lines": series.lines,
                "since": since if goes_on else 0,
                "curves": curves,
            }


def _sweep(store: Store, sweep_id: int) -> Sweep:
    """By its id alone: another sweep may have a number for its name."""
    try:
        return store.queries.sweep_by_id(sweep_id)
    except IndexError:
        raise NothingAffected(f"sweep {sweep_id}: no such sweep") from None
