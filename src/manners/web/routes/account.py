"""Coming in and going out: log in, accept an invitation, log out; the own password and tokens for programs."""

from __future__ import annotations

import math

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from manners.errors import MannersError
from manners.feedback.people import LONGEST_NAME, login_of
from manners.feedback.personal import data_of
from manners.web.doors import (
    AForm,
    AnOffice,
    ASession,
    AVisitor,
    OutsideForm,
    as_file,
    go,
    outside_page,
    pages_for,
    show,
    sign_in,
    sign_out,
)
from manners.web.office import Office
from manners.web.passwords import LONGEST, SHORTEST

outside = APIRouter(include_in_schema=False)
inside = pages_for("annotator")


@outside.get("/login")
def login_page(request: Request, office: AnOffice, visitor: AVisitor) -> Response:
    return go("/") if visitor else outside_page(office, request, "login.html", name="")


@outside.post("/login")
def log_in(request: Request, office: AnOffice, form: OutsideForm) -> Response:
    name, password = form.text("name", 200), form.text("password", LONGEST)
    keys = (f"name {login_of(name)}", f"address {request.client.host if request.client else ''}")
    wait = office.throttle.wait(*keys)
    if wait > 0:
        seconds = math.ceil(wait)
        words = f"Too many failed tries. Wait {seconds} seconds and try again."
        response = outside_page(office, request, "login.html", 429, name=name, error=words)
        response.headers["Retry-After"] = str(seconds)
        return response
    known = office.people.credentials(name)
    if not office.passwords.fits(password, known[1] if known else None) or known is None:
        office.throttle.failed(*keys)
        return outside_page(office, request, "login.html", 401, name=name, error="Name or password is wrong.")
    office.throttle.succeeded(*keys)
    response = go("/")
    sign_out(office, request, response)
    sign_in(office, response, known[0])
    return response


@outside.get("/invite/{token}")
def invitation_page(token: str, request: Request, office: AnOffice) -> Response:
    # Looking uses nothing up: programs that preview links look too.
    return _invitation(office, request, token, "", "")


@outside.post("/invite/{token}")
def accept(token: str, request: Request, office: AnOffice, form: OutsideForm) -> Response:
    name, password = form.text("name", 200), form.text("password", LONGEST + 1)
    try:
        if office.people.invitation(token) is None:
            return _invitation(office, request, token, name, "")
        if password != form.text("again", LONGEST + 1):
            raise MannersError("the two passwords differ; type them again")
        user = office.people.accept(token, name, office.passwords.hash(password))
    except MannersError as error:
        return _invitation(office, request, token, name, str(error), 422)
    response = go("/")
    sign_out(office, request, response)
    sign_in(office, response, user)
    return response


def _invitation(office: Office, request: Request, token: str, name: str, error: str, status: int = 200) -> Response:
    invite = office.people.invitation(token)
    if invite is None:
        raise HTTPException(404, "This invitation was used or has expired. Ask for a new one.")
    return outside_page(office, request, "invite.html", status, invite=invite, invite_token=token, name=name, error=error,
                        longest_name=LONGEST_NAME, shortest=SHORTEST)  # fmt: skip


@inside.post("/logout")
def log_out(request: Request, office: AnOffice, form: AForm) -> Response:  # noqa: ARG001 - the form's token is checked
    response = go("/login")
    sign_out(office, request, response)
    return response


@inside.get("/account")
def account_page(office: AnOffice, session: ASession) -> Response:
    return show(
        office, "account.html", session, tokens=office.people.tokens(session.user.id), made="", shortest=SHORTEST
    )


@inside.post("/account/password")
def change_password(request: Request, office: AnOffice, session: ASession, form: AForm) -> Response:
    """A new password ends all sessions of that person; this browser gets a new one."""
    known = office.people.credentials(session.user.name)
    error = ""
    if not office.passwords.fits(form.text("password", LONGEST), known[1] if known else None):
        error = "The present password is wrong."
    elif form.text("new", LONGEST + 1) != form.text("again", LONGEST + 1):
        error = "The two new passwords differ; type them again."
    else:
        try:
            office.people.set_password(session.user.id, office.passwords.hash(form.text("new", LONGEST + 1)))
        except MannersError as reason:
            error = str(reason)
    if error:
        tokens = office.people.tokens(session.user.id)
        return show(office, "account.html", session, 422, tokens=tokens, made="", shortest=SHORTEST, error=error)
    response = go("/account")
    sign_out(office, request, response)
    sign_in(office, response, session.user)
    return response


@inside.get("/account/data.json")
def own_data(office: AnOffice, session: ASession) -> Response:
    """Everything that is held about whoever asks."""
    return as_file("data.json", data_of(office.store, session.user.id, office.clock))


@inside.post("/account/tokens")
def make_token(office: AnOffice, session: ASession, form: AForm) -> Response:
    """The page that follows is the only one to show the token."""
    made = office.people.make_token(session.user.id, form.text("name", 100).strip() or "a program")
    return show(
        office, "account.html", session, tokens=office.people.tokens(session.user.id), made=made, shortest=SHORTEST
    )


@inside.post("/account/tokens/{token_id}/revoke")
def revoke_token(token_id: str, office: AnOffice, session: ASession, form: AForm) -> Response:  # noqa: ARG001
    office.people.revoke(session.user.id, token_id)
    return go("/account")
