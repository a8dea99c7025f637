"""The arena: admins let two models meet, annotators vote blindly on the ranking screen, reviewers read what the votes say."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Depends
from starlette.responses import Response

from manners.errors import MannersError
from manners.feedback.arena import MEAN, Answers, Arena, answers_in, arena, models_in, pair_up
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.estimates import Estimate
from manners.feedback.guidelines import LONGEST, starter_guideline
from manners.feedback.importers.files import FORMATS, unstorable
from manners.feedback.importers.rows import Reject
from manners.feedback.people import Session
from manners.web.doors import AForm, AnOffice, ASession, Fields, found, go, pages_for, program_at_least, show
from manners.web.office import Office
from manners.web.routes.sampling import validated
from manners.web.uploads import uploaded

router = pages_for("reviewer")
making = pages_for("admin")
api = APIRouter(prefix="/api", tags=["api"], dependencies=[Depends(program_at_least("reviewer"))])
_FILES = ("first", "second")
_NUMBERS = ("overlap", "repeat_share", "seed")


@router.get("/arena")
def arena_page(office: AnOffice, session: ASession) -> Response:
    """All arenas, and what the votes of all of them say together."""
    return _page(office, session, None)


@router.get("/arena/{batch_id}")
def one_arena_page(batch_id: str, office: AnOffice, session: ASession, alike: int = 0, alone: int = 0) -> Response:
    """`alike` and `alone` say what was left out when the batch was made."""
    left_out = [f"{n} {words}" for n, words in ((alike, "pairs of answers that say the same"), (alone, "prompts without an opponent"))
                if 0 < n < 10**9]  # fmt: skip
    notice = f"Left out: {' and '.join(left_out)}." if left_out else ""
    return _page(office, session, found(lambda: office.desk.batch(batch_id)), notice)


@api.get("/arena")
def all_votes(office: AnOffice) -> Arena:
    """Which model people prefer, by the votes of all batches of mode pair."""
    return arena(office.store)


@api.get("/batches/{batch_id}/arena", responses={404: {"description": "there is no such batch"}})
def votes_of_batch(batch_id: str, office: AnOffice) -> Arena:
    """Which model people prefer, by the votes of one batch."""
    return arena(office.store, found(lambda: office.desk.batch(batch_id)).id)


@making.get("/admin/arena/new")
def new_arena_page(office: AnOffice, session: ASession) -> Response:
    return _form_page(office, session, {"guideline": starter_guideline()}, [])


@making.post("/admin/arena")
async def create_arena(office: AnOffice, session: ASession, form: AForm) -> Response:
    return await to_thread.run_sync(_create, office, session, form)


def _create(office: Office, session: Session, form: Fields) -> Response:
    try:
        values: dict[str, Any] = {"name": form.text("name", 200).strip(), "mode": "pair", "gold_share": 0.0}
        settings = validated(BatchSettings, values | {n: text for n in _NUMBERS if (text := form.text(n, 20).strip())})
        answers, models = _answers(office, form)
        pairings = pair_up(answers, models, settings.seed, _most(form))
        batch = office.desk.create(settings, form.text("guideline", LONGEST), pairings.materials)
    except MannersError as error:
        kept = {name: form.text(name, LONGEST) for name in form.names() if name not in ("csrf", "model", *_FILES)}
        return _form_page(office, session, kept, form.texts("model", 400), str(error))
    return go(f"/arena/{batch.id}?alike={pairings.alike}&alone={pairings.alone}")


def _most(form: Fields) -> int | None:
    text = form.text("most", 8).strip()
    if text and not (text.isascii() and text.isdigit() and int(text)):
        raise MannersError("most: a whole number from 1, or nothing for all there are")
    return int(text) if text else None


def _answers(office: Office, form: Fields) -> tuple[Answers, Sequence[str]]:
    """The answers that are to be compared, and the models they are by."""
    if form.text("source", 20) != "files":
        models = list(dict.fromkeys(form.texts("model", 400)))
        return answers_in(office.store, models), models
    answers = [pair for place in _FILES for pair in _of_file(form, place)]
    models = sorted({completion.model for _, completions in answers for completion in completions})
    if len(models) < 2:
        raise MannersError(f"both files hold answers of {models[0]}; give the models names to tell them apart")
    return answers, models


def _of_file(form: Fields, place: str) -> Answers:
    upload, name = form.upload(place), form.text(f"{place}_name", 200).strip()
    if upload is None:
        raise MannersError(f"choose the {place} file")
    if reason := unstorable([name]):
        raise MannersError(reason)
    rows = uploaded(upload)
    bad = next((row for row in rows if isinstance(row, Reject)), None)
    if bad is not None:
        raise MannersError(f"line {bad.line} of the {place} file: {bad.reason}")
    made = []
    for material in rows:
        assert not isinstance(material, Reject)
        answers = [replace(c, model=name or c.model) for c in material.completions]
        if not all(c.model for c in answers):
            raise MannersError(f"the {place} file does not say which model its answers are by; give it a name")
        made.append((material.prompt, answers))
    if not made:
        raise MannersError(f"the {place} file is empty")
    return made


def _form_page(
    office: Office, session: Session, values: dict[str, str], chosen: Sequence[str], error: str = ""
) -> Response:  # fmt: skip
    fields = {name: BatchSettings.model_fields[name] for name in _NUMBERS}
    return show(office, "admin/new_arena.html", session, 422 if error else 200, values=defaultdict(str, values), chosen=chosen,
                error=error, models=models_in(office.store), fields=fields, formats=FORMATS, files=_FILES)  # fmt: skip


def _page(office: Office, session: Session, batch: Batch | None, notice: str = "") -> Response:
    report = arena(office.store, batch.id if batch else "")
    batches = [other for other in office.desk.batches() if other.settings.mode == "pair"]
    low, high, steps = _scale([e for s in report.standings for e in (s.score, s.at_equal_length)])
    return show(office, "arena.html", session, batch=batch, report=report, batches=batches, notice=notice, mean=MEAN, low=low,
                high=high, steps=steps, progress=office.desk.progress(batch.id) if batch else None)  # fmt: skip


def _scale(estimates: Sequence[Estimate]) -> tuple[float, float, Sequence[float]]:
    """From where to where the plot goes, around all intervals and the mean, and its grid: at most seven lines."""
    ends = [end for e in estimates for end in (e.low, e.high) if end is not None] + [MEAN - 50, MEAN + 50]
    step = 50 * 2 ** max(0, math.ceil(math.log2(max(1.0, (max(ends) - min(ends)) / 250))))
    low, high = step * math.floor(min(ends) / step), step * math.ceil(max(ends) / step)
    # A little more to both sides: the numbers at the ends are as wide as they are.
    margin = 0.05 * (high - low)
    return low - margin, high + margin, [low + step * k for k in range(round((high - low) / step) + 1)]
