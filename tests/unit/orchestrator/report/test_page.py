"""No text of a run acts in the page, nothing is fetched, and it stays small."""

import base64
import hashlib
import json
import re

import pytest

from orchestrator.report.page import json_in_html, page
from orchestrator.run import Outcome, Verdict
from tests.report_kit import NOW, facts_of, figures, read
from tests.sweep_kit import (
    add_sweep,
    finish_next,
    planned_run,
    sample,
    write_lines,
    write_run,
)

EVIL = "</script><img src=x onerror=alert(1)>&<b>%{x}"


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
        *("code", "br", "wbr", "footer", "script", "dialog"),
    }
    assert all(not name.startswith("on") for _, attrs in reader.elements for name in attrs)
    # Four of data, plotly's and ours.
    assert len(reader.scripts) == 6
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


# Half a minute: 200 logs of 1,000 lines are read.
@pytest.mark.slow
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
