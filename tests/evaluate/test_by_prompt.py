"""Numbers with their intervals: weighted sums of means that are drawn together."""

from __future__ import annotations

import torch

from manners.evaluate.by_prompt import Parts, estimate, mean_of, numbered


def test_names_are_numbered_as_they_come() -> None:
    assert numbered(["b", "a", "b", ("c", 1)]).tolist() == [0, 1, 0, 2]


def test_a_mean_says_how_many_rows_and_prompts_it_rests_on() -> None:
    found = mean_of(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 2]))
    assert found["value"] == 0.75
    assert (found["n"], found["prompts"]) == (4, 3)
    assert found["ci"][0] < 0.75 <= found["ci"][1]


def test_of_some_rows_only_those_count() -> None:
    kept = torch.tensor([True, False, True])
    found = mean_of(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 1]), kept)
    assert (found["value"], found["n"], found["prompts"]) == (0.5, 2, 2)


def test_of_no_rows_there_is_no_number() -> None:
    nothing = mean_of(torch.tensor([1.0]), torch.tensor([0]), torch.tensor([False]))
    assert nothing == {"value": None, "ci": [None, None], "n": 0, "prompts": 0}
    assert estimate(lambda w: w.sum(1) * float("nan"), torch.tensor([0, 1]))["value"] is None


def test_scores_are_combined_by_their_shares() -> None:
    one = Parts.single(torch.tensor([1.0, 0.0]), ["a", "b"])  # ½
    other = Parts.single(torch.tensor([1.0, 1.0, 1.0, 0.0]), ["a", "b", "c", "d"])  # ¾
    assert Parts.combined([one, other], [1.0, 3.0]).estimate()["value"] == 0.25 * 0.5 + 0.75 * 0.75
    nested = Parts.combined([Parts.combined([one, other], [1.0, 1.0]), one], [1.0, 1.0])
    found = nested.estimate()
    assert found["value"] == 0.5 * (0.5 + 0.75) / 2 + 0.5 * 0.5
    assert (found["n"], found["prompts"]) == (8, 4)


def test_a_prompt_that_two_scores_share_is_drawn_for_both() -> None:
    """Two scores that say the opposite of the same prompts have a mean that does not vary, of other prompts one that does."""
    values = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    names = list("abcdef")
    same = Parts.combined([Parts.single(values, names), Parts.single(1 - values, names)], [1.0, 1.0]).estimate()
    other = [f"{name} too" for name in names]
    apart = Parts.combined([Parts.single(values, names), Parts.single(1 - values, other)], [1.0, 1.0]).estimate()
    assert same["ci"] == [0.5, 0.5]
    assert apart["ci"][0] < 0.4
