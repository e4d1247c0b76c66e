"""A folder belongs to one configuration, and to one trainer at a time."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_core.config import MLXGRPOConfig, config_hash, named_path
from grpo_core.errors import ConfigError, Interrupted
from grpo_core.run.atomic import write_json
from grpo_core.run.folder import (
    Standing,
    candidate_folders,
    choose_folder,
    claim_folder,
    standing_of,
)


def config(folder, **fields):
    return MLXGRPOConfig(output_dir=str(folder), **fields)


def never(seconds):
    return False


def take(cfg, strict=False):
    """Claim a folder and let it go again, as a run does that ends."""
    folder = claim_folder(cfg, strict, never)
    if folder.lock is not None:
        folder.lock.release()
    return folder


def finish(folder):
    write_json(folder.path / "result.json", {"status": "completed", "updates": 4})


def test_new_folder_is_signed(tmp_path):
    """config.resolved.json: every field, tags, versions and hash."""
    cfg = config(tmp_path / "a" / "b", seed=3)
    cfg.extra["note"] = "x"
    take(cfg)
    held = json.loads((tmp_path / "a" / "b" / "config.resolved.json").read_text())
    assert held["seed"] == 3
    assert held["extra"] == {"note": "x"}
    assert held["hash"] == config_hash(cfg)
    assert held["versions"]["python"].startswith("3.")


def test_a_folder_in_the_users_own_is_not_one_named_tilde(tmp_path, monkeypatch, capsys):
    """The configuration says where it lies, and nothing speaks of another one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = take(config("~/out"))
    assert folder.path == tmp_path / "out"
    assert folder.cfg.output_dir == str(tmp_path / "out")
    assert "another configuration" not in "".join(capsys.readouterr())
    other = take(config("~/out", seed=9))
    assert other.path == tmp_path / "out-2"


@pytest.mark.parametrize("name", ["config.resolved.json", "result.json"])
def test_a_folder_that_cannot_be_read_is_not_another_s(tmp_path, monkeypatch, name):
    """Nor an unfinished one, whose result would be deleted: it is told, and nothing changes."""
    cfg = config(tmp_path / "out")
    finish(take(cfg))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    really_read = Path.read_bytes

    def refuse(path):
        if path.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really_read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for strict in (False, True):
        with pytest.raises(ConfigError, match=rf"{name}: cannot be read: Input/output error"):
            take(cfg, strict)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_whose_name_no_disk_holds_is_refused(tmp_path):
    """In one message, and at once: a number makes it longer."""
    with pytest.raises(ConfigError, match="File name too long"):
        take(config(tmp_path / ("a" * 300)))


def test_same_configuration_goes_on_in_its_folder(tmp_path):
    """Also under another run_name and with other logging: they are not in the hash."""
    cfg = config(tmp_path / "out")
    first = take(cfg)
    again = take(replace(cfg, run_name="other", logging_steps=7, verbose=True))
    assert again.path == first.path
    assert again.lock is not None


def test_verdict_of_the_last_attempt_goes(tmp_path):
    """A run that goes on must not be found interrupted if it then dies."""
    cfg = config(tmp_path / "out")
    folder = take(cfg)
    write_json(folder.path / "result.json", {"status": "interrupted"})
    take(cfg)
    assert not (folder.path / "result.json").exists()


def test_completed_folder_is_left_alone(tmp_path):
    """No lock is held, and the result is handed over."""
    cfg = config(tmp_path / "out")
    finish(take(cfg))
    done = claim_folder(cfg, strict=True, should_stop=never)
    assert done.lock is None
    assert done.result["updates"] == 4


def test_lenient_takes_the_next_free_number(tmp_path):
    """Three configurations, one name: three folders, each found again by its own."""
    configs = [config(tmp_path / "out", learning_rate=rate) for rate in (1e-6, 2e-6, 3e-6)]
    paths = [take(cfg).path.name for cfg in configs]
    assert paths == ["out", "out-2", "out-3"]
    assert [take(cfg).path.name for cfg in reversed(configs)] == ["out-3", "out-2", "out"]


def test_changed_output_dir_is_in_the_configuration(tmp_path):
    """Who reads the folder's configuration learns where it lies."""
    take(config(tmp_path / "out", seed=1))
    second = take(config(tmp_path / "out", seed=2))
    assert second.cfg.output_dir == str(tmp_path / "out-2")
    held = json.loads((second.path / "config.resolved.json").read_text())
    assert held["output_dir"] == str(tmp_path / "out-2")


def test_a_run_for_another_machine_is_called_as_it_is_there(tmp_path, monkeypatch):
    """Its files lie below a folder of this machine, and its configuration says nothing of that."""
    root = tmp_path / "files"
    monkeypatch.setenv("GRPO_FILES_ROOT", str(root))
    folder = take(config("/there/out"))
    assert folder.path == root / "there/out"
    held = json.loads((root / "there/out/config.resolved.json").read_text())
    assert held["output_dir"] == folder.cfg.output_dir == "/there/out"
    assert named_path("data/rows.jsonl") == Path("data/rows.jsonl")
    assert named_path("~/rows.jsonl") == root.joinpath(*Path.home().parts[1:], "rows.jsonl")


