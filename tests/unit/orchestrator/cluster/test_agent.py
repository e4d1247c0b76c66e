"""A node in this process, with real trainers: orders, files, refusals, adoption."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pytest

from grpo_core.run.atomic import write_json
from orchestrator.cluster import agent as agent_module
from orchestrator.cluster import attempt_here
from orchestrator.errors import QueueError, WorkerBusy
from orchestrator.worker.nodes import ATTEMPT_LOG, Held, NodeRefused, Wish
from orchestrator.worker.slots import Slot
from tests.agent_kit import HARDWARE, an_agent, an_input, an_order, ended, fetched, put
from tests.queue_kit import eventually, is_alive

TOKEN = "token-of-attempt-1"
LONG = ("updates=10000", "update_s=0.02")


@pytest.fixture
def started():
    """Agents to be closed at the end, and the trainers of all that they still hold."""
    agents = []
    yield agents.append
    for agent in agents:
        for held in agent.held():
            agent.forget(held.token)
        agent.close()


@pytest.fixture
def agent(tmp_path, started):
    """A node with one slot and the fake trainer."""
    agent = an_agent(tmp_path / "node")
    started(agent)
    return agent


def updates(log):
    """The updates that a training log holds."""
    rows = [json.loads(line) for line in log.decode().splitlines()]
    return [row["update"] for row in rows if "split" not in row]


def test_an_order_is_trained_and_every_file_can_be_fetched(agent):
    """Result, logs and checkpoints, each with its sum; nothing of ours among them."""
    agent.start(an_order("updates=3"))
    report = ended(agent)
    assert (report.exit_code, report.signal, report.waits) == (0, None, None)
    files = fetched(agent, TOKEN, report)
    assert {state.path for state in report.files} == {
        *(ATTEMPT_LOG, "training_log.jsonl", "result.json", "starts"),
        *(f"checkpoint-{n}/{name}" for n in (1, 2, 3) for name in CHECKPOINT),
    }
    for state in report.files:
        assert state.whole
        assert hashlib.sha256(files[state.path]).hexdigest() == state.sha256
    assert updates(files["training_log.jsonl"]) == [1, 2, 3]
    assert json.loads(files["result.json"])["status"] == "completed"
    assert files[ATTEMPT_LOG].startswith(b"== attempt 1 of run q/1: ")


CHECKPOINT = ("trainer_state.json", "manifest.json")


def test_a_log_grows_and_a_checkpoint_is_there_whole(agent):
    """While it trains: what was read before is the beginning of what is read later."""
    agent.start(an_order(*LONG))
    first = eventually(lambda: named(agent.look(TOKEN), "checkpoint-2/manifest.json"))
    assert first.whole
    log = named(agent.look(TOKEN), "training_log.jsonl")
    before = agent.read(TOKEN, log.path, 0, log.size)
    later = eventually(lambda: longer(named(agent.look(TOKEN), log.path), log))
    assert not later.whole and later.sha256 is None and later.version == log.version
    assert agent.read(TOKEN, log.path, 0, later.size).startswith(before)
    report = agent.look(TOKEN)
    assert report.running and report.pid and report.age_s > 0 and report.quiet_s < 5


def named(report, path):
    """The state of a file that is there."""
    return next((state for state in report.files if state.path == path), None)


def longer(state, than):
    """The state, if the file has grown."""
    return state if state.size > than.size else None


def test_the_names_of_a_configuration_lead_to_what_the_head_has_there(tmp_path, started):
    """Relative, above the working folder, absolute, in the user's own folder."""
    names = ("data/a.jsonl", "../shared/b.jsonl", "/data/c.jsonl", "~/d.jsonl")
    agent = an_agent(tmp_path / "node", trainer=(sys.executable, "-c", _READ))
    started(agent)
    files = tuple(put(agent, name, name.encode()) for name in names)
    agent.start(an_order(*names, inputs=files))
    report = ended(agent)
    assert fetched(agent, TOKEN, report)[ATTEMPT_LOG].decode().splitlines()[-4:] == [*names]


_READ = """
import sys
from grpo_core.config import named_path
for name in sys.argv[4:-3:2]:
    print(named_path(name).read_text())
"""


