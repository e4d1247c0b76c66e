"""A trainer on a node whose calls fail at chosen moments, by a clock that the test moves."""

import errno
import hashlib
from dataclasses import replace

import pytest

from orchestrator.worker import remote
from orchestrator.worker.mirror import Mirror
from orchestrator.worker.nodes import AttemptReport, Input, NodeAway, NodeRefused, Order, Wish
from orchestrator.worker.order import Outgoing
from orchestrator.worker.remote import Reach, RemoteTrainer

DATA = bytes(range(25))
SHA = hashlib.sha256(DATA).hexdigest()


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        """See time."""
        return self.now

    def sleep(self, seconds):
        """See time."""
        self.now += seconds


class ScriptedNode:
    """Keeps what it is told; a call fails as often as `fails` has errors for it."""

    def __init__(self):
        self.said = []
        self.fails = {}
        self.has = b""
        self.started = False
        self.wishes = []
        self.exit_code = None

    def _call(self, name, *words):
        self.said.append((name, *words))
        if errors := self.fails.get(name):
            raise errors.pop(0)

    def lacks(self, inputs):
        """See Node."""
        self._call("lacks")
        return inputs

    def put(self, file, offset, data):
        """See Node: what came before an answer was lost has come all the same."""
        self.has = self.has[:offset] + data
        self._call("put", offset)

    def start(self, order):
        """See Node."""
        self.started = True
        self._call("start")

    def look(self, token):
        """See Node."""
        self._call("look")
        return AttemptReport(self.exit_code is None, 7, self.exit_code, None, None, None, 1, 0, ())

    def ask(self, token, wish):
        """See Node."""
        self._call("ask")
        self.wishes.append(wish)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(remote, "time", clock)
    monkeypatch.setattr(remote, "PIECE_BYTES", 10)
    return clock


@pytest.fixture
def node():
    return ScriptedNode()


class Following:
    """A trainer on that node, and what was told of it."""

    def __init__(self, node, folder, outgoing, begun=False, away_s=10.0):
        self.told = []
        reach = Reach(
            *("node mac", lambda: node, away_s, self.told.append, lambda token: None),
            lambda pid: True,
        )
        mirror = Mirror(folder / "run", folder / "1.log")
        self.trainer = RemoteTrainer(reach, "token", mirror, outgoing, begun)


@pytest.fixture
def going(node, tmp_path, clock):
    """One that is still to be sent, with one file."""
    source = tmp_path / "data.jsonl"
    source.write_bytes(DATA)
    order = Order(
        *("token", "q/1", 1, "0", "/cwd", "out", "", ()), inputs=(Input("data", SHA, 25),)
    )
    return Following(node, tmp_path, Outgoing(order, {SHA: source}))


def test_files_go_in_pieces_and_each_again_where_no_answer_came(node, going):
    """From that piece on, not from the start; a lost answer to the order is asked for again."""
    node.fails = {"put": [NodeAway("a"), NodeAway("b")], "start": [NodeAway("c")]}
    node.exit_code = 0
    assert going.trainer.wait(60.0)
    assert node.has == DATA
    assert [words for words in node.said if words[0] == "put"] == [
        ("put", offset) for offset in (0, 0, 0, 10, 20)
    ]
    assert [words[0] for words in node.said].count("start") == 2
    assert (going.trainer.exit_code, going.trainer.excuse) == (0, None)
    assert going.told == [
        "a; its run is given away unless it answers within 10s",
        "node mac answers again",
        "c; its run is given away unless it answers within 10s",
        "node mac answers again",
    ]


def test_what_is_stopped_before_it_began_never_begins(node, going):
    """It has nothing to save."""
    going.trainer.interrupt()
    assert going.trainer.wait(1.0)
    assert "before it had begun" in going.trainer.excuse
    assert not node.started


def test_a_file_that_is_gone_is_no_fault_of_the_node(node, going, tmp_path):
    """The run goes back, and that is said."""
    (tmp_path / "data.jsonl").unlink()
    assert going.trainer.wait(1.0)
    assert "data.jsonl: No such file" in going.trainer.excuse
    assert going.trainer.refused


def test_a_node_that_stays_away_is_given_up_after_its_time(node, going, clock):
    """By time that passed between tries."""
    began = clock.now
    node.fails = {"look": [NodeAway("gone")] * 1000}
    assert going.trainer.wait(60.0)
    assert 10.0 <= clock.now - began < 14.0
    assert going.trainer.excuse == "node mac has not answered for 10s: its run is given away"


