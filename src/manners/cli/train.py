"""`manners train`: a command for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from manners.cli.data import made_from, one_of, prompts_for, read_rankings, read_split
from manners.cli.options import ConfigFile, Data, Json, Replace, RunFolder, Sets
from manners.cli.resume import reopen, source_of
from manners.cli.talk import give, say, track
from manners.config import load_config
from manners.errors import MannersError
from manners.feedback import pairs as pairing
from manners.runs import Run

app = typer.Typer(no_args_is_help=True, help="Train: sft, reward, ppo, classifier.")


@app.command()
def sft(config: ConfigFile = None, run: RunFolder = Path("runs/sft"), data: Data = Path("pairs"), sets: Sets = None,
        replace: Replace = False, as_json: Json = False) -> None:  # fmt: skip
    """Supervised fine-tuning on the preferred completions, or on demonstrations in the same layout."""
    from manners.train.sft import SFTConfig, train_sft

    settings = load_config(SFTConfig, config, sets or [])
    training, held = (pairing.preferred_of(read_split(data, split)) for split in ("train", "validation"))
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
    data: Annotated[Optional[Path], typer.Option(help="folder that `manners pairs` wrote [default: pairs]")] = None,  # noqa: UP045
    prompts: Annotated[str, typer.Option(help="a file of prompts, or 'starter', in place of those of the pairs")] = "",
    resume: Annotated[Optional[Path], typer.Option(help="go on with the run in this folder")] = None,  # noqa: UP045
    accept_changes: Annotated[bool, typer.Option(help="resume though settings or sources differ")] = False,
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Proximal policy optimisation against a judge, with the shift penalty against the frozen reference."""
    from manners.train.ppo import PPOConfig, train_ppo

    given = [*([f"prompts={prompts}"] if prompts else []), *(sets or [])]
    settings = load_config(PPOConfig, resume / "config.yaml" if resume and not config else config, given)
    if not settings.reward.named:
        raise MannersError(
            "no judge is named: set reward.model, reward.classifier or reward.function in the config or with --set"
        )
    if resume and not data:
        data = source_of(resume, "data")
    training, held = prompts_for(settings.prompts, data, settings.seed)
    read = data or (Path("pairs") if not settings.prompts else "")
    lineage = made_from(resume or run, data=read, **settings.sources)
    state = None
    if resume:
        made, state = reopen(resume, "ppo", settings, lineage, accept_changes)
    else:
        made = Run.create(run, "ppo", settings, lineage, replace)
    with made.guard():
        train_ppo(settings, training, held if settings.evaluate_prompts else [], made, track=track, state=state)
    _tell(made, made.metrics()[-1], as_json)


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
