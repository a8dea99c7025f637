"""Reviewers see disagreements first, settle them, and open them again; and people get what is held about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from browsing import Browser, field_in, materials

from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.store import Store

Enter = Callable[..., Browser]


def judge(browser: Browser, batch_id: str, best: int, note: str, **more: str) -> None:
    """Rank everything with answer `best` first and the next one second."""
    address = browser.send_form(f"/batches/{batch_id}/next").headers["location"]
    while address.startswith("/tasks/"):
        page = browser.get(address).text
        numbers = list(dict.fromkeys(re.findall(r"answer (\d) to \d", page)))
        hidden = {name: field_in(page, name) for name in ("client_key", "guideline_id", "revises")}
        ranks = {f"rank__{numbers.index(str((best + k) % 3))}": str(k + 1) for k in range(3)}
        answer = browser.send_form(address, **hidden, action="submit", note=note, **ranks, **more)
        assert answer.status_code == 303, answer.text
        address = answer.headers["location"]


@pytest.fixture
def disputed(enter: Enter, desk: Desk) -> Batch:
    batch = desk.create(BatchSettings(name="Disputed", overlap=2), "g", materials(2, 3))
    judge(enter("annotator", "ann"), batch.id, 0, "ann's reason", flag__0="insult")
    judge(enter("annotator", "bob"), batch.id, 1, "bob's reason")
    return batch


def first_dispute(reviewer: Browser, batch: Batch) -> str:
    found = re.search(rf'href="(/review/{batch.id}/\w+)"', reviewer.get(f"/review/{batch.id}").text)
    assert found
    return found[1]


def decide(reviewer: Browser, address: str, best: int = 2, **fields: Any) -> Any:
    page = reviewer.get(address).text
    cards = page[page.index('class="answers"') :]
    numbers = list(dict.fromkeys(re.findall(r"answer (\d) to \d", cards)))
    ranks = {f"rank__{numbers.index(str((best + k) % 3))}": str(k + 1) for k in range(2)}
    hidden = {name: field_in(page, name) for name in ("client_key", "seen")}
    return reviewer.send_form(
        address, **{**hidden, **ranks, "action": "settle", "note": "the guideline says so", **fields}
    )


def test_a_disagreement_is_settled_and_opened_again(enter: Enter, disputed: Batch, store: Store) -> None:
    reviewer = enter("reviewer")
    assert f"/review/{disputed.id}" in reviewer.get("/review").text
    listed = reviewer.get(f"/review/{disputed.id}").text
    # 0 1 2 against 1 2 0: two of three pairs.
    assert listed.count("67 %") == 2
    address = first_dispute(reviewer, disputed)
    page = reviewer.get(address).text
    for text in (
        "ann&#39;s reason",
        "bob&#39;s reason",
        "Flagged by 1: insults or threatens",
        enter("annotator", "ann").user.id,
    ):
        assert text in page
    assert not re.search(r"\bm[0-2]\b", page)
    assert decide(reviewer, address).status_code == 303
    settled = [j for j in store.judgements() if j.ranking.judge == f"settled:{reviewer.user.id}"]
    assert len(settled) == 1
    texts = {c.id: c.text for c in settled[0].completions}
    assert [texts[tier[0]].split()[1] for tier in settled[0].ranking.tiers] == ["2", "0"]
    # The order on the reviewer's own screen is kept with it.
    cards = reviewer.get(address).text
    shown = list(dict.fromkeys(re.findall(r"answer \d to \d", cards[cards.index('class="answers"') :])))
    assert [texts[i] for i in settled[0].ranking.shown] == shown
    assert len(list(store.judgements())) == 3
    assert "the guideline says so" in reviewer.get(address).text
    assert ">settled" in reviewer.get(f"/review/{disputed.id}").text
    reopened = decide(reviewer, address, action="reopen", note="a mistake of mine")
    assert reopened.status_code == 303
    assert len(list(store.judgements())) == 4
    assert "Opened again" in reviewer.get(address).text


def test_what_was_filled_in_is_kept_when_something_is_missing(enter: Enter, disputed: Batch, store: Store) -> None:
    reviewer = enter("reviewer")
    address = first_dispute(reviewer, disputed)
    answer = decide(reviewer, address, note="")
    assert answer.status_code == 422
    assert "say why" in answer.text
    assert answer.text.count('value="1" checked') == answer.text.count('value="2" checked') == 1
    answer = decide(reviewer, address, rank__0="", rank__1="", rank__2="", note="my long reason")
    assert "nothing is ranked yet" in answer.text
    assert "my long reason</textarea>" in answer.text
    assert decide(reviewer, address, action="burn").status_code == 400
    assert store.counts().rankings == 4


def test_a_decision_on_yesterdays_page_is_not_taken(enter: Enter, disputed: Batch, desk: Desk, store: Store) -> None:
    reviewer, address = enter("reviewer"), ""
    address = first_dispute(reviewer, disputed)
    seen = field_in(reviewer.get(address).text, "seen")
    again = desk.create(BatchSettings(name="again"), "g", materials(2, 3))
    judge(enter("annotator", "cleo"), again.id, 2, "cleo's reason")
    answer = decide(reviewer, address, seen=seen)
    assert answer.status_code == 409
    assert "in the meantime" in answer.text
    assert "cleo&#39;s reason" in answer.text
    assert store.counts().rankings == 6
    assert decide(reviewer, address).status_code == 303


def test_what_is_held_about_somebody_is_theirs_to_have(enter: Enter, disputed: Batch) -> None:
    ann, admin = enter("annotator", "ann"), enter("admin")
    answer = ann.get("/account/data.json")
    assert "attachment" in answer.headers["content-disposition"]
    data = answer.json()
    assert (data["account"]["name"], len(data["submissions"])) == ("ann", 2)
    assert {row["batch_id"] for row in data["submissions"]} == {disputed.id}
    assert "bob's reason" not in answer.text
    asked = admin.get(f"/admin/people/{ann.user.id}/data.json").json()
    assert asked["submissions"] == data["submissions"]
    admin.send_form(f"/admin/people/{ann.user.id}", action="forget")
    assert ann.get("/account/data.json").status_code == 303
    left = admin.get(f"/admin/people/{ann.user.id}/data.json")
    assert "ann's reason" not in left.text
    assert left.json()["forgotten"][0]["by"] == admin.user.id
    page = enter("reviewer").get(first_dispute(enter("reviewer"), disputed)).text
    assert "ann&#39;s reason" not in page
    assert "bob&#39;s reason" in page
    assert "The log is whole" in admin.get("/admin/audit").text
