"""The status as one picture, for every width and height."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from orchestrator.run import RunState
from orchestrator.views.learning_curves import CurveCache
from orchestrator.views.overview import SlotStatus, overview
from orchestrator.views.status import rows_for, status_picture
from orchestrator.worker.serving import NodeStatus, ServingWorker
from tests.view_kit import RUN, SWEEP, drawn, logged, status_of

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_status_is_one_picture_for_every_width():
    """What runs with its figures, what comes next, when it is over, and no line too long."""
    found = {"reward_mean": 0.5, "em": 0.25, "tokens_per_s": 1414.2, "peak_bytes": 12_400_000_000}
    running = replace(RUN, id=2, name="lr1e-4-g8", state=RunState.RUNNING, metrics=found, update=4)
    waiting = replace(RUN, id=3, name="n" * 90, state=RunState.QUEUED, attempt=0, wall_s=0.0)
    counted = {RunState.COMPLETED: 1, RunState.RUNNING: 1, RunState.QUEUED: 1}
    sweep = replace(SWEEP, counts=counted)
    of = replace(status_of(sweep, [RUN, running, waiting]), best=replace(RUN, value=0.5))
    view = overview([of], (), [running], [waiting])
    for width in (60, 80, 120):
        text = drawn(status_picture(view, ServingWorker(7), width, NOW, notes={2: "hello"}), width)
        assert max(map(len, text.splitlines())) <= width
        for words in ("worker runs (pid 7)", "2 lr1e-4-g8 of s", "4/10", "reward 0.5000",
                      "em 25.0%", "1,414 tokens/s", "peak 12.4 GB", "next 3 nnn", "all done in",
                      "s · running · 1 completed, 1 running, 1 queued",
                      "best so far: em 50.0%, run 1 r"):  # fmt: skip
            assert words in text, (words, text)
    unknown = overview([status_of(replace(SWEEP, counts={RunState.QUEUED: 1}), [waiting])])
    text = drawn(status_picture(unknown, None, 80, NOW))
    assert "no worker runs; start one with: grpo-sweep work" in text
    assert "all done unknown: nothing like what is left was measured yet" in text


def test_a_parameter_without_a_column_is_named():
    """Nobody takes two settings for one because the terminal is narrow."""
    runs = [replace(RUN, overrides={"learning_rate": 1e-5, "system_prompt": "p" * 99})]
    of = replace(status_of(SWEEP, runs), swept=("learning_rate", "system_prompt"))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    words = "no room for system_prompt: a wider terminal"
    assert words in drawn(status_picture(overview([of]), ServingWorker(7), 70, now), 70)
    assert "no room" not in drawn(status_picture(overview([of]), ServingWorker(7), 120, now), 120)


def test_one_reason_of_many_runs_is_told_once():
    """Three runs that failed alike are one line, another reason another one."""
    failed = replace(RUN, state=RunState.FAILED, reason="no such model")
    runs = [replace(failed, id=n) for n in (1, 2, 3)] + [replace(failed, id=4, reason="disk full")]
    view = overview([status_of(replace(SWEEP, counts={RunState.FAILED: 4}), runs)])
    text = drawn(status_picture(view, ServingWorker(7), 80, datetime(2026, 1, 1, tzinfo=UTC)))
    assert "runs 1-3: no such model\nrun 4: disk full\n" in text
    assert text.count("no such model") == 1


def test_a_whole_run_that_learnt_nothing_is_told():
    """Its row looks like any other's; one that took over a result has nothing to say."""
    done = replace(RUN, state=RunState.COMPLETED)
    runs = [
        replace(done, id=1),
        replace(done, id=2, reason="nothing was learnt: no signal"),
        replace(done, id=3, reason="the same setting as run 1", same_as=1),
    ]
    view = overview([status_of(replace(SWEEP, counts={RunState.COMPLETED: 3}), runs)])
    text = drawn(status_picture(view, ServingWorker(7), 80, datetime(2026, 1, 1, tzinfo=UTC)))
    assert "run 2: nothing was learnt: no signal\n" in text
    assert "the same setting" not in text


