"""The file that only grows."""

from __future__ import annotations

from pathlib import Path

from manners.constitution.ledger import Ledger


def test_rows_are_there_for_the_next_one_who_opens_it(tmp_path: Path) -> None:
    Ledger(tmp_path / "rows.jsonl").add([{"a": 1}, {"a": "é\n"}])
    Ledger(tmp_path / "rows.jsonl").add([{"a": 3}])
    assert [row["a"] for row in Ledger(tmp_path / "rows.jsonl").rows()] == [1, "é\n", 3]


def test_a_row_that_was_cut_short_is_cut_off_so_that_the_next_one_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "\xc3')
    ledger = Ledger(path)
    assert ledger.rows() == [{"a": 1}]
    ledger.add([{"a": 2}])
    assert Ledger(path).rows() == [{"a": 1}, {"a": 2}]


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "none.jsonl").rows() == []
