"""A real run on nodes: begun on one, gone on with on another, and equal to one that stayed."""

import contextlib
import json
import shutil
import subprocess

import pytest

from grpo_core.model.tiny import model_path
from orchestrator.cluster.agent import Agent
from orchestrator.worker.launcher import TRAINER
from orchestrator.worker.nodes import ATTEMPT_LOG, Wish
from orchestrator.worker.order import prepare
from tests.agent_kit import ended, fetched
from tests.queue_kit import eventually
from tests.records import a_run, a_sweep, an_attempt
from tests.trainer_kit import FAST, assert_equal_runs, log_of

REWARD = """
from helper import LENGTH

def short(completions, **_):
    return [1.0 if len(text) < LENGTH else 0.0 for text in completions]
"""
ROWS = [{"question": f"What is {n} + 2?", "answer": str(n + 2)} for n in range(12)]
WORDS = ("run_name=r", "output_dir=out/r")


@pytest.fixture
def head(tmp_path):
    """A folder with all that the run reads: data by an absolute name, a model beside, a reward."""
    cwd = tmp_path / "head/project"
    (cwd / "rewards").mkdir(parents=True)
    (cwd / "rewards/mine.py").write_text(REWARD)
    (cwd / "rewards/helper.py").write_text("LENGTH = 12\n")
    rows = tmp_path / "head/data/rows.jsonl"
    rows.parent.mkdir()
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shutil.copytree(model_path(), tmp_path / "head/models/tiny")
    own = {
        **{"model_name": "../models/tiny", "dataset": str(rows), "save_steps": 1},
        **{"rewards": ["correctness", "rewards/mine.py:short"], "eval_every_updates": 2},
    }
    config = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {**FAST, **own}.items())
    return cwd, config


def whole(cwd, config, tmp_path):
    """The folder of the run trained here, out of the way."""
    file = tmp_path / "base.toml"
    file.write_text(config)
    sets = [word for item in WORDS for word in ("--set", item)]
    command = [*TRAINER, "--config", str(file), *sets, "--strict"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return (cwd / "out/r").rename(tmp_path / "whole")


class Head:
    """What a head does for a run, by hand."""

    def __init__(self, cwd, config):
        self.cwd = cwd
        self.run = a_run(cwd=str(cwd), output_dir="out/r", set=WORDS)
        self.sweep = a_sweep(config_text=config, cwd=str(cwd))

    @contextlib.contextmanager
    def sent(self, node, n):
        """Give the files of attempt n to a node and start it; nothing of the head is there then."""
        attempt = an_attempt(n=n, token=f"token-of-{n}", slot=f"{node.name}/0")
        going = prepare(self.run, attempt, self.sweep, "q")
        for file in node.lacks((*going.order.inputs, *going.order.files)):
            node.put(file, 0, going.sources[file.sha256].read_bytes())
        away = self.cwd.parent.rename(self.cwd.parent.with_name("away"))
        try:
            node.start(going.order)
            yield attempt.token
        finally:
            away.rename(self.cwd.parent)

    def fetch(self, node, token):
        """Every file of an attempt that has ended, into the run's folder."""
        files = fetched(node, token, ended(node, token))
        self.log = files.pop(ATTEMPT_LOG).decode()
        for name, content in files.items():
            path = self.cwd / "out/r" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.mark.slow
def test_a_run_that_changes_its_node_is_the_run_that_stayed(head, tmp_path):
    """Logs, samples, weights and configuration, though each file lies elsewhere there."""
    reference = whole(*head, tmp_path)
    ours = Head(*head)
    with Agent(tmp_path / "a", "a") as first, Agent(tmp_path / "b", "b") as second:
        assert first.facts().backend == "cpu"
        with ours.sent(first, 1) as token:
            eventually(lambda: logged(first, token))
            first.ask(token, Wish.INTERRUPT)
            assert ended(first, token).exit_code == 75
        ours.fetch(first, "token-of-1")
        assert 0 < log_of(ours.cwd / "out/r")[-1]["update"] < log_of(reference)[-1]["update"]
        with ours.sent(second, 2) as token:
            report = ended(second, token)
            assert report.exit_code == 0, second.read(token, ATTEMPT_LOG, 0, 10**5).decode()
        ours.fetch(second, "token-of-2")
    assert_equal_runs(ours.cwd / "out/r", reference)
    for name in ("adapter_config.json", "manifest.json"):
        assert (ours.cwd / "out/r/final" / name).read_text() == (
            reference / "final" / name
        ).read_text()
    resolved = (ours.cwd / "out/r/config.resolved.json").read_text()
    assert resolved == (reference / "config.resolved.json").read_text()
    assert str(tmp_path / "b") not in resolved


def logged(node, token):
    """Whether a checkpoint is there."""
    report = node.look(token)
    assert report.running, node.read(token, ATTEMPT_LOG, 0, 10**5).decode()
    return any(state.path.startswith("checkpoint-") for state in report.files)
