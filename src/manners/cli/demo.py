"""`manners demo`: the main job end to end, on the starter model and the starter judgements, in one folder.

rankings → pairs (two halves of the training prompts) → supervised fine-tuning → a reward model from each half → PPO against the
first → before and after on prompts never trained on, by both → report. Both reward models, reference, policy and value function stand
on one trunk: the fine-tuned model.
"""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import Any

from manners.cli.data import made_from, make_pairs, read_split
from manners.cli.talk import say, track
from manners.config import Config
from manners.errors import MannersError
from manners.evaluate.policy import EvaluateConfig, evaluate_run
from manners.feedback.importers import import_file
from manners.feedback.pairs import preferred_of, prompts_of
from manners.feedback.store import Store
from manners.models.load import load_trunk
from manners.models.starter import starter
from manners.rewards.groups import States
from manners.rewards.load import ScorerConfig
from manners.runs import Run
from manners.train.ppo import PPOConfig, train_ppo
from manners.train.reward import RewardConfig, train_reward
from manners.train.sft import SFTConfig, train_sft


class DemoConfig(Config):
    """Settings of `demo`: those of its four parts. Paths between the parts are filled in."""

    seed: int = 0
    sft: SFTConfig = SFTConfig(train_layers=8, learning_rate=3e-4)
    reward: RewardConfig = RewardConfig(train_layers=4, learning_rate=3e-3, read="mean")
    ppo: PPOConfig = PPOConfig(
        train_layers=4, steps=6, temperature=0.7, beta=0.03, learning_rate=2e-3, value_learning_rate=3e-3, epochs=3,
        minibatches=2, missing_eos_penalty=0.5, evaluate_every=3, evaluate_prompts=24, evaluate_samples=2,
        kl_budget_per_sequence=8,
    )  # fmt: skip
    evaluate: EvaluateConfig = EvaluateConfig(temperature=0.7, batch=160)


def run_demo(config: DemoConfig, folder: Path) -> dict[str, Any]:
    """Run the demo in `folder` and give the numbers that its last line prints."""
    from manners.report import write_report

    start = time.monotonic()
    if folder.exists() and not (folder / "demo.db").exists() and any(folder.iterdir()):
        raise MannersError(f"{folder} holds other files; choose another --run")
    starter(say)
    pairs = folder / "pairs"
    _say(start, "rankings to pairs")
    with Store.open(folder / "demo.db") as store:
        with resources.as_file(resources.files("manners") / "starter" / "judgements.jsonl") as judgements:
            import_file(store, judgements)
        make_pairs(store, pairs, seed=config.seed, validation=0.1, test=0.1, source=None, halves=True)

    _say(start, "supervised fine-tuning on the preferred completions")
    sft = config.sft.model_copy(update={"seed": config.seed})
    made = Run.create(folder / "sft", "sft", sft, made_from(folder / "sft", data=pairs, model=sft.model), replace=True)
    with made.guard():
        train_sft(
            sft,
            preferred_of(read_split(pairs, "train")),
            preferred_of(read_split(pairs, "validation")),
            made,
            track=track,
        )

    judge = config.reward.model_copy(update={"seed": config.seed, "model": str(folder / "sft")})
    trunk = load_trunk(**_base(judge))
    accuracy: dict[str, float] = {}
    states: States = {}  # both judges are tried on the same held-out pairs
    for name, half in (("reward", "first"), ("second_judge", "second")):
        _say(start, f"{name.replace('_', ' ')} from the {half} half of the judgements")
        sources = made_from(folder / name, data=pairs / half, model=judge.model)
        made = Run.create(folder / name, "reward", judge, sources, replace=True)
        with made.guard():
            evaluation = train_reward(
                judge, read_split(pairs / half, "train"), read_split(pairs, "test"), made, trunk, track, states=states
            )
        for adapter in list(trunk.adapters.rank):
            trunk.adapters.drop(adapter)
        accuracy[name] = evaluation["accuracy"]
    states.clear()

    _say(start, "PPO against the reward model; the second judge only watches")
    judges = {
        "reward": ScorerConfig(model=str(folder / "reward")),
        "second_judge": ScorerConfig(model=str(folder / "second_judge")),
    }
    ppo = config.ppo.model_copy(update={"seed": config.seed, "model": str(folder / "sft"), **judges})
    names = {"model": folder / "sft", "reward": folder / "reward", "second judge": folder / "second_judge"}
    trunk = trunk if _base(ppo) == _base(judge) else load_trunk(**_base(ppo))
    made = Run.create(folder / "ppo", "ppo", ppo, made_from(folder / "ppo", data=pairs, **names), replace=True)
    with made.guard():
        train_ppo(
            ppo,
            prompts_of(read_split(pairs, "train")),
            prompts_of(read_split(pairs, "validation")),
            made,
            trunk,
            track=track,
        )

    _say(start, "before and after on held-out prompts")
    evaluation = evaluate_run(made, prompts_of(read_split(pairs, "test")), config.evaluate, track, trunk)
    _say(start, "report")
    page = write_report(made.path)
    rows = {row["name"]: row for row in evaluation["rows"]}
    return {
        "reward_before": round(rows["reward"]["before"], 4),
        "reward_after": round(rows["reward"]["after"], 4),
        "reward_gain_ci": [round(x, 4) for x in rows["reward"]["ci"]],
        "second_judge_gain_ci": [round(x, 4) for x in rows["second_judge"]["ci"]],
        "kl": round(rows["kl"]["after"], 3),
        "reward_model_accuracy": round(accuracy["reward"], 4),
        "second_judge_accuracy": round(accuracy["second_judge"], 4),
        "seconds": round(time.monotonic() - start, 1),
        "report": str(page),
    }


def _base(config: RewardConfig | PPOConfig) -> dict[str, Any]:
    """How the base of a part is loaded."""
    return config.model_dump(
        include={"model", "train_layers", "trust_remote_code", "gradient_checkpointing", "base_bits"}
    )


def _say(start: float, text: str) -> None:
    say(f"[bold]{time.monotonic() - start:5.0f} s[/]  {text}")
