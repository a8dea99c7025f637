"""A conversation at the terminal about texts of models and strangers: lines in, text out on stderr.

Whatever is shown passes through `printable`, so no text can steer the terminal: move the cursor, change the title, write to the
clipboard, turn the direction of reading, or look like our own words in colour.
"""

from __future__ import annotations

import os
import sys
import unicodedata

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from manners.errors import MannersError
from manners.feedback.importers.files import unstorable
from manners.web.rendering import visible

_WIDEST = 100
# Both join letters and emoji, and steer nothing.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """`text` with everything that a terminal would obey, or that turns the direction of reading, as visible signs."""
    shown = []
    for character in visible(text).expandtabs(4):
        kind = unicodedata.category(character)
        if kind in ("Zl", "Zp"):
            shown.append("\n")
        else:
            shown.append("\ufffd" if kind == "Cf" and character not in _JOINERS else character)
    return "".join(shown)


class Terminal:
    """Asks on stdin and speaks on stderr, at most 100 columns wide, without colour where there is none."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._width = min(self._console.width, _WIDEST)
        self.lines = 0
        self.interactive = sys.stdin.isatty()
        self._whole = self.interactive and sys.stdout.isatty()
        if self._whole:
            import readline  # noqa: F401 - importing it gives `input` a line that can be edited

    @property
    def in_editor(self) -> bool:
        """Whether a text is better written in the person's own editor: they named one, and it has a terminal."""
        return self._whole and bool(os.environ.get("VISUAL") or os.environ.get("EDITOR"))

    def ask(self, sign: str = "> ") -> str | None:
        """The next line without its end; None at the end of input. Raises MannersError for a line that no store can keep."""
        self.lines += 1
        try:
            line = self._edited(sign) if self._whole else self._plain(sign)
        except UnicodeDecodeError:
            raise MannersError("this line is not UTF-8") from None
        if line is not None and (reason := unstorable(line)):
            raise MannersError(reason)
        return line

    def _edited(self, sign: str) -> str | None:
        try:
            return input(sign)
        except EOFError:
            return None

    def _plain(self, sign: str) -> str | None:
        if self.interactive:
            sys.stderr.write(sign)
            sys.stderr.flush()
        line = sys.stdin.readline()
        return line.rstrip("\r\n") if line else None

    def tell(self, text: str, style: str = "") -> None:
        """A paragraph, wrapped."""
        self._show(Text(printable(text), style))

    def title(self, text: str) -> None:
        """A heading with a line to the right edge, which is seen without colour too."""
        line = Text(printable(text).replace("\n", " "), "bold")
        line.truncate(self._width - 8, overflow="ellipsis")
        self._show(Text.assemble("── ", line, " ", "─" * (self._width - 4 - line.cell_len)))

    def quote(self, text: str) -> None:
        """What somebody else wrote, set in from the left."""
        self._show(Padding(Text(printable(text)), (0, 0, 0, 2)))

    def gap(self) -> None:
        self._show(Text(""))

    def _show(self, what: Text | Padding) -> None:
        self._console.print(what, width=self._width, soft_wrap=False)
