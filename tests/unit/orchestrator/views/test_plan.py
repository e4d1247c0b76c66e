"""What a submit would queue, as a table."""

from orchestrator.views.plan import plan_table
from tests.view_kit import drawn


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
