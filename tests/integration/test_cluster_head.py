"""A worker that trains on nodes: real agents in this process, real (fake) trainers on them."""

import pytest

from orchestrator.worker.nodes import Cluster, NodeAway
from orchestrator.worker.slots import Slot
from orchestrator.worker.worker import work
from tests.agent_kit import an_agent
from tests.queue_kit import attempts, planned, runs, states, submit, updates_logged


class Line:
    """The way to a node: it may be cut."""

    def __init__(self, agent):
        self.name = agent.name
        self.agent = agent
        self.is_cut = False

    def __getattr__(self, call):
        def ask(*arguments):
            if self.is_cut:
                raise NodeAway(f"node {self.name} is away: no answer")
            return getattr(self.agent, call)(*arguments)

        return ask


@pytest.fixture
def lab(tmp_path):
    """Two nodes with two slots each, by name."""
    with a_node(tmp_path, "mac") as mac, a_node(tmp_path, "box") as box:
        yield {"mac": Line(mac), "box": Line(box)}


def a_node(tmp_path, name):
    """A node whose slots have devices of their own."""
    slots = [
        Slot(slot, {"GRPO_GPU_LOCK": str(tmp_path / f"gpu-{name}-{slot}.lock")}) for slot in "01"
    ]
    return an_agent(tmp_path / "nodes" / name, name=name, slots=slots)


def train(lab, said=None, **how):
    """Serve the queue by these nodes until it is empty."""
    cluster = Cluster([*lab.values()], **how.pop("cluster", {}))
    listen = said.append if said is not None else None
    return work(until_empty=True, on_event=listen, cluster=cluster, **how)


def test_nodes_train_what_is_queued(tmp_path, lab):
    """Each run once, in a slot of a node; what it wrote is here, whole."""
    submit(tmp_path, *(planned(name, update_s=0.05) for name in "abcde"))
    said = []
    assert train(lab, said) == 0
    assert states() == ["completed"] * 5
    for run in runs():
        (attempt,) = attempts(run.id)
        assert attempt.node in ("mac", "box")
        assert updates_logged(run) == [1, 2, 3]
    assert [line.agent.held() for line in lab.values()] == [[], []]
