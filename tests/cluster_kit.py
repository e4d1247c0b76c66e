"""What the tests of clusters share: a scheduler and nodes within this process."""

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import Future

from orchestrator.cluster.engine import set_up
from orchestrator.cluster.hub import Hub
from orchestrator.cluster.joining import Membership
from orchestrator.worker.nodes import AttemptReport, Input, NodeFacts, NodeRefused


def free_port():
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class StandIn:
    """A node without trainers: answers by hand-written values, and remembers what came."""

    def __init__(self, name="a", slots=("0",)):
        self.name = name
        self.slots = slots
        self.calls = []
        self.waits = threading.Event()

    def facts(self):
        """By hand."""
        return NodeFacts(
            name=self.name,
            slots=self.slots,
            version="1",
            mlx="2",
            backend="cpu",
            host="h",
            boot_id="b",
            memory_bytes=2**35,
            disk_free_bytes=2**40,
            clock="2026-01-01T00:00:00Z",
        )

    def held(self):
        """None."""
        return ()

    def lacks(self, inputs):
        """All but the first."""
        return inputs[1:]

    def put(self, file: Input, offset, data):
        """As a node whose disk is full."""
        self.calls.append((file, offset, data))
        raise NodeRefused(f"{self.name}: the disk is full")

    def start(self, order):
        """Takes any."""
        self.calls.append(order)

    def look(self, token) -> AttemptReport:
        """Answers when it is let, as one that is suspended."""
        self.waits.wait(30)
        raise NodeRefused(f"no attempt {token}")

    def read(self, token, path, offset, size):
        """So many bytes."""
        return bytes(size)

    def ask(self, token, wish):
        """Breaks."""
        raise RuntimeError("a fault of ours")

    def forget(self, token):
        """Remembers it."""
        self.calls.append(token)


@contextlib.contextmanager
def in_thread(make):
    """What `make` opens, in an event loop and a thread of its own; its errors come out here."""
    ready = Future()

    async def serve():
        stop = asyncio.Event()
        async with make() as made:
            ready.set_result((made, asyncio.get_running_loop(), stop))
            await stop.wait()

    def run():
        try:
            asyncio.run(serve())
        except Exception as e:
            if ready.done():
                raise
            ready.set_exception(e)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        made, loop, stop = ready.result(30)
        try:
            yield made
        finally:
            loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join(30)


def hub(address, key):
    """A scheduler."""

    @contextlib.asynccontextmanager
    async def make():
        made = Hub(address, key)
        await made
        watch = asyncio.create_task(made.watch())
        yield made
        watch.cancel()
        await made.close()

    set_up()
    return in_thread(make)


def member(address, key, node, scratch, said):
    """A node's membership; `said` is where it says things."""

    @contextlib.asynccontextmanager
    async def make():
        keeping = asyncio.create_task(Membership(address, key, node, scratch, said.append).keep())
        yield keeping
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping

    set_up()
    return in_thread(make)