def cut_off(folder, run_id, share=1.0):
    """A run that has ended, with so many of its completions cut at the limit."""
    folder = folder / str(run_id)
    folder.mkdir()
    line = {"reward_mean": 1.0, "truncated_frac": share, "completion_length": 256.0}
    return replace(logged(folder, *[{"update": n, **line} for n in range(1, 13)]), id=run_id)


def test_a_run_that_is_ill_is_marked_in_the_table(tmp_path):
    """And a line below says what it is; a healthy one, or one without a log, has no mark."""
    runs = [cut_off(tmp_path, 1), cut_off(tmp_path, 2, 0.1), cut_off(tmp_path, 3), RUN]
    runs[3] = replace(RUN, id=4, state=RunState.QUEUED, attempt=0)
    view = overview([status_of(SWEEP, runs)])
    lines = drawn(status_picture(view, ServingWorker(7), 80, NOW)).splitlines()
    marked = [line.split()[0] for line in lines if " completed ! " in line]
    assert marked == ["1", "3"]
    assert lines[-1].rstrip() == ("! runs 1, 3: completions cut; what to try: grpo-sweep show 1")


def test_marks_cost_no_more_than_a_status_has_time_for(tmp_path, monkeypatch):
    """The logs of the first runs are read, those beyond the limit are not."""
    runs = [cut_off(tmp_path, 1), cut_off(tmp_path, 2)]
    size = (tmp_path / "1" / "training_log.jsonl").stat().st_size
    monkeypatch.setattr("orchestrator.views.learning_curves._READ_MOST", size)
    assert list(CurveCache().illnesses(runs)) == [1]


def test_a_held_sweep_has_no_time_left_though_a_run_of_it_still_trains():
    """Nobody knows when it goes on."""
    sweep = replace(SWEEP, paused=True, counts={RunState.RUNNING: 1, RunState.QUEUED: 1})
    running = replace(RUN, state=RunState.RUNNING, update=4)
    assert sweep.state == "running"
    assert overview([status_of(sweep, [RUN, running])]).left == {1: None}


def test_a_queue_that_stands_still_promises_no_end():
    """Nobody knows when it goes on: neither for a sweep nor for all of them."""
    sweep = replace(SWEEP, counts={RunState.COMPLETED: 1, RunState.QUEUED: 1})
    waiting = replace(RUN, id=2, state=RunState.QUEUED, attempt=0, wall_s=0.0)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    text = drawn(
        status_picture(overview([status_of(sweep, [RUN, waiting])]), ServingWorker(7), 80, now)
    )
    assert "all done in" in text
    view = overview([status_of(sweep, [RUN, waiting])], halted="paused")
    assert (view.whole, view.left) == (None, {1: None})
    text = drawn(status_picture(view, ServingWorker(7), 80, now))
    assert "the queue stands still: paused; go on with: grpo-sweep resume --queue" in text
    assert "all done" not in text
    assert "left" not in text


def test_before_its_first_update_a_run_says_what_it_waits_for():
    """The line that its trainer said last."""
    running = replace(RUN, state=RunState.RUNNING, update=None, updates_total=None)
    view = overview([], (), [running])
    told = "[lock] waiting for the GPU: pid 5"
    text = drawn(status_picture(view, ServingWorker(1), 80, datetime.now(UTC), notes={1: told}))
    assert "1 r of s  starting\n  [lock] waiting for the GPU: pid 5" in text


