"""The base config of a sweep: found, kept word for word, and refused where it cannot be used."""

from grpo_core.config import MLXGRPOConfig
from orchestrator.plan.expand import expand
from orchestrator.spec.reader import read_spec
from tests.spec_kit import BASE, faults, write


def test_the_base_is_frozen_as_it_stands(folder):
    """Path from the working folder, text word for word, values resolved."""
    spec = read_spec(write('config = "../configs/base.toml"\n', name="sweeps/a.toml", base=False))
    assert spec.base.source == "configs/base.toml"
    assert spec.base.text == BASE
    assert spec.base.config == MLXGRPOConfig(
        model_name="builtin/tiny", num_generations=4, learning_rate=2e-5
    )


def test_without_config_the_environment_then_the_default_file_counts(folder, monkeypatch):
    """MLX_GRPO_CONFIG, then configs/default.toml, both from the working folder."""
    text = "[params]\nseed = [1, 2]\n"
    assert "configs/default.toml does not exist" in faults(text, base=False)[0]
    (folder / "configs" / "default.toml").write_text("batch_size = 3\n")
    assert read_spec(write(text, base=False)).base.config.batch_size == 3
    monkeypatch.setenv("MLX_GRPO_CONFIG", "configs/base.toml")
    assert read_spec(write(text, base=False)).base.config.num_generations == 4


def test_a_base_config_with_faults_is_refused(folder):
    """Strictly: unknown keys, values that do not fit, and what a sweep cannot use."""
    (folder / "configs" / "base.toml").write_text(
        'learning_rat = 1\nbatch_size = "x"\nlog_jsonl = false\n'
    )
    assert faults("seeds = [0]") == [
        "configs/base.toml: learning_rat: unknown field; did you mean learning_rate?",
        "configs/base.toml: batch_size = 'x': must be a whole number",
        "configs/base.toml: log_jsonl = false: cannot be used in a sweep, which reads the "
        "training log of every run",
    ]


def test_a_base_fault_that_every_run_overrides_is_none(folder):
    """Only what a run resolves to counts."""
    (folder / "configs" / "base.toml").write_text("num_generations = 1\n")
    assert "num_generations = 1: must be at least 2" in faults("seeds = [0]")[0]
    expand(read_spec(write("[params]\nnum_generations = [2, 4]\n")))
