"""Peak memory of one PPO iteration by model size, counted and measured: `python memory.py [--tiny] [--out FOLDER]`.

Random Llama-like models, so nothing is downloaded. Every measurement runs in a process of its own, whose peak is that of the whole
process, python and torch included; the counted bytes are those of tensors alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

FLOAT, MIB = 4, 2**20
ROWS, TOKENS = 512, 4096  # of logits at a time, as ops/logprobs.py


@dataclass(frozen=True)
class Size:
    """A Llama-like model, and the work of one iteration on it."""

    width: int
    inner: int
    layers: int
    heads: int
    groups: int
    vocabulary: int
    train_layers: int
    batch: int = 16
    prompt: int = 32
    response: int = 32
    rank: int = 16
    micro_tokens: int = 1024
    gradient_checkpointing: bool = False
    base_bits: Literal["full"] | int = "full"

    @property
    def linear(self) -> int:
        """Weights of the linear layers of one layer."""
        narrow = self.width * self.groups // self.heads
        return self.width * (2 * self.width + 2 * narrow + 3 * self.inner)

    @property
    def weights(self) -> int:
        """Weights of the model; head and embedding are one matrix."""
        return self.layers * (self.linear + 2 * self.width) + self.width * (self.vocabulary + 1)


def counted(size: Size) -> dict[str, int]:
    """Bytes of one PPO iteration by what holds them. "peak" is that of sampling, with the copy of the weights that is fast with few rows
    and the keys and values, or that of an update, with gradients, activations and logits: whichever is more."""
    narrow = size.width * size.groups // size.heads
    each = size.linear * FLOAT
    if size.base_bits == 8:  # a byte each, and a scale for every output
        each = size.linear + FLOAT * (3 * size.width + 2 * narrow + 2 * size.inner)
    elif size.base_bits == 4:  # half a byte each, and a scale for every 64 inputs
        each = size.linear // 2 + FLOAT * size.linear // 64
    base = size.layers * (each + 2 * size.width * FLOAT) + size.width * (size.vocabulary + 1) * FLOAT
    ends = 2 * (size.width + size.width) + 2 * (size.width + narrow) + 3 * (size.width + size.inner)
    adapter = size.train_layers * size.rank * ends * FLOAT
    tokens = size.prompt + size.response
    micro = min(size.micro_tokens, size.batch * tokens)
    # what a layer keeps per token: 7 states as wide as the model (before both norms; queries, keys, values and what comes of them, which
    # stands twice), the inner state before its gate, low-rank states
    kept = 7 * size.width + 2 * size.inner + 7 * size.rank
    held = size.train_layers * size.width + kept if size.gradient_checkpointing else size.train_layers * kept
    rows, columns = min(ROWS, micro), min(TOKENS, size.vocabulary)
    states = size.batch * tokens * size.width * FLOAT
    always = {"weights": base, "adapters": adapter, "adam": 2 * adapter, "states": states}
    sampling = {
        "copy": (size.layers * size.linear + size.width * size.vocabulary) * FLOAT if size.base_bits == "full" else 0,
        "cache": 2 * size.layers * size.batch * tokens * narrow * FLOAT,
    }
    update = {"gradients": adapter, "activations": micro * held * FLOAT, "logits": 2 * rows * columns * FLOAT}
    peak = sum(always.values()) + max(sum(sampling.values()), sum(update.values()))
    return always | sampling | update | {"peak": peak}


SIZES = {  # million weights, roughly
    8: Size(192, 512, 8, 3, 1, 16_384, 4),
    30: Size(384, 1024, 12, 6, 2, 24_576, 6),
    60: Size(512, 1408, 14, 8, 4, 32_768, 7),
    135: Size(576, 1536, 30, 9, 3, 49_152, 8),
}
TINY = {0: Size(64, 128, 2, 2, 1, 96, 1, batch=4, prompt=8, response=4)}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {}, "gradient checkpointing": {"gradient_checkpointing": True}, "8 bit": {"base_bits": 8}, "4 bit": {"base_bits": 4},
}  # fmt: skip


def iteration(size: Size) -> dict[str, float]:
    """Run two PPO steps in this process; gives the seconds of the second, and the peak memory of the process, MiB."""
    import resource

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from manners.models.tiny import tiny_tokenizer
    from manners.models.trunk import Trunk
    from manners.records import Prompt
    from manners.rewards.load import FunctionJudge, TextScorer
    from manners.runs import Run, read_jsonl
    from manners.train.experiment import Judges
    from manners.train.ppo import PPOConfig, train_ppo

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=max(size.vocabulary, len(tokenizer)), hidden_size=size.width, intermediate_size=size.inner,
            num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.groups,
            max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=None,
        )
    )  # fmt: skip
    trunk = Trunk(
        model, tokenizer, size.train_layers, "random",
        gradient_checkpointing=size.gradient_checkpointing, base_bits=size.base_bits,  # type: ignore[arg-type]
    )  # fmt: skip
    config = PPOConfig(
        model="random", train_layers=size.train_layers, steps=2, batch=size.batch, max_tokens=size.response, rank=size.rank,
        epochs=1, minibatches=1, micro_tokens=size.micro_tokens, evaluate_prompts=0, log_rollouts=0, guards=(), save_every=2,
    )  # fmt: skip
    # no two begin alike, so that each is computed whole
    prompts = [Prompt.of(chr(ord("0") + i % 75) + "x" * max(1, size.prompt - 4)) for i in range(size.batch)]
    judge = TextScorer(FunctionJudge(lambda _prompts, answers: [float(len(answer)) for answer in answers]))
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", "ppo", config, {})
        train_ppo(config, prompts, [], run, trunk, Judges(judge, None))
        seconds = [row["seconds"] for row in read_jsonl(run.path / "timings.jsonl")]
    return {"seconds": seconds[-1], "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measured(size: Size) -> dict[str, float]:
    """`iteration` in a process of its own. This process never loads torch: a child's peak begins with that of its parent."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", json.dumps(asdict(size))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    )
    if done.returncode:
        raise SystemExit(f"an iteration failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(sizes: dict[int, Size]) -> list[dict[str, Any]]:
    """A row for every size and way."""
    rows = []
    for size in sizes.values():
        for way, settings in WAYS.items():
            one = Size(**(asdict(size) | settings))
            rows.append(
                {"weights": one.weights, "way": way, "counted_mib": counted(one)["peak"] / MIB, **measured(one)}
            )
            print(
                f"{one.weights / 1e6:7.1f} M  {way:24s} counted {rows[-1]['counted_mib']:8.1f} MiB  measured"
                f" {rows[-1]['peak_mib']:8.1f} MiB  {rows[-1]['seconds']:6.2f} s", file=sys.stderr,
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="one small size, in seconds")
    parser.add_argument("--out", type=Path, help="folder for memory.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(iteration(Size(**json.loads(given.one)))))
        return
    start = time.monotonic()
    found = {"rows": table(TINY if given.tiny else SIZES), "seconds": 0.0}
    found["seconds"] = time.monotonic() - start
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "memory.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
