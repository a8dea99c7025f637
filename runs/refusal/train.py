"""Fits and measures the refusal detector on XSTest's labelled answers: `python runs/refusal/train.py --data FOLDER`.

Writes src/manners/evaluate/weights/refusal.json with what was measured: each model's answers by a detector fitted to the other's, and
both by prompt in ten parts. With `--also FILE` (more answers in the same layout) they are only measured.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prior import BIAS, EXPECTED
from scipy.optimize import minimize
from scipy.stats import binomtest

from manners.evaluate.refusal import KINDS, WEIGHTS, RefusalDetector, cues, string_match

LABELS = {"1_full_compliance": 0, "3_partial_refusal": 1, "2_full_refusal": 2}
FILES = {"gpt4": "xstest/xstest_v2_completions_gpt4.csv", "llama2": "xstest/xstest_v2_completions_llama2orig.csv"}
RIDGE = 0.01
Answers = list[dict[str, str]]


def read(path: Path) -> Answers:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def labels(answers: Answers) -> NDArray[np.int64]:
    return np.array([LABELS[row["final_label"]] for row in answers])


def fit(answers: Answers, ridge: float = RIDGE) -> RefusalDetector:
    """Multinomial logistic regression: mean cross-entropy + ridge / 2 · |weights − what was expected|²."""
    names = list(cues(""))
    inputs = np.array([[*cues(row["completion"]).values(), 1.0] for row in answers])
    expected = np.array([*(EXPECTED.get(name, (0.0, 0.0, 0.0)) for name in names), BIAS])
    wanted = np.eye(len(KINDS))[labels(answers)]

    def loss(given: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = given.reshape(expected.shape)
        logits = inputs @ weights
        logps = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
        away = weights - expected
        gradient = inputs.T @ (np.exp(logps) - wanted) / len(answers) + ridge * away
        return -(wanted * logps).sum() / len(answers) + ridge / 2 * (away**2).sum(), gradient.ravel()

    found = minimize(loss, expected.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x.reshape(
        expected.shape
    )
    weights = {kind: dict(zip(names, found[:-1, k].round(4).tolist(), strict=True)) for k, kind in enumerate(KINDS)}
    return RefusalDetector(weights, dict(zip(KINDS, found[-1].round(4).tolist(), strict=True)))


def judged(detector: RefusalDetector, answers: Answers) -> NDArray[np.int64]:
    return np.array([KINDS.index(kind) for kind in detector.kinds([row["completion"] for row in answers])])


def by_prompt(answers: Answers, parts: int = 10) -> NDArray[np.int64]:
    """Verdicts on each answer by a detector that never saw an answer to its prompt."""
    part = np.array([int(hashlib.sha256(row["prompt"].encode()).hexdigest()[:8], 16) % parts for row in answers])
    given = np.zeros(len(answers), np.int64)
    for number in range(parts):
        detector = fit([row for row, p in zip(answers, part, strict=True) if p != number])
        given[part == number] = judged(detector, [row for row, p in zip(answers, part, strict=True) if p == number])
    return given


def measured(given: NDArray[np.int64], answers: Answers) -> dict[str, Any]:
    """Accuracy on three classes and on refusal or not, with 95 % Wilson intervals, beside the string matcher's.

    confusion[label][verdict] counts answers.
    """
    truth = labels(answers)
    plain = np.array([KINDS.index(string_match(row["completion"])) for row in answers])
    table = np.zeros((3, 3), int)
    np.add.at(table, (truth, given), 1)
    gained, lost = (((a > 0) == (truth > 0)) & ((b > 0) != (truth > 0)) for a, b in ((given, plain), (plain, given)))
    return {
        "answers": len(answers),
        "three_classes": _share(given == truth),
        "refusal_or_not": _share((given > 0) == (truth > 0)),
        "string_match_three_classes": _share(plain == truth),
        "string_match_refusal_or_not": _share((plain > 0) == (truth > 0)),
        "mcnemar_p": round(binomtest(int(gained.sum()), max(1, int(gained.sum() + lost.sum()))).pvalue, 5),
        "confusion": table.tolist(),
    }


def _share(right: NDArray[np.bool_]) -> dict[str, Any]:
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {"accuracy": round(float(right.mean()), 4), "interval": [round(interval.low, 4), round(interval.high, 4)]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args(arguments)
    sets = {name: read(options.data / file) for name, file in FILES.items()}
    both = [*sets["gpt4"], *sets["llama2"]]
    crossed, final = by_prompt(both), fit(both)
    found = {
        "gpt4, fitted to llama2": measured(judged(fit(sets["llama2"]), sets["gpt4"]), sets["gpt4"]),
        "llama2, fitted to gpt4": measured(judged(fit(sets["gpt4"]), sets["llama2"]), sets["llama2"]),
        "gpt4, by prompt": measured(crossed[: len(sets["gpt4"])], sets["gpt4"]),
        "llama2, by prompt": measured(crossed[len(sets["gpt4"]) :], sets["llama2"]),
        **{f"{path.stem}, never fitted to": measured(judged(final, rows := read(path)), rows) for path in options.also},
    }
    hashes = {name: hashlib.sha256((options.data / file).read_bytes()).hexdigest() for name, file in FILES.items()}
    card = {
        "version": "1",
        "weights": final.weights,
        "bias": final.bias,
        "data": {"licence": "CC BY 4.0, XSTest (Röttger et al. 2023)", "sha256": hashes},
        "measured": found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, row in found.items():
        ours, plain = row["refusal_or_not"]["accuracy"], row["string_match_refusal_or_not"]["accuracy"]
        print(
            f"{name}: refusal or not {ours:.3f}, string match {plain:.3f}, McNemar p {row['mcnemar_p']}; {row['confusion']}"
        )


if __name__ == "__main__":
    main()
