"""Order, holding back, removal and backup, as users command them."""

import io
import os
import resource
import stat
from pathlib import Path

import pytest

from orchestrator.queue.store import Store
from orchestrator.system.paths import home
from tests.queue_kit import WorkerProcess, eventually, planned, runs, states, submit

SPEC = 'config = "base.toml"\n[params]\nlearning_rate = [1e-5, 1e-4]\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a base config and a spec, in which the process stands."""
    (tmp_path / "base.toml").write_text('model_name = "builtin/tiny"\n')
    (tmp_path / "lr.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def order():
    """The names of the queued runs as they would be claimed."""
    with Store.open(readonly=True) as store:
        sql = "SELECT name FROM runs WHERE state = 'queued'"
        sql += " ORDER BY priority DESC, sweep_id, position"
        return [row[0] for row in store._db.read(sql)]


def test_moved_runs_are_trained_first(tmp_path, say):
    """In the order named; what does not wait cannot be moved."""
    submit(tmp_path, *(planned(name) for name in "abcd"))
    assert say("move", "4", "2", "--first")[0] == 0
    assert order() == ["d", "b", "a", "c"]
    assert say("move", "3", "--first")[0] == 0
    assert order() == ["c", "d", "b", "a"]
    say("cancel", "1")
    code, _, err = say("move", "1", "--first")
    assert (code, "run 1 is cancelled" in err) == (3, True)
    assert say("move", "99", "--first")[0] == 3
    assert say("move", "2")[0] == 2


def test_a_higher_priority_is_trained_first(tmp_path, say):
    """Across sweeps; equal priorities keep the order of the submits."""
    submit(tmp_path, planned("a"))
    assert say("submit", "lr.toml", "--priority", "5")[0] == 0
    worker = WorkerProcess(tmp_path / "log")
    assert worker.wait() == 0
    assert [event["run"] for event in worker.events("started")] == [2, 3, 1]


def test_a_sweep_waits_for_another(tmp_path, say):
    """It is held until nothing of the other is left; an unknown one queues nothing."""
    submit(tmp_path, planned("a", updates=1), name="before")
    code, _, err = say("submit", "lr.toml", "--after", "befor")
    assert (code, "did you mean before?" in err) == (3, True)
    assert len(runs()) == 1
    assert say("submit", "lr.toml", "--after", "before", "--priority", "9")[0] == 0
    with Store.open() as store:
        assert store.queries.waiting("boot").held == ("sweep lr is held: it waits for another",)
    assert WorkerProcess(tmp_path / "log").wait() == 0
    assert states() == ["completed"] * 3
    began = [run.started for run in runs()]
    assert began == sorted(began)


def test_the_whole_queue_is_paused_and_goes_on(tmp_path, say):
    """The running run checkpoints, goes back into the queue and is continued."""
    submit(tmp_path, planned("a", updates=60, update_s=0.05), planned("b"))
    worker = WorkerProcess(tmp_path / "log")
    eventually(lambda: (tmp_path / "out/a/checkpoint-2").exists())
    assert say("pause", "--queue")[0] == 0
    eventually(lambda: states() == ["queued", "queued"])
    assert worker.wait() == 0
    code, _, err = say("pause", "--queue")
    assert (code, "paused already" in err) == (3, True)
    assert say("resume", "--queue")[0] == 0
    assert say("resume", "--queue")[0] == 3
    assert WorkerProcess(tmp_path / "log2").wait() == 0
    assert states() == ["completed"] * 2
    assert say("pause")[0] == 2
    assert say("pause", "1", "--queue")[0] == 2


def test_a_retry_names_what_has_lost_its_folder(tmp_path, say):
    """Another sweep trains there now; the rest of the sweep is queued again."""
    submit(tmp_path, planned("a"), planned("b"))
    assert say("cancel", "s")[0] == 0
    submit(tmp_path, planned("a"), name="t")
    code, out, err = say("retry", "s")
    assert code == 0
    assert "run 2 b: queued again" in out + err
    assert "run 1 a: stays cancelled; its folder belongs to run 3" in out + err
    code, out, err = say("retry", "1")
    assert (code, "its folder belongs to run 3" in err) == (3, True)


def test_files_are_removed_after_a_yes_only(tmp_path, say, monkeypatch):
    """Without it nothing is forgotten either; what holds no run stays."""
    submit(tmp_path, planned("a", updates=1), planned("b", updates=1), planned("c"))
    WorkerProcess(tmp_path / "log").wait()
    for path in (tmp_path / "out/c").iterdir():
        path.rename(tmp_path / f"kept-{path.name}")
    (tmp_path / "out/c/thesis.txt").write_text("not a run's")
    for mark in tmp_path.glob("out/*/starts"):  # The fake trainer's own.
        mark.unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert say("rm", "s", "--files")[0] != 0
    assert len(runs()) == 3
    code, _, err = say("rm", "s", "--files", "--yes")
    assert (code, runs()) == (0, [])
    assert "holds no run" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c"]


def test_another_sweep_s_runs_below_a_folder_are_not_deleted(tmp_path, say):
    """`outputs/tiny` and `outputs/tiny/RUN`: the worst that `rm` could do, and did."""
    submit(tmp_path, planned("tiny", updates=1))
    submit(tmp_path, planned("tiny/inner", updates=1), name="t")
    WorkerProcess(tmp_path / "log").wait()
    assert states() == ["completed"] * 2
    code, _, err = say("rm", "1", "--files", "--yes")
    assert code == 0
    assert "what it did not write: inner, starts" in err
    assert (tmp_path / "out/tiny/inner/result.json").exists()
    assert not (tmp_path / "out/tiny/result.json").exists()


def test_runs_whose_files_are_not_there_are_not_forgotten_with_them(tmp_path, say):
    """As on a disk that is not mounted: once forgotten, nobody would delete them."""
    submit(tmp_path, planned("a", updates=1), planned("b", updates=1))
    WorkerProcess(tmp_path / "log").wait()
    for mark in tmp_path.glob("out/*/starts"):  # The fake trainer's own.
        mark.unlink()
    (tmp_path / "out/a").rename(tmp_path / "disk")
    code, _, err = say("rm", "s", "--files", "--yes")
    assert code == 0
    assert f"run 1 a is kept: {tmp_path}/out/a is not there; if it lies on another disk" in err
    assert "1 output folders deleted" in err
    assert [run.id for run in runs()] == [1]
    assert say("rm", "s", "--files", "--yes")[0] == 3
    assert say("rm", "1")[0] == 0
    assert runs() == []


def test_without_files_the_folders_stay(tmp_path, say):
    """Only the queue forgets."""
    submit(tmp_path, planned("a", updates=1))
    WorkerProcess(tmp_path / "log").wait()
    assert say("rm", "1")[0] == 0
    assert (tmp_path / "out/a/result.json").exists()
    assert say("rm", "1")[0] == 3


def test_a_backup_is_a_whole_queue(tmp_path, say):
    """Written while another connection is in a transaction; never over an existing file."""
    submit(tmp_path, planned("a"), planned("b"))
    assert say("backup", "copy.db")[0] == 0
    with Store.open(tmp_path / "copy.db") as store:
        assert [run.name for run in store.queries.runs()] == ["a", "b"]
    code, _, err = say("backup", "copy.db")
    assert (code, "exists" in err) == (2, True)
    assert say("backup", "no/such/folder.db")[0] == 2


def test_a_backup_that_fails_leaves_nothing(tmp_path, say):
    """On a full disk: one message that names its folder; the next one goes in whole, 0600."""
    submit(tmp_path, planned("a"))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        code, _, err = say("backup", "copy.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert code == 2
    assert f"cannot be copied to {tmp_path}" in err or "cannot be copied to ." in err
    assert not list(tmp_path.glob("*copy.db"))
    mask = os.umask(0)
    try:
        assert say("backup", "copy.db")[0] == 0
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".grpo-tmp*"))


