from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from manners.errors import MannersError
from manners.evaluate.datasets import PUBLISHED, SHIPPED, gather
from manners.evaluate.questions import TOPICS, Items, some
from manners.runs import write_jsonl

HHH = {"helpful": 59, "honest": 61, "harmless": 58, "other": 43}


def test_our_own_items_are_enough_and_each_is_there_once() -> None:
    items, sources, missing = gather()
    sizes = {topic: len(set(of_topic(items, topic))) for topic in TOPICS}
    assert sizes == {topic: len(of_topic(items, topic)) for topic in TOPICS}
    assert all(count >= 40 for topic, count in sizes.items() if topic != "passages")
    assert sizes["passages"] >= 20
    labels = [p.category for p in items.lookalikes]
    assert labels.count("safe") == labels.count("unsafe") >= 40
    assert all(
        source.shipped and source.licence == "Apache-2.0" and len(source.sha256) == 64 for source in sources.values()
    )
    assert {each["row"] for each in missing} == {p.topic for p in PUBLISHED}
    assert {c.subset for c in items.comparisons} == set(HHH)


def of_topic(items: Items, topic: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] = vars(items)[topic]
    return found


def test_our_own_questions_can_be_scored() -> None:
    items, _, _ = gather()
    for question in items.truthful:
        assert question.best in question.true
        assert len(question.true) >= 2 or len(question.false) >= 3
        assert len(question.false) >= 2
        assert not set(question.true) & set(question.false)
    assert all(fact.answer not in fact.wrong and len(fact.wrong) == 3 for fact in items.facts)
    assert all(c.chosen != c.rejected for c in items.comparisons)
    assert all(len(passage.split()) >= 40 for passage in items.passages)


def test_no_prompt_stands_in_two_sets() -> None:
    items, _, _ = gather()
    prompts = [p.text for p in (*items.ordinary, *items.provoking, *items.dangerous, *items.lookalikes)]
    assert len(set(prompts)) == len(prompts)


def test_our_own_items_in_a_folder_come_first(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "ordinary.jsonl", [{"prompt": "What is a quince?"}])
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "harmful_behaviors.csv").write_text("goal,target\nDo harm,Sure\n", encoding="utf-8")
    items, sources, missing = gather(tmp_path)
    assert [p.text for p in items.ordinary] == ["What is a quince?"]
    assert (sources["ordinary"].name, sources["ordinary"].shipped) == ("ordinary.jsonl", False)
    assert [p.text for p in items.dangerous] == ["Do harm"]
    assert sources["dangerous"].name == "AdvBench"
    assert "dangerous" not in {each["row"] for each in missing}
    own, _, _ = gather(tmp_path, chosen={"dangerous": "own"})
    assert len(own.dangerous) > 1


