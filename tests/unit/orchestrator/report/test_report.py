"""The report: what it says of a sweep, that no text of a run acts in it, and how large it gets."""

import base64
import hashlib
import json
import re
import shlex
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from orchestrator.cli import main
from orchestrator.queue.store import Store
from orchestrator.report.gather import gather, read_samples
from orchestrator.report.page import json_in_html, page
from orchestrator.run import Objective, Outcome, Verdict
from orchestrator.system.paths import home
from tests.queue_kit import nothing_before
from tests.sweep_kit import (
    add_sweep,
    finish_next,
    finished_sweep,
    lines_of,
    planned_run,
    sample,
    write_lines,
    write_run,
)

NOW = datetime(2026, 8, 1, 7, 30, tzinfo=UTC)
EVIL = "</script><img src=x onerror=alert(1)>&<b>%{x}"
THREE = [
    (0.1, {"learning_rate": 1e-5}),
    (0.9, {"learning_rate": 1e-3}),
    (0.3, {"learning_rate": 0.1}),
]


class Reader(HTMLParser):
    """Every element with its attributes, and the text by the section that it stands in."""

    def __init__(self):
        super().__init__()
        self.elements, self.texts, self.scripts = [], {}, []
        self._section, self._inside = "", ""

    def handle_starttag(self, tag, attrs):
        """An element; words on its two sides are apart."""
        found = dict(attrs)
        self.elements.append((tag, found))
        self._inside = tag
        if tag in ("header", "section", "footer"):
            self._section = found.get("id", tag)
        if tag == "script":
            self.scripts.append((found, ""))
        else:
            self._say(" ")

    def handle_data(self, data):
        """A text, of the section or of a script."""
        if self._inside == "script":
            found, text = self.scripts[-1]
            self.scripts[-1] = (found, text + data)
        else:
            self._say(data)

    def handle_endtag(self, tag):
        """The end of an element."""
        self._inside = ""
        self._say(" ")

    def _say(self, text):
        self.texts[self._section] = self.texts.get(self._section, "") + text

    def words(self, section):
        """The text of a section, blanks made single."""
        return " ".join(self.texts.get(section, "").split())


def facts_of(name):
    with Store.open(home().db, readonly=True) as store:
        return gather(store, store.queries.sweep(name), home())


def read(name):
    """The page of a sweep, parsed."""
    reader = Reader()
    reader.feed(page(facts_of(name), NOW))
    return reader


def figures(reader):
    return json.loads(next(text for found, text in reader.scripts if found.get("id") == "figures"))


# --- what it says


def test_a_report_tells_the_best_setting_its_interval_and_what_it_was_before(tmp_path):
    """The numbers are those of the logs: gain 0.9 ends near 0.3 + 0.4 * 0.98 * 0.9."""
    reader = read(finished_sweep(tmp_path, THREE, seeds=(0, 1, 2)))
    head = reader.words("header")
    assert "Best setting: learning_rate 1e-3" in head
    assert re.search(
        r"exact match 6[3-7]\.\d% 95% interval 6\d\.\d% –\u2060 6\d\.\d%, 3 seeds", head
    )
    assert re.search(r"before training (29|30|31)\.\d%", head)
    assert "runs 9 9 completed trained 9m 00s" in head
    ranking = reader.words("ranking")
    assert [m[1] for m in re.finditer(r"(1e-5|1e-3|0\.1) \d\d\.\d%", ranking)] == [
        "1e-3", "0.1", "1e-5",
    ]  # fmt: skip
    assert "The first is told apart from every other setting" in ranking


def test_one_run_a_setting_is_said_to_prove_little(tmp_path):
    """No interval over seeds is invented; the evaluation's own is named as such."""
    reader = read(finished_sweep(tmp_path, THREE))
    assert "Every setting ran once." in reader.words("ranking")
    assert "one run; " in reader.words("header")
    assert reader.words("ranking").count("one run") == 3


def test_settings_that_seeds_cannot_tell_apart_are_counted(tmp_path):
    """Two settings of the same gain, one far below."""
    near = [(0.8, {"lora_rank": 8}), (0.805, {"lora_rank": 16}), (0.1, {"lora_rank": 2})]
    words = read(finished_sweep(tmp_path, near, seeds=(0, 1, 2))).words("ranking")
    assert "These seeds do not tell the first apart from 1 other setting " in words


