"""`manners train dpo`: pairs, thumbs, or prompts and a judge, into one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manners.cli.data import made_from, prompts_for, read_split
from manners.cli.resume import reopen, source_of
from manners.cli.talk import track
from manners.config import load_config
from manners.errors import MannersError
from manners.feedback.thumbs import read_thumbs, split_thumbs
from manners.runs import Run
from manners.train.dpo import DPOConfig, Judged, train_dpo, train_online_dpo


def run_direct(
    config: Path | None, sets: Sequence[str], *, run: Path, data: Path | None, thumbs: Path | None, threshold: float | None,
    resume: Path | None, accept_changes: bool, replace: bool,
) -> tuple[Run, dict[str, Any]]:  # fmt: skip
    """Start the run, or go on with the one in `resume`, and train; gives it with the numbers that it came to."""
    settings = load_config(DPOConfig, resume / "config.yaml" if resume and not config else config, sets)
    if settings.online and not settings.reward.named:
        raise MannersError(
            "online, a judge prefers one of two answers, and none is named: set reward.model, reward.classifier or reward.function"
        )
    if settings.online and thumbs:
        raise MannersError("online, a judge says which answers are good; leave --thumbs out, or set online=false")
    if resume:
        data, thumbs = data or source_of(resume, "data"), thumbs or source_of(resume, "thumbs")
    needs_pairs = not thumbs and not (settings.online and settings.prompts)
    data = data or (Path("pairs") if needs_pairs else None)
    lineage = made_from(resume or run, data=data or "", thumbs=thumbs or "", **settings.sources)
    judged: tuple[Judged, Judged] = ((), ())
    if thumbs:
        judged = split_thumbs(read_thumbs(thumbs, threshold), settings.seed)
    elif not settings.online:
        assert data is not None, "pairs stand in for all that is not named"
        judged = read_split(data, "train"), read_split(data, "validation")
    asked = prompts_for(settings.prompts, data, settings.seed) if settings.online else ([], [])
    state = None
    if resume:
        made, state = reopen(resume, "dpo", settings, lineage, accept_changes)
    else:
        made = Run.create(run, "dpo", settings, lineage, replace)
    with made.guard():
        if settings.online:
            train_online_dpo(settings, *asked, made, track=track, state=state)
            return made, made.metrics()[-1]
        evaluation = train_dpo(settings, *judged, made, track=track, state=state)
        return made, evaluation.get("preferences", {})
