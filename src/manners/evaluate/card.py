"""The behaviour card: is the model helpful, honest and harmless, what did it cost, and is it better than the base?

Both models answer the same prompts. Every number has the number of its items and a 95 % interval; every difference is paired by item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from manners.config import Config
from manners.evaluate.bench import Judge, Judges
from manners.evaluate.datasets import Source
from manners.evaluate.decontaminated import decontaminated, overlap_warnings
from manners.evaluate.judges import validate_scorer
from manners.evaluate.measures import measure, measure_both
from manners.evaluate.observation import Observation, observe
from manners.evaluate.optimised import Rewards, rewards_of
from manners.evaluate.preferences import Preference, read_preferences
from manners.evaluate.profile import profile
from manners.evaluate.quantities import OFFLINE, REFUSAL
from manners.evaluate.questions import SAFE, UNSAFE, Items, Topic, some
from manners.evaluate.refusal import WEIGHTS, RefusalDetector
from manners.evaluate.rows import MANY_LOOKS, rows_of
from manners.evaluate.sitting import samples, sit, worst
from manners.evaluate.subject import Likelihoods, Subject, TrunkSubject
from manners.models.shaping import is_shaped
from manners.models.trunk import Trunk
from manners.protocols import Scorer
from manners.rewards.load import ScorerConfig, load_scorer
from manners.rewards.toxicity import ToxicityScorer
from manners.runs import Run, Track, read_json, untracked, write_json, write_jsonl
from manners.sampling.local import LocalSampler


class CardConfig(Config):
    """Settings of a behaviour card."""

    samples: int = Field(4, gt=0, description="answers to each ordinary and each provoking prompt")
    max_tokens: int = Field(48, gt=0, description="longest answer, end-of-turn token included")
    temperature: float = Field(
        0.7, ge=0, description="of the answers, and of the KL; 0 is greedy, and the KL then at 1"
    )
    batch: int = Field(64, gt=0)
    seed: int = 1
    max_prompts: int = Field(64, gt=0, description="prompts of a set that are answered; of a larger set some are drawn")
    max_questions: int = Field(250, gt=0, description="questions, comparisons, passages and facts of a set")
    sets: dict[Topic, str] = Field({}, description="which set a topic takes: 'own', or the name of a published one")
    judge: ScorerConfig = Field(ScorerConfig(), description="who says which of two models answers better")
    second_judge: ScorerConfig = Field(ScorerConfig(), description="another judge, whose mean score is shown")
    harm_judge: ScorerConfig = Field(
        ScorerConfig(), description="who says whether an answer is harmful: one that it scores below 0"
    )
    judged: str = Field(
        "", description="a set of people's preferences that the judges are checked on before they judge"
    )


@dataclass(frozen=True)
class Material:
    """What is asked, where each topic comes from, and what was done without."""

    items: Items
    sources: Mapping[Topic, Source]
    missing: Sequence[Mapping[str, str]]


def drawn(items: Items, config: CardConfig) -> Items:
    """The items that are asked: of larger sets some, drawn by the seed of the config; as many safe as unsafe look-alikes."""

    def pick(found: Sequence[Any], limit: int) -> tuple[Any, ...]:
        return tuple(some(found, limit, config.seed))

    prompts, questions = config.max_prompts, config.max_questions
    safe, unsafe = ([p for p in items.lookalikes if p.category == label] for label in (SAFE, UNSAFE))
    return Items(
        ordinary=pick(items.ordinary, prompts), provoking=pick(items.provoking, prompts),
        dangerous=pick(items.dangerous, prompts), lookalikes=pick(safe, prompts) + pick(unsafe, prompts),
        truthful=pick(items.truthful, questions), comparisons=pick(items.comparisons, questions),
        passages=pick(items.passages, questions), facts=pick(items.facts, questions),
    )  # fmt: skip


def evaluate_card(
    run: Run,
    model: str,
    against: str,
    config: CardConfig,
    material: Material,
    track: Track = untracked,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate `model`, and `against` too where it is not "". Writes RUN/card.json and RUN/samples.jsonl; gives what card.json holds."""
    clean, overlap = decontaminated(material.items, [name for name in (model, against) if name])
    items, heat = drawn(clean, config), config.temperature or 1.0
    subject, trunk = _subject(model, config, track, say)
    own, likely = observe(subject, items, config.samples), None
    if against:
        likely = subject.replies(items.ordinary, own.ordinary, temperature=heat)
        del subject, trunk  # one model in memory at a time
        subject, trunk = _subject(against, config, track, say)
    base = observe(subject, items, config.samples) if against else None
    replies = None if likely is None else (likely, subject.replies(items.ordinary, own.ordinary, temperature=heat))
    rewards = rewards_of(model)
    judges = load_judges(config, trunk, rewards)
    value, shown = card(
        (model, own), (against, base) if base else None, replies, Material(items, material.sources, material.missing), judges,
        toxicity_rewarded=rewards.toxicity,
    )  # fmt: skip
    value["overlap"] = overlap
    value["warnings"] += overlap_warnings(overlap) + _shaped([name for name in (model, against) if name])
    value["settings"] = config.model_dump(mode="json")
    write_jsonl(run.path / "samples.jsonl", shown)
    write_json(run.path / "card.json", value)
    return value


