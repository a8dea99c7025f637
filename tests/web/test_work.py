"""The annotator's way: a task, a draft, an answer; what is stored is what was meant, once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import Browser, field_in, materials

from manners.cli.data import make_pairs
from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.exports import submissions
from manners.feedback.materials import material_of
from manners.feedback.store import Store

Enter = Callable[..., Browser]


def begin(browser: Browser, batch: Batch) -> str:
    """The address of the next task."""
    answer = browser.send_form(f"/batches/{batch.id}/next")
    assert answer.status_code == 303
    return str(answer.headers["location"])


def hand_in(browser: Browser, address: str, **fields: Any) -> Any:
    """Fill in the form of a task and send it, as a browser without a script does."""
    page = browser.get(address).text
    hidden = {name: field_in(page, name) for name in ("client_key", "guideline_id", "revises")}
    return browser.send_form(address, **{**hidden, "action": "submit", **fields})


def shown_texts(page: str) -> list[str]:
    """The answers on the page, from top to bottom."""
    return list(dict.fromkeys(re.findall(r"answer \d to \d+", page)))


def test_from_the_task_list_to_pairs(enter: Enter, batch: Batch, store: Store, tmp_path: Path) -> None:
    ann = enter("annotator")
    assert "First batch" in ann.get("/").text
    address = begin(ann, batch)
    page = ann.get(address).text
    texts = shown_texts(page)
    assert len(set(texts)) == 3
    # The last answer on the screen is best, the first one second, the middle one was not ranked.
    answer = hand_in(ann, address, rank__2="1", rank__0="2", note=" clearer ", active_ms="4200")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/tasks/")
    [judgement] = store.judgements()
    by_id = {c.id: c.text for c in judgement.completions}
    assert [[by_id[c] for c in tier] for tier in judgement.ranking.tiers] == [[texts[2]], [texts[0]]]
    assert [by_id[c] for c in judgement.ranking.shown] == texts
    assert judgement.ranking.judge == ann.user.id
    assert judgement.ranking.seconds == 4.2
    assert [row["note"] for row in submissions(store)] == ["clearer"]
    make_pairs(store, tmp_path / "pairs", seed=0, validation=0, test=0, source="human", halves=False)
    [line] = (tmp_path / "pairs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert texts[2] in line.split('"rejected"')[0]
    assert texts[0] in line.split('"rejected"')[1]


def test_an_answer_sent_twice_counts_once(enter: Enter, batch: Batch, store: Store) -> None:
    ann = enter("annotator")
    address = begin(ann, batch)
    page = ann.get(address).text
    fields = {"client_key": field_in(page, "client_key"), "rank__0": "1", "rank__1": "2", "action": "submit"}
    first, second = (ann.send_form(address, accept="application/json", **fields) for _ in range(2))
    assert first.json()["submission"] == second.json()["submission"]
    assert (first.json()["known"], second.json()["known"]) == (False, True)
    assert store.counts().rankings == 1
    assert len(list(submissions(store))) == 1


def test_a_draft_comes_back_and_ends_with_the_answer(enter: Enter, batch: Batch) -> None:
    ann = enter("annotator")
    address = begin(ann, batch)
    kept = ann.send_form(f"{address}/draft", rank__1="2", note="half done", flag__0=["insult", "false"])
    assert kept.json() == {"saved": True}
    for browser in (ann, enter("annotator")):
        page = browser.get(address).text
        assert 'name="rank-1" value="2" checked' in page
        assert ">half done</textarea>" in page
        assert 'name="flag-0" value="insult" checked' in page
    hand_in(ann, address, rank__0="1", rank__1="2")
    page = ann.get(address).text
    assert "half done" not in page
    assert 'name="rank-0" value="1" checked' in page


def test_a_change_of_mind_supersedes(enter: Enter, batch: Batch, store: Store) -> None:
    ann = enter("annotator")
    address = begin(ann, batch)
    hand_in(ann, address, rank__0="1", rank__1="2")
    assert address in ann.get("/history").text
    again = hand_in(ann, address, rank__0="2", rank__1="1", note="looked again")
    assert again.headers["location"] == "/history"
    first, second = store.judgements(current_only=False)
    assert second.ranking.supersedes == first.ranking.id
    assert list(store.judgements()) == [second]
    # Another window still has the form of the first time.
    stale = ann.send_form(address, client_key="another-key", rank__0="1", rank__1="2", action="submit", revises="")
    assert stale.status_code == 409
    assert len(list(store.judgements(current_only=False))) == 2


def test_a_skip_needs_a_reason_and_gives_the_item_to_others(enter: Enter, desk: Desk, store: Store) -> None:
    batch = desk.create(BatchSettings(name="one"), "g", materials(1))
    ann, bob = enter("annotator", "ann"), enter("annotator", "bob")
    address = begin(ann, batch)
    assert "finished" in begin(bob, batch)
    refused = hand_in(ann, address, action="skip")
    assert (refused.status_code, "say why" in refused.text) == (422, True)
    skipped = hand_in(ann, address, action="skip", skip_reason="language", rank__0="1", rank__1="2")
    assert skipped.headers["location"].endswith("/finished")
    assert store.counts().rankings == 0
    assert [row["skip_reason"] for row in submissions(store)] == ["language"]
    assert begin(bob, batch).startswith("/tasks/")
    assert desk.progress(batch.id).skipped == 1


def test_what_is_wrong_is_said_and_nothing_typed_is_lost(enter: Enter, batch: Batch, store: Store) -> None:
    ann = enter("annotator")
    address = begin(ann, batch)
    page = hand_in(ann, address, rank__0="1", note="only one")
    assert page.status_code == 422
    assert "one rank alone compares nothing" in page.text
    assert ">only one</textarea>" in page.text
    assert 'name="rank-0" value="1" checked' in page.text
    told = ann.send_form(address, accept="application/json", client_key="0123456789", action="submit")
    assert (told.status_code, "nothing is ranked yet" in told.json()["error"]) == (422, True)
    assert store.counts().rankings == 0


def test_nobody_meets_the_task_of_another(enter: Enter, batch: Batch, store: Store) -> None:
    ann, bob = enter("annotator", "ann"), enter("annotator", "bob")
    address = begin(ann, batch)
    assert bob.get(address).status_code == 404
    assert bob.send_form(address, client_key="0123456789", rank__0="1", rank__1="2").status_code == 404
    assert bob.send_form(f"{address}/draft", note="mine now").status_code == 404
    assert "mine now" not in ann.get(address).text
    assert store.counts().rankings == 0


def test_models_are_not_named_and_everybody_has_an_order_of_their_own(enter: Enter, desk: Desk) -> None:
    batch = desk.create(BatchSettings(name="blind", overlap=20), "g", materials(1, 4))
    orders = []
    for number in range(12):
        browser = enter("annotator", f"a{number}")
        page = browser.get(begin(browser, batch)).text
        assert not re.search(r"\bm[0-3]\b", page)
        orders.append(tuple(shown_texts(page)))
        assert shown_texts(browser.get(begin(browser, batch)).text) == list(orders[-1])
    # Twelve of 24 orders: fewer than four different ones has a chance far below one in a million.
    assert len(set(orders)) >= 4


@pytest.mark.parametrize(
    ("mode", "fields", "texts", "extra"),
    [
        ("pair", {"preference": "B3"}, [["b"], ["a"]], {"strength": 3}),
        ("pair", {"preference": "tie"}, [["a", "b"]], {"strength": None}),
        ("pair", {"preference": "bad"}, [], {"strength": None}),
        ("thumbs", {"thumb__0": "down", "thumb__1": "up"}, [["b"], ["a"]], {}),
        ("thumbs", {"thumb__0": "down", "thumb__1": "down"}, [], {}),
        ("ratings", {"rate__0__helpful": "2", "rate__1__helpful": "5"}, [["b"], ["a"]], {}),
        ("ratings", {"rate__0__honest": "4", "rate__1__honest": "4"}, [["a", "b"]], {}),
        ("edit", {"base": "1", "edited": "c"}, [["c"], ["b"]], {}),
    ],
)
def test_every_mode_becomes_a_ranking(
    enter: Enter, desk: Desk, store: Store, mode: Any, fields: dict[str, str], texts: list[list[str]], extra: Any
) -> None:
    batch = desk.create(BatchSettings(name=mode, mode=mode), "g", materials(1, 2))
    ann = enter("annotator")
    address = begin(ann, batch)
    page = ann.get(address).text
    names = dict(zip(shown_texts(page), "ab", strict=False))
    assert hand_in(ann, address, **fields).status_code == 303
    [judgement] = store.judgements()
    named = {c.id: names.get(c.text, c.text) for c in judgement.completions}
    assert [sorted(named[c] for c in tier) for tier in judgement.ranking.tiers] == texts
    assert judgement.ranking.all_bad is (texts == [])
    [row] = submissions(store)
    assert row["mode"] == mode
    assert {key: row[key] for key in extra} == extra
    # Coming back shows what was said.
    again = ann.get(address).text
    for name, value in fields.items():
        place = name.replace("__", "-")
        assert f'name="{place}" value="{value}" checked' in again or f">{value}</textarea>" in again


def test_edited_answers_are_demonstrations(enter: Enter, desk: Desk) -> None:
    batch = desk.create(BatchSettings(name="edit", mode="edit"), "g", materials(1, 1))
    ann = enter("annotator")
    address = begin(ann, batch)
    same = hand_in(ann, address, base="0", edited="answer 0 to 0")
    assert (same.status_code, "same as before" in same.text) == (422, True)
    hand_in(ann, address, base="0", edited="a better one")
    reviewer = enter("reviewer")
    assert '"content": "a better one"' in reviewer.get("/exports/demonstrations.jsonl").text
    assert (
        '"chosen": [{"role": "assistant", "content": "a better one"}]' in reviewer.get("/exports/preference.jsonl").text
    )


def test_a_guideline_that_changed_on_the_way_is_recorded_as_it_was_shown(
    enter: Enter, desk: Desk, batch: Batch, store: Store
) -> None:
    ann = enter("annotator")
    address = begin(ann, batch)
    page = ann.get(address).text
    shown = field_in(page, "guideline_id")
    desk.set_guideline(batch.id, "# Be kinder")
    ann.send_form(address, client_key="0123456789", guideline_id=shown, rank__0="1", rank__1="2", action="submit")
    assert shown != desk.batch(batch.id).guideline_id
    assert [row["guideline_id"] for row in submissions(store)] == [shown]
    assert "Be kind" in ann.get(f"/guidelines/{shown}").text


def test_the_whole_conversation_is_there(enter: Enter, desk: Desk) -> None:
    row = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                      {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Where is **Oslo**?"}],
           "completions": ["North.", "In Norway."]}  # fmt: skip
    batch = desk.create(BatchSettings(name="talk"), "g", [material_of(row)])
    ann = enter("annotator")
    page = ann.get(begin(ann, batch)).text
    for text in ("Be brief.", "Hi", "Hello!", "Where is <strong>Oslo</strong>?", "3 earlier turns"):
        assert text in page