def test_what_is_chosen_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match=r"sets.truthful: 'TruthfulQA' is not at hand"):
        gather(tmp_path, chosen={"truthful": "TruthfulQA"})
    with pytest.raises(MannersError, match="is not a folder"):
        gather(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("xstest_prompts.csv", "id,question\n1,Why?\n", "has not the rows of XSTest"),
        ("hhh_alignment_eval.json", "[{", "is no CSV, JSON or JSONL file"),
        ("passages.jsonl", "", "holds nothing to ask"),
        ("lookalikes.jsonl", '{"prompt": "a", "label": "odd"}\n', "label must be safe or unsafe"),
        ("harmful_behaviors.csv", "goal,target\n\xff", "has not the rows|no CSV"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(MannersError, match=told) as error:
        gather(tmp_path)
    assert name in str(error.value)


def hub(monkeypatch: pytest.MonkeyPatch, cache: Path, load: Any) -> None:
    module = ModuleType("datasets")
    vars(module)["load_dataset"] = load
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setenv("MANNERS_CACHE", str(cache))


def test_the_hub_is_asked_once_and_then_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    rows: dict[str, list[dict[str, Any]]] = {
        "allenai/real-toxicity-prompts": [{"prompt": {"text": "So he", "toxicity": 0.7}}, {"prompt": {"text": "x", "toxicity": None}}],
        "walledai/AdvBench": [{"prompt": "Do harm", "target": "Sure"}],
        "walledai/XSTest": [{"prompt": "a", "label": "safe", "type": "t"}, {"prompt": "b", "label": "unsafe", "type": "t"}],
        "truthfulqa/truthful_qa": [
            {"question": "Q?", "mc1_targets": {"choices": ["n", "y"], "labels": [0, 1]},
             "mc2_targets": {"choices": ["y", "n", "z"], "labels": [1, 0, 1]}}
        ],
        "HuggingFaceH4/hhh_alignment": [{"input": "I", "targets": {"choices": ["bad", "good"], "labels": [0, 1]}}],
    }  # fmt: skip

    def load(name: str, configuration: str | None, split: str) -> list[dict[str, Any]]:
        asked.append((name, configuration, split))
        return rows[name]

    hub(monkeypatch, tmp_path, load)
    items, sources, _ = gather(hub=True)
    assert [p.text for p in items.provoking] == ["So he"]
    assert (items.truthful[0].best, items.truthful[0].true, items.truthful[0].false) == ("y", ("y", "z"), ("n",))
    assert [(c.subset, c.chosen) for c in items.comparisons] == [
        (s, "good") for s in ("helpful", "honest", "harmless", "other")
    ]
    assert sources["truthful"].source == "Hub: truthfulqa/truthful_qa"
    assert len(asked) == 8
    assert gather(hub=True)[1] == sources
    assert len(asked) == 8


def test_without_the_hub_or_its_package_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    hub(monkeypatch, tmp_path, fail)
    with pytest.raises(MannersError, match=r"cannot be had from the Hub \(no route\).*--datasets"):
        gather(hub=True)
    assert not (tmp_path / "datasets").exists()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MannersError, match=r"pip install"):
        gather(hub=True)


def test_some_are_drawn_in_their_order() -> None:
    assert some([1, 2, 3], 3, 0) == [1, 2, 3]
    few = some(list(range(100)), 10, 0)
    assert few == sorted(few)
    assert len(set(few)) == 10
    assert few != some(list(range(100)), 10, 1)


def test_every_topic_ships_a_file_and_nothing_else_lies_there() -> None:
    assert {path.stem for path in SHIPPED.glob("*.jsonl")} == set(TOPICS)


@pytest.mark.data
@pytest.mark.skipif("MANNERS_DATA" not in os.environ, reason="MANNERS_DATA is not set")
def test_published_files_are_read_as_they_are() -> None:
    data = Path(os.environ["MANNERS_DATA"])
    items, sources, missing = gather(data)
    sizes = {
        topic: len(of_topic(items, topic))
        for topic in ("ordinary", "dangerous", "lookalikes", "truthful", "comparisons")
    }
    assert sizes == {"ordinary": 80, "dangerous": 159, "lookalikes": 450, "truthful": 817, "comparisons": 221}
    assert [sources[t].name for t in ("dangerous", "lookalikes", "truthful")] == ["HarmBench", "XSTest", "TruthfulQA"]
    assert [each["row"] for each in missing] == ["provoking"]
    labels = [p.category for p in items.lookalikes]
    assert (labels.count("safe"), labels.count("unsafe")) == (250, 200)
    assert all(q.true and q.false and q.best for q in items.truthful)
    subsets = [c.subset for c in items.comparisons]
    assert {name: subsets.count(name) for name in HHH} == HHH
    wrapped, _, _ = gather(data / "bigbench_hhh")
    assert wrapped.comparisons == items.comparisons
    assert any(len(c.prompt.messages) > 1 for c in items.comparisons)
    assert all(c.prompt.messages[-1].role == "user" for c in items.comparisons)
    goals, _, _ = gather(data / "advbench")
    assert len(goals.dangerous) == 520


@pytest.mark.data
@pytest.mark.skipif("MANNERS_DATA" not in os.environ, reason="MANNERS_DATA is not set")
def test_none_of_our_own_items_stands_in_a_published_set() -> None:
    own, _, _ = gather()
    published, _, _ = gather(Path(os.environ["MANNERS_DATA"]))
    for topic in ("ordinary", "dangerous", "lookalikes"):
        assert not {p.text.lower() for p in of_topic(own, topic)} & {p.text.lower() for p in of_topic(published, topic)}
    assert not {q.text.lower() for q in own.truthful} & {q.text.lower() for q in published.truthful}


def test_every_own_line_is_json_with_the_keys_that_the_readme_names() -> None:
    table = [
        line.split("|") for line in (SHIPPED / "README.md").read_text(encoding="utf-8").splitlines() if ".jsonl" in line
    ]
    assert len(table) == len(TOPICS)
    for _, name, _, keys, _ in table:
        lines = (SHIPPED / name.strip(" `")).read_text(encoding="utf-8").splitlines()
        assert all(list(json.loads(line)) == [key.strip(" `") for key in keys.split(",")] for line in lines)
