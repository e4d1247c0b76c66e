"""What is measured: the settings, a random model, its prompts and the trainer's configuration.

    python -m benchmarks._trainer.work FOLDER [--shape small | --model FOLDER] [--rows FILE.jsonl]

makes the folder, with a random model of that shape or a copy of the given one; that needs mlx,
importing this does not. No completion ends early (the model's end token lies outside of its
vocabulary), so that the work is the same whoever does it. The reward
is a checksum of the text: it differs within a group, and nothing can be learnt from it.
"""

import argparse
import json
import random
import shutil
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 116  # GSM8K's rows have about as many with the chat template
# The end token: outside of the model's vocabulary, so that every completion has its full length.
NEVER = "<|never|>"
TRAIN_ROWS, EVAL_ROWS = 64, 16
ADAPTER_RANK = 16  # the default
MADE_ROWS = 7_473  # as many as GSM8K has to train on

SHAPES: dict[str, dict[str, Any]] = {
    # 1.25 M parameters
    "small": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
    },
    # Qwen2.5-0.5B's sizes
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "rope_theta": 1000000.0,
        "torch_dtype": "bfloat16",
    },
}
COMMON: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Setting:
    """One amount of work: so many prompts an update, completions a prompt, tokens a completion."""

    group: int
    tokens: int
    prompts: int = 1
    shape: str = "small"
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As the tables call it."""
        size = f"{self.group} x {self.tokens}"
        many = f", {self.prompts} prompts" if self.prompts > 1 else ""
        shape = f", {self.shape}" if self.shape != "small" else ""
        return size + many + shape

    @property
    def adapter_rank(self) -> int:
        """Of the adapters; 0 where all weights are trained."""
        return ADAPTER_RANK if self.fields.get("train_type") == "lora" else 0

    def config(self, folder: Path) -> dict[str, Any]:
        """The trainer's fields for it: full fine-tuning, nothing quantised, no evaluation."""
        made = {
            "model_name": str(folder / "model"),
            "train_type": "full",
            "quantize_for_rollouts": False,
            "dataset": str(folder / "rows.jsonl"),
            "eval_dataset": str(folder / "eval.jsonl"),
            "system_prompt": "",
            "assistant_prefix": "",
            "stop_at_turn_end": False,
            "rewards": [f"{folder / 'reward.py'}:checksum"],
            "num_generations": self.group,
            "max_new_tokens": self.tokens,
            "batch_size": self.prompts,
            "gradient_accumulation_steps": 1,
            "temperature": 1.0,
            "eval_steps": 0,
            "eval_every_updates": 0,
            "save_steps": 0,
            "save_every_s": 0.0,
            "save_best": False,
        }
        return made | dict(self.fields)


SETTINGS = (Setting(8, 64), Setting(16, 128))
SIX = Setting(8, 64, prompts=6)
GPU_SETTING = Setting(8, 256, shape="0.5b", fields={"train_type": "lora"})
# A model that is given: its adapters, at a length at which it takes seconds on a CPU.
GIVEN = "given"
GIVEN_SETTING = Setting(8, 48, shape=GIVEN, fields={"train_type": "lora"})

REWARD = '''"""A reward that differs within a group, whatever the text."""

import zlib


def checksum(completions, **_):
    """Between 0 and 1."""
    return [zlib.crc32(text.encode()) % 997 / 996 for text in completions]


def constant(completions, **_):
    """The same for all: a group without variance."""
    return [0.5] * len(completions)
'''

# --- word problems, where no file of rows is given

_NAMES = ("Ada", "Bela", "Chen", "Dora", "Emil", "Farah", "Goro", "Hana", "Ivan", "Joan")
_THINGS = ("apples", "stamps", "marbles", "books", "coins", "shells", "pencils", "cards")
_SYLLABLES = ("ba", "dor", "fen", "gul", "him", "jor", "kel", "lun", "mir", "nop", "ras", "tov")


