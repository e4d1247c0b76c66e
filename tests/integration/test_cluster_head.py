"""A worker that trains on nodes: real agents in this process, real (fake) trainers on them."""

import errno
import json
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from orchestrator.errors import QueueBusy
from orchestrator.queue.store import Store
from orchestrator.run import Retry, StopRequest
from orchestrator.worker import fleet, place, remote, termination
from orchestrator.worker.launcher import TRAINER
from orchestrator.worker.nodes import Cluster, NodeAway
from orchestrator.worker.slots import Slot, Slots
from orchestrator.worker.worker import work
from tests.agent_kit import an_agent, an_order
from tests.queue_kit import (
    FAKE,
    attempts,
    eventually,
    is_alive,
    kill_group,
    planned,
    runs,
    states,
    submit,
    updates_logged,
)
from tests.trainer_kit import FAST, assert_equal_runs


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    """Looks and tries come soon after each other."""
    monkeypatch.setattr(fleet, "_LOOK_S", 0.05)
    monkeypatch.setattr(remote, "_LOOK_S", 0.1)
    monkeypatch.setattr(remote, "_RETRY_S", 0.05)


class Line:
    """The way to a node: it may be cut, and what it says of itself may be another thing."""

    def __init__(self, agent):
        self.name = agent.name
        self.agent = agent
        self.is_cut = False
        self.says = {}

    def facts(self):
        """As Node."""
        self.check()
        return replace(self.agent.facts(), **self.says)

    def check(self):
        """NodeAway while it is cut."""
        if self.is_cut:
            raise NodeAway(f"node {self.name} is away: no answer")

    def __getattr__(self, call):
        def ask(*arguments):
            self.check()
            return getattr(self.agent, call)(*arguments)

        return ask


class Lab:
    """Nodes by name, those that are cut left out; and a worker that trains on them."""

    def __init__(self, folder):
        self.folder = folder
        self.lines = {}
        self.stack = ExitStack()
        self.said = []

    def add(self, name, slots="0", trainer=FAKE):
        """A node, each of its slots with a device of its own."""
        own = [
            Slot(slot, {"GRPO_GPU_LOCK": str(self.folder / f"gpu-{name}-{slot}.lock")})
            for slot in slots
        ]
        agent = an_agent(self.folder / "nodes" / name, trainer, name=name, slots=own)
        self.lines[name] = Line(self.stack.enter_context(agent))
        return self.lines[name]

    def __iter__(self):
        return iter([line for line in self.lines.values() if not line.is_cut])

    def work(self, away_s=60.0, **how):
        """Serve the queue until it is empty."""
        cluster = Cluster(self, away_s=away_s)
        how = {"until_empty": True, "on_event": self.said.append, "trainer": FAKE, **how}
        return work(cluster=cluster, **how)

    @contextmanager
    def worker(self, **how):
        """The worker in a thread; at the end it has ended by itself."""
        ended = []
        thread = threading.Thread(target=lambda: ended.append(self.work(**how)), daemon=True)
        thread.start()
        yield
        thread.join(60)
        assert ended == [0]

    def text(self):
        """All that the worker has said."""
        return "\n".join(event.text for event in self.said)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    with lab.stack:
        yield lab


def long(name, **values):
    """A run of some seconds."""
    return planned(name, updates=40, update_s=0.05, **values)


def training(run_id=1, updates=2):
    """The attempt that trains a run, once so much of it is here."""

    def found():
        with Store.open(readonly=True) as store:
            run = store.queries.run(run_id)
            ours = store.queries.attempts(run_id)
        log = run.folder / "training_log.jsonl"
        if run.state != "running" or not log.exists():
            return None
        return ours[-1] if ours[-1].pid and len(updates_logged(run)) >= updates else None

    return eventually(found)


def outcomes(run_id=1):
    """How the attempts of a run ended, and where they were."""
    return [(attempt.outcome, attempt.node) for attempt in attempts(run_id)]


def held(line):
    """What a node holds; nothing once it was told to forget."""
    return line.agent.held()


def test_nodes_train_what_is_queued(tmp_path, lab):
    """Each run once, in a slot of a node; what it wrote is here, and no longer there."""
    nodes = [lab.add("mac", "01"), lab.add("box", "01")]
    submit(tmp_path, *(planned(name, update_s=0.05) for name in "abcde"))
    assert lab.work() == 0
    assert states() == ["completed"] * 5
    for run in runs():
        (attempt,) = attempts(run.id)
        assert attempt.node in ("mac", "box")
        assert attempt.slot.startswith(f"{attempt.node}/")
        assert updates_logged(run) == [1, 2, 3]
        assert [path.name for path in run.folder.glob(".*")] == []
    eventually(lambda: [held(node) for node in nodes] == [[], []])


