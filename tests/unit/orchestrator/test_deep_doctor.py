"""What `doctor --deep` makes of its numbers: tables by hand."""

import math
import sys

import pytest

from orchestrator import deep_doctor
from orchestrator.deep_doctor import (
    failure,
    judge,
    judge_adoption,
    judge_cache,
    judge_decoding,
    judge_device,
    judge_display,
    judge_gradient,
    judge_peaks,
    judge_prefix,
)
from orchestrator.system.processes import start_time
from tests.queue_kit import eventually

ADOPTED = {"seen": True, "state": "completed", "attempts": 1, "exit_code": 0}


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (judge_device({"device": "gpu", "metal": True, "device_name": "M"}), "ok"),
        (judge_device({"device": "cpu", "metal": False}), "ok"),
        (judge_device({"device": "cpu", "metal": True}), "odd"),
        (judge_gradient({"relative": 2e-6, "same_tokens": 1.0}), "ok"),
        (judge_gradient({"relative": 2e-6, "same_tokens": 0.5}), "odd"),
        (judge_gradient({"relative": 5e-3, "same_tokens": 1.0}), "odd"),
        (judge_gradient({"relative": 0.1, "same_tokens": 1.0}), "bad"),
        (judge_gradient({"relative": math.nan, "same_tokens": 1.0}), "bad"),
        (judge_gradient({"skipped": "no GPU"}), "none"),
        (judge("x", {"a": 0.1, "b": 0.5}, odd=0.9, bad=1.8), "ok"),
        (judge("x", {"a": 0.1, "b": 1.0}, odd=0.9, bad=1.8), "odd"),
        (judge("x", {"a": 2.0, "b": 1.0}, odd=0.9, bad=1.8), "bad"),
        (judge("x", {"a": math.nan}, odd=0.9, bad=1.8), "bad"),
        (judge_prefix({"float32": 1e-5, "bfloat16": 0.05}), "ok"),
        (judge_prefix({"float32": 1e-5, "bfloat16": 0.3}), "odd"),
        (judge_prefix({"float32": 0.1, "bfloat16": 0.05}), "bad"),
        (judge_decoding({"128": 0.94, "512": 0.7}), "ok"),
        (judge_decoding({"128": 0.7, "512": 0.94}), "odd"),
        (judge_decoding({"128": 1.4, "512": 1.3}), "odd"),
        (judge_decoding({"128": 1.4, "512": 2.3}), "bad"),
        (judge_peaks({"rollout": 0.9, "update": 1.2}), "ok"),
        (judge_peaks({"rollout": 0.9, "update": 1.3}), "odd"),
        (judge_peaks({"rollout": 2.5, "update": 1.0}), "bad"),
        (judge_cache({"0.5": 0.1, "2": 0.11, "8": 0.1}), "ok"),
        (judge_cache({"0.5": 0.2, "2": 0.11, "8": 0.1}), "odd"),
        (judge_display("x", {"updates": 9}), "ok"),
        (judge_display("x", {"failed": "ended with -6: GPU_WATCHDOG"}), "bad"),
        (judge_adoption(ADOPTED), "ok"),
        (judge_adoption(ADOPTED | {"attempts": 2}), "bad"),
        (judge_adoption(ADOPTED | {"seen": False}), "bad"),
    ],
)
def test_verdict(row, verdict):
    """As it should be, worth a look, wrong, or nothing on this machine."""
    assert row.verdict == verdict
    assert row.text
    assert row.shape["verdict"] == verdict


@pytest.mark.parametrize(
    ("err", "said"),
    [
        ("x\nRuntimeError: [METAL] kIOGPUCommandBufferCallbackErrorImpactingInteractivity\n",
         "ended with 1: GPU_WATCHDOG"),
        ("Traceback\n  File \"/Users/ann/x.py\"\nValueError: /Users/ann is bad\n",
         "ended with 1: ValueError"),
        ("/Users/ann/x.py is bad", "ended with 1: another message"),
        ("", "ended with 1: another message"),
    ],
)  # fmt: skip
def test_a_failure_names_no_path(err, said):
    """The kind of fault, else the kind of error: the JSON is sent to others."""
    assert failure(1, err) == said


_NOTED = 'echo $$ >> "{pids}"; '
_WITH_A_CHILD = 'sleep 600 & echo $! >> "{pids}"; '


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (_NOTED + "exec sleep 600", "no answer within 1 s"),
        (_NOTED + _WITH_A_CHILD + "wait", "no answer within 1 s"),
        (_NOTED + "exit 7", "ended with 7"),
        # The worker that is to take the trainer over.
        (_NOTED + 'case "$*" in *submit*) ;; *) exec sleep 600 ;; esac', "no answer within 1 s"),
    ],
)
def test_a_child_that_hangs_or_fails_costs_one_row_and_is_ended(tmp_path, monkeypatch, does, said):
    """The other rows are told, and nothing is left behind."""
    python, pids = tmp_path / "python", tmp_path / "pids"
    python.write_text("#!/bin/sh\n" + does.format(pids=pids) + "\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(deep_doctor, "_ADOPT_S", 1.0)
    for part in ("_machine", "_memory", "_disk", "_notice"):
        monkeypatch.setattr(deep_doctor, part, lambda: deep_doctor.Row("x", "ok", "well"))
    monkeypatch.setattr(deep_doctor, "_child", lambda *words, **more: {"skipped": "not now"})
    rows = list(deep_doctor.measure())
    assert [(row.verdict, row.text) for row in rows if row.verdict == "bad"] == [("bad", said)]
    assert rows[-1].text == "well"
    eventually(lambda: not any(start_time(int(pid)) for pid in pids.read_text().split()))


def test_a_notice_that_hangs_costs_one_row(monkeypatch):
    """As osascript does without a session."""
    monkeypatch.setattr(deep_doctor, "desktop_command", lambda notice: ["sleep", "600"])
    monkeypatch.setattr(deep_doctor, "_NOTICE_S", 0.1)
    row = deep_doctor.row_of("notice", deep_doctor._notice)
    assert (row.verdict, row.text) == ("bad", "no answer within 0 s")
