"""The admin's pages for batches: make one, watch it, close it, change its guideline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from anyio import to_thread
from starlette.responses import Response

from manners.errors import MannersError
from manners.feedback.batch import MODES, Batch, BatchSettings
from manners.feedback.guidelines import LONGEST, guideline, starter_guideline
from manners.feedback.importers.files import FORMATS
from manners.feedback.importers.rows import Reject
from manners.feedback.materials import Material, starter_materials, unjudged
from manners.feedback.people import Session
from manners.feedback.store import Store
from manners.feedback.submissions import standing
from manners.web.doors import AForm, AnOffice, ASession, Fields, found, go, pages_for, show
from manners.web.office import Office
from manners.web.routes.sampling import begin_sampling, validated
from manners.web.sampling import SampleSettings
from manners.web.uploads import uploaded

router = pages_for("admin")
_REJECTS_SHOWN = 20
_NUMBERS = ("overlap", "lease_minutes", "gold_share", "repeat_share", "active_share", "seed")


@router.get("/admin/batches")
def batches_page(office: AnOffice, session: ASession) -> Response:
    batches = [(b, office.desk.progress(b.id)) for b in office.desk.batches()]
    return show(office, "admin/batches.html", session, batches=batches, sampling=office.sampling.running())


@router.get("/admin/batches/new")
def new_batch_page(office: AnOffice, session: ASession) -> Response:
    return _form_page(office, session, {"name": "", "mode": "rank", "guideline": starter_guideline()})


@router.post("/admin/batches")
async def create_batch(office: AnOffice, session: ASession, form: AForm) -> Response:
    return await to_thread.run_sync(_create, office, session, form)


def _create(office: Office, session: Session, form: Fields) -> Response:
    try:
        settings = _settings(form)
        if form.text("source", 20) == "sample":
            return go(f"/admin/sampling/{begin_sampling(office, form, settings)}")
        results = list(_results(office.store, form))
        rejects = [r for r in results if isinstance(r, Reject)]
        materials = [m for m in results if isinstance(m, Material)]
        if not materials:
            raise MannersError(_nothing(rejects))
        batch = office.desk.create(settings, form.text("guideline", LONGEST), materials)
    except MannersError as error:
        kept = {name: form.text(name, LONGEST) for name in form.names() if name not in ("csrf", "file")}
        return _form_page(office, session, kept, str(error))
    if rejects:
        return _batch_page(office, session, batch, rejects)
    return go(f"/admin/batches/{batch.id}")


def _settings(form: Fields) -> BatchSettings:
    values: dict[str, Any] = {"name": form.text("name", 200).strip(), "mode": form.text("mode", 20)}
    values |= {name: text for name in _NUMBERS if (text := form.text(name, 20).strip())}
    return validated(BatchSettings, values)


def _results(store: Store, form: Fields) -> Iterable[Material | Reject]:
    match form.text("source", 20):
        case "starter":
            return starter_materials()
        case "store":
            return unjudged(store)
    upload = form.upload("file")
    if upload is None:
        raise MannersError("choose a file with prompts and answers")
    return uploaded(upload)


def _nothing(rejects: list[Reject]) -> str:
    if not rejects:
        return "there is nothing to judge there"
    return f"no row can be used; line {rejects[0].line}: {rejects[0].reason}"


@router.get("/admin/batches/{batch_id}")
def batch_page(batch_id: str, office: AnOffice, session: ASession) -> Response:
    return _batch_page(office, session, found(lambda: office.desk.batch(batch_id)), [])


@router.post("/admin/batches/{batch_id}/state")
def open_or_close(batch_id: str, office: AnOffice, form: AForm) -> Response:
    found(lambda: office.desk.set_open(batch_id, form.text("open", 5) == "1"))
    return go(f"/admin/batches/{batch_id}")


@router.post("/admin/batches/{batch_id}/guideline")
def change_guideline(batch_id: str, office: AnOffice, session: ASession, form: AForm) -> Response:
    batch = found(lambda: office.desk.batch(batch_id))
    try:
        office.desk.set_guideline(batch_id, form.text("guideline", LONGEST))
    except MannersError as error:
        return _batch_page(office, session, batch, [], str(error))
    return go(f"/admin/batches/{batch_id}")


def _form_page(office: Office, session: Session, values: dict[str, str], error: str = "") -> Response:
    waiting = sum(1 for _ in unjudged(office.store))
    fields = {name: field for name, field in BatchSettings.model_fields.items() if name in _NUMBERS}
    asked = {f"sample_{name}": field for name, field in SampleSettings.model_fields.items()}
    return show(
        office, "admin/new_batch.html", session, 422 if error else 200, values=defaultdict(str, values), error=error, modes=MODES,
        waiting=waiting, fields=fields, formats=FORMATS, asked=asked, can_sample=office.sampling.available(),
    )  # fmt: skip


def _batch_page(office: Office, session: Session, batch: Batch, rejects: list[Reject], error: str = "") -> Response:
    names = {user.id: user for user in office.people.everybody()}
    return show(
        office, "admin/batch.html", session, 422 if error else 200, batch=batch, progress=office.desk.progress(batch.id),
        guideline=guideline(office.store, batch.guideline_id), standing=standing(office.store, batch.id), names=names,
        rejects=rejects[:_REJECTS_SHOWN], rejected=len(rejects), error=error,
    )  # fmt: skip
