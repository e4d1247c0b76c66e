"""The ranking of settings and of runs, as tables."""

from dataclasses import replace

from orchestrator.results.leaderboard import ranking
from orchestrator.results.objective import completed_scores
from orchestrator.run import (
    Objective,
    RunState,
)
from orchestrator.views.results import best_table, result_rows, results_table
from tests.view_kit import RUN, drawn, logged


def test_a_ranking_says_where_there_is_no_interval():
    """One run tells nothing about the spread."""
    rows = ranking(completed_scores([replace(RUN, value=0.5)], Objective()), Objective())
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
    assert [row.value_text() for row in rows[:2]] == ["25.0% → 75.0%", "25.0% → 50.0%"]
    assert rows[2].run is lost
    text = drawn(results_table(rows, wide=False), width=80).splitlines()
    assert "25.0% → 75.0%" in text[1]
    assert "failed" in text[3]
