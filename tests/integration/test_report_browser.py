"""The report in a real browser: it draws, asks the network for nothing, and works by keyboard."""

import json

import pytest

from orchestrator.cli import main
from orchestrator.run import Outcome, Verdict
from tests.browser_kit import EVIL, NEEDS_CHROMIUM, Page
from tests.report_kit import a_search_with_a_pruned_run
from tests.sweep_kit import (
    add_sweep,
    finish_next,
    finished_sweep,
    planned_run,
    sample,
    write_lines,
    write_run,
)

pytestmark = NEEDS_CHROMIUM

SETTINGS = [
    (gain, {"learning_rate": rate, "loss_type": loss})
    for gain, rate, loss in (
        (0.1, 1e-5, "grpo"), (0.9, 1e-3, "grpo"), (0.2, 1e-5, "dapo"), (0.7, 1e-3, "dapo"),
    )
]  # fmt: skip
DRAWN = "document.documentElement.dataset.drawn === 'true'"


@pytest.fixture
def ordinary(tmp_path):
    """The report of four settings in two seeds."""
    finished_sweep(tmp_path, SETTINGS, seeds=(0, 1), updates=60)
    path = tmp_path / "report.html"
    assert main(["report", "-o", str(path)]) == 0
    return path


@pytest.fixture
def evil(tmp_path):
    """The report of a sweep in which every text is markup."""
    runs = [
        planned_run(f"{n}{EVIL}", 0, {"system_prompt": f"{n}{EVIL}"}, tags=(EVIL,)) for n in (1, 2)
    ]
    add_sweep(tmp_path, [*runs, planned_run("c", 0, {})], name=f"evil{EVIL}", spec=f"# {EVIL}")

    def write(run):
        write_run(run.folder, 0.1 * len(run.name), 20)
        write_lines(run.folder / "samples.jsonl", [sample(1, EVIL, prompt=EVIL), sample(9, EVIL)])

    finish_next(write=write)
    finish_next(write=write)
    finish_next(Outcome(Verdict.CONFIG, EVIL, EVIL, 2))
    path = tmp_path / "evil.html"
    assert main(["report", "-o", str(path)]) == 0
    return path


def clean(page, path):
    """Nothing went wrong, and nothing but the file itself was asked for."""
    assert page.errors == []
    assert page.requests == [path.as_uri()]


@pytest.mark.parametrize(
    "device",
    [{}, {"dark": True}, {"width": 390, "height": 844, "touch": True}],
    ids=["light", "dark", "phone"],
)
def test_every_figure_is_drawn_without_an_error_or_a_request(ordinary, device):
    """Each place for a figure holds one, and the page is no wider than its window."""
    with Page(**device) as page:
        page.open(ordinary)
        page.eventually(DRAWN)
        places = page.js("[...document.querySelectorAll('.plot')].map(p => p.dataset.figure)")
        empty = page.js(
            "[...document.querySelectorAll('.plot:not([hidden])')]"
            ".filter(p => !p.querySelector('.trace, .point')).map(p => p.dataset.figure)"
        )
        assert {"ranking", "curve/setting/em", "parallel", "best", "timeline"} <= set(places)
        assert empty == []
        assert page.js("document.documentElement.scrollWidth") == device.get("width", 1280)
        clean(page, ordinary)


def test_text_can_be_read_in_light_and_dark(ordinary):
    """WCAG AA, 4.5 to 1, for text on the page and for the labels of the figures."""
    for device in ({}, {"dark": True}):
        with Page(**device) as page:
            page.open(ordinary)
            page.eventually(DRAWN)
            ratios = page.js(f"({CONTRASTS})()")
            low = {name: ratio for name, ratio in json.loads(ratios).items() if ratio < 4.5}
            assert low == {}


