"""TRL's PPO, in the last release line that has it: `python trl_ppo.py WORK.json`. Runs in the environment "trl-1.8".

Policy and value model carry the same LoRA; the reward model is a third model of the same size, as TRL wants it.
"""

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
from datasets import Dataset  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer  # noqa: E402

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def on_step_end(self, *_args, **_kwargs) -> None:
        self.times.append(time.perf_counter())


def lora(work: dict, task: str) -> LoraConfig:
    top = list(range(work["layers"] - work["train_layers"], work["layers"]))
    return LoraConfig(r=16, lora_alpha=32, target_modules=LINEAR, layers_to_transform=top, task_type=task)


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    size = work["size"]
    torch.set_num_threads(work["threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["model"], padding_side="left")
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>"})
    rows = []
    for i in range(size["prompts"] * (size["steps"] + 1)):
        message = [{"role": "user", "content": work["prompts"][i % len(work["prompts"])]}]
        encoded = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=True)
        rows.append({"input_ids": encoded["input_ids"]})
    data = Dataset.from_list(rows)
    policy = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
    judge, value = (
        AutoModelForSequenceClassification.from_pretrained(work["model"], num_labels=1, dtype=torch.float32)
        for _ in range(2)
    )
    for model in (judge, value):
        model.config.pad_token_id = tokenizer.pad_token_id
    value = get_peft_model(value, lora(work, "SEQ_CLS")).base_model.model  # adapters inside, the class that TRL expects
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder, per_device_train_batch_size=size["prompts"] // size["minibatches"],
            gradient_accumulation_steps=size["minibatches"], num_mini_batches=size["minibatches"], num_ppo_epochs=size["epochs"],
            total_episodes=size["prompts"] * size["steps"], response_length=size["tokens"],
            local_rollout_forward_batch_size=size["prompts"], num_sample_generations=0, stop_token=None, report_to=[],
            use_cpu=True, bf16=False, gradient_checkpointing=False, learning_rate=1e-5, kl_coef=0.05, temperature=1.0,
            save_strategy="no", logging_steps=1,
        )  # fmt: skip
        clock = Clock()
        trainer = PPOTrainer(
            args=arguments, processing_class=tokenizer, model=policy, ref_model=None, reward_model=judge,
            value_model=value, train_dataset=data, eval_dataset=data.select(range(size["prompts"])),
            peft_config=lora(work, "CAUSAL_LM"), callbacks=[clock],
        )  # fmt: skip
        if arguments.local_batch_size != size["prompts"]:
            raise SystemExit(f"TRL takes {arguments.local_batch_size} episodes a step, not {size['prompts']}")
        loaded = time.perf_counter() - START
        clock.times = [time.perf_counter()]
        trainer.train()
    steps = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    trainable = sum(p.numel() for n, p in trainer.model.policy.named_parameters() if "lora_" in n)
    print(json.dumps({
        "seconds": statistics.median(steps[1:]) / size["prompts"], "unit": "episode", "first_step_seconds": steps[0],
        "load_seconds": loaded, "response_tokens": size["tokens"], "trainable": trainable, "torch": torch.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
