"""The rounds of critique and revision in the app: for reviewers, where there is such a run, and never as markup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from browsing import Browser
from fastapi import FastAPI

from manners.cli.serve import serve
from manners.constitution.steps import Step
from manners.errors import MannersError
from manners.records import Prompt
from manners.runs import write_jsonl

Enter = Callable[..., Browser]


def served(app: FastAPI, folder: Path, count: int = 1) -> None:
    steps = []
    for n in range(count):
        prompt = Prompt.of(f"Number {n}, be rude <b>now</b>")
        steps += [
            Step(prompt, 0, 1, "", "", "", "You fool", "answer"),
            Step(prompt, 1, 2, "insults", "You fool", "It <script>insults</script>.", "Let us talk.", "accepted"),
        ]
    write_jsonl(folder / "revisions.jsonl", (step.to_json() for step in steps))
    app.state.office = replace(app.state.office, settings=replace(app.state.office.settings, revisions=folder))


def test_a_reviewer_reads_answer_critique_and_revision(app: FastAPI, enter: Enter, tmp_path: Path) -> None:
    served(app, tmp_path)
    reviewer = enter("reviewer")
    response = reviewer.get("/constitution")
    page = response.text
    order = ["You fool", "insults · accepted · seed 2", "It &lt;script&gt;insults", "Let us talk."]
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert "<script>insults" not in page
    assert "<b>now</b>" not in page
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert 'href="/constitution"' in reviewer.get("/review").text


def test_others_do_not(app: FastAPI, enter: Enter, outside: Browser, tmp_path: Path) -> None:
    served(app, tmp_path)
    assert enter("annotator").get("/constitution").status_code == 403
    assert outside.get("/constitution").status_code in (303, 401)


def test_without_such_a_run_there_is_no_page(enter: Enter) -> None:
    reviewer = enter("reviewer")
    assert reviewer.get("/constitution").status_code == 404
    assert "--revisions" in reviewer.get("/constitution").text
    assert 'href="/constitution"' not in reviewer.get("/review").text


def test_many_prompts_are_turned_like_pages(app: FastAPI, enter: Enter, tmp_path: Path) -> None:
    served(app, tmp_path, 60)
    reviewer = enter("reviewer")
    first, second = reviewer.get("/constitution").text, reviewer.get("/constitution?start=50").text
    assert "Prompts 1 to 50 of 60" in first
    assert 'href="/constitution?start=50"' in first
    assert "Prompts 51 to 60 of 60" in second
    assert 'href="/constitution?start=0"' in second
    assert "Number 59" not in first
    assert "Number 59" in second
    for odd in ("-3", "1000000"):
        assert reviewer.get(f"/constitution?start={odd}").status_code == 200


def test_something_else_is_refused_before_the_app_starts(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="holds no revisions"):
        serve(str(tmp_path / "s.db"), "127.0.0.1", 0, "", lambda _: None, tmp_path)
