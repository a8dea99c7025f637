"""`manners train ilql`: judgements or scored answers into one run, or on with one that was cut short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manners.cli.data import made_from, read_split
from manners.cli.resume import reopen, source_of
from manners.cli.talk import track
from manners.config import load_config
from manners.feedback.answers import answered_in, read_answers
from manners.feedback.pairs import prompts_of
from manners.runs import Run
from manners.train.ilql import ILQLConfig, train_ilql


def run_offline(
    config: Path | None, sets: Sequence[str], *, run: Path, data: Path | None, answers: Path | None, resume: Path | None,
    accept_changes: bool, replace: bool,
) -> tuple[Run, dict[str, Any]]:  # fmt: skip
    """Start the run, or go on with the one in `resume`, and train; gives it with the numbers of its last step.

    Training answers are those of the pairs in `data`, or those in the file `answers`; held-out prompts are the validation split of
    `data`, where it is named.
    """
    settings = load_config(ILQLConfig, resume / "config.yaml" if resume and not config else config, sets)
    if resume:
        data, answers = data or source_of(resume, "data"), answers or source_of(resume, "answers")
    data = data or (None if answers else Path("pairs"))
    lineage = made_from(resume or run, data=data or "", answers=answers or "", **settings.sources)
    if answers:
        answered = read_answers(answers)
    else:
        assert data is not None, "pairs stand in for all that is not named"
        answered = answered_in(read_split(data, "train"))
    held = prompts_of(read_split(data, "validation")) if data and settings.evaluate_prompts else []
    state = None
    if resume:
        made, state = reopen(resume, "ilql", settings, lineage, accept_changes)
    else:
        made = Run.create(run, "ilql", settings, lineage, replace)
    with made.guard():
        train_ilql(settings, answered, held, made, track=track, state=state)
    return made, made.metrics()[-1]