def test_a_lower_objective_can_be_the_better_one(tmp_path):
    """The run with the shortest completions leads, and is the best run of the samples."""
    runs = [planned_run(f"r{gain}", 0, {"kl_coeff": gain}) for gain in (0.9, 0.1)]
    name = add_sweep(tmp_path, runs, objective=Objective("completion_length", "min", "last:3"))
    for gain in (0.9, 0.1):
        finish_next(write=lambda run, gain=gain: write_run(run.folder, gain, 20))
    reader = read(name)
    assert "Best setting: kl_coeff 0.1" in reader.words("header")
    assert "mean of the last 3, lower is better" in reader.words("header")
    assert "before training" not in reader.words("header")  # The first length is that of update 1.
    assert reader.words("samples").startswith("What the model wrote Best run r0.1")
    assert "curve/setting/completion_length" in figures(reader)


def test_samples_are_the_first_and_the_last_of_the_best_and_the_worst_run(tmp_path):
    """Early and late, each with its reward and what was expected."""
    words = read(finished_sweep(tmp_path, THREE)).words("samples")
    best, _, worst = words.partition("Worst run")
    assert "s-1-s0, em" in best
    assert "s-0-s0, em" in worst
    for part, gain in ((best, 0.9), (worst, 0.1)):
        early, _, late = part.partition("Late update 20")
        assert "Early update 1" in early
        assert f"<answer>35</answer> gain {gain}" in early
        assert "reward 1 = correctness 1 · expected 25" in early
        assert "<answer>25</answer>" in late


def test_equal_completions_are_shown_once(tmp_path):
    """And a file of one update has no late part."""
    write_lines(tmp_path / "samples.jsonl", [sample(3, "a"), sample(3, "a"), sample(3, "b")])
    samples = read_samples(tmp_path)
    assert [s.completion for s in samples.early] == ["a", "b"]
    assert samples.late == ()


def test_what_lies_between_the_first_and_the_last_update_is_left_out(tmp_path):
    """However few samples the first update kept."""
    lines = [sample(update, f"at {update}") for update in (2, 3, 4)]
    write_lines(tmp_path / "samples.jsonl", lines)
    samples = read_samples(tmp_path)
    assert [s.completion for s in samples.early] == ["at 2"]
    assert [s.completion for s in samples.late] == ["at 4"]


def test_every_command_is_the_one_that_trains_the_run(tmp_path):
    """Folder, config and each --set, as a shell takes them."""
    facts = facts_of(finished_sweep(tmp_path / "it's", THREE))
    for run in facts.runs:
        words = shlex.split(run.command)
        assert words[:3] == ["cd", str(tmp_path / "it's"), "&&"]
        assert words[4:7] == ["-P", "-m", "grpo_core"]
        assert [words[i + 1] for i, word in enumerate(words) if word == "--set"] == list(
            run.run.set
        )


def test_failures_are_told_with_their_evidence(tmp_path):
    """Which run, why, and the line that proves it; its time counts as lost."""
    name = add_sweep(tmp_path, [planned_run("a", 0, {"lora_rank": 8}), planned_run("b", 0, {})])
    diverged = Outcome(Verdict.DIVERGED, "loss is not a number", "update 7: loss nan", 6)
    finish_next(diverged, 90.0, lambda run: write_run(run.folder, 1.0, 20))
    finish_next(write=lambda run: write_run(run.folder, 0.5, 20))
    reader = read(name)
    assert [score.run.name for score in facts_of(name).scores] == ["b"]
    words = reader.words("not-well")
    assert "a failed loss is not a number" in words.replace("diverged: ", "")
    assert "update 7: loss nan" in words
    assert "1m 30s of it in runs that failed" in reader.words("header")
    kinds = {trace["name"]: trace for trace in figures(reader)["timeline"]["data"]}
    assert set(kinds) == {"completed", "failed"}


