"""`grpo-sweep cluster` and `node`: real processes, as users start and end them."""

import os
import re
import signal

import pytest

from orchestrator.cli import main
from orchestrator.cli.cluster import _line
from orchestrator.cli.cluster_options import ClusterChoice
from orchestrator.cluster import engine, serving
from orchestrator.cluster.keys import make_key
from orchestrator.system.paths import home
from orchestrator.worker.nodes import NodeAway, NodeRefused
from tests.cluster_kit import StandIn, free_port
from tests.queue_kit import eventually


@pytest.fixture
def port():
    """Free; what was started there is ended."""
    number = free_port()
    yield number
    for name in serving.local_nodes(home()):
        kill(home().node_lock(name))
    kill(home().cluster_lock)


def kill(lock):
    """End what holds a lock."""
    found = serving.running(lock)
    if found is not None and found.pid is not None:
        os.kill(found.pid, signal.SIGKILL)
        eventually(lambda: serving.running(lock) is None)


def said(capsys, *words, code=0):
    """What a command says."""
    found = main([str(word) for word in words])
    out = capsys.readouterr()
    assert found == code, out.err
    return out.out + out.err


def test_cluster_from_up_to_down(port, capsys):
    """Each step as docs/cluster.md shows it, and what is said where one is out of order."""
    assert "no cluster runs here" in said(capsys, "node", code=2)
    assert "does not run here" in said(capsys, "cluster", "down", code=3)
    up = said(capsys, "cluster", "up", "--detach", "--port", port)
    assert re.search(rf"grpo-sweep node \S+:{port} --key cluster-key.pem", up)
    assert f"scp {home().cluster_key} " in up
    assert "runs already" in said(capsys, "cluster", "up", "--port", port, code=3)

    node = said(capsys, "node", "--detach", "--name", "left", "--slots", 2)
    assert f"node left is in the cluster at 127.0.0.1:{port}" in node
    assert "runs already" in said(capsys, "node", "--detach", "--name", "left", code=2)
    found = said(capsys, "cluster", "status")
    assert re.search(r"node +left: 2 slots, cpu, .* a slot, .* free, 0 in training", found)

    # As after a crash: the node waits, and is there again without anybody's doing.
    kill(home().cluster_lock)
    log = home().node_log("left")
    assert "no cluster runs here" in said(capsys, "cluster", "status", code=2)
    said(capsys, "cluster", "up", "--detach", "--port", port)
    eventually(lambda: log.read_text().count("is in the cluster") == 2)

    assert "node left has ended" in said(capsys, "node", "--stop")
    assert "node     none" in said(capsys, "cluster", "status")
    assert "no node runs here" in said(capsys, "node", "--stop", code=3)
    said(capsys, "cluster", "down")
    assert serving.running(home().cluster_lock) is None


def test_node_in_the_background_says_why_it_ended(port, capsys, monkeypatch):
    """A key that does not fit, at its first word; and a port that is taken."""
    said(capsys, "cluster", "up", "--detach", "--port", port)
    first = home()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("GRPO_SWEEP_HOME", str(first.root / "other"))
        home().make().cluster_key.parent.mkdir()
        make_key(home().cluster_key)
        words = ("node", f"127.0.0.1:{port}", "--detach", "--name", "a")
        assert "has another key; copy its key file again" in said(capsys, *words, code=1)
        taken = said(capsys, "cluster", "up", "--port", port, code=2)
        assert "Address already in use; name another with --host or --port" in taken


def test_worker_in_the_background_waits_for_its_scheduler(port, capsys, monkeypatch):
    """It is told the address, not "the one that runs here": that one may be gone for a while."""
    monkeypatch.setitem(engine._SETTINGS, "distributed.comm.timeouts.connect", "0.3s")
    assert "no cluster runs here" in said(capsys, "work", "--detach", "--cluster", code=2)
    said(capsys, "cluster", "up", "--detach", "--port", port)
    chosen = ClusterChoice("").settled()
    assert chosen == ClusterChoice(f"127.0.0.1:{port}")
    said(capsys, "cluster", "down")
    with chosen.join() as joined, pytest.raises(NodeAway, match=f"127.0.0.1:{port}"):
        iter(joined.nodes)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("cluster", "up", "--no-tls", "--host", "0.0.0.0"), "without TLS"),
        (("cluster", "up", "--no-tls", "--host", "192.0.2.1"), "without TLS"),
        (("node", "tcp://192.0.2.1:9000"), "without TLS"),
        (("node", "192.0.2.1:9000"), "there is no such key"),
        (("node", "192.0.2.1:9000", "--name", "a/b"), "letters, digits"),
        (("node", "mini local"), "HOST:PORT"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(words, why, capsys):
    """Each as one message."""
    assert why in said(capsys, *words, code=2)


def test_what_is_not_installed_is_named(capsys, monkeypatch):
    """With what to type."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for words in (("cluster", "up"), ("node", "127.0.0.1")):
        assert "pip install 'grpo-sweep[cluster]'" in said(capsys, *words, code=2)


def test_a_node_that_refuses_is_a_line_of_the_status():
    """The others are shown all the same."""

    class Refuses(StandIn):
        def facts(self):
            """Its folder is gone."""
            raise NodeRefused("facts failed on the node: FileNotFoundError")

    assert _line(Refuses("mac")) == "mac: facts failed on the node: FileNotFoundError"
