"""Files that a submit names and that are not there: said at once, not by each run at night."""

import pytest

from orchestrator.system.paths import home
from tests.queue_kit import runs, states
from tests.sweep_kit import add_sweep, finish_next, planned_run

LR = "[params]\nlearning_rate = [1e-5, 1e-4]\n"


def spec(folder, text):
    (folder / "s.toml").write_text(f'config = "base.toml"\n{text}')


def set_to(*lines):
    return "\n".join(["[set]", *lines, LR])


TPE = '[search]\nmethod = "tpe"\nruns = 3\n[params]\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (set_to('rewards = ["mine.py:f"]'), "s.toml:3:1: set.rewards = 'mine.py:f': no file mine"),
        ('[params]\nrewards = [["int"], ["m.py:f"]]', "params.rewards = 'm.py:f': no file m.py"),
        (set_to('dataset = "rows.jsonl"'), "'rows.jsonl': no such file; the nearest is row.jsonl"),
        (set_to('eval_dataset = "r.parquet"'), "set.eval_dataset = 'r.parquet': no such file"),
        (set_to('adapter_path = "out/a"'), "set.adapter_path = 'out/a': no such folder"),
        ('[[run]]\nmodel_name = "./mine"\n', "model_name = './mine': no such folder"),
        (set_to('rewards = ["ok.py:rewrad"]'), "it has reward; did you mean reward?"),
        (set_to('rewards = ["bad.py:f"]'), "line 2 is no Python"),
        (TPE + 'dataset = ["row.jsonl", "rows.jsonl"]', "params.dataset = 'rows.jsonl': no such"),
    ],
)
def test_what_a_run_reads_must_be_there_when_it_is_submitted(folder, say, text, fault):
    """With its place in the spec; nothing is queued, and a dry run says the same."""
    (folder / "row.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (folder / "ok.py").write_text("def reward(**rest):\n    return []\n")
    (folder / "bad.py").write_text("x = 1\ndef f(:\n")
    spec(folder, text)
    for more in ((), ("--dry-run",)):
        code, out, err = say("submit", "s.toml", *more)
        assert (code, out) == (2, "")
        assert fault in err
    assert not home().db.exists() or states() == []


def test_every_missing_file_is_named_at_once_and_once(folder, say):
    """Two runs read the same missing file, which is one fault."""
    spec(folder, set_to('rewards = ["mine.py:f"]', 'dataset = "rows.jsonl"'))
    err = say("submit", "s.toml")[2]
    assert err.count("no file mine.py") == 1
    assert err.count("no such file") == 1


def test_later_queues_what_reads_files_that_are_still_to_come(folder, say):
    """A sweep whose data another one writes first; more of it, and single runs, as well."""
    spec(folder, set_to('dataset = "rows.jsonl"'))
    assert say("submit", "s.toml", "--later")[0] == 0
    assert states() == ["queued", "queued"]
    spec(folder, set_to('dataset = "rows.jsonl"') + "num_generations = [4, 8]\n")
    code, _, err = say("extend", "s", "s.toml")
    assert (code, "; --later where it is still to come" in err) == (2, True)
    assert say("extend", "s", "s.toml", "--later")[0] == 0
    single = ("run", "--queue", "--config", "base.toml", "--set", "dataset=rows.jsonl")
    code, _, err = say(*single)
    assert (code, "; --later where it is still to come" in err) == (2, True)
    assert say(*single, "--later")[0] == 0
    assert say("run", "--config", "base.toml", "--later")[0] == 2


@pytest.mark.parametrize("command", ["confirm", "fork"])
def test_what_follows_a_sweep_can_be_queued_for_later_too(folder, say, command):
    """Its data was moved away meanwhile."""
    (folder / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    add_sweep(folder, [planned_run("a", 0, {"dataset": "rows.jsonl"})], spec="")
    finish_next(value=0.5)
    (folder / "out/a/checkpoint-1").mkdir(parents=True)
    (folder / "rows.jsonl").unlink()
    words = {"confirm": ("confirm", "s", "--seeds", "7"), "fork": ("fork", "1")}[command]
    code, _, err = say(*words)
    assert (code, "; --later where it is still to come" in err) == (2, True)
    assert say(*words, "--later")[0] == 0


def test_a_base_s_file_that_every_run_replaces_need_not_be_there(folder, say):
    """A search over data and rate: no choice of a rate comes with the base's data."""
    (folder / "base.toml").write_text('model_name = "builtin/tiny"\ndataset = "gone.jsonl"\n')
    (folder / "row.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    spec(folder, TPE + 'dataset = ["row.jsonl"]\nlearning_rate = [1e-5, 1e-4]\n')
    assert say("submit", "s.toml")[0] == 0
    spec(folder, TPE + "learning_rate = [1e-5, 1e-4]\n")
    assert "'gone.jsonl': no such file" in say("submit", "s.toml")[2]


@pytest.mark.parametrize(
    "line",
    [
        'dataset = "~nobody-here/x.jsonl"',
        'eval_dataset = "~nobody-here/x.jsonl"',
        'rewards = ["~nobody-here/x.py:f"]',
        'model_name = "~nobody-here/x"',
        'adapter_path = "~nobody-here/x"',
    ],
)
def test_the_folder_of_a_user_that_there_is_not_is_no_folder(folder, say, line):
    """A fault as any other, no traceback."""
    spec(folder, set_to(line))
    code, _, err = say("submit", "s.toml")
    assert code == 2
    assert f"s.toml:3:1: set.{line.split(' ')[0]} = " in err


def test_a_single_run_may_write_to_the_users_folder(folder, say, monkeypatch):
    """`~` is not a folder of that name."""
    monkeypatch.setenv("HOME", "/home/me")
    assert say("run", "--queue", "--config", "base.toml", "--set", "output_dir=~/a")[0] == 0
    assert str(runs()[0].folder) == "/home/me/a"


@pytest.mark.parametrize(
    "source",
    [
        "from helper import f\n",
        "from helper import *\n",
        "f = make()\n",
        "if True:\n    def f(): 1\n",
        "class f:\n    pass\n",
        "globals()['f'] = 1\n",
    ],
)
def test_a_reward_that_may_be_made_in_another_way_is_no_fault(folder, say, source):
    """Only what surely cannot be is refused: the file is read, not run."""
    (folder / "mine.py").write_text(source)
    spec(folder, set_to('rewards = ["mine.py:f"]'))
    assert say("submit", "s.toml")[0] == 0


def test_a_single_run_and_more_runs_of_a_sweep_are_looked_at_too(folder, say):
    """`run --queue` and `extend`."""
    code, _, err = say("run", "--queue", "--config", "base.toml", "--set", "dataset=rows.jsonl")
    assert (code, "dataset = 'rows.jsonl': no such file" in err) == (2, True)
    assert say("submit", "lr.toml")[0] == 0
    (folder / "lr.toml").write_text(
        (folder / "lr.toml").read_text() + '[[run]]\ndataset = "rows.jsonl"\n'
    )
    code, _, err = say("extend", "lr", "lr.toml")
    assert (code, "dataset = 'rows.jsonl': no such file" in err) == (2, True)
