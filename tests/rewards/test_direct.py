from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import KINDS, shake, tiny_model, tiny_tokenizer, tiny_trunk
from torch import Tensor

from manners.learner.local import POLICY
from manners.models.trunk import Trunk
from manners.rewards.direct import AVERAGED, Answers, DirectObjective, Loss, Material, means
from manners.rewards.groups import Compared, Group, Thumbed

torch.set_num_threads(1)

ZERO = torch.zeros(())


def ids(text: str) -> list[int]:
    found: list[int] = tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]
    return found


def pair(j: int, k: int, weight: float = 1.0, apart: float = 1.0, probability: float = 1.0) -> Compared:
    return Compared(j, k, weight, apart, probability, "")


def group(prompt: str, answers: list[str], pairs: list[Compared], thumbs: list[Thumbed] | None = None) -> Group:
    return Group(prompt, "", ids(prompt), [ids(answer) for answer in answers], pairs, [], [], thumbs or ())


GROUPS = [
    group(
        "hello there",
        ["hi", "a much longer answer", "go"],
        [pair(0, 1, 1 / 3), pair(0, 2, 1 / 3, 2), pair(1, 2, 1 / 3)],
    ),
    group("?", ["yes", "no"], [pair(1, 0)]),
    group("and now", ["well, well", "so"], [pair(0, 1, 0.5, 1, 0.8), pair(1, 0, 0.5)]),
]


def trained(kind: str = "llama", train_layers: Any = 2, std: float = 0.3) -> Trunk:
    """A trunk whose policy has moved away from the reference."""
    trunk = tiny_trunk(kind, train_layers)
    trunk.adapters.add(POLICY, rank=4, alpha=8, seed=0)
    shake(trunk, POLICY, std=std)
    return trunk


def written_out(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    """log π(answer | prompt) from whole logits of a row by itself."""
    row = torch.tensor([prompt + answer])
    logps = torch.log_softmax(model(input_ids=row).logits[0].double(), -1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return torch.stack([logps[place, token] for place, token in zip(places, answer, strict=True)]).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train_layers", [1, "all"])
def test_answers_that_share_a_packed_row_have_the_log_probabilities_of_rows_of_their_own(
    kind: str, train_layers: Any
) -> None:
    trunk = trained(kind, train_layers)
    material = Material(trunk, GROUPS, DirectObjective("dpo", 0.1), 4096, 0)
    now = material.answers([0, 1, 2], POLICY)
    plain = tiny_model(kind)
    for row, one in enumerate(GROUPS):
        for place, answer in enumerate(one.completions):
            with torch.no_grad():
                reference = written_out(plain, one.prompt, answer)
                with trunk.adapters.using(POLICY):
                    policy = written_out(trunk.model, one.prompt, answer)
            assert float(now.reference[row, place]) == pytest.approx(float(reference), abs=2e-4)
            assert float(now.logps[row, place].detach()) == pytest.approx(float(policy), abs=2e-4)
            assert now.lengths[row, place] == len(answer)
            assert abs(float(policy - reference)) > 0.01
    assert (now.logps[1, 2], now.reference[1, 2], now.lengths[1, 2]) == (0, 0, 0)


def formula(loss: str, chosen: Tensor, rejected: Tensor, apart: float, label: float) -> Tensor:
    """What each loss is, written out, of log-ratios or of mean log-probabilities; `label`: the chance that chosen is the better."""
    sigmoid = {side: 1 / (1 + torch.exp(-0.1 * x)) for side, x in (("chosen", chosen), ("rejected", rejected))}
    odds = chosen.exp() / (1 - chosen.exp()), rejected.exp() / (1 - rejected.exp())
    match loss:
        case "dpo" | "simpo":
            won = 1 / (1 + torch.exp(-0.1 * (chosen - rejected) + (0.3 if loss == "simpo" else 0.2 * apart)))
            return -label * torch.log(won) - (1 - label) * torch.log(1 - won)
        case "ipo":
            return label * (chosen - rejected - 5) ** 2 + (1 - label) * (rejected - chosen - 5) ** 2
        case "apo_zero":
            right, wrong = (1 - sigmoid["chosen"] + sigmoid["rejected"], 1 - sigmoid["rejected"] + sigmoid["chosen"])
            return label * right + (1 - label) * wrong
        case _:
            right, wrong = torch.log(1 + odds[1] / odds[0]), torch.log(1 + odds[0] / odds[1])
            return label * (-chosen + 0.1 * right) + (1 - label) * (-rejected + 0.1 * wrong)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "apo_zero", "simpo", "orpo"])
