"""Adapters: drawn by keys, put where they are asked for, started from a folder, dropped by keys."""

import json

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model import tiny
from grpo_core.model.adapters import KeyedDropout
from grpo_core.model.policy import load_policy
from tests.zoo import zoo_folder

IDS = mx.array([[5, 40, 7, 99, 12, 3]])


def config(**more):
    settings = {"model_name": "builtin/tiny", "quantize_for_rollouts": False, "lora_rank": 4}
    return MLXGRPOConfig(**{**settings, **more})


def same(a, b):
    return mx.array_equal(a, b).item()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_new_adapters_depend_on_the_seed_and_nothing_else(kind):
    """Not on what MLX drew before; and they start as the base itself, in fp32."""
    mx.random.seed(1)
    first = load_policy(config(train_type=kind, seed=3)).trainable()
    mx.random.seed(2)
    again = load_policy(config(train_type=kind, seed=3)).trainable()
    other = load_policy(config(train_type=kind, seed=4)).trainable()
    assert all(same(first[name], again[name]) for name in first)
    assert not any(same(first[name], other[name]) for name in first if name.endswith("lora_a"))
    assert all(value.dtype == mx.float32 for value in first.values())
    assert not any(value.any().item() for name, value in first.items() if name.endswith("lora_b"))


def test_a_new_adapter_is_drawn_as_wide_as_mlx_lm_draws_it():
    """Uniform within 1 / sqrt(width): every value inside, and some near the edge."""
    weights = load_policy(config(lora_rank=64)).trainable()
    first = np.array(weights["model.layers.0.self_attn.q_proj.lora_a"])
    bound = 1 / np.sqrt(first.shape[0])
    assert 0.98 * bound < np.abs(first).max() <= bound
    assert abs(first.mean()) < 0.05 * bound


def test_lora_layers_and_keys_choose_what_learns():
    """Blocks count from the last; keys name layers within a block."""
    names = load_policy(config(lora_layers=1, lora_keys=["self_attn.q_proj"])).trainable()
    last = tiny_config()["num_hidden_layers"] - 1
    stem = f"model.layers.{last}.self_attn.q_proj"
    assert set(names) == {f"{stem}.lora_a", f"{stem}.lora_b"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            ["q_proj"],
            r"'q_proj': .* there are mlp\.down_proj, .*; did you mean self_attn\.q_proj\?$",
        ),
        (["self_attn.q_proj", "mlp.up"], r"'mlp\.up': .*; did you mean mlp\.up_proj\?$"),
        (["all-linear"], "; leave lora_keys empty for every linear layer$"),
    ],
)
def test_a_key_that_names_no_layer_is_refused(keys, words):
    """Also beside one that does; with what there is, and what PEFT's words are here."""
    with pytest.raises(ModelError, match=rf"lora_keys: .*{words}"):
        load_policy(config(lora_keys=keys))


def test_what_chooses_experts_gets_adapters_only_by_name(tmp_path):
    """Without lora_keys all but routers; mlx-lm loads the adapters again."""
    model = str(zoo_folder("qwen3_moe", tmp_path / "moe"))
    lengths = {"max_prompt_length": 8, "max_new_tokens": 8}
    names = load_policy(config(model_name=model, **lengths)).trainable()
    layers = {name.removeprefix("model.layers.0.").rpartition(".")[0] for name in names}
    assert "mlp.switch_mlp.up_proj" in layers and "self_attn.q_proj" in layers
    assert "mlp.gate" not in layers
    by_name = load_policy(config(model_name=model, lora_keys=["mlp.gate"], **lengths)).trainable()
    assert any("mlp.gate." in name for name in by_name)


def tiny_config():
    return json.loads((tiny.model_path() / "config.json").read_text())


def test_dropout_repeats_itself_by_key_and_rests_outside_of_training():
    """A mask is a function of its key, keeps the mean, and is not there when sampling."""
    layer, x = KeyedDropout(0.25, "q"), mx.ones((64, 64))
    assert same(layer(x), x)
    layer.set_key(1, 2)
    first = layer(x)
    assert same(first, layer(x))
    assert set(np.unique(first)) == {0, np.float32(1 / 0.75)}
    assert np.array(first).mean() == pytest.approx(1, abs=0.03)
    layer.set_key(1, 3)
    assert not same(first, layer(x))
    layer.eval()
    assert same(layer(x), x)


# -- adapters from a folder ------------------------------------------------------------------


def made_by_mlx_lm(folder, kind="lora"):
    """Adapters as mlx-lm leaves them: another rank than ours, 16 bits."""
    parameters = {"rank": 3, "scale": 7.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    model, _ = load_model(tiny.model_path())
    model.freeze()
    linear_to_lora_layers(model, 1, parameters, use_dora=kind == "dora")
    draw = np.random.default_rng(0)
    weights = {
        name: mx.array(draw.normal(0, 0.1, value.shape), mx.bfloat16)
        for name, value in tree_flatten(model.trainable_parameters())
    }
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    made = {"fine_tune_type": kind, "num_layers": 1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(made))
    return folder


def test_training_starts_from_adapters_that_mlx_lm_made(tmp_path):
    """Their own rank and scale count, they are fp32 from here on, and saving keeps their shape."""
    folder = made_by_mlx_lm(tmp_path / "start")
    cfg = config(adapter_path=str(folder))
    policy = load_policy(cfg)
    assert {value.dtype for value in policy.trainable().values()} == {mx.float32}
    theirs, _ = mlx_lm.load(str(tiny.model_path()), adapter_path=str(folder))
    np.testing.assert_allclose(policy.model(IDS), theirs(IDS), rtol=1e-2, atol=1e-2)
    policy.save(tmp_path / "final", cfg)
    again, _ = mlx_lm.load(str(tiny.model_path()), adapter_path=str(tmp_path / "final"))
    assert same(again(IDS), policy.model(IDS))


def test_adapters_in_the_users_own_folder_are_found(tmp_path, monkeypatch):
    """As the check at submit finds them; no user of that name has no adapters."""
    monkeypatch.setenv("HOME", str(tmp_path))
    made_by_mlx_lm(tmp_path / "start")
    assert load_policy(config(adapter_path="~/start")).trainable()
    with pytest.raises(ModelError, match="adapter_path = '~nobody-here/start'"):
        load_policy(config(adapter_path="~nobody-here/start"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "adapter_config.json"),
        (lambda f: (f / "adapters.safetensors").write_bytes(b"torn"), "do not fit"),
    ],
)
def test_adapters_that_cannot_be_used_are_refused(spoil, message, tmp_path):
    """Each with the file at fault."""
    folder = made_by_mlx_lm(tmp_path / "start")
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        load_policy(config(adapter_path=str(folder)))


def test_adapters_of_another_kind_are_refused_with_the_way_out(tmp_path):
    """LoRA weights in DoRA layers would be something that nobody trained."""
    folder = made_by_mlx_lm(tmp_path / "start")
    with pytest.raises(ModelError, match="set train_type=lora"):
        load_policy(config(adapter_path=str(folder), train_type="dora"))
