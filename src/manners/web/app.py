"""The app: routes behind the shield, and what people read when something is wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from itsdangerous import TimestampSigner
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

import manners
from manners.errors import MannersError
from manners.feedback.assign import Desk
from manners.feedback.clock import Clock, now
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.web.assets import Assets
from manners.web.doors import SignInError, office_of, show
from manners.web.office import Office, WebSettings
from manners.web.passwords import Passwords, Throttle
from manners.web.rendering import environment
from manners.web.routes import (
    account,
    api,
    arena,
    batches,
    constitution,
    exports,
    files,
    people,
    quality,
    review,
    sampling,
    work,
)
from manners.web.sampling import Sampling
from manners.web.shield import Shield


class AsciiResponse(JSONResponse):
    """JSON in which every other character is escaped: what is said of a broken text may quote it, half a surrogate pair and all."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode("ascii")


def create_app(
    store: Store, settings: WebSettings = WebSettings(), passwords: Passwords | None = None, clock: Clock = now
) -> FastAPI:
    """The app over an open store, which stays the caller's to close. `clock` gives seconds since 1970."""
    desk = Desk(store, clock)
    sampler = Sampling(desk)

    @asynccontextmanager
    async def open_hours(_: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(sampler.close)

    app = FastAPI(title="manners", version=manners.__version__, summary="Collect people's judgements of a model's answers.",
                  description=api.__doc__ or "", docs_url=None, redoc_url=None, lifespan=open_hours)  # fmt: skip
    app.state.office = Office(
        store=store,
        settings=settings,
        people=(accounts := People(store, clock)),
        desk=desk,
        passwords=passwords or Passwords(),
        throttle=Throttle(clock=clock),
        templates=environment(),
        assets=Assets(),
        sampling=sampler,
        signer=TimestampSigner(accounts.secret(), salt="manners.web"),
        clock=clock,
    )
    for router in (
        files.router,
        account.outside,
        account.inside,
        work.router,
        exports.router,
        batches.router,
        sampling.router,
        people.router,
        quality.router,
        review.router,
        constitution.router,
        arena.router,
        arena.making,
    ):
        app.include_router(router)
    app.include_router(api.router)
    app.include_router(exports.programs)
    app.include_router(quality.api)
    app.include_router(arena.api)
    app.add_exception_handler(SignInError, _to_login)
    app.add_exception_handler(StarletteHTTPException, _error_page)
    app.add_exception_handler(MannersError, _unavailable)
    app.add_exception_handler(RequestValidationError, _not_understood)
    limits = {
        "/admin/batches": settings.upload_bytes,
        "/admin/arena": settings.upload_bytes,
        "/api/batches": settings.call_bytes,
    }
    app.add_middleware(Shield, limit=settings.body_bytes, limits=limits, secure=settings.secure)
    return app


async def _to_login(request: Request, _: Exception) -> Response:
    if request.method == "GET" and "application/json" not in request.headers.get("accept", ""):
        return RedirectResponse("/login", 303)
    return JSONResponse({"error": "You were signed out. Sign in in another tab; what you wrote is kept here."}, 401)


async def _error_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    if request.url.path.startswith("/api/"):
        return AsciiResponse({"detail": error.detail}, error.status_code, error.headers)
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)
    heading = HTTPStatus(error.status_code).phrase
    words = "" if error.detail == heading else str(error.detail)
    response = show(office_of(request), "error.html", None, error.status_code, heading=heading, words=words)
    response.headers.update(error.headers or {})
    return response


async def _not_understood(_: Request, error: Exception) -> Response:
    """Where a request of a program is wrong. What it sent is not sent back: it may be no text at all."""
    assert isinstance(error, RequestValidationError)
    detail = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in error.errors()]
    return AsciiResponse(jsonable_encoder({"detail": detail}), 422)


async def _unavailable(request: Request, error: Exception) -> Response:
    """The store is busy or gone: nothing was kept, and the person may try again."""
    return await _error_page(request, HTTPException(503, str(error), {"Retry-After": "5"}))
