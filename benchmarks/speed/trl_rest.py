"""TRL's reward model, DPO and GRPO: `python trl_rest.py WORK.json`. Runs in the environment "trl"."""

from __future__ import annotations

import time

START = time.perf_counter()

import json  # noqa: E402 - the clock starts before anything is loaded
import os  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoTokenizer, TrainerCallback  # noqa: E402

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *_args, **_kwargs) -> None:
        self.times.append(time.perf_counter())

    def on_step_end(self, *_args, **_kwargs) -> None:
        self.times.append(time.perf_counter())


def lora(work: dict, task: str) -> LoraConfig:
    top = list(range(work["layers"] - work["train_layers"], work["layers"]))
    saved = ["score"] if task == "SEQ_CLS" else None
    return LoraConfig(
        r=16, lora_alpha=32, target_modules=LINEAR, layers_to_transform=top, task_type=task, modules_to_save=saved
    )


def said(role: str, text: str) -> list[dict]:
    return [{"role": role, "content": text}]


def pairs(work: dict) -> Dataset:
    rows = [
        {
            "prompt": said("user", row["prompt"]),
            "chosen": said("assistant", row["chosen"]),
            "rejected": said("assistant", row["rejected"]),
        }
        for row in work["pairs"]
    ]
    return Dataset.from_list(rows)


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    size = work["size"]
    torch.set_num_threads(work["threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    tokenizer.pad_token = "<|endoftext|>"
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "output_dir": folder, "report_to": [], "use_cpu": True, "bf16": False, "logging_steps": 1, "save_strategy": "no",
            "gradient_checkpointing": False, "learning_rate": 1e-5,
        }  # fmt: skip
        both = {"processing_class": tokenizer, "callbacks": [clock]}
        learn = common | {
            "per_device_train_batch_size": size["pair_batch"], "num_train_epochs": work["pair_epochs"], "max_length": 320,
        }  # fmt: skip
        if work["work"] == "reward":
            trainer = trl.RewardTrainer(
                model=work["model"], args=trl.RewardConfig(**learn), train_dataset=pairs(work),
                peft_config=lora(work, "SEQ_CLS"), **both,
            )  # fmt: skip
        elif work["work"] == "dpo":
            trainer = trl.DPOTrainer(
                model=work["model"], args=trl.DPOConfig(**learn), train_dataset=pairs(work),
                peft_config=lora(work, "CAUSAL_LM"), **both,
            )  # fmt: skip
        else:
            arguments = trl.GRPOConfig(
                **common, per_device_train_batch_size=size["prompts"], num_generations=4, max_steps=size["steps"],
                max_completion_length=size["tokens"], beta=0.04, num_iterations=1, temperature=1.0,
            )  # fmt: skip
            trainer = trl.GRPOTrainer(
                model=work["model"], args=arguments, peft_config=lora(work, "CAUSAL_LM"),
                train_dataset=Dataset.from_list([{"prompt": said("user", text)} for text in work["prompts"]]),
                reward_funcs=lambda completions, **_: [float(len(c[0]["content"])) for c in completions], **both,
            )  # fmt: skip
        loaded = time.perf_counter() - START
        trainer.train()
    steps = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    each = size["prompts"] if work["work"] == "grpo" else size["pair_batch"]
    trainable = sum(p.numel() for n, p in trainer.model.named_parameters() if "lora_" in n and p.requires_grad)
    lengths = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    print(json.dumps({
        "seconds": statistics.median(steps[1:]) / each, "unit": "episode" if work["work"] == "grpo" else "pair",
        "first_step_seconds": steps[0], "load_seconds": loaded, "trainable": trainable, "torch": torch.__version__,
        **({"response_tokens": statistics.mean(lengths)} if lengths else {}),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
