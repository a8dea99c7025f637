"""Ensembles: several reward models that judge the same thing and disagree where one of them could be gamed.

Members on one trunk are an adapter and a head each. The states at the branch are computed once for all of them, so that a further
member costs a forward pass above the branch, and a few megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.models.adapters import Adapters
from manners.models.heads import ScalarHead
from manners.models.trunk import Trunk
from manners.records import Completion, Prompt
from manners.rewards.combine import Combination, mean
from manners.rewards.model import RewardModel, final_checkpoint, score_rollouts, score_texts
from manners.runs import read_json, write_json, writing

ROLE = "reward ensemble"


class RewardEnsemble:
    """Reward models whose scores `combination` makes one of. Members may stand on different trunks."""

    def __init__(self, members: Sequence[RewardModel], combination: Combination = mean) -> None:
        if not members:
            raise MannersError("an ensemble needs at least one reward model")
        self.members = tuple(members)
        self.combination = combination

    def score(self, rollouts: Rollouts) -> Tensor:
        """Scores [B]: combine(opinions(rollouts))."""
        return self.combine(self.opinions(rollouts))

    def opinions(self, rollouts: Rollouts) -> Tensor:
        """The members' scores [B, M]."""
        return self._by_trunk(lambda members: score_rollouts(members, rollouts))

    def combine(self, opinions: Tensor) -> Tensor:
        """Scores [B] from the members' [B, M]."""
        return self.combination(opinions)

    def opinions_of_texts(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        """The members' scores [N, M] of completions[i] as answers to prompts[i]."""
        return self._by_trunk(lambda members: score_texts(members, prompts, completions))

    def average(self, adapter: str) -> RewardModel:
        """One reward model with the mean of the members' weights, as a further `adapter`: the price of a single judge.

        WARM, Ramé et al. 2024 (arXiv 2401.12187). Each head takes in its member's normalisation first, (w·h + b − mean)/std, so
        that members of different scale count alike. Raises MannersError for members on different bases, or that read differently.
        """
        first = self.members[0]
        if any(m.trunk is not first.trunk or m.read != first.read for m in self.members):
            raise MannersError(
                "weights can be averaged only over reward models of one base that read alike (last or mean);"
                " set combine: mean, or train them alike"
            )
        average_adapters(first.trunk.adapters, [m.adapter for m in self.members], adapter)
        head = ScalarHead(first.trunk.width).to(first.trunk.device)
        with torch.no_grad():
            for own, theirs in zip(head.parameters(), zip(*map(_normalised, self.members), strict=True), strict=True):
                own.copy_(torch.stack(theirs).mean(0))
        return RewardModel(first.trunk, adapter, head, first.read)

    def save(self, path: Path) -> None:
        """Write members/0, members/1, … as `RewardModel.save` does, and manners.json into the folder `path`, all or nothing."""
        with writing(path) as beside:
            for number, member in enumerate(self.members):
                member.save(beside / "members" / str(number))
            write_json(beside / "manners.json", {"role": ROLE, "members": len(self.members)})

    @classmethod
    def load(cls, folder: Path, trunk: Trunk | None = None, adapter: str = "reward") -> RewardEnsemble:
        """The ensemble in `folder`, a run or a checkpoint, by its mean; members join `trunk` as adapter-0, adapter-1, … where they fit.

        Raises MannersError for a folder that holds no ensemble.
        """
        if not is_ensemble(folder):
            raise MannersError(f"{folder} holds no ensemble of reward models; train one with members: 2 or more")
        folder = final_checkpoint(folder)
        members = [folder / "members" / str(number) for number in range(read_json(folder / "manners.json")["members"])]
        return cls.gather(members, trunk, adapter)

    @classmethod
    def gather(cls, folders: Sequence[Path], trunk: Trunk | None, adapter: str) -> RewardEnsemble:
        """Reward models that were trained apart, runs or checkpoints, as one ensemble; those of one base share one trunk.

        Raises MannersError for a folder that holds none, or an ensemble.
        """
        trunks = [] if trunk is None else [trunk]
        members = []
        for number, folder in enumerate(folders):
            if is_ensemble(folder):
                raise MannersError(f"{folder} is an ensemble already and cannot be a member of one; name it as `model`")
            members.append(RewardModel.load_among(folder, trunks, f"{adapter}-{number}"))
            if all(members[-1].trunk is not known for known in trunks):
                trunks.append(members[-1].trunk)
        return cls(members)

    def _by_trunk(self, scores: Callable[[Sequence[RewardModel]], Tensor]) -> Tensor:
        """Scores [N, M] of all members, asked together where they share a trunk."""
        columns: dict[int, Tensor] = {}
        for trunk in {id(m.trunk): m.trunk for m in self.members}.values():
            places = [i for i, m in enumerate(self.members) if m.trunk is trunk]
            columns |= zip(places, scores([self.members[i] for i in places]).unbind(1), strict=True)
        return torch.stack([columns[i] for i in range(len(self.members))], 1)


def is_ensemble(folder: Path) -> bool:
    """Whether a run or checkpoint holds an ensemble of reward models."""
    facts = final_checkpoint(folder) / "manners.json"
    return facts.exists() and read_json(facts).get("role") == ROLE


@torch.no_grad()
def average_adapters(adapters: Adapters, names: Sequence[str], target: str) -> None:
    """Add the adapter `target` whose change is the mean of those of `names`: their ranks add up.

    1/M · Σ sᵢBᵢAᵢ = [s₁B₁/M … s_MB_M/M] · [A₁; …; A_M].
    """
    rank = sum(adapters.rank[name] for name in names)
    adapters.add(target, rank=rank, alpha=rank, seed=0)
    for layer in adapters.layers.values():
        layer.a[target].copy_(torch.cat([layer.a[name] for name in names]))
        layer.b[target].copy_(torch.cat([layer.b[name] * (layer.scale[name] / len(names)) for name in names], 1))


def _normalised(member: RewardModel) -> tuple[Tensor, Tensor]:
    """Weight and bias of the head that gives the member's normalised scores at once."""
    linear = member.head.linear
    return linear.weight / member.std, (linear.bias - member.mean) / member.std
