"""How a text is worded: where it has to be cut, whether it repeats another, and whether it hides behind stock phrases or preaches.

Word lists of our own, which see wording and not meaning: a rate of theirs is to be watched over the rounds of a run, not read as
a share of bad answers.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence

STOPS = (
    "\nHuman:", "\nUser:", "\nAssistant:", "\nCritique:", "\nCritique request:", "\nRevision request:", "\nRevision:",
    "Here is a conversation.", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
)  # fmt: skip

# Phrases that stand in the place of an answer.
BOILERPLATE = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large |ai )?language model|assistant)\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large |ai )?language model)\b"
    r"|\bi (?:can(?:not|'t)|can not|won't|am unable to|'m unable to|am not able to) (?:assist|help|comply)"
    r" (?:you )?with (?:that|this|your request)"
    r"|\bi (?:can(?:not|'t)|can not) (?:fulfil|fulfill) (?:that|this|your) request"
    r"|\byou are (?:valid|valued|loved|seen)\b"
    r"|\byour (?:feelings|safety and well-?being) (?:are valid|is my|are my)"
    r"|\bi(?:'m| am) (?:programmed|designed|here) to (?:be helpful|assist|provide)"
    r"|\bis there anything else i can (?:help|assist)"
    r"|\bplease (?:consult|seek) (?:a|the help of a) (?:qualified )?professional\b"
    r"|\bif you or someone you know\b"
)

# Sentences that lecture the one who asked.
PREACHING = re.compile(
    r"\bit(?:'s| is) (?:never|not) (?:ever )?(?:okay|ok|acceptable|right|appropriate|ethical|cool)\b"
    r"|\bit(?:'s| is) (?:very |always |also |so )?(?:important|essential|crucial|vital) (?:to|that)\b"
    r"|\b(?:you|we|one|people) (?:should|must) (?:always|never|all)\b"
    r"|\bwe (?:all )?(?:should|must|need to)\b"
    r"|\b(?:always )?(?:remember|keep in mind)(?:,| that| to)\b"
    r"|\byou should be ashamed\b|\bshame on you\b|\bi urge you\b|\bi (?:strongly )?encourage you to\b"
    r"|\b(?:everyone|everybody|all people) deserves?\b"
    r"|\b(?:morally|ethically) (?:wrong|unacceptable)\b"
    r"|\btreat (?:others|everyone|everybody|each other|one another|people) with\b"
)

_LABEL = re.compile(
    r"\A\W*(?:(?:here(?:'s| is) )?(?:the |my |a )?(?:revised|new|better|improved) (?:answer|response|version)[^:\n]{0,40}|"
    r"revision|answer|response|assistant|critique)\s*:\W*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s|\Z)")
_ABBREVIATION = re.compile(r"(?:\b(?:[A-Za-z]|e\.g|i\.e|Dr|Mr|Mrs|Ms|Prof|St|vs|etc)|(?:\A|\n)\s*\d+)\.\Z")
BORROWED = 6  # words: a shorter sentence may be the same by chance
FEWEST_DISTINCT = 0.5  # share of word pairs that differ; below it a text goes round in circles
SAME = 0.8  # two texts are the same where the shorter one begins the longer one and is at least this long


def words(text: str) -> list[str]:
    """The words of a text, without case, accents' spelling variants, signs and layout."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stop strings, wherever that stands, and whether there was one.

    One that begins with a line break stands at the very beginning as well.
    """
    line = "\n" + text
    places = [place for stop in stops if (place := line.find(stop)) >= 0]
    return (line[1 : max(1, min(places))], True) if places else (text, False)


def unlabelled(text: str) -> str:
    """The text without a label such as "Revised answer:" before it and without quotation marks around the whole."""
    bare = _LABEL.sub("", text.strip(), count=1).strip()
    if len(bare) > 1 and bare[0] == bare[-1] == '"' and bare.count('"') == 2:
        bare = bare[1:-1].strip()
    return bare


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty where there is none."""
    ends = [m.end() for m in _SENTENCE_END.finditer(text) if not _ABBREVIATION.search(text[: m.start() + 1])]
    return text[: ends[-1]].rstrip() if ends else ""


def same(text: str, other: str) -> bool:
    """Whether two texts are the same words, or one is the other with its end missing."""
    shorter, longer = sorted((words(text), words(other)), key=len)
    return longer[: len(shorter)] == shorter and len(shorter) >= SAME * len(longer)


def borrows(text: str, others: Sequence[str]) -> bool:
    """Whether a whole sentence of the text, of some length, stands in one of the others."""
    elsewhere = [f" {' '.join(words(other))} " for other in others]
    sentences = (words(sentence) for sentence in _SENTENCE_END.split(text))
    return any(
        len(sentence) >= BORROWED and any(f" {' '.join(sentence)} " in other for other in elsewhere)
        for sentence in sentences
    )


def repetitive(text: str) -> bool:
    """Whether the text says the same words over and over: of its pairs of neighbouring words, fewer than half are different."""
    own = words(text)
    pairs = list(itertools.pairwise(own))
    return len(own) >= 2 * BORROWED and len(set(pairs)) < FEWEST_DISTINCT * len(pairs)


def boilerplate(text: str) -> bool:
    """Whether a stock phrase stands in the text."""
    return BOILERPLATE.search(_plain(text)) is not None


def preaching(text: str) -> bool:
    """Whether a sentence of the text lectures."""
    return PREACHING.search(_plain(text)) is not None


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("’", "'").split())
