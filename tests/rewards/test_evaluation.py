from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import shake
from toy_judgements import fresh_model, ranked, rewards_of, toy_pairs

from manners.models.heads import ScalarHead
from manners.records import Completion, Pair, Prompt
from manners.rewards.evaluation import evaluate_reward
from manners.rewards.groups import GroupStates
from manners.rewards.model import RewardModel

torch.set_num_threads(1)

NONE = {"accuracy": None, "ci": [None, None], "n_pairs": 0}


def shaken(read: Any = "mean", seed: int = 0) -> RewardModel:
    model = fresh_model(read)
    shake(model.trunk, model.adapter, seed=seed)
    return model


def random_pairs(count: int = 12, judges: tuple[str, ...] = ("",)) -> list[Pair]:
    draw, pairs = random.Random(5), []
    for i in range(count):
        texts = ["".join(draw.choices("abcdefg", k=draw.randint(1, 9))) for _ in range(draw.randint(2, 4))]
        prompt = Prompt.of(f"question {i}", category=["odd", "even", ""][i % 3])
        pairs += ranked(prompt, list(dict.fromkeys(texts)), judge=judges[i % len(judges)])
    return pairs


def differences_of(model: RewardModel, pairs: list[Pair]) -> list[float]:
    """r_j − r_k in raw units, pair by pair."""
    found = []
    for pair in pairs:
        scores = [rewards_of(model, pair.prompt, [c.text])[0] for c in (pair.chosen, pair.rejected)]
        found.append((scores[0] - scores[1]) * model.std)
    return found


def test_accuracy_and_the_length_baseline_are_those_of_a_naive_count() -> None:
    pairs = random_pairs()
    model = shaken()
    model.mean, model.std = 5.0, 0.25  # the scale of the scores is nothing to accuracy and calibration
    found = evaluate_reward([model], pairs)
    differences = differences_of(model, pairs)
    right = [d > 0 for d in differences]
    longer = [
        (len(p.chosen.text) > len(p.rejected.text)) + 0.5 * (len(p.chosen.text) == len(p.rejected.text)) for p in pairs
    ]
    assert 0.2 < np.mean(right) < 0.8
    assert 0.5 in longer
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["length_baseline"] == pytest.approx(np.mean(longer))
    assert (found["n_pairs"], found["n_prompts"]) == (len(pairs), len({p.prompt.id for p in pairs}))
    assert found["n_completions"] == len({c.id for p in pairs for c in (p.chosen, p.rejected)})
    assert found["ci"][0] < found["accuracy"] < found["ci"][1]
    assert set(found["by_category"]) == {"odd", "even"}
    for name, row in found["by_category"].items():
        inside = [hit for hit, pair in zip(right, pairs, strict=True) if pair.prompt.category == name]
        assert row["accuracy"] == pytest.approx(np.mean(inside))
        assert row["n_pairs"] == len(inside)

    p = 1 / (1 + np.exp(-np.array(differences)))
    confidence = np.maximum(p, 1 - p)
    bins = np.minimum(((confidence - 0.5) * 10).astype(int), 4)
    error = sum(
        abs((p[bins == b] > 0.5).mean() - confidence[bins == b].mean()) * (bins == b).sum() for b in set(bins)
    ) / len(p)
    assert found["ece"] == pytest.approx(error, abs=1e-5)

    answers = list({c.id: (p.prompt, c) for p in pairs for c in (p.chosen, p.rejected)}.values())
    scores = [rewards_of(model, prompt, [c.text])[0] for prompt, c in answers]
    lengths = [len(c.text) for _, c in answers]
    assert found["length_correlation"] == pytest.approx(np.corrcoef(lengths, scores)[0, 1], abs=1e-4)
    assert (found["members"], found["disagreement"]) == ([{k: found[k] for k in ("accuracy", "ci", "n_pairs")}], None)


def test_a_judge_that_prefers_what_people_did_not_is_wrong_every_time() -> None:
    model = shaken()
    pairs = random_pairs()
    sided = [pair if d > 0 else pair.swap() for pair, d in zip(pairs, differences_of(model, pairs), strict=True)]
    assert evaluate_reward([model], sided)["accuracy"] == 1.0
    assert evaluate_reward([model], [pair.swap() for pair in sided])["accuracy"] == 0.0