def test_a_queue_that_may_only_be_read_is_backed_up(tmp_path, say, monkeypatch):
    """It was a traceback."""
    submit(tmp_path, planned("a"))
    really = os.access
    refused = {home().db, home().root}
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p) not in refused and really(p, mode))
    code, _, err = say("backup", "copy.db")
    assert code == 0, err
    with Store.open(tmp_path / "copy.db") as store:
        assert len(store.queries.runs()) == 1


def test_folders_of_runs_never_lie_in_each_other(say, tmp_path):
    """A sweep is refused before anything is queued; a single run takes the next free folder."""
    submit(tmp_path, planned("a"))
    (tmp_path / "base.toml").write_text('model_name = "builtin/tiny"\n')
    for output in ("out/a/deeper/{run}", "out"):
        (tmp_path / "in.toml").write_text(
            f'config = "base.toml"\noutput = "{output}"\n[params]\nseed = [1]\n'
        )
        code, _, err = say("submit", "in.toml")
        assert code == 2
        assert "the folder of another run" in err
        assert say("submit", "in.toml", "--dry-run")[0] == 2
    assert len(runs()) == 1
    assert say("run", "--queue", "--config", "base.toml", "--set", "output_dir=out")[0] == 0
    assert runs()[-1].output_dir == "out-2"
