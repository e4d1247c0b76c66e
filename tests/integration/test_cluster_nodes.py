"""A worker with three nodes, each a process of its own, as `grpo-sweep node` starts it.

Their trainers are fake, and none loads mlx to look at its machine: test_cluster_cli.py does. What a
storm does to them is in tests/crash/.
"""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest

from orchestrator.cli import main
from orchestrator.cluster import serving
from orchestrator.cluster.address import Address
from orchestrator.cluster.engine import set_up
from orchestrator.cluster.keys import read_key
from orchestrator.cluster.reach import ClusterNodes
from orchestrator.system.paths import home
from orchestrator.worker.events import EventKind
from orchestrator.worker.nodes import Cluster
from orchestrator.worker.worker import work
from tests.cluster_kit import free_port
from tests.queue_kit import FAKE, attempts, eventually, planned, runs, states, submit
from tests.queue_kit import updates_logged as updates

_NODE = f"""
import functools, sys
from orchestrator.cluster import agent
from orchestrator.cluster.hardware import Hardware
agent.Agent = functools.partial(
    agent.Agent, trainer={FAKE!r}, hardware=Hardware("cpu", 2**33)
)
from orchestrator.cli import main
sys.exit(main(sys.argv[1:]))
"""


class NodeProcess:
    """A node whose trainers are the fake ones, with a home and a GPU of its own."""

    def __init__(self, name, folder, address):
        self.name = name
        self._env = {
            "GRPO_SWEEP_HOME": str(folder / name),
            "GRPO_GPU_LOCK": str(folder / f"gpu-{name}.lock"),
        }
        words = ["node", str(address), "--key", str(home().cluster_key), "--name", name]
        self._words = [sys.executable, "-c", _NODE, *words]
        self._log = folder / f"{name}.log"
        self.start()

    def start(self):
        """Once more, after its end."""
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                self._words, stdout=log, stderr=log, env={**os.environ, **self._env}
            )

    @property
    def text(self):
        """What it has said."""
        return self._log.read_text()

    def end(self, number):
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def address():
    """That of a scheduler in the background."""
    port = free_port()
    assert main(["cluster", "up", "--detach", "--host", "127.0.0.1", "--port", str(port)]) == 0
    yield Address("127.0.0.1", port)
    serving.stop(home().cluster_lock, "the cluster")


@pytest.fixture
def lab(tmp_path, address):
    """Three nodes."""
    (tmp_path / "lab").mkdir()
    nodes = [NodeProcess(name, tmp_path / "lab", address) for name in ("box", "mac", "mini")]
    yield nodes
    for node in nodes:
        node.end(signal.SIGKILL)


@pytest.mark.slow
def test_three_nodes_of_which_one_is_killed_and_one_is_stopped(tmp_path, address, lab):
    """In one go, as three processes take their time to start."""
    set_up()
    with ClusterNodes(address, read_key(home().cluster_key)) as nodes:
        eventually(lambda: len(list(nodes)) == 3)
        submit(tmp_path, *(planned(name, updates=6, update_s=0.1) for name in "abcd"))
        killed_while_they_train(nodes, lab)
        eventually(lambda: len(list(nodes)) == 3)
        assert [node.held() for node in nodes] == [(), (), ()]
        submit(tmp_path, planned("long", updates=12, update_s=0.2, save_steps=1))
        stopped = stopped_while_it_trains(nodes, lab)
    assert stopped.process.wait(30) == 0
    for node in lab:
        assert node is stopped or node.end(signal.SIGTERM) == 0
        assert f"node {node.name} has ended" in node.text


def killed_while_they_train(nodes, lab):
    """Each run once; what trained on the killed node trained on, and its next agent has it."""
    killed = []

    def heard(event):
        trains_there = event.kind is EventKind.PROGRESS and attempts(event.run.id)[0].node == "box"
        if trains_there and not killed:
            killed.append(event.run.id)
            lab[0].end(signal.SIGKILL)
            lab[0].start()

    assert work(until_empty=True, on_event=heard, cluster=Cluster(nodes)) == 0
    assert killed
    assert states() == ["completed"] * 4
    assert [len(attempts(run.id)) for run in runs()] == [1] * 4
    assert [updates(run) for run in runs()] == [[*range(1, 7)]] * 4
    by_node = Counter(attempts(run.id)[0].node for run in runs())
    assert set(by_node) == {"box", "mac", "mini"}


def stopped_while_it_trains(nodes, lab):
    """It checkpoints, the head fetches that, and another node goes on from there."""
    run = runs()[-1]
    asked = []

    def stop_it():
        """As soon as an update of it is known here."""
        log = run.folder / "training_log.jsonl"
        eventually(lambda: log.exists() and log.stat().st_size)
        (node,) = (each for each in lab if each.name == attempts(run.id)[0].node)
        node.process.send_signal(signal.SIGTERM)
        asked.append(node)

    stopping = threading.Thread(target=stop_it)
    stopping.start()
    assert work(until_empty=True, cluster=Cluster(nodes)) == 0
    stopping.join()
    first, second = attempts(run.id)
    assert first.node == asked[0].name != second.node
    assert first.outcome == "interrupted"
    assert second.checkpoint > 0
    assert updates(run) == [*range(1, 13)]
    assert runs()[-1].deaths == 0
    return asked[0]
