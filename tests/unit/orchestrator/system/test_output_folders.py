"""What of a run's folder may be deleted, and which folders lie in each other."""

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from orchestrator.system.output_folders import RunFolders, delete_run

# Everything that real runs of builtin/tiny have left (find outputs/), lora and full.
TRAINED = (
    ".lock",
    "config.resolved.json",
    "result.json",
    "samples.jsonl",
    "training_log.jsonl",
    "checkpoint-1/adapter_config.json",
    "checkpoint-1/adapters.safetensors",
    "checkpoint-1/manifest.json",
    "checkpoint-1/optimizer.safetensors",
    "checkpoint-1/rollouts.json",
    "checkpoint-1/trainer_state.json",
    "final/config.json",
    "final/model.safetensors",
    "final/model.safetensors.index.json",
    "final/tokenizer.json",
    "final/tokenizer_config.json",
    ".grpo-tmp-checkpoint-2/adapters.safetensors",
    ".grpo-tmp-12-result.json",
)


def trained(folder, names=TRAINED, config_hash="h"):
    """A folder that holds what a run leaves."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (folder / "config.resolved.json").write_text(json.dumps({"hash": config_hash}))
    return folder


def files(folder):
    """What lies below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_folder_that_holds_a_run_alone_goes(tmp_path):
    """Nothing is left, and nothing is said."""
    assert delete_run(trained(tmp_path / "a"), "h") == ""
    assert not (tmp_path / "a").exists()


def test_what_a_model_brought_along_goes_by_the_list(tmp_path):
    """Final weights take any file of their tokenizer along; what was laid beside them stays."""
    folder = trained(tmp_path / "a")
    for name in ("tekken.json", "chat_template.json", "my-notes.md"):
        (folder / "final" / name).write_text("x")
    listed = {"files": {"tekken.json": {}, "chat_template.json": {}, "../../b": {}}}
    (folder / "final" / "manifest.json").write_text(json.dumps(listed))
    (tmp_path / "b").write_text("mine")
    assert "final/my-notes.md" in delete_run(folder, "h")
    assert files(tmp_path) == ["a/final/my-notes.md", "b"]


@pytest.mark.parametrize(
    "name",
    [
        "my-notes.md",
        "final/my-notes.md",
        "checkpoint-1/plots/a.png",
        "analysis/config.json",
        "checkpoint-7/config.resolved.json",
        "other-run/training_log.jsonl",
        "model.safetensors",
        "checkpoint-x/adapters.safetensors",
    ],
)
def test_what_no_run_wrote_stays_and_is_named(tmp_path, name):
    """Whatever it is and wherever it lies; all that the run wrote goes."""
    folder = trained(tmp_path / "a")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("mine")
    told = delete_run(folder, "h")
    assert files(folder) == [name]
    assert name.split("/")[0] in told


def test_a_run_in_a_folder_below_stays_whole(tmp_path):
    """As `outputs/tiny` and the sweep in `outputs/tiny/RUN`."""
    outer = trained(tmp_path / "tiny")
    inner = trained(outer / "lr1e-4")
    before = files(inner)
    assert "lr1e-4" in delete_run(outer, "h")
    assert files(outer) == [f"lr1e-4/{name}" for name in before]


def test_a_folder_whose_configuration_cannot_be_read_stays(tmp_path, monkeypatch):
    """Whose it is nobody knows then."""
    folder = trained(tmp_path / "a")
    before = files(folder)
    really_read = Path.read_bytes

    def refuse(path):
        if path.name == "config.resolved.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really_read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "config.resolved.json: cannot be read" in delete_run(folder, "h")
    assert files(folder) == before


def test_links_are_not_followed(tmp_path):
    """Neither the folder itself, nor one in it, nor a file."""
    other = trained(tmp_path / "other")
    before = files(other)
    (tmp_path / "link").symlink_to(other)
    assert delete_run(tmp_path / "link", "h") == "a link"
    folder = trained(tmp_path / "a", TRAINED[:5])
    (folder / "final").symlink_to(other)
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1/model.safetensors").symlink_to(other / "final/model.safetensors")
    assert "checkpoint-1/model.safetensors, final" in delete_run(folder, "h")
    assert files(other) == before


def test_nothing_goes_where_the_folder_is_in_use_or_another_run_s(tmp_path, monkeypatch):
    """A held lock, another configuration, no run at all, the folder one stands in, none there."""
    folder = trained(tmp_path / "a")
    before = files(folder)
    fd = os.open(folder / ".lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert delete_run(folder, "h") == "a trainer is at work in it"
    os.close(fd)
    assert delete_run(folder, "other") == "holds a run with another configuration"
    (tmp_path / "thesis").mkdir()
    assert delete_run(tmp_path / "thesis", "h") == "holds no run"
    assert "not there" in delete_run(tmp_path / "gone", "h")
    monkeypatch.chdir(folder)
    assert delete_run(folder, "h") == "the current folder lies in it"
    assert files(folder) == before


def test_folders_that_lie_in_each_other_are_told(tmp_path):
    """In the queue or on the disk, around or within, and as a disk that ignores case sees them."""
    folders = RunFolders(["/o/tiny", "/o/b/c", "/o/Straße"])
    assert folders.clash("/o/tiny") is None
    assert folders.clash("/o/tinyer") is None
    assert "lies in /o/tiny" in folders.clash("/o/tiny/run")
    assert "lies in /o/tiny" in folders.clash("/o/TINY/x/run")
    assert "has /o/b/c in it" in folders.clash("/o/b")
    assert "differ only in case" in folders.clash("/o/Tiny")
    assert "differ only in case" in folders.clash("/o/STRASSE")
    trained(tmp_path / "s/r")
    on_disk = RunFolders([])
    assert f"lies in {tmp_path}/s/r" in on_disk.clash(str(tmp_path / "s/r/deeper/still"))
    assert f"has {tmp_path}/s/r in it" in on_disk.clash(str(tmp_path))
    assert on_disk.clash(str(tmp_path / "s/r")) is None
    assert on_disk.clash(str(tmp_path / "s/q")) is None
