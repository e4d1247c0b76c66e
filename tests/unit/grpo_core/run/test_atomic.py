"""Files and folders are whole or not there."""

import resource
import sys

import pytest

from grpo_core.run.atomic import new_folder, put_back, read_json, write_atomically, write_json


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """The name never points to half a file, and nothing lies beside it."""
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("grpo_core.run.atomic.sync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"half")
    assert read_json(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_written_file_stands_alone(tmp_path):
    """The half-made one is gone when the whole one is there."""
    write_json(tmp_path / "a.json", {"n": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_torn_json_is_none(tmp_path):
    """A torn file reads as no file; so does one that holds no object."""
    for name, content in (("torn", '{"n": '), ("list", "[1]"), ("none", None)):
        if content is not None:
            (tmp_path / name).write_text(content)
        assert read_json(tmp_path / name) is None


def test_folder_appears_whole(tmp_path):
    """Until it is filled, its name is not there."""
    target = tmp_path / "checkpoint-1"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


def test_failed_folder_leaves_the_old_one(tmp_path):
    """An error while filling takes the half-made folder away."""
    target = tmp_path / "final"
    with new_folder(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(OSError, match="full"), new_folder(target) as folder:
        (folder / "a").write_text("new")
        raise OSError("full")
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_folder_is_replaced(tmp_path):
    """Nothing of the old one shines through."""
    target = tmp_path / "final"
    for name in ("a", "b"):
        with new_folder(target) as folder:
            (folder / name).write_text(name)
    assert [p.name for p in target.iterdir()] == ["b"]


@pytest.mark.parametrize("has_new", [False, True])
def test_death_between_the_renames_is_mended(tmp_path, has_new):
    """The folder set aside comes back where the new one did not arrive; half-made ones go."""
    (tmp_path / ".grpo-old-final").mkdir()
    (tmp_path / ".grpo-tmp-checkpoint-3").mkdir()
    (tmp_path / ".grpo-tmp-result.json").write_text("{")
    if has_new:
        (tmp_path / "final").mkdir()
        (tmp_path / "final" / "new").touch()
    put_back(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["final"]
    assert (tmp_path / "final" / "new").exists() is has_new


@pytest.mark.skipif(sys.platform != "linux", reason="the size of files is limited as Linux does")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_full_disk_names_what_could_not_be_written(tmp_path, what):
    """A write says only that there is no room."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            if what == "file":
                write_atomically(tmp_path / "result.json", bytes(1000))
            else:
                with (
                    new_folder(tmp_path / "checkpoint-3") as folder,
                    open(folder / "x", "wb", buffering=0) as file,
                ):
                    while file.write(bytes(1000)):
                        pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    names = {"file": "result.json", "folder": "checkpoint-3"}
    assert caught.value.filename == str(tmp_path / names[what])
    assert list(tmp_path.iterdir()) == []
