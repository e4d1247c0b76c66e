"""`submit` and `run --queue` as users type them."""

import json
import shlex

from orchestrator.system.paths import home
from tests.cli_kit import SPEC
from tests.queue_kit import runs, states


def test_submit_queues_every_run_and_says_so(say):
    """The data names the sweep and its runs; the talk says that nobody works yet."""
    code, out, err = say("submit", "lr.toml")
    assert code == 0
    assert out == "queued sweep lr (runs 1-4): 4 runs\n"
    assert "no worker runs; start one with: grpo-sweep work" in err
    assert [run.name for run in runs()] == ["lr1e-5-g4", "lr1e-5-g8", "lr1e-4-g4", "lr1e-4-g8"]
    assert states() == ["queued"] * 4


def test_submit_json_is_as_the_design_says(say):
    """Sweep, id, and for each run the exact --set lines."""
    code, out, _ = say("submit", "lr.toml", "--set", "batch_size=2", "--json")
    found = json.loads(out)
    assert code == 0
    assert list(found) == ["sweep", "id", "runs"]
    assert (found["sweep"], found["id"]) == ("lr", 1)
    assert found["runs"][0] == {
        "id": 1,
        "name": "lr1e-5-g4",
        "set": [
            "batch_size=2",
            "learning_rate=1e-05",
            "num_generations=4",
            "run_name=lr1e-5-g4",
            "output_dir=outputs/lr/lr1e-5-g4",
        ],
    }


def test_a_dry_run_prints_commands_to_copy_and_queues_nothing(say):
    """What a shell makes of each line is what would be passed."""
    code, out, err = say("submit", "lr.toml", "--dry-run", "--set", "system_prompt=it's $HOME")
    lines = [line for line in out.splitlines() if line.startswith("mlx-grpo")]
    assert code == 0
    assert "nothing was queued" in err
    assert not home().db.exists()
    planned = json.loads(say("submit", "lr.toml", "--dry-run", "--json", "--set",
                             "system_prompt=it's $HOME")[1])  # fmt: skip
    assert planned["id"] is None
    for line, run in zip(lines, planned["runs"], strict=True):
        words = shlex.split(line)
        assert words[:3] == ["mlx-grpo", "--config", "base.toml"]
        assert words[3::2] == ["--set"] * len(run["set"])
        assert words[4::2] == run["set"]
    assert planned["runs"][0]["set"][0] == "system_prompt=it's $HOME"


def test_a_spec_with_a_fault_queues_nothing(say, folder):
    """Exit 2, the fault with its place and the nearest name, no queue made."""
    (folder / "bad.toml").write_text(SPEC.replace("learning_rate", "learning_rat"))
    code, out, err = say("submit", "bad.toml", "--start")
    assert code == 2
    assert out == ""
    assert err == (
        "error: bad.toml:4:1: params.learning_rat: unknown field; did you mean learning_rate?\n"
    )
    assert not home().db.exists()


def test_a_name_in_use_becomes_the_next(say):
    """Folders and --set lines follow the name that the sweep got."""
    say("submit", "lr.toml")
    code, out, err = say("submit", "lr.toml", "--json")
    assert code == 0
    assert json.loads(out)["sweep"] == "lr-2"
    assert json.loads(say("submit", "lr.toml", "--dry-run", "--json")[1])["sweep"] == "lr-3"
    assert "the name lr is in use, so this one is lr-2" in err
    assert runs()[4].set[-1] == "output_dir=outputs/lr-2/lr1e-5-g4"


def test_a_folder_of_another_run_is_refused(say, folder):
    """Whether it waits in the queue or lies on the disk; nothing is queued either time."""
    (folder / "a.toml").write_text('output = "o/{run}"\n' + SPEC)
    assert say("submit", "a.toml")[0] == 0
    (folder / "b.toml").write_text('output = "o/{run}"\n' + SPEC)
    code, _, err = say("submit", "b.toml")
    assert code == 2
    assert "o/lr1e-5-g4 belongs to run 1 of sweep a" in err
    (folder / "outputs" / "lr" / "lr1e-4-g8").mkdir(parents=True)
    (folder / "outputs" / "lr" / "lr1e-4-g8" / "config.resolved.json").write_text('{"hash": "x"}')
    for extra in ([], ["--dry-run"]):
        code, _, err = say("submit", "lr.toml", *extra)
        assert code == 2
        assert "outputs/lr/lr1e-4-g8 holds a run with another configuration" in err
    assert len(runs()) == 4


def test_queued_single_runs_with_one_output_dir_get_three_folders(say):
    """The learning-rate loop that people leave running overnight."""
    for lr in ("1e-6", "5e-6", "1e-5"):
        args = ("--config", "base.toml", "--set", f"learning_rate={lr}")
        code, out, _ = say("run", *args, "--queue")
        assert code == 0
        assert out.startswith("queued run ")
    found = runs()
    assert len({run.folder for run in found}) == 3
    assert [run.overrides for run in found] == [
        {"learning_rate": 1e-6}, {"learning_rate": 5e-6}, {"learning_rate": 1e-5}
    ]  # fmt: skip
    assert "learning_rate=5e-06" in found[1].set


def test_a_single_run_in_the_folder_of_another_is_refused(say, folder):
    """No number behind the name leads out of that folder: a waiting run's, or one on the disk."""
    base = ("run", "--config", "base.toml", "--queue")
    say(*base, "--set", "output_dir=outputs/a")
    code, _, err = say(*base, "--set", "output_dir=outputs/a/b")
    assert code == 2
    assert f"lies in {folder}/outputs/a, the folder of another run" in err
    (folder / "old").mkdir()
    (folder / "old" / "config.resolved.json").write_text("{}")
    code, _, err = say(*base, "--set", "output_dir=old/deep/b")
    assert code == 2
    assert f"lies in {folder}/old, the folder of another run" in err
    assert len(runs()) == 1


def test_a_single_run_with_another_s_folder_in_its_own_gets_the_next(say):
    """There a number helps."""
    base = ("run", "--config", "base.toml", "--queue")
    say(*base, "--set", "output_dir=outputs/a/b")
    assert say(*base, "--set", "output_dir=outputs/a")[0] == 0
    assert runs()[1].output_dir == "outputs/a-2"


def test_a_folder_that_cannot_be_looked_for_is_refused(say):
    """With a name longer than a disk allows no number helps either."""
    name = "a" * 300
    code, _, err = say("run", "--config", "base.toml", "--queue", "--set", f"output_dir={name}")
    assert code == 2
    assert f"output_dir: {name}: File name too long" in err
    assert not runs()


def test_a_queued_single_run_is_checked_strictly(say):
    """What waits overnight must not fail for a typo."""
    code, _, err = say("run", "--config", "base.toml", "--set", "learning_rat=1", "--queue")
    assert code == 2
    assert "did you mean learning_rate?" in err
    assert not home().db.exists()
    assert say("run", "--queue", "--no-wait", "--config", "base.toml")[0] == 2


def test_runs_that_could_write_nowhere_are_refused(say, folder):
    """A link to a disk that is away, and a file in the way: both show at submit, not at night."""
    (folder / "outputs").symlink_to("/nowhere/disk")
    code, _, err = say("submit", "lr.toml")
    assert code == 2
    assert "output: " in err
    assert "outputs leads to /nowhere/disk, which is not there" in err
    assert say("run", "--queue", "--set", "output_dir=outputs/a", "--config", "base.toml")[0] == 2
    (folder / "outputs").unlink()
    (folder / "outputs").touch()
    assert "outputs is a file" in say("submit", "lr.toml")[2]
    assert states() == []
