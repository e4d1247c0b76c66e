"""The counts that the database keeps by itself, in its triggers."""

from orchestrator.queue.store import Store
from orchestrator.run import Progress
from tests.queue_kit import DONE, OOM, STOPPED, nothing_before, planned, submit


def counted(store):
    """The totals as counted anew from the runs."""
    sql = "SELECT sweep_id, state, kind, count(*), sum(wall_s > 0), sum(wall_s) FROM runs"
    return {tuple(row) for row in store._db.read(f"{sql} GROUP BY 1, 2, 3")}


def kept(store):
    """The totals as the database keeps them."""
    return {tuple(row) for row in store._db.read("SELECT * FROM totals WHERE n > 0")}


def test_counts_that_the_database_keeps_are_those_of_its_runs(tmp_path):
    """After everything that a run can go through, and for kinds that differ."""
    runs = [planned(f"r{i}", num_generations=(2, 8)[i % 2], kl_coeff=0.1 * i) for i in range(8)]
    submit(tmp_path, *runs)
    submit(tmp_path, planned("z", updates=2), name="other")
    with Store.open() as store:
        for outcome in (DONE, OOM, STOPPED):
            _, attempt = store.claims.claim("h", "b", nothing_before)
            store.claims.finish(
                attempt, outcome, newer_checkpoint=True, progress=Progress(), wall_s=2.5
            )
        store.control.cancel([4, 5])
        store.control.pause([6])
        store.control.retry([2])
        assert kept(store) == counted(store)
        assert {share.kind for share in store.queries.shares(1)} == {
            share[2] for share in counted(store) if share[0] == 1
        }
        # g = 2 without KL, g = 2 with, g = 8 with: what a run costs, and no more.
        assert len({share.kind for share in store.queries.shares(1)}) == 3
        assert store.queries.trained_s(1) == 7.5
        store.control.remove([1, 4, 9])
        assert kept(store) == counted(store)
        assert [share.n for share in store.queries.shares(2)] == []
