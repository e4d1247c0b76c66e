"""docs/models.md says what every family of mlx-lm can do, as it is."""

import pkgutil

import mlx_lm.models
import pytest

from tests.families import HEADS, PAGE, faults_of, reasons, rows_of, tried
from tests.zoo import MAKES, NOT_HERE

# Parts of models, models for images whose text model is there by another name, and what mlx-lm
# gives no weights for.
NOT_FAMILIES = {
    *("activations", "base", "bitlinear_layers", "cache", "gated_delta", "mla", "pipeline"),
    *("rope_utils", "ssm", "switch_layers"),
}

# Differences in nats, relative errors, and estimates over peaks that are as they should be.
MOST_APART, MOST_WRONG = 1e-4, 1e-4


def test_every_family_of_mlx_lm_is_on_the_page_or_the_reason_why_not():
    """Those of the installed mlx-lm; a new one is to be tried."""
    modules = {module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)}
    assert modules - NOT_FAMILIES == MAKES.keys() | NOT_HERE.keys()


def test_the_page_has_a_row_for_each_family_that_can_be_tried():
    """And a reason for each that is not, or not in all ways."""
    page = PAGE.read_text()
    rows, faults = rows_of(page), faults_of(page)
    assert rows.keys() == MAKES.keys()
    assert all(len(row) == len(HEADS) for row in rows.values())
    assert faults.keys() == NOT_HERE.keys() | {
        name for name, row in rows.items() if "no" in row[1:4]
    }


def assert_as_on_the_page(make):
    row, page = tried(make), PAGE.read_text()
    written = rows_of(page)[make]
    assert row.cells()[:4] == written[:4]
    assert reasons(row) == faults_of(page).get(make, "")
    if row.faults["full"]:
        return
    assert row.cells()[6:8] == written[6:8]
    assert row.apart < MOST_APART
    assert row.gradient_error < MOST_WRONG
    assert row.ratio == pytest.approx(float(written[8]), rel=0.15)


@pytest.mark.parametrize("make", ["gemma3n", "gpt_oss", "lfm2", "deepseek_v3"])
def test_a_row_is_as_the_page_has_it(make):
    """One that is refused, and ones with windows and experts, convolutions, compressed keys."""
    assert_as_on_the_page(make)


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKES)
def test_every_row_is_as_the_page_has_it(make):
    """All of them, some seconds each."""
    assert_as_on_the_page(make)
