"""What users write is shown as they wrote it: never as markup, nor as a picture."""

import pytest

from orchestrator.cli.output import console

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
