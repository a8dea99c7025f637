"""Our group methods beside TRL's on the same batch of a tiny model: advantages, loss, and gradient of every adapter weight.

    python -m venv trl && trl/bin/pip install torch trl peft && PYTHONPATH=src trl/bin/python benchmarks/agreement/group_losses.py

It takes an environment of its own with TRL in it (seen with 1.16.0); nothing else here needs TRL. TRL samples the batch, scores it
and computes with peft on plain Transformers; ours takes its tokens and rewards, branches below the adapters, and has the closed-form
gradient of the frozen head. So that ratios differ from 1 and clips bite, the log-probabilities at sampling are moved by the same
random numbers for both. The last line is one JSON object; the exit code is 1 where anything differs by more than the tolerance,
relative to the largest of its kind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from trl import GRPOConfig as TheirGRPOConfig
from trl import GRPOTrainer, RLOOTrainer
from trl import RLOOConfig as TheirRLOOConfig

from manners.batches import Rollouts, pad_rows
from manners.learner.local import POLICY, LocalLearner
from manners.models.tiny import tiny_llama, tiny_tokenizer
from manners.models.trunk import Trunk
from manners.records import Completion, Prompt
from manners.train.experiment import with_shift_penalty
from manners.train.grpo import GRPOConfig, grpo_objective, policy_batch, reduction_of

Given = dict[str, Any]
# ours and TRL's settings. TRL's KL of GRPO is a loss, with k3; that of RLOO is in the reward, with k1, as ours.
GRPO: dict[str, tuple[Given, Given]] = {
    "grpo": ({"normalise": "sequences"}, {"loss_type": "grpo"}),
    "grpo, tokens of the batch": ({"normalise": "tokens"}, {"loss_type": "dapo"}),
    "dr_grpo": ({"advantage": "grpo_without_std", "normalise": "max_tokens"}, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "clip-higher": ({"clip_low": 0.1, "clip_high": 0.28}, {"loss_type": "dapo", "epsilon": 0.1, "epsilon_high": 0.28}),
    "gspo": (
        {"ratio": "sequence", "normalise": "sequences", "clip_low": 0.03, "clip_high": 0.04},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
    ),
    "two-sided clip": ({"dual_clip": 1.3}, {"loss_type": "dapo", "delta": 1.3}),
    "kl in the loss": (
        {"normalise": "sequences", "kl_loss_weight": 0.3, "kl_loss": "forward"},
        {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False},
    ),
}  # fmt: skip
RLOO: dict[str, tuple[Given, Given]] = {
    "rloo": ({"beta": 0.0}, {"beta": 0.0}),
    "rloo, kl in the reward": ({"beta": 0.2}, {"beta": 0.2}),
}
ON_POLICY = {"kl in the loss"}  # TRL weights this KL by no ratio, so that both agree only where it is 1
PROMPTS = ["hello", "why?", "how are you?", "a much longer question, to pad"]
ANSWERS, LONGEST, TEMPERATURE = 4, 12, 0.7
LAYERS, RANK, ALPHA = 2, 4, 8


def shaken_trunk() -> Trunk:
    trunk = Trunk(tiny_llama(len(tiny_tokenizer())), tiny_tokenizer(), LAYERS, name="tiny")
    trunk.adapters.add(POLICY, rank=RANK, alpha=ALPHA, seed=0)
    return trunk


def shake(trunk: Trunk) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trunk.adapters.parameters(POLICY):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def taste(completions: list[str], **_: Any) -> list[float]:
    """A judge that likes many different letters, and the letter e."""
    return [float(len(set(text)) + text.count("e")) for text in completions]


def trainer_of(kind: str, theirs: Given, trunk: Trunk, folder: str) -> Any:
    """TRL's trainer with the weights of the trunk's adapter."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<|unknown|>"
    count = len(PROMPTS) * ANSWERS
    shared: dict[str, Any] = {
        "output_dir": folder, "per_device_train_batch_size": count, "num_generations": ANSWERS, "max_completion_length": LONGEST,
        "temperature": TEMPERATURE, "report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "disable_dropout": True, "seed": 1,
    }  # fmt: skip
    lora = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=sorted(trunk.adapters.layers)
    )
    config, trainer = (TheirGRPOConfig, GRPOTrainer) if kind == "grpo" else (TheirRLOOConfig, RLOOTrainer)
    made = trainer(
        model=tiny_llama(len(tokenizer)), reward_funcs=taste, args=config(**shared | theirs), processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}), peft_config=lora,
    )  # fmt: skip
    named = parameters_of(made)
    with torch.no_grad():
        for name, tensor in trunk.adapters.state(POLICY).items():
            named[name.removeprefix("base_model.model.")].copy_(tensor)
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def parameters_of(trainer: Any) -> dict[str, Tensor]:
    return {n.replace(".default", "").removeprefix("base_model.model."): p for n, p in trainer.model.named_parameters()}


