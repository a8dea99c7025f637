from __future__ import annotations

import random

import pytest
import torch
from tiny import tiny_trunk
from toy_judgements import fresh_model, judged, ranked, rewards_of, toy_pairs

from manners.errors import MannersError
from manners.records import Completion, Judgement, Message, Pair, Prompt, Ranking
from manners.rewards.groups import GroupStates, States, group_pairs, raw_rewards
from manners.runs import untracked
from manners.text.chat import Chat

torch.set_num_threads(1)


def chat() -> Chat:
    trunk = tiny_trunk()
    return Chat(trunk.tokenizer, trunk.context)


def test_pairs_of_a_prompt_come_together_and_point_at_their_texts() -> None:
    first, second = Prompt.of("one", category="sums"), Prompt((Message("system", "Be kind."), Message("user", "two")))
    pairs = [
        *ranked(first, ["a", "bb", "ccc", "dddd"], judge="ada"),
        *ranked(second, ["x", "y"]),
        *ranked(first, ["eeeee", "a"]),
    ]
    random.Random(0).shuffle(pairs)
    talk = chat()
    groups = {g.prompt_id: g for g in group_pairs(pairs, talk, 100, 100)}
    assert set(groups) == {first.id, second.id}
    assert [len(g.completions) for g in (groups[first.id], groups[second.id])] == [5, 2]  # each answer once
    assert (groups[first.id].category, groups[second.id].category) == ("sums", "")
    for prompt in (first, second):
        group = groups[prompt.id]
        assert group.prompt == talk.prompt(prompt)
        texts = [talk.text(tokens) for tokens in group.completions]
        assert all(tokens[-1] == talk.end for tokens in group.completions)
        named = [(texts[c.j], texts[c.k], c.weight, c.apart, c.judge) for c in group.pairs]
        given = [(p.chosen.text, p.rejected.text, p.weight, p.margin, p.judge) for p in pairs if p.prompt == prompt]
        assert named == given
        assert group.length == len(group.prompt) + sum(map(len, group.completions))
        assert (group.ties, group.rankings) == ([], [])


def test_rankings_add_ties_and_orders_and_every_answer_stands_there_once() -> None:
    first, second, third = Prompt.of("one"), Prompt.of("two"), Prompt.of("three")
    pairs = ranked(first, ["a", "bb"])
    rankings = [
        judged(first, [["bb", "ccc"], ["a"]], judge="ada"),
        judged(second, [["x", "y", "z"]]),
        judged(third, [["p"], ["q"]], all_bad=True),
        judged(third, [["alone"]]),
    ]
    talk = chat()
    one, two = group_pairs(pairs, talk, 100, 100, rankings)
    assert [talk.text(tokens) for tokens in one.completions] == ["a", "bb", "ccc"]
    assert [(c.j, c.k, c.weight) for c in one.pairs] == [(0, 1, 1.0)]
    ((j, k, weight, apart, probability, judge),) = one.ties
    assert (j, k, apart, probability, judge) == (1, 2, 0.0, 1.0, "ada")
    assert weight == pytest.approx(1 / 3)
    assert [(r.places, r.ranks) for r in one.rankings] == [((1, 2, 0), (0, 0, 1))]
    assert (two.prompt_id, len(two.completions), two.pairs, len(two.ties)) == (second.id, 3, [], 3)
    assert [(r.places, r.ranks) for r in two.rankings] == [((0, 1, 2), (0, 0, 0))]


def test_of_equal_texts_the_better_one_is_ranked() -> None:
    prompt = Prompt.of("one")
    twins = [Completion(prompt.id, "same", model=name) for name in ("a", "b")]
    other = Completion(prompt.id, "other")
    ranking = Ranking(prompt.id, ((twins[0].id,), (other.id, twins[1].id)))
    (group,) = group_pairs([], chat(), 100, 100, [Judgement(prompt, (*twins, other), ranking)])
    (found,) = group.rankings
    texts = [chat().text(tokens) for tokens in group.completions]
    assert [(texts[place], rank) for place, rank in zip(*found, strict=True)] == [("same", 0), ("other", 1)]


def test_a_tier_that_only_repeats_a_better_answer_leaves_no_gap() -> None:
    prompt = Prompt.of("one")
    twins = [Completion(prompt.id, "same", model=name) for name in ("a", "b")]
    others = [Completion(prompt.id, text) for text in ("this", "that")]
    tiers = ((twins[0].id,), (twins[1].id,), (others[0].id, others[1].id))
    (group,) = group_pairs([], chat(), 100, 100, [Judgement(prompt, (*twins, *others), Ranking(prompt.id, tiers))])
    assert group.rankings[0].ranks == (0, 1, 1)


