"""Make tests/fixtures/queue-vN.db, a queue of the current schema for tests of the future.

Run it once for each new schema version, before the version after it is begun:
    python -m tests.make_fixture
"""

from datetime import UTC, datetime
from pathlib import Path

from orchestrator.queue import schema
from orchestrator.queue.claims import Before
from orchestrator.queue.connection import connect
from orchestrator.queue.store import Store
from orchestrator.run import Outcome, Plan, PlannedRun, Progress, Verdict

CWD = "/home/somebody/project"


def make(path):
    """A sweep of four runs: completed, failed, cancelled and queued."""
    db = connect(path)
    schema.migrate(db)
    store = Store(db, lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    runs = tuple(
        PlannedRun(f"r{i}", i, {"learning_rate": 1e-6 * i}, (f"seed={i}",), f"outputs/old/r{i}")
        for i in range(1, 5)
    )
    store.submissions.add_sweep(
        "old", lambda name: Plan(name, "seed = 0\n", "a.toml", "# spec\n", CWD, runs)
    )
    done = Outcome(Verdict.COMPLETED, "completed", "result.json: completed", 0)
    oom = Outcome(Verdict.OOM, "out of memory", "bad_alloc", 4)
    claims = store.claims
    for outcome, value in ((done, 0.75), (oom, None)):
        _, attempt = store.claims.claim(
            "mac", "boot-1", lambda run: Before(-1, None, f"/log/{run.id}")
        )
        progress = Progress(10, 10, {"em": value})
        claims.finish(attempt, outcome, newer_checkpoint=True, progress=progress, value=value)
    store.control.cancel([3])
    store.backup(path.with_name(f"queue-v{schema.VERSION}.db"))
    store.close()
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


if __name__ == "__main__":
    folder = Path(__file__).parent / "fixtures"
    folder.mkdir(exist_ok=True)
    (folder / f"queue-v{schema.VERSION}.db").unlink(missing_ok=True)
    make(folder / ".making.db")
