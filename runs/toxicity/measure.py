"""What the model card says about the scorer: ranking, calibration, identity terms, disguises, dialect, speed; 95 % bootstrap intervals."""

from __future__ import annotations

import csv
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import templates
from corpora import DISGUISES, Labelled, disguised
from numpy.typing import NDArray
from scipy.stats import rankdata

from manners.rewards.toxicity import FAULTS, ToxicityScorer

RESAMPLES = 500
_Flags = NDArray[np.bool_]
_Numbers = NDArray[np.float64]
# Marks of African American English that are no word of abuse; a rough sign, for the data does not say who wrote a tweet.
_DIALECT = re.compile(
    r"\b(?:finna|tryna|ima|i'ma|imma|aint|ain't|yall|y'all|bruh|dat|dis|dey|da|wit|gon|bout|nuffin|lil|homie|ion|iont|aight|mane|cuz)\b"
)


def auc(true: _Flags, scores: _Numbers) -> float:
    """How often a true one scores above another; ties count half (Mann–Whitney)."""
    ones, ranks = int(true.sum()), rankdata(scores)
    return float((ranks[true].sum() - ones * (ones + 1) / 2) / (ones * (len(true) - ones)))


def average_precision(true: _Flags, scores: _Numbers) -> float:
    """Mean, over the true ones, of the precision down to each."""
    ordered = true[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ordered) / np.arange(1, len(ordered) + 1))[ordered].mean())


