"""64 people at once on either database, and a server that is killed under them: how long they wait, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crowd import Seen, crowd, missing_or_doubled
from postgresql import needs_postgresql, new_database

Record = Callable[[str, Any], None]
pytestmark = pytest.mark.long
# Seconds that one spends on a task of four answers. Nobody reads as fast: 80 words an answer are 80 seconds at the usual 240 words a
# minute, and somebody who only glances at each needs ten. So this is the load of several hundred people who work in earnest.
THINK = 4.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgresql)])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "crowd.db")
        return
    with new_database() as address:
        yield address


def test_sixty_four_people_wait_less_than_a_quarter_second(db: str, record_property: Record) -> None:
    seconds = 60
    seen = crowd(db, annotators=64, seconds=seconds, think=THINK, items=3000, least=400)
    wrong = missing_or_doubled(db, seen)
    name = f"64 people, {THINK:.0f} s a task, {_name(db)}"
    waits = (f"p{share * 100:.0f} {1000 * seen.percentile('submit', share):.0f} ms" for share in (0.5, 0.95, 0.99))
    record_property(f"{name}: submit", ", ".join(waits))
    record(record_property, name, seen, wrong)
    assert seen.strange == []
    assert wrong == []
    assert seen.percentile("submit", 0.95) < 0.25


def test_twenty_kills_under_load_lose_nothing(db: str, record_property: Record) -> None:
    seen = crowd(db, annotators=64, seconds=80, think=1.0, kills=20, items=3000, least=20)
    wrong = missing_or_doubled(db, seen)
    record(record_property, f"20 times kill -9 under 64 people, {_name(db)}", seen, wrong)
    assert seen.strange == []
    assert wrong == []
    assert len(seen.acknowledged) >= 21 * 20


def record(record_property: Record, name: str, seen: Seen, wrong: list[str]) -> None:
    record_property(
        f"{name}: acknowledged, missing or doubled, errors",
        f"{len(seen.acknowledged)}, {len(wrong)}, {len(seen.strange)}",
    )


def _name(db: str) -> str:
    return "PostgreSQL" if "://" in db else "SQLite"
