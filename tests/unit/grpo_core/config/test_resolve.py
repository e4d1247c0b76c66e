"""The config resolution: what users of MLX-GRPO know, word for word."""

import json
import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.config import (
    FIELDS,
    MLXGRPOConfig,
    advice,
    apply_overrides,
    config_hash,
    config_path,
    format_override,
    load_toml_config,
    resolve_config,
    resolved_dict,
    update_config_from_dict,
    validate,
)
from grpo_core.errors import ConfigError

# The standard's fields with their defaults, as design and seed document list them.
STANDARD = {
    "model_name": "Qwen/Qwen2.5-1.5B-Instruct",
    "output_dir": "outputs/Qwen-1.5B-MLX-GRPO",
    "run_name": "Qwen-1.5B-MLX-GRPO-gsm8k",
    "learning_rate": 1e-6,
    "batch_size": 1,
    "gradient_accumulation_steps": 4,
    "num_epochs": 1,
    "max_train_samples": 0,
    "warmup_ratio": 0.1,
    "max_grad_norm": 0.1,
    "logging_steps": 1,
    "num_generations": 64,
    "max_prompt_length": 512,
    "max_completion_length": 1024,
    "max_new_tokens": 512,
    "temperature": 0.7,
    "clip_eps": 0.2,
    "kl_coeff": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "weight_decay": 0.0,
    "lr_scheduler_type": "cosine",
    "save_steps": 100,
    "eval_steps": 50,
    "eval_samples": 200,
    "seed": 0,
    "use_compile": True,
    "quantize_for_rollouts": True,
    "eval_every_updates": 25,
    "eval_subset_size": 200,
    "eval_max_new_tokens": 128,
    "log_jsonl": True,
    "dry_run": False,
    "debug": False,
    "verbose": False,
}


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_every_field_of_the_standard_has_its_default():
    """Old configs mean what they meant: names, types and defaults are the standard's."""
    cfg = MLXGRPOConfig()
    for name, value in STANDARD.items():
        assert getattr(cfg, name) == value
        assert type(getattr(cfg, name)) is type(value)


def test_every_field_says_what_it_is():
    """Help, group and a default that validation accepts, for each field."""
    assert set(FIELDS) == {f.name for f in fields(MLXGRPOConfig)} - {"extra"}
    assert all(info.help and info.group for info in FIELDS.values())
    validate(MLXGRPOConfig())


# --- the lines on stderr


def test_file_found_and_overrides_are_announced_word_for_word(tmp_path, capsys):
    """The two lines that users grep for."""
    path = write(tmp_path / "c.toml", "learning_rate = 1e-6\nnum_generations = 64\n")
    cfg = resolve_config(path, ["learning_rate=5e-7", "num_generations=32"])
    assert capsys.readouterr().err == (
        f"[config] loading {path}\n"
        "[config] applying overrides: ['learning_rate=5e-7', 'num_generations=32']\n"
    )
    assert (cfg.learning_rate, cfg.num_generations) == (5e-7, 32)


def test_missing_file_names_the_nearest_there_is(tmp_path, capsys, monkeypatch):
    """Lenient: defaults, said so, and a hint at what was meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs" / "medium.toml", "")
    write(tmp_path / "configs" / "smoke_test.toml", "")
    cfg = resolve_config("configs/medum.toml")
    assert capsys.readouterr().err == (
        "[config] file not found, using defaults: configs/medum.toml\n"
        "[config] nearest file: configs/medium.toml\n"
    )
    assert cfg == MLXGRPOConfig()


@pytest.mark.parametrize(
    ("item", "line"),
    [
        ("learning_rate", "[warn] ignoring override (no '='): learning_rate"),
        ("nonexistent_param=3", "[warn] unknown config key: nonexistent_param"),
        (
            "num_generations=invalid_value",
            "[warn] failed to coerce 'invalid_value' to <class 'int'>; using string",
        ),
        (
            "learning_rate=fast",
            "[warn] failed to coerce 'fast' to <class 'float'>; using string",
        ),
        (
            "use_compile=flase",
            "[warn] failed to coerce 'flase' to <class 'bool'>; using string",
        ),
    ],
)
def test_each_warning_reads_as_users_know_it(item, line, capsys):
    """Lenient overrides warn with the standard's own words."""
    apply_overrides(MLXGRPOConfig(), [item])
    assert capsys.readouterr().err == line + "\n"


def test_unknown_keys_warn_and_become_tags(tmp_path, capsys):
    """Lenient: kept under extra, used by nothing; the seed document's own example."""
    path = write(tmp_path / "c.toml", "experiment_temperature = 0.5\n[extra]\nauthor = 'me'\n")
    cfg = resolve_config(path, ["experiment_temperature=0.8", "note=a b"])
    err = capsys.readouterr().err
    assert err.count("[warn] unknown config key: experiment_temperature") == 2
    assert cfg.extra == {"author": "me", "experiment_temperature": 0.8, "note": "a b"}
    assert resolved_dict(cfg)["extra"] == cfg.extra


