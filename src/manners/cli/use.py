"""Commands that use a model or look at a run: sample, score, report, chat, export, runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from manners.cli.data import batch_settings, make_batch, read_prompts
from manners.cli.options import Json
from manners.cli.talk import give, say, table, track
from manners.errors import MannersError
from manners.feedback.store import Store
from manners.records import Completion, Prompt
from manners.runs import Run, write_jsonl

app = typer.Typer()


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
    batch: Annotated[
        str, typer.Option(help="also make a batch of that name, to be ranked; in manners.db without --db")
    ] = "",
    mode: Annotated[str, typer.Option(help="of the batch: rank, pair, ratings, thumbs or edit")] = "rank",
    best_of: Annotated[int, typer.Option(help="of so many answers keep the one that --reward finds best", min=1)] = 1,
    reward: Annotated[Optional[Path], typer.Option(help="run of a reward model, for --best-of")] = None,  # noqa: UP045
) -> None:
    """Complete prompts with a model."""
    if best_of > 1 or reward:
        from manners.cli.best_of import sample_best

        if db or batch:
            raise MannersError(
                "--best-of keeps one answer to a prompt, so that there is nothing to rank; leave --db and --batch out"
            )
        sample_best(model, read_prompts(prompts), reward, best_of, out, max_tokens, temperature, seed)
        return
    from manners.sampling.answers import answers_to

    settings = batch_settings(batch, mode, k) if batch else None
    asked = read_prompts(prompts)
    rows = answers_to(
        asked, model, k=k, max_tokens=max_tokens, temperature=temperature, seed=seed, say=say, track=track
    )
    lines = [{"prompt": p.to_json(), "completions": [c.to_json() for c in answers]} for p, answers in rows]
    if db or settings:
        with Store.open(db or "manners.db") as store:
            store.add_completions(rows)
            if settings:
                typer.echo(make_batch(store, settings, rows))
    if out:
        write_jsonl(out, lines)
        say(f"{len(asked) * k} completions in {out}", markup_of=str(out))
    elif not settings:
        for line in lines:
            give(line)


@app.command()
def score(
    texts: Annotated[list[str], typer.Argument(help="answers to score")],
    reward: Annotated[Optional[Path], typer.Option(help="run of a reward model")] = None,  # noqa: UP045
    prompt: Annotated[str, typer.Option(help="what the texts answer (for a reward model)")] = "",
    classifier: Annotated[str, typer.Option(help="path or id of a sequence classifier")] = "",
    positive: Annotated[str, typer.Option(help="its good class; its logit is the reward")] = "",
    toxicity: Annotated[bool, typer.Option(help="by the offline scorer of toxicity, aggression and hate")] = False,
    as_json: Json = False,
) -> None:
    """Score texts: by a reward model, by an ensemble (its mean, and each member), the logits of every class of a classifier, or how
    likely they are toxic, aggressive and hateful."""
    if [bool(reward), bool(classifier), toxicity].count(True) != 1:
        raise MannersError("name a judge: --reward RUN, or --classifier PATH --positive CLASS, or --toxicity")
    if toxicity:
        _score_toxicity(texts, as_json)
        return
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


def _score_toxicity(texts: list[str], as_json: bool) -> None:
    from manners.rewards.toxicity import FAULTS, ToxicityScorer

    scorer = ToxicityScorer.load()
    for text, shares in zip(texts, scorer.probabilities(texts).tolist(), strict=True):
        found: dict[str, float] = {fault: round(share, 4) for fault, share in zip(FAULTS, shares, strict=True)}
        if as_json:
            words = sorted(scorer.why(text), key=lambda word: -word[1])[:5]
            give(
                {"text": text, **found, "version": scorer.version, "why": [[w, round(x, 3)] for w, x in words if x > 0]}
            )
        else:
            typer.echo("  ".join(f"{fault} {share:.3f}" for fault, share in found.items()) + f"  {text}")


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
