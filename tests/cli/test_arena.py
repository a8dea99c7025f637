"""`manners arena`, `manners person` and `manners forget` on a small store of votes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from manners.cli.app import app
from manners.feedback.arena import answers_in, arena, pair_up
from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, submit
from manners.records import Completion, Prompt

MODELS = ("before", "after")


@pytest.fixture
def duel(store: Store, desk: Desk, people: People) -> Batch:
    """Eight votes of Ann, six of them for the model `after`, each with a reason."""
    for k in range(8):
        prompt = Prompt.of(f"prompt {k}")
        store.add_completions([(prompt, [Completion(prompt.id, f"{m} {k} {k * '!'}", model=m) for m in MODELS])])
    batch = desk.create(
        BatchSettings(name="duel", mode="pair"), "g", pair_up(answers_in(store, MODELS), MODELS).materials
    )
    ann = people.accept(people.invite("annotator"), "Ann", "hash")
    people.accept(people.invite("admin"), "the admin", "hash")
    while task_id := desk.next(ann.id, batch.id):
        task = desk.task(task_id, ann.id)
        wanted = MODELS[int(task.prompt.text.split()[1]) >= 2]
        best = next(place for place, completion in enumerate(task.completions) if completion.model == wanted)
        submit(store, task, Answer(client_key=task_id, tiers=((best,), (1 - best,)), note="told at home"))
    return batch


def run(store: Store, command: str, *arguments: str, typed: str = "") -> Any:
    return CliRunner().invoke(app, [command, *arguments, "--db", store.place], input=typed)


def test_the_command_says_what_the_page_says(store: Store, duel: Batch) -> None:
    said = run(store, "arena", "--batch", "duel", "--json")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout) == json.loads(json.dumps({"batch": duel.id, **arena(store, duel.id).to_json()}))
    shown = run(store, "arena").stdout
    assert "8 votes by 1 person on 8 prompts" in shown
    assert "after is preferred to before in 75 % of comparisons" in shown
    assert "at equal length" in shown
    assert run(store, "arena", "--batch", "no such batch").exit_code != 0


def test_without_votes_it_says_so(store: Store) -> None:
    said = run(store, "arena")
    assert (said.exit_code, "There are no votes yet." in said.stdout) == (0, True)


@pytest.mark.usefixtures("duel")
def test_a_person_is_told_and_forgotten(store: Store) -> None:
    data = json.loads(run(store, "person", "ann").stdout)
    assert (data["account"]["name"], len(data["submissions"])) == ("Ann", 8)
    refused = run(store, "forget", "Ann", typed="n\n")
    assert refused.exit_code != 0
    assert "told at home" in run(store, "person", "Ann").stdout
    done = run(store, "forget", "Ann", "--yes", "--json")
    assert json.loads(done.stdout) == {"forgotten": data["account"]["id"]}
    assert run(store, "audit").exit_code == 0
    left = run(store, "person", data["account"]["id"]).stdout
    assert json.loads(left)["account"]["name"] is None
    assert "told at home" not in left
    assert run(store, "person", "Ann").exit_code != 0