def test_a_value_that_does_not_fit_is_refused_after_the_warning(capsys):
    """The warning alone would train with the wrong value."""
    with pytest.raises(ConfigError, match=r"num_generations = 'abc': must be a whole number"):
        resolve_config(None, ["num_generations=abc"])
    assert "using string" in capsys.readouterr().err


# --- where the file comes from


def test_config_beats_environment_beats_default(monkeypatch):
    """--config, else a non-empty MLX_GRPO_CONFIG, else configs/default.toml."""
    monkeypatch.setenv("MLX_GRPO_CONFIG", "env.toml")
    assert config_path("arg.toml") == "arg.toml"
    assert config_path(None) == "env.toml"
    monkeypatch.setenv("MLX_GRPO_CONFIG", "")
    assert config_path(None) == "configs/default.toml"


def test_flat_keys_or_one_table_but_not_both(tmp_path):
    """[mlx_grpo] is the same as flat keys; a mixture is a fault."""
    flat = load_toml_config(write(tmp_path / "a.toml", "seed = 3\n[extra]\na = 1\n"))
    table = load_toml_config(write(tmp_path / "b.toml", "[mlx_grpo]\nseed = 3\n[extra]\na = 1\n"))
    assert flat == table == {"seed": 3, "extra": {"a": 1}}
    with pytest.raises(ConfigError, match="both inside and outside"):
        load_toml_config(write(tmp_path / "c.toml", "seed = 3\n[mlx_grpo]\nbatch_size = 2\n"))


def test_malformed_toml_names_line_and_column(tmp_path):
    """A syntax error is found where it stands."""
    path = write(tmp_path / "c.toml", "seed = 3\nlearning_rate = 1e-\n")
    with pytest.raises(ConfigError, match=r"c\.toml:2:\d+: not valid TOML"):
        resolve_config(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "\ufeffseed = 3\n".encode()])
def test_text_that_is_not_utf8_is_named_and_a_bom_is_no_fault(tmp_path, content):
    """Windows editors write a byte order mark; other encodings are refused."""
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    if content.startswith(b"\xff"):
        with pytest.raises(ConfigError, match="not UTF-8"):
            resolve_config(str(path))
    else:
        assert resolve_config(str(path)).seed == 3


# --- values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("learning_rate=5e-7", 5e-7),
        ("learning_rate = 1", 1.0),
        ("num_generations=1_000", 1000),
        ('num_generations="32"', 32),
        ("model_name='a=b'", "a=b"),
        ('model_name="Qwen/Qwen2.5-1.5B-Instruct"', "Qwen/Qwen2.5-1.5B-Instruct"),
        ("model_name=a = b", "a = b"),
        ("model_name=", ""),
        ("quantize_for_rollouts=YES", True),
        ("use_compile=1", True),
        ("log_jsonl=Off", False),
        ('rewards=["correctness", "int"]', ["correctness", "int"]),
        ("reward_weights=[1, 0.5]", [1.0, 0.5]),
    ],
)
def test_override_text_becomes_the_fields_type(text, value):
    """First `=` splits, blanks and one pair of quotes go, numbers as Python reads them."""
    cfg = apply_overrides(MLXGRPOConfig(), [text])
    got = getattr(cfg, text.partition("=")[0].strip())
    assert got == value
    assert type(got) is type(value)


def test_later_overrides_win_and_order_is_default_file_set(tmp_path):
    """Defaults, then the file, then each --set."""
    path = write(tmp_path / "c.toml", "seed = 1\nbatch_size = 2\n")
    cfg = resolve_config(path, ["seed=5", "seed=6"])
    assert (cfg.seed, cfg.batch_size, cfg.num_epochs) == (6, 2, 1)


VALUES = {
    "str": st.text(st.characters(exclude_categories=["Cs"])),
    "int": st.integers(),
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "list[str]": st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    "list[float]": st.lists(st.floats(allow_nan=False)),
    "table": st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.recursive(
            st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"])),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=3,
    ),
}


@given(st.data())
def test_any_value_written_as_set_comes_back_equal(data):
    """What a sweep writes is what the trainer reads, to the last bit."""
    name = data.draw(st.sampled_from(sorted(FIELDS)))
    value = data.draw(VALUES[FIELDS[name].type])
    cfg = apply_overrides(MLXGRPOConfig(), [format_override(name, value)], strict=True)
    got = getattr(cfg, name)
    assert got == value
    assert type(got) is type(value)
    if isinstance(value, float):
        assert math.copysign(1, got) == math.copysign(1, value)


