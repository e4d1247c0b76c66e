"""What is tried at load: families that need a hand get it, those that would mislead are refused."""

import json
import re
import shutil

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model import load_probe, shared_prefix, tiny
from grpo_core.model.policy import load_policy
from tests.zoo import zoo_folder

IDS = mx.array([[5, 40, 7, 99, 12, 3]])


def load(folder, **fields):
    settings = {"quantize_for_rollouts": False, "lora_rank": 2, **fields}
    return load_policy(MLXGRPOConfig(model_name=str(folder), **settings))


@pytest.mark.parametrize("make", ["gemma3n", "plamo3"])
@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_a_family_that_decodes_as_another_policy_is_refused(make, train_type, tmp_path):
    """gemma3n shares keys and values with a cache only, plamo3's window is one longer without."""
    folder = zoo_folder(make, tmp_path / make)
    with pytest.raises(ModelError, match=rf"{make}: with its caches.*nats"):
        load(folder, train_type=train_type, prefix_sharing=False)


def test_a_shared_prompt_makes_one_policy_of_two(tmp_path):
    """Its caches are ours in the rollout and in the update, so plamo3's window is the same."""
    folder = zoo_folder("plamo3", tmp_path / "model")
    assert load(folder).can_mix_lengths


def test_what_a_family_cannot_do_is_said(tmp_path, monkeypatch):
    """Where it is not cut or not shared, and by how much where a tolerance decides."""
    (line,) = load(zoo_folder("mamba", tmp_path / "mamba")).notes
    assert line.startswith("[model] its vocabulary head does not run apart from the rest, so that")
    assert line.endswith("(its trunk or head is called in a way of its own: ValueError)")
    (line,) = load(zoo_folder("llama4", tmp_path / "llama4")).notes
    assert line == (
        "[model] its layers keep a prompt in a way of their own, so that it is not shared within a "
        "group, which takes more time and memory"
    )
    monkeypatch.setattr(shared_prefix, "PROBE_TOLERANCE_FP32", 0.0)
    (line,) = load(tiny.MODEL_NAME).notes
    assert re.match(
        r"\[model\] log-probs behind a shared prompt are up to \d\.\de.\d\d nats from plain ones "
        r"\(at most 0 may be\), so that it is not shared within a group, which takes more",
        line,
    )


def test_a_window_beyond_all_lengths_of_the_run_is_not_tried(tmp_path):
    """plamo3's window of 6 is at fault from its seventh token on."""
    folder = zoo_folder("plamo3", tmp_path / "model")
    policy = load(folder, max_prompt_length=2, max_new_tokens=3, prefix_sharing=False)
    assert policy.notes == ()


@pytest.mark.parametrize("make", ["cohere2", "baichuan_m1"])
def test_a_model_is_tried_beyond_its_window(make, tmp_path, monkeypatch):
    """Of 6 tokens, with twice the 4 that are decoded; baichuan_m1 has it beside convolutions."""
    tried = []

    def abilities(split, vocab, length):
        tried.append(length)
        return shared_prefix.abilities(split, vocab, length)

    monkeypatch.setattr(load_probe, "abilities", abilities)
    load(zoo_folder(make, tmp_path / make))
    assert tried == [14]


@pytest.mark.parametrize("make", ["recurrent_gemma", "mamba", "minimax", "gptj", "plamo2", "afm7"])
def test_a_family_with_ways_of_its_own_loads(make, tmp_path):
    """No constructor called, another name for the input, a head that counts: all had tracebacks."""
    policy = load(zoo_folder(make, tmp_path / make))
    logits = policy.model(IDS)
    assert mx.allclose(policy.split.head(policy.split.trunk(IDS)), logits, atol=1e-5).item()


@pytest.mark.parametrize("make", ["seed_oss", "llama4_text"])
def test_an_embedding_that_the_model_multiplies_itself_stays_as_it_is(make, tmp_path):
    """Quantised it has another shape; the layers are quantised all the same."""
    policy = load(
        zoo_folder(make, tmp_path / make, scale=2), quantize_for_rollouts=True, dtype="float32"
    )
    kinds = {type(module) for _, module in policy.model.named_modules()}
    assert nn.QuantizedLinear in kinds
    assert nn.QuantizedEmbedding not in kinds
    assert all("embed" not in name for name in policy.trainable())


def test_a_model_that_cannot_run_is_refused_by_name(tmp_path):
    """Adapters that the model's own code stumbles over: one message, not a traceback."""
    folder = zoo_folder("afm7", tmp_path / "model")
    with pytest.raises(ModelError, match=r"mlx-lm's model fails where a gradient is taken.*dora"):
        load(folder, train_type="dora")


def test_what_transformers_finds_wrong_in_a_config_is_one_message(tmp_path):
    """Its validation raises an error of its own kind."""
    folder = zoo_folder("deepseek_v3", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_group": "one"}))
    with pytest.raises(ModelError, match="n_group"):
        load(folder)


def rewrite(folder, change):
    """A copy of the tiny model whose arrays went through `change(name, array)`."""
    shutil.copytree(tiny.model_path(), folder)
    (file,) = folder.glob("model*.safetensors")
    mx.save_safetensors(str(file), {n: change(n, a) for n, a in mx.load(str(file)).items()})
    return folder


def test_a_layer_that_overflows_in_float16_is_named(tmp_path):
    """The weights are finite, its output is not: with NaN every completion would be token 0."""

    def change(name, array):
        big = 6e4 if name == "model.layers.1.mlp.down_proj.weight" else 1
        return mx.clip(array * big, -6e4, 6e4).astype(mx.float16)

    folder = rewrite(tmp_path / "model", change)
    with pytest.raises(ModelError, match=r"NaN.*: model\.layers\.1\.mlp\.down_proj is the first.*"):
        load(folder, dtype="float16")


def test_weights_that_are_not_finite_are_named(tmp_path):
    """One NaN in one norm."""

    def change(name, array):
        return array * mx.nan if name == "model.norm.weight" else array

    with pytest.raises(ModelError, match=r"weights of model\.norm\.weight are not finite"):
        load(rewrite(tmp_path / "model", change))


def test_adapters_that_are_not_finite_are_named(tmp_path):
    """A base that is whole under adapters of an earlier run that diverged."""
    cfg = MLXGRPOConfig(model_name="builtin/tiny", quantize_for_rollouts=False, lora_rank=2)
    policy = load_policy(cfg)
    broken = dict(policy.trainable())
    name = next(name for name in broken if "layers.1" in name)
    policy.set_trainable(broken | {name: broken[name] * mx.inf})
    policy.save(tmp_path / "adapters", cfg)
    with pytest.raises(ModelError, match=f"weights of {name} are not finite"):
        load("builtin/tiny", adapter_path=str(tmp_path / "adapters"))


@pytest.mark.parametrize(
    "text",
    [
        "[METAL] Command buffer execution failed: Insufficient Memory",
        "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
    ],
)
def test_a_fault_of_the_machine_is_none_of_the_model(text, monkeypatch):
    """MLX raises both as RuntimeError; short memory is retried, a model that cannot run is not."""

    def fails(*args):
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match=re.escape(text)):
        load_probe.tried(MLXGRPOConfig(), "on a few tokens", fails)
    monkeypatch.setattr(load_probe, "_width", fails)
    with pytest.raises(RuntimeError, match=re.escape(text)):
        load("builtin/tiny")
