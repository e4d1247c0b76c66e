"""--dry-run prints a configuration that can be used, counts what would be, and leaves no trace."""

import tomllib

from grpo_core.config import config_hash, resolve_config
from tests.trainer_kit import command, complete, train


def test_dry_run_prints_a_config_file_and_writes_nothing(tmp_path):
    """The text is TOML with every field; used as a config it gives the same run."""
    folder = tmp_path / "out"
    done = complete(folder, "--dry-run", seed=5)
    assert not folder.exists()
    assert not (tmp_path / "gpu.lock").exists()
    values = tomllib.loads(done.stdout)
    assert values["seed"] == 5
    assert values["dry_run"] is False
    (tmp_path / "printed.toml").write_text(done.stdout)
    printed = resolve_config(str(tmp_path / "printed.toml"), strict=True)
    given = resolve_config(command(folder, seed=5)[5])
    assert config_hash(printed) == config_hash(given)


def test_dry_run_counts_updates_and_names_the_parts_of_the_peak(tmp_path):
    """10 rows in updates of 4, 2 epochs: 6 updates of at most 16 completions."""
    text = complete(tmp_path / "out", "--set", "dry_run=true").stdout
    assert "# updates: 6 (2 epochs of 10 prompts, 4 prompts x 4 completions in each)" in text
    assert "# peak memory: about" in text
    for part in ("weights", "Adam's moments", "keys and values", "logits", "activations"):
        assert part in text
    assert "# decoded together: up to 128 completions in a rollout, 128 in an evaluation" in text
    assert "#   in an evaluation\n" in text


def test_dry_run_meets_the_faults_of_the_run(tmp_path):
    """Missing data: exit 3 and one message; the configuration is printed all the same."""
    done = train(tmp_path / "out", "--dry-run", dataset="missing.jsonl")
    assert done.returncode == 3
    assert 'dataset = "missing.jsonl"' in done.stdout
    assert "missing.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_says_where_it_would_write(tmp_path):
    """A folder of another configuration: the next free one, and it stays untouched."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    text = complete(folder, "--dry-run").stdout
    assert f"# output: {tmp_path / 'out-2'} (a new run)" in text
    assert not (tmp_path / "out-2").exists()


def test_a_cadence_of_0_takes_no_rows_at_the_start_and_end_either(tmp_path):
    """As in the run itself."""
    off = complete(tmp_path / "out", "--dry-run", eval_steps=0, eval_every_updates=0).stdout
    assert "# evaluation rows: 0 (off) test, 0 (off) train" in off
    on = complete(tmp_path / "out", "--dry-run").stdout
    assert "# evaluation rows: 8 test, 6 train" in on
