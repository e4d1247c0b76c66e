"""What is copied of an attempt on a node, however the pieces come."""

import hashlib

import pytest

from orchestrator.worker import mirror
from orchestrator.worker.mirror import Mirror
from orchestrator.worker.nodes import ATTEMPT_LOG, AttemptReport, FileState, NodeAway, NodeRefused


class Far:
    """The files on a node, and what was read of them."""

    def __init__(self):
        self.files = {}
        self.version = {}
        self.reads = []
        self.running = True
        self.fails_at = None

    def report(self):
        """How the attempt stands."""
        states = tuple(self.state(path) for path in self.files)
        return AttemptReport(
            *(self.running, 7, None, None, None, None), age_s=1.0, quiet_s=0.0, files=states
        )

    def state(self, path):
        """A log grows until the end; all else is whole."""
        whole = not self.running or not path.endswith(("log", "jsonl"))
        content = self.files[path]
        told = hashlib.sha256(content).hexdigest() if whole else None
        return FileState(path, len(content), self.version.get(path, 1), whole, told)

    def read(self, path, offset, size):
        """As a node; away at the read that `fails_at` says."""
        if len(self.reads) == self.fails_at:
            self.fails_at = None
            raise NodeAway("cut")
        self.reads.append((path, offset))
        return self.files[path][offset : offset + size]


@pytest.fixture
def far():
    return Far()


@pytest.fixture
def near(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "PIECE_BYTES", 10)
    monkeypatch.setattr(mirror, "_OVERLAP_BYTES", 4)
    return Mirror(tmp_path / "run", tmp_path / "1.log")


def bring(near, far):
    """Copy all that is new."""
    for _ in near.copy(far.report(), far.read):
        pass


def test_a_log_grows_by_what_is_new(tmp_path, near, far):
    """Each part once, but for the few bytes by which both are compared."""
    here = tmp_path / "run/training_log.jsonl"
    far.files["training_log.jsonl"] = b"0123456789abcdef"
    bring(near, far)
    assert here.read_bytes() == b"0123456789abcdef"
    far.reads.clear()
    far.files["training_log.jsonl"] += b"ghij"
    bring(near, far)
    assert here.read_bytes() == b"0123456789abcdefghij"
    assert far.reads == [("training_log.jsonl", 12)]
    far.reads.clear()
    bring(near, far)
    assert far.reads == []


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("then", [b"0123XY", b"0123XY789abcdefghijk", b""])
def test_a_log_that_was_cut_is_taken_anew(tmp_path, near, far, known, then):
    """A trainer that goes on cuts it at its checkpoint; a new worker does not know of that."""
    far.files["training_log.jsonl"] = b"0123456789abcdef"
    bring(near, far)
    far.files["training_log.jsonl"] = then
    far.version["training_log.jsonl"] = 2
    if not known:
        near = Mirror(tmp_path / "run", tmp_path / "1.log")
    bring(near, far)
    assert (tmp_path / "run/training_log.jsonl").read_bytes() == then


def test_what_the_worker_noted_in_the_log_of_an_attempt_stays_above(tmp_path, near, far):
    """The trainer's part comes below, also where it is continued by another worker."""
    log = tmp_path / "1.log"
    log.write_text("[frozen] a file has changed\n")
    far.files[ATTEMPT_LOG] = b"== attempt 1\nsays\n"
    bring(near, far)
    far.files[ATTEMPT_LOG] += b"more\n"
    near = Mirror(tmp_path / "run", log)
    bring(near, far)
    far.running = False
    bring(near, far)
    assert log.read_text() == "[frozen] a file has changed\n== attempt 1\nsays\nmore\n"


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path, near, far):
    """A cut in its midst leaves no folder of that name; what came is not read again."""
    run = tmp_path / "run"
    far.files["checkpoint-2/adapters.safetensors"] = bytes(range(25))
    far.files["checkpoint-2/manifest.json"] = b"{}"
    far.fails_at = 2
    with pytest.raises(NodeAway):
        bring(near, far)
    assert not (run / "checkpoint-2").exists()
    bring(near, far)
    assert (run / "checkpoint-2/adapters.safetensors").read_bytes() == bytes(range(25))
    assert (run / "checkpoint-2/manifest.json").read_bytes() == b"{}"
    assert [offset for path, offset in far.reads if "adapters" in path] == [0, 10, 20]
    assert [path.name for path in run.iterdir()] == ["checkpoint-2"]
    far.reads.clear()
    bring(Mirror(run, tmp_path / "1.log"), far)
    assert far.reads == []


