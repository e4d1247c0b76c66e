"""File names: the queue's home, and what lies in a run's folder."""

import os
from pathlib import Path

import pytest

from orchestrator.errors import QueueError
from orchestrator.system.paths import Home, RunPaths, home, shipped


def test_home_is_what_the_environment_names():
    """GRPO_SWEEP_HOME wins, with ~ for the user's folder."""
    assert home({"GRPO_SWEEP_HOME": "/a/b"}).root == Path("/a/b")
    assert home({"GRPO_SWEEP_HOME": "~/q"}).root == Path("~/q").expanduser()


@pytest.mark.parametrize("env", [{}, {"GRPO_SWEEP_HOME": ""}])
def test_home_is_the_users_data_folder_otherwise(env):
    """Without a name, or with an empty one, the platform's data folder."""
    assert home(env).root.name == "grpo-sweep"


def test_home_is_private(tmp_path):
    """Only its owner may look into the folders that we make, whatever the umask."""
    before = os.umask(0)
    try:
        made = Home(tmp_path / "deep" / "home").make()
    finally:
        os.umask(before)
    for folder in (made.root, made.worker_lock.parent, made.root / "configs", made.root / "logs"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_home_that_cannot_be_made_is_said(tmp_path):
    """A file in the way: the path, the reason and the way out."""
    (tmp_path / "file").touch()
    with pytest.raises(QueueError, match=r"file.*cannot be made.*GRPO_SWEEP_HOME"):
        Home(tmp_path / "file" / "home").make()


def test_only_whole_checkpoints_count_and_numbers_sort_as_numbers(tmp_path):
    """Half-made folders, files and other names are no checkpoints."""
    for name in ("checkpoint-9", "checkpoint-10", ".tmp-checkpoint-11", "checkpoint-x", "final"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-12").touch()
    run = RunPaths(tmp_path)
    assert [update for update, _ in run.checkpoints()] == [10, 9]
    assert run.newest_checkpoint() == 10


def test_folder_without_checkpoints(tmp_path):
    """No checkpoint, or no folder at all, is -1."""
    assert RunPaths(tmp_path).newest_checkpoint() == -1
    assert RunPaths(tmp_path / "none").newest_checkpoint() == -1


def test_shipped_files_are_found_in_a_checkout():
    """Outside a wheel the repository's own folders are used."""
    assert shipped("pyproject.toml").is_file()