def calibration_error(true: _Numbers, probabilities: _Numbers, bins: int = 10) -> float:
    """Expected calibration error over bins of equal width; `true` may be shares of votes."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    return float(sum(abs((true - probabilities)[place == b].sum()) for b in range(bins)) / len(true))


def with_interval(measured: Callable[[_Flags, _Numbers], float], true: _Flags, scores: _Numbers) -> dict[str, Any]:
    draw, found = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        rows = draw.integers(len(true), size=len(true))
        if 0 < true[rows].sum() < len(true):
            found.append(measured(true[rows], scores[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return {"value": round(measured(true, scores), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def ranking(true: _Flags, scores: _Numbers) -> dict[str, Any]:
    return {"texts": len(true), "positive": int(true.sum()), "roc_auc": with_interval(auc, true, scores),
            "average_precision": with_interval(average_precision, true, scores)}  # fmt: skip


def held_out(scorer: ToxicityScorer, held: Sequence[Labelled]) -> dict[str, Any]:
    """On the test parts of the data sets that were trained on."""
    found: dict[str, Any] = {}
    given = scorer.logits([row.text for row in held]).double().numpy()
    source, named = np.array([row.source for row in held]), np.array([row.named for row in held])
    tweets, talk = source == "tweets", source == "talk"
    found["tweets: hate or offensive against neither, by toxicity"] = ranking(
        named[tweets] != "neither", given[tweets, 0]
    )
    found["tweets: hate against the rest, by hate"] = ranking(named[tweets] == "hate", given[tweets, 2])
    pure = tweets & (named != "offensive")
    found["tweets: hate against neither, by hate"] = ranking(named[pure] == "hate", given[pure, 2])
    found["talk: toxic against not, by toxicity"] = ranking(named[talk] == "toxic", given[talk, 0])
    for column, fault in enumerate(FAULTS):
        labels = np.array([row.probability(fault) for row in held])
        chosen = (source == "moderation") & ~np.isnan(labels)
        found[f"moderation: {fault}"] = ranking(labels[chosen] > 0.5, given[chosen, column])
    errors = {}
    for column, fault in enumerate(FAULTS):
        labels = np.array([row.probability(fault) for row in held])
        for name in ("tweets", "talk", "moderation"):
            chosen = (source == name) & ~np.isnan(labels)
            if np.unique(labels[chosen]).size > 1:
                errors[f"{name}: {fault}"] = round(
                    calibration_error(labels[chosen], _sigmoid(given[chosen, column])), 4
                )
    return {"ranking": found, "expected calibration error": errors}


def across(scorer: ToxicityScorer, rows: Sequence[Labelled], name: str) -> dict[str, Any]:
    """On the whole of a data set of which this scorer saw nothing."""
    chosen = [row for row in rows if row.source == name and row.toxicity == row.toxicity]
    given = scorer.logits([row.text for row in chosen]).double().numpy()
    return ranking(np.array([row.toxicity > 0.5 for row in chosen]), given[:, 0])


def identities(scorer: ToxicityScorer) -> dict[str, Any]:
    """Share of our neutral sentences that name people and are held toxic or hateful (p ≥ 0.5), and of hateful ones that are not."""
    asked = templates.asked()
    given = scorer.probabilities([text for text, _, _, _ in asked]).double().numpy()
    hateful, known = np.array([row[2] for row in asked]), np.array([row[3] for row in asked])
    found: dict[str, Any] = {"sentences": len(asked)}
    for title, people in (("people named in training", known), ("other people", ~known)):
        found[title] = {"neutral held toxic": round(float((given[people & ~hateful, 0] >= 0.5).mean()), 4),
                        "neutral held hateful": round(float((given[people & ~hateful, 2] >= 0.5).mean()), 4),
                        "hateful held toxic": round(float((given[people & hateful, 0] >= 0.5).mean()), 4),
                        "auc of hate": round(auc(hateful[people], given[people, 2]), 4)}  # fmt: skip
    names = np.array([row[1] for row in asked])
    rates = {str(n): round(float((given[(names == n) & ~hateful, 0] >= 0.5).mean()), 3) for n in np.unique(names)}
    found["worst people"] = dict(sorted(rates.items(), key=lambda item: -item[1])[:5])
    return found


def robustness(scorer: ToxicityScorer, held: Sequence[Labelled]) -> dict[str, Any]:
    """AUC of toxicity on tweets and talk pages with a third of the longer words in disguise, against the plain texts."""
    found: dict[str, Any] = {}
    for name in ("tweets", "talk"):
        rows = [row for row in held if row.source == name]
        true = np.array([row.named in ("hate", "offensive", "toxic") for row in rows])
        plain = auc(true, scorer.logits([row.text for row in rows])[:, 0].double().numpy())
        found[name] = {"plain": round(plain, 4)}
        for how in DISGUISES:
            draw = random.Random(1)
            texts = [disguised(row.text, how, draw) for row in rows]
            found[name][how] = round(auc(true, scorer.logits(texts)[:, 0].double().numpy()) - plain, 4)
    return found


def dialect(scorer: ToxicityScorer, held: Sequence[Labelled]) -> dict[str, Any]:
    """Share of tweets that most people found harmless and that are held toxic, with and without marks of a dialect."""
    rows = [row for row in held if row.named == "neither"]
    wrong = (scorer.probabilities([row.text for row in rows])[:, 0] >= 0.5).numpy()
    marked = np.array([bool(_DIALECT.search(row.text.lower())) for row in rows])
    return {"with marks": {"tweets": int(marked.sum()), "held toxic": round(float(wrong[marked].mean()), 4)},
            "without": {"tweets": int((~marked).sum()), "held toxic": round(float(wrong[~marked].mean()), 4)}}  # fmt: skip


def speed(scorer: ToxicityScorer, held: Sequence[Labelled]) -> dict[str, Any]:
    """Texts of up to 140 characters per second of CPU time on one core, the best of five."""
    texts = [row.text for row in held if row.source == "tweets" and len(row.text) <= 140][:4000]
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        scorer.raw(texts)
        best = min(best, time.process_time() - start)
    return {"short texts per second": round(len(texts) / best)}


def hatecheck(scorer: ToxicityScorer, path: Path) -> dict[str, Any]:
    """On the functional tests of Röttger et al. 2021, most of which turn on context."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    given = scorer.logits([row["test_case"] for row in rows]).double().numpy()
    return ranking(np.array([row["label_gold"] == "hateful" for row in rows]), given[:, 2])


def as_json(card: dict[str, Any]) -> str:
    return json.dumps(card, indent=1, ensure_ascii=False)


def _sigmoid(logits: _Numbers) -> _Numbers:
    return 1 / (1 + np.exp(-logits))
