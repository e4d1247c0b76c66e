"""Updates are counted as they will happen, and the learning rate follows them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.config import MLXGRPOConfig
from grpo_core.update.schedule import crossed, learning_rate, make_schedule

SHAPES = ("cosine", "linear", "constant", "constant_with_warmup")


def config(**fields) -> MLXGRPOConfig:
    return MLXGRPOConfig(**fields)


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "epochs", "iterations", "updates"),
    [
        (8, 1, 4, 1, 1, 2),
        (9, 1, 4, 1, 1, 3),  # a last short batch is an update
        (9, 2, 2, 3, 1, 9),  # no update crosses an epoch
        (3, 4, 4, 1, 1, 1),
        (8, 2, 2, 2, 3, 12),
    ],
)
def test_updates_are_counted_from_rows(rows, batch, accumulation, epochs, iterations, updates):
    """By hand: ceil(rows / (batch x accumulation)) x epochs x iterations."""
    cfg = config(
        batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_epochs=epochs,
        num_iterations=iterations,
    )
    assert make_schedule(cfg, rows).updates == updates


def test_updates_walk_over_the_rows_in_order():
    """9 rows, 4 an update, 2 iterations, 2 epochs: positions by hand."""
    cfg = config(batch_size=2, gradient_accumulation_steps=2, num_epochs=2, num_iterations=2)
    schedule = make_schedule(cfg, 9)
    seen = [schedule.position(u) for u in range(1, schedule.updates + 1)]
    spans = [(0, 4), (4, 8), (8, 9)]
    wanted = [(e, a, b, i) for e in (0, 1) for a, b in spans for i in (0, 1)]
    assert [(p.epoch, p.start, p.stop, p.iteration) for p in seen] == wanted
    assert [schedule.micro_steps(u) for u in (1, 3, 5, 6)] == [2, 2, 1, 1]


def test_minibatches_share_a_batch_of_rollouts():
    """9 rows, 2 an update, 3 updates for each draw, 2 iterations: positions by hand."""
    cfg = config(
        batch_size=1, gradient_accumulation_steps=2, steps_per_generation=6, num_iterations=2
    )
    schedule = make_schedule(cfg, 9)
    seen = [schedule.position(u) for u in range(1, schedule.updates + 1)]
    whole = [(0, 6, a, a + 2, i) for i in (0, 1) for a in (0, 2, 4)]
    rest = [(6, 9, a, b, i) for i in (0, 1) for a, b in ((6, 8), (8, 9))]
    assert [(p.start, p.stop, p.first, p.last, p.iteration) for p in seen] == whole + rest
    assert [u for u, p in enumerate(seen, 1) if p.draws] == [1, 7]
    assert [schedule.micro_steps(u) for u in (1, 7, 8)] == [2, 2, 1]


@given(
    rows=st.integers(1, 50),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 5),
    epochs=st.integers(1, 3),
    minibatches=st.integers(0, 4),
)
def test_each_row_is_seen_once_an_epoch(rows, batch, accumulation, epochs, minibatches):
    """No row is left out, none is seen twice, whatever the batch and what is drawn together."""
    cfg = config(
        batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_epochs=epochs,
        steps_per_generation=minibatches * accumulation,
    )
    schedule = make_schedule(cfg, rows)
    seen = []
    for update in range(1, schedule.updates + 1):
        at = schedule.position(update)
        seen += [(at.epoch, row) for row in range(at.first, at.last)]
        assert at.start <= at.first < at.last <= at.stop
    assert seen == [(epoch, row) for epoch in range(epochs) for row in range(rows)]


def test_cosine_by_hand():
    """10 updates, 2 of warm-up: half, peak, then half a cosine over 9 parts."""
    cfg = config(learning_rate=1.0, warmup_ratio=0.2, lr_scheduler_type="cosine")
    rates = [learning_rate(cfg, u, 10) for u in range(1, 11)]
    decay = [(1 + math.cos(math.pi * k / 9)) / 2 for k in range(9)]
    assert rates == pytest.approx([0.5, *decay])


def test_linear_by_hand():
    """5 updates without warm-up: from the peak in equal steps, never to 0."""
    cfg = config(learning_rate=1.0, warmup_ratio=0.0, lr_scheduler_type="linear")
    assert [learning_rate(cfg, u, 5) for u in range(1, 6)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("shape", SHAPES)
@given(updates=st.integers(1, 300), ratio=st.floats(0, 1))
def test_no_update_is_spent_on_a_rate_of_zero(shape, updates, ratio):
    """Each rate is in (0, peak], and the peak is reached, on short runs too."""
    cfg = config(learning_rate=1e-5, warmup_ratio=ratio, lr_scheduler_type=shape)
    rates = [learning_rate(cfg, u, updates) for u in range(1, updates + 1)]
    assert all(0 < rate <= 1e-5 for rate in rates)
    assert max(rates) == 1e-5


def test_warmup_rises_and_decay_falls():
    """One peak: up to it, down from it."""
    cfg = config(learning_rate=1.0, warmup_ratio=0.3, lr_scheduler_type="cosine")
    rates = [learning_rate(cfg, u, 40) for u in range(1, 41)]
    assert rates[:12] == sorted(rates[:12])
    assert rates[11:] == sorted(rates[11:], reverse=True)
    assert rates[-1] < 0.01


def test_constant_knows_no_warmup():
    """`constant` is the peak from the first update; with warm-up it is the other name."""
    cfg = config(learning_rate=2e-5, warmup_ratio=0.5, lr_scheduler_type="constant")
    assert {learning_rate(cfg, u, 8) for u in range(1, 9)} == {2e-5}


@pytest.mark.parametrize(
    ("every", "before", "after", "hit"),
    [(5, 0, 4, False), (5, 4, 5, True), (5, 3, 8, True), (5, 5, 9, False), (0, 0, 9, False)],
)
def test_crossing_a_multiple(every, before, after, hit):
    """Steps of several at a time do not jump over an evaluation."""
    assert crossed(every, before, after) is hit
