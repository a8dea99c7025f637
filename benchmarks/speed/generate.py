"""transformers' own generate: `python generate.py WORK.json`."""

from __future__ import annotations

import time

START = time.perf_counter()

import json  # noqa: E402 - the clock starts before anything is loaded
import os  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    size = work["size"]
    torch.set_num_threads(work["threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["model"], padding_side="left")
    tokenizer.pad_token = "<|endoftext|>"
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
    loaded = time.perf_counter() - START
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": work["prompts"][i % len(work["prompts"])]}], add_generation_prompt=True, tokenize=False
        )
        for i in range(size["generated"])
    ]  # fmt: skip
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    seconds, tokens = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                **batch, max_new_tokens=size["tokens"], do_sample=True, temperature=1.0, top_k=0, top_p=1.0
            )
        seconds.append(time.perf_counter() - start)
        new = out[:, batch["input_ids"].shape[1] :]
        tokens.append(int((new != tokenizer.pad_token_id).sum()))
    each = [s / t for s, t in zip(seconds[1:], tokens[1:], strict=False)]
    print(json.dumps({
        "seconds": statistics.median(each), "unit": "token", "first_step_seconds": seconds[0], "load_seconds": loaded,
        "trainable": 0, "response_tokens": statistics.mean(tokens) / len(texts), "torch": torch.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
