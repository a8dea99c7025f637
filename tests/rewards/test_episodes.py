from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import shake, tiny_trunk
from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.feedback.answers import Answered
from manners.models.heads import ScalarHead
from manners.models.trunk import Trunk
from manners.records import Completion, Prompt
from manners.rewards.episodes import as_rollouts, centred, judged_by, rewards_of_tokens, tokenised
from manners.rewards.groups import GroupStates
from manners.rewards.model import RewardModel
from manners.text.chat import Chat

torch.set_num_threads(1)


def answered(prompt: str, *answers: tuple[str, Any], finished: bool = True) -> Answered:
    asked = Prompt.of(prompt)
    texts = tuple(Completion(asked.id, text, finished) for text, _ in answers)
    return Answered(asked, texts, tuple(reward for _, reward in answers if reward is not None))


def chat_of(trunk: Trunk) -> Chat:
    return Chat(trunk.tokenizer, trunk.context)


def paid(one: Answered, max_tokens: int = 100) -> list[list[float]]:
    chat = chat_of(tiny_trunk())
    (found,) = rewards_of_tokens([one], tokenised([one], chat, 100, max_tokens), chat)
    return [rewards.tolist() for rewards in found]


def test_one_number_is_paid_on_the_last_token() -> None:
    assert paid(answered("p", ("ab", 2.0), ("", -1.0))) == [[0, 0, 2.0], [-1.0]]
    assert paid(answered("p", ("ab", 2.0), finished=False)) == [[0, 2.0]]
    assert paid(answered("p", ("abcdef", 2.0)), max_tokens=3) == [[0, 0, 2.0]]


def test_a_list_pays_every_token() -> None:
    assert paid(answered("p", ("ab", (1.0, 2.0, 3.0)), ("c", 0.5))) == [[1.0, 2.0, 3.0], [0, 0.5]]
    assert paid(answered("p", ("abcd", (1.0, 2.0, 3.0, 4.0, 5.0))), max_tokens=2) == [[1.0, 2.0]]
    with pytest.raises(MannersError, match="has 3 tokens with its end and 2 rewards"):
        paid(answered("p", ("ab", (1.0, 2.0))))


def test_centred_rewards_of_a_prompt_add_up_to_nothing() -> None:
    given = [[torch.tensor([0.0, 3.0]), torch.tensor([1.0])], [torch.tensor([1.0, 2.0])]]
    assert [[answer.tolist() for answer in answers] for answers in centred(given)] == [[[0, 1], [-1]], [[1, -1]]]
    assert given[0][0].tolist() == [0, 3]  # what was given stays as it is


def test_without_a_reward_there_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(MannersError, match=r"reward\.model"):
        paid(answered("p", ("ab", None)))
    with pytest.raises(MannersError, match="no answers to learn from"):
        tokenised([], chat_of(tiny_trunk()), 10, 10)


DATA = [answered("Hi", ("good day", None), ("x", None)), answered("Why is that so?", ("because", None))]


def model_on(trunk: Trunk, read: Any) -> RewardModel:
    trunk.adapters.add("judge", rank=2, alpha=4, seed=0)
    shake(trunk, "judge", std=0.2)
    return RewardModel(trunk, "judge", ScalarHead.for_reward(trunk.width, 3), read, mean=0.7, std=2.5)


@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_reward_model_says_of_answers_what_it_says_of_their_texts(shared: bool, read: Any) -> None:
    trunk = tiny_trunk(train_layers=2)
    judge = model_on(trunk if shared else tiny_trunk(train_layers=2, seed=4), read)
    chat = chat_of(trunk)
    cached = GroupStates(trunk, tokenised(DATA, chat, 100, 100))
    found = judged_by(judge, DATA, cached, chat, 4096)
    wanted = judge.score_texts(
        [one.prompt for one in DATA for _ in one.completions], [c for one in DATA for c in one.completions]
    )
    assert [len(one.rewards) for one in found] == [2, 1]
    assert [r for one in found for r in one.rewards] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert [(one.prompt, one.completions) for one in found] == [(one.prompt, one.completions) for one in DATA]


class Reader:
    """A judge that writes down what it is given and counts the letters."""

    def score(self, rollouts: Rollouts) -> Tensor:
        self.seen = rollouts
        return torch.tensor([float(len(c.text)) for c in rollouts.completions])


def test_any_other_judge_reads_the_texts() -> None:
    trunk, judge = tiny_trunk(), Reader()
    chat = chat_of(trunk)
    found = judged_by(judge, DATA, GroupStates(trunk, tokenised(DATA, chat, 100, 100)), chat, 4096)
    assert [one.rewards for one in found] == [(8.0, 1.0), (7.0,)]
    assert [p.text for p in judge.seen.prompts] == ["Hi", "Hi", "Why is that so?"]
    assert judge.seen.trunk is None


def test_texts_as_rollouts_hold_their_tokens() -> None:
    trunk = tiny_trunk()
    chat = chat_of(trunk)
    prompts = [Prompt.of("Hi"), Prompt.of("x")]
    rollouts = as_rollouts(
        prompts, [Completion(prompts[0].id, "yes"), Completion(prompts[1].id, "no", finished=False)], chat, trunk.device
    )
    rows = zip(rollouts.tokens, rollouts.prompt_lengths, rollouts.lengths, strict=True)
    found = [(chat.tokenizer.decode(row[:start]), chat.tokenizer.decode(row[start:stop])) for row, start, stop in rows]
    assert found == [("<|user|>Hi<|end|><|assistant|>", "yes<|end|>"), ("<|user|>x<|end|><|assistant|>", "no")]
    assert rollouts.finished.tolist() == [True, False]
