"""A node's connection: a Dask worker without tasks that hands the head's calls to the agent.

The agent outlives it: where the scheduler or the network is gone, a new connection is tried for
ever, and what trains goes on. Only a key or a version that does not fit ends it.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed.worker import Worker

from orchestrator.cluster import codec
from orchestrator.cluster.address import Address
from orchestrator.cluster.agent import Agent
from orchestrator.cluster.engine import CONNECT_S, HEARTBEAT_S, keep_only, security
from orchestrator.cluster.greeting import greet
from orchestrator.cluster.keys import ClusterKey
from orchestrator.cluster.signals import asked_to_end
from orchestrator.errors import SweepError
from orchestrator.text import plural
from orchestrator.worker.hours import Gate
from orchestrator.worker.nodes import Node

_LOG = logging.getLogger("distributed.grpo_sweep")
_RETRY_S = 2.0
# How many calls of the head a node answers at once.
_THREADS = 8
_LEAVE_POLL_S = 0.1
_GATE_POLL_S = 5.0
# Of what a Dask scheduler tells its workers, that which comes without tasks.
_KEPT_STREAM = ("close", "remove-worker", "worker-status-change")


class _Connection(Worker):
    """One connection to the scheduler, until it ends."""

    def __init__(
        self,
        address: Address,
        key: ClusterKey | None,
        agent: Node,
        scratch: Path,
        threads: ThreadPoolExecutor,
    ) -> None:
        super().__init__(
            address.uri,
            name=agent.name,
            nthreads=1,
            memory_limit=0,
            # Nothing has to reach it, so nothing can.
            host="127.0.0.1",
            security=security(key),
            local_directory=str(scratch),
            death_timeout=CONNECT_S * 2,
            heartbeat_interval=f"{HEARTBEAT_S}s",
            preload=[],
            extensions={},
            deserialize=False,
        )
        keep_only(self.handlers, ())
        keep_only(self.stream_handlers, _KEPT_STREAM)
        self.stream_handlers["node-call"] = self._called
        self._agent = agent
        self._threads = threads

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """None: its pages would be open to everybody."""

    def _called(self, number: int, call: str, arguments: Any) -> None:
        self._ongoing_background_tasks.call_soon(self._answer, number, call, arguments)

    async def _answer(self, number: int, call: str, arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._threads, answer_of, self._agent, call, arguments)
        self.batched_send({"op": "node-answer", "number": number, "answer": answer})


def answer_of(agent: Node, call: str, arguments: Any) -> dict[str, Any]:
    """What an agent answers to a call, or why it does not, as plain values."""
    if call not in codec.CALLS:
        return {"refused": f"no node knows the call {call!r}: it has another version"}
    try:
        given = getattr(agent, call)(*codec.read_arguments(call, arguments))
        return {"answer": codec.plain(given)}
    except SweepError as e:
        return {"refused": str(e)}
    except Exception as e:  # noqa: BLE001
        # A fault of the agent is one call's, and the head must know of it.
        _LOG.exception("%s", call)
        return {"refused": f"{call} failed on the node: {type(e).__name__}: {e}"}


class Membership:
    """Keeps an agent connected to a cluster."""

    def __init__(
        self,
        address: Address,
        key: ClusterKey | None,
        agent: Node,
        scratch: Path,
        say: Callable[[str], None],
    ) -> None:
        self._address = address
        self._key = key
        self._agent = agent
        self._scratch = scratch
        self._heard = say
        self._said = ""
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="node-call")

    async def keep(self) -> None:
        """Be a member until cancelled; UsageError for a wrong key, OtherVersion."""
        while True:
            why = await self._until_it_ends()
            self._say(f"{why}; trying again until it is there; what trains goes on")
            await asyncio.sleep(_RETRY_S)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._heard(text)

    async def _until_it_ends(self) -> str:
        """Be connected as long as that lasts; why it does not."""
        name = self._agent.name
        found = await greet(self._address, self._key, name)
        if found is None:
            return f"no cluster answers at {self._address}"
        if found["taken"]:
            return (
                f"a node called {name} is in the cluster already (or has just been); "
                "if it is another machine, give this one another name with --name"
            )
        connection = _Connection(
            self._address, self._key, self._agent, self._scratch, self._threads
        )
        try:
            # Raises where the scheduler has gone meanwhile, or another took the name.
            await connection
        except (OSError, TimeoutError, ValueError, RuntimeError) as e:
            _LOG.info("not connected: %s", e)
            return f"the cluster at {self._address} does not take this node"
        try:
            self._say(f"node {name} is in the cluster at {self._address}")
            await connection.finished()  # type: ignore[no-untyped-call]
        finally:
            with suppress(TimeoutError):
                await connection.close(timeout=CONNECT_S, reason="node-ends")
        return f"the connection to the cluster at {self._address} has ended"


async def serve(
    membership: Membership, agent: Agent, say: Callable[[str], None], gate: Gate | None = None
) -> None:
    """Be a node until asked to end; UsageError for a wrong key, OtherVersion.

    Asked once, it takes nothing more, lets its trainers checkpoint, and waits until the head has
    fetched their files. Asked twice it ends at once, and what trains goes on. While the gate is
    closed it takes nothing either.
    """
    first, second = asked_to_end()
    tasks = [
        asyncio.create_task(membership.keep()),
        asyncio.create_task(_obey(gate or Gate(), agent, say, first)),
        asyncio.create_task(_leave(agent, say, first, second)),
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _obey(gate: Gate, agent: Agent, say: Callable[[str], None], over: asyncio.Event) -> None:
    """Offer the slots while the gate is open, for ever; not once this node is about to end."""
    before: str | None = None
    while True:
        # It may start a program to look at the battery.
        why = await asyncio.to_thread(gate.closed)
        if not over.is_set() and (why is None) != (before is None):
            await asyncio.to_thread(agent.offer if why is None else agent.drain)
            say("takes runs again" if why is None else f"takes no run {why}")
            before = why
        await asyncio.sleep(_GATE_POLL_S)


async def _leave(
    agent: Agent, say: Callable[[str], None], first: asyncio.Event, second: asyncio.Event
) -> None:
    await first.wait()
    await asyncio.to_thread(agent.drain)
    if held := len(agent.held()):
        say(
            f"{plural(held, 'run')} of this node: the trainers checkpoint, and this waits until the"
            " head has their files; Ctrl-C again does not wait, and leaves them to the next node"
            " of this name"
        )
    while agent.held() and not second.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(second.wait(), _LEAVE_POLL_S)