def test_a_screen_is_shared_by_the_sweeps():
    """The one that runs gets most rows, other open ones three, what is over none."""
    over = replace(SWEEP, id=1, counts={RunState.COMPLETED: 9})
    runs = replace(SWEEP, id=2, counts={RunState.RUNNING: 1, RunState.QUEUED: 90})
    waits = replace(SWEEP, id=3, counts={RunState.QUEUED: 9})
    assert rows_for([over, runs, waits], 12) == {2: 9, 3: 3}
    assert rows_for([over, over], 12) == {1: 12}
    assert rows_for([], 12) == {}


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (ServingWorker(7, stopped=True), "worker stopped (pid 7), as by Ctrl-Z"),
        (ServingWorker(7, waits="until 22:00"), "worker waits (pid 7): until 22:00"),
    ],
)
def test_worker_that_trains_nothing_promises_no_end(worker, said):
    """How long the rest takes is known, when that is done is not."""
    counted = {RunState.COMPLETED: 1, RunState.QUEUED: 1}
    waiting = replace(RUN, id=2, state=RunState.QUEUED, attempt=0, wall_s=0.0)
    view = overview([status_of(replace(SWEEP, counts=counted), [RUN, waiting])])
    text = drawn(status_picture(view, worker, 80, datetime(2026, 1, 1, tzinfo=UTC)))
    assert said in text
    assert "once the worker goes on" in text


def test_several_runs_are_told_by_their_slots():
    """Which slot trains which, and which is paused; one slot alone is not named."""
    running = [
        replace(RUN, id=n, name=f"r{n}", state=RunState.RUNNING, slot=slot)
        for n, slot in ((2, "0"), (3, "1"))
    ]
    slots = [SlotStatus("0", run=2), SlotStatus("1", run=3), SlotStatus("2", paused=True)]
    worker = ServingWorker(7, slots=("0", "1", "2"))
    view = replace(overview([], (), running, slots=slots), paused={"2": "asked for"})
    text = drawn(status_picture(view, worker, 80, AT), 80)
    assert "worker runs (pid 7), 3 slots" in text
    assert "▶ 2 r2 of s  slot 0" in text
    assert "▶ 3 r3 of s  slot 1" in text
    assert "slot 2 paused; go on with: grpo-sweep resume --slot 2" in text
    alone = overview([], (), running[:1], slots=slots[:1])
    assert "slot" not in drawn(status_picture(alone, ServingWorker(7), 80, AT), 80)


def test_nodes_are_told_with_what_they_have_and_which_is_away():
    """One line each; why one gets no run, and why a node is paused that nobody has paused."""
    nodes = (
        NodeStatus("mac", "mini", "metal", 16_000_000_000, 1),
        NodeStatus("gpubox", "box", "cuda", 80_000_000_000, 4, away_since="2026-01-02T03:00:00Z"),
        NodeStatus("old", "old", "cpu", 1, 0, unfit="it has mlx 0.1, and here it is 0.2"),
    )
    worker = ServingWorker(7, slots=("mac/0",), nodes=nodes)
    view = replace(overview([]), speeds={"mac": 1.26}, paused={"mac": "the GPU hangs"})
    now = datetime(2026, 1, 2, 4, tzinfo=UTC)
    lines = drawn(status_picture(view, worker, 100, now), 100).splitlines()
    at = datetime(2026, 1, 2, 3, tzinfo=UTC).astimezone().strftime("%H:%M")
    assert [line.strip() for line in lines[:5]] == [
        "worker runs (pid 7), 1 slot",
        "node mac     1 slot, metal, 16.0 GB each, 1.3 times the mean speed",
        f"node gpubox  away since {at}",
        "node old     gets no run: it has mlx 0.1, and here it is 0.2",
        "slot mac (the GPU hangs) paused; go on with: grpo-sweep resume --slot mac",
    ]


def test_two_slots_are_done_in_half_the_time():
    """Four runs of 20 s each: in one slot 80 s, in two 40 s, in two of which one is paused 80 s."""
    waiting = [replace(RUN, id=n, state=RunState.QUEUED, attempt=0, wall_s=0.0) for n in range(4)]
    sweep = replace(SWEEP, counts={RunState.COMPLETED: 1, RunState.QUEUED: 4})
    of = status_of(sweep, [replace(RUN, id=9, wall_s=20.0), *waiting])
    both = (SlotStatus("0"), SlotStatus("1"))
    for slots, seconds in (
        ((), 80.0),
        (both, 40.0),
        ((both[0], replace(both[1], paused=True)), 80.0),
    ):
        view = overview([of], slots=slots)
        assert view.whole.likely_s == pytest.approx(seconds)
        assert view.left[sweep.id] == view.whole