def test_a_long_curve_says_how_many_updates_a_point_stands_for(tmp_path):
    """1,000 updates on 200 points; twenty-one evaluations stay as they are."""
    reader = read(finished_sweep(tmp_path, THREE[:2], updates=1000))
    drawn = figures(reader)
    assert reader.words("curves").count("each point is the mean of 5 updates") == 4
    assert len(drawn["curve/setting/reward_mean"]["data"][0]["x"]) == 200
    assert drawn["curve/setting/em"]["data"][0]["x"] == [*range(0, 1001, 50)]


def test_importance_is_told_where_there_are_enough_settings(tmp_path):
    """Twenty-four settings of which the rate alone decides."""
    rates = [10.0**-power for power in range(2, 8)]
    settings = [
        (1 - number / 6, {"learning_rate": rate, "lora_rank": rank})
        for number, rate in enumerate(rates)
        for rank in (2, 4, 8, 16)
    ]
    spec = f"config = 'base.toml'\n[params]\nlearning_rate = {rates}\nlora_rank = [2, 4, 8, 16]\n"
    drawn = figures(read(finished_sweep(tmp_path, settings, spec=spec)))
    bars = drawn["importance"]["data"][0]
    assert bars["y"] == ["lora_rank", "learning_rate"]
    assert bars["x"][1] > 0.8


def test_importance_is_never_made_up(tmp_path):
    """Too few settings, or a spec that can no longer be read: the reason, and all the rest."""
    few = read(finished_sweep(tmp_path / "few", THREE)).words("parameters")
    assert "Not estimated: needs 20 finished settings, there are " in few
    bad = read(finished_sweep(tmp_path / "bad", THREE, name="bad", spec="[params"))
    assert "Not estimated: " in bad.words("parameters")
    assert "Best setting" in bad.words("header")


# --- what is not there


def test_a_sweep_without_results_says_so_and_what_to_do(tmp_path):
    """No run has started: no ranking, no curves, but spec and commands."""
    name = add_sweep(tmp_path, [planned_run("a", 0, {"lora_rank": 8})])
    reader = read(name)
    assert "No run has a value of em yet (1 queued)" in reader.words("ranking")
    assert "No result yet" in reader.words("header")
    assert not reader.texts.keys() & {"curves", "parameters", "time", "samples", "not-well"}
    assert "learning_rate = [1e-5, 1e-3]" in reader.words("spec")
    assert "grpo_core" in reader.words("runs")


def test_a_running_sweep_shows_what_is_logged_so_far(tmp_path):
    """A torn last line and a run without a folder are passed over."""
    name = add_sweep(tmp_path, [planned_run(n, 0, {"lora_rank": n}) for n in (2, 4, 8)])
    finish_next(write=lambda run: write_run(run.folder, 0.5, 20))
    with Store.open(home().db) as store:
        run, _ = store.claims.claim("host", "boot", nothing_before)
    write_run(run.folder, 0.5, 20)
    for file in ("training_log.jsonl", "samples.jsonl"):
        with open(run.folder / file, "a") as log:
            log.write('{"update": 21, "reward_mean": 3')
    reader = read(name)
    lines = figures(reader)["curve/setting/reward_mean"]["data"]
    assert [max(line["x"]) for line in lines] == [20, 20]
    assert "runs 3 1 completed, 1 running, 1 queued" in reader.words("header")


def test_a_flat_metric_is_words_instead_of_an_empty_plot(tmp_path):
    """KL without a reference, and a metric that nobody logged."""

    def write(run):
        lines = [{**line, "kl": 0.0, "entropy": None} for line in lines_of(Still(), 0.5, 20)]
        write_lines(run.folder / "training_log.jsonl", lines)

    name = add_sweep(tmp_path, [planned_run("a", 0, {"lora_rank": 8})])
    finish_next(write=write)
    reader = read(name)
    words = reader.words("curves")
    assert "0 in every run, at every update; with kl_coeff = 0 there is no reference" in words
    assert "Entropy nats a token not logged" in words
    assert "curve/setting/kl" not in figures(reader)
    assert "This run kept no completions (log_completions = 0)." in reader.words("samples")


class Still:
    """A random source that never moves."""

    def gauss(self, center, _):
        """The center."""
        return center

    def random(self):
        """The middle."""
        return 0.5


