"""The annotator's pages: what there is to do, the ranking screen, and what was said so far."""

from __future__ import annotations

import secrets
from collections import defaultdict
from typing import Any

from fastapi import HTTPException, Request
from starlette.responses import JSONResponse, Response

from manners.errors import MannersError
from manners.feedback.assign import Task
from manners.feedback.guidelines import guideline
from manners.feedback.people import Session
from manners.feedback.submissions import (
    CRITERIA,
    FLAGS,
    SKIP_REASONS,
    ChangedElsewhereError,
    history,
    submit,
)
from manners.web.doors import AForm, AnOffice, ASession, found, go, pages_for, show
from manners.web.forms import Values, answer_of, begun, values_of
from manners.web.office import Office

router = pages_for("annotator")
_LABELS = "ABCDEFGHI"


@router.get("/")
def home(office: AnOffice, session: ASession) -> Response:
    user = session.user
    batches = [(b, office.desk.progress(b.id), office.desk.done(user.id, b.id)) for b in office.desk.batches(True)]
    return show(office, "home.html", session, batches=batches)


@router.post("/batches/{batch_id}/next")
def next_task(batch_id: str, office: AnOffice, session: ASession, form: AForm) -> Response:  # noqa: ARG001
    return go(_next(office, session, batch_id))


@router.get("/batches/{batch_id}/finished")
def finished(batch_id: str, office: AnOffice, session: ASession) -> Response:
    batch = found(lambda: office.desk.batch(batch_id))
    done = office.desk.done(session.user.id, batch_id)
    return show(office, "finished.html", session, batch=batch, done=done)


@router.get("/tasks/{task_id}")
def task_page(task_id: str, office: AnOffice, session: ASession) -> Response:
    task = found(lambda: office.desk.task(task_id, session.user.id))
    values, revises = begun(office.desk, task)
    return _task_page(office, session, task, values, revises)


@router.post("/tasks/{task_id}/draft")
def save_draft(task_id: str, office: AnOffice, session: ASession, form: AForm) -> Response:
    found(lambda: office.desk.save_draft(task_id, session.user.id, values_of(form)))
    return JSONResponse({"saved": True})


@router.post("/tasks/{task_id}")
def hand_in(task_id: str, request: Request, office: AnOffice, session: ASession, form: AForm) -> Response:
    """Take an answer. The script gets the address of the next task as JSON; without a script the browser is sent there."""
    task = found(lambda: office.desk.task(task_id, session.user.id))
    scripted = "application/json" in request.headers.get("accept", "")
    try:
        answer = answer_of(form, len(task.completions))
        with office.store.transaction():
            receipt = submit(office.store, task, answer, office.clock)
            place = "/history" if answer.revises else _next(office, session, task.batch.id)
    except ChangedElsewhereError as error:
        raise HTTPException(409, str(error)) from None
    except MannersError as error:
        if scripted:
            return JSONResponse({"error": str(error)}, 422)
        return _task_page(office, session, task, values_of(form), form.text("revises", 16), str(error))
    if scripted:
        return JSONResponse({"submission": receipt.submission_id, "known": receipt.known, "next": place})
    return go(place)


@router.get("/history")
def history_page(office: AnOffice, session: ASession) -> Response:
    return show(office, "history.html", session, rows=history(office.store, session.user.id, 200))


@router.get("/guidelines/{guideline_id}")
def guideline_page(guideline_id: str, office: AnOffice, session: ASession) -> Response:
    version = found(lambda: guideline(office.store, guideline_id))
    return show(office, "guideline.html", session, guideline=version)


def _next(office: Office, session: Session, batch_id: str) -> str:
    task_id = found(lambda: office.desk.next(session.user.id, batch_id))
    return f"/tasks/{task_id}" if task_id else f"/batches/{batch_id}/finished"


def _task_page(office: Office, session: Session, task: Task, values: Values, revises: str, error: str = "") -> Response:
    """The ranking screen, filled in with `values`."""
    answers: list[dict[str, Any]] = [
        {"place": place, "label": _LABELS[place], "text": completion.text, "finished": completion.finished}
        for place, completion in enumerate(task.completions)
    ]
    progress = office.desk.progress(task.batch.id)
    return show(
        office, "task.html", session, 422 if error else 200, task=task, batch=task.batch, answers=answers,
        values=defaultdict(str, values),
        revises=revises, error=error, client_key=secrets.token_urlsafe(16), criteria=CRITERIA, flags=FLAGS,
        skip_reasons=SKIP_REASONS, guideline=guideline(office.store, task.batch.guideline_id), progress=progress,
        done=office.desk.done(session.user.id, task.batch.id),
    )  # fmt: skip
