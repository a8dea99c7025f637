"""The steps of a run of critique and revision, to be read: which principle, what was criticised, what was written anew.

Only where the app was started with such a run, and only for reviewers: the prompts ask for what should not be answered.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import HTTPException
from starlette.responses import Response

from manners.constitution.steps import Step, by_prompt, read_steps
from manners.web.doors import AnOffice, ASession, pages_for, show
from manners.web.office import Office

router = pages_for("reviewer")
_SHOWN = 50


@router.get("/constitution")
def steps_page(office: AnOffice, session: ASession, start: int = 0) -> Response:
    """Some prompts with all their rounds, from the one with the number `start`."""
    prompts = by_prompt(read_steps(_run(office)))
    first = min(max(start, 0), max(len(prompts) - 1, 0))
    shown: list[list[Step]] = prompts[first : first + _SHOWN]
    return show(office, "constitution.html", session, shown=shown, first=first, count=len(prompts),
                before=max(first - _SHOWN, 0), after=first + _SHOWN)  # fmt: skip


def _run(office: Office) -> Path:
    if office.settings.revisions is None:
        raise HTTPException(404, "This app was started without a run of revisions; start it with --revisions RUN.")
    return office.settings.revisions
