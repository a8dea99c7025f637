"""Our side of a row: `python ours.py WORK.json` does the work and prints one JSON object."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()

import torch  # noqa: E402 - the clock starts before anything is loaded

from manners.models.heads import ScalarHead  # noqa: E402
from manners.models.load import load_trunk  # noqa: E402
from manners.models.trunk import TrainLayers, Trunk  # noqa: E402
from manners.records import Completion, Pair, Prompt  # noqa: E402
from manners.rewards.load import FunctionJudge, TextScorer  # noqa: E402
from manners.rewards.model import RewardModel  # noqa: E402
from manners.runs import Run, read_jsonl  # noqa: E402
from manners.sampling.local import LocalSampler  # noqa: E402
from manners.train.dpo import DPOConfig, train_dpo  # noqa: E402
from manners.train.experiment import Judges  # noqa: E402
from manners.train.grpo import GRPOConfig, train_grpo  # noqa: E402
from manners.train.ppo import PPOConfig, train_ppo  # noqa: E402
from manners.train.reward import RewardConfig, train_reward  # noqa: E402


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(work["threads"])
    layers: TrainLayers = "all" if work["train_layers"] == work["layers"] else work["train_layers"]
    trunk = load_trunk(work["model"], layers)
    loaded = time.perf_counter() - START
    with tempfile.TemporaryDirectory() as folder:
        found = globals()[f"do_{work['work']}"](work, trunk, layers, Path(folder) / "run")
    print(json.dumps({"load_seconds": loaded, "torch": torch.__version__, **found}))


def do_ppo(work: dict[str, Any], trunk: Trunk, layers: TrainLayers, folder: Path) -> dict[str, Any]:
    """A reward model of the same shape judges, as an adapter on the same trunk."""
    size = work["size"]
    trunk.adapters.add("judge", rank=16, alpha=32, seed=1)
    judge = RewardModel(trunk, "judge", ScalarHead.for_reward(trunk.width, 1), "last")
    config = PPOConfig(
        model=work["model"], train_layers=layers, steps=size["steps"], batch=size["prompts"], max_tokens=size["tokens"],
        epochs=size["epochs"], minibatches=size["minibatches"], learning_rate=1e-5, value_learning_rate=1e-5,
        evaluate_prompts=0, log_rollouts=0, guards=(), save_every=size["steps"],
    )  # fmt: skip
    run = Run.create(folder, "ppo", config, {})
    train_ppo(config, [Prompt.of(text) for text in work["prompts"]], [], run, trunk, Judges(judge, None))
    return cycles(run, size["prompts"], trunk, ("policy",))


def do_grpo(work: dict[str, Any], trunk: Trunk, layers: TrainLayers, folder: Path) -> dict[str, Any]:
    size = work["size"]
    config = GRPOConfig(
        model=work["model"], train_layers=layers, steps=size["steps"], batch=size["prompts"], answers=4,
        max_tokens=size["tokens"], epochs=1, minibatches=1, learning_rate=1e-5, beta=0, kl_loss_weight=0.04,
        kl_loss="forward", evaluate_prompts=0, log_rollouts=0, guards=(), save_every=size["steps"],
    )  # fmt: skip
    run = Run.create(folder, "grpo", config, {})
    judge = TextScorer(FunctionJudge(lambda _prompts, answers: [float(len(answer)) for answer in answers]))
    train_grpo(config, [Prompt.of(text) for text in work["prompts"]], [], run, trunk, Judges(judge, None))
    return cycles(run, size["prompts"], trunk, ("policy",))


def cycles(run: Run, episodes: int, trunk: Trunk, adapters: tuple[str, ...]) -> dict[str, Any]:
    first, *rest = (row["seconds"] for row in read_jsonl(run.path / "timings.jsonl"))
    phases = [row["phase_seconds"] for row in read_jsonl(run.path / "timings.jsonl")][1:]
    lengths = [row["length"] for row in run.metrics()]
    return {
        "seconds": statistics.median(rest) / episodes, "unit": "episode", "first_step_seconds": first,
        "response_tokens": statistics.mean(lengths), "trainable": trainable(trunk, adapters),
        "phases": {name: statistics.median(row[name] for row in phases) for name in phases[0]},
    }  # fmt: skip


def do_reward(work: dict[str, Any], trunk: Trunk, layers: TrainLayers, folder: Path) -> dict[str, Any]:
    config = RewardConfig(
        model=work["model"], train_layers=layers, epochs=work["pair_epochs"], batch=work["size"]["pair_batch"],
        max_prompt_tokens=160, max_tokens=160,
    )  # fmt: skip
    pairs = pairs_of(work)
    warm(lambda at: train_reward(config, pairs[:2], [], Run.create(at, "reward", config, {}), trunk), folder)
    start = time.perf_counter()
    train_reward(config, pairs, [], Run.create(folder, "reward", config, {}), trunk)
    return steps_of(time.perf_counter() - start, len(pairs) * config.epochs, trunk, ("reward",), folder)


def do_dpo(work: dict[str, Any], trunk: Trunk, layers: TrainLayers, folder: Path) -> dict[str, Any]:
    config = DPOConfig(
        model=work["model"], train_layers=layers, epochs=work["pair_epochs"], batch=work["size"]["pair_batch"],
        learning_rate=1e-5, max_prompt_tokens=160, max_tokens=160,
    )  # fmt: skip
    pairs = pairs_of(work)
    warm(lambda at: train_dpo(config, pairs[:2], [], Run.create(at, "dpo", config, {}), trunk), folder)
    start = time.perf_counter()
    train_dpo(config, pairs, [], Run.create(folder, "dpo", config, {}), trunk)
    return steps_of(time.perf_counter() - start, len(pairs) * config.epochs, trunk, ("policy",), folder)


def warm(job: Any, folder: Path) -> None:
    """Once on a little, so that what happens at the first call alone is not timed."""
    job(folder.with_name("warm"))


def steps_of(seconds: float, pairs: int, trunk: Trunk, adapters: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """The steps, as of the peer. States below the branch and the reference are computed in them; normalising and saving stand beside."""
    steps = [row["seconds"] for row in read_jsonl(folder / "timings.jsonl")]
    return {
        "seconds": sum(steps) / pairs, "unit": "pair", "first_step_seconds": steps[0], "trainable": trainable(trunk, adapters),
        "phases": {"steps": sum(steps), "beside": seconds - sum(steps)},
    }  # fmt: skip


def do_generate(work: dict[str, Any], trunk: Trunk, _layers: TrainLayers, _folder: Path) -> dict[str, Any]:
    size = work["size"]
    sampler = LocalSampler(trunk, None, batch=size["generated"])
    prompts = [Prompt.of(work["prompts"][i % len(work["prompts"])]) for i in range(size["generated"])]
    seconds, tokens = [], []
    for seed in range(3):
        start = time.perf_counter()
        rollouts = sampler.sample(prompts, max_tokens=size["tokens"], temperature=1.0, seed=seed)
        seconds.append(time.perf_counter() - start)
        tokens.append(int(rollouts.response_lengths.sum()))
    each = [s / t for s, t in zip(seconds[1:], tokens[1:], strict=True)]
    return {"seconds": statistics.median(each), "unit": "token", "first_step_seconds": seconds[0], "trainable": 0,
            "response_tokens": statistics.mean(tokens) / len(prompts)}  # fmt: skip


def pairs_of(work: dict[str, Any]) -> list[Pair]:
    found = []
    for row in work["pairs"]:
        prompt = Prompt.of(row["prompt"])
        found.append(Pair(prompt, Completion(prompt.id, row["chosen"]), Completion(prompt.id, row["rejected"])))
    return found


def trainable(trunk: Trunk, adapters: tuple[str, ...]) -> int:
    """Weights of the LoRA adapters that learn; heads of one number per state are not counted on either side."""
    return sum(p.numel() for name in adapters for p in trunk.adapters.parameters(name))


if __name__ == "__main__":
    main()
