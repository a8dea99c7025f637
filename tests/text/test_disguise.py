from __future__ import annotations

import time

import pytest

from manners.text.disguise import plain_words


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("You Stupid FOOL", "you stupid fool"),
        ("y0u 5tup1d f00l", "you stupid fool"),
        ("you $tup!d f@ol", "you stupid faol"),
        ("y o u s t u p i d", "youstupid"),
        ("you f o o l now", "you fool now"),
        ("you f.o.o.l, f-o-o-l, f_o_o_l", "you fool fool fool"),
        ("you fo\u200bol, fo\u00adol", "you fool fool"),
        ("\u0443\u043eu fооl", "you fool"),  # Cyrillic letters
        ("ｙｏｕ ｆóól", "you fool"),
        ("you sooooon", "you son soon"),
        ("f**l and f*ol", "f*l and f*ol"),
        ("don't don\u2019t", "dont dont"),
        ("fool!!! *fool* 'fool'", "fool fool fool"),
    ],
)
def test_a_disguise_is_undone(written: str, meant: str) -> None:
    assert plain_words(written) == meant.split()


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("RT @someone: hello there http://t.co/abc www.place.org", "hello there"),
        ("&#8220;quoted&#8221; &amp; kept", "quoted kept"),
        ("on 12.10.2020 at 14:30", "on at"),
        ("I am a man", "i am a man"),
        ("well-known facts", "well known facts"),
        ("a b", "a b"),
        ("", ""),
        ("12345 !!! ...", ""),
    ],
)
def test_what_says_nothing_is_left_out_and_plain_writing_is_left_alone(written: str, kept: str) -> None:
    assert plain_words(written) == kept.split()


def test_reading_again_what_was_read_changes_nothing() -> None:
    once = plain_words("Thе 1d10t wr0te l o u d l y, twiiiice, to @them")
    assert plain_words(" ".join(once)) == once


@pytest.mark.parametrize("piece", ["!", "a ", "a.", "*", "@", "&", "a!", "https://", "ab ", "&#", "aaa", "а"])
def test_long_texts_of_one_thing_are_read_in_time_that_grows_with_them(piece: str) -> None:
    """Quadratic time would take a hundred times as long for ten times the text; thirty leaves room for a busy machine."""

    def seconds(count: int) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            plain_words(piece * count + "z")
            best = min(best, time.process_time() - start)
        return best

    assert seconds(20_000) < 30 * seconds(2_000) + 0.01
