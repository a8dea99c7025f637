"""The public data sets in their published layouts, and how each of their labels is read. Nothing of their texts is kept.

A label is a probability (a share of votes), or NaN where the data set does not say.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from manners.rewards.toxicity import Fault

UNKNOWN = float("nan")
Part = Literal["test", "calibration", "train"]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, the set it is of, and probabilities of toxicity, aggression and hate; `named` is the data set's own class."""

    text: str
    source: str
    toxicity: float
    aggression: float
    hate: float
    named: str = ""

    def probability(self, fault: Fault) -> float:
        """Of this fault; NaN where the data set does not say."""
        return {"toxicity": self.toxicity, "aggression": self.aggression, "hate": self.hate}[fault]

    @property
    def part(self) -> Part:
        """By the hash of the text: a fifth to test, a tenth to calibrate."""
        place = int(hashlib.sha256(self.text.encode()).hexdigest()[:8], 16) / 2**32
        return "test" if place < 0.2 else "calibration" if place < 0.3 else "train"


FILES = {
    "tweets": (
        "hate_speech_davidson/labeled_data.csv",
        "MIT",
        "Davidson et al. 2017, github.com/t-davidson/hate-speech-and-offensive-language",
    ),
    "moderation": (
        "openai_moderation/samples-1680.jsonl.gz",
        "MIT",
        "Markov et al. 2022, github.com/openai/moderation-api-release",
    ),
    "talk": (
        "jigsaw_wikipedia/toxicity_nonfuzzed_testset.csv",
        "CC BY 4.0",
        "Dixon et al. 2018, github.com/conversationai/unintended-ml-bias-analysis",
    ),
    "answers": ("derived/hh_helpful_test_human.jsonl", "MIT", "Bai et al. 2022, github.com/anthropics/hh-rlhf"),
}


def read(folder: Path) -> list[Labelled]:
    """Every text of the four sets."""
    paths = {name: folder / file for name, (file, _, _) in FILES.items()}
    return [
        *_tweets(paths["tweets"]),
        *_moderation(paths["moderation"]),
        *_talk(paths["talk"]),
        *_answers(paths["answers"]),
    ]


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / file).read_bytes()).hexdigest() for name, (file, _, _) in FILES.items()}


def _tweets(path: Path) -> list[Labelled]:
    """Votes of three or more people: hate speech, offensive, neither. A tweet that all find harmless is no threat either."""
    rows = []
    for row in _csv(path):
        neither, hate = int(row["neither"]) / int(row["count"]), int(row["hate_speech"]) / int(row["count"])
        named = {"0": "hate", "1": "offensive", "2": "neither"}[row["class"]]
        rows.append(Labelled(row["tweet"], "tweets", 1 - neither, 0.0 if neither == 1 else UNKNOWN, hate, named))
    return rows


def _talk(path: Path) -> list[Labelled]:
    rows = []
    for row in _csv(path):
        toxic = row["toxic"] == "True"
        clean = UNKNOWN if toxic else 0.0
        rows.append(Labelled(row["comment"], "talk", float(toxic), clean, clean, "toxic" if toxic else "not toxic"))
    return rows


def _moderation(path: Path) -> list[Labelled]:
    """H hate, HR harassment, V violence, H2 hate with threats, V2 graphic violence; a missing key is unknown."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            rows.append(
                Labelled(
                    row["prompt"],
                    "moderation",
                    _any(row, "H", "HR", "H2"),
                    _any(row, "V", "H2", "V2"),
                    _any(row, "H", "H2"),
                )
            )
    return rows


def _answers(path: Path) -> list[Labelled]:
    """Answers of an assistant that people preferred: taken as harmless."""
    with path.open(encoding="utf-8") as stream:
        return [Labelled(json.loads(line)["chosen"], "answers", 0.0, 0.0, 0.0) for line in stream]


def _any(row: dict[str, int], *keys: str) -> float:
    if any(row.get(key) == 1 for key in keys):
        return 1.0
    return 0.0 if all(key in row for key in keys) else UNKNOWN


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# The disguises that robustness is taught and measured with.
_LEET = str.maketrans("aeiost", "431057")
_ALIKE = str.maketrans("aeocpxyi", "аеосрхуі")


def disguised(text: str, how: str, draw: random.Random) -> str:
    """The text with a third of its words of four letters or more written in disguise: leet, spaced, dotted, drawn, alike, struck."""
    return " ".join(
        _one(word, how, draw) if len(word) > 3 and word.isalpha() and draw.random() < 1 / 3 else word
        for word in text.split(" ")
    )


def _one(word: str, how: str, draw: random.Random) -> str:
    place = draw.randrange(1, len(word) - 1)
    match how:
        case "leet":
            return word.translate(_LEET)
        case "spaced":
            return " ".join(word)
        case "dotted":
            return ".".join(word)
        case "drawn":
            return word[:place] + word[place] * 4 + word[place + 1 :]
        case "alike":
            return word.translate(_ALIKE)
        case "struck":
            return word[:place] + "*" + word[place + 1 :]
        case _:
            raise ValueError(how)


DISGUISES = ("leet", "spaced", "dotted", "drawn", "alike", "struck")
