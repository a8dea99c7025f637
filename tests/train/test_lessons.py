from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import shake, tiny_trunk

from manners.batches import Rollouts
from manners.config import Config
from manners.learner.local import POLICY
from manners.models.packing import pack_rows
from manners.records import Prompt
from manners.rewards.direct import DirectObjective, Material
from manners.rewards.groups import Group
from manners.rewards.load import FunctionJudge, TextScorer
from manners.runs import Run
from manners.sampling.local import LocalSampler
from manners.train.lessons import Asking, JudgedBefore, JudgedNow, compared, shift, states_of

torch.set_num_threads(1)

PROMPTS = [Prompt.of(text) for text in ("hi", "a longer question", "why?")]


def sampled(temperature: float = 1.0) -> tuple[LocalSampler, Rollouts]:
    trunk = tiny_trunk(train_layers=2)
    trunk.adapters.add(POLICY, rank=4, alpha=8, seed=0)
    shake(trunk, POLICY)
    sampler = LocalSampler(trunk, POLICY)
    return sampler, sampler.sample(
        [p for p in PROMPTS for _ in range(2)], max_tokens=6, temperature=temperature, seed=0
    )


def test_the_states_of_sampling_are_those_of_the_packed_row() -> None:
    sampler, rollouts = sampled()
    found = states_of(rollouts, sampler.trunk)
    groups = compared(rollouts, torch.zeros(6))
    for place, group in enumerate(groups):
        packed = pack_rows([(group.prompt, group.completions)])
        torch.testing.assert_close(found[place], sampler.trunk.states(packed)[0], rtol=1e-4, atol=1e-4)
    assert states_of(rollouts, tiny_trunk()) == {}


def test_the_higher_score_is_chosen_and_equals_make_no_pair() -> None:
    _, rollouts = sampled()
    groups = compared(rollouts, torch.tensor([1.0, 2.0, 2.0, 1.0, 3.0, 3.0]))
    assert [[(pair.j, pair.k, pair.weight) for pair in group.pairs] for group in groups] == [
        [(1, 0, 1)],
        [(0, 1, 1)],
        [],
    ]
    assert [group.prompt_id for group in groups] == [prompt.id for prompt in PROMPTS]


def test_equal_texts_make_no_pair_whatever_their_scores() -> None:
    _, rollouts = sampled(temperature=1e-6)  # the likeliest answer, twice
    assert [group.pairs for group in compared(rollouts, torch.arange(6.0))] == [[], [], []]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_before_the_first_update_the_distance_from_the_reference_is_that_of_sampling(
    tmp_path: Path, temperature: float
) -> None:
    trunk = tiny_trunk(train_layers=2)
    trunk.adapters.add(POLICY, rank=4, alpha=8, seed=0)
    judge = TextScorer(FunctionJudge(lambda _, texts: [float(len(set(text))) for text in texts]))
    run = Run.create(tmp_path / "run", "dpo", Config(), {})
    for moved in (False, True):
        if moved:
            shake(trunk, POLICY, std=0.1)
        lessons = JudgedNow(
            PROMPTS, trunk, LocalSampler(trunk, POLICY), judge, None, DirectObjective("dpo", 0.1),
            Asking(6, temperature, 0.0, 0), steps=2, batch=3, micro_tokens=4096,
        )  # fmt: skip
        lesson = lessons.lesson(0, run)
        answers = lesson.material.answers(range(3), POLICY)
        shift = (answers.logps - answers.reference).detach().sum() / 6
        assert lesson.row["kl"] == pytest.approx(float(shift), abs=1e-3)
        assert (abs(lesson.row["kl"]) > 0.05) == moved


def test_the_distance_of_held_out_answers_is_that_of_their_packed_rows() -> None:
    sampler, rollouts = sampled(temperature=0.7)
    trunk = sampler.trunk
    groups = compared(rollouts, torch.zeros(6))
    material = Material(trunk, groups, DirectObjective("dpo", 0.1), 4096, 0, temperature=0.7)
    answers = material.answers(range(3), POLICY)
    wanted = (answers.logps - answers.reference).detach().flatten()
    torch.testing.assert_close(shift(trunk, rollouts, 0.7, micro_tokens=20), wanted, rtol=1e-3, atol=1e-3)
    assert wanted.abs().max() > 0.5


def test_an_epoch_goes_through_all_groups_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    trunk = tiny_trunk(train_layers=2)
    groups = [Group(str(i), "", [5], [[6], [7]], [], [], []) for i in range(10)]
    material = Material(trunk, groups, DirectObjective("simpo", 0.1), 4096, 0)
    lessons = JudgedBefore(material, epochs=2, batch=4, seed=0)
    run = Run.create(tmp_path / "run", "dpo", Config(), {})
    asked = [lessons.lesson(step, run) for step in range(lessons.count)]
    assert [len(lesson.places) for lesson in asked] == [4, 4, 2, 4, 4, 2]
    assert [lesson.row["epoch"] for lesson in asked] == [0, 0, 0, 1, 1, 1]
    first, second = ([place for lesson in part for place in lesson.places] for part in (asked[:3], asked[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
