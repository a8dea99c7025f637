"""What was collected, as files: for us, for a spreadsheet, for other programs."""

from __future__ import annotations

from fastapi import APIRouter, Depends, HTTPException
from starlette.responses import Response, StreamingResponse

from manners.feedback.exports import EXPORTS
from manners.web.doors import AnOffice, ASession, found, pages_for, program_at_least, show
from manners.web.office import Office

router = pages_for("reviewer")
programs = APIRouter(prefix="/api/exports", tags=["api"], dependencies=[Depends(program_at_least("reviewer"))])


@router.get("/exports")
def exports_page(office: AnOffice, session: ASession, batch: str = "") -> Response:
    chosen = found(lambda: office.desk.batch(batch)).id if batch else ""
    return show(office, "exports.html", session, exports=EXPORTS, batches=office.desk.batches(), chosen=chosen)


@router.get("/exports/{name}")
def download(name: str, office: AnOffice, batch: str = "") -> Response:
    return _file(name, office, batch)


@programs.get("")
def list_exports() -> dict[str, str]:
    """The layouts there are, and what each is for."""
    return {name: export.about for name, export in EXPORTS.items()}


@programs.get(
    "/{name}",
    response_class=StreamingResponse,
    responses={
        200: {"description": "the file", "content": {"text/plain": {}}},
        401: {"description": "no valid token"},
        403: {"description": "the token's role may not do this"},
        404: {"description": "there is no such layout or batch"},
    },
)
def export(name: str, office: AnOffice, batch: str = "") -> Response:
    """Everything that was judged, or what was judged in one batch, in one of the layouts."""
    return _file(name, office, batch)


def _file(name: str, office: Office, batch: str) -> Response:
    export = EXPORTS.get(name)
    if export is None:
        raise HTTPException(404, f"there is no export {name[:40]!r}; there are {', '.join(EXPORTS)}")
    if batch:
        found(lambda: office.desk.batch(batch))
    lines = (line.encode("utf-8") for line in export.lines(office.store, batch))
    return StreamingResponse(
        lines, media_type=export.type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )
