"""The report of a sweep, read as a browser would, for its tests."""

import json
from datetime import UTC, datetime
from html.parser import HTMLParser

from orchestrator.queue.store import Store
from orchestrator.report.gather import gather
from orchestrator.report.page import page
from orchestrator.system.paths import home

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


def figures(reader):
    """The figures of a page, by id, as plotly gets them."""
    return json.loads(next(text for found, text in reader.scripts if found.get("id") == "figures"))
