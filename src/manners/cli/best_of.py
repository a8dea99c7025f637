"""`manners sample --best-of N --reward RUN`: of N answers to each prompt the one that a judge finds best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manners.cli.talk import give, say, track
from manners.errors import MannersError
from manners.evaluate.best_of_n import best_of_n
from manners.models.load import base_of
from manners.models.trunk import TrainLayers
from manners.ops.scaling_law import best_of_n_kl
from manners.records import Prompt
from manners.rewards.load import ScorerConfig, load_scorer
from manners.rewards.model import final_checkpoint
from manners.runs import read_json, write_jsonl
from manners.sampling.local import LocalSampler


def sample_best(
    model: str, prompts: Sequence[Prompt], reward: Path | None, n: int, out: Path | None, max_tokens: int, temperature: float,
    seed: int,
) -> None:  # fmt: skip
    """Write the winners to `out`, or to stdout."""
    rows = winners(model, prompts, reward, n, max_tokens=max_tokens, temperature=temperature, seed=seed)
    if out:
        write_jsonl(out, rows)
        say(f"{len(rows)} winners in {out}; `manners train sft --data {out}` learns from them", markup_of=str(out))
    else:
        for row in rows:
            give(row)


def winners(
    model: str,
    prompts: Sequence[Prompt],
    reward: Path | None,
    n: int,
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> list[dict[str, Any]]:
    """A row for each prompt, however often it is given: prompt, completions and rewards (one each), and what best-of-n it was.

    The rows are a file of demonstrations for `train sft --data` and of scored answers for `train ilql --answers`. `kl` is that to `model`,
    nats per sequence. Raises MannersError where no judge is named.
    """
    if reward is None:
        raise MannersError("best-of-n needs a judge: name the run of a reward model with --reward")
    sampler = LocalSampler.of(model, _layers(reward, model), say=say)
    judge = load_scorer(ScorerConfig(model=str(reward)), sampler.trunk, "reward")
    each_once = list({prompt.id: prompt for prompt in prompts}.values())
    best = best_of_n(
        sampler, judge, each_once, n, max_tokens=max_tokens, temperature=temperature, seed=seed, track=track
    )
    kl = round(best_of_n_kl(n), 4)
    say(
        f"best of {n} by {reward}: {kl} nats per sequence from {model} at most (ln n − (n − 1)/n)",
        markup_of=str(reward),
    )
    return [
        {
            "prompt": winner.prompt.to_json(),
            "completions": [winner.completion.to_json()],
            "rewards": [round(winner.score, 6)],
            "best_of": {"n": n, "reward": str(reward), "kl": kl},
        }
        for winner in best
    ]


def _layers(reward: Path, model: str) -> TrainLayers:
    """Where the judge was trained on `model`, the layers it has adapters on: on such a trunk it reads the very states of sampling."""
    folder = final_checkpoint(reward)
    if not (folder / "head.safetensors").exists() or Path(base_of(folder)).resolve() != Path(model).resolve():
        return "all"
    layers: TrainLayers = read_json(folder / "manners.json")["train_layers"]
    return layers
