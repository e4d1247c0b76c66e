"""TensorBoard's event files, read back record by record and by TensorBoard itself."""

import struct
from dataclasses import replace

import pytest

from orchestrator.cli import main
from orchestrator.run import Outcome, Verdict
from orchestrator.trackers.sending import Sender
from orchestrator.trackers.tensorboard import MARKER, TensorBoard
from orchestrator.trackers.tracked import Tracked
from tests.queue_kit import runs
from tests.records import a_run, a_sweep
from tests.sweep_kit import add_sweep, finish_next, planned_run, write_lines, write_run

pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")

UPDATES = 6


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A completed, a failed and a waiting run."""
    monkeypatch.chdir(tmp_path)
    rates = (1e-5, 1e-4, 1e-3)
    add_sweep(tmp_path, [planned_run(f"r{n}", n, {"lr": v}) for n, v in enumerate(rates)])
    finish_next(write=lambda run: write_run(run.folder, 0.9, UPDATES))
    finish_next(Outcome(Verdict.DIVERGED, "nan", "loss nan", 6))
    return tmp_path


def events(folder):
    """The events of a folder, by the format of TFRecord: length, checksum, data, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16


def scalars(folder):
    """tag -> {step: value}; every step at most once."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                curve = found.setdefault(value.tag, {})
                assert event.step not in curve
                curve[event.step] = value.simple_value
    return found


def test_a_run_that_began_has_its_curves_and_its_state(sweep, capfd):
    """The same numbers as in its log; a failed one says why; one that waits has no folder."""
    assert main(["export", "s", "--tensorboard", "tb"]) == 0
    told = capfd.readouterr()
    assert "1 run sent, 2 with what was there" in told.err
    assert "tensorboard --logdir tb" in told.err
    found = scalars(sweep / "tb/s/r0")
    assert sorted(found["train/loss"]) == list(range(1, UPDATES + 1))
    assert sorted(found["eval/em"]) == [0, UPDATES]
    assert found["eval/em"][UPDATES] == pytest.approx(runs()[0].metrics["em"])
    texts = b"".join(e.SerializeToString() for e in events(sweep / "tb/s/r1"))
    assert b"failed" in texts
    assert b"nan" in texts
    assert not (sweep / "tb/s/r2").exists()


def test_exporting_again_adds_nothing_until_there_is_more(sweep):
    """No file, no event; the run that was still to come gets its own; who deletes all gets all."""
    main(["export", "s", "--tensorboard", "tb"])
    before = sorted((sweep / "tb").rglob("*"))
    main(["export", "s", "--tensorboard", "tb"])
    assert sorted((sweep / "tb").rglob("*")) == before
    finish_next(write=lambda run: write_run(run.folder, 0.5, UPDATES))
    main(["export", "s", "--tensorboard", "tb"])
    assert len(scalars(sweep / "tb/s/r2")["train/loss"]) == UPDATES
    for path in (sweep / "tb/s/r0").iterdir():
        path.unlink()
    main(["export", "s", "--tensorboard", "tb"])
    assert len(scalars(sweep / "tb/s/r0")["train/loss"]) == UPDATES
    assert (sweep / "tb/s/r0" / MARKER).exists()


def test_a_run_that_shows_the_result_of_an_earlier_one_is_sent_as_well(tmp_path, monkeypatch):
    """It was never started in its own sweep; its curves are the earlier run's."""
    monkeypatch.chdir(tmp_path)
    run = replace(planned_run("same", 0, {"lr": 1e-2}), identity="the same")
    add_sweep(tmp_path, [run], "one")
    trained = finish_next(write=lambda run: write_run(run.folder, 0.9, UPDATES))
    (trained.folder / "result.json").write_text('{"status": "completed"}')
    add_sweep(tmp_path, [run], "two")
    assert runs()[-1].attempt == 0
    assert main(["export", "two", "--tensorboard", "tb"]) == 0
    assert len(scalars(tmp_path / "tb/two/same")["train/loss"]) == UPDATES


def test_sessions_of_one_second_do_not_overwrite_each_other(tmp_path):
    """The names of event files count seconds; and what a session could not note is void."""
    tool = TensorBoard(tmp_path / "tb")
    run = Tracked.of(a_run(cwd=str(tmp_path)), a_sweep())
    for last in (2, 4):
        lines = [{"update": n, "loss": 0.5} for n in range(last + 1)]
        write_lines(run.run.folder / "training_log.jsonl", lines)
        sender = Sender(tool, run)
        sender.send(run)
        sender.close()
    folder = tmp_path / "tb/s/a"
    assert sorted(scalars(folder)["train/loss"]) == [0, 1, 2, 3]
    starts = [event.step for event in events(folder) if event.session_log.status]
    assert starts == [0, 2]


def test_tensorboard_itself_reads_curves_and_hyper_parameters(sweep):
    """Its own reader, where it is installed."""
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here"
    )
    main(["export", "s", "--tensorboard", "tb"])
    read = accumulators.EventAccumulator(str(sweep / "tb/s/r0"))
    read.Reload()
    assert [point.step for point in read.Scalars("train/loss")] == list(range(1, UPDATES + 1))
    plugin = read.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name
    assert plugin == "hparams"


def test_a_folder_that_cannot_be_made_is_named(sweep, capfd):
    """A file stands there: no traceback, nothing written."""
    (sweep / "tb").write_text("notes")
    assert main(["export", "s", "--tensorboard", "tb/more"]) == 2
    assert "tb/more: the folder cannot be made" in capfd.readouterr().err
    assert (sweep / "tb").read_text() == "notes"


def test_a_sweep_that_was_taken_for_the_folder_is_named(sweep, capfd):
    """`export --tensorboard s` would write about the latest sweep into a folder s."""
    assert main(["export", "--tensorboard", "s"]) == 2
    assert "the sweep comes first: export s --tensorboard" in capfd.readouterr().err
    assert not (sweep / "s").exists()
