from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from manners.losses.ilql import advantage_weights, conservative_loss, expectile_loss, td_loss
from manners.ops.advantages import gae


def gradient(loss: Tensor, of: Tensor) -> list[float]:
    (found,) = torch.autograd.grad(loss.sum(), of)
    return found.tolist()


# --- by hand --------------------------------------------------------------------------------------------------------


def test_the_td_loss_by_hand_and_its_targets_stay_where_they_are() -> None:
    q = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    y = torch.tensor([0.0, -2.0, 2.0], requires_grad=True)
    loss = td_loss(q, y)
    assert loss.tolist() == [1.0, 0.0, 2.25]
    assert gradient(loss, q) == [2.0, 0.0, -3.0]
    assert torch.autograd.grad(td_loss(q, y).sum(), y, allow_unused=True) == (None,)


def test_the_expectile_loss_by_hand() -> None:
    values = torch.zeros(5, requires_grad=True)
    targets = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.0], requires_grad=True)
    loss = expectile_loss(values, targets, tau=0.9)
    assert loss.tolist() == pytest.approx([0.9, 0.1, 3.6, 0.4, 0.0])
    assert gradient(loss, values) == pytest.approx([-1.8, 0.2, -3.6, 0.4, 0.0])
    assert torch.autograd.grad(expectile_loss(values, targets, tau=0.9).sum(), targets, allow_unused=True) == (None,)


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_extremes_stay_finite(size: float) -> None:
    far = torch.tensor([-size, size])
    assert expectile_loss(far, -far, tau=0.7).isfinite().all()
    assert advantage_weights(far, -far, beta=5.0, cap=20.0).tolist() == [20.0, 0.0]


def test_half_an_expectile_is_half_a_square() -> None:
    values, targets = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(expectile_loss(values, targets, tau=0.5), 0.5 * (targets - values) ** 2)


def test_the_conservative_loss_by_hand() -> None:
    # three tokens with Q of 0, log 2 and log 5: the partition is log 8
    q = torch.tensor([0.0, math.log(2), math.log(5)])
    loss = conservative_loss(q, torch.full((3,), math.log(8)))
    assert loss.tolist() == pytest.approx([math.log(8), math.log(4), math.log(8 / 5)], rel=1e-6)
    everywhere = torch.full((7,), 3.0)
    assert conservative_loss(everywhere[:1], torch.logsumexp(everywhere, 0)[None]).item() == pytest.approx(math.log(7))


def test_weights_of_cloning_by_hand() -> None:
    values, targets = torch.tensor([0.0, 1.0, 0.0], requires_grad=True), torch.tensor([math.log(3), 0.0, 50.0])
    weights = advantage_weights(values, targets, beta=1.0, cap=20.0)
    assert weights.tolist() == pytest.approx([3.0, math.exp(-1), 20.0])
    assert not weights.requires_grad
    assert advantage_weights(values, targets, beta=0.0, cap=20.0).tolist() == [1.0, 1.0, 1.0]


# --- what minimises them --------------------------------------------------------------------------------------------


def expectile(sample: np.ndarray, tau: float) -> float:
    """By its definition: τ·E[(x − m)₊] = (1 − τ)·E[(m − x)₊]."""

    def balance(m: float) -> float:
        return float(tau * np.maximum(sample - m, 0).mean() - (1 - tau) * np.maximum(m - sample, 0).mean())

    return float(brentq(balance, sample.min() - 1, sample.max() + 1, xtol=1e-12))


def minimiser(sample: Tensor, tau: float) -> float:
    value = torch.zeros((), dtype=torch.double, requires_grad=True)
    descent = torch.optim.LBFGS(
        [value], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        descent.zero_grad()
        loss = expectile_loss(value.expand(len(sample)), sample, tau=tau).mean()
        loss.backward()
        return loss

    descent.step(closure)
    return value.item()


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.7, 0.9, 0.99])
def test_its_minimum_is_the_expectile(tau: float) -> None:
    sample = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    assert minimiser(sample, tau) == pytest.approx(expectile(sample.numpy(), tau), abs=1e-6)


def test_towards_tau_1_it_is_the_maximum_and_at_a_half_the_mean() -> None:
    sample = torch.tensor([-3.0, 0.0, 1.0, 4.0], dtype=torch.double)
    assert minimiser(sample, 0.5) == pytest.approx(0.5, abs=1e-9)
    errors = [4 - minimiser(sample, tau) for tau in (0.9, 0.99, 0.999, 0.9999)]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < 2e-3


# --- a random-walk world, with plain tables in place of a network ---------------------------------------------------

# from each node one can go to others; 5 is the goal, where the walk is over
EDGES = {0: [1, 2], 1: [0, 3], 2: [0, 3, 4], 3: [1, 4], 4: [2, 5], 5: []}
GOAL, NODES, STEPS = 5, 6, 700


