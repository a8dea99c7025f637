"""`manners constitution prefer` and `judge`: who writes, who judges, on what the judge is checked, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import typer
from pydantic import Field

from manners.cli.data import made_from
from manners.cli.resume import reopen
from manners.cli.revising import named_prompts
from manners.cli.talk import say, table, track
from manners.config import load_config
from manners.constitution.constitution import DEFAULT, Constitution
from manners.constitution.endpoint import Endpoint
from manners.constitution.judge import Judge
from manners.constitution.judges import AIJudgeConfig, load_judge
from manners.constitution.ledger import Ledger
from manners.constitution.prefer import PreferConfig, mixed, prefer
from manners.constitution.prompts import SHIPPED
from manners.constitution.quality import QualityConfig, judge_quality, refuse_weak_judge, some_of, weaknesses
from manners.constitution.remote_judge import RemoteWriter
from manners.constitution.writer import LocalWriter, Writer
from manners.errors import MannersError
from manners.feedback.importers import Reject, read
from manners.feedback.pairs import MANIFEST, pairs_of, read_pairs, write_pairs
from manners.models.trunk import Trunk
from manners.records import Judgement, Pair
from manners.runs import Run, write_json
from manners.sampling.local import LocalSampler

CHECKED = "checked.jsonl"
STARTER, NONE = "starter", "none"


class JudgeQualityConfig(QualityConfig):
    """Settings of `constitution judge`."""

    constitution: str = Field(DEFAULT, description="a constitution file, or 'default'")
    judge: AIJudgeConfig = Field(AIJudgeConfig(), description="whose quality is measured")
    swap: bool = Field(True, description="ask in both orders and average")
    count: int = Field(256, gt=0, description="how many comparisons, drawn by prompt")
    batch: int = Field(64, gt=0, description="comparisons between two entries in the files of the run")
    seed: int = 0


def run_prefer(
    config: Path | None, sets: Sequence[str], *, run: Path, resume: Path | None, accept_changes: bool, replace: bool,
    retry: bool,
) -> tuple[Run, dict[str, Any]]:  # fmt: skip
    """Start a run, or go on with the one in `resume`; gives it with its evaluation. Its pairs lie in RUN/pairs."""
    settings = load_config(PreferConfig, resume / "config.yaml" if resume and not config else config, sets)
    constitution = Constitution.load(settings.constitution)
    named = {"prompts": "" if settings.prompts in SHIPPED else settings.prompts, "mix": _file(settings.mix),
             "check_on": _file(settings.check_on)}  # fmt: skip
    models = {"model": "" if settings.writer.named else settings.model,
              "judge": "" if settings.judge.endpoint.named else settings.judge.model}  # fmt: skip
    made = _open("prefer", settings, constitution, named | models, run, resume, accept_changes, replace)
    with made.guard():
        people = judgements_in(settings.mix) if settings.mix else []
        writer, trunk = _writer(settings, made.path)
        judge = load_judge(settings.judge, constitution, made.path, trunk)
        quality = _checked(settings, constitution, judge, made, retry)
        preferred = prefer(settings, named_prompts(settings.prompts), constitution.comparisons, writer, judge, made,
                           retry=retry, say=say, track=track)  # fmt: skip
        pairs, rankings = mixed(preferred, people, settings.seed, settings.validation, settings.test)
        write_pairs(made.path / "pairs", pairs, rankings, constitution=constitution.hash, judge=judge.name,
                    seed=settings.seed, validation=settings.validation, test=settings.test)  # fmt: skip
        numbers = {**preferred.summary, "pairs": {split: len(own) for split, own in pairs.items()}}
        if quality:
            numbers["quality"] = quality
        write_json(made.path / "evaluation.json", numbers)
    return made, numbers


def run_judge(
    config: Path | None, sets: Sequence[str], data: Path | str, *, run: Path, resume: Path | None, accept_changes: bool,
    replace: bool, retry: bool,
) -> tuple[Run, dict[str, Any]]:  # fmt: skip
    """How good the judge is on the comparisons in `data`; what it answers is kept in the run."""
    settings = load_config(JudgeQualityConfig, resume / "config.yaml" if resume and not config else config, sets)
    constitution = Constitution.load(settings.constitution)
    named = {"data": _file(str(data)), "judge": "" if settings.judge.endpoint.named else settings.judge.model}
    made = _open("judge", settings, constitution, named, run, resume, accept_changes, replace)
    with made.guard():
        pairs = some_of(compared_by_people(str(data)), settings.count, settings.seed)
        judge = load_judge(settings.judge, constitution, made.path)
        quality = judge_quality(judge, pairs, constitution.comparisons, Ledger(made.path / CHECKED), seed=settings.seed,
                                swap=settings.swap, batch=settings.batch, retry=retry, say=say, track=track)  # fmt: skip
        write_json(made.path / "evaluation.json", quality)
    for weakness in weaknesses(quality, settings):
        say(f"{judge.name} should not teach: it {weakness}", markup_of=judge.name)
    return made, quality


def compared_by_people(named: str) -> list[Pair]:
    """Pairs of a folder or file that `manners pairs` wrote (of a folder the test split), or those in the judgements of any file that
    `manners import` reads; "starter": those of the package. Raises MannersError where there are none."""
    path = Path(named)
    if named != STARTER and (path / MANIFEST).exists():
        pairs = read_pairs(path / "test.jsonl")
    elif named != STARTER and (path.parent / MANIFEST).exists() and path.suffix == ".jsonl":
        pairs = read_pairs(path)
    else:
        pairs = [pair for judgement in judgements_in(named) for pair in pairs_of(judgement)]
    if not pairs:
        raise MannersError(f"{named} holds no comparison in which one answer was preferred; name other data")
    return pairs


def judgements_in(named: str) -> list[Judgement]:
    """The judgements of any file that `manners import` reads, or of the package ("starter"); rows that are none are counted on
    stderr."""
    if named == STARTER:
        with resources.as_file(resources.files("manners") / "starter" / "judgements.jsonl") as path:
            return [found for found in read(path) if isinstance(found, Judgement)]
    rows = list(read(named))
    if rejected := sum(isinstance(row, Reject) for row in rows):
        say(f"{rejected} of {len(rows)} rows of {named} are no judgements and left out", markup_of=named)
    return [row for row in rows if isinstance(row, Judgement)]


def table_of_quality(quality: dict[str, Any]) -> None:
    """What is known of a judge, as tables on stdout."""
    rows = [(label, *_cells(quality[key])) for key, label in (
        ("agreement", "agrees with people"), ("agreement_one_order", "the same, asked in one order"),
        ("flip_rate", "winner changes with the order"), ("first_wins", "the answer shown first wins"),
        ("longer_wins", "the longer answer wins"), ("longer_wins_by_people", "the longer answer wins, by people"),
        ("entropy", "doubt in its labels, nats (0.693 at most)"))]  # fmt: skip
    table(f"{quality['judge']} on {quality['n_pairs']} comparisons, {quality['n_prompts']} prompts",
          ("", "value", "95 % interval", "n"), rows)  # fmt: skip
    table("By principle: agrees with people", ("principle", "value", "95 % interval", "n"),
          [(name, *_cells(found)) for name, found in quality["by_principle"].items()])  # fmt: skip
    failed = ", ".join(f"{kind} {count}" for kind, count in quality["failures"].items()) or "none"
    error = "–" if quality["ece"] is None else f"{quality['ece']:.3f}"
    typer.echo(f"calibration error (ECE) {error}; no verdict: {failed}")


def table_of_preferences(run: Run, numbers: dict[str, Any]) -> None:
    """What came of a run of `prefer`, as tables on stdout."""
    rows = [(label, *_cells(numbers[key])) for key, label in (
        ("flip_rate", "winner changes with the order"), ("first_wins", "the answer shown first wins"),
        ("longer_wins", "the longer answer wins"), ("entropy", "doubt in its labels, nats (0.693 at most)"))]  # fmt: skip
    if "quality" in numbers:
        rows.insert(0, ("agrees with people", *_cells(numbers["quality"]["agreement"])))
    table(f"{numbers['judge']}: {numbers['n_comparisons']} comparisons, {numbers['n_prompts']} prompts",
          ("", "value", "95 % interval", "n"), rows)  # fmt: skip
    failed = ", ".join(f"{kind} {count}" for kind, count in numbers["failures"].items()) or "none"
    split = ", ".join(f"{count} {name}" for name, count in numbers["pairs"].items())
    typer.echo(f"no verdict: {failed}; pairs: {split}")
    typer.echo(f"next: manners train reward --data {run.path / 'pairs'}")


def _cells(found: dict[str, Any]) -> tuple[str, str, str]:
    value, (low, high) = found["value"], found["ci"]
    shown = "–" if value is None else f"{value:.3f}"
    return shown, "–" if low is None or high is None else f"{low:.3f} to {high:.3f}", str(found["n"])


def _open(
    kind: str, settings: PreferConfig | JudgeQualityConfig, constitution: Constitution, named: dict[str, str], run: Path,
    resume: Path | None, accept_changes: bool, replace: bool,
) -> Run:  # fmt: skip
    file = "" if settings.constitution == DEFAULT else settings.constitution
    lineage = made_from(resume or run, constitution=file, **named)
    entry = lineage.get("constitution", {"path": DEFAULT})
    lineage["constitution"] = {**entry, "kind": "constitution", "hash": constitution.hash}
    if resume:
        return reopen(resume, kind, settings, lineage, accept_changes)[0]
    return Run.create(run, kind, settings, lineage, replace)


def _file(named: str) -> str:
    return "" if named in (STARTER, NONE) else named


def _writer(settings: PreferConfig, run: Path) -> tuple[Writer, Trunk | None]:
    """Who writes, and the trunk that the judge can use where it is the same model."""
    if settings.writer.named:
        return RemoteWriter(Endpoint(settings.writer, run)), None
    sampler = LocalSampler.of(settings.model, batch=settings.batch, say=say)
    same = settings.judge.model == settings.model and not settings.judge.endpoint.named
    return LocalWriter(sampler), sampler.trunk if same else None


def _checked(settings: PreferConfig, constitution: Constitution, judge: Judge, run: Run, retry: bool) -> dict[str, Any]:
    """The judge's quality, where it is to be checked. Raises MannersError for one that may not teach."""
    if settings.check_on == NONE:
        say("the judge is not checked on comparisons by people (check_on is none)")
        return {}
    pairs = some_of(compared_by_people(settings.check_on), settings.check, settings.seed)
    quality = judge_quality(judge, pairs, constitution.comparisons, Ledger(run.path / CHECKED), seed=settings.seed,
                            swap=settings.swap, batch=settings.batch, retry=retry, say=say, track=track)  # fmt: skip
    write_json(run.path / "judge.json", quality)
    for weakness in refuse_weak_judge(quality, settings):
        say(f"a weak judge teaches: it {weakness}")
    return quality
