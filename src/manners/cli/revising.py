"""`manners constitution revise`: where its prompts come from, who writes, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from manners.cli.data import made_from, read_prompts
from manners.cli.resume import reopen
from manners.cli.talk import say, table, track
from manners.config import load_config
from manners.constitution.constitution import DEFAULT, Constitution
from manners.constitution.prompts import SHIPPED, apart, shipped, write_prompts
from manners.constitution.revise import DEMONSTRATIONS, ReviseConfig, revise
from manners.constitution.steps import GOOD, VERDICTS
from manners.constitution.writer import LocalWriter, Writer
from manners.errors import MannersError
from manners.evaluate.refusal import RefusalDetector
from manners.feedback.store import Store
from manners.records import Prompt
from manners.runs import Run, read_jsonl, write_jsonl
from manners.sampling.local import LocalSampler

WRITTEN = "written.jsonl"


def run_revise(
    config: Path | None, sets: Sequence[str], *, run: Path, resume: Path | None, accept_changes: bool, replace: bool
) -> tuple[Run, dict[str, Any]]:
    """Start a run, or go on with the one in `resume`; gives it with its evaluation."""
    settings = load_config(ReviseConfig, resume / "config.yaml" if resume and not config else config, sets)
    constitution = Constitution.load(settings.constitution)
    asked, helpful = prompts_of(settings)
    lineage = sources_of(settings, constitution, resume or run)
    if resume:
        made, _ = reopen(resume, "revise", settings, lineage, accept_changes)
    else:
        made = Run.create(run, "revise", settings, lineage, replace)
    with made.guard():
        writer = LocalWriter(LocalSampler.of(settings.model, batch=settings.batch, say=say))
        if settings.written:
            asked = [*asked, *_written(settings, asked, helpful, writer, made)]
        numbers = revise(
            settings, constitution, asked, helpful, writer, made, refuses=refuses_fully, track=track
        )  # fmt: skip
    return made, numbers


def refuses_fully(text: str) -> bool:
    """Whether a text refuses and gives nothing of what was asked."""
    return RefusalDetector.load().judge(text).kind == "full_refusal"


def prompts_of(settings: ReviseConfig) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts to revise answers to and the helpful ones: those to be learned from, in training and validation splits. None is in
    both, and none says what a prompt of a test split says."""
    if settings.database:
        with Store.open(settings.database, create=False) as store:
            asked = list(store.prompts())
    else:
        asked = named_prompts(settings.prompts)
    asked = [prompt for prompt in asked if not settings.category or prompt.category == settings.category]
    split = apart(asked, settings.seed, test=0)
    helpful = named_prompts(settings.helpful) if settings.helpful else []
    helpful_split = apart(helpful, settings.seed, test=0, taken=[p for own in split.values() for p in own])
    training = split["train"] + split["validation"]
    if not training:
        raise MannersError(
            "there are no prompts to revise answers to: all are in a test split, or of another --category"
        )
    return training, helpful_split["train"] + helpful_split["validation"]


def named_prompts(name: str) -> list[Prompt]:
    """The prompts of the package that go by this name, or those of a file."""
    for known in SHIPPED:
        if name == known:
            return shipped(known)
    return read_prompts(Path(name))


def sources_of(settings: ReviseConfig, constitution: Constitution, run: Path) -> dict[str, Any]:
    """The lineage: files by path and hash; what comes with the package by name."""
    files = {
        "prompts": "" if settings.database or settings.prompts in SHIPPED else settings.prompts,
        "helpful": "" if settings.helpful in SHIPPED else settings.helpful,
        "constitution": "" if settings.constitution == DEFAULT else settings.constitution,
        "model": settings.model,
    }
    lineage = made_from(run, **files)
    if settings.database:
        with Store.open(settings.database, create=False) as store:
            lineage["prompts"] = {"path": "feedback store", "kind": "judgements", "hash": store.content_hash()}
    entry = lineage.get("constitution", {"path": DEFAULT})
    lineage["constitution"] = {**entry, "kind": "constitution", "hash": constitution.hash}
    return lineage


def _written(
    settings: ReviseConfig, asked: Sequence[Prompt], helpful: Sequence[Prompt], writer: Writer, run: Run
) -> list[Prompt]:
    """Prompts that the model writes in the style of those `asked`, once for the run."""
    path = run.path / WRITTEN
    if path.exists():
        return [Prompt.from_json(row) for row in read_jsonl(path)]
    found = write_prompts(writer, asked, settings.written, seed=settings.seed, known=[*helpful, *_held_out(settings)])
    say(f"{len(found.prompts)} prompts written, {found.repeated} repeated others, {found.unfit} were no usable prompt")
    write_jsonl(path, (prompt.to_json() for prompt in found.prompts))
    return found.prompts


def _held_out(settings: ReviseConfig) -> list[Prompt]:
    named = [] if settings.database else named_prompts(settings.prompts)
    named += named_prompts(settings.helpful) if settings.helpful else []
    return [prompt for prompt in named if prompt.split == "test"]


def table_of(run: Run, numbers: Mapping[str, Any]) -> None:
    """What came of it, on stdout."""
    kinds = [kind for kind in VERDICTS if any(kind in row["verdicts"] for row in numbers["rounds"])]
    rows = [
        (row["round"], *(row["verdicts"].get(kind, 0) for kind in kinds), _share(row["boilerplate"]), _share(row["preaching"]))
        for row in numbers["rounds"]
    ]  # fmt: skip
    title = f"{run.path}: {numbers['accepted']} of {numbers['revisions']} revisions accepted ({' or '.join(GOOD)})"
    table(title, ("round", *kinds, "stock phrases", "preaching"), rows)
    typer.echo(
        f"{numbers['demonstrations']} demonstrations; next, manners train sft --data {run.path / DEMONSTRATIONS}"
    )


def _share(found: Mapping[str, Any]) -> str:
    return "–" if found["value"] is None else f"{100 * found['value']:.0f} %"
