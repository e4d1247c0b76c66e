"""The files of an attempt as they are told: what grows, what is whole, what is kept to be read."""

import hashlib
import json
import shutil

import pytest

from orchestrator.cluster.files import AttemptFiles, FileLister
from orchestrator.worker.nodes import ATTEMPT_LOG


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self):
        """The time."""
        return self.now


@pytest.fixture
def clock():
    """At zero."""
    return Clock()


@pytest.fixture
def files(tmp_path):
    """The folders of an attempt, empty."""
    found = AttemptFiles(tmp_path / "attempt.log", tmp_path / "out", tmp_path / "kept")
    found.output.mkdir()
    found.kept.mkdir()
    return found


@pytest.fixture
def lister(files, clock):
    """What tells them."""
    return FileLister(files, clock)


def checkpoint(files, update):
    """A whole one."""
    folder = files.output / f"checkpoint-{update}"
    folder.mkdir()
    content = f"weights {update}".encode()
    (folder / "adapters.safetensors").write_bytes(content)
    sums = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"files": {"adapters.safetensors": sums}}))


def told(lister, ended=False):
    """The paths."""
    return {state.path for state in lister.look(ended=ended)}


def weights(lister):
    """The updates of the checkpoints that are told."""
    return sorted(
        int(path.split("/")[0].removeprefix("checkpoint-"))
        for path in told(lister)
        if path.endswith("adapters.safetensors")
    )


def test_a_trainer_that_removes_checkpoints_does_not_outrun_its_reader(files, lister, clock):
    """The one that is read stays, the newest comes next; others go as the trainer wills."""
    checkpoint(files, 2)
    assert weights(lister) == [2]
    assert lister.read("checkpoint-2/adapters.safetensors", 0, 7) == b"weights"
    for update in (4, 6):
        clock.now += 10
        checkpoint(files, update)
        shutil.rmtree(files.output / f"checkpoint-{update - 2}")
        assert weights(lister) == [2, update]
        assert lister.read("checkpoint-2/adapters.safetensors", 7, 99) == b" 2"
    clock.now += 31
    assert weights(lister) == [6]
    shutil.rmtree(files.output / "checkpoint-6")
    assert weights(lister) == [6]
    assert lister.read("checkpoint-6/adapters.safetensors", 0, 99) == b"weights 6"


def test_what_is_half_made_or_half_removed_is_not_told(files, lister):
    """Only a folder that its manifest describes counts, and no file of a name that passes."""
    for update in (2, 4, 6):
        checkpoint(files, update)
    (files.output / "checkpoint-2/adapters.safetensors").unlink()
    (files.output / "checkpoint-4/manifest.json").unlink()
    (files.output / "checkpoint-6").rename(files.output / ".grpo-tmp-checkpoint-6")
    (files.output / ".lock").touch()
    (files.output / "link").symlink_to("/etc/passwd")
    assert told(lister) == set()


def test_logs_grow_until_the_end_and_results_are_whole_at_once(files, lister):
    """The sum of a log is told when nothing more can come."""
    for name in ("training_log.jsonl", "result.json", "notes.txt"):
        (files.output / name).write_text("abc")
    files.log.write_text("abc")
    own = files.output / "mine"
    own.mkdir()
    (own / "table.csv").write_text("abc")
    whole = {state.path: state.whole for state in lister.look(ended=False)}
    assert whole == {
        **{ATTEMPT_LOG: False, "training_log.jsonl": False, "notes.txt": False},
        **{"result.json": True},
    }
    sums = {state.path: state.sha256 for state in lister.look(ended=True)}
    assert sums == dict.fromkeys({*whole, "mine/table.csv"}, hashlib.sha256(b"abc").hexdigest())


def test_a_file_that_was_replaced_has_another_version(files, lister):
    """A trainer that goes on cuts its log: by its size alone it would seem to have grown."""
    log = files.output / "training_log.jsonl"
    log.write_text("a\nb\n")
    [before] = lister.look(ended=False)
    with open(log, "a") as out:
        out.write("c\n")
    [grown] = lister.look(ended=False)
    beside = files.output / ".grpo-tmp-log"
    beside.write_text("a\nx\ny\nz\n")
    beside.replace(log)
    [replaced] = lister.look(ended=False)
    assert before.version == grown.version != replaced.version


def test_silence_counts_from_the_last_change_of_a_log(files, lister, clock):
    """By the node's own clock."""
    clock.now = 5.0
    files.log.write_text("a")
    lister.look(ended=False)
    clock.now = 12.0
    lister.look(ended=False)
    assert lister.quiet_s == 7.0
    (files.output / "training_log.jsonl").write_text("a")
    lister.look(ended=False)
    assert lister.quiet_s == 0.0
