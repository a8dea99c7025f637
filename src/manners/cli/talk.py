"""Talking to the person at the terminal: progress on stderr, data on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")
WIDE = 140  # columns of a table that goes into a file
console = Console(stderr=True, soft_wrap=True)


def say(text: str, markup_of: str = "") -> None:
    """A line on stderr. `markup_of` is the part of `text` that comes from outside and must not be read as markup."""
    console.print(text.replace(markup_of, escape(markup_of)) if markup_of else text, highlight=False)


def track(items: Sequence[T], description: str) -> Iterable[T]:
    """Go through `items` with a bar and the time left, on stderr; plain lines every ten seconds where that is no terminal."""
    if console.is_terminal:
        return _bar(items, description)
    return _lines(items, description)


def _bar(items: Sequence[T], description: str) -> Iterator[T]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, total=len(items), description=description)


def _lines(items: Sequence[T], description: str) -> Iterator[T]:
    start = spoken = time.monotonic()
    for done, item in enumerate(items):
        yield item
        now = time.monotonic()
        if now - spoken > 10:
            left = (now - start) / (done + 1) * (len(items) - done - 1)
            say(f"{description}: {done + 1}/{len(items)}, about {left:.0f} s left")
            spoken = now


def give(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, aside: bool = False) -> None:
    """A table on stdout, or `aside`, on stderr, where stdout holds the same as data."""
    drawn = Table(title=escape(title), title_justify="left")
    for column in columns:
        drawn.add_column(column)
    for row in rows:
        drawn.add_row(*(escape(str(cell)) for cell in row))
    out = Console(soft_wrap=False, stderr=aside)
    if not out.is_terminal:
        out.width = max(out.width, WIDE)
    out.print(drawn)
