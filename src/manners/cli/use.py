"""Commands that use a model or look at a run: sample, score, report, chat, export, runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from manners.cli.data import read_prompts
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