def walks(count: int, seed: int) -> list[list[int]]:
    """Random walks to the goal from random nodes, of at most twelve steps."""
    rng = np.random.default_rng(seed)
    found: list[list[int]] = []
    while len(found) < count:
        walk = [int(rng.integers(0, GOAL))]
        while walk[-1] != GOAL and len(walk) <= 12:
            walk.append(int(rng.choice(EDGES[walk[-1]])))
        if walk[-1] == GOAL:
            found.append(walk)
    return found


def learned_tables(data: list[list[int]], tau: float, gamma: float, lam: float = 0.0) -> tuple[Tensor, Tensor]:
    """Q [S, A] and V [S] by gradient descent on the losses, with a lagging target; a step costs 1 (reward −1)."""
    q = torch.zeros(NODES, NODES, dtype=torch.double, requires_grad=True)
    v = torch.zeros(NODES, dtype=torch.double, requires_grad=True)
    target = q.detach().clone()
    longest = max(map(len, data)) - 1
    states, actions = torch.zeros(2, len(data), longest, dtype=torch.long)
    mask = torch.zeros(len(data), longest, dtype=torch.bool)
    for row, walk in enumerate(data):
        states[row, : len(walk) - 1] = torch.tensor(walk[:-1])
        actions[row, : len(walk) - 1] = torch.tensor(walk[1:])
        mask[row, : len(walk) - 1] = True
    rewards = torch.where(mask, -1.0, 0.0).double()
    descent = torch.optim.Adam([q, v], lr=0.1)
    for step in range(STEPS):
        for group in descent.param_groups:
            group["lr"] = 0.1 * (1 - step / STEPS)
        targets = gae(rewards, v.detach()[states], mask, gamma=gamma, lam=lam).returns
        loss = td_loss(q[states, actions], targets) + expectile_loss(v[states], target[states, actions], tau=tau)
        descent.zero_grad()
        loss[mask].mean().backward()
        descent.step()
        with torch.no_grad():
            target.lerp_(q, 0.2)
    return q.detach(), v.detach()


def tables_by_iteration(data: list[list[int]], tau: float, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """The fixed point: Q(s, a) = −1 + γ V(a), V(s) the τ-expectile of Q over the steps that the data took from s."""
    taken = [[b for walk in data for a, b in itertools.pairwise(walk) if a == s] for s in range(NODES)]
    q, v = np.zeros((NODES, NODES)), np.zeros(NODES)
    for _ in range(150):
        q = np.tile(-1 + gamma * v, (NODES, 1))
        v = np.array([expectile(q[s, taken[s]], tau) if taken[s] else 0.0 for s in range(NODES)])
    return q, v


@pytest.mark.parametrize("tau", [0.5, 0.8])
def test_descent_on_the_losses_ends_at_the_fixed_point_of_iteration(tau: float) -> None:
    data = walks(60, seed=1)
    q, v = learned_tables(data, tau, gamma=0.9)
    wanted_q, wanted_v = tables_by_iteration(data, tau, gamma=0.9)
    assert v.tolist() == pytest.approx(wanted_v.tolist(), abs=0.02)
    steps = [(s, a) for s, ends in EDGES.items() for a in ends]
    assert [float(q[s, a]) for s, a in steps] == pytest.approx([wanted_q[s, a] for s, a in steps], abs=0.02)


def test_towards_tau_1_the_walks_of_a_drunkard_teach_the_shortest_way() -> None:
    graph = np.zeros((NODES, NODES))
    for start, ends in EDGES.items():
        graph[start, ends] = 1
    left = shortest_path(graph, unweighted=True)[:, GOAL]
    data = walks(60, seed=1)
    q, v = learned_tables(data, tau=0.995, gamma=1.0)
    assert v.tolist() == pytest.approx((-left).tolist(), abs=0.15)
    for start, ends in EDGES.items():
        if ends:
            best = max(ends, key=lambda a, s=start: float(q[s, a]))  # type: ignore[misc]
            assert left[best] == left[start] - 1
    # the drunkard himself is far from that
    assert np.mean([len(walk) - 1 for walk in data if walk[0] == 0]) > 2 * left[0]


def test_with_lam_1_q_is_what_the_answers_really_earned() -> None:
    data = walks(60, seed=1)
    q, _ = learned_tables(data, tau=0.5, gamma=0.9, lam=1.0)
    earned: dict[tuple[int, int], list[float]] = {}
    for walk in data:
        for place in range(len(walk) - 1):
            left = len(walk) - 1 - place
            earned.setdefault((walk[place], walk[place + 1]), []).append(-sum(0.9**k for k in range(left)))
    assert [float(q[step]) for step in earned] == pytest.approx([np.mean(e) for e in earned.values()], abs=0.02)
