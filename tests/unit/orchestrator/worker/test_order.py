"""What goes to a node: the files that a run reads, what it goes on from, and its order."""

import hashlib
import json

import pytest

from orchestrator.worker import order as orders
from orchestrator.worker.nodes import Input
from orchestrator.worker.order import CannotTravel, prepare
from tests.records import a_run, a_sweep, an_attempt


@pytest.fixture
def project(tmp_path):
    """The folder of the submit."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def write(path, content):
    """A file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def outgoing(project, config="", earlier=(), **overrides):
    """What goes out for attempt 2 of run 7 in slot 1 of node lab."""
    run = a_run(id=7, cwd=str(project), overrides=overrides, set=("seed=3",))
    attempt = an_attempt(n=2, token="t" * 32, slot="lab/1", node="lab")
    return prepare(run, attempt, a_sweep(config_text=config, cwd=str(project)), "queue", earlier)


def names(files):
    """Their paths."""
    return [file.path for file in files]


def test_an_order_says_what_the_head_knows(project):
    """Of the slot only what the node calls it; the run's name tells queues apart."""
    order = outgoing(project, "seed = 1\n").order
    assert (order.token, order.run, order.n, order.slot) == ("t" * 32, "queue/7", 2, "1")
    assert (order.cwd, order.output_dir) == (str(project), "out/a")
    assert (order.config_text, order.set) == ("seed = 1\n", ("seed=3",))
    assert order.inputs == order.files == order.python_path == ()
    assert set(order.packages) == {"mlx", "mlx-lm"}


def test_a_signal_for_memory_halves_the_next_attempt(project):
    """As where it is launched here."""
    earlier = [an_attempt(outcome="oom", signal="SIGKILL")]
    assert outgoing(project, earlier=earlier).order.halvings == 1


def test_files_go_by_the_names_that_the_configuration_has(project, tmp_path):
    """Data, a model's folder, a reward with what it imports; a hub's model does not."""
    rows = write(tmp_path / "elsewhere/rows.jsonl", "{}\n")
    write(project / "eval.jsonl", "{}\n\n")
    write(tmp_path / "model/config.json", "{}")
    write(tmp_path / "model/deep/a.safetensors", "abc")
    write(project / "rewards/mine.py", "import helper\ndef f(): ...\n")
    write(project / "rewards/helper.py", "import grpo_core.config\n")
    config = f'dataset = "{rows}"\nrewards = ["rewards/mine.py:f", "correctness"]\n'
    found = outgoing(project, config, eval_dataset="eval.jsonl", model_name="../model")
    assert sorted(names(found.order.inputs)) == sorted(
        [
            *(str(rows), "eval.jsonl", "../model/config.json", "../model/deep/a.safetensors"),
            *("rewards/mine.py", "rewards/helper.py"),
        ]
    )
    [weights] = [file for file in found.order.inputs if file.path.endswith("safetensors")]
    assert weights == Input(weights.path, hashlib.sha256(b"abc").hexdigest(), 3)
    assert {path.read_text() for path in found.sources.values()} >= {"abc", "{}\n", "{}\n\n"}
    assert outgoing(project, model_name="someone/model").order.inputs == ()


def test_what_is_not_there_is_left_to_the_trainer(project):
    """It says so itself, as it would here."""
    assert outgoing(project, dataset="no.jsonl", rewards=["no.py:f"]).order.inputs == ()


def test_a_folder_that_was_not_meant_is_said(project, monkeypatch):
    """`model_name = "."` must not send a home folder around."""
    monkeypatch.setattr(orders, "_MOST_FILES", 2)
    for n in range(3):
        write(project / f"{n}.txt", "")
    with pytest.raises(CannotTravel, match=r"\.: a folder of more than 2 files"):
        outgoing(project, model_name=".")


def test_a_reward_finds_what_lies_on_pythons_path(project, tmp_path, monkeypatch):
    """PYTHONPATH, or a package that is installed to be edited."""
    write(tmp_path / "lib/mylib/__init__.py", "")
    write(tmp_path / "lib/mylib/words.py", "X = 1\n")
    write(project / "mine.py", "from mylib import words\ndef f(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    # The first entry is the folder of what is run.
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    order = outgoing(project, rewards=["mine.py:f"]).order
    assert order.python_path == (str(tmp_path / "lib"),)
    assert str(tmp_path / "lib/mylib/words.py") in names(order.inputs)


def checkpoint(folder, update, best=None, torn=False):
    """A folder of weights as a trainer writes it."""
    state = json.dumps({"update": update, "best": {} if best is None else {"update": best}})
    path = folder / f"checkpoint-{update}"
    write(path / "trainer_state.json", state)
    sums = {"bytes": len(state), "sha256": hashlib.sha256(state.encode()).hexdigest()}
    write(path / "manifest.json", json.dumps({"files": {"trainer_state.json": sums}}))
    if torn:
        write(path / "trainer_state.json", state.replace("u", "x"))


@pytest.mark.parametrize("listed", ["trainer_state.json", "gone", "../outside", "/dev/zero"])
def test_a_checkpoint_whose_manifest_lists_what_is_not_there_is_passed_over(project, listed):
    """A manifest may come from a node: what it lists lies in its folder, or it is not whole."""
    folder = project / "out/a"
    checkpoint(folder, 2, best=2)
    checkpoint(folder, 4, best=2)
    sums = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    write(folder / "outside", "x")
    write(folder / "checkpoint-4/manifest.json", json.dumps({"files": {listed: sums}}))
    assert {name.partition("/")[0] for name in names(outgoing(project).order.files)} == {
        "checkpoint-2"
    }


def test_a_run_goes_on_from_its_logs_its_newest_whole_checkpoint_and_the_best(project):
    """What is torn is passed over, as a trainer would; nothing else of the folder goes."""
    folder = project / "out/a"
    for update in (2, 4, 6):
        checkpoint(folder, update, best=2)
    checkpoint(folder, 8, best=8, torn=True)
    for name in ("config.resolved.json", "training_log.jsonl", "samples.jsonl", ".lock", "own.txt"):
        write(folder / name, name)
    found = outgoing(project)
    assert sorted(names(found.order.files)) == [
        *("checkpoint-2/manifest.json", "checkpoint-2/trainer_state.json"),
        *("checkpoint-6/manifest.json", "checkpoint-6/trainer_state.json"),
        *("config.resolved.json", "samples.jsonl", "training_log.jsonl"),
    ]
    for file in found.order.files:
        assert found.sources[file.sha256].read_bytes() == (folder / file.path).read_bytes()
