"""Products with a frozen weight by oneDNN, where torch is built with it: float32 on the CPU.

torch multiplies such numbers by a BLAS that is slow on some processors, above all where few rows meet a large weight. oneDNN's kernels
are at hand as well. Elsewhere the product is torch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 64  # the number of rows that a weight's order is chosen for; any number gives the same product


def times(x: Tensor, weight: Tensor) -> Tensor:
    """x·W [N, outputs] of x [N, inputs] and W [inputs, outputs], either way round in memory. W is frozen; x gets no gradient by oneDNN,
    so that a product that needs one is torch's own."""
    if not by_onednn(weight) or (torch.is_grad_enabled() and x.requires_grad):
        return x @ weight
    return _linear(x, weight.T)


class Reordered:
    """x ↦ x·W for a frozen W [inputs, outputs], of which it holds a copy in the order in which oneDNN's kernels read it.

    A step of decoding multiplies few rows by every weight there is, and then reading the weights takes longer than multiplying. Without
    gradient.
    """

    def __init__(self, weight: Tensor) -> None:
        self.by_onednn = by_onednn(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.T, ROWS) if self.by_onednn else weight

    def __call__(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """x·W [N, outputs] of x [N, inputs], with `more` [N, outputs] added."""
        product = _linear(x, self.weight) if self.by_onednn else x @ self.weight
        return product if more is None else product.add_(more)


def by_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by `weight`."""
    return (
        (weight.device.type, weight.dtype) == ("cpu", torch.float32)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product
