"""The README's test command is the one that is checked."""

from tests.doc_blocks import ROOT


def test_ci_runs_the_readmes_test_command():
    """What we promise a newcomer is what is checked, word for word."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = next(line for line in readme.splitlines() if line.endswith(".venv/bin/pytest"))
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for step in command.split(" && "):
        assert f"\n{step}\n" in ci
