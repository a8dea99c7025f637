"""The admin's pages for people: invite, change a role, lock out, say what is held about somebody, forget; and the audit of the log."""

from __future__ import annotations

from typing import get_args

from fastapi import HTTPException
from starlette.responses import Response

from manners.errors import MannersError
from manners.feedback.chain import audit
from manners.feedback.people import ROLES, Role, Session
from manners.feedback.personal import data_of
from manners.web.doors import AForm, AnOffice, ASession, Fields, as_file, found, go, pages_for, show
from manners.web.office import Office

router = pages_for("admin")


@router.get("/admin/people")
def people_page(office: AnOffice, session: ASession) -> Response:
    return _people_page(office, session)


@router.post("/admin/invites")
def invite(office: AnOffice, session: ASession, form: AForm) -> Response:
    """The page that follows is the only one to show the link."""
    uses = form.text("uses", 4) or "1"
    if not (uses.isascii() and uses.isdigit() and 1 <= int(uses) <= 500):
        return _people_page(office, session, "A link is for 1 to 500 accounts.")
    token = office.people.invite(_role(form), form.text("note", 200).strip(), int(uses), session.user.id)
    return _people_page(office, session, link=f"{office.settings.public_url.rstrip('/')}/invite/{token}")


@router.post("/admin/invites/{invite_id}/withdraw")
def withdraw(invite_id: str, office: AnOffice, form: AForm) -> Response:  # noqa: ARG001 - the form's token is checked
    office.people.withdraw(invite_id)
    return go("/admin/people")


@router.post("/admin/people/{user_id}")
def change(user_id: str, office: AnOffice, session: ASession, form: AForm) -> Response:
    try:
        match form.text("action", 20):
            case "role":
                office.people.set_role(user_id, _role(form))
            case "lock":
                office.people.set_active(user_id, False)
            case "unlock":
                office.people.set_active(user_id, True)
            case "forget":
                office.people.forget(user_id, session.user.id)
            case _:
                raise HTTPException(400, "there is no such action")
    except MannersError as error:
        return _people_page(office, session, str(error))
    return go("/admin/people" if user_id != session.user.id else "/")


@router.get("/admin/people/{user_id}/data.json")
def data_of_person(user_id: str, office: AnOffice) -> Response:
    """Everything that is held about somebody, for them to have: they may ask for it."""
    return as_file("data.json", found(lambda: data_of(office.store, user_id, office.clock)))


@router.get("/admin/audit")
def audit_page(office: AnOffice, session: ASession) -> Response:
    with office.store.reading() as connection:
        result = audit(connection)
    return show(office, "admin/audit.html", session, result=result)


def _role(form: Fields) -> Role:
    given = form.text("role", 20)
    for role in get_args(Role):
        if role == given:
            return role
    raise HTTPException(400, f"a role is one of {', '.join(ROLES)}")


def _people_page(office: Office, session: Session, error: str = "", link: str = "") -> Response:
    return show(
        office, "admin/people.html", session, 422 if error else 200, people=office.people.everybody(), roles=ROLES,
        invitations=office.people.invitations(), error=error, link=link,
    )  # fmt: skip
