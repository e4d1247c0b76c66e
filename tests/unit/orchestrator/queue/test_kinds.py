"""Which runs take as long: one list, for the counts that the database keeps and for forecasts."""

import re
import shutil

import pytest

from grpo_core.config import MLXGRPOConfig
from orchestrator.queue import schema
from orchestrator.queue.connection import connect
from orchestrator.queue.kinds import KIND_FIELDS, kind_of, kind_sql
from tests.queue_kit import TESTS, planned, runs, submit


def same_kind(tmp_path, **changed):
    """Whether the database, and a forecast, take a run with such a change for one of its kind."""
    submit(tmp_path, planned("a", num_generations=4), planned("b", num_generations=4, **changed))
    first, second = (run.kind for run in runs())
    stored = first == second
    assert stored == (kind_of(MLXGRPOConfig()) == kind_of(MLXGRPOConfig(**changed)))
    return stored


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"learning_rate": 1e-3}, True),
        ({"seed": 7}, True),
        ({"max_new_tokens": 7}, False),
        ({"kl_coeff": 0.1}, False),
        ({"eval_steps": 7}, False),
        ({"eval_samples": 7}, False),
        ({"eval_every_updates": 7}, False),
        ({"eval_subset_size": 7}, False),
        ({"eval_max_new_tokens": 7}, False),
        ({"eval_num_generations": 7}, False),
        ({"eval_at_end": False}, False),
    ],
)
def test_a_run_is_of_another_kind_where_something_takes_another_time(tmp_path, changed, same):
    """Evaluation takes its time as well; a learning rate does not."""
    assert same_kind(tmp_path, **changed) == same


@pytest.mark.parametrize("version", range(1, schema.VERSION + 1))
def test_an_old_database_counts_by_the_list_of_today(tmp_path, version):
    """The list cannot change without a migration: also the newest fixture would keep the old."""
    path = tmp_path / "queue.db"
    shutil.copy(TESTS / "fixtures" / f"queue-v{version}.db", path)
    db = connect(path)
    schema.migrate(db)
    (table,) = db.read("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'runs'")[0]
    assert re.sub(r"\s+", "", kind_sql()) in re.sub(r"\s+", "", table)
    assert set(re.findall(r"'\$\.(\w+)'", table)) == {*KIND_FIELDS, "kl_coeff"}
    counted = "SELECT sweep_id, state, kind, count(*) FROM runs GROUP BY 1, 2, 3"
    kept = {
        tuple(row) for row in db.read("SELECT sweep_id, state, kind, n FROM totals WHERE n > 0")
    }
    assert kept == {tuple(row) for row in db.read(counted)}
    db.close()
