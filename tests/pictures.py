"""The pictures of the documents: parts of the report of a real small sweep, in headless Chromium.

`python -m tests.pictures` trains the sweep in a temporary folder (about five minutes on two cores)
and writes docs/pictures/; with a FOLDER the sweep is trained there, or taken as it lies there.
"""

import io
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.browser_kit import Page

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
MOST_BYTES = 200_000
MARGIN_PX = 20
# Six settings in three seeds: bands and intervals are there to be seen.
SPEC = f"""\
# Which learning rate, and how many completions a prompt? Six settings, three seeds each.
name   = "carry"
config = "{ROOT / "configs" / "tiny.toml"}"
seeds  = [0, 1, 2]

[set]
eval_steps = 4
kl_coeff   = 0.01

[params]
learning_rate   = [1e-4, 1e-3, 3e-3]
num_generations = [4, 8]
"""
DRAWN = "document.documentElement.dataset.drawn === 'true'"


@dataclass(frozen=True)
class Shot:
    """A picture: from the top of one part of the page to the end of another, in CSS pixels."""

    name: str
    first: str
    last: str
    width: int = 1000
    dark: bool = False
    touch: bool = False


SHOTS = (
    Shot("report-light", "header .kicker", ".ranking"),
    Shot("report-dark", "header .kicker", ".ranking", dark=True),
    Shot("curves", "#curves h2", "#curves .panels"),
    Shot("parameters", "#parameters h2", ".slices"),
    Shot("time", "#time h2", "#time"),
    Shot("samples", "#samples h2", "#samples article.run"),
    Shot("phone", "header .kicker", ".ranking", width=390, touch=True),
)


def trained_sweep(folder: Path) -> Path:
    """The report of the sweep, trained in `folder` where that is not yet done."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "carry.toml"
    spec.write_text(SPEC)
    home = folder / "home"
    env = {**os.environ, "GRPO_SWEEP_HOME": str(home), "GRPO_GPU_LOCK": str(folder / "gpu.lock")}

    def grpo_sweep(*words: str) -> None:
        program = [sys.executable, "-P", "-m", "orchestrator", *words]
        # The commands come from this checkout, wherever they run.
        subprocess.run(program, cwd=folder, env={**env, "PYTHONPATH": str(ROOT)}, check=True)

    if not (home / "queue.db").exists():
        grpo_sweep("submit", str(spec))
    grpo_sweep("work", "--until-empty")
    grpo_sweep("report", "carry", "-o", "report.html")
    return folder / "report.html"


def take(shot: Shot, report: Path) -> bytes:
    """A part of the report as a PNG, twice as fine as a CSS pixel, in few colours."""
    with Page(width=shot.width, dark=shot.dark, touch=shot.touch, scale=2) as page:
        page.open(report)
        page.eventually(DRAWN)
        top = page.js(_edge(shot.first, "top"))
        bottom = page.js(_edge(shot.last, "bottom"))
        area = {"x": 0, "y": top - MARGIN_PX, "width": shot.width}
        area["height"] = bottom - top + 2 * MARGIN_PX
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            page.screenshot(file.name, area=area)
            image = Image.open(file.name).convert("RGB")
    return smaller(image)


def _edge(selector: str, side: str) -> str:
    return f"document.querySelector('{selector}').getBoundingClientRect().{side} + scrollY"


def smaller(image: Image.Image) -> bytes:
    """In 256 colours, and less fine where that is more than `MOST_BYTES`."""
    for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5):
        size = (round(image.width * share), round(image.height * share))
        small = image if share == 1 else image.resize(size, Image.Resampling.LANCZOS)
        out = io.BytesIO()
        coverage = Image.Quantize.MAXCOVERAGE
        small.quantize(256, coverage, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() <= MOST_BYTES:
            return out.getvalue()
    raise SystemExit("a picture is too large: show a smaller part of the report")


def main(folder: Path) -> None:
    """Train, write the report, take every picture."""
    report = trained_sweep(folder)
    PICTURES.mkdir(exist_ok=True)
    for shot in SHOTS:
        png = take(shot, report)
        (PICTURES / f"{shot.name}.png").write_bytes(png)
        print(f"docs/pictures/{shot.name}.png: {len(png) / 1000:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).absolute())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