def test_loss_and_gradient_are_those_of_the_formula_written_out_from_whole_logits(loss: Loss) -> None:
    trunk = trained(std=0.1)
    parameters = trunk.adapters.parameters(POLICY)
    objective = DirectObjective(
        loss, 0.1, gamma=0.3, margin=0.2 if loss == "dpo" else 0.0, length_normalised=loss in AVERAGED
    )
    material = Material(trunk, GROUPS, objective, 4096, 0)
    found, _ = objective(material.answers([0, 1, 2], POLICY), GROUPS, GROUPS, ZERO)
    gradients = torch.autograd.grad(found, parameters)

    wanted = torch.zeros((), dtype=torch.float64)
    plain = tiny_model()
    for one in GROUPS:
        with trunk.adapters.using(POLICY):
            logps = [written_out(trunk.model, one.prompt, answer) for answer in one.completions]
        with torch.no_grad():
            reference = [written_out(plain, one.prompt, answer) for answer in one.completions]
        lengths = [len(answer) if loss in AVERAGED else 1 for answer in one.completions]
        known = [x if loss in ("simpo", "orpo") else x - r for x, r in zip(logps, reference, strict=True)]
        compared = [x / n for x, n in zip(known, lengths, strict=True)]
        for j, k, weight, apart, probability, _ in one.pairs:
            wanted = wanted + weight * formula(loss, compared[j], compared[k], apart, probability)
    wanted = wanted / sum(pair.weight for one in GROUPS for pair in one.pairs)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for own, other in zip(gradients, torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(own, other.to(own), rtol=2e-3, atol=2e-5)
        assert own.abs().max() > 1e-6


def answers(logps: list[list[float]], reference: list[list[float]], lengths: list[list[float]]) -> Answers:
    return Answers(torch.tensor(logps, requires_grad=True), torch.tensor(reference), torch.tensor(lengths))


def test_pairs_weigh_as_they_say_and_are_divided_by_the_weight_of_the_whole_step() -> None:
    objective = DirectObjective("hinge", 1.0, margin=2.0)
    now = answers([[-1.0, -2.0]], [[-1.5, -1.0]], [[2.0, 2.0]])  # log-ratios 0.5 and −1
    one = group("a", ["x", "y"], [pair(0, 1, weight=0.5, apart=1.0), pair(0, 1, weight=0.25, apart=2.0)])
    other = group("b", ["x", "y"], [pair(0, 1, weight=1.25)])
    loss, _ = objective(now, [one], [one, other], ZERO)
    # 1 + 2·apart − 1.5 is 1.5 and 3.5, over the weight 2 of the step
    assert float(loss.detach()) == pytest.approx((0.5 * 1.5 + 0.25 * 3.5) / 2)


def test_metrics_by_hand() -> None:
    objective = DirectObjective("dpo", 0.5)
    now = answers([[-1.0, -2.0, -9.0]], [[-2.0, -1.0, -5.0]], [[1.0, 1.0, 1.0]])  # rewards 0.5, −0.5, −2
    one = group("a", ["x", "y", "z"], [pair(0, 1, 0.5), pair(1, 0, 0.25), pair(1, 2, 0.25)])
    found = means(objective(now, [one], [one], ZERO)[1])
    assert found["rewards/chosen"] == pytest.approx(0.5 * 0.5 + 0.25 * -0.5 + 0.25 * -0.5)
    assert found["rewards/rejected"] == pytest.approx(0.5 * -0.5 + 0.25 * 0.5 + 0.25 * -2)
    assert found["rewards/margins"] == pytest.approx(found["rewards/chosen"] - found["rewards/rejected"])
    assert found["rewards/accuracies"] == pytest.approx(0.75)
    assert found["logps/chosen"] == pytest.approx(0.5 * -1 + 0.25 * -2 + 0.25 * -2)
    assert found["logps/rejected"] == pytest.approx(0.5 * -2 + 0.25 * -1 + 0.25 * -9)


def test_without_a_reference_rewards_are_beta_times_the_mean_log_probability() -> None:
    objective = DirectObjective("simpo", 2.0, length_normalised=True)
    one = group("a", ["x", "y"], [pair(0, 1)])
    found = means(objective(answers([[-6.0, -5.0]], [[0.0, 0.0]], [[3.0, 1.0]]), [one], [one], ZERO)[1])
    assert (found["rewards/chosen"], found["rewards/rejected"]) == (-4, -10)


def test_the_fine_tuning_term_is_on_the_chosen_answer_alone() -> None:
    one = group("a", ["x", "y"], [pair(0, 1)])
    plain, more = (DirectObjective("dpo", 0.1, sft_weight=weight) for weight in (0.0, 0.5))
    now = answers([[-6.0, -4.0]], [[-6.0, -4.0]], [[3.0, 4.0]])
    difference = more(now, [one], [one], ZERO)[0] - plain(now, [one], [one], ZERO)[0]
    assert float(difference.detach()) == pytest.approx(0.5 * 2)
    assert torch.autograd.grad(difference, now.logps)[0].tolist() == [[pytest.approx(-0.5 / 3), 0]]


def test_kto_takes_pairs_apart_and_thumbs_as_they_are() -> None:
    objective = DirectObjective("kto", 1.0, desirable_weight=2.0)
    lead = math.log(3)
    now = answers([[1 + lead, 1 - lead], [1 + lead, 1 - lead]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]])
    both = [group("a", ["x", "y"], [pair(0, 1, weight=0.5)]),
            group("b", ["x", "y"], [], [Thumbed(1, True, 1.0), Thumbed(0, False, 1.0)])]  # fmt: skip
    loss, sums = objective(now, both, both, torch.tensor(1.0))
    # good ones cost 2·(1 − σ), bad ones σ(…): 2·¼, ¼, 2·¾, ¾, over the weight 0.5 + 0.5 + 1 + 1
    assert float(loss.detach()) == pytest.approx((0.5 * 0.5 + 0.5 * 0.25 + 1.5 + 0.75) / 3)
    found = means(sums)
    assert found["rewards/chosen"] == pytest.approx((0.5 * (1 + lead) + 1 - lead) / 1.5)
    assert found["rewards/rejected"] == pytest.approx((0.5 * (1 - lead) + 1 + lead) / 1.5)
    assert found["rewards/accuracies"] == 1  # of the one pair


