"""Files that a user names: whole or not at all, and words that help where it cannot be."""

import os
import stat

import pytest

from orchestrator.errors import UsageError
from orchestrator.system.files import check_target, folder_bytes, freeze, make_folder, write_target


def test_a_target_that_cannot_be_is_refused_before_any_work(tmp_path):
    """A folder, a folder that is missing, a file in the place of a folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"is a folder; name a file in it"):
        check_target(tmp_path)
    with pytest.raises(UsageError, match=r"none does not exist; make it, or name another"):
        check_target(tmp_path / "none" / "a.html")
    with pytest.raises(UsageError, match=r"file does not exist"):
        check_target(tmp_path / "file" / "a.html")
    assert check_target(tmp_path / "a.html") == tmp_path / "a.html"


def test_what_is_written_replaces_what_was_there_with_usual_permissions(tmp_path):
    """Readable by whom the user's umask allows; nothing else stays in the folder."""
    path = tmp_path / "a.html"
    path.write_bytes(b"old")
    mask = os.umask(0o027)
    try:
        write_target(path, b"new")
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch):
    """As on a full disk: the rename never comes."""
    path = tmp_path / "a.html"
    path.write_bytes(b"old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"a.html: cannot be written: No space left on device"):
        write_target(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_for_pictures_is_made_one_level_deep(tmp_path):
    """A typing error does not grow a tree; a file in its place is told."""
    assert make_folder(tmp_path / "plots").is_dir()
    assert make_folder(tmp_path / "plots").is_dir()
    with pytest.raises(UsageError, match="cannot be made"):
        make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        make_folder(tmp_path / "file")


def test_frozen_config_is_written_whole_and_mended(tmp_path):
    """The database holds the original; a file that was changed is put right."""
    path = tmp_path / "sweep-1.toml"
    freeze(path, "a = 1\n")
    before = path.stat().st_mtime_ns
    freeze(path, "a = 1\n")
    assert path.stat().st_mtime_ns == before
    path.write_text("tampered")
    freeze(path, "a = 1\n")
    assert path.read_text() == "a = 1\n"
    assert list(path.parent.iterdir()) == [path]


def test_bytes_of_a_folder_count_files_at_every_depth_once(tmp_path):
    """A link is as long as its text; a missing folder is empty."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "x").write_bytes(b"1" * 100)
    (tmp_path / "a/b/y").write_bytes(b"1" * 1000)
    os.symlink("x", tmp_path / "a/link")
    assert folder_bytes(tmp_path) == 1101
    assert folder_bytes(tmp_path / "none") == 0
