"""`grpo-sweep report`: where it writes, and one message for bad input."""

import re

import pytest

from orchestrator.cli import main
from orchestrator.system.paths import home
from tests.report_kit import THREE
from tests.sweep_kit import (
    add_sweep,
    finished_sweep,
    planned_run,
)


def test_the_command_writes_where_it_says(tmp_path, monkeypatch, capfd):
    """The path on stdout, the talk on stderr; in a folder the file has the sweep's name."""
    finished_sweep(tmp_path, THREE[:1])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for words, path in (
        ([], "s-report.html"), (["s", "-o", "notes"], "notes/s-report.html"),
        (["@", "-o", "a.html"], "a.html"),
    ):  # fmt: skip
        assert main(["report", *words]) == 0
        out, err = capfd.readouterr()
        assert out == f"{path}\n"
        assert re.fullmatch(r"1 run, \d\.\d MB\n", err)
        assert (tmp_path / path).read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nosuch"], 3, "nosuch: no such sweep; did you mean"),
        (["s", "-o", "none/a.html"], 2, "the folder none does not exist; make it, or name another"),
    ],
)
def test_bad_input_gets_one_message(tmp_path, monkeypatch, capfd, words, code, message):
    """Exit codes as docs/json.md says, no traceback, nothing written."""
    finished_sweep(tmp_path, THREE[:1], name="nosuchsweep")
    add_sweep(tmp_path / "b", [planned_run("a", 0, {})], name="s")
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))


def test_an_empty_queue_is_told(capfd):
    """There is no sweep to report; nothing is made."""
    assert main(["report"]) == 3
    assert (
        "the queue holds no sweep; queue one with: grpo-sweep submit SPEC" in capfd.readouterr().err
    )
    assert not home().db.exists()
