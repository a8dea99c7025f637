from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit, minimize_scalar
from sklearn.metrics import r2_score

from manners.ops.scaling_law import BestOfNLaw, Law, PolicyLaw, best_of_n_kl, best_of_n_means

KINDS = (BestOfNLaw, PolicyLaw)
SHAPES = {
    BestOfNLaw: lambda d, alpha, beta: d * (alpha - beta * d),
    PolicyLaw: lambda d, alpha, beta: d * (alpha - beta * np.log(d)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.2), (1.3, -0.1), (-0.4, 0.3)])
def test_a_fit_finds_the_alpha_and_beta_that_the_rewards_were_made_from(
    kind: type[Law], alpha: float, beta: float
) -> None:
    distances = np.linspace(0.1, 4, 12)
    rewards = torch.from_numpy(SHAPES[kind](distances, alpha, beta))
    law = kind.fit(torch.from_numpy(distances), rewards)
    assert (law.alpha, law.beta) == pytest.approx((alpha, beta), abs=1e-12)
    assert law.r2(torch.from_numpy(distances), rewards) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_to_noisy_rewards_is_that_of_scipy_and_its_r2_that_of_sklearn(kind: type[Law]) -> None:
    generator = np.random.default_rng(0)
    distances = generator.uniform(0.2, 5, 40)
    rewards = SHAPES[kind](distances, 0.9, 0.3) + 0.2 * generator.normal(size=40)
    law = kind.fit(torch.from_numpy(distances), torch.from_numpy(rewards))
    (alpha, beta), _ = curve_fit(SHAPES[kind], distances, rewards, p0=(1, 1))
    assert (law.alpha, law.beta) == pytest.approx((alpha, beta), abs=1e-6)
    expected = r2_score(rewards, SHAPES[kind](distances, alpha, beta))
    assert law.r2(torch.from_numpy(distances), torch.from_numpy(rewards)) == pytest.approx(expected, abs=1e-9)


def test_r2_of_rewards_that_do_not_vary_is_that_of_sklearn() -> None:
    distances, nothing = torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3)
    assert BestOfNLaw(0.0, 0.0).r2(distances, nothing) == r2_score([0, 0, 0], [0, 0, 0]) == 1
    assert BestOfNLaw(1.0, 0.0).r2(distances, nothing) == r2_score([0, 0, 0], [0, 1, 2]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_never_moved_has_a_flat_law(kind: type[Law]) -> None:
    law = kind.fit(torch.zeros(4), torch.zeros(4))
    assert (law.alpha, law.beta) == pytest.approx((0, 0))


def test_peaks_by_hand() -> None:
    assert (BestOfNLaw(2.0, 0.5).peak, BestOfNLaw(2.0, 0.5).height) == (2.0, 2.0)  # α/2β and α²/4β
    assert (PolicyLaw(0.5, 0.5).peak, PolicyLaw(0.5, 0.5).height) == (1.0, 0.5)  # e⁰ and β·d*
    assert PolicyLaw(1.0, 0.5).peak == pytest.approx(math.e)


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_distance_gives_more_than_the_peak(kind: type[Law]) -> None:
    law = kind(0.9, 0.25)
    found = minimize_scalar(lambda d: -SHAPES[kind](d, 0.9, 0.25), bounds=(1e-6, 100), method="bounded")
    assert law.peak == pytest.approx(found.x, rel=1e-4)
    assert law.height == pytest.approx(-found.fun, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.0, -0.3])
def test_what_never_turns_down_peaks_at_infinity(kind: type[Law], beta: float) -> None:
    assert (kind(1.0, beta).peak, kind(1.0, beta).height) == (math.inf, math.inf)


def test_what_never_goes_up_peaks_at_the_start() -> None:
    assert (BestOfNLaw(-1.0, 0.3).peak, BestOfNLaw(-1.0, 0.3).height) == (0.0, 0.0)


def test_a_peak_beyond_all_numbers_is_no_overflow() -> None:
    assert 0 < PolicyLaw(1.0, 1e-6).height < math.inf
    assert PolicyLaw(1.0, 1e-6).peak > 1e300


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_curve_has_the_mean_law(kind: type[Law]) -> None:
    distances = torch.linspace(0, 3, 9)
    one, other = (torch.rand(9, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    laws = [kind.fit(distances, rewards) for rewards in (one, other)]
    middle = kind.fit(distances, (one + other) / 2)
    assert middle.alpha == pytest.approx(sum(law.alpha for law in laws) / 2)
    assert middle.beta == pytest.approx(sum(law.beta for law in laws) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_gained_at_the_start(kind: type[Law]) -> None:
    assert kind(0.7, 0.2).at(torch.tensor([0.0])).tolist() == [0.0]


@pytest.mark.parametrize(("n", "nats"), [(1, 0.0), (4, 0.636), (16, 1.835), (64, 3.175)])
def test_kl_of_best_of_n_by_hand(n: int, nats: float) -> None:
    assert best_of_n_kl(n) == pytest.approx(nats, abs=5e-4)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_kl_of_best_of_n_from_the_distribution_of_the_best_itself(n: int) -> None:
    def exact(answers: int) -> float:
        """Answer i of a uniform choice, the i-th best, is the best of n with probability (iⁿ − (i − 1)ⁿ)/answersⁿ."""
        steps = np.arange(answers + 1) / answers
        best = np.diff(steps**n)
        return float(np.sum(best * np.log(best * answers), where=best > 0))

    assert exact(1_000_000) == pytest.approx(best_of_n_kl(n), abs=1e-4)
    assert exact(4) < best_of_n_kl(n)  # few answers, often drawn twice: the formula is a bound


def test_best_of_n_is_the_mean_over_all_choices_of_n_answers() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, values = torch.randn(3, 7, generator=generator), torch.randn(3, 7, generator=generator)
    found = best_of_n_means(scores, values, range(1, 8))
    for n in range(1, 8):
        for prompt in range(3):
            chosen = [max(c, key=lambda i: scores[prompt, i]) for c in itertools.combinations(range(7), n)]
            assert found[prompt, n - 1] == pytest.approx(float(values[prompt, chosen].double().mean()), abs=1e-6)


def test_best_of_one_is_the_mean_and_best_of_all_the_highest_score() -> None:
    scores, values = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[-5.0, 7.0, 1.0]])
    assert best_of_n_means(scores, values, [1, 3])[0].tolist() == pytest.approx([1.0, -5.0])


def test_many_answers_lose_no_precision() -> None:
    answers = torch.arange(4096.0)[None]
    constant = best_of_n_means(answers, torch.full((1, 4096), 3.0), [1, 64, 1024, 4096])
    assert constant[0].tolist() == pytest.approx([3.0] * 4, rel=1e-9)  # the shares add up to 1
    best = best_of_n_means(answers, answers, [1024])
    assert float(best) == pytest.approx(1024 * 4097 / 1025 - 1, rel=1e-9)  # the mean of a maximum without replacement


@pytest.mark.parametrize("sizes", [[0], [4], [1, 4]])
def test_more_than_there_is_cannot_be_chosen_from(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="between 1 and the 3 answers"):
        best_of_n_means(torch.zeros(1, 3), torch.zeros(1, 3), sizes)
