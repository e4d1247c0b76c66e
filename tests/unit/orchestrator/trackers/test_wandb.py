"""Runs in W&B's offline files, as `wandb sync` would send them."""

import json
import struct

import pytest

from orchestrator.cli import main
from orchestrator.run import Outcome, Verdict
from orchestrator.trackers.tracked import Tracked
from tests.queue_kit import eventually, runs
from tests.records import a_run, a_sweep
from tests.sweep_kit import add_sweep, finish_next, planned_run, write_run

pytest.importorskip("wandb", reason="the extra `wandb` is not installed")

UPDATES = 4
BLOCK, HEADER = 32768, 7


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A completed and a failed run, and one that waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    rates = (1e-5, 1e-4, 1e-3)
    planned = [planned_run(f"r{n}", n, {"lr": v}, tags=("t",)) for n, v in enumerate(rates)]
    add_sweep(tmp_path, planned)
    finish_next(write=lambda run: write_run(run.folder, 0.9, UPDATES))
    finish_next(
        Outcome(Verdict.DIVERGED, "nan", "loss nan", 6),
        write=lambda run: write_run(run.folder, 0.1, 2),
    )
    return tmp_path


def records(path):
    """The records of a .wandb file: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        at += HEADER
        whole += data[at : at + size]
        at += size
        if kind in (1, 4):  # A record is whole, or this was its last part.
            yield Record.FromString(whole)
            whole = b""


def ended(path):
    """All records of a session; a process of W&B's writes the last a moment after `finish`."""
    found = list(records(path))
    return found if any(record.HasField("exit") for record in found) else None


def sent(folder, name):
    """What was sent of the run of that name, session by session."""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        found = eventually(lambda path=path: ended(path))
        run = next(record.run for record in found if record.HasField("run"))
        if run.display_name == name:
            yield run, found


def items(found):
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in found}


def test_a_run_has_its_curves_config_group_tags_and_state(sweep, capfd):
    """Its steps are the updates; a failed one ends as failed."""
    assert main(["export", "s", "--wandb", "p"]) == 0
    assert "of 2 runs sent, 2 with what was there; see: W&B project p" in capfd.readouterr().err
    [(run, found)] = sent(sweep, "r0")
    assert (run.project, run.run_group, sorted(run.tags)) == ("p", "s", ["s", "t"])
    assert items(run.config.update)["lr"] == 1e-5
    history = [record.history for record in found if record.HasField("history")]
    assert [line.step.num for line in history] == list(range(UPDATES + 1))
    last = items(history[-1].item)
    assert last["eval/em"] == runs()[0].metrics["em"]
    assert last["train/global_step"] == UPDATES
    assert {"train/loss", "train/reward_mean", "_timestamp"} < last.keys()
    summary = {
        k: v for r in found if r.HasField("summary") for k, v in items(r.summary.update).items()
    }
    assert (summary["state"], summary["objective"]) == ("completed", runs()[0].value)
    assert [r.exit.exit_code for r in found if r.HasField("exit")] == [0]
    [(_, failed)] = sent(sweep, "r1")
    assert [r.exit.exit_code for r in failed if r.HasField("exit")] == [1]
    assert not list(sent(sweep, "r2"))


def test_exporting_again_sends_nothing_until_there_is_more(sweep):
    """No session is opened for what was sent; a run that goes on keeps its id."""
    from orchestrator.trackers.sending import Sender
    from orchestrator.trackers.wandb import WeightsAndBiases
    from tests.sweep_kit import write_lines

    tool = WeightsAndBiases("p")
    run = Tracked.of(a_run(cwd=str(sweep), output_dir="out/live"), a_sweep())
    for last in (3, 3, 5):
        log = [{"update": n, "loss": 0.5} for n in range(last + 1)]
        write_lines(run.run.folder / "training_log.jsonl", log)
        sender = Sender(tool, run)
        sender.send(run)
        sender.close()
    sessions = list(sent(sweep, "a"))
    assert [run.run_id for run, _ in sessions] == [run.key, run.key]
    steps = [[r.history.step.num for r in found if r.HasField("history")] for _, found in sessions]
    assert steps == [[0, 1, 2], [3, 4]]


def test_what_one_team_has_another_does_not(sweep):
    """Their projects may have one name, and a run has one id everywhere."""
    from orchestrator.trackers.sending import send_all
    from orchestrator.trackers.wandb import WeightsAndBiases

    run = Tracked.of(runs()[0], a_sweep())
    for team in ("one", "two"):
        assert send_all(WeightsAndBiases(f"{team}/p"), [run]).points == UPDATES + 1
    entities = [session.entity for session, _ in sent(sweep, "r0")]
    assert sorted(entities) == ["one", "two"]
