"""Trains, measures and writes the toxicity scorer: `python runs/toxicity/train.py --data FOLDER`; a few minutes on one core.

FOLDER holds the public sets in their published layouts (corpora.FILES). Written are src/manners/rewards/weights/toxicity.safetensors
and, beside it, toxicity.json: the numbers of the model card. `--hatecheck FILE` also measures on HateCheck's test_suite_cases.csv.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import corpora
import measure
import numpy as np
import templates
from corpora import DISGUISES, Labelled, disguised
from fit import SOURCE_WEIGHTS, fit, platt

from manners.rewards.toxicity import FAULTS, WEIGHTS, ToxicityScorer

VERSION = "1"
COPIES = 0.15  # share of the training texts that are also shown in disguise


def lessons(rows: Sequence[Labelled]) -> list[Labelled]:
    """The texts to fit on: `rows`, some of them a second time in disguise, and our own sentences."""
    draw = random.Random(0)
    copies = [
        replace(row, text=disguised(row.text, draw.choice(DISGUISES), draw)) for row in rows if draw.random() < COPIES
    ]
    sentences = [Labelled(text, "sentences", toxic, threat, hate) for text, toxic, hate, threat in templates.taught()]
    return [*rows, *copies, *sentences]


def calibrate(scorer: ToxicityScorer, rows: Sequence[Labelled]) -> None:
    """Set slope and offset on texts that were not fitted to, every source with its total weight alike."""
    raw, source = scorer.raw([row.text for row in rows]), np.array([row.source for row in rows])
    for column, fault in enumerate(FAULTS):
        labels = np.array([row.probability(fault) for row in rows])
        known = ~np.isnan(labels)
        shares = np.zeros(len(rows))
        for name in set(source[known]):
            shares[known & (source == name)] = 1 / (known & (source == name)).sum()
        scorer.slope[column], scorer.offset[column] = platt(
            raw[known, column].astype(float), labels[known], shares[known]
        )


def trained(rows: Sequence[Labelled]) -> ToxicityScorer:
    """A scorer from the training and calibration parts of `rows`.

    Calibrated is a first fit, without the calibration part; the second fit, to both parts, takes its slope and offset over.
    """
    known = [row for row in rows if row.part != "test"]
    first = fit(lessons([row for row in known if row.part == "train"]))
    calibrate(first, [row for row in known if row.part == "calibration"])
    second = fit(lessons(known))
    second.slope, second.offset = first.slope, first.offset
    return second


def _others(rows: Sequence[Labelled], name: str) -> list[Labelled]:
    return [row for row in rows if row.source != name and row.part != "test"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--hatecheck", type=Path, help="test_suite_cases.csv of HateCheck, to measure on as well")
    options = parser.parse_args(arguments)
    rows = corpora.read(options.data)
    scorer = trained(rows)
    # What is measured is what is shipped: the weights as they are after rounding.
    scorer.save(options.out)
    scorer = ToxicityScorer.load(options.out)
    across = {name: measure.across(fit(lessons(_others(rows, name))), rows, name) for name in ("talk", "moderation")}
    hashes = corpora.hashes(options.data)
    data: dict[str, Any] = {
        name: {
            "file": file,
            "licence": licence,
            "source": source,
            "sha256": hashes[name],
            "weight": {fault: SOURCE_WEIGHTS[fault][name] for fault in FAULTS},
            "texts": {
                part: sum(r.source == name and r.part == part for r in rows)
                for part in ("train", "calibration", "test")
            },
        }
        for name, (file, licence, source) in corpora.FILES.items()
    }
    held = [row for row in rows if row.part == "test"]
    scorer.card = {
        "name": "manners toxicity",
        "version": VERSION,
        "licence": "Apache-2.0",
        "window": scorer.window,
        "sharpness": scorer.sharpness,
        "faults": list(FAULTS),
        "bytes": options.out.stat().st_size,
        "data": data,
        "held out": measure.held_out(scorer, held),
        "across data sets": across,
        "identity terms": measure.identities(scorer),
        "disguises": measure.robustness(scorer, held),
        "dialect": measure.dialect(scorer, held),
        "speed": measure.speed(scorer, held),
    }
    if options.hatecheck:
        scorer.card["hatecheck"] = measure.hatecheck(scorer, options.hatecheck)
    scorer.save(options.out)
    print(measure.as_json(scorer.card))


if __name__ == "__main__":
    main()
