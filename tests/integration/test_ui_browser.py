"""The page in a real browser while runs train: it follows, its buttons work, nothing goes out."""

import http.server
import json
import threading
import time

import pytest

from orchestrator.run import Outcome, Verdict
from orchestrator.system.paths import home
from orchestrator.worker.serving import NodeStatus, serve_alone
from tests.browser_kit import EVIL, NEEDS_CHROMIUM, Page
from tests.queue_kit import attempts, eventually, planned, runs, states, submit
from tests.sweep_kit import (
    add_sweep,
    finish_next,
    planned_run,
    sample,
    write_lines,
    write_run,
)
from tests.ui_kit import Server, visit

pytestmark = NEEDS_CHROMIUM

PHONE = {"width": 390, "height": 844, "touch": True, "dark": True}
DRAWN = "document.querySelector('#live .plot .main-svg') !== null"


def clean(page, server):
    """Nothing went wrong, and nothing but this server was asked for anything."""
    assert page.errors == []
    outside = [url for url in page.requests if not url.startswith((server.link[:21], "data:"))]
    assert outside == []


def press(page, selector):
    """Press a button once it is there."""
    page.eventually(f"document.querySelector('{selector}') !== null")
    page.js(f"document.querySelector('{selector}').click()")


def text_of(page, selector):
    """What an element shows, blanks made single; empty where it is not there."""
    words = page.js(f"(document.querySelector('{selector}') || {{innerText: ''}}).innerText")
    return " ".join(words.split())


@pytest.fixture
def trained(tmp_path):
    """A sweep of twelve settings, one failed, some still waiting."""
    todo = [
        planned_run(
            f"lr{rate:.0e}-{loss}-s{seed}", seed, {"learning_rate": rate, "loss_type": loss}
        )
        for seed in (0, 1)
        for rate in (1e-5, 1e-4, 1e-3)
        for loss in ("grpo", "dapo")
    ]
    add_sweep(tmp_path, todo, "lr")
    for gain in (0.1, 0.9, 0.2, 0.7, 0.4):
        finish_next(write=lambda run, gain=gain: write_run(run.folder, gain, 40, run.seed))
    finish_next(Outcome(Verdict.OOM, "out of memory", "bad_alloc", 4))
    return tmp_path


@pytest.mark.parametrize("device", [{}, {"dark": True}, PHONE], ids=["light", "dark", "phone"])
def test_the_first_screen_says_what_matters(trained, device):
    """The failure with its reason, that no worker runs, the best setting; no wider than it is."""
    with Server(trained) as server, Page(**device) as page:
        visit(page, server.link)
        page.eventually(DRAWN)
        assert "6 lr1e-03-dapo-s0 out of memory" in text_of(page, "[data-band=failures]")
        assert "No worker runs" in text_of(page, "[data-band=idle]")
        assert "learning_rate 1e-5 · loss_type dapo" in text_of(page, "#best .lead")
        assert page.js("document.querySelectorAll('#runs-table tbody tr').length") == 12
        assert page.js("document.documentElement.scrollWidth") == device.get("width", 1280)
        # The link's secret is gone from the address.
        assert page.js("location.href") == f"http://{server.host}/"
        clean(page, server)


def test_a_real_sweep_is_followed_cancelled_and_taken_back(tmp_path, start):
    """Updates appear as they are logged, a click cancels, Undo queues again, a worker dies."""
    submit(tmp_path, *(planned(f"r{n}", updates=2000, update_s=0.2) for n in range(3)))
    with Server(tmp_path) as server, Page() as page:
        visit(page, server.link)
        worker = start()
        page.eventually("document.querySelector('.progress-words b') !== null")
        assert "1 r0" in text_of(page, "#now-head h1")
        log = runs()[0].folder / "training_log.jsonl"
        late = [lag(page, log) for _ in range(3)]
        assert max(late) < 10  # Far above what a quiet machine needs: see docs/ui.md.
        press(page, "#now-head [data-action=cancel]")
        press(page, ".toast button")
        # By its attempt: it is queued again as soon as it is cancelled.
        eventually(lambda: attempts()[0].outcome == "cancelled")
        # The worker goes on with the next one, and the one that was taken back waits again.
        eventually(lambda: states()[0] in ("queued", "running"))
        worker.kill()
        page.eventually("document.querySelector('[data-band=idle]') !== null")
        clean(page, server)


