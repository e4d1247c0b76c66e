"""What the tests of nodes share: orders by hand, an agent in this process, files for it."""

import hashlib
from dataclasses import replace

from orchestrator.cluster.agent import Agent
from orchestrator.cluster.hardware import Hardware
from orchestrator.worker.nodes import Input, Order
from orchestrator.worker.slots import Slot
from tests.queue_kit import FAKE, eventually

CWD = "/home/someone/project"
ONE_SLOT = (Slot(),)
HARDWARE = Hardware("cpu", 2**30)


def an_order(*words, **fields):
    """Attempt 1 of run q/1, of the fake trainer."""
    known = Order(
        token="token-of-attempt-1",
        run="q/1",
        n=1,
        slot="0",
        cwd=CWD,
        output_dir="out/r",
        config_text="seed = 1\n",
        set=(*words, "output_dir=out/r"),
    )
    return replace(known, **fields)


def an_input(path, content):
    """A file of that content, by the name of the configuration."""
    return Input(path, hashlib.sha256(content).hexdigest(), len(content))


def put(node, path, content):
    """Give a file to a node, in pieces of three bytes; what an order says of it."""
    file = an_input(path, content)
    for offset in range(0, max(len(content), 1), 3):
        node.put(file, offset, content[offset : offset + 3])
    return file


def an_agent(folder, trainer=FAKE, name="node", slots=ONE_SLOT, **more):
    """An agent in this process."""
    return Agent(folder, name, slots, trainer, hardware=HARDWARE, **more)


def ended(node, token="token-of-attempt-1"):
    """The report of an attempt, once it has ended."""
    return eventually(lambda: None if (report := node.look(token)).running else report)


def fetched(node, token, report, pieces=7):
    """Every file of an attempt by its path, read piece by piece."""
    return {state.path: content(node, token, state, pieces) for state in report.files}


def content(node, token, state, pieces=7):
    """One file of an attempt."""
    step = max(1, state.size // pieces)
    parts = [
        node.read(token, state.path, offset, min(step, state.size - offset))
        for offset in range(0, state.size, step)
    ]
    return b"".join(parts)
