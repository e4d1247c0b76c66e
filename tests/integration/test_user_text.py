"""What users write is shown as they wrote it: never as markup, nor as a picture."""

import json
import sys
import unicodedata

import pytest

from orchestrator.cli import main
from orchestrator.cli.output import console
from orchestrator.queue.claims import Before
from orchestrator.queue.store import Store
from orchestrator.run import HoldCode, Outcome, Progress, Verdict
from orchestrator.system.paths import home
from tests.terminal import Terminal

# Closing tags that end rich's parser in an error, a style that vanishes, and an emoji.
TEXTS = ("[/INST]", "[red]", "[bold]x[/bold]", ":fire:", "\\[x]", "[link=http://a]b")


@pytest.fixture
def swept(say, folder):
    """A sweep over such texts, trained."""
    texts = ", ".join(f"'{text}'" for text in TEXTS)
    (folder / "s.toml").write_text(
        f"config = 'base.toml'\n[params]\nsystem_prompt = [{texts}]\n"
        "[[run]]\ntags = ['[/tag]', ':fire:']\n"
    )
    assert say("submit", "s.toml")[0] == 0
    say("work", "--until-empty")
    return say


@pytest.mark.parametrize(
    "words",
    [
        ("best", "s"),
        ("compare", "s", "--by", "system_prompt"),
        ("status", "s", "--by", "system_prompt"),
        ("status", "s", "--by", "system_prompt", "--by", "seed"),
        ("submit", "s.toml", "--dry-run"),
    ],
)
def test_user_text_is_never_markup(swept, words):
    """In tables of the terminal every text stands whole."""
    code, out, err = swept(*words)
    assert (code, "Traceback" in err) == (0, False)
    table = out.partition("mlx-grpo ")[0]
    for text in TEXTS:
        assert text in table
    if "--dry-run" in words:
        assert "[/tag], :fire:" in table


@pytest.mark.parametrize("words", [("status", "s"), ("show", "1"), ("watch", "s"), ("importance",)])
def test_no_command_fails_on_user_text(swept, words):
    """Whatever of it they show."""
    code, _, err = swept(*words)
    assert (code, "Traceback" in err) == (0, False)


def test_a_console_takes_text_as_it_is(capfd):
    """In tables, lines and titles alike: the one place where all of them are made."""
    from rich.table import Table

    table = Table("[head]", title=":fire:")
    table.add_row("[/INST]")
    out = console()
    out.print(table)
    out.print("[/x] :fire: [red]y")
    shown = capfd.readouterr().out
    for text in ("[head]", ":fire:", "[/INST]", "[/x] :fire: [red]y"):
        assert text in shown


EVIL = "\x1b]0;pwned\x07\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31mx\x7f"
SHOWN = r"\x1b]0;pwned"


@pytest.fixture
def escapes(say, folder):
    """A sweep with such text wherever text of a user's, a model's or an error's may stand."""
    text = json.dumps(EVIL).replace("\x7f", "\\u007f")
    (folder / "e.toml").write_text(
        f"config = 'base.toml'\n[params]\nsystem_prompt = [{text}, 'b']\n[[run]]\ntags = [{text}]\n"
    )
    assert say("submit", "e.toml")[0] == 0
    with Store.open(home().db) as store:
        run, attempt = store.claims.claim("host", "boot", lambda run: before(run.id))
        words = Outcome(Verdict.CONFIG, f"refused: {EVIL}", f"line {EVIL}", 2)
        store.claims.finish(attempt, words, newer_checkpoint=False, progress=Progress())
        store.holds.hold_sweep(run.sweep_id, HoldCode.USER, f"why {EVIL}")
    with open(home().attempt_log(1, 1), "w", newline="") as log:
        log.write(f"10%\r20%\r30%\r\n{EVIL}\n")
    return say


def before(run_id):
    home().make()
    return Before(-1, None, str(home().attempt_log(run_id, 1)))


COMMANDS = [
    *(("status",), ("status", "e"), ("status", "--all"), ("show", "1"), ("logs", "1")),
    *(("submit", "e.toml", "--dry-run"), ("status", "e", "--by", "system_prompt"), ("best", "e")),
    *(("show", EVIL), ("status", EVIL), ("submit", f"{EVIL}.toml"), (EVIL,), ("rm", EVIL)),
    *(("run", "--queue", "--config", EVIL), ("logs", "1", "-n", EVIL)),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0][:6].strip("\x1b"))
def test_no_terminal_obeys_what_a_text_holds(escapes, words):
    """In a pipe neither: who reads it may be a pager."""
    _, out, err = escapes(*words)
    left = [c for c in out + err if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert left == []


@pytest.mark.parametrize("words", [("status", "e"), ("show", "1"), ("logs", "1"), ("show", EVIL)])
def test_it_is_shown_instead(escapes, words):
    """So that one sees what was there."""
    _, out, err = escapes(*words)
    assert SHOWN in out + err


@pytest.mark.parametrize("words", [("status", "e", "--json"), ("show", "1", "--json")])
def test_json_holds_the_text_itself(escapes, words):
    """Escaped as JSON does, to the last character."""
    _, out, _ = escapes(*words)
    assert [c for c in out if unicodedata.category(c) == "Cc" and c != "\n"] == []
    read = json.loads(out)
    run = read["runs"][0] if "runs" in read else read
    assert run["reason"] == f"refused: {EVIL}"


def test_a_log_shows_a_bar_s_states_as_lines_and_raw_as_it_was(escapes, capfd):
    """A lone carriage return would let a line hide another."""
    assert escapes("logs", "1")[1].startswith(f"10%\n20%\n30%\n{SHOWN}")
    capfd.readouterr()
    assert main(["logs", "1", "--raw"]) == 0
    assert capfd.readouterr().out == f"10%\r20%\r30%\r\n{EVIL}\n"


@pytest.mark.parametrize("words", [("status", "e"), ("show", "1")])
def test_in_a_terminal_colours_stay_and_texts_are_shown(escapes, words):
    """The escapes of the program are obeyed, those of a text are not."""
    with Terminal([sys.executable, "-m", "orchestrator", *words], columns=200) as terminal:
        terminal.wait()
    assert SHOWN in terminal.raw
    for sequence in ("\x1b]0;pwned", "\x1b]52", "\x9b"):
        assert sequence not in terminal.raw
