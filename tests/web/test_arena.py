"""The arena in the browser: made from the store or from files, blind for those who vote, plain for those who read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from browsing import Browser, field_in

from manners.feedback.assign import Desk
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.records import Completion, Prompt

Enter = Callable[..., Browser]
NAMES = ("model-before", "model-after")


@pytest.fixture
def sampled(store: Store) -> Store:
    for k in range(6):
        prompt = Prompt.of(f"prompt {k}")
        store.add_completions([(prompt, [Completion(prompt.id, f"words {k} of {n}", model=n[:9]) for n in "ab"])])
        completions = [Completion(prompt.id, f"text {n * (k + 2)}", model=name) for n, name in enumerate(NAMES, 1)]
        store.add_completions([(prompt, completions)])
    return store


def make(admin: Browser, **fields: Any) -> Any:
    given = {"name": "Which is better?", "source": "store", "guideline": "Be fair.", "model": list(NAMES)}
    return admin.send_form("/admin/arena", **{**given, **fields})


def vote(browser: Browser, batch_id: str, preference: Callable[[str], str]) -> list[str]:
    """Vote on everything by what the page shows; gives the pages."""
    pages = []
    address = browser.send_form(f"/batches/{batch_id}/next").headers["location"]
    while address.startswith("/tasks/"):
        page = browser.get(address).text
        pages.append(page)
        hidden = {name: field_in(page, name) for name in ("client_key", "guideline_id", "revises")}
        answer = browser.send_form(address, **hidden, action="submit", preference=preference(page))
        assert answer.status_code == 303, answer.text
        address = answer.headers["location"]
    return pages


def of_after(page: str) -> str:
    """Prefers the second model, whose answers are even numbers below, wherever it stands."""
    first = int(re.findall(r"text (\d+)", page)[0])
    number = int(re.findall(r"prompt (\d+)", page)[0])
    return "A3" if first == 2 * (number + 2) else "B3"


def test_from_two_models_to_a_verdict(enter: Enter, sampled: Store) -> None:
    admin = enter("admin")
    form = admin.get("/admin/arena/new").text
    assert all(f'value="{name}"' in form for name in NAMES)
    made = make(admin)
    assert made.status_code == 303, made.text
    place = made.headers["location"].split("?")[0]
    batch_id = place.rsplit("/", 1)[1]
    assert "There are no votes yet." in admin.get(place).text
    for name in ("ann", "bob"):
        pages = vote(enter("annotator", name), batch_id, of_after)
        # One judgement for each item: the first takes all.
        assert len(pages) == (6 if name == "ann" else 0)
        assert not any(model in page for page in pages for model in NAMES)
    reviewer = enter("reviewer")
    page = reviewer.get(place).text
    assert "6 votes by 1 person on 6 prompts" in page
    assert "one side won every vote" in page
    assert "model-after won 6 of 6 votes against model-before" in page
    assert place in reviewer.get("/arena").text
    token = reviewer.send_form("/account/tokens", name="t").text
    key = re.search(r"manners_[\w-]+", token)
    assert key
    told = reviewer.get(f"/api/batches/{batch_id}/arena", headers={"authorization": f"Bearer {key[0]}"}).json()
    [duel] = told["duels"]
    assert (duel["first"], duel["wins"], duel["losses"], told["votes"]) == ("model-after", 6, 0, 6)
    assert reviewer.get("/api/arena", headers={"authorization": f"Bearer {key[0]}"}).json() == told
    assert sampled.counts().rankings == 6


def test_the_page_shows_scores_where_there_are_some(enter: Enter, sampled: Store, desk: Desk) -> None:
    assert sampled.counts().rankings == 0
    batch_id = make(enter("admin"), overlap="2").headers["location"].split("?")[0].rsplit("/", 1)[1]
    said = iter(["tie", "bad", "tie", "bad", "", ""])
    vote(enter("annotator", "ann"), batch_id, of_after)
    vote(enter("annotator", "bob"), batch_id, lambda page: next(said) or "AB"[of_after(page) == "A3"] + "3")
    page = enter("reviewer").get(f"/arena/{batch_id}").text
    # Six wins, two losses and four halves: eight of twelve votes.
    assert "model-after is preferred to model-before in 67 % of comparisons" in page
    assert page.count('class="dot"') >= 2
    assert re.search(r"<dt>Both bad</dt><dd>17 %", page)
    assert desk.progress(batch_id).judged == 12


def lines(name: str, *numbers: int) -> bytes:
    rows = [
        {"prompt": f"prompt {k}", "completions": [{"text": f"{name or 'x'} says {k}", "model": name}]} for k in numbers
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()


def upload(admin: Browser, first: bytes, second: bytes, **fields: str) -> Any:
    files = [("first", ("before.jsonl", first)), ("second", ("after.jsonl", second))]
    return admin.send_form("/admin/arena", files=files, name="files", source="files", guideline="g", **fields)


def test_two_files_meet(enter: Enter, store: Store, desk: Desk) -> None:
    admin = enter("admin")
    made = upload(admin, lines("one", 1, 2, 3, 4), lines("two", 2, 3, 4, 5), most="2")
    assert made.status_code == 303, made.text
    place = made.headers["location"]
    assert "2 prompts without an opponent" in admin.get(place).text
    assert desk.progress(place.split("?")[0].rsplit("/", 1)[1]).items == 2
    assert {c.model for p in store.prompts() for c in store.completions(p.id)} == {"one", "two"}


@pytest.mark.parametrize(
    ("first", "second", "fields", "reason"),
    [
        (lines("one", 1), lines("one", 1), {}, "both files hold answers of one"),
        (lines("", 1), lines("two", 1), {}, "does not say which model"),
        (lines("one", 1), lines("two", 2), {}, "no prompt on which"),
        (lines("one", 1), b"no json", {}, "line 1 of the second file"),
        (lines("one", 1), b"", {}, "the second file"),
        (lines("one", 1), lines("two", 1), {"most": "-3"}, "a whole number from 1"),
        (lines("one", 1), lines("two", 1), {"overlap": "0"}, "overlap"),
    ],
)
def test_what_cannot_meet_is_turned_away(
    enter: Enter, store: Store, first: bytes, second: bytes, fields: dict[str, str], reason: str
) -> None:
    answer = upload(enter("admin"), first, second, **fields)
    assert answer.status_code == 422
    assert reason in answer.text
    assert 'value="files" checked' in answer.text
    assert store.counts().prompts == 0


def test_names_tell_files_of_one_model_apart(enter: Enter, store: Store) -> None:
    made = upload(enter("admin"), lines("one", 1), lines("", 1), second_name="one, later")
    assert made.status_code == 303, made.text
    assert {c.model for p in store.prompts() for c in store.completions(p.id)} == {"one", "one, later"}


@pytest.mark.parametrize("models", [[], ["model-after"], ["model-after", "nobody"]])
def test_it_takes_two(enter: Enter, sampled: Store, models: list[str]) -> None:
    answer = make(enter("admin"), model=models)
    assert answer.status_code == 422
    assert "two" in answer.text
    assert sampled.counts().rankings == 0


def test_annotators_do_not_see_who_leads(enter: Enter, people: People, sampled: Store) -> None:
    make(enter("admin"))
    ann = enter("annotator")
    assert ann.get("/arena").status_code == 403
    assert "/arena" not in ann.get("/").text
    token = people.make_token(ann.user.id, "t")
    assert ann.get("/api/arena", headers={"authorization": f"Bearer {token}"}).status_code == 403
    assert sampled.counts().rankings == 0