def test_a_reward_finds_what_the_head_has_on_pythons_path(tmp_path, started):
    """Its folder lies elsewhere here."""
    code = "import mylib; print(mylib.X)"
    agent = an_agent(tmp_path / "node", trainer=(sys.executable, "-P", "-c", code))
    started(agent)
    file = put(agent, "/opt/lib/mylib.py", b"X = 'found'\n")
    agent.start(an_order(inputs=(file,), python_path=("/opt/lib",)))
    assert fetched(agent, TOKEN, ended(agent))[ATTEMPT_LOG].endswith(b"\nfound\n")


def test_an_attempt_goes_on_from_the_files_of_the_head(agent):
    """Its checkpoint and its log, which is cut there: no update twice, none missing."""
    state = b'{"update": 2}'
    sums = {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}
    manifest = json.dumps({"files": {"trainer_state.json": sums}}).encode()
    log = b"".join(b'{"update": %d}\n' % n for n in (1, 2, 3)) + b'{"upd'
    files = (
        put(agent, "checkpoint-2/trainer_state.json", state),
        put(agent, "checkpoint-2/manifest.json", manifest),
        put(agent, "training_log.jsonl", log),
    )
    agent.start(an_order("updates=4", n=2, files=files))
    got = fetched(agent, TOKEN, ended(agent))
    assert updates(got["training_log.jsonl"]) == [1, 2, 3, 4]
    assert got["checkpoint-2/trainer_state.json"] == state
    # What only this run goes on from is not kept for others.
    assert agent.lacks(files) == list(files)


def test_a_second_order_for_the_same_attempt_changes_nothing(agent):
    """The head did not hear the first answer."""
    order = an_order("updates=2")
    agent.start(order)
    report = ended(agent)
    agent.start(order)
    assert fetched(agent, TOKEN, agent.look(TOKEN))["starts"].count(b"\n") == 1
    assert agent.look(TOKEN) == report


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (an_order(token="other-token", run="q/2"), "attempt 2 of run q/1 still runs in slot 0"),
        (an_order(token="other-token", n=3, slot="1"), "attempt 2 of run q/1 still runs in slot 0"),
        (an_order(token="other-token", n=1, slot="1"), "attempt 1 is an older one"),
        (an_order(token="other-token", run="q/2", slot="7"), r"no slot 7; it has \['0', '1'\]"),
        (an_order(token="../../x"), "no token of an attempt"),
        (
            an_order(token="other-token", run="q/2", slot="1", inputs=(an_input("a", b"abc"),)),
            "lacks a, 1 in all",
        ),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(tmp_path, started, order, words):
    """It says why, and what is there trains on."""
    agent = an_agent(tmp_path / "node", slots=(Slot("0"), Slot("1")))
    started(agent)
    agent.start(an_order(*LONG, n=2))
    with pytest.raises(NodeRefused, match=words):
        agent.start(order)
    assert agent.held() == [Held(TOKEN, "q/1", 2, "0", True)]


def test_a_trainer_that_cannot_be_started_leaves_nothing(tmp_path, started):
    """No process, no folder; the slot is free."""
    agent = an_agent(tmp_path / "node", trainer=("/no/such/python",))
    started(agent)
    with pytest.raises(NodeRefused, match="no trainer can be started: No such file"):
        agent.start(an_order())
    assert agent.held() == []
    assert list((tmp_path / "node/attempts").iterdir()) == []


@pytest.mark.parametrize("at", ["try_lock", "AttemptHere.tend"])
def test_a_start_that_fails_at_a_lock_leaves_no_trainer(tmp_path, agent, monkeypatch, at):
    """One that nobody holds could not be ended by anybody."""

    def fails(*_):
        raise QueueError("run.lock: Stale file handle")

    pids = []
    spawn = attempt_here.spawn

    def noting(*words):
        pids.append(spawn(*words))
        return pids[-1]

    with monkeypatch.context() as patched:
        patched.setattr(attempt_here, "spawn", noting)
        patched.setattr(f"orchestrator.cluster.attempt_here.{at}", fails)
        with pytest.raises(NodeRefused, match=r"no trainer can be started: run\.lock"):
            agent.start(an_order(*LONG))
    assert agent.held() == []
    assert list((tmp_path / "node/attempts").iterdir()) == []
    assert not any(is_alive(process.pid) for process in pids)