def lag(page, log):
    """Seconds until the page shows an update that the log holds now."""
    update = json.loads(log.read_text().splitlines()[-1])["update"]
    began = time.monotonic()
    shown = "Number(document.querySelector('.progress-words b').innerText.split(' ')[0])"
    page.eventually(f"document.querySelector('.progress-words b') && {shown} >= {update}")
    return time.monotonic() - began


def test_runs_are_filtered_sorted_and_opened(trained):
    """By a value, by a bound, by a click on a head; a run opens with all that is known of it."""
    shown = "[...document.querySelectorAll('#runs-table tbody tr')].map(row => row.dataset.id)"
    with Server(trained) as server, Page() as page:
        visit(page, server.link)
        page.js(
            "(() => { const s = document.querySelector('[aria-label=\"Filter by loss_type\"]');"
            " s.value = '=dapo'; s.dispatchEvent(new Event('change')); })()"
        )
        assert page.js(shown) == ["2", "4", "6", "8", "10", "12"]
        page.js(
            "(() => { const s = document.querySelector('[aria-label=\"Filter by learning_rate\"]');"
            " s.value = '=1e-5'; s.dispatchEvent(new Event('change')); })()"
        )
        assert page.js(shown) == ["2", "8"]
        assert text_of(page, "#runs-table .count") == "2 of 12 runs"
        page.js(
            "document.querySelectorAll('#runs-table .filter-row select').forEach(s =>"
            " { s.value = ''; s.dispatchEvent(new Event('change')); })"
        )
        page.js("document.querySelectorAll('#runs-table th button')[3].click()")
        best = sorted(runs()[:5], key=lambda run: -run.value)
        assert page.js(shown)[:5] == [str(run.id) for run in best]
        press(page, 'tr[data-id="6"] .link')
        page.eventually("document.getElementById('run').open")
        words = text_of(page, "#run")
        for found in (
            "out of memory",
            "bad_alloc",
            "Attempt 1",
            "grpo_core",
            str(runs()[5].folder),
        ):
            assert found in words
        assert page.js("location.hash") == "#run-6"
        page.press("Escape")
        page.eventually("!document.getElementById('run').open")
        clean(page, server)


def scroll_to_sections(page):
    """As somebody does who wants to see the report; until it is there."""
    page.js("document.getElementById('sections').scrollIntoView()")
    page.eventually("document.getElementById('sections').dataset.drawn !== undefined")


@pytest.mark.parametrize("device", [{}, PHONE], ids=["light", "phone"])
def test_the_reports_sections_follow_the_queue(trained, device):
    """Below the table, with their figures; a run that ends is in them, and a choice stays."""
    curve = "document.querySelector('[data-figure=\"curve/loss_type/reward_mean\"]')"
    with Server(trained) as server, Page(**device) as page:
        visit(page, server.link)
        assert page.js("document.getElementById('ranking')") is None
        scroll_to_sections(page)
        heads = page.js("[...document.querySelectorAll('#sections h2')].map(h => h.innerText)")
        assert heads == [
            "Ranking", "What did not end well", "Learning curves", "Parameters", "Time",
            "What the model wrote", "Spec",
        ]  # fmt: skip
        empty = page.js(
            "[...document.querySelectorAll('#sections .plot:not([hidden])')]"
            ".filter(p => !p.querySelector('.trace, .point')).map(p => p.dataset.figure)"
        )
        assert empty == []
        page.js("document.querySelector('#sections input[value=loss_type]').click()")
        page.eventually(f"{curve} !== null")
        page.js("document.querySelector('#sections details').open = true")
        rows = "document.querySelectorAll('.ranking tbody tr:not(.axis)').length"
        assert page.js(rows) == 5
        finish_next(write=lambda run: write_run(run.folder, 0.6, 40, run.seed))
        page.eventually(
            f"{rows} === 5 && document.querySelector('#ranking').innerText.includes('7')"
        )
        # A new run of a known setting: its group's line is now the mean of one run more.
        page.eventually(f"{curve}?.data.some(t => t.hovertext?.at(-1).includes('4 runs'))")
        assert page.js("document.querySelector('#sections input[value=loss_type]').checked")
        assert page.js("document.querySelector('#sections details').open")
        assert page.js("document.documentElement.scrollWidth") == device.get("width", 1280)
        clean(page, server)


