"""Fitting the scorer: logistic regression on windows with soft labels, by L-BFGS. A convex problem, so that there is no seed in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.optimize import minimize

from manners.rewards.toxicity import FAULTS, Fault, ToxicityScorer, cut, window_features

from corpora import Labelled  # isort: skip

BUCKETS, WINDOW, SHARPNESS = 1 << 19, 40, 4.0
LETTERS = 0.5  # how much dearer than words letters are: their inputs are scaled by this
SOURCE_WEIGHTS: dict[Fault, dict[str, float]] = {
    "toxicity": {"tweets": 1.0, "moderation": 2.0, "talk": 3.0, "answers": 1.0, "sentences": 0.5},
    "aggression": {"tweets": 1.0, "moderation": 2.0, "talk": 3.0, "answers": 1.0, "sentences": 0.5},
    "hate": {"tweets": 1.0, "moderation": 1.0, "talk": 1.0, "answers": 0.3, "sentences": 0.04},
}
RIDGES: dict[Fault, float] = {"toxicity": 1e-4, "aggression": 1e-4, "hate": 2e-4}
_Numbers = NDArray[np.float64]


def fit(rows: Sequence[Labelled], iterations: int = 50) -> ToxicityScorer:
    """A scorer without calibration. A window of a text has the text's label, and an equal share of its weight."""
    windows = cut([row.text for row in rows], WINDOW)
    values, owners, norms = window_features(windows.words, BUCKETS)
    inputs = sparse.csr_matrix(
        (values.signs * norms[owners], (owners, values.places)), shape=(len(windows.words), BUCKETS), dtype=np.float64
    )
    used = np.unique(values.places)
    inputs = inputs[:, used]
    rarity = np.clip(np.log(inputs.shape[0] / inputs.getnnz(0)), 0.5, 9)
    kinds = np.where(used < BUCKETS // 2, 1, LETTERS)
    weights, bias = np.zeros((BUCKETS, len(FAULTS)), np.float32), np.zeros(len(FAULTS), np.float32)
    for column, fault in enumerate(FAULTS):
        labels = np.array([row.probability(fault) for row in rows])[windows.owners]
        shares = (
            np.array([SOURCE_WEIGHTS[fault][row.source] for row in rows])[windows.owners]
            / np.bincount(windows.owners)[windows.owners]
        )
        # Hate is a matter of few words among many that are merely coarse: what tells it apart may weigh more.
        scale = kinds * (2 * np.sqrt(rarity * _telling(inputs, labels, shares)) if fault == "hate" else rarity)
        found = _logistic(inputs @ sparse.diags(scale), labels, shares, RIDGES[fault], iterations)
        weights[used, column], bias[column] = found[:-1] * scale, found[-1]
    ones, zeros = np.ones(len(FAULTS), np.float32), np.zeros(len(FAULTS), np.float32)
    return ToxicityScorer(
        weights, bias, ones, zeros, {"version": "unfinished", "window": WINDOW, "sharpness": SHARPNESS}
    )


def _telling(inputs: Any, labels: _Numbers, shares: _Numbers) -> _Numbers:
    """|log-odds| of each feature between what has the fault and what has not, smoothed (Wang & Manning 2012, "NB-SVM")."""
    known = ~np.isnan(labels)
    present = abs(inputs[known]).sign().T
    with_fault, without = labels[known] * shares[known], (1 - labels[known]) * shares[known]
    base = with_fault.sum() / (with_fault + without).sum()
    log_with = np.log((present @ with_fault + base) / (with_fault.sum() + 1))
    return np.abs(log_with - np.log((present @ without + 1 - base) / (without.sum() + 1)))


def _logistic(inputs: Any, labels: _Numbers, shares: _Numbers, ridge: float, iterations: int) -> _Numbers:
    """Coefficients and bias that minimise the weighted mean cross-entropy + ridge / 2 · |coefficients|²."""
    known = ~np.isnan(labels)
    inputs, labels, shares = inputs[known], labels[known], shares[known] / shares[known].sum()
    turned = inputs.T.tocsr()

    def loss(given: _Numbers) -> tuple[float, _Numbers]:
        logits = inputs @ given[:-1] + given[-1]
        wrong = shares * (1 / (1 + np.exp(-logits)) - labels)
        value = shares @ (np.logaddexp(0, logits) - labels * logits) + ridge / 2 * given[:-1] @ given[:-1]
        return value, np.append(turned @ wrong + ridge * given[:-1], wrong.sum())

    start = np.zeros(inputs.shape[1] + 1)
    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).x


def platt(logits: _Numbers, labels: _Numbers, shares: _Numbers) -> tuple[float, float]:
    """Slope and offset that make logits say how likely the label is (Platt 1999, with soft labels)."""
    found = _logistic(sparse.csr_matrix(logits[:, None]), labels, shares, 1e-6, 200)
    return float(found[0]), float(found[1])