def test_the_fine_tuning_term_of_kto_is_on_the_good_answers() -> None:
    both = [group("a", ["x", "y"], [], [Thumbed(0, True, 1.0), Thumbed(1, False, 1.0)])]
    now = answers([[-6.0, -4.0]], [[-6.0, -4.0]], [[3.0, 4.0]])
    plain, more = (DirectObjective("kto", 0.1, sft_weight=weight)(now, both, both, ZERO)[0] for weight in (0.0, 0.5))
    assert float((more - plain).detach()) == pytest.approx(0.5 * 2 / 2)
    assert torch.autograd.grad(more - plain, now.logps)[0].tolist() == [[pytest.approx(-0.5 / 3 / 2), 0]]


def test_with_thumbs_of_one_kind_there_is_no_margin_and_no_accuracy() -> None:
    objective = DirectObjective("kto", 1.0)
    only = [group("a", ["x"], [], [Thumbed(0, True, 1.0)])]
    _, sums = objective(answers([[1.0]], [[0.0]], [[1.0]]), only, only, ZERO)
    assert set(means(sums)) == {"rewards/chosen", "logps/chosen"}


def test_the_reference_point_is_the_mean_shift_of_the_first_answers_to_other_prompts() -> None:
    trunk = trained()
    material = Material(trunk, GROUPS, DirectObjective("kto", 0.1), 4096, seed=3)
    assert material.strangers is not None
    beside = material.strangers.groups
    assert [one.prompt for one in beside] == [one.prompt for one in GROUPS]
    firsts = [one.completions[0] for one in GROUPS]
    assert sorted(one.completions[0] for one in beside) == sorted(firsts)
    assert all(one.completions != [own.completions[0]] for one, own in zip(beside, GROUPS, strict=True))
    shifts = []
    with torch.no_grad():
        for one in beside:
            with trunk.adapters.using(POLICY):
                policy = written_out(trunk.model, one.prompt, one.completions[0])
            shifts.append(float(policy - written_out(tiny_model(), one.prompt, one.completions[0])))
    assert float(material.reference_point([0, 2], POLICY)) == pytest.approx(
        max(0, (shifts[0] + shifts[2]) / 2), abs=1e-3
    )
    assert float(material.reference_point([0, 1, 2], None)) == pytest.approx(0, abs=1e-4)
    assert Material(trunk, GROUPS, DirectObjective("dpo", 0.1), 4096, 0).reference_point([0], POLICY) == 0


