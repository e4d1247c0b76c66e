"""An attack on a cluster of three nodes, and what is left of it: nothing lost, nothing doubled.

    python benchmarks/cluster_storm.py [--events 200] [--runs 30] [--seed 1] [--gap 1] [--real]

A scheduler, three nodes and the head's worker, each a process of its own, talk over TLS; each node
reaches the scheduler through a small proxy, and has another clock. At random moments somebody kills
trainers, a node's agent, a node with all that it trains, the scheduler or the head; suspends a
node, the scheduler or the head, as a machine that sleeps; cuts a node's connection, or lets it hang
as a cable that is pulled; fills a node's disk (imitated, under Linux only). What was killed comes
back after a moment, and a node that was away for too long finds that its run was given away. Then
the storm ends, the queue is worked off in peace, and every row, log, checkpoint and process is
looked at: each run is compared with one that was never disturbed. Exits 1 if anything is wrong. The
trainer is tests/fake_trainer.py, or with --real the embedded model.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks._storm_table import table
from orchestrator.cluster.keys import make_key
from orchestrator.errors import QueueBusy
from orchestrator.queue.store import Store
from orchestrator.run import Limits, Plan, PlannedRun, Retry
from orchestrator.system.paths import ENV_HOME
from orchestrator.worker.launcher import ENV_ATTEMPT, TRAINER
from tests.proxy_kit import Proxy

ROOT = Path(__file__).parents[1]
FAKE = (sys.executable, str(ROOT / "tests" / "fake_trainer.py"))
NODES = ("a", "b", "c")
PEACE_S = 1800.0
# A node that is away for longer loses its run; a call that is not answered for so long is given up.
AWAY_S, ANSWER_S = 4.0, 2.0
# Each node's clock is off by up to so much.
CLOCK_S = 5 * 86_400.0

FAKE_CONFIG = "seed = 1\n"
REAL = {
    **{"model_name": "builtin/tiny", "dataset": "builtin/arithmetic", "system_prompt": ""},
    **{"assistant_prefix": "", "quantize_for_rollouts": False, "lora_rank": 4},
    **{"max_train_samples": 32, "num_epochs": 1, "batch_size": 2, "num_generations": 4},
    **{"gradient_accumulation_steps": 1, "max_new_tokens": 16, "temperature": 1.0},
    **{"save_steps": 2, "eval_steps": 8, "eval_samples": 2, "eval_every_updates": 0},
}

NODE = """
import sys, time

off, folder, name, address, key, *trainer = sys.argv[1:]
really = time.time
# Before anything else is loaded: it is one clock for all.
time.time = lambda: really() + float(off)

import asyncio, functools
from datetime import datetime
from pathlib import Path
from grpo_core.run.surroundings import settle_streams
from orchestrator.cluster import agent as agents
from orchestrator.cluster.address import Address
from orchestrator.cluster.agent import Agent
from orchestrator.cluster.engine import set_up
from orchestrator.cluster.hardware import Hardware
from orchestrator.cluster.joining import Membership, serve
from orchestrator.cluster.keys import read_key
from orchestrator.worker.slots import Slot

