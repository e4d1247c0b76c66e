"""The report as one HTML file: the template filled in, with our style, our script and plotly's.

No network: a content security policy forbids it, and lets only our two scripts run (by hash), so
that a text of a run cannot act even where an escape were missing. The template escapes every value.
"""

import base64
import hashlib
import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from orchestrator.report.curve_data import curve_data, curve_panels
from orchestrator.report.gather import Facts
from orchestrator.report.run_data import details_data, table_data
from orchestrator.report.sections import context

_FOLDER = Path(__file__).parent
# In this order: each uses those before it.
SCRIPTS = ("parts.js", "curves.js", "run_sheet.js", "sections.js", "page.js")
# The sections in their order, without the runs: the live page has a table of its own.
SECTIONS = ("ranking", "not_well", "ill", "curves", "parameters", "time", "samples", "spec")
STYLES = ("page.css", "parts.css")


def page(facts: Facts, now: datetime) -> str:
    """The whole document."""
    plotly, script = get_plotlyjs(), "\n".join(map(_text, SCRIPTS))
    shown = context(facts, now)
    return (
        _environment()
        .get_template("page.html")
        .render(
            **shown,
            data={
                "table": table_data(facts),
                "curves": curve_data(facts),
                "figures": {"figures": shown["figures"], "lines": shown["lines"]},
                "details": details_data(facts),
            },
            # Our own files: all else is escaped.
            style=Markup("\n".join(map(_text, STYLES))),
            plotly=Markup(plotly),
            script=Markup(script),
            script_hashes=" ".join(map(_hash, (plotly, script))),
        )
    )


def sections(facts: Facts, now: datetime) -> dict[str, Any]:
    """The sections of the report for another page.

    `html` by name, in which every value is escaped, the figures for the places in it, and what the
    learning curves are to show.
    """
    shown = context(facts, now)
    html = {
        name: _environment().get_template(f"templates/{name}.html").render(**shown).strip()
        for name in SECTIONS
    }
    return {
        "html": {name: text for name, text in html.items() if text},
        "figures": shown["figures"],
        "lines": shown["lines"],
        "curves": curve_panels(facts),
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json_in_html"] = json_in_html
    return environment


def json_in_html(value: Any) -> Markup:
    """JSON in which nothing reads as markup, so that it may stand in a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
