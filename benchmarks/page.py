"""What the live page takes: first paint, an update on the screen, and its cost while nothing moves.

    python benchmarks/page.py [--runs 200 1000] [--json FILE]

A queue of so many completed runs (their logs made up, 60 updates each) and one that runs, opened by
`grpo-sweep ui` in headless Chromium. First paint is the browser's own first contentful paint, drawn
is when the curves of the run are there; both from the start of the navigation, medians of five. An
update is on the screen when the page shows the number of a line that was just written; the worst of
ten. The cost is the processor's time of the server over twenty seconds with the page open, as a
share of one core: while nothing moves, and while a line comes each second. Needs chromium.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
if Path(sys.path[0]) == HERE:
    # Run as a script: this folder's queue.py would stand in for the standard library's.
    sys.path[0] = str(HERE.parent)

import psutil  # noqa: E402

from orchestrator.queue.store import Store  # noqa: E402
from orchestrator.run import Progress  # noqa: E402
from orchestrator.system.paths import home  # noqa: E402
from tests.browser_kit import Page  # noqa: E402
from tests.queue_kit import nothing_before  # noqa: E402
from tests.sweep_kit import (  # noqa: E402
    COMPLETED,
    add_sweep,
    lines_of,
    planned_run,
    write_run,
)
from tests.ui_kit import Server, visit  # noqa: E402

UPDATES, VISITS, LAGS, IDLE_S = 60, 5, 10, 20.0
DRAWN = "document.querySelector('#live .plot .main-svg') !== null"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
WORDS = "(document.querySelector('.progress-words b') || {innerText: '-1'}).innerText"
SHOWN = f"Number({WORDS}.split(' ')[0])"


def queue(folder, count):
    """The queue, and the log of the run that runs."""
    todo = [
        planned_run(f"r{number}", number % 3, {"learning_rate": 10 ** -(2 + number / count)})
        for number in range(count + 1)
    ]
    add_sweep(folder, todo)
    with Store.open(home().db) as store:
        for number in range(count):
            run, attempt = store.claims.claim("host", "boot", nothing_before)
            gain = number % 97 / 97
            write_run(run.folder, gain, UPDATES, run.seed)
            ends = {"newer_checkpoint": True, "progress": Progress(UPDATES, UPDATES, {"em": gain})}
            store.claims.finish(attempt, COMPLETED, wall_s=60.0, value=gain, **ends)
        run, _ = store.claims.claim("host", "boot", nothing_before)
    write_run(run.folder, 0.5, UPDATES, run.seed)
    return Path(run.folder, "training_log.jsonl")


def log_update(log, update):
    """Write the line of one more update, as a trainer does."""
    line = next(each for each in lines_of(random.Random(update), 0.5, 1) if "loss" in each)
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(line | {"update": update, "updates_total": 10_000}) + "\n")


def measure(folder, count):
    """Of a queue with so many runs."""
    log = queue(folder, count)
    update = UPDATES
    paints, drawn, lags = [], [], []
    with Server(folder) as server:
        for _ in range(VISITS):
            with Page() as page:
                visit(page, server.link)
                page.eventually(DRAWN)
                drawn.append(page.js("performance.now()") / 1e3)
                paints.append(page.js(PAINT) / 1e3)
        process = psutil.Process(server.process.pid)
        with Page() as page:
            visit(page, server.link)
            page.eventually(DRAWN)
            for _ in range(LAGS):
                update += 1
                began = time.monotonic()
                log_update(log, update)
                page.eventually(f"{SHOWN} >= {update}")
                lags.append(time.monotonic() - began)
            still = _share(process, lambda: None)

            def moves():
                nonlocal update
                update += 1
                log_update(log, update)

            moving = _share(process, moves)
            errors = len(page.errors)
    return {
        "runs": count,
        "first_paint_s": statistics.median(paints),
        "drawn_s": statistics.median(drawn),
        "update_on_screen_s": max(lags),
        "still_share": still,
        "moving_share": moving,
        "console_errors": errors,
    }


def _share(process, each_second):
    """The processor's time of a process, as a share of one core; 20 s with something done each."""
    before, began = process.cpu_times(), time.monotonic()
    while time.monotonic() - began < IDLE_S:
        each_second()
        time.sleep(1)
    after, seconds = process.cpu_times(), time.monotonic() - began
    return (after.user + after.system - before.user - before.system) / seconds


def main():
    """Measure and print, one size after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = []
    for count in args.runs:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["GRPO_SWEEP_HOME"] = f"{folder}/home"
            found.append(measure(Path(folder), count))
        print(json.dumps(found[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
