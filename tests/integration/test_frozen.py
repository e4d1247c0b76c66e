"""What a sweep was submitted with, what has changed since, and settings that were done before."""

import functools
import json
import sqlite3
import subprocess

import pytest

from orchestrator.plan.provenance import changes, look
from orchestrator.queue.store import Store
from orchestrator.system.paths import home
from orchestrator.worker import worker
from tests.queue_kit import FAKE, attempts, runs, states

BASE = """
model_name = "builtin/tiny"
dataset = "rows.jsonl"
rewards = ["mine.py:reward"]
"""


def spec(*rates):
    return f'config = "base.toml"\n[params]\nlearning_rate = {list(rates)}\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a base config, data, a reward and a spec of two runs."""
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (tmp_path / "mine.py").write_text("def reward(completions, **kwargs): ...\n")
    (tmp_path / "lr.toml").write_text(spec(1e-5, 1e-4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "work", functools.partial(worker.work, trainer=FAKE))
    return tmp_path


def same_as():
    return [run.same_as for run in runs()]


# --- what was submitted


def test_a_submit_keeps_hashes_versions_and_git(say, folder):
    """SHA-256 of the data and the reward, checked against sha256sum; the packages; the commit."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "all"], check=True)
    (folder / "mine.py").write_text("def reward(completions, **kwargs): return 1\n")
    say("submit", "lr.toml")
    with Store.open(readonly=True) as store:
        found = store.queries.sweep("@").provenance
    told = subprocess.check_output(["sha256sum", "rows.jsonl", "mine.py"], text=True).split()
    assert found["files"] == {told[1]: told[0], told[3]: told[2]}
    assert "return 1" in found["git"]["diff"]
    assert len(found["git"]["commit"]) == 40
    assert {"python", "mlx", "grpo-sweep"} <= found["versions"].keys()


def test_each_change_is_a_line_of_its_own(folder):
    """Another content, a file that is gone, a new commit, another package."""
    then = look(str(folder), ["rows.jsonl", "mine.py"])
    assert changes(then, str(folder)) == []
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "mine.py").unlink()
    then["versions"]["mlx"] = "0.1"
    then["git"] = {"commit": "a" * 40, "diff_sha256": "b"}
    lines = changes(then, str(folder))
    assert [line.partition(":")[0] for line in lines] == ["mine.py", "rows.jsonl", "mlx"]
    assert "is gone" in lines[0]
    assert "has changed since the submit" in lines[1]
    assert lines[2].startswith("mlx: 0.1 at the submit, 0.")
    assert changes(None, str(folder)) == []


def test_a_change_is_said_and_the_run_trained_all_the_same(say, folder):
    """In the worker's talk, in the log of the attempt, and in show."""
    say("submit", "lr.toml")
    (folder / "rows.jsonl").write_text("{}\n")
    code, _, err = say("work", "--until-empty")
    assert (code, states()) == (0, ["completed", "completed"])
    line = "rows.jsonl: has changed since the submit"
    assert line in err
    assert f"changed   {line}" in say("show", "1")[1]
    with open(attempts(1)[0].log) as log:
        assert f"[frozen] {line}" in log.read()


@pytest.mark.parametrize("where", ["submit", "work"])
def test_a_frozen_sweep_is_held_until_the_change_is_undone_or_accepted(say, folder, where):
    """Nothing is trained; it is no failure; what is as it was is trained."""
    flag = {"submit": [], "work": [], where: ["--frozen"]}
    before = (folder / "rows.jsonl").read_text()
    say("submit", "lr.toml", *flag["submit"])
    (folder / "rows.jsonl").write_text("{}\n")
    say("work", "--until-empty", *flag["work"])
    assert states() == ["queued", "queued"]
    assert "frozen: rows.jsonl: has changed" in say("status")[1]
    (folder / "rows.jsonl").write_text(before)
    say("resume", "lr")
    say("work", "--until-empty", *flag["work"])
    assert states() == ["completed", "completed"]
    assert [a.outcome for a in attempts(1)] == ["interrupted", "completed"]


def test_resume_accepts_what_has_changed(say, folder):
    """The user has seen it and wants it."""
    say("submit", "lr.toml", "--frozen")
    (folder / "rows.jsonl").write_text("{}\n")
    say("work", "--until-empty")
    say("resume", "lr")
    say("work", "--until-empty")
    assert states() == ["completed", "completed"]


# --- the same setting again


def test_what_is_done_is_shown_and_not_trained_again(say, folder):
    """The second sweep points at the folders of the first, with their results."""
    say("submit", "lr.toml")
    say("work", "--until-empty")
    (folder / "lr.toml").write_text(spec(1e-5, 1e-3))
    code, _, err = say("submit", "lr.toml")
    assert code == 0
    assert "1 done, 1 new" in err
    assert states() == ["completed", "completed", "completed", "queued"]
    assert same_as() == [None, None, 1, None]
    assert runs()[2].folder == runs()[0].folder
    assert runs()[2].metrics == runs()[0].metrics
    assert runs()[2].value == runs()[0].value == 0.5
    say("work", "--until-empty")
    assert len(attempts(3)) == 0
    assert states() == ["completed"] * 4
    best = json.loads(say("best", "lr-2", "--json")[1])
    assert {run["id"] for row in best["rows"] for run in row["runs"]} == {3, 4}


def test_again_trains_anew(say):
    """In folders of its own."""
    say("submit", "lr.toml")
    say("work", "--until-empty")
    assert "done" not in say("submit", "lr.toml", "--again")[2]
    assert states() == ["completed", "completed", "queued", "queued"]


@pytest.mark.parametrize("file", ["rows.jsonl", "mine.py", "helper.py"])
def test_other_data_or_rewards_are_another_setting(say, folder, file):
    """The configuration is the same, its files are not; nor is what a reward imports."""
    (folder / "mine.py").write_text("import helper\ndef reward(completions, **kwargs): ...\n")
    (folder / "helper.py").touch()
    say("submit", "lr.toml")
    say("work", "--until-empty")
    with open(folder / file, "a") as written:
        written.write("{}\n" if file == "rows.jsonl" else "\n# something else\n")
    assert "done" not in say("submit", "lr.toml")[2]
    assert same_as() == [None] * 4


def test_what_cannot_be_compared_of_a_reward_is_said(say):
    """A result is shown again: of what its reward reads at run time nobody knows."""
    words = "what a reward of yours reads or imports only while it runs was not compared"
    assert words not in say("submit", "lr.toml")[2]
    say("work", "--until-empty")
    assert words in say("submit", "lr.toml")[2]


def test_what_was_trained_on_other_files_is_not_the_same(say, folder):
    """The reward was changed before the launch and put back since: the result is not its own."""
    before = (folder / "mine.py").read_text()
    say("submit", "lr.toml")
    (folder / "mine.py").write_text("def reward(completions, **kwargs): return 1\n")
    say("work", "--until-empty")
    (folder / "mine.py").write_text(before)
    assert "done" not in say("submit", "lr.toml")[2]
    assert same_as() == [None] * 4


def test_the_files_of_an_extension_are_watched_too(say, folder):
    """They were not there when the sweep was submitted."""
    (folder / "lr.toml").write_text('config = "base.toml"\n[params]\ndataset = ["rows.jsonl"]\n')
    say("submit", "lr.toml", "--frozen")
    (folder / "more.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    both = 'config = "base.toml"\n[params]\ndataset = ["rows.jsonl", "more.jsonl"]\n'
    (folder / "lr.toml").write_text(both)
    assert say("extend", "lr", "lr.toml")[0] == 0
    (folder / "more.jsonl").write_text("{}\n")
    say("work", "--until-empty")
    assert states() == ["queued", "queued"]
    assert "frozen: more.jsonl: has changed" in say("status")[1]


def test_results_that_are_gone_are_trained_anew(say, folder):
    """A folder that was deleted has nothing to show."""
    say("submit", "lr.toml")
    say("work", "--until-empty")
    (runs()[0].folder / "result.json").unlink()
    assert "1 done, 1 new" in say("submit", "lr.toml")[2]
    assert states()[2:] == ["queued", "completed"]


def test_what_waits_elsewhere_is_waited_for(say):
    """The second sweep trains nothing and is completed with the first."""
    say("submit", "lr.toml")
    assert "2 queued, 0 new" in say("submit", "lr.toml")[2]
    assert same_as() == [None, None, 1, 2]
    assert "waits for run 2, which is the same setting" in say("status", "lr-2")[1]
    say("work", "--until-empty")
    assert states() == ["completed"] * 4
    assert [len(attempts(i)) for i in (1, 2, 3, 4)] == [1, 1, 0, 0]
    assert runs()[3].folder == runs()[1].folder
    with Store.open() as store:
        kept = {tuple(r) for r in store._db.read("SELECT * FROM totals WHERE n > 0")}
        sql = "SELECT sweep_id, state, kind, count(*), sum(wall_s > 0), sum(wall_s) FROM runs"
        assert kept == {tuple(r) for r in store._db.read(f"{sql} GROUP BY 1, 2, 3")}


@pytest.mark.parametrize("how", ["cancel", "rm"])
def test_one_that_waits_takes_the_place_of_what_is_given_up(say, how):
    """The first of them is trained, the others wait for it."""
    for _ in range(3):
        say("submit", "lr.toml")
    assert say(how, "1")[0] == 0
    assert {run.id: run.same_as for run in runs() if run.id in (3, 5)} == {3: None, 5: 3}
    say("work", "--until-empty")
    assert {run.state for run in runs() if run.id > 1} == {"completed"}
    assert len(attempts(3)) == 1
    assert attempts(5) == []


def test_a_failed_run_that_is_retried_after_its_place_was_taken_trains_too(say):
    """Two owners of one setting cannot be: the database would refuse it."""
    say("submit", "lr.toml")
    with Store.open() as store, store._db.write():
        store._db.execute("UPDATE runs SET state = 'failed' WHERE id = 1")
    say("submit", "lr.toml")
    assert same_as()[2:] == [None, 2]
    assert say("retry", "1")[0] == 0
    say("work", "--until-empty")
    assert states() == ["completed"] * 4


def test_the_database_refuses_two_runs_of_one_setting(say):
    """Whatever the program does."""
    say("submit", "lr.toml")
    raw = sqlite3.connect(home().db)
    with pytest.raises(sqlite3.IntegrityError, match="identity"):
        raw.execute("UPDATE runs SET identity = 'x'")
    raw.close()


def test_files_that_another_sweep_shows_are_not_deleted(say, tmp_path):
    """`rm --files` of the first leaves what the second points at."""
    say("submit", "lr.toml")
    say("work", "--until-empty")
    say("submit", "lr.toml")
    folder = runs()[0].folder
    code, _, err = say("rm", "lr", "--files", "--yes")
    assert code == 0
    assert "stays: shown by a run of another sweep" in err
    assert (folder / "result.json").exists()
    (tmp_path / "other.toml").write_text(spec(1e-5, 1e-4))
    assert "2 done, 0 new" in say("submit", "other.toml")[2]


# --- the same setting by other ways into the queue


@pytest.mark.parametrize("waits", [False, True])
def test_a_shared_result_is_valued_by_the_sweep_that_shows_it(say, folder, waits):
    """The same runs ranked by another metric: the fake trainer's last loss is 1/3, its em 0.5."""
    say("submit", "lr.toml")
    if not waits:
        say("work", "--until-empty")
    other = folder / "loss.toml"
    other.write_text(spec(1e-5, 1e-4) + '[objective]\nmetric = "loss"\ngoal = "min"\n')
    assert say("submit", "loss.toml")[0] == 0
    say("work", "--until-empty")
    assert same_as() == [None, None, 1, 2]
    assert [run.value for run in runs()] == [0.5, 0.5, 1 / 3, 1 / 3]


def test_what_an_extension_adds_may_be_there_already(say, folder):
    """The added setting was trained by another sweep."""
    say("submit", "lr.toml")
    say("work", "--until-empty")
    (folder / "b.toml").write_text(spec(1e-3))
    say("submit", "b.toml")
    (folder / "b.toml").write_text(spec(1e-3, 1e-4))
    code, _, err = say("extend", "b", "b.toml")
    assert code == 0
    assert "1 done, 0 new; what is done is shown and not trained again" in err
    assert same_as() == [None, None, None, 2]
    assert states() == ["completed", "completed", "queued", "completed"]


def test_a_search_shows_what_was_trained_before(say, folder):
    """The same search twice: the second is told the first one's results and asks the same."""
    lines = ["[params]", 'learning_rate = { dist = "loguniform", min = 1e-6, max = 1e-2 }']
    lines += ["[search]", 'method = "tpe"', "runs = 12", "seed = 3"]
    (folder / "tpe.toml").write_text("\n".join(['config = "base.toml"', *lines]))
    for _ in range(2):
        say("submit", "tpe.toml")
        told = say("work", "--until-empty")[2]
        assert "nothing is queued" not in told
    assert states() == ["completed"] * 24
    assert same_as() == [None] * 12 + list(range(1, 13))


def test_one_run_is_recognised_too(say):
    """`run --queue` shows what a sweep has trained, and trains it with --again."""
    say("submit", "lr.toml")
    say("work", "--until-empty")
    words = ("run", "--queue", "--config", "base.toml", "--set", "learning_rate=1e-4")
    code, _, err = say(*words)
    assert code == 0
    assert "the same setting as run 2; nothing is trained again (--again would)" in err
    assert "same setting" not in say(*words, "--again")[2]
    assert same_as() == [None, None, 2, None]
    assert states()[2:] == ["completed", "queued"]
    code, _, err = say(*words[:1], *words[2:], "--again")
    assert code == 2
    assert "--again goes with --queue" in err


def signed(run):
    """Let the folder say whose it is, as the real trainer does."""
    (run.folder / "config.resolved.json").write_text(json.dumps({"hash": run.hash}))


def test_one_run_again_gets_a_folder_of_its_own(say, folder):
    """The trainer trains nothing in a folder that is done, so that one is left as it is."""
    words = ("run", "--queue", "--config", "base.toml", "--set", "output_dir=out")
    say(*words)
    say("work", "--until-empty")
    signed(runs()[0])
    say(*words, "--again")
    say("work", "--until-empty")
    assert [run.output_dir for run in runs()] == ["out", "out-2"]
    assert (folder / "out-2/result.json").exists()


def test_folders_of_two_runs_differ_in_more_than_case(say):
    """On a Mac they would be one."""
    for folder, rate in (("Out", "1e-4"), ("out", "1e-5")):
        words = ("--set", f"output_dir={folder}", "--set", f"learning_rate={rate}")
        say("run", "--queue", "--config", "base.toml", *words)
    assert [run.output_dir for run in runs()] == ["Out", "out-2"]


def test_again_into_folders_that_are_done_is_refused(say, folder):
    """An `output` without the sweep's name leads to them; nothing would be trained there."""
    (folder / "lr.toml").write_text('output = "out/{run}"\n' + spec(1e-5))
    say("submit", "lr.toml")
    say("work", "--until-empty")
    signed(runs()[0])
    code, _, err = say("submit", "lr.toml", "--again")
    assert code == 2
    assert "holds the same run, completed" in err
    assert say("submit", "lr.toml")[0] == 0
    assert states() == ["completed"] * 2


def test_settings_of_one_sweep_that_train_the_same_are_all_trained(say, folder):
    """They differ in memory or output alone, as a sweep over speed wants them."""
    (folder / "lr.toml").write_text(spec(1e-5) + "micro_batch_size = [1, 2]\n")
    code, _, err = say("submit", "lr.toml")
    assert (code, err.count("same")) == (0, 0)
    (folder / "lr.toml").write_text(spec(1e-5) + "micro_batch_size = [1, 2, 4]\n")
    assert say("extend", "lr", "lr.toml")[0] == 0
    assert same_as() == [None] * 3
    say("work", "--until-empty")
    assert [len(attempts(run.id)) for run in runs()] == [1, 1, 1]
    say("submit", "lr.toml")
    assert same_as()[3:] == [1, 1, 1]


def test_what_is_added_to_a_sweep_waits_for_no_later_one(say, folder):
    """That may wait for this very sweep, and neither would ever go on."""
    (folder / "a.toml").write_text(spec(1e-5))
    (folder / "b.toml").write_text(spec(1e-3))
    say("submit", "a.toml")
    say("submit", "b.toml", "--after", "a")
    (folder / "a.toml").write_text(spec(1e-5, 1e-3))
    assert say("extend", "a", "a.toml")[0] == 0
    say("work", "--until-empty")
    assert states() == ["completed"] * 3