@pytest.mark.parametrize("loss", ["dpo", "kto", "orpo"])
def test_one_micro_batch_of_all_is_as_many_of_one(loss: Loss) -> None:
    trunk = trained()
    objective = DirectObjective(loss, 0.1, length_normalised=loss == "orpo")
    material = Material(trunk, GROUPS, objective, 4096, 0)
    point = material.reference_point([0, 1, 2], POLICY)
    whole, sums = objective(material.answers([0, 1, 2], POLICY), GROUPS, GROUPS, point)
    gradients = torch.autograd.grad(whole, trunk.adapters.parameters(POLICY))
    parts = [objective(material.answers([i], POLICY), [GROUPS[i]], GROUPS, point) for i in range(3)]
    total = sum((part[0] for part in parts), torch.zeros(()))
    assert float(total.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
    for one, other in zip(gradients, torch.autograd.grad(total, trunk.adapters.parameters(POLICY)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    for name, value in sums.items():
        assert sum(part[1][name] for part in parts) == pytest.approx(value, rel=1e-4, abs=1e-5)


def test_what_the_reference_said_once_it_says_again_whatever_the_policy_has_become() -> None:
    trunk = trained()
    objective = DirectObjective("dpo", 0.1)
    cached = Material(trunk, GROUPS, objective, 4096, 0)
    shake(trunk, POLICY, seed=9, std=2.0)
    for kept, fresh in zip(cached.reference, Material(trunk, GROUPS, objective, 4096, 0).reference, strict=True):
        assert kept.tolist() == fresh.tolist()
    one_by_one = Material(trunk, GROUPS, objective, 1, 0)
    for kept, fresh in zip(cached.reference, one_by_one.reference, strict=True):
        torch.testing.assert_close(kept, fresh, rtol=1e-5, atol=1e-4)


def test_states_that_are_there_already_are_taken() -> None:
    trunk = trained()
    objective = DirectObjective("dpo", 0.1)
    cached = Material(trunk, GROUPS, objective, 4096, 0).cached
    known = {i: cached.states[key] for i, key in enumerate(cached.keys)}
    given = Material(trunk, GROUPS, objective, 4096, 0, states={i: torch.zeros_like(s) for i, s in known.items()})
    assert given.reference[0].tolist() != Material(trunk, GROUPS, objective, 4096, 0).reference[0].tolist()
    again = Material(trunk, GROUPS, objective, 4096, 0, states=known)
    torch.testing.assert_close(again.reference[0], Material(trunk, GROUPS, objective, 4096, 0).reference[0])


def test_temperature_divides_the_logits() -> None:
    trunk = trained()
    warm = Material(trunk, GROUPS, DirectObjective("dpo", 0.1), 4096, 0, temperature=1e6)
    uniform = -math.log(trunk.head_weight.shape[0])
    assert warm.reference[0].tolist() == pytest.approx([uniform * len(c) for c in GROUPS[0].completions], rel=1e-4)


def test_losses_without_a_reference_never_ask_it() -> None:
    trunk = trained()
    material = Material(trunk, GROUPS, DirectObjective("simpo", 2.0), 4096, 0)
    assert material.reference == []
    assert not material.answers([0, 1], POLICY).reference.any()


@pytest.mark.parametrize("loss", ["robust", "hinge", "apo_down"])
def test_the_settings_reach_the_losses(loss: Loss) -> None:
    now = answers([[-1.0, -3.0]], [[-2.0, -2.0]], [[1.0, 1.0]])
    one = group("a", ["x", "y"], [pair(0, 1)])
    plain = DirectObjective(loss, 0.5, label_smoothing=0.1)
    value = float(plain(now, [one], [one], ZERO)[0].detach())
    sigma = 1 / (1 + math.exp(-1))
    wanted = {"robust": (-0.9 * math.log(sigma) + 0.1 * math.log(1 - sigma)) / 0.8, "hinge": 0.0,
              "apo_down": 1 / (1 + math.exp(-0.5)) + 1 - sigma}  # fmt: skip
    assert value == pytest.approx(wanted[loss], abs=1e-6)
    assert float(replace(plain, beta=0.25)(now, [one], [one], ZERO)[0].detach()) != pytest.approx(value, abs=1e-3)


def test_the_margin_of_simpo_is_gamma_and_grows_with_the_tiers_between() -> None:
    # β·(−1 + 1.5) = 1 is what γ + 0.2 per tier leaves nothing of at two tiers
    objective = DirectObjective("simpo", 2.0, gamma=0.6, margin=0.2, length_normalised=True)
    one = group("a", ["x", "y"], [pair(0, 1, apart=2.0)])
    loss, _ = objective(answers([[-2.0, -3.0]], [[0.0, 0.0]], [[2.0, 2.0]]), [one], [one], ZERO)
    assert float(loss.detach()) == pytest.approx(math.log(2))
