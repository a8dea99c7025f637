"""The admin's pages for a batch that a model is still answering: how far it is, and cancel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from manners.config import Config
from manners.errors import MannersError
from manners.feedback.batch import BatchSettings
from manners.feedback.guidelines import LONGEST
from manners.feedback.importers.files import unstorable
from manners.feedback.materials import LONGEST_TEXT, prompts_in
from manners.web.doors import AForm, AnOffice, ASession, Fields, go, pages_for, show
from manners.web.office import Office
from manners.web.sampling import SampleSettings

router = pages_for("admin")
ConfigT = TypeVar("ConfigT", bound=Config)
_LONGEST_PROMPTS = 250_000
_UNKNOWN = "This server knows no such job. Where it was restarted meanwhile, the job ended with it, and nothing was kept: start it again."


@router.get("/admin/sampling/{job_id}")
def sampling_page(job_id: str, request: Request, office: AnOffice, session: ASession) -> Response:
    """How far a job is; for the script, the same as JSON."""
    job = office.sampling.job(job_id)
    if "application/json" in request.headers.get("accept", ""):
        state = {"state": "unknown", "words": _UNKNOWN, "done": 0, "total": 0}
        if job is not None:
            state = {"state": job.state, "words": job.words, "done": job.done, "total": job.total}
        return JSONResponse(state)
    if job is not None and job.batch_id and not job.words:
        return go(f"/admin/batches/{job.batch_id}")
    return show(office, "admin/sampling.html", session, 200 if job else 404, job=job, unknown=_UNKNOWN)


@router.post("/admin/sampling/{job_id}/cancel")
def cancel(job_id: str, office: AnOffice, form: AForm) -> Response:  # noqa: ARG001 - the form's token is checked
    office.sampling.cancel(job_id)
    return go(f"/admin/sampling/{job_id}")


def begin_sampling(office: Office, form: Fields, settings: BatchSettings) -> str:
    """Start the job that the form of a new batch asks for; gives its id. Raises MannersError with what to change."""
    text = form.text("prompts", _LONGEST_PROMPTS).strip()
    prompts = prompts_in(text, in_json=text.startswith("{"))
    if reason := unstorable([message.content for prompt in prompts for message in prompt.messages]):
        raise MannersError(reason)
    if any(len(message.content) > LONGEST_TEXT for prompt in prompts for message in prompt.messages):
        raise MannersError(
            f"a turn of a prompt has more than {LONGEST_TEXT} characters, more than an annotator is shown"
        )
    given = {name: form.text(f"sample_{name}", 400).strip() for name in SampleSettings.model_fields}
    asked = validated(SampleSettings, {name: value for name, value in given.items() if value})
    guideline = form.text("guideline", LONGEST)
    if not guideline.strip():
        raise MannersError(f"a guideline has 1 to {LONGEST} characters")
    return office.sampling.start(asked, prompts, settings, guideline)


def validated(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """The settings that a form says. Raises MannersError that names the field which is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise MannersError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
