"""`manners constitution run`: both phases of Constitutional AI and PPO in one go, and what they were worth, in one folder.

answers → critique and revision → fine-tuning on the revisions → answers compared by the judge → a preference model from these soft
labels and people's judgements of helpfulness → PPO from the fine-tuned model → the same held-out prompts before and after.
A stage that is finished is not done again; one that was cut short goes on where it can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from manners.cli.data import made_from, read_demonstrations, read_split
from manners.cli.preferring import judgements_in, run_prefer
from manners.cli.resume import reopen
from manners.cli.revising import named_prompts, run_revise, sources_of
from manners.cli.talk import say, table, track
from manners.cli.worth import MeasureConfig, Tested, measure
from manners.config import Config, dump_config, load_config
from manners.constitution.constitution import Constitution
from manners.constitution.judges import DirectJudge, load_judge
from manners.constitution.prefer import PreferConfig
from manners.constitution.prompts import apart
from manners.constitution.revise import DEMONSTRATIONS, ReviseConfig
from manners.errors import MannersError
from manners.feedback.pairs import halves, in_split, make_pairs, write_pairs
from manners.models.load import load_trunk
from manners.models.trunk import Trunk
from manners.records import Judgement, Prompt
from manners.rewards.load import ScorerConfig, TextScorer, load_scorer
from manners.runs import Run, write_json, write_jsonl, write_text
from manners.train.experiment import Judges
from manners.train.ppo import PPOConfig, train_ppo
from manners.train.reward import RewardConfig, train_reward
from manners.train.sft import SFTConfig, train_sft

KIND = "constitution"


class ConstitutionConfig(Config):
    """Settings of `constitution run`: those of its parts. Models and paths between the parts are filled in."""

    model: str = Field("starter", description="the model to be taught")
    constitution: str = Field("default", description="a constitution file, or 'default'")
    red_team: str = Field("red_team", description="a file of red-team prompts, or 'red_team' for those of the package")
    helpful: str = Field("helpful", description="a file of helpful prompts, or 'helpful' for those of the package")
    judgements: str = Field("starter", description="judgements of helpfulness by people, or 'starter'")
    train_prompts: int = Field(64, gt=0, description="red-team prompts to learn from, at most")
    test_prompts: int = Field(32, gt=0, description="prompts of each kind to measure on, at most")
    revise: ReviseConfig = ReviseConfig(
        rounds=2, max_tokens=64, critique_tokens=48, helpful_per_prompt=1, temperature=0.7, revision_temperature=0.4
    )
    sft: SFTConfig = SFTConfig(train_layers=8, learning_rate=3e-4)
    prefer: PreferConfig = PreferConfig(max_tokens=48, allow_weak_judge=True)
    preference: RewardConfig = RewardConfig(learning_rate=3e-3, read="mean")
    helpfulness: RewardConfig = RewardConfig(learning_rate=3e-3, read="mean")
    ppo: PPOConfig = PPOConfig(
        steps=6, temperature=0.7, beta=0.03, learning_rate=2e-3, value_learning_rate=3e-3, epochs=2, minibatches=2,
        missing_eos_penalty=0.5, evaluate_prompts=0, kl_budget_per_sequence=8,
    )  # fmt: skip
    rewarded_by: Literal["preference", "rating"] = Field(
        "preference",
        description="what PPO follows: a 'preference' model of the judge's comparisons, or the judge's 'rating' of each answer from 1 to"
        " 10 (direct RLAIF: Lee et al. 2023, arXiv 2309.00267)",
    )
    measure: MeasureConfig = MeasureConfig()
    seed: int = 0


class _Stages:
    """The stages in the folder of a run: which are finished, and where their files are."""

    def __init__(self, config: ConstitutionConfig, run: Run) -> None:
        self.config, self.run, self.start = config, run, time.monotonic()

    def at(self, name: str) -> Path:
        return self.run.path / name

    def say(self, text: str) -> None:
        say(f"[bold]{time.monotonic() - self.start:5.0f} s[/]  {text}")

    def finished(self, name: str) -> bool:
        return (self.at(name) / "lineage.json").exists() and Run.open(self.at(name)).status["status"] == "finished"

    def settings(self, name: str, config: Config) -> Path:
        """A file with the settings of a stage, for the command of that stage."""
        path = self.run.path / "settings" / f"{name}.yaml"
        write_text(path, dump_config(config))
        return path


def run_constitution(
    config: Path | None, sets: list[str], *, run: Path, resume: Path | None, accept_changes: bool, replace: bool
) -> dict[str, Any]:
    """Start a run, or go on with the one in `resume`; prints the table and gives the numbers of the last line."""
    from manners.report import write_report

    settings = load_config(ConstitutionConfig, resume / "config.yaml" if resume and not config else config, sets)
    constitution = Constitution.load(settings.constitution)
    folder = resume or run
    lineage = sources_of(_revise_config(settings, settings.red_team, settings.helpful), constitution, folder)
    if resume:
        made, _ = reopen(resume, KIND, settings, lineage, accept_changes)
    else:
        made = Run.create(run, KIND, settings, lineage, replace)
    with made.guard():
        stages = _Stages(settings, made)
        tested = _set_up(stages)
        _teach(stages)
        stages.say("what it was worth, on prompts that nothing learned from")
        evaluation = measure(
            settings.measure, settings.model, tested, made, settings.prefer.judge, constitution, settings.seed
        )
        write_json(made.path / "evaluation.json", evaluation)
    stages.say("report")
    page = write_report(made.path)
    _table(made, evaluation)
    return {**_last_line(evaluation), "seconds": round(time.monotonic() - stages.start, 1), "report": str(page)}


def _set_up(stages: _Stages) -> Tested:
    """Who learns from what and is measured on what: no text of a test prompt stands among what is learned from."""
    config, folder = stages.config, stages.run.path / "prompts"
    red = apart(named_prompts(config.red_team), config.seed, validation=0)
    test_red = red["test"][: config.test_prompts]
    helpful = apart(
        named_prompts(config.helpful), config.seed, validation=0, taken=[p for own in red.values() for p in own]
    )
    people = judgements_in(config.judgements)
    learned = [j.prompt for j in in_split(people, "train", config.seed)]
    test_helpful = apart(helpful["test"], config.seed, taken=learned)["test"][: config.test_prompts]
    if len(red["train"]) < 1 or len(test_red) < 2 or len(test_helpful) < 2:
        raise MannersError("there are too few prompts: give some to learn from, and two of each kind of the split test")
    _write_prompts(folder / "red_team.jsonl", red["train"][: config.train_prompts])
    _write_prompts(folder / "helpful.jsonl", helpful["train"])
    first, second = halves(people, config.seed)
    apart_ones = [j for split in ("validation", "test") for j in in_split(people, split, config.seed)]
    _write_judgements(folder / "first_half.jsonl", [*first, *apart_ones])
    pairs = make_pairs([*second, *apart_ones], config.seed)
    write_pairs(folder / "second_half", pairs, judgements=config.judgements, seed=config.seed, half="second")
    return Tested(test_red, test_helpful)


def _write_prompts(path: Path, prompts: list[Prompt]) -> None:
    write_jsonl(path, (prompt.to_json() for prompt in prompts))


def _write_judgements(path: Path, judgements: list[Judgement]) -> None:
    write_jsonl(path, (judgement.to_json() for judgement in judgements))


def _revise_config(config: ConstitutionConfig, prompts: str, helpful: str) -> ReviseConfig:
    given = {"model": config.model, "constitution": config.constitution, "prompts": prompts, "helpful": helpful,
             "seed": config.seed}  # fmt: skip
    return config.revise.model_copy(update=given)


def _teach(stages: _Stages) -> None:
    steps: Mapping[str, tuple[str, Callable[[_Stages], None]]] = {
        "revise": ("phase 1: answers, critiques, revisions", _revise),
        "sft": ("supervised fine-tuning on the revisions", _sft),
        "prefer": ("phase 2: the judge compares answers", _prefer),
        "preference": ("a preference model from soft labels and people's judgements", _preference),
        "helpfulness": ("a reward model of helpfulness, from other judgements, to measure by", _helpfulness),
        "ppo": ("PPO from the model of phase 1 against its judge", _ppo),
    }
    if stages.config.rewarded_by == "rating":
        steps = {name: step for name, step in steps.items() if name != "preference"}
    for name, (text, do) in steps.items():
        if stages.finished(name):
            stages.say(f"{text}: finished before")
        else:
            stages.say(text)
            do(stages)


def _revise(stages: _Stages) -> None:
    prompts = stages.run.path / "prompts"
    config = _revise_config(stages.config, str(prompts / "red_team.jsonl"), str(prompts / "helpful.jsonl"))
    path = stages.at("revise")
    begun = path if (path / "lineage.json").exists() else None
    run_revise(stages.settings("revise", config), [], run=path, resume=begun, accept_changes=True, replace=False)


def _sft(stages: _Stages) -> None:
    path, data = stages.at("sft"), stages.at("revise") / DEMONSTRATIONS
    config = stages.config.sft.model_copy(update={"model": stages.config.model, "seed": stages.config.seed})
    made = Run.create(path, "sft", config, made_from(path, data=data, model=config.model), replace=True)
    with made.guard():
        training, held = (read_demonstrations(data, split, config.seed) for split in ("train", "validation"))
        train_sft(config, training, held, made, track=track)


def _prefer(stages: _Stages) -> None:
    prompts, path = stages.run.path / "prompts", stages.at("prefer")
    given = {"model": str(stages.at("sft")), "constitution": stages.config.constitution, "seed": stages.config.seed,
             "prompts": str(prompts / "red_team.jsonl"), "mix": str(prompts / "first_half.jsonl")}  # fmt: skip
    config = stages.config.prefer.model_copy(update=given)
    begun = path if (path / "lineage.json").exists() else None
    run_prefer(
        stages.settings("prefer", config), [], run=path, resume=begun, accept_changes=True, replace=False, retry=False
    )


def _preference(stages: _Stages) -> None:
    _reward(stages, "preference", stages.config.preference, stages.at("prefer") / "pairs")


def _helpfulness(stages: _Stages) -> None:
    _reward(stages, "helpfulness", stages.config.helpfulness, stages.run.path / "prompts" / "second_half")


def _reward(stages: _Stages, name: str, config: RewardConfig, data: Path) -> None:
    path = stages.at(name)
    config = config.model_copy(update={"model": str(stages.at("sft")), "seed": stages.config.seed})
    made = Run.create(path, "reward", config, made_from(path, data=data, model=config.model), replace=True)
    with made.guard():
        train_reward(config, read_split(data, "train"), read_split(data, "test"), made, track=track)


def _ppo(stages: _Stages) -> None:
    path, prompts = stages.at("ppo"), stages.run.path / "prompts"
    named = {"model": stages.at("sft"), "second judge": stages.at("helpfulness")}
    given: dict[str, Any] = {"model": str(named["model"]), "seed": stages.config.seed,
                             "second_judge": ScorerConfig(model=str(named["second judge"]))}  # fmt: skip
    if stages.config.rewarded_by == "preference":
        named["reward"] = stages.at("preference")
        given["reward"] = ScorerConfig(model=str(named["reward"]))
    config = stages.config.ppo.model_copy(update=given)
    sources = made_from(path, red_team=prompts / "red_team.jsonl", helpful=prompts / "helpful.jsonl", **named)
    state = None
    if (path / "lineage.json").exists():
        made, state = reopen(path, "ppo", config, sources, accept_changes=True)
    else:
        made = Run.create(path, "ppo", config, sources)
    asked = [p for name in ("red_team", "helpful") for p in named_prompts(str(prompts / f"{name}.jsonl"))]
    with made.guard():
        trunk = load_trunk(config.model, config.train_layers)
        judges = None if config.reward.named else _rated(stages, config, trunk)
        train_ppo(config, asked, [], made, trunk, judges, track=track, state=state)


def _rated(stages: _Stages, config: PPOConfig, trunk: Trunk) -> Judges:
    """The AI judge's own ratings as the reward, and the model of helpfulness that watches."""
    constitution = Constitution.load(stages.config.constitution)
    judge = DirectJudge(load_judge(stages.config.prefer.judge, constitution, stages.at("ppo")))
    return Judges(TextScorer(judge.score), load_scorer(config.second_judge, trunk, "second judge"))