def rollouts_of(batch: dict[str, Tensor], trainer: Any) -> Rollouts:
    """TRL's batch, padded on the left and in the middle, as ours, padded on the right."""
    rows, starts = [], []
    columns = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    for prompt, real, answer, said in zip(*(batch[name] for name in columns), strict=True):
        rows.append(torch.cat([prompt[real.bool()], answer[said.bool()]]))
        starts.append(int(real.sum()))
    tokens = pad_rows(rows).long()
    lengths = torch.tensor([len(row) for row in rows])
    prompts = tuple(Prompt.of(text) for text in PROMPTS for _ in range(ANSWERS))
    texts = trainer.processing_class.batch_decode(batch["completion_ids"])
    return Rollouts(
        tokens, torch.tensor(starts), lengths, torch.zeros(tokens.shape), torch.ones(len(rows)).bool(), torch.zeros(*tokens.shape, 0),
        prompts, tuple(Completion(p.id, text) for p, text in zip(prompts, texts, strict=True)), None,
    )  # fmt: skip


def compare(kind: str, name: str, own: Given, theirs: Given, folder: str) -> dict[str, float]:
    """The largest differences, each relative to the largest value of its kind."""
    shared = {"advantage": kind, "answers": ANSWERS, "batch": len(PROMPTS) * ANSWERS, "max_tokens": LONGEST,
              "temperature": TEMPERATURE, "beta": 0.0}  # fmt: skip
    config = GRPOConfig(**shared | own)
    trunk = shaken_trunk()
    learner = LocalLearner(
        trunk, rank=RANK, alpha=ALPHA, temperature=TEMPERATURE, minibatches=1, micro_tokens=10_000, seed=0, entropy_gradient=False,
        critic="none",
    )  # fmt: skip
    shake(trunk)
    trainer = trainer_of("grpo" if kind.startswith("grpo") else kind, theirs, trunk, folder)
    torch.manual_seed(3)
    batch = trainer._generate_and_score_completions([{"prompt": text} for text in PROMPTS for _ in range(ANSWERS)])
    drawn = rollouts_of(batch, trainer)
    scores = torch.tensor(trainer._logs["rewards"]["taste"])

    sampled = learner.logprobs(drawn, "policy")
    drawn = Rollouts(**{**vars(drawn), "logps": sampled})
    scored = with_shift_penalty(drawn, scores, learner.logprobs(drawn, "reference"), config.beta)
    made, _ = policy_batch(scored, config, None)
    moved = torch.zeros_like(sampled)
    if name not in ON_POLICY:
        moved = 0.3 * torch.randn(sampled.shape, generator=torch.Generator().manual_seed(7)) * drawn.response_mask
    made = type(made)(**{**vars(made), "old_logps": sampled + moved})
    result = grpo_objective(learner.evaluate(made), made, config=config)
    shares = reduction_of(config)(made.response_lengths)
    total = torch.where(made.response_mask, result.total, 0)
    loss = (shares.weights[:, None] * total).sum() / shares.denominator
    gradients = torch.autograd.grad(loss, list(trunk.adapters.parameters(POLICY)))

    old = torch.zeros(batch["completion_ids"].shape)
    for row in range(len(made)):
        start, end = int(made.prompt_lengths[row]), int(made.lengths[row])
        old[row, : end - start] = made.old_logps[row, start:end]
    batch |= {"old_per_token_logps": old} if kind.startswith("grpo") else {"old_logps": old.sum(-1)}
    their_loss = trainer._compute_loss(trainer.model, batch)
    named = parameters_of(trainer)
    order = [named[key.removeprefix("base_model.model.")] for key in trunk.adapters.state(POLICY)]
    their_gradients = torch.autograd.grad(their_loss, order)

    advantages = torch.stack([made.advantages[row, int(start)] for row, start in enumerate(made.prompt_lengths)])
    clipped = float(result.statistics["clip_fraction"][made.response_mask].float().mean())
    print(f"{name}: loss {loss.item():.7f} and {their_loss.item():.7f}; {100 * clipped:.0f} % clipped", file=sys.stderr)
    return {
        "advantages": largest([advantages], [batch["advantages"]]),
        "loss": abs(loss.item() - their_loss.item()) / max(1.0, abs(their_loss.item())),
        "gradient": largest(list(gradients), list(their_gradients)),
        "clipped": clipped,
    }


def largest(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest difference, relative to the largest value."""
    scale = max(float(tensor.abs().max()) for tensor in other)
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True)) / scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    tolerance = parser.parse_args().tolerance
    found, agree = {}, True
    cases = [("grpo", name, {"advantage": "grpo", **own}, theirs) for name, (own, theirs) in GRPO.items()]
    rloo = {"advantage": "rloo", "ratio": "answer", "normalise": "sequences", "clip_low": 0.2, "clip_high": 0.2}
    cases += [("rloo", name, {**rloo, **own}, theirs) for name, (own, theirs) in RLOO.items()]
    for kind, name, own, theirs in cases:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = compare(kind, name, own, theirs, folder)
        agree &= all(value <= tolerance for key, value in found[name].items() if key != "clipped")
    print(json.dumps({"agree": agree, "tolerance": tolerance, "differences": found}))
    sys.exit(not agree)


if __name__ == "__main__":
    main()
