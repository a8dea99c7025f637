"""The rows of the table: what is done, by whom, and how many times faster than the peer ours should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

LAYERS = 30  # of the starter model
Size = dict[str, Any]

QUICK: Size = {
    "prompts": 8,
    "tokens": 32,
    "epochs": 4,
    "minibatches": 2,
    "steps": 3,
    "pairs": 32,
    "pair_batch": 8,
    "generated": 16,
}
FULL: Size = {
    "prompts": 16,
    "tokens": 32,
    "epochs": 4,
    "minibatches": 4,
    "steps": 4,
    "pairs": 64,
    "pair_batch": 8,
    "generated": 32,
}


@dataclass(frozen=True)
class Row:
    """One line of the table. `work` is what ours.py and the peer's script are told to do; `peer` is (environment, script).

    `measure`: what the ratio is of: the peer's seconds over ours for the same work, or our peak memory over the peer's.
    """

    name: str
    title: str
    work: Literal["ppo", "grpo", "reward", "dpo", "generate"]
    peer: tuple[str, str]
    train_layers: int = LAYERS
    pair_epochs: int = 1
    target: float = 1.0
    measure: Literal["seconds", "memory"] = "seconds"


TRL_PPO = ("trl-1.8", "trl_ppo.py")
TRL = ("trl", "trl_rest.py")

ROWS = (
    Row("ppo_all", "PPO, adapters on all layers", "ppo", TRL_PPO, target=2.5),
    Row("ppo_top8", "PPO, top 8 layers", "ppo", TRL_PPO, train_layers=8, target=6),
    Row("ppo_top4", "PPO, top 4 layers", "ppo", TRL_PPO, train_layers=4, target=9),
    Row("reward", "reward model, all layers", "reward", TRL, target=1.8),
    Row("reward_top8", "reward model, top 8 layers", "reward", TRL, train_layers=8, target=3.5),
    Row("reward_top8_x3", "reward model, top 8, three epochs", "reward", TRL, train_layers=8, pair_epochs=3, target=6),
    Row("dpo", "DPO, all layers", "dpo", TRL, target=2),
    Row("dpo_top8", "DPO, top 8 layers", "dpo", TRL, train_layers=8, target=4),
    Row("grpo", "GRPO, all layers", "grpo", TRL, target=2),
    Row("grpo_top8", "GRPO, top 8 layers", "grpo", TRL, train_layers=8, target=4),
    Row("generation", "generation, against transformers' generate", "generate", ("trl", "generate.py"), target=1.5),
    Row("generation_vllm", "generation, against vLLM on the CPU", "generate", ("vllm", "generate_vllm.py"), target=1.0),
    Row("memory", "peak memory of PPO, all layers", "ppo", TRL_PPO, target=0.4, measure="memory"),
)  # fmt: skip
