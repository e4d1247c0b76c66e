"""The README tells the truth: its tree, its fields, its two commands."""

from tests.readme_blocks import ROOT, rendered

README = (ROOT / "README.md").read_text()


def test_tree_and_fields_are_what_the_source_says():
    """A file that comes, goes or changes its idea shows up here; see tests/readme_blocks.py."""
    assert rendered(README) == README, "run: python -m tests.readme_blocks"


def test_ci_runs_the_readmes_test_command():
    """What we promise a newcomer is what is checked, word for word."""
    command = next(line for line in README.splitlines() if line.endswith(".venv/bin/pytest"))
    ci = (ROOT / ".ci" / "run").read_text()
    for step in command.split(" && "):
        assert f"\n{step}\n" in ci
