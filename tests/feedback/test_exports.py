"""Layouts of other programs: what they say of a ranking, and that nothing is said that nobody judged."""

from __future__ import annotations

import json
import uuid
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from browsing import materials
from typer.testing import CliRunner

from manners.cli.app import app
from manners.errors import MannersError
from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings, Mode
from manners.feedback.exports import EXPORTS, rewardbench_row
from manners.feedback.label_studio import PAIRWISE_CONFIG, RANKER_CONFIG
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, submit
from manners.records import Completion, Judgement, Message, Pair, Prompt, Ranking, Source

PROMPT = Prompt(
    (Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Where is Oslo?")), category="places"
)
TEXTS = ("In Norway.", "No idea.", 'In "Sweden"\n]]>', "Ask somebody <b>else</b>.")
ANSWERS = tuple(Completion(PROMPT.id, text, model=f"m{place}") for place, text in enumerate(TEXTS))


def judge(
    store: Store, name: str, tiers: list[list[int]], source: Source = "human", count: int = 4, **fields: Any
) -> None:
    ids = [c.id for c in ANSWERS]
    ranking = Ranking(PROMPT.id, tuple(tuple(ids[p] for p in tier) for tier in tiers), source, name, **fields)
    store.add([Judgement(PROMPT, ANSWERS[:count], ranking)])


def exported(store: Store, name: str, batch: str = "") -> Any:
    return json.loads("".join(EXPORTS[name].lines(store, batch)))


def test_argilla_takes_ties_as_equal_ranks_and_gaps_as_a_draft(store: Store) -> None:
    judge(store, "ana", [[1], [0, 2], [3]])
    judge(store, "bob", [[3], [0]])
    judge(store, "eve", [], all_bad=True)
    [record] = exported(store, "argilla.json")
    assert record["fields"] == {
        "prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"},
                   {"role": "user", "content": "Where is Oslo?"}],
        **{f"answer-{place}": text for place, text in enumerate(TEXTS, 1)},
    }  # fmt: skip
    ana, bob, eve = record["responses"]["ranking"]
    assert ana["value"] == [
        {"value": "answer-2", "rank": 1}, {"value": "answer-1", "rank": 2}, {"value": "answer-3", "rank": 2},
        {"value": "answer-4", "rank": 3},
    ]  # fmt: skip
    assert bob["value"] == [{"value": "answer-4", "rank": 1}, {"value": "answer-1", "rank": 2}]
    assert eve["value"] is None
    assert [r["status"] for r in (ana, bob, eve)] == ["submitted", "draft", "discarded"]
    assert len({uuid.UUID(r["user_id"]) for r in (ana, bob, eve)}) == 3
    assert record["suggestions"] == {}
    assert record["metadata"] == {"answers": 4, "category": "places", "all_bad": 1}


def test_a_model_suggests_and_people_respond(store: Store) -> None:
    judge(store, "judge-1", [[0], [1], [2], [3]], "ai")
    judge(store, "judge-2", [[0, 1], [2, 3]], "ai")  # ties: a suggestion cannot say them
    judge(store, "judge-3", [[3], [2]], "ai")  # nor gaps
    judge(store, "ana", [[3], [2], [1], [0]])
    [record] = exported(store, "argilla.json")
    assert record["suggestions"] == {
        "ranking": {"value": ["answer-1", "answer-2", "answer-3", "answer-4"], "agent": "judge-1", "type": "model"}
    }
    assert [v["value"][-1] for v in record["responses"]["ranking"][0]["value"]] == ["4", "3", "2", "1"]


def test_one_response_of_a_judge_and_strangers_apart(store: Store) -> None:
    judge(store, "ana", [[0], [1], [2], [3]])
    judge(store, "ana", [[1], [0], [2], [3]])
    judge(store, "", [[0], [1], [2], [3]])
    judge(store, "", [[2], [1], [0], [3]])
    [record] = exported(store, "argilla.json")
    responses = record["responses"]["ranking"]
    assert len({r["user_id"] for r in responses}) == len(responses) == 3
    assert responses[0]["value"][0] == {"value": "answer-2", "rank": 1}


