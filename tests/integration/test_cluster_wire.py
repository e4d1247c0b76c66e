"""What carries the calls of a head to its nodes: a real scheduler and real connections, no trainer.

Trainers behind it are in test_cluster.py.
"""

import asyncio
import errno
import gc
import os
import pickle
import signal
import socket
import ssl
import threading
import warnings
from functools import partial

import pytest
from distributed.core import rpc
from distributed.protocol import ToPickle

from orchestrator.cluster import engine, greeting, hub, joining, reach
from orchestrator.cluster.address import Address
from orchestrator.cluster.keys import make_key
from orchestrator.errors import UsageError
from orchestrator.worker.nodes import Input, NodeAway, NodeRefused, Order, Wish
from tests import cluster_kit
from tests.cluster_kit import StandIn, free_port
from tests.proxy_kit import Proxy
from tests.queue_kit import eventually


@pytest.fixture
def address():
    """Of a scheduler on this machine."""
    return Address("127.0.0.1", free_port())


@pytest.fixture
def key(tmp_path):
    """The cluster's key."""
    return make_key(tmp_path / "key.pem")


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """What takes seconds in life."""
    monkeypatch.setitem(engine._SETTINGS, "distributed.comm.timeouts.connect", "0.3s")
    monkeypatch.setattr(joining, "_RETRY_S", 0.05)
    monkeypatch.setattr(reach, "_REFRESH_S", 0.05)


def names(nodes):
    """Of the nodes that are there; none where the scheduler is away."""
    try:
        return [node.name for node in nodes]
    except NodeAway:
        return []


def the_node(nodes):
    """The first node, as soon as it is there."""
    return eventually(lambda: names(nodes) and next(iter(nodes)))


