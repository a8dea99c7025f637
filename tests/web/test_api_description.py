"""Requests made by schemathesis from the description of the API, valid and odd: none breaks the server, which answers as described."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from browsing import Browser, materials
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from manners.feedback.assign import Desk
from manners.feedback.batch import MODES, BatchSettings
from manners.feedback.people import People

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


def sent(app: FastAPI, desk: Desk, people: People, headers: dict[str, str], examples: int) -> Counter[int]:
    """Send up to `examples` valid and as many odd requests to each operation; gives how often each status came back."""
    known = {"batch_id": ["x"], "task_id": ["x"]}
    user = people.by_token(headers["authorization"].removeprefix("Bearer "))
    assert user
    for mode in MODES:
        batch = desk.create(BatchSettings(name=mode, mode=mode), "g", materials(2, 2, text=mode))
        known["batch_id"].append(batch.id)
        known["task_id"].append(desk.next(user.id, batch.id) or "")
    counts: Counter[int] = Counter()
    described = schemathesis.openapi.from_asgi("/openapi.json", app)
    for operation in (result.ok() for result in described.get_all_operations()):
        for kind in GenerationMode:

            @settings(
                max_examples=examples,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=kind), st.data())
            def send(case: Any, data: st.DataObject) -> None:
                for name in known.keys() & (case.path_parameters or {}).keys():
                    # Made-up ids all end at the same 404.
                    case.path_parameters[name] = data.draw(st.sampled_from([case.path_parameters[name], *known[name]]))
                answer = case.call_and_validate(headers=headers, checks=CHECKS)
                counts[answer.status_code] += 1

            send()
    return counts


@pytest.fixture
def headers(enter: Callable[..., Browser], people: People) -> dict[str, str]:
    return {"authorization": f"Bearer {people.make_token(enter('admin').user.id, 'test')}"}


def test_no_request_breaks_the_server(app: FastAPI, desk: Desk, people: People, headers: dict[str, str]) -> None:
    counts = sent(app, desk, people, headers, examples=8)
    assert max(counts) < 500
    # The requests do not all fail at the door.
    assert counts[200] + counts[201] > 20
    assert counts[422] > 10


@pytest.mark.long
def test_many_requests_do_not_either(
    app: FastAPI, desk: Desk, people: People, headers: dict[str, str], record_property: Callable[[str, Any], None]
) -> None:
    counts = sent(app, desk, people, headers, examples=150)
    record_property("schemathesis: requests, by status", f"{counts.total()}, {dict(sorted(counts.items()))}")
    assert max(counts) < 500
    assert counts.total() > 1000