def test_a_node_that_comes_later_brings_its_slots(tmp_path, lab):
    """Until one is there the worker waits, and says so once."""
    submit(tmp_path, planned("a"))
    with lab.worker():
        eventually(lambda: "no node is there that takes runs" in lab.text())
        lab.add("mac")
    assert outcomes() == [("completed", "mac")]
    assert lab.text().count("no node is there") == 1


def test_slots_of_this_machine_train_beside_those_of_nodes(tmp_path, lab):
    """Where the worker was told of some."""
    lab.add("mac")
    submit(tmp_path, *(planned(name, update_s=0.1) for name in "abcd"))
    assert lab.work(slots=Slots(2)) == 0
    assert states() == ["completed"] * 4
    assert {attempts(n)[0].node for n in (1, 2, 3, 4)} == {None, "mac"}


def test_a_node_that_comes_back_in_time_has_lost_nothing(tmp_path, lab):
    """Its trainer went on; the same attempt ends well."""
    mac = lab.add("mac")
    submit(tmp_path, long("a"))
    with lab.worker():
        attempt = training()
        mac.is_cut = True
        eventually(lambda: "its run is given away unless it answers" in lab.text())
        assert is_alive(attempt.pid)
        mac.is_cut = False
    assert outcomes() == [("completed", "mac")]
    assert "node mac answers again" in lab.text()
    assert updates_logged(runs()[0]) == list(range(1, 41))


def test_the_run_of_a_node_that_stays_away_is_given_away(tmp_path, lab):
    """Through no fault of the run; when the node is back its trainer ends and changes nothing."""
    mac = lab.add("mac")
    submit(tmp_path, long("a"), retry=Retry(max=1))
    with lab.worker(away_s=0.3):
        first = training()
        mac.is_cut = True
        lab.add("box")
        eventually(lambda: len(attempts()) == 2)
        assert is_alive(first.pid)
        mac.is_cut = False
        eventually(lambda: not is_alive(first.pid))
    assert outcomes() == [("interrupted", "mac"), ("completed", "box")]
    assert "given away" in attempts()[0].reason
    assert updates_logged(runs()[0]) == list(range(1, 41))
    eventually(lambda: held(mac) == [])


def test_a_trainer_that_dies_on_a_node_counts_and_goes_on_elsewhere(tmp_path, lab):
    """From the checkpoint that is here; nothing is logged twice."""
    lab.add("mac")
    submit(tmp_path, planned("a", updates=6, die="4:SIGKILL", die_file=str(tmp_path / "died")))
    assert lab.work() == 0
    first, second = attempts()
    assert (first.outcome, first.signal, second.outcome) == ("crash", "SIGKILL", "completed")
    assert second.checkpoint == 3
    assert updates_logged(runs()[0]) == [1, 2, 3, 4, 5, 6]
    started = (runs()[0].folder / "starts").read_text().split()
    assert len(started) == 1  # The file of one node; each has its own folder.


@pytest.mark.parametrize("cut", [False, True])
def test_a_run_on_a_node_is_cancelled(tmp_path, lab, cut, monkeypatch):
    """One whose node is away is not waited for once its grace is over; it ends there later."""
    monkeypatch.setitem(termination._GRACE_S, StopRequest.CANCEL, 0.3)
    mac = lab.add("mac")
    submit(tmp_path, long("a"))
    with lab.worker():
        attempt = training()
        mac.is_cut = cut
        with Store.open() as store:
            store.control.cancel([1])
        eventually(lambda: states() == ["cancelled"])
        assert is_alive(attempt.pid) == cut
        submit(tmp_path, planned("b"), name="t")
        mac.is_cut = False
    assert states() == ["cancelled", "completed"]
    eventually(lambda: not is_alive(attempt.pid))


def test_the_next_worker_takes_over_what_trains_on_nodes(tmp_path, lab):
    """By the token, whatever has ended meanwhile; each run has one attempt."""
    lab.add("mac", "01")
    submit(tmp_path, long("a"), planned("b", updates=8, update_s=0.1))

    def dies(event):
        if event.kind == "progress" and event.run.id == 1 and event.progress.update >= 2:
            raise RuntimeError("the worker dies")

    with pytest.raises(RuntimeError):
        lab.work(on_event=dies)
    assert sorted(states()) == ["running", "running"]
    eventually(lambda: sum(each.running for each in held(lab.lines["mac"])) == 1)
    said = []
    assert work(until_empty=True, trainer=FAKE, on_event=said.append) == 0
    assert states() == ["running", "running"]
    assert "a run trains on mac/0, mac/1: grpo-sweep work --cluster" in said[0].text
    assert lab.work() == 0
    assert [outcomes(n) for n in (1, 2)] == [[("completed", "mac")]] * 2
    adopted = {event.text for event in lab.said if event.kind == "adopted"}
    assert adopted == {"trains on (on mac/0)", "trains on (on mac/1)"}


