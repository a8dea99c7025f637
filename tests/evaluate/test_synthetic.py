from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import WIDTH  # noqa: F401 - one thread

from manners.batches import Rollouts
from manners.evaluate.synthetic import ALPHABET, GoldReward, draw_prompts, random_decoder, save_decoder
from manners.models.load import load_trunk
from manners.models.tiny import tiny_tokenizer
from manners.models.trunk import Trunk
from manners.sampling.local import LocalSampler


@pytest.fixture(scope="module")
def answers() -> Rollouts:
    """Answers of a small random policy to 400 prompts."""
    trunk = Trunk(random_decoder(16, 5), tiny_tokenizer(ALPHABET), name="policy")
    return LocalSampler(trunk, None, batch=400).sample(draw_prompts(400, 1), max_tokens=10, temperature=1.0, seed=0)


@pytest.fixture(scope="module")
def gold(answers: Rollouts) -> GoldReward:
    return GoldReward(0, answers, qualities=3, reach=1.5)


def test_a_seed_gives_one_gold_reward_and_another_seed_another(gold: GoldReward, answers: Rollouts) -> None:
    again, other = (GoldReward(seed, answers, qualities=3, reach=1.5) for seed in (0, 1))
    assert torch.equal(gold.score(answers), again.score(answers))
    assert gold.trunk.fingerprint == again.trunk.fingerprint != other.trunk.fingerprint
    assert abs(float(torch.corrcoef(torch.stack([gold.score(answers), other.score(answers)]))[0, 1])) < 0.5


def test_units_are_those_of_the_reference(gold: GoldReward, answers: Rollouts) -> None:
    qualities, scores = gold.qualities(answers), gold.score(answers)
    assert torch.allclose(qualities.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(torch.cov(qualities.T), torch.eye(3), atol=1e-3)
    assert (float(scores.mean()), float(scores.std())) == pytest.approx((0, 1), abs=1e-4)


@torch.no_grad()
def test_qualities_are_read_from_the_tokens_of_the_answer_alone(gold: GoldReward, answers: Rollouts) -> None:
    for row in (0, 5):
        length, start = int(answers.lengths[row]), int(answers.prompt_lengths[row])
        alone = answers.tokens[row : row + 1, :length]
        hidden = gold.trunk.model.base_model(input_ids=alone).last_hidden_state[0, start:]
        expected = (hidden @ gold.directions - gold.centre).mean(0)
        assert torch.allclose(gold.qualities(answers)[row], expected, atol=1e-3)


def test_padding_and_company_change_nothing(gold: GoldReward, answers: Rollouts) -> None:
    index = torch.tensor([7, 3, 11])
    noise = torch.where(answers.mask, answers.tokens, 9)
    few = replace(answers, tokens=noise).rows(index)
    assert torch.allclose(gold.score(few), gold.score(answers)[index], atol=1e-4)


def test_the_gold_reward_reads_the_prompt_the_words_and_their_order(gold: GoldReward, answers: Rollouts) -> None:
    assert (answers.response_lengths > 3).sum() > 100
    rows = answers.rows((answers.response_lengths > 3).nonzero()[:, 0])
    before = gold.score(rows)
    place = torch.arange(len(rows))
    for first, second in (
        (rows.prompt_lengths, rows.prompt_lengths + 2),
        (rows.prompt_lengths - 3, rows.prompt_lengths - 4),
    ):
        tokens = rows.tokens.clone()  # two tokens of the answer, then two letters of the prompt, change places
        tokens[place, first], tokens[place, second] = rows.tokens[place, second], rows.tokens[place, first]
        other = tokens[place, first] != tokens[place, second]
        changed = (gold.score(replace(rows, tokens=tokens)) - before).abs()
        assert (changed[other] > 1e-4).float().mean() > 0.9


def test_more_of_what_is_liked_is_better_and_being_far_out_in_anything_else_spoils_it(gold: GoldReward) -> None:
    assert float(gold.liked.norm()) == pytest.approx(1)
    steps = torch.linspace(-4, 4, 9)[:, None] * gold.liked
    rise = gold.reward(steps)
    assert torch.allclose(rise.diff(), rise.diff()[:1].expand(8), rtol=1e-4)  # along it: a straight line
    assert float(rise[1] - rise[0]) > 0
    aside = torch.linalg.qr(torch.stack([gold.liked, torch.ones(3)], 1)).Q[:, 1]  # a neutral direction
    good, average = gold.reward(2 * gold.liked[None]), gold.reward(torch.zeros(1, 3))
    worth = [
        float((gold.reward((2 * gold.liked + far * aside)[None]) - average) / (good - average))
        for far in (1.5, -1.5, 9.0)
    ]
    assert worth == pytest.approx([math.exp(-0.5), math.exp(-0.5), 0], abs=1e-4)  # reach is 1.5


def test_prompts_come_again_with_their_seed() -> None:
    assert draw_prompts(5, 3) == draw_prompts(5, 3) != draw_prompts(5, 4)
    assert all(len(prompt.text) == 4 and set(prompt.text) <= set(ALPHABET) for prompt in draw_prompts(50, 0))


def test_a_saved_decoder_is_the_one_that_was_drawn(tmp_path: Path) -> None:
    trunk = load_trunk(str(save_decoder(tmp_path / "base", 16, 5)))
    assert trunk.fingerprint == Trunk(random_decoder(16, 5), tiny_tokenizer(ALPHABET)).fingerprint
    assert trunk.fingerprint != Trunk(random_decoder(16, 6), tiny_tokenizer(ALPHABET)).fingerprint


def test_the_policy_is_undecided_but_not_blind(answers: Rollouts) -> None:
    """Nats per token: well below those of chance, and far from certain, so that there is much to choose from."""
    entropy = -float(answers.logps.sum() / answers.response_mask.sum())
    assert 1.5 < entropy < 3.0 < math.log(len(tiny_tokenizer(ALPHABET)))
