"""What a submit would queue, as a table."""

from collections.abc import Sequence

from rich.table import Table

from orchestrator.run import Plan
from orchestrator.text import SHORT_NAMES, UNKNOWN, setting_value
from orchestrator.views.tables import plain_table


def plan_table(plan: Plan, differing: Sequence[str]) -> Table:
    """The planned runs with what differs between them."""
    keys = [key for key in differing if key != "seed"]
    heads = [SHORT_NAMES.get(key, key) if len(keys) > 4 else key for key in keys]
    table = plain_table("#", "run", *heads, "seed", "tags", right=("#", "seed", *heads))
    for position, run in enumerate(plan.runs, start=1):
        values = [
            setting_value(run.overrides[key]) if key in run.overrides else UNKNOWN for key in keys
        ]
        table.add_row(str(position), run.name, *values, str(run.seed), ", ".join(run.tags))
    return table
