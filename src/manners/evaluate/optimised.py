"""What a model was trained to please: a scorer that was the reward is no witness of how good the model became."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manners.config import load_config
from manners.evaluate.policy import JudgedRun
from manners.models.load import lineage_of
from manners.rewards.load import JudgeConfig, ScorerConfig
from manners.runs import file_hash, read_json


@dataclass(frozen=True)
class Rewards:
    """All that a model and its bases were rewarded by: names of models, functions, faults, and hashes of the models."""

    names: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()
    toxicity: bool = False

    def include(self, config: ScorerConfig) -> bool:
        """Whether the judge, or a part of it, was the reward or a part of it."""
        if not config.named:
            return False
        if self.toxicity and any(part.toxicity for part in _parts(config)):
            return True
        return bool(self.names & _names(config)) or bool(
            self.hashes & {_hash(source) for source in config.sources} - {""}
        )


def rewards_of(model: str) -> Rewards:
    """What the run `model`, and the runs below it, were optimised for; empty for a model that is no run of ours."""
    names: set[str] = set()
    hashes: set[str] = set()
    toxicity = False
    for folder in lineage_of(model)[1]:
        run = folder.parent.parent
        if not (run / "lineage.json").exists():
            continue
        settings = load_config(JudgedRun, run / "config.yaml")
        if not settings.online or not settings.reward.named:
            continue
        names |= _names(settings.reward)
        toxicity = toxicity or any(part.toxicity for part in _parts(settings.reward))
        for name, entry in read_json(run / "lineage.json")["made_from"].items():
            if name.startswith("reward"):
                names.add(str((run / entry["path"]).resolve()))
                hashes.add(entry.get("hash", ""))
    return Rewards(frozenset(names), frozenset(hashes - {""}), toxicity)


def _parts(config: ScorerConfig) -> tuple[JudgeConfig, ...]:
    return config.parts or (config,)


def _names(config: ScorerConfig) -> frozenset[str]:
    functions = {part.function for part in _parts(config) if part.function}
    return frozenset(functions | {_place(source) for source in config.sources})


def _place(source: str) -> str:
    """A folder by its whole path, a Hub id as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _hash(source: str) -> str:
    """As lineage.json writes it: of a run its checkpoints, of a folder the whole; empty for what is not on this machine."""
    path = Path(source)
    if not path.exists():
        return ""
    return file_hash(path / "checkpoints" if (path / "lineage.json").exists() else path)
