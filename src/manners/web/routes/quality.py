"""How good the judgements are: a page for reviewers and admins, and the same as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Depends
from starlette.responses import Response

from manners.feedback.batch import Batch
from manners.feedback.people import Session
from manners.feedback.quality import Quality, quality
from manners.web.doors import AnOffice, ASession, found, pages_for, program_at_least, show
from manners.web.office import Office

router = pages_for("reviewer")
api = APIRouter(prefix="/api", tags=["api"], dependencies=[Depends(program_at_least("reviewer"))])


@router.get("/admin/quality")
def quality_page(office: AnOffice, session: ASession) -> Response:
    return _page(office, session, None)


@router.get("/admin/batches/{batch_id}/quality")
def batch_quality_page(batch_id: str, office: AnOffice, session: ASession) -> Response:
    return _page(office, session, found(lambda: office.desk.batch(batch_id)))


@api.get("/quality")
def all_quality(office: AnOffice) -> Quality:
    """Agreement, biases and annotators, of everything that people judged."""
    return quality(office.store)


@api.get("/batches/{batch_id}/quality", responses={404: {"description": "there is no such batch"}})
def batch_quality(batch_id: str, office: AnOffice) -> Quality:
    """Agreement, biases and annotators of one batch."""
    return quality(office.store, found(lambda: office.desk.batch(batch_id)).id)


def _page(office: Office, session: Session, batch: Batch | None) -> Response:
    report = quality(office.store, batch.id if batch else "")
    return show(office, "admin/quality.html", session, batch=batch, report=report, names=_names(office, session),
                batches=office.desk.batches())  # fmt: skip


def _names(office: Office, session: Session) -> Mapping[str, str]:
    """Who is behind a pseudonym is for admins to know."""
    if not session.user.may("admin"):
        return {}
    return {user.id: user.name for user in office.people.everybody() if user.name}
