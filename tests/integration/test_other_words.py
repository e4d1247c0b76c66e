"""Words of other programs lead to the right line or command in one step; none is accepted."""

import pytest

from grpo_core.config import FIELDS, OTHER_WORDS
from orchestrator.cli.group import SECTIONS, cli
from orchestrator.spec.fields import TABLES, TOP_KEYS
from orchestrator.spec.tables import KEYS
from tests.spec_kit import faults, write


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.toml").write_text('model_name = "builtin/tiny"\n')
    monkeypatch.chdir(tmp_path)


def test_every_word_leads_to_something_that_there_is():
    """And is no word of ours where it leads."""
    keys = {name for table in KEYS.values() for name in table}
    choices = {name for table in KEYS.values() for key in table.values() for name in key.known}
    ours = {*FIELDS, *TOP_KEYS, *TABLES, *keys, *choices}
    for word, others in OTHER_WORDS.items():
        assert word not in FIELDS
        assert ours.issuperset(others), word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[params]\nlr = [1e-5]\n", "params.lr: unknown field; did you mean learning_rate?"),
        ("[params]\nbeta = [0.1]\n", "params.beta: unknown field; did you mean kl_coeff?"),
        ("[set]\ngroup_size = 4\n", "set.group_size: unknown field; did you mean num_generations?"),
        ("[set]\nmax_steps = 4\n", "set.max_steps: unknown field; did you mean max_train_samples?"),
        ('[search]\nmethod = "bayes"\nruns = 3\n', "grid, random, sobol, tpe; did you mean tpe?"),
        ('[search]\nmethod = "tpe"\nn_trials = 3\n', "n_trials: unknown key; did you mean runs?"),
        ('[objective]\ngoal = "maximize"\n', "must be max or min; did you mean max?"),
        ('[objective]\nname = "em"\n', "objective.name: unknown key; did you mean metric?"),
        ("[grid]\nlearning_rate = [1]\n", "grid: unknown key; did you mean params?"),
        ('method = "bayes"\n', "method: unknown key; write method under [search]"),
        ("[metric]\nname = 'em'\n", "metric: unknown key; write [objective] with metric"),
        ("[params]\nlearning_rate = { values = [1e-5] }\n", "or as an axis the list alone: [1e-5"),
    ],
)
def test_a_word_of_another_program_is_known(text, expected):
    """One line, which says what to write."""
    found = faults(text)
    assert any(expected in fault for fault in found), found
    assert not any("cannot be gone through" in fault for fault in found)


def test_what_stands_under_parameters_is_looked_at_too():
    """All faults at once, each with its line."""
    found = faults("[parameters]\nlr = [1e-5]\nbeta = [0.1]\n")
    assert [fault.partition(": ")[0] for fault in found] == [
        "s.toml:2:1",
        "s.toml:3:1",
        "s.toml:4:1",
    ]
    assert "did you mean params?" in found[0]


def test_several_values_in_a_set_are_an_axis():
    """As in Hydra."""
    (found,) = faults("[set]\nbatch_size = 1\n", "learning_rate=1e-5,1e-4")
    assert "several values are an axis: learning_rate = [1e-5,1e-4] under [params]" in found


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("s.yaml", "method: bayes\nparameters:\n", "a sweep spec is TOML"),
        ("s.toml", "", "s.toml: is empty; a sweep spec is TOML"),
        ("s.toml", "model_name = 'a'\nseed = 1\nbatch_size = 1\nnum_epochs = 1\n",
         "not a sweep spec; train it with: grpo-sweep run --config s.toml"),
    ],
)  # fmt: skip
def test_what_is_no_spec_is_called_what_it_is(name, text, expected):
    """One fault instead of twenty."""
    (found,) = faults(text, name=name, base=False)
    assert expected in found


@pytest.mark.parametrize(
    ("word", "command"),
    [
        ("ls", "status"), ("ps", "status"), ("list", "status"), ("queue", "status"),
        ("add", "submit"), ("kill", "cancel"), ("delete", "rm"), ("stop", "cancel"),
        ("help", "--help"), ("start", "work"), ("my.toml", "submit my.toml"),
    ],
)  # fmt: skip
def test_a_command_of_another_program_names_ours(say, word, command):
    """And every command that is named is there."""
    code, _, err = say(word)
    assert code == 2
    assert f"grpo-sweep {command}" in err
    known = {name for section in SECTIONS.values() for name in section}
    assert command.split()[0] in known | {"--help"}
    assert cli.name


def test_run_with_a_spec_leads_to_submit(say):
    """`run` trains one configuration."""
    write("[params]\nlearning_rate = [1e-5]\n")
    code, _, err = say("run", "s.toml")
    assert code == 2
    assert "a sweep spec is queued with: grpo-sweep submit s.toml" in err


def test_fields_are_found_by_their_meaning_and_by_other_words(say):
    """`KL`, a part of the help in any case, and what TRL calls it."""
    assert "kl_estimator" in say("fields", "KL")[1]
    assert "learning_rate" in say("fields", "learning rate")[1]
    assert "kl_coeff" in say("fields", "beta")[1]
    assert say("fields", "zzz")[0] == 3


# --- a sweep without a file


def test_options_make_a_sweep_and_show_the_spec_for_which_they_stand(say):
    """What is shown can be saved, and is the same sweep."""
    words = ["--config", "configs/base.toml", "--param", "learning_rate=1e-4,1e-3"]
    more = ["--param", "num_generations=4,8", "--param", "loss_type=grpo,dapo", "--dry-run"]
    code, out, err = say("submit", *words, *more)
    assert code == 0
    spec = (
        'config = "configs/base.toml"\n\n[params]\nlearning_rate = [1e-4,1e-3]\n'
        'num_generations = [4,8]\nloss_type = ["grpo", "dapo"]\n'
    )
    assert spec in err
    write(spec, name="lr-g-loss_type.toml", base=False)
    assert say("submit", "lr-g-loss_type.toml", "--dry-run")[1] == out
    assert say("submit", *words)[1].startswith("queued sweep lr (runs 1-2): 2 runs")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "name a SPEC, or give --param"),
        (["s.toml", "--param", "learning_rate=1"], "name a SPEC, or give --param"),
        (["s.toml", "--config", "configs/base.toml"], "--config goes with --param"),
        (["--param", "learning_rate"], "write key=v1,v2"),
        (["--param", "a=1", "--param", "a=2"], "names a field twice"),
        (["--param", "lr=1,2"], "did you mean learning_rate?"),
    ],
)
def test_options_that_make_no_sweep_say_so(say, words, expected):
    """With what to write."""
    code, _, err = say("submit", *words)
    assert code == 2
    assert expected in err
