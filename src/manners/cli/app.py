"""All commands, in the order of the flow. Each reads its arguments, calls one function below, and says what came of it.

Commands that need torch import it when they are called, so that `manners import` starts at once and without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

import manners
from manners.cli.data import made_from, make_pairs, one_of, prompts_for, read_prompts, read_rankings, read_split
from manners.cli.resume import reopen, source_of
from manners.cli.talk import give, say, table, track
from manners.config import load_config
from manners.errors import MannersError
from manners.feedback import pairs as pairing
from manners.feedback.importers import ImportOptions, import_dataset, import_file
from manners.feedback.store import Store
from manners.records import SOURCES, SPLITS, Completion, Prompt
from manners.runs import Run, write_jsonl

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
                  help="From people's rankings to a language model that behaves better.")  # fmt: skip
train_app = typer.Typer(no_args_is_help=True, help="Train: sft, reward, ppo, classifier.")
app.add_typer(train_app, name="train")


class _PolicyByDefault(TyperGroup):
    """What names no command is an argument of `policy`: `manners evaluate RUN` is `manners evaluate policy RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if named else ["policy", *args])


evaluate_app = typer.Typer(
    cls=_PolicyByDefault, no_args_is_help=True, help="Evaluate: RUN (or policy RUN), overoptimisation."
)
app.add_typer(evaluate_app, name="evaluate")

Database = Annotated[str, typer.Option("--db", help="SQLite file or postgresql:// URL")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
Sets = Annotated[Optional[list[str]], typer.Option("--set", help="key=value, over the config file; may be repeated")]  # noqa: UP045
RunFolder = Annotated[Path, typer.Option("--run", help="folder of the run")]
Replace = Annotated[bool, typer.Option("--replace", help="replace a run that is there already")]
Data = Annotated[Path, typer.Option("--data", help="folder that `manners pairs` wrote")]
ConfigFile = Annotated[Optional[Path], typer.Argument(help="YAML file; without it, defaults")]  # noqa: UP045


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False) -> None:
    if version:
        typer.echo(manners.__version__)
        raise typer.Exit


@app.command()
def demo(
    run: RunFolder = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="seed of everything")] = 0,
    sets: Sets = None,
) -> None:
    """The main job, end to end, on the starter model and the starter judgements. The last line of stdout is one JSON object."""
    from manners.cli.demo import DemoConfig, run_demo

    give(run_demo(load_config(DemoConfig, None, [f"seed={seed}", *(sets or [])]), run))


@app.command(name="import")
def import_(
    files: Annotated[list[str], typer.Argument(help="files, or data set ids with --hub")],
    db: Database = "manners.db",
    layout: Annotated[str, typer.Option(help="auto, or the name of a layout (docs/howto/import.md)")] = "auto",
    rejects: Annotated[Optional[Path], typer.Option(help="where rows that cannot be read go")] = None,  # noqa: UP045
    strict: Annotated[bool, typer.Option(help="exit with an error when any row was rejected")] = False,
    hub: Annotated[bool, typer.Option(help="read data sets of the Hugging Face Hub by id")] = False,
    hub_split: Annotated[str, typer.Option(help="split of the Hub data set")] = "train",
    judge: Annotated[str, typer.Option(help="who judged")] = "",
    source: Annotated[str, typer.Option(help="human, ai or rule")] = "human",
    category: Annotated[str, typer.Option(help="category of all prompts")] = "",
    split: Annotated[str, typer.Option(help="put all prompts into train, validation or test")] = "",
    criterion: Annotated[str, typer.Option(help="which rating counts, where there are several")] = "",
    as_json: Json = False,
) -> None:
    """Import judgements: our JSONL, hh-rlhf, Open-Assistant, Hugging Face preference layouts, ratings, CSV."""
    one_of("--source", source, SOURCES)
    one_of("--split", split, ("", *SPLITS))
    values = {"judge": judge, "source": source, "category": category, "split": split, "criterion": criterion}
    options = ImportOptions.model_validate({k: v for k, v in values.items() if v})
    with Store.open(db) as store:
        for file in files:
            if hub:
                done = import_dataset(store, file, hub_split, layout, options, rejects_path=rejects, strict=strict)
            else:
                done = import_file(
                    store, file, layout, options, rejects_path=rejects, strict=strict, progress=_rows_read
                )
            facts = {"file": file, "layout": done.layout, "rows": done.rows, "judgements": done.judgements, "new": done.new,
                     "known": done.known, "rejected": done.rejected, "rejects": str(done.rejects_path or "")}  # fmt: skip
            if as_json:
                give(facts)
            else:
                tail = f"; {done.rejected} rows rejected, see {done.rejects_path}" if done.rejected else ""
                typer.echo(
                    f"{file}: {done.rows} rows as {done.layout}, {done.new} new judgements, {done.known} known{tail}"
                )


def _rows_read(rows: int) -> None:
    if rows and rows % 5000 == 0:
        say(f"{rows} rows read")


@app.command()
def serve(
    db: Database = "manners.db",
    host: Annotated[
        str, typer.Option(help="address to listen on; the default serves this machine alone")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one", min=0, max=65535)] = 8420,
    public_url: Annotated[str, typer.Option(help="address that people open, behind a proxy: https://...")] = "",
    as_json: Json = False,
) -> None:
    """The feedback app: people rank answers in a browser."""
    from manners.cli import serve as serving

    def ready(served: serving.Served) -> None:
        if served.warning:
            say(f"[yellow]warning:[/] {served.warning}")
        if as_json:
            give({"url": served.url, "admin_link": served.admin_link})
            return
        typer.echo(f"manners serves {db} at {served.url} (stop with Ctrl-C)")
        if served.admin_link:
            typer.echo(f"There is no admin yet. Become it with this link, within a day: {served.admin_link}")

    serving.serve(db, host, port, public_url, ready)


@app.command()
def audit(
    db: Database = "manners.db",
    head: Annotated[str, typer.Option(help="last hash, noted at an earlier audit: it must still be there")] = "",
    as_json: Json = False,
) -> None:
    """Verify the hash chain over everything that was judged; fails when something was changed, removed or inserted."""
    from manners.feedback import chain

    with Store.open(db, create=False) as store, store.reading() as connection:
        result = chain.audit(connection, head, progress=_links_checked)
    if as_json:
        give({"links": result.links, "head": result.head, "problems": list(result.problems)})
    else:
        typer.echo(f"{db}: {result.links} links, head {result.head}")
    if not result.whole:
        raise MannersError(
            f"the log of {db} was changed: {result.problems[0]} ({len(result.problems)} problems in all)"
        )


def _links_checked(links: int) -> None:
    if links and links % 5000 == 0:
        say(f"{links} links checked")


@app.command()
def pairs(
    db: Database = "manners.db",
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path("pairs"),
    seed: Annotated[int, typer.Option(help="draws the splits")] = 0,
    validation: Annotated[float, typer.Option(help="share of prompts")] = 0.1,
    test: Annotated[float, typer.Option(help="share of prompts")] = 0.1,
    source: Annotated[str, typer.Option(help="only judgements of this source")] = "",
    halves: Annotated[bool, typer.Option(help="also first/ and second/: half of the training prompts each")] = False,
    as_json: Json = False,
) -> None:
    """Turn rankings into pairs, split by prompt; the whole rankings go beside them, into rankings/."""
    one_of("--source", source, ("", *SOURCES))
    with Store.open(db, create=False) as store:
        manifest = make_pairs(
            store, out, seed=seed, validation=validation, test=test, source=source or None, halves=halves
        )
    counts = {split: facts["pairs"] for split, facts in manifest["splits"].items()}
    if as_json:
        give({"out": str(out), **counts})
    else:
        typer.echo(f"{out}: " + ", ".join(f"{split} {count} pairs" for split, count in counts.items()))


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="starter, a folder, a run, or a Hub id")],
    prompts: Annotated[Path, typer.Argument(help=".txt with a prompt a line, or .jsonl with prompts or judgements")],
    out: Annotated[Optional[Path], typer.Option(help="JSONL to write; without it, stdout")] = None,  # noqa: UP045
    k: Annotated[int, typer.Option(help="completions per prompt", min=1)] = 4,
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    seed: int = 0,
    db: Annotated[str, typer.Option(help="also put them into this store, to be ranked")] = "",
) -> None:
    """Complete prompts with a model."""
    from manners.models.load import load_trunk
    from manners.sampling.local import LocalSampler

    asked = read_prompts(prompts)
    sampler = LocalSampler(load_trunk(model, "all", say=say), None, model_name=model)
    repeated = [p for p in asked for _ in range(k)]
    rollouts = sampler.sample(repeated, max_tokens=max_tokens, temperature=temperature, seed=seed, track=track)
    rows = [(p, rollouts.completions[i * k : (i + 1) * k]) for i, p in enumerate(asked)]
    lines = [{"prompt": p.to_json(), "completions": [c.to_json() for c in answers]} for p, answers in rows]
    if db:
        with Store.open(db) as store:
            store.add_completions(rows)
    if out:
        write_jsonl(out, lines)
        say(f"{len(repeated)} completions in {out}", markup_of=str(out))
    else:
        for line in lines:
            give(line)


@app.command()
def score(
    texts: Annotated[list[str], typer.Argument(help="answers to score")],
    reward: Annotated[Optional[Path], typer.Option(help="run of a reward model")] = None,  # noqa: UP045
    prompt: Annotated[str, typer.Option(help="what the texts answer (for a reward model)")] = "",
    classifier: Annotated[str, typer.Option(help="path or id of a sequence classifier")] = "",
    positive: Annotated[str, typer.Option(help="its good class; its logit is the reward")] = "",
    as_json: Json = False,
) -> None:
    """Score texts: by a reward model, by an ensemble (its mean, and each member), or the logits of every class of a classifier."""
    if bool(reward) == bool(classifier):
        raise MannersError("name a judge: --reward RUN, or --classifier PATH --positive CLASS")
    if classifier:
        from manners.rewards.classifier import ClassifierScorer, describe

        scorer = ClassifierScorer.load(classifier, positive or 1)
        for text in texts:
            logits = dict(describe(scorer, text))
            if as_json:
                give({"text": text, "logits": logits, "positive": scorer.positive})
            else:
                typer.echo("  ".join(f"{label} {logit:+.3f}" for label, logit in logits.items()) + f"  {text}")
        return
    if not prompt:
        raise MannersError("a reward model scores an answer to a prompt; add --prompt TEXT")
    from manners.rewards.ensemble import RewardEnsemble, is_ensemble
    from manners.rewards.model import RewardModel

    folder, asked = reward or Path(), Prompt.of(prompt)
    prompts, answers = [asked] * len(texts), [Completion(asked.id, t) for t in texts]
    if is_ensemble(folder):
        ensemble = RewardEnsemble.load(folder)
        opinions = ensemble.opinions_of_texts(prompts, answers)
        for text, number, members in zip(texts, ensemble.combine(opinions).tolist(), opinions.tolist(), strict=True):
            if as_json:
                give({"text": text, "reward": round(number, 4), "members": [round(m, 4) for m in members]})
            else:
                typer.echo(f"{number:+.3f}  ({' '.join(f'{m:+.3f}' for m in members)})  {text}")
        return
    scores = RewardModel.load(folder).score_texts(prompts, answers)
    for text, number in zip(texts, scores.tolist(), strict=True):
        if as_json:
            give({"text": text, "reward": round(number, 4)})
        else:
            typer.echo(f"{number:+.3f}  {text}")


@train_app.command()
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


@train_app.command()
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


@train_app.command()
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


@train_app.command()
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
    sources: dict[str, Path | str] = {
        "data": data or (Path("pairs") if not settings.prompts else ""),
        "model": settings.model,
    }
    sources["prompts"] = settings.prompts if settings.prompts != "starter" else ""
    for name, judge in (("reward", settings.reward), ("second judge", settings.second_judge)):
        sources |= {f"{name} {number}" if number else name: source for number, source in enumerate(judge.sources)}
    lineage = made_from(resume or run, **sources)
    state = None
    if resume:
        made, state = reopen(resume, "ppo", settings, lineage, accept_changes)
    else:
        made = Run.create(run, "ppo", settings, lineage, replace)
    with made.guard():
        train_ppo(settings, training, held if settings.evaluate_prompts else [], made, track=track, state=state)
    _tell(made, made.metrics()[-1], as_json)


@evaluate_app.command()
def policy(
    run: Annotated[Path, typer.Argument(help="a PPO run")],
    data: Data = Path("pairs"),
    split: Annotated[str, typer.Option(help="which prompts")] = "test",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Before and after on prompts never trained on, by the optimised judge and by the second judge."""
    from manners.evaluate.policy import EvaluateConfig, evaluate_run

    held = pairing.prompts_of(read_split(data, split))
    evaluation = evaluate_run(Run.open(run), held, load_config(EvaluateConfig, None, sets or []), track)
    if as_json:
        give({"run": str(run), "rows": evaluation["rows"]})
    else:
        columns = ("", "before", "after", "gain", "95 % interval", "unit")
        table(f"{run}: {evaluation['prompts']} held-out prompts", columns, [_gain(row) for row in evaluation["rows"]])


def _gain(row: dict[str, Any]) -> tuple[str, ...]:
    numbers = (f"{row['before']:.3f}", f"{row['after']:.3f}", f"{row['gain']:+.3f}", interval(row["ci"]))
    return (row["label"], *numbers, row["unit"])


def interval(ends: list[float | None]) -> str:
    """[low, high], or a dash where it is undefined (a single prompt)."""
    return "–" if None in ends else "[" + ", ".join(f"{end:+.3f}" for end in ends if end is not None) + "]"


@evaluate_app.command()
def overoptimisation(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/overoptimisation"),
    sets: Sets = None,
    replace: Replace = False,
) -> None:
    """How far a reward model can be followed, in a made-up world whose true reward is known. The last line of stdout is one JSON object."""
    from manners.evaluate.overoptimisation import OveroptimisationConfig, measure_overoptimisation, summary
    from manners.report.overoptimisation import write_plot

    made = Run.create(
        run, "overoptimisation", settings := load_config(OveroptimisationConfig, config, sets or []), {}, replace
    )
    with made.guard():
        result = measure_overoptimisation(settings, made, track)
    plot = write_plot(run / "overoptimisation.svg", result)
    give({"run": str(run), "plot": str(plot), **summary(result), "seconds": made.status["seconds"]})


@app.command()
def report(run: Annotated[Path, typer.Argument(help="a run")]) -> None:
    """Write RUN/report.html: one self-contained page."""
    from manners.report import write_report

    typer.echo(str(write_report(run)))


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="starter, a run, a folder, or a Hub id")],
    message: Annotated[Optional[str], typer.Option(help="one message; without it, a conversation")] = None,  # noqa: UP045
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1)] = 128,
    seed: int = 0,
) -> None:
    """Talk to a model."""
    from manners.cli.chat import converse

    converse(model, message, temperature, max_tokens, seed)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="a run or checkpoint of a policy")],
    out: Annotated[Path, typer.Argument(help="folder to write to; must not exist yet")],
    adapter_only: Annotated[bool, typer.Option(help="only the adapter, in peft's format")] = False,
) -> None:
    """Write a merged Hugging Face checkpoint with a model card, or the adapter alone."""
    from manners.models.export import export_adapter, export_merged

    (export_adapter if adapter_only else export_merged)(run, out, say)
    typer.echo(str(out))


@app.command()
def runs(folder: Annotated[Path, typer.Argument(help="where to look")] = Path("runs"), as_json: Json = False) -> None:
    """List the runs below a folder."""
    found = [Run(path.parent) for path in sorted(folder.rglob("lineage.json"))]
    rows = [
        {"run": str(r.path), "kind": r.kind, **{k: r.status.get(k, "") for k in ("status", "at", "seconds")}}
        for r in found
    ]
    if as_json:
        for row in rows:
            give(row)
    elif rows:
        table(f"runs in {folder}", list(rows[0]), [list(row.values()) for row in rows])
    else:
        say(f"no runs below {folder}", markup_of=str(folder))


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
