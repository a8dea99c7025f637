"""What the importers hand to each other: rows of a file, rows that were turned away, and the options of an import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from manners.config import Config
from manners.records import Judgement, Source, Split


class ImportOptions(Config):
    """What the rows of a file do not say themselves. A row's own `judge`, `category` or `split` comes first."""

    judge: str = Field(default="", description="who judged")
    source: Source = Field(default="human", description="human, ai or rule")
    category: str = Field(default="", description="category of the prompts")
    split: Split | Literal[""] = Field(
        default="", description="train, validation or test for all prompts; empty: drawn later"
    )
    criterion: str = Field(default="", description="which rating decides; empty: the mean of all of them")
    rename: Mapping[str, str] = Field(default_factory=dict, description="column of the file: the name it stands for")


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file. `line` is the line it starts on, or its place in a JSON list or data set, counting from 1.

    `value` goes by the names that the layouts know, `raw` is the record as the file has it.
    """

    line: int
    value: Mapping[str, Any]
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is no judgement: where it stood, why it was turned away, and what it was."""

    line: int
    reason: str
    row: Any

    def to_json(self) -> dict[str, Any]:
        return {"line": self.line, "reason": self.reason, "row": self.row}


class BadRowError(ValueError):
    """Why a row cannot become a judgement; the message goes into the rejects file."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which files hold judgements.

    `fits` says whether a row looks like this layout. `judgements` turns rows, in their order, into judgements and
    rejects.
    """

    name: str
    about: str
    fits: Callable[[Mapping[str, Any], ImportOptions], bool]
    judgements: Callable[[Iterable[Row], ImportOptions], Iterator[Judgement | Reject]]


def row_by_row(
    judgement: Callable[[Mapping[str, Any], ImportOptions], Judgement],
) -> Callable[[Iterable[Row], ImportOptions], Iterator[Judgement | Reject]]:
    """The `judgements` of a layout in which every row is one judgement."""

    def judgements(rows: Iterable[Row], options: ImportOptions) -> Iterator[Judgement | Reject]:
        for row in rows:
            try:
                yield judgement(row.value, options)
            except ValueError as error:
                yield Reject(row.line, str(error), row.raw)

    return judgements


def need(row: Mapping[str, Any], *keys: str) -> None:
    missing = [repr(key) for key in keys if row.get(key) is None]
    if missing:
        raise BadRowError(f"there is no {' and no '.join(missing)}")


def text_of(value: Any, what: str) -> str:
    """`value` without white space around it. Raises BadRowError when it is not text or nothing is left."""
    if not isinstance(value, str):
        raise BadRowError(f"{what} must be text, not {type(value).__name__}")
    text = value.strip()
    if not text:
        raise BadRowError(f"{what} is empty")
    return text


def texts_of(value: Any) -> list[str]:
    """The texts of a list of completions; the reason of a BadRowError says which one is wrong, counting from 0."""
    return [text_of(text, f"completion {place}") for place, text in enumerate(list_of(value, "completions"))]


def number_of(value: Any, what: str) -> float:
    """`value` as a finite number, also from a text that reads as one. Raises BadRowError for anything else."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or number - number != 0:
        raise BadRowError(f"{what} must be a number, not {value!r}")
    return number


def list_of(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise BadRowError(f"{what} must be a list, not {type(value).__name__}")
    return list(value)