def test_another_queue_on_the_same_node_is_left_alone(tmp_path, lab):
    """What it trains there is not ours to end, and its slot is taken."""
    mac = lab.add("mac", "01")
    order = an_order("updates=10000", "update_s=0.05", run="other/1")
    mac.agent.start(order)
    submit(tmp_path, *(planned(name) for name in "abc"))
    assert lab.work() == 0
    assert {attempts(n)[0].slot for n in (1, 2, 3)} == {"mac/1"}
    assert [each.token for each in held(mac)] == [order.token]
    kill_group(mac.agent.look(order.token).pid)


def test_what_a_copy_of_the_queue_trains_is_left_alone(tmp_path, lab):
    """Its worker waits for it; that there are two is said once."""
    mac = lab.add("mac", "01")
    submit(tmp_path, planned("a"))
    with Store.open() as store:
        queue = store.queries.queue_name()
    mac.agent.start(an_order("updates=10000", "update_s=0.05", run=f"{queue}/7"))
    assert lab.work() == 0
    assert [each.run for each in held(mac)] == [f"{queue}/7"]
    assert lab.text().count("trains for a copy of this queue") == 1
    kill_group(mac.agent.look("token-of-attempt-1").pid)


def test_a_node_of_another_version_gets_no_run(tmp_path, lab):
    """Said once; the others train."""
    lab.add("old").says = {"version": "0.0.1"}
    lab.add("mac").says = {"clock": "2001-01-01T00:00:00Z"}
    submit(tmp_path, *(planned(name) for name in "ab"))
    assert lab.work() == 0
    assert {outcomes(n)[0] for n in (1, 2)} == {("completed", "mac")}
    assert lab.text().count("node old gets no run: it has grpo-sweep 0.0.1") == 1
    assert lab.text().count("node mac: its clock is") == 1


@pytest.mark.parametrize("slots", [("0", "0"), ("a\nb",), ("",), tuple(map(str, range(65)))])
def test_a_node_whose_slots_cannot_be_gets_no_run(tmp_path, lab, slots):
    """Each slot costs this worker a thread, and its name is told and typed."""
    lab.add("odd").says = {"slots": slots}
    lab.add("mac")
    submit(tmp_path, planned("a"))
    assert lab.work() == 0
    assert outcomes() == [("completed", "mac")]
    assert lab.text().count("node odd gets no run: its slots") == 1


def test_a_node_that_has_trained_a_run_is_forgiven_its_refusals():
    """Or two queues that often want one slot would soon wait ten minutes for it."""
    known = fleet.Fleet(Cluster(()), lambda event: None)
    for _ in range(5):
        known.note_refusal("mac", 1)
    known.note_success("mac", 1)
    assert known.refused("mac") == set()
    known.note_refusal("mac", 1)
    assert known._refusals["mac", 1].wait_s == fleet._FIRST_S


def test_a_node_that_was_started_anew_is_told_once_the_queue_can_be_had(lab):
    """It would stay paused until the worker ends."""

    class BusyOnce:
        """A store that others hold at the first try."""

        def __init__(self):
            self.holds = self.queries = self
            self.tries = []

        def queue_name(self):
            return "q"

        def node_started(self, *words):
            self.tries.append(words)
            if len(self.tries) == 1:
                raise QueueBusy("locked")

    mac, store = lab.add("mac"), BusyOnce()
    known = fleet.Fleet(Cluster(lab), lambda event: None)
    for _ in range(3):
        known._looked = float("-inf")
        known.look(store)
    assert store.tries == [("mac", mac.facts().boot_id)] * 2


def test_what_this_machine_lacks_for_a_while_is_no_fault_of_the_run(tmp_path, lab, monkeypatch):
    """As where a trainer is started here."""
    lab.add("mac")
    submit(tmp_path, planned("a"))
    prepare, lacks = place.prepare, [OSError(errno.EMFILE, "Too many open files")]

    def at_the_second_try(*words):
        if lacks:
            raise lacks.pop()
        return prepare(*words)

    monkeypatch.setattr(place, "prepare", at_the_second_try)
    assert lab.work() == 0
    assert outcomes() == [("completed", "mac")]
    assert "Too many open files" in lab.text()


