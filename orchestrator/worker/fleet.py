"""The nodes of a cluster as one worker knows them: who is there, who fits, and what they hold.

Looked at about once a second by the worker's main thread; the slots ask what was found. A node that
is away keeps its slots: what trains there goes on. What a node still holds of this queue, and
nobody here waits for any more, it is told to forget.
"""

import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from grpo_core.run.protocol import package_versions
from orchestrator.errors import QueueBusy
from orchestrator.queue.store import Store
from orchestrator.run import stamp
from orchestrator.text import duration, size
from orchestrator.worker.events import Event, EventKind, Listener
from orchestrator.worker.nodes import (
    NODE_NAME,
    Cluster,
    Held,
    Node,
    NodeAway,
    NodeFacts,
    NodeRefused,
)
from orchestrator.worker.serving import NodeStatus
from orchestrator.worker.slots import MOST_SLOTS

_LOOK_S = 1.0
# A clock that is off by more is worth a line; nothing is decided by it.
_CLOCK_S = 120.0
# How long a node gets no run of a sweep after it has refused one; doubled each time.
_FIRST_S, _MOST_S = 10.0, 600.0
_RUN_ID = re.compile(r"[0-9]{1,19}")
# A device, or its id, as `nvidia-smi -L` lists it.
_SLOT = re.compile(r"[A-Za-z0-9][\w./:-]{0,127}")


@dataclass
class Member:
    """A node, and what is known of it."""

    name: str
    slots: tuple[str, ...] = ()
    """By their names on this machine, `NODE/SLOT`: all that it ever offered to this worker."""
    node: Node | None = None
    """While it is there."""
    facts: NodeFacts | None = None
    held: Sequence[Held] = ()
    offers: tuple[str, ...] = ()
    """Those of its slots that take runs now."""
    unfit: str | None = None
    """Why it gets no run, whatever it is."""
    away_since: str | None = None
    boot_id: str | None = None
    """That of which the queue was told."""
    said: set[object] = field(default_factory=set)


@dataclass
class _Refusals:
    wait_s: float
    until: float