# The contrast of what is written and what it is written on (WCAG 2.2, relative luminance).
CONTRASTS = """() => {
  const lum = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const channels = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const page = lum(channels(getComputedStyle(document.body).backgroundColor));
  const found = {};
  const seen = {p: 'color', h1: 'color', '.note': 'color', '.lead': 'color', 'td.soft': 'color',
    th: 'color', '.tile.first .value': 'color', '.state-completed': 'color', 'nav a': 'color',
    '.plot .xtick text': 'fill', '.plot .annotation-text': 'fill', summary: 'color'};
  for (const [selector, property] of Object.entries(seen)) {
    const text = lum(channels(getComputedStyle(document.querySelector(selector))[property]));
    found[selector] = (Math.max(page, text) + 0.05) / (Math.min(page, text) + 0.05);
  }
  return JSON.stringify(found);
}"""


def test_texts_of_runs_never_act(evil):
    """No element, no link, no script of theirs; plotly shows a name word for word."""
    with Page() as page:
        page.open(evil)
        page.eventually(DRAWN)
        assert page.js("document.querySelectorAll('img, iframe, object, [onerror]').length") == 0
        assert page.js("document.querySelectorAll('a[href]:not([href^=\"#\"])').length") == 0
        assert page.js("document.querySelectorAll('svg a').length") == 0
        assert page.js("typeof pwned") == "undefined"
        assert page.js("document.title").startswith(f"evil{EVIL}")
        ticks = page.js(
            "[...document.querySelectorAll('[data-figure=timeline] .ytick text')]"
            ".map(t => t.textContent.trim())"
        )
        assert ticks == [f"{n}{EVIL}"[:27] + "…" for n in (1, 2)] + ["c"]
        clean(page, evil)


def test_a_script_in_the_page_is_not_run_and_is_seen(evil):
    """The second line of defence, and the proof that this test would notice."""
    leaking = evil.with_name("leaking.html")
    text = evil.read_text(encoding="utf-8")
    leak = "<script>window.pwned = 1</script><img src=http://127.0.0.1:9/x></main>"
    leaking.write_text(text.replace("</main>", leak), encoding="utf-8")
    with Page() as page:
        page.open(leaking)
        page.eventually(DRAWN)
        assert page.js("typeof window.pwned") == "undefined"
        words = json.dumps(page.errors)
        assert "script-src" in words
        assert "img-src" in words


def test_requests_and_errors_are_noticed(tmp_path):
    """The instrument itself: a page that asks for a file and throws."""
    path = tmp_path / "bad.html"
    path.write_text("<!doctype html><script src=gone.js></script><script>throw Error('a')</script>")
    with Page() as page:
        page.open(path)
        assert page.requests == [path.as_uri(), (tmp_path / "gone.js").as_uri()]
        assert len(page.errors) == 2


def test_curves_are_grouped_and_hidden_by_keyboard(ordinary):
    """Tab reaches the choice, an arrow changes it, Enter on a name hides its line."""
    lines = (
        "document.querySelector('[data-figure$=reward_mean]').data"
        ".filter(t => t.hovertext).map(t => t.visible !== false)"
    )
    with Page() as page:
        page.open(ordinary)
        page.eventually(DRAWN)
        assert page.js(lines) == [True] * 4
        page.js("document.querySelector('.note').scrollIntoView()")
        reach(page, "input[name=grouping]")
        page.press("ArrowRight")
        page.eventually(f"{lines}.length === 2")
        assert page.js("document.querySelector('input[name=grouping]:checked').value") == (
            "learning_rate"
        )
        reach(page, ".legend:not([hidden]) button")
        page.press("Enter", text="\r")
        page.eventually(f"{lines}.join() === 'false,true'")
        pressed = "document.activeElement.getAttribute('aria-pressed')"
        assert page.js(pressed) == "false"
        clean(page, ordinary)


def reach(page, selector):
    """Press Tab until the focus is there, as someone without a mouse does."""
    for _ in range(60):
        page.press("Tab")
        if page.js(f"document.activeElement.matches('{selector}')"):
            # A radio button is drawn by the text after it.
            drawn = "(e => e.matches('input') ? e.nextElementSibling : e)(document.activeElement)"
            assert page.js(f"getComputedStyle({drawn}).outlineStyle") == "solid"
            return
    raise AssertionError(f"Tab never reached {selector}")


