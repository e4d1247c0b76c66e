"""What people and programs see: short texts, time that is left, JSON shapes, tables."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console
from rich.text import Text

from orchestrator.queue.eta import Work
from orchestrator.queue.history import HistoryEvent
from orchestrator.results.leaderboard import ranking
from orchestrator.results.objective import completed_scores
from orchestrator.results.training_log import read_curve
from orchestrator.run import (
    END_STATES,
    Objective,
    Progress,
    RunState,
    Share,
)
from orchestrator.views.json_shapes import best_shape, show_shape, status_shape, submit_shape
from orchestrator.views.live import Lines, ended_words, progress_words
from orchestrator.views.now import flow
from orchestrator.views.overview import SweepStatus, overview, progress_of
from orchestrator.views.plan import plan_table
from orchestrator.views.results import best_table, result_rows, results_table
from orchestrator.views.status import rows_for, status_picture
from orchestrator.views.story import Story
from orchestrator.views.tables import runs_table
from orchestrator.worker.events import Event, EventKind
from tests.records import a_done_run, a_sweep, an_attempt

RUN = a_done_run(name="r", overrides={"learning_rate": 1e-5}, output_dir="o", metrics={"em": 0.5})
SWEEP = a_sweep(counts={RunState.COMPLETED: 1, RunState.QUEUED: 1})


def logged(tmp_path, *lines, torn=""):
    """A run whose folder holds a training log with these lines."""
    text = "".join(json.dumps(line) + "\n" for line in lines) + torn
    (tmp_path / "training_log.jsonl").write_text(text)
    return replace(RUN, cwd=str(tmp_path), output_dir=".")


def status_of(sweep, runs):
    """What a store would tell about a sweep of these runs."""
    runs = [replace(run, kind=json.dumps(run.overrides.get("num_generations"))) for run in runs]
    shares = [Share(r.state, r.kind, 1, int(r.wall_s > 0), r.wall_s) for r in runs]
    begun = [run for run in runs if run.attempt and run.state not in END_STATES]
    return SweepStatus(sweep, runs, Work(shares, begun))


def drawn(renderable, width=200):
    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    return out.getvalue()


# --- texts


# --- logs


def test_a_curve_leaves_out_training_rows_and_torn_lines(tmp_path):
    """Held-out exact match only; a line that is being written is not there yet."""
    run = logged(
        tmp_path,
        {"update": 0, "em": 0.25, "split": "test", "n": 8},
        {"update": 1, "reward_mean": 0.5},
        {"update": 1, "em": 0.9, "split": "train", "n": 8},
        {"update": 2, "em": 0.5, "split": "test", "n": 8},
        torn='[1]\nnonsense\n{"update": 3, "em": 0.7',
    )
    assert read_curve(run.folder, "em") == [(0, 0.25), (2, 0.5)]
    assert read_curve(run.folder, "reward_mean") == [(1, 0.5)]
    assert read_curve(tmp_path / "none", "em") == []


def test_a_running_run_is_read_from_its_log_and_an_ended_one_from_the_record(tmp_path):
    """What was recorded at the end stays true when the folder is gone."""
    run = logged(tmp_path, {"update": 3, "reward_mean": 0.5})
    assert progress_of(replace(run, state=RunState.RUNNING)).update == 3
    assert progress_of(run) == Progress(10, 10, {"em": 0.5})
    resumed = replace(RUN, state=RunState.RUNNING)
    assert progress_of(resumed).update == 10


# --- the status


def test_a_sweep_waits_for_those_before_it():
    """The second sweep is done when both are; one that is held takes no time and has none."""
    queued = {"state": RunState.QUEUED, "update": None, "updates_total": None, "wall_s": 0.0}
    queued["attempt"] = 0
    first = replace(SWEEP, id=1, counts={RunState.QUEUED: 1})
    second = replace(SWEEP, id=2, counts={RunState.QUEUED: 2})
    held = replace(second, id=3, paused=True)
    runs = {
        1: [RUN, replace(RUN, id=2, **queued)],
        2: [replace(RUN, id=i, **queued) for i in (3, 4)] + [replace(RUN, id=5, wall_s=30.0)],
        3: [replace(RUN, id=6, **queued)],
    }
    facts = [status_of(sweep, runs[sweep.id]) for sweep in (first, second, held)]
    view = overview(facts)
    likely = {i: None if span is None else span.likely_s for i, span in view.left.items()}
    assert likely == {1: pytest.approx(20.0), 2: pytest.approx(80.0), 3: None}
    assert view.whole == view.left[2]
    # Looked at alone, a sweep still waits for the other one.
    alone = overview(facts[1:2], facts[:1])
    assert alone.left == {1: view.left[1], 2: view.left[2]}
    # What comes first goes first.
    urgent = overview([facts[0], replace(facts[1], sweep=replace(second, priority=1))])
    assert urgent.left[2].likely_s == pytest.approx(60.0)
    assert urgent.left[1].likely_s == pytest.approx(80.0)


# --- shapes


def keys_of(value):
    """The keys of a JSON document, in order and nested, which is what programs rely on."""
    if isinstance(value, dict):
        return {key: keys_of(item) for key, item in value.items()}
    return [keys_of(value[0])] if isinstance(value, list) and value else None


RUN_KEYS = [
    "id", "sweep", "name", "state", "reason", "overrides", "seed", "attempt", "update",
    "updates_total", "metrics", "output_dir", "started", "ended", "exit_code",
]  # fmt: skip


def test_status_json_is_as_the_design_says():
    """Worker, sweeps with every count, runs."""
    view = overview([status_of(SWEEP, [RUN])])
    shape = status_shape(None, view)
    assert list(shape) == ["worker", "queue", "sweeps", "runs"]
    assert list(shape["queue"]) == ["halted", "next", "eta_s", "eta_range_s"]
    assert shape["worker"] == {"alive": False, "pid": None}
    assert status_shape(7, view)["worker"] == {"alive": True, "pid": 7}
    assert list(shape["sweeps"][0]) == [
        "id", "name", "state", "counts", "to_ask", "waits_for", "eta_s", "eta_range_s",
    ]  # fmt: skip
    assert shape["sweeps"][0]["counts"] == {
        "queued": 1, "running": 0, "paused": 0, "completed": 1, "pruned": 0, "failed": 0,
        "cancelled": 0,
    }  # fmt: skip
    assert list(shape["runs"][0]) == RUN_KEYS
    assert shape["runs"][0]["state"] == "completed"
    assert shape["runs"][0]["output_dir"] == "/nowhere/o"
    assert shape["runs"][0]["metrics"] == {"em": 0.5}


def test_show_json_is_a_run_with_its_command_and_attempts():
    """Every key of the design, in its order."""
    attempt = an_attempt(pid=5, pid_started=1.0, started="t", log="/l")
    story = Story(
        run=RUN, sweep=SWEEP, progress=Progress(), attempts=[attempt], waits_for=["x"],
        history=[HistoryEvent("t", "paused", "asked for")], command=["python"],
        base={"learning_rate": 1e-6}, lives=False, worker=False,
    )  # fmt: skip
    shape = show_shape(story)
    keys = ["waits_for", "base", "command", "attempts", "history"]
    assert list(shape) == [*RUN_KEYS, *keys]
    assert [shape[key] for key in keys[:3]] == [["x"], {"learning_rate": 1e-6}, ["python"]]
    assert shape["history"] == [{"at": "t", "kind": "paused", "text": "asked for"}]
    assert shape["attempts"] == [
        {"n": 1, "host": "h", "pid": 5, "started": "t", "ended": None, "exit_code": None,
         "signal": None, "outcome": None, "reason": None, "evidence": None, "log": "/l"}
    ]  # fmt: skip


def test_submit_json_has_the_exact_set_lines():
    """Ids are null in a dry run."""
    assert submit_shape("s", None, [(None, "r", ("a=1",))]) == {
        "sweep": "s",
        "id": None,
        "runs": [{"id": None, "name": "r", "set": ["a=1"]}],
    }


def test_best_json_has_null_where_one_run_gives_no_interval():
    """Rank, params, n, mean, ci95 and the runs behind them."""
    runs = [
        replace(RUN, id=1, seed=0, overrides={"a": 1}, metrics={"em": 0.25}),
        replace(RUN, id=2, seed=1, overrides={"a": 1}, metrics={"em": 0.75}),
        replace(RUN, id=3, seed=0, overrides={"a": 2}, metrics={"em": 0.25}),
        replace(RUN, id=4, state=RunState.FAILED, overrides={"a": 3}),
        replace(RUN, id=5, overrides={"a": 4}, metrics={}),
    ]
    shape = best_shape(Objective(), ranking(completed_scores(runs, Objective()), Objective()))
    assert (shape["objective"], shape["goal"]) == ("em", "max")
    first, second = shape["rows"]
    assert list(first) == ["rank", "params", "n", "mean", "ci95", "runs"]
    assert (first["rank"], first["params"], first["n"], first["mean"]) == (1, {"a": 1}, 2, 0.5)
    # Of two values the expanded bootstrap interval is the range.
    assert first["ci95"] == [pytest.approx(0.25), pytest.approx(0.75)]
    assert [run["id"] for run in first["runs"]] == [1, 2]
    assert (second["ci95"], second["n"]) == (None, 1)


# --- tables


def test_the_status_shows_every_run_on_a_line_of_its_own():
    """A narrow terminal gets fewer columns, never a folded row."""
    runs = [replace(RUN, id=i, name=f"lr1e-5-g{i}", metrics={"em": 0.5}) for i in (1, 2, 3)]
    view = overview([status_of(SWEEP, runs)])
    narrow = drawn(runs_table(runs, view, 60), width=60).splitlines()
    assert len(narrow) == 4
    assert all(len(line) <= 60 for line in narrow)
    assert "lr1e-5-g2" in narrow[2]
    assert "50.0%" in narrow[2]
    assert "progress" in drawn(runs_table(runs, view, 100))


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_long_name_is_cut_and_no_figure(width):
    """What a narrow terminal has no room for goes from the name of the run."""
    run = replace(RUN, name="n" * 200, metrics={"em": 0.5, "reward_mean": 1.25})
    lines = drawn(runs_table([run], overview([status_of(SWEEP, [run])]), width), width).splitlines()
    assert len(lines) == 2
    assert len(lines[1]) <= width
    assert {"completed", "10/10", "1.250", "50.0%"} <= set(lines[1].split())
    assert "n…" in lines[1]


def test_a_ranking_says_where_there_is_no_interval():
    """One run tells nothing about the spread."""
    rows = ranking(completed_scores([RUN], Objective()), Objective())
    assert "n=1, no interval" in drawn(best_table(rows, Objective(), wide=True))


def test_results_are_ranked_by_held_out_exact_match(tmp_path):
    """Before and after, and the runs without a result at the end."""
    folders = []
    for name, em in (("a", [0.25, 0.5]), ("b", [0.25, 0.75])):
        (tmp_path / name).mkdir()
        lines = [{"update": u, "em": v, "split": "test"} for u, v in enumerate(em)]
        folders.append(logged(tmp_path / name, *lines, {"update": 1, "reward_mean": 1.0}))
    lost = replace(RUN, id=9, name="lost", state=RunState.FAILED)
    rows = result_rows([lost, *folders])
    assert [row.words() for row in rows[:2]] == ["25.0% → 75.0%", "25.0% → 50.0%"]
    assert rows[2].run is lost
    text = drawn(results_table(rows, wide=False), width=80).splitlines()
    assert "25.0% → 75.0%" in text[1]
    assert "failed" in text[3]


def test_a_plan_shows_what_differs():
    """Columns only for the keys that tell runs apart."""
    from orchestrator.run import Plan, PlannedRun

    runs = tuple(
        PlannedRun(f"r{i}", 0, {"learning_rate": lr, "batch_size": 2}, (), "o", ("t",))
        for i, lr in enumerate((1e-5, 1e-4))
    )
    plan = Plan("s", "", "b", "", "/", runs)
    text = drawn(plan_table(plan, ["learning_rate", "seed"]))
    assert "1e-4" in text
    assert "batch_size" not in text


def test_a_status_is_one_picture_for_every_width():
    """What runs with its figures, what comes next, when it is over, and no line too long."""
    now = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    found = {"reward_mean": 0.5, "em": 0.25, "tokens_per_s": 1414.2, "peak_bytes": 12_400_000_000}
    running = replace(RUN, id=2, name="lr1e-4-g8", state=RunState.RUNNING, metrics=found, update=4)
    waiting = replace(RUN, id=3, name="n" * 90, state=RunState.QUEUED, attempt=0, wall_s=0.0)
    counted = {RunState.COMPLETED: 1, RunState.RUNNING: 1, RunState.QUEUED: 1}
    sweep = replace(SWEEP, counts=counted)
    of = replace(status_of(sweep, [RUN, running, waiting]), best=replace(RUN, value=0.5))
    view = overview([of], (), running, [waiting])
    for width in (60, 80, 120):
        text = drawn(status_picture(view, 7, width, now, note="hello"), width)
        assert max(map(len, text.splitlines())) <= width
        for words in ("worker runs (pid 7)", "2 lr1e-4-g8 of s", "4/10", "reward 0.5000",
                      "em 25.0%", "1,414 tokens/s", "peak 12.4 GB", "next 3 nnn", "all done in",
                      "s · running · 1 completed, 1 running, 1 queued",
                      "best so far: em 50.0%, run 1 r"):  # fmt: skip
            assert words in text, (words, text)
    unknown = overview([status_of(replace(SWEEP, counts={RunState.QUEUED: 1}), [waiting])])
    text = drawn(status_picture(unknown, None, 80, now))
    assert "no worker runs; start one with: grpo-sweep work" in text
    assert "all done unknown: nothing like what is left was measured yet" in text


def test_one_reason_of_many_runs_is_told_once():
    """Three runs that failed alike are one line, another reason another one."""
    failed = replace(RUN, state=RunState.FAILED, reason="no such model")
    runs = [replace(failed, id=n) for n in (1, 2, 3)] + [replace(failed, id=4, reason="disk full")]
    view = overview([status_of(replace(SWEEP, counts={RunState.FAILED: 4}), runs)])
    text = drawn(status_picture(view, 7, 80, datetime(2026, 1, 1, tzinfo=UTC)))
    assert "runs 1-3: no such model\nrun 4: disk full\n" in text
    assert text.count("no such model") == 1


def test_pieces_of_a_line_go_to_the_next_whole():
    """As many on a line as fit; one that is too long has a line of its own."""
    lines = flow([Text("a" * 8), Text("b" * 8), Text("c" * 4), Text("d" * 30)], 20)
    assert [line.plain for line in lines] == [
        "  aaaaaaaa", "  bbbbbbbb · cccc", "  " + "d" * 30
    ]  # fmt: skip
    assert flow([Text("a"), Text("b")], 20, first="")[0].plain == "a · b"


def test_a_held_sweep_has_no_time_left_though_a_run_of_it_still_trains():
    """Nobody knows when it goes on."""
    sweep = replace(SWEEP, paused=True, counts={RunState.RUNNING: 1, RunState.QUEUED: 1})
    running = replace(RUN, state=RunState.RUNNING, update=4)
    assert sweep.state == "running"
    assert overview([status_of(sweep, [RUN, running])]).left == {1: None}


def test_before_its_first_update_a_run_says_what_it_waits_for():
    """The line that its trainer said last."""
    running = replace(RUN, state=RunState.RUNNING, update=None, updates_total=None)
    view = overview([], (), running)
    told = "[lock] waiting for the GPU: pid 5"
    text = drawn(status_picture(view, 1, 80, datetime.now(UTC), note=told))
    assert "1 r of s  starting\n  [lock] waiting for the GPU: pid 5" in text


def test_a_screen_is_shared_by_the_sweeps():
    """The one that runs gets most rows, other open ones three, what is over none."""
    over = replace(SWEEP, id=1, counts={RunState.COMPLETED: 9})
    runs = replace(SWEEP, id=2, counts={RunState.RUNNING: 1, RunState.QUEUED: 90})
    waits = replace(SWEEP, id=3, counts={RunState.QUEUED: 9})
    assert rows_for([over, runs, waits], 12) == {2: 9, 3: 3}
    assert rows_for([over, over], 12) == {1: 12}
    assert rows_for([], 12) == {}


# --- what a worker says


def test_a_worker_tells_a_tenth_of_a_run_at_a_time(tmp_path):
    """A log file gets some lines a run, not one an update."""
    run = replace(logged(tmp_path), state=RunState.RUNNING)
    said = []
    lines = Lines(said.append)
    lines(Event(EventKind.STARTED, "attempt 1, pid 5", run))
    for update in range(1, 101):
        lines(Event(EventKind.PROGRESS, "", run, Progress(update, 100, {}, 2.0)))
    assert len(said) == 11
    assert said[0] == "run 1 r: started, attempt 1, pid 5"
    assert said[-1] == "run 1 r: update 100/100, about 0s left"
    # Other news in between do not make it tell the same tenth again.
    lines(Event(EventKind.PREPARED, "standby (pid 6)", replace(run, id=2)))
    lines(Event(EventKind.PROGRESS, "", run, Progress(100, 100, {}, 2.0)))
    assert said[-1] == "run 2 r: prepared, standby (pid 6)"


def test_the_end_of_a_run_is_told_with_its_result(tmp_path):
    """Completed with figures, otherwise with the reason."""
    run = logged(
        tmp_path,
        {"update": 0, "em": 0.25, "split": "test"},
        {"update": 9, "em": 0.5, "split": "test"},
    )
    now = Progress(10, 10, {"reward_mean": 0.5})
    assert ended_words(run, now) == ("completed 10/10, reward 0.5000, em 25.0% → 50.0%, in 20s")
    failed = replace(RUN, state=RunState.FAILED, reason="out of memory")
    assert ended_words(failed, None) == "failed: out of memory"
    back = replace(RUN, state=RunState.QUEUED, reason="interrupted")
    assert ended_words(back, None) == "goes back into the queue: interrupted"
    assert progress_words(RUN, Progress(5, 10, {}, 2.0)).endswith("about 10s left")
