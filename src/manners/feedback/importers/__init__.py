"""Import: files and data sets of judgements into the store.

`read` turns a file into judgements and rejects. `import_file` puts them into a store, in one transaction that is kept
whole or not at all. Bad rows never stop an import and are never lost: each goes to a rejects file with its line and the
reason. Everything is recognised by its content, so importing a file twice adds nothing the second time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from manners.errors import MannersError
from manners.feedback.importers.files import FORMATS, read_rows, unstorable
from manners.feedback.importers.own import OWN
from manners.feedback.importers.preference import HH, PREFERENCE, PREFIX
from manners.feedback.importers.ratings import OASST, RATED_ANSWERS, RATINGS
from manners.feedback.importers.rows import ImportOptions, Layout, Reject, Row
from manners.feedback.store import ImportRecord, Store
from manners.records import Judgement, content_hash
from manners.runs import file_hash, writing

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "ImportOptions",
    "ImportSummary",
    "Reject",
    "RejectedRowsError",
    "import_dataset",
    "import_file",
    "read",
]

LAYOUTS: tuple[Layout, ...] = (OWN, HH, OASST, PREFERENCE, PREFIX, RATINGS, RATED_ANSWERS)
_LOOKED_AT = 20
_REPORT_EVERY = 500

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import did: `rows` read, `judgements` made of them (`new` or `known` to the store), and `rejected` rows.

    `rejects_path` is None when nothing was rejected. In the layout rated-answers several rows make one judgement.
    `record_id` is the id under which the store remembers the import.
    """

    layout: str
    rows: int
    judgements: int
    new: int
    known: int
    rejected: int
    rejects_path: Path | None
    record_id: str


class RejectedRowsError(MannersError):
    """A strict import met rows that are no judgements. The others are in the store; `summary` says how many."""

    def __init__(self, message: str, summary: ImportSummary) -> None:
        super().__init__(message)
        self.summary = summary


def read(
    path: str | Path, layout: str = "auto", options: ImportOptions = ImportOptions()
) -> Iterator[Judgement | Reject]:
    """The judgements of a file, and the rows that are none, as they come. `layout` is a name of LAYOUTS, or auto.

    Raises MannersError when the file cannot be read or holds no rows, when the layout is not known, or when auto finds
    no layout or more than one in the first rows.
    """
    chosen, rows = _recognised(read_rows(Path(path)), layout, options, str(path))
    return _through(rows, chosen, options)


