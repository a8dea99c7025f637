from __future__ import annotations

import pytest
import torch
from tiny import shake, tiny_trunk

from manners.ops import products
from manners.ops.products import Reordered, by_onednn, times
from manners.records import Prompt
from manners.sampling.local import LocalSampler


@pytest.mark.parametrize("rows", [0, 1, 7, 64, 300])
@pytest.mark.parametrize("contiguous", [True, False])
def test_it_is_the_plain_product_for_any_number_of_rows(rows: int, contiguous: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(40, 24, generator=generator) if contiguous else torch.randn(24, 40, generator=generator).T
    x, more = torch.randn(rows, 40, generator=generator), torch.randn(rows, 24, generator=generator)
    product = Reordered(weight)
    assert product.by_onednn
    exact = x.double() @ weight.double()
    torch.testing.assert_close(product(x).double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(times(x, weight).double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(x, more).double(), exact + more.double(), rtol=1e-5, atol=1e-5)


def test_what_is_added_stays_as_it_is() -> None:
    more = torch.ones(2, 3)
    Reordered(torch.ones(4, 3))(torch.ones(2, 4), more)
    assert more.tolist() == torch.ones(2, 3).tolist()


def test_other_number_types_are_multiplied_plainly() -> None:
    weight, x = torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    assert not by_onednn(weight)
    assert Reordered(weight)(x).equal(x @ weight)
    assert times(x, weight).equal(x @ weight)


def test_a_product_that_needs_a_gradient_has_one() -> None:
    weight, x = torch.randn(4, 3), torch.randn(2, 4, requires_grad=True)
    times(x, weight).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(1).expand(2, 4))


def test_samples_with_and_without_it_are_the_same_and_so_are_their_log_probabilities() -> None:
    trunk = tiny_trunk()
    trunk.adapters.add("policy", rank=4, alpha=8, seed=0)
    shake(trunk, "policy")
    prompts = [Prompt.of(text) for text in ("abc", "defgh", "a")]

    def sample() -> tuple[torch.Tensor, torch.Tensor]:
        rollouts = LocalSampler(trunk, "policy").sample(prompts, max_tokens=9, temperature=1.0, seed=3)
        return rollouts.tokens, rollouts.logps

    tokens, logps = sample()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "by_onednn", lambda _: False)
        plain_tokens, plain_logps = sample()
    assert tokens.equal(plain_tokens)
    torch.testing.assert_close(logps, plain_logps, rtol=0, atol=1e-5)
