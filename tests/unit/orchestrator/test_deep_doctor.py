"""What `doctor --deep` says and survives."""

import sys

import pytest

from orchestrator import deep_doctor
from orchestrator.deep_doctor import failure
from orchestrator.deep_judgement import Row
from orchestrator.system.processes import start_time
from tests.queue_kit import eventually


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
        monkeypatch.setattr(deep_doctor, part, lambda: Row("x", "ok", "well"))
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