class Shifted(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.fromtimestamp(time.time(), tz)

agents.datetime = Shifted
settle_streams()
say = functools.partial(print, file=sys.stderr)
folder = Path(folder)
with Agent(folder, name, (Slot(),), trainer, hardware=Hardware("cpu", 2**34), say=say) as agent:
    set_up(folder / "engine.log")
    member = Membership(Address.parse(address), read_key(Path(key)), agent, folder / "e", say)
    asyncio.run(serve(member, agent, say))
"""

HUB = """
import asyncio, sys
from pathlib import Path
from orchestrator.cluster.address import Address
from orchestrator.cluster.engine import set_up
from orchestrator.cluster.hub import serve
from orchestrator.cluster.keys import read_key

address, key = sys.argv[1:]
set_up(Path(key).with_name("engine.log"))
asyncio.run(serve(Address.parse(address), read_key(Path(key)), lambda: None))
"""

HEAD = """
import sys
from pathlib import Path
from orchestrator.cluster import reach
from orchestrator.cluster.address import Address
from orchestrator.cluster.engine import set_up
from orchestrator.cluster.keys import read_key
from orchestrator.worker.nodes import Cluster
from orchestrator.worker.worker import work

address, key, away_s, answer_s, until = sys.argv[1:]
reach.RemoteNode._ask.__kwdefaults__["within_s"] = float(answer_s)
set_up()

def show(event):
    print(event.kind, event.run and event.run.id, event.text, flush=True)

with reach.ClusterNodes(Address.parse(address), read_key(Path(key))) as nodes:
    cluster = Cluster(nodes, away_s=float(away_s))
    sys.exit(work(until_empty=until == "until-empty", cluster=cluster, on_event=show))
"""


class Member:
    """One of the processes: it can be started again, killed, and suspended."""

    def __init__(self, argv, log, env):
        self._argv = argv
        # Through a pipe: what it says is heard though its disk be full.
        with open(log, "ab") as file:
            self._log = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
        self._env = env
        self._killed = False
        self.process = None
        self.ended = []

    @property
    def lives(self):
        """Whether it runs, or is suspended."""
        return self.process is not None and self.process.poll() is None

    def start(self):
        """Unless it lives."""
        if not self.lives:
            self.look()
            self._killed = False
            self.process = subprocess.Popen(
                self._argv, stdout=self._log.stdin, stderr=self._log.stdin, env=self._env,
                start_new_session=True,
            )  # fmt: skip

    def look(self):
        """Note where it has ended though nobody killed it."""
        if self.process is not None and not self.lives and not self._killed:
            self.ended.append(self.process.returncode)
            self._killed = True

    def signal(self, number):
        """Nothing where it is dead."""
        if self.lives:
            self.process.send_signal(number)

    def kill(self):
        """As kill -9 does."""
        if self.lives:
            self._killed = True
            self.process.kill()
            self.process.wait()

    def close(self):
        """End it, and what keeps its log."""
        self.kill()
        self._log.stdin.close()
        self._log.wait()


class ClusterStorm:
    """A cluster in a folder of its own, its runs, and what is done to it."""

    def __init__(self, folder, seed=1, runs=30, real=False, updates=120, update_s=0.05):
        self.folder = folder
        self.real = real
        self.updates = updates
        self.update_s = update_s
        self.draw = random.Random(seed)
        self.counts = Counter()
        self.later = []
        self.home = folder / "home"
        self.project = folder / "project"
        self.project.mkdir()
        self.home.mkdir()
        self.key = self.home / "key.pem"
        make_key(self.key)
        self.trainer = TRAINER if real else FAKE
        self.planned = tuple(self.run(i) for i in range(runs))
        with self.store() as store:
            store.submissions.add_sweep("storm", lambda name: self.plan(name))
        port = free_port()
        self.hub = Member(
            [sys.executable, "-c", HUB, f"127.0.0.1:{port}", str(self.key)],
            folder / "hub.log", self.env("hub"),
        )  # fmt: skip
        self.opened = contextlib.ExitStack()
        self.proxies = {name: self.opened.enter_context(Proxy(port)) for name in NODES}
        self.nodes = {name: self.node(name) for name in NODES}
        self.head = self.head_until("stopped", port)
        self.calm_head = self.head_until("until-empty", port)

    # --- what there is

    def run(self, i):
        """The i-th run: another seed, rate or gain than the others."""
        values = {"seed": i}
        values |= {"learning_rate": 1e-3 * (1 + i % 3)} if self.real else {"gain": i}
        return PlannedRun(f"r{i}", i, values, tuple(self.words(i, values)), f"out/r{i}")

    def words(self, i, values):
        """What its trainer is told."""
        yield from (f"{key}={value}" for key, value in values.items())
        yield from (f"output_dir=out/r{i}", f"run_name=r{i}")
        if not self.real:
            yield from (f"updates={self.updates}", f"update_s={self.update_s}", "save_steps=5")

    def plan(self, name):
        """The sweep: tried as often as need be."""
        config = "".join(f"{key} = {json.dumps(value)}\n" for key, value in REAL.items())
        return Plan(
            name, config if self.real else FAKE_CONFIG, "storm.toml", "", str(self.project),
            self.planned, retry=Retry(max=1000), limits=Limits(max_failures=0),
        )  # fmt: skip

    def store(self):
        """The queue, for a moment."""
        return Store.open(self.home / "queue.db", timeout_s=60.0)

    def env(self, name):
        """Each has a home and a GPU of its own."""
        own = {ENV_HOME: str(self.folder / f"home-{name}"), "GRPO_DEVICE": "cpu"}
        own |= {"GRPO_GPU_LOCK": str(self.folder / f"gpu-{name}.lock"), "GRPO_THREADS": "1"}
        return {**os.environ, **own}

    def node(self, name):
        """A node behind its proxy."""
        address = f"127.0.0.1:{self.proxies[name].port}"
        off = str(self.draw.uniform(-CLOCK_S, CLOCK_S))
        folder = str(self.folder / f"node-{name}")
        words = [off, folder, name, address, str(self.key), *self.trainer]
        argv = [sys.executable, "-c", NODE, *words]
        return Member(argv, self.folder / f"{name}.log", self.env(name))

    def head_until(self, until, port):
        """The worker of the queue."""
        words = (f"127.0.0.1:{port}", str(self.key), str(AWAY_S), str(ANSWER_S), until)
        env = {**self.env("head"), ENV_HOME: str(self.home)}
        return Member([sys.executable, "-c", HEAD, *words], self.folder / "head.log", env)

    def trainers(self, name=""):
        """Every process of a node's attempts; without a name of all nodes."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (
                    process.environ()
                    .get(ENV_ATTEMPT, "")
                    .startswith(str(self.folder / f"node-{name}"))
                ):
                    found.append(process)
        return found

    # --- attacks; each says what mends it, and after how long

    def rage(self, events, gap_s=1.0):
        """One attack after another, until there were so many, or nothing is left to do."""
        for member in (self.hub, *self.nodes.values(), self.head):
            member.start()
        attacks = (
            *(self.kill_trainer, self.kill_trainer, self.kill_trainer, self.kill_trainer),
            *(self.kill_agent, self.kill_agent, self.kill_agent, self.kill_node, self.kill_node),
            *(self.sleep_node, self.sleep_node, self.cut, self.cut, self.hang),
            *((self.fill_node,) if sys.platform == "linux" else ()),
            *(self.kill_scheduler, self.kill_head, self.sleep_scheduler, self.sleep_head),
        )
        for _ in range(events):
            self.pass_time(self.draw.uniform(0.1, 2 * gap_s))
            attack = self.draw.choice(attacks)
            mend, after_s = attack()
            self.later.append((time.monotonic() + after_s, mend))
            self.counts[attack.__name__] += 1
            if self.is_over():
                return

    def is_over(self):
        """Whether nothing is left to do; a head that sleeps may hold the queue till it wakes."""
        with (
            contextlib.suppress(QueueBusy),
            Store.open(self.home / "queue.db", timeout_s=0.5) as store,
        ):
            return not store.queries.runs(states=["queued", "running", "paused"], limit=1)
        return False

    def pass_time(self, wait_s):
        """Mend what is due meanwhile."""
        until = time.monotonic() + wait_s
        while (now := time.monotonic()) < until:
            due = [mend for at, mend in self.later if at <= now]
            self.later = [(at, mend) for at, mend in self.later if at > now]
            for mend in due:
                mend()
            time.sleep(0.02)

    def some_node(self):
        """A name."""
        return self.draw.choice(NODES)

    def soon(self):
        """Within the patience of the head."""
        return self.draw.uniform(0.0, 2.0)

    def late(self):
        """Mostly within its patience, now and then not."""
        return self.draw.choice((self.soon(), self.soon(), self.draw.uniform(5.0, 9.0)))

    def kill_trainer(self):
        """As the system does where memory is short."""
        for process in self.trainers(self.some_node()):
            with contextlib.suppress(psutil.Error):
                process.kill()
        return (lambda: None), 0.0

    def kill_agent(self):
        """Its trainers live on."""
        node = self.nodes[self.some_node()]
        node.kill()
        return node.start, self.late()

    def kill_node(self):
        """As a power cut: the agent and all that it trains."""
        name = self.some_node()
        self.nodes[name].kill()
        for process in self.trainers(name):
            with contextlib.suppress(psutil.Error):
                process.kill()
        return self.nodes[name].start, self.late()

    def kill_scheduler(self):
        """The nodes are still there, and nobody can reach them."""
        self.hub.kill()
        return self.hub.start, self.late()

    def kill_head(self):
        """Trainers and nodes know nothing of it."""
        self.head.kill()
        return self.head.start, self.soon()

    def sleep_node(self):
        """As a laptop that is closed: everything on it stands still."""
        name = self.some_node()
        processes = [*self.trainers(name)]
        self.nodes[name].signal(signal.SIGSTOP)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.suspend()

        def wake():
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.resume()
            self.nodes[name].signal(signal.SIGCONT)

        return wake, self.late()

    def sleep_scheduler(self):
        """Connections stay open, and nobody answers."""
        self.hub.signal(signal.SIGSTOP)
        return (lambda: self.hub.signal(signal.SIGCONT)), self.late()

    def sleep_head(self):
        """What happens meanwhile it finds afterwards."""
        self.head.signal(signal.SIGSTOP)
        return (lambda: self.head.signal(signal.SIGCONT)), self.late()

    def cut(self):
        """A connection ends, and comes back."""
        proxy = self.proxies[self.some_node()]
        proxy.cut()
        return proxy.mend, self.late()

    def hang(self):
        """A cable is pulled, and plugged in."""
        proxy = self.proxies[self.some_node()]
        proxy.freeze()
        return proxy.mend, self.late()

    def fill_node(self):
        """As a disk that takes no more, for whatever starts there as well."""
        import resource

        node, limit = self.nodes[self.some_node()], resource.RLIMIT_FSIZE
        if not node.lives:
            return (lambda: None), 0.0
        process = node.process
        hard = resource.prlimit(process.pid, limit)[1]
        resource.prlimit(process.pid, limit, (64, hard))

        def empty():
            if process.poll() is None:
                resource.prlimit(process.pid, limit, (hard, hard))

        return empty, self.late()

    # --- afterwards

    def calm(self):
        """Mend everything, and work off what is left."""
        for _, mend in self.later:
            mend()
        self.later = []
        self.head.look()
        for member in (self.hub, *self.nodes.values()):
            member.start()
        self.head.kill()
        self.calm_head.start()
        self.calm_head.process.wait(PEACE_S)
        # A node that was away hears last that nobody wants what it holds.
        until = time.monotonic() + 60
        while self.held() and time.monotonic() < until:
            time.sleep(0.1)

    def held(self):
        """The folders of attempts that nodes still hold."""
        return [str(path) for path in self.folder.glob("node-*/attempts/*")]

    def close(self):
        """End all processes."""
        for member in (self.head, self.calm_head, self.hub, *self.nodes.values()):
            member.close()
        for process in self.trainers():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.opened.close()

    def undisturbed(self, run):
        """The folder of a run that nobody disturbed, trained here."""
        calm = self.folder / "calm"
        calm.mkdir(exist_ok=True)
        config = calm / "base.toml"
        config.write_text(self.plan("calm").config_text)
        quick = [] if self.real else ["update_s=0"]
        sets = [word for item in (*run.set, *quick) for word in ("--set", item)]
        argv = [*self.trainer, "--config", str(config), *sets, "--strict"]
        subprocess.run(argv, cwd=calm, env=self.env("calm"), check=True, capture_output=True)
        return calm / run.output_dir

    def faults(self):
        """Everything that is not as it must be."""
        if self.calm_head.process.poll() != 0:
            yield f"the head ended with {self.calm_head.process.poll()}"
        for name, member in (("hub", self.hub), ("head", self.head), *self.nodes.items()):
            member.look()
            if member.ended:
                yield f"{name} ended by itself, with {member.ended}"
        if left := self.trainers():
            yield f"{len(left)} processes are left: {[p.pid for p in left]}"
        if held := self.held():
            yield f"nodes still hold {held}"
        with self.store() as store:
            if damage := store.queries.damage():
                yield f"the database: {damage}"
            runs = store.queries.runs()
            made = {run.id: store.queries.attempts(run.id) for run in runs}
        self.outcomes = Counter(attempt.outcome for of in made.values() for attempt in of)
        self.moved = sum(len({a.node for a in of}) > 1 for of in made.values())
        self.causes = Counter((a.outcome, a.reason) for of in made.values() for a in of)
        for run in runs:
            yield from (f"run {run.id}: {fault}" for fault in self._faults_of(run, made[run.id]))

    def _faults_of(self, run, attempts):
        if run.state != "completed":
            yield f"{run.state}: {run.reason}"
            return
        if [a.n for a in attempts] != list(range(1, len(attempts) + 1)):
            yield "an attempt is missing"
        if any(a.ended is None for a in attempts):
            yield "an attempt has no end"
        if [a.outcome for a in attempts].count("completed") != 1:
            yield "not completed just once"
        if any(a.exit_code == 99 for a in attempts):
            yield "two trainers held the GPU of a node"
        ours, theirs = run.folder, self.undisturbed(run)
        if log_of(ours) != log_of(theirs):
            yield f"its log is not that of an undisturbed run: {ours}"
        if samples_of(ours) != samples_of(theirs):
            yield f"its samples are not those of an undisturbed run: {ours}"
        if weights_of(ours) != weights_of(theirs):
            yield f"its weights are not those of an undisturbed run: {ours}"