class Fleet:
    """All nodes that this worker has seen, or whose runs another one has left."""

    def __init__(self, cluster: Cluster, listen: Listener) -> None:
        self.cluster = cluster
        self._listen = listen
        self._ours = package_versions(("grpo-sweep", "mlx"))
        self._members: dict[str, Member] = {}
        self._refusals: dict[tuple[str, int], _Refusals] = {}
        self._lock = threading.RLock()
        self._looked = float("-inf")
        self._none_said = False

    # --- the main thread

    def expect(self, slots: Sequence[str]) -> None:
        """Know the nodes of these slots, there or not: a worker before has left runs in them."""
        with self._lock:
            for slot in slots:
                member = self._member(slot.partition("/")[0])
                if slot not in member.slots:
                    member.slots += (slot,)

    def look(self, store: Store) -> bool:
        """See who is there, if it is time to; whether it was."""
        if time.monotonic() - self._looked < _LOOK_S:
            return False
        try:
            there = {node.name: node for node in self.cluster.nodes}
        except NodeAway as e:
            self._say_of_none(str(e))
            there = {}
        for name, node in there.items():
            if NODE_NAME.fullmatch(name):
                self._see(store, name, node)
        with self._lock:
            gone = [member for name, member in self._members.items() if name not in there]
        for member in gone:
            self._miss(member)
        if not any(member.offers for member in self.members()):
            self._say_of_none("no node is there that takes runs")
        else:
            self._none_said = False
        self._looked = time.monotonic()
        return True

    def members(self) -> list[Member]:
        """All of them, by name."""
        with self._lock:
            return [self._members[name] for name in sorted(self._members)]

    def offered(self) -> list[str]:
        """The slots that take runs now."""
        return [slot for member in self.members() for slot in member.offers]

    def statuses(self) -> list[NodeStatus]:
        """All nodes, as people are told of them."""
        return [
            NodeStatus(
                member.name,
                *((facts.host, facts.backend, facts.memory_bytes) if facts else ("", "", 0)),
                *(len(member.offers), member.away_since, member.unfit),
            )
            for member in self.members()
            for facts in [member.facts]
        ]

    def slots(self) -> list[str]:
        """Every slot that was ever offered, or in which a run was left."""
        return [slot for member in self.members() for slot in member.slots]

    # --- the slots

    def node(self, name: str) -> Node:
        """The node of that name; NodeAway."""
        with self._lock:
            node = self._member(name).node
        if node is None:
            raise NodeAway(f"node {name} is away")
        return node

    def facts(self, name: str) -> NodeFacts | None:
        """What it says of itself, as long as it is there."""
        with self._lock:
            member = self._member(name)
            return member.facts if member.node is not None else None

    def takes(self, slot: str) -> bool:
        """Whether a run may begin in a slot: it is offered, and nothing trains there."""
        name, _, own = slot.partition("/")
        with self._lock:
            member = self._member(name)
            busy = any(held.running and held.slot == own for held in member.held)
            return member.node is not None and slot in member.offers and not busy

    def forget(self, name: str, token: str) -> None:
        """Let a node forget an attempt; one that is away hears it when it comes back."""
        with suppress(NodeAway, NodeRefused):
            self.node(name).forget(token)
        with self._lock:
            member = self._member(name)
            member.held = [held for held in member.held if held.token != token]

    def note_refusal(self, name: str, sweep_id: int) -> None:
        """Give a node no run of a sweep for a while: it has refused one."""
        with self._lock:
            known = self._refusals.get((name, sweep_id))
            wait_s = _FIRST_S if known is None else min(2 * known.wait_s, _MOST_S)
            self._refusals[name, sweep_id] = _Refusals(wait_s, time.monotonic() + wait_s)

    def note_success(self, name: str, sweep_id: int) -> None:
        """A node has trained a run of a sweep: what it refused before says nothing any more."""
        with self._lock:
            self._refusals.pop((name, sweep_id), None)

    def doubt(self, name: str) -> None:
        """Give a node no run until it was looked at again: it may be about to leave."""
        with self._lock:
            self._member(name).offers = ()

    def refused(self, name: str) -> set[int]:
        """The sweeps of which a node gets no run just now."""
        now = time.monotonic()
        with self._lock:
            return {
                sweep_id
                for (node, sweep_id), known in self._refusals.items()
                if node == name and now < known.until
            }

    def say_once(self, name: str, words: str, about: object = None) -> None:
        """Say something of a node, unless that or something `about` the same was said before."""
        with self._lock:
            said = self._member(name).said
            new = (about or words) not in said
            said.add(about or words)
        if new:
            self._tell(words)

    # --- inside

    def _member(self, name: str) -> Member:
        return self._members.setdefault(name, Member(name))

    def _see(self, store: Store, name: str, node: Node) -> None:
        try:
            held = node.held()
            facts = node.facts()
        except NodeAway:
            with self._lock:
                self._miss(self._member(name))
            return
        except NodeRefused as e:
            self.say_once(name, str(e))
            return
        with self._lock:
            member = self._member(name)
            came = member.node is None
            member.node, member.facts, member.held = node, facts, held
            member.away_since = None
            member.unfit = self._unfit(facts)
            offers = () if member.unfit else tuple(f"{name}/{slot}" for slot in facts.slots)
            member.offers = offers
            member.slots += tuple(slot for slot in offers if slot not in member.slots)
        if came:
            self._greet(member, facts)
        with suppress(QueueBusy):
            # Read after what it holds: so none of them was claimed meanwhile.
            self._forget_unwanted(store, node, held)
            if member.boot_id != facts.boot_id:
                store.holds.node_started(name, facts.boot_id)
                member.boot_id = facts.boot_id

    def _miss(self, member: Member) -> None:
        with self._lock:
            if member.away_since is None:
                member.node = None
                member.offers, member.held = (), ()
                member.away_since = stamp(datetime.now(UTC))
                was_there = member.facts is not None
            else:
                return
        if was_there:
            self._tell(f"node {member.name} is away")

    def _forget_unwanted(self, store: Store, node: Node, held: Sequence[Held]) -> None:
        own = store.queries.queue_name()
        for each in held:
            queue, _, run_id = each.run.partition("/")
            if queue != own or not _RUN_ID.fullmatch(run_id):
                continue
            wanted = store.queries.is_wanted(int(run_id), each.n, each.token)
            if wanted is None:
                words = "trains for a copy of this queue: two workers serve what was one"
                self.say_once(node.name, f"node {node.name} {words}")
            elif not wanted:
                with suppress(NodeAway, NodeRefused):
                    node.forget(each.token)

    def _unfit(self, facts: NodeFacts) -> str | None:
        """Why a node gets no run at all."""
        if not _are_slots(facts.slots):
            return f"its slots have no plain names, each its own, or are more than {MOST_SLOTS}"
        for package, theirs in (("grpo-sweep", facts.version), ("mlx", facts.mlx)):
            ours = self._ours.get(package, "")
            if theirs != ours:
                return f"it has {package} {theirs or 'of no version'}, and here it is {ours}"
        return None

    def _greet(self, member: Member, facts: NodeFacts) -> None:
        name = member.name
        n = len(facts.slots)
        words = (
            f"node {name} is there: {n} {'slot' if n == 1 else 'slots'} on {facts.host},"
            f" {facts.backend}, {size(facts.memory_bytes)} for each"
        )
        self._tell(words if member.unfit is None else f"node {name} gets no run: {member.unfit}")
        off_s = _clock_off(facts.clock)
        if off_s is None or off_s > _CLOCK_S:
            by = "cannot be read" if off_s is None else f"is {duration(off_s)} off"
            self.say_once(name, f"node {name}: its clock {by}; nothing is decided by it")

    def _say_of_none(self, words: str) -> None:
        if not self._none_said:
            self._none_said = True
            self._tell(words)

    def _tell(self, words: str) -> None:
        self._listen(Event(EventKind.WAITING, words))


def _are_slots(names: Sequence[str]) -> bool:
    """Whether a node's slots may be called so: each costs a thread here, and is typed by people."""
    plain = all(map(_SLOT.fullmatch, names))
    return plain and len({*names}) == len(names) <= MOST_SLOTS


def _clock_off(clock: str) -> float | None:
    try:
        return abs((datetime.fromisoformat(clock) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