def test_a_node_that_leaves_while_a_start_goes_on_ends_that_too(agent, monkeypatch):
    """It would train to its end, and the node wait for it."""
    laying, go_on = threading.Event(), threading.Event()
    lay = agent_module.make_place

    def slow(*words):
        laying.set()
        go_on.wait(30)
        lay(*words)

    monkeypatch.setattr(agent_module, "make_place", slow)
    starting = threading.Thread(target=agent.start, args=(an_order(*LONG),))
    leaving = threading.Thread(target=agent.drain)
    starting.start()
    laying.wait(30)
    leaving.start()
    eventually(lambda: agent.facts().slots == ())
    go_on.set()
    starting.join(30)
    leaving.join(30)
    assert not ended(agent).running


@pytest.mark.parametrize(
    ("wish", "words", "code", "number"),
    [
        (Wish.INTERRUPT, (), 75, None),
        (Wish.TERMINATE, (), 75, None),
        (Wish.KILL, ("deaf=true",), None, signal.SIGKILL),
    ],
)
def test_a_trainer_ends_as_the_head_wishes(agent, wish, words, code, number):
    """Twice is once."""
    agent.start(an_order(*LONG, *words))
    eventually(lambda: named(agent.look(TOKEN), "checkpoint-1/manifest.json"))
    agent.ask(TOKEN, wish)
    report = ended(agent)
    agent.ask(TOKEN, wish)
    assert (report.exit_code, report.signal) == (code, number)


def test_what_is_forgotten_is_gone_with_its_processes(agent, tmp_path):
    """Trainer, child, files; a second time it is nothing."""
    agent.start(an_order(*LONG, "child=away"))
    eventually(lambda: named(agent.look(TOKEN), "checkpoint-1/manifest.json"))
    report = agent.look(TOKEN)
    child = int(agent.read(TOKEN, "child", 0, 100))
    agent.forget(TOKEN)
    agent.forget(TOKEN)
    assert not is_alive(report.pid)
    eventually(lambda: not is_alive(child))
    assert list((tmp_path / "node/attempts").iterdir()) == []
    with pytest.raises(NodeRefused, match="knows of no such attempt"):
        agent.look(TOKEN)


@pytest.mark.parametrize("path", ["../order.json", "/etc/passwd", "a/../../order.json", "no.file"])
def test_nothing_but_the_files_of_an_attempt_can_be_read(agent, path):
    """By whatever path."""
    agent.start(an_order("updates=1"))
    ended(agent)
    with pytest.raises(NodeRefused, match=r"no file of an attempt|cannot be read"):
        agent.read(TOKEN, path, 0, 10)


def test_another_agent_does_not_take_the_folder(agent, tmp_path):
    """Two would start a run twice."""
    with pytest.raises(WorkerBusy, match="another node of this name"):
        an_agent(tmp_path / "node")
    assert agent.facts().slots == ("0",)


def test_the_folder_is_the_owners_alone(agent, tmp_path):
    """Prompts, rewards and tokens lie there."""
    assert (tmp_path / "node").stat().st_mode & 0o077 == 0


def test_a_node_that_leaves_lets_its_trainers_checkpoint(agent):
    """It takes nothing more, and holds the files until the head has them."""
    agent.start(an_order(*LONG))
    eventually(lambda: named(agent.look(TOKEN), "checkpoint-1/manifest.json"))
    agent.drain()
    assert ended(agent).exit_code == 75
    assert agent.facts().slots == ()
    assert [held.token for held in agent.held()] == [TOKEN]
    with pytest.raises(NodeRefused, match="takes no run now"):
        agent.start(an_order(token="other-token", run="q/2"))
    agent.offer()
    assert agent.facts().slots == ("0",)
    agent.start(an_order(token="other-token", run="q/2"))
    assert ended(agent, "other-token").exit_code == 0