def test_toml_values_keep_their_types_and_misfits_are_refused(capsys):
    """An integer fits a float; a float, a boolean or a list never fits an integer."""
    cfg = update_config_from_dict(MLXGRPOConfig(), {"learning_rate": 1, "seed": 4})
    assert cfg.learning_rate == 1.0
    assert type(cfg.learning_rate) is float
    for bad in (4.0, True, [4]):
        cfg = update_config_from_dict(MLXGRPOConfig(), {"seed": bad})
        with pytest.raises(ConfigError, match=r"seed = .*: must be a whole number"):
            validate(cfg)


# --- validation


@pytest.mark.parametrize("name", ["max_new_tokens", "num_generations", "clip_delta", "rewards"])
def test_a_value_of_another_type_is_one_fault_and_no_crash(name):
    """However it is compared with other fields."""
    cfg = MLXGRPOConfig(**{name: "abc"})
    with pytest.raises(ConfigError) as caught:
        validate(cfg)
    assert len(caught.value.faults) == 1
    assert f"{name} = 'abc': must be a" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("num_generations=1", "num_generations = 1: must be at least 2"),
        ("eval_samples=-1", "eval_samples = -1: must be at least 0"),
        ("temperature=0", "temperature = 0.0: must be above 0"),
        ("kl_coeff=-0.1", "kl_coeff = -0.1: must be at least 0"),
        ("learning_rate=inf", "learning_rate = inf: must be finite"),
        ("adam_beta1=1", "adam_beta1 = 1.0: must be at least 0 and below 1"),
        ("lr_scheduler_type=cosin", "did you mean cosine?"),
        ("rewards=[]", "at least one reward"),
        ('rewards=["corectness"]', "did you mean correctness?"),
        ("reward_weights=[1,2]", "2 weights for 5 rewards"),
        ("reward_weights=[0,0,0,0,0]", "at least one must not be 0"),
        ('eval_rewards=["itn"]', "eval_rewards: 'itn' is none of"),
        ('eval_rewards=["int"] eval_reward_weights=[1,2]', "2 weights for 1 eval_rewards"),
        ("eval_reward_weights=[1]", "1 weights for 0 eval_rewards"),
        ("answer_key=", "rewards: 'correctness' compares with reference answers"),
        (
            'answer_key= rewards=["int"] eval_rewards=["correctness"]',
            "eval_rewards: 'correctness' compares with reference answers",
        ),
        (
            'answer_key= rewards=["int"] metric_for_best_model=em',
            "there is no exact match without reference answers",
        ),
        ("eval_num_generations=4", "set eval_temperature above 0"),
        ("chat_template_kwargs=[1]", "must be a table, such as {a = true, b = 1}"),
        ('chat_template_kwargs={"a": null}', "must be a table"),
        ("overlong_buffer=4096", "overlong_buffer = 4096: above the completion limit, 512"),
        ("model_name=", "model_name = '': must not be empty"),
        ("loss_type=gspo importance_sampling_level=token", "leave it at auto"),
        ("num_train_generations=65", "at most num_generations (64)"),
        ("num_train_generations=1", "must be at least 2"),
        (
            "loss_type=rloo multi_objective_aggregation=normalize_then_sum",
            "leave it at sum_then_normalize",
        ),
        ("steps_per_generation=6", "a multiple of gradient_accumulation_steps (4)"),
        ("early_group_size=64", "at least 2 and below num_generations (64)"),
        ("early_group_size=1", "at least 2 and below num_generations (64)"),
        ("early_group_size=8 zero_variance=keep", "take skip, resample or refill"),
        ("loss_type=vespo rollout_is=sequence_mask", "use token_truncate, token_mask or none"),
        ("loss_type=vespo importance_sampling_level=token", "is defined for sequence ratios"),
        ("steps_per_generation=2", "a multiple of gradient_accumulation_steps (4)"),
        ("clip_delta=1.1", "must be above 1 + clip_eps_high"),
    ],
)
def test_what_cannot_be_meant_is_refused(override, fault):
    """Ranges, choices and contradictions, each with field, value and what is allowed."""
    cfg = apply_overrides(MLXGRPOConfig(), override.split(" "))
    with pytest.raises(ConfigError) as caught:
        validate(cfg)
    assert fault in str(caught.value)


def test_all_faults_come_at_once_with_where_they_stand(tmp_path):
    """One run of the program shows everything that is wrong."""
    path = write(tmp_path / "c.toml", "temperature = 0\nbatch_size = 0\n")
    with pytest.raises(ConfigError) as caught:
        resolve_config(path, ["loss_type=dap"])
    assert set(caught.value.faults) == {
        f"{path}: temperature = 0.0: must be above 0",
        f"{path}: batch_size = 0: must be at least 1",
        "--set: loss_type = 'dap': must be one of grpo, bnpo, dr_grpo, dapo, cispo, gspo, sapo, "
        "rloo, luspo, vespo; did you mean dapo?",
    }
    assert caught.value.exit_code == 2


