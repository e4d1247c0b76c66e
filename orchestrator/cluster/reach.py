"""The nodes of a cluster as the head sees them: each call of `Node`, sent through the scheduler.

One event loop in a thread of its own carries the calls of all slots. A call that is not answered in
time, or whose connection breaks, is NodeAway; nothing is sent twice from here.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

from distributed.core import ConnectionPool

from orchestrator.cluster import codec
from orchestrator.cluster.address import Address
from orchestrator.cluster.engine import security
from orchestrator.cluster.greeting import OtherVersion, greet
from orchestrator.cluster.keys import ClusterKey
from orchestrator.errors import UsageError
from orchestrator.worker.nodes import (
    AttemptReport,
    Held,
    Input,
    Node,
    NodeAway,
    NodeFacts,
    NodeRefused,
    Order,
    Wish,
)

ANSWER_S = 10.0
# A piece of a file over a slow line.
PIECE_S = 60.0
_REFRESH_S = 1.0
# What the way to the scheduler and back may take beyond the node's own time.
_WAY_S = 5.0


class ClusterNodes:
    """The nodes that are in a cluster just now; see `Nodes`.

    A context manager. Within it the list is refreshed all the time; iterating raises NodeAway while
    the scheduler cannot be reached.
    """

    def __init__(self, address: Address, key: ClusterKey | None) -> None:
        self._address = address
        self._key = key
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="cluster", daemon=True)
        self._known: dict[str, RemoteNode] = {}
        self._there: tuple[RemoteNode, ...] = ()
        self._why_none: str | None = f"the cluster at {address} was not asked yet"
        self._pool: ConnectionPool | None = None
        self._refreshing: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        """Meet the scheduler; UsageError, OtherVersion where it cannot be ours."""
        self._thread.start()
        try:
            self._do(self._open(), ANSWER_S * 2)
        # Also at Ctrl-C: nobody else ends the thread.
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(NodeAway):
            self._do(self._close(), ANSWER_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __iter__(self) -> Iterator[Node]:
        if self._why_none is not None:
            raise NodeAway(self._why_none)
        return iter(self._there)

    def ask(self, node: str, call: str, arguments: Sequence[Any], within_s: float) -> Any:
        """Call a node, from any thread; NodeAway, NodeRefused."""
        words = {
            "node": node,
            "call": call,
            "arguments": codec.plain(arguments),
            "within_s": within_s,
        }
        reply = self._do(self._send("ask-node", words), within_s + _WAY_S)
        if "away" in reply:
            raise NodeAway(f"node {node} is away: {reply['away']}")
        if "refused" in reply:
            raise NodeRefused(str(reply["refused"]))
        try:
            return codec.read_answer(call, reply.get("answer"))
        except codec.NotOurs as e:
            raise NodeRefused(f"node {node} answers as another version would: {e}") from None

    # --- in the thread of the loop

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, work: Coroutine[Any, Any, Any], within_s: float) -> Any:
        """Run something in the loop; NodeAway where it takes longer."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, within_s), self._loop)
        try:
            return future.result()
        except TimeoutError:
            raise NodeAway(
                f"the cluster at {self._address} gave no answer within {within_s:.0f} s"
            ) from None

    async def _open(self) -> None:
        arguments = security(self._key).get_connection_args("client")
        self._pool = ConnectionPool(deserialize=False, connection_args=arguments)
        await self._pool.start()
        await self._refresh()
        self._refreshing = asyncio.create_task(self._keep_fresh())

    async def _close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        if self._pool is not None:
            await self._pool.close()

    async def _send(self, op: str, words: dict[str, Any]) -> dict[str, Any]:
        """What the scheduler answers; NodeAway whatever is wrong with it, as it may be mended."""
        assert self._pool is not None
        try:
            found = await getattr(self._pool(self._address.uri), op)(**words)
        except (OSError, ValueError):
            # tornado's ValueError: the connection was closed before it could be encrypted.
            raise NodeAway(f"the cluster at {self._address} cannot be reached") from None
        except Exception as e:  # noqa: BLE001
            # As `distributed` raises what was raised there.
            raise NodeAway(f"the cluster at {self._address} is at fault: {e}") from None
        if not isinstance(found, dict):
            raise NodeAway(f"what answers at {self._address} is no cluster of grpo-sweep")
        return found

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await self._refresh()
            except (UsageError, OtherVersion) as e:
                # Another one listens there now; ours may come back.
                self._why_none = str(e)
            except Exception as e:  # noqa: BLE001
                # Whatever it is: who stops asking would not see the nodes that come.
                self._why_none = f"the cluster at {self._address} is at fault: {e!r}"

    async def _refresh(self) -> None:
        """Ask which nodes are there; before that, whether the scheduler is still one of ours."""
        if self._why_none is not None and await greet(self._address, self._key) is None:
            self._why_none = f"no cluster answers at {self._address}"
            return
        try:
            found = await self._send("nodes", {})
        except NodeAway as e:
            self._why_none = str(e)
            return
        self._there = tuple(self._node(name) for name in found["nodes"])
        self._why_none = None

    def _node(self, name: str) -> "RemoteNode":
        return self._known.setdefault(name, RemoteNode(name, self))


class RemoteNode:
    """A node of the cluster; see `Node`."""

    def __init__(self, name: str, cluster: ClusterNodes) -> None:
        self.name = name
        self._cluster = cluster

    def _ask(self, call: str, *arguments: Any, within_s: float = ANSWER_S) -> Any:
        return self._cluster.ask(self.name, call, arguments, within_s)

    def facts(self) -> NodeFacts:
        """See Node."""
        found: NodeFacts = self._ask("facts")
        return found

    def held(self) -> Sequence[Held]:
        """See Node."""
        found: Sequence[Held] = self._ask("held")
        return found

    def lacks(self, inputs: Sequence[Input]) -> Sequence[Input]:
        """See Node."""
        found: Sequence[Input] = self._ask("lacks", inputs)
        return found

    def put(self, file: Input, offset: int, data: bytes) -> None:
        """See Node."""
        self._ask("put", file, offset, data, within_s=PIECE_S)

    def start(self, order: Order) -> None:
        """See Node."""
        self._ask("start", order)

    def look(self, token: str) -> AttemptReport:
        """See Node."""
        found: AttemptReport = self._ask("look", token)
        return found

    def read(self, token: str, path: str, offset: int, size: int) -> bytes:
        """See Node."""
        found: bytes = self._ask("read", token, path, offset, size, within_s=PIECE_S)
        return found

    def ask(self, token: str, wish: Wish) -> None:
        """See Node."""
        self._ask("ask", token, wish)

    def forget(self, token: str) -> None:
        """See Node."""
        self._ask("forget", token)
