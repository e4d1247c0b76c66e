"""One run to the score, ours or a peer's: what it scored, and what training had taken by then.

Evaluation, start-up and saving are in none of the figures. Ours is a process as a user starts it,
watched from outside and stopped when it has the score. A peer trains by itself; after every so many
updates it leaves its adapters, which our evaluator scores as ours are scored.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from benchmarks._learning.tasks import CONFIG, Task, overrides
from benchmarks._trainer.child import Child, ChildFailed, environment
from benchmarks._trainer.ours import new_lines
from benchmarks._trainer.peer_venv import Peer
from grpo_core.rewards.builtin import BUILTINS

LOOK_S = 0.01
EVALUATOR = "benchmarks._learning.evaluator"
PEER_DRIVER = Path(__file__).with_name("peer_mlx_lm_lora.py")


@dataclass(frozen=True)
class Point:
    """A held-out score, and what training had taken until it: seconds, and tokens drawn."""

    update: int
    score: float
    cpu_s: float
    wall_s: float
    tokens: int


def ours(task: Task, fields: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
    """Train until the score, or until the time is up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task.make(folder)
        sets = overrides(task.config(folder, {**fields, "seed": seed}))
        argv = [sys.executable, "-m", "grpo_core", "--config", CONFIG, "--strict"]
        child = Child(
            [*argv, *(word for one in sets for word in ("--set", one))], environment(folder)
        )
        points = list(_watch(child, folder / "run" / "training_log.jsonl", task))
        child.end(may_stop=True)
        return [asdict(point) for point in points]


def _watch(child: Child, log: Path, task: Task) -> Iterator[Point]:
    """Follow the log; what stands before an update's line, behind the line before, is training."""
    process = psutil.Process(child.process.pid)
    known, cpu_s, wall_s, tokens = 0, 0.0, 0.0, 0
    before = (0.0, 0.0)
    done = False
    while True:
        # Asked first: what it wrote last is still read once it has ended.
        ended = process.status() == psutil.STATUS_ZOMBIE
        for line in new_lines(log, known):
            known += 1
            used = process.cpu_times()
            now = (used.user + used.system, time.monotonic())
            if "lr" in line:
                cpu_s, wall_s = cpu_s + now[0] - before[0], wall_s + now[1] - before[1]
                tokens = line["num_tokens"]
            elif line["split"] == "test" and not done:
                yield Point(line["update"], line["em"], cpu_s, wall_s, tokens)
                done = line["em"] >= task.last or cpu_s >= task.budget_s
                if done:
                    process.terminate()
            before = now
        if ended:
            return
        time.sleep(LOOK_S)


def peers(task: Task, peer: Peer, seed: int) -> list[dict[str, Any]]:
    """The same with a peer, on the same rows with the same reward."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task.make(folder)
        sets = overrides(task.config(folder, {"seed": seed}))
        words = [word for one in sets for word in ("--set", one)]
        evaluator = [sys.executable, "-m", EVALUATOR, folder, CONFIG, *words]
        with _talk(evaluator, environment(folder)) as judge:
            work = judge.read()
            outside = {n: v for n, v in environment(folder).items() if n != "PYTHONPATH"}
            driver = peer.argv(PEER_DRIVER, [folder, seed, task.updates_between()])
            with _talk(driver, outside) as trainer:
                points = list(_train_peer(task, trainer, judge, work["rewards"]))
    return [asdict(point) for point in points]


def _train_peer(
    task: Task, trainer: "_Talk", judge: "_Talk", rewards: list[str]
) -> Iterator[Point]:
    """Serve the peer's rewards, and score what it leaves, until it has the score."""
    while True:
        said = trainer.read()
        if "completions" in said:
            pairs = list(zip(said["completions"], said["answers"], strict=True))
            trainer.write([sum(BUILTINS[name](*pair) for name in rewards) for pair in pairs])
            continue
        judge.write(said["adapters"])
        figures = {name: said[name] for name in ("update", "cpu_s", "wall_s", "tokens")}
        point = Point(score=judge.read()["em"], **figures)
        yield point
        if point.score >= task.last or point.cpu_s >= task.budget_s:
            return
        trainer.write("go on")


class _Talk:
    """A process that is spoken to in lines of JSON; what else it prints is left out."""

    def __init__(self, argv: list[Any], env: Mapping[str, str], said: IO[str]) -> None:
        self._said = said  # its stderr, for when it fails
        self._process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=env,
        )

    def read(self) -> Any:
        """The next line of JSON; ChildFailed where it ended instead."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        code = self._process.wait()
        self._said.seek(0)
        raise ChildFailed(f"{self._process.args}: exit {code}\n{self._said.read()[-2000:]}")

    def write(self, what: Any) -> None:
        """A line of JSON to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Neither of them has anything to put away."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def _talk(argv: list[Any], env: Mapping[str, str]) -> Iterator[_Talk]:
    """Start it, and end it at the end."""
    with tempfile.TemporaryFile("w+") as said:
        talk = _Talk(argv, env, said)
        try:
            yield talk
        finally:
            talk.end()
