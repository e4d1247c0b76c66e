"""`cancel`, `pause`, `resume`, `retry`, `move`, `wait`: changes of state, each one transaction."""

import time
from collections.abc import Callable, Sequence

import click

from orchestrator.cli.background import no_worker_hint, say_no_worker
from orchestrator.cli.output import say
from orchestrator.cli.references import Ref, find_all, only_sweep, open_queue
from orchestrator.errors import NothingAffected, UsageError
from orchestrator.queue.store import Store
from orchestrator.run import END_STATES, Run, RunState
from orchestrator.system.processes import boot_id
from orchestrator.worker.serving import serving_worker

_POLL_S = 0.2

_slot_option = click.option(
    "--slot",
    metavar="SLOT",
    help="A slot of the worker, or a whole node, as status names it; the others go on.",
)
_refs = click.argument("refs", nargs=-1, required=True, metavar="REF...", type=Ref(runs=True))
_some_refs = click.argument("refs", nargs=-1, metavar="[REF]...", type=Ref(runs=True))
_REF_HELP = (
    "REF is a run's id or name, a range such as 3-7, a sweep's name, or @ for the latest sweep."
)


@click.command(epilog=_REF_HELP)
@_refs
def cancel(refs: tuple[str, ...]) -> None:
    """Give runs up: waiting ones at once, a running one as soon as it has checkpointed.

    `retry` takes it back: a run goes on from its newest checkpoint.

    \b
    Examples:
      grpo-sweep cancel 12 3-7
      grpo-sweep cancel lr
    """
    with open_queue() as store:
        ended = [name for ref in refs if (name := _end_search(store, ref))]
        try:
            changed = store.control.cancel(_ids(find_all(store, refs)))
        except NothingAffected:
            if not ended:
                raise
            changed = []
    for name in ended:
        say(f"sweep {name}: no further settings are tried")
    _tell("cancelled", changed)
    if changed:
        say(f"to take it back: grpo-sweep retry {' '.join(refs)}")
    _settle(changed)


def _end_search(store: Store, ref: str) -> str | None:
    """The name of the sweep that is meant, where its search had more settings to choose."""
    sweep = only_sweep(store, ref)
    return sweep.name if sweep is not None and store.submissions.end_search(sweep.id) else None


@click.command(epilog=_REF_HELP)
@_some_refs
@click.option("--queue", "whole", is_flag=True, help="The whole queue: no run of any sweep starts.")
@_slot_option
def pause(refs: tuple[str, ...], whole: bool, slot: str | None) -> None:
    """Hold runs back; a running one checkpoints and frees the GPU.

    Of a sweep that is named, no further run starts until it is resumed. In a slot that is named
    none does; the run that trained there goes on in the next one that is free.

    \b
    Examples:
      grpo-sweep pause 12          one run
      grpo-sweep pause lr          a sweep
      grpo-sweep pause --queue     everything, to have the machine for yourself
      grpo-sweep pause --slot 1    one device of several (work --devices, --slots)
    """
    _check_named(refs, whole, slot, "pause")
    with open_queue() as store:
        if slot is not None:
            worker = serving_worker()
            changed = store.control.pause_slot(slot, worker.pausable if worker else ())
            say(f"slot {slot}: paused; go on with: grpo-sweep resume --slot {slot}")
        elif whole:
            changed = store.control.pause_queue()
            say("queue: paused; go on with: grpo-sweep resume --queue")
        else:
            changed = _each(store, refs, _pause_sweep, store.control.pause, "pause")
    _tell("paused", changed)
    _settle(changed)


@click.command(epilog=_REF_HELP)
@_some_refs
@click.option("--queue", "whole", is_flag=True, help="The whole queue, after pause --queue.")
@_slot_option
def resume(refs: tuple[str, ...], whole: bool, slot: str | None) -> None:
    """Let paused runs, a paused sweep, slot or the paused queue go on from where they were.

    \b
    Examples:
      grpo-sweep resume 3-7
      grpo-sweep resume --queue
    """
    _check_named(refs, whole, slot, "resume")
    with open_queue() as store:
        if slot is not None:
            store.control.resume_slot(slot)
            say(f"slot {slot}: resumed")
        elif whole:
            store.control.resume_queue()
            say("queue: resumed")
        else:
            _tell("queued again", _each(store, refs, _resume_sweep, store.control.resume, "resume"))
    say_no_worker()


def _check_named(refs: tuple[str, ...], whole: bool, slot: str | None, verb: str) -> None:
    if bool(refs) + whole + (slot is not None) != 1:
        raise UsageError(
            f"name what to {verb}: a run, a range, a sweep, @, one --slot,"
            " or --queue for everything"
        )


@click.command(epilog=_REF_HELP)
@_refs
@click.option("--first", is_flag=True, required=True, help="Before everything else that waits.")
def move(refs: tuple[str, ...], first: bool) -> None:
    """Train some queued runs before all others, in the order in which they are named.

    \b
    Examples:
      grpo-sweep move 12 --first
      grpo-sweep move lr-2 --first
    """
    with open_queue() as store:
        changed = store.control.move_first(_ids(find_all(store, refs)))
    _tell("next", changed)
    say_no_worker()