def test_a_checkpoint_that_is_here_in_part_comes_before_a_newer_one(near, far):
    """Or over a slow line none would ever be whole."""
    far.files["checkpoint-2/a"] = bytes(range(25))
    far.fails_at = 2
    with pytest.raises(NodeAway):
        bring(near, far)
    far.files["checkpoint-4/a"] = b"four"
    far.reads.clear()
    bring(near, far)
    assert far.reads == [("checkpoint-2/a", 20), ("checkpoint-4/a", 0)]


def test_of_a_checkpoint_that_went_before_it_was_whole_nothing_stays(tmp_path, near, far):
    """Each would cost as much room as a whole one."""
    far.files["checkpoint-2/a"] = bytes(range(25))
    far.fails_at = 2
    with pytest.raises(NodeAway):
        bring(near, far)
    del far.files["checkpoint-2/a"]
    bring(near, far)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_file_that_came_torn_is_refused_and_read_again(tmp_path, near, far):
    """By its sum; nothing of it is taken for the checkpoint."""
    far.files["checkpoint-2/a"] = b"right"
    torn = far.report()
    far.files["checkpoint-2/a"] = b"wrong"
    with pytest.raises(NodeRefused, match="did not come whole"):
        for _ in near.copy(torn, far.read):
            pass
    assert not (tmp_path / "run/checkpoint-2").exists()
    far.files["checkpoint-2/a"] = b"right"
    bring(near, far)
    assert (tmp_path / "run/checkpoint-2/a").read_bytes() == b"right"


def test_another_checkpoint_of_the_same_name_takes_its_place(tmp_path, near, far):
    """One that an earlier attempt had left, from other bits."""
    old = tmp_path / "run/checkpoint-2"
    old.mkdir(parents=True)
    (old / "a").write_bytes(b"old")
    (old / "more").write_bytes(b"old")
    far.files["checkpoint-2/a"] = b"new"
    bring(near, far)
    assert [(path.name, path.read_bytes()) for path in old.iterdir()] == [("a", b"new")]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-2"]


def test_a_checkpoint_that_the_trainer_deleted_goes_once_a_newer_one_is_here(tmp_path, near, far):
    """One that this node never had stays, and the newest in any case."""
    run = tmp_path / "run"
    (run / "checkpoint-1").mkdir(parents=True)
    far.files["checkpoint-2/a"] = b"two"
    bring(near, far)
    del far.files["checkpoint-2/a"]
    bring(near, far)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    far.files["checkpoint-3/a"] = b"three"
    bring(near, far)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-1", "checkpoint-3"]


def test_the_result_comes_last_and_an_old_one_goes(tmp_path, near, far):
    """Whoever sees a result may read everything else."""
    result = tmp_path / "run/result.json"
    result.parent.mkdir()
    result.write_text("old")
    bring(near, far)
    assert not result.exists()
    far.files = {"result.json": b"new", "training_log.jsonl": b"line\n", "final/a": b"weights"}
    bring(near, far)
    assert not result.exists()
    far.running = False
    steps = near.copy(far.report(), far.read)
    seen = []
    for _ in steps:
        seen.append(result.exists())
    assert result.read_bytes() == b"new"
    assert not any(seen[:-1])
    assert far.reads[-1] == ("result.json", 0)


@pytest.mark.parametrize(
    "path",
    ["../queue.db", "/etc/passwd", "a/../../b", "a//b", "", ".lock", ".grpo-tmp-a", "a\\b", "a\0"],
)
def test_no_name_leads_out_of_the_folder(near, far, path):
    """A node writes where its run writes, and nowhere else."""
    far.files[path] = b"evil"
    with pytest.raises(NodeRefused, match="no file of an output folder"):
        bring(near, far)
