"""What reaches the terminal: no text of a model may steer it."""

from __future__ import annotations

import io
import sys

import pytest

from manners.cli.terminal import Terminal, printable
from manners.errors import MannersError

HOSTILE = [
    "\x1b[2J\x1b[H",  # wipes the screen
    "\x1b]0;title\x07",  # changes the title
    "\x1b]52;c;Y3VybA==\x07",  # writes to the clipboard
    "\x1b]8;;https://example.org\x1b\\here\x1b]8;;\x1b\\",  # a link that says something else
    "\x9b31mred\x9b0m",  # the same with one control character of eight bits
    "\x90q\x9c",
    "safe\rover",  # writes over the line
    "abc\x08\x08\x08xyz",
    "\x0e\x0f\x7f\x05",
    "\u202egnorw\u202c",  # turns the direction of reading
    "\u2066x\u2069\u200f\u061c",
    "\u2028\u2029",
    "\U000e0041",  # an invisible tag
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() or set(shown) - {"\n"} == set("") or shown.replace("\n", "").isprintable()
    for character in shown:
        assert character == "\n" or ord(character) >= 0x20
        assert not 0x7F <= ord(character) < 0xA0
        assert not 0x202A <= ord(character) <= 0x202E
        assert not 0x2066 <= ord(character) <= 0x2069
    shown.encode("utf-8")


def test_honest_text_stays_as_it_is() -> None:
    text = "Grüße, 日本語, 👩\u200d🔬, می\u200cخواهم: x\u00a0= 1"
    assert printable(text) == text
    assert printable("a\tb\r\nc") == "a   b\nc"


@pytest.mark.parametrize("text", HOSTILE)
def test_no_hostile_byte_reaches_the_stream(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    for show in (terminal.tell, terminal.title, terminal.quote):
        show(f"before {text} after")
    written = capfd.readouterr().err
    assert written.count("before") == written.count("after") == 3
    assert not set(written) & {"\x1b", "\x07", "\x08", "\r", "\x9b", "\u202e", "\x0e", "\x7f"}


def test_markup_is_no_markup_and_lines_fit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    terminal.quote("[bold red]shout[/] :smile: [link=https://example.org]x[/link] " + "word " * 40 + "日本" * 60)
    terminal.title("a heading that is much longer than the terminal is wide")
    written = capfd.readouterr().err
    assert "[bold red]shout[/]" in written.replace("\n ", "")
    assert ":smile:" in written
    wide = [sum(2 if c > "\u2e80" and c != "\u2026" else 1 for c in line) for line in written.splitlines()]
    assert max(wide) <= 40


def test_colour_only_where_it_is_wanted(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    terminal.tell("important", "red")
    assert capfd.readouterr().err == "important\n"


def test_lines_come_without_their_ends_and_broken_ones_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"b>a\r\nnul \0\nlast"), encoding="utf-8"))
    terminal = Terminal()
    assert terminal.ask() == "b>a"
    with pytest.raises(MannersError, match="NUL"):
        terminal.ask()
    assert (terminal.ask(), terminal.ask()) == ("last", None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    with pytest.raises(MannersError, match="not UTF-8"):
        Terminal().ask()
