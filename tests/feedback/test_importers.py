"""Every layout by hand-made rows, everything that can be wrong with a row or a file, and the real files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from manners.errors import MannersError
from manners.feedback.importers import (
    LAYOUTS,
    ImportOptions,
    ImportSummary,
    Reject,
    RejectedRowsError,
    import_dataset,
    import_file,
    read,
)
from manners.feedback.pairs import pairs_of
from manners.feedback.store import Counts, Store
from manners.records import Completion, Judgement, Message, Prompt, Ranking, Role

GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "import.md"
PAIR = {"prompt": "Where is Oslo?", "chosen": "In Norway.", "rejected": "Who knows."}


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only(path: Path, layout: str = "auto", **options: Any) -> Judgement:
    (judgement,) = read(path, layout, ImportOptions(**options))
    assert isinstance(judgement, Judgement)
    return judgement


def said(judgement: Judgement) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """What a judgement says, in plain words: the turns, and the texts of each tier."""
    text = {completion.id: completion.text for completion in judgement.completions}
    turns = [(message.role[0], message.content) for message in judgement.prompt.messages]
    return turns, [[text[c] for c in tier] for tier in judgement.ranking.tiers]


HELLO = [("u", "Hi"), ("a", "Hello!"), ("u", "Where is Oslo?")]
OSLO = HELLO[-1:]
BEST_FIRST = [["In Norway."], ["Who knows."]]
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Where is Oslo?\n\nAssistant:"


def messages(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


LAYOUT_CASES: list[tuple[str, dict[str, Any], list[tuple[str, str]], list[list[str]]]] = [
    ("hh", {"chosen": TRANSCRIPT + " In Norway.", "rejected": TRANSCRIPT + " Who knows. "}, HELLO, BEST_FIRST),
    ("preference", PAIR, OSLO, BEST_FIRST),
    ("preference", {**PAIR, "prompt": TRANSCRIPT}, HELLO, BEST_FIRST),
    ("preference", {**PAIR, "prompt": TRANSCRIPT.strip().removesuffix("\n\nAssistant:")}, HELLO, BEST_FIRST),
    (
        "preference",
        {"prompt": TRANSCRIPT, "chosen": TRANSCRIPT + " In Norway.", "rejected": TRANSCRIPT + " Who knows."},
        HELLO,
        BEST_FIRST,
    ),
    (
        "preference",
        {
            "prompt": messages(("system", "Be kind."), ("user", "Where is Oslo?")),
            "chosen": messages(("assistant", "In Norway.")),
            "rejected": messages(("assistant", "Who knows.")),
        },
        [("s", "Be kind."), *OSLO],
        BEST_FIRST,
    ),
    (
        "preference",
        {
            "chosen": messages(("user", "Where is Oslo?"), ("assistant", "In Norway.")),
            "rejected": messages(("user", "Where is Oslo?"), ("assistant", "Who knows.")),
        },
        OSLO,
        BEST_FIRST,
    ),
    (
        "preference",
        {
            "prompt": "Where is Oslo?",
            "chosen": messages(("user", "Where is Oslo?"), ("assistant", "In Norway.")),
            "rejected": messages(("user", "Where is Oslo?"), ("assistant", "Who knows.")),
        },
        OSLO,
        BEST_FIRST,
    ),
    (
        "preference",
        {"prompt": messages(("user", "Where is Oslo?")), "chosen": "In Norway.", "rejected": "Who knows."},
        OSLO,
        BEST_FIRST,
    ),
    (
        "oasst",
        {
            "messages": messages(("prompter", "Hi"), ("assistant", "Hello!"), ("prompter", "Where is Oslo?")),
            "completions": ["Who knows.", "In Norway.", "Far away."],
            "ranks": [1, 0, 1],
        },
        HELLO,
        [["In Norway."], ["Who knows.", "Far away."]],
    ),
    (
        "ratings",
        {"prompt": "Where is Oslo?", "completions": ["Who knows.", "In Norway."], "scores": [1, 4.5]},
        OSLO,
        BEST_FIRST,
    ),
    (
        "manners",
        {"prompt": "Where is Oslo?", "completions": ["Who knows.", "Far.", "In Norway."], "ranking": [2, [0, 1]]},
        OSLO,
        [["In Norway."], ["Who knows.", "Far."]],
    ),
    (
        "manners",
        {"prompt": messages(("user", "Where is Oslo?")), "completions": ["A", "B", "In Norway."], "ranking": [[2]]},
        OSLO,
        [["In Norway."]],
    ),
]


@pytest.mark.parametrize(("layout", "row", "turns", "tiers"), LAYOUT_CASES)
def test_layouts_are_recognised_and_read(
    tmp_path: Path, layout: str, row: dict[str, Any], turns: list[tuple[str, str]], tiers: list[list[str]]
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [row])
    assert said(only(path)) == (turns, tiers)
    assert only(path, layout) == only(path)
    assert only(path).ranking.shown == ()
    assert only(path).ranking.source == "human"
    with Store.open(tmp_path / "s.db") as store:
        assert import_file(store, path).layout == layout


def test_the_last_answer_is_cut_at_the_right_most_mark(tmp_path: Path) -> None:
    # The answer itself speaks of an "Assistant:", which only counts at the beginning of a paragraph.
    row = {key: TRANSCRIPT + text for key, text in (("chosen", " I, Assistant: yes."), ("rejected", " No."))}
    assert said(only(jsonl(tmp_path / "rows.jsonl", [row]))) == (HELLO, [["I, Assistant: yes."], ["No."]])


def test_the_common_beginning_is_a_prompt_only_by_name(tmp_path: Path) -> None:
    row = {"chosen": "The capital of Norway is Oslo.", "rejected": "The capital of Norway is Osaka."}
    path = jsonl(tmp_path / "rows.jsonl", [row])
    assert said(only(path, "prefix")) == ([("u", "The capital of Norway is")], [["Oslo."], ["Osaka."]])
    with pytest.raises(MannersError, match="fits no layout"):
        only(path)


def test_our_own_lines_come_back_with_the_same_ids(tmp_path: Path) -> None:
    prompt = Prompt((Message("system", " Be kind. "), Message("user", "  code:\n\tx\n")), category="code", split="test")
    answers = tuple(
        Completion(prompt.id, text, finished=k > 0, model=f"m{k}", sampling={"top_p": 0.9}, seed=k)
        for k, text in enumerate(("  x ", "y\u2028z", "x"))
    )
    ids = [answer.id for answer in answers]
    first = Ranking(prompt.id, ((ids[2],), (ids[0],)), judge="ann", shown=tuple(ids[::-1]), seconds=1.5, note="ü")
    unshown = Ranking(prompt.id, ((ids[1], ids[0]),), source="rule", judge="rule 1")
    bad = Ranking(prompt.id, (), source="ai", all_bad=True, shown=tuple(ids), supersedes=first.id)
    given = [Judgement(prompt, answers, ranking) for ranking in (first, unshown, bad)]
    path = jsonl(tmp_path / "own.jsonl", [judgement.to_json() for judgement in given])
    assert list(read(path)) == given
    with Store.open(tmp_path / "one.db") as one, Store.open(tmp_path / "two.db") as two:
        one.add(given)
        import_file(two, path)
        assert two.content_hash() == one.content_hash()


def test_simple_form_keeps_what_else_was_said(tmp_path: Path) -> None:
    row = {
        "prompt": "Tell me a joke.", "completions": ["No.", "Go."], "all_bad": True, "note": "rude", "seconds": 3,
        "judge": "ann", "category": "fun", "split": "validation",
    }  # fmt: skip
    judgement = only(jsonl(tmp_path / "rows.jsonl", [row]), judge="somebody", category="other", split="train")
    expected = Ranking(judgement.prompt.id, (), judge="ann", all_bad=True, note="rude", seconds=3)
    assert judgement.ranking == expected
    assert judgement.prompt == Prompt.of("Tell me a joke.", category="fun", split="validation")


def test_options_speak_for_rows_that_do_not(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "Where?", "chosen": "Here.", "rejected": "There."}])
    judgement = only(path, judge="j", source="ai", category="c", split="test", rename={"question": "prompt"})
    assert judgement.prompt == Prompt.of("Where?", category="c", split="test")
    assert (judgement.ranking.judge, judgement.ranking.source) == ("j", "ai")
    (reject,) = read(path, "preference", ImportOptions(rename={"question": "prompt", "chosen": "prompt"}))
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.row["question"]) == ("renaming gives two columns the same name", "Where?")


def test_ratings_by_criteria(tmp_path: Path) -> None:
    # As floats 0.1 + 0.2 is more than 0.15 + 0.15.
    scores = [{"clear": 0.1, "true": 0.2}, {"clear": 0.15, "true": 0.15}, {"clear": 0.12, "true": 0.3}]
    row = {"prompt": "p", "completions": ["a", "b", "c"], "scores": scores, "systems": ["x", "y", "x"]}
    path = jsonl(tmp_path / "rows.jsonl", [row])
    # Means 0.15, 0.15 and 0.21; by clearness alone the second is first.
    assert said(only(path))[1] == [["c"], ["a", "b"]]
    assert said(only(path, criterion="clear"))[1] == [["b"], ["c"], ["a"]]
    assert [completion.model for completion in only(path).completions] == ["x", "y", "x"]
    (reject,) = read(path, options=ImportOptions(criterion="charm"))
    assert isinstance(reject, Reject)
    assert reject.reason == "there is no criterion 'charm'; there are clear, true"


def test_equal_texts_of_two_models_are_two_answers(tmp_path: Path) -> None:
    row = {"prompt": "p", "completions": ["same", "same ", "c"], "scores": [3, 2, 1], "systems": ["x", "y", "z"]}
    judgement = only(jsonl(tmp_path / "rows.jsonl", [row]))
    assert said(judgement)[1] == [["same"], ["same"], ["c"]]
    assert [(pair.chosen.model, pair.rejected.model) for pair in pairs_of(judgement)] == [("x", "z"), ("y", "z")]


def test_one_row_per_answer(tmp_path: Path) -> None:
    path = tmp_path / "rated.csv"
    path.write_text(
        "prompt,completion,rating,judge,model,wit\n"
        "p,a,1,ann,m1,9\n"
        "q,alone,5,ann,m1,1\n"
        "p,b,5,ann,m2,2\n"
        "p,a,5,bob,m1,3\n"
        "p,c,5.0,ann,m3,2\n"
        "p,b,four,bob,m2,3\n"
        "p,b,4,bob,m2,3\n"
        "p,b,3,bob,m2,3\n",
        encoding="utf-8",
    )
    results = list(read(path))
    judgements = [result for result in results if isinstance(result, Judgement)]
    assert [(j.ranking.judge, said(j)[1]) for j in judgements] == [
        ("ann", [["b", "c"], ["a"]]),
        ("bob", [["a"], ["b"]]),
    ]
    assert [c.model for c in judgements[0].completions] == ["m1", "m2", "m3"]
    rejects = {result.line: result.reason for result in results if isinstance(result, Reject)}
    assert rejects.keys() == {3, 7, 9}
    assert "no other answer" in rejects[3]
    assert rejects[7] == "rating must be a number, not 'four'"
    assert "rated before" in rejects[9]
    by_wit = [result for result in read(path, options=ImportOptions(criterion="wit")) if isinstance(result, Judgement)]
    assert said(by_wit[0])[1] == [["a"], ["b", "c"]]


FULL: dict[str, Any] = Judgement(
    Prompt.of("p"),
    (Completion(Prompt.of("p").id, "a"), Completion(Prompt.of("p").id, "b")),
    Ranking(Prompt.of("p").id, ((Completion(Prompt.of("p").id, "a").id,),)),
).to_json()
SIMPLE = {"prompt": "p", "completions": ["a", "b"], "ranking": [0, 1]}
CONVERSATION = messages(("user", "Hi"), ("assistant", "Hello"))

BAD_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("preference", {**PAIR, "rejected": "In Norway. "}, "chosen and rejected are the same"),
    ("preference", {**PAIR, "chosen": " \n"}, "the chosen answer is empty"),
    ("preference", {**PAIR, "rejected": ""}, "the rejected answer is empty"),
    ("preference", {**PAIR, "rejected": None}, "there is no 'rejected'"),
    ("preference", {"chosen": "a", "rejected": "b"}, "there is no 'prompt'"),
    ("preference", {"chosen": 1, "rejected": "b", "prompt": "p"}, "the chosen answer must be text, not int"),
    ("preference", {**PAIR, "prompt": ""}, "the prompt is empty"),
    ("preference", {**PAIR, "prompt": []}, "the prompt is empty"),
    ("preference", {**PAIR, "prompt": 7}, "the prompt must be a list, not int"),
    ("preference", {**PAIR, "prompt": CONVERSATION}, "the last turn of the prompt is the assistant's, not the user's"),
    ("preference", {**PAIR, "prompt": "Human: Hi\n\nAssistant: Hello"}, "the prompt is the assistant's"),
    ("preference", {**PAIR, "prompt": "Human: \n\nAssistant:"}, "the last turn of the prompt is empty"),
    ("preference", {**PAIR, "prompt": messages(("bot", "Hi"))}, "the prompt has the role 'bot'"),
    ("preference", {**PAIR, "prompt": [{"role": "user"}]}, "messages with role and content"),
    ("preference", {**PAIR, "prompt": [{"role": "user", "content": None}]}, "content is NoneType, not text"),
    ("preference", {**PAIR, "split": "dev"}, "the split must be one of train, validation, test, not 'dev'"),
    ("preference", {**PAIR, "judge": 7}, "'judge' must be text, not int"),
    ("preference", {"chosen": CONVERSATION, "rejected": CONVERSATION}, "chosen and rejected are the same"),
    ("preference", {"chosen": CONVERSATION, "rejected": CONVERSATION[:1]}, "rejected ends with a turn of the user"),
    ("preference", {"chosen": CONVERSATION, "rejected": CONVERSATION[1:]}, "before the last answers differ"),
    ("preference", {"chosen": CONVERSATION[1:], "rejected": messages(("assistant", "B"))}, "the prompt is empty"),
    (
        "preference",
        {"prompt": "Else?", "chosen": CONVERSATION, "rejected": [CONVERSATION[0], *messages(("assistant", "B"))]},
        "the prompt is not part of the conversation",
    ),
    ("hh", {"chosen": TRANSCRIPT + " a", "rejected": TRANSCRIPT + " "}, "the rejected answer is empty"),
    ("hh", {"chosen": TRANSCRIPT + " a", "rejected": TRANSCRIPT + " a"}, "chosen and rejected are the same"),
    ("hh", {"chosen": TRANSCRIPT + " a", "rejected": "\n\nHuman: Else\n\nAssistant: b"}, "answers differ"),
    ("hh", {"chosen": TRANSCRIPT + " a", "rejected": "just text"}, "rejected has no 'Assistant:' turn"),
    ("hh", {"chosen": TRANSCRIPT + " a\n\nHuman: b", "rejected": TRANSCRIPT}, "chosen ends with a turn of the human"),
    ("hh", {"chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"}, "does not begin with 'Human:'"),
    ("hh", {"chosen": "x\n\nHuman: y\n\nAssistant: a", "rejected": "x\n\nHuman: y\n\nAssistant: b"}, "does not begin"),
    ("prefix", {"chosen": "one", "rejected": "two"}, "no common beginning"),
    ("prefix", {"chosen": "one two", "rejected": "one two"}, "chosen and rejected are the same"),
    ("oasst", {"messages": CONVERSATION[:1], "completions": ["a", "b"], "ranks": [0]}, "2 completions and 1 numbers"),
    ("oasst", {"messages": CONVERSATION[:1], "completions": ["a"], "ranks": [0]}, "needs two completions"),
    ("oasst", {"messages": CONVERSATION[:1], "completions": ["a", "a"], "ranks": [0, 1]}, "(from 0) are the same text"),
    ("oasst", {"messages": CONVERSATION[:1], "completions": ["a", ""], "ranks": [0, 1]}, "completion 1 is empty"),
    ("oasst", {"messages": CONVERSATION[:1], "completions": ["a", "b"], "ranks": [0, None]}, "number, not None"),
    ("oasst", {"completions": ["a", "b"], "ranks": [0, 1]}, "there is no 'prompt'"),
    ("ratings", {"prompt": "p", "completions": ["a", "b"], "scores": [True, 2]}, "a score must be a number, not True"),
    ("ratings", {"prompt": "p", "completions": ["a", "b"], "scores": ["nan", 2]}, "must be a number, not 'nan'"),
    ("ratings", {"prompt": "p", "completions": ["a", "b"], "scores": [10**400, 2]}, "a score must be a number"),
    ("ratings", {"prompt": "p", "completions": ["a", "b"], "scores": [{}, 2]}, "a completion has no score"),
    ("ratings", {"prompt": "p", "completions": ["a", "b"], "scores": [1, 2], "systems": ["x"]}, "systems must name"),
    ("ratings", {"prompt": "p", "completions": "ab", "scores": [1, 2]}, "completions must be a list, not str"),
    ("manners", {**SIMPLE, "ranking": None}, "there is no 'ranking'"),
    ("manners", {**SIMPLE, "ranking": []}, "names no completion and does not say all_bad"),
    ("manners", {**SIMPLE, "ranking": [0, 2]}, "the ranking names completion 2, the last one is 1 (counting from 0)"),
    ("manners", {**SIMPLE, "ranking": [0, -1]}, "by its place, counting from 0, not by -1"),
    ("manners", {**SIMPLE, "ranking": [0, "b"]}, "not by 'b'"),
    ("manners", {**SIMPLE, "ranking": [0, [0, 1]]}, "a completion is named twice"),
    ("manners", {**SIMPLE, "ranking": [0, []]}, "a tier of the ranking is empty"),
    ("manners", {**SIMPLE, "all_bad": "yes"}, "all_bad must be true or false"),
    ("manners", {**SIMPLE, "note": 1}, "the note must be text"),
    ("manners", {**SIMPLE, "seconds": "long"}, "seconds must be a number"),
    ("manners", {**SIMPLE, "completions": ["a", 2]}, "completion 1 must be text, not int"),
    ("manners", {**FULL, "tiers": [[2]]}, "tiers count into completions from 0 to 1, 2 is not there"),
    ("manners", {**FULL, "tiers": [[True]]}, "not by True"),
    ("manners", {**FULL, "tiers": None}, "tiers must be a list, not NoneType"),
    ("manners", {**FULL, "source": "god"}, "source must be one of human, ai, rule, not 'god'"),
    ("manners", {**FULL, "source": 3}, "'source' must be str, not 3"),
    ("manners", {**FULL, "seconds": True}, "'seconds' must be int or float or null, not True"),
    ("manners", {**FULL, "seconds": 10**400}, "seconds must be a number"),
    ("manners", {**FULL, "shown": [1]}, "names a completion that was not shown"),
    ("manners", {**FULL, "prompt": "p"}, "the prompt must be an object with messages"),
    ("manners", {**FULL, "prompt": {"messages": []}}, "a prompt needs at least one message"),
    ("manners", {**FULL, "prompt": {"messages": ["p"]}}, "messages with role and content"),
    ("manners", {**FULL, "prompt": {"messages": CONVERSATION}}, "the last turn of the prompt is not the user's"),
    ("manners", {**FULL, "prompt": {**FULL["prompt"], "split": "dev"}}, "split must be one of"),
    ("manners", {**FULL, "completions": ["a", "b"]}, "a completion must be an object with its text"),
    ("manners", {**FULL, "completions": [{"text": "a"}, {"text": " "}]}, "a completion is empty"),
    ("manners", {**FULL, "completions": [{"text": "a", "seed": 2**63}]}, "more than 64 bits"),
    ("manners", {**FULL, "completions": [{"text": "a", "finished": 1}]}, "'finished' must be bool, not 1"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "row", "reason"), BAD_ROWS)
def test_bad_rows_are_rejected_with_a_reason(tmp_path: Path, layout: str, row: dict[str, Any], reason: str) -> None:
    (reject,) = read(jsonl(tmp_path / "rows.jsonl", [row]), layout)
    assert isinstance(reject, Reject)
    assert reason in reject.reason
    assert "\n" not in reject.reason
    assert (reject.line, reject.row) == (1, row)


BROKEN_LINES: list[tuple[bytes, str]] = [
    (b'{"prompt": "p", "chosen": "a", "rejec', "not JSON"),
    (b"plain text", "not JSON"),
    (b'["a", "list"]', "a row must be a JSON object, not list"),
    (b'{"prompt": "caf\xe9", "chosen": "a", "rejected": "b"}', "not UTF-8"),
    (b'{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}', "half of a surrogate pair"),
    (b'{"prompt": "a\\u0000b", "chosen": "a", "rejected": "b"}', "NUL"),
    (b'{"prompt": "p", "chosen": "a", "rejected": "b", "score": NaN}', "NaN is no JSON value"),
    (b"[" * 5000, "nested too deeply"),
]


def test_broken_lines_go_to_the_rejects_file_and_nothing_is_lost(tmp_path: Path) -> None:
    good = json.dumps(PAIR).encode()
    lines = [good, b"", *(line for line, _ in BROKEN_LINES), json.dumps({**PAIR, "prompt": "Else?"}).encode()]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    with Store.open(tmp_path / "s.db") as store:
        summary = import_file(store, path)
        assert [p.text for p in store.prompts()] == ["Where is Oslo?", "Else?"]
    rejects = tmp_path / "rows.jsonl.rejects.jsonl"
    count = len(BROKEN_LINES)
    assert summary == ImportSummary("preference", count + 2, 2, 2, 0, count, rejects, summary.record_id)
    written = [json.loads(line) for line in rejects.read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in written] == list(range(3, 3 + count))
    for row, (line, reason) in zip(written, BROKEN_LINES, strict=True):
        assert reason in row["reason"]
        kept = row["row"]
        if isinstance(kept, str):
            assert kept.encode("utf-8", "surrogateescape") == line
        else:
            assert kept == json.loads(line)


def test_rejects_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [json.dumps(PAIR), "broken", json.dumps({**PAIR, "chosen": ""}), "broken", json.dumps(PAIR), "broken"]
    path.write_text("\n".join(rows))
    results = list(read(path))
    assert [result.line if isinstance(result, Reject) else "ok" for result in results] == ["ok", 2, 3, 4, "ok", 6]


def test_strict_imports_the_good_rows_and_raises(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [PAIR, {**PAIR, "chosen": ""}])
    with Store.open(tmp_path / "s.db") as store:
        with pytest.raises(RejectedRowsError, match=r"1 of 2 rows of .* were rejected, see .*bad\.jsonl") as caught:
            import_file(store, path, rejects_path=tmp_path / "bad.jsonl", strict=True)
        assert store.counts().rankings == caught.value.summary.judgements == 1
        assert (tmp_path / "bad.jsonl").read_text().count("\n") == 1
        assert import_file(store, jsonl(tmp_path / "good.jsonl", [PAIR]), strict=True).rejects_path is None
    assert not (tmp_path / "good.jsonl.rejects.jsonl").exists()


def test_twice_is_once(tmp_path: Path) -> None:
    rows = [{**PAIR, "prompt": f"prompt {k}"} for k in range(3)]
    path = jsonl(tmp_path / "rows.jsonl", [*rows, rows[0]])
    with Store.open(tmp_path / "s.db") as store:
        first = import_file(store, path)
        assert (first.rows, first.judgements, first.new, first.known) == (4, 4, 3, 1)
        before = (store.counts(), store.content_hash())
        again = import_file(store, path)
        assert again == replace(first, new=0, known=4)
        assert (store.counts(), store.content_hash()) == before
        record = store.imported(first.record_id)
        assert record is not None
        assert (record.path, record.layout) == (str(path), "preference")
        assert record.counts == {"rows": 4, "judgements": 4, "new": 3, "rejected": 0}
        # The same rows in another file format are the same judgements, and another import.
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        other = import_file(store, tmp_path / "rows.json")
        assert (other.new, other.known) == (0, 3)
        assert import_file(store, path, options=ImportOptions(judge="ann")).new == 3
        assert store.counts() == Counts(prompts=3, completions=6, rankings=6, current=6, imports=3)


def test_a_file_cut_short_leaves_nothing_behind(tmp_path: Path) -> None:
    rows = ({**PAIR, "prompt": sha256(b"%d" % k).hexdigest(), "chosen": "" if k == 5 else "a"} for k in range(2000))
    data = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(data[: len(data) * 3 // 4])
    with Store.open(tmp_path / "s.db") as store:
        with pytest.raises(MannersError, match="not a whole gzip file"):
            import_file(store, path)
        assert store.counts() == Counts(0, 0, 0, 0, 0)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("s.db")) == ["rows.jsonl.gz"]


def test_nothing_is_imported_when_the_rejects_cannot_be_written(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [PAIR, {**PAIR, "chosen": ""}])
    (tmp_path / "file").write_text("")
    with Store.open(tmp_path / "s.db") as store:
        for place in (tmp_path, path, tmp_path / "file" / "rejects.jsonl"):
            with pytest.raises(MannersError, match="name another file with --rejects"):
                import_file(store, path, rejects_path=place)
        assert store.counts().rankings == 0
    assert len(list(read(path))) == 2


def test_judgements_and_their_record_are_kept_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MannersError("the disk is full")

    monkeypatch.setattr(Store, "record_import", full)
    with Store.open(tmp_path / "s.db") as store:
        with pytest.raises(MannersError, match="the disk is full"):
            import_file(store, jsonl(tmp_path / "rows.jsonl", [PAIR]))
        assert store.counts() == Counts(0, 0, 0, 0, 0)


def test_progress_ends_at_the_number_of_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", ({**PAIR, "prompt": f"prompt {k}"} for k in range(1203)))
    seen: list[int] = []
    with Store.open(tmp_path / "s.db") as store:
        import_file(store, path, progress=seen.append)
    assert seen == [500, 1000, 1203]


FORMATS: list[tuple[str, str]] = [
    ("rows.jsonl", json.dumps(PAIR)),
    ("rows.json", json.dumps([PAIR], indent=1)),
    ("rows.json", "\n" + json.dumps(PAIR) + "\n"),
    ("rows.csv", "prompt,chosen,rejected\nWhere is Oslo?,In Norway.,Who knows.\n"),
    ("rows.csv", 'prompt;chosen;rejected\r\n"Where is Oslo?";In Norway.;Who knows.\r\n'),
    ("rows.csv", "rejected\tprompt\tchosen\nWho knows.\tWhere is Oslo?\tIn Norway.\n\n"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(("name", "text"), FORMATS)
def test_formats(tmp_path: Path, name: str, text: str, mark: str, packed: bool) -> None:
    path = tmp_path / (f"{name}.gz" if packed else name)
    data = (mark + text).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    assert said(only(path)) == (OSLO, BEST_FIRST)


def test_csv_of_the_standard_library_comes_back(tmp_path: Path) -> None:
    texts = ['a "quoted"\nline, and', "semi;colon\ttab", "ünï\r\nx", "x" * 200_000]
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["prompt", "chosen", "rejected"])
    for text in texts:
        writer.writerow([text, text + "!", text + "?"])
    path = tmp_path / "rows.csv"
    path.write_bytes(stream.getvalue().encode())
    found = [said(j) for j in read(path) if isinstance(j, Judgement)]
    assert found == [([("u", text)], [[text + "!"], [text + "?"]]) for text in texts]


def test_broken_csv_rows_are_kept_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"prompt,chosen,rejected\n"
        b'"two\nlines",a,b\n'
        b"too,few\n"
        b'"bad"quote,a,b\n'
        b"caf\xe9,a,b\n"
        b"p,a,a\n"
        b'good,a,b\n"never closed,a,b\nlost,a,b\n'
    )
    results = list(read(path))
    assert [said(result)[0] for result in results if isinstance(result, Judgement)] == [
        [("u", "two\nlines")],
        [("u", "good")],
    ]
    rejects = [result for result in results if isinstance(result, Reject)]
    assert [reject.line for reject in rejects] == [4, 5, 6, 7, 9]
    for reject, reason in zip(
        rejects, ("3 columns, this row has 2", "not CSV", "not UTF-8", "same", "not CSV"), strict=True
    ):
        assert reason in reject.reason
    assert rejects[-1].row == '"never closed,a,b\nlost,a,b\n'
    assert rejects[2].row.encode("utf-8", "surrogateescape") == b"caf\xe9,a,b\n"


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("empty.jsonl", b"", "holds no rows"),
    ("blank.jsonl", b"\n \n", "holds no rows"),
    ("empty.json", b"", "holds no rows"),
    ("list.json", b"[]", "holds no rows"),
    ("empty.csv", b"", "must name its columns|holds no rows"),
    ("header.csv", b"prompt,chosen,rejected\n", "holds no rows"),
    ("twice.csv", b"prompt,prompt\na,b\n", "each once"),
    ("empty.jsonl.gz", gzip.compress(b"", mtime=0), "holds no rows"),
    ("false.jsonl.gz", b"no gzip", "not a whole gzip file"),
    ("half.json", b'[{"prompt": 1}, ', "not JSON"),
    ("wide.jsonl", "{}".encode("utf-16"), "UTF-16"),
    ("rows.parquet", b"PAR1", r"must end in one of \.jsonl"),
    ("rows.gz", b"", "must end in one of"),
    ("rows", b"{}", "must end in one of"),
    ("noise.jsonl", b"one\ntwo\n", "begins with 2 rows that cannot be read"),
    ("other.jsonl", b'{"title": "x", "body": "y"}', r"fits no layout \(its columns are title, body\).*hh: .*oasst: "),
    (
        "both.jsonl",
        b'{"prompt": "p", "completions": ["a", "b"], "ranking": [0, 1], "scores": [1, 2]}',
        r"fits several layouts \(manners, ratings\)",
    ),
    (
        "mixed.jsonl",
        json.dumps(PAIR).encode() + b'\n{"prompt": "p", "completion": "a", "rating": 1}',
        r"fits several layouts \(preference, rated-answers\)",
    ),
]


@pytest.mark.parametrize(("name", "data", "reason"), BAD_FILES)
def test_files_that_cannot_be_imported(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MannersError, match=reason) as caught:
        list(read(tmp_path / name))
    assert "\n" not in str(caught.value)
    with Store.open(tmp_path / "s.db") as store:
        with pytest.raises(MannersError, match=reason):
            import_file(store, tmp_path / name)
        assert store.counts() == Counts(0, 0, 0, 0, 0)


def test_missing_files_and_unknown_layouts(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="does not exist"):
        read(tmp_path / "missing.jsonl")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(MannersError, match="is a directory"):
        read(tmp_path / "folder.csv")
    with pytest.raises(MannersError, match="no layout 'hhh'; known are manners, hh, oasst"):
        read(jsonl(tmp_path / "rows.jsonl", [PAIR]), "hhh")


# Data sets of the Hub


class _Data(list[dict[str, Any]]):
    _fingerprint = "f1"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the `datasets` package that notes how it was called."""
    calls: list[dict[str, Any]] = []

    class DatasetsError(Exception):
        pass

    def load_dataset(path: str, **words: Any) -> _Data:
        calls.append({"path": path, **words})
        if path == "nobody/nothing":
            raise DatasetsError("Dataset 'nobody/nothing'\ndoesn't exist on the Hub")
        bad: dict[str, Any] = {**PAIR, "chosen": "", "when": object}
        return _Data([PAIR, bad] if words["split"] == "train" else [])

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.exceptions = SimpleNamespace(DatasetsError=DatasetsError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_a_data_set_is_imported_like_a_file(
    tmp_path: Path, hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open(tmp_path / "s.db") as store:
        summary = import_dataset(store, "some/set", "train", subset="small", revision="abc")
        assert (summary.layout, summary.rows, summary.new, summary.rejected) == ("preference", 2, 1, 1)
        assert import_dataset(store, "some/set", "train", subset="small", revision="abc") == replace(
            summary, new=0, known=1
        )
        (reject,) = map(json.loads, (tmp_path / "some--set.train.rejects.jsonl").read_text().splitlines())
        assert (reject["line"], reject["reason"]) == (2, "the chosen answer is empty")
        assert hub[0] == {"path": "some/set", "name": "small", "split": "train", "revision": "abc"}
        with pytest.raises(MannersError, match="some/set holds no rows"):
            import_dataset(store, "some/set", "test")
        with pytest.raises(
            MannersError, match="cannot load the data set nobody/nothing, split 'train': Dataset"
        ) as caught:
            import_dataset(store, "nobody/nothing", "train")
        assert "\n" not in str(caught.value)


def test_the_hub_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with Store.open(tmp_path / "s.db") as store, pytest.raises(MannersError, match=r'pip install "manners\[hub\]"'):
        import_dataset(store, "some/set", "train")


# The guide


def test_every_example_of_the_guide_is_imported(tmp_path: Path) -> None:
    examples = re.findall(
        r"<!-- example: (\S+) (\S+) -->\n```\w+\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert {layout for layout, _, _ in examples} == {layout.name for layout in LAYOUTS}
    for number, (layout, ending, text) in enumerate(examples):
        path = tmp_path / f"{number}.{ending}"
        path.write_text(text, encoding="utf-8")
        with Store.open(tmp_path / f"{number}.db") as store:
            summary = import_file(store, path, "prefix" if layout == "prefix" else "auto", strict=True)
        assert summary.layout == layout
        assert summary.new == summary.judgements > 0


# The real files

DATA = os.environ.get("MANNERS_DATA")
real = pytest.mark.skipif(DATA is None, reason="MANNERS_DATA names no folder")


def imported(tmp_path: Path, name: str) -> tuple[list[dict[str, Any]], ImportSummary, list[Judgement], Counter[str]]:
    path = Path(str(DATA)) / name
    with gzip.open(path, "rt") if name.endswith(".gz") else path.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    rejects = tmp_path / "rejects.jsonl"
    with Store.open(tmp_path / "s.db") as store:
        summary = import_file(store, path, rejects_path=rejects)
        again = import_file(store, path, rejects_path=rejects)
        assert (again.new, again.known, again.rejected) == (0, summary.judgements, summary.rejected)
        judgements = list(store.judgements())
        assert len(judgements) == store.counts().current == summary.new
    reasons: Counter[str] = Counter()
    if summary.rejects_path:
        reasons.update(json.loads(line)["reason"] for line in rejects.read_text(encoding="utf-8").splitlines())
    assert summary.rows == len(rows) == summary.judgements + sum(reasons.values())
    return rows, summary, judgements, reasons


@pytest.mark.data
@real
def test_hh_rlhf(tmp_path: Path) -> None:
    rows, summary, judgements, reasons = imported(tmp_path, "hh_rlhf/harmless-base_test.jsonl.gz")
    assert (len(rows), summary.layout) == (1863, "hh")
    halves = [[row[key].rsplit("\n\nAssistant:", 1) for key in ("chosen", "rejected")] for row in rows]
    differing = sum(chosen[0] != rejected[0] for chosen, rejected in halves)
    empty = sum(a[0] == b[0] and not (a[1].strip() and b[1].strip()) for a, b in halves)
    assert reasons["the conversations before the last answers differ"] == differing == 5
    assert reasons["the chosen answer is empty"] + reasons["the rejected answer is empty"] == empty == 4
    assert summary.rejected == 9
    good = [(a, b) for a, b in halves if a[0] == b[0] and a[1].strip() and b[1].strip()]
    expected = {(a[0].count("\n\nHuman:"), a[1].strip(), b[1].strip()) for a, b in good}
    turns = Counter[Role](m.role for j in judgements for m in j.prompt.messages)
    assert {
        (sum(m.role == "user" for m in j.prompt.messages), *(c.text for c in j.completions)) for j in judgements
    } == expected
    assert turns["user"] > turns["assistant"] > 0


@pytest.mark.data
@real
@pytest.mark.parametrize(("name", "count"), [("helpful", 1574), ("harmless", 1664)])
def test_derived_hh(tmp_path: Path, name: str, count: int) -> None:
    rows, summary, judgements, _ = imported(tmp_path, f"derived/hh_{name}_test_human.jsonl")
    assert (len(rows), summary.layout) == (count, "preference")
    bad = 0
    for row in rows:
        answers = {row["chosen"].strip(), row["rejected"].strip()}
        speakers = re.findall(r"(?:^|\n\n)(Human|Assistant):", row["prompt"])
        bad += "" in answers or len(answers) == 1 or speakers[-1] != "Human"
    assert summary.rejected == bad > 0
    assert {j.prompt.messages[0].role for j in judgements} == {"user"}
    assert any(len(j.prompt.messages) > 2 for j in judgements)


@pytest.mark.data
@real
def test_oasst(tmp_path: Path) -> None:
    rows, summary, judgements, _ = imported(tmp_path, "derived/oasst_rankings.jsonl")
    assert (len(rows), summary.layout, summary.rejected) == (166, "oasst", 0)
    best_first = [sorted(zip(row["ranks"], map(str.strip, row["completions"]), strict=True)) for row in rows]
    assert [[text for tier in said(j)[1] for text in tier] for j in judgements] == [
        [text for _, text in pairs] for pairs in best_first
    ]
    ranks = [len(row["ranks"]) for row in rows]
    assert sum(len(pairs_of(j)) for j in judgements) == sum(k * (k - 1) // 2 for k in ranks)


@pytest.mark.data
@real
def test_topical_chat(tmp_path: Path) -> None:
    rows, summary, judgements, _ = imported(tmp_path, "derived/topical_chat_ratings.jsonl")
    assert (len(rows), summary.layout, summary.rejected) == (60, "ratings", 0)
    for row, judgement in zip(rows, judgements, strict=True):
        # In hundred-thousandths, so that the thirds in the file are no matter of rounding.
        means = [round(sum(score.values()) / len(score) * 1e5) for score in row["scores"]]
        texts = [text.strip() for text in row["completions"]]
        by_mean = sorted(set(means), reverse=True)
        assert said(judgement)[1] == [[t for t, m in zip(texts, means, strict=True) if m == level] for level in by_mean]


@pytest.mark.data
@real
def test_one_comparison_in_two_files_is_one_judgement(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        for name in ("hh_rlhf/harmless-base_test.jsonl.gz", "derived/hh_harmless_test_human.jsonl"):
            summary = import_file(store, Path(str(DATA)) / name, rejects_path=tmp_path / "rejects.jsonl")
    # The derived file holds a part of the other one, in another layout.
    assert summary.known > 1600
    assert summary.new < 10
