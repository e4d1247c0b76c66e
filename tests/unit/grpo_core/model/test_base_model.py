"""The base model: found, loaded, quantised, or refused in one clear message."""

import json
import re
import shutil

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model import tiny
from grpo_core.model.base_model import load_tokenizer_of
from grpo_core.model.policy import load_policy

IDS = mx.array([[5, 40, 7, 99, 12, 3]])


def config(**more):
    settings = {"model_name": "builtin/tiny", "quantize_for_rollouts": False, "lora_rank": 4}
    settings["dtype"] = "float32"  # auto quantises nothing on a CPU
    return MLXGRPOConfig(**{**settings, **more})


def resize(folder, hidden):
    """A copy of the tiny model with another width and fresh weights."""
    shutil.copytree(tiny.model_path(), folder)
    change(folder, hidden_size=hidden, intermediate_size=192)
    for file in folder.glob("model*.safetensors"):
        file.unlink()
    model, _ = load_model(folder, strict=False)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def change(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_layers_that_do_not_divide_stay_as_they_are(tmp_path):
    """Hidden width 96 does not divide by 64: what reads it stays, what reads 192 does not."""
    policy = load_policy(
        config(model_name=str(resize(tmp_path / "odd", 96)), quantize_for_rollouts=True)
    )
    bits = {
        name.split(".")[-2]: isinstance(module, nn.QuantizedLinear)
        for name, module in policy.model.named_modules()
        if name.endswith("_proj.linear")
    }
    assert bits["down_proj"]
    assert not bits["q_proj"] and not bits["up_proj"]


@pytest.fixture(scope="module")
def quantized_folder(tmp_path_factory):
    """The tiny model quantised to 8 bits by its maker."""
    folder = tmp_path_factory.mktemp("models") / "q8"
    mlx_lm.convert(str(tiny.model_path()), str(folder), quantize=True, q_bits=8, q_group_size=32)
    return folder


def test_a_quantised_model_keeps_its_bits(quantized_folder):
    """quantize_for_rollouts does nothing to it, and adapters train on it."""
    policy = load_policy(config(model_name=str(quantized_folder), quantize_for_rollouts=True))
    assert (policy.base_bits, policy.quantized_here) == (8, False)
    expected, _ = load_model(quantized_folder)
    assert mx.array_equal(policy.model(IDS), expected(IDS)).item()
    assert policy.trainable()


def test_full_training_of_a_quantised_model_is_refused_with_the_way_out(quantized_folder):
    """Its weights are whole numbers: only adapters can learn on them."""
    with pytest.raises(ModelError, match=r"8 bits.*train_type=lora"):
        load_policy(config(model_name=str(quantized_folder), train_type="full"))


def spoiled(folder, spoil):
    shutil.copytree(tiny.model_path(), folder)
    spoil(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text('{"a":\n nope}'), "line 2"),
        (lambda f: change(f, model_type="no_such"), "no_such"),
        (lambda f: (f / "model.safetensors").unlink(), "safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 40), "no whole header"),
        (lambda f: change(f, hidden_size=128), "shape"),
        (lambda f: change(f, model_file="own.py"), "trust_remote_code=true"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_clear_message(spoil, message, tmp_path):
    """With the folder's name and what is wrong there."""
    name = spoiled(tmp_path / "model", spoil)
    with pytest.raises(ModelError, match=message) as caught:
        load_policy(config(model_name=name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nobody/nothing", "nothing"])
def test_a_model_that_is_nowhere_is_one_clear_message(name):
    """No such folder, and the hub (offline here) cannot help."""
    with pytest.raises(ModelError, match="no such folder") as caught:
        load_policy(config(model_name=name))
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_of_a_user_that_there_is_not_is_refused():
    """In one message, as any folder that is not there."""
    with pytest.raises(ModelError, match="model_name = '~nobody-here/x': no such folder"):
        load_policy(config(model_name="~nobody-here/x"))


def with_files(folder, **files):
    """A copy of the tiny model with other contents of some files."""
    shutil.copytree(tiny.model_path(), folder)
    for name, change in files.items():
        file = folder / name.replace("__", ".")
        file.write_bytes(change(file.read_bytes() if file.exists() else b""))
    return folder


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"model__safetensors": lambda _: POINTER}, "model.safetensors is a Git LFS pointer"),
        ({"tokenizer__json": lambda _: POINTER}, "tokenizer.json is a Git LFS pointer"),
        ({"model__safetensors": lambda data: data[:-9]}, "bytes; it is cut or broken, download it"),
        ({"model__safetensors__index__json": lambda _: INDEX}, "1 of 1 files of weights are not"),
    ],
    ids=["pointer", "pointer for a tokenizer", "cut", "without a part"],
)
def test_a_folder_that_is_not_whole_is_refused_by_its_file(tmp_path, files, words):
    """With the file and what to do, whatever the library that reads it says."""
    with pytest.raises(ModelError, match=re.escape(words)):
        load_policy(config(model_name=str(with_files(tmp_path / "model", **files))))


def test_what_transformers_finds_wrong_is_told_with_its_second_line(tmp_path):
    """The first one says only which field it was about."""
    bad = {"num_attention_heads": "many"}
    folder = with_files(
        tmp_path / "model",
        config__json=lambda data: json.dumps(json.loads(data) | bad).encode(),
    )
    words = "tokenizer cannot be loaded: Validation error for field 'num_attention_heads': TypeErr"
    with pytest.raises(ModelError, match=words):
        load_tokenizer_of(config(model_name=str(folder)))