def test_strict_turns_every_warning_and_a_missing_file_into_an_error(tmp_path, monkeypatch):
    """What a person may shrug off, a sweep must not."""
    monkeypatch.chdir(tmp_path)
    missing = str(tmp_path / "none.toml")
    with pytest.raises(ConfigError) as caught:
        resolve_config(missing, ["learning_rat=3", "foo", "seed=x"], strict=True)
    assert set(caught.value.faults) == {
        f"{missing}: config file not found",
        "--set: unknown config key: learning_rat; did you mean learning_rate?",
        "--set: not an override (no '='): foo; write key=value",
        "--set: seed = 'x': must be a whole number",
    }
    path = write(tmp_path / "c.toml", "learning_rat = 3\n")
    with pytest.raises(ConfigError, match="did you mean learning_rate"):
        resolve_config(path, strict=True)


def test_strict_takes_declared_tags(tmp_path):
    """[extra] says that they are meant."""
    path = write(tmp_path / "c.toml", "[extra]\nproject = 'x'\n")
    assert resolve_config(path, strict=True).extra == {"project": "x"}


# --- what follows from a configuration


def test_hash_leaves_out_names_tags_logging_and_memory_but_nothing_else():
    """Two folders with one hash hold the same run."""
    base = config_hash(MLXGRPOConfig())
    free = ["output_dir=x", "run_name=y", "tag=1", "verbose=true", "micro_batch_size=2"]
    assert config_hash(apply_overrides(MLXGRPOConfig(), free)) == base
    for override in ("seed=1", "learning_rate=2e-6", "max_new_tokens=8", "kl_coeff=0.1"):
        assert config_hash(apply_overrides(MLXGRPOConfig(), [override])) != base


def test_resolved_dict_is_json_with_every_field_at_the_top():
    """config.resolved.json holds what the run really used."""
    cfg = apply_overrides(MLXGRPOConfig(), ["seed=7"])
    data = json.loads(json.dumps(resolved_dict(cfg)))
    assert set(FIELDS) | {"extra", "hash"} == set(data)
    assert data["seed"] == 7


def test_lora_with_a_full_fine_tuning_rate_is_advised_against():
    """1e-6 with LoRA trains almost nothing, and nobody sees why."""
    assert "1e-5 or more" in advice(MLXGRPOConfig())[0]
    assert not advice(apply_overrides(MLXGRPOConfig(), ["learning_rate=1e-5"]))
    full = apply_overrides(MLXGRPOConfig(), ["train_type=full"])
    assert "quantize_for_rollouts is off" in advice(full)[0]


def test_config_needs_no_mlx():
    """The orchestrator resolves configs without loading a GPU library."""
    code = "import sys, grpo_core.config; print('mlx' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "items",
    [
        ["chat_template_kwargs={enable_thinking = false}"],
        ['chat_template_kwargs={"enable_thinking": false}'],
        ["chat_template_kwargs.enable_thinking=false"],
        ["chat_template_kwargs.enable_thinking=False"],
        [
            "chat_template_kwargs={enable_thinking = true}",
            "chat_template_kwargs.enable_thinking=false",
        ],
    ],
)
def test_a_table_is_set_whole_or_by_one_of_its_keys(items):
    """As TOML, as the JSON of other trainers, or by a dot; the later one counts."""
    cfg = apply_overrides(MLXGRPOConfig(), items, strict=True)
    assert cfg.chat_template_kwargs == {"enable_thinking": False}
    assert MLXGRPOConfig().chat_template_kwargs == {}


def test_a_key_of_a_table_is_added_to_what_the_file_says(tmp_path):
    """The file's other keys stay."""
    file = tmp_path / "a.toml"
    file.write_text("[chat_template_kwargs]\nenable_thinking = true\nlanguage = 'en'\n")
    cfg = resolve_config(str(file), ["chat_template_kwargs.enable_thinking=no"], strict=True)
    assert cfg.chat_template_kwargs == {"enable_thinking": "no", "language": "en"}


def test_only_a_table_has_keys():
    """A dot behind any other field is an unknown key."""
    with pytest.raises(ConfigError, match=r"unknown config key: seed\.x"):
        apply_overrides(MLXGRPOConfig(), ["seed.x=1"], strict=True)


@pytest.mark.parametrize("strict", [True, False])
def test_a_key_is_not_set_in_what_is_no_table(tmp_path, strict):
    """The file's value is refused by its name, as it is without the override."""
    file = tmp_path / "a.toml"
    file.write_text("chat_template_kwargs = 'short'\n")
    for items in ([], ["chat_template_kwargs.a=1"]):
        with pytest.raises(ConfigError, match="chat_template_kwargs = 'short': must be a table"):
            resolve_config(str(file), items, strict=strict)
