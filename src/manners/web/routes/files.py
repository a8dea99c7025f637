"""Files of our own, the description of the API, and whether the server lives."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import JSONResponse, Response

from manners.web.doors import AnOffice, AVisitor, show

router = APIRouter(include_in_schema=False)


@router.get("/static/{name}")
def asset(name: str, office: AnOffice) -> Response:
    known = office.assets.get(name)
    if known is None:
        raise HTTPException(404, "there is no such file")
    return Response(
        known.content, media_type=known.type, headers={"Cache-Control": "public, max-age=31536000, immutable"}
    )


@router.get("/health")
def health() -> Response:
    return JSONResponse({"status": "ok"})


@router.get("/docs")
def docs_page(request: Request, office: AnOffice, visitor: AVisitor) -> Response:
    """The API on a page of our own: the usual viewers load scripts from elsewhere, which our policy forbids."""
    return show(office, "docs.html", visitor, api=request.app.openapi())