def test_calls_reach_the_node_and_come_back(address, key, tmp_path):
    """Records, bytes, refusals, and faults of the agent, from several threads."""
    agent, said = StandIn(), []
    with (
        cluster_kit.hub(address, key),
        cluster_kit.member(address, key, agent, tmp_path, said),
        reach.ClusterNodes(address, key) as nodes,
    ):
        node = the_node(nodes)
        assert node is next(iter(nodes))
        assert node.facts() == agent.facts()
        assert node.read("t", "final/adapters.safetensors", 0, 4 * 2**20) == bytes(4 * 2**20)
        order = Order("t", "q/1", 2, "0", "/w", "out", "seed = 1\n", ("a=1",), env={"A": "b"})
        node.start(order)
        node.forget("t")
        assert agent.calls == [order, "t"]
        file = Input("data/a.jsonl", "00", 3)
        assert node.lacks([file, file]) == (file,)
        with pytest.raises(NodeRefused, match="the disk is full"):
            node.put(file, 0, b"\x00\xffa")
        assert agent.calls[-1] == (file, 0, b"\x00\xffa")
        with pytest.raises(NodeRefused, match=r"ask failed on the node.*a fault of ours"):
            node.ask("t", Wish.KILL)
        asking = [threading.Thread(target=node.held) for _ in range(6)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(10)
        assert not any(thread.is_alive() for thread in asking)
    assert said[0] == f"node a is in the cluster at {address}"


def test_node_that_does_not_answer_is_away(address, key, tmp_path, monkeypatch):
    """A call has its time; another node, and the same one later, answer as before."""
    monkeypatch.setattr(reach, "ANSWER_S", 0.3)
    agent = StandIn()
    with (
        cluster_kit.hub(address, key),
        cluster_kit.member(address, key, agent, tmp_path, []),
        reach.ClusterNodes(address, key) as nodes,
    ):
        node = the_node(nodes)
        slow = reach.RemoteNode("a", nodes)
        monkeypatch.setattr(slow, "_ask", lambda *words: nodes.ask("a", *words[:1], words[1:], 0.3))
        with pytest.raises(NodeAway, match="a is away: no answer within"):
            slow.look("t")
        agent.waits.set()
        assert node.held() == ()
        with pytest.raises(NodeAway, match="b is away: it is not connected"):
            reach.RemoteNode("b", nodes).held()


def test_node_that_falls_silent_is_dropped(address, key, tmp_path, monkeypatch):
    """Its connection looks open: it is asleep, or a router has forgotten it."""
    monkeypatch.setattr(hub, "HEARD_WITHIN_S", 0.0)
    monkeypatch.setattr(hub, "_CHECK_S", 0.1)
    said = []
    with (
        cluster_kit.hub(address, key),
        cluster_kit.member(address, key, StandIn(), tmp_path, said),
    ):
        # And where it lives after all, it comes back.
        eventually(lambda: said.count(f"node a is in the cluster at {address}") > 1)
        assert any("has ended" in text for text in said)


def test_scheduler_that_cannot_watch_its_nodes_ends(address, key, monkeypatch):
    """And says why: else a node that is long gone would stay in its list."""

    async def breaks(self):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(hub.Hub, "watch", breaks)
    engine.set_up()
    with pytest.raises(RuntimeError, match="a fault of ours"):
        asyncio.run(asyncio.wait_for(hub.serve(address, key, lambda: None), 10))


def test_scheduler_that_is_gone_is_said_once_and_found_again(address, key, tmp_path):
    """By the node and by the head; both go on where another one listens there."""
    said_by_node = []
    with cluster_kit.hub(address, key):
        member = cluster_kit.member(address, key, StandIn(), tmp_path, said_by_node)
        member.__enter__()
        nodes = reach.ClusterNodes(address, key).__enter__()
        node = the_node(nodes)
    try:
        eventually(lambda: names(nodes) == [])
        with pytest.raises(NodeAway, match=f"the cluster at {address} cannot be reached"):
            node.held()
        with pytest.raises(NodeAway, match=str(address)):
            iter(nodes)
        eventually(lambda: any("no cluster answers" in text for text in said_by_node))
        with cluster_kit.hub(address, key):
            assert the_node(nodes) is node
            assert node.held() == ()
            here = f"node a is in the cluster at {address}"
            eventually(lambda: said_by_node.count(here) == 2)
            nodes.__exit__()
    finally:
        member.__exit__(None, None, None)
    ended, none = said_by_node[1:3]
    assert "has ended; trying again" in ended
    assert f"no cluster answers at {address}; trying again" in none
    # The fifth is that the second one has ended too, where the member was fast.
    assert said_by_node[:4] == [here, ended, none, here]


def test_connection_that_is_cut_or_falls_silent_comes_back(address, key, tmp_path, monkeypatch):
    """Between a node and the scheduler, while the head reaches the scheduler all the time."""
    monkeypatch.setattr(hub, "HEARD_WITHIN_S", 1.0)
    monkeypatch.setattr(hub, "_CHECK_S", 0.1)
    for end in (hub, joining):
        monkeypatch.setattr(end, "HEARTBEAT_S", 0.2)
    said = []
    with (
        cluster_kit.hub(address, key),
        Proxy(address.port) as proxy,
        cluster_kit.member(Address("127.0.0.1", proxy.port), key, StandIn(), tmp_path, said),
        reach.ClusterNodes(address, key) as nodes,
    ):
        node = the_node(nodes)
        proxy.cut()
        eventually(lambda: names(nodes) == [])
        with pytest.raises(NodeAway, match="a is away: it is not connected"):
            node.held()
        proxy.mend()
        assert the_node(nodes) is node
        assert node.held() == ()
        proxy.freeze()
        with pytest.raises(NodeAway, match="a is away"):
            nodes.ask("a", "held", (), 0.2)
        eventually(lambda: names(nodes) == [])
        proxy.mend()
        assert eventually(lambda: names(nodes)) == ["a"]
        assert node.held() == ()


class Trains(StandIn):
    """A node with an attempt whose files nobody has fetched."""

    drained = False

    def held(self):
        """One attempt, until it is let go."""
        return () if self.waits.is_set() else ("attempt",)

    def drain(self):
        """Remembers it."""
        self.drained = True


@pytest.mark.parametrize("fetched", [True, False])
def test_node_that_is_asked_to_end_waits_for_its_files(fetched):
    """Until the head has them, or it is asked once more."""
    agent, said = Trains(), []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def not_yet(number, frame):
        """What would end this process does not, before the node listens."""

    async def scene():
        node = asyncio.create_task(joining.serve(Quiet(), agent, said.append))
        while signal.getsignal(signal.SIGTERM) is not_yet:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        while not said:
            await asyncio.sleep(0.01)
        assert agent.drained
        assert (await asyncio.wait({node}, timeout=0.3))[1] == {node}
        if fetched:
            agent.waits.set()
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(node, 10)

    signal.signal(signal.SIGTERM, not_yet)
    try:
        asyncio.run(scene())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    (text,) = said
    assert "1 run of this node" in text and "Ctrl-C again does not wait" in text


def test_node_takes_runs_in_its_hours_alone(monkeypatch):
    """What trains there at their end goes on elsewhere; once it ends it offers nothing again."""
    monkeypatch.setattr(joining, "_GATE_POLL_S", 0.02)
    agent, said, closed = Trains(), [], ["until 19:00"]
    agent.waits.set()
    agent.offer = lambda: setattr(agent, "drained", False)

    class Hours:
        def closed(self):
            return closed[0]

    async def scene():
        node = asyncio.create_task(joining.serve(Quiet(), agent, said.append, Hours()))
        while not agent.drained:
            await asyncio.sleep(0.01)
        closed[0] = None
        while agent.drained:
            await asyncio.sleep(0.01)
        assert not node.done()
        node.cancel()

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(asyncio.wait_for(scene(), 20))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert said == ["takes no run until 19:00", "takes runs again"]


class Quiet:
    """A membership that goes on."""

    async def keep(self):
        """For ever."""
        await asyncio.Event().wait()


def test_two_nodes_of_one_name(address, key, tmp_path):
    """The first one stays, the second is told what to do, and takes its place when it is gone."""
    said = []
    with cluster_kit.hub(address, key):
        first = cluster_kit.member(address, key, StandIn(slots=("0",)), tmp_path, said)
        first.__enter__()
        eventually(lambda: said)
        with (
            cluster_kit.member(address, key, StandIn(slots=("7",)), tmp_path, said),
            reach.ClusterNodes(address, key) as nodes,
        ):
            eventually(lambda: any("--name" in text for text in said))
            assert the_node(nodes).facts().slots == ("0",)
            first.__exit__(None, None, None)
            eventually(lambda: names(nodes) and seen_slots(nodes) == ("7",))


def seen_slots(nodes):
    """Of the first node; None while it is away."""
    try:
        return the_node(nodes).facts().slots
    except NodeAway:
        return None


def test_node_that_leaves_takes_no_other_along(address, key, tmp_path):
    """The others hear of it, and stay as they are."""
    said = []
    with (
        cluster_kit.hub(address, key),
        reach.ClusterNodes(address, key) as nodes,
        cluster_kit.member(address, key, StandIn("stays"), tmp_path / "stays", said),
    ):
        with cluster_kit.member(address, key, StandIn("goes"), tmp_path / "goes", []):
            eventually(lambda: names(nodes) == ["goes", "stays"])
        eventually(lambda: names(nodes) == ["stays"])
        assert the_node(nodes).held() == ()
    assert said == [f"node stays is in the cluster at {address}"]


def test_wrong_key_is_said_at_once(address, key, tmp_path):
    """To a node and to a head, and neither tries again."""
    other = make_key(tmp_path / "other.pem")
    with cluster_kit.hub(address, key):
        with pytest.raises(UsageError, match="another key; copy its key file again"):
            asyncio.run(joining.Membership(address, other, StandIn(), tmp_path, print).keep())
        with (
            pytest.raises(UsageError, match="another key"),
            reach.ClusterNodes(address, other),
        ):
            pass
        # Without any key nothing is said at all, encrypted or not.
        bare = Address("127.0.0.1", address.port, tls=False)
        assert asyncio.run(greeting.greet(bare, None)) is None
        with pytest.raises(ssl.SSLError, match="certificate required"):
            first_words(address)


def first_words(address):
    """What a scheduler says to somebody who takes its certificate and shows none."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((address.host, address.port), 10) as plain,
        anybody.wrap_socket(plain) as encrypted,
    ):
        return encrypted.recv(1)


def test_other_version_is_said_at_once(address, key, tmp_path, monkeypatch):
    """With both, and what to do."""
    with cluster_kit.hub(address, key):
        monkeypatch.setattr(hub, "versions", lambda: {**greeting.versions(), "distributed": "1.0"})
        with pytest.raises(greeting.OtherVersion, match=r"has distributed 1\.0, this machine"):
            asyncio.run(joining.Membership(address, key, StandIn(), tmp_path, print).keep())


def test_fault_of_the_scheduler_ends_no_worker(address, key):
    """It is away as long as that lasts: one may start it anew, or mend it."""
    with cluster_kit.hub(address, key) as scheduler, reach.ClusterNodes(address, key) as nodes:
        eventually(lambda: list(nodes) == [])
        whole = dict(scheduler.handlers)
        scheduler.handlers["nodes"] = scheduler.handlers["ask-node"] = lambda **words: 1 / 0
        eventually(lambda: "is at fault" in (why_away(nodes) or ""))
        with pytest.raises(NodeAway, match="division by zero"):
            nodes.ask("a", "held", (), 5)
        # As of a scheduler that knows no such call.
        del scheduler.handlers["nodes"], scheduler.handlers["ask-node"]
        with pytest.raises(NodeAway, match="is no cluster of grpo-sweep"):
            nodes.ask("a", "held", (), 5)
        scheduler.handlers["nodes"] = lambda: {"others": []}
        eventually(lambda: "KeyError" in (why_away(nodes) or ""))
        scheduler.handlers.update(whole)
        eventually(lambda: why_away(nodes) is None)


def why_away(nodes):
    """Why no list of nodes can be had; None where it can."""
    try:
        iter(nodes)
    except NodeAway as e:
        return str(e)


def test_nobody_can_send_a_program(address, key, tmp_path):
    """Of Dask's own calls none is left that runs what it is sent: not even with the key."""
    said = []
    with (
        cluster_kit.hub(address, key) as scheduler,
        cluster_kit.member(address, key, StandIn(), tmp_path, said),
    ):
        eventually(lambda: said)
        assert set(scheduler.handlers) == {
            *("register-worker", "heartbeat_worker", "unregister"),
            *("hello", "nodes", "ask-node"),
        }
        worker = next(iter(scheduler.workers))
        assert asyncio.run(asked(worker, key, "run", function=b"")) is None
        assert asyncio.run(asked(address.uri, key, "run_function", function=b"")) is None


class Program:
    """What runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_message_is_no_program_either(address, key, tmp_path, monkeypatch):
    """Dask unpickles what a message says is pickled, whatever its receiver is told to."""
    ran = tmp_path / "ran"
    with cluster_kit.hub(address, key) as scheduler:
        # As who does not keep to our settings would send it.
        monkeypatch.setattr(engine._Pickle, "dumps", partial(pickle.dumps, protocol=5))
        with pytest.raises(Exception, match="pickled"):
            asyncio.run(asked(address.uri, key, "hello", name=ToPickle(Program(ran))))
        assert not ran.exists()
        # Nor does a head, or a node, whatever has become of the scheduler.
        scheduler.handlers["nodes"] = lambda: {"nodes": ToPickle(Program(ran))}
        assert asyncio.run(asked(address.uri, key, "hello"))["taken"] is False
        with pytest.raises(ValueError, match="pickled"):
            asyncio.run(asked(address.uri, key, "nodes"))
        assert not ran.exists()


async def asked(uri, key, op, **words):
    """What an end answers to one of Dask's calls."""
    arguments = engine.security(key).get_connection_args("client")
    async with rpc(uri, connection_args=arguments, deserialize=False) as end:
        return await getattr(end, op)(**words)


@pytest.mark.parametrize("hears", [False, True])
def test_a_connection_that_is_cut_at_its_first_word_says_nothing_of_the_key(address, key, hears):
    """A node that took it for another key would end, and its runs with it."""

    async def cut(reader, writer):
        if hears:
            await reader.read(1)
        writer.close()

    async def greeted():
        async with await asyncio.start_server(cut, address.host, address.port):
            return await greeting.greet(address, key)

    engine.set_up()
    with warnings.catch_warnings():
        # tornado leaves a socket whose handshake failed to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        assert asyncio.run(greeted()) is None
        gc.collect()


def test_a_connection_needs_no_room_on_the_disk_and_its_key_only_once(key, monkeypatch):
    """Dask would write the key to a temporary file: a full disk would end a node."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    first = engine.security(key).get_connection_args("worker")
    key.path.unlink()
    assert engine.security(key).get_connection_args("worker") == first
