"""The report of a sweep, read as a browser would, for its tests."""

import json
from datetime import UTC, datetime
from html.parser import HTMLParser

from orchestrator.queue.store import Store
from orchestrator.report.gather import gather
from orchestrator.report.page import page
from orchestrator.run import Outcome, Verdict
from orchestrator.system.paths import home
from tests.sweep_kit import add_sweep, finish_next, planned_run, write_run

NOW = datetime(2026, 8, 1, 7, 30, tzinfo=UTC)
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
    """What the report knows of a sweep."""
    with Store.open(home().db, readonly=True) as store:
        return gather(store, store.queries.sweep(name), home())


def read(name):
    """The page of a sweep, parsed."""
    reader = Reader()
    reader.feed(page(facts_of(name), NOW))
    return reader


def data(reader, name):
    """What a page holds for its script: table, curves, figures or details."""
    return json.loads(
        next(text for found, text in reader.scripts if found.get("id") == f"data-{name}")
    )


def figures(reader):
    """The figures of a page, by id, as plotly gets them."""
    return data(reader, "figures")["figures"]


def curves(reader, metric):
    """The points (update, value) of each run that has logged a metric."""
    found = data(reader, "curves")
    return [
        list(zip(found["grids"][grid], values, strict=True))
        for grid, values in found["metrics"][metric]["of"].values()
    ]


PRUNED = Outcome(Verdict.PRUNED, "below the median", "0.2 < 0.4")
SEARCH = """
[params]
learning_rate = { dist = "loguniform", min = 1e-6, max = 1e-2 }
[search]
method = "random"
runs = 3
"""


def a_search_with_a_pruned_run(tmp_path):
    """Three draws; the first is pruned at update 10 of 20, one seed of the second too."""
    rates = (1.23456e-6, 7.90332e-5, 3.45678e-4)
    runs = [planned_run(f"r{i}-s{s}", s, {"learning_rate": r}) for s in (0, 1)
            for i, r in enumerate(rates)]  # fmt: skip
    name = add_sweep(tmp_path, runs, spec=SEARCH)
    for number in range(len(runs)):
        pruned = number in (0, 3, 4)

        def write(queued, pruned=pruned, gain=0.2 + 0.3 * (number % 3)):
            write_run(queued.folder, gain, 20)
            if pruned:
                log = queued.folder / "training_log.jsonl"
                log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:11]))

        finish_next(*([PRUNED] if pruned else []), write=write)
    return name