def test_label_studio_buckets_hold_ties_and_the_rest(store: Store) -> None:
    judge(store, "ana", [[1], [0, 2]], seconds=4.5)
    judge(store, "bob", [[0], [1], [2], [3]], all_bad=True)
    [task] = exported(store, "label-studio-ranker.json")
    assert task["data"]["prompt"] == "user: Hi\n\nassistant: Hello!\n\nuser: Where is Oslo?"
    assert [(a["id"], a["body"]) for a in task["data"]["answers"]] == [
        (f"answer-{n}", t) for n, t in enumerate(TEXTS, 1)
    ]
    assert task["data"]["annotators"] == ["ana", "bob"]
    ana, bob = task["annotations"]
    assert ana["lead_time"] == 4.5
    [ranked] = ana["result"]
    assert {k: ranked[k] for k in ("from_name", "to_name", "type")} == {
        "from_name": "ranking", "to_name": "answers", "type": "ranker"
    }  # fmt: skip
    assert ranked["value"] == {"ranker": {"1": ["answer-2"], "2": ["answer-1", "answer-3"], "_": ["answer-4"]}}
    assert bob["result"][0]["value"] == {
        "ranker": {"1": ["answer-1"], "2": ["answer-2"], "3": ["answer-3"], "4": ["answer-4"]}
    }
    assert bob["result"][1]["value"] == {"choices": ["no answer is acceptable"]}


@pytest.mark.parametrize(
    ("tiers", "all_bad", "expected"),
    [
        ([[0], [1]], False, [{"selected": "left"}]),
        ([[1], [0]], False, [{"selected": "right"}]),
        ([[0, 1]], False, [{"choices": ["equally good"]}]),
        ([], True, [{"choices": ["no answer is acceptable"]}]),
        ([[1], [0]], True, [{"selected": "right"}, {"choices": ["no answer is acceptable"]}]),
    ],
)
def test_label_studio_pairs(store: Store, tiers: list[list[int]], all_bad: bool, expected: list[Any]) -> None:
    judge(store, "ana", tiers, count=2, all_bad=all_bad)
    judge(store, "bob", [[0], [1], [2]])  # three answers: no pair
    [task] = exported(store, "label-studio-pairwise.json")
    assert (task["data"]["left"], task["data"]["right"]) == TEXTS[:2]
    assert [r["value"] for r in task["annotations"][0]["result"]] == expected


@pytest.mark.parametrize("config", [RANKER_CONFIG, PAIRWISE_CONFIG])
def test_every_result_names_tags_of_the_configuration(store: Store, config: str) -> None:
    tags = {tag.get("name"): tag for tag in ElementTree.fromstring(config).iter() if tag.get("name")}
    judge(store, "ana", [[1], [0]], count=2, all_bad=True)
    judge(store, "bob", [[0, 1]], count=2)
    name = "label-studio-ranker.json" if config is RANKER_CONFIG else "label-studio-pairwise.json"
    [task] = exported(store, name)
    for annotation in task["annotations"]:
        for result in annotation["result"]:
            tag = tags[result["from_name"]]
            assert result["type"] == tag.tag.lower()
            assert result["to_name"] in (tag.get("toName"), tag.get("name"))
            for chosen in result["value"].get("choices", []):
                assert chosen in [choice.get("value") for choice in tag]
            for bucket in result["value"].get("ranker", {}):
                assert bucket in tags
    for tag in tags.values():
        if (value := tag.get("value", "")).startswith("$"):
            assert value[1:] in task["data"]


