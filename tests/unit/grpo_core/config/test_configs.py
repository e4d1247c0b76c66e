"""Every shipped config says what it is for and loads strictly."""

from pathlib import Path

import pytest

from grpo_core.config import MLXGRPOConfig, advice, load_toml_config, resolve_config

CONFIGS = sorted((Path(__file__).parents[4] / "configs").glob("*.toml"))
SHIPPED = {"default", "smoke_test", "ultra_light", "medium", "prod", "tiny", "real"}


def test_the_configs_of_the_design_are_there():
    """The seven names that the documents use."""
    assert {path.stem for path in CONFIGS} == SHIPPED


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_config_is_whole_and_says_its_purpose(path):
    """Strict resolution, purpose and cost on line 1, no advice against our own settings."""
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 30
    cfg = resolve_config(str(path), strict=True)
    assert not advice(cfg)


def test_configs_hold_fields_and_nothing_else():
    """A config names fields of the standard, never a tag by mistake."""
    for path in CONFIGS:
        assert set(load_toml_config(path)) <= set(vars(MLXGRPOConfig()))
