"""The reviewer's pages: what judges disagree on, and the form that settles it."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from starlette.responses import Response

from manners.errors import MannersError
from manners.feedback.adjudicate import Dispute, Screen, dispute, disputes, reopen, screen_of, settle
from manners.feedback.people import Session
from manners.feedback.submissions import FLAGS, ChangedElsewhereError
from manners.web.doors import AForm, AnOffice, ASession, found, go, pages_for, show
from manners.web.forms import Values, answer_of, values_of
from manners.web.office import Office

router = pages_for("reviewer")
_LABELS = "ABCDEFGHI"
_SHOWN = 200


@router.get("/review")
def review_page(office: AnOffice, session: ASession) -> Response:
    batches = [(b, office.desk.progress(b.id)) for b in office.desk.batches() if b.settings.mode != "edit"]
    return show(office, "review.html", session, batches=batches)


@router.get("/review/{batch_id}")
def disputes_page(batch_id: str, office: AnOffice, session: ASession) -> Response:
    batch = found(lambda: office.desk.batch(batch_id))
    all_judged = disputes(office.store, batch_id)
    shown = [d for d in all_judged if d.settled or d.disagreement]
    rows = [(d, office.store.prompt(d.prompt_id).text) for d in shown[:_SHOWN]]
    agreed = sum(d.disagreement == 0 and not d.settled for d in all_judged)
    single = sum(d.disagreement is None and not d.settled for d in all_judged)
    return show(office, "disputes.html", session, batch=batch, rows=rows, more=len(shown) - len(rows), agreed=agreed,
                single=single)  # fmt: skip


@router.get("/review/{batch_id}/{item_id}")
def dispute_page(batch_id: str, item_id: str, office: AnOffice, session: ASession) -> Response:
    return _page(office, session, found(lambda: dispute(office.store, batch_id, item_id)), {})


@router.post("/review/{batch_id}/{item_id}")
def decide(batch_id: str, item_id: str, office: AnOffice, session: ASession, form: AForm) -> Response:
    present = found(lambda: dispute(office.store, batch_id, item_id))
    decision = {"settle": settle, "reopen": reopen}.get(form.text("action", 10))
    if decision is None:
        raise HTTPException(400, "there is no such action")
    try:
        answer = answer_of(form, len(present.answers))
        decision(office.store, present, answer, session.user.id, form.text("seen", 16), office.clock)
    except MannersError as error:
        status = 409 if isinstance(error, ChangedElsewhereError) else 422
        return _page(office, session, dispute(office.store, batch_id, item_id), values_of(form), status, str(error))
    return go(f"/review/{batch_id}")


def _page(
    office: Office, session: Session, present: Dispute, values: Values, status: int = 200, error: str = ""
) -> Response:  # fmt: skip
    screen = screen_of(office.store, present, session.user.id)
    names = {completion.id: _LABELS[place] for place, completion in enumerate(screen.completions)}
    settlement = present.settlement
    return show(
        office, "dispute.html", session, status, error=error, batch=office.desk.batch(present.batch_id), present=present, screen=screen,
        answers=_answers(present, screen), values=defaultdict(str, values), client_key=secrets.token_urlsafe(16), own=session.user.id,
        judged=[(g, _order(g.tiers, names), "".join(names.get(i, "?") for i in g.order)) for g in present.given],
        settled=(settlement, _order(settlement.tiers, names)) if settlement else None,
    )  # fmt: skip


def _answers(present: Dispute, screen: Screen) -> list[dict[str, Any]]:
    """The cards, each with the flags that judges put on it and how many did."""
    raised: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for given in present.given:
        for completion_id, flags in given.flags.items():
            for flag in flags:
                raised[completion_id][FLAGS.get(flag, flag)] += 1
    return [
        {"place": place, "label": _LABELS[place], "text": c.text, "finished": c.finished, "flags": dict(raised[c.id])}
        for place, c in enumerate(screen.completions)
    ]


def _order(tiers: Sequence[Sequence[str]], names: dict[str, str]) -> str:
    """A ranking in the letters of the screen: A > B = C."""
    return " > ".join(" = ".join(sorted(names.get(i, "?") for i in tier)) for tier in tiers)