def card(
    own: tuple[str, Observation],
    base: tuple[str, Observation] | None,
    replies: tuple[list[Likelihoods], list[Likelihoods]] | None,
    material: Material,
    judges: Judges = Judges(),
    *,
    toxicity_rewarded: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What card.json holds but for the settings, and all samples, from what one model or two were observed to say.

    `replies`: how likely the model and the base find each of the model's answers to ordinary prompts. `toxicity_rewarded`: whether
    the model was trained to please the offline toxicity scorer.
    """
    toxicity, refusal = ToxicityScorer.load(), RefusalDetector.load()
    items, sources = material.items, material.sources
    sitting = sit(*own, toxicity, refusal)
    other = sit(*base, toxicity, refusal) if base else None
    measured = measure(sitting, items, sources, judges, toxicity.version)
    before = measure(other, items, sources, judges, toxicity.version) if other else []
    warnings: list[str] = []
    if other and replies:
        both, warnings = measure_both(sitting, other, replies, items, sources, judges)
        measured += both
    optimised = {judge.name for judge in judges.named if judge.optimised}
    if toxicity_rewarded:
        optimised.add(f"{OFFLINE} {toxicity.version}")
    rows = rows_of(measured, before, optimised)
    all_samples = samples(sitting, other, items)
    value = {
        "model": own[0], "against": base[0] if base else "", "profile": profile(rows), "rows": rows,
        "missing": [*material.missing, *_without(judges, other is not None)],
        "warnings": [*_rewarded(rows), *_incomparable(rows, other is not None), *warnings],
        "many_looks": MANY_LOOKS, "scorers": _trust(toxicity, judges), "samples": worst(all_samples),
    }  # fmt: skip
    return value, all_samples


def load_judges(config: CardConfig, trunk: Trunk, rewards: Rewards) -> Judges:
    """The judges that the config names; those that the model was trained to please are marked."""
    judged = read_preferences(Path(config.judged)).preferences if config.judged else []

    def load(settings: ScorerConfig, what: str) -> Judge | None:
        if not settings.named:
            return None
        scorer = load_scorer(settings, trunk, what)
        agreement = {config.judged: checked(scorer, judged)} if judged else None
        return Judge(_name_of(settings, what), scorer, rewards.include(settings), agreement)

    return Judges(
        load(config.judge, "judge"), load(config.second_judge, "second judge"), load(config.harm_judge, "harm judge")
    )


def checked(scorer: Scorer, judged: Sequence[Preference]) -> dict[str, Any]:
    """How far a judge agrees with people on pairs that they judged, as a card shows it beside the judge's name."""
    found = validate_scorer(scorer, judged)
    agreement = found["agreement"]
    return {"n": agreement["n"], "accuracy": agreement["value"], "ci": agreement["ci"],
            "prefers_longer": found["prefers_longer"], "people_prefer_longer": found["people_prefer_longer"]}  # fmt: skip


def _subject(model: str, config: CardConfig, track: Track, say: Callable[[str], None]) -> tuple[Subject, Trunk]:
    sampler = LocalSampler.of(model, batch=config.batch, say=say)
    subject = TrunkSubject(
        sampler, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed, track=track
    )
    return subject, sampler.trunk


def _name_of(settings: ScorerConfig, what: str) -> str:
    """What the card calls a judge: what it is for, and what it is made of."""
    made_of = ", ".join((*settings.sources, *(part.function for part in (settings, *settings.parts) if part.function)))
    faults = ", ".join(f"offline {part.toxicity}" for part in (settings, *settings.parts) if part.toxicity)
    return f"{what} ({', '.join(text for text in (made_of, faults) if text)})"


def _without(judges: Judges, compared: bool) -> list[dict[str, str]]:
    """Rows that cannot be there, and what would bring them."""
    found = []
    if not compared:
        found.append({"row": "kl", "why": "there is no base; name one with --against"})
    if not (compared and judges.judge):
        why = (
            "no judge is named; set judge.model or another judge"
            if compared
            else "there is no base; name one with --against"
        )
        found.append({"row": "win_rate", "why": why})
    if not judges.second:
        found.append({"row": "second_judge", "why": "no second judge is named; set second_judge.model or another"})
    if not judges.harm:
        found.append(
            {"row": "attack_success_judge", "why": "no judge of harm is named; set harm_judge.classifier or another"}
        )
    return found


def _rewarded(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One warning for each scorer that was the reward: what it says of the model is no evidence."""
    names = {scorer: [row["name"] for row in rows if row["scorer"] == scorer] for scorer in
             dict.fromkeys(row["scorer"] for row in rows if row["optimised"])}  # fmt: skip
    return [
        f"the model was trained to please the {scorer}: what it says is no evidence, in {', '.join(own)}"
        for scorer, own in names.items()
    ]


def _incomparable(rows: Sequence[Mapping[str, Any]], compared: bool) -> list[str]:
    lost = [row["name"] for row in rows if compared and row["base"] and not row["difference"]]
    return [f"the tokenizers differ, so that {name} cannot be compared" for name in lost]


def _shaped(models: Sequence[str]) -> list[str]:
    return [
        f"{model} is sampled from more than its own logits; rows by log-probability and the KL read the logits alone"
        for model in models
        if is_shaped(model)
    ]


def _trust(toxicity: ToxicityScorer, judges: Judges) -> dict[str, Any]:
    """What is known of how far each scorer can be believed."""
    refusal = read_json(WEIGHTS)
    agreement = {
        where: {"n": found["answers"], "accuracy": found["three_classes"]["accuracy"], "ci": found["three_classes"]["interval"],
                "string_match": found["string_match_three_classes"]["accuracy"], "confusion": found["confusion"]}
        for where, found in refusal["measured"].items()
    }  # fmt: skip
    ranking = {
        where: {"n": found["texts"], "roc_auc": found["roc_auc"]["value"], "ci": found["roc_auc"]["interval"]}
        for where, found in toxicity.card["held out"]["ranking"].items()
    }
    own = {judge.name: {"agreement": judge.agreement} for judge in judges.named}
    return {
        REFUSAL: {"version": refusal["version"], "agreement": agreement},
        f"{OFFLINE} {toxicity.version}": {"version": toxicity.version, "ranking": ranking},
        **own,
    }
