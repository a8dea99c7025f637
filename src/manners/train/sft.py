"""Supervised fine-tuning: the model learns to say what people preferred. The loss is on the answer's tokens alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from manners.batches import TokenBatch, pad_rows
from manners.config import Config
from manners.errors import MannersError
from manners.learner.optimiser import Optimiser
from manners.models.load import load_trunk
from manners.models.quantised import BaseBits
from manners.models.recompute import GradientCheckpointing
from manners.models.trunk import TrainLayers, Trunk
from manners.records import Completion, Prompt
from manners.runs import Run, Track, untracked, write_json, writing
from manners.text.chat import Chat

ADAPTER = "policy"


class SFTConfig(Config):
    """Settings of `train sft`."""

    model: str = Field("starter", description="the model to fine-tune")
    train_layers: TrainLayers = Field("all", description="adapters on the top N layers, or 'all'")
    rank: int = Field(16, gt=0, description="LoRA rank")
    alpha: float = Field(32, gt=0, description="LoRA alpha")
    epochs: int = Field(1, gt=0)
    batch: int = Field(16, gt=0, description="answers per optimizer step")
    learning_rate: float = Field(2e-4, gt=0, description="peak")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising learning rate")
    weight_decay: float = Field(0.0, ge=0)
    max_tokens: int = Field(512, gt=0, description="answers are cut to this many tokens")
    micro_tokens: int = Field(4096, gt=0, description="positions with padding per forward pass")
    gradient_checkpointing: GradientCheckpointing = False
    base_bits: BaseBits = "full"
    trust_remote_code: bool = False
    seed: int = 0


def train_sft(
    config: SFTConfig,
    demonstrations: Sequence[tuple[Prompt, Completion]],
    heldout: Sequence[tuple[Prompt, Completion]],
    run: Run,
    trunk: Trunk | None = None,
    track: Track = untracked,
) -> dict[str, Any]:
    """Fine-tune on `demonstrations`, report the loss (nats per answer token) on `heldout`, save RUN/checkpoints/final."""
    if not demonstrations:
        raise MannersError(
            "there are no demonstrations to learn from; give answers, or rankings with a finished best answer"
        )
    trunk = trunk or load_trunk(
        config.model, config.train_layers, trust_remote_code=config.trust_remote_code,
        gradient_checkpointing=config.gradient_checkpointing, base_bits=config.base_bits,
    )  # fmt: skip
    chat = Chat(trunk.tokenizer, trunk.context)
    trunk.adapters.add(ADAPTER, rank=config.rank, alpha=config.alpha, seed=config.seed)
    batch = _encode(demonstrations, chat, config.max_tokens, trunk)
    held = _encode(heldout, chat, config.max_tokens, trunk) if heldout else None
    steps = config.epochs * -(-len(batch) // config.batch)
    optimiser = Optimiser([(trunk.adapters.parameters(ADAPTER), config.learning_rate)], steps=steps,
                          warmup_steps=round(config.warmup * steps), weight_decay=config.weight_decay)  # fmt: skip
    generator = torch.Generator().manual_seed(config.seed)
    before = _heldout_loss(trunk, held, config.micro_tokens)
    plan = [
        (epoch, index)
        for epoch in range(config.epochs)
        for index in torch.randperm(len(batch), generator=generator).split(config.batch)
    ]
    for step, (epoch, index) in enumerate(track(plan, "fine-tuning")):
        start = time.monotonic()
        rows = batch.rows(index.to(trunk.device))
        tokens = rows.response_mask.sum()
        total = 0.0
        for _, part in rows.micro_batches(config.micro_tokens):
            loss = -_logps(trunk, part).sum() / tokens
            optimiser.backward(loss)
            total += float(loss.detach())
        optimiser.step()
        run.log(epoch=epoch, step=step, loss=total, learning_rate=config.learning_rate * optimiser.factor)
        run.time(step=step, seconds=round(time.monotonic() - start, 3))
    after = _heldout_loss(trunk, held, config.micro_tokens)
    with writing(run.checkpoint("final")) as beside:
        beside.mkdir()
        trunk.adapters.save(ADAPTER, beside, base=trunk.name)
        write_json(beside / "manners.json", {"role": "policy", "train_layers": trunk.train_layers})
    evaluation = {"heldout_loss_before": before, "heldout_loss": after, "n_heldout": len(heldout)}
    write_json(run.path / "evaluation.json", evaluation)
    return evaluation


def _encode(
    demonstrations: Sequence[tuple[Prompt, Completion]], chat: Chat, max_tokens: int, trunk: Trunk
) -> TokenBatch:
    answers = [chat.completion(c, max_tokens) for _, c in demonstrations]
    rows = [(chat.prompt(p, room=len(a)), a) for (p, _), a in zip(demonstrations, answers, strict=True)]
    tokens = pad_rows([torch.tensor(p + c) for p, c in rows], chat.pad)
    prompt_lengths = torch.tensor([len(p) for p, _ in rows])
    lengths = torch.tensor([len(p) + len(c) for p, c in rows])
    return TokenBatch(tokens.to(trunk.device), prompt_lengths.to(trunk.device), lengths.to(trunk.device))


def _logps(trunk: Trunk, part: TokenBatch) -> torch.Tensor:
    """Log-probabilities [N] of the answer's tokens under the adapter, nats."""
    states = trunk.states(part)
    with trunk.adapters.using(ADAPTER):
        return trunk.predict(part, states).logps


@torch.no_grad()
def _heldout_loss(trunk: Trunk, held: TokenBatch | None, micro_tokens: int) -> float | None:
    if held is None:
        return None
    total = sum(float(_logps(trunk, part).sum()) for _, part in held.micro_batches(3 * micro_tokens))
    return -total / int(held.response_mask.sum())
