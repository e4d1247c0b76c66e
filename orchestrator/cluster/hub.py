"""The cluster's scheduler: knows which nodes are there, and passes the head's calls on to them.

A Dask scheduler without tasks. A node keeps one connection to it, which the node has opened: so
nothing has to reach a node, and a connection that is cut is a node that is away. It remembers
nothing: after its death another one at the same address finds the nodes as they come back.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distributed.scheduler import Scheduler

from orchestrator.cluster.address import Address
from orchestrator.cluster.engine import HEARD_WITHIN_S, HEARTBEAT_S, keep_only, security
from orchestrator.cluster.greeting import versions
from orchestrator.cluster.keys import ClusterKey
from orchestrator.cluster.signals import asked_to_end
from orchestrator.errors import UsageError

# Of Dask's calls, those that its workers make of a scheduler.
_KEPT = ("register-worker", "heartbeat_worker", "unregister")
_KEPT_STREAM = ("keep-alive", "log-event", "worker-status-change")
_CHECK_S = 5.0


@dataclass(frozen=True)
class _Call:
    """A call that was passed on to a node, by its address."""

    address: str
    reply: "asyncio.Future[dict[str, Any]]"


class Hub(Scheduler):
    """The scheduler; made and started within a running event loop."""

    def __init__(self, address: Address, key: ClusterKey | None) -> None:
        super().__init__(
            host=address.host,
            port=address.port,
            protocol="tls" if address.tls else "tcp",
            security=security(key),
            dashboard=False,
            preload=[],
            extensions={},
        )
        keep_only(self.handlers, _KEPT)
        keep_only(self.stream_handlers, _KEPT_STREAM)
        self.handlers["hello"] = self.hello
        self.handlers["nodes"] = self.nodes
        self.handlers["ask-node"] = self.ask_node
        self.handlers["heartbeat_worker"] = self._heard
        self.stream_handlers["node-answer"] = self._answered
        self._numbers = itertools.count()
        self._calls: dict[int, _Call] = {}
        self._heard_at: dict[str, float] = {}

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """None: its pages would be open to everybody."""

    # --- what heads and nodes ask of it

    def hello(self, name: str | None = None) -> dict[str, Any]:
        """Its versions, and whether a node of that name is there already."""
        return {"versions": versions(), "taken": name in self.aliases}

    def nodes(self) -> dict[str, Any]:
        """The names of the nodes that are there."""
        return {"nodes": sorted(str(worker.name) for worker in self.workers.values())}

    async def ask_node(
        self, node: str, call: str, arguments: Any, within_s: float
    ) -> dict[str, Any]:
        """Pass a call on to a node; its answer, or `away` and why none came."""
        address = self.aliases.get(node)
        if address is None:
            return {"away": "it is not connected"}
        number = next(self._numbers)
        reply = asyncio.get_running_loop().create_future()
        self._calls[number] = _Call(address, reply)
        try:
            self.worker_send(
                address,
                {"op": "node-call", "number": number, "call": call, "arguments": arguments},
            )
            return await asyncio.wait_for(reply, within_s)
        except TimeoutError:
            return {"away": f"no answer within {within_s:.0f} s"}
        finally:
            del self._calls[number]

    # --- what nodes send

    def _answered(self, worker: str, number: int, answer: dict[str, Any]) -> None:
        found = self._calls.get(number)
        if found is not None and found.address == worker and not found.reply.done():
            found.reply.set_result(answer)

    def _heard(self, address: str, **more: Any) -> dict[str, Any]:
        self._heard_at[address] = time.monotonic()
        found = self.heartbeat_worker(address=address, **more)
        return {**found, "heartbeat-interval": HEARTBEAT_S}

    async def remove_worker(self, address: str, **more: Any) -> Any:
        """As Dask does it; who waits for that node is told at once."""
        for call in self._calls.values():
            if call.address == address and not call.reply.done():
                call.reply.set_result({"away": "its connection has ended"})
        self._heard_at.pop(address, None)
        return await super().remove_worker(address, **more)

    async def watch(self) -> None:
        """Drop nodes that were not heard of for long, for ever: asleep, or cut off unnoticed."""
        while True:
            await asyncio.sleep(_CHECK_S)
            now = time.monotonic()
            for address in tuple(self.workers):
                if now - self._heard_at.setdefault(address, now) > HEARD_WITHIN_S:
                    await self.remove_worker(address, stimulus_id="not-heard")


async def serve(address: Address, key: ClusterKey | None, ready: Callable[[], None]) -> None:
    """Be the scheduler until SIGINT or SIGTERM; UsageError where it cannot listen there."""
    asked, _ = asked_to_end()
    scheduler = Hub(address, key)
    try:
        await scheduler
    except RuntimeError as e:
        if not isinstance(fault := e.__cause__, OSError):
            raise
        words = fault.strerror if fault.errno is None else os.strerror(fault.errno)
        raise UsageError(f"{address}: {words}; name another with --host or --port") from None
    ready()
    watching = asyncio.create_task(scheduler.watch())
    # Who watches no more would keep nodes that are long gone: rather end, and say why.
    watching.add_done_callback(lambda _: asked.set())
    await asked.wait()
    watching.cancel()
    try:
        with suppress(asyncio.CancelledError):
            await watching
    finally:
        await scheduler.close(reason="asked to end")
