"""A file of rows that only grows: what is in it was done and is not done again, whatever ended the run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manners.errors import MannersError
from manners.runs import read_jsonl


class Ledger:
    """The JSONL file at `path`. Opening it cuts off a last row that a crash left unfinished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            _cut_to_whole_rows(path)

    def rows(self) -> list[dict[str, Any]]:
        return read_jsonl(self.path) if self.path.exists() else []

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows together, on the disk when this returns. Raises MannersError where the disk is full."""
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise MannersError(
                f"cannot write {self.path}: {error.strerror or error}; free some room, then resume"
            ) from error


def _cut_to_whole_rows(path: Path) -> None:
    with path.open("rb+") as stream:
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            stream.truncate(whole)
