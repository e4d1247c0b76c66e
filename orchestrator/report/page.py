"""The report as one HTML file: the template filled in, with our style, our script and plotly's.

No network: a content security policy forbids it, and lets only our two scripts run (by hash), so
that a text of a run cannot act even where an escape were missing. The template escapes every value.
"""

import base64
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from orchestrator.report.gather import Facts
from orchestrator.report.sections import context

_FOLDER = Path(__file__).parent


def page(facts: Facts, now: datetime) -> str:
    """The whole document."""
    plotly, script = get_plotlyjs(), _text("page.js")
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json_in_html"] = json_in_html
    return environment.get_template("page.html").render(
        **context(facts, now),
        # Our own files: all else is escaped.
        style=Markup(_text("page.css")),
        plotly=Markup(plotly),
        script=Markup(script),
        script_hashes=" ".join(map(_hash, (plotly, script))),
    )


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
