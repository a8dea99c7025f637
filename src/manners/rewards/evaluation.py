"""How good a judge is: accuracy on held-out pairs, and what one number would hide.

Every accuracy is the share of pairs whose preferred answer gets the higher reward, with a 95 % interval for which whole prompts are
drawn. What the parts say of a judge is in docs/details/reward.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manners.ops.calibration import calibration
from manners.ops.intervals import bootstrap_mean
from manners.records import Pair
from manners.rewards.groups import Group, GroupStates, States, group_pairs, raw_rewards
from manners.rewards.model import RewardModel
from manners.runs import Track, untracked

LENGTHS_MATCH = 0.1  # lengths that differ by no more than this share of the longer one
# Shares of rankings that agree on a pair: [low, high), and the unanimous ones.
AGREEMENT = (("0.5-0.75", 0.5, 0.75), ("0.75-1", 0.75, 1.0), ("1", 1.0, float("inf")))


class _Row(NamedTuple):
    """One held-out pair: number of its prompt, places of the two, their lengths in tokens, and what it may be counted by."""

    group: int
    j: int
    k: int
    lengths: tuple[int, int]
    category: str
    judge: str


class _Answers(NamedTuple):
    """What was got right [N], 1 or 0, and the prompt [N] of each pair."""

    right: Tensor
    cluster: Tensor

    def accuracy(self, indices: Sequence[int] | None = None) -> dict[str, Any]:
        """accuracy, ci and n_pairs of the pairs named; without any: None, [None, None] and 0."""
        chosen = list(range(len(self.right))) if indices is None else list(indices)
        if not chosen:
            return {"accuracy": None, "ci": [None, None], "n_pairs": 0}
        found = bootstrap_mean(self.right[chosen], self.cluster[chosen])
        return {"accuracy": found.mean, "ci": found.ends, "n_pairs": len(chosen)}

    def by(self, names: Sequence[str]) -> dict[str, Any]:
        """The accuracy for each name; pairs without one are left out."""
        return {
            name: self.accuracy([i for i, own in enumerate(names) if own == name]) for name in sorted({*names} - {""})
        }


def evaluate_reward(
    members: Sequence[RewardModel],
    pairs: Sequence[Pair],
    *,
    max_prompt_tokens: int = 1024,
    max_tokens: int = 512,
    micro_tokens: int = 4096,
    states: States | None = None,
    track: Track = untracked,
) -> dict[str, Any]:
    """The evaluation of a reward model, or of the mean of the members of an ensemble and of each of them, on held-out pairs.

    The members share a trunk, and `states` may hold what it computed before. Pairs must be of prompts that were not trained on.
    """
    groups = group_pairs(pairs, members[0].chat, max_prompt_tokens, max_tokens)
    cached = GroupStates(members[0].trunk, groups, states)
    raw = [raw_rewards(member, cached, micro_tokens, track) for member in members]
    rows = [_row(number, group, j, k, judge) for number, group in enumerate(groups) for j, k, *_, judge in group.pairs]
    own = [_differences(rewards, rows) for rewards in raw]
    mean = [_mean_reward(members, rewards) for rewards in zip(*raw, strict=True)]
    difference = _differences(mean, rows)
    answers = _answers(difference, rows)
    return {
        **answers.accuracy(),
        "n_prompts": len(groups),
        "n_completions": sum(len(group.completions) for group in groups),
        **calibration(torch.sigmoid(difference)),
        "length_baseline": _length_baseline(rows),
        "length_correlation": _correlation(_lengths(groups), torch.cat(mean)),
        "length_matched": answers.accuracy([i for i, row in enumerate(rows) if _match(row.lengths)]),
        "by_category": answers.by([row.category for row in rows]),
        "by_judge": answers.by([row.judge for row in rows]),
        "by_agreement": _by_agreement(answers, rows),
        "members": [_answers(found, rows).accuracy() for found in own],
        "disagreement": _disagreement(members, raw),
    }


def _row(number: int, group: Group, j: int, k: int, judge: str) -> _Row:
    lengths = (len(group.completions[j]), len(group.completions[k]))
    return _Row(number, j, k, lengths, group.category, judge)


def _mean_reward(members: Sequence[RewardModel], rewards: Sequence[Tensor]) -> Tensor:
    """The members' mean [K] in raw units, from their raw rewards [K] each.

    Scores are compared in deviations, so a member with a wide scale has no louder voice; the mean deviation brings them back to the
    unit in which σ(r_j − r_k) is a probability. A single member's rewards stay what they are.
    """
    unit = sum(member.std for member in members) / len(members)
    scaled = [reward * (unit / member.std) for member, reward in zip(members, rewards, strict=True)]
    return torch.stack(scaled).mean(0)


def _differences(rewards: Sequence[Tensor], rows: Sequence[_Row]) -> Tensor:
    """r_j − r_k [N]."""
    return torch.tensor([float(rewards[row.group][row.j] - rewards[row.group][row.k]) for row in rows])


def _answers(difference: Tensor, rows: Sequence[_Row]) -> _Answers:
    return _Answers((difference > 0).double(), torch.tensor([row.group for row in rows]))


def _by_agreement(answers: _Answers, rows: Sequence[_Row]) -> dict[str, Any]:
    """Accuracy by the share of rankings that agree on a pair, where two or more speak of it.

    `agreement` is the mean share within a bin: what a judge would reach that sides with the majority every time.
    """
    votes = Counter((row.group, row.j, row.k) for row in rows)
    for_and_against = [(votes[row.group, row.j, row.k], votes[row.group, row.k, row.j]) for row in rows]
    shares = {i: max(both) / sum(both) for i, both in enumerate(for_and_against) if sum(both) > 1}
    bins: dict[str, Any] = {}
    for name, low, high in AGREEMENT:
        if inside := [i for i, share in shares.items() if low <= share < high]:
            bins[name] = {**answers.accuracy(inside), "agreement": sum(shares[i] for i in inside) / len(inside)}
    return bins


def _match(lengths: tuple[int, int]) -> bool:
    return max(lengths) - min(lengths) <= LENGTHS_MATCH * max(lengths)


def _length_baseline(rows: Sequence[_Row]) -> float:
    """Accuracy of "the longer answer wins", in tokens; equal lengths count half."""
    longer = torch.tensor([float(row.lengths[0] - row.lengths[1]) for row in rows])
    return float(((longer > 0).double() + 0.5 * (longer == 0).double()).mean())


def _lengths(groups: Sequence[Group]) -> Tensor:
    return torch.tensor([float(len(c)) for g in groups for c in g.completions])


def _correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation; 0 where one of them does not vary."""
    if len(x) < 2 or float(x.std()) == 0 or float(y.std()) == 0:
        return 0.0
    return float(torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1])


def _disagreement(members: Sequence[RewardModel], raw: Sequence[Sequence[Tensor]]) -> float | None:
    """The standard deviation of the members' scores of an answer, in the unit of scores, as a mean over all held-out answers."""
    if len(members) == 1:
        return None
    scores = [(torch.cat(list(r)) - member.mean) / member.std for member, r in zip(members, raw, strict=True)]
    return float(torch.stack(scores).std(0, correction=0).mean())