def test_the_hugging_face_layout_by_keys_and_types(store: Store) -> None:
    judge(store, "ana", [[1], [0, 2]])
    lines = [json.loads(line) for line in EXPORTS["preference.jsonl"].lines(store, "")]
    assert [line["tiers_apart"] for line in lines] == [
        1,
        1,
    ]  # 1 over 0, 1 over 2; what is equal or was not ranked gives none
    for line in lines:
        assert {key: type(value) for key, value in line.items()} == {
            "prompt": list, "chosen": list, "rejected": list, "tiers_apart": float, "weight": float, "judge": str,
        }  # fmt: skip
        for message in [*line["prompt"], *line["chosen"], *line["rejected"]]:
            assert {key: type(value) for key, value in message.items()} == {"role": str, "content": str}
        assert [m["role"] for m in line["prompt"]] == ["user", "assistant", "user"]
        assert [m["role"] for m in (*line["chosen"], *line["rejected"])] == ["assistant", "assistant"]
    assert {line["rejected"][0]["content"] for line in lines} == {TEXTS[0], TEXTS[2]}


def test_rewardbench_reads_whole_conversations_in_turns_of_user_and_assistant(store: Store) -> None:
    judge(store, "ana", [[1], [0, 2]])
    rows = [json.loads(line) for line in EXPORTS["rewardbench.jsonl"].lines(store, "")]
    talk = [{"role": m.role, "content": m.content} for m in PROMPT.messages]
    assert rows == [
        {"prompt": "Where is Oslo?", "chosen": [*talk, {"role": "assistant", "content": TEXTS[1]}],
         "rejected": [*talk, {"role": "assistant", "content": TEXTS[place]}], "subset": "places", "id": number}
        for number, place in enumerate((0, 2))
    ]  # fmt: skip
    brief = Prompt((Message("system", "Be brief."), Message("user", "Hi")))
    row = rewardbench_row(Pair(brief, Completion(brief.id, "a"), Completion(brief.id, "b")), 3)
    assert [m["role"] for m in row["chosen"]] == ["user", "assistant"]
    assert row["rejected"][0]["content"] == "Be brief.\n\nHi"


@pytest.mark.parametrize("name", EXPORTS)
def test_an_empty_store_gives_an_empty_file_that_can_be_read(store: Store, name: str) -> None:
    text = "".join(EXPORTS[name].lines(store, ""))
    assert json.loads(text) == [] if name.endswith(".json") else len(text.splitlines()) == name.endswith(".csv")


def test_a_batch_alone_and_everything(desk: Desk, store: Store, people: People) -> None:
    ana = people.accept(people.invite("annotator"), "Ana", "no hash")
    batches = []
    for mode, text in (("rank", "first"), ("pair", "second")):
        known: Mode = "pair" if mode == "pair" else "rank"
        batches.append(desk.create(BatchSettings(name=text, mode=known), "# Be kind", materials(1, 2, text)))
        task = desk.task(str(desk.next(ana.id, batches[-1].id)), ana.id)
        submit(store, task, Answer(client_key=f"key-{text}", tiers=((1,), (0,))))
    assert len(exported(store, "argilla.json")) == 2
    for batch, text in zip(batches, ("first", "second"), strict=True):
        for name in ("argilla.json", "label-studio-ranker.json", "label-studio-pairwise.json"):
            [item] = exported(store, name, batch.id)
            assert text in json.dumps(item)


def test_the_command_writes_what_the_page_gives(store: Store, tmp_path: Any) -> None:
    judge(store, "ana", [[1], [0, 2], [3]])
    db = str(tmp_path / "judgements.db")
    for name, export in EXPORTS.items():
        whole = "".join(export.lines(store, ""))
        said = CliRunner().invoke(app, ["export-judgements", name, "--db", db], catch_exceptions=False)
        assert said.stdout_bytes.decode("utf-8").replace("\r\n", "\n") == whole.replace("\r\n", "\n")
        out = tmp_path / "out" / name
        CliRunner().invoke(app, ["export-judgements", name, "--db", db, "--out", str(out)], catch_exceptions=False)
        assert out.read_bytes().decode("utf-8") == whole
    for arguments, words in (
        (["nothing.json"], "argilla.json"),
        (["argilla.json", "--out", str(tmp_path)], "is a folder"),
        (["argilla.json", "--batch", "none"], "there is no batch 'none'"),
    ):
        with pytest.raises(MannersError, match=words):
            CliRunner().invoke(app, ["export-judgements", *arguments, "--db", db], catch_exceptions=False)
    assert (tmp_path / "out").is_dir()