@pytest.mark.parametrize("device", [{}, PHONE], ids=["screen", "phone"])
def test_nodes_stand_in_a_table_and_are_paused_there(tmp_path, device):
    """What each has and why it trains nothing; no wider than the screen."""
    add_sweep(tmp_path, [planned_run("r", 0, {})])
    nodes = [
        NodeStatus("mini", "mini", "metal", 16_000_000_000, 2),
        NodeStatus("old", unfit="it has mlx 0.1, and here it is 0.2"),
    ]
    with serve_alone(home()) as serving, Server(tmp_path) as server, Page(**device) as page:
        serving.offer(["mini/0", "mini/1"], nodes)
        visit(page, server.link)
        page.eventually("document.querySelectorAll('table.nodes tbody tr').length === 2")
        rows = text_of(page, "table.nodes tbody")
        assert "mini 2 metal 16.0 GB – there Pause" in rows
        assert "old" in rows and "gets no run: it has mlx 0.1, and here it is 0.2" in rows
        assert page.js("document.documentElement.scrollWidth <= innerWidth")
        press(page, 'table.nodes [data-slot="mini"]')
        page.eventually(
            "document.querySelector('table.nodes [data-slot=\"mini\"]').innerText === 'Resume'"
        )
        assert "paused Resume" in text_of(page, "table.nodes tbody")
        clean(page, server)


def test_a_spec_is_pasted_tried_and_queued(trained):
    """Faults in words, then a dry run, then the runs; an edit asks for another dry run."""
    (trained / "base.toml").write_text('model_name = "builtin/tiny"\n')
    fill = (
        "(text => {{ const t = document.querySelector('textarea.spec'); t.value = text;"
        " t.dispatchEvent(new Event('input')); }})({})"
    )
    queue_it = "[...document.querySelectorAll('#submit .do')].at(-1)"
    with Server(trained) as server, Page(**PHONE) as page:
        visit(page, server.link)
        press(page, "[data-do=submit]")
        page.js(fill.format(json.dumps('config = "base.toml"\n[params]\nlearning_rat = [1]')))
        press(page, "#submit .do.main")
        page.eventually("document.querySelector('.fault') !== null")
        assert "did you mean learning_rate" in text_of(page, ".fault")
        assert page.js(f"{queue_it}.disabled")
        page.js(fill.format(json.dumps('config = "base.toml"\n[params]\nlearning_rate = [1e-4]')))
        press(page, "#submit .do.main")
        page.eventually(f"!{queue_it}.disabled")
        assert "1 run" in text_of(page, "#submit section")
        page.js(f"{queue_it}.click()")
        page.eventually("!document.getElementById('submit').open")
        page.eventually("document.querySelector('#best h2').innerText === 'pasted'")
        assert len(runs()) == 13
        # The refusal of the first dry run is an answer 400, which a browser notes as an error.
        assert [e for e in page.errors if "400" not in json.dumps(e)] == []


