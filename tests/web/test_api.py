"""The API: prompts and answers in, judgements and pairs out; and no request that breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from browsing import Browser, materials
from fastapi import FastAPI

from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings
from manners.feedback.people import People, Role
from manners.feedback.store import Store

Enter = Callable[..., Browser]
Ask = Callable[..., Any]
ROW = {"prompt": "Where is Oslo?", "completions": ["No idea.", "In Norway."]}


@pytest.fixture
def ask(enter: Enter, outside: Browser, people: People) -> Ask:
    """Sends a request with the token of somebody of that role."""
    tokens: dict[str, str] = {}

    def ask(role: Role, method: str, path: str, **more: Any) -> Any:
        if role not in tokens:
            tokens[role] = people.make_token(enter(role).user.id, "test")
        return outside.request(method, f"/api{path}", headers={"authorization": f"Bearer {tokens[role]}"}, **more)

    return ask


def test_from_items_to_pairs(ask: Ask, store: Store) -> None:
    made = ask("admin", "POST", "/batches", json={"settings": {"name": "api", "overlap": 2}, "items": [ROW]})
    assert made.status_code == 201
    batch = made.json()
    assert (batch["items"], batch["wanted"], batch["settings"]["mode"]) == (1, 2, "rank")
    task = ask("annotator", "POST", f"/batches/{batch['id']}/next").json()["task"]
    assert task["messages"] == [{"role": "user", "content": "Where is Oslo?"}]
    assert set(task["answers"]) == set(ROW["completions"])
    assert "Guideline" in task["guideline"]
    best = task["answers"].index("In Norway.")
    answer = {"client_key": "0123456789", "tiers": [[best], [1 - best]], "note": "true"}
    receipts = [ask("annotator", "POST", f"/tasks/{task['id']}", json=answer).json() for _ in range(2)]
    assert [r["known"] for r in receipts] == [False, True]
    assert ask("annotator", "POST", f"/batches/{batch['id']}/next").json() == {"task": None}
    [pair] = ask("reviewer", "GET", "/pairs").json()["rows"]
    assert pair["chosen"] == [{"role": "assistant", "content": "In Norway."}]
    assert pair["rejected"] == [{"role": "assistant", "content": "No idea."}]
    assert pair["ranking"] == receipts[0]["ranking"]
    [row] = ask("reviewer", "GET", "/submissions").json()["rows"]
    assert (row["note"], row["client_key"]) == ("true", "0123456789")
    assert ask("reviewer", "GET", f"/batches/{batch['id']}").json()["judged"] == 1
    assert (
        ask("annotator", "POST", f"/tasks/{task['id']}", json={**answer, "client_key": "another-key"}).status_code
        == 409
    )
    assert store.counts().rankings == 1


def test_one_bad_item_is_named_and_nothing_is_made(ask: Ask, desk: Desk) -> None:
    for bad, reason in (
        ({"prompt": "p"}, "item 1: there is no 'completions'"),
        ({**ROW, "prompt": "a\0b"}, "NUL"),
        ({**ROW, "gold": [[7]]}, "from 0 to 1"),
    ):
        refused = ask("admin", "POST", "/batches", json={"settings": {"name": "b"}, "items": [ROW, bad]})
        assert refused.status_code == 422
        assert reason in refused.json()["detail"]
    for settings in (
        {"name": ""},
        {"name": "b", "overlap": 0},
        {"name": "b", "mode": "vote"},
        {"name": "b", "unknown": 1},
    ):
        assert ask("admin", "POST", "/batches", json={"settings": settings, "items": [ROW]}).status_code == 422
    assert desk.batches() == []


def test_pages_follow_each_other(ask: Ask, enter: Enter, desk: Desk) -> None:
    batch = desk.create(BatchSettings(name="b"), "g", materials(7, 2))
    ann = enter("annotator", "ann")
    for number in range(7):
        address = ann.send_form(f"/batches/{batch.id}/next").headers["location"]
        ann.send_form(address, client_key=f"the-key-{number}", rank__0="1", rank__1="2", action="submit")
    for path in ("/submissions", "/pairs"):
        rows, after, pages = [], 0, 0
        while after is not None:
            page = ask("reviewer", "GET", path, params={"after": after, "limit": 3}).json()
            rows += page["rows"]
            after, pages = page["next"], pages + 1
        assert (len(rows), pages) == (7, 3)
        assert len({json.dumps(row, sort_keys=True) for row in rows}) == 7


def test_the_description_is_complete(app: FastAPI, outside: Browser) -> None:
    described = outside.get("/openapi.json").json()
    assert described == app.openapi()
    assert all(path.startswith("/api/") for path in described["paths"])
    page = outside.get("/docs").text
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["description"]
            assert f"{method.upper()} {path}" in page
    assert "Answer" in page


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b"null", b"1e999", b'{"a":' * 500, b'{"client_key": "\\ud800\\ud800\\ud800\\ud800"}'],
)
def test_bodies_that_are_no_json_or_no_text(ask: Ask, desk: Desk, body: bytes) -> None:
    batch = desk.create(BatchSettings(name="b"), "g", materials(1))
    task = ask("admin", "POST", f"/batches/{batch.id}/next").json()["task"]["id"]
    for path in ("/batches", f"/tasks/{task}"):
        assert ask("admin", "POST", path, content=body).status_code == 422
