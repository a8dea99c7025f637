"""From bytes to rows: JSON lines, JSON lists and CSV, each also gzipped. A broken line is a reject, never the end."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from manners.errors import MannersError
from manners.feedback.importers.rows import Reject, Row

FORMATS = (".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz")
_LARGEST_CELL = 1 << 24  # characters; the default of 131072 is less than a long conversation
_SURROGATE = re.compile("[\ud800-\udfff]")
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


def read_rows(path: Path) -> Iterator[Row | Reject]:
    """The records of a file in their order. The name's ending says how to read it.

    Raises MannersError when the file is missing, cannot be read, or has an ending that is not known.
    """
    ending = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower()
    if ending not in FORMATS:
        raise MannersError(f"cannot tell how to read {path}: its name must end in one of {', '.join(FORMATS)}")
    with _readable(path), _opened(path) as stream:
        lines = _without_bom(stream, path)
        match ending.removesuffix(".gz"):
            case ".csv":
                yield from _csv(lines, path)
            case ".json":
                yield from _json(lines, path)
            case _:
                yield from _json_lines(lines)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise MannersError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise MannersError(f"{path} is a directory; name a file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MannersError(f"{path} is not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise MannersError(f"cannot read {path}: {error.strerror or error}") from None


def _opened(path: Path) -> contextlib.AbstractContextManager[Iterable[bytes]]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _without_bom(stream: Iterable[bytes], path: Path) -> Iterator[bytes]:
    lines = iter(stream)
    first = next(lines, b"")
    if first.startswith(_UTF16_BOMS):
        raise MannersError(f"{path} is written in UTF-16; save it as UTF-8")
    yield first.removeprefix(_UTF8_BOM)
    yield from lines


def _json_lines(lines: Iterable[bytes]) -> Iterator[Row | Reject]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        text = _decoded(line).rstrip("\r\n")
        if reason := _not_text(text):
            yield Reject(number, reason, text)
            continue
        try:
            row = _checked(number, json.loads(text, parse_constant=_no_number))
        except (ValueError, RecursionError) as error:
            row = Reject(number, _not_json(error), text)
        yield row


def _json(lines: Iterator[bytes], path: Path) -> Iterator[Row | Reject]:
    head = [next(lines)]
    while not head[-1].strip() and (line := next(lines, None)) is not None:
        head.append(line)
    # Many files that are called .json hold JSON lines. Only a list begins with a bracket.
    if not head[-1].lstrip().startswith(b"["):
        yield from _json_lines(chain(head, lines))
        return
    try:
        values = json.loads(_decoded(b"".join([*head, *lines])), parse_constant=_no_number)
        rows = [_checked(number, value) for number, value in enumerate(values, 1)]
    except (ValueError, RecursionError) as error:
        raise MannersError(f"{path} cannot be read: {_not_json(error)}") from None
    yield from rows


def _csv(lines: Iterator[bytes], path: Path) -> Iterator[Row | Reject]:
    before = csv.field_size_limit(_LARGEST_CELL)  # it holds for the whole process, so it is put back
    try:
        yield from _csv_rows(lines, path)
    finally:
        csv.field_size_limit(before)


def _csv_rows(lines: Iterator[bytes], path: Path) -> Iterator[Row | Reject]:
    first = _decoded(next(lines))
    # Spreadsheets of half the world write semicolons.
    delimiter = max(",;\t", key=first.count)
    try:
        header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter, strict=True), [])]
    except csv.Error as error:
        raise MannersError(f"the first line of {path} is no CSV header: {error}") from None
    if _not_text(first) or len(set(header)) != len(header):
        raise MannersError(f"the first line of {path} must name its columns, each once and in UTF-8")
    taken: list[str] = []

    def tapped() -> Iterator[str]:
        for line in lines:
            taken.append(_decoded(line))
            yield taken[-1]

    records = csv.reader(tapped(), delimiter=delimiter, strict=True)
    start = 2
    while True:
        taken.clear()
        try:
            cells = next(records, None)
            if cells is None:
                return
            if cells:
                yield _csv_row(start, header, cells, "".join(taken))
        except csv.Error as error:
            yield Reject(start, f"not CSV: {error}", "".join(taken))
        start += len(taken)


def _csv_row(line: int, header: list[str], cells: list[str], raw: str) -> Row | Reject:
    if reason := _not_text(raw):
        return Reject(line, reason, raw)
    if len(cells) != len(header):
        return Reject(line, f"the header names {len(header)} columns, this row has {len(cells)}", raw)
    return _checked(line, dict(zip(header, cells, strict=True)))


def _checked(line: int, value: Any) -> Row | Reject:
    if not isinstance(value, dict):
        return Reject(line, f"a row must be a JSON object, not {type(value).__name__}", value)
    if reason := unstorable(value):
        return Reject(line, reason, value)
    return Row(line, value, value)


def unstorable(value: Any) -> str:
    """Why no database could keep the text in `value` (nested lists and objects included); empty when all is well."""
    match value:
        case str():
            if "\0" in value:
                return "a text holds a NUL character"
            if _SURROGATE.search(value):
                return "a text is not UTF-8 or holds half of a surrogate pair"
        case dict():
            return next(filter(None, map(unstorable, (*value.keys(), *value.values()))), "")
        case list():
            return next(filter(None, map(unstorable, value)), "")
    return ""


def _decoded(line: bytes) -> str:
    """The text of `line`. Bytes that are not UTF-8 become surrogates, so that the rejects file can keep them."""
    return line.decode("utf-8", "surrogateescape")


def _not_text(text: str) -> str:
    return "not UTF-8" if _SURROGATE.search(text) else ""


def _not_json(error: Exception) -> str:
    return "not JSON: nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
