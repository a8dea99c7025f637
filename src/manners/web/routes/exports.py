"""What was collected, as files: for us, for a spreadsheet, for other programs."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.responses import Response, StreamingResponse

from manners.feedback.exports import EXPORTS
from manners.web.doors import AnOffice, ASession, found, pages_for, show

router = pages_for("reviewer")


@router.get("/exports")
def exports_page(office: AnOffice, session: ASession) -> Response:
    return show(office, "exports.html", session, exports=EXPORTS, batches=office.desk.batches())


@router.get("/exports/{name}")
def download(name: str, office: AnOffice, batch: str = "") -> Response:
    export = EXPORTS.get(name)
    if export is None:
        raise HTTPException(404, f"there is no export {name[:40]!r}; there are {', '.join(EXPORTS)}")
    if batch:
        found(lambda: office.desk.batch(batch))
    lines = (line.encode("utf-8") for line in export.lines(office.store, batch))
    return StreamingResponse(
        lines, media_type=export.type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )
