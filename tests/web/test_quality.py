"""The quality page: its numbers, its plots, and that nothing in it can run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from browsing import Browser, materials

from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.people import People
from manners.feedback.quality import quality
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, submit

Enter = Callable[..., Browser]
NAMES = ("ann", "bob", "cat <b>x</b>")


@pytest.fixture
def judged(store: Store, desk: Desk, enter: Enter) -> Batch:
    """Three people rank six items: two the same way, the third the other way round."""
    batch = desk.create(BatchSettings(name="A & B", overlap=3, gold_share=0), "# Be kind", materials(6))
    for name in NAMES:
        user = enter("annotator", name).user
        while task_id := desk.next(user.id, batch.id):
            task = desk.task(task_id, user.id)
            order = sorted(range(3), key=lambda place: task.completions[place].text, reverse=name.startswith("cat"))
            ratings = {place: {"helpful": 1 + order.index(place)} for place in order}
            answer = Answer(client_key=task_id, tiers=tuple((p,) for p in order), ratings=ratings, active_ms=30_000)
            submit(store, task, answer)
    return batch


def _plots(page: str) -> list[Any]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg class=\"plot\".*?</svg>", page, re.DOTALL)]


def test_the_page_shows_the_numbers_of_the_report(judged: Batch, enter: Enter, store: Store) -> None:
    page = enter("admin").get(f"/admin/batches/{judged.id}/quality").text
    report = quality(store, judged.id)
    assert "18 judgements of 6 questions, 6 of them by two people or more" in page
    for measure in report.measures:
        assert measure.estimate.value is not None
        assert f"{measure.estimate.value:.2f}".replace("-", "−") in page
        assert page.count(measure.reads.replace("'", "&#39;")) >= 1
    assert "cat &lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x" not in page
    assert "A &amp; B" in page


def test_plots_are_drawn_to_scale_and_named_for_screen_readers(judged: Batch, enter: Enter, store: Store) -> None:
    page = enter("reviewer").get(f"/admin/batches/{judged.id}/quality").text
    report = quality(store, judged.id)
    measures, places, *_ = _plots(page)
    assert len(_plots(page)) == 3
    for plot in _plots(page):
        title, about = plot.get("aria-labelledby").split()
        assert plot.find("title").get("id") == title
        assert plot.find("desc").get("id") == about
        assert plot.find("title").text
    # From −1 at 12 to 1 at 408, since α of choices lies below −0.25; the axis has its words at the same places.
    dots = [float(dot.get("cx")) for dot in measures.iter("circle")]
    least = -1 if min(m.estimate.value or 0 for m in report.measures) < -0.25 else -0.25
    expected = [12 + 396 * ((m.estimate.value or 0) - least) / (1 - least) for m in report.measures]
    assert dots == pytest.approx(expected, abs=0.06)
    bars = [float(bar.get("height")) for bar in places.iter("rect")]
    wins = [place.wins for place in report.position.places]
    assert bars[1] / bars[0] == pytest.approx(wins[1] / wins[0], abs=0.02)
    for text in ("<script", " style=", "onclick"):
        assert text not in re.sub(r"<link[^>]*>", "", page)


def test_a_name_is_for_admins(judged: Batch, enter: Enter) -> None:
    ann = enter("annotator", "ann").user
    admins, reviewers = (enter(role).get("/admin/quality").text for role in ("admin", "reviewer"))
    table = reviewers.split('id="annotators"')[1]
    assert "ann</th>" in admins
    assert "ann</th>" not in table
    assert ann.id in table
    assert f"/admin/batches/{judged.id}/quality" in reviewers


def test_nothing_judged_says_why_nothing_is_known(enter: Enter, batch: Batch) -> None:
    page = enter("reviewer").get(f"/admin/batches/{batch.id}/quality").text
    assert "Not defined: nobody has judged anything yet." in page
    assert not _plots(page)
    assert enter("reviewer").get("/admin/batches/0123456789abcdef/quality").status_code == 404


def test_programs_get_the_same(judged: Batch, outside: Browser, enter: Enter, people: People, store: Store) -> None:
    token = people.make_token(enter("reviewer").user.id, "test")
    headers = {"authorization": f"Bearer {token}"}
    one = outside.get(f"/api/batches/{judged.id}/quality", headers=headers)
    assert one.status_code == 200
    value, report = one.json(), quality(store, judged.id)
    assert value["measures"][0]["estimate"]["value"] == pytest.approx(report.measures[0].estimate.value)
    assert [s["id"] for s in value["annotators"]] == [s.id for s in report.annotators]
    assert outside.get("/api/quality", headers=headers).json() == value
    assert outside.get("/api/batches/0123456789abcdef/quality", headers=headers).status_code == 404
