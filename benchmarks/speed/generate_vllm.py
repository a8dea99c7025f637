"""vLLM's CPU build: `python generate_vllm.py WORK.json`. Runs in the environment "vllm"."""

from __future__ import annotations

import time

START = time.perf_counter()

import json  # noqa: E402 - the clock starts before anything is loaded
import os  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

os.environ.update(HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="2", VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1")


def main() -> None:
    from vllm import LLM, SamplingParams

    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    size = work["size"]
    engine = LLM(model=work["model"], dtype="float32", max_model_len=512, enforce_eager=True, disable_log_stats=True)
    loaded = time.perf_counter() - START
    asked = [[{"role": "user", "content": work["prompts"][i % len(work["prompts"])]}] for i in range(size["generated"])]
    seconds, tokens = [], []
    for seed in range(3):
        settings = SamplingParams(temperature=1.0, max_tokens=size["tokens"], seed=seed)
        start = time.perf_counter()
        answers = engine.chat(asked, settings, use_tqdm=False)
        seconds.append(time.perf_counter() - start)
        tokens.append(sum(len(answer.outputs[0].token_ids) for answer in answers))
    each = [s / t for s, t in zip(seconds[1:], tokens[1:], strict=False)]
    import torch
    import vllm

    print(json.dumps({
        "seconds": statistics.median(each), "unit": "token", "first_step_seconds": seconds[0], "load_seconds": loaded,
        "trainable": 0, "response_tokens": statistics.mean(tokens) / len(asked), "torch": torch.__version__,
        "vllm": vllm.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
