"""Who is at the door: sessions, roles, and the token that our own forms carry.

Every page router is made by `pages_for`, which names the least role that may enter. A route that changes something asks for
`Form`, which is handed over only after the form's token was found to be the session's.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from itsdangerous import BadSignature, SignatureExpired
from markupsafe import Markup
from starlette.datastructures import FormData, UploadFile
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from manners.errors import MannersError
from manners.feedback.people import SESSION_SECONDS, Role, Session, User
from manners.web.office import Office
from manners.web.rendering import page

T = TypeVar("T")

_FORM_SECONDS = 3600
_FORM_COOKIE = "manners_form"


class SignInError(Exception):
    """Nobody is signed in, and somebody has to be."""


class Fields:
    """The texts of a form. What no database can keep is turned away here, for all forms alike."""

    def __init__(self, form: FormData) -> None:
        self._form = form

    def text(self, name: str, longest: int = 10_000) -> str:
        """The value of that name, empty where there is none. Raises HTTPException for a text that is none or too long."""
        return _checked(name, self._form.get(name, ""), longest)

    def texts(self, name: str, longest: int = 100) -> list[str]:
        return [_checked(name, value, longest) for value in self._form.getlist(name)]

    def upload(self, name: str) -> UploadFile | None:
        value = self._form.get(name)
        return value if isinstance(value, UploadFile) and value.filename else None

    def names(self) -> Sequence[str]:
        return list(self._form.keys())


def _checked(name: str, value: Any, longest: int) -> str:
    if not isinstance(value, str):
        raise HTTPException(400, f"{name} must be text")
    if len(value) > longest:
        raise HTTPException(413, f"{name} is longer than {longest} characters")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise HTTPException(400, f"{name} holds a character that is none")
    return value


def office_of(request: Request) -> Office:
    office: Office = request.app.state.office
    return office


AnOffice = Annotated[Office, Depends(office_of)]


def session_of(request: Request, office: AnOffice) -> Session | None:
    """Who sends this request, if somebody is signed in."""
    token = _unsigned(office, request.cookies.get(_session_cookie(office), ""), SESSION_SECONDS)
    return office.people.session(token) if token else None


AVisitor = Annotated[Session | None, Depends(session_of)]


def signed_in(visitor: AVisitor) -> Session:
    if visitor is None:
        raise SignInError
    return visitor


ASession = Annotated[Session, Depends(signed_in)]


async def checked_form(request: Request, session: ASession) -> AsyncIterator[Fields]:
    """The form, once its token is the session's own."""
    async with _form(request) as form:
        _compare(request.headers.get("x-csrf-token") or form.get("csrf"), session.csrf)
        yield Fields(form)


AForm = Annotated[Fields, Depends(checked_form)]


async def outside_form(request: Request, office: AnOffice) -> AsyncIterator[Fields]:
    """The form of somebody who is not signed in: its token must be the one in the signed cookie that came with the page."""
    async with _form(request) as form:
        _compare(form.get("csrf"), _unsigned(office, request.cookies.get(_FORM_COOKIE, ""), _FORM_SECONDS))
        yield Fields(form)


OutsideForm = Annotated[Fields, Depends(outside_form)]


def _form(request: Request) -> AbstractAsyncContextManager[FormData]:
    """The form of a request, empty where the body is none. The parser's limits keep it small."""
    return request.form(max_files=2, max_fields=200, max_part_size=256 * 1024)


def _compare(given: Any, expected: str) -> None:
    if not expected or not isinstance(given, str) or not secrets.compare_digest(given.encode(), expected.encode()):
        raise HTTPException(403, "This page was open for too long. Go back, load it again, and repeat what you did.")


def at_least(role: Role) -> Callable[[Session], Session]:
    """A guard that lets in whoever has that role or a higher one."""

    def guard(session: ASession) -> Session:
        if not session.user.may(role):
            raise HTTPException(403, f"This page is for the role {role}; yours is {session.user.role}.")
        return session

    return guard


