"""What offline Q-learning reads: answers as tokens, and what each token earned.

Rewards come from a file, from a judge, or from the judgements themselves. One number is paid on the last token of its answer; a list
holds a number for every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from manners.batches import Rollouts, pad_rows
from manners.errors import MannersError
from manners.feedback.answers import Answered
from manners.protocols import Scorer
from manners.records import Completion, Prompt
from manners.rewards.groups import Group, GroupStates, raw_rewards
from manners.rewards.model import RewardModel
from manners.rewards.opinion import ask
from manners.runs import Track, untracked
from manners.text.chat import Chat


def judged_by(
    judge: Scorer,
    answered: Sequence[Answered],
    cached: GroupStates,
    chat: Chat,
    micro_tokens: int,
    track: Track = untracked,
) -> list[Answered]:
    """The same answers with what `judge` says of them as their rewards; `cached` holds their groups in the same order.

    A reward model on the trunk of `cached` reads its states; any other judge reads the texts.
    """
    if isinstance(judge, RewardModel) and judge.trunk is cached.trunk:
        found = raw_rewards(judge, cached, micro_tokens, track)
        scores = iter(((torch.cat(found) - judge.mean) / judge.std).tolist())
    else:
        prompts = [one.prompt for one in answered for _ in one.completions]
        completions = [completion for one in answered for completion in one.completions]
        rollouts = as_rollouts(prompts, completions, chat, cached.trunk.device)
        scores = iter(ask(judge, rollouts, "the judge").scores.tolist())
    return [replace(one, rewards=tuple(next(scores) for _ in one.completions)) for one in answered]


def as_rollouts(
    prompts: Sequence[Prompt], completions: Sequence[Completion], chat: Chat, device: torch.device
) -> Rollouts:
    """Texts as rollouts that nobody sampled here: without log-probabilities and states, for whoever judges texts."""
    rows = [chat.judged(prompt, [completion]) for prompt, completion in zip(prompts, completions, strict=True)]
    tokens = pad_rows([torch.tensor([*start, *answers[0]], dtype=torch.long) for start, answers in rows], chat.pad)
    finished = torch.tensor([completion.finished for completion in completions])
    return Rollouts(
        tokens.to(device),
        torch.tensor([len(start) for start, _ in rows], device=device),
        torch.tensor([len(start) + len(answers[0]) for start, answers in rows], device=device),
        torch.zeros(tokens.shape, device=device),
        finished.to(device),
        torch.zeros(*tokens.shape, 0, device=device),
        tuple(prompts),
        tuple(completions),
        None,
    )


def tokenised(answered: Sequence[Answered], chat: Chat, max_prompt_tokens: int, max_tokens: int) -> list[Group]:
    """A group of tokens for each of `answered`, with its answers in their order. Raises MannersError when there is none."""
    if not answered:
        raise MannersError("there are no answers to learn from; give judgements, or a file of answers")
    return [
        Group(
            one.prompt.id,
            one.prompt.category,
            *chat.judged(one.prompt, one.completions, max_prompt_tokens, max_tokens),
            [],
            [],
            [],
        )
        for one in answered
    ]


def rewards_of_tokens(answered: Sequence[Answered], groups: Sequence[Group], chat: Chat) -> list[list[Tensor]]:
    """Rewards [r] of the tokens of every answer; one that was cut is paid at the cut.

    Raises MannersError where an answer has no reward, or a list of them that is not as long as it has tokens.
    """
    if any(len(one.rewards) != len(one.completions) for one in answered):
        raise MannersError(
            "there are answers without rewards and nobody to judge them; give rewards, or name a judge: reward.model"
        )
    return [
        [_paid(one, place, len(tokens), chat) for place, tokens in enumerate(group.completions)]
        for one, group in zip(answered, groups, strict=True)
    ]


def centred(rewards: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The same, less on every last token what the answers to its prompt earned on average: they add up to 0 for each prompt.

    What is taken off is the same for all answers to a prompt, and so changes no policy's rank; what is left tells good answers from bad
    ones, and no longer easy prompts from hard ones. The only answer to its prompt is left with nothing.
    """
    found = []
    for answers in rewards:
        mean = torch.stack([answer.sum() for answer in answers]).mean()
        found.append([torch.cat([answer[:-1], answer[-1:] - mean]) for answer in answers])
    return found


def _paid(one: Answered, place: int, kept: int, chat: Chat) -> Tensor:
    reward = one.rewards[place]
    if isinstance(reward, tuple):
        whole = len(chat.completion(one.completions[place]))
        if len(reward) != whole:
            raise MannersError(
                f"an answer to {one.prompt.text[:60]!r} has {whole} tokens with its end and {len(reward)} rewards; give a number for"
                " each token, or one for the whole answer"
            )
        return torch.tensor(reward[:kept], dtype=torch.float32)
    paid = torch.zeros(kept)
    paid[-1] = reward
    return paid
