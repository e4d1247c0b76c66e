"""How an attempt ended: completed, out of memory, diverged, ...; a verdict and its proof; pure.

The exit code decides (docs/run-folder.md), then the signal, then result.json where nobody could
collect the exit code; the log's tail only distinguishes what an abort or a GPU fault was, and gives
the evidence line. The texts of such faults are in `grpo_core.run.protocol`.
"""

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.errors import ExitCode
from grpo_core.run.protocol import COMPLETED, MachineFault, machine_fault
from orchestrator.run import Outcome, StopCode, StopRequest, Verdict

_BY_EXIT_CODE: dict[int, Verdict] = {
    ExitCode.CONFIG: Verdict.CONFIG,
    ExitCode.DATA: Verdict.DATA,
    ExitCode.OUT_OF_MEMORY: Verdict.OOM,
    ExitCode.GPU_FAULT: Verdict.GPU_FAULT,
    ExitCode.DIVERGED: Verdict.DIVERGED,
    ExitCode.DISK_FULL: Verdict.DISK_FULL,
    ExitCode.HUB_AWAY: Verdict.HUB_AWAY,
}

# The first that a line of the log shows.
_BY_FAULT = {
    MachineFault.GPU_HANG: Verdict.GPU_HANG,
    MachineFault.GPU_WATCHDOG: Verdict.GPU_WATCHDOG,
    MachineFault.GPU_BUFFERS: Verdict.GPU_FAULT,
    MachineFault.MEMORY: Verdict.OOM,
    MachineFault.DISK: Verdict.DISK_FULL,
    MachineFault.GPU_RESET: Verdict.GPU_RESET,
    MachineFault.GPU: Verdict.GPU_FAULT,
}
_GPU = frozenset(
    {Verdict.GPU_HANG, Verdict.GPU_WATCHDOG, Verdict.GPU_RESET, Verdict.GPU_FAULT},
)

_ADVICE = {
    Verdict.COMPLETED: "completed",
    Verdict.OOM: "out of memory; lower num_generations, max_new_tokens or micro_batch_size",
    Verdict.GPU_WATCHDOG: (
        "the GPU's watchdog ended a command; let the display sleep (on a Mac: pmset"
        " displaysleepnow)"
    ),
    Verdict.GPU_HANG: "the GPU hangs: restart the machine before anything else is trained",
    Verdict.GPU_RESET: "the GPU was reset, maybe for another program",
    Verdict.GPU_FAULT: "the GPU failed in a command",
    Verdict.DIVERGED: "diverged",
    Verdict.CONFIG: "the configuration was refused",
    Verdict.DATA: "data, model or reward cannot be used",
    Verdict.DISK_FULL: "the disk is full; free some space, then retry",
    Verdict.HUB_AWAY: "the hub cannot be reached",
}


@dataclass(frozen=True)
class Because:
    """Why the worker asked a trainer to end, with the logged values that this rests on."""

    reason: str
    evidence: str | None = None
    stop_code: StopCode | None = None


@dataclass(frozen=True)
class Ending:
    """Everything that is known about how an attempt ended.

    `exit_code` and `signal` are None when nobody could collect them (the worker had died too);
    `result` is a result.json that this attempt wrote; `log_tail` the end of the attempt's log;
    `memory` a sentence that proves that the system was out of memory; `because` why the worker
    asked for it, where there is more to say than that; `excuse` why it ended through no fault of
    the run's, and `lost` why nobody knows how.
    """

    exit_code: int | None = None
    signal: int | None = None
    result: Mapping[str, Any] | None = None
    log_tail: str = ""
    asked: StopRequest | None = None
    same_boot: bool = True
    memory: str | None = None
    because: Because | None = None
    excuse: str | None = None
    lost: str | None = None


def judge(end: Ending) -> Outcome:
    """The verdict over an attempt, with the line that proves it."""
    if end.signal is not None:
        return _by_signal(end)
    code = end.exit_code
    if code is None and end.result is not None:
        code = _int(end.result.get("exit_code"))
    if code is None and end.asked is None and end.excuse is not None:
        return Outcome(Verdict.INTERRUPTED, end.excuse)
    if code is None:
        return _lost(end) if end.asked is None else _stopped(end, None)
    return _by_code(end, code)


def _by_code(end: Ending, code: int) -> Outcome:
    if code == ExitCode.COMPLETED:
        return _finished(end)
    if end.asked is not None and (code == ExitCode.INTERRUPTED or end.asked is StopRequest.CANCEL):
        return _stopped(end, code)
    if code == ExitCode.INTERRUPTED:
        words = ": ".join(filter(None, ("interrupted from outside", _said(end))))
        return Outcome(Verdict.INTERRUPTED, words, _proof(end), code)
    if code == ExitCode.KILLED and end.memory is not None:
        words = f"out of memory: {_proof(end)}; let the reward take less"
        return Outcome(Verdict.OOM, words, end.memory, code)
    fault, line = _by_text(end)
    by_text = _BY_FAULT[fault] if fault is not None else None
    verdict = _BY_EXIT_CODE.get(code, by_text)
    if verdict is Verdict.GPU_FAULT and by_text in _GPU:
        verdict = by_text
    if verdict is None:
        return Outcome(Verdict.CRASH, f"crashed with exit code {code}", _proof(end), code)
    if verdict is by_text:
        return Outcome(verdict, _reason(verdict, end, fault), line, code)
    return Outcome(verdict, _reason(verdict, end), _proof(end), code)


