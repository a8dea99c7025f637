"""The settings that on-policy methods share, whatever tells one from another."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from manners.config import Config
from manners.guards import DEFAULTS, Guard
from manners.learner.optimiser import EpsPlacement, Schedule
from manners.models.quantised import BaseBits
from manners.models.recompute import GradientCheckpointing
from manners.models.trunk import TrainLayers
from manners.rewards.load import ScorerConfig

BENDING = (
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "min_length",
)


class OnPolicyConfig(Config):
    """Settings of every method that learns from what the policy itself answers."""

    model: str = Field("starter", description="the policy to start from; it is also the frozen reference")
    prompts: str = Field(
        "", description="a file of prompts, or 'starter' for the built-in ones; \"\" = those of the pairs"
    )
    reward: ScorerConfig = Field(ScorerConfig(), description="the judge that is optimised")
    second_judge: ScorerConfig = Field(ScorerConfig(), description="a judge that is only watched, never optimised")
    train_layers: TrainLayers = Field(8, description="adapters on the top N layers, or 'all'")
    rank: int = Field(16, gt=0, description="LoRA rank")
    alpha: float = Field(32, gt=0, description="LoRA alpha")

    steps: int = Field(20, gt=0, description="cycles of Phase I and Phase II")
    batch: int = Field(64, gt=1, description="episodes per step; whitening wants at least 8")
    answers: int = Field(1, gt=0, description="to each prompt; the batch holds batch / answers prompts")
    max_tokens: int = Field(48, gt=0, description="longest answer, end-of-turn token included")
    max_prompt_tokens: int | None = Field(
        None, gt=0, description="a longer prompt ends at the last line break that fits; none: it must fit as it is"
    )
    temperature: float = Field(1.0, gt=0, description="of sampling; divides the logits in every log-probability alike")
    importance_cap: float | None = Field(
        None, gt=0, description="for a sampler on another engine: log-probabilities are taken again by the learner, and the policy loss is"
        " weighted by their ratio, at most this",
    )  # fmt: skip

    beta: float = Field(0.05, ge=0, description="coefficient of the shift penalty, reward units per nat")
    kl_target_per_sequence: float | None = Field(
        None, gt=0, description="nats per sequence; set it to adapt beta, else beta is fixed"
    )
    kl_horizon_episodes: float = Field(10_000, gt=0, description="how slowly beta adapts")
    kl_budget_per_sequence: float | None = Field(
        None, gt=0, description="stop when the KL of a step exceeds this, nats per sequence"
    )
    target_reward: float | None = Field(None, description="stop when the held-out reward reaches this")
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="stop after the step in which the steps have taken this long; what comes of it depends on the machine",
    )

    missing_eos_reward: float | None = Field(
        None, description="reward units: this replaces the score of an answer that never ends"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, description="reward units: this is subtracted from the score of an answer that never ends"
    )
    length_penalty_per_token: float = Field(0.0, ge=0, description="reward units subtracted per response token")
    scale_scores: bool = Field(False, description="divide scores by their running standard deviation; the mean stays")
    score_clip: float | None = Field(None, gt=0, description="scores are clipped to ± this, reward units")

    epochs: int = Field(4, gt=0, description="passes over the batch in Phase II")
    minibatches: int = Field(1, gt=0, description="optimizer steps per epoch")
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.2, gt=0)
    dual_clip: float | None = Field(None, gt=1, description="bound of the ratio where the advantage is negative")
    entropy_weight: float = Field(0.0, description="of the entropy bonus; 0 = entropy is only logged")
    kl_loss_weight: float = Field(0.0, ge=0, description="of a KL term in the loss, beside the one in the reward")
    kl_loss: Literal["reverse", "forward"] = Field(
        "reverse", description="its gradient: of KL(π ‖ π_ref), by k2, or of KL(π_ref ‖ π), by k3"
    )
    approx_kl_limit: float | None = Field(
        None, gt=0, description="nats per token: no further epoch once the policy is this far from the one that sampled"
    )
    max_mean_ratio: float = Field(10.0, gt=1, description="a minibatch with a larger mean ratio is skipped")

    learning_rate: float = Field(3e-4, gt=0, description="peak, policy adapter")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the optimizer steps with rising learning rate")
    schedule: Schedule = Field("linear", description="of the learning rates after the warm-up")
    adam_eps: float = Field(1e-5, gt=0)
    adam_eps_placement: EpsPlacement = Field("torch", description="ε outside the bias correction is 'tensorflow'")
    max_grad_norm: float = Field(1.0, gt=0)
    micro_tokens: int = Field(4096, gt=0, description="positions with padding per forward pass")

    guards: tuple[Guard, ...] = Field(DEFAULTS, description="what is watched for hacking and collapse")
    max_roll_backs: int = Field(2, ge=0, description="the next alarm that would roll back stops the run")
    roll_back_beta_factor: float = Field(2.0, ge=1, description="beta is multiplied by this at each roll back")

    evaluate_every: int = Field(
        5, gt=0, description="steps between looks at the held-out prompts; the best of them is kept"
    )
    evaluate_prompts: int = Field(32, ge=0, description="held-out prompts per look; 0 = never look, keep the last")
    evaluate_samples: int = Field(
        1, gt=0, description="answers per held-out prompt and look; more make the choice surer"
    )
    log_rollouts: int = Field(6, ge=0, description="answers per step that the report opens token by token")
    save_every: int = Field(1, gt=0, description="steps between the states that a run can be resumed from")
    profile: bool = Field(
        False,
        description="seconds of each step by part, down to prefill, decode and each epoch, for timings.jsonl and the report",
    )
    gradient_checkpointing: GradientCheckpointing = False
    base_bits: BaseBits = "full"
    trust_remote_code: bool = False
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _full_distribution(cls, values: Any) -> Any:
        if isinstance(values, dict) and (named := [key for key in BENDING if key in values]):
            raise ValueError(
                f"{named[0]} bends the distribution that is sampled from: the update would see other log-probabilities; leave it out"
            )
        return values

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.missing_eos_reward is not None and self.missing_eos_penalty:
            raise ValueError(
                "set missing_eos_reward (replaces the score) or missing_eos_penalty (is subtracted), not both"
            )
        if self.batch % self.answers:
            raise ValueError(f"batch {self.batch} is no multiple of answers {self.answers}")
        return self

    @property
    def sources(self) -> dict[str, Path | str]:
        """What a run is made from beside its data, by name; "" where there is none of that name."""
        found: dict[str, Path | str] = {
            "model": self.model,
            "prompts": self.prompts if self.prompts != "starter" else "",
        }
        for name, judge in (("reward", self.reward), ("second judge", self.second_judge)):
            found |= {f"{name} {number}" if number else name: source for number, source in enumerate(judge.sources)}
        return found