# --- by length, by judge, by agreement ------------------------------------------------------------------------------


def of_lengths(one: int, other: int, number: int) -> Pair:
    """Lengths in tokens: a token a letter, and one that ends the turn."""
    prompt = Prompt.of(f"question {number}")
    return Pair(prompt, Completion(prompt.id, "a" * (one - 1)), Completion(prompt.id, "b" * (other - 1)))


def test_lengths_match_within_a_tenth_of_the_longer() -> None:
    model = shaken()
    matched = [of_lengths(20, 18, 0), of_lengths(18, 20, 1), of_lengths(7, 7, 2), of_lengths(10, 9, 3)]
    others = [of_lengths(20, 17, 4), of_lengths(9, 8, 5), of_lengths(3, 20, 6)]
    found = evaluate_reward([model], [*matched, *others])["length_matched"]
    right = [d > 0 for d in differences_of(model, matched)]
    assert found["n_pairs"] == 4
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["ci"] == evaluate_reward([model], matched)["ci"]
    assert evaluate_reward([model], others)["length_matched"] == NONE


def test_a_judge_of_lengths_alone_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def lengths(_model: RewardModel, cached: GroupStates, *_: object) -> list[torch.Tensor]:
        return [torch.tensor([float(len(c)) for c in group.completions]) for group in cached.groups]

    monkeypatch.setattr("manners.rewards.evaluation.raw_rewards", lengths)
    longer = [of_lengths(12 + i % 5, 3 + i % 3, i) for i in range(12)]
    matched = [of_lengths(20, 19, 20), of_lengths(19, 20, 21), of_lengths(30, 28, 22), of_lengths(28, 30, 23)]
    found = evaluate_reward([shaken()], [*longer, *matched])
    assert found["accuracy"] == found["length_baseline"] == 14 / 16
    assert found["length_correlation"] == pytest.approx(1)
    assert found["length_matched"]["accuracy"] == 0.5


def test_every_annotator_has_an_accuracy_and_who_has_no_name_has_none() -> None:
    model = shaken()
    pairs = random_pairs(judges=("ada", "bob", ""))
    found = evaluate_reward([model], pairs)["by_judge"]
    assert list(found) == ["ada", "bob"]
    right = [d > 0 for d in differences_of(model, pairs)]
    for name, row in found.items():
        inside = [hit for hit, pair in zip(right, pairs, strict=True) if pair.judge == name]
        assert (row["accuracy"], row["n_pairs"]) == (pytest.approx(np.mean(inside)), len(inside))
        assert row["ci"][0] <= row["accuracy"] <= row["ci"][1]


def test_one_annotator_of_one_prompt_has_an_accuracy_without_an_interval() -> None:
    (row,) = evaluate_reward([shaken()], ranked(Prompt.of("p"), ["a", "b"], judge="ada"))["by_judge"].values()
    assert row["ci"] == [None, None]
    assert row["accuracy"] in (0.0, 1.0)


def votes(number: int, for_: int, against: int) -> list[Pair]:
    prompt = Prompt.of(f"question {number}")
    (pair,) = ranked(prompt, [f"this {number}", f"that {number}"])
    said = [pair] * for_ + [pair.swap()] * against
    return [replace(p, ranking_id=str(i), judge=f"judge {i}") for i, p in enumerate(said)]


def test_pairs_are_put_together_by_how_many_rankings_agree() -> None:
    model = shaken()
    counted = {(1, 1): "0.5-0.75", (2, 1): "0.5-0.75", (3, 1): "0.75-1", (4, 1): "0.75-1", (2, 0): "1", (0, 3): "1"}
    pairs = [p for i, (yes, no) in enumerate(counted) for p in votes(i, yes, no)]
    once = votes(9, 1, 0)  # nobody to agree with
    found = evaluate_reward([model], [*pairs, *once])["by_agreement"]
    assert list(found) == ["0.5-0.75", "0.75-1", "1"]
    for name, row in found.items():
        inside = [p for i, ((yes, no), own) in enumerate(counted.items()) if own == name for p in votes(i, yes, no)]
        assert row["n_pairs"] == len(inside)
        assert row["accuracy"] == pytest.approx(np.mean([d > 0 for d in differences_of(model, inside)]))
    assert found["1"]["agreement"] == 1
    assert found["0.5-0.75"]["agreement"] == pytest.approx((2 * 1 / 2 + 3 * 2 / 3) / 5)
    assert found["0.75-1"]["agreement"] == pytest.approx((4 * 3 / 4 + 5 * 4 / 5) / 9)


