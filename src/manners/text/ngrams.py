"""Hashed n-grams of words and of letters: a text as a few hundred numbers, without a vocabulary that would have to be kept.

Every word gives features: itself, itself with the word before it, and its runs of three to five letters, with the spaces beside
it. A feature is hashed to one of `buckets` places and to a sign, which makes collisions cancel instead of add up (Weinberger et
al. 2009, arXiv 0902.2206). The hash is our own polynomial one, so that the numbers are the same in every process, on every
machine and in every version of Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LETTERS = (3, 4, 5)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2⁶⁴
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_SPACE = 32
_Hashes = NDArray[np.uint64]


class Features(NamedTuple):
    """Hashed features of N words: places [F] in 0 … buckets − 1, signs [F] −1 or +1, words [F]: which word has the feature,
    ascending within each kind of feature."""

    places: NDArray[np.int64]
    signs: NDArray[np.float32]
    words: NDArray[np.int64]


def hashed_ngrams(texts: Sequence[Sequence[str]], buckets: int) -> Features:
    """Features of texts given as lists of words, the words numbered through all texts. `buckets` is a power of two.

    Half of the places are for words and pairs of words, the other half for letters.
    """
    if buckets < 2 or buckets & (buckets - 1):
        raise ValueError(f"buckets must be a power of two, not {buckets}")
    stream = "".join(f" {' '.join(words)} " for words in texts)
    codes = np.frombuffer(stream.encode("utf-32-le"), np.uint32)
    spaces = codes == _SPACE
    segments = _Segments(codes)
    starts = np.flatnonzero(spaces[:-1] & ~spaces[1:]) + 1
    ends = np.flatnonzero(~spaces[:-1] & spaces[1:]) + 1
    names = segments.hashes(starts, ends)
    number = np.cumsum(spaces[:-1] & ~spaces[1:]) - 1  # of the word that a place lies in; its leading space included
    found = [(names, np.arange(len(names)), 0), (*_pairs(names, starts, ends), 0)]
    for length in LETTERS:
        begin = segments.within_words(length, spaces)
        found.append((segments.hashes(begin, begin + length) + np.uint64(length), number[begin], buckets // 2))
    mixed = [_mix(hashes) for hashes, _, _ in found]
    half = np.uint64(buckets // 2 - 1)
    places = [(m & half).astype(np.int64) + offset for m, (_, _, offset) in zip(mixed, found, strict=True)]
    signs = [np.where(m >> np.uint64(63), np.float32(1), np.float32(-1)) for m in mixed]
    return Features(np.concatenate(places), np.concatenate(signs), np.concatenate([words for _, words, _ in found]))


class _Segments:
    """Polynomial hashes of any stretch of a stream: Σ cᵢ · baseᵉ⁻¹⁻ⁱ modulo 2⁶⁴ for its characters cᵢ from start to end e."""

    def __init__(self, codes: NDArray[np.uint32]) -> None:
        count = len(codes) + 1
        self._powers = _powers(_BASE, count)
        scaled = codes.astype(np.uint64) * _powers(_INVERSE, count)[:-1]
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(scaled, dtype=np.uint64)])

    def hashes(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> _Hashes:
        return (self._sums[ends] - self._sums[starts]) * self._powers[ends - 1]

    def within_words(self, length: int, spaces: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Where the stretches of `length` begin that hold no space but at their ends."""
        count = len(spaces) - length + 1
        if count < 1:
            return np.zeros(0, np.int64)
        before = np.concatenate([[0], np.cumsum(spaces)])
        inner = before[length - 1 : length - 1 + count] - before[1 : 1 + count]
        return np.flatnonzero(inner == 0)


def _pairs(names: _Hashes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[_Hashes, NDArray[np.int64]]:
    """Words that stand behind another of the same text: one space lies between them, where texts are two apart."""
    second = np.flatnonzero(starts[1:] - ends[:-1] == 1) + 1
    return _mix(names[second - 1]) * _BASE + names[second], second


def _powers(of: np.uint64, count: int) -> _Hashes:
    factors = np.full(count, of, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _mix(hashes: _Hashes) -> _Hashes:
    """Every bit of the outcome depends on every bit that goes in (the finaliser of SplitMix64)."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