def test_an_answer_that_was_cut_off_has_no_end_token_and_a_long_one_is_cut() -> None:
    prompt, talk = Prompt.of("one"), chat()
    pair = Pair(prompt, Completion(prompt.id, "abc", finished=False), Completion(prompt.id, "defgh"))
    (group,) = group_pairs([pair], talk, 100, 4)
    assert [talk.tokenizer.decode(tokens) for tokens in group.completions] == ["abc", "defg"]


def test_a_long_prompt_loses_its_beginning() -> None:
    prompt, talk = Prompt.of("0123456789"), chat()
    pair = Pair(prompt, Completion(prompt.id, "a"), Completion(prompt.id, "b"))
    (group,) = group_pairs([pair], talk, 5, 100)
    assert group.prompt == talk.prompt(prompt)[-5:]


def test_without_anything_judged_there_is_nothing_to_learn() -> None:
    for rankings in ([], [judged(Prompt.of("p"), [["a"]])], [judged(Prompt.of("p"), [["a"], ["b"]], all_bad=True)]):
        with pytest.raises(MannersError, match="no pairs to learn from"):
            group_pairs([], chat(), 100, 100, rankings)


def test_states_that_do_not_fit_into_memory_are_computed_anew_and_are_the_same() -> None:
    groups = group_pairs(toy_pairs(6, 0), chat(), 100, 100)
    trunk = tiny_trunk(train_layers=2)
    kept, anew = GroupStates(trunk, groups), GroupStates(trunk, groups, limit=0)
    assert (kept.keep, anew.keep) == (True, False)
    for indices in ([0, 3, 5], [5, 0], [1, 2, 3, 4]):  # the second time partly or wholly from memory
        (packed, states), (packed_anew, states_anew) = kept.batch(indices), anew.batch(indices)
        assert torch.equal(packed.tokens, packed_anew.tokens)
        real = packed.segments >= 0
        torch.testing.assert_close(states[real], states_anew[real], atol=1e-6, rtol=1e-5)
    assert set(kept.states) == set(kept.keys)
    assert not anew.states


def test_what_was_read_once_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = tiny_trunk(train_layers=2)
    cached = GroupStates(trunk, group_pairs(toy_pairs(4, 0), chat(), 100, 100))
    cached.batch([0, 1, 2, 3])
    monkeypatch.setattr(trunk, "states", lambda _: pytest.fail("the states are known"))
    for _ in range(2):
        cached.batch([2, 2, 0])  # a prompt may stand in a batch twice


def test_states_that_one_has_computed_another_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, pairs = tiny_trunk(train_layers=2), toy_pairs(4, 0)
    groups = group_pairs(pairs, chat(), 100, 100)
    kept: States = {}
    _, states = GroupStates(trunk, groups, kept).batch([0, 1, 2, 3])
    size = sum(own.nbytes for own in kept.values())
    again = GroupStates(trunk, groups[::-1], kept, limit=size)
    assert again.keep, "what is there already needs no room"
    assert not GroupStates(trunk, group_pairs(toy_pairs(6, 9)[4:], chat(), 100, 100), kept, limit=size).keep
    monkeypatch.setattr(trunk, "states", lambda _: pytest.fail("the states are known"))
    _, found = again.batch([3, 2])
    for row in range(2):
        assert torch.equal(found[row, : groups[row].length], states[row, : groups[row].length])


def test_the_same_prompt_with_other_answers_has_states_of_its_own() -> None:
    trunk, prompt = tiny_trunk(train_layers=2), Prompt.of("one")
    kept: States = {}
    for texts in (["tea", "ink"], ["dog", "cat"]):
        packed, states = GroupStates(trunk, group_pairs(ranked(prompt, texts), chat(), 100, 100), kept).batch([0])
        torch.testing.assert_close(states, trunk.states(packed))
    assert len(kept) == 2


def test_raw_rewards_are_those_of_the_texts_in_the_order_of_the_groups() -> None:
    model = fresh_model()
    pairs = [
        *ranked(Prompt.of("one"), ["tea", "rain rain", "soup"]),
        *ranked(Prompt.of("two"), ["ink and maps", "dogs"]),
    ]
    cached = GroupStates(model.trunk, group_pairs(pairs, model.chat, 100, 100))
    found = raw_rewards(model, cached, 1, untracked)
    assert found[0].tolist() == pytest.approx(
        rewards_of(model, Prompt.of("one"), ["tea", "rain rain", "soup"]), abs=1e-4
    )
    assert found[1].tolist() == pytest.approx(rewards_of(model, Prompt.of("two"), ["ink and maps", "dogs"]), abs=1e-4)