def test_time_in_which_this_process_stood_still_is_not_the_nodes(node, tmp_path, clock):
    """The head slept for an hour: the node has its time from then on."""
    trainer = Following(node, tmp_path, None, begun=True, away_s=600.0).trainer
    node.fails = {"look": [NodeAway("gone"), NodeAway("gone")]}
    trainer.wait(0.5)
    clock.now += 3600.0
    trainer.wait(2.0)
    assert (trainer.excuse, trainer.is_away) == (None, False)


def test_a_kill_does_not_wait_for_a_node_that_is_away(node, going):
    """Nothing can be done there; it is told when it comes back."""
    node.fails = {"look": [NodeAway("gone")] * 1000}
    assert not going.trainer.wait(1.0)
    assert going.trainer.waits()
    going.trainer.kill()
    assert going.trainer.wait(2.0)
    assert "left to itself" in going.trainer.excuse


def test_a_wish_reaches_a_node_that_comes_back(node, going):
    """In the order in which they came, once each."""
    node.fails = {"ask": [NodeAway("gone")] * 3}
    going.trainer.wait(1.0)
    going.trainer.interrupt()
    going.trainer.terminate()
    assert not going.trainer.wait(6.0)
    assert node.wishes == [Wish.INTERRUPT, Wish.TERMINATE]


@pytest.mark.parametrize("begun", [True, False])
def test_an_attempt_that_its_node_does_not_know(node, tmp_path, clock, begun):
    """One that was begun is lost; one of which the node never heard is no fault of the run."""
    following = Following(node, tmp_path, None, begun)
    node.fails = {"look": [NodeRefused("knows of no such attempt")] * 5}
    assert following.trainer.wait(60.0)
    if begun:
        assert following.trainer.lost == "knows of no such attempt"
    else:
        assert "the worker died before node mac had its order" in following.trainer.excuse


def test_one_refusal_among_answers_is_nothing(node, going):
    """A file may be gone between the look and the reading."""
    node.fails = {"look": [NodeRefused("gone")] * 4}
    node.exit_code = 75
    assert going.trainer.wait(60.0)
    assert (going.trainer.lost, going.trainer.exit_code) == (None, 75)


@pytest.mark.parametrize("ends", [False, True])
def test_a_file_that_cannot_be_read_ends_no_trainer_that_runs(node, going, monkeypatch, ends):
    """A checkpoint goes while a slow line brings it, again and again; after the end none goes."""

    def copy(*_):
        yield
        raise NodeRefused("checkpoint-2/a: cannot be read: No such file or directory")

    monkeypatch.setattr(going.trainer._mirror, "copy", copy)
    node.exit_code = 0 if ends else None
    assert going.trainer.wait(60.0) == ends
    assert going.trainer.lost == (
        "checkpoint-2/a: cannot be read: No such file or directory" if ends else None
    )


@pytest.mark.parametrize("value", [2**63, -1])
@pytest.mark.parametrize("what", ["pid", "exit_code", "signal"])
def test_what_no_trainer_can_say_is_not_recorded(node, tmp_path, clock, monkeypatch, what, value):
    """The database could not hold it, and the worker would end by that."""
    trainer = Following(node, tmp_path, None, begun=True).trainer
    told = AttemptReport(False, 7, 0, None, None, None, 1, 0, ())
    monkeypatch.setattr(node, "look", lambda token: replace(told, **{what: value}))
    assert trainer.wait(60.0)
    assert f"node mac says {what} {value}" in trainer.lost
    assert (trainer.pid, trainer.exit_code, trainer.signal) == (None, None, None)


def test_a_full_disk_here_is_waited_for(node, going, monkeypatch):
    """The files wait on the node; said once."""
    full = [OSError(errno.ENOSPC, "No space left on device", "/runs/a")] * 3

    def copy(*_):
        if full:
            raise full.pop()
        yield from ()

    monkeypatch.setattr(going.trainer._mirror, "copy", copy)
    node.exit_code = 0
    assert going.trainer.wait(60.0)
    assert going.trainer.exit_code == 0
    assert going.told == ["/runs/a: No space left on device; tried again until it can"]