def test_a_checkpoint_that_the_head_reads_outlives_its_removal(agent, tmp_path):
    """A trainer that keeps only the newest one is faster than a slow network."""
    agent.start(an_order(*LONG))
    eventually(lambda: named(agent.look(TOKEN), "checkpoint-3/manifest.json"))
    agent.ask(TOKEN, Wish.INTERRUPT)
    report = ended(agent)
    newest = max((s.path for s in report.files if s.path.endswith("state.json")), key=number)
    whole = agent.read(TOKEN, newest, 0, 1000)
    output = next((tmp_path / "node/attempts").glob("*/files/home/someone/project/out/r"))
    shutil.rmtree(output / newest.partition("/")[0])
    assert agent.read(TOKEN, newest, 0, 1000) == whole


def number(path):
    """The update of a checkpoint's file."""
    return int(path.partition("/")[0].partition("-")[2])


def test_a_torn_checkpoint_is_not_told(agent, tmp_path):
    """A file of it is not what was written."""
    agent.start(an_order(*LONG))
    eventually(lambda: named(agent.look(TOKEN), "checkpoint-3/manifest.json"))
    output = next((tmp_path / "node/attempts").glob("*/files/home/someone/project/out/r"))
    torn = output / "checkpoint-900001"
    shutil.copytree(output / "checkpoint-3", torn)
    (torn / "trainer_state.json").write_text('{"update": 4}')
    agent.ask(TOKEN, Wish.INTERRUPT)
    assert named(ended(agent), "checkpoint-3/manifest.json")
    assert named(agent.look(TOKEN), "checkpoint-900001/manifest.json") is None


# --- an agent that dies


