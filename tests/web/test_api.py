"""The API: prompts and answers in, judgements and pairs out; and no request that breaks it."""

from __future__ import annotations

import json
import random
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


def test_no_request_breaks_it(ask: Ask, desk: Desk, app: FastAPI) -> None:
    """Random requests made from the description: valid shapes with odd values, and odd shapes."""
    batch = desk.create(BatchSettings(name="b"), "g", materials(3))
    task = ask("admin", "POST", f"/batches/{batch.id}/next").json()["task"]["id"]
    draws, described = random.Random(1), app.openapi()
    for _ in range(60):
        for path, methods in described["paths"].items():
            for method, operation in methods.items():
                place = path.removeprefix("/api").replace("{batch_id}", draws.choice([batch.id, "x", "%00", "'"]))
                place = place.replace("{task_id}", draws.choice([task, "x", "ü"]))
                params = {
                    p["name"]: odd(draws, p["schema"], described)
                    for p in operation.get("parameters", [])
                    if p["in"] == "query"
                }
                body = operation.get("requestBody")
                more: dict[str, Any] = {"params": {k: str(v).replace("\ud800", "?") for k, v in params.items()}}
                if body and draws.random() < 0.9:
                    schema = body["content"]["application/json"]["schema"]
                    more["content"] = json.dumps(odd(draws, schema, described), ensure_ascii=True).encode()
                elif body:
                    more["content"] = draws.choice([b"", b"{", b"[]", b"\xff", b"null", b"1e999", b'{"a":' * 500])
                answer = ask("admin", method.upper(), place, **more)
                assert answer.status_code < 500, (method, place, more, answer.text)


def odd(draws: random.Random, schema: dict[str, Any], described: dict[str, Any], depth: int = 0) -> Any:
    """A value that fits a schema more or less."""
    if draws.random() < 0.08 or depth > 6:
        return draws.choice(
            [None, True, -1, 0, 2**63, 1e308, "", "x" * 300, "\0", "\ud800", "é\u202e", [], {}, [[]], {"": None}]
        )
    if "$ref" in schema:
        return odd(draws, described["components"]["schemas"][schema["$ref"].split("/")[-1]], described, depth + 1)
    if "anyOf" in schema:
        return odd(draws, draws.choice(schema["anyOf"]), described, depth + 1)
    if "enum" in schema:
        return draws.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            made = {
                k: odd(draws, s, described, depth + 1)
                for k, s in schema.get("properties", {}).items()
                if draws.random() < 0.8
            }
            inner = schema.get("additionalProperties")
            if inner:
                key = draws.choice(["0", "1", "9", "-1", "prompt", "completions", "gold"])
                made[key] = odd(draws, inner if isinstance(inner, dict) else {}, described, depth + 1)
            return made
        case "array":
            inner = schema.get("items", {"type": "integer"})
            return [odd(draws, inner, described, depth + 1) for _ in range(draws.randint(0, 3))]
        case "integer":
            return draws.choice([0, 1, 2, 5, -3, 10**12])
        case "number":
            return draws.choice([0, 0.5, 1, -1, 1e300])
        case "boolean":
            return draws.choice([True, False])
        case "string":
            return draws.choice(["", "a", "0123456789abcdef", "' OR 1=1", "\0", "ü" * 50])
        case _:
            return draws.choice(
                [None, 1, "text", ["a", "b"], {"role": "user", "content": "c"}, [{"role": "user", "content": "c"}]]
            )
