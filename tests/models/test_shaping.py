from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import save_tiny, shake, tiny_model, tiny_tokenizer
from torch import Tensor

from manners.errors import MannersError
from manners.learner.offline import QLearner
from manners.models.export import export_adapter, export_merged
from manners.models.heads import QValues
from manners.models.shaping import QShaping, is_shaped, plain, shape_of
from manners.models.trunk import Trunk
from manners.records import Prompt
from manners.sampling.local import LocalSampler

LETTERS = "abc"


def few_letters() -> Trunk:
    tokenizer = tiny_tokenizer(LETTERS)
    return Trunk(tiny_model(vocabulary=len(tokenizer)), tokenizer, 2, name="tiny")


def shaken(width: int, seed: int = 0) -> QValues:
    values = QValues(width)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in values.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return values


def test_it_is_log_pi_and_beta_times_the_advantage() -> None:
    hidden, logits = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    values = shaken(16)
    shaped = torch.log_softmax(QShaping(values, weight, 1.7)(hidden, logits), -1)
    one, other = (head.all(hidden, weight) for head in values.targets)  # type: ignore[operator]
    v = values.value(hidden)
    advantage = torch.minimum(one, other) - v[:, None]
    wanted = torch.log_softmax(logits, -1) + 1.7 * advantage
    torch.testing.assert_close(shaped, wanted - wanted.logsumexp(-1, keepdim=True), rtol=1e-5, atol=1e-5)


def test_beta_0_is_the_policy_itself_token_for_token() -> None:
    trunk = few_letters()
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy", std=0.2)
    prompts = [Prompt.of(a + b) for a in LETTERS for b in LETTERS]
    bare = LocalSampler(trunk, "policy").sample(prompts, max_tokens=8, temperature=0.9, seed=3)
    zero, one = (
        LocalSampler(trunk, "policy", shape=QShaping(shaken(16), trunk.head_weight, beta)).sample(
            prompts, max_tokens=8, temperature=0.9, seed=3
        )
        for beta in (0.0, 1.0)
    )
    assert torch.equal(zero.tokens, bare.tokens)
    assert torch.equal(zero.logps, bare.logps)
    assert [c.text for c in one.completions] != [c.text for c in bare.completions]


def saved(folder: Path, beta: float = 0.8) -> tuple[Path, QLearner]:
    """A checkpoint of a shaken policy with shaken heads on a tiny model that is saved beside it."""
    base = save_tiny(folder / "base")
    learner = QLearner(load(base), rank=2, alpha=4, beta=beta, micro_tokens=512, seed=0)
    shake(learner.trunk, "policy", std=0.2)
    learner.q_values.load_state_dict(shaken(16).state_dict())
    learner.save(folder / "policy")
    return folder / "policy", learner


def load(base: Path) -> Trunk:
    from manners.models.load import load_trunk

    return load_trunk(str(base), 2)


def answers(sampler: LocalSampler) -> tuple[list[str], Tensor]:
    prompts = [Prompt.of(text) for text in ("Hi", "Why?", "x", "What is a bee?")]
    rollouts = sampler.sample(prompts, max_tokens=10, temperature=1.0, seed=2)
    return [c.text for c in rollouts.completions], rollouts.logps[rollouts.response_mask]


def test_a_checkpoint_is_sampled_as_it_was_when_it_was_saved(tmp_path: Path) -> None:
    folder, learner = saved(tmp_path)
    before = answers(LocalSampler(learner.trunk, "policy", shape=learner.shape))
    after = answers(LocalSampler.of(str(folder), 2))
    assert after[0] == before[0]
    torch.testing.assert_close(after[1], before[1], rtol=1e-4, atol=1e-4)
    assert answers(LocalSampler(learner.trunk, "policy"))[0] != before[0]


def test_only_such_a_checkpoint_is_shaped(tmp_path: Path) -> None:
    folder, learner = saved(tmp_path)
    assert is_shaped(str(folder))
    assert not is_shaped(str(tmp_path / "base"))
    assert shape_of(str(tmp_path / "base"), learner.trunk) is plain
    (folder / "q_values.safetensors").unlink()
    assert shape_of(str(folder), learner.trunk) is plain


def test_it_cannot_be_taken_out_as_a_plain_model(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    for export in (export_merged, export_adapter):
        with pytest.raises(MannersError, match=r"Q heads.*manners sample"):
            export(str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    _, learner = saved(tmp_path)
    with torch.no_grad():
        next(learner.q_values.parameters())[0, 0] = float("nan")
    with pytest.raises(MannersError, match="not a finite number"):
        learner.save(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