def free_port():
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def log_of(folder):
    """The lines of the training log, without times and memory."""
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not measures(key)}
        for line in lines
    ]


def measures(key):
    """Whether a value is one of time or memory."""
    return key.endswith(("_s", "_bytes"))


def samples_of(folder):
    """What was sampled; None where the trainer keeps none."""
    path = folder / "samples.jsonl"
    return path.read_text() if path.exists() else None


def weights_of(folder):
    """The sums of the weights at the end: the last checkpoint's, or the trained model's."""
    final = folder / "final"
    if not final.exists():
        checkpoints = folder.glob("checkpoint-*")
        final = max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]))
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(final.iterdir())
    } | {"": final.name}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gap", type=float, default=1.0, help="seconds from event to event")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--keep", action="store_true", help="leave the folder to be looked at")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cluster-storm-")).resolve()
    storm = ClusterStorm(folder, args.seed, args.runs, args.real, args.updates)
    began = time.monotonic()
    try:
        storm.rage(args.events, args.gap)
        raged_s = time.monotonic() - began
        storm.calm()
        took_s = time.monotonic() - began
        faults = list(storm.faults())
    finally:
        storm.close()
    if args.keep or faults:
        print(f"left: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    figures = {
        **{"seed": args.seed, "runs": args.runs, "real": args.real},
        **{"storm_s": round(raged_s, 1), "all_s": round(took_s, 1), "moved": storm.moved},
        **{"events": dict(sorted(storm.counts.items())), "attempts": dict(storm.outcomes)},
        **{"faults": faults},
    }
    print(json.dumps(figures) if args.json else shown(figures))
    if args.keep:
        for (outcome, reason), n in storm.causes.most_common():
            print(f"{n:4} {outcome}: {reason}")
    return 1 if faults else 0


def shown(figures):
    """The figures as Markdown."""
    first = (
        f"seed {figures['seed']}, {figures['runs']} runs, {sum(figures['events'].values())} events"
        f" in {figures['storm_s']:.0f} s, all done after {figures['all_s']:.0f} s; "
        f"{figures['moved']} runs changed their node"
    )
    counted = {"event": figures["events"], "attempts ended": figures["attempts"]}
    return table(first, counted, figures["faults"])


if __name__ == "__main__":
    sys.exit(main())
