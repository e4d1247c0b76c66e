"""Verdicts over an attempt: tables written by hand, not from the code."""

import signal
from dataclasses import replace

import pytest

from orchestrator.run import StopRequest, Verdict
from orchestrator.worker.verdict import Ending, judge

DONE = {"status": "completed", "exit_code": 0, "reason": "all updates done"}
METAL = "[METAL] Command buffer execution failed: kIOGPUCommandBufferCallbackError"


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (2, "config"), (3, "data"), (4, "oom"), (5, "gpu_fault"), (6, "diverged"),
        (7, "disk_full"), (75, "interrupted"), (1, "crash"), (99, "crash"),
    ],
)  # fmt: skip
def test_exit_codes(code, verdict):
    """Each code of the trainer's contract has its verdict; any other is a crash."""
    outcome = judge(Ending(exit_code=code, log_tail="ValueError: bad\n"))
    assert (outcome.verdict, outcome.evidence) == (verdict, "ValueError: bad")
    assert outcome.exit_code == code


@pytest.mark.parametrize("result", [None, {"status": "failed"}, {"status": "interrupted"}])
def test_exit_code_0_needs_a_result_that_says_completed(result):
    """Success is believed only with its proof."""
    assert judge(Ending(exit_code=0, result=result)).verdict is Verdict.CRASH
    assert judge(Ending(exit_code=0, result=DONE)).verdict is Verdict.COMPLETED


def test_what_a_whole_run_says_of_itself_is_its_reason():
    """That nothing was learnt, for one; else only that it is completed."""
    result = {**DONE, "reason": "nothing was learnt: ..."}
    assert judge(Ending(exit_code=0, result=result)).reason == "nothing was learnt: ..."
    assert judge(Ending(exit_code=0, result={**DONE, "reason": ""})).reason == "completed"


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (METAL + "OutOfMemory", "oom"),
        (METAL + "Hang", "gpu_hang"),
        (METAL + "InnocentVictim", "gpu_reset"),
        (METAL + "SubmissionsIgnored", "gpu_reset"),
        (METAL + "PageFault", "gpu_fault"),
        (METAL + "InvalidResource", "gpu_fault"),
        ("[METAL] Command buffer execution failed: Internal Error (0000000e)", "gpu_fault"),
        ("[metal::malloc] Resource limit (499000) exceeded.", "gpu_fault"),
        (METAL + "ImpactingInteractivity", "gpu_watchdog"),
        (METAL + "Timeout", "gpu_watchdog"),
        ("[metal::malloc] Attempting to allocate 9 bytes", "oom"),
        ("RuntimeError: [malloc] Unable to allocate 1099511627776 bytes.", "oom"),
        ("[CudaAllocator] cudaMalloc failed: Out of memory", "oom"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("[write] Unable to write 3900096 bytes to file.", "disk_full"),
        ("Segmentation fault", "crash"),
    ],
)  # fmt: skip
def test_an_abort_is_named_by_its_last_line(line, verdict):
    """SIGABRT alone says nothing: the log's line does, and becomes the evidence."""
    tail = f"loading\n{line}\nAborted\n"
    outcome = judge(Ending(signal=signal.SIGABRT, log_tail=tail))
    assert outcome.verdict == verdict
    assert outcome.signal == "SIGABRT"
    assert outcome.evidence == (line if verdict != "crash" else "Aborted")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("the GPU failed: Caused GPU Hang Error", "gpu_hang"),
        ("a command was ended: kIOGPUCommandBufferCallbackErrorImpactingInteractivity",
         "gpu_watchdog"),
        ("the GPU failed: Discarded (victim of GPU error/recovery)", "gpu_reset"),
        ("the GPU failed: kIOGPUCommandBufferCallbackErrorPageFault", "gpu_fault"),
        ("too many buffers: [metal::malloc] Resource limit (499000) exceeded.", "gpu_fault"),
    ],
)  # fmt: skip
def test_code_5_is_told_apart_by_its_text(text, verdict):
    """A watchdog, a reset and a fault leave a GPU that works; a hang does not."""
    outcome = judge(Ending(exit_code=5, result={"reason": text}))
    assert (outcome.verdict, outcome.evidence) == (verdict, text)


def test_advice_says_what_helps():
    """A display that sleeps, not smaller batches; a new process for too many buffers."""
    watchdog = judge(Ending(exit_code=5, log_tail=METAL + "ImpactingInteractivity"))
    assert "pmset displaysleepnow" in watchdog.reason
    buffers = judge(Ending(exit_code=5, log_tail="[metal::malloc] Resource limit (499000) exc"))
    assert "mlx #4464" in buffers.reason
    assert "micro_batch" not in watchdog.reason + buffers.reason


def test_text_of_a_log_never_outranks_an_explained_exit():
    """A run that diverged, and had printed about memory before, diverged."""
    tail = "warning: out of memory, retrying smaller\nloss is nan\n"
    assert judge(Ending(exit_code=6, log_tail=tail)).verdict is Verdict.DIVERGED
    assert judge(Ending(exit_code=0, result=DONE, log_tail=tail)).verdict is Verdict.COMPLETED


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_a_death_of_its_own_is_out_of_memory_with_proof(number):
    """MLX's CPU backend writes where an allocation that failed has put nothing."""
    killed = Ending(signal=number, log_tail="update 3\n")
    assert judge(killed).verdict == "crash"
    proof = "1.2% of the memory was left just before"
    outcome = judge(replace(killed, memory=proof))
    assert (outcome.verdict, outcome.evidence) == ("oom", proof)
    assert outcome.signal == number.name
    # What the log says of the device comes first: it is no guess.
    hung = replace(killed, memory=proof, log_tail="kIOGPUCommandBufferCallbackErrorHang\n")
    assert judge(hung).verdict == "gpu_hang"