def test_lines_of_the_parallel_coordinates_can_be_chosen(ordinary):
    """Of four settings the two with the chosen value stay; the others fade."""
    opacities = "document.querySelector('[data-figure=parallel]').data.map(t => t.opacity)"
    with Page() as page:
        page.open(ordinary)
        page.eventually(DRAWN)
        page.js(
            "(() => { const s = document.querySelector('select[data-key=loss_type]');"
            " s.value = 'dapo'; s.dispatchEvent(new Event('change')); })()"
        )
        page.eventually(f"{opacities}.filter(o => o < 0.1).length === 2")
        drawn = page.js("JSON.parse(document.getElementById('data-figures').textContent).lines")
        assert sorted(line["loss_type"] for line in drawn) == ["dapo", "dapo", "grpo", "grpo"]
        faded = [opacity < 0.1 for opacity in page.js(opacities)]
        assert faded == [line["loss_type"] != "dapo" for line in drawn]
        clean(page, ordinary)


SHOWN = "[...document.querySelectorAll('#runs-table tbody tr')].map(row => row.dataset.id)"


def choose(page, label, value):
    """Choose in a select, or write into a field, as its label names it."""
    page.js(
        f"(() => {{ const s = document.querySelector('[aria-label={json.dumps(label)}]');"
        f" s.value = {json.dumps(value)};"
        " s.dispatchEvent(new Event(s.matches('select') ? 'change' : 'input')); })()"
    )


def test_runs_are_sorted_filtered_and_opened(ordinary):
    """By number, not by text, a second click turns it round; a click on a run tells all of it."""
    with Page() as page:
        page.open(ordinary)
        page.eventually(DRAWN)
        values = (
            "[...document.querySelectorAll('#runs-table tbody tr')].map(r => r.cells[3].innerText)"
        )
        click = "document.querySelectorAll('#runs-table th button')[3].click()"
        page.js(click)
        falling = [float(value.rstrip("%")) for value in page.js(values)]
        page.js(click)
        rising = [float(value.rstrip("%")) for value in page.js(values)]
        assert falling == sorted(falling, reverse=True)
        assert rising == falling[::-1]
        choose(page, "Filter by loss_type", "=dapo")
        choose(page, "Filter by learning_rate", "=1e-3")
        assert sorted(page.js(SHOWN)) == ["4", "8"]
        page.js("document.querySelector('tr[data-id=\"8\"] a').click()")
        page.eventually("document.querySelector('#run .js-plotly-plot .trace') !== null")
        words = page.js("document.getElementById('run').innerText")
        for found in (
            "8 s-3-s1",
            "loss_type",
            "dapo",
            "grpo_core",
            "Attempt 1",
            "<answer>25</answer>",
        ):
            assert found in words
        assert page.js("location.hash") == "#run-8"
        page.press("Escape")
        page.eventually("!document.getElementById('run').open")
        # An id anywhere in the texts opens its run as well.
        page.js("document.querySelector('.ranking .ids a').click()")
        page.eventually("document.getElementById('run').open")
        clean(page, ordinary)


def test_an_address_that_ends_in_a_run_opens_it(ordinary):
    """As it is kept in a note."""
    with Page() as page:
        page.visit(f"{ordinary.as_uri()}#run-3")
        page.eventually("document.getElementById('run').open")
        assert "3 s-2-s0" in page.js("document.getElementById('run').innerText")
        assert page.errors == []


def test_a_command_is_copied_by_its_button(ordinary):
    """Word for word, as a shell takes it."""
    with Page() as page:
        page.visit(f"{ordinary.as_uri()}#run-1")
        page.eventually("document.getElementById('run').open")
        page.js(
            "Object.defineProperty(navigator, 'clipboard',"
            " {value: {writeText: async (text) => { window.copied = text; }}})"
        )
        page.js("document.querySelector('#run .copy').click()")
        told = page.eventually("window.copied")
        assert told == page.js("document.querySelector('#run pre.box').textContent")
        assert "-m grpo_core" in told
        assert page.errors == []