def _finished(end: Ending) -> Outcome:
    status = (end.result or {}).get("status")
    if status == COMPLETED:
        # What a whole run has to say of itself, such as that nothing was learnt.
        reason = str((end.result or {}).get("reason") or "completed")
        return Outcome(Verdict.COMPLETED, reason, "result.json: completed", 0)
    fault = "no result.json" if end.result is None else f"result.json says {status}"
    return Outcome(Verdict.CRASH, f"ended with exit code 0, but {fault}", _proof(end), 0)


def _by_signal(end: Ending) -> Outcome:
    assert end.signal is not None
    name = _signal_name(end.signal)
    if end.asked is not None:
        return _stopped(end, None, name)
    if end.signal in (signals.SIGTERM, signals.SIGINT, signals.SIGHUP):
        return Outcome(Verdict.INTERRUPTED, f"ended by {name}", _last_line(end), None, name)
    fault, line = _by_text(end) if end.signal != signals.SIGKILL else (None, None)
    if fault is not None:
        verdict = _BY_FAULT[fault]
        return Outcome(verdict, _reason(verdict, end, fault), line, None, name)
    if end.memory is not None:
        return Outcome(Verdict.OOM, _ADVICE[Verdict.OOM], end.memory, None, name)
    return Outcome(Verdict.CRASH, f"killed by {name}", _last_line(end), None, name)


def _stopped(end: Ending, code: int | None, name: str | None = None) -> Outcome:
    verdict, words = {
        StopRequest.STOP: (Verdict.INTERRUPTED, "the worker was stopped"),
        StopRequest.PAUSE: (Verdict.INTERRUPTED, "paused"),
        StopRequest.CANCEL: (Verdict.CANCELLED, "cancelled"),
        StopRequest.TIMEOUT: (Verdict.TIMEOUT, "ran longer than limits.run_wall"),
        StopRequest.STALL: (Verdict.STALLED, "stalled: it said nothing for too long"),
        StopRequest.RUNG: (Verdict.HELD, "waits at a rung"),
        StopRequest.PRUNE: (Verdict.PRUNED, "pruned"),
        StopRequest.FAIL: (Verdict.DIVERGED, "diverged"),
        None: (Verdict.INTERRUPTED, "stopped"),
    }[end.asked]
    if end.because is not None and end.asked in (
        *(StopRequest.RUNG, StopRequest.PRUNE, StopRequest.FAIL),
        *(StopRequest.STALL, StopRequest.STOP),
    ):
        why = end.because
        return Outcome(verdict, why.reason, why.evidence, code, name, why.stop_code)
    return Outcome(verdict, words, _last_line(end), code, name)


def _lost(end: Ending) -> Outcome:
    if end.lost is not None:
        return Outcome(Verdict.LOST, end.lost, _last_line(end))
    if not end.same_boot:
        words = "the machine restarted while it ran"
        return Outcome(Verdict.LOST, words, "the boot id has changed since it was started")
    words = "worker and trainer both died; nobody saw how"
    return Outcome(Verdict.LOST, words, _last_line(end))


def _by_text(end: Ending) -> tuple[MachineFault | None, str | None]:
    """The fault that the log's tail (or result.json's reason) shows, and the line."""
    lines = [*end.log_tail.splitlines(), str((end.result or {}).get("reason") or "")]
    last = {machine_fault(line): line for line in lines}
    found = next((fault for fault in _BY_FAULT if fault in last), None)
    return (found, _short(last[found])) if found else (None, None)


def _reason(verdict: Verdict, end: Ending, fault: MachineFault | None = None) -> str:
    if fault is MachineFault.GPU_BUFFERS:
        return "more GPU buffers at once than Metal allows (mlx #4464); a new process has none"
    advice = _ADVICE[verdict]
    said = _said(end)
    if verdict in (Verdict.DIVERGED, Verdict.CONFIG, Verdict.DATA, Verdict.HUB_AWAY) and said:
        return f"{advice}: {said}"
    return advice


def _proof(end: Ending) -> str | None:
    reason = (end.result or {}).get("reason")
    return _short(str(reason)) if reason else _last_line(end)


def _said(end: Ending) -> str:
    """What the trainer itself says of its end: in its result, else in its log; empty: nothing."""
    return _short(str((end.result or {}).get("reason") or _last_error(end)))


def _last_error(end: Ending) -> str:
    """What the trainer said of an end for which it had no folder to leave a result in."""
    lines = [line for line in end.log_tail.splitlines() if line.startswith("error: ")]
    return lines[-1].removeprefix("error: ") if lines else ""


def _last_line(end: Ending) -> str | None:
    lines = [line for line in end.log_tail.splitlines() if line.strip()]
    return _short(lines[-1]) if lines else None


def _short(line: str, limit: int = 500) -> str:
    line = line.strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _int(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