def test_strict_refuses_and_says_what_differs(tmp_path):
    """The first three fields, and how many more."""
    take(config(tmp_path / "out"))
    other = config(tmp_path / "out", seed=1, num_generations=8, top_k=5, top_p=0.5)
    with pytest.raises(ConfigError) as caught:
        claim_folder(other, strict=True, should_stop=never)
    words = str(caught.value)
    assert "num_generations = 64, not 8" in words
    assert "and 1 more" in words
    assert not (tmp_path / "out-2").exists()


@pytest.mark.parametrize(
    "trace", ["training_log.jsonl", "samples.jsonl", "result.json", "final", "checkpoint-3"]
)
def test_traces_without_a_configuration_are_somebodys(tmp_path, trace):
    """Nobody knows whose: it is not written to."""
    (tmp_path / trace).mkdir()
    assert standing_of(tmp_path, "h") is Standing.OTHERS


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_torn_configuration_is_somebodys(tmp_path, text):
    """It was written whole once; what it is now is not ours."""
    (tmp_path / "config.resolved.json").write_text(text)
    assert standing_of(tmp_path, "h") is Standing.OTHERS


def test_folder_with_other_files_is_free(tmp_path):
    """Notes beside a run are nobody's run."""
    (tmp_path / "notes.txt").touch()
    assert standing_of(tmp_path, "h") is Standing.FREE


def test_choosing_touches_nothing(tmp_path):
    """A dry run asks, and no folder is made."""
    assert choose_folder(config(tmp_path / "out"), strict=True) == (tmp_path / "out", Standing.FREE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["out", "out/deeper"])
def test_file_in_the_way_is_refused(tmp_path, where):
    """Its name is in the message."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="is a file; choose a folder"):
        take(config(tmp_path / where))


def test_folder_in_use_is_waited_for_or_not(tmp_path):
    """A second trainer of the same run does not start: it waits, or gives up at once."""
    cfg = config(tmp_path / "out")
    folder = claim_folder(cfg, False, never)
    with pytest.raises(Interrupted, match="is held by pid"):
        claim_folder(cfg, False, never, wait=False)
    with pytest.raises(Interrupted, match="stopped while waiting"):
        claim_folder(cfg, False, lambda seconds: True)
    folder.lock.release()


def test_waiting_ends_when_the_folder_turns_out_to_be_anothers(tmp_path):
    """Two configurations begin at once in one folder: the second one moves on."""
    theirs = claim_folder(config(tmp_path / "out", seed=1), False, never)
    signed = theirs.path / "config.resolved.json"
    content = signed.read_bytes()
    signed.unlink()

    def they_sign(seconds):
        signed.write_bytes(content)
        return False

    ours = claim_folder(config(tmp_path / "out", seed=2), False, they_sign)
    assert ours.path == tmp_path / "out-2"
    for folder in (ours, theirs):
        folder.lock.release()


def test_waiting_ends_when_the_run_completes(tmp_path):
    """The one that waited finds it done."""
    cfg = config(tmp_path / "out")
    theirs = claim_folder(cfg, False, never)

    def they_finish(seconds):
        finish(theirs)
        return False

    assert claim_folder(cfg, False, they_finish).lock is None
    theirs.lock.release()


@pytest.mark.parametrize("name", ["runs/a", "runs/a/", "./runs/a"])
def test_numbers_go_behind_the_name(name):
    """A trailing slash does not make a folder within."""
    found = candidate_folders(name)
    assert [str(next(found)) for _ in range(3)] == ["runs/a", "runs/a-2", "runs/a-3"]


def test_dot_has_neighbours_too(tmp_path, monkeypatch):
    """`output_dir=.`: the next one is beside this folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = candidate_folders(".")
    next(found)
    assert next(found) == tmp_path / "here-2"


def test_a_link_to_a_disk_that_is_away_is_named(tmp_path):
    """A folder of runs on another disk, which is not mounted: that is what must be said."""
    (tmp_path / "outputs").symlink_to("/nowhere/disk")
    with pytest.raises(ConfigError, match="outputs leads to /nowhere/disk, which is not there; if"):
        take(config(tmp_path / "outputs" / "run"))


def test_a_run_that_failed_before_its_first_update_leaves_its_folder_to_the_next(tmp_path):
    """A wrong path put right is the same run for its user: no d1-2, no d1-3."""
    first = take(config(tmp_path / "d1", dataset="wrong.jsonl"))
    result = {"status": "failed", "updates": 0}
    write_json(first.path / "result.json", result)
    (first.path / "training_log.jsonl").write_text('{"update": 0, "em": 0.5}\n')
    second = take(config(tmp_path / "d1", dataset="right.jsonl"))
    assert second.path == tmp_path / "d1"
    assert (
        json.loads((second.path / "config.resolved.json").read_text())["dataset"] == "right.jsonl"
    )
    assert not (second.path / "training_log.jsonl").exists()


@pytest.mark.parametrize(
    ("result", "folder"),
    [
        ({"status": "failed", "updates": 1}, None),
        ({"status": "interrupted", "updates": 0}, None),
        ({"status": "failed", "updates": 0}, "checkpoint-1"),
        ({"status": "failed", "updates": 0}, "final"),
    ],
)
def test_what_a_run_has_learnt_or_will_go_on_with_stays_its_own(tmp_path, result, folder):
    """Only a failure before anything was learnt frees a folder."""
    first = take(config(tmp_path / "d1", seed=1))
    write_json(first.path / "result.json", result)
    if folder is not None:
        (first.path / folder).mkdir()
    assert take(config(tmp_path / "d1", seed=2)).path == tmp_path / "d1-2"
