"""Completion as a shell asks for it: the real bash with our script, and click's protocol."""

import os
import shutil
import subprocess
import sys

import pytest

from orchestrator.system.paths import home
from tests.sweep_kit import add_sweep, planned_run

# Asks bash's own function for what it would offer behind the last word.
_ASK = """
PATH={bin}:$PATH
source <(grpo-sweep completion bash)
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
compopt() {{ echo "compopt $1 $2"; }}
_grpo_sweep_completion grpo-sweep
for word in "${{COMPREPLY[@]}}"; do echo "= $word"; done
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Two sweeps of two runs, in a folder with a spec."""
    monkeypatch.chdir(tmp_path)
    for name in ("lr", "kl"):
        add_sweep(
            tmp_path, [planned_run(f"{name}-{i}", 0, {"x": f"{name}{i}"}) for i in (0, 1)], name
        )
    (tmp_path / "spec.toml").write_text("")


def bash(*words):
    """What bash would offer: (the words, the options that the script sets)."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    quoted = " ".join(f"'{word}'" for word in words)
    script = _ASK.format(bin=os.path.dirname(sys.executable), words=f"grpo-sweep {quoted}")
    out = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True)
    assert out.stderr == ""
    lines = out.stdout.splitlines()
    return [x[2:] for x in lines if x.startswith("= ")], [x for x in lines if "compopt" in x]


def test_bash_completes_commands_sweeps_runs_and_their_numbers(queue):
    """What was typed so far decides; a field waits for its value without a blank."""
    assert bash("sta") == (["status"], [])
    assert bash("best", "k") == (["kl"], [])
    assert bash("show", "lr") == (["lr-0", "lr-1"], [])
    assert bash("show", "2") == (["2"], [])
    assert bash("cancel", "kl")[0] == ["kl", "kl-0", "kl-1"]
    assert bash("status", "--by", "x") == (["x"], [])
    assert bash("run", "--set", "learning_r") == (["learning_rate="], ["compopt -o nospace"])
    assert {"--notify", "--no-notify"} <= set(bash("work", "--no")[0])
    assert bash("completion", "f") == (["fish"], [])


def test_bash_completes_files_where_files_belong(queue):
    """Specs and configs: the shell's own completion takes over."""
    for words in (("submit", "sp"), ("run", "--config", "sp"), ("extend", "lr", "sp")):
        assert bash(*words) == ([], ["compopt -o default"])


@pytest.mark.parametrize(
    ("shell", "env", "offered"),
    [
        ("zsh", {"COMP_WORDS": "grpo-sweep show lr", "COMP_CWORD": "2"}, "plain\nlr-0\nrun 1\n"),
        ("fish", {"COMP_WORDS": "grpo-sweep show", "COMP_CWORD": "lr"}, "plain\nlr-0\nrun 1\n"),
    ],
)
def test_zsh_and_fish_are_told_what_a_name_means(queue, shell, env, offered):
    """The number of a run beside its name."""
    words = [sys.executable, "-c", "from orchestrator.cli import main; main([])"]
    env = {**os.environ, **env, "_GRPO_SWEEP_COMPLETE": f"{shell}_complete"}
    out = subprocess.run(words, env=env, capture_output=True, text=True)
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout.replace(",", "\n").replace("\t", "\n").startswith(offered)


def test_completion_over_a_queue_that_cannot_be_read_is_silent(queue):
    """No error in the middle of what somebody types."""
    home().db.write_bytes(b"no database" * 100)
    assert bash("show", "lr") == ([], [])
    assert bash("status", "--by", "x") == ([], [])
