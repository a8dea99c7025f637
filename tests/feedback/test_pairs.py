"""Rankings to pairs: the textbook case, every weak order of up to four answers, splits, halves, files."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from itertools import permutations, product
from pathlib import Path
from random import Random

import pytest

from manners.errors import MannersError
from manners.feedback.pairs import (
    demonstrations,
    halves,
    in_split,
    make_pairs,
    pairs_of,
    read_pairs,
    read_rankings,
    split_of,
    ties_of,
    write_pairs,
)
from manners.records import SPLITS, Completion, Judgement, Pair, Prompt, Ranking


def ranked(prompt: Prompt, tiers: list[list[int]], shown: int = 3, **fields: object) -> Judgement:
    """A judgement of completions that are called "0", "1", ..."""
    completions = tuple(Completion(prompt.id, str(place)) for place in range(shown))
    named = tuple(tuple(completions[place].id for place in tier) for tier in tiers)
    return Judgement(prompt, completions, Ranking(prompt.id, named, **fields))  # type: ignore[arg-type]


def texts(judgement: Judgement) -> list[tuple[str, str]]:
    return [(pair.chosen.text, pair.rejected.text) for pair in pairs_of(judgement)]


def test_textbook_ranking_of_three() -> None:
    # Completions 1, 2, 3 were ranked 2nd, 1st, 3rd: comparisons (1,2), (2,3), (3,1) with rewards [0,1], [1,0], [0,1].
    prompt = Prompt.of("a prompt")
    one, two, three = (Completion(prompt.id, text) for text in ("one", "two", "three"))
    ranking = Ranking(prompt.id, ((two.id,), (one.id,), (three.id,)))
    pairs = pairs_of(Judgement(prompt, (one, two, three), ranking))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(two, one), (two, three), (one, three)]
    assert [pair.weight for pair in pairs] == [1 / 3] * 3
    assert [pair.margin for pair in pairs] == [1, 2, 1]
    assert {pair.ranking_id for pair in pairs} == {ranking.id}
    stored = {(pair.chosen.id, pair.rejected.id) for pair in pairs}
    for (left, right), rewards in zip(((one, two), (two, three), (three, one)), ([0, 1], [1, 0], [0, 1]), strict=True):
        assert [int((left.id, right.id) in stored), int((right.id, left.id) in stored)] == rewards


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_weak_order(size: int) -> None:
    prompt = Prompt.of("a prompt")
    for levels in product(range(size), repeat=size):
        used = sorted(set(levels))
        tiers = [[place for place in range(size) if levels[place] == level] for level in used]
        pairs = pairs_of(ranked(prompt, tiers, size))
        expected = {(str(a), str(b)) for a, b in permutations(range(size), 2) if levels[a] < levels[b]}
        assert {(pair.chosen.text, pair.rejected.text) for pair in pairs} == expected
        assert len(pairs) == len(expected)
        for pair in pairs:
            distance = used.index(levels[int(pair.rejected.text)]) - used.index(levels[int(pair.chosen.text)])
            assert pair.margin == distance
        total = sum(Fraction(pair.weight).limit_denominator(100) for pair in pairs)
        assert total == (Fraction(len(expected), math.comb(size, 2)) if size > 1 else 0)


def test_partial_ranking_counts_only_the_named() -> None:
    judgement = ranked(Prompt.of("p"), [[4], [0, 2]], shown=6)
    assert texts(judgement) == [("4", "0"), ("4", "2")]
    assert [pair.weight for pair in pairs_of(judgement)] == [1 / 3, 1 / 3]


def test_all_bad_and_equal_texts_give_no_pair() -> None:
    assert pairs_of(ranked(Prompt.of("p"), [[0], [1]], all_bad=True)) == []
    assert pairs_of(ranked(Prompt.of("p"), [], all_bad=True)) == []
    prompt = Prompt.of("p")
    same = (Completion(prompt.id, "same", model="a"), Completion(prompt.id, "same", model="b"))
    assert pairs_of(Judgement(prompt, same, Ranking(prompt.id, ((same[0].id,), (same[1].id,))))) == []


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pairs_and_ties_are_all_comparisons_of_a_ranking_and_weigh_1(size: int) -> None:
    prompt = Prompt.of("a prompt")
    for levels in product(range(size), repeat=size):
        used = sorted(set(levels))
        judgement = ranked(prompt, [[p for p in range(size) if levels[p] == level] for level in used], size)
        ties = ties_of(judgement)
        expected = {frozenset((str(a), str(b))) for a, b in permutations(range(size), 2) if levels[a] == levels[b]}
        assert {frozenset((tie.chosen.text, tie.rejected.text)) for tie in ties} == expected
        assert len(ties) == len(expected)
        assert all(tie.margin == 0 and tie.ranking_id == judgement.ranking.id for tie in ties)
        both = [*pairs_of(judgement), *ties]
        assert len(both) == math.comb(size, 2)
        assert sum(pair.weight for pair in both) == pytest.approx(1 if size > 1 else 0)


def test_all_bad_and_equal_texts_give_no_tie() -> None:
    prompt = Prompt.of("p")
    assert ties_of(ranked(prompt, [[0, 1, 2]], all_bad=True)) == []
    same = (Completion(prompt.id, "same", model="a"), Completion(prompt.id, "same", model="b"))
    assert ties_of(Judgement(prompt, same, Ranking(prompt.id, ((same[0].id, same[1].id),)))) == []


def test_pairs_and_ties_say_who_judged() -> None:
    judgement = ranked(Prompt.of("p"), [[0], [1, 2]], judge="ada")
    assert [pair.judge for pair in (*pairs_of(judgement), *ties_of(judgement))] == ["ada"] * 3


def test_demonstrations_are_the_finished_top_tier_once() -> None:
    prompt, other = Prompt.of("p"), Prompt.of("q")
    whole, cut = Completion(prompt.id, "whole"), Completion(prompt.id, "cut", finished=False)
    tied = Judgement(prompt, (whole, cut), Ranking(prompt.id, ((whole.id, cut.id),)))
    again = Judgement(prompt, (whole, cut), Ranking(prompt.id, ((whole.id,), (cut.id,)), judge="second"))
    cut_first = Judgement(prompt, (whole, cut), Ranking(prompt.id, ((cut.id,), (whole.id,)), judge="third"))
    bad = ranked(other, [[1], [0]], all_bad=True)
    good = ranked(other, [[2], [0]])
    found = demonstrations([tied, again, cut_first, bad, good])
    assert found == [(prompt, whole), (other, Completion(other.id, "2"))]


def test_split_is_drawn_by_the_documented_hash() -> None:
    seen = set()
    for number in range(60):
        prompt = Prompt.of(f"prompt {number}")
        text = json.dumps(["split", 7, prompt.id], separators=(",", ":"))
        drawn = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64
        expected = "test" if drawn < 0.2 else "validation" if drawn < 0.5 else "train"
        assert split_of(prompt, 7, validation=0.3, test=0.2) == expected
        seen.add(expected)
    assert seen == {"train", "validation", "test"}


def test_split_shares_and_seed() -> None:
    prompts = [Prompt.of(f"prompt {number}") for number in range(4000)]
    splits: list[str] = [split_of(prompt, seed=1, validation=0.1, test=0.25) for prompt in prompts]
    for split, share in (("validation", 0.1), ("test", 0.25), ("train", 0.65)):
        # Four standard deviations of the binomial.
        assert abs(splits.count(split) - 4000 * share) < 4 * math.sqrt(4000 * share * (1 - share))
    assert splits != [split_of(prompt, seed=2, validation=0.1, test=0.25) for prompt in prompts]
    assert all(split_of(prompt, 1, 0, 0) == "train" for prompt in prompts)


def test_own_split_comes_first() -> None:
    for number in range(30):
        assert split_of(Prompt.of(f"prompt {number}", split="test"), seed=0) == "test"


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.1), (0.1, -0.1), (1.5, 0)])
def test_impossible_shares(validation: float, test: float) -> None:
    with pytest.raises(MannersError, match="leave something to train on"):
        split_of(Prompt.of("p"), 0, validation, test)


def crowd() -> list[Judgement]:
    """Three judges on each of 200 prompts of unequal categories."""
    sizes = {"": 81, "code": 77, "jokes": 41, "rare": 1}
    prompts = [
        Prompt.of(f"{category} {number}", category=category) for category, n in sizes.items() for number in range(n)
    ]
    return [ranked(prompt, [[0], [1, 2]], judge=judge) for judge in ("a", "b", "c") for prompt in prompts]


def test_pairs_of_one_prompt_stay_together() -> None:
    judgements = crowd()
    pairs = make_pairs(judgements, seed=3, validation=0.2, test=0.2)
    assert list(pairs) == ["train", "validation", "test"]
    prompts = [{pair.prompt.id for pair in pairs[split]} for split in pairs]
    assert all(prompts)
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 200
    assert sum(map(len, pairs.values())) == 2 * len(judgements)
    for split, members in pairs.items():
        assert {j.prompt.id for j in in_split(judgements, split, 3, 0.2, 0.2)} == {pair.prompt.id for pair in members}


def test_halves_share_no_prompt_and_are_balanced() -> None:
    judgements = crowd()
    first, second = halves(judgements, seed=5)
    training = {j.prompt.id for j in judgements if split_of(j.prompt, 5) == "train"}
    one, two = {j.prompt.id for j in first}, {j.prompt.id for j in second}
    assert one.isdisjoint(two)
    assert one | two == training
    assert len(first) + len(second) == 3 * len(training)
    assert abs(len(one) - len(two)) <= 1
    for category in ("", "code", "jokes", "rare"):
        sizes = [len({j.prompt.id for j in half if j.prompt.category == category}) for half in (first, second)]
        assert abs(sizes[0] - sizes[1]) <= 1
    shuffled = Random(0).sample(judgements, len(judgements))
    assert {j.prompt.id for j in halves(shuffled, seed=5)[0]} == one
    assert {j.prompt.id for j in halves(judgements, seed=6)[0]} != one


def test_written_pairs_come_back_and_the_manifest_is_true(tmp_path: Path) -> None:
    pairs = make_pairs(crowd(), seed=3)
    place = tmp_path / "deep" / "pairs"
    manifest = write_pairs(place, pairs, seed=3, store={"path": "x.db", "hash": "abc"})
    assert json.loads((place / "manifest.json").read_text()) == manifest
    assert manifest["made_from"] == {"seed": 3, "store": {"path": "x.db", "hash": "abc"}}
    for split, members in pairs.items():
        path = place / f"{split}.jsonl"
        assert read_pairs(path) == members
        assert manifest["splits"][split] == {
            "file": path.name,
            "pairs": len(members),
            "rankings": len({pair.ranking_id for pair in members}),
            "prompts": len({pair.prompt.id for pair in members}),
            "hash": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        }


def test_whole_rankings_come_back_and_stand_in_the_manifest(tmp_path: Path) -> None:
    judgements = [*crowd()[:40], ranked(Prompt.of("bad"), [], all_bad=True), ranked(Prompt.of("equal"), [[0, 1, 2]])]
    pairs = make_pairs(judgements, seed=3)
    rankings = {split: list(in_split(judgements, split, 3)) for split in SPLITS}
    manifest = write_pairs(tmp_path, pairs, rankings, seed=3)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    back = {split: read_rankings(tmp_path / "rankings" / f"{split}.jsonl") for split in SPLITS}
    assert back == rankings
    assert sum(map(len, back.values())) == len(judgements)
    for split in SPLITS:
        path = tmp_path / "rankings" / f"{split}.jsonl"
        assert manifest["rankings"][split] == {
            "file": f"rankings/{split}.jsonl",
            "rankings": len(rankings[split]),
            "prompts": len({j.prompt.id for j in rankings[split]}),
            "hash": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        }


def test_rankings_leave_the_files_of_pairs_as_they_are(tmp_path: Path) -> None:
    judgements = crowd()[:40]
    pairs = make_pairs(judgements, seed=3)
    rankings = {split: list(in_split(judgements, split, 3)) for split in SPLITS}
    alone = write_pairs(tmp_path / "alone", pairs, seed=3)
    both = write_pairs(tmp_path / "both", pairs, rankings, seed=3)
    assert both["splits"] == alone["splits"]
    assert not (tmp_path / "alone" / "rankings").exists()


def test_pairs_of_nobody_are_written_as_they_were_before_judges_had_names(tmp_path: Path) -> None:
    pairs = pairs_of(ranked(Prompt.of("p"), [[0], [1]]))
    write_pairs(tmp_path, {"train": pairs})
    (row,) = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert set(row) == {"prompt", "chosen", "rejected", "weight", "margin", "ranking_id"}
    (back,) = read_pairs(tmp_path / "train.jsonl")
    assert (back.judge, back.probability) == ("", 1.0)


def test_judge_and_probability_come_back(tmp_path: Path) -> None:
    (pair,) = pairs_of(ranked(Prompt.of("p"), [[0], [1]], judge="ada"))
    soft = Pair(pair.prompt, pair.chosen, pair.rejected, probability=0.7)
    write_pairs(tmp_path, {"train": [pair, soft]})
    assert read_pairs(tmp_path / "train.jsonl") == [pair, soft]
    assert (pair.swap().chosen, pair.swap().judge, soft.swap().probability) == (pair.rejected, "ada", 0.7)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("probability", 0.3, "probability must be 0.5 to 1"),
        ("probability", 1.2, "probability must be 0.5 to 1"),
        ("weight", 0, "weight must be a positive number"),
        ("weight", float("nan"), "weight must be a positive number"),
        ("weight", float("inf"), "weight must be a positive number"),
        ("weight", "heavy", "is no pair"),
    ],
)
def test_impossible_pairs_are_named_by_their_row(tmp_path: Path, field: str, value: object, says: str) -> None:
    (pair,) = pairs_of(ranked(Prompt.of("p"), [[0], [1]]))
    rows = [pair.to_json(), {**pair.to_json(), field: value}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(MannersError, match=says) as caught:
        read_pairs(tmp_path / "train.jsonl")
    assert str(caught.value).startswith("row 2 of ")
    assert "\n" not in str(caught.value)


def test_a_prompt_with_ties_alone_must_not_stand_on_two_sides(tmp_path: Path) -> None:
    pairs = {"train": pairs_of(ranked(Prompt.of("p"), [[0], [1]]))}
    tied = ranked(Prompt.of("q"), [[0, 1]])
    with pytest.raises(MannersError, match="1 prompts are both in train and in test"):
        write_pairs(tmp_path, pairs, {"train": [tied], "test": [tied]})  # type: ignore[arg-type]


def test_write_refuses_nothing_and_leaks(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="no pairs to write"):
        write_pairs(tmp_path, make_pairs([ranked(Prompt.of("p"), [[0, 1, 2]])], seed=0))
    pairs = pairs_of(ranked(Prompt.of("p"), [[0], [1]]))
    with pytest.raises(MannersError, match="1 prompts are both in train and in test"):
        write_pairs(tmp_path, {"train": pairs, "test": pairs})
    assert list(tmp_path.iterdir()) == []


def test_no_manifest_is_left_beside_files_it_does_not_speak_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = make_pairs(crowd(), seed=3)
    write_pairs(tmp_path, pairs)

    def full(*_: object) -> None:
        raise MannersError("the disk is full")

    monkeypatch.setattr("manners.feedback.pairs.write_jsonl", full)
    with pytest.raises(MannersError, match="full"):
        write_pairs(tmp_path, pairs)
    assert not (tmp_path / "manifest.json").exists()


def test_read_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="does not exist"):
        read_pairs(tmp_path / "train.jsonl")
    with pytest.raises(MannersError, match="is a directory; name one of its files"):
        read_pairs(tmp_path)
    (tmp_path / "other.jsonl").write_text('{"prompt": "text"}\n')
    with pytest.raises(MannersError, match=r"row 1 of .* is no ranking"):
        read_rankings(tmp_path / "other.jsonl")
    with pytest.raises(MannersError, match=r"row 1 of .* is no pair"):
        read_pairs(tmp_path / "other.jsonl")
