"""Exports over the web: a page that narrows to a batch, and the same files for programs."""

from __future__ import annotations

import json
from collections.abc import Callable

from browsing import Browser, materials

from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.exports import EXPORTS
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, submit

Enter = Callable[..., Browser]


def judged(enter: Enter, desk: Desk, store: Store, batch: Batch) -> None:
    ana = enter("annotator", "Ana").user
    task = desk.task(str(desk.next(ana.id, batch.id)), ana.id)
    submit(store, task, Answer(client_key=f"key-{batch.id}", tiers=((1,), (0,))))


def test_the_page_narrows_to_a_batch(enter: Enter, desk: Desk, store: Store, batch: Batch) -> None:
    other = desk.create(BatchSettings(name="<Other>"), "# Be kind", materials(text="other"))
    for one in (batch, other):
        judged(enter, desk, store, one)
    reviewer = enter("reviewer")
    page = reviewer.get("/exports").text
    assert "&lt;Other&gt;" in page
    for name in EXPORTS:
        assert f'href="/exports/{name}"' in page
    page = reviewer.get(f"/exports?batch={other.id}").text
    assert f'href="/exports/argilla.json?batch={other.id}"' in page
    assert f'value="{other.id}" selected' in page
    [record] = reviewer.get(f"/exports/argilla.json?batch={other.id}").json()
    assert record["fields"]["prompt"][0]["content"].startswith("other")
    assert len(reviewer.get("/exports/argilla.json").json()) == 2
    assert reviewer.get("/exports?batch=none").status_code == 404
    assert reviewer.get("/exports/none.json").status_code == 404


def test_programs_get_the_same_files(
    enter: Enter, outside: Browser, people: People, desk: Desk, store: Store, batch: Batch
) -> None:
    judged(enter, desk, store, batch)
    reviewer = enter("reviewer")
    token = {"authorization": f"Bearer {people.make_token(reviewer.user.id, 'test')}"}
    assert list(outside.get("/api/exports", headers=token).json()) == list(EXPORTS)
    for name in EXPORTS:
        answer = outside.get(f"/api/exports/{name}?batch={batch.id}", headers=token)
        assert answer.status_code == 200
        assert answer.content == reviewer.get(f"/exports/{name}").content
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert outside.get("/api/exports/none.json", headers=token).status_code == 404
    assert outside.get("/api/exports/argilla.json?batch=none", headers=token).json() == {
        "detail": "there is no such batch"
    }
    described = outside.get("/openapi.json").json()["paths"]
    assert json.dumps(described["/api/exports/{name}"]).count('"404"') == 1