def problems(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Arithmetic word problems about as long as GSM8K's; the answers are right."""
    draw = random.Random(seed)
    return [_problem(draw) for _ in range(count)]


def _problem(draw: random.Random) -> dict[str, str]:
    name, thing = draw.choice(_NAMES), draw.choice(_THINGS)
    has = draw.randint(10, 99)
    parts = [f"{name} has {has} {thing}."]
    for _ in range(draw.randint(3, 11)):
        town = "".join(draw.choices(_SYLLABLES, k=3)).capitalize()
        more = draw.randint(2, 40)
        has += more
        where = draw.choice((f"In {town}", f"On the way to {town}", f"Then at the fair of {town}"))
        parts.append(f"{where} {name} finds {more} more {thing}.")
    parts.append(f"How many {thing} does {name} have in the end?")
    return {"question": " ".join(parts), "answer": f"#### {has}"}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows with `question` and `answer` of a JSONL file, GSM8K's for one."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


# --- the folder


def make(folder: Path, shape: str, rows: list[dict[str, str]]) -> None:
    """Model, tokenizer, rows, reward, and the prompts as token ids."""
    from grpo_core.model.tiny_build import chat_prompt

    config = {**COMMON, **SHAPES[shape]}
    config["eos_token_id"] = config["vocab_size"]
    (folder / "model").mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer([row["question"] for row in rows])
    _save_model(folder / "model", config, tokenizer)
    encoded = tokenizer.encode_batch([chat_prompt(row["question"]) for row in rows])
    _write_work(folder, rows, [e.ids for e in encoded])


def make_given(folder: Path, model: Path, rows: list[dict[str, str]]) -> None:
    """The same with a copy of a model; its own tokenizer and chat template make the prompts."""
    from mlx_lm.utils import load_tokenizer

    _copy_model(model, folder / "model")
    tokenizer: Any = load_tokenizer(folder / "model")
    chats = [[{"role": "user", "content": row["question"]}] for row in rows]
    ids = [tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    _write_work(folder, rows, [list(each) for each in ids])


def _copy_model(model: Path, folder: Path) -> None:
    """With an end token behind the vocabulary instead of its own."""
    from tokenizers import AddedToken, Tokenizer

    shutil.copytree(model, folder, dirs_exist_ok=True)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["eos_token_id"] = config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # Models have more rows than their tokenizer has tokens.
    fill = range(tokenizer.get_vocab_size(), config["vocab_size"])
    tokenizer.add_special_tokens(
        [*(f"<|fill {i}|>" for i in fill), AddedToken(NEVER, special=True)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(said | {"eos_token": NEVER}), encoding="utf-8")


def _write_work(folder: Path, rows: list[dict[str, str]], ids: list[list[int]]) -> None:
    """The rows whose prompts, `ids`, are nearest to the wanted length; and the reward."""
    near = sorted(range(len(rows)), key=lambda i: (abs(len(ids[i]) - PROMPT_TOKENS), i))
    train = near[:TRAIN_ROWS]
    _write_rows(folder / "rows.jsonl", [rows[i] for i in train])
    _write_rows(folder / "eval.jsonl", [rows[i] for i in near[TRAIN_ROWS:][:EVAL_ROWS]])
    _write_rows(folder / "all.jsonl", rows)
    (folder / "prompts.json").write_text(json.dumps([ids[i] for i in train]))
    (folder / "reward.py").write_text(REWARD)


def prompt_tokens(folder: Path) -> int:
    """The length of the first prompt, which is the one that most figures are of."""
    return len(json.loads((folder / "prompts.json").read_text())[0])


def model_config(folder: Path) -> dict[str, Any]:
    """config.json of the folder's model."""
    known: dict[str, Any] = json.loads((folder / "model" / "config.json").read_text())
    return known


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE of 4,096 tokens, trained on the questions; the end token comes after."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, trainers
    from tokenizers.pre_tokenizers import ByteLevel

    from grpo_core.model.tiny_build import SPECIAL

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPES["small"]["vocab_size"] - len(SPECIAL),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "user\nassistant\n", *_words(20_000)], trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in (*SPECIAL, NEVER)])
    return tokenizer


def _words(count: int) -> list[str]:
    """Made-up words, so that a tokenizer finds as many pairs as it wants, whatever the rows."""
    draw = random.Random(0)
    return [" " + "".join(draw.choices(string.ascii_lowercase, k=6)) for _ in range(count)]


def _save_model(folder: Path, config: dict[str, Any], tokenizer: Any) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import qwen2

    from grpo_core.model.tiny_build import _tokenizer_config

    mx.random.seed(0)
    model = qwen2.Model(qwen2.ModelArgs.from_dict(config))
    model.set_dtype(getattr(mx, config["torch_dtype"]))
    weights = {
        name: mx.random.normal(w.shape, dtype=w.dtype, scale=0.05) if w.ndim == 2 else w
        for name, w in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(_tokenizer_config() | {"eos_token": NEVER})
    )


def main() -> None:
    """Make a folder, and say what device mlx has and how long the prompts are."""
    import mlx.core as mx

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=Path)
    args = parser.parse_args()
    rows = read_rows(args.rows) if args.rows else problems(MADE_ROWS)
    if args.model:
        make_given(args.folder, args.model, rows)
    else:
        make(args.folder, args.shape, rows)
    lengths = [len(ids) for ids in json.loads((args.folder / "prompts.json").read_text())]
    on_gpu = mx.default_device() != mx.cpu
    print(json.dumps({"gpu": bool(on_gpu), "shortest": min(lengths), "longest": max(lengths)}))


if __name__ == "__main__":
    main()