def test_texts_of_runs_never_act(tmp_path):
    """Names, settings, reasons, completions and logs that are markup stay text."""
    todo = [planned_run(f"{n}{EVIL}", 0, {"system_prompt": f"{n}{EVIL}"}) for n in (1, 2)]
    add_sweep(tmp_path, todo, name=f"evil{EVIL}")

    def write(run):
        write_run(run.folder, 0.5, 20)
        write_lines(run.folder / "samples.jsonl", [sample(1, EVIL, prompt=EVIL), sample(9, EVIL)])

    finish_next(write=write)
    finish_next(Outcome(Verdict.CONFIG, EVIL, EVIL, 2))
    with Server(tmp_path) as server, Page() as page:
        visit(page, server.link)
        page.eventually(DRAWN)
        for run_id in (1, 2):
            press(page, f'tr[data-id="{run_id}"] .link')
            page.eventually(f"document.querySelector('#run h2')?.innerText.startsWith('{run_id} ')")
        assert EVIL in page.js("document.querySelector('#run').textContent")
        assert page.js("document.querySelectorAll('img, iframe, object, [onerror]').length") == 0
        page.press("Escape")
        scroll_to_sections(page)
        assert EVIL in page.js("document.querySelector('#sections').textContent")
        assert page.js("document.querySelectorAll('img, iframe, object, [onerror]').length") == 0
        links = "[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))"
        assert set(page.js(links)) == {"#main", "/report/1", "#run-1", "#run-2"}
        assert page.js("typeof pwned") == "undefined"
        # The report opens beside it, under its own policy.
        page.visit(f"http://{server.host}/report/1")
        page.eventually("document.documentElement.dataset.drawn === 'true'")
        assert page.js("document.title").startswith("evil")
        clean(page, server)


def test_a_script_in_the_page_is_not_run(trained):
    """The second line of defence, where an escape were missing."""
    with Server(trained) as server, Page() as page:
        visit(page, server.link)
        page.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"pwned=1\">')")
        page.js(
            "document.body.append(Object.assign(document.createElement('script'),"
            " {textContent: 'window.pwned = 1'}))"
        )
        page.eventually("true")
        assert page.js("typeof window.pwned") == "undefined"
        assert "script-src" in json.dumps(page.errors)


class _Attacker(http.server.BaseHTTPRequestHandler):
    """Another page of this machine: its cookies are the same, its origin is not."""

    def do_GET(self):
        """An empty page."""
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title>")

    def log_message(self, *_):
        """Says nothing."""


def test_another_page_of_the_same_machine_can_neither_read_nor_act(trained):
    """Same site, so SameSite lets its cookie through: the origin is what stops it."""
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Attacker)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    attack = """(async () => {
      const url = 'http://%s', found = [];
      const send = (path, how) => fetch(url + path, {credentials: 'include', ...how})
        .then(r => found.push([r.type, r.status]), () => found.push(['failed', 0]));
      await send('/api/runs/7/cancel', {method: 'POST', mode: 'no-cors'});
      await send('/api/queue/pause', {method: 'POST', mode: 'cors',
        headers: {'x-grpo-sweep-act': 'guess'}});
      await send('/api/queue', {mode: 'cors'});
      const script = document.createElement('script');
      script.src = url + '/api/queue';
      found.push(await new Promise(done => {
        script.onload = () => done('loaded'); script.onerror = () => done('refused');
        document.head.append(script); }));
      const frame = document.createElement('iframe');
      frame.src = url + '/';
      document.body.append(frame);
      await new Promise(done => { frame.onload = done; setTimeout(done, 3000); });
      let inside = 'none';
      try { inside = frame.contentDocument ? 'readable' : 'closed'; } catch { inside = 'closed'; }
      return JSON.stringify([found, inside]);
    })()"""
    try:
        with Server(trained) as server, Page() as page:
            visit(page, server.link)
            page.visit(f"http://127.0.0.1:{other.server_port}/")
            found, inside = json.loads(page.js(attack % server.host))
            assert found[:3] == [["failed", 0]] * 3
            assert (found[3], inside) == ("refused", "closed")
            assert states()[6] == "queued"
            assert server.process.poll() is None
    finally:
        other.shutdown()


def test_two_browsers_and_a_server_that_dies(trained):
    """What one does the other sees; without a server both say so, and training is not touched."""
    before = states()
    with Server(trained) as server, Page() as one, Page(**PHONE) as two:
        visit(one, server.link)
        visit(two, server.link)
        press(one, "[data-do=pause]")
        two.eventually("document.querySelector('[data-do=resume]') !== null")
        press(two, "[data-do=resume]")
        one.eventually("document.querySelector('[data-do=pause]') !== null")
        server.process.kill()
        server.process.wait()
        for page in (one, two):
            page.eventually(
                "document.getElementById('bands').innerText.includes('does not answer')"
            )
            assert "training is not touched" in text_of(page, "#bands")
    assert states() == before