def pages_for(role: Role) -> APIRouter:
    """A router of pages that only people of that role, or a higher one, may enter."""
    return APIRouter(dependencies=[Depends(at_least(role))], include_in_schema=False)


_BEARER = HTTPBearer(auto_error=False, description="a token from your account page")


def program_of(office: AnOffice, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> User:
    """The person whose token a program shows. Cookies count for nothing here, so no other site can use them."""
    user = office.people.by_token(given.credentials) if given else None
    if user is None:
        raise HTTPException(401, "give a valid token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
    return user


AProgram = Annotated[User, Depends(program_of)]


def program_at_least(role: Role) -> Callable[[User], User]:
    def guard(user: AProgram) -> User:
        if not user.may(role):
            raise HTTPException(403, f"this needs the role {role}; the token's is {user.role}")
        return user

    return guard


# Cookies


def _session_cookie(office: Office) -> str:
    # Browsers keep a cookie of that name only when it is secure and for this very host.
    return "__Host-manners" if office.settings.secure else "manners_session"


def sign_in(office: Office, response: Response, user: User) -> None:
    """Start a new session; whatever the browser held before means nothing any more."""
    token = office.signer.sign(office.people.start_session(user.id)).decode()
    response.set_cookie(_session_cookie(office), token, max_age=int(SESSION_SECONDS), path="/", secure=office.settings.secure,
                        httponly=True, samesite="lax")  # fmt: skip
    response.delete_cookie(_FORM_COOKIE, path="/", secure=office.settings.secure, httponly=True, samesite="lax")


def sign_out(office: Office, request: Request, response: Response) -> None:
    """End the session of this browser, at both ends."""
    token = _unsigned(office, request.cookies.get(_session_cookie(office), ""), SESSION_SECONDS)
    if token:
        office.people.end_session(token)
    response.delete_cookie(
        _session_cookie(office), path="/", secure=office.settings.secure, httponly=True, samesite="lax"
    )


def outside_page(office: Office, request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page with a form for somebody who is not signed in, with the cookie that its token is compared with."""
    token = _unsigned(office, request.cookies.get(_FORM_COOKIE, ""), _FORM_SECONDS) or secrets.token_urlsafe(24)
    response = show(office, template, None, status, token=_token_field(token), **values)
    response.set_cookie(_FORM_COOKIE, office.signer.sign(token).decode(), max_age=_FORM_SECONDS, path="/",
                        secure=office.settings.secure, httponly=True, samesite="lax")  # fmt: skip
    return response


def _unsigned(office: Office, value: str, seconds: float) -> str:
    try:
        return office.signer.unsign(value, max_age=int(seconds)).decode()
    except (BadSignature, SignatureExpired, UnicodeDecodeError):
        return ""


# Answers


def show(office: Office, template: str, session: Session | None, status: int = 200, **values: Any) -> HTMLResponse:
    """A page. `session` gives it the name at the top and the token of its forms."""
    known: dict[str, Any] = {
        "user": session.user if session else None,
        "asset": office.assets.url,
        "error": "",
        "notice": "",
        "revisions": office.settings.revisions is not None,
    }
    if session:
        known["token"] = _token_field(session.csrf)
    return HTMLResponse(page(office.templates, template, {**known, **values}), status)


def _token_field(token: str) -> Callable[[], Markup]:
    return lambda: Markup('<input type="hidden" name="csrf" value="{}">').format(token)


def as_file(name: str, value: Any) -> JSONResponse:
    """JSON that a browser keeps as a file of that name, one of ours."""
    return JSONResponse(value, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def go(path: str) -> RedirectResponse:
    """After a form was taken: load another page, so that going back or reloading sends nothing twice."""
    return RedirectResponse(path, 303)


def found(find: Callable[[], T]) -> T:
    """What `find` gives; a page or answer 404 where it says that there is no such thing."""
    try:
        return find()
    except MannersError as error:
        raise HTTPException(404, str(error)) from None