def test_who_sides_with_the_majority_reaches_the_agreement_and_nobody_more() -> None:
    model = shaken()
    pairs = [p for i in range(6) for p in votes(i, 2, 1)]
    majority = [p for i in range(6) for p in votes(i, 1, 0)]
    sides = [d > 0 for d in differences_of(model, majority)]
    turned = [p for i, side in enumerate(sides) for p in (votes(i, 2, 1) if side else votes(i, 1, 2))]
    row = evaluate_reward([model], turned)["by_agreement"]["0.5-0.75"]
    assert row["accuracy"] == pytest.approx(row["agreement"]) == pytest.approx(2 / 3)
    assert evaluate_reward([model], pairs)["by_agreement"]["0.5-0.75"]["accuracy"] <= 2 / 3


def test_where_nobody_was_asked_twice_there_is_no_agreement_to_speak_of() -> None:
    assert evaluate_reward([shaken()], toy_pairs(4, 0))["by_agreement"] == {}


# --- ensembles ------------------------------------------------------------------------------------------------------


def ensemble(count: int) -> list[RewardModel]:
    """Members on one trunk that disagree, each with a scale of its own."""
    first = shaken()
    members = [first]
    for number in range(1, count):
        first.trunk.adapters.add(f"reward-{number}", rank=8, alpha=16, seed=number)
        shake(first.trunk, f"reward-{number}", seed=number)
        head = ScalarHead.for_reward(first.trunk.width, number)
        members.append(RewardModel(first.trunk, f"reward-{number}", head, "mean", mean=number, std=4.0**number))
    return members


def test_an_ensemble_is_judged_by_the_mean_of_its_scores() -> None:
    pairs, members = random_pairs(), ensemble(3)
    scores = np.array([[d / m.std for d in differences_of(m, pairs)] for m in members])  # in deviations
    found = evaluate_reward(members, pairs)
    assert found["accuracy"] == pytest.approx((scores.mean(0) > 0).mean())
    raw = np.array([differences_of(m, pairs) for m in members])
    assert ((scores.mean(0) > 0) != (raw.mean(0) > 0)).any()  # the member with the widest scale alone would decide
    for row, member in zip(found["members"], members, strict=True):
        assert row == {k: evaluate_reward([member], pairs)[k] for k in ("accuracy", "ci", "n_pairs")}
    assert len({row["accuracy"] for row in found["members"]}) > 1


def test_disagreement_is_the_mean_deviation_of_the_members_scores() -> None:
    pairs, members = random_pairs(), ensemble(3)
    answers = list({c.id: (p.prompt, c) for p in pairs for c in (p.chosen, p.rejected)}.values())
    scores = np.array([[rewards_of(m, prompt, [c.text])[0] for prompt, c in answers] for m in members])
    found = evaluate_reward(members, pairs)
    assert found["disagreement"] == pytest.approx(scores.std(0).mean(), rel=1e-4)
    assert evaluate_reward([members[0], members[0]], pairs)["disagreement"] == pytest.approx(0, abs=1e-6)


def test_an_ensemble_of_twins_is_the_single_one() -> None:
    pairs, (member, *_) = random_pairs(), ensemble(1)
    one, two = evaluate_reward([member], pairs), evaluate_reward([member, member], pairs)
    assert two["members"] == one["members"] * 2
    for key in ("accuracy", "ci", "ece", "by_category", "length_matched", "length_correlation"):
        assert two[key] == one[key]


def test_what_is_found_is_json_and_its_keys_are_always_the_same() -> None:
    keys = {"accuracy", "ci", "n_pairs", "n_prompts", "n_completions", "ece", "calibration", "length_baseline",
            "length_correlation", "length_matched", "by_category", "by_judge", "by_agreement", "members", "disagreement"}  # fmt: skip
    for members, pairs in ((ensemble(2), random_pairs(judges=("ada", "bob"))), ([shaken()], [of_lengths(2, 9, 0)])):
        found = evaluate_reward(members, pairs)
        assert set(found) == keys
        assert json.loads(json.dumps(found, allow_nan=False)) == found