FIRST = "document.querySelectorAll('#curve-panels .plot')[0]"
SECOND = "document.querySelectorAll('#curve-panels .plot')[1]"


def test_any_metric_smoothed_on_a_log_axis_over_time_zoomed_together(ordinary):
    """Each control does what it says to the first panel; a zoom of one is that of all."""
    with Page() as page:
        page.open(ordinary)
        page.eventually(DRAWN)
        raw = page.js(f"{FIRST}.data.at(-1).y")
        page.js(
            "(() => { const s = document.querySelector('[name=smoothing]');"
            " s.value = 0.9; s.dispatchEvent(new Event('input')); })()"
        )
        page.eventually(f"{FIRST}.data.at(-1).y[5] !== {raw[5]}")
        smooth = page.js(f"{FIRST}.data.at(-1).y")
        # By hand: weights 1 and 0.9, divided by their sum.
        assert smooth[0] == pytest.approx(raw[0])
        assert smooth[1] == pytest.approx((0.9 * raw[0] + raw[1]) / 1.9, rel=1e-3)
        page.js("document.querySelector('[name=log]').click()")
        page.eventually(f"{FIRST}._fullLayout.yaxis.type === 'log'")
        page.js("document.querySelector('[name=time]').click()")
        # 60 updates of 1.234 seconds.
        page.eventually(f"Math.abs({FIRST}.data.at(-1).x.at(-1) - 74) < 0.2")
        zoom = "{'xaxis.range[0]': 10, 'xaxis.range[1]': 20}"
        page.js(f"Plotly.relayout({FIRST}, {zoom}).then(() => true)")
        page.eventually(f"{SECOND}._fullLayout.xaxis.range.map(Math.round).join() === '10,20'")
        page.js(
            "(() => { const s = document.querySelector('#curve-panels figure select');"
            " s.value = 'reward/format'; s.dispatchEvent(new Event('change')); })()"
        )
        page.eventually("document.querySelector('#curve-panels .empty:not([hidden])') !== null")
        words = page.js("document.querySelector('#curve-panels .empty:not([hidden])').innerText")
        assert words == "0.4000 in every run, at every update"
        clean(page, ordinary)


def test_the_mean_of_a_setting_ends_where_one_of_its_runs_was_pruned(tmp_path):
    """Up to there a line with a mark that no other has, beyond it dots; 20 updates, 10 of one."""
    a_search_with_a_pruned_run(tmp_path)
    path = tmp_path / "report.html"
    assert main(["report", "-o", str(path)]) == 0
    with Page() as page:
        page.open(path)
        page.eventually(DRAWN)
        data = page.js("document.querySelector('[data-figure=\"curve/setting/reward_mean\"]').data")
    lines = [trace for trace in data if trace.get("hoverinfo") == "text"]
    solid = [trace for trace in lines if trace["line"].get("dash") is None]
    dotted = [trace for trace in lines if trace["line"].get("dash") == "dot"]
    assert sorted(trace["x"][-1] for trace in solid) == [10, 10, 20]
    assert [[x for x in trace["x"] if x is not None] for trace in dotted] == [[*range(11, 21)]]
    assert "1 of 2 runs" in dotted[0]["hovertext"][-1]
    assert len({trace["marker"]["symbol"] for trace in solid}) == 3


def test_a_print_holds_every_figure(ordinary, tmp_path):
    """A PDF on paper, from a dark screen too: figures are made as wide as the paper."""
    with Page(dark=True) as page:
        page.open(ordinary)
        page.eventually(DRAWN)
        widths = "[...document.querySelectorAll('.plot')].map(p => p._fullLayout.width)"
        before = page.js(widths)
        page.js("window.printed = []")
        page.js(f"addEventListener('beforeprint', () => window.printed = {widths})")
        page.pdf(tmp_path / "a.pdf")
        assert max(page.js("window.printed")) <= 690
        page.eventually(f"{widths}.join() === '{','.join(map(str, before))}'")
        assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
        clean(page, ordinary)