def _last_line(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that a program reads. What each means stands in evaluation.json."""
    stages = {row["measure"]: row["stages"] for row in evaluation["measures"]}
    quality = evaluation["judge"]
    return {
        "judge_agreement": _rounded(quality["agreement"]),
        "flip_rate": _rounded(quality["flip_rate"]),
        **{
            f"{measure}_{stage}": _rounded(stages[measure][stage])
            for measure in ("harmless", "not_toxic", "helpful")
            for stage in ("before", "after_sl", "after_rl")
        },
        "boilerplate_rate": _rounded(stages["boilerplate"]["after_rl"]),
        "preaching_rate": _rounded(stages["preaching"]["after_rl"]),
        "refusal_rate": _rounded(stages["refusals"]["after_rl"]),
    }


def _rounded(found: Mapping[str, Any]) -> dict[str, Any]:
    ends = [None if end is None else round(end, 4) for end in found["ci"]]
    return {"value": None if found["value"] is None else round(found["value"], 4), "ci": ends, "n": found["n"]}


def _table(run: Run, evaluation: Mapping[str, Any]) -> None:
    names = ("before", "after_sl", "after_rl")
    rows = [(row["measure"], *(_cell(row["stages"][name]) for name in names), _cell(row["gains"]["after_rl"], "+"),
             row["stages"]["before"]["n"]) for row in evaluation["measures"]]  # fmt: skip
    table(
        f"{run.path}: before and after, with 95 % intervals",
        ("", *(n.replace("_", " ") for n in names), "gain", "n"),
        rows,
    )
    for row in evaluation["measures"]:
        say(f"{row['measure']}: {row['meaning']}")


def _cell(found: Mapping[str, Any], sign: str = "") -> str:
    low, high = found["ci"]
    if found["value"] is None:
        return "–"
    ends = "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{found['value']:{sign}.3f}{ends}"
