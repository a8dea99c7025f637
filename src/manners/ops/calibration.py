"""Is a probability what it says? Reliability by bins and the expected calibration error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def calibration(preferred: Tensor, bins: int = 5) -> dict[str, Any]:
    """Reliability of P(j preferred) [N] on pairs whose j really was preferred.

    A pair says the same thing from both sides, so the confidence is max(p, 1 − p) in [0.5, 1] and it is right where p > 0.5.
    Gives "ece", the mean |accuracy − confidence| weighted by bin size (Guo et al. 2017, arXiv 1706.04599), and "calibration",
    one row per bin that holds anything.
    """
    confidence = torch.maximum(preferred, 1 - preferred).double()
    right = (preferred > 0.5).double()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    rows = []
    for number in range(bins):
        chosen = place == number
        if chosen.any():
            low = 0.5 + 0.5 * number / bins
            rows.append({"low": low, "high": low + 0.5 / bins, "confidence": float(confidence[chosen].mean()),
                         "accuracy": float(right[chosen].mean()), "n": int(chosen.sum())})  # fmt: skip
    error = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / max(1, len(confidence))
    return {"ece": error, "calibration": rows}
