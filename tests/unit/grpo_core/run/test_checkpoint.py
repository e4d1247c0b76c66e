"""A checkpoint is whole or passed over, and brings back what was put in."""

import errno
import io
import os
from pathlib import Path

import mlx.core as mx
import pytest

from grpo_core.errors import ModelError
from grpo_core.run import checkpoint
from grpo_core.run.atomic import remove
from grpo_core.run.checkpoint import RunState, damage, newest, nothing_learnt, rotate, save
from grpo_core.run.protocol import checkpoints

ARRAYS = {"m/w": mx.array([1.0, 2.5]), "master/w": mx.array([[0.1]])}


def write_weights(folder):
    mx.save_safetensors(str(folder / "adapters.safetensors"), {"w": mx.ones(4)})
    (folder / "adapter_config.json").write_text("{}")


def save_at(folder, update, rollouts=None, **fields):
    return save(folder, RunState(update=update, **fields), ARRAYS, rollouts, write_weights)


def quiet(line):
    pass


def test_everything_comes_back(tmp_path):
    """State, arrays to the last bit, and rollouts."""
    state = {"batch_step": 8, "tokens": 3, "best": {"em": 0.1 + 0.2}, "evaluated": ["test"]}
    save_at(tmp_path, 4, {"ids": [[1, 2]]}, **state)
    back = newest(tmp_path, quiet)
    assert back.state == RunState(update=4, **state)
    assert back.rollouts == {"ids": [[1, 2]]}
    assert sorted(back.arrays) == sorted(ARRAYS)
    assert all(mx.array_equal(back.arrays[k], a).item() for k, a in ARRAYS.items())


def test_newest_is_by_number(tmp_path):
    """10 comes after 9."""
    for update in (9, 10, 2):
        save_at(tmp_path, update)
    assert [update for update, _ in checkpoints(tmp_path)] == [10, 9, 2]
    assert newest(tmp_path, quiet).state.update == 10


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("spoil", [truncate, flip, lambda path: path.unlink()])
@pytest.mark.parametrize(
    "name",
    ["optimizer.safetensors", "trainer_state.json", "manifest.json", "adapters.safetensors"],
)
def test_torn_one_is_passed_over_for_the_one_before(tmp_path, name, spoil):
    """Cut short, one bit wrong, or gone; it says which file, and the torn one is set aside."""
    save_at(tmp_path, 2)
    torn = save_at(tmp_path, 4)
    spoil(torn / name)
    said = []
    assert newest(tmp_path, said.append).state.update == 2
    assert len(said) == 1
    assert name in said[0]
    assert str(torn) in said[0]
    assert [update for update, _ in checkpoints(tmp_path)] == [2]
    assert (tmp_path / ".grpo-torn-checkpoint-4").is_dir()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("name", ["manifest.json", "adapters.safetensors", "trainer_state.json"])
def test_one_that_cannot_be_read_is_not_torn(tmp_path, monkeypatch, name, number):
    """It is an error that is told; no checkpoint is touched, and none is passed over."""
    save_at(tmp_path, 2)
    whole = save_at(tmp_path, 4)
    really_open = io.open

    def refuse(path, *args, **more):
        if not isinstance(path, int) and Path(path) == whole / name:
            raise OSError(number, os.strerror(number), str(path))
        return really_open(path, *args, **more)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    with pytest.raises(ModelError, match=rf"{name}: cannot be read: .*nothing was changed"):
        newest(tmp_path, quiet)
    monkeypatch.undo()
    assert newest(tmp_path, quiet).state.update == 4


@pytest.mark.parametrize("name", ["manifest.json", "trainer_state.json", "adapters.safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path, name, make):
    """A pipe that nobody writes to, or a folder: an error that is told, and nothing is moved."""
    path = save_at(tmp_path, 4) / name
    path.rename(tmp_path / "kept")
    make(path)
    with pytest.raises(
        ModelError, match=rf"{name}: cannot be read: not a file; nothing was changed"
    ):
        newest(tmp_path, quiet)
    path.unlink() if make is os.mkfifo else path.rmdir()
    (tmp_path / "kept").rename(path)
    assert newest(tmp_path, quiet).state.update == 4


def test_a_folder_that_cannot_be_listed_does_not_begin_anew(tmp_path, monkeypatch):
    """With an empty list the run would start from its base and write over what is there."""
    save_at(tmp_path, 2)

    def refuse(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ModelError, match=rf"{tmp_path}: cannot be listed: .*nothing was changed"):
        newest(tmp_path, quiet)


def test_none_is_none(tmp_path):
    """No checkpoint, or only what is not one."""
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-3").touch()
    assert newest(tmp_path, quiet) is None


def test_failed_save_leaves_no_trace(tmp_path):
    """The disk is full while the weights are written."""

    def full(folder):
        write_weights(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save(tmp_path, RunState(update=1), ARRAYS, None, full)
    assert not list(tmp_path.iterdir())


def test_same_number_is_replaced(tmp_path):
    """Saved again after its evaluations: the newer one counts, and it is whole."""
    save_at(tmp_path, 4)
    path = save_at(tmp_path, 4, evaluated=["test"])
    assert damage(path) == ""
    assert newest(tmp_path, quiet).state.evaluated == ["test"]


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [(2, None, [8, 6]), (2, 2, [8, 6, 2]), (1, 8, [8]), (0, None, [8, 6, 4, 2])],
)
def test_rotation_keeps_the_newest_and_the_best(tmp_path, limit, keep, left):
    """0 keeps all; the best stays beside the newest."""
    for update in (2, 4, 6, 8):
        save_at(tmp_path, update)
    assert rotate(tmp_path, limit, keep) == []
    assert [update for update, _ in checkpoints(tmp_path)] == left


def test_an_old_checkpoint_that_cannot_be_removed_stays(tmp_path, monkeypatch):
    """Somebody else's, or on a disk that fails: no reason to end a run, and the others go."""

    def refuse(path):
        if path.name == "checkpoint-4":
            raise PermissionError(errno.EACCES, "Permission denied", "adapter_config.json")
        remove(path)

    for update in (2, 4, 6):
        save_at(tmp_path, update)
    monkeypatch.setattr(checkpoint, "remove", refuse)
    (words,) = rotate(tmp_path, 1, None)
    assert str(tmp_path / "checkpoint-4") in words
    assert "Permission denied" in words
    assert [update for update, _ in checkpoints(tmp_path)] == [6, 4]


@pytest.mark.parametrize(
    ("moved", "unrewarded", "words"),
    [
        (1, 0, ""),
        (1, 3, ""),
        (0, 4, "in all 4 updates every reward of every completion was missing (None)"),
        (0, 3, "in none of 4 updates was there a signal, within each group all rewards were equal"),
    ],
)
def test_a_run_that_learnt_nothing_says_why(moved, unrewarded, words):
    """It is completed like any other, and its weights are those of the base."""
    state = RunState(update=4, moved_updates=moved, unrewarded_updates=unrewarded)
    assert words in nothing_learnt(state)
    assert bool(nothing_learnt(state)) is bool(words)


def test_a_run_without_an_update_has_nothing_to_say():
    """As one that was interrupted at once."""
    assert nothing_learnt(RunState()) == ""
