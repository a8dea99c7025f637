"""The API for programs: send prompts and answers in, fetch judgements and pairs; or judge, from a program of one's own.

Every call carries a token as `Authorization: Bearer TOKEN`. Lists go page by page: ask again with `after` set to `next` until
`next` is null.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from manners.errors import MannersError
from manners.feedback.assign import Task
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.exports import preference_row, submissions
from manners.feedback.guidelines import guideline, starter_guideline
from manners.feedback.importers.files import unstorable
from manners.feedback.materials import Material, material_of
from manners.feedback.pairs import pairs_of
from manners.feedback.submissions import Answer, ChangedElsewhereError, submit
from manners.web.doors import AnOffice, AProgram, found, program_at_least
from manners.web.office import Office

router = APIRouter(prefix="/api", tags=["api"])
_Admin = [Depends(program_at_least("admin"))]
_Reviewer = [Depends(program_at_least("reviewer"))]
_Annotator = [Depends(program_at_least("annotator"))]
_MOST_ITEMS = 5_000


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewBatch(Model):
    """A batch with its items."""

    settings: BatchSettings
    guideline: str = Field(
        default="", max_length=100_000, description="Markdown; empty: the one that comes with the program"
    )
    items: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=_MOST_ITEMS,
        description='each {"prompt": ..., "completions": [...]}, with gold and priority if known',
    )


class BatchState(Model):
    id: str
    settings: BatchSettings
    open: bool
    created_at: str
    items: int
    gold: int
    wanted: int
    judged: int
    skipped: int


class Me(Model):
    id: str
    name: str
    role: str


class OneTask(Model):
    """An item to judge. `answers` stand in the order of the screen; an answer is named by its place, from 0."""

    id: str
    batch: str
    mode: str
    messages: list[dict[str, str]]
    answers: list[str]
    guideline_id: str
    guideline: str
    leased_until: str


class Next(Model):
    task: OneTask | None


class Stored(Model):
    submission: str
    ranking: str | None
    known: bool


class Page(Model):
    """`next` is what to send as `after` for the page that follows; null at the end."""

    rows: list[dict[str, Any]]
    next: int | None


class Problem(BaseModel):
    """What is wrong: a sentence, or a list of the fields that were not understood."""

    detail: str | list[dict[str, Any]]


_After = Annotated[int, Query(ge=0, lt=2**31, description="the `next` of the page before")]
_Limit = Annotated[int, Query(ge=1, le=1000)]
_Problem: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "no valid token"},
    403: {"model": Problem, "description": "the token's role may not do this"},
    404: {"model": Problem, "description": "there is no such thing"},
    422: {"model": Problem, "description": "not understood, or not to be carried out"},
}


@router.get("/me", dependencies=_Annotator, responses=_Problem)
def me(user: AProgram) -> Me:
    """Whose token this is."""
    return Me(id=user.id, name=user.name, role=user.role)


@router.get("/batches", dependencies=_Annotator, responses=_Problem)
def batches(office: AnOffice, user: AProgram) -> list[BatchState]:
    """All batches; for annotators the open ones."""
    return [_state(office, b) for b in office.desk.batches(only_open=not user.may("reviewer"))]


@router.post("/batches", status_code=201, dependencies=_Admin, responses=_Problem)
def create(new: NewBatch, office: AnOffice) -> BatchState:
    """Make a batch. One item that cannot be used is enough to turn the whole request away; the answer says which and why."""
    materials = [_material(item, place) for place, item in enumerate(new.items)]
    if reason := unstorable([new.guideline, new.settings.name]):
        raise HTTPException(422, reason)
    try:
        batch = office.desk.create(new.settings, new.guideline.strip() or starter_guideline(), materials)
    except MannersError as error:
        raise HTTPException(422, str(error)) from None
    return _state(office, batch)


@router.get("/batches/{batch_id}", dependencies=_Reviewer, responses=_Problem)
def batch(batch_id: str, office: AnOffice) -> BatchState:
    """One batch, and how far it is."""
    return _state(office, found(lambda: office.desk.batch(batch_id)))


@router.post("/batches/{batch_id}/next", dependencies=_Annotator, responses=_Problem)
def next_task(batch_id: str, office: AnOffice, user: AProgram) -> Next:
    """Lease the next item to the token's person; null when nothing is left."""
    task_id = found(lambda: office.desk.next(user.id, batch_id))
    return Next(task=_task(office, office.desk.task(task_id, user.id)) if task_id else None)


@router.post(
    "/tasks/{task_id}",
    dependencies=_Annotator,
    responses={**_Problem, 409: {"model": Problem, "description": "answered elsewhere"}},
)
def hand_in(task_id: str, answer: Answer, office: AnOffice, user: AProgram) -> Stored:
    """Judge a task. The same `client_key` again changes nothing, so a request may be repeated until it is answered."""
    task = found(lambda: office.desk.task(task_id, user.id))
    if reason := unstorable([answer.note, answer.edited, answer.skip_reason]):
        raise HTTPException(422, reason)
    try:
        receipt = submit(office.store, task, answer, office.clock)
    except ChangedElsewhereError as error:
        raise HTTPException(409, str(error)) from None
    except MannersError as error:
        raise HTTPException(422, str(error)) from None
    return Stored(submission=receipt.submission_id, ranking=receipt.ranking_id, known=receipt.known)


@router.get("/submissions", dependencies=_Reviewer, responses=_Problem)
def submission_log(office: AnOffice, after: _After = 0, limit: _Limit = 200) -> Page:
    """Everything that was handed in, the oldest first."""
    rows = list(submissions(office.store, after=after, limit=limit))
    return Page(rows=rows, next=rows[-1]["sequence"] if len(rows) == limit else None)


@router.get("/pairs", dependencies=_Reviewer, responses=_Problem)
def pairs(office: AnOffice, after: _After = 0, limit: _Limit = 200) -> Page:
    """The pairs of `limit` judgements that hold now: prompt, chosen, rejected as messages."""
    events = list(islice(office.store.events(current_only=True, after=after), limit))
    rows = [
        {**preference_row(p.prompt, p.chosen, p.rejected), "weight": p.weight, "margin": p.margin, "ranking": p.ranking_id,
         "judge": event.judgement.ranking.judge}
        for event in events for p in pairs_of(event.judgement)
    ]  # fmt: skip
    return Page(rows=rows, next=events[-1].sequence if len(events) == limit else None)


def _material(item: dict[str, Any], place: int) -> Material:
    if reason := unstorable(item):
        raise HTTPException(422, f"item {place}: {reason}")
    try:
        return material_of(item)
    except ValueError as error:
        raise HTTPException(422, f"item {place}: {error}") from None


def _state(office: Office, batch: Batch) -> BatchState:
    p = office.desk.progress(batch.id)
    return BatchState(id=batch.id, settings=batch.settings, open=batch.open, created_at=batch.created_at, items=p.items,
                      gold=p.gold, wanted=p.wanted, judged=p.judged, skipped=p.skipped)  # fmt: skip


def _task(office: Office, task: Task) -> OneTask:
    version = guideline(office.store, task.batch.guideline_id)
    messages = [{"role": m.role, "content": m.content} for m in task.prompt.messages]
    return OneTask(id=task.id, batch=task.batch.id, mode=task.batch.settings.mode, messages=messages,
                   answers=[c.text for c in task.completions], guideline_id=version.id, guideline=version.text,
                   leased_until=task.leased_until)  # fmt: skip