# --- nothing acts


@pytest.fixture
def evil(tmp_path):
    """A sweep in which every text that a user or a model writes is markup."""
    runs = [
        planned_run(f"{number}{EVIL}", 0, {"system_prompt": f"{EVIL}{number}"}, tags=(EVIL,))
        for number in range(2)
    ]
    name = add_sweep(tmp_path, [*runs, planned_run("c", 0, {})], name=EVIL, spec=f"# {EVIL}")

    def write(run):
        write_run(tmp_path / run.output_dir, 0.5, 20)
        lines = [sample(1, EVIL, prompt=EVIL), sample(9, EVIL + "late", prompt=EVIL)]
        write_lines(run.folder / "samples.jsonl", [{**line, "answer": EVIL} for line in lines])

    finish_next(write=write)
    finish_next(write=write)
    finish_next(Outcome(Verdict.CONFIG, EVIL, EVIL, 2))
    return name


def test_texts_of_runs_are_shown_and_never_act(evil):
    """The page holds no element that the template did not write, and all texts word for word."""
    reader = read(evil)
    tags = {tag for tag, _ in reader.elements}
    assert tags <= {
        *("html", "head", "meta", "title", "style", "body", "a", "header", "p", "h1", "h2", "h3"),
        *("h4", "strong", "span", "dl", "div", "dt", "dd", "nav", "main", "section", "table"),
        *("thead", "tbody", "tr", "th", "td", "details", "summary", "fieldset", "legend", "label"),
        *("input", "button", "i", "figure", "figcaption", "select", "option", "article", "pre"),
        *("code", "br", "wbr", "footer", "script"),
    }
    assert all(not name.startswith("on") for _, attrs in reader.elements for name in attrs)
    assert len(reader.scripts) == 4
    for section in ("header", "not-well", "samples", "runs", "spec"):
        assert EVIL in reader.words(section), section


def test_no_text_in_a_figure_reads_as_markup(evil):
    """Plotly reads a little HTML in its texts; all that we pass is escaped, but our line breaks."""
    told = figures(read(evil))
    texts = re.findall(r"<[^>]*>", json.dumps(told))
    assert set(texts) == {"<br>"}
    assert "&lt;img src=x" in json.dumps(told)


def test_only_our_scripts_may_run_and_nothing_may_be_fetched(evil):
    """The policy names the hashes of the two scripts that are there, and no host."""
    reader = read(evil)
    policy = next(a["content"] for tag, a in reader.elements if "http-equiv" in a)
    ours = [text for found, text in reader.scripts if "type" not in found]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in ours]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert policy.split("; ") == [
        "default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'",
        "img-src data:", "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip
    assert all(
        not {"src", "href"} & a.keys() or a["href"].startswith("#") for _, a in reader.elements
    )


def test_json_in_a_script_cannot_end_it():
    """What comes back is what went in."""
    value = {"a": [EVIL, "<!--", "\u2028"]}
    text = json_in_html(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


# --- size


def test_200_runs_of_1000_updates_fit_into_15_megabytes(tmp_path):
    """67 settings of five parameters in three seeds; logs as long as the trainer's."""
    values = [
        {"learning_rate": 10.0 ** -(n % 5 + 2), "num_generations": 2 ** (n % 3 + 2),
         "temperature": 0.7 + n % 4 / 10, "kl_coeff": n / 1000, "loss_type": "dapo"}
        for n in range(67)
    ]  # fmt: skip
    write_run(tmp_path / "model", 0.7, 1000)
    runs = [
        planned_run(f"run-{seed}-{n}", seed, overrides)
        for seed in range(3)
        for n, overrides in enumerate(values)
    ]
    name = add_sweep(tmp_path, runs)
    for _ in runs:
        finish_next(write=lambda run: linked(tmp_path / "model", run.folder), value=0.5)
    html = page(facts_of(name), NOW)
    assert len(html.encode()) < 15_000_000


def linked(source, folder):
    """The same files under another name: what is measured is the report, not the disk."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        (folder / file.name).hardlink_to(file)


# --- the command


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
    """Exit codes as the design says, no traceback, nothing written."""
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
