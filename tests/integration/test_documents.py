"""Every command and snippet of the documents is run, in a folder like that of a user."""

import subprocess

import pytest

from tests.doc_blocks import DOCUMENTS, ROOT
from tests.doc_runner import NOT_RUN, a_world, blocks, lines, rows, run, settle, typed

NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
BLOCKS = [block for name in NAMES for block in blocks(name)]
# Each row of the guide as well: what people do today, and its like here.
ROWS = rows("docs/from-mlx-grpo.md")
# What two documents say alike but for the comments, as both READMEs do, is run once, for the first.
FIRSTS = {typed(block): block for block in reversed([*BLOCKS, *ROWS]) if block.not_run is None}
RUN = list(reversed(FIRSTS.values()))
LEFT_OUT = [block for block in BLOCKS if block.not_run is not None]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One folder for all blocks, as for a reader who goes through the documents."""
    with a_world(tmp_path_factory.mktemp("documents")) as made:
        yield made


@pytest.mark.parametrize("block", [pytest.param(block, id=block.where) for block in RUN])
def test_block_does_what_it_says(world, block):
    """Exit code 0 and no traceback, from the first line to the last."""
    run(block, world)
    settle(world)


def test_hardly_anything_is_left_out():
    """Each with one of our reasons; a new one has to be argued for here."""
    assert {block.not_run for block in LEFT_OUT} <= NOT_RUN.keys()
    assert len(LEFT_OUT) <= 15
    assert len(RUN) >= 30
    assert len(ROWS) >= 10


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, id=block.where) for block in LEFT_OUT if block.language != "python"],
)
def test_what_is_left_out_is_shell_at_least(block):
    """bash reads it; `test_docs.py` holds its commands to our parsers."""
    text = "\n".join(lines(block))
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