def test_a_node_that_hands_its_run_over_is_not_asked_again_at_once(tmp_path, lab, monkeypatch):
    """It leaves: what was known of its slots before says nothing."""
    mac = lab.add("mac")
    submit(tmp_path, long("a"))
    with lab.worker():
        training()
        lab.add("box")
        eventually(lambda: "node box is there" in lab.text())
        monkeypatch.setattr(fleet, "_LOOK_S", 1.0)
        mac.agent.drain()
    assert outcomes() == [("interrupted", "mac"), ("completed", "box")]


def test_a_run_that_a_node_refuses_waits_for_another(tmp_path, lab, monkeypatch):
    """It is no fault of the run, and that node is asked no more for a while."""
    refuses = lab.add("mac")
    refuses.agent.drain()
    refuses.says = {"slots": ("0",)}
    submit(tmp_path, planned("a"), retry=Retry(max=1))
    with lab.worker():
        eventually(lambda: [attempt.ended for attempt in attempts() if attempt.ended])
        lab.add("box")
    assert outcomes() == [("interrupted", "mac"), ("completed", "box")]
    assert "leaves the cluster" in attempts()[0].reason


def test_a_run_goes_on_on_the_kind_of_device_on_which_it_began(tmp_path, lab):
    """A checkpoint of a GPU is left to a GPU; that of a CPU goes on here, and new runs too."""
    lab.add("mac")
    submit(tmp_path, *(planned(name) for name in "abc"), retry=Retry(max=9))
    for name, device in (("a", "gpu (NVIDIA H100)"), ("b", "cpu")):
        folder = tmp_path / "out" / name / "checkpoint-1"
        folder.mkdir(parents=True)
        state = {"update": 1, "versions": {"device": device, "platform": "Linux-6"}}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    with Store.open() as store, store._db.write():
        store._db.execute("UPDATE runs SET attempt = 1 WHERE id < 3")
    words = "node mac does not go on with run 1 (a), which began on cuda, on cpu"
    with lab.worker():
        eventually(lambda: states()[1:] == ["completed"] * 2 and words in lab.text())
        with Store.open() as store:
            store.control.cancel([1])
    assert outcomes(1) == []


def test_runs_go_where_there_is_memory_for_them(tmp_path, lab):
    """By what the runs of their kind took; said once."""
    lab.add("small").says = {"memory_bytes": 2**30}
    submit(tmp_path, *(planned(name, batch_size=8) for name in "abc"))
    with Store.open() as store, store._db.write():
        store._db.execute(
            "UPDATE runs SET state = 'completed', metrics = '{\"peak_bytes\": 3000000000}'"
            " WHERE id = 1"
        )
    words = "node small gets no run like 2 (b): such runs took 3.0 GB, and a slot there has 1.1 GB"
    with lab.worker():
        eventually(lambda: words in lab.text())
        lab.add("large").says = {"memory_bytes": 2**33}
    assert {outcomes(n)[0] for n in (2, 3)} == {("completed", "large")}
    assert lab.text().count("node small gets no") == 1


@pytest.mark.slow
def test_a_real_run_that_is_given_away_is_the_run_that_was_left_alone(tmp_path, lab, monkeypatch):
    """Begun on one node, gone on with on another from the head's checkpoint: equal to the bit."""
    monkeypatch.setenv("GRPO_THREADS", "1")
    settings = {**FAST, "max_train_samples": 8, "save_steps": 1}
    mac = lab.add("mac", trainer=TRAINER)
    for name in ("cluster", "here"):
        (tmp_path / name).mkdir()
    submit(tmp_path / "cluster", planned("r", **settings), name="cluster")
    with lab.worker(away_s=0.3):
        eventually(lambda: list((tmp_path / "cluster/out/r").glob("checkpoint-*")))
        mac.is_cut = True
        lab.add("box", trainer=TRAINER)
    assert outcomes() == [("interrupted", "mac"), ("completed", "box")]
    assert attempts()[1].checkpoint > 0
    submit(tmp_path / "here", planned("r", **settings), name="here")
    # By its own folder: equal settings share a result otherwise.
    with Store.open() as store, store._db.write():
        store._db.execute("UPDATE runs SET identity = NULL, same_as = NULL")
    assert work(until_empty=True, trainer=TRAINER) == 0
    assert states() == ["completed"] * 2
    assert_equal_runs(tmp_path / "cluster/out/r", tmp_path / "here/out/r")
