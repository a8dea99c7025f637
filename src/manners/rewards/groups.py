"""What a reward model reads: all that was judged about one prompt, as tokens, in one row, with its branch states kept.

All completions of a prompt stand behind it in one row and are computed once, however many pairs and rankings speak of them. States
below the branch do not depend on what is trained: they serve every epoch, every member of an ensemble, and every judge on the same trunk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from manners.batches import split_by_tokens
from manners.errors import MannersError
from manners.feedback.pairs import ties_of
from manners.feedback.thumbs import Thumb
from manners.models.packing import Packed, pack_rows
from manners.models.trunk import Trunk
from manners.records import Completion, Judgement, Pair, Prompt
from manners.rewards.model import RewardModel
from manners.runs import Track
from manners.text.chat import Chat


class Compared(NamedTuple):
    """Two completions of a group by their places: j is preferred to k, or they are tied (0 tiers apart, neither preferred)."""

    j: int
    k: int
    weight: float
    apart: float
    probability: float
    judge: str


class Thumbed(NamedTuple):
    """One completion of a group by its place, and whether somebody found it good."""

    place: int
    up: bool
    weight: float


class Ranked(NamedTuple):
    """One whole ranking: the places of its completions in the group, and the tier of each, 0 the best."""

    places: tuple[int, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """All that was judged about one prompt: tokens of the prompt and of its K completions; pairs, ties, rankings and thumbs."""

    prompt_id: str
    category: str
    prompt: list[int]
    completions: list[list[int]]
    pairs: list[Compared]
    ties: list[Compared]
    rankings: list[Ranked]
    thumbs: Sequence[Thumbed] = ()

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(len(c) for c in self.completions)


def group_pairs(
    pairs: Sequence[Pair],
    chat: Chat,
    max_prompt_tokens: int,
    max_tokens: int,
    rankings: Sequence[Judgement] = (),
) -> list[Group]:
    """Pairs put together by prompt, tokenised; each completion once. `rankings` add their ties and whole orders.

    Raises MannersError when there is nothing to learn from.
    """
    prompts: dict[str, Prompt] = {}
    compared: dict[str, list[Pair]] = defaultdict(list)
    judged: dict[str, list[Judgement]] = defaultdict(list)
    for pair in pairs:
        compared[prompts.setdefault(pair.prompt.id, pair.prompt).id].append(pair)
    for judgement in rankings:
        if len(_named(judgement)) > 1:
            judged[prompts.setdefault(judgement.prompt.id, judgement.prompt).id].append(judgement)
    if not prompts:
        raise MannersError("there are no pairs to learn from; rankings with ties only, or all bad, give none")
    return [_group(p, compared[i], judged[i], chat, max_prompt_tokens, max_tokens) for i, p in prompts.items()]


def _group(
    prompt: Prompt,
    pairs: Sequence[Pair],
    rankings: Sequence[Judgement],
    chat: Chat,
    max_prompt_tokens: int,
    max_tokens: int,
) -> Group:
    ties = [tie for judgement in rankings for tie in ties_of(judgement)]
    orders = [_named(judgement) for judgement in rankings]
    completions: dict[str, Completion] = {}
    for completion in (
        *(c for pair in (*pairs, *ties) for c in (pair.chosen, pair.rejected)),
        *(c for order in orders for c, _ in order),
    ):
        completions.setdefault(completion.id, completion)
    place = {completion_id: number for number, completion_id in enumerate(completions)}
    tokens, answers = chat.judged(prompt, list(completions.values()), max_prompt_tokens, max_tokens)

    def at(found: Sequence[Pair]) -> list[Compared]:
        return [
            Compared(place[p.chosen.id], place[p.rejected.id], p.weight, p.margin, p.probability, p.judge)
            for p in found
        ]

    ranked = [Ranked(tuple(place[c.id] for c, _ in order), tuple(rank for _, rank in order)) for order in orders]
    return Group(prompt.id, prompt.category, tokens, answers, at(pairs), at(ties), ranked)


def group_thumbs(thumbs: Sequence[Thumb], chat: Chat, max_prompt_tokens: int, max_tokens: int) -> list[Group]:
    """Thumbs put together by prompt, tokenised; each completion once. Raises MannersError when there is nothing to learn from."""
    given: dict[str, list[Thumb]] = defaultdict(list)
    for thumb in thumbs:
        given[thumb.prompt.id].append(thumb)
    if not given:
        raise MannersError("there are no thumbs to learn from")
    groups = []
    for own in given.values():
        completions = {thumb.completion.id: thumb.completion for thumb in own}
        place = {completion_id: number for number, completion_id in enumerate(completions)}
        prompt = own[0].prompt
        tokens, answers = chat.judged(prompt, list(completions.values()), max_prompt_tokens, max_tokens)
        told = [Thumbed(place[thumb.completion.id], thumb.up, thumb.weight) for thumb in own]
        groups.append(Group(prompt.id, prompt.category, tokens, answers, [], [], [], told))
    return groups


def _named(judgement: Judgement) -> list[tuple[Completion, int]]:
    """The completions that a ranking names, with their tiers 0, 1, …; of equal texts the best alone, and none where all are bad."""
    if judgement.ranking.all_bad:
        return []
    completions = {completion.id: completion for completion in judgement.completions}
    named: dict[str, tuple[Completion, int]] = {}
    for rank, tier in enumerate(judgement.ranking.tiers):
        for completion in (completions[completion_id] for completion_id in tier):
            named.setdefault(completion.text, (completion, rank))
    tiers = sorted({rank for _, rank in named.values()})  # one that only repeated better answers is gone
    return [(completion, tiers.index(rank)) for completion, rank in named.values()]


States = dict[tuple[tuple[int, ...], ...], Tensor]  # branch states [T, H] by the tokens of a prompt and its completions


class GroupStates:
    """Groups with their branch states, computed at first use and kept in `states` by their tokens, for whoever else is given these;
    where the groups would bring them above `limit` bytes, each time."""

    def __init__(
        self, trunk: Trunk, groups: Sequence[Group], states: States | None = None, limit: int = 2 << 30
    ) -> None:
        self.trunk = trunk
        self.groups = groups
        self.states: States = {} if states is None else states
        self.keys = [(tuple(g.prompt), *map(tuple, g.completions)) for g in groups]
        new = sum(g.length for g, key in zip(groups, self.keys, strict=True) if key not in self.states)
        bytes_each = trunk.width * trunk.head_weight.element_size()
        self.keep = new * bytes_each + sum(kept.nbytes for kept in self.states.values()) <= limit

    def batch(self, indices: Sequence[int]) -> tuple[Packed, Tensor]:
        """The groups named by `indices` as packed rows, and their states [B, T, H] at the branch."""
        packed = pack_rows([(self.groups[i].prompt, self.groups[i].completions) for i in indices]).to(self.trunk.device)
        keys = [self.keys[i] for i in indices]
        if all(key in self.states for key in keys):
            return packed, torch.nn.utils.rnn.pad_sequence([self.states[key] for key in keys], batch_first=True)
        states = self.trunk.states(packed)
        if self.keep:
            for row, i in enumerate(indices):
                self.states[keys[row]] = states[row, : self.groups[i].length].clone()
        return packed, states

    def parts(self, micro_tokens: int) -> list[list[int]]:
        """All groups in parts for passes without gradient, which have room for three times as much."""
        lengths = torch.tensor([group.length for group in self.groups])
        return [part.tolist() for part in split_by_tokens(lengths, 3 * micro_tokens)]


@torch.no_grad()
def raw_rewards(model: RewardModel, cached: GroupStates, micro_tokens: int, track: Track) -> list[Tensor]:
    """Raw rewards [K] of each group's completions, on the CPU."""
    found: dict[int, Tensor] = {}
    for part in track(cached.parts(micro_tokens), "scoring"):
        packed, states = cached.batch(part)
        for i, row, ends in zip(part, model.raw(packed, states), packed.ends, strict=True):
            found[i] = row[ends >= 0].float().cpu()
    return [found[i] for i in range(len(cached.groups))]