def import_file(
    store: Store,
    path: str | Path,
    layout: str = "auto",
    options: ImportOptions = ImportOptions(),
    rejects_path: str | Path | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> ImportSummary:
    """Put the judgements of a file into the store, in one transaction.

    Rows that are no judgements are written to `rejects_path` (default: beside the file, with .rejects.jsonl added to
    its name). With `strict` the good rows are imported and the bad ones written all the same, and RejectedRowsError is
    raised at the end. `progress` is called with the number of rows read so far. Raises MannersError as `read` does, and
    when the rejects file or the store cannot be written; then nothing was imported.
    """
    path = Path(path)
    chosen, rows = _recognised(read_rows(path), layout, options, str(path))
    rejects = Path(rejects_path) if rejects_path is not None else path.with_name(f"{path.name}.rejects.jsonl")
    return _imported(store, rows, chosen, options, str(path), file_hash(path), rejects, strict, progress)


def import_dataset(
    store: Store,
    dataset_id: str,
    split: str,
    layout: str = "auto",
    options: ImportOptions = ImportOptions(),
    subset: str | None = None,
    revision: str | None = None,
    rejects_path: str | Path | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> ImportSummary:
    """Put a data set of the Hugging Face Hub into the store, just as `import_file` does with a file.

    `split` and `subset` are the data set's own words. The rejects go to the current folder by default. Code that comes
    with a data set is never run. Raises MannersError when the extra `hub` is not installed or the data set cannot be
    loaded.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise MannersError('data sets of the Hub need an extra: pip install "manners[hub]"') from None
    try:
        data = datasets.load_dataset(dataset_id, name=subset, split=split, revision=revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise MannersError(f"cannot load the data set {dataset_id}, split {split!r}: {reason}") from None
    chosen, rows = _recognised(_numbered(data), layout, options, dataset_id)
    default = f"{dataset_id.replace('/', '--')}.{split.replace('/', '-')}.rejects.jsonl"
    source = content_hash(dataset_id, subset, split, revision, getattr(data, "_fingerprint", ""))
    rejects = Path(rejects_path or default)
    return _imported(store, rows, chosen, options, dataset_id, source, rejects, strict, progress)


def _numbered(data: Iterable[Mapping[str, Any]]) -> Iterator[Row | Reject]:
    for number, value in enumerate(data, 1):
        reason = unstorable(value)
        yield Reject(number, reason, value) if reason else Row(number, value, value)


def _recognised(
    rows: Iterator[Row | Reject], layout: str, options: ImportOptions, place: str
) -> tuple[Layout, Iterator[Row | Reject]]:
    """The layout, told by its name or by the first rows, and all the rows under their right names."""
    named = map(lambda row: _renamed(row, options.rename), rows)
    first = list(islice(named, _LOOKED_AT))
    if not first:
        raise MannersError(f"{place} holds no rows; there is nothing to import")
    rest = chain(first, named)
    if layout != "auto":
        for known in LAYOUTS:
            if known.name == layout:
                return known, rest
        raise MannersError(f"there is no layout {layout!r}; known are {', '.join(known.name for known in LAYOUTS)}")
    values = [row.value for row in first if isinstance(row, Row)]
    fitting = [known for known in LAYOUTS if any(known.fits(value, options) for value in values)]
    if len(fitting) == 1:
        return fitting[0], rest
    menu = "; ".join(f"{known.name}: {known.about}" for known in LAYOUTS)
    if fitting:
        found = f"fits several layouts ({', '.join(known.name for known in fitting)})"
    elif values:
        found = f"fits no layout (its columns are {', '.join(map(str, values[0]))})"
    else:
        reasons = [row.reason for row in first if isinstance(row, Reject)]
        found = f"begins with {len(first)} rows that cannot be read (the first: {reasons[0]})"
    raise MannersError(f"{place} {found}; name one with --layout. Layouts are {menu}")


def _renamed(row: Row | Reject, names: Mapping[str, str]) -> Row | Reject:
    if not names or isinstance(row, Reject):
        return row
    value = {names.get(key, key): value for key, value in row.raw.items()}
    if len(value) < len(row.raw):
        return Reject(row.line, "renaming gives two columns the same name", row.raw)
    return Row(row.line, value, row.raw)


def _through(rows: Iterable[Row | Reject], layout: Layout, options: ImportOptions) -> Iterator[Judgement | Reject]:
    """All rows through the layout; what was rejected before it goes around it, in its place."""
    aside: list[Reject] = []

    def good() -> Iterator[Row]:
        for row in rows:
            if isinstance(row, Reject):
                aside.append(row)
            else:
                yield row

    for result in layout.judgements(good(), options):
        yield from aside
        aside.clear()
        yield result
    yield from aside


def _imported(
    store: Store,
    rows: Iterator[Row | Reject],
    layout: Layout,
    options: ImportOptions,
    place: str,
    source: str,
    rejects_path: Path,
    strict: bool,
    progress: Progress | None,
) -> ImportSummary:
    if rejects_path.is_dir() or (rejects_path.exists() and Path(place).exists() and rejects_path.samefile(place)):
        raise MannersError(f"the rejects cannot be written to {rejects_path}; name another file with --rejects")
    if not rejects_path.parent.is_dir():
        raise MannersError(f"there is no folder {rejects_path.parent}; name another file with --rejects")
    row_count = rejected = 0

    def counted() -> Iterator[Row | Reject]:
        nonlocal row_count
        for row in rows:
            row_count += 1
            if progress is not None and row_count % _REPORT_EVERY == 0:
                progress(row_count)
            yield row

    def judgements() -> Iterator[Judgement]:
        nonlocal rejected
        # The rejects file is complete before the store keeps anything: no row is in neither.
        with _rejects_file(rejects_path) as write:
            for result in _through(counted(), layout, options):
                if isinstance(result, Judgement):
                    yield result
                else:
                    rejected += 1
                    write(result)

    record_id = content_hash("import", source, layout.name, options.model_dump())
    with store.transaction():
        added = store.add(judgements())
        made = added.new + added.known
        counts = {"rows": row_count, "judgements": made, "new": added.new, "rejected": rejected}
        store.record_import(ImportRecord(record_id, place, layout.name, options.model_dump(), counts))
    if progress is not None:
        progress(row_count)
    written = rejects_path if rejected else None
    summary = ImportSummary(layout.name, row_count, made, added.new, added.known, rejected, written, record_id)
    if strict and rejected:
        message = f"{rejected} of {row_count} rows of {place} were rejected, see {written}; the others are in the store"
        raise RejectedRowsError(message, summary)
    return summary


@contextlib.contextmanager
def _rejects_file(path: Path) -> Iterator[Callable[[Reject], None]]:
    """A function that writes rejects to `path`. Without any reject there is no file."""
    with contextlib.ExitStack() as stack:
        stream: TextIO | None = None

        def write(reject: Reject) -> None:
            nonlocal stream
            if stream is None:
                beside = stack.enter_context(writing(path))
                # Bytes that were not UTF-8 are surrogates here, and \udcXX is how JSON writes a surrogate.
                stream = stack.enter_context(beside.open("w", encoding="utf-8", errors="backslashreplace"))
            stream.write(json.dumps(reject.to_json(), ensure_ascii=False, default=str) + "\n")

        yield write
