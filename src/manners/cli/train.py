"""`manners train`: a command for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from manners.cli.data import made_from, one_of, read_demonstrations, read_rankings, read_split
from manners.cli.options import (
    AcceptChanges,
    ConfigFile,
    Data,
    Json,
    PairsOrNone,
    Prompts,
    Replace,
    Resume,
    RunFolder,
    Sets,
)
from manners.cli.talk import give, say, track
from manners.config import load_config
from manners.runs import Run

app = typer.Typer(no_args_is_help=True, help="Train: sft, reward, ppo, grpo, dpo, ilql, classifier.")


@app.command()
def sft(config: ConfigFile = None, run: RunFolder = Path("runs/sft"), data: Data = Path("pairs"), sets: Sets = None,
        replace: Replace = False, as_json: Json = False) -> None:  # fmt: skip
    """Supervised fine-tuning on the preferred completions, or on all answers of a file, such as the winners of best-of-n."""
    from manners.train.sft import SFTConfig, train_sft

    settings = load_config(SFTConfig, config, sets or [])
    training, held = (read_demonstrations(data, split, settings.seed) for split in ("train", "validation"))
    made = Run.create(run, "sft", settings, made_from(run, data=data, model=settings.model), replace)
    with made.guard():
        evaluation = train_sft(settings, training, held, made, track=track)
    _tell(made, evaluation, as_json)


@app.command()
def reward(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/reward"),
    data: Data = Path("pairs"),
    split: Annotated[str, typer.Option(help="held-out split of the report")] = "test",
    as_: Annotated[str, typer.Option("--as", help="model: from pairs; classifier: from labelled texts")] = "model",
    texts: Annotated[Optional[Path], typer.Option(help="labelled texts, for --as classifier")] = None,  # noqa: UP045
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """A reward model, or an ensemble of them, from pairs with −log σ(r_j − r_k), or from whole rankings with their ties."""
    one_of("--as", as_, ("model", "classifier"))
    if as_ == "classifier":
        classifier(texts or Path(), config, run, sets=sets, replace=replace, as_json=as_json)
        return
    from manners.train.reward import RewardConfig, train_reward

    settings = load_config(RewardConfig, config, sets or [])
    training, held = read_split(data, "train"), read_split(data, split)
    rankings = read_rankings(data, "train") if settings.whole_rankings else []
    made = Run.create(run, "reward", settings, made_from(run, data=data, model=settings.model), replace)
    with made.guard():
        evaluation = train_reward(settings, training, held, made, track=track, rankings=rankings)
    _tell(made, evaluation, as_json)


@app.command()
def classifier(
    texts: Annotated[Path, typer.Argument(help="JSONL or CSV of labelled texts")],
    config: Annotated[Optional[Path], typer.Option("--config", help="YAML file")] = None,  # noqa: UP045
    run: RunFolder = Path("runs/classifier"),
    text_column: str = "text",
    label_column: str = "label",
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """A binary (or n-way) text classifier, whose logit can be the reward."""
    from manners.train.classifier import ClassifierConfig, read_labelled, train_classifier

    settings = load_config(ClassifierConfig, config, sets or [])
    read = read_labelled(texts, text_column, label_column)
    for problem in read.problems[:5]:
        say(f"left out: {problem}", markup_of=str(problem))
    made = Run.create(run, "classifier", settings, made_from(run, texts=texts), replace)
    with made.guard():
        evaluation = train_classifier(settings, read.texts, made)
    _tell(made, evaluation, as_json)


@app.command()
def ppo(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/ppo"),
    data: PairsOrNone = None,
    prompts: Prompts = "",
    resume: Resume = None,
    accept_changes: AcceptChanges = False,
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Proximal policy optimisation against a judge, with the shift penalty against the frozen reference."""
    from manners.cli.on_policy import run_on_policy
    from manners.train.ppo import PPOConfig, train_ppo

    made, numbers = run_on_policy(
        "ppo", PPOConfig, train_ppo, config, sets or [], run=run, data=data, prompts=prompts, resume=resume,
        accept_changes=accept_changes, replace=replace,
    )  # fmt: skip
    _tell(made, numbers, as_json)


@app.command()
def grpo(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/grpo"),
    data: PairsOrNone = None,
    prompts: Prompts = "",
    resume: Resume = None,
    accept_changes: AcceptChanges = False,
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Group methods against a judge, without a value function: GRPO, Dr. GRPO, RLOO, REINFORCE++, ReMax, GSPO."""
    from manners.cli.on_policy import run_on_policy
    from manners.train.grpo import GRPOConfig, train_grpo

    made, numbers = run_on_policy(
        "grpo", GRPOConfig, train_grpo, config, sets or [], run=run, data=data, prompts=prompts, resume=resume,
        accept_changes=accept_changes, replace=replace,
    )  # fmt: skip
    _tell(made, numbers, as_json)


@app.command()
def dpo(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/dpo"),
    data: PairsOrNone = None,
    thumbs: Annotated[Optional[Path], typer.Option(help="JSONL of single judged answers, for loss kto")] = None,  # noqa: UP045
    threshold: Annotated[Optional[float], typer.Option(help="ratings above it count as thumbs up")] = None,  # noqa: UP045
    resume: Resume = None,
    accept_changes: AcceptChanges = False,
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Direct preference optimisation and its family, from pairs or thumbs, or online: the policy learns without a reward model."""
    from manners.cli.direct import run_direct

    made, numbers = run_direct(
        config, sets or [], run=run, data=data, thumbs=thumbs, threshold=threshold, resume=resume,
        accept_changes=accept_changes, replace=replace,
    )  # fmt: skip
    _tell(made, numbers, as_json)


@app.command()
def ilql(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/ilql"),
    data: PairsOrNone = None,
    answers: Annotated[
        Path | None, typer.Option(help="JSONL of answers, scored or to be scored, in place of pairs")
    ] = None,
    resume: Resume = None,
    accept_changes: AcceptChanges = False,
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Offline Q-learning from judged or scored answers: nothing is tried out, and the policy is sampled from log π + β·(Q − V)."""
    from manners.cli.offline import run_offline

    made, numbers = run_offline(
        config, sets or [], run=run, data=data, answers=answers, resume=resume, accept_changes=accept_changes,
        replace=replace,
    )  # fmt: skip
    _tell(made, numbers, as_json)


def _tell(run: Run, evaluation: dict[str, Any], as_json: bool) -> None:
    """What a training command leaves on stdout: the run, and its numbers."""
    numbers = {k: v for k, v in evaluation.items() if isinstance(v, int | float | str)}
    if "ci" in evaluation:
        numbers["ci"] = evaluation["ci"]
    if as_json:
        give({"run": str(run.path), **numbers})
    else:
        typer.echo(
            f"{run.path}: "
            + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items())
        )
