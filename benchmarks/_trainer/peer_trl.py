"""Runs TRL's GRPO on the benchmark's work, in the peer's own virtual environment.

    PEER_PYTHON peer_trl.py WORK_FOLDER GROUP TOKENS PROMPTS STEPS RANK THREADS

It is given what is best for it on a CPU: no reference model (beta 0), no gradient checkpointing, no
filters in sampling, nothing saved, float32. RANK is that of the adapters, 0 where all weights are
trained; they are added by peft to every linear layer but the head, as ours are. A JSON line a step:
seconds and the processor's seconds since the line before. Imports nothing of ours.
"""

import json
import sys
import tempfile
import time
import zlib
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Report(TrainerCallback):
    """Prints each step's figures."""

    def __init__(self):
        self.began, self.used = time.perf_counter(), time.process_time()

    def on_log(self, args, state, control, logs=None, **_):
        """A step has been taken and its figures are there."""
        if logs is None or "reward_std" not in logs:
            return
        figures = {
            "total_s": time.perf_counter() - self.began,
            "cpu_s": time.process_time() - self.used,
            "reward_std": logs["reward_std"],
            "tokens": logs["completions/mean_length"],
        }
        print(json.dumps(figures), flush=True)
        self.began, self.used = time.perf_counter(), time.process_time()


def checksum(completions, **_):
    """The same reward as ours gets."""
    return [zlib.crc32(text.encode()) % 997 / 996 for text in completions]


def adapters(rank):
    """As ours are by default: the scale is 2, which peft writes as alpha over rank."""
    if not rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")


def main(folder, group, tokens, prompts, steps, rank, threads):
    """Train so many steps."""
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    # Any token of the vocabulary: padding is masked, but looked up all the same.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    ids = json.loads((folder / "prompts.json").read_text())
    args = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        per_device_train_batch_size=group * prompts,
        gradient_accumulation_steps=1,
        num_generations=group,
        max_completion_length=tokens,
        max_steps=steps,
        learning_rate=1e-6,
        beta=0.0,
        temperature=1.0,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=checksum,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": tokenizer.decode(each)} for each in ids]),
        processing_class=tokenizer,
        peft_config=adapters(rank),
        callbacks=[Report()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