@click.command(epilog=_REF_HELP)
@click.argument("refs", nargs=-1, metavar="[REF]...", type=Ref(runs=True))
@click.option("--failed", is_flag=True, help="Every failed run of the queue.")
def retry(refs: tuple[str, ...], failed: bool) -> None:
    """Queue failed or cancelled runs again; each goes on from its newest checkpoint.

    \b
    Examples:
      grpo-sweep retry 12
      grpo-sweep retry lr
      grpo-sweep retry --failed
    """
    if not refs and not failed:
        raise UsageError("name what to retry: a run, a range, a sweep, @, or --failed for all")
    with open_queue() as store:
        runs = find_all(store, refs) if refs else store.queries.runs(states=[RunState.FAILED])
        if not runs:
            raise NothingAffected("no run has failed")
        changed = store.control.retry(_ids(runs))
        for run in map(store.queries.run, _ids(runs)):
            given_up = run.state in (RunState.FAILED, RunState.CANCELLED)
            if given_up and (owner := store.queries.folder_owner(run)):
                words = f"stays {run.state}; its folder belongs to run {owner}"
                say(f"run {run.id} {run.name}: {words}")
    _tell("queued again", changed)
    say_no_worker()


@click.command(epilog=_REF_HELP)
@click.argument("refs", nargs=-1, metavar="[REF]...", type=Ref(runs=True))
def wait(refs: tuple[str, ...]) -> int:
    """Wait until runs are done (default: the latest sweep).

    Exits with 1 unless every one of them completed (or was pruned).

    \b
    Examples:
      grpo-sweep wait lr && grpo-sweep report lr --open
    """
    with open_queue(readonly=True) as store:
        found = find_all(store, refs or ("@",))
        sweeps = {sweep.id for ref in refs or ("@",) if (sweep := only_sweep(store, ref))}
        said: set[str] = set()
        while True:
            runs = _as_they_stand(store, found, sweeps)
            to_come = any(store.queries.sweep(str(sweep_id)).to_ask for sweep_id in sweeps)
            if not to_come and all(run.state in END_STATES for run in runs):
                return _verdict(runs)
            _say_why_it_waits(store, runs, said)
            time.sleep(_POLL_S)


def _as_they_stand(store: Store, runs: Sequence[Run], sweeps: set[int]) -> list[Run]:
    """The runs now; of whole sweeps also those that came later."""
    named = [store.queries.run(run.id) for run in runs if run.sweep_id not in sweeps]
    return [*named, *(run for sweep_id in sorted(sweeps) for run in store.queries.runs(sweep_id))]


def _verdict(runs: Sequence[Run]) -> int:
    """Each run that did not make it is named."""
    lost = [run for run in runs if run.state not in ("completed", "pruned")]
    for run in lost:
        say(f"run {run.id} {run.name}: {run.state}{f': {run.reason}' if run.reason else ''}")
    say(f"{len(runs) - len(lost)} of {len(runs)} completed")
    return 1 if lost else 0


def _say_why_it_waits(store: Store, runs: Sequence[Run], said: set[str]) -> None:
    """What may make the wait endless, each thing once."""
    halted = store.queries.halted(boot_id())
    stands_still = f"the queue stands still: {halted}; go on with: grpo-sweep resume --queue"
    reasons = [no_worker_hint(), stands_still if halted else ""]
    for run in {run.sweep_id: run for run in runs if run.state == "queued"}.values():
        sweep = store.queries.sweep_of(run)
        if sweep.paused:
            reasons.append(f"sweep {sweep.name} is paused: {sweep.reason}")
    reasons += [f"run {run.id} is paused" for run in runs if run.state == "paused" and not run.rung]
    for reason in reasons:
        if reason and reason not in said:
            said.add(reason)
            say(reason)


# --- common


def _ids(runs: Sequence[Run]) -> list[int]:
    return [run.id for run in runs]


def _each(
    store: Store,
    refs: Sequence[str],
    on_sweep: Callable[[Store, int], list[Run]],
    on_runs: Callable[[Sequence[int]], list[Run]],
    verb: str,
) -> list[Run]:
    """A sweep that is named is changed as a whole, runs by themselves; something must change."""
    changed: list[Run] = []
    failures = []
    for ref in refs:
        try:
            sweep = only_sweep(store, ref)
            if sweep is not None:
                changed += on_sweep(store, sweep.id)
                say(f"sweep {sweep.name}: {verb}d")
            else:
                changed += on_runs(_ids(store.queries.find_runs(ref)))
        except NothingAffected as e:
            failures.append(e)
    if len(failures) == len(refs):
        raise failures[0]
    for failure in failures:
        say(str(failure))
    return changed


def _pause_sweep(store: Store, sweep_id: int) -> list[Run]:
    """Hold the sweep; its running run, if there is one, goes back to its place in the queue."""
    store.control.pause_sweep(sweep_id)
    running = [run.id for run in store.queries.runs(sweep_id, states=[RunState.RUNNING])]
    return store.control.pause(running) if running else []


def _resume_sweep(store: Store, sweep_id: int) -> list[Run]:
    paused = store.queries.runs(sweep_id, states=[RunState.PAUSED])
    # Those at a rung wait for the others, not for the user.
    held = [run.id for run in paused if run.rung is None]
    try:
        store.control.resume_sweep(sweep_id)
    except NothingAffected:
        if not held:
            raise
    return store.control.resume(held) if held else []


def _tell(done: str, runs: Sequence[Run]) -> None:
    """What changed; of a running run only that it was asked for."""
    asked = [run for run in runs if run.state == "running"]
    for run in asked:
        say(f"run {run.id} {run.name}: asked to stop; it checkpoints first")
    others = [run for run in runs if run.state != "running"]
    if len(others) == 1:
        say(f"run {others[0].id} {others[0].name}: {done}")
    elif others:
        say(f"{len(others)} runs {done}")


def _settle(runs: Sequence[Run]) -> None:
    """Without a worker nobody would stop a running trainer: do it here."""
    if any(run.state == "running" for run in runs):
        # Not at the top: the worker takes its time to load, and is seldom needed here.
        from orchestrator.worker.worker import tidy

        tidy()