_NODE = """
import sys, time
from pathlib import Path
from tests.agent_kit import an_agent, an_order, put
agent = an_agent(Path(sys.argv[1]))
agent.start(an_order(*sys.argv[2:]))
print("started", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def killed_agent(folder, *words):
    """An agent in a process of its own that was killed after its trainer began; the trainer."""
    node = subprocess.Popen(
        [sys.executable, "-c", _NODE, str(folder), *words],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[4],
    )
    assert node.stdout.readline() == b"started\n"
    starts = eventually(lambda: next(folder.glob("attempts/*/files/**/starts"), None))
    pid = eventually(lambda: starts.read_text().strip())
    node.kill()
    node.wait()
    node.stdout.close()
    yield int(pid)


def test_a_trainer_lives_on_when_its_agent_is_killed_and_is_taken_over(tmp_path, started):
    """The next agent ends it as the head wishes; its exit code is in its result."""
    with killed_agent(tmp_path / "node", *LONG) as pid:
        assert is_alive(pid)
        agent = an_agent(tmp_path / "node")
        started(agent)
        assert agent.held() == [Held(TOKEN, "q/1", 1, "0", True)]
        assert agent.look(TOKEN).pid == pid
        with pytest.raises(NodeRefused, match="still runs"):
            agent.start(an_order(token="other-token", n=2))
        agent.ask(TOKEN, Wish.INTERRUPT)
        report = ended(agent)
    assert (report.exit_code, report.signal) == (None, None)
    files = fetched(agent, TOKEN, report)
    assert json.loads(files["result.json"])["exit_code"] == 75
    assert files["starts"].split() == [str(pid).encode()]


def test_an_agent_without_its_note_of_the_process_finds_it_by_what_it_carries(tmp_path, started):
    """It died between the start and the note."""
    with killed_agent(tmp_path / "node", *LONG) as pid:
        next((tmp_path / "node").glob("attempts/*/process.json")).unlink()
        agent = an_agent(tmp_path / "node")
        started(agent)
        assert agent.look(TOKEN).pid == pid
        agent.forget(TOKEN)
        eventually(lambda: not is_alive(pid))


def test_what_ended_while_no_agent_was_there_is_told(tmp_path, started):
    """Nobody collected how; every file is there."""
    with killed_agent(tmp_path / "node", "updates=100000", "update_s=0.01") as pid:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not is_alive(pid))
        agent = an_agent(tmp_path / "node")
        started(agent)
        report = ended(agent)
    assert (report.exit_code, report.signal) == (None, None)
    assert b'"exit_code": 75' in fetched(agent, TOKEN, report)["result.json"]


def test_a_full_disk_keeps_no_agent_from_what_it_holds(tmp_path, started, monkeypatch):
    """It says so once, tells how the attempt ended, and notes it when there is room again."""
    said, room = [], []

    def write(path, document):
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_json(path, document)

    with killed_agent(tmp_path / "node", *LONG) as pid:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not is_alive(pid))
        monkeypatch.setattr("orchestrator.cluster.attempt_here.write_json", write)
        agent = an_agent(tmp_path / "node", say=said.append)
        started(agent)
        assert not ended(agent).running
    assert said == ["attempt 1 of run q/1: [Errno 28] No space left on device"]
    room.append(True)
    eventually(lambda: list((tmp_path / "node").glob("attempts/*/ended.json")))


def test_an_error_that_nobody_thought_of_ends_no_look_at_the_others(tmp_path, monkeypatch):
    """It is said once, and how the attempt ended is told as soon as it is gone."""
    said, good = [], []
    tend = attempt_here.AttemptHere.tend

    def fails(attempt):
        if not good:
            raise ValueError("nobody thought of it")
        tend(attempt)

    with an_agent(tmp_path / "node", say=said.append) as agent:
        agent.start(an_order())
        monkeypatch.setattr(attempt_here.AttemptHere, "tend", fails)
        eventually(lambda: said)
        good.append(True)
        assert not ended(agent).running
    assert said == ["attempt 1 of run q/1: ValueError: nobody thought of it"]


def test_how_it_ended_outlives_the_agent(tmp_path, started):
    """A code that was collected is told by the next agent as well."""
    first = an_agent(tmp_path / "node")
    first.start(an_order("updates=2", "die=2:9"))
    before = ended(first)
    eventually(lambda: list((tmp_path / "node").glob("attempts/*/ended.json")))
    first.close()
    agent = an_agent(tmp_path / "node")
    started(agent)
    report = agent.look(TOKEN)
    assert (before.exit_code, report.exit_code, report.running) == (9, 9, False)
    assert report.files == before.files


@pytest.mark.parametrize(
    ("point", "starts"), [("node.laid", 0), ("node.spawned", 1), ("node.ended", 1)]
)
def test_an_agent_that_is_killed_anywhere_starts_nothing_twice(tmp_path, started, point, starts):
    """The head did not hear whether it was started, and asks again."""
    words = ("updates=20", "update_s=0.01")
    node = subprocess.run(
        [sys.executable, "-c", _NODE, str(tmp_path / "node"), *words],
        env={**os.environ, "GRPO_SWEEP_CRASH_AT": point},
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[4],
    )
    assert node.returncode == -signal.SIGKILL
    agent = an_agent(tmp_path / "node")
    started(agent)
    agent.start(an_order(*words))
    report = ended(agent)
    assert (report.exit_code, report.signal) == (None, None)
    files = fetched(agent, TOKEN, report)
    assert files.get("starts", b"").count(b"\n") == starts
    assert ("result.json" in files) == bool(starts)


def test_a_node_with_another_version_of_what_computes_refuses(agent):
    """Its numbers would be others."""
    agent.start(an_order("updates=1", packages={"mlx": version("mlx")}))
    ended(agent)
    for packages, words in (
        ({"mlx": "0.1"}, f"has mlx {version('mlx')}, not 0.1"),
        ({"no-such-package": "1"}, "lacks no-such-package"),
    ):
        with pytest.raises(NodeRefused, match=words):
            agent.start(an_order(token="other-token", run="q/2", packages=packages))


def test_an_order_that_was_never_begun_is_swept_away(tmp_path, started):
    """The agent died while it laid out the files."""
    half = tmp_path / "node/attempts/.grpo-tmp-token"
    half.mkdir(parents=True)
    agent = an_agent(tmp_path / "node")
    started(agent)
    assert agent.held() == [] and not half.exists()


def test_the_facts_are_those_of_this_machine(agent):
    """What the head compares with its own."""
    facts = agent.facts()
    assert (facts.name, facts.backend, facts.memory_bytes) == ("node", "cpu", HARDWARE.memory_bytes)
    assert facts.version and facts.mlx and facts.disk_free_bytes > 0