def test_a_reward_s_process_that_was_killed_is_out_of_memory_only_with_proof():
    """Else it is a crash, which is tried again; either way its name is told."""
    reason = "reward 'mine.py:f': its process died (SIGKILL)"
    killed = Ending(exit_code=137, result={"exit_code": 137, "reason": reason})
    outcome = judge(killed)
    assert (outcome.verdict, outcome.evidence) == ("crash", reason)
    proof = "the kernel killed for memory: oom_kill went from 1 to 2"
    outcome = judge(replace(killed, memory=proof))
    assert (outcome.verdict, outcome.evidence, outcome.exit_code) == ("oom", proof, 137)
    assert reason in outcome.reason
    # Any other exit code says by itself what it was.
    assert judge(Ending(exit_code=1, memory=proof)).verdict == "crash"


def test_a_refused_configuration_says_why_though_there_is_no_result():
    """It is refused before its folder is claimed: what is said then stands in the log alone."""
    said = "error: learning_rate = 0.0: must be above 0"
    outcome = judge(Ending(exit_code=2, log_tail=f"[note] a\n{said}\n"))
    assert outcome.reason == "the configuration was refused: learning_rate = 0.0: must be above 0"
    assert judge(Ending(exit_code=2)).reason == "the configuration was refused"


def test_sigkill_is_out_of_memory_only_with_proof():
    """A person's kill -9 may be repeated; the system's may not."""
    killed = Ending(signal=signal.SIGKILL, log_tail="out of memory?")
    assert judge(killed).verdict is Verdict.CRASH
    proof = "the kernel killed for memory: oom_kill went from 1 to 2"
    outcome = judge(replace(killed, memory=proof))
    assert (outcome.verdict, outcome.evidence) == (Verdict.OOM, proof)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_polite_signals_interrupt(number):
    """A trainer that dies of SIGTERM before it listens was interrupted, it did not crash."""
    assert judge(Ending(signal=number)).verdict is Verdict.INTERRUPTED


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [("stop", "interrupted"), ("pause", "interrupted"), ("cancel", "cancelled"),
     ("timeout", "timeout"), ("stall", "stalled"), ("rung", "held"), ("prune", "pruned"),
     ("fail", "diverged")],
)  # fmt: skip
def test_what_the_worker_asked_for_names_the_ending(asked, verdict):
    """Whether it saved and went, or had to be killed; of one adopted nobody collects how."""
    seen = (Ending(exit_code=75), Ending(signal=signal.SIGKILL), Ending(signal=signal.SIGTERM))
    for end in (*seen, Ending()):
        assert judge(replace(end, asked=StopRequest(asked))).verdict == verdict


def test_run_that_completes_while_it_is_cancelled_is_completed():
    """What is done is done."""
    end = Ending(exit_code=0, result=DONE, asked=StopRequest.CANCEL)
    assert judge(end).verdict is Verdict.COMPLETED


def test_what_interrupted_a_trainer_from_outside_is_said():
    """Its own last message where it had no folder left to write a result to."""
    log = "update 3\nerror: out/a: moved or deleted while the run wrote to it\n"
    end = judge(Ending(exit_code=75, log_tail=log))
    assert end.reason == (
        "interrupted from outside: out/a: moved or deleted while the run wrote to it"
    )
    assert judge(Ending(exit_code=75)).reason == "interrupted from outside"


def test_failure_while_stopping_is_still_a_failure():
    """A stop does not whitewash a run that ran out of memory."""
    assert judge(Ending(exit_code=4, asked=StopRequest.STOP)).verdict is Verdict.OOM


def test_unseen_ending_is_judged_by_the_result():
    """With the worker dead too, result.json gives the exit code."""
    assert judge(Ending(result=DONE)).verdict is Verdict.COMPLETED
    assert judge(Ending(result={"status": "failed", "exit_code": 6})).verdict is Verdict.DIVERGED
    assert judge(Ending(result={"status": "interrupted", "exit_code": 75})).verdict == "interrupted"


def test_unseen_ending_without_result_is_lost():
    """And a reboot is named as what it was."""
    assert judge(Ending()).verdict is Verdict.LOST
    assert "restarted" in judge(Ending(same_boot=False)).reason


def test_what_a_node_could_not_help_is_no_fault_of_the_run():
    """Unless somebody had asked for the end: then that stands. One that was lost is a death."""
    away = judge(Ending(excuse="node mac is away"))
    assert (away.verdict, away.reason) == (Verdict.INTERRUPTED, "node mac is away")
    pruned = judge(Ending(excuse="node mac is away", asked=StopRequest.PRUNE))
    assert pruned.verdict is Verdict.PRUNED
    lost = judge(Ending(lost="node mac knows of no such attempt"))
    assert (lost.verdict, lost.reason) == (Verdict.LOST, "node mac knows of no such attempt")
